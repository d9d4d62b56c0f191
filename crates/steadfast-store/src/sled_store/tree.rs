//! The tree: one sled database, and what reading and folding do to it.
//!
//! Beside the public key spaces it holds `q/<key>` (the record that the current one replaced), `~/<key>/…` (further parts
//! of a large record), `bad/<key>` (records that did not verify) and `!store` (format and epoch).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::envelope::{self, Envelope};
use super::pending::{Entry, Previous, Table};
use super::{OpenReport, STORE_KEY, heal, is_internal, translate};
use crate::error::{BackendError, StoreError};
use crate::key::Key;
use crate::record::Record;
use crate::store::{Order, Scan, SetAside};

/// sled's database and its file.
pub(super) struct Tree {
    db: sled::Db,
    /// sled's own file, opened once more for its `fdatasync`.
    file: File,
    path: PathBuf,
    /// Of the whole store: set when sled has panicked or a sync has failed.
    broken: Arc<AtomicBool>,
}

impl Tree {
    /// Opens the tree at `path`, mending it where that is needed.
    pub(super) fn open(path: &Path, broken: Arc<AtomicBool>, report: &mut OpenReport) -> Result<Self, StoreError> {
        let db = heal::open(path, report)?;
        let data = path.join("db");
        let file = File::open(&data).map_err(|error| StoreError::from_io("open", &data, &error))?;
        Ok(Self { db, file, path: path.to_owned(), broken })
    }

    pub(super) fn db(&self) -> &sled::Db {
        &self.db
    }

