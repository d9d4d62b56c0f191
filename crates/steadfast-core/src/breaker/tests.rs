//! SPEC 3, sentence by sentence.

use super::simulate::{Got, Op, Step, run};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Threshold 3, 60 s open, 5 min window: the failover's defaults. The lease is 20 s, so that it differs from the rest.
fn config() -> BreakerConfig {
    BreakerConfig { failure_threshold: NonZeroU32::new(3).unwrap(), probe_lease: s(20), ..BreakerConfig::default() }
}

fn breaker() -> Breaker {
    Breaker::new(config())
}

fn admit(breaker: &mut Breaker, now: Duration) -> CallTicket {
    match breaker.admit(now) {
        Admission::Admit(ticket) => ticket,
        Admission::Refuse(refusal) => panic!("refused: {refusal:?}"),
    }
}

fn refused(breaker: &mut Breaker, now: Duration) -> Refusal {
    match breaker.admit(now) {
        Admission::Admit(ticket) => panic!("admitted: {ticket:?}"),
        Admission::Refuse(refusal) => refusal,
    }
}

fn fail(breaker: &mut Breaker, now: Duration) -> Option<Transition> {
    let call = admit(breaker, now);
    breaker.record(call, CallOutcome::Failure, now)
}

/// Opened at `now` by three failures.
fn opened(now: Duration) -> Breaker {
    let mut breaker = breaker();
    assert_eq!((fail(&mut breaker, now), fail(&mut breaker, now)), (None, None));
    let tripped = Some(Transition { from: State::Closed, to: State::Open });
    assert_eq!(fail(&mut breaker, now), tripped);
    breaker
}

/// Opened at 0 s, with its test let through at 60 s.
fn half_open() -> (Breaker, CallTicket) {
    let mut breaker = opened(s(0));
    let test = admit(&mut breaker, s(60));
    assert_eq!(breaker.state(), State::HalfOpen);
    (breaker, test)
}

#[test]
fn the_seeds_timeline_comes_out_as_the_seed_says() {
    let at = |minutes: u64, seconds: u64, op| Step { at: s(minutes * 60 + seconds), op };
    let mut steps = Vec::new();
    for (request, second) in [(1, 0), (2, 5), (3, 10), (4, 15), (5, 20)] {
        steps.push(at(0, second, Op::Acquire(format!("request {request}"))));
        steps.push(at(0, second, Op::Failure(format!("request {request}"))));
    }
    steps.push(at(0, 20, Op::Acquire("request 6".to_owned())));
    steps.push(at(0, 30, Op::Acquire("request 7".to_owned())));
    steps.push(at(1, 20, Op::Acquire("request 8".to_owned())));
    steps.push(at(1, 20, Op::Success("request 8".to_owned())));
    steps.push(at(1, 25, Op::Acquire("request 9".to_owned())));

    let got = run(BreakerConfig::default(), &steps);
    let shown: Vec<String> = got.iter().map(|got| got.status.to_string()).collect();
    let expected = [
        "CLOSED",
        "MONITORING (1/5)",
        "MONITORING (1/5)",
        "MONITORING (2/5)",
        "MONITORING (2/5)",
        "MONITORING (3/5)",
        "MONITORING (3/5)",
        "MONITORING (4/5)",
        "MONITORING (4/5)",
        "OPEN",
        "OPEN",
        "OPEN",
        "HALF-OPEN",
        "CLOSED",
        "CLOSED",
    ];
    assert_eq!(shown, expected);
    let admitted: Vec<bool> = got.iter().filter_map(|got| got.admitted).collect();
    assert_eq!(admitted, [true, true, true, true, true, false, false, true, true]);
}

#[test]
fn the_defaults_and_presets_are_the_specifications() {
    let of = |config: BreakerConfig| (config.failure_threshold.get(), config.reset_timeout, config.monitoring_period);
    assert_eq!(of(BreakerConfig::default()), (5, s(60), s(300)));
    assert_eq!(of(BreakerConfig::aggressive()), (2, s(30), s(300)));
    assert_eq!(of(BreakerConfig::conservative()), (10, s(300), s(300)));
    assert_eq!(BreakerConfig::default().max_open, s(3600));
    assert_eq!(BreakerConfig::aggressive().probe_lease, s(30));
}

