//! What a request says: the wire's headers and the few parts of its body that matter here.

use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

/// Where a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `POST …/chat/completions`, OpenAI's format.
    Chat,
    /// `POST …/messages`, Anthropic's format.
    Messages,
}

/// One request for an answer.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// The client wants a last event with the token counts.
    pub(crate) include_usage: bool,
    pub(crate) role: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) idea: Option<String>,
    pub(crate) milestone: Option<u32>,
    pub(crate) file: Option<String>,
    pub(crate) attempt: Option<u32>,
    pub(crate) attempt_id: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) prompt_bytes: usize,
    /// The texts of all messages; only read when the script looks at them.
    pub(crate) prompt: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    /// Not read here, but a request without it is none.
    #[expect(dead_code, reason = "only its presence counts")]
    messages: serde::de::IgnoredAny,
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Ask {
    /// Reads a request; `None` when the body is not the JSON that this endpoint takes.
    pub(crate) fn read(endpoint: Endpoint, headers: &HeaderMap, body: &[u8], with_prompt: bool) -> Option<Self> {
        let asked: Body = serde_json::from_slice(body).ok()?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let number = |name: &str| text(name).and_then(|value| value.parse().ok());
        let file = text("x-steadfast-file")
            .map(|path| percent_encoding::percent_decode_str(&path).decode_utf8_lossy().into_owned());
        Some(Self {
            endpoint,
            model: asked.model,
            stream: asked.stream,
            include_usage: asked.stream_options.is_some_and(|options| options.include_usage),
            role: text("x-steadfast-role"),
            session: text("x-steadfast-session"),
            idea: text("x-steadfast-idea"),
            milestone: number("x-steadfast-milestone"),
            file,
            attempt: number("x-steadfast-attempt"),
            attempt_id: text("x-steadfast-attempt-id"),
            traceparent: text("traceparent"),
            prompt_bytes: body.len(),
            prompt: if with_prompt { Some(prompt(body)) } else { None },
        })
    }
}

/// The texts of `system` and of all messages, in order, with an empty line between them.
fn prompt(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return String::new();
    };
    let mut texts = Vec::new();
    take(&body["system"], &mut texts);
    for message in body["messages"].as_array().into_iter().flatten() {
        take(&message["content"], &mut texts);
    }
    texts.join("\n\n")
}

/// Content is a text, or a list of parts of which those of type `text` count.
fn take<'v>(content: &'v Value, texts: &mut Vec<&'v str>) {
    texts.extend(content.as_str());
    texts.extend(content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_texts_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert("x-steadfast-file", "a%20b/%C3%A4.txt".parse().unwrap());
        headers.insert("x-steadfast-milestone", "2".parse().unwrap());
        let body = br#"{"model":"m","system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"one \"two\""}]}"#;
        let ask = Ask::read(Endpoint::Chat, &headers, body, true).unwrap();
        assert_eq!(ask.file.as_deref(), Some("a b/ä.txt"));
        assert_eq!((ask.milestone, ask.role, ask.stream), (Some(2), None, false));
        assert_eq!(ask.prompt.as_deref(), Some("s\n\none \"two\""));
        assert!(Ask::read(Endpoint::Chat, &headers, b"[]", false).is_none());
    }
}