    /// sled has panicked on damaged files before; here that is an error, not the end of the process.
    pub(super) fn guarded<T>(&self, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(translate(&self.path, "use", &error)),
            Err(_panic) => {
                self.broken.store(true, Ordering::Release);
                Err(StoreError::Index { source: BackendError::new("sled panicked") })
            }
        }
    }

    pub(super) fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.guarded(|| self.db.get(key))
    }

    pub(super) fn apply(&self, changes: sled::Batch) -> Result<(), StoreError> {
        self.guarded(|| self.db.apply_batch(changes))
    }

    /// Returns when everything that was applied is on disk: sled's own flush is followed by a `fdatasync` of its file, for
    /// sled 0.34.7 uses `sync_file_range`, which is no protection against a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let failed = match catch_unwind(AssertUnwindSafe(|| self.db.flush())) {
            Ok(Ok(_bytes)) => match self.file.sync_data() {
                Ok(()) => return Ok(()),
                Err(error) => BackendError::new(error),
            },
            Ok(Err(error)) => BackendError::new(error),
            Err(_panic) => BackendError::new("sled panicked"),
        };
        self.broken.store(true, Ordering::Release);
        Err(StoreError::Sync { source: failed })
    }

    /// Bytes that sled's file takes up on disk; it has holes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |data| data.blocks() * 512)
    }

    /// Bytes of all keys and values.
    pub(super) fn live_bytes(&self) -> Result<u64, StoreError> {
        self.guarded(|| {
            let mut bytes = 0;
            for entry in self.db.iter() {
                let (key, value) = entry?;
                bytes += (key.len() + value.len()) as u64;
            }
            Ok(bytes)
        })
    }

    /// The record under a raw key, joined from its parts; `Err` holds what is wrong with it.
    pub(super) fn read(&self, raw: &[u8]) -> Result<Option<Result<Record, String>>, StoreError> {
        match self.value(raw)? {
            Some(bytes) => self.join(raw, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn join(&self, raw: &[u8], bytes: &[u8]) -> Result<Result<Record, String>, StoreError> {
        let envelope = match Envelope::parse(bytes) {
            Ok(envelope) => envelope,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut payload = envelope.inline.to_vec();
        for part in 0..envelope.n_parts {
            match self.value(&envelope::part_key(raw, envelope.generation, part))? {
                Some(bytes) => payload.extend_from_slice(&bytes),
                None => return Ok(Err(format!("part {part} of it is missing"))),
            }
        }
        Ok(envelope.verify(payload))
    }

    /// Moves a record that does not verify out of the way, and the one before it to its place. `None`: it verifies by now.
    pub(super) fn set_aside(&self, key: &Key) -> Result<Option<(Option<Record>, SetAside)>, StoreError> {
        let raw = key.as_str().as_bytes();
        let Some(bytes) = self.value(raw)? else { return Ok(None) };
        let Err(reason) = self.join(raw, &bytes)? else { return Ok(None) };
        let previous = self.read(&previous_key(raw))?.and_then(Result::ok);
        let bad = [b"bad/", raw].concat();
        let mut changes = sled::Batch::default();
        changes.insert(bad.as_slice(), &bytes);
        match &previous {
            Some(record) => {
                let generation = Envelope::parse(&bytes).map_or(0, |envelope| envelope.generation.wrapping_add(1));
                put(&mut changes, raw, record, generation);
            }
            None => changes.remove(raw),
        }
        self.apply(changes)?;
        let aside = SetAside {
            key: Some(key.clone()),
            reason: format!("{reason}; its bytes are kept under {}", String::from_utf8_lossy(&bad)),
            previous_used: previous.is_some(),
        };
        Ok(Some((previous, aside)))
    }

    /// Keys of a scan, merged with those that are pending: `pending` is in the scan's order and ends where the limit is
    /// reached by it alone.
    pub(super) fn keys(&self, scan: &Scan, pending: Vec<(Key, bool)>) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        let mut pending = pending.into_iter().peekable();
        let after = scan.after.as_ref().map(|key| key.as_str().as_bytes());
        let is_ascending = scan.order == Order::Ascending;
        // Takes one key of the tree; answers whether there is room for more.
        let mut take = |raw: &[u8]| -> bool {
            let is_behind = after.is_none_or(|after| if is_ascending { raw > after } else { raw < after });
            if !is_behind || is_internal(raw) {
                return keys.len() < scan.limit;
            }
            let Some(key) = Key::from_stored(raw) else { return true };
            let comes_first = |other: &(Key, bool)| if is_ascending { other.0 <= key } else { other.0 >= key };
            let mut is_pending = false;
            while let Some((other, is_live)) = pending.next_if(comes_first) {
                is_pending = other == key;
                if is_live && keys.len() < scan.limit {
                    keys.push(other);
                }
            }
            if !is_pending && keys.len() < scan.limit {
                keys.push(key);
            }
            keys.len() < scan.limit
        };
        if scan.limit == 0 {
            return Ok(keys);
        }
        let prefix = scan.prefix.as_str().as_bytes();
        self.guarded(|| {
            if is_ascending {
                let from = after.filter(|after| *after > prefix).unwrap_or(prefix);
                for entry in self.db.range(from..).keys() {
                    let raw = entry?;
                    if !raw.starts_with(prefix) || !take(&raw) {
                        break;
                    }
                }
            } else {
                let keys = match after.filter(|after| after.starts_with(prefix)) {
                    Some(after) => self.db.range(prefix..after),
                    None => self.db.scan_prefix(prefix),
                };
                for entry in keys.keys().rev() {
                    if !take(&entry?) {
                        break;
                    }
                }
            }
            Ok(())
        })?;
        let room = scan.limit - keys.len();
        keys.extend(pending.filter(|(_, is_live)| *is_live).map(|(key, _)| key).take(room));
        Ok(keys)
    }

    /// Format and last epoch of the store's own record; `None` for a new one.
    pub(super) fn own_record(&self) -> Result<Option<(u32, u64)>, StoreError> {
        let bytes = self.value(STORE_KEY)?;
        Ok(bytes
            .and_then(|bytes| <[u8; 12]>::try_from(bytes.as_ref()).ok())
            .map(|[a, b, c, d, rest @ ..]| (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(rest))))
    }

    pub(super) fn set_own_record(&self, format: u32, epoch: u64) -> Result<(), StoreError> {
        let bytes = [format.to_le_bytes().as_slice(), epoch.to_le_bytes().as_slice()].concat();
        self.guarded(|| self.db.insert(STORE_KEY, bytes)).map(drop)
    }

    /// Adds an entry to a batch. Folding it once more changes nothing.
    pub(super) fn fold(&self, fold: &mut Fold, key: &Key, entry: &Entry) -> Result<(), StoreError> {
        let raw = key.as_str().as_bytes();
        let before = self.value(raw)?;
        let sealed = entry.record.as_ref().map(|record| envelope::seal(raw, record, entry.generation));
        if let (Some(before), Some([(_, head), ..])) = (&before, sealed.as_deref())
            && before.as_ref() == head.as_slice()
        {
            // Of a crash in the middle of a folding; the previous one must not be replaced by this one.
            return Ok(());
        }
        let previous = previous_key(raw);
        let kept = match (&entry.previous, &before) {
            // Only a record that verifies is worth keeping; else the one before it stays.
            (Previous::InTree, Some(before)) => match self.join(raw, before)? {
                Ok(record) => Some(Some(envelope::seal(&previous, &record, entry.generation))),
                Err(_) => None,
            },
            (Previous::Kept(record), _) => Some(Some(envelope::seal(&previous, record, entry.generation))),
            (Previous::InTree, None) | (Previous::Cleared, _) => Some(None),
        };
        if let Some(kept) = kept {
            fold.remove(&previous, self.value(&previous)?.as_deref());
            fold.insert(kept.into_iter().flatten());
        }
        fold.remove(raw, before.as_deref());
        fold.insert(sealed.into_iter().flatten());
        Ok(())
    }

    /// What is alive when a table lies over the tree: keys and values, without what was set aside.
    pub(super) fn live_bytes_under(&self, tables: &[&Table]) -> u64 {
        let pending = |raw: &[u8]| {
            let key = Key::from_stored(raw)?;
            tables.iter().find_map(|table| table.get(&key))
        };
        let mut bytes = 0;
        for (raw, value) in self.db.iter().flatten() {
            let whole = raw.strip_prefix(b"~/").map_or(&raw[..], |part| &part[..part.len().saturating_sub(7)]);
            let (owner, is_previous) = match whole.strip_prefix(b"q/") {
                Some(owner) => (owner, true),
                None => (whole, false),
            };
            let is_alive = !raw.starts_with(b"!")
                && !raw.starts_with(b"bad/")
                && match pending(owner) {
                    None => true,
                    // The current one of the tree is the previous one by now.
                    Some(entry) => matches!(entry.previous, Previous::InTree) && !is_previous,
                };
            bytes += if is_alive { (raw.len() + value.len()) as u64 } else { 0 };
        }
        let mut entries: Vec<(&Key, &Entry)> = Vec::new();
        for (at, table) in tables.iter().enumerate() {
            entries.extend(table.iter().filter(|(key, _)| tables[..at].iter().all(|newer| newer.get(key).is_none())));
        }
        let size = |key: &Key, record: &Record| (key.as_str().len() + envelope::HEADER + record.payload.len()) as u64;
        for (key, entry) in entries {
            bytes += entry.record.as_ref().map_or(0, |record| size(key, record));
            if let Previous::Kept(record) = &entry.previous {
                bytes += size(key, record) + 2;
            }
        }
        bytes
    }
}

/// Changes for one sled batch, and the bytes that come and go with them.
#[derive(Default)]
pub(super) struct Fold {
    pub(super) changes: sled::Batch,
    pub(super) added: u64,
    pub(super) removed: u64,
}

impl Fold {
    fn insert(&mut self, values: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) {
        for (key, value) in values {
            self.added += (key.len() + value.len()) as u64;
            self.changes.insert(key, value);
        }
    }

    /// Removes a value with the parts that its header names.
    fn remove(&mut self, raw: &[u8], value: Option<&[u8]>) {
        let Some(bytes) = value else { return };
        self.removed += (raw.len() + bytes.len()) as u64;
        if let Ok(envelope) = Envelope::parse(bytes) {
            for part in 0..envelope.n_parts {
                let key = envelope::part_key(raw, envelope.generation, part);
                self.removed += (key.len() + envelope::PART_BYTES) as u64;
                self.changes.remove(key);
            }
        }
        self.changes.remove(raw);
    }
}

fn put(changes: &mut sled::Batch, raw: &[u8], record: &Record, generation: u32) {
    for (key, value) in envelope::seal(raw, record, generation) {
        changes.insert(key, value);
    }
}

fn previous_key(raw: &[u8]) -> Vec<u8> {
    [b"q/", raw].concat()
}
