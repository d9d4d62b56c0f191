//! The walk, rule by rule.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::fault::{CallFault, Fault, NetworkFault};
use crate::ids::ModelId;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// SPEC 4's defaults without patience.
fn policy() -> Policy {
    Policy { outage_patience: Duration::ZERO, ..Policy::default() }
}

fn patient() -> Policy {
    Policy::default()
}

fn once() -> Policy {
    Policy { max_retries: NonZeroU32::MIN, ..policy() }
}

/// An execution over models with these windows, and the time at which it stands.
struct Walk {
    execution: Execution,
    now: Duration,
}

impl Walk {
    fn over(windows: &[Option<u32>], policy: Policy) -> Self {
        let candidates = windows.iter().enumerate().map(|(index, window)| Candidate {
            model: ModelId::new(&format!("p/{index}")).unwrap(),
            context_window: *window,
        });
        Self { execution: Execution::new(candidates.collect(), policy), now: s(0) }
    }

    fn of(n: usize, policy: Policy) -> Self {
        Self::over(&vec![None; n], policy)
    }

    fn next(&mut self) -> Step {
        let step = self.execution.next(self.now);
        assert_eq!(self.execution.next(self.now), step, "asking again brings the same step");
        step
    }

    /// The next step is to ask this model, without a pause.
    fn asks(&mut self, index: usize, how: Ask) -> &mut Self {
        assert_eq!(self.next(), Step::Ask { index, how });
        self
    }

    fn plain(&mut self, index: usize) -> &mut Self {
        self.asks(index, Ask::Plain)
    }

    /// The next step is a pause of this length; it passes.
    fn pauses(&mut self, length: Duration, why: Pause) -> &mut Self {
        let until = self.now + length;
        assert_eq!(self.next(), Step::Pause { until, why });
        self.now = until;
        self
    }

    fn waits(&mut self, seconds: u64) -> &mut Self {
        self.pauses(s(seconds), Pause::Backoff)
    }

    fn exhausted(&mut self) {
        assert_eq!(self.next(), Step::Exhausted);
    }

    fn fails_open(&mut self, index: usize, fault: Fault, retry_in: Option<Duration>) -> &mut Self {
        self.execution.failed(index, &CallFault::new(fault, "no"), false, retry_in, self.now);
        self
    }

    fn fails(&mut self, index: usize, fault: Fault) -> &mut Self {
        self.fails_open(index, fault, None)
    }

    fn network_fails(&mut self, index: usize) -> &mut Self {
        let fault = CallFault::new(Fault::Network(NetworkFault::Unreachable), "no route");
        self.execution.failed(index, &fault, true, None, self.now);
        self
    }

    fn refuses(&mut self, index: usize, retry_in: u64) -> &mut Self {
        self.execution.refused(index, Refused::Open { retry_in: s(retry_in) }, self.now);
        self
    }

    fn unavailable(&mut self, index: usize) -> &mut Self {
        let reason = "no key".to_owned();
        self.execution.refused(index, Refused::Unavailable { reason }, self.now);
        self
    }
}

fn repair() -> Ask {
    Ask::Repair { problem: "no".to_owned() }
}

#[test]
fn the_seeds_example_falls_back_after_a_timeout() {
    let mut walk = Walk::of(3, policy());
    walk.plain(0);
    walk.now += s(300);
    walk.fails(0, Fault::TimedOut).waits(1).plain(1);
    assert!(!walk.execution.fallback());
    walk.execution.answered(1);
    assert!(walk.execution.fallback());
    walk.exhausted();
}

#[test]
fn an_answer_of_the_first_model_is_no_fallback() {
    let mut walk = Walk::of(3, policy());
    walk.execution.answered(0);
    assert!(!walk.execution.fallback());
}

#[test]
fn the_seeds_waits_double_over_the_whole_execution() {
    let mut walk = Walk::of(3, policy());
    walk.plain(0).fails(0, Fault::Unavailable).waits(1);
    walk.plain(1).fails(1, Fault::Unavailable).waits(2);
    walk.plain(2).fails(2, Fault::Unavailable).waits(4);
    walk.plain(0).fails(0, Fault::Unavailable).waits(8);
    walk.plain(1);
}

