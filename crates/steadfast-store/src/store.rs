//! The trait that the keeper writes through.

use serde::de::DeserializeOwned;

use crate::batch::Batch;
use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::record::{Record, RecordKind, decode};

/// A record that did not verify and was taken out of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its key; `None` when even that could not be read.
    pub key: Option<Key>,
    /// What is wrong and where the bytes were kept, as a sentence for a person.
    pub reason: String,
    /// Whether the previous record took its place.
    pub previous_used: bool,
}

/// A record that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The newest record that verifies.
    pub record: Record,
    /// Set when a newer one did not verify, so that this is the previous one. Told once, to the reader that met it.
    pub set_aside: Option<SetAside>,
}

impl Found {
    /// Decodes the record, as [`decode`].
    ///
    /// # Errors
    /// As [`decode`].
    pub fn value<T: DeserializeOwned>(&self, kind: RecordKind) -> Result<T, StoreError> {
        decode(kind, &self.record)
    }
}

/// Direction of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first; among sessions the oldest.
    Ascending,
    /// Largest key first; among sessions the youngest.
    Descending,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Keys to cover.
    pub prefix: Prefix,
    /// Direction.
    pub order: Order,
    /// Go on behind this key, in the scan's direction; for pages.
    pub after: Option<Key>,
    /// At most so many entries.
    pub limit: usize,
}

impl Scan {
    /// Everything under the prefix, smallest key first.
    pub fn all(prefix: Prefix) -> Self {
        Self { prefix, order: Order::Ascending, after: None, limit: usize::MAX }
    }

    /// The `limit` largest keys, largest first; of session heads, the newest sessions.
    pub fn newest(prefix: Prefix, limit: usize) -> Self {
        Self { prefix, order: Order::Descending, after: None, limit }
    }

    /// The `limit` smallest keys, smallest first.
    pub fn first(prefix: Prefix, limit: usize) -> Self {
        Self { limit, ..Self::all(prefix) }
    }

    /// Goes on behind `key`, e.g. the last one of the page before.
    #[must_use]
    pub fn after(self, key: Key) -> Self {
        Self { after: Some(key), ..self }
    }
}

/// What a scan found. A record that does not verify never hides its neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scanned {
    /// In the scan's order; each verified.
    pub entries: Vec<(Key, Record)>,
    /// What was taken out of the way on the way.
    pub set_aside: Vec<SetAside>,
}

/// What a check of everything has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Records that verify.
    pub records: u64,
    /// Records kept for the case that the one that replaced them does not verify one day.
    pub previous: u64,
    /// Bytes of all payloads that verify.
    pub payload_bytes: u64,
    /// Records that do not verify, and are there: key and what is wrong. They are set aside by the next reader.
    pub damaged: Vec<(String, String)>,
    /// Records that did not verify one day and were set aside.
    pub set_aside: Vec<Key>,
    /// Records that are counted and not there.
    pub missing: u64,
}

impl Check {
    /// Nothing is damaged, missing or set aside.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.set_aside.is_empty() && self.missing == 0
    }
}

/// Sizes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What records that can still be read take up, with their headers.
    pub live_bytes: u64,
    /// What the files take up, index and set-aside copies included.
    pub disk_bytes: u64,
}

/// A durable key-value store with atomic batches. All calls block; writes come from one thread, reads from any.
pub trait CheckpointStore: Send + Sync + 'static {
    /// The newest record under the key that verifies; `None` when there is none. Sees batches that were applied but not
    /// yet synced.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the record does not verify and has no previous one: it is then set aside, and the
    /// next call answers `None`. Others: the store itself failed.
    fn get(&self, key: &Key) -> Result<Option<Found>, StoreError>;

    /// Records in key order.
    ///
    /// # Errors
    /// Only when the store itself failed; broken records are told in the result.
    fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError>;

    /// The keys of a scan, without reading the records.
    ///
    /// # Errors
    /// When the store itself failed.
    fn keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError>;

    /// Applies all changes or none. A crash before [`CheckpointStore::sync`] may keep or lose the batch, never a part.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]: nothing was changed, and the store can be used on. Others: unknown until it is opened again.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Returns when everything that was applied before is on disk, power cut included.
    ///
    /// # Errors
    /// [`StoreError::Sync`]: it is unknown what is on disk, and every later write is refused ([`StoreError::Broken`]).
    fn sync(&self) -> Result<(), StoreError>;

    /// One bounded step of housekeeping (at most some tens of milliseconds): gives space of dead records back. Returns
    /// whether there is more to do. Called by [`crate::GroupCommit`] when it is idle.
    ///
    /// # Errors
    /// As [`CheckpointStore::sync`].
    fn maintain(&self) -> Result<bool, StoreError>;

    /// Gives all the space of dead records back that it can, however long that takes: for a person who asks for it. Writers
    /// wait until it is done; readers do not.
    ///
    /// # Errors
    /// As [`CheckpointStore::maintain`]; what was saved is whole then, too.
    fn compact(&self) -> Result<(), StoreError>;

    /// Whether this opening is still the last one: asked before anything outside the store is changed.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    fn fence(&self) -> Result<(), StoreError>;

    /// Raised and made durable by each opening for writing: an older number than this one belongs to a dead process.
    fn epoch(&self) -> u64;

    /// Keys under the prefix whose records did not verify one day and were set aside; their bytes are kept. In key order.
    ///
    /// # Errors
    /// When the store itself failed.
    fn damaged(&self, prefix: &Prefix) -> Result<Vec<Key>, StoreError>;

    /// The record that the current one under the key has replaced, where it is kept and verifies.
    ///
    /// # Errors
    /// When the store itself failed.
    fn previous(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// Reads everything, and changes nothing. `progress` is told how many are done, of how many.
    ///
    /// # Errors
    /// When the store itself failed, e.g. because a part of its files does not read.
    fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, StoreError>;

    /// Sizes now.
    fn usage(&self) -> Usage;
}
