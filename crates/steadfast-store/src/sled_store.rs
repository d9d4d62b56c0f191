//! The store on disk: one sled tree. Nothing of sled is public.
//!
//! Invariants: a batch is one sled batch, so it is there wholly or not at all; after [`SledStore::sync`] it is on disk,
//! for sled's own flush is followed by a `fdatasync` of its file (sled 0.34.7 uses `sync_file_range`, which is no
//! protection against a power cut).
//!
//! Beside the public key spaces the tree holds `q/<key>` (the record that the current one replaced), `~/<key>/…` (further
//! parts of a large record), `bad/<key>` (records that did not verify) and `!store` (format and epoch).

mod envelope;
mod heal;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::batch::{Batch, Change};
use crate::error::{BackendError, StoreError};
use crate::key::{Key, Prefix};
use crate::lock::StoreLock;
use crate::record::Record;
use crate::store::{CheckpointStore, Found, Order, Scan, Scanned, SetAside, Usage};

use envelope::Envelope;

/// The format of the tree as a whole.
const FORMAT: u32 = 1;
const STORE_KEY: &[u8] = b"!store";

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// How long to wait for another process to let go of it.
    pub lock_wait: Duration,
}

/// What an open had to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// What was mended, in plain sentences; empty for a sound store.
    pub actions: Vec<String>,
    /// The old store could not be opened at all: it was set aside, and this one began empty.
    pub lost: bool,
}

/// The store on disk.
pub struct SledStore {
    tree: sled::Db,
    /// sled's own file, opened once more for its `fdatasync`.
    file: File,
    dir: PathBuf,
    epoch: u64,
    broken: AtomicBool,
    /// Last, so that it is let go of after sled has closed its files.
    _lock: StoreLock,
}

impl SledStore {
    /// Opens the store in `dir`, made where it is missing, and raises its epoch. Mends what a crash of sled's own recovery
    /// can leave behind (see [`OpenReport`]). Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process holds it for longer than `lock_wait`; [`StoreError::NewerStore`];
    /// [`StoreError::ReadOnly`], [`StoreError::PermissionDenied`], [`StoreError::NoSpace`], [`StoreError::NotADirectory`],
    /// [`StoreError::Io`]. Nothing is lost with any of them.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<(Self, OpenReport), StoreError> {
        fs::create_dir_all(dir).map_err(|error| StoreError::from_io("create", dir, &error))?;
        let lock = StoreLock::take(dir, options.lock_wait)?;
        let mut report = OpenReport::default();
        let path = dir.join("sled");
        let witness = heal::Witness::read(dir);
        let tree = heal::open(&path, &mut report)?;
        let epoch = raise_epoch(&tree, dir, witness.epoch)?;
        witness.compare(&tree, epoch.before, &mut report);
        let epoch = epoch.now;
        let data = path.join("db");
        let file = File::open(&data).map_err(|error| StoreError::from_io("open", &data, &error))?;
        let store = Self { tree, file, dir: dir.to_owned(), epoch, broken: AtomicBool::new(false), _lock: lock };
        store.sync()?;
        heal::Witness::write_open(dir, epoch)?;
        // The names of new files are durable only when their folders are.
        for folder in [&path, dir] {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| StoreError::from_io("sync", folder, &error))?;
        }
        Ok((store, report))
    }

    fn refuse_broken(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Acquire) { Err(StoreError::Broken) } else { Ok(()) }
    }

    /// sled has panicked on damaged files before; here that is an error, not the end of the process.
    fn guarded<T>(&self, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.translate(&error)),
            Err(_panic) => {
                self.broken.store(true, Ordering::Release);
                Err(StoreError::Index { source: BackendError::new("sled panicked") })
            }
        }
    }

    fn translate(&self, error: &sled::Error) -> StoreError {
        translate(&self.dir, "use", error)
    }

    fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.guarded(|| self.tree.get(key))
    }

    /// The record under a raw key, joined from its parts; `Err` holds what is wrong with it.
    fn read(&self, raw: &[u8]) -> Result<Option<Result<Record, String>>, StoreError> {
        let Some(bytes) = self.value(raw)? else { return Ok(None) };
        let envelope = match Envelope::parse(&bytes) {
            Ok(envelope) => envelope,
            Err(reason) => return Ok(Some(Err(reason))),
        };
        let mut payload = envelope.inline.to_vec();
        for part in 0..envelope.n_parts {
            match self.value(&envelope::part_key(raw, envelope.generation, part))? {
                Some(bytes) => payload.extend_from_slice(&bytes),
                None => return Ok(Some(Err(format!("part {part} of it is missing")))),
            }
        }
        Ok(Some(envelope.verify(payload)))
    }

    /// Reads a record, or the one before it; what does not verify is moved out of the way.
    fn found(&self, key: &Key) -> Result<Option<Result<Found, SetAside>>, StoreError> {
        let raw = key.as_str().as_bytes();
        let reason = match self.read(raw)? {
            None => return Ok(None),
            Some(Ok(record)) => return Ok(Some(Ok(Found { record, set_aside: None }))),
            Some(Err(reason)) => reason,
        };
        let previous = match self.read(&previous_key(raw))? {
            Some(Ok(record)) => Some(record),
            Some(Err(_)) | None => None,
        };
        let mut batch = sled::Batch::default();
        let bad = [b"bad/", raw].concat();
        if let Some(bytes) = self.value(raw)? {
            batch.insert(bad.as_slice(), &bytes);
        }
        // The previous one moves whole; its parts are found by the generation in its header, under its own key.
        match (&previous, self.value(&previous_key(raw))?) {
            (Some(record), _) => {
                for (key, bytes) in envelope::seal(raw, record, self.next_generation(raw)?) {
                    batch.insert(key, bytes);
                }
            }
            (None, _) => batch.remove(raw),
        }
        self.guarded(|| self.tree.apply_batch(batch))?;
        let aside = SetAside {
            key: Some(key.clone()),
            reason: format!("{reason}; its bytes are kept under {}", String::from_utf8_lossy(&bad)),
            previous_used: previous.is_some(),
        };
        Ok(Some(match previous {
            Some(record) => Ok(Found { record, set_aside: Some(aside) }),
            None => Err(aside),
        }))
    }

    fn next_generation(&self, raw: &[u8]) -> Result<u32, StoreError> {
        let current =
            self.value(raw)?.and_then(|bytes| Envelope::parse(&bytes).ok().map(|envelope| envelope.generation));
        Ok(current.map_or(0, |generation| generation.wrapping_add(1)))
    }

    fn scan_keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError> {
        let prefix = scan.prefix.as_str().as_bytes();
        let mut keys = Vec::new();
        let after = scan.after.as_ref().map(|key| key.as_str().as_bytes());
        let mut take = |raw: &[u8]| -> bool {
            if keys.len() >= scan.limit {
                return false;
            }
            if !is_internal(raw) {
                keys.extend(Key::from_stored(raw));
            }
            keys.len() < scan.limit
        };
        if scan.limit == 0 {
            return Ok(keys);
        }
        self.guarded(|| {
            match scan.order {
                Order::Ascending => {
                    for entry in self.tree.scan_prefix(prefix).keys() {
                        let raw = entry?;
                        if after.is_none_or(|after| raw.as_ref() > after) && !take(&raw) {
                            break;
                        }
                    }
                }
                Order::Descending => {
                    for entry in self.tree.scan_prefix(prefix).keys().rev() {
                        let raw = entry?;
                        if after.is_none_or(|after| raw.as_ref() < after) && !take(&raw) {
                            break;
                        }
                    }
                }
            }
            Ok(())
        })?;
        Ok(keys)
    }
}

