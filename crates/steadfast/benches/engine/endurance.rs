//! The bars of a long life: a shutdown with many sessions at work, a start with many to go on with, memory and disk after
//! thousands. Each case is a daemon of its own with real sessions; a case that loses or doubles anything is an error, a bar
//! that is missed is a line in the table.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::measure::memory_mib;
use crate::program::configured;
use crate::server::Server;
use crate::work::{Job, KEY_VARIABLE, Work};
use crate::{CALLS, foreground, grown};

/// Sessions at work when the first daemon is told to end.
const IN_FLIGHT: usize = 50;
/// In the store from which the second one starts.
const FINISHED: usize = 10_000;
const INTERRUPTED: usize = 100;
/// `max_sessions` by default.
const AT_WORK: usize = 4;
/// Sessions through the third one, and when its memory is looked at first.
const THROUGH: usize = 2_000;
const EARLY: usize = 200;
/// Repositories that they share.
const REPOSITORIES: usize = 20;
/// After this the store has done its housekeeping: it begins when nothing was saved for 10 s.
const REST: Duration = Duration::from_secs(14);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Something must be wrong when it takes longer.
const PATIENCE: Duration = Duration::from_secs(1_200);

/// What came out, as lines of a table.
pub(crate) struct Row {
    what: &'static str,
    bar: &'static str,
    seen: String,
    is_met: bool,
}

/// Everything, in its order. `scale`: 1, or more for a quick look with so many times fewer sessions.
pub(crate) fn measure(work: &mut Work, server: &Server, scale: usize) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for round in 0..if scale == 1 { 3 } else { 1 } {
        rows.push(shutdown(work, (IN_FLIGHT / scale).max(1)).with_context(|| format!("shutdown {}", round + 1))?);
        eprintln!("{}", rows.last().map_or("", |row| row.seen.as_str()));
    }
    rows.extend(start(work, server, FINISHED / scale, INTERRUPTED / scale).context("start")?);
    rows.extend(long_life(work, server, THROUGH / scale, EARLY / scale).context("long life")?);
    let mut text = String::from("| what | bar | seen | |\n|---|---|---|---|\n");
    for Row { what, bar, seen, is_met } in rows {
        let met = if is_met { "met" } else { "NOT met" };
        text += &format!("| {what} | {bar} | {seen} | {met} |\n");
    }
    Ok(text)
}

/// A model server that takes each question and never answers, in this process.
struct Silent {
    address: std::net::SocketAddr,
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Silent {
    fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let asked = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let count = std::sync::Arc::clone(&asked);
        // It ends with the process; what is connected stays connected, and hears nothing.
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
                held.push(stream);
            }
        });
        Ok(Self { address, asked })
    }

    fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::Acquire)
    }
}

fn configure(path: &Path, address: std::net::SocketAddr, max_sessions: usize) -> anyhow::Result<PathBuf> {
    let text = format!(
        r#"
        [daemon]
        max_sessions = {max_sessions}
        [issues]
        tracker = "local"
        [providers.opencode]
        kind = "openai"
        base_url = "http://{address}/v1"
        api_key_env = "{KEY_VARIABLE}"
        [models."opencode/gpt-5-nano"]
        max_concurrency = 200
        "#
    );
    fs::write(path, text)?;
    Ok(path.to_owned())
}

/// A daemon's commands.
struct Life {
    config: PathBuf,
    state: PathBuf,
}

impl Life {
    fn command(&self) -> anyhow::Result<Command> {
        configured(&self.config, &self.state, &self.state.with_extension("command-errors"))
    }

    fn daemon(&self) -> anyhow::Result<Daemon> {
        let errors = self.state.with_extension("daemon-log");
        Daemon::start_as(configured(&self.config, &self.state, &errors)?, &self.state, errors)
    }

    fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.command()?.args(args).stdout(Stdio::piped()).output().context("cannot start steadfast")?;
        let errors = fs::read_to_string(self.state.with_extension("command-errors")).unwrap_or_default();
        ensure!(output.status.success(), "{}: {errors}", args.join(" "));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn submit(&self, idea: &Path, repo: &Path) -> anyhow::Result<()> {
        let (idea, repo) = (idea.to_string_lossy(), repo.to_string_lossy());
        self.json(&["submit", &idea, "--repo", &repo]).map(drop)
    }

