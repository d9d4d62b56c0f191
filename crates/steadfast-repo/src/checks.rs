//! The operator's checks: commands that tell whether a milestone works. Never a command that a model proposed.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use steadfast_fault_point::{self as fault_point, Point};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::Instant;

use crate::sandbox::{self, Sandbox};

/// How checks are run.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// The worktree: where they run, and what they may write.
    pub dir: PathBuf,
    /// For each check by itself.
    pub timeout: Duration,
    /// What keeps them in.
    pub sandbox: Sandbox,
    /// How much of the end of a check's output is kept.
    pub max_output_bytes: usize,
    /// Where it is noted which process group runs, so that [`end_left_behind`] finds it after a `kill -9`. `None`: nowhere.
    pub note: Option<PathBuf>,
}

impl CheckOptions {
    /// What of an output is kept by default: enough for the errors at its end, little enough for a prompt.
    pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It exited with 0.
    Passed,
    /// It exited with another code; 128 + the signal's number when a signal ended it, as a shell says it.
    Failed {
        /// Never 0.
        code: i32,
    },
    /// It was killed at its timeout.
    TimedOut,
    /// It could not be started, so nothing is known about the code. For a person.
    CouldNotStart(String),
}

/// One check that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The command as configured.
    pub command: String,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// The end of stdout and stderr, in the order in which it was written; what is not UTF-8 is replaced. A first line says
    /// how much is missing, if any.
    pub output: String,
    /// How long it ran.
    pub duration: Duration,
}

/// Runs a command with `sh -c` in its own process group. No input; a clean environment (no keys).
///
/// When it is over or out of time, what is left of its process group is killed. Dropping the future kills it too. Without a
/// sandbox a process that leaves the group (`setsid`) survives; inside one nothing does.
pub async fn run_check(command: &str, options: &CheckOptions) -> CheckResult {
    let start = Instant::now();
    let (outcome, output) = run(command, options).await;
    CheckResult { command: command.to_owned(), outcome, output, duration: start.elapsed() }
}

/// How long an output that stays open after its command is gone is read: a process that left the group holds it.
const DRAIN: Duration = Duration::from_millis(500);

async fn run(command: &str, options: &CheckOptions) -> (CheckOutcome, String) {
    let could_not = |error: std::io::Error| (CheckOutcome::CouldNotStart(error.to_string()), String::new());
    // One pipe for both, so that what is printed stays in order.
    let (reader, writer) = match std::io::pipe() {
        Ok(both) => both,
        Err(error) => return could_not(error),
    };
    let mut reader = match pipe::Receiver::from_owned_fd(OwnedFd::from(reader)) {
        Ok(reader) => reader,
        Err(error) => return could_not(error),
    };
    let mut child = match writer.try_clone().and_then(|second| {
        // The command is dropped here, and with it our own ends of the pipe: else it would never be at its end.
        prepare(command, options).stdout(Stdio::from(writer)).stderr(Stdio::from(second)).spawn()
    }) {
        Ok(child) => child,
        Err(error) => return could_not(error),
    };
    let group = Group::of(&child);
    fault_point::reach(Point::RepoCheckBegun);
    let note = options.note.as_deref().and_then(|path| Note::write(path, &child));
    fault_point::reach(Point::RepoCheckNoted);
    if let Some(mut gate) = child.stdin.take() {
        // A child that has ended already has nothing to wait for.
        gate.write_all(b"\n").await.ok();
    }
    let mut tail = Tail::new(options.max_output_bytes);
    let deadline = tokio::time::sleep(options.timeout);
    tokio::pin!(deadline);
    let mut open = true;
    let mut buffer = vec![0; 8 * 1024];
    let status = loop {
        tokio::select! {
            read = reader.read(&mut buffer), if open => match read {
                Ok(n) if n > 0 => tail.push(&buffer[..n]),
                Ok(_) | Err(_) => open = false,
            },
            status = child.wait() => break Some(status),
            () = &mut deadline => break None,
        }
    };
    // Also after a good end: a server that a test left running holds the pipe and memory.
    drop(group);
    fault_point::reach(Point::RepoCheckEnded);
    drop(note);
    fault_point::reach(Point::RepoCheckForgotten);
    if status.is_none() {
        // It was killed: this only collects it.
        child.wait().await.ok();
    }
    let rest = async {
        while let Ok(n) = reader.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            tail.push(&buffer[..n]);
        }
    };
    if open {
        // Whoever still holds the pipe after that is no part of the check.
        tokio::time::timeout(DRAIN, rest).await.ok();
    }
    let output = tail.into_text();
    let outcome = match status {
        None => CheckOutcome::TimedOut,
        Some(Err(error)) => CheckOutcome::CouldNotStart(error.to_string()),
        Some(Ok(status)) => judge(status, &output, &options.sandbox),
    };
    (outcome, output)
}

