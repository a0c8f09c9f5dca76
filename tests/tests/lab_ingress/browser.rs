//! curl, somewhere in the lab: a client that nobody here wrote, with TLS and both versions of HTTP.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tests::lab::Host;

/// How long a request may take, in seconds.
const SECONDS_MAX: &str = "5";

/// How a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    /// HTTP/1.1, plain.
    Plain,
    /// HTTP/1.1 over TLS.
    One,
    /// HTTP/2 over TLS.
    Two,
}

impl Http {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::One, Self::Two];

    /// The port of the Service, and of nginx.
    pub(crate) fn port(self) -> u16 {
        if self == Self::Plain { 80 } else { 443 }
    }

    fn scheme(self) -> &'static str {
        if self == Self::Plain { "http" } else { "https" }
    }

    /// As nginx's access log says it.
    pub(crate) fn logged(self) -> (&'static str, &'static str) {
        (if self == Self::Two { "HTTP/2.0" } else { "HTTP/1.1" }, self.scheme())
    }
}

/// What came back for one request: the answer of `/whoami`.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Which backend answered.
    pub(crate) backend: String,
    /// Whom it saw asking.
    pub(crate) client: SocketAddr,
}

/// Asks `/whoami` below a path so many times over one connection.
pub(crate) fn ask(
    from: &Host,
    door: SocketAddr,
    http: Http,
    (name, path): (&str, &str),
    times: usize,
    certificate: &Path,
) -> Result<Vec<Page>, String> {
    // curl counts: one URL, many requests.
    let url = format!("{path}whoami?number=[1-{times}]");
    let output = get(
        from,
        door,
        http,
        (name, &url),
        certificate,
        &["--write-out", "%{http_code} %{http_version}\n"],
    )?;
    let text = String::from_utf8_lossy(&output).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let wanted = if http == Http::Two { "200 2" } else { "200 1.1" };
    let pages = lines.chunks(2).map(|page| match page {
        [body, status] if *status == wanted => {
            let body: Value = serde_json::from_str(body).ok()?;
            Some(Page {
                backend: body["backend"].as_str()?.to_owned(),
                client: body["client"].as_str()?.parse().ok()?,
            })
        }
        _ => None,
    });
    let pages: Option<Vec<_>> = pages.collect();
    let pages = pages.filter(|pages| pages.len() == times);
    pages.ok_or_else(|| format!("expected {times} pages with {wanted}, got:\n{text}"))
}

/// Gets what a URL has.
pub(crate) fn get(
    from: &Host,
    door: SocketAddr,
    http: Http,
    (name, url): (&str, &str),
    certificate: &Path,
    more: &[&str],
) -> Result<Vec<u8>, String> {
    let address = if door.is_ipv6() {
        format!("[{}]", door.ip())
    } else {
        door.ip().to_string()
    };
    let mut curl = from.command("curl");
    curl.args([
        "--disable",
        "--silent",
        "--show-error",
        "--max-time",
        SECONDS_MAX,
        "--noproxy",
        "*",
    ]);
    curl.args(["--resolve", &format!("{name}:{}:{address}", door.port())]);
    curl.arg("--cacert").arg(certificate);
    curl.arg(if http == Http::Two { "--http2" } else { "--http1.1" })
        .args(more);
    curl.arg(format!("{}://{name}:{}{url}", http.scheme(), door.port()));
    let output = curl.output().map_err(|error| format!("curl: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("curl ended with {}: {said}", output.status));
    }
    Ok(output.stdout)
}
