//! Drop events from the kernel programs, into the log with names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::layout::{DropReason, Event, V4, V6};
use tracing::info;

use crate::{model::Family, reconcile::Reconciler, tables::KernelTables};

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
    if event.ifindex == 0 {
        info!(
            reason = reason.map_or("unknown", DropReason::name),
            service = reconciler.name(family, event.service).unwrap_or("-"),
            address = %dst,
            port = event.dport.get(),
            protocol = %event.proto,
            "socket refused"
        );
        return;
    }
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
