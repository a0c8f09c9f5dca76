//! The one macro through which a struct becomes plain data that kernel and agent exchange byte for byte.
//!
//! It lays the struct out as C would, refuses hidden padding (whose bytes the kernel would compare in keys), asserts
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

// SAFETY: octets and nothing else, aligned for whole words, of which they fill a whole number: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for super::Ip4 {}
// SAFETY: the same.
#[cfg(feature = "user")]
unsafe impl aya::Pod for super::Ip6 {}
