//! What holds for every packet in every world: the core never panics, changes nothing that is not ours, keeps checksums
//! as right as they were, and takes back what it did. Pure code: no root needed.

use lb_common::{
    datapath::{Hook, Verdict},
    layout::{DropReason, V4, V6},
};
use proptest::prelude::*;
use tests::packet::{
    decode::{Seen, dump, read, show, verify},
    encode::Link,
    host::{Carrier, HostFamily, HostOutcome, HostPacket},
    random::spoil,
    side::{Side as _, State, TC_SHOT},
    sketch::udp,
    story::{Scrap, Stage},
    sums::fold,
    tape::{Tape, recorded},
};

/// Packets of one story: flows have time to be opened, followed and confused.
const PACKETS: usize = 6;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn every_packet_of_every_story_keeps_the_rules(seed in any::<u64>(), len in 0_usize..300) {
        // Shrinking cuts the tape.
        let octets = recorded(seed, len);
        let mut tape = Tape::new(&octets);
        let told = if tape.once_in(2) { tell::<V6>(&mut tape) } else { tell::<V4>(&mut tape) };
        prop_assert!(told.is_ok(), "{}", told.unwrap_err());
    }
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn octets_without_any_sense_keep_the_rules(
        seed in any::<u64>(),
        len in 0_usize..200,
        first in prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x60, 0x00]),
        ethertype in prop::sample::select(vec![[0x08_u8, 0x00], [0x86, 0xdd], [0x00, 0x00]]),
        hook in prop::sample::select(vec![Hook::Ingress, Hook::EgressForwarded, Hook::EgressLocal, Hook::Xdp]),
        is_bare in any::<bool>(),
    ) {
        let link = if is_bare && hook != Hook::Xdp { Link::Bare } else { Link::Ethernet };
        let mut frame = recorded(seed, len);
        // Most of them begin like IP packets.
        if ethertype != [0, 0] && frame.len() >= 14 {
            frame[12..14].copy_from_slice(&ethertype);
        }
        if first != 0 && frame.len() > link.len() {
            frame[link.len()] = first;
        }
        let mut stage = Stage::<V4>::set(&mut Tape::new(&[]), None).expect("a host world");
        let scrap = Scrap { hook, link, sketch: udp("client > web"), frame };
        let checked = check::<V4>(&mut stage, &scrap, Carrier::Skb, usize::MAX, usize::MAX);
        prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
    }
}

/// Plays a story with packets in all forms that the kernel may hand over.
fn tell<F: HostFamily>(tape: &mut Tape<'_>) -> Result<(), String> {
    let mut stage = Stage::<F>::set(tape, None).map_err(|why| format!("{why:#}"))?;
    for _ in 0..PACKETS {
        let mut scrap = stage.next_packet(tape).map_err(|why| format!("{why:#}"))?;
        if tape.once_in(8) {
            spoil(tape, &mut scrap.frame);
        }
        let carrier = match scrap.hook {
            Hook::Xdp => Carrier::Xdp,
            _ if tape.once_in(4) => Carrier::SkbPartial,
            _ => Carrier::Skb,
        };
        let in_place = if tape.once_in(4) { tape.below(200) } else { usize::MAX };
        let writes = if tape.once_in(16) { tape.below(12) } else { usize::MAX };
        check(&mut stage, &scrap, carrier, in_place, writes)?;
        if tape.is_over() {
            break;
        }
    }
    Ok(())
}

/// Runs a packet and checks everything that must hold whatever it is.
fn check<F: HostFamily>(
    stage: &mut Stage<'_, F>,
    scrap: &Scrap,
    carrier: Carrier,
    in_place: usize,
    writes: usize,
) -> Result<(), String> {
    let Scrap { hook, link, frame, .. } = scrap;
    let before: State<F> = stage.host.state().map_err(|why| format!("{why:#}"))?;
    let got = match link {
        Link::Ethernet => stage
            .host
            .shoot(&mut packet::<14>(frame, carrier, in_place, writes), *hook),
        Link::Bare => stage
            .host
            .shoot(&mut packet::<0>(frame, carrier, in_place, writes), *hook),
    };
    let after: State<F> = stage.host.state().map_err(|why| format!("{why:#}"))?;
    let refused_writes = writes != usize::MAX;
    rules(scrap, carrier, refused_writes, &got, &before, &after).map_err(|why| {
        format!(
            "{why}\nat {hook:?} ({link:?}, {carrier:?}), {:?}\nin:  {}\n{}out: {}\n{}left behind (+):\n{}",
            got.verdict,
            show(frame, *link),
            dump(frame, &got.outcome.frame),
            show(&got.outcome.frame, *link),
            dump(&got.outcome.frame, frame),
            before.difference(&after)
        )
    })
}

fn packet<const LINK: usize>(frame: &[u8], carrier: Carrier, in_place: usize, writes: usize) -> HostPacket<LINK> {
    let mut packet = HostPacket::new(frame, carrier);
    // XDP has all of a frame in place.
    if carrier != Carrier::Xdp {
        packet.linear = in_place.min(frame.len());
    }
    packet.writes_left = writes;
    packet
}

