//! Which file speaks for an object, and what the model is told when that changes.

use std::path::Path;
use std::sync::Arc;

use rstest::rstest;

use super::{node, service, service_cidr, slice, words};
use crate::model::Change;
use crate::source::manifests::claims::{Claims, FileNews};
use crate::source::manifests::decode::decode;

/// Tells the claims what files say now; `None` if they are gone.
fn update(claims: &mut Claims, files: &[(&str, Option<&str>)]) -> Vec<Change> {
    let news = files.iter().map(|(file, text)| {
        let file: Arc<Path> = Path::new(file).into();
        let news = text.map_or(FileNews::Gone, |text| {
            let contents = decode(&file, text, &|object| claims.claim(&file, object)).unwrap();
            FileNews::Says {
                objects: contents.objects,
                incomplete: contents.incomplete,
            }
        });
        (file, news)
    });
    let news = news.collect();
    claims.update(news)
}

fn address(changes: &[Change]) -> String {
    match changes {
        [Change::ServiceApply(service)] => service.cluster_ips[0].to_string(),
        other => panic!("one Service expected: {other:?}"),
    }
}

const BROKEN_WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 0}]}}\n";
const NAMELESS: &str = "---\n{apiVersion: v1, kind: Service}\n";

#[rstest]
#[case::same_again(Some("web 1"), &[])]
#[case::changed(Some("web 2"), &["+default/web"])]
#[case::another(Some("api 1"), &["+default/api", "-default/web"])]
#[case::one_more(Some("web 1, api 1"), &["+default/api"])]
#[case::nothing_left(Some(""), &["-default/web"])]
#[case::file_gone(None, &["-default/web"])]
#[case::broken(Some("broken"), &[])]
#[case::broken_beside_new(Some("broken, api 1"), &["+default/api"])]
#[case::something_nameless(Some("nameless"), &[])]
#[case::something_nameless_beside_new(Some("api 1, nameless"), &["+default/api"])]
fn a_file_that_said_web_1(#[case] says: Option<&str>, #[case] expected: &[&str]) {
    let text = |says: &str| {
        let part = |part: &str| match part.split_once(' ') {
            Some((name, number)) => service(name, &format!("10.96.0.{number}")),
            None if part == "broken" => BROKEN_WEB.to_owned(),
            None => NAMELESS.to_owned(),
        };
        says.split(", ")
            .filter(|part| !part.is_empty())
            .map(part)
            .collect::<Vec<_>>()
            .join("---\n")
    };
    let mut claims = Claims::default();
    update(&mut claims, &[("a.yaml", Some(&text("web 1")))]);
    let changes = update(&mut claims, &[("a.yaml", says.map(text).as_deref())]);
    assert_eq!(words(&changes), expected);
}

#[test]
fn the_first_file_by_name_wins_and_the_other_takes_over() {
    let (one, two) = (service("web", "10.96.0.1"), service("web", "10.96.0.2"));
    let mut claims = Claims::default();
    assert_eq!(address(&update(&mut claims, &[("b.yaml", Some(&two))])), "10.96.0.2");
    assert_eq!(
        address(&update(&mut claims, &[("a.yaml", Some(&one))])),
        "10.96.0.1",
        "a comes before b"
    );
    let complaint = claims.conflicts()[0].to_string();
    assert_eq!(
        complaint,
        "b.yaml:1: Service default/web: a.yaml:1 declares it, too, and comes first"
    );
    assert_eq!(
        words(&update(&mut claims, &[("b.yaml", Some(&service("web", "10.96.0.3")))])),
        [""; 0],
        "b has no say"
    );
    assert_eq!(
        address(&update(&mut claims, &[("a.yaml", None)])),
        "10.96.0.3",
        "b as it is now"
    );
    assert_eq!(claims.conflicts(), []);
    assert_eq!(words(&update(&mut claims, &[("b.yaml", None)])), ["-default/web"]);
}

#[test]
fn a_broken_object_holds_its_claim_and_a_never_good_one_has_none() {
    let two = service("web", "10.96.0.2");
    let mut claims = Claims::default();
    update(
        &mut claims,
        &[("a.yaml", Some(&service("web", "10.96.0.1"))), ("b.yaml", Some(&two))],
    );
    assert_eq!(
        words(&update(&mut claims, &[("a.yaml", Some(BROKEN_WEB))])),
        [""; 0],
        "a's last good word stands"
    );

    let mut claims = Claims::default();
    let changes = update(&mut claims, &[("a.yaml", Some(BROKEN_WEB)), ("b.yaml", Some(&two))]);
    assert_eq!(address(&changes), "10.96.0.2", "a never said anything");
}

