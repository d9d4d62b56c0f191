//! Opens sled, and mends what damage and a crash in the middle of sled's own recovery leave behind.
//!
//! A kill while sled writes `snap.*.generating` makes every later open fail with `Corruption`, though nothing is lost:
//! without that file, or without all snapshots, the log is read again. So: keep a copy of everything once, try without
//! the one, then without the others, and only then set the store aside and begin an empty one.
//!
//! A damaged page shows only when it is read. Whoever meets one leaves a mark, and the next open copies what still reads
//! into a fresh tree.

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::tree::Tree;
use super::{OpenReport, sync_folder, translate};
use crate::error::{BackendError, StoreError};

/// Folders of files that were set aside, one for each opening that found damage; older ones go first.
const MAX_ASIDE: usize = 4;
/// Says that the tree did not read in some place.
const UNREADABLE: &str = "unreadable";
/// Bytes that are copied in one batch.
const PIECE_BYTES: usize = 256 << 10;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is caught and told as an error: sled panics on some damaged files. A panic hook need not
/// print it.
pub fn panic_is_expected() -> bool {
    QUIET.get()
}

/// Turns a panic of sled into a value.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result
}

fn config(path: &Path) -> sled::Config {
    sled::Config::new()
        .path(path)
        // Room for the hot pages of a busy daemon; filled only as far as needed.
        .cache_capacity(16 << 20)
        // The keeper flushes; a timer would only add writes that nobody waits for.
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace)
}

/// Chooses files by name.
type Doomed = fn(&str) -> bool;

enum Failed {
    /// Mending may help.
    Damaged(String),
    /// The machine said no; mending would only do harm.
    Refused(StoreError),
}

/// sled says these of files that are cut or empty.
pub(super) fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::Other)
        }
        _ => true,
    }
}

/// How long sled's own lock is waited for. Whoever is here holds the store's lock, so only a child that was just forked, and
/// has not begun its program yet, can hold it still, with a file that the parent has closed.
const SLED_LOCK_WAIT: Duration = Duration::from_secs(5);

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn attempt(path: &Path) -> Result<sled::Db, Failed> {
    let begun = Instant::now();
    let opened = loop {
        match quietly(|| config(path).open()) {
            Ok(Err(error)) if is_locked(&error) => {
                if begun.elapsed() >= SLED_LOCK_WAIT {
                    let (path, holder, waited) = (path.to_owned(), None, begun.elapsed());
                    return Err(Failed::Refused(StoreError::Locked { path, holder, waited }));
                }
                thread::sleep(Duration::from_millis(2));
            }
            opened => break opened,
        }
    };
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) if is_damage(&error) => Err(Failed::Damaged(error.to_string())),
        Ok(Err(error)) => Err(Failed::Refused(translate(path, "open", &error))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let first = text.and_then(|text| text.lines().next()).unwrap_or("sled panicked");
            Err(Failed::Damaged(first.to_owned()))
        }
    }
}

/// Opens the tree at `path` as it is.
pub(super) fn open(path: &Path) -> Result<sled::Db, StoreError> {
    attempt(path).map_err(|failed| match failed {
        Failed::Refused(error) => error,
        Failed::Damaged(reason) => StoreError::Index { source: BackendError::new(reason) },
    })
}

/// Opens the tree at `path`, mending it where that is needed.
pub(super) fn open_mending(path: &Path, aside: &mut Aside, report: &mut OpenReport) -> Result<sled::Db, StoreError> {
    if path.is_file() {
        return Err(StoreError::NotADirectory { path: path.to_owned() });
    }
    writable(path)?;
    let first = match attempt(path) {
        Ok(tree) => return Ok(tree),
        Err(Failed::Refused(error)) => return Err(error),
        Err(Failed::Damaged(reason)) => reason,
    };
    let copy = aside.keep(path)?;
    report.say(format!("the store did not open ({first}); a copy of it is kept in {}", copy.display()));
    let steps: [(&str, Doomed); 2] = [
        ("an unfinished snapshot", |name| name.starts_with("snap.") && name.ends_with(".generating")),
        ("all snapshots, so that the log is read again", |name| name.starts_with("snap.")),
    ];
    for (what, doomed) in steps {
        let n_removed = remove(path, doomed)?;
        match attempt(path) {
            Ok(tree) => {
                report.say(format!("removed {what} ({n_removed} file(s)), and the store opened"));
                return Ok(tree);
            }
            Err(Failed::Refused(error)) => return Err(error),
            Err(Failed::Damaged(_)) => {}
        }
    }
    let failed = |error: std::io::Error| StoreError::from_io("set aside", path, &error);
    fs::remove_dir_all(path).map_err(failed)?;
    report.lose(
        "the store could not be mended and begins empty: every session, answer and issue that was in it is lost here"
            .to_owned(),
    );
    open(path)
}