#[test]
fn the_wait_is_capped() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MAX, ..policy() });
    let waits = [1, 2, 4, 8, 16, 32, 60, 60];
    for wait in waits.into_iter().chain(std::iter::repeat_n(60, 100)) {
        walk.plain(0).fails(0, Fault::Unavailable).waits(wait);
    }
}

#[test]
fn each_model_has_at_most_max_retries_attempts_in_rounds() {
    let mut walk = Walk::of(2, Policy { backoff_initial: s(0), ..policy() });
    for _ in 0..3 {
        walk.plain(0).fails(0, Fault::Unavailable);
        walk.plain(1).fails(1, Fault::Unavailable);
    }
    walk.exhausted();
}

#[test]
fn without_candidates_it_is_exhausted() {
    Walk::of(0, patient()).exhausted();
}

#[test]
fn a_refused_call_costs_no_pause_and_no_attempt() {
    let mut walk = Walk::of(3, once());
    walk.plain(0).refuses(0, 30);
    walk.plain(1).fails(1, Fault::Unavailable).waits(1);
    walk.plain(2).refuses(2, 30);
    // Model 0 was refused before the last attempt; its breaker is asked anew.
    walk.plain(0).fails(0, Fault::Unavailable).waits(2);
    walk.plain(2).refuses(2, 30).exhausted();
}

#[test]
fn when_all_refuse_it_is_exhausted_without_asking_twice() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).refuses(0, 30).plain(1).refuses(1, 30).exhausted();
}

#[test]
fn a_model_that_cannot_be_called_is_out() {
    let mut walk = Walk::of(2, patient());
    walk.plain(0).unavailable(0);
    walk.plain(1).fails(1, Fault::Unavailable).waits(1);
    walk.plain(1).fails(1, Fault::Unavailable).waits(2);
    walk.plain(1).fails(1, Fault::Unavailable).exhausted();
}

#[test]
fn what_cannot_improve_is_out_for_this_execution() {
    for fault in
        [Fault::BadRequest, Fault::Denied, Fault::QuotaExhausted, Fault::Tls, Fault::Filtered, Fault::ContextTooLong]
    {
        let mut walk = Walk::of(2, patient());
        // Even a test that falls due soon is none for this question.
        walk.plain(0).fails_open(0, fault, Some(s(5))).waits(1);
        walk.plain(1).fails(1, Fault::Unavailable).waits(2);
        walk.plain(1).fails(1, Fault::Unavailable).waits(4);
        walk.plain(1).fails(1, Fault::Unavailable).exhausted();
    }
}

#[test]
fn a_rate_limit_with_a_time_goes_on_at_once_and_not_to_the_same_model() {
    let limited = Fault::RateLimited { retry_after: Some(s(30)) };
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, limited.clone());
    walk.plain(1).fails(1, Fault::Unavailable).waits(2);
    walk.plain(1).fails(1, limited).exhausted();
}

#[test]
fn a_rate_limit_with_a_time_is_over_when_its_breaker_says_so() {
    let mut walk = Walk::of(1, patient());
    let limited = Fault::RateLimited { retry_after: Some(s(90)) };
    walk.plain(0).fails_open(0, limited, Some(s(90)));
    walk.pauses(s(90), Pause::BreakerTest { index: 0 }).plain(0);
}

#[test]
fn a_timed_out_model_is_asked_once_more_in_a_later_round() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, Fault::TimedOut).waits(1);
    walk.plain(1).fails(1, Fault::Unavailable).waits(2);
    walk.plain(0).fails(0, Fault::TimedOut).waits(4);
    walk.plain(1).fails(1, Fault::Unavailable).waits(8);
    walk.plain(1).fails(1, Fault::Unavailable).exhausted();
}

