//! Batches: changes that happen together or not at all.

use serde::Serialize;

use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::record::{Record, RecordKind, encode};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Store the record; what was under the key is gone, and so is its previous one.
    Put(Key, Record),
    /// Store the record and keep the one that it replaces, for the case that the new one does not verify one day.
    PutKeepingPrevious(Key, Record),
    /// Remove the record and its previous one.
    Delete(Key),
    /// Remove everything under the prefix.
    DeleteAll(Prefix),
}

/// Changes in order; a later one sees the earlier ones. Applied atomically.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a record.
    pub fn put(&mut self, key: Key, record: Record) -> &mut Self {
        self.push(Change::Put(key, record))
    }

    /// Stores a record and keeps the one that it replaces as the fallback. For heads: records that are overwritten and
    /// that everything else hangs on.
    pub fn put_keeping_previous(&mut self, key: Key, record: Record) -> &mut Self {
        self.push(Change::PutKeepingPrevious(key, record))
    }

    /// Encodes and stores a value.
    ///
    /// # Errors
    /// As [`encode`]; the batch is then unchanged.
    pub fn put_value<T: Serialize + ?Sized>(
        &mut self,
        key: Key,
        kind: RecordKind,
        value: &T,
    ) -> Result<&mut Self, StoreError> {
        let record = encode(kind, value)?;
        Ok(self.put(key, record))
    }

    /// Removes a record, and its previous one.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.push(Change::Delete(key))
    }

    /// Removes everything under a prefix, as it is when the batch is applied.
    pub fn delete_all(&mut self, prefix: Prefix) -> &mut Self {
        self.push(Change::DeleteAll(prefix))
    }

    /// Appends all changes of another batch, leaving it empty.
    pub fn append(&mut self, other: &mut Self) -> &mut Self {
        self.changes.append(&mut other.changes);
        self
    }

    /// The changes in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all payloads, for bounding a group.
    pub fn payload_bytes(&self) -> usize {
        self.changes
            .iter()
            .map(|change| match change {
                Change::Put(_, record) | Change::PutKeepingPrevious(_, record) => record.payload.len(),
                Change::Delete(_) | Change::DeleteAll(_) => 0,
            })
            .sum()
    }

    fn push(&mut self, change: Change) -> &mut Self {
        self.changes.push(change);
        self
    }
}
