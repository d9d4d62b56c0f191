//! Answers and errors in the formats of OpenAI and Anthropic, plain and as streams, sound and broken.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::ask::{Ask, Endpoint};
use crate::body::Step;
use crate::script::Fault;

/// What is sent: the head's facts and the body's steps.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) steps: Vec<Step>,
    /// The body's length where it is announced.
    pub(crate) announced: Option<u64>,
    /// The connection ends with a reset instead of an orderly end.
    pub(crate) reset: bool,
}

/// How a stream is cut and timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Characters in one event.
    pub(crate) chunk: usize,
    /// Between two events.
    pub(crate) interval: Duration,
}

/// Bytes written before a break must leave the process first: a reset throws away what the kernel has not sent.
const BEFORE_BREAK: Duration = Duration::from_millis(10);
/// Stands for bytes that are no UTF-8 until the body is rendered (a private-use character, so no text has it).
const MARK: &str = "\u{e0ff}";

impl Reply {
    fn whole(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let announced = Some(body.len() as u64);
        Self { status, content_type, steps: vec![Step::Data(body)], announced, reset: false }
    }

    /// An error with its status; without a body of the script's, the one that providers send.
    pub(crate) fn error(endpoint: Endpoint, code: u16, body: Option<&str>) -> Self {
        match body {
            Some(body) => {
                let kind = if body.trim_start().starts_with(['{', '[']) {
                    "application/json"
                } else {
                    "text/plain; charset=utf-8"
                };
                Self::whole(code, kind, body.to_owned())
            }
            None => {
                let (kind, said, message) = usual(code);
                Self::whole(code, "application/json", error_body(endpoint, kind, said, message).to_string())
            }
        }
    }

    /// An answer with this text.
    pub(crate) fn answer(ask: &Ask, seq: u64, text: &str, fault: Option<Fault>, pace: Pace) -> Self {
        let page = "<!doctype html>\n<html><head><title>Welcome</title></head><body><h1>Welcome to nginx!</h1></body></html>\n";
        let error = |code, kind, said, message| {
            Self::whole(code, "application/json", error_body(ask.endpoint, kind, Some(said), message).to_string())
        };
        match fault {
            Some(Fault::Html) => Self::whole(200, "text/html; charset=utf-8", page),
            Some(Fault::Quota) => error(
                429,
                "insufficient_quota",
                "insufficient_quota",
                "You exceeded your current quota, please check your plan and billing details.",
            ),
            Some(Fault::QuotaIn400) => error(
                400,
                "invalid_request_error",
                "insufficient_quota",
                "Your credit balance is too low to access the API.",
            ),
            Some(Fault::ContextTooLong) => error(
                400,
                "invalid_request_error",
                "context_length_exceeded",
                "This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens.",
            ),
            _ => {
                let (text, stop) = match fault {
                    Some(Fault::Truncated) => (half(text), Stop::Length),
                    Some(Fault::Filtered) => ("", Stop::Filter),
                    _ => (text, Stop::End),
                };
                let answer =
                    Answer { ask, seq, stop, input: ask.prompt_bytes.div_ceil(4), output: text.len().div_ceil(4) };
                if ask.stream && fault != Some(Fault::Plain) {
                    answer.streamed(text, fault, pace)
                } else {
                    answer.plain(text, fault)
                }
            }
        }
    }
}

/// The first half of a text, by characters.
fn half(text: &str) -> &str {
    cut(text, text.len() / 2)
}

