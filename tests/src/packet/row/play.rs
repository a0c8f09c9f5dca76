//! Playing a row in one variant, on the host and in the kernel.

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{
    datapath::{Hook, Verdict, flow_hash},
    layout::{Counter, DropReason, Proto, V4, V6, limits::SOURCE_PORT_MIN},
};

use super::{Expected, Packet, Row, Step};
use crate::packet::{
    answer::{echo_reply, packet_too_big, port_unreachable, tcp_reset},
    decode::{dump, read, show, verify},
    encode::{Link, Variant, encode},
    hops::{card_of, next_hop},
    host::{Carrier, HostFamily, HostOutcome, HostPacket, HostWorld},
    kernel::{KernelFamily, KernelWorld, in_kernel},
    names::{Named as _, Tuple, Version},
    scene::Scene,
    side::{Outcome, Shot, Side, State},
    sketch::{Checksum, Sketch},
    sums::{checksum, sum},
    tunnel::Tunnel,
};

impl Row {
    pub(super) fn play(&self, variant: Variant) -> Result<()> {
        if self.host_only.is_some() {
            return self.play_in(variant, None);
        }
        let row = self.clone();
        in_kernel(move |kernel| row.play_in(variant, Some(kernel)))
    }

    fn play_in(&self, variant: Variant, kernel: Option<&mut KernelWorld>) -> Result<()> {
        match variant.version {
            Version::V4 => self.play_family::<V4>(variant, kernel),
            Version::V6 => self.play_family::<V6>(variant, kernel),
        }
    }

    fn play_family<F: HostFamily + KernelFamily>(
        &self,
        variant: Variant,
        mut kernel: Option<&mut KernelWorld>,
    ) -> Result<()> {
        let mut host = HostWorld {
            flows_max: self.flows_max,
            events_max: self.events_max,
            ..HostWorld::default()
        };
        let mut scene = Scene::default();
        let mut number = 0;
        let mut chosen = Chosen(None);
        for step in &self.steps {
            let kernel = kernel.as_deref_mut();
            match step {
                Step::Change(change) => {
                    let writes = scene.writes::<F>(change, variant.proto);
                    both::<F>(&mut host, kernel, |side| {
                        writes.iter().try_for_each(|write| side.write(write))
                    })?;
                }
                Step::Later(by) => both::<F>(&mut host, kernel, |side| side.age(*by))?,
                Step::LimitRejects(tokens) => both::<F>(&mut host, kernel, |side| side.limit_rejects(*tokens))?,
                Step::Packet(packet) => {
                    number += 1;
                    let shown = || {
                        format!(
                            "packet {number} of the row, {} at {:?}",
                            packet.sketch.tuple, packet.hook
                        )
                    };
                    packet
                        .play::<F>(variant, &mut chosen, &mut host, kernel)
                        .with_context(shown)?;
                }
            }
        }
        Ok(())
    }
}

fn both<F: HostFamily + KernelFamily>(
    host: &mut HostWorld,
    kernel: Option<&mut KernelWorld>,
    action: impl Fn(&mut dyn Side<F>) -> Result<()>,
) -> Result<()> {
    action(host)?;
    kernel.map_or(Ok(()), |kernel| action(kernel))
}

