//! What an object is and what it is called: `apiVersion`, `kind`, `metadata.namespace`, `metadata.name`.
//!
//! Here: which kinds are ours, and which names are let in. Not here: everything else in an object (`deserialise`,
//! `source::convert`). Called by `decode`.

use super::deserialise::Misfit;
use super::tree::{Located, Value};

/// What a document or an element of a list is, by `apiVersion` and `kind`.
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
    /// A list; its elements may leave out their kind if the list's name says it.
    List {
        of: Option<(&'static str, &'static str)>,
    },
    Ignored(String),
    Broken(&'static str),
}

/// The text of a field at the top.
pub(super) fn text_of<'t>(tree: &'t Located, field: &str) -> Option<&'t str> {
    tree.get(field).and_then(Located::text)
}

/// Tells from `apiVersion` and `kind` what an object is.
pub(super) fn kind(api_version: Option<&str>, kind: Option<&str>) -> Kind {
    const SLICE_VERSION: &str = "discovery.k8s.io/v1";
    const CIDR_VERSION: &str = "networking.k8s.io/v1";
    match (api_version, kind) {
        (Some("v1"), Some("Service")) => Kind::Service,
        (Some(SLICE_VERSION), Some("EndpointSlice")) => Kind::EndpointSlice,
        (Some("v1"), Some("Node")) => Kind::Node,
        (Some(CIDR_VERSION), Some("ServiceCIDR")) => Kind::ServiceCidr,
        (Some("v1"), Some("List")) => Kind::List { of: None },
        (Some("v1"), Some("ServiceList")) => Kind::List {
            of: Some(("v1", "Service")),
        },
        (Some(SLICE_VERSION), Some("EndpointSliceList")) => Kind::List {
            of: Some((SLICE_VERSION, "EndpointSlice")),
        },
        (Some("v1"), Some("NodeList")) => Kind::List {
            of: Some(("v1", "Node")),
        },
        (Some(CIDR_VERSION), Some("ServiceCIDRList")) => Kind::List {
            of: Some((CIDR_VERSION, "ServiceCIDR")),
        },
        (_, None) => Kind::Broken("kind is missing (such as Service or EndpointSlice)"),
        (None, Some(_)) => {
            Kind::Broken("apiVersion is missing (v1 for a Service, discovery.k8s.io/v1 for an EndpointSlice)")
        }
        (_, Some("Service")) => Kind::Broken("a Service has apiVersion v1"),
        (_, Some("EndpointSlice")) => Kind::Broken("an EndpointSlice has apiVersion discovery.k8s.io/v1"),
        (_, Some("Node")) => Kind::Broken("a Node has apiVersion v1"),
        (_, Some("ServiceCIDR")) => Kind::Broken("a ServiceCIDR has apiVersion networking.k8s.io/v1"),
        (Some(version), Some(kind)) => {
            let full: String = format!("{version} {kind}")
                .chars()
                .take(100)
                .flat_map(char::escape_debug)
                .collect();
            Kind::Ignored(full)
        }
    }
}

/// Namespace and name; the namespace of an object that lives in none means nothing. They become part of keys, logs and metrics, so only the API's alphabet is let in.
pub(super) fn names(tree: &Located) -> Result<(&str, &str), Misfit> {
    let metadata = tree.get("metadata");
    let find = |name: &str| {
        metadata
            .and_then(|metadata| metadata.get(name))
            .filter(|value| value.value != Value::Null)
    };
    let namespace = match find("namespace") {
        None => "default",
        Some(value) if value.text() == Some("") => "default",
        Some(value) => valid_name(tree, "metadata.namespace", value)?,
    };
    match find("name") {
        None => Err(misfit(tree, "metadata.name", "it is missing")),
        Some(value) => Ok((namespace, valid_name(tree, "metadata.name", value)?)),
    }
}

fn valid_name<'t>(tree: &Located, field: &str, value: &'t Located) -> Result<&'t str, Misfit> {
    let text = value
        .text()
        .ok_or_else(|| misfit(tree, field, "it must be text; put it in quotes"))?;
    let alphabet = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(alphabet) {
        return Err(misfit(
            tree,
            field,
            "a name has 1 to 253 lower-case letters, digits, '-' and '.'",
        ));
    }
    Ok(text)
}

fn misfit(tree: &Located, field: &str, reason: &str) -> Misfit {
    Misfit {
        field: field.to_owned(),
        line: tree.line_of(field),
        reason: reason.to_owned(),
    }
}
