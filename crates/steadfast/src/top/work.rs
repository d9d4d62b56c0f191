//! Who is at work on what right now, from the events alone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::report::is_over;

/// What an agent is doing, or what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    /// A model is asked.
    Asks {
        model: String,
        attempt: u64,
    },
    /// It waits, until then, for a reason.
    Waits {
        why: String,
    },
    /// A check runs.
    Checks,
    Done,
    Failed(String),
}

/// One agent: the planner, the coder of a file, the reviewer, a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agent {
    pub(super) doing: Doing,
    pub(super) since: Option<Timestamp>,
}

/// The agents of the sessions at work, by session and name.
#[derive(Debug, Default)]
pub(super) struct AtWork {
    sessions: BTreeMap<String, (u64, BTreeMap<String, Agent>)>,
}

impl AtWork {
    /// A session's agents of the milestone at work, by name.
    pub(super) fn of(&self, session: &str) -> impl Iterator<Item = (&str, &Agent)> {
        let agents = self.sessions.get(session).map(|(_, agents)| agents);
        agents.into_iter().flatten().map(|(name, agent)| (name.as_str(), agent))
    }

    /// Agents that are at work now.
    pub(super) fn n_busy(&self) -> usize {
        let agents = self.sessions.values().flat_map(|(_, agents)| agents.values());
        agents.filter(|agent| !matches!(agent.doing, Doing::Done | Doing::Failed(_))).count()
    }

    pub(super) fn take(&mut self, event: &Value) {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let Some(session) = event["sessionId"].as_str() else { return };
        let (milestone, agents) = self.sessions.entry(session.to_owned()).or_default();
        let since = text("at").parse::<Timestamp>().ok();
        let name = match (text("role"), text("file")) {
            ("coder", "") => "coder".to_owned(),
            ("coder", file) => file.to_owned(),
            (role, _) => role.to_owned(),
        };
        let agent = |doing: Doing| Agent { doing, since };
        match text("event") {
            "session_moved" => {
                let now = event["milestone"].as_u64().unwrap_or(0);
                if now != *milestone {
                    agents.clear();
                    *milestone = now;
                }
                if is_over(text("phase")) {
                    self.sessions.remove(session);
                }
            }
            "interrupted" => {
                self.sessions.remove(session);
            }
            "attempt_started" => {
                let attempt = event["attempt"].as_u64().unwrap_or(1);
                agents.insert(name, agent(Doing::Asks { model: text("model").to_owned(), attempt }));
            }
            "waiting" => {
                let why = match text("reason") {
                    "backoff" => "before its next try".to_owned(),
                    "breaker_test" => format!("for the next test of {}", text("model")),
                    "own_network_down" => "for our own network".to_owned(),
                    other => other.replace('_', " "),
                };
                agents.insert(name, agent(Doing::Waits { why }));
            }
            "check_started" => {
                agents.insert(format!("check `{}`", text("command")), agent(Doing::Checks));
            }
            "check_ended" => {
                agents.remove(&format!("check `{}`", text("command")));
            }
            // The coder's end is its file's.
            "attempt_succeeded" | "answer_reused" | "exhausted" | "degraded" if text("role") != "coder" => {
                agents.remove(&name);
            }
            "file_ended" => {
                agents.remove("coder");
                let doing = match event["error"].as_str() {
                    None => Doing::Done,
                    Some(error) => Doing::Failed(error.to_owned()),
                };
                agents.insert(text("file").to_owned(), agent(doing));
            }
            _ => {}
        }
    }
}
