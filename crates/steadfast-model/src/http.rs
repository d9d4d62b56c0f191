//! One call over HTTP: sends a request, reads the answer in whichever form it comes, says what went wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SERVER};
use reqwest::{Client, Response, Url};
use secrecy::ExposeSecret;
use serde_json::Value;
use steadfast_core::fault::{CallFault, Fault};

use crate::answer::{AnswerFormat, MAX_ANSWER_BYTES, Problem};
use crate::call::{CallRequest, Completion};
use crate::context;
use crate::pool::{self, Reach, Reuse};
use crate::refusal;
use crate::report::Reporter;
use crate::settings::{ProviderSettings, Uncallable};
use crate::sse::SseParser;
use crate::transport;

/// An error's body is read up to here; all that matters stands at its beginning.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// OpenRouter's list of hundreds of models with their descriptions has about 1 MiB.
const MAX_LIST_BYTES: usize = 16 << 20;
/// The body of an error must come within this time; without it the status alone counts.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// After the terminal event the end of the body mostly stands in the same packet: the call waits so long for it.
const END_TIMEOUT: Duration = Duration::from_millis(1);
/// Then the call is over, and the connection is kept for the next one if the end comes within this time. (Nagle's
/// algorithm and delayed acknowledgements hold it back for 40 ms at servers that write it separately.)
const LATE_END_TIMEOUT: Duration = Duration::from_secs(1);
/// Some servers put a byte order mark before their JSON; RFC 8259 section 8.1 lets readers skip it.
const BOM: &[u8] = "\u{feff}".as_bytes();
/// A connection that closes under a call so soon after an answer was closing when the call was sent.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// So much of a body that is no answer is shown, in characters.
const SHOWN_CHARS: usize = 160;

/// Where a model's calls go.
pub(crate) struct Endpoint {
    url: Url,
    reach: Reach,
    host: String,
    headers: HeaderMap,
    traced: bool,
    reporter: Reporter,
    closings: Closings,
}

/// Whether the server closes a connection after an answer although it promised to keep it. What is built on cpp-httplib
/// does so after each stream: llama-server (which says its name), llamafile, koboldcpp. A call sent in this moment is lost,
/// and the next call often comes at once: it repeats or mends the last one.
struct Closings {
    origin: Instant,
    /// When the last answer ended, in milliseconds since `origin`, plus one. 0: none has.
    last_end_ms: AtomicU64,
    seen: AtomicBool,
}

impl Closings {
    fn new() -> Self {
        Self { origin: Instant::now(), last_end_ms: AtomicU64::new(0), seen: AtomicBool::new(false) }
    }

