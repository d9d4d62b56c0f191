//! SPEC 5 and 6 through the whole program: what is kept of a milestone, what is asked again, and what stands in where no
//! model answers. Files fail with 400, which says nothing about the model, so that no breaker plays a part.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use steadfast_sim::Script;

use crate::support::{Output, World, milestone, rule};

const BRANCH: &str = "steadfast/002-feature";

fn fails(file: &str) -> String {
    rule(&format!("role = \"coder\", file = {file:?}"), "", "{ status = 400 }")
}

/// How often the coders were asked for each file.
fn asked_by_file(world: &World) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in world.asked("coder") {
        *counts.entry(request.file.unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(file, n)| (file.to_owned(), n)).collect()
}

/// The status of each file of a milestone, by path.
fn statuses(milestone: &Value) -> BTreeMap<&str, &str> {
    let files = milestone["files"].as_array().unwrap();
    files.iter().map(|file| (file["path"].as_str().unwrap(), file["status"].as_str().unwrap())).collect()
}

fn issue_texts(world: &World) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(world.state().join("issues")) else { return Vec::new() };
    let mut texts: Vec<String> = folder.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    texts.sort();
    texts
}

#[test]
fn two_files_of_three_are_good_are_committed_with_an_issue_and_it_goes_on() {
    let script = milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[])
        + &milestone("After it", &["after.js"], &[], &[])
        + &fails("users.js");
    let world = World::new(&script, &[("issues.assignee", "\"ada\""), ("issues.labels", "[\"steadfast\"]")]);
    let output = world.run().expect(0);
    let report = output.json();
    let first = &report["milestones"][0];
    assert_eq!(first["successRate"], 0.67);
    assert_eq!(first["verdict"], "good");
    assert_eq!(first["status"], "partial");
    assert_eq!(statuses(first), BTreeMap::from([("auth.js", "ok"), ("posts.js", "ok"), ("users.js", "failed")]));
    assert!(output.stderr.contains("2 of 3 files, good"), "{}", output.stderr);
    assert_eq!(report["milestones"][1]["status"], "completed");
    assert_eq!(
        (&report["success"], &report["partial"], &report["degraded"]),
        (&json!(true), &json!(true), &json!(false))
    );
    // Both models once, and no further try of the milestone.
    assert_eq!(asked_by_file(&world), counts([("after.js", 1), ("auth.js", 1), ("posts.js", 1), ("users.js", 2)]));

    let files = world.files_at(BRANCH);
    assert!(files.contains_key("auth.js") && files.contains_key("posts.js") && files.contains_key("after.js"));
    assert!(!files.contains_key("users.js"));
    let messages = world.messages(BRANCH);
    assert_eq!(messages.len(), 2);
    assert!(messages[0].contains("Not written:\n- users.js"), "{}", messages[0]);

    assert_eq!(report["issues"].as_array().unwrap().len(), 1);
    assert_eq!(report["issues"][0]["kind"], "failed_file");
    assert_eq!(report["issues"][0]["delivered"], true);
    let issues = issue_texts(&world);
    assert_eq!(issues.len(), 1);
    for part in ["users.js", "Assignee: ada", "Labels: steadfast", "sim/one", "sim/two", "2 of 3", BRANCH] {
        assert!(issues[0].contains(part), "{part} in {}", issues[0]);
    }
}

#[test]
fn one_file_of_two_is_acceptable_and_is_committed() {
    let script = milestone("Endpoints", &["auth.js", "users.js"], &[], &[]) + &fails("users.js");
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    let first = &report["milestones"][0];
    assert_eq!((&first["successRate"], &first["verdict"]), (&json!(0.5), &json!("acceptable")));
    assert_eq!(first["status"], "partial");
    assert!(world.files_at(BRANCH).contains_key("auth.js"));
    assert_eq!(asked_by_file(&world), counts([("auth.js", 1), ("users.js", 2)]));
}

fn one_of_three() -> String {
    milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[]) + &fails("users.js") + &fails("posts.js")
}

