//! What the figures were measured on.

use std::fs;
use std::path::Path;

use crate::Round;

/// The load average over the last minute; 0 where it cannot be read.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// Cores, memory, kernel, file system, git and load, as a line.
pub(crate) fn describe(dir: &Path, load_before: f64, rounds: &[Round]) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory: f64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let git = crate::work::command("git").arg("--version").output();
    let git = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let loads = rounds.iter().map(|round| round.load);
    let (least, most) = (loads.clone().fold(load_before, f64::min), loads.fold(load_before, f64::max));
    format!(
        "{cores} cores ({cpu}), {:.0} GiB, Linux {}, {}, {git}; load average (1 min) {load_before:.1} at the start, \
         {least:.1}–{most:.1} when a round began, {:.1} at the end\n",
        memory / f64::from(1 << 20),
        kernel.trim(),
        file_system(dir).unwrap_or_default(),
        load(),
    )
}

/// The value of the first `name: value` line.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The type of the file system that holds the folder: the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    // Of several on one point, the last one is seen.
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}