#[test]
fn a_useless_answer_is_mended_once_at_once() {
    let mut walk = Walk::of(2, patient());
    assert!(!walk.execution.bad_answer_counted(0));
    walk.plain(0).fails(0, Fault::BadAnswer);
    assert!(walk.execution.bad_answer_counted(0) && !walk.execution.bad_answer_counted(1));
    walk.asks(0, repair()).fails_open(0, Fault::BadAnswer, Some(s(5))).waits(2);
    walk.plain(1).fails(1, Fault::Denied).exhausted();
}

#[test]
fn a_cut_answer_is_asked_for_once_more_with_a_higher_limit() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, Fault::Truncated);
    walk.asks(0, Ask::HigherLimit).fails(0, Fault::Truncated).waits(2);
    walk.plain(1);
}

#[test]
fn a_mended_answer_may_still_be_cut_once() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, Fault::BadAnswer);
    walk.asks(0, repair()).fails(0, Fault::Truncated);
    walk.asks(0, Ask::HigherLimit).fails(0, Fault::BadAnswer).waits(4);
    walk.plain(1);
}

#[test]
fn mending_counts_as_an_attempt() {
    let mut walk = Walk::of(2, once());
    walk.plain(0).fails(0, Fault::BadAnswer).waits(1);
    walk.plain(1).fails(1, Fault::Truncated).exhausted();
}

#[test]
fn a_repair_that_is_refused_or_does_not_get_through_is_still_owed() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, Fault::BadAnswer);
    walk.asks(0, repair()).refuses(0, 60).waits(1);
    walk.plain(1).fails(1, Fault::Unavailable).waits(2);
    walk.asks(0, repair()).fails(0, Fault::Unavailable).waits(4);
    walk.plain(1).fails(1, Fault::Unavailable).waits(8);
    walk.asks(0, repair());
}

#[test]
fn too_long_a_prompt_goes_to_a_larger_window_first() {
    let k = |n: u32| Some(n * 1024);
    let mut walk = Walk::over(&[k(8), None, k(4), k(16), k(128)], policy());
    walk.plain(0).fails(0, Fault::ContextTooLong).waits(1);
    walk.plain(3).fails(3, Fault::ContextTooLong).waits(2);
    walk.plain(4).fails(4, Fault::Unavailable).waits(4);
    // No larger one is left: on in order.
    walk.plain(1).fails(1, Fault::ContextTooLong).waits(8);
    walk.plain(2).fails(2, Fault::ContextTooLong).waits(16);
    walk.plain(4);
}

#[test]
fn the_next_round_goes_in_order_again() {
    let mut walk = Walk::over(&[Some(8), Some(4), Some(16)], Policy { backoff_initial: s(0), ..policy() });
    walk.plain(0).fails(0, Fault::ContextTooLong).plain(2).fails(2, Fault::Unavailable);
    walk.plain(1).fails(1, Fault::Unavailable).plain(1);
}

#[test]
fn a_larger_window_that_refuses_is_passed_over() {
    let mut walk = Walk::over(&[Some(8), Some(4), Some(16), Some(32)], policy());
    walk.plain(0).fails(0, Fault::ContextTooLong).waits(1);
    walk.plain(2).refuses(2, 60).plain(3).unavailable(3).plain(1);
}

#[test]
fn a_window_that_is_not_known_gives_no_preference() {
    let mut walk = Walk::over(&[None, Some(4), Some(16)], policy());
    walk.plain(0).fails(0, Fault::ContextTooLong).waits(1).plain(1);
}

#[test]
fn the_providers_word_goes_before_the_table() {
    let mut word = CallFault::new(Fault::Unavailable, "busy");
    word.should_retry = Some(false);
    let mut walk = Walk::of(1, patient());
    walk.plain(0);
    walk.execution.failed(0, &word, false, Some(s(5)), walk.now);
    walk.exhausted();

    word = CallFault::new(Fault::BadRequest, "try again");
    word.should_retry = Some(true);
    let mut walk = Walk::of(1, policy());
    walk.plain(0);
    walk.execution.failed(0, &word, false, None, walk.now);
    walk.waits(1).plain(0);
}

