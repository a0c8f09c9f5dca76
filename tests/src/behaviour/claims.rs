//! Finding the tests that claim rows, in their sources.
//!
//! Here: reading names. Not here: whether they are enough (`page`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A row, or one sub-case of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimed {
    /// The row's number.
    pub number: u16,
    /// The sub-case; all of them if none is said.
    pub letter: Option<char>,
}

/// How a test shows what it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pure code.
    Host,
    /// The decision core on the host and the loaded program in tc.
    PacketTc,
    /// The same, and in XDP.
    PacketXdp,
    /// Real sockets in namespaces.
    Lab,
    /// Held against the oracle.
    Differential,
    /// The oracle itself: that it reads the reference right says nothing of Sluice.
    Oracle,
}

impl Kind {
    /// For the page.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "unit",
            Self::PacketTc => "packet (core, tc)",
            Self::PacketXdp => "packet (core, tc, XDP)",
            Self::Lab => "lab",
            Self::Differential => "differential",
            Self::Oracle => "oracle",
        }
    }

    /// What a test in this file shows, if its text is so.
    fn of(path: &str, test: &str) -> Self {
        if path.starts_with("tests/src/oracle/") {
            Self::Oracle
        } else if path.starts_with("tests/tests/host_differential") {
            Self::Differential
        } else if path.starts_with("tests/tests/lab_") {
            Self::Lab
        } else if path.starts_with("tests/tests/packet_") && !test.contains(".host_only(") {
            if test.contains("xdp") {
                Self::PacketXdp
            } else {
                Self::PacketTc
            }
        } else {
            Self::Host
        }
    }
}

/// A test's claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// What it claims.
    pub claimed: Claimed,
    /// How.
    pub kind: Kind,
    /// The file, from the root of the repository.
    pub path: String,
    /// The name that claims it.
    pub name: String,
}

/// All claims in the sources of tests.
///
/// # Errors
/// If a source can't be read.
pub fn all(root: &Path) -> Result<Vec<Claim>> {
    let mut claims = BTreeSet::new();
    for folder in ["lb-common/src", "lb-userspace/src", "tests/src", "tests/tests"] {
        for path in sources(&root.join(folder))? {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            // This folder speaks of claims and makes none.
            if !path.starts_with("tests/src/behaviour/") {
                claims.extend(in_source(&path, &text));
            }
        }
    }
    Ok(claims.into_iter().collect())
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The claims of one file: names of functions, of cases and in quotes, but not in comments.
fn in_source(path: &str, text: &str) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        if line.trim_start().starts_with("//") {
            continue;
        }
        for before in ["fn ", "case::", "\""] {
            for (at, _) in line.match_indices(before) {
                let rest = &line[at + before.len()..];
                let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
                let name = &rest[..end.unwrap_or(rest.len())];
                let kind = || Kind::of(path, test_at(text, start));
                claims.extend(in_name(name).into_iter().map(|claimed| Claim {
                    claimed,
                    kind: kind(),
                    path: path.to_owned(),
                    name: name.to_owned(),
                }));
            }
        }
    }
    claims
}

/// The text of the function around this place; between functions that of the next, whose cases these are.
fn test_at(text: &str, at: usize) -> &str {
    let around = text[..at]
        .rfind("fn ")
        .filter(|begins| !text[*begins..at].contains("\n}"));
    let begins = around
        .or_else(|| text[at..].find("fn ").map(|len| at + len))
        .unwrap_or(at);
    let ends = text[begins..].find("\n}").map_or(text.len(), |len| begins + len);
    &text[begins..ends]
}

/// What a name claims: nothing, unless it begins with `row_` or `rows_` and a number.
fn in_name(name: &str) -> Vec<Claimed> {
    let (is_one, rest) = match (name.strip_prefix("row_"), name.strip_prefix("rows_")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Vec::new(),
    };
    let mut claimed: Vec<Claimed> = Vec::new();
    let mut is_range = false;
    for word in rest.split('_') {
        match (word, read(word)) {
            (_, Some(row)) => {
                if let (true, Some(from)) = (is_range, claimed.last().copied()) {
                    let between = from.number + 1..row.number;
                    claimed.extend(between.map(|number| Claimed {
                        number,
                        letter: row.letter,
                    }));
                }
                claimed.push(row);
                if is_one {
                    break;
                }
                is_range = false;
            }
            ("to", _) if !is_one => is_range = true,
            ("and", _) if !is_one => {}
            _ => break,
        }
    }
    claimed
}

/// `45`, `045` or `59b`.
fn read(word: &str) -> Option<Claimed> {
    let digits = word.trim_end_matches(|char: char| char.is_ascii_lowercase());
    let mut letters = word[digits.len()..].chars();
    let letter = letters.next();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && letters.next().is_none())
        .then(|| digits.parse().ok())
        .flatten()
        .map(|number| Claimed { number, letter })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(name: &str) -> String {
        let words = in_name(name).into_iter().map(|claimed| {
            let letter = claimed.letter.map(String::from).unwrap_or_default();
            format!("{}{letter}", claimed.number)
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_claim_rows() {
        for (name, expected) in [
            ("row_45_pod_dials", "45"),
            ("row_045", "45"),
            ("row_59b_pod_to_cluster_ip", "59b"),
            ("row_8_2_endpoints", "8"),
            ("rows_59_to_61_all", "59 60 61"),
            ("rows_59b_to_61b_all", "59b 60b 61b"),
            ("rows_109_and_110_services", "109 110"),
            ("rows_1_to_3_and_7_and_9_to_10_x", "1 2 3 7 9 10"),
            ("row_of_houses", ""),
            ("rows_are_claimed", ""),
            ("a_row_45", ""),
            ("rowing_45", ""),
        ] {
            assert_eq!(claimed(name), expected, "{name}");
        }
    }

    #[test]
    fn claims_are_found_in_functions_cases_and_tables() {
        let text = "#[rstest]\n#[case::row_1_a(1)]\n#[case::row_2_b(\n    2,\n)]\nfn numbers() {\n    row().xdp(x)\n}\n\n\
                    // fn row_3_in_a_comment()\n#[test]\nfn row_4_d() {\n    play(\"row_5_e\");\n}\n\
                    fn row_6_f() {\n    row().xdp(x).host_only(\"why\")\n}\n";
        let claims = in_source("tests/tests/packet_x.rs", text);
        let found: Vec<(u16, Kind)> = claims.iter().map(|claim| (claim.claimed.number, claim.kind)).collect();
        let expected = [
            (1, Kind::PacketXdp),
            (2, Kind::PacketXdp),
            (4, Kind::PacketTc),
            (5, Kind::PacketTc),
            (6, Kind::Host),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_file_says_how_it_is_shown() {
        for (path, kind) in [
            ("tests/src/oracle/tests/external.rs", Kind::Oracle),
            ("tests/tests/host_differential.rs", Kind::Differential),
            ("tests/tests/lab_reach.rs", Kind::Lab),
            ("tests/tests/packet_flows.rs", Kind::PacketTc),
            ("tests/tests/host_scripts/main.rs", Kind::Host),
            ("lb-userspace/src/plan/tests/categorise.rs", Kind::Host),
        ] {
            assert_eq!(Kind::of(path, "fn x() {"), kind, "{path}");
        }
    }
}
