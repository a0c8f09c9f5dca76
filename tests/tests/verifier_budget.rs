//! The verifier budget: how many instructions the kernel's verifier walks for each program. A program that grows past
//! its budget is on its way to being refused by older kernels and to costing more per packet.

use lb_userspace::kernel::{Datapath, LoadOptions};

/// Program, verified instructions at most. The kernel refuses at 1 000 000.
///
/// A flow is opened in two families, each with session affinity, source ranges and masquerade, which the verifier walks in
/// all combinations: 247 000 to 272 000 for tc, of which choosing takes 65 000; 200 000 for XDP.
const BUDGETS: &[(&str, u32)] = &[
    ("lb_tc_ingress", 300_000),
    ("lb_tc_egress", 300_000),
    ("lb_tc_l3_in", 300_000),
    ("lb_tc_l3_out", 300_000),
    ("lb_xdp", 250_000),
    ("lb_getpeer4", 1_000),
    ("lb_getpeer6", 1_000),
    ("lb_recvmsg4", 1_000),
    ("lb_recvmsg6", 1_000),
    ("lb_sendmsg4", 50_000),
    ("lb_sendmsg6", 50_000),
    ("lb_connect4", 10_000),
    ("lb_connect6", 10_000),
    ("lb_bind4", 5_000),
    ("lb_bind6", 5_000),
];

#[test]
fn every_program_stays_within_its_verifier_budget() {
    let datapath = Datapath::load(&LoadOptions {
        maps: None,
        flows_max: 16_384,
        ways_max: 16_384,
        later: &[],
    })
    .expect("load the object");
    datapath
        .socket_programs()
        .expect("the kernel takes the socket programs");
    let measured = datapath.verified_instructions().expect("verified instructions");
    for (name, count) in &measured {
        println!("{name}: {count} verified instructions");
    }
    assert_eq!(measured.len(), BUDGETS.len());
    for ((name, count), (budgeted, budget)) in measured.into_iter().zip(BUDGETS) {
        assert_eq!(name, *budgeted);
        assert!(
            count <= *budget,
            "{name}: the verifier walks {count} instructions, the budget is {budget}"
        );
    }
}
