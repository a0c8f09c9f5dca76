//! Rules for every text file: no host of a package registry, no path of one person's machine, and (in scripts and
//! configuration) no word of unfinished work.

use super::Finding;
use super::code::marker_in;

/// Hosts that a build must reach through the clients' own settings, never by name. Written in halves, so that this file
/// passes its own rule.
const HOSTS: [&str; 13] = [
    concat!("crates", ".io"),
    concat!("static.rust-", "lang.org"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("proxy.", "golang.org"),
    concat!("deb.", "debian.org"),
    concat!("security.", "debian.org"),
    concat!("ftp.", "debian.org"),
    concat!("snapshot.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("apt.", "llvm.org"),
];

/// Folders that exist on one machine only.
const LOCAL_FOLDERS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ho", "me/")];

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    // Cargo writes where each package came from; that is its business.
    if path == "Cargo.lock" || path.ends_with("/Cargo.lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut find = |message: String| findings.push(Finding::new(path, index + 1, message));
        if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
            find(format!(
                "names {host}: packages come through their clients, as the machine sets them up"
            ));
        }
        if let Some(folder) = LOCAL_FOLDERS.iter().find(|folder| begins_a_path(line, folder)) {
            find(format!("a path under {folder} exists on one machine only"));
        }
        // Rust files have their own look-out, for comments only; documents may speak about such words.
        if let Some(marker) = marker_in(line).filter(|_| !path.ends_with(".rs") && !path.ends_with(".md")) {
            find(format!("{marker} stays behind: do it, or open an issue"));
        }
    }
    findings
}

/// The folder stands there as the beginning of a path, not in the middle of another.
fn begins_a_path(line: &str, folder: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | ')');
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(continues))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn registries_are_not_named() {
        for host in HOSTS {
            assert_eq!(
                found("README.md", &format!("fine\nsee https://{host}/x\n")).len(),
                1,
                "{host}"
            );
        }
        assert!(found("a.sh", &format!("\ncurl {}\n", HOSTS[2]))[0].starts_with("a.sh:2: names "));
        assert_eq!(
            found("README.md", "cargo install bpf-linker; docs.rs; debian.org\n"),
            [] as [&str; 0]
        );
        assert_eq!(
            found("lb-ebpf/Cargo.lock", &format!("source = \"registry+{}\"", HOSTS[0])),
            [] as [&str; 0]
        );
    }

    #[test]
    fn scripts_have_no_unfinished_work_either() {
        let line = format!("# {}: later\n", concat!("TO", "DO"));
        assert_eq!(found(".ci/run", &line).len(), 1);
        assert_eq!(found("docs/a.md", &line), [] as [&str; 0]);
        assert_eq!(found("a.yaml", "# done\n"), [] as [&str; 0]);
    }

    #[test]
    fn paths_of_one_machine_are_not_named() {
        for folder in LOCAL_FOLDERS {
            assert_eq!(
                found("a.md", &format!("in `{folder}main` it is\n")).len(),
                1,
                "{folder}"
            );
            assert_eq!(found("a.md", &format!("cd {folder}x\n")).len(), 1, "{folder}");
            assert_eq!(
                found("a.md", &format!("target{folder}x $ROOT{folder}x ${{R}}{folder}x\n")),
                [] as [&str; 0]
            );
        }
    }
}
