//! What a row is given: Services, backends and the node, said in names, and turned into writes that a host world and a
//! kernel world do alike. Services as rows say them are in `service`.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::layout::{
    Address as _, AddressFlags, Backend, BackendFlags, CHUNK_CELLS, Cells, Chunk, Device, DeviceFlags, FlowKey,
    Frontend, FrontendKey, Node, NodeFlags, Port, Proto, Rules, Scope, Service, ServiceFlags, Sets, Stage, TableHeader,
    VlanKey,
    limits::{MAGLEV_CELLS_PER_ENDPOINT, MAGLEV_CHUNKS_MAX},
};
use lb_userspace::tables::{SourceRange, node_range};

use super::{
    encode::MAC_TO,
    hops::{CARD, WAN, vlans},
    names::{Named, endpoint, range},
    service::{Kind, List, ServiceSketch, Table},
};

/// One thing that happens to the tables between packets.
#[derive(Clone, Debug)]
pub enum Change {
    /// The Service is so from now on.
    Service(Box<ServiceSketch>),
    /// The frontend's range names slots that were never written.
    Dangle(String),
    /// The frontend is gone, and its address if it was the last there.
    Remove(String),
    /// The backend's record is taken out of use.
    Withdraw(String),
    /// The backend's record of this Service is taken out of use.
    WithdrawFrom(String, String),
    /// The backend stops serving: it is still there, and terminating.
    StopServing(String),
    /// The first backend's number stands for the second backend from now on.
    Reuse(String, String),
    /// The node has an address to masquerade with.
    Node,
    /// NodePorts are served on this address of the host.
    HostAddress(String),
    /// An address of the host on which no NodePorts are served.
    QuietHostAddress(String),
    /// Pods are known by their addresses, in this range.
    DetectPods(String),
    /// Pods are known by the device that they come from; that of the rows is one.
    DetectPodDevice,
    /// Pods are known by the device that they come from; that of the rows is none.
    DetectOtherDevice,
    /// The device of the rows is the first at which the node sees what comes from it.
    FirstDevice,
    /// What leaves by the device of the rows may have left by another one just before.
    LowerDevice,
    /// XDP may send: the device of the rows has a link address, and the one by which others are reached takes frames.
    Outward,
    /// The same, and the device takes frames in several buffers.
    OutwardScatters,
    /// The same on a device where XDP runs in generic mode.
    OutwardGeneric,
    /// The VLAN devices of `hops` are there, and XDP may send out of them.
    Vlans,
    /// The same, and it sends frames back by their cards.
    VlansTurn,
    /// The routing changes.
    Routing,
    /// New flows are left to netfilter, or no longer.
    Defer(bool),
    /// Every connection to a ClusterIP is masqueraded.
    MasqueradeAll,
    /// A ServiceCIDR is known.
    ServiceCidr(String),
    /// The route to this address leads out of the device of the rows. On the host only.
    LeadsBack(String),
    /// A socket of the host takes packets of this tuple. On the host only.
    Socket(String),
    /// Another node has this address.
    Peer(String),
    /// A router has told how much fits on the way to another node.
    PathMtu(String, u32),
    /// No route leads to this address any more. On the host only.
    NoRoute(String),
    /// Tunnels are of UDP.
    Gue,
    /// A flow entry was evicted.
    Evict(String),
    /// The kernel recycled a flow entry while somebody reads it: what it says is not about its key.
    Garble(String),
    /// The agent found that the flow's endpoint is gone for good.
    Reset(String),
}

impl Change {
    /// The ClusterIP is served by these backends from now on.
    #[must_use]
    pub fn serve(frontend: &str, backends: &[&str]) -> Self {
        Self::Service(Box::new(ServiceSketch::new(frontend).to(backends)))
    }

    /// From now on nobody in the whole cluster serves the ClusterIP.
    #[must_use]
    pub fn reject(frontend: &str) -> Self {
        Self::Service(Box::new(ServiceSketch::new(frontend).nobody()))
    }
}

