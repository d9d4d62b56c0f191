//! Closings, alerts, and what keeps them: which recovery issue is open for which session, and why something was not
//! delivered.
//!
//! Invariant: the books are changed when a batch is handed over, in the order of the batches, so that of several sessions
//! that go on at once exactly one closes the issue that they share.

use std::collections::{BTreeMap, HashMap};

use steadfast_core::ids::SessionId;
use steadfast_notify::{Alert, AlertKind, Closing};
use steadfast_store::{Batch, CheckpointStore, Key, Prefix, Scan, decode};

use super::read::{scan, value};
use super::{Keeper, KeeperError, MARK, OUTGOING, TROUBLE};
use crate::records::{Outgoing, OutgoingRecord, Trouble};

/// After an alert about a breaker the same model's breaker may open again for so long without another one: a provider that
/// comes and goes is one piece of news.
pub(crate) const BREAKER_QUIET_MS: u64 = 10 * 60 * 1000;
/// Alerts that wait for a webhook that does not answer. Of more, the oldest are forgotten: nobody reads them any more.
const MAX_WAITING_ALERTS: usize = 100;
/// Delivered closings and alerts that are kept to be shown.
const MAX_SENT: usize = 200;

/// Open recovery issues by session: the issue's key, and why the session stopped.
fn standing_mark(session: &SessionId, issue: &str) -> Key {
    Key::meta(&format!("standing/{session}/{issue}"))
}

pub(super) fn trouble_key(key: &str) -> Key {
    Key::meta(&format!("trouble/{key}"))
}

pub(super) struct Books {
    /// By session and issue key: why the session stopped.
    standing: BTreeMap<(SessionId, String), String>,
    /// When a model's breaker was alerted of last, in milliseconds since 1970.
    breakers: HashMap<String, u64>,
}

pub(super) fn books(store: &dyn CheckpointStore) -> Result<Books, KeeperError> {
    let mut standing = BTreeMap::new();
    for (key, record) in scan(store, &Scan::all(Prefix::metas_named("standing/")))? {
        let name = key.name().strip_prefix("standing/").unwrap_or_default();
        let Some((session, issue)) = name.split_once('/') else { continue };
        if let Ok(session) = SessionId::parse(session) {
            standing.insert((session, issue.to_owned()), decode::<String>(MARK, &record)?);
        }
    }
    let mut breakers: HashMap<String, u64> = HashMap::new();
    for (_, record) in scan(store, &Scan::all(Prefix::outbox()))? {
        if let Outgoing::Alert(alert) = decode::<OutgoingRecord>(OUTGOING, &record)?.what
            && let Some(model) = breaker_of(&alert)
        {
            let last = breakers.entry(model.to_owned()).or_default();
            *last = alert.at_ms.max(*last);
        }
    }
    Ok(Books { standing, breakers })
}

fn breaker_of(alert: &Alert) -> Option<&str> {
    let model = alert.fields.iter().find(|(name, _)| name == "model");
    model.filter(|_| alert.kind == AlertKind::BreakerOpen).map(|(_, model)| model.as_str())
}

impl Keeper {
    /// Why a session stands still by the recovery issue that is open for it.
    pub(crate) fn standing(&self, session: &SessionId) -> Option<String> {
        let books = self.books();
        books.outgoing.standing.iter().find(|((standing, _), _)| standing == session).map(|(_, reason)| reason.clone())
    }

    pub(super) fn put_standing(
        &self,
        batch: &mut Batch,
        session: &SessionId,
        issue: &str,
        reason: &str,
    ) -> Result<(), KeeperError> {
        batch.put_value(standing_mark(session, issue), MARK, reason)?;
        self.books().outgoing.standing.insert((session.clone(), issue.to_owned()), reason.to_owned());
        Ok(())
    }

    pub(super) fn went_on(
        &self,
        batch: &mut Batch,
        session: &SessionId,
        comment: &str,
        now_ms: u64,
    ) -> Result<(), KeeperError> {
        let mut books = self.books();
        let standing = &mut books.outgoing.standing;
        let of_session = standing.keys().filter(|(standing, _)| standing == session);
        let issues: Vec<String> = of_session.map(|(_, issue)| issue.clone()).collect();
        for issue in issues {
            batch.delete(standing_mark(session, &issue));
            standing.remove(&(session.clone(), issue.clone()));
            if !standing.keys().any(|(_, other)| *other == issue) {
                let what = Outgoing::Closing(Closing { issue, comment: comment.to_owned() });
                put(batch, &OutgoingRecord { what, created_ms: now_ms, receipt: None })?;
            }
        }
        Ok(())
    }

