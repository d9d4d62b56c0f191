//! A session in the foreground can be looked at and cancelled from beside, and takes nothing else on.

use serde_json::json;

use crate::support::{World, milestone, rule, wait_until};

fn coder_hangs() -> World {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "", "{ fault = \"hang\" }");
    World::new(&script, &[])
}

#[test]
fn a_session_in_the_foreground_is_seen_and_cancelled_from_beside() {
    let world = coder_hangs();
    let run = world.start_run();
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    let status = world.status();
    assert_eq!((&status["daemon"], &status["sessions"]["active"]), (&json!(false), &json!(1)));
    let listed = world.steadfast(&["sessions", "--json"]).expect(0).json();
    assert_eq!((&listed[0]["phase"], &listed[0]["interrupted"]), (&json!("implementing"), &json!(false)));
    assert_eq!(world.steadfast(&["show", "002-feature", "--json"]).expect(0).json()["phase"], "implementing");
    world.steadfast(&["cancel", "002-feature", "--json"]).expect(0);
    let report = run.output().expect(1).json();
    assert_eq!(report["phase"], "cancelled");
    assert!(!world.state().join("steadfast.sock").exists());
}

#[test]
fn nothing_else_is_begun_beside_a_session_in_the_foreground() {
    let world = coder_hangs();
    let run = world.start_run();
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    std::fs::write(world.path("other.md"), "# Another\n\nSomething else.\n").unwrap();
    for args in [
        ["run", "other.md", "--repo", "repo"].as_slice(),
        &["submit", "other.md", "--repo", "repo"],
        &["resume", "002-feature"],
        &["retry", "002-feature"],
    ] {
        let refused = world.steadfast(args).expect(2);
        assert!(refused.stderr.contains("steadfast daemon"), "{args:?}: {}", refused.stderr);
    }
    assert_eq!(world.asked("planner").len(), 1);
    world.steadfast(&["cancel", "002-feature", "--json"]).expect(0);
    run.output().expect(1);
}

#[test]
fn looking_needs_no_sandbox() {
    let mut world = World::new("", &[("session.checks", "[\"true\"]"), ("session.checks_sandbox", "\"bwrap\"")]);
    world.env.insert("PATH".to_owned(), world.path("nothing").display().to_string());
    for args in [["status", "--json"], ["sessions", "--json"], ["outbox", "list"]] {
        world.steadfast(&args).expect(0);
    }
}
