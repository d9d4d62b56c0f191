//! The JSON that others read (SPEC 10, 13): every key and the kind of its value. A key more is a change of what is
//! promised as well, so the sets are exact.

use serde_json::{Value, json};

use crate::support::{World, milestone, rule, wait_until};

/// Compares with a shape: `"text"`, `"number"`, `"whole"`, `"bool"`, `"null"`, or several of them with `|` between; a list
/// with one shape for all its elements, of which there must be at least one; an object with exactly these keys.
#[track_caller]
fn fits(value: &Value, shape: &Value) {
    let mut faults = Vec::new();
    compare(value, shape, "$", &mut faults);
    assert!(faults.is_empty(), "{faults:#?}\n{value:#}");
}

fn compare(value: &Value, shape: &Value, at: &str, faults: &mut Vec<String>) {
    match (value, shape) {
        (Value::Object(value), Value::Object(shape)) => {
            for key in value.keys().filter(|key| !shape.contains_key(*key)) {
                faults.push(format!("{at}.{key} is not promised"));
            }
            for (key, shape) in shape {
                match value.get(key) {
                    Some(value) => compare(value, shape, &format!("{at}.{key}"), faults),
                    None => faults.push(format!("{at}.{key} is missing")),
                }
            }
        }
        (Value::Array(values), Value::Array(shape)) => {
            if values.is_empty() {
                faults.push(format!("{at} is empty, so it shows nothing"));
            }
            for (place, value) in values.iter().enumerate() {
                compare(value, &shape[0], &format!("{at}[{place}]"), faults);
            }
        }
        (value, Value::String(kinds)) => {
            let is = |kind: &str| match kind {
                "text" => value.is_string(),
                "number" => value.is_number(),
                "whole" => value.is_u64(),
                "bool" => value.is_boolean(),
                "null" => value.is_null(),
                "none" => value == &json!([]),
                other => panic!("{other} is no kind"),
            };
            if !kinds.split('|').any(is) {
                faults.push(format!("{at} is no {kinds}"));
            }
        }
        (_, shape) => faults.push(format!("{at} is not like {shape}")),
    }
}

fn file() -> Value {
    json!({ "path": "text", "status": "text", "model": "text|null", "fallback": "bool", "degraded": "bool", "error": "text|null" })
}

fn report(files: Option<Value>, review: Value, checks: Value, issues: Value) -> Value {
    let mut milestone = json!({
        "index": "whole", "name": "text", "status": "text", "successRate": "number|null", "verdict": "text|null",
        "commit": "text|null", "approved": "bool|null", "checks": checks, "review": review,
    });
    let with_history = files.is_some();
    if let Some(files) = files {
        milestone["files"] = files;
    }
    let mut report = json!({
        "sessionId": "text", "ideaId": "text", "title": "text", "phase": "text", "success": "bool", "partial": "bool",
        "degraded": "bool", "currentMilestone": "whole", "interrupted": "bool", "emergency_shutdown": "bool",
        "shutdown_at": "text|null", "interrupt_reason": "text|null", "can_resume": "bool", "error": "text|null",
        "repo": "text", "branch": "text", "createdAt": "text", "updatedAt": "text",
        "spent": { "calls": "whole", "inputTokens": "whole", "outputTokens": "whole", "cost": "number" },
        "milestones": [milestone], "issues": issues,
    });
    if with_history {
        report["history"] = json!([step()]);
    }
    report
}

fn step() -> Value {
    json!({
        "role": "text", "milestone": "whole|null", "round": "whole", "file": "text|null", "model": "text|null",
        "fallback": "bool", "attempts": [{
            "model": "text", "outcome": "text", "error": "text|null", "durationMs": "whole", "inputTokens": "whole",
            "outputTokens": "whole",
        }],
        "calls": "whole", "durationMs": "whole", "inputTokens": "whole", "outputTokens": "whole", "cost": "number",
    })
}

fn review() -> Value {
    json!({
        "approved": "bool", "code_quality": "whole",
        "issues": [{ "severity": "text", "issue": "text", "suggestion": "text", "file": "text|null" }],
        "next_steps": ["text"], "model": "text", "fallback": "bool", "degraded": "bool",
    })
}

