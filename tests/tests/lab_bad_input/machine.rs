//! Machines on which the agent can't run: no capability, no file system for pins, one that is read-only, another agent.

use std::process::Stdio;
use std::time::Duration;

use rstest::rstest;

use crate::scene::Scene;

#[rstest]
#[case::bpf("-bpf,-sys_admin", &["without CAP_BPF"])]
#[case::perfmon("-perfmon,-sys_admin", &["without CAP_PERFMON"])]
#[case::net_admin("-net_admin", &["without CAP_NET_ADMIN"])]
#[case::all("-all", &["without CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON"])]
fn an_agent_without_a_capability_says_which(#[case] dropped: &str, #[case] parts: &[&str]) {
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    let bounding = format!("--bounding-set={dropped}");
    let ended = scene.end(scene.another_agent(&["setpriv", &bounding]));
    ended.expect_failure(parts);
    ended.expect_failure(&[
        "this machine can't run the datapath",
        "capabilities: ",
        "Run as root, or grant them",
        "sluice doctor",
    ]);
    scene.check_served();
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
    scene.check_served();
}

/// What `ARCHITECTURE.md` promises: no more than these three, once somebody has mounted the file system.
#[test]
fn three_capabilities_are_enough() {
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    let wrapper = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon"];
    let mut agent = scene
        .another_agent(&wrapper)
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent can be started");
    let pid = agent.id();
    scene.wait_for("agent with three capabilities", Duration::from_secs(10), |state| {
        state["pid"] == pid && state["ready"] == true
    });
    let attached = scene.agent.state().expect("a state")["devices"].clone();
    let mut service = crate::scene::web(&scene.lab);
    let endpoints = std::mem::take(&mut service.endpoints);
    scene.manifests.apply(&service).expect("the folder can be written to");
    scene.wait_for_frontend("reject");
    service.endpoints = endpoints;
    scene.manifests.apply(&service).expect("the folder can be written to");
    scene.wait_for_frontend("10.244.1.11:7000");
    scene.check_served();
    agent.kill().expect("it is our child");
    agent.wait().expect("it is our child");
    let devices = attached.as_array().expect("a list of devices");
    assert!(
        devices
            .iter()
            .any(|device| device["name"] == "eth0" && device["tc"] == "attached"),
        "{devices:?}"
    );
}

#[test]
fn a_read_only_bpf_file_system_is_named_and_the_datapath_goes_on() {
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    let pins = scene.lab.pin_directory().display().to_string();
    // In a mount namespace of its own: the machine's file system stays as it is.
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    let ended = scene.end(scene.another_agent(&["unshare", "--mount", "sh", "-c", script, &pins]));
    ended.expect_failure(&["BPF file system: ", &pins, "is read-only", "mount -o remount,rw"]);
    scene.check_served();
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
    scene.check_served();
}

#[test]
fn all_who_start_at_once_have_one_bpf_file_system() {
    let scene = Scene::start();
    let run_dir = scene.lab.directory().join("prepared");
    std::fs::create_dir(&run_dir).expect("a folder");
    // In a mount namespace of its own: a machine just started, on which nobody has mounted one.
    let script = r#"
        while umount /sys/fs/bpf; do :; done 2>/dev/null
        for one in $(seq 16); do "$@" --pin-dir "/sys/fs/bpf/slt-prepared-$one" & done
        wait
        grep -c ' /sys/fs/bpf bpf ' /proc/self/mounts"#;
    let mut command = scene.lab.node().command("unshare");
    command.args(["--mount", "bash", "-c", script, "-"]);
    command.arg(tests::lab::Agent::binary().expect("the binary was built"));
    command.arg("prepare").arg("--run-dir").arg(&run_dir);
    let ended = scene.end(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.said.matches("ready: ").count(), 16, "{ended:?}");
    assert_eq!(ended.said.lines().last(), Some("1"), "{ended:?}");
    scene.check_served();
}

#[test]
fn a_pin_folder_elsewhere_is_refused_before_anything_is_made() {
    let scene = Scene::start();
    let elsewhere = scene.lab.directory().join("pins");
    let place = elsewhere.display().to_string();
    let mut command = scene
        .lab
        .node()
        .command(tests::lab::Agent::binary().expect("the binary was built"));
    command.arg("run").arg("--manifests").arg(scene.manifests.path());
    command.args(["--socket-tier", "off"]);
    command.args(["--pin-dir", &place, "--run-dir", &place]);
    scene
        .end(command)
        .expect_failure(&[&place, "is not on one", "mount -t bpf bpf"]);
    assert!(!elsewhere.exists(), "nothing was made");
    scene.check_served();
}

#[test]
fn a_second_agent_is_turned_away_and_the_first_goes_on() {
    let scene = Scene::start();
    let first = scene.agent.pid().expect("it runs").to_string();
    let ended = scene.end(scene.another_agent(&[]));
    let by = format!("is held by process {first}");
    ended.expect_failure(&[
        "another agent already serves this node",
        &by,
        "--wait-for-predecessor",
        "--pin-dir of its own",
    ]);
    scene.check_served();
    // Nor may the datapath be taken away under an agent.
    scene
        .sluice(&["cleanup"])
        .expect_failure(&["another agent already serves this node", &by]);
    scene.check_served();
    let state = scene.agent.state().expect("a state");
    assert_eq!(state["pid"].to_string(), first, "the state is the first one's");
    assert_eq!(scene.sluice(&["status"]).code, Some(0));
}

/// It could not serve after the wait either: to wait would make others believe that a successor is there.
#[test]
fn a_second_agent_that_knows_another_layout_does_not_wait() {
    let scene = Scene::start();
    let other = scene.lab.pin_directory().join("layout-0");
    std::fs::create_dir(&other).expect("a folder");
    let mut command = scene.another_agent(&[]);
    command.arg("--wait-for-predecessor");
    scene
        .end(command)
        .expect_failure(&["holds tables of layout layout-0", "nothing was touched"]);
    scene.check_served();
    std::fs::remove_dir(&other).expect("it is empty");
}

#[test]
fn a_folder_of_manifests_that_is_not_there_is_named() {
    let scene = Scene::start();
    let mut command = scene
        .lab
        .node()
        .command(tests::lab::Agent::binary().expect("the binary was built"));
    command
        .args(["run", "--manifests", "/nowhere"])
        .args(scene.agent.places());
    scene.end(command).expect_failure(&[
        "--manifests /nowhere: there is no such directory",
        "make it, it may be empty",
    ]);
    scene.check_served();
}
