//! A session's story for a person: one line an event.

use crate::text::{harmless, n_of};

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
            let more = if text("text").is_empty() { String::new() } else { format!(": {}", text("text")) };
            format!("{}{at}{more}", text("phase"))
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
            let reason = text("reason").replace('_', " ");
            let model = if text("model").is_empty() { String::new() } else { format!(" of {}", text("model")) };
            format!("{who} waits {} ({reason}{model})", crate::progress::span(number("forMs")))
        }
        "exhausted" => format!("{who}: no model answered"),
        "degraded" => format!("{who}: {} stands in", text("standIn")),
        "breaker_changed" => {
            format!("breaker of {}: {} to {}: {}", text("model"), text("from"), text("to"), text("reason"))
        }
        "file_ended" if event["error"].is_null() => format!("{}: {} written", milestone(), text("file")),
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
            format!("{}: {word}, quality {}/100, {remarks}", milestone(), number("codeQuality"))
        }
        "fix_round" => format!("{}: round {} of fixes", milestone(), number("round")),
        "committed" if event["commit"].is_null() => format!("{}: nothing had changed", milestone()),
        "committed" => {
            let commit = text("commit").chars().take(10).collect::<String>();
            format!("{} is commit {commit} on {}", milestone(), text("branch"))
        }
        "issue_filed" => format!("issue filed: {}", text("title")),
        "interrupted" => format!("interrupted: {}", text("reason")),
        other => format!("{}: {event}", other.replace('_', " ")),
    };
    // Seconds are enough for a person.
    let at: String = text("at").chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect();
    harmless(&format!("{at}  {what}")).replace('\n', " ")
}
