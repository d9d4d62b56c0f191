//! Folding: moves what a journal holds into the tree, then lets the journal's file be used again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use steadfast_fault_point::{self as fault_point, Point};

use super::journal::{self, Journal};
use super::pending::{Entry, Table};
use super::tree::{Fold, Tree};
use super::witness::Witness;
use super::{FORMAT, Inner, SledStore, Step, Writer, heal};
use crate::error::{BackendError, StoreError};
use crate::key::Key;

/// Readers wait for one piece at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// The same bound for small records.
const PIECE_ENTRIES: usize = 256;
/// After this much was folded, a close lets sled write its snapshot, so that the next open need not.
const SNAPSHOT_BYTES: u64 = 1 << 20;

/// What the thread in the background does.
pub(super) enum Helper {
    /// It gives the file back, free or still needed, and says how many bytes were folded.
    Fold(JoinHandle<(Journal, Result<u64, StoreError>)>),
    /// It has copied the tree, or found that it need not.
    Reclaim(JoinHandle<Result<(), StoreError>>),
}

impl Helper {
    fn is_finished(&self) -> bool {
        match self {
            Self::Fold(thread) => thread.is_finished(),
            Self::Reclaim(thread) => thread.is_finished(),
        }
    }
}

fn panicked<T>() -> Result<T, StoreError> {
    Err(StoreError::Index { source: BackendError::new("the thread that folds the journal panicked") })
}

impl Inner {
    /// Moves a table into the tree, which holds the journals up to `folded` then. On disk when this returns; answers its
    /// bytes.
    ///
    /// A crash in the middle leaves some of it there; the journal is whole until then and is folded once more.
    pub(super) fn fold_table(&self, table: &Table, epoch: u64, folded: u64) -> Result<u64, StoreError> {
        self.refuse_fenced()?;
        heal::require_space(&self.dir, 2 * table.bytes() as u64)?;
        let mut bytes = 0;
        let mut entries = table.iter().peekable();
        while entries.peek().is_some() {
            let tree = self.tree_lock_mut();
            let tree = tree.as_ref().ok_or(StoreError::Broken)?;
            let (added, removed) = fold_piece(tree, &mut entries)?;
            bytes += added;
            self.sizes().folded(added, removed);
            self.at(Step::PieceFolded);
        }
        {
            // Other folders keep their readers: only a swap of the tree needs it alone, and that is not under way.
            let tree = self.tree_lock();
            let tree = tree.as_ref().ok_or(StoreError::Broken)?;
            tree.set_own_record(FORMAT, epoch, folded.max(tree.folded()?))?;
            tree.sync()?;
        }
        self.at(Step::TreeSynced);
        Ok(bytes)
    }

    /// Folds the frozen table and frees its journal.
    fn fold_frozen(&self, journal: &mut Journal) -> Result<u64, StoreError> {
        let Some(frozen) = self.tables().frozen.clone() else { return Ok(0) };
        let result = self.fold_table(&frozen, self.epoch, journal.number()).and_then(|bytes| {
            // The active one has the number in between.
            let number = journal.number();
            journal.begin_again(number + 2, self.epoch, number + 1, 2 * self.limits.journal)?;
            Ok(bytes)
        });
        match result {
            Ok(bytes) => {
                self.at(Step::Retired);
                self.tables_mut().frozen = None;
                // Only space is lost when this fails.
                let _ = journal.shrink_to(2 * self.limits.journal);
                Ok(bytes)
            }
            // Nothing was touched; it is tried again.
            Err(error @ StoreError::NoSpace { .. }) => Err(error),
            Err(error) => {
                // sled refuses everything after an error of its file; opening it again folds the journal.
                self.broken.store(true, Ordering::Release);
                Err(error)
            }
        }
    }
}

/// Folds the next entries; answers the bytes that came and went.
fn fold_piece<'a>(
    tree: &Tree,
    entries: &mut impl Iterator<Item = (&'a Key, &'a Entry)>,
) -> Result<(u64, u64), StoreError> {
    let mut fold = Fold::default();
    for (key, entry) in entries.take(PIECE_ENTRIES) {
        tree.fold(&mut fold, key, entry)?;
        if fold.added >= PIECE_BYTES {
            break;
        }
    }
    if fold.count != 0 {
        let count = tree.count()?.saturating_add_signed(fold.count);
        tree.put_count(&mut fold.changes, count);
    }
    tree.apply(fold.changes)?;
    Ok((fold.added, fold.removed))
}

