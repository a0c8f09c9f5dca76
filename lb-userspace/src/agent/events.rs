//! Drop events from the kernel programs, into the log with names.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use lb_common::layout::{DropReason, Event, V4, V6};
use tokio::io::unix::AsyncFd;
use tracing::info;

use crate::{
    model::Family,
    reconcile::Reconciler,
    tables::{EventReader, KernelTables},
};

/// The ring buffer, to be awaited.
pub(super) struct Events {
    ring: AsyncFd<EventReader>,
}

impl Events {
    pub(super) fn open(reader: EventReader) -> Result<Self> {
        let ring = AsyncFd::new(reader).context("wait for drop events")?;
        Ok(Self { ring })
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            if let Some(event) = ready.get_inner_mut().next() {
                return Ok(event);
            }
            ready.clear_ready();
        }
    }
}

/// Logs an event with the Service's name.
pub(super) fn report(event: &Event, reconciler: &Reconciler<KernelTables<V4>, KernelTables<V6>>) {
    let (family, src, dst): (_, IpAddr, IpAddr) = if event.family == 4 {
        let v4 = |octets: &[u8; 16]| Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into();
        (Family::V4, v4(&event.src), v4(&event.dst))
    } else {
        let v6 = |octets: &[u8; 16]| Ipv6Addr::from(*octets).into();
        (Family::V6, v6(&event.src), v6(&event.dst))
    };
    let reason = DropReason::from_number(event.reason);
    info!(
        reason = reason.map_or("unknown", DropReason::name),
        service = reconciler.name(family, event.service).unwrap_or("-"),
        %src,
        src_port = event.sport.get(),
        %dst,
        dst_port = event.dport.get(),
        protocol = %event.proto,
        ifindex = event.ifindex,
        "packet dropped"
    );
}
