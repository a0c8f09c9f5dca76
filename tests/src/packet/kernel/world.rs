//! The real tables and programs as one side of the comparison.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{TestRun as _, TestRunOptions},
    util::nr_cpus,
};
use lb_common::{
    datapath::{Bucket, Ethernet, Hook},
    layout::{
        Affinity, AffinityKey, Backend, Chunk, Counter, Device, DropReason, Event, Flow, FlowFlags, FlowKey,
        FragmentKey, FragmentPorts, FrontendKey, Hop, Node, Peer, Service, ServiceStats, TokenBucket, V4, V6, VlanKey,
        Way, names,
    },
};
use lb_userspace::{
    kernel::{Datapath, LoadOptions},
    tables::{
        Deferral, DefersTable, DeviceTable, EventReader, FlowTable, Flows as _, KernelTables, List, NodeTable,
        SourceRange, Stats, Tables as _, VlanTable,
    },
};
use rustix::time::{ClockId, clock_gettime};

use crate::packet::{
    encode::Link,
    names::Named,
    scene::Write,
    side::{Flows, Outcome, Shot, Side, State, TC_REDIRECT, Ways, seconds_ago},
};

/// Frames of this length and more don't fit into the page of a test run.
const FRAME_MAX: usize = 3_400;
/// The same of XDP, whose test runs put the rest into more pages.
const JUMBO_MAX: usize = 9_000;

/// The loaded object with its tables open.
pub struct KernelWorld {
    datapath: Datapath,
    v4: Drawer<V4>,
    v6: Drawer<V6>,
    devices: DeviceTable,
    device_records: BTreeMap<u32, Device>,
    vlans: VlanTable,
    vlan_records: BTreeMap<VlanKey, u32>,
    hops: HashMap<MapData, Hop, u64>,
    routes: Array<MapData, u32>,
    defers: DefersTable,
    stats: Stats,
    counted_before: Vec<u64>,
    dropped_before: Vec<u64>,
    event_reader: EventReader,
    events: Vec<Event>,
    buckets: PerCpuArray<MapData, TokenBucket>,
}

/// The tables of one family.
pub struct Drawer<F: Named> {
    tables: KernelTables<F>,
    flows: FlowTable<F>,
    ways: HashMap<MapData, FlowKey<F::Addr>, Way<F::Addr>>,
    fragments: HashMap<MapData, FragmentKey<F::Addr>, FragmentPorts>,
    peers: HashMap<MapData, F::Addr, Peer>,
    affinities: HashMap<MapData, AffinityKey<F::Addr>, Affinity>,
    node: NodeTable<F>,
    addresses: Vec<F::Addr>,
    sources: Vec<SourceRange<F::Addr>>,
    frontends: Vec<FrontendKey<F::Addr>>,
    services: Vec<u32>,
    slots: Vec<u32>,
    chunks: Vec<u32>,
    backends: Vec<u32>,
}

/// A family whose tables a kernel world has.
pub trait KernelFamily: Named {
    /// Name of the map of ways.
    const WAYS: &'static str;
    /// Name of the map of datagrams in fragments.
    const FRAGMENTS: &'static str;
    /// Name of the map of session affinity.
    const AFFINITY: &'static str;
    /// The tables.
    fn drawer(world: &mut KernelWorld) -> &mut Drawer<Self>;
}

macro_rules! kernel_family {
    ($family:ty, $drawer:ident, $ways:ident, $fragments:ident, $affinity:ident) => {
        impl KernelFamily for $family {
            const WAYS: &'static str = names::$ways;
            const FRAGMENTS: &'static str = names::$fragments;
            const AFFINITY: &'static str = names::$affinity;

            fn drawer(world: &mut KernelWorld) -> &mut Drawer<Self> {
                &mut world.$drawer
            }
        }
    };
}

kernel_family!(V4, v4, CT4_WAYS, CT4_FRAGMENTS, CT4_AFFINITY);
kernel_family!(V6, v6, CT6_WAYS, CT6_FRAGMENTS, CT6_AFFINITY);

/// A table that evicts the oldest.
fn lru<K: aya::Pod, V: aya::Pod>(datapath: &mut Datapath, name: &str) -> Result<HashMap<MapData, K, V>> {
    let Map::LruHashMap(map) = datapath.take_map(name)? else {
        bail!("{name} is no LRU hash table");
    };
    Ok(HashMap::try_from(Map::LruHashMap(map))?)
}

