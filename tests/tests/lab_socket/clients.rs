//! Clients and servers that nobody here wrote: curl over HTTP/1.1 and HTTP/2, the C library's and dnsmasq's resolvers, nginx.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use tests::lab::{Host, Lab};
use tests::traffic::Cluster;
use tests::traffic::manifests::Service;

use crate::scene::{PATIENCE, at, count, ips, start};

const DNS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const WEB: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
const DNS_TARGET: u16 = 5301;
const WEB_TARGET: u16 = 8085;

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let log = fs::File::create(folder.join(format!("{name}.log"))).expect("a log");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{name} (`cargo xtask setup` installs it): {error}")),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn dnsmasq(pod: &Host, folder: &Path, name: &str, words: &[&str]) -> Running {
    let mut command = pod.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=0",
        "--conf-file=/dev/null",
        "--pid-file=",
    ]);
    command
        .args(["--user=root", "--log-facility=-", "--no-poll"])
        .args(words);
    Running::start(command, folder, name)
}

/// A name's address as a resolver is told it. The question is one datagram; the answer has to come from whom it was asked of.
const ASK: &str = r#"
import socket, struct, sys, time
server, port, connected, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "connected", float(sys.argv[4])
question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\x03who\x04test\x00" + struct.pack("!HH", 1, 1)
s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.2)
if connected: s.connect((server, port))
end, last, failed, worst = time.monotonic() + seconds, None, 0, 0
lost_since = None
while time.monotonic() < end:
    try:
        if connected: s.send(question)
        else: s.sendto(question, (server, port))
        answer, peer = s.recvfrom(512)
        assert peer[:2] == (server, port), peer
        who = answer[-1]
        if lost_since is not None:
            worst, lost_since = max(worst, time.monotonic() - lost_since), None
        if who != last: print("answered by", who, flush=True)
        last = who
    except OSError as error:
        failed += 1
        if lost_since is None: lost_since = time.monotonic()
    time.sleep(0.01)
print("failed", failed, "worst", round(worst * 1000), "ms", "stuck" if lost_since is not None and time.monotonic() - lost_since > 1 else "well")
"#;

/// Two name servers, a forwarder in another pod, and questions all the time by sockets of every kind; then one of the two dies.
#[test]
fn resolvers_leave_a_name_server_that_dies() {
    let lab = Lab::one_node().backends(3).build().expect("a lab");
    let folder = lab.directory();
    let mut servers: Vec<_> = [1, 2]
        .map(|number| {
            let pod = lab.backend(number);
            let address = format!("--address=/who.test/192.0.2.{number}");
            dnsmasq(pod, &folder, &format!("dns{number}"), &["--port=5301", &address])
        })
        .into();
    let dns = Service::new("dns", ips(DNS))
        .port("UDP", 53, DNS_TARGET)
        .backends([lab.backend(1), lab.backend(2)]);
    let cluster = start(&[dns], lab, &[]);
    let (lab, client) = (&cluster.lab, cluster.lab.backend(3));
    let _forwarder = dnsmasq(client, &folder, "forwarder", &["--port=5300", "--server=10.96.0.10#53"]);
    std::thread::sleep(Duration::from_millis(300));
    let ask = |host: &Host, server: &str, port: &str, kind: &str| {
        let mut command = host.command("python3");
        command
            .args(["-c", ASK, server, port, kind, "6"])
            .stdout(Stdio::piped());
        (
            format!("{} -> {server} {kind}", host.name),
            command.spawn().expect("python3 runs"),
        )
    };
    let mut asking = Vec::new();
    for host in [client, lab.node()] {
        for server in DNS {
            asking.extend(["connected", "unconnected"].map(|kind| ask(host, server, "53", kind)));
        }
    }
    asking.push(ask(client, "127.0.0.1", "5300", "connected"));
    let first_answer = |child: &mut Child| {
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        let who = line
            .trim()
            .strip_prefix("answered by ")
            .and_then(|who| who.parse::<u8>().ok());
        (who.unwrap_or_else(|| panic!("no answer: {line}")), stdout)
    };
    let asking: Vec<_> = asking
        .into_iter()
        .map(|(name, mut child)| {
            let (who, stdout) = first_answer(&mut child);
            (name, child, who, stdout)
        })
        .collect();
    // The one that the first has dies, and its endpoint goes a moment later, as a probe would find out.
    let dies = asking[0].2;
    let lives = (3 - dies).to_string();
    drop(servers.remove(usize::from(dies) - 1));
    std::thread::sleep(Duration::from_millis(300));
    let goes = lab.backend(dies).addresses();
    cluster
        .manifests
        .keep_endpoints("dns.yaml", |ip| !goes.contains(&ip))
        .expect("written");
    for (name, mut child, who, mut stdout) in asking {
        let mut said = String::new();
        stdout.read_to_string(&mut said).expect("text");
        let status = child.wait().expect("it ends by itself");
        println!("{name}: {who}; {}", said.trim().replace('\n', "; "));
        let last = said.lines().last().unwrap_or_default();
        assert!(status.success() && last.ends_with("well"), "{name}: {said}");
        let now = said.lines().rev().find_map(|line| line.strip_prefix("answered by "));
        assert_eq!(
            now.map_or_else(|| who.to_string(), str::to_owned),
            lives,
            "{name}: {said}"
        );
        let worst: u64 = last
            .split(' ')
            .nth(3)
            .and_then(|word| word.parse().ok())
            .expect("a number");
        // 300 ms until the endpoint goes, the folder's settling, and a time-out of the asker.
        assert!(worst < 1_000, "{name}: {said}");
    }
    assert!(count(&cluster, "counters", "socket_peers") >= 4);
}

