//! What ends a process, or keeps it from beginning (SPEC 7, 8): each trigger for real.

use serde_json::json;

use rustix::process::Signal;

use crate::support::{World, milestone, rule, wait_until};

fn coder_hangs(settings: &[(&str, &str)]) -> World {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &rule("role = \"coder\", idea = \"002-feature\"", "", "{ fault = \"hang\" }");
    World::new(&script, settings)
}

#[test]
fn a_daemon_ends_before_its_time_limit_with_everything_saved_and_code_0() {
    let settings = [("daemon.time_limit", "\"3s\""), ("daemon.time_limit_margin", "\"1s\"")];
    let world = coder_hangs(&settings);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let output = daemon.output().expect(0);
    assert!(output.stderr.contains("the time limit comes close"), "{}", output.stderr);
    let report = world.show(&id);
    assert_eq!(report["interrupt_reason"], "the time limit comes close");
    assert_eq!((&report["emergency_shutdown"], &report["can_resume"]), (&json!(true), &json!(true)));
}

#[test]
fn a_session_in_the_foreground_ends_before_the_time_limit_and_is_resumable() {
    let settings = [("daemon.time_limit", "\"2s\""), ("daemon.time_limit_margin", "\"1s\"")];
    let world = coder_hangs(&settings);
    let report = world.run().expect(75).json();
    assert_eq!((&report["interrupted"], &report["can_resume"]), (&json!(true), &json!(true)));
}

#[test]
fn a_daemon_that_begins_short_of_memory_answers_takes_ideas_and_begins_none() {
    let world = coder_hangs(&[("daemon.memory_limit", "\"1 MiB\"")]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let status = world.status();
    assert!(status["paused"].as_str().unwrap().starts_with("memory is short"), "{status}");
    assert_eq!((&status["sessions"]["queued"], &status["sessions"]["active"]), (&json!(1), &json!(0)));
    assert!(world.steadfast(&["status"]).expect(0).stdout.contains("Paused: memory is short"));
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    assert_eq!((world.sim.total(), &world.show(&id)["can_resume"]), (0, &json!(true)));
}

#[test]
fn a_session_that_is_at_work_whenever_the_daemon_dies_is_parked_and_the_others_live() {
    let world = coder_hangs(&[]);
    std::fs::write(world.path("other.md"), "---\nid: 003-other\n---\n# Other\n\nText.\n").unwrap();
    let mut daemon = world.start_daemon();
    let id = world.submit("idea.md");
    for calls in 1..=3 {
        wait_until("its call", || (world.asked("coder").len() == calls).then_some(()));
        daemon.signal(Signal::KILL);
        let _ = daemon.end();
        daemon = world.start_daemon();
    }
    let report = world.show(&id);
    assert_eq!((&report["interrupted"], &report["can_resume"]), (&json!(true), &json!(true)));
    assert!(report["interrupt_reason"].as_str().unwrap().contains("3 abnormal ends"), "{report}");
    assert_eq!(report["issues"][0]["kind"], "recovery");
    // Another idea is carried through beside it.
    let other = world.submit("other.md");
    wait_until("the other's end", || (world.show(&other)["phase"] == "completed").then_some(()));
    assert_eq!(world.asked("coder").iter().filter(|call| call.idea.as_deref() == Some("002-feature")).count(), 3);
    // By hand it goes on.
    world.steadfast(&["resume", &id]).expect(0);
    wait_until("its next call", || (world.asked("coder").len() == 5).then_some(()));
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

/// The second action of the session is when its files are to be written.
fn faulty(fault: &str, settings: &[(&str, &str)]) -> World {
    let mut world = coder_hangs(settings);
    world.env.insert("STEADFAST_TEST_FAULT".to_owned(), format!("session-action={fault}@2"));
    world
}

/// The emergency is told, everything is saved, the code is 1, and the next start carries the session to its end.
fn ends_and_goes_on(mut world: World, said: &str) {
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let output = daemon.output().expect(1);
    assert!(output.stderr.contains(said), "{}", output.stderr);
    world.env.clear();
    let report = world.show(&id);
    assert!(report["interrupt_reason"].as_str().unwrap().contains(said), "{report}");
    assert_eq!((&report["emergency_shutdown"], &report["can_resume"]), (&json!(true), &json!(true)));
    assert_eq!(report["issues"][0]["kind"], "recovery");
    let daemon = world.start_daemon();
    wait_until("its call", || (!world.asked("coder").is_empty()).then_some(()));
    assert_eq!(world.asked("planner").len(), 1, "the plan is not bought again");
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

#[test]
fn a_panic_of_a_thread_that_no_actor_answers_for_saves_everything_and_ends() {
    ends_and_goes_on(faulty("thread-panic", &[]), "a thread panicked");
}

#[test]
fn memory_that_is_used_up_in_mid_work_saves_everything_and_ends() {
    // Far above what the daemon uses, and below what the fault takes.
    ends_and_goes_on(faulty("eat", &[("daemon.memory_limit", "\"200 MiB\"")]), "memory is short");
}
