//! Where `unsafe` may stand, and that each one says why it is sound.

use std::collections::BTreeMap;

use super::Finding;
use super::source::Source;

/// The document that lists the files, and the heading they stand under.
pub(super) const LIST: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Unsafe";

/// Files that may say `unsafe`, with the line that lists each.
#[derive(Debug, Default)]
pub(super) struct Listed {
    lines: BTreeMap<String, usize>,
}

impl Listed {
    /// Reads the paths to Rust files in backticks, from the heading to the next one of its rank or above.
    pub(super) fn read(document: &str) -> Self {
        let mut lines = BTreeMap::new();
        let mut inside = false;
        for (index, line) in document.lines().enumerate() {
            if line.starts_with("## ") || line.starts_with("# ") {
                inside = line.trim_end() == HEADING;
            } else if inside {
                let quoted = line.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs"));
                lines.extend(quoted.map(|path| (path.to_owned(), index + 1)));
            }
        }
        Self { lines }
    }

    /// The list stays true: it names no file that says no `unsafe` (any more).
    pub(super) fn check_all_used(&self, with_unsafe: &[&str]) -> Vec<Finding> {
        let unused = self
            .lines
            .iter()
            .filter(|(path, _)| !with_unsafe.contains(&path.as_str()));
        let finding = |(path, line): (&String, &usize)| {
            Finding::new(
                LIST,
                *line,
                format!("lists {path}, which has no unsafe: take it off the list"),
            )
        };
        unused.map(finding).collect()
    }
}

pub(super) fn first_unsafe(source: &Source<'_>) -> Option<usize> {
    source
        .tokens
        .iter()
        .find(|token| token.is_word("unsafe"))
        .map(|token| token.line)
}

pub(super) fn check(source: &Source<'_>, listed: &Listed) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(line) = first_unsafe(source)
        && !listed.lines.contains_key(source.path)
    {
        let message = format!("unsafe, but {LIST} does not list this file under `{HEADING}`");
        findings.push(Finding::new(source.path, line, message));
    }
    for (at, token) in source.tokens.iter().enumerate() {
        let next = source.tokens.get(at + 1);
        let claims = next.is_some_and(|next| next.is_sign("{") || next.is_word("impl"));
        if token.is_word("unsafe") && claims && !says_why(source, token.line) {
            let message = "unsafe without a SAFETY comment right above it: say why this use is sound";
            findings.push(Finding::new(source.path, token.line, message));
        }
    }
    findings
}

/// A comment with SAFETY on this line, or above the statement that this line belongs to.
fn says_why(source: &Source<'_>, line: usize) -> bool {
    let safety_on = |line| source.comments_on(line).any(|comment| comment.text.contains("SAFETY"));
    if safety_on(line) {
        return true;
    }
    for above in (1..line).rev() {
        if safety_on(above) {
            return true;
        }
        match source.last_token_on(above) {
            // A line of comment goes on upwards; an empty one ends the search.
            None if source.comments_on(above).next().is_none() => return false,
            None => {}
            // The line before ended another statement, arm or block.
            Some(token) if matches!(token.text, ";" | "{" | "}" | ",") => return false,
            // An attribute, or the beginning of the same statement.
            Some(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(code: &str) -> Vec<String> {
        let listed = Listed::read("## Unsafe\n`a.rs`");
        check(&Source::read("a.rs", code), &listed)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_list_is_read_from_its_own_section() {
        let listed = Listed::read(
            "# A\n`x.rs`\n## Unsafe\nThe files `a/b.rs` and\n- `c.rs`: with `unsafe fn`\n### More\n`d.rs`\n## Next\n`e.rs`\n",
        );
        assert_eq!(
            listed.lines.into_iter().collect::<Vec<_>>(),
            [("a/b.rs".to_owned(), 4), ("c.rs".to_owned(), 5), ("d.rs".to_owned(), 7)]
        );
    }

    #[test]
    fn a_file_that_is_not_listed_may_not() {
        let code = "// SAFETY: fine.\nunsafe { f() }";
        assert_eq!(findings(code), [] as [&str; 0]);
        let found = check(&Source::read("b.rs", code), &Listed::default());
        assert_eq!((found.len(), found[0].line), (1, 2));
        assert!(found[0].message.contains("does not list this file"));
    }

    #[test]
    fn words_about_unsafe_are_not_unsafe() {
        let code = "#![forbid(unsafe_code)]\n// unsafe { }\nlet s = \"unsafe {\";";
        assert!(check(&Source::read("b.rs", code), &Listed::default()).is_empty());
    }

    #[test]
    fn every_block_and_impl_says_why() {
        for good in [
            "// SAFETY: one.\nunsafe impl Pod for X {}",
            "// SAFETY: it is long\n// and goes on.\nlet x =\n    unsafe { f() };",
            "// SAFETY: s.\n#[inline]\nunsafe impl Send for X {}",
            "let x = unsafe { f() }; // SAFETY: short.",
            "/* SAFETY: block */\nunsafe { f() }",
            "unsafe fn f() {}",
        ] {
            assert_eq!(findings(good), [] as [&str; 0], "{good}");
        }
        for bad in [
            "unsafe { f() }",
            "// SAFETY: of another.\nlet a = 1;\nunsafe { f() }",
            "// SAFETY: too far.\n\nunsafe { f() }",
            "match x {\n    // SAFETY: of the first.\n    A => unsafe { f() },\n    B => unsafe { g() },\n}",
            "// why not\nunsafe impl Pod for X {}",
        ] {
            assert_eq!(findings(bad).len(), 1, "{bad}: {:?}", findings(bad));
        }
    }

    #[test]
    fn a_listed_file_without_unsafe_comes_off_the_list() {
        let listed = Listed::read("## Unsafe\n`a.rs` `b.rs`");
        let found = listed.check_all_used(&["a.rs"]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "ARCHITECTURE.md:2: lists b.rs, which has no unsafe: take it off the list"
        );
    }
}
