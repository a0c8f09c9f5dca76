//! From one agent to the next on the same node: whose turn it is, and what ends a turn.
//!
//! Here: the claim on the pin folder, waiting for the agent that holds it, the signals that end an agent. Not here: the lock itself
//! and what is looked at behind it (`kernel/pins`).

use std::{thread, time::Instant};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tracing::info;

use crate::kernel::{Lock, Pins, PinsError};

/// SIGTERM and SIGINT: an agent that gets one ends, whatever it is about.
pub(super) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    /// From now on neither signal ends the process by itself; one that comes before somebody asks is kept.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    /// Waits until one of them has come.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Claims the pin folder, after the agent that holds it if `waits`. Nothing if the agent was asked to end before that.
///
/// Nothing is touched while it waits: no table, no state file, no port, so that the first agent notices nothing.
///
/// # Errors
/// If the folder is not to be had, or holds what this agent can't work with. The latter is told before the wait, too: who could
/// only fail afterwards must not make others believe that a successor is there.
pub(super) async fn claim(pins: &Pins, waits: bool, ending: &mut Ending) -> Result<Option<Lock>> {
    let held = match pins.claim() {
        Err(held @ PinsError::Locked { .. }) if waits => held,
        claimed => return Ok(Some(claimed?)),
    };
    pins.check()?;
    if let PinsError::Locked { path, holder } = held {
        info!(
            "another agent serves this node: the lock on {} is held {holder}. Waiting until that agent has ended; nothing is touched",
            path.display()
        );
    }
    let began = Instant::now();
    let (sender, claimed) = oneshot::channel();
    let of_thread = pins.clone();
    // A thread that waits in the kernel is woken by the end of the holder, whatever ends it. It ends with the process.
    thread::Builder::new()
        .name("predecessor".to_owned())
        .spawn(move || sender.send(of_thread.claim_after_others()))
        .context("start a thread to wait for the agent that serves this node")?;
    tokio::select! {
        biased;
        () = ending.asked() => {
            info!("stopped while waiting for the agent that serves this node; nothing was touched");
            Ok(None)
        }
        claimed = claimed => {
            let lock = claimed.context("the thread that waits for the agent that serves this node has ended")??;
            info!(waited_s = began.elapsed().as_secs(), "the agent that served this node has ended");
            Ok(Some(lock))
        }
    }
}
