//! TCP connections whose endpoint is gone for good, of Services that ask for it: their clients are told by a reset at their
//! next packet, instead of waiting for a time-out. The flow's entry is marked; the kernel program answers. Sockets that the socket tier has
//! led there are for `hang_up` to close.
//!
//! An endpoint that moves from one EndpointSlice to another may be missing for a moment: it counts as gone after a while.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use lb_common::{
    datapath::SocketFamily,
    layout::{Address, Flow, FlowFlags, FlowKey, Ip4, Ip6, Proto, V4, V6},
};
use tracing::{error, info};

use super::GonePeer;
use crate::{
    reconcile::{Gone, Publisher, Reconciler},
    tables::{FlowTable, Flows as _, TableFamily, Tables},
};

/// How long an endpoint must be missing to count as gone for good.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Endpoints that are missing, and since when.
#[derive(Debug, Default)]
pub struct RemovedEndpoints {
    v4: Vec<(Instant, Gone<Ip4>)>,
    v6: Vec<(Instant, Gone<Ip6>)>,
}

impl RemovedEndpoints {
    /// Takes note of what is missing since the last call.
    pub fn note<T4: Tables<Ip4>, T6: Tables<Ip6>>(&mut self, reconciler: &mut Reconciler<T4, T6>) {
        let now = Instant::now();
        let (v4, v6) = reconciler.take_gone();
        self.v4.extend(v4.into_iter().map(|gone| (now, gone)));
        self.v6.extend(v6.into_iter().map(|gone| (now, gone)));
    }

    /// Marks the connections of those that have not come back, and says which these are.
    pub fn hang_up<T4: Tables<Ip4>, T6: Tables<Ip6>>(
        &mut self,
        reconciler: &Reconciler<T4, T6>,
        flows4: &mut FlowTable<V4>,
        flows6: &mut FlowTable<V6>,
    ) -> HashSet<GonePeer> {
        let v4 = overdue(&mut self.v4);
        let v6 = overdue(&mut self.v6);
        let mut peers = mark(flows4, &v4, reconciler.v4());
        peers.extend(mark(flows6, &v6, reconciler.v6()));
        peers
    }
}

fn overdue<A: Copy>(missing: &mut Vec<(Instant, Gone<A>)>) -> Vec<Gone<A>> {
    let (over, waiting): (Vec<_>, Vec<_>) = missing.drain(..).partition(|(since, _)| since.elapsed() >= GONE_AFTER);
    *missing = waiting;
    over.into_iter().map(|(_, gone)| gone).collect()
}

fn mark<F: TableFamily + SocketFamily, T: Tables<F::Addr>>(
    table: &mut FlowTable<F>,
    missing: &[Gone<F::Addr>],
    publisher: &Publisher<F, T>,
) -> HashSet<GonePeer> {
    let gone = GoneForGood::of(missing, |gone| {
        publisher.has_backend(gone.service, gone.address, gone.port)
    });
    if gone.endpoints.is_empty() {
        return HashSet::new();
    }
    let nodes = publisher.nodes(&gone.services);
    let concerns = |key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>| {
        gone.concerns(key, flow, &nodes, || {
            publisher.has_backend(flow.service, flow.src, flow.sport)
        })
    };
    let mut keys: Vec<FlowKey<F::Addr>> = Vec::new();
    let read = table.for_each(|key, flow| {
        if concerns(key, flow) {
            keys.push(*key);
        }
    });
    let mut marked = 0;
    for key in &keys {
        // Another flow may have got the tuple since.
        if let Some(mut flow) = table.get(key).filter(|flow| concerns(key, flow)) {
            flow.flags = flow.flags.with(FlowFlags::RESET);
            marked += usize::from(table.insert(key, &flow).is_ok());
        }
    }
    match read {
        Ok(()) => info!(
            endpoints = gone.endpoints.len(),
            connections = marked,
            "endpoints are gone: their clients get a reset"
        ),
        Err(error) => error!(%error, "connections to endpoints that are gone could not be found"),
    }
    let peer = |gone: Gone<F::Addr>| GonePeer {
        service: gone.service,
        address: F::wide(&gone.address),
        port: gone.port,
    };
    gone.endpoints.into_iter().map(peer).collect()
}

/// Endpoints that have not come back, and the service numbers that had them.
struct GoneForGood<A> {
    endpoints: HashSet<Gone<A>>,
    services: HashSet<u32>,
}

