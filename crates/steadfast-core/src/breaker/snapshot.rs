//! A breaker that outlives its process: spans, never instants, so that any later time line can take them up.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{Nanos, nanos, span};
use super::{Breaker, BreakerConfig, Circuit};

/// What is kept of a breaker over a restart. Calls under way are not: they end with their process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its state when the snapshot was taken.
    pub state: SavedState,
    /// Times it had opened.
    pub opens: u64,
}

/// The state in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedState {
    /// Closed.
    Closed {
        /// How long ago each failure that still counted was reported, oldest first; may be empty.
        failure_ages: Vec<Duration>,
    },
    /// Open.
    Open {
        /// Until its next test was due; zero when it was due already.
        remaining: Duration,
        /// The least time that the provider had asked for, not capped; zero where it had not.
        asked: Duration,
    },
    /// Half-open: its test is lost with the process.
    HalfOpen,
}

impl Breaker {
    /// What has to be kept. Moves nothing.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let state = match &self.circuit {
            Circuit::Closed { failures } => {
                let now = self.at(now);
                let ages = self.counting(failures, now).map(|at| span(now - at));
                SavedState::Closed { failure_ages: ages.collect() }
            }
            Circuit::Open { asked, .. } => {
                SavedState::Open { remaining: self.retry_in(now).unwrap_or_default(), asked: *asked }
            }
            Circuit::HalfOpen { .. } => SavedState::HalfOpen,
        };
        Snapshot { state, opens: self.counters.opens }
    }

    /// The breaker as it would be now, `elapsed` (by the wall clock; zero where that went backwards) after the
    /// snapshot was taken. Whatever the clock did meanwhile and whatever stands in the snapshot, nothing stays open for
    /// longer than a breaker that opens now would. What was half-open is open with its test due at once.
    pub fn restore(config: BreakerConfig, snapshot: &Snapshot, elapsed: Duration, now: Duration) -> Self {
        let now = nanos(now);
        let circuit = match &snapshot.state {
            SavedState::Closed { failure_ages } => {
                Circuit::Closed { failures: failures(&config, failure_ages, elapsed, now) }
            }
            SavedState::Open { remaining, asked } => {
                let full = config.open_for(*asked);
                let remaining = remaining.saturating_sub(elapsed).min(full);
                Circuit::Open { opened_at: now - nanos(full - remaining), asked: *asked }
            }
            SavedState::HalfOpen => {
                Circuit::Open { opened_at: now - nanos(config.reset_timeout), asked: Duration::ZERO }
            }
        };
        let mut breaker = Self::new(config);
        breaker.circuit = circuit;
        breaker.latest = now;
        breaker.counters.opens = snapshot.opens;
        breaker
    }
}

/// The saved failures that still count, fewer than the threshold: a threshold that was lowered meanwhile opens at the
/// next failure, not at start.
fn failures(config: &BreakerConfig, ages: &[Duration], elapsed: Duration, now: Nanos) -> VecDeque<Nanos> {
    let aged = ages.iter().map(|age| nanos(*age) + nanos(elapsed));
    let mut ages: Vec<Nanos> = aged.filter(|age| *age < nanos(config.monitoring_period)).collect();
    // Kept in order already; sorted all the same, for the machine relies on it and the disk is no friend.
    ages.sort_unstable();
    ages.truncate(config.most_failures());
    ages.into_iter().rev().map(|age| now - age).collect()
}
