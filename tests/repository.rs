//! What happens to the user's repository (SPEC 7): nothing but a branch. And the checks that decide on fix rounds.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{World, files_under, milestone, rule, wait_until};

const BRANCH: &str = "steadfast/002-feature";

fn two_files() -> String {
    milestone("Write two files", &["a.js"], &["src/kept.txt"], &["src/old.txt"])
}

#[test]
fn the_users_checkout_stays_as_it_was_and_the_worktree_goes() {
    let script = two_files() + &milestone("Another", &["b.js"], &[], &[]);
    let world = World::new(&script, &[("session.checks", "[\"test -e README.md\"]")]);
    // A checkout in the middle of somebody's work: changed, staged, untracked.
    std::fs::write(world.repo().join("README.md"), "changed\n").unwrap();
    std::fs::write(world.repo().join("staged.txt"), "staged\n").unwrap();
    std::fs::write(world.repo().join("untracked.txt"), "untracked\n").unwrap();
    let git = world.git();
    let mut index = git.index().unwrap();
    index.add_path(std::path::Path::new("staged.txt")).unwrap();
    index.write().unwrap();
    // Branches, objects and what git keeps of worktrees are ours to add to; all else is not.
    let shown = |world: &World| -> BTreeMap<_, _> {
        let git = world.repo().join(".git");
        let ours = ["objects", "refs", "logs", "worktrees", "packed-refs"].map(|name| git.join(name));
        let mut files = files_under(&world.repo());
        files.retain(|path, _| !ours.iter().any(|ours| path.starts_with(ours)));
        files
    };
    let before = shown(&world);
    assert!(
        before.contains_key(&world.repo().join(".git/HEAD")) && before.contains_key(&world.repo().join(".git/index"))
    );
    let main = world.git().refname_to_id("refs/heads/main").unwrap();

    world.run().expect(0);
    assert_eq!(shown(&world), before);
    assert_eq!(world.git().refname_to_id("refs/heads/main").unwrap(), main);
    assert_eq!(world.git().worktrees().unwrap().len(), 0);
    assert!(!world.state().join("worktrees").read_dir().is_ok_and(|mut left| left.next().is_some()));
    // The branch begins at the commit, not at what lay about.
    let files = world.files_at(BRANCH);
    assert_eq!(files["README.md"], "# A project\n");
    assert!(!files.contains_key("staged.txt") && !files.contains_key("untracked.txt"));
}

#[test]
fn each_milestone_is_one_commit_with_trailers_in_the_users_name() {
    let world = World::new(&(two_files() + &milestone("Another", &["b.js"], &[], &[])), &[]);
    let mut config = world.git().config().unwrap();
    config.set_str("user.name", "Ada").unwrap();
    config.set_str("user.email", "ada@example.org").unwrap();
    // None of these may ask anybody anything.
    config.set_bool("commit.gpgsign", true).unwrap();
    std::fs::create_dir_all(world.repo().join(".git/hooks")).unwrap();
    let hook = world.repo().join(".git/hooks/pre-commit");
    std::fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    let report = world.run().expect(0).json();
    let messages = world.messages(BRANCH);
    assert_eq!(messages.len(), 2);
    let session = report["sessionId"].as_str().unwrap();
    for (at, message) in messages.iter().enumerate() {
        let trailers = git2::message_trailers_strs(message).unwrap();
        let trailers: BTreeMap<_, _> = trailers.iter().collect();
        let number = (at + 1).to_string();
        assert_eq!(
            trailers,
            BTreeMap::from([("Steadfast-Milestone", number.as_str()), ("Steadfast-Session", session)]),
            "{message}"
        );
    }
    assert!(messages[0].starts_with("Write two files\n"), "{}", messages[0]);
    let git = world.git();
    let tip = git.find_branch(BRANCH, git2::BranchType::Local).unwrap().get().peel_to_commit().unwrap();
    assert_eq!((tip.author().name(), tip.author().email()), (Ok("Ada"), Ok("ada@example.org")));
    assert_eq!(tip.parent_count(), 1);
    assert_eq!(report["milestones"][1]["commit"], tip.id().to_string().as_str());
    let files = world.files_at(BRANCH);
    assert!(files.contains_key("a.js") && files.contains_key("b.js") && !files.contains_key("src/old.txt"));
}

