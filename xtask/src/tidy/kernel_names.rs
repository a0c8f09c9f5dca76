//! Names of maps and programs: the kernel keeps fifteen bytes and aya cuts off the rest without a word, so that two
//! long names can look the same in bpftool.

use super::Finding;
use super::source::{Kind, Source, Token};

/// What fits into the kernel's field beside the closing zero.
const NAME_BYTES_MAX: usize = 15;

/// Attributes of aya-ebpf that make a map or a program of the item below.
const ATTRIBUTES: [&str; 12] = [
    "btf_map",
    "map",
    "xdp",
    "classifier",
    "cgroup_sock_addr",
    "cgroup_sock",
    "cgroup_skb",
    "cgroup_sockopt",
    "sk_lookup",
    "sk_skb",
    "sock_ops",
    "raw_tracepoint",
];

pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for attribute in source.attributes() {
        let inside = &source.tokens[attribute.clone()];
        if !last_of_path(inside).is_some_and(|name| ATTRIBUTES.contains(&name)) {
            continue;
        }
        let Some(name) = name_given(inside).or_else(|| name_of_item(&source.tokens[attribute.end..])) else {
            continue;
        };
        let text = name.text.trim_matches('"');
        if text.len() > NAME_BYTES_MAX {
            let message = format!(
                "{text} has {} bytes; the kernel keeps {NAME_BYTES_MAX} of a map's or program's name",
                text.len()
            );
            findings.push(Finding::new(source.path, name.line, message));
        }
    }
    findings
}

/// `xdp` of `aya_ebpf::macros::xdp(frags)`.
fn last_of_path<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let path = tokens
        .iter()
        .take_while(|token| token.kind == Kind::Word || token.is_sign(":"));
    path.filter(|token| token.kind == Kind::Word)
        .last()
        .map(|token| token.text)
}

/// `"X"` of `map(name = "X")`.
fn name_given<'a>(tokens: &[Token<'a>]) -> Option<Token<'a>> {
    let at = tokens.iter().position(|token| token.is_word("name"))?;
    let literal = tokens.get(at + 2)?;
    (tokens[at + 1].is_sign("=") && literal.kind == Kind::Literal).then_some(*literal)
}

/// The word after the next `static` or `fn`; none inside a macro, where a `$` stands for it.
fn name_of_item<'a>(tokens: &[Token<'a>]) -> Option<Token<'a>> {
    let at = tokens
        .iter()
        .position(|token| token.is_word("static") || token.is_word("fn"))?;
    let name = tokens[at + 1..].iter().find(|token| !token.is_word("mut"))?;
    (name.kind == Kind::Word).then_some(*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(code: &str) -> Vec<String> {
        check(&Source::read("lb-ebpf/src/x.rs", code))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn fifteen_bytes_fit() {
        for good in [
            "#[btf_map]\npub static LB4_SRC_RANGES_: Array<u8, 1> = Array::new();",
            "#[classifier]\npub fn lb_getpeernam15(c: TcContext) -> i32 { 0 }",
            "#[xdp(frags)]\n#[inline(never)]\nfn lb_xdp() {}",
            "#[map(name = \"SHORT\")]\nstatic A_LONG_NAME_THAT_IS_NOT_USED: u8 = 0;",
            "#[btf_map]\nstatic $name: u8 = 0;",
            "static A_LONG_NAME_OF_NO_MAP: u8 = 0;",
        ] {
            assert_eq!(findings(good), [] as [&str; 0], "{good}");
        }
    }

    #[test]
    fn sixteen_do_not() {
        for bad in [
            "#[btf_map]\nstatic LB4_SRC_RANGES__: u8 = 0;",
            "#[classifier]\npub fn lb_getpeername16(c: TcContext) -> i32 { 0 }",
            "#[aya_ebpf::macros::xdp]\npub extern \"C\" fn a_long_program_name() {}",
            "#[map(name = \"A_LONG_NAME_GIVEN\")]\nstatic X: u8 = 0;",
        ] {
            assert_eq!(findings(bad).len(), 1, "{bad}");
        }
        assert_eq!(
            findings("#[btf_map]\nstatic LB4_SRC_RANGES__: u8 = 0;")[0],
            "lb-ebpf/src/x.rs:2: LB4_SRC_RANGES__ has 16 bytes; the kernel keeps 15 of a map's or program's name"
        );
    }
}
