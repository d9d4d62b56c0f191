//! The walk of one execution over its role's models.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::failover::table::{Again, BreakerEffect, NextModel, rule};
use crate::fault::{CallFault, Fault};
use crate::ids::ModelId;

/// The least time between two asks of a model while an execution waits for breaker tests. It keeps an execution from
/// spinning where a breaker is tuned to rest for no time at all.
const SHORTEST_TEST_WAIT: Duration = Duration::from_millis(100);

/// One model of the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub model: ModelId,
    /// In tokens; `None`: not known.
    pub context_window: Option<u32>,
}

/// What the operator configured about failover (SPEC 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Attempts per model in one execution; those that our own network spoilt and breaker tests do not count.
    pub max_retries: NonZeroU32,
    /// The pause after the first attempt; it doubles with each further one.
    pub backoff_initial: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How long to wait for breaker tests when nothing else is left. Zero: not at all.
    pub outage_patience: Duration,
}

impl Default for Policy {
    /// SPEC 4's: 3 attempts, 1 s doubling up to 60 s, 10 min.
    fn default() -> Self {
        Self {
            max_retries: NonZeroU32::MIN.saturating_add(2),
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            outage_patience: Duration::from_secs(600),
        }
    }
}

/// What to do next.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask this model, which asks its breaker, and report: [`Execution::answered`], [`Execution::failed`] or
    /// [`Execution::refused`].
    Ask {
        /// Its place in the list.
        index: usize,
        /// What to send.
        how: Ask,
    },
    /// Do nothing before `until`, then ask for the next step again. Asking earlier brings the same pause.
    Pause {
        /// Later than the `now` that was given.
        until: Duration,
        /// What for.
        why: Pause,
    },
    /// No model is left: degrade. Also after an answer.
    Exhausted,
}

/// What to send to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The prompt.
    Plain,
    /// The prompt, with a word on what was wrong with this model's last answer.
    Repair {
        /// The message of the fault.
        problem: String,
    },
    /// The prompt, with a higher limit of tokens for the answer.
    HigherLimit,
}

/// What a pause is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Between two attempts.
    Backoff,
    /// Nothing is left but a model whose breaker will let a test through ([`Policy::outage_patience`]). Ends early when
    /// the model is reported as [recovered](Execution::recovered).
    BreakerTest {
        /// The model whose test is due first.
        index: usize,
    },
    /// Our own network is down.
    OwnNetworkDown,
}

/// Why no call was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The breaker is open, or half-open with a test under way.
    Open {
        /// Until it can let a call through.
        retry_in: Duration,
    },
    /// The model cannot be called at all; it is out for this execution.
    Unavailable {
        /// For a person.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// May be asked while it has attempts left.
    In,
    /// May not be asked for its own sake any more, only as a breaker's test: an outage is over when a test says so.
    OnlyTests,
    /// Out for this execution.
    Out,
}

#[derive(Debug, Clone)]
struct Model {
    context_window: Option<u32>,
    standing: Standing,
    /// Counted ones.
    attempts: u32,
    had_turn: bool,
    /// Since the last attempt of any model. Asking again before anything has happened would bring the same refusal.
    refused: bool,
    /// When its breaker can let a call through, by the last word of it; `None`: it is not known to be open.
    due: Option<Duration>,
    timed_out: bool,
    bad_answer: bool,
    truncated: bool,
    /// What it is sent next.
    how: Ask,
}

/// One execution: a role, one question, and its models in priority order. It is told what came of each attempt, and says
/// what to do next.
///
/// It knows of the breakers only what it is told: [`Execution::refused`] with the time of the next test,
/// [`Execution::failed`] with `retry_in`, the breaker's remaining time *after* this failure was recorded (`None`: it let
/// the next call through), and [`Execution::recovered`].
///
/// ```
/// use std::time::Duration;
/// use steadfast_core::failover::{Ask, Candidate, Execution, Pause, Policy, Step};
/// use steadfast_core::fault::{CallFault, Fault};
/// use steadfast_core::ids::ModelId;
///
/// let models = ["opencode/codellama-7b", "opencode/codellama-13b"];
/// let candidate = |id: &&str| Candidate { model: ModelId::new(id).unwrap(), context_window: None };
/// let mut execution = Execution::new(models.iter().map(candidate).collect(), Policy::default());
/// let now = Duration::from_secs(300);
/// assert_eq!(execution.next(now), Step::Ask { index: 0, how: Ask::Plain });
/// execution.failed(0, &CallFault::new(Fault::TimedOut, "no answer within 300 s"), false, None, now);
/// let until = Duration::from_secs(301);
/// assert_eq!(execution.next(now), Step::Pause { until, why: Pause::Backoff });
/// assert_eq!(execution.next(until), Step::Ask { index: 1, how: Ask::Plain });
/// execution.answered(1);
/// assert!(execution.fallback());
/// ```
#[derive(Debug, Clone)]
pub struct Execution {
    policy: Policy,
    models: Vec<Model>,
    /// Counted attempts of all models.
    attempts: u32,
    /// The model to ask before all others.
    at_once: Option<usize>,
    /// No attempt before this time, for this reason.
    pause: Option<(Duration, Pause)>,
    /// Attempts in a row that our own network spoilt.
    network_down: u32,
    /// Models with more than this have their turn first in this round: a smaller window has just proved too small.
    window_wanted: Option<u32>,
    /// Since when nothing but breaker tests is left.
    nothing_left: Option<Duration>,
    answered: Option<usize>,
    latest: Duration,
}

