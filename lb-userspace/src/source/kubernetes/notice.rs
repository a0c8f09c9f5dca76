//! What the agent has to say about a Service or about its node, and the Kubernetes Event that it becomes.
//!
//! Reasons, actions and objects are kube-proxy's where it writes an Event, too (behaviour reference §6.2). Pure. Not here: when
//! something is worth one (`crate::agent`), writing it (`events`).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::model::ServiceKey;

/// `reportingController` of all Events.
const CONTROLLER: &str = "sluice";
/// Limits of the API server.
const NOTE_MAX: usize = 1024;
const INSTANCE_MAX: usize = 128;
const NAME_MAX: usize = 253;

/// Why something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The agent has begun.
    Starting,
    /// `/healthz` cannot be served.
    FailedToStartProxierHealthcheck,
    /// `/metrics` cannot be served.
    FailedToStartMetricServer,
    /// The health port of a Service cannot be served.
    FailedToStartServiceHealthcheck,
    /// A port of a Service is not in the tables as it should be.
    FailedToProgramServicePort,
    /// What a Service asks for is not understood, or not to be had.
    NotServedAsWritten,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Starting,
        Self::FailedToStartProxierHealthcheck,
        Self::FailedToStartMetricServer,
        Self::FailedToStartServiceHealthcheck,
        Self::FailedToProgramServicePort,
        Self::NotServedAsWritten,
    ];

    /// The Event's `reason`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::FailedToStartProxierHealthcheck => "FailedToStartProxierHealthcheck",
            Self::FailedToStartMetricServer => "FailedToStartMetricServer",
            Self::FailedToStartServiceHealthcheck => "FailedToStartServiceHealthcheck",
            Self::FailedToProgramServicePort => "FailedToProgramServicePort",
            Self::NotServedAsWritten => "NotServedAsWritten",
        }
    }

    /// Its `action`: what was being done.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Starting | Self::FailedToStartProxierHealthcheck | Self::FailedToStartMetricServer => "StartSluice",
            Self::FailedToStartServiceHealthcheck => "Listen",
            Self::FailedToProgramServicePort => "Program",
            Self::NotServedAsWritten => "Read",
        }
    }

    /// Its `type`.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        if self == Self::Starting { "Normal" } else { "Warning" }
    }

    /// Every node has the same to say: whoever comes first says it for all.
    pub(super) fn is_the_clusters(self) -> bool {
        matches!(self, Self::FailedToProgramServicePort | Self::NotServedAsWritten)
    }
}

/// Something to be said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Why.
    pub reason: Reason,
    /// About which Service; about the own Node without one.
    pub service: Option<ServiceKey>,
    /// What a person should know.
    pub note: Box<str>,
}

impl Notice {
    /// About the own Node.
    pub fn of_node(reason: Reason, note: impl Into<Box<str>>) -> Self {
        Self {
            reason,
            service: None,
            note: note.into(),
        }
    }

    /// About a Service.
    pub fn of_service(reason: Reason, service: &ServiceKey, note: impl Into<Box<str>>) -> Self {
        Self {
            reason,
            service: Some(service.clone()),
            note: note.into(),
        }
    }

    /// The namespace of its Event: that of its object, and `default` for a Node.
    pub(super) fn namespace(&self) -> &str {
        self.service.as_ref().map_or("default", ServiceKey::namespace)
    }

    /// The Event, as it is written the first time. `uid` is the Service's.
    pub(super) fn event(&self, node_name: &str, uid: Option<String>, now: Timestamp) -> Event {
        let regarding = match &self.service {
            Some(service) => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(service.namespace().to_owned()),
                name: Some(service.name().to_owned()),
                uid,
                ..ObjectReference::default()
            },
            // As the kubelet and kube-proxy have it, and as `kubectl describe node` looks for it.
            None => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node_name.to_owned()),
                uid: Some(node_name.to_owned()),
                ..ObjectReference::default()
            },
        };
        let metadata = ObjectMeta {
            name: Some(self.event_name(&regarding, now)),
            namespace: Some(self.namespace().to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/name".to_owned(),
                CONTROLLER.to_owned(),
            )])),
            ..ObjectMeta::default()
        };
        Event {
            metadata,
            type_: Some(self.reason.type_name().to_owned()),
            reason: Some(self.reason.name().to_owned()),
            action: Some(self.reason.action().to_owned()),
            note: Some(cut(&self.note, NOTE_MAX).to_owned()),
            regarding: Some(regarding),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(cut(&format!("{CONTROLLER}-{node_name}"), INSTANCE_MAX).to_owned()),
            ..Event::default()
        }
    }

    /// A name of its own; what is the cluster's has the same on every node, so that there is one Event of it.
    fn event_name(&self, regarding: &ObjectReference, now: Timestamp) -> String {
        let number = if self.reason.is_the_clusters() {
            let mut hasher = DefaultHasher::new();
            (self, &regarding.uid).hash(&mut hasher);
            hasher.finish()
        } else {
            now.as_nanosecond() as u64
        };
        let suffix = format!(".{number:x}");
        let name = regarding.name.as_deref().unwrap_or_default();
        format!("{}{suffix}", cut(name, NAME_MAX - suffix.len()))
    }
}

/// At most so many octets of a text, whole characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).expect("a time")
    }

    #[test]
    fn a_service_is_named_with_its_uid_and_a_node_with_its_name() {
        let web = ServiceKey::new("shop", "web");
        let of_web = Notice::of_service(Reason::FailedToStartServiceHealthcheck, &web, "port 1 is taken");
        let event = serde_json::to_value(of_web.event("n1", Some("u-1".to_owned()), now())).expect("JSON");
        assert_eq!(
            event["regarding"],
            serde_json::json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u-1"})
        );
        assert_eq!(event["metadata"]["namespace"], "shop");
        let event = serde_json::to_value(Notice::of_node(Reason::Starting, "").event("n1", None, now())).expect("JSON");
        assert_eq!(
            event["regarding"],
            serde_json::json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"})
        );
        assert_eq!(event["metadata"]["namespace"], "default");
    }

    #[test]
    fn what_every_node_says_has_one_name_until_the_service_is_another() {
        let web = ServiceKey::new("shop", "web");
        let name = |reason, node: &str, uid: &str, second| {
            let now = Timestamp::from_second(second).expect("a time");
            let event = Notice::of_service(reason, &web, "no room").event(node, Some(uid.to_owned()), now);
            event.metadata.name.expect("a name")
        };
        let everywhere = Reason::FailedToProgramServicePort;
        assert_eq!(name(everywhere, "n1", "u-1", 1), name(everywhere, "n2", "u-1", 2));
        assert_ne!(name(everywhere, "n1", "u-1", 1), name(everywhere, "n1", "u-2", 1));
        let here = Reason::FailedToStartServiceHealthcheck;
        assert_ne!(name(here, "n1", "u-1", 1), name(here, "n1", "u-1", 2));
    }

    #[test]
    fn nothing_is_longer_than_a_server_takes() {
        let node = "n".repeat(253);
        let event = Notice::of_node(Reason::FailedToStartMetricServer, "é".repeat(2_000)).event(&node, None, now());
        assert_eq!(event.note.expect("a note").len(), 1024);
        assert_eq!(event.reporting_instance.expect("an instance").len(), 128);
        assert_eq!(event.metadata.name.expect("a name").len(), 253);
    }
}
