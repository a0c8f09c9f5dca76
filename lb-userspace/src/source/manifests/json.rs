//! JSON text becomes [`Piece`]s.
//!
//! `serde_json` reads the text; its raw values keep the place of each field, which gives the line. Elements of a
//! top-level `items` are handed over one by one. Several documents may follow one another in one file.
//! Not here: YAML (`yaml`), what the values mean (`decode`). Called by `decode`.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::limits::{Budget, MAX_DEPTH, MAX_OBJECT_JSON_BYTES};
use super::tree::{Located, Piece, SyntaxError, Value, duplicate_key};

/// Reads all documents of `text`, handing each finished piece to `take`. Stops at the first error.
pub(super) fn read(text: &str, take: &mut dyn FnMut(Piece) -> Result<(), SyntaxError>) -> Result<(), SyntaxError> {
    let mut reader = Reader {
        text,
        counted_to: 0,
        line: 1,
        budget: Budget::full(),
    };
    for document in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let document = document.map_err(|error| syntax_error(&error))?;
        reader.budget = Budget::full();
        let document = reader.document(document.get(), take)?;
        take(Piece::Document(document))?;
    }
    Ok(())
}

fn syntax_error(error: &serde_json::Error) -> SyntaxError {
    let reason = error.to_string();
    // The line is told apart from the reason; the column alone stays in it.
    let reason = reason.replacen(&format!(" at line {} column", error.line()), ", column", 1);
    SyntaxError {
        line: u32::try_from(error.line()).unwrap_or(u32::MAX),
        reason,
    }
}

struct Reader<'t> {
    text: &'t str,
    /// Lines are counted once, on the way through the text.
    counted_to: usize,
    line: u32,
    budget: Budget,
}

impl<'t> Reader<'t> {
    /// The line on which `raw`, a part of the text, begins.
    fn line_of(&mut self, raw: &str) -> u32 {
        let offset = (raw.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        if let Some(between) = self.text.as_bytes().get(self.counted_to..offset) {
            let newlines = between.iter().filter(|byte| **byte == b'\n').count();
            self.line = self.line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
            self.counted_to = offset;
        }
        self.line
    }

    fn document(
        &mut self,
        raw: &'t str,
        take: &mut dyn FnMut(Piece) -> Result<(), SyntaxError>,
    ) -> Result<Located, SyntaxError> {
        if !raw.starts_with('{') {
            return self.value(raw, 0);
        }
        let line = self.line_of(raw);
        let mut fields: Vec<(Box<str>, Located)> = Vec::new();
        self.each_field(raw, &mut |reader, key, raw| {
            let value = if &*key == "items" && raw.starts_with('[') {
                if fields.iter().any(|(other, _)| *other == key) {
                    return Err(SyntaxError {
                        line: reader.line_of(raw),
                        reason: written_twice(&key),
                    });
                }
                let line = reader.line_of(raw);
                reader.each_element(raw, &mut |reader, raw| {
                    reader.budget = Budget::full();
                    let item = reader.value(raw, 2)?;
                    take(Piece::Item(item))
                })?;
                reader.budget = Budget::full();
                Located {
                    line,
                    value: Value::Sequence(Vec::new()),
                }
            } else {
                reader.value(raw, 1)?
            };
            fields.push((key, value));
            Ok(())
        })?;
        mapping(line, fields)
    }

    fn value(&mut self, raw: &'t str, depth: usize) -> Result<Located, SyntaxError> {
        let line = self.line_of(raw);
        if depth > MAX_DEPTH {
            return Err(SyntaxError {
                line,
                reason: format!("values are nested more than {MAX_DEPTH} levels deep"),
            });
        }
        if raw.len() > MAX_OBJECT_JSON_BYTES {
            return Err(SyntaxError {
                line,
                reason: format!("an object is longer than {MAX_OBJECT_JSON_BYTES} bytes"),
            });
        }
        let text_bytes = if raw.starts_with(['{', '[']) { 0 } else { raw.len() };
        self.spend(text_bytes, line)?;
        let value = match raw.as_bytes().first() {
            Some(b'{') => {
                let mut fields = Vec::new();
                self.each_field(raw, &mut |reader, key, raw| {
                    fields.push((key, reader.value(raw, depth + 1)?));
                    Ok(())
                })?;
                return mapping(line, fields);
            }
            Some(b'[') => {
                let mut values = Vec::new();
                self.each_element(raw, &mut |reader, raw| {
                    values.push(reader.value(raw, depth + 1)?);
                    Ok(())
                })?;
                Value::Sequence(values)
            }
            Some(b'"') => Value::Text(serde_json::from_str(raw).map_err(|error| inside(&error, line))?),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Null,
            _ => match serde_json::from_str(raw) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Float(serde_json::from_str(raw).map_err(|error| inside(&error, line))?),
            },
        };
        Ok(Located { line, value })
    }

