//! What a file says, as a tree in which every value knows its line.
//!
//! YAML and JSON both become this, so that a mistake is reported with the line of the very field, in either. Not here:
//! how the text is read (`yaml`, `json`), how it becomes an object of the API (`deserialise`). Called by those three and
//! by `decode`.

use std::collections::HashSet;

/// A value and the line (counted from 1) on which it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Located {
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// What JSON can say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Box<str>),
    Sequence(Vec<Located>),
    Mapping(Vec<(Box<str>, Located)>),
}

/// A piece of a file, handed over as soon as it is complete so that a long list never is in memory as a whole.
#[derive(Debug)]
pub(super) enum Piece {
    /// An element of the field `items` at the top of a document. Whether the document is a list comes later.
    Item(Located),
    /// A document; if it had `items`, they came before and this has an empty sequence in their place.
    Document(Located),
}

/// Why a file cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) reason: String,
}

impl Located {
    /// The field of this name, if this is a mapping that has it.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(fields) => fields.iter().find(|(key, _)| **key == *name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, if this is text.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of a field such as `spec.ports[0].port`, or of the innermost value on the way to it that exists.
    pub(super) fn line_of(&self, field: &str) -> u32 {
        let mut at = self;
        for step in field.split(['.', '[']) {
            let next = match step.strip_suffix(']') {
                Some(index) => at.element(index),
                None => at.get(step),
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at.line
    }

    fn element(&self, index: &str) -> Option<&Self> {
        match &self.value {
            Value::Sequence(values) => values.get(index.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// How many levels of lists and mappings are in this value; readers keep it below the limit, so recursion is safe.
    pub(super) fn depth(&self) -> usize {
        match &self.value {
            Value::Sequence(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Value::Mapping(fields) => 1 + fields.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// What a YAML alias costs that repeats this value: the text bytes of each value in it.
    pub(super) fn visit_costs<E>(&self, visit: &mut impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        match &self.value {
            Value::Text(text) => visit(text.len()),
            Value::Sequence(values) => {
                visit(0)?;
                values.iter().try_for_each(|value| value.visit_costs(visit))
            }
            Value::Mapping(fields) => {
                visit(0)?;
                fields.iter().try_for_each(|(key, value)| {
                    visit(key.len())?;
                    value.visit_costs(visit)
                })
            }
            _ => visit(0),
        }
    }
}

/// The first key that occurs twice: such an object says two things at once.
pub(super) fn duplicate_key(fields: &[(Box<str>, Located)]) -> Option<(&str, u32)> {
    let mut seen = HashSet::with_capacity(fields.len());
    fields
        .iter()
        .find(|(key, _)| !seen.insert(&**key))
        .map(|(key, value)| (&**key, value.line))
}