impl<A: Address> GoneForGood<A> {
    fn of(missing: &[Gone<A>], is_back: impl Fn(&Gone<A>) -> bool) -> Self {
        let gone = missing.iter().filter(|gone| !is_back(gone));
        let endpoints: HashSet<_> = gone.copied().collect();
        let services = endpoints.iter().map(|gone| gone.service).collect();
        Self { endpoints, services }
    }

    /// Whether a flow's client is to be told. What went on in a tunnel to another node was for any endpoint there: that node tells
    /// its client, unless the Service has none left on it. `nodes` are those that still have one, by service number.
    fn concerns(
        &self,
        key: &FlowKey<A>,
        flow: &Flow<A>,
        nodes: &HashSet<(u32, A)>,
        has_endpoint: impl FnOnce() -> bool,
    ) -> bool {
        if key.proto != Proto::TCP || flow.flags.has(FlowFlags::REPLY) || flow.flags.has(FlowFlags::MASQUERADE) {
            return false;
        }
        if flow.flags.has(FlowFlags::TUNNELS) {
            return self.services.contains(&flow.service)
                && !nodes.contains(&(flow.service, flow.dst))
                && !has_endpoint();
        }
        self.endpoints.contains(&Gone {
            service: flow.service,
            address: flow.dst,
            port: flow.dport,
        })
    }
}

#[cfg(test)]
mod tests {
    use lb_common::layout::Port;
    use rstest::rstest;

    use super::*;

    /// Of service 1 the endpoint 10.0.0.1 on node 192.0.2.1 is gone; 10.0.0.2 on node 192.0.2.2 is there, as is all of service 2.
    #[rstest]
    #[case::to_the_endpoint(1, "10.0.0.1:80", None, true)]
    #[case::to_another_endpoint(1, "10.0.0.2:80", None, false)]
    #[case::to_another_port(1, "10.0.0.1:81", None, false)]
    #[case::of_another_service(2, "10.0.0.1:80", None, false)]
    #[case::to_its_node_in_a_tunnel(1, "10.0.0.1:80", Some("192.0.2.1"), true)]
    #[case::chosen_for_an_endpoint_before(1, "10.0.0.9:80", Some("192.0.2.1"), true)]
    #[case::to_a_node_that_has_one(1, "10.0.0.1:80", Some("192.0.2.2"), false)]
    #[case::its_endpoint_is_there_and_its_node_unknown(1, "10.0.0.2:80", Some("192.0.2.9"), false)]
    #[case::in_a_tunnel_of_another_service(2, "10.0.0.1:80", Some("192.0.2.1"), false)]
    fn who_is_told(#[case] service: u32, #[case] endpoint: &str, #[case] node: Option<&str>, #[case] expected: bool) {
        let ip4 = |text: &str| Ip4::from(text.parse::<std::net::Ipv4Addr>().expect("an address"));
        let split = |text: &str| {
            let (address, port) = text.split_once(':').expect("a port");
            (ip4(address), Port::new(port.parse().expect("a port")))
        };
        let (address, port) = split("10.0.0.1:80");
        let missing = [Gone {
            service: 1,
            address,
            port,
        }];
        let gone = GoneForGood::of(&missing, |_| false);
        let nodes = HashSet::from([(1, ip4("192.0.2.2")), (2, ip4("192.0.2.1"))]);
        let key = FlowKey::new(
            ip4("198.51.100.9"),
            Port::new(1234),
            ip4("192.0.2.80"),
            Port::new(80),
            Proto::TCP,
        );
        let (address, port) = split(endpoint);
        let mut flow = Flow {
            service,
            dst: address,
            dport: port,
            ..Flow::default()
        };
        if let Some(node) = node {
            flow.flags = FlowFlags::TUNNELS;
            (flow.dst, flow.dport, flow.src, flow.sport) = (ip4(node), Port::default(), address, port);
        }
        let is_there = (service, endpoint) == (1, "10.0.0.2:80");
        assert_eq!(gone.concerns(&key, &flow, &nodes, || is_there), expected);
        flow.flags = flow.flags.with(FlowFlags::REPLY);
        assert!(
            !gone.concerns(&key, &flow, &nodes, || is_there),
            "of the opposite direction"
        );
        assert!(GoneForGood::of(&missing, |_| true).endpoints.is_empty(), "it is back");
    }
}
