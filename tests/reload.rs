//! `steadfast reload`: another configuration for a daemon that goes on.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{World, milestone, rule, wait_until};

fn submit(world: &World, idea: &str) -> String {
    std::fs::write(world.path("idea.md"), format!("---\nid: {idea}\n---\n# Idea\n\nText of {idea}.\n")).unwrap();
    world.submit("idea.md")
}

fn completed(world: &World, id: &str) -> Value {
    wait_until("the end of a session", || {
        let report = world.steadfast(&["show", id, "--json"]).expect(0).json();
        (report["phase"] == "completed").then_some(report)
    })
}

fn coders(world: &World) -> Vec<String> {
    let rows = world.status()["roles"]["coder"].as_array().unwrap().clone();
    rows.iter().map(|row| row["model"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_good_configuration_holds_for_new_sessions_while_the_old_ones_go_on() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let mut world = World::new(&script, &[("daemon.max_sessions", "1")]);
    let daemon = world.start_daemon();
    let first = submit(&world, "001-first");
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    let second = submit(&world, "002-second");
    assert_eq!(world.status()["sessions"]["queued"], 1);
    world.replace("max_sessions = 1", "max_sessions = 2");
    world.replace("\"sim/one\", \"sim/two\"", "\"sim/three\"");
    let done = world.steadfast(&["reload", "--json"]).expect(0).json();
    assert_eq!(done["modelsAdded"], json!(["sim/three"]));
    assert_eq!(done["modelsRemoved"], json!(["sim/one", "sim/two"]));
    assert_eq!((&done["atNextStart"], &done["warnings"]), (&json!([]), &json!([])));
    // The one that waited finds a second place, and the new model.
    let report = completed(&world, &second);
    assert_eq!(report["milestones"][0]["files"][0]["model"], "sim/three");
    assert_eq!(coders(&world), ["sim/three"]);
    // The first still waits for its own call, which nobody gave up.
    let sessions = world.status()["sessions"].clone();
    assert_eq!((&sessions["active"], &sessions["interrupted"]), (&json!(1), &json!(0)));
    assert_eq!(world.asked("coder").iter().filter(|call| call.idea.as_deref() == Some("001-first")).count(), 1);
    world.steadfast(&["cancel", &first]).expect(0);
    daemon.stop();
}

#[test]
fn a_bad_configuration_is_refused_with_its_fault_and_the_old_one_kept() {
    let mut world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    let daemon = world.start_daemon();
    let state = world.state().display().to_string();
    for (line, word) in [
        ("daemon.max_session = 2", "max_sessions"),
        ("session.prompts_dir = \"nowhere\"", "nowhere"),
        ("this is no TOML", "steadfast.toml"),
    ] {
        world.configure(line);
        // As the unit has it: what the daemon reads is for the daemon to say.
        let refused = world.bare(&["--state-dir", &state, "reload"], None).expect(2);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
        assert_eq!(refused.stdout, "");
        world.steadfast(&["reload"]).expect(2);
        world.take_back(line);
    }
    daemon.hear("configuration refused, the old one is kept");
    assert_eq!(coders(&world), ["sim/one", "sim/two"]);
    completed(&world, &submit(&world, "001-first"));
    daemon.stop();
}

#[test]
fn what_cannot_change_while_it_runs_is_named_and_the_rest_holds() {
    let mut world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    let daemon = world.start_daemon();
    let (old, new) = (world.state(), world.path("elsewhere"));
    world.replace(&format!("{:?}", old.display().to_string()), &format!("{:?}", new.display().to_string()));
    world.replace("\"sim/one\", \"sim/two\"", "\"sim/three\"");
    world.configure("log.format = \"text\"");
    let lost = world.steadfast(&["reload"]).expect(1);
    assert!(lost.stderr.contains("no daemon answers") && lost.stderr.contains("--state-dir"), "{}", lost.stderr);
    let state = old.display().to_string();
    let done = world.bare(&["--state-dir", &state, "reload"], None).expect(0);
    let said = "changed, but only from the next start on: daemon.state_dir, log.format";
    assert!(done.stdout.contains(said), "{}", done.stdout);
    world.replace(&format!("{:?}", new.display().to_string()), &format!("{:?}", old.display().to_string()));
    assert_eq!(coders(&world), ["sim/three"]);
    completed(&world, &submit(&world, "001-first"));
    assert!(!new.exists());
    daemon.stop();
}

#[test]
fn a_model_whose_key_was_refused_is_asked_again_as_soon_as_another_key_is_read() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("model = \"one\"", "first = 1", "{ status = 401 }");
    let mut world = World::new(&script, &[]);
    std::fs::write(world.path("key"), "old\n").unwrap();
    world.configure("providers.sim.api_key_file = \"key\"");
    let daemon = world.start_daemon();
    completed(&world, &submit(&world, "001-first"));
    assert_eq!(world.coder_breaker(0), "OPEN");
    // Nothing has changed: neither has the verdict.
    world.steadfast(&["reload"]).expect(0);
    assert_eq!(world.coder_breaker(0), "OPEN");
    std::fs::write(world.path("key"), "new\n").unwrap();
    world.steadfast(&["reload"]).expect(0);
    assert_eq!(world.coder_breaker(0), "CLOSED");
    let report = completed(&world, &submit(&world, "002-second"));
    assert_eq!(report["milestones"][0]["files"][0]["model"], "sim/one");
    daemon.stop();
}

#[test]
fn a_reload_without_a_daemon_says_so() {
    let world = World::new("", &[]);
    let output = world.steadfast(&["reload"]).expect(1);
    assert!(output.stderr.contains("no daemon answers"), "{}", output.stderr);
}

#[test]
fn a_session_in_the_foreground_keeps_its_configuration() {
    let world = World::new(
        &(milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "", "{ fault = \"hang\" }")),
        &[],
    );
    let run = world.start_run();
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    let output = world.steadfast(&["reload"]).expect(2);
    assert!(output.stderr.contains("in the foreground"), "{}", output.stderr);
    run.signal(Signal::TERM);
    run.output().expect(75);
}