/// One write to the tables of a family.
#[derive(Clone, Copy, Debug)]
pub enum Write<F: Named> {
    /// What an address is, or that it is nothing any more.
    Address(F::Addr, Option<AddressFlags>),
    /// A frontend of this service, or none any more.
    Frontend(FrontendKey<F::Addr>, Option<Frontend>),
    /// A service record.
    Service(u32, Service),
    /// A source range.
    Source(SourceRange<F::Addr>),
    /// A backend number in a slot.
    Slot(u32, u32),
    /// A chunk of a Maglev table.
    Chunk(u32, Chunk),
    /// A backend record.
    Backend(u32, Backend<F::Addr>),
    /// Facts about the node.
    Node(Node<F::Addr>),
    /// Another node, and the path MTU that was told of it just now.
    Peer(F::Addr, u32),
    /// Facts about a device.
    Device(u32, Device),
    /// The device of a VLAN.
    Vlan(VlanKey, u32),
    /// How often the routing has changed.
    Routes(u32),
    /// Whether new flows are left to netfilter.
    Defers(bool),
    /// The device by which packets to an address leave; what the kernel's routing table says in a kernel world.
    Route(F::Addr, u32),
    /// An address to which no route leads; what the kernel's routing table says in a kernel world.
    NoRoute(F::Addr),
    /// A socket; what the kernel has in a kernel world.
    Socket(FlowKey<F::Addr>),
    /// A flow entry that goes.
    Evict(FlowKey<F::Addr>),
    /// A flow entry whose contents change under the reader.
    Garble(FlowKey<F::Addr>),
    /// A flow entry whose endpoint is gone for good.
    Reset(FlowKey<F::Addr>),
}

/// Who has which number. Services, backends and slots are numbered as they come; a range is never written twice.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    services: Vec<String>,
    /// Service and backend; a number's place is its index.
    backends: Vec<(u32, String)>,
    slots: u32,
    chunks: u32,
    sets: u32,
    /// How often a service got affinity, and whether it has it.
    affinities: BTreeMap<u32, (u32, bool)>,
    /// Frontends, each as it was said, with the flags that its address has by it.
    frontends: BTreeMap<String, AddressFlags>,
    host: BTreeMap<String, AddressFlags>,
    /// Whoever is a backend, or was.
    endpoints: BTreeSet<String>,
    node: NodeSketch,
    device: DeviceFlags,
    link: [u32; 2],
    routes: u32,
}

#[derive(Clone, Debug, Default)]
struct NodeSketch {
    has_address: bool,
    has_peers: bool,
    pods: Option<String>,
    service_cidrs: Vec<String>,
    flags: NodeFlags,
}

