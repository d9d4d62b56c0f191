//! The store on disk: a journal in front of one sled tree. Nothing of sled is public.
//!
//! Invariants: a batch lies in one frame of the journal, so it is there wholly or not at all; after [`SledStore::sync`] the
//! frame is on disk. What the journal holds is also in the pending table, by key, and reads look there first. A full
//! journal is folded into the tree in the background while another one takes the writes; it is forgotten only after the
//! tree is on disk, and folding it once more changes nothing. So every crash ends in: tree, and journals over it.
//!
//! Locks are taken in this order: writer, tables, tree.

mod envelope;
mod fold;
mod heal;
mod journal;
mod pending;
mod reading;
mod reclaim;
mod tree;
mod witness;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use steadfast_fault_point::{self as fault_point, Point};

use crate::batch::{Batch, Change};
use crate::error::{BackendError, StoreError};
use crate::key::{Key, Prefix};
use crate::lock::StoreLock;
use crate::record::Record;
use crate::store::{Check, CheckpointStore, Found, Scan, Scanned, SetAside, Usage};

use fold::Helper;
use journal::{Frame, Journal};
use pending::{Table, Tables};
use tree::Tree;
use witness::{Missing, Witness};

pub use heal::{panic_is_expected, remove_copies, set_aside_folders};

/// The format of the store as a whole.
const FORMAT: u32 = 1;
const STORE_KEY: &[u8] = b"!store";
/// Sizes at which the store tidies up, in bytes; tests use small ones.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A journal is folded when its file is larger than this.
    journal: u64,
    /// A journal is folded when what it holds is larger than this; all of it is in memory.
    pending: u64,
    /// sled's file may be so much larger than twice what lives in it.
    slack: u64,
}

/// The bounds are measured with `benches/group_commit.rs`: the answers of 64 sessions that are at work, 8 MiB of them, are
/// forgotten with their sessions before most of them were ever moved to the tree. sled works in segments of 512 KiB and
/// needs some free ones.
const LIMITS: Limits = Limits { journal: 32 << 20, pending: 16 << 20, slack: 16 << 20 };
/// For tests of the whole program, whose short runs shall fold and copy.
const HASTY_LIMITS: Limits = Limits { journal: 16 << 10, pending: 16 << 10, slack: 0 };
/// So much is applied at most without a sync.
const MAX_UNSYNCED_BYTES: u64 = 4 << 20;

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
    /// Something that was saved is not there any more, or may not be; the actions say what.
    pub lost: bool,
}

impl OpenReport {
    fn say(&mut self, what: String) {
        self.actions.push(what);
    }

    fn lose(&mut self, what: String) {
        self.lost = true;
        self.actions.push(what);
    }
}

/// Places in the life of a store at which tests look at the folder as a crash there would leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A frame is on disk.
    Synced,
    /// The tables have changed places; the next journal takes the writes.
    Frozen,
    /// A piece of the frozen table is in the tree, perhaps not on disk.
    PieceFolded,
    /// The tree is on disk.
    TreeSynced,
    /// The journal's frames are forgotten.
    Retired,
    /// The fresh tree is whole, beside the old one.
    Copied,
    /// The old tree has its new name.
    OldAside,
    /// The fresh tree has its place.
    Swapped,
}

/// What the threads of a store share.
struct Inner {
    dir: PathBuf,
    epoch: u64,
    limits: Limits,
    broken: Arc<AtomicBool>,
    tables: RwLock<Tables>,
    /// `None` only when a fresh tree could not be opened after the old one was closed.
    tree: RwLock<Option<Tree>>,
    sizes: Mutex<reclaim::Sizes>,
    /// How many records readers have set aside.
    n_aside: AtomicU64,
    #[cfg(test)]
    watch: Mutex<Option<tests::Watch>>,
}

