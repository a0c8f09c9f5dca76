//! What holds for every packet in every world, on random stories of a few packets. The rules are in `tests::packet::rules`;
//! `cargo xtask fuzz` plays longer ones for as long as one likes. Pure code: no root needed.

use proptest::prelude::*;
use tests::packet::{
    rules::{nonsense, play},
    tape::{Tape, recorded},
};

/// Packets of one story: flows have time to be opened, followed and confused.
const PACKETS: usize = 6;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn every_packet_of_every_story_keeps_the_rules(seed in any::<u64>(), len in 0_usize..300) {
        // Shrinking cuts the tape.
        let octets = recorded(seed, len);
        let told = play(&mut Tape::new(&octets), PACKETS, &mut |_, _, _| {});
        prop_assert!(told.is_ok(), "{}", told.unwrap_err());
    }
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn octets_without_any_sense_keep_the_rules(seed in any::<u64>(), len in 0_usize..200) {
        let octets = recorded(seed, len);
        let told = nonsense(&mut Tape::new(&octets), &mut |_, _, _| {});
        prop_assert!(told.is_ok(), "{}", told.unwrap_err());
    }
}
