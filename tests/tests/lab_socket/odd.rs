//! What programs do wrong, or seldom: errors are those that the kernel gives by itself, and what is not ours stays as it was.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tests::lab::{Agent, Host, Lab};
use tests::traffic::Over;

use crate::scene::{PATIENCE, WEB, at, count, ips, served};

/// Runs a Python program in a host, and gives what it has printed.
fn python(host: &Host, script: &str) -> String {
    let output = host
        .command("python3")
        .args(["-c", script])
        .output()
        .expect("python3 runs");
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}: {complained}", host.name);
    said.into_owned()
}

const HEAD: &str = r#"
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def address(family, port, ip):
    if family == socket.AF_INET6:
        return struct.pack("=H", family) + struct.pack("!HI", port, 0) + socket.inet_pton(family, ip) + bytes(4)
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_pton(socket.AF_INET, ip) + bytes(8)
def said(result):
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def connect(s, octets, length=None):
    return said(libc.connect(s.fileno(), octets, len(octets) if length is None else length))
def send(s, octets, length=None):
    return said(libc.sendto(s.fileno(), b"?", 1, 0, octets, len(octets) if length is None else length))
TCP, UDP, V4, V6 = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6
WEB4, WEB6 = "10.96.0.80", "fd00:10:96::80"
"#;

/// One line each: who sees no program at all says the same.
const WRONG: &str = r#"
for kind in TCP, UDP:
    for family, ip in (V4, WEB4), (V6, WEB6):
        whole = address(family, 80, ip)
        for length in 0, 1, 2, 4, 8, len(whole) - 1:
            print(kind, family, "connect", length, connect(socket.socket(family, kind), whole, length))
            print(kind, family, "send", length, send(socket.socket(family, kind), whole, length))
        print(kind, family, "longer", connect(socket.socket(family, kind), whole + bytes(200), 300))
        for other in 1, 16, 255:
            wrong = struct.pack("=H", other) + whole[2:]
            print(kind, family, "family", other, connect(socket.socket(family, kind), wrong), send(socket.socket(family, kind), wrong))
        print(kind, family, "nothing", connect(socket.socket(family, kind), None, 16), send(socket.socket(family, kind), None, 16))
        unspecified = struct.pack("=H", 0) + whole[2:]
        print(kind, family, "unspecified", connect(socket.socket(family, kind), unspecified), send(socket.socket(family, kind), unspecified))
        print(kind, family, "no peer", said(libc.getpeername(socket.socket(family, kind).fileno(), ctypes.create_string_buffer(28), ctypes.byref(ctypes.c_uint(28)))))
    print(kind, "IPv4 address of an IPv6 socket", connect(socket.socket(V6, TCP), address(V4, 80, WEB4)))
    print(kind, "IPv6 address of an IPv4 socket", connect(socket.socket(V4, kind), address(V6, 80, WEB6)))
print("port 0", send(socket.socket(V4, UDP), address(V4, 0, WEB4)), send(socket.socket(V6, UDP), address(V6, 0, WEB6)))
"#;

#[test]
fn a_wrong_address_is_what_it_is_without_us() {
    let cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    let script = format!("{HEAD}{WRONG}");
    // The client is outside of the cgroup, and the Services are behind its router as they are behind the pod's.
    let (without, with) = (
        python(cluster.lab.client(), &script),
        python(cluster.lab.backend(1), &script),
    );
    let differing: Vec<_> = without
        .lines()
        .zip(with.lines())
        .filter(|(without, with)| without != with)
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(without.lines().count() > 60, "{without}");
}

/// Each prints what it expects to be told.
const SELDOM: &str = r#"
for family, ip in (V4, WEB4), (V6, WEB6):
    web = address(family, 80, ip)
    s = socket.socket(family, TCP)
    assert connect(s, web) == "ok" and s.getpeername()[:2] == (ip, 80), "connected"
    assert connect(s, web) == "EISCONN", "twice"
    assert connect(s, struct.pack("=H", 0) + bytes(14)) == "ok", "disconnected"
    try: raise SystemExit(f"still {s.getpeername()}")
    except OSError as error: assert error.errno == errno.ENOTCONN
    assert connect(s, web) == "ok" and s.getpeername()[:2] == (ip, 80), "connected again"
    s = socket.socket(family, TCP)
    s.setblocking(False)
    assert connect(s, web) == "EINPROGRESS", "not waiting"
    s = socket.socket(family, TCP)
    s.setblocking(False)
    assert connect(s, address(family, 81, ip)) == "ECONNREFUSED", "not waiting, refused"
    s = socket.socket(family, TCP)
    sent = s.sendto(b"hello", socket.MSG_FASTOPEN, (ip, 80))
    assert sent == 5 and s.getpeername()[:2] == (ip, 80), "fast open"
    s = socket.socket(family, UDP)
    s.settimeout(2)
    s.sendmsg([b"a", b"b"], [], 0, (ip, 53))
    assert s.recvmsg(100)[3][:2] == (ip, 53), "sendmsg and recvmsg"
    s.sendto(b"c", (ip, 53))
    assert s.recvfrom_into(bytearray(100))[1][:2] == (ip, 53)
    s.connect((ip, 53))
    s.send(b"d")
    assert s.recvfrom(100)[1][:2] == (ip, 53), "connected later"
    s.sendto(b"e", (ip, 53))
    assert s.recvfrom(100)[1][:2] == (ip, 53), "connected, and yet to an address"
    connect(s, struct.pack("=H", 0) + bytes(14))
    s.sendto(b"f", (ip, 53))
    assert s.recvfrom(100)[1][:2] == (ip, 53), "disconnected"
    # Many Services' worth of strangers, and one socket for all of them.
    for port in range(1000, 1100):
        s.sendto(b"g", (ip, port))
    s.sendto(b"h", (ip, 53))
    assert s.recvfrom(100)[1][:2] == (ip, 53), "after strangers"
