//! `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1, behaviour reference §6.5): what of it is taken over, field by field.
//!
//! Fields that a file does not have are not talked about, but where kube-proxy's default is not ours. Fields that are empty say
//! what their absence says.

use super::own::scalar;
use super::{Understood, Verdict};
use crate::source::manifests::{Located, Value};

/// Fields that mean nothing here, whatever they say, with the reason; a name that ends in a dot stands for all below it.
const MEANINGLESS: &[(&str, &str)] = &[
    ("featureGates", "kube-proxy's features are none of this program's"),
    ("clientConnection.acceptContentTypes", "objects are asked for as JSON"),
    ("clientConnection.contentType", "objects are asked for as JSON"),
    (
        "clientConnection.qps",
        "there are a handful of requests, all of them watches",
    ),
    (
        "clientConnection.burst",
        "there are a handful of requests, all of them watches",
    ),
    (
        "configSyncPeriod",
        "changes come by watches, and nothing is read again without a reason",
    ),
    ("logging.flushFrequency", "lines are written at once"),
    ("logging.options", "lines go to standard error"),
    ("logging.vmodule", "--log takes filters of this program's parts"),
    ("showHiddenMetricsForVersion", "no metric is hidden"),
    ("windowsRunAsService", "this is Linux"),
    ("winkernel", "this is Linux"),
    ("portRange", "kube-proxy does not use it on Linux either"),
    (
        "oomScoreAdj",
        "the datapath is in the kernel and outlives the agent; the kubelet sets it by the pod's priority",
    ),
    (
        "conntrack",
        "flows are in tables of this program's own, --flows-max; nf_conntrack is not needed and left alone",
    ),
    ("iptables.masqueradeBit", "there are no marks"),
    (
        "iptables.syncPeriod",
        "each change is written when it comes, and only what changed",
    ),
    (
        "iptables.minSyncPeriod",
        "each change is written when it comes, and only what changed",
    ),
    ("nftables.masqueradeBit", "there are no marks"),
    (
        "nftables.syncPeriod",
        "each change is written when it comes, and only what changed",
    ),
    (
        "nftables.minSyncPeriod",
        "each change is written when it comes, and only what changed",
    ),
    (
        "ipvs.syncPeriod",
        "each change is written when it comes, and only what changed",
    ),
    (
        "ipvs.minSyncPeriod",
        "each change is written when it comes, and only what changed",
    ),
    (
        "ipvs.excludeCIDRs",
        "there are no IPVS services, and nobody else's are touched",
    ),
    (
        "ipvs.tcpTimeout",
        "IPVS is not used; flows end by timeouts of their own",
    ),
    (
        "ipvs.tcpFinTimeout",
        "IPVS is not used; flows end by timeouts of their own",
    ),
    (
        "ipvs.udpTimeout",
        "IPVS is not used; flows end by timeouts of their own",
    ),
];

/// Fields that are flags of ours by another name or form.
const TAKEN_OVER: &[(&str, &str)] = &[
    ("bindAddressHardFail", "bind-address-hard-fail"),
    ("clientConnection.kubeconfig", "kubeconfig"),
    ("clusterCIDR", "cluster-cidr"),
    ("detectLocal.bridgeInterface", "pod-bridge-interface"),
    ("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix"),
    ("healthzBindAddress", "healthz-bind-address"),
    ("hostnameOverride", "node-name"),
    ("metricsBindAddress", "metrics-bind-address"),
];

/// Fields that have others below them.
const SECTIONS: [&str; 6] = [
    "clientConnection",
    "detectLocal",
    "iptables",
    "ipvs",
    "logging",
    "nftables",
];

/// Reads a document of this kind.
pub(super) fn understand(tree: &Located) -> Understood {
    let mut understood = Understood {
        kind: "KubeProxyConfiguration",
        ..Understood::default()
    };
    let mode = tree.get("mode").and_then(Located::text).unwrap_or_default().to_owned();
    let mut reader = Reader {
        mode: if mode.is_empty() { "iptables".to_owned() } else { mode },
        understood: &mut understood,
    };
    reader.section("", tree);
    if reader.mode == "nftables" && !has_entries(tree.get("nodePortAddresses")) {
        // Its default in this mode (behaviour reference §2.2).
        let line = tree.get("mode").map_or(1, |mode| mode.line);
        understood.take("nodeport-addresses", "primary".to_owned(), "nodePortAddresses", line);
    }
    understood
}

