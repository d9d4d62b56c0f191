//! The transitions of a session. No clock, no log, no IO: the shell carries out [`Action`]s and reports [`Event`]s.

use std::collections::BTreeSet;

use crate::ids::{CommitId, RepoPath};
use crate::plan::{Plan, ReviewIssue};
use crate::session::redeem::{self, AtWork, Debts, Owed};
use crate::session::state::{
    AgentDone, AgentResult, CheckOutcome, CommitIntent, Interrupt, Milestone, Phase, ReviewOutcome, Session, Stage,
    StepKey, Target, Writer,
};
use crate::tally::{MinSuccessRate, Verdict};

/// Abnormal ends in a row after which a session is parked (SPEC 7).
const MAX_ABNORMAL_ENDS: u32 = 3;

/// What the operator configured about the way of a session (SPEC 6, 7).
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Further tries of a milestone whose success rate was too low.
    pub milestone_retries: u32,
    /// Rounds of fixes after a rejected review or a failed check.
    pub max_review_rounds: u32,
    /// `false`: anything under 100 % is too low.
    pub partial_success: bool,
    /// The least fraction of agents that must succeed.
    pub min_success_rate: MinSuccessRate,
    /// `false`: a session stops as failed where it would degrade.
    pub graceful_degradation: bool,
    /// Some check is configured.
    pub has_checks: bool,
    /// What stand-ins do is remembered, to be made up for.
    pub redeem: bool,
}

impl Policy {
    /// The verdict on a milestone as its agents stand.
    pub fn verdict(&self, milestone: &Milestone) -> Verdict {
        milestone.tally().verdict(self.partial_success, self.min_success_rate)
    }
}

/// One file agent to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTask {
    /// Its place in [`Milestone::agents`].
    pub place: usize,
    /// What it is to do.
    pub target: Target,
    /// The name of its execution.
    pub step: StepKey,
    /// The try it belongs to, from 0.
    pub attempt: u32,
}

/// What to do next. Every action can be done again after a crash without doing anything twice.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the planner.
    Plan,
    /// Run the checks on the base commit, to know what failed before.
    Baseline,
    /// Run these file agents. Agents that are not named keep their result.
    Write {
        /// Ascending by place, never empty.
        agents: Vec<AgentTask>,
        /// The files go back to the milestone's start first (SPEC 6, too low).
        roll_back: bool,
    },
    /// Put a manual task in the place of the milestone's files.
    Degrade,
    /// Run the configured checks.
    Check,
    /// Ask the reviewer.
    Review {
        /// The name of its execution.
        step: StepKey,
        /// There is nothing for a reviewer to read: basic static checks only.
        static_only: bool,
    },
    /// Make this commit and move the branch.
    Commit(CommitIntent),
    /// Nothing: the session is over, or waits to be resumed.
    Rest,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// There is a plan.
    Planned {
        /// At least one milestone.
        plan: Plan,
        /// It is the template.
        degraded: bool,
    },
    /// The checks were run on the base commit; these commands failed.
    BaselineChecked(Vec<String>),
    /// All the agents of [`Action::Write`] ended, by place.
    AgentsEnded(Vec<(usize, AgentResult)>),
    /// The manual task was written to these files.
    Degraded(Vec<RepoPath>),
    /// The configured checks ran.
    Checked(Vec<CheckOutcome>),
    /// The reviewer, or its stand-in, has spoken.
    Reviewed(ReviewOutcome),
    /// The commit is on the branch; `None`: nothing had changed.
    Committed(Option<CommitId>),
    /// It cannot go on.
    Failed(String),
    /// It stands still until resumed.
    Interrupted(Interrupt),
    /// Another session was quicker with the branch; nothing is on it yet, and this is the next free name.
    BranchTaken(String),
    /// The process that carried it ended without saving it. After three of them with nothing committed
    /// in between, and no orderly interrupt, it is parked.
    EndedAbnormally,
    /// It goes on after an interrupt.
    Resumed,
    /// A failed or cancelled session is taken up again at its last good milestone.
    Retried,
    /// A completed session is taken up again, to have a model do what a stand-in has done.
    Redeem {
        /// What.
        what: Owed,
        /// The milestone that it belongs to, as it is kept; `None` for the plan.
        milestone: Option<Box<Milestone>>,
        /// For a review: the commit that the milestone was built on.
        base: Option<CommitId>,
        /// For files: those that other milestones have changed since.
        touched: BTreeSet<RepoPath>,
    },
    /// No model did what is being made up for; for a person. The stand-in's work stays.
    NotRedeemed(String),
    /// Its owner stopped it.
    Cancelled,
}

