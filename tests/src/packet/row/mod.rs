//! Rows: what is given, a packet at a hook, and what has to become of it.
//!
//! ```
//! # use tests::packet::{row::row, sketch::any};
//! # use lb_common::layout::Counter::FlowsCreated;
//! row()
//!     .serve("web:80", &["pod:8080"])
//!     .ingress(any("client:40000 > web:80").syn())
//!     .becomes("client:40000 > pod:8080")
//!     .counting(&[FlowsCreated])
//!     .leaving(&[
//!         "client:40000 > web:80 => client:40000 > pod:8080 | in seen",
//!         "pod:8080 > client:40000 => web:80 > client:40000 | out reply",
//!     ])
//! # .host_only("an example needs no root").run();
//! ```
//!
//! The name of the test is the sentence that the row stands for. A row is played for IPv4 and IPv6, on devices with and
//! without link header, and (where a packet is `any`) with TCP and UDP: through the core on the host, where everything
//! is compared with what the row says, and through the loaded program, where packet, tables, counters and events are
//! compared with the host's. What a row does not mention must not have happened.

mod deferral;
mod play;
mod tunnel;
mod vlan;

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_common::{
    datapath::Hook,
    layout::{Counter, DropReason, Proto, limits},
};

use super::{
    encode::{Link, Variant},
    names::Version,
    scene::Change,
    service::ServiceSketch,
    sketch::{Layer4, Sketch},
    tunnel::Tunnel,
};

/// After this time a flow's packets have looked after the opposite entry.
pub const HEALED_WITHIN: Duration = Duration::from_nanos(1 << limits::HEAL_NS_LOG2);

/// A row. Its methods read as its story: what is given or happens, packets, and what becomes of each.
#[derive(Clone, Debug)]
pub struct Row {
    steps: Vec<Step>,
    versions: Vec<Version>,
    links: Vec<Link>,
    host_only: Option<&'static str>,
    flows_max: usize,
    events_max: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Later(Duration),
    LimitRejects(u64),
    Packet(Box<Packet>),
}

/// One packet of a row.
#[derive(Clone, Debug)]
struct Packet {
    hook: Hook,
    sketch: Sketch,
    in_place: Option<usize>,
    headroom: Option<usize>,
    writes: usize,
    tags: Option<Vec<(u16, u16)>>,
    expected: Option<Expected>,
    quoting: Option<String>,
    marked: bool,
    saying: Option<(u16, usize)>,
    counting: Vec<Counter>,
    leaving: Option<Vec<String>>,
    leaving_ways: Option<Vec<String>>,
}

/// What has to become of a packet.
#[derive(Clone, Debug)]
enum Expected {
    /// On its way as it came, and nothing is remembered of it.
    Untouched,
    /// On its way as it came, but something was remembered or counted.
    Passes,
    /// On its way between others, and otherwise the same with the checksums that it should have.
    Becomes(String),
    /// The same, and in need of a route.
    Rerouted(String),
    /// The same, and for the host itself.
    Delivered(String),
    /// Out to its next hop, between others, with one hop less.
    Forwarded(String),
    /// The same, back by the device that it came by.
    Turned(String),
    /// Gone.
    Dropped(DropReason),
    /// Turned into an ICMP error to its sender.
    Answered(DropReason),
    /// Turned into the answer to a ping.
    Echoed,
    /// On its way in this tunnel, and otherwise the same.
    Tunnelled(Tunnel),
    /// The same by XDP, out to its next hop.
    SentTunnelled(Tunnel),
    /// Turned into an ICMP error to its sender: only so many octets fit.
    TooBig(u16),
    /// Turned into a TCP reset to its sender, with this acknowledgement number or sequence number.
    Reset,
}

/// The beginning of a row, for IPv4 and IPv6, with and without link header.
#[must_use]
pub fn row() -> Row {
    Row {
        steps: Vec::new(),
        versions: vec![Version::V4, Version::V6],
        links: vec![Link::Ethernet, Link::Bare],
        host_only: None,
        flows_max: usize::MAX,
        events_max: usize::MAX,
    }
}

impl Row {
    /// For IPv4 only.
    #[must_use]
    pub fn v4(mut self) -> Self {
        self.versions = vec![Version::V4];
        self
    }

    /// For IPv6 only.
    #[must_use]
    pub fn v6(mut self) -> Self {
        self.versions = vec![Version::V6];
        self
    }

    /// On devices with link header only.
    #[must_use]
    pub fn ethernet(mut self) -> Self {
        self.links = vec![Link::Ethernet];
        self
    }

