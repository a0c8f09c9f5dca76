//! Three minutes of chaos: a node under load, and everything done to it, in an order that its seed says, that must not cost a connection.
//! `cargo xtask chaos` does the same for as long as one likes, with another seed each time.

use std::time::Duration;

use rstest::rstest;

#[rstest]
#[case(1)]
#[case(2)]
#[case(3)]
fn nothing_is_lost(#[case] seed: u64) {
    let verdict = tests::chaos::play(seed, Duration::from_secs(60)).expect("the lab can be built: this needs root");
    println!("{verdict}");
    assert!(verdict.is_good(), "{verdict}");
}
