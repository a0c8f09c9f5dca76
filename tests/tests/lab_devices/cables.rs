//! Cables of a lab: taken away, and put back as the lab had made the first ones.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::lab::{Host, Lab, plan};

/// Runs `ip` in a host, all lines at once.
pub(crate) fn ip(host: &Host, lines: &[impl AsRef<str>]) {
    let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
    let mut child = Command::new("ip")
        .args(["-n", host.namespace.name(), "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip can be started");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(lines.join("\n").as_bytes()).expect("ip reads");
    drop(input);
    assert!(
        child.wait().expect("it is our child").success(),
        "ip in {}: {lines:?}",
        host.name
    );
}

fn links(host: &Host) -> Vec<(String, u64)> {
    let output = Command::new("ip")
        .args(["-n", host.namespace.name(), "-json", "link", "show"])
        .output();
    let links: Value = serde_json::from_slice(&output.expect("ip can be started").stdout).expect("ip prints JSON");
    let links = links.as_array().expect("a list").iter();
    links
        .filter_map(|link| Some((link["ifname"].as_str()?.to_owned(), link["ifindex"].as_u64()?)))
        .collect()
}

/// The indices of a host's devices.
pub(crate) fn indices(host: &Host) -> BTreeSet<u64> {
    links(host).into_iter().map(|(_, index)| index).collect()
}

/// The index of a device.
pub(crate) fn index(host: &Host, device: &str) -> u64 {
    let found = links(host).into_iter().find(|(name, _)| name == device);
    found.expect("the device is there").1
}

/// Takes a pod's cable away: both ends go.
pub(crate) fn unplug(lab: &Lab, pod: u8) {
    ip(lab.node(), &[format!("link del {}", plan::pod_device(pod))]);
}

/// Gives a pod a new cable, as the lab had made the first one, and says which index the node's end has.
pub(crate) fn plug(lab: &Lab, pod: u8) -> u64 {
    plug_after(lab, pod, "", "")
}

/// As [`plug`], after another command of `ip` in the same breath, and with more words for the command that makes the cable.
pub(crate) fn plug_after(lab: &Lab, pod: u8, before: &str, words: &str) -> u64 {
    let (host, device, mac) = (lab.backend(pod), plan::pod_device(pod), plan::backend_mac(pod));
    let (namespace, gateway) = (host.namespace.name(), plan::POD_GATEWAY_MAC);
    ip(
        lab.node(),
        &[
            before.to_owned(),
            format!(
                "link add name {device} {words} address {gateway} type veth peer name eth0 address {mac} netns {namespace}"
            ),
            format!("link set {device} up"),
        ],
    );
    let (v4, v6) = (host.v4, host.v6);
    ip(
        host,
        &[
            "link set eth0 up".to_owned(),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "route add 169.254.1.1 dev eth0 scope link".to_owned(),
            "route add default via 169.254.1.1 dev eth0".to_owned(),
            "route add default via fe80::1 dev eth0".to_owned(),
            format!("neigh replace 169.254.1.1 lladdr {gateway} dev eth0 nud permanent"),
            format!("neigh replace fe80::1 lladdr {gateway} dev eth0 nud permanent"),
        ],
    );
    lead_to_pod(lab, pod, &device);
    index(lab.node(), &device)
}

/// The node's routes to a pod, which go when its device goes down.
pub(crate) fn lead_to_pod(lab: &Lab, pod: u8, device: &str) {
    let (v4, v6, mac) = (plan::backend_v4(pod), plan::backend_v6(pod), plan::backend_mac(pod));
    ip(
        lab.node(),
        &[
            format!("addr replace fe80::1/64 dev {device} nodad"),
            format!("route replace {v4}/32 dev {device}"),
            format!("route replace {v6}/128 dev {device}"),
            format!("neigh replace {v4} lladdr {mac} dev {device} nud permanent"),
            format!("neigh replace {v6} lladdr {mac} dev {device} nud permanent"),
        ],
    );
}

/// The cable between client and node, as the lab had made the first one.
pub(crate) fn make_outward_link(lab: &Lab) {
    let (client, node) = (lab.client(), lab.node());
    let (client_mac, node_mac) = (plan::CLIENT_MAC, plan::NODE_MAC);
    let peer = format!("peer name eth0 address {client_mac} netns {}", client.namespace.name());
    ip(
        node,
        &[format!("link add name eth0 address {node_mac} type veth {peer}")],
    );
    let ends = [
        (node, client, client_mac, vec!["default"], vec!["default"]),
        (
            client,
            node,
            node_mac,
            vec![plan::SERVICES_V4, plan::PODS_V4],
            vec![plan::SERVICES_V6, plan::PODS_V6],
        ),
    ];
    for (host, peer, mac, v4, v6) in ends {
        let mut lines = vec![
            "link set eth0 up".to_owned(),
            format!("addr add {}/24 dev eth0", host.v4),
            format!("addr add {}/64 dev eth0 nodad", host.v6),
            format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", peer.v4),
            format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", peer.v6),
        ];
        lines.extend(
            v4.iter()
                .map(|range| format!("route add {range} via {} dev eth0", peer.v4)),
        );
        lines.extend(
            v6.iter()
                .map(|range| format!("route add {range} via {} dev eth0", peer.v6)),
        );
        ip(host, &lines);
    }
}
