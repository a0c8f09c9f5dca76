//! Worlds and flows as lines of text: what a failing case prints, and what tests are written in.
//!
//! ```text
//! node here zone a local 192.168.0.2 10.0.0.1 ips 192.168.0.2 detector cidr 10.0.0.0/8 node-ports primary 10.0.0.0/8
//! service web type LoadBalancer cluster 172.30.0.41 vips 1.2.3.4 etp ports http/TCP/80/30080
//! slice web-1 of web ports http/TCP/8080 endpoints 10.180.0.1,L 10.180.0.2,on=there,is=st,zones=a+b
//! TCP eth0 203.0.113.9:40000 > 1.2.3.4:80
//! ```
//!
//! `etp` and `itp` alone mean `Local`. An endpoint `is` any of `r`eady, `s`erving and `t`erminating, `rs` unless said;
//! `L` is on the node `here`, `R` on another. Everything is in the namespace `default`. A name of nothing is `-`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use lb_userspace::model::{
    AddressType, Cidr, Endpoint, EndpointSlice, Family, NodeView, OptOut, Protocol, Service, ServiceKey, ServicePort,
    ServiceType, SliceKey, SlicePort, TrafficPolicy,
};

use super::node::{Detector, Node, NodePortAddress};
use super::outcome::{NewFlow, Origin};
use super::world::World;

/// The node of every world in text, and of `L`.
pub const HERE: &str = "here";

/// A line, cut at its keywords.
struct Line<'a> {
    words: Vec<&'a str>,
    keywords: &'static [&'static str],
}

