//! What is kept of a session, as the actors write and read it. The store crate knows keys, envelopes and bytes; this
//! module knows which record is which.

use serde::{Deserialize, Serialize};
use steadfast_core::ids::{ModelId, RepoPath, SessionId};
use steadfast_core::plan::Plan;
use steadfast_core::rates::{History, Rates};
use steadfast_core::session::{Attempt, Debts, Milestone, Run, Session, Spent, StepKey, Writer};
use steadfast_notify::{Alert, Closing, Issue};
use steadfast_prompt::Idea;

/// An answer that was bought, under its step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Who gave it.
    pub model: ModelId,
    /// It was not the role's first model.
    pub fallback: bool,
    /// As it came, at most 8 MiB.
    pub text: String,
    /// Every attempt of the execution, the successful one last.
    pub attempts: Vec<Attempt>,
    /// What the whole execution has cost.
    pub spent: Spent,
}

/// The attempts of an execution that has no answer yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecutionLog {
    /// In order.
    pub attempts: Vec<Attempt>,
    /// What they have cost.
    pub spent: Spent,
}

/// How one role execution went: kept with the session when its answers are not needed any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which.
    pub step: StepKey,
    /// Who answered; `None`: nobody has, or not yet.
    pub writer: Option<Writer>,
    /// In order; the last one of an execution with an answer gave it.
    pub attempts: Vec<Attempt>,
    /// What the execution has cost. Of attempts that were forgotten, because somebody took the session up anew, only this is
    /// left.
    pub spent: Spent,
}

/// An issue in the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssueRecord {
    /// Whose.
    pub session: SessionId,
    /// The issue.
    pub issue: Issue,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Its receipt: where it was filed. `None`: not yet.
    pub url: Option<String>,
}

/// What is in the outbox beside issues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outgoing {
    /// A filed issue is to be closed.
    Closing(Closing),
    /// An alert for the webhook.
    Alert(Alert),
}

/// A closing or an alert in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutgoingRecord {
    /// What.
    pub what: Outgoing,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Its receipt: what was done, for a person; may be empty. `None`: not yet.
    pub receipt: Option<String>,
}

impl OutgoingRecord {
    /// Its name for good.
    pub fn key(&self) -> String {
        match &self.what {
            Outgoing::Closing(closing) => closing.key(),
            Outgoing::Alert(alert) => alert.id.clone(),
        }
    }
}

/// Why something in the outbox was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// For a person.
    pub reason: String,
    /// Of the first try that ended so: milliseconds since 1970.
    pub since_ms: u64,
}

/// The idea's text as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IdeaRecord {
    pub(crate) title: String,
    pub(crate) body: String,
}

/// A manual task's files.
pub(crate) type ManualFiles = Vec<(RepoPath, String)>;

/// One write of a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// A session's head.
    Head(Box<Session>),
    /// A session's idea.
    Idea(SessionId, Box<Idea>),
    /// A session's plan.
    Plan(SessionId, Plan),
    /// One milestone of a session.
    Milestone(SessionId, Box<Milestone>),
    /// The manual task of a milestone.
    Manual(SessionId, u32, ManualFiles),
    /// An issue for the outbox, and when it was made (milliseconds since 1970).
    Issue(SessionId, Box<Issue>, u64),
    /// The rates as they are now.
    Rates(Box<Rates>),
    /// What they were over the last day.
    RateHistory(Box<History>),
    /// An issue's receipt.
    Delivered(Box<IssueRecord>),
    /// A recovery issue (by its key) is open for a session, which stopped for this reason.
    Standing(SessionId, String, String),
    /// A session has gone on, and this is said of it: its recovery issues are closed, unless others stand still with them.
    WentOn(SessionId, String, u64),
    /// An alert for the outbox. One that is there already, or that comes too soon after its like, is left out.
    Alert(Box<Alert>),
    /// A closing's or an alert's receipt.
    Sent(Box<OutgoingRecord>),
    /// Why something in the outbox (by its key) was not delivered.
    Trouble(String, Trouble),
    /// What a session's stand-ins have done.
    Debts(SessionId, Box<Debts>),
    /// An issue is to be closed, with this said; and when that was decided (milliseconds since 1970).
    Close(Closing, u64),
}

impl Write {
    /// The outbox has something to do once this is durable.
    pub(crate) fn is_for_outbox(&self) -> bool {
        match self {
            Self::Issue(..) | Self::WentOn(..) | Self::Alert(_) | Self::Close(..) => true,
            Self::Head(_)
            | Self::Idea(..)
            | Self::Plan(..)
            | Self::Milestone(..)
            | Self::Manual(..)
            | Self::Rates(_)
            | Self::RateHistory(_)
            | Self::Delivered(_)
            | Self::Standing(..)
            | Self::Sent(_)
            | Self::Trouble(..)
            | Self::Debts(..) => false,
        }
    }
}

/// A session as it is taken up.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its state.
    pub run: Run,
    /// Its idea.
    pub idea: Idea,
    /// What its steps have cost, those in flight included.
    pub spent: Spent,
}

/// A session as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The head.
    pub session: Session,
    /// `None` before there is one.
    pub plan: Option<Plan>,
    /// Those begun, in order.
    pub milestones: Vec<Milestone>,
    /// In the order in which they were filed.
    pub issues: Vec<IssueRecord>,
}

/// How many sessions stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Queued, at work or interrupted.
    pub unfinished: usize,
    /// Done.
    pub completed: usize,
    /// Failed.
    pub failed: usize,
    /// Cancelled.
    pub cancelled: usize,
}
