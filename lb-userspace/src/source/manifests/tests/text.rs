//! How YAML and JSON text is read: both to the same tree, with the same lines.

use rstest::rstest;

use crate::source::manifests::tree::{Located, Piece, SyntaxError, Value};
use crate::source::manifests::{json, yaml};

type Read = fn(&str, &mut dyn FnMut(Piece) -> Result<(), SyntaxError>) -> Result<(), SyntaxError>;

fn pieces(read: Read, text: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let take = &mut |piece| {
        found.push(match piece {
            Piece::Item(item) => format!("item {}", show(&item)),
            Piece::Document(document) => show(&document),
        });
        Ok(())
    };
    read(text, take).map_err(|error| format!("{}: {}", error.line, error.reason))?;
    Ok(found)
}

/// A tree as text; `@n` is the line where it differs from that of what is around it.
fn show(tree: &Located) -> String {
    fn write(tree: &Located, around: u32) -> String {
        let at = if tree.line == around {
            String::new()
        } else {
            format!("@{} ", tree.line)
        };
        let inside = match &tree.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Text(text) => format!("{text:?}"),
            Value::Sequence(values) => {
                let values: Vec<_> = values.iter().map(|value| write(value, tree.line)).collect();
                format!("[{}]", values.join(", "))
            }
            Value::Mapping(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(key, value)| format!("{key}: {}", write(value, tree.line)))
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
        };
        format!("{at}{inside}")
    }
    write(tree, 1)
}

#[rstest]
#[case::empty("", &[])]
#[case::blank_lines("\n \n", &[])]
#[case::scalars("[1, -2, 1.5, true, null, \"a\"]", &["[1, -2, 1.5, true, null, \"a\"]"])]
#[case::lines("{\"a\": 1,\n \"b\": {\n  \"c\": 2}}", &["{a: 1, b: @2 {c: @3 2}}"])]
#[case::items_one_by_one("{\"items\": [1,\n2], \"kind\": \"List\"}", &["item 1", "item @2 2", "{items: [], kind: @2 \"List\"}"])]
#[case::deeper_items_stay("{\"spec\": {\"items\": [1]}}", &["{spec: {items: [1]}}"])]
#[case::escapes(r#"["\u00e9\n\ud83d\ude00"]"#, &["[\"é\\n😀\"]"])]
fn yaml_and_json_alike(#[case] text: &str, #[case] expected: &[&str]) {
    assert_eq!(pieces(json::read, text).unwrap(), expected);
    // YAML 1.2 is a superset of JSON but for surrogate pairs, which it has no need of.
    if !text.contains("ud83d") {
        assert_eq!(pieces(yaml::read, text).unwrap(), expected);
    }
}

#[rstest]
#[case::several_documents("a: 1\n---\nb: 2\n", &["{a: 1}", "@3 {b: 2}"])]
#[case::comments_only("# nothing\n---\n# here\n", &["@2 null"])]
#[case::items_in_block_style("items:\n- a: 1\n- b: 2\nkind: List\n", &["item @2 {a: 1}", "item @3 {b: 2}", "{items: @2 [], kind: @4 \"List\"}"])]
#[case::quoted_is_text("['1', \"true\", 'null', yes please]", &["[\"1\", \"true\", \"null\", \"yes please\"]"])]
#[case::tagged_is_text("[!!str 1, !!str true]", &["[\"1\", \"true\"]"])]
#[case::words_for_booleans("[yes, No, ON, off, True, FALSE]", &["[true, false, true, false, true, false]"])]
#[case::words_for_null("[~, null, Null, ]", &["[null, null, null]"])]
#[case::numbers("[0x1f, 0o17, +5, 010, 1e3, .5, -1.5]", &["[31, 15, 5, 10, 1000.0, 0.5, -1.5]"])]
#[case::not_numbers("[10.0.0.1, 1.2.3, inf, nan, 0x, ., 2024-01-01, 1_000]",
    &["[\"10.0.0.1\", \"1.2.3\", \"inf\", \"nan\", \"0x\", \".\", \"2024-01-01\", \"1_000\"]"])]
