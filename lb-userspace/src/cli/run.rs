//! `sluice run`: from arguments to the agent.

use std::{
    collections::BTreeSet,
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use lb_common::layout::limits::{FLOWS_DEFAULT, FLOWS_MIN};

use super::Place;
use crate::{
    agent::{AgentOptions, Mark, NodeOptions, ObserveOptions, Origin, SocketOptions, TunnelKind, run as run_agent},
    kernel::{SocketPolicy, XdpPolicy},
    model::{Cidr, Protocol},
    plan::{Detector, NodePortAddresses},
    source::kubernetes::Access,
};

/// Arguments of `sluice run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Take settings that neither flags nor environment variables give from a file
    ///
    /// A SluiceConfiguration, whose fields are these flags in camel case, or a KubeProxyConfiguration; see sluice config check.
    #[arg(long, value_name = "FILE", env = "SLUICE_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Print what all of this comes to, as a configuration file, and end
    #[arg(long)]
    pub(super) print_config: bool,
    /// Take Services and EndpointSlices from the YAML and JSON files of a directory, instead of from Kubernetes
    ///
    /// The directory is watched. A file that is broken is reported; what it said before stays in force.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// How to reach Kubernetes; without it, by the pod's service account
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Address of the API server, such as https://192.0.2.10:6443, in place of the configured one
    ///
    /// In a pod, that is the ClusterIP of the Service kubernetes: without kube-proxy nobody serves it until this agent has
    /// begun, so the agent needs the server's own address.
    #[arg(long, value_name = "URL", visible_alias = "master", env = "SLUICE_API_SERVER")]
    api_server: Option<String>,
    /// Name of this node: endpoints with this nodeName are local [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Outward devices, on which the XDP tier works [default: those with a default route]
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    outward_devices: Vec<String>,
    /// How the XDP tier is wanted on outward devices
    #[arg(long, value_enum, default_value_t = XdpPolicy::Auto)]
    xdp: XdpPolicy,
    /// Entries of each of the two flow tables (IPv4, IPv6); a connection takes two
    #[arg(long, value_name = "ENTRIES", default_value_t = FLOWS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(i64::from(FLOWS_MIN)..=1 << 26))]
    flows_max: u32,
    /// Decide and count, but leave new connections to netfilter, until sluice takeover
    ///
    /// For a node that kube-proxy serves. Without it a node is taken over as soon as all Services are in the tables; connections that
    /// netfilter has translated before go on either way.
    #[arg(long)]
    shadow: bool,
    /// If another agent serves this node, wait until it has ended and serve then, instead of ending with an error
    ///
    /// For a DaemonSet, whose next pod may begin before the last one has ended. While an agent waits it touches nothing.
    #[arg(long)]
    wait_for_predecessor: bool,
    #[command(flatten)]
    sockets: SocketArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    observe: ObserveArgs,
    /// How much to log: error, warn, info, debug, trace, or filters as of the tracing crate
    #[arg(long, value_name = "FILTER", default_value = "info", env = "SLUICE_LOG")]
    log: String,
    /// How to log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Which sockets are served where they are connected.
#[derive(Debug, Args)]
struct SocketArgs {
    /// How the socket tier is wanted: connections to Services get their endpoint when they are opened, and cost nothing from then on
    #[arg(long, value_enum, default_value_t = SocketPolicy::Auto)]
    socket_tier: SocketPolicy,
    /// The cgroup (version 2) whose processes are served [default: the root, if the agent is in the machine's own network namespace]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// In which network namespaces sockets are served; in others tc does it: where a sidecar or a policy must see service addresses
    #[arg(long, value_enum, default_value_t = SocketNamespaces::All)]
    socket_namespaces: SocketNamespaces,
    /// Leave sockets with this SO_MARK to tc
    #[arg(long, value_name = "MARK[/MASK]")]
    socket_leave_mark: Option<Mark>,
    /// Leave sockets of processes in this cgroup, and below, to tc; may be given more than once
    #[arg(long, value_name = "DIR")]
    socket_leave_cgroup: Vec<PathBuf>,
}

/// In which network namespaces sockets are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SocketNamespaces {
    /// In all
    All,
    /// In the host's own
    Host,
}

impl SocketArgs {
    fn options(&self) -> SocketOptions {
        SocketOptions {
            policy: self.socket_tier,
            cgroup: self.cgroup_root.clone(),
            host_only: self.socket_namespaces == SocketNamespaces::Host,
            leave_mark: self.socket_leave_mark,
            leave_cgroups: self.socket_leave_cgroup.clone(),
        }
    }
}

