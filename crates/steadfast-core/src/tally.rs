//! How a milestone went: one outcome for each file agent, and the verdict that follows (SPEC 6).

/// What came of one file agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOutcome {
    /// It did its part.
    Succeeded,
    /// It did not.
    Failed {
        /// For a person.
        reason: String,
    },
}

/// Whether an outcome was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is this file's outcome now.
    First,
    /// The file had one already; nothing changed.
    Repeated,
    /// There is no such place; nothing changed.
    Unknown,
}

/// SPEC 6's verdict on a milestone, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// All succeeded.
    Perfect,
    /// 67 to 99 %: kept, with a warning.
    Good,
    /// Enough, but below 67 %: kept, with caution.
    Acceptable,
    /// Below the least success rate: rolled back and tried again.
    TooLow,
}

/// The least fraction of file agents that must succeed, kept in millionths so that a verdict compares integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MinSuccessRate {
    millionths: u32,
}

const MILLION: u32 = 1_000_000;

impl MinSuccessRate {
    /// One half (SPEC 6's default).
    pub const HALF: Self = Self { millionths: MILLION / 2 };

    /// A fraction from 0 to 1, rounded to the nearest millionth; `None` for any other number and for none at all.
    pub fn from_fraction(fraction: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&fraction) {
            return None;
        }
        // In range, so the cast cuts nothing off.
        Some(Self { millionths: (fraction * f64::from(MILLION)).round() as u32 })
    }

    /// In millionths, 0 to 1,000,000.
    pub fn millionths(self) -> u32 {
        self.millionths
    }
}

impl Default for MinSuccessRate {
    fn default() -> Self {
        Self::HALF
    }
}

/// The outcomes of a milestone's file agents, in the order of the request.
///
/// ```
/// use steadfast_core::tally::{FileTally, MinSuccessRate, Verdict};
///
/// let mut tally = FileTally::new(3); // auth.js, users.js, posts.js
/// tally.succeed(0);
/// tally.fail(1, "timed out");
/// tally.succeed(2);
/// assert_eq!((tally.rate(), tally.percent()), ((2, 3), 67));
/// assert_eq!(tally.verdict(true, MinSuccessRate::HALF), Verdict::Good);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTally {
    /// `None`: not known yet.
    outcomes: Vec<Option<FileOutcome>>,
}

impl FileTally {
    /// A tally in which every file's outcome is missing. Zero files: nothing was asked for, so nothing can be missing,
    /// and the verdict is [`Verdict::Perfect`].
    pub fn new(n_files: usize) -> Self {
        Self { outcomes: vec![None; n_files] }
    }

    /// The file at this place (from 0, in the order of the request) is done.
    pub fn succeed(&mut self, place: usize) -> Recorded {
        self.record(place, FileOutcome::Succeeded)
    }

    /// The file at this place failed.
    pub fn fail(&mut self, place: usize, reason: &str) -> Recorded {
        self.record(place, FileOutcome::Failed { reason: reason.to_owned() })
    }

    fn record(&mut self, place: usize, outcome: FileOutcome) -> Recorded {
        match self.outcomes.get_mut(place) {
            Some(empty @ None) => {
                *empty = Some(outcome);
                Recorded::First
            }
            Some(Some(_)) => Recorded::Repeated,
            None => Recorded::Unknown,
        }
    }

    /// Turns every missing outcome into a failure: at a deadline nothing is left open.
    pub fn finish_missing(&mut self, reason: &str) {
        for outcome in &mut self.outcomes {
            outcome.get_or_insert_with(|| FileOutcome::Failed { reason: reason.to_owned() });
        }
    }

