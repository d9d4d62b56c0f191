//! Executions and breakers together, on virtual time: what the parts promise each other must add up.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::breaker::{Admission, Breaker, BreakerConfig, CallOutcome};
use crate::fault::{CallFault, Fault};
use crate::ids::ModelId;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Models that answer 503 until an outage is over, each behind its breaker, and executions that share them.
struct World {
    breakers: Vec<Breaker>,
    executions: Vec<(Execution, Duration, Option<bool>)>,
    calls: u32,
    outage_ends: Duration,
}

impl World {
    fn new(n_models: usize, n_executions: usize, policy: Policy, outage_ends: Duration) -> Self {
        let config = BreakerConfig { failure_threshold: NonZeroU32::new(3).unwrap(), ..BreakerConfig::default() };
        let candidates: Vec<Candidate> = (0..n_models)
            .map(|index| Candidate { model: ModelId::new(&format!("p/{index}")).unwrap(), context_window: None })
            .collect();
        let execution = Execution::new(candidates, policy);
        Self {
            breakers: vec![Breaker::new(config); n_models],
            executions: vec![(execution, s(0), None); n_executions],
            calls: 0,
            outage_ends,
        }
    }

    /// Lets every execution take its steps in the order of their times, until all are over.
    fn run(&mut self) {
        for _ in 0..100_000 {
            let waiting = self.executions.iter().enumerate().filter(|(_, (_, _, end))| end.is_none());
            let Some((who, now)) = waiting.map(|(who, (_, at, _))| (who, *at)).min_by_key(|(who, at)| (*at, *who))
            else {
                return;
            };
            self.step(who, now);
        }
        panic!("it does not end");
    }

    fn step(&mut self, who: usize, now: Duration) {
        let (execution, at, end) = &mut self.executions[who];
        let index = match execution.next(now) {
            Step::Ask { index, .. } => index,
            Step::Pause { until, .. } => {
                *at = until;
                return;
            }
            Step::Exhausted => {
                *end = Some(false);
                return;
            }
        };
        let breaker = &mut self.breakers[index];
        match breaker.admit(now) {
            Admission::Refuse(refusal) => {
                execution.refused(index, Refused::Open { retry_in: refusal.retry_in }, now);
            }
            Admission::Admit(ticket) if now >= self.outage_ends => {
                self.calls += 1;
                let _ = breaker.record(ticket, CallOutcome::Success, now);
                execution.answered(index);
                *end = Some(true);
            }
            Admission::Admit(ticket) => {
                self.calls += 1;
                let _ = breaker.record(ticket, CallOutcome::Failure, now);
                let fault = CallFault::new(Fault::Unavailable, "503");
                execution.failed(index, &fault, false, breaker.retry_in(now), now);
            }
        }
    }

    fn answered(&self) -> usize {
        self.executions.iter().filter(|(_, _, end)| *end == Some(true)).count()
    }
}

#[test]
fn a_short_outage_of_everything_costs_time_but_no_manual_work() {
    let mut world = World::new(3, 3, Policy::default(), s(90));
    world.run();
    assert_eq!(world.answered(), 3);
    assert!(world.executions.iter().all(|(_, at, _)| *at < s(200)), "soon after the outage");
}

#[test]
fn a_long_outage_ends_with_the_patience() {
    let mut world = World::new(3, 3, Policy::default(), s(3600));
    world.run();
    assert_eq!(world.answered(), 0);
    let ends = world.executions.iter().map(|(_, at, _)| *at);
    assert!(ends.max() <= Some(s(660)));
    // Breakers that are open cost few calls: nine to open three, then a test a minute each.
    assert!(world.calls <= 9 + 3 * 11, "{} calls", world.calls);
}

#[test]
fn without_patience_an_outage_degrades_within_seconds() {
    let policy = Policy { outage_patience: Duration::ZERO, ..Policy::default() };
    let mut world = World::new(3, 3, policy, s(3600));
    world.run();
    assert_eq!(world.answered(), 0);
    assert!(world.executions.iter().all(|(_, at, _)| *at < s(60)));
    assert_eq!(world.calls, 9);
}
