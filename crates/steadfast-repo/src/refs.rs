//! Moving a branch: compare and set under git's own lock file, durable.
//!
//! libgit2 does neither sync a reference nor take over the lock that a killed process left behind, so the few lines are
//! here. Reading stays with libgit2 (packed references).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::Oid;
use steadfast_core::ids::CommitId;
use steadfast_fault_point::{self as fault_point, Point};

use crate::error::{RepoError, git_at, io_at};
use crate::objects::Author;
use crate::pack::sync_dir;

/// git holds the lock of a reference for milliseconds; one that is older was left behind by a process that is gone.
const STALE_LOCK: Duration = Duration::from_secs(3);
/// How long a branch that is locked is waited for: a little longer than it takes a fresh lock to become stale.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done with a branch.
pub(crate) struct Move<'a> {
    /// Short name, e.g. `steadfast/002-feature`.
    pub(crate) branch: &'a str,
    /// Where it must be now; `None`: it must not exist.
    pub(crate) from: Option<Oid>,
    /// Where it will be.
    pub(crate) to: Oid,
    /// Who stands in the reflog, and when (seconds since 1970).
    pub(crate) author: &'a Author,
    pub(crate) unix_s: i64,
    /// The line in the reflog.
    pub(crate) note: &'a str,
}

/// What was found.
#[must_use]
pub(crate) enum Moved {
    /// It is at `to` now, or was already.
    Done,
    /// It is elsewhere (`None`: gone) and was left alone.
    Elsewhere(Option<Oid>),
}

/// What was found when the branch was locked.
#[must_use]
pub(crate) enum Begun {
    /// It is where it is expected and may be moved.
    Ready(Locked),
    /// There is nothing to do, or nothing may be done.
    Over(Moved),
}

/// A branch that is locked, is where it is expected, and whose new value is written but not synced.
pub(crate) struct Locked {
    lock: Lock,
    path: PathBuf,
    /// The folders that hold new folders.
    made: Vec<PathBuf>,
}

pub(crate) fn full_name(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

/// Where the branch is; `None` when it does not exist.
pub(crate) fn tip(repo: &git2::Repository, branch: &str) -> Result<Option<Oid>, RepoError> {
    match repo.find_reference(&full_name(branch)) {
        Ok(found) => {
            let direct = found.resolve().map_err(git_at("resolve a branch"))?;
            Ok(direct.target())
        }
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(git_at("read a branch")(error)),
    }
}

/// What the first line of the branch's reflog says; `None`: there is none.
pub(crate) fn first_note(repo: &git2::Repository, branch: &str) -> Option<String> {
    let log = fs::read_to_string(repo.commondir().join("logs").join(full_name(branch))).ok()?;
    Some(log.lines().next()?.rsplit_once('\t')?.1.to_owned())
}

/// Moves the branch. When it returns [`Moved::Done`], the move survives a power cut, provided that the commit does.
pub(crate) fn compare_and_set(repo: &git2::Repository, change: &Move<'_>) -> Result<Moved, RepoError> {
    match begin(repo, change)? {
        Begun::Over(moved) => Ok(moved),
        Begun::Ready(locked) => {
            locked.file().sync_all().map_err(io_at("sync", &locked.path))?;
            finish(repo, change, locked)?;
            Ok(Moved::Done)
        }
    }
}

/// Locks the branch and looks where it is. The value that it will have must be synced before [`finish`].
pub(crate) fn begin(repo: &git2::Repository, change: &Move<'_>) -> Result<Begun, RepoError> {
    let path = repo.commondir().join(full_name(change.branch));
    let dir = path.parent().expect("a reference lies in refs/heads");
    let made = make_dirs(dir, change)?;
    // Two processes may begin a branch at the same commit; nobody but this session makes the commit of a later move.
    let only_ours = change.from.is_some();
    fault_point::reach(Point::RepoBranchBefore);
    let lock = Lock::take(&path, &format!("{}\n", change.to), change.branch, only_ours)?;
    fault_point::reach(Point::RepoBranchLocked);
    let found = tip(repo, change.branch)?;
    if found == Some(change.to) {
        // The move may have been done by a process that was killed before it was durable.
        if path.is_file() {
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(io_at("sync", &path))?;
            sync_dir(dir)?;
        }
        return Ok(Begun::Over(Moved::Done));
    }
    if found != change.from {
        return Ok(Begun::Over(Moved::Elsewhere(found)));
    }
    Ok(Begun::Ready(Locked { lock, path, made }))
}

impl Locked {
    /// The file to be synced.
    pub(crate) fn file(&self) -> &fs::File {
        &self.lock.file
    }
}

/// Gives the branch its new value, and makes that durable.
pub(crate) fn finish(repo: &git2::Repository, change: &Move<'_>, locked: Locked) -> Result<(), RepoError> {
    let Locked { lock, path, made } = locked;
    fault_point::reach(Point::RepoBranchMoving);
    if !lock.is_held() {
        // This process was taken for dead: the lock that lies there, if any, belongs to somebody else.
        return Err(RepoError::BranchLocked { branch: change.branch.to_owned(), lock: lock.path.clone() });
    }
    if path.is_dir() {
        // git leaves empty directories of deleted references behind and removes them when the name is wanted.
        remove_empty_dirs(&path).map_err(|_| RepoError::BranchBlocked {
            branch: change.branch.to_owned(),
            reason: format!("branches below {}/ exist", change.branch),
        })?;
    }
    if repo.config().and_then(|config| config.get_bool("core.logallrefupdates")).unwrap_or(true) {
        // Before the branch is there: whoever finds it finds whose it is. Else the log is a convenience for the user.
        append_reflog(repo.commondir(), change).ok();
        fault_point::reach(Point::RepoReflogWritten);
    }
    lock.commit(&path)?;
    fault_point::reach(Point::RepoBranchMoved);
    sync_dir(path.parent().expect("a reference lies in refs/heads"))?;
    for parent in made {
        sync_dir(&parent)?;
    }
    fault_point::reach(Point::RepoBranchSynced);
    Ok(())
}

/// Makes the directories of a reference. The ones that must be synced for that: the parents of those that were made.
fn make_dirs(dir: &Path, change: &Move<'_>) -> Result<Vec<PathBuf>, RepoError> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.is_dir()).collect();
    fs::create_dir_all(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => RepoError::BranchBlocked {
            branch: change.branch.to_owned(),
            reason: "a branch with the name of its folder exists".to_owned(),
        },
        _ => io_at("create", dir)(error),
    })?;
    Ok(missing.iter().filter_map(|dir| dir.parent()).map(Path::to_owned).collect())
}

