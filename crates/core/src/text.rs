//! Short texts without an allocation: names are many and mostly short, so up to 22 bytes are kept in place.
//!
//! Compares, hashes and is written exactly like the `str` it holds. It knows no rules of names; [`crate::id`] does.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes kept in place: with a length and a tag they fill three words.
const INLINE: usize = 22;

#[derive(Clone)]
enum Kept {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Arc<str>),
}

/// A text that is cheap to copy and compare.
#[derive(Clone)]
pub(crate) struct Text(Kept);

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Kept::Inline { .. } => std::str::from_utf8(self.as_bytes()).expect("only ever made from a str"),
            Kept::Shared(text) => text,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Kept::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Kept::Shared(text) => text.as_bytes(),
        }
    }
}

/// Numbers that are ordered as the bytes are.
fn words(bytes: &[u8; INLINE]) -> [u64; 3] {
    let mut filled = [0; 24];
    filled[..INLINE].copy_from_slice(bytes);
    let (words, _) = filled.as_chunks::<8>();
    [words[0], words[1], words[2]].map(u64::from_be_bytes)
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        if text.len() > INLINE {
            return Self(Kept::Shared(text.into()));
        }
        let mut bytes = [0; INLINE];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self(Kept::Inline { len: u8::try_from(text.len()).expect("at most INLINE"), bytes })
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kept::Inline { len, bytes }, Kept::Inline { len: other_len, bytes: other }) => len == other_len && bytes == other,
            (Kept::Inline { .. } | Kept::Shared(_), _) => self.as_bytes() == other.as_bytes(),
        }
    }
}
impl Eq for Text {}
impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // A shorter one is filled up with zeros, below which there is no byte: only what is equal so far is told apart by its length.
            (Kept::Inline { len, bytes }, Kept::Inline { len: other_len, bytes: other }) => {
                words(bytes).cmp(&words(other)).then_with(|| len.cmp(other_len))
            }
            (Kept::Inline { .. } | Kept::Shared(_), _) => self.as_bytes().cmp(other.as_bytes()),
        }
    }
}
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As `str` does it, without asking again whether it is one.
        state.write(self.as_bytes());
        state.write_u8(0xff);
    }
}
impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::from(text))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_orders_and_equals_like_str() {
        let texts = ["", "\0", "a", "a\0", "a\0b", "ab", "b", "ü", &"a".repeat(8), &"a".repeat(22), &"a".repeat(23), &"b".repeat(40)];
        for a in texts {
            for b in texts {
                assert_eq!(Text::from(a).cmp(&Text::from(b)), a.cmp(b), "{a:?} {b:?}");
                assert_eq!(Text::from(a) == Text::from(b), a == b);
            }
            assert_eq!(Text::from(a).as_str(), a);
            let hashed = |thing: &dyn Fn(&mut std::hash::DefaultHasher)| {
                let mut hasher = std::hash::DefaultHasher::new();
                thing(&mut hasher);
                hasher.finish()
            };
            assert_eq!(hashed(&|hasher| Text::from(a).hash(hasher)), hashed(&|hasher| a.hash(hasher)));
        }
        assert!(std::mem::size_of::<Text>() <= 24);
    }
}
