//! Services and EndpointSlices as YAML text.
//!
//! The folder that an agent watches is in `manifest_folder`.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::lab::{Host, plan};

pub use super::manifest_folder::ManifestFolder;

/// A port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name; empty for the only port of a Service.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// What clients dial.
    pub port: u16,
    /// Where backends listen.
    pub target: u16,
    /// The port on every node, if any.
    pub node_port: Option<u16>,
}

/// An endpoint of a Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address; the family says which slice it is in.
    pub address: IpAddr,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its conditions: gets new connections…
    pub ready: bool,
    /// …could serve…
    pub serving: bool,
    /// …is going away.
    pub terminating: bool,
}

impl Endpoint {
    /// A healthy endpoint on the node that has this address, or a pod with it: on the only one, in a lab of one node.
    pub fn local(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self {
            address,
            node: Some(plan::node_of(address)),
            ready: true,
            serving: true,
            terminating: false,
        }
    }
}

/// A Service with its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its namespace (Kubernetes', not the kernel's).
    pub namespace: String,
    /// Its ClusterIPs, one of each family that it has.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its endpoints of all families.
    pub endpoints: Vec<Endpoint>,
    /// More fields of `spec`, such as `{"type": "NodePort", "internalTrafficPolicy": "Local"}`.
    pub spec: Value,
    /// The object's `status`, such as load balancer addresses.
    pub status: Value,
    /// Its annotations.
    pub annotations: Map<String, Value>,
}

impl Service {
    /// A Service without ports and endpoints.
    pub fn new(name: &str, cluster_ips: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            cluster_ips: cluster_ips.into_iter().collect(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            spec: json!({}),
            status: Value::Null,
            annotations: Map::new(),
        }
    }

    /// Adds a port.
    pub fn port(mut self, protocol: &'static str, port: u16, target: u16) -> Self {
        let name = if self.ports.is_empty() {
            String::new()
        } else {
            format!("{}-{port}", protocol.to_lowercase())
        };
        self.ports.push(Port {
            name,
            protocol,
            port,
            target,
            node_port: None,
        });
        // A Service with several ports names all of them.
        if let [first, _, ..] = self.ports.as_mut_slice()
            && first.name.is_empty()
        {
            first.name = format!("{}-{}", first.protocol.to_lowercase(), first.port);
        }
        self
    }

    /// Gives the port that was added last a port on every node, too.
    ///
    /// # Panics
    /// Without a port.
    pub fn node_port(mut self, number: u16) -> Self {
        self.ports.last_mut().expect("a port comes first").node_port = Some(number);
        self
    }

    /// Adds hosts of the lab, both addresses of each, as healthy endpoints.
    pub fn backends<'a>(mut self, hosts: impl IntoIterator<Item = &'a Host>) -> Self {
        for host in hosts {
            self.endpoints.extend(host.addresses().map(Endpoint::local));
        }
        self
    }

    /// Sets fields of `spec`.
    pub fn with_spec(mut self, spec: Value) -> Self {
        self.spec = spec;
        self
    }

    /// With an annotation.
    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }

    /// The Service and its slices, one for each family that it has, as YAML documents.
    pub fn to_yaml(&self) -> String {
        render(&self.objects())
    }

    /// The same as objects.
    pub fn objects(&self) -> Vec<Value> {
        let mut documents = vec![self.service()];
        for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
            if self.cluster_ips.iter().any(|address| address.is_ipv6() == is_v6) {
                documents.push(self.slice(family, is_v6));
            }
        }
        documents
    }

    fn service(&self) -> Value {
        let ports: Vec<_> = self
            .ports
            .iter()
            .map(|port| {
                let mut value = json!({"protocol": port.protocol, "port": port.port, "targetPort": port.target});
                if !port.name.is_empty() {
                    value["name"] = port.name.clone().into();
                }
                if let Some(number) = port.node_port {
                    value["nodePort"] = number.into();
                }
                value
            })
            .collect();
        let families: Vec<_> = self
            .cluster_ips
            .iter()
            .map(|address| if address.is_ipv6() { "IPv6" } else { "IPv4" })
            .collect();
        let mut spec = Map::new();
        spec.insert("type".to_owned(), "ClusterIP".into());
        if let Some(first) = self.cluster_ips.first() {
            spec.insert("clusterIP".to_owned(), first.to_string().into());
            spec.insert("clusterIPs".to_owned(), json!(self.cluster_ips));
            spec.insert("ipFamilies".to_owned(), json!(families));
        }
        spec.insert("ports".to_owned(), ports.into());
        spec.extend(self.spec.as_object().cloned().unwrap_or_default());
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        });
        if !self.annotations.is_empty() {
            service["metadata"]["annotations"] = self.annotations.clone().into();
        }
        if !self.status.is_null() {
            service["status"] = self.status.clone();
        }
        service
    }

    fn slice(&self, family: &str, is_v6: bool) -> Value {
        let ports: Vec<_> = self
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.target}))
            .collect();
        let of_family = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.address.is_ipv6() == is_v6);
        let endpoints: Vec<_> = of_family
            .map(|endpoint| {
                let (ready, serving, terminating) = (endpoint.ready, endpoint.serving, endpoint.terminating);
                let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
                let mut value = json!({"addresses": [endpoint.address], "conditions": conditions});
                if let Some(node) = &endpoint.node {
                    value["nodeName"] = node.clone().into();
                }
                value
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_lowercase()),
                "namespace": self.namespace,
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family,
            "ports": ports,
            "endpoints": endpoints,
        })
    }
}

/// The Node object of a node.
pub(crate) fn node(host: &Host) -> Value {
    let addresses = host
        .addresses()
        .map(|address| json!({"type": "InternalIP", "address": address}));
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": host.name}, "status": {"addresses": addresses}})
}

/// Several documents as one file.
pub(super) fn render(documents: &[Value]) -> String {
    let texts = documents
        .iter()
        .map(|document| serde_norway::to_string(document).expect("JSON values can always be written as YAML"));
    texts.collect::<Vec<_>>().join("---\n")
}
