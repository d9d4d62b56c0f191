//! Events as JSON: one object each, with `id`, `at` (RFC 3339, UTC), `event`, and the fields of its kind.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use steadfast_actors::event::{Place, WaitReason};
use steadfast_actors::{Event, RedemptionStep};
use steadfast_core::breaker::State;
use steadfast_core::ids::SessionId;

use crate::report::verdict_word;

/// Whose event it is, and its line.
pub(super) fn line(event: &Event, id: u64, at: Timestamp) -> (Option<SessionId>, String) {
    let (kind, session, fields) = parts(event);
    (session.cloned(), finish(kind, session, fields, (id, at)))
}

/// What is told when events came faster than they could be taken in.
pub(super) fn missed(n: u64, id: u64, at: Timestamp) -> (Option<SessionId>, String) {
    (None, finish("missed", None, json!({ "events": n }), (id, at)))
}

fn finish(kind: &str, session: Option<&SessionId>, fields: Value, (id, at): (u64, Timestamp)) -> String {
    let mut all = Map::new();
    all.insert("id".to_owned(), id.into());
    all.insert("at".to_owned(), at.to_string().into());
    all.insert("event".to_owned(), kind.into());
    if let Some(session) = session {
        all.insert("sessionId".to_owned(), session.as_str().into());
    }
    if let Value::Object(fields) = fields {
        all.extend(fields);
    }
    Value::Object(all).to_string()
}

/// The fields of a place; where a fact is missing, so is its key.
fn at(place: &Place, more: Value) -> Value {
    let mut all = Map::new();
    all.insert("ideaId".to_owned(), place.idea.as_str().into());
    all.insert("role".to_owned(), place.role.as_str().into());
    if let Some(milestone) = place.milestone {
        all.insert("milestone".to_owned(), milestone.into());
    }
    if let Some(file) = &place.file {
        all.insert("file".to_owned(), file.as_str().into());
    }
    if let Value::Object(more) = more {
        all.extend(more);
    }
    Value::Object(all)
}

fn state(state: State) -> &'static str {
    match state {
        State::Closed => "CLOSED",
        State::Open => "OPEN",
        State::HalfOpen => "HALF-OPEN",
    }
}

