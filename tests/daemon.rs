//! The daemon over its control socket: orders, looks, restarts.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use rustix::process::Signal;
use serde_json::{Value, json};
use steadfast_sim::Script;

use crate::support::{World, milestone, rule, wait_until};

const BRANCH: &str = "steadfast/002-feature";

/// Waits until a session is in this phase.
fn reaches(world: &World, id: &str, phase: &str) -> Value {
    wait_until(&format!("phase {phase}"), || Some(world.show(id)).filter(|report| report["phase"] == phase))
}

fn first_call_hangs() -> String {
    milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }")
}

#[test]
fn a_submitted_idea_is_carried_to_its_end_and_seen_over_the_socket() {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let report = reaches(&world, &id, "completed");
    assert_eq!(report["sessionId"], id.as_str());
    assert_eq!(world.steadfast(&["sessions", "--json"]).expect(0).json()[0]["sessionId"], id.as_str());
    let status = world.status();
    assert_eq!((&status["daemon"], &status["sessions"]["completed"]), (&json!(true), &json!(1)));
    assert!(world.files_at(BRANCH).contains_key("a.js"));
    daemon.stop();
    // Without the daemon the store says the same.
    assert_eq!(world.show(&id), report);
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_daemon() {
    let world = World::new("", &[]);
    let daemon = world.start_daemon();
    let socket = world.state().join("steadfast.sock");
    let kind = std::fs::symlink_metadata(&socket).unwrap();
    assert!(kind.file_type().is_socket());
    assert_eq!(kind.permissions().mode() & 0o777, 0o600);
    daemon.stop();
    assert!(!socket.exists());
}

#[test]
fn a_run_goes_through_a_daemon_and_reports_as_without_one() {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    let daemon = world.start_daemon();
    let report = world.run().expect(0).json();
    assert_eq!((&report["phase"], &report["success"]), (&json!("completed"), &json!(true)));
    assert_eq!(report["milestones"][0]["files"][0]["status"], "ok");
    daemon.stop();
}

#[test]
fn a_followed_submission_ends_with_the_report() {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    let daemon = world.start_daemon();
    let report = world.steadfast(&["submit", "idea.md", "--repo", "repo", "--follow", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "completed");
    daemon.stop();
}

#[test]
fn a_session_at_work_is_cancelled_and_keeps_its_branch() {
    let world = World::new(&first_call_hangs(), &[]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    assert_eq!(world.status()["sessions"]["active"], 1);
    world.steadfast(&["cancel", &id]).expect(0);
    let report = reaches(&world, &id, "cancelled");
    assert_eq!(report["success"], false);
    assert!(world.git().find_branch(BRANCH, git2::BranchType::Local).is_ok());
    wait_until("an idle daemon", || (world.status()["sessions"]["active"] == 0).then_some(()));
    // Retried, it goes on with the plan that it has.
    world.steadfast(&["retry", &id]).expect(0);
    reaches(&world, &id, "completed");
    assert_eq!(world.asked("planner").len(), 1);
    daemon.stop();
}

#[test]
fn what_it_refuses_has_exit_code_2_and_a_clear_word() {
    let world = World::new(&first_call_hangs(), &[]);
    let daemon = world.start_daemon();
    world.submit("idea.md");
    std::fs::create_dir(world.path("plain")).unwrap();
    for (args, word) in [
        (&["submit", "idea.md", "--repo", "repo"][..], "already at work"),
        (&["submit", "idea.md", "--repo", "plain"], "plain"),
        (&["submit", "missing.md", "--repo", "repo"], "missing.md"),
        (&["show", "003-other"], "003-other"),
        (&["cancel", "003-other"], "003-other"),
        (&["retry", "002-feature"], "at work"),
    ] {
        let output = world.steadfast(args).expect(2);
        assert!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    daemon.stop();
}

#[test]
fn a_daemon_that_was_stopped_resumes_its_session_at_the_next_start() {
    let world = World::new(&first_call_hangs(), &[]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    daemon.stop();
    let report = world.show(&id);
    assert_eq!((&report["interrupted"], &report["emergency_shutdown"]), (&json!(true), &json!(true)));
    assert_eq!(report["interrupt_reason"], "SIGTERM received");

    let daemon = world.start_daemon();
    reaches(&world, &id, "completed");
    assert_eq!((world.asked("planner").len(), world.asked("coder").len()), (1, 2));
    daemon.stop();
}

#[test]
fn a_daemon_that_was_killed_resumes_its_session_at_the_next_start() {
    let world = World::new(&first_call_hangs(), &[]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    daemon.signal(Signal::KILL);
    let _ = daemon.end();
    assert!(world.state().join("steadfast.sock").exists(), "its socket is left behind");

    let daemon = world.start_daemon();
    reaches(&world, &id, "completed");
    assert_eq!((world.asked("planner").len(), world.asked("coder").len()), (1, 2));
    daemon.stop();
}

#[test]
fn more_sessions_than_may_work_at_once_wait_in_the_queue() {
    let world = World::new(&first_call_hangs(), &[("daemon.max_sessions", "1")]);
    let daemon = world.start_daemon();
    let first = world.submit("idea.md");
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    std::fs::write(world.path("idea.md"), "---\nid: 003-next\n---\n# Next\n\nGo on.\n").unwrap();
    let second = world.submit("idea.md");
    let sessions = world.status()["sessions"].clone();
    assert_eq!((&sessions["active"], &sessions["queued"]), (&json!(1), &json!(1)));
    assert_eq!(world.show(&second)["phase"], "queued");
    world.steadfast(&["cancel", &first]).expect(0);
    reaches(&world, &second, "completed");
    daemon.stop();
}

#[test]
fn breakers_are_reset_over_the_socket() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("model = \"one\"", "", "{ status = 401 }");
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    world.run().expect(0);
    assert_eq!(world.coder_breaker(0), "OPEN");
    assert_eq!(world.steadfast(&["breaker", "reset", "sim/one", "--json"]).expect(0).json()["reset"], 1);
    assert_eq!(world.coder_breaker(0), "CLOSED");
    daemon.stop();
}

#[test]
fn a_status_check_fails_while_a_role_has_no_model_to_call() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"reviewer\"", "", "{ status = 401 }");
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    world.steadfast(&["status", "--check"]).expect(0);
    world.run().expect(0);
    world.steadfast(&["status", "--check"]).expect(1);
    daemon.stop();
    world.steadfast(&["status", "--check"]).expect(1);
}

#[test]
fn sessions_of_several_ideas_work_side_by_side() {
    let script = "latency = \"30ms\"\n".to_owned() + &milestone("Write", &["a.js", "b.js"], &[], &[]);
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    let ids: Vec<String> = (1..=3)
        .map(|n| {
            std::fs::write(world.path("idea.md"), format!("---\nid: idea-{n}\n---\n# Idea\n\nText {n}.\n")).unwrap();
            world.submit("idea.md")
        })
        .collect();
    for id in &ids {
        reaches(&world, id, "completed");
    }
    for n in 1..=3 {
        assert_eq!(world.messages(&format!("steadfast/idea-{n}")).len(), 1);
    }
    assert_eq!(world.sim.total(), 12);
    world.sim.set_script(Script::default());
    daemon.stop();
}

/// A tenth of all requests for files and reviews fail in some way, and a few reviews reject. The plan is always the same,
/// so that the number of commits is.
fn troubled(seed: u64) -> String {
    let faults = [
        "broken_stream",
        "no_done",
        "stream_error",
        "reset",
        "close",
        "html",
        "bad_json",
        "no_choices",
        "not_utf8",
        "truncated",
        "filtered",
        "context_too_long",
    ];
    let statuses = [400, 408, 409, 429, 500, 503, 529];
    let thens = faults.map(|fault| format!("{{ fault = {fault:?} }}")).into_iter();
    let thens = thens.chain(statuses.map(|status| format!("{{ status = {status} }}")));
    let rules =
        thens.map(|then| rule("role = [\"coder\", \"reviewer\"]", "probability = 0.005", &then)).collect::<String>();
    format!("seed = {seed}\nlatency = \"5ms\"\njitter = \"20ms\"\n")
        + &milestone("First", &["a.js", "b.py", "c.rs"], &["src/kept.txt"], &[])
        + &milestone("Second", &["d.js"], &["a.js"], &["src/old.txt"])
        + &rules
        + &rule("role = \"reviewer\"", "probability = 0.2", "{ generate = \"reject\" }")
}

#[test]
fn a_daemon_that_is_killed_again_and_again_among_failing_models_leaves_nothing_half_done() {
    let settings = [
        ("failover.reset_timeout", "\"50ms\""),
        ("failover.outage_patience", "\"1min\""),
        ("daemon.max_sessions", "2"),
        ("session.checks", "[\"test -e README.md\"]"),
    ];
    let world = World::new(&troubled(5), &settings);
    let mut daemon = world.start_daemon();
    let ids: Vec<String> = (1..=3)
        .map(|n| {
            std::fs::write(world.path("idea.md"), format!("---\nid: idea-{n}\n---\n# Idea\n\nText {n}.\n")).unwrap();
            world.submit("idea.md")
        })
        .collect();
    for n in 1..=6 {
        // After so many further calls, wherever the sessions are then.
        let target = world.sim.total() + 3 + n % 3;
        wait_until("some calls, or the end", || {
            let over = world.sim.total() >= target || world.status()["sessions"]["completed"] == 3;
            over.then_some(())
        });
        if n % 3 == 0 {
            // Three abnormal ends in a row would be taken for the session's own fault.
            daemon.stop();
        } else {
            daemon.signal(Signal::KILL);
            let _ = daemon.end();
        }
        daemon = world.start_daemon();
    }
    for (n, id) in (1..).zip(&ids) {
        let report = reaches(&world, id, "completed");
        let messages = world.messages(&format!("steadfast/idea-{n}"));
        let numbers: Vec<String> = messages
            .iter()
            .map(|message| {
                let trailers = git2::message_trailers_strs(message).unwrap();
                trailers.iter().find(|(name, _)| *name == "Steadfast-Milestone").unwrap().1.to_owned()
            })
            .collect();
        assert_eq!(numbers, ["1", "2"], "{report:#}");
    }
    wait_until("all deliveries", || (world.status()["outbox"]["undelivered"] == 0).then_some(()));
    let issues = world.steadfast(&["outbox", "list", "--json"]).expect(0).json();
    let files = std::fs::read_dir(world.state().join("issues")).map_or(0, Iterator::count);
    // Recovery issues of the two orderly ends are closed again, which is no file of its own.
    let filed = issues.as_array().unwrap().iter().filter(|entry| entry["kind"] != "closing").count();
    assert_eq!(filed, files, "{issues:#}");
    daemon.stop();
    // What was left of a session that was killed in its last moment went with a later start.
    assert_eq!(left_behind(&world), (0, 0));
}

/// Worktrees that lie in the state, and those that git knows of.
fn left_behind(world: &World) -> (usize, usize) {
    let folders = std::fs::read_dir(world.state().join("worktrees")).map_or(0, Iterator::count);
    (folders, world.git().worktrees().unwrap().len())
}

#[test]
fn a_worktree_that_a_killed_process_left_goes_at_the_next_start() {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    let id = world.run().expect(0).json()["sessionId"].as_str().unwrap().to_owned();
    // As if it had been killed between the end of the session and the removal of its worktree.
    let repository = steadfast_repo::Repository::open(&world.repo()).unwrap();
    let dir = world.state().join("worktrees").join(&id);
    repository.add_worktree(&dir, BRANCH, &repository.head().unwrap()).unwrap();
    assert_eq!(left_behind(&world), (1, 1));
    world.start_daemon().stop();
    assert_eq!(left_behind(&world), (0, 0));
    assert_eq!(world.show(&id)["phase"], "completed");
}

#[test]
fn prune_removes_what_is_kept_no_longer_and_leaves_the_branch() {
    let script = milestone("Write", &["a.js"], &[], &[]);
    let world = World::new(&script, &[("daemon.keep_finished", "\"0s\"")]);
    world.run().expect(0);
    let said = world.steadfast(&["prune", "--json"]).expect(0).json();
    assert_eq!(said, json!({ "sessions": 1, "setAside": 0 }));
    assert_eq!(world.steadfast(&["sessions", "--json"]).expect(0).json(), json!([]));
    assert!(world.files_at(BRANCH).contains_key("a.js"));
    // A daemon is asked, and keeps what is younger.
    let world = World::new(&script, &[("daemon.keep_finished", "\"30 days\"")]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    reaches(&world, &id, "completed");
    assert_eq!(world.steadfast(&["prune", "--json"]).expect(0).json()["sessions"], 0);
    assert_eq!(world.show(&id)["phase"], "completed");
    daemon.stop();
}
