//! When `/healthz` and `/livez` say what; rows 137 to 141 of §7.13.

use std::time::{Duration, SystemTime};

use rstest::rstest;
use serde_json::Value;

use crate::health::ports::answer as health_port_answer;
use crate::health::probes::respond;
use crate::health::{Health, Moment, Page, ProbeCounts, UnknownNode};
use crate::http::Answer;
use crate::model::{Family, NodeFacts, NodeView, ServiceKey};

const SYNC_PERIOD: Duration = Duration::from_secs(30);
/// 2026-01-02T03:04:05Z.
const START_S: u64 = 1_767_323_045;

/// A story of one agent: things that happen at seconds after its start.
struct Story {
    start: Moment,
    health: Health,
}

impl Story {
    fn begin() -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(START_S);
        let start = Moment { wall, ..Moment::now() };
        let mut story = Self {
            start,
            health: Health::new(SYNC_PERIOD, UnknownNode::NotEligible),
        };
        story.node(Some(NodeFacts::default()));
        story
    }

    fn at(&self, seconds: u64) -> Moment {
        let since = Duration::from_secs(seconds);
        Moment {
            steady: self.start.steady + since,
            wall: self.start.wall + since,
        }
    }

    fn node(&mut self, facts: Option<NodeFacts>) {
        self.health.see_node(&NodeView {
            facts,
            ..NodeView::named("here")
        });
    }

    fn queued(&mut self, family: Family, seconds: u64) {
        self.health.queued(family, self.at(seconds).steady);
    }

    fn synced(&mut self, family: Family, seconds: u64) {
        self.health.synced(family, self.at(seconds));
    }

    fn ask(&self, page: Page, seconds: u64) -> (u16, Value) {
        let answer = self.health.answer(page, self.at(seconds));
        (answer.code, serde_json::from_str(&answer.body).unwrap())
    }

    /// Codes of `/healthz`, `/livez` and of the port of a Service with two endpoints here.
    fn codes(&self, seconds: u64) -> (u16, u16, u16) {
        let healthy = self.health.is_healthy(self.at(seconds).steady);
        let port = health_port_answer(&ServiceKey::new("default", "web"), 2, healthy);
        (
            self.ask(Page::Healthz, seconds).0,
            self.ask(Page::Livez, seconds).0,
            port.code,
        )
    }
}

#[test]
fn row_137_started_and_nothing_queued() {
    let story = Story::begin();
    assert_eq!(story.codes(0), (200, 200, 200));
    assert_eq!(story.codes(3600), (200, 200, 200), "idle is healthy");
    let (_, body) = story.ask(Page::Healthz, 7);
    assert_eq!(body.get("status"), None, "nothing to tell of a family yet");
}

#[rstest]
#[case::row_138_queued_for_a_moment(0, (200, 200, 200))]
#[case::row_138_queued_for_almost_a_minute(59, (200, 200, 200))]
#[case::row_139_queued_for_a_minute(60, (503, 503, 503))]
#[case::row_139_queued_for_an_hour(3600, (503, 503, 503))]
fn a_change_that_waits(#[case] seconds: u64, #[case] codes: (u16, u16, u16)) {
    let mut story = Story::begin();
    story.queued(Family::V4, 100);
    assert_eq!(story.codes(100 + seconds), codes);
}

#[test]
fn row_139_one_family_is_late_and_the_other_is_not() {
    let mut story = Story::begin();
    story.synced(Family::V4, 10);
    story.synced(Family::V6, 20);
    story.queued(Family::V4, 100);
    let (code, body) = story.ask(Page::Healthz, 160);
    let expected = serde_json::json!({
        "lastUpdated": "2026-01-02T03:04:25Z", "currentTime": "2026-01-02T03:06:45Z",
        "nodeEligible": true, "healthy": false,
        "status": {
            "IPv4": {"lastUpdated": "2026-01-02T03:04:15Z", "healthy": false},
            "IPv6": {"lastUpdated": "2026-01-02T03:04:25Z", "healthy": true},
        },
    });
    assert_eq!(
        (code, body),
        (503, expected),
        "lastUpdated is the newest sync there was"
    );
}

#[test]
fn row_139_later_changes_do_not_make_the_oldest_younger() {
    let mut story = Story::begin();
    story.queued(Family::V4, 100);
    story.queued(Family::V4, 150);
    assert_eq!(story.codes(160), (503, 503, 503));
}

#[test]
fn row_140_a_sync_makes_healthy_again() {
    let mut story = Story::begin();
    story.queued(Family::V4, 100);
    story.synced(Family::V4, 170);
    assert_eq!(story.codes(170), (200, 200, 200));
    story.queued(Family::V4, 180);
    assert_eq!(story.codes(239), (200, 200, 200));
    assert_eq!(story.codes(240), (503, 503, 503));
}

