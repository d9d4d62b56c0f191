//! What is kept of a session: small records that are saved whole at each transition.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Usage};
use crate::ids::{CommitId, IdeaId, ModelId, RepoPath, Role, SessionId};
use crate::plan::{Change, PlannedMilestone, Review};
use crate::session::redeem::ROUNDS;
use crate::tally::FileTally;

/// Where a session stands (SPEC 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for its turn.
    Queued,
    /// The planner is at work.
    Planning,
    /// File agents are at work on the current milestone.
    Implementing,
    /// The current milestone is checked, reviewed or committed.
    Reviewing,
    /// Over: every milestone was carried through, well or degraded.
    Completed,
    /// Over for now: it can be taken up again by hand.
    Failed,
    /// Stopped by its owner; its branch is kept.
    Cancelled,
}

impl Phase {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Implementing => "implementing",
            Self::Reviewing => "reviewing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the session is over and will not go on by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session stands still although it is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// For a person: `SIGTERM received`, `the budget of 100 calls is spent`.
    pub reason: String,
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// It was an emergency shutdown (SPEC 8), not a limit of the session's own.
    pub emergency: bool,
    /// It must not go on by itself: its budget is spent, or it ended abnormally too often.
    pub parked: bool,
}

/// Whose name stands on the commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `user.name`.
    pub name: String,
    /// `user.email`.
    pub email: String,
}

/// What a session has bought so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Calls that reached a provider, whatever came of them.
    pub calls: u64,
    /// Tokens of prompts and answers.
    pub usage: Usage,
    /// Millionths of the currency in which prices are configured.
    pub cost_micros: u64,
}

impl Spent {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            usage: Usage {
                input: self.usage.input.saturating_add(other.usage.input),
                output: self.usage.output.saturating_add(other.usage.output),
            },
            cost_micros: self.cost_micros.saturating_add(other.cost_micros),
        }
    }

    /// Tokens of prompts and answers together.
    pub fn tokens(&self) -> u64 {
        self.usage.input.saturating_add(self.usage.output)
    }
}

/// The head of a session: what is needed to list it and to know how to go on. Its plan, milestones and answers lie in
/// parts of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// This run.
    pub id: SessionId,
    /// The idea it carries.
    pub idea: IdeaId,
    /// The idea's title.
    pub title: String,
    /// The repository's top folder, absolute.
    pub repo: String,
    /// The commit that HEAD named at submission.
    pub base: CommitId,
    /// The session's own branch, without `refs/heads/`.
    pub branch: String,
    /// The last commit of ours on the branch; [`Session::base`] before the first.
    pub tip: CommitId,
    /// Whose name stands on the commits.
    pub identity: Identity,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Milliseconds since 1970, of the last transition.
    pub updated_ms: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Set while it stands still without being over.
    pub interrupt: Option<Interrupt>,
    /// The milestone at work, from 1; 0 before there is a plan.
    pub current: u32,
    /// Milestones of the plan; 0 before there is one.
    pub n_milestones: u32,
    /// The plan is the template, since no planner answered.
    pub plan_degraded: bool,
    /// Checks that failed before anything was changed, by command; `None` until they ran. They count all the same: an idea
    /// may be there to mend them, and what they say now may be another fault. Whoever fixes or reviews is told.
    pub failing_before: Option<Vec<String>>,
    /// What finished steps have cost; steps in flight are added from their own records.
    pub spent: Spent,
    /// Abnormal ends in a row while it was at work (SPEC 7).
    pub abnormal_ends: u32,
    /// It was submitted although some role had no model to call.
    pub allow_degraded: bool,
    /// Why it failed, for a person.
    pub error: Option<String>,
}

impl Session {
    /// Whether `resume` or `retry` can take it up.
    pub fn can_resume(&self) -> bool {
        match self.phase {
            Phase::Completed => false,
            Phase::Failed | Phase::Cancelled => true,
            Phase::Queued | Phase::Planning | Phase::Implementing | Phase::Reviewing => self.interrupt.is_some(),
        }
    }
}

/// The name of one role execution within a session. An answer is kept under it, so that it is never asked for twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepKey(String);

impl StepKey {
    /// The planner's execution.
    pub fn plan() -> Self {
        Self("plan".to_owned())
    }