/// What must be recorded along with a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// The agents of a try were judged.
    Judged {
        /// Agents that succeeded.
        ok: u32,
        /// All agents.
        all: u32,
        /// By SPEC 6's table.
        verdict: Verdict,
        /// The milestone is tried again.
        again: bool,
    },
    /// A round of fixes begins.
    FixesWanted {
        /// From 1.
        round: u32,
    },
    /// The current milestone is done: its failed files, its rejection or its manual task become issues now.
    MilestoneDone,
    /// The session reached a final phase.
    Ended,
    /// A redemption did not come off; the milestone stands again as it stood before.
    PutBack {
        /// For a person.
        why: String,
        /// It will not be tried again.
        for_good: bool,
    },
    /// This was made good.
    MadeGood(Owed),
}

/// A session at work.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The head.
    pub session: Session,
    /// `None` before planning is over.
    pub plan: Option<Plan>,
    /// The milestone [`Session::current`]; `None` before planning is over.
    pub milestone: Option<Milestone>,
    /// What stand-ins have done, and what of it was made good.
    pub debts: Debts,
}

impl Run {
    /// A session of which only the head is known.
    pub fn of(session: Session) -> Self {
        Self { session, plan: None, milestone: None, debts: Debts::default() }
    }

    /// What is being made up for.
    pub fn redeeming(&self) -> Option<Owed> {
        self.debts.at_work.as_ref().map(|at_work| at_work.what)
    }

    /// The commit that the milestone at work builds on.
    pub fn base(&self) -> &CommitId {
        let base = self.debts.at_work.as_ref().and_then(|at_work| at_work.base.as_ref());
        base.unwrap_or(&self.session.tip)
    }

    /// What comes next, from the state alone.
    pub fn action(&self, policy: &Policy) -> Action {
        if self.session.interrupt.is_some() {
            return Action::Rest;
        }
        match self.session.phase {
            Phase::Queued | Phase::Planning => return Action::Plan,
            Phase::Completed | Phase::Failed | Phase::Cancelled => return Action::Rest,
            Phase::Implementing | Phase::Reviewing => {}
        }
        let Some(milestone) = &self.milestone else { return Action::Plan };
        if policy.has_checks && self.session.failing_before.is_none() {
            return Action::Baseline;
        }
        match &milestone.stage {
            Stage::Writing => Action::Write {
                agents: tasks(milestone, |place| milestone.agents[place].result.is_none()),
                roll_back: milestone.attempt > 0,
            },
            Stage::Fixing { agents } => {
                Action::Write { agents: tasks(milestone, |place| agents.contains(&(place as u32))), roll_back: false }
            }
            Stage::Degrading => Action::Degrade,
            Stage::Checking => Action::Check,
            Stage::Reviewing => Action::Review {
                step: StepKey::review(milestone.index, milestone.round),
                static_only: milestone.manual.is_some(),
            },
            Stage::Committing(intent) => Action::Commit(intent.clone()),
            Stage::Done => Action::Rest,
        }
    }

