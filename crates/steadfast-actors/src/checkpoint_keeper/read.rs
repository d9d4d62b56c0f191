//! What is read back from the store.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::de::DeserializeOwned;
use steadfast_core::breaker::{Breaker, BreakerConfig, Snapshot};
use steadfast_core::ids::{IdeaId, ModelId, SessionId};
use steadfast_core::plan::Plan;
use steadfast_core::rates::{History, Rates};
use steadfast_core::session::{Debts, Milestone, Run, Session, Spent, StepKey};
use steadfast_core::tuning::Raises;
use steadfast_prompt::Idea;
use steadfast_store::{CheckpointStore, Key, Prefix, Record, RecordKind, Scan, decode};

use super::{
    ANSWER, BREAKER, Books, COUNTS, DAY, DEBTS, EVENTS, EXECUTION, FINISHED, HEAD, IDEA, ISSUE, Keeper, KeeperError,
    MANUAL, MILESTONE, PLAN, RAISES, RATE_HISTORY, RATES, answer_key, debts_key, events_prefix, execution_key,
    milestone_key,
};
use crate::records::{Answer, Counts, ExecutionLog, IdeaRecord, IssueRecord, Loaded, ManualFiles, SessionRecord};
use crate::supervisor::wall_clock_ms;

pub(super) fn value<T: DeserializeOwned>(
    store: &dyn CheckpointStore,
    key: &Key,
    kind: RecordKind,
) -> Result<Option<T>, KeeperError> {
    let Some(found) = store.get(key)? else { return Ok(None) };
    if let Some(aside) = &found.set_aside {
        tracing::error!(key = key.as_str(), reason = aside.reason, "record set aside");
    }
    Ok(Some(found.value(kind)?))
}

pub(super) fn scan(store: &dyn CheckpointStore, scan: &Scan) -> Result<Vec<(Key, Record)>, KeeperError> {
    let scanned = store.scan(scan)?;
    for aside in &scanned.set_aside {
        tracing::error!(key = aside.key.as_ref().map(Key::as_str), reason = aside.reason, "record set aside");
    }
    Ok(scanned.entries)
}

/// The sessions that an index names.
fn marked(store: &dyn CheckpointStore, index: &str) -> Result<Vec<SessionId>, KeeperError> {
    let keys = store.keys(&Scan::all(Prefix::metas_named(index)))?;
    let named = |key: &Key| key.name().strip_prefix(index).and_then(|id| SessionId::parse(id).ok());
    Ok(keys.iter().filter_map(named).collect())
}

pub(super) fn books(store: &dyn CheckpointStore) -> Result<Books, KeeperError> {
    let mut open = HashMap::new();
    for id in marked(store, "open/")? {
        if let Some(session) = value::<Session>(store, &Key::session_head(&id), HEAD)? {
            open.insert(id, session.phase);
        }
    }
    let mut counts: Counts = value(store, &Key::meta("counts"), COUNTS)?.unwrap_or_default();
    counts.unfinished = open.len();
    let outgoing = super::outgoing::books(store)?;
    Ok(Books { open, counts, outgoing })
}

/// A head as it lies in the store: by itself, or packed with all that belongs to it.
pub(super) fn head_of(record: &Record) -> Result<Session, KeeperError> {
    if record.tag == FINISHED.tag {
        return Ok(decode::<SessionRecord>(FINISHED, record)?.session);
    }
    Ok(decode(HEAD, record)?)
}