impl Execution {
    /// An execution at its start. Without candidates it is exhausted at once.
    pub fn new(candidates: Vec<Candidate>, policy: Policy) -> Self {
        let model = |candidate: Candidate| Model {
            context_window: candidate.context_window,
            standing: Standing::In,
            attempts: 0,
            had_turn: false,
            refused: false,
            due: None,
            timed_out: false,
            bad_answer: false,
            truncated: false,
            how: Ask::Plain,
        };
        Self {
            policy,
            models: candidates.into_iter().map(model).collect(),
            attempts: 0,
            at_once: None,
            pause: None,
            network_down: 0,
            window_wanted: None,
            nothing_left: None,
            answered: None,
            latest: Duration::ZERO,
        }
    }

    /// What to do now (since any origin, the same in each call; a time before one already seen is taken for that one).
    /// The same again until something is reported or a pause ends.
    pub fn next(&mut self, now: Duration) -> Step {
        let now = self.advance(now);
        if self.answered.is_some() {
            return Step::Exhausted;
        }
        if let Some(index) = self.at_once {
            return self.ask(index);
        }
        match (self.in_turn(), self.pause) {
            (Some(_), Some((until, why))) if now < until => Step::Pause { until, why },
            (Some(index), _) => self.ask(index),
            (None, _) => self.test(now),
        }
    }

    fn ask(&self, index: usize) -> Step {
        let how = self.models.get(index).map_or(Ask::Plain, |model| model.how.clone());
        Step::Ask { index, how }
    }

    /// The model whose turn it is, in this round or in a new one. A new round needs something to have happened since
    /// the models that are left were refused.
    fn in_turn(&mut self) -> Option<usize> {
        if let Some(index) = self.in_this_round() {
            return Some(index);
        }
        self.window_wanted = None;
        for model in &mut self.models {
            model.had_turn = false;
        }
        self.in_this_round()
    }

    fn in_this_round(&self) -> Option<usize> {
        let waits = |model: &Model| {
            let left = model.attempts < self.policy.max_retries.get();
            // Once it waits for tests, a model that is known to be open is asked when its test is due and not before.
            let shut = self.nothing_left.is_some() && model.due.is_some();
            model.standing == Standing::In && left && !model.had_turn && !model.refused && !shut
        };
        let larger =
            |model: &Model| self.window_wanted.is_some_and(|wanted| model.context_window.is_some_and(|w| w > wanted));
        let preferred = self.models.iter().position(|model| waits(model) && larger(model));
        preferred.or_else(|| self.models.iter().position(waits))
    }

    /// Nothing is left but breaker tests: waits for the first that is due within the patience.
    fn test(&mut self, now: Duration) -> Step {
        if self.policy.outage_patience.is_zero() {
            return Step::Exhausted;
        }
        // While our own network is down no patience is used up.
        let since = match self.network_down {
            0 => *self.nothing_left.get_or_insert(now),
            1.. => now,
        };
        let patience_ends = since.saturating_add(self.policy.outage_patience);
        let open = self.models.iter().enumerate().filter(|(_, model)| model.standing != Standing::Out);
        let first = open.filter_map(|(index, model)| Some((model.due?, index))).min();
        // A test that falls due within the patience is made even when its caller wakes a little late.
        let Some((due, index)) = first.filter(|(due, _)| *due <= patience_ends) else {
            return Step::Exhausted;
        };
        match self.pause {
            Some((until, why @ Pause::OwnNetworkDown)) if now < until && due <= until => Step::Pause { until, why },
            _ if now < due => Step::Pause { until: due, why: Pause::BreakerTest { index } },
            // The breaker has paced this attempt already; no backoff on top.
            _ => self.ask(index),
        }
    }

    /// The model refused: no attempt, no pause. It is asked anew in a later round, once something has happened.
    pub fn refused(&mut self, index: usize, why: Refused, now: Duration) {
        let now = self.advance(now);
        self.at_once = self.at_once.filter(|at_once| *at_once != index);
        let Some(model) = self.models.get_mut(index) else {
            return;
        };
        model.had_turn = true;
        model.refused = true;
        match why {
            Refused::Open { retry_in } => {
                model.due = Some(now.saturating_add(retry_in.max(SHORTEST_TEST_WAIT)));
            }
            Refused::Unavailable { reason: _ } => model.standing = Standing::Out,
        }
    }

