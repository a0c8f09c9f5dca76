//! A thread inside a host of the lab with an async runtime of its own, which ends when it is told to or dropped.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::lab::Host;

/// Tells a worker's tasks to end.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns once the worker has been told to end.
    pub(super) async fn requested(&mut self) {
        // An error means that the other half is gone, which is a request to end as well.
        let _gone = self.0.wait_for(|stop| *stop).await;
    }
}

/// The handle of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Runs a future in a host's network, on one thread.
    pub(super) fn start<F>(host: &Host, name: &str, work: impl FnOnce(Stop) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = ()>,
    {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("making an async runtime for traffic")?;
        let (stop, requests) = watch::channel(false);
        let thread = host.spawn(name, move || runtime.block_on(work(Stop(requests))))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the work and waits for it.
    ///
    /// # Panics
    /// With the worker's panic, if it had one: books of a worker that died are worth nothing.
    pub(super) fn finish(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.finish();
    }
}