    /// How many sessions are queued, active, completed, …
    fn counts(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_value(self.json(&["status"])?["sessions"].clone())?)
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < PATIENCE, "it never came that {what}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(start.elapsed())
}

fn count(counts: &BTreeMap<String, u64>, name: &str) -> usize {
    counts.get(name).map_or(0, |n| *n as usize)
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// Sessions whose model hangs, ended by one SIGTERM; the next start takes all of them up again.
fn shutdown(work: &mut Work, n: usize) -> anyhow::Result<Row> {
    let silent = Silent::start()?;
    let jobs = work.jobs("ended", n)?;
    let dir = jobs[0].dir.clone();
    let life = Life { config: configure(&dir.join("silent.toml"), silent.address, n)?, state: dir.join("state") };
    let daemon = life.daemon()?;
    jobs.iter().try_for_each(|job| life.submit(&job.file, &job.repo))?;
    wait_until("each session waits for its model", || Ok(silent.asked() >= n))?;
    let start = Instant::now();
    daemon.stop()?;
    let ended = start.elapsed();
    let sessions = life.json(&["sessions"])?;
    let resumable = sessions
        .as_array()
        .map_or(0, |all| all.iter().filter(|one| one["interrupted"] == true && one["can_resume"] == true).count());
    ensure!(resumable == n, "{resumable} of {n} sessions can be resumed");
    let asked = silent.asked();
    let daemon = life.daemon()?;
    wait_until("all of them are at work again", || Ok(silent.asked() >= asked + n))?;
    let active = count(&life.counts()?, "active");
    ensure!(active == n, "{active} of {n} sessions are active again");
    daemon.stop()?;
    work.clean(&jobs)?;
    Ok(Row {
        what: "SIGTERM with 50 sessions in flight on a provider that hangs",
        bar: "exit 0 in under 3 s, all resumed",
        seen: format!("exit 0 after {}, {resumable} resumable, {active} at work after the next start", ms(ended)),
        is_met: ended < Duration::from_secs(3),
    })
}

/// A store with many finished and many interrupted sessions: until READY, and until the first are at work.
fn start(work: &mut Work, server: &Server, finished: usize, interrupted: usize) -> anyhow::Result<Vec<Row>> {
    let job = work.jobs("start", 1)?.pop().context("no session")?;
    foreground::run(work, server, &job)?;
    let state = job.dir.join("state");
    grown::fill(&state.join("store"), finished).context("cannot fill the store")?;
    let silent = Silent::start()?;
    let all_at_once = Life { config: configure(&job.dir.join("all.toml"), silent.address, interrupted)?, state };
    let jobs = work.jobs("waiting", interrupted)?;
    let daemon = all_at_once.daemon()?;
    jobs.iter().try_for_each(|job| all_at_once.submit(&job.file, &job.repo))?;
    wait_until("each session waits for its model", || Ok(silent.asked() >= interrupted))?;
    daemon.stop()?;
    work.settle()?;

    let config = configure(&job.dir.join("few.toml"), silent.address, AT_WORK)?;
    let life = Life { config, state: all_at_once.state };
    let notify = job.dir.join("notify");
    let (mut until_ready, mut until_work) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let errors = life.state.with_extension("daemon-log");
        let mut command = configured(&life.config, &life.state, &errors)?;
        command.env("NOTIFY_SOCKET", &notify);
        let (asked, start) = (silent.asked(), Instant::now());
        // The socket of the service manager tells it, not the first answer on the control socket.
        let starting = thread::spawn({
            let state = life.state.clone();
            move || Daemon::start_as(command, &state, errors)
        });
        let mut bytes = [0; 4096];
        loop {
            let n = socket.recv(&mut bytes).context("READY=1 never came")?;
            if bytes[..n].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                break;
            }
        }
        until_ready.push(start.elapsed());
        let ready = Instant::now();
        while silent.asked() < asked + AT_WORK {
            ensure!(ready.elapsed() < PATIENCE, "the first sessions never began");
            thread::sleep(LOOK_EVERY);
        }
        until_work.push(ready.elapsed());
        let daemon = starting.join().map_err(|_| anyhow::anyhow!("the starting thread panicked"))??;
        let counts = life.counts()?;
        let (active, queued) = (count(&counts, "active"), count(&counts, "queued"));
        ensure!(
            (active, queued) == (AT_WORK, interrupted - AT_WORK),
            "{active} active and {queued} queued of {interrupted}"
        );
        daemon.stop()?;
    }
    work.clean(&jobs)?;
    work.clean(&[job])?;
    until_ready.sort_unstable();
    until_work.sort_unstable();
    let row = |what, bar, times: &[Duration], most: Duration| Row {
        what,
        bar,
        seen: format!("{} ({} to {})", ms(times[2]), ms(times[0]), ms(times[4])),
        is_met: times[2] < most,
    };
    Ok(vec![
        row(
            "start to READY with 10,000 finished and 100 interrupted sessions",
            "under 500 ms",
            &until_ready,
            Duration::from_millis(500),
        ),
        row("from READY until the first four are at work, 96 queued", "under 1 s", &until_work, Duration::from_secs(1)),
    ])
}

