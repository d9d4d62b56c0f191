//! The circuit breaker of one model (SPEC 3), as a value: it is told the time and what came of the calls, and says
//! who may call.
//!
//! The words have their electrical sense: *closed* lets calls through, *open* refuses them, *half-open* lets one
//! test through. Times are spans since an origin that the caller chose (monotonic, the same for every method of one
//! breaker). A time that lies before one already seen is taken for that one, so a clock that steps back moves
//! nothing and cannot make a breaker panic.
//!
//! Invariants:
//! - Only the first result of a call that was admitted in the current epoch moves anything. A trip, a recovery and a
//!   reset each begin a new epoch.
//! - At most one test is let through at a time; it gives up its place by reporting or when its lease ends.
//! - Reading ([`Breaker::status`], [`Breaker::retry_in`], [`Breaker::snapshot`]) moves nothing.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use calls::OpenCalls;
use time::{Nanos, nanos, span};

mod calls;
pub mod simulate;
mod snapshot;
mod time;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use snapshot::{SavedState, Snapshot};

/// How a breaker is tuned. Every span may be zero; what that means stands with each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures within [`BreakerConfig::monitoring_period`] that open it.
    pub failure_threshold: NonZeroU32,
    /// How long it stays open before it lets a test through. Zero: the next call is the test.
    pub reset_timeout: Duration,
    /// How long a failure counts: while its age is *below* this. Zero: no failure ever counts.
    pub monitoring_period: Duration,
    /// The longest time that a provider's word ([`CallOutcome::FailureOpenFor`]) keeps it open. It never shortens
    /// [`BreakerConfig::reset_timeout`].
    pub max_open: Duration,
    /// How long a test that does not report keeps others out; the call's timeout, where the call has one. Zero: not
    /// at all.
    pub probe_lease: Duration,
}

impl BreakerConfig {
    /// Opens early and tests early (SPEC 3's preset): 2 failures, 30 s.
    pub fn aggressive() -> Self {
        Self::preset(2, Duration::from_secs(30))
    }

    /// Bears more and rests longer (SPEC 3's preset): 10 failures, 300 s.
    pub fn conservative() -> Self {
        Self::preset(10, Duration::from_secs(300))
    }

    fn preset(failures: u32, reset_timeout: Duration) -> Self {
        Self {
            failure_threshold: NonZeroU32::new(failures).unwrap_or(NonZeroU32::MIN),
            reset_timeout,
            monitoring_period: Duration::from_secs(300),
            max_open: Duration::from_secs(3600),
            probe_lease: reset_timeout,
        }
    }

    /// How long a breaker stays open when the provider asked for `asked`.
    fn open_for(&self, asked: Duration) -> Duration {
        self.reset_timeout.max(asked.min(self.max_open))
    }

    /// The most failures that can be kept without being open.
    fn most_failures(&self) -> usize {
        usize::try_from(self.failure_threshold.get() - 1).unwrap_or(usize::MAX)
    }
}

impl Default for BreakerConfig {
    /// The breaker's own defaults (SPEC 3): 5 failures in 5 min, 60 s open, at most 1 h, a lease of 60 s.
    fn default() -> Self {
        Self::preset(5, Duration::from_secs(60))
    }
}

/// The three states of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls go through.
    Closed,
    /// Calls are refused.
    Open,
    /// One test may be under way; everyone else is refused.
    HalfOpen,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "CLOSED",
            Self::Open => "OPEN",
            Self::HalfOpen => "HALF-OPEN",
        })
    }
}

/// What is shown of a breaker: its state and, where it is closed, the failures that count now. Prints as SPEC 3 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// `CLOSED`: no failure counts.
    Closed,
    /// `MONITORING (3/5)`: closed, with some failures in the window.
    Monitoring {
        /// At least 1, less than `threshold`.
        failures: u32,
        /// The count that opens it.
        threshold: u32,
    },
    /// `OPEN`, also when its test is due but nobody has called yet.
    Open,
    /// `HALF-OPEN`.
    HalfOpen,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => State::Closed.fmt(f),
            Self::Monitoring { failures, threshold } => {
                write!(f, "MONITORING ({failures}/{threshold})")
            }
            Self::Open => State::Open.fmt(f),
            Self::HalfOpen => State::HalfOpen.fmt(f),
        }
    }
}

