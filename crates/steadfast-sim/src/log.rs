//! What was asked and what was answered: a bounded record of the latest requests, and counts of all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ask::Ask;

/// How many requests the log keeps; older ones are forgotten.
pub const MAX_LOGGED: usize = 20_000;
/// The longest prompt that is kept, in bytes.
const MAX_PROMPT: usize = 64 << 10;
/// Models with a count of their own; further names share `(others)`.
const MAX_NAMES: usize = 1_000;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has not: the server waits or sends.
    Open,
    /// The whole answer was handed to the connection.
    Sent,
    /// The script ended the connection.
    Dropped,
    /// The client went, or the server was stopped, before the answer's end.
    Abandoned,
}

/// One request as the server saw it. Times are since the server's start, in seconds in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    /// 1 for the server's first request, in order of arrival.
    pub seq: u64,
    /// When its last byte had arrived.
    #[serde(serialize_with = "seconds")]
    pub at: Duration,
    /// When it ended; `None` while it is open.
    #[serde(serialize_with = "maybe_seconds")]
    pub ended: Option<Duration>,
    /// How it ended.
    pub end: End,
    /// The model's name on the wire; empty where the request had none.
    pub model: String,
    /// `X-Steadfast-Role`.
    pub role: Option<String>,
    /// `X-Steadfast-Session`.
    pub session: Option<String>,
    /// `X-Steadfast-Idea`.
    pub idea: Option<String>,
    /// `X-Steadfast-Milestone`, from 1.
    pub milestone: Option<u32>,
    /// `X-Steadfast-File`, decoded.
    pub file: Option<String>,
    /// `X-Steadfast-Attempt`, from 1.
    pub attempt: Option<u32>,
    /// `X-Steadfast-Attempt-Id`.
    pub attempt_id: Option<String>,
    /// `traceparent`; left out in JSON where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The client asked for a stream.
    pub stream: bool,
    /// Size of the request's body in bytes.
    pub request_bytes: usize,
    /// The texts of its messages, at most 64 KiB; only with `keep_prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The rule that took it, by its name or as `rule N`; `None`: no rule did.
    pub rule: Option<String>,
    /// `answer`, `status 503`, or the fault's word.
    pub answered: String,
    /// The HTTP status sent; 0 where none was.
    pub status: u16,
}

fn seconds<S: serde::Serializer>(span: &Duration, out: S) -> Result<S::Ok, S::Error> {
    // Microseconds are enough, and keep the JSON short.
    out.serialize_f64((span.as_secs_f64() * 1e6).round() / 1e6)
}

fn maybe_seconds<S: serde::Serializer>(span: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => seconds(span, out),
        None => out.serialize_none(),
    }
}

#[derive(Debug)]
struct Kept {
    requests: VecDeque<Request>,
    total: u64,
    open: u64,
    models: BTreeMap<String, u64>,
}

/// The log, shared by all connections.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    kept: Arc<Mutex<Kept>>,
    start: Instant,
}

impl Log {
    pub(crate) fn new() -> Self {
        let kept = Kept { requests: VecDeque::new(), total: 0, open: 0, models: BTreeMap::new() };
        Self { kept: Arc::new(Mutex::new(kept)), start: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing that holds the lock can leave a half-written entry, so a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a request and what it will be answered with.
    pub(crate) fn enter(
        &self,
        ask: &Ask,
        keep_prompt: bool,
        rule: Option<&str>,
        answered: String,
        status: u16,
    ) -> Ticket {
        let prompt = ask.prompt.as_ref().filter(|_| keep_prompt);
        let prompt = prompt.map(|text| crate::wire::cut(text, MAX_PROMPT).to_owned());
        let at = self.start.elapsed();
        let mut kept = self.lock();
        kept.total += 1;
        kept.open += 1;
        let seq = kept.total;
        let name =
            if kept.models.len() < MAX_NAMES || kept.models.contains_key(&ask.model) { &ask.model } else { "(others)" };
        match kept.models.get_mut(name) {
            Some(n) => *n += 1,
            None => {
                let name = name.to_owned();
                let _ = kept.models.insert(name, 1);
            }
        }
        if kept.requests.len() == MAX_LOGGED {
            kept.requests.pop_front();
        }
        kept.requests.push_back(Request {
            seq,
            at,
            ended: None,
            end: End::Open,
            model: ask.model.clone(),
            role: ask.role.clone(),
            session: ask.session.clone(),
            idea: ask.idea.clone(),
            milestone: ask.milestone,
            file: ask.file.clone(),
            attempt: ask.attempt,
            attempt_id: ask.attempt_id.clone(),
            traceparent: ask.traceparent.clone(),
            stream: ask.stream,
            request_bytes: ask.prompt_bytes,
            prompt,
            rule: rule.map(str::to_owned),
            answered,
            status,
        });
        drop(kept);
        Ticket { log: self.clone(), seq, reported: false }
    }

    fn leave(&self, seq: u64, end: End) {
        let ended = self.start.elapsed();
        let mut kept = self.lock();
        kept.open -= 1;
        let first = kept.requests.front().map_or(0, |request| request.seq);
        let at = seq.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(request) = at.and_then(|at| kept.requests.get_mut(at)) {
            (request.end, request.ended) = (end, Some(ended));
        }
    }

    /// The requests after number `after` that are still kept, oldest first.
    pub(crate) fn requests(&self, after: u64) -> Vec<Request> {
        let kept = self.lock();
        let first = kept.requests.front().map_or(1, |request| request.seq);
        let skip = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        kept.requests.iter().skip(skip).cloned().collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    /// Counts as `/__count` shows them.
    pub(crate) fn counts(&self) -> Value {
        let kept = self.lock();
        json!({ "requests": kept.total, "open": kept.open, "kept": kept.requests.len(), "models": kept.models })
    }
}

/// Reports how a request ended: the first report counts, and letting it go without one means abandoned.
#[derive(Debug)]
pub(crate) struct Ticket {
    log: Log,
    seq: u64,
    reported: bool,
}

impl Ticket {
    /// The request's number.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The answer is handed over. Reported before the client can have it, so that a client that has it finds it logged.
    pub(crate) fn sent(&mut self) {
        self.report(End::Sent);
    }

    pub(crate) fn dropped(&mut self) {
        self.report(End::Dropped);
    }

    fn report(&mut self, end: End) {
        if !self.reported {
            self.reported = true;
            self.log.leave(self.seq, end);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.report(End::Abandoned);
    }
}
