//! `steadfast daemon` with many sessions at once.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::CALLS;
use crate::measure::{Measured, Usage, memory_mib, process_cpu};
use crate::program::steadfast;
use crate::server::Server;
use crate::work::{Job, Work};

/// `submit` commands at once.
const SUBMITS: usize = 8;
/// How long a daemon may take to answer, and a case to end, before something must be wrong.
const READY_WITHIN: Duration = Duration::from_secs(30);
const OVER_WITHIN: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A daemon; it is killed when this is dropped without [`Daemon::stop`].
pub(crate) struct Daemon {
    process: Child,
    errors: PathBuf,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub(crate) fn start(work: &Work, server: &Server, state: &Path) -> anyhow::Result<Self> {
        let errors = state.with_extension("daemon-log");
        Self::start_as(steadfast(work, server, state, &errors)?, state, errors)
    }

    /// The same with a command line of one's own, that lacks only the word `daemon`; `errors`: where its standard error goes.
    pub(crate) fn start_as(mut command: Command, state: &Path, errors: PathBuf) -> anyhow::Result<Self> {
        let process = command.arg("daemon").spawn().context("cannot start a daemon")?;
        let mut daemon = Self { process, errors };
        let (socket, start) = (state.join("steadfast.sock"), Instant::now());
        while UnixStream::connect(&socket).is_err() {
            daemon.must_live()?;
            ensure!(start.elapsed() < READY_WITHIN, "the daemon does not answer on {}", socket.display());
            thread::sleep(LOOK_EVERY);
        }
        Ok(daemon)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn must_live(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the daemon ended with {status}: {}", fs::read_to_string(&self.errors).unwrap_or_default());
        }
        Ok(())
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.process.id().try_into()?).context("a process id of 0")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the daemon ended with {status} after SIGTERM");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After `stop` it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All sessions through one daemon: from the first `submit` to the moment when all of them are completed.
pub(crate) fn many(work: &Work, server: &Server, jobs: &[Job]) -> anyhow::Result<Measured> {
    let dir = &jobs.first().context("no sessions")?.dir;
    let state = dir.join("state");
    let mut daemon = Daemon::start(work, server, &state)?;
    let wanted = server.requests()? + (CALLS * jobs.len()) as u64;
    let (daemon_cpu, before, start) = (process_cpu(daemon.pid())?, Usage::now()?, Instant::now());
    submit(work, server, &state, jobs)?;
    let submits_cpu = Usage::now()?.since(before).children;
    // The model server's count is the cheap sign that the end is near; only then is the daemon asked.
    while server.requests()? < wanted && start.elapsed() < OVER_WITHIN {
        daemon.must_live()?;
        thread::sleep(LOOK_EVERY);
    }
    loop {
        let phases = phases(work, server, &state)?;
        if phases.get("completed") == Some(&jobs.len()) {
            break;
        }
        let lost = phases.contains_key("failed") || phases.contains_key("cancelled");
        ensure!(!lost && start.elapsed() < OVER_WITHIN, "not all sessions completed: {phases:?}");
        thread::sleep(LOOK_EVERY);
    }
    let wall = start.elapsed();
    let daemon_cpu = process_cpu(daemon.pid())?.saturating_sub(daemon_cpu);
    let peak_mib = memory_mib(daemon.pid(), "VmHWM").unwrap_or(0.0);
    daemon.stop()?;
    Ok(Measured { peak_mib, ..Measured::new(jobs.len(), wall, daemon_cpu + submits_cpu, submits_cpu) })
}

fn submit(work: &Work, server: &Server, state: &Path, jobs: &[Job]) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let submit = || -> anyhow::Result<()> {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let errors = job.dir.join("errors");
            let mut command = steadfast(work, server, state, &errors)?;
            command.args([OsStr::new("submit"), job.file.as_os_str(), OsStr::new("--repo"), job.repo.as_os_str()]);
            let status = command.status().context("cannot start steadfast")?;
            if !status.success() {
                bail!("steadfast submit ended with {status}: {}", fs::read_to_string(&errors).unwrap_or_default());
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..SUBMITS).map(|_| scope.spawn(submit)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a submit panicked")))
    })
}

/// How many sessions are in which phase.
fn phases(work: &Work, server: &Server, state: &Path) -> anyhow::Result<BTreeMap<String, usize>> {
    let errors = state.with_extension("sessions-errors");
    let mut command = steadfast(work, server, state, &errors)?;
    let output = command.stdout(Stdio::piped()).arg("sessions").output().context("cannot start steadfast")?;
    if !output.status.success() {
        bail!("steadfast sessions: {}", fs::read_to_string(&errors).unwrap_or_default());
    }
    let sessions: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    let mut phases = BTreeMap::new();
    for session in &sessions {
        *phases.entry(session["phase"].as_str().unwrap_or("unknown").to_owned()).or_default() += 1;
    }
    Ok(phases)
}
