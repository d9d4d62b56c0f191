//! Against a server on the loopback interface that answers as GitHub was recorded to.

#[path = "../../../../tests/github_server.rs"]
#[allow(dead_code, reason = "the tests of the whole program use the rest of it")]
mod server;

use std::time::SystemTime;

use reqwest::Method;
use serde_json::json;

use self::server::{Asked, GithubServer, REPOSITORY, Turn, recorded};
use super::*;
use crate::{IssueKind, Retry};

const TOKEN: &str = "github_pat_11AAAAAAA0123456789abcdef";

fn tracker(server: &GithubServer) -> GithubTracker {
    let settings = GithubSettings {
        api_url: server.api_url(),
        repository: REPOSITORY.to_owned(),
        token: SecretString::from(TOKEN),
    };
    let api = Api::new(&settings.api_url, &settings.token).unwrap();
    let inner =
        Inner { api, repository: settings.repository, turn: tokio::sync::Mutex::default(), lag: Duration::ZERO };
    GithubTracker { inner: Arc::new(inner) }
}

fn issue(key: &str) -> Issue {
    Issue {
        key: key.to_owned(),
        kind: IssueKind::FailedFile,
        title: "[002-feature] Write users.js by hand".to_owned(),
        body: "All models failed.".to_owned(),
        labels: vec!["steadfast".to_owned()],
        assignee: Some("ada".to_owned()),
    }
}

fn again() -> Tried {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Tried::Perhaps { since_ms: now.as_millis() as u64 }
}

fn posts(server: &GithubServer) -> Vec<Asked> {
    server.asked().into_iter().filter(|asked| asked.method == Method::POST).collect()
}

#[tokio::test]
async fn an_issue_is_created_with_title_labels_assignee_body_and_its_key() {
    let server = GithubServer::start();
    let filed = tracker(&server).file(issue("s1-m1-file0"), Tried::Never).await.unwrap();
    let made = &server.issues()[0];
    assert_eq!((filed.url.as_str(), filed.found, filed.note), (made["html_url"].as_str().unwrap(), false, None));
    assert_eq!(made["title"], "[002-feature] Write users.js by hand");
    assert_eq!(made["body"], "<!-- steadfast-key: s1-m1-file0 -->\nAll models failed.");
    assert_eq!((&made["labels"][0]["name"], &made["assignees"][0]["login"]), (&json!("steadfast"), &json!("ada")));
    // A first try has nothing to look for.
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    let header = |name: &str| asked[0].headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("authorization"), format!("Bearer {TOKEN}"));
    assert_eq!(header("accept"), "application/vnd.github+json");
    assert!(header("user-agent").starts_with("steadfast/"));
}

#[tokio::test]
async fn the_recorded_answers_of_github_read() {
    let read = |name: &str| recorded(name)["response"].clone();
    let created: Shown = serde_json::from_value(read("issue-created")).unwrap();
    assert_eq!((created.state.as_str(), created.body), ("open", None));
    let listed: Vec<Shown> = serde_json::from_value(read("issues-page-1")).unwrap();
    assert_eq!(listed.len(), 1);
    let labels: Vec<Label> = serde_json::from_value(read("labels-added")).unwrap();
    assert_eq!(labels[0].name(), "Foo");
}

#[tokio::test]
async fn a_second_try_finds_what_the_first_one_filed_although_it_failed() {
    let server = GithubServer::start();
    server.next(Method::POST, Turn::DoneButFails);
    let tracker = tracker(&server);
    let error = tracker.file(issue("k1"), Tried::Never).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Soon);
    let found = tracker.file(issue("k1"), again()).await.unwrap();
    assert!(found.found);
    assert_eq!(found.url, server.issues()[0]["html_url"].as_str().unwrap());
    assert_eq!(server.issues().len(), 1);
    // Another key is not taken for it, also one that it begins with.
    assert!(!tracker.file(issue("k"), again()).await.unwrap().found);
}

#[tokio::test]
async fn a_key_is_looked_for_on_every_page_of_all_issues_closed_ones_too() {
    let server = GithubServer::start();
    server.page_size(2);
    let tracker = tracker(&server);
    tracker.file(issue("k1"), Tried::Never).await.unwrap();
    server.change(1, "state", json!("closed"));
    for n in 0..6 {
        server.file(&format!("Somebody's {n}"), "Something else.");
    }
    assert!(tracker.file(issue("k1"), again()).await.unwrap().found);
    let lists: Vec<Asked> = server.asked().into_iter().filter(|asked| asked.method == Method::GET).collect();
    assert_eq!(lists.len(), 4);
    let query = |name: &str| lists[0].query[name].clone();
    assert_eq!((query("state"), query("sort")), ("all".to_owned(), "created".to_owned()));
    assert!(lists.iter().all(|asked| asked.query.contains_key("since") && !asked.query.contains_key("labels")));
}

