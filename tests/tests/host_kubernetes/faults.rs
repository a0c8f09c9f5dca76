//! What goes wrong on the way: the connection, the answers, the clock. What was said stays in force, nothing is lost, and the
//! status says so.

use std::time::{Duration, SystemTime};

use lb_userspace::source::kubernetes::Access;
use rstest::rstest;
use tests::api_server::{ApiServer, Resource};
use tokio::time::sleep;

use crate::scene::{Source, asked, node, server, service, slice};

const KINDS: [Resource; 2] = [Resource::Services, Resource::EndpointSlices];

/// A source that has two Services, a slice and the node, and follows them.
async fn following() -> (ApiServer, Source) {
    let server = server([service("web"), service("api"), slice("web-1", &["10.0.0.1"]), node("a")]);
    let mut source = Source::of(&server.kubeconfig());
    source.next(6).await;
    source.well().await;
    (server, source)
}

#[tokio::test]
async fn a_cut_connection_is_resumed_where_it_broke_off() {
    let (server, mut source) = following().await;
    sleep(Duration::from_millis(1_100)).await;
    server.cut();
    server.delete(Resource::Services, "shop", "api").unwrap();
    server.put([slice("web-1", &["10.0.0.2"])]).unwrap();
    assert_eq!(
        source.next(2).await,
        ["-shop/api", "~+shop/web-1"],
        "nothing else is told again"
    );
    for kind in KINDS {
        assert_eq!(server.asked(kind, "sendInitialEvents"), 1, "no second list");
    }
    assert!(
        source.problems().is_empty(),
        "a cut that was mended at once is nothing to complain about"
    );
}

#[rstest]
#[case::streamed(false)]
#[case::in_pages(true)]
#[tokio::test]
async fn a_list_after_an_interruption_takes_away_what_vanished(#[case] in_pages: bool) {
    let (server, mut source) = following().await;
    server.fault(|faults| faults.no_streamed_lists = in_pages);
    server.go_away().unwrap();
    source.problem("watching Services").await;
    server.delete(Resource::Services, "shop", "api").unwrap();
    server.delete(Resource::EndpointSlices, "shop", "web-1").unwrap();
    server.put([service("new")]).unwrap();
    server.compact();
    server.come_back().unwrap();
    let expected = ["+shop/new", "+shop/web", "-shop/api", "~-shop/web-1"];
    assert_eq!(source.next(4).await, expected);
    source.well().await;
}

#[tokio::test]
async fn an_old_place_is_nothing_to_complain_about() {
    let (server, mut source) = following().await;
    sleep(Duration::from_millis(1_100)).await;
    server.put([service("more")]).unwrap();
    assert_eq!(source.next(1).await, ["+shop/more"]);
    server.delete(Resource::Services, "shop", "more").unwrap();
    source.next(1).await;
    server.delete(Resource::Services, "shop", "api").unwrap();
    source.next(1).await;
    // The place of the slices is older than the floor now.
    server.compact();
    server.cut();
    source.until("~+shop/web-1").await;
    asked(&server, Resource::EndpointSlices, "sendInitialEvents", 2).await;
    assert!(source.problems().is_empty(), "{:?}", source.problems());
}