impl Packet {
    fn play<F: HostFamily + KernelFamily>(
        &self,
        variant: Variant,
        chosen: &mut Chosen,
        host: &mut HostWorld,
        kernel: Option<&mut KernelWorld>,
    ) -> Result<()> {
        let mut sketch = self.sketch.between(&chosen.fill(&self.sketch.tuple));
        if let Some((quoted, _)) = &self.sketch.quote {
            sketch = sketch.quoted_between(&chosen.fill(&quoted.tuple));
        }
        let frame = encode(&sketch, variant);
        let before: State<F> = host.state()?;
        let got = match variant.link {
            Link::Ethernet => host.shoot(&mut self.host_packet::<14>(&frame), self.hook),
            Link::Bare => host.shoot(&mut self.host_packet::<0>(&frame), self.hook),
        };
        let after: State<F> = host.state()?;
        if let Some(
            Expected::Becomes(wanted)
            | Expected::Rerouted(wanted)
            | Expected::Delivered(wanted)
            | Expected::Forwarded(wanted)
            | Expected::Turned(wanted),
        ) = &self.expected
        {
            chosen.learn(wanted, &got.outcome.frame, variant.link)?;
        }
        self.check_packet(&sketch, chosen, variant, &frame, &got)?;
        self.check_state(&sketch, chosen, &before, &after, variant)?;
        let Some(kernel) = kernel else { return Ok(()) };
        let shot = Shot {
            hook: self.hook,
            link: variant.link,
            frame: &frame,
        };
        ensure!(
            KernelWorld::runs(shot),
            "the kernel does not run such a frame: the row is for the host only"
        );
        let in_kernel = Side::<F>::run(kernel, shot)?;
        // A test run always has a link header, so an answer without one can't be made there.
        let no_answer = variant.link == Link::Bare
            && matches!(
                got.verdict,
                Verdict::Refuse | Verdict::Reset | Verdict::Echo | Verdict::Tunnel | Verdict::TooBig(_)
            );
        if !no_answer {
            compare(&got.outcome, &in_kernel, variant.link, "host", "kernel")?;
        }
        let kernel_state: State<F> = kernel.state()?;
        ensure!(
            kernel_state == after,
            "host (-) and kernel (+) are left differently:\n{}",
            after.difference(&kernel_state)
        );
        Ok(())
    }

    fn host_packet<const LINK: usize>(&self, frame: &[u8]) -> HostPacket<LINK> {
        let carrier = match (self.hook, self.sketch.checksum) {
            (Hook::Xdp, _) => Carrier::Xdp,
            (_, Checksum::Partial) => Carrier::SkbPartial,
            _ => Carrier::Skb,
        };
        let mut packet = HostPacket::new(frame, carrier);
        packet.linear = self.in_place.unwrap_or(frame.len()).min(frame.len());
        packet.writes_left = self.writes;
        packet.headroom = self.headroom.unwrap_or(packet.headroom);
        packet
    }

    fn check_packet(
        &self,
        sketch: &Sketch,
        chosen: &Chosen,
        variant: Variant,
        frame: &[u8],
        got: &HostOutcome,
    ) -> Result<()> {
        let expected = self
            .expected
            .as_ref()
            .context("the row does not say what becomes of it")?;
        // What is answered has come out of its tunnel, if it was in one.
        let bare = match &sketch.tunnel {
            Some(_) => encode(
                &Sketch {
                    tunnel: None,
                    ..sketch.clone()
                },
                variant,
            ),
            None => frame.to_vec(),
        };
        let between = |tuple: &str| {
            let mut wanted = sketch.between(&chosen.fill(tuple));
            wanted.tunnel = None;
            if self.marked {
                wanted.congestion = 3;
            }
            if let Some((octets, behind)) = self.saying {
                wanted = wanted.mss(octets, behind);
            }
            if let Some(tags) = &self.tags {
                wanted = wanted.tagged(tags);
            }
            if let Some(quoted) = &self.quoting {
                wanted = wanted.quoted_between(&chosen.fill(quoted));
            }
            encode(&wanted, variant)
        };
        let (verdict, wanted) = match expected {
            Expected::Untouched | Expected::Passes => (Verdict::Pass, frame.to_vec()),
            Expected::Becomes(tuple) => (Verdict::Pass, between(tuple)),
            Expected::Rerouted(tuple) => (Verdict::Route, between(tuple)),
            Expected::Delivered(tuple) => (Verdict::Deliver, between(tuple)),
            Expected::Forwarded(tuple) | Expected::Turned(tuple) => {
                let to = Tuple::read(&chosen.fill(tuple), variant.version).dst;
                let hop = next_hop(to).with_context(|| format!("nobody knows the next hop to {to}"))?;
                let turned = matches!(expected, Expected::Turned(_)).then_some(Verdict::Turn);
                let tags = self.tags.as_ref().unwrap_or(&sketch.tags);
                (
                    turned.unwrap_or(Verdict::Forward(card_of(hop.ifindex))),
                    sent(between(tuple), hop.frame_start(), 14 + 4 * tags.len(), variant.version),
                )
            }
            Expected::Dropped(reason) if *reason == DropReason::TunnelUnserved => (Verdict::Drop(*reason), bare),
            Expected::Dropped(reason) => (Verdict::Drop(*reason), frame.to_vec()),
            Expected::Answered(_) => {
                let tuple = Tuple::read(&sketch.tuple, variant.version);
                let answer = port_unreachable(&bare, &tuple, variant);
                if let Err(why) = verify(&answer, variant.link) {
                    bail!("the expected answer is wrong itself: {why}");
                }
                (Verdict::Refuse, answer)
            }
            Expected::Tunnelled(tunnel) => (Verdict::Tunnel, in_tunnel(sketch, tunnel, variant)),
            Expected::SentTunnelled(tunnel) => {
                let mut wanted = in_tunnel(sketch, tunnel, variant);
                let to = Tuple::read(&tunnel.tuple, variant.version).dst;
                let hop = next_hop(to).with_context(|| format!("nobody knows the next hop to {to}"))?;
                wanted[..12].copy_from_slice(&hop.frame_start());
                (Verdict::Forward(card_of(hop.ifindex)), wanted)
            }
            Expected::TooBig(mtu) => {
                let tuple = Tuple::read(&sketch.tuple, variant.version);
                let answer = packet_too_big(&bare, &tuple, variant, *mtu);
                if let Err(why) = verify(&answer, variant.link) {
                    bail!("the expected answer is wrong itself: {why}");
                }
                (Verdict::TooBig(*mtu), answer)
            }
            Expected::Echoed => (Verdict::Echo, echo_reply(frame, variant)),
            Expected::Reset => {
                let answer = tcp_reset(frame, variant);
                if let Err(why) = verify(&answer, variant.link) {
                    bail!("the expected answer is wrong itself: {why}");
                }
                (Verdict::Reset, answer)
            }
        };
        ensure!(
            got.verdict == verdict,
            "{verdict:?} was expected, the core says {:?}\n  in:  {}\n  out: {}",
            got.verdict,
            show(frame, variant.link),
            show(&got.outcome.frame, variant.link)
        );
        // A packet that could only partly be rewritten is not fit for anything.
        if expected_reason(expected) == Some(DropReason::RewriteFailed) {
            return Ok(());
        }
        let wanted = Outcome {
            code: got.outcome.code,
            frame: wanted,
        };
        compare(&wanted, &got.outcome, variant.link, "expected", "core")
    }

