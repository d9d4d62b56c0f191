//! The event feed: every event encoded once, numbered, kept for a while in memory for whoever watches, and with its session in
//! the store, so that a session's story can be read after its end. Whoever watches everything is handed several events at once,
//! as one piece of memory that all of them share.
//!
//! Invariant: numbers rise, also over restarts: the store's epoch is their upper part.

pub(crate) mod at_work;
pub(crate) mod encode;

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use at_work::{AtWork, Work};
use axum::body::Bytes;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use flate2::{Compress, Compression, FlushCompress};
use jiff::Timestamp;
use serde_json::Value;
use steadfast_actors::{Event, Events, Keeper};
use steadfast_core::ids::SessionId;
use steadfast_fault_point::{self as fault_point, Point};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::exit::{Failure, failed};
use crate::metrics::Metrics;

/// Events that are kept in memory: a watcher that was away for less finds what it missed.
const RECENT: usize = 4096;
/// Events wait so long for others before they are handed to those who watch: one write to each of them costs the same for one
/// event and for thirty, and thirty come within milliseconds of each other.
const GATHER: Duration = Duration::from_millis(20);
/// And it is not done more often than this: a third of what an event may take to a page (300 ms).
const HAND_OUT_EVERY: Duration = Duration::from_millis(100);
/// Nor than this with more watchers than [`MANY`]: what they cost is mostly the number of writes.
const HAND_OUT_TO_MANY_EVERY: Duration = Duration::from_millis(200);
const MANY: usize = 32;
/// Or when there are so many.
const HAND_OUT_AT: usize = 512;
/// Handings that a watcher may be behind before it is sent away, to come back with the last number it has seen.
const BEHIND_AT_MOST: usize = 64;
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

/// Events that are handed out together.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// In order, at least one.
    pub(crate) entries: Arc<[Entry]>,
    /// All of them as server-sent events.
    pub(crate) sse: Bytes,
    /// The same, [`packed`]; made by the first who asks for it.
    packed: Arc<OnceLock<Bytes>>,
}

impl Batch {
    fn new(entries: Vec<Entry>) -> Option<Self> {
        let sse = together(&entries)?;
        Some(Self { entries: entries.into(), sse, packed: Arc::default() })
    }

    /// For readers who take gzip.
    pub(crate) fn packed(&self) -> Bytes {
        self.packed.get_or_init(|| packed(&self.sse)).clone()
    }
}

/// Several entries as one piece; `None` of none.
pub(crate) fn together<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Option<Bytes> {
    let mut entries = entries.into_iter();
    let first = entries.next()?;
    let Some(second) = entries.next() else { return Some(first.sse.clone()) };
    let mut all = [first.sse.as_ref(), second.sse.as_ref()].concat();
    entries.for_each(|entry| all.extend_from_slice(&entry.sse));
    Some(all.into())
}

/// As DEFLATE blocks (RFC 1951) that end at a byte and look back on nothing before them: such pieces may follow each other in
/// any stream, so one piece serves all readers.
pub(crate) fn packed(bytes: &[u8]) -> Bytes {
    let mut compress = Compress::new(Compression::fast(), false);
    // Stored blocks, the worst case, add five bytes to each 64 KiB.
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 1000 + 256);
    let done = compress.compress_vec(bytes, &mut out, FlushCompress::Sync);
    assert!(done.is_ok() && compress.total_in() == bytes.len() as u64, "packing into memory does not fail");
    out.into()
}

/// From where on somebody watches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Since {
    /// What comes after the event of this number.
    Event(u64),
    /// So many of the newest, and what comes.
    Newest(usize),
}

/// The feed of one process.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// What readers of the feed need.
pub(crate) struct Shared {
    recent: Mutex<Recent>,
    /// `None`: those who watched were sent away, and nobody comes any more.
    watchers: Mutex<Option<Sender<Batch>>>,
    /// What was taken in is counted here.
    pub(crate) metrics: Metrics,
    keeper: Keeper,
}

#[derive(Default)]
struct Recent {
    /// Oldest first, at most [`RECENT`].
    entries: VecDeque<Entry>,
    /// So many of the newest were not handed out yet.
    n_waiting: usize,
    at_work: AtWork,
}

impl Feed {
    /// Begins before any work does, so that nothing is missed.
    pub(crate) fn start(events: &Events, keeper: &Keeper) -> Self {
        let watchers = Mutex::new(Some(broadcast::Sender::new(BEHIND_AT_MOST)));
        let shared =
            Arc::new(Shared { recent: Mutex::default(), watchers, metrics: Metrics::new(), keeper: keeper.clone() });
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
        self.shared.hand_out();
        *self.shared.watchers() = None;
    }
}

