//! The pages and health ports over real sockets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::health::{
    Health, HealthPort, HealthPortServers, ListenOn, Moment, Page, ProbeCounts, UnknownNode, serve_probes,
};
use crate::model::Family;
use crate::model::sample::key;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn health() -> Health {
    Health::new(Duration::from_secs(30), UnknownNode::Eligible)
}

/// A port that is free, most likely also when it is used.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// Status line, headers and body; nothing if nobody listens.
async fn ask(address: SocketAddr, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

async fn code(address: SocketAddr, path: &str) -> Option<String> {
    let answer = ask(address, "GET", path).await?;
    Some(answer.split(' ').nth(1)?.to_owned())
}

fn wanted(name: &str, port: u16, local_endpoints: usize) -> HealthPort {
    HealthPort {
        service: key(name),
        port,
        local_endpoints,
    }
}

fn on(addresses: &[IpAddr]) -> ListenOn {
    ListenOn::Addresses(BTreeSet::from_iter(addresses.iter().copied()))
}

#[tokio::test]
async fn probes_are_answered_with_any_method() {
    let address = SocketAddr::new(LOOPBACK, free_port().await);
    let (sender, receiver) = watch::channel(health());
    let counts = Arc::new(ProbeCounts::default());
    let (problem, _) = watch::channel(None);
    let server = tokio::spawn(serve_probes(address, true, receiver, counts.clone(), problem));
    tokio::task::yield_now().await;
    for method in ["GET", "POST", "PUT", "BREW"] {
        let answer = ask(address, method, "/healthz?verbose").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
        assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{answer}");
        assert!(answer.contains("\"healthy\":true"), "{answer}");
    }
    let head = ask(address, "HEAD", "/livez").await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert_eq!(code(address, "/").await.as_deref(), Some("404"));
    let long_ago = Moment::now().steady.checked_sub(Duration::from_secs(60)).unwrap();
    sender.send_modify(|health| health.queued(Family::V6, long_ago));
    assert_eq!(code(address, "/livez").await.as_deref(), Some("503"));
    assert_eq!((counts.get(Page::Healthz, 200), counts.get(Page::Livez, 503)), (4, 1));
    server.abort();
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_or_is_tried_again() {
    let taken = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = taken.local_addr().unwrap();
    let (_sender, receiver) = watch::channel(health());
    let counts = Arc::new(ProbeCounts::default());
    let (problem, mut problems) = watch::channel(None);
    let failed = serve_probes(address, true, receiver.clone(), counts.clone(), problem.clone()).await;
    let text = failed.unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("cannot listen on {address} for /healthz and /livez: ")),
        "{text}"
    );
    assert!(text.contains("Does kube-proxy"), "{text}");

    let server = tokio::spawn(serve_probes(address, false, receiver, counts, problem));
    let complaint = problems.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(complaint.ends_with("it is tried again every 5 s"), "{complaint}");
    drop(taken);
    problems.wait_for(Option::is_none).await.unwrap();
    assert_eq!(code(address, "/livez").await.as_deref(), Some("200"));
    server.abort();
}

#[tokio::test]
async fn health_ports_open_change_move_and_close() {
    let (_sender, receiver) = watch::channel(health());
    let mut servers = HealthPortServers::new(receiver);
    let (first, second) = (free_port().await, free_port().await);
    let at = |port| SocketAddr::new(LOOPBACK, port);
    let here = on(&[LOOPBACK]);
    servers.update(&[wanted("web", first, 0)], &here).await;
    let answer = ask(at(first), "GET", "/any/path").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 0\r\n"), "{answer}");
    servers.update(&[wanted("web", first, 3)], &here).await;
    let answer = ask(at(first), "GET", "/").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 3\r\n"), "{answer}");
    assert!(answer.ends_with("\t\"serviceProxyHealthy\": true\n}"), "{answer}");

    servers.update(&[wanted("web", second, 3)], &here).await;
    assert_eq!(code(at(first), "/").await, None, "the old port is closed");
    assert_eq!(code(at(second), "/").await.as_deref(), Some("200"));
    servers
        .update(&[wanted("api", second, 0), wanted("web", first, 1)], &here)
        .await;
    assert_eq!(servers.problems().count(), 0, "a port changes hands in one update");
    assert_eq!(code(at(second), "/").await.as_deref(), Some("503"), "api's");
    assert_eq!(code(at(first), "/").await.as_deref(), Some("200"), "web's");
    servers.update(&[], &here).await;
    assert!(servers.is_empty());
    assert_eq!(code(at(first), "/").await, None);
}

