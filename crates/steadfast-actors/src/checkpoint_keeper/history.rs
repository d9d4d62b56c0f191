//! How the executions of a session went: from its answers and logs while they are there, afterwards from what was kept.

use std::cmp::Ordering;
use std::collections::HashMap;

use steadfast_core::ids::{Role, SessionId};
use steadfast_core::session::{AgentState, Milestone, StepKey, Target, Writer};
use steadfast_store::{Key, Prefix, Scan, decode};

use super::read::{scan, value};
use super::{ANSWER, HISTORY, Keeper, KeeperError, answer_key, history_key};
use crate::records::{Answer, StepRecord};

impl Keeper {
    /// How each role execution of a session went, in the order of the work: the plan, then of each milestone the files and
    /// the review, round by round. Empty for a session that was packed before histories were kept.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn history(&self, session: &SessionId) -> Result<Vec<StepRecord>, KeeperError> {
        let mut steps: Vec<StepRecord> = value(self.store(), &history_key(session), HISTORY)?.unwrap_or_default();
        let mut names = Names::new(self, session);
        for (key, log) in self.execution_logs(session)? {
            // `x/<try>/<step>`
            let step = key.name().splitn(3, '/').nth(2).unwrap_or_default();
            let step = names.step(step)?;
            steps.push(StepRecord { step, writer: None, attempts: log.attempts, spent: log.spent });
        }
        for (key, record) in scan(self.store(), &Scan::all(Prefix::session_parts_named(session, "a/")))? {
            let Answer { model, fallback, attempts, spent, .. } = decode(ANSWER, &record)?;
            let step = names.step(key.name().strip_prefix("a/").unwrap_or_default())?;
            steps.push(StepRecord { step, writer: Some(Writer::Model { model, fallback }), attempts, spent });
        }
        // Stable: tries without an answer stay before the one that has it.
        steps.sort_by(|one, other| order(&one.step, &other.step));
        Ok(steps)
    }
}

/// A shorter name in a key is whole.
const CUT_FROM: usize = 140;

fn order(one: &StepKey, other: &StepKey) -> Ordering {
    let rank = |role: Role| match role {
        Role::Planner => 0,
        Role::Coder => 1,
        Role::Reviewer => 2,
    };
    let place = |key: &StepKey| {
        let place = key.place();
        // What a later version has named otherwise comes last.
        place.map_or((u32::MAX, 0, 0), |place| (place.milestone.unwrap_or(0), place.round, rank(place.role)))
    };
    place(one).cmp(&place(other)).then_with(|| one.cmp(other))
}

/// Finds the whole names of steps: keys hold long ones only in part.
struct Names<'a> {
    keeper: &'a Keeper,
    session: &'a SessionId,
    /// By the key of the answer; made when the first one is looked for.
    known: Option<HashMap<Key, StepKey>>,
}

impl<'a> Names<'a> {
    fn new(keeper: &'a Keeper, session: &'a SessionId) -> Self {
        Self { keeper, session, known: None }
    }

    fn step(&mut self, name: &str) -> Result<StepKey, KeeperError> {
        let key = StepKey::from_text(name);
        let (start, _hash) = match name.rsplit_once('#') {
            Some(cut) if name.len() >= CUT_FROM => cut,
            Some(_) | None => return Ok(key),
        };
        let known = match &mut self.known {
            Some(known) => known,
            None => self.known.insert(known(self.keeper, self.session)?),
        };
        // A log's key is cut at another place than the answer's of the same step, so both ends are tried.
        let whole = known.get(&answer_key(self.session, &key)).or_else(|| {
            let mut fitting = known.values().filter(|step| step.as_str().starts_with(start));
            fitting.next().filter(|_| fitting.next().is_none())
        });
        Ok(whole.cloned().unwrap_or(key))
    }
}

/// The steps of every file of a session whose name a key cannot hold whole.
fn known(keeper: &Keeper, session: &SessionId) -> Result<HashMap<Key, StepKey>, KeeperError> {
    let milestones = keeper.record(session)?.map(|record| record.milestones).unwrap_or_default();
    let steps = milestones.iter().flat_map(|milestone| milestone.agents.iter().flat_map(|agent| of(milestone, agent)));
    let long = steps.map(|step| (answer_key(session, &step), step)).filter(|(key, _)| key.name().contains('#'));
    Ok(long.collect())
}

fn of(milestone: &Milestone, agent: &AgentState) -> Vec<StepKey> {
    let Target::File { path, .. } = &agent.target else { return Vec::new() };
    (0..=milestone.round).map(|round| StepKey::coder(milestone.index, round, Some(path))).collect()
}