    /// Takes in what happened. `now_ms`: milliseconds since 1970. An event that does not fit the state (a late one)
    /// changes nothing and brings no [`Follow`].
    pub fn apply(&mut self, event: Event, policy: &Policy, now_ms: u64) -> Vec<Follow> {
        self.session.updated_ms = now_ms;
        match event {
            Event::Planned { plan, degraded } => self.planned(plan, degraded, policy, now_ms),
            Event::BaselineChecked(failing) => {
                self.session.failing_before = Some(failing);
                Vec::new()
            }
            Event::AgentsEnded(results) => self.agents_ended(results, policy, now_ms),
            Event::Degraded(files) => self.degraded(files, policy, now_ms),
            Event::Checked(checks) => self.checked(checks),
            Event::Reviewed(review) => self.reviewed(review, policy, now_ms),
            Event::Committed(commit) => self.committed(commit),
            // A session that was over stays as it was, whatever keeps somebody from making up for a part of it.
            Event::Failed(error) if self.redeeming().is_some() => self.put_back(error, true, now_ms),
            Event::Cancelled if self.redeeming().is_some() => {
                self.put_back("its owner stopped it".to_owned(), true, now_ms)
            }
            // Its budget is spent; that of a day is another one tomorrow.
            Event::Interrupted(Interrupt { reason, parked: true, .. }) if self.redeeming().is_some() => {
                self.put_back(reason, false, now_ms)
            }
            Event::NotRedeemed(why) => self.put_back(why, false, now_ms),
            Event::Redeem { what, milestone, base, touched } => {
                self.redeem(what, milestone.map(|milestone| *milestone), base, &touched, now_ms)
            }
            Event::Failed(error) => {
                self.session.error = Some(error);
                self.end(Phase::Failed)
            }
            Event::Interrupted(interrupt) if !self.session.phase.is_final() => {
                self.session.interrupt = Some(interrupt);
                self.session.abnormal_ends = 0;
                Vec::new()
            }
            Event::Interrupted(_) => Vec::new(),
            Event::BranchTaken(other) => {
                self.session.branch = other;
                Vec::new()
            }
            Event::EndedAbnormally => {
                self.ended_abnormally(now_ms);
                Vec::new()
            }
            Event::Resumed => {
                if self.session.interrupt.take().is_some_and(|interrupt| interrupt.parked) {
                    // A person wants it to be tried anew.
                    self.session.abnormal_ends = 0;
                }
                Vec::new()
            }
            Event::Retried => self.retried(),
            Event::Cancelled if self.session.phase.is_final() => Vec::new(),
            Event::Cancelled => self.end(Phase::Cancelled),
        }
    }

    /// The session has left the queue.
    pub fn start(&mut self, now_ms: u64) {
        if self.session.phase == Phase::Queued {
            self.session.phase = Phase::Planning;
            self.session.updated_ms = now_ms;
        }
    }

    fn ended_abnormally(&mut self, now_ms: u64) {
        let session = &mut self.session;
        let at_work = matches!(session.phase, Phase::Planning | Phase::Implementing | Phase::Reviewing);
        if !at_work || session.interrupt.is_some() {
            return;
        }
        session.abnormal_ends += 1;
        if session.abnormal_ends >= MAX_ABNORMAL_ENDS {
            let reason = format!(
                "it was at work in {} abnormal ends of the process in a row, so it may be what ends it",
                session.abnormal_ends
            );
            session.interrupt = Some(Interrupt { reason, at_ms: now_ms, emergency: false, parked: true });
        }
    }

