//! How long a role's first model may take: raised where its timeouts are what makes others answer (SPEC 13, `auto_timeout`).
//!
//! Invariant: only a timeout counts, for more time cures nothing else; and no raise goes beyond [`MAX_RAISES`] steps above
//! what is configured.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::ids::ModelId;
use crate::session::{Attempt, AttemptOutcome};

/// What one raise adds (SPEC 13).
pub const RAISE: Duration = Duration::from_secs(60);
/// Raises of one model at most: together as much as the default timeout of 5 min, which they double. A model that needs more
/// is the wrong first model.
pub const MAX_RAISES: u32 = 5;
/// Executions that are looked back upon. A number of them, not a time: a raise is judged by what came after it.
const WINDOW: usize = 20;
/// Fewer slow ones are no pattern, whatever part of the window they are: as many as open a breaker by default.
const MIN_SLOW: usize = 3;

/// What an execution says of its role's first model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstModel {
    /// Every call of it timed out, and another model answered.
    Slow,
    /// It was called, and something else came of it.
    Called,
}

/// What an execution says of `first`; `None` where it was not called at all, because its breaker was open, say.
pub fn judge(first: &ModelId, attempts: &[Attempt], fallback: bool) -> Option<FirstModel> {
    let (mut n_calls, mut n_timeouts) = (0, 0);
    for attempt in attempts.iter().filter(|attempt| attempt.model == *first) {
        match &attempt.outcome {
            AttemptOutcome::Answered => n_calls += 1,
            AttemptOutcome::Failed { fault, .. } => {
                n_calls += 1;
                n_timeouts += usize::from(*fault == Fault::TimedOut);
            }
            AttemptOutcome::Refused { .. } => {}
        }
    }
    match (n_calls, n_timeouts) {
        (0, _) => None,
        (calls, timeouts) if fallback && calls == timeouts => Some(FirstModel::Slow),
        (_, _) => Some(FirstModel::Called),
    }
}

/// How far a model's timeout was raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Raised {
    /// The timeout that was configured then, in milliseconds: under another one, the operator has decided anew.
    configured_ms: u64,
    /// Raises so far, 1 to [`MAX_RAISES`].
    times: u32,
}

/// How far timeouts were raised, by model; what is kept over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raises(BTreeMap<ModelId, Raised>);

/// The timeouts of first models.
#[derive(Debug, Clone, Default)]
pub struct Timeouts {
    raises: Raises,
    /// By model, the newest last: whether it was slow. Begins anew with a raise and with a process.
    recent: HashMap<ModelId, VecDeque<bool>>,
}

impl Timeouts {
    /// Goes on with what was raised before.
    pub fn new(raises: Raises) -> Self {
        Self { raises, recent: HashMap::new() }
    }

    /// What is to be kept.
    pub fn raises(&self) -> &Raises {
        &self.raises
    }

    /// What is added to the configured timeout of a model; zero where nothing was raised, or where another timeout is
    /// configured by now.
    pub fn raised_by(&self, model: &ModelId, configured: Duration) -> Duration {
        let raised = self.raises.0.get(model).filter(|raised| raised.configured_ms == millis(configured));
        raised.map_or(Duration::ZERO, |raised| RAISE * raised.times.min(MAX_RAISES))
    }

