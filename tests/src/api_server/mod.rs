//! An API server for tests, in this process: list and watch over HTTP as kube-apiserver speaks them.
//!
//! Resource versions, lists in pages, streamed lists, bookmarks, selectors, 410 Gone; creating, replacing and deleting objects; and
//! faults on command. What it does not have: validation, authentication, other kinds than a proxy reads and writes. It serves plain HTTP
//! from a thread of its own. [`cluster`] lets a test run against it and against a real server alike.

mod assets;
pub mod cluster;
mod fault;
mod selector;
mod serve;
mod store;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

pub use fault::{Faults, Refusal};
use serve::Shared;
pub use store::Resource;
use store::Store;

/// A running server. Dropping it ends it.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What the server's thread is told.
enum Order {
    /// Listen here from now on; the sender is dropped when that is so.
    Listen(TcpListener),
    /// Listen no more; the sender is dropped when that is so.
    Close(std::sync::mpsc::Sender<()>),
}

impl ApiServer {
    /// Starts a server on a free port of 127.0.0.1.
    pub fn start() -> Result<Self> {
        Self::start_on(TcpListener::bind("127.0.0.1:0").context("binding the test API server")?)
    }

    /// Starts a server behind this socket, which may belong to another network namespace.
    pub fn start_on(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr().context("the test API server's address")?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            faults: Mutex::default(),
            requests: Mutex::default(),
            written: watch::channel(0).0,
            cuts: watch::channel(0).0,
        });
        let (orders, inbox) = mpsc::unbounded_channel();
        let serving = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new()
            .name("api-server".to_owned())
            .spawn(move || runtime.block_on(serve::accept(serving, inbox)))?;
        let server = Self {
            shared,
            address,
            orders,
            thread: Some(thread),
        };
        server.order(Order::Listen(listener))?;
        Ok(server)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads to it.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.url()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        })
        .to_string()
    }

    /// Creates or replaces objects, each by its `kind`.
    pub fn put(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        for object in objects {
            let version = {
                let mut store = self.store();
                store.put(Resource::of(&object)?, &object)?;
                store.version()
            };
            self.shared.written.send_replace(version);
        }
        Ok(())
    }

    /// Deletes an object. It is an error if there is none.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut store = self.store();
        anyhow::ensure!(
            store.delete(resource, &key)?,
            "no {resource:?} {namespace}/{name} to delete"
        );
        self.shared.written.send_replace(store.version());
        Ok(())
    }

    /// All objects of a kind.
    #[must_use]
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        let (_, objects) = self.store().list(resource);
        objects.iter().map(|object| object.value.clone()).collect()
    }

    /// Changes what is wrong with the server.
    pub fn fault(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults());
    }

    /// Cuts all connections that carry an answer.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forgets the history: whoever goes on from an old resource version is told 410.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Is not there any more: connections are cut, new ones refused.
    pub fn go_away(&self) -> Result<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.order(Order::Close(sender))?;
        // Ends when the sender is dropped.
        let _ = receiver.recv();
        self.cut();
        Ok(())
    }

    /// Is there again, at the same address.
    pub fn come_back(&self) -> Result<()> {
        let listener = TcpListener::bind(self.address).with_context(|| format!("binding {} again", self.address))?;
        self.order(Order::Listen(listener))
    }

    /// All requests so far, each as its target.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.asked_for().into_iter().map(|(_, target)| target).collect()
    }

    /// All requests so far, each as its method and target.
    #[must_use]
    pub fn asked_for(&self) -> Vec<(Method, String)> {
        self.shared.requests().clone()
    }

    /// Requests for a kind so far that contain this.
    #[must_use]
    pub fn asked(&self, resource: Resource, part: &str) -> usize {
        let path = format!("{}?", resource.path());
        let requests = self.requests();
        requests
            .iter()
            .filter(|target| target.starts_with(&path) && target.contains(part))
            .count()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store()
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).ok().context("the test API server has ended")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let (orders, _) = mpsc::unbounded_channel();
        // Without a sender the thread ends.
        drop(std::mem::replace(&mut self.orders, orders));
        self.cut();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A lock whose holder can't have left anything half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