    /// A coder's in the `round`-th round of fixes (0: the first writing). The try is no part of it: an answer that
    /// came in any try is good for all.
    pub fn coder(milestone: u32, round: u32, path: Option<&RepoPath>) -> Self {
        Self(format!("m{milestone:03}.r{round}/coder/{}", path.map_or("", RepoPath::as_str)))
    }

    /// The reviewer's after the `round`-th round.
    pub fn review(milestone: u32, round: u32) -> Self {
        Self(format!("m{milestone:03}.r{round}/reviewer"))
    }

    /// The key as text; unique within the session, of any length.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A key from its text.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Which execution it names; `None` for a text that is no key of this version.
    pub fn place(&self) -> Option<StepPlace<'_>> {
        if self.0 == "plan" {
            return Some(StepPlace { role: Role::Planner, milestone: None, round: 0, path: None });
        }
        let (head, who) = self.0.split_once('/')?;
        let (milestone, round) = head.strip_prefix('m')?.split_once(".r")?;
        let (role, path) = match who.split_once('/') {
            Some(("coder", path)) => (Role::Coder, Some(path).filter(|path| !path.is_empty())),
            None if who == "reviewer" => (Role::Reviewer, None),
            Some(_) | None => return None,
        };
        Some(StepPlace { role, milestone: Some(milestone.parse().ok()?), round: round.parse().ok()?, path })
    }
}

/// Which role execution a [`StepKey`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlace<'a> {
    /// Who is asked.
    pub role: Role,
    /// From 1; `None` for the planner.
    pub milestone: Option<u32>,
    /// Rounds of fixes before it.
    pub round: u32,
    /// For a coder that writes one file.
    pub path: Option<&'a str>,
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of one call of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptOutcome {
    /// It answered, and the answer was of use.
    Answered,
    /// It did not.
    Failed {
        /// The row of SPEC 4's table.
        fault: Fault,
        /// For a person.
        message: String,
        /// Our own network was at fault, so the attempt does not count.
        own_network: bool,
    },
    /// No call was made: the breaker was open, or the model cannot be called.
    Refused {
        /// For a person.
        reason: String,
    },
}

/// One attempt of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Who was asked.
    pub model: ModelId,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// From the request to the end of the answer, in milliseconds; 0 for a refusal.
    pub duration_ms: u64,
    /// As the provider counted.
    pub usage: Usage,
}

/// Who stands behind a piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writer {
    /// A model.
    Model {
        /// Which.
        model: ModelId,
        /// It was not the role's first.
        fallback: bool,
    },
    /// No model answered, or none was needed: `template`, `manual`, `static-checks`, `git`.
    StandIn(String),
}

impl Writer {
    /// The name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Model { model, .. } => model.as_str(),
            Self::StandIn(name) => name,
        }
    }

    /// Whether the answer came from another model than the role's first.
    pub fn fallback(&self) -> bool {
        matches!(self, Self::Model { fallback: true, .. })
    }
}

/// What a file agent is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Write or delete one file.
    File {
        /// Where.
        path: RepoPath,
        /// What.
        change: Change,
    },
    /// The milestone names no file: the agent chooses them itself.
    Free,
    /// The plan named a path that must not be touched; it fails at once.
    Refused {
        /// As the plan had it.
        path: String,
        /// Why.
        reason: String,
    },
}

/// A file agent that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDone {
    /// Who wrote it last.
    pub writer: Writer,
    /// What it wrote or deleted; for [`Target::Free`] the files it chose, possibly none.
    pub paths: Vec<RepoPath>,
    /// The answers that make the files, to be applied in order. Empty for a deletion.
    pub answers: Vec<StepKey>,
}

/// A file agent that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFailed {
    /// For a person.
    pub error: String,
    /// The models that were tried, with what came of each; empty when none was.
    pub attempts: Vec<Attempt>,
}

/// What came of a file agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentResult {
    /// It did its part.
    Done(AgentDone),
    /// It did not.
    Failed(AgentFailed),
}

/// One file agent of a milestone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// What it is to do.
    pub target: Target,
    /// `None` while it is at work.
    pub result: Option<AgentResult>,
    /// The try (from 0) in which the result came about.
    pub attempt: u32,
}

/// What came of one configured check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOutcome {
    /// The command as configured.
    pub command: String,
    /// It ended with 0 in time.
    pub passed: bool,
    /// `passed`, `exit code 1`, `timed out after 600 s`.
    pub summary: String,
    /// The end of what it printed, at most 8 KiB.
    pub output: String,
}

