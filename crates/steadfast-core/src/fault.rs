//! What can go wrong with one call of a model, as a value that failover and breaker read. Never a text.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why an attempt brought no usable answer: the rows of SPEC 4's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Connect refused or reset, 408, 500, 502, 503, 504, 529, a stream that broke or ended without its terminal event.
    Unavailable,
    /// No progress within the time allowed for the call.
    TimedOut,
    /// 200, but no answer in the provider's format: HTML, no choices, not UTF-8, too large.
    Malformed,
    /// The host's name did not resolve or no route leads to it.
    Network(NetworkFault),
    /// The server's certificate was refused.
    Tls,
    /// 409.
    Conflict,
    /// 429 that is not an exhausted quota. `retry_after` where the provider named a time.
    RateLimited {
        /// As told in `Retry-After` (seconds or date) or in the body; not yet capped.
        retry_after: Option<Duration>,
    },
    /// 429 with exhausted quota, 402, or the same said in a 400's body.
    QuotaExhausted,
    /// 401, 403, 404: the key or the model's name is wrong.
    Denied,
    /// No call can be made: no key, no such program.
    Uncallable,
    /// 400, 413 or 422 that says that the prompt is too long for the model.
    ContextTooLong,
    /// 400, 422 or another 4xx otherwise: our own request is wrong.
    BadRequest,
    /// 200 in format, but empty, or not the JSON or the blocks that were asked for.
    BadAnswer,
    /// The answer was cut by the token limit (`finish_reason: length`).
    Truncated,
    /// Refused by a content filter.
    Filtered,
    /// Given up by us.
    Cancelled,
}

/// What the network layer said, for telling our own outage from a host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkFault {
    /// The resolver answered: there is no such name.
    NoSuchHost,
    /// The resolver itself could not be reached or failed for now.
    ResolverDown,
    /// The network or host is unreachable: no route.
    Unreachable,
}

/// One failed attempt, as the client reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFault {
    /// The row of the table.
    pub fault: Fault,
    /// The provider's own word (`x-should-retry: true|false`), which goes before the table.
    pub should_retry: Option<bool>,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// For a person, at most 500 characters, without keys. For [`Fault::BadAnswer`]: what was wrong with the answer, in
    /// words that can be told to the model.
    pub message: String,
    /// What was paid for although it is of no use: a cut, filtered or empty answer.
    pub usage: Usage,
    /// The provider's id of the request, for asking it what happened; at most 200 characters.
    pub request_id: Option<String>,
}

impl Fault {
    /// The row's name as one word, for logs and traces: `unavailable`, `timed_out`, …
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Malformed => "malformed",
            Self::Network(_) => "network",
            Self::Tls => "tls",
            Self::Conflict => "conflict",
            Self::RateLimited { .. } => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Denied => "denied",
            Self::Uncallable => "uncallable",
            Self::ContextTooLong => "context_too_long",
            Self::BadRequest => "bad_request",
            Self::BadAnswer => "bad_answer",
            Self::Truncated => "truncated",
            Self::Filtered => "filtered",
            Self::Cancelled => "cancelled",
        }
    }
}

impl CallFault {
    /// A fault without a status or a word of the provider.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        let (message, usage) = (message.into(), Usage::default());
        Self { fault, should_retry: None, status: None, message, usage, request_id: None }
    }
}

/// Tokens of one call, as the provider counted them; zero where it did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
}
