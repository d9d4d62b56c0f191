//! The rates of a day, for a chart: what [`Rates`] lets go of after an hour is kept in spans of five minutes.

use serde::{Deserialize, Serialize};

use super::{Counts, Rates, WINDOW_MINUTES};

/// Minutes of a span: fine enough for a chart of a day, and a day of them is a record of some 16 KiB.
const SPAN_MINUTES: u64 = 5;
/// A day, and the hour that the first point of a chart looks back on.
const KEPT_MINUTES: u64 = 25 * 60;
/// What a chart shows.
const SHOWN_MINUTES: u64 = 24 * 60;

/// Counts of the last day, without those that [`Rates`] still has by the minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The first minute of each span (minutes since 1970) and its counts, ascending; only those in which something was
    /// counted; at most 300.
    spans: Vec<(u64, Counts)>,
}

/// A point of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hour {
    /// Its last minute (minutes since 1970).
    pub until: u64,
    /// What was counted in the 60 minutes up to and with that one.
    pub counts: Counts,
}

impl History {
    /// Takes over a minute that is older than an hour.
    pub(super) fn take(&mut self, minute: u64, counts: &Counts) {
        let start = minute - minute % SPAN_MINUTES;
        match self.spans.last_mut().filter(|(last, _)| *last >= start) {
            Some((_, span)) => span.add(counts),
            None => self.spans.push((start, *counts)),
        }
        let n_over = self.spans.partition_point(|(at, _)| at + KEPT_MINUTES <= start);
        self.spans.drain(..n_over);
    }

    /// The sliding hour over the last day, oldest first: every five minutes, and by the minute in the hour up to `minute`, where
    /// the last point is exactly [`Rates::last_hour`]. Points that look back on no count at all are left out, but for the last.
    pub fn hours(&self, rates: &Rates, minute: u64) -> Vec<Hour> {
        let fine_from = minute.saturating_sub(WINDOW_MINUTES - 1);
        // A point between two spans sees whole spans only.
        let coarse =
            (minute.saturating_sub(SHOWN_MINUTES)..fine_from).filter(|at| (at + 1).is_multiple_of(SPAN_MINUTES));
        let mut hours = Vec::new();
        for until in coarse.chain(fine_from..=minute) {
            let mut counts = Counts::default();
            let within = |at: u64| at + WINDOW_MINUTES > until && at <= until;
            for (_, some) in self.spans.iter().chain(&rates.minutes).filter(|(at, _)| within(*at)) {
                counts.add(some);
            }
            if counts != Counts::default() || until == minute {
                hours.push(Hour { until, counts });
            }
        }
        hours
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::Metric;

    fn answered(primary: u64, fallback: u64) -> Counts {
        Counts { executions: primary + fallback, primary, fallback, ..Counts::default() }
    }

    /// One good answer a minute for two days, from minute 0.
    fn two_days() -> (Rates, History) {
        let (mut rates, mut history) = (Rates::default(), History::default());
        for minute in 0..2 * SHOWN_MINUTES {
            rates.count(minute, &answered(1, 0), &mut history);
        }
        (rates, history)
    }

    #[test]
    fn a_steady_day_is_a_steady_line_and_its_record_stays_bounded() {
        let (rates, history) = two_days();
        let hours = history.hours(&rates, 2 * SHOWN_MINUTES - 1);
        assert_eq!(hours.len(), 60 + (SHOWN_MINUTES as usize - 60) / 5 + 1);
        assert!(hours.windows(2).all(|two| two[0].until < two[1].until));
        // Between the spans and the minutes a point may see up to four minutes less.
        assert!(hours.iter().all(|hour| (56..=60).contains(&hour.counts.executions)), "{hours:?}");
        assert!(history.spans.len() <= 300, "{}", history.spans.len());
    }

    #[test]
    fn the_last_point_is_the_last_hour_as_the_status_shows_it() {
        let (mut rates, mut history) = two_days();
        let now = 2 * SHOWN_MINUTES + 7;
        rates.count(now, &answered(0, 5), &mut history);
        assert_eq!(history.hours(&rates, now).last().unwrap().counts, rates.last_hour(now));
        let later = now + 3 * WINDOW_MINUTES;
        assert_eq!(
            history.hours(&rates, later).last(),
            Some(&Hour { until: later, counts: Counts::default() }),
            "an hour in which nothing happened"
        );
    }

    #[test]
    fn what_an_hour_showed_is_still_there_as_a_point_of_the_day() {
        let (mut rates, mut history) = (Rates::default(), History::default());
        rates.count(1000, &answered(1, 1), &mut history);
        // Long after, something is counted again, and the old minute moves to the spans.
        rates.count(1300, &answered(1, 0), &mut history);
        assert_eq!(rates.last_hour(1300), answered(1, 0));
        let hours = history.hours(&rates, 1300);
        let then: Vec<&Hour> = hours.iter().filter(|hour| hour.until < 1100).collect();
        assert_eq!((then.first().unwrap().until, then.last().unwrap().until), (1004, 1059));
        assert!(then.iter().all(|hour| Metric::Fallback.fraction(&hour.counts) == (1, 2)));
    }

    #[test]
    fn a_clock_that_is_set_back_adds_to_the_newest_span() {
        let (mut rates, mut history) = two_days();
        let n_spans = history.spans.len();
        history.take(3, &answered(0, 7));
        assert_eq!(history.spans.len(), n_spans);
        rates.count(2 * SHOWN_MINUTES, &answered(1, 0), &mut history);
        assert!(history.spans.windows(2).all(|two| two[0].0 < two[1].0));
    }
}
