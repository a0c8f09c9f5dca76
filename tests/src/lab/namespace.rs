//! One network namespace: how to run a closure, a thread or a process inside.
//!
//! A thread that has entered never comes back: it ends instead. So every closure gets a thread of its own, and the threads of the
//! test harness stay where they were. The mounts stay those of the test (`ip netns exec` would hide bpffs and the cgroups).

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its names.
pub(super) const DIRECTORY: &str = "/run/netns";

/// A named network namespace, and the cgroup that its threads and processes join.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    cgroup: Option<PathBuf>,
}

impl Namespace {
    /// Refers to a namespace that exists; those who enter it also join `cgroup`, if one is given.
    pub(super) fn new(name: String, cgroup: Option<PathBuf>) -> Self {
        Self { name, cgroup }
    }

    /// The name as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to give to `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs a closure inside, on a thread of its own, and waits for it. A panic in it goes on in the caller.
    ///
    /// # Panics
    /// When the namespace can't be entered: a test has nothing left to do then.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter().unwrap_or_else(|error| panic!("{error:#}"));
                work()
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread inside that goes on by itself. The name is what a debugger and `ps -L` show.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let (namespace, (ready, entered)) = (self.clone(), std::sync::mpsc::channel());
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let outcome = namespace.enter();
                let failed = outcome.is_err();
                drop(ready.send(outcome));
                if failed {
                    // The caller has the error; this ends the thread without a second report.
                    resume_unwind(Box::new("not in the namespace"));
                }
                work()
            })
            .with_context(|| format!("starting thread {name} for namespace {}", self.name))?;
        entered
            .recv()
            .with_context(|| format!("thread {name} ended before it was in {}", self.name))??;
        Ok(thread)
    }

    /// A command that runs inside: a plain `nsenter`, so its process id is that of the program itself.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let net = format!("--net={}", self.path().display());
        let mut command;
        if let Some(cgroup) = &self.cgroup {
            // The shell joins the cgroup, then becomes nsenter, then the program: one process all along.
            command = Command::new("/bin/sh");
            command.args([
                "-c",
                r#"echo $$ > "$1/cgroup.threads" && shift && exec nsenter "$@""#,
                "sh",
            ]);
            command.arg(cgroup).arg(net);
        } else {
            command = Command::new("nsenter");
            command.arg(net);
        }
        command.arg("--").arg(program);
        command
    }

    fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path).with_context(|| {
            format!(
                "opening network namespace {}: was the lab already removed?",
                path.display()
            )
        })?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).with_context(|| {
            format!(
                "entering network namespace {}: this needs root (CAP_SYS_ADMIN)",
                self.name
            )
        })?;
        if let Some(cgroup) = &self.cgroup {
            super::cgroup::join_thread(cgroup)?;
        }
        Ok(())
    }
}