#[test]
fn a_branch_name_that_is_taken_gets_a_number_and_the_other_branch_stays() {
    let world = World::new(&two_files(), &[]);
    let git = world.git();
    let head = git.head().unwrap().peel_to_commit().unwrap();
    git.branch(BRANCH, &head, false).unwrap();
    let theirs = world.commit_on(BRANCH, "theirs.txt", "theirs\n");
    let report = world.run().expect(0).json();
    assert_eq!(report["branch"], "steadfast/002-feature-2");
    assert_eq!(git.refname_to_id("refs/heads/steadfast/002-feature").unwrap(), theirs);
    assert!(!world.files_at("steadfast/002-feature-2").contains_key("theirs.txt"));
    // And the next one a higher number.
    assert_eq!(world.run().expect(0).json()["branch"], "steadfast/002-feature-3");
}

#[test]
fn a_foreign_commit_on_the_branch_stops_the_session_with_a_clear_word_and_stays() {
    let script = two_files() + &rule("role = \"reviewer\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let run = world.start_run();
    wait_until("the review", || (!world.asked("reviewer").is_empty()).then_some(()));
    run.signal(rustix::process::Signal::TERM);
    run.output().expect(75);
    let base = world.git().refname_to_id(&format!("refs/heads/{BRANCH}")).unwrap();
    let theirs = world.commit_on(BRANCH, "theirs.txt", "theirs\n");

    let report = world.steadfast(&["resume", "--json"]).expect(1).json();
    assert_eq!((&report["phase"], &report["can_resume"]), (&json!("failed"), &json!(true)));
    let error = report["error"].as_str().unwrap();
    assert!(error.contains(&theirs.to_string()[..10]) && error.contains(BRANCH), "{error}");
    assert_eq!(world.git().refname_to_id(&format!("refs/heads/{BRANCH}")).unwrap(), theirs);

    // As the message says: the branch put back, it goes on.
    world.git().reference(&format!("refs/heads/{BRANCH}"), base, true, "put back").unwrap();
    let report = world.steadfast(&["resume", "002-feature", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "completed");
    assert_eq!(world.asked("coder").len(), 2);
}

#[test]
fn a_foreign_commit_while_it_works_is_not_built_over_either() {
    let script = two_files() + &rule("role = \"reviewer\"", "", "{ generate = \"approve\", delay = \"700ms\" }");
    let world = World::new(&script, &[]);
    let run = world.start_run();
    wait_until("the review", || (!world.asked("reviewer").is_empty()).then_some(()));
    let theirs = world.commit_on(BRANCH, "theirs.txt", "theirs\n");
    let report = run.output().expect(1).json();
    assert_eq!(report["phase"], "failed");
    assert!(report["error"].as_str().unwrap().contains(BRANCH), "{report}");
    assert_eq!(world.git().refname_to_id(&format!("refs/heads/{BRANCH}")).unwrap(), theirs);
}

/// The first `rounds` texts of `a.js` hold the word `broken`.
fn broken_at_first(rounds: u32) -> String {
    milestone("Write", &["a.js", "b.js"], &[], &[])
        + &rule("role = \"coder\", file = \"a.js\"", &format!("first = {rounds}"), "{ file = \"broken\\n\" }")
        + &rule("role = \"coder\", file = \"a.js\"", "", "{ file = \"mended\\n\" }")
}

#[test]
fn a_check_that_fails_leads_to_a_round_of_fixes_that_is_told_what_it_said() {
    // Before any change there is no such file, and the check passes.
    let world = World::new(
        &broken_at_first(1),
        &[("session.checks", "[\"test ! -e a.js || { echo the-reason; ! grep -q broken a.js; }\"]")],
    );
    let output = world.run().expect(0);
    let report = output.json();
    let first = &report["milestones"][0];
    assert_eq!((&first["approved"], &first["status"]), (&json!(true), &json!("completed")));
    assert_eq!(first["checks"][0]["passed"], true);
    assert_eq!(world.files_at(BRANCH)["a.js"], "mended\n");
    assert!(output.stderr.contains("round 1 of fixes"), "{}", output.stderr);
    let fixes: Vec<_> = world.asked("coder").into_iter().skip(2).collect();
    assert!(fixes.iter().any(|fix| fix.file.as_deref() == Some("a.js")));
    assert!(fixes.iter().all(|fix| fix.prompt.as_deref().unwrap().contains("the-reason")));
    assert_eq!(report["issues"], json!([]));
    assert_eq!(world.messages(BRANCH).len(), 1);
}

#[test]
fn what_still_fails_after_the_rounds_is_committed_unapproved_with_an_issue() {
    let world = World::new(
        &broken_at_first(99),
        &[("session.checks", "[\"test ! -e a.js || ! grep -q broken a.js\"]"), ("session.max_review_rounds", "2")],
    );
    let report = world.run().expect(0).json();
    let first = &report["milestones"][0];
    assert_eq!((&first["approved"], &first["checks"][0]["passed"]), (&json!(false), &json!(false)));
    assert_eq!(world.files_at(BRANCH)["a.js"], "broken\n");
    assert_eq!(report["issues"][0]["kind"], "review");
    let asked = world.asked("coder");
    assert_eq!(asked.iter().filter(|request| request.file.as_deref() == Some("a.js")).count(), 3);
}

/// The repository's own test is red, and the idea is there to make it green.
#[test]
fn a_check_that_failed_before_any_change_is_worked_on_until_it_passes() {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &rule("role = \"coder\", prompt = \"failed before anything was changed\"", "", "{ file = \"right\\n\" }")
        + &rule("role = \"coder\"", "", "{ file = \"wrong\\n\" }");
    let world = World::new(&script, &[("session.checks", "[\"grep -q right a.js\"]")]);
    let report = world.run().expect(0).json();
    let first = &report["milestones"][0];
    assert_eq!((&first["approved"], &first["checks"][0]["passed"]), (&json!(true), &json!(true)));
    assert_eq!(world.asked("coder").len(), 2);
    assert_eq!(world.files_at(BRANCH)["a.js"], "right\n");
    assert_eq!(report["issues"], json!([]));
}

#[test]
fn a_check_that_fails_to_the_end_is_committed_unapproved_with_an_issue_whoever_reviews() {
    let reviewer_out = rule("role = \"reviewer\"", "", "{ status = 400 }");
    for script in [two_files(), two_files() + &reviewer_out] {
        let world = World::new(&script, &[("session.checks", "[\"echo always; false\", \"true\"]")]);
        let report = world.run().expect(0).json();
        let first = &report["milestones"][0];
        assert_eq!((&first["approved"], &first["checks"][0]["passed"]), (&json!(false), &json!(false)));
        assert_eq!(report["issues"][0]["kind"], "review");
        // Two rounds of fixes: the two files that models write, and again.
        assert_eq!(world.asked("coder").len(), 6);
        if script.contains("400") {
            let said = first["review"]["issues"].to_string();
            assert!(said.contains("echo always; false"), "{said}");
            assert_eq!(first["review"]["approved"], false);
        }
    }
}

#[test]
fn a_rejected_review_that_names_a_file_has_only_that_one_written_again() {
    let script = milestone("Write", &["a.js", "b.js"], &[], &[])
        + &rule(
            "role = \"reviewer\"",
            "first = 1",
            "{ review = { approved = false, issues = [{ issue = \"Empty names pass.\", file = \"b.js\" }] } }",
        );
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    assert_eq!(report["milestones"][0]["approved"], true);
    let files: Vec<_> = world.asked("coder").into_iter().map(|request| request.file.unwrap()).collect();
    assert_eq!((files.len(), files[2].as_str()), (3, "b.js"));
    assert!(world.asked("coder")[2].prompt.as_deref().unwrap().contains("Empty names pass."));
}

#[test]
fn a_review_that_never_approves_ends_after_its_rounds_with_an_issue() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"reviewer\"", "", "{ generate = \"reject\" }");
    let world = World::new(&script, &[]);
    let report = world.run().expect(0).json();
    assert_eq!(report["milestones"][0]["approved"], false);
    assert_eq!((world.asked("coder").len(), world.asked("reviewer").len()), (3, 3));
    assert_eq!(report["issues"][0]["kind"], "review");
    assert_eq!(world.messages(BRANCH).len(), 1);
}