#[tokio::test]
async fn while_the_server_is_away_what_it_said_stays_and_status_says_since_when() {
    let (server, mut source) = following().await;
    let before = SystemTime::now();
    server.go_away().unwrap();
    let problem = source.problem("watching Services").await;
    assert!(
        problem.contains("Is the API server running and its address right?"),
        "{problem}"
    );
    assert!(
        problem.contains("name the server itself by --api-server URL"),
        "{problem}"
    );
    let since = source.status.borrow().away_since.expect("it is away");
    assert!(since >= before && since <= SystemTime::now());
    source.problem("watching EndpointSlices").await;
    source.nothing().await;
    let status = source.status.borrow().clone();
    assert!(status.synced, "what was read once stays read");
    assert!(
        status.away_since.is_some_and(|later| later <= since),
        "the first failure counts: {status:?}"
    );
    server.come_back().unwrap();
    source.well().await;
    source.nothing().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_at_the_start_is_waited_for() {
    let server = server([service("web")]);
    server.go_away().unwrap();
    let mut source = Source::of(&server.kubeconfig());
    source.problem("watching Services").await;
    assert!(!source.status.borrow().synced);
    server.come_back().unwrap();
    source.until("+shop/web").await;
    source.well().await;
}

#[tokio::test]
async fn an_event_that_was_half_a_line_is_not_lost() {
    let (server, mut source) = following().await;
    for round in 0..2 {
        server.fault(|faults| faults.half_lines = [(Resource::EndpointSlices, 1)].into());
        server
            .put([slice("web-1", &["10.0.0.9"]), slice("web-2", &[])])
            .unwrap();
        assert_eq!(source.next(2).await, ["~+shop/web-1", "~+shop/web-2"], "round {round}");
    }
    source.well().await;
    assert_eq!(
        server.asked(Resource::EndpointSlices, "sendInitialEvents"),
        1,
        "it goes on where it understood last"
    );
}

#[tokio::test]
async fn where_nothing_is_ever_understood_everything_is_listed_anew() {
    let (server, mut source) = following().await;
    server.fault(|faults| faults.half_lines = [(Resource::Services, 3)].into());
    server.put([service("new")]).unwrap();
    let problem = source.problem("watching Services").await;
    assert!(problem.contains("an answer was not understood"), "{problem}");
    source.until("+shop/new").await;
    asked(&server, Resource::Services, "sendInitialEvents", 2).await;
    source.well().await;
}

#[rstest]
#[case::streamed(false)]
#[case::in_pages(true)]
#[tokio::test]
async fn half_a_list_is_begun_again(#[case] in_pages: bool) {
    let server = server((0..40).map(|number| service(&format!("web{number}"))));
    server.fault(|faults| {
        faults.no_streamed_lists = in_pages;
        faults.half_lists = KINDS.map(|kind| (kind, 2)).into();
        if !in_pages {
            faults.half_lines = KINDS.map(|kind| (kind, 0)).into();
            faults.stall_after = [(Resource::Services, 10_000)].into();
        }
    });
    let mut source = Source::of(&server.kubeconfig());
    source.problem("watching Services").await;
    assert!(!source.status.borrow().synced);
    server.fault(|faults| faults.stall_after.clear());
    let mut seen = source.until("synced Services").await;
    seen.retain(|word| word.starts_with('+'));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 40);
    source.well().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_and_asked_again() {
    let server = server([service("web")]);
    server.fault(|faults| faults.stall = KINDS.into());
    let mut source = Source::of(&server.kubeconfig());
    let problem = source.problem("watching Services").await;
    assert!(problem.contains("sent nothing for"), "{problem}");
    server.fault(|faults| faults.stall.clear());
    source.until("+shop/web").await;
    source.well().await;
}

#[rstest]
#[case::streamed(false)]
#[case::in_pages(true)]
#[tokio::test]
async fn a_slow_server_is_waited_for(#[case] in_pages: bool) {
    let server = server((0..20).map(|number| service(&format!("web{number}"))));
    server.fault(|faults| {
        faults.no_streamed_lists = in_pages;
        faults.slow = Some((600, Duration::from_millis(40)));
    });
    let mut source = Source::of(&server.kubeconfig());
    let seen = source.until("synced Services").await;
    assert_eq!(
        seen.iter().filter(|word| word.starts_with('+')).count(),
        20,
        "each told once"
    );
    source.well().await;
}

#[tokio::test]
async fn a_server_that_ends_watches_at_once_is_not_asked_without_pause() {
    let server = server([service("web")]);
    server.fault(|faults| faults.ends_watches = true);
    let mut source = Source::of(&server.kubeconfig());
    source.until("+shop/web").await;
    sleep(Duration::from_secs(1)).await;
    let asked = server.asked(Resource::Services, "watch=true");
    assert!((2..=40).contains(&asked), "{asked} times in a second");
    server.fault(|faults| faults.ends_watches = false);
    server.put([service("new")]).unwrap();
    source.until("+shop/new").await;
    source.well().await;
}

#[rstest]
#[case::behind(-3_600, "behind")]
#[case::ahead(7_200, "ahead of")]
#[tokio::test]
async fn a_clock_that_is_off_is_told_and_changes_nothing(#[case] off_s: i64, #[case] way: &str) {
    let server = server([service("web")]);
    server.fault(|faults| faults.clock_off_s = off_s);
    let mut source = Source::of(&server.kubeconfig());
    let problem = source.problem("the API server's clock is ").await;
    assert!(problem.contains(way), "{problem}");
    source.until("+shop/web").await;
    server.put([service("new")]).unwrap();
    source.until("+shop/new").await;
    assert_eq!(source.status.borrow().away_since, None);
    // Whoever is synchronised by now is no longer complained about.
    server.fault(|faults| faults.clock_off_s = 0);
    server.cut();
    source.well().await;
}

#[tokio::test]
async fn the_address_by_hand_comes_before_the_configured_one() {
    let server = server([service("web")]);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    // Nobody listens there.
    std::fs::write(
        kubeconfig.path(),
        server.kubeconfig().replace(&server.url(), "http://127.0.0.1:1"),
    )
    .unwrap();
    let access = Access {
        kubeconfig: Some(kubeconfig.path().to_owned()),
        api_server: Some(server.url()),
    };
    let mut source = Source::by(access, kubeconfig);
    source.until("+shop/web").await;
    assert!(source.status.borrow().origin.ends_with(&format!("{}/", server.url())));
    source.well().await;
}

#[tokio::test]
async fn whoever_reaches_the_server_through_its_own_service_is_warned() {
    let mut kubernetes = service("kubernetes");
    kubernetes["spec"]["clusterIP"] = "127.0.0.1".into();
    let server = server([kubernetes]);
    let mut source = Source::of(&server.kubeconfig());
    let problem = source.problem("after a reboot nobody does").await;
    assert!(
        problem.starts_with("Service shop/kubernetes: spec.clusterIP: "),
        "{problem}"
    );
    assert!(problem.contains("--api-server URL (SLUICE_API_SERVER)"), "{problem}");

    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kubeconfig.path(), server.kubeconfig()).unwrap();
    let access = Access {
        kubeconfig: Some(kubeconfig.path().to_owned()),
        api_server: Some(server.url()),
    };
    let mut by_hand = Source::by(access, kubeconfig);
    by_hand.until("+shop/kubernetes").await;
    by_hand.status("synced", |status| status.synced).await;
    assert!(
        !by_hand
            .problems()
            .iter()
            .any(|problem| problem.contains("after a reboot")),
        "named by hand, it is no guess"
    );
}
