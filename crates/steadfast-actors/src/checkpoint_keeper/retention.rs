//! What is let go of: sessions that have been over for longer than they are kept (SPEC 7).

use std::collections::HashSet;

use steadfast_core::ids::SessionId;
use steadfast_core::session::Session;
use steadfast_store::{Batch, Key, Prefix, Scan};

use super::{
    COUNTS, Keeper, KeeperError, PRUNED, debts_key, events_prefix, finished, history_key, idea_mark, unpacked_mark,
};
use crate::records::{IssueRecord, Outgoing};

/// Sessions that one batch removes: a few hundred KiB of keys at most, so that nobody waits for long behind it.
const CHUNK: usize = 100;

impl Keeper {
    /// Removes every session that was over before `before_ms` (milliseconds since 1970), with its plan, answers and issues,
    /// and answers them. Kept all the same: those in `spare`, and those with an issue that is not delivered, or not closed, yet.
    ///
    /// # Errors
    /// [`KeeperError`]; a part may be removed then, and a repetition goes on.
    pub(crate) async fn prune(&self, before_ms: u64, spare: HashSet<SessionId>) -> Result<Vec<Session>, KeeperError> {
        let keys = self.store().keys(&Scan::all(Prefix::session_heads()))?;
        let ids = keys.iter().filter_map(Key::session);
        // An id tells when its session began, and they sort by that.
        let old: Vec<SessionId> =
            ids.take_while(|id| id.created_ms() < before_ms).filter(|id| !spare.contains(id)).collect();
        let mut pruned = Vec::new();
        for chunk in old.chunks(CHUNK) {
            // A receipt that came in between would bring a record back.
            let _packing = self.shared.packing.lock().await;
            let (keeper, chunk) = (self.clone(), chunk.to_vec());
            let made = tokio::task::spawn_blocking(move || keeper.removal(&chunk, before_ms)).await;
            let (batch, sessions) = made.map_err(|error| KeeperError::Store(error.to_string()))??;
            if !batch.is_empty() {
                self.commit(batch).await?;
            }
            pruned.extend(sessions);
        }
        let mut batch = Batch::new();
        batch.put_value(Key::meta("pruned"), PRUNED, &before_ms)?;
        self.commit(batch).await?;
        Ok(pruned)
    }

    fn removal(&self, ids: &[SessionId], before_ms: u64) -> Result<(Batch, Vec<Session>), KeeperError> {
        let (mut batch, mut sessions) = (Batch::new(), Vec::new());
        let unclosed: HashSet<String> = self
            .outgoing()?
            .into_iter()
            .filter(|record| record.receipt.is_none())
            .filter_map(|record| match record.what {
                Outgoing::Closing(closing) => Some(closing.issue),
                Outgoing::Alert(_) => None,
            })
            .collect();
        for id in ids {
            let Some(record) = self.record(id)? else { continue };
            let session = record.session;
            let is_over = session.phase.is_final() && session.updated_ms < before_ms;
            let waits = |issue: &IssueRecord| issue.url.is_none() || unclosed.contains(&issue.issue.key);
            if !is_over || record.issues.iter().any(waits) {
                continue;
            }
            self.forget_standing(&mut batch, id);
            batch.delete_all(Prefix::session_parts(id));
            batch.delete(Key::session_head(id));
            batch.delete(idea_mark(&session));
            batch.delete(unpacked_mark(id));
            batch.delete(debts_key(id));
            batch.delete_all(events_prefix(id));
            batch.delete(history_key(id));
            sessions.push(session);
        }
        if !sessions.is_empty() {
            let mut books = self.books();
            for session in &sessions {
                let count = finished(&mut books.counts, session.phase);
                *count = count.saturating_sub(1);
            }
            batch.put_value(Key::meta("counts"), COUNTS, &books.counts)?;
        }
        Ok((batch, sessions))
    }

    /// Up to when (milliseconds since 1970) sessions were let go of the last time; 0: never.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub(crate) fn pruned_before(&self) -> Result<u64, KeeperError> {
        let found = self.store().get(&Key::meta("pruned"))?;
        Ok(found.map(|found| found.value(PRUNED)).transpose()?.unwrap_or(0))
    }

    /// As if it had never been applied.
    #[cfg(test)]
    pub(crate) async fn forget_retention(&self) {
        let mut batch = Batch::new();
        batch.delete(Key::meta("pruned"));
        self.commit(batch).await.expect("a store in memory saves");
    }
}
