//! A session's story for a person: one line an event.

use crate::text::{harmless, n_of};

/// Tells a story event by event, and where one process took it up from another.
#[derive(Default)]
pub(crate) struct Story {
    /// The epoch of the store in which the last event was told; it begins anew with each opening.
    process: Option<u64>,
}

impl Story {
    /// The event's line, after one that says so where the process before it has ended, by a signal or without a word.
    pub(crate) fn tell(&mut self, event: &serde_json::Value) -> String {
        let process = event["id"].as_u64().map(crate::feed::process_of);
        let before = std::mem::replace(&mut self.process, process);
        let taken_up = before.is_some() && before != process;
        let line = event_line(event);
        match taken_up {
            true => format!("{}  another process goes on with it\n{line}\n", when(event)),
            false => line + "\n",
        }
    }
}

/// Seconds are enough for a person.
fn when(event: &serde_json::Value) -> String {
    let at = event["at"].as_str().unwrap_or_default();
    at.chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// One event in one line: when, who, what.
pub(crate) fn event_line(event: &serde_json::Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let number = |key: &str| event[key].as_u64().unwrap_or_default();
    let is = |key: &str| event[key].as_bool().unwrap_or_default();
    let took = || crate::progress::span(number("durationMs"));
    let who = match (text("role"), text("file")) {
        (role, "") => role.to_owned(),
        (role, file) => format!("{role} {file}"),
    };
    let milestone = || format!("milestone {}", number("milestone"));
    let what = match text("event") {
        "session_moved" => {
            let at = if number("milestone") > 0 {
                format!(", milestone {}/{}", number("milestone"), number("milestones"))
            } else {
                String::new()
            };
            match (text("phase"), text("text")) {
                // There is one before a plan only, and then the idea is what there is to say.
                ("queued" | "planning", _) => format!("{}: idea {}", text("phase"), text("ideaId")),
                ("completed", _) => format!("completed, {}", n_of(number("milestones") as usize, "milestone")),
                (phase, "") => format!("{phase}{at}"),
                (phase, more) => format!("{phase}{at}: {more}"),
            }
        }
        "planned" => {
            let names = event["milestones"].as_array().map(Vec::as_slice).unwrap_or_default();
            let names: Vec<&str> = names.iter().filter_map(|name| name.as_str()).collect();
            let template = if is("degraded") { ", from the template" } else { "" };
            format!("plan of {}{template}: {}", n_of(names.len(), "milestone"), names.join("; "))
        }
        "execution_started" => format!("{who} begins, {} to ask", n_of(number("models") as usize, "model")),
        "answer_reused" => format!("{who} uses the answer that {} had given before", text("model")),
        "attempt_started" => format!("{who} asks {} (try {})", text("model"), number("attempt")),
        "attempt_failed" => {
            let named = match text("providerRequestId") {
                "" => String::new(),
                id => format!(" (the provider calls it {id})"),
            };
            format!("{who}: {} failed after {}: {}{named}", text("model"), took(), text("reason"))
        }
        "model_refused" => format!("{who}: {} passed over: {}", text("model"), text("reason")),
        "attempt_succeeded" => {
            let fallback = if is("fallback") { ", a fallback" } else { "" };
            let tokens = number("tokens");
            format!("{who}: {} answered in {}, {tokens} tokens{fallback}", text("model"), took())
        }
        "waiting" => {
            let span = crate::progress::span(number("forMs"));
            match text("reason") {
                "backoff" => format!("{who} waits {span} before the next try"),
                "breaker_test" => format!("{who} waits for the next test of {}, in {span}", text("model")),
                "own_network_down" => format!("{who} waits: our own network is down"),
                other => format!("{who} waits {span}: {}", other.replace('_', " ")),
            }
        }
        "exhausted" => format!("{who}: no model answered"),
        "degraded" => format!("{who}: {} stands in", text("standIn")),
        "breaker_changed" => {
            format!("breaker of {}: {} to {}: {}", text("model"), text("from"), text("to"), text("reason"))
        }
        "file_ended" if event["error"].is_null() => format!("{}: {} is done", milestone(), text("file")),
        "file_ended" => format!("{}: {} failed: {}", milestone(), text("file"), text("error")),
        "judged" => {
            let again = if is("again") { ", tried again" } else { "" };
            let verdict = text("verdict").replace('_', " ");
            format!("{}: {} of {} files, {verdict}{again}", milestone(), number("ok"), number("all"))
        }
        "check_started" => format!("check `{}` begins", text("command")),
        "check_ended" => format!("check `{}`: {}", text("command"), text("summary")),
        "reviewed" => {
            let word = if is("approved") { "approved" } else { "rejected" };
            let remarks = n_of(number("issues") as usize, "remark");
            format!("review of {}: {word}, quality {}/100, {remarks}", milestone(), number("codeQuality"))
        }
        "fix_round" => format!("{}: round {} of fixes", milestone(), number("round")),
        "committed" if event["commit"].is_null() => format!("{}: nothing had changed", milestone()),
        "committed" => {
            let commit = text("commit").chars().take(10).collect::<String>();
            format!("{} is commit {commit} on {}", milestone(), text("branch"))
        }
        "issue_filed" => format!("issue filed: {}", text("title")),
        "interrupted" => format!("interrupted: {}; it can go on from here", text("reason")),
        "actor_failed" => {
            let next = if is("restarted") { "started again" } else { "given up" };
            format!("{} failed: {}; {next}", text("actor"), text("error"))
        }
        "paused" if event["reason"].is_null() => "there is room again; it goes on".to_owned(),
        "paused" => format!("paused: {}", text("reason")),
        "shutdown" => format!("shutdown: {}", text("step")),
        "missed" => format!("{} came too fast to be told", n_of(number("events") as usize, "event")),
        other => format!("{}: {event}", other.replace('_', " ")),
    };
    harmless(&format!("{}  {what}", when(event))).replace('\n', " ")
}
