//! What stand-ins have done is made up for once a model answers again: the daemon does it by itself (SPEC 11, `redeem`).
//! Files that fail with 400 degrade without a breaker, so that the models can be asked again at once.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Running, World, milestone, rule, wait_until};

const BRANCH: &str = "steadfast/002-feature";
const TASK: &str = ".steadfast/tasks/002-feature-m1.md";

/// Waits for what `show` says.
fn reaches(world: &World, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, || Some(world.show(id)).filter(|report| is(report)))
}

fn is_redeemed(report: &Value) -> bool {
    report["phase"] == "completed" && report["redeemed"].as_array().is_some_and(|redeemed| !redeemed.is_empty())
}

/// Every issue of the local tracker, by the end of its name.
fn issues(world: &World) -> BTreeMap<String, String> {
    let Ok(folder) = std::fs::read_dir(world.state().join("issues")) else { return BTreeMap::new() };
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        // Behind the session's id.
        let name = path.file_stem()?.to_str()?.get(20..)?.to_owned();
        Some((name, std::fs::read_to_string(&path).ok()?))
    };
    folder.filter_map(one).collect()
}

fn is_closed(text: &str) -> bool {
    text.contains("Status: closed")
}

/// So many calls for a file fail first: two coders, three tries, make six.
fn fails_first(file: &str, n: usize) -> String {
    rule(&format!("role = \"coder\", file = {file:?}"), &format!("first = {n}"), "{ status = 400 }")
}