impl Scene {
    /// The writes of a change, in the order in which the agent does them.
    ///
    /// # Panics
    /// If the change names somebody whom nobody knows.
    pub fn writes<F: Named>(&mut self, change: &Change, proto: Proto) -> Vec<Write<F>> {
        match change {
            Change::Service(service) => self.serve(service, proto),
            Change::Dangle(frontend) => {
                self.slots += 1;
                let dangling = ServiceSketch::new(frontend).dangling(self.slots - 1);
                self.serve(&dangling, proto)
            }
            Change::Remove(frontend) => {
                self.frontends.remove(frontend);
                let (key, _) = frontend_key::<F>(frontend, proto);
                vec![Write::Frontend(key, None), self.address::<F>(frontend)]
            }
            Change::Withdraw(backend) => self.backend_writes::<F>(backend, None, None),
            Change::WithdrawFrom(service, backend) => self.backend_writes::<F>(backend, Some(service), None),
            Change::StopServing(backend) => self.backend_writes::<F>(backend, None, Some(BackendFlags::default())),
            Change::Reuse(old, new) => {
                let Some(place) = self.backends.iter().position(|(_, known)| known == old) else {
                    return Vec::new();
                };
                new.clone_into(&mut self.backends[place].1);
                let service = self.backends[place].0;
                vec![Write::Backend(
                    place as u32 + 1,
                    backend_record::<F>(new, service, BackendFlags::ACTIVE),
                )]
            }
            Change::Node => {
                self.node.has_address = true;
                vec![self.node_record()]
            }
            Change::HostAddress(name) => {
                let flags = AddressFlags::HOST.with(AddressFlags::NODE_PORTS);
                self.host_address(name, flags)
            }
            Change::QuietHostAddress(name) => self.host_address(name, AddressFlags::HOST),
            Change::DetectPods(name) => {
                self.node.pods = Some(name.clone());
                self.node.flags = self.node.flags.with(NodeFlags::PODS_BY_ADDRESS);
                vec![self.node_record()]
            }
            Change::DetectPodDevice => {
                self.node.flags = self.node.flags.with(NodeFlags::PODS_BY_DEVICE);
                vec![self.node_record(), self.device(DeviceFlags::PODS)]
            }
            Change::Outward | Change::OutwardScatters => {
                let scatters = matches!(change, Change::OutwardScatters).then_some(DeviceFlags::SCATTERS);
                let wan = Device {
                    flags: DeviceFlags::FORWARDS.with(scatters.unwrap_or_default()),
                    ..Device::default()
                };
                self.link = Device::link_of(MAC_TO);
                vec![self.device(DeviceFlags::default()), Write::Device(WAN, wan)]
            }
            Change::OutwardGeneric => {
                self.link = Device::link_of(MAC_TO);
                vec![self.device(DeviceFlags::GENERIC)]
            }
            Change::Vlans | Change::VlansTurn => {
                let turns = matches!(change, Change::VlansTurn).then_some(DeviceFlags::TURNS);
                let flags = DeviceFlags::FORWARDS.with(turns.unwrap_or_default());
                let writes = vlans().into_iter().flat_map(|(ifindex, lower, tags)| {
                    let device = Device {
                        flags,
                        link: Device::link_of(MAC_TO),
                        lower,
                        tags,
                        ..Device::default()
                    };
                    let key = VlanKey { ifindex: lower, tags };
                    [Write::Device(ifindex, device), Write::Vlan(key, ifindex)]
                });
                writes.collect()
            }
            Change::Routing => {
                self.routes += 1;
                vec![Write::Routes(self.routes)]
            }
            Change::Defer(defers) => vec![Write::Defers(*defers)],
            Change::FirstDevice => vec![self.device(DeviceFlags::FIRST)],
            Change::LowerDevice => vec![self.device(DeviceFlags::LOWER)],
            Change::DetectOtherDevice => {
                self.node.flags = self.node.flags.with(NodeFlags::PODS_BY_DEVICE);
                vec![self.node_record()]
            }
            Change::MasqueradeAll => {
                self.node.flags = self.node.flags.with(NodeFlags::MASQUERADE_ALL);
                vec![self.node_record()]
            }
            Change::ServiceCidr(name) => {
                self.node.service_cidrs.push(name.clone());
                vec![self.node_record()]
            }
            Change::LeadsBack(name) => vec![Write::Route(F::named(name), CARD)],
            Change::Socket(tuple) => vec![Write::Socket(F::key(tuple, proto))],
            Change::Peer(name) => {
                self.node.has_peers = true;
                vec![self.node_record(), Write::Peer(F::named(name), 0)]
            }
            Change::PathMtu(name, mtu) => vec![Write::Peer(F::named(name), *mtu)],
            Change::NoRoute(name) => vec![Write::NoRoute(F::named(name))],
            Change::Gue => {
                self.node.flags = self.node.flags.with(NodeFlags::GUE);
                vec![self.node_record()]
            }
            Change::Evict(tuple) => at_both_stages(F::key(tuple, proto)).map(Write::Evict).into(),
            Change::Garble(tuple) => at_both_stages(F::key(tuple, proto)).map(Write::Garble).into(),
            // Only TCP can be reset, so nothing else is marked.
            Change::Reset(_) if proto != Proto::TCP => Vec::new(),
            Change::Reset(tuple) => at_both_stages(F::key(tuple, proto)).map(Write::Reset).into(),
        }
    }

    fn device<F: Named>(&mut self, flags: DeviceFlags) -> Write<F> {
        self.device = self.device.with(flags);
        let device = Device {
            flags: self.device,
            link: self.link,
            ..Device::default()
        };
        Write::Device(CARD, device)
    }

    /// All records of a backend, or those of one Service, with other flags, or out of use.
    fn backend_writes<F: Named>(&self, backend: &str, of: Option<&str>, flags: Option<BackendFlags>) -> Vec<Write<F>> {
        let is_of = |service: u32| of.is_none_or(|name| self.services[service as usize] == name);
        let known = (1..).zip(&self.backends);
        let known = known.filter(|(_, (service, name))| name == backend && is_of(*service));
        let write = |number, service| {
            let record = flags.map(|flags| backend_record::<F>(backend, service, flags));
            Write::Backend(number, record.unwrap_or_default())
        };
        known.map(|(number, (service, _))| write(number, *service)).collect()
    }