impl<'a> Line<'a> {
    fn cut(text: &'a str, keywords: &'static [&'static str]) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        Self { words, keywords }
    }

    /// The words behind a keyword up to the next; nothing if it is not there.
    fn after(&self, keyword: &str) -> Option<&[&'a str]> {
        let from = self.words.iter().position(|word| *word == keyword)? + 1;
        let rest = &self.words[from..];
        let len = rest
            .iter()
            .position(|word| self.keywords.contains(word))
            .unwrap_or(rest.len());
        Some(&rest[..len])
    }

    fn list<T>(&self, keyword: &str, read: impl Fn(&str) -> T) -> Vec<T> {
        self.after(keyword)
            .unwrap_or_default()
            .iter()
            .map(|word| read(word))
            .collect()
    }

    fn has(&self, keyword: &str) -> bool {
        self.after(keyword).is_some()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn range(text: &str) -> Cidr {
    Cidr::parse_leniently(text).unwrap_or_else(|| panic!("{text} is no range"))
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn protocol(text: &str) -> Protocol {
    Protocol::from_api(text).unwrap_or_else(|| panic!("{text} is no protocol"))
}

/// `-` stands for nothing.
fn name(text: &str) -> &str {
    if text == "-" { "" } else { text }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn node(text: &str) -> Node {
    const KEYWORDS: &[&str] = &[
        "zone",
        "local",
        "ips",
        "pods",
        "detector",
        "masquerade-all",
        "node-ports",
        "services",
    ];
    let line = Line::cut(text, KEYWORDS);
    let detector = match line.after("detector").unwrap_or_default() {
        [] => Detector::None,
        ["cidr", ranges @ ..] => Detector::ClusterCidr(ranges.iter().map(|text| range(text)).collect()),
        ["node-cidr"] => Detector::NodeCidr,
        ["devices", devices @ ..] => Detector::Devices(devices.iter().map(|name| (*name).to_owned()).collect()),
        other => panic!("no detector is {other:?}"),
    };
    Node {
        view: NodeView {
            zone: line.after("zone").map(|words| name(words[0]).into()),
            ..NodeView::named(line.words[0])
        },
        node_ips: line.list("ips", ip),
        local_addresses: line.list("local", ip),
        pod_cidrs: line.list("pods", range),
        detector,
        masquerade_all: line.has("masquerade-all"),
        node_port_addresses: line.list("node-ports", |word| match word {
            "all" => NodePortAddress::All,
            "primary" => NodePortAddress::Primary,
            "localhost" => NodePortAddress::Localhost,
            word => NodePortAddress::Cidr(range(word)),
        }),
        service_cidrs: line.list("services", range),
    }
}

fn opt_out(line: &Line<'_>) -> OptOut {
    OptOut {
        proxy_name: line.has("other-proxy"),
        headless: line.has("headless"),
    }
}

fn service(text: &str) -> Service {
    const KEYWORDS: &[&str] = &[
        "type",
        "cluster",
        "external",
        "vips",
        "ranges",
        "itp",
        "etp",
        "affinity",
        "ports",
        "other-proxy",
        "headless",
    ];
    let line = Line::cut(text, KEYWORDS);
    let policy = |keyword| {
        if line.has(keyword) {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        }
    };
    Service {
        key: ServiceKey::new("default", line.words[0]),
        service_type: match line.after("type").unwrap_or_default() {
            [] | ["ClusterIP"] => ServiceType::ClusterIp,
            ["NodePort"] => ServiceType::NodePort,
            ["LoadBalancer"] => ServiceType::LoadBalancer,
            ["ExternalName"] => ServiceType::ExternalName,
            other => panic!("no Service is a {other:?}"),
        },
        cluster_ips: line.list("cluster", ip).into(),
        ports: line
            .list("ports", |word| {
                let parts: Vec<&str> = word.split('/').collect();
                ServicePort {
                    name: name(parts[0]).into(),
                    protocol: protocol(parts[1]),
                    port: number(parts[2]),
                    node_port: parts.get(3).map(|text| number(text)),
                }
            })
            .into(),
        external_ips: line.list("external", ip).into(),
        load_balancer_vips: line.list("vips", ip).into(),
        source_ranges: line.list("ranges", range).into(),
        internal_policy: policy("itp"),
        external_policy: policy("etp"),
        affinity_timeout_s: line.after("affinity").map(|words| number(words[0])),
        health_check_node_port: None,
        resets_removed: None,
        no_sockets: false,
        algorithm: None,
        weights: None,
        forwarding: None,
        opt_out: opt_out(&line),
    }
}

fn endpoint(word: &str) -> Endpoint {
    let mut parts = word.split(',');
    let mut made = Endpoint {
        address: ip(parts.next().unwrap_or_default()),
        ready: true,
        serving: true,
        terminating: false,
        node_name: None,
        zone_hints: [].into(),
        node_hints: [].into(),
        pod: None,
    };
    let names = |text: &str| text.split('+').map(Into::into).collect();
    for part in parts {
        match part.split_once('=') {
            None if part == "L" => made.node_name = Some(HERE.into()),
            None if part == "R" => made.node_name = Some("elsewhere".into()),
            Some(("on", node)) => made.node_name = Some(node.into()),
            Some(("zones", zones)) => made.zone_hints = names(zones),
            Some(("nodes", nodes)) => made.node_hints = names(nodes),
            Some(("is", states)) => {
                [made.ready, made.serving, made.terminating] = ['r', 's', 't'].map(|state| states.contains(state));
            }
            _ => panic!("{part} is nothing that an endpoint has"),
        }
    }
    made
}

fn slice(text: &str) -> EndpointSlice {
    const KEYWORDS: &[&str] = &["of", "type", "ports", "endpoints", "other-proxy", "headless"];
    let line = Line::cut(text, KEYWORDS);
    let endpoints = line.list("endpoints", endpoint);
    let is_v6 = endpoints
        .first()
        .is_some_and(|endpoint| Family::of(endpoint.address) == Family::V6);
    EndpointSlice {
        key: SliceKey::new("default", line.words[0]),
        service: line.after("of").map(|words| ServiceKey::new("default", words[0])),
        address_type: match line.after("type").unwrap_or_default() {
            [] if is_v6 => AddressType::Ipv6,
            [] | ["IPv4"] => AddressType::Ipv4,
            ["IPv6"] => AddressType::Ipv6,
            ["FQDN"] => AddressType::Fqdn,
            other => panic!("no slice is of {other:?}"),
        },
        ports: line
            .list("ports", |word| {
                let parts: Vec<&str> = word.split('/').collect();
                SlicePort {
                    name: (parts[0] != "nil").then(|| name(parts[0]).into()),
                    protocol: protocol(parts[1]),
                    port: parts.get(2).map(|text| number(text)),
                }
            })
            .into(),
        endpoints: endpoints.into(),
        opt_out: opt_out(&line),
        triggered: None,
    }
}

impl World {
    /// Reads a world from lines.
    ///
    /// # Panics
    /// If a line is none: the test is wrong then.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut world = Self {
            node: node(HERE),
            services: Vec::new(),
            slices: Vec::new(),
        };
        for text in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match text.split_once(' ') {
                Some(("node", rest)) => world.node = node(rest),
                Some(("service", rest)) => world.services.push(service(rest)),
                Some(("slice", rest)) => world.slices.push(slice(rest)),
                _ => panic!("no world has {text}"),
            }
        }
        world
    }
}

impl NewFlow {
    /// Reads a flow from a line.
    ///
    /// # Panics
    /// If it is none: the test is wrong then.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [proto, origin, source, ">", dialled] = words[..] else {
            panic!("{text} is no flow");
        };
        let at =
            |text: &str| -> SocketAddr { text.parse().unwrap_or_else(|_| panic!("{text} is no address and port")) };
        Self {
            origin: if origin == "host" {
                Origin::Host
            } else {
                Origin::Device(origin.to_owned())
            },
            protocol: protocol(proto),
            source: at(source),
            dialled: at(dialled),
        }
    }
}

