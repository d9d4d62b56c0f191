//! Events become spans: a pure machine that is told what happened and when.
//!
//! Names of attributes are those of OpenTelemetry's semantic conventions 1.37 ("Generative AI", status development); what they
//! have no name for begins with `steadfast.`.
//!
//! A session, and each of its milestones, is one span over all processes that worked on it: its id is made from the session's,
//! so that spans of before a restart have the same parent as those of after it, and it is sent once, at its end. Attempts have
//! the id that went along with the request.

use std::collections::HashMap;
use std::time::Duration;

use steadfast_actors::Event;
use steadfast_actors::event::Place;
use steadfast_core::ids::{AttemptId, IdeaId, ModelId, SessionId};
use steadfast_core::session::Phase;

use crate::report::verdict_word;

/// A span that has ended.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) name: String,
    /// A request to somebody else.
    pub(super) is_call: bool,
    /// Since 1970.
    pub(super) start: Duration,
    pub(super) end: Duration,
    pub(super) facts: Facts,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    Text(String),
    Number(u64),
    Flag(bool),
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Fact {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Fact {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

type Facts = Vec<(&'static str, Fact)>;

/// A milestone at work.
struct Milestone {
    start: Duration,
    name: String,
    facts: Facts,
}

/// A role's execution, for one file or for all.
struct Execution {
    place: Place,
    id: u64,
    start: Duration,
    /// The attempt under way; one at a time.
    attempt: Option<(AttemptId, ModelId, Duration)>,
}

/// Host and port of each provider.
pub(super) type Servers = HashMap<String, (String, u16)>;

/// What has begun and not ended.
pub(super) struct Spans {
    servers: Servers,
    milestones: HashMap<(SessionId, u32), Milestone>,
    executions: HashMap<(SessionId, String), Execution>,
}

/// An execution among those of its session.
fn key(place: &Place) -> (SessionId, String) {
    let file = place.file.as_ref().map(|file| file.as_str()).unwrap_or_default();
    (place.session.clone(), format!("{} {:?} {file}", place.role, place.milestone))
}

/// The id of a session's own span: the second half of its trace's.
fn session_span(session: &SessionId) -> u64 {
    ((session.trace_id() & u128::from(u64::MAX)) as u64).max(1)
}

/// The id of a milestone's span. Times an odd number, so that no two of a session are the same.
fn milestone_span(session: &SessionId, milestone: u32) -> u64 {
    session_span(session).wrapping_add(u64::from(milestone).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1)
}

fn parent(place: &Place) -> u64 {
    place.milestone.map_or_else(|| session_span(&place.session), |milestone| milestone_span(&place.session, milestone))
}

/// What is known of every span of a place.
fn of_place(place: &Place) -> Facts {
    let mut facts = vec![
        ("steadfast.session.id", place.session.as_str().into()),
        ("steadfast.idea.id", place.idea.as_str().into()),
        ("gen_ai.conversation.id", place.session.as_str().into()),
        ("gen_ai.agent.name", place.role.as_str().into()),
    ];
    if let Some(milestone) = place.milestone {
        facts.push(("steadfast.milestone", u64::from(milestone).into()));
    }
    if let Some(file) = &place.file {
        facts.push(("steadfast.file", file.as_str().into()));
    }
    facts
}

/// How an attempt ended.
struct End<'a> {
    error: Option<(&'static str, &'a str)>,
    facts: Facts,
}

impl Spans {
    pub(super) fn new(servers: Servers) -> Self {
        Self { servers, milestones: HashMap::new(), executions: HashMap::new() }
    }

    /// Takes an event and answers the spans that end with it. `now`: since 1970.
    pub(super) fn take(&mut self, event: &Event, now: Duration) -> Vec<Span> {
        match event {
            Event::ExecutionStarted { place, .. } => {
                let id = fastrand::u64(1..);
                let execution = Execution { place: place.clone(), id, start: now, attempt: None };
                // One of this place that ended without a word goes with it.
                self.executions.insert(key(place), execution);
                Vec::new()
            }
            Event::AttemptStarted { place, model, id, .. } => {
                if let Some(execution) = self.executions.get_mut(&key(place)) {
                    execution.attempt = Some((*id, model.clone(), now));
                }
                Vec::new()
            }
            Event::ModelRefused { place, .. } => {
                // No call was made.
                if let Some(execution) = self.executions.get_mut(&key(place)) {
                    execution.attempt = None;
                }
                Vec::new()
            }
            Event::AttemptFailed { place, attempt, fault, status, reason, usage, request_id, .. } => {
                let mut facts = vec![("steadfast.attempt", u64::from(*attempt).into())];
                facts.extend(status.map(|status| ("http.response.status_code", u64::from(status).into())));
                facts.extend(request_id.as_deref().map(|id| ("steadfast.provider_request.id", id.into())));
                if usage.input + usage.output > 0 {
                    facts.push(("gen_ai.usage.input_tokens", usage.input.into()));
                    facts.push(("gen_ai.usage.output_tokens", usage.output.into()));
                }
                let end = End { error: Some((fault.word(), reason)), facts };
                self.end_attempt(place, end, now).into_iter().collect()
            }
            Event::AttemptSucceeded { place, attempt, fallback, usage, request_id, served_model, .. } => {
                let mut facts = vec![
                    ("steadfast.attempt", u64::from(*attempt).into()),
                    ("steadfast.fallback", (*fallback).into()),
                    ("gen_ai.usage.input_tokens", usage.input.into()),
                    ("gen_ai.usage.output_tokens", usage.output.into()),
                ];
                facts.extend(served_model.as_deref().map(|model| ("gen_ai.response.model", model.into())));
                facts.extend(request_id.as_deref().map(|id| ("steadfast.provider_request.id", id.into())));
                let attempt = self.end_attempt(place, End { error: None, facts }, now);
                attempt.into_iter().chain(self.end_execution(&key(place), None, now)).collect()
            }
            Event::Exhausted { place } => {
                self.end_execution(&key(place), Some(("exhausted", "no model answered")), now).into_iter().collect()
            }
            Event::SessionMoved { session, phase: Phase::Implementing, milestone, text, .. } => {
                let begin = || Milestone {
                    start: now,
                    name: text.clone().unwrap_or_default(),
                    facts: vec![
                        ("steadfast.session.id", session.as_str().into()),
                        ("steadfast.milestone", u64::from(*milestone).into()),
                    ],
                };
                self.milestones.entry((session.clone(), *milestone)).or_insert_with(begin);
                Vec::new()
            }
            Event::Judged { session, milestone, ok, all, verdict, .. } => {
                if let Some(at_work) = self.milestones.get_mut(&(session.clone(), *milestone)) {
                    // The last verdict is the one that holds.
                    at_work.facts.truncate(2);
                    at_work.facts.push(("steadfast.verdict", verdict_word(*verdict).into()));
                    at_work.facts.push(("steadfast.files.succeeded", u64::from(*ok).into()));
                    at_work.facts.push(("steadfast.files", u64::from(*all).into()));
                }
                Vec::new()
            }
            Event::Committed { session, milestone, commit, .. } => {
                let Some(mut at_work) = self.milestones.remove(&(session.clone(), *milestone)) else {
                    return Vec::new();
                };
                at_work.facts.extend(commit.as_ref().map(|commit| ("vcs.ref.head.revision", commit.as_str().into())));
                vec![Span {
                    trace: session.trace_id(),
                    id: milestone_span(session, *milestone),
                    parent: Some(session_span(session)),
                    name: format!("milestone {milestone}: {}", at_work.name),
                    is_call: false,
                    start: at_work.start,
                    end: now,
                    facts: at_work.facts,
                    error: None,
                }]
            }
            Event::SessionMoved { session, idea, phase, text, .. } if phase.is_final() => {
                let mut ended = self.leave(session, phase.as_str(), now);
                ended.push(whole(session, idea, *phase, text.as_deref(), now));
                ended
            }
            Event::Interrupted { session, .. } => self.leave(session, "interrupted", now),
            _ => Vec::new(),
        }
    }

    fn end_attempt(&mut self, place: &Place, end: End<'_>, now: Duration) -> Option<Span> {
        let execution = self.executions.get_mut(&key(place))?;
        let (id, model, start) = execution.attempt.take()?;
        let mut facts = of_place(place);
        facts.push(("gen_ai.operation.name", "chat".into()));
        facts.push(("gen_ai.provider.name", model.provider().into()));
        facts.push(("gen_ai.request.model", model.name().into()));
        if let Some((host, port)) = self.servers.get(model.provider()) {
            facts.push(("server.address", host.as_str().into()));
            facts.push(("server.port", u64::from(*port).into()));
        }
        facts.extend(end.facts);
        facts.extend(end.error.map(|(word, _)| ("error.type", word.into())));
        Some(Span {
            trace: place.session.trace_id(),
            id: id.get(),
            parent: Some(execution.id),
            name: format!("chat {}", model.name()),
            is_call: true,
            start,
            end: now,
            facts,
            error: end.error.map(|(_, reason)| reason.to_owned()),
        })
    }

    fn end_execution(
        &mut self,
        key: &(SessionId, String),
        error: Option<(&'static str, &str)>,
        now: Duration,
    ) -> Option<Span> {
        let execution = self.executions.remove(key)?;
        let place = &execution.place;
        let mut facts = of_place(place);
        facts.push(("gen_ai.operation.name", "invoke_agent".into()));
        facts.extend(error.map(|(word, _)| ("error.type", word.into())));
        Some(Span {
            trace: place.session.trace_id(),
            id: execution.id,
            parent: Some(parent(place)),
            name: format!("invoke_agent {}", place.role),
            is_call: false,
            start: execution.start,
            end: now,
            facts,
            error: error.map(|(_, reason)| reason.to_owned()),
        })
    }

    /// Ends what a session that stands still or is over has under way. Its executions begin anew, under other ids; its
    /// milestone ends when it is committed, maybe by another process.
    fn leave(&mut self, session: &SessionId, why: &'static str, now: Duration) -> Vec<Span> {
        self.milestones.retain(|(of, _), _| of != session);
        let keys: Vec<_> = self.executions.keys().filter(|(of, _)| of == session).cloned().collect();
        let mut ended = Vec::new();
        for key in keys {
            if let Some(place) = self.executions.get(&key).map(|execution| execution.place.clone()) {
                ended.extend(self.end_attempt(&place, End { error: Some((why, why)), facts: Vec::new() }, now));
            }
            ended.extend(self.end_execution(&key, Some((why, why)), now));
        }
        ended
    }
}

/// The span of a whole session: from its making, maybe days and processes ago.
fn whole(session: &SessionId, idea: &IdeaId, phase: Phase, text: Option<&str>, now: Duration) -> Span {
    let facts = vec![
        ("steadfast.session.id", session.as_str().into()),
        ("steadfast.idea.id", idea.as_str().into()),
        ("steadfast.phase", phase.as_str().into()),
    ];
    let error = (phase == Phase::Failed).then(|| text.unwrap_or("failed").to_owned());
    Span {
        trace: session.trace_id(),
        id: session_span(session),
        parent: None,
        name: format!("session {idea}"),
        is_call: false,
        start: Duration::from_millis(session.created_ms()).min(now),
        end: now,
        facts,
        error,
    }
}
