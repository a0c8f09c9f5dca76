//! Where to look next, and `--keep`: the lab stays until the person is done with it.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use anyhow::Result;

use super::screen::{Screen, Tone};
use super::stage::{DNS, Stage, WEB};

/// What to do after a demo that has cleaned up.
pub(super) fn next() -> String {
    [
        "\nLook next",
        "  cargo xtask demo -- --keep             the same, and all of it stays for you to explore",
        "  cargo xtask demo -- --help             other rates, steps and ways to use XDP",
        "  sluice get frontends                   what is served, read from the kernel's own tables",
        "  bpftool map dump name LB4_FRONTENDS    the same, raw",
        "  examples/*.yaml                        the Services of this demo, with explanations",
        "  docs/                                  how a packet walks, the maps, the drop reasons",
    ]
    .join("\n")
}

/// Says how to explore, and waits for Enter (or, without a terminal, for a signal).
pub(super) fn hold(screen: &mut Screen, stage: &Stage, binary: &Path) -> Result<()> {
    let path = |role: &str| format!("nsenter --net=/run/netns/{}-{role}", stage.lab.name());
    let (client, node) = (path("client"), path("node"));
    let places = stage.agent.places().join(" ");
    let sluice = format!("{node} {}", binary.display());
    let title = screen.paint(
        Tone::Strong,
        "Explore, as root, in another terminal (all of it still runs)",
    );
    let rows = [
        (
            "ask the Service, IPv4",
            format!("{client} curl -s http://{}/whoami", WEB[0]),
        ),
        (
            "ask the Service, IPv6",
            format!("{client} curl -s 'http://{}/whoami'", WEB[1]),
        ),
        (
            "ten times, who answers",
            format!(
                "for i in 1 2 3 4 5 6 7 8 9 10; do {client} curl -s http://{}/; done",
                WEB[0]
            ),
        ),
        (
            "ask over UDP",
            format!(
                "{client} bash -c 'exec 3<>/dev/udp/{}; echo hello >&3; head -1 <&3'",
                DNS[0].replace(':', "/")
            ),
        ),
        ("what is served", format!("{sluice} get frontends {places}")),
        ("how the agent is", format!("{sluice} status {places}")),
        ("the kernel's table", "bpftool map dump name LB4_FRONTENDS".to_owned()),
        ("packets on the wire", format!("{node} tcpdump -ni eth0")),
        (
            "the agent's log",
            format!("tail -f {}", stage.agent.log_file().display()),
        ),
        ("change it", format!("$EDITOR {}/web.yaml", stage.manifests().display())),
    ];
    let rows: Vec<_> = rows
        .iter()
        .map(|(what, command)| format!("  # {what}\n  {command}"))
        .collect();
    screen.say(&format!("\n{title}\n{}\n", rows.join("\n")));
    if std::io::stdin().is_terminal() {
        screen.say("Enter (or Ctrl-C) ends it and removes everything.");
        std::io::stdin().lock().read_line(&mut String::new())?;
    } else {
        screen.say("Ctrl-C (SIGINT) ends it and removes everything.");
        loop {
            std::thread::park();
        }
    }
    Ok(())
}
