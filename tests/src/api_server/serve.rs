//! Requests and answers of the test API server.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::{Faults, Refusal};
use super::selector::Selector;
use super::store::{Key, Resource, Store, Stored, Write};
use super::{Order, lock};

/// How often a watch that asks for bookmarks gets one, as kube-apiserver does it.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The annotation of the bookmark that ends a streamed list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// What requests and orders share.
pub(super) struct Shared {
    pub(super) store: Mutex<Store>,
    pub(super) faults: Mutex<Faults>,
    /// Method and target.
    pub(super) requests: Mutex<Vec<(Method, String)>>,
    /// The last version that was written.
    pub(super) written: watch::Sender<u64>,
    /// Counts cuts: whoever sees it change breaks off.
    pub(super) cuts: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, Vec<(Method, String)>> {
        lock(&self.requests)
    }

    /// Whether one of a counted number of faults is due.
    fn takes_one(&self, resource: Resource, of: fn(&mut Faults) -> &mut BTreeMap<Resource, u32>) -> bool {
        let mut faults = self.faults();
        match of(&mut faults).get_mut(&resource) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Listens as it is ordered to, until nobody can order any more.
pub(super) async fn accept(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut connections = JoinSet::new();
    let mut listener: Option<tokio::net::TcpListener> = None;
    loop {
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Close(_done)) => listener = None,
                Some(Order::Listen(socket)) => {
                    listener = socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket)).ok();
                }
            },
            Ok((stream, _)) = next => {
                drop(stream.set_nodelay(true));
                let shared = shared.clone();
                connections.spawn(async move {
                    let mut cuts = shared.cuts.subscribe();
                    let service = service_fn(move |request| answer(shared.clone(), request));
                    let connection = server::conn::http1::Builder::new()
                        .auto_date_header(false)
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        ended = connection => drop(ended),
                        // The socket closes amid whatever it was at.
                        _ = cuts.changed() => {}
                    }
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// A body that is written elsewhere, piece by piece.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| match piece {
            // As an end without a last chunk, which hyper makes of an error.
            Some(piece) if piece.is_empty() => Some(Err(io::Error::other("cut on command"))),
            Some(piece) => Some(Ok(Frame::data(piece))),
            None => None,
        })
    }
}

/// Writes a body as the faults have it.
struct Pen {
    pieces: mpsc::Sender<Bytes>,
    slow: Option<(usize, Duration)>,
    stall_after: Option<usize>,
}

/// The reader has gone.
struct Gone;

impl Pen {
    async fn write(&mut self, text: String) -> Result<(), Gone> {
        let mut text = Bytes::from(text);
        if let Some(left) = &mut self.stall_after {
            if text.len() > *left {
                drop(self.pieces.send(text.slice(..*left)).await);
                self.pieces.closed().await;
                return Err(Gone);
            }
            *left -= text.len();
        }
        while let Some((length, wait)) = self.slow.filter(|(length, _)| text.len() > *length) {
            let piece = text.split_to(length);
            self.pieces.send(piece).await.map_err(|_| Gone)?;
            sleep(wait).await;
        }
        self.pieces.send(text).await.map_err(|_| Gone)
    }

    async fn cut(&self) -> Gone {
        drop(self.pieces.send(Bytes::new()).await);
        Gone
    }
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let (mut decoded, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(byte)) => {
                    decoded.push(byte);
                    at += 3;
                }
                (byte, _) => {
                    decoded.push(if byte == b'+' { b' ' } else { byte });
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&decoded).into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn reply(code: u16, clock_off_s: i64) -> hyper::http::response::Builder {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_now_s().saturating_add_signed(clock_off_s));
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(CONTENT_TYPE, "application/json")
        .header(DATE, http_date(now))
}

fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The form of RFC 9110 §5.6.7.
fn http_date(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let timestamp = jiff::Timestamp::from_second(since as i64).unwrap_or_default();
    timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code})
}

type Answer = Response<Pieces>;

