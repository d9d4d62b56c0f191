//! Any OpenAI-compatible endpoint: `POST {base_url}/chat/completions` (SPEC 12).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::header::AUTHORIZATION;
use serde::Serialize;
use serde_json::Value;
use steadfast_core::fault::{CallFault, Fault};

use crate::answer::{AnswerFormat, Draft, Problem, count, text};
use crate::call::{CallContext, CallRequest, Completion, ModelClient};
use crate::http::Endpoint;
use crate::probe::{self, Probe};
use crate::refusal::ProviderError;
use crate::settings::{ProviderSettings, Uncallable};
use crate::sse::Event;

/// Makes the client of one model.
pub(crate) fn build(settings: &ProviderSettings, model_name: &str) -> Result<Arc<dyn ModelClient>, Uncallable> {
    Ok(Arc::new(OpenAi(Arc::new(Inner::new(settings, model_name)?))))
}

struct OpenAi(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    model: String,
    stream: bool,
    json_mode: bool,
    /// The server wants `max_completion_tokens` in place of `max_tokens`: known from its address, or learned from it.
    new_limit_name: AtomicBool,
    /// The server does not know `stream_options`: learned from it.
    plain_stream: AtomicBool,
}

impl ModelClient for OpenAi {
    fn complete(&self, request: Arc<CallRequest>) -> BoxFuture<'static, Result<Completion, CallFault>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let body = inner.body(&request);
            let failed = match inner.endpoint.call::<ChatAnswer>(body, &request).await {
                Ok(completion) => return Ok(completion),
                Err(failed) => failed,
            };
            Err(inner.learn(failed.fault, &failed.said))
        })
    }

    fn probe(&self, context: CallContext) -> BoxFuture<'static, Result<Probe, CallFault>> {
        let (client, question) = (Self(Arc::clone(&self.0)), probe::question(context));
        Box::pin(async move {
            let Inner { endpoint, model, .. } = &*client.0;
            let names_it =
                |list: &Value| list["data"].as_array().into_iter().flatten().any(|entry| entry["id"] == model.as_str());
            // In place of `chat/completions`.
            if probe::is_listed(endpoint, endpoint.beside(2, &["models"]), names_it).await? {
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
    fn new(settings: &ProviderSettings, model_name: &str) -> Result<Self, Uncallable> {
        let credential = |key: &str| (AUTHORIZATION, format!("Bearer {key}"));
        let endpoint = Endpoint::new(settings, |_| &["chat", "completions"], credential)?;
        Ok(Self {
            // OpenAI itself has replaced `max_tokens`, and its newer models refuse it; most others know only the old name.
            new_limit_name: AtomicBool::new(endpoint.host() == "api.openai.com"),
            endpoint,
            model: model_name.to_owned(),
            stream: settings.stream,
            json_mode: settings.json_mode,
            plain_stream: AtomicBool::new(false),
        })
    }

    fn body(&self, request: &CallRequest) -> Bytes {
        let system = Some(&*request.prompt.system).filter(|system| !system.is_empty());
        let messages = [
            system.map(|content| Message { role: "system", content }),
            Some(Message { role: "user", content: &request.prompt.user }),
        ];
        let new_name = self.new_limit_name.load(Ordering::Relaxed);
        let limit = |wanted: bool| request.max_output_tokens.filter(|_| wanted);
        let usage = self.stream && !self.plain_stream.load(Ordering::Relaxed);
        let body = Body {
            model: &self.model,
            messages: &messages[usize::from(system.is_none())..],
            stream: self.stream,
            stream_options: usage.then_some(StreamOptions { include_usage: true }),
            max_tokens: limit(!new_name),
            max_completion_tokens: limit(new_name),
            response_format: (self.json_mode && request.json).then_some(ResponseFormat { kind: "json_object" }),
        };
        serde_json::to_vec(&body).expect("texts, numbers and flags always become JSON").into()
    }

    /// When the server refused a field for which there is another way, the next call takes that way, and the fault says
    /// that asking again makes sense. Once each: a server that refuses both is not asked on our word.
    fn learn(&self, mut fault: CallFault, said: &str) -> CallFault {
        if fault.fault != Fault::BadRequest {
            return fault;
        }
        let switched = (said.contains("max_completion_tokens") && !self.new_limit_name.swap(true, Ordering::Relaxed))
            || (said.contains("stream_options") && self.stream && !self.plain_stream.swap(true, Ordering::Relaxed));
        if switched {
            fault.should_retry = fault.should_retry.or(Some(true));
        }
        fault
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [Option<Message<'a>>],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: &'static str,
}

/// A chat completion, whole or in chunks. Read leniently: of all fields only those that are used must have a sense.
#[derive(Default)]
struct ChatAnswer {
    draft: Draft,
    /// There was a choice, if only an empty one.
    chosen: bool,
    done: bool,
}

impl AnswerFormat for ChatAnswer {
    fn event(&mut self, event: &Event<'_>) -> Result<(), Problem> {
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return match self.chosen {
                true => Ok(()),
                false => Err(Problem::Malformed("the stream held no choices".to_owned())),
            };
        }
        let chunk: Value = serde_json::from_str(event.data)
            .map_err(|error| Problem::Malformed(format!("a chunk of the stream is no JSON: {error}")))?;
        if event.name == "error" {
            return Err(Problem::Provider(Box::new(ProviderError::from_json(&chunk))));
        }
        self.take(&chunk, "delta")
    }

    fn document(&mut self, document: Value) -> Result<(), Problem> {
        if !document["choices"].is_array() {
            return match document["error"].is_null() && document["object"] != "error" {
                true => Err(Problem::Malformed("the answer has no choices".to_owned())),
                false => Err(Problem::Provider(Box::new(ProviderError::from_json(&document)))),
            };
        }
        if document["choices"].as_array().is_some_and(Vec::is_empty) && document["error"].is_null() {
            return Err(Problem::Malformed("the answer has no choices".to_owned()));
        }
        self.take(&document, "message")
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

impl ChatAnswer {
    /// `part`: where a choice holds its text, `delta` in a chunk and `message` in a whole answer. Some servers use the
    /// other one, too.
    fn take(&mut self, value: &Value, part: &str) -> Result<(), Problem> {
        if !value["error"].is_null() {
            return Err(Problem::Provider(Box::new(ProviderError::from_json(value))));
        }
        if self.draft.id.is_none() {
            self.draft.id = text(&value["id"]).map(str::to_owned);
        }
        if self.draft.model.is_none() {
            self.draft.model = text(&value["model"]).map(str::to_owned);
        }
        let usage = &value["usage"];
        for (names, field) in [
            (["prompt_tokens", "input_tokens"], &mut self.draft.usage.input),
            (["completion_tokens", "output_tokens"], &mut self.draft.usage.output),
        ] {
            if let Some(tokens) = names.iter().find_map(|name| count(&usage[*name])) {
                *field = tokens;
            }
        }
        for choice in value["choices"].as_array().into_iter().flatten() {
            // One answer is asked for; a server that gives more counts them from 0.
            if choice["index"].as_u64().unwrap_or(0) != 0 {
                continue;
            }
            self.chosen = true;
            if choice["error"].is_object() {
                return Err(Problem::Provider(Box::new(ProviderError::from_json(choice))));
            }
            let other = if part == "delta" { "message" } else { "delta" };
            let message = if choice[part].is_null() { &choice[other] } else { &choice[part] };
            self.take_content(&message["content"])?;
            // The form of the older completions API, which some servers still answer with.
            self.take_content(&choice["text"])?;
            if let Some(refusal) = text(&message["refusal"]) {
                self.draft.refusal.push_str(refusal);
            }
            if let Some(finish) = text(&choice["finish_reason"]) {
                self.draft.finish = Some(finish.to_owned());
            }
        }
        Ok(())
    }

    /// A text, null, or a list of parts of which those with a text count.
    fn take_content(&mut self, content: &Value) -> Result<(), Problem> {
        match content {
            Value::String(text) => self.draft.push(text),
            Value::Array(parts) => parts
                .iter()
                .filter_map(|part| part["text"].as_str().or(part.as_str()))
                .try_for_each(|t| self.draft.push(t)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steadfast_core::ids::{AttemptId, IdeaId, Role, SessionId};

    use super::*;
    use crate::call::Prompt;

    #[test]
    fn openai_itself_gets_the_new_name_of_the_token_limit() {
        let request = CallRequest {
            prompt: Prompt { system: "s".into(), user: "u".into() },
            context: CallContext {
                role: Role::Planner,
                session: SessionId::new(0, 0),
                idea: IdeaId::new("i").unwrap(),
                milestone: None,
                file: None,
                attempt: 1,
                id: AttemptId::new(1),
            },
            max_output_tokens: Some(7),
            json: true,
            timeout: Duration::from_secs(1),
        };
        for (base_url, used, unused) in [
            ("https://api.openai.com/v1", "max_completion_tokens", "max_tokens"),
            ("https://api.example.com/v1", "max_tokens", "max_completion_tokens"),
        ] {
            let settings = ProviderSettings { base_url: base_url.to_owned(), ..ProviderSettings::default() };
            let body: Value = serde_json::from_slice(&Inner::new(&settings, "m").unwrap().body(&request)).unwrap();
            assert_eq!((&body[used], &body[unused]), (&Value::from(7), &Value::Null));
            // The hint is not passed on unless the settings say so.
            assert_eq!(body["response_format"], Value::Null);
        }
    }
}
