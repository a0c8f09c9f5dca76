//! The decision core's tables and world on maps and helpers.

use core::{
    arch::asm,
    ffi::c_void,
    ops::{Deref, DerefMut},
};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
};
use lb_common::{
    datapath::{Bucket, Insert, Refused, Tables, World},
    layout::{
        Address, AddressFlags, Affinity, AffinityKey, Backend, CHUNK_CELLS, Counter, Desk, Device, DeviceFlags,
        DropReason, Event, Flow, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, Hop, Ip4, Ip6,
        NEW_FLOWS_ARE_OURS, Node, Peer, Scope, Service, SourceKeys, Tags, TokenBucket, V4, V6, VlanKey, Way,
    },
};

use crate::{maps, outline};

/// What a program sees besides the packet.
pub struct Kernel<C> {
    /// Device on which the packet is seen.
    pub ifindex: u32,
    /// The program's context, for helpers that ask for it.
    pub context: C,
}

/// A context of either kind of program.
pub trait Context: Copy {
    /// Programs at network hooks may run in between on the same CPU: what is kept by CPU is not this one's own. A counter may lose a
    /// count by that, about as often as a packet comes within a nanosecond; nothing else may be kept so.
    const INTERRUPTIBLE: bool = false;
    /// As helpers want it.
    fn raw(self) -> *mut c_void;
}

const EEXIST: i32 = -17;

/// The bits of a set's number and an address.
const fn key_bits<K>() -> u32 {
    size_of::<K>() as u32 * 8
}

