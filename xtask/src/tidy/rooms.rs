//! Who may name which crate: the doors between the rooms, as ARCHITECTURE.md draws them.

use super::Finding;
use super::source::Source;

/// A crate and the places that may name it.
struct Door {
    name: &'static str,
    places: &'static [&'static str],
    purpose: &'static str,
}

const DOORS: [Door; 2] = [
    Door {
        name: "aya",
        places: &[
            "lb-userspace/src/kernel/",
            "lb-userspace/src/kernel.rs",
            "lb-userspace/src/tables/",
            "lb-userspace/src/tables.rs",
            "lb-common/",
            "tests/",
        ],
        purpose: "the kernel is reached through the rooms kernel and tables",
    },
    Door {
        name: "kube",
        places: &["lb-userspace/src/source/", "lb-userspace/src/source.rs"],
        purpose: "the Kubernetes API is reached through the room source",
    },
];

pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let closed = DOORS
        .iter()
        .filter(|door| !door.places.iter().any(|place| source.path.starts_with(place)));
    let mut findings = Vec::new();
    for door in closed {
        for (at, token) in source.tokens.iter().enumerate() {
            let imported = at > 0 && source.tokens[at - 1].is_word("use") && source.followed_by(at, &[";"]);
            if token.is_word(door.name) && (imported || source.followed_by(at, &[":", ":"])) {
                let message = format!(
                    "names the crate {}, which only {} may: {}",
                    door.name,
                    door.places.join(", "),
                    door.purpose
                );
                findings.push(Finding::new(source.path, token.line, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, code: &str) -> usize {
        check(&Source::read(path, code)).len()
    }

    #[test]
    fn aya_stays_in_its_rooms() {
        for path in [
            "lb-userspace/src/kernel/load.rs",
            "lb-userspace/src/tables/mod.rs",
            "lb-common/src/layout/pod.rs",
            "tests/tests/packets.rs",
        ] {
            assert_eq!(count(path, "use aya::Ebpf;"), 0, "{path}");
        }
        assert_eq!(count("lb-userspace/src/plan/mod.rs", "use aya::maps::Array;"), 1);
        assert_eq!(count("lb-userspace/src/cli/show.rs", "fn f(e: ::aya::EbpfError) {}"), 1);
        assert_eq!(count("lb-userspace/src/cli/show.rs", "use aya;"), 1);
        assert_eq!(
            count(
                "lb-userspace/src/plan/mod.rs",
                "// aya::x\nuse aya_log::y; let aya = 1;"
            ),
            0
        );
    }

    #[test]
    fn kube_stays_in_the_room_source() {
        assert_eq!(count("lb-userspace/src/source/kubernetes.rs", "use kube::Client;"), 0);
        assert_eq!(count("lb-userspace/src/model/store.rs", "use kube::Client;"), 1);
        assert_eq!(count("tests/src/lib.rs", "type C = kube::Client;"), 1);
    }
}