impl Keeper {
    /// A session's head.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn head(&self, session: &SessionId) -> Result<Option<Session>, KeeperError> {
        let found = self.store().get(&Key::session_head(session))?;
        found.map(|found| head_of(&found.record)).transpose()
    }

    /// Names of the records of a session that did not verify one day and are set aside; the head's is `head`. Empty for a
    /// sound session, and for one that was never there.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn damaged(&self, session: &SessionId) -> Result<Vec<String>, KeeperError> {
        let heads = self.store().damaged(&Prefix::session_heads())?;
        let is_head = |key: &Key| key.session().as_ref() == Some(session);
        let mut names: Vec<String> = heads.iter().filter(|key| is_head(key)).map(|_| "head".to_owned()).collect();
        names.extend(self.store().damaged(&Prefix::session_parts(session))?.iter().map(|key| key.name().to_owned()));
        Ok(names)
    }

    /// How many records of the whole store did not verify one day and are set aside.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn n_set_aside(&self) -> Result<usize, KeeperError> {
        Ok(self.store().damaged(&Prefix::everything())?.len())
    }

    pub(super) fn packed(&self, session: &SessionId) -> Result<Option<SessionRecord>, KeeperError> {
        match self.store().get(&Key::session_head(session))? {
            Some(found) if found.record.tag == FINISHED.tag => Ok(Some(found.value(FINISHED)?)),
            Some(_) | None => Ok(None),
        }
    }

    /// All that is shown of a session.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn record(&self, session: &SessionId) -> Result<Option<SessionRecord>, KeeperError> {
        if let Some(packed) = self.packed(session)? {
            return Ok(Some(packed));
        }
        let Some(head) = self.head(session)? else { return Ok(None) };
        let plan = value::<Plan>(self.store(), &Key::session_part(session, "plan"), PLAN)?;
        let mut milestones = Vec::new();
        for (_, record) in scan(self.store(), &Scan::all(Prefix::session_parts_named(session, "m/")))? {
            milestones.push(decode::<Milestone>(MILESTONE, &record)?);
        }
        let issues = self.issues_of(session)?;
        // Packed between two of these looks, it has no parts any more.
        if let Some(packed) = self.packed(session)? {
            return Ok(Some(packed));
        }
        Ok(Some(SessionRecord { session: head, plan, milestones, issues }))
    }

    pub(super) fn issues_of(&self, session: &SessionId) -> Result<Vec<IssueRecord>, KeeperError> {
        let mut issues = Vec::new();
        for (_, record) in scan(self.store(), &Scan::all(Prefix::session_parts_named(session, "i/")))? {
            issues.push(decode(ISSUE, &record)?);
        }
        Ok(issues)
    }

    /// The keys of a session's issues. One whose issues do not read has none.
    pub(crate) fn issue_keys(&self, session: &SessionId) -> HashSet<String> {
        let issues = self.issues_of(session).unwrap_or_default();
        issues.into_iter().map(|record| record.issue.key).collect()
    }

    /// The issues of a session, packed or not.
    fn issues_kept(&self, session: &SessionId) -> Result<Vec<IssueRecord>, KeeperError> {
        if let Some(packed) = self.packed(session)? {
            return Ok(packed.issues);
        }
        let issues = self.issues_of(session)?;
        // Packed between these two looks, it has no parts any more; and it stays packed.
        Ok(self.packed(session)?.map_or(issues, |packed| packed.issues))
    }

    /// The chunks of a session's events, oldest first.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn events_of(&self, session: &SessionId) -> Result<Vec<Vec<u8>>, KeeperError> {
        let chunks = scan(self.store(), &Scan::all(events_prefix(session)))?;
        chunks.iter().map(|(_, record)| Ok(decode(EVENTS, record)?)).collect()
    }

    /// What a session's stand-ins have done; `None` where they have done nothing.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn debts(&self, session: &SessionId) -> Result<Option<Debts>, KeeperError> {
        value(self.store(), &debts_key(session), DEBTS)
    }

    /// Whether a model may still do what a stand-in has done for the session.
    pub(crate) fn owes(&self, session: &SessionId) -> bool {
        // One that does not read cannot be made up for.
        self.debts(session).is_ok_and(|debts| debts.is_some_and(|debts| debts.are_open()))
    }

    /// Completed sessions for which a model may still do something, oldest first.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub(crate) fn owing(&self) -> Result<Vec<SessionId>, KeeperError> {
        Ok(self.unpacked()?.into_iter().filter(|id| self.owes(id)).collect())
    }

    /// Completed sessions that a crash kept from being packed, or that wait for a model.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub(crate) fn unpacked(&self) -> Result<Vec<SessionId>, KeeperError> {
        marked(self.store(), "unpacked/")
    }

    /// The newest sessions, newest first.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn newest(&self, limit: usize) -> Result<Vec<SessionRecord>, KeeperError> {
        let keys = self.store().keys(&Scan::newest(Prefix::session_heads(), limit))?;
        let mut records = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(record) = key.session().map(|id| self.record(&id)).transpose()?.flatten() {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// The newest session of an idea.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn newest_of_idea(&self, idea: &str) -> Result<Option<SessionId>, KeeperError> {
        // A text that is no idea id has no sessions, and must not widen the scan.
        if IdeaId::new(idea).is_err() {
            return Ok(None);
        }
        let keys = self.store().keys(&Scan::newest(Prefix::metas_named(&format!("idea/{idea}/")), 1))?;
        let id = keys.first().and_then(|key| key.name().rsplit('/').next()).and_then(|id| SessionId::parse(id).ok());
        Ok(id)
    }

    /// Sessions that are not over, oldest first.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn unfinished(&self) -> Result<Vec<Session>, KeeperError> {
        let mut ids: Vec<SessionId> = self.books().open.keys().cloned().collect();
        ids.sort_unstable();
        let mut sessions = Vec::with_capacity(ids.len());
        for id in ids {
            sessions.extend(self.head(&id)?);
        }
        Ok(sessions)
    }

    /// Sessions that go on by themselves at a start, oldest first: all that are not over, but the parked ones.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn resumable(&self) -> Result<Vec<Session>, KeeperError> {
        let parked = |session: &Session| session.interrupt.as_ref().is_some_and(|interrupt| interrupt.parked);
        Ok(self.unfinished()?.into_iter().filter(|session| !parked(session)).collect())
    }

    /// How many sessions stand where.
    ///
    /// # Errors
    /// None today; the books are kept in memory.
    pub fn counts(&self) -> Result<Counts, KeeperError> {
        Ok(self.books().counts)
    }

    /// A session as it goes on.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub(crate) fn load(&self, session: &SessionId) -> Result<Option<Loaded>, KeeperError> {
        let Some(head) = self.head(session)? else { return Ok(None) };
        let missing = || KeeperError::Store(format!("the idea of session {session} is not in the store"));
        let idea: IdeaRecord = value(self.store(), &Key::session_part(session, "idea"), IDEA)?.ok_or_else(missing)?;
        let idea = Idea { id: head.idea.clone(), title: idea.title, body: idea.body };
        let plan = value(self.store(), &Key::session_part(session, "plan"), PLAN)?;
        let milestone = match head.current {
            0 => None,
            current => value(self.store(), &milestone_key(session, current), MILESTONE)?,
        };
        let spent = self.spent_by(session)?;
        let debts = self.debts(session)?.unwrap_or_default();
        Ok(Some(Loaded { run: Run { session: head, plan, milestone, debts }, idea, spent }))
    }

    /// What a session's answers and failed attempts have cost so far.
    fn spent_by(&self, session: &SessionId) -> Result<Spent, KeeperError> {
        let mut spent = Spent::default();
        for (_, record) in scan(self.store(), &Scan::all(Prefix::session_parts_named(session, "a/")))? {
            spent = spent.plus(decode::<Answer>(ANSWER, &record)?.spent);
        }
        for (_, log) in self.execution_logs(session)? {
            spent = spent.plus(log.spent);
        }
        Ok(spent)
    }

    /// The rates as they were saved last.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn rates(&self) -> Result<Rates, KeeperError> {
        Ok(value(self.store(), &Key::meta("rates"), RATES)?.unwrap_or_default())
    }

    /// How far timeouts were raised.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn raises(&self) -> Result<Raises, KeeperError> {
        Ok(value(self.store(), &Key::meta("timeouts"), RAISES)?.unwrap_or_default())
    }

    /// Their history as it was saved last.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn rate_history(&self) -> Result<History, KeeperError> {
        Ok(value(self.store(), &Key::meta("rate-history"), RATE_HISTORY)?.unwrap_or_default())
    }

    /// What was spent on a day before this process; `None` when nothing is known of that day.
    pub(crate) fn spent_on(&self, day: u64) -> Result<Option<Spent>, KeeperError> {
        let saved: Option<(u64, Spent)> = value(self.store(), &Key::meta("day"), DAY)?;
        Ok(saved.filter(|(saved, _)| *saved == day).map(|(_, spent)| spent))
    }

    /// The answer of a step, when it was bought before.
    pub(crate) fn answer(&self, session: &SessionId, step: &StepKey) -> Result<Option<Answer>, KeeperError> {
        value(self.store(), &answer_key(session, step), ANSWER)
    }

    /// The attempts of an execution that an earlier process began.
    pub(crate) fn execution_log(
        &self,
        session: &SessionId,
        step: &StepKey,
        attempt: u32,
    ) -> Result<Option<ExecutionLog>, KeeperError> {
        value(self.store(), &execution_key(session, step, attempt), EXECUTION)
    }

    /// The attempts of all executions of a session that have no answer.
    pub(super) fn execution_logs(&self, session: &SessionId) -> Result<Vec<(Key, ExecutionLog)>, KeeperError> {
        let logs = scan(self.store(), &Scan::all(Prefix::session_parts_named(session, "x/")))?;
        logs.into_iter().map(|(key, record)| Ok((key, decode(EXECUTION, &record)?))).collect()
    }

    /// The files of a milestone's manual task.
    pub(crate) fn manual(&self, session: &SessionId, index: u32) -> Result<Option<ManualFiles>, KeeperError> {
        value(self.store(), &Key::session_part(session, &format!("t/{index:03}")), MANUAL)
    }

    /// Issues without a receipt, oldest first.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn undelivered(&self) -> Result<Vec<IssueRecord>, KeeperError> {
        let mut pending = Vec::new();
        for (key, _) in scan(self.store(), &Scan::all(Prefix::metas_named("pending/")))? {
            let name = key.name().strip_prefix("pending/").unwrap_or_default();
            pending.extend(self.issue(name)?.filter(|issue| issue.url.is_none()));
        }
        pending.sort_by_key(|record| record.created_ms);
        Ok(pending)
    }

    /// An issue by its key, which begins with its session's id.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub(crate) fn issue(&self, key: &str) -> Result<Option<IssueRecord>, KeeperError> {
        let Some(session) = key.get(..19).and_then(|id| SessionId::parse(id).ok()) else { return Ok(None) };
        Ok(self.issues_kept(&session)?.into_iter().find(|issue| issue.issue.key == key))
    }

    /// Every issue of every session that is kept, oldest session first.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn issues(&self) -> Result<Vec<IssueRecord>, KeeperError> {
        let mut issues = Vec::new();
        for key in self.store().keys(&Scan::all(Prefix::session_heads()))? {
            let Some(session) = key.session() else { continue };
            issues.extend(self.issues_kept(&session)?);
        }
        Ok(issues)
    }

    pub(super) fn saved_breakers(&self) -> Result<Vec<ModelId>, KeeperError> {
        let mut models = Vec::new();
        for (_, record) in scan(self.store(), &Scan::all(Prefix::breakers()))? {
            let (model, _, _): (String, u64, Snapshot) = decode(BREAKER, &record)?;
            models.extend(ModelId::new(&model).ok());
        }
        Ok(models)
    }

    pub(super) fn saved_snapshot(&self, model: &ModelId) -> Option<(Snapshot, Duration)> {
        let saved = value::<(String, u64, Snapshot)>(self.store(), &Key::breaker(model), BREAKER);
        match saved {
            Ok(saved) => saved.map(|(_, at_ms, snapshot)| {
                // A clock that was set back makes this zero; the breaker bounds its open time itself.
                (snapshot, Duration::from_millis(wall_clock_ms().saturating_sub(at_ms)))
            }),
            Err(error) => {
                tracing::warn!(model = model.as_str(), error = %error, "saved breaker does not read; it begins closed");
                None
            }
        }
    }

    /// How a model's breaker stands by what was saved: its status text, and the time until its next test.
    pub fn saved_breaker(&self, model: &ModelId, config: BreakerConfig) -> (String, Option<Duration>) {
        let breaker = match self.saved_snapshot(model) {
            Some((snapshot, elapsed)) => Breaker::restore(config, &snapshot, elapsed, Duration::ZERO),
            None => Breaker::new(config),
        };
        (breaker.status(Duration::ZERO).to_string(), breaker.retry_in(Duration::ZERO))
    }
}