    fn reuse(&self) -> Reuse {
        if self.seen.load(Ordering::Relaxed) { Reuse::Never } else { Reuse::Kept }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn answered(&self, headers: &HeaderMap) {
        if headers.get(SERVER).is_some_and(|name| name.as_bytes().starts_with(b"llama.cpp")) {
            self.seen.store(true, Ordering::Relaxed);
        }
    }

    fn answer_ended(&self) {
        self.last_end_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// A call brought no response, although there was a connection. The call has failed all the same: whether the server
    /// had begun with it cannot be known.
    fn lost_a_call(&self) {
        let last = self.last_end_ms.load(Ordering::Relaxed);
        if last > 0 && u128::from(self.now_ms().saturating_sub(last)) <= CLOSING_TIME.as_millis() {
            self.seen.store(true, Ordering::Relaxed);
        }
    }
}

/// A call without an answer.
pub(crate) struct Failed {
    pub(crate) fault: CallFault,
    /// For a response with an error status: what it said, in lower case. Else empty.
    pub(crate) said: String,
}

impl From<CallFault> for Failed {
    fn from(fault: CallFault) -> Self {
        Self { fault, said: String::new() }
    }
}

impl Endpoint {
    /// `path` is what follows the base URL; `credential` makes of the key the header that carries it.
    pub(crate) fn new(
        settings: &ProviderSettings,
        path: impl FnOnce(&Url) -> &'static [&'static str],
        credential: impl FnOnce(&str) -> (HeaderName, String),
    ) -> Result<Self, Uncallable> {
        let mut url = base_url(&settings.base_url)?;
        let path = path(&url);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        if let Some(key) = &settings.key {
            let key = key.expose_secret().trim();
            if key.is_empty() {
                return Err(Uncallable::new("the key is empty"));
            }
            let (name, value) = credential(key);
            let unfit = |_| Uncallable::new("the key holds a character that cannot go into a header");
            let mut value = HeaderValue::try_from(value).map_err(unfit)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let key = settings.key.as_ref().map(|key| key.expose_secret().trim().into());
        let host = url.host_str().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
        let (reach, reporter, closings) = (Reach::of(&url), Reporter::new(key), Closings::new());
        Ok(Self { reach, url, host, headers, traced: settings.traced, reporter, closings })
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Makes the call with this body within the request's time.
    pub(crate) async fn call<F: AnswerFormat>(&self, body: Bytes, request: &CallRequest) -> Result<Completion, Failed> {
        let mut progress = Progress::Sending;
        let exchange = self.exchange::<F>(body, request, &mut progress);
        match tokio::time::timeout(request.timeout, exchange).await {
            Ok(outcome) => {
                // Lets the connection's own task hand it back to the pool before the caller makes its next call.
                tokio::task::yield_now().await;
                outcome
            }
            Err(_) => {
                let state = match progress {
                    Progress::Sending => "no response had begun".to_owned(),
                    Progress::Reading(bytes) => format!("{bytes} bytes of it had come"),
                };
                let message = format!("no complete answer within {:?}; {state}", request.timeout);
                Err(self.reporter.fault(Fault::TimedOut, &message).into())
            }
        }
    }

    /// Whether a key goes along.
    pub(crate) fn has_key(&self) -> bool {
        self.headers.values().any(HeaderValue::is_sensitive)
    }

    /// The address of the calls with its last `n` segments replaced by `path`.
    pub(crate) fn beside(&self, n: usize, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            for _ in 0..n {
                segments.pop();
            }
            segments.extend(path);
        }
        url
    }

    /// Reads a document that costs nothing.
    pub(crate) async fn get(&self, url: Url, with_key: bool, timeout: Duration) -> Result<Value, CallFault> {
        let exchange = async {
            let client = self.client().await?;
            let headers = self.headers.iter().filter(|(_, value)| with_key || !value.is_sensitive());
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect::<HeaderMap>();
            let sent = client.get(url).headers(headers).send().await;
            let mut response = sent.map_err(|error| self.no_response(&error))?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let mut body = Vec::new();
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_LIST_BYTES => body.extend_from_slice(&chunk),
                    Ok(Some(_)) => return Err(self.failed(Fault::Malformed, &response, "the list is too long")),
                    Ok(None) => break,
                    Err(error) => return Err(self.no_response(&error)),
                }
            }
            serde_json::from_slice(&body).map_err(|_| {
                self.failed(Fault::Malformed, &response, &format!("the list is no JSON: {}", shown(&body)))
            })
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(outcome) => outcome.map_err(|failed| failed.fault),
            Err(_) => Err(self.reporter.fault(Fault::TimedOut, &format!("no answer within {timeout:?}"))),
        }
    }

    async fn client(&self) -> Result<Client, Failed> {
        let unusable = |cause| format!("the root certificates of this system cannot be used: {cause}");
        let client = pool::client(self.reach, self.closings.reuse()).await;
        client.map_err(|cause| self.reporter.fault(Fault::Tls, &unusable(cause)).into())
    }

