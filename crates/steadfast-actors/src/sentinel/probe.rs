//! Reads what the kernel says of memory and disk: cgroup v2, `/proc/meminfo`, statvfs.

use std::fs;
use std::path::{Path, PathBuf};

use steadfast_core::sentinel::{Memory, Reading};

/// One look at the machine.
pub fn read(state_dir: &Path) -> Reading {
    let of_group = |folder: PathBuf| group_memory(|file| fs::read_to_string(folder.join(file)).ok());
    let group = cgroup_folders().into_iter().filter_map(of_group);
    // The tightest limit on the way up is the one that kills.
    let group = group.max_by_key(|memory| u128::from(memory.used) * 1_000 / u128::from(memory.total.max(1)));
    let machine = || fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_memory(&text));
    let resident = || fs::read_to_string("/proc/self/status").ok().and_then(|text| kib(&text, "VmRSS:"));
    Reading {
        memory: group.or_else(machine),
        own_memory: group.map(|memory| memory.used).or_else(resident),
        free_disk: free_disk(state_dir),
    }
}

/// Free for an ordinary user, in bytes, on the file system of the nearest folder that exists.
fn free_disk(state_dir: &Path) -> Option<u64> {
    let folder = state_dir.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The process's own group in the unified hierarchy and those above it.
fn cgroup_folders() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let root = Path::new("/sys/fs/cgroup");
    root.join(own).ancestors().take_while(|folder| folder.starts_with(root)).map(Path::to_owned).collect()
}

/// `None` where the group has no limit. Of the page cache only what is not dirty or mapped at the moment could be dropped at
/// once, but the kernel writes the rest back under pressure, so all of it is not counted.
fn group_memory(read: impl Fn(&str) -> Option<String>) -> Option<Memory> {
    let total = read("memory.max")?.trim().parse().ok()?;
    let current: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let of = |name: &str| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Some(Memory { used: current.saturating_sub(of("inactive_file") + of("active_file")), total })
}

fn machine_memory(meminfo: &str) -> Option<Memory> {
    let total = kib(meminfo, "MemTotal:")?;
    Some(Memory { used: total.saturating_sub(kib(meminfo, "MemAvailable:")?), total })
}

/// A line of `/proc`, which counts in KiB, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_with_a_limit_counts_without_its_page_cache() {
        let files = |max: &'static str| {
            move |name: &str| {
                Some(match name {
                    "memory.max" => max.to_owned(),
                    "memory.current" => "900\n".to_owned(),
                    "memory.stat" => "anon 300\nfile 600\ninactive_file 400\nactive_file 100\n".to_owned(),
                    _ => return None,
                })
            }
        };
        assert_eq!(group_memory(files("1000\n")), Some(Memory { used: 400, total: 1000 }));
        assert_eq!(group_memory(files("max\n")), None);
        assert_eq!(group_memory(|_| None), None);
    }

    #[test]
    fn a_machine_counts_what_is_not_available() {
        let text = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    600 kB\n";
        assert_eq!(machine_memory(text), Some(Memory { used: 400 * 1024, total: 1000 * 1024 }));
        assert_eq!(machine_memory("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let reading = read(Path::new("/no/such/folder"));
        assert!(reading.memory.unwrap().used > 0);
        assert!(reading.own_memory.unwrap() > 1 << 20);
        assert!(reading.free_disk.is_some());
    }
}
