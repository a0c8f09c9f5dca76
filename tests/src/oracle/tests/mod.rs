//! The oracle against the tables of the behaviour reference (§7): does it read the text right? A name `row_N_…` says
//! which row. These are claims about the oracle, not about Sluice.

use super::{NewFlow, Outcome, World};

mod affinity;
mod categorise;
mod cluster_ip;
mod endpoints;
mod external;
mod masquerade;
mod node_port;
mod notation;
mod terminating;

/// The node of all rows: pods are in 10.0.0.0/8, it has two addresses of each family.
const NODE: &str = "node here local 192.168.0.2 192.168.1.2 2001:db8::1:2 2001:db8:1::2 ips 192.168.0.2 2001:db8::1:2 \
                    detector cidr 10.0.0.0/8 fd00:10::/64 services 172.30.0.0/16 fd00:172::/112";

/// The world of a row: the common node, Services and slices.
fn world(text: &str) -> World {
    World::read(&format!("{NODE}\n{text}"))
}

/// Who dials in the rows.
fn flow(who: &str, dialled: &str) -> NewFlow {
    flow_of("TCP", who, dialled)
}

fn flow_of(protocol: &str, who: &str, dialled: &str) -> NewFlow {
    let v6 = dialled.starts_with('[');
    let from = match (who, v6) {
        ("pod", false) => "pod0 10.0.0.2:40000",
        ("pod", true) => "pod0 [fd00:10::2]:40000",
        ("ext", false) => "eth0 203.0.113.2:40000",
        ("ext", true) => "eth0 [2001:db8:eeee::2]:40000",
        ("bad", false) => "eth0 203.0.113.130:40000",
        ("node", false) => "host 192.168.0.2:40000",
        ("node", true) => "host [2001:db8::1:2]:40000",
        ("lo", false) => "host 127.0.0.1:40000",
        ("lo", true) => "host [::1]:40000",
        (other, _) => other,
    };
    NewFlow::read(&format!("{protocol} {from} > {dialled}"))
}

/// An outcome as the tables write it: the last part of each address, then `M` or `-`. Ports are left out.
fn short(outcome: &Outcome) -> String {
    let Outcome::Translate(to) = outcome else {
        return outcome.to_string();
    };
    let mark = |masq: bool| if masq { "M" } else { "-" };
    let last = |text: String| text.rsplit(['.', ':']).next().unwrap_or_default().to_owned();
    let names: Vec<String> = to.keys().map(|endpoint| last(endpoint.ip().to_string())).collect();
    let marks: Vec<&str> = to.values().map(|masq| mark(*masq)).collect();
    if marks.windows(2).all(|pair| pair[0] == pair[1]) {
        format!("{} {}", names.join("+"), marks[0])
    } else {
        let words: Vec<String> = names
            .iter()
            .zip(&marks)
            .map(|(name, mark)| format!("{name} {mark}"))
            .collect();
        words.join(" or ")
    }
}

/// What becomes of a flow, in short.
fn becomes(world: &World, who: &str, dialled: &str) -> String {
    short(&world.decide(&flow(who, dialled)))
}
