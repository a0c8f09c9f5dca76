//! Sluice's own format: the flags of `sluice run`, each in camel case.

use clap::{ArgAction, Command};

use super::{Understood, Verdict, flags};
use crate::source::manifests::{Located, Value};

pub(super) const API_VERSION: &str = "sluice.io/v1alpha1";
pub(super) const KIND: &str = "SluiceConfiguration";

/// The name of a flag as a field.
pub(super) fn field_of(flag: &str) -> String {
    let mut words = flag.split('-');
    let mut field = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        field.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        field.push_str(letters.as_str());
    }
    field
}

/// Reads a document of this kind.
pub(super) fn understand(tree: &Located, run: &Command) -> Understood {
    let mut understood = Understood {
        kind: KIND,
        ..Understood::default()
    };
    let Value::Mapping(fields) = &tree.value else {
        return understood;
    };
    for (name, value) in fields
        .iter()
        .filter(|(name, _)| !matches!(&**name, "apiVersion" | "kind"))
    {
        let found = flags(run).find(|(_, long)| field_of(long) == **name);
        let Some((arg, flag)) = found else {
            let known: Vec<String> = flags(run).map(|(_, long)| field_of(long)).collect();
            let says = format!("there is no such field; there are {}", known.join(", "));
            understood.say(name, value.line, Verdict::Wrong, says);
            continue;
        };
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let is_list = arg.get_value_delimiter().is_some() || flag == "nodeport-addresses";
        match scalar(&value.value) {
            Some(text) if is_switch && text != "true" && text != "false" => {
                understood.say(name, value.line, Verdict::Wrong, "true or false is expected");
            }
            Some(text) => understood.take(flag, text, name, value.line),
            None => match (&value.value, is_list) {
                (Value::Null, _) => {}
                (Value::Sequence(values), true) => {
                    let texts: Option<Vec<String>> = values.iter().map(|value| scalar(&value.value)).collect();
                    match texts {
                        // An empty list is the default.
                        Some(texts) if texts.is_empty() => {}
                        Some(texts) => understood.take(flag, texts.join(","), name, value.line),
                        None => understood.say(name, value.line, Verdict::Wrong, "a list of single values is expected"),
                    }
                }
                _ => understood.say(name, value.line, Verdict::Wrong, "a single value is expected"),
            },
        }
    }
    understood
}

pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Text(text) => Some(text.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
    }
}
