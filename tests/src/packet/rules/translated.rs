//! What a translation may change: addresses, ports and the checksums that follow them.

use crate::packet::{
    decode::{Seen, read},
    host::Carrier,
    names::Version,
    story::Scrap,
    sums::{fold, sum},
};

/// Of a packet that is no ICMP error.
pub(super) fn packet(seen: &Seen<'_>, scrap: &Scrap, carrier: Carrier, out: &[u8]) -> Result<(), String> {
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
    fold(sum(header)) % 0xffff
}

/// Of an ICMP error: its own addresses, those and the ports that it quotes, and the checksums.
pub(super) fn error(seen: &Seen<'_>, scrap: &Scrap, out: &[u8]) -> Result<(), String> {
    let now = read(out, scrap.link).ok_or("a translated error is well-formed")?;
    let (before, after) = (seen.layer4, now.layer4);
    if out.len() != scrap.frame.len() || before.len() != after.len() {
        return Err("a translation changes no length".to_owned());
    }
    if sum_of(seen.checked_header) != sum_of(now.checked_header) {
        return Err("the error's header checksum is not as right as it was".to_owned());
    }
    let [message_before, message_now] = [seen, &now].map(|seen| seen.layer4_sum().map(|sum| sum % 0xffff));
    if message_before != message_now {
        return Err("the error's checksum is not as right as it was".to_owned());
    }
    let quote = Quoted::read(seen.version, before).ok_or("an error that quotes no packet was translated")?;
    let follows = |at: usize| (2..4).contains(&at) || quote.may_change(at);
    if let Some(at) = (0..before.len()).find(|at| before[*at] != after[*at] && !follows(*at)) {
        return Err(format!("a translation of an error leaves octet {at} of it alone"));
    }
    let header = QUOTE..quote.layer4;
    if seen.version == Version::V4 && sum_of(&before[header.clone()]) != sum_of(&after[header]) {
        return Err("the quoted header's checksum is not as right as it was".to_owned());
    }
    Ok(())
}

/// Where the quoted packet begins in an error.
const QUOTE: usize = 8;

struct Quoted {
    version: Version,
    proto: u8,
    layer4: usize,
}

impl Quoted {
    fn read(version: Version, error: &[u8]) -> Option<Self> {
        let quoted = error.get(QUOTE..)?;
        let (proto, len) = match version {
            Version::V4 => (*quoted.get(9)?, usize::from(quoted[0] & 15) * 4),
            Version::V6 if *quoted.get(6)? == 44 => (*quoted.get(40)?, 48),
            Version::V6 => (quoted[6], 40),
        };
        Some(Self {
            version,
            proto,
            layer4: QUOTE + len,
        })
    }

    fn may_change(&self, at: usize) -> bool {
        let addresses = match self.version {
            // With the header's checksum.
            Version::V4 => QUOTE + 10..QUOTE + 20,
            Version::V6 => QUOTE + 8..QUOTE + 40,
        };
        let checksum = match self.proto {
            6 => 16..18,
            17 => 6..8,
            _ => 0..0,
        };
        let behind = at.wrapping_sub(self.layer4);
        addresses.contains(&at) || behind < 4 || checksum.contains(&behind)
    }
}
