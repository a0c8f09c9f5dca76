//! One lab: a client that sends and counts, and a node that sends back by Sluice or by the MAC swap.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode as AttachMode},
};
use lb_common::layout::{Counter, DropReason};
use lb_userspace::{kernel::Pins, tables::Stats};
use rustix::net::netdevice::name_to_index;
use serde_json::json;

use super::{
    super::{object, there},
    frames::{BACKENDS, FRAME_LEN, Frame, Kind, Leg, PORT, TARGET_PORT, VIPS, mac, net, number, swapped, tuple},
};
use crate::{
    lab::{Agent, AgentOptions, Lab, XdpMode, plan},
    packet::kernel::stay_on_one_cpu,
    traffic::manifests::{Endpoint, ManifestFolder, Service},
};

/// Frames that the kernel sends in one go.
const BATCH: u32 = 64;
/// Frames that `count` has room for.
const KEPT_MAX: u32 = 1 << 14;
/// While rates are measured, one in so many is kept.
const KEPT_EVERY: u32 = 1 << 10;
/// How long frames may take that have to come.
const ARRIVE_MAX: Duration = Duration::from_millis(100);
/// A frame may find a full ring: so often it is sent.
const TRIES_MAX: u32 = 100;
/// Of 1 000 frames, so many may be something else: the node has its own words to say (ICMP, neighbour discovery).
const OTHERS_MAX: u64 = 1;
/// Of 1 000 frames, so many have to have been sent on by XDP: a few may be left to the stack, as one in 65 536 for its checksum.
const BY_XDP_MIN: u64 = 990;

/// What sends back.
enum Balancer {
    Sluice { _agent: Box<Agent>, stats: Stats },
    Swap { _programs: Ebpf },
}

/// See above.
pub(super) struct Rig {
    // Dropped in this order: the agent cleans up while its lab is still there.
    balancer: Balancer,
    programs: Ebpf,
    frames: Array<MapData, Frame>,
    cursor: Array<MapData, [u32; 3]>,
    expected: Array<MapData, [u8; 16]>,
    counts: PerCpuArray<MapData, [u64; 2]>,
    kept: PerCpuArray<MapData, Frame>,
    /// What may come back of the frames that are measured.
    known: HashSet<Frame>,
    expected_now: [u8; 16],
    frame_count: u32,
    /// Index of the client's device.
    device: u32,
    lab: Lab,
}

/// What has come back so far: frames as they have to look, and all others, by CPU. As a rule all come in on one; but who finds a
/// device's queue being emptied elsewhere leaves his frames to that CPU.
struct Counted(Vec<[u64; 2]>);

impl Counted {
    fn right(&self) -> u64 {
        self.0.iter().map(|[right, _]| right).sum()
    }

    fn other(&self) -> u64 {
        self.0.iter().map(|[_, other]| other).sum()
    }
}

impl Rig {
    /// A node with an agent, and a Service whose backends are elsewhere.
    pub(super) fn sluice() -> Result<Self> {
        let lab = Lab::one_node().backends(1).build()?;
        ManifestFolder::of(&lab)?.apply(&service()?)?;
        let options = AgentOptions {
            xdp: XdpMode::Native,
            extra: vec![
                "--cluster-cidr".to_owned(),
                [plan::ALL_PODS_V4, plan::ALL_PODS_V6].join(","),
            ],
            ..AgentOptions::default()
        };
        let mut agent = Agent::start(&lab, &options)?;
        agent.wait_ready()?;
        let maps = Pins::new(lab.pin_directory()).maps();
        let stats = Stats::open(|name| {
            let data = MapData::from_pin(maps.join(name)).with_context(|| format!("open the pinned map {name}"))?;
            Ok(Map::from_map_data(data)?)
        })?;
        Self::new(
            lab,
            Balancer::Sluice {
                _agent: Box::new(agent),
                stats,
            },
        )
    }

    /// The same node with the MAC swap.
    pub(super) fn swap() -> Result<Self> {
        let lab = Lab::one_node().backends(1).build()?;
        let mut programs = load()?;
        lab.node().run(|| attach(&mut programs, "swap"))?;
        Self::new(lab, Balancer::Swap { _programs: programs })
    }

