//! What happens, as values: for the log, for a terminal's progress and for whoever else watches.
//!
//! Invariant: an event is told once, here, to the log and to all watchers; nothing is decided by listening to events.

use std::sync::Arc;

use steadfast_core::breaker::State;
use steadfast_core::fault::{Fault, Usage};
use steadfast_core::ids::{AttemptId, CommitId, IdeaId, ModelId, RepoPath, Role, SessionId};
use steadfast_core::session::{Owed, Phase};
use steadfast_core::tally::Verdict;
use tokio::sync::broadcast;

/// Which role execution an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Whose work.
    pub session: SessionId,
    /// Its idea.
    pub idea: IdeaId,
    /// Who is asked.
    pub role: Role,
    /// From 1; `None` for the planner.
    pub milestone: Option<u32>,
    /// For a coder that writes one file.
    pub file: Option<RepoPath>,
}

/// Why an execution waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Between two attempts.
    Backoff,
    /// All models are out; the breaker of this one is tested next.
    BreakerTest(ModelId),
    /// Our own network is down.
    OwnNetworkDown,
}

impl WaitReason {
    /// As one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Backoff => "backoff",
            Self::BreakerTest(_) => "breaker_test",
            Self::OwnNetworkDown => "own_network_down",
        }
    }
}

/// How far a redemption is: the work of a stand-in done by a model after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedemptionStep {
    /// It begins.
    Begun,
    /// A model has done it.
    Done,
    /// No model did; the stand-in's work stays, and it is tried again.
    PutBack {
        /// For a person.
        why: String,
    },
    /// The stand-in's work is left for a person, for good.
    Left {
        /// For a person.
        why: String,
    },
}