/// Leaves the mark. Best effort: without it the next reader meets the same place.
pub(super) fn mark_unreadable(tree: &Path) {
    if let Some(dir) = tree.parent() {
        let _ = fs::write(dir.join(UNREADABLE), "");
    }
}

pub(super) fn is_marked(dir: &Path) -> bool {
    dir.join(UNREADABLE).exists()
}

pub(super) fn clear_mark(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_file(dir.join(UNREADABLE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::from_io("clean", dir, &error)),
        _ => Ok(()),
    }
}

/// Reads everything; where that does not go through, copies what reads into a fresh tree that takes its place.
pub(super) fn salvage(
    dir: &Path,
    tree: Tree,
    broken: &Arc<AtomicBool>,
    aside: &mut Aside,
    report: &mut OpenReport,
) -> Result<Tree, StoreError> {
    let expected = quietly(|| tree.count()).ok().and_then(Result::ok);
    if quietly(|| tree.count_anew()).is_ok_and(|count| count.is_ok()) {
        return Ok(tree);
    }
    let (place, fresh, old) = (dir.join("sled"), dir.join("sled.new"), dir.join("sled.old"));
    let copy = aside.keep(&place)?;
    let failed = |error: std::io::Error| StoreError::from_io("mend", &place, &error);
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(failed)?;
    }
    let saved = Tree::open(&fresh, Arc::new(AtomicBool::new(false)))?;
    // Each key space from both ends, so that a page that does not read hides its neighbours only where two do not.
    for space in [&b"!"[..], b"b/", b"c/", b"h/", b"m/", b"o/", b"p/", b"q/", b"bad/", b"~/"] {
        for is_forward in [true, false] {
            copy_readable(tree.db(), space, is_forward, &saved)?;
        }
    }
    let count = saved.count_anew()?;
    let mut changes = sled::Batch::default();
    saved.put_count(&mut changes, count);
    saved.apply(changes)?;
    saved.sync()?;
    drop(saved);
    // sled may fail once more over its damaged files when it ends.
    let _ = quietly(move || drop(tree));
    sync_folder(&fresh)?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(failed)?;
    }
    fs::rename(&place, &old).and_then(|()| fs::rename(&fresh, &place)).map_err(failed)?;
    sync_folder(dir)?;
    fs::remove_dir_all(&old).map_err(failed)?;
    let of = expected.map_or(String::new(), |expected| format!(" of {expected}"));
    report.lose(format!(
        "a part of the store does not read: {count}{of} records were saved from it, the others are lost here; a copy of \
         it is kept in {}",
        copy.display()
    ));
    Tree::open(&place, Arc::clone(broken))
}

/// Copies until the end of the key space, or the first error.
fn copy_readable(db: &sled::Db, space: &[u8], is_forward: bool, to: &Tree) -> Result<(), StoreError> {
    let mut last: Option<sled::IVec> = None;
    let mut next = |entries: &mut sled::Iter| {
        let entry = quietly(|| if is_forward { entries.next() } else { entries.next_back() });
        let (key, value) = entry.ok()??.ok()?;
        // A damaged tree must not lead round in a circle.
        let moves = last.as_ref().is_none_or(|last| if is_forward { key > *last } else { key < *last });
        last = Some(key.clone());
        moves.then_some((key, value))
    };
    let mut entries = db.scan_prefix(space);
    loop {
        let mut changes = sled::Batch::default();
        let mut bytes = 0;
        while bytes < PIECE_BYTES {
            let Some((key, value)) = next(&mut entries) else { break };
            bytes += key.len() + value.len();
            changes.insert(key, value);
        }
        if bytes == 0 {
            return Ok(());
        }
        to.apply(changes)?;
    }
}

/// sled opens a read-only directory in ways that end in a panic; it is asked here first, in words for a person.
fn writable(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|error| StoreError::from_io("create", path, &error))?;
    let probe = path.join(".writable");
    let written = fs::write(&probe, [0u8; 1]);
    // A full disk takes the name and not the byte.
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(|error| StoreError::from_io("write to", path, &error))
}