/// At most `max` bytes of a text, whole characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// The error's type, its code and its message for a status, as OpenAI words them.
fn usual(code: u16) -> (&'static str, Option<&'static str>, &'static str) {
    match code {
        400 => ("invalid_request_error", Some("invalid_value"), "The request is not valid."),
        401 => ("invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided."),
        402 => ("insufficient_quota", Some("payment_required"), "Payment required: add credit to your account."),
        403 => ("permission_error", Some("forbidden"), "You are not allowed to use this model."),
        404 => (
            "invalid_request_error",
            Some("model_not_found"),
            "The model does not exist or you do not have access to it.",
        ),
        408 => ("server_error", Some("request_timeout"), "The request took too long to arrive."),
        409 => ("conflict_error", Some("conflict"), "The request conflicts with another one."),
        413 => ("invalid_request_error", Some("request_too_large"), "The request exceeds the maximum size."),
        422 => ("invalid_request_error", Some("unprocessable_entity"), "The request cannot be processed."),
        429 => ("rate_limit_error", Some("rate_limit_exceeded"), "Rate limit reached."),
        502 => ("server_error", None, "Bad gateway."),
        503 => ("server_error", None, "The server is overloaded or not ready yet."),
        504 => ("server_error", None, "The upstream server did not answer in time."),
        529 => ("overloaded_error", None, "Overloaded."),
        _ if code >= 500 => ("server_error", None, "The server had an error while processing your request."),
        _ => ("invalid_request_error", None, "The request was refused."),
    }
}

fn error_body(endpoint: Endpoint, kind: &str, code: Option<&str>, message: &str) -> Value {
    match endpoint {
        Endpoint::Chat => {
            json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
        }
        Endpoint::Messages => {
            json!({ "type": "error", "error": { "type": kind, "message": message } })
        }
    }
}

/// Why the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    End,
    Length,
    Filter,
}

impl Stop {
    fn word(self, endpoint: Endpoint) -> &'static str {
        match (endpoint, self) {
            (Endpoint::Chat, Self::End) => "stop",
            (Endpoint::Chat, Self::Length) => "length",
            (Endpoint::Chat, Self::Filter) => "content_filter",
            (Endpoint::Messages, Self::End) => "end_turn",
            (Endpoint::Messages, Self::Length) => "max_tokens",
            (Endpoint::Messages, Self::Filter) => "refusal",
        }
    }
}

struct Answer<'a> {
    ask: &'a Ask,
    seq: u64,
    stop: Stop,
    /// Tokens, estimated as a quarter of the bytes.
    input: usize,
    output: usize,
}

