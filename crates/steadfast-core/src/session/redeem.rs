//! What stand-ins have done in the place of models, and whether it is time to have it done properly.
//!
//! Invariant: something is owed from the transition in which a stand-in takes a model's place until the one in which a model
//! has done the work, or for good, once it is left for a person.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{CommitId, RepoPath, Role};
use crate::session::state::{AgentResult, Milestone, Stage, Target};

/// The pause after a redemption that did not come off; each further one is twice as long, up to [`LONGEST_PAUSE_MS`].
const FIRST_PAUSE_MS: u64 = 60 * 1000;
/// See [`FIRST_PAUSE_MS`].
const LONGEST_PAUSE_MS: u64 = 4 * 3600 * 1000;
/// Redemptions in a row that do not come off, before the work is left for a person: with the pauses between them they fill
/// the default `redeem_within` of a day.
const MAX_TRIES: u32 = 12;
/// Rounds of one redemption are numbered from a multiple of this, so that no answer is taken for one that was given to an
/// earlier question about another commit.
pub(crate) const ROUNDS: u32 = 1000;

/// Something that a stand-in has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Owed {
    /// The plan: it is the template.
    Plan,
    /// The files of this milestone (from 1): a manual task lies there.
    Milestone(u32),
    /// The review of this milestone (from 1): it was checked statically.
    Review(u32),
}

impl Owed {
    /// Whose work it is.
    pub fn role(self) -> Role {
        match self {
            Self::Plan => Role::Planner,
            Self::Milestone(_) => Role::Coder,
            Self::Review(_) => Role::Reviewer,
        }
    }

    /// What stands in for it, as reports and trailers name it.
    pub fn stand_in(self) -> &'static str {
        match self {
            Self::Plan => "template",
            Self::Milestone(_) => "manual",
            Self::Review(_) => "static-checks",
        }
    }

    /// The milestone that it belongs to; `None` for the plan.
    pub fn milestone(self) -> Option<u32> {
        match self {
            Self::Plan => None,
            Self::Milestone(index) | Self::Review(index) => Some(index),
        }
    }
}

/// Something owed, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// What.
    pub what: Owed,
    /// Milliseconds since 1970.
    pub since_ms: u64,
}

/// A redemption that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtWork {
    /// Of what.
    pub what: Owed,
    /// The milestone as it stood, which is put back when no model does the work after all; `None` for the plan.
    pub before: Option<Milestone>,
    /// The commit that a milestone was built on whose review is made up for; else the work builds on the branch's tip.
    pub base: Option<CommitId>,
}

/// Something that a model has done after all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// What.
    pub what: Owed,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The commit that it brought; `None` where it brought none by itself: a plan, a review.
    pub commit: Option<CommitId>,
}

/// What a session owes, and what it has made good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debts {
    /// In no order; each thing once.
    owed: Vec<Debt>,
    /// `None` while nothing is made up for.
    pub at_work: Option<AtWork>,
    /// Redemptions in a row that did not come off.
    tries: u32,
    /// No redemption begins before: milliseconds since 1970.
    not_before_ms: u64,
    /// Oldest first.
    pub redeemed: Vec<Redeemed>,
    /// Why what is still owed is left for a person, for good.
    pub left: Option<String>,
}

/// What is to be done about a session's debts now.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Nothing is owed, or what is owed is left for a person already.
    Nothing,
    /// All that is owed is older than it may be.
    TooOld,
    /// One of these as soon as a model of its role can be asked, the first that can: never empty.
    Now(Vec<Owed>),
    /// The same, but not before this time (milliseconds since 1970), unless a model has recovered since the last try.
    From(u64, Vec<Owed>),
}

impl Debts {
    /// A stand-in has done this. What is owed already stays as old as it is.
    pub fn owe(&mut self, what: Owed, now_ms: u64) {
        if !self.owed.iter().any(|debt| debt.what == what) {
            self.owed.push(Debt { what, since_ms: now_ms });
        }
    }

    /// This is not owed any more.
    pub(crate) fn clear(&mut self, what: Owed) {
        self.owed.retain(|debt| debt.what != what);
    }

    /// Whether somebody may still make up for something.
    pub fn are_open(&self) -> bool {
        !self.owed.is_empty() && self.left.is_none()
    }

    /// What is owed: the plan first, then files, then reviews, each in the order of the milestones.
    pub fn owed(&self) -> Vec<Owed> {
        let mut owed: Vec<Owed> = self.owed.iter().map(|debt| debt.what).collect();
        owed.sort_unstable();
        owed
    }

    /// What is to be done now. `within`: nothing that is owed for longer is made up for.
    pub fn due(&self, now_ms: u64, within: Duration) -> Due {
        if !self.are_open() || self.at_work.is_some() {
            return Due::Nothing;
        }
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        // A clock that was set back makes nothing older.
        let is_fresh = |debt: &&Debt| now_ms.saturating_sub(debt.since_ms) <= within_ms;
        let mut fresh: Vec<Owed> = self.owed.iter().filter(is_fresh).map(|debt| debt.what).collect();
        fresh.sort_unstable();
        match fresh.is_empty() {
            true => Due::TooOld,
            false if now_ms < self.not_before_ms => Due::From(self.not_before_ms, fresh),
            false => Due::Now(fresh),
        }
    }

    /// What is owed is left for a person, for good.
    #[must_use]
    pub fn leave(mut self, why: &str) -> Self {
        self.left = Some(why.to_owned());
        self
    }

