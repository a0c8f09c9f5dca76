//! The socket tier's attachments: the root of the cgroup tree, found and not assumed, and one link there for each socket program, pinned and
//! exchanged in place. Other programs of the same cgroup run beside ours.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink};
use lb_common::layout::names;

use super::{load::Datapath, raw::PinnedLink};

/// How the socket tier is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum SocketPolicy {
    /// On the root of the cgroup tree, or the cgroup that was named, if that works; otherwise tc alone does the work.
    Auto,
    /// Not at all.
    Off,
}

/// The inode of the root of the cgroup tree: of no other folder, whatever part of the tree a container sees.
const ROOT_INODE: u64 = 1;

/// Where the root of cgroup version 2 is mounted.
///
/// # Errors
/// Why it can't be used, and what to do.
pub fn cgroup_root() -> Result<PathBuf> {
    // Whoever is elsewhere does not serve the machine's other processes.
    let [ours, first] = ["/proc/self/ns/net", "/proc/1/ns/net"].map(|path| fs::read_link(path).ok());
    check_namespace(ours, first)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    choose_root(&mounts, |path| {
        fs::metadata(path).is_ok_and(|folder| folder.ino() == ROOT_INODE)
    })
}

/// The root is taken only by an agent that is known to be in the network namespace of the machine's first process.
fn check_namespace(ours: Option<PathBuf>, first: Option<PathBuf>) -> Result<()> {
    match (ours, first) {
        (Some(ours), Some(first)) if ours == first => Ok(()),
        (Some(_), Some(_)) => bail!(
            "the agent is not in the machine's own network namespace; name the cgroup of its processes: --cgroup-root DIR"
        ),
        _ => bail!(
            "the kernel does not tell whether the agent is in the machine's own network namespace (/proc/1/ns/net can't be read); if it \
             is, name the root: --cgroup-root DIR"
        ),
    }
}

fn choose_root(mounts: &str, is_root: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut mounted = mounts.lines().filter_map(cgroup2_mount).peekable();
    if mounted.peek().is_none() {
        bail!(
            "cgroup version 2 is not mounted; mount it, beside version 1 if that is in use: mount -t cgroup2 none DIR"
        );
    }
    mounted.find(|path| is_root(path)).context(
        "the root of the cgroup tree is not mounted here, only a part of it; in a container, pass the host's /sys/fs/cgroup on (a \
         hostPath volume), or name a cgroup: --cgroup-root DIR",
    )
}

/// The mount point that a line of mountinfo (proc(5)) tells of, if it is cgroup2's.
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?;
    let point = before.split(' ').nth(4)?;
    (kind == "cgroup2").then(|| PathBuf::from(unescaped(point)))
}

/// Spaces and the like stand as `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The links of the socket programs.
#[derive(Clone, Debug)]
pub struct SocketLinks {
    folder: PathBuf,
}

impl SocketLinks {
    /// Those that are pinned in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Puts the socket programs on a cgroup, those that tell of service addresses before those that translate. Links that an earlier
    /// agent has left there are given the new program in place: no call comes to a cgroup without one.
    ///
    /// # Errors
    /// If the kernel refuses a program or its place; then none is attached.
    pub fn attach(&self, datapath: &mut Datapath, cgroup: &Path) -> Result<()> {
        datapath.socket_programs()?;
        let folder = File::open(cgroup).with_context(|| format!("open the cgroup {}", cgroup.display()))?;
        let inode = folder.metadata().context("ask for the cgroup's number")?.ino();
        for &name in names::SOCKET_PROGRAMS {
            let attached = self
                .attach_one(datapath.socket_program(name)?, &self.pin(name), &folder, inode)
                .with_context(|| format!("attach {name} to the cgroup {}", cgroup.display()));
            if let Err(error) = attached {
                self.detach();
                return Err(error);
            }
        }
        Ok(())
    }

