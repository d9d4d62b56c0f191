//! Signals to a foreground run (SPEC 8, 10): saved, resumable, exit code 75.

use rustix::process::Signal;
use steadfast_sim::Script;

use crate::support::{World, milestone, rule, wait_until};

fn hangs_at(role: &str) -> String {
    milestone("First", &["a.js", "b.js"], &[], &[])
        + &rule(&format!("role = {role:?}"), "first = 1", "{ fault = \"hang\" }")
}

/// Interrupted by the signal while a role is at work; answers the report.
#[track_caller]
fn interrupted(world: &World, role: &str, signal: Signal, reason: &str) {
    let run = world.start_run();
    wait_until("a call that hangs", || (!world.asked(role).is_empty()).then_some(()));
    run.signal(signal);
    let output = run.output().expect(75);
    let report = output.json();
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["emergency_shutdown"], true);
    assert_eq!(report["can_resume"], true);
    assert_eq!(report["interrupt_reason"], reason);
    assert_eq!(report["success"], false);
    assert_eq!(world.steadfast(&["show", "002-feature", "--json"]).expect(0).json(), report);
}

/// Goes on to the end; everything but the call that hung is bought once.
#[track_caller]
fn goes_on(world: &World) {
    let report = world.steadfast(&["resume", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "completed");
    assert_eq!(report["interrupted"], false);
    assert_eq!(report["can_resume"], false);
    assert_eq!(report["interrupt_reason"], serde_json::Value::Null);
    assert_eq!(world.messages("steadfast/002-feature").len(), 1);
    // A plan, two files, a review, and the call that was given up.
    assert_eq!(world.sim.total(), 5);
    for row in world.status()["roles"]["coder"].as_array().unwrap() {
        assert_eq!(row["circuitBreaker"], "CLOSED", "a call that we cancel is nobody's fault");
    }
}

#[test]
fn a_termination_while_planning_is_resumable() {
    let world = World::new(&hangs_at("planner"), &[]);
    interrupted(&world, "planner", Signal::TERM, "SIGTERM received");
    goes_on(&world);
}

#[test]
fn an_interrupt_while_files_are_written_is_resumable_and_counts_against_no_breaker() {
    let world =
        World::new(&hangs_at("coder"), &[("session.max_parallel_agents", "1"), ("failover.failure_threshold", "1")]);
    interrupted(&world, "coder", Signal::INT, "SIGINT received");
    goes_on(&world);
}

#[test]
fn a_hangup_while_it_is_reviewed_is_resumable() {
    let world = World::new(&hangs_at("reviewer"), &[]);
    interrupted(&world, "reviewer", Signal::HUP, "SIGHUP received");
    goes_on(&world);
}

#[test]
fn a_signal_during_a_check_ends_the_check_too() {
    let script = milestone("First", &["a.js"], &[], &[]);
    let world = World::new(&script, &[("session.checks", "[\"echo $$ > ../../../pid; exec sleep 600\"]")]);
    let run = world.start_run();
    let pid = wait_until("the check", || {
        let text = std::fs::read_to_string(world.path("pid")).ok()?;
        text.strip_suffix('\n')?.parse::<i32>().ok().and_then(rustix::process::Pid::from_raw)
    });
    run.signal(Signal::TERM);
    run.output().expect(75);
    wait_until("the check's end", || (!crate::support::is_alive(pid)).then_some(()));
}

#[test]
fn an_interrupted_session_can_be_cancelled_and_a_cancelled_one_retried() {
    let world = World::new(&hangs_at("coder"), &[("session.max_parallel_agents", "1")]);
    interrupted(&world, "coder", Signal::TERM, "SIGTERM received");
    world.steadfast(&["cancel", "002-feature", "--json"]).expect(0);
    let report = world.steadfast(&["show", "002-feature", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "cancelled");
    assert_eq!(report["interrupted"], false);
    assert!(world.git().find_branch("steadfast/002-feature", git2::BranchType::Local).is_ok(), "its branch is kept");
    assert_eq!(world.git().worktrees().unwrap().len(), 0);
    let no = world.steadfast(&["resume", "002-feature"]).expect(2);
    assert!(no.stderr.contains("retry"), "{}", no.stderr);
    let report = world.steadfast(&["retry", "002-feature", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "completed");
    assert_eq!(world.asked("planner").len(), 1);
}

#[test]
fn nothing_is_to_be_done_for_a_session_that_is_completed() {
    let world = World::new(&milestone("First", &["a.js"], &[], &[]), &[]);
    world.run().expect(0);
    let calls = world.sim.total();
    for order in ["resume", "retry", "cancel"] {
        let no = world.steadfast(&[order, "002-feature"]).expect(2);
        assert!(no.stderr.contains("completed"), "{order}: {}", no.stderr);
    }
    assert_eq!(world.steadfast(&["show", "002-feature", "--json"]).expect(0).json()["phase"], "completed");
    assert_eq!(world.sim.total(), calls);
}

#[test]
fn an_interrupted_plan_is_taken_up_with_other_models_and_other_answers() {
    let world = World::new(&rule("", "", "{ fault = \"hang\" }"), &[]);
    interrupted(&world, "planner", Signal::TERM, "SIGTERM received");
    world.sim.set_script(Script::parse(&milestone("Other", &["z.js"], &[], &[])).unwrap());
    let report = world.steadfast(&["resume", "--json"]).expect(0).json();
    assert_eq!(report["milestones"][0]["name"], "Other");
}

#[test]
fn failed_attempts_before_an_interrupt_still_count_after_it() {
    let script = milestone("First", &["a.js"], &[], &[])
        + &rule("role = \"coder\", model = \"one\"", "", "{ status = 400 }")
        + &rule("role = \"coder\", model = \"two\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let run = world.start_run();
    wait_until("the second model", || (world.asked("coder").len() == 2).then_some(()));
    run.signal(Signal::TERM);
    run.output().expect(75);
    world.steadfast(&["resume", "--json"]).expect(0);
    assert_eq!(world.coders_asked(), ["one", "two", "two"]);
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_store_is_whole() {
    let world = World::new(&hangs_at("coder"), &[("session.max_parallel_agents", "1")]);
    let run = world.start_run();
    wait_until("a call that hangs", || (!world.asked("coder").is_empty()).then_some(()));
    // Held still, so that both are there before it can act on the first.
    for signal in [Signal::STOP, Signal::TERM, Signal::INT, Signal::CONT] {
        run.signal(signal);
    }
    let output = run.output();
    assert!(matches!(output.status.code(), Some(130 | 143)), "{output:?}");
    assert_eq!(output.stdout, "");
    goes_on(&world);
}

#[test]
fn a_signal_at_any_early_instant_leaves_nothing_or_a_session_that_goes_on() {
    for delay_ms in [0, 10, 20, 30, 35, 40, 45, 50, 60, 80, 120] {
        let world = World::new("latency = \"300ms\"", &[]);
        let run = world.start_run();
        let moment = std::time::Instant::now() + std::time::Duration::from_millis(delay_ms);
        while std::time::Instant::now() < moment {
            std::hint::spin_loop();
        }
        run.signal(Signal::TERM);
        let output = run.output();
        let known = world.steadfast(&["sessions", "--json"]).expect(0).json();
        match (output.status.code(), known.as_array().unwrap().as_slice()) {
            // Before the store was open nothing was begun, and the signal did what it does by itself.
            (None, []) => {}
            (Some(75), [session]) => {
                assert_eq!(session["can_resume"], true);
                // In the instant in which it begins to listen it may not learn which signal it was.
                let reason = output.json()["interrupt_reason"].clone();
                assert!(reason == "SIGTERM received" || reason == "signal received", "{reason}");
            }
            (code, sessions) => panic!("after {delay_ms} ms: {code:?}, {sessions:?}, {}", output.stderr),
        }
    }
}