    /// Not through the kernel, for this reason.
    #[must_use]
    pub fn host_only(mut self, reason: &'static str) -> Self {
        self.host_only = Some(reason);
        self
    }

    /// With room for so many flow entries, where the kernel would evict others.
    #[must_use]
    pub fn room_for_flows(mut self, flows_max: usize) -> Self {
        self.flows_max = flows_max;
        self
    }

    /// With room for so many events that nobody reads.
    #[must_use]
    pub fn room_for_events(mut self, events_max: usize) -> Self {
        self.events_max = events_max;
        self
    }

    fn change(mut self, change: Change) -> Self {
        self.steps.push(Step::Change(change));
        self
    }

    /// The Service is so from now on.
    #[must_use]
    pub fn given(self, service: ServiceSketch) -> Self {
        self.change(Change::Service(Box::new(service)))
    }

    /// The ClusterIP is served by these backends from now on: `"pod:8080"`, or `"pod:8080 local"` for one on this node.
    #[must_use]
    pub fn serve(self, frontend: &str, backends: &[&str]) -> Self {
        self.change(Change::serve(frontend, backends))
    }

    /// From now on nobody in the whole cluster serves the ClusterIP.
    #[must_use]
    pub fn reject(self, frontend: &str) -> Self {
        self.change(Change::reject(frontend))
    }

    /// From now on the policy allows none of the backends here.
    #[must_use]
    pub fn deny(self, frontend: &str) -> Self {
        self.given(ServiceSketch::new(frontend).internal_local().nobody_here())
    }

    /// The frontend is there, but its Service says nothing about it.
    #[must_use]
    pub fn no_scope(self, frontend: &str) -> Self {
        self.given(ServiceSketch::new(frontend).no_list())
    }

    /// The frontend's range names a slot that was never written.
    #[must_use]
    pub fn dangle(self, frontend: &str) -> Self {
        self.change(Change::Dangle(frontend.to_owned()))
    }

    /// The frontend is gone from now on.
    #[must_use]
    pub fn remove(self, frontend: &str) -> Self {
        self.change(Change::Remove(frontend.to_owned()))
    }

    /// The backend's record is out of use from now on.
    #[must_use]
    pub fn withdraw(self, backend: &str) -> Self {
        self.change(Change::Withdraw(backend.to_owned()))
    }

    /// The backend's record in this Service is out of use from now on.
    #[must_use]
    pub fn withdraw_from(self, service: &str, backend: &str) -> Self {
        self.change(Change::WithdrawFrom(service.to_owned(), backend.to_owned()))
    }

    /// The number of one backend is given to another.
    #[must_use]
    pub fn reuse(self, old: &str, new: &str) -> Self {
        self.change(Change::Reuse(old.to_owned(), new.to_owned()))
    }

    /// The node has an address to masquerade with.
    #[must_use]
    pub fn node(self) -> Self {
        self.change(Change::Node)
    }

    /// An address of the host, on which NodePorts are served.
    #[must_use]
    pub fn host_address(self, name: &str) -> Self {
        self.change(Change::HostAddress(name.to_owned()))
    }

    /// An address of the host, on which no NodePorts are served.
    #[must_use]
    pub fn quiet_host_address(self, name: &str) -> Self {
        self.change(Change::QuietHostAddress(name.to_owned()))
    }

    /// Packets to this address would leave by the device that brings this row's packets.
    #[must_use]
    pub fn leads_back(self, name: &str) -> Self {
        self.change(Change::LeadsBack(name.to_owned()))
    }

    /// A socket of the host takes packets of this tuple.
    #[must_use]
    pub fn socket(self, tuple: &str) -> Self {
        self.change(Change::Socket(tuple.to_owned()))
    }

    /// Pods are known by their addresses.
    #[must_use]
    pub fn detect_pods(self, range: &str) -> Self {
        self.change(Change::DetectPods(range.to_owned()))
    }

    /// Pods are known by their devices, and packets of this row come from one.
    #[must_use]
    pub fn detect_pod_device(self) -> Self {
        self.change(Change::DetectPodDevice)
    }

    /// Pods are known by their devices, and packets of this row come from another.
    #[must_use]
    pub fn detect_other_device(self) -> Self {
        self.change(Change::DetectOtherDevice)
    }

    /// The device of this row is the first at which the node sees what comes from it.
    #[must_use]
    pub fn first_device(self) -> Self {
        self.change(Change::FirstDevice)
    }

    /// XDP may forward: it is on an outward device, and the device to others takes its frames.
    #[must_use]
    pub fn outward(self) -> Self {
        self.change(Change::Outward)
    }

