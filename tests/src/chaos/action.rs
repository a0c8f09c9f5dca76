//! What is done to the node, drawn by chance. How it is done is in `stage`.

use std::fmt;
use std::ops::Range;

/// Chance, the same for the same seed: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    }

    /// A number of a range.
    pub(super) fn draw(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

/// How the agent ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Killed,
    Asked,
}

/// Something that must not cost a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// The agent ends, and comes back after a while.
    Restart { how: End, after_ms: u64 },
    /// The agent ends, and its successor is killed so long after its start; then comes one that stays.
    KillAtStart { after_ms: u64 },
    /// An endpoint stops being one, or is one again.
    Scale { backend: u8 },
    /// An endpoint begins to terminate, or is ready again.
    Terminate { backend: u8 },
    /// Every object is written again as it is.
    Repeat,
    /// The connections to the API server break.
    Cut,
    /// They break, and the server has forgotten what it said: everything is listed anew.
    Relist,
    /// The API server is away for a while.
    Away { ms: u64 },
    /// Services that nobody asks for come and go: up to so many are there.
    Fillers { count: u64 },
    /// A device comes and goes.
    Flap,
    /// Somebody removes frontends of a Service that nobody asks for.
    Damage,
}

impl Action {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let end = |dice: &mut Dice| if dice.draw(0..2) == 0 { End::Killed } else { End::Asked };
        match dice.draw(0..19) {
            0..3 => Self::Restart {
                how: end(dice),
                after_ms: dice.draw(0..1_500),
            },
            3..5 => Self::KillAtStart {
                after_ms: dice.draw(0..2_500),
            },
            5..9 => Self::Scale {
                backend: dice.draw(3..5) as u8,
            },
            9..11 => Self::Terminate {
                backend: dice.draw(3..5) as u8,
            },
            11 => Self::Repeat,
            12 => Self::Cut,
            13 => Self::Relist,
            14 => Self::Away {
                ms: dice.draw(100..2_000),
            },
            15..17 => Self::Fillers {
                count: dice.draw(0..200),
            },
            17 => Self::Flap,
            _ => Self::Damage,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart { how, after_ms } => {
                let how = if *how == End::Killed { "killed" } else { "stopped" };
                write!(f, "the agent is {how}, and comes back after {after_ms} ms")
            }
            Self::KillAtStart { after_ms } => {
                write!(f, "the agent is killed, and the next one {after_ms} ms after its start")
            }
            Self::Scale { backend } => write!(f, "backend-{backend} is taken out, or put in again"),
            Self::Terminate { backend } => write!(f, "backend-{backend} terminates, or is ready again"),
            Self::Repeat => f.write_str("every object is written again as it is"),
            Self::Cut => f.write_str("the connections to the API server break"),
            Self::Relist => f.write_str("the API server has forgotten what it said"),
            Self::Away { ms } => write!(f, "the API server is away for {ms} ms"),
            Self::Fillers { count } => write!(f, "{count} Services that nobody asks for"),
            Self::Flap => f.write_str("a device comes and goes"),
            Self::Damage => f.write_str("somebody removes frontends from the tables"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_is_done() {
        let drawn = |seed| -> Vec<String> {
            let mut dice = Dice::new(seed);
            (0..50).map(|_| Action::draw(&mut dice).to_string()).collect()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }
}
