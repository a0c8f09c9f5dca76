//! The decision core's tables and world on maps and helpers.

use core::ops::{Deref, DerefMut};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
};
use lb_common::{
    datapath::{Bucket, Insert, Refused, Tables, World},
    layout::{
        Address, Backend, Counter, Desk, DropReason, Event, Flow, FlowKey, FragmentKey, FragmentPorts, FrontendKey,
        Ip4, Ip6, Service, TokenBucket, V4, V6,
    },
};

use crate::maps;

/// What a program sees besides the packet.
pub struct Kernel {
    /// Device on which the packet is seen.
    pub ifindex: u32,
}

const EEXIST: i32 = -17;

macro_rules! tables {
    ($family:ty, $addr:ty, $node_field:ident, $frontends:ident, $services:ident, $slots:ident, $backends:ident, $flows:ident, $fragments:ident, $desk:ident) => {
        impl Tables<$family> for Kernel {
            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<u32> {
                // SAFETY: one aligned word is copied out at once; a recycled entry yields another frontend's service
                // number at worst, which the agent frees only after a grace period.
                unsafe { maps::$frontends.get(key).copied() }
            }

            #[inline(always)]
            fn service(&self, number: u32) -> Option<Service> {
                maps::$services.get(number).copied()
            }

            #[inline(always)]
            fn slot(&self, place: u32) -> Option<u32> {
                maps::$slots.get(place).copied()
            }

            #[inline(always)]
            fn backend(&self, number: u32) -> Option<impl Deref<Target = Backend<$addr>>> {
                maps::$backends.get(number)
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
            fn node_address(&self) -> Option<impl Deref<Target = $addr>> {
                let address = &maps::NODE.get(0)?.$node_field;
                address.is_some().then_some(address)
            }
        }
    };
}

tables!(
    V4,
    Ip4,
    ipv4,
    LB4_FRONTENDS,
    LB4_SERVICES,
    LB4_SLOTS,
    LB4_BACKENDS,
    CT4_FLOWS,
    CT4_FRAGMENTS,
    CT4_DESK
);
tables!(
    V6,
    Ip6,
    ipv6,
    LB6_FRONTENDS,
    LB6_SERVICES,
    LB6_SLOTS,
    LB6_BACKENDS,
    CT6_FLOWS,
    CT6_FRAGMENTS,
    CT6_DESK
);

impl World for Kernel {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
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

#[inline(always)]
fn increment(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own copy, alive until the program ends.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
