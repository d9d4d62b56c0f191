//! No key in any text.

use std::sync::Arc;

use serde_json::json;
use steadfast_core::fault::Fault;
use steadfast_model::{ProviderSettings, SecretString, client};

use crate::server::{Server, json as json_reply, response, stream};
use crate::{call, model, request, settings};

const KEY: &str = "sk-secret-1234";

#[tokio::test]
async fn a_key_that_comes_back_is_masked_in_every_text() {
    let echo = format!("Incorrect API key provided: {KEY}. Bearer {KEY}");
    let answer = json!({"id": KEY, "model": format!("m-{KEY}"),
        "choices": [{"message": {"content": "x"}, "finish_reason": format!("odd {KEY}")}]});
    for reply in [
        response(401, &[], &echo),
        json_reply(400, &json!({"error": {"message": echo}})),
        json_reply(200, &json!({"error": {"message": echo}})),
        response(302, &[&format!("Location: /{KEY}")], ""),
        response(200, &[], format!("<{KEY}")),
        response(200, &[], &echo),
        stream([format!("data: {{\"error\": \"{echo}\"}}\n\n")]),
        json_reply(200, &answer),
    ] {
        for kind in ["openai", "anthropic"] {
            let shown = format!("{:?}", call(kind, vec![reply.iter().map(copy).collect()]).await);
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_repeats_the_key_is_no_answer() {
    let answer =
        |text: &str| json_reply(200, &json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}));
    for (key, fault) in [("sk-long-enough-to-be-one", Some(Fault::Malformed)), ("no-secret", None)] {
        let server = Server::start(vec![answer(&format!("```\nkey = {key}\n```"))]).await;
        let with_key = ProviderSettings { key: Some(SecretString::from(key)), ..settings("openai", &server) };
        let end = model(&with_key).complete(Arc::new(request())).await;
        assert_eq!(end.map_err(|fault| fault.fault).err(), fault);
    }
}

fn copy(step: &crate::server::Step) -> crate::server::Step {
    match step {
        crate::server::Step::Bytes(bytes) => crate::server::Step::Bytes(bytes.clone()),
        _ => crate::server::Step::Close,
    }
}

#[tokio::test]
async fn a_message_is_short_and_without_control_characters() {
    let noise = format!("bad\u{1b}[31m\r\n\t{}", "long ".repeat(1000));
    let refused = call("openai", vec![response(500, &[], noise)]).await.unwrap_err();
    assert_eq!(refused.message.chars().count(), 500);
    assert!(refused.message.starts_with("HTTP 500: bad [31m long"), "{}", refused.message);
}

#[tokio::test]
async fn white_space_around_a_key_from_a_file_is_dropped() {
    let mut server = Server::start(vec![response(500, &[], "")]).await;
    let key = Some(SecretString::from(format!(" {KEY}\n")));
    let _ = model(&ProviderSettings { key, ..settings("openai", &server) }).complete(Arc::new(request())).await;
    assert_eq!(server.seen.recv().await.unwrap().header("authorization"), Some("Bearer sk-secret-1234"));
}

#[test]
fn settings_that_allow_no_call_are_refused_without_showing_the_key() {
    let with = |base_url: &str, key: &str| ProviderSettings {
        base_url: base_url.to_owned(),
        key: Some(SecretString::from(key)),
        ..ProviderSettings::default()
    };
    for settings in [
        with("http://x/v1", "sk-\u{1}secret"),
        with("http://x/v1", " \n"),
        with("ftp://x/v1", KEY),
        with("x/v1", KEY),
        with("http://user:secret@x/v1", KEY),
    ] {
        assert!(!format!("{settings:?}").replace(&settings.base_url, "").contains("secret"));
        let refused = client(&settings, "m").err().unwrap();
        assert!(!refused.reason.contains("secret"), "{refused}");
    }
}
