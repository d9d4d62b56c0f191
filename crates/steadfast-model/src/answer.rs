//! From what a provider sent to a completion or a fault, whatever the provider's format.

use reqwest::header::HeaderMap;
use serde_json::Value;
use steadfast_core::fault::{CallFault, Fault, Usage};

use crate::call::{Completion, Finish};
use crate::refusal::ProviderError;
use crate::report::Reporter;
use crate::sse::{Event, SseFault};

/// The largest answer that is taken, in bytes of text.
pub(crate) const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Why what came is no answer.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Not in the provider's format; says in what way.
    Malformed(String),
    /// An error stood where the answer should have been.
    Provider(Box<ProviderError>),
}

impl From<SseFault> for Problem {
    fn from(fault: SseFault) -> Self {
        Self::Malformed(match fault {
            SseFault::TooLong => "an event of the stream is larger than 4 MiB".to_owned(),
            SseFault::NotUtf8 => "the stream is not UTF-8".to_owned(),
        })
    }
}

/// How a provider writes answers.
pub(crate) trait AnswerFormat: Default + Send {
    /// Takes one event of a stream.
    fn event(&mut self, event: &Event<'_>) -> Result<(), Problem>;

    /// Takes a whole answer that came as one JSON document.
    fn document(&mut self, document: Value) -> Result<(), Problem>;

    /// The terminal event has come; nothing that follows matters.
    fn is_done(&self) -> bool;

    /// The stream may end here: its terminal event has come, or the model has said why it stopped.
    fn may_end(&self) -> bool;

    /// What was gathered.
    fn into_draft(self) -> Draft;
}

/// An answer as far as it was gathered.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) text: String,
    pub(crate) refusal: String,
    /// In the provider's word.
    pub(crate) finish: Option<String>,
    pub(crate) usage: Usage,
    pub(crate) id: Option<String>,
    pub(crate) model: Option<String>,
}

impl Draft {
    pub(crate) fn push(&mut self, text: &str) -> Result<(), Problem> {
        if self.text.len() + text.len() > MAX_ANSWER_BYTES {
            return Err(Problem::Malformed("the answer is larger than 8 MiB".to_owned()));
        }
        self.text.push_str(text);
        Ok(())
    }

    /// Judges the whole answer: cut, refused, empty, or good.
    pub(crate) fn conclude(self, headers: Option<&HeaderMap>, reporter: &Reporter) -> Result<Completion, CallFault> {
        // A cut, filtered or empty answer has been paid for all the same.
        let usage = self.usage;
        self.judged(headers, reporter).map_err(|fault| CallFault { usage, ..fault })
    }

    fn judged(self, headers: Option<&HeaderMap>, reporter: &Reporter) -> Result<Completion, CallFault> {
        let finish = match self.finish.as_deref().map(End::of) {
            Some(End::Cut) => {
                let message = format!("the answer was cut at the token limit, after {} tokens", self.usage.output);
                return Err(reporter.fault(Fault::Truncated, &message));
            }
            Some(End::Filtered) => {
                let why = if self.refusal.is_empty() { "no reason given" } else { &self.refusal };
                return Err(reporter.fault(Fault::Filtered, &format!("refused by a content filter: {why}")));
            }
            Some(End::Failed) => {
                let word = self.finish.as_deref().unwrap_or_default();
                let message = format!("the provider broke the answer off (finish reason {word:?})");
                return Err(reporter.fault(Fault::Unavailable, &message));
            }
            Some(End::Stop) => Finish::Stop,
            Some(End::Other) | None => {
                let word = self.finish.as_deref().and_then(|word| reporter.label(word));
                Finish::Other(word.unwrap_or_else(|| "none".to_owned()))
            }
        };
        if !self.refusal.trim().is_empty() {
            return Err(reporter.fault(Fault::Filtered, &format!("the model refused: {}", self.refusal)));
        }
        if self.text.trim().is_empty() {
            let message = match &finish {
                Finish::Other(word) if word.starts_with("tool") || word == "function_call" => {
                    "the answer was empty: it called a tool where text was asked for"
                }
                Finish::Stop | Finish::Other(_) => "the answer was empty",
            };
            return Err(reporter.fault(Fault::BadAnswer, message));
        }
        if reporter.leaks_key(&self.text) {
            let message = "the answer repeats the key that the request was sent with, so it is not used";
            return Err(reporter.fault(Fault::Malformed, message));
        }
        let id = headers.and_then(|headers| crate::http::request_id(headers, reporter));
        Ok(Completion {
            provider_request_id: id.or_else(|| self.id.as_deref().and_then(|id| reporter.label(id))),
            served_model: self.model.as_deref().and_then(|model| reporter.label(model)),
            text: self.text.into(),
            finish,
            usage: self.usage,
        })
    }
}

/// The kinds of finish reasons.
enum End {
    Stop,
    Cut,
    Filtered,
    Failed,
    Other,
}

impl End {
    /// The words of OpenAI, Anthropic, Google, Mistral, TGI and Ollama.
    fn of(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "completed" => Self::Stop,
            "length" | "max_tokens" | "model_length" | "max_output_tokens" | "model_context_window_exceeded" => {
                Self::Cut
            }
            "content_filter" | "refusal" | "safety" | "recitation" | "blocklist" | "prohibited_content" | "spii" => {
                Self::Filtered
            }
            // OpenRouter's and SGLang's words for an answer that its server gave up.
            "error" | "abort" => Self::Failed,
            _ => Self::Other,
        }
    }
}

/// A count from JSON: providers send null or leave it out.
pub(crate) fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

/// A text from JSON, unless it is missing or empty.
pub(crate) fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}
