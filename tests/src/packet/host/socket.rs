//! A socket without a kernel: what it tells of itself is set by hand, and its storage is memory.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::DerefMut;

use lb_common::{
    datapath::Socket,
    layout::{SocketPeer, SocketPeers},
};

use super::HostWorld;

/// The socket on whose behalf the core is asked.
pub struct HostSocket {
    /// Its cookie.
    pub cookie: Cell<u64>,
    /// The cookie of its network namespace; the host's is [`Self::HOST`].
    pub namespace: Cell<u64>,
    /// It is to be left to the tc tier.
    pub is_left: Cell<bool>,
    /// It has a peer, being a datagram socket.
    pub is_connected: Cell<bool>,
    /// There is no memory for its storage.
    pub has_no_memory: Cell<bool>,
    /// What its connection stands for.
    pub peer: RefCell<Option<SocketPeer>>,
    /// What its peers stand for.
    pub peers: RefCell<Option<SocketPeers>>,
}

impl HostSocket {
    /// The cookie of the host's own namespace.
    pub const HOST: u64 = 1;
}

impl Default for HostSocket {
    fn default() -> Self {
        Self {
            cookie: Cell::new(4_096),
            namespace: Cell::new(Self::HOST),
            is_left: Cell::default(),
            is_connected: Cell::default(),
            has_no_memory: Cell::default(),
            peer: RefCell::default(),
            peers: RefCell::default(),
        }
    }
}

fn stored<T: Default>(place: &RefCell<Option<T>>, is_made: bool) -> Option<RefMut<'_, T>> {
    if is_made {
        place.borrow_mut().get_or_insert_default();
    }
    RefMut::filter_map(place.borrow_mut(), Option::as_mut).ok()
}

impl Socket for HostWorld {
    fn cookie(&self) -> u64 {
        self.socket.cookie.get()
    }

    fn namespace(&self) -> u64 {
        self.socket.namespace.get()
    }

    fn is_host(&self) -> bool {
        self.socket.namespace.get() == HostSocket::HOST
    }

    fn is_left(&self) -> bool {
        self.socket.is_left.get()
    }

    fn is_connected(&self) -> bool {
        self.socket.is_connected.get()
    }

    fn socket_peer(&self) -> Option<impl DerefMut<Target = SocketPeer>> {
        stored(&self.socket.peer, false)
    }

    fn peer_or_new(&self) -> Option<impl DerefMut<Target = SocketPeer>> {
        stored(&self.socket.peer, !self.socket.has_no_memory.get())
    }

    fn forget_peer(&self) {
        self.socket.peer.take();
    }

    fn peers(&self) -> Option<impl DerefMut<Target = SocketPeers>> {
        stored(&self.socket.peers, false)
    }

    fn peers_or_new(&self) -> Option<impl DerefMut<Target = SocketPeers>> {
        stored(&self.socket.peers, !self.socket.has_no_memory.get())
    }
}
