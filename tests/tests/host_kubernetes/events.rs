//! Kubernetes Events: which are written, on which object, with which fields; and what happens when they can't be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_userspace::model::ServiceKey;
use lb_userspace::source::kubernetes::{Access, EventCounts, Notice, Patience, Reason, write_events};
use rstest::rstest;
use serde_json::{Value, json};
use tests::api_server::cluster::Cluster;
use tests::api_server::{ApiServer, Refusal, Resource};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::scene::{NODE, PATIENCE, SILENCE, SOON, server, service};

/// A writer of Events, as the agent runs it.
pub(crate) struct Writer {
    notices: mpsc::Sender<Notice>,
    counts: Arc<EventCounts>,
    task: JoinHandle<()>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Writer {
    pub(crate) fn to(kubeconfig: &str) -> Self {
        Self::with(PATIENCE, kubeconfig)
    }

    fn with(patience: Patience, kubeconfig: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), kubeconfig).expect("a written file");
        let access = Access {
            kubeconfig: Some(file.path().to_owned()),
            api_server: None,
        };
        let (sender, notices) = mpsc::channel(1024);
        let counts = Arc::new(EventCounts::default());
        Self {
            notices: sender,
            counts: counts.clone(),
            task: tokio::spawn(write_events(access, patience, NODE.to_owned(), notices, counts)),
            _kubeconfig: file,
        }
    }

    pub(crate) fn say(&self, notice: &Notice) {
        self.notices.try_send(notice.clone()).expect("room");
    }

    /// Waits until so many were written, and so many lost.
    pub(crate) async fn came_to(&self, written: u64, lost: u64) {
        let found = || (self.counts.written(), self.counts.lost());
        let waiting = async {
            while found() != (written, lost) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = timeout(SOON, waiting).await;
        waited.unwrap_or_else(|_| panic!("written and lost: {:?}, expected {:?}", found(), (written, lost)));
    }
}

fn web() -> ServiceKey {
    ServiceKey::new("shop", "web")
}

fn of_web(reason: Reason, note: &str) -> Notice {
    Notice::of_service(reason, &web(), note)
}

fn events(server: &ApiServer) -> Vec<Value> {
    server.objects(Resource::Events)
}

/// Of a request for Events, whatever the namespace.
fn asked(server: &ApiServer) -> usize {
    let requests = server.requests();
    requests
        .iter()
        .filter(|target| target.starts_with("/apis/events.k8s.io/v1/"))
        .count()
}

#[rstest]
#[case(Reason::Starting, "Normal", "Starting", "StartSluice")]
#[case(
    Reason::FailedToStartProxierHealthcheck,
    "Warning",
    "FailedToStartProxierHealthcheck",
    "StartSluice"
)]
#[case(
    Reason::FailedToStartMetricServer,
    "Warning",
    "FailedToStartMetricServer",
    "StartSluice"
)]
#[tokio::test]
async fn the_nodes_events_are_on_the_node(
    #[case] reason: Reason,
    #[case] type_name: &str,
    #[case] name: &str,
    #[case] action: &str,
) {
    let server = server([]);
    let writer = Writer::to(&server.kubeconfig());
    writer.say(&Notice::of_node(reason, "what happened"));
    writer.came_to(1, 0).await;
    let [event] = &events(&server)[..] else {
        panic!("{:#?}", events(&server));
    };
    let found = [&event["type"], &event["reason"], &event["action"], &event["note"]];
    assert_eq!(found, [type_name, name, action, "what happened"]);
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE})
    );
    let from = [&event["reportingController"], &event["reportingInstance"]];
    assert_eq!(from, ["sluice", "sluice-n1"]);
    assert!(
        event["eventTime"].as_str().is_some_and(|time| time.ends_with('Z')),
        "{event}"
    );
}

#[rstest]
#[case(Reason::FailedToStartServiceHealthcheck, "FailedToStartServiceHealthcheck", "Listen")]
#[case(Reason::FailedToProgramServicePort, "FailedToProgramServicePort", "Program")]
#[case(Reason::NotServedAsWritten, "NotServedAsWritten", "Read")]
#[tokio::test]
async fn a_services_events_are_on_the_service(#[case] reason: Reason, #[case] name: &str, #[case] action: &str) {
    let mut object = service("web");
    object["metadata"]["uid"] = "u-1".into();
    let server = server([object]);
    let writer = Writer::to(&server.kubeconfig());
    writer.say(&of_web(reason, "port 80: no room"));
    writer.came_to(1, 0).await;
    let [event] = &events(&server)[..] else {
        panic!("{:#?}", events(&server));
    };
    let found = [&event["type"], &event["reason"], &event["action"], &event["note"]];
    assert_eq!(found, ["Warning", name, action, "port 80: no room"]);
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u-1"})
    );
}

