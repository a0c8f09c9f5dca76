//! Packet memory: the only comparisons with the end of the packet, and the helpers that change it.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0,
        BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_check_mtu, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_skb_pull_data, bpf_xdp_adjust_head, bpf_xdp_get_buff_len,
    },
    programs::{TcContext, XdpContext},
};
use lb_common::{
    datapath::{ChecksumChange, Ethernet, Header, Ipv4, Ipv6, Packet, Tagged, updated},
    layout::Tags,
};

use crate::{driver::lb_retag, outline::lb_crc32c};

/// `BPF_F_IPV6` of `bpf_l4_csum_replace`: the pseudo header is IPv6's. Newer than aya's bindings.
const BPF_F_IPV6: u64 = 1 << 7;

/// Octets of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Octets before the IP header on devices without link header.
pub const NO_LINK: usize = 0;

/// A socket buffer at a tc hook, with a link header of `LINK` octets.
pub struct Skb<'a, const LINK: usize>(pub &'a TcContext);

impl<const LINK: usize> Skb<'_, LINK> {
    /// Gives a packet without link header one, of zeros: what is redirected needs one.
    #[inline(always)]
    pub fn have_link_header(&mut self) -> bool {
        // SAFETY: the context is the program's own; references into the packet end with `&mut self`.
        LINK != 0 || unsafe { bpf_skb_change_head(self.0.skb.skb, size_of::<Ethernet>() as u32, 0) == 0 }
    }

    #[inline(always)]
    fn add_to_checksum(&mut self, offset: usize, delta: u16, flags: u64) -> bool {
        // SAFETY: the helper checks the packet's bounds itself; references into the packet end with `&mut self`.
        unsafe { bpf_l4_csum_replace(self.0.skb.skb, offset as u32, 0, u64::from(delta), flags) == 0 }
    }
}

/// A frame in an XDP buffer.
pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
    /// How many octets of tags offsets count from behind.
    tags_len: usize,
}

impl<'a> XdpFrame<'a> {
    /// A frame whose offsets count from its beginning.
    #[inline(always)]
    pub const fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx, tags_len: 0 }
    }

    /// Where the frame begins. Read anew each time: the compiler would keep it, and copy it as a word of 32 bits, after which the kernel
    /// no longer knows what it is.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the verifier turns this load from the context into one from the kernel's structure.
        unsafe { ptr::read_volatile(&raw const (*self.ctx.ctx).data) as usize }
    }

    /// Where the frame's first buffer ends; the same.
    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { ptr::read_volatile(&raw const (*self.ctx.ctx).data_end) as usize }
    }

    /// Where offsets count from.
    #[inline(always)]
    fn start(&self) -> usize {
        self.data() + self.tags_len
    }
}

#[inline(always)]
fn at<H>(data: usize, data_end: usize, at: usize) -> Option<*mut H> {
    let start = data + at;
    if start + size_of::<H>() > data_end {
        None
    } else {
        Some(ptr::with_exposed_provenance_mut(start))
    }
}