    /// A session is let go of: nobody will take it up any more.
    pub(super) fn forget_standing(&self, batch: &mut Batch, session: &SessionId) {
        self.books().outgoing.standing.retain(|(standing, issue), _| {
            if standing == session {
                batch.delete(standing_mark(session, issue));
            }
            standing != session
        });
    }

    pub(super) fn put_alert(&self, batch: &mut Batch, alert: Alert) -> Result<(), KeeperError> {
        if let Some(model) = breaker_of(&alert) {
            let mut books = self.books();
            let last = books.outgoing.breakers.get(model).copied();
            // A clock that was set back makes no breaker silent for longer.
            if last.is_some_and(|last| last <= alert.at_ms && alert.at_ms - last < BREAKER_QUIET_MS) {
                return Ok(());
            }
            books.outgoing.breakers.insert(model.to_owned(), alert.at_ms);
        }
        let key = Key::outbox(&alert.id);
        if value::<OutgoingRecord>(self.store(), &key, OUTGOING)?.is_some() {
            return Ok(());
        }
        let is_waiting =
            |record: &OutgoingRecord| matches!(record.what, Outgoing::Alert(_)) && record.receipt.is_none();
        self.drop_oldest(batch, MAX_WAITING_ALERTS - 1, is_waiting)?;
        let created_ms = alert.at_ms;
        put(batch, &OutgoingRecord { what: Outgoing::Alert(alert), created_ms, receipt: None })
    }

    pub(super) fn put_sent(&self, batch: &mut Batch, record: &OutgoingRecord) -> Result<(), KeeperError> {
        batch.delete(trouble_key(&record.key()));
        self.drop_oldest(batch, MAX_SENT - 1, |record| record.receipt.is_some())?;
        put(batch, record)
    }

    fn drop_oldest(
        &self,
        batch: &mut Batch,
        keep: usize,
        of: impl Fn(&OutgoingRecord) -> bool,
    ) -> Result<(), KeeperError> {
        let of_kind: Vec<OutgoingRecord> = self.outgoing()?.into_iter().filter(of).collect();
        for record in of_kind.iter().take(of_kind.len().saturating_sub(keep)) {
            if record.receipt.is_none() {
                tracing::error!(key = record.key(), "alert forgotten: too many wait for the webhook");
            }
            batch.delete(Key::outbox(&record.key()));
            batch.delete(trouble_key(&record.key()));
        }
        Ok(())
    }

    /// Closings and alerts, oldest first: all that wait, and the newest of those that were sent.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn outgoing(&self) -> Result<Vec<OutgoingRecord>, KeeperError> {
        let mut records = Vec::new();
        for (_, record) in scan(self.store(), &Scan::all(Prefix::outbox()))? {
            records.push(decode::<OutgoingRecord>(OUTGOING, &record)?);
        }
        records.sort_by_key(|record| record.created_ms);
        Ok(records)
    }

    /// How many issues, closings and alerts wait for delivery.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn n_undelivered(&self) -> Result<usize, KeeperError> {
        let waiting = self.outgoing()?.into_iter().filter(|record| record.receipt.is_none()).count();
        Ok(self.undelivered()?.len() + waiting)
    }

    /// Why something in the outbox was not delivered when it was tried last. `None`: it was, or was not tried.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn trouble(&self, key: &str) -> Result<Option<Trouble>, KeeperError> {
        value(self.store(), &trouble_key(key), TROUBLE)
    }

    /// Saves an alert without waiting, and then does this.
    pub(crate) fn save_alert(&self, alert: Alert, then: impl FnOnce() + Send + 'static) {
        let mut batch = Batch::new();
        match self.put_alert(&mut batch, alert) {
            Ok(()) if batch.is_empty() => {}
            Ok(()) => {
                #[cfg(test)]
                let held = crate::tests::clock::hold();
                self.shared.handle.submit(batch, move |result| {
                    match result {
                        Ok(()) => then(),
                        Err(error) => tracing::error!(error = %error, "alert not saved"),
                    }
                    #[cfg(test)]
                    drop(held);
                });
            }
            Err(error) => tracing::error!(error = %error, "alert not saved"),
        }
    }
}

pub(super) fn put_closing(batch: &mut Batch, closing: Closing, now_ms: u64) -> Result<(), KeeperError> {
    put(batch, &OutgoingRecord { what: Outgoing::Closing(closing), created_ms: now_ms, receipt: None })
}

fn put(batch: &mut Batch, record: &OutgoingRecord) -> Result<(), KeeperError> {
    batch.put_value(Key::outbox(&record.key()), OUTGOING, record)?;
    Ok(())
}
