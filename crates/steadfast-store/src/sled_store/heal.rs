//! Opens sled, and mends what a crash in the middle of sled's own recovery leaves behind.
//!
//! A kill while sled writes `snap.*.generating` makes every later open fail with `Corruption`, though nothing is lost:
//! without that file, or without all snapshots, the log is read again. So: keep a copy of everything once, try without
//! the one, then without the others, and only then set the store aside and begin an empty one.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{OpenReport, translate};
use crate::error::{BackendError, StoreError};

/// Copies of broken stores that are kept beside the store; older ones go first.
const MAX_ASIDE: usize = 2;

fn config(path: &Path) -> sled::Config {
    sled::Config::new()
        .path(path)
        // Room for the hot pages of a busy daemon; filled only as far as needed.
        .cache_capacity(16 << 20)
        // The keeper flushes; a timer would only add writes that nobody waits for.
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace)
}

/// A small file beside the tree that tells what the tree must at least hold, for sled opens an emptied file as a new
/// store, without a word.
pub(super) struct Witness {
    /// The last epoch that was begun here.
    pub(super) epoch: u64,
    /// Bytes of sled's file when it was last closed in order; `None` after a crash.
    closed_bytes: Option<u64>,
    /// Bytes of sled's file now, before sled opens and extends it.
    found_bytes: u64,
}

const WITNESS: &str = "epoch";

impl Witness {
    /// A file that is missing or does not read says nothing.
    pub(super) fn read(dir: &Path) -> Self {
        let text = fs::read_to_string(dir.join(WITNESS)).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().ok());
        let epoch = numbers.next().flatten().unwrap_or(0);
        let found_bytes = fs::metadata(dir.join("sled/db")).map_or(0, |data| data.len());
        Self { epoch, closed_bytes: numbers.next().flatten(), found_bytes }
    }

    /// Not synced, for that would make each open slower: what a power cut leaves of it says less, and nothing false.
    fn write(dir: &Path, text: &str) -> std::io::Result<()> {
        let temporary = dir.join(".epoch.tmp");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, dir.join(WITNESS))
    }

    pub(super) fn write_open(dir: &Path, epoch: u64) -> Result<(), StoreError> {
        Self::write(dir, &format!("{epoch}\n")).map_err(|error| StoreError::from_io("write to", dir, &error))
    }

    pub(super) fn write_closed(dir: &Path, epoch: u64) {
        if let Ok(data) = fs::metadata(dir.join("sled/db")) {
            // Without it the next start just knows less.
            let _ = Self::write(dir, &format!("{epoch} {}\n", data.len()));
        }
    }

    /// Says when the tree holds less than it must.
    pub(super) fn compare(&self, tree: &sled::Db, found: u64, report: &mut OpenReport) {
        if found < self.epoch && !report.lost {
            report.lost = found == 0;
            let kept = tree.len();
            report.actions.push(format!(
                "the store has lost records: it remembers start {found} of {}, and holds {kept} values; what was \
                 committed lies on the sessions' branches",
                self.epoch
            ));
        } else if self.closed_bytes.is_some_and(|closed| self.found_bytes < closed) {
            report
                .actions
                .push("the store's file is shorter than when it was closed: its newest records may be lost".to_owned());
        }
    }
}

/// Chooses files by name.
type Doomed = fn(&str) -> bool;

enum Failed {
    /// Mending may help.
    Damaged(String),
    /// The machine said no; mending would only do harm.
    Refused(StoreError),
}

fn attempt(path: &Path) -> Result<sled::Db, Failed> {
    match catch_unwind(AssertUnwindSafe(|| config(path).open())) {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(sled::Error::Io(error))) => match error.kind() {
            // sled says these of files that are cut or empty.
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other => {
                Err(Failed::Damaged(error.to_string()))
            }
            _ => Err(Failed::Refused(translate(path, "open", &sled::Error::Io(error)))),
        },
        Ok(Err(error)) => Err(Failed::Damaged(error.to_string())),
        Err(panic) => {
            Err(Failed::Damaged(panic.downcast_ref::<String>().cloned().unwrap_or("sled panicked".to_owned())))
        }
    }
}

/// Opens the tree at `path`, mending it where that is needed.
pub(super) fn open(path: &Path, report: &mut OpenReport) -> Result<sled::Db, StoreError> {
    if path.is_file() {
        return Err(StoreError::NotADirectory { path: path.to_owned() });
    }
    writable(path)?;
    let first = match attempt(path) {
        Ok(tree) => return Ok(tree),
        Err(Failed::Refused(error)) => return Err(error),
        Err(Failed::Damaged(reason)) => reason,
    };
    let copy = set_copy_aside(path)?;
    report.actions.push(format!("the store did not open ({first}); a copy of it is kept in {}", copy.display()));
    let steps: [(&str, Doomed); 2] = [
        ("an unfinished snapshot", |name| name.starts_with("snap.") && name.ends_with(".generating")),
        ("all snapshots, so that the log is read again", |name| name.starts_with("snap.")),
    ];
    for (what, doomed) in steps {
        let n_removed = remove(path, doomed)?;
        match attempt(path) {
            Ok(tree) => {
                report
                    .actions
                    .push(format!("removed {what} ({n_removed} file(s)), and the store opened; nothing is lost"));
                return Ok(tree);
            }
            Err(Failed::Refused(error)) => return Err(error),
            Err(Failed::Damaged(_)) => {}
        }
    }
    let failed = |error: std::io::Error| StoreError::from_io("set aside", path, &error);
    fs::remove_dir_all(path).map_err(failed)?;
    report.lost = true;
    report.actions.push(format!(
        "the store could not be mended and begins empty; the old one lies in {}: sessions that were under way are found \
         again by their branches",
        copy.display()
    ));
    match attempt(path) {
        Ok(tree) => Ok(tree),
        Err(Failed::Refused(error)) => Err(error),
        Err(Failed::Damaged(reason)) => Err(StoreError::Index { source: BackendError::new(reason) }),
    }
}

/// sled opens a read-only directory in ways that end in a panic; it is asked here first, in words for a person.
fn writable(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|error| StoreError::from_io("create", path, &error))?;
    let probe = path.join(".writable");
    let probed = fs::write(&probe, [0u8; 1]).and_then(|()| fs::remove_file(&probe));
    probed.map_err(|error| StoreError::from_io("write to", path, &error))
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

/// Copies the broken store beside it.
fn set_copy_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let failed = |error: std::io::Error| StoreError::from_io("copy", path, &error);
    let copy = next_aside(path.parent().unwrap_or(path))?;
    copy_all(path, &copy).map_err(failed)?;
    Ok(copy)
}

/// Copies a damaged journal beside the store.
pub(super) fn set_file_aside(dir: &Path, path: &Path) -> Result<PathBuf, StoreError> {
    let copy = next_aside(dir)?;
    let copied =
        fs::create_dir_all(&copy).and_then(|()| fs::copy(path, copy.join(path.file_name().unwrap_or_default())));
    copied.map_err(|error| StoreError::from_io("copy", path, &error))?;
    Ok(copy)
}

/// The next free name for a copy; lets go of the oldest copies.
fn next_aside(parent: &Path) -> Result<PathBuf, StoreError> {
    let failed = |error: std::io::Error| StoreError::from_io("copy into", parent, &error);
    let mut numbers: Vec<u32> = fs::read_dir(parent)
        .map_err(failed)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("broken-")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last + 1);
    while numbers.len() >= MAX_ASIDE {
        let oldest = numbers.remove(0);
        fs::remove_dir_all(parent.join(format!("broken-{oldest}"))).map_err(failed)?;
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

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
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