/// Names one admitted call. It can be copied; the breaker itself knows a second result of the same call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallTicket {
    epoch: u64,
    call: u64,
}

/// Whether a call may be made.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Make the call, and [`Breaker::record`] what comes of it.
    Admit(CallTicket),
    /// Make no call.
    Refuse(Refusal),
}

/// Why and for how long a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Open: until the next test is due. Half-open: until the lease of the test that is under way ends; its verdict
    /// may come sooner.
    pub retry_in: Duration,
    /// [`State::Open`] or [`State::HalfOpen`].
    pub state: State,
}

/// What came of an admitted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// The model did its part.
    Success,
    /// A failure that is the model's.
    Failure,
    /// A failure that is reason enough to open at once, for at least this time: a provider's `Retry-After`, an
    /// exhausted quota, a key that is refused. Capped by [`BreakerConfig::max_open`]; never shortens
    /// [`BreakerConfig::reset_timeout`].
    FailureOpenFor(Duration),
    /// Says nothing about the model: cancelled, or our own bad request.
    Neither,
}

/// The breaker went from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state now; never the same as `from`.
    pub to: State,
}

/// What a breaker has seen since it was made or restored (only `opens` outlives a restart). They only grow; a reset
/// leaves them alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls let through.
    pub admitted: u64,
    /// Calls refused.
    pub refused: u64,
    /// Transitions to open, those before a restart included.
    pub opens: u64,
    /// Results that came from an earlier epoch and moved nothing.
    pub late: u64,
    /// Results of a call that had reported before (or was forgotten: see [`Breaker::admit`]); moved nothing.
    pub repeated: u64,
    /// Results of a call that was never admitted; moved nothing.
    pub unadmitted: u64,
}

impl Counters {
    /// All results that moved nothing because they were late, repeated or of a call that was never admitted.
    pub fn ignored(&self) -> u64 {
        self.late.saturating_add(self.repeated).saturating_add(self.unadmitted)
    }
}

#[derive(Debug, Clone)]
enum Circuit {
    /// When each failure was reported, oldest first; fewer than the threshold.
    Closed { failures: VecDeque<Nanos> },
    /// `asked`: the least time that the provider asked for, zero where it did not.
    Open { opened_at: Nanos, asked: Duration },
    /// `None`: the next call is the next test.
    HalfOpen { test: Option<Test> },
}

#[derive(Debug, Clone, Copy)]
struct Test {
    call: u64,
    since: Nanos,
}

/// The breaker of one model.
///
/// ```
/// use std::time::Duration;
/// use steadfast_core::breaker::{Admission, Breaker, BreakerConfig, CallOutcome};
///
/// let mut breaker = Breaker::new(BreakerConfig::aggressive());
/// let now = Duration::ZERO;
/// for _ in 0..2 {
///     let Admission::Admit(ticket) = breaker.admit(now) else { panic!("closed") };
///     let _ = breaker.record(ticket, CallOutcome::Failure, now);
/// }
/// assert_eq!(breaker.status(now).to_string(), "OPEN");
/// assert!(matches!(breaker.admit(Duration::from_secs(29)), Admission::Refuse(_)));
/// assert!(matches!(breaker.admit(Duration::from_secs(30)), Admission::Admit(_)));
/// assert_eq!(breaker.status(now).to_string(), "HALF-OPEN");
/// ```
#[derive(Debug, Clone)]
pub struct Breaker {
    config: BreakerConfig,
    circuit: Circuit,
    /// A trip, a recovery and a reset each raise it.
    epoch: u64,
    /// Calls of this epoch that have not reported.
    calls: OpenCalls,
    /// The latest time seen.
    latest: Nanos,
    counters: Counters,
}