/// Ends the check that a killed process left running, as noted, if it is still that process: it would write to a worktree
/// that another one works in by now. A sandboxed one has ended with its parent.
pub fn end_left_behind(note: &Path) {
    let Ok(text) = std::fs::read_to_string(note) else { return };
    if let Some((pid, started)) = text.trim_end().split_once(' ')
        && let Some(pid) = pid.parse().ok().filter(|pid: &i32| *pid > 0).and_then(Pid::from_raw)
        && start_time(pid).as_deref() == Some(started)
    {
        tracing::warn!(pid = pid.as_raw_nonzero(), "ending a check that a killed process left running");
        // It may have ended in this instant.
        kill_process_group(pid, Signal::KILL).ok();
    }
    std::fs::remove_file(note).ok();
}

/// The note of a check that runs; it goes with the check.
struct Note<'a>(&'a Path);

impl<'a> Note<'a> {
    /// `None` where it cannot be written: then a left-over check is not found, and nothing else is worse.
    fn write(path: &'a Path, child: &tokio::process::Child) -> Option<Self> {
        let pid = i32::try_from(child.id()?).ok().and_then(Pid::from_raw)?;
        let line = format!("{} {}\n", pid.as_raw_nonzero(), start_time(pid)?);
        std::fs::write(path, line).ok()?;
        Some(Self(path))
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        std::fs::remove_file(self.0).ok();
    }
}

/// When a process began, in the kernel's ticks since boot (`/proc/<pid>/stat`, field 22): with its number it names one
/// process and no later one. `None`: there is none, or it has ended and waits to be collected.
fn start_time(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    fields.nth(18).filter(|_| state != "Z").map(str::to_owned)
}

fn judge(status: ExitStatus, output: &str, sandbox: &Sandbox) -> CheckOutcome {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    // bwrap's own failure: exit code 1 and a single line in its name.
    let only_line = output.trim_end();
    let from_bwrap = matches!(sandbox, Sandbox::Bwrap { .. })
        && code == 1
        && only_line.starts_with("bwrap: ")
        && !only_line.contains('\n');
    match code {
        0 => CheckOutcome::Passed,
        _ if from_bwrap => CheckOutcome::CouldNotStart(only_line.to_owned()),
        code => CheckOutcome::Failed { code },
    }
}

/// Begins the command when a line comes, and not at all when the one who would send it is gone: a check that nobody has
/// noted yet cannot be found after a `kill -9`, so it must not run.
const GATE: &str = "read -r line && exec sh -c \"$1\" < /dev/null";

fn prepare(command: &str, options: &CheckOptions) -> Command {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let mut prepared = match &options.sandbox {
        Sandbox::None => Command::new("sh"),
        Sandbox::Bwrap { program, read_only, hidden } => {
            let mut bwrap = Command::new(program);
            bwrap.args(sandbox::arguments(&options.dir, read_only, hidden, home.as_deref())).arg("sh");
            bwrap
        }
    };
    prepared
        .args(["-c", GATE, "sh", command])
        .current_dir(&options.dir)
        .env_clear()
        .envs(environment(home.as_deref()))
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    prepared
}

/// What toolchains need to be found; nothing that holds a key. `GIT_*` stays out: it would point a check at another
/// repository.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOPATH",
    "GOROOT",
    "GOMODCACHE",
    "JAVA_HOME",
    "GRADLE_USER_HOME",
    "NVM_DIR",
    "PYENV_ROOT",
    "VOLTA_HOME",
    "PNPM_HOME",
    "BUN_INSTALL",
    "DENO_DIR",
    "ASDF_DATA_DIR",
    "NIX_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

fn environment(home: Option<&Path>) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> =
        KEPT.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
    // Toolchains are looked for below HOME, which is another one inside a sandbox.
    for (name, default) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let place = home.map(|home| home.join(default)).filter(|place| place.is_dir());
        if let (Some(place), None) = (place, std::env::var_os(name)) {
            all.push((name.into(), place.into()));
        }
    }
    let fixed = [("TERM", "dumb"), ("CI", "true"), ("GIT_OPTIONAL_LOCKS", "0"), ("GIT_TERMINAL_PROMPT", "0")];
    all.extend(fixed.map(|(name, value)| (name.into(), value.into())));
    all
}

/// Kills a process group when it goes out of scope, however that comes about.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // No such group: it is gone already, which is what is wanted.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

/// The end of an output.
struct Tail {
    bytes: Vec<u8>,
    max: usize,
    n_dropped: u64,
}

impl Tail {
    fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max, n_dropped: 0 }
    }

    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Moved only once in a while, so that a long output costs a copy or two for each byte.
        if self.bytes.len() > 2 * self.max + more.len() {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.max);
        self.bytes.drain(..surplus);
        self.n_dropped += surplus as u64;
    }

    fn into_text(mut self) -> String {
        self.shorten();
        if self.n_dropped == 0 {
            return String::from_utf8_lossy(&self.bytes).into_owned();
        }
        // Half a line, and perhaps half a character, tells nothing.
        let start = self.bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        let n_missing = self.n_dropped + start as u64;
        format!("[{n_missing} bytes before this are left out]\n{}", String::from_utf8_lossy(&self.bytes[start..]))
    }
}

#[cfg(test)]
mod tests;
