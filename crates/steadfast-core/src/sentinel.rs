//! When memory, disk or time run short (SPEC 8): what was measured goes in, what to do comes out.

use std::fmt;
use std::time::Duration;

/// So many readings in a row make a change: one alone may be a moment's peak.
const STEADY: u32 = 3;

/// How much memory may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// Of all there is, 1 to 100.
    Percent(u8),
    /// In bytes.
    Bytes(u64),
}

/// What must not be exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `memory_limit`.
    pub memory: MemoryLimit,
    /// `min_free_disk`, in bytes; 0: not watched.
    pub min_free_disk: u64,
    /// `time_limit` less its margin, since the process began.
    pub time: Option<Duration>,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In use, without the page cache that can be dropped.
    pub used: u64,
    /// All there is.
    pub total: u64,
}

/// One look at the machine. `None`: it could not be measured, and is taken for enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Of the cgroup where it has a limit, else of the machine.
    pub memory: Option<Memory>,
    /// Of the process alone, or of its cgroup where that has a limit; what a limit in bytes is held against.
    pub own_memory: Option<u64>,
    /// Free for us on the file system of the state directory, in bytes.
    pub free_disk: Option<u64>,
}

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Memory in bytes.
    Memory {
        /// In use.
        used: u64,
        /// What may be.
        limit: u64,
    },
    /// Disk in bytes.
    Disk {
        /// Free.
        free: u64,
        /// What must be.
        min: u64,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes / (1 << 20);
        match self {
            Self::Memory { used, limit } => {
                write!(f, "memory is short: {} MiB in use, memory_limit allows {} MiB", mib(used), mib(limit))
            }
            Self::Disk { free, min } => {
                write!(f, "the disk is nearly full: {} MiB free, min_free_disk asks for {} MiB", mib(free), mib(min))
            }
        }
    }
}

/// What to do now.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing has changed.
    AsBefore,
    /// It began short: begin no work until there is room.
    Pause(Shortage),
    /// There is room again.
    GoOn,
    /// It became short in mid-work: save everything and end.
    Short(Shortage),
    /// The time is up.
    TimeUp,
}

/// Watches one process.
#[derive(Debug, Clone)]
pub struct Sentinel {
    limits: Limits,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was read yet.
    New,
    /// Short so many readings in a row.
    Working(u32),
    /// Enough so many readings in a row.
    Paused(u32),
    Over,
}

