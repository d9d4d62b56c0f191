//! Talks to a daemon over its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::exit::Failure;
use crate::wire::ErrorBody;

/// How long a daemon may take to answer. Saving a session waits for a disk, nothing else.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream in which not even a sign of life comes for so long has ended; there is one every 15 s.
const SILENCE_AT_MOST: Duration = Duration::from_secs(50);

/// How long a starting daemon is waited for while it holds the store's lock (SPEC 10).
const STARTING_AT_MOST: Duration = Duration::from_secs(10);
/// How long one is waited for that does not hold it yet.
const STARTING_SOON: Duration = Duration::from_secs(1);
/// How often the socket is looked at meanwhile.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether some process holds the store. The lock is let go of at once where it was free.
pub(crate) fn is_locked(state_dir: &Path) -> bool {
    std::fs::File::open(state_dir.join("store/lock"))
        .is_ok_and(|file| rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Where the daemon of a state directory listens.
///
/// A socket's path has room for 107 bytes on Linux. A longer one moves to the runtime (or temporary) directory, under a
/// name made from the state directory's, so that both sides find it.
pub(crate) fn socket_path(state_dir: &Path) -> PathBuf {
    let path = state_dir.join("steadfast.sock");
    if path.as_os_str().len() <= 100 {
        return path;
    }
    let text = path.as_os_str().as_encoded_bytes();
    // FNV-1a, 64 bits: stable over versions, and only a name.
    let hash = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("steadfast-{hash:016x}.sock"))
}

/// A daemon that answers.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// `None` when no daemon listens there.
    pub(crate) async fn connect(state_dir: &Path) -> Option<Self> {
        let socket = socket_path(state_dir);
        UnixStream::connect(&socket).await.ok()?;
        Some(Self { socket })
    }

    /// The same, with patience for a daemon that is just starting: it holds the store's lock, or is about to take it, before
    /// it listens.
    pub(crate) async fn connect_waiting(state_dir: &Path) -> Option<Self> {
        let start = tokio::time::Instant::now();
        loop {
            if let Some(client) = Self::connect(state_dir).await {
                return Some(client);
            }
            let waited = start.elapsed();
            if waited > STARTING_AT_MOST || (waited > STARTING_SOON && !is_locked(state_dir)) {
                return None;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for a daemon on this socket again, as long as [`Client::connect_waiting`] would; whether one came.
    pub(crate) async fn comes_back(&self) -> bool {
        let start = tokio::time::Instant::now();
        while UnixStream::connect(&self.socket).await.is_err() {
            if start.elapsed() > STARTING_AT_MOST {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// Asks for server-sent events, from now on.
    pub(crate) async fn stream(&self, path: &str) -> Result<EventStream, Failure> {
        self.stream_after(path, None).await
    }

    /// The same; `last`: the event that was seen last, so that what came behind it and is still in the daemon's memory
    /// comes first.
    pub(crate) async fn stream_after(&self, path: &str, last: Option<u64>) -> Result<EventStream, Failure> {
        let failed = |error: anyhow::Error| Failure::Failed(format!("cannot talk to the daemon: {error}"));
        let mut headers = vec![("accept", "text/event-stream".to_owned())];
        headers.extend(last.map(|last| ("last-event-id", last.to_string())));
        let begun = self.send(Method::GET, path, Bytes::new(), &headers).await.map_err(failed)?;
        let (response, connection) = begun;
        if !response.status().is_success() {
            return Err(Failure::Failed(format!("the daemon answers {}", response.status())));
        }
        Ok(EventStream { body: response.into_body(), rest: Vec::new(), _connection: connection })
    }

    /// Asks and reads a JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Orders something and reads a JSON answer.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.to_string()))?;
        self.call(Method::POST, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let (status, bytes) = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_elapsed| Failure::Failed("the daemon does not answer".to_owned()))?
            .map_err(|error| Failure::Failed(format!("cannot talk to the daemon: {error}")))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes)
                .map_err(|error| Failure::Failed(format!("the daemon's answer does not read: {error}")));
        }
        let text = serde_json::from_slice::<ErrorBody>(&bytes)
            .map_or_else(|_| format!("the daemon answers {status}"), |body| body.message);
        // As without a daemon: what is asked for makes no sense as things stand, and nothing was begun.
        let usage = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::CONFLICT];
        Err(if usage.contains(&status) { Failure::Usage(text) } else { Failure::Failed(text) })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let (answer, _connection) = self.send(method, path, body, &[("accept", "application/json".to_owned())]).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(&str, String)],
    ) -> anyhow::Result<(Response<Incoming>, Connection)> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer; an error on it shows in the answer, too.
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        Ok((sender.send_request(request.body(Full::new(body))?).await?, connection))
    }
}

/// Carries a request; ends when it is dropped.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Server-sent events as they come.
pub(crate) struct EventStream {
    body: Incoming,
    /// What came of the next event so far.
    rest: Vec<u8>,
    _connection: Connection,
}

impl EventStream {
    /// The next event's data; `None`: the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<serde_json::Value> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.rest.drain(..end + 2).collect();
                let text = String::from_utf8_lossy(&event);
                let data = text.lines().find_map(|line| line.strip_prefix("data: "));
                if let Some(value) = data.and_then(|data| serde_json::from_str(data).ok()) {
                    return Some(value);
                }
                continue;
            }
            let frame = tokio::time::timeout(SILENCE_AT_MOST, self.body.frame()).await.ok()??.ok()?;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
    }
}