impl Answer<'_> {
    fn plain(&self, text: &str, fault: Option<Fault>) -> Reply {
        let kind = "application/json";
        if fault == Some(Fault::NoChoices) {
            return Reply::whole(
                200,
                kind,
                json!({ "id": self.id(), "object": "chat.completion", "model": self.ask.model }).to_string(),
            );
        }
        if fault == Some(Fault::StreamError) {
            return Reply::whole(200, kind, self.error_inside().to_string());
        }
        if let Some(Fault::Huge(size)) = fault {
            let body = self.object(MARK);
            let (before, after) = body.split_once(MARK).unwrap_or((&body, ""));
            let line = Bytes::from(vec![b'a'; 64 << 10]);
            let times = size.div_ceil(line.len() as u64);
            let announced = (before.len() + after.len()) as u64 + times * line.len() as u64;
            let steps = vec![
                Step::Data(Bytes::copy_from_slice(before.as_bytes())),
                Step::Repeat(line, times),
                Step::Data(Bytes::copy_from_slice(after.as_bytes())),
            ];
            return Reply { status: 200, content_type: kind, steps, announced: Some(announced), reset: false };
        }
        let body = render(self.object(&marked(text, fault)));
        let part = body.slice(..body.len() / 2);
        let announced = Some(body.len() as u64);
        let (steps, announced) = match fault {
            Some(Fault::BadJson) => (vec![Step::Data(part)], Some(body.len() as u64 / 2)),
            Some(Fault::Stall) => (vec![Step::Data(part), Step::Stall], announced),
            // A plain answer has no terminal event; what comes nearest is a body that ends before its announced length.
            Some(Fault::NoDone | Fault::CutStream | Fault::BrokenStream) => {
                (vec![Step::Data(part), Step::Wait(BEFORE_BREAK), Step::Break], announced)
            }
            _ => (vec![Step::Data(body)], announced),
        };
        Reply { status: 200, content_type: kind, steps, announced, reset: fault == Some(Fault::BrokenStream) }
    }

    fn streamed(&self, text: &str, fault: Option<Fault>, pace: Pace) -> Reply {
        let marked = marked(text, fault);
        let mut events: Vec<String> = self.opening();
        let opening = events.len();
        events.extend(pieces(&marked, pace.chunk).map(|piece| self.piece(piece)));
        let middle = opening + (events.len() - opening) / 2;
        let mut last = Step::Data(Bytes::from(self.closing()));
        let mut ending = vec![];
        match fault {
            Some(Fault::NoChoices) => {
                // A stream that ends as it should and has nothing in it, not even a reason to stop.
                let (event, end) = match self.ask.endpoint {
                    Endpoint::Chat => ("{\"object\":\"chat.completion.chunk\"}", "data: [DONE]\n\n".to_owned()),
                    Endpoint::Messages => {
                        ("{\"type\":\"ping\"}", named("message_stop", &json!({ "type": "message_stop" })))
                    }
                };
                events = vec![format!("data: {event}\n\n")];
                last = Step::Data(Bytes::from(end));
            }
            Some(Fault::NoDone) => last = Step::Wait(Duration::ZERO),
            Some(Fault::StreamError) => {
                events.truncate(middle);
                let name = if self.ask.endpoint == Endpoint::Messages { "event: error\n" } else { "" };
                last = Step::Data(Bytes::from(format!("{name}data: {}\n\n", self.error_inside())));
            }
            Some(Fault::BadJson) => {
                events.truncate(middle);
                events.push("data: {\"id\":\"sim\",\"choices\":[{\"index\":0,\"del\n\n".to_owned());
            }
            Some(Fault::Stall) => {
                events.truncate(middle);
                last = Step::Stall;
            }
            Some(Fault::CutStream | Fault::BrokenStream) => {
                events.truncate(middle);
                last = Step::Wait(BEFORE_BREAK);
                ending.push(Step::Break);
            }
            Some(Fault::Huge(size)) => {
                let event = Bytes::from(self.piece(&"a".repeat(32 << 10)));
                events.truncate(opening);
                ending.push(last);
                last = Step::Repeat(event.clone(), size.div_ceil(event.len() as u64));
            }
            _ => {}
        }
        let mut steps = timed(events, pace.interval);
        steps.push(last);
        steps.append(&mut ending);
        Reply {
            status: 200,
            content_type: "text/event-stream",
            steps,
            announced: None,
            reset: fault == Some(Fault::BrokenStream),
        }
    }

    fn id(&self) -> String {
        match self.ask.endpoint {
            Endpoint::Chat => format!("chatcmpl-sim-{}", self.seq),
            Endpoint::Messages => format!("msg_sim_{}", self.seq),
        }
    }

    fn error_inside(&self) -> Value {
        error_body(self.ask.endpoint, "server_error", None, "The server had an error while processing your request.")
    }

    /// The whole answer of a plain request.
    fn object(&self, text: &str) -> String {
        let stop = self.stop.word(self.ask.endpoint);
        let answer = match self.ask.endpoint {
            Endpoint::Chat => json!({
                "id": self.id(), "object": "chat.completion", "created": unix_seconds(), "model": self.ask.model,
                "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": stop }],
                "usage": self.usage(),
            }),
            Endpoint::Messages => json!({
                "id": self.id(), "type": "message", "role": "assistant", "model": self.ask.model,
                "content": [{ "type": "text", "text": text }], "stop_reason": stop, "stop_sequence": null,
                "usage": { "input_tokens": self.input, "output_tokens": self.output },
            }),
        };
        answer.to_string()
    }

    fn usage(&self) -> Value {
        json!({ "prompt_tokens": self.input, "completion_tokens": self.output, "total_tokens": self.input + self.output })
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>) -> String {
        let event = json!({
            "id": self.id(), "object": "chat.completion.chunk", "created": unix_seconds(), "model": self.ask.model,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
        });
        format!("data: {event}\n\n")
    }

    fn opening(&self) -> Vec<String> {
        match self.ask.endpoint {
            Endpoint::Chat => {
                vec![self.chunk(&json!({ "role": "assistant", "content": "" }), None)]
            }
            Endpoint::Messages => {
                let message = json!({
                    "id": self.id(), "type": "message", "role": "assistant", "model": self.ask.model, "content": [],
                    "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": self.input, "output_tokens": 0 },
                });
                vec![
                    named("message_start", &json!({ "type": "message_start", "message": message })),
                    named(
                        "content_block_start",
                        &json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
                    ),
                ]
            }
        }
    }

    fn piece(&self, text: &str) -> String {
        match self.ask.endpoint {
            Endpoint::Chat => self.chunk(&json!({ "content": text }), None),
            Endpoint::Messages => named(
                "content_block_delta",
                &json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": text } }),
            ),
        }
    }

    /// The finish reason, the counts where they were asked for, and the terminal event.
    fn closing(&self) -> String {
        let stop = self.stop.word(self.ask.endpoint);
        match self.ask.endpoint {
            Endpoint::Chat => {
                let mut closing = self.chunk(&json!({}), Some(stop));
                if self.ask.include_usage {
                    let usage = json!({
                        "id": self.id(), "object": "chat.completion.chunk", "created": unix_seconds(), "model": self.ask.model,
                        "choices": [], "usage": self.usage(),
                    });
                    closing.push_str(&format!("data: {usage}\n\n"));
                }
                closing.push_str("data: [DONE]\n\n");
                closing
            }
            Endpoint::Messages => [
                named("content_block_stop", &json!({ "type": "content_block_stop", "index": 0 })),
                named("message_delta", &json!({
                    "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null }, "usage": { "output_tokens": self.output },
                })),
                named("message_stop", &json!({ "type": "message_stop" })),
            ]
            .concat(),
        }
    }
}

