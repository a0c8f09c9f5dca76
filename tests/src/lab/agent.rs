//! The agent under test: `sluice run` in the node's namespace, and `sluice <command>` beside it.
//!
//! What it is told on its command line is the contract between the labs and the agent; what it then does is for the tests.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{Host, Lab, cleanup, exec, plan};

/// How long a polite stop may take before it counts as a hang.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How often readiness is looked at.
const POLL: Duration = Duration::from_millis(2);
/// Lines of the log that go into an error message.
const TAIL_LINES: usize = 25;

/// How the agent is to use XDP on the outward device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// Only the tc and socket tiers.
    #[default]
    Off,
    /// In the driver.
    Native,
    /// In the stack, after the driver.
    Generic,
}

impl XdpMode {
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Whose sockets the agent is to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketMode {
    /// Nobody's: everything is tc's.
    #[default]
    Off,
    /// Those of the lab's cgroup: the first node's and its pods'.
    OfLab,
    /// Of the cgroup that the words of `extra` name with `--cgroup-root`: never without.
    Told,
}

/// What to start the agent with.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// XDP on `eth0`.
    pub xdp: XdpMode,
    /// The socket tier.
    pub sockets: SocketMode,
    /// The folder with Services and EndpointSlices; `<lab>/manifests` unless told.
    pub manifests: Option<PathBuf>,
    /// The API server to follow, in place of a folder.
    pub api_server: Option<String>,
    /// More words for the command line of `sluice run`.
    pub extra: Vec<String>,
    /// For `wait_ready`.
    pub ready_within: Duration,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            xdp: XdpMode::Off,
            sockets: SocketMode::Off,
            manifests: None,
            api_server: None,
            extra: Vec::new(),
            ready_within: Duration::from_secs(20),
        }
    }
}

/// A started agent. Dropping it kills it and runs `sluice cleanup`.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    node: Host,
    lab_directory: PathBuf,
    run: PathBuf,
    log: PathBuf,
    pins: PathBuf,
    arguments: Vec<String>,
    ready_within: Duration,
    child: Option<Child>,
}

/// An agent that was started while another one runs, and waits for its end. Dropping it kills it.
#[derive(Debug)]
pub struct Successor(Option<Child>);

impl Agent {
    /// The program under test: `$SLUICE_BIN`, or the workspace's release build.
    pub fn binary() -> Result<PathBuf> {
        let path = match std::env::var_os("SLUICE_BIN") {
            Some(path) => PathBuf::from(path),
            None => match std::env::var_os("CARGO_TARGET_DIR") {
                Some(target) => PathBuf::from(target).join("release/sluice"),
                None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/sluice"),
            },
        };
        path.canonicalize().with_context(|| {
            format!(
                "no agent at {}; build it with `cargo xtask build`, or name one in SLUICE_BIN",
                path.display()
            )
        })
    }

    /// Starts the agent in the lab's (first) node. It is not ready yet: see [`Self::wait_ready`].
    pub fn start(lab: &Lab, options: &AgentOptions) -> Result<Self> {
        Self::start_on(lab, lab.node(), options)
    }

    /// Starts an agent in one of the lab's nodes, each with folders of its own but for the manifests.
    pub fn start_on(lab: &Lab, node: &Host, options: &AgentOptions) -> Result<Self> {
        let first = node.name == plan::NODE_NAME;
        let own = |name: &str| {
            if first {
                name.to_owned()
            } else {
                format!("{name}-{}", node.name)
            }
        };
        let pins = if first {
            lab.pin_directory()
        } else {
            cleanup::pin_directory_of(lab.name(), &node.name)
        };
        let lab_directory = lab.directory();
        let manifests = options
            .manifests
            .clone()
            .unwrap_or_else(|| lab_directory.join("manifests"));
        let run = lab_directory.join(own("run"));
        for folder in [&manifests, &run] {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(match &options.api_server {
            Some(url) => ["--api-server".to_owned(), url.clone()],
            None => ["--manifests".to_owned(), text(&manifests)],
        });
        arguments.extend(["--pin-dir".to_owned(), text(&pins)]);
        arguments.extend(["--run-dir".to_owned(), text(&run)]);
        arguments.extend(["--node-name", &node.name].map(str::to_owned));
        arguments.extend(["--outward-devices", "eth0"].map(str::to_owned));
        arguments.extend(["--xdp", options.xdp.word()].map(str::to_owned));
        // Never the machine's own root: it has everybody's processes.
        match options.sockets {
            SocketMode::Off => arguments.extend(["--socket-tier", "off"].map(str::to_owned)),
            SocketMode::OfLab => arguments.extend(["--cgroup-root".to_owned(), text(lab.cgroup()?)]),
            SocketMode::Told => {
                let is_named = options.extra.iter().any(|word| word == "--cgroup-root");
                ensure!(
                    is_named,
                    "without --cgroup-root an agent might take the machine's own root"
                );
            }
        }
        arguments.extend(options.extra.iter().cloned());
        let mut agent = Self {
            binary: Self::binary()?,
            node: node.clone(),
            pins,
            run,
            log: lab_directory.join(own("agent")).with_extension("log"),
            lab_directory,
            arguments,
            ready_within: options.ready_within,
            child: None,
        };
        agent.child = Some(agent.spawn([])?);
        Ok(agent)
    }

    /// Waits until the agent has written `"ready": true`, and says how long that took.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if self.is_ready()? {
                return Ok(start.elapsed());
            }
            if start.elapsed() > self.ready_within {
                bail!(
                    "the agent did not write `\"ready\": true` to {} within {:?}; its log says:\n{}",
                    self.state_file().display(),
                    self.ready_within,
                    self.log_tail()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether the agent has written `"ready": true` (what another process wrote doesn't count). An agent that has ended
    /// by itself is an error.
    pub fn is_ready(&mut self) -> Result<bool> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().context("looking after the agent")?
        {
            self.child = None;
            bail!(
                "the agent ended by itself ({status}); its log says:\n{}",
                self.log_tail()
            );
        }
        let is_own = |state: &serde_json::Value| self.pid().is_some_and(|pid| state["pid"] == pid);
        Ok(self.state().is_ok_and(|state| is_own(&state) && state["ready"] == true))
    }

    /// Kills the agent as the kernel's out-of-memory killer would, and waits until it is gone. What it pinned stays.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("killing the agent: it is not running")?;
        child.kill().context("killing the agent")?;
        child.wait().context("waiting for the killed agent")?;
        Ok(())
    }

    /// Asks the agent to end (SIGTERM), as the kubelet does, and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        let child = self.child.take().context("stopping the agent: it is not running")?;
        stop(child).with_context(|| format!("the log of the agent says:\n{}", self.log_tail()))
    }

