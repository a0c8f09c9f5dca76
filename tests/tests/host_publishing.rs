//! Publishing against readers: *all* interleavings of the writer's steps with a reader's.
//!
//! The writer is the real `Publisher`, whose writes are recorded; the reader is the real `datapath::choose`. Before each of
//! its reads (address, frontend, the words of the service record, source set, slot, backend) any number of the writer's
//! next writes may happen. Writes behind a grace period may not happen while a reader that began before the period is under
//! way: that is what the period is for. Whatever the interleaving, the reader must get a backend of the Service that it
//! asked for, of a list as it was before or after, by the policy from before or after, and never miss one.
//!
//! Of interleavings in which every read sees the same only one is tried: the shortest from each beginning. It allows least.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::{Deref, DerefMut},
};

use lb_common::{
    datapath::{Bucket, Chosen, End, Hook, Insert, Opens, Refused, Tables, World, choose},
    layout::{
        AddressFlags, Affinity, AffinityKey, Backend, Counter, Desk, DropReason, Event, Flow, FlowKey, FragmentKey,
        FragmentPorts, Frontend as FrontendWord, FrontendKey, Ip4, Node, Port, Proto, Service, TokenBucket, V4,
    },
};
use lb_userspace::{
    model::{Cidr, Family, Protocol, ServiceKey},
    plan::{self, BackendState, DesiredPort, Frontend, FrontendKind, PortId, Scope, WhenEmpty},
    reconcile::{Publisher, Siblings},
    tables::{Capacity, MemoryTables, Tables as _, Write},
};

/// An endpoint, whose address says its number: on this node or not, serving or not.
#[derive(Clone, Copy, Debug)]
struct Endpoint {
    number: u8,
    here: bool,
    serves: bool,
}

/// A Service with one port; all of them have a ClusterIP, a NodePort and an address of a load balancer unless said.
#[derive(Clone, Debug)]
struct Look {
    endpoints: Vec<Endpoint>,
    frontends: Vec<FrontendKind>,
    internal_local: bool,
    external_local: bool,
    affinity: bool,
    /// The only client that may dial the load balancer's address, by its last octet.
    only: Option<u8>,
}

const KINDS: [FrontendKind; 3] = [
    FrontendKind::ClusterIp,
    FrontendKind::NodePort,
    FrontendKind::LoadBalancer,
];

/// `"1 2h 3-"`: 2 is here, 3 does not serve.
fn to(endpoints: &str) -> Look {
    let endpoint = |word: &str| Endpoint {
        number: word[..1].parse().expect("a digit"),
        here: word.contains('h'),
        serves: !word.contains('-'),
    };
    Look {
        endpoints: endpoints.split_whitespace().map(endpoint).collect(),
        frontends: KINDS.to_vec(),
        internal_local: false,
        external_local: false,
        affinity: false,
        only: None,
    }
}

impl Look {
    fn itp(mut self) -> Self {
        self.internal_local = true;
        self
    }

    fn etp(mut self) -> Self {
        self.external_local = true;
        self
    }

    fn affinity(mut self) -> Self {
        self.affinity = true;
        self
    }

    fn only(mut self, client: u8) -> Self {
        self.only = Some(client);
        self
    }

    fn at(mut self, frontends: &[FrontendKind]) -> Self {
        self.frontends = frontends.to_vec();
        self
    }

    fn is_external(&self) -> bool {
        self.frontends.iter().any(|kind| *kind != FrontendKind::ClusterIp)
    }

    /// The list for a policy; nothing if no client is ever to use it.
    fn list(&self, local: bool) -> Option<Vec<Endpoint>> {
        let used = if local {
            self.internal_local || self.external_local && self.is_external()
        } else {
            !self.internal_local || self.is_external()
        };
        let all = self.endpoints.iter().filter(|one| one.serves && (one.here || !local));
        used.then(|| all.copied().collect())
    }

