//! A node with an agent, and a small HTTP client.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lab::{Agent, AgentOptions, Host, Lab, plan};
use tests::traffic::manifests::{Endpoint, ManifestFolder, Service};

/// How long anything may take that takes milliseconds; what is tried again every 5 s takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(20);

/// The Service's health port.
pub(crate) const HEALTH_PORT: u16 = 32_001;
/// Where probes are answered.
pub(crate) const PROBES: SocketAddr = SocketAddr::new(IpAddr::V4(plan::NODE_V4), 10_256);
/// Where metrics are, for the node itself.
pub(crate) const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_249);

/// A node with an agent. Dropping it removes all of it.
pub(crate) struct Scene {
    /// Before the lab, whose folders it cleans up in.
    pub(crate) agent: Agent,
    pub(crate) manifests: ManifestFolder,
    pub(crate) lab: Lab,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Header lines, in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.headers.iter().any(|header| header == line)
    }
}

/// Asks from a host. Nothing if nobody listens there.
pub(crate) fn get(from: &Host, at: SocketAddr, path: &str) -> Option<Answer> {
    match ask(from, at, path) {
        Ok(answer) => Some(answer),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => panic!("{at}{path}: {error}"),
    }
}

fn ask(from: &Host, at: SocketAddr, path: &str) -> std::io::Result<Answer> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text}"));
        let mut lines = head.lines();
        let code = lines.next().and_then(|status| status.split(' ').nth(1)?.parse().ok());
        Ok(Answer {
            code: code.unwrap_or_else(|| panic!("no status: {text}")),
            headers: lines.map(str::to_lowercase).collect(),
            body: body.to_owned(),
        })
    })
}

/// A lab with a folder of manifests.
pub(crate) fn lab() -> (Lab, ManifestFolder) {
    let lab = Lab::one_node()
        .backends(1)
        .build()
        .expect("the lab can be built: this needs root");
    let manifests = ManifestFolder::of(&lab).expect("a folder");
    (lab, manifests)
}

impl Scene {
    /// An agent that is told this besides, and is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let (lab, manifests) = lab();
        Self::start_in(lab, manifests, arguments)
    }

    pub(crate) fn start_in(lab: Lab, manifests: ManifestFolder, arguments: &[&str]) -> Self {
        let options = AgentOptions {
            extra: arguments.iter().map(|word| (*word).to_owned()).collect(),
            ..AgentOptions::default()
        };
        let mut agent = Agent::start(&lab, &options).expect("the agent can be started");
        agent.wait_ready().expect("it gets ready");
        Self { agent, manifests, lab }
    }

    /// Asks until the answer is as wanted.
    pub(crate) fn wait_for(
        &self,
        from: &Host,
        at: SocketAddr,
        path: &str,
        wanted: impl Fn(&Option<Answer>) -> bool,
    ) -> Option<Answer> {
        let began = Instant::now();
        loop {
            // Whoever connects in the very moment in which a port is closed is reset by the kernel: nobody listens there any more.
            let answer = match ask(from, at, path) {
                Ok(answer) => Some(answer),
                Err(error) if [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset].contains(&error.kind()) => {
                    None
                }
                Err(error) => panic!("{at}{path}: {error}"),
            };
            if wanted(&answer) {
                return answer;
            }
            let log = || self.agent.log_tail();
            assert!(
                began.elapsed() < PATIENCE,
                "{at}{path} still says {answer:?}\n{}",
                log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Asks until the answer has this code.
    pub(crate) fn wait_for_code(&self, from: &Host, at: SocketAddr, path: &str, code: u16) -> Answer {
        let wanted = |answer: &Option<Answer>| answer.as_ref().is_some_and(|answer| answer.code == code);
        self.wait_for(from, at, path, wanted).expect("an answer")
    }

    /// Writes the own Node document.
    pub(crate) fn write_node(&self, spec: &Value) {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": plan::NODE_NAME},
            "spec": spec,
            "status": {"addresses": [{"type": "InternalIP", "address": plan::NODE_V4}]},
        });
        self.manifests
            .write("node.yaml", &node.to_string())
            .expect("the folder can be written to");
    }

    pub(crate) fn apply(&self, service: &Service) {
        self.manifests.apply(service).expect("the folder can be written to");
    }
}

/// An endpoint on this node, or on another one.
pub(crate) fn endpoint(address: Ipv4Addr, is_local: bool) -> Endpoint {
    let mut endpoint = Endpoint::local(address);
    if !is_local {
        endpoint.node = Some("elsewhere".to_owned());
    }
    endpoint
}

/// A load balancer's Service with two ports, `externalTrafficPolicy: Local` and a health port.
pub(crate) fn web(endpoints: Vec<Endpoint>) -> Service {
    let mut web = Service::new("web", [IpAddr::from([10, 96, 0, 80])])
        .port("TCP", 80, 7000)
        .port("TCP", 443, 7443)
        .with_spec(json!({
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": HEALTH_PORT,
        }));
    web.status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.80"}]}});
    web.endpoints = endpoints;
    web
}
