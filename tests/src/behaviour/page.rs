//! The page that says which row is shown by which test, and what is missing of it.
//!
//! Here: putting rows and claims together. Not here: either of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::claims::{Claim, Kind};
use super::rows::{Proof, Row, SECTIONS, all};

/// Where it is, from the root of the repository.
pub const PATH: &str = "docs/behaviour.md";

const HEAD: &str = "\
# Behaviour

What kube-proxy does, row by row, and the tests that show that Sluice does it, too. Made from `tests/src/behaviour/rows.rs` and
the names of tests: `SLUICE_UPDATE_BEHAVIOUR=1 cargo test -p tests --test host_behaviour` writes it.

A test claims a row by its name, or by that of one of its cases: `row_45_…`, `row_59b_…`, `rows_59_to_61_…`. *unit* is pure code;
*packet* runs through the decision core on the host and the loaded programs, and both must do the same; *lab* is real sockets in
network namespaces; *differential* is random cases against a model of the rules that shares no code with Sluice. Where the modes
of kube-proxy disagree, the rows are those of nftables, unless the list at the end says otherwise.

";

/// Does this claim show what the row needs?
fn shows(claim: &Claim, needs: Proof) -> bool {
    match (claim.kind, needs) {
        (Kind::Oracle, _) => false,
        (kind, Proof::Packet) => matches!(kind, Kind::PacketTc | Kind::PacketXdp),
        (kind, Proof::Stack) => kind == Kind::Lab,
        (_, Proof::Planner | Proof::Health) => true,
    }
}

fn about<'c>(claims: &'c [Claim], row: &Row) -> impl Iterator<Item = &'c Claim> {
    let number = row.number;
    claims.iter().filter(move |claim| claim.claimed.number == number)
}

/// Is the row, or each of its sub-cases, claimed in a way that is good enough?
fn is_claimed(claims: &[Claim], row: &Row, enough: impl Fn(&Claim) -> bool) -> bool {
    let letters: BTreeSet<Option<char>> = about(claims, row)
        .filter(|claim| enough(claim))
        .map(|claim| claim.claimed.letter)
        .collect();
    letters.contains(&None) || (!row.cases.is_empty() && row.letters().all(|letter| letters.contains(&Some(letter))))
}

/// The rows that no test of Sluice claims at all.
#[must_use]
pub fn unclaimed(claims: &[Claim]) -> Vec<u16> {
    let rows = all().filter(|row| !is_claimed(claims, row, |claim| claim.kind != Kind::Oracle));
    rows.map(|row| row.number).collect()
}

/// The rows that need this proof and are claimed by no test that gives it.
#[must_use]
pub fn unproven(claims: &[Claim], proof: Proof) -> Vec<u16> {
    let rows = all().filter(|row| row.needs == proof && !is_claimed(claims, row, |claim| shows(claim, proof)));
    rows.map(|row| row.number).collect()
}

/// The rows up to this one that no test of the oracle claims.
#[must_use]
pub fn unread_by_the_oracle(claims: &[Claim], last: u16) -> Vec<u16> {
    let rows = all().filter(|row| row.number <= last);
    let unread = rows.filter(|row| !is_claimed(claims, row, |claim| claim.kind == Kind::Oracle));
    unread.map(|row| row.number).collect()
}

/// Claims of rows and sub-cases that there are not.
#[must_use]
pub fn unknown(claims: &[Claim]) -> Vec<String> {
    let known = |claim: &&Claim| {
        all().any(|row| {
            let letter = claim.claimed.letter;
            row.number == claim.claimed.number && letter.is_none_or(|letter| row.letters().any(|known| known == letter))
        })
    };
    let strangers = claims.iter().filter(|claim| !known(claim));
    strangers
        .map(|claim| format!("{}: {}", claim.path, claim.name))
        .collect()
}

