//! Scripts: YAML in, tables out, in files that a person can read (`tests/scripts/*.txt`).
//!
//! A script goes the product's own way, from the source of manifests to the reconciler, over tables in memory, and is run
//! three times: as it stands; with one write in ten failing, agents that are restarted in between, and a reader who looks
//! at the tables after every single write; and with an agent that is exchanged between all steps.
//!
//! `SLUICE_UPDATE_SCRIPTS=1 cargo test -p tests --test host_scripts` writes what the tables say into the scripts; look at
//! the difference before it is committed.

mod node;
mod script;
mod source;
mod view;

use std::collections::BTreeSet;

use node::{Dice, Node, World};
use rstest::rstest;
use script::Script;
use source::Told;
use view::View;

/// How many different failures each script is run with.
const SEEDS: u64 = 100;
/// How many of a hundred writes fail.
const FAULTS_PERCENT: u64 = 10;

/// What a run without faults leads to, after each step.
struct Plain {
    told: Vec<Told>,
    dumps: Vec<String>,
    views: Vec<View>,
}

impl Plain {
    fn run(script: &Script) -> Self {
        let told = source::listen(script);
        let mut node = Node::adopt_without_faults(&Node::empty());
        let (mut dumps, mut views) = (Vec::new(), Vec::new());
        for (step, told) in script.steps.iter().zip(&told) {
            node.apply(&told.changes);
            if step.is_later() {
                node.retry();
            }
            dumps.push(node.dump());
            views.push(node.view());
        }
        Self { told, dumps, views }
    }

    /// What clients found before a step.
    fn before(&self, step: usize) -> View {
        step.checked_sub(1)
            .map(|step| self.views[step].clone())
            .unwrap_or_default()
    }

    /// What a script has under `== tables`.
    fn texts(&self) -> Vec<String> {
        let texts = self.dumps.iter().zip(&self.told).map(|(dump, told)| {
            let problems = told.problems.iter().map(|problem| format!("\nobject: {problem}"));
            format!("{dump}{}", problems.collect::<String>())
        });
        texts.collect()
    }
}

#[rstest]
fn every_script_holds(
    #[values(
        "affinity",
        "algorithm",
        "cluster_ip_changed",
        "conditions",
        "direct",
        "dual_stack",
        "external_addresses",
        "external_local",
        "full",
        "local_policy",
        "merged_slices",
        "no_cluster_ip",
        "one_address_two_services",
        "port_renamed",
        "port_zero",
        "removed",
        "scaling",
        "shared_backend",
        "source_ranges",
        "three_protocols",
        "wrong_family"
    )]
    name: &str,
) {
    let script = Script::read(name);
    let plain = Plain::run(&script);
    let texts = plain.texts();
    if std::env::var_os("SLUICE_UPDATE_SCRIPTS").is_some() {
        script.write(&texts);
        return;
    }
    for (step, text) in script.steps.iter().zip(&texts) {
        let expected = &step.expected;
        assert!(
            text == expected,
            "{name}, {}: expected\n{expected}\n\nbut the tables say\n{text}",
            step.heading
        );
    }
    for seed in 1..=SEEDS {
        with_faults(&plain, seed)
            .unwrap_or_else(|(step, error)| panic!("{name}, seed {seed}, {}: {error}", script.steps[step].heading));
    }
    with_adoption(&plain).unwrap_or_else(|(step, error)| panic!("{name}, {}: {error}", script.steps[step].heading));
}

/// Every tenth write fails, and sometimes the agent is killed when it has tried once.
fn with_faults(plain: &Plain, seed: u64) -> Result<(), (usize, String)> {
    let dice = Dice::of(seed, FAULTS_PERCENT);
    let mut world = World::default();
    let mut node = adopt(&Node::empty(), &dice);
    for (number, told) in plain.told.iter().enumerate() {
        let at = |error| (number, error);
        let (before, after) = (plain.before(number), &plain.views[number]);
        world.fold(&told.changes);
        node.apply(&told.changes);
        if dice.roll(4) == 0 {
            node.check_readers(&before, after).map_err(at)?;
            node = adopt(&node.tables(), &dice);
            node.apply(&world.list());
        }
        node.settle(&plain.dumps[number]).map_err(at)?;
        node.check_readers(&before, after).map_err(at)?;
        // The reader starts anew with the next step.
        node.forget_writes();
    }
    Ok(())
}

/// An agent that was killed before it began leaves the tables to the next.
fn adopt(tables: &node::Both, dice: &Dice) -> Node {
    let attempts = std::iter::repeat_with(|| Node::adopt(tables, dice));
    attempts
        .take(100)
        .find_map(Result::ok)
        .expect("one of a hundred agents can start")
}

/// A new agent before each step, and another one afterwards for which nothing is left to do.
fn with_adoption(plain: &Plain) -> Result<(), (usize, String)> {
    let mut world = World::default();
    let mut tables = Node::empty();
    for (number, told) in plain.told.iter().enumerate() {
        let at = |error| (number, error);
        let (before, after) = (plain.before(number), &plain.views[number]);
        let dump = &plain.dumps[number];

        // Exchanged, then told what changes.
        let mut node = Node::adopt_without_faults(&tables);
        node.apply(&world.list());
        if node.changes() != 0 {
            return Err((
                number,
                "an agent that was exchanged changed something, though nothing had changed for it".to_owned(),
            ));
        }
        node.apply(&told.changes);
        node.settle(dump).map_err(at)?;
        node.check_readers(&before, after).map_err(at)?;

        // Exchanged while the world changed.
        world.fold(&told.changes);
        let was = Node::adopt_without_faults(&tables).view();
        let mut node = Node::adopt_without_faults(&tables);
        node.apply(&world.list());
        node.settle(dump).map_err(at)?;
        node.check_readers(&before, after).map_err(at)?;
        let now = node.view();
        for (dialled, found) in &now {
            let same = before.get(dialled).is_some_and(|before| before.is_like(found));
            if same && was[dialled].place != found.place {
                let (was, is) = (was[dialled].place, found.place);
                return Err((
                    number,
                    format!("{dialled:?} is as before, but moved from {was:?} to {is:?}"),
                ));
            }
        }
        tables = node.tables();
    }
    Ok(())
}

#[test]
fn every_file_in_the_folder_is_run() {
    let listed = include_str!("main.rs");
    let files = std::fs::read_dir(Script::folder()).expect("there are scripts");
    let names: BTreeSet<String> = files
        .map(|entry| entry.expect("the folder can be read").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    for name in names {
        assert!(listed.contains(&format!("        \"{name}\"")), "{name} is in no list");
    }
}
