//! How a provider is reached, as the wiring hands it over, and why it may be that no call can be made.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use secrecy::{ExposeSecret as _, SecretString};

/// One provider. The part of the configuration that this crate needs; the key is already read.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// `openai`, `anthropic` or `command`: see [`kinds`](crate::kinds).
    pub kind: String,
    /// Where the API begins, e.g. `https://api.example.com/v1`. A query is kept. Unused by `command`.
    pub base_url: String,
    /// Sent with each call; white space around it is dropped. `None`: the provider is called without a key. (That a key
    /// was configured and is missing is for the caller to say: then it makes no client.) A command finds it in
    /// `STEADFAST_API_KEY`.
    pub key: Option<SecretString>,
    /// Ask for the answer as a stream. A server that answers otherwise is understood all the same.
    pub stream: bool,
    /// Pass the hint [`CallRequest::json`](crate::CallRequest::json) on as `response_format`. Off by default: some
    /// servers refuse a request that carries it. Used by `openai` only.
    pub json_mode: bool,
    /// Program and arguments; no shell is in between. Used by `command` only.
    pub command: Vec<String>,
    /// Traces are recorded, so each request names its span (`traceparent`, W3C Trace Context). Used over HTTP only.
    pub traced: bool,
}

impl ProviderSettings {
    /// Stands for all of it, the key included: equal for equal settings, within one process. For finding out whether a
    /// model is reached in another way than before.
    pub fn mark(&self) -> u64 {
        let Self { kind, base_url, key, stream, json_mode, command, traced } = self;
        let mut hasher = DefaultHasher::new();
        let key = key.as_ref().map(|key| key.expose_secret());
        (kind, base_url, key, stream, json_mode, command, traced).hash(&mut hasher);
        hasher.finish()
    }
}

impl Default for ProviderSettings {
    /// An OpenAI-compatible server on this machine's port 8080 (the default of llama.cpp), without a key, streaming.
    fn default() -> Self {
        Self {
            kind: "openai".to_owned(),
            base_url: "http://127.0.0.1:8080/v1".to_owned(),
            key: None,
            stream: true,
            json_mode: false,
            command: Vec::new(),
            traced: false,
        }
    }
}

/// Why no call can be made at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Uncallable {
    /// For a person, in lower case and without a key, e.g. `program "aider" is not in PATH`.
    pub reason: String,
}

impl Uncallable {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}