#[tokio::test]
async fn what_is_said_again_becomes_a_series_of_one_event() {
    let server = server([service("web")]);
    let patience = Patience {
        event: Duration::from_secs(1),
        ..PATIENCE
    };
    let writer = Writer::with(patience, &server.kubeconfig());
    let notice = of_web(Reason::FailedToStartServiceHealthcheck, "port 1 is taken");
    writer.say(&notice);
    writer.came_to(1, 0).await;
    // Two at once, which are told together with the next.
    writer.say(&notice);
    writer.say(&notice);
    sleep(patience.event).await;
    writer.say(&notice);
    writer.came_to(4, 0).await;
    let [event] = &events(&server)[..] else {
        panic!("{:#?}", events(&server));
    };
    assert_eq!(event["series"]["count"], 4);
    let last = event["series"]["lastObservedTime"].as_str().expect("a time");
    assert!(last > event["eventTime"].as_str().expect("a time"), "{event}");
    assert_eq!(asked(&server), 2, "{:#?}", server.requests());
    // A server forgets Events after an hour.
    let name = event["metadata"]["name"].as_str().expect("a name");
    server.delete(Resource::Events, "shop", name).expect("an Event");
    sleep(patience.event).await;
    writer.say(&notice);
    writer.came_to(5, 0).await;
    assert_eq!(events(&server).len(), 1);
    assert_eq!(events(&server)[0]["series"], Value::Null, "begun anew");
}

#[tokio::test]
async fn a_service_of_the_same_name_is_another() {
    let server = server([service("web")]);
    let writer = Writer::to(&server.kubeconfig());
    let notice = of_web(Reason::FailedToProgramServicePort, "no room");
    writer.say(&notice);
    writer.came_to(1, 0).await;
    server.delete(Resource::Services, "shop", "web").expect("a Service");
    let mut another = service("web");
    another["metadata"]["uid"] = "another".into();
    server.put([another]).expect("a Service");
    sleep(PATIENCE.event).await;
    writer.say(&notice);
    writer.came_to(2, 0).await;
    assert_eq!(events(&server).len(), 2);
}

#[rstest]
#[case::the_same_on_every_node(Reason::NotServedAsWritten, 1)]
#[case::each_nodes_own(Reason::FailedToStartServiceHealthcheck, 2)]
#[tokio::test]
async fn what_every_node_has_to_say_is_said_once(#[case] reason: Reason, #[case] expected: usize) {
    let server = server([service("web")]);
    for _ in 0..2 {
        let writer = Writer::to(&server.kubeconfig());
        writer.say(&of_web(reason, "what is wrong"));
        writer.came_to(1, 0).await;
    }
    assert_eq!(events(&server).len(), expected);
}

#[tokio::test]
async fn of_a_service_that_is_gone_nothing_is_said() {
    let server = server([]);
    let writer = Writer::to(&server.kubeconfig());
    writer.say(&of_web(Reason::NotServedAsWritten, "what is wrong"));
    writer.came_to(0, 1).await;
    assert_eq!(asked(&server), 0);
    writer.say(&Notice::of_node(Reason::Starting, ""));
    writer.came_to(1, 1).await;
}

#[tokio::test]
async fn a_server_that_forbids_it_is_left_alone_for_a_while() {
    let server = server([service("web")]);
    server.fault(|faults| faults.refuse = [(Resource::Events, Refusal::code(403))].into());
    let writer = Writer::to(&server.kubeconfig());
    for number in 0..10 {
        writer.say(&of_web(Reason::NotServedAsWritten, &format!("wrong {number}")));
    }
    writer.came_to(0, 10).await;
    assert_eq!(asked(&server), 1, "asked once, and not again");
    // It is asked again one day.
    server.fault(|faults| faults.refuse.clear());
    sleep(PATIENCE.refused).await;
    writer.say(&of_web(Reason::NotServedAsWritten, "wrong"));
    writer.came_to(1, 10).await;
}