#[test]
fn closed_lets_every_call_through() {
    let mut breaker = breaker();
    for _ in 0..1000 {
        admit(&mut breaker, s(0));
    }
    assert_eq!(breaker.counters().admitted, 1000);
    assert_eq!(breaker.retry_in(s(0)), None);
}

#[test]
fn a_failure_counts_while_it_is_younger_than_the_monitoring_period() {
    let mut breaker = breaker();
    fail(&mut breaker, s(10));
    assert_eq!(breaker.status(s(310) - MS).to_string(), "MONITORING (1/3)");
    assert_eq!(breaker.status(s(310)).to_string(), "CLOSED");
    fail(&mut breaker, s(20));
    assert_eq!(fail(&mut breaker, s(310)), None, "the first is too old for the third to open it");
    assert_eq!(breaker.status(s(310)).to_string(), "MONITORING (2/3)");
}

#[test]
fn a_failure_has_the_time_at_which_it_was_reported() {
    let mut breaker = breaker();
    let slow = admit(&mut breaker, s(0));
    breaker.record(slow, CallOutcome::Failure, s(299));
    assert_eq!(breaker.status(s(598)).to_string(), "MONITORING (1/3)");
}

#[test]
fn the_failure_that_reaches_the_threshold_opens_it() {
    let breaker = opened(s(1));
    assert_eq!((breaker.state(), breaker.opens()), (State::Open, 1));
}

#[test]
fn a_threshold_of_one_opens_at_the_first_failure() {
    let mut breaker = Breaker::new(BreakerConfig { failure_threshold: NonZeroU32::MIN, ..config() });
    assert!(fail(&mut breaker, s(0)).is_some());
}

#[test]
fn a_success_does_not_clear_the_count() {
    let mut breaker = breaker();
    fail(&mut breaker, s(0));
    fail(&mut breaker, s(1));
    let call = admit(&mut breaker, s(2));
    assert_eq!(breaker.record(call, CallOutcome::Success, s(2)), None);
    assert_eq!(breaker.status(s(2)).to_string(), "MONITORING (2/3)");
}

#[test]
fn the_status_decays_without_any_call() {
    let mut breaker = breaker();
    fail(&mut breaker, s(0));
    fail(&mut breaker, s(100));
    let shown = |now| breaker.status(s(now)).to_string();
    assert_eq!(shown(299), "MONITORING (2/3)");
    assert_eq!(shown(300), "MONITORING (1/3)");
    assert_eq!(shown(400), "CLOSED");
}

#[test]
fn open_refuses_at_once_and_tells_when_the_next_test_is_due() {
    let mut breaker = opened(s(0));
    for (now, retry_in) in [(0, 60), (30, 30), (59, 1)] {
        let expected = Refusal { retry_in: s(retry_in), state: State::Open };
        assert_eq!(refused(&mut breaker, s(now)), expected);
        assert_eq!(breaker.retry_in(s(now)), Some(s(retry_in)));
    }
    assert_eq!(breaker.counters().refused, 3);
}

#[test]
fn it_shows_open_until_a_call_is_admitted_however_often_it_is_read() {
    let mut breaker = opened(s(0));
    for now in [60, 61, 3600] {
        assert_eq!(breaker.status(s(now)).to_string(), "OPEN");
        assert_eq!(breaker.retry_in(s(now)), Some(Duration::ZERO));
        assert_eq!(breaker.state(), State::Open);
    }
    refused(&mut breaker, s(59));
}

#[test]
fn the_test_goes_through_at_the_very_instant_it_is_due() {
    let mut breaker = opened(s(7));
    refused(&mut breaker, s(67) - Duration::from_nanos(1));
    admit(&mut breaker, s(67));
    assert_eq!(breaker.status(s(67)).to_string(), "HALF-OPEN");
}