fn translate(dir: &Path, action: &'static str, error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => StoreError::from_io(action, dir, error),
        other => StoreError::Index { source: BackendError::new(other) },
    }
}

fn previous_key(raw: &[u8]) -> Vec<u8> {
    [b"q/", raw].concat()
}

fn is_internal(raw: &[u8]) -> bool {
    raw.starts_with(b"q/") || raw.starts_with(b"~/") || raw.starts_with(b"bad/") || raw.starts_with(b"!")
}

struct Epochs {
    /// As the tree had it; 0 for a new one.
    before: u64,
    now: u64,
}

/// Reads the store's own record, refuses a newer format, and saves the next epoch, which is above any that this folder
/// has seen, also when the tree was lost. Synced by the caller.
fn raise_epoch(tree: &sled::Db, dir: &Path, witnessed: u64) -> Result<Epochs, StoreError> {
    let stored = tree.get(STORE_KEY).map_err(|error| translate(dir, "read", &error))?;
    let mut before = 0;
    if let Some(bytes) = stored.as_ref().and_then(|bytes| <[u8; 12]>::try_from(bytes.as_ref()).ok()) {
        let [a, b, c, d, rest @ ..] = bytes;
        let found = u32::from_le_bytes([a, b, c, d]);
        if found > FORMAT {
            return Err(StoreError::NewerStore { path: dir.to_owned(), found, known: FORMAT });
        }
        before = u64::from_le_bytes(rest);
    }
    let now = before.max(witnessed) + 1;
    let bytes = [FORMAT.to_le_bytes().as_slice(), now.to_le_bytes().as_slice()].concat();
    tree.insert(STORE_KEY, bytes).map_err(|error| translate(dir, "write", &error))?;
    Ok(Epochs { before, now })
}

