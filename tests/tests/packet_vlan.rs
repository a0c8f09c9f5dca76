//! Rows: frames with VLAN tags in XDP. They are what they would be without tags on the VLAN device, and leave with the tags of the device
//! by which they leave. Which device stands for which tags is told in `tests::packet::hops`.

use lb_common::layout::Counter::{FlowsCreated, FlowsMasqueraded, WaysFound, WaysLeft};
use tests::packet::{
    row::{Row, row},
    service::service,
    sketch::{Sketch, any, udp},
};

/// EtherType and control information of each, from the outside in.
type Tags<'a> = &'a [(u16, u16)];

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

/// Tags of the VLANs of `hops`, with priorities (PCP and DEI) that no other has.
const OF_VLAN: [(u16, u16); 1] = [(Q, 0xa000 | 100)];
const OF_QINQ: [(u16, u16); 2] = [(AD, 0x7000 | 200), (Q, 0x5000 | 300)];

/// A ClusterIP with a backend on another machine; XDP may send out of everything.
fn serving(backend: &str) -> Row {
    row().outward().vlans().serve("web:80", &[&format!("{backend}:8080")])
}

/// A flow of frames with these tags whose first packet and whose way are known.
fn under_way(row: Row, backend: &str, came: Tags, leaves: Tags) -> Row {
    let to = format!("outside:40000 > {backend}:8080");
    row.xdp(any("outside:40000 > web:80").tagged(came).syn())
        .gets_forwarded(&to)
        .tagged(leaves)
        .counting(&[FlowsCreated, WaysFound])
        .xdp(any("outside:40000 > web:80").tagged(came))
        .gets_forwarded(&to)
        .tagged(leaves)
        .counting(&[WaysFound])
        .xdp(any("outside:40000 > web:80").tagged(came).sized(1300))
        .gets_forwarded(&to)
        .tagged(leaves)
}

#[test]
fn a_frame_leaves_with_the_tags_of_the_device_by_which_it_leaves() {
    let none = [];
    let table: [(&str, Tags, Tags); 12] = [
        // The same VLAN: the tag stays, with its priority.
        ("far-v", &OF_VLAN, &OF_VLAN),
        ("far-q", &OF_QINQ, &OF_QINQ),
        // Pushed: without priority where none was.
        ("far-v", &none, &[(Q, 100)]),
        ("far-q", &none, &[(AD, 200), (Q, 300)]),
        ("far-w", &none, &[(Q, 400)]),
        // Taken out.
        ("far", &OF_VLAN, &none),
        ("far", &OF_QINQ, &none),
        // Exchanged: each keeps the priority of the one in its place.
        ("far-w", &OF_VLAN, &[(Q, 0xa000 | 400)]),
        ("far-q", &OF_VLAN, &[(AD, 0xa000 | 200), (Q, 300)]),
        ("far-v", &OF_QINQ, &[(Q, 0x7000 | 100)]),
        ("far-w", &OF_QINQ, &[(Q, 0x7000 | 400)]),
        ("far", &none, &none),
    ];
    for (backend, came, leaves) in table {
        under_way(serving(backend), backend, came, leaves).run();
    }
}

#[test]
fn a_masqueraded_flow_goes_into_a_vlan_and_its_replies_come_out_of_it() {
    row()
        .outward()
        .vlans()
        .node()
        .host_address("node")
        .given(service("web").node_port(30080).to(&["far-v:8080"]))
        .xdp(any("outside:40000 > node:30080").syn())
        .gets_forwarded("node:40000 > far-v:8080")
        .tagged(&[(Q, 100)])
        .counting(&[FlowsCreated, FlowsMasqueraded, WaysFound])
        .xdp(any("far-v:8080 > node:40000").syn_ack().tagged(&OF_VLAN))
        .gets_forwarded("node:30080 > outside:40000")
        .tagged(&[])
        .counting(&[WaysFound])
        .xdp(any("far-v:8080 > node:40000").tagged(&OF_VLAN))
        .gets_forwarded("node:30080 > outside:40000")
        .tagged(&[])
        .run();
}

#[test]
fn a_frame_is_sent_back_by_its_card_where_the_driver_can() {
    row()
        .outward()
        .vlans_turn()
        .serve("web:80", &["far-v:8080"])
        .xdp(any("outside:40000 > web:80").tagged(&OF_VLAN).syn())
        .gets_turned("outside:40000 > far-v:8080")
        .counting(&[FlowsCreated, WaysFound])
        .xdp(any("outside:40000 > web:80").tagged(&OF_QINQ))
        .gets_turned("outside:40000 > far-v:8080")
        .tagged(&[(Q, 0x7000 | 100)])
        .counting(&[WaysFound])
        .run();
    row()
        .outward()
        .vlans_turn()
        .serve("web:80", &["far-w:8080"])
        .xdp(any("outside:40000 > web:80").tagged(&OF_VLAN).syn())
        .gets_forwarded("outside:40000 > far-w:8080")
        .tagged(&[(Q, 0xa000 | 400)])
        .counting(&[FlowsCreated, WaysFound])
        .run();
}