    fn spend(&mut self, text_bytes: usize, line: u32) -> Result<(), SyntaxError> {
        self.budget
            .spend(text_bytes)
            .map_err(|reason| SyntaxError { line, reason })
    }

    fn each_field(&mut self, raw: &'t str, visit: FieldVisit<'_, 't>) -> Result<(), SyntaxError> {
        let mut stopped = None;
        let read = serde_json::Deserializer::from_str(raw).deserialize_map(EachField(&mut |key: String, value| {
            let line = self.line;
            let step = self
                .spend(key.len(), line)
                .and_then(|()| visit(self, key.into(), value));
            step.map_err(|error| stopped = Some(error)).is_ok()
        }));
        self.finish(raw, stopped, read)
    }

    fn each_element(&mut self, raw: &'t str, visit: ElementVisit<'_, 't>) -> Result<(), SyntaxError> {
        let mut stopped = None;
        let read = serde_json::Deserializer::from_str(raw).deserialize_seq(EachElement(&mut |value| {
            visit(self, value).map_err(|error| stopped = Some(error)).is_ok()
        }));
        self.finish(raw, stopped, read)
    }

    fn finish(
        &mut self,
        raw: &'t str,
        stopped: Option<SyntaxError>,
        read: Result<(), serde_json::Error>,
    ) -> Result<(), SyntaxError> {
        match (stopped, read) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(inside(&error, self.line_of(raw))),
            (None, Ok(())) => Ok(()),
        }
    }
}

type FieldVisit<'v, 't> = &'v mut dyn FnMut(&mut Reader<'t>, Box<str>, &'t str) -> Result<(), SyntaxError>;
type ElementVisit<'v, 't> = &'v mut dyn FnMut(&mut Reader<'t>, &'t str) -> Result<(), SyntaxError>;

/// An error in a part whose outline was sound: an escape that is no character, a number out of range.
fn inside(error: &serde_json::Error, line: u32) -> SyntaxError {
    SyntaxError {
        line,
        ..syntax_error(error)
    }
}

fn written_twice(key: &str) -> String {
    format!("the field {} is written twice", key.escape_debug())
}

fn mapping(line: u32, fields: Vec<(Box<str>, Located)>) -> Result<Located, SyntaxError> {
    match duplicate_key(&fields) {
        Some((key, line)) => Err(SyntaxError {
            line,
            reason: written_twice(key),
        }),
        None => Ok(Located {
            line,
            value: Value::Mapping(fields),
        }),
    }
}

/// Shows each field of an object, key and raw value, to a function until that says `false`.
struct EachField<'v, 'de>(&'v mut dyn FnMut(String, &'de str) -> bool);

impl<'de> Visitor<'de> for EachField<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            if !(self.0)(key, value.get()) {
                return Err(de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// Shows each raw element of an array to a function until that says `false`.
struct EachElement<'v, 'de>(&'v mut dyn FnMut(&'de str) -> bool);

impl<'de> Visitor<'de> for EachElement<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<&RawValue>()? {
            if !(self.0)(value.get()) {
                return Err(de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
