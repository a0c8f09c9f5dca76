//! nginx in a pod, as an ingress controller would run it: in the foreground, with a folder and a configuration of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tests::lab::Host;

/// How long it may take to start, to end, and to write a line of its log.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// A name that clients ask for, a path below it, and the Service that both lead to: upstreams by number.
pub(crate) type Route = (&'static str, &'static str, usize);

/// A running nginx. It ends when this is dropped.
pub(crate) struct Nginx {
    child: Child,
    folder: PathBuf,
}

impl Nginx {
    /// Starts it in a pod. Upstreams have one address or more, asked in turn, each request over a connection of its own.
    pub(crate) fn start(pod: &Host, folder: &Path, routes: &[Route], upstreams: &[Vec<SocketAddr>]) -> Self {
        fs::create_dir_all(folder).expect("the lab's folder can be written to");
        make_certificate(folder, routes);
        fs::write(folder.join("nginx.conf"), configuration(folder, routes, upstreams)).expect("a file");
        let said = File::create(folder.join("said.log")).expect("a file");
        let mut command = pod.command("nginx");
        // -e: without it, nginx first writes to the log of a system service.
        command.arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
        command.arg("-c").arg(folder.join("nginx.conf"));
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a file"))
            .stderr(said);
        // Its worker is in the same group, and is found by it.
        command.process_group(0);
        let child = command
            .spawn()
            .expect("nginx is installed: `cargo xtask setup` does it");
        let mut nginx = Self {
            child,
            folder: folder.to_owned(),
        };
        nginx.wait_listening(pod);
        nginx
    }

    /// The certificate that it shows, which is its own authority.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// The lines of its access log from the line with this number on, once there are so many:
    /// `client protocol scheme host path status upstream`.
    pub(crate) fn log(&self, from: usize, lines: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            let log = self.log_so_far();
            // It writes a line when the client has its answer.
            if log.len() >= from + lines || start.elapsed() > PATIENCE {
                return log.into_iter().skip(from).collect();
            }
            std::thread::sleep(POLL);
        }
    }

    /// How many lines the access log has.
    pub(crate) fn logged(&self) -> usize {
        self.log_so_far().len()
    }

    fn log_so_far(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_listening(&mut self, pod: &Host) {
        let start = Instant::now();
        let listens =
            |port| pod.run(|| TcpStream::connect_timeout(&SocketAddr::new(pod.v4.into(), port), PATIENCE).is_ok());
        while !(listens(80) && listens(443)) {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "nginx does not listen (ended: {ended:?}); it says:\n{}{}",
                fs::read_to_string(self.folder.join("said.log")).unwrap_or_default(),
                fs::read_to_string(self.folder.join("error.log")).unwrap_or_default(),
            );
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ended = kill_process(pid, Signal::TERM);
        let start = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if start.elapsed() > PATIENCE {
                eprintln!("nginx does not end by itself: it is killed");
                let _ended = kill_process_group(pid, Signal::KILL);
                let _status = self.child.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

fn configuration(folder: &Path, routes: &[Route], upstreams: &[Vec<SocketAddr>]) -> String {
    let folder = folder.display();
    let mut text = format!(
        "daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
  log_format lab '$remote_addr $server_protocol $scheme $host $request_uri $status $upstream_addr';
  access_log {folder}/access.log lab;
  ssl_certificate {folder}/certificate.pem;
  ssl_certificate_key {folder}/key.pem;
  proxy_connect_timeout 2s;
  proxy_next_upstream off;
"
    );
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("text grows");
    for part in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        line(format_args!("  {part}_temp_path {folder}/{part};"));
    }
    for (number, addresses) in upstreams.iter().enumerate() {
        line(format_args!("  upstream service{number} {{"));
        addresses
            .iter()
            .for_each(|address| line(format_args!("    server {address};")));
        line(format_args!("  }}"));
    }
    for name in names(routes) {
        // `listen … http2` is an old form that new versions know as well, with a warning.
        line(format_args!("  server {{\n    server_name {name};"));
        for address in ["", "[::]:"] {
            line(format_args!(
                "    listen {address}80;\n    listen {address}443 ssl http2;"
            ));
        }
        for (_, path, service) in routes.iter().filter(|(own, ..)| *own == name) {
            // With a URI of its own: what stands before it is cut off.
            line(format_args!(
                "    location {path} {{ proxy_pass http://service{service}/; }}"
            ));
        }
        line(format_args!("  }}"));
    }
    line(format_args!("}}"));
    text
}

fn names(routes: &[Route]) -> Vec<&'static str> {
    let mut names: Vec<_> = routes.iter().map(|(name, ..)| *name).collect();
    names.dedup();
    names
}

fn make_certificate(folder: &Path, routes: &[Route]) {
    let names: Vec<_> = names(routes).iter().map(|name| format!("DNS:{name}")).collect();
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=lab"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-addext", &format!("subjectAltName={}", names.join(","))])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("certificate.pem"))
        .output()
        .expect("openssl is installed: `cargo xtask setup` does it");
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