#[test]
fn half_open_refuses_everyone_else_while_the_test_is_in_flight() {
    let (mut breaker, _test) = half_open();
    let expected = Refusal { retry_in: s(20), state: State::HalfOpen };
    assert_eq!(refused(&mut breaker, s(60)), expected);
    let expected = Refusal { retry_in: s(1), state: State::HalfOpen };
    assert_eq!(refused(&mut breaker, s(79)), expected);
}

#[test]
fn a_successful_test_closes_it_and_forgets_the_failures() {
    let (mut breaker, test) = half_open();
    let recovered = Some(Transition { from: State::HalfOpen, to: State::Closed });
    assert_eq!(breaker.record(test, CallOutcome::Success, s(61)), recovered);
    assert_eq!(breaker.status(s(61)).to_string(), "CLOSED");
    fail(&mut breaker, s(62));
    assert_eq!(breaker.status(s(62)).to_string(), "MONITORING (1/3)");
}

#[test]
fn a_failed_test_opens_it_again_from_the_time_of_its_report() {
    let (mut breaker, test) = half_open();
    let tripped = Some(Transition { from: State::HalfOpen, to: State::Open });
    assert_eq!(breaker.record(test, CallOutcome::Failure, s(70)), tripped);
    assert_eq!(breaker.opens(), 2);
    refused(&mut breaker, s(129));
    admit(&mut breaker, s(130));
}

#[test]
fn a_test_that_is_given_up_frees_its_place_and_the_next_call_is_the_next_test() {
    let (mut breaker, test) = half_open();
    assert_eq!(breaker.record(test, CallOutcome::Neither, s(61)), None);
    assert_eq!(breaker.status(s(61)).to_string(), "HALF-OPEN");
    assert_eq!(breaker.retry_in(s(61)), Some(Duration::ZERO));
    let next = admit(&mut breaker, s(61));
    refused(&mut breaker, s(61));
    assert!(breaker.record(next, CallOutcome::Success, s(62)).is_some());
}

#[test]
fn a_test_that_never_reports_stops_blocking_after_its_lease() {
    let (mut breaker, _lost) = half_open();
    refused(&mut breaker, s(80) - MS);
    assert_eq!(breaker.status(s(80)).to_string(), "HALF-OPEN");
    admit(&mut breaker, s(80));
    refused(&mut breaker, s(99));
}

#[test]
fn the_first_verdict_of_an_episode_wins_be_it_the_older_tests() {
    for (verdict, state) in [(CallOutcome::Success, State::Closed), (CallOutcome::Failure, State::Open)] {
        let (mut breaker, old) = half_open();
        let new = admit(&mut breaker, s(80));
        assert!(breaker.record(old, verdict, s(81)).is_some());
        for second in [CallOutcome::Success, CallOutcome::Failure] {
            assert_eq!(breaker.record(new, second, s(82)), None);
        }
        assert_eq!(breaker.state(), state);
        assert_eq!(breaker.counters().late, 2);
    }
}

#[test]
fn an_expired_test_that_is_given_up_does_not_free_the_newer_tests_place() {
    let (mut breaker, old) = half_open();
    let new = admit(&mut breaker, s(80));
    breaker.record(old, CallOutcome::Neither, s(81));
    refused(&mut breaker, s(81));
    breaker.record(new, CallOutcome::Neither, s(82));
    admit(&mut breaker, s(82));
}

#[test]
fn a_test_that_was_given_up_has_no_verdict_to_give_later() {
    let (mut breaker, test) = half_open();
    breaker.record(test, CallOutcome::Neither, s(61));
    assert_eq!(breaker.record(test, CallOutcome::Success, s(62)), None);
    assert_eq!((breaker.state(), breaker.counters().repeated), (State::HalfOpen, 1));
}

#[test]
fn a_result_from_before_a_trip_moves_nothing_after_it() {
    let mut breaker = breaker();
    let (late_success, late_failure) = (admit(&mut breaker, s(0)), admit(&mut breaker, s(0)));
    for _ in 0..3 {
        fail(&mut breaker, s(0));
    }
    breaker.record(late_failure, CallOutcome::FailureOpenFor(s(3000)), s(1));
    assert_eq!(breaker.retry_in(s(1)), Some(s(59)));
    admit(&mut breaker, s(60));
    assert_eq!(breaker.record(late_success, CallOutcome::Success, s(61)), None);
    assert_eq!(breaker.state(), State::HalfOpen, "an old call cannot close it for the test");
    assert_eq!(breaker.counters().late, 2);
}