/// The connection has moved to another VLAN, or somebody in another VLAN says the same.
#[test]
fn a_way_is_of_one_vlan_only() {
    let to = "outside:40000 > far-v:8080";
    under_way(serving("far-v"), "far-v", &OF_VLAN, &OF_VLAN)
        .xdp(any("outside:40000 > web:80"))
        .gets_forwarded(to)
        .tagged(&[(Q, 100)])
        .counting(&[WaysFound])
        .xdp(any("outside:40000 > web:80"))
        .gets_forwarded(to)
        .tagged(&[(Q, 100)])
        .xdp(any("outside:40000 > web:80").tagged(&OF_VLAN))
        .gets_forwarded(to)
        .counting(&[WaysFound])
        .run();
}

#[test]
fn a_backend_on_this_node_gets_the_frame_with_its_tags() {
    for tags in [&OF_VLAN[..], &OF_QINQ] {
        row()
            .outward()
            .vlans()
            .serve("web:80", &["pod:8080 local"])
            .xdp(any("outside:40000 > web:80").tagged(tags).syn())
            .becomes("outside:40000 > pod:8080")
            .counting(&[FlowsCreated])
            .xdp(any("outside:40000 > web:80").tagged(tags))
            .becomes("outside:40000 > pod:8080")
            .xdp(any("outside:40000 > web:80").tagged(tags))
            .becomes("outside:40000 > pod:8080")
            .run();
    }
}

#[test]
fn what_xdp_knows_no_device_for_goes_up_untouched() {
    let frame = || any("outside:40000 > web:80").syn();
    let table: [(&str, Sketch); 9] = [
        ("another VLAN", frame().vlan(101)),
        ("the same number of the other kind", frame().service_vlan(100)),
        ("the outer tag alone", frame().service_vlan(200)),
        ("another inner tag", frame().service_vlan(200).vlan(301)),
        ("the tags in the other order", frame().vlan(300).service_vlan(200)),
        ("a tag too many", frame().vlan(100).vlan(100)),
        ("three tags", frame().service_vlan(200).vlan(300).vlan(1)),
        ("a priority alone", frame().vlan(0xe000)),
        ("a VLAN in a priority", frame().vlan(0xe000).vlan(100)),
    ];
    for (what, sketch) in table {
        let row = serving("far-v").xdp(sketch).stays_untouched();
        assert!(row.check().is_ok(), "{what}: {:?}", row.check());
    }
    // The VLAN of another card.
    serving("far-v").xdp(frame().vlan(400)).stays_untouched().run();
}

#[test]
fn a_tag_that_is_cut_short_goes_up_untouched() {
    for len in 14..22 {
        serving("far-v")
            .xdp(any("outside:40000 > web:80").service_vlan(200).vlan(300).cut(len))
            .stays_untouched()
            .run();
    }
}

#[test]
fn a_vlan_device_that_xdp_may_not_send_by_leaves_the_flow_to_the_stack() {
    row()
        .outward()
        .serve("web:80", &["far-v:8080"])
        .xdp(any("outside:40000 > web:80").syn())
        .passes()
        .counting(&[FlowsCreated, WaysLeft])
        .run();
}

#[test]
fn without_room_for_a_tag_the_frame_goes_up_untouched() {
    let frame = || any("outside:40000 > web:80").sized(100);
    under_way(serving("far-q"), "far-q", &[], &[(AD, 200), (Q, 300)])
        .xdp(frame())
        .headroom(7)
        .stays_untouched()
        .xdp(frame())
        .headroom(8)
        .gets_forwarded("outside:40000 > far-q:8080")
        .tagged(&[(AD, 200), (Q, 300)])
        .host_only("the kernel leaves 256 octets in front of every frame of a test run")
        .run();
}

#[test]
fn tagged_frames_that_the_stack_must_see_stay_as_they_came() {
    let frame = || any("outside:40000 > web:80").tagged(&OF_VLAN);
    under_way(serving("far-w"), "far-w", &OF_VLAN, &[(Q, 0xa000 | 400)])
        .xdp(frame().hops(1))
        .stays_untouched()
        .xdp(frame().framed_to([0xff; 6]))
        .stays_untouched()
        // More than the device sends at once.
        .xdp(frame().sized(8000))
        .stays_untouched()
        .run();
    serving("far-w")
        .xdp(udp("outside:40000 > web:80").tagged(&OF_VLAN).fragment(7, 0, 16))
        .stays_untouched()
        .run();
}

#[test]
fn a_neighbour_is_kept_known_in_each_vlan() {
    use lb_common::layout::limits::REST_NS;
    use std::time::Duration;
    let frame = |tags: Tags| udp("outside:40000 > web:80").tagged(tags);
    serving("far-v")
        .xdp(frame(&OF_VLAN))
        .gets_forwarded("outside:40000 > far-v:8080")
        .counting(&[FlowsCreated, WaysFound])
        .xdp(frame(&OF_VLAN))
        .gets_forwarded("outside:40000 > far-v:8080")
        .counting(&[WaysFound])
        .later(Duration::from_nanos(REST_NS))
        .xdp(frame(&OF_VLAN))
        .passes()
        .counting(&[WaysFound])
        .xdp(frame(&OF_VLAN))
        .gets_forwarded("outside:40000 > far-v:8080")
        .run();
}