/// How the node takes part in proxying; named as kube-proxy's flags where it has them.
#[derive(Debug, Args)]
struct NodeArgs {
    /// Address of this node that stands for the Node object's of its family, for `primary` NodePort addresses and source ranges
    #[arg(long, value_name = "ADDRESS")]
    bind_address: Option<IpAddr>,
    /// How connections of pods are told from others: what is not a pod's is masqueraded on its way to a ClusterIP
    #[arg(long, value_enum, default_value_t = DetectLocalMode::ClusterCidr)]
    detect_local_mode: DetectLocalMode,
    /// Addresses of the cluster's pods, for --detect-local-mode cluster-cidr; the first of each family counts. Without one,
    /// nothing is told apart
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// The bridge of this node's pods, for --detect-local-mode bridge-interface
    #[arg(long, value_name = "DEVICE")]
    pod_bridge_interface: Option<String>,
    /// How names of this node's pod devices begin, for --detect-local-mode interface-name-prefix
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Masquerade every connection to a ClusterIP
    #[arg(long)]
    masquerade_all: bool,
    /// Addresses on which NodePorts are served: ranges, `primary`, `localhost`, `all`. A family without an entry is served on
    /// all. On 127.0.0.0/8 and ::1 they are served for this node's own processes
    #[arg(long, value_name = "LIST", default_value = "all")]
    nodeport_addresses: NodePortAddresses,
    /// Tell TCP clients by a reset when their endpoint is gone for good, unless the Service's annotation
    /// sluice.io/reset-removed says otherwise
    #[arg(long)]
    reset_removed: bool,
    /// Protocols of which an endpoint's node answers clients outside directly (direct server return), unless the Service's
    /// annotation sluice.io/forwarding says otherwise
    #[arg(long, value_name = "PROTOCOL", value_enum, value_delimiter = ',')]
    dsr: Vec<DsrProtocol>,
    /// How packets get to the node that answers directly
    #[arg(long, value_enum, default_value_t)]
    tunnel: TunnelKind,
}

/// A protocol of which clients may be answered directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DsrProtocol {
    Tcp,
    Udp,
    Sctp,
}

impl From<DsrProtocol> for Protocol {
    fn from(protocol: DsrProtocol) -> Self {
        match protocol {
            DsrProtocol::Tcp => Self::Tcp,
            DsrProtocol::Udp => Self::Udp,
            DsrProtocol::Sctp => Self::Sctp,
        }
    }
}

/// How pods are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DetectLocalMode {
    /// By source address in --cluster-cidr
    ClusterCidr,
    /// By source address in the Node object's pod ranges
    NodeCidr,
    /// By the bridge that packets come over
    BridgeInterface,
    /// By the name of the device that packets come from
    InterfaceNamePrefix,
}

impl NodeArgs {
    fn options(&self) -> Result<NodeOptions> {
        let needed = |given: &Option<String>, flag: &str, mode: &str| {
            let given = given.clone().filter(|text| !text.is_empty());
            given.with_context(|| format!("--detect-local-mode {mode} needs {flag}"))
        };
        let cidr = |text: &String| {
            Cidr::parse_leniently(text)
                .with_context(|| format!("--cluster-cidr {text}: not a range of addresses such as 10.244.0.0/16"))
        };
        let detector = match self.detect_local_mode {
            DetectLocalMode::ClusterCidr => {
                Detector::ClusterCidr(self.cluster_cidr.iter().map(cidr).collect::<Result<_>>()?)
            }
            DetectLocalMode::NodeCidr => Detector::NodeCidr,
            DetectLocalMode::BridgeInterface => {
                let device = needed(&self.pod_bridge_interface, "--pod-bridge-interface", "bridge-interface")?;
                Detector::BridgeInterface(device)
            }
            DetectLocalMode::InterfaceNamePrefix => {
                let (flag, mode) = ("--pod-interface-name-prefix", "interface-name-prefix");
                Detector::InterfaceNamePrefix(needed(&self.pod_interface_name_prefix, flag, mode)?)
            }
        };
        Ok(NodeOptions {
            bind_address: self.bind_address,
            detector,
            masquerade_all: self.masquerade_all,
            node_ports: self.nodeport_addresses.clone(),
            resets_removed: self.reset_removed,
            dsr_protocols: self.dsr.iter().copied().map(Into::into).collect(),
            tunnel: self.tunnel,
        })
    }
}

