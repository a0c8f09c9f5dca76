//! What the packet bench needs of an address family.

use std::net::IpAddr;

use lb_common::layout::{Flow, FlowKey, Ip4, Ip6, Proto, V4, V6};
use lb_userspace::{
    model::Family as ModelFamily,
    tables::{FlowTable, TableFamily},
};

use super::rig::{Rig, Tuple};

/// Length of a frame: with IPv6 and TCP there is just room for the headers.
const FRAME_LEN: usize = 78;

/// The link address of frames.
pub(super) const FRAME_TO: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A family that can be measured.
pub(super) trait BenchFamily: TableFamily {
    /// `v4` or `v6`.
    const SHORT: &'static str;
    /// The same in the agent's model.
    const MODEL: ModelFamily;
    /// A frame without addresses and ports.
    fn frame(proto: Proto, tcp_flags: u8) -> Vec<u8>;
    /// Addresses and ports in a frame.
    fn addresses(frame: &[u8]) -> &[u8];
    /// The flow table of the rig.
    fn flows(rig: &Rig) -> &FlowTable<Self>;
    /// An address of this family.
    fn address(address: IpAddr) -> Option<Self::Addr>;
    /// Words as they lie in a header.
    fn words(address: &Self::Addr) -> [u32; 4];

    /// The key as the programs read it from a packet.
    fn tuple(key: &FlowKey<Self::Addr>) -> Tuple {
        let mut tuple = [0; 10];
        tuple[..4].copy_from_slice(&Self::words(&key.src));
        tuple[4..8].copy_from_slice(&Self::words(&key.dst));
        let ([a, b], [c, d]) = (key.sport.octets, key.dport.octets);
        tuple[8] = u32::from_ne_bytes([a, b, c, d]);
        tuple
    }

    /// The key of the packets that answer.
    fn reply(key: &FlowKey<Self::Addr>, flow: &Flow<Self::Addr>) -> FlowKey<Self::Addr> {
        key.of_counterpart(flow)
    }
}

fn transport(proto: Proto, tcp_flags: u8) -> Vec<u8> {
    if proto == Proto::TCP {
        let mut tcp = vec![0; 20];
        (tcp[12], tcp[13]) = (5 << 4, tcp_flags);
        (tcp[16], tcp[17]) = (0x12, 0x34);
        tcp
    } else {
        vec![0, 0, 0, 0, 0, 20, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

fn frame(ethertype: [u8; 2], ip: &[u8], proto: Proto, tcp_flags: u8) -> Vec<u8> {
    let mut frame = FRAME_TO.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2]);
    frame.extend(ethertype);
    frame.extend(ip);
    frame.extend(transport(proto, tcp_flags));
    frame.resize(FRAME_LEN, 0);
    frame
}

impl BenchFamily for V4 {
    const SHORT: &'static str = "v4";
    const MODEL: ModelFamily = ModelFamily::V4;

    fn frame(proto: Proto, tcp_flags: u8) -> Vec<u8> {
        let mut ip = [0; 20];
        (ip[0], ip[3], ip[8], ip[9]) = (0x45, 40, 64, proto.0);
        frame([0x08, 0x00], &ip, proto, tcp_flags)
    }

    fn addresses(frame: &[u8]) -> &[u8] {
        &frame[26..38]
    }

    fn flows(rig: &Rig) -> &FlowTable<Self> {
        &rig.flows4
    }

    fn address(address: IpAddr) -> Option<Ip4> {
        match address {
            IpAddr::V4(v4) => Some(Ip4 { octets: v4.octets() }),
            IpAddr::V6(_) => None,
        }
    }

    fn words(address: &Ip4) -> [u32; 4] {
        [u32::from_ne_bytes(address.octets), 0, 0, 0]
    }
}

impl BenchFamily for V6 {
    const SHORT: &'static str = "v6";
    const MODEL: ModelFamily = ModelFamily::V6;

    fn frame(proto: Proto, tcp_flags: u8) -> Vec<u8> {
        let mut ip = [0; 40];
        (ip[0], ip[5], ip[6], ip[7]) = (0x60, 20, proto.0, 64);
        frame([0x86, 0xdd], &ip, proto, tcp_flags)
    }

    fn addresses(frame: &[u8]) -> &[u8] {
        &frame[22..58]
    }

    fn flows(rig: &Rig) -> &FlowTable<Self> {
        &rig.flows6
    }

    fn address(address: IpAddr) -> Option<Ip6> {
        match address {
            IpAddr::V6(v6) => Some(Ip6 { octets: v6.octets() }),
            IpAddr::V4(_) => None,
        }
    }

    fn words(address: &Ip6) -> [u32; 4] {
        std::array::from_fn(|word| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|octet| address.octets[word * 4 + octet]);
            u32::from_ne_bytes([a, b, c, d])
        })
    }
}
