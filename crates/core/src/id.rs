//! Identities: what things are called and how they are numbered.
//!
//! Names are what people write; numbers are what the log and the dense arrays use. A number is given
//! out once and never again, across restores too: the numbers that people can see carry the
//! incarnation in their upper bits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::Text;

/// The longest name of a tenant, cluster, pool or class: a DNS label (RFC 1123).
pub const MAX_NAME_LEN: usize = 63;
/// The longest name of an owner or a principal.
pub const MAX_OWNER_LEN: usize = 253;

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name(Text);

/// An organisation, or the identity that a certificate names: 1 to 253 of `a-z A-Z 0-9 - _ . @ : /`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(Text);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was written.
    #[error("must not be empty")]
    Empty,
    /// More characters than allowed.
    #[error("has {len} characters, at most {max} are allowed")]
    TooLong {
        /// How many there were.
        len: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("{found:?} at position {position} is not allowed: {allowed}")]
    Character {
        /// The first bad character.
        found: char,
        /// Its position, from 0.
        position: usize,
        /// What is allowed.
        allowed: &'static str,
    },
}

const LABEL_RULE: &str = "use a-z, 0-9 and '-', beginning and ending with a letter or digit";
const OWNER_RULE: &str = "use letters, digits and any of - _ . @ : /";

impl Name {
    /// Checks and keeps a name.
    ///
    /// # Errors
    /// A [`NameError`] that says which character or length was wrong.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_length(text, MAX_NAME_LEN)?;
        let last = text.len() - 1;
        for (position, found) in text.char_indices() {
            let inner = position != 0 && position != last;
            let legal = found.is_ascii_lowercase() || found.is_ascii_digit() || (inner && found == '-');
            if !legal {
                return Err(NameError::Character { found, position, allowed: LABEL_RULE });
            }
        }
        Ok(Self(Text::from(text)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Owner {
    /// Checks and keeps an owner.
    ///
    /// # Errors
    /// A [`NameError`] that says which character or length was wrong.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_length(text, MAX_OWNER_LEN)?;
        for (position, found) in text.char_indices() {
            if !(found.is_ascii_alphanumeric() || "-_.@:/".contains(found)) {
                return Err(NameError::Character { found, position, allowed: OWNER_RULE });
            }
        }
        Ok(Self(Text::from(text)))
    }

    /// The owner as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn check_length(text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        len if len > max => Err(NameError::TooLong { len, max }),
        _ => Ok(()),
    }
}

macro_rules! text_like {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}
text_like!(Name);
text_like!(Owner);

/// Counts restores from a backup; comes before the index wherever revisions, generations and epochs are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u16);

/// A tenant's uid, never used again: the incarnation in the upper 16 bits, a counter in the lower 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantId(pub u64);

impl TenantId {
    /// The `count`th tenant (below 2^48) of an incarnation.
    #[must_use]
    pub fn new(incarnation: Incarnation, count: u64) -> Self {
        debug_assert!(count < 1 << 48, "2^48 tenants are more than a log can hold");
        Self(u64::from(incarnation.0) << 48 | count)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a cluster calls one volume claim: a UUID, never used again. A claim of the same name with another one is another volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeUid(pub u128);

impl std::str::FromStr for VolumeUid {
    type Err = NotAUid;
    /// From a UUID's 32 hexadecimal digits, with or without hyphens.
    fn from_str(text: &str) -> Result<Self, NotAUid> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAUid);
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| NotAUid)
    }
}

impl fmt::Display for VolumeUid {
    /// As UUIDs are written: 8-4-4-4-12 digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = self.0;
        let group = |from: u32, bits: u32| uid >> from & ((1 << bits) - 1);
        write!(f, "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", group(96, 32), group(80, 16), group(64, 16), group(48, 16), group(0, 48))
    }
}

/// A text that should be a UUID is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a UUID: 32 hexadecimal digits")]
pub struct NotAUid;

/// A cluster's number: its row in every dense array; never used again within a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u32);

impl ClusterId {
    /// The row in dense arrays.
    #[must_use]
    pub fn row(self) -> usize {
        self.0 as usize
    }
}

/// A shard's number within its cluster, from 0; shards are opened as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// A position in the log that a read reflects, and that a watch resumes from. Ordered by incarnation, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// Counts restores.
    pub incarnation: Incarnation,
    /// The Raft log index.
    pub index: u64,
}

/// Fences everything older about one tenant: the revision of the entry that bound it.
pub type Epoch = Revision;

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation.0, self.index)
    }
}

/// A caller's id for one request: a UUIDv7, whose upper 48 bits are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u128);

impl RequestId {
    /// Milliseconds since 1970 at which the caller made the id.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}
