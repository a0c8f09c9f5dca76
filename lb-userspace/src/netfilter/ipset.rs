//! Sets of addresses and ports that rules of iptables ask for (ipset): their names, the ports in one, and destroying them.
//!
//! Asking the kernel for sets loads what keeps them, where that is a module: nothing is asked before it is there.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use rtnetlink::packet_core::{DefaultNla, NLA_F_NESTED, NLA_F_NET_BYTEORDER, Nla as _, NlasIterator};

use super::socket::Socket;

/// There while the kernel keeps sets.
const MODULE: &str = "/sys/module/ip_set";
/// nf_tables lets go of a removed rule's sets after the removal is told.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
// Of `linux/netfilter/nfnetlink.h` and `linux/netfilter/ipset/ip_set.h`.
const SUBSYSTEM: NetfilterSubsystem = NetfilterSubsystem::Other(6);
const IPSET_CMD_DESTROY: u8 = 3;
const IPSET_CMD_LIST: u8 = 7;
const IPSET_ATTR_PROTOCOL: u16 = 1;
const IPSET_ATTR_SETNAME: u16 = 2;
const IPSET_ATTR_FLAGS: u16 = 6;
const IPSET_ATTR_DATA: u16 = 7;
const IPSET_ATTR_ADT: u16 = 8;
/// In the data of an element.
const IPSET_ATTR_PORT: u16 = 4;
/// What an attribute's number has beside it.
const NLA_FLAGS: u16 = NLA_F_NESTED | NLA_F_NET_BYTEORDER;
const IPSET_PROTOCOL: u8 = 7;
/// Names only, not what is in the sets.
const IPSET_FLAG_LIST_SETNAME: u32 = 1 << 1;
const IPSET_ERR_BUSY: i32 = 4100;

/// How many sets there are that are somebody's.
pub(super) fn find(is_own: impl Fn(&str) -> bool) -> Result<usize> {
    Ok(names(is_own)?.len())
}

/// The ports in a set; none if it is not there.
pub(super) fn ports(name: &str) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    if Path::new(MODULE).exists() {
        let question = message(IPSET_CMD_LIST, set_name(name));
        let list = Socket::open()?.list(question, |message: NetfilterMessage| {
            ports.extend(ports_in(&message.inner));
        });
        match list {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other.with_context(|| format!("list ipset {name}"))?,
        }
    }
    Ok(ports)
}

/// Destroys them. How many there were.
pub(super) fn remove(is_own: impl Fn(&str) -> bool) -> Result<usize> {
    let names = names(is_own)?;
    if !names.is_empty() {
        let mut socket = Socket::open()?;
        for name in &names {
            destroy(&mut socket, name)?;
        }
    }
    Ok(names.len())
}

fn names(is_own: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if Path::new(MODULE).exists() {
        Socket::open()?.list(list(), |message: NetfilterMessage| names.extend(name(&message.inner)))?;
        names.retain(|name| is_own(name));
    }
    Ok(names)
}

fn destroy(socket: &mut Socket, name: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        match socket
            .act(destruction(name))
            .map_err(|error| (error.raw_os_error(), error))
        {
            Ok(()) => return Ok(()),
            // Somebody else was faster.
            Err((Some(libc::ENOENT), _)) => return Ok(()),
            Err((Some(IPSET_ERR_BUSY), _)) if start.elapsed() < PATIENCE => thread::sleep(LOOK_EVERY),
            Err((Some(IPSET_ERR_BUSY), _)) => bail!("ipset {name} stays: a rule that is not kube-proxy's asks for it"),
            Err((_, error)) => return Err(error).with_context(|| format!("destroy ipset {name}")),
        }
    }
}

fn list() -> NetfilterMessage {
    let names_only = IPSET_FLAG_LIST_SETNAME.to_be_bytes().to_vec();
    let flags = DefaultNla::new(IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, names_only);
    message(IPSET_CMD_LIST, flags)
}

fn destruction(name: &str) -> NetfilterMessage {
    message(IPSET_CMD_DESTROY, set_name(name))
}

fn set_name(name: &str) -> DefaultNla {
    DefaultNla::new(IPSET_ATTR_SETNAME, [name.as_bytes(), &[0]].concat())
}