fn nginx(pod: &Host, folder: &Path, name: &str) -> Running {
    let home = folder.join(name);
    fs::create_dir_all(home.join("html")).expect("a folder");
    fs::write(home.join("html/who"), name).expect("a file");
    fs::write(home.join("html/large"), vec![b'x'; 300_000]).expect("a file");
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|part| format!("{part}_temp_path {}/{part};\n", home.display()))
        .concat();
    let configuration = format!(
        "daemon off; user root; worker_processes 1; pid {0}/nginx.pid; error_log {0}/error.log;
        events {{ worker_connections 512; }}
        http {{ access_log off; {temporary}
          server {{ listen {WEB_TARGET} http2; listen [::]:{WEB_TARGET} http2; listen 8086; listen [::]:8086; root {0}/html; location /large {{ limit_rate 20k; }} }} }}",
        home.display()
    );
    fs::write(home.join("nginx.conf"), configuration).expect("a file");
    let mut command = pod.command("nginx");
    command
        .arg("-p")
        .arg(&home)
        .arg("-e")
        .arg(home.join("error.log"))
        .arg("-c")
        .arg(home.join("nginx.conf"));
    let running = Running::start(command, folder, name);
    let begun = Instant::now();
    while pod.run(|| TcpStream::connect(SocketAddr::new(pod.v4.into(), WEB_TARGET)).is_err()) {
        assert!(
            begun.elapsed() < PATIENCE * 3,
            "nginx: {}",
            fs::read_to_string(home.join("error.log")).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    running
}

/// A long answer over HTTP/2 while its endpoint leaves: it comes to its end where nothing was asked for, and is cut off where it was.
#[rstest]
#[case::not_switched_on(&[], true)]
#[case::switched_on(&["--reset-removed"], false)]
fn a_long_http2_stream_and_short_requests_while_an_endpoint_leaves(#[case] words: &[&str], #[case] ends_well: bool) {
    let lab = Lab::one_node().backends(3).build().expect("a lab");
    let folder = lab.directory();
    let _servers = [1, 2].map(|number| nginx(lab.backend(number), &folder, &format!("web{number}")));
    let web = Service::new("web", ips(WEB))
        .port("TCP", 80, WEB_TARGET)
        .port("TCP", 81, 8086);
    let only_first = web.clone().backends([lab.backend(1)]);
    let cluster: Cluster = start(&[only_first], lab, words);
    let lab = &cluster.lab;
    let curl = |words: &[&str], url: &str| {
        let mut command = lab.backend(3).command("curl");
        command.args([
            "-sSg",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{remote_ip} %{remote_port} %{size_download}",
        ]);
        command
            .args(words)
            .arg(url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("curl runs")
    };
    let streams: Vec<_> = WEB
        .map(|ip| {
            let url = if ip.contains(':') {
                format!("http://[{ip}]/large")
            } else {
                format!("http://{ip}/large")
            };
            (ip, curl(&["--http2-prior-knowledge"], &url))
        })
        .into();
    std::thread::sleep(Duration::from_millis(500));
    cluster
        .manifests
        .apply(&web.clone().backends([lab.backend(2)]))
        .expect("written");
    let begun = Instant::now();
    // A connection each: none fails, before, while and after the endpoints change.
    let mut requests = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        for url in ["http://10.96.0.80:81/who", "http://[fd00:10:96::80]:81/who"] {
            let output = curl(&[], url).wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{url}: {said} {}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(
                said.starts_with("1.1 ") && said.contains(" 81 4"),
                "the address that was dialled: {said}"
            );
            requests += 1;
        }
    }
    for (ip, stream) in streams {
        let output = stream.wait_with_output().expect("it ends by itself");
        let (said, complained) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        println!(
            "{ip}: {said} {} after {:?}, {requests} requests beside it",
            complained.trim(),
            begun.elapsed()
        );
        assert_eq!(output.status.success(), ends_well, "{ip}: {said} {complained}");
        assert!(said.starts_with(&format!("2 {ip} 80 ")), "{said}");
        if !ends_well {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
    }
    assert!(
        lab.backend(3)
            .run(|| TcpStream::connect_timeout(&at(ips(WEB)[0], 80), PATIENCE))
            .is_ok()
    );
}
