//! Each answer and each fault as a client on a raw socket sees it.

use std::io::ErrorKind;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::log::End;

mod client;

use client::{CODER, Ended, always, chat, request, seen, send, sim};

const FILE: &str = "```markdown\n# a\n\nWritten by a simulated model.\n```\n";

#[tokio::test]
async fn a_stream_carries_the_text_the_reason_the_counts_and_the_end() {
    let sim = sim("chunk = 10");
    let seen = chat(&sim, true).await;
    assert_eq!((seen.status, seen.whole, seen.ended), (200, true, Ended::Orderly));
    assert!(seen.head.contains("content-type: text/event-stream"));
    assert_eq!(seen.content(), FILE);
    let events = seen.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    assert!(events[events.len() - 3].contains(r#""finish_reason":"stop""#));
    assert!(events[events.len() - 2].contains(r#""choices":[]"#) && events[events.len() - 2].contains("prompt_tokens"));
}

#[tokio::test]
async fn a_plain_answer_has_one_choice_and_counts() {
    let answer = chat(&sim(""), false).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], FILE);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 10);
}

#[tokio::test]
async fn a_request_without_a_role_gets_a_short_sentence() {
    let seen = send(&sim(""), &request("/v1/chat/completions", "", false)).await;
    assert_eq!(
        seen.json()["choices"][0]["message"]["content"],
        "This is m, a simulated model. I answer from a script."
    );
}

#[tokio::test]
async fn anthropics_format_is_spoken_plain_and_streamed() {
    let sim = sim("");
    let plain = send(&sim, &request("/v1/messages", CODER, false)).await.json();
    assert_eq!((&plain["content"][0]["text"], &plain["stop_reason"]), (&FILE.into(), &"end_turn".into()));
    let seen = send(&sim, &request("/v1/messages", CODER, true)).await;
    let kinds: Vec<_> =
        seen.events().iter().map(|event| serde_json::from_str::<Value>(event).unwrap()["type"].clone()).collect();
    assert_eq!(kinds.first(), Some(&"message_start".into()));
    assert_eq!(kinds.last(), Some(&"message_stop".into()));
    sim.set_script(Script::parse("[[rule]]\nthen = { status = 529 }").unwrap());
    let refused = send(&sim, &request("/v1/messages", "", true)).await;
    assert_eq!((refused.status, refused.json()["error"]["type"].clone()), (529, "overloaded_error".into()));
}

#[tokio::test]
async fn statuses_come_with_their_headers_and_the_usual_body_or_the_given_one() {
    let seen = chat(&always("status = 429, headers = { retry-after = \"2\", x-should-retry = \"false\" }"), true).await;
    assert_eq!((seen.status, seen.json()["error"]["code"].clone()), (429, "rate_limit_exceeded".into()));
    assert!(seen.head.contains("retry-after: 2") && seen.head.contains("x-should-retry: false"));
    let seen = chat(&always("status = 502, body = \"<html>no</html>\""), true).await;
    assert_eq!((seen.status, seen.text()), (502, "<html>no</html>"));
    for code in [400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 503, 504, 529] {
        let seen = chat(&always(&format!("status = {code}")), true).await;
        assert_eq!(seen.status, code);
        assert!(!seen.json()["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn faults_that_are_statuses_say_what_they_are() {
    for (fault, status, code) in [
        ("quota", 429, "insufficient_quota"),
        ("quota_in_400", 400, "insufficient_quota"),
        ("context_too_long", 400, "context_length_exceeded"),
    ] {
        let seen = chat(&always(&format!("fault = \"{fault}\"")), true).await;
        assert_eq!((seen.status, seen.json()["error"]["code"].clone()), (status, code.into()));
    }
}

#[tokio::test]
async fn connections_end_before_an_answer_by_reset_or_in_order() {
    let ended = |fault| async move {
        let sim = always(&format!("fault = \"{fault}\""));
        let seen = chat(&sim, true).await;
        assert_eq!((seen.status, seen.body.len()), (0, 0), "{fault}");
        (seen.ended, sim.requests().first().map(|request| request.end))
    };
    assert_eq!(ended("reset").await, (Ended::Reset, Some(End::Dropped)));
    assert_eq!(ended("close").await, (Ended::Orderly, Some(End::Dropped)));
    // It never came to a request.
    assert_eq!(ended("refuse").await, (Ended::Reset, None));
}

#[tokio::test]
async fn a_rule_that_refuses_counts_connections() {
    let sim = sim("[[rule]]\nfirst = 2\nthen = { fault = \"refuse\" }");
    for expected in [0, 0, 200] {
        assert_eq!(chat(&sim, false).await.status, expected);
    }
    assert_eq!(sim.total(), 1);
}

#[tokio::test]
async fn streams_break_in_the_middle_by_reset_or_in_order() {
    for (fault, ended) in [("broken_stream", Ended::Reset), ("cut_stream", Ended::Orderly)] {
        let sim = sim(&format!("chunk = 4\n[[rule]]\nthen = {{ fault = \"{fault}\" }}"));
        let seen = chat(&sim, true).await;
        assert_eq!((seen.status, seen.whole, seen.ended), (200, false, ended), "{fault}");
        let content = seen.content();
        assert!(FILE.starts_with(&content) && (10..FILE.len()).contains(&content.len()), "{content:?}");
        assert_eq!(sim.requests()[0].end, End::Dropped);
        let seen = chat(&sim, false).await;
        assert_eq!((seen.status, seen.whole, seen.ended), (200, false, ended), "{fault}, plain");
    }
}

#[tokio::test]
async fn a_stream_without_its_terminal_event_ends_in_order() {
    let sim = always("fault = \"no_done\"");
    let seen = chat(&sim, true).await;
    assert_eq!((seen.status, seen.whole, seen.ended), (200, true, Ended::Orderly));
    assert_eq!(seen.content(), FILE);
    assert!(!seen.text().contains("[DONE]") && !seen.text().contains("stop"));
    assert_eq!(sim.requests()[0].end, End::Sent);
}

#[tokio::test]
async fn an_error_event_ends_a_stream() {
    let sim = always("fault = \"stream_error\", chunk = 4");
    let seen = chat(&sim, true).await;
    assert!(seen.events().last().unwrap().starts_with("{\"error\":"));
    assert!(seen.whole && !seen.content().is_empty() && seen.content() != FILE);
    let seen = send(&sim, &request("/v1/messages", CODER, true)).await;
    assert!(seen.text().contains("event: error\ndata: {"));
}

#[tokio::test]
async fn answers_that_are_none_in_the_format() {
    let seen = chat(&always("fault = \"html\""), true).await;
    assert!(seen.status == 200 && seen.head.contains("text/html") && seen.text().starts_with("<!doctype"));

    let sim = always("fault = \"bad_json\", chunk = 4");
    let seen = chat(&sim, true).await;
    assert!(
        seen.whole
            && seen.events().iter().any(|event| *event != "[DONE]" && serde_json::from_str::<Value>(event).is_err())
    );
    let seen = chat(&sim, false).await;
    assert!(seen.whole && serde_json::from_slice::<Value>(&seen.body).is_err());

    let sim = always("fault = \"no_choices\"");
    assert_eq!(chat(&sim, true).await.events(), ["{\"object\":\"chat.completion.chunk\"}", "[DONE]"]);
    assert!(chat(&sim, false).await.json().get("choices").is_none());

    let sim = always("fault = \"not_utf8\"");
    for stream in [true, false] {
        let seen = chat(&sim, stream).await;
        assert!(seen.whole && std::str::from_utf8(&seen.body).is_err());
    }
}

#[tokio::test]
async fn a_huge_answer_has_the_size_asked_for() {
    let sim = always("fault = \"huge\", size = 3_000_000");
    for stream in [true, false] {
        let seen = chat(&sim, stream).await;
        assert!(seen.whole && (3_000_000..3_200_000).contains(&seen.body.len()), "{}", seen.body.len());
        if stream {
            assert_eq!(seen.events().last(), Some(&"[DONE]"));
        } else {
            assert_eq!(seen.json()["choices"][0]["finish_reason"], "stop");
        }
    }
}

#[tokio::test]
async fn answers_that_are_cut_filtered_or_empty_say_so() {
    let reason = |answer: &Value| answer["choices"][0]["finish_reason"].as_str().unwrap().to_owned();
    let text = |answer: &Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let cut = chat(&always("fault = \"truncated\""), false).await.json();
    assert_eq!((reason(&cut), text(&cut)), ("length".to_owned(), FILE[..FILE.len() / 2].to_owned()));
    let filtered = chat(&always("fault = \"filtered\""), false).await.json();
    assert_eq!((reason(&filtered), text(&filtered)), ("content_filter".to_owned(), String::new()));
    let empty = chat(&always("content = \"\""), false).await.json();
    assert_eq!((reason(&empty), text(&empty)), ("stop".to_owned(), String::new()));
    assert!(chat(&always("fault = \"truncated\""), true).await.text().contains("\"finish_reason\":\"length\""));
}

#[tokio::test]
async fn contents_are_answered_as_scripted() {
    let content = |then: &'static str| async move { chat(&always(then), true).await.content() };
    assert_eq!(content("content = \"exactly this\"").await, "exactly this");
    assert_eq!(content("file = \"one\\n```\\n\"").await, "````markdown\none\n```\n````\n");
    assert_eq!(content("files = { \"x.c\" = \"int x;\" }").await, "```c path=x.c\nint x;\n```\n");
    assert_eq!(content("generate = \"nothing\"").await, "NOTHING TO CHANGE");
    let review = content("review = { approved = false, issues = [{ issue = \"too short\", file = \"a.md\" }] }").await;
    let review: Value = serde_json::from_str(&review).unwrap();
    assert_eq!(
        (&review["approved"], &review["code_quality"], &review["issues"][0]["file"]),
        (&false.into(), &50.into(), &"a.md".into())
    );
    assert!(chat(&always("fault = \"plain\""), true).await.json()["choices"][0]["message"].is_object());
}

/// Waits until the server has the request: it answers nothing that a client could wait for.
async fn open_request(sim: &SimHandle) {
    while sim.requests().first().is_none_or(|request| request.end != End::Open) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hanging_request_gets_no_byte_until_the_server_is_stopped() {
    let sim = always("fault = \"hang\"");
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(request("/v1/chat/completions", CODER, true).as_bytes()).await.unwrap();
    open_request(&sim).await;
    let addr = sim.addr();
    sim.stop().await;
    assert_eq!(seen(stream).await.body.len(), 0);
    assert_eq!(TcpStream::connect(addr).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_client_that_goes_is_logged_as_abandoned() {
    let sim = always("fault = \"hang\"");
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(request("/v1/chat/completions", CODER, true).as_bytes()).await.unwrap();
    open_request(&sim).await;
    drop(stream);
    while sim.requests()[0].end != End::Abandoned {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stalled_stream_sends_half_and_then_nothing() {
    let sim = always("fault = \"stall\", chunk = 4");
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(request("/v1/chat/completions", CODER, true).as_bytes()).await.unwrap();
    let mut some = [0; 16];
    stream.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200 OK\r");
    assert_eq!(sim.requests()[0].end, End::Open);
    sim.stop().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(!String::from_utf8(rest).unwrap().contains("[DONE]"));
}

#[tokio::test]
async fn a_connection_is_kept_for_further_requests() {
    let sim = sim("[[rule]]\nnth = [2]\nthen = { status = 503 }");
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    let open = request("/v1/chat/completions", CODER, false).replace("connection: close\r\n", "");
    stream.write_all(format!("{open}{open}").as_bytes()).await.unwrap();
    stream.write_all(request("/v1/chat/completions", CODER, false).as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!((all.matches("HTTP/1.1 200").count(), all.matches("HTTP/1.1 503").count()), (2, 1));
}

#[tokio::test]
async fn delays_and_slow_streams_take_their_time() {
    let sim = sim("latency = \"20ms\"\nchunk = 10\ninterval = \"2ms\"");
    let before = std::time::Instant::now();
    let seen = chat(&sim, true).await;
    assert_eq!(seen.content(), FILE);
    // Five pieces and the opening, each followed by its interval: never less, whatever the machine's load.
    assert!(before.elapsed() >= Duration::from_millis(30));
    let logged = &sim.requests()[0];
    assert!(logged.ended.unwrap() - logged.at >= Duration::from_millis(30));
}

#[tokio::test]
async fn keys_and_models_are_checked_where_the_script_names_them() {
    let sim = sim("api_key = \"k\"\nmodels = [\"m\"]");
    assert_eq!(chat(&sim, true).await.status, 401);
    for header in ["authorization: Bearer k\r\n", "x-api-key: k\r\n"] {
        assert_eq!(send(&sim, &request("/v1/chat/completions", header, true)).await.status, 200);
        let other = request("/v1/chat/completions", header, true).replace("\"m\"", "\"n\"");
        assert_eq!(send(&sim, &other).await.json()["error"]["code"], "model_not_found");
    }
    let get = |headers: &str| format!("GET /v1/models HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{headers}\r\n");
    assert_eq!(send(&sim, &get("")).await.status, 401);
    assert_eq!(send(&sim, &get("x-api-key: k\r\n")).await.json()["data"][0]["id"], "m");
}

#[tokio::test]
async fn broken_requests_are_refused_and_not_logged() {
    let sim = sim("");
    let broken = "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: 1\r\n\r\n{";
    assert_eq!(send(&sim, broken).await.status, 400);
    assert_eq!(send(&sim, "GET / HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n").await.status, 404);
    assert_eq!(sim.total(), 0);
}

#[tokio::test]
async fn the_log_says_who_asked_and_what_was_answered() {
    let sim = sim("keep_prompts = true\n[[rule]]\nname = \"once\"\nfirst = 1\nthen = { status = 503 }");
    let _ = chat(&sim, true).await;
    let _ = chat(&sim, true).await;
    let log = sim.requests();
    assert_eq!((log[0].rule.as_deref(), log[0].answered.as_str(), log[0].status), (Some("once"), "status 503", 503));
    assert_eq!((log[1].rule.as_deref(), log[1].answered.as_str(), log[1].end), (None, "answer", End::Sent));
    assert_eq!(
        (log[0].role.as_deref(), log[0].file.as_deref(), log[0].milestone, log[0].attempt),
        (Some("coder"), Some("a.md"), Some(2), Some(1))
    );
    assert_eq!(log[0].prompt.as_deref(), Some("hello"));

    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n");
    let shown = send(&sim, &get("/__requests?after=1")).await.json();
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["seq"], &shown[0]["end"]), (1, &2.into(), &"sent".into()));
    let counts = send(&sim, &get("/__count")).await.json();
    assert_eq!(counts, json!({ "requests": 2, "open": 0, "kept": 2, "models": { "m": 2 } }));
}

#[tokio::test]
async fn another_script_starts_its_counts_anew() {
    let sim = sim("");
    for _ in 0..2 {
        sim.set_script(Script::parse("[[rule]]\nfirst = 1\nthen = { status = 500 }").unwrap());
        assert_eq!(chat(&sim, true).await.status, 500);
        assert_eq!(chat(&sim, true).await.status, 200);
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let sim = sim("");
    let error = Sim::start(sim.addr(), Script::default()).unwrap_err();
    assert_eq!((error.addr, error.source.kind()), (sim.addr(), ErrorKind::AddrInUse));
}