#[test]
fn a_result_from_before_a_recovery_moves_nothing_after_it() {
    let (mut breaker, old) = half_open();
    let new = admit(&mut breaker, s(80));
    breaker.record(new, CallOutcome::Success, s(81));
    assert_eq!(breaker.record(old, CallOutcome::Failure, s(82)), None);
    assert_eq!(breaker.status(s(82)).to_string(), "CLOSED");
}

#[test]
fn a_result_from_before_a_reset_moves_nothing_after_it() {
    let mut breaker = breaker();
    let old = admit(&mut breaker, s(0));
    assert_eq!(breaker.reset(s(1)), None, "it was closed before");
    breaker.record(old, CallOutcome::Failure, s(2));
    assert_eq!(breaker.status(s(2)).to_string(), "CLOSED");
}

#[test]
fn a_second_result_of_one_call_is_counted_and_moves_nothing() {
    let mut breaker = breaker();
    let call = admit(&mut breaker, s(0));
    for _ in 0..5 {
        assert_eq!(breaker.record(call, CallOutcome::Failure, s(0)), None);
    }
    assert_eq!(breaker.status(s(0)).to_string(), "MONITORING (1/3)");
    assert_eq!(breaker.counters().repeated, 4);
}

#[test]
fn a_result_of_a_refused_call_is_counted_and_moves_nothing() {
    let mut breaker = opened(s(0));
    refused(&mut breaker, s(1));
    breaker.record_unadmitted(s(1));
    assert_eq!((breaker.counters().unadmitted, breaker.counters().ignored()), (1, 1));
    assert_eq!(breaker.retry_in(s(1)), Some(s(59)));
}

#[test]
fn a_reset_closes_it_from_any_state_and_forgets_everything() {
    let mut monitoring = breaker();
    fail(&mut monitoring, s(0));
    let (half_open, _) = half_open();
    let to = State::Closed;
    for (mut breaker, moved) in [
        (monitoring, None),
        (opened(s(0)), Some(Transition { from: State::Open, to })),
        (half_open, Some(Transition { from: State::HalfOpen, to })),
    ] {
        assert_eq!(breaker.reset(s(100)), moved);
        assert_eq!(breaker.status(s(100)).to_string(), "CLOSED");
        admit(&mut breaker, s(100));
    }
}

#[test]
fn one_rate_limit_with_a_time_opens_it_at_once() {
    let mut breaker = breaker();
    let call = admit(&mut breaker, s(0));
    let tripped = Some(Transition { from: State::Closed, to: State::Open });
    assert_eq!(breaker.record(call, CallOutcome::FailureOpenFor(s(90)), s(0)), tripped);
    refused(&mut breaker, s(89));
    admit(&mut breaker, s(90));
}

#[test]
fn retry_after_only_lengthens_and_is_capped() {
    for (asked, open) in [(0, 60), (59, 60), (61, 61), (3600, 3600), (3601, 3600), (u64::MAX, 3600)] {
        let mut breaker = breaker();
        let call = admit(&mut breaker, s(0));
        breaker.record(call, CallOutcome::FailureOpenFor(s(asked)), s(0));
        assert_eq!(breaker.retry_in(s(0)), Some(s(open)), "{asked}");
    }
}

#[test]
fn the_cap_does_not_shorten_the_reset_timeout() {
    let mut breaker = Breaker::new(BreakerConfig { max_open: s(10), ..config() });
    let call = admit(&mut breaker, s(0));
    breaker.record(call, CallOutcome::FailureOpenFor(s(100)), s(0));
    assert_eq!(breaker.retry_in(s(0)), Some(s(60)));
}