/// Something that happened (SPEC 13).
#[derive(Debug, Clone)]
pub enum Event {
    /// A session moved to another phase or milestone.
    SessionMoved {
        /// Which.
        session: SessionId,
        /// Its idea.
        idea: IdeaId,
        /// Where it stands now.
        phase: Phase,
        /// The milestone at work, from 1; 0 before there is one.
        milestone: u32,
        /// Milestones of the plan; 0 before there is one.
        n_milestones: u32,
        /// The milestone's name, or why a session failed.
        text: Option<String>,
    },
    /// There is a plan.
    Planned {
        /// Whose.
        session: SessionId,
        /// The milestones' names, in order.
        milestones: Vec<String>,
        /// It is the template.
        degraded: bool,
    },
    /// A role execution begins.
    ExecutionStarted {
        /// Which.
        place: Place,
        /// Models in the role's list.
        n_models: usize,
    },
    /// An answer that was bought before is used again, without a call.
    AnswerReused {
        /// Of which execution.
        place: Place,
        /// Who had given it.
        model: ModelId,
    },
    /// A model is being asked.
    AttemptStarted {
        /// In which execution.
        place: Place,
        /// Who.
        model: ModelId,
        /// From 1 within the execution.
        attempt: u32,
        /// Goes along with the request.
        id: AttemptId,
    },
    /// A model did not answer, or not usefully.
    AttemptFailed {
        /// In which execution.
        place: Place,
        /// Who.
        model: ModelId,
        /// From 1 within the execution.
        attempt: u32,
        /// As when it started.
        id: AttemptId,
        /// The row of SPEC 4's table.
        fault: Fault,
        /// HTTP status, where there was one.
        status: Option<u16>,
        /// Why, for a person.
        reason: String,
        /// How long it took.
        duration_ms: u64,
        /// What was bought although it is of no use.
        usage: Usage,
        /// The provider's own id of the request, where it told one.
        request_id: Option<String>,
    },
    /// A model was passed over without a call.
    ModelRefused {
        /// In which execution.
        place: Place,
        /// Who.
        model: ModelId,
        /// Why, for a person.
        reason: String,
    },
    /// A model answered.
    AttemptSucceeded {
        /// In which execution.
        place: Place,
        /// Who.
        model: ModelId,
        /// From 1 within the execution.
        attempt: u32,
        /// As when it started.
        id: AttemptId,
        /// It was not the role's first model.
        fallback: bool,
        /// How long it took.
        duration_ms: u64,
        /// What was bought.
        usage: Usage,
        /// The provider's own id of the request, where it told one.
        request_id: Option<String>,
        /// The model that the provider says has answered.
        served_model: Option<String>,
    },
    /// An execution waits.
    Waiting {
        /// Which.
        place: Place,
        /// Why.
        reason: WaitReason,
        /// For how long.
        for_ms: u64,
    },
    /// No model of the role answered.
    Exhausted {
        /// In which execution.
        place: Place,
    },
    /// Something stands in for a model's answer.
    Degraded {
        /// Of which execution.
        place: Place,
        /// `template`, `manual` or `static-checks`.
        stand_in: &'static str,
    },
    /// What a stand-in has done is made up for.
    Redemption {
        /// Whose.
        session: SessionId,
        /// What of it.
        what: Owed,
        /// How far that is.
        step: RedemptionStep,
    },
    /// A breaker changed.
    BreakerChanged {
        /// Whose.
        model: ModelId,
        /// From.
        from: State,
        /// To.
        to: State,
        /// As status text shows it, e.g. `MONITORING (1/3)`.
        status: String,
        /// Why, for a person.
        reason: String,
        /// When it is open: until its next test.
        retry_in_ms: Option<u64>,
    },
    /// Timeouts of a role's first model made others answer too often, so it is given more time (`auto_timeout`).
    TimeoutRaised {
        /// Whose.
        model: ModelId,
        /// What holds from now on.
        timeout_ms: u64,
    },
    /// A file agent ended.
    FileEnded {
        /// Whose.
        session: SessionId,
        /// From 1.
        milestone: u32,
        /// Path as in the plan, or what stands for it.
        file: String,
        /// `None`: written or deleted.
        error: Option<String>,
    },
    /// A milestone's files were judged.
    Judged {
        /// Whose.
        session: SessionId,
        /// From 1.
        milestone: u32,
        /// Agents that succeeded.
        ok: u32,
        /// All agents.
        all: u32,
        /// By SPEC 6's table.
        verdict: Verdict,
        /// It is tried again.
        again: bool,
    },
    /// A configured check begins.
    Checking {
        /// Whose.
        session: SessionId,
        /// From 1; 0: before the first.
        milestone: u32,
        /// As configured.
        command: String,
    },
    /// A configured check ended.
    Checked {
        /// Whose.
        session: SessionId,
        /// From 1; 0: before the first.
        milestone: u32,
        /// As configured.
        command: String,
        /// It ended with 0 in time.
        passed: bool,
        /// `passed`, `exit code 1`, …
        summary: String,
    },
    /// A review is there.
    Reviewed {
        /// Whose.
        session: SessionId,
        /// From 1.
        milestone: u32,
        /// The verdict.
        approved: bool,
        /// 0 to 100.
        code_quality: u8,
        /// Issues raised.
        n_issues: usize,
    },
    /// Files are written again, told what was wrong.
    FixRound {
        /// Whose.
        session: SessionId,
        /// From 1.
        milestone: u32,
        /// From 1.
        round: u32,
    },
    /// A milestone is on the branch.
    Committed {
        /// Whose.
        session: SessionId,
        /// From 1.
        milestone: u32,
        /// `None`: nothing had changed.
        commit: Option<CommitId>,
        /// The branch.
        branch: String,
    },
    /// An issue for a person was filed.
    IssueFiled {
        /// Whose.
        session: SessionId,
        /// Its title.
        title: String,
    },
    /// A session stands still.
    Interrupted {
        /// Which.
        session: SessionId,
        /// Its idea.
        idea: IdeaId,
        /// Why.
        reason: String,
    },
    /// An actor ended by a panic or an error.
    ActorFailed {
        /// Which, e.g. `session s…`, `model x/y`.
        actor: String,
        /// What it said.
        error: String,
        /// It is started again.
        restarted: bool,
    },
    /// No session begins, for this reason; `None`: they do again.
    Paused {
        /// For a person.
        reason: Option<String>,
    },
    /// A step of a shutdown (SPEC 8).
    Shutdown {
        /// For a person.
        step: String,
    },
}

/// Tells events to the log and to whoever watches.
#[derive(Debug, Clone)]
pub struct Events {
    watchers: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        // A watcher that falls this far behind misses events and is told so; nothing waits for it.
        Self { watchers: broadcast::channel(1024).0 }
    }
}

impl Events {
    /// Events from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Event>> {
        self.watchers.subscribe()
    }

    /// Logs it and hands it to the watchers.
    pub fn tell(&self, event: Event) {
        log(&event);
        if self.watchers.receiver_count() > 0 {
            // Fails only when the last watcher has just gone: then there is nobody to tell.
            let _ = self.watchers.send(Arc::new(event));
        }
    }
}

