//! Runs the system's own tools (`ip`, `ethtool`, `nsenter`) and turns a failure into a sentence that says what was run, on what,
//! and what the tool answered.
//!
//! What the tools are asked to do is said in the topology files; processes that keep running (agent, capture) are elsewhere.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Debian's package for each tool that a lab needs, for the advice in error messages.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
];

/// Runs a command to its end and returns what it wrote to standard output.
pub(super) fn output(command: &mut Command) -> Result<String> {
    finish(command, None)
}

/// Runs `ip -batch -` in a namespace (or in the current one): one process for a whole list of changes or questions. Returns what
/// it printed.
pub(super) fn ip_batch(namespace: Option<&str>, lines: &str) -> Result<String> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]);
    finish(&mut command, Some(lines)).with_context(|| {
        format!(
            "setting up {} with these `ip` commands:\n{lines}",
            namespace.unwrap_or("the namespaces")
        )
    })
}

/// Answers with the parsed output of `ip -json …` in a namespace.
pub(super) fn ip_json(
    namespace: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<serde_json::Value> {
    let text = output(Command::new("ip").args(["-n", namespace, "-json"]).args(arguments))?;
    // `ip -json` prints nothing at all for an empty list.
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("`ip -json` in {namespace} printed something that is not JSON"))
}

/// The message for a tool that is not installed.
pub(super) fn missing(tool: &str) -> String {
    match PACKAGES.iter().find(|(name, _)| *name == tool) {
        Some((_, package)) => {
            format!("`{tool}` is not installed; get it with: apt-get install {package}")
        }
        None => format!("`{tool}` could not be run; is it installed and in PATH?"),
    }
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let line = describe(command);
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| missing(&command.get_program().to_string_lossy()))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A tool that stops reading early has failed: its own message is the better one, so a broken pipe is left to it.
        drop(pipe.write_all(text.as_bytes()));
    }
    let result = child
        .wait_with_output()
        .with_context(|| format!("waiting for `{line}`"))?;
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        bail!("`{line}` failed ({}): {}", result.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}
