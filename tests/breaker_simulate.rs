//! `breaker simulate` (SPEC 10): timelines from a file or from standard input.

use serde_json::{Value, json};

use crate::support::{Output, World};

fn simulate(timelines: &Value) -> Output {
    simulate_text(&timelines.to_string())
}

fn simulate_text(text: &str) -> Output {
    World::new("", &[]).bare(&["breaker", "simulate", "-"], Some(text))
}

/// A step; the call `-` stands for none.
fn step(at_ms: u64, op: &str, call: &str) -> Value {
    match call {
        "-" => json!({ "at_ms": at_ms, "op": op }),
        call => json!({ "at_ms": at_ms, "op": op, "call": call }),
    }
}

/// What each step got: admitted (null where nothing was asked for), state, status.
fn got(timeline: &Value) -> Vec<(Value, String, String)> {
    let steps = timeline["steps"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let got = |step: &Value| {
        let got = &step["got"];
        (got["admitted"].clone(), text(&got["state"]), text(&got["status"]))
    };
    steps.iter().map(got).collect()
}

#[track_caller]
fn expect(timeline: &Value, expected: &[(Value, &str, &str)]) {
    let owned =
        |(admitted, state, status): &(Value, &str, &str)| (admitted.clone(), (*state).to_owned(), (*status).to_owned());
    assert_eq!(got(timeline), expected.iter().map(owned).collect::<Vec<_>>());
}

/// The seed's timeline: five failures open it, it refuses for a minute, a test fails, a later test closes it.
#[test]
fn the_timeline_of_the_seed_opens_tests_and_recovers() {
    let mut steps = Vec::new();
    for n in 0..5 {
        steps.push(step(n * 1000, "acquire", &format!("c{n}")));
        steps.push(step(n * 1000 + 500, "failure", &format!("c{n}")));
    }
    steps.extend([
        step(5000, "acquire", "refused"),
        step(64_499, "acquire", "early"),
        step(64_500, "acquire", "test"),
        step(64_600, "acquire", "second"),
        step(64_700, "failure", "test"),
        step(124_699, "status", "-"),
        step(124_700, "acquire", "again"),
        step(125_000, "success", "again"),
        step(125_001, "status", "-"),
    ]);
    let config = json!({ "failure_threshold": 5, "reset_timeout_ms": 60_000, "monitoring_period_ms": 300_000 });
    let output = simulate(&json!([{ "name": "seed", "config": config, "steps": steps }])).expect(0).json();
    let (yes, no, none) = (json!(true), json!(false), Value::Null);
    expect(
        &output[0],
        &[
            (yes.clone(), "CLOSED", "CLOSED"),
            (none.clone(), "CLOSED", "MONITORING (1/5)"),
            (yes.clone(), "CLOSED", "MONITORING (1/5)"),
            (none.clone(), "CLOSED", "MONITORING (2/5)"),
            (yes.clone(), "CLOSED", "MONITORING (2/5)"),
            (none.clone(), "CLOSED", "MONITORING (3/5)"),
            (yes.clone(), "CLOSED", "MONITORING (3/5)"),
            (none.clone(), "CLOSED", "MONITORING (4/5)"),
            (yes.clone(), "CLOSED", "MONITORING (4/5)"),
            (none.clone(), "OPEN", "OPEN"),
            (no.clone(), "OPEN", "OPEN"),
            (no.clone(), "OPEN", "OPEN"),
            (yes.clone(), "HALF-OPEN", "HALF-OPEN"),
            (no, "HALF-OPEN", "HALF-OPEN"),
            (none.clone(), "OPEN", "OPEN"),
            (none.clone(), "OPEN", "OPEN"),
            (yes, "HALF-OPEN", "HALF-OPEN"),
            (none.clone(), "CLOSED", "CLOSED"),
            (none, "CLOSED", "CLOSED"),
        ],
    );
}

#[test]
fn the_example_of_the_specification_comes_back_with_what_each_step_got() {
    let timeline = json!({
        "name": "trip",
        "config": { "failure_threshold": 2, "reset_timeout_ms": 60_000, "monitoring_period_ms": 300_000 },
        "steps": [step(0, "acquire", "a"), step(10, "failure", "a"), step(20, "status", "-"), step(30, "reset", "-")],
    });
    // One timeline comes back as one.
    let output = simulate(&timeline).expect(0).json();
    assert_eq!((&output["name"], &output["config"]), (&timeline["name"], &timeline["config"]));
    expect(
        &output,
        &[
            (json!(true), "CLOSED", "CLOSED"),
            (Value::Null, "CLOSED", "MONITORING (1/2)"),
            (Value::Null, "CLOSED", "MONITORING (1/2)"),
            (Value::Null, "CLOSED", "CLOSED"),
        ],
    );
    assert!(output["steps"][1]["got"].get("admitted").is_none());
    // What came out can be put in again.
    assert_eq!(simulate(&output).expect(0).json(), output);
}

#[test]
fn old_failures_expire_given_up_tests_are_neither_and_late_verdicts_change_nothing() {
    let config = json!({ "failure_threshold": 2, "reset_timeout_ms": 1000, "monitoring_period_ms": 100 });
    let steps = [
        step(0, "acquire", "a"),
        step(0, "failure", "a"),
        step(99, "status", "-"),
        step(100, "status", "-"),
        step(200, "acquire", "b"),
        step(200, "acquire", "c"),
        step(200, "acquire", "late"),
        step(201, "failure", "b"),
        step(202, "failure", "c"),
        step(203, "success", "late"),
        step(1202, "acquire", "test"),
        step(1203, "cancel", "test"),
        step(1204, "acquire", "next"),
        step(1205, "success", "next"),
        step(1206, "failure", "next"),
    ];
    let output = simulate(&json!({ "config": config, "steps": steps })).expect(0).json();
    let statuses: Vec<String> = got(&output).into_iter().map(|(_, _, status)| status).collect();
    assert_eq!(
        statuses,
        [
            "CLOSED",
            "MONITORING (1/2)",
            "MONITORING (1/2)",
            "CLOSED",
            "CLOSED",
            "CLOSED",
            "CLOSED",
            "MONITORING (1/2)",
            "OPEN",
            "OPEN",
            "HALF-OPEN",
            "HALF-OPEN",
            "HALF-OPEN",
            "CLOSED",
            "CLOSED",
        ]
    );
}

#[test]
fn a_test_that_never_reports_stops_blocking_after_its_lease() {
    let config = json!({ "failure_threshold": 1, "reset_timeout_ms": 1000, "probe_lease_ms": 50 });
    let steps = [
        step(0, "acquire", "a"),
        step(0, "failure", "a"),
        step(1000, "acquire", "lost"),
        step(1049, "acquire", "too-soon"),
        step(1050, "acquire", "next"),
    ];
    let output = simulate(&json!({ "config": config, "steps": steps })).expect(0).json();
    let admitted: Vec<Value> = got(&output).into_iter().map(|(admitted, _, _)| admitted).collect();
    assert_eq!(admitted, [json!(true), Value::Null, json!(true), json!(false), json!(true)]);
}

#[test]
fn timelines_come_from_a_file_and_each_has_a_breaker_of_its_own() {
    let world = World::new("", &[]);
    let config = json!({ "failure_threshold": 1 });
    let trip = json!({ "name": "trip", "config": config, "steps": [step(0, "acquire", "a"), step(1, "failure", "a")] });
    let calm = json!({ "name": "calm", "config": config, "steps": [step(0, "status", "-")] });
    std::fs::write(world.path("timelines.json"), json!([trip, calm]).to_string()).unwrap();
    let output = world.bare(&["breaker", "simulate", "timelines.json"], None).expect(0).json();
    assert_eq!(output[0]["steps"][1]["got"]["state"], "OPEN");
    assert_eq!(output[1]["steps"][0]["got"]["state"], "CLOSED");
    assert_eq!(simulate(&json!([])).expect(0).json(), json!([]));
}

#[test]
fn what_is_wrong_with_a_timeline_is_said_and_nothing_is_printed() {
    for (text, words) in [
        ("", "JSON"),
        ("{", "JSON"),
        ("42", "timeline 1"),
        (r#"{ "config": {} }"#, "steps"),
        (r#"{ "name": "x", "steps": [{ "at_ms": 0, "op": "explode" }] }"#, "explode"),
        (r#"{ "name": "x", "steps": [{ "at_ms": 0, "op": "acquire" }] }"#, "call"),
        (r#"{ "name": "x", "steps": [{ "at_ms": 5, "op": "status" }, { "at_ms": 4, "op": "status" }] }"#, "step 2"),
        (r#"{ "name": "x", "steps": [{ "at_ms": -1, "op": "status" }] }"#, "\"x\""),
        (r#"{ "name": "x", "config": { "failure_threshold": 0 }, "steps": [] }"#, "\"x\""),
        (r#"{ "name": "x", "config": { "failure_treshold": 2 }, "steps": [] }"#, "failure_treshold"),
        (r#"[{ "steps": [] }, { "steps": [{ "op": "status" }] }]"#, "timeline 2"),
    ] {
        let output = simulate_text(text).expect(2);
        assert!(output.stderr.contains(words), "{words:?} in {}", output.stderr);
        assert_eq!(output.stdout, "", "{text}");
    }
    let missing = World::new("", &[]).bare(&["breaker", "simulate", "no-such.json"], None).expect(2);
    assert!(missing.stderr.contains("no-such.json"), "{}", missing.stderr);
}
