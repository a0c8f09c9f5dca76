//! What the drivers of network devices do for XDP, asked of the kernel's generic netlink family `netdev` (since Linux 6.3;
//! `Documentation/netlink/specs/netdev.yaml` in its sources). It may change at any time: a veth device transmits only while its
//! other end has an XDP program or GRO, virtio_net only while a program is attached.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use genetlink::{GenetlinkHandle, message::RawGenlMessage};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::{
    packet_core::{
        DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
        ParseableParametrized, parse_u32, parse_u64,
    },
    proto::sys::AsyncSocket as _,
    sys::SocketAddr,
};

// Numbers of linux/netdev.h.
const FAMILY: &str = "netdev";
const VERSION: u8 = 1;
const GROUP: &str = "mgmt";
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1 << 0;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 1 << 2;
const NETDEV_XDP_ACT_NDO_XMIT_SG: u64 = 1 << 6;

/// What the driver of a device does for XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// It runs programs, and does what they say but for redirects.
    pub runs: bool,
    /// It transmits what another device's program redirects (`ndo_xdp_xmit`).
    pub transmits: bool,
    /// So it does with what lies in several buffers.
    pub scatters: bool,
}

impl From<u64> for XdpFeatures {
    fn from(bits: u64) -> Self {
        Self {
            runs: bits & NETDEV_XDP_ACT_BASIC != 0,
            transmits: bits & NETDEV_XDP_ACT_NDO_XMIT != 0,
            scatters: bits & NETDEV_XDP_ACT_NDO_XMIT_SG != 0,
        }
    }
}

/// Something that the family has told of a device.
pub(super) type Notification = (NetlinkMessage<RawGenlMessage>, SocketAddr);

/// The kernel's answers.
pub(super) struct Netdev {
    handle: GenetlinkHandle,
}

impl Netdev {
    /// Opens generic netlink; the stream tells of every change.
    ///
    /// # Errors
    /// If the kernel has no such family, or refuses.
    pub(super) async fn open() -> Result<(Self, UnboundedReceiver<Notification>)> {
        let (mut connection, handle, notifications) = genetlink::new_connection().context("open generic netlink")?;
        // The connection must run for the family to be found, and stand still for its group to be joined.
        let family = tokio::select! {
            family = handle.resolve_family::<DeviceMessage>() => {
                family.with_context(|| format!("find the family {FAMILY} of generic netlink (since Linux 6.3)"))?
            }
            () = &mut connection => bail!("the kernel closed generic netlink"),
        };
        let group = family.multicast_groups.get(GROUP);
        let group = group.with_context(|| format!("the family {FAMILY} has no group {GROUP}"))?;
        let socket = connection.socket_mut().socket_mut();
        socket
            .add_membership(*group)
            .with_context(|| format!("join the group {GROUP} of {FAMILY}"))?;
        tokio::spawn(connection);
        Ok((Self { handle }, notifications))
    }

    /// What the drivers of all devices do, by device index.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub(super) async fn features(&mut self) -> Result<BTreeMap<u32, XdpFeatures>> {
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(DeviceMessage::default()));
        // The family marks its answers as no parts of a list (`genlmsg_iput` in the kernel's net/genetlink.h), so that netlink-proto
        // would take the first for the only one if it didn't expect an acknowledgement.
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP | NLM_F_ACK;
        let answers = self.handle.request(request).await;
        let mut answers = answers.context("ask what drivers do for XDP")?;
        let mut features = BTreeMap::new();
        while let Some(answer) = answers.next().await {
            match answer.context("read what drivers do for XDP")?.payload {
                NetlinkPayload::InnerMessage(message) => {
                    features.insert(message.payload.ifindex, message.payload.xdp_features.into());
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(anyhow!(error.to_io()).context("ask what drivers do for XDP"));
                }
                _ => {}
            }
        }
        Ok(features)
    }
}

/// A message about a device, of which these attributes matter; as a request it has none, and asks for all devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DeviceMessage {
    ifindex: u32,
    xdp_features: u64,
}

impl GenlFamily for DeviceMessage {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for DeviceMessage {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for DeviceMessage {
    fn parse_with_param(octets: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        for attribute in NlasIterator::new(octets) {
            let attribute = attribute?;
            match attribute.kind() {
                NETDEV_A_DEV_IFINDEX => message.ifindex = parse_u32(attribute.value())?,
                NETDEV_A_DEV_XDP_FEATURES => message.xdp_features = parse_u64(attribute.value())?,
                _ => {}
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 answers for a virtio_net device with a program: index, padding, features, and more.
    const ANSWER: &[u8] = &[
        8, 0, 1, 0, 3, 0, 0, 0, // NETDEV_A_DEV_IFINDEX
        12, 0, 3, 0, 0x07, 0, 0, 0, 0, 0, 0, 0, // NETDEV_A_DEV_XDP_FEATURES
        12, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, // NETDEV_A_DEV_XDP_RX_METADATA_FEATURES
    ];

    #[test]
    fn attributes_are_read_and_unknown_ones_passed_over() {
        let header = GenlHeader {
            cmd: NETDEV_CMD_DEV_GET,
            version: VERSION,
        };
        let message = DeviceMessage::parse_with_param(ANSWER, header).expect("readable");
        assert_eq!((message.ifindex, message.xdp_features), (3, 7));
        assert!(
            DeviceMessage::parse_with_param(&ANSWER[..14], header).is_err(),
            "cut off"
        );
    }

    #[test]
    fn the_bits_are_those_of_the_kernel() {
        let rows = [
            (0, (false, false, false)),
            (1, (true, false, false)),
            (3, (true, false, false)),
            (7, (true, true, false)),
            (0x67, (true, true, true)),
        ];
        for (bits, expected) in rows {
            let features = XdpFeatures::from(bits);
            assert_eq!(
                (features.runs, features.transmits, features.scatters),
                expected,
                "{bits:#x}"
            );
        }
    }
}