#[test]
fn coders_that_come_back_write_the_milestone_in_one_commit_and_its_task_and_issue_are_done() {
    let script =
        milestone("Write", &["a.js", "b.js"], &[], &[]) + &rule("role = \"coder\"", "first = 6", "{ status = 503 }");
    // One agent at a time, so that it takes six calls to open both breakers; they are tested when their time is up.
    let world = World::new(&script, &[("failover.reset_timeout", "\"3s\""), ("session.max_parallel_agents", "1")]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let report = reaches(&world, &id, "the redemption", is_redeemed);
    let first = &report["milestones"][0];
    assert_eq!((&first["status"], &first["approved"]), (&json!("completed"), &json!(true)));
    assert_eq!(
        (&report["degraded"], &report["partial"], &report["success"]),
        (&json!(false), &json!(false), &json!(true))
    );
    let redeemed = &report["redeemed"][0];
    assert_eq!((&redeemed["standIn"], &redeemed["milestone"]), (&json!("manual"), &json!(1)));
    assert_eq!(redeemed["commit"], first["commit"]);

    let files = world.files_at(BRANCH);
    assert!(files.contains_key("a.js") && files.contains_key("b.js"));
    assert!(files.keys().all(|path| !path.starts_with(".steadfast/")), "{:?}", files.keys());
    assert!(world.files_at(&format!("{BRANCH}~1")).contains_key(TASK), "the manual task was there");
    let messages = world.messages(BRANCH);
    assert_eq!(messages.len(), 2);
    let trailers = format!("Steadfast-Session: {id}\nSteadfast-Milestone: 1");
    assert!(messages[0].contains("a manual task stands in") && messages[0].trim_end().ends_with(&trailers));
    assert!(messages[1].trim_end().ends_with(&format!("{trailers}\nSteadfast-Redeems: manual")), "{}", messages[1]);

    wait_until("the closing", || issues(&world).values().all(|text| is_closed(text)).then_some(()));
    let issues = issues(&world);
    assert_eq!(issues.keys().collect::<Vec<_>>(), ["m1-manual"]);
    assert!(issues["m1-manual"].contains("A model has written milestone 1 (Write) after all"), "{issues:?}");
    daemon.stop();
    // The story tells it, and so does what is left without a daemon.
    let story = world.steadfast(&["events", &id, "--json"]).expect(0).stdout;
    for part in ["\"redemption\"", "\"begun\"", "\"done\""] {
        assert!(story.contains(part), "{part} in {story}");
    }
    assert_eq!(world.show(&id), report);
    let text = world.steadfast(&["show", &id]).expect(0).stdout;
    assert!(text.contains("a model has taken the place of the manual of milestone 1"), "{text}");
}

#[test]
fn a_reviewer_that_comes_back_reviews_what_static_checks_passed_and_no_commit_is_made() {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &milestone("Change", &["b.js"], &["README.md"], &[])
        + &rule("role = \"reviewer\"", "first = 1", "{ status = 401 }");
    let world = World::new(&script, &[]);
    let (daemon, id) = until_a_reset(&world);
    assert_eq!(world.show(&id)["degraded"], true);
    world.steadfast(&["breaker", "reset"]).expect(0);
    let report = reaches(&world, &id, "both reviews", |report| {
        report["redeemed"].as_array().is_some_and(|redeemed| redeemed.len() == 2)
    });
    assert_eq!((&report["degraded"], &report["phase"]), (&json!(false), &json!("completed")));
    for milestone in report["milestones"].as_array().unwrap() {
        let review = &milestone["review"];
        assert_eq!((&review["model"], &review["degraded"]), (&json!("sim/review"), &json!(false)));
        assert_eq!((&milestone["status"], &milestone["approved"]), (&json!("completed"), &json!(true)));
    }
    assert_eq!(world.messages(BRANCH).len(), 2);
    // Each was shown its own milestone's diff.
    let asked = world.asked("reviewer");
    let prompt = |at: usize| asked[asked.len() - 2 + at].prompt.clone().unwrap_or_default();
    assert!(prompt(0).contains("a.js") && !prompt(0).contains("b/b.js"), "{}", prompt(0));
    assert!(prompt(1).contains("b.js") && prompt(1).contains("README.md"), "{}", prompt(1));
    assert!(issues(&world).is_empty());
    daemon.stop();
}

#[test]
fn a_reviewer_that_comes_back_and_rejects_leaves_an_issue_and_changes_nothing() {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &rule("role = \"reviewer\"", "first = 1", "{ status = 401 }")
        + &rule(
            "role = \"reviewer\"",
            "",
            "{ review = { approved = false, issues = [{ issue = \"It is wrong.\" }] } }",
        );
    let world = World::new(&script, &[]);
    let (daemon, id) = until_a_reset(&world);
    assert_eq!(world.show(&id)["degraded"], true);
    world.steadfast(&["breaker", "reset"]).expect(0);
    let report = reaches(&world, &id, "the review", is_redeemed);
    assert_eq!(report["milestones"][0]["approved"], false);
    assert_eq!(world.messages(BRANCH).len(), 1);
    assert_eq!(world.asked("coder").len(), 1);
    wait_until("the issue", || issues(&world).contains_key("m1-review").then_some(()));
    let text = issues(&world)["m1-review"].clone();
    assert!(text.contains("It is wrong.") && !is_closed(&text), "{text}");
    daemon.stop();
}

#[test]
fn a_planner_that_comes_back_plans_anew_and_its_milestones_are_carried_out() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"planner\"", "first = 1", "{ status = 401 }");
    let world = World::new(&script, &[]);
    let (daemon, id) = until_a_reset(&world);
    assert_eq!(world.show(&id)["degraded"], true);
    world.steadfast(&["breaker", "reset"]).expect(0);
    let report = reaches(&world, &id, "the plan", is_redeemed);
    assert_eq!(report["degraded"], false);
    let names: Vec<&Value> = report["milestones"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["Analyze requirements", "Implement changes", "Write"]);
    assert_eq!(report["milestones"][2]["status"], "completed");
    assert_eq!(report["redeemed"][0]["standIn"], "template");
    assert!(world.files_at(BRANCH).contains_key("a.js"));
    assert_eq!(report["currentMilestone"], 3);
    daemon.stop();
}