impl<const LINK: usize> Packet for Skb<'_, LINK> {
    const LINK_LEN: usize = LINK;

    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn linear_len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn pull(&mut self, len: usize) -> bool {
        // SAFETY: the context is the program's own. References into the packet end with `&mut self`.
        unsafe { bpf_skb_pull_data(self.0.skb.skb, len as u32) == 0 }
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let header = at::<H>(self.0.data(), self.0.data_end(), offset)?;
        // SAFETY: inside the packet as just compared; `Header` is valid for any octets at any alignment, and nothing
        // writes to the packet while `&self` lives.
        Some(unsafe { &*header })
    }

    // In place, not by a helper for every header: because of this the kernel copies, before the program starts, the
    // headers of a packet that somebody else holds, too (a sniffer, a flooding bridge; not TCP's own send queue).
    #[inline(always)]
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let header = at::<H>(self.0.data(), self.0.data_end(), offset)?;
        // SAFETY: inside the packet as just compared; `&mut self` is the only access to it.
        Some(unsafe { &mut *header })
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, change: ChecksumChange) -> bool {
        let zero = if change.zero_is_none {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | zero;
        // The kernel knows whether the checksum is partial; then only the addresses count.
        let addresses = change.address_delta == 0
            // The flag tells kernels from 6.16 on (commit ead7f9b8de65) to leave a sum over the whole packet alone;
            // older ones refuse it.
            || change.ipv6 && self.add_to_checksum(offset, change.address_delta, pseudo | BPF_F_IPV6)
            || self.add_to_checksum(offset, change.address_delta, pseudo);
        addresses && (change.port_delta == 0 || self.add_to_checksum(offset, change.port_delta, zero))
    }

    #[inline(always)]
    fn crc32c_change(&self, change: u32, following: u32) -> u32 {
        lb_crc32c(change, following)
    }

    #[inline(always)]
    fn segment_payload(&self) -> usize {
        // SAFETY: as in `skb_ifindex`.
        unsafe { (*self.0.skb.skb).gso_size as usize }
    }

    // The flags say to the kernel what is inside, so that it can cut what is still to be cut; sizes of segments stay.
    #[inline(always)]
    fn wrap(&mut self, len: usize) -> bool {
        let is_v6 = len >= size_of::<Ipv6>();
        let (header_len, l3) = if is_v6 {
            (size_of::<Ipv6>(), BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
        } else {
            (size_of::<Ipv4>(), BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
        };
        let l4 = if len > header_len {
            BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        } else {
            0
        };
        let flags = u64::from(l3 | l4 | BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: the context is the program's own; references into the packet end with `&mut self`.
        unsafe { bpf_skb_adjust_room(self.0.skb.skb, len as i32, BPF_ADJ_ROOM_MAC, flags) == 0 }
    }

    #[inline(always)]
    fn unwrap(&mut self, len: usize) -> bool {
        let l3 = if len >= size_of::<Ipv6>() {
            BPF_F_ADJ_ROOM_DECAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_DECAP_L3_IPV4
        };
        let flags = u64::from(l3 | BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: as in `wrap`.
        unsafe { bpf_skb_adjust_room(self.0.skb.skb, -(len as i32), BPF_ADJ_ROOM_MAC, flags) == 0 }
    }

    #[inline(always)]
    fn shrink_to(&mut self, len: usize) -> bool {
        // SAFETY: the context is the program's own; references into the packet end with `&mut self`.
        unsafe { bpf_skb_change_tail(self.0.skb.skb, len as u32, 0) == 0 }
    }

    #[inline(always)]
    fn insert_after_link(&mut self, len: usize) -> bool {
        // SAFETY: as in `shrink_to`.
        unsafe { bpf_skb_adjust_room(self.0.skb.skb, len as i32, BPF_ADJ_ROOM_MAC, 0) == 0 }
    }
}

impl Packet for XdpFrame<'_> {
    const LINK_LEN: usize = ETHERNET;

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize - self.tags_len }
    }

    #[inline(always)]
    fn reaches(&self, len: usize) -> bool {
        self.has_in_place(len) || len <= self.len()
    }

    #[inline(always)]
    fn linear_len(&self) -> usize {
        // Hidden from the compiler, which would do arithmetic with the end alone.
        black_box(self.end() - self.data()).wrapping_sub(self.tags_len)
    }

    #[inline(always)]
    fn has_in_place(&self, len: usize) -> bool {
        // Hidden from the compiler, which would conclude that headers lie in place, and leave out comparisons that the kernel wants to see.
        len <= black_box(self.linear_len())
    }

    #[inline(always)]
    fn pull(&mut self, _len: usize) -> bool {
        false
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let header = at::<H>(self.start(), self.end(), offset)?;
        // SAFETY: inside the packet as just compared; `Header` is valid for any octets at any alignment, and nothing
        // writes to the packet while `&self` lives.
        Some(unsafe { &*header })
    }

    #[inline(always)]
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let header = at::<H>(self.start(), self.end(), offset)?;
        // SAFETY: inside the packet as just compared, and `&mut self` is the only access to it.
        Some(unsafe { &mut *header })
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, change: ChecksumChange) -> bool {
        let Some(&field) = self.header::<[u8; 2]>(offset) else {
            return false;
        };
        let old = u16::from_ne_bytes(field);
        if change.zero_is_none && old == 0 {
            return true;
        }
        let mut new = updated(old, u64::from(change.address_delta) + u64::from(change.port_delta));
        if change.zero_is_none && new == 0 {
            new = 0xffff;
        }
        self.store(offset, &new.to_ne_bytes())
    }

    #[inline(always)]
    fn crc32c_change(&self, change: u32, following: u32) -> u32 {
        lb_crc32c(change, following)
    }

    #[inline(always)]
    fn segment_payload(&self) -> usize {
        0
    }

    // The addresses in front are written anew afterwards, and the EtherType.
    #[inline(always)]
    fn wrap(&mut self, len: usize) -> bool {
        self.grow(len as i32)
    }

    #[inline(always)]
    fn unwrap(&mut self, len: usize) -> bool {
        let Some(&link) = self.front::<[[u8; 2]; 7]>(0) else {
            return false;
        };
        self.grow(-(len as i32)) && self.put_front(0, &link)
    }

    // XDP answers nothing: packets that need an answer go up untouched.
    #[inline(always)]
    fn shrink_to(&mut self, _len: usize) -> bool {
        false
    }

    #[inline(always)]
    fn insert_after_link(&mut self, _len: usize) -> bool {
        false
    }
}

