//! Budgets (SPEC 7): at the limit nothing more is bought; the session stands still and says what was spent.

use serde_json::json;

use crate::support::{World, milestone};

fn four_calls() -> String {
    milestone("Write", &["a.js", "b.js"], &[], &[])
}

#[test]
fn a_session_that_has_spent_its_calls_is_parked_with_an_issue_and_buys_nothing_more() {
    let world = World::new(&four_calls(), &[("session.max_calls", "3")]);
    let report = world.run().expect(75).json();
    assert_eq!(world.sim.total(), 3);
    assert_eq!((&report["interrupted"], &report["can_resume"]), (&json!(true), &json!(true)));
    assert_eq!((&report["emergency_shutdown"], &report["phase"]), (&json!(false), &json!("reviewing")));
    assert!(report["interrupt_reason"].as_str().unwrap().contains('3'), "{report}");
    assert_eq!(report["spent"]["calls"], 3);
    assert_eq!(report["issues"][0]["kind"], "recovery");
    let issue = std::fs::read_dir(world.state().join("issues")).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(issue.path()).unwrap();
    assert!(text.contains("3 calls") && text.contains("steadfast resume"), "{text}");

    // By hand it goes on to the same wall, and with a larger budget over it.
    for _ in 0..2 {
        let report = world.steadfast(&["resume", "--json"]).expect(75).json();
        assert_eq!(report["issues"].as_array().unwrap().len(), 1, "the same stop has one issue: {report}");
    }
    assert_eq!(world.sim.total(), 3);
    assert!(!std::fs::read_to_string(issue.path()).unwrap().contains("closed"));
    let mut world = world;
    world.env.insert("STEADFAST_SESSION__MAX_CALLS".to_owned(), "4".to_owned());
    assert_eq!(world.steadfast(&["resume", "--json"]).expect(0).json()["phase"], "completed");
    assert_eq!(world.sim.total(), 4);
    let text = std::fs::read_to_string(issue.path()).unwrap();
    assert!(text.contains("\nStatus: closed") && text.contains("## Closed\n\nThe session has gone on"), "{text}");
}

#[test]
fn a_parked_session_is_not_taken_up_by_a_daemon_that_starts() {
    let world = World::new(&four_calls(), &[("session.max_calls", "3")]);
    world.run().expect(75);
    let daemon = world.start_daemon();
    let status = world.status();
    assert_eq!((&status["sessions"]["active"], &status["sessions"]["interrupted"]), (&json!(0), &json!(1)));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.output().expect(0);
    assert_eq!(world.sim.total(), 3);
}

#[test]
fn parallel_agents_neither_overrun_the_budget_nor_lose_what_they_have_bought() {
    let files = ["a.js", "b.js", "c.js", "d.js", "e.js", "f.js"];
    let script = "latency = \"50ms\"\n".to_owned() + &milestone("Write", &files, &[], &[]);
    let settings = [
        ("session.max_calls", "3"),
        ("session.max_parallel_agents", "6"),
        ("models.\"sim/one\"", "{ max_concurrency = 6 }"),
    ];
    let mut world = World::new(&script, &settings);
    world.run().expect(75);
    assert_eq!(world.sim.total(), 3);
    world.env.insert("STEADFAST_SESSION__MAX_CALLS".to_owned(), "8".to_owned());
    world.steadfast(&["resume", "--json"]).expect(0);
    // A plan, six files, a review: the two files that were under way at the limit were not bought twice.
    assert_eq!(world.sim.total(), 8);
}

#[test]
fn tokens_and_cost_are_limits_too() {
    for (key, value, price) in [
        ("session.max_tokens", "10", "none"),
        ("session.max_cost", "0.01", "{ input = 1_000_000, output = 1_000_000 }"),
    ] {
        let price = if price == "none" { "{}".to_owned() } else { format!("{{ price = {price} }}") };
        let world = World::new(&four_calls(), &[(key, value), ("models.\"sim/plan\"", &price)]);
        let report = world.run().expect(75).json();
        // What a call costs is known after it; the next one is not made.
        assert_eq!(world.sim.total(), 1, "{key}: {report}");
        assert_eq!(report["can_resume"], true);
    }
}

#[test]
fn a_days_budget_holds_for_the_next_session_of_the_day_too() {
    let world = World::new(&four_calls(), &[("session.max_calls", "{ day = 5 }")]);
    world.run().expect(0);
    assert_eq!(world.sim.total(), 4);
    std::fs::write(world.path("idea.md"), "---\nid: 003-next\n---\n# Next\n\nGo on.\n").unwrap();
    let report = world.run().expect(75).json();
    assert_eq!(world.sim.total(), 5);
    assert!(report["interrupt_reason"].as_str().unwrap().contains("day"), "{report}");
}
