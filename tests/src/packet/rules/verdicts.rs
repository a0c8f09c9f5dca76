//! What each verdict may leave behind, in tables and in the packet.

use lb_common::{
    datapath::{Hook, Verdict},
    layout::{Counter, DropReason},
};

use super::translated;
use crate::packet::{
    decode::{Seen, read, verify},
    encode::Link,
    host::{Carrier, HostFamily, HostOutcome},
    names::{Version, address},
    side::{State, TC_SHOT},
    story::Scrap,
};

/// A packet that was played.
pub(super) struct Played<'a, F: HostFamily> {
    pub(super) scrap: &'a Scrap,
    pub(super) carrier: Carrier,
    /// Whether the kernel may have refused a write.
    pub(super) refused_writes: bool,
    pub(super) got: &'a HostOutcome,
    pub(super) before: &'a State<F>,
    pub(super) after: &'a State<F>,
}

/// A whole packet of a protocol without ports, to an address that may be a Service's.
fn is_stray(seen: &Seen<'_>) -> bool {
    let is_service = ["web", "api", "node", "vip", "eip"]
        .iter()
        .any(|name| address(name, seen.version) == seen.dst);
    is_service && !matches!(seen.proto, 6 | 17 | 132)
}

impl<F: HostFamily> Played<'_, F> {
    /// The rule that is broken.
    pub(super) fn rules(&self) -> Result<(), String> {
        let Self {
            scrap,
            carrier,
            refused_writes,
            got,
            before,
            after,
        } = *self;
        let out = &got.outcome.frame;
        let changed = *out != scrap.frame;
        let ensure = |condition: bool, why: &str| if condition { Ok(()) } else { Err(why.to_owned()) };
        let seen = read(&scrap.frame, scrap.link);
        let may_be_ours = seen
            .as_ref()
            .is_some_and(|seen| seen.tuple().is_some() || is_later_part(seen));
        if let Some(rules) = self.tunnel() {
            return rules;
        }
        if let Some(seen) = seen.as_ref().filter(|seen| is_error(seen)) {
            return self.error(seen);
        }
        // What is not balanced has nobody to go to at a ClusterIP, and must not go back from an external address.
        let is_stray = matches!(scrap.hook, Hook::Ingress | Hook::EgressLocal)
            && matches!(
                got.verdict,
                Verdict::Drop(DropReason::UnknownPort | DropReason::WouldLoop) | Verdict::Echo
            )
            && seen.as_ref().is_some_and(|seen| is_stray(seen));
        if !may_be_ours && !is_stray {
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
            Verdict::Echo => {
                ensure(dropped == 0, "a ping that is answered is no drop")?;
                ensure(is_stray, "only pings to service addresses are answered")?;
                if got.outcome.code == TC_SHOT {
                    return ensure(refused_writes, "what can be answered is answered");
                }
                answers(&scrap.frame, out, scrap.link)
            }
            Verdict::Tunnel => Err("what goes into a tunnel was looked at".to_owned()),
            Verdict::TooBig(_) => {
                let counted = DropReason::TunnelTooBig as usize;
                let told = after.drops[counted] - before.drops[counted];
                ensure(told == 1 && dropped == 1, "who is told is counted once")?;
                if got.outcome.code == TC_SHOT {
                    return ensure(refused_writes, "what can be answered is answered");
                }
                verify(out, scrap.link)?;
                answers(&scrap.frame, out, scrap.link)
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
            Verdict::Pass | Verdict::Route | Verdict::Deliver | Verdict::Forward(_) | Verdict::Turn => {
                ensure(
                    !matches!(got.verdict, Verdict::Forward(_) | Verdict::Turn) || scrap.hook == Hook::Xdp && changed,
                    "only XDP forwards, and what it forwards has one hop less",
                )?;
                ensure(dropped == 0, "a packet that goes on must not be counted as dropped")?;
                ensure(
                    got.verdict != Verdict::Route
                        || scrap.hook == Hook::EgressLocal
                        || scrap.hook == Hook::EgressForwarded,
                    "only what leaves gets a route",
                )?;
                ensure(
                    got.verdict != Verdict::Deliver || scrap.hook == Hook::Ingress,
                    "only what arrives is delivered",
                )?;
                match seen {
                    Some(seen) if changed => translated::packet(&seen, scrap, carrier, out),
                    _ => Ok(()),
                }
            }
        }
    }

    /// What goes into a tunnel is in it as it came; what comes in one is left alone, dropped with a reason, or taken out. Nothing if
    /// the packet has to do with none.
    fn tunnel(&self) -> Option<Result<(), String>> {
        let (frame, out) = (&self.scrap.frame, &self.got.outcome.frame);
        let link = self.scrap.link.len();
        let sent = self.got.verdict == Verdict::Tunnel
            || matches!(self.got.verdict, Verdict::Forward(_) | Verdict::Turn) && out.len() >= frame.len() + 20;
        if sent {
            let is_inside = out.len() > frame.len() && out.ends_with(&frame[link..]);
            let refused = self.got.outcome.code == TC_SHOT && self.refused_writes;
            return Some(if is_inside || refused {
                Ok(())
            } else {
                Err("what goes into a tunnel is in it as it came".to_owned())
            });
        }
        self.scrap.sketch.tunnel.as_ref()?;
        let dropped = self.after.drops.iter().sum::<u64>() - self.before.drops.iter().sum::<u64>();
        Some(match self.got.verdict {
            Verdict::Drop(_) | Verdict::Refuse | Verdict::Reset | Verdict::TooBig(_) if dropped == 1 => Ok(()),
            Verdict::Pass | Verdict::Deliver | Verdict::Echo | Verdict::Forward(_) | Verdict::Turn if dropped == 0 => {
                Ok(())
            }
            other => Err(format!("{other:?} with {dropped} drops")),
        })
    }

    /// An ICMP error goes on, in one of two ways: as it came, or translated and counted.
    fn error(&self, seen: &Seen<'_>) -> Result<(), String> {
        let out = &self.got.outcome.frame;
        if !matches!(self.got.verdict, Verdict::Pass | Verdict::Route | Verdict::Deliver) {
            return Err("an ICMP error always goes on".to_owned());
        }
        let translated = Counter::ErrorsTranslated as usize;
        let count = self.after.counters[translated] - self.before.counters[translated];
        let mut counters = self.after.counters.clone();
        counters[translated] = self.before.counters[translated];
        if self.before.flows != self.after.flows
            || self.before.drops != self.after.drops
            || self.before.counters != counters
        {
            return Err("an ICMP error leaves nothing behind".to_owned());
        }
        if self.refused_writes {
            return Ok(());
        }
        let changed = *out != self.scrap.frame;
        if count != u64::from(changed) {
            return Err("an ICMP error that is translated is counted, and no other".to_owned());
        }
        if changed {
            translated::error(seen, self.scrap, out)
        } else {
            Ok(())
        }
    }
}

/// Whether it may be an error about a packet of ours.
fn is_error(seen: &Seen<'_>) -> bool {
    let proto = if seen.version == Version::V4 { 1 } else { 58 };
    let kind = seen.layer4.first().copied().unwrap_or(0);
    let says_so = match seen.version {
        Version::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Version::V6 => kind < 128,
    };
    seen.proto == proto && seen.fragment.is_none() && (says_so || seen.layer4.len() < 8)
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