#[test]
fn an_object_that_moves_between_files_never_disappears() {
    let web = service("web", "10.96.0.1");
    for (from, to) in [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")] {
        let mut claims = Claims::default();
        update(&mut claims, &[(from, Some(&web))]);
        assert_eq!(words(&update(&mut claims, &[(from, None), (to, Some(&web))])), [""; 0]);
        assert!(claims.any_of(Path::new(to)) && !claims.any_of(Path::new(from)));
    }
}

#[test]
fn endpoints_come_before_their_service_and_go_after_it() {
    let web = format!(
        "{}---\n{}",
        service("web", "10.96.0.1"),
        slice("web-1", "web", "10.0.0.1")
    );
    let api = format!(
        "{}---\n{}",
        service("api", "10.96.0.2"),
        slice("api-1", "api", "10.0.0.2")
    );
    let mut claims = Claims::default();
    assert_eq!(
        words(&update(&mut claims, &[("a.yaml", Some(&web))])),
        ["~+default/web-1", "+default/web"]
    );
    let changes = update(&mut claims, &[("a.yaml", Some(&api))]);
    assert_eq!(
        words(&changes),
        ["~+default/api-1", "+default/api", "-default/web", "~-default/web-1"]
    );
}

#[test]
fn of_other_nodes_only_addresses_are_told() {
    let mut claims = Claims::on_node("n1");
    let at = |name: &str, address: &str| {
        let addresses = format!("status: {{addresses: [{{type: InternalIP, address: {address}}}]}}");
        node(name, "b").replace("}}}\n", &format!("}}}}, {addresses}}}\n"))
    };
    let all = [
        service("web", "10.96.0.1"),
        node("n1", "a"),
        at("n2", "192.0.2.2"),
        node("n3", "b"),
    ]
    .join("---\n");
    let changes = update(&mut claims, &[("a.yaml", Some(&all))]);
    assert_eq!(
        words(&changes),
        ["node a", "others n2[192.0.2.2],n3[]", "+default/web"],
        "the place comes first"
    );
    let text = [
        node("n1", "a"),
        at("n2", "192.0.2.2").replace(": b}", ": c}"),
        node("n3", "c"),
    ]
    .join("---\n");
    assert_eq!(
        words(&update(&mut claims, &[("a.yaml", Some(&text))])),
        ["-default/web"]
    );
    let text = [node("n1", "a"), at("n2", "192.0.2.4")].join("---\n");
    assert_eq!(
        words(&update(&mut claims, &[("a.yaml", Some(&text))])),
        ["others n2[192.0.2.4]"]
    );
    let text = node("n1", "a");
    assert_eq!(words(&update(&mut claims, &[("a.yaml", Some(&text))])), ["others "]);
    let broken = "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: x}}\n";
    assert_eq!(
        words(&update(&mut claims, &[("a.yaml", Some(broken))])),
        [""; 0],
        "its last good state stands"
    );
    assert_eq!(words(&update(&mut claims, &[("a.yaml", None)])), ["no node"]);
}

#[test]
fn service_ranges_are_told_as_their_union() {
    let first = service_cidr("kubernetes", "10.96.0.0/16, 'fd00:96::/112'");
    let second = service_cidr("more", "10.97.0.0/16, 10.96.0.0/16");
    let mut claims = Claims::default();
    let changes = update(&mut claims, &[("a.yaml", Some(&first)), ("b.yaml", Some(&second))]);
    assert_eq!(words(&changes), ["ranges 10.96.0.0/16,10.97.0.0/16,fd00:96::/112"]);
    let same = service_cidr("more", "10.97.0.0/16");
    assert_eq!(
        words(&update(&mut claims, &[("b.yaml", Some(&same))])),
        [""; 0],
        "on the whole nothing changed"
    );
    assert_eq!(
        words(&update(&mut claims, &[("a.yaml", None)])),
        ["ranges 10.97.0.0/16"]
    );
    assert_eq!(words(&update(&mut claims, &[("b.yaml", None)])), ["ranges "]);
}

#[test]
fn what_did_not_change_is_held_once_in_memory() {
    let text = service("web", "10.96.0.1");
    let mut claims = Claims::default();
    let Some(Change::ServiceApply(first)) = update(&mut claims, &[("a.yaml", Some(&text))]).pop() else {
        panic!()
    };
    update(&mut claims, &[("a.yaml", Some(&text))]);
    assert_eq!(Arc::strong_count(&first), 2, "this test and the claim share one value");
}
