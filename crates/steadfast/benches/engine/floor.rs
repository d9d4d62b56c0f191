//! The bare floor: what the work of a session costs when nothing is around it. Blocking sockets that are kept open, `git`
//! as processes, and after each answer and each commit an append of 4 KiB with its `fdatasync`.
//!
//! No failover, no prompt worth the name, nothing to resume from: it is a measure, not a rival.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::measure::{Measured, Usage, median};
use crate::work::{Job, git};
use crate::{AT_ONCE, FILES, MILESTONES};

/// What is appended and made durable after each step.
const RECORD: [u8; 4096] = [b'x'; 4096];
/// Bytes of the prompts; a milestone's diff is most of the reviewer's.
const PLANNER_PROMPT: usize = 400;
const CODER_PROMPT: usize = 500;
const REVIEWER_PROMPT: usize = 6_000;

/// Where a session's time goes.
#[derive(Clone, Copy, Default)]
struct Parts {
    http: Duration,
    git: Duration,
    sync: Duration,
}

/// One worker of the floor, with the connections that it keeps from session to session.
pub(crate) struct Floor {
    connections: Vec<Connection>,
}

/// A session in this process, with the CPU of everything that it started.
pub(crate) fn single(floor: &mut Floor, job: &Job) -> anyhow::Result<Measured> {
    let (before, start) = (Usage::now()?, Instant::now());
    let parts = floor.session(job)?;
    let wall = start.elapsed();
    Ok(measured(1, wall, Usage::now()?.since(before), &[parts]))
}

