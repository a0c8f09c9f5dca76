//! A cgroup for each lab, so that socket programs (connect, sendmsg, …) can be tested without touching the rest of the machine.
//!
//! On a real node the agent attaches to the root of the cgroup tree and covers every process of that node, but not the client,
//! which is another machine. Here both are threads of one test process. So the process moves into a cgroup of its own,
//! `slt-p<pid>`, and each lab has a *threaded* child `slt-<id>` that the threads of its node and pods join; the client's stay outside.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;

use anyhow::{Context, Result};

/// Where this process was before its first lab, and goes back to after its last one.
static ORIGIN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Where cgroup version 2 is mounted, alone or beside version 1 controllers.
pub(super) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .context("no cgroup2 file system is mounted, so the socket tier can't be tested here; mount one with: mount -t cgroup2 none /mnt")
}

/// Makes the cgroup of a lab, and moves this process next to it if it isn't there yet.
pub(super) fn create(lab: &str) -> Result<PathBuf> {
    let mount = mount_point()?;
    let home = mount.join(process_group(process::id()));
    // Labs of several threads may begin at the same time.
    fs::create_dir_all(&home).with_context(|| format!("creating cgroup {}", home.display()))?;
    let now = current(&mount)?;
    if now != home {
        move_process(&home)?;
        *ORIGIN.lock().expect("nobody panics with this lock") = Some(now);
    }
    let group = home.join(lab);
    fs::create_dir(&group).with_context(|| format!("creating cgroup {}", group.display()))?;
    fs::write(group.join("cgroup.type"), "threaded")
        .with_context(|| format!("making cgroup {} a threaded one", group.display()))?;
    Ok(group)
}

/// Moves the calling thread into a lab's cgroup.
pub(super) fn join_thread(group: &Path) -> Result<()> {
    // "0" means the writer itself.
    fs::write(group.join("cgroup.threads"), "0")
        .with_context(|| format!("joining cgroup {}: was the lab already removed?", group.display()))
}

/// The processes in a lab's cgroup, but for this one: a thread's number leads to its process.
pub(super) fn processes(lab: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for group in lab_groups(lab) {
        let threads = fs::read_to_string(group.join("cgroup.threads")).unwrap_or_default();
        for thread in threads.lines() {
            let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
            let leader = status
                .lines()
                .find_map(|line| line.strip_prefix("Tgid:"))
                .and_then(|number| number.trim().parse::<i32>().ok());
            found.extend(leader);
        }
    }
    found.sort_unstable();
    found.dedup();
    found.retain(|pid| *pid != process::id().cast_signed());
    found
}

/// Removes the cgroup of a lab if nobody is left in it, and the process's own when that was the last one in it.
pub(super) fn remove(lab: &str) -> Result<()> {
    for group in lab_groups(lab) {
        release_own_threads(&group);
        remove_empty(&group)?;
        let Some(home) = group.parent() else { continue };
        let others = fs::read_dir(home).is_ok_and(|list| list.flatten().any(|entry| entry.path().is_dir()));
        if others {
            continue;
        }
        if home.ends_with(process_group(process::id())) {
            let origin = ORIGIN.lock().expect("nobody panics with this lock").take();
            move_process(&origin.map_or_else(mount_point, Ok)?)?;
        }
        remove_empty(home)?;
    }
    Ok(())
}

/// The names of all labs that have a cgroup, of whatever process.
pub(super) fn labs() -> BTreeSet<String> {
    let inside = homes()
        .into_iter()
        .flat_map(|home| fs::read_dir(home).into_iter().flatten().flatten());
    let folders = inside.filter(|entry| entry.path().is_dir());
    folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Removes the cgroups of processes that are gone, once their labs have been removed by name.
pub(super) fn remove_stale() {
    for home in homes() {
        let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let owner = name.strip_prefix("slt-p").and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // One with something left inside stays, and is looked at again by the next lab.
            let _busy = fs::remove_dir(&home);
        }
    }
}

fn lab_groups(lab: &str) -> Vec<PathBuf> {
    let groups = homes().into_iter().map(|home| home.join(lab));
    groups.filter(|group| group.is_dir()).collect()
}

/// The cgroups of processes that have, or had, labs.
fn homes() -> Vec<PathBuf> {
    let Ok(mount) = mount_point() else {
        return Vec::new();
    };
    let entries = fs::read_dir(mount).into_iter().flatten().flatten();
    let homes = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("slt-p"));
    homes.map(|entry| entry.path()).collect()
}

fn process_group(pid: u32) -> String {
    format!("slt-p{pid}")
}

/// The cgroup that this process is in, below the mount point.
fn current(mount: &Path) -> Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("/proc/self/cgroup has no line for cgroup version 2")?;
    Ok(mount.join(path.trim_start_matches('/')))
}

fn move_process(target: &Path) -> Result<()> {
    fs::write(target.join("cgroup.procs"), "0")
        .with_context(|| format!("moving this process into cgroup {}", target.display()))
}

/// Threads of this process that are still inside (a server that outlives its lab) go back to the process's own cgroup.
fn release_own_threads(group: &Path) {
    let threads = fs::read_to_string(group.join("cgroup.threads")).unwrap_or_default();
    for thread in threads
        .lines()
        .filter(|thread| Path::new(&format!("/proc/self/task/{thread}")).exists())
    {
        if let Some(home) = group.parent() {
            // One that has ended in the meantime needs no other place.
            let _ended = fs::write(home.join("cgroup.threads"), thread);
        }
    }
}

fn remove_empty(group: &Path) -> Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| {
            let group = group.display();
            format!("removing cgroup {group}; `cat {group}/cgroup.threads` shows what is still inside")
        }),
        _ => Ok(()),
    }
}