fn remove(path: &Path, doomed: Doomed) -> Result<usize, StoreError> {
    let failed = |error: std::io::Error| StoreError::from_io("mend", path, &error);
    let mut n_removed = 0;
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(doomed) {
            fs::remove_file(entry.path()).map_err(failed)?;
            n_removed += 1;
        }
    }
    Ok(n_removed)
}

/// Where an opening keeps what it found damaged: one folder `broken-<n>`, made when it is needed.
pub(super) struct Aside {
    dir: PathBuf,
    folder: Option<PathBuf>,
    /// A copy is worked on: what is damaged stays in the original, in this folder.
    original: Option<PathBuf>,
}

impl Aside {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), folder: None, original: None }
    }

    /// For a copy of the store in `original`: nothing need be kept.
    pub(super) fn in_original(original: &Path) -> Self {
        Self { dir: PathBuf::new(), folder: None, original: Some(original.to_owned()) }
    }

    /// Copies a file, or a folder with all that is in it. Once; what is there from before in this opening is older and stays.
    pub(super) fn keep(&mut self, path: &Path) -> Result<PathBuf, StoreError> {
        if let Some(original) = &self.original {
            return Ok(original.join(path.file_name().unwrap_or_default()));
        }
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => next_aside(&self.dir)?,
        };
        self.folder = Some(folder.clone());
        let copy = folder.join(path.file_name().unwrap_or_default());
        let copied = fs::create_dir_all(&folder).and_then(|()| match path.is_dir() {
            _ if copy.exists() => Ok(()),
            true => copy_all(path, &copy),
            false => fs::copy(path, &copy).map(drop),
        });
        copied.map_err(|error| StoreError::from_io("copy", path, &error))?;
        Ok(copy)
    }

    /// Leaves a word beside the copies for whoever finds them later.
    pub(super) fn explain(&self, report: &OpenReport) {
        if let Some(folder) = &self.folder {
            // The report is told to whoever opens the store in any case.
            let _ = fs::write(folder.join("why.txt"), report.actions.join("\n") + "\n");
        }
    }
}

/// The numbers of the folders of set-aside files, smallest first.
fn aside_numbers(parent: &Path) -> Vec<u32> {
    let entries = fs::read_dir(parent).into_iter().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("broken-")?.parse().ok();
    let mut numbers: Vec<u32> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Folders in which earlier openings of the store in `dir` have kept damaged files, oldest first.
pub fn set_aside_folders(dir: &Path) -> Vec<PathBuf> {
    aside_numbers(dir).into_iter().map(|number| dir.join(format!("broken-{number}"))).collect()
}

/// The next free name for a copy; lets go of the oldest copies.
fn next_aside(parent: &Path) -> Result<PathBuf, StoreError> {
    let mut numbers = aside_numbers(parent);
    let next = numbers.last().map_or(1, |last| last + 1);
    while numbers.len() >= MAX_ASIDE {
        let oldest = parent.join(format!("broken-{}", numbers.remove(0)));
        fs::remove_dir_all(&oldest).map_err(|error| StoreError::from_io("remove", &oldest, &error))?;
    }
    Ok(parent.join(format!("broken-{next}")))
}

/// Removes the copies of broken stores and journals in `dir` that were last changed before `before`. How many there were.
///
/// # Errors
/// [`StoreError`] when the folder does not read or a copy does not go.
pub fn remove_copies(dir: &Path, before: std::time::SystemTime) -> Result<usize, StoreError> {
    let failed = |error: std::io::Error| StoreError::from_io("remove old copies in", dir, &error);
    let mut n_removed = 0;
    for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
        let is_copy = entry.file_name().to_str().is_some_and(|name| name.starts_with("broken-"));
        let is_old = || entry.metadata().and_then(|data| data.modified()).is_ok_and(|at| at < before);
        if is_copy && is_old() {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
            n_removed += 1;
        }
    }
    Ok(n_removed)
}

/// Asks for room before sled writes: after a failed write it refuses everything.
pub(super) fn require_space(dir: &Path, bytes: u64) -> Result<(), StoreError> {
    match rustix::fs::statvfs(dir) {
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes => {
            Err(StoreError::NoSpace { path: dir.to_owned() })
        }
        // Where the question has no answer the write itself gives it.
        _ => Ok(()),
    }
}

pub(super) fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Bytes of all files below a folder; what cannot be looked at counts as nothing.
pub(super) fn size_of(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => size_of(&entry.path()),
        // What is allocated, not what is addressed: sled's files have holes.
        Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
