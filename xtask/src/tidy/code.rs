//! Rules for every Rust file: how it begins, how it is named, how long it is, and what must not stay behind in it.

use std::ops::Range;

use super::Finding;
use super::source::{Kind, Source};

const LINES_MAX: usize = 600;

/// Names that say nothing of what is inside. A function lives with the noun it serves.
const DRAWERS: [&str; 7] = ["utils", "util", "misc", "helpers", "helper", "common", "stuff"];

/// Words of unfinished work in comments, and macros that stand for it.
const MARKERS: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
const MARKER_MACROS: [&str; 2] = [concat!("to", "do"), concat!("un", "implemented")];

pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line, message: String| findings.push(Finding::new(source.path, line, message));
    if !source.text.starts_with("//!") {
        find(
            1,
            "does not begin with a `//!` comment that says what lives here".into(),
        );
    }
    if let Some(name) = drawer(source.path) {
        find(
            1,
            format!("`{name}` says nothing of what is inside: name the file for its noun"),
        );
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        find(
            LINES_MAX + 1,
            format!("has {lines} lines, more than {LINES_MAX}: split it by concern"),
        );
    }
    for (line, marker) in markers(source) {
        find(line, format!("{marker} stays behind: do it, or open an issue"));
    }
    for attribute in source.attributes() {
        let line = source.tokens.get(attribute.start).map_or(1, |token| token.line);
        if let Some(lint) = exception_without_reason(source, attribute.clone()) {
            find(line, format!("{lint} without `reason = \"…\"`"));
        }
        if is_ignore(source, attribute) {
            find(
                line,
                "an ignored test: let it run, or let it print a SKIP line that says why it cannot".into(),
            );
        }
    }
    findings
}

/// The file's name, or its folder's where the file is mod.rs, if it is one of the drawers.
fn drawer(path: &str) -> Option<&str> {
    let mut parts = path.trim_end_matches(".rs").rsplit('/');
    let name = parts.next()?;
    let name = if name == "mod" { parts.next()? } else { name };
    DRAWERS.contains(&name).then_some(name)
}

/// A word of unfinished work in a line of a comment, if there is one.
pub(super) fn marker_in(line: &str) -> Option<&'static str> {
    let has = |marker: &&str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == *marker);
    MARKERS.into_iter().find(has)
}

fn markers(source: &Source<'_>) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for comment in &source.comments {
        let lines = comment.text.lines().enumerate();
        found.extend(lines.filter_map(|(offset, line)| Some((comment.lines.start + offset, marker_in(line)?))));
    }
    for (at, token) in source.tokens.iter().enumerate() {
        let marker = MARKER_MACROS.iter().find(|marker| token.is_word(marker));
        found.extend(
            marker
                .filter(|_| source.followed_by(at, &["!"]))
                .map(|marker| (token.line, *marker)),
        );
    }
    found
}

/// `allow(…)` or `expect(…)` anywhere in the attribute, whose brackets give no reason.
fn exception_without_reason<'a>(source: &Source<'a>, attribute: Range<usize>) -> Option<&'a str> {
    let exceptions = attribute.filter(|at| {
        let token = &source.tokens[*at];
        (token.is_word("allow") || token.is_word("expect")) && source.followed_by(*at, &["("])
    });
    let gives_reason = |at: usize| {
        let inside = at + 2..source.closing(at + 1);
        inside
            .clone()
            .any(|at| source.tokens[at].is_word("reason") && source.followed_by(at, &["="]))
    };
    exceptions
        .filter(|at| !gives_reason(*at))
        .map(|at| source.tokens[at].text)
        .next()
}

