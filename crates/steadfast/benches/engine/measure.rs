//! CPU, memory and the few statistics that the table needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// How often a short-lived process is looked at for its peak.
const SAMPLE_EVERY: Duration = Duration::from_millis(2);

/// What a case gave, for one of its sessions.
pub(crate) struct Measured {
    /// From begin to end; with many at once the whole time by the number of sessions.
    pub(crate) wall_ms: f64,
    pub(crate) per_second: f64,
    /// User and system time of everything but the model server.
    pub(crate) cpu_ms: f64,
    /// Of it in processes that the case started beside the one that carries the sessions: git for the floor, `submit` for
    /// the daemon.
    pub(crate) processes_cpu_ms: f64,
    /// The model server's, not contained in `cpu_ms`.
    pub(crate) server_cpu_ms: f64,
    /// Of the process that carries the sessions; 0 where it is not looked at.
    pub(crate) peak_mib: f64,
    /// Medians of the milliseconds that a session of the floor spends in HTTP, git and `fdatasync`.
    pub(crate) parts: Option<[f64; 3]>,
}

impl Measured {
    /// For `n` sessions that took `wall` together.
    pub(crate) fn new(n: usize, wall: Duration, cpu: Duration, processes_cpu: Duration) -> Self {
        let each = |time: Duration| time.as_secs_f64() * 1e3 / n as f64;
        Self {
            wall_ms: each(wall),
            per_second: n as f64 / wall.as_secs_f64(),
            cpu_ms: each(cpu),
            processes_cpu_ms: each(processes_cpu),
            server_cpu_ms: 0.0,
            peak_mib: 0.0,
            parts: None,
        }
    }
}

/// CPU time, user and system together.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// Of this process.
    pub(crate) own: Duration,
    /// Of the children that were waited for, and theirs.
    pub(crate) children: Duration,
}

impl Usage {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let of = |who| {
            let usage = getrusage(who).context("getrusage")?;
            anyhow::Ok(duration(usage.user_time()) + duration(usage.system_time()))
        };
        Ok(Self { own: of(UsageWho::RUSAGE_SELF)?, children: of(UsageWho::RUSAGE_CHILDREN)? })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { own: self.own.saturating_sub(before.own), children: self.children.saturating_sub(before.children) }
    }
}

fn duration(time: TimeVal) -> Duration {
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0));
    seconds + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
}

/// CPU of a running process and of the children that it waited for, to the tick (10 ms on most machines).
pub(crate) fn process_cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // The command's name comes second, in parentheses, and may hold spaces; utime, stime, cutime and cstime are the
    // fields 14 to 17 (proc_pid_stat(5)).
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// A size from `/proc/PID/status`, such as `VmRSS` or `VmHWM`, in MiB; `None` when the process is gone.
pub(crate) fn memory_mib(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Does `work`, and looks at a process meanwhile; answers its peak resident memory in MiB, as far as it was seen.
///
/// `ru_maxrss` would be exact, but begins at the parent's size, as it is inherited over `exec`.
pub(crate) fn with_peak<T>(pid: u32, work: impl FnOnce() -> T) -> (T, f64) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut peak = 0.0_f64;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(memory_mib(pid, "VmHWM").unwrap_or(0.0));
                thread::sleep(SAMPLE_EVERY);
            }
            peak
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        // It does not panic; without a figure the table would show 0.
        (done, watching.join().unwrap_or(0.0))
    })
}

/// The middle of the values, or between the two middle ones; 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
