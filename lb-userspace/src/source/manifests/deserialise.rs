//! A [`Located`] tree becomes a typed object of the API, with the field and line of what does not fit.
//!
//! Here: serde's `Deserializer` for the tree. Unknown fields are passed over, as the API does with objects that a newer
//! version wrote. Not here: what values mean (`source::convert`). Called by `decode`.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::tree::{Located, Value};

/// Why the tree is not such an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// The field, such as `spec.ports[0].port`.
    pub(super) field: String,
    /// Its line; 0 only while the error is on its way up.
    pub(super) line: u32,
    pub(super) reason: String,
}

impl Misfit {
    /// Names one more level above the place of the error.
    fn inside(mut self, step: &str, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        let joint = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field = format!("{step}{joint}{}", self.field);
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self {
            field: String::new(),
            line: 0,
            reason: reason.to_string(),
        }
    }
}

impl<'de> Deserializer<'de> for &'de Located {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(values) => visitor.visit_seq(Elements { index: 0, values }),
            Value::Mapping(fields) => visitor.visit_map(Fields {
                rest: fields,
                current: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                Err(de::Error::custom("text is expected here; put the value in quotes"))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum((&**text).into_deserializer()),
            Value::Mapping(fields) => visitor.visit_enum(MapAccessDeserializer::new(Fields {
                rest: fields,
                current: None,
            })),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier
    }
}

/// The elements of a sequence not yet visited, and the index of the first of them.
struct Elements<'de> {
    index: usize,
    values: &'de [Located],
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some((first, rest)) = self.values.split_first() else {
            return Ok(None);
        };
        let step = self.index;
        (self.values, self.index) = (rest, step + 1);
        seed.deserialize(first)
            .map(Some)
            .map_err(|misfit| misfit.inside(&format!("[{step}]"), first.line))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len())
    }
}

/// The fields of a mapping not yet visited, and the one whose key was visited and whose value was not.
struct Fields<'de> {
    rest: &'de [(Box<str>, Located)],
    current: Option<&'de (Box<str>, Located)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((first, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        (self.rest, self.current) = (rest, Some(first));
        seed.deserialize(BorrowedStrDeserializer::new(&first.0)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let Some((key, value)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(value).map_err(|misfit| misfit.inside(key, value.line))
    }
}