fn whole(builder: hyper::http::response::Builder, text: String) -> Answer {
    let (sender, receiver) = mpsc::channel(1);
    // The channel has room for one.
    drop(sender.try_send(Bytes::from(text)));
    builder.body(Pieces(receiver)).expect("a status and two headers")
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, io::Error> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str())
        .to_owned();
    shared.requests().push((request.method().clone(), target));
    let faults = shared.faults().clone();
    let no = |code, reason: &str, message: &str| {
        whole(
            reply(code, faults.clock_off_s),
            status(code, reason, message).to_string(),
        )
    };
    let path = request.uri().path().to_owned();
    let Some((resource, namespace, name)) = Resource::find(&path) else {
        return Ok(no(404, "NotFound", "the server could not find the requested resource"));
    };
    if faults.stall.contains(&resource) {
        std::future::pending::<()>().await;
    }
    if let Some(Refusal { code, retry_after_s }) = faults.refuse.get(&resource) {
        let mut builder = reply(*code, faults.clock_off_s);
        if let Some(seconds) = retry_after_s {
            builder = builder.header(RETRY_AFTER, seconds.to_string());
        }
        return Ok(whole(
            builder,
            status(*code, "Refused", "refused on command").to_string(),
        ));
    }
    let query = parameters(request.uri().query().unwrap_or_default());
    if faults.no_fields_of_services && resource == Resource::Services && !given(&query, "fieldSelector").is_empty() {
        return Ok(no(400, "BadRequest", "field label not supported: spec.clusterIP"));
    }
    let asks = Asks {
        resource,
        namespace: namespace.map(str::to_owned),
        selector: match Selector::parse(given(&query, "labelSelector"), given(&query, "fieldSelector")) {
            Ok(selector) => selector,
            Err(reason) => return Ok(no(400, "BadRequest", &reason)),
        },
        query,
        faults: faults.clone(),
    };
    let key = |name: &str| (namespace.unwrap_or_default().to_owned(), name.to_owned());
    match (request.method(), name) {
        (&Method::GET, None) if given(&asks.query, "watch") == "true" => Ok(watch_answer(shared, asks)),
        (&Method::GET, None) => Ok(list_answer(shared, asks)),
        (&Method::GET, Some(name)) => Ok(match shared.store().get(resource, &key(name)) {
            Some(object) => whole(reply(200, faults.clock_off_s), object.text.to_string()),
            None => no(404, "NotFound", "not found"),
        }),
        (&Method::POST, None) | (&Method::PUT | &Method::PATCH, Some(_)) => {
            let (method, key) = (request.method().clone(), name.map(key));
            let body = request
                .into_body()
                .collect()
                .await
                .map_err(io::Error::other)?
                .to_bytes();
            let written = write(&mut shared.store(), &method, resource, key, &body);
            let version = shared.store().version();
            shared.written.send_replace(version);
            Ok(match written {
                Ok(object) => whole(reply(200, faults.clock_off_s), object.text.to_string()),
                Err((code, reason, message)) => no(code, reason, &message),
            })
        }
        (&Method::DELETE, Some(name)) => {
            let deleted = shared.store().delete(resource, &key(name)).map_err(io::Error::other)?;
            let version = shared.store().version();
            shared.written.send_replace(version);
            Ok(if deleted {
                let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
                whole(reply(200, faults.clock_off_s), done.to_string())
            } else {
                no(404, "NotFound", "not found")
            })
        }
        _ => Ok(no(405, "MethodNotAllowed", "not allowed")),
    }
}

/// Creates (`POST`), creates or replaces (`PUT`), or merges into (`PATCH`, RFC 7396) an object.
fn write(
    store: &mut Store,
    method: &Method,
    resource: Resource,
    key: Option<Key>,
    body: &[u8],
) -> Result<Arc<Stored>, (u16, &'static str, String)> {
    let refused = |error: anyhow::Error| (400, "BadRequest", format!("{error:#}"));
    let object: Value = serde_json::from_slice(body).map_err(|error| refused(error.into()))?;
    match key {
        Some(key) if method == Method::PATCH => store
            .merge(resource, &key, &object)
            .map_err(refused)?
            .ok_or_else(|| (404, "NotFound", "not found".to_owned())),
        Some(_) => store.put(resource, &object).map_err(refused),
        None => store
            .create(resource, &object)
            .map_err(refused)?
            .ok_or_else(|| (409, "AlreadyExists", "object already exists".to_owned())),
    }
}

fn given<'a>(query: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    query.get(name).map_or("", String::as_str)
}

/// A request for a collection.
struct Asks {
    resource: Resource,
    namespace: Option<String>,
    selector: Selector,
    query: BTreeMap<String, String>,
    faults: Faults,
}

impl Asks {
    fn given(&self, name: &str) -> &str {
        given(&self.query, name)
    }

    fn selects(&self, object: &Stored) -> bool {
        object.is_selected(&self.selector, self.namespace.as_deref())
    }

    fn no(&self, code: u16, reason: &str, message: &str) -> Answer {
        whole(
            reply(code, self.faults.clock_off_s),
            status(code, reason, message).to_string(),
        )
    }

    /// An answer that is written from now on.
    fn open(&self) -> (Pen, Answer) {
        let (sender, receiver) = mpsc::channel(64);
        let pen = Pen {
            pieces: sender,
            slow: self.faults.slow,
            stall_after: self.faults.stall_after.get(&self.resource).copied(),
        };
        let answer = reply(200, self.faults.clock_off_s)
            .body(Pieces(receiver))
            .expect("a status and two headers");
        (pen, answer)
    }
}