/// What only the writer touches.
struct Writer {
    journal: Journal,
    frame: Frame,
    /// Of the frame that is being filled; the epoch is its upper half, so it never comes twice.
    sequence: u64,
    /// The other file, when it is free.
    spare: Option<Journal>,
    /// A folding that is under way or was not looked at yet.
    helper: Option<Helper>,
    /// The journal of the frozen table, when its folding met a full disk.
    unfolded: Option<Journal>,
    /// Bytes folded since the store was opened.
    folded: u64,
}

/// The store on disk.
pub struct SledStore {
    writer: Mutex<Writer>,
    inner: Arc<Inner>,
    /// The copy that is read instead of the store itself, which then stays as it is.
    copy: Option<reading::Copy>,
    /// Last, so that it is let go of after all files are closed.
    _lock: Option<StoreLock>,
}

impl SledStore {
    /// Opens the store in `dir`, made where it is missing, and raises its epoch. Mends what a crash can leave behind (see
    /// [`OpenReport`]). Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process holds it for longer than `lock_wait`; [`StoreError::NewerStore`];
    /// [`StoreError::ReadOnly`], [`StoreError::PermissionDenied`], [`StoreError::NoSpace`], [`StoreError::NotADirectory`],
    /// [`StoreError::Io`]. Nothing is lost with any of them.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<(Self, OpenReport), StoreError> {
        Self::open_with(dir, options, if fault_point::is_hasty() { HASTY_LIMITS } else { LIMITS })
    }

    fn open_with(dir: &Path, options: &OpenOptions, limits: Limits) -> Result<(Self, OpenReport), StoreError> {
        fs::create_dir_all(dir).map_err(|error| StoreError::from_io("create", dir, &error))?;
        let lock = StoreLock::take(dir, options.lock_wait)?;
        let (mut store, report) = Self::open_locked(dir, limits, heal::Aside::new(dir))?;
        store._lock = Some(lock);
        Ok((store, report))
    }

    /// Opens a store that nobody else has open.
    fn open_locked(dir: &Path, limits: Limits, mut aside: heal::Aside) -> Result<(Self, OpenReport), StoreError> {
        let mut report = OpenReport::default();
        // First, for a newer format is refused before anything is touched.
        let mut journals = journal::read_all(dir)?;
        reclaim::finish(dir)?;
        let witness = Witness::read(dir);
        let broken = Arc::new(AtomicBool::new(false));
        let place = dir.join("sled");
        let is_new = !place.join("db").exists();
        if witness.tree_was_cut() && place.is_dir() {
            // Before sled writes into it.
            aside.keep(&place)?;
        }
        let tree = Tree::over(heal::open_mending(&place, &mut aside, &mut report)?, &place, Arc::clone(&broken));
        let (tree, stored) = Self::trusted(dir, tree?, &broken, &mut aside, &mut report)?;
        for journal in &journals {
            if let Some(damage) = &journal.damage {
                let copy = aside.keep(&journal.path)?;
                report.lose(format!("{damage}; a copy of it is kept in {}", copy.display()));
            } else if journal.is_torn {
                let copy = aside.keep(&journal.path)?;
                report.say(format!(
                    "the last write to {} is not whole, as after a power cut in the middle of it, and is left out: nothing \
                     was built on it, unless the file was damaged later; a copy is kept in {}",
                    journal.path.display(),
                    copy.display()
                ));
            }
        }
        match witness.missing(&tree, stored, &journals)? {
            _ if report.lost => {}
            None => {}
            Some(Missing::Nothing { what }) => report.say(what),
            Some(Missing::Everything) => {
                report.lose(format!(
                    "the store was opened {} time(s) before, and nothing of what was saved then is there any more: every \
                     session, answer and issue that was in it is lost here",
                    witness.epoch
                ));
                aside.keep(&place)?;
            }
            Some(Missing::Newest { why }) => {
                let copy = aside.keep(&place)?;
                report.lose(format!(
                    "the store has lost what was saved last ({why}); {} records are there; a copy of its files is kept in {}",
                    tree.count_anew()? + journals.iter().map(|journal| journal.frames.len() as u64).sum::<u64>(),
                    copy.display()
                ));
            }
        }
        if !report.lost {
            // What is in the tree already must not come back over what is newer.
            let folded = tree.folded()?;
            journals.iter_mut().filter(|journal| journal.number <= folded).for_each(|journal| journal.frames.clear());
        }
        let journaled = journals.iter().map(|journal| journal.epoch).max().unwrap_or(0);
        let epoch = stored.max(journaled).max(witness.epoch) + 1;
        aside.explain(&report);
        let inner = Inner {
            dir: dir.to_owned(),
            epoch,
            limits,
            broken,
            tables: RwLock::default(),
            tree: RwLock::new(Some(tree)),
            sizes: Mutex::default(),
            n_aside: AtomicU64::new(0),
            #[cfg(test)]
            watch: Mutex::new(None),
        };
        inner.replay(&journals, epoch)?;
        let folded = inner.tree_lock().as_ref().map_or(Ok(0), Tree::folded)?;
        fault_point::reach(Point::StoreEpochBefore);
        // The header makes the epoch durable.
        let journal = Journal::begin_after(dir, &journals, epoch, folded, limits.journal)?;
        fault_point::reach(Point::StoreEpochRaised);
        if is_new || !report.actions.is_empty() {
            sync_folder(&place)?;
            sync_folder(dir)?;
        }
        Witness::write_open(dir, epoch, journal.number())?;
        heal::clear_mark(dir)?;
        fault_point::reach(Point::StoreOpened);
        let writer = Writer {
            journal,
            frame: Frame::default(),
            sequence: (epoch << 32) + 1,
            spare: None,
            helper: None,
            unfolded: None,
            folded: 0,
        };
        Ok((Self { writer: Mutex::new(writer), inner: Arc::new(inner), copy: None, _lock: None }, report))
    }

    /// The tree, once everything in it reads that must; and the epoch that it remembers.
    fn trusted(
        dir: &Path,
        mut tree: Tree,
        broken: &Arc<AtomicBool>,
        aside: &mut heal::Aside,
        report: &mut OpenReport,
    ) -> Result<(Tree, u64), StoreError> {
        let mut own = tree.own_record().and_then(|own| tree.folded().map(|_| own));
        if heal::is_marked(dir) || !report.actions.is_empty() || matches!(own, Err(StoreError::Index { .. })) {
            broken.store(false, Ordering::Release);
            tree = heal::salvage(dir, tree, broken, aside, report)?;
            own = tree.own_record();
            let (count, found) = (tree.count()?, tree.count_anew()?);
            if found < count && !report.lost {
                report.lose(format!("the store has lost records: {found} of {count} are there"));
            }
        }
        let (format, stored) = own?.unwrap_or((FORMAT, 0));
        if format > FORMAT {
            return Err(StoreError::NewerStore { path: dir.to_owned(), found: format, known: FORMAT });
        }
        Ok((tree, stored))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while it was held has marked the store as broken where that matters.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was applied. The caller holds the writer.
    fn sync_frame(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.frame.is_empty() {
            return Ok(());
        }
        self.inner.refuse_fenced()?;
        if let Err(error) = writer.journal.write(&mut writer.frame, writer.sequence) {
            // After a failed sync the kernel may drop the data and report success the next time: this handle is done for.
            self.inner.broken.store(true, Ordering::Release);
            return Err(StoreError::Sync { source: BackendError::new(error) });
        }
        writer.sequence += 1;
        self.inner.at(Step::Synced);
        Ok(())
    }

    /// Makes room for a batch. With an error, nothing was changed.
    fn make_room(&self, writer: &mut Writer, batch: &Batch) -> Result<(), StoreError> {
        if writer.frame.space() > MAX_UNSYNCED_BYTES {
            self.sync_frame(writer)?;
        }
        let pending = self.inner.tables().active.bytes() as u64;
        if writer.journal.bytes() + writer.frame.space() > self.inner.limits.journal
            || pending > self.inner.limits.pending
        {
            self.settle(writer)?;
            self.freeze(writer)?;
        }
        writer.journal.reserve(writer.frame.space_for(batch.changes()))
    }
}

