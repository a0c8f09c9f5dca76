//! An ingress controller behind a load-balancer Service: a client outside asks nginx in a pod by the VIP, and nginx asks a backend by
//! its ClusterIP. By host name and by path, plain and with TLS, with HTTP/1.1 and HTTP/2; nginx's access log tells whom it saw.
//!
//! Nothing of nginx and curl is Sluice's. Frontends with small clients and servers are in `lab_two_nodes`.

mod browser;
mod nginx;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use rstest::rstest;
use serde_json::json;
use tests::lab::{AgentOptions, Host, Lab, LabBuilder, plan};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Pattern};

use browser::{Http, ask, get};
use nginx::{Nginx, Route};

/// What nginx leads where: Service `a` or `b`, by host name, and by path below one name.
const ROUTES: &[Route] = &[
    ("a.test", "/", 0),
    ("b.test", "/", 1),
    ("shop.test", "/a/", 0),
    ("shop.test", "/b/", 1),
];
/// The pods of the Services, some on each node. nginx is in backend-1, on the first.
const PODS: [&[u8]; 2] = [&[2, 3], &[4, 5, 6]];
/// So many requests miss one of three backends once in 10^8 times.
const TIMES: usize = 48;
const NODE_PORTS: u16 = 30_000;

/// By which address a client outside asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// nginx's own.
    Pod,
    /// The VIP of a Service with this `externalTrafficPolicy`.
    Vip(&'static str),
    /// The NodePort of the same, on the node that the VIP is led to.
    NodePort(&'static str),
}

use Door::{NodePort, Vip};

#[test]
fn by_host_name_and_by_path() {
    let scene = Scene::start(Lab::two_nodes());
    for door in [Vip("Local"), Vip("Cluster")] {
        scene.check_routes(door, 1);
    }
}

/// What of it needs no more than ClusterIPs.
#[test]
fn by_host_name_and_by_path_straight_to_the_pod() {
    let scene = Scene::start_with(Lab::two_nodes(), &[]);
    scene.check_routes(Door::Pod, 1);
    let from = scene.check_log(Door::Pod, 1);
    assert_eq!(from, scene.cluster.lab.client().addresses());
}

#[rstest]
#[case::routed(Lab::two_nodes())]
#[case::bridge(Lab::two_bridge_nodes())]
fn with_the_policy_local_nginx_logs_the_clients_own_address(#[case] builder: LabBuilder) {
    let scene = Scene::start(builder);
    let client = scene.cluster.lab.client().addresses();
    for door in [Vip("Local"), NodePort("Local")] {
        assert_eq!(scene.check_log(door, 1), client, "{door:?}");
    }
}

#[rstest]
#[case::routed(Lab::two_nodes())]
#[case::bridge(Lab::two_bridge_nodes())]
fn with_the_policy_cluster_nginx_logs_the_nodes_address(#[case] builder: LabBuilder) {
    let scene = Scene::start(builder);
    // nginx is on the first node. What comes by the second one takes a way more.
    for entry in [1, 2] {
        let node = scene.cluster.lab.nodes()[usize::from(entry) - 1].addresses();
        let bridge = [plan::bridge_v4(entry).into(), plan::bridge_v6(entry).into()];
        for door in [Vip("Cluster"), NodePort("Cluster")] {
            let logged = scene.check_log(door, entry);
            for (seen, family) in logged.into_iter().zip([0, 1]) {
                assert!(
                    [node[family], bridge[family]].contains(&seen),
                    "{door:?} by node {entry}: {seen}"
                );
            }
        }
    }
}

#[test]
fn with_the_policy_local_a_node_without_nginx_says_nothing() {
    let scene = Scene::start(Lab::two_nodes());
    scene
        .cluster
        .lab
        .lead_services_to(2)
        .expect("the router has other routes");
    for v6 in [false, true] {
        let door = scene.door(Vip("Local"), 2, Http::One, v6);
        let more = ["--connect-timeout", "0.3"];
        let outcome = get(
            scene.cluster.lab.client(),
            door,
            Http::One,
            ("a.test", "/"),
            &scene.nginx.certificate(),
            &more,
        );
        let said = outcome.expect_err("nginx is not there");
        assert!(said.contains("exit status: 28"), "curl should time out (28): {said}");
    }
}

/// Megabytes through all of it, from a pod's memory to the client's, over both versions.
#[rstest]
#[case::as_between_containers(Lab::two_nodes())]
#[case::over_a_wire(Lab::two_bridge_nodes().over_a_wire())]
#[case::behind_a_narrow_way(Lab::two_nodes().way_mtu(1400))]
fn every_byte_arrives(#[case] builder: LabBuilder) {
    let scene = Scene::start(builder);
    for door in [Vip("Local"), Vip("Cluster")] {
        scene.check_bytes(door, 1);
    }
}

#[test]
fn every_byte_arrives_straight_from_the_pod() {
    Scene::start_with(Lab::two_nodes().way_mtu(1400), &[]).check_bytes(Door::Pod, 1);
}

/// The labs and the servers are no ingress by themselves.
#[test]
fn without_an_agent_nginx_finds_no_backend() {
    let lab = Lab::two_nodes()
        .backends(3)
        .build()
        .expect("the lab can be built: this needs root");
    let nginx = start_nginx(&lab);
    let door = SocketAddr::new(lab.backend(1).v4.into(), 443);
    let more = ["--write-out", "%{http_code}", "--output", "/dev/null"];
    let outcome = get(
        lab.client(),
        door,
        Http::Two,
        ("a.test", "/whoami"),
        &nginx.certificate(),
        &more,
    );
    let status = String::from_utf8(outcome.expect("nginx answers")).expect("text");
    assert!(["502", "504"].contains(&&*status), "{status}");
}

/// Two nodes with backends, and nginx in front of them.
struct Scene {
    // Dropped in this order.
    nginx: Nginx,
    cluster: Cluster,
}

impl Scene {
    fn start(builder: LabBuilder) -> Self {
        let ranges = [plan::ALL_PODS_V4, plan::ALL_PODS_V6].join(",");
        Self::start_with(builder, &["--cluster-cidr", &ranges])
    }

    fn start_with(builder: LabBuilder, words: &[&str]) -> Self {
        let lab = builder
            .backends(3)
            .build()
            .expect("the lab can be built: this needs root");
        let apps = ["a", "b"].into_iter().zip([0, 1]).zip(PODS);
        let apps = apps.map(|((name, number), pods)| {
            let service = Service::new(name, app_addresses(number)).port("TCP", 80, 8080);
            service.backends(pods.iter().map(|pod| lab.backend(*pod)))
        });
        let services: Vec<_> = apps
            .chain(["Local", "Cluster"].map(|policy| ingress(&lab, policy)))
            .collect();
        let options = AgentOptions {
            extra: words.iter().map(|word| (*word).to_owned()).collect(),
            ..AgentOptions::default()
        };
        let cluster = Cluster::start(lab, &services, &options).expect("servers and agents start");
        let nginx = start_nginx(&cluster.lab);
        Self { nginx, cluster }
    }

    fn door(&self, door: Door, entry: u8, http: Http, v6: bool) -> SocketAddr {
        let lab = &self.cluster.lab;
        let family = usize::from(v6);
        match door {
            Door::Pod => SocketAddr::new(lab.backend(1).addresses()[family], http.port()),
            Vip(policy) => SocketAddr::new(ingress_addresses(policy)[1][family], http.port()),
            NodePort(policy) => {
                let node = &lab.nodes()[usize::from(entry) - 1];
                SocketAddr::new(node.addresses()[family], node_port(policy, http.port()))
            }
        }
    }

    /// Every name and path leads to its Service, whose pods all answer, and which see nginx asking.
    fn check_routes(&self, door: Door, entry: u8) {
        let lab = &self.cluster.lab;
        lab.lead_services_to(entry).expect("the router has other routes");
        for http in Http::ALL {
            for v6 in [false, true] {
                let address = self.door(door, entry, http, v6);
                for &(name, path, service) in ROUTES {
                    let pages = ask(
                        lab.client(),
                        address,
                        http,
                        (name, path),
                        TIMES,
                        &self.nginx.certificate(),
                    );
                    let what = format!("{door:?} {address}, {http:?}, {name}{path}");
                    let pages = pages.unwrap_or_else(|why| panic!("{what}: {why}"));
                    let answered: BTreeSet<_> = pages.iter().map(|page| page.backend.clone()).collect();
                    let expected = PODS[service].iter().map(|pod| plan::backend_name(*pod)).collect();
                    assert_eq!(answered, expected, "{what}");
                    let nginx = lab.backend(1).addresses();
                    assert!(
                        pages.iter().all(|page| nginx.contains(&page.client.ip())),
                        "{what}: {pages:?}"
                    );
                }
            }
        }
    }

    /// Asks by every version of HTTP, and says which client nginx has logged, by IPv4 and by IPv6.
    fn check_log(&self, door: Door, entry: u8) -> [IpAddr; 2] {
        let lab = &self.cluster.lab;
        lab.lead_services_to(entry).expect("the router has other routes");
        [false, true].map(|v6| {
            let mut seen = BTreeSet::new();
            for http in Http::ALL {
                let address = self.door(door, entry, http, v6);
                let before = self.nginx.logged();
                let pages = ask(
                    lab.client(),
                    address,
                    http,
                    ("a.test", "/"),
                    3,
                    &self.nginx.certificate(),
                );
                pages.unwrap_or_else(|why| panic!("{door:?} {address}, {http:?}: {why}"));
                let log = self.nginx.log(before, 3);
                assert_eq!(log.len(), 3, "{door:?} {address}, {http:?}: {log:?}");
                for line in &log {
                    let words: Vec<&str> = line.split(' ').collect();
                    assert_eq!(
                        (words[1], words[2], words[3]),
                        (http.logged().0, http.logged().1, "a.test"),
                        "{line}"
                    );
                    seen.insert(words[0].parse::<IpAddr>().expect("the client's address"));
                }
            }
            assert_eq!(seen.len(), 1, "{door:?}: several clients: {seen:?}");
            seen.into_iter().next().expect("one client")
        })
    }

    fn check_bytes(&self, door: Door, entry: u8) {
        const OCTETS: usize = 3_000_001;
        for http in Http::ALL {
            for v6 in [false, true] {
                let address = self.door(door, entry, http, v6);
                let page = ("shop.test", &*format!("/b/bytes/{OCTETS}"));
                let bytes = get(
                    self.cluster.lab.client(),
                    address,
                    http,
                    page,
                    &self.nginx.certificate(),
                    &[],
                );
                let bytes = bytes.unwrap_or_else(|why| panic!("{door:?} {address}, {http:?}: {why}"));
                assert_eq!(bytes.len(), OCTETS, "{door:?} {address}, {http:?}");
                assert_eq!(
                    Pattern::new(OCTETS as u64).first_wrong(0, &bytes),
                    None,
                    "{door:?} {address}, {http:?}"
                );
            }
        }
    }
}

fn start_nginx(lab: &Lab) -> Nginx {
    let pod: &Host = lab.backend(1);
    let upstreams = [0, 1].map(|number| {
        app_addresses(number)
            .map(|address| SocketAddr::new(address, 80))
            .to_vec()
    });
    Nginx::start(pod, &lab.directory().join("nginx"), ROUTES, &upstreams)
}

/// The Service in front of nginx: one of each policy.
fn ingress(lab: &Lab, policy: &str) -> Service {
    let [cluster_ips, vips] = ingress_addresses(policy);
    let mut service = Service::new(&format!("ingress-{}", policy.to_lowercase()), cluster_ips)
        .port("TCP", 80, 80)
        .node_port(node_port(policy, 80))
        .port("TCP", 443, 443)
        .node_port(node_port(policy, 443))
        .with_spec(json!({"type": "LoadBalancer", "externalTrafficPolicy": policy}))
        .backends([lab.backend(1)]);
    service.status = json!({"loadBalancer": {"ingress": vips.map(|ip| json!({"ip": ip}))}});
    service
}

/// ClusterIPs and VIPs.
fn ingress_addresses(policy: &str) -> [[IpAddr; 2]; 2] {
    let number = if policy == "Local" { 10 } else { 11 };
    [["10.96.0", "fd00:10:96:"], ["192.0.2", "2001:db8:192:"]].map(|[v4, v6]| addresses(v4, v6, number))
}

fn node_port(policy: &str, port: u16) -> u16 {
    NODE_PORTS + port + if policy == "Local" { 0 } else { 1 }
}

fn app_addresses(number: u16) -> [IpAddr; 2] {
    addresses("10.96.0", "fd00:10:96:", 31 + number)
}

fn addresses(v4: &str, v6: &str, number: u16) -> [IpAddr; 2] {
    [format!("{v4}.{number}"), format!("{v6}:{number}")].map(|text| text.parse().expect("an address"))
}
