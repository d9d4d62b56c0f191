//! The breaker against the reference, over histories of any kind.

use proptest::prelude::*;
use proptest::sample::Index;

use super::reference::{Happened, Present, Reference};
use super::*;

/// Something that happens, with calls still to be picked among those that were made.
#[derive(Debug, Clone)]
enum Event {
    Ask,
    Report(Index, CallOutcome),
    Reset,
    Look,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn configs() -> impl Strategy<Value = BreakerConfig> {
    // Small numbers, so that borders are met exactly and often.
    (1u32..5, 0u64..8, 0u64..12, 0u64..20, 0u64..8).prop_map(|(threshold, reset, period, max_open, lease)| {
        BreakerConfig {
            failure_threshold: NonZeroU32::new(threshold).unwrap(),
            reset_timeout: ms(reset),
            monitoring_period: ms(period),
            max_open: ms(max_open),
            probe_lease: ms(lease),
        }
    })
}

fn outcomes() -> impl Strategy<Value = CallOutcome> {
    prop_oneof![
        2 => Just(CallOutcome::Success),
        6 => Just(CallOutcome::Failure),
        1 => (0u64..25).prop_map(|time| CallOutcome::FailureOpenFor(ms(time))),
        2 => Just(CallOutcome::Neither),
    ]
}

/// Steps in time, some of them backwards.
fn histories() -> impl Strategy<Value = Vec<(i64, Event)>> {
    let step = prop_oneof![4 => Just(0), 6 => 1i64..4, 2 => 4i64..12, 1 => -5i64..0];
    let event = prop_oneof![
        8 => Just(Event::Ask),
        10 => (any::<Index>(), outcomes()).prop_map(|(call, outcome)| Event::Report(call, outcome)),
        1 => Just(Event::Reset),
        2 => Just(Event::Look),
    ];
    prop::collection::vec((step, event), 0..120)
}

/// Both breakers, fed with the same.
struct Pair {
    real: Breaker,
    reference: Reference,
    now: u64,
    tickets: Vec<Option<CallTicket>>,
}

impl Pair {
    fn new(config: &BreakerConfig) -> Self {
        Self {
            real: Breaker::new(config.clone()),
            reference: Reference::new(config.clone()),
            now: 20,
            tickets: Vec::new(),
        }
    }

    fn step(&mut self, step: i64, event: &Event) -> Result<(), TestCaseError> {
        self.now = self.now.saturating_add_signed(step);
        let now = ms(self.now);
        match event {
            Event::Ask => {
                let before = self.reference.present(now).retry_in;
                let moved = self.reference.happen(now, Happened::Asked);
                let admitted = self.reference.present(now).admitted.last().copied();
                let from = self.real.state();
                match self.real.admit(now) {
                    Admission::Admit(ticket) => {
                        prop_assert_eq!(admitted, Some(true));
                        self.tickets.push(Some(ticket));
                    }
                    Admission::Refuse(refusal) => {
                        prop_assert_eq!(admitted, Some(false));
                        prop_assert_eq!(Some(refusal.retry_in), before);
                        prop_assert!(!refusal.retry_in.is_zero());
                        prop_assert_eq!(refusal.state, self.real.state());
                        self.tickets.push(None);
                    }
                }
                let to = self.real.state();
                prop_assert_eq!(moved, (from != to).then_some(Transition { from, to }));
            }
            Event::Report(call, outcome) if !self.tickets.is_empty() => {
                let call = call.index(self.tickets.len());
                let expected = self.reference.happen(now, Happened::Reported(call, *outcome));
                let moved = match self.tickets[call] {
                    Some(ticket) => self.real.record(ticket, *outcome, now),
                    None => {
                        self.real.record_unadmitted(now);
                        None
                    }
                };
                prop_assert_eq!(moved, expected);
            }
            Event::Reset => {
                let expected = self.reference.happen(now, Happened::Reset);
                prop_assert_eq!(self.real.reset(now), expected);
            }
            Event::Report(..) | Event::Look => {}
        }
        self.same()
    }