/// Thousands of sessions through one daemon: does it grow?
fn long_life(work: &mut Work, server: &Server, all: usize, early: usize) -> anyhow::Result<Vec<Row>> {
    let jobs: Vec<Job> = work.jobs("life", REPOSITORIES)?;
    let dir = jobs[0].dir.clone();
    let life = Life { config: configure(&dir.join("life.toml"), server.addr(), AT_WORK)?, state: dir.join("state") };
    let daemon = life.daemon()?;
    let resident = || memory_mib(daemon.pid(), "VmRSS").context("the daemon is gone");
    let mut submitted = 0;
    let mut resident_after = Vec::new();
    for goal in [early, all] {
        let wanted = server.requests()? + (CALLS * (goal - submitted)) as u64;
        while submitted < goal {
            let job = &jobs[submitted % jobs.len()];
            let idea = job.dir.join(format!("life-{submitted}.md"));
            fs::write(&idea, format!("---\nid: life-{submitted}\n---\n# Parts\n\nBuild the parts.\n"))?;
            life.submit(&idea, &job.repo)?;
            submitted += 1;
        }
        wait_until("all questions were asked", || Ok(server.requests()? >= wanted))?;
        wait_until("all sessions are completed", || Ok(count(&life.counts()?, "completed") == goal))?;
        thread::sleep(REST);
        resident_after.push(resident()?);
        eprintln!("{:.1} MiB resident after {goal} sessions", resident_after.last().copied().unwrap_or_default());
    }
    life.json(&["prune"])?;
    thread::sleep(REST);
    let check = life.json(&["store", "check"])?;
    ensure!(check["sound"] == true, "the store is not sound: {check}");
    daemon.stop()?;
    let live = check["payloadBytes"].as_u64().context("no size of the payloads")? as f64;
    let disk = folder_bytes(&life.state.join("store"))? as f64;
    work.clean(&jobs)?;
    let grown = resident_after[1] - resident_after[0];
    Ok(vec![
        Row {
            what: "resident memory after 2,000 sessions through one daemon, above that after 200",
            bar: "at most 10 MiB",
            seen: format!("{grown:.1} MiB ({:.1} after 200, {:.1} after 2,000)", resident_after[0], resident_after[1]),
            is_met: grown <= 10.0,
        },
        Row {
            what: "the store after them and a `prune`, against the live data",
            bar: "at most 2 x",
            seen: format!(
                "{:.2} x ({:.1} of {:.1} MiB)",
                disk / live,
                disk / f64::from(1 << 20),
                live / f64::from(1 << 20)
            ),
            is_met: disk <= 2.0 * live,
        },
    ])
}

/// What the files of a folder take up on disk; they have holes.
fn folder_bytes(dir: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes +=
            if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.blocks() * 512 };
    }
    Ok(bytes)
}