    fn check_state<F: HostFamily>(
        &self,
        sketch: &Sketch,
        chosen: &Chosen,
        before: &State<F>,
        after: &State<F>,
        variant: Variant,
    ) -> Result<()> {
        let expected = self.expected.as_ref();
        if matches!(expected, Some(Expected::Untouched)) {
            ensure!(
                before == after,
                "something was remembered:\n{}",
                before.difference(after)
            );
        }
        let counted = (Counter::ALL.iter().zip(before.counters.iter().zip(&after.counters)))
            .flat_map(|(counter, (before, after))| vec![*counter; (after - before) as usize]);
        let (mut counted, mut counting): (Vec<_>, _) = (counted.collect(), self.counting.clone());
        for counters in [&mut counted, &mut counting] {
            counters.sort_by_key(|counter| *counter as u32);
        }
        ensure!(counted == counting, "counted {counted:?} instead of {counting:?}");
        let reason = expected.and_then(expected_reason);
        let dropped = (DropReason::ALL.iter().zip(before.drops.iter().zip(&after.drops)))
            .flat_map(|(reason, (before, after))| vec![*reason; (after - before) as usize]);
        let dropped: Vec<DropReason> = dropped.collect();
        ensure!(
            dropped == Vec::from_iter(reason),
            "drops counted for {dropped:?} instead of {reason:?}"
        );
        let lost = counted.contains(&Counter::EventsLost);
        let events: Vec<String> = after
            .lines()
            .into_iter()
            .filter(|line| line.starts_with("event "))
            .collect();
        let new = &events[before.events.len()..];
        let has_ports = !matches!(
            reason,
            Some(DropReason::TunnelMalformed | DropReason::TunnelNested | DropReason::TunnelSpoofed)
        );
        let wanted = reason.filter(|_| !lost).map(|reason| {
            let mut tuple = Tuple::read(&sketch.tuple, variant.version);
            if !has_ports {
                (tuple.sport, tuple.dport) = (0, 0);
            }
            format!(
                "event {} {} {tuple} ",
                reason.name(),
                Proto(sketch.layer4.proto(variant)),
            )
        });
        let as_wanted = match (new, &wanted) {
            ([], None) => true,
            ([event], Some(wanted)) => event.starts_with(wanted),
            _ => false,
        };
        ensure!(as_wanted, "reported {new:?} instead of {wanted:?}");
        if let Some(leaving) = &self.leaving_ways {
            let ways = after.way_lines();
            let mut leaving: Vec<String> = leaving.iter().map(|line| chosen.fill(line)).collect();
            leaving.sort();
            ensure!(
                ways == leaving,
                "XDP has the ways\n  {}\nand should have\n  {}",
                ways.join("\n  "),
                leaving.join("\n  ")
            );
        }
        if let Some(leaving) = &self.leaving {
            let flows = after.flow_lines();
            let mut leaving: Vec<String> = leaving.iter().map(|line| chosen.fill(line)).collect();
            leaving.sort();
            ensure!(
                flows == leaving,
                "the flow table has\n  {}\nand should have\n  {}",
                flows.join("\n  "),
                leaving.join("\n  ")
            );
        }
        Ok(())
    }
}

