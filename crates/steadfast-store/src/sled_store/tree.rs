//! The tree: one sled database, and what reading and folding do to it.
//!
//! Beside the public key spaces it holds `q/<key>` (the record that the current one replaced), `~/<key>/…` (further parts
//! of a large record), `bad/<key>` (records that did not verify), `!store` (format and epoch), `!folded` (the last
//! journal that is in it) and `!count` (how many records it holds).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use steadfast_fault_point::{self as fault_point, Point};

use super::envelope::{self, Envelope};
use super::pending::{Entry, Previous, Table};
use super::{STORE_KEY, heal, is_internal, translate};
use crate::error::{BackendError, StoreError};
use crate::key::{Key, Prefix};
use crate::record::Record;
use crate::store::{Order, Scan, SetAside};

const FOLDED_KEY: &[u8] = b"!folded";
const COUNT_KEY: &[u8] = b"!count";

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
    /// Opens the tree at `path` as it is.
    pub(super) fn open(path: &Path, broken: Arc<AtomicBool>) -> Result<Self, StoreError> {
        Self::over(heal::open(path)?, path, broken)
    }

    /// Takes over an open database.
    pub(super) fn over(db: sled::Db, path: &Path, broken: Arc<AtomicBool>) -> Result<Self, StoreError> {
        let data = path.join("db");
        let file = File::open(&data).map_err(|error| StoreError::from_io("open", &data, &error))?;
        Ok(Self { db, file, path: path.to_owned(), broken })
    }

    pub(super) fn db(&self) -> &sled::Db {
        &self.db
    }

    /// sled has panicked on damaged files before; here that is an error, not the end of the process.
    pub(super) fn guarded<T>(&self, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        let failed = match heal::quietly(work) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if !heal::is_damage(&error) => return Err(translate(&self.path, "use", &error)),
            Ok(Err(error)) => BackendError::new(error),
            Err(_panic) => {
                self.broken.store(true, Ordering::Release);
                BackendError::new("sled panicked")
            }
        };
        heal::mark_unreadable(&self.path);
        Err(StoreError::Index { source: failed })
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
        fault_point::reach(Point::StoreTreeFlushing);
        let failed = match heal::quietly(|| self.db.flush()) {
            Ok(Ok(_bytes)) => {
                fault_point::reach(Point::StoreTreeFlushed);
                match self.file.sync_data() {
                    Ok(()) => return Ok(()),
                    Err(error) => BackendError::new(error),
                }
            }
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
            None => {
                changes.remove(raw);
                self.put_count(&mut changes, self.count()?.saturating_sub(1));
            }
        }
        self.apply(changes)?;
        let aside = SetAside {
            key: Some(key.clone()),
            reason: format!("{reason}; its bytes are kept under {}", String::from_utf8_lossy(&bad)),
            previous_used: previous.is_some(),
        };
        Ok(Some((previous, aside)))
    }

    /// Keys under which records were set aside.
    pub(super) fn set_aside_keys(&self, prefix: &Prefix) -> Result<Vec<Key>, StoreError> {
        self.guarded(|| {
            let mut keys = Vec::new();
            for key in self.db.scan_prefix([b"bad/", prefix.as_str().as_bytes()].concat()).keys() {
                keys.extend(Key::from_stored(&key?[b"bad/".len()..]));
            }
            Ok(keys)
        })
    }

    /// Where records lie that were replaced.
    pub(super) fn previous_keys(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        self.guarded(|| self.db.scan_prefix(b"q/").keys().map(|key| Ok(key?.to_vec())).collect())
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

    /// `folded`: the last journal that is in the tree.
    pub(super) fn set_own_record(&self, format: u32, epoch: u64, folded: u64) -> Result<(), StoreError> {
        let mut changes = sled::Batch::default();
        changes.insert(STORE_KEY, [format.to_le_bytes().as_slice(), epoch.to_le_bytes().as_slice()].concat());
        changes.insert(FOLDED_KEY, &folded.to_le_bytes());
        self.apply(changes)
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        let bytes = self.value(key)?;
        Ok(bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_ref()).ok()).map(u64::from_le_bytes))
    }

    /// The last journal that is in the tree; 0 for a tree of the first layout, which did not say.
    pub(super) fn folded(&self) -> Result<u64, StoreError> {
        Ok(self.number(FOLDED_KEY)?.unwrap_or(0))
    }

    /// How many records there must be; counted once in a tree of the first layout, which did not say.
    pub(super) fn count(&self) -> Result<u64, StoreError> {
        match self.number(COUNT_KEY)? {
            Some(count) => Ok(count),
            None => self.count_anew(),
        }
    }

    pub(super) fn count_anew(&self) -> Result<u64, StoreError> {
        self.guarded(|| {
            let mut count = 0;
            for key in self.db.iter().keys() {
                count += u64::from(!is_internal(&key?));
            }
            Ok(count)
        })
    }

    /// Goes with the changes that it counts, so that a crash leaves both or none.
    pub(super) fn put_count(&self, changes: &mut sled::Batch, count: u64) {
        changes.insert(COUNT_KEY, &count.to_le_bytes());
    }

    pub(super) fn is_empty(&self) -> Result<bool, StoreError> {
        self.guarded(|| Ok(self.db.iter().next().transpose()?.is_none()))
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
        if entry.record.is_none()
            && let Some(session) = key.session().filter(|_| raw.starts_with(b"h/"))
        {
            // A session that goes takes along what was set aside of it.
            for aside in self.set_aside_keys(&Prefix::session_parts(&session))?.iter().chain([key]) {
                fold.changes.remove([b"bad/", aside.as_str().as_bytes()].concat());
            }
        }
        fold.count += i64::from(sealed.is_some()) - i64::from(before.is_some());
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
    /// How many records there are more.
    pub(super) count: i64,
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

pub(super) fn previous_key(raw: &[u8]) -> Vec<u8> {
    [b"q/", raw].concat()
}
