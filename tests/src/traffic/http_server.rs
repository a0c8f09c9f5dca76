//! What a backend's HTTP server answers. Every answer names the backend (`x-backend`) and the client as seen here (`x-client`).
//!
//! | path | answer |
//! |---|---|
//! | `/` | the backend's name |
//! | `/whoami` | backend, client and server address as JSON |
//! | `/bytes/N` | N bytes of the stream with seed N |
//! | `/drip/COUNT/MILLIS` | COUNT chunks of 1 KiB of the stream with seed 0, one every MILLIS |
//! | `/echo` with `Upgrade: echo` | 101, then everything sent comes back |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Interval, interval};

use super::pattern::Pattern;
use super::server::echo;

/// A body is produced in pieces of this size.
const PIECE: u64 = 64 * 1024;
const DRIP: u64 = 1024;
/// No answer is larger: a test that asks for more has a typing error.
const BYTES_MAX: u64 = 1 << 32;

/// Serves one connection to its end, with as many requests as the client likes.
pub(super) async fn serve(name: Arc<str>, stream: TcpStream, peer: SocketAddr) {
    let local = stream.local_addr().ok();
    let handler = service_fn(move |request| {
        let mut response = answer(&name, peer, local, request);
        let headers = response.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).expect("names and addresses are plain text");
        headers.insert("x-backend", value(&name));
        headers.insert("x-client", value(&peer.to_string()));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // The client keeps the books: a connection that breaks is counted there.
    let _broken = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), handler)
        .with_upgrades()
        .await;
}

fn answer(name: &str, peer: SocketAddr, local: Option<SocketAddr>, mut request: Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    let mut words = path.trim_start_matches('/').split('/');
    let first = words.next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = words.map(|word| word.parse().ok()).collect();
    match (first, numbers.as_slice()) {
        ("", []) => Response::new(Answer::text(format!("{name}\n"))),
        ("whoami", []) => {
            let server = local.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()).to_string());
            let whoami = serde_json::json!({"backend": name, "client": peer.to_string(), "server": server});
            Response::new(Answer::text(format!("{whoami}\n")))
        }
        ("bytes", [Some(count)]) if *count <= BYTES_MAX => Response::new(Answer::stream(*count, *count, None)),
        ("drip", [Some(count), Some(millis)]) => {
            let pace = interval(Duration::from_millis((*millis).max(1)));
            Response::new(Answer::stream(
                0,
                (*count).saturating_mul(DRIP).min(BYTES_MAX),
                Some(pace),
            ))
        }
        ("echo", []) if request.headers().contains_key(UPGRADE) => {
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
                    let _broken = echo(TokioIo::new(upgraded)).await;
                }
            });
            let mut response = Response::new(Answer::text(String::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
            response
        }
        _ => {
            let paths = "this server has /, /whoami, /bytes/N, /drip/COUNT/MILLIS and /echo\n";
            let mut response = Response::new(Answer::text(paths.to_owned()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// The body of an answer.
struct Answer {
    text: Option<Bytes>,
    pattern: Pattern,
    position: u64,
    end: u64,
    /// With a pace the length isn't announced, so that the body goes out in chunks.
    pace: Option<Interval>,
}

impl Answer {
    fn text(text: String) -> Self {
        Self {
            text: Some(Bytes::from(text)),
            ..Self::stream(0, 0, None)
        }
    }

    fn stream(seed: u64, end: u64, pace: Option<Interval>) -> Self {
        Self {
            text: None,
            pattern: Pattern::new(seed),
            position: 0,
            end,
            pace,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(text) = self.text.take() {
            return Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))));
        }
        if self.position == self.end {
            return Poll::Ready(None);
        }
        let mut size = PIECE;
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(context));
            size = DRIP;
        }
        let size = usize::try_from(size.min(self.end - self.position)).expect("at most a piece");
        let mut piece = vec![0; size];
        self.pattern.fill(self.position, &mut piece);
        self.position += size as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.text, &self.pace) {
            (Some(text), _) => SizeHint::with_exact(text.len() as u64),
            (None, None) => SizeHint::with_exact(self.end - self.position),
            (None, Some(_)) => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_none() && self.position == self.end
    }
}