    /// Starts it again with the same command line, after a polite stop if it still runs.
    pub fn restart(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.stop()?;
        }
        self.child = Some(self.spawn([])?);
        Ok(())
    }

    /// Starts another one with the same command line, which waits for this one to end. Its lines go to the same log.
    pub fn start_successor(&self) -> Result<Successor> {
        Ok(Successor(Some(self.spawn(["--wait-for-predecessor"])?)))
    }

    /// From now on this is the other one: it has ended itself.
    pub fn give_way_to(&mut self, mut successor: Successor) {
        assert!(self.child.is_none(), "an agent that runs gives way to nobody");
        self.child = successor.0.take();
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Runs another command of the same binary against the same pins, and returns what it printed.
    pub fn cli<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut command = self.node.command(&self.binary);
        command.args(arguments).args(self.places());
        exec::output(&mut command)
    }

    /// As [`Self::cli`], for commands that print JSON.
    pub fn cli_json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<serde_json::Value> {
        let text = self.cli(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("expected JSON from sluice, got: {text}"))
    }

    /// What `state.json` says now.
    pub fn state(&self) -> Result<serde_json::Value> {
        let path = self.state_file();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON: {text}", path.display()))
    }

    /// Where the agent's output goes, all its lives in one file.
    pub fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// The last lines of the log, indented for a message.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        if lines.is_empty() {
            return "  (nothing)".to_owned();
        }
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        tail.iter()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// `--pin-dir … --run-dir …`: what every command of the binary needs to find this agent.
    pub fn places(&self) -> [String; 4] {
        [
            "--pin-dir".to_owned(),
            self.pins.display().to_string(),
            "--run-dir".to_owned(),
            self.run.display().to_string(),
        ]
    }

    fn spawn<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Result<Child> {
        let path = self.log_file();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening the agent's log {}", path.display()))?;
        let mut command = self.node.command(&self.binary);
        command
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::null())
            // Ctrl-C is for the test, which then ends the agent.
            .process_group(0)
            .stdout(log.try_clone().context("sharing the agent's log")?)
            .stderr(log);
        command
            .spawn()
            .with_context(|| format!("starting {} in {}", self.binary.display(), self.node.name))
    }

    fn state_file(&self) -> PathBuf {
        self.run.join("state.json")
    }
}

impl Successor {
    /// Whether it is still there.
    pub fn is_running(&mut self) -> Result<bool> {
        let child = self.0.as_mut().context("it has taken over")?;
        Ok(child.try_wait().context("looking after the successor")?.is_none())
    }

    /// Asks it to end (SIGTERM), and waits for it.
    pub fn stop(mut self) -> Result<()> {
        stop(self.0.take().context("it has taken over")?)
    }
}

/// Sends SIGTERM, and waits for an end without complaint.
fn stop(mut child: Child) -> Result<()> {
    kill_process(Pid::from_child(&child), Signal::TERM).context("sending SIGTERM to the agent")?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting for the agent to end")? {
            ensure!(status.success(), "the agent answered SIGTERM with {status}");
            return Ok(());
        }
        if start.elapsed() > STOP_WAIT {
            child.kill().context("killing the agent that did not stop")?;
            child.wait().context("waiting for the killed agent")?;
            bail!("the agent was still there {STOP_WAIT:?} after SIGTERM");
        }
        std::thread::sleep(POLL);
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Of one that has ended by itself there is nothing to kill.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After an interrupt everything is being removed already: this waits for the end of the process.
        drop(cleanup::lock());
        if std::thread::panicking() {
            eprintln!("the log of the agent of {} says:\n{}", self.node.name, self.log_tail());
        }
        if self.child.is_some()
            && let Err(error) = self.kill9()
        {
            eprintln!("{error:#}");
        }
        // A lab that was removed first has taken the pins with it.
        if self.lab_directory.exists()
            && let Err(error) = self.cli(["cleanup"])
        {
            eprintln!("after the agent: {error:#}");
        }
    }
}
