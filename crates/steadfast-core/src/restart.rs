//! How often an actor may be started again before it counts as failing for good (SPEC 2).

use std::collections::VecDeque;
use std::time::Duration;

/// Whether an actor that ended is started again.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Start it again.
    Again,
    /// It has ended too often lately.
    GiveUp,
}

/// Counts the restarts of one actor: at most `max_restarts` within any span of `restart_window`.
///
/// ```
/// use std::time::Duration;
/// use steadfast_core::restart::{Restart, RestartBudget};
///
/// let mut budget = RestartBudget::new(1, Duration::from_secs(60));
/// assert_eq!(budget.spend(Duration::from_secs(0)), Restart::Again);
/// assert_eq!(budget.spend(Duration::from_secs(59)), Restart::GiveUp);
/// assert_eq!(budget.spend(Duration::from_secs(60)), Restart::Again);
/// ```
#[derive(Debug, Clone)]
pub struct RestartBudget {
    max_restarts: u32,
    window: Duration,
    /// When it was started again, oldest first; at most `max_restarts`.
    spent: VecDeque<Duration>,
    latest: Duration,
}

impl RestartBudget {
    /// An unspent budget. `max_restarts` zero: the first end is the last.
    pub fn new(max_restarts: u32, restart_window: Duration) -> Self {
        Self { max_restarts, window: restart_window, spent: VecDeque::new(), latest: Duration::ZERO }
    }

    /// The actor ended at `now` (since any origin, the same in each call; a time before one already seen is taken for
    /// that one). A restart counts while its age is below the window. [`Restart::GiveUp`] spends nothing.
    pub fn spend(&mut self, now: Duration) -> Restart {
        self.latest = self.latest.max(now);
        let now = self.latest;
        while self.spent.front().is_some_and(|at| now - *at >= self.window) {
            self.spent.pop_front();
        }
        if self.spent.len() as u64 >= u64::from(self.max_restarts) {
            return Restart::GiveUp;
        }
        self.spent.push_back(now);
        Restart::Again
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn exactly_max_restarts_are_allowed_within_the_window() {
        let mut budget = RestartBudget::new(3, s(60));
        for now in [0, 1, 2] {
            assert_eq!(budget.spend(s(now)), Restart::Again, "{now}");
        }
        assert_eq!(budget.spend(s(3)), Restart::GiveUp);
    }

    #[test]
    fn a_restart_counts_until_it_is_as_old_as_the_window() {
        let mut budget = RestartBudget::new(1, s(60));
        assert_eq!(budget.spend(s(10)), Restart::Again);
        assert_eq!(budget.spend(s(70) - Duration::from_nanos(1)), Restart::GiveUp);
        assert_eq!(budget.spend(s(70)), Restart::Again);
    }

    #[test]
    fn giving_up_spends_nothing() {
        let mut budget = RestartBudget::new(1, s(60));
        assert_eq!(budget.spend(s(0)), Restart::Again);
        assert_eq!(budget.spend(s(59)), Restart::GiveUp);
        assert_eq!(budget.spend(s(60)), Restart::Again);
    }

    #[test]
    fn no_restarts_allowed_means_the_first_end_is_the_last() {
        assert_eq!(RestartBudget::new(0, s(60)).spend(s(1)), Restart::GiveUp);
    }

    #[test]
    fn a_window_of_zero_forgets_at_once() {
        let mut budget = RestartBudget::new(1, s(0));
        assert_eq!(budget.spend(s(1)), Restart::Again);
        assert_eq!(budget.spend(s(1)), Restart::Again);
    }

    #[test]
    fn a_clock_that_steps_back_is_taken_for_the_latest_time() {
        let mut budget = RestartBudget::new(1, s(60));
        assert_eq!(budget.spend(s(100)), Restart::Again);
        assert_eq!(budget.spend(s(5)), Restart::GiveUp);
        assert_eq!(budget.spend(s(160)), Restart::Again);
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_max_restarts(
            max in 0u32..5,
            window in 1u64..50,
            steps in prop::collection::vec(0u64..20, 0..200),
        ) {
            let mut budget = RestartBudget::new(max, s(window));
            let (mut now, mut again) = (0, Vec::new());
            for step in steps {
                now += step;
                let young = again.iter().filter(|at| now - **at < window).count();
                let expected = if young < max as usize { Restart::Again } else { Restart::GiveUp };
                prop_assert_eq!(budget.spend(s(now)), expected);
                if expected == Restart::Again {
                    again.push(now);
                }
            }
        }
    }
}
