//! What the agent tells the XDP program of devices, and people: where it runs, and out of which devices it may send.

use std::time::Duration;

use aya::maps::HashMap;
use aya::programs::xdp::XdpMode as Mode;
use lb_common::layout::{Device, DeviceFlags, names};
use lb_userspace::kernel::{Datapath, LoadOptions, Pins};
use serde_json::Value;
use tests::lab::{Host, Lab, XdpMode};
use tests::traffic::Cluster;

use super::cables::index;
use super::routes::number_when_quiet;
use super::{FOLLOWED_WITHIN, start, start_in, wait_for_state, within};

/// That a program was taken off a device is told by nobody: the agent looks every 30 s.
const LOOKED_WITHIN: Duration = Duration::from_secs(32);

#[test]
fn xdp_may_send_out_of_veth_while_its_other_end_receives_by_napi() {
    let cluster = start(XdpMode::Native);
    let (lab, client) = (&cluster.lab, cluster.lab.client());
    let no = "no: its other end has neither GRO nor XDP (there: ethtool -K DEV gro on)";
    wait_for_transmit(&cluster, "eth0", true, "yes");

    let before = number_when_quiet(lab);
    gro(client, "off");
    wait_for_transmit(&cluster, "eth0", false, no);
    assert_ne!(number_when_quiet(lab), before, "next hops through it are other ones");
    gro(client, "on");
    wait_for_transmit(&cluster, "eth0", true, "yes");
    gro(client, "off");
    wait_for_transmit(&cluster, "eth0", false, no);

    // A program of its own does as well, whatever it does.
    let mut datapath = Datapath::load(&LoadOptions {
        maps: None,
        flows_max: 1024,
        ways_max: 1024,
        later: &[],
    })
    .expect("the kernel takes the programs");
    let program = datapath.xdp(names::XDP).expect("the object has it");
    let link = client.run(|| program.attach("eth0", Mode::Driver)).expect("veth can");
    wait_for_transmit(&cluster, "eth0", true, "yes");
    program.detach(link).expect("it is attached");
    wait_for_transmit(&cluster, "eth0", false, no);

    // A pod's end receives by NAPI, too, but XDP doesn't run on the device towards it.
    wait_for_transmit(&cluster, "pod1", false, "no: XDP does not run on it");
    assert!(!flags(lab, "lo").has(DeviceFlags::FORWARDS));
}

#[test]
fn where_xdp_runs_is_told() {
    let rows = [
        (XdpMode::Native, "native", Value::Null),
        (XdpMode::Generic, "generic", "asked for by --xdp generic".into()),
    ];
    for (mode, word, because) in rows {
        let cluster = start(mode);
        let found = flags(&cluster.lab, "eth0");
        assert_eq!(found.has(DeviceFlags::GENERIC), word == "generic", "{mode:?}");
        // XDP comes first, and what it sends back by veth is a redirect.
        assert!(
            !found.has(DeviceFlags::FIRST) && !found.has(DeviceFlags::TURNS),
            "{mode:?}"
        );
        let eth0 = device(&cluster, "eth0");
        assert_eq!(eth0["xdp"], word, "{eth0}");
        assert_eq!(eth0["xdp_generic_because"], because, "{eth0}");
        assert_eq!(
            (&eth0["driver"], &eth0["mtu"], &eth0["is_outward"]),
            (&"veth".into(), &1500.into(), &true.into())
        );
        let pod = device(&cluster, "pod1");
        assert_eq!(
            (&pod["xdp"], &pod["is_outward"]),
            (&"off: not an outward device".into(), &false.into())
        );

        let status = cluster.agent.cli(["status"]).expect("a healthy agent");
        println!("{status}");
        let because = because.as_str().map_or(String::new(), |because| format!(", {because}"));
        let expected = format!(
            "eth0 leads out: index 2, veth, MTU 1500\n  tc:       attached\n  XDP:      {word}{because}\n  XDP out:  yes\n"
        );
        assert!(status.contains(&expected), "{status}");
        assert!(
            status.lines().any(|line| line
                .split_whitespace()
                .eq("pod1 3 veth 1500 attached no: XDP does not run on it".split_whitespace())),
            "{status}"
        );
        // The kernel tells the queues of veth, which has no rings.
        let status = cluster
            .agent
            .cli_json(["status", "-o", "json"])
            .expect("a healthy agent");
        let card = &status["cards"]["devices"]["eth0"];
        assert_eq!(
            (&card["rx_ring"]["max"], &card["rx_queues"]["now"]),
            (&0.into(), &1.into()),
            "{status}"
        );
        assert_eq!(status["cards"]["hints"], Value::Array(Vec::new()), "{status}");
    }
}