impl Tagged for XdpFrame<'_> {
    #[inline(always)]
    fn begin_at(&mut self, tags_len: usize) {
        self.tags_len = tags_len;
    }

    #[inline(always)]
    fn front<H: Header>(&self, offset: usize) -> Option<&H> {
        let header = at::<H>(self.data(), self.end(), offset)?;
        // SAFETY: as in `header`.
        Some(unsafe { &*header })
    }

    #[inline(always)]
    fn put_front<H: Header>(&mut self, offset: usize, header: &H) -> bool {
        match at::<H>(self.data(), self.end(), offset) {
            Some(place) => {
                // SAFETY: as in `header_mut`.
                unsafe { *place = *header };
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn grow(&mut self, by: i32) -> bool {
        // SAFETY: the context is the program's own. References into the packet end with `&mut self`.
        unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -by) == 0 }
    }

    #[inline(always)]
    fn retag(&mut self, from: Tags, to: Tags) -> Option<bool> {
        self.tags_len = match lb_retag(self.ctx.ctx, from.0, to.0) {
            RETAG_FAILED => return None,
            RETAG_NO_ROOM => return Some(false),
            tags_len => tags_len as usize & TAGS_LEN_BITS,
        };
        Some(true)
    }
}

/// What a function that gives a frame other tags tells instead of their length: it can't.
pub const RETAG_NO_ROOM: u32 = 1;
/// Or that it has spoilt the frame.
pub const RETAG_FAILED: u32 = 2;
/// The bits of a length of tags.
const TAGS_LEN_BITS: usize = 0b1100;

/// The largest IP packet that the device of the packet sends.
#[inline(always)]
pub fn skb_mtu(ctx: &TcContext) -> u32 {
    let mut mtu = 0;
    // SAFETY: the context is the program's own, and the helper writes one word.
    unsafe { bpf_check_mtu(ctx.skb.skb.cast(), 0, &raw mut mtu, 0, 0) };
    mtu
}

/// Device index of the packet.
#[inline(always)]
pub fn skb_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the verifier turns this load from the context into one from the kernel's structure.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// What a packet carries that was given a new route where it left: it comes by the egress hook of another device again.
const REROUTED: u16 = 0x51ce;

/// Marks a packet as one that was given a new route.
#[inline(always)]
pub fn mark_rerouted(ctx: &TcContext) {
    // SAFETY: the verifier turns this store to the context into one to the kernel's structure. Nothing else uses the field
    // since the kernel has no DSMARK queueing discipline any more (Linux 6.3, commit bbe77c14ee61).
    unsafe { (*ctx.skb.skb).tc_index = u32::from(REROUTED) };
}

/// Whether the packet is one that was given a new route.
#[inline(always)]
pub fn is_rerouted(ctx: &TcContext) -> bool {
    // SAFETY: as in `skb_ifindex`.
    unsafe { (*ctx.skb.skb).tc_index == u32::from(REROUTED) }
}

/// Whether the packet belongs to a VLAN device on top of this one. The tag is no longer in the frame: the card or the
/// stack has taken it out on arrival. Identifier 0 is a priority and no VLAN (IEEE 802.1Q §9.6).
#[inline(always)]
pub fn skb_is_tagged(ctx: &TcContext) -> bool {
    const IDENTIFIER: u32 = 0x0fff;
    // SAFETY: as in `skb_ifindex`.
    unsafe { (*ctx.skb.skb).vlan_present != 0 && (*ctx.skb.skb).vlan_tci & IDENTIFIER != 0 }
}

/// Whether the packet is larger than what goes over the wire: somebody cuts it to pieces before.
#[inline(always)]
pub fn skb_is_gso(ctx: &TcContext) -> bool {
    // SAFETY: as in `skb_ifindex`.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// Whether the packet was sent by this host rather than received: it has no device on which it came in.
#[inline(always)]
pub fn skb_is_local(ctx: &TcContext) -> bool {
    // SAFETY: as in `skb_ifindex`.
    unsafe { (*ctx.skb.skb).ingress_ifindex == 0 }
}

/// Device index of the frame.
#[inline(always)]
pub fn xdp_ifindex(ctx: &XdpContext) -> u32 {
    ctx.ingress_ifindex() as u32
}
