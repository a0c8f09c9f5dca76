//! Closing connections that the socket tier has led to endpoints that are gone for good, in every network namespace of the node. On a thread
//! of its own, since it enters namespaces and looks at all of their TCP sockets; only after endpoints went of Services that ask for it.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use anyhow::{Context as _, Result};
use lb_common::layout::{Ip6, SocketPeer};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{error, info, warn};

use super::diag::Diag;
use crate::reconcile::Gone;

/// An endpoint that is gone for good, as sockets' storage names it: an IPv4 address as an IPv4-mapped one.
pub type GonePeer = Gone<Ip6>;

fn named_by(peer: &SocketPeer) -> GonePeer {
    Gone {
        service: peer.service,
        address: peer.address,
        port: peer.port,
    }
}

/// The thread that closes sockets; it ends with this.
pub struct SocketCloser {
    orders: Sender<HashSet<GonePeer>>,
}

impl SocketCloser {
    /// Starts it, with the storage in which sockets keep what they stand for.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn start(storage: OwnedFd) -> Result<Self> {
        let (orders, queue) = channel();
        thread::Builder::new()
            .name("sluice-sockets".to_owned())
            .spawn(move || work(&storage, &queue))
            .context("start the thread that closes sockets")?;
        Ok(Self { orders })
    }

    /// Closes all connections to these.
    pub fn close(&self, gone: HashSet<GonePeer>) {
        if gone.is_empty() {
            return;
        }
        if self.orders.send(gone).is_err() {
            error!("the thread that closes sockets has ended: connections to endpoints that are gone stay open");
        }
    }
}

fn work(storage: &OwnedFd, queue: &Receiver<HashSet<GonePeer>>) {
    while let Ok(mut gone) = queue.recv() {
        // One look for all that came meanwhile.
        gone.extend(queue.try_iter().flatten());
        let (mut closed, mut unreached) = (0, Vec::new());
        let namespaces = namespaces();
        for path in &namespaces {
            match close_in(path, storage, &gone) {
                Ok(count) => closed += count,
                // Of a process or a pod that has just ended.
                Err(error) if is_gone(&error) => {}
                Err(error) => unreached.push((path, error)),
            }
        }
        info!(
            endpoints = gone.len(),
            connections = closed,
            namespaces = namespaces.len(),
            "endpoints are gone: connections of sockets to them are closed"
        );
        if let [(path, error), ..] = unreached.as_slice() {
            warn!(
                namespaces = unreached.len(),
                first = %path.display(),
                %error,
                "sockets of these network namespaces could not be looked at: closing them takes CAP_SYS_ADMIN, CAP_SYS_PTRACE and, in a pod, hostPID"
            );
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Closes sockets of a network namespace, which this thread enters and never leaves but for another.
fn close_in(path: &PathBuf, storage: &OwnedFd, gone: &HashSet<GonePeer>) -> io::Result<usize> {
    let namespace = File::open(path)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut diag = Diag::open()?;
    let mut closed = 0;
    for found in diag.sockets(storage.as_fd())? {
        if gone.contains(&named_by(&found.peer)) {
            closed += usize::from(diag.destroy(&found)?);
        }
    }
    Ok(closed)
}

/// Every network namespace that a process is in or that has a name, each once.
fn namespaces() -> Vec<PathBuf> {
    let list = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let of_processes = list("/proc").filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    let named = list("/run/netns").map(|entry| entry.path());
    let paths = of_processes.map(|entry| entry.path().join("ns/net")).chain(named);
    let mut seen = BTreeMap::new();
    for path in paths {
        if let Ok(file) = fs::metadata(&path) {
            seen.entry((file.dev(), file.ino())).or_insert(path);
        }
    }
    seen.into_values().collect()
}
