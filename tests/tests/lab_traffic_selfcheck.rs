//! The traffic itself works, and its books are honest: what arrives is counted as answered, what breaks as lost.
//!
//! Clients talk straight to the backends' addresses here: no agent runs. Needs root, as all labs do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tests::lab::{Host, Lab};
use tests::traffic::{Entry, HttpLoad, HttpPlan, LongLived, LongLivedPlan, Phase, Serve, Server, UdpPlan, UdpSessions};

fn lab() -> Lab {
    Lab::one_node().backends(2).build().expect("the lab can be built")
}

fn targets(lab: &Lab, port: u16) -> Vec<SocketAddr> {
    let addresses = lab.backends().iter().flat_map(Host::addresses);
    addresses
        .map(|address: IpAddr| SocketAddr::new(address, port))
        .collect()
}

/// Waits for a load to have made so many connections in its current phase; a busy machine gets the time it needs.
fn wait_for(load: &HttpLoad, connections: u64) {
    for _ in 0..1000 {
        if load.report().connections >= connections {
            return;
        }
        pause(10);
    }
    panic!("no {connections} connections within 10 s: {:?}", load.report());
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[test]
fn every_answered_connection_is_counted_for_its_backend() {
    let lab = lab();
    let servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let plan = HttpPlan {
        per_second: 1000,
        ..HttpPlan::to(targets(&lab, 8080))
    };
    let load = HttpLoad::start(lab.client(), plan, Phase::served("first")).expect("the load starts");
    wait_for(&load, 100);
    load.begin(Phase::served("second"));
    wait_for(&load, 100);
    let reports = load.finish();
    for report in &reports {
        assert_eq!((report.lost, report.refused, report.surprises), (0, 0, 0), "{report:?}");
        let (one, two) = (report.backends["backend-1"].count, report.backends["backend-2"].count);
        assert!(one.abs_diff(two) <= 4, "asked in turn, answered {one} and {two}");
    }
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    assert_eq!(servers.iter().map(Server::accepted).sum::<u64>(), answered);
}

#[test]
fn a_load_ends_by_itself() {
    let lab = lab();
    let servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let plan = HttpPlan {
        per_second: 0,
        at_once: 16,
        connections_max: 300,
        ..HttpPlan::to(targets(&lab, 8080))
    };
    let load = HttpLoad::start(lab.client(), plan, Phase::served("all")).expect("the load starts");
    wait_for(&load, 300);
    pause(50);
    assert_eq!(load.finish().remove(0).answered, 300);
    assert_eq!(servers.iter().map(Server::accepted).sum::<u64>(), 300);
}

#[test]
fn downloads_are_checked() {
    let lab = lab();
    let _servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let plan = HttpPlan {
        connections_max: 20,
        path: "/bytes/3000001".to_owned(),
        ..HttpPlan::to(targets(&lab, 8080))
    };
    let load = HttpLoad::start(lab.client(), plan, Phase::served("download")).expect("the load starts");
    wait_for(&load, 20);
    let report = load.finish().remove(0);
    assert_eq!((report.answered, report.lost), (20, 0), "{:?}", report.failures);
}

#[test]
fn a_refusal_is_lost_where_an_answer_was_due_and_fine_where_it_was_expected() {
    let lab = lab();
    let plan = HttpPlan {
        connections_max: 40,
        per_second: 400,
        ..HttpPlan::to(targets(&lab, 8080))
    };
    for (phase, lost) in [
        (Phase::served("served"), 40),
        (Phase::refused("refused", Duration::ZERO), 0),
    ] {
        let load = HttpLoad::start(lab.client(), plan.clone(), phase).expect("the load starts");
        wait_for(&load, 40);
        let report = load.finish().remove(0);
        assert_eq!((report.refused, report.lost), (40, lost), "{:?}", report.failures);
        assert!(report.refusal.max() < Duration::from_millis(100), "{}", report.refusal);
    }
}

#[test]
fn silence_and_broken_answers_are_lost() {
    let lab = lab();
    // Nobody answers for a Service address without an agent.
    let nowhere = HttpPlan {
        connections_max: 2,
        connect_within: Duration::from_millis(100),
        ..HttpPlan::to(["10.96.0.10:80".parse().expect("an address")])
    };
    let load = HttpLoad::start(lab.client(), nowhere, Phase::served("nowhere")).expect("the load starts");
    wait_for(&load, 2);
    let report = load.finish().remove(0);
    assert_eq!((report.answered, report.lost), (0, 2), "{:?}", report.failures);

    let servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let slow = HttpPlan {
        connections_max: 4,
        path: "/drip/100/20".to_owned(),
        ..HttpPlan::to(targets(&lab, 8080))
    };
    let load = HttpLoad::start(lab.client(), slow, Phase::served("cut short")).expect("the load starts");
    pause(200);
    drop(servers);
    let report = load.finish().remove(0);
    assert_eq!((report.answered, report.lost), (0, 4), "{:?}", report.failures);
}

#[test]
fn long_lived_connections_are_kept_and_their_loss_is_noticed() {
    let lab = lab();
    let mut servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let start = |entry, port| {
        let plan = LongLivedPlan {
            connections: 8,
            every: Duration::from_millis(10),
            ..LongLivedPlan::to(targets(&lab, port), entry)
        };
        let connections = LongLived::start(lab.client(), plan).expect("they start");
        connections.wait_open().expect("they connect");
        connections
    };
    let both = [start(Entry::Raw, 7000), start(Entry::Http, 8080)];
    pause(200);
    for connections in &both {
        let report = connections.report();
        assert_eq!(
            (report.made, report.open, report.lost),
            (8, 8, 0),
            "{:?}",
            report.failures
        );
        assert_eq!((report.backends["backend-1"], report.backends["backend-2"]), (4, 4));
        assert!(report.bytes >= 8 * 1000 * 5, "{} bytes", report.bytes);
        assert!(
            report
                .seen_from
                .iter()
                .all(|(_, seen)| lab.client().addresses().contains(&seen.ip()))
        );
    }
    servers.pop();
    pause(200);
    for connections in both {
        let report = connections.finish();
        assert_eq!((report.open, report.lost), (4, 4), "{:?}", report.failures);
        assert_eq!(report.backends["backend-2"], 0);
    }
}

#[test]
fn udp_sessions_keep_their_port_and_note_who_answers() {
    let lab = lab();
    let mut servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let plan = UdpPlan {
        sessions: 8,
        every: Duration::from_millis(10),
        answer_within: Duration::from_millis(50),
        ..UdpPlan::to(targets(&lab, 5353))
    };
    let sessions = UdpSessions::start(lab.client(), plan).expect("they start");
    pause(200);
    let report = sessions.report();
    assert_eq!(
        (report.missing, report.refused, report.wrong),
        (0, 0, 0),
        "{:?}",
        report.failures
    );
    assert!(report.moves.is_empty() && report.answered > 8 * 5, "{report:?}");
    assert_eq!(report.sessions.len(), 8);
    for (port, seen) in &report.seen_from {
        assert_eq!(seen.port(), *port);
        assert!(lab.client().addresses().contains(&seen.ip()), "seen from {seen}");
    }
    // backend-2 goes silent: its host answers with ICMP port unreachable.
    servers.pop();
    pause(200);
    let report = sessions.finish();
    assert!(report.refused > 0, "{report:?}");
    assert_eq!(
        report.asked,
        report.answered + report.missing + report.refused + report.wrong
    );
}

#[test]
fn people_can_ask_with_curl() {
    let lab = lab();
    let _servers = Server::start_on(lab.backends(), &Serve::default()).expect("servers start");
    let curl = |path: &str| {
        let mut command = lab.client().command("curl");
        command
            .args(["-sS", "--max-time", "5"])
            .arg(format!("http://{}:8080{path}", lab.backend(2).v4));
        let output = command.output().expect("curl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert_eq!(curl("/"), b"backend-2\n");
    let whoami: serde_json::Value = serde_json::from_slice(&curl("/whoami")).expect("JSON");
    assert_eq!(whoami["server"], "10.244.1.12:8080");
    assert!(
        whoami["client"]
            .as_str()
            .is_some_and(|client| client.starts_with("172.18.0.9:")),
        "{whoami}"
    );
    assert_eq!(curl("/drip/3/1").len(), 3 * 1024);
    assert_eq!(curl("/bytes/100000").len(), 100_000);
}