    fn same(&self) -> Result<(), TestCaseError> {
        let now = ms(self.now);
        let Present { state, failures, retry_in, opens, ignored, .. } = self.reference.present(now);
        prop_assert_eq!(self.real.state(), state);
        let threshold = self.real.config.failure_threshold;
        let status = match (state, failures) {
            (State::Closed, 1..) => format!("MONITORING ({failures}/{threshold})"),
            (state, _) => state.to_string(),
        };
        prop_assert_eq!(self.real.status(now).to_string(), status);
        prop_assert_eq!(self.real.retry_in(now), retry_in);
        prop_assert_eq!(self.real.opens(), opens);
        prop_assert_eq!(self.real.counters().ignored(), ignored);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_breaker_does_what_the_reference_does(config in configs(), history in histories()) {
        let mut pair = Pair::new(&config);
        for (step, event) in &history {
            pair.step(*step, event)?;
        }
    }

    #[test]
    fn a_restored_breaker_goes_on_where_it_was(
        config in configs(),
        history in histories(),
        elapsed in 0u64..15,
        origin in 0u64..15,
        later in 0u64..30,
    ) {
        let mut pair = Pair::new(&config);
        for (step, event) in &history {
            pair.step(*step, event)?;
        }
        let old = pair.real;
        let snapshot = old.snapshot(ms(pair.now));
        let new = Breaker::restore(config, &snapshot, ms(elapsed), ms(origin));
        // The latest time that the old one saw is its present, should its clock have stepped back.
        let then = span(old.latest).max(ms(pair.now)) + ms(elapsed + later);
        let now = ms(origin + later);
        prop_assert_eq!(new.opens(), old.opens());
        match old.state() {
            State::HalfOpen => {
                prop_assert_eq!(new.state(), State::Open);
                prop_assert_eq!(new.retry_in(now), Some(Duration::ZERO));
            }
            State::Closed | State::Open => {
                prop_assert_eq!(new.status(now), old.status(then));
                prop_assert_eq!(new.retry_in(now), old.retry_in(then));
            }
        }
    }

    #[test]
    fn no_snapshot_keeps_a_breaker_open_for_longer_than_one_full_timeout(
        config in configs(),
        remaining in any::<Duration>(),
        asked in any::<Duration>(),
        elapsed in any::<Duration>(),
        now in any::<Duration>(),
    ) {
        let snapshot = Snapshot { state: SavedState::Open { remaining, asked }, opens: u64::MAX };
        let full = config.reset_timeout.max(config.max_open);
        let mut breaker = Breaker::restore(config, &snapshot, elapsed, now);
        prop_assert!(breaker.retry_in(now).unwrap() <= full);
        if let Some(due) = now.checked_add(full) {
            let Admission::Admit(test) = breaker.admit(due) else { panic!("its test is due") };
            prop_assert!(breaker.record(test, CallOutcome::Failure, due).is_some());
        }
    }

    #[test]
    fn nothing_makes_a_breaker_panic(
        config in (any::<NonZeroU32>(), any::<[Duration; 4]>()),
        events in prop::collection::vec((any::<Duration>(), 0u8..8, any::<Duration>()), 0..60),
    ) {
        let (failure_threshold, [reset_timeout, monitoring_period, max_open, probe_lease]) = config;
        let config =
            BreakerConfig { failure_threshold, reset_timeout, monitoring_period, max_open, probe_lease };
        let mut breaker = Breaker::new(config.clone());
        let mut ticket = CallTicket { epoch: u64::MAX, call: u64::MAX };
        for (now, event, time) in events {
            match event {
                0..=2 => {
                    if let Admission::Admit(new) = breaker.admit(now) {
                        ticket = new;
                    }
                }
                3 => drop(breaker.record(ticket, CallOutcome::Failure, now)),
                4 => drop(breaker.record(ticket, CallOutcome::FailureOpenFor(time), now)),
                5 => drop(breaker.record(ticket, CallOutcome::Success, now)),
                6 => breaker.set_config(BreakerConfig { reset_timeout: time, ..config.clone() }),
                _ => breaker = Breaker::restore(config.clone(), &breaker.snapshot(now), time, now),
            }
            let _ = (breaker.status(now), breaker.retry_in(time));
        }
    }
}
