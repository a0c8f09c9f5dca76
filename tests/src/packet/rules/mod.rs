//! What holds for every packet in every world: the core never panics, changes nothing that is not ours, keeps checksums
//! as right as they were, and takes back what it did.
//!
//! Here: playing packets on the host and saying which rule is broken. What a verdict may leave behind is in [`verdicts`],
//! what a translation may change in [`translated`].

mod translated;
mod verdicts;

use lb_common::{
    datapath::Hook,
    layout::{V4, V6},
};

use super::{
    decode::{dump, show},
    encode::Link,
    host::{Carrier, HostFamily, HostOutcome, HostPacket, HostWorld},
    random::{host_only, spoil},
    side::{Side as _, State},
    sketch::udp,
    story::{Scrap, Stage},
    tape::Tape,
};

/// Who wants to know what became of each packet.
pub type Note<'a> = &'a mut dyn FnMut(&Scrap, &HostOutcome, &HostWorld);

/// In which form the kernel hands a packet over.
#[derive(Clone, Copy, Debug)]
struct Handed {
    /// Whose packet it is, and whether its checksum is complete.
    carrier: Carrier,
    /// How many octets lie in place.
    in_place: usize,
    /// How many writes the kernel grants.
    writes: usize,
}

/// Plays a story of at most so many packets, in the family that the tape says, with packets in all forms that the kernel may
/// hand over.
///
/// # Errors
/// The rule that is broken, and by what.
pub fn play(tape: &mut Tape<'_>, packets_max: usize, note: Note<'_>) -> Result<(), String> {
    if tape.once_in(2) {
        tell::<V6>(tape, packets_max, note)
    } else {
        tell::<V4>(tape, packets_max, note)
    }
}

fn tell<F: HostFamily>(tape: &mut Tape<'_>, packets_max: usize, note: Note<'_>) -> Result<(), String> {
    let mut stage = Stage::<F>::set(tape, None).map_err(|why| format!("{why:#}"))?;
    for change in host_only(tape) {
        stage.change(&change).map_err(|why| format!("{why:#}"))?;
    }
    for _ in 0..packets_max {
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
        let handed = Handed {
            carrier,
            in_place,
            writes,
        };
        let got = check(&mut stage, &scrap, handed)?;
        note(&scrap, &got, &stage.host);
        if tape.is_over() {
            break;
        }
    }
    Ok(())
}

/// Plays one packet of octets without any sense, of which most begin like IP.
///
/// # Errors
/// The rule that is broken, and by what.
pub fn nonsense(tape: &mut Tape<'_>, note: Note<'_>) -> Result<(), String> {
    let hook = tape.pick(&[Hook::Ingress, Hook::EgressForwarded, Hook::EgressLocal, Hook::Xdp]);
    let link = if tape.once_in(2) && hook != Hook::Xdp {
        Link::Bare
    } else {
        Link::Ethernet
    };
    let (first, ethertype) = tape.pick(&[
        (0x45_u8, [0x08_u8, 0x00]),
        (0x60, [0x86, 0xdd]),
        (0x46, [0x08, 0x00]),
        (0x4f, [0x08, 0x00]),
        (0x45, [0x86, 0xdd]),
        (0x60, [0x08, 0x00]),
        (0x00, [0x00, 0x00]),
    ]);
    let len = tape.below(200);
    let mut frame = tape.take(len);
    if ethertype != [0, 0] && frame.len() >= 14 {
        frame[12..14].copy_from_slice(&ethertype);
    }
    if first != 0 && frame.len() > link.len() {
        frame[link.len()] = first;
    }
    let mut stage = Stage::<V4>::set(&mut Tape::new(&[]), None).map_err(|why| format!("{why:#}"))?;
    let scrap = Scrap {
        hook,
        link,
        sketch: udp("client > web"),
        frame,
    };
    let handed = Handed {
        carrier: Carrier::Skb,
        in_place: usize::MAX,
        writes: usize::MAX,
    };
    let got = check::<V4>(&mut stage, &scrap, handed)?;
    note(&scrap, &got, &stage.host);
    Ok(())
}

/// Runs a packet and checks everything that must hold whatever it is.
fn check<F: HostFamily>(stage: &mut Stage<'_, F>, scrap: &Scrap, handed: Handed) -> Result<HostOutcome, String> {
    let Scrap { hook, link, frame, .. } = scrap;
    let before: State<F> = stage.host.state().map_err(|why| format!("{why:#}"))?;
    let got = match link {
        Link::Ethernet => stage.host.shoot(&mut packet::<14>(frame, handed), *hook),
        Link::Bare => stage.host.shoot(&mut packet::<0>(frame, handed), *hook),
    };
    let after: State<F> = stage.host.state().map_err(|why| format!("{why:#}"))?;
    let (plain, plainly) = without_tags(scrap, &got);
    let broken = verdicts::Played {
        scrap: &plain,
        carrier: handed.carrier,
        refused_writes: handed.writes != usize::MAX,
        got: &plainly,
        before: &before,
        after: &after,
    }
    .rules();
    match broken {
        Ok(()) => Ok(got),
        Err(why) => Err(format!(
            "{why}\nat {hook:?} ({link:?}, {handed:?}), {:?}\nin:  {}\n{}out: {}\n{}left behind (+):\n{}",
            got.verdict,
            show(frame, *link),
            dump(frame, &got.outcome.frame),
            show(&got.outcome.frame, *link),
            dump(&got.outcome.frame, frame),
            before.difference(&after)
        )),
    }
}

/// The same without VLAN tags, of which XDP knows two: what holds for a frame in a VLAN is what holds for one in none.
fn without_tags(scrap: &Scrap, got: &HostOutcome) -> (Scrap, HostOutcome) {
    let (mut scrap, mut got) = (scrap.clone(), got.clone());
    if scrap.hook == Hook::Xdp {
        for frame in [&mut scrap.frame, &mut got.outcome.frame] {
            for _ in 0..2 {
                if matches!(frame.get(12..18), Some([0x81, 0x00, ..] | [0x88, 0xa8, ..])) {
                    frame.drain(12..16);
                }
            }
        }
    }
    (scrap, got)
}

fn packet<const LINK: usize>(frame: &[u8], handed: Handed) -> HostPacket<LINK> {
    let mut packet = HostPacket::new(frame, handed.carrier);
    // XDP has all of a frame in place.
    if handed.carrier != Carrier::Xdp {
        packet.linear = handed.in_place.min(frame.len());
    }
    packet.writes_left = handed.writes;
    packet
}
