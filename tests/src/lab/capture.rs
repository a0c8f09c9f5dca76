//! Packets of a device, written to a file by tcpdump while a test runs.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Host, exec};

/// More packets than this are not written: a capture left running must not fill the disk.
const PACKETS_MAX: &str = "1000000";

/// How long packets are awaited when a capture is to end.
const LINGER: Duration = Duration::from_millis(150);

/// tcpdump's file: octets of its header, and of that of each packet, whose third word is how many octets of it follow.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    messages: BufReader<ChildStderr>,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes a device and the filter (tcpdump's language, empty for everything) until [`Self::stop`].
    pub fn start(host: &Host, device: &str, filter: &str, file: &Path) -> Result<Self> {
        let mut command = host.command("tcpdump");
        command.args([
            "-i",
            device,
            "--immediate-mode",
            "-U",
            "-n",
            "-s",
            "0",
            "-c",
            PACKETS_MAX,
            "-Z",
            "root",
            "-w",
        ]);
        command.arg(file).args(filter.split_whitespace());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Ctrl-C is for the test, which then ends the capture.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| exec::missing("tcpdump"))?;
        let mut messages = BufReader::new(child.stderr.take().context("tcpdump has no stderr")?);
        let mut said = String::new();
        // From this line on no packet is missed.
        while !said.contains("listening on") {
            if messages.read_line(&mut said).context("reading tcpdump's messages")? == 0 {
                let status = child.wait().context("waiting for tcpdump")?;
                bail!(
                    "tcpdump on {device} of {} ended ({status}): {}; {}",
                    host.name,
                    said.trim(),
                    exec::missing("tcpdump")
                );
            }
        }
        Ok(Self {
            child,
            messages,
            file: file.to_owned(),
        })
    }

    /// Ends the capture and returns one line of text per packet. The file stays, for Wireshark.
    pub fn stop(mut self) -> Result<Vec<String>> {
        self.end()?;
        let text = exec::output(Command::new("tcpdump").args(["-nn", "-e", "-vv", "-r"]).arg(&self.file))?;
        // A packet starts at the margin; its continuation lines are indented.
        let mut packets: Vec<String> = Vec::new();
        for line in text.lines() {
            match packets.last_mut() {
                Some(packet) if line.starts_with(char::is_whitespace) => {
                    packet.push(' ');
                    packet.push_str(line.trim());
                }
                _ => packets.push(line.to_owned()),
            }
        }
        Ok(packets)
    }

    /// Ends the capture and returns the frames as they are.
    pub fn frames(mut self) -> Result<Vec<Vec<u8>>> {
        self.end()?;
        let octets = std::fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        let mut rest = octets.get(FILE_HEADER..).context("tcpdump has written no header")?;
        let mut frames = Vec::new();
        while let Some((header, behind)) = rest.split_at_checked(PACKET_HEADER) {
            let octets = header[8..12].try_into().map(u32::from_ne_bytes)?;
            let frame = behind.split_at_checked(octets as usize);
            let (frame, behind) = frame.context("tcpdump has not written its last packet whole")?;
            frames.push(frame.to_vec());
            rest = behind;
        }
        Ok(frames)
    }

    fn end(&mut self) -> Result<()> {
        // The last packet of an exchange that is over, an acknowledgement as a rule, may still be on its way.
        std::thread::sleep(LINGER);
        kill_process(Pid::from_child(&self.child), Signal::INT).context("stopping tcpdump")?;
        // tcpdump writes its totals before it ends; read on so that it never blocks.
        std::io::copy(&mut self.messages, &mut std::io::sink()).context("reading tcpdump's totals")?;
        self.child.wait().context("waiting for tcpdump").map(drop)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // After stop() it is gone already; on a panic this ends it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