#[test]
fn checks_see_the_worktree_and_not_the_users_checkout() {
    let world = World::new(&two_files(), &[("session.checks", "[\"test ! -e only-here.txt\"]")]);
    std::fs::write(world.repo().join("only-here.txt"), "").unwrap();
    assert_eq!(world.run().expect(0).json()["milestones"][0]["checks"][0]["passed"], true);
}

#[test]
fn nothing_is_checked_out_where_no_check_needs_it() {
    let made = |checks: &str| {
        let world = World::new(&two_files(), &[("session.checks", checks)]);
        world.run().expect(0);
        (world.files_at(BRANCH), world.state().join("worktrees").exists())
    };
    let (with, without) = (made("[\"true\"]"), made("[]"));
    assert_eq!((with.1, without.1), (true, false));
    assert_eq!(with.0, without.0);
}

/// Two processes with state of their own, on one repository, at the same moment.
#[test]
fn two_sessions_of_one_idea_that_begin_at_once_get_a_branch_each() {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    for turn in 0..4 {
        let of = |n: usize| world.path(&format!("state-{turn}-{n}")).display().to_string();
        let states = [of(0), of(1), of(2)];
        let runs = states
            .each_ref()
            .map(|state| world.start(&["--state-dir", state, "run", "idea.md", "--repo", "repo", "--json"]));
        let mut branches: Vec<String> =
            runs.map(|run| run.output().expect(0).json()["branch"].as_str().unwrap().to_owned()).into_iter().collect();
        branches.sort_unstable();
        branches.dedup();
        assert_eq!(branches.len(), 3, "turn {turn}: {branches:?}");
        for branch in branches {
            assert_eq!(world.messages(&branch).len(), 1, "{branch}");
        }
    }
}