fn named(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// One write for the whole stream when nothing is to be waited for: that is what makes an unpaced server fast.
fn timed(events: Vec<String>, interval: Duration) -> Vec<Step> {
    if interval.is_zero() {
        return vec![Step::Data(render(events.concat()))];
    }
    events.into_iter().flat_map(|event| [Step::Data(render(event)), Step::Wait(interval)]).collect()
}

fn pieces(text: &str, chunk: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.char_indices().nth(chunk).map_or(rest.len(), |(at, _)| at);
        let (piece, after) = rest.split_at(at);
        rest = after;
        Some(piece)
    })
}

fn marked(text: &str, fault: Option<Fault>) -> String {
    if fault == Some(Fault::NotUtf8) {
        let first = half(text);
        return format!("{first}{MARK}{}", &text[first.len()..]);
    }
    text.to_owned()
}

/// The body's bytes: the mark becomes two bytes that no UTF-8 text contains.
fn render(text: String) -> Bytes {
    match text.split_once(MARK) {
        None => Bytes::from(text),
        Some((before, after)) => Bytes::from([before.as_bytes(), &[0xff, 0xfe], after.as_bytes()].concat()),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_by_characters_and_nothing_is_lost() {
        let text = "äöü and so on";
        let cut: Vec<&str> = pieces(text, 4).collect();
        assert_eq!(cut, ["äöü ", "and ", "so o", "n"]);
        assert_eq!(pieces("", 4).count(), 0);
        assert_eq!(half("ää"), "ä");
        assert_eq!(half("ä"), "");
    }

    #[test]
    fn the_mark_becomes_bytes_that_are_no_utf8() {
        let body = render(marked("abcd", Some(Fault::NotUtf8)));
        assert_eq!(&body[..], b"ab\xff\xfecd");
        assert!(std::str::from_utf8(&body).is_err());
    }
}