    async fn exchange<F: AnswerFormat>(
        &self,
        body: Bytes,
        request: &CallRequest,
        progress: &mut Progress,
    ) -> Result<Completion, Failed> {
        let client = self.client().await?;
        let mut headers = self.headers.clone();
        context::add_headers(&mut headers, &request.context, self.traced);
        let sent = client.post(self.url.clone()).headers(headers).body(body).send().await;
        let mut response = sent.map_err(|error| self.no_response(&error))?;
        *progress = Progress::Reading(0);
        self.closings.answered(response.headers());
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(response).await);
        }
        match read_answer::<F>(&mut response, progress).await {
            Ok((answer, end)) => {
                self.closings.answer_ended();
                let concluded = answer.into_draft().conclude(Some(response.headers()), &self.reporter);
                let response_id = request_id(response.headers(), &self.reporter);
                match end {
                    End::Reached => {}
                    End::Due => read_late_end(response),
                }
                let status = Some(status.as_u16());
                Ok(concluded.map_err(|fault| CallFault { status, ..with_id(fault, response_id) })?)
            }
            Err(NoAnswer::Problem(Problem::Provider(error))) => {
                let fault = refusal::in_answer(&error, response.headers(), SystemTime::now(), &self.reporter);
                Err(with_id(fault, request_id(response.headers(), &self.reporter)).into())
            }
            Err(NoAnswer::Problem(Problem::Malformed(how))) => Err(self.failed(Fault::Malformed, &response, &how)),
            Err(NoAnswer::Broken(fault, how)) => Err(self.failed(fault, &response, &how)),
        }
    }

    fn failed(&self, fault: Fault, response: &Response, message: &str) -> Failed {
        let fault = CallFault { status: Some(response.status().as_u16()), ..self.reporter.fault(fault, message) };
        with_id(fault, request_id(response.headers(), &self.reporter)).into()
    }

    fn no_response(&self, error: &reqwest::Error) -> Failed {
        let authority = match self.url.port() {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        };
        let message = if error.is_connect() && error.is_timeout() {
            format!("no connection to {authority} within {:?}", pool::CONNECT_TIMEOUT)
        } else if error.is_connect() {
            format!("no connection to {authority}: {}", transport::root_cause(error))
        } else {
            self.closings.lost_a_call();
            format!("{authority} gave no response: {}", transport::root_cause(error))
        };
        self.reporter.fault(transport::classify(error), &message).into()
    }

    async fn refused(&self, mut response: Response) -> Failed {
        let mut body = Vec::new();
        // A body that breaks off or does not come changes nothing: the status has been said.
        let read = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BYTES - body.len())]);
                if body.len() == MAX_ERROR_BYTES {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
        let (status, headers) = (response.status().as_u16(), response.headers());
        let (fault, error) = refusal::of_response(status, headers, &body, SystemTime::now(), &self.reporter);
        Failed { fault: with_id(fault, request_id(headers, &self.reporter)), said: error.words() }
    }
}

/// The provider's own name of a request, under the names that headers have for it.
pub(crate) fn request_id(headers: &HeaderMap, reporter: &Reporter) -> Option<String> {
    let names = ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid"];
    names.iter().find_map(|name| headers.get(*name)?.to_str().ok()).and_then(|id| reporter.label(id))
}

fn with_id(fault: CallFault, request_id: Option<String>) -> CallFault {
    CallFault { request_id, ..fault }
}

/// How far a call had come, for the message when its time was up.
enum Progress {
    Sending,
    /// So many bytes of the body.
    Reading(usize),
}

/// Whether the body was read to its end, without which its connection cannot serve another call.
enum End {
    Reached,
    /// The answer is whole, but its body has not ended.
    Due,
}

/// Reads what is left of the body so that the connection goes back to the pool. On its own, for the call is over; nobody
/// looks at its end, for all that it can lose is that one connection.
fn read_late_end(mut response: Response) {
    let rest = async move { while let Ok(Some(_)) = response.chunk().await {} };
    tokio::spawn(tokio::time::timeout(LATE_END_TIMEOUT, rest));
}

enum NoAnswer {
    Problem(Problem),
    Broken(Fault, String),
}

