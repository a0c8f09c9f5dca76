//! `docs/behaviour.md` says what the tests claim, and the tests claim every row.
//!
//! `SLUICE_UPDATE_BEHAVIOUR=1 cargo test -p tests --test host_behaviour` writes the page.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tests::behaviour::claims::{self, Claim};
use tests::behaviour::page::{self, unclaimed, unknown, unproven, unread_by_the_oracle};
use tests::behaviour::rows::Proof;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the repository")
}

fn claims() -> Vec<Claim> {
    claims::all(&root()).expect("sources can be read")
}

#[test]
fn the_page_is_up_to_date() {
    let path = root().join(page::PATH);
    let text = page::page(&claims());
    if env::var_os("SLUICE_UPDATE_BEHAVIOUR").is_some() {
        fs::write(&path, text).expect("the page can be written");
        return;
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).find(|(there, wanted)| there != wanted);
    assert!(
        there == text,
        "{} is stale ({differs:?}): SLUICE_UPDATE_BEHAVIOUR=1 cargo test -p tests --test host_behaviour",
        page::PATH
    );
}

#[test]
fn every_row_is_claimed_by_a_test() {
    let missing = unclaimed(&claims());
    assert!(missing.is_empty(), "nobody claims rows {missing:?}");
}

#[test]
fn every_row_is_shown_by_the_proof_that_it_needs() {
    let claims = claims();
    let missing: Vec<String> = [Proof::Planner, Proof::Packet, Proof::Stack, Proof::Health]
        .into_iter()
        .map(|proof| (proof, unproven(&claims, proof)))
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(proof, rows)| format!("{}: {rows:?}", proof.name()))
        .collect();
    assert!(
        missing.is_empty(),
        "rows without the proof that they need: {}",
        missing.join("; ")
    );
}

#[test]
fn no_test_claims_a_row_that_is_not_there() {
    let strangers = unknown(&claims());
    assert!(strangers.is_empty(), "{strangers:#?}");
}

/// Those behind are about more than one flow.
#[test]
fn the_oracle_is_tried_with_every_row_about_flows() {
    assert_eq!(unread_by_the_oracle(&claims(), 108), [] as [u16; 0]);
}
