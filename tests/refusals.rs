//! Errors for people (SPEC 10): one clear sentence, what to do, exit code 2, and nothing half done.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::{Output, World, files_under, milestone, rule, wait_until};

fn world() -> World {
    World::new(&milestone("Write", &["a.js"], &[], &[]), &[])
}

/// Everything in the world's folder but the program's own state.
fn outside_the_state(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files_under(&world.path(""));
    let state = world.state();
    files.retain(|path, _| !path.starts_with(&state));
    files
}

/// Exit code 2, these words on standard error, nothing on standard output, no call, no session, no change outside.
#[track_caller]
fn refused(world: &World, args: &[&str], words: &[&str]) -> Output {
    let before = outside_the_state(world);
    let output = world.steadfast(args).expect(2);
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} in {}", output.stderr);
    }
    assert_eq!(output.stdout, "");
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert_eq!(world.sim.total(), 0);
    assert_eq!(outside_the_state(world), before);
    if !words.contains(&"--config") {
        let sessions = world.bare(&["sessions", "--json", "--state-dir", world.state().to_str().unwrap()], None);
        assert_eq!(sessions.expect(0).json(), serde_json::json!([]));
    }
    output
}

fn run<'a>(idea: &'a str, repo: &'a str) -> [&'a str; 5] {
    ["run", idea, "--repo", repo, "--json"]
}

#[test]
fn an_idea_that_is_not_there_is_named() {
    refused(&world(), &run("missing.md", "repo"), &["missing.md", "cannot read the idea"]);
}

#[test]
fn a_folder_is_no_idea() {
    refused(&world(), &run("repo", "repo"), &["repo", "folder"]);
}

#[test]
fn an_idea_that_is_empty_binary_or_without_text_is_refused() {
    let world = world();
    for (name, bytes) in [
        ("empty.md", b"".as_slice()),
        ("blank.md", b" \n\n"),
        ("front.md", b"---\nid: 002-x\n---\n"),
        ("binary.md", b"# A\n\xff\xfe\x00"),
    ] {
        std::fs::write(world.path(name), bytes).unwrap();
        refused(&world, &run(name, "repo"), &[name]);
    }
}

#[test]
fn an_id_that_does_not_fit_a_branch_name_is_refused_with_what_fits() {
    let world = world();
    std::fs::write(world.path("bad.md"), "---\nid: Über Alles\n---\n# T\n\nText.\n").unwrap();
    refused(&world, &run("bad.md", "repo"), &["bad.md", "Über Alles"]);
    // The file's name stands in where the text has no id, and is held to the same rule.
    std::fs::write(world.path("Not Fit.md"), "# T\n\nText.\n").unwrap();
    refused(&world, &run("Not Fit.md", "repo"), &["Not Fit"]);
}

#[test]
fn a_switch_in_the_environment_that_is_neither_true_nor_false_is_refused() {
    for name in ["FAIL_PRIMARY", "RESUME"] {
        let mut world = world();
        world.env.insert(name.to_owned(), "yess".to_owned());
        refused(&world, &run("idea.md", "repo"), &[name, "yess", "true"]);
        world.env.insert(name.to_owned(), "0".to_owned());
        world.steadfast(&run("idea.md", "repo")).expect(0);
    }
}

#[test]
fn no_idea_at_all_is_asked_for() {
    refused(&world(), &["run", "--repo", "repo"], &["IDEA.md"]);
}

#[test]
fn a_folder_that_is_no_repository_is_named() {
    let world = world();
    std::fs::create_dir(world.path("plain")).unwrap();
    refused(&world, &run("idea.md", "plain"), &["plain", "repository"]);
    refused(&world, &run("idea.md", "nowhere"), &["nowhere"]);
    refused(&world, &run("idea.md", "idea.md"), &["idea.md"]);
}

#[test]
fn a_repository_without_a_commit_has_nothing_to_begin_from() {
    let world = world();
    git2::Repository::init(world.path("new")).unwrap();
    refused(&world, &run("idea.md", "new"), &["new", "commit"]);
}

#[test]
fn a_bare_repository_is_worked_on_or_refused_but_not_half_begun() {
    let world = world();
    git2::Repository::init_bare(world.path("bare.git")).unwrap();
    refused(&world, &run("idea.md", "bare.git"), &["bare.git"]);
}

#[test]
fn an_unknown_key_is_shown_with_its_file_its_line_and_the_nearest_one() {
    let mut world = world();
    world.configure("[failover2]\nfailure_treshold = 3");
    refused(&world, &run("idea.md", "repo"), &["steadfast.toml", "failover2", "failover"]);
    let lines = std::fs::read_to_string(world.path("steadfast.toml")).unwrap();
    let line = 1 + lines.lines().position(|line| line.starts_with("[failover2]")).unwrap();
    let output = refused(&world, &["config", "check"], &["--config"][..0]);
    assert!(output.stderr.contains(&format!("steadfast.toml:{line}")), "{}", output.stderr);
}

#[test]
fn a_misspelt_key_inside_a_table_is_shown_with_the_nearest_one() {
    let world = World::new("", &[("session.max_parallel_agnets", "3")]);
    let output =
        refused(&world, &run("idea.md", "repo"), &["max_parallel_agnets", "max_parallel_agents", "steadfast.toml:"]);
    assert!(output.stderr.lines().count() <= 6, "{}", output.stderr);
}

