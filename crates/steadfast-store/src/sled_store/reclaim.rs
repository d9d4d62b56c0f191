//! Gives dead space back: sled's file does not shrink, so what lives is copied into a fresh tree that takes its place.
//!
//! Three names: `sled`, `sled.new` (a copy that may be unfinished) and `sled.old`. The copy is on disk before the first
//! renaming, and nothing is written to either tree meanwhile, so each crash leaves at least one whole tree.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::tree::Tree;
use super::{Inner, Step, heal, sync_folder};
use crate::error::StoreError;

/// A tree's file may be so many times as large as what lives in it, and the slack of the limits more.
const MAX_RATIO: u64 = 2;
/// Bytes that are copied in one batch.
const PIECE_BYTES: usize = 256 << 10;

/// What is known of the tree's sizes, in bytes.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// What lives, followed from fold to fold; `None` until it was measured.
    live: Option<u64>,
    /// The file after the last try; the next one comes when it has grown by half the slack.
    tried: Option<u64>,
}

impl Sizes {
    pub(super) fn folded(&mut self, added: u64, removed: u64) {
        self.live = self.live.map(|live| (live + added).saturating_sub(removed));
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::from_io("remove", path, &error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::from_io("rename", from, &error))
}

/// Ends what a crash has interrupted.
pub(super) fn finish(dir: &Path) -> Result<(), StoreError> {
    let (tree, fresh, old) = (dir.join("sled"), dir.join("sled.new"), dir.join("sled.old"));
    if !tree.exists() && old.exists() {
        // Between the two renamings; both are whole, and the copy has the place it was made for.
        if fresh.exists() {
            rename(&fresh, &tree)?;
        } else {
            rename(&old, &tree)?;
        }
        sync_folder(dir)?;
    }
    remove(&fresh)?;
    remove(&old)
}

impl Inner {
    pub(super) fn sizes(&self) -> MutexGuard<'_, Sizes> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk_bytes(&self) -> u64 {
        self.tree_lock().as_ref().map_or(0, Tree::disk_bytes)
    }

    /// Whether the tree seems to hold much dead space.
    pub(super) fn may_reclaim(&self) -> bool {
        let disk = self.disk_bytes();
        let sizes = self.sizes();
        disk > self.tolerable(sizes.live.unwrap_or(0))
            && sizes.tried.is_none_or(|tried| disk > tried + self.limits.slack / 2)
    }

    /// How large the tree's file may be, in bytes, before anything is done about it by itself.
    pub(super) fn tolerable(&self, live: u64) -> u64 {
        MAX_RATIO * live + self.limits.slack
    }

    /// Copies what lives into a fresh tree, if the file is larger than `tolerable` says for so many live bytes. Only the thread that would fold calls it, so nothing is
    /// folded meanwhile; readers and the journal go on.
    pub(super) fn reclaim(&self, tolerable: impl Fn(u64) -> u64) -> Result<(), StoreError> {
        let result = self.reclaim_measured(tolerable);
        let disk = self.disk_bytes();
        self.sizes().tried = Some(disk);
        if self.tree_lock().is_none() {
            self.broken.store(true, Ordering::Release);
        }
        result
    }

    fn reclaim_measured(&self, tolerable: impl Fn(u64) -> u64) -> Result<(), StoreError> {
        let live = self.tree_lock().as_ref().ok_or(StoreError::Broken)?.live_bytes()?;
        self.sizes().live = Some(live);
        let disk = self.disk_bytes();
        if disk <= tolerable(live) {
            return Ok(());
        }
        heal::require_space(&self.dir, 2 * live)?;
        let fresh = self.dir.join("sled.new");
        remove(&fresh)?;
        let n_aside = self.n_aside.load(Ordering::Acquire);
        if let Err(error) = self.copy_to(&fresh) {
            // It would be removed by the next open as well.
            let _ = remove(&fresh);
            return Err(error);
        }
        self.at(Step::Copied);
        let old = self.dir.join("sled.old");
        {
            let mut tree = self.tree_lock_mut();
            self.refuse_fenced()?;
            if self.n_aside.load(Ordering::Acquire) != n_aside {
                // A reader has changed the tree after it was copied; the copy is of no use.
                return remove(&fresh);
            }
            let place = self.dir.join("sled");
            remove(&old)?;
            *tree = None;
            rename(&place, &old)?;
            self.at(Step::OldAside);
            rename(&fresh, &place)?;
            sync_folder(&self.dir)?;
            *tree = Some(Tree::open(&place, Arc::clone(&self.broken))?);
        }
        self.at(Step::Swapped);
        remove(&old)?;
        let now = self.disk_bytes();
        tracing::info!(before_bytes = disk, now_bytes = now, live_bytes = live, "dead space of the store given back");
        Ok(())
    }

    /// On disk when this returns, and closed.
    fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let fresh = Tree::open(path, Arc::clone(&self.broken))?;
        {
            // A handle of its own: readers that have to set a record aside need not wait for the end.
            let db = self.tree_lock().as_ref().ok_or(StoreError::Broken)?.db().clone();
            let mut entries = fresh.guarded(|| Ok(db.iter()))?;
            loop {
                let mut changes = sled::Batch::default();
                let mut bytes = 0;
                while bytes < PIECE_BYTES {
                    let Some((key, value)) = fresh.guarded(|| entries.next().transpose())? else { break };
                    bytes += key.len() + value.len();
                    changes.insert(key, value);
                }
                if bytes == 0 {
                    break;
                }
                fresh.apply(changes)?;
            }
        }
        fresh.sync()?;
        drop(fresh);
        sync_folder(path)?;
        sync_folder(&self.dir)
    }
}
