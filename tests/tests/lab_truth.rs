//! Somebody changes what the tables hold, takes programs off devices, or makes a table take no writes (`bpftool`): the agent says so within
//! ten seconds, puts right what it can, and is not healthy where it can't.
//!
//! Which change is told in which words: `lb-userspace/src/reconcile/tests/truth.rs`.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use lb_common::layout::names;
use lb_userspace::kernel::Pins;
use rstest::rstest;
use serde_json::Value;
use tests::lab::{AgentOptions, Lab, XdpMode};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over};

/// The bar, from the damage to the report.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);
/// Where probes are answered.
const PROBES: &str = "127.0.0.1:10256";

fn addresses() -> [IpAddr; 2] {
    ["10.96.0.80", "fd00:10:96::80"].map(|text| text.parse().expect("an address"))
}

fn cluster(xdp: XdpMode) -> Cluster {
    let lab = Lab::one_node()
        .backends(2)
        .build()
        .expect("the lab can be built: this needs root");
    let service = Service::new("web", addresses())
        .port("TCP", 80, 7000)
        .backends(lab.backends());
    let options = AgentOptions {
        xdp,
        ..AgentOptions::default()
    };
    Cluster::start(lab, &[service], &options).expect("servers and agent start")
}

/// Asks the Service in both families.
fn check_service(cluster: &Cluster) {
    for address in addresses() {
        let target = SocketAddr::new(address, 80);
        let answer = cluster.lab.client().run(|| Over::Tcp.ask(target, PATIENCE));
        answer.unwrap_or_else(|error| panic!("{target}: {error:#}"));
    }
}