impl SledStore {
    /// Looks after the thread in the background, and waits for it. An error says that the frozen table is still there.
    pub(super) fn settle(&self, writer: &mut Writer) -> Result<(), StoreError> {
        match writer.helper.take() {
            None => {}
            Some(Helper::Fold(thread)) => match thread.join() {
                Ok((journal, Ok(bytes))) => {
                    writer.spare = Some(journal);
                    writer.folded += bytes;
                }
                Ok((journal, Err(error))) => {
                    tracing::warn!(error = %error, "the journal could not be folded");
                    writer.unfolded = Some(journal);
                }
                Err(_) => {
                    self.inner.broken.store(true, Ordering::Release);
                    return panicked();
                }
            },
            Some(Helper::Reclaim(thread)) => match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %error, "dead space could not be given back"),
                Err(_) => {
                    self.inner.broken.store(true, Ordering::Release);
                    return panicked();
                }
            },
        }
        self.inner.refuse_broken()?;
        if let Some(mut journal) = writer.unfolded.take() {
            let result = self.inner.fold_frozen(&mut journal);
            match result {
                Ok(bytes) => {
                    writer.spare = Some(journal);
                    writer.folded += bytes;
                }
                Err(error) => {
                    writer.unfolded = Some(journal);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives the writes another journal and folds the full one in the background. Call [`SledStore::settle`] before.
    pub(super) fn freeze(&self, writer: &mut Writer) -> Result<(), StoreError> {
        self.sync_frame(writer)?;
        self.inner.refuse_fenced()?;
        let next = match writer.spare.take() {
            Some(journal) => journal,
            None => {
                let number = writer.journal.number();
                Journal::begin(&self.inner.dir, number + 1, self.inner.epoch, number, u64::MAX)?
            }
        };
        // Before it takes a write, so that its loss would be noticed.
        if let Err(error) = Witness::write_open(&self.inner.dir, self.inner.epoch, next.number()) {
            writer.spare = Some(next);
            return Err(error);
        }
        let mut full = std::mem::replace(&mut writer.journal, next);
        {
            let mut tables = self.inner.tables_mut();
            tables.frozen = Some(Arc::new(std::mem::take(&mut tables.active)));
        }
        self.inner.at(Step::Frozen);
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::Builder::new().name("store-fold".to_owned()).spawn(move || {
            // The sender waits for the thread's start or answers its failure.
            let mut journal: Journal = receive.recv().expect("the journal follows the start");
            let result = inner.fold_frozen(&mut journal);
            (journal, result)
        });
        match thread {
            Ok(thread) => {
                // The thread receives it first of all.
                let _ = send.send(full);
                writer.helper = Some(Helper::Fold(thread));
            }
            Err(_) => match self.inner.fold_frozen(&mut full) {
                Ok(bytes) => {
                    writer.spare = Some(full);
                    writer.folded += bytes;
                }
                Err(error) => {
                    writer.unfolded = Some(full);
                    return Err(error);
                }
            },
        }
        Ok(())
    }

    /// One step of housekeeping; answers whether another one may follow.
    pub(super) fn step(&self) -> Result<bool, StoreError> {
        self.inner.refuse_fenced()?;
        let mut writer = self.writer();
        if writer.helper.as_ref().is_some_and(|helper| !helper.is_finished()) {
            return Ok(true);
        }
        self.settle(&mut writer)?;
        if writer.journal.bytes() > journal::BLOCK || !writer.frame.is_empty() {
            self.freeze(&mut writer)?;
            return Ok(true);
        }
        if !self.inner.may_reclaim() {
            // Nothing is to be done, and both files are empty.
            Self::slim(&mut writer, journal::RESERVE_BYTES)?;
            return Ok(false);
        }
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::Builder::new()
            .name("store-reclaim".to_owned())
            .spawn(move || inner.reclaim(|live| inner.tolerable(live)));
        match thread {
            Ok(thread) => writer.helper = Some(Helper::Reclaim(thread)),
            Err(_) => self.inner.reclaim(|live| self.inner.tolerable(live))?,
        }
        Ok(true)
    }

    /// All that [`SledStore::step`] would do in time, and at once, for less dead space than makes that worth its while.
    pub(super) fn squeeze(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        self.settle(&mut writer)?;
        if writer.journal.bytes() > journal::BLOCK || !writer.frame.is_empty() {
            self.freeze(&mut writer)?;
            self.settle(&mut writer)?;
        }
        self.inner.reclaim(|live| live + live / 2)?;
        Self::slim(&mut writer, journal::BLOCK)
    }

    /// Gives back what empty journals hold of the disk above `bound` bytes each.
    fn slim(writer: &mut Writer, bound: u64) -> Result<(), StoreError> {
        writer.journal.slim_to(bound)?;
        writer.spare.as_mut().map_or(Ok(()), |spare| spare.slim_to(bound))
    }

    /// Syncs, folds, and leaves an empty journal; then closes the tree.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let writer = &mut *writer;
        fault_point::reach(Point::StoreClosing);
        let is_broken = self.inner.broken.load(Ordering::Acquire);
        let refused = if is_broken { Ok(()) } else { self.inner.refuse_fenced() };
        if is_broken || refused.is_err() {
            // The thread must not write any more when the lock is let go of.
            if let Some(Helper::Fold(thread)) = writer.helper.take() {
                let _ = thread.join();
            }
            return refused;
        }
        if self.inner.tree_lock().is_none() {
            // Closed before.
            return Ok(());
        }
        self.settle(writer)?;
        self.sync_frame(writer)?;
        if writer.journal.bytes() > journal::BLOCK {
            let table = std::mem::take(&mut self.inner.tables_mut().active);
            let number = writer.journal.number();
            writer.folded += self.inner.fold_table(&table, self.inner.epoch, number)?;
            // The file stays with its first block, so that the next open has no name to make durable.
            writer.journal.begin_again(number + 2, self.inner.epoch, number, journal::BLOCK)?;
            self.inner.at(Step::Retired);
            writer.journal.shrink_to(journal::BLOCK)?;
        }
        if let Some(spare) = writer.spare.take() {
            spare.remove()?;
        }
        let path = self.inner.dir.join("sled");
        let folded = self.inner.tree_lock().as_ref().map_or(Ok(0), Tree::folded)?;
        if let Some(tree) = self.inner.tree_lock_mut().take() {
            drop(tree);
            if writer.folded > SNAPSHOT_BYTES || fault_point::is_hasty() {
                fault_point::reach(Point::StoreSnapshotBefore);
                // sled writes its snapshot when it opens.
                drop(Tree::open(&path, Arc::clone(&self.inner.broken))?);
                fault_point::reach(Point::StoreSnapshotWritten);
            }
        }
        Witness::write_closed(&self.inner.dir, self.inner.epoch, folded);
        fault_point::reach(Point::StoreClosed);
        Ok(())
    }
}
