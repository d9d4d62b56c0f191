//! `doctor`: what answers, what does not, and what to do about it.

use axum::http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::github_server::{GithubServer, REPOSITORY, Turn};
use crate::support::{DeadPort, Output, World, files_under, within_runtime};

const KEY: &str = "sk-0123456789-hunter2";

/// A server that wants a key and lists its models.
const CLOSED: &str = "models = [\"plan\", \"one\", \"two\", \"review\"]\napi_key = \"sk-0123456789-hunter2\"\n";

fn with_key(script: &str) -> World {
    let mut world = World::new(script, &[]);
    world.configure("providers.sim.api_key_env = \"SIM_KEY\"");
    world.env.insert("SIM_KEY".to_owned(), KEY.to_owned());
    world
}

/// The finding on one thing.
#[track_caller]
fn finding<'a>(report: &'a Value, check: &str, name: Option<&str>) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|one| one["check"] == check && name.is_none_or(|name| one["name"] == name));
    found.unwrap_or_else(|| panic!("no {check} in {report:#}"))
}

#[track_caller]
fn assert_says(report: &Value, check: &str, name: Option<&str>, result: &str, words: &[&str]) {
    let finding = finding(report, check, name);
    assert_eq!(finding["result"], result, "{finding:#}");
    for word in words {
        assert!(finding.to_string().contains(word), "{word:?} in {finding:#}");
    }
}

fn report(world: &World, code: i32) -> Value {
    let output = world.steadfast(&["doctor", "--json"]).expect(code);
    assert!(!output.stdout.contains("hunter2") && !output.stderr.contains("hunter2"), "{output:?}");
    output.json()
}

#[test]
fn a_list_behind_the_key_tells_of_every_model_at_no_cost() {
    let world = with_key(CLOSED);
    let before = files_under(&world.path(""));
    let Output { stdout, .. } = world.steadfast(&["doctor", "--repo", "repo"]).expect(0);
    for line in [
        "ok    configuration: valid",
        "ok    key sim: is there",
        "ok    model sim/one: its provider at 127.0.0.1 lists it and takes the key; this cost nothing",
        "ok    git: libgit2 ",
        "ok    repository repo: at commit ",
        "ok    store: none yet",
        "ok    disk: ",
        "ok    memory: ",
        "ok    sandbox: none is needed",
        "ok    issues: are files in ",
        "ok    alerts: no webhook is configured",
    ] {
        assert!(stdout.lines().any(|found| found.starts_with(line)), "{line:?} in\n{stdout}");
    }
    assert_eq!(stdout.lines().filter(|line| line.contains(" model ")).count(), 4);
    assert!(!stdout.contains("hunter2"));
    assert_eq!(world.sim.total(), 0);
    // Not even a store is made by looking for one.
    assert_eq!(files_under(&world.path("")), before);
}

#[test]
fn a_list_that_everybody_sees_says_nothing_of_the_key_so_each_model_is_asked_for_a_word() {
    let mut world = with_key("models = [\"plan\", \"one\", \"two\", \"review\"]\n");
    world.configure("models.\"sim/one\".price = { input = 1.0, output = 2.0 }");
    let report = report(&world, 0);
    assert_eq!(report["ok"], true);
    assert_says(&report, "model", Some("sim/plan"), "ok", &["answers at 127.0.0.1; this cost ", " tokens"]);
    assert_says(&report, "model", Some("sim/one"), "ok", &["at its price"]);
    let asked = world.sim.requests();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|request| request.idea.as_deref() == Some("doctor")));
}