#[test]
fn every_provider_is_told_whom_it_serves() {
    let world = World::new(&milestone("Write", &["src/ä b.txt"], &[], &[]), &[]);
    let report = world.run().expect(0).json();
    let asked = world.sim.requests();
    assert_eq!(asked.len(), 3);
    for request in &asked {
        assert_eq!(request.session.as_deref(), report["sessionId"].as_str());
        assert_eq!(request.idea.as_deref(), Some("002-feature"));
        assert_eq!(request.attempt, Some(1));
        assert!(request.stream);
    }
    let places: Vec<_> = asked.iter().map(|r| (r.role.as_deref().unwrap(), r.milestone, r.file.as_deref())).collect();
    assert_eq!(places[1..], [("coder", Some(1), Some("src/ä b.txt")), ("reviewer", Some(1), None)]);
}

/// Commits everything that lies in the checkout.
fn commit_all(world: &World) {
    let git = world.git();
    let mut index = git.index().unwrap();
    index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
    index.write().unwrap();
    let tree = git.find_tree(index.write_tree().unwrap()).unwrap();
    let who = git2::Signature::now("Somebody", "somebody@example.org").unwrap();
    let head = git.head().unwrap().peel_to_commit().unwrap();
    git.commit(Some("HEAD"), &who, &who, "More", &tree, &[&head]).unwrap();
}

