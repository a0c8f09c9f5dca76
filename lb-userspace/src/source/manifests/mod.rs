//! A directory of manifests as source: the agent without Kubernetes.
//!
//! Every `*.yaml`, `*.yml` and `*.json` in the directory (not below it) is read: `v1 Service`, `discovery.k8s.io/v1
//! EndpointSlice`, `v1 Node` (the own one), `networking.k8s.io/v1 ServiceCIDR` and lists of them, several documents to a file. It is read strictly, as an API server would accept it;
//! what is broken is reported with file, line and reason, and what was said before stays in force. Not here: what
//! objects mean (`source::convert`). [`run`] is called by the agent's main loop; the rest serves it:
//! `watch` (when to look) → `directory` (what changed) → `decode` (objects) over `yaml`/`json` → `tree` →
//! `deserialise`, and `claims` (who speaks for an object).

mod claims;
mod decode;
mod deserialise;
mod directory;
mod header;
mod json;
mod limits;
mod tree;
mod watch;
mod yaml;

#[cfg(test)]
mod tests;

pub(crate) use tree::{Located, SyntaxError, Value};
pub use watch::run;

/// The first document of a YAML or JSON text that holds no manifests but is read as strictly, with lines.
///
/// # Errors
/// If it is no YAML, says a key twice, or exceeds a limit.
pub(crate) fn document(text: &str) -> Result<Located, SyntaxError> {
    let mut first = None;
    yaml::read(text, &mut |piece| {
        if let tree::Piece::Document(document) = piece {
            first.get_or_insert(document);
        }
        Ok(())
    })?;
    first.ok_or_else(|| SyntaxError {
        line: 1,
        reason: "it is empty".to_owned(),
    })
}