/// What the agent says of its tables, as soon as it is so.
fn truth(cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let truth = cluster.agent.state().expect("it is written")["truth"].clone();
        if is_so(&truth) {
            println!("{what}: {:.1} s", start.elapsed().as_secs_f32());
            return truth;
        }
        assert!(start.elapsed() < TOLD_WITHIN, "{what}: {truth:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn bpftool(words: &[&str]) -> Value {
    let output = Command::new("bpftool")
        .arg("-j")
        .args(words)
        .output()
        .expect("bpftool can be started");
    assert!(output.status.success(), "bpftool {words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// One entry of a table, as bpftool writes its key and value.
struct Entry {
    table: String,
    key: Vec<String>,
    value: Vec<String>,
}

impl Entry {
    /// The first of a hash table; of an array that with this index.
    fn of(cluster: &Cluster, name: &str, index: Option<u8>) -> Self {
        let table = Pins::new(cluster.lab.pin_directory()).maps().join(name);
        let table = table.to_str().expect("it is ASCII").to_owned();
        let entry = match index {
            Some(index) => bpftool(&[
                "map",
                "lookup",
                "pinned",
                &table,
                "key",
                &index.to_string(),
                "0",
                "0",
                "0",
            ]),
            None => bpftool(&["map", "dump", "pinned", &table])[0].clone(),
        };
        let octets = |part: &Value| -> Vec<String> {
            let octets = part.as_array().expect("octets").iter();
            octets
                .map(|octet| octet.as_str().expect("a number").to_owned())
                .collect()
        };
        Self {
            key: octets(&entry["key"]),
            value: octets(&entry["value"]),
            table,
        }
    }

    fn now(&self) -> Vec<String> {
        let mut words = vec!["map", "lookup", "pinned", &self.table, "key"];
        words.extend(self.key.iter().map(String::as_str));
        let octets = bpftool(&words)["value"].as_array().cloned().unwrap_or_default();
        octets.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    }

    /// Writes the value with one bit changed.
    fn damage(&self, octet: usize) {
        let mut value = self.value.clone();
        let before = u8::from_str_radix(value[octet].trim_start_matches("0x"), 16).expect("an octet");
        value[octet] = format!("0x{:02x}", before ^ 0x04);
        let mut words = vec!["map", "update", "pinned", &self.table, "key"];
        words.extend(self.key.iter().map(String::as_str));
        words.push("value");
        words.extend(value.iter().map(String::as_str));
        bpftool(&words);
    }
}

/// Tables with an entry that is in use (an index for arrays) and an octet of its value.
const ENTRIES: [(&str, Option<u8>, usize); 14] = [
    (names::LB4_FRONTENDS, None, 0),
    (names::LB6_FRONTENDS, None, 0),
    (names::LB4_ADDRESSES, None, 0),
    (names::LB6_ADDRESSES, None, 0),
    (names::LB4_LABELS, None, 3),
    (names::LB6_LABELS, None, 3),
    (names::LB4_SERVICES, Some(0), 4),
    (names::LB6_SERVICES, Some(0), 4),
    (names::LB4_SLOTS, Some(1), 0),
    (names::LB6_SLOTS, Some(1), 0),
    (names::LB4_BACKENDS, Some(2), 4),
    (names::LB6_BACKENDS, Some(2), 16),
    (names::LB4_NODE, Some(0), 0),
    (names::DEVICES, None, 0),
];

#[test]
fn damaged_entries_are_told_and_put_right() {
    let mut cluster = cluster(XdpMode::Off);
    truth(&cluster, "a first pass", |truth| truth["checked_s"].as_u64() > Some(0));
    let entries = ENTRIES.map(|(table, index, octet)| (table, Entry::of(&cluster, table, index), octet));
    for (_, entry, octet) in &entries {
        entry.damage(*octet);
    }
    let found = truth(&cluster, "all are found", |truth| {
        let told = truth["drift"].to_string();
        ENTRIES.iter().all(|(table, ..)| told.contains(&format!("\"{table}: ")))
    });
    for (table, entry, _) in &entries {
        assert_eq!(entry.now(), entry.value, "{table} is put right");
    }
    assert_eq!(found["problems"], Value::Array(Vec::new()), "{found:#}");
    check_service(&cluster);
    let status = cluster.agent.cli(["status"]).expect("it is healthy");
    assert!(status.contains("put right since the agent's start"), "{status}");

    // A restarted agent finds nothing.
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    let found = truth(&cluster, "a pass of the next agent", |truth| {
        truth["checked_s"].as_u64() > Some(0)
    });
    assert_eq!(found["drift_total"], 0, "{found:#}");
}

#[rstest]
#[case::where_packets_arrive("ingress", "where packets arrive (tc)")]
#[case::where_packets_leave("egress", "where packets leave (tc)")]
fn a_program_that_was_taken_off_a_device_is_attached_again(#[case] direction: &str, #[case] told: &str) {
    let cluster = cluster(XdpMode::Native);
    truth(&cluster, "a first pass", |truth| truth["checked_s"].as_u64() > Some(0));
    let state = cluster.agent.state().expect("it is written");
    let devices = state["devices"].as_array().expect("devices");
    let index = |name: &str| {
        let device = devices.iter().find(|device| device["name"] == name);
        device.expect("it is known")["ifindex"].to_string()
    };
    let links = Pins::new(cluster.lab.pin_directory()).links();
    // One is taken off and its pin stays, the other's goes.
    for (device, detaches) in [("pod1", true), ("pod2", false)] {
        let link = links.join(format!("{}-{direction}", index(device)));
        let link = link.to_str().expect("it is ASCII");
        if detaches {
            bpftool(&["link", "detach", "pinned", link]);
        } else {
            std::fs::remove_file(link).expect("it is there");
        }
    }
    let found = truth(&cluster, "both are found", |truth| {
        truth["drift_total"].as_u64() >= Some(2)
    });
    let text = found["drift"].to_string();
    for device in ["pod1", "pod2"] {
        let expected = format!("{device} had no program of ours any more {told}; it is attached again");
        assert!(text.contains(&expected), "{found:#}");
    }
    check_service(&cluster);
    let before = found["checked_s"].as_u64();
    let after = truth(&cluster, "another pass", |truth| truth["checked_s"].as_u64() > before);
    assert_eq!(
        after["drift_total"], found["drift_total"],
        "all is as it should be: {after:#}"
    );
}

#[test]
fn a_table_that_takes_no_writes_is_told_to_whoever_asks() {
    let cluster = cluster(XdpMode::Off);
    truth(&cluster, "a first pass", |truth| truth["checked_s"].as_u64() > Some(0));
    let code = |path: &str| {
        let answer = cluster.lab.node().run(|| http_get(path));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(code("/livez"), "200");
    let table = Pins::new(cluster.lab.pin_directory()).maps().join(names::LB4_FRONTENDS);
    bpftool(&["map", "freeze", "pinned", table.to_str().expect("it is ASCII")]);
    let found = truth(&cluster, "it is found", |truth| {
        truth["problems"] != Value::Array(Vec::new())
    });
    assert!(
        found["problems"].to_string().contains(names::LB4_FRONTENDS),
        "{found:#}"
    );
    let start = Instant::now();
    for path in ["/healthz", "/readyz"] {
        while code(path) != "503" {
            assert!(start.elapsed() < TOLD_WITHIN, "{path} is {}", code(path));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert_eq!(code("/livez"), "200", "a new agent would find the same table");
    assert!(cluster.agent.cli(["status"]).is_err(), "it is not healthy");
    // What is there goes on.
    check_service(&cluster);
}

/// What a probe is answered.
fn http_get(path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(PROBES).expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: probes\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it can be asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
