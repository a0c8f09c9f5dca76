//! Addresses, ports and protocol numbers as they stand on the wire.
//!
//! Octets are kept in network order inside types that are aligned for whole-word loads; arithmetic on them is not
//! possible by accident. `bpftool map dump` prints them as octets, which a person can read.

use core::{
    fmt,
    hash::{Hash, Hasher},
};

/// An IPv4 address in network order.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ip4 {
    /// The four octets as they stand on the wire.
    pub octets: [u8; 4],
}

/// An IPv6 address in network order.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialOrd, Ord, Default)]
pub struct Ip6 {
    /// The sixteen octets as they stand on the wire.
    pub octets: [u8; 16],
}

/// A TCP, UDP or SCTP port in network order.
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port {
    /// The two octets as they stand on the wire.
    pub octets: [u8; 2],
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers"), as IPv4's `protocol` and IPv6's `next header`
/// carry it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Proto(pub u8);

impl Proto {
    /// Transmission Control Protocol.
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol.
    pub const UDP: Self = Self(17);
    /// Stream Control Transmission Protocol.
    pub const SCTP: Self = Self(132);
    /// Internet Control Message Protocol for IPv4.
    pub const ICMP: Self = Self(1);
    /// Internet Control Message Protocol for IPv6.
    pub const ICMPV6: Self = Self(58);
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self(other) => write!(f, "proto {other}"),
        }
    }
}

/// What the decision core needs of an address, whatever its family.
pub trait Address: super::SourceKeys + Copy + Eq + Ord + Hash + fmt::Debug + fmt::Display + Default + 'static {
    /// Number of 32-bit words.
    const WORDS: usize;
    /// What fills a key or record of one address and four more octets up to whole 64-bit words.
    type Rest: Copy + Eq + Ord + Hash + fmt::Debug + Default + 'static;
    /// What fills a record of one address up to whole 64-bit words.
    type Fill: Copy + Eq + Ord + Hash + fmt::Debug + Default + 'static;
    /// The 32-bit word `index`, in the byte order of memory (not of the host): for sums, hashes and comparison only.
    fn word(&self, index: usize) -> u32;
    /// Whether it is another than the unspecified address (all zero).
    #[inline(always)]
    fn is_some(&self) -> bool {
        let mut bits = 0;
        let mut index = 0;
        while index < Self::WORDS {
            bits |= self.word(index);
            index += 1;
        }
        bits != 0
    }
    /// The address under which it stands in the address table: all of IPv4's loopback range is one there.
    fn looked_up(&self) -> Self;
    /// A word that depends on all of both addresses: products that don't wait for each other, summed.
    fn mixed(src: &Self, dst: &Self) -> u64;
    /// Copies it in whole words, as large as there are: of an assignment the compiler may make a call of a function that copies octets.
    fn copy_to(&self, place: &mut Self);
    /// The address as sixteen octets, an IPv4 address in the first four: the form in which events carry it.
    fn to_16_octets(&self) -> [u8; 16];
}

#[inline(always)]
const fn word_at(octets: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

impl Ip4 {
    /// From a header.
    #[inline(always)]
    pub const fn from_wire(octets: &[u8; 4]) -> Self {
        Self { octets: *octets }
    }

    /// Into a header.
    #[inline(always)]
    pub const fn write_to(&self, octets: &mut [u8; 4]) {
        *octets = self.octets;
    }
}

impl Ip6 {
    /// From a header. In two whole words: a header may stand anywhere, so that all sixteen octets at once would be
    /// copied one by one.
    #[inline(always)]
    pub fn from_wire(octets: &[u8; 16]) -> Self {
        let halves: &[[u8; 8]; 2] = zerocopy::transmute_ref!(octets);
        let words = [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])];
        Self {
            octets: zerocopy::transmute!(words),
        }
    }

    /// Into a header, in two whole words.
    #[inline(always)]
    pub fn write_to(&self, octets: &mut [u8; 16]) {
        let words: [[u8; 8]; 2] = zerocopy::transmute!(self.octets);
        let halves: &mut [[u8; 8]; 2] = zerocopy::transmute_mut!(octets);
        halves[0] = words[0];
        halves[1] = words[1];
    }
}

