//! Publishing against readers: *all* interleavings of the writer's steps with a reader's.
//!
//! The writer is the real `Publisher`, whose writes are recorded; the reader is the real `datapath::open`, which makes
//! five reads (address, frontend, service, slot, backend). Before each read any number of the writer's next steps may happen.
//! Steps behind a grace period may not happen while a reader that began before it is under way: that is what the
//! period is for. Whatever the interleaving, the reader must get a backend of the Service that it asked for, from the
//! set before or the set after, and never miss one.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    net::IpAddr,
    ops::{Deref, DerefMut},
};

use lb_common::{
    datapath::{Bucket, Hook, Insert, Opened, Opens, Refused, Tables, World, choose, open},
    layout::{
        AddressFlags, Affinity, AffinityKey, Backend, Counter, Desk, DropReason, Event, Flow, FlowKey, FragmentKey,
        FragmentPorts, Frontend as FrontendWord, FrontendKey, Ip4, Node, Port, Proto, Service, TokenBucket, V4,
    },
};
use lb_userspace::{
    model::{Family, Protocol, ServiceKey},
    plan::{self, BackendState, DesiredPort, Frontend, FrontendKind, PortId, Scope, WhenEmpty},
    reconcile::{Publisher, Siblings},
    tables::{Capacity, MemoryTables, Tables as _, Write},
};

/// The endpoints of a port, and those on this node if `internalTrafficPolicy: Local` asks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lists {
    cluster: Vec<u8>,
    local: Option<Vec<u8>>,
}

impl Lists {
    /// The list that clients get.
    fn in_force(&self) -> &[u8] {
        self.local.as_ref().unwrap_or(&self.cluster)
    }
}