#[test]
fn a_test_can_be_told_to_retry_after_too_and_the_next_trip_forgets_it() {
    let (mut breaker, test) = half_open();
    breaker.record(test, CallOutcome::FailureOpenFor(s(600)), s(60));
    assert_eq!(breaker.retry_in(s(60)), Some(s(600)));
    let test = admit(&mut breaker, s(660));
    breaker.record(test, CallOutcome::Failure, s(660));
    assert_eq!(breaker.retry_in(s(660)), Some(s(60)));
}

#[test]
fn what_is_no_fault_of_the_model_never_counts() {
    let mut breaker = breaker();
    for _ in 0..10 {
        let call = admit(&mut breaker, s(0));
        assert_eq!(breaker.record(call, CallOutcome::Neither, s(0)), None);
    }
    assert_eq!(breaker.status(s(0)).to_string(), "CLOSED");
}

#[test]
fn a_clock_that_steps_back_moves_nothing() {
    let mut breaker = opened(s(1000));
    assert_eq!(refused(&mut breaker, s(5)).retry_in, s(60));
    assert_eq!(breaker.retry_in(s(5)), Some(s(60)));
    let mut breaker = self::breaker();
    fail(&mut breaker, s(1000));
    fail(&mut breaker, s(5));
    assert_eq!(breaker.status(s(1299)).to_string(), "MONITORING (2/3)");
    assert_eq!(breaker.status(s(1300)).to_string(), "CLOSED");
}

#[test]
fn what_was_open_stays_open_until_its_time() {
    let old = opened(s(100));
    let snapshot = old.snapshot(s(110));
    let mut new = Breaker::restore(config(), &snapshot, s(20), s(0));
    assert_eq!((new.state(), new.opens()), (State::Open, 1));
    assert_eq!(refused(&mut new, s(0)).retry_in, s(30));
    admit(&mut new, s(30));
}

#[test]
fn a_wall_clock_that_jumps_keeps_nothing_open_longer_than_its_full_timeout() {
    let snapshot = opened(s(0)).snapshot(s(0));
    let back = Breaker::restore(config(), &snapshot, s(0), s(0));
    assert_eq!(back.retry_in(s(0)), Some(s(60)));
    let ahead = Breaker::restore(config(), &snapshot, Duration::MAX, s(0));
    assert_eq!(ahead.retry_in(s(0)), Some(s(0)));
}

#[test]
fn what_was_half_open_is_open_with_its_test_due_at_once() {
    let (half_open, _lost_with_its_process) = half_open();
    let mut new = Breaker::restore(config(), &half_open.snapshot(s(61)), s(0), s(0));
    assert_eq!(new.status(s(0)).to_string(), "OPEN");
    admit(&mut new, s(0));
    assert_eq!(new.status(s(0)).to_string(), "HALF-OPEN");
}

#[test]
fn saved_failures_grow_old_while_the_process_is_away() {
    let mut old = breaker();
    fail(&mut old, s(0));
    fail(&mut old, s(100));
    let snapshot = old.snapshot(s(150));
    let ages = vec![s(150), s(50)];
    assert_eq!(snapshot.state, SavedState::Closed { failure_ages: ages });
    let new = Breaker::restore(config(), &snapshot, s(149), s(0));
    assert_eq!(new.status(s(0)).to_string(), "MONITORING (2/3)");
    assert_eq!(new.status(s(1)).to_string(), "MONITORING (1/3)");
    assert_eq!(new.status(s(101)).to_string(), "CLOSED");
}

#[test]
fn a_snapshot_holds_no_failure_that_does_not_count_any_more() {
    let mut breaker = breaker();
    fail(&mut breaker, s(0));
    let empty = SavedState::Closed { failure_ages: Vec::new() };
    assert_eq!(breaker.snapshot(s(300)).state, empty);
}

#[test]
fn a_lowered_threshold_opens_at_the_next_failure() {
    let mut breaker = breaker();
    fail(&mut breaker, s(0));
    fail(&mut breaker, s(1));
    let snapshot = breaker.snapshot(s(1));
    let lower = BreakerConfig { failure_threshold: NonZeroU32::new(2).unwrap(), ..config() };
    breaker.set_config(lower.clone());
    for mut breaker in [breaker, Breaker::restore(lower, &snapshot, s(0), s(1))] {
        assert_eq!(breaker.status(s(1)).to_string(), "MONITORING (1/2)");
        assert!(fail(&mut breaker, s(2)).is_some());
    }
}