    fn desired(&self, service: &str) -> DesiredPort {
        let backend = |one: &Endpoint| plan::Backend {
            address: endpoint(service, one.number),
            port: 8080,
            local: one.here,
            state: if one.serves {
                BackendState::Ready
            } else {
                BackendState::NotServing
            },
        };
        let somebody = self.endpoints.iter().any(|one| one.serves);
        let scope = |local| {
            self.list(local).map(|list| Scope {
                backends: list.iter().map(backend).collect(),
                when_empty: if local && somebody {
                    WhenEmpty::Drop
                } else {
                    WhenEmpty::Reject
                },
            })
        };
        let (cluster, local) = (scope(false), scope(true));
        let is_listed = |one: &plan::Backend| {
            let lists = [&cluster, &local];
            lists.into_iter().flatten().any(|scope| scope.backends.contains(one))
        };
        let others = self
            .endpoints
            .iter()
            .map(backend)
            .filter(|one| !is_listed(one))
            .collect();
        let (address, port) = (|kind| dialled(service, kind).0, |kind| dialled(service, kind).1);
        let frontend = |kind: &FrontendKind| Frontend {
            address: if *kind == FrontendKind::NodePort {
                IpAddr::from([0; 4])
            } else {
                address(*kind)
            },
            port: port(*kind),
            kind: *kind,
        };
        DesiredPort {
            frontends: self.frontends.iter().map(frontend).collect(),
            internal_local: self.internal_local,
            external_local: self.external_local && local.is_some(),
            cluster,
            local,
            others,
            affinity_timeout_s: self.affinity.then_some(60),
            sources: self
                .only
                .map(|client| vec![Cidr::of_one(IpAddr::from([10, 0, 0, client]))]),
            resets: false,
        }
    }
}

/// A Service's name gives its addresses, so that no two Services share an endpoint.
fn endpoint(service: &str, number: u8) -> IpAddr {
    IpAddr::from([10, 244, service.as_bytes()[0], number])
}

const NODE: [u8; 4] = [192, 168, 3, 4];

fn dialled(service: &str, kind: FrontendKind) -> (IpAddr, u16) {
    let letter = service.as_bytes()[0];
    match kind {
        FrontendKind::ClusterIp => (IpAddr::from([10, 96, 0, letter]), 80),
        FrontendKind::NodePort => (NODE.into(), 30_000 + u16::from(letter)),
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => (IpAddr::from([203, 0, 113, letter]), 80),
    }
}