    /// An attempt failed. `own_network`: our own network is at fault, so it does not count against
    /// [`Policy::max_retries`]. `retry_in`: the remaining time of the model's breaker after this failure was recorded,
    /// `None` where it is closed. No [`Execution::next`] needs to have come before: the saved attempts of an execution
    /// that was interrupted are replayed with this, and the walk goes on behind them.
    pub fn failed(
        &mut self,
        index: usize,
        fault: &CallFault,
        own_network: bool,
        retry_in: Option<Duration>,
        now: Duration,
    ) {
        let rule = rule(&fault.fault, fault.should_retry);
        if fault.fault == Fault::Uncallable {
            return self.refused(index, Refused::Unavailable { reason: fault.message.clone() }, now);
        }
        let now = self.advance(now);
        if index >= self.models.len() {
            return;
        }
        self.at_once = None;
        for model in &mut self.models {
            model.refused = false;
        }
        let model = &mut self.models[index];
        model.had_turn = true;
        let due_in = |time: Duration| now.saturating_add(time.max(SHORTEST_TEST_WAIT));
        if own_network {
            // It says nothing about the model: a test that was spoilt so is still owed, and the patience begins anew.
            model.due = retry_in.or(model.due.map(|_| Duration::ZERO)).map(due_in);
            self.nothing_left = None;
            let delay = backoff(&self.policy, self.network_down);
            self.network_down = self.network_down.saturating_add(1);
            self.pause = Some((now.saturating_add(delay), Pause::OwnNetworkDown));
            return;
        }
        let delay = backoff(&self.policy, self.attempts);
        // A failure that the breaker took in is followed by the breaker's own rest. Any other leaves its place for a test
        // free at once, and only the backoff keeps the next one away.
        let uncounted = rule.breaker == BreakerEffect::None;
        let rest = if uncounted { delay } else { Duration::ZERO };
        model.due = retry_in.map(|time| due_in(time.max(rest)));
        let max = self.policy.max_retries.get();
        let was_test = model.attempts >= max || model.standing == Standing::OnlyTests;
        model.attempts = model.attempts.saturating_add(1);
        // A model that is back after an outage gets the same second chance as one that was never away.
        let left = if was_test { retry_in.is_none() } else { model.attempts < max };
        let timed_out_before = model.timed_out;
        model.timed_out |= fault.fault == Fault::TimedOut;
        match rule.again {
            Again::OnceInLaterRound if timed_out_before => model.standing = Standing::OnlyTests,
            Again::OnceInLaterRound | Again::LaterRound => {}
            Again::Never => {
                // A rate limit is over when its time is; the breaker knows when, and its test will tell.
                let for_a_time =
                    matches!(rule.breaker, BreakerEffect::OpenForRetryAfter(_)) && fault.should_retry.is_none();
                let standing = if for_a_time { Standing::OnlyTests } else { Standing::Out };
                model.standing = standing;
            }
            Again::OnceAtOnce => {
                let (before, how) = match fault.fault {
                    Fault::Truncated => (&mut model.truncated, Ask::HigherLimit),
                    _ => (&mut model.bad_answer, Ask::Repair { problem: fault.message.clone() }),
                };
                if std::mem::replace(before, true) {
                    model.standing = Standing::Out;
                } else {
                    model.how = how;
                    self.at_once = left.then_some(index);
                }
            }
        }
        self.attempts = self.attempts.saturating_add(1);
        self.network_down = 0;
        self.pause = match rule.next {
            NextModel::AtOnce => None,
            NextModel::AfterBackoff | NextModel::LargerWindowFirst | NextModel::None => {
                Some((now.saturating_add(delay), Pause::Backoff))
            }
        };
        if rule.next == NextModel::LargerWindowFirst {
            self.window_wanted = self.window_wanted.max(self.models[index].context_window);
        }
    }

    /// The model answered, and the answer is of use: the execution is over.
    pub fn answered(&mut self, index: usize) {
        self.answered = Some(index);
    }

    /// A model's breaker is closed again (another execution's test succeeded, or an operator reset it). A model that
    /// this execution believed to be open may be asked at once; others are as they were.
    pub fn recovered(&mut self, index: usize, now: Duration) {
        let now = self.advance(now);
        if let Some(model) = self.models.get_mut(index).filter(|model| model.due.is_some()) {
            model.due = Some(now);
            model.refused = false;
        }
    }

    /// Whether the answer came from another model than the first.
    pub fn fallback(&self) -> bool {
        self.answered.is_some_and(|index| index != 0)
    }

    /// Whether this model has given a useless answer in this execution: a further one does not count against its
    /// breaker ([`BreakerEffect::CountOncePerExecution`]).
    pub fn bad_answer_counted(&self, index: usize) -> bool {
        self.models.get(index).is_some_and(|model| model.bad_answer)
    }

    fn advance(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        self.latest
    }
}

/// `initial` × 2^`before`, at most `max`.
fn backoff(policy: &Policy, before: u32) -> Duration {
    let factor = 2u32.saturating_pow(before);
    policy.backoff_initial.saturating_mul(factor).min(policy.backoff_max)
}
