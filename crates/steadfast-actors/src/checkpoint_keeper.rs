//! Owns the way to the store: every write goes through one queue and is acknowledged only when it is on disk; many
//! sessions' writes share one flush. Reads go to the store directly.
//!
//! Invariant: what [`Keeper::save`] has acknowledged survives a power cut.

mod history;
mod outgoing;
mod read;
mod recover;
mod retention;

pub use recover::set_aside_files;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::breaker::Snapshot;
use steadfast_core::ids::{ModelId, SessionId};
use steadfast_core::session::{Phase, Policy, Session, StepKey};
use steadfast_core::tuning::Raises;
use steadfast_store::{
    Batch, Check, CheckpointStore, CommitHandle, Flushes, GroupCommit, Key, OpenOptions, Prefix, RecordKind, SledStore,
    StoreError, TransferError,
};
use tokio::sync::oneshot;

use crate::records::{Answer, Counts, ExecutionLog, IdeaRecord, IssueRecord, Write};
use crate::supervisor::wall_clock_ms;

/// Why something could not be read or made durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeeperError {
    /// The store said no. For a write: nothing of the batch may be built on.
    #[error("{0}")]
    Store(String),
    /// Nothing can be written where the store lies; it can still be read ([`Keeper::open_for_reading`]).
    #[error("{0}")]
    Unwritable(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for KeeperError {
    fn from(error: StoreError) -> Self {
        let text = crate::chain(&error);
        match error {
            StoreError::NoSpace { .. } | StoreError::ReadOnly { .. } | StoreError::PermissionDenied { .. } => {
                Self::Unwritable(text)
            }
            _ => Self::Store(text),
        }
    }
}

// The tags are for ever; a changed layout raises the version and keeps a reader for the old one.
const HEAD: RecordKind = RecordKind::new(1, 1, "session");
const IDEA: RecordKind = RecordKind::new(2, 1, "idea");
const PLAN: RecordKind = RecordKind::new(3, 1, "plan");
const MILESTONE: RecordKind = RecordKind::new(4, 1, "milestone");
const MANUAL: RecordKind = RecordKind::new(5, 1, "manual task");
const ANSWER: RecordKind = RecordKind::new(6, 1, "answer");
const EXECUTION: RecordKind = RecordKind::new(7, 1, "execution log");
const ISSUE: RecordKind = RecordKind::new(8, 1, "issue");
const BREAKER: RecordKind = RecordKind::new(9, 1, "breaker");
const COUNTS: RecordKind = RecordKind::new(10, 1, "session counts");
const DAY: RecordKind = RecordKind::new(11, 1, "spending of a day");
const FINISHED: RecordKind = RecordKind::new(12, 1, "finished session");
const RATES: RecordKind = RecordKind::new(14, 1, "rates");
const RATE_HISTORY: RecordKind = RecordKind::new(30, 1, "history of the rates");
const EVENTS: RecordKind = RecordKind::new(17, 1, "events");
const PRUNED: RecordKind = RecordKind::new(16, 1, "time of the last retention");
const RAISES: RecordKind = RecordKind::new(22, 1, "raised timeouts");
const DEBTS: RecordKind = RecordKind::new(23, 1, "debts");
const OUTGOING: RecordKind = RecordKind::new(20, 1, "outbox entry");
const TROUBLE: RecordKind = RecordKind::new(21, 1, "trouble of a delivery");
const HISTORY: RecordKind = RecordKind::new(31, 1, "history of a session");
const MARK: RecordKind = RecordKind::new(13, 1, "index entry");

/// Sessions that are not over, by id, so that a start does not read ten thousand finished ones.
fn open_mark(session: &SessionId) -> Key {
    Key::meta(&format!("open/{session}"))
}

/// Completed sessions that are not packed yet, so that a start finds what a crash left.
fn unpacked_mark(session: &SessionId) -> Key {
    Key::meta(&format!("unpacked/{session}"))
}

/// A chunk of a session's events, by the number of its first. Not one of the session's parts, which go when it is packed.
fn events_key(session: &SessionId, first: u64) -> Key {
    Key::meta(&format!("events/{session}/{first:020}"))
}

fn events_prefix(session: &SessionId) -> Prefix {
    Prefix::metas_named(&format!("events/{session}/"))
}

/// How a packed session's executions went. A record of its own, so that whoever lists sessions does not read it.
fn history_key(session: &SessionId) -> Key {
    Key::meta(&format!("history/{session}"))
}

/// What a session's stand-ins have done. Not one of its parts: that something was made good is shown as long as it is kept.
fn debts_key(session: &SessionId) -> Key {
    Key::meta(&format!("debts/{session}"))
}

/// Undelivered issues, so that the outbox does not read the delivered ones.
fn pending_mark(key: &str) -> Key {
    Key::meta(&format!("pending/{key}"))
}

/// The sessions of an idea, oldest first.
fn idea_mark(session: &Session) -> Key {
    Key::meta(&format!("idea/{}/{}", session.idea, session.id))
}

fn answer_key(session: &SessionId, step: &StepKey) -> Key {
    Key::session_part(session, &format!("a/{step}"))
}

fn execution_key(session: &SessionId, step: &StepKey, attempt: u32) -> Key {
    Key::session_part(session, &format!("x/{attempt}/{step}"))
}

fn milestone_key(session: &SessionId, index: u32) -> Key {
    Key::session_part(session, &format!("m/{index:03}"))
}

/// Issues of one session lie together, and sort in the order in which they were filed.
fn issue_key(record: &IssueRecord) -> Key {
    Key::session_part(&record.session, &format!("i/{:013}-{}", record.created_ms, record.issue.key))
}

struct Books {
    /// Sessions that are not over.
    open: HashMap<SessionId, Phase>,
    counts: Counts,
    outgoing: outgoing::Books,
}

struct Shared {
    store: Arc<dyn CheckpointStore>,
    writer: Mutex<Option<GroupCommit>>,
    handle: CommitHandle,
    books: Mutex<Books>,
    /// Held from the reading to the writing of what a receipt and the packing of its session both replace: one would
    /// undo the other.
    packing: tokio::sync::Mutex<()>,
    policy: Policy,
    report: Vec<String>,
}

/// A batch on its way to the disk.
pub(crate) struct Saving(oneshot::Receiver<Result<(), StoreError>>);

impl Saving {
    /// Returns when the batch is on disk.
    ///
    /// # Errors
    /// [`KeeperError`]; nothing may be built on the batch then.
    pub(crate) async fn wait(self) -> Result<(), KeeperError> {
        self.0.await.map_err(|_dropped| KeeperError::Closed)?.map_err(KeeperError::from)
    }
}

/// The way to the store; cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
}

