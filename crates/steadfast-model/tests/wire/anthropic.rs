use std::sync::Arc;

use serde_json::{Value, json};
use steadfast_core::fault::{Fault, Usage};
use steadfast_model::{Completion, Finish, ProviderSettings};

use crate::server::{Server, Step, begun_stream, json as json_reply, response, stream, then};
use crate::{call, fault, model, rate_limited, request, settings};

const KIND: &str = "anthropic";

fn event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap())
}

fn events(stop_reason: &str) -> Vec<String> {
    let usage = json!({"input_tokens": 5, "cache_read_input_tokens": 6, "output_tokens": 1});
    let delta = |delta| json!({"type": "content_block_delta", "index": 1, "delta": delta});
    [
        json!({"type": "message_start", "message": {"id": "msg-1", "model": "served-1", "content": [],
            "stop_reason": null, "usage": usage}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        delta(json!({"type": "text_delta", "text": "Grüße, "})),
        delta(json!({"type": "text_delta", "text": "world\n"})),
        json!({"type": "something_new"}),
        json!({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 3}}),
        json!({"type": "message_stop"}),
    ]
    .iter()
    .map(event)
    .collect()
}

fn assert_whole(completion: &Completion) {
    assert_eq!(&*completion.text, "Grüße, world\n");
    assert_eq!(completion.finish, Finish::Stop);
    assert_eq!(completion.usage, Usage { input: 11, output: 3 });
    assert_eq!(completion.served_model.as_deref(), Some("served-1"));
}

#[tokio::test]
async fn a_request_carries_prompt_key_and_version() {
    let mut server = Server::start(vec![stream(events("end_turn"))]).await;
    let base_url = format!("http://{}", server.address);
    for settings in [settings(KIND, &server), ProviderSettings { base_url, ..settings(KIND, &server) }] {
        model(&settings).complete(Arc::new(request())).await.unwrap();
        let seen = server.seen.recv().await.unwrap();
        assert_eq!(seen.line, "POST /v1/messages HTTP/1.1");
        assert_eq!(seen.header("x-api-key"), Some("sk-secret-1234"));
        assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header("x-steadfast-role"), Some("coder"));
        let expected = json!({
            "model": "vendor/model-1",
            "max_tokens": 8192,
            "stream": true,
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "Write a \"file\".\n"}],
        });
        assert_eq!(seen.body, expected);
    }
}

#[tokio::test]
async fn a_streamed_answer_is_put_together_wherever_it_is_cut() {
    let bytes = events("end_turn").concat().into_bytes();
    for size in [1, 5, bytes.len()] {
        assert_whole(&call(KIND, vec![stream(bytes.chunks(size))]).await.unwrap());
    }
}

#[tokio::test]
async fn a_plain_answer_is_understood() {
    let content = json!([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Grüße, "},
        {"type": "text", "text": "world\n"}]);
    let answer = json!({"type": "message", "id": "msg-1", "model": "served-1", "content": content,
        "stop_reason": "stop_sequence", "usage": {"input_tokens": 11, "output_tokens": 3}});
    let completion = call(KIND, vec![json_reply(200, &answer)]).await.unwrap();
    assert_whole(&completion);
    assert_eq!(completion.provider_request_id.as_deref(), Some("msg-1"));
}

#[tokio::test]
async fn the_stop_reason_tells_a_cut_or_refused_answer() {
    for (reason, expected) in [("max_tokens", Fault::Truncated), ("refusal", Fault::Filtered)] {
        assert_eq!(fault(KIND, stream(events(reason))).await.fault, expected);
    }
    let answer = json!({"content": [{"type": "tool_use", "name": "x"}], "stop_reason": "tool_use"});
    assert_eq!(fault(KIND, json_reply(200, &answer)).await.fault, Fault::BadAnswer);
}

#[tokio::test]
async fn a_stream_without_its_terminal_event_is_unavailable() {
    let some = &events("end_turn")[..8];
    assert_eq!(fault(KIND, stream(some)).await.fault, Fault::Unavailable);
    assert_eq!(fault(KIND, then(begun_stream(some), Step::Close)).await.fault, Fault::Unavailable);
    assert_eq!(fault(KIND, then(begun_stream(some), Step::Reset)).await.fault, Fault::Unavailable);
}

#[tokio::test]
async fn an_error_event_counts_as_the_response_it_describes() {
    for (kind, expected) in [
        ("overloaded_error", Fault::Unavailable),
        ("api_error", Fault::Unavailable),
        ("timeout_error", Fault::Unavailable),
        ("rate_limit_error", Fault::RateLimited { retry_after: None }),
        ("authentication_error", Fault::Denied),
        ("permission_error", Fault::Denied),
        ("not_found_error", Fault::Denied),
        ("billing_error", Fault::QuotaExhausted),
        ("request_too_large", Fault::ContextTooLong),
        ("invalid_request_error", Fault::BadRequest),
    ] {
        let error = json!({"type": "error", "error": {"type": kind, "message": "no"}});
        let streamed = [events("end_turn")[0].clone(), event(&error)];
        assert_eq!(fault(KIND, stream(streamed)).await.fault, expected, "{kind}");
        assert_eq!(fault(KIND, json_reply(200, &error)).await.fault, expected, "{kind}");
    }
}

#[tokio::test]
async fn a_refused_request_is_classified_by_status_and_words() {
    let error = |kind: &str| json!({"type": "error", "error": {"type": kind, "message": "no"}}).to_string();
    for (status, headers, kind, expected) in [
        (529, &[][..], "overloaded_error", Fault::Unavailable),
        (429, &["Retry-After: 3"], "rate_limit_error", rate_limited(3_000)),
        (413, &[], "request_too_large", Fault::ContextTooLong),
        (400, &[], "invalid_request_error", Fault::BadRequest),
        (404, &[], "not_found_error", Fault::Denied),
    ] {
        assert_eq!(fault(KIND, response(status, headers, error(kind))).await.fault, expected, "{status}");
    }
}

#[tokio::test]
async fn a_200_that_is_no_answer_is_malformed() {
    for body in ["<html>", "{}", "{\"content\": \"text\"}", "hello"] {
        assert_eq!(fault(KIND, response(200, &[], body)).await.fault, Fault::Malformed, "{body}");
    }
}
