//! The number in `ROUTES` is another one after every change of the routing, and the same after what changes nothing.

use std::time::{Duration, Instant};

use aya::maps::Array;
use lb_common::layout::names;
use tests::lab::{Lab, XdpMode, plan};

use super::cables::ip;
use super::{POLL, start};

/// From a change to the next number: the agent waits for nothing.
const COUNTED_WITHIN: Duration = Duration::from_millis(200);
/// How long nothing has to happen until nothing more is expected.
const QUIET: Duration = Duration::from_millis(50);

const OTHER_MAC: &str = "02:00:00:00:00:99";

#[test]
fn what_changes_a_next_hop_is_counted_and_what_confirms_it_is_not() {
    let mut cluster = start(XdpMode::Off);
    let lab = &cluster.lab;
    let pod = plan::backend_v4(1);
    let mac = plan::backend_mac(1);
    let rows = [
        (
            format!("neigh replace {pod} lladdr {mac} dev pod1 nud permanent"),
            false,
        ),
        (
            format!("neigh replace {pod} lladdr {mac} dev pod1 nud reachable"),
            false,
        ),
        (format!("neigh replace {pod} lladdr {mac} dev pod1 nud stale"), false),
        (
            format!("neigh replace {pod} lladdr {OTHER_MAC} dev pod1 nud reachable"),
            true,
        ),
        (
            format!("neigh replace {pod} lladdr {OTHER_MAC} dev pod1 nud stale"),
            false,
        ),
        (format!("neigh del {pod} dev pod1"), true),
        (
            format!("neigh replace {pod} lladdr {mac} dev pod1 nud permanent"),
            false,
        ),
        (
            "neigh add 172.18.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud reachable".to_owned(),
            false,
        ),
        ("neigh add proxy 172.18.0.78 dev eth0".to_owned(), false),
        (format!("route del {pod}/32 dev pod1"), true),
        (format!("route add {pod}/32 dev pod1"), true),
        ("route add fd00:99::/64 dev eth0".to_owned(), true),
        ("rule add to 10.99.0.0/16 table 99".to_owned(), true),
        ("rule del to 10.99.0.0/16 table 99".to_owned(), true),
        ("nexthop add id 9 dev eth0".to_owned(), true),
        ("addr add 10.99.0.1/32 dev eth0".to_owned(), true),
        ("link set pod2 mtu 1400".to_owned(), true),
        ("link set pod2 address 02:00:00:00:00:98".to_owned(), true),
        ("link set pod2 down".to_owned(), true),
        ("link del pod3".to_owned(), true),
    ];
    for (command, expected) in rows {
        let before = number_when_quiet(lab);
        ip(lab.node(), &[&command]);
        let begin = Instant::now();
        let wait = if expected { COUNTED_WITHIN } else { QUIET };
        while number(lab) == before && begin.elapsed() < wait {
            std::thread::sleep(POLL);
        }
        assert_eq!(number(lab) != before, expected, "{command}");
        println!("{command}: {:?}", begin.elapsed());
    }

    let before = number_when_quiet(lab);
    cluster.agent.restart().expect("it can be started again");
    cluster.agent.wait_ready().expect("it gets ready");
    let after = number_when_quiet(&cluster.lab);
    assert!(before < after && after < before + 1000, "it goes on: {before}, {after}");
}

/// A thousand changes in one go are counted a few times, and the last of them is.
#[test]
fn many_changes_at_once_are_counted_together() {
    let cluster = start(XdpMode::Off);
    let lab = &cluster.lab;
    let routes = (0..1000).map(|n| format!("route add 10.98.{}.{}/32 dev eth0", n / 250, n % 250));
    let routes: Vec<String> = routes.collect();
    let before = number_when_quiet(lab);
    let begin = Instant::now();
    ip(lab.node(), &routes);
    let took = begin.elapsed();
    let counted = number_when_quiet(lab) - before;
    let most = took.as_millis() as u32 + 10;
    println!("{counted} counts for {} routes in {took:?}", routes.len());
    assert!((1..most).contains(&counted), "{counted} counts in {took:?}");
}

fn number(lab: &Lab) -> u32 {
    let table = lab.table(names::ROUTES).expect("it is pinned");
    let table: Array<_, u32> = table.try_into().expect("an array of numbers");
    table.get(&0, 0).expect("it has one")
}

/// The number, once it stays the same.
pub(super) fn number_when_quiet(lab: &Lab) -> u32 {
    let mut last = number(lab);
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        std::thread::sleep(POLL);
        let now = number(lab);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}
