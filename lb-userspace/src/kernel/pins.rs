//! The pin folder: where it is, who may write to it, and whether what lies there is ours and of this layout.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapType, lpm_trie::Key};
use lb_common::layout::{
    Affinity, AffinityKey, BackendEntry, Chunk, Clock, Desk, Device, Flow, FlowKey, FragmentKey, FragmentPorts,
    FrontendKey, Hop, Ip4, Ip6, Label, Node, Peer, ServiceEntry, SocketPeer, SocketPeers, SocketTier, SourceKeys,
    TokenBucket, VlanKey, Way, limits::LAYOUT_VERSION, names,
};
use rustix::{
    fs::{FlockOperation, flock, statfs},
    io::{Errno, retry_on_intr},
    mount::{MountFlags, mount},
};
use thiserror::Error;

/// Magic number of a BPF file system (`BPF_FS_MAGIC` in the kernel's `linux/magic.h`).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// What can be wrong with the pin folder.
#[derive(Debug, Error)]
pub enum PinsError {
    /// The kernel refused a file operation.
    #[error("{action} {path}: {reason}. {remedy}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why the kernel said no.
        reason: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Another agent holds the folder.
    #[error(
        "another agent already serves this node: the lock on {path} is held {holder}. Stop that agent first, let this \
         one wait for its end with --wait-for-predecessor, or give it a --pin-dir of its own"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// `by process N`, if the kernel tells.
        holder: String,
    },
    /// Tables of another layout version are there.
    #[error(
        "{path} holds tables of layout {found}, this Sluice knows layout {LAYOUT_VERSION}: nothing was touched. Run \
         the version that made them, or end its datapath with that version's `sluice cleanup`"
    )]
    OtherLayout {
        /// The pin folder.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// A pin has our name, but isn't our table.
    #[error(
        "{path} is not the table that Sluice puts there ({difference}): nothing was touched. Move it away, or run \
         `sluice cleanup`"
    )]
    Foreign {
        /// The pin.
        path: PathBuf,
        /// In what it differs.
        difference: String,
    },
}

/// The pin folder of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// Held by the agent that serves the node; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

