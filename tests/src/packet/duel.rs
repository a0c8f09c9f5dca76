//! Stories on two sides: every packet goes through the core on the host and through the loaded programs, and both must
//! say and leave behind the same.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    datapath::{Hook, Verdict},
    layout::{Counter, V4, V6},
};

use super::{
    decode::{dump, read, show},
    encode::Link,
    host::HostFamily,
    kernel::{KernelFamily, KernelWorld},
    rules::Note,
    side::{Side, State},
    story::{Scrap, Stage},
    tape::Tape,
};

/// Ages are compared in whole seconds: in a story that took longer, what is of one age on one side may be of another on the other. It counts
/// for nothing.
const STORY_TIME_MAX: Duration = Duration::from_millis(350);

/// Packets of a story.
pub const PACKETS: usize = 150;

/// What became of packets, by verdict.
pub type Tally = BTreeMap<&'static str, usize>;

/// Plays a story in the family that the tape says, on an empty kernel world. All that is left behind is compared after every
/// `state_every` packets. Nothing is returned if the machine was too busy to play it in time, again and again.
///
/// # Errors
/// Where the two sides differ.
pub fn play(kernel: &mut KernelWorld, octets: &[u8], state_every: usize, note: Note<'_>) -> Result<Option<Tally>> {
    for _ in 0..20 {
        let started = Instant::now();
        let mut tape = Tape::new(octets);
        let result = if tape.once_in(2) {
            tell::<V6>(kernel, &mut tape, state_every, note)
        } else {
            tell::<V4>(kernel, &mut tape, state_every, note)
        };
        if started.elapsed() < STORY_TIME_MAX {
            return result.map(Some);
        }
        kernel.reset()?;
    }
    Ok(None)
}

fn tell<F: HostFamily + KernelFamily>(
    kernel: &mut KernelWorld,
    tape: &mut Tape<'_>,
    state_every: usize,
    note: Note<'_>,
) -> Result<Tally> {
    let mut stage = Stage::<F>::set(tape, Some(kernel))?;
    let mut tally = Tally::new();
    for number in 1..=PACKETS {
        // A limit of time that lies between the two clocks would be over on one side only.
        stage.host.now_ns.set(KernelWorld::now_ns());
        let scrap = stage.next_packet(tape)?;
        if !KernelWorld::runs(scrap.shot()) {
            continue;
        }
        let split = |stage: &Stage<'_, F>| stage.host.counters.borrow()[Counter::FlowsSplit as usize];
        let split_before = split(&stage);
        let what = compare(&mut stage, &scrap, note).with_context(|| describe(number, &scrap))?;
        *tally.entry(what).or_default() += 1;
        if split(&stage) != split_before {
            *tally.entry("of a flow that was split").or_default() += 1;
        }
        let is_last = number == PACKETS || tape.is_over();
        if number % state_every == 0 || is_last {
            compare_states(&mut stage).with_context(|| describe(number, &scrap))?;
        }
        if is_last {
            break;
        }
    }
    Ok(tally)
}

fn describe(number: usize, scrap: &Scrap) -> String {
    let Scrap { hook, link, frame, .. } = scrap;
    format!(
        "packet {number} at {hook:?} ({link:?}): {}\n{}",
        show(frame, *link),
        dump(frame, frame)
    )
}

fn compare<F: HostFamily + KernelFamily>(
    stage: &mut Stage<'_, F>,
    scrap: &Scrap,
    note: Note<'_>,
) -> Result<&'static str> {
    let host = stage.host.shoot_plain(scrap.shot());
    note(scrap, &host, &stage.host);
    let kernel = stage.other.as_deref_mut().context("no kernel")?.run(scrap.shot())?;
    let what = match host.verdict {
        Verdict::Pass if host.outcome.frame == scrap.frame => "untouched",
        Verdict::Pass if read(&scrap.frame, scrap.link).is_some_and(|seen| seen.proto == 132) => "translated, SCTP",
        Verdict::Pass => "translated",
        Verdict::Route => "rerouted",
        Verdict::Echo => "pinged",
        Verdict::Tunnel => "tunnelled",
        Verdict::TooBig(_) => "told",
        Verdict::Forward(_) | Verdict::Turn => "forwarded",
        Verdict::Deliver => "delivered",
        Verdict::Refuse if scrap.hook != Hook::Xdp => "answered",
        Verdict::Reset if scrap.hook != Hook::Xdp => "reset",
        Verdict::Refuse | Verdict::Reset | Verdict::Drop(_) => "dropped",
    };
    // A test run always has a link header, so an answer without one can't be made there.
    if ["answered", "reset", "pinged", "tunnelled", "told"].contains(&what) && scrap.link == Link::Bare {
        return Ok(what);
    }
    ensure!(
        host.outcome == kernel,
        "host ({:?}): told {}, {}\n{}kernel: told {}, {}\n{}",
        host.verdict,
        host.outcome.code,
        show(&host.outcome.frame, scrap.link),
        dump(&host.outcome.frame, &kernel.frame),
        kernel.code,
        show(&kernel.frame, scrap.link),
        dump(&kernel.frame, &host.outcome.frame)
    );
    Ok(what)
}

fn compare_states<F: HostFamily + KernelFamily>(stage: &mut Stage<'_, F>) -> Result<()> {
    let host: State<F> = stage.host.state()?;
    let kernel = stage.other.as_deref_mut().context("no kernel")?.state()?;
    ensure!(
        host == kernel,
        "host (-) and kernel (+) are left differently:\n{}",
        host.difference(&kernel)
    );
    Ok(())
}
