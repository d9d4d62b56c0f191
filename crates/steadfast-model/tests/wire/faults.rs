//! Each row of SPEC 4's table that a server or the network can bring about.

use std::sync::Arc;

use serde_json::{Value, json};
use steadfast_core::fault::Fault;
use tokio::net::TcpListener;

use crate::server::{Step, json as json_reply, response, stream};
use crate::{fault, model, rate_limited, request};
use steadfast_model::ProviderSettings;

const NO_TIME: Fault = Fault::RateLimited { retry_after: None };

fn error(message: &str, code: &str) -> Value {
    json!({"error": {"message": message, "type": "some_error", "code": code, "param": null}})
}

#[tokio::test]
async fn the_status_alone_decides_where_the_body_says_nothing() {
    for (status, expected) in [
        (301, Fault::Malformed),
        (307, Fault::Malformed),
        (400, Fault::BadRequest),
        (401, Fault::Denied),
        (402, Fault::QuotaExhausted),
        (403, Fault::Denied),
        (404, Fault::Denied),
        (405, Fault::BadRequest),
        (408, Fault::Unavailable),
        (409, Fault::Conflict),
        (413, Fault::ContextTooLong),
        (418, Fault::BadRequest),
        (422, Fault::BadRequest),
        (429, NO_TIME),
        (500, Fault::Unavailable),
        (502, Fault::Unavailable),
        (503, Fault::Unavailable),
        (504, Fault::Unavailable),
        (529, Fault::Unavailable),
    ] {
        for body in ["", "<html>nginx</html>", "{\"error\": {\"message\": \"no\"}}", "[1]", "null"] {
            let refused = fault("openai", response(status, &[], body)).await;
            assert_eq!((refused.fault, refused.status), (expected.clone(), Some(status)), "{status} {body}");
            assert_eq!(refused.should_retry, None);
            assert!(refused.message.starts_with(&format!("HTTP {status}")), "{}", refused.message);
        }
    }
}

#[tokio::test]
async fn a_refused_or_reset_connection_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let client = model(&ProviderSettings { base_url, ..ProviderSettings::default() });
    let refused = client.complete(Arc::new(request())).await.unwrap_err();
    assert_eq!((refused.fault, refused.status), (Fault::Unavailable, None));
    assert!(refused.message.contains("127.0.0.1") && refused.message.contains("refused"), "{}", refused.message);

    for step in [Step::Reset, Step::Close, Step::Bytes(b"SSH-2.0-OpenSSH\r\n".to_vec())] {
        assert_eq!(fault("openai", vec![step]).await.fault, Fault::Unavailable);
    }
    // Fewer bytes than announced.
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"choices\": [".to_vec();
    assert_eq!(fault("openai", vec![Step::Bytes(cut), Step::Close]).await.fault, Fault::Unavailable);
}

#[tokio::test]
async fn the_body_of_an_error_that_breaks_off_leaves_the_status() {
    let cut = b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nno such".to_vec();
    for end in [Step::Close, Step::Reset] {
        assert_eq!(fault("openai", vec![Step::Bytes(cut.clone()), end]).await.fault, Fault::Denied);
    }
}

#[tokio::test]
async fn the_time_to_wait_is_found_in_header_and_body() {
    let limit = error("Rate limit reached for requests. Please try again in 1m30s. Visit us.", "rate_limit_exceeded");
    let google = json!([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED",
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}}]);
    let headers = &["Retry-After: Tue, 24 Nov 2026 10:00:20 GMT", "Date: Tue, 24 Nov 2026 10:00:00 GMT"];
    for (headers, body, expected) in [
        (&["Retry-After: 20"][..], "slow down".to_owned(), rate_limited(20_000)),
        (&["Retry-After: 1.5"], String::new(), rate_limited(1_500)),
        (&["retry-after-ms: 250", "retry-after: 1"], String::new(), rate_limited(250)),
        (headers, String::new(), rate_limited(20_000)),
        (&["Retry-After: 7"], limit.to_string(), rate_limited(7_000)),
        (&[], limit.to_string(), rate_limited(90_000)),
        (&["Retry-After: soon"], limit.to_string(), rate_limited(90_000)),
        (&[], error("Please try again in 6ms", "x").to_string(), rate_limited(6)),
        (&[], google.to_string(), rate_limited(34_000)),
        (&[], error("Too many requests", "x").to_string(), NO_TIME),
    ] {
        let refused = fault("openai", response(429, headers, &body)).await;
        assert_eq!(refused.fault, expected, "{headers:?} {body}");
    }
}

