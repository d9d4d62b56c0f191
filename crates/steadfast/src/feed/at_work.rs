//! What is under way in this instant: which role asks which model, for which file, since when. Folded from the events, so that
//! who comes in the middle of a session sees what they would have seen from its start.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use steadfast_actors::Event;
use steadfast_actors::event::{Place, WaitReason};
use steadfast_core::ids::SessionId;
use steadfast_core::session::Phase;

/// One execution or check that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Work {
    pub(crate) session_id: String,
    /// `planner`, `coder` or `reviewer`; `check` for a configured command.
    pub(crate) role: String,
    /// From 1; not there for the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) milestone: Option<u32>,
    /// A file agent's file; a check's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// `begins`, `asks`, `waits`, `runs` (a check).
    pub(crate) state: String,
    /// Who is asked, or for whose breaker's test it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// From 1 within the execution; 0 before the first.
    pub(crate) attempt: u32,
    /// Why it waits: `backoff`, `breaker_test`, `own_network_down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// When the execution or check began (RFC 3339, UTC).
    pub(crate) begun_at: String,
    /// When this state began.
    pub(crate) since: String,
    /// Of a wait: how long it was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) for_ms: Option<u64>,
}

/// Role, milestone and file of an execution; of a check, its command in the place of the file.
type Who = (&'static str, u32, String);

/// Everything that is under way, by session. As many entries as there are executions at once, which the settings bound.
#[derive(Debug, Default)]
pub(super) struct AtWork {
    sessions: BTreeMap<SessionId, BTreeMap<Who, Work>>,
}

fn who(place: &Place) -> Who {
    let file = place.file.as_ref().map(|file| file.as_str().to_owned()).unwrap_or_default();
    (place.role.as_str(), place.milestone.unwrap_or(0), file)
}

impl AtWork {
    /// In the order of sessions, oldest first, then by role, milestone and file.
    pub(super) fn all(&self) -> Vec<Work> {
        self.sessions.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Takes in what has happened.
    pub(super) fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::ExecutionStarted { place, .. } => self.begin(&place.session, who(place), "begins", at),
            Event::AttemptStarted { place, model, attempt, .. } => self.turn(place, at, |work| {
                work.state = "asks".to_owned();
                work.model = Some(model.to_string());
                work.attempt = *attempt;
            }),
            Event::Waiting { place, reason, for_ms } => self.turn(place, at, |work| {
                let model = match reason {
                    WaitReason::BreakerTest(model) => Some(model.to_string()),
                    WaitReason::Backoff | WaitReason::OwnNetworkDown => None,
                };
                work.state = "waits".to_owned();
                work.model = model;
                work.reason = Some(reason.word().to_owned());
                work.for_ms = Some(*for_ms);
            }),
            Event::AttemptSucceeded { place, .. } | Event::AnswerReused { place, .. } | Event::Exhausted { place } => {
                self.end(&place.session, &who(place));
            }
            Event::Checking { session, milestone, command } => {
                self.begin(session, ("check", *milestone, command.clone()), "runs", at);
            }
            Event::Checked { session, milestone, command, .. } => {
                self.end(session, &("check", *milestone, command.clone()));
            }
            // A session that moves to planning or to another milestone, rests or ends has left what it did before.
            Event::SessionMoved { session, phase, .. } => match phase {
                Phase::Queued | Phase::Completed | Phase::Failed | Phase::Cancelled => {
                    self.sessions.remove(session);
                }
                Phase::Planning | Phase::Implementing | Phase::Reviewing => {}
            },
            Event::Interrupted { session, .. } => {
                self.sessions.remove(session);
            }
            // A file agent that was given up in the middle of a question ends with this alone.
            Event::FileEnded { session, milestone, file, .. } => {
                self.end(session, &("coder", *milestone, file.clone()));
            }
            Event::Judged { session, milestone, .. } => {
                if let Some(works) = self.sessions.get_mut(session) {
                    works.retain(|(role, at, _), _| *role != "coder" || at != milestone);
                }
            }
            Event::AttemptFailed { .. }
            | Event::ModelRefused { .. }
            | Event::Degraded { .. }
            | Event::Redemption { .. }
            | Event::Planned { .. }
            | Event::BreakerChanged { .. }
            | Event::TimeoutRaised { .. }
            | Event::Reviewed { .. }
            | Event::FixRound { .. }
            | Event::Committed { .. }
            | Event::IssueFiled { .. }
            | Event::ActorFailed { .. }
            | Event::Paused { .. }
            | Event::Shutdown { .. } => {}
        }
    }

    fn begin(&mut self, session: &SessionId, who: Who, state: &str, at: Timestamp) {
        let (role, milestone, file) = who.clone();
        let at = at.to_string();
        let work = Work {
            session_id: session.to_string(),
            role: role.to_owned(),
            milestone: (milestone > 0).then_some(milestone),
            file: (!file.is_empty()).then_some(file),
            state: state.to_owned(),
            model: None,
            attempt: 0,
            reason: None,
            begun_at: at.clone(),
            since: at,
            for_ms: None,
        };
        self.sessions.entry(session.clone()).or_default().insert(who, work);
    }

    /// Another state of the same execution; one whose start was missed begins here.
    fn turn(&mut self, place: &Place, at: Timestamp, change: impl FnOnce(&mut Work)) {
        let who = who(place);
        if !self.sessions.get(&place.session).is_some_and(|works| works.contains_key(&who)) {
            self.begin(&place.session, who.clone(), "begins", at);
        }
        if let Some(work) = self.sessions.get_mut(&place.session).and_then(|works| works.get_mut(&who)) {
            work.since = at.to_string();
            (work.reason, work.for_ms) = (None, None);
            change(work);
        }
    }

    fn end(&mut self, session: &SessionId, who: &Who) {
        if let Some(works) = self.sessions.get_mut(session) {
            works.remove(who);
            if works.is_empty() {
                self.sessions.remove(session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadfast_core::ids::{AttemptId, IdeaId, ModelId, RepoPath, Role};

    fn place(session: &SessionId, file: &str) -> Place {
        Place {
            session: session.clone(),
            idea: IdeaId::new("002-feature").unwrap(),
            role: Role::Coder,
            milestone: Some(1),
            file: Some(RepoPath::new(file).unwrap()),
        }
    }

    fn shown(work: &AtWork) -> Vec<(String, String, Option<String>)> {
        let row = |work: Work| (work.file.unwrap_or_default(), work.state, work.model);
        work.all().into_iter().map(row).collect()
    }

    #[test]
    fn each_file_agent_shows_whom_it_asks_and_goes_when_it_has_ended() {
        let session = SessionId::new(1_700_000_000_000, 7);
        let model = ModelId::new("sim/one").unwrap();
        let (at, later) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(9).unwrap());
        let mut work = AtWork::default();
        for file in ["a.js", "b.js"] {
            work.apply(&Event::ExecutionStarted { place: place(&session, file), n_models: 2 }, at);
        }
        let place = place(&session, "a.js");
        work.apply(
            &Event::AttemptStarted { place: place.clone(), model: model.clone(), attempt: 1, id: AttemptId::new(1) },
            at,
        );
        let asks = ("a.js".to_owned(), "asks".to_owned(), Some("sim/one".to_owned()));
        let begins = ("b.js".to_owned(), "begins".to_owned(), None);
        assert_eq!(shown(&work), [asks, begins.clone()]);
        let reason = WaitReason::BreakerTest(model.clone());
        work.apply(&Event::Waiting { place: place.clone(), reason, for_ms: 500 }, later);
        let waits = &work.all()[0];
        assert_eq!((waits.state.as_str(), waits.reason.as_deref()), ("waits", Some("breaker_test")));
        assert_eq!((waits.begun_at.as_str(), waits.since.as_str()), ("1970-01-01T00:00:01Z", "1970-01-01T00:00:09Z"));
        work.apply(&Event::Exhausted { place }, later);
        assert_eq!(shown(&work), [begins]);
        let reason = "SIGTERM received".to_owned();
        work.apply(&Event::Interrupted { session, idea: IdeaId::new("002-feature").unwrap(), reason }, later);
        assert!(work.all().is_empty() && work.sessions.is_empty());
    }
}