impl<F: KernelFamily> Drawer<F> {
    fn open(datapath: &mut Datapath) -> Result<Self> {
        Ok(Self {
            tables: KernelTables::open(|name| datapath.take_map(name))?,
            flows: FlowTable::open(datapath.take_map(F::FLOWS)?)?,
            ways: lru(datapath, F::WAYS)?,
            fragments: lru(datapath, F::FRAGMENTS)?,
            affinities: lru(datapath, F::AFFINITY)?,
            peers: HashMap::try_from(datapath.take_map(F::PEERS)?).context(F::PEERS)?,
            node: NodeTable::open(datapath.take_map(F::NODE)?)?,
            addresses: Vec::new(),
            sources: Vec::new(),
            frontends: Vec::new(),
            services: Vec::new(),
            slots: Vec::new(),
            chunks: Vec::new(),
            backends: Vec::new(),
        })
    }

    fn reset(&mut self) -> Result<()> {
        for key in self.frontends.drain(..) {
            self.tables.remove_frontend(&key)?;
        }
        for address in self.addresses.drain(..) {
            self.tables.remove_address(&address)?;
        }
        for range in self.sources.drain(..) {
            self.tables.remove_source(&range)?;
        }
        for number in self.services.drain(..) {
            put_service(&mut self.tables, number, &Service::default());
            self.tables.forget_service_counts(number);
        }
        self.node.put(Node::default())?;
        for address in self.peers()?.into_keys() {
            self.peers.remove(&address).context(F::PEERS)?;
        }
        for key in self.affinities()?.into_keys() {
            self.affinities.remove(&key).context(F::AFFINITY)?;
        }
        for place in self.slots.drain(..) {
            self.tables.put_slot(place, 0);
        }
        for place in self.chunks.drain(..) {
            self.tables.put_chunks(place, &[Chunk::default()])?;
        }
        for number in self.backends.drain(..) {
            self.tables.put_backend(number, &Backend::default());
            self.tables.forget_backend_counts(number);
        }
        for key in self.flows()?.into_keys() {
            self.flows.remove(&key);
        }
        for key in self.ways()?.into_keys() {
            self.ways.remove(&key).context(F::WAYS)?;
        }
        for key in self.fragments()?.into_keys() {
            self.fragments.remove(&key).context(F::FRAGMENTS)?;
        }
        Ok(())
    }

    fn flows(&self) -> Result<Flows<F>> {
        let mut flows = BTreeMap::new();
        self.flows.for_each(|key, flow| {
            flows.insert(*key, *flow);
        })?;
        Ok(flows)
    }

    fn ways(&self) -> Result<Ways<F>> {
        self.ways.iter().map(|entry| entry.context(F::WAYS)).collect()
    }

    fn fragments(&self) -> Result<BTreeMap<FragmentKey<F::Addr>, FragmentPorts>> {
        self.fragments.iter().map(|entry| entry.context(F::FRAGMENTS)).collect()
    }

    fn affinities(&self) -> Result<BTreeMap<AffinityKey<F::Addr>, Affinity>> {
        self.affinities.iter().map(|entry| entry.context(F::AFFINITY)).collect()
    }

    fn peers(&self) -> Result<BTreeMap<F::Addr, Peer>> {
        self.peers.iter().map(|entry| entry.context(F::PEERS)).collect()
    }

    /// Those that are not zero.
    fn service_counts(&self) -> BTreeMap<u32, ServiceStats> {
        let counts = self
            .services
            .iter()
            .map(|number| (*number, self.tables.service_counts(*number)));
        counts.filter(|(_, stats)| *stats != ServiceStats::default()).collect()
    }

    /// The same of backends.
    fn backend_counts(&self) -> BTreeMap<u32, u64> {
        let counts = self
            .backends
            .iter()
            .map(|number| (*number, self.tables.backend_counts(*number)));
        counts.filter(|(_, count)| *count != 0).collect()
    }

    fn change_flow(&mut self, key: &FlowKey<F::Addr>, change: impl FnOnce(&mut Flow<F::Addr>)) -> Result<()> {
        let Some(mut flow) = self.flows.get(key) else {
            return Ok(());
        };
        change(&mut flow);
        self.flows.insert(key, &flow)
    }

