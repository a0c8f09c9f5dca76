//! YAML text becomes [`Piece`]s.
//!
//! Streaming: elements of a top-level `items` are handed over one by one. Plain scalars are read as Kubernetes' tools read
//! them (YAML 1.1's `yes` and `on` are booleans); aliases and merge keys (`<<`) work, within the budget. The parser
//! bounds nesting; the budget bounds everything else, so neither depth nor aliases can exhaust memory or stack.
//! Not here: JSON (`json`), what the values mean (`decode`). Called by `decode`.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle};

use super::limits::{Budget, MAX_DEPTH};
use super::tree::{Located, Piece, SyntaxError, Value, duplicate_key};

/// Reads all documents of `text`, handing each finished piece to `take`. Stops at the first error.
pub(super) fn read(text: &str, take: &mut dyn FnMut(Piece) -> Result<(), SyntaxError>) -> Result<(), SyntaxError> {
    let options = granit_parser::options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
    let mut builder = Builder::new(take);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| SyntaxError {
            line: line_number(error.marker().line()),
            reason: error.info(),
        })?;
        let line = line_number(span.start.line());
        builder.event(event, line).map_err(|reason| reason.at(line))?;
    }
    Ok(())
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// An error that may not know its line yet.
enum Stop {
    Here(String),
    At(SyntaxError),
}

impl Stop {
    fn at(self, line: u32) -> SyntaxError {
        match self {
            Self::Here(reason) => SyntaxError { line, reason },
            Self::At(error) => error,
        }
    }
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Here(reason)
    }
}

/// A sequence or mapping that is still open.
struct Open {
    line: u32,
    /// 0 if it has no anchor.
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Located>),
    /// The fields so far, and the key that waits for its value.
    Mapping(Vec<(Box<str>, Located)>, Option<Box<str>>),
}

struct Builder<'t> {
    take: &'t mut dyn FnMut(Piece) -> Result<(), SyntaxError>,
    open: Vec<Open>,
    anchors: HashMap<usize, Located>,
    budget: Budget,
    anchor_budget: Budget,
}

impl<'t> Builder<'t> {
    fn new(take: &'t mut dyn FnMut(Piece) -> Result<(), SyntaxError>) -> Self {
        let (budget, anchor_budget) = (Budget::full(), Budget::full());
        Self {
            take,
            open: Vec::new(),
            anchors: HashMap::new(),
            budget,
            anchor_budget,
        }
    }

    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                (self.budget, self.anchor_budget) = (Budget::full(), Budget::full());
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.budget.spend(text.len())?;
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let value = if is_text || style != ScalarStyle::Plain {
                    Value::Text(text.into())
                } else {
                    plain(&text)
                };
                self.complete(Located { line, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.start(line, anchor, Content::Sequence(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.start(line, anchor, Content::Mapping(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor) else {
                    return Err("an alias cannot stand inside the value that it repeats"
                        .to_owned()
                        .into());
                };
                if self.open.len() + target.depth() > MAX_DEPTH {
                    return Err(format!("values are nested more than {MAX_DEPTH} levels deep").into());
                }
                target.visit_costs(&mut |bytes| self.budget.spend(bytes))?;
                let repeated = Located {
                    line,
                    value: target.value.clone(),
                };
                self.complete(repeated, 0)
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, line: u32, anchor: usize, content: Content) -> Result<(), Stop> {
        self.budget.spend(0)?;
        self.open.push(Open { line, anchor, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(values) => Value::Sequence(values),
            Content::Mapping(fields, _) => Value::Mapping(merge_fields(fields)?),
        };
        self.complete(Located { line: open.line, value }, open.anchor)
    }

    /// A value is complete: it goes where it belongs.
    fn complete(&mut self, node: Located, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            node.visit_costs(&mut |bytes| self.anchor_budget.spend(bytes))?;
            self.anchors.insert(anchor, node.clone());
        }
        if self.fills_items() {
            self.budget = Budget::full();
            return (self.take)(Piece::Item(node)).map_err(Stop::At);
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => (self.take)(Piece::Document(node)).map_err(Stop::At),
            Some(Content::Sequence(values)) => {
                values.push(node);
                Ok(())
            }
            Some(Content::Mapping(fields, waiting)) => match waiting.take() {
                Some(key) => {
                    fields.push((key, node));
                    Ok(())
                }
                None => {
                    let key = key_text(node)?;
                    // A second `items` would start a second budget; every other repetition is found at the end.
                    if &*key == "items" && fields.iter().any(|(other, _)| *other == key) {
                        return Err(Stop::Here("the field items is written twice".to_owned()));
                    }
                    *waiting = Some(key);
                    Ok(())
                }
            },
        }
    }

    /// Are we between the elements of the document's own `items`? (If they have an anchor they must be kept.)
    fn fills_items(&self) -> bool {
        match self.open.as_slice() {
            [root, list] if list.anchor == 0 && root.anchor == 0 => {
                let in_items = matches!(&root.content, Content::Mapping(_, Some(key)) if &**key == "items");
                in_items && matches!(list.content, Content::Sequence(_))
            }
            _ => false,
        }
    }
}

/// The text of a key. Numbers and booleans are keys by the way they are written in JSON.
fn key_text(node: Located) -> Result<Box<str>, Stop> {
    match node.value {
        Value::Text(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Bool(value) => Ok(value.to_string().into()),
        _ => Err(Stop::At(SyntaxError {
            line: node.line,
            reason: "a key must be text".to_owned(),
        })),
    }
}

/// Resolves the merge key `<<`: fields of the mappings that it names, where the mapping has none of its own.
fn merge_fields(mut fields: Vec<(Box<str>, Located)>) -> Result<Vec<(Box<str>, Located)>, Stop> {
    if let Some((key, line)) = duplicate_key(&fields) {
        let reason = format!("the field {} is written twice", key.escape_debug());
        return Err(Stop::At(SyntaxError { line, reason }));
    }
    let Some(place) = fields.iter().position(|(key, _)| &**key == "<<") else {
        return Ok(fields);
    };
    let (_, merged) = fields.remove(place);
    let sources = match merged.value {
        Value::Sequence(sources) => sources,
        _ => vec![merged],
    };
    let mut present: std::collections::HashSet<Box<str>> = fields.iter().map(|(key, _)| key.clone()).collect();
    for source in sources {
        let Value::Mapping(more) = source.value else {
            let reason = "the merge key << needs a mapping, or a list of them".to_owned();
            return Err(Stop::At(SyntaxError {
                line: source.line,
                reason,
            }));
        };
        fields.extend(more.into_iter().filter(|(key, _)| present.insert(key.clone())));
    }
    Ok(fields)
}

/// A plain scalar as Kubernetes' tools read it: YAML 1.2's core schema and YAML 1.1's words for booleans.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let number = match text.split_at_checked(2) {
        Some(("0x", digits)) => u32::from_str_radix(digits, 16).ok().map(i64::from),
        Some(("0o", digits)) => u32::from_str_radix(digits, 8).ok().map(i64::from),
        _ => text.parse().ok(),
    };
    if let Some(number) = number {
        return Value::Integer(number);
    }
    // `inf`, `nan` and the like are words here, not numbers.
    let looks_like_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && text.contains(|c: char| c.is_ascii_digit())
        && !text.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'));
    match text.parse() {
        Ok(number) if looks_like_number => Value::Float(number),
        _ => Value::Text(text.into()),
    }
}