impl Sentinel {
    /// Before the first reading.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::New }
    }

    /// Work has begun: what is short now became so.
    pub fn at_work(limits: Limits) -> Self {
        Self { limits, state: State::Working(0) }
    }

    /// Takes a reading `uptime` after the process began. After [`Verdict::Short`] or [`Verdict::TimeUp`] nothing more comes.
    pub fn read(&mut self, reading: &Reading, uptime: Duration) -> Verdict {
        if self.state == State::Over {
            return Verdict::AsBefore;
        }
        if self.limits.time.is_some_and(|limit| uptime >= limit) {
            self.state = State::Over;
            return Verdict::TimeUp;
        }
        let shortage = self.shortage(reading);
        let (state, verdict) = match (self.state, shortage) {
            (State::New, Some(shortage)) => (State::Paused(0), Verdict::Pause(shortage)),
            (State::New | State::Working(_), None) => (State::Working(0), Verdict::AsBefore),
            (State::Working(n), Some(shortage)) if n + 1 >= STEADY => (State::Over, Verdict::Short(shortage)),
            (State::Working(n), Some(_)) => (State::Working(n + 1), Verdict::AsBefore),
            (State::Paused(n), None) if n + 1 >= STEADY => (State::Working(0), Verdict::GoOn),
            (State::Paused(n), None) => (State::Paused(n + 1), Verdict::AsBefore),
            (State::Paused(_), Some(_)) => (State::Paused(0), Verdict::AsBefore),
            (State::Over, _) => (State::Over, Verdict::AsBefore),
        };
        self.state = state;
        verdict
    }

    fn shortage(&self, reading: &Reading) -> Option<Shortage> {
        let memory = match self.limits.memory {
            MemoryLimit::Percent(percent) => reading.memory.map(|memory| {
                let limit = u128::from(memory.total) * u128::from(percent) / 100;
                (memory.used, u64::try_from(limit).unwrap_or(u64::MAX))
            }),
            MemoryLimit::Bytes(limit) => reading.own_memory.map(|used| (used, limit)),
        };
        let min = self.limits.min_free_disk;
        let memory = memory.filter(|(used, limit)| used > limit).map(|(used, limit)| Shortage::Memory { used, limit });
        memory.or_else(|| reading.free_disk.filter(|free| *free < min).map(|free| Shortage::Disk { free, min }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn sentinel(memory: MemoryLimit) -> Sentinel {
        Sentinel::new(Limits { memory, min_free_disk: 100 * MIB, time: Some(Duration::from_secs(60)) })
    }

    fn reading(used: u64, free_disk: u64) -> Reading {
        let memory = Some(Memory { used: used * MIB, total: 1_000 * MIB });
        Reading { memory, own_memory: Some(used * MIB / 10), free_disk: Some(free_disk * MIB) }
    }

    fn verdicts(sentinel: &mut Sentinel, readings: &[Reading]) -> Vec<Verdict> {
        readings.iter().map(|reading| sentinel.read(reading, Duration::ZERO)).collect()
    }

    #[test]
    fn a_peak_of_two_readings_is_borne_and_a_third_one_ends_the_work() {
        let mut watch = sentinel(MemoryLimit::Percent(95));
        let (fine, high) = (reading(950, 100), reading(951, 100));
        let seen = verdicts(&mut watch, &[fine, high, high, fine, high, high]);
        assert!(seen.iter().all(|verdict| *verdict == Verdict::AsBefore));
        let shortage = Shortage::Memory { used: 951 * MIB, limit: 950 * MIB };
        assert_eq!(
            verdicts(&mut watch, &[high, high, fine]),
            [Verdict::Short(shortage), Verdict::AsBefore, Verdict::AsBefore]
        );
        assert_eq!(shortage.to_string(), "memory is short: 951 MiB in use, memory_limit allows 950 MiB");
    }

    #[test]
    fn what_is_short_from_the_start_is_a_pause_until_there_is_room_for_a_while() {
        let mut watch = sentinel(MemoryLimit::Percent(95));
        let (fine, full) = (reading(1, 100), reading(1, 99));
        let shortage = Shortage::Disk { free: 99 * MIB, min: 100 * MIB };
        use Verdict::{AsBefore, GoOn, Pause, Short};
        let seen = verdicts(&mut watch, &[full, full, full, full, fine, fine, full, fine, fine, fine]);
        assert_eq!(seen[0], Pause(shortage));
        assert_eq!(seen[1..], [AsBefore, AsBefore, AsBefore, AsBefore, AsBefore, AsBefore, AsBefore, AsBefore, GoOn]);
        assert_eq!(verdicts(&mut watch, &[full, full, full])[2], Short(shortage));
    }

    #[test]
    fn a_limit_in_bytes_is_held_against_what_the_process_itself_uses() {
        let mut watch = sentinel(MemoryLimit::Bytes(90 * MIB));
        assert_eq!(verdicts(&mut watch, &[reading(900, 100)]), [Verdict::AsBefore]);
        let seen = verdicts(&mut watch, &[reading(910, 100); 3]);
        assert_eq!(seen[2], Verdict::Short(Shortage::Memory { used: 91 * MIB, limit: 90 * MIB }));
    }

    #[test]
    fn the_time_is_up_once_whatever_else_is_short() {
        let mut watch = sentinel(MemoryLimit::Percent(95));
        assert_eq!(
            watch.read(&reading(1, 1), Duration::from_secs(59)),
            Verdict::Pause(Shortage::Disk { free: MIB, min: 100 * MIB })
        );
        assert_eq!(watch.read(&reading(1, 1), Duration::from_secs(60)), Verdict::TimeUp);
        assert_eq!(watch.read(&reading(1, 1), Duration::from_secs(61)), Verdict::AsBefore);
    }

    #[test]
    fn what_cannot_be_measured_is_taken_for_enough() {
        let mut watch = sentinel(MemoryLimit::Percent(1));
        assert_eq!(verdicts(&mut watch, &[Reading::default(); 4]), [Verdict::AsBefore; 4]);
    }
}