/// The frame as it leaves for its next hop.
fn sent(mut frame: Vec<u8>, start: [u8; 12], ip: usize, version: Version) -> Vec<u8> {
    frame[..12].copy_from_slice(&start);
    match version {
        Version::V4 => {
            frame[ip + 8] -= 1;
            frame[ip + 10..ip + 12].fill(0);
            let header_len = usize::from(frame[ip] & 0x0f) * 4;
            let sum = checksum(sum(&frame[ip..ip + header_len]));
            frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
        }
        Version::V6 => frame[ip + 7] -= 1,
    }
    frame
}

/// The frame in a tunnel that is for its flow.
fn in_tunnel(sketch: &Sketch, tunnel: &Tunnel, variant: Variant) -> Vec<u8> {
    let hash = |sketch: &Sketch| {
        let proto = Proto(sketch.layer4.proto(variant));
        match variant.version {
            Version::V4 => flow_hash(&V4::key(&sketch.tuple, proto)),
            Version::V6 => flow_hash(&V6::key(&sketch.tuple, proto)),
        }
    };
    // An error goes as its flow does.
    let hash = match &sketch.quote {
        Some((quoted, _)) => {
            let (src, dst) = quoted.tuple.split_once(" > ").unwrap_or_default();
            hash(&quoted.between(&format!("{dst} > {src}")))
        }
        None => hash(sketch),
    };
    encode(&sketch.clone().inside(tunnel.clone().of_hash(hash)), variant)
}

/// The port that the datapath has chosen, for which `*` stands in the row.
struct Chosen(Option<u16>);

impl Chosen {
    fn fill(&self, text: &str) -> String {
        match self.0 {
            Some(port) => text.replace(":*", &format!(":{port}")),
            None => text.to_owned(),
        }
    }

    /// Takes the source port of the packet, if it is the one that the row leaves open.
    fn learn(&mut self, wanted: &str, frame: &[u8], link: Link) -> Result<()> {
        let open = wanted.split_once(":* > ").is_some();
        let (true, None) = (open, self.0) else { return Ok(()) };
        let tuple = read(frame, link)
            .and_then(|seen| seen.tuple())
            .context("no packet with ports came out")?;
        ensure!(
            tuple.sport >= SOURCE_PORT_MIN,
            "port {} is not for clients",
            tuple.sport
        );
        self.0 = Some(tuple.sport);
        Ok(())
    }
}

/// The reason under which it is counted and reported.
fn expected_reason(expected: &Expected) -> Option<DropReason> {
    match expected {
        Expected::Dropped(reason) => Some(*reason),
        Expected::Answered(reason) => Some(*reason),
        Expected::Reset => Some(DropReason::EndpointRemoved),
        Expected::TooBig(_) => Some(DropReason::TunnelTooBig),
        _ => None,
    }
}

/// Both must be the same octet by octet.
pub(crate) fn compare(one: &Outcome, other: &Outcome, link: Link, one_name: &str, other_name: &str) -> Result<()> {
    ensure!(
        one == other,
        "{one_name}: told {}, {}\n{}{other_name}: told {}, {}\n{}",
        one.code,
        show(&one.frame, link),
        dump(&one.frame, &other.frame),
        other.code,
        show(&other.frame, link),
        dump(&other.frame, &one.frame)
    );
    Ok(())
}