impl Inner {
    fn refuse_broken(&self) -> Result<(), StoreError> {
        if !self.broken.load(Ordering::Acquire) {
            return Ok(());
        }
        // Where that is the reason, it says more.
        Witness::fence(&self.dir, self.epoch)?;
        Err(StoreError::Broken)
    }

    /// Before anything is written, removed or renamed: by its name it may be another process's by now. Once refused, this
    /// handle writes nothing any more.
    fn refuse_fenced(&self) -> Result<(), StoreError> {
        Witness::fence(&self.dir, self.epoch).inspect_err(|_| self.broken.store(true, Ordering::Release))
    }

    fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree_lock(&self) -> RwLockReadGuard<'_, Option<Tree>> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps readers out, so that they never see a record between its parts.
    fn tree_lock_mut(&self) -> RwLockWriteGuard<'_, Option<Tree>> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a test where the store is.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests look"))]
    fn at(&self, step: Step) {
        #[cfg(test)]
        if let Some(watch) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            watch(step);
        }
        fault_point::reach(match step {
            Step::Synced => Point::StoreFrameSynced,
            Step::Frozen => Point::StoreFrozen,
            Step::PieceFolded => Point::StorePieceFolded,
            Step::TreeSynced => Point::StoreTreeSynced,
            Step::Retired => Point::StoreRetired,
            Step::Copied => Point::StoreCopied,
            Step::OldAside => Point::StoreOldAside,
            Step::Swapped => Point::StoreSwapped,
        });
    }

    /// Reads a record, or the one before it; what does not verify is moved out of the way.
    fn found(&self, key: &Key) -> Result<Option<Result<Found, SetAside>>, StoreError> {
        let pending = self.tables().get(key).map(|entry| entry.record.clone());
        if let Some(record) = pending {
            return Ok(record.map(|record| Ok(Found { record: record.as_ref().clone(), set_aside: None })));
        }
        {
            let tree = self.tree_lock();
            match tree.as_ref().ok_or(StoreError::Broken)?.read(key.as_str().as_bytes())? {
                None => return Ok(None),
                Some(Ok(record)) => return Ok(Some(Ok(Found { record, set_aside: None }))),
                Some(Err(_)) => {}
            }
        }
        let tree = self.tree_lock_mut();
        let tree = tree.as_ref().ok_or(StoreError::Broken)?;
        let aside = tree.set_aside(key)?;
        self.n_aside.fetch_add(1, Ordering::AcqRel);
        Ok(match aside {
            // A folding has put a sound one there meanwhile, or removed it.
            None => tree
                .read(key.as_str().as_bytes())?
                .and_then(Result::ok)
                .map(|record| Ok(Found { record, set_aside: None })),
            Some((Some(record), aside)) => Some(Ok(Found { record, set_aside: Some(aside) })),
            Some((None, aside)) => Some(Err(aside)),
        })
    }

    fn scan_keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError> {
        // Before the tree: what is folded meanwhile is then seen twice, and not missed.
        let pending = self.tables().keys(scan);
        self.tree_lock().as_ref().ok_or(StoreError::Broken)?.keys(scan, pending)
    }

    /// Makes the changes of a batch in the pending table.
    fn put_pending(&self, changes: &[Change], sequence: u64) -> Result<(), StoreError> {
        // Before the tree, for its keys move there.
        let frozen = self.tables().frozen.clone();
        let mut below = Vec::new();
        {
            let tree = self.tree_lock();
            let tree = tree.as_ref().ok_or(StoreError::Broken)?;
            for change in changes {
                if let Change::DeleteAll(prefix) = change {
                    below.extend(tree.keys(&Scan::all(prefix.clone()), Vec::new())?);
                }
            }
        }
        let generation = generation(sequence);
        let mut tables = self.tables_mut();
        for change in changes {
            tables.apply(change, generation, &below, frozen.as_deref());
        }
        Ok(())
    }

    /// Folds what a crash has left in journals.
    fn replay(&self, journals: &[journal::Found], epoch: u64) -> Result<(), StoreError> {
        for (sequence, changes) in journals.iter().flat_map(|journal| &journal.frames) {
            self.put_pending(changes, *sequence)?;
        }
        // Of two journals one is removed. Also where it is empty the tree must say that nothing of it is needed: the small
        // file may name it, and a crash before that is written anew would look like a loss.
        if journals.len() < 2 && journals.iter().all(|journal| journal.frames.is_empty()) {
            return Ok(());
        }
        let newest = journals.iter().map(|journal| journal.number).max().unwrap_or(0);
        let table = std::mem::take(&mut self.tables_mut().active);
        self.fold_table(&table, epoch, newest).map(drop)
    }
}

