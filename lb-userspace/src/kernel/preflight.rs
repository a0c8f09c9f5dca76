//! What the datapath needs of a machine, and what to do where it is missing: `sluice doctor`, and the check before
//! the agent starts.

use std::{fs, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::{cgroup::cgroup_root, pins::is_bpf_file_system};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Works, with a limit.
    Limited,
    /// The agent can't run.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(subject: &str, level: Level, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            level,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// Oldest kernel with all that the tc tier needs (ring buffer 5.8, `bpf_redirect_neigh` 5.10); TCX links are 6.6.
const KERNEL_MIN: (u32, u32) = (6, 6);

/// Looks at kernel, capabilities and file systems. Changes nothing.
#[must_use]
pub fn preflight(pin_dir: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel_version(), capabilities(), bpf_file_system(pin_dir)];
    findings.extend(kernel_features());
    findings.push(cgroups());
    findings
}

fn cgroups() -> Finding {
    match cgroup_root() {
        Ok(root) => Finding::new("root of the cgroups", Level::Good, root.display().to_string(), ""),
        Err(error) => Finding::new(
            "root of the cgroups",
            Level::Limited,
            "sockets are not served, tc does all the work",
            format!("{error:#}"),
        ),
    }
}

fn kernel_version() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    judge_release(release)
}

fn judge_release(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return Finding::new("kernel", Level::Good, release, "");
    }
    let (major, minor) = KERNEL_MIN;
    Finding::new(
        "kernel",
        Level::Missing,
        release,
        format!("Sluice attaches its tc programs by TCX links, which need Linux {major}.{minor}: boot a newer kernel"),
    )
}

fn capabilities() -> Finding {
    const NET_ADMIN: u32 = 12;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    let missing: Vec<&str> = [(NET_ADMIN, "CAP_NET_ADMIN"), (BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")]
        .into_iter()
        // CAP_SYS_ADMIN stood for the newer two before Linux 5.8, and still does.
        .filter(|&(capability, _)| !has(capability) && (capability == NET_ADMIN || !has(SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Finding::new("capabilities", Level::Good, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON", "")
    } else {
        Finding::new(
            "capabilities",
            Level::Missing,
            format!("without {}", missing.join(", ")),
            "Run as root, or grant them: in a DaemonSet by securityContext.capabilities.add",
        )
    }
}

fn bpf_file_system(pin_dir: &Path) -> Finding {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !is_bpf_file_system(existing) {
        let mountable = pin_dir.starts_with("/sys/fs/bpf") && Path::new("/sys/fs/bpf").exists();
        return if mountable {
            Finding::new(
                "BPF file system",
                Level::Limited,
                "not mounted",
                "The agent mounts it when it starts as root",
            )
        } else {
            Finding::new(
                "BPF file system",
                Level::Missing,
                format!("{} is not on one", pin_dir.display()),
                "Choose a --pin-dir below /sys/fs/bpf, or mount one there: mount -t bpf bpf DIR",
            )
        };
    }
    let read_only =
        rustix::fs::statvfs(existing).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    if read_only {
        return Finding::new(
            "BPF file system",
            Level::Missing,
            format!("{} is read-only", existing.display()),
            "Remount it writable: mount -o remount,rw /sys/fs/bpf",
        );
    }
    Finding::new("BPF file system", Level::Good, existing.display().to_string(), "")
}

fn kernel_features() -> Vec<Finding> {
    let supported = |subject: &str, probe: Result<bool, String>, since: &str| match probe {
        Ok(true) => Finding::new(subject, Level::Good, "there", ""),
        Ok(false) => Finding::new(
            subject,
            Level::Missing,
            "not in this kernel",
            format!("Needs Linux {since}"),
        ),
        Err(error) => Finding::new(
            subject,
            Level::Limited,
            format!("could not be probed: {error}"),
            "Run as root",
        ),
    };
    let program = |kind| is_program_supported(kind).map_err(|error| error.to_string());
    let map = |kind| is_map_supported(kind).map_err(|error| error.to_string());
    let helper = |helper| is_helper_supported(ProgramType::SchedClassifier, helper).map_err(|error| error.to_string());
    let mut findings = vec![
        supported("tc programs", program(ProgramType::SchedClassifier), "4.1"),
        supported("XDP programs", program(ProgramType::Xdp), "4.8"),
        supported("ring buffer", map(MapType::RingBuf), "5.8"),
        supported("LRU hash tables", map(MapType::LruHash), "4.10"),
        supported("bpf_redirect_neigh", helper(BpfHelper::BPF_FUNC_redirect_neigh), "5.10"),
    ];
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    findings.push(if btf {
        Finding::new("kernel type information (BTF)", Level::Good, "there", "")
    } else {
        Finding::new(
            "kernel type information (BTF)",
            Level::Limited,
            "/sys/kernel/btf/vmlinux is not there",
            "Tables show no field names in bpftool; build the kernel with CONFIG_DEBUG_INFO_BTF",
        )
    });
    findings
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::newer("6.18.44-fc-v782", Level::Good)]
    #[case::just_enough("6.6.0", Level::Good)]
    #[case::too_old("5.10.0-28-amd64", Level::Missing)]
    #[case::too_old_by_the_minor("6.5.13", Level::Missing)]
    #[case::nonsense("custom", Level::Missing)]
    fn a_kernel_is_judged_by_its_version(#[case] release: &str, #[case] expected: Level) {
        let finding = judge_release(release);
        assert_eq!(finding.level, expected);
        assert_eq!(finding.remedy.is_empty(), expected == Level::Good);
    }
}