#[tokio::test]
async fn row_139_a_late_proxy_turns_health_ports_down() {
    let (sender, receiver) = watch::channel(health());
    let mut servers = HealthPortServers::new(receiver);
    let port = free_port().await;
    servers.update(&[wanted("web", port, 1)], &on(&[LOOPBACK])).await;
    let long_ago = Moment::now().steady.checked_sub(Duration::from_secs(60)).unwrap();
    sender.send_modify(|health| health.queued(Family::V4, long_ago));
    let answer = ask(SocketAddr::new(LOOPBACK, port), "GET", "/").await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"localEndpoints\": 1"),
        "{answer}"
    );
}

#[tokio::test]
async fn one_listener_serves_both_families() {
    let (_sender, receiver) = watch::channel(health());
    let mut servers = HealthPortServers::new(receiver);
    let port = free_port().await;
    servers.update(&[wanted("web", port, 1)], &ListenOn::EveryAddress).await;
    assert_eq!(servers.problems().count(), 0);
    assert_eq!(code(SocketAddr::new(LOOPBACK, port), "/").await.as_deref(), Some("200"));
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
    // A machine without IPv6 has nothing to ask there.
    if TcpListener::bind(v6).await.is_ok() {
        let v6 = SocketAddr::new(v6.ip(), port);
        assert_eq!(code(v6, "/").await.as_deref(), Some("200"));
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_problem_until_it_is_free() {
    let taken = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let (_sender, receiver) = watch::channel(health());
    let mut servers = HealthPortServers::new(receiver);
    let (web, both) = ([wanted("web", port, 1)], on(&[LOOPBACK, other]));
    servers.update(&web, &both).await;
    let problem = servers.problems().next().unwrap().to_string();
    let expected = format!("Service default/web: spec.healthCheckNodePort: cannot listen on 127.0.0.1:{port} for ");
    assert!(problem.starts_with(&expected), "{problem}");
    assert_eq!(
        code(SocketAddr::new(other, port), "/").await,
        None,
        "one address that fails closes all of the Service"
    );
    servers.update(&web, &both).await;
    assert_eq!(servers.problems().count(), 1, "tried again, and told once");
    drop(taken);
    servers.update(&web, &both).await;
    assert_eq!((servers.problems().count(), servers.len()), (0, 1));
    assert_eq!(code(SocketAddr::new(other, port), "/").await.as_deref(), Some("200"));

    servers.update(&web, &on(&[other])).await;
    assert_eq!(
        code(SocketAddr::new(LOOPBACK, port), "/").await,
        None,
        "other addresses, other listeners"
    );
    assert_eq!(code(SocketAddr::new(other, port), "/").await.as_deref(), Some("200"));
}

#[tokio::test]
async fn no_address_at_all_is_a_problem() {
    let (_sender, receiver) = watch::channel(health());
    let mut servers = HealthPortServers::new(receiver);
    servers.update(&[wanted("web", 30_000, 1)], &on(&[])).await;
    let problem = servers.problems().next().unwrap().to_string();
    assert!(
        problem.contains("no address of this node is selected for NodePorts"),
        "{problem}"
    );
    servers.update(&[], &on(&[])).await;
    assert_eq!(servers.problems().count(), 0, "it goes with its Service");
}

/// Idle connections do not keep a probe out.
#[tokio::test]
async fn many_idle_clients_do_not_keep_others_out() {
    let (_sender, receiver) = watch::channel(health());
    let mut servers = HealthPortServers::new(receiver);
    let port = free_port().await;
    servers.update(&[wanted("web", port, 1)], &on(&[LOOPBACK])).await;
    let address = SocketAddr::new(LOOPBACK, port);
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(code(address, "/").await.as_deref(), Some("200"));
}