#[tokio::test]
async fn an_exhausted_quota_is_told_from_a_rate_limit() {
    let plan = "You exceeded your current quota, please check your plan and billing details.";
    let per_day = json!([{"error": {"code": 429, "message": plan, "details": [
        {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}, {"retryDelay": "34s"}]}}]);
    let credit = "Your credit balance is too low to access the Anthropic API.";
    for (status, headers, body) in [
        (429, &["Retry-After: 20"][..], error(plan, "insufficient_quota")),
        (429, &[], error(plan, "x")),
        (429, &[], per_day),
        (402, &[], error("Payment required", "x")),
        (400, &[], json!({"type": "error", "error": {"type": "invalid_request_error", "message": credit}})),
        (400, &[], error("Billing hard limit has been reached", "billing_hard_limit_reached")),
        (422, &[], json!({"message": "Insufficient Balance"})),
    ] {
        let refused = fault("openai", response(status, headers, body.to_string())).await;
        assert_eq!(refused.fault, Fault::QuotaExhausted, "{status} {body}");
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_recognized_in_every_dialect() {
    for body in [
        error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": "prompt is too long: 208310 tokens > 200000 maximum"}}),
        error("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", "x"),
        json!({"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it",
            "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 1024}}),
        json!({"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you \
            requested 5000 tokens", "type": "BadRequestError", "param": null, "code": 400}),
        json!([{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."}}]),
        json!({"object": "error", "type": "invalid_request_message_order", "code": "3051", "message":
            "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"}),
        json!({"error": "input length exceeds the context length"}),
        json!({"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", "error_type": "validation"}),
        json!({"detail": [{"loc": ["body"], "msg": "the prompt is too long", "type": "value_error"}]}),
    ] {
        for status in [400, 413, 422] {
            let refused = fault("openai", json_reply(status, &body)).await;
            assert_eq!(refused.fault, Fault::ContextTooLong, "{status} {body}");
        }
    }
    for message in [
        "max_tokens is too large: 200000. This model supports at most 16384 completion tokens",
        "Unrecognized request argument supplied: foo",
        "Invalid 'messages': empty array",
    ] {
        assert_eq!(fault("openai", json_reply(400, &error(message, "x"))).await.fault, Fault::BadRequest, "{message}");
    }
}

#[tokio::test]
async fn a_filter_that_refused_the_prompt_is_told_from_a_bad_request() {
    let azure = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.";
    for body in [error(azure, "content_filter"), error("no", "content_policy_violation")] {
        assert_eq!(fault("openai", json_reply(400, &body)).await.fault, Fault::Filtered, "{body}");
    }
}

#[tokio::test]
async fn an_error_inside_an_answer_counts_as_the_response_it_describes() {
    let typed = |kind: &str, message: &str| json!({"error": {"type": kind, "message": message}});
    for (body, expected) in [
        (json!({"error": {"code": 429, "message": "Rate limit, try again in 2s"}}), rate_limited(2_000)),
        (typed("rate_limit_error", "slow"), NO_TIME),
        (error("slow", "rate_limit_exceeded"), NO_TIME),
        (error("You exceeded your current quota", "insufficient_quota"), Fault::QuotaExhausted),
        (json!({"error": {"code": 402, "message": "Insufficient credits"}}), Fault::QuotaExhausted),
        (json!({"error": {"code": "502", "message": "upstream"}}), Fault::Unavailable),
        (typed("overloaded_error", "Overloaded"), Fault::Unavailable),
        (typed("server_error", "The server had an error"), Fault::Unavailable),
        (typed("authentication_error", "invalid key"), Fault::Denied),
        (json!({"error": "model 'x' not found"}), Fault::Denied),
        (json!({"error": {"code": 404, "message": "no"}}), Fault::Denied),
        (error("too long", "context_length_exceeded"), Fault::ContextTooLong),
        (typed("exceed_context_size_error", "exceeds the context"), Fault::ContextTooLong),
        (typed("invalid_request_error", "bad"), Fault::BadRequest),
        (error("refused", "content_filter"), Fault::Filtered),
        (json!({"error": {"message": "something odd"}}), Fault::Unavailable),
        (
            json!({"choices": [{"error": {"code": 503, "message": "gone"}, "finish_reason": "error"}]}),
            Fault::Unavailable,
        ),
    ] {
        let first = json!({"choices": [{"delta": {"content": "half"}}]});
        let streamed = stream([format!("data: {first}\n\n"), format!("data: {body}\n\n")]);
        let refused = fault("openai", streamed).await;
        assert_eq!(refused.fault, expected, "streamed: {body}");
        assert!(refused.message.starts_with("error inside the answer: "), "{}", refused.message);
        assert_eq!(fault("openai", json_reply(200, &body)).await.fault, expected, "whole: {body}");
    }
    let named = fault("openai", stream(["event: error\ndata: {\"code\": 429, \"message\": \"slow\"}\n\n"])).await;
    assert_eq!(named.fault, NO_TIME);
    let field = fault("openai", stream(["error: {\"code\": 503, \"message\": \"Loading model\"}\n\n"])).await;
    assert_eq!((field.fault, field.status), (Fault::Unavailable, Some(503)));
}

#[tokio::test]
async fn the_providers_own_word_is_passed_on() {
    for (value, word) in [("true", Some(true)), ("false", Some(false)), ("maybe", None)] {
        let header = format!("X-Should-Retry: {value}");
        assert_eq!(fault("openai", response(500, &[&header], "")).await.should_retry, word);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_where_to() {
    let headers = ["Location: https://api.example.com/v2?token=abc"];
    let refused = fault("openai", response(308, &headers, "")).await;
    assert_eq!(refused.fault, Fault::Malformed);
    assert!(refused.message.contains("https://api.example.com,"), "{}", refused.message);
    assert!(!refused.message.contains("token"), "{}", refused.message);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_the_networks_fault() {
    // `.invalid` never resolves (RFC 6761); without any resolver the fault is the resolver's.
    let base_url = "http://steadfast.invalid/v1".to_owned();
    let client = model(&ProviderSettings { base_url, ..ProviderSettings::default() });
    let refused = client.complete(Arc::new(request())).await.unwrap_err();
    assert!(matches!(refused.fault, Fault::Network(_)), "{refused:?}");
    assert_eq!(client.host(), Some("steadfast.invalid"));
}
