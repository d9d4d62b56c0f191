//! What the supervisor is told, and what it answers.

use std::fmt;
use std::sync::Arc;

use steadfast_core::ids::{ModelId, Role, SessionId};
use steadfast_core::session::Session;
use steadfast_prompt::Idea;
use tokio::sync::{oneshot, watch};

use super::redeem::Look;
use crate::model::ModelStatus;
use crate::settings::Settings;
use crate::tidy::Pruned;

/// An idea that is to become a session.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The session at its start.
    pub session: Session,
    /// Its idea.
    pub idea: Idea,
}

/// Why an idea was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The same idea is at work, or waits, on the same repository.
    #[error("idea {idea} is already at work on this repository, as session {session}")]
    Running {
        /// The idea.
        idea: String,
        /// Its session.
        session: SessionId,
    },
    /// The same idea on the same repository stands still and can go on.
    #[error(
        "idea {idea} was interrupted on this repository: go on with `steadfast resume {session}`, or give it up with `steadfast cancel {session}`"
    )]
    Interrupted {
        /// The idea.
        idea: String,
        /// Its session.
        session: SessionId,
    },
    /// It could not be made durable, so it was not taken.
    #[error("the session could not be saved: {0}")]
    NotSaved(String),
    /// The supervisor is ending.
    #[error("steadfast is shutting down and takes no new work")]
    ShuttingDown,
}

/// Why an order about a session was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SupervisorError {
    /// There is no such session.
    #[error("there is no session or idea {0}")]
    Unknown(String),
    /// It is over, so there is nothing to resume, retry or cancel.
    #[error("session {session} is {phase}: {why}")]
    NotPossible {
        /// Which.
        session: SessionId,
        /// Where it stands.
        phase: &'static str,
        /// Why the order makes no sense.
        why: &'static str,
    },
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(String),
    /// The supervisor is ending, or has ended.
    #[error("steadfast is shutting down")]
    ShuttingDown,
}

/// How a role stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleStatus {
    /// Which.
    pub role: Role,
    /// Its models in priority order.
    pub models: Vec<(ModelId, ModelStatus)>,
}

/// How everything stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// In the order of [`Role::ALL`].
    pub roles: Vec<RoleStatus>,
    /// Sessions at work.
    pub active: Vec<SessionId>,
    /// Sessions that wait, first come first.
    pub queued: Vec<SessionId>,
    /// Why no session begins; `None`: they do.
    pub paused: Option<String>,
}

/// Why everything is saved and ended without an order (SPEC 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emergency {
    /// The time limit comes close.
    TimeUp,
    /// Something failed for good, or ran short; for a person.
    Failure(String),
}

impl Emergency {
    /// Tells whoever owns the process. The first one counts; what follows is its consequence.
    pub fn raise(self, alarm: &watch::Sender<Option<Self>>) {
        alarm.send_if_modified(|first| first.is_none().then(|| *first = Some(self)).is_some());
    }
}

impl fmt::Display for Emergency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeUp => f.write_str("the time limit comes close"),
            Self::Failure(reason) => f.write_str(reason),
        }
    }
}

/// What became of the sessions that were at work or waited at a shutdown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutDown {
    /// Saved as interrupted.
    pub saved: Vec<SessionId>,
    /// Not saved in time, or not at all: they stand as they were saved last, and go on from there.
    pub not_saved: Vec<SessionId>,
}

impl ShutDown {
    pub(super) fn enter(&mut self, session: SessionId, saved: bool) {
        if saved { self.saved.push(session) } else { self.not_saved.push(session) }
    }
}

/// A sign of life, and what there is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beat {
    /// Sessions at work with the ids of their ideas, oldest first.
    pub active: Vec<(SessionId, String)>,
    /// Sessions that wait.
    pub n_queued: usize,
    /// Why no session begins; `None`: they do.
    pub paused: Option<String>,
}

/// What the supervisor is told.
pub(crate) enum SupervisorMsg {
    /// A new session. Answered when it is durable.
    Submit {
        /// What.
        submission: Box<Submission>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<SessionId, SubmitError>>,
    },
    /// A submission was saved, or not.
    Submitted {
        /// Which.
        session: SessionId,
        /// Who waits.
        reply: oneshot::Sender<Result<SessionId, SubmitError>>,
        /// What came of it.
        saved: Result<(), String>,
    },
    /// Take up an interrupted session, or a failed or cancelled one with `retry`.
    TakeUp {
        /// Which.
        session: SessionId,
        /// Failed and cancelled ones, too.
        retry: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), SupervisorError>>,
    },
    /// Stop a session and keep its branch.
    Cancel {
        /// Which.
        session: SessionId,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), SupervisorError>>,
    },
    /// A session stopped by itself: it is over, or stands still.
    SessionOver {
        /// As it was saved.
        session: Box<Session>,
    },
    /// A session's state cannot be made durable.
    SaveFailed {
        /// Whose.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// Answered when the session is over or stands still; at once, where it is not at work.
    Wait {
        /// Which.
        session: SessionId,
        /// Where the answer goes.
        reply: oneshot::Sender<()>,
    },
    /// Let go of what is kept no longer. Without a reply: only where that was not done for a day.
    Prune(Option<oneshot::Sender<Result<Pruned, String>>>),
    /// That is done.
    PruneEnded(Option<oneshot::Sender<Result<Pruned, String>>>, Result<Pruned, String>),
    /// How does it stand?
    Status(oneshot::Sender<Status>),
    /// Answered when nothing in the outbox is under way any more.
    SettleOutbox {
        /// Try everything first, whatever pause it keeps.
        flush: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<()>,
    },
    /// Are you there? Answered by the handler itself, so that a supervisor that is stuck does not answer.
    Ping(oneshot::Sender<Beat>),
    /// Other settings hold from now on. Answered when all actors were told.
    Configure {
        /// Which.
        settings: Arc<Settings>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), SupervisorError>>,
    },
    /// An operator resets breakers.
    Reset {
        /// Which model; `None`: all.
        model: Option<ModelId>,
        /// How many breakers were reset, when done.
        reply: oneshot::Sender<usize>,
    },
    /// From now on have models do what stand-ins have done.
    Redeem,
    /// Something that is owed may be due: a breaker has moved, or the timer with this number has run out.
    LookAtDebts(Option<u64>),
    /// That was looked at.
    DebtsLooked(Result<Look, String>),
    /// Begin no session, for this reason; `None`: go on.
    Pause(Option<String>),
    /// Something after which everything is to be saved and ended.
    Emergency(Emergency),
    /// Save everything and end.
    Shutdown {
        /// For a person.
        reason: String,
        /// What became of the sessions, when all is done.
        reply: oneshot::Sender<ShutDown>,
    },
    /// Every session has answered the shutdown, or had its time.
    SessionsSaved {
        /// What became of them.
        ended: ShutDown,
        /// Who waits.
        reply: oneshot::Sender<ShutDown>,
    },
}
