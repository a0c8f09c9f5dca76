//! A hundred Services of both families, with a file for each of their EndpointSlices, and what those files say in turn.

use std::net::IpAddr;

use tests::lab::{AgentOptions, Lab};
use tests::traffic::manifests::Service;
use tests::traffic::{Cluster, Over};

/// Pods that serve.
pub(crate) const BACKENDS: u8 = 6;
/// Services, each with a slice for either family.
pub(crate) const SERVICES: usize = 100;
/// Slices, each in a file of its own: the even ones are IPv4.
pub(crate) const SLICES: usize = 2 * SERVICES;

/// What clients of a Service dial.
pub(crate) fn cluster_ip(service: usize, v6: bool) -> IpAddr {
    let number = u8::try_from(service + 1).expect("a hundred Services");
    if v6 {
        IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 1, u16::from(number)])
    } else {
        IpAddr::from([10, 96, 1, number])
    }
}

/// The port of a Service.
pub(crate) fn port(over: Over) -> u16 {
    if over == Over::Tcp { 80 } else { 53 }
}

/// What the file of a slice says when its first `serving` backends serve.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) file: String,
    texts: Vec<String>,
}

impl Slice {
    pub(crate) fn text(&self, serving: u8) -> &str {
        &self.texts[usize::from(serving) - 1]
    }
}

/// A lab at work with all the Services, each with all its backends, and the texts of its slices.
pub(crate) fn start() -> (Cluster, Vec<Slice>) {
    let lab = Lab::one_node()
        .backends(BACKENDS)
        .build()
        .expect("the lab can be built: this needs root");
    let mut services = String::new();
    let mut slices = Vec::new();
    for number in 0..SERVICES {
        let addresses = [false, true].map(|v6| cluster_ip(number, v6));
        let mut texts = [Vec::new(), Vec::new()];
        for serving in 1..=BACKENDS {
            let service = Service::new(&format!("churn-{number}"), addresses)
                .port("TCP", port(Over::Tcp), 7000)
                .port("UDP", port(Over::Udp), 5353)
                .backends(&lab.backends()[..usize::from(serving)]);
            let yaml = service.to_yaml();
            let documents: Vec<&str> = yaml.split("---\n").collect();
            if serving == 1 {
                services += "---\n";
                services += documents[0];
            }
            for (family, text) in texts.iter_mut().zip(&documents[1..]) {
                family.push((*text).to_owned());
            }
        }
        for (family, texts) in ["v4", "v6"].into_iter().zip(texts) {
            let file = format!("slice-{number}-{family}.yaml");
            slices.push(Slice { file, texts });
        }
    }
    let folder = tests::traffic::manifests::ManifestFolder::of(&lab).expect("the lab has a folder");
    folder
        .write("services.yaml", &services)
        .expect("the folder can be written to");
    for slice in &slices {
        folder
            .write(&slice.file, slice.text(BACKENDS))
            .expect("the folder can be written to");
    }
    let cluster = Cluster::start(lab, &[], &AgentOptions::default()).expect("servers and agent start");
    (cluster, slices)
}
