//! What arrives tagged belongs to the VLAN device on top, whose hook sees it without the tag: the hook of the device below
//! leaves it alone. The tag is out of the frame by then, and the packet looks like any other.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use tests::lab::{AgentOptions, Host, Lab};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over};

const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
const PATIENCE: Duration = Duration::from_secs(3);
const IMPATIENCE: Duration = Duration::from_millis(150);

#[test]
fn a_vlans_packets_are_left_to_its_device() {
    let lab = Lab::one_node().backends(1).build().expect("the lab can be built");
    let addresses = ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address"));
    let web = Service::new("web", addresses)
        .port("UDP", 53, 5353)
        .backends(lab.backends());
    let cluster = Cluster::start(lab, &[web], &AgentOptions::default()).expect("servers and agent start");
    let client = cluster.lab.client();
    for address in ADDRESSES {
        assert!(
            ask(client, address, PATIENCE),
            "{address}: untagged packets are answered"
        );
    }
    let before = flows(&cluster);
    // Neighbours are known: what asks for them is tagged from here on, too.
    let _tagged = client.run(tag_everything);
    for address in ADDRESSES {
        assert!(!ask(client, address, IMPATIENCE), "{address}: nobody is in the VLAN");
    }
    assert_eq!(flows(&cluster), before, "tagged packets have opened flows");
}

fn ask(client: &Host, address: &str, patience: Duration) -> bool {
    let target = SocketAddr::new(address.parse().expect("an address"), 53);
    client.run(|| Over::Udp.exchange(target, 10, patience)).is_ok()
}

fn flows(cluster: &Cluster) -> usize {
    let flows = cluster
        .agent
        .cli_json(["get", "flows", "-o", "json"])
        .expect("flows can be listed");
    flows.as_array().expect("a list of flows").len()
}

/// Puts all that leaves through `eth0` of the namespace that this runs in into a VLAN, until it is dropped.
fn tag_everything() -> aya::Ebpf {
    let object = std::env::var_os("SLUICE_BPF_OBJECT").expect("SLUICE_BPF_OBJECT: `cargo xtask test` sets it");
    let object = PathBuf::from(object).with_file_name("tag.bpf.o");
    let mut ebpf = aya::Ebpf::load_file(&object).unwrap_or_else(|error| panic!("{}: {error}", object.display()));
    let tag: &mut SchedClassifier = ebpf
        .program_mut("tag")
        .expect("the object has it")
        .try_into()
        .expect("a tc program");
    tag.load().expect("the kernel takes it");
    tag.attach("eth0", TcAttachType::Egress)
        .expect("it can be attached to eth0");
    ebpf
}