fn checks() -> Value {
    json!([{ "command": "text", "passed": "bool", "summary": "text" }])
}

fn issue() -> Value {
    json!({ "kind": "text", "title": "text", "delivered": "bool", "url": "text|null" })
}

fn breaker() -> Value {
    json!({ "model": "text", "priority": "whole", "circuitBreaker": "text" })
}

fn rate() -> Value {
    json!({ "lastHour": { "value": "number|null", "level": "text" }, "sinceStart": { "value": "number|null", "level": "text" } })
}

fn status() -> Value {
    json!({
        "daemon": "bool",
        "roles": { "planner": [breaker()], "coder": [breaker()], "reviewer": [breaker()] },
        "rates": {
            "primarySuccess": rate(), "fallback": rate(), "degradation": rate(), "breakerOpens": rate(),
            "partialSuccess": rate(),
        },
        "sessions": {
            "queued": "whole", "active": "whole", "interrupted": "whole", "completed": "whole", "failed": "whole",
            "cancelled": "whole",
        },
        "outbox": { "undelivered": "whole" },
        "store": { "healed": "none", "setAsideRecords": "whole", "setAsideFiles": "none" },
    })
}

/// Whether it is RFC 3339 in UTC, to the second.
fn is_utc(text: &Value) -> bool {
    let text = text.as_str().unwrap_or_default().as_bytes();
    let pattern = b"0000-00-00T00:00:00Z";
    text.len() == pattern.len()
        && text.iter().zip(pattern).all(|(c, p)| if *p == b'0' { c.is_ascii_digit() } else { c == p })
}

/// A partial milestone with a review that has a remark and a next step, one check, one issue.
fn world() -> World {
    let script = milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[])
        + &rule("role = \"coder\", file = \"users.js\"", "", "{ status = 400 }")
        + &rule(
            "role = \"reviewer\"",
            "",
            "{ review = { approved = true, code_quality = 91, next_steps = [\"Ship it\"], issues = [{ issue = \"A typo.\" }] } }",
        );
    World::new(&script, &[("session.checks", "[\"true\"]")])
}

#[test]
fn a_report_has_the_keys_of_the_specification_in_run_show_and_sessions() {
    let world = world();
    let output = world.run().expect(0);
    let ran = output.json();
    // Its progress is told from the first event on.
    assert!(output.stderr.starts_with("── planning 002-feature\n"), "{}", output.stderr);
    fits(&ran, &report(Some(json!([file()])), review(), checks(), json!([issue()])));
    assert_eq!(ran["ideaId"], "002-feature");
    assert_eq!(ran["title"], "Add what is missing");
    assert_eq!(ran["branch"], "steadfast/002-feature");
    assert_eq!(ran["currentMilestone"], 1);
    assert_eq!(ran["spent"]["calls"], 6);
    for key in ["shutdown_at", "interrupt_reason", "error"] {
        assert_eq!(ran[key], Value::Null, "{key}");
    }
    for key in ["interrupted", "emergency_shutdown", "can_resume"] {
        assert_eq!(ran[key], false, "{key}");
    }
    assert!(is_utc(&ran["createdAt"]) && is_utc(&ran["updatedAt"]), "{ran}");
    let branch = world.git().revparse_single("steadfast/002-feature").unwrap().id().to_string();
    assert_eq!(ran["milestones"][0]["commit"], branch.as_str());

    let id = ran["sessionId"].as_str().unwrap();
    assert_eq!(world.steadfast(&["show", id, "--json"]).expect(0).json(), ran);
    assert_eq!(world.steadfast(&["show", "002-feature", "--json"]).expect(0).json(), ran);

    let listed = world.steadfast(&["sessions", "--json"]).expect(0).json();
    fits(&listed, &json!([report(None, review(), checks(), json!([issue()]))]));
    let mut without_files = ran;
    without_files["milestones"][0].as_object_mut().unwrap().remove("files");
    without_files.as_object_mut().unwrap().remove("history");
    assert_eq!(listed, json!([without_files]));
}