#[rstest]
#[case::row_141_autoscaler_taint(Some(NodeFacts { leaving: true, ..NodeFacts::default() }))]
#[case::row_141_deletion_timestamp(Some(NodeFacts { deleting: true, ..NodeFacts::default() }))]
#[case::row_141_node_unknown(None)]
fn a_node_that_is_not_eligible(#[case] facts: Option<NodeFacts>) {
    let mut story = Story::begin();
    story.node(facts);
    assert_eq!(story.codes(10), (503, 200, 200));
    let (_, body) = story.ask(Page::Healthz, 10);
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&true.into(), &false.into()));
    assert_eq!(body["lastUpdated"], "0001-01-01T00:00:00Z", "nothing was synced yet");
    story.node(Some(NodeFacts::default()));
    assert_eq!(story.codes(11), (200, 200, 200));
}

#[test]
fn row_141_a_node_is_unknown_until_somebody_tells_of_it() {
    let health = Health::new(SYNC_PERIOD, UnknownNode::NotEligible);
    assert_eq!(health.answer(Page::Healthz, Moment::now()).code, 503);
    let mut without_nodes = Health::new(SYNC_PERIOD, UnknownNode::Eligible);
    assert_eq!(without_nodes.answer(Page::Healthz, Moment::now()).code, 200);
    without_nodes.see_node(&NodeView::named("here"));
    assert_eq!(without_nodes.answer(Page::Healthz, Moment::now()).code, 200);
}

#[test]
fn the_body_is_in_the_documented_shape() {
    let mut story = Story::begin();
    story.synced(Family::V6, 10);
    let body = |page| story.health.answer(page, story.at(60)).body;
    let now = "2026-01-02T03:05:05Z";
    let status = r#""status":{"IPv6":{"lastUpdated":"2026-01-02T03:04:15Z","healthy":true}}"#;
    assert_eq!(
        body(Page::Healthz),
        format!(r#"{{"lastUpdated":"{now}","currentTime":"{now}","nodeEligible":true,"healthy":true,{status}}}"#)
    );
    assert_eq!(
        body(Page::Livez),
        format!(r#"{{"lastUpdated":"{now}","currentTime":"{now}","healthy":true,{status}}}"#)
    );
}

#[rstest]
#[case::healthz("/healthz", 200, [1, 0, 0, 0])]
#[case::livez("/livez", 200, [0, 0, 1, 0])]
#[case::another_path("/healthz/x", 404, [0; 4])]
#[case::root("/", 404, [0; 4])]
fn paths_and_their_counts(#[case] path: &str, #[case] code: u16, #[case] counted: [u64; 4]) {
    let (story, counts) = (Story::begin(), ProbeCounts::default());
    assert_eq!(respond(path, &story.health, &counts, story.at(0)).code, code);
    let pages = [Page::Healthz, Page::Livez];
    let found = pages.map(|page| ProbeCounts::CODES.map(|code| counts.get(page, code)));
    assert_eq!(found.concat(), counted);
}

#[test]
fn an_answer_of_503_is_counted_as_such() {
    let (mut story, counts) = (Story::begin(), ProbeCounts::default());
    story.node(None);
    respond("/healthz", &story.health, &counts, story.at(0));
    assert_eq!((counts.get(Page::Healthz, 200), counts.get(Page::Healthz, 503)), (0, 1));
}

#[test]
fn headers_are_those_of_kube_proxy() {
    let Answer {
        content_type, headers, ..
    } = Story::begin().health.answer(Page::Livez, Moment::now());
    assert_eq!(content_type, "application/json");
    assert_eq!(headers, [("x-content-type-options", "nosniff".to_owned())]);
}

#[test]
fn ready_is_who_has_programmed_everything_once_and_keeps_up() {
    let mut story = Story::begin();
    assert_eq!(story.ask(Page::Readyz, 1).0, 503, "nothing is in the tables");
    assert_eq!(story.ask(Page::Livez, 1).0, 200, "which is no reason to be restarted");
    assert!(story.health.programmed() && !story.health.programmed(), "new once");
    let (code, body) = story.ask(Page::Readyz, 2);
    assert_eq!((code, body.get("nodeEligible")), (200, None), "{body}");
    story.node(None);
    assert_eq!(story.ask(Page::Readyz, 3).0, 200, "about the agent, not about the node");
    story.queued(Family::V4, 10);
    assert_eq!(
        story.ask(Page::Readyz, 80).0,
        503,
        "a change does not get into the tables"
    );
    story.synced(Family::V4, 81);
    assert_eq!(story.ask(Page::Readyz, 82).0, 200);
}
