//! Pins that this version can't work with: of another layout, of another kind, not tables at all.
//!
//! All of them are made by renaming pins of a datapath that serves: what is refused must go on serving.

use std::fs;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::CgroupSockAddr;
use lb_common::layout::limits::{FLOWS_MIN, LAYOUT_VERSION};
use lb_common::layout::{ServiceEntry, names};
use lb_userspace::kernel::object;

use crate::scene::{PATIENCE, Scene, texts};

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Expects an agent to be turned away by what `spoil` has done, with nothing touched, and to work again after `mend`.
fn check(spoil: impl Fn(&Path), parts: &[&str], mend: impl Fn(&Path)) {
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    let root = scene.lab.pin_directory();
    spoil(&root);
    let before = listing(&root);
    let ended = scene.end(scene.another_agent(&[]));
    ended.expect_failure(&[&root.display().to_string(), "nothing was touched", "sluice cleanup"]);
    ended.expect_failure(parts);
    assert_eq!(listing(&root), before);
    scene.check_served();
    mend(&root);
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
    scene.check_served();
}

/// Something in the folder of this version's layout.
fn own(root: &Path, path: &str) -> PathBuf {
    root.join(format!("layout-{LAYOUT_VERSION}")).join(path)
}

#[test]
fn tables_of_another_layout_are_left_alone() {
    check(
        |root| rename(&own(root, ""), &root.join("layout-0")),
        &[
            "holds tables of layout layout-0",
            &format!("this Sluice knows layout {LAYOUT_VERSION}"),
            "Run the version that made them",
        ],
        |root| rename(&root.join("layout-0"), &own(root, "")),
    );
}

#[test]
fn a_table_of_another_shape_at_our_pin_is_left_alone() {
    let swap = |root: &Path| {
        let maps = own(root, "maps");
        let (one, other, aside) = (maps.join("LB4_SERVICES"), maps.join("LB4_SLOTS"), maps.join("aside"));
        rename(&one, &aside);
        rename(&other, &one);
        rename(&aside, &other);
    };
    check(
        swap,
        &[
            "maps/LB4_SERVICES is not the table that Sluice puts there",
            &format!(
                "found Array with keys of 4 and values of 4 octets, expected Array with keys of 4 and values of {} octets",
                size_of::<ServiceEntry>()
            ),
            "Move it away",
        ],
        swap,
    );
}

#[test]
fn a_link_at_the_pin_of_a_table_is_left_alone() {
    let first = |root: &Path| own(root, "links").join(&listing(&own(root, "links"))[0]);
    let held = std::cell::RefCell::new(None);
    check(
        |root| {
            let (link, pin) = (first(root), own(root, "maps/EVENTS"));
            rename(&pin, &own(root, "events-aside"));
            rename(&link, &pin);
            held.replace(Some(link));
        },
        &[
            "maps/EVENTS is not the table that Sluice puts there",
            "found a bpf",
            "link, expected RingBuf",
        ],
        |root| {
            let pin = own(root, "maps/EVENTS");
            rename(&pin, &held.take().expect("it was spoilt"));
            rename(&own(root, "events-aside"), &pin);
        },
    );
}

#[test]
fn a_program_at_the_pin_of_a_table_is_left_alone() {
    let pin = |root: &Path| own(root, "maps/DROPS");
    check(
        |root| {
            rename(&pin(root), &own(root, "drops-aside"));
            let mut object = loader()
                .load(object().expect("it was built in"))
                .expect("it can be loaded");
            let program = object.program_mut(names::SOCKET_PROGRAMS[0]).expect("it is there");
            let program: &mut CgroupSockAddr = program.try_into().expect("a program of that kind");
            program.load().expect("the verifier takes it");
            program.pin(pin(root)).expect("it can be pinned");
        },
        &[
            "maps/DROPS is not the table that Sluice puts there",
            "found a bpf-prog, expected PerCpuArray",
        ],
        |root| {
            fs::remove_file(pin(root)).expect("it is there");
            rename(&own(root, "drops-aside"), &pin(root));
        },
    );
}

/// A table with our name and shape that has fewer places than it should is one that is full sooner.
#[test]
fn a_table_that_was_cut_short_is_filled_and_no_further() {
    let mut scene = Scene::start();
    scene.agent.stop().expect("the agent stops");
    assert_eq!(scene.sluice(&["cleanup"]).code, Some(0));
    let maps = scene.maps();
    fs::create_dir_all(&maps).expect("a folder on the BPF file system");
    let pins: Vec<_> = names::MAPS.iter().map(|name| (*name, maps.join(name))).collect();
    let mut loader = loader();
    loader.map_max_entries(names::LB4_SLOTS, 16);
    for (name, pin) in &pins {
        loader.map_pin_path(name, pin.as_path());
    }
    drop(
        loader
            .load(object().expect("it was built in"))
            .expect("it can be loaded"),
    );
    scene.agent.restart().expect("the agent starts");
    scene.agent.wait_ready().expect("it gets ready");
    scene.check_new();

    let endpoints: Vec<_> = (1..=100)
        .map(|number| format!("{{addresses: [10.244.9.{number}]}}"))
        .collect();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: wide}}\nspec: {{clusterIP: 10.96.0.82, ports: [{{port: 82}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: wide-1, labels: \
         {{kubernetes.io/service-name: wide}}}}\nendpoints: [{}]\nports: [{{port: 7000}}]\n",
        endpoints.join(", ")
    );
    scene
        .manifests
        .write("wide.yaml", &text)
        .expect("the folder can be written to");
    scene.wait_for("complaint about the places", PATIENCE, |state| {
        texts(&state["port_problems"])
            .iter()
            .any(|problem| problem.contains("default/wide") && problem.contains("(of 16)"))
    });
    scene.check_new();
}

/// Loads the object as the agent does, but with flow tables that take no time.
fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    for table in [names::CT4_FLOWS, names::CT6_FLOWS, names::CT4_WAYS, names::CT6_WAYS] {
        loader.map_max_entries(table, FLOWS_MIN);
    }
    loader
}
