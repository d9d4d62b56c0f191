//! Issues on GitHub, from the failed file to the filed issue, across refusals, outages and kills.

use axum::http::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::github_server::{GithubServer, REPOSITORY, Turn};
use crate::support::{World, files_under, milestone, rule, wait_until, within_runtime};

const TOKEN: &str = "github_pat_11AAAAAAA0123456789abcdef";

/// Two files of three are written; the third is an issue.
fn third_file_fails() -> String {
    milestone("Write", &["a.js", "b.js", "c.js"], &[], &[])
        + &rule("role = \"coder\", file = \"c.js\"", "", "{ status = 400 }")
}

/// A world whose issues go to a GitHub of its own.
pub(crate) fn with_github(script: &str, settings: &[(&str, &str)]) -> (World, GithubServer) {
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

/// A session that stops after its third call, and its open issue.
fn stopped() -> (World, GithubServer) {
    let (world, server) = with_github(&milestone("Write", &["a.js", "b.js"], &[], &[]), &[("session.max_calls", "3")]);
    world.run().expect(75);
    assert_eq!((server.issues().len(), &server.issues()[0]["state"]), (1, &json!("open")));
    (world, server)
}

#[test]
fn a_recovery_issue_on_github_is_filed_once_and_closed_with_a_comment_when_the_session_has_gone_on() {
    let (mut world, server) = stopped();
    world.steadfast(&["resume"]).expect(75);
    assert_eq!(server.issues().len(), 1);
    world.env.insert("STEADFAST_SESSION__MAX_CALLS".to_owned(), "9".to_owned());
    world.steadfast(&["resume"]).expect(0);
    assert_eq!(server.issues()[0]["state"], "closed");
    let comments = server.comments(1);
    assert_eq!(comments.len(), 1);
    assert!(comments[0].contains("has gone on"), "{comments:?}");
    let list = world.steadfast(&["outbox", "list", "--json"]).expect(0).json();
    assert_eq!((&list[1]["kind"], &list[1]["delivered"]), (&json!("closing"), &json!(true)));
}

#[test]
fn a_kill_between_the_comment_and_its_receipt_comments_nothing_twice() {
    let (mut world, server) = stopped();
    world.env.insert("STEADFAST_SESSION__MAX_CALLS".to_owned(), "9".to_owned());
    server.next(Method::POST, Turn::DoneButSilent);
    let running = world.start(&["resume"]);
    wait_until("the comment", || (server.comments(1).len() == 1).then_some(()));
    running.signal(Signal::KILL);
    let _ = running.end();
    let daemon = world.start_daemon();
    wait_until("the closing", || (server.issues()[0]["state"] == "closed").then_some(()));
    wait_until("its receipt", || (world.status()["outbox"]["undelivered"] == 0).then_some(()));
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    assert_eq!(server.comments(1).len(), 1);
}

#[test]
fn what_github_refuses_waits_with_its_reason_and_is_flushed_when_that_is_mended() {
    let (world, server) = with_github(&third_file_fails(), &[]);
    let refusal = || Turn::answer(403, &[], json!({ "message": "Resource not accessible by personal access token" }));
    server.next(Method::POST, refusal());
    world.run().expect(0);
    let list = world.steadfast(&["outbox", "list"]).expect(0).stdout;
    assert!(list.contains("not delivered yet: the token may not do this in acme/widgets"), "{list}");
    // By itself, refused once more.
    server.next(Method::POST, refusal());
    let flushed = world.steadfast(&["outbox", "flush", "--json"]).expect(1).json();
    assert_eq!(flushed[0]["delivered"], false);
    assert!(flushed[0]["error"].as_str().unwrap().contains("read and write issues"), "{flushed}");
    // Through a daemon, whose own first try is refused.
    server.next(Method::POST, refusal());
    let daemon = world.start_daemon();
    wait_until("the first try", || (server.count(&Method::POST, "/issues") == 3).then_some(()));
    let flushed = wait_until("the delivery", || {
        let flushed = world.steadfast(&["outbox", "flush", "--json"]);
        flushed.status.success().then(|| flushed.json())
    });
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    assert_eq!(flushed[0]["url"], server.issues()[0]["html_url"]);
    assert_eq!(server.issues().len(), 1);
    let nothing = world.steadfast(&["outbox", "flush"]).expect(0);
    assert_eq!(nothing.stdout, "nothing waits for delivery\n");
}

#[test]
fn an_outage_of_github_is_waited_out_and_nothing_is_filed_twice() {
    let (world, server) = with_github(&third_file_fails(), &[]);
    server.next(Method::POST, Turn::answer(503, &[], json!({})));
    server.next(Method::POST, Turn::DoneButFails);
    let daemon = world.start_daemon();
    world.run().expect(0);
    wait_until("the receipt", || (world.status()["outbox"]["undelivered"] == 0).then_some(()));
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    assert_eq!((server.issues().len(), server.count(&Method::POST, "/issues")), (1, 2));
}

#[test]
fn the_token_is_in_no_output_and_no_record() {
    let (world, server) = with_github(&third_file_fails(), &[]);
    let thrown_back = json!({ "message": format!("Bad credentials: {TOKEN}") });
    server.next(Method::POST, Turn::answer(401, &[("x-echo", TOKEN)], thrown_back));
    let ran = world.steadfast(&["run", "idea.md", "--repo", "repo", "--log", "trace"]).expect(0);
    assert!(ran.stderr.contains("refuses the token"), "{}", ran.stderr);
    let listed = world.steadfast(&["outbox", "list", "--log", "trace"]).expect(0);
    let flushed = world.steadfast(&["outbox", "flush", "--log", "trace"]).expect(0);
    for output in [ran, listed, flushed] {
        assert!(!output.stdout.contains(TOKEN) && !output.stderr.contains(TOKEN), "{output:?}");
    }
    for (path, bytes) in files_under(&world.state()) {
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "{}", path.display());
    }
}
