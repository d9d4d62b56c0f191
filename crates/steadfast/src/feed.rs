//! The event feed: every event encoded once, numbered, kept for a while in memory for whoever watches, and with its session in
//! the store, so that a session's story can be read after its end.
//!
//! Invariant: numbers rise, also over restarts: the store's epoch is their upper part.

pub(crate) mod encode;

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde_json::Value;
use steadfast_actors::{Event, Events, Keeper};
use steadfast_core::ids::SessionId;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::exit::{Failure, failed};

/// Events that are kept in memory: a watcher that was away for less finds what it missed.
const RECENT: usize = 4096;
/// Events of a session wait so long for the disk, so that many go in one write. A kill loses them, and nothing else.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Or until there are so many.
const FLUSH_AT: usize = 64;
/// The most that a stored chunk is unpacked to; a chunk that we wrote is far smaller.
const MAX_CHUNK: u64 = 16 << 20;

/// So many low bits of an event's number count within one opening of the store; those above are its epoch.
const PROCESS_BITS: u32 = 31;

/// Tells the events of one process from those of another.
pub(crate) fn process_of(event: u64) -> u64 {
    event >> PROCESS_BITS
}

/// An event as it goes out.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its number.
    pub(crate) id: u64,
    /// Whose it is; `None`: of no session alone.
    pub(crate) session: Option<SessionId>,
    /// One JSON object in one line.
    pub(crate) json: Arc<str>,
    /// The same as a server-sent event; shared by all who watch.
    pub(crate) sse: Bytes,
}

/// The feed of one process.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// What readers of the feed need.
pub(crate) struct Shared {
    recent: Mutex<VecDeque<Entry>>,
    /// `None`: those who watched were sent away, and nobody comes any more.
    watchers: Mutex<Option<Sender<Entry>>>,
    keeper: Keeper,
}

impl Feed {
    /// Begins before any work does, so that nothing is missed.
    pub(crate) fn start(events: &Events, keeper: &Keeper) -> Self {
        let watchers = Mutex::new(Some(broadcast::Sender::new(1024)));
        let shared = Arc::new(Shared { recent: Mutex::default(), watchers, keeper: keeper.clone() });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(events.watch(), Arc::clone(&shared), stopped));
        Self { shared, task: Mutex::new(Some((stop, task))) }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Takes in what was told so far, and waits until it is on disk.
    pub(crate) async fn finish(&self) {
        let running = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, task)) = running {
            let _ = stop.send(());
            // It ends by itself; one that panicked has nothing left to save.
            let _ = task.await;
        }
    }

    /// Ends all streams: their readers come back when there is a process to come back to.
    pub(crate) fn send_away(&self) {
        *self.shared.watchers() = None;
    }
}

impl Shared {
    fn recent(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Option<Sender<Entry>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is still in memory behind the event `after`, and what comes from now on, without a gap between them.
    pub(crate) fn watch(&self, after: u64) -> (Vec<Entry>, Receiver<Entry>) {
        let recent = self.recent();
        // Without a sender it is at its end at once.
        let receiver = self.watchers().as_ref().map_or_else(|| Sender::new(1).subscribe(), Sender::subscribe);
        (recent.iter().filter(|entry| entry.id > after).cloned().collect(), receiver)
    }

    /// The events of a session so far, oldest first, from the store and from memory.
    pub(crate) fn story(&self, session: &SessionId) -> Result<Vec<Value>, Failure> {
        let recent: Vec<Entry> =
            self.recent().iter().filter(|entry| entry.session.as_ref() == Some(session)).cloned().collect();
        let mut story = stored(&self.keeper, session)?;
        let last = story.last().and_then(|event| event["id"].as_u64()).unwrap_or(0);
        let read = |entry: &Entry| serde_json::from_str(&entry.json).unwrap_or(Value::Null);
        story.extend(recent.iter().filter(|entry| entry.id > last).map(read));
        Ok(story)
    }

    fn enter(&self, entry: Entry) {
        let mut recent = self.recent();
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(entry.clone());
        if let Some(watchers) = &*self.watchers() {
            // Fails only when nobody watches.
            let _ = watchers.send(entry);
        }
    }
}

/// The events of a session that lie in the store, oldest first.
pub(crate) fn stored(keeper: &Keeper, session: &SessionId) -> Result<Vec<Value>, Failure> {
    let chunks = keeper.events_of(session).map_err(|error| failed("cannot read the store", &error))?;
    let mut story = Vec::new();
    for chunk in chunks {
        let mut text = String::new();
        let unpacked = ZlibDecoder::new(chunk.as_slice()).take(MAX_CHUNK).read_to_string(&mut text);
        unpacked.map_err(|error| failed("an event record does not read", &error))?;
        story.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
    }
    Ok(story)
}

/// Events of one session on their way to the disk.
#[derive(Default)]
struct Waiting {
    first: u64,
    n: usize,
    lines: String,
}

async fn run(mut events: Receiver<Arc<Event>>, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut next = (shared.keeper.epoch() << PROCESS_BITS) + 1;
    let mut waiting: HashMap<SessionId, Waiting> = HashMap::new();
    let mut tick = tokio::time::interval(FLUSH_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut take = |event: Result<Arc<Event>, u64>, waiting: &mut HashMap<SessionId, Waiting>| {
        let (session, json) = match &event {
            Ok(event) => encode::line(event, next),
            Err(n_missed) => encode::missed(*n_missed, next),
        };
        let sse = Bytes::from(format!("id: {next}\ndata: {json}\n\n"));
        let entry = Entry { id: next, session, json: json.into(), sse };
        next += 1;
        if let Some(session) = &entry.session {
            let lines = waiting.entry(session.clone()).or_default();
            if lines.n == 0 {
                lines.first = entry.id;
            }
            lines.n += 1;
            lines.lines.push_str(&entry.json);
            lines.lines.push('\n');
            if lines.n >= FLUSH_AT || event.as_ref().is_ok_and(|event| ends(event)) {
                let lines = std::mem::take(lines);
                save(&shared.keeper, session, lines);
            }
        }
        shared.enter(entry);
    };
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => take(Ok(event), &mut waiting),
                Err(broadcast::error::RecvError::Lagged(n)) => take(Err(n), &mut waiting),
                Err(broadcast::error::RecvError::Closed) => break,
            },
            _ = &mut stopped => {
                while let Ok(event) = events.try_recv() {
                    take(Ok(event), &mut waiting);
                }
                break;
            }
            _ = tick.tick() => flush(&shared.keeper, &mut waiting),
        }
    }
    flush(&shared.keeper, &mut waiting);
}

/// Whether a session's story rests after this event.
fn ends(event: &Event) -> bool {
    match event {
        Event::SessionMoved { phase, .. } => phase.is_final(),
        Event::Interrupted { .. } => true,
        _ => false,
    }
}

fn flush(keeper: &Keeper, waiting: &mut HashMap<SessionId, Waiting>) {
    for (session, lines) in waiting.drain() {
        save(keeper, &session, lines);
    }
}

fn save(keeper: &Keeper, session: &SessionId, waiting: Waiting) {
    if waiting.n == 0 {
        return;
    }
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    let packed = zlib.write_all(waiting.lines.as_bytes()).and_then(|()| zlib.finish());
    keeper.save_events(session, waiting.first, packed.expect("packing into memory does not fail"));
}