/// A body may quote a model, and whoever may file an issue may write what he likes into it.
#[tokio::test]
async fn a_key_further_down_in_a_text_or_in_a_pull_request_is_not_taken_for_the_issue() {
    let server = GithubServer::start();
    let forged = issue("k1").marker();
    server.file("Quotes it", &format!("Look:\n{forged}"));
    let number = server.file("A pull request", &forged);
    server.change(number, "pull_request", json!({ "url": "…" }));
    assert!(!tracker(&server).file(issue("k1"), again()).await.unwrap().found);
    assert_eq!(server.issues().len(), 3);
}

#[tokio::test]
async fn what_was_decided_by_a_clock_that_runs_far_ahead_is_found_all_the_same() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    tracker.file(issue("k1"), Tried::Never).await.unwrap();
    let far = Tried::Perhaps { since_ms: 4_000_000_000_000 };
    assert!(tracker.file(issue("k1"), far).await.unwrap().found);
}

#[tokio::test]
async fn an_assignee_or_label_that_github_refuses_does_not_lose_the_issue() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    let nobody = Issue { assignee: Some("nobody".to_owned()), ..issue("k1") };
    let filed = tracker.file(nobody, Tried::Never).await.unwrap();
    assert_eq!(filed.note.as_deref(), Some("GitHub did not accept the assignee nobody"));
    let made = &server.issues()[0];
    assert_eq!((&made["assignees"], &made["labels"][0]["name"]), (&json!([]), &json!("steadfast")));
    let text = made["body"].as_str().unwrap();
    assert!(text.starts_with(&issue("k1").marker()) && text.contains("> GitHub did not accept the assignee nobody."));

    let labels = Issue { labels: vec!["x".repeat(51)], ..issue("k2") };
    let filed = tracker.file(labels, Tried::Never).await.unwrap();
    assert!(filed.note.unwrap().contains("the label(s) xxx"));
    assert_eq!(server.issues()[1]["assignees"][0]["login"], "ada");

    let both = Issue { labels: vec!["x".repeat(51)], assignee: Some("nobody".to_owned()), ..issue("k3") };
    tracker.file(both, Tried::Never).await.unwrap();
    assert_eq!((server.issues().len(), posts(&server).len()), (3, 6));
}

#[tokio::test]
async fn a_422_that_names_nothing_known_drops_all_extras_and_then_is_a_refusal() {
    let server = GithubServer::start();
    let refusal = || Turn::answer(422, &[], recorded("validation-failed")["response"].clone());
    let strange = || Turn::answer(422, &[], json!({ "message": "Validation Failed", "errors": ["no"] }));
    server.next(Method::POST, strange());
    assert!(tracker(&server).file(issue("k1"), Tried::Never).await.unwrap().note.is_some());
    // The recorded one is about a label; then nothing is left that could be dropped.
    for turn in [refusal(), strange(), strange()] {
        server.next(Method::POST, turn);
    }
    let error = tracker(&server).file(issue("k2"), Tried::Never).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Slowly);
    assert!(error.to_string().contains("422 Validation Failed"), "{error}");
}

#[tokio::test]
async fn what_github_drops_without_a_word_is_told() {
    let server = GithubServer::start();
    server.drop_extras();
    let filed = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap();
    let note = "GitHub dropped the assignee ada and the label steadfast: the token may not set it";
    assert_eq!(filed.note.as_deref(), Some(note));
}

