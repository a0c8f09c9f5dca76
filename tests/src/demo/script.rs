//! The steps of the demo: what is done, what a person is told about it, and what must then be seen.
//!
//! Only data. Doing it is in `stage`, judging it in `verdict`.

use std::time::Duration;

use crate::lab::plan::backend_name;
use crate::traffic::{Phase, PhaseReport};

/// Backends of the demo; `examples/*.yaml` name their addresses.
pub(super) const BACKENDS: u8 = 4;
/// As many stay when it scales down.
pub(super) const FEW_BACKENDS: u8 = 2;
/// A change must have taken effect by then. (It takes milliseconds; the bar leaves room for a busy machine.)
pub(super) const EFFECT_WITHIN: Duration = Duration::from_secs(1);
/// A refusal must come this fast: a client that waits for a time-out is the failure that this is about.
pub(super) const REFUSED_WITHIN: Duration = Duration::from_millis(100);

/// What happens at the start of a step, under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing: the load alone.
    Watch,
    /// The slices lose all but the first two endpoints.
    ScaleDown,
    /// The slices get all endpoints back.
    ScaleUp,
    /// The slices of `web` lose all endpoints.
    ScaleToZero,
    /// They come back.
    ScaleFromZero,
    /// The file of `web` is deleted.
    RemoveService,
    /// It is written again.
    RestoreService,
    /// SIGKILL.
    KillAgent,
    /// The agent starts again.
    RestartAgent,
}

/// A step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// What is done.
    pub(super) action: Action,
    /// Its name in the summary.
    pub(super) title: &'static str,
    /// One line for the person who watches.
    pub(super) why: &'static str,
}

/// All steps, in order.
pub(super) const STEPS: &[Step] = &[
    Step {
        action: Action::Watch,
        title: "steady load",
        why: "every connection is answered, by all backends alike",
    },
    Step {
        action: Action::ScaleDown,
        title: "scale 4 → 2",
        why: "new connections go to the two that stay; open ones stay where they are",
    },
    Step {
        action: Action::ScaleUp,
        title: "scale 2 → 4",
        why: "the new backends get their share at once; nobody who is connected is moved",
    },
    Step {
        action: Action::ScaleToZero,
        title: "web: scale 4 → 0",
        why: "nobody left to ask: clients hear \"refused\" at once, no time-outs; open connections go on",
    },
    Step {
        action: Action::ScaleFromZero,
        title: "web: scale 0 → 4",
        why: "the first connection after the change is answered again",
    },
    Step {
        action: Action::RemoveService,
        title: "remove web",
        why: "its file is deleted, its address is nobody's; open connections go on, dns doesn't notice",
    },
    Step {
        action: Action::RestoreService,
        title: "add web again",
        why: "the address works again for whoever dials it",
    },
    Step {
        action: Action::KillAgent,
        title: "SIGKILL the agent",
        why: "the kernel's tables and programs don't need it: packets flow on",
    },
    Step {
        action: Action::RestartAgent,
        title: "restart the agent",
        why: "it adopts what is in the kernel and replaces its programs in place, as in an upgrade",
    },
];

impl Step {
    /// What connections started in this step are to meet.
    pub(super) fn phase(&self) -> Phase {
        match self.action {
            Action::ScaleToZero => Phase::refused(self.title, EFFECT_WITHIN),
            Action::RemoveService => Phase::gone(self.title, EFFECT_WITHIN),
            Action::ScaleFromZero | Action::RestoreService => Phase::served(self.title).settling(EFFECT_WITHIN),
            _ => Phase::served(self.title),
        }
    }

    /// How long after its start the step could be seen in what clients got.
    pub(super) fn effect(&self, report: &PhaseReport) -> Effect {
        let seen = |number: u8| report.backends.get(&backend_name(number));
        let coming_and_going = FEW_BACKENDS + 1..=BACKENDS;
        let nothing = Duration::ZERO;
        match self.action {
            Action::Watch | Action::KillAgent | Action::RestartAgent => Effect::None,
            // The last connection that still went to one of those that left.
            Action::ScaleDown => Effect::After(
                coming_and_going
                    .filter_map(seen)
                    .map(|seen| seen.last)
                    .max()
                    .unwrap_or(nothing),
            ),
            Action::ScaleUp => {
                let firsts: Option<Vec<_>> = coming_and_going.map(|number| Some(seen(number)?.first)).collect();
                firsts
                    .and_then(|firsts| firsts.into_iter().max())
                    .map_or(Effect::Never, Effect::After)
            }
            Action::ScaleToZero if report.refused == 0 => Effect::Never,
            Action::ScaleToZero | Action::RemoveService => {
                Effect::After(report.backends.values().map(|seen| seen.last).max().unwrap_or(nothing))
            }
            Action::ScaleFromZero | Action::RestoreService => report
                .backends
                .values()
                .map(|seen| seen.first)
                .min()
                .map_or(Effect::Never, Effect::After),
        }
    }

    /// Whether a backend isn't in the slices in this step. UDP sessions leave such a backend (others must stay with theirs).
    pub(super) fn has_left(&self, backend: &str) -> bool {
        self.action == Action::ScaleDown && (FEW_BACKENDS + 1..=BACKENDS).any(|number| backend_name(number) == backend)
    }
}

/// When a change could be seen by clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// There is nothing to see in this step.
    None,
    /// This long after it was made.
    After(Duration),
    /// Not before the step was over.
    Never,
}
