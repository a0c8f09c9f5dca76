//! When the routing changes, told by rtnetlink: routes, rules, next-hop objects, links, addresses, forwarding settings, and neighbours
//! where it matters.
//!
//! Not here: the number in `ROUTES` that grows then (`tables`), nor what the routing is: whoever remembers a next hop asks the kernel
//! anew. What the kernel tells nobody is not noticed: path MTUs and redirects that it has learned from ICMP.

use std::{collections::HashMap, convert::Infallible, io, net::IpAddr, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Nexthop,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Netconf,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];
/// How long messages are gathered after a change was told: bounds how often that happens, and delays no single one.
const REST: Duration = Duration::from_millis(1);
/// How many datagrams are read before a change among them is told.
const DATAGRAMS_MAX: usize = 256;
/// The kernel fills at most 32 KiB at once (`netlink_dump` in its `af_netlink.c`).
const DATAGRAM_LEN_MAX: usize = 32 * 1024;

// Numbers of messages and states of neighbours (linux/rtnetlink.h, linux/neighbour.h).
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// In these states the kernel takes a neighbour's address for good (`NUD_VALID` in its `neighbour.h`).
const NUD_VALID: u16 = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT;

/// Calls `changed` when it begins, after every change, and when changes may have been missed. Blocks, so that nothing else
/// that its thread does can delay a call.
///
/// # Errors
/// If the kernel refuses rtnetlink, or `changed` fails.
pub fn follow(mut changed: impl FnMut() -> Result<()>) -> Result<Infallible> {
    loop {
        follow_until_lost(&mut changed)?;
        tracing::debug!("the kernel had more changes of the routing to tell than there was room for");
        thread::sleep(REST);
    }
}

/// Ends well when messages were lost.
fn follow_until_lost(changed: &mut impl FnMut() -> Result<()>) -> Result<()> {
    let socket = open().context("open rtnetlink to follow the routing")?;
    let mut neighbours = Neighbours::default();
    let mut datagram = Vec::with_capacity(DATAGRAM_LEN_MAX);
    changed()?;
    loop {
        let mut is_change = false;
        let mut flags = 0;
        for _ in 0..DATAGRAMS_MAX {
            datagram.clear();
            match socket.recv(&mut datagram, flags) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error).context("read from rtnetlink to follow the routing"),
            }
            is_change |= neighbours.see_all(&datagram)?;
            flags = libc::MSG_DONTWAIT;
        }
        if is_change {
            changed()?;
            thread::sleep(REST);
        }
    }
}

/// A socket that hears of changes, and has asked for all neighbours.
fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(*group as u32)?;
    }
    let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut octets = vec![0; request.buffer_len()];
    request.serialize(&mut octets);
    socket.send_to(&octets, &SocketAddr::new(0, 0), 0)?;
    Ok(socket)
}

/// The neighbours that next hops may be remembered with, each with its link-layer address. The kernel tells every step of a neighbour's
/// state, most of which confirm what was known.
#[derive(Debug, Default)]
struct Neighbours {
    valid: HashMap<(u32, IpAddr), Vec<u8>>,
}