    /// Each file's outcome, in the order of the request; `None` where it is missing.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = Option<&FileOutcome>> {
        self.outcomes.iter().map(Option::as_ref)
    }

    /// The places whose outcome is missing, ascending.
    pub fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        self.outcomes.iter().enumerate().filter_map(|(at, outcome)| outcome.is_none().then_some(at))
    }

    /// Whether every file succeeded.
    pub fn is_complete(&self) -> bool {
        let (ok, all) = self.rate();
        ok == all
    }

    /// Files that succeeded, of all. A missing outcome is no success.
    pub fn rate(&self) -> (u32, u32) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ok = self.outcomes.iter().filter(|outcome| **outcome == Some(FileOutcome::Succeeded)).count();
        (count(ok), count(self.outcomes.len()))
    }

    /// The rate as a whole percentage, halves rounded up, 0 to 100; 100 for zero files. 100 does not mean all: 199 of 200
    /// is 99.5 %.
    pub fn percent(&self) -> u32 {
        let (ok, all) = self.rate();
        match u64::from(all) {
            0 => 100,
            // At most 100 for ok <= all, so it fits.
            all => ((200 * u64::from(ok) + all) / (2 * all)) as u32,
        }
    }

    /// The verdict as things stand. Whether it is enough is decided on the exact fraction, good and acceptable are told
    /// apart on [`FileTally::percent`]. `partial_success = false`: anything but all is too low.
    pub fn verdict(&self, partial_success: bool, least: MinSuccessRate) -> Verdict {
        let (ok, all) = self.rate();
        if ok == all {
            return Verdict::Perfect;
        }
        let enough = u64::from(ok) * u64::from(MILLION) >= u64::from(least.millionths) * u64::from(all);
        match (partial_success && enough, self.percent()) {
            (false, _) => Verdict::TooLow,
            (true, 67..) => Verdict::Good,
            (true, _) => Verdict::Acceptable,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tally(ok: usize, all: usize) -> FileTally {
        let mut tally = FileTally::new(all);
        for place in 0..all {
            if place < ok {
                tally.succeed(place)
            } else {
                tally.fail(place, "no")
            };
        }
        tally
    }

    fn verdict(ok: usize, all: usize) -> Verdict {
        tally(ok, all).verdict(true, MinSuccessRate::HALF)
    }

    #[test]
    fn the_three_agents_of_the_seed_are_good_enough() {
        // "Agent 1 ✅, Agent 2 ❌, Agent 3 ✅: 2/3 = 67%: continue".
        let mut seed = FileTally::new(3);
        assert_eq!(seed.succeed(0), Recorded::First);
        assert_eq!(seed.fail(1, "Timeout"), Recorded::First);
        assert_eq!(seed.succeed(2), Recorded::First);
        assert_eq!(seed.rate(), (2, 3));
        assert_eq!(seed.percent(), 67);
        assert_eq!(seed.verdict(true, MinSuccessRate::HALF), Verdict::Good);
    }

    #[test]
    fn half_the_agents_of_the_seed_are_acceptable() {
        // "if (successRate >= 0.5) accept partial results".
        assert_eq!(verdict(1, 2), Verdict::Acceptable);
    }

    #[test]
    fn one_agent_of_three_is_too_low_for_the_seed() {
        assert_eq!(verdict(1, 3), Verdict::TooLow);
    }

    #[test]
    fn each_threshold_holds_on_both_sides() {
        for (ok, all, percent, expected) in [
            (200, 200, 100, Verdict::Perfect),
            (199, 200, 100, Verdict::Good), // 99.5 % rounds up, and is not all.
            (198, 200, 99, Verdict::Good),
            (67, 100, 67, Verdict::Good),
            (133, 200, 67, Verdict::Good), // 66.5 %
            (132, 200, 66, Verdict::Acceptable),
            (83, 125, 66, Verdict::Acceptable), // 66.4 %
            (66, 100, 66, Verdict::Acceptable),
            (100, 200, 50, Verdict::Acceptable),
            (99, 199, 50, Verdict::TooLow), // 49.7 % is shown as 50 % and is below one half.
            (99, 200, 50, Verdict::TooLow),
            (0, 1, 0, Verdict::TooLow),
        ] {
            assert_eq!(tally(ok, all).percent(), percent, "{ok}/{all}");
            assert_eq!(verdict(ok, all), expected, "{ok}/{all}");
        }
    }

    #[test]
    fn another_least_rate_moves_the_lower_border_only() {
        let rate = |fraction| MinSuccessRate::from_fraction(fraction).unwrap();
        for (least, ok, all, expected) in [
            (0.3, 3, 10, Verdict::Acceptable),
            (0.3, 29, 100, Verdict::TooLow),
            (0.8, 8, 10, Verdict::Good),
            (0.8, 79, 100, Verdict::TooLow),
            (0.0, 0, 4, Verdict::Acceptable),
            (1.0, 199, 200, Verdict::TooLow),
            (1.0, 3, 3, Verdict::Perfect),
        ] {
            assert_eq!(tally(ok, all).verdict(true, rate(least)), expected, "{least} {ok}/{all}");
        }
    }

    #[test]
    fn without_partial_success_only_all_is_enough() {
        assert_eq!(tally(199, 200).verdict(false, MinSuccessRate::HALF), Verdict::TooLow);
        assert_eq!(tally(200, 200).verdict(false, MinSuccessRate::HALF), Verdict::Perfect);
    }

    #[test]
    fn a_milestone_without_files_is_perfect_and_no_division_by_zero() {
        let none = FileTally::new(0);
        assert_eq!((none.rate(), none.percent(), none.is_complete()), ((0, 0), 100, true));
        assert_eq!(none.verdict(true, MinSuccessRate::HALF), Verdict::Perfect);
        assert_eq!(none.verdict(false, MinSuccessRate::HALF), Verdict::Perfect);
    }

    #[test]
    fn a_second_result_changes_nothing() {
        let mut tally = FileTally::new(2);
        assert_eq!(tally.fail(0, "first"), Recorded::First);
        assert_eq!(tally.succeed(0), Recorded::Repeated);
        assert_eq!(tally.fail(0, "third"), Recorded::Repeated);
        assert_eq!(tally.succeed(2), Recorded::Unknown);
        let failed = FileOutcome::Failed { reason: "first".to_owned() };
        assert_eq!(tally.outcomes().collect::<Vec<_>>(), [Some(&failed), None]);
    }

    #[test]
    fn what_is_missing_at_the_deadline_fails_with_that_reason() {
        let mut tally = FileTally::new(3);
        tally.succeed(1);
        assert_eq!(tally.missing().collect::<Vec<_>>(), [0, 2]);
        tally.finish_missing("deadline");
        let failed = FileOutcome::Failed { reason: "deadline".to_owned() };
        let expected = [Some(&failed), Some(&FileOutcome::Succeeded), Some(&failed)];
        assert_eq!(tally.outcomes().collect::<Vec<_>>(), expected);
        assert_eq!(tally.succeed(0), Recorded::Repeated);
    }

    #[test]
    fn a_least_rate_is_a_number_from_zero_to_one() {
        for (fraction, millionths) in [(0.0, 0), (0.5, 500_000), (0.67, 670_000), (1.0, 1_000_000)] {
            let rate = MinSuccessRate::from_fraction(fraction).map(MinSuccessRate::millionths);
            assert_eq!(rate, Some(millionths), "{fraction}");
        }
        for fraction in [-0.1, 1.000_1, f64::NAN, f64::INFINITY] {
            assert_eq!(MinSuccessRate::from_fraction(fraction), None, "{fraction}");
        }
    }

    proptest! {
        #[test]
        fn each_file_keeps_its_first_outcome(
            all in 0usize..8,
            reports in prop::collection::vec((0usize..9, any::<bool>()), 0..40),
        ) {
            let mut tally = FileTally::new(all);
            let mut first = vec![None; all];
            for (place, ok) in reports {
                let got = if ok { tally.succeed(place) } else { tally.fail(place, "no") };
                let expected = match first.get_mut(place) {
                    None => Recorded::Unknown,
                    Some(Some(_)) => Recorded::Repeated,
                    Some(empty) => { *empty = Some(ok); Recorded::First }
                };
                prop_assert_eq!(got, expected);
            }
            let ok = first.iter().filter(|outcome| **outcome == Some(true)).count();
            prop_assert_eq!(tally.rate(), (ok as u32, all as u32));
            tally.finish_missing("deadline");
            prop_assert_eq!(tally.rate(), (ok as u32, all as u32));
            prop_assert_eq!(tally.missing().count(), 0);
        }

        #[test]
        fn the_verdict_follows_the_exact_fraction(ok in 0usize..300, rest in 0usize..300, least in 0u32..=100) {
            let all = ok + rest;
            let rate = MinSuccessRate::from_fraction(f64::from(least) / 100.0).unwrap();
            let verdict = tally(ok, all).verdict(true, rate);
            prop_assert_eq!(verdict == Verdict::Perfect, rest == 0);
            prop_assert_eq!(verdict == Verdict::TooLow, rest > 0 && ok * 100 < least as usize * all);
            // 66.5 % and more is shown as 67 %.
            let good = verdict == Verdict::Good;
            prop_assert_eq!(good, rest > 0 && verdict != Verdict::TooLow && ok * 1000 >= 665 * all);
        }

        #[test]
        fn one_more_success_never_makes_the_verdict_worse(ok in 0usize..100, rest in 1usize..100) {
            prop_assert!(verdict(ok + 1, ok + rest) <= verdict(ok, ok + rest));
        }
    }
}
