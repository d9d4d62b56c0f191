//! Group commit: one thread writes for everybody, and whatever queued up while the disk was busy shares the next sync.
//!
//! Invariant: each callback is called exactly once; with `Ok` only after the sync that covers its batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use steadfast_fault_point::{self as fault_point, Point};

use crate::batch::Batch;
use crate::error::{BackendError, StoreError};
use crate::store::CheckpointStore;

/// A group is closed at so many payload bytes, so that the first writer does not wait for an endless queue.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// The same bound for batches without much payload.
const MAX_GROUP_BATCHES: usize = 1024;
/// Housekeeping begins when nobody has written for so long: many an answer of a model takes less, and a short session
/// is not disturbed then.
const IDLE: Duration = Duration::from_secs(10);
/// Both of these for tests of the whole program.
const HASTY: Duration = Duration::from_millis(5);
/// Between two steps of housekeeping, so that a batch that comes meanwhile waits for one step at most.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// How often and for how long groups were written and synced since the writer began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushes {
    /// Groups, also those that failed.
    pub count: u64,
    /// Time spent on them.
    pub time: Duration,
}

/// The same, while it grows. Two numbers that are read apart: a reading may be one group off.
#[derive(Debug, Default)]
struct Flushed {
    count: AtomicU64,
    nanos: AtomicU64,
}

/// Called with what became of a batch: `Ok` when it is on disk.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Calls back even when it is dropped unanswered, so that a writer's end never leaves a caller waiting.
struct Answer(Option<Done>);

impl Answer {
    fn give(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            call(done, result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            call(done, Err(StoreError::Stopped));
        }
    }
}

/// A caller's panic must not take the writer of all other callers with it.
fn call(done: Done, result: Result<(), StoreError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a store callback panicked");
    }
}

enum Job {
    Commit(Batch, Answer),
    Compact(Answer),
    Stop,
}

/// Hands batches to the writer; cheap to clone, usable from any thread, never blocks.
#[derive(Clone)]
pub struct CommitHandle {
    jobs: Sender<Job>,
    flushed: Arc<Flushed>,
}

impl CommitHandle {
    /// What the writer has done so far.
    pub fn flushes(&self) -> Flushes {
        let nanos = self.flushed.nanos.load(Ordering::Relaxed);
        Flushes { count: self.flushed.count.load(Ordering::Relaxed), time: Duration::from_nanos(nanos) }
    }

    /// Queues a batch. The callback runs on the writer's thread and must be short (send a message, fill a channel).
    /// Batches are applied in the order in which they were queued; a batch is never split. When the writer has stopped,
    /// the callback is called with [`StoreError::Stopped`], possibly before this returns.
    pub fn submit(&self, batch: Batch, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        // A failed send drops the job, and that answers the callback.
        drop(self.jobs.send(Job::Commit(batch, Answer(Some(Box::new(done))))));
    }

    /// Queues a [`CheckpointStore::compact`]; the callback is called as that of a batch.
    pub fn compact(&self, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        drop(self.jobs.send(Job::Compact(Answer(Some(Box::new(done))))));
    }

    /// Queues a batch and blocks until it is on disk.
    ///
    /// # Errors
    /// As [`CheckpointStore::apply`] and [`CheckpointStore::sync`], and [`StoreError::Stopped`].
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (send, receive) = mpsc::sync_channel(1);
        // The receiver lives until the answer is there, so the send cannot fail.
        self.submit(batch, move |result| drop(send.send(result)));
        receive.recv().unwrap_or(Err(StoreError::Stopped))
    }
}

/// The writer's thread. Dropping it stops it as [`GroupCommit::stop`] does.
pub struct GroupCommit {
    handle: CommitHandle,
    thread: Option<JoinHandle<()>>,
}

impl GroupCommit {
    /// Starts the thread. Nobody else may write to the store from now on.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the thread cannot be started.
    pub fn start<S: CheckpointStore + ?Sized>(store: Arc<S>) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let flushed = Arc::new(Flushed::default());
        let counted = Arc::clone(&flushed);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(&*store, &queue, &counted))
            .map_err(|error| StoreError::Io {
                action: "start a thread for",
                path: "store".into(),
                source: BackendError::new(error),
            })?;
        Ok(Self { handle: CommitHandle { jobs, flushed }, thread: Some(thread) })
    }

    /// A handle for writers.
    pub fn handle(&self) -> CommitHandle {
        self.handle.clone()
    }

    /// Writes and answers all that was queued before, then ends the thread and waits for its end. What is queued later
    /// is answered with [`StoreError::Stopped`].
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The thread may have ended by itself already; both are the end that is wanted.
            drop(self.handle.jobs.send(Job::Stop));
            drop(thread.join());
        }
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_all<S: CheckpointStore + ?Sized>(store: &S, queue: &Receiver<Job>, flushed: &Flushed) {
    // How long to wait for a batch before the next step of housekeeping; `None`: nothing is left to do.
    let (idle, step_pause) = if fault_point::is_hasty() { (HASTY, HASTY) } else { (IDLE, STEP_PAUSE) };
    let mut patience = Some(idle);
    // A job that ended a group without being a part of it.
    let mut held: Option<Job> = None;
    loop {
        let next = match (held.take(), patience) {
            (Some(job), _) => Ok(job),
            (None, None) => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            (None, Some(patience)) => queue.recv_timeout(patience),
        };
        let (mut merged, first) = match next {
            Ok(Job::Commit(batch, answer)) => (batch, answer),
            Ok(Job::Compact(answer)) => {
                answer.give(caught("the store panicked while it gave space back", || store.compact()));
                continue;
            }
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                patience = maintain(store).then_some(step_pause);
                continue;
            }
        };
        let mut answers = vec![first];
        let mut bytes = merged.payload_bytes();
        while bytes < MAX_GROUP_BYTES && answers.len() < MAX_GROUP_BATCHES {
            match queue.try_recv() {
                Ok(Job::Commit(mut batch, answer)) => {
                    bytes += batch.payload_bytes();
                    merged.append(&mut batch);
                    answers.push(answer);
                }
                other => {
                    held = other.ok();
                    break;
                }
            }
        }
        let begun = Instant::now();
        let result = caught("the store panicked while it wrote", || store.apply(&merged).and_then(|()| store.sync()));
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        flushed.nanos.fetch_add(nanos, Ordering::Relaxed);
        flushed.count.fetch_add(1, Ordering::Relaxed);
        for answer in answers {
            answer.give(result.clone());
        }
        fault_point::reach(Point::StoreFrameTold);
        patience = result.is_ok().then_some(idle);
    }
}

/// A panic in the layers below becomes an answer: callers wait for one, and the next job may fare better.
fn caught(panicked: &'static str, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Index { source: BackendError::new(panicked) }))
}

fn maintain<S: CheckpointStore + ?Sized>(store: &S) -> bool {
    match catch_unwind(AssertUnwindSafe(|| store.maintain())) {
        Ok(Ok(more)) => more,
        Ok(Err(error)) => {
            tracing::warn!(error = %error, "store housekeeping failed");
            false
        }
        Err(_) => {
            tracing::error!("store housekeeping panicked");
            false
        }
    }
}