/// Odd numbers without a pattern.
const MULTIPLIERS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
];

impl Address for Ip4 {
    #[inline(always)]
    fn copy_to(&self, place: &mut Self) {
        place.octets = self.octets;
    }

    #[inline(always)]
    fn mixed(src: &Self, dst: &Self) -> u64 {
        (u64::from(src.word(0)) | u64::from(dst.word(0)) << 32).wrapping_mul(const { MULTIPLIERS[0] })
    }

    #[inline(always)]
    fn looked_up(&self) -> Self {
        match self.octets[0] {
            127 => Self { octets: [127, 0, 0, 1] },
            _ => *self,
        }
    }

    const WORDS: usize = 1;
    type Rest = [u8; 0];
    type Fill = [u8; 4];

    #[inline(always)]
    fn word(&self, _index: usize) -> u32 {
        u32::from_ne_bytes(self.octets)
    }

    #[inline(always)]
    fn to_16_octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.octets;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

impl Ip6 {
    /// In two whole words.
    #[inline(always)]
    fn halves(&self) -> [u64; 2] {
        zerocopy::transmute!(self.octets)
    }
}

impl Address for Ip6 {
    #[inline(always)]
    fn copy_to(&self, place: &mut Self) {
        self.write_to(&mut place.octets);
    }

    #[inline(always)]
    fn mixed(src: &Self, dst: &Self) -> u64 {
        let ([a, b], [c, d]) = (src.halves(), dst.halves());
        let near = a
            .wrapping_mul(const { MULTIPLIERS[0] })
            .wrapping_add(b.wrapping_mul(const { MULTIPLIERS[1] }));
        let far = c
            .wrapping_mul(const { MULTIPLIERS[2] })
            .wrapping_add(d.wrapping_mul(const { MULTIPLIERS[3] }));
        near.wrapping_add(far)
    }

    #[inline(always)]
    fn looked_up(&self) -> Self {
        *self
    }

    const WORDS: usize = 4;
    type Rest = [u8; 4];
    type Fill = [u8; 0];

    #[inline(always)]
    fn word(&self, index: usize) -> u32 {
        match index {
            0 => word_at(&self.octets, 0),
            1 => word_at(&self.octets, 4),
            2 => word_at(&self.octets, 8),
            _ => word_at(&self.octets, 12),
        }
    }

    #[inline(always)]
    fn to_16_octets(&self) -> [u8; 16] {
        self.octets
    }
}

// Whole words instead of the derived comparison, which becomes a call to memcmp: the kernel side has none.
impl PartialEq for Ip6 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.halves(), other.halves());
        (a ^ c) | (b ^ d) == 0
    }
}

impl Eq for Ip6 {}

impl Hash for Ip4 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

impl Hash for Ip6 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

impl From<core::net::Ipv4Addr> for Ip4 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self {
            octets: address.octets(),
        }
    }
}

impl From<core::net::Ipv6Addr> for Ip6 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        Self {
            octets: address.octets(),
        }
    }
}

impl From<Ip4> for core::net::IpAddr {
    fn from(address: Ip4) -> Self {
        Self::V4(address.octets.into())
    }
}

impl From<Ip6> for core::net::IpAddr {
    fn from(address: Ip6) -> Self {
        Self::V6(address.octets.into())
    }
}

impl fmt::Display for Ip4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(self.octets).fmt(f)
    }
}

impl fmt::Display for Ip6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv6Addr::from(self.octets).fmt(f)
    }
}

impl fmt::Debug for Ip4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Ip6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Port {
    /// From a port number in host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self {
            octets: number.to_be_bytes(),
        }
    }

    /// The port number in host order.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.octets)
    }

    /// The two octets as they lie in memory: for sums and hashes only.
    #[must_use]
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        u16::from_ne_bytes(self.octets)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// IPv4 or IPv6, as a type: generic code is compiled once for each.
pub trait Family: Copy + 'static {
    /// This family's address.
    type Addr: Address;
    /// 4 or 6, as events and names carry it.
    const NUMBER: u8;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

impl Family for V4 {
    type Addr = Ip4;
    const NUMBER: u8 = 4;
}

impl Family for V6 {
    type Addr = Ip6;
    const NUMBER: u8 = 6;
}