/// The prose of the seed's log stays with the terminal; here are constant messages and fields.
fn log(event: &Event) {
    use tracing::{error, info, warn};
    macro_rules! at {
        ($level:ident, $place:expr, $message:literal $(, $($field:tt)*)?) => {
            $level!(session = %$place.session, idea = %$place.idea, role = %$place.role,
                milestone = $place.milestone, file = $place.file.as_ref().map(|f| f.as_str()), $($($field)*,)? $message)
        };
    }
    match event {
        Event::SessionMoved { session, idea, phase, milestone, n_milestones, text } => {
            info!(%session, %idea, %phase, milestone, n_milestones, text, "session moved");
        }
        Event::Planned { session, milestones, degraded } => {
            info!(%session, n_milestones = milestones.len(), degraded, "planned");
        }
        Event::ExecutionStarted { place, n_models } => at!(info, place, "execution started", n_models = n_models),
        Event::AnswerReused { place, model } => at!(info, place, "answer reused", model = %model),
        Event::AttemptStarted { place, model, attempt, id } => {
            at!(info, place, "attempt started", model = %model, attempt = attempt, attempt_id = %id);
        }
        Event::AttemptFailed { place, model, attempt, id, fault, status, reason, duration_ms, usage, request_id } => {
            at!(warn, place, "attempt failed", model = %model, attempt = attempt, attempt_id = %id, fault = fault.word(),
                status = status, reason = reason, duration_ms = duration_ms, input_tokens = usage.input,
                output_tokens = usage.output, provider_request_id = request_id.as_deref());
        }
        Event::ModelRefused { place, model, reason } => {
            at!(info, place, "model passed over", model = %model, reason = reason);
        }
        Event::AttemptSucceeded {
            place,
            model,
            attempt,
            id,
            fallback,
            duration_ms,
            usage,
            request_id,
            served_model,
        } => {
            at!(info, place, "attempt succeeded", model = %model, attempt = attempt, attempt_id = %id, fallback = fallback,
                duration_ms = duration_ms, input_tokens = usage.input, output_tokens = usage.output,
                provider_request_id = request_id.as_deref(), served_model = served_model.as_deref());
        }
        Event::Waiting { place, reason, for_ms } => {
            let model = match reason {
                WaitReason::BreakerTest(model) => Some(model.as_str()),
                WaitReason::Backoff | WaitReason::OwnNetworkDown => None,
            };
            at!(info, place, "waiting", reason = reason.word(), model = model, for_ms = for_ms);
        }
        Event::Exhausted { place } => at!(warn, place, "no model answered"),
        Event::Degraded { place, stand_in } => at!(warn, place, "degraded", stand_in = stand_in),
        Event::Redemption { session, what, step } => {
            let (stand_in, milestone) = (what.stand_in(), what.milestone());
            match step {
                RedemptionStep::Begun => info!(%session, stand_in, milestone, "redemption begins"),
                RedemptionStep::Done => info!(%session, stand_in, milestone, "redeemed"),
                RedemptionStep::PutBack { why } => info!(%session, stand_in, milestone, why, "not redeemed yet"),
                RedemptionStep::Left { why } => warn!(%session, stand_in, milestone, why, "left for a person"),
            }
        }
        Event::BreakerChanged { model, from, to, status, reason, retry_in_ms } => match to {
            State::Open => warn!(%model, ?from, ?to, status, reason, retry_in_ms, "breaker changed"),
            State::Closed | State::HalfOpen => {
                info!(%model, ?from, ?to, status, reason, retry_in_ms, "breaker changed")
            }
        },
        Event::TimeoutRaised { model, timeout_ms } => warn!(%model, timeout_ms, "timeout raised"),
        Event::FileEnded { session, milestone, file, error } => match error {
            None => info!(%session, milestone, file, "file written"),
            Some(error) => warn!(%session, milestone, file, error, "file failed"),
        },
        Event::Judged { session, milestone, ok, all, verdict, again } => {
            info!(%session, milestone, ok, all, ?verdict, again, "milestone judged");
        }
        Event::Checking { session, milestone, command } => info!(%session, milestone, command, "check begins"),
        Event::Checked { session, milestone, command, passed, summary } => {
            info!(%session, milestone, command, passed, summary, "check ended");
        }
        Event::Reviewed { session, milestone, approved, code_quality, n_issues } => {
            info!(%session, milestone, approved, code_quality, n_issues, "reviewed");
        }
        Event::FixRound { session, milestone, round } => info!(%session, milestone, round, "fix round"),
        Event::Committed { session, milestone, commit, branch } => {
            info!(%session, milestone, commit = commit.as_ref().map(|c| c.as_str()), branch, "committed");
        }
        Event::IssueFiled { session, title } => info!(%session, title, "issue filed"),
        Event::Interrupted { session, idea, reason } => warn!(%session, %idea, reason, "session interrupted"),
        Event::ActorFailed { actor, error, restarted } => error!(actor, error, restarted, "actor failed"),
        Event::Paused { reason: Some(reason) } => warn!(reason, "paused"),
        Event::Paused { reason: None } => info!("goes on after a pause"),
        Event::Shutdown { step } => warn!(step, "shutdown"),
    }
}