#[case::aliases("a: &x {b: 1}\nc: *x\n", &["{a: {b: 1}, c: @2 {b: @1 1}}"])]
#[case::alias_to_a_scalar("a: &x 1\nb: [*x, *x]\n", &["{a: 1, b: @2 [1, 1]}"])]
#[case::merge_key("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", &["{a: {b: 1, c: 2}, d: @3 {c: @4 3, b: @1 1}}"])]
#[case::merge_list("d: {<<: [{a: 1}, {a: 2, b: 3}]}", &["{d: {a: 1, b: 3}}"])]
#[case::anchored_items_are_kept("items: &x [1]\nmore: *x\n", &["{items: [1], more: @2 [@1 1]}"])]
#[case::block_text("a: |\n  one\n  two\n", &["{a: @2 \"one\\ntwo\\n\"}"])]
#[case::numeric_keys("{1: a, true: b}", &["{1: \"a\", true: \"b\"}"])]
fn only_yaml(#[case] text: &str, #[case] expected: &[&str]) {
    assert_eq!(pieces(yaml::read, text).unwrap(), expected);
}

#[rstest]
#[case::several_documents("{\"a\": 1}\n{\"b\": 2}", &["{a: 1}", "@2 {b: 2}"])]
#[case::big_numbers("[9223372036854775808, 1e3]", &["[9.223372036854776e18, 1000.0]"])]
fn only_json(#[case] text: &str, #[case] expected: &[&str]) {
    assert_eq!(pieces(json::read, text).unwrap(), expected);
}

#[rstest]
#[case::indentation("a: 1\n b: 2\n", 2)]
#[case::unclosed("b: 1\na: [1,\n2\n", 2)]
#[case::tab("a:\n\t- 1\n", 2)]
#[case::unknown_alias("a: 1\nb: *x\n", 2)]
#[case::alias_in_itself("a: &x [\n*x]\n", 2)]
#[case::twice("a: 1\nb: 2\na: 3\n", 3)]
#[case::items_twice("items: [1]\nitems: [2]\n", 2)]
#[case::merge_of_text("a:\n  <<: b\n", 2)]
#[case::mapping_as_key("? {a: 1}\n: 2\n", 1)]
fn yaml_errors_have_lines(#[case] text: &str, #[case] line: u32) {
    let error = pieces(yaml::read, text).unwrap_err();
    assert!(error.starts_with(&format!("{line}: ")), "{error}");
}

#[rstest]
#[case::unclosed("{\"a\": 1,\n\"b\": 2", 2, "EOF while parsing")]
#[case::comma("[1,\n]", 2, "expected value, column 1")]
#[case::garbage_behind("{}\nx", 2, "expected value")]
#[case::twice("{\"a\": 1,\n\"a\": 2}", 2, "the field a is written twice")]
#[case::twice_deeper("{\"a\": {\"b\": 1,\n\"b\": 2}}", 2, "the field b is written twice")]
#[case::items_twice("{\"items\": [],\n\"items\": []}", 2, "the field items is written twice")]
#[case::lonely_surrogate("[\n\"\\ud83d\"]", 2, "")]
fn json_errors_have_lines(#[case] text: &str, #[case] line: u32, #[case] reason: &str) {
    let error = pieces(json::read, text).unwrap_err();
    assert!(error.starts_with(&format!("{line}: {reason}")), "{error}");
    assert!(!error.contains("at line"), "the line is said once: {error}");
}

/// Each list of items may cost as much as a file; there is one.
#[rstest]
#[case::yaml(yaml::read)]
#[case::json(json::read)]
fn nothing_is_taken_from_a_second_list_of_items(#[case] read: Read) {
    let mut items = 0;
    let read = read("{\"items\": [1, 2],\n\"items\": [3, 4]}", &mut |piece| {
        items += usize::from(matches!(piece, Piece::Item(_)));
        Ok(())
    });
    assert!(read.is_err());
    assert_eq!(items, 2);
}

#[rstest]
#[case::field("spec.ports[1].port", 5)]
#[case::element("spec.ports[0]", 3)]
#[case::missing_field("spec.ports[0].name", 3)]
#[case::missing_element("spec.ports[7].port", 3)]
#[case::missing_branch("status.loadBalancer", 1)]
#[case::nothing("", 1)]
fn lines_of_fields(#[case] field: &str, #[case] line: u32) {
    let text = "kind: Service\nspec:\n  ports: [{port: 1},\n    {\n    port: 2}]\n";
    let mut found = None;
    let take = &mut |piece| {
        if let Piece::Document(document) = piece {
            found = Some(document.line_of(field));
        }
        Ok(())
    };
    yaml::read(text, take).unwrap();
    assert_eq!(found, Some(line));
}
