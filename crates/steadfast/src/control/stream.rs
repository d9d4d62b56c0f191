//! Events over HTTP: a session's story as a JSON array, and everything as it happens as server-sent events (the HTML
//! standard, section 9.2), with `Last-Event-ID`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;
use steadfast_core::ids::SessionId;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::refusal::{Asked, Named, Refusal};
use super::{Control, MAX_WATCHERS};
use crate::commands::look;
use crate::feed::{Batch, Entry, Since, packed, together};

/// A stream in which nothing happens says so, so that a proxy or a reader does not take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The head of a gzip member (RFC 1952): DEFLATE, no name, no time, system unknown.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new().route("/v1/events", get(all)).route("/v1/sessions/{id}/events", get(of_session))
}

#[derive(Deserialize)]
struct Begin {
    /// Of a reader who has seen none: so many of the newest events first.
    last: Option<usize>,
}

async fn all(
    State(control): State<Arc<Control>>,
    Asked(begin): Asked<Begin>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let since = last_event_id(&headers).map_or(Since::Newest(begin.last.unwrap_or(0)), Since::Event);
    follow(&control, since, None, takes_gzip(&headers))
}

async fn of_session(
    State(control): State<Arc<Control>>,
    Named(id): Named,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let found = control.read(move |control| look::find(control.handle.keeper(), Some(&id), true)).await?;
    if wants_stream(&headers) {
        let since = last_event_id(&headers).map_or(Since::Newest(0), Since::Event);
        return follow(&control, since, Some(found), takes_gzip(&headers));
    }
    let story = control.read(move |control| control.feed.shared().story(&found)).await?;
    Ok(axum::Json(story).into_response())
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/event-stream"))
}

/// Events are alike, and pack to a tenth. A weight of 0 is a refusal (RFC 9110, section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(',').any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

/// What the reader has seen last; `None`: it begins now.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

struct Following {
    missed: Vec<Entry>,
    receiver: Receiver<Batch>,
    last: u64,
    only: Option<SessionId>,
    begun: bool,
    packs: bool,
    /// A place among the readers.
    _place: OwnedSemaphorePermit,
}

fn follow(control: &Control, since: Since, only: Option<SessionId>, packs: bool) -> Result<Response, Refusal> {
    let place = Arc::clone(&control.watchers).try_acquire_owned();
    let place = place.map_err(|_full| Refusal::too_many_watchers(MAX_WATCHERS))?;
    let (missed, receiver) = control.feed.shared().watch(since);
    let last = match since {
        Since::Event(id) => id,
        Since::Newest(_) => 0,
    };
    let state = Following { missed, receiver, last, only, begun: false, packs, _place: place };
    let body = stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), state))
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if packs {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) {
            // The head goes out at once, and how long to wait before coming back.
            let first = self.as_taken(Bytes::from_static(b"retry: 500\n\n"));
            return Some(if self.packs { [&GZIP_HEAD, first.as_ref()].concat().into() } else { first });
        }
        let missed = std::mem::take(&mut self.missed);
        if let Some(bytes) = self.take(&missed, None) {
            return Some(bytes);
        }
        loop {
            match tokio::time::timeout(KEEP_ALIVE, self.receiver.recv()).await {
                Err(_elapsed) => return Some(self.as_taken(Bytes::from_static(b": still here\n\n"))),
                Ok(Ok(batch)) => {
                    if let Some(bytes) = self.take(&batch.entries, Some(&batch)) {
                        return Some(bytes);
                    }
                }
                // A reader that is too slow comes back with the last number it has seen.
                Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return None,
            }
        }
    }

    fn as_taken(&self, bytes: Bytes) -> Bytes {
        if self.packs { packed(&bytes) } else { bytes }
    }

    /// What is new of these, and this reader's. `whole`: all of them, as one piece that readers share.
    fn take(&mut self, entries: &[Entry], whole: Option<&Batch>) -> Option<Bytes> {
        let (first, last) = (entries.first()?.id, entries.last()?.id);
        let seen = self.last;
        self.last = seen.max(last);
        match whole {
            Some(whole) if self.only.is_none() && first > seen => {
                Some(if self.packs { whole.packed() } else { whole.sse.clone() })
            }
            Some(_) | None => {
                let mine = |entry: &&Entry| entry.id > seen && (self.only.is_none() || self.only == entry.session);
                together(entries.iter().filter(mine)).map(|bytes| self.as_taken(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn pieces_packed_one_by_one_are_one_gzip_stream() {
        let pieces = ["retry: 500\n\n", "id: 1\ndata: {}\n\n", &"id: 2\ndata: {\"at\":\"x\"}\n\n".repeat(400), ""];
        let mut stream = GZIP_HEAD.to_vec();
        for piece in pieces {
            stream.extend_from_slice(&packed(piece.as_bytes()));
        }
        let plain = pieces.concat();
        assert!(stream.len() < plain.len() / 10, "{}", stream.len());
        // It never ends, so it is read up to where it is.
        let mut read = vec![0; plain.len()];
        flate2::read::GzDecoder::new(stream.as_slice()).read_exact(&mut read).unwrap();
        assert_eq!(read, plain.as_bytes());
    }

    #[test]
    fn only_who_asks_for_gzip_is_given_it() {
        for (value, takes) in
            [("gzip, deflate, br, zstd", true), ("br;q=1.0, GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(takes_gzip(&headers), takes, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
