//! A reader, and the writer that goes on while it reads.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    ops::{Deref, DerefMut},
};

use lb_common::{
    datapath::{Bucket, Insert, Opens, Refused, Tables, World},
    layout::{
        AddressFlags, Affinity, AffinityKey, Backend, Counter, Desk, DeviceFlags, DropReason, Event, Flow, FlowKey,
        FragmentKey, FragmentPorts, Frontend as FrontendWord, FrontendKey, Hop, Ip4, Node, Peer, Service, Tags,
        TokenBucket, V4, Way,
    },
};
use lb_userspace::tables::{MemoryTables, Tables as _};

use crate::history::History;

/// A world in which the writer goes on while the reader reads.
pub(crate) struct Racing<'a> {
    pub(crate) history: &'a History,
    /// Writes that have happened.
    pub(crate) done: Cell<usize>,
    /// How many may happen while this reader is under way.
    pub(crate) done_max: usize,
    /// Which of the things that it may see a read sees; 0 for reads that nobody has decided.
    pub(crate) choices: RefCell<Vec<usize>>,
    /// How many things each read may see.
    pub(crate) widths: RefCell<Vec<usize>>,
    pub(crate) affinities: RefCell<BTreeMap<AffinityKey<Ip4>, Affinity>>,
    pub(crate) desk: RefCell<Desk<Ip4>>,
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

pub(crate) struct Owned<T>(T);

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
pub(crate) struct Words<'r, 'h> {
    pub(crate) world: &'r Racing<'h>,
    pub(crate) number: u32,
    pub(crate) reads: [OnceCell<Service>; 8],
    pub(crate) next: Cell<usize>,
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

    fn ordinal(&self, first_chunk: u32, cell: u32) -> Option<u16> {
        self.look(|tables| tables.ordinal(first_chunk, cell))
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

    fn way(&self, _key: &FlowKey<Ip4>) -> Option<impl DerefMut<Target = Way<Ip4>>> {
        None::<Owned<Way<Ip4>>>
    }

    fn insert_way(&self, _key: &FlowKey<Ip4>, _way: &Way<Ip4>) {}

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

    fn peer(&self, _address: &Ip4) -> Option<impl DerefMut<Target = Peer>> {
        None::<Box<Peer>>
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

    fn vlan(&self, _tags: Tags) -> Option<u32> {
        None
    }

    fn device_is(&self, _ifindex: u32, _what: DeviceFlags) -> bool {
        false
    }

    fn rested_ns(&self, _hop: &Hop) -> Option<u64> {
        None
    }

    fn put_rested(&self, _hop: &Hop, _now_ns: u64) {}

    fn routes(&self) -> u32 {
        0
    }

    fn defers(&self) -> bool {
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
    fn path(&self) -> bool {
        false
    }

    fn outgoing(&self, _address: &Ip4) -> Option<u32> {
        None
    }

    fn has_socket(&self, _key: &FlowKey<Ip4>, _connected: bool) -> bool {
        false
    }
}