/// What one port is to look like after a step; `None` takes it away.
type Step = (&'static str, Option<Lists>);

/// All of these.
fn all<const N: usize>(cluster: [u8; N]) -> Option<Lists> {
    Some(Lists {
        cluster: cluster.into(),
        local: None,
    })
}

/// Of these those on this node.
fn here<const N: usize, const M: usize>(cluster: [u8; N], local: [u8; M]) -> Option<Lists> {
    Some(Lists {
        cluster: cluster.into(),
        local: Some(local.into()),
    })
}

/// A Service's name gives its addresses, so that no two Services share an endpoint.
fn cluster_ip(service: &str) -> IpAddr {
    IpAddr::from([10, 96, 0, service.as_bytes()[0]])
}

fn endpoint(service: &str, number: u8) -> IpAddr {
    IpAddr::from([10, 244, service.as_bytes()[0], number])
}

fn port_id(service: &str) -> PortId {
    PortId {
        service: ServiceKey::new("default", service),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn desired(service: &str, lists: &Lists) -> DesiredPort {
    let backend = |number: u8| plan::Backend {
        address: endpoint(service, number),
        port: 8080,
        local: false,
        state: BackendState::Ready,
    };
    let scope = |numbers: &Vec<u8>| Scope {
        backends: numbers.iter().copied().map(backend).collect(),
        when_empty: WhenEmpty::Reject,
    };
    DesiredPort {
        frontends: vec![Frontend {
            address: cluster_ip(service),
            port: 80,
            kind: FrontendKind::ClusterIp,
        }],
        cluster: lists.local.is_none().then(|| scope(&lists.cluster)),
        local: lists.local.as_ref().map(scope),
        internal_local: lists.local.is_some(),
        external_local: false,
        others: Vec::new(),
        affinity_timeout_s: None,
        sources: None,
        resets: false,
    }
}

/// The endpoints of each Service.
type State = Vec<(&'static str, Vec<u8>)>;

/// How many writes have happened before each of a reader's reads.
type Schedule = [usize; READS];

/// Address, frontend, service, slot, backend.
const READS: usize = 5;

/// The history of a run: what was written, and after which write each state was complete.
struct History {
    writes: Vec<Write<Ip4>>,
    /// Number of writes after which the state holds, and the state: endpoints of each Service.
    states: Vec<(usize, State)>,
}

/// When places are freed.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// A grace period after each step.
    Calm,
    /// All steps before the first grace period ends.
    Burst,
}

/// Lets the publisher make the steps over tables so small that everything is reused.
fn record(steps: &[Step], pace: Pace) -> History {
    let capacity = Capacity {
        services: 2,
        slots: 6,
        backends: 7,
    };
    let mut publisher = Publisher::<V4, _>::adopt(MemoryTables::new(capacity)).expect("empty tables");
    let mut now = State::new();
    let mut states = vec![(0, now.clone())];
    for (service, lists) in steps {
        now.retain(|(name, _)| name != service);
        match lists {
            Some(lists) => {
                publisher
                    .publish(&port_id(service), &desired(service, lists), &Siblings::default())
                    .expect("it fits");
                now.push((service, lists.in_force().to_vec()));
            }
            None => {
                publisher.withdraw(&port_id(service)).expect("memory tables don't fail");
            }
        }
        states.push((publisher.tables().writes.len(), now.clone()));
        if pace == Pace::Calm {
            let retired = publisher.take_retired();
            publisher.tables_mut().writes.push(Write::Grace);
            publisher.reuse(retired);
        }
    }
    let writes = publisher.tables().writes.clone();
    History { writes, states }
}

/// A world in which the writer goes on while the reader reads.
struct Racing<'a> {
    tables: RefCell<MemoryTables<Ip4>>,
    writes: &'a [Write<Ip4>],
    done: Cell<usize>,
    schedule: Schedule,
    reads: Cell<usize>,
    desk: RefCell<Desk<Ip4>>,
}

impl Racing<'_> {
    fn advance(&self) {
        let until = self.schedule[self.reads.get().min(READS - 1)];
        while self.done.get() < until {
            self.tables.borrow_mut().replay(&self.writes[self.done.get()]);
            self.done.set(self.done.get() + 1);
        }
        self.reads.set(self.reads.get() + 1);
    }
}

struct Owned<T>(T);

impl<T> Deref for Owned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl Tables<V4> for Racing<'_> {
    fn address(&self, address: &Ip4) -> Option<AddressFlags> {
        self.advance();
        self.tables.borrow().address(address)
    }

    fn frontend(&self, key: &FrontendKey<Ip4>) -> Option<FrontendWord> {
        self.advance();
        self.tables.borrow().frontend(key)
    }

    fn service(&self, number: u32) -> Option<impl Deref<Target = Service>> {
        self.advance();
        Some(Owned(self.tables.borrow().service(number)))
    }

    fn allows(&self, _set: u32, _address: &Ip4) -> bool {
        true
    }

    fn place_of(&self, _base: u32, _len: u32, _backend: u32) -> Option<u32> {
        None
    }

    fn affinity(&self, _key: &AffinityKey<Ip4>) -> Option<impl Deref<Target = Affinity>> {
        None::<Owned<Affinity>>
    }

    fn insert_affinity(&self, _key: &AffinityKey<Ip4>, _affinity: &Affinity) {}

    fn count_opened(&self, _service: u32, _backend: u32) {}

    fn count_refused(&self, _service: u32) {}

    fn slot(&self, place: u32) -> Option<u32> {
        self.advance();
        Some(self.tables.borrow().slot(place))
    }

    fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<Ip4>>> {
        self.advance();
        Some(Owned(self.tables.borrow().backend(number)))
    }

    fn flow(&self, _key: &FlowKey<Ip4>) -> Option<impl DerefMut<Target = Flow<Ip4>>> {
        None::<Owned<Flow<Ip4>>>
    }

    fn insert_flow(&self, _key: &FlowKey<Ip4>, _flow: &Flow<Ip4>, _how: Insert) -> Result<(), Refused> {
        Ok(())
    }

    fn fragment(&self, _key: &FragmentKey<Ip4>) -> Option<FragmentPorts> {
        None
    }

    fn insert_fragment(&self, _key: &FragmentKey<Ip4>, _ports: &FragmentPorts) {}

    fn desk(&self) -> Option<impl DerefMut<Target = Desk<Ip4>>> {
        Some(self.desk.borrow_mut())
    }

    fn node(&self) -> Option<impl Deref<Target = Node<Ip4>>> {
        Some(Owned(Node::default()))
    }

    fn device_address(&self, _ifindex: u32) -> Option<impl Deref<Target = Ip4>> {
        None::<Owned<Ip4>>
    }
}

