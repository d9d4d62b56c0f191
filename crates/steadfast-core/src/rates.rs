//! How well it goes, as five rates (SPEC 13): over the last hour and since the store began, each with its level.

mod history;

pub use history::{History, Hour};

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Role executions that ended: answered by the role's first model, by another, or by none.
    pub executions: u64,
    /// Answered by the role's first model.
    pub primary: u64,
    /// Answered by another model than the first.
    pub fallback: u64,
    /// Answered by none.
    pub degraded: u64,
    /// Breakers that opened.
    pub breaker_opens: u64,
    /// Milestones that were done.
    pub milestones: u64,
    /// Milestones that were kept although some of their file agents failed.
    pub partial: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.executions += other.executions;
        self.primary += other.primary;
        self.fallback += other.fallback;
        self.degraded += other.degraded;
        self.breaker_opens += other.breaker_opens;
        self.milestones += other.milestones;
        self.partial += other.partial;
    }
}

/// Minutes of the sliding window.
const WINDOW_MINUTES: u64 = 60;

/// Counts since the store began, and of each of the last 60 minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    total: Counts,
    /// Minutes since 1970, ascending, only those in which something was counted; at most 60.
    minutes: Vec<(u64, Counts)>,
}

impl Rates {
    /// Counts something. `minute`: minutes since 1970; one that lies before the last (a clock set back) counts in the last.
    /// What is older than an hour by now moves to `history`.
    pub fn count(&mut self, minute: u64, what: &Counts, history: &mut History) {
        self.total.add(what);
        let last = self.minutes.last().map_or(0, |(last, _)| *last);
        let minute = minute.max(last);
        match self.minutes.last_mut().filter(|(last, _)| *last == minute) {
            Some((_, counts)) => counts.add(what),
            None => self.minutes.push((minute, *what)),
        }
        let n_over = self.minutes.partition_point(|(at, _)| at + WINDOW_MINUTES <= minute);
        for (at, counts) in self.minutes.drain(..n_over) {
            history.take(at, &counts);
        }
    }

    /// Since the store began.
    pub fn total(&self) -> Counts {
        self.total
    }

    /// Of the 60 minutes up to and with `minute`.
    pub fn last_hour(&self, minute: u64) -> Counts {
        let mut sum = Counts::default();
        for (_, counts) in self.minutes.iter().filter(|(at, _)| at + WINDOW_MINUTES > minute) {
            sum.add(counts);
        }
        sum
    }
}

/// How good a rate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well, or nothing was counted yet.
    Good,
    /// Worth a look.
    Warning,
    /// Somebody must act.
    Critical,
}

impl Level {
    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One of the five.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Executions answered by the first model, of all.
    PrimarySuccess,
    /// Executions answered by another, of all.
    Fallback,
    /// Executions answered by none, of all.
    Degradation,
    /// How many times a breaker opened: a number, no fraction.
    BreakerOpens,
    /// Partial milestones, of all.
    PartialSuccess,
}

