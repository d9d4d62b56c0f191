//! The simulated model server in a process of its own.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};

use crate::measure::{Measured, process_cpu};
use crate::program::STEADFAST;
use crate::work::{Work, command};
use crate::{CALLS, FILES, MILESTONES};

/// About as long as a small source file, in bytes.
const FILE_BYTES: usize = 1_500;

/// The server; it is ended when this is dropped.
pub(crate) struct Server {
    process: Child,
    addr: SocketAddr,
}

impl Server {
    pub(crate) fn start(work: &Work) -> anyhow::Result<Self> {
        let path = work.path().join("sim.toml");
        std::fs::write(&path, script())?;
        let mut process = command(STEADFAST)
            .args(["sim", "--listen", "127.0.0.1:0", "--script"])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the model server")?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let addr = line.trim().strip_prefix("listening on http://").and_then(|rest| rest.strip_suffix("/v1"));
        let addr = addr.and_then(|addr| addr.parse().ok());
        let mut server = Self { process, addr: SocketAddr::from(([127, 0, 0, 1], 0)) };
        server.addr = addr.with_context(|| format!("the model server says {line:?}"))?;
        Ok(server)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests for answers so far.
    pub(crate) fn requests(&self) -> anyhow::Result<u64> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.write_all(b"GET /__count HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body =
            answer.split_once("\r\n\r\n").map(|(_, body)| body).context("an answer without an end of headers")?;
        let counts: serde_json::Value = serde_json::from_str(body)?;
        counts["requests"].as_u64().context("no count of requests")
    }

    /// Runs a case of `n` sessions: it must ask exactly 26 times a session, and is told what that cost the server.
    pub(crate) fn counted(
        &self,
        n: usize,
        case: impl FnOnce() -> anyhow::Result<Measured>,
    ) -> anyhow::Result<Measured> {
        let (asked, cpu) = (self.requests()?, process_cpu(self.process.id())?);
        let mut measured = case()?;
        let cpu = process_cpu(self.process.id())?.saturating_sub(cpu);
        measured.server_cpu_ms = cpu.as_secs_f64() * 1e3 / n as f64;
        let (asked, wanted) = (self.requests()? - asked, (CALLS * n) as u64);
        ensure!(asked == wanted, "{asked} requests where {wanted} were due");
        Ok(measured)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn path(milestone: usize, file: usize) -> String {
    format!("src/part_{milestone}_{file}.rs")
}

/// The plan, and a text for each file.
fn script() -> String {
    let mut script = String::new();
    // Writing to a String cannot fail.
    for milestone in 1..=MILESTONES {
        let paths: Vec<String> = (1..=FILES).map(|file| format!("\"{}\"", path(milestone, file))).collect();
        let _ = write!(
            script,
            "[[plan.milestones]]\nname = \"Build the parts of step {milestone}\"\n\
             description = \"Four parts that do not know each other.\"\ncreate = [{}]\n\n",
            paths.join(", ")
        );
    }
    for milestone in 1..=MILESTONES {
        for file in 1..=FILES {
            let path = path(milestone, file);
            let _ = write!(script, "[[file]]\npath = \"{path}\"\ntext = '''\n{}'''\n\n", text(milestone, file));
        }
    }
    script
}

fn text(milestone: usize, file: usize) -> String {
    let mut text = format!("//! Part {file} of step {milestone}.\n");
    for at in 0.. {
        if text.len() >= FILE_BYTES {
            break;
        }
        let _ =
            write!(text, "\n/// Step {at}.\npub fn step_{at}(x: u64) -> u64 {{\n    x * {} + {at}\n}}\n", file + at);
    }
    text
}
