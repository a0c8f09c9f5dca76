//! What a lab leaves on the machine, and how all of it goes away again: at the end, after a panic, on Ctrl-C, and (for a test that
//! was killed outright) when the next lab starts.
//!
//! Everything is found by the lab's name, so one function removes a lab no matter who built it and how far it got.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{cgroup, exec, namespace};

/// All labs of this process. Whoever changes namespaces holds the lock, so that an interrupt never races with a lab being built.
static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// How long killed processes may take to disappear.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Where agents pin.
const PINS: &str = "/sys/fs/bpf";

/// Names of labs start with this.
pub(super) const PREFIX: &str = "slt-";

/// The folder for a lab's manifests, logs and run files.
pub(super) fn directory(lab: &str) -> PathBuf {
    Path::new("/tmp").join(lab)
}

/// The folder in bpffs for the pins of a lab's agent.
pub(super) fn pin_directory(lab: &str) -> PathBuf {
    Path::new(PINS).join(lab)
}

/// The same for an agent of another node of the lab than the first.
pub(super) fn pin_directory_of(lab: &str, node: &str) -> PathBuf {
    Path::new(PINS).join(format!("{lab}-{node}"))
}

/// All folders of a lab's pins.
fn pin_directories(lab: &str) -> Vec<PathBuf> {
    let mut names = entries(PINS);
    names.retain(|name| lab_of(name) == lab);
    names.iter().map(|name| Path::new(PINS).join(name)).collect()
}

/// The lock that building and removing take.
pub(super) fn lock() -> MutexGuard<'static, BTreeSet<String>> {
    LABS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a fresh name, notes who owns it, and from then on removes the lab on SIGINT, SIGTERM and SIGHUP.
pub(super) fn register() -> Result<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        remove_stale();
        watch_signals();
    });
    let mut labs = lock();
    let random = RandomState::new().build_hasher().finish();
    let name = format!("{PREFIX}{:05x}", random & 0xf_ffff);
    let started = start_time(process::id()).unwrap_or_default();
    let owner = format!("{} {started}\n", process::id());
    // Under its final name the folder always has an owner: another process that sweeps never takes it for a stale one.
    let (draft, folder) = (directory(&format!(".{name}")), directory(&name));
    fs::create_dir(&draft)
        .and_then(|()| fs::write(draft.join("owner"), owner))
        .and_then(|()| fs::rename(&draft, &folder))
        .with_context(|| format!("creating the lab's folder {}", folder.display()))?;
    labs.insert(name.clone());
    Ok(name)
}

/// Removes everything that bears the lab's name. What fails is reported after the rest is done.
pub(super) fn remove(lab: &str) -> Result<()> {
    remove_locked(&mut lock(), lab)
}

fn remove_locked(labs: &mut BTreeSet<String>, lab: &str) -> Result<()> {
    let mut failures = Vec::new();
    let mut attempt = |outcome: Result<()>| {
        if let Err(error) = outcome {
            failures.push(format!("{error:#}"));
        }
    };
    let names = namespaces(lab);
    attempt(end_processes(lab, &names));
    for name in &names {
        attempt(exec::output(Command::new("ip").args(["netns", "delete", name])).map(drop));
    }
    attempt(empty_cgroup(lab));
    for folder in pin_directories(lab) {
        attempt(remove_folder(&folder));
    }
    attempt(remove_folder(&directory(lab)));
    labs.remove(lab);
    if !failures.is_empty() {
        bail!("removing lab {lab} left something behind:\n  {}", failures.join("\n  "));
    }
    Ok(())
}

/// What of a lab is still on the machine: empty when it is gone.
pub fn leftovers(lab: &str) -> Vec<String> {
    let mut found = namespaces(lab);
    let processes = cgroup::processes(lab).into_iter().filter(|pid| runs(*pid));
    found.extend(processes.map(|pid| format!("process {pid}")));
    let folders = pin_directories(lab).into_iter().chain([directory(lab)]);
    found.extend(
        folders
            .filter(|folder| folder.exists())
            .map(|folder| folder.display().to_string()),
    );
    found
}

/// Removes the labs whose owner was killed before it could clean up.
pub fn remove_stale() {
    // One sweeper at a time on the machine: the second finds the first one's work finished, not half done.
    let _turn = fs::File::open("/tmp").and_then(|folder| folder.lock().map(|()| folder));
    let mut labs = cgroup::labs();
    for folder in ["/tmp", PINS, namespace::DIRECTORY] {
        labs.extend(entries(folder).iter().map(|name| lab_of(name).to_owned()));
    }
    for lab in labs {
        if is_lab_name(&lab)
            && !owner_lives(&lab)
            && let Err(error) = remove(&lab)
        {
            eprintln!("lab {lab} of a process that is gone: {error:#}");
        }
    }
    cgroup::remove_stale();
}

fn watch_signals() {
    let mut signals = match signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("labs won't be removed on Ctrl-C (can't watch signals: {error}); the next lab does it");
            return;
        }
    };
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // Held to the end of the process: whoever is building or removing a lab waits here and adds nothing.
        let mut labs = lock();
        let names: Vec<_> = labs.iter().cloned().collect();
        eprintln!("\ninterrupted: removing {}", names.join(", "));
        for lab in names {
            if let Err(error) = remove_locked(&mut labs, &lab) {
                eprintln!("{error:#}");
            }
        }
        process::exit(128 + signal);
    });
}

fn namespaces(lab: &str) -> Vec<String> {
    let mut names = entries(namespace::DIRECTORY);
    names.retain(|name| lab_of(name) == lab);
    names
}

/// The lab that a name belongs to: `slt-<id>` of `slt-<id>-<role>`.
fn lab_of(name: &str) -> &str {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let role = rest.find('-').map_or(0, |dash| rest.len() - dash);
    &name[..name.len() - role]
}

/// Names in a folder that a lab could have made.
fn entries(folder: &str) -> Vec<String> {
    let list = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = list.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

fn is_lab_name(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|id| id.len() == 5 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn owner_lives(lab: &str) -> bool {
    let note = fs::read_to_string(directory(lab).join("owner")).unwrap_or_default();
    let mut words = note.split_whitespace();
    let (Some(Ok(pid)), Some(started)) = (words.next().map(str::parse), words.next()) else {
        return false;
    };
    start_time(pid).is_some_and(|now| now == started)
}

/// When a process started, in clock ticks: tells a process from a later one with the same number.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

fn end_processes(lab: &str, namespaces: &[String]) -> Result<()> {
    let mut pids = cgroup::processes(lab);
    for name in namespaces {
        let list = exec::output(Command::new("ip").args(["netns", "pids", name]))?;
        pids.extend(list.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
    }
    pids.retain(|pid| *pid != process::id().cast_signed());
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // One that ended by itself in the meantime is what was wanted.
        let _ended = kill_process(pid, Signal::KILL);
    }
    let deadline = Instant::now() + KILL_WAIT;
    while pids.iter().any(|pid| runs(*pid)) {
        if Instant::now() > deadline {
            bail!("processes {pids:?} of lab {lab} are still there {KILL_WAIT:?} after SIGKILL");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Removes the lab's cgroup, and ends what got into it since: a process that was just being started, a thread that was just ending.
fn empty_cgroup(lab: &str) -> Result<()> {
    let deadline = Instant::now() + KILL_WAIT;
    loop {
        end_processes(lab, &[])?;
        match cgroup::remove(lab) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Whether a process still holds anything: one that only waits for its parent to collect it does not.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