    /// A redemption did not come off. `for_good`: no other try would either.
    pub(crate) fn missed(&mut self, why: String, for_good: bool, now_ms: u64) {
        self.at_work = None;
        let pause = FIRST_PAUSE_MS << self.tries.min(16);
        self.tries += 1;
        self.not_before_ms = now_ms + pause.min(LONGEST_PAUSE_MS);
        if for_good {
            self.left = Some(why);
        } else if self.tries >= MAX_TRIES {
            self.left = Some(format!("{why}, in {} tries", self.tries));
        }
    }

    /// A model has done what is at work.
    pub(crate) fn made_good(&mut self, commit: Option<CommitId>, now_ms: u64) {
        if let Some(AtWork { what, .. }) = self.at_work.take() {
            self.clear(what);
            self.tries = 0;
            self.not_before_ms = 0;
            self.redeemed.push(Redeemed { what, at_ms: now_ms, commit });
        }
    }

    /// The number of the first round of the next redemption.
    pub(crate) fn first_round(&self) -> u32 {
        ROUNDS * (self.redeemed.len() as u32 + 1)
    }

    /// Files of the manual task that the milestone at work takes the place of; empty where there is none.
    pub fn task_files(&self) -> &[RepoPath] {
        let before = self.at_work.as_ref().and_then(|at_work| at_work.before.as_ref());
        before.and_then(|milestone| milestone.manual.as_deref()).unwrap_or_default()
    }
}

/// The milestone at the start of its redemption: what was written of it stays, unless somebody has changed those files
/// since; the rest is asked for. `None`: nothing of it can be asked for.
pub(crate) fn anew(before: &Milestone, touched: &BTreeSet<RepoPath>, first_round: u32) -> Option<Milestone> {
    let mut milestone = before.clone();
    milestone.stage = Stage::Writing;
    milestone.attempt += 1;
    milestone.round = first_round;
    milestone.checks = Vec::new();
    milestone.review = None;
    milestone.manual = None;
    milestone.commit = None;
    for agent in &mut milestone.agents {
        let stays = match &agent.result {
            Some(AgentResult::Done(done)) => !done.paths.iter().any(|path| touched.contains(path)),
            // A path that must not be touched stays refused, whoever is asked.
            Some(AgentResult::Failed(_)) => matches!(agent.target, Target::Refused { .. }),
            None => false,
        };
        if !stays {
            agent.result = None;
        }
    }
    milestone.agents.iter().any(|agent| agent.result.is_none()).then_some(milestone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MINUTE: u64 = 60 * 1000;

    fn debts(owed: &[(Owed, u64)]) -> Debts {
        let mut debts = Debts::default();
        owed.iter().for_each(|(what, since_ms)| debts.owe(*what, *since_ms));
        debts
    }

    #[test]
    fn the_plan_is_due_first_then_files_then_reviews() {
        let debts = debts(&[(Owed::Review(1), 5), (Owed::Milestone(3), 5), (Owed::Milestone(2), 5), (Owed::Plan, 5)]);
        let all = vec![Owed::Plan, Owed::Milestone(2), Owed::Milestone(3), Owed::Review(1)];
        assert_eq!(debts.due(6, DAY), Due::Now(all.clone()));
        assert_eq!(debts.owed(), all);
        assert_eq!(Debts::default().due(6, DAY), Due::Nothing);
    }

    #[test]
    fn what_is_older_than_redeem_within_is_not_due_and_what_is_younger_is() {
        let within = Duration::from_millis(1000);
        let debts = debts(&[(Owed::Milestone(1), 0), (Owed::Milestone(2), 500)]);
        assert_eq!(debts.due(1000, within), Due::Now(vec![Owed::Milestone(1), Owed::Milestone(2)]));
        assert_eq!(debts.due(1001, within), Due::Now(vec![Owed::Milestone(2)]));
        assert_eq!(debts.due(1501, within), Due::TooOld);
    }

    #[test]
    fn what_is_owed_twice_is_as_old_as_the_first_time() {
        let debts = debts(&[(Owed::Review(1), 0), (Owed::Review(1), 900)]);
        assert_eq!(debts.due(1001, Duration::from_millis(1000)), Due::TooOld);
    }

    #[test]
    fn pauses_double_and_are_bounded_and_so_are_the_tries() {
        let mut debts = debts(&[(Owed::Milestone(1), 0)]);
        let mut now = 0;
        let mut pauses = Vec::new();
        while let Due::Now(_) = debts.due(now, Duration::MAX) {
            debts.missed("no coder answered".to_owned(), false, now);
            if let Due::From(at, _) = debts.due(now, Duration::MAX) {
                pauses.push((at - now) / MINUTE);
                now = at;
            }
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 240, 240, 240]);
        assert_eq!(debts.left.as_deref(), Some("no coder answered, in 12 tries"));
        assert_eq!((debts.due(now, Duration::MAX), debts.are_open()), (Due::Nothing, false));
    }

    #[test]
    fn what_was_made_good_is_owed_no_more_and_the_next_one_is_tried_at_once() {
        let mut debts = debts(&[(Owed::Milestone(1), 0), (Owed::Review(2), 0)]);
        debts.missed("no coder answered".to_owned(), false, 10);
        debts.at_work = Some(AtWork { what: Owed::Milestone(1), before: None, base: None });
        debts.made_good(None, 20);
        assert_eq!(debts.due(21, DAY), Due::Now(vec![Owed::Review(2)]));
        assert_eq!(debts.redeemed.len(), 1);
        assert_eq!(debts.first_round(), 2000);
    }
}
