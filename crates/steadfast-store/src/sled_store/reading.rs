//! Reading where nothing can be written: on a full disk, a read-only file system, in a folder of somebody else; and checks.
//!
//! sled writes when it opens. So a copy of the store's files is opened, in the folder for temporary files or in memory, and
//! the store itself stays as it is.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::tree::previous_key;
use super::{Inner, LIMITS, OpenOptions, OpenReport, SledStore, heal};
use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::lock::StoreLock;
use crate::record::Record;
use crate::store::{Check, Scan};

/// A copy of a store; it goes with the value.
#[derive(Debug)]
pub(super) struct Copy {
    original: PathBuf,
    dir: PathBuf,
}

impl Copy {
    /// Copies what an open reads: not the lock, not what was set aside.
    fn make(original: &Path) -> Result<Self, StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("steadfast-read-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut failed = None;
        for place in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
            let dir = place.join(&name);
            // Others must not read what a repository's code is in.
            let made = DirBuilder::new().mode(0o700).create(&dir);
            let copy = Self { original: original.to_owned(), dir: dir.clone() };
            match made.and_then(|()| copy.fill()) {
                Ok(()) => return Ok(copy),
                Err(error) => failed = failed.or(Some(StoreError::from_io("copy the store to", &dir, &error))),
            }
        }
        Err(failed.expect("a place was tried"))
    }

    fn fill(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.original)? {
            let entry = entry?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if text == "lock" || text.starts_with("broken-") {
                continue;
            }
            let target = self.dir.join(&name);
            if entry.file_type()?.is_dir() {
                heal::copy_all(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    }

    /// The store's own folder.
    pub(super) fn original(&self) -> &Path {
        &self.original
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed lies among temporary files.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl SledStore {
    /// Opens the store in `dir` for reading alone. Nothing in `dir` is changed: what an open would mend is mended in a copy
    /// elsewhere, and told. Blocks.
    ///
    /// # Errors
    /// As [`SledStore::open`], and [`StoreError::Missing`]. Every [`crate::CheckpointStore::apply`] is refused with
    /// [`StoreError::ReadOnly`].
    pub fn open_for_reading(dir: &Path, options: &OpenOptions) -> Result<(Self, OpenReport), StoreError> {
        if !dir.is_dir() {
            return Err(StoreError::Missing { path: dir.to_owned() });
        }
        let lock = StoreLock::take_for_reading(dir, options.lock_wait)?;
        let copy = Copy::make(dir)?;
        let (mut store, report) = Self::open_locked(&copy.dir, LIMITS, heal::Aside::in_original(dir))?;
        (store.copy, store._lock) = (Some(copy), lock);
        Ok((store, report))
    }
}

impl Inner {
    pub(super) fn previous(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        use super::pending::{Entry, Previous};
        let pending = self.tables().get(key).map(|Entry { previous, .. }| previous.clone());
        let raw = key.as_str().as_bytes();
        let tree = self.tree_lock();
        let tree = tree.as_ref().ok_or(StoreError::Broken)?;
        let found = match pending {
            Some(Previous::Cleared) => None,
            Some(Previous::Kept(record)) => return Ok(Some(record.as_ref().clone())),
            Some(Previous::InTree) => tree.read(raw)?,
            None => tree.read(&previous_key(raw))?,
        };
        Ok(found.and_then(Result::ok))
    }

    /// Verifies every record where it lies. Writes go on meanwhile; one record is looked at under the lock.
    pub(super) fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, StoreError> {
        let keys = self.scan_keys(&Scan::all(Prefix::everything()))?;
        let previous = self.tree_lock().as_ref().ok_or(StoreError::Broken)?.previous_keys()?;
        let all = (keys.len() + previous.len()) as u64;
        let mut check = Check::default();
        let raw = keys.iter().map(|key| (key.as_str().as_bytes().to_vec(), Some(key)));
        for (at, (raw, key)) in raw.chain(previous.into_iter().map(|raw| (raw, None))).enumerate() {
            let pending = key.and_then(|key| self.tables().get(key).map(|entry| entry.record.clone()));
            let found = match pending {
                // What is in memory was verified when it was read from the journal.
                Some(record) => record.map(|record| Ok(record.as_ref().clone())),
                None => self.tree_lock().as_ref().ok_or(StoreError::Broken)?.read(&raw)?,
            };
            match found {
                // It went meanwhile.
                None => {}
                Some(Ok(record)) => {
                    check.payload_bytes += record.payload.len() as u64;
                    *(if key.is_some() { &mut check.records } else { &mut check.previous }) += 1;
                }
                Some(Err(reason)) => check.damaged.push((String::from_utf8_lossy(&raw).into_owned(), reason)),
            }
            progress(at as u64 + 1, all);
        }
        let tree = self.tree_lock();
        let tree = tree.as_ref().ok_or(StoreError::Broken)?;
        check.set_aside = tree.set_aside_keys(&Prefix::everything())?;
        check.missing = tree.count()?.saturating_sub(tree.count_anew()?);
        Ok(check)
    }
}