#[tokio::test]
async fn a_flood_waits_its_turn() {
    let server = server([service("web")]);
    let writer = Writer::to(&server.kubeconfig());
    let start = Instant::now();
    for number in 0..40 {
        writer.say(&of_web(Reason::NotServedAsWritten, &format!("wrong {number}")));
    }
    writer.came_to(40, 0).await;
    // The first 20 go at once, and the others one by one.
    let least = PATIENCE.event * 19;
    assert!(start.elapsed() >= least, "all within {:?}", start.elapsed());
    assert_eq!(events(&server).len(), 40);
}

fn is_away(server: &ApiServer, is_so: bool) {
    if is_so { server.go_away() } else { server.come_back() }.expect("it can go and come back");
}

fn is_silent(server: &ApiServer, is_so: bool) {
    server.fault(|faults| faults.stall = is_so.then_some(Resource::Events).into_iter().collect());
    server.cut();
}

fn is_overloaded(server: &ApiServer, is_so: bool) {
    let refusal = (Resource::Events, Refusal::code(503));
    server.fault(|faults| faults.refuse = is_so.then_some(refusal).into_iter().collect());
}

#[rstest]
#[case::away(is_away)]
#[case::silent(is_silent)]
#[case::overloaded(is_overloaded)]
#[tokio::test]
async fn a_server_that_is_away_for_a_moment_is_told_when_it_is_back(#[case] it: fn(&ApiServer, bool)) {
    let server = server([service("web")]);
    it(&server, true);
    let writer = Writer::to(&server.kubeconfig());
    writer.say(&Notice::of_node(Reason::Starting, ""));
    sleep(SILENCE).await;
    writer.came_to(0, 0).await;
    it(&server, false);
    writer.came_to(1, 0).await;
    assert_eq!(events(&server).len(), 1);
}

#[tokio::test]
async fn a_server_that_stays_away_costs_an_event_and_nothing_else() {
    let server = server([]);
    server.go_away().expect("gone");
    let writer = Writer::to(&server.kubeconfig());
    writer.say(&Notice::of_node(Reason::Starting, ""));
    writer.came_to(0, 1).await;
    server.come_back().expect("back");
    writer.say(&Notice::of_node(Reason::FailedToStartMetricServer, "taken"));
    writer.came_to(1, 1).await;
    // It ends with whoever has something to say, after the last word.
    writer.say(&Notice::of_node(Reason::FailedToStartMetricServer, "still taken"));
    drop(writer.notices);
    timeout(SOON, writer.task).await.expect("in time").expect("no panic");
    assert_eq!(writer.counts.written(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_write_them_goes_on_without() {
    for cluster in Cluster::all().expect("clusters") {
        let Some(kubeconfig) = cluster.kubeconfig_without_events() else {
            continue;
        };
        let writer = Writer::to(&kubeconfig);
        for number in 0..3 {
            writer.say(&Notice::of_node(Reason::Starting, format!("for the {number}. time")));
        }
        writer.came_to(0, 3).await;
    }
}

/// What a server thinks of our Events: a real one validates them.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_taken_and_repeated() {
    for cluster in Cluster::all().expect("clusters") {
        let namespace = cluster.namespace().to_owned();
        let mut object = service("web");
        object["metadata"]["namespace"] = namespace.clone().into();
        object["spec"].as_object_mut().expect("a spec").remove("clusterIP");
        cluster.put(&object).expect("a Service");
        let writer = Writer::to(&cluster.kubeconfig().expect("a kubeconfig"));
        let key = ServiceKey::new(&namespace, "web");
        let long = "x".repeat(2_000);
        let notices = Reason::ALL.map(|reason| match reason {
            Reason::Starting | Reason::FailedToStartProxierHealthcheck | Reason::FailedToStartMetricServer => {
                Notice::of_node(reason, "what happened")
            }
            _ => Notice::of_service(reason, &key, long.clone()),
        });
        for round in 1..=2 {
            notices.iter().for_each(|notice| writer.say(notice));
            writer.came_to(round * notices.len() as u64, 0).await;
            sleep(PATIENCE.event).await;
        }
        let of_service = cluster.list(Resource::Events).expect("Events");
        let counts: Vec<_> = of_service.iter().map(|event| &event["series"]["count"]).collect();
        assert!(
            counts.len() >= 3 && counts.iter().all(|count| **count == 2),
            "{of_service:#?}"
        );
        cluster.delete(Resource::Services, "web").expect("a Service");
    }
}