    /// Begins to make up for something. What does not fit (it is owed no more, the session is at work) changes nothing.
    fn redeem(
        &mut self,
        what: Owed,
        milestone: Option<Milestone>,
        base: Option<CommitId>,
        touched: &BTreeSet<RepoPath>,
        now_ms: u64,
    ) -> Vec<Follow> {
        let is_open = self.debts.are_open() && self.debts.owed().contains(&what) && self.redeeming().is_none();
        let is_its_own = milestone.as_ref().map(|milestone| milestone.index) == what.milestone();
        if self.session.phase != Phase::Completed || !is_open || !is_its_own {
            return Vec::new();
        }
        let at_work = match milestone.clone() {
            None => {
                self.session.phase = Phase::Planning;
                None
            }
            Some(mut before) => {
                let first_round = self.debts.first_round();
                match what {
                    Owed::Review(_) => {
                        before.stage = Stage::Reviewing;
                        self.session.phase = Phase::Reviewing;
                        Some(before)
                    }
                    Owed::Plan | Owed::Milestone(_) => match redeem::anew(&before, touched, first_round) {
                        Some(anew) => {
                            self.session.phase = Phase::Implementing;
                            Some(anew)
                        }
                        None => {
                            let why = "every file of it is one that must not be touched".to_owned();
                            return self.put_back(why, true, now_ms);
                        }
                    },
                }
            }
        };
        if let Some(at_work) = at_work {
            self.session.current = at_work.index;
            self.milestone = Some(at_work);
        }
        self.session.abnormal_ends = 0;
        self.debts.at_work = Some(AtWork { what, before: milestone, base });
        Vec::new()
    }

    /// Everything stands again as it stood before the redemption.
    fn put_back(&mut self, why: String, for_good: bool, now_ms: u64) -> Vec<Follow> {
        if let Some(before) = self.debts.at_work.take().and_then(|at_work| at_work.before) {
            self.milestone = Some(before);
        }
        self.debts.missed(why.clone(), for_good, now_ms);
        let for_good = self.debts.left.is_some();
        let mut follow = vec![Follow::PutBack { why, for_good }];
        self.session.current = self.session.n_milestones;
        follow.extend(self.end(Phase::Completed));
        follow
    }

    fn planned(&mut self, plan: Plan, degraded: bool, policy: &Policy, now_ms: u64) -> Vec<Follow> {
        if !matches!(self.session.phase, Phase::Queued | Phase::Planning) {
            return Vec::new();
        }
        if self.redeeming().is_some() {
            // The template's milestones are done and stay; those of the plan come after them.
            let first = self.session.n_milestones + 1;
            let mut milestones = self.plan.take().map(|before| before.milestones).unwrap_or_default();
            milestones.extend(plan.milestones);
            self.session.n_milestones = milestones.len() as u32;
            self.session.plan_degraded = false;
            self.plan = Some(Plan { milestones, ..plan });
            self.debts.made_good(None, now_ms);
            let mut follow = vec![Follow::MadeGood(Owed::Plan)];
            follow.extend(self.begin(first));
            return follow;
        }
        if degraded && policy.redeem {
            self.debts.owe(Owed::Plan, now_ms);
        }
        self.session.n_milestones = plan.milestones.len() as u32;
        self.session.plan_degraded = degraded;
        self.plan = Some(plan);
        self.begin(1)
    }

    /// Begins milestone `index`, or ends the session where there is no such milestone.
    fn begin(&mut self, index: u32) -> Vec<Follow> {
        let planned = self.plan.as_ref().and_then(|plan| plan.milestones.get(index as usize - 1));
        match planned {
            Some(planned) => {
                self.milestone = Some(Milestone::new(index, planned.clone()));
                self.session.current = index;
                self.session.phase = Phase::Implementing;
                Vec::new()
            }
            None => self.end(Phase::Completed),
        }
    }

    fn end(&mut self, phase: Phase) -> Vec<Follow> {
        self.session.phase = phase;
        self.session.interrupt = None;
        vec![Follow::Ended]
    }