fn port_id(service: &str) -> PortId {
    PortId {
        service: ServiceKey::new("default", service),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// What one port is to look like after a step; `None` takes it away.
type Step = (&'static str, Option<Look>);

/// How everything is to look.
struct State {
    /// Number of writes after which its own begin.
    begins: usize,
    /// Number of writes after which it holds.
    complete: usize,
    services: BTreeMap<&'static str, Look>,
}

/// The history of a run: what was written, and after which write each state was complete.
struct History {
    writes: Vec<Write<Ip4>>,
    /// The tables after so many writes.
    tables: Vec<MemoryTables<Ip4>>,
    states: Vec<State>,
    /// The marks where grace periods begin and end.
    periods: Vec<(usize, usize)>,
}

/// After how many further steps a grace period ends.
type Lag = usize;

/// None: all steps come before the first period ends.
const LAGS: [Option<Lag>; 4] = [Some(0), Some(1), Some(2), None];

/// Lets the publisher make the steps over tables so small that everything is reused.
fn record(steps: &[Step], lag: Option<Lag>) -> History {
    (1..40)
        .find_map(|slots| try_to_record(steps, lag, slots))
        .expect("it fits somewhere")
}

fn try_to_record(steps: &[Step], lag: Option<Lag>, slots: u32) -> Option<History> {
    let capacity = Capacity {
        services: 2,
        slots,
        backends: slots + 1,
    };
    let mut publisher = Publisher::<V4, _>::adopt(MemoryTables::new(capacity)).expect("empty tables");
    let own = AddressFlags::HOST.with(AddressFlags::NODE_PORTS);
    publisher
        .set_host_addresses(&BTreeMap::from([(Ip4 { octets: NODE }, own)]))
        .expect("memory tables don't fail");
    let mut now = BTreeMap::new();
    let mut states = vec![State {
        begins: 0,
        complete: publisher.tables().writes.len(),
        services: BTreeMap::new(),
    }];
    let (mut waiting, mut periods) = (Vec::new(), Vec::new());
    for (number, (service, look)) in steps.iter().enumerate() {
        let begins = publisher.tables().writes.len();
        match look {
            Some(look) => {
                let desired = look.desired(service);
                publisher
                    .publish(&port_id(service), &desired, &Siblings::default())
                    .ok()?;
                now.insert(*service, look.clone());
            }
            None => {
                publisher.withdraw(&port_id(service)).expect("memory tables don't fail");
                now.remove(service);
            }
        }
        states.push(State {
            begins,
            complete: publisher.tables().writes.len(),
            services: now.clone(),
        });
        let begins = mark(&mut publisher);
        waiting.push((begins, publisher.take_retired()));
        if lag.is_some_and(|lag| number >= lag) {
            let (begins, retired) = waiting.remove(0);
            periods.push((begins, mark(&mut publisher)));
            publisher.reuse(retired);
        }
    }
    let writes = publisher.tables().writes.clone();
    let mut tables = vec![MemoryTables::new(capacity)];
    for write in &writes {
        let mut next = tables.last().cloned()?;
        next.replay(write);
        tables.push(next);
    }
    Some(History {
        writes,
        tables,
        states,
        periods,
    })
}

fn mark(publisher: &mut Publisher<V4, MemoryTables<Ip4>>) -> usize {
    let writes = &mut publisher.tables_mut().writes;
    writes.push(Write::Grace);
    writes.len() - 1
}

/// A world in which the writer goes on while the reader reads.
struct Racing<'a> {
    history: &'a History,
    /// Writes that have happened.
    done: Cell<usize>,
    /// How many may happen while this reader is under way.
    done_max: usize,
    /// Which of the things that it may see a read sees; 0 for reads that nobody has decided.
    choices: RefCell<Vec<usize>>,
    /// How many things each read may see.
    widths: RefCell<Vec<usize>>,
    affinities: RefCell<BTreeMap<AffinityKey<Ip4>, Affinity>>,
    desk: RefCell<Desk<Ip4>>,
}

impl Racing<'_> {
    /// One read.
    fn look<T: PartialEq>(&self, ask: impl Fn(&MemoryTables<Ip4>) -> T) -> T {
        let mut seen: Vec<(usize, T)> = Vec::new();
        for done in self.done.get()..=self.done_max {
            let answer = ask(&self.history.tables[done]);
            if seen.iter().all(|(_, earlier)| *earlier != answer) {
                seen.push((done, answer));
            }
        }
        let mut widths = self.widths.borrow_mut();
        let choice = self.choices.borrow().get(widths.len()).copied().unwrap_or(0);
        // The beginning is where it is.
        let is_first = widths.is_empty();
        widths.push(if is_first { 1 } else { seen.len() });
        let (done, answer) = seen.swap_remove(choice);
        self.done.set(done);
        answer
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

/// A service record, read anew each time somebody asks for a word of it.
struct Words<'r, 'h> {
    world: &'r Racing<'h>,
    number: u32,
    reads: [OnceCell<Service>; 8],
    next: Cell<usize>,
}

impl Deref for Words<'_, '_> {
    type Target = Service;
    fn deref(&self) -> &Service {
        let at = self.next.replace(self.next.get() + 1);
        self.reads[at].get_or_init(|| self.world.look(|tables| tables.service(self.number)))
    }
}

impl Tables<V4> for Racing<'_> {
    fn address(&self, address: &Ip4) -> Option<AddressFlags> {
        self.look(|tables| tables.address(address))
    }

    fn frontend(&self, key: &FrontendKey<Ip4>) -> Option<FrontendWord> {
        self.look(|tables| tables.frontend(key))
    }

    fn service(&self, number: u32) -> Option<impl Deref<Target = Service>> {
        Some(Words {
            world: self,
            number,
            reads: Default::default(),
            next: Cell::new(0),
        })
    }

    fn allows(&self, set: u32, address: &Ip4) -> bool {
        // All ranges here are of one address.
        let ranges = |tables: &MemoryTables<Ip4>| tables.sources().unwrap_or_default();
        self.look(|tables| {
            ranges(tables)
                .iter()
                .any(|range| range.set == set && range.base == *address)
        })
    }

    fn slot(&self, place: u32) -> Option<u32> {
        Some(self.look(|tables| tables.slot(place)))
    }

    fn place_of(&self, base: u32, len: u32, backend: u32) -> Option<u32> {
        self.look(|tables| (base..base + len).find(|place| tables.slot(*place) == backend))
    }

    fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<Ip4>>> {
        Some(Owned(self.look(|tables| tables.backend(number))))
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

    fn affinity(&self, key: &AffinityKey<Ip4>) -> Option<impl Deref<Target = Affinity>> {
        self.affinities.borrow().get(key).copied().map(Owned)
    }

    fn insert_affinity(&self, key: &AffinityKey<Ip4>, affinity: &Affinity) {
        self.affinities.borrow_mut().insert(*key, *affinity);
    }

    fn node(&self) -> Option<impl Deref<Target = Node<Ip4>>> {
        Some(Owned(Node::default()))
    }

    fn device_address(&self, _ifindex: u32) -> Option<impl Deref<Target = Ip4>> {
        None::<Owned<Ip4>>
    }

    fn count_opened(&self, _service: u32, _backend: u32) {}

    fn count_refused(&self, _service: u32) {}
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

/// Who dials what.
#[derive(Clone, Copy, Debug)]
struct Client {
    service: &'static str,
    kind: FrontendKind,
    /// A process of the host, or somebody outside.
    hook: Hook,
    /// Its last octet.
    octet: u8,
    port: u16,
}

impl Client {
    fn key(&self) -> FlowKey<Ip4> {
        let source = Ip4 {
            octets: [10, 0, 0, self.octet],
        };
        let (IpAddr::V4(address), port) = dialled(self.service, self.kind) else {
            unreachable!("IPv4 only")
        };
        FlowKey::new(
            source,
            Port::new(self.port),
            address.into(),
            Port::new(port),
            Proto::TCP,
        )
    }

    fn is_external(&self) -> bool {
        self.kind != FrontendKind::ClusterIp
    }
}

/// What a client may get when its reads happen after `from` to `to` writes.
#[derive(Debug, Default)]
struct Allowed {
    backends: BTreeSet<IpAddr>,
    absent: bool,
    ends: BTreeSet<&'static str>,
}

fn allowed(history: &History, client: &Client, from: usize, to: usize) -> Allowed {
    // A state is in force from some write of its own step on until the next step is complete.
    let mut in_force: Vec<Option<&Look>> = Vec::new();
    for (index, state) in history.states.iter().enumerate() {
        let has_begun = index == 0 || to > state.begins;
        let ends = history.states.get(index + 1).map_or(usize::MAX, |next| next.complete);
        if has_begun && ends > from {
            in_force.push(state.services.get(client.service));
        }
    }
    let mut made = Allowed {
        absent: in_force
            .iter()
            .any(|look| look.is_none_or(|look| !look.frontends.contains(&client.kind))),
        ..Allowed::default()
    };
    let is_anywhere = in_force
        .iter()
        .flatten()
        .any(|look| look.frontends.contains(&client.kind));
    let looks: Vec<&Look> = in_force.into_iter().flatten().filter(|_| is_anywhere).collect();
    for rules in &looks {
        if client.kind == FrontendKind::LoadBalancer && rules.only.is_some_and(|only| only != client.octet) {
            made.ends.insert(DropReason::SourceDenied.name());
        }
        let local = match client.hook {
            Hook::EgressLocal if client.is_external() => false,
            _ if client.is_external() => rules.external_local,
            _ => rules.internal_local,
        };
        for lists in &looks {
            let Some(list) = lists.list(local) else { continue };
            if list.is_empty() {
                let somebody = local && lists.endpoints.iter().any(|one| one.serves);
                let reason = if somebody {
                    DropReason::NoLocalEndpoint
                } else {
                    DropReason::NoEndpoint
                };
                made.ends.insert(reason.name());
            }
            made.backends
                .extend(list.iter().map(|one| endpoint(client.service, one.number)));
        }
    }
    // If nobody ever lets it in, it gets nothing else.
    if client.kind == FrontendKind::LoadBalancer
        && looks
            .iter()
            .all(|look| look.only.is_some_and(|only| only != client.octet))
    {
        made.backends.clear();
        made.ends.retain(|end| *end == DropReason::SourceDenied.name());
    }
    made
}

/// Reads with every interleaving that begins after `first` writes. Returns how many that were.
fn race(history: &History, client: &Client, first: usize, known: &BTreeMap<AffinityKey<Ip4>, Affinity>) -> usize {
    let crossed = history.periods.iter().filter(|(begins, _)| first <= *begins);
    let done_max = crossed.map(|(_, ends)| *ends).min().unwrap_or(history.writes.len());
    let mut choices: Vec<usize> = Vec::new();
    for number in 1.. {
        let world = Racing {
            history,
            done: Cell::new(first),
            done_max,
            choices: RefCell::new(choices),
            widths: RefCell::default(),
            affinities: RefCell::new(known.clone()),
            desk: RefCell::new(Desk {
                old: client.key(),
                ..Desk::default()
            }),
        };
        check(history, client, first, &world);
        let widths = world.widths.into_inner();
        choices = world.choices.into_inner();
        choices.resize(widths.len(), 0);
        // The next: the last read that may see something else does.
        let Some(last) = (0..widths.len()).rev().find(|at| choices[*at] + 1 < widths[*at]) else {
            return number;
        };
        choices.truncate(last + 1);
        choices[last] += 1;
    }
    unreachable!("it ends")
}

fn check(history: &History, client: &Client, first: usize, world: &Racing<'_>) {
    let chosen = choose::<V4, _>(world, client.hook);
    let backend: IpAddr = world.desk.borrow().new.dst.into();
    let last = world.done.get();
    let allowed = allowed(history, client, first, last);
    let fine = match chosen {
        Chosen::Plain | Chosen::Masqueraded => allowed.backends.contains(&backend),
        Chosen::NotOurs => allowed.absent,
        Chosen::Stray => allowed.absent && client.kind == FrontendKind::LoadBalancer,
        Chosen::End(End::Refuse(DropReason::UnknownPort)) => allowed.absent && !client.is_external(),
        Chosen::End(End::Refuse(reason)) => reason == DropReason::NoEndpoint && allowed.ends.contains(reason.name()),
        Chosen::End(End::Drop(reason)) => reason != DropReason::NoEndpoint && allowed.ends.contains(reason.name()),
    };
    let writes = || -> String {
        let lines = history.writes.iter().enumerate();
        lines
            .map(|(number, write)| format!("  {number}: {write:?}\n"))
            .collect()
    };
    assert!(
        fine,
        "{client:?}, whose reads began after {first} writes and ended after {last}, got {chosen:?} towards {backend}; \
         {allowed:?}\nwrites:\n{}",
        writes()
    );
}

/// What a client got that dialled when so many writes had happened and no other did.
fn remembered(history: &History, client: &Client, done: usize) -> BTreeMap<AffinityKey<Ip4>, Affinity> {
    let world = Racing {
        history,
        done: Cell::new(done),
        done_max: done,
        choices: RefCell::default(),
        widths: RefCell::default(),
        affinities: RefCell::default(),
        desk: RefCell::new(Desk {
            old: client.key(),
            ..Desk::default()
        }),
    };
    let _ = choose::<V4, _>(&world, client.hook);
    world.affinities.into_inner()
}

fn check_all_interleavings(steps: &[Step]) -> usize {
    let services: BTreeSet<&'static str> = steps.iter().map(|(service, _)| *service).collect();
    let has_affinity = steps
        .iter()
        .any(|(_, look)| look.as_ref().is_some_and(|look| look.affinity));
    let mut clients = Vec::new();
    for service in services {
        for (kind, hook, octet, port) in KINDS.into_iter().flat_map(|kind| {
            let outside = [1, 2].map(|octet| (kind, Hook::Ingress, octet, 40_000 + u16::from(octet)));
            outside.into_iter().chain([(kind, Hook::EgressLocal, 1, 40_003)])
        }) {
            clients.push(Client {
                service,
                kind,
                hook,
                octet,
                port,
            });
        }
    }
    let mut checked = 0;
    for lag in LAGS {
        let history = record(steps, lag);
        for client in &clients {
            for first in 0..=history.writes.len() {
                checked += race(&history, client, first, &BTreeMap::new());
                let earlier = history
                    .states
                    .iter()
                    .filter(|state| has_affinity && state.complete <= first);
                for state in earlier {
                    checked += race(&history, client, first, &remembered(&history, client, state.complete));
                }
            }
        }
    }
    println!("{checked} interleavings");
    checked
}

#[test]
fn an_endpoint_change_is_seen_whole_or_not_at_all() {
    let checked = check_all_interleavings(&[("a", Some(to("1 2"))), ("a", Some(to("2 3")))]);
    assert!(checked >= 500, "{checked} interleavings");
}

#[test]
fn scaling_to_zero_and_back_refuses_or_serves_and_never_misses_a_backend() {
    check_all_interleavings(&[("a", Some(to("1"))), ("a", Some(to(""))), ("a", Some(to("2")))]);
}

#[test]
fn a_number_that_is_used_anew_never_leads_to_another_services_backend() {
    // Two numbers and few slots: b gets what a had.
    check_all_interleavings(&[("a", Some(to("1 2"))), ("a", None), ("b", Some(to("1 2")))]);
}

#[test]
fn two_services_that_change_places_do_not_meet() {
    let steps = ["a", "b"].map(|service| (service, Some(to("1"))));
    let then = ["a", "b"].map(|service| (service, Some(to("2"))));
    check_all_interleavings(&[steps, then].concat());
}

#[test]
fn places_that_fell_free_are_not_used_anew_while_a_reader_may_stand_in_them() {
    check_all_interleavings(&[
        ("a", Some(to("1 2"))),
        ("a", Some(to("3"))),
        ("b", Some(to("1 2"))),
        ("a", Some(to("4"))),
    ]);
}

#[test]
fn a_backend_that_leaves_and_comes_back_within_one_grace_period_stays_whole() {
    check_all_interleavings(&[
        ("a", Some(to("1 2"))),
        ("a", Some(to("2"))),
        ("a", Some(to("1 2"))),
        ("a", Some(to("2"))),
        ("a", Some(to("2 3"))),
    ]);
}

#[test]
fn the_internal_policy_flips_while_the_local_list_comes_and_goes() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2"))),
        ("a", Some(to("1h 2").itp())),
        ("a", Some(to("1h 2"))),
        ("a", Some(to("2").itp())),
        ("a", Some(to("2 3h"))),
    ]);
}

#[test]
fn the_external_policy_flips_while_the_local_list_comes_and_goes() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2").etp())),
        ("a", Some(to("2 3h"))),
        ("a", Some(to("2 3h").etp())),
        ("a", Some(to("2"))),
    ]);
}