macro_rules! tables {
    (
        $family:ty, $addr:ty, $device_field:ident, $place_of:ident, $place:ident,
        $addresses:ident, $frontends:ident, $services:ident, $slots:ident, $maglev:ident, $backends:ident, $sources:ident, $node:ident, $peers:ident,
        $flows:ident, $ways:ident, $fragments:ident, $affinity:ident, $desk:ident
    ) => {
        impl<C: Context> Tables<$family> for Kernel<C> {
            #[inline(always)]
            fn address(&self, address: &$addr) -> Option<AddressFlags> {
                // SAFETY: one aligned word is copied out at once; a recycled entry yields another address's flags at
                // worst, and then the look-up for a frontend finds none.
                unsafe { maps::$addresses.get(address).copied() }.map(AddressFlags)
            }

            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<Frontend> {
                // SAFETY: one aligned word is copied out at once; a recycled entry yields another frontend's service
                // number at worst, which the agent frees only after a grace period.
                unsafe { maps::$frontends.get(key).copied() }.map(Frontend)
            }

            #[inline(always)]
            fn service(&self, number: u32) -> Option<impl Deref<Target = Service>> {
                maps::$services.get(number).map(|entry| &entry.record)
            }

            #[inline(always)]
            fn allows(&self, set: u32, address: &$addr) -> bool {
                let key = address.source_key(set);
                maps::$sources
                    .get(&Key::new(key_bits::<<$addr as SourceKeys>::SourceKey>(), key))
                    .is_some()
            }

            #[inline(always)]
            fn place_of(&self, base: u32, len: u32, backend: u32) -> Option<u32> {
                outline::$place_of(base, len, backend)
            }

            #[inline(always)]
            fn ordinal(&self, first_chunk: u32, cell: u32) -> Option<u16> {
                let chunk = maps::$maglev.get(first_chunk.wrapping_add(cell / CHUNK_CELLS))?;
                chunk.ordinals.get((cell % CHUNK_CELLS) as usize).copied()
            }

            #[inline(always)]
            fn place(&self, list: Scope, by_table: bool, hash: u32) -> Option<u32> {
                outline::$place(list, by_table, hash)
            }

            #[inline(always)]
            fn slot(&self, place: u32) -> Option<u32> {
                maps::$slots.get(place).copied()
            }

            #[inline(always)]
            fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<$addr>>> {
                maps::$backends.get(number).map(|entry| &entry.record)
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$addr>) -> Option<impl DerefMut<Target = Flow<$addr>>> {
                let flow = maps::$flows.get_ptr_mut(key)?;
                // SAFETY: the kernel keeps the element's memory until the program ends. Other CPUs may write to it or
                // recycle it meanwhile: all fields are plain integers, and the core compares `check` after reading.
                Some(unsafe { &mut *flow })
            }

            #[inline(always)]
            fn insert_flow(&self, key: &FlowKey<$addr>, flow: &Flow<$addr>, how: Insert) -> Result<(), Refused> {
                let flags = if how == Insert::New {
                    u64::from(BPF_NOEXIST)
                } else {
                    0
                };
                match maps::$flows.insert(key, flow, flags) {
                    Ok(()) => Ok(()),
                    Err(EEXIST) => Err(Refused::Exists),
                    Err(_) => Err(Refused::Full),
                }
            }

            #[inline(always)]
            fn way(&self, key: &FlowKey<$addr>) -> Option<impl DerefMut<Target = Way<$addr>>> {
                let way = maps::$ways.get_ptr_mut(key)?;
                // SAFETY: as in `flow`.
                Some(unsafe { &mut *way })
            }

            #[inline(always)]
            fn insert_way(&self, key: &FlowKey<$addr>, way: &Way<$addr>) {
                // A refusal shows as a way that is looked for again.
                let _ = maps::$ways.insert(key, way, 0);
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<FragmentPorts> {
                // SAFETY: four octets are copied out at once.
                unsafe { maps::$fragments.get(key).copied() }
            }

            #[inline(always)]
            fn insert_fragment(&self, key: &FragmentKey<$addr>, ports: &FragmentPorts) {
                // A refusal shows as later fragments that aren't translated; the table is an LRU and takes all.
                let _ = maps::$fragments.insert(key, ports, 0);
            }

            #[inline(always)]
            fn desk(&self) -> Option<impl DerefMut<Target = Desk<$addr>>> {
                let desk = maps::$desk.get_ptr_mut(0)?;
                // SAFETY: this CPU's own copy; programs at network hooks don't interrupt each other on one CPU.
                Some(unsafe { &mut *desk })
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<impl Deref<Target = Affinity>> {
                // SAFETY: the kernel keeps the element's memory until the program ends. Other CPUs may recycle it
                // meanwhile: all fields are plain integers, and the core compares `check` after reading.
                unsafe { maps::$affinity.get(key) }
            }

            #[inline(always)]
            fn insert_affinity(&self, key: &AffinityKey<$addr>, affinity: &Affinity) {
                // A refusal shows as a client that chooses anew; the table is an LRU and takes all.
                let _ = maps::$affinity.insert(key, affinity, 0);
            }

            #[inline(always)]
            fn node(&self) -> Option<impl Deref<Target = Node<$addr>>> {
                maps::$node.get(0)
            }

            #[inline(always)]
            fn peer(&self, address: &$addr) -> Option<impl DerefMut<Target = Peer>> {
                let peer = maps::$peers.get_ptr_mut(address)?;
                // SAFETY: as in `flow`.
                Some(unsafe { &mut *peer })
            }

            #[inline(always)]
            fn device_address(&self, ifindex: u32) -> Option<impl Deref<Target = $addr>> {
                // SAFETY: a recycled entry yields another device's address at worst.
                let device = unsafe { maps::DEVICES.get(&ifindex) }?;
                device.$device_field.is_some().then_some(&device.$device_field)
            }

            #[inline(always)]
            fn count_opened(&self, service: u32, backend: u32) {
                if let Some(entry) = maps::$services.get_ptr_mut(service) {
                    // SAFETY: an element of an array, aligned for words, and alive until the program ends.
                    add_one(unsafe { &raw mut (*entry).stats.opened });
                }
                if let Some(entry) = maps::$backends.get_ptr_mut(backend) {
                    // SAFETY: the same.
                    add_one(unsafe { &raw mut (*entry).opened });
                }
            }

            #[inline(always)]
            fn count_refused(&self, service: u32) {
                if let Some(entry) = maps::$services.get_ptr_mut(service) {
                    // SAFETY: as in `count_opened`.
                    add_one(unsafe { &raw mut (*entry).stats.refused });
                }
            }
        }
    };
}

tables!(
    V4,
    Ip4,
    ipv4,
    place_of4,
    place4,
    LB4_ADDRESSES,
    LB4_FRONTENDS,
    LB4_SERVICES,
    LB4_SLOTS,
    LB4_MAGLEV,
    LB4_BACKENDS,
    LB4_SOURCES,
    LB4_NODE,
    LB4_PEERS,
    CT4_FLOWS,
    CT4_WAYS,
    CT4_FRAGMENTS,
    CT4_AFFINITY,
    CT4_DESK
);
tables!(
    V6,
    Ip6,
    ipv6,
    place_of6,
    place6,
    LB6_ADDRESSES,
    LB6_FRONTENDS,
    LB6_SERVICES,
    LB6_SLOTS,
    LB6_MAGLEV,
    LB6_BACKENDS,
    LB6_SOURCES,
    LB6_NODE,
    LB6_PEERS,
    CT6_FLOWS,
    CT6_WAYS,
    CT6_FRAGMENTS,
    CT6_AFFINITY,
    CT6_DESK
);

impl<C: Context> World for Kernel<C> {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        if C::INTERRUPTIBLE {
            // SAFETY: takes nothing and only reads a clock.
            return unsafe { bpf_ktime_get_coarse_ns() };
        }
        // SAFETY: takes nothing; on 64-bit kernels it is not even a call but a load.
        let tick = unsafe { bpf_jiffies64() };
        let Some(clock) = maps::CLOCK.get_ptr_mut(0) else {
            return 0;
        };
        // SAFETY: this CPU's own copy; programs at network hooks don't interrupt each other on one CPU.
        let clock = unsafe { &mut *clock };
        if clock.tick != tick {
            clock.tick = tick;
            // SAFETY: takes nothing and only reads a clock.
            clock.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
        }
        clock.now_ns
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    #[inline(always)]
    fn device_is(&self, ifindex: u32, what: DeviceFlags) -> bool {
        // SAFETY: one aligned word is looked at; a recycled entry yields another device's flags at worst.
        unsafe { maps::DEVICES.get(ifindex) }.is_some_and(|device| device.flags.has(what))
    }

    #[inline(always)]
    fn vlan(&self, tags: Tags) -> Option<u32> {
        let ifindex = self.ifindex;
        // SAFETY: one aligned word is copied out at once; a recycled entry yields another VLAN's device at worst, until the next message of
        // the routing.
        unsafe { maps::VLANS.get(VlanKey { ifindex, tags }).copied() }
    }

    #[inline(always)]
    fn routes(&self) -> u32 {
        maps::ROUTES.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn defers(&self) -> bool {
        maps::DEFERS.get(0).is_none_or(|word| *word != NEW_FLOWS_ARE_OURS)
    }

    #[inline(always)]
    fn rested_ns(&self, hop: &Hop) -> Option<u64> {
        // SAFETY: one aligned word is copied out at once; a recycled entry yields another neighbour's time at worst.
        unsafe { maps::HOPS.get(hop).copied() }
    }

    #[inline(always)]
    fn put_rested(&self, hop: &Hop, now_ns: u64) {
        // A refusal shows as a neighbour that is asked for again.
        let _ = maps::HOPS.insert(hop, now_ns, 0);
    }

    #[inline(always)]
    fn count(&self, what: Counter) {
        increment(maps::COUNTERS.get_ptr_mut(what as u32));
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        increment(maps::DROPS.get_ptr_mut(reason as u32));
    }

    #[inline(always)]
    fn bucket(&self, which: Bucket) -> Option<impl DerefMut<Target = TokenBucket>> {
        let bucket = maps::BUCKETS.get_ptr_mut(which as u32)?;
        // SAFETY: this CPU's own copy; a program that interrupts this one may take a token in between, no more.
        Some(unsafe { &mut *bucket })
    }

    #[inline(always)]
    fn emit(&self, event: &Event) -> bool {
        maps::EVENTS.output(*event, 0).is_ok()
    }
}

/// What is known of a device.
#[inline(always)]
pub fn device(ifindex: u32) -> Option<&'static Device> {
    // SAFETY: the kernel keeps the element's memory until the program ends; plain integers, and a recycled entry yields another device's
    // at worst.
    unsafe { maps::DEVICES.get(ifindex) }
}

/// One more of what all CPUs count in the same place.
#[inline(always)]
fn add_one(count: *mut u64) {
    // An instruction of its own: Rust's atomics have no sums for this target.
    // SAFETY: an element of an array, aligned for words, and alive until the program ends.
    unsafe {
        asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1_u64, options(nostack))
    };
}

#[inline(always)]
fn increment(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own copy, alive until the program ends.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