impl Neighbours {
    /// Whether a next hop may be another one after the messages of a datagram.
    fn see_all(&mut self, datagram: &[u8]) -> Result<bool> {
        let mut is_change = false;
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).context("read a message of rtnetlink")?;
            is_change |= match message.message_type() {
                RTM_NEWNEIGH | RTM_DELNEIGH | NLMSG_ERROR => self.see(rest)?,
                // Another kind of change, or the end of the list of neighbours: those that changed before they were listed
                // went unnoticed until here.
                _ => true,
            };
            // Messages are aligned to four octets (linux/netlink.h); the last needs no filling.
            let len = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(is_change)
    }

    fn see(&mut self, message: &[u8]) -> Result<bool> {
        match NetlinkMessage::deserialize(message).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour))) => {
                let is_valid = u16::from(neighbour.header.state) & NUD_VALID != 0;
                Ok(self.know(&neighbour, is_valid))
            }
            Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(neighbour))) => {
                Ok(self.know(&neighbour, false))
            }
            Ok(NetlinkPayload::Error(error)) if error.code.is_some() => bail!("list the neighbours: {}", error.to_io()),
            // What can't be read may be anything.
            _ => Ok(true),
        }
    }

    /// Whether a next hop that was found before may be another one, now that a neighbour is as told. One that was not valid was
    /// nobody's next hop.
    fn know(&mut self, neighbour: &NeighbourMessage, is_valid: bool) -> bool {
        let header = &neighbour.header;
        let (mut address, mut link_address) = (None, Vec::new());
        for attribute in &neighbour.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
                NeighbourAttribute::LinkLayerAddress(octets) => link_address.clone_from(octets),
                _ => {}
            }
        }
        let Some(address) = address else {
            // A bridge's forwarding entry.
            return false;
        };
        if header.flags.contains(NeighbourFlags::Proxy) {
            // Whom the kernel answers for, not one that it sends to.
            return false;
        }
        let key = (header.ifindex, address);
        if is_valid {
            let earlier = self.valid.insert(key, link_address.clone());
            earlier.is_some_and(|earlier| earlier != link_address)
        } else {
            self.valid.remove(&key).is_some()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rtnetlink::packet_core::DoneMessage;
    use rtnetlink::packet_route::{AddressFamily, link::LinkMessage, neighbour::NeighbourState, route::RouteMessage};

    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

    fn neighbour(ifindex: u32, last: u8, mac: Option<[u8; 6]>, state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = ifindex;
        message.header.state = state;
        let address = IpAddr::from(Ipv4Addr::new(192, 168, 0, last));
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        message
            .attributes
            .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.into())));
        message
    }

    fn new(last: u8, mac: Option<[u8; 6]>, state: NeighbourState) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewNeighbour(neighbour(2, last, mac, state))
    }

    fn octets(mut message: NetlinkMessage<RouteNetlinkMessage>) -> Vec<u8> {
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    #[test]
    fn neighbours_matter_when_a_next_hop_is_another_or_none() {
        use NeighbourState::{Delay, Failed, Incomplete, Other, Permanent, Probe, Reachable, Stale};
        let deleted = |last| RouteNetlinkMessage::DelNeighbour(neighbour(2, last, Some(A), Stale));
        let bridge = || {
            let mut message = neighbour(2, 1, Some(B), Permanent);
            message.header.family = AddressFamily::Bridge;
            RouteNetlinkMessage::NewNeighbour(message)
        };
        let proxy = || {
            let mut message = neighbour(2, 1, None, Permanent);
            message.header.flags = NeighbourFlags::Proxy;
            RouteNetlinkMessage::NewNeighbour(message)
        };
        let elsewhere = || RouteNetlinkMessage::NewNeighbour(neighbour(3, 1, Some(B), Reachable));
        let rows = [
            ("is asked for", new(1, None, Incomplete), false),
            ("is found", new(1, Some(A), Reachable), false),
            ("was not heard of for a while", new(1, Some(A), Stale), false),
            ("is about to be asked again", new(1, Some(A), Delay), false),
            ("is asked again", new(1, Some(A), Probe), false),
            ("answers", new(1, Some(A), Reachable), false),
            ("in a bridge's table", bridge(), false),
            ("the kernel answers for it", proxy(), false),
            ("the same address on another device", elsewhere(), false),
            ("has another card", new(1, Some(B), Reachable), true),
            ("still has it", new(1, Some(B), Stale), false),
            ("is set by hand to the same", new(1, Some(B), Permanent), false),
            ("does not answer", new(1, None, Failed), true),
            ("still does not", new(1, None, Failed), false),
            ("is forgotten", deleted(1), false),
            ("is found again", new(1, Some(A), Reachable), false),
            ("is removed", deleted(1), true),
            ("is unknown and removed", deleted(2), false),
            ("in two states at once", new(2, Some(A), Other(0x06)), false),
            ("in none that is valid", new(2, Some(A), Other(0x21)), true),
        ];
        let mut neighbours = Neighbours::default();
        for (what, message, expected) in rows {
            let found = neighbours.see_all(&octets(message.into())).expect("readable");
            assert_eq!(found, expected, "a neighbour that {what}");
        }
    }

    #[test]
    fn everything_else_matters() {
        let done = NetlinkMessage::new(Default::default(), NetlinkPayload::Done(DoneMessage::default()));
        let rows = [
            ("a link", RouteNetlinkMessage::NewLink(LinkMessage::default()).into()),
            ("a route", RouteNetlinkMessage::DelRoute(RouteMessage::default()).into()),
            ("the end of the list", done),
        ];
        for (what, message) in rows {
            let found = Neighbours::default().see_all(&octets(message)).expect("readable");
            assert!(found, "{what}");
        }
    }

    #[test]
    fn all_messages_of_a_datagram_are_read() {
        let mut neighbours = Neighbours::default();
        let mut datagram = octets(new(1, Some(A), NeighbourState::Reachable).into());
        datagram.extend(octets(new(1, Some(B), NeighbourState::Reachable).into()));
        assert!(neighbours.see_all(&datagram).expect("readable"));
        assert!(!neighbours.see_all(&[]).expect("readable"));
        assert!(
            neighbours.see_all(&datagram[..30]).is_err(),
            "a message that was cut off"
        );
    }
}