impl Breaker {
    /// A closed breaker without a history.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            circuit: Circuit::Closed { failures: VecDeque::new() },
            epoch: 0,
            calls: OpenCalls::default(),
            latest: Nanos::MIN,
            counters: Counters::default(),
        }
    }

    /// How it is tuned.
    pub fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Tunes it anew from now on. What is open stays open, for the time that the new values give counted from when it
    /// opened; a test under way gets the new lease; of the failures kept, the newest that stay below the new threshold
    /// remain, so that the next one opens it.
    ///
    /// A refused key or a spent quota is over with "a changed configuration" (SPEC 4) of the model or its provider,
    /// which a breaker does not know: whoever changes that calls [`Breaker::reset`].
    pub fn set_config(&mut self, config: BreakerConfig) {
        let most = config.most_failures();
        if let Circuit::Closed { failures } = &mut self.circuit {
            let surplus = failures.len().saturating_sub(most);
            failures.drain(..surplus);
        }
        self.config = config;
    }

    /// Asks whether a call may be made now. An admitted call should be [recorded](Breaker::record) once; one that
    /// never is costs nothing but one bit while 1,048,576 newer calls of the same epoch follow it, and is forgotten
    /// after that: a result of it would then count as a repeated one. So memory is bounded whatever callers do.
    pub fn admit(&mut self, now: Duration) -> Admission {
        let now = self.advance(now);
        match &mut self.circuit {
            Circuit::Closed { .. } => {}
            Circuit::Open { opened_at, asked } => {
                let due = *opened_at + nanos(self.config.open_for(*asked));
                if now < due {
                    return self.refuse(due - now, State::Open);
                }
                self.circuit = Circuit::HalfOpen { test: None };
                return self.admit_test(now);
            }
            Circuit::HalfOpen { test: None } => return self.admit_test(now),
            Circuit::HalfOpen { test: Some(test) } => {
                let free = test.since + nanos(self.config.probe_lease);
                if now < free {
                    return self.refuse(free - now, State::HalfOpen);
                }
                return self.admit_test(now);
            }
        }
        let call = self.calls.open();
        self.ticket(call)
    }

    fn admit_test(&mut self, now: Nanos) -> Admission {
        let call = self.calls.open();
        self.circuit = Circuit::HalfOpen { test: Some(Test { call, since: now }) };
        self.ticket(call)
    }

    fn ticket(&mut self, call: u64) -> Admission {
        bump(&mut self.counters.admitted);
        Admission::Admit(CallTicket { epoch: self.epoch, call })
    }

    fn refuse(&mut self, retry_in: Nanos, state: State) -> Admission {
        bump(&mut self.counters.refused);
        Admission::Refuse(Refusal { retry_in: span(retry_in), state })
    }

    /// Takes in what came of an admitted call, and says how the state changed, if it did. A result from an earlier
    /// epoch or a second result of the same call is counted and moves nothing.
    pub fn record(&mut self, ticket: CallTicket, outcome: CallOutcome, now: Duration) -> Option<Transition> {
        let now = self.advance(now);
        if ticket.epoch != self.epoch {
            bump(&mut self.counters.late);
            return None;
        }
        if !self.calls.close(ticket.call) {
            bump(&mut self.counters.repeated);
            return None;
        }
        match outcome {
            CallOutcome::Success => self.succeeded(),
            CallOutcome::Failure => self.failed(now),
            CallOutcome::FailureOpenFor(asked) => self.trip(now, asked),
            CallOutcome::Neither => {
                // A test whose lease has ended may be given up while a newer one is under way: the newer one keeps
                // its place.
                if let Circuit::HalfOpen { test } = &mut self.circuit {
                    *test = test.filter(|test| test.call != ticket.call);
                }
                None
            }
        }
    }

    /// Takes in a result of a call that was refused or never asked for: it is counted, and nothing else changes.
    pub fn record_unadmitted(&mut self, now: Duration) {
        self.advance(now);
        bump(&mut self.counters.unadmitted);
    }

    fn succeeded(&mut self) -> Option<Transition> {
        match self.circuit {
            // The window forgets failures, a success does not.
            Circuit::Closed { .. } => None,
            // No call is admitted while open, and those from before belong to an earlier epoch.
            Circuit::Open { .. } => None,
            Circuit::HalfOpen { .. } => self.close(),
        }
    }

    fn failed(&mut self, now: Nanos) -> Option<Transition> {
        match &mut self.circuit {
            Circuit::Closed { failures } => {
                failures.push_back(now);
                let period = nanos(self.config.monitoring_period);
                while failures.front().is_some_and(|at| now - at >= period) {
                    failures.pop_front();
                }
                if failures.len() <= self.config.most_failures() {
                    return None;
                }
                self.trip(now, Duration::ZERO)
            }
            Circuit::Open { .. } => None,
            Circuit::HalfOpen { .. } => self.trip(now, Duration::ZERO),
        }
    }

    fn trip(&mut self, now: Nanos, asked: Duration) -> Option<Transition> {
        bump(&mut self.counters.opens);
        self.enter(Circuit::Open { opened_at: now, asked })
    }

    fn close(&mut self) -> Option<Transition> {
        self.enter(Circuit::Closed { failures: VecDeque::new() })
    }

    /// Ends the epoch.
    fn enter(&mut self, circuit: Circuit) -> Option<Transition> {
        let from = self.state();
        self.circuit = circuit;
        self.epoch += 1;
        self.calls.clear();
        let to = self.state();
        (from != to).then_some(Transition { from, to })
    }

    /// Closes it from any state and forgets everything but the counters. Results of calls that are under way will
    /// move nothing.
    pub fn reset(&mut self, now: Duration) -> Option<Transition> {
        self.advance(now);
        self.close()
    }

    /// The state. It stays [`State::Open`] when the test is due until a call is admitted.
    pub fn state(&self) -> State {
        match self.circuit {
            Circuit::Closed { .. } => State::Closed,
            Circuit::Open { .. } => State::Open,
            Circuit::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// The state with the failures that count at `now`. Moves nothing.
    pub fn status(&self, now: Duration) -> Status {
        match &self.circuit {
            Circuit::Closed { failures } => {
                let counting = self.counting(failures, self.at(now)).count();
                match u32::try_from(counting).unwrap_or(u32::MAX) {
                    0 => Status::Closed,
                    failures => Status::Monitoring { failures, threshold: self.config.failure_threshold.get() },
                }
            }
            Circuit::Open { .. } => Status::Open,
            Circuit::HalfOpen { .. } => Status::HalfOpen,
        }
    }

    /// Until the next call can be let through: `None` when it is closed, zero when a test is due or its place free.
    /// Half-open with a test under way: until its lease ends. Moves nothing.
    pub fn retry_in(&self, now: Duration) -> Option<Duration> {
        let now = self.at(now);
        match &self.circuit {
            Circuit::Closed { .. } => None,
            Circuit::Open { opened_at, asked } => Some(span(*opened_at + nanos(self.config.open_for(*asked)) - now)),
            Circuit::HalfOpen { test: None } => Some(Duration::ZERO),
            Circuit::HalfOpen { test: Some(test) } => Some(span(test.since + nanos(self.config.probe_lease) - now)),
        }
    }

    /// What it has seen.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Times it has opened, those before a restart included.
    pub fn opens(&self) -> u64 {
        self.counters.opens
    }

    /// The failures that count at `now`, oldest first.
    fn counting<'a>(&self, failures: &'a VecDeque<Nanos>, now: Nanos) -> impl Iterator<Item = Nanos> + use<'a> {
        let period = nanos(self.config.monitoring_period);
        let expired = failures.partition_point(|at| now - at >= period);
        failures.range(expired..).copied()
    }

    fn at(&self, now: Duration) -> Nanos {
        nanos(now).max(self.latest)
    }

    fn advance(&mut self, now: Duration) -> Nanos {
        self.latest = self.at(now);
        self.latest
    }
}

/// A snapshot may bring any number of opens.
fn bump(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