    /// Takes in what an execution says of its first model. `true`: its timeout is raised from now on, because more than
    /// 20 % of the executions in which it was lately called went to another model for its timeouts alone.
    #[must_use]
    pub fn count(&mut self, model: &ModelId, configured: Duration, what: FirstModel) -> bool {
        let recent = self.recent.entry(model.clone()).or_default();
        if recent.len() == WINDOW {
            recent.pop_front();
        }
        recent.push_back(what == FirstModel::Slow);
        let n_slow = recent.iter().filter(|slow| **slow).count();
        if what != FirstModel::Slow || n_slow < MIN_SLOW || n_slow * 5 <= recent.len() {
            return false;
        }
        let configured_ms = millis(configured);
        let before = self.raises.0.get(model).filter(|raised| raised.configured_ms == configured_ms);
        let times = before.map_or(0, |raised| raised.times);
        if times >= MAX_RAISES {
            return false;
        }
        recent.clear();
        self.raises.0.insert(model.clone(), Raised { configured_ms, times: times + 1 });
        true
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Usage;

    const CONFIGURED: Duration = Duration::from_secs(300);

    fn model(name: &str) -> ModelId {
        ModelId::new(&format!("p/{name}")).unwrap()
    }

    fn attempt(name: &str, outcome: AttemptOutcome) -> Attempt {
        Attempt { model: model(name), outcome, duration_ms: 1, usage: Usage::default() }
    }

    fn failed(fault: Fault) -> AttemptOutcome {
        AttemptOutcome::Failed { fault, message: String::new(), own_network: false }
    }

    /// Counts `s` as slow, anything else as a call; how many raises came of it.
    fn counted(timeouts: &mut Timeouts, calls: &str) -> usize {
        let what = |c| if c == 's' { FirstModel::Slow } else { FirstModel::Called };
        calls.chars().filter(|c| timeouts.count(&model("one"), CONFIGURED, what(*c))).count()
    }

    #[test]
    fn only_a_fallback_for_timeouts_alone_is_slow() {
        let judged = |attempts: &[Attempt], fallback| judge(&model("one"), attempts, fallback);
        let slow = attempt("one", failed(Fault::TimedOut));
        let other = attempt("two", AttemptOutcome::Answered);
        assert_eq!(judged(&[slow.clone(), other.clone()], true), Some(FirstModel::Slow));
        assert_eq!(judged(&[slow.clone(), slow.clone(), other.clone()], true), Some(FirstModel::Slow));
        let mixed = [slow.clone(), attempt("one", failed(Fault::Unavailable)), other.clone()];
        assert_eq!(judged(&mixed, true), Some(FirstModel::Called));
        assert_eq!(judged(&[slow.clone(), attempt("one", AttemptOutcome::Answered)], false), Some(FirstModel::Called));
        // Nobody answered: more time for the first would have been another question.
        assert_eq!(judged(std::slice::from_ref(&slow), false), Some(FirstModel::Called));
        let refused = attempt("one", AttemptOutcome::Refused { reason: "open".to_owned() });
        assert_eq!(judged(&[refused, attempt("two", failed(Fault::TimedOut)), other], true), None);
    }

    #[test]
    fn a_timeout_is_raised_above_a_fifth_and_not_at_a_fifth() {
        let mut timeouts = Timeouts::default();
        assert_eq!(counted(&mut timeouts, "ss............s"), 0, "3 of 15 are a fifth");
        assert_eq!(timeouts.raised_by(&model("one"), CONFIGURED), Duration::ZERO);
        assert_eq!(counted(&mut timeouts, "s"), 1, "4 of 16 are more");
        assert_eq!(timeouts.raised_by(&model("one"), CONFIGURED), RAISE);
        assert_eq!(timeouts.raised_by(&model("two"), CONFIGURED), Duration::ZERO);
    }

    #[test]
    fn two_slow_calls_are_no_pattern() {
        assert_eq!(counted(&mut Timeouts::default(), "ss"), 0);
        assert_eq!(counted(&mut Timeouts::default(), "sss"), 1);
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        // 5 of all 23 would be more than a fifth; of the last 20 only 3 are left.
        assert_eq!(counted(&mut Timeouts::default(), "ss..................sss"), 0);
    }

    #[test]
    fn a_raise_is_judged_by_what_comes_after_it() {
        let mut timeouts = Timeouts::default();
        assert_eq!(counted(&mut timeouts, "sssss"), 1);
        assert_eq!(counted(&mut timeouts, "s"), 1);
        assert_eq!(timeouts.raised_by(&model("one"), CONFIGURED), RAISE * 2);
    }

    #[test]
    fn raises_are_bounded() {
        let mut timeouts = Timeouts::default();
        assert_eq!(counted(&mut timeouts, &"s".repeat(100)), MAX_RAISES as usize);
        assert_eq!(timeouts.raised_by(&model("one"), CONFIGURED), RAISE * MAX_RAISES);
    }

    #[test]
    fn raises_survive_a_restart_and_end_with_another_configured_timeout() {
        let mut timeouts = Timeouts::default();
        assert_eq!(counted(&mut timeouts, "sss"), 1);
        let mut next = Timeouts::new(timeouts.raises().clone());
        assert_eq!(next.raised_by(&model("one"), CONFIGURED), RAISE);
        let other = Duration::from_secs(400);
        assert_eq!(next.raised_by(&model("one"), other), Duration::ZERO);
        for at in 0..3 {
            assert_eq!(next.count(&model("one"), other, FirstModel::Slow), at == 2);
        }
        assert_eq!(next.raised_by(&model("one"), other), RAISE, "counted from the new one");
        assert_eq!(next.raised_by(&model("one"), CONFIGURED), Duration::ZERO);
    }
}