/// `ignore` as the attribute itself, or as one that `cfg_attr` adds.
fn is_ignore(source: &Source<'_>, attribute: Range<usize>) -> bool {
    let tokens = &source.tokens[attribute];
    let adds = tokens.first().is_some_and(|first| first.is_word("cfg_attr"));
    tokens.iter().enumerate().any(|(at, token)| {
        let stands_alone = at == 0 || (adds && tokens[at - 1].kind == Kind::Sign && tokens[at - 1].text == ",");
        token.is_word("ignore") && stands_alone
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&Source::read(path, text))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Findings in a file that begins as it should.
    fn count(code: &str) -> usize {
        messages("a.rs", &format!("//! Doc.\n{code}")).len()
    }

    #[test]
    fn a_file_says_what_lives_in_it() {
        assert_eq!(messages("a.rs", "//! Doc.\n"), [] as [&str; 0]);
        assert!(messages("a.rs", "use std::fs;\n")[0].starts_with("a.rs:1: does not begin with"));
        assert_eq!(messages("a.rs", "\n//! Late.\n").len(), 1);
    }

    #[test]
    fn drawers_without_a_label_are_refused() {
        for bad in [
            "lb-common/src/utils.rs",
            "a/misc.rs",
            "tests/tests/common/mod.rs",
            "src/helpers.rs",
        ] {
            assert_eq!(messages(bad, "//! Doc.\n").len(), 1, "{bad}");
        }
        for good in [
            "lb-common/src/layout/mod.rs",
            "lb-common/src/lib.rs",
            "src/common_case.rs",
        ] {
            assert_eq!(messages(good, "//! Doc.\n"), [] as [&str; 0], "{good}");
        }
    }

    #[test]
    fn six_hundred_lines_are_the_limit() {
        assert_eq!(
            messages("a.rs", &format!("//! Doc.\n{}", "\n".repeat(599))),
            [] as [&str; 0]
        );
        let found = messages("a.rs", &format!("//! Doc.\n{}", "\n".repeat(600)));
        assert!(found[0].starts_with("a.rs:601: has 601 lines"), "{found:?}");
    }

    #[test]
    fn unfinished_work_is_found_in_comments_and_code() {
        let [marker, other] = MARKERS;
        assert_eq!(count(&format!("// {marker}: later\n")), 1);
        assert_eq!(count(&format!("/* x\n {other}(me) */\n")), 1);
        assert_eq!(count(&format!("fn f() {{ {}!() }}", MARKER_MACROS[0])), 1);
        assert_eq!(count(&format!("fn f() {{ {}!(\"x\") }}", MARKER_MACROS[1])), 1);
        assert_eq!(count(&format!("let s = \"{marker}\"; // AU{marker}MATIC\n")), 0);
        assert_eq!(count("fn todo_list() { todo(); }"), 0);
    }

    #[test]
    fn a_marker_in_a_long_comment_is_found_on_its_line() {
        let found = messages("a.rs", &format!("//! Doc.\n/* a\n b {} */\n", MARKERS[0]));
        assert!(found[0].starts_with("a.rs:3: "), "{found:?}");
    }

    #[test]
    fn exceptions_give_a_reason() {
        assert_eq!(
            count("#[expect(dead_code, reason = \"the kernel reads it\")]\nfn f() {}"),
            0
        );
        assert_eq!(count("#[allow(dead_code)]\nfn f() {}"), 1);
        assert_eq!(count("#![expect(missing_docs)]"), 1);
        assert_eq!(count("#[cfg_attr(test, allow(dead_code))]\nfn f() {}"), 1);
        assert_eq!(
            count("#[cfg_attr(test, allow(dead_code, reason = \"x\"))]\nfn f() {}"),
            0
        );
        assert_eq!(count("fn f() { x.expect(\"y\"); allow(1) }"), 0);
    }

    #[test]
    fn tests_are_not_ignored() {
        assert_eq!(count("#[test]\n#[ignore]\nfn f() {}"), 1);
        assert_eq!(count("#[ignore = \"slow\"]\nfn f() {}"), 1);
        assert_eq!(count("#[cfg_attr(miri, ignore)]\nfn f() {}"), 1);
        assert_eq!(count("#[serde(default, ignore)]\nstruct S;"), 0);
    }
}
