//! The end of the datapath, and the end of flows: an agent that is asked to end leaves everything serving, `sluice cleanup` leaves
//! nothing of it, and flows that have been silent for longer than their limit are swept.
//!
//! That load doesn't notice the end of an agent is in `lab_restart`; how long each kind of flow may be silent is tested in
//! `lb-userspace/src/conntrack`.

mod cleanup;
mod sweep;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use tests::lab::Host;
use tests::traffic::manifests::Service;
use tests::traffic::{Answer, Over};

/// How long an exchange may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody answers.
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(150);

/// A Service of the datapath's four kinds of traffic.
pub(crate) fn service(name: &str, number: u16) -> Service {
    Service::new(name, [false, true].map(|v6| service_address(number, v6)))
        .port("TCP", 80, 7000)
        .port("UDP", 53, 5353)
}

/// What its clients dial.
pub(crate) fn service_address(number: u16, v6: bool) -> IpAddr {
    let text = if v6 {
        format!("fd00:10:96::{number}")
    } else {
        format!("10.96.0.{number}")
    };
    text.parse().expect("an address")
}

/// One exchange with a Service.
pub(crate) fn ask(from: &Host, over: Over, address: IpAddr, patience: Duration) -> std::io::Result<Answer> {
    let target = SocketAddr::new(address, if over == Over::Tcp { 80 } else { 53 });
    from.run(|| over.ask(target, patience))
}

/// A connection that has been greeted.
pub(crate) fn connect(from: &Host, address: IpAddr) -> TcpStream {
    let dial = || TcpStream::connect_timeout(&SocketAddr::new(address, 80), PATIENCE);
    let mut stream = from.run(dial).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out is allowed");
    let mut octet = [0];
    while octet != *b"\n" {
        stream.read_exact(&mut octet).expect("a greeting");
    }
    stream
}

/// A byte there and back.
pub(crate) fn echo(stream: &mut TcpStream) {
    stream.write_all(b"x").expect("the connection is open");
    stream.read_exact(&mut [0]).expect("its backend answers");
}