fn message(command: u8, attribute: DefaultNla) -> NetfilterMessage {
    let protocol = DefaultNla::new(IPSET_ATTR_PROTOCOL, vec![IPSET_PROTOCOL]);
    let inner = NetfilterMessageInner::Other {
        subsys: SUBSYSTEM,
        message_type: command,
        attributes: vec![protocol, attribute],
    };
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), inner)
}

/// What stands in an attribute of a message.
fn value(message: &NetfilterMessageInner, kind: u16) -> Option<Vec<u8>> {
    let NetfilterMessageInner::Other { attributes, .. } = message else {
        return None;
    };
    let attribute = attributes
        .iter()
        .find(|attribute| attribute.kind() & !NLA_FLAGS == kind)?;
    let mut octets = vec![0; attribute.value_len()];
    attribute.emit_value(&mut octets);
    Some(octets)
}

/// The name of the set that a message is about.
fn name(message: &NetfilterMessageInner) -> Option<String> {
    let octets = value(message, IPSET_ATTR_SETNAME)?;
    let text = octets.split(|octet| *octet == 0).next()?;
    String::from_utf8(text.to_vec()).ok()
}

/// The ports of the elements in a message.
fn ports_in(message: &NetfilterMessageInner) -> Vec<u16> {
    let elements = value(message, IPSET_ATTR_ADT).unwrap_or_default();
    let elements = NlasIterator::new(&elements[..]).filter_map(Result::ok);
    let port = |element: &[u8]| {
        let mut parts = NlasIterator::new(element).filter_map(Result::ok);
        let port = parts.find(|part| part.kind() == IPSET_ATTR_PORT)?;
        Some(u16::from_be_bytes(*port.value().first_chunk()?))
    };
    elements
        .filter(|element| element.kind() == IPSET_ATTR_DATA)
        .filter_map(|element| port(element.value()))
        .collect()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{Emitable, NetlinkSerializable as _, ParseableParametrized as _};

    use super::*;

    fn octets(message: &NetfilterMessage) -> Vec<u8> {
        let mut octets = vec![0; Emitable::buffer_len(message)];
        message.emit(&mut octets);
        octets
    }

    #[test]
    fn names_are_asked_for() {
        assert_eq!(list().message_type(), 0x0607);
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, // IPv4
            5, 0, 1, 0, 7, 0, 0, 0,
            8, 0, 6, 0x40, 0, 0, 0, 2,
        ];
        assert_eq!(octets(&list()), expected);
    }

    #[test]
    fn a_set_is_destroyed_by_its_name() {
        assert_eq!(destruction("ab").message_type(), 0x0603);
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, // IPv4
            5, 0, 1, 0, 7, 0, 0, 0,
            7, 0, 2, 0, b'a', b'b', 0, 0,
        ];
        assert_eq!(octets(&destruction("ab")), expected);
    }

    #[test]
    fn a_sets_name_is_read() {
        #[rustfmt::skip]
        let answer = [
            2, 0, 0, 0,
            5, 0, 1, 0, 7, 0, 0, 0,
            8, 0, 2, 0, b'w', b'e', b'b', 0,
        ];
        let read = NetfilterMessage::parse_with_param(&answer, 0x0607).expect("it is one");
        assert_eq!(name(&read.inner).as_deref(), Some("web"));
        let nameless = NetfilterMessage::parse_with_param(&answer[..12], 0x0607).expect("it is one");
        assert_eq!(name(&nameless.inner), None);
    }
    #[test]
    fn a_sets_ports_are_read() {
        #[rustfmt::skip]
        let answer = [
            2, 0, 0, 0,
            36, 0, 8, 0x80,
            12, 0, 7, 0x80, 6, 0, 4, 0x40, 117, 128, 0, 0,
            20, 0, 7, 0x80, 8, 0, 1, 0x40, 10, 0, 0, 1, 6, 0, 4, 0x40, 0, 53, 0, 0,
        ];
        let read = NetfilterMessage::parse_with_param(&answer, 0x0607).expect("it is one");
        assert_eq!(ports_in(&read.inner), [30080, 53]);
        let empty = NetfilterMessage::parse_with_param(&answer[..4], 0x0607).expect("it is one");
        assert!(ports_in(&empty.inner).is_empty());
    }
}