impl Pins {
    /// The pin folder at `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the tables of this layout are pinned.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.layout().join("maps")
    }

    /// Where the links of this layout are pinned.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    fn layout(&self) -> PathBuf {
        self.root.join(format!("layout-{LAYOUT_VERSION}"))
    }

    /// Whether an agent has ever pinned anything here.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.maps().join(names::LB4_FRONTENDS).exists()
    }

    /// Makes the folder (mounting a BPF file system under it if there is none), takes the lock, and checks that what
    /// lies there is of this layout and ours.
    ///
    /// # Errors
    /// See [`PinsError`]. Nothing is changed then but the mount.
    pub fn claim(&self) -> Result<Lock, PinsError> {
        self.claim_by(FlockOperation::NonBlockingLockExclusive)
    }

    /// The same, but whoever holds the lock is waited for.
    ///
    /// # Errors
    /// See [`PinsError`].
    pub fn claim_after_others(&self) -> Result<Lock, PinsError> {
        self.claim_by(FlockOperation::LockExclusive)
    }

    fn claim_by(&self, operation: FlockOperation) -> Result<Lock, PinsError> {
        self.ensure_bpf_file_system()?;
        let lock = loop {
            make_folder(&self.root)?;
            if let Some(lock) = self.lock(operation)? {
                break lock;
            }
        };
        self.check()?;
        make_folder(&self.maps())?;
        make_folder(&self.links())?;
        Ok(lock)
    }

    /// Whether what lies there is of this layout and ours. Changes nothing, and needs no lock.
    ///
    /// # Errors
    /// If it isn't.
    pub fn check(&self) -> Result<(), PinsError> {
        self.refuse_other_layouts()?;
        self.check_maps()
    }

    /// Whether some process holds the lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        // Shared: two who ask at once must not take each other for an agent.
        matches!(
            self.lock(FlockOperation::NonBlockingLockShared),
            Err(PinsError::Locked { .. })
        )
    }

    /// The lock; nothing if the folder is not there any more (`sluice cleanup`), where a lock on it would mean nothing.
    fn lock(&self, operation: FlockOperation) -> Result<Option<Lock>, PinsError> {
        let folder = File::open(&self.root).map_err(file_error("open", &self.root, REMEDY_ROOT))?;
        match retry_on_intr(|| flock(&folder, operation)) {
            Ok(()) if is_still_at(&folder, &self.root) => Ok(Some(Lock { _folder: folder })),
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => Err(PinsError::Locked {
                path: self.root.clone(),
                holder: lock_holder(&folder),
            }),
            Err(errno) => Err(file_error("lock", &self.root, REMEDY_ROOT)(errno.into())),
        }
    }

    /// Mounts a BPF file system at its usual place, if the folder would be on one and nobody has.
    ///
    /// # Errors
    /// If there is none and it can't be mounted.
    pub fn ensure_bpf_file_system(&self) -> Result<(), PinsError> {
        let existing = self
            .root
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        if is_bpf_file_system(existing) {
            return Ok(());
        }
        // Mount where everybody expects it, and only there: elsewhere the user has something else in mind.
        let standard = Path::new("/sys/fs/bpf");
        if self.root.starts_with(standard) && standard.exists() {
            return mount_once(standard).map_err(file_error("mount a BPF file system on", standard, REMEDY_MOUNT));
        }
        Err(file_error("pin tables in", &self.root, REMEDY_MOUNT)(io::Error::other(
            "it is not on a BPF file system",
        )))
    }

    fn refuse_other_layouts(&self) -> Result<(), PinsError> {
        let ours = self.layout();
        for entry in list(&self.root)? {
            if entry != ours {
                let found = entry
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                return Err(PinsError::OtherLayout {
                    path: self.root.clone(),
                    found,
                });
            }
        }
        Ok(())
    }

    fn check_maps(&self) -> Result<(), PinsError> {
        for (name, expected) in expected_maps() {
            let path = self.maps().join(name);
            if !path.exists() {
                continue;
            }
            let foreign = |difference: String| PinsError::Foreign {
                path: path.clone(),
                difference,
            };
            let data = MapData::from_pin(&path).map_err(|error| foreign(format!("the kernel says: {error}")))?;
            // The kernel answers the question for a table's shape for programs and links, too, with their own numbers.
            if let Some(other) = other_than_table(&data) {
                return Err(foreign(format!("found a {other}, expected {expected}")));
            }
            let info = data
                .info()
                .map_err(|error| foreign(format!("the kernel says: {error}")))?;
            let found = Shape {
                kind: info.map_type().map_err(|error| foreign(error.to_string()))?,
                key_len: info.key_size() as usize,
                value_len: info.value_size() as usize,
            };
            if found != expected {
                return Err(foreign(format!("found {found}, expected {expected}")));
            }
        }
        Ok(())
    }

    /// Removes every pin and the folder: links first, which detaches the programs.
    ///
    /// # Errors
    /// If an agent holds the lock, or the kernel refuses.
    pub fn remove(&self) -> Result<Vec<PathBuf>, PinsError> {
        if !self.root.exists() {
            return Ok(Vec::new());
        }
        let Some(_lock) = self.lock(FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(Vec::new());
        };
        let mut removed = Vec::new();
        for layout in list(&self.root)? {
            for part in ["links", "maps"] {
                for pin in list(&layout.join(part))? {
                    fs::remove_file(&pin).map_err(file_error("remove", &pin, REMEDY_ROOT))?;
                    removed.push(pin);
                }
            }
            for folder in [layout.join("links"), layout.join("maps"), layout] {
                if folder.exists() {
                    fs::remove_dir(&folder).map_err(file_error("remove", &folder, REMEDY_ROOT))?;
                }
            }
        }
        fs::remove_dir(&self.root).map_err(file_error("remove", &self.root, REMEDY_ROOT))?;
        Ok(removed)
    }
}

const REMEDY_ROOT: &str = "Run as root, and check that the BPF file system is mounted writable (`mount | grep bpf`)";
const REMEDY_MOUNT: &str = "Mount it by hand: mount -t bpf bpf /sys/fs/bpf, or choose a --pin-dir on a BPF file system";

fn file_error<'a>(
    action: &'static str,
    path: &'a Path,
    remedy: &'static str,
) -> impl FnOnce(io::Error) -> PinsError + 'a {
    move |reason| PinsError::File {
        action,
        path: path.to_owned(),
        reason,
        remedy,
    }
}

