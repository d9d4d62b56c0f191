//! `show`: who wrote each file, with which model, after which failures, at which cost.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{World, milestone, rule, wait_until};

fn world() -> World {
    let script = milestone("One", &["a.js", "b.js"], &[], &[])
        + &rule("role = \"coder\", model = \"one\", file = \"a.js\"", "first = 1", "{ status = 500 }");
    let mut world = World::new(&script, &[]);
    world.configure("models.\"sim/two\".price = { input = 1_000_000, output = 2_000_000 }");
    world
}

fn shown(world: &World) -> Value {
    world.steadfast(&["show", "002-feature", "--json"]).expect(0).json()
}

#[track_caller]
fn assert_adds_up(report: &Value) {
    let steps = report["history"].as_array().unwrap();
    for key in ["calls", "inputTokens", "outputTokens"] {
        let sum: u64 = steps.iter().map(|step| step[key].as_u64().unwrap()).sum();
        assert_eq!(report["spent"][key], sum, "{key} of {report:#}");
    }
    let cost: f64 = steps.iter().map(|step| step["cost"].as_f64().unwrap()).sum();
    assert!((report["spent"]["cost"].as_f64().unwrap() - cost).abs() < 1e-9, "{report:#}");
}

#[test]
fn the_history_names_each_writer_with_its_failures_and_adds_up_to_what_was_spent() {
    let world = world();
    let ran = world.run().expect(0).json();
    let report = shown(&world);
    assert_eq!(report["history"], ran["history"], "packed or not, it is the same");
    assert_adds_up(&report);
    let steps = report["history"].as_array().unwrap();
    let of: Vec<Value> = steps.iter().map(|step| json!([step["role"], step["file"], step["model"]])).collect();
    let expected = [
        json!(["planner", null, "sim/plan"]),
        json!(["coder", "a.js", "sim/two"]),
        json!(["coder", "b.js", "sim/one"]),
        json!(["reviewer", null, "sim/review"]),
    ];
    assert_eq!(of, expected);
    let tries: Vec<Value> =
        steps[1]["attempts"].as_array().unwrap().iter().map(|one| json!([one["model"], one["outcome"]])).collect();
    assert_eq!(tries, [json!(["sim/one", "failed"]), json!(["sim/two", "answered"])]);
    assert!(steps[1]["cost"].as_f64().unwrap() > 0.0);

    let text = world.steadfast(&["show", "002-feature"]).expect(0).stdout;
    let line = text.lines().find(|line| line.contains("a.js by sim/two [fallback]")).unwrap_or_default();
    assert!(line.contains("2 tries") && line.contains(" tokens "), "{text}");
    assert!(text.contains("after sim/one: HTTP 500"), "{text}");
    assert!(text.contains("plan   by sim/plan   1 try "), "{text}");
}

#[test]
fn a_session_that_was_killed_keeps_the_history_of_what_was_bought() {
    let script = milestone("One", &["a.js", "b.js"], &[], &[])
        + &rule("role = \"coder\", model = \"one\", file = \"a.js\"", "first = 1", "{ status = 500 }")
        + &rule("role = \"coder\", file = \"b.js\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let run = world.start_run();
    wait_until("the answer for a.js", || {
        let asked = world.asked("coder");
        (asked.iter().filter(|request| request.file.as_deref() == Some("a.js")).count() == 2).then_some(())
    });
    run.hear("coder a.js sim/two");
    run.signal(Signal::KILL);
    let _ = run.end();
    let half = shown(&world);
    let written = half["history"].as_array().unwrap().iter().find(|step| step["file"] == "a.js").unwrap();
    assert_eq!((&written["model"], written["attempts"].as_array().unwrap().len()), (&json!("sim/two"), 2));
    world.steadfast(&["resume", "002-feature"]).expect(0);
    let whole = shown(&world);
    assert_adds_up(&whole);
    assert!(whole["history"].as_array().unwrap().contains(written), "{whole:#}");
}

#[test]
fn a_path_too_long_for_a_key_is_still_named_whole() {
    let long = format!("src/{}/{}.js", "d".repeat(90), "f".repeat(90));
    let world = World::new(&milestone("One", &[&long], &[], &[]), &[]);
    world.run().expect(0);
    let report = shown(&world);
    let named: Vec<&Value> = report["history"].as_array().unwrap().iter().map(|step| &step["file"]).collect();
    assert!(named.contains(&&json!(long)), "{report:#}");
}

#[test]
fn pruning_takes_the_history_with_its_session() {
    let world = World::new(&milestone("One", &["a.js"], &[], &[]), &[("daemon.keep_finished", "\"0s\"")]);
    world.run().expect(0);
    world.steadfast(&["prune"]).expect(0);
    let export = world.steadfast(&["store", "export"]).expect(0).stdout;
    assert!(!export.contains("\"m/history/"), "{export}");
}