    /// The same, and that device takes frames in several buffers.
    #[must_use]
    pub fn outward_scatters(self) -> Self {
        self.change(Change::OutwardScatters)
    }

    /// XDP runs in generic mode, and the device to others takes no frames from drivers.
    #[must_use]
    pub fn outward_generic(self) -> Self {
        self.change(Change::OutwardGeneric)
    }

    /// A route or a neighbour changes.
    #[must_use]
    pub fn routes_change(self) -> Self {
        self.change(Change::Routing)
    }

    /// Every connection to a ClusterIP is masqueraded.
    #[must_use]
    pub fn masquerade_all(self) -> Self {
        self.change(Change::MasqueradeAll)
    }

    /// A ServiceCIDR is known.
    #[must_use]
    pub fn service_cidr(self, range: &str) -> Self {
        self.change(Change::ServiceCidr(range.to_owned()))
    }

    /// The backend is there and no longer serves.
    #[must_use]
    pub fn stop_serving(self, backend: &str) -> Self {
        self.change(Change::StopServing(backend.to_owned()))
    }

    /// The agent found that the endpoint of this flow is gone for good.
    #[must_use]
    pub fn endpoint_gone(self, tuple: &str) -> Self {
        self.change(Change::Reset(tuple.to_owned()))
    }

    /// The flow entry of this tuple was evicted.
    #[must_use]
    pub fn evict(self, tuple: &str) -> Self {
        self.change(Change::Evict(tuple.to_owned()))
    }

    /// The flow entry of this tuple is recycled under the reader's eyes.
    #[must_use]
    pub fn garble(self, tuple: &str) -> Self {
        self.change(Change::Garble(tuple.to_owned()))
    }

    /// Time passes.
    #[must_use]
    pub fn later(mut self, by: Duration) -> Self {
        self.steps.push(Step::Later(by));
        self
    }

    /// So many ICMP answers may still be given in this second.
    #[must_use]
    pub fn answers_left(mut self, tokens: u64) -> Self {
        self.steps.push(Step::LimitRejects(tokens));
        self
    }

    fn packet(mut self, hook: Hook, sketch: Sketch) -> Self {
        self.steps.push(Step::Packet(Box::new(Packet {
            hook,
            sketch,
            in_place: None,
            headroom: None,
            writes: usize::MAX,
            tags: None,
            expected: None,
            quoting: None,
            marked: false,
            saying: None,
            counting: Vec::new(),
            leaving: None,
            leaving_ways: None,
        })));
        self
    }

    /// A packet arrives from a device.
    #[must_use]
    pub fn ingress(self, sketch: Sketch) -> Self {
        self.packet(Hook::Ingress, sketch)
    }

    /// A packet that the host forwards leaves through a device.
    #[must_use]
    pub fn egress(self, sketch: Sketch) -> Self {
        self.packet(Hook::EgressForwarded, sketch)
    }

    /// A packet that a process of the host has sent leaves through a device.
    #[must_use]
    pub fn host_egress(self, sketch: Sketch) -> Self {
        self.packet(Hook::EgressLocal, sketch)
    }

    /// A packet arrives in the driver of an outward device.
    #[must_use]
    pub fn xdp(self, sketch: Sketch) -> Self {
        self.ethernet().packet(Hook::Xdp, sketch)
    }

    fn last(&mut self) -> &mut Packet {
        match self.steps.last_mut() {
            Some(Step::Packet(packet)) => packet,
            _ => panic!("this can only be said of a packet"),
        }
    }

    /// Of that packet only so many octets lie in place.
    #[must_use]
    pub fn in_place(mut self, len: usize) -> Self {
        self.last().in_place = Some(len);
        self
    }

    /// The kernel runs out of memory after so many writes to that packet.
    #[must_use]
    pub fn writes(mut self, writes: usize) -> Self {
        self.last().writes = writes;
        self
    }

    fn expect(mut self, expected: Expected) -> Self {
        self.last().expected = Some(expected);
        self
    }

    /// It goes on as it came, and nothing is remembered of it.
    #[must_use]
    pub fn stays_untouched(self) -> Self {
        self.expect(Expected::Untouched)
    }

    /// It goes on as it came, but leaves something behind.
    #[must_use]
    pub fn passes(self) -> Self {
        self.expect(Expected::Passes)
    }

    /// It goes on between these, and is the same otherwise. A port `*` is one that the datapath chooses; from there on
    /// it stands for that port in all of the row.
    #[must_use]
    pub fn becomes(self, tuple: &str) -> Self {
        self.expect(Expected::Becomes(tuple.to_owned()))
    }