/// All sessions, [`AT_ONCE`] at a time.
pub(crate) fn many(server: SocketAddr, jobs: &[Job]) -> anyhow::Result<Measured> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        let mut floor = Floor::connect(server)?;
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let parts = floor.session(job)?;
            all.lock().unwrap_or_else(PoisonError::into_inner).push(parts);
        }
        Ok(())
    };
    let (before, start) = (Usage::now()?, Instant::now());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a session panicked")));
        joined.collect::<anyhow::Result<()>>()
    })?;
    let wall = start.elapsed();
    let usage = Usage::now()?.since(before);
    Ok(measured(jobs.len(), wall, usage, &all.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

fn measured(n: usize, wall: Duration, usage: Usage, parts: &[Parts]) -> Measured {
    let part = |of: fn(&Parts) -> Duration| {
        median(&parts.iter().map(|parts| of(parts).as_secs_f64() * 1e3).collect::<Vec<_>>())
    };
    let parts = [part(|parts| parts.http), part(|parts| parts.git), part(|parts| parts.sync)];
    Measured { parts: Some(parts), ..Measured::new(n, wall, usage.own + usage.children, usage.children) }
}

impl Floor {
    pub(crate) fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let connections = (0..FILES).map(|_| Connection::open(server)).collect::<anyhow::Result<_>>()?;
        Ok(Self { connections })
    }

    /// The whole of one session.
    fn session_parts(&mut self, job: &Job, parts: &mut Parts) -> anyhow::Result<()> {
        let worktree = job.dir.join("worktree");
        let log = OpenOptions::new().create(true).append(true).open(job.dir.join("log"))?;
        let branch = format!("steadfast/{}", job.idea);
        timed(&mut parts.git, || {
            run_git(&job.repo, &["worktree", "add", "-q", "-b", &branch, &worktree.to_string_lossy()])
        })?;
        let plan = Ask::new(&job.idea, "planner", "gpt-5-nano", 0, "", PLANNER_PROMPT);
        let answer = timed(&mut parts.http, || self.ask(&[plan]))?;
        timed(&mut parts.sync, || keep(&log))?;
        let plan: Value = serde_json::from_str(fenced(&answer[0])?).context("the plan is no JSON")?;
        let milestones = plan["milestones"].as_array().context("a plan without milestones")?;
        ensure!(milestones.len() == MILESTONES, "a plan of {} milestones", milestones.len());
        fs::create_dir_all(worktree.join("src"))?;
        for (at, milestone) in milestones.iter().enumerate() {
            let number = at + 1;
            let paths = milestone["files"]["create"].as_array().context("a milestone without files")?;
            let paths: Vec<&str> = paths.iter().filter_map(Value::as_str).collect();
            let asks: Vec<Ask> = paths
                .iter()
                .map(|path| Ask::new(&job.idea, "coder", "codellama-7b", number, path, CODER_PROMPT))
                .collect();
            let texts = timed(&mut parts.http, || self.ask(&asks))?;
            for (path, text) in paths.iter().zip(&texts) {
                timed(&mut parts.sync, || keep(&log))?;
                fs::write(worktree.join(path), fenced(text)?)?;
            }
            let review = Ask::new(&job.idea, "reviewer", "gpt-5-nano", number, "", REVIEWER_PROMPT);
            timed(&mut parts.http, || self.ask(&[review]))?;
            timed(&mut parts.sync, || keep(&log))?;
            let message =
                format!("Milestone {number}\n\nSteadfast-Session: {}\nSteadfast-Milestone: {number}\n", job.idea);
            timed(&mut parts.git, || run_git(&worktree, &["add", "-A"]))?;
            timed(&mut parts.git, || run_git(&worktree, &["commit", "-q", "-m", &message]))?;
            timed(&mut parts.sync, || keep(&log))?;
        }
        timed(&mut parts.sync, || keep(&log))
    }

    fn session(&mut self, job: &Job) -> anyhow::Result<Parts> {
        let mut parts = Parts::default();
        self.session_parts(job, &mut parts).with_context(|| format!("floor, {}", job.idea))?;
        Ok(parts)
    }

    /// One uncounted session.
    pub(crate) fn warm_up(&mut self, job: &Job) -> anyhow::Result<()> {
        self.session(job).map(drop)
    }

    /// Sends all, each on a connection of its own, then reads all.
    fn ask(&mut self, asks: &[Ask]) -> anyhow::Result<Vec<String>> {
        ensure!(asks.len() <= self.connections.len(), "more files than connections");
        for (connection, ask) in self.connections.iter_mut().zip(asks) {
            connection.stream.write_all(&ask.0)?;
        }
        self.connections.iter_mut().take(asks.len()).map(Connection::answer).collect()
    }
}

fn timed<T>(part: &mut Duration, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    let result = work();
    *part += start.elapsed();
    result
}

fn keep(mut log: &File) -> anyhow::Result<()> {
    log.write_all(&RECORD)?;
    Ok(log.sync_data()?)
}

fn run_git(dir: &Path, args: &[&str]) -> anyhow::Result<()> {
    let status = git(dir).args(args).status().context("cannot run git")?;
    ensure!(status.success(), "git {} ended with {status}", args.join(" "));
    Ok(())
}

/// The text of the answer's fenced block, as [`crate::server`] has it: one block and nothing else.
fn fenced(answer: &str) -> anyhow::Result<&str> {
    let inside = answer.trim_end().strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inside.and_then(|inside| inside.split_once('\n')).map(|(_, text)| text).context("an answer without a fenced block")
}

/// A request's bytes.
struct Ask(Vec<u8>);

impl Ask {
    fn new(idea: &str, role: &str, model: &str, milestone: usize, path: &str, prompt_bytes: usize) -> Self {
        let prompt = "x".repeat(prompt_bytes);
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": prompt }] }).to_string();
        let milestone = if milestone == 0 { String::new() } else { format!("X-Steadfast-Milestone: {milestone}\r\n") };
        // Of what a path of ours holds, only the slash needs escaping.
        let file = path.replace('/', "%2F");
        let file = if file.is_empty() { file } else { format!("X-Steadfast-File: {file}\r\n") };
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             X-Steadfast-Role: {role}\r\nX-Steadfast-Idea: {idea}\r\n{milestone}{file}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self(request.into_bytes())
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 << 10] })
    }

    /// Reads one answer and takes its text out.
    fn answer(&mut self) -> anyhow::Result<String> {
        let mut filled = 0;
        let (mut start, mut end) = (0, usize::MAX);
        while filled < end {
            ensure!(filled < self.buffer.len(), "an answer of more than 64 KiB");
            let n = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(n > 0, "the server closed the connection");
            filled += n;
            if start == 0
                && let Some(at) = self.buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n")
            {
                start = at + 4;
                end = start + body_bytes(std::str::from_utf8(&self.buffer[..at])?)?;
            }
        }
        let mut body: Value = serde_json::from_slice(&self.buffer[start..end])?;
        match body["choices"][0]["message"]["content"].take() {
            Value::String(text) => Ok(text),
            other => bail!("an answer with the content {other}"),
        }
    }
}

fn body_bytes(head: &str) -> anyhow::Result<usize> {
    ensure!(head.starts_with("HTTP/1.1 200"), "{}", head.lines().next().unwrap_or_default());
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Ok(length.context("an answer without a length")?.1.trim().parse()?)
}