    fn agents_ended(&mut self, results: Vec<(usize, AgentResult)>, policy: &Policy, now_ms: u64) -> Vec<Follow> {
        let is_redeeming = self.redeeming().is_some();
        let Some(milestone) = &mut self.milestone else { return Vec::new() };
        match &milestone.stage {
            Stage::Writing => {
                for (place, result) in results {
                    if let Some(agent) = milestone.agents.get_mut(place).filter(|agent| agent.result.is_none()) {
                        agent.result = Some(result);
                        agent.attempt = milestone.attempt;
                    }
                }
                let tally = milestone.tally();
                let verdict = policy.verdict(milestone);
                let (ok, all) = tally.rate();
                let enough = verdict != Verdict::TooLow;
                let again = !enough && milestone.attempt < policy.milestone_retries;
                let follow = vec![Follow::Judged { ok, all, verdict, again }];
                if enough {
                    milestone.stage = Stage::Checking;
                    return self.skip_checks(policy, follow);
                }
                if again {
                    milestone.attempt += 1;
                    // A path that must not be touched stays refused, whoever is asked.
                    for agent in &mut milestone.agents {
                        let hopeless = matches!(agent.target, Target::Refused { .. });
                        if matches!(agent.result, Some(AgentResult::Failed(_))) && !hopeless {
                            agent.result = None;
                        }
                    }
                    if milestone.agents.iter().any(|agent| agent.result.is_none()) {
                        return follow;
                    }
                }
                if is_redeeming {
                    let mut follow = follow;
                    let why = format!("only {ok} of {all} files of milestone {} could be written", milestone.index);
                    follow.extend(self.put_back(why, false, now_ms));
                    return follow;
                }
                if policy.graceful_degradation {
                    milestone.stage = Stage::Degrading;
                    return follow;
                }
                let error = format!(
                    "milestone {} ({}): only {ok} of {all} files could be written, and graceful_degradation is off",
                    milestone.index, milestone.plan.name
                );
                self.session.error = Some(error);
                let mut follow = follow;
                follow.extend(self.end(Phase::Failed));
                follow
            }
            Stage::Fixing { .. } => {
                for (place, result) in results {
                    // A fix that failed leaves the file as it was written before: that work is not thrown away.
                    if let (Some(agent), AgentResult::Done(done)) = (milestone.agents.get_mut(place), result) {
                        agent.result = Some(AgentResult::Done(done));
                    }
                }
                milestone.stage = Stage::Checking;
                self.skip_checks(policy, Vec::new())
            }
            _ => Vec::new(),
        }
    }

    /// Goes from checking to reviewing at once where no check is configured.
    fn skip_checks(&mut self, policy: &Policy, follow: Vec<Follow>) -> Vec<Follow> {
        self.session.phase = Phase::Reviewing;
        if let Some(milestone) = self.milestone.as_mut().filter(|_| !policy.has_checks) {
            milestone.stage = Stage::Reviewing;
        }
        follow
    }

    fn degraded(&mut self, files: Vec<RepoPath>, policy: &Policy, now_ms: u64) -> Vec<Follow> {
        if let Some(milestone) = self.milestone.as_mut().filter(|m| m.stage == Stage::Degrading) {
            if policy.redeem {
                self.debts.owe(Owed::Milestone(milestone.index), now_ms);
            }
            milestone.manual = Some(files);
            // The code is as it was at the milestone's start; its checks say nothing about the task file.
            milestone.stage = Stage::Reviewing;
            self.session.phase = Phase::Reviewing;
        }
        Vec::new()
    }

    fn checked(&mut self, mut checks: Vec<CheckOutcome>) -> Vec<Follow> {
        let failing_before = self.session.failing_before.as_deref().unwrap_or_default();
        for check in checks.iter_mut().filter(|check| !check.passed && failing_before.contains(&check.command)) {
            check.output.insert_str(0, "[This check failed before anything was changed, too.]\n");
        }
        if let Some(milestone) = self.milestone.as_mut().filter(|m| m.stage == Stage::Checking) {
            milestone.checks = checks;
            milestone.stage = Stage::Reviewing;
        }
        Vec::new()
    }

