//! Legacy iptables (`x_tables`): which of its tables have some chains, and replacing a table by one without them. What a table's entries
//! mean is in `ruleset`, the system calls are in `sockopt`.
//!
//! Asking the kernel for a table makes it, in this network namespace and for good. So only tables that are there already are asked for.

mod ruleset;
mod sockopt;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use ruleset::{Format, HOOKS, Hooks, Rest, Ruleset};
use sockopt::{Counters, Socket};

/// Whoever changes legacy iptables holds a lock on this, kube-proxy and kubelet from their containers, too.
const LOCK: &str = "/run/xtables.lock";
/// How long others may hold it.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a table is read anew that has changed meanwhile.
const TRIES_MAX: u32 = 10;
/// `XT_TABLE_MAXNAMELEN`.
const NAME_LEN: usize = 32;
/// `struct ipt_getinfo`: name, hooks, first rules, policies, entries, octets.
const INFO_LEN: usize = NAME_LEN + 4 * (1 + 2 * HOOKS + 2);
/// `struct ipt_get_entries` and `struct xt_counters_info` before what is of the table's length.
const HEAD_LEN: usize = 40;

/// How many chains there are that are somebody's, in all tables of both families.
///
/// # Errors
/// What the kernel says, or what of its answer is not understood.
pub(super) fn find(is_own: impl Fn(&str, &str) -> bool) -> Result<usize> {
    let mut chains = 0;
    for family in FAMILIES {
        for table in family.tables()? {
            chains += family.read(&table, |name| is_own(&table, name))?.1.chains;
        }
    }
    Ok(chains)
}

/// Takes them away, and the rules that lead to them: each table at once. How many there were.
///
/// # Errors
/// What the kernel says, or that the lock can't be had.
pub(super) fn remove(is_own: impl Fn(&str, &str) -> bool) -> Result<usize> {
    // Who changes nothing needs no lock.
    if find(&is_own)? == 0 {
        return Ok(0);
    }
    let _locked = lock()?;
    let mut chains = 0;
    for family in FAMILIES {
        for table in family.tables()? {
            chains += family.rewrite(&table, |name| is_own(&table, name))?;
        }
    }
    Ok(chains)
}

/// A lock on legacy iptables; it ends with what is returned.
fn lock() -> Result<File> {
    // As iptables makes it: whoever may open it may hold the lock.
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o600);
    let open = options.open(LOCK);
    let file = open.with_context(|| {
        format!(
            "open {LOCK}, without which somebody else's change of legacy iptables could be lost: in a container, mount the file of the host"
        )
    })?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => thread::sleep(LOOK_EVERY),
            Err(TryLockError::WouldBlock) => bail!("{LOCK} is held by somebody else for more than {PATIENCE:?}"),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {LOCK}")),
        }
    }
}

/// The tables of IPv4 or IPv6.
#[derive(Clone, Copy)]
struct Family {
    tool: &'static str,
    is_v6: bool,
    /// Names of the tables that are there, in this network namespace.
    names: &'static str,
    format: Format,
}

const FAMILIES: [Family; 2] = [
    Family {
        tool: "iptables-legacy",
        is_v6: false,
        names: "/proc/thread-self/net/ip_tables_names",
        format: Format::V4,
    },
    Family {
        tool: "ip6tables-legacy",
        is_v6: true,
        names: "/proc/thread-self/net/ip6_tables_names",
        format: Format::V6,
    },
];

impl Family {
    fn tables(&self) -> Result<Vec<String>> {
        match fs::read_to_string(self.names) {
            Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
            // Nothing of the kind is in the kernel.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("read {}", self.names)),
        }
    }

    /// A table, and what would be left of it.
    fn read(&self, table: &str, is_own: impl Fn(&str) -> bool) -> Result<(Ruleset, Rest)> {
        let what = || format!("read table {table} of {}", self.tool);
        let socket = Socket::open(self.is_v6).with_context(what)?;
        let ruleset = again(|| read(&socket, table)).with_context(what)?;
        let rest = ruleset.without(self.format, is_own).with_context(what)?;
        Ok((ruleset, rest))
    }

    fn rewrite(&self, table: &str, is_own: impl Fn(&str) -> bool) -> Result<usize> {
        let mut tries = 1;
        loop {
            let (before, rest) = self.read(table, &is_own)?;
            if rest.kept.len() == before.count {
                return Ok(0);
            }
            let socket = Socket::open(self.is_v6)?;
            match replace(&socket, table, &before, &rest) {
                Ok(()) => return Ok(rest.chains),
                // Somebody who holds no lock has changed it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error).with_context(|| format!("replace table {table} of {}", self.tool)),
            }
        }
    }
}

fn again<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES_MAX => tries += 1,
            other => return other,
        }
    }
}

fn read(socket: &Socket, table: &str) -> io::Result<Ruleset> {
    let mut info = named(table, INFO_LEN)?;
    socket.info(&mut info)?;
    let mut numbers = info[NAME_LEN..].chunks_exact(4).map(|octets| {
        let octets = octets.try_into().unwrap_or_default();
        u32::from_ne_bytes(octets)
    });
    let mut next = || numbers.next().unwrap_or_default();
    let valid = next();
    let hooks = Hooks {
        valid,
        first: std::array::from_fn(|_| next()),
        policy: std::array::from_fn(|_| next()),
    };
    let (count, len) = (next(), next());
    let mut entries = named(table, HEAD_LEN + len as usize)?;
    entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(&len.to_ne_bytes());
    socket.entries(&mut entries)?;
    Ok(Ruleset {
        hooks,
        count: count as usize,
        block: entries.split_off(HEAD_LEN),
    })
}

/// Puts what is left in a table's place, and gives it the counters that it had.
fn replace(socket: &Socket, table: &str, before: &Ruleset, rest: &Rest) -> io::Result<()> {
    let Ruleset { hooks, count, block } = &rest.ruleset;
    let number = |len: usize| u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let mut head = [0; 88];
    head[..NAME_LEN].copy_from_slice(&named(table, NAME_LEN)?);
    let numbers = [hooks.valid, number(*count)?, number(block.len())?];
    let numbers = numbers.iter().chain(&hooks.first).chain(&hooks.policy);
    for (room, number) in head[NAME_LEN..].chunks_exact_mut(4).zip(numbers) {
        room.copy_from_slice(&number.to_ne_bytes());
    }
    let mut counters = vec![Counters::default(); before.count];
    socket.replace(&head, block, &mut counters)?;
    let mut message = named(table, HEAD_LEN)?;
    message[NAME_LEN..NAME_LEN + 4].copy_from_slice(&number(*count)?.to_ne_bytes());
    let kept = rest.kept.iter().filter_map(|index| counters.get(*index)).flatten();
    message.extend(kept.flat_map(|counter| counter.to_ne_bytes()));
    socket.add_counters(&message)
}

/// Zeroes that begin with a table's name.
fn named(table: &str, len: usize) -> io::Result<Vec<u8>> {
    // The kernel wants a zero behind it.
    if table.len() >= NAME_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut octets = vec![0; len];
    octets[..table.len()].copy_from_slice(table.as_bytes());
    Ok(octets)
}
