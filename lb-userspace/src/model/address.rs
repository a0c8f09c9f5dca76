//! Addresses and address ranges as Kubernetes objects write them: leniently.
//!
//! Old objects hold addresses such as `172.30.0.041`, which other parsers read as octal or refuse. kube-proxy reads them
//! as decimal, and so do we (behaviour reference §1.3); what leaves this file is always canonical.
//! Here: text → [`IpAddr`] and [`Cidr`]. Not here: which addresses make sense where (`source::convert`).
//! Called by the conversions in `source`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Family;

/// A range of addresses: base address and prefix length. Bits behind the prefix are always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// The lowest address of the range.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// How many leading bits are fixed.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The family of the range.
    pub fn family(&self) -> Family {
        Family::of(self.base)
    }

    /// Is this address in the range? An address of the other family never is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => (base.to_bits() ^ address.to_bits()).leading_zeros(),
            (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits() ^ address.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.prefix_len)
    }

    /// Reads `address/length`. Blanks around it and leading zeros in every number are forgiven; host bits are cleared.
    pub fn parse_leniently(text: &str) -> Option<Self> {
        let (address, length) = text.trim().split_once('/')?;
        let prefix_len = parse_decimal(length, 128)? as u8;
        let base = match parse_ip_leniently(address)? {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32u32.checked_sub(u32::from(prefix_len))?)
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Some(Self { base, prefix_len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

/// Reads an address, forgiving leading zeros in IPv4 numbers (always decimal, never octal).
///
/// An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is IPv4, as it is to kube-proxy.
pub fn parse_ip_leniently(text: &str) -> Option<IpAddr> {
    let Some(last_colon) = text.rfind(':') else {
        return parse_ipv4_leniently(text).map(IpAddr::V4);
    };
    let (head, tail) = text.split_at(last_colon + 1);
    let v6: Ipv6Addr = if tail.contains('.') {
        format!("{head}{}", parse_ipv4_leniently(tail)?).parse().ok()?
    } else {
        text.parse().ok()?
    };
    Some(IpAddr::V6(v6).to_canonical())
}

fn parse_ipv4_leniently(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parse_decimal(parts.next()?, 255)? as u8;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// A decimal number with any leading zeros, at most `max`. Signs and blanks are not numbers.
fn parse_decimal(text: &str, max: u32) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    digits.parse().ok().filter(|number| *number <= max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Cidr, parse_ip_leniently};

    #[rstest]
    #[case::row_115_leading_zero_is_decimal("172.30.0.041", Some("172.30.0.41"))]
    #[case::row_115_zeros_everywhere("010.000.000.0001", Some("10.0.0.1"))]
    #[case::plain_v4("192.0.2.1", Some("192.0.2.1"))]
    #[case::plain_v6("2001:DB8:0:0::01", Some("2001:db8::1"))]
    #[case::v4_inside_v6("64:ff9b::192.0.02.001", Some("64:ff9b::c000:201"))]
    #[case::mapped_is_v4("::ffff:10.0.0.01", Some("10.0.0.1"))]
    #[case::octet_too_big("10.0.0.256", None)]
    #[case::octet_far_too_big("10.0.0.99999999999999999999", None)]
    #[case::three_parts("10.0.1", None)]
    #[case::five_parts("10.0.0.1.2", None)]
    #[case::empty_part("10..0.1", None)]
    #[case::signed("10.0.0.+1", None)]
    #[case::hexadecimal("0x0a.0.0.1", None)]
    #[case::blank(" 10.0.0.1", None)]
    #[case::v6_scope("fe80::1%eth0", None)]
    #[case::name("localhost", None)]
    #[case::nothing("", None)]
    fn addresses(#[case] text: &str, #[case] canonical: Option<&str>) {
        assert_eq!(parse_ip_leniently(text).map(|ip| ip.to_string()).as_deref(), canonical);
    }

    #[rstest]
    #[case::row_115_zeros("203.0.113.000/025", Some("203.0.113.0/25"))]
    #[case::blanks_around(" 203.0.113.0/25 ", Some("203.0.113.0/25"))]
    #[case::host_bits_cleared("203.0.113.77/25", Some("203.0.113.0/25"))]
    #[case::everything("203.0.113.77/0", Some("0.0.0.0/0"))]
    #[case::one_address("203.0.113.77/32", Some("203.0.113.77/32"))]
    #[case::v6("2001:db8::1/32", Some("2001:db8::/32"))]
    #[case::v6_everything("2001:db8::1/0", Some("::/0"))]
    #[case::v4_prefix_too_long("203.0.113.0/33", None)]
    #[case::v6_prefix_too_long("2001:db8::/129", None)]
    #[case::no_length("203.0.113.0", None)]
    #[case::negative("203.0.113.0/-1", None)]
    #[case::mask_instead_of_length("203.0.113.0/255.255.255.0", None)]
    fn ranges(#[case] text: &str, #[case] canonical: Option<&str>) {
        assert_eq!(
            Cidr::parse_leniently(text).map(|cidr| cidr.to_string()).as_deref(),
            canonical
        );
    }

    #[rstest]
    #[case::first("10.0.0.0/8", "10.0.0.0", true)]
    #[case::last("10.0.0.0/8", "10.255.255.255", true)]
    #[case::below("10.0.0.0/8", "9.255.255.255", false)]
    #[case::above("10.0.0.0/8", "11.0.0.0", false)]
    #[case::one_address("192.0.2.7/32", "192.0.2.7", true)]
    #[case::beside_one_address("192.0.2.7/32", "192.0.2.6", false)]
    #[case::everything("0.0.0.0/0", "255.255.255.255", true)]
    #[case::everything_of_the_other_family("0.0.0.0/0", "::1", false)]
    #[case::v6_inside("2001:db8::/33", "2001:db8:7fff::1", true)]
    #[case::v6_outside("2001:db8::/33", "2001:db8:8000::1", false)]
    #[case::v6_everything("::/0", "ffff::1", true)]
    fn containing(#[case] range: &str, #[case] address: &str, #[case] inside: bool) {
        let range = Cidr::parse_leniently(range).unwrap();
        assert_eq!(range.contains(address.parse().unwrap()), inside);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "[0-9a-f:./ %x+-]{0,50}|\\PC{0,20}") {
            let _ = parse_ip_leniently(&text);
            let _ = Cidr::parse_leniently(&text);
        }

        #[test]
        fn canonical_addresses_are_read_as_themselves(bits: u32, wide: u128) {
            let v4 = std::net::Ipv4Addr::from_bits(bits);
            let v6 = std::net::Ipv6Addr::from_bits(wide);
            prop_assert_eq!(parse_ip_leniently(&v4.to_string()), Some(v4.into()));
            prop_assert_eq!(parse_ip_leniently(&v6.to_string()), Some(std::net::IpAddr::from(v6).to_canonical()));
        }
    }
}