    fn age(&mut self, by_ns: u64) -> Result<()> {
        for key in self.flows()?.into_keys() {
            self.change_flow(&key, |flow| flow.seen_ns = flow.seen_ns.saturating_sub(by_ns))?;
        }
        for (key, mut way) in self.ways()? {
            way.found_ns = way.found_ns.saturating_sub(by_ns);
            self.ways.insert(key, way, 0).context(F::WAYS)?;
        }
        for (address, mut peer) in self.peers()? {
            peer.told_ns = peer.told_ns.saturating_sub(by_ns);
            self.peers.insert(address, peer, 0).context(F::PEERS)?;
        }
        for (key, mut affinity) in self.affinities()? {
            affinity.seen_ns = affinity.seen_ns.saturating_sub(by_ns);
            self.affinities.insert(key, affinity, 0).context(F::AFFINITY)?;
        }
        Ok(())
    }

    fn write(&mut self, write: &Write<F>) -> Result<()> {
        match *write {
            Write::Address(address, Some(flags)) => {
                self.addresses.push(address);
                self.tables.put_address(&address, flags)?;
            }
            Write::Address(address, None) => self.tables.remove_address(&address)?,
            Write::Source(range) => {
                self.sources.push(range);
                self.tables.put_source(&range)?;
            }
            Write::Frontend(key, Some(frontend)) => {
                self.frontends.push(key);
                self.tables.put_frontend(&key, frontend)?;
            }
            Write::Frontend(key, None) => self.tables.remove_frontend(&key)?,
            Write::Service(number, service) => {
                self.services.push(number);
                put_service(&mut self.tables, number, &service);
            }
            Write::Slot(place, backend) => {
                self.slots.push(place);
                self.tables.put_slot(place, backend);
            }
            Write::Chunk(place, chunk) => {
                self.chunks.push(place);
                self.tables.put_chunks(place, &[chunk])?;
            }
            Write::Backend(number, backend) => {
                self.backends.push(number);
                self.tables.put_backend(number, &backend);
            }
            Write::Evict(key) => drop(self.flows.remove(&key)),
            Write::Garble(key) => self.change_flow(&key, |flow| flow.check ^= 1)?,
            Write::Reset(key) => self.change_flow(&key, |flow| flow.flags = flow.flags.with(FlowFlags::RESET))?,
            Write::Node(node) => self.node.put(node)?,
            Write::Peer(address, mtu) => {
                let told_ns = if mtu == 0 { 0 } else { KernelWorld::now_ns() };
                let peer = Peer { mtu, told_ns, pad: 0 };
                self.peers.insert(address, peer, 0).context(F::PEERS)?;
            }
            Write::Route(..) | Write::NoRoute(_) | Write::Socket(_) => {
                bail!("the kernel's routes and sockets are not a row's: for the host only")
            }
            Write::Device(..) | Write::Vlan(..) | Write::Routes(_) | Write::Defers(_) => {}
        }
        Ok(())
    }
}

fn put_service<F: KernelFamily>(tables: &mut KernelTables<F>, number: u32, service: &Service) {
    tables.put_scope(number, List::Cluster, service.cluster);
    tables.put_scope(number, List::Local, service.local);
    tables.put_rules(number, service.rules);
    tables.put_sets(number, service.sets);
}