    /// It goes on between these, on a new route, and is the same otherwise.
    #[must_use]
    pub fn gets_rerouted(self, tuple: &str) -> Self {
        self.expect(Expected::Rerouted(tuple.to_owned()))
    }

    /// It goes up to the host itself between these, and is the same otherwise.
    #[must_use]
    pub fn gets_delivered(self, tuple: &str) -> Self {
        self.expect(Expected::Delivered(tuple.to_owned()))
    }

    /// It is sent to its next hop between these, with one hop less, and is the same otherwise.
    #[must_use]
    pub fn gets_forwarded(self, tuple: &str) -> Self {
        self.expect(Expected::Forwarded(tuple.to_owned()))
    }

    /// It is dropped, counted and reported.
    #[must_use]
    pub fn gets_dropped(self, reason: DropReason) -> Self {
        self.expect(Expected::Dropped(reason))
    }

    /// Its sender is told by ICMP that nobody listens; that is counted and reported, too.
    #[must_use]
    pub fn gets_answered(self) -> Self {
        self.gets_refused(DropReason::NoEndpoint)
    }

    /// The same for another reason.
    #[must_use]
    pub fn gets_refused(self, reason: DropReason) -> Self {
        self.expect(Expected::Answered(reason))
    }

    /// It is a ping, and answered.
    #[must_use]
    pub fn gets_echoed(self) -> Self {
        self.expect(Expected::Echoed)
    }

    /// Its sender is told by a TCP reset that the connection is over; that is counted and reported, too.
    #[must_use]
    pub fn gets_reset(self) -> Self {
        self.expect(Expected::Reset)
    }

    /// What it quotes is between these, and the same otherwise.
    #[must_use]
    pub fn quoting(mut self, tuple: &str) -> Self {
        self.last().quoting = Some(tuple.to_owned());
        self
    }

    /// Besides, that packet has counted these and nothing else.
    #[must_use]
    pub fn counting(mut self, counters: &[Counter]) -> Self {
        self.last().counting = counters.to_vec();
        self
    }

    /// After that packet the flow table has these entries and no other.
    #[must_use]
    pub fn leaving(mut self, flows: &[&str]) -> Self {
        let mut flows: Vec<String> = flows.iter().map(|flow| (*flow).to_owned()).collect();
        flows.sort();
        self.last().leaving = Some(flows);
        self
    }

    /// After that packet XDP has these ways and no other.
    #[must_use]
    pub fn leaving_ways(mut self, ways: &[&str]) -> Self {
        let mut ways: Vec<String> = ways.iter().map(|way| (*way).to_owned()).collect();
        ways.sort();
        self.last().leaving_ways = Some(ways);
        self
    }

    /// Plays the row in all its variants.
    ///
    /// # Panics
    /// If something is not as the row says, or differs between host and kernel.
    #[track_caller]
    pub fn run(&self) {
        if let Err(why) = self.check() {
            panic!("{why:#}");
        }
    }

    /// Plays the row in all its variants.
    ///
    /// # Errors
    /// If something is not as the row says, or differs between host and kernel.
    pub fn check(&self) -> Result<()> {
        for variant in self.variants() {
            let Variant { version, proto, link } = variant;
            self.play(variant)
                .with_context(|| format!("{version:?}, {proto}, {link:?}"))?;
        }
        Ok(())
    }

    fn variants(&self) -> Vec<Variant> {
        let mut variants = Vec::new();
        for &version in &self.versions {
            for proto in self.protos() {
                variants.extend(self.links.iter().map(|&link| Variant { version, proto, link }));
            }
        }
        variants
    }

    /// The protocols in which the row makes sense; its Services are of the same.
    fn protos(&self) -> Vec<Proto> {
        let layers: Vec<Layer4> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Packet(packet) => Some(packet.sketch.layer4),
                _ => None,
            })
            .collect();
        let has = |wanted: fn(&Layer4) -> bool| layers.iter().any(wanted);
        if has(|layer4| matches!(layer4, Layer4::Sctp(_))) {
            return vec![Proto::SCTP];
        }
        match (
            has(|layer4| matches!(layer4, Layer4::Tcp(_))),
            has(|layer4| *layer4 == Layer4::Udp),
        ) {
            (false, false) => vec![Proto::TCP, Proto::UDP],
            (true, false) => vec![Proto::TCP],
            (false, true) => vec![Proto::UDP],
            (true, true) => panic!("a row is about TCP, about UDP or about `any`"),
        }
    }
}