/// `unit lb-userspace/src/plan/tests/categorise.rs (3); packet …`.
fn tests_of(claims: &[Claim], row: &Row, letter: Option<char>) -> String {
    let mut files: BTreeMap<(Kind, &str), usize> = BTreeMap::new();
    let relevant = about(claims, row).filter(|claim| {
        claim.kind != Kind::Oracle && (claim.claimed.letter == letter || claim.claimed.letter.is_none())
    });
    for claim in relevant {
        *files.entry((claim.kind, &claim.path)).or_default() += 1;
    }
    let texts = files.into_iter().map(|((kind, path), count)| {
        let times = if count == 1 {
            String::new()
        } else {
            format!(" ({count})")
        };
        format!("{} `{path}`{times}", kind.name())
    });
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() {
        "**none**".to_owned()
    } else {
        texts.join("; ")
    }
}

/// The whole page.
#[must_use]
pub fn page(claims: &[Claim]) -> String {
    let mut text = HEAD.to_owned();
    let put = |text: &mut String, line: &str| writeln!(text, "{line}").expect("a String takes everything");
    put(&mut text, &summary(claims));
    for section in SECTIONS {
        put(&mut text, &format!("\n## {}\n\n{}\n", section.title, section.given));
        put(&mut text, "| row | what it says | needs | tests |\n|---|---|---|---|");
        for row in section.rows {
            let mark = if row.differs.is_some() { "\\*" } else { "" };
            let (number, says, needs) = (row.number, row.says, row.needs.name());
            if row.cases.is_empty() {
                put(
                    &mut text,
                    &format!(
                        "| {number}{mark} | {says} | {needs} | {} |",
                        tests_of(claims, row, None)
                    ),
                );
                continue;
            }
            put(&mut text, &format!("| {number}{mark} | {says} | {needs} | |"));
            for (letter, case) in row.letters().zip(row.cases) {
                let tests = tests_of(claims, row, Some(letter));
                put(&mut text, &format!("| {number}{letter} | {case} | {needs} | {tests} |"));
            }
        }
    }
    put(
        &mut text,
        "\n## Where Sluice differs on purpose\n\n| row | what it says | Sluice | why |\n|---|---|---|---|",
    );
    for row in all() {
        if let Some((how, why)) = row.differs {
            put(&mut text, &format!("| {} | {} | {how} | {why} |", row.number, row.says));
        }
    }
    text
}

fn summary(claims: &[Claim]) -> String {
    let rows = all().count();
    let claimed = rows - unclaimed(claims).len();
    let about_packets = all().filter(|row| row.needs == Proof::Packet).count();
    let by_packets = about_packets - unproven(claims, Proof::Packet).len();
    format!(
        "{claimed} of {rows} rows are claimed by a test; {by_packets} of the {about_packets} about packets by a packet in the \
         core and the loaded programs."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::claims::Claimed;

    fn claim(number: u16, letter: Option<char>, kind: Kind) -> Claim {
        Claim {
            claimed: Claimed { number, letter },
            kind,
            path: "tests/tests/x.rs".to_owned(),
            name: format!("row_{number}"),
        }
    }

    #[test]
    fn a_row_is_proven_by_the_right_kind_of_test_only() {
        for (kind, is_enough) in [
            (Kind::Host, false),
            (Kind::Oracle, false),
            (Kind::PacketTc, true),
            (Kind::PacketXdp, true),
        ] {
            assert_eq!(
                !unproven(&[claim(1, None, kind)], Proof::Packet).contains(&1),
                is_enough,
                "{kind:?}"
            );
        }
        assert!(unclaimed(&[claim(1, None, Kind::Oracle)]).contains(&1));
        assert!(!unclaimed(&[claim(1, None, Kind::Host)]).contains(&1));
    }

    #[test]
    fn a_row_with_sub_cases_needs_all_of_them() {
        let claims = |letters: &str| -> Vec<Claim> {
            letters
                .chars()
                .map(|letter| claim(59, Some(letter), Kind::PacketTc))
                .collect()
        };
        assert!(unproven(&claims("ab"), Proof::Packet).contains(&59));
        assert!(!unproven(&claims("abc"), Proof::Packet).contains(&59));
        assert!(!unproven(&[claim(59, None, Kind::PacketTc)], Proof::Packet).contains(&59));
        assert_eq!(unknown(&claims("abcd")), ["tests/tests/x.rs: row_59"]);
    }
}