#[test]
fn a_program_stays_executable_and_a_link_is_not_written_through() {
    let world = World::new(&milestone("Change", &["src/new.txt"], &["run.sh", "link.txt"], &[]), &[]);
    std::fs::write(world.repo().join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(world.repo().join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(world.path("outside.txt"), "outside\n").unwrap();
    std::os::unix::fs::symlink(world.path("outside.txt"), world.repo().join("link.txt")).unwrap();
    commit_all(&world);
    let report = world.run().expect(0).json();
    let git = world.git();
    let tree = git.find_branch(BRANCH, git2::BranchType::Local).unwrap().get().peel_to_tree().unwrap();
    let mode = |path: &str| tree.get_path(std::path::Path::new(path)).unwrap().filemode();
    assert_eq!((mode("run.sh"), mode("link.txt")), (0o100_755, 0o120_000));
    assert_ne!(world.files_at(BRANCH)["run.sh"], "#!/bin/sh\n");
    assert_eq!(std::fs::read_to_string(world.path("outside.txt")).unwrap(), "outside\n");
    let link = report["milestones"][0]["files"].as_array().unwrap().iter().find(|file| file["path"] == "link.txt");
    assert_eq!(link.unwrap()["status"], "failed");
}

#[test]
fn search_and_replace_blocks_change_only_what_they_name() {
    let text: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    let blocks = "<<<<<<< SEARCH\\nline 7\\n=======\\nline seven\\n>>>>>>> REPLACE\\n\\n\
                  <<<<<<< SEARCH\\nline 30\\n=======\\n>>>>>>> REPLACE\\n";
    let script = milestone("Change", &[], &["long.txt"], &[])
        + &rule("role = \"coder\"", "", &format!("{{ content = \"{blocks}\" }}"));
    let world = World::new(&script, &[]);
    std::fs::write(world.repo().join("long.txt"), &text).unwrap();
    commit_all(&world);
    world.run().expect(0);
    let expected = text.replace("line 7\n", "line seven\n").replace("line 30\n", "");
    assert_eq!(world.files_at(BRANCH)["long.txt"], expected);
}

#[test]
fn a_block_that_matches_nothing_is_refused_and_the_model_is_told() {
    let script = milestone("Change", &[], &["src/kept.txt"], &[])
        + &rule(
            "role = \"coder\"",
            "first = 1",
            "{ content = \"<<<<<<< SEARCH\\nnowhere\\n=======\\nx\\n>>>>>>> REPLACE\\n\" }",
        );
    let world = World::new(&script, &[]);
    world.run().expect(0);
    let asked = world.asked("coder");
    assert_eq!(asked.len(), 2);
    assert!(asked[1].prompt.as_deref().unwrap().len() > asked[0].prompt.as_deref().unwrap().len());
    assert_ne!(world.files_at(BRANCH)["src/kept.txt"], "kept\n");
}

#[test]
fn a_subfolder_a_detached_head_and_an_odd_name_are_places_to_work_from() {
    let world = World::new(&milestone("Write", &["src/new.txt"], &[], &[]), &[]);
    let odd = world.path("a repo, with ümläuts");
    std::fs::rename(world.repo(), &odd).unwrap();
    let git = git2::Repository::open(&odd).unwrap();
    let head = git.head().unwrap().peel_to_commit().unwrap().id();
    git.set_head_detached(head).unwrap();
    let report = world.steadfast(&["run", "idea.md", "--repo", "a repo, with ümläuts/src", "--json"]).expect(0).json();
    assert_eq!(report["repo"], odd.to_str().unwrap());
    let tip = git.find_branch(BRANCH, git2::BranchType::Local).unwrap().get().peel_to_commit().unwrap();
    assert_eq!(tip.parent_id(0).unwrap(), head);
    assert!(tip.tree().unwrap().get_path(std::path::Path::new("src/new.txt")).is_ok());
    assert!(git.head_detached().unwrap());
}
