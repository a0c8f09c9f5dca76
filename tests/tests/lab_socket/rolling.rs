//! A rolling restart under load, without any sleep before a server ends: it stops accepting at the moment at which its endpoint begins to
//! leave. What fails is what came between the two, by either tier; nothing fails before or after.

use std::time::Duration;

use rstest::rstest;
use tests::lab::{AgentOptions, Lab};
use tests::traffic::manifests::{Endpoint, Service};
use tests::traffic::{Cluster, HttpLoad, HttpPlan, Phase, Serve, Server};

use crate::scene::{PATIENCE, at, count, ips, options};

const SHOP: [&str; 2] = ["10.96.0.90", "fd00:10:96::90"];
const PER_SECOND: u32 = 200;
/// From the file to the tables: the folder settles, the agent reads.
const LEAVES_WITHIN: Duration = Duration::from_millis(600);

#[rstest]
#[case::socket_tier(true)]
#[case::tc_tier(false)]
fn only_what_meets_a_server_that_has_just_ended_fails(#[case] by_socket: bool) {
    let lab = Lab::one_node().backends(4).build().expect("a lab");
    let shop = |away: Option<u8>| {
        let mut service = Service::new("shop", ips(SHOP)).port("TCP", 80, 8080);
        for number in 1..=3 {
            service
                .endpoints
                .extend(lab.backend(number).addresses().map(|ip| Endpoint {
                    ready: away != Some(number),
                    serving: away != Some(number),
                    terminating: away == Some(number),
                    ..Endpoint::local(ip)
                }));
        }
        service
    };
    let chosen = if by_socket {
        options(&[])
    } else {
        AgentOptions::default()
    };
    let (leaving, back): (Vec<_>, _) = ((1..=3).map(|number| shop(Some(number))).collect(), shop(None));
    let mut cluster = Cluster::start(lab, std::slice::from_ref(&back), &chosen).expect("servers and agent start");
    let plan = HttpPlan {
        per_second: PER_SECOND,
        connect_within: PATIENCE,
        ..HttpPlan::to(ips(SHOP).map(|ip| at(ip, 80)))
    };
    let load = HttpLoad::start(cluster.lab.backend(4), plan, Phase::served("before")).expect("the load starts");
    std::thread::sleep(Duration::from_millis(500));
    for (number, leaving) in (1..).zip(&leaving) {
        load.begin(Phase::served("restart"));
        // What was begun before is over.
        std::thread::sleep(Duration::from_millis(50));
        let name = cluster.lab.backend(number).name.clone();
        cluster.manifests.apply(leaving).expect("written");
        let index = cluster
            .servers
            .iter()
            .position(|server| server.name() == name)
            .expect("its server");
        drop(cluster.servers.remove(index));
        std::thread::sleep(LEAVES_WITHIN);
        load.begin(Phase::served("away"));
        std::thread::sleep(Duration::from_millis(300));
        let server = Server::start(cluster.lab.backend(number), &Serve::default()).expect("it starts again");
        cluster.servers.push(server);
        cluster.manifests.apply(&back).expect("written");
        std::thread::sleep(Duration::from_millis(300));
    }
    let reports = load.finish();
    let all: u64 = reports.iter().map(|report| report.connections).sum();
    let failed: u64 = reports.iter().map(|report| report.lost).sum();
    println!("by socket {by_socket}: {failed} of {all} connections failed in three restarts");
    for report in &reports {
        if report.phase.name != "restart" {
            assert_eq!(report.lost, 0, "{}: {:?}", report.phase.name, report.failures);
        }
    }
    assert!(all > 500, "{all} connections");
    // A third of what comes while the endpoint leaves, three times.
    assert!(failed < all / 10, "{failed} of {all}");
    assert_eq!(count(&cluster, "counters", "socket_connects") > 0, by_socket);
}
