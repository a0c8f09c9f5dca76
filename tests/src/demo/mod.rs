//! The demo: real connections through the agent while everything is done to it that must not hurt, live and with exact books.
//!
//! What happens is in `script`, to what in `stage`, how it looks in `screen` and `summary`, and whether it was good in `verdict`.
//! The program itself is `src/bin/demo.rs`.

mod explore;
mod privilege;
mod screen;
mod script;
mod stage;
mod summary;
mod verdict;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use crate::lab::{Agent, XdpMode};
use screen::{Screen, Tone};
use script::{Effect, STEPS, Step};
use stage::{Clients, Stage};
use verdict::Aside;

/// See Sluice at work: a node with four backends in network namespaces, real connections over IPv4 and IPv6, and
/// everything done to it that must not cost a connection.
///
/// Exit code 0: no connection was lost. 1: one was, or a change took too long. 2: the demo could not run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo --")]
pub struct Options {
    /// Leave everything running at the end and say how to explore it
    #[arg(long)]
    pub keep: bool,
    /// How XDP is used on the node's outward device, beside the tc and socket tiers
    #[arg(long, value_enum, default_value = "native")]
    pub xdp: XdpMode,
    /// New connections a second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(20..=20_000))]
    pub rate: u32,
    /// Seconds per step
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=60))]
    pub seconds: u32,
    /// Lines only, as when the output is not a terminal
    #[arg(long)]
    pub plain: bool,
}

/// Runs it all. `true` if every promise was kept.
pub fn run(options: &Options) -> Result<bool> {
    let begin = Instant::now();
    let mut screen = Screen::new(options.plain);
    let title = screen.paint(Tone::Strong, "Sluice demo");
    screen.say(&format!(
        "{title}: a client, a node and four backends in network namespaces. Ctrl-C ends it cleanly."
    ));
    privilege::become_root()?;
    // Known to be there before anything is built.
    let binary = Agent::binary()?;
    let (mut stage, mut clients) = prepare(&mut screen, options, &binary)?;
    let mut asides = Vec::new();
    for (number, step) in (1..).zip(STEPS) {
        asides.push(play(&mut screen, &mut stage, &mut clients, options, number, step)?);
    }
    let tables = summary::tables(&stage);
    let (reports, long_lived, udp) = clients.finish();
    let good = summary::tell(&mut screen, begin.elapsed(), &reports, &asides, &long_lived, &udp);
    if let Some(text) = tables {
        screen.say(&text);
    }
    if options.keep {
        explore::hold(&mut screen, &stage, &binary)?;
    } else {
        screen.say(&explore::next());
    }
    stage.strike().context("cleaning up after the demo")?;
    Ok(good)
}

fn prepare(screen: &mut Screen, options: &Options, binary: &std::path::Path) -> Result<(Stage, Clients)> {
    let start = Instant::now();
    let (lab, servers) = stage::build()?;
    let built = millis(start.elapsed());
    screen.say(&format!(
        "  {built:>8}  lab {}: HTTP and UDP servers on backend-1 … backend-4",
        lab.name()
    ));
    let mut stage = Stage::set(lab, servers, options)?;
    let ready = stage
        .agent
        .wait_ready()
        .with_context(|| format!("starting {}", binary.display()))?;
    let ready = millis(ready);
    screen.say(&format!(
        "  {ready:>8}  agent ready: the Services of examples/*.yaml are in the kernel's tables"
    ));
    let start = Instant::now();
    let clients = Clients::start(&stage, options, STEPS[0].phase())?;
    screen.say(&format!(
        "  {:>8}  client: {} new connections/s, {} long-lived ones, {} UDP sessions; half of each over IPv6",
        millis(start.elapsed()),
        options.rate,
        stage::LONG_LIVED,
        stage::UDP_SESSIONS,
    ));
    Ok((stage, clients))
}

/// Plays one step under load and says how it went.
fn play(
    screen: &mut Screen,
    stage: &mut Stage,
    clients: &mut Clients,
    options: &Options,
    number: usize,
    step: &Step,
) -> Result<Aside> {
    let title = screen.paint(Tone::Strong, step.title);
    screen.say(&format!("\n[{number}/{}] {title}: {}", STEPS.len(), step.why));
    screen.restart();
    let before = (clients.long_lived.report(), clients.udp.report());
    clients.long_lived.take_longest_pause();
    clients.load.window();
    clients.load.begin(step.phase());
    let start = Instant::now();
    stage
        .act(step.action)
        .with_context(|| format!("doing \"{}\"", step.title))?;
    let end = start + Duration::from_secs(options.seconds.into());
    let (mut next_frame, mut ready_after) = (start + screen.frame(), None);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
        if stage.agent.pid().is_some() && stage.agent.is_ready()? && ready_after.is_none() {
            ready_after = Some(start.elapsed());
        }
        if Instant::now() >= next_frame {
            next_frame += screen.frame();
            let left = end.saturating_duration_since(Instant::now());
            screen.show(
                clients.load.window(),
                &clients.long_lived.report(),
                &clients.udp.report(),
                left,
            );
        }
    }
    if stage.agent.pid().is_some() {
        stage.agent.wait_ready()?;
    }
    let now = (clients.long_lived.report(), clients.udp.report());
    let mut aside = Aside::between((&before.0, &before.1), (&now.0, &now.1));
    aside.stale = now.1.sessions.values().filter(|backend| step.has_left(backend)).count();
    aside.pause = clients.long_lived.take_longest_pause();
    if step.action == script::Action::RestartAgent {
        aside.ready_after = ready_after;
    }
    let report = clients.load.report();
    let found = verdict::complaints(step, &report, &aside);
    let mark = if found.is_empty() {
        screen.paint(Tone::Good, "✔")
    } else {
        screen.paint(Tone::Bad, "✘")
    };
    let [new, old] = summary::lines(step, &report, &aside);
    screen.say(&format!("  {mark} {new}\n    {old}"));
    for complaint in found {
        let complaint = screen.paint(Tone::Bad, &complaint);
        screen.say(&format!("    {complaint}"));
    }
    Ok(aside)
}

/// A time as people read it.
fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 1.0 {
        format!("{millis:.2} ms")
    } else if millis < 10.0 {
        format!("{millis:.1} ms")
    } else {
        format!("{millis:.0} ms")
    }
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// What there is to say about when a change could be seen.
fn effect_text(effect: Effect) -> Option<String> {
    match effect {
        Effect::None => None,
        Effect::After(time) => Some(format!("took effect after {}", millis(time))),
        Effect::Never => Some("never took effect".to_owned()),
    }
}
