use std::sync::Arc;

use serde_json::json;
use steadfast_core::fault::{Fault, Usage};
use steadfast_model::{CallRequest, Completion, Finish, Prompt, ProviderSettings};

use crate::server::{Server, Step, begun_stream, json as json_reply, response, stream, then};
use crate::{SHORT, call, fault, model, request, settings};

const KIND: &str = "openai";

/// A stream as llama.cpp sends it: a role chunk with null, text, a finish chunk, usage, the end.
fn parts() -> Vec<String> {
    let chunk = |choices| json!({"id": "c-1", "model": "served-1", "choices": choices});
    let delta = |delta| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]));
    let mut usage = chunk(json!([]));
    usage["usage"] = json!({"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14});
    [
        delta(json!({"role": "assistant", "content": null})),
        delta(json!({"reasoning_content": "hm", "reasoning": "hm"})),
        delta(json!({"content": "Grüße, "})),
        delta(json!({"content": "world\n"})),
        chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])),
        usage,
    ]
    .iter()
    .map(|chunk| format!("data: {chunk}\n\n"))
    .chain(["data: [DONE]\n\n".to_owned()])
    .collect()
}

fn assert_whole(completion: &Completion) {
    assert_eq!(&*completion.text, "Grüße, world\n");
    assert_eq!(completion.finish, Finish::Stop);
    assert_eq!(completion.usage, Usage { input: 11, output: 3 });
    assert_eq!(completion.provider_request_id.as_deref(), Some("req-1"));
    assert_eq!(completion.served_model.as_deref(), Some("served-1"));
}

#[tokio::test]
async fn a_request_carries_prompt_key_and_context() {
    let mut server = Server::start(vec![stream(parts())]).await;
    let client = model(&settings(KIND, &server));
    client.complete(Arc::new(CallRequest { max_output_tokens: Some(99), ..request() })).await.unwrap();
    let seen = server.seen.recv().await.unwrap();
    assert_eq!(seen.line, "POST /v1/chat/completions HTTP/1.1");
    for (name, value) in [
        ("authorization", "Bearer sk-secret-1234"),
        ("content-type", "application/json"),
        ("user-agent", concat!("steadfast/", env!("CARGO_PKG_VERSION"))),
        ("x-steadfast-role", "coder"),
        ("x-steadfast-idea", "002-feature"),
        ("x-steadfast-milestone", "2"),
        ("x-steadfast-file", "src/a%20b.rs"),
        ("x-steadfast-attempt", "1"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("x-steadfast-session"), Some(request().context.session.as_str()));
    let expected = json!({
        "model": "vendor/model-1",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write a \"file\".\n"}],
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_tokens": 99,
    });
    assert_eq!(seen.body, expected);
    assert_eq!(client.host(), Some("127.0.0.1"));
}

#[tokio::test]
async fn without_streaming_system_key_and_limit_none_is_sent() {
    let answer = json!({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]});
    let mut server = Server::start(vec![json_reply(200, &answer)]).await;
    let settings = ProviderSettings { key: None, stream: false, json_mode: true, ..settings(KIND, &server) };
    let prompt = Prompt { system: "".into(), user: "u".into() };
    model(&settings).complete(Arc::new(CallRequest { prompt, json: true, ..request() })).await.unwrap();
    let seen = server.seen.recv().await.unwrap();
    assert_eq!(seen.header("authorization"), None);
    let expected = json!({
        "model": "vendor/model-1",
        "messages": [{"role": "user", "content": "u"}],
        "stream": false,
        "response_format": {"type": "json_object"},
    });
    assert_eq!(seen.body, expected);
}

#[tokio::test]
async fn a_streamed_answer_is_put_together() {
    assert_whole(&call(KIND, vec![stream(parts())]).await.unwrap());
}

#[tokio::test]
async fn borders_between_chunks_do_not_matter_even_inside_a_character() {
    let bytes = parts().concat().replace('\n', "\r\n").into_bytes();
    for size in [1, 2, 3, 7, 64] {
        assert_whole(&call(KIND, vec![stream(bytes.chunks(size))]).await.unwrap());
    }
}