#[test]
fn one_file_of_three_is_rolled_back_tried_again_and_becomes_a_manual_task_with_its_draft() {
    let script = one_of_three() + &milestone("After it", &["after.js"], &[], &[]);
    let world = World::new(&script, &[]);
    let output = world.run().expect(0);
    let report = output.json();
    let first = &report["milestones"][0];
    assert_eq!(first["verdict"], "too_low");
    assert_eq!(first["successRate"], 0.33);
    assert_eq!(first["status"], "degraded");
    assert_eq!(
        statuses(first),
        BTreeMap::from([("auth.js", "manual"), ("users.js", "manual"), ("posts.js", "manual")])
    );
    assert_eq!(output.stderr.matches("rolled back and tried again").count(), 2, "{}", output.stderr);
    // A first try and two more, each of both models; what was good is not asked for again.
    assert_eq!(asked_by_file(&world), counts([("after.js", 1), ("auth.js", 1), ("posts.js", 6), ("users.js", 6)]));
    assert_eq!((&report["success"], &report["degraded"]), (&json!(true), &json!(true)));
    assert_eq!(report["milestones"][1]["status"], "completed");

    let files = world.files_at(BRANCH);
    for file in ["auth.js", "users.js", "posts.js"] {
        assert!(!files.contains_key(file), "{file}");
    }
    let task = &files[".steadfast/tasks/002-feature-m1.md"];
    for part in [
        "# Manual Implementation Required",
        "users.js",
        "posts.js",
        "Write the files of the plan.",
        "1. Review requirements",
    ] {
        assert!(task.contains(part), "{part} in {task}");
    }
    assert!(!files[".steadfast/tasks/002-feature-m1/drafts/auth.js"].is_empty());
    let kinds: Vec<&Value> = report["issues"].as_array().unwrap().iter().map(|issue| &issue["kind"]).collect();
    assert_eq!(kinds, ["manual"]);
    // The reviewer has nothing to read of it.
    assert_eq!(world.asked("reviewer").len(), 1);
}

#[test]
fn a_file_that_fails_in_the_first_try_only_makes_the_milestone_perfect() {
    let first_try = |file: &str| rule(&format!("role = \"coder\", file = {file:?}"), "first = 2", "{ status = 400 }");
    let script = milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[])
        + &first_try("users.js")
        + &first_try("posts.js");
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    assert_eq!(report["milestones"][0]["verdict"], "perfect");
    assert_eq!((&report["partial"], &report["degraded"]), (&json!(false), &json!(false)));
    assert_eq!(asked_by_file(&world), counts([("auth.js", 1), ("posts.js", 3), ("users.js", 3)]));
    assert_eq!(report["issues"], json!([]));
    assert_eq!(world.messages(BRANCH).len(), 1);
}

#[test]
fn without_partial_success_two_of_three_are_too_few() {
    let script = milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[]) + &fails("users.js");
    let world = World::new(&script, &[("failover.partial_success", "false"), ("session.milestone_retries", "1")]);
    let report = world.run().expect(0).json();
    assert_eq!(report["milestones"][0]["verdict"], "too_low");
    assert_eq!(report["milestones"][0]["status"], "degraded");
    assert_eq!(asked_by_file(&world), counts([("auth.js", 1), ("posts.js", 1), ("users.js", 4)]));
    let files = world.files_at(BRANCH);
    assert!(files.contains_key(".steadfast/tasks/002-feature-m1/drafts/auth.js"));
    assert!(files.contains_key(".steadfast/tasks/002-feature-m1/drafts/posts.js"));
}

#[test]
fn the_least_rate_is_the_operators() {
    let script = milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[]) + &fails("users.js");
    let world = World::new(&script, &[("failover.min_success_rate", "0.67"), ("session.milestone_retries", "0")]);
    // Two of three is less than 0.67, although it shows as 67 %.
    assert_eq!(world.run().expect(0).json()["milestones"][0]["verdict"], "too_low");
}

