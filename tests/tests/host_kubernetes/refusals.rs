//! What a server refuses, what a person can do about it, and what begins only by hand.

use std::time::{Duration, Instant};

use lb_userspace::model::Severity;
use lb_userspace::source::SourceStatus;
use lb_userspace::source::kubernetes::{Access, KubernetesError};
use rstest::rstest;
use serde_json::json;
use tests::api_server::{Refusal, Resource};
use tokio::time::timeout;

use crate::scene::{SOON, Source, asked, server, service};

#[rstest]
#[case::credentials(401, "The credentials were refused")]
#[case::rights(403, "needs a ClusterRole with get, list and watch")]
#[case::unknown(404, "does not know this kind")]
#[case::too_many(429, "overloaded or starting")]
#[case::broken(500, "overloaded or starting")]
#[case::starting(503, "overloaded or starting")]
#[tokio::test]
async fn a_refusal_is_told_with_its_remedy_until_it_ends(#[case] code: u16, #[case] remedy: &str) {
    let server = server([]);
    server.fault(|faults| faults.refuse = [(Resource::EndpointSlices, Refusal::code(code))].into());
    let mut source = Source::of(&server.kubeconfig());
    let problem = source.problem("watching EndpointSlices").await;
    assert!(
        problem.starts_with(&format!(
            "watching EndpointSlices: the API server answers {code} refused on command. "
        )),
        "{problem}"
    );
    assert!(problem.contains(remedy), "{problem}");
    assert_eq!(source.next(1).await, ["synced Services"]);
    let status = source.status.borrow().clone();
    assert!(!status.synced && status.away_since.is_some());
    server.fault(|faults| faults.refuse.clear());
    assert_eq!(source.next(1).await, ["synced EndpointSlices"]);
    source.well().await;
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let server = server([]);
    let refusal = Refusal {
        code: 429,
        retry_after_s: Some(2),
    };
    server.fault(|faults| faults.refuse = [(Resource::Services, refusal)].into());
    let mut source = Source::of(&server.kubeconfig());
    source.problem("watching Services").await;
    let start = Instant::now();
    asked(&server, Resource::Services, "watch=true", 2).await;
    assert!(
        start.elapsed() > Duration::from_millis(1_900),
        "asked again after {:?}",
        start.elapsed()
    );
}

#[rstest]
#[case::forbidden(403)]
#[case::unknown(404)]
#[tokio::test]
async fn without_service_ranges_the_source_is_synced_and_says_what_is_missing(#[case] code: u16) {
    let server = server([]);
    server.fault(|faults| faults.refuse = [(Resource::ServiceCidrs, Refusal::code(code))].into());
    let mut source = Source::of(&server.kubeconfig());
    assert_eq!(source.next(2).await, ["synced EndpointSlices", "synced Services"]);
    let told = |status: &SourceStatus| status.synced && !status.problems.is_empty();
    let status = source.status("something is missing", told).await;
    let [problem] = &*status.problems else {
        panic!("{status:?}")
    };
    assert_eq!(
        (problem.severity, status.away_since),
        (Severity::Info, None),
        "{problem}"
    );
    let text = problem.to_string();
    assert!(
        text.starts_with("watching ServiceCIDRs: ") && text.contains("The agent does without them"),
        "{text}"
    );
    // It is asked again one day.
    server.fault(|faults| faults.refuse.clear());
    source.well().await;
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_named() {
    let access = Access {
        kubeconfig: Some("/nowhere/kubeconfig".into()),
        api_server: None,
    };
    let source = Source::by(access, tempfile::NamedTempFile::new().unwrap());
    let error = timeout(SOON, source.task).await.unwrap().unwrap().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot use the kubeconfig file /nowhere/kubeconfig: "),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_named() {
    let access = Access {
        kubeconfig: None,
        api_server: Some("192.0.2.10:6443".to_owned()),
    };
    let source = Source::by(access, tempfile::NamedTempFile::new().unwrap());
    let error = timeout(SOON, source.task).await.unwrap().unwrap().unwrap_err();
    let expected =
        "cannot use the API server's address \"192.0.2.10:6443\": it is not a URL such as https://192.0.2.10:6443";
    assert_eq!(error.to_string(), expected);
}

/// A server over TLS: that the client can be made at all shows that a cryptography provider is built in.
#[tokio::test]
async fn tls_is_built_in_and_the_source_ends_with_its_reader() {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    let mut source = Source::of(&kubeconfig.to_string());
    source.problem("Is the API server running and its address right?").await;
    assert!(matches!(
        timeout(SOON, source.unheard()).await.unwrap().unwrap(),
        Err(KubernetesError::Closed(_))
    ));
}

#[tokio::test]
async fn an_unanswered_wait_ends_with_the_reader_too() {
    let server = server([service("web")]);
    server.fault(|faults| faults.stall = Resource::ALL.into());
    let source = Source::of(&server.kubeconfig());
    asked(&server, Resource::Services, "watch=true", 1).await;
    assert!(matches!(
        timeout(SOON, source.unheard()).await.unwrap().unwrap(),
        Err(KubernetesError::Closed(_))
    ));
}