    fn reviewed(&mut self, review: ReviewOutcome, policy: &Policy, now_ms: u64) -> Vec<Follow> {
        let Some(milestone) = self.milestone.as_mut().filter(|m| m.stage == Stage::Reviewing) else {
            return Vec::new();
        };
        // A stand-in's findings are facts about the files; a model can only mend them when one answers, and the coder's
        // models are other ones than the reviewer's, so they are worth a round, too.
        let is_review_alone =
            self.debts.at_work.as_ref().is_some_and(|at_work| matches!(at_work.what, Owed::Review(_)));
        // A manual task has nothing to review.
        let is_owed = review.degraded && milestone.manual.is_none();
        milestone.review = Some(review);
        if is_review_alone {
            // What it says is for a person: others may have built on this milestone since.
            milestone.stage = Stage::Done;
            return vec![Follow::MilestoneDone];
        }
        match is_owed {
            true if policy.redeem => self.debts.owe(Owed::Review(milestone.index), now_ms),
            true => {}
            false => self.debts.clear(Owed::Review(milestone.index)),
        }
        let fixable = milestone.manual.is_none() && !milestone.approved();
        let wanted =
            if fixable && milestone.fix_rounds() < policy.max_review_rounds { to_fix(milestone) } else { Vec::new() };
        if !wanted.is_empty() {
            milestone.round += 1;
            milestone.stage = Stage::Fixing { agents: wanted };
            self.session.phase = Phase::Implementing;
            return vec![Follow::FixesWanted { round: milestone.fix_rounds() }];
        }
        let redeems = self.debts.at_work.as_ref().map(|at_work| at_work.what);
        let message = commit_message(&self.session, milestone, redeems);
        let parent = self.session.tip.clone();
        milestone.stage = Stage::Committing(CommitIntent { parent, message, time_s: (now_ms / 1000) as i64 });
        Vec::new()
    }

    fn committed(&mut self, commit: Option<CommitId>) -> Vec<Follow> {
        let Some(milestone) = self.milestone.as_mut().filter(|m| matches!(m.stage, Stage::Committing(_))) else {
            return Vec::new();
        };
        if let Some(commit) = &commit {
            self.session.tip = commit.clone();
        }
        if commit.is_none() {
            // There is nothing to review.
            self.debts.clear(Owed::Review(milestone.index));
        }
        milestone.commit = commit;
        milestone.stage = Stage::Done;
        // What comes so far is not what ends the process.
        self.session.abnormal_ends = 0;
        vec![Follow::MilestoneDone]
    }

    /// Goes on from a milestone that is done. Apart from [`Event::Committed`], so that the shell can record the finished
    /// milestone before the next one takes its place.
    pub fn advance(&mut self, now_ms: u64) -> Vec<Follow> {
        match &self.milestone {
            Some(milestone) if milestone.stage == Stage::Done => {
                self.session.updated_ms = now_ms;
                if let Some(what) = self.redeeming() {
                    let commit = milestone.commit.clone().filter(|_| matches!(what, Owed::Milestone(_)));
                    self.debts.made_good(commit, now_ms);
                    self.session.current = self.session.n_milestones;
                    let mut follow = vec![Follow::MadeGood(what)];
                    follow.extend(self.end(Phase::Completed));
                    return follow;
                }
                self.begin(milestone.index + 1)
            }
            _ => Vec::new(),
        }
    }

    fn retried(&mut self) -> Vec<Follow> {
        if !matches!(self.session.phase, Phase::Failed | Phase::Cancelled) {
            return Vec::new();
        }
        self.session.error = None;
        self.session.abnormal_ends = 0;
        self.session.phase = match &mut self.milestone {
            None => Phase::Planning,
            Some(milestone) => {
                // What was written stays written; what failed gets all its tries again.
                if matches!(milestone.stage, Stage::Writing | Stage::Degrading) {
                    for agent in &mut milestone.agents {
                        if matches!(agent.result, Some(AgentResult::Failed(_))) {
                            agent.result = None;
                        }
                    }
                    milestone.stage = Stage::Writing;
                    milestone.attempt += 1;
                }
                match milestone.stage {
                    Stage::Writing | Stage::Degrading | Stage::Fixing { .. } => Phase::Implementing,
                    Stage::Checking | Stage::Reviewing | Stage::Committing(_) | Stage::Done => Phase::Reviewing,
                }
            }
        };
        Vec::new()
    }
}