/// Everything that stands in when no model answers.
fn stands_in(report: &Value, world: &World) {
    assert_eq!(
        (&report["success"], &report["degraded"], &report["phase"]),
        (&json!(true), &json!(true), &json!("completed"))
    );
    let milestones = report["milestones"].as_array().unwrap();
    let names: Vec<&Value> = milestones.iter().map(|milestone| &milestone["name"]).collect();
    assert_eq!(names, ["Analyze requirements", "Implement changes"]);
    for milestone in milestones {
        assert_eq!(milestone["status"], "degraded");
        assert_eq!(milestone["files"][0]["status"], "manual");
        assert_eq!(milestone["files"][0]["model"], "manual");
        assert_eq!(milestone["files"][0]["degraded"], true);
        let review = &milestone["review"];
        assert_eq!((&review["degraded"], &review["model"]), (&json!(true), &json!("static-checks")));
        assert_eq!((&review["approved"], &review["code_quality"]), (&json!(true), &json!(70)));
        assert_eq!(review["issues"][0]["severity"], "low");
        assert!(!review["next_steps"].as_array().unwrap().is_empty());
    }
    let files = world.files_at(BRANCH);
    for task in [".steadfast/tasks/002-feature-m1.md", ".steadfast/tasks/002-feature-m2.md"] {
        assert!(files[task].contains("# Manual Implementation Required"), "{}", files[task]);
        assert!(files[task].contains("Write the files of the plan."), "{}", files[task]);
    }
    let kinds: Vec<&Value> = report["issues"].as_array().unwrap().iter().map(|issue| &issue["kind"]).collect();
    assert_eq!(kinds, ["manual", "manual"]);
}

#[test]
fn when_every_model_fails_template_manual_tasks_and_static_checks_stand_in() {
    let world = World::new(&rule("", "", "{ status = 503 }"), &[]);
    let output = world.run().expect(0);
    stands_in(&output.json(), &world);
    assert!(output.stderr.contains("template plan stands in"), "{}", output.stderr);
}

#[test]
fn a_server_that_is_not_there_degrades_likewise() {
    let mut world = World::new(
        "",
        &[("roles.planner", "[\"dead/a\"]"), ("roles.coder", "[\"dead/b\"]"), ("roles.reviewer", "[\"dead/c\"]")],
    );
    let port = crate::support::DeadPort::reserve();
    world.configure(&format!("providers.dead = {{ kind = \"openai\", base_url = {:?} }}", port.base_url()));
    let report = world.run().expect(0).json();
    stands_in(&report, &world);
    assert_eq!(world.sim.total(), 0);
}

#[test]
fn only_the_reviewer_failing_leaves_the_work_and_says_basic_checks_only() {
    let script = milestone("Data", &["good.json"], &[], &[]) + &rule("role = \"reviewer\"", "", "{ status = 503 }");
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    let milestone = &report["milestones"][0];
    assert_eq!((&milestone["status"], &milestone["approved"]), (&json!("completed"), &json!(true)));
    assert_eq!((&milestone["review"]["code_quality"], &milestone["review"]["degraded"]), (&json!(70), &json!(true)));
    assert_eq!(report["degraded"], true);
}

#[test]
fn static_checks_find_what_is_broken_and_do_not_approve_it() {
    let script = "[[file]]\npath = \"bad.json\"\ntext = \"{ \\\"a\\\": \"\n".to_owned()
        + &milestone("Data", &["bad.json"], &[], &[])
        + &rule("role = \"reviewer\"", "", "{ status = 503 }");
    let world = World::new(&script, &[("session.max_review_rounds", "0")]);
    let report = world.run().expect(0).json();
    let milestone = &report["milestones"][0];
    assert_eq!(milestone["approved"], false);
    assert_eq!(milestone["review"]["approved"], false);
    let issues = milestone["review"]["issues"].as_array().unwrap();
    assert!(issues.iter().any(|issue| issue["file"] == "bad.json"), "{issues:?}");
    assert_eq!(report["issues"][0]["kind"], "review");
}

/// Ends with exit code 1, resumable; then the models answer again and it is carried to its end by this command.
#[track_caller]
fn fails_and_goes_on(world: &World, order: &str) -> Output {
    let report = world.run().expect(1).json();
    assert_eq!((&report["phase"], &report["success"]), (&json!("failed"), &json!(false)));
    assert_eq!((&report["can_resume"], &report["degraded"]), (&json!(true), &json!(false)));
    assert!(report["error"].as_str().unwrap().contains("graceful_degradation"), "{report}");
    assert_eq!(report["issues"][0]["kind"], "recovery");
    world.sim.set_script(Script::parse(&milestone("Files", &["auth.js", "users.js"], &[], &[])).unwrap());
    world.steadfast(&["breaker", "reset"]).expect(0);
    let output = world.steadfast(&[order, "002-feature", "--json"]).expect(0);
    assert_eq!(output.json()["phase"], "completed");
    output
}