#[test]
fn our_own_network_is_waited_for_and_costs_no_attempts() {
    let mut walk = Walk::of(2, once());
    let down = Pause::OwnNetworkDown;
    for (index, wait) in [(0, 1), (1, 2), (0, 4), (1, 8), (0, 16), (1, 32), (0, 60), (1, 60)] {
        walk.plain(index).network_fails(index).pauses(s(wait), down);
    }
    // The network is back; nothing was spent meanwhile, and the backoff begins anew.
    walk.plain(0).fails(0, Fault::Unavailable).waits(1);
    walk.plain(1).network_fails(1).pauses(s(1), down);
    walk.plain(1).fails(1, Fault::Unavailable).exhausted();
}

#[test]
fn our_own_network_never_exhausts_an_execution() {
    let mut walk = Walk::of(3, policy());
    for _ in 0..1000 {
        let Step::Ask { index, .. } = walk.next() else { panic!("not an ask") };
        walk.network_fails(index);
        let Step::Pause { until, why: Pause::OwnNetworkDown } = walk.next() else { panic!("no pause") };
        walk.now = until;
    }
}

#[test]
fn patience_waits_for_the_earliest_test_and_asks_beyond_max_retries() {
    let mut walk = Walk::of(2, Policy { max_retries: NonZeroU32::MIN, ..patient() });
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60))).waits(1);
    walk.plain(1).fails_open(1, Fault::Unavailable, Some(s(30)));
    walk.pauses(s(30), Pause::BreakerTest { index: 1 }).plain(1);
    walk.fails_open(1, Fault::Unavailable, Some(s(60)));
    walk.pauses(s(29), Pause::BreakerTest { index: 0 }).plain(0);
    walk.execution.answered(0);
    assert!(!walk.execution.fallback());
}

#[test]
fn patience_counts_from_when_nothing_was_left() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MIN, outage_patience: s(100), ..patient() });
    walk.now = s(1000);
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60)));
    walk.pauses(s(60), Pause::BreakerTest { index: 0 }).plain(0);
    // The next test would be due at 1,120 s; the patience ends at 1,100 s.
    walk.fails_open(0, Fault::Unavailable, Some(s(60))).exhausted();
}

#[test]
fn a_test_that_is_due_when_the_patience_ends_is_still_made() {
    let policy = Policy { outage_patience: s(60), ..patient() };
    let mut walk = Walk::of(1, policy);
    walk.plain(0).refuses(0, 60).pauses(s(60), Pause::BreakerTest { index: 0 });
    walk.now += Duration::from_millis(3); // Timers wake late.
    walk.plain(0).refuses(0, 60).exhausted();
}

#[test]
fn a_test_beyond_the_patience_is_not_waited_for() {
    let mut walk = Walk::of(1, Policy { outage_patience: s(60), ..patient() });
    walk.plain(0).refuses(0, 61).exhausted();
}

#[test]
fn a_spent_model_whose_breaker_is_closed_has_no_test_to_wait_for() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MIN, ..patient() });
    walk.plain(0).fails(0, Fault::Unavailable).exhausted();
}

#[test]
fn a_model_that_has_recovered_is_asked_at_once() {
    let mut walk = Walk::of(2, patient());
    walk.plain(0).refuses(0, 60).plain(1).refuses(1, 90);
    assert_eq!(walk.next(), Step::Pause { until: s(60), why: Pause::BreakerTest { index: 0 } });
    walk.now = s(10);
    walk.execution.recovered(1, walk.now);
    walk.plain(1);
}

#[test]
fn a_spent_model_that_has_recovered_is_asked_at_once_and_once() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MIN, ..patient() });
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60)));
    walk.execution.recovered(0, walk.now);
    walk.plain(0).fails(0, Fault::Unavailable).exhausted();
}

#[test]
fn a_recovery_of_a_model_that_was_not_believed_open_changes_nothing() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MIN, ..patient() });
    walk.plain(0).fails(0, Fault::Unavailable);
    walk.execution.recovered(0, walk.now);
    walk.exhausted();
}

