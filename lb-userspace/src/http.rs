//! A small HTTP server: one address, one function that answers.
//!
//! Here: listening, trying again, bounds on what clients may ask for. Not here: what is answered (`health`, `metrics`).
//! Answers are plain values, so that they are tested without a socket. hyper is named in this file only.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a client may take for the head of a request, or between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request's head may be.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Connections of one server at a time. Of more, the oldest is closed: idle clients must not keep a probe out.
const CONNECTIONS_MAX: usize = 128;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How often binding is tried again.
pub const RETRY_EVERY: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Other headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// An answer of plain text.
    pub fn text(code: u16, body: impl Into<String>) -> Self {
        Self {
            code,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// An answer of JSON that no browser may take for something else.
    pub fn json(code: u16, body: impl Into<String>) -> Self {
        Self {
            code,
            content_type: "application/json",
            headers: vec![("x-content-type-options", "nosniff".to_owned())],
            body: body.into(),
        }
    }

    /// There is no such path.
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}: {source}{}", hint(.source))]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What is served there.
    pub purpose: Box<str>,
    /// What the kernel says.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ". Does kube-proxy, or another agent, still run on this node?",
        io::ErrorKind::AddrNotAvailable => ". No device has this address (yet)",
        io::ErrorKind::PermissionDenied => ". Ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Listens on an address. `[::]` takes IPv4 connections, too, whatever `net.ipv6.bindv6only` says.
///
/// # Errors
/// If the kernel refuses.
pub fn listen(address: SocketAddr, purpose: &str) -> Result<TcpListener, ListenError> {
    let failed = |source: io::Error| ListenError {
        address,
        purpose: purpose.into(),
        source,
    };
    let open = || -> io::Result<TcpListener> {
        let family = if address.is_ipv6() {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if let IpAddr::V6(ip) = address.ip() {
            sockopt::set_ipv6_v6only(&socket, !ip.is_unspecified())?;
        }
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(failed)
}

/// Answers on this listener, for ever. Drop the future to close it and all its connections.
pub async fn serve<F, A>(listener: TcpListener, answer: F) -> Infallible
where
    F: Fn(String) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let answer = Arc::new(answer);
    let mut connections = JoinSet::new();
    let mut by_age = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // A connection that broke off while it waited, or no descriptors left: neither passes by hurrying.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        by_age.retain(|connection: &tokio::task::AbortHandle| !connection.is_finished());
        if by_age.len() >= CONNECTIONS_MAX
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answered = answer(request.uri().path().to_owned());
            async move { Ok::<_, Infallible>(answered.await.into_response()) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // How a connection ends is the client's business.
        by_age.push_back(connections.spawn(async move { drop(connection.await) }));
    }
}

/// Where and how a server is kept up.
#[derive(Clone, Debug)]
pub struct KeepServing {
    /// The address.
    pub address: SocketAddr,
    /// What is served, for complaints.
    pub purpose: Box<str>,
    /// Is it an error if the address cannot be listened on (`--bind-address-hard-fail`)? Else it is tried again every 5 s.
    pub hard_fail: bool,
}

impl KeepServing {
    /// Listens and answers, for ever. While the address cannot be listened on, `problem` says why.
    ///
    /// # Errors
    /// If the address cannot be listened on and this is to be an error.
    pub async fn run<F, A>(self, answer: F, problem: watch::Sender<Option<String>>) -> Result<Infallible, ListenError>
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = loop {
            match listen(self.address, &self.purpose) {
                Ok(listener) => break listener,
                Err(error) if self.hard_fail => return Err(error),
                Err(error) => {
                    let text = format!("{error}; it is tried again every {} s", RETRY_EVERY.as_secs());
                    if problem.borrow().as_ref() != Some(&text) {
                        tracing::error!("{text}");
                        problem.send_replace(Some(text));
                    }
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        };
        if problem.send_replace(None).is_some() {
            tracing::info!("{} is served on {} now", self.purpose, self.address);
        }
        Ok(serve(listener, answer).await)
    }
}