fn tasks(milestone: &Milestone, wanted: impl Fn(usize) -> bool) -> Vec<AgentTask> {
    let task = |place: usize| {
        let target = milestone.agents[place].target.clone();
        let path = match &target {
            Target::File { path, .. } => Some(path),
            Target::Free | Target::Refused { .. } => None,
        };
        let step = StepKey::coder(milestone.index, milestone.round, path);
        AgentTask { place, target, step, attempt: milestone.attempt }
    };
    (0..milestone.agents.len()).filter(|place| wanted(*place)).map(task).collect()
}

/// The agents whose files are written again: those whose file a review issue names, else all that a model wrote. A
/// deleted file is not brought back, and a failed file is an issue already.
fn to_fix(milestone: &Milestone) -> Vec<u32> {
    let issues: &[ReviewIssue] = milestone.review.as_ref().map_or(&[], |review| &review.review.issues);
    let written = |place: &usize| match &milestone.agents[*place].result {
        Some(AgentResult::Done(AgentDone { writer: Writer::Model { .. }, .. })) => true,
        Some(AgentResult::Done(_) | AgentResult::Failed(_)) | None => false,
    };
    let named = |place: &usize| {
        let Some(AgentResult::Done(done)) = &milestone.agents[*place].result else { return false };
        let file = |issue: &ReviewIssue| issue.file.as_deref().and_then(|file| RepoPath::new(file.trim()).ok());
        issues.iter().filter_map(file).any(|file| done.paths.contains(&file))
    };
    let all: Vec<usize> = (0..milestone.agents.len()).filter(written).collect();
    let some: Vec<usize> = all.iter().copied().filter(named).collect();
    let chosen = if some.is_empty() { all } else { some };
    chosen.into_iter().map(|place| place as u32).collect()
}

fn one_line(text: &str, most: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= most { words } else { words.chars().take(most - 1).chain(['…']).collect() }
}

/// Subject, description, what is missing, trailers. Text of models is cut to plain lines, so that none of it can pass
/// for a trailer of ours: the trailers are the last paragraph.
fn commit_message(session: &Session, milestone: &Milestone, redeems: Option<Owed>) -> String {
    let mut parts = vec![one_line(&milestone.plan.name, 72)];
    let description = one_line(&milestone.plan.description, 2000);
    if !description.is_empty() {
        parts.push(wrap(&description, 72));
    }
    if redeems.is_some() {
        parts.push("A model has written this milestone after all: its manual task is taken away.".to_owned());
    }
    if milestone.manual.is_some() {
        parts.push("No model could write this milestone: a manual task stands in for it.".to_owned());
    } else {
        let missing: Vec<String> = milestone
            .agents
            .iter()
            .filter_map(|agent| match (&agent.result, &agent.target) {
                (Some(AgentResult::Failed(failed)), Target::File { path, .. }) => {
                    Some(format!("- {path}: {}", one_line(&failed.error, 200)))
                }
                (Some(AgentResult::Failed(failed)), Target::Refused { path, .. }) => {
                    Some(format!("- {}: {}", one_line(path, 200), one_line(&failed.error, 200)))
                }
                _ => None,
            })
            .collect();
        if !missing.is_empty() {
            parts.push(format!("Not written:\n{}", missing.join("\n")));
        }
    }
    let mut trailers = format!("Steadfast-Session: {}\nSteadfast-Milestone: {}", session.id, milestone.index);
    if let Some(what) = redeems {
        trailers.push_str(&format!("\nSteadfast-Redeems: {}", what.stand_in()));
    }
    parts.push(trailers);
    parts.join("\n\n") + "\n"
}

fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
