//! The macro through which a struct becomes plain data that kernel and agent exchange byte for byte, and the one for words of bits.
//!
//! The first lays the struct out as C would, refuses hidden padding (whose bytes the kernel would compare in keys), asserts
//! the size for both address families, and marks it for aya's userspace maps under the feature `user`.

macro_rules! pod {
    (
        $(#[$attr:meta])*
        pub struct $name:ident<A> { $($(#[$field_attr:meta])* pub $field:ident : $ty:ty,)* }
        sizes: $size4:literal, $size6:literal;
    ) => {
        // Aligned for whole-word access: the kernel refuses any other to the stack, where these are put together.
        $(#[$attr])*
        #[repr(C, align(8))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<A: $crate::layout::Address> { $($(#[$field_attr])* pub $field: $ty,)* }

        const _: () = {
            const fn packed_len<A: $crate::layout::Address>() -> usize { 0 $(+ size_of::<$ty>())* }
            assert!(packed_len::<$crate::layout::Ip4>() == $size4, "fields add up to another size for IPv4");
            assert!(packed_len::<$crate::layout::Ip6>() == $size6, "fields add up to another size for IPv6");
            assert!(size_of::<$name<$crate::layout::Ip4>>() == $size4, "hidden padding for IPv4");
            assert!(size_of::<$name<$crate::layout::Ip6>>() == $size6, "hidden padding for IPv6");
        };

        // SAFETY: `repr(C)` without padding (asserted above) over integers and byte arrays: every bit pattern is
        // valid and nothing is a reference.
        #[cfg(feature = "user")]
        unsafe impl<A: $crate::layout::Address> aya::Pod for $name<A> {}
    };
    (
        $(#[$attr:meta])*
        pub struct $name:ident { $($(#[$field_attr:meta])* pub $field:ident : $ty:ty,)* }
        size: $size:literal;
    ) => {
        $(#[$attr])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$field_attr])* pub $field: $ty,)* }

        const _: () = {
            assert!(0 $(+ size_of::<$ty>())* == $size, "fields add up to another size");
            assert!(size_of::<$name>() == $size, "hidden padding");
        };

        // SAFETY: `repr(C)` without padding (asserted above) over integers and byte arrays: every bit pattern is
        // valid and nothing is a reference.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

/// What can be asked of a word of bits, and made of two.
macro_rules! bits {
    ($name:ident) => {
        impl $name {
            /// Whether all bits of `other` are set.
            #[must_use]
            #[inline(always)]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any bit of `other` is set.
            #[must_use]
            #[inline(always)]
            pub const fn any(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The union of both.
            #[must_use]
            #[inline(always)]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Of its bits those of `other`.
            #[must_use]
            #[inline(always)]
            pub const fn only(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Without the bits of `other`.
            #[must_use]
            #[inline(always)]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }
    };
}

// SAFETY: octets and nothing else, aligned for whole words, of which they fill a whole number: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for super::Ip4 {}
// SAFETY: the same.
#[cfg(feature = "user")]
unsafe impl aya::Pod for super::Ip6 {}