#[test]
fn broken_toml_wrong_kinds_and_unknown_names_are_configuration_errors() {
    for (settings, words) in [
        (("failover.failure_threshold", "\"three\""), ["failure_threshold", "steadfast.toml"]),
        (("failover.failure_threshold", "0"), ["failure_threshold", "steadfast.toml"]),
        (("failover.reset_timeout", "\"5 parsecs\""), ["reset_timeout", "parsecs"]),
        (("failover.reset_timeout", "60"), ["reset_timeout", "unit"]),
        (("roles.coder", "[]"), ["coder", "steadfast.toml"]),
        (("roles.coder", "[\"smi/one\"]"), ["smi", "sim"]),
        (("roles.coder", "[\"sim/one\", \"sim/one\"]"), ["sim/one", "twice"]),
        (("failover.min_success_rate", "1.5"), ["min_success_rate", "1"]),
        (("failover.preset", "\"agressive\""), ["agressive", "aggressive"]),
    ] {
        let world = World::new("", &[settings]);
        refused(&world, &run("idea.md", "repo"), &words);
    }
    let mut world = world();
    world.configure("this is = = no toml");
    refused(&world, &run("idea.md", "repo"), &["steadfast.toml:"]);
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let world = world();
    let output = world.bare(&["config", "check", "--config", "not-there.toml"], None).expect(2);
    assert!(output.stderr.contains("not-there.toml"), "{}", output.stderr);
}

#[test]
fn a_missing_key_is_refused_unless_degraded_work_is_allowed() {
    let mut world = World::new("", &[("roles.planner", "[\"keyed/plan\"]")]);
    world.configure(&format!(
        "providers.keyed = {{ kind = \"openai\", base_url = {:?}, api_key_env = \"KEYED_API_KEY\" }}",
        world.sim.base_url()
    ));
    refused(&world, &run("idea.md", "repo"), &["planner", "keyed/plan", "KEYED_API_KEY", "--allow-degraded"]);
    let mut args = run("idea.md", "repo").to_vec();
    args.push("--allow-degraded");
    let report = world.steadfast(&args).expect(0).json();
    assert_eq!(report["degraded"], true);
    assert_eq!(report["milestones"][0]["name"], "Analyze requirements");
    assert!(world.asked("planner").is_empty());
}

#[test]
fn one_callable_model_a_role_is_enough() {
    let mut world =
        World::new(&milestone("Write", &["a.js"], &[], &[]), &[("roles.planner", "[\"keyed/plan\", \"sim/plan\"]")]);
    world.configure("providers.keyed = { kind = \"openai\", base_url = \"http://127.0.0.1:9/v1\", api_key_env = \"KEYED_API_KEY\" }");
    assert_eq!(world.run().expect(0).json()["degraded"], false);
}

#[test]
fn words_that_the_command_line_does_not_know_are_refused() {
    let world = world();
    for (args, word) in [
        (&["walk"][..], "walk"),
        (&["run", "idea.md", "--rebo", "repo"], "--rebo"),
        (&["sessions", "--limit", "many"], "many"),
        (&["status", "--preset", "reckless"], "reckless"),
        (&["sim", "--listen", "nowhere"], "nowhere"),
        (&["show"], "ID"),
        (&[], "Usage"),
    ] {
        let output = world.bare(args, None).expect(2);
        assert!(output.stderr.contains(word), "{word} in {}", output.stderr);
        assert_eq!(output.stdout, "");
    }
}

#[test]
fn sessions_models_and_daemons_that_are_not_there_are_named() {
    let world = world();
    for (args, code, word) in [
        (&["show", "002-feature"][..], 2, "002-feature"),
        (&["show", "../../etc/passwd"], 2, "passwd"),
        (&["cancel", "002-feature"], 2, "002-feature"),
        (&["retry", "002-feature"], 2, "002-feature"),
        (&["resume", "002-feature"], 2, "002-feature"),
        (&["resume"], 2, "no session"),
        (&["breaker", "reset", "sim/no-such"], 2, "sim/one"),
        (&["breaker", "reset", "nonsense"], 2, "nonsense"),
        (&["submit", "idea.md", "--repo", "repo"], 1, "steadfast daemon"),
    ] {
        let output = world.steadfast(args).expect(code);
        assert!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
    }
}

#[test]
fn a_daemon_beside_a_session_in_the_foreground_waits_and_then_says_who_holds_the_store() {
    let world = World::new(&rule("", "", "{ fault = \"hang\" }"), &[]);
    let mut first = world.start_run();
    wait_until("a call", || (world.sim.total() == 1).then_some(()));
    let daemon = world.start(&["daemon"]).output().expect(1);
    assert!(daemon.stderr.contains("cannot open the store"), "{}", daemon.stderr);
    assert!(daemon.stderr.contains("process") || daemon.stderr.contains("lock"), "{}", daemon.stderr);
    assert_eq!(world.sim.total(), 1);
    assert!(!first.has_ended());
    first.signal(rustix::process::Signal::TERM);
    first.output().expect(75);
}

#[test]
fn a_command_that_only_looks_gets_the_store_as_soon_as_it_is_free() {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    world.run().expect(0);
    // A process that holds the store and does not answer: one that starts, or ends.
    let lock = std::fs::File::open(world.state().join("store/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let look = world.start(&["sessions", "--json"]);
    // It looks again and again, and rests in between.
    wait_until("it waits", || (look.rests() >= 20).then_some(()));
    drop(lock);
    assert_eq!(look.output().expect(0).json()[0]["phase"], "completed");
}

#[test]
fn checks_that_want_a_sandbox_do_not_start_without_one() {
    let mut world = World::new("", &[("session.checks", "[\"true\"]"), ("session.checks_sandbox", "\"bwrap\"")]);
    std::fs::create_dir(world.path("empty")).unwrap();
    world.env.insert("PATH".to_owned(), world.path("empty").display().to_string());
    refused(&world, &run("idea.md", "repo"), &["bwrap", "checks_sandbox"]);
}