impl World for Racing<'_> {
    fn now_ns(&self) -> u64 {
        10_000_000_000
    }

    fn ifindex(&self) -> u32 {
        1
    }

    fn is_pod_device(&self, _ifindex: u32) -> bool {
        false
    }

    fn count(&self, _what: Counter) {}

    fn count_drop(&self, _reason: DropReason) {}

    fn bucket(&self, _which: Bucket) -> Option<impl DerefMut<Target = TokenBucket>> {
        Some(Owned(TokenBucket::default()))
    }

    fn emit(&self, _event: &Event) -> bool {
        true
    }
}

impl Opens<V4> for Racing<'_> {
    fn outgoing(&self, _address: &Ip4) -> Option<u32> {
        None
    }

    fn has_socket(&self, _key: &FlowKey<Ip4>) -> bool {
        false
    }
}

/// What a client of `service` may get when its read begins after `from` writes and ends after `to` of them: the
/// endpoints of every state that was in force meanwhile, and whether it may find none.
fn allowed(history: &History, service: &str, from: usize, to: usize) -> (BTreeSet<IpAddr>, bool, bool) {
    // A state is in force from some write of its own step on until the next step is complete.
    let mut endpoints = BTreeSet::new();
    let (mut absent, mut refused) = (false, false);
    for (index, (complete, state)) in history.states.iter().enumerate() {
        let begins = if index == 0 { 0 } else { history.states[index - 1].0 };
        let ends = history.states.get(index + 1).map_or(usize::MAX, |next| next.0);
        let not_yet_begun = index > 0 && to <= begins && *complete > begins;
        if not_yet_begun || ends <= from {
            continue;
        }
        match state.iter().find(|(name, _)| *name == service) {
            None => absent = true,
            Some((_, numbers)) if numbers.is_empty() => refused = true,
            Some((_, numbers)) => endpoints.extend(numbers.iter().map(|&number| endpoint(service, number))),
        }
    }
    (endpoints, absent, refused)
}

fn read(history: &History, service: &str, client_port: u16, schedule: Schedule) -> (Opened, IpAddr) {
    let key = FlowKey::new(
        Ip4 { octets: [10, 0, 0, 1] },
        Port::new(client_port),
        Ip4 {
            octets: [10, 96, 0, service.as_bytes()[0]],
        },
        Port::new(80),
        Proto::TCP,
    );
    let world = Racing {
        tables: RefCell::new(MemoryTables::new(Capacity {
            services: 2,
            slots: 6,
            backends: 7,
        })),
        writes: &history.writes,
        done: Cell::new(0),
        schedule,
        reads: Cell::new(0),
        desk: RefCell::new(Desk {
            old: key,
            ..Desk::default()
        }),
    };
    let chosen = choose::<V4, _>(&world, Hook::Ingress);
    let opened = open::<V4, _>(&world, Hook::Ingress, chosen);
    (opened, world.desk.into_inner().rewrite.dst.into())
}

/// Whether the schedule keeps to the grace periods: no step behind one while a reader from before it is under way.
fn keeps_grace(history: &History, schedule: Schedule) -> bool {
    let (first, last) = (schedule[0], schedule[READS - 1]);
    !history
        .writes
        .iter()
        .enumerate()
        .any(|(index, write)| *write == Write::Grace && first <= index && last > index)
}