impl KernelWorld {
    /// Loads the object that is built in.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn load() -> Result<Self> {
        // The smallest flow table: the rows need little, and reading it whole takes time.
        let options = LoadOptions {
            maps: None,
            flows_max: 16_384,
            ways_max: 16_384,
            later: &[],
        };
        let mut datapath = Datapath::load(&options)?;
        Ok(Self {
            v4: Drawer::open(&mut datapath)?,
            v6: Drawer::open(&mut datapath)?,
            devices: DeviceTable::open(names::DEVICES, datapath.take_map(names::DEVICES)?)?,
            device_records: BTreeMap::new(),
            vlans: VlanTable::open(names::VLANS, datapath.take_map(names::VLANS)?)?,
            vlan_records: BTreeMap::new(),
            hops: lru(&mut datapath, names::HOPS)?,
            routes: Array::try_from(datapath.take_map(names::ROUTES)?).context(names::ROUTES)?,
            defers: DefersTable::open(datapath.take_map(names::DEFERS)?)?,
            stats: Stats::open(|name| datapath.take_map(name))?,
            counted_before: Vec::new(),
            dropped_before: Vec::new(),
            event_reader: EventReader::open(datapath.take_map(names::EVENTS)?)?,
            events: Vec::new(),
            buckets: PerCpuArray::try_from(datapath.take_map(names::BUCKETS)?).context(names::BUCKETS)?,
            datapath,
        })
    }

    /// The clock that the programs read.
    #[must_use]
    pub fn now_ns() -> u64 {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    /// Empties all tables and takes what was counted so far for nothing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.v4.reset()?;
        self.v6.reset()?;
        self.device_records.clear();
        self.devices.put_all(&self.device_records)?;
        self.vlan_records.clear();
        self.vlans.put_all(&self.vlan_records)?;
        for hop in self.hops()?.into_keys() {
            self.hops.remove(&hop).context(names::HOPS)?;
        }
        self.routes.set(0, 0, 0).context(names::ROUTES)?;
        self.defers.put(Deferral::No)?;
        for bucket in [Bucket::Reject, Bucket::Event, Bucket::Search] {
            self.put_bucket(bucket, TokenBucket::default())?;
        }
        while self.event_reader.next_event().is_some() {}
        self.events.clear();
        (self.counted_before, self.dropped_before) = self.counts()?;
        Ok(())
    }

    fn hops(&self) -> Result<BTreeMap<Hop, u64>> {
        self.hops.iter().map(|entry| entry.context(names::HOPS)).collect()
    }

    fn put_bucket(&mut self, which: Bucket, bucket: TokenBucket) -> Result<()> {
        let cpus = nr_cpus().map_err(|(path, error)| anyhow::Error::new(error).context(path))?;
        let values = PerCpuValues::try_from(vec![bucket; cpus])?;
        self.buckets.set(which as u32, values, 0).context(names::BUCKETS)
    }

    fn counts(&self) -> Result<(Vec<u64>, Vec<u64>)> {
        let counted = Counter::ALL
            .into_iter()
            .map(|counter| self.stats.counter(counter))
            .collect::<Result<_>>()?;
        let dropped = DropReason::ALL
            .into_iter()
            .map(|reason| self.stats.drops(reason))
            .collect::<Result<_>>()?;
        Ok((counted, dropped))
    }

    /// Whether the kernel runs such a frame at all.
    #[must_use]
    pub fn runs(shot: Shot<'_>) -> bool {
        let frame = shot.frame;
        let most = if shot.hook == Hook::Xdp { JUMBO_MAX } else { FRAME_MAX };
        if frame.len() < 14 || frame.len() > most {
            return false;
        }
        // The kernel takes octets 12 and 13 for an EtherType, also those of a frame that has none.
        let needed = match (shot.hook, &frame[12..14]) {
            (Hook::Xdp, _) => 14,
            (_, [0x08, 0x00]) => 14 + 20,
            (_, [0x86, 0xdd]) => 14 + 40,
            _ => 14,
        };
        frame.len() >= needed
    }
}

/// Length of the kernel's `struct __sk_buff`, and where in it two fields lie.
const SK_BUFF_LEN: usize = 192;
const SK_BUFF_INGRESS_IFINDEX: usize = 36;
const SK_BUFF_IFINDEX: usize = 40;

/// A context for a test run that says "on the loopback device", and whether the packet has come from a device at all.
#[must_use]
pub fn test_context(hook: Hook) -> [u8; SK_BUFF_LEN] {
    let mut context = [0; SK_BUFF_LEN];
    let mut put = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(SK_BUFF_IFINDEX, 1);
    put(SK_BUFF_INGRESS_IFINDEX, u32::from(hook != Hook::EgressLocal));
    context
}

fn program(hook: Hook, link: Link) -> &'static str {
    match (hook, link) {
        (Hook::Xdp, _) => names::XDP,
        (Hook::Ingress, Link::Ethernet) => names::TC_INGRESS,
        (Hook::Ingress, Link::Bare) => names::TC_L3_INGRESS,
        (Hook::EgressForwarded | Hook::EgressLocal, Link::Ethernet) => names::TC_EGRESS,
        (Hook::EgressForwarded | Hook::EgressLocal, Link::Bare) => names::TC_L3_EGRESS,
    }
}

impl<F: KernelFamily> Side<F> for KernelWorld {
    fn write(&mut self, write: &Write<F>) -> Result<()> {
        if let Write::Device(ifindex, device) = write {
            self.device_records.insert(*ifindex, *device);
            self.devices.put_all(&self.device_records)?;
            return Ok(());
        }
        if let Write::Vlan(key, ifindex) = write {
            self.vlan_records.insert(*key, *ifindex);
            self.vlans.put_all(&self.vlan_records)?;
            return Ok(());
        }
        if let Write::Routes(number) = write {
            return self.routes.set(0, *number, 0).context(names::ROUTES);
        }
        if let Write::Defers(defers) = write {
            let deferral = if *defers { Deferral::Shadow } else { Deferral::No };
            return Ok(self.defers.put(deferral)?);
        }
        F::drawer(self).write(write)
    }