#[tokio::test]
async fn bodies_and_titles_are_bounded_and_keep_their_key() {
    let server = GithubServer::start();
    for (key, text) in [("k1", "é".repeat(70_000)), ("k2", "🦀".repeat(40_000)), ("k3", "x".repeat(65_000))] {
        let long = Issue { body: text, title: "ö".repeat(300), ..issue(key) };
        tracker(&server).file(long, Tried::Never).await.unwrap();
        assert!(tracker(&server).file(issue(key), again()).await.unwrap().found);
    }
    let bodies: Vec<String> = server.issues().iter().map(|issue| issue["body"].as_str().unwrap().to_owned()).collect();
    assert!(bodies.iter().all(|body| units(body) <= MAX_BODY_CHARS));
    assert_eq!(bodies.iter().map(|body| body.contains("is cut")).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(units(&bodies[0]), MAX_BODY_CHARS);
}

#[tokio::test]
async fn what_a_model_wrote_calls_nobody() {
    let server = GithubServer::start();
    let calls = "@octocat, look (@acme/admins): `@app.route`, mail a@b.c, 5 @ 3\n@x".to_owned();
    tracker(&server).file(Issue { body: calls, ..issue("k1") }, Tried::Never).await.unwrap();
    let body = server.issues()[0]["body"].as_str().unwrap().to_owned();
    let quiet = "@\u{200b}octocat, look (@\u{200b}acme/admins): `@\u{200b}app.route`, mail a@b.c, 5 @ 3\n@\u{200b}x";
    assert_eq!(body.split_once('\n').unwrap().1, quiet);
}

#[tokio::test]
async fn refusals_say_what_to_do_and_are_tried_seldom() {
    for (status, said, words) in [
        (401, "Bad credentials", "refuses the token (401 Bad credentials)"),
        (403, "Resource not accessible by personal access token", "read and write issues"),
        (404, "Not Found", "no repository acme/widgets"),
        (410, "Issues are disabled for this repo", "switched off"),
    ] {
        let server = GithubServer::start();
        server
            .next(Method::POST, Turn::answer(status, &[("x-ratelimit-remaining", "4000")], json!({ "message": said })));
        let error = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Slowly, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(server.issues().is_empty());
    }
}

#[tokio::test]
async fn a_server_error_or_no_answer_is_a_matter_of_time() {
    for status in [500, 502, 503, 504] {
        let server = GithubServer::start();
        server.next(Method::POST, Turn::answer(status, &[], json!({})));
        let error = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Soon, "{error}");
    }
    // A port on which nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let api_url = format!("http://{}", socket.local_addr().unwrap());
    let settings = GithubSettings { api_url, repository: REPOSITORY.to_owned(), token: SecretString::from(TOKEN) };
    let error = GithubTracker::new(&settings).unwrap().file(issue("k1"), Tried::Never).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Soon);
    assert!(error.to_string().starts_with("no connection to 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn while_a_limit_lasts_no_request_is_made_and_then_it_goes_on() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    let words = json!({ "message": "You have exceeded a secondary rate limit." });
    server.next(Method::POST, Turn::answer(403, &[("retry-after", "90")], words));
    let error = tracker.file(issue("k1"), Tried::Never).await.unwrap_err();
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(90)));
    let error = tracker.file(issue("k2"), Tried::Never).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::After(wait) if wait > Duration::from_secs(60)), "{error}");
    assert_eq!(server.asked().len(), 1);
    // The wait passes by the virtual clock.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(90)).await;
    tokio::time::resume();
    tracker.file(issue("k1"), again()).await.unwrap();
    assert_eq!(server.issues().len(), 1);
}

#[tokio::test]
async fn the_last_request_of_the_hour_is_used_and_the_next_one_waits() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    let reset = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &*reset.to_string())];
    let made = recorded("issue-created")["response"].clone();
    server.next(Method::POST, Turn::answer(201, &headers, made));
    tracker.file(issue("k1"), Tried::Never).await.unwrap();
    let error = tracker.file(issue("k2"), Tried::Never).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::After(wait) if wait > Duration::from_secs(590)), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_renamed_repository_is_followed_on_the_same_host() {
    let server = GithubServer::start();
    server.rename();
    tracker(&server).file(issue("k1"), Tried::Never).await.unwrap();
    assert!(tracker(&server).file(issue("k1"), again()).await.unwrap().found);
    assert_eq!(server.issues().len(), 1);
}

#[tokio::test]
async fn the_token_goes_to_no_other_host_by_a_redirect_or_a_link() {
    let (server, other) = (GithubServer::start(), GithubServer::start());
    let elsewhere = format!("{}/repositories/1000/issues", other.api_url());
    server.next(Method::POST, Turn::answer(307, &[("location", &elsewhere)], json!({})));
    let error = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap_err();
    assert!(error.to_string().contains("another host"), "{error}");
    let link = format!("<{elsewhere}?page=1>; rel=\"next\"");
    server.next(Method::GET, Turn::answer(200, &[("link", &link)], json!([])));
    server.file("Ours", &issue("k1").marker());
    // The second page is asked for where the first one was.
    assert!(tracker(&server).file(issue("k1"), again()).await.unwrap().found);
    assert!(other.asked().is_empty());
    // And none goes in a circle for ever.
    for _ in 0..9 {
        let itself = format!("{}/repositories/1000/issues", server.api_url());
        server.next(Method::POST, Turn::answer(307, &[("location", &itself)], json!({})));
    }
    let error = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_thrown_back_is_in_no_error() {
    let server = GithubServer::start();
    server.next(Method::POST, Turn::answer(401, &[], json!({ "message": format!("Bad token {TOKEN}") })));
    let error = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_leaves_open_what_happened() {
    let server = GithubServer::start();
    let html = Turn::Answer { status: 201, headers: Vec::new(), body: "<html>".to_owned() };
    server.next(Method::POST, html);
    let error = tracker(&server).file(issue("k1"), Tried::Never).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Soon);
}

fn closing(key: &str) -> Closing {
    Closing { issue: key.to_owned(), comment: "The session has gone on.".to_owned() }
}

#[tokio::test]
async fn an_issue_is_closed_with_a_comment() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    let url = tracker.file(issue("k1"), Tried::Never).await.unwrap().url;
    let closed = tracker.close(closing("k1"), url, Tried::Never).await.unwrap();
    assert_eq!(closed.note, None);
    assert_eq!(server.comments(1), ["<!-- steadfast-key: k1-closed -->\nThe session has gone on."]);
    let made = &server.issues()[0];
    assert_eq!((&made["state"], &made["state_reason"]), (&json!("closed"), &json!("completed")));
}

