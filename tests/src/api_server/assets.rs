//! A kube-apiserver of this process' own, with an etcd, from the binaries that `KUBEBUILDER_ASSETS` names (the convention of envtest).
//!
//! Both are started at first use, listen on free ports of 127.0.0.1 and serve all tests of the process. A shell in between keeps them:
//! it waits for the end of a pipe whose other end only this process has, then ends both and removes their folder. So they end with
//! the process, however that ends. Not here: what is asked of the server (`cluster`).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;

/// How long a server may take until it answers. It makes certificates and its first objects meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// The credentials of whoever may do everything, and of whoever may do nothing.
const ADMIN_TOKEN: &str = "admin";
const NOBODY_TOKEN: &str = "nobody";

/// Where this is asked for.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The server of this process, if there are binaries for it.
pub(super) fn server() -> Option<Result<&'static Kept>> {
    static SERVER: OnceLock<Result<Kept, String>> = OnceLock::new();
    let assets = std::env::var_os(ASSETS)?;
    let kept = SERVER.get_or_init(|| Kept::start(Path::new(&assets)).map_err(|error| format!("{error:#}")));
    Some(kept.as_ref().map_err(|error| anyhow!("{error}")))
}

/// Keeps the servers: `$1` is their folder, `$2` that of the binaries, `$3` etcd's port, `$4` kube-apiserver's.
const KEEPER: &str = r#"
trap '' INT HUP
cd "$1" || exit 1
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out accounts.key 2>/dev/null || exit 1
"$2/etcd" --data-dir=etcd --listen-client-urls="http://127.0.0.1:$3" --advertise-client-urls="http://127.0.0.1:$3" \
    --listen-peer-urls=http://127.0.0.1:0 </dev/null >etcd.log 2>&1 &
etcd=$!
"$2/kube-apiserver" --etcd-servers="http://127.0.0.1:$3" --bind-address=127.0.0.1 --secure-port="$4" --cert-dir=certificates \
    --token-auth-file=tokens.csv --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16 \
    --service-account-issuer=https://127.0.0.1 --service-account-key-file=accounts.key \
    --service-account-signing-key-file=accounts.key --disable-admission-plugins=ServiceAccount \
    </dev/null >kube-apiserver.log 2>&1 &
server=$!
cat >/dev/null
kill -9 $etcd $server
wait
cd / && rm -rf "$1"
"#;

/// Running servers, and whoever keeps them. Dropping it ends them.
pub(super) struct Kept {
    keeper: Child,
    folder: PathBuf,
    port: u16,
    kubectl: PathBuf,
}

impl Kept {
    /// Starts the binaries of a folder and waits until they answer.
    fn start(assets: &Path) -> Result<Self> {
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            let path = assets.join(name);
            ensure!(
                path.is_file(),
                "{ASSETS} names a folder without {name}: {} is no file",
                path.display()
            );
        }
        let folder = tempfile::Builder::new().prefix("slt-api-").tempdir()?.keep();
        let tokens = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n{NOBODY_TOKEN},nobody,nobody\n");
        std::fs::write(folder.join("tokens.csv"), tokens)?;
        let [etcd_port, port] = free_ports()?;
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([folder.as_path(), assets])
            .args([etcd_port, port].map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .spawn()
            .context("starting a shell that keeps etcd and kube-apiserver")?;
        let kept = Self {
            keeper,
            folder,
            port,
            kubectl: assets.join("kubectl"),
        };
        kept.wait_until_ready()?;
        Ok(kept)
    }

    /// The kubectl that belongs to it.
    pub(super) fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// The kubeconfig of whoever may do everything.
    pub(super) fn admin(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The text of a kubeconfig of somebody who may do nothing.
    pub(super) fn nobody(&self) -> Result<String> {
        self.kubeconfig(NOBODY_TOKEN)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            // It is complete when the certificate is there.
            if let Ok(text) = self.kubeconfig(ADMIN_TOKEN) {
                std::fs::write(self.admin(), text)?;
                let asked = Command::new(&self.kubectl)
                    .arg("--kubeconfig")
                    .arg(self.admin())
                    .args(["get", "--raw", "/readyz"])
                    .output()
                    .context("starting kubectl")?;
                if asked.status.success() {
                    return Ok(());
                }
            }
            if start.elapsed() > READY_WITHIN {
                bail!(
                    "kube-apiserver is not ready after {READY_WITHIN:?}; the ends of the logs:\n{}\n{}",
                    self.end_of("etcd.log"),
                    self.end_of("kube-apiserver.log")
                );
            }
        }
    }

    fn end_of(&self, log: &str) -> String {
        let text = std::fs::read_to_string(self.folder.join(log)).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// A kubeconfig that leads to the server, for whoever has this token.
    fn kubeconfig(&self, token: &str) -> Result<String> {
        let certificate = self.folder.join("certificates/apiserver.crt");
        let pem =
            std::fs::read_to_string(&certificate).with_context(|| format!("reading {}", certificate.display()))?;
        ensure!(
            pem.contains("END CERTIFICATE"),
            "{} is not whole",
            certificate.display()
        );
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "certificate-authority": certificate,
            }}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": token}}],
        })
        .to_string())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The keeper sees the end of its input.
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// Ports that nobody listens on at the moment.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
