//! A Rust file as tokens and comments, each with its line. The compiler's lexer does the splitting, so words in strings
//! and comments are never taken for code.

use ra_ap_rustc_lexer::{FrontmatterAllowed, TokenKind, strip_shebang, tokenize};
use std::ops::Range;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Literal,
    /// One character; `::` is two.
    Sign,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: usize,
}

impl Token<'_> {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }
}

#[derive(Debug)]
pub(super) struct Comment<'a> {
    pub(super) text: &'a str,
    pub(super) lines: Range<usize>,
}

#[derive(Debug)]
pub(super) struct Source<'a> {
    /// Relative to the repository, with `/`.
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) comments: Vec<Comment<'a>>,
}

impl<'a> Source<'a> {
    pub(super) fn read(path: &'a str, text: &'a str) -> Self {
        let mut source = Self {
            path,
            text,
            tokens: Vec::new(),
            comments: Vec::new(),
        };
        let mut at = strip_shebang(text).unwrap_or(0);
        let mut line = 1;
        for token in tokenize(&text[at..], FrontmatterAllowed::No) {
            let end = at + token.len as usize;
            let part = &text[at..end];
            let last_line = line + part.matches('\n').count();
            let kind = match token.kind {
                TokenKind::LineComment { .. } | TokenKind::BlockComment { .. } => {
                    source.comments.push(Comment {
                        text: part,
                        lines: line..last_line + 1,
                    });
                    None
                }
                TokenKind::Whitespace => None,
                TokenKind::Ident | TokenKind::RawIdent => Some(Kind::Word),
                TokenKind::Literal { .. } => Some(Kind::Literal),
                _ => Some(Kind::Sign),
            };
            source.tokens.extend(kind.map(|kind| Token { kind, text: part, line }));
            (at, line) = (end, last_line);
        }
        source
    }

    /// The tokens after `at`, as many as `signs`, are exactly these signs.
    pub(super) fn followed_by(&self, at: usize, signs: &[&str]) -> bool {
        let after = self.tokens.get(at + 1..at + 1 + signs.len());
        after.is_some_and(|tokens| tokens.iter().zip(signs).all(|(token, sign)| token.is_sign(sign)))
    }

    /// What stands between the brackets of every `#[…]` and `#![…]`, as ranges of tokens.
    pub(super) fn attributes(&self) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            if !self.tokens[at].is_sign("#") {
                continue;
            }
            let open = if self.followed_by(at, &["!", "["]) {
                at + 2
            } else {
                at + 1
            };
            if self.tokens.get(open).is_some_and(|token| token.is_sign("[")) {
                found.push(open + 1..self.closing(open));
            }
        }
        found
    }

    /// Where the bracket opened at `open` closes, or the end of the file.
    pub(super) fn closing(&self, open: usize) -> usize {
        let mut depth = 0usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match (token.kind, token.text) {
                (Kind::Sign, "(" | "[" | "{") => depth += 1,
                (Kind::Sign, ")" | "]" | "}") => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len()
    }

    pub(super) fn comments_on(&self, line: usize) -> impl Iterator<Item = &Comment<'a>> {
        self.comments
            .iter()
            .filter(move |comment| comment.lines.contains(&line))
    }

    /// The last token that begins on this line.
    pub(super) fn last_token_on(&self, line: usize) -> Option<&Token<'a>> {
        self.tokens.iter().rev().find(|token| token.line == line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comments_and_strings_are_told_apart() {
        let source = Source::read(
            "a.rs",
            "// unsafe\nlet s = \"unsafe {\";\n/* unsafe\n */ unsafe { x::y }\n",
        );
        let words: Vec<_> = source.tokens.iter().filter(|token| token.kind == Kind::Word).collect();
        assert_eq!(
            words.iter().map(|word| word.text).collect::<Vec<_>>(),
            ["let", "s", "unsafe", "x", "y"]
        );
        assert_eq!(words[2].line, 4);
        assert_eq!(source.comments.len(), 2);
        assert_eq!(source.comments[1].lines, 3..5);
    }

    #[test]
    fn attributes_end_at_their_own_bracket() {
        let source = Source::read("a.rs", "#![no_std]\n#[cfg_attr(test, allow(x[0]))]\nfn f() { a[0] }");
        let texts: Vec<String> = source
            .attributes()
            .into_iter()
            .map(|range| source.tokens[range].iter().map(|token| token.text).collect())
            .collect();
        assert_eq!(texts, ["no_std", "cfg_attr(test,allow(x[0]))"]);
    }

    #[test]
    fn characters_and_lifetimes_do_not_open_strings() {
        let source = Source::read("a.rs", "fn f<'a>(c: &'a u8) { let q = '\"'; unsafe {} }");
        assert!(source.tokens.iter().any(|token| token.is_word("unsafe")));
    }
}
