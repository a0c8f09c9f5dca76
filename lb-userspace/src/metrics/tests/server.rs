//! The server over a real socket, with an agent that answers and one that does not.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::recorder;
use crate::metrics::{MetricsServer, SERIES_MAX, ScrapeRequest, Snapshot, TableReading};

/// A server on a free port, and what it asks the agent.
async fn serve() -> (SocketAddr, mpsc::Receiver<ScrapeRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (scrapes, requests) = mpsc::channel(1);
    let server = MetricsServer {
        address,
        hard_fail: true,
        registry: recorder().1,
        scrapes,
        series_max: SERIES_MAX,
    };
    tokio::spawn(server.run(watch::channel(None).0));
    tokio::task::yield_now().await;
    (address, requests)
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_scrape_asks_the_agent() {
    let (address, mut requests) = serve().await;
    tokio::spawn(async move {
        while let Some(reply) = requests.recv().await {
            let tables = vec![TableReading {
                table: "LB4_SLOTS",
                used: 1,
                places: 2,
            }];
            let _ = reply.send(Snapshot {
                tables,
                ..Snapshot::default()
            });
        }
    });
    let answer = get(address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\nsluice_table_entries{table=\"LB4_SLOTS\"} 1\n"),
        "{answer}"
    );
    assert!(
        answer.contains("\nkubeproxy_sync_proxy_rules_service_changes_total 0\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn the_mode_and_the_servers_own_health_need_no_agent() {
    let (address, _requests) = serve().await;
    for (path, body) in [("/proxyMode", "sluice"), ("/healthz", "ok")] {
        let answer = get(address, path).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&format!("\r\n\r\n{body}")),
            "{answer}"
        );
        assert!(
            answer.contains("content-type: text/plain; charset=utf-8\r\n"),
            "{answer}"
        );
    }
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_said_to_be_busy() {
    let (address, requests) = serve().await;
    let answer = get(address, "/metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("busy"),
        "{answer}"
    );
    drop(requests);
    let answer = get(address, "/metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("stopping"),
        "{answer}"
    );
}
