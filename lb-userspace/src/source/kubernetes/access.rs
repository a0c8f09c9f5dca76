//! The way to the API server: address, credentials, connection.
//!
//! The address must be the server's own, not that of the Service `kubernetes`: this agent serves that one, and after a reboot
//! nobody does before the agent has read what to serve. Not here: what is asked (`follow`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::KubernetesError;

/// What a pod finds of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
// A dead peer is found out within 45 s, as client-go does by HTTP/2 pings.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;

/// How the API server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file; without one the pod's service account is used, or what `kubectl` would use.
    pub kubeconfig: Option<PathBuf>,
    /// Its address, in place of what the configuration says, such as `https://192.0.2.10:6443`.
    pub api_server: Option<String>,
}

/// A connection to be, and to whom.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) url: String,
    /// The host of the address, if it is an address and was not given by hand: it may turn out to be a Service's.
    pub(super) guessed: Option<IpAddr>,
}

impl Access {
    /// Whether it is an address that is given.
    ///
    /// # Errors
    /// If it is none.
    pub fn check(&self) -> Result<(), KubernetesError> {
        self.api_server.as_deref().map_or(Ok(()), |text| parse(text).map(drop))
    }

    /// Makes a client. Nothing is asked yet.
    pub(super) async fn connection(&self) -> Result<Connection, KubernetesError> {
        let config = self.config().await?;
        let host = config.cluster_url.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        Ok(Connection {
            url: config.cluster_url.to_string(),
            guessed: address.filter(|_| self.api_server.is_none()),
            client: client(&config).map_err(|error| KubernetesError::Client(Box::new(error)))?,
        })
    }

    async fn config(&self) -> Result<Config, KubernetesError> {
        let url = match &self.api_server {
            None => None,
            Some(text) => Some(parse(text)?),
        };
        let mut config = match &self.kubeconfig {
            Some(path) => from_file(path.clone()).await?,
            None => match (Config::incluster(), &url) {
                (Ok(config), _) => config,
                // No KUBERNETES_SERVICE_HOST, but the token may be there.
                (Err(_), Some(url)) if Path::new(SERVICE_ACCOUNT).join("token").exists() => {
                    of_service_account(url.clone())
                }
                (Err(in_pod), url) => match (Config::from_kubeconfig(&KubeConfigOptions::default()).await, url) {
                    (Ok(config), _) => config,
                    // A server that asks for no credentials, such as kubectl proxy.
                    (Err(_), Some(url)) => Config::new(url.clone()),
                    (Err(outside), None) => {
                        let reason = format!("as a pod: {in_pod}; as a user: {outside}");
                        return Err(KubernetesError::NoConfig(reason.into()));
                    }
                },
            },
        };
        if let Some(url) = url {
            config.cluster_url = url;
        }
        let user_agent = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));
        config.headers.push((header::USER_AGENT, user_agent));
        Ok(config)
    }
}

/// A URL of a server, with scheme and host.
fn parse(text: &str) -> Result<hyper::Uri, KubernetesError> {
    let wrong = |reason: &str| KubernetesError::Address {
        address: text.into(),
        reason: reason.into(),
    };
    let url: hyper::Uri = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    match (url.scheme_str(), url.host()) {
        (Some("https" | "http"), Some(host)) if !host.is_empty() => Ok(url),
        _ => Err(wrong("it is not a URL such as https://192.0.2.10:6443")),
    }
}

async fn from_file(path: PathBuf) -> Result<Config, KubernetesError> {
    let config = match Kubeconfig::read_from(&path) {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await,
        Err(error) => Err(error),
    };
    config.map_err(|error| KubernetesError::Kubeconfig {
        path,
        reason: error.to_string().into(),
    })
}

fn of_service_account(url: hyper::Uri) -> Config {
    let account = PathBuf::from(SERVICE_ACCOUNT);
    let mut config = Config::new(url);
    config.root_cert_file = Some(account.join("ca.crt"));
    config.auth_info = AuthInfo {
        token_file: Some(account.join("token").display().to_string()),
        ..AuthInfo::default()
    };
    config
}

/// kube's own stack logs every failure as an error and asks again up to 15 times before it says a word: here each answer counts.
fn client(config: &Config) -> Result<Client, kube::Error> {
    if let Some(proxy_url) = &config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported {
            proxy_url: Box::new(proxy_url.clone()),
        });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_TRIES));
    // Without TLS no certificates are needed either, which an image with nothing else in it hasn't any of.
    if config.cluster_url.scheme_str() == Some("http") {
        return over(config, tcp);
    }
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    over(config, connector)
}

fn over<C: Connect + Clone + Send + Sync + 'static>(config: &Config, connector: C) -> Result<Client, kube::Error> {
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::usual("https://192.0.2.10:6443", true)]
    #[case::name("https://api.example.org", true)]
    #[case::ipv6("https://[2001:db8::1]:6443", true)]
    #[case::plain("http://127.0.0.1:8080", true)]
    #[case::no_scheme("192.0.2.10:6443", false)]
    #[case::another_scheme("ftp://192.0.2.10", false)]
    #[case::nothing("", false)]
    #[case::no_host("https:///path", false)]
    fn addresses_of_servers(#[case] text: &str, #[case] good: bool) {
        assert_eq!(parse(text).is_ok(), good);
    }
}
