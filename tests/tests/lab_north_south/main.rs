//! North and south: a client behind a router, two nodes that balance, three that have the pods, an agent on each. What comes in by
//! a balancer goes on to another machine, whatever happens on the way there; and what is on the wire is looked at.
//!
//! Two nodes that have pods themselves, and tc between containers, are in `lab_two_nodes`, single packets in `packet_masquerade` and `packet_forward`.
//!
//! All stories of a cluster are told in one test, since its five agents take their time to start.

mod direct;
mod loss;
mod narrow;
mod scene;
mod snat;
mod switch;
mod ways;
mod wire;

use rstest::rstest;
use scene::Tunnel::{self, Gue, Ipip};
use tests::lab::{Lab, LabBuilder, XdpMode};
use tests::traffic::Cluster;

/// Plays rows, and says what is wrong.
type Story = fn(&Cluster) -> Vec<String>;

const SNAT: (&str, Story) = ("snat", snat::answers_by_any_node);
const WIRE: (&str, Story) = ("wire", wire::addresses_ports_and_checksums);
const WAYS: (&str, Story) = ("ways", ways::lost_and_back);
const NARROW: (&str, Story) = ("narrow", narrow::nothing_is_lost);
const BY_IPIP: (&str, Story) = ("direct", direct::by_ipip);
const BY_GUE: (&str, Story) = ("direct, GUE", direct::by_gue);
const DIRECT_NARROW: (&str, Story) = ("direct, narrow", narrow::nothing_is_lost_in_tunnels);
const SWITCH: (&str, Story) = ("switch", switch::between_balancers);
/// Who has sent what the stories before saw.
const BY_XDP: (&str, Story) = ("by xdp", scene::xdp_has_sent);
const BY_TC: (&str, Story) = ("by tc", scene::xdp_has_sent_nothing);
/// The last one: the node doesn't come back.
const LOSS: (&str, Story) = ("loss", loss::of_a_node);

#[rstest]
#[case::tc_as_from_a_network_card(
    Lab::north_south().complete_checksums(), XdpMode::Off, Ipip,
    &[SNAT, WIRE, BY_IPIP, SWITCH, WAYS, NARROW, DIRECT_NARROW, BY_TC, LOSS]
)]
#[case::xdp_as_from_a_network_card(
    Lab::north_south().complete_checksums(), XdpMode::Native, Ipip,
    &[SNAT, WIRE, BY_IPIP, SWITCH, WAYS, NARROW, DIRECT_NARROW, BY_XDP, LOSS]
)]
#[case::tc_by_gue(
    Lab::north_south().complete_checksums(), XdpMode::Off, Gue, &[BY_GUE, SWITCH, DIRECT_NARROW, BY_TC, LOSS]
)]
#[case::xdp_by_gue(
    Lab::north_south().complete_checksums(), XdpMode::Native, Gue, &[BY_GUE, SWITCH, DIRECT_NARROW, BY_XDP, LOSS]
)]
#[case::xdp_as_between_containers(
    Lab::north_south(), XdpMode::Native, Ipip, &[SNAT, BY_IPIP, NARROW, DIRECT_NARROW, BY_TC]
)]
#[case::gue_as_between_containers(Lab::north_south(), XdpMode::Native, Gue, &[BY_GUE, DIRECT_NARROW, BY_TC])]
#[case::several_pods_a_node(
    Lab::north_south().backends(2).complete_checksums(), XdpMode::Native, Ipip, &[BY_IPIP, SWITCH, BY_XDP]
)]
#[case::xdp_with_arp_and_nd(
    Lab::north_south().complete_checksums().learn_neighbours(), XdpMode::Native, Ipip, &[SNAT, WAYS, BY_XDP]
)]
fn north_and_south(
    #[case] builder: LabBuilder,
    #[case] xdp: XdpMode,
    #[case] tunnel: Tunnel,
    #[case] stories: &[(&str, Story)],
) {
    let cluster = scene::start(builder, xdp, tunnel);
    let mut wrong = Vec::new();
    for (name, story) in stories {
        wrong.extend(story(&cluster).into_iter().map(|why| format!("{name}: {why}")));
    }
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}