/// A keyword and its words, if there are any.
fn put<T: ToString>(f: &mut fmt::Formatter<'_>, keyword: &str, words: impl IntoIterator<Item = T>) -> fmt::Result {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() {
        Ok(())
    } else {
        write!(f, " {keyword} {}", words.join(" "))
    }
}

fn put_flag(f: &mut fmt::Formatter<'_>, keyword: &str, is_there: bool) -> fmt::Result {
    if is_there { write!(f, " {keyword}") } else { Ok(()) }
}

impl fmt::Display for NodePortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(range) => range.fmt(f),
            Self::Primary => f.write_str("primary"),
            Self::Localhost => f.write_str("localhost"),
            Self::All => f.write_str("all"),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.view.name)?;
        put(f, "zone", self.view.zone.iter().map(|zone| or_dash(zone)))?;
        put(f, "local", &self.local_addresses)?;
        put(f, "ips", &self.node_ips)?;
        put(f, "pods", &self.pod_cidrs)?;
        match &self.detector {
            Detector::None => {}
            Detector::ClusterCidr(ranges) => {
                f.write_str(" detector cidr")?;
                ranges.iter().try_for_each(|range| write!(f, " {range}"))?;
            }
            Detector::NodeCidr => f.write_str(" detector node-cidr")?,
            Detector::Devices(devices) => {
                f.write_str(" detector devices")?;
                devices.iter().try_for_each(|device| write!(f, " {device}"))?;
            }
        }
        put_flag(f, "masquerade-all", self.masquerade_all)?;
        put(f, "node-ports", &self.node_port_addresses)?;
        put(f, "services", &self.service_cidrs)
    }
}

fn put_service(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    write!(f, "service {}", service.key.name())?;
    let kind = match service.service_type {
        ServiceType::ClusterIp => None,
        ServiceType::NodePort => Some("NodePort"),
        ServiceType::LoadBalancer => Some("LoadBalancer"),
        ServiceType::ExternalName => Some("ExternalName"),
    };
    put(f, "type", kind)?;
    put(f, "cluster", &service.cluster_ips)?;
    put(f, "external", &service.external_ips)?;
    put(f, "vips", &service.load_balancer_vips)?;
    put(f, "ranges", &service.source_ranges)?;
    put_flag(f, "itp", service.internal_policy == TrafficPolicy::Local)?;
    put_flag(f, "etp", service.external_policy == TrafficPolicy::Local)?;
    put(f, "affinity", service.affinity_timeout_s)?;
    put_flag(f, "other-proxy", service.opt_out.proxy_name)?;
    put_flag(f, "headless", service.opt_out.headless)?;
    let ports = service.ports.iter().map(|port| {
        let node_port = port.node_port.map(|number| format!("/{number}")).unwrap_or_default();
        format!("{}/{}/{}{node_port}", or_dash(&port.name), port.protocol, port.port)
    });
    put(f, "ports", ports)
}

fn put_slice(f: &mut fmt::Formatter<'_>, slice: &EndpointSlice) -> fmt::Result {
    write!(f, "slice {}", slice.key.name())?;
    put(f, "of", slice.service.iter().map(ServiceKey::name))?;
    let kind = match slice.address_type {
        AddressType::Ipv4 => "IPv4",
        AddressType::Ipv6 => "IPv6",
        AddressType::Fqdn => "FQDN",
    };
    put(f, "type", [kind])?;
    put_flag(f, "other-proxy", slice.opt_out.proxy_name)?;
    put_flag(f, "headless", slice.opt_out.headless)?;
    let ports = slice.ports.iter().map(|port| {
        let number = port.port.map(|number| format!("/{number}")).unwrap_or_default();
        format!(
            "{}/{}{number}",
            port.name.as_deref().map_or("nil", or_dash),
            port.protocol
        )
    });
    put(f, "ports", ports)?;
    put(f, "endpoints", slice.endpoints.iter().map(endpoint_word))
}

fn endpoint_word(endpoint: &Endpoint) -> String {
    let mut word = endpoint.address.to_string();
    if let Some(node) = &endpoint.node_name {
        word.push_str(&format!(",on={node}"));
    }
    let states = [
        (endpoint.ready, 'r'),
        (endpoint.serving, 's'),
        (endpoint.terminating, 't'),
    ];
    let is: String = states.iter().filter(|(is, _)| *is).map(|(_, letter)| letter).collect();
    if is != "rs" {
        word.push_str(&format!(",is={is}"));
    }
    for (keyword, hints) in [("zones", &endpoint.zone_hints), ("nodes", &endpoint.node_hints)] {
        if !hints.is_empty() {
            word.push_str(&format!(",{keyword}={}", hints.join("+")));
        }
    }
    word
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.node)?;
        for service in &self.services {
            put_service(f, service)?;
            writeln!(f)?;
        }
        for slice in &self.slices {
            put_slice(f, slice)?;
            writeln!(f)?;
        }
        Ok(())
    }
}
