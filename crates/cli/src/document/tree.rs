//! YAML as a tree whose every node knows its line, so that an error can name file, line and field.
//!
//! Scalars keep the text that was written: `version: 3.10` stays `3.10`, and a quantity is never a float. It does not know what the
//! documents mean; [`super::read`] turns nodes into types.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// Documents in one file, so that a mistaken file is refused instead of filling the memory.
pub const MAX_DOCUMENTS: usize = 200_000;
/// YAML nodes in one file.
pub const MAX_NODES: usize = 20_000_000;
/// Bytes of text in one file: as many as a file may have.
pub const MAX_SCALAR_BYTES: usize = 256 << 20;
/// Nesting of one document; anything deeper is a mistake.
pub const MAX_DEPTH: usize = 64;

/// Where something was written; lines and columns count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// One value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Value,
}

/// A value of YAML's core schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// Anything that is neither a list nor a map.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order in which it was written.
    Map(Vec<Entry>),
}

/// A scalar: the text as written, and what YAML takes it for.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// As written, without quotes.
    pub text: String,
    /// What it is.
    pub kind: ScalarKind,
}

/// What YAML takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScalarKind {
    /// Text.
    Text,
    /// A whole number.
    Integer(i128),
    /// A number with a fraction or an exponent.
    Decimal(f64),
    /// `true` or `false`.
    Bool(bool),
}

/// One key of a map with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Where the key was written.
    pub place: Place,
    /// Value.
    pub value: Node,
}

impl Node {
    /// The value under `key`, if this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            Value::Null | Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// Where the value under a path as in `spec.volumes[0].size` was written, or the nearest that is there.
    #[must_use]
    pub fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        for segment in path.split('.') {
            let (key, index) = match segment.split_once('[') {
                Some((key, index)) => (key, index.trim_end_matches(']').parse::<usize>().ok()),
                None => (segment, None),
            };
            let Some(inner) = node.get(key) else { break };
            node = inner;
            if let (Some(index), Value::List(items)) = (index, &node.value) {
                let Some(item) = items.get(index) else { break };
                node = item;
            }
        }
        node.place
    }

    /// The text of a scalar.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// Reads every YAML document of `source`.
///
/// # Errors
/// Broken YAML, a key that is given twice, or a limit of this module, with its place.
pub fn parse(source: &str) -> Result<Vec<Node>, (Place, String)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 2,
            max_depth: MAX_DEPTH,
            max_total_scalar_bytes: MAX_SCALAR_BYTES,
            max_total_comment_bytes: MAX_SCALAR_BYTES,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    let documents: Vec<Spanned<Raw>> = serde_saphyr::from_multiple_with_options(source, options).map_err(|error| {
        let place = error.location().map(place).unwrap_or_default();
        (place, plain_message(&error))
    })?;
    Ok(documents.into_iter().map(|raw| raw.into_node(source)).collect())
}

/// The parser's message without its own "at line" suffix, which our errors carry in front.
fn plain_message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or("not YAML");
    let first = first.split(" at line ").next().unwrap_or(first);
    // The parser adds how its caller could allow it.
    first.split(", set ").next().unwrap_or(first).trim_end_matches(':').to_owned()
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

/// What the parser hands over, before numbers get their text back.
enum Raw {
    Null,
    Bool(bool),
    Integer(i128),
    Decimal(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

trait IntoNode {
    fn into_node(self, source: &str) -> Node;
}

impl IntoNode for Spanned<Raw> {
    fn into_node(self, source: &str) -> Node {
        let location = self.referenced;
        let written = || as_written(source, self.defined);
        let value = match self.value {
            Raw::Null => Value::Null,
            Raw::Bool(flag) => Value::Scalar(Scalar { text: flag.to_string(), kind: ScalarKind::Bool(flag) }),
            Raw::Integer(number) => {
                Value::Scalar(Scalar { text: written().unwrap_or_else(|| number.to_string()), kind: ScalarKind::Integer(number) })
            }
            Raw::Decimal(number) => {
                Value::Scalar(Scalar { text: written().unwrap_or_else(|| number.to_string()), kind: ScalarKind::Decimal(number) })
            }
            Raw::Text(text) => Value::Scalar(Scalar { text, kind: ScalarKind::Text }),
            Raw::List(items) => Value::List(items.into_iter().map(|item| item.into_node(source)).collect()),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry { place: place(key.referenced), key: key.value, value: value.into_node(source) })
                    .collect(),
            ),
        };
        Node { place: place(location), value }
    }
}

/// The text of a plain number in the source.
fn as_written(source: &str, location: Location) -> Option<String> {
    let span = location.span();
    let from = usize::try_from(span.byte_offset()?).ok()?;
    let len = usize::try_from(span.byte_len()?).ok()?;
    let text = source.get(from..from.checked_add(len)?)?.trim();
    let numeric = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    numeric.then(|| text.to_owned())
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, flag: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(flag))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(number.into()))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(number.into()))
    }
    fn visit_i128<E>(self, number: i128) -> Result<Raw, E> {
        Ok(Raw::Integer(number))
    }
    fn visit_u128<E: serde::de::Error>(self, number: u128) -> Result<Raw, E> {
        i128::try_from(number).map(Raw::Integer).map_err(|_| E::custom("the number is too large"))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Raw, E> {
        Ok(Raw::Decimal(number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_text_that_was_written() {
        let documents = parse("a: 3.10\nb: 007\nc: [1, 2.50]\nd: \"3.10\"\ne: 1e3\n").expect("yaml");
        let texts: Vec<_> = ["a", "b", "d", "e"].iter().map(|key| documents[0].get(key).and_then(Node::text).expect("scalar")).collect();
        assert_eq!(texts, ["3.10", "007", "3.10", "1e3"]);
        let Some(Node { value: Value::List(items), .. }) = documents[0].get("c") else { panic!("a list") };
        assert_eq!(items[1].text(), Some("2.50"));
    }

    #[test]
    fn places_count_over_the_whole_file() {
        let documents = parse("# first\na: 1\n---\nb:\n  c: 2\n").expect("yaml");
        assert_eq!(documents[1].place_of("b.c").line, 5);
        assert_eq!(documents[1].place_of("b.absent"), documents[1].place_of("b"));
    }

    #[test]
    fn a_key_given_twice_is_refused_with_its_line() {
        let (place, message) = parse("a: 1\nb: 2\na: 3\n").expect_err("twice");
        assert_eq!(place.line, 3, "{message}");
    }
}