#[test]
fn an_interrupted_session_shows_the_state_keys_and_the_milestones_to_come() {
    let script = milestone("First", &["a.js"], &[], &[])
        + &milestone("Second", &["b.js"], &[], &[])
        + &rule("role = \"coder\"", "", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let run = world.start_run();
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    run.signal(rustix::process::Signal::TERM);
    let report = run.output().expect(75).json();
    assert_eq!(report["phase"], "implementing");
    assert_eq!(report["success"], false);
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["emergency_shutdown"], true);
    assert_eq!(report["can_resume"], true);
    assert_eq!(report["interrupt_reason"], "SIGTERM received");
    assert!(is_utc(&report["shutdown_at"]), "{report}");
    let milestones = report["milestones"].as_array().unwrap();
    let shown: Vec<(&Value, &Value)> = milestones.iter().map(|m| (&m["index"], &m["status"])).collect();
    assert_eq!(shown, [(&json!(1), &json!("pending")), (&json!(2), &json!("pending"))]);
    for milestone in milestones {
        for key in ["successRate", "verdict", "commit", "approved", "review"] {
            assert_eq!(milestone[key], Value::Null, "{key}");
        }
    }
}

#[test]
fn status_has_the_keys_of_the_specification_with_and_without_a_daemon() {
    let world = world();
    let before = world.status();
    fits(&before, &status());
    assert_eq!(before["daemon"], false);
    assert_eq!(
        before["roles"]["coder"],
        json!([
            { "model": "sim/one", "priority": 1, "circuitBreaker": "CLOSED" },
            { "model": "sim/two", "priority": 2, "circuitBreaker": "CLOSED" },
        ])
    );
    world.run().expect(0);
    assert_eq!(
        world.status()["sessions"],
        json!({ "queued": 0, "active": 0, "interrupted": 0, "completed": 1, "failed": 0, "cancelled": 0 })
    );
    let daemon = world.start_daemon();
    let shown = world.status();
    fits(&shown, &status());
    assert_eq!(shown["daemon"], true);
    assert_eq!(shown["sessions"]["completed"], 1);
    daemon.signal(rustix::process::Signal::TERM);
    daemon.output().expect(0);
}

#[test]
fn the_dashboard_names_roles_models_and_breakers() {
    let text = world().steadfast(&["status"]).expect(0).stdout;
    for part in ["planner", "coder", "reviewer", "sim/plan", "sim/one", "sim/two", "sim/review", "CLOSED"] {
        assert!(text.to_lowercase().contains(&part.to_lowercase()), "{part} in {text}");
    }
}

#[test]
fn the_outbox_lists_each_issue_with_its_session_and_receipt() {
    let world = world();
    let ran = world.run().expect(0).json();
    let listed = world.steadfast(&["outbox", "list", "--json"]).expect(0).json();
    fits(
        &listed,
        &json!([{ "sessionId": "text|null", "key": "text", "kind": "text", "title": "text", "delivered": "bool",
            "url": "text|null", "createdAt": "text", "error": "text|null" }]),
    );
    assert_eq!(listed[0]["sessionId"], ran["sessionId"]);
    assert_eq!(listed[0]["kind"], "failed_file");
    let url = listed[0]["url"].as_str().unwrap();
    assert!(std::path::Path::new(url.strip_prefix("file://").unwrap()).is_file(), "{url}");
    assert_eq!(ran["issues"][0]["url"], url);
}

#[test]
fn what_was_bought_is_counted_with_its_price() {
    let world = World::new(
        &milestone("One", &["a.js"], &[], &[]),
        &[("models.\"sim/one\"", "{ price = { input = 1_000_000, output = 2_000_000 } }")],
    );
    let spent = world.run().expect(0).json()["spent"].clone();
    assert_eq!(spent["calls"], 3);
    assert!(spent["inputTokens"].as_u64().unwrap() > 0 && spent["outputTokens"].as_u64().unwrap() > 0, "{spent}");
    assert!(spent["cost"].as_f64().unwrap() > 1.0, "{spent}");
}