impl Keeper {
    /// Opens the store below the state directory, waiting up to `wait` for another process to let go of it.
    ///
    /// # Errors
    /// [`KeeperError::Store`], for a person: locked by whom, not readable, of a newer version.
    pub async fn open(state_dir: &Path, wait: Duration, policy: Policy) -> Result<Self, KeeperError> {
        let state_dir = state_dir.to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&state_dir)
                .map_err(|error| KeeperError::Store(format!("cannot create {}: {error}", state_dir.display())))?;
            recover::open(&state_dir, wait)
        });
        let (store, report) = opening.await.map_err(|error| KeeperError::Store(error.to_string()))??;
        Self::over(Arc::new(store), policy, report)
    }

    /// Opens the store for reading alone, and changes nothing where it lies; every save is refused.
    ///
    /// # Errors
    /// As [`Keeper::open`], and when there is no store.
    pub async fn open_for_reading(state_dir: &Path, wait: Duration, policy: Policy) -> Result<Self, KeeperError> {
        let dir = state_dir.join("store");
        let options = OpenOptions { lock_wait: wait };
        let opening = tokio::task::spawn_blocking(move || SledStore::open_for_reading(&dir, &options));
        let (store, report) = opening.await.map_err(|error| KeeperError::Store(error.to_string()))??;
        Self::over(Arc::new(store), policy, report.actions)
    }

    /// Over any store, e.g. one in memory.
    ///
    /// # Errors
    /// When its writer cannot be started or its index does not read.
    pub fn over(store: Arc<dyn CheckpointStore>, policy: Policy, report: Vec<String>) -> Result<Self, KeeperError> {
        for line in &report {
            tracing::warn!(line, "store healed");
        }
        let books = read::books(store.as_ref())?;
        let writer = GroupCommit::start(Arc::clone(&store))?;
        let handle = writer.handle();
        let writer = Mutex::new(Some(writer));
        let books = Mutex::new(books);
        let packing = tokio::sync::Mutex::new(());
        Ok(Self { shared: Arc::new(Shared { store, writer, handle, books, packing, policy, report }) })
    }

    /// What an open had to mend, in plain sentences; empty when nothing.
    pub fn report(&self) -> &[String] {
        &self.shared.report
    }

    /// Reads every record, and changes nothing. `progress` is told how many are done, of how many. Blocks.
    ///
    /// # Errors
    /// [`KeeperError`] when the store itself failed.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, KeeperError> {
        Ok(self.store().check(progress)?)
    }

    /// Writes every record as a line of text, as [`steadfast_store::export`]. Blocks.
    ///
    /// # Errors
    /// As [`steadfast_store::export`].
    pub fn export(
        &self,
        out: &mut dyn std::io::Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<u64, TransferError> {
        steadfast_store::export(self.store(), out, progress)
    }

    /// How milestones are judged.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    fn store(&self) -> &dyn CheckpointStore {
        self.shared.store.as_ref()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves all of it or nothing; on disk when this returns.
    ///
    /// # Errors
    /// [`KeeperError`]; nothing may be built on the batch then.
    pub async fn save(&self, writes: Vec<Write>) -> Result<(), KeeperError> {
        if writes.is_empty() {
            return Ok(());
        }
        let is_receipt = writes.iter().any(|write| matches!(write, Write::Delivered(_)));
        let _packing = if is_receipt { Some(self.shared.packing.lock().await) } else { None };
        self.commit(self.batch(writes)?).await
    }

    /// Hands all of it to the writer, and does not wait. Batches reach the disk in the order in which they were handed
    /// over, so whoever waits for a later one knows that this one is there, too, unless it was refused: [`Saving::wait`]
    /// tells.
    ///
    /// # Errors
    /// [`KeeperError`] when it cannot be encoded; then nothing was handed over.
    pub(crate) fn begin_save(&self, writes: Vec<Write>) -> Result<Saving, KeeperError> {
        Ok(self.begin_commit(self.batch(writes)?))
    }

    fn begin_commit(&self, batch: Batch) -> Saving {
        let (done, answer) = oneshot::channel();
        #[cfg(test)]
        let held = crate::tests::clock::hold();
        // The waiter may have gone; the batch is written all the same.
        self.shared.handle.submit(batch, move |result| {
            drop(done.send(result));
            #[cfg(test)]
            drop(held);
        });
        Saving(answer)
    }

    async fn commit(&self, batch: Batch) -> Result<(), KeeperError> {
        self.begin_commit(batch).wait().await
    }

    /// Gives the space of what is dead back to the disk.
    ///
    /// # Errors
    /// [`KeeperError::Store`]; everything saved is there then, too.
    pub(crate) async fn compact(&self) -> Result<(), KeeperError> {
        let (done, answer) = oneshot::channel();
        #[cfg(test)]
        let held = crate::tests::clock::hold();
        self.shared.handle.compact(move |result| {
            drop(done.send(result));
            #[cfg(test)]
            drop(held);
        });
        Saving(answer).wait().await
    }

    /// Saves without waiting, for what may be lost in a crash.
    fn commit_soon(&self, batch: Batch) {
        #[cfg(test)]
        let held = crate::tests::clock::hold();
        self.shared.handle.submit(batch, move |result| {
            if let Err(error) = result {
                tracing::error!(error = %error, "not saved");
            }
            #[cfg(test)]
            drop(held);
        });
    }

    fn batch(&self, writes: Vec<Write>) -> Result<Batch, KeeperError> {
        let mut batch = Batch::new();
        for write in writes {
            match write {
                Write::Head(session) => self.put_head(&mut batch, &session)?,
                Write::Idea(id, idea) => {
                    let record = IdeaRecord { title: idea.title, body: idea.body };
                    batch.put_value(Key::session_part(&id, "idea"), IDEA, &record)?;
                }
                Write::Plan(id, plan) => {
                    batch.put_value(Key::session_part(&id, "plan"), PLAN, &plan)?;
                }
                Write::Milestone(id, milestone) => {
                    let record = steadfast_store::encode(MILESTONE, &*milestone)?;
                    batch.put_keeping_previous(milestone_key(&id, milestone.index), record);
                }
                Write::Manual(id, index, files) => {
                    batch.put_value(Key::session_part(&id, &format!("t/{index:03}")), MANUAL, &files)?;
                }
                Write::Issue(session, issue, created_ms) => {
                    let record = IssueRecord { session, issue: *issue, created_ms, url: None };
                    batch.put_value(issue_key(&record), ISSUE, &record)?;
                    batch.put_value(pending_mark(&record.issue.key), MARK, issue_key(&record).as_str())?;
                }
                Write::Rates(rates) => {
                    batch.put_value(Key::meta("rates"), RATES, &*rates)?;
                }
                Write::RateHistory(history) => {
                    batch.put_value(Key::meta("rate-history"), RATE_HISTORY, &*history)?;
                }
                Write::Delivered(record) => {
                    self.put_receipt(&mut batch, &record)?;
                }
                Write::Standing(session, issue, reason) => {
                    self.put_standing(&mut batch, &session, &issue, &reason)?;
                }
                Write::WentOn(session, comment, now_ms) => self.went_on(&mut batch, &session, &comment, now_ms)?,
                Write::Debts(id, debts) => {
                    batch.put_value(debts_key(&id), DEBTS, &*debts)?;
                }
                Write::Close(closing, now_ms) => outgoing::put_closing(&mut batch, closing, now_ms)?,
                Write::Alert(alert) => self.put_alert(&mut batch, *alert)?,
                Write::Sent(record) => self.put_sent(&mut batch, &record)?,
                Write::Trouble(key, trouble) => {
                    batch.put_value(outgoing::trouble_key(&key), TROUBLE, &trouble)?;
                }
            }
        }
        Ok(batch)
    }

    /// The head, and what must always agree with it: the index of open sessions, the counts, the idea's sessions.
    fn put_head(&self, batch: &mut Batch, session: &Session) -> Result<(), KeeperError> {
        let record = steadfast_store::encode(HEAD, session)?;
        batch.put_keeping_previous(Key::session_head(&session.id), record);
        let mut books = self.books();
        let known = books.open.get(&session.id).copied();
        let is_open = !session.phase.is_final();
        if known == Some(session.phase) {
            return Ok(());
        }
        if known.is_none() {
            // New, or taken up again after it was over.
            if let Some(before) = self.head(&session.id)? {
                if before.phase == session.phase {
                    return Ok(());
                }
                *finished(&mut books.counts, before.phase) =
                    finished(&mut books.counts, before.phase).saturating_sub(1);
            } else {
                batch.put_value(idea_mark(session), MARK, "")?;
            }
        }
        if is_open {
            if books.open.insert(session.id.clone(), session.phase).is_none() {
                batch.put_value(open_mark(&session.id), MARK, "")?;
            }
        } else {
            books.open.remove(&session.id);
            batch.delete(open_mark(&session.id));
            if session.phase == Phase::Completed {
                batch.put_value(unpacked_mark(&session.id), MARK, "")?;
            }
            *finished(&mut books.counts, session.phase) += 1;
        }
        books.counts.unfinished = books.open.len();
        batch.put_value(Key::meta("counts"), COUNTS, &books.counts)?;
        Ok(())
    }

    fn put_receipt(&self, batch: &mut Batch, record: &IssueRecord) -> Result<(), KeeperError> {
        batch.delete(pending_mark(&record.issue.key));
        batch.delete(outgoing::trouble_key(&record.issue.key));
        // A session that was packed meanwhile holds its issues itself.
        if let Some(mut packed) = self.packed(&record.session)? {
            for issue in packed.issues.iter_mut().filter(|issue| issue.issue.key == record.issue.key) {
                issue.url.clone_from(&record.url);
            }
            batch.put_value(Key::session_head(&record.session), FINISHED, &packed)?;
        } else {
            batch.put_value(issue_key(record), ISSUE, record)?;
        }
        Ok(())
    }

    /// Saves an answer and the end of its execution; on disk when this returns.
    ///
    /// # Errors
    /// [`KeeperError`]; the answer must not be used then.
    pub(crate) async fn save_answer(
        &self,
        session: &SessionId,
        step: &StepKey,
        attempt: u32,
        answer: &Answer,
    ) -> Result<(), KeeperError> {
        let mut batch = Batch::new();
        batch.put_value(answer_key(session, step), ANSWER, answer)?;
        if answer.attempts.len() > 1 {
            batch.delete(execution_key(session, step, attempt));
        }
        self.commit(batch).await
    }

    /// Saves the attempts of an execution that is under way, without waiting.
    pub(crate) fn save_execution_log(&self, session: &SessionId, step: &StepKey, attempt: u32, log: &ExecutionLog) {
        let mut batch = Batch::new();
        match batch.put_value(execution_key(session, step, attempt), EXECUTION, log) {
            Ok(_) => self.commit_soon(batch),
            Err(error) => tracing::error!(error = %error, "execution log not saved"),
        }
    }

    /// Forgets how far a session's executions had come, so that whoever takes it up again asks every model anew. What the
    /// attempts have cost stays in the books.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub(crate) async fn forget_attempts(&self, session: &SessionId) -> Result<(), KeeperError> {
        let mut batch = Batch::new();
        for (key, log) in self.execution_logs(session)? {
            batch.put_value(key, EXECUTION, &ExecutionLog { attempts: Vec::new(), spent: log.spent })?;
        }
        if batch.is_empty() { Ok(()) } else { self.commit(batch).await }
    }

    /// Saves a chunk of a session's events without waiting: a kill may lose it. The bytes are the caller's; `first` is the
    /// number of the first event in it, and chunks are read back in that order.
    pub fn save_events(&self, session: &SessionId, first: u64, chunk: Vec<u8>) {
        let mut batch = Batch::new();
        match batch.put_value(events_key(session, first), EVENTS, &chunk) {
            Ok(_) => self.commit_soon(batch),
            Err(error) => tracing::error!(error = %error, "events not saved"),
        }
    }

    /// Refuses when another process has opened the store since: asked before a branch moves or an issue is delivered.
    ///
    /// # Errors
    /// [`KeeperError`]; then nothing outside may be changed.
    pub(crate) fn fence(&self) -> Result<(), KeeperError> {
        Ok(self.store().fence()?)
    }

    /// How often and for how long the store was written to since it was opened.
    pub fn flushes(&self) -> Flushes {
        self.shared.handle.flushes()
    }

    /// Raised by each opening of the store; never comes twice.
    pub fn epoch(&self) -> u64 {
        self.store().epoch()
    }

    /// Saves how far timeouts were raised, without waiting.
    pub(crate) fn save_raises(&self, raises: &Raises) {
        let mut batch = Batch::new();
        match batch.put_value(Key::meta("timeouts"), RAISES, raises) {
            Ok(_) => self.commit_soon(batch),
            Err(error) => tracing::error!(error = %error, "raised timeouts not saved"),
        }
    }

    /// Saves what was spent on a day (days since 1970, UTC), without waiting.
    pub(crate) fn save_day(&self, day: u64, spent: steadfast_core::session::Spent) {
        let mut batch = Batch::new();
        match batch.put_value(Key::meta("day"), DAY, &(day, spent)) {
            Ok(_) => self.commit_soon(batch),
            Err(error) => tracing::error!(error = %error, "the day's spending is not saved"),
        }
    }

    /// Packs a finished session into one record: its answers are in git by now.
    pub(crate) async fn archive(&self, session: &SessionId) -> Result<(), KeeperError> {
        // A session without issues waits for no receipt, so that many can be packed at once.
        let _packing = if self.issues_of(session)?.is_empty() { None } else { Some(self.shared.packing.lock().await) };
        let Some(record) = self.record(session)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.put_value(history_key(session), HISTORY, &self.history(session)?)?;
        batch.delete_all(Prefix::session_parts(session));
        batch.delete(unpacked_mark(session));
        batch.put_value(Key::session_head(session), FINISHED, &record)?;
        self.commit(batch).await
    }

    /// Forgets the saved breaker of one model, or of all. Answers how many there were.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn forget_breakers(&self, model: Option<&ModelId>) -> Result<usize, KeeperError> {
        let saved = self.saved_breakers()?;
        let mut batch = Batch::new();
        let wanted: Vec<&ModelId> = saved.iter().filter(|saved| model.is_none_or(|model| model == *saved)).collect();
        for model in &wanted {
            batch.delete(Key::breaker(model));
        }
        if !batch.is_empty() {
            self.commit(batch).await?;
        }
        Ok(wanted.len())
    }

    /// Writes what is queued and ends the writer. Saving afterwards is refused.
    pub async fn close(&self) {
        let writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It waits for the disk.
            let _ = tokio::task::spawn_blocking(move || writer.stop()).await;
        }
    }
}

fn finished(counts: &mut Counts, phase: Phase) -> &mut usize {
    match phase {
        Phase::Completed => &mut counts.completed,
        Phase::Failed => &mut counts.failed,
        Phase::Cancelled => &mut counts.cancelled,
        Phase::Queued | Phase::Planning | Phase::Implementing | Phase::Reviewing => &mut counts.unfinished,
    }
}

impl crate::model::BreakerMemory for Keeper {
    fn save(&self, model: &ModelId, snapshot: Snapshot) {
        let mut batch = Batch::new();
        let record = (model.as_str(), wall_clock_ms(), snapshot);
        match batch.put_value(Key::breaker(model), BREAKER, &record) {
            Ok(_) => self.commit_soon(batch),
            Err(error) => tracing::error!(error = %error, "breaker not saved"),
        }
    }

    fn load(&self, model: &ModelId) -> Option<(Snapshot, Duration)> {
        self.saved_snapshot(model)
    }
}