fn make_folder(path: &Path) -> Result<(), PinsError> {
    fs::create_dir_all(path).map_err(file_error("make the folder", path, REMEDY_ROOT))
}

/// Entries of a folder; none if there is no such folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, PinsError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error("list", folder, REMEDY_ROOT)(error)),
    };
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(file_error("list", folder, REMEDY_ROOT))
        })
        .collect()
}

/// Mounts a BPF file system on a folder, unless another process, which asks at the same time, has just done so: a second one would
/// hide what that has pinned.
fn mount_once(folder: &Path) -> io::Result<()> {
    // The folder below the mount: all who have not seen one lock the same.
    let below = File::open(folder)?;
    flock(&below, FlockOperation::LockExclusive)?;
    if is_bpf_file_system(folder) {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"bpf", folder, c"bpf", flags, None)?;
    tracing::info!(path = %folder.display(), "mounted the BPF file system");
    Ok(())
}

/// Whether a path lies on a BPF file system.
pub(super) fn is_bpf_file_system(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type & 0xffff_ffff == BPF_FS_MAGIC)
}

/// `bpf-prog`, `bpf_link` and the like, if that is what an open pin is, as the kernel names it in `/proc`.
fn other_than_table(data: &MapData) -> Option<String> {
    let fd = data.fd().as_fd().as_raw_fd();
    let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let name = target.to_str()?.strip_prefix("anon_inode:")?;
    (name != "bpf-map").then(|| name.to_owned())
}

/// Whether a folder that was opened is still what is found at this path.
fn is_still_at(folder: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(found)) = (folder.metadata(), path.metadata()) else {
        return false;
    };
    (opened.dev(), opened.ino()) == (found.dev(), found.ino())
}

/// `by process N`, from the kernel's list of locks. It leaves out processes that the asking one can't see.
fn lock_holder(folder: &File) -> String {
    let of_process = || {
        let folder = folder.metadata().ok()?;
        let (major, minor) = (rustix::fs::major(folder.dev()), rustix::fs::minor(folder.dev()));
        let place = format!(" {major:02x}:{minor:02x}:{} ", folder.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        // Who waits for it stands in lines of its own, behind an arrow.
        let line = locks
            .lines()
            .find(|line| line.contains("FLOCK") && line.contains(&place) && !line.contains("->"))?;
        Some(format!("by process {}", line.split_whitespace().nth(4)?))
    };
    of_process().unwrap_or_else(|| "by a process that can't be seen from here, such as another pod's".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    kind: MapType,
    key_len: usize,
    value_len: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} with keys of {} and values of {} octets",
            self.kind, self.key_len, self.value_len
        )
    }
}

fn shape<K, V>(kind: MapType) -> Shape {
    Shape {
        kind,
        key_len: size_of::<K>(),
        value_len: size_of::<V>(),
    }
}

