//! Files that mean harm: they get a reason, not our memory, our stack or our patience.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rstest::rstest;

use crate::source::manifests::decode::decode;
use crate::source::manifests::limits::{MAX_FILE_PROBLEMS, MAX_OBJECT_VALUES};

fn complaint(file: &str, text: &str) -> String {
    match decode(&Arc::from(Path::new(file)), text, &|_| None) {
        Err(error) => error.reason,
        Ok(contents) => contents.problems.first().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Nine aliases a level, twelve levels: 9¹² values if anybody wrote them out.
fn alias_bomb() -> String {
    let letters: Vec<_> = ('a'..='m').collect();
    let levels = letters.windows(2).map(|pair| {
        format!(
            "{}: &{} [{}]\n",
            pair[1],
            pair[1],
            vec![format!("*{}", pair[0]); 9].join(",")
        )
    });
    format!("a: &a [x,x,x,x,x,x,x,x,x]\n{}", levels.collect::<String>())
}

/// Each level is one list deeper than the one it repeats: deep without a deep text.
fn alias_ladder() -> String {
    let levels = (1..1000).map(|level| format!("a{level}: &a{level} [[[[*a{}]]]]\n", level - 1));
    format!("a0: &a0 [x]\n{}", levels.collect::<String>())
}

#[rstest]
#[case::alias_bomb("m.yaml", alias_bomb(), "an object holds more than")]
#[case::alias_bomb_in_a_list("m.yaml", format!("items:\n- {}", alias_bomb().replace('\n', "\n  ")), "an object holds more than")]
#[case::long_text_repeated("m.yaml", format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(1000)), "an object holds more than 4194304 bytes")]
#[case::alias_ladder("m.yaml", alias_ladder(), "values are nested more than 64 levels deep")]
#[case::anchors_on_everything("m.yaml", format!("{}x{}", "&a [".repeat(60), "]".repeat(60)), "kind is missing")]
#[case::deep_yaml_flow("m.yaml", "[".repeat(100_000), "recursion limit exceeded")]
#[case::deep_yaml_block("m.yaml", "- ".repeat(100_000), "recursion limit exceeded")]
#[case::deep_json("m.json", format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), "values are nested more than 64 levels deep")]
#[case::deep_json_objects("m.json", format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000)), "values are nested more than 64 levels deep")]
#[case::many_values_yaml("m.yaml", format!("[{}]", "1,".repeat(MAX_OBJECT_VALUES)), "an object holds more than")]
#[case::many_values_json("m.json", format!("[{}1]", "1,".repeat(MAX_OBJECT_VALUES)), "an object holds more than")]
#[case::much_text_json("m.json", format!("[\"{}\"]", "x".repeat(5 << 20)), "an object holds more than 4194304 bytes")]
#[case::much_text_in_keys("m.json", format!("{{\"{}\": 1}}", "x".repeat(5 << 20)), "an object holds more than 4194304 bytes")]
#[case::many_fields_beside_items("m.yaml", format!("items: [1]\n{}", (0..MAX_OBJECT_VALUES).map(|n| format!("k{n}: 1\n")).collect::<String>()), "an object holds more than")]
#[case::unnamed_elements("m.json", format!("{{\"items\": [{}{{}}]}}", "{\"a\": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]},".repeat(50_000)), "too many list elements without a kind")]
#[case::long_json("m.json", format!("{{\"a\": [{}]}}", " ".repeat(9 << 20)), "an object is longer than 8388608 bytes")]
#[case::nul("m.yaml", "a: \0".to_owned(), "")]
fn refused_with_a_reason_and_in_time(#[case] file: &str, #[case] text: String, #[case] reason: &str) {
    let started = Instant::now();
    let complaint = complaint(file, &text);
    assert!(complaint.contains(reason), "{complaint}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Limits are for one object; a list may be as long as a file.
#[rstest]
#[case::yaml("m.yaml")]
#[case::json("m.json")]
fn a_long_list_is_no_large_object(#[case] file: &str) {
    let item = format!(
        "{{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"spec\": [{}0]}}",
        "0,".repeat(1000)
    );
    let text = format!(
        "{{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": [{item}{}]}}",
        format!(",{item}").repeat(210)
    );
    assert!(text.matches('0').count() > MAX_OBJECT_VALUES);
    let complaint = complaint(file, &text);
    assert!(complaint.contains("v1 Pod is ignored (211 times)"), "{complaint}");
}

#[test]
fn a_thousand_problems_are_told_as_a_hundred() {
    let text = "--- {kind: Service, apiVersion: v1}\n".repeat(1000);
    let contents = decode(&Arc::from(Path::new("m.yaml")), &text, &|_| None).unwrap();
    assert_eq!(contents.problems.len(), MAX_FILE_PROBLEMS);
    assert!(
        contents.problems[MAX_FILE_PROBLEMS - 1]
            .to_string()
            .contains("more than 100 problems")
    );
}

/// Text that is made of what manifests are made of, in any order.
fn almost_a_manifest() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "apiVersion: v1\n",
        "kind: Service\n",
        "kind: List\n",
        "items:\n",
        "items: [",
        "- ",
        "  ",
        "metadata:\n",
        "name: a\n",
        "spec: {",
        "ports: [",
        "{port: 80}",
        "port: -1",
        "]",
        "}",
        "{",
        "[",
        ": ",
        ", ",
        "\n",
        "---\n",
        "...\n",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "| \n",
        "> \n",
        "\"",
        "'",
        "\\",
        "# ",
        "%YAML 1.2\n",
        "? ",
        "\t",
        "\u{0}",
        "\u{feff}",
        "é",
        "\"apiVersion\"",
        "\"v1\"",
        "\"kind\"",
        "\"items\"",
        ":",
        ",",
        "null",
        "1e999",
        "99999999999999999999",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in almost_a_manifest()) {
        for file in ["m.yaml", "m.json"] {
            let _ = decode(&Arc::from(Path::new(file)), &text, &|_| None);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(text in "\\PC{0,60}|[\\[\\]{}:,&*!|>'\"%@`#\\- \na-c0-9]{0,60}") {
        for file in ["m.yaml", "m.json"] {
            let _ = decode(&Arc::from(Path::new(file)), &text, &|_| None);
        }
    }
}
