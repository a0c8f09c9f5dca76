//! The grace period: waiting until every kernel program that ran has ended.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

/// Waits until every kernel program that was running when it was called has ended.
///
/// Programs at network hooks run inside RCU read-side critical sections; `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace
/// period (`synchronize_rcu` in the kernel's `membarrier_cmd_global`). Takes some milliseconds to tens of them.
///
/// # Errors
/// If the kernel has no membarrier.
pub fn wait() -> std::io::Result<()> {
    rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).map_err(Into::into)
}

/// Grace periods on a thread of their own, so that changes don't wait for them.
#[derive(Debug)]
pub struct GraceThread<T> {
    orders: Sender<T>,
    done: Receiver<T>,
    pending: usize,
}

impl<T: Send + 'static> GraceThread<T> {
    /// Starts the thread; it ends with this value.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let (orders, incoming) = channel::<T>();
        let (outgoing, done) = channel();
        thread::Builder::new().name("grace".to_owned()).spawn(move || {
            while let Ok(first) = incoming.recv() {
                // One period serves all that was ordered before it begins.
                let batch: Vec<T> = std::iter::once(first).chain(incoming.try_iter()).collect();
                if let Err(error) = wait() {
                    tracing::error!(%error, "no grace period: freed places are not used anew");
                    continue;
                }
                for order in batch {
                    if outgoing.send(order).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(Self {
            orders,
            done,
            pending: 0,
        })
    }

    /// Orders a grace period for something.
    pub fn order(&mut self, what: T) {
        if self.orders.send(what).is_ok() {
            self.pending += 1;
        }
    }

    /// What grace periods have ended for, without waiting.
    pub fn finished(&mut self) -> Vec<T> {
        let finished: Vec<T> = self.done.try_iter().collect();
        self.pending -= finished.len();
        finished
    }

    /// Waits for one grace period that was ordered; nothing if none is under way.
    pub fn wait_for_one(&mut self) -> Option<T> {
        if self.pending == 0 {
            return None;
        }
        let finished = self.done.recv().ok()?;
        self.pending -= 1;
        Some(finished)
    }

    /// How many are under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
    }
}
