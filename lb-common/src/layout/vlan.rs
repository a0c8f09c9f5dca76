//! VLAN tags (IEEE 802.1Q) as tables hold them: which VLAN device on top of a card a frame belongs to, and which tags its frames have.

/// One tag: the identifier in the low 12 bits, and above them one that says by which EtherType it is told. Zero is none: identifier 0 is a
/// priority and no VLAN (IEEE 802.1Q §9.6).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tag(pub u16);

impl Tag {
    /// No tag.
    pub const NONE: Self = Self(0);
    /// EtherType of a customer's tag (802.1Q).
    pub const CUSTOMER: [u8; 2] = [0x81, 0x00];
    /// EtherType of a service provider's tag (802.1ad).
    pub const SERVICE: [u8; 2] = [0x88, 0xa8];
    /// The bits of an identifier.
    const IDENTIFIER: u16 = 0x0fff;
    const IS_SERVICE: u16 = 0x1000;

    /// Whether an EtherType is that of a tag.
    #[must_use]
    #[inline(always)]
    pub const fn is_ethertype([a, b]: [u8; 2]) -> bool {
        let ethertype = u16::from_ne_bytes([a, b]);
        ethertype == u16::from_ne_bytes(Self::CUSTOMER) || ethertype == u16::from_ne_bytes(Self::SERVICE)
    }

    /// The tag of an EtherType of tags and what follows it in the frame, without priority.
    #[must_use]
    #[inline(always)]
    pub const fn from_wire([a, b]: [u8; 2], control: [u8; 2]) -> Self {
        let identifier = u16::from_be_bytes(control) & Self::IDENTIFIER;
        if u16::from_ne_bytes([a, b]) == u16::from_ne_bytes(Self::SERVICE) && identifier != 0 {
            Self(identifier | Self::IS_SERVICE)
        } else {
            Self(identifier)
        }
    }

    /// The four octets in a frame, with the priority (PCP and DEI) that another frame's control information has.
    #[must_use]
    #[inline(always)]
    pub const fn to_wire(self, priority: [u8; 2]) -> [u8; 4] {
        let [a, b] = if self.0 & Self::IS_SERVICE != 0 {
            Self::SERVICE
        } else {
            Self::CUSTOMER
        };
        let control = u16::from_be_bytes(priority) & !Self::IDENTIFIER | self.0 & Self::IDENTIFIER;
        let [c, d] = control.to_be_bytes();
        [a, b, c, d]
    }
}

/// The tags of a frame from the outside in: the outer one in the low half.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tags(pub u32);

impl Tags {
    /// Untagged.
    pub const NONE: Self = Self(0);
    /// How many there may be.
    pub const MAX: usize = 2;
    /// Octets of one in a frame.
    pub const LEN: usize = 4;

    /// Two of them, of which the inner may be none; both, if there is no outer.
    #[must_use]
    #[inline(always)]
    pub const fn new(outer: Tag, inner: Tag) -> Self {
        Self(outer.0 as u32 | (inner.0 as u32) << 16)
    }

    /// The outer one.
    #[must_use]
    #[inline(always)]
    pub const fn outer(self) -> Tag {
        Tag(self.0 as u16)
    }

    /// The inner one.
    #[must_use]
    #[inline(always)]
    pub const fn inner(self) -> Tag {
        Tag((self.0 >> 16) as u16)
    }

    /// How many octets of a frame they take.
    #[must_use]
    #[inline(always)]
    pub const fn octets(self) -> usize {
        if self.outer().0 == 0 {
            0
        } else if self.inner().0 == 0 {
            Self::LEN
        } else {
            2 * Self::LEN
        }
    }
}

pod! {
    /// Where a frame of a VLAN is seen.
    #[derive(Hash, PartialOrd, Ord, Default)]
    pub struct VlanKey {
        /// The card by which it comes.
        pub ifindex: u32,
        /// Its tags.
        pub tags: Tags,
    }
    size: 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_and_written_back_with_another_frames_priority() {
        for (ethertype, word) in [(Tag::CUSTOMER, 0x0064), (Tag::SERVICE, 0x1064)] {
            let tag = Tag::from_wire(ethertype, [0xb0, 0x64]);
            assert_eq!(tag, Tag(word), "without the priority");
            assert_eq!(tag.to_wire([0x5f, 0xff]), [ethertype[0], ethertype[1], 0x50, 0x64]);
        }
        assert_eq!(Tag::from_wire(Tag::SERVICE, [0xe0, 0]), Tag::NONE, "a priority alone");
    }

    #[test]
    fn a_frame_is_longer_by_its_tags() {
        let (outer, inner) = (Tag(0x1064), Tag(200));
        assert_eq!(Tags::NONE.octets(), 0);
        assert_eq!(Tags::new(outer, Tag::NONE).octets(), 4);
        let both = Tags::new(outer, inner);
        assert_eq!((both.octets(), both.outer(), both.inner()), (8, outer, inner));
    }
}
