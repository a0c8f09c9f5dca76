//! The thread on which programs are run: in a network namespace of its own, on one CPU, one job after the other.
//!
//! In that namespace the host forwards, and there is no route but to those in `hops`: so a look-up for a new route always has the
//! same result, whatever the machine's own routes are. One CPU, since counters and token buckets are kept by CPU.

use std::{
    fs::File,
    io::Read as _,
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity};

use super::KernelWorld;
use crate::packet::hops;

type Job = Box<dyn FnOnce(&Result<KernelSlot, String>) + Send>;

/// The world, lent to one job after the other.
type KernelSlot = std::cell::RefCell<KernelWorld>;

/// Runs a closure with the kernel world, which is as new: empty tables, nothing counted.
///
/// # Panics
/// If programs can't be loaded here: tests of packets in the kernel fail then, they are not left out.
pub fn in_kernel<T: Send + 'static>(work: impl FnOnce(&mut KernelWorld) -> Result<T> + Send + 'static) -> Result<T> {
    static JOBS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| Mutex::new(start()));
    let (answer, outcome) = channel();
    let job: Job = Box::new(move |world| {
        let result = match world {
            Ok(world) => catch_unwind(AssertUnwindSafe(|| {
                let mut world = world.borrow_mut();
                world.reset()?;
                work(&mut world)
            })),
            Err(why) => Ok(Err(anyhow::anyhow!(why.clone()))),
        };
        // Nobody waits any more when the test has been given up.
        let _ = answer.send(result);
    });
    {
        let jobs = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        jobs.send(job)
            .ok()
            .context("the thread that runs programs in the kernel has ended")?;
    }
    match outcome
        .recv()
        .context("the thread that runs programs in the kernel has ended")?
    {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

fn start() -> Sender<Job> {
    let (jobs, queue) = channel::<Job>();
    let run =
        move || {
            let world = enter().and_then(|()| KernelWorld::load()).map(KernelSlot::new).map_err(|error| {
            format!(
                "packets can't be run in the kernel here: {error:#}. These tests need root and a kernel with BTF; \
                 `cargo xtask test host` runs those that need neither"
            )
        });
            for job in queue {
                job(&world);
            }
        };
    let started = thread::Builder::new().name("kernel-world".to_owned()).spawn(run);
    assert!(started.is_ok(), "no thread can be started");
    jobs
}

/// Moves this thread into a network namespace of its own, onto one CPU.
///
/// # Errors
/// If this process isn't root.
pub fn enter() -> Result<()> {
    stay_on_one_cpu()?;
    let mut keeper = Keeper::start()?;
    let path = format!("/proc/{}/ns/net", keeper.child.id());
    let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("enter a network namespace of its own")?;
    keeper.end();
    for (path, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        let path = format!("/proc/sys/net/{path}");
        std::fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    hops::set_up()
}

/// Keeps this thread on the first CPU that it may use.
///
/// # Errors
/// If the kernel refuses.
pub fn stay_on_one_cpu() -> Result<()> {
    let allowed = sched_getaffinity(None).context("ask for this thread's CPUs")?;
    let first = (0..CpuSet::MAX_CPU)
        .find(|cpu| allowed.is_set(*cpu))
        .context("this thread has no CPU")?;
    let mut only = CpuSet::new();
    only.set(first);
    sched_setaffinity(None, &only).context("stay on one CPU")
}

/// A process that has made the namespace and keeps it until this thread has entered.
struct Keeper {
    child: Child,
}

impl Keeper {
    fn start() -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start `unshare` of util-linux")?;
        let mut ready = [0; 5];
        let said = child.stdout.as_mut().context("no pipe")?.read_exact(&mut ready);
        let keeper = Self { child };
        if said.is_err() {
            bail!("`unshare --net` makes no network namespace: this needs root (CAP_SYS_ADMIN)");
        }
        Ok(keeper)
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}