    fn attach_one(&self, program: &mut CgroupSockAddr, pin: &Path, cgroup: &File, inode: u64) -> Result<()> {
        if pin.exists() {
            let link = PinnedLink::open(pin).with_context(|| format!("open {}", pin.display()))?;
            let is_here = link.inspect().is_ok_and(|link| link.cgroup == inode);
            if is_here && link.exchange(program.fd()?.as_fd()).is_ok() {
                return Ok(());
            }
            // Of another cgroup, or of one that is gone.
            fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))?;
        }
        // Links share a cgroup with others' by themselves; the mode is passed as flags, of which the kernel wants none.
        let id = program.attach(cgroup, CgroupAttachMode::Single)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(pin)?;
        Ok(())
    }

    /// Whether all programs of this datapath are on the cgroup; a reason, if not.
    ///
    /// # Errors
    /// Why they aren't.
    pub fn check(&self, datapath: &Datapath, cgroup: &Path) -> Result<()> {
        let inode = cgroup_number(cgroup)?;
        for &name in names::SOCKET_PROGRAMS {
            let pin = self.pin(name);
            let found = PinnedLink::open(&pin)
                .and_then(|link| link.inspect())
                .with_context(|| format!("look at the link {}", pin.display()))?;
            if found.cgroup != inode || Some(found.program) != datapath.program_id(name) {
                bail!("{name} is not on the cgroup {} any more", cgroup.display());
            }
        }
        Ok(())
    }

    /// Takes the socket programs off, those that translate first. Sockets that are connected stay so.
    pub fn detach(&self) {
        for name in names::SOCKET_PROGRAMS.iter().rev() {
            // Where it isn't, it needn't be taken off.
            let _ = fs::remove_file(self.pin(name));
        }
    }

    fn pin(&self, program: &str) -> PathBuf {
        self.folder
            .join(format!("cgroup-{}", program.trim_start_matches("lb_")))
    }
}

/// The number by which the kernel knows a cgroup.
///
/// # Errors
/// If it is not there.
pub fn cgroup_number(cgroup: &Path) -> Result<u64> {
    let folder = fs::metadata(cgroup).with_context(|| format!("look at the cgroup {}", cgroup.display()))?;
    Ok(folder.ino())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const V1: &str = "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n";
    const V2: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    const PART: &str = "50 31 0:38 /kubepods/pod7 /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
    const SPACE: &str = "41 31 0:38 / /mnt/a\\040cgroup rw - cgroup2 none rw\n";

    #[rstest]
    #[case::the_same(Some("net:[1]"), Some("net:[1]"), true)]
    #[case::another(Some("net:[2]"), Some("net:[1]"), false)]
    #[case::not_told(Some("net:[1]"), None, false)]
    #[case::nothing_is_told(None, None, false)]
    fn only_an_agent_in_the_first_namespace_takes_the_root(
        #[case] ours: Option<&str>,
        #[case] first: Option<&str>,
        #[case] takes: bool,
    ) {
        let result = check_namespace(ours.map(PathBuf::from), first.map(PathBuf::from));
        assert_eq!(result.is_ok(), takes, "{result:?}");
    }

    #[rstest]
    #[case::alone(&[V2], "/sys/fs/cgroup/unified")]
    #[case::beside_version_1(&[V1, V2], "/sys/fs/cgroup/unified")]
    #[case::behind_a_part(&[PART, V2], "/sys/fs/cgroup/unified")]
    #[case::with_a_space(&[SPACE], "/mnt/a cgroup")]
    fn the_root_is_found(#[case] mounts: &[&str], #[case] expected: &str) {
        let is_root = |path: &Path| path != Path::new("/sys/fs/cgroup");
        let found = choose_root(&mounts.concat(), is_root).expect("it is there");
        assert_eq!(found, Path::new(expected));
    }

    #[rstest]
    #[case::version_1_only(&[V1], "cgroup version 2 is not mounted")]
    #[case::a_part_only(&[V1, PART], "only a part of it")]
    #[case::nonsense(&["what is this\n", "- cgroup2\n"], "cgroup version 2 is not mounted")]
    fn or_what_is_missing_is_said(#[case] mounts: &[&str], #[case] expected: &str) {
        let is_root = |path: &Path| path != Path::new("/sys/fs/cgroup");
        let error = choose_root(&mounts.concat(), is_root).expect_err("there is no root");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
