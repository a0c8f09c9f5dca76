//! Label and field selectors of a request, as an API server understands them.
//!
//! Labels: `a`, `!a`, `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`. Fields: `a.b=c`, `a.b==c`, `a.b!=c`.

use std::collections::BTreeMap;

use serde_json::Value;

/// What objects must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    /// Path, value, and whether it must be so.
    fields: Vec<(String, String, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Present(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selector {
    /// Reads both selectors.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        Ok(Self {
            labels: split(labels).into_iter().map(requirement).collect::<Result<_, _>>()?,
            fields: split(fields).into_iter().map(field).collect::<Result<_, _>>()?,
        })
    }

    /// Whether an object is selected.
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>, object: &Value) -> bool {
        let field_is = |path: &str, value: &str| {
            let found = object.pointer(&format!("/{}", path.replace('.', "/")));
            found.and_then(Value::as_str).unwrap_or_default() == value
        };
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self
                .fields
                .iter()
                .all(|(path, value, wanted)| field_is(path, value) == *wanted)
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_one_of = |key: &String, values: &[String]| labels.get(key).is_some_and(|value| values.contains(value));
        match self {
            Self::Present(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
            Self::In(key, values) => is_one_of(key, values),
            Self::NotIn(key, values) => !is_one_of(key, values),
        }
    }
}

/// At commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        match char {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let values = |text: &str| -> Result<Vec<String>, String> {
        let inner = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
        let inner = inner.ok_or_else(|| format!("\"{part}\": the values of a set are in parentheses"))?;
        Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    if let Some((key, set)) = part.split_once(" notin ") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), values(set)?));
    }
    if let Some((key, set)) = part.split_once(" in ") {
        return Ok(Requirement::In(key.trim().to_owned(), values(set)?));
    }
    if let Some((key, value)) = part.split_once("!=") {
        let (key, values) = one(key, value);
        return Ok(Requirement::NotIn(key, values));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (key, values) = one(key, value);
        return Ok(Requirement::In(key, values));
    }
    Ok(match part.strip_prefix('!') {
        Some(key) => Requirement::Absent(key.trim().to_owned()),
        None => Requirement::Present(part.to_owned()),
    })
}

fn field(part: &str) -> Result<(String, String, bool), String> {
    let (path, value, wanted) = if let Some((path, value)) = part.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (path, value, true)
    } else {
        return Err(format!("\"{part}\": a field selector is a path, = or !=, and a value"));
    };
    // What the servers support of the kinds here.
    match path {
        "metadata.name" | "metadata.namespace" | "spec.clusterIP" | "spec.type" => {
            Ok((path.to_owned(), value.to_owned(), wanted))
        }
        _ => Err(format!("field label not supported: {path}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::nothing_selects_all("", "", true)]
    #[case::present("app", "", true)]
    #[case::absent("!app", "", false)]
    #[case::another_is_absent("!service.kubernetes.io/headless,!x/y", "", true)]
    #[case::equal("app=web", "", true)]
    #[case::equal_twice("app==web,tier=front", "", true)]
    #[case::all_must_hold("app=web,tier=back", "", false)]
    #[case::unequal("app!=db", "", true)]
    #[case::unequal_holds_for_absent("z!=db", "", true)]
    #[case::of_a_set("app in (db, web)", "", true)]
    #[case::not_of_a_set("app notin (db,web),tier", "", false)]
    #[case::field("", "metadata.name=n1", true)]
    #[case::another_field("", "metadata.name=n2", false)]
    #[case::field_unequal("", "spec.clusterIP!=None", true)]
    #[case::field_that_is_not_there("", "spec.type=NodePort", false)]
    fn selected(#[case] labels: &str, #[case] fields: &str, #[case] expected: bool) {
        let object = json!({"metadata": {"name": "n1"}, "spec": {"clusterIP": "10.96.0.1"}});
        let own = BTreeMap::from([
            ("app".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "front".to_owned()),
        ]);
        let selector = Selector::parse(labels, fields).unwrap();
        assert_eq!(selector.matches(&own, &object), expected);
    }

    #[rstest]
    #[case::set_without_parentheses("a in b", "")]
    #[case::field_without_value("", "metadata.name")]
    #[case::field_of_no_index("", "spec.replicas=3")]
    fn refused(#[case] labels: &str, #[case] fields: &str) {
        assert!(Selector::parse(labels, fields).is_err());
    }
}
