//! The words at the end: a line per step, the books of the whole run, and what the kernel holds.

use std::time::Duration;

use super::screen::{Screen, Tone};
use super::script::{Action, BACKENDS, Effect, STEPS, Step};
use super::stage::Stage;
use super::verdict::{Aside, complaints};
use super::{effect_text, grouped, millis};
use crate::lab::plan::backend_name;
use crate::traffic::{LongLivedReport, PhaseReport, UdpReport};

/// Lines of `sluice get frontends` that are shown.
const TABLE_LINES: usize = 12;

/// One step in two lines: what became of new connections, and of those that were there before.
pub(super) fn lines(step: &Step, report: &PhaseReport, aside: &Aside) -> [String; 2] {
    let mut new = vec![format!(
        "{} connections, {} lost",
        grouped(report.connections),
        report.lost
    )];
    if report.refused > 0 {
        let time = millis(report.refusal.quantile(0.99));
        new.push(format!("{} refused, 99 % within {time}", grouped(report.refused)));
    }
    if report.unheard > 0 {
        new.push(format!("{} met nobody, as due", grouped(report.unheard)));
    }
    new.extend(effect_text(step.effect(report)));
    if let Some(time) = aside.ready_after {
        new.push(format!("ready after {}", millis(time)));
    }
    if report.answered > 0 {
        let (half, most) = (report.connect.quantile(0.5), report.connect.quantile(0.99));
        new.push(format!("p50 {} p99 {}", millis(half), millis(most)));
    }
    let old = format!(
        "long-lived: {} lost, longest pause {} · UDP: {} unanswered, {} of {} sessions moved",
        aside.lost,
        millis(aside.pause),
        aside.unanswered,
        aside.moves.len(),
        super::stage::UDP_SESSIONS
    );
    [new.join(" · "), old]
}

/// The summary. `true` if every promise was kept.
pub(super) fn tell(
    screen: &mut Screen,
    took: Duration,
    reports: &[PhaseReport],
    asides: &[Aside],
    long_lived: &LongLivedReport,
    udp: &UdpReport,
) -> bool {
    // The load begins in the first step's phase; `play` begins it once more, so the warm-up is the odd one in front.
    let reports = &reports[reports.len() - asides.len()..];
    let head = format!("Summary after {:.0} s", took.as_secs_f64());
    let head = screen.paint(Tone::Strong, &head);
    screen.say(&format!("\n{head}"));
    let row = |cells: [&str; 8]| {
        let [title, made, lost, half, most, slowest, effect, pause] = cells;
        format!("  {title:20} {made:>11} {lost:>5} {half:>8} {most:>8} {slowest:>8} {effect:>9} {pause:>9}")
    };
    let heading = row([
        "step",
        "connections",
        "lost",
        "p50",
        "p99",
        "slowest",
        "effect",
        "pause",
    ]);
    screen.say(&screen.paint(Tone::Faint, &heading));
    let mut good = true;
    for ((step, report), aside) in STEPS.iter().zip(reports).zip(asides) {
        let found = complaints(step, report, aside);
        good &= found.is_empty();
        let effect = match (step.effect(report), aside.ready_after) {
            (Effect::After(time), _) | (Effect::None, Some(time)) => millis(time),
            (Effect::None, None) => String::new(),
            (Effect::Never, _) => "never".to_owned(),
        };
        let time = |value: Duration| {
            if report.answered > 0 {
                millis(value)
            } else {
                String::new()
            }
        };
        let text = row([
            step.title,
            &grouped(report.connections),
            &grouped(report.lost),
            &time(report.connect.quantile(0.5)),
            &time(report.connect.quantile(0.99)),
            &time(report.connect.max()),
            &effect,
            &millis(aside.pause),
        ]);
        screen.say(&if found.is_empty() {
            text
        } else {
            screen.paint(Tone::Bad, &text)
        });
    }
    let explained = [
        "  p50, p99, slowest: time to connect. pause: the longest wait of a long-lived connection for an echo.",
        "  effect: from the change of the YAML until clients see it, or from the agent's start until it is ready.",
    ];
    let explained = &explained.join("\n");
    screen.say(&screen.paint(Tone::Faint, explained));
    let made: u64 = reports.iter().map(|report| report.connections).sum();
    let lost: u64 = reports.iter().map(|report| report.lost).sum();
    let refused: u64 = reports.iter().map(|report| report.refused).sum();
    let unheard: u64 = reports.iter().map(|report| report.unheard).sum();
    screen.say(&format!(
        "\n  new connections     {} made, {} lost (as due, {} refused while there was no backend, {} met nobody while\n                      there was no Service)",
        grouped(made),
        grouped(lost),
        grouped(refused),
        grouped(unheard)
    ));
    screen.say(&format!(
        "  long-lived          {} of {} kept on their backend, {} lost; {} MB echoed and checked byte for byte",
        long_lived.open,
        super::stage::LONG_LIVED,
        long_lived.lost,
        grouped(long_lived.bytes / 1_000_000)
    ));
    let due = |(step, aside): (&Step, &Aside)| aside.moves.iter().filter(|change| step.has_left(&change.from)).count();
    let due: usize = STEPS.iter().zip(asides).map(due).sum();
    screen.say(&format!(
        "  UDP sessions        {} of {} questions answered; {} moved as their backend left, {} otherwise",
        grouped(udp.answered),
        grouped(udp.asked),
        due,
        udp.moves.len() - due
    ));
    if let Some(steady) = reports.first().filter(|report| report.answered > 0) {
        let share = |number: u8| {
            let name = backend_name(number);
            let count = steady.backends.get(&name).map_or(0, |seen| seen.count);
            format!("{name} {:.0} %", 100.0 * count as f64 / steady.answered as f64)
        };
        let shares: Vec<_> = (1..=BACKENDS).map(share).collect();
        screen.say(&format!(
            "  spread              {} (in the first step)",
            shares.join(", ")
        ));
    }
    let promise = "no connection lost, no change late, nobody moved who need not be";
    let verdict = if good {
        screen.paint(Tone::Good, &format!("✔ All promises kept: {promise}."))
    } else {
        screen.paint(
            Tone::Bad,
            &format!("✘ The bar was missed; it is: {promise}. The ✘ lines above say where."),
        )
    };
    screen.say(&format!("\n{verdict}"));
    good
}

/// What the kernel holds at the end, in the words of the command line; nothing if that can't be had.
pub(super) fn tables(stage: &Stage) -> Option<String> {
    debug_assert_eq!(
        STEPS.last().map(|step| step.action),
        Some(Action::RestartAgent),
        "the agent runs at the end"
    );
    let text = match stage.agent.cli(["get", "frontends"]) {
        Ok(text) => text,
        Err(error) => format!("{error:#}"),
    };
    let mut lines: Vec<_> = text.lines().take(TABLE_LINES).map(|line| format!("  {line}")).collect();
    if text.lines().count() > TABLE_LINES {
        lines.push("  …".to_owned());
    }
    (!lines.is_empty()).then(|| {
        format!(
            "\nWhat the kernel has now, as `sluice get frontends` reads it:\n{}",
            lines.join("\n")
        )
    })
}