    fn node_record<F: Named>(&self) -> Write<F> {
        let as_range = |name: &String| node_range::<F>(range(name, F::VERSION)).expect("a range of this family");
        let mut node = Node {
            pods: self.node.pods.as_ref().map(as_range).unwrap_or_default(),
            flags: self.node.flags,
            ..Node::default()
        };
        if self.node.has_address {
            node.address = F::named("node");
        }
        if self.node.has_peers {
            node.own = F::named("node");
        }
        for (place, name) in node.services.iter_mut().zip(&self.node.service_cidrs) {
            *place = as_range(name);
        }
        Write::Node(node)
    }

    fn host_address<F: Named>(&mut self, name: &str, flags: AddressFlags) -> Vec<Write<F>> {
        let flags = if name == "lo" {
            flags.with(AddressFlags::LOOPBACK)
        } else {
            flags
        };
        self.host.insert(name.to_owned(), flags);
        vec![self.address(name)]
    }

    /// What an address is by all that is said of it.
    fn address<F: Named>(&self, text: &str) -> Write<F> {
        let name = host_of(text);
        let mut flags = self.host.get(name).copied().unwrap_or_default();
        for (_, by_frontend) in self.frontends.iter().filter(|(frontend, _)| host_of(frontend) == name) {
            flags = flags.with(*by_frontend);
        }
        if self.endpoints.contains(name) {
            flags = flags.with(AddressFlags::ENDPOINT);
        }
        let is_something = flags != AddressFlags::default();
        Write::Address(F::named(name).looked_up(), is_something.then_some(flags))
    }

    fn serve<F: Named>(&mut self, sketch: &ServiceSketch, proto: Proto) -> Vec<Write<F>> {
        let number = number_of(&mut self.services, &sketch.name);
        let mut writes = Vec::new();
        let table = sketch.table.as_ref();
        let cluster = self.list::<F>(number, &sketch.cluster, table, &mut writes);
        let local = self.list::<F>(number, &sketch.local, table, &mut writes);
        let mut flags = ServiceFlags::default();
        if sketch.internal_local {
            flags = flags.with(ServiceFlags::INTERNAL_LOCAL);
        }
        if sketch.external_local {
            flags = flags.with(ServiceFlags::EXTERNAL_LOCAL);
        }
        if sketch.internal_maglev {
            flags = flags.with(ServiceFlags::INTERNAL_MAGLEV);
        }
        if sketch.dsr {
            flags = flags.with(ServiceFlags::DSR);
        }
        let sources = if sketch.sources.is_empty() {
            0
        } else {
            self.sets += 1;
            self.sets
        };
        // A range of the other family is none of this one's.
        writes.extend(sketch.sources.iter().filter_map(|name| {
            let cidr = range(name, F::VERSION);
            Some(Write::Source(SourceRange {
                set: sources,
                base: F::from_ip(cidr.base())?,
                prefix_len: cidr.prefix_len(),
            }))
        }));
        let (times, has_it) = self.affinities.entry(number).or_default();
        *times += u32::from(sketch.affinity_s != 0 && !*has_it);
        *has_it = sketch.affinity_s != 0;
        let service = Service {
            cluster,
            local,
            rules: Rules {
                flags,
                affinity_s: sketch.affinity_s,
            },
            sets: Sets {
                sources,
                affinity: *times << 16 | number,
            },
        };
        writes.push(Write::Service(number, service));
        for (frontend, kind) in &sketch.frontends {
            let (key, flags) = frontend_key::<F>(frontend, proto);
            let word = match kind {
                Kind::ClusterIp => Frontend::internal(number),
                Kind::External | Kind::NodePort => Frontend::external(number),
                Kind::LoadBalancer => Frontend::filtered(number),
            };
            writes.push(Write::Frontend(key, Some(word)));
            if *kind != Kind::NodePort {
                let flags = if *kind == Kind::ClusterIp {
                    AddressFlags::CLUSTER_IP
                } else {
                    flags
                };
                self.frontends.insert(frontend.clone(), flags);
                writes.push(self.address(frontend));
            }
        }
        writes
    }