fn remove_empty_dirs(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        remove_empty_dirs(&entry?.path())?;
    }
    fs::remove_dir(dir)
}

fn append_reflog(common: &Path, change: &Move<'_>) -> io::Result<()> {
    let path = common.join("logs").join(full_name(change.branch));
    fs::create_dir_all(path.parent().expect("a log lies in a folder"))?;
    let from = change.from.unwrap_or(Oid::ZERO_SHA1);
    let line = format!("{from} {} {}\t{}\n", change.to, change.author.line(change.unix_s), change.note);
    OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
}

/// git's lock of one reference: `<reference>.lock`, which holds the new value and is renamed onto the reference.
struct Lock {
    path: PathBuf,
    file: fs::File,
    done: bool,
}

impl Lock {
    /// Takes over a lock that was left behind: one that is old or, where `only_ours` says that nobody else writes this value,
    /// one that holds it.
    fn take(reference: &Path, value: &str, branch: &str, only_ours: bool) -> Result<Self, RepoError> {
        let mut name = reference.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let start = Instant::now();
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut lock = Self { path, file, done: false };
                    lock.file.write_all(value.as_bytes()).map_err(io_at("write", &lock.path))?;
                    return Ok(lock);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_at("create", &path)(error)),
            }
            if is_left_behind(&path, only_ours.then_some(value)) {
                tracing::warn!(lock = %path.display(), "removing a lock that a killed process left behind");
                fs::remove_file(&path).ok();
            } else if start.elapsed() >= LOCK_PATIENCE {
                return Err(RepoError::BranchLocked { branch: branch.to_owned(), lock: path });
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Whether its file is still the one that was made: a lock that seemed to be left behind may have been taken over.
    fn is_held(&self) -> bool {
        let same = |one: &fs::Metadata, other: &fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        matches!((self.file.metadata(), fs::symlink_metadata(&self.path)), (Ok(one), Ok(other)) if same(&one, &other))
    }

    fn commit(mut self, reference: &Path) -> Result<(), RepoError> {
        fs::rename(&self.path, reference).map_err(io_at("rename", &self.path))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.done && self.is_held() {
            // Nothing to be done about a failure; the next one takes an old lock over.
            fs::remove_file(&self.path).ok();
        }
    }
}

fn is_left_behind(lock: &Path, ours: Option<&str>) -> bool {
    if ours.is_some_and(|ours| fs::read_to_string(lock).is_ok_and(|held| held == ours)) {
        return true;
    }
    let age = fs::metadata(lock).and_then(|data| data.modified()).map(|at| at.elapsed().unwrap_or_default());
    age.is_ok_and(|age| age >= STALE_LOCK)
}

/// The id as the vocabulary has it.
pub(crate) fn commit_id(id: Oid) -> CommitId {
    CommitId::new(&id.to_string()).expect("libgit2 prints 40 lower-case hexadecimal digits")
}