fn has_entries(list: Option<&Located>) -> bool {
    list.is_some_and(|list| matches!(&list.value, Value::Sequence(entries) if !entries.is_empty()))
}

struct Reader<'a> {
    mode: String,
    understood: &'a mut Understood,
}

impl Reader<'_> {
    /// Each field of a mapping, by its path.
    fn section(&mut self, prefix: &str, section: &Located) {
        let Value::Mapping(fields) = &section.value else {
            return;
        };
        for (name, value) in fields {
            let path = if prefix.is_empty() {
                name.to_string()
            } else {
                format!("{prefix}.{name}")
            };
            match &value.value {
                _ if prefix.is_empty() && matches!(&**name, "apiVersion" | "kind") => {}
                Value::Mapping(_) if SECTIONS.contains(&path.as_str()) => self.section(&path, value),
                _ => self.field(&path, value),
            }
        }
    }

    fn say(&mut self, path: &str, value: &Located, verdict: Verdict, says: impl Into<String>) {
        self.understood.say(path, value.line, verdict, says);
    }

    fn field(&mut self, path: &str, value: &Located) {
        if let Some((_, why)) = MEANINGLESS.iter().find(|(field, _)| *field == path) {
            return self.say(path, value, Verdict::Meaningless, *why);
        }
        if is_empty(&value.value) {
            return self.say(path, value, Verdict::Meaningless, "it is empty: the default");
        }
        if let Some((_, flag)) = TAKEN_OVER.iter().find(|(field, _)| *field == path) {
            return match scalar(&value.value) {
                Some(text) => self.understood.take(flag, text, path, value.line),
                None => self.say(path, value, Verdict::Wrong, "a single value is expected"),
            };
        }
        match path {
            "mode" => self.mode(value),
            "bindAddress" => self.bind_address(value),
            "detectLocalMode" => self.detect_local_mode(value),
            "nodePortAddresses" => self.node_port_addresses(value),
            "enableProfiling" => self.switch(path, value, Verdict::Different, "there is no profiling server"),
            "iptables.masqueradeAll" | "nftables.masqueradeAll" => self.masquerade_all(path, value),
            "iptables.localhostNodePorts" => self.localhost_node_ports(value),
            "ipvs.scheduler" => self.scheduler(value),
            "ipvs.strictARP" => self.switch(
                path,
                value,
                Verdict::TakenOver,
                "Service addresses are on no device, so no ARP request for them is answered in any case",
            ),
            "logging.format" => self.log_format(value),
            "logging.verbosity" => self.verbosity(value),
            _ => self.say(
                path,
                value,
                Verdict::Unknown,
                "no KubeProxyConfiguration up to Kubernetes 1.37 has it; it is passed over",
            ),
        }
    }

    /// A switch that matters only when it is on.
    fn switch(&mut self, path: &str, value: &Located, on: Verdict, says: &str) {
        match &value.value {
            Value::Bool(true) => self.say(path, value, on, says),
            Value::Bool(false) => self.say(path, value, Verdict::Meaningless, "it is off, as here"),
            _ => self.say(path, value, Verdict::Wrong, "true or false is expected"),
        }
    }

    fn mode(&mut self, value: &Located) {
        match value.value {
            Value::Text(_) if ["iptables", "ipvs", "nftables"].contains(&self.mode.as_str()) => {
                let says = format!(
                    "{} is replaced by programs in the kernel; what a Service means stays",
                    self.mode
                );
                self.say("mode", value, Verdict::Meaningless, says);
            }
            _ => self.say("mode", value, Verdict::Wrong, "iptables, ipvs or nftables is expected"),
        }
    }

    fn bind_address(&mut self, value: &Located) {
        match value.value {
            Value::Text(ref text) if matches!(&**text, "0.0.0.0" | "::") => {
                self.say(
                    "bindAddress",
                    value,
                    Verdict::Meaningless,
                    "the Node object's address is meant, as without it",
                );
            }
            Value::Text(ref text) => self
                .understood
                .take("bind-address", text.to_string(), "bindAddress", value.line),
            _ => self.say("bindAddress", value, Verdict::Wrong, "an address is expected"),
        }
    }

    fn detect_local_mode(&mut self, value: &Located) {
        let ours = match &value.value {
            Value::Text(text) => match &**text {
                "ClusterCIDR" => Some("cluster-cidr"),
                "NodeCIDR" => Some("node-cidr"),
                "BridgeInterface" => Some("bridge-interface"),
                "InterfaceNamePrefix" => Some("interface-name-prefix"),
                _ => None,
            },
            _ => None,
        };
        match ours {
            Some(mode) => self
                .understood
                .take("detect-local-mode", mode.to_owned(), "detectLocalMode", value.line),
            None => self.say(
                "detectLocalMode",
                value,
                Verdict::Wrong,
                "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix is expected",
            ),
        }
    }

    fn node_port_addresses(&mut self, value: &Located) {
        let Value::Sequence(entries) = &value.value else {
            return self.say("nodePortAddresses", value, Verdict::Wrong, "a list is expected");
        };
        match entries
            .iter()
            .map(|entry| scalar(&entry.value))
            .collect::<Option<Vec<_>>>()
        {
            Some(texts) => self
                .understood
                .take("nodeport-addresses", texts.join(","), "nodePortAddresses", value.line),
            None => self.say(
                "nodePortAddresses",
                value,
                Verdict::Wrong,
                "a list of address ranges is expected",
            ),
        }
    }

    /// Each mode has its own; IPVS mode has that of iptables.
    fn masquerade_all(&mut self, path: &str, value: &Located) {
        let counts = match self.mode.as_str() {
            "nftables" => "nftables.masqueradeAll",
            _ => "iptables.masqueradeAll",
        };
        match value.value {
            _ if path != counts => {
                let says = format!("mode is {}, which reads {counts}", self.mode);
                self.say(path, value, Verdict::Meaningless, says);
            }
            Value::Bool(true) => self
                .understood
                .take("masquerade-all", "true".to_owned(), path, value.line),
            _ => self.switch(path, value, Verdict::TakenOver, ""),
        }
    }

    fn localhost_node_ports(&mut self, value: &Located) {
        const PATH: &str = "iptables.localhostNodePorts";
        match value.value {
            _ if self.mode != "iptables" => self.say(PATH, value, Verdict::Meaningless, "only iptables mode reads it"),
            Value::Bool(true) => {
                self.say(PATH, value, Verdict::TakenOver, "NodePorts are served on 127.0.0.0/8, where nodePortAddresses allow it");
            }
            Value::Bool(false) => self.say(
                PATH,
                value,
                Verdict::Different,
                "NodePorts are served on 127.0.0.0/8, for this node's own processes, unless --nodeport-addresses names others",
            ),
            _ => self.say(PATH, value, Verdict::Wrong, "true or false is expected"),
        }
    }

    fn scheduler(&mut self, value: &Located) {
        const PATH: &str = "ipvs.scheduler";
        if self.mode != "ipvs" {
            return self.say(PATH, value, Verdict::Meaningless, "only ipvs mode reads it");
        }
        let says = match &value.value {
            Value::Text(text) if matches!(&**text, "mh" | "sh" | "dh") => {
                "endpoints are chosen by a hash of the connection; for consistent choice on all nodes give Services the annotation \
                 sluice.io/algorithm: maglev"
            }
            _ => {
                "endpoints are chosen by a hash of the connection, each with the same chance; weights: annotation sluice.io/weights"
            }
        };
        self.say(PATH, value, Verdict::Different, says);
    }

    fn log_format(&mut self, value: &Located) {
        match &value.value {
            Value::Text(text) if matches!(&**text, "text" | "json") => {
                self.understood
                    .take("log-format", text.to_string(), "logging.format", value.line);
            }
            _ => self.say("logging.format", value, Verdict::Wrong, "text or json is expected"),
        }
    }

    fn verbosity(&mut self, value: &Located) {
        let level = match value.value {
            Value::Integer(0..=3) => "info",
            Value::Integer(4..=5) => "debug",
            Value::Integer(6..) => "trace",
            _ => {
                return self.say(
                    "logging.verbosity",
                    value,
                    Verdict::Wrong,
                    "a number from 0 is expected",
                );
            }
        };
        self.understood
            .take("log", level.to_owned(), "logging.verbosity", value.line);
    }
}

/// Says what absence says.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::Sequence(values) => values.is_empty(),
        Value::Mapping(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => false,
    }
}