impl From<Problem> for NoAnswer {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn malformed(how: impl Into<String>) -> NoAnswer {
    NoAnswer::Problem(Problem::Malformed(how.into()))
}

async fn next_chunk(response: &mut Response, progress: &mut Progress) -> Result<Option<Bytes>, NoAnswer> {
    let so_far = match progress {
        Progress::Reading(bytes) => *bytes,
        Progress::Sending => 0,
    };
    match response.chunk().await {
        Ok(Some(chunk)) => {
            *progress = Progress::Reading(so_far + chunk.len());
            Ok(Some(chunk))
        }
        Ok(None) => Ok(None),
        Err(error) => {
            let how = format!("the answer broke off after {so_far} bytes: {}", transport::root_cause(&error));
            Err(NoAnswer::Broken(transport::classify(&error), how))
        }
    }
}

/// The first byte tells a document from a stream: servers answer a streaming request with plain JSON, or the other way
/// round, and label either wrongly.
async fn read_answer<F: AnswerFormat>(response: &mut Response, progress: &mut Progress) -> Result<(F, End), NoAnswer> {
    let labelled_stream = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
    let (head, first) = loop {
        match next_chunk(response, progress).await? {
            Some(chunk) => {
                let text = chunk.strip_prefix(BOM).unwrap_or(&chunk);
                if let Some(first) = text.iter().copied().find(|byte| !byte.is_ascii_whitespace()) {
                    break (chunk, first);
                }
            }
            None if labelled_stream => return Err(ended_early(0)),
            None => return Err(malformed("the body of the answer is empty")),
        }
    };
    match first {
        b'{' | b'[' => Ok((read_document(response, progress, head).await?, End::Reached)),
        b'<' => Err(malformed(format!("the answer is HTML or XML, not JSON: {}", shown(&head)))),
        b':' | b'd' | b'e' | b'i' | b'r' => read_stream(response, progress, head, labelled_stream).await,
        _ if labelled_stream => read_stream(response, progress, head, true).await,
        _ => Err(malformed(format!("the answer is neither JSON nor an event stream: {}", shown(&head)))),
    }
}

async fn read_document<F: AnswerFormat>(
    response: &mut Response,
    progress: &mut Progress,
    head: Bytes,
) -> Result<F, NoAnswer> {
    // JSON escapes make a document larger than its text, sixfold at worst; twice is what answers come to.
    const MAX_BYTES: usize = 2 * MAX_ANSWER_BYTES;
    let mut body = Vec::from(head);
    while let Some(chunk) = next_chunk(response, progress).await? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(malformed("the answer is larger than 16 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    let text = str::from_utf8(&body).map_err(|_| malformed("the answer is not UTF-8"))?;
    let document = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| malformed(format!("the answer is no JSON ({error}): {}", shown(text.as_bytes()))))?;
    let mut answer = F::default();
    answer.document(document)?;
    Ok(answer)
}

async fn read_stream<F: AnswerFormat>(
    response: &mut Response,
    progress: &mut Progress,
    head: Bytes,
    labelled_stream: bool,
) -> Result<(F, End), NoAnswer> {
    let mut answer = F::default();
    let mut events = 0_usize;
    let mut parser = SseParser::default();
    let mut next = Some(head.clone());
    while let Some(chunk) = next {
        parser.feed(&chunk, &mut |event| {
            events += 1;
            if answer.is_done() { Ok(()) } else { answer.event(&event) }
        })?;
        if answer.is_done() {
            let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
            let ended = tokio::time::timeout(END_TIMEOUT, rest).await;
            return Ok((answer, if ended.is_ok() { End::Reached } else { End::Due }));
        }
        next = next_chunk(response, progress).await?;
    }
    let last = parser.finish(&mut |event| {
        events += 1;
        answer.event(&event)
    });
    match last {
        // An event that stands there half is what a stream that was cut looks like.
        Err(Problem::Malformed(_)) => Err(ended_early(events)),
        Err(problem) => Err(problem.into()),
        Ok(()) if events == 0 && !labelled_stream => {
            Err(malformed(format!("the answer is neither JSON nor an event stream: {}", shown(&head))))
        }
        Ok(()) if answer.is_done() || answer.may_end() => Ok((answer, End::Reached)),
        Ok(()) => Err(ended_early(events)),
    }
}

fn ended_early(events: usize) -> NoAnswer {
    let how = format!("the stream ended without its terminal event, after {events} events");
    NoAnswer::Broken(Fault::Unavailable, how)
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS)]).chars().take(SHOWN_CHARS).collect()
}

fn base_url(text: &str) -> Result<Url, Uncallable> {
    let url = Url::parse(text.trim())
        .map_err(|error| Uncallable::new(format!("base_url is no address ({error}): write http://host/v1")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(Uncallable::new("base_url must begin with http:// or https:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Uncallable::new("base_url holds a user or password; set the key in api_key_env or api_key_file"));
    }
    Ok(url)
}
