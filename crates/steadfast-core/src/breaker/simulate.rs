//! A replay of a timeline against a breaker (`steadfast breaker simulate`, SPEC 10), so that an operator can try a
//! tuning before using it.

use std::collections::HashMap;
use std::time::Duration;

use super::{Admission, Breaker, BreakerConfig, CallOutcome, CallTicket, State, Status};

/// One step of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When, since the timeline's start. A step that lies before an earlier one happens at that one's time.
    pub at: Duration,
    /// What.
    pub op: Op,
}

/// What happens in a step. Calls go by any name; a result for a name that was never acquired, or whose last
/// acquisition was refused, changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The call of this name wants to be made. A name that was used before now stands for the new call.
    Acquire(String),
    /// It succeeds.
    Success(String),
    /// It fails.
    Failure(String),
    /// It is given up.
    Cancel(String),
    /// An operator resets the breaker.
    Reset,
    /// Somebody looks.
    Status,
}

/// What a step brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Got {
    /// For [`Op::Acquire`]: whether the call was let through; else `None`.
    pub admitted: Option<bool>,
    /// The state after the step.
    pub state: State,
    /// The status after the step, at its time.
    pub status: Status,
}

/// Replays the steps, in their order, on a new breaker. One [`Got`] a step.
pub fn run<'a>(config: BreakerConfig, steps: impl IntoIterator<Item = &'a Step>) -> Vec<Got> {
    let mut replay = Replay { breaker: Breaker::new(config), calls: HashMap::new() };
    steps.into_iter().map(|step| replay.step(step)).collect()
}

struct Replay<'a> {
    breaker: Breaker,
    /// Names whose last acquisition was admitted.
    calls: HashMap<&'a str, CallTicket>,
}

impl<'a> Replay<'a> {
    fn step(&mut self, Step { at, op }: &'a Step) -> Got {
        let mut admitted = None;
        match op {
            Op::Acquire(call) => admitted = Some(self.acquire(call, *at)),
            Op::Success(call) => self.record(call, CallOutcome::Success, *at),
            Op::Failure(call) => self.record(call, CallOutcome::Failure, *at),
            Op::Cancel(call) => self.record(call, CallOutcome::Neither, *at),
            Op::Reset => drop(self.breaker.reset(*at)),
            Op::Status => {}
        }
        Got { admitted, state: self.breaker.state(), status: self.breaker.status(*at) }
    }

    fn acquire(&mut self, call: &'a str, at: Duration) -> bool {
        match self.breaker.admit(at) {
            Admission::Admit(ticket) => {
                self.calls.insert(call, ticket);
                true
            }
            Admission::Refuse(_) => {
                self.calls.remove(call);
                false
            }
        }
    }

    fn record(&mut self, call: &str, outcome: CallOutcome, at: Duration) {
        match self.calls.get(call) {
            Some(ticket) => drop(self.breaker.record(*ticket, outcome, at)),
            None => self.breaker.record_unadmitted(at),
        }
    }
}
