//! The state file: what the agent says of itself, for `sluice status` and for people. Written whole after every change
//! (a new file, renamed into place), so that a reader never sees half of it, and left behind when the agent dies.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{netfilter::NetfilterState, sockets::SocketState, sysctl::ChangedSetting, truth::Truth};

/// What the agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Unix time of its start, in seconds.
    pub started_s: u64,
    /// Both initial lists have come and are in the tables.
    pub ready: bool,
    /// Unix time of the last change that was brought into the tables, in seconds; 0 if none was.
    pub last_sync_s: u64,
    /// How long the last sync took, in microseconds.
    pub last_sync_us: u64,
    /// Changes that were received.
    pub changes_total: u64,
    /// Services in the model.
    pub services: usize,
    /// Where objects come from.
    pub source: String,
    /// Unix time since when that has not been heard of, in seconds, while it should be; 0 if it has.
    #[serde(default)]
    pub source_away_since_s: u64,
    /// Complaints about objects and files.
    pub source_problems: Vec<String>,
    /// What of Services and slices is not served as written, with the reason.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Ports that aren't in the tables as they should be, with the reason.
    pub port_problems: Vec<String>,
    /// What the datapath does not know of the node as it should, with the reason.
    #[serde(default)]
    pub node_problems: Vec<String>,
    /// Most source ports that one address of this node has in use towards one endpoint, at the last sweep.
    #[serde(default)]
    pub source_ports_used_max: usize,
    /// Services with an open health port.
    #[serde(default)]
    pub health_ports: usize,
    /// Health ports, and addresses for probes and metrics, that cannot be listened on, with the reason.
    #[serde(default)]
    pub health_problems: Vec<String>,
    /// Whether the tables hold what they should.
    #[serde(default)]
    pub truth: Truth,
    /// Devices with what is attached.
    pub devices: Vec<DeviceState>,
    /// What netfilter has of the Services of this node.
    #[serde(default)]
    pub netfilter: NetfilterState,
    /// What came of the socket tier.
    #[serde(default)]
    pub sockets: SocketState,
    /// Kernel settings that were changed, by this agent or one before it; `sluice cleanup` puts them back.
    #[serde(default)]
    pub settings_changed: Vec<ChangedSetting>,
    /// Flow entries at the last sweep, IPv4 and IPv6.
    pub flow_entries: [usize; 2],
    /// Flow entries that sweeps have ended, since the start.
    pub flows_ended_total: u64,
}

/// A device with what is attached to it, and what the kernel says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What drives it: the driver of a card, or the kind of a virtual device.
    #[serde(default)]
    pub driver: Option<String>,
    /// Its MTU in octets.
    #[serde(default)]
    pub mtu: u32,
    /// It leads out of the node: XDP is wanted there.
    #[serde(default)]
    pub is_outward: bool,
    /// `attached`, or why not.
    pub tc: String,
    /// `native`, `generic`, or why not.
    pub xdp: String,
    /// Why it is not native, if it is generic.
    #[serde(default)]
    pub xdp_generic_because: Option<String>,
    /// Whether XDP may send out of it: `yes`, or why not.
    #[serde(default)]
    pub xdp_transmit: String,
    /// Its VLAN devices with their tags, from the outside in, as XDP knows them.
    #[serde(default)]
    pub vlans: Vec<String>,
}

/// Unix time in seconds.
#[must_use]
pub fn unix_now_s() -> u64 {
    unix_s(SystemTime::now())
}

/// A time as Unix time in seconds.
#[must_use]
pub fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Path of the state file in a run folder.
#[must_use]
pub fn state_file(run_dir: &Path) -> PathBuf {
    run_dir.join("state.json")
}

impl State {
    /// Notes settings that were changed, and what they were before the first change of each.
    pub fn note_settings(&mut self, changed: impl IntoIterator<Item = ChangedSetting>) {
        for setting in changed {
            let is_known = self.settings_changed.iter().any(|earlier| earlier.file == setting.file);
            if !is_known {
                self.settings_changed.push(setting);
            }
        }
    }

    /// Writes the state.
    ///
    /// # Errors
    /// If the folder can't be made or written to.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        fs::create_dir_all(run_dir)?;
        let unfinished = run_dir.join("state.json.new");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        fs::rename(unfinished, state_file(run_dir))
    }

    /// Reads the state that an agent has left; nothing if there is none.
    ///
    /// # Errors
    /// If it can't be read or is no state.
    pub fn read(run_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(state_file(run_dir)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_absence_is_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(State::read(folder.path()).expect("readable"), None);
        let state = State {
            ready: true,
            services: 3,
            ..State::default()
        };
        state.write(folder.path()).expect("writable");
        assert_eq!(State::read(folder.path()).expect("readable"), Some(state));
    }
}