#[test]
fn a_redemption_that_is_killed_goes_on_and_pays_for_no_answer_twice() {
    let script = milestone("Write", &["a.js", "b.js"], &[], &[])
        + &fails_first("a.js", 6)
        + &fails_first("b.js", 6)
        + &rule("role = \"coder\", file = \"b.js\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let asked = |file: &str| world.asked("coder").iter().filter(|one| one.file.as_deref() == Some(file)).count();
    // The redemption asks for both; one is answered and on disk before the kill.
    wait_until("the redemption's calls", || (asked("a.js") == 7 && asked("b.js") == 7).then_some(()));
    let is_answer = |event: &Value| event["event"] == "attempt_succeeded" && event["file"] == "a.js";
    let story = || world.steadfast(&["events", &id, "--json"]).expect(0).json();
    wait_until("the answer of a.js", || story().as_array().unwrap().iter().any(is_answer).then_some(()));
    daemon.kill_with(Signal::KILL);
    let daemon = world.start_daemon();
    let report = reaches(&world, &id, "the redemption", is_redeemed);
    assert_eq!((&report["degraded"], &report["milestones"][0]["status"]), (&json!(false), &json!("completed")));
    assert_eq!((asked("a.js"), asked("b.js")), (7, 8));
    assert_eq!(world.messages(BRANCH).len(), 2);
    let files = world.files_at(BRANCH);
    assert!(files.contains_key("a.js") && files.contains_key("b.js") && !files.contains_key(TASK));
    wait_until("the closing", || issues(&world).get("m1-manual").filter(|text| is_closed(text)).map(|_| ()));
    assert_eq!(issues(&world)["m1-manual"].matches("A model has written").count(), 1);
    daemon.stop();
}

/// A daemon with a session some of whose models are out until a reset, because a key was refused; then they work.
fn until_a_reset(world: &World) -> (Running, String) {
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    reaches(world, &id, "the end", |report| report["phase"] == "completed");
    (daemon, id)
}

fn refused_at_first() -> String {
    milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 2", "{ status = 401 }")
}

#[test]
fn a_branch_that_somebody_has_committed_on_or_deleted_or_merged_is_left_alone() {
    type Deed = fn(&World);
    let deeds: [(Deed, &str); 3] = [
        (|world| assert!(!world.commit_on(BRANCH, "mine.txt", "mine\n").is_zero()), "somebody has changed branch"),
        (|world| world.git().find_branch(BRANCH, git2::BranchType::Local).unwrap().delete().unwrap(), "was deleted"),
        (
            |world| {
                let git = world.git();
                let tip = git.find_branch(BRANCH, git2::BranchType::Local).unwrap().get().target().unwrap();
                git.reference("refs/heads/merged", tip, false, "by hand").unwrap();
            },
            "was merged",
        ),
    ];
    for (deed, why) in deeds {
        let world = World::new(&refused_at_first(), &[]);
        let (daemon, id) = until_a_reset(&world);
        deed(&world);
        let before =
            world.git().find_branch(BRANCH, git2::BranchType::Local).ok().and_then(|branch| branch.get().target());
        world.steadfast(&["breaker", "reset"]).expect(0);
        let report = reaches(&world, &id, why, |report| report["notRedeemed"].is_string());
        assert!(report["notRedeemed"].as_str().unwrap().contains(why), "{report:#}");
        assert_eq!((&report["degraded"], &report["phase"]), (&json!(true), &json!("completed")));
        assert_eq!(world.asked("coder").len(), 2);
        let after =
            world.git().find_branch(BRANCH, git2::BranchType::Local).ok().and_then(|branch| branch.get().target());
        assert_eq!(before, after);
        let issues = issues(&world);
        assert!(!is_closed(&issues["m1-manual"]), "it stays for a person");
        daemon.stop();
    }
}

#[test]
fn an_operators_reset_has_the_work_made_up_for_at_once() {
    let world = World::new(&refused_at_first(), &[]);
    let (daemon, id) = until_a_reset(&world);
    world.steadfast(&["breaker", "reset"]).expect(0);
    let report = reaches(&world, &id, "the redemption", is_redeemed);
    assert_eq!(report["degraded"], false);
    daemon.stop();
}

#[test]
fn what_a_foreground_run_owed_is_made_up_for_by_the_next_daemon() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &fails_first("a.js", 6);
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    assert_eq!(report["degraded"], true);
    let id = report["sessionId"].as_str().unwrap().to_owned();
    let daemon = world.start_daemon();
    let report = reaches(&world, &id, "the redemption", is_redeemed);
    assert_eq!(report["degraded"], false);
    daemon.stop();
}

#[test]
fn with_redeem_off_or_too_late_the_work_stays_with_a_person() {
    for (key, value, why) in [
        ("failover.redeem", "false", None),
        ("failover.redeem_within", "\"1ms\"", Some("it is older than redeem_within")),
    ] {
        let script = milestone("Write", &["a.js"], &[], &[]) + &fails_first("a.js", 6);
        let world = World::new(&script, &[(key, value)]);
        let daemon = world.start_daemon();
        let id = world.submit("idea.md");
        let report = reaches(&world, &id, "the end", |report| report["phase"] == "completed");
        // Whatever may follow the end of one session has followed by the end of the next one.
        std::fs::write(world.path("idea.md"), "---\nid: other\n---\n# Another\n\nWrite the files of the plan.\n")
            .unwrap();
        let other = world.submit("idea.md");
        reaches(&world, &other, "the end", |report| report["phase"] == "completed");
        let report = match why {
            Some(why) => reaches(&world, &id, why, |report| report["notRedeemed"] == why),
            None => report,
        };
        assert_eq!((&report["degraded"], report.get("redeemed")), (&json!(true), None));
        assert!(world.files_at(BRANCH).contains_key(TASK));
        assert_eq!(world.asked("coder").iter().filter(|one| one.idea.as_deref() == Some("002-feature")).count(), 6);
        assert!(!is_closed(&issues(&world)["m1-manual"]));
        daemon.stop();
    }
}
