//! A node that serves one Service, the connection that must survive everything, and commands that are expected to fail.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_userspace::kernel::Pins;
use serde_json::Value;
use tests::lab::{Agent, AgentOptions, Lab};
use tests::traffic::manifests::{ManifestFolder, Service};
use tests::traffic::{Serve, Server};

/// How long anything may take that takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// Where clients dial.
const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 80)), 80);

/// A node at work. Dropping it removes all of it.
pub(crate) struct Scene {
    /// Before the lab, whose folders it cleans up in.
    pub(crate) agent: Agent,
    pub(crate) manifests: ManifestFolder,
    open: RefCell<BufReader<TcpStream>>,
    _servers: Vec<Server>,
    pub(crate) lab: Lab,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

/// The Service that must be served all the time.
pub(crate) fn web(lab: &Lab) -> Service {
    Service::new("web", [WEB.ip()])
        .port("TCP", WEB.port(), 7000)
        .backends(lab.backends())
}

impl Scene {
    /// A node that serves `web`, and a connection through it.
    pub(crate) fn start() -> Self {
        let lab = Lab::one_node()
            .backends(1)
            .build()
            .expect("the lab can be built: this needs root");
        let servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
        let manifests = ManifestFolder::of(&lab).expect("a folder");
        manifests.apply(&web(&lab)).expect("the folder can be written to");
        let mut agent = Agent::start(&lab, &AgentOptions::default()).expect("the agent can be started");
        agent.wait_ready().expect("it gets ready");
        let open = RefCell::new(dial(&lab));
        Self {
            agent,
            manifests,
            open,
            _servers: servers,
            lab,
        }
    }

    /// The open connection goes on, and a new one is answered.
    pub(crate) fn check_served(&self) {
        let mut open = self.open.borrow_mut();
        open.get_mut()
            .write_all(b"still there?")
            .expect("the open connection takes bytes");
        let mut echo = [0; 12];
        open.read_exact(&mut echo).expect("the open connection answers");
        assert_eq!(&echo, b"still there?");
        self.check_new();
    }

    /// A new connection is answered.
    pub(crate) fn check_new(&self) {
        dial(&self.lab);
    }

    /// Waits until what the agent says of itself is as wanted.
    pub(crate) fn wait_for(&self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        loop {
            let state = self.agent.state();
            if state.as_ref().is_ok_and(&wanted) {
                return;
            }
            let log = || self.agent.log_tail();
            assert!(
                began.elapsed() < within,
                "no {what} within {within:?}: {state:?}\n{}",
                log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Waits until a complaint about a file or an object has all these parts.
    pub(crate) fn wait_for_complaint(&self, parts: &[&str]) {
        self.wait_for(&format!("complaint with {parts:?}"), PATIENCE, |state| {
            texts(&state["source_problems"])
                .iter()
                .any(|text| parts.iter().all(|part| text.contains(part)))
        });
    }

    /// Waits until nothing is wrong any more.
    pub(crate) fn wait_for_peace(&self) {
        self.wait_for("peace", PATIENCE, |state| {
            texts(&state["source_problems"]).is_empty() && texts(&state["port_problems"]).is_empty()
        });
    }

    /// Waits until the Service has these backends, or none and this word instead.
    pub(crate) fn wait_for_frontend(&self, backends: &str) {
        let began = Instant::now();
        loop {
            let said = self.sluice(&["get", "frontends", "--service", "default/web"]).said;
            if said.contains(backends) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no {backends} in {said}");
            std::thread::sleep(POLL);
        }
    }

    /// `sluice status`, whatever its exit code.
    pub(crate) fn status(&self) -> String {
        self.sluice(&["status"]).said
    }

    /// Runs a command of the binary beside the agent, to its end.
    pub(crate) fn sluice(&self, arguments: &[&str]) -> Ended {
        let mut command = self.lab.node().command(Agent::binary().expect("the binary was built"));
        command.args(arguments).args(self.agent.places());
        self.end(command)
    }

    /// Where the tables are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        Pins::new(self.lab.pin_directory()).maps()
    }

    /// All pins of tables and links, each with its inode: one that was made anew has another.
    pub(crate) fn pins(&self) -> BTreeMap<PathBuf, u64> {
        let pins = Pins::new(self.lab.pin_directory());
        let folders = [pins.maps(), pins.links()];
        let entries = folders
            .iter()
            .flat_map(|folder| fs::read_dir(folder).expect("the folder is there"));
        entries
            .map(|entry| {
                let entry = entry.expect("an entry");
                (entry.path(), entry.metadata().expect("it is there").ino())
            })
            .collect()
    }

    /// The command line of another agent over the same pins and manifests, behind the words of `wrapper`.
    pub(crate) fn another_agent(&self, wrapper: &[&str]) -> Command {
        let binary = Agent::binary().expect("the binary was built").display().to_string();
        let mut words = wrapper
            .iter()
            .map(|word| (*word).to_owned())
            .chain([binary, "run".to_owned()]);
        let mut command = self.lab.node().command(words.next().expect("at least the binary"));
        command.args(words).args(self.agent.places());
        command.args([
            "--node-name",
            "node",
            "--outward-devices",
            "eth0",
            "--xdp",
            "off",
            "--socket-tier",
            "off",
            "--manifests",
        ]);
        command.arg(self.manifests.path());
        command
    }

    /// Runs a command that is expected to end by itself.
    pub(crate) fn end(&self, mut command: Command) -> Ended {
        let (out, err) = (self.lab.directory().join("out"), self.lab.directory().join("err"));
        let file = |path| fs::File::create(path).expect("the lab's folder can be written to");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .expect("the command can be started");
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().expect("it is our child");
                child.wait().expect("it is our child");
                let said = fs::read_to_string(err).unwrap_or_default();
                panic!("{command:?} still ran after {PATIENCE:?}:\n{said}");
            }
            std::thread::sleep(POLL);
        };
        let read = |path| fs::read_to_string(path).expect("text");
        Ended {
            code: status.code(),
            said: read(out) + &read(err),
        }
    }
}

impl Ended {
    /// It failed with exit code 1 and said all of this.
    pub(crate) fn expect_failure(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.said);
        for part in parts {
            assert!(self.said.contains(part), "not said: {part}\n{}", self.said);
        }
    }
}

/// A list of texts in JSON.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A new connection to the Service, answered by its backend.
fn dial(lab: &Lab) -> BufReader<TcpStream> {
    let stream = lab
        .client()
        .run(|| TcpStream::connect_timeout(&WEB, PATIENCE))
        .expect("the Service is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).expect("a greeting");
    assert!(greeting.starts_with("backend-1 "), "greeted with {greeting}");
    stream
}
