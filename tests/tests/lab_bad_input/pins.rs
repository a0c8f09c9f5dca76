//! Pins that this version can't work with: of another layout, of another kind, not tables at all.
//!
//! All of them are made by renaming pins of a datapath that serves: what is refused must go on serving.

use std::fs;
use std::path::{Path, PathBuf};

use lb_common::layout::{ServiceEntry, limits::LAYOUT_VERSION};

use crate::scene::Scene;

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

fn names(folder: &Path) -> Vec<String> {
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
    let before = names(&root);
    let ended = scene.end(scene.another_agent(&[]));
    ended.expect_failure(&[&root.display().to_string(), "nothing was touched", "sluice cleanup"]);
    ended.expect_failure(parts);
    assert_eq!(names(&root), before);
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
    let first = |root: &Path| own(root, "links").join(&names(&own(root, "links"))[0]);
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