fn rules<F: HostFamily>(
    scrap: &Scrap,
    carrier: Carrier,
    refused_writes: bool,
    got: &HostOutcome,
    before: &State<F>,
    after: &State<F>,
) -> Result<(), String> {
    let out = &got.outcome.frame;
    let changed = *out != scrap.frame;
    let ensure = |condition: bool, why: &str| if condition { Ok(()) } else { Err(why.to_owned()) };
    let seen = read(&scrap.frame, scrap.link);
    let may_be_ours = seen
        .as_ref()
        .is_some_and(|seen| seen.tuple().is_some() || is_later_part(seen));
    if !may_be_ours {
        ensure(
            got.verdict == Verdict::Pass && !changed && before == after,
            "it is not ours, and was not left alone",
        )?;
    }
    let dropped = after.drops.iter().sum::<u64>() - before.drops.iter().sum::<u64>();
    match got.verdict {
        Verdict::Drop(reason) => {
            let counted = after.drops[reason as usize] - before.drops[reason as usize];
            ensure(
                counted == 1 && dropped == 1,
                "a drop must be counted once, under its reason",
            )
        }
        Verdict::Refuse | Verdict::Reset => {
            let counted = |reason: DropReason| after.drops[reason as usize] - before.drops[reason as usize];
            let (right, why) = if got.verdict == Verdict::Reset {
                (counted(DropReason::EndpointRemoved), "a reset must be counted once")
            } else {
                let refused = counted(DropReason::NoEndpoint) + counted(DropReason::UnknownPort);
                (refused, "a refusal must be counted once")
            };
            ensure(right == 1 && dropped == 1, why)?;
            ensure(scrap.hook != Hook::Xdp, "XDP can't answer")?;
            if got.verdict == Verdict::Reset {
                let is_first = seen
                    .as_ref()
                    .is_some_and(|seen| seen.proto == 6 && seen.tuple().is_some());
                ensure(is_first, "only TCP is reset, by its first part")?;
            }
            // The kernel may refuse half-way, and options hide what a reset needs; such a packet is never sent.
            if got.outcome.code == TC_SHOT {
                let has_options = seen.is_some_and(|seen| seen.extensions > 0 || seen.checked_header.len() > 20);
                return ensure(
                    refused_writes || got.verdict == Verdict::Reset && has_options,
                    "what can be answered is answered",
                );
            }
            verify(out, scrap.link)?;
            answers(&scrap.frame, out, scrap.link)
        }
        Verdict::Pass | Verdict::Route | Verdict::Deliver => {
            ensure(dropped == 0, "a packet that goes on must not be counted as dropped")?;
            ensure(
                got.verdict != Verdict::Route || scrap.hook == Hook::EgressLocal || scrap.hook == Hook::EgressForwarded,
                "only what leaves gets a route",
            )?;
            ensure(
                got.verdict != Verdict::Deliver || scrap.hook == Hook::Ingress,
                "only what arrives is delivered",
            )?;
            match seen {
                Some(seen) if changed => translated(&seen, scrap, carrier, out),
                _ => Ok(()),
            }
        }
    }
}

fn is_later_part(seen: &Seen<'_>) -> bool {
    seen.is_later_fragment() && [6, 17, 132].contains(&seen.proto)
}

/// An answer goes to who has sent the packet.
fn answers(packet: &[u8], answer: &[u8], link: Link) -> Result<(), String> {
    match (read(packet, link), read(answer, link)) {
        (Some(packet), Some(answer)) if answer.dst == packet.src => Ok(()),
        _ => Err("an answer goes to who has sent the packet".to_owned()),
    }
}

/// What a translation may change: addresses, ports and the checksums that follow them.
fn translated(seen: &Seen<'_>, scrap: &Scrap, carrier: Carrier, out: &[u8]) -> Result<(), String> {
    let now = read(out, scrap.link).ok_or("a translated packet is well-formed")?;
    if out.len() != scrap.frame.len() || now.layer4.len() != seen.layer4.len() {
        return Err("a translation changes no length".to_owned());
    }
    let [header_before, header_now] = [seen, &now].map(|seen| sum_of(seen.checked_header));
    if header_before != header_now {
        return Err("the header's checksum is not as right as it was".to_owned());
    }
    let rest = |seen: &Seen<'_>| {
        let behind = match seen.proto {
            6 => 18,
            132 => 12,
            _ => 8,
        };
        seen.layer4.get(behind..).map(<[u8]>::to_vec)
    };
    if rest(seen) != rest(&now) || seen.is_later_fragment() && seen.layer4 != now.layer4 {
        return Err("a translation leaves all but ports and checksum alone".to_owned());
    }
    if seen.proto == 132 && !seen.is_later_fragment() {
        return sctp_translated(seen, &now);
    }
    if carrier == Carrier::SkbPartial || seen.fragment.is_some() {
        return Ok(());
    }
    match (seen.layer4_sum(), now.layer4_sum()) {
        (Some(before), Some(now)) if before % 0xffff == now % 0xffff => Ok(()),
        (None, None) => Ok(()),
        (before, now) => Err(format!(
            "the checksum was {before:x?} off before and is {now:x?} off now"
        )),
    }
}

/// The same of SCTP. Its checksum covers what no first fragment has, so that of one nothing but addresses may change.
fn sctp_translated(seen: &Seen<'_>, now: &Seen<'_>) -> Result<(), String> {
    let fine = if seen.fragment.is_some() {
        seen.layer4 == now.layer4
    } else {
        seen.layer4[4..8] == now.layer4[4..8] && seen.sctp_error() == now.sctp_error()
    };
    if fine {
        Ok(())
    } else {
        Err("the checksum of SCTP is not as right as it was, or the tag is another".to_owned())
    }
}

/// The sum over a header with its checksum, of which 0 and 0xffff are one number.
fn sum_of(header: &[u8]) -> u16 {
    fold(tests::packet::sums::sum(header)) % 0xffff
}