fn list_answer(shared: Arc<Shared>, asks: Asks) -> Answer {
    let token = asks.given("continue");
    let (version, mut objects) = if token.is_empty() {
        let (version, mut objects) = shared.store().list(asks.resource);
        objects.retain(|object| asks.selects(object));
        (version, objects)
    } else {
        let page = shared.store().take_page(token).filter(|_| !asks.faults.pages_expire);
        let Some(page) = page else {
            return asks.no(
                410,
                "Expired",
                "The provided continue parameter is too old to display a consistent list result",
            );
        };
        page
    };
    let limit: usize = asks.given("limit").parse().unwrap_or(0);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if limit > 0 && objects.len() > limit {
        let rest = objects.split_off(limit);
        metadata["remainingItemCount"] = rest.len().into();
        metadata["continue"] = shared.store().keep_page(version, rest).into();
    }
    let (api_version, kind) = asks.resource.type_meta();
    let head = format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
    let (mut pen, answer) = asks.open();
    let breaks = shared.takes_one(asks.resource, |faults| &mut faults.half_lists);
    tokio::spawn(async move {
        let half = objects.len() / 2;
        pen.write(head).await?;
        for (at, object) in objects.iter().enumerate() {
            if breaks && at == half {
                return Err(pen.cut().await);
            }
            let comma = if at > 0 { "," } else { "" };
            pen.write(format!("{comma}{}", object.text)).await?;
        }
        if breaks {
            return Err(pen.cut().await);
        }
        pen.write("]}\n".to_owned()).await
    });
    answer
}

fn watch_answer(shared: Arc<Shared>, asks: Asks) -> Answer {
    let streams = asks.given("sendInitialEvents") == "true" && !asks.faults.ignores_streamed_lists;
    if streams && (asks.faults.no_streamed_lists || asks.given("resourceVersionMatch") != "NotOlderThan") {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return asks.no(422, "Invalid", message);
    }
    let (mut pen, answer) = asks.open();
    let writing = shared.clone();
    tokio::spawn(async move {
        let mut cuts = writing.cuts.subscribe();
        tokio::select! {
            ended = write_watch(&writing, &asks, streams, &mut pen) => drop(ended),
            _ = cuts.changed() => { pen.cut().await; }
        }
    });
    answer
}

fn event(kind: &str, text: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{text}}}\n")
}

async fn write_watch(shared: &Shared, asks: &Asks, streams: bool, pen: &mut Pen) -> Result<(), Gone> {
    let mut written = shared.written.subscribe();
    let (api_version, kind) = asks.resource.type_meta();
    let bookmark = |version: u64, annotations: Value| {
        let metadata =
            json!({"resourceVersion": version.to_string(), "creationTimestamp": null, "annotations": annotations});
        event(
            "BOOKMARK",
            &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string(),
        )
    };
    let mut position = asks.given("resourceVersion").parse().unwrap_or(0);
    // Without a version, what is there comes first; only a streamed list says where it ends.
    if position == 0 {
        let (version, objects) = shared.store().list(asks.resource);
        for object in objects.iter().filter(|object| asks.selects(object)) {
            pen.write(event("ADDED", &object.text)).await?;
        }
        if streams {
            pen.write(bookmark(version, json!({LIST_ENDS: "true"}))).await?;
        }
        position = version;
    }
    if asks.faults.ends_watches {
        return Ok(());
    }
    let timeout_s = asks.given("timeoutSeconds").parse().unwrap_or(1800);
    let ends = Instant::now() + Duration::from_secs(timeout_s);
    let mut bookmark_due = Instant::now() + BOOKMARK_EVERY;
    loop {
        let writes = shared.store().since(asks.resource, position);
        let Some(writes) = writes else {
            let gone = status(410, "Expired", "The resourceVersion for the provided watch is too old.");
            return pen.write(event("ERROR", &gone.to_string())).await;
        };
        for write in writes {
            position = write.version;
            let Some(mut line) = line(&write, asks) else {
                continue;
            };
            if shared.takes_one(asks.resource, |faults| &mut faults.half_lines) {
                line.truncate(line.len() / 2);
                line.push('\n');
            }
            pen.write(line).await?;
        }
        tokio::select! {
            changed = written.changed() => changed.map_err(|_| Gone)?,
            () = sleep_until(bookmark_due), if asks.given("allowWatchBookmarks") == "true" => {
                bookmark_due += BOOKMARK_EVERY;
                pen.write(bookmark(position, json!({}))).await?;
            }
            () = sleep_until(ends) => return Ok(()),
            () = pen.pieces.closed() => return Err(Gone),
        }
    }
}

/// The event that a write is for somebody who selects; none if the object was and is not selected.
fn line(write: &Write, asks: &Asks) -> Option<String> {
    let selected = |object: &Option<Arc<Stored>>| object.as_ref().is_some_and(|object| asks.selects(object));
    match (selected(&write.before), &write.after) {
        (before, Some(after)) if asks.selects(after) => {
            Some(event(if before { "MODIFIED" } else { "ADDED" }, &after.text))
        }
        // It no longer fits the selectors, which is told as a deletion.
        (true, Some(after)) => Some(event("DELETED", &after.text)),
        (true, None) => write.deleted.as_ref().map(|deleted| event("DELETED", &deleted.text)),
        (false, _) => None,
    }
}