    /// The chunks of a table for so many members, and its header in slots.
    fn table<F: Named>(&mut self, table: &Table, members: u32, writes: &mut Vec<Write<F>>) {
        let cells = Cells::new(members * MAGLEV_CELLS_PER_ENDPOINT);
        let first_chunk = match table {
            Table::Of(_) => self.chunks,
            Table::Beyond => MAGLEV_CHUNKS_MAX,
        };
        if let Table::Of(ordinals) = table {
            let mut ordinals = ordinals.iter().copied().cycle();
            for _ in 0..cells.count().div_ceil(CHUNK_CELLS) {
                let chunk = Chunk {
                    ordinals: std::array::from_fn(|_| ordinals.next().expect("they go round")),
                };
                writes.push(Write::Chunk(self.chunks, chunk));
                self.chunks += 1;
            }
        }
        let header = TableHeader {
            first_chunk,
            cells,
            fingerprint: 0,
        };
        for word in header.to_slots() {
            writes.push(Write::Slot(self.slots, word));
            self.slots += 1;
        }
    }

    fn list<F: Named>(
        &mut self,
        service: u32,
        list: &List,
        table: Option<&Table>,
        writes: &mut Vec<Write<F>>,
    ) -> Scope {
        let backends = match list {
            List::Absent => return Scope::ABSENT,
            List::Reject => return Scope::REJECT,
            List::Drop => return Scope::DROP,
            List::Dangling(slot) => return Scope::slots(*slot, 1),
            List::Backends(backends) => backends,
        };
        let len = backends.len() as u32;
        if let Some(table) = table {
            self.table(table, len, writes);
        }
        let base = self.slots;
        for text in backends {
            let (backend, place) = text.split_once(' ').unwrap_or((text, ""));
            let (flags, node) = match (place, place.strip_prefix("on ")) {
                ("local", _) => (BackendFlags::ACTIVE.with(BackendFlags::LOCAL), F::Addr::default()),
                ("", _) => (BackendFlags::ACTIVE, F::Addr::default()),
                (_, Some(node)) => (BackendFlags::ACTIVE, F::named(node)),
                (other, None) => panic!("a backend is not {other}"),
            };
            let number = number_of(&mut self.backends, &(service, backend.to_owned())) + 1;
            if self.endpoints.insert(host_of(backend).to_owned()) {
                writes.push(self.address(backend));
            }
            let record = Backend {
                node,
                ..backend_record::<F>(backend, service, flags)
            };
            writes.push(Write::Backend(number, record));
            writes.push(Write::Slot(self.slots, number));
            self.slots += 1;
        }
        match table {
            Some(_) => Scope::slots_with_table(base, len),
            None => Scope::slots(base, len),
        }
    }
}

fn at_both_stages<A: lb_common::layout::Address>(key: FlowKey<A>) -> [FlowKey<A>; 2] {
    [Stage::ARRIVES, Stage::LEAVES].map(|stage| key.at(stage))
}

fn number_of<T: Clone + PartialEq>(known: &mut Vec<T>, wanted: &T) -> u32 {
    let at = known.iter().position(|known| known == wanted).unwrap_or_else(|| {
        known.push(wanted.clone());
        known.len() - 1
    });
    at as u32
}

fn host_of(text: &str) -> &str {
    text.rsplit_once(':').map_or(text, |(host, _)| host)
}

/// The key of a frontend, and what it makes of its address. A NodePort is said as `*:30080`.
fn frontend_key<F: Named>(text: &str, proto: Proto) -> (FrontendKey<F::Addr>, AddressFlags) {
    if let Some(port) = text.strip_prefix("*:") {
        let port = port.parse().unwrap_or_else(|_| panic!("{text} has no port"));
        let key = FrontendKey::new(F::Addr::default(), Port::new(port), proto);
        return (key, AddressFlags::default());
    }
    let (address, port) = backend_address::<F>(text);
    (FrontendKey::new(address, port, proto), AddressFlags::EXTERNAL)
}

fn backend_record<F: Named>(text: &str, service: u32, flags: BackendFlags) -> Backend<F::Addr> {
    let (address, port) = backend_address::<F>(text);
    Backend {
        address,
        port,
        flags,
        service,
        node: Default::default(),
    }
}

fn backend_address<F: Named>(text: &str) -> (F::Addr, Port) {
    let (address, port) = endpoint(text, F::VERSION);
    (
        F::from_ip(address).unwrap_or_else(|| panic!("{text} is of another family")),
        Port::new(port),
    )
}