    fn new(lab: Lab, balancer: Balancer) -> Result<Self> {
        let mut programs = load()?;
        xdp(&mut programs, "send")?.load().context("the kernel refused send")?;
        let device = lab.client().run(|| -> Result<u32> {
            attach(&mut programs, "count")?;
            Ok(name_to_index(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, "eth0")?)
        })?;
        let mut take = |name: &str| there(programs.take_map(name), name);
        Ok(Self {
            frames: Array::try_from(take("FWD_FRAMES")?)?,
            cursor: Array::try_from(take("FWD_CURSOR")?)?,
            expected: Array::try_from(take("FWD_EXPECTED")?)?,
            counts: PerCpuArray::try_from(take("FWD_COUNTS")?)?,
            kept: PerCpuArray::try_from(take("FWD_KEPT")?)?,
            balancer,
            programs,
            known: HashSet::new(),
            expected_now: [0; 16],
            frame_count: 0,
            device,
            lab,
        })
    }

    /// Sends each frame until it has come back, checks what has become of it, and returns what came, a frame of each flow.
    pub(super) fn pass(&mut self, kind: Kind, leg: Leg, frames: &[Frame]) -> Result<Vec<Frame>> {
        let first = frames.first().context("frames to send")?;
        let toward = match &self.balancer {
            Balancer::Sluice { .. } => leg.toward(kind.version)?,
            Balancer::Swap { .. } => tuple(first)?.dst,
        };
        self.expect(toward, 1)?;
        let (mut missing, mut back) = (frames.to_vec(), BTreeMap::new());
        for _ in 0..TRIES_MAX {
            for (sent, came) in self.pass_once(&missing)? {
                match &self.balancer {
                    Balancer::Sluice { .. } => leg.check(&came)?,
                    Balancer::Swap { .. } => ensure!(came == swapped(&sent), "a frame was changed: {came:02x?}"),
                }
                back.insert(number(&came), came);
            }
            missing.retain(|frame| !back.contains_key(&number(frame)));
            if missing.is_empty() {
                return Ok(back.into_values().collect());
            }
        }
        let (missing, sent, other) = (missing.len(), frames.len(), self.counted()?.other());
        bail!("{missing} of {sent} {leg}s did not come back, however often they were sent ({other} other frames did)")
    }

    /// Sends each frame once, and returns those that came back, behind what was sent.
    fn pass_once(&mut self, frames: &[Frame]) -> Result<Vec<(Frame, Frame)>> {
        self.put(frames)?;
        let before = self.counted()?;
        self.send(self.frame_count)?;
        let (start, mut now) = (Instant::now(), self.counted()?);
        while now.right() - before.right() < frames.len() as u64 && start.elapsed() < ARRIVE_MAX {
            thread::sleep(Duration::from_millis(1));
            now = self.counted()?;
        }
        let sent: HashMap<_, _> = frames.iter().map(|frame| (number(frame), *frame)).collect();
        let pair = |came: Frame| {
            let sent = sent.get(&number(&came));
            Ok((*there(sent, "the flow of a frame that came back")?, came))
        };
        self.kept_between(&before, &now, 1)?.into_iter().map(pair).collect()
    }

    /// Gets ready to send these frames again and again. Each passes once, to see that all come back as they should.
    pub(super) fn prepare(&mut self, kind: Kind, leg: Leg, frames: &[Frame]) -> Result<()> {
        let before = self.opened_and_dropped()?;
        self.known = self.pass(kind, leg, frames)?.into_iter().collect();
        ensure!(
            self.opened_and_dropped()? == before,
            "packets of established flows opened others, or were dropped"
        );
        self.put(frames)?;
        self.expected_now[12..].copy_from_slice(&(KEPT_EVERY - 1).to_ne_bytes());
        Ok(self.expected.set(0, self.expected_now, 0)?)
    }

    /// Sends so many frames, and returns how many came back per second, by XDP.
    pub(super) fn round(&mut self, frames: u32) -> Result<f64> {
        let (before, counted, by_xdp) = (self.opened_and_dropped()?, self.counted()?, self.by_xdp()?);
        let time = self.send(frames)?;
        let now = self.counted()?;
        let (right, other) = (now.right() - counted.right(), now.other() - counted.other());
        ensure!(
            other * 1_000 <= right * OTHERS_MAX + 1_000,
            "{other} frames came back that go somewhere else, beside {right} right ones"
        );
        ensure!(
            self.opened_and_dropped()? == before,
            "packets of established flows opened others, or were dropped"
        );
        let by_xdp = self.by_xdp()? - by_xdp;
        ensure!(
            by_xdp * 1_000 >= right * BY_XDP_MIN,
            "frames were not forwarded by XDP: {right} came back as they should, but only {by_xdp} of them from the driver"
        );
        let kept = self.kept_between(&counted, &now, KEPT_EVERY)?;
        ensure!(
            kept.iter().all(|frame| self.known.contains(frame)),
            "a frame came back otherwise than before"
        );
        Ok(right as f64 / time.as_secs_f64())
    }