/// A review and who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewOutcome {
    /// What it says.
    pub review: Review,
    /// Who says it.
    pub writer: Writer,
    /// Basic checks stand in for a reviewer.
    pub degraded: bool,
}

/// All that decides a commit's id, saved before it is made, so that making it again gives the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitIntent {
    /// Its only parent.
    pub parent: CommitId,
    /// The whole message with its trailers.
    pub message: String,
    /// Seconds since 1970, UTC, for author and committer.
    pub time_s: i64,
}

/// What is being done with a milestone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The agents without a result are at work.
    Writing,
    /// Every try fell short: a manual task stands in.
    Degrading,
    /// The configured checks run.
    Checking,
    /// The reviewer looks.
    Reviewing,
    /// These agents (by place) write their files again, told what was wrong.
    Fixing {
        /// Places in [`Milestone::agents`], ascending.
        agents: Vec<u32>,
    },
    /// The commit is made.
    Committing(CommitIntent),
    /// Committed, or nothing was there to commit.
    Done,
}

/// How a milestone ended, in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MilestoneStatus {
    /// Not done yet.
    Pending,
    /// Every file agent succeeded.
    Completed,
    /// Kept although some file agents failed.
    Partial,
    /// A manual task stands in.
    Degraded,
    /// Given up.
    Failed,
}

impl MilestoneStatus {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// One milestone at work or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// From 1.
    pub index: u32,
    /// What the plan says.
    pub plan: PlannedMilestone,
    /// What is being done.
    pub stage: Stage,
    /// The try at work, from 0.
    pub attempt: u32,
    /// Rounds of fixes begun.
    pub round: u32,
    /// In the plan's order; never empty.
    pub agents: Vec<AgentState>,
    /// Of the last round; empty when none is configured.
    pub checks: Vec<CheckOutcome>,
    /// Of the last round.
    pub review: Option<ReviewOutcome>,
    /// Files of the manual task, once it stands in for the coder.
    pub manual: Option<Vec<RepoPath>>,
    /// The milestone's commit, when there was something to commit.
    pub commit: Option<CommitId>,
}

impl Milestone {
    /// A milestone at its start.
    pub fn new(index: u32, plan: PlannedMilestone) -> Self {
        let files = plan.files.iter().map(|file| Target::File { path: file.path.clone(), change: file.change });
        let refused =
            plan.refused.iter().map(|file| Target::Refused { path: file.path.clone(), reason: file.reason.clone() });
        let mut targets: Vec<Target> = files.chain(refused).collect();
        if targets.is_empty() {
            targets.push(Target::Free);
        }
        let agents = targets.into_iter().map(|target| AgentState { target, result: None, attempt: 0 }).collect();
        Self {
            index,
            plan,
            stage: Stage::Writing,
            attempt: 0,
            round: 0,
            agents,
            checks: Vec::new(),
            review: None,
            manual: None,
            commit: None,
        }
    }

    /// Rounds of fixes begun since the milestone was written, or written again in the place of a manual task.
    pub fn fix_rounds(&self) -> u32 {
        self.round % ROUNDS
    }

    /// Counts the agents' results; those without one count as failed.
    pub fn tally(&self) -> FileTally {
        let mut tally = FileTally::new(self.agents.len());
        for (at, agent) in self.agents.iter().enumerate() {
            match &agent.result {
                Some(AgentResult::Done(_)) => tally.succeed(at),
                Some(AgentResult::Failed(failed)) => tally.fail(at, &failed.error),
                None => tally.fail(at, "not finished"),
            };
        }
        tally
    }

    /// The milestone was written and neither a check nor the reviewer objects.
    pub fn approved(&self) -> bool {
        self.review.as_ref().is_some_and(|review| review.review.approved)
            && self.checks.iter().all(|check| check.passed)
    }

    /// How it stands, for the report.
    pub fn status(&self) -> MilestoneStatus {
        match self.stage {
            Stage::Done if self.manual.is_some() => MilestoneStatus::Degraded,
            Stage::Done if self.tally().is_complete() => MilestoneStatus::Completed,
            Stage::Done => MilestoneStatus::Partial,
            _ => MilestoneStatus::Pending,
        }
    }
}