#[test]
fn an_endpoint_that_stops_serving_and_stays_is_missed_by_nobody() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2"))),
        ("a", Some(to("1h- 2"))),
        ("a", Some(to("1h 2"))),
        ("a", Some(to("1h- 2"))),
        ("a", Some(to("1h- 2-"))),
    ]);
}

#[test]
fn source_ranges_are_the_old_ones_or_the_new_ones_and_never_anothers() {
    check_all_interleavings(&[
        ("a", Some(to("1").only(1))),
        ("b", Some(to("1").only(2))),
        ("a", Some(to("1"))),
        ("a", Some(to("1").only(1))),
        ("b", None),
        ("a", Some(to("1").only(2))),
    ]);
}

#[test]
fn a_client_is_remembered_or_not_and_gets_a_backend_of_the_list() {
    check_all_interleavings(&[
        ("a", Some(to("1h 2").affinity())),
        ("a", Some(to("2 3h"))),
        ("a", Some(to("2 3h").affinity().itp())),
        ("a", Some(to("1h 3h-").affinity())),
    ]);
}

#[test]
fn a_service_that_loses_frontends_keeps_the_others() {
    let (internal, node_port) = (FrontendKind::ClusterIp, FrontendKind::NodePort);
    check_all_interleavings(&[
        ("a", Some(to("1h 2").etp())),
        ("a", Some(to("1h 2").etp().at(&[internal, node_port]))),
        ("a", Some(to("1h 2").itp().at(&[internal]))),
        ("a", Some(to("2").itp())),
        ("a", None),
    ]);
}