#[test]
fn a_model_that_is_back_gets_its_second_chance_at_a_cut_answer() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MIN, ..patient() });
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60)));
    walk.pauses(s(60), Pause::BreakerTest { index: 0 }).plain(0);
    walk.fails(0, Fault::Truncated).asks(0, Ask::HigherLimit);
    walk.fails(0, Fault::Truncated).exhausted();
}

#[test]
fn a_test_whose_failure_says_nothing_is_repeated_after_the_backoff() {
    let mut walk = Walk::of(1, Policy { max_retries: NonZeroU32::MIN, ..patient() });
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60)));
    let test = Pause::BreakerTest { index: 0 };
    walk.pauses(s(60), test).plain(0).fails_open(0, Fault::Conflict, Some(s(0)));
    walk.pauses(s(2), test).plain(0).fails_open(0, Fault::Conflict, Some(s(0)));
    walk.pauses(s(4), test).plain(0);
}

#[test]
fn a_breaker_that_never_rests_does_not_make_an_execution_spin() {
    let shortest = Duration::from_millis(100);
    let policy = Policy { max_retries: NonZeroU32::MIN, outage_patience: s(1), ..patient() };
    let mut walk = Walk::of(1, policy);
    for _ in 0..5 {
        walk.plain(0).refuses(0, 0).pauses(shortest, Pause::BreakerTest { index: 0 });
    }
    for _ in 0..5 {
        walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(0)));
        walk.pauses(shortest, Pause::BreakerTest { index: 0 });
    }
    walk.plain(0).refuses(0, 0).exhausted();
}

#[test]
fn our_own_network_going_down_begins_the_patience_anew() {
    let policy = Policy { max_retries: NonZeroU32::MIN, outage_patience: s(100), ..patient() };
    let mut walk = Walk::of(1, policy);
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60)));
    walk.pauses(s(60), Pause::BreakerTest { index: 0 });
    for wait in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        walk.plain(0).network_fails(0).pauses(s(wait), Pause::OwnNetworkDown);
    }
    walk.plain(0).fails_open(0, Fault::Unavailable, Some(s(60)));
    walk.pauses(s(60), Pause::BreakerTest { index: 0 }).plain(0);
}

#[test]
fn saved_attempts_are_replayed_and_the_walk_goes_on_behind_them() {
    let mut walk = Walk::of(2, policy());
    walk.fails(0, Fault::Unavailable).fails(1, Fault::Denied).fails(0, Fault::BadAnswer);
    assert!(walk.execution.bad_answer_counted(0));
    walk.asks(0, repair()).fails(0, Fault::Unavailable).exhausted();
}

#[test]
fn an_attempt_that_we_gave_up_counts_and_comes_back_in_a_later_round() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, Fault::Cancelled).waits(1);
    walk.plain(1).fails(1, Fault::Unavailable).waits(2).plain(0);
}

#[test]
fn a_fault_of_a_model_that_was_never_called_is_a_refusal() {
    let mut walk = Walk::of(2, policy());
    walk.plain(0).fails(0, Fault::Uncallable).plain(1);
}

#[test]
fn reports_about_a_model_that_is_not_there_change_nothing() {
    let mut walk = Walk::of(1, policy());
    walk.fails(7, Fault::Unavailable).refuses(7, 1).plain(0);
    walk.execution.recovered(7, s(0));
    assert!(!walk.execution.bad_answer_counted(7));
}

#[test]
fn a_clock_that_steps_back_shortens_no_pause_and_adds_none() {
    let mut walk = Walk::of(1, policy());
    walk.now = s(100);
    walk.plain(0).fails(0, Fault::Unavailable);
    let paused = Step::Pause { until: s(101), why: Pause::Backoff };
    assert_eq!(walk.execution.next(s(5)), paused);
    walk.execution.failed(0, &CallFault::new(Fault::Unavailable, "no"), false, None, s(5));
    let paused = Step::Pause { until: s(102), why: Pause::Backoff };
    assert_eq!(walk.execution.next(s(5)), paused);
}
