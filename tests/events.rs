//! `events`: a session's story, from the store and as it happens.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{World, milestone, rule, wait_until};

fn kinds(story: &[Value]) -> Vec<&str> {
    story.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn story(world: &World) -> Vec<Value> {
    let told = world.steadfast(&["events", "002-feature", "--json"]).expect(0).json();
    told.as_array().unwrap().clone()
}

/// Every event is there once, in order.
fn assert_in_order(story: &[Value]) {
    let ids: Vec<u64> = story.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.windows(2).all(|two| two[0] < two[1]), "{ids:?}");
    assert!(story.iter().all(|event| event["at"].as_str().unwrap().ends_with('Z')));
}

#[test]
fn the_story_of_a_session_is_told_from_the_store_alone() {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &rule("role = \"coder\", model = \"one\"", "", "{ status = 500 }")
        + &milestone("Again", &["b.js"], &[], &[]);
    let world = World::new(&script, &[]);
    world.run().expect(0);
    let story = story(&world);
    assert_in_order(&story);
    let kinds = kinds(&story);
    for kind in ["session_moved", "planned", "attempt_started", "attempt_failed", "attempt_succeeded", "file_ended"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == "committed").count(), 2);
    assert_eq!(story.last().unwrap()["phase"], "completed");
    let failed = story.iter().find(|event| event["event"] == "attempt_failed").unwrap();
    assert_eq!((&failed["model"], &failed["role"]), (&Value::from("sim/one"), &Value::from("coder")));
    assert_eq!(failed["file"], "a.js");
    let text = world.steadfast(&["events", "002-feature"]).expect(0).stdout;
    assert_eq!(text.lines().count(), story.len());
    assert!(text.contains("coder a.js: sim/one failed after"), "{text}");
}

#[test]
fn who_follows_sees_what_was_and_what_comes_over_a_restart_until_it_is_over() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    let follower = world.start(&["events", "002-feature", "--follow", "--json"]);
    follower.hear_out("attempt_started");
    daemon.signal(Signal::KILL);
    let _ = daemon.end();
    let daemon = world.start_daemon();
    let seen = follower.output().expect(0).stdout;
    let seen: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_in_order(&seen);
    assert_eq!(seen.last().unwrap()["phase"], "completed");
    assert!(kinds(&seen).contains(&"planned"));
    // A kill may take the last second's events from the store, and nothing from who has seen them.
    let kept = story(&world);
    assert_in_order(&kept);
    assert!(kept.iter().all(|event| seen.contains(event)), "{kept:#?} {seen:#?}");
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

/// Failures, a fallback, a file that is missing, an interruption and what came after it, from the text alone.
#[test]
fn a_person_reads_the_whole_story_over_an_interruption() {
    let script = milestone("Write", &["a.js", "b.js", "c.js"], &[], &[])
        + &milestone("Remove", &["d.js"], &[], &["src/old.txt"])
        + &rule("role = \"coder\", file = \"c.js\"", "", "{ status = 400 }")
        + &rule("role = \"coder\", model = \"one\", file = \"a.js\"", "", "{ status = 503 }")
        + &rule("role = \"coder\", file = \"d.js\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let run = world.start_run();
    wait_until("the second milestone", || {
        world.asked("coder").iter().any(|ask| ask.file.as_deref() == Some("d.js")).then_some(())
    });
    assert_eq!(run.kill_with(Signal::TERM).code(), Some(75));
    world.steadfast(&["resume"]).expect(0);
    let text = world.steadfast(&["events", "002-feature"]).expect(0).stdout;
    let mut rest = text.as_str();
    for words in [
        "  planning: idea 002-feature\n",
        "  plan of 2 milestones: Write; Remove\n",
        "  implementing, milestone 1/2: Write\n",
        "  coder a.js: sim/one failed after ",
        "  coder a.js: sim/two answered in ",
        " tokens, a fallback\n",
        "  milestone 1: 2 of 3 files, good\n",
        "  review of milestone 1: approved, quality ",
        "  milestone 1 is commit ",
        "  issue filed: [002-feature] Write c.js by hand\n",
        "  coder d.js asks sim/one (try 1)\n",
        "  interrupted: SIGTERM received; it can go on from here\n",
        "  another process goes on with it\n",
        "  milestone 2: d.js is done\n",
        "  completed, 2 milestones\n",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("no {words:?} in its place in\n{text}"));
        rest = &rest[at + words.len()..];
    }
    assert!(
        text.contains("  milestone 1: c.js failed: no model answered (") && text.contains("src/old.txt is done"),
        "{text}"
    );
    assert_eq!(text.matches("another process").count(), 1);
}

#[test]
fn a_daemon_ends_in_time_although_somebody_follows() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    let follower = world.start(&["events", "002-feature", "--follow"]);
    follower.hear_out("asks");
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    let report = world.steadfast(&["show", "002-feature", "--json"]).expect(0).json();
    assert_eq!(report["can_resume"], true);
    drop(follower);
}