/// What each table must be: aya adopts a pin without comparing.
fn expected_maps() -> Vec<(&'static str, Shape)> {
    use MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf, SkStorage};
    type SourceKey<A> = Key<<A as SourceKeys>::SourceKey>;
    vec![
        (names::LB4_ADDRESSES, shape::<Ip4, u32>(Hash)),
        (names::LB6_ADDRESSES, shape::<Ip6, u32>(Hash)),
        (names::LB4_FRONTENDS, shape::<FrontendKey<Ip4>, u32>(Hash)),
        (names::LB6_FRONTENDS, shape::<FrontendKey<Ip6>, u32>(Hash)),
        (names::LB4_SERVICES, shape::<u32, ServiceEntry>(Array)),
        (names::LB6_SERVICES, shape::<u32, ServiceEntry>(Array)),
        (names::LB4_SLOTS, shape::<u32, u32>(Array)),
        (names::LB6_SLOTS, shape::<u32, u32>(Array)),
        (names::LB4_MAGLEV, shape::<u32, Chunk>(Array)),
        (names::LB6_MAGLEV, shape::<u32, Chunk>(Array)),
        (names::LB4_BACKENDS, shape::<u32, BackendEntry<Ip4>>(Array)),
        (names::LB6_BACKENDS, shape::<u32, BackendEntry<Ip6>>(Array)),
        (names::LB4_LABELS, shape::<u32, Label>(Hash)),
        (names::LB6_LABELS, shape::<u32, Label>(Hash)),
        (names::LB4_SOURCES, shape::<SourceKey<Ip4>, u32>(LpmTrie)),
        (names::LB6_SOURCES, shape::<SourceKey<Ip6>, u32>(LpmTrie)),
        (names::LB4_NODE, shape::<u32, Node<Ip4>>(Array)),
        (names::LB6_NODE, shape::<u32, Node<Ip6>>(Array)),
        (names::LB4_PEERS, shape::<Ip4, Peer>(Hash)),
        (names::LB6_PEERS, shape::<Ip6, Peer>(Hash)),
        (names::CT4_AFFINITY, shape::<AffinityKey<Ip4>, Affinity>(LruHash)),
        (names::CT6_AFFINITY, shape::<AffinityKey<Ip6>, Affinity>(LruHash)),
        (names::DEVICES, shape::<u32, Device>(Hash)),
        (names::VLANS, shape::<VlanKey, u32>(Hash)),
        (names::CT4_FLOWS, shape::<FlowKey<Ip4>, Flow<Ip4>>(LruHash)),
        (names::CT6_FLOWS, shape::<FlowKey<Ip6>, Flow<Ip6>>(LruHash)),
        (names::CT4_WAYS, shape::<FlowKey<Ip4>, Way<Ip4>>(LruHash)),
        (names::CT6_WAYS, shape::<FlowKey<Ip6>, Way<Ip6>>(LruHash)),
        (names::CT4_FRAGMENTS, shape::<FragmentKey<Ip4>, FragmentPorts>(LruHash)),
        (names::CT6_FRAGMENTS, shape::<FragmentKey<Ip6>, FragmentPorts>(LruHash)),
        (names::CT4_DESK, shape::<u32, Desk<Ip4>>(PerCpuArray)),
        (names::CT6_DESK, shape::<u32, Desk<Ip6>>(PerCpuArray)),
        (names::SK_PEER, shape::<u32, SocketPeer>(SkStorage)),
        (names::SK_PEERS, shape::<u32, SocketPeers>(SkStorage)),
        (names::SOCKET_TIER, shape::<u32, SocketTier>(Array)),
        (names::LEFT_CGROUPS, shape::<u64, u32>(Hash)),
        (names::CLOCK, shape::<u32, Clock>(PerCpuArray)),
        (names::HOPS, shape::<Hop, u64>(LruHash)),
        (names::ROUTES, shape::<u32, u32>(Array)),
        (names::DEFERS, shape::<u32, u32>(Array)),
        (names::DROPS, shape::<u32, u64>(PerCpuArray)),
        (names::COUNTERS, shape::<u32, u64>(PerCpuArray)),
        (names::BUCKETS, shape::<u32, TokenBucket>(PerCpuArray)),
        (
            names::EVENTS,
            Shape {
                kind: RingBuf,
                key_len: 0,
                value_len: 0,
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_an_expected_shape() {
        let named: Vec<_> = expected_maps().into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, names::MAPS);
    }

    #[test]
    fn a_lock_on_a_folder_that_is_gone_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("pins");
        fs::create_dir(&root).expect("a folder");
        let opened = File::open(&root).expect("it is there");
        assert!(is_still_at(&opened, &root));
        fs::remove_dir(&root).expect("it is empty");
        assert!(!is_still_at(&opened, &root), "nobody is there");
        fs::create_dir(&root).expect("a folder");
        assert!(!is_still_at(&opened, &root), "another one is there");
    }

    #[test]
    fn who_asks_for_the_lock_is_no_agent_and_who_has_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = Pins::new(folder.path());
        let asking = pins.lock(FlockOperation::NonBlockingLockShared).expect("nobody has it");
        assert!(!pins.is_locked());
        drop(asking);
        let lock = pins
            .lock(FlockOperation::NonBlockingLockExclusive)
            .expect("nobody has it");
        assert!(pins.is_locked());
        let refused = pins
            .lock(FlockOperation::NonBlockingLockExclusive)
            .expect_err("it is held");
        let by = format!("is held by process {}", std::process::id());
        assert!(refused.to_string().contains(&by), "{refused}");
        drop(lock);
        assert!(!pins.is_locked());
    }
}