#[test]
fn a_changed_timeout_holds_from_the_time_when_it_opened() {
    let mut breaker = opened(s(0));
    breaker.set_config(BreakerConfig { reset_timeout: s(30), ..config() });
    assert_eq!(breaker.retry_in(s(10)), Some(s(20)));
    breaker.set_config(BreakerConfig { reset_timeout: s(100), ..config() });
    refused(&mut breaker, s(99));
    admit(&mut breaker, s(100));
    breaker.set_config(BreakerConfig { probe_lease: s(5), ..config() });
    admit(&mut breaker, s(105));
}

#[test]
fn callers_that_never_report_do_not_hinder_others() {
    let mut breaker = breaker();
    for _ in 0..2_000_000 {
        admit(&mut breaker, s(0));
    }
    assert!((0..3).any(|_| fail(&mut breaker, s(0)).is_some()));
}

#[test]
fn a_name_that_is_acquired_again_stands_for_the_new_call() {
    let step = |at, op| Step { at: s(at), op };
    let call = || "a".to_owned();
    let tuning = BreakerConfig { failure_threshold: NonZeroU32::new(2).unwrap(), ..config() };
    let steps = [
        step(0, Op::Acquire(call())),
        step(0, Op::Failure(call())),
        step(1, Op::Failure(call())), // A second result of the first call.
        step(1, Op::Acquire(call())),
        step(1, Op::Failure(call())), // The first result of the second call.
        step(2, Op::Acquire(call())), // Refused: the name stands for nothing now.
        step(2, Op::Success(call())),
        step(2, Op::Failure("never acquired".to_owned())),
        step(3, Op::Status),
        step(4, Op::Reset),
        step(4, Op::Success(call())),
    ];
    let monitoring = Status::Monitoring { failures: 1, threshold: 2 };
    let got: Vec<(Option<bool>, Status)> = run(tuning, &steps).iter().map(|got| (got.admitted, got.status)).collect();
    let expected = [
        (Some(true), Status::Closed),
        (None, monitoring),
        (None, monitoring),
        (Some(true), monitoring),
        (None, Status::Open),
        (Some(false), Status::Open),
        (None, Status::Open),
        (None, Status::Open),
        (None, Status::Open),
        (None, Status::Closed),
        (None, Status::Closed),
    ];
    assert_eq!(got, expected);
}

#[test]
fn a_cancelled_test_in_a_timeline_frees_its_place() {
    let tuning = BreakerConfig { failure_threshold: NonZeroU32::MIN, ..config() };
    let op = |at, op: fn(String) -> Op, call: &str| Step { at: s(at), op: op(call.to_owned()) };
    let steps = [
        op(0, Op::Acquire, "a"),
        op(0, Op::Failure, "a"),
        op(60, Op::Acquire, "b"),
        op(61, Op::Cancel, "b"),
        op(61, Op::Acquire, "c"),
        op(62, Op::Success, "c"),
    ];
    let states: Vec<State> = run(tuning, &steps).iter().map(|Got { state, .. }| *state).collect();
    use State::{Closed, HalfOpen, Open};
    assert_eq!(states, [Closed, Open, HalfOpen, HalfOpen, HalfOpen, Closed]);
}

#[test]
fn a_name_whose_last_acquisition_was_refused_has_no_result() {
    let tuning = BreakerConfig { failure_threshold: NonZeroU32::MIN, ..config() };
    let op = |at, op: fn(String) -> Op| Step { at: s(at), op: op("a".to_owned()) };
    let steps = [op(0, Op::Acquire), op(0, Op::Failure), op(60, Op::Acquire), op(61, Op::Acquire), op(62, Op::Success)];
    let got = run(tuning, &steps);
    assert_eq!((got[2].admitted, got[3].admitted), (Some(true), Some(false)));
    assert_eq!(got[4].state, State::HalfOpen);
}
