//! `sluice doctor`: what this machine lacks, and what to do about it.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Output, Place, text::print_table};
use crate::{
    kernel::{Finding, Level, preflight},
    source::devices::{self as source, Device, Framing},
};

/// Arguments of `sluice doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn doctor(place: &Place, args: &DoctorArgs) -> Result<ExitCode> {
    let mut findings = preflight(&place.pin_dir);
    findings.extend(forwarding());
    findings.extend(devices()?);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Output::Table => {
            let rows: Vec<Vec<String>> = findings
                .iter()
                .map(|finding| {
                    let mark = match finding.level {
                        Level::Good => "ok",
                        Level::Limited => "limited",
                        Level::Missing => "MISSING",
                    };
                    vec![
                        mark.to_owned(),
                        finding.subject.clone(),
                        finding.found.clone(),
                        finding.remedy.clone(),
                    ]
                })
                .collect();
            print_table(&["", "WHAT", "FOUND", "WHAT TO DO"], &rows);
        }
    }
    let missing = findings.iter().any(|finding| finding.level == Level::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether the kernel forwards packets, which everything but clients and backends on the host itself needs.
fn forwarding() -> Vec<Finding> {
    [
        ("IPv4 forwarding", "ipv4/ip_forward", "net.ipv4.ip_forward"),
        (
            "IPv6 forwarding",
            "ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
        ),
    ]
    .into_iter()
    .map(
        |(subject, file, setting)| match fs::read_to_string(format!("/proc/sys/net/{file}")) {
            Ok(value) if value.trim() == "0" => Finding::new(
                subject,
                Level::Limited,
                "off",
                format!("Packets of pods and other hosts don't get through: sysctl -w {setting}=1"),
            ),
            Ok(_) => Finding::new(subject, Level::Good, "on", ""),
            Err(error) => Finding::new(
                subject,
                Level::Limited,
                error.to_string(),
                "The kernel has no such family",
            ),
        },
    )
    .collect()
}

fn devices() -> Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let devices = runtime.block_on(source::once())?;
    Ok(devices.values().map(device).collect())
}

fn device(device: &Device) -> Finding {
    let subject = format!("device {}", device.name);
    let framing = match device.framing {
        Some(Framing::Ethernet) => "Ethernet",
        Some(Framing::None) => "no link header",
        None => return Finding::new(&subject, Level::Good, "carries no IP packets, left alone", ""),
    };
    let outward = if device.has_default_route {
        ", outward (default route)"
    } else {
        ""
    };
    let found = format!("{framing}, MTU {}{outward}", device.mtu);
    Finding::new(&subject, Level::Good, found, "")
}