#[tokio::test]
async fn a_closing_that_is_repeated_comments_once() {
    // The comment's answer was lost; then the answer to the closing itself.
    for lost in [Method::POST, Method::PATCH] {
        let server = GithubServer::start();
        let tracker = tracker(&server);
        let url = tracker.file(issue("k1"), Tried::Never).await.unwrap().url;
        server.page_size(1);
        server.next(lost, Turn::DoneButFails);
        assert!(tracker.close(closing("k1"), url.clone(), Tried::Never).await.is_err());
        tracker.close(closing("k1"), url.clone(), again()).await.unwrap();
        assert_eq!(server.comments(1).len(), 1);
        assert_eq!(server.issues()[0]["state"], "closed");
        let third = tracker.close(closing("k1"), url, again()).await.unwrap();
        assert!(third.note.unwrap().contains("already"));
    }
}

#[tokio::test]
async fn what_somebody_closed_deleted_or_locked_is_respected() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    let mut urls = Vec::new();
    for key in ["k1", "k2", "k3"] {
        urls.push(tracker.file(issue(key), Tried::Never).await.unwrap().url);
    }
    server.change(1, "state", json!("closed"));
    server.change(2, "deleted", json!(true));
    server.change(3, "locked", json!(true));
    let mut notes = Vec::new();
    for (key, url) in ["k1", "k2", "k3"].iter().zip(urls) {
        notes.push(tracker.close(closing(key), url, Tried::Never).await.unwrap().note.unwrap());
    }
    assert!(notes[0].contains("already") && notes[1].contains("deleted") && notes[2].contains("locked"), "{notes:?}");
    assert!([1, 2, 3].iter().all(|number| server.comments(*number).is_empty()));
    assert_eq!(server.issues()[2]["state"], "closed");
}

#[tokio::test]
async fn an_issue_of_another_tracker_or_another_repository_is_not_touched() {
    let server = GithubServer::start();
    let tracker = tracker(&server);
    server.file("Somebody's", "Not ours.");
    for url in ["file:///state/issues/k1.md", "https://github.com/acme/widgets/issues/1"] {
        let closed = tracker.close(closing("k1"), url.to_owned(), Tried::Never).await.unwrap();
        assert!(closed.note.unwrap().contains("left as it is"));
    }
    assert!(server.comments(1).is_empty());
    assert_eq!(server.issues()[0]["state"], "open");
}

#[tokio::test]
async fn whether_issues_can_be_filed_is_known_without_filing_one() {
    let place = |changes: serde_json::Value| {
        let mut place =
            json!({ "has_issues": true, "archived": false, "private": true, "permissions": { "push": true } });
        place.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        place
    };
    let server = GithubServer::start();
    let check = async |status: u16, scopes: &str, body: serde_json::Value| {
        server.next(Method::GET, Turn::answer(status, &[("x-oauth-scopes", scopes)], body));
        tracker(&server).check().await.map_err(|error| error.to_string())
    };
    assert_eq!(check(200, "", place(json!({}))).await, Ok(Vec::new()));
    assert_eq!(check(200, "gist, repo", place(json!({}))).await, Ok(Vec::new()));
    assert_eq!(check(200, "public_repo", place(json!({ "private": false }))).await, Ok(Vec::new()));
    let notes = check(200, "", place(json!({ "permissions": { "pull": true } }))).await.unwrap();
    assert!(notes[0].contains("drop labels and assignees"), "{notes:?}");
    for (status, scopes, body, word) in [
        (200, "public_repo, gist", place(json!({})), "needs repo"),
        (200, "", place(json!({ "archived": true })), "archived"),
        (200, "", place(json!({ "has_issues": false })), "switched off"),
        (401, "", json!({ "message": "Bad credentials" }), "give a valid one"),
        (404, "", json!({ "message": "Not Found" }), "check the name"),
    ] {
        let refused = check(status, scopes, body).await.unwrap_err();
        assert!(refused.contains(word), "{refused}");
    }
    assert!(server.asked().iter().all(|asked| asked.method == Method::GET));
}
