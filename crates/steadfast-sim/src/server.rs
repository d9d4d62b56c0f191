//! The server: connections, endpoints, and the handle by which it is held.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::answer;
use crate::ask::{Ask, Endpoint};
use crate::body::{Dropped, Steps};
use crate::choose::{Counts, fold, roll};
use crate::connection::Connection;
use crate::log::{Log, Request};
use crate::script::{Content, Effect, Fault, Script, Then};
use crate::wire::{Pace, Reply};

/// The most connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// The kernel's queue.
const BACKLOG: u32 = 4_096;
/// The largest request, in bytes.
const MAX_REQUEST: usize = 32 << 20;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {addr}")]
pub struct SimError {
    /// The address that was asked for.
    pub addr: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A simulated model server.
#[derive(Debug)]
pub struct Sim;

impl Sim {
    /// Listens on `addr` (port 0: a free one) and serves `script` on tasks of the calling tokio runtime. Does not block.
    ///
    /// # Errors
    /// [`SimError`] when the address cannot be had; nothing is left behind then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(addr: SocketAddr, script: Script) -> Result<SimHandle, SimError> {
        let failed = |source| SimError { addr, source };
        let listener = listen(addr).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared { live: Mutex::new(Arc::new(Live::new(script))), log: Log::new() });
        let (stop, stopped) = oneshot::channel();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), stopped));
        Ok(SimHandle { addr, shared, stop: Some(stop), accepting: Some(accepting) })
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started again at once must get its old port back; on Linux this allows no second listener.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// A running server. It ends when this is dropped; [`SimHandle::stop`] also waits for that.
pub struct SimHandle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<Infallible>>,
    accepting: Option<JoinHandle<()>>,
}

impl SimHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a provider's `base_url` is set to: `http://ADDR/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// The latest requests for answers, oldest first, at most [`crate::MAX_LOGGED`].
    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.requests(0)
    }

    /// How many requests for answers there were in all.
    pub fn total(&self) -> u64 {
        self.shared.log.total()
    }

    /// Serves another script from the next request on, with all counts at zero. The log goes on.
    pub fn set_script(&self, script: Script) {
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Live::new(script));
    }

    /// Stops listening, cuts all connections and waits until they are gone. Afterwards the port refuses connections.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(accepting) = self.accepting.take() {
            // It ends in an error only when its runtime is shutting down, and then everything is gone as well.
            let _ = accepting.await;
        }
    }
}

impl fmt::Debug for SimHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHandle").field("addr", &self.addr).finish_non_exhaustive()
    }
}

struct Shared {
    live: Mutex<Arc<Live>>,
    log: Log,
}

impl Shared {
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A script with its counts.
struct Live {
    script: Script,
    /// The texts of prompts are needed, for a rule or for the log.
    reads_prompts: bool,
    default: Then,
    counts: Mutex<Counts>,
}

impl Live {
    fn new(script: Script) -> Self {
        let reads_prompts = script.keep_prompts || script.rules.iter().any(|rule| !rule.matcher.prompt.is_empty());
        let effect = Effect::Answer { content: Content::Auto, fault: None };
        let default = Then { effect, headers: Vec::new(), delay: None, chunk: None, interval: None };
        Self { counts: Mutex::new(Counts::new(&script)), script, reads_prompts, default }
    }

    fn choose(&self, ask: &Ask) -> (Option<&str>, &Then) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = counts.choose(&self.script, ask);
        rule.map_or((None, &self.default), |rule| (Some(&rule.name), &rule.then))
    }

    fn refuses_connection(&self) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.refuse(&self.script).is_some()
    }
}

/// Accepts until the handle's end of `stopped` is gone, then cuts what is left.
async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<Infallible>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = next(&listener, &places) => {
                if let Some((stream, place)) = accepted {
                    if shared.live().refuses_connection() {
                        // Zero linger: the end is a reset, as of a port on which nobody listens.
                        let _ = stream.set_zero_linger();
                    } else {
                        connections.spawn(serve(stream, place, Arc::clone(&shared)));
                    }
                }
            }
            // What has ended is taken out at once, so that the set does not grow.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn next(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(_) => {
            // Out of file descriptors, mostly: without a pause this would spin until some are free again.
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