    /// The frames to come, the first of them first.
    fn put(&mut self, frames: &[Frame]) -> Result<()> {
        self.frame_count = frames.len() as u32;
        ensure!(
            (1..KEPT_MAX).contains(&self.frame_count),
            "{} frames don't fit",
            frames.len()
        );
        for (place, frame) in (0..).zip(frames) {
            self.frames.set(place, frame, 0)?;
        }
        Ok(self.cursor.set(0, [0, self.frame_count, self.device], 0)?)
    }

    /// Tells `count` where frames go that are right, and to keep one in so many.
    fn expect(&mut self, toward: IpAddr, kept_every: u32) -> Result<()> {
        self.expected_now[..6].copy_from_slice(&mac(plan::CLIENT_MAC)?);
        self.expected_now[8..12].copy_from_slice(&net(toward));
        self.expected_now[12..].copy_from_slice(&(kept_every - 1).to_ne_bytes());
        Ok(self.expected.set(0, self.expected_now, 0)?)
    }

    /// Sends frames, the next ones of the list. Sender, both programs and `count` share a CPU.
    fn send(&mut self, frames: u32) -> Result<Duration> {
        let program = xdp(&mut self.programs, "send")?;
        self.lab.client().run(|| {
            stay_on_one_cpu()?;
            let mut options = TestRunOptions::new();
            options.data_in = Some(&[0; FRAME_LEN]);
            options.repeat = frames;
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            let start = Instant::now();
            program
                .test_run(options)
                .context("send live frames (Linux 5.18 or newer)")?;
            Ok(start.elapsed())
        })
    }

    fn counted(&self) -> Result<Counted> {
        Ok(Counted(self.counts.get(&0, 0)?.to_vec()))
    }

    /// The frames that were kept between two counts, one in so many.
    fn kept_between(&self, before: &Counted, now: &Counted, every: u32) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        for (cpu, ([before, _], [now, _])) in before.0.iter().zip(&now.0).enumerate() {
            for number in (before.next_multiple_of(every.into())..*now).step_by(every as usize) {
                let place = (number % u64::from(KEPT_MAX)) as u32;
                frames.push(self.kept.get(&place, 0)?[cpu]);
            }
        }
        Ok(frames)
    }

    /// Frames that XDP has sent out of the node's device or to it, as the driver counts them.
    fn by_xdp(&self) -> Result<u64> {
        let counters = self.lab.node().driver_counters("eth0")?;
        let sent = counters
            .iter()
            .filter(|(name, _)| name.ends_with("xdp_tx") || name.ends_with("xdp_redirect"));
        Ok(sent.map(|(_, count)| count).sum())
    }

    /// Flows opened and packets dropped by Sluice.
    fn opened_and_dropped(&self) -> Result<(u64, u64)> {
        let Balancer::Sluice { stats, .. } = &self.balancer else {
            return Ok((0, 0));
        };
        let drops = DropReason::ALL.into_iter().map(|reason| stats.drops(reason));
        Ok((stats.counter(Counter::FlowsCreated)?, drops.sum::<Result<_>>()?))
    }
}

/// A Service of both protocols and families at a load-balancer address, which masquerades.
fn service() -> Result<Service> {
    let addresses = ["10.96.0.80", "fd00:10:96::80"].map(|text| text.parse().context("an address"));
    let mut service = Service::new("web", addresses.into_iter().collect::<Result<Vec<IpAddr>>>()?)
        .port("TCP", PORT, TARGET_PORT)
        .port("UDP", PORT, TARGET_PORT)
        .with_spec(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}));
    service.status = json!({"loadBalancer": {"ingress": VIPS.map(|vip| json!({"ip": vip}))}});
    for backend in BACKENDS {
        service.endpoints.push(Endpoint::local(backend.parse::<IpAddr>()?));
    }
    Ok(service)
}

fn load() -> Result<Ebpf> {
    let path = object("forward")?;
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ebpf::load(&bytes).with_context(|| format!("load {}", path.display()))
}

/// Attaches a program to `eth0` of the calling thread's network.
fn attach(programs: &mut Ebpf, name: &str) -> Result<()> {
    let program = xdp(programs, name)?;
    program.load().with_context(|| format!("the kernel refused {name}"))?;
    let attached = program.attach("eth0", AttachMode::Driver);
    attached.map(drop).with_context(|| format!("attach {name} to eth0"))
}

fn xdp<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(there(programs.program_mut(name), name)?.try_into()?)
}