/// Where the agent is asked how it goes; named as kube-proxy's flags.
#[derive(Debug, Args)]
struct ObserveArgs {
    /// Where /healthz, /livez and /readyz are answered, for load balancers and probes; nowhere if it is empty
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    healthz_bind_address: String,
    /// Where /metrics is answered, for Prometheus; nowhere if it is empty
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    metrics_bind_address: String,
    /// End if one of these addresses cannot be listened on, instead of trying again every 5 s
    #[arg(long)]
    bind_address_hard_fail: bool,
}

impl ObserveArgs {
    fn options(&self) -> Result<ObserveOptions> {
        Ok(ObserveOptions {
            healthz: listen_address("--healthz-bind-address", &self.healthz_bind_address, 10_256)?,
            metrics: listen_address("--metrics-bind-address", &self.metrics_bind_address, 10_249)?,
            hard_fail: self.bind_address_hard_fail,
        })
    }
}

/// An address with a port, or with the usual one where none is written.
fn listen_address(flag: &str, text: &str, usual_port: u16) -> Result<Option<SocketAddr>> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(address, usual_port)));
    }
    let address = text
        .parse()
        .with_context(|| format!("{flag} {text}: not an address such as 0.0.0.0:{usual_port} or [::]:{usual_port}"))?;
    Ok(Some(address))
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl RunArgs {
    /// Whether it makes sense, on whatever machine.
    pub(super) fn check(&self) -> Result<()> {
        filter(&self.log)?;
        self.access().check()?;
        self.node.options()?;
        self.observe.options()?;
        Ok(())
    }

    fn access(&self) -> Access {
        Access {
            kubeconfig: self.kubeconfig.clone(),
            api_server: self.api_server.clone(),
        }
    }

    /// What the agent is told. Nothing is touched.
    fn options(&self, place: &Place) -> Result<AgentOptions> {
        self.check()?;
        let origin = match &self.manifests {
            Some(directory) if directory.is_dir() => Origin::Manifests(directory.clone()),
            Some(directory) => bail!(
                "--manifests {}: there is no such directory; make it, it may be empty",
                directory.display()
            ),
            None => Origin::Kubernetes(self.access()),
        };
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        Ok(AgentOptions {
            pins: place.pins(),
            waits_for_predecessor: self.wait_for_predecessor,
            run_dir: place.run_dir.clone(),
            node_name,
            origin,
            xdp: self.xdp,
            sockets: self.sockets.options(),
            outward_devices: BTreeSet::from_iter(self.outward_devices.iter().cloned()),
            flows_max: self.flows_max,
            shadow: self.shadow,
            node: self.node.options()?,
            observe: self.observe.options()?,
        })
    }
}

pub(super) fn run(place: &Place, args: RunArgs) -> Result<()> {
    let options = args.options(place)?;
    start_logging(&args.log, args.log_format)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(run_agent(options))
}

fn filter(filter: &str) -> Result<tracing_subscriber::EnvFilter> {
    tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter}: not a filter; try info, debug or lb_userspace=debug"))
}

fn start_logging(log: &str, format: LogFormat) -> Result<()> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(log)?)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

/// The host's name as kubelet registers it by default: in lower case.
fn host_name() -> Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name; give --node-name")?;
    Ok(name.trim().to_lowercase())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nowhere("", Some(None))]
    #[case::whole("0.0.0.0:10256", Some(Some("0.0.0.0:10256")))]
    #[case::another_port("127.0.0.1:9", Some(Some("127.0.0.1:9")))]
    #[case::without_port("192.0.2.1", Some(Some("192.0.2.1:10256")))]
    #[case::ipv6("[::]:9", Some(Some("[::]:9")))]
    #[case::ipv6_without_port("::", Some(Some("[::]:10256")))]
    #[case::ipv6_in_brackets("[::1]", Some(Some("[::1]:10256")))]
    #[case::name("localhost:9", None)]
    #[case::port_only(":9", None)]
    fn addresses_to_listen_on(#[case] text: &str, #[case] expected: Option<Option<&str>>) {
        let found = listen_address("--healthz-bind-address", text, 10_256);
        let found = found.ok().map(|address| address.map(|address| address.to_string()));
        assert_eq!(found.as_ref().map(Option::as_deref), expected);
    }
}