async fn serve(stream: TcpStream, place: OwnedSemaphorePermit, shared: Arc<Shared>) {
    let _place = place;
    // Events are small and must leave at once. A socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Connection::new(stream, Arc::clone(&reset)));
    let service = service_fn(|request| handle(request, &shared, &reset));
    // An error here is the client's going or the script's dropping; the log has both.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

type Answered = Result<Response<Steps>, Dropped>;

async fn handle(request: hyper::Request<Incoming>, shared: &Shared, reset: &AtomicBool) -> Answered {
    let path = request.uri().path().trim_end_matches('/');
    match *request.method() {
        Method::GET if path == "/__requests" => {
            let after =
                request.uri().query().and_then(|query| query.strip_prefix("after=")).and_then(|n| n.parse().ok());
            let requests = shared.log.requests(after.unwrap_or(0));
            Ok(small(200, serde_json::to_vec(&requests).unwrap_or_default()))
        }
        Method::GET if path == "/__count" => Ok(small(200, shared.log.counts().to_string())),
        Method::GET if path.ends_with("/models") => {
            let live = shared.live();
            Ok(match denied(&live.script, request.headers()) {
                Some(reply) => finish(reply, &live.default, None),
                None => small(200, models(&live.script).to_string()),
            })
        }
        Method::POST if path.ends_with("/chat/completions") => complete(Endpoint::Chat, request, shared, reset).await,
        Method::POST if path.ends_with("/messages") => complete(Endpoint::Messages, request, shared, reset).await,
        _ => Ok(small(
            404,
            r#"{"error":{"message":"There is nothing here. POST /v1/chat/completions or /v1/messages, or GET /v1/models.","type":"invalid_request_error","param":null,"code":"not_found"}}"#,
        )),
    }
}

async fn complete(
    endpoint: Endpoint,
    request: hyper::Request<Incoming>,
    shared: &Shared,
    reset: &AtomicBool,
) -> Answered {
    let live = shared.live();
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_REQUEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(finish(Reply::error(endpoint, 413, None), &live.default, None));
        }
        // The client went while it was sending: nobody is there to be answered.
        Err(_) => return Err(Dropped),
    };
    let Some(ask) = Ask::read(endpoint, &head.headers, &body, live.reads_prompts) else {
        return Ok(finish(Reply::error(endpoint, 400, None), &live.default, None));
    };
    let (rule, then) = match refused(&live.script, &head.headers, &ask) {
        Some(code) => (None, &Then { effect: Effect::Status { code, body: None }, ..live.default.clone() }),
        None => live.choose(&ask),
    };
    let (answered, status) = match &then.effect {
        Effect::Status { code, .. } => (format!("status {code}"), *code),
        Effect::Answer { fault: None, .. } => ("answer".to_owned(), 200),
        Effect::Answer { fault: Some(fault), .. } => (
            fault.word().to_owned(),
            match fault {
                Fault::Refuse | Fault::Reset | Fault::Close | Fault::Hang => 0,
                Fault::Quota => 429,
                Fault::QuotaIn400 | Fault::ContextTooLong => 400,
                _ => 200,
            },
        ),
    };
    let mut ticket = shared.log.enter(&ask, live.script.keep_prompts, rule, answered, status);
    wait(&live.script, then, &ask).await;
    let reply = match &then.effect {
        Effect::Status { code, body } => Reply::error(endpoint, *code, body.as_deref()),
        Effect::Answer { fault: Some(fault @ (Fault::Refuse | Fault::Reset | Fault::Close)), .. } => {
            reset.store(*fault != Fault::Close, Ordering::Relaxed);
            ticket.dropped();
            return Err(Dropped);
        }
        Effect::Answer { fault: Some(Fault::Hang), .. } => std::future::pending().await,
        Effect::Answer { content, fault } => {
            let text = answer::text(&live.script, &ask, content);
            let pace = Pace {
                chunk: then.chunk.unwrap_or(live.script.chunk),
                interval: then.interval.unwrap_or(live.script.interval),
            };
            Reply::answer(&ask, ticket.seq(), &text, *fault, pace)
        }
    };
    reset.store(reply.reset, Ordering::Relaxed);
    Ok(finish(reply, then, Some(ticket)))
}

/// The time before an answer's first byte. The jitter depends on the request alone, so that a run can be repeated.
async fn wait(script: &Script, then: &Then, ask: &Ask) {
    let delay = then.delay.unwrap_or_else(|| {
        let texts =
            [Some(&ask.model), ask.role.as_ref(), ask.file.as_ref()].map(|text| text.map_or(0, |text| fold(text)));
        let numbers = [ask.milestone, ask.attempt].map(|n| u64::from(n.unwrap_or(0)));
        script.latency + script.jitter.mul_f64(roll(script.seed, &[texts, [numbers[0], numbers[1], 0]].concat()))
    });
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// The status for a request that no rule is asked about: a wrong key, a model that the script does not list.
fn refused(script: &Script, headers: &HeaderMap, ask: &Ask) -> Option<u16> {
    if denied(script, headers).is_some() {
        return Some(401);
    }
    let known = script.models.is_empty() || script.models.contains(&ask.model);
    (!known).then_some(404)
}

fn denied(script: &Script, headers: &HeaderMap) -> Option<Reply> {
    let key = script.api_key.as_deref()?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Anthropic's clients send either header.
    let sent = text("authorization").and_then(|value| value.strip_prefix("Bearer ")).or_else(|| text("x-api-key"));
    (sent != Some(key)).then(|| Reply::error(Endpoint::Chat, 401, None))
}

fn models(script: &Script) -> serde_json::Value {
    let plain = ["sim".to_owned()];
    let names = if script.models.is_empty() { &plain[..] } else { &script.models[..] };
    let entries: Vec<_> =
        names.iter().map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": "sim" })).collect();
    json!({ "object": "list", "data": entries })
}

fn small(status: u16, body: impl Into<Bytes>) -> Response<Steps> {
    head(status, "application/json", Steps::unlogged(body.into()))
}

fn finish(reply: Reply, then: &Then, ticket: Option<crate::log::Ticket>) -> Response<Steps> {
    let body = Steps::new(reply.steps, reply.announced, ticket);
    let mut response = head(reply.status, reply.content_type, body);
    for (name, value) in &then.headers {
        // Both were checked when the script was read.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn head(status: u16, content_type: &'static str, body: Steps) -> Response<Steps> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests;
