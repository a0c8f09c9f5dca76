//! Rows: SCTP (RFC 9260). Its checksum covers the whole packet, and follows a change of the ports without reading it; the
//! associations' states are told by the first chunk.

use lb_common::layout::{
    Counter::{ErrorsTranslated, FlowsCreated, FlowsMasqueraded, PortsTranslated},
    DropReason::{NoEndpoint, SctpFragment},
};
use tests::packet::{
    row::row,
    service::service,
    sketch::{ABORT, Checksum, DATA, INIT, icmp, sctp},
};

#[test]
fn row_7_an_association_is_translated_there_and_back_xdp_included() {
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(sctp("pod3:40000 > web:53", INIT))
        .becomes("pod3:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .egress(sctp("pod:5353 > pod3:40000", DATA))
        .becomes("web:53 > pod3:40000")
        .ingress(sctp("pod3:40000 > web:53", DATA).sized(1_400))
        .becomes("pod3:40000 > pod:5353")
        .run();
    row()
        .serve("web:53", &["pod:5353 local"])
        .xdp(sctp("client:40000 > web:53", INIT))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .xdp(sctp("client:40000 > web:53", DATA).sized(1_201))
        .becomes("client:40000 > pod:5353")
        .run();
}

#[test]
fn row_7_without_a_change_of_ports_the_checksum_stays() {
    for checksum in [Checksum::Right, Checksum::None, Checksum::OffBy(5)] {
        row()
            .serve("web:53", &["pod:53"])
            .ingress(sctp("pod3:40000 > web:53", INIT).checksum(checksum))
            .becomes("pod3:40000 > pod:53")
            .counting(&[FlowsCreated])
            .run();
    }
}

#[test]
fn a_wrong_checksum_is_as_wrong_afterwards() {
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(sctp("pod3:40000 > web:53", INIT).checksum(Checksum::OffBy(0x21)))
        .becomes("pod3:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn a_checksum_that_is_still_to_be_made_stays_zero_and_xdp_leaves_it_to_tc() {
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(sctp("pod3:40000 > web:53", INIT).checksum(Checksum::Partial))
        .becomes("pod3:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .run();
    row()
        .serve("web:53", &["pod:5353 local"])
        .xdp(sctp("pod3:40000 > web:53", INIT).checksum(Checksum::Partial))
        .stays_untouched()
        .run();
}

#[test]
fn a_masqueraded_association_gets_another_port_when_its_own_is_taken() {
    row()
        .node()
        .given(service("web").load_balancer("vip:53").to(&["pod:5353"]))
        .ingress(sctp("client:40000 > vip:53", INIT))
        .becomes("client:40000 > pod:5353")
        .counting(&[FlowsCreated, FlowsMasqueraded])
        .egress(sctp("client:40000 > pod:5353", INIT))
        .becomes("node:40000 > pod:5353")
        .ingress(sctp("client2:40000 > vip:53", INIT))
        .becomes("client2:40000 > pod:5353")
        .counting(&[FlowsCreated, FlowsMasqueraded, PortsTranslated])
        .egress(sctp("client2:40000 > pod:5353", INIT))
        .becomes("node:* > pod:5353")
        .ingress(sctp("pod:5353 > node:*", DATA))
        .becomes("pod:5353 > client2:40000")
        .egress(sctp("pod:5353 > client2:40000", DATA))
        .becomes("vip:53 > client2:40000")
        .run();
}

#[test]
fn an_association_stays_with_its_endpoint_and_one_that_was_aborted_does_not() {
    row()
        .serve("web:53", &["pod:53"])
        .ingress(sctp("pod3:40000 > web:53", INIT))
        .becomes("pod3:40000 > pod:53")
        .counting(&[FlowsCreated])
        .serve("web:53", &["pod2:53"])
        .withdraw("pod:53")
        .ingress(sctp("pod3:40000 > web:53", DATA))
        .becomes("pod3:40000 > pod:53")
        .ingress(sctp("pod3:40000 > web:53", ABORT))
        .becomes("pod3:40000 > pod:53")
        .ingress(sctp("pod3:40000 > web:53", INIT))
        .becomes("pod3:40000 > pod2:53")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn without_an_endpoint_its_sender_is_told_by_icmp() {
    row()
        .reject("web:53")
        .ingress(sctp("pod3:40000 > web:53", INIT))
        .gets_refused(NoEndpoint)
        .run();
}

#[test]
fn a_first_fragment_that_needs_another_port_is_dropped_and_one_that_does_not_goes_on() {
    let first = |tuple: &str| sctp(tuple, DATA).sized(200).fragment(7, 0, 104);
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(first("pod3:40000 > web:53"))
        .gets_dropped(SctpFragment)
        .counting(&[FlowsCreated])
        .run();
    row()
        .serve("web:53", &["pod:53"])
        .ingress(first("pod3:40000 > web:53"))
        .becomes("pod3:40000 > pod:53")
        .counting(&[FlowsCreated])
        .run();
}

#[test]
fn an_icmp_error_about_it_is_translated_back() {
    row()
        .serve("web:53", &["pod:5353"])
        .ingress(sctp("pod3:40000 > web:53", INIT))
        .becomes("pod3:40000 > pod:5353")
        .counting(&[FlowsCreated])
        .egress(icmp("pod > pod3", 3, 3).quoting(sctp("pod3:40000 > pod:5353", INIT), 28))
        .becomes("web > pod3")
        .quoting("pod3:40000 > web:53")
        .counting(&[ErrorsTranslated])
        .v4()
        .run();
}
