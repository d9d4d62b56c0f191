//! Issues on GitHub, from the failed file to the filed issue, across refusals, outages and kills.

use axum::http::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::github_server::{GithubServer, REPOSITORY, Turn};
use crate::support::{World, milestone, rule, wait_until, within_runtime};

const TOKEN: &str = "github_pat_11AAAAAAA0123456789abcdef";

/// Two files of three are written; the third is an issue.
fn third_file_fails() -> String {
    milestone("Write", &["a.js", "b.js", "c.js"], &[], &[])
        + &rule("role = \"coder\", file = \"c.js\"", "", "{ status = 400 }")
}

/// A world whose issues go to a GitHub of its own.
fn with_github(script: &str, settings: &[(&str, &str)]) -> (World, GithubServer) {
    let server = within_runtime(GithubServer::start);
    let mut world = World::new(script, settings);
    world.configure(&format!(
        "[issues]\ntracker = \"github\"\nrepository = {REPOSITORY:?}\ntoken_env = \"GITHUB_TOKEN\"\napi_url = {:?}\n\
         assignee = \"ada\"\nlabels = [\"steadfast\"]",
        server.api_url()
    ));
    world.env.insert("GITHUB_TOKEN".to_owned(), TOKEN.to_owned());
    (world, server)
}

#[test]
fn a_failed_file_becomes_one_issue_on_github() {
    let (world, server) = with_github(&third_file_fails(), &[]);
    let report = world.run().expect(0).json();
    let issues = server.issues();
    assert_eq!(issues.len(), 1);
    assert_eq!(issues[0]["title"], "[002-feature] Write c.js by hand");
    assert_eq!(
        (&issues[0]["assignees"][0]["login"], &issues[0]["labels"][0]["name"]),
        (&json!("ada"), &json!("steadfast"))
    );
    assert_eq!(report["issues"][0]["url"], issues[0]["html_url"]);
    assert_eq!(server.count(&Method::POST, "/issues"), 1);
    assert!(!world.state().join("issues").exists());
}

/// The process dies after the effect and before its receipt.
#[test]
fn a_kill_between_the_filing_and_its_receipt_files_nothing_twice() {
    let (world, server) = with_github(&third_file_fails(), &[]);
    server.next(Method::POST, Turn::DoneButSilent);
    let running = world.start_run();
    wait_until("the filing", || (server.issues().len() == 1).then_some(()));
    running.signal(Signal::KILL);
    let _ = running.end();
    // A daemon takes the session and its issue up.
    let daemon = world.start_daemon();
    let report = wait_until("the receipt", || {
        let report = world.steadfast(&["show", "002-feature", "--json"]).expect(0).json();
        (report["phase"] == "completed" && report["issues"][0]["delivered"] == true).then_some(report)
    });
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    assert_eq!(report["issues"][0]["url"], server.issues()[0]["html_url"]);
    assert_eq!((server.issues().len(), server.count(&Method::POST, "/issues")), (1, 1));
}

#[test]
fn a_missing_token_is_told_before_anything_begins() {
    let (mut world, server) = with_github(&third_file_fails(), &[]);
    world.env.remove("GITHUB_TOKEN");
    for args in [&["run", "idea.md", "--repo", "repo"][..], &["daemon"], &["config", "check"]] {
        let output = world.steadfast(args).expect(2);
        assert_eq!(
            output.stderr.trim_end(),
            "error: issues.tracker \"github\" cannot be used: environment variable GITHUB_TOKEN is not set"
        );
    }
    assert_eq!(world.sim.total(), 0);
    // Whoever only looks needs none.
    world.steadfast(&["status"]).expect(0);
    // A file and systemd's credential hold one as well.
    std::fs::create_dir(world.path("credentials")).unwrap();
    std::fs::write(world.path("credentials/issues-token"), TOKEN).unwrap();
    world.env.insert("CREDENTIALS_DIRECTORY".to_owned(), world.path("credentials").display().to_string());
    world.run().expect(0);
    assert_eq!(server.issues().len(), 1);
    let authorization = server.asked()[0].headers["authorization"].to_str().unwrap().to_owned();
    assert_eq!(authorization, format!("Bearer {TOKEN}"));
}
