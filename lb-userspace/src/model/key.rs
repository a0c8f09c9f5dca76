//! Names of objects: `namespace/name`, cheap to copy around.
//!
//! Here: the two keys by which the agent speaks of objects. Not here: anything about what the objects say.
//! Called by every room from the source to the reconciler, and by whatever prints a Service's name.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Makes a key type that is one shared allocation: a clone counts a reference, nothing is copied.
macro_rules! namespaced_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name {
            /// `namespace/name`.
            text: Arc<str>,
            namespace_len: usize,
        }

        impl $name {
            /// The key of the object called `name` in `namespace`.
            pub fn new(namespace: &str, name: &str) -> Self {
                Self { text: format!("{namespace}/{name}").into(), namespace_len: namespace.len() }
            }

            /// The namespace.
            pub fn namespace(&self) -> &str {
                &self.text[..self.namespace_len]
            }

            /// The name inside the namespace.
            pub fn name(&self) -> &str {
                &self.text[self.namespace_len + 1..]
            }
        }

        impl Ord for $name {
            /// By namespace, then by name. (The joined text would sort `a-b/x` before `a/x`.)
            fn cmp(&self, other: &Self) -> Ordering {
                (self.namespace(), self.name()).cmp(&(other.namespace(), other.name()))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.text)
            }
        }
    };
}

namespaced_key! {
    /// Which Service: `namespace/name`.
    ServiceKey
}

namespaced_key! {
    /// Which EndpointSlice: `namespace/name`.
    SliceKey
}

#[cfg(test)]
mod tests {
    use super::ServiceKey;

    #[test]
    fn a_key_gives_its_parts_back() {
        let key = ServiceKey::new("shop", "web");
        assert_eq!(
            (key.namespace(), key.name(), key.to_string()),
            ("shop", "web", "shop/web".to_owned())
        );
    }

    #[test]
    fn keys_sort_by_namespace_first() {
        assert!(ServiceKey::new("a", "z") < ServiceKey::new("a-b", "a"));
    }
}
