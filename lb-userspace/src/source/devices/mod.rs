//! The node's network devices and addresses, followed over netlink: every change yields a fresh list.
//!
//! Not an API object: the agent attaches programs to what is listed here and takes the node's address from it. How a list is made is
//! in `list`, what drivers do for XDP in `netdev`, what stands on what in `vlan`.

mod list;
pub mod vlan;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::{FutureExt as _, Stream, StreamExt as _, channel::mpsc};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::{sync::mpsc::Sender, time::sleep};

use super::netdev::Netdev;
pub use super::netdev::XdpFeatures;
use list::list;
pub use vlan::Vlan;

/// A network device of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What its frames begin with; nothing if it is of a kind that carries no IP packets.
    pub framing: Option<Framing>,
    /// What drives it: the driver of a card, or the kind of a virtual device (`veth`, `bridge`).
    pub driver: Option<String>,
    /// What its driver does for XDP at present; nothing if the kernel doesn't tell.
    pub xdp_features: Option<XdpFeatures>,
    /// The XDP program on it.
    pub xdp: Option<XdpProgram>,
    /// Its Ethernet address.
    pub link: Option<[u8; 6]>,
    /// Its MTU in octets.
    pub mtu: u32,
    /// The bridge or other device that it is a port of.
    pub controller: Option<u32>,
    /// What it is on top of another device, if it is a VLAN device.
    pub vlan: Option<Vlan>,
    /// The features by which it takes VLAN tags out of frames before XDP sees them, in `ethtool`'s words. Asked for only where frames of
    /// VLAN devices come by.
    pub hides_tags: Vec<&'static str>,
    /// The first at which this node sees what comes from it: no other device has seen a packet before.
    pub is_first: bool,
    /// A default route leads through it.
    pub has_default_route: bool,
    /// Addresses with more than link scope, in the kernel's order.
    pub addresses: Vec<IpAddr>,
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// It runs behind the driver.
    pub is_generic: bool,
}

/// What frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    None,
}

/// All devices by index.
pub type Devices = BTreeMap<u32, Device>;

/// A list with its time.
#[derive(Clone, Debug)]
pub struct Listing {
    /// When it was begun: it knows all that was before.
    pub begun: Instant,
    /// What was there.
    pub devices: Devices,
}

/// The node's own addresses for masquerading: of the device with the default route if there is one, else the first of
/// any device. IPv4 and IPv6.
#[must_use]
pub fn node_addresses(devices: &Devices) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let ordered = || {
        let outward = devices.values().filter(|device| device.has_default_route);
        outward.chain(devices.values()).flat_map(|device| &device.addresses)
    };
    let v4 = ordered().find_map(|address| match address {
        IpAddr::V4(address) if !address.is_loopback() => Some(*address),
        _ => None,
    });
    let v6 = ordered().find_map(|address| match address {
        IpAddr::V6(address) if !address.is_loopback() => Some(*address),
        _ => None,
    });
    (v4, v6)
}

/// How long a burst of changes is gathered before the list is read again.
const SETTLE: Duration = Duration::from_millis(20);
/// How long no change is told before a list is sent all the same: that a program was taken off a device is told by nobody.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Sends the list now, after every change, and now and then, until the receiver is gone.
///
/// # Errors
/// If the kernel refuses rtnetlink.
pub async fn follow(updates: Sender<Listing>) -> Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _handle, mut messages) =
        new_multicast_connection(&groups).context("open rtnetlink to follow the network devices")?;
    tokio::spawn(connection);
    // Asked over a socket of its own: a change carries the sequence number of the request that made it, whoever's, and could be taken
    // for an answer to ours.
    let (connection, handle, _) = rtnetlink::new_connection().context("open rtnetlink to list the network devices")?;
    tokio::spawn(connection);
    let (mut netdev, mut notifications) = match Netdev::open().await {
        Ok((netdev, notifications)) => (Some(netdev), notifications),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the kernel does not tell what drivers do for XDP: it sends out of no device"
            );
            (None, mpsc::unbounded().1)
        }
    };
    let (mut last, mut is_wanted) = (Devices::new(), true);
    loop {
        let begun = Instant::now();
        let devices = list(&handle, netdev.as_mut()).await?;
        if is_wanted || devices != last {
            last.clone_from(&devices);
            if updates.send(Listing { begun, devices }).await.is_err() {
                return Ok(());
            }
        }
        is_wanted = tokio::select! {
            message = messages.next() => match message {
                Some(_) => false,
                None => bail!("the kernel closed rtnetlink: devices are no longer followed"),
            },
            Some(_) = notifications.next() => false,
            () = sleep(LOOK_EVERY) => true,
        };
        sleep(SETTLE).await;
        drain(&mut messages);
        drain(&mut notifications);
    }
}

/// Takes what has come already.
fn drain(messages: &mut (impl Stream + Unpin)) {
    while messages.next().now_or_never().flatten().is_some() {}
}

/// The list as it is now.
///
/// # Errors
/// If the kernel refuses rtnetlink.
pub async fn once() -> Result<Devices> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open rtnetlink to list the network devices")?;
    tokio::spawn(connection);
    let mut netdev = Netdev::open().await.ok().map(|(netdev, _)| netdev);
    list(&handle, netdev.as_mut()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ifindex: u32, has_default_route: bool, addresses: &[&str]) -> (u32, Device) {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect();
        let name = format!("eth{ifindex}");
        (
            ifindex,
            Device {
                ifindex,
                name,
                framing: Some(Framing::Ethernet),
                has_default_route,
                addresses,
                ..Device::default()
            },
        )
    }

    #[test]
    fn the_outward_device_gives_the_nodes_address() {
        let devices = Devices::from([
            device(1, false, &["127.0.0.1", "::1"]),
            device(2, false, &["10.244.0.1"]),
            device(3, true, &["192.168.0.11"]),
            device(4, false, &["fd00::1"]),
        ]);
        let (v4, v6) = node_addresses(&devices);
        assert_eq!(v4, Some(Ipv4Addr::new(192, 168, 0, 11)));
        assert_eq!(v6, Some("fd00::1".parse().expect("an address")));
    }

    #[test]
    fn a_node_with_loopback_only_has_no_address() {
        assert_eq!(
            node_addresses(&Devices::from([device(1, false, &["127.0.0.1", "::1"])])),
            (None, None)
        );
    }
}