    fn age(&mut self, by: Duration) -> Result<()> {
        let by_ns = by.as_nanos() as u64;
        F::drawer(self).age(by_ns)?;
        for (hop, rested_ns) in self.hops()? {
            let rested_ns = rested_ns.saturating_sub(by_ns);
            self.hops.insert(hop, rested_ns, 0).context(names::HOPS)?;
        }
        for which in [Bucket::Reject, Bucket::Event] {
            let mut values: Vec<_> = self
                .buckets
                .get(&(which as u32), 0)
                .context(names::BUCKETS)?
                .iter()
                .copied()
                .collect();
            for bucket in &mut values {
                bucket.refilled_ns = bucket.refilled_ns.saturating_sub(by_ns);
            }
            self.buckets
                .set(which as u32, PerCpuValues::try_from(values)?, 0)
                .context(names::BUCKETS)?;
        }
        Ok(())
    }

    fn limit_rejects(&mut self, tokens: u64) -> Result<()> {
        self.put_bucket(
            Bucket::Reject,
            TokenBucket {
                refilled_ns: Self::now_ns(),
                tokens,
            },
        )
    }

    fn run(&mut self, shot: Shot<'_>) -> Result<Outcome> {
        // Room for an answer's headers.
        let mut frame = vec![0; shot.frame.len() + 256];
        let context = test_context(shot.hook);
        let mut options = TestRunOptions::new();
        options.data_in = Some(shot.frame);
        options.data_out = Some(&mut frame);
        let name = program(shot.hook, shot.link);
        let result = if shot.hook == Hook::Xdp {
            self.datapath.xdp(name)?.test_run(options)
        } else {
            options.ctx_in = Some(&context);
            self.datapath.classifier(name)?.test_run(options)
        };
        let result = result.with_context(|| format!("run {} octets through {name}", shot.frame.len()))?;
        frame.truncate(result.data_size_out as usize);
        let code = result.return_value as i32;
        if shot.hook != Hook::Xdp && code == TC_REDIRECT {
            as_it_came(&mut frame, shot);
        }
        Ok(Outcome { code, frame })
    }

    fn state(&mut self) -> Result<State<F>> {
        while let Some(event) = self.event_reader.next_event() {
            self.events.push(Event { time_ns: 0, ..event });
        }
        let (counted, dropped) = self.counts()?;
        let since = |now: Vec<u64>, before: &[u64]| now.iter().zip(before).map(|(now, before)| now - before).collect();
        let (counters, drops) = (
            since(counted, &self.counted_before),
            since(dropped, &self.dropped_before),
        );
        let events = self.events.clone();
        let drawer = F::drawer(self);
        let now_ns = Self::now_ns();
        let mut flows = drawer.flows()?;
        for flow in flows.values_mut() {
            flow.seen_ns = seconds_ago(flow.seen_ns, now_ns);
        }
        let mut ways = drawer.ways()?;
        for way in ways.values_mut() {
            way.found_ns = seconds_ago(way.found_ns, now_ns);
        }
        let mut peers = drawer.peers()?;
        for peer in peers.values_mut() {
            peer.told_ns = seconds_ago(peer.told_ns, now_ns);
        }
        let mut affinities = drawer.affinities()?;
        for affinity in affinities.values_mut() {
            affinity.seen_ns = seconds_ago(affinity.seen_ns, now_ns);
        }
        Ok(State {
            affinities,
            service_counts: drawer.service_counts(),
            backend_counts: drawer.backend_counts(),
            flows,
            ways,
            fragments: drawer.fragments()?,
            peers,
            counters,
            drops,
            events,
        })
    }
}

/// Undoes what is done to the link header of a packet that goes up through loopback (without a route, all of them do): on
/// Ethernet its destination becomes zero, on other devices it is put in front. The decisions know nothing of it.
fn as_it_came(frame: &mut Vec<u8>, shot: Shot<'_>) {
    let to_loopback = frame.starts_with(&[0; 6]);
    match shot.link {
        Link::Ethernet if to_loopback => frame[..6].copy_from_slice(&shot.frame[..6]),
        Link::Bare if to_loopback => drop(frame.drain(..size_of::<Ethernet>())),
        _ => {}
    }
}