#[test]
fn what_does_not_answer_is_named_with_what_to_do_and_ends_with_code_1() {
    let mut world = with_key(CLOSED);
    let dead = DeadPort::reserve();
    world.configure(&format!(
        "providers.gone.kind = \"openai\"\nproviders.gone.base_url = {:?}\nproviders.empty.kind = \"openai\"\n\
         providers.empty.base_url = {:?}\nproviders.empty.api_key_env = \"NOT_SET\"\n[alerts]\nwebhook = {:?}",
        dead.base_url(),
        world.sim.base_url(),
        dead.base_url() + "/hunter2",
    ));
    world.replace("[\"sim/one\", \"sim/two\"]", "[\"gone/a\", \"empty/b\", \"sim/strange\", \"sim/one\"]");
    let found = report(&world, 1);
    assert_eq!(found["ok"], false);
    assert_says(&found, "model", Some("gone/a"), "fail", &["no connection", "check that the server runs"]);
    assert_says(&found, "key", Some("empty"), "fail", &["NOT_SET is not set", "api_key_env"]);
    assert_says(&found, "model", Some("empty/b"), "fail", &["not asked: environment variable NOT_SET"]);
    // The list does not have it, so it is asked, and refuses.
    assert_says(&found, "model", Some("sim/strange"), "fail", &["404", "check the model's name"]);
    assert_says(&found, "model", Some("sim/one"), "ok", &["lists it"]);
    assert_says(&found, "alerts", None, "fail", &["no connection to 127.0.0.1", "check webhook"]);
    world.env.insert("SIM_KEY".to_owned(), "sk-another-hunter2".to_owned());
    let found = report(&world, 1);
    assert_says(&found, "model", Some("sim/one"), "fail", &["401", "check the key of [providers.sim]"]);
    // A configuration that is wrong is told as by every command.
    world.configure("[nonsense]");
    let refused = world.steadfast(&["doctor", "--json"]).expect(2);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("nonsense"), "{refused:?}");
}

#[test]
fn a_running_daemon_is_asked_for_its_store_and_its_breakers_and_they_do_not_move() {
    let script = "models = [\"plan\", \"one\", \"two\", \"review\"]\n\
                  [[rule]]\nmatch = { model = \"one\" }\nfirst = 1\nthen = { status = 401 }\n";
    let world = World::new(script, &[]);
    let daemon = world.start_daemon();
    world.steadfast(&["submit", "idea.md", "--repo", "repo", "--follow"]).expect(0);
    assert_eq!(world.coder_breaker(0), "OPEN");
    let asked = world.sim.total();
    let found = report(&world, 0);
    assert_says(&found, "daemon", None, "ok", &["it runs"]);
    assert_says(&found, "store", None, "ok", &["sound"]);
    assert_says(&found, "model", Some("sim/one"), "warn", &["its breaker is OPEN", "breaker reset sim/one"]);
    assert_eq!((world.coder_breaker(0).as_str(), world.sim.total()), ("OPEN", asked));
    daemon.signal(Signal::TERM);
    let _ = daemon.end();
    // The same store, read by the command itself.
    let found = report(&world, 0);
    assert_says(&found, "store", None, "ok", &["sound"]);
    assert!(!finding(&found, "daemon", None)["message"].as_str().unwrap().contains("it runs"), "{found:#}");
}

#[test]
fn damage_short_disk_and_a_repository_without_commits_are_failures() {
    let mut world = World::new("", &[]);
    world.run().expect(0);
    std::fs::write(world.state().join("store/sled/db"), "").unwrap();
    world.configure("daemon.min_free_disk = \"900 TiB\"");
    std::fs::create_dir(world.path("nothing")).unwrap();
    let output = world.steadfast(&["doctor", "--json", "--repo", "nothing"]).expect(1);
    let found = output.json();
    assert_says(&found, "disk", None, "fail", &["min_free_disk asks for", "steadfast prune"]);
    assert_says(&found, "repository", Some("nothing"), "fail", &["nothing"]);
    assert_says(&found, "store", None, "fail", &["not sound", "steadfast store check"]);
}

#[test]
fn github_is_asked_for_the_repository_and_nothing_is_filed() {
    let server = within_runtime(GithubServer::start);
    let mut world = World::new("", &[]);
    world.configure(&format!(
        "[issues]\ntracker = \"github\"\nrepository = {REPOSITORY:?}\ntoken_env = \"GITHUB_TOKEN\"\napi_url = {:?}",
        server.api_url()
    ));
    assert_says(&report(&world, 1), "issues", None, "fail", &["GITHUB_TOKEN is not set"]);
    world.env.insert("GITHUB_TOKEN".to_owned(), "github_pat_hunter2".to_owned());
    let place = json!({ "has_issues": true, "archived": false, "private": true, "permissions": { "push": true } });
    server.next(Method::GET, Turn::answer(200, &[], place));
    assert_says(&report(&world, 0), "issues", None, "ok", &[REPOSITORY, "none was filed"]);
    server.next(Method::GET, Turn::answer(401, &[], json!({ "message": "Bad credentials" })));
    assert_says(&report(&world, 1), "issues", None, "fail", &["give a valid one"]);
    assert!(server.issues().is_empty());
}