impl Shared {
    /// The number of this process's first event.
    fn first(&self) -> u64 {
        (self.keeper.epoch() << PROCESS_BITS) + 1
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Option<Sender<Batch>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is still in memory, and what comes from now on, without a gap between them. What comes may repeat the last ones.
    pub(crate) fn watch(&self, since: Since) -> (Vec<Entry>, Receiver<Batch>) {
        let recent = self.recent();
        // Without a sender it is at its end at once.
        let receiver = self.watchers().as_ref().map_or_else(|| Sender::new(1).subscribe(), Sender::subscribe);
        let n_left_out = match since {
            Since::Event(id) => recent.entries.partition_point(|entry| entry.id <= id),
            Since::Newest(n) => recent.entries.len().saturating_sub(n),
        };
        (recent.entries.range(n_left_out..).cloned().collect(), receiver)
    }

    /// What is under way, and the number up to which events are taken into account.
    pub(crate) fn at_work(&self) -> (Vec<Work>, u64) {
        let recent = self.recent();
        (recent.at_work.all(), recent.entries.back().map_or(self.first() - 1, |entry| entry.id))
    }

    /// The events of a session so far, oldest first, from the store and from memory.
    pub(crate) fn story(&self, session: &SessionId) -> Result<Vec<Value>, Failure> {
        let recent: Vec<Entry> =
            self.recent().entries.iter().filter(|entry| entry.session.as_ref() == Some(session)).cloned().collect();
        let mut story = stored(&self.keeper, session)?;
        let last = story.last().and_then(|event| event["id"].as_u64()).unwrap_or(0);
        let read = |entry: &Entry| serde_json::from_str(&entry.json).unwrap_or(Value::Null);
        story.extend(recent.iter().filter(|entry| entry.id > last).map(read));
        Ok(story)
    }

    /// `None`: events that were missed. Answers how many wait to be handed out.
    fn enter(&self, entry: Entry, event: Option<&Event>, at: Timestamp) -> usize {
        let mut recent = self.recent();
        if let Some(event) = event {
            recent.at_work.apply(event, at);
        }
        if recent.entries.len() >= RECENT {
            recent.entries.pop_front();
        }
        recent.entries.push_back(entry);
        recent.n_waiting += 1;
        recent.n_waiting
    }

    /// Hands what waits to all who watch. Answers how long the next time is to wait at least.
    fn hand_out(&self) -> Duration {
        let mut recent = self.recent();
        let n_waiting = std::mem::take(&mut recent.n_waiting).min(recent.entries.len());
        let watchers = self.watchers();
        let n_watchers = watchers.as_ref().map_or(0, Sender::receiver_count);
        if let Some(watchers) = watchers.as_ref().filter(|_| n_watchers > 0) {
            let first = recent.entries.len() - n_waiting;
            if let Some(batch) = Batch::new(recent.entries.range(first..).cloned().collect()) {
                // Fails only when the last watcher has just gone.
                let _ = watchers.send(batch);
            }
        }
        if n_watchers > MANY { HAND_OUT_TO_MANY_EVERY } else { HAND_OUT_EVERY }
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
    let mut next = shared.first();
    let mut waiting: HashMap<SessionId, Waiting> = HashMap::new();
    let mut tick = tokio::time::interval(FLUSH_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Not before this is anything handed out again.
    let mut not_before = Instant::now();
    // When what waits is handed out; `None`: nothing waits.
    let mut due: Option<Instant> = None;
    let mut take = |event: Result<Arc<Event>, u64>, waiting: &mut HashMap<SessionId, Waiting>| {
        let at = Timestamp::now();
        let (session, json) = match &event {
            Ok(event) => {
                shared.metrics.take_in(event);
                encode::line(event, next, at)
            }
            Err(n_missed) => {
                shared.metrics.missed(*n_missed);
                encode::missed(*n_missed, next, at)
            }
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
        shared.enter(entry, event.as_deref().ok(), at)
    };
    loop {
        let n_waiting = tokio::select! {
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
            () = tokio::time::sleep_until(due.unwrap_or(not_before)), if due.is_some() => HAND_OUT_AT,
            _ = tick.tick() => {
                flush(&shared.keeper, &mut waiting);
                continue;
            }
        };
        // A flood leaves the other branches no turn: what is due is seen to here.
        let now = Instant::now();
        if n_waiting >= HAND_OUT_AT || due.is_some_and(|due| due <= now) {
            (not_before, due) = (now + shared.hand_out(), None);
        } else if due.is_none() {
            due = Some((now + GATHER).max(not_before));
        }
    }
    shared.hand_out();
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
    fault_point::reach(Point::FeedChunk);
    keeper.save_events(session, waiting.first, packed.expect("packing into memory does not fail"));
}