#[test]
fn a_program_that_somebody_takes_off_is_put_back() {
    let cluster = start(XdpMode::Native);
    let eth0 = index(cluster.lab.node(), "eth0");
    let pin = Pins::new(cluster.lab.pin_directory())
        .links()
        .join(format!("{eth0}-xdp"));
    let bpftool = std::process::Command::new("bpftool")
        .args(["link", "detach", "pinned"])
        .arg(pin)
        .status();
    assert!(bpftool.expect("bpftool can be started").success());
    within(LOOKED_WITHIN, || {
        let ids = xdp_programs(cluster.lab.node(), "eth0");
        (!ids.is_empty()).then_some(()).ok_or_else(|| "no program".to_owned())
    });
    assert_eq!(device(&cluster, "eth0")["xdp"], "native");
    // XDP is still the first to see its packets.
    assert!(!flags(&cluster.lab, "eth0").has(DeviceFlags::FIRST));
}

#[test]
fn a_device_with_jumbo_frames_runs_it_in_the_driver() {
    let cluster = start_in(Lab::one_node().outward_mtu(9000), XdpMode::Native);
    let eth0 = device(&cluster, "eth0");
    assert_eq!((&eth0["xdp"], &eth0["mtu"]), (&"native".into(), &9000.into()), "{eth0}");
    let expected = DeviceFlags::FORWARDS.with(DeviceFlags::SCATTERS);
    within(FOLLOWED_WITHIN, || has(&cluster.lab, "eth0", expected, true));
}

/// The XDP programs on a device, as `ip` tells.
fn xdp_programs(host: &Host, device: &str) -> Vec<Value> {
    let output = host.command("ip").args(["-j", "link", "show", device]).output();
    let links: Value = serde_json::from_slice(&output.expect("ip can be started").stdout).expect("JSON");
    links[0]["xdp"]["prog"]["id"]
        .as_u64()
        .map(Value::from)
        .into_iter()
        .collect()
}

fn gro(host: &Host, state: &str) {
    let ethtool = host.command("ethtool").args(["-K", "eth0", "gro", state]).status();
    assert!(ethtool.expect("ethtool can be started").success());
}

/// What the agent says of a device.
fn device(cluster: &Cluster, name: &str) -> Value {
    let state = cluster.agent.state().expect("it is written");
    let devices = state["devices"].as_array().cloned().unwrap_or_default();
    let device = devices.into_iter().find(|device| device["name"] == name);
    device.unwrap_or_else(|| panic!("no {name} in {state}"))
}

/// What the XDP program is told of a device.
fn flags(lab: &Lab, name: &str) -> DeviceFlags {
    let table = lab.table(names::DEVICES).expect("it is pinned");
    let table: HashMap<_, u32, Device> = table.try_into().expect("a table of devices");
    let ifindex = u32::try_from(index(lab.node(), name)).expect("an index");
    table
        .get(&ifindex, 0)
        .map_or(DeviceFlags::default(), |device| device.flags)
}

fn has(lab: &Lab, name: &str, flag: DeviceFlags, expected: bool) -> Result<(), String> {
    let found = flags(lab, name);
    (found.has(flag) == expected)
        .then_some(())
        .ok_or_else(|| format!("{name}: {found:?}, {flag:?} should be {expected}"))
}

fn wait_for_transmit(cluster: &Cluster, name: &str, expected: bool, told: &str) {
    within(FOLLOWED_WITHIN, || {
        has(&cluster.lab, name, DeviceFlags::FORWARDS, expected)
    });
    wait_for_state(cluster, |devices| {
        devices
            .iter()
            .any(|device| device["name"] == name && device["xdp_transmit"] == told)
    });
}
