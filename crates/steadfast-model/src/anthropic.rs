//! Anthropic's API: `POST {base_url}/v1/messages`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::Url;
use reqwest::header::HeaderName;
use serde::Serialize;
use serde_json::Value;
use steadfast_core::fault::CallFault;

use crate::answer::{AnswerFormat, Draft, Problem, count, text};
use crate::call::{CallContext, CallRequest, Completion, ModelClient};
use crate::http::Endpoint;
use crate::probe::{self, Probe};
use crate::refusal::ProviderError;
use crate::settings::{ProviderSettings, Uncallable};
use crate::sse::Event;

/// The API demands a limit; this one all its models since Claude 3.5 can do.
const DEFAULT_MAX_TOKENS: u32 = 8192;
/// The version of the API that is spoken here, the only one since 2023.
const VERSION: &str = "2023-06-01";

/// Makes the client of one model.
pub(crate) fn build(settings: &ProviderSettings, model_name: &str) -> Result<Arc<dyn ModelClient>, Uncallable> {
    let credential = |key: &str| (HeaderName::from_static("x-api-key"), key.to_owned());
    let endpoint = Endpoint::new(settings, path, credential)?.with_header("anthropic-version", VERSION);
    Ok(Arc::new(Anthropic(Arc::new(Inner { endpoint, model: model_name.to_owned(), stream: settings.stream }))))
}

/// The base URL may end in `v1` or not: people write both.
fn path(base: &Url) -> &'static [&'static str] {
    let last = base.path_segments().and_then(|mut segments| segments.rfind(|segment| !segment.is_empty()));
    if last == Some("v1") { &["messages"] } else { &["v1", "messages"] }
}

struct Anthropic(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    model: String,
    stream: bool,
}

impl ModelClient for Anthropic {
    fn complete(&self, request: Arc<CallRequest>) -> BoxFuture<'static, Result<Completion, CallFault>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let body = inner.body(&request);
            inner.endpoint.call::<MessageAnswer>(body, &request).await.map_err(|failed| failed.fault)
        })
    }

    fn probe(&self, context: CallContext) -> BoxFuture<'static, Result<Probe, CallFault>> {
        let (client, question) = (Self(Arc::clone(&self.0)), probe::question(context));
        Box::pin(async move {
            let Inner { endpoint, model, .. } = &*client.0;
            // The API has a page for each model, under its aliases, too. It lies beside `messages`.
            let page = endpoint.beside(1, &["models", model]);
            if probe::is_listed(endpoint, page, |page| page["type"] == "model").await? {
                return Ok(Probe::Listed);
            }
            probe::answers(|| client.complete(Arc::clone(&question))).await
        })
    }

    fn host(&self) -> Option<&str> {
        Some(self.0.endpoint.host())
    }
}

impl Inner {
    fn body(&self, request: &CallRequest) -> Bytes {
        let body = Body {
            model: &self.model,
            max_tokens: request.max_output_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            stream: self.stream,
            system: &request.prompt.system,
            messages: [Message { role: "user", content: &request.prompt.user }],
        };
        serde_json::to_vec(&body).expect("texts, numbers and flags always become JSON").into()
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    system: &'a str,
    messages: [Message<'a>; 1],
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// A message, whole or as events.
#[derive(Default)]
struct MessageAnswer {
    draft: Draft,
    done: bool,
}

impl AnswerFormat for MessageAnswer {
    fn event(&mut self, event: &Event<'_>) -> Result<(), Problem> {
        let value: Value = serde_json::from_str(event.data)
            .map_err(|error| Problem::Malformed(format!("an event of the stream is no JSON: {error}")))?;
        // The type stands in the data, too; servers that only imitate the API may leave out either.
        match value["type"].as_str().unwrap_or(event.name) {
            "message_start" => self.take_message(&value["message"]),
            "content_block_start" => {
                self.take_block(&value["content_block"])?;
            }
            "content_block_delta" => {
                if let Some(text) = value["delta"]["text"].as_str() {
                    self.draft.push(text)?;
                }
            }
            "message_delta" => {
                self.take_stop(&value["delta"]);
                self.take_usage(&value["usage"]);
            }
            "message_stop" => self.done = true,
            "error" => {
                return Err(Problem::Provider(Box::new(ProviderError::from_json(&value))));
            }
            _ if !value["error"].is_null() => {
                return Err(Problem::Provider(Box::new(ProviderError::from_json(&value))));
            }
            // `ping`, `content_block_stop`, and event types that are yet to come, which clients are told to pass over.
            _ => {}
        }
        Ok(())
    }

    fn document(&mut self, document: Value) -> Result<(), Problem> {
        let Some(blocks) = document["content"].as_array() else {
            return match document["error"].is_null() {
                true => Err(Problem::Malformed("the answer has no content".to_owned())),
                false => Err(Problem::Provider(Box::new(ProviderError::from_json(&document)))),
            };
        };
        self.take_message(&document);
        blocks.iter().try_for_each(|block| self.take_block(block))
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn may_end(&self) -> bool {
        self.draft.finish.is_some()
    }

    fn into_draft(self) -> Draft {
        self.draft
    }
}

impl MessageAnswer {
    fn take_message(&mut self, message: &Value) {
        self.draft.id = text(&message["id"]).map(str::to_owned);
        self.draft.model = text(&message["model"]).map(str::to_owned);
        self.take_stop(message);
        self.take_usage(&message["usage"]);
    }

    /// Text counts; thinking and tool calls do not.
    fn take_block(&mut self, block: &Value) -> Result<(), Problem> {
        match (block["type"].as_str(), block["text"].as_str()) {
            (Some("text") | None, Some(text)) => self.draft.push(text),
            _ => Ok(()),
        }
    }

    fn take_stop(&mut self, value: &Value) {
        if let Some(reason) = text(&value["stop_reason"]) {
            self.draft.finish = Some(reason.to_owned());
        }
    }

    /// Later counts replace earlier ones. What was read from or written to the prompt cache is part of the prompt.
    fn take_usage(&mut self, usage: &Value) {
        if let Some(fresh) = count(&usage["input_tokens"]) {
            let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"];
            self.draft.usage.input =
                cached.iter().filter_map(|name| count(&usage[*name])).fold(fresh, u64::saturating_add);
        }
        if let Some(output) = count(&usage["output_tokens"]) {
            self.draft.usage.output = output;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_url_may_end_in_v1_or_not() {
        for (base, expected) in [
            ("https://api.example.com", &["v1", "messages"][..]),
            ("https://api.example.com/", &["v1", "messages"]),
            ("https://api.example.com/v1", &["messages"]),
            ("https://api.example.com/x/v1/", &["messages"]),
        ] {
            assert_eq!(path(&Url::parse(base).unwrap()), expected, "{base}");
        }
    }
}
