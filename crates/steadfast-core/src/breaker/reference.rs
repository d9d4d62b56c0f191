//! A second breaker, written from SPEC 3 alone and without a thought of speed: it keeps everything that ever happened and
//! works out the present from the beginning each time it is asked. The property tests hold the real one against it.

use std::time::Duration;

use super::{BreakerConfig, CallOutcome, State, Transition};

#[derive(Debug, Clone, Copy)]
pub(super) enum Happened {
    /// A call wanted to be made. Calls are numbered by these, from 0, refused ones included.
    Asked,
    /// This call reported.
    Reported(usize, CallOutcome),
    Reset,
}

/// What the history amounts to.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) state: State,
    /// Failures that count.
    pub(super) failures: usize,
    pub(super) retry_in: Option<Duration>,
    pub(super) opens: u64,
    pub(super) ignored: u64,
    /// For each call whether it was let through.
    pub(super) admitted: Vec<bool>,
}

#[derive(Debug)]
pub(super) struct Reference {
    config: BreakerConfig,
    history: Vec<(Duration, Happened)>,
}

impl Reference {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, history: Vec::new() }
    }

    pub(super) fn happen(&mut self, now: Duration, what: Happened) -> Option<Transition> {
        let from = self.present(now).state;
        self.history.push((now, what));
        let to = self.present(now).state;
        (from != to).then_some(Transition { from, to })
    }

    pub(super) fn present(&self, now: Duration) -> Present {
        let config = &self.config;
        let mut state = State::Closed;
        // Of the current epoch: every failure with its time, every test with its start and whether it was given up.
        let mut failures: Vec<Duration> = Vec::new();
        let mut tests: Vec<(usize, Duration, bool)> = Vec::new();
        let mut due = Duration::ZERO;
        // For each call its epoch if it was let through, and whether it has reported.
        let mut calls: Vec<(Option<u64>, bool)> = Vec::new();
        let (mut epoch, mut opens, mut ignored) = (0u64, 0, 0);
        let mut clock = Duration::ZERO;

        for (at, what) in &self.history {
            clock = clock.max(*at);
            let mut open_for = None;
            let mut close = false;
            match what {
                Happened::Asked => {
                    let occupied = tests
                        .last()
                        .is_some_and(|(_, since, given_up)| !given_up && clock < *since + config.probe_lease);
                    let admitted = match state {
                        State::Closed => true,
                        State::Open => clock >= due,
                        State::HalfOpen => !occupied,
                    };
                    if admitted && state != State::Closed {
                        state = State::HalfOpen;
                        tests.push((calls.len(), clock, false));
                    }
                    calls.push((admitted.then_some(epoch), false));
                }
                Happened::Reported(call, outcome) => {
                    let (of_epoch, reported) = calls[*call];
                    calls[*call].1 = true;
                    if of_epoch != Some(epoch) || reported {
                        ignored += 1;
                    } else {
                        match outcome {
                            CallOutcome::Success => close = state == State::HalfOpen,
                            CallOutcome::Failure => {
                                failures.push(clock);
                                let counting =
                                    failures.iter().filter(|f| clock - **f < config.monitoring_period).count();
                                if state == State::HalfOpen || counting >= config.failure_threshold.get() as usize {
                                    open_for = Some(config.reset_timeout);
                                }
                            }
                            CallOutcome::FailureOpenFor(time) => {
                                let capped = (*time).min(config.max_open);
                                open_for = Some(capped.max(config.reset_timeout));
                            }
                            CallOutcome::Neither => {
                                for test in tests.iter_mut().filter(|test| test.0 == *call) {
                                    test.2 = true;
                                }
                            }
                        }
                    }
                }
                Happened::Reset => close = true,
            }
            if let Some(time) = open_for {
                (state, due) = (State::Open, clock + time);
                opens += 1;
            }
            if close {
                state = State::Closed;
            }
            if close || open_for.is_some() {
                epoch += 1;
                failures.clear();
                tests.clear();
            }
        }

        clock = clock.max(now);
        let counting = failures.iter().filter(|f| clock - **f < config.monitoring_period).count();
        let retry_in = match (state, tests.last()) {
            (State::Closed, _) => None,
            (State::Open, _) => Some(due.saturating_sub(clock)),
            (State::HalfOpen, Some((_, since, false))) => Some((*since + config.probe_lease).saturating_sub(clock)),
            (State::HalfOpen, _) => Some(Duration::ZERO),
        };
        Present {
            state,
            failures: counting,
            retry_in,
            opens,
            ignored,
            admitted: calls.iter().map(|(epoch, _)| epoch.is_some()).collect(),
        }
    }
}
