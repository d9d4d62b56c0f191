use serde_json::{Value, json};
use steadfast_core::fault::{CallFault, Fault, Usage};
use steadfast_model::Probe;

use crate::server::{Reply, Server, json as json_reply, response};
use crate::{model, request, settings};

fn list(id: &str) -> Reply {
    json_reply(200, &json!({ "object": "list", "data": [{ "id": "other" }, { "id": id }] }))
}

fn answer() -> Reply {
    let choice = json!({ "index": 0, "message": { "content": "OK" }, "finish_reason": "stop" });
    json_reply(200, &json!({ "choices": [choice], "usage": { "prompt_tokens": 9, "completion_tokens": 1 } }))
}

fn refusal(status: u16, message: &str) -> Reply {
    json_reply(status, &json!({ "error": { "message": message } }))
}

/// What is found out, and what was sent for it: first lines, whether the key went along, and bodies.
async fn probe(kind: &str, replies: Vec<Reply>) -> (Result<Probe, CallFault>, Vec<(String, bool, Value)>) {
    let n = replies.len();
    let mut server = Server::start(replies).await;
    let found = model(&settings(kind, &server)).probe(request().context).await;
    let mut sent = Vec::new();
    while let Ok(seen) = server.seen.try_recv() {
        let has_key = seen.header("authorization").or(seen.header("x-api-key")).is_some();
        sent.push((seen.line, has_key, seen.body));
    }
    assert_eq!(sent.len(), n, "{sent:?}");
    (found, sent)
}

const ANSWERED: Result<Probe, CallFault> = Ok(Probe::Answered(Usage { input: 9, output: 1 }));

#[tokio::test]
async fn a_list_that_names_the_model_counts_when_nobody_sees_it_without_the_key() {
    let (found, sent) = probe("openai", vec![list("vendor/model-1"), refusal(401, "no key")]).await;
    assert_eq!(found, Ok(Probe::Listed));
    assert!(sent.iter().all(|(line, _, _)| line == "GET /v1/models HTTP/1.1"));
    assert_eq!(sent.iter().map(|(_, has_key, _)| *has_key).collect::<Vec<_>>(), [true, false]);
    let (found, sent) = probe("openai", vec![list("vendor/model-1"), list("vendor/model-1"), answer()]).await;
    assert_eq!(found, ANSWERED);
    let (line, has_key, body) = &sent[2];
    assert!(line.starts_with("POST /v1/chat/completions") && *has_key);
    assert_eq!(body["max_tokens"], 16);
}

#[tokio::test]
async fn where_there_is_no_list_or_it_does_not_name_the_model_the_model_is_asked() {
    for first in
        [list("another"), refusal(404, "no such page"), refusal(403, "not with this key"), response(200, &[], "<html>")]
    {
        assert_eq!(probe("openai", vec![first, answer()]).await.0, ANSWERED);
    }
    let thinking = json!({ "choices": [{ "message": { "content": "" }, "finish_reason": "length" }] });
    let (found, _) = probe("openai", vec![list("another"), json_reply(200, &thinking)]).await;
    assert_eq!(found, Ok(Probe::Answered(Usage::default())));
}

#[tokio::test]
async fn a_wrong_key_and_a_limit_are_known_without_asking_the_model() {
    let (found, _) = probe("openai", vec![refusal(401, "Incorrect API key")]).await;
    assert_eq!(found.unwrap_err().fault, Fault::Denied);
    let (found, _) = probe("openai", vec![refusal(429, "slow down")]).await;
    assert_eq!(found.unwrap_err().fault, Fault::RateLimited { retry_after: None });
    let (found, _) = probe("openai", vec![list("another"), refusal(404, "no such model")]).await;
    assert_eq!(found.unwrap_err().fault, Fault::Denied);
}

#[tokio::test]
async fn a_server_that_wants_the_limit_under_its_new_name_is_asked_once_more() {
    let refused = refusal(400, "Unsupported parameter: use 'max_completion_tokens' instead");
    let (found, sent) = probe("openai", vec![list("another"), refused, answer()]).await;
    assert_eq!(found, ANSWERED);
    assert_eq!(sent[2].2["max_completion_tokens"], 16);
}

#[tokio::test]
async fn anthropic_has_a_page_for_each_model() {
    let page = json_reply(200, &json!({ "type": "model", "id": "vendor/model-1" }));
    let (found, sent) = probe("anthropic", vec![page, refusal(401, "no key")]).await;
    assert_eq!(found, Ok(Probe::Listed));
    assert_eq!(sent[0].0, "GET /v1/models/vendor%2Fmodel-1 HTTP/1.1");
}
