//! From located nodes to types: a serde deserializer whose errors carry the field's path and its place.
//!
//! It knows nothing of the documents; a type that wants a special message (a quantity, a name) says so in its own `Deserialize`.

use std::fmt;

use roadstead_class::nearest;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::tree::{Entry, Node, Place, Scalar, ScalarKind, Value};

/// The longest piece of a bad value that an error repeats.
const MAX_SHOWN_CHARS: usize = 40;

/// What is wrong, in which field, and where that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// Innermost last, once complete.
    path: Vec<String>,
    /// Where; set by the innermost node.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
}

impl ReadError {
    /// The field, as in `spec.volumes[0].size`.
    #[must_use]
    pub fn field(&self) -> String {
        let mut text = String::new();
        for segment in self.path.iter().rev() {
            if !text.is_empty() && !segment.starts_with('[') {
                text.push('.');
            }
            text.push_str(segment);
        }
        text
    }

    fn inside(mut self, segment: String, place: Place) -> Self {
        self.path.push(segment);
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), place: None, message: message.to_string() }
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(field, expected.iter().copied()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        Self::custom(format!("unknown field `{}`{hint} (known here: {})", shown(field), expected.join(", ")))
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("`{}` is not one of {}", shown(variant), expected.join(", ")))
    }
    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("`{field}` is missing"))
    }
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("found {found}, expected {expected}"))
    }
}

/// A value cut to a length that a terminal line can show.
#[must_use]
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// Reads a type from a node.
///
/// # Errors
/// The first thing that is wrong.
pub fn from_node<'de, T: de::Deserialize<'de>>(node: &'de Node) -> Result<T, ReadError> {
    T::deserialize(Reader { node }).map_err(|error| error_at(error, node))
}

fn error_at(mut error: ReadError, node: &Node) -> ReadError {
    error.place.get_or_insert(node.place);
    error
}

#[derive(Clone, Copy)]
struct Reader<'de> {
    node: &'de Node,
}

impl<'de> Reader<'de> {
    fn integer<T: TryFrom<i128>>(self, max: i128) -> Result<T, ReadError> {
        let number = match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Integer(number), .. }) => *number,
            other => return Err(de::Error::custom(format!("found {}, expected a whole number", described(other)))),
        };
        T::try_from(number).map_err(|_| {
            de::Error::custom(match number {
                ..0 => format!("{number} must not be negative"),
                _ => format!("{number} is too large, at most {max} is allowed"),
            })
        })
    }
}

/// A value in a few words.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar(Scalar { text, .. }) => format!("`{}`", shown(text)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            visitor.$visit(self.integer::<$type>(<$type>::MAX.into())?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar(Scalar { text, kind }) => match kind {
                ScalarKind::Text => visitor.visit_borrowed_str(text),
                ScalarKind::Bool(flag) => visitor.visit_bool(*flag),
                ScalarKind::Decimal(number) => visitor.visit_f64(*number),
                ScalarKind::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    _ => Err(de::Error::custom(format!("{number} is too large"))),
                },
            },
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
            other => Err(de::Error::custom(format!("found {}, expected text", described(other)))),
        }
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => visitor.visit_some(self),
        }
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_map(visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
            other => Err(de::Error::custom(format!("found {}, expected a map", described(other)))),
        }
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            other => Err(de::Error::custom(format!("found {}, expected a list", described(other)))),
        }
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Bool(flag), .. }) => visitor.visit_bool(*flag),
            other => Err(de::Error::custom(format!("found {}, expected true or false", described(other)))),
        }
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Scalar(scalar) => {
                let text: StrDeserializer<'_, ReadError> = scalar.text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }
            other => Err(de::Error::custom(format!("found {}, expected one of {}", described(other), variants.join(", ")))),
        }
    }
    integers! {
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
    }
    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Reader { node }).map(Some).map_err(|error| error.inside(format!("[{index}]"), node.place))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.current = Some(entry);
        let key: StrDeserializer<'_, ReadError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.inside(shown(&entry.key), entry.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let entry = self.current.take().expect("serde asks for a key before its value");
        let node = &entry.value;
        // A null has no place of its own; its key has.
        let place = if node.value == Value::Null { entry.place } else { node.place };
        seed.deserialize(Reader { node }).map_err(|error| error.inside(shown(&entry.key), place))
    }
}
