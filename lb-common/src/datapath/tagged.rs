//! VLAN tags that are still in the frame when XDP sees it: reading them, and giving a frame those of the device by which it leaves.
//!
//! ```text
//! 0        6        12        16        12 + tags  14 + tags
//! | to     | from   | tag     | tag     | EtherType | IP …          tags: 0, 4 or 8 octets
//! ```
//!
//! Everything else in this folder counts from where the frame would begin without tags: [`Tagged::begin_at`].

use super::{
    header::{Ethernet, Header},
    packet::Packet,
};
use crate::layout::{Tag, Tags};

/// Where the tags begin.
const TAGS_AT: usize = 12;

/// A frame that may have tags in it.
pub trait Tagged: Packet {
    /// From now on a [`Packet`]'s offsets count from behind so many octets of tags.
    fn begin_at(&mut self, tags_len: usize);

    /// A header at an offset from where the frame really begins.
    fn front<H: Header>(&self, at: usize) -> Option<&H>;

    /// Writes such a header. False if the packet doesn't reach that far.
    fn put_front<H: Header>(&mut self, at: usize, header: &H) -> bool;

    /// Makes the frame so many octets longer in front, or shorter (`bpf_xdp_adjust_head`). What new octets hold is undefined. False if there
    /// is no room; nothing is changed then.
    fn grow(&mut self, by: i32) -> bool;

    /// See [`retag`]; a function of its own in the kernel.
    #[inline(always)]
    fn retag(&mut self, from: Tags, to: Tags) -> Option<bool>
    where
        Self: Sized,
    {
        retag(self, from, to)
    }
}

/// The tags of a frame, behind which offsets count from now on. Nothing if it is cut short. Offsets stop in front of a tag without
/// identifier (a priority alone) and of a third one: what stands there is none of the network protocols.
#[inline(always)]
pub(super) fn tags_of<P: Tagged>(packet: &mut P) -> Option<Tags> {
    let ethernet = packet.front::<Ethernet>(0)?;
    if !Tag::is_ethertype(ethernet.ethertype) {
        return Some(Tags::NONE);
    }
    // Twice EtherType and control information.
    let [a, b, c, d, e, f, g, h] = *packet.front::<[u8; 8]>(TAGS_AT)?;
    let inner = if Tag::is_ethertype([e, f]) {
        Tag::from_wire([e, f], [g, h])
    } else {
        Tag::NONE
    };
    let tags = Tags::new(Tag::from_wire([a, b], [c, d]), inner);
    packet.begin_at(tags.octets());
    Some(tags)
}

/// Writes destination and source of a frame.
#[inline(always)]
pub(super) fn readdress<P: Tagged>(packet: &mut P, link: [u32; 3]) -> bool {
    let mut index = 0;
    while index < link.len() {
        if !packet.put_front(index * 4, &link[index].to_ne_bytes()) {
            return false;
        }
        index += 1;
    }
    true
}

/// Gives a frame other tags; each has the priority of the one in whose place it is, or none. The addresses are lost where the number of tags
/// is another. False if there is no room for them: the frame is as it was then. Nothing if it is fit for nothing any more.
#[inline(always)]
pub fn retag<P: Tagged>(packet: &mut P, from: Tags, to: Tags) -> Option<bool> {
    let (before, after) = (from.octets(), to.octets());
    let priority_of = |index: usize| match packet.front::<[u8; 4]>(TAGS_AT + index * Tags::LEN) {
        Some([_, _, high, low]) if index * Tags::LEN < before => [*high, *low],
        _ => [0; 2],
    };
    let (outer, inner) = (priority_of(0), priority_of(1));
    if before != after && !packet.grow(after as i32 - before as i32) {
        return Some(false);
    }
    let has = |index: usize| after > index * Tags::LEN;
    if has(0) && !packet.put_front(TAGS_AT, &to.outer().to_wire(outer))
        || has(1) && !packet.put_front(TAGS_AT + Tags::LEN, &to.inner().to_wire(inner))
    {
        return None;
    }
    packet.begin_at(after);
    Some(true)
}