/// The changes of a batch over the tree, so that a later change sees the earlier ones.
struct Overlay<'a> {
    store: &'a SledStore,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Overlay<'_> {
    fn value(&self, raw: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(raw) {
            Some(change) => Ok(change.clone()),
            None => Ok(self.store.value(raw)?.map(|bytes| bytes.to_vec())),
        }
    }

    /// Removes a value with the parts that its header names.
    fn remove(&mut self, raw: &[u8]) -> Result<(), StoreError> {
        let Some(bytes) = self.value(raw)? else { return Ok(()) };
        if let Ok(envelope) = Envelope::parse(&bytes) {
            for part in 0..envelope.n_parts {
                self.changes.insert(envelope::part_key(raw, envelope.generation, part), None);
            }
        }
        self.changes.insert(raw.to_vec(), None);
        Ok(())
    }

    fn put(&mut self, raw: &[u8], record: &Record) -> Result<(), StoreError> {
        let before = self.value(raw)?;
        let generation =
            before.as_deref().and_then(|bytes| Envelope::parse(bytes).ok()).map(|before| before.generation);
        self.remove(raw)?;
        let generation = generation.map_or(0, |generation| generation.wrapping_add(1));
        for (key, bytes) in envelope::seal(raw, record, generation) {
            self.changes.insert(key, Some(bytes));
        }
        Ok(())
    }

    fn keep_previous(&mut self, raw: &[u8]) -> Result<(), StoreError> {
        // Only a record that verifies is worth keeping, and only whole. One that this very batch has put is not on disk
        // yet and need not be kept: what is there before the batch is the previous one.
        if self.changes.contains_key(raw) {
            return Ok(());
        }
        if let Some(Ok(record)) = self.store.read(raw)? {
            self.put(&previous_key(raw), &record)?;
        }
        Ok(())
    }

    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::Put(key, record) => {
                self.remove(&previous_key(key.as_str().as_bytes()))?;
                self.put(key.as_str().as_bytes(), record)
            }
            Change::PutKeepingPrevious(key, record) => {
                self.keep_previous(key.as_str().as_bytes())?;
                self.put(key.as_str().as_bytes(), record)
            }
            Change::Delete(key) => self.delete(key),
            Change::DeleteAll(prefix) => self.delete_all(prefix),
        }
    }

    fn delete(&mut self, key: &Key) -> Result<(), StoreError> {
        self.remove(key.as_str().as_bytes())?;
        self.remove(&previous_key(key.as_str().as_bytes()))
    }

    fn delete_all(&mut self, prefix: &Prefix) -> Result<(), StoreError> {
        let on_disk = self.store.scan_keys(&Scan::all(prefix.clone()))?;
        let pending = self.changes.iter().filter(|(raw, change)| change.is_some() && !is_internal(raw));
        let pending = pending.filter_map(|(raw, _)| Key::from_stored(raw)).filter(|key| prefix.covers(key));
        let keys: Vec<Key> = on_disk.into_iter().chain(pending).collect();
        keys.iter().try_for_each(|key| self.delete(key))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // What is not synced was never acknowledged; the witness is a convenience, and its absence says nothing.
        if !self.broken.load(Ordering::Acquire) && self.sync().is_ok() {
            heal::Witness::write_closed(&self.dir, self.epoch, &self.file);
        }
    }
}

impl CheckpointStore for SledStore {
    fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        self.refuse_broken()?;
        match self.found(key)? {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(aside)) => Err(StoreError::Corrupt { key: key.clone(), reason: aside.reason }),
        }
    }

    fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        self.refuse_broken()?;
        let mut scanned = Scanned::default();
        for key in self.scan_keys(scan)? {
            match self.found(&key)? {
                None => {}
                Some(Ok(found)) => {
                    scanned.set_aside.extend(found.set_aside);
                    scanned.entries.push((key, found.record));
                }
                Some(Err(aside)) => scanned.set_aside.push(aside),
            }
        }
        Ok(scanned)
    }

    fn keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError> {
        self.refuse_broken()?;
        self.scan_keys(scan)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.refuse_broken()?;
        let mut overlay = Overlay { store: self, changes: BTreeMap::new() };
        for change in batch.changes() {
            overlay.apply(change)?;
        }
        let mut sealed = sled::Batch::default();
        for (key, value) in overlay.changes {
            match value {
                Some(value) => sealed.insert(key, value),
                None => sealed.remove(key),
            }
        }
        self.guarded(|| self.tree.apply_batch(sealed))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.refuse_broken()?;
        let flushed = catch_unwind(AssertUnwindSafe(|| self.tree.flush()));
        let failed = match flushed {
            Ok(Ok(_bytes)) => match self.file.sync_data() {
                Ok(()) => return Ok(()),
                Err(error) => BackendError::new(error),
            },
            Ok(Err(error)) => BackendError::new(error),
            Err(_panic) => BackendError::new("sled panicked"),
        };
        // After a failed sync the kernel may drop the data and report success the next time: this handle is done for.
        self.broken.store(true, Ordering::Release);
        Err(StoreError::Sync { source: failed })
    }

    fn maintain(&self) -> Result<bool, StoreError> {
        // sled gives dead space back by itself as it writes.
        Ok(false)
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn usage(&self) -> Usage {
        let mut live_bytes = 0;
        for (key, value) in self.tree.iter().flatten() {
            live_bytes += (key.len() + value.len()) as u64;
        }
        Usage { live_bytes, disk_bytes: heal::size_of(&self.dir) }
    }
}

#[cfg(test)]
mod tests;
