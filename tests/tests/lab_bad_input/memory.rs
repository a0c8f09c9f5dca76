//! Memory limits: the kernel counts tables and programs against the cgroup of the agent that makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rstest::rstest;

use crate::scene::Scene;

const MIB: u64 = 1 << 20;

/// A cgroup with a memory limit, of the version whose memory controller this machine uses. It goes with its value.
struct Limited {
    folder: PathBuf,
    limit_file: &'static str,
}

impl Limited {
    /// Nothing, and a line that says so, where no cgroup can have a limit.
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts can be read");
        let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let found = mounts.filter(|fields| fields.len() > 3).find_map(|fields| {
            let root = Path::new(fields[1]);
            let controls = |file: &str| fs::read_to_string(root.join(file)).is_ok_and(|text| has_word(&text, ' '));
            match fields[2] {
                "cgroup2" if controls("cgroup.subtree_control") => Some((root.to_owned(), "memory.max")),
                "cgroup" if has_word(fields[3], ',') => Some((root.to_owned(), "memory.limit_in_bytes")),
                _ => None,
            }
        });
        let Some((root, limit_file)) = found else {
            println!("SKIP {name}: no cgroup of this machine can have a memory limit");
            return None;
        };
        let folder = root.join(format!("slt-{name}-{}", std::process::id()));
        fs::create_dir(&folder).expect("a cgroup can be made: this needs root");
        Some(Self { folder, limit_file })
    }

    /// An agent over the scene's folders, in this cgroup with this limit.
    fn agent(&self, scene: &Scene, limit: u64) -> Command {
        fs::write(self.folder.join(self.limit_file), limit.to_string()).expect("the limit can be set");
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.folder.display());
        scene.another_agent(&["sh", "-c", &join, "-"])
    }
}

fn has_word(text: &str, separator: char) -> bool {
    text.trim().split(separator).any(|word| word == "memory")
}

impl Drop for Limited {
    fn drop(&mut self) {
        // What its processes have left is counted further up from now on.
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

/// The first agent of a node, which makes the tables. How far it comes depends on the limit.
#[rstest]
#[case::few_tables(96 * MIB)]
#[case::half_of_the_tables(128 * MIB)]
#[case::most_tables(300 * MIB)]
fn tables_for_which_there_is_no_memory_are_named_and_none_is_left(#[case] limit: u64) {
    let Some(limited) = Limited::new("create") else { return };
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    assert_eq!(scene.sluice(&["cleanup"]).code, Some(0));
    let ended = scene.end(limited.agent(&scene, limit));
    ended.expect_failure(&[
        "create the kernel tables: failed to create map `",
        "Cannot allocate memory",
        "Raise the memory limit of the agent's cgroup",
        "--flows-max",
    ]);
    let maps = scene.maps();
    assert_eq!(
        fs::read_dir(&maps).expect("the folder is there").count(),
        0,
        "{}",
        maps.display()
    );
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
}

/// The next agent of a node that is served. The tables are there, and count against whoever has made them: with what was too little for
/// them it works, and with too little for itself the kernel ends it and nothing else.
#[test]
fn an_agent_that_adopts_needs_no_memory_for_tables() {
    let Some(limited) = Limited::new("adopt") else { return };
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    let before = scene.pins();
    let ended = scene.end(limited.agent(&scene, 8 * MIB));
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert_eq!(scene.pins(), before);
    scene.check_served();

    let mut command = limited.agent(&scene, 128 * MIB);
    let mut agent = command.stderr(Stdio::null()).spawn().expect("the agent can be started");
    let pid = agent.id();
    scene.wait_for("agent with little memory", crate::scene::PATIENCE, |state| {
        state["pid"] == pid && state["ready"] == true
    });
    scene.check_served();
    agent.kill().expect("it is our child");
    agent.wait().expect("it is our child");
    assert_eq!(scene.pins(), before);
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
    scene.check_served();
}