impl Metric {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::PrimarySuccess, Self::Fallback, Self::Degradation, Self::BreakerOpens, Self::PartialSuccess];

    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PrimarySuccess => "primarySuccess",
            Self::Fallback => "fallback",
            Self::Degradation => "degradation",
            Self::BreakerOpens => "breakerOpens",
            Self::PartialSuccess => "partialSuccess",
        }
    }

    /// Numerator and denominator; the denominator is 0 while nothing was counted, and 1 for a plain number.
    pub fn fraction(self, counts: &Counts) -> (u64, u64) {
        match self {
            Self::PrimarySuccess => (counts.primary, counts.executions),
            Self::Fallback => (counts.fallback, counts.executions),
            Self::Degradation => (counts.degraded, counts.executions),
            Self::BreakerOpens => (counts.breaker_opens, 1),
            Self::PartialSuccess => (counts.partial, counts.milestones),
        }
    }

    /// SPEC 13's table: the bounds of `warning`, both included, the smaller first. In percent; of breaker opens, a number.
    pub fn bounds(self) -> (u64, u64) {
        match self {
            Self::PrimarySuccess => (70, 90),
            Self::Fallback => (10, 30),
            Self::Degradation => (5, 15),
            Self::BreakerOpens => (1, 3),
            Self::PartialSuccess => (10, 25),
        }
    }

    /// Whether it is good when it is high.
    pub fn more_is_better(self) -> bool {
        self == Self::PrimarySuccess
    }

    /// The level by SPEC 13's table, on exact fractions. Nothing counted is good.
    pub fn level(self, counts: &Counts) -> Level {
        let (part, all) = self.fraction(counts);
        if all == 0 {
            return Level::Good;
        }
        let scale = if self == Self::BreakerOpens { 1 } else { 100 };
        let against = |bound: u64| (u128::from(part) * scale).cmp(&(u128::from(all) * u128::from(bound)));
        let (low, high) = self.bounds();
        match (against(low), against(high), self.more_is_better()) {
            (Ordering::Less, _, true) | (_, Ordering::Greater, false) => Level::Critical,
            (Ordering::Less, _, false) | (_, Ordering::Greater, true) => Level::Good,
            (Ordering::Equal | Ordering::Greater, Ordering::Equal | Ordering::Less, _) => Level::Warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executions(primary: u64, fallback: u64, degraded: u64) -> Counts {
        Counts { executions: primary + fallback + degraded, primary, fallback, degraded, ..Counts::default() }
    }

    #[test]
    fn every_level_begins_where_the_table_says() {
        use Level::{Critical, Good, Warning};
        for (primary, level) in [(91, Good), (90, Warning), (70, Warning), (69, Critical)] {
            assert_eq!(Metric::PrimarySuccess.level(&executions(primary, 0, 100 - primary)), level, "{primary} %");
        }
        for (fallback, level) in [(9, Good), (10, Warning), (30, Warning), (31, Critical)] {
            assert_eq!(Metric::Fallback.level(&executions(100 - fallback, fallback, 0)), level, "{fallback} %");
        }
        for (degraded, level) in [(4, Good), (5, Warning), (15, Warning), (16, Critical)] {
            assert_eq!(Metric::Degradation.level(&executions(100 - degraded, 0, degraded)), level, "{degraded} %");
        }
        for (partial, level) in [(9, Good), (10, Warning), (25, Warning), (26, Critical)] {
            let counts = Counts { milestones: 100, partial, ..Counts::default() };
            assert_eq!(Metric::PartialSuccess.level(&counts), level, "{partial} %");
        }
        for (breaker_opens, level) in [(0, Good), (1, Warning), (3, Warning), (4, Critical)] {
            let counts = Counts { breaker_opens, ..Counts::default() };
            assert_eq!(Metric::BreakerOpens.level(&counts), level, "{breaker_opens} opens");
        }
    }

    #[test]
    fn what_is_older_than_an_hour_counts_only_in_the_total() {
        let mut rates = Rates::default();
        let mut history = History::default();
        rates.count(1000, &executions(1, 0, 0), &mut history);
        rates.count(1059, &executions(0, 1, 0), &mut history);
        assert_eq!(rates.last_hour(1059), executions(1, 1, 0));
        assert_eq!(rates.last_hour(1060), executions(0, 1, 0));
        rates.count(1060, &executions(0, 0, 1), &mut history);
        assert_eq!(rates.total(), executions(1, 1, 1));
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing_and_the_window_stays_bounded() {
        let mut rates = Rates::default();
        for minute in 0..500 {
            rates.count(minute, &executions(1, 0, 0), &mut History::default());
        }
        rates.count(3, &executions(0, 1, 0), &mut History::default());
        assert_eq!((rates.minutes.len(), rates.total().fallback, rates.last_hour(499).fallback), (60, 1, 1));
    }

    #[test]
    fn nothing_counted_is_good() {
        assert!(Metric::ALL.iter().all(|metric| metric.level(&Counts::default()) == Level::Good));
    }
}
