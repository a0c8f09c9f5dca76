//! Tests of the manifests source, by what they are about: text, objects, files that compete, the directory, the loop.

mod claims;
mod decode;
mod directory;
mod hostile;
mod text;
mod watch;

/// A Service on one line of YAML.
fn service(name: &str, cluster_ip: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}}}\n"
    )
}

/// An EndpointSlice of `service` on one line of YAML.
fn slice(name: &str, service: &str, address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [{{addresses: [{address}]}}], \
         ports: [{{port: 8080}}], metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}}}\n"
    )
}

/// A Node on one line of YAML.
fn node(name: &str, zone: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}\n"
    )
}

/// A ServiceCIDR on one line of YAML.
fn service_cidr(name: &str, ranges: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: {name}}}, spec: {{cidrs: [{ranges}]}}}}\n"
    )
}

/// Changes as short words: `+ns/name` for a Service applied, `-` for deleted, with `~` in front for slices.
fn words(changes: &[crate::model::Change]) -> Vec<String> {
    use crate::model::Change;
    let word = |change: &Change| match change {
        Change::ServiceApply(service) => format!("+{}", service.key),
        Change::ServiceDelete(key) => format!("-{key}"),
        Change::SliceApply(slice) => format!("~+{}", slice.key),
        Change::SliceDelete(key) => format!("~-{key}"),
        Change::Node(Some(facts)) => format!("node {}", facts.zone.as_deref().unwrap_or("without zone")),
        Change::Node(None) => "no node".to_owned(),
        Change::OtherNodes(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(|(name, at)| format!("{name}{at:?}")).collect();
            format!("others {}", nodes.join(","))
        }
        Change::ServiceCidrs(ranges) => {
            let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            format!("ranges {}", ranges.join(","))
        }
        Change::Synced(kind) => format!("synced {kind:?}"),
    };
    changes.iter().map(word).collect()
}