fn parts(event: &Event) -> (&'static str, Option<&SessionId>, Value) {
    match event {
        Event::SessionMoved { session, idea, phase, milestone, n_milestones, text } => (
            "session_moved",
            Some(session),
            json!({ "ideaId": idea.as_str(), "phase": phase.as_str(), "milestone": milestone,
                    "milestones": n_milestones, "text": text }),
        ),
        Event::Planned { session, milestones, degraded } => {
            ("planned", Some(session), json!({ "milestones": milestones, "degraded": degraded }))
        }
        Event::ExecutionStarted { place, n_models } => {
            ("execution_started", Some(&place.session), at(place, json!({ "models": n_models })))
        }
        Event::AnswerReused { place, model } => {
            ("answer_reused", Some(&place.session), at(place, json!({ "model": model.as_str() })))
        }
        Event::AttemptStarted { place, model, attempt, id } => (
            "attempt_started",
            Some(&place.session),
            at(place, json!({ "model": model.as_str(), "attempt": attempt, "attemptId": id.to_string() })),
        ),
        Event::AttemptFailed { place, model, attempt, id, fault, status, reason, duration_ms, usage, request_id } => (
            "attempt_failed",
            Some(&place.session),
            at(
                place,
                json!({ "model": model.as_str(), "attempt": attempt, "attemptId": id.to_string(), "fault": fault.word(),
                        "status": status, "reason": reason, "durationMs": duration_ms, "inputTokens": usage.input,
                        "outputTokens": usage.output, "providerRequestId": request_id }),
            ),
        ),
        Event::ModelRefused { place, model, reason } => {
            ("model_refused", Some(&place.session), at(place, json!({ "model": model.as_str(), "reason": reason })))
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
        } => (
            "attempt_succeeded",
            Some(&place.session),
            at(
                place,
                json!({ "model": model.as_str(), "attempt": attempt, "attemptId": id.to_string(), "fallback": fallback,
                        "durationMs": duration_ms, "tokens": usage.input + usage.output, "inputTokens": usage.input,
                        "outputTokens": usage.output, "providerRequestId": request_id, "servedModel": served_model }),
            ),
        ),
        Event::Waiting { place, reason, for_ms } => {
            let model = match reason {
                WaitReason::BreakerTest(model) => Some(model.as_str()),
                WaitReason::Backoff | WaitReason::OwnNetworkDown => None,
            };
            let more = json!({ "reason": reason.word(), "model": model, "forMs": for_ms });
            ("waiting", Some(&place.session), at(place, more))
        }
        Event::Exhausted { place } => ("exhausted", Some(&place.session), at(place, Value::Null)),
        Event::Degraded { place, stand_in } => {
            ("degraded", Some(&place.session), at(place, json!({ "standIn": stand_in })))
        }
        Event::Redemption { session, what, step } => {
            let (step, why) = match step {
                RedemptionStep::Begun => ("begun", None),
                RedemptionStep::Done => ("done", None),
                RedemptionStep::PutBack { why } => ("put_back", Some(why)),
                RedemptionStep::Left { why } => ("left", Some(why)),
            };
            let (stand_in, milestone) = (what.stand_in(), what.milestone());
            let more = json!({ "standIn": stand_in, "milestone": milestone, "step": step, "why": why });
            ("redemption", Some(session), more)
        }
        Event::BreakerChanged { model, from, to, status, reason, retry_in_ms } => (
            "breaker_changed",
            None,
            json!({ "model": model.as_str(), "from": state(*from), "to": state(*to), "status": status,
                    "reason": reason, "retryInMs": retry_in_ms }),
        ),
        Event::TimeoutRaised { model, timeout_ms } => {
            ("timeout_raised", None, json!({ "model": model.as_str(), "timeoutMs": timeout_ms }))
        }
        Event::FileEnded { session, milestone, file, error } => {
            ("file_ended", Some(session), json!({ "milestone": milestone, "file": file, "error": error }))
        }
        Event::Judged { session, milestone, ok, all, verdict, again } => (
            "judged",
            Some(session),
            json!({ "milestone": milestone, "ok": ok, "all": all, "verdict": verdict_word(*verdict), "again": again }),
        ),
        Event::Checking { session, milestone, command } => {
            ("check_started", Some(session), json!({ "milestone": milestone, "command": command }))
        }
        Event::Checked { session, milestone, command, passed, summary } => (
            "check_ended",
            Some(session),
            json!({ "milestone": milestone, "command": command, "passed": passed, "summary": summary }),
        ),
        Event::Reviewed { session, milestone, approved, code_quality, n_issues } => (
            "reviewed",
            Some(session),
            json!({ "milestone": milestone, "approved": approved, "codeQuality": code_quality, "issues": n_issues }),
        ),
        Event::FixRound { session, milestone, round } => {
            ("fix_round", Some(session), json!({ "milestone": milestone, "round": round }))
        }
        Event::Committed { session, milestone, commit, branch } => (
            "committed",
            Some(session),
            json!({ "milestone": milestone, "commit": commit.as_ref().map(|commit| commit.as_str()), "branch": branch }),
        ),
        Event::IssueFiled { session, title } => ("issue_filed", Some(session), json!({ "title": title })),
        Event::Interrupted { session, idea, reason } => {
            ("interrupted", Some(session), json!({ "ideaId": idea.as_str(), "reason": reason }))
        }
        Event::ActorFailed { actor, error, restarted } => {
            ("actor_failed", None, json!({ "actor": actor, "error": error, "restarted": restarted }))
        }
        Event::Paused { reason } => ("paused", None, json!({ "reason": reason })),
        Event::Shutdown { step } => ("shutdown", None, json!({ "step": step })),
    }
}