/// Marks the records of a frame; another one for each, but for a chance of one in four billion that harms nothing.
fn generation(sequence: u64) -> u32 {
    ((sequence >> 32) as u32).wrapping_mul(0x9e37_79b1).wrapping_add(sequence as u32)
}

fn translate(dir: &Path, action: &'static str, error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => StoreError::from_io(action, dir, error),
        other => StoreError::Index { source: BackendError::new(other) },
    }
}

fn is_internal(raw: &[u8]) -> bool {
    raw.starts_with(b"q/") || raw.starts_with(b"~/") || raw.starts_with(b"bad/") || raw.starts_with(b"!")
}

/// The names of new files are durable only when their folder is.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| StoreError::from_io("sync", path, &error))
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if self.copy.is_some() {
            return;
        }
        if let Err(error) = self.close() {
            // The journal stays, and the next open folds it.
            tracing::warn!(error = %error, "the store was not closed in order");
        }
    }
}

impl CheckpointStore for SledStore {
    fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        self.inner.refuse_broken()?;
        match self.inner.found(key)? {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(aside)) => Err(StoreError::Corrupt { key: key.clone(), reason: aside.reason }),
        }
    }

    fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        self.inner.refuse_broken()?;
        let mut scanned = Scanned::default();
        for key in self.inner.scan_keys(scan)? {
            match self.inner.found(&key)? {
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
        self.inner.refuse_broken()?;
        self.inner.scan_keys(scan)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.inner.refuse_broken()?;
        if batch.is_empty() {
            return Ok(());
        }
        if let Some(copy) = &self.copy {
            return Err(StoreError::ReadOnly { path: copy.original().to_owned() });
        }
        let mut writer = self.writer();
        let writer = &mut *writer;
        self.make_room(writer, batch)?;
        // The only step after this that can fail is reading the tree for a deletion; it comes before any change.
        self.inner.put_pending(batch.changes(), writer.sequence)?;
        batch.changes().iter().for_each(|change| writer.frame.push(change));
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.refuse_broken()?;
        self.sync_frame(&mut self.writer())
    }

    fn maintain(&self) -> Result<bool, StoreError> {
        self.inner.refuse_broken()?;
        self.step()
    }

    fn compact(&self) -> Result<(), StoreError> {
        self.inner.refuse_broken()?;
        if self.copy.is_some() {
            return Ok(());
        }
        self.fence()?;
        self.squeeze()
    }

    fn fence(&self) -> Result<(), StoreError> {
        Witness::fence(&self.inner.dir, self.inner.epoch)
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    fn damaged(&self, prefix: &Prefix) -> Result<Vec<Key>, StoreError> {
        self.inner.refuse_broken()?;
        self.inner.tree_lock().as_ref().ok_or(StoreError::Broken)?.set_aside_keys(prefix)
    }

    fn previous(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.inner.refuse_broken()?;
        self.inner.previous(key)
    }

    fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, StoreError> {
        self.inner.refuse_broken()?;
        self.inner.check(progress)
    }

    fn usage(&self) -> Usage {
        let tables = self.inner.tables();
        let newest_first: Vec<&Table> = std::iter::once(&tables.active).chain(tables.frozen.as_deref()).collect();
        let live_bytes = self.inner.tree_lock().as_ref().map_or(0, |tree| tree.live_bytes_under(&newest_first));
        Usage { live_bytes, disk_bytes: heal::size_of(&self.inner.dir) }
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