#[test]
fn without_graceful_degradation_a_missing_plan_fails_the_session_and_resume_takes_it_up() {
    let world =
        World::new(&rule("role = \"planner\"", "", "{ status = 503 }"), &[("failover.graceful_degradation", "false")]);
    fails_and_goes_on(&world, "resume");
    assert_eq!(world.messages(BRANCH).len(), 1);
}

#[test]
fn without_graceful_degradation_missing_files_fail_the_session_and_retry_asks_only_for_them() {
    let script =
        milestone("Files", &["auth.js", "users.js"], &[], &[]) + &rule("role = \"coder\"", "", "{ status = 400 }");
    let world = World::new(&script, &[("failover.graceful_degradation", "false"), ("session.milestone_retries", "0")]);
    fails_and_goes_on(&world, "retry");
    assert_eq!(world.asked("planner").len(), 1);
    assert_eq!(asked_by_file(&world), counts([("auth.js", 3), ("users.js", 3)]));
}

#[test]
fn without_graceful_degradation_a_missing_review_fails_the_session_and_no_file_is_asked_for_again() {
    let script =
        milestone("Files", &["auth.js", "users.js"], &[], &[]) + &rule("role = \"reviewer\"", "", "{ status = 503 }");
    let world = World::new(&script, &[("failover.graceful_degradation", "false")]);
    fails_and_goes_on(&world, "resume");
    assert_eq!(asked_by_file(&world), counts([("auth.js", 1), ("users.js", 1)]));
}

#[test]
fn without_graceful_degradation_a_partial_milestone_is_still_kept() {
    let script = milestone("Endpoints", &["auth.js", "users.js", "posts.js"], &[], &[]) + &fails("users.js");
    let world = World::new(&script, &[("failover.graceful_degradation", "false")]);
    assert_eq!(world.run().expect(0).json()["milestones"][0]["verdict"], "good");
}

#[test]
fn a_path_that_leaves_the_worktree_fails_its_agent_alone_and_touches_nothing() {
    let script = milestone("Files", &["../outside.txt", "inside.txt", "also.txt"], &[], &[]);
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    let first = &report["milestones"][0];
    assert_eq!(first["verdict"], "good");
    assert_eq!(statuses(first)["../outside.txt"], "failed");
    assert_eq!(asked_by_file(&world), counts([("also.txt", 1), ("inside.txt", 1)]));
    assert!(!world.path("outside.txt").exists());
    assert!(!world.state().join("worktrees/outside.txt").exists());
}

#[test]
fn a_deletion_needs_no_model_and_counts_as_a_success() {
    let script = milestone("Tidy up", &[], &["src/kept.txt"], &["src/old.txt"]) + &fails("src/kept.txt");
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    assert_eq!(report["milestones"][0]["verdict"], "acceptable");
    let files = world.files_at(BRANCH);
    assert!(!files.contains_key("src/old.txt"));
    assert_eq!(files["src/kept.txt"], "kept\n");
}

#[test]
fn a_milestone_without_files_may_have_nothing_to_change_and_then_there_is_no_commit() {
    let world = World::new(&milestone("Look around", &[], &[], &[]), &[]);
    let report = world.run().expect(0).json();
    assert_eq!(report["milestones"][0]["status"], "completed");
    assert_eq!(report["milestones"][0]["commit"], Value::Null);
    assert!(world.messages(BRANCH).is_empty());
}

#[test]
fn a_milestone_without_files_lets_the_coder_choose_them() {
    let then = "{ files = { \"a/one.txt\" = \"1\\n\", \"two.txt\" = \"2\\n\" } }";
    let world = World::new(&(milestone("Choose", &[], &[], &[]) + &rule("role = \"coder\"", "", then)), &[]);
    let report = world.run().expect(0).json();
    assert_eq!(statuses(&report["milestones"][0]), BTreeMap::from([("a/one.txt", "ok"), ("two.txt", "ok")]));
    let files = world.files_at(BRANCH);
    assert_eq!((files["a/one.txt"].as_str(), files["two.txt"].as_str()), ("1\n", "2\n"));
}