fn check_all_interleavings(steps: &[Step], pace: Pace) -> usize {
    let history = record(steps, pace);
    let count = history.writes.len();
    let services: BTreeSet<&str> = steps.iter().map(|(service, _)| *service).collect();
    let mut checked = 0;
    let mut schedule = [0; READS];
    loop {
        if keeps_grace(&history, schedule) {
            for service in &services {
                for client_port in [40_001, 40_002] {
                    check(&history, service, client_port, schedule);
                    checked += 1;
                }
            }
        }
        if !advance(&mut schedule, count) {
            return checked;
        }
    }
}

/// The next schedule in which no read comes before an earlier one; false after the last.
fn advance(schedule: &mut Schedule, count: usize) -> bool {
    let Some(place) = schedule.iter().rposition(|done| *done < count) else {
        return false;
    };
    let next = schedule[place] + 1;
    schedule[place..].fill(next);
    true
}

fn check(history: &History, service: &str, client_port: u16, schedule: Schedule) {
    let (opened, backend) = read(history, service, client_port, schedule);
    let (endpoints, absent, refused) = allowed(history, service, schedule[0], schedule[READS - 1]);
    let fine = match opened {
        Opened::Translate => endpoints.contains(&backend),
        // While a Service comes or goes its address may be known without a port.
        Opened::NotOurs | Opened::Refuse(DropReason::UnknownPort) => absent,
        Opened::Refuse(reason) => refused && reason == DropReason::NoEndpoint,
        Opened::TranslateAndRoute | Opened::Drop(_) => false,
    };
    assert!(
        fine,
        "a client of {service} (port {client_port}), whose reads happened after {schedule:?} writes, got {opened:?} \
         towards {backend}; allowed: {endpoints:?}, absent {absent}, refused {refused}\nwrites:\n{}",
        history
            .writes
            .iter()
            .enumerate()
            .map(|(n, write)| format!("  {n}: {write:?}\n"))
            .collect::<String>()
    );
}

#[test]
fn an_endpoint_change_is_seen_whole_or_not_at_all() {
    let checked = check_all_interleavings(&[("a", all([1, 2])), ("a", all([2, 3]))], Pace::Calm);
    println!("{checked} interleavings");
    assert!(checked >= 500, "{checked} interleavings");
}

#[test]
fn scaling_to_zero_and_back_refuses_or_serves_and_never_misses_a_backend() {
    check_all_interleavings(&[("a", all([1])), ("a", all([])), ("a", all([2]))], Pace::Calm);
}

#[test]
fn a_number_that_is_used_anew_never_leads_to_another_services_backend() {
    // Two numbers and few slots: b gets what a had.
    check_all_interleavings(&[("a", all([1, 2])), ("a", None), ("b", all([1, 2]))], Pace::Calm);
}

#[test]
fn two_services_that_change_places_do_not_meet() {
    check_all_interleavings(
        &[("a", all([1])), ("b", all([1])), ("a", all([2])), ("b", all([2]))],
        Pace::Calm,
    );
}

#[test]
fn places_that_fell_free_are_not_used_anew_while_a_reader_may_stand_in_them() {
    let steps = [("a", all([1, 2])), ("a", all([3])), ("b", all([1, 2])), ("a", all([4]))];
    check_all_interleavings(&steps, Pace::Burst);
}

#[test]
fn a_backend_that_leaves_and_comes_back_within_one_grace_period_stays_whole() {
    let steps = [("a", all([1, 2])), ("a", all([2])), ("a", all([1, 2]))];
    check_all_interleavings(&steps, Pace::Burst);
    check_all_interleavings(&steps, Pace::Calm);
}

#[test]
fn a_policy_change_is_seen_whole_or_not_at_all() {
    let steps = [("a", all([1, 2])), ("a", here([1, 2], [2])), ("a", all([1, 2]))];
    check_all_interleavings(&steps, Pace::Calm);
    let steps = [("a", here([1, 2], [2])), ("a", all([1, 3])), ("a", here([1, 3], [3]))];
    check_all_interleavings(&steps, Pace::Burst);
}