#[tokio::test]
async fn a_stream_may_end_after_done_or_cleanly_after_a_finish_reason() {
    let mut without_done = parts();
    without_done.truncate(5);
    let completion = call(KIND, vec![stream(&without_done)]).await.unwrap();
    assert_eq!((&*completion.text, completion.finish), ("Grüße, world\n", Finish::Stop));
    assert_eq!(completion.usage, Usage::default());

    let mut without_finish = parts();
    without_finish.remove(4);
    let completion = call(KIND, vec![stream(&without_finish)]).await.unwrap();
    assert_eq!(completion.finish, Finish::Other("none".to_owned()));

    // After [DONE] the answer is whole, whatever becomes of the connection.
    for end in [Step::Reset, Step::Close, Step::Hang] {
        assert_whole(&call(KIND, vec![then(begun_stream(parts()), end)]).await.unwrap());
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_breaks_or_is_reset_is_unavailable() {
    for length in 0..4 {
        let some = &parts()[..length];
        let whole = then(stream(some), Step::Close);
        assert_eq!(fault(KIND, whole).await.fault, Fault::Unavailable, "{length} events");
        for end in [Step::Close, Step::Reset] {
            let broken = fault(KIND, then(begun_stream(some), end)).await;
            assert_eq!((broken.fault, broken.status), (Fault::Unavailable, Some(200)), "{length} events");
        }
    }
    let half = parts()[3][..20].to_owned();
    assert_eq!(fault(KIND, stream([half])).await.fault, Fault::Unavailable);
    // A finish reason does not mend a connection that broke.
    let broken = fault(KIND, then(begun_stream(&parts()[..5]), Step::Close)).await;
    assert_eq!(broken.fault, Fault::Unavailable);
}

#[tokio::test]
async fn a_plain_answer_to_a_streaming_request_is_understood() {
    let answer = json!({
        "id": "c-1", "model": "served-1",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
            "message": {"role": "assistant", "content": "Grüße, world\n", "refusal": null, "reasoning": "hm"}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    });
    for label in ["application/json", "text/event-stream", "text/plain"] {
        let headers = [&*format!("Content-Type: {label}"), "X-Request-Id: req-1"];
        for before in ["\n ", "\u{feff}", ""] {
            let body = format!("{before}{answer}\n");
            assert_whole(&call(KIND, vec![response(200, &headers, body)]).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_without_a_label_is_understood() {
    let body = format!(": warming up\n\n{}", parts().concat());
    assert_whole(&call(KIND, vec![response(200, &["X-Request-Id: req-1"], body)]).await.unwrap());
}

#[tokio::test]
async fn content_may_be_parts_and_the_id_come_from_the_body() {
    let content = json!([{"type": "text", "text": "a"}, {"type": "image"}, "b"]);
    let answer = json!({"id": "body-1", "choices": [{"message": {"content": content}, "finish_reason": "weird"}]});
    let completion = call(KIND, vec![json_reply(200, &answer)]).await.unwrap();
    assert_eq!(&*completion.text, "ab");
    assert_eq!(completion.finish, Finish::Other("weird".to_owned()));
    assert_eq!(completion.provider_request_id.as_deref(), Some("body-1"));
}

#[tokio::test]
async fn the_finish_reason_tells_a_cut_or_filtered_answer() {
    for (choice, expected) in [
        (json!({"message": {"content": "half"}, "finish_reason": "length"}), Fault::Truncated),
        (json!({"message": {"content": ""}, "finish_reason": "length"}), Fault::Truncated),
        (json!({"message": {"content": "x"}, "finish_reason": "content_filter"}), Fault::Filtered),
        (json!({"message": {"content": null, "refusal": "I won't."}, "finish_reason": "stop"}), Fault::Filtered),
        (json!({"message": {"content": null, "tool_calls": []}, "finish_reason": "tool_calls"}), Fault::BadAnswer),
        (json!({"message": {"content": " \n"}, "finish_reason": "stop"}), Fault::BadAnswer),
        (json!({"message": {}, "finish_reason": "stop"}), Fault::BadAnswer),
    ] {
        let whole = fault(KIND, json_reply(200, &json!({"choices": [choice]}))).await;
        assert_eq!((whole.fault, whole.status), (expected.clone(), Some(200)), "{choice}");
        let events = [format!("data: {}\n\n", json!({"choices": [choice]})), "data: [DONE]\n\n".to_owned()];
        assert_eq!(fault(KIND, stream(events)).await.fault, expected, "streamed: {choice}");
    }
}

#[tokio::test]
async fn a_200_that_is_no_answer_is_malformed() {
    let html = "<!DOCTYPE html><html><body>Sign in</body></html>";
    for (headers, body) in [
        (&["Content-Type: text/html"][..], html.as_bytes()),
        (&["Content-Type: application/json"], html.as_bytes()),
        (&[], b"OK"),
        (&[], b"done"),
        (&[], b""),
        (&[], b"{}"),
        (&[], b"[]"),
        (&[], b"{\"choices\": []}"),
        (&[], b"{\"choices\": null}"),
        (&[], b"{\"choices\": [{\"message\": "),
        (&[], b"{\"choices\": [{\"message\": {\"content\": \"\xff\"}}]}"),
        (&["Content-Type: text/event-stream"], b"data: <html>\n\n"),
        (&["Content-Type: text/event-stream"], b"data: \xff\n\n"),
        (&["Content-Type: text/event-stream"], b"data: [DONE]\n\n"),
    ] {
        let broken = fault(KIND, response(200, headers, body)).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!((broken.fault, broken.status), (Fault::Malformed, Some(200)), "{shown}: {}", broken.message);
    }
}

#[tokio::test]
async fn an_answer_beyond_the_bounds_is_malformed() {
    let delta = json!({"choices": [{"delta": {"content": "x".repeat(1 << 20)}}]});
    let events = std::iter::repeat_n(format!("data: {delta}\n\n"), 9);
    let broken = fault(KIND, stream(events)).await;
    assert_eq!(broken.fault, Fault::Malformed);
    assert_eq!(broken.message, "the answer is larger than 8 MiB");
    let line = fault(KIND, stream(std::iter::repeat_n(vec![b'd'; 1 << 20], 5))).await;
    assert_eq!((line.fault, &*line.message), (Fault::Malformed, "an event of the stream is larger than 4 MiB"));
}

#[tokio::test]
async fn a_call_ends_when_its_time_is_up() {
    let hang = || vec![Step::Hang];
    for reply in [hang(), then(begun_stream(&parts()[..3]), Step::Hang), then(begun_stream([": x\n"]), Step::Hang)] {
        let mut server = Server::start(vec![reply]).await;
        let client = model(&settings(KIND, &server));
        let late = client.complete(Arc::new(CallRequest { timeout: SHORT, ..request() })).await.unwrap_err();
        assert_eq!(late.fault, Fault::TimedOut);
        assert!(late.message.starts_with("no complete answer within 50ms"), "{}", late.message);
        // The server sees that nobody waits any more.
        server.gone.recv().await.unwrap();
    }
}

#[tokio::test]
async fn dropping_the_future_closes_the_connection() {
    let mut server = Server::start(vec![then(begun_stream(&parts()[..3]), Step::Hang)]).await;
    let call = model(&settings(KIND, &server)).complete(Arc::new(request()));
    let running = tokio::spawn(call);
    server.seen.recv().await.unwrap();
    running.abort();
    server.gone.recv().await.unwrap();
}

#[tokio::test]
async fn a_connection_serves_the_next_call_after_answers_and_errors() {
    let replies = vec![stream(parts()), response(429, &[], "{}"), stream(parts())];
    let server = Server::start(replies).await;
    let client = model(&settings(KIND, &server));
    for good in [true, false, true, true, true, true] {
        assert_eq!(client.complete(Arc::new(request())).await.is_ok(), good);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_server_that_closes_after_each_stream_loses_no_call_or_one() {
    // llama-server promises to keep the connection and closes it right after a stream.
    let lost = async |name: &str| {
        let mut reply = stream(parts());
        let Step::Bytes(head) = &mut reply[0] else { panic!("a stream begins with its head") };
        let named = String::from_utf8(std::mem::take(head)).unwrap().replacen("X-Request-Id", name, 1);
        *head = named.into_bytes();
        let server = Server::start(vec![then(reply, Step::CloseUnderNext)]).await;
        let client = model(&settings(KIND, &server));
        let mut lost = 0;
        for _ in 0..10 {
            lost += usize::from(client.complete(Arc::new(request())).await.is_err());
        }
        lost
    };
    assert_eq!(lost("Server: llama.cpp\r\nX-Request-Id").await, 0);
    // One that does not say its name is known after the first call that it lost.
    assert_eq!(lost("X-Request-Id").await, 1);
}

#[tokio::test]
async fn what_a_server_refuses_to_know_is_said_otherwise_next_time() {
    let refused = |field: &str| json_reply(400, &json!({"error": {"message": field, "code": "unsupported_parameter"}}));
    let limit = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
    let replies = vec![refused(limit), refused("unknown field stream_options"), refused(limit)];
    let mut server = Server::start(replies).await;
    let client = model(&settings(KIND, &server));
    let request = Arc::new(CallRequest { max_output_tokens: Some(5), ..request() });
    for word in [Some(true), Some(true), None] {
        let fault = client.complete(Arc::clone(&request)).await.unwrap_err();
        assert_eq!((fault.fault, fault.should_retry), (Fault::BadRequest, word));
    }
    server.seen.recv().await.unwrap();
    let second = server.seen.recv().await.unwrap().body;
    assert_eq!((&second["max_tokens"], &second["max_completion_tokens"]), (&json!(null), &json!(5)));
    assert_eq!(server.seen.recv().await.unwrap().body["stream_options"], json!(null));
}