try:
    s = socket.socket(V4, TCP, 262)
    s.connect((WEB4, 80))
    # The hook sees the first subflow, which the process never asks: it is told the endpoint. See docs/services.md.
    assert s.getpeername()[1] == 7000, "multipath"
    assert s.recv(8) == b"backend-"
except OSError as error: assert error.errno in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT), error
s = socket.socket(V4, TCP)
s.bind(("127.0.0.1", 0))
if NODE:
    s.connect(("127.0.0.1", 30080))
    assert s.getpeername() == ("127.0.0.1", 30080), "from the loopback address"
print("done")
"#;

#[test]
fn what_is_done_seldom_works_and_is_told_the_service_address() {
    let cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    for (host, is_node) in [(cluster.lab.node(), "True"), (cluster.lab.backend(1), "False")] {
        let script = format!("{HEAD}NODE = {is_node}\n{SELDOM}");
        assert_eq!(python(host, &script), "done\n", "{}", host.name);
    }
}

#[test]
fn sockets_of_namespaces_that_vanish_leave_nothing_behind() {
    let cluster = served(
        Lab::one_node().backends(2).build().expect("a lab"),
        &["--reset-removed"],
    );
    let node = cluster.lab.node();
    // Each in a network namespace of its own that ends with it, under the node's cgroup; connected to nowhere.
    let script = format!(
        "{HEAD}{}",
        r#"
for number in range(200):
    pid = os.fork()
    if pid == 0:
        if libc.unshare(0x40000000) != 0: os._exit(1)
        s, u = socket.socket(V4, TCP), socket.socket(V4, UDP)
        results = connect(s, address(V4, 80, WEB4)), send(u, address(V4, 53, WEB4))
        os._exit(0 if results == ("ENETUNREACH", "ENETUNREACH") else 2)
    assert os.waitpid(pid, 0)[1] == 0, number
print("done")
"#
    );
    assert_eq!(python(node, &script), "done\n");
    // Whoever looks for sockets to close finds its way among those that remain.
    cluster
        .manifests
        .keep_endpoints("web.yaml", |_| false)
        .expect("written");
    std::thread::sleep(Duration::from_secs(7));
    let log = fs::read_to_string(cluster.agent.log_file()).expect("a log");
    assert!(log.contains("connections of sockets to them are closed"), "{log}");
    assert!(!log.contains("could not be looked at"), "{log}");
}

#[test]
fn programs_of_others_on_the_same_cgroup_run_beside_ours() {
    let cluster = served(Lab::one_node().backends(2).build().expect("a lab"), &[]);
    let cgroup = cluster.lab.cgroup().expect("a cgroup").to_owned();
    let attached = || {
        let output = Command::new("bpftool")
            .args(["cgroup", "show"])
            .arg(&cgroup)
            .output()
            .expect("bpftool runs");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| line.contains("lb_"))
            .count()
    };
    // Another balancer, which knows of no Service: it has its own tables, programs and links.
    let folder = cluster.lab.directory().join("other");
    let pins = format!("{}-other", cluster.lab.pin_directory().display());
    let manifests = folder.join("manifests");
    fs::create_dir_all(&manifests).expect("a folder");
    let places = ["--pin-dir", &pins, "--run-dir"].map(str::to_owned);
    let words = |command: &[&str]| -> Vec<String> {
        let place = places.iter().cloned().chain([folder.display().to_string()]);
        command.iter().map(|word| (*word).to_owned()).chain(place).collect()
    };
    let binary = Agent::binary().expect("the binary was built");
    let cgroup_text = cgroup.display().to_string();
    let manifests_text = manifests.display().to_string();
    let mut other = cluster.lab.node().command(&binary);
    other.args(words(&[
        "run",
        "--manifests",
        &manifests_text,
        "--cgroup-root",
        &cgroup_text,
        "--xdp",
        "off",
    ]));
    other.args(["--healthz-bind-address", "", "--metrics-bind-address", ""]);
    let log = fs::File::create(folder.join("log")).expect("a log");
    let mut child = other.stderr(log).spawn().expect("it starts");
    crate::scene::until("both on the cgroup", || attached() == 20);
    let serves = || {
        let before = count(&cluster, "counters", "socket_connects");
        for ip in ips(WEB) {
            let answer = cluster.lab.backend(1).run(|| Over::Tcp.ask(at(ip, 80), PATIENCE));
            answer.expect("an answer");
        }
        assert_eq!(count(&cluster, "counters", "socket_connects"), before + 2);
    };
    serves();
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    serves();
    let mut cleanup = cluster.lab.node().command(&binary);
    let status = cleanup.args(words(&["cleanup"])).status().expect("it runs");
    assert!(status.success());
    assert_eq!(attached(), 10, "only its own are gone");
    serves();
}
