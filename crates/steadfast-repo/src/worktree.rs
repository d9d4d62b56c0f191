//! A session's own working tree: a linked worktree of the user's repository, in the state directory.
//!
//! Its administrative folder (`<git dir>/worktrees/<name>`) is written here and not by libgit2, so that whatever a crash
//! left half-made can be taken up: each step looks at what is there and adds what is missing.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use git2::build::CheckoutBuilder;
use steadfast_core::ids::{CommitId, RepoPath, SessionId};
use steadfast_fault_point::{self as fault_point, Point};

use crate::confined::ConfinedDir;
use crate::diff;
use crate::error::{FileError, RepoError, git_at, io_at};
use crate::objects::LINK;
use crate::refs::{self, Moved, commit_id};
use crate::repository::{Repository, find_commit, move_branch};

/// Files above this size are named in a diff, not shown.
pub(crate) const MAX_DIFF_FILE_BYTES: u64 = 1 << 20;

/// A file above this size is not shown to models, so they do not write it either.
pub(crate) const MAX_REPLACED_BYTES: u64 = 1 << 20;
/// The mode of a submodule in an index.
const SUBMODULE: u32 = 0o160_000;

/// A worktree of one session. May be shared between threads. All methods block.
pub struct Worktree {
    dir: PathBuf,
    /// `<git dir>/worktrees/<name>`: its HEAD, index and the way back to `dir`.
    admin: PathBuf,
    branch: String,
    /// Opened through `admin`, not through `<dir>/.git`: that file is within reach of a check that runs without a sandbox.
    git: Mutex<git2::Repository>,
}

impl std::fmt::Debug for Worktree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worktree").field("dir", &self.dir).field("branch", &self.branch).finish_non_exhaustive()
    }
}

impl Repository {
    /// The worktree at `dir` on `branch`, made if it is not there yet. A branch that does not exist is created at `at`.
    ///
    /// May be repeated, also after a crash in the middle: what is missing is added, a lost or broken administrative folder
    /// is made anew. A worktree that is there already keeps its files as they are; [`Worktree::reset_to`] brings
    /// it to a known state. A new one has the files of the branch's tip.
    ///
    /// # Errors
    /// [`RepoError::ForeignCommit`] when the branch exists and does not descend from `at`; [`RepoError::UnknownCommit`];
    /// [`RepoError::BranchBlocked`]; [`RepoError::WorktreeOccupied`] when `dir` holds something else; [`RepoError::Io`].
    ///
    /// [`Repository::claim_for`] tells before whether another session was quicker.
    pub fn add_worktree(&self, dir: &Path, branch: &str, at: &CommitId) -> Result<Worktree, RepoError> {
        let dir = std::path::absolute(dir).map_err(io_at("find", dir))?;
        let git = self.git();
        let tip = claim_branch(&git, branch, at)?;
        fault_point::reach(Point::RepoWorktreeBefore);
        let admin = admin_dir(self.git_dir(), &dir)?;
        fault_point::reach(Point::RepoWorktreeAdmin);
        let is_new = !dir.exists();
        fs::create_dir_all(&dir).map_err(io_at("create", &dir))?;
        fault_point::reach(Point::RepoWorktreeFolder);
        write_links(&dir, &admin, branch)?;
        fault_point::reach(Point::RepoWorktreeLinked);
        let linked = git2::Repository::open(&admin).map_err(git_at("open the worktree"))?;
        drop(git);
        let worktree = Worktree { dir, branch: branch.to_owned(), git: Mutex::new(linked), admin };
        // The index is the last thing that a checkout writes.
        if !worktree.admin.join("index").exists() {
            // A process that was killed while it checked out has left its lock.
            worktree.clear_locks()?;
            worktree.check_out(&tip, is_new)?;
            fault_point::reach(Point::RepoWorktreeCheckedOut);
        }
        Ok(worktree)
    }

    /// Makes the session's branch, and says whether it is its own now. `false`: another session made it first, as its reflog
    /// tells; a branch without a reflog counts as ours.
    ///
    /// # Errors
    /// As [`Repository::add_branch`].
    pub fn claim_for(&self, session: &SessionId, branch: &str, at: &CommitId) -> Result<bool, RepoError> {
        let git = self.git();
        let note = format!("{START_NOTE} {session}");
        let start = find_commit(&git, at)?.id();
        if refs::tip(&git, branch)?.is_none() {
            // Who comes second finds the branch of the first.
            let _ = move_branch(&git, branch, None, start, &note)?;
        }
        let first = refs::first_note(&git, branch);
        Ok(first.is_none_or(|first| !first.starts_with(START_NOTE) || first == note || first == START_NOTE))
    }

    /// The session's branch without a worktree, made at `at` if it does not exist.
    ///
    /// # Errors
    /// [`RepoError::ForeignCommit`] when the branch exists and does not descend from `at`; [`RepoError::UnknownCommit`];
    /// [`RepoError::BranchBlocked`]; [`RepoError::Io`].
    pub fn add_branch(&self, branch: &str, at: &CommitId) -> Result<(), RepoError> {
        claim_branch(&self.git(), branch, at).map(|_tip| ())
    }

    /// Removes the worktree at `dir` with everything in it, ignored files too. Its branch stays. One that is gone, or
    /// half gone, is fine.
    ///
    /// # Errors
    /// [`RepoError::WorktreeOccupied`] when `dir` is no worktree of this repository; [`RepoError::Io`].
    pub fn remove_worktree(&self, dir: &Path) -> Result<(), RepoError> {
        let dir = std::path::absolute(dir).map_err(io_at("find", dir))?;
        let _turn = self.git();
        let admin = admin_dir(self.git_dir(), &dir)?;
        fault_point::reach(Point::RepoWorktreeRemoving);
        // The empty folder goes last: by it the next start finds what a crash in the middle has left.
        empty(&dir)?;
        fault_point::reach(Point::RepoWorktreeEmptied);
        remove_all(&admin)?;
        // Only succeeds for the last worktree; git leaves no empty folder either.
        fs::remove_dir(self.git_dir().join("worktrees")).ok();
        fault_point::reach(Point::RepoWorktreeAdminGone);
        remove_all(&dir)?;
        fault_point::reach(Point::RepoWorktreeGone);
        Ok(())
    }
}

/// Whether a model can be shown this and can write it anew: UTF-8 without a NUL, by which git too tells what is no text.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0)
}

/// What the reflog of a session's branch begins with.
const START_NOTE: &str = "steadfast: start";

/// Creates the branch, or sees that it may be ours. Where it is.
fn claim_branch(git: &git2::Repository, branch: &str, at: &CommitId) -> Result<CommitId, RepoError> {
    let start = find_commit(git, at)?.id();
    let found = match refs::tip(git, branch)? {
        Some(tip) => Some(tip),
        None => match move_branch(git, branch, None, start, START_NOTE)? {
            Moved::Done => Some(start),
            Moved::Elsewhere(other) => other,
        },
    };
    let ours = found.filter(|tip| *tip == start || git.graph_descendant_of(*tip, start).unwrap_or(false));
    ours.map(commit_id).ok_or_else(|| RepoError::ForeignCommit {
        branch: branch.to_owned(),
        expected: at.clone(),
        found: found.map(commit_id),
    })
}

/// The administrative folder for the worktree at `dir`: the one that it has, else a new name. Created.
fn admin_dir(common: &Path, dir: &Path) -> Result<PathBuf, RepoError> {
    let back_link = dir.join(".git");
    let all = common.join("worktrees");
    if let Some(known) = find_admin(&all, &back_link)? {
        return Ok(known);
    }
    if !is_free(common, dir)? {
        return Err(RepoError::WorktreeOccupied { dir: dir.to_owned() });
    }
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' }
    };
    let name: String = name.chars().map(plain).take(80).collect();
    let mut number = 1;
    let admin = loop {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let candidate = all.join(format!("{ADMIN_PREFIX}{name}{suffix}"));
        match fs::read(candidate.join("gitdir")) {
            // A folder with our prefix and nothing in that file: a crash came just after it was made.
            Ok(text) if text.trim_ascii_end().is_empty() => break candidate,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break candidate,
            Ok(_) => number += 1,
            Err(error) => return Err(io_at("read", &candidate)(error)),
        }
    };
    fs::create_dir_all(&admin).map_err(io_at("create", &admin))?;
    Ok(admin)
}

/// What the names of our administrative folders begin with.
const ADMIN_PREFIX: &str = "steadfast-";

/// The administrative folder that points back to the worktree, if there is one.
fn find_admin(all: &Path, back_link: &Path) -> Result<Option<PathBuf>, RepoError> {
    let entries = match fs::read_dir(all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at("read", all)(error)),
    };
    let mut ours = entries
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(ADMIN_PREFIX.as_bytes()))
        .map(|entry| entry.path());
    let points_back = |admin: &PathBuf| {
        fs::read(admin.join("gitdir")).is_ok_and(|text| text.trim_ascii_end() == back_link.as_os_str().as_bytes())
    };
    Ok(ours.find(points_back))
}

/// Whether a worktree may be made at `dir`: it is not there, is empty, or was one of this repository whose administrative
/// folder is lost (`git worktree prune`).
fn is_free(common: &Path, dir: &Path) -> Result<bool, RepoError> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(io_at("read", dir)(error)),
    };
    if entries.next().is_none() {
        return Ok(true);
    }
    let link = fs::read_to_string(dir.join(".git")).unwrap_or_default();
    let target = link.strip_prefix("gitdir: ").map(|to| Path::new(to.trim_end()).to_owned());
    Ok(target.is_some_and(|to| to.starts_with(common.join("worktrees"))))
}

/// The four small files that tie the worktree to the repository; each is written only if it says something else.
fn write_links(dir: &Path, admin: &Path, branch: &str) -> Result<(), RepoError> {
    let line = |before: &str, path: &Path| [before.as_bytes(), path.as_os_str().as_bytes(), b"\n"].concat();
    // The back link comes first: it is what tells whose folder this is.
    ensure_content(&admin.join("gitdir"), &line("", &dir.join(".git")))?;
    ensure_content(&admin.join("commondir"), b"../..\n")?;
    ensure_content(&admin.join("HEAD"), format!("ref: {}\n", refs::full_name(branch)).as_bytes())?;
    ensure_content(&dir.join(".git"), &line("gitdir: ", admin))
}

fn ensure_content(path: &Path, content: &[u8]) -> Result<(), RepoError> {
    let regular = fs::symlink_metadata(path).is_ok_and(|data| data.is_file());
    if regular && fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    if !regular {
        // A link or folder in its place must not lead the write elsewhere.
        remove_all(path)?;
    }
    fs::write(path, content).map_err(io_at("write", path))?;
    fault_point::reach(Point::RepoWorktreeLink);
    Ok(())
}

/// Removes what has another type than the commit has at its place: a link where a folder or a file belongs, a folder where
/// a file belongs. libgit2 leaves these as they are, even when forced, and would then write through a link to a folder.
fn remove_mismatched(git: &git2::Repository, tree: &git2::Tree<'_>, dir: &Path) -> Result<(), RepoError> {
    for entry in tree {
        let path = dir.join(OsStr::from_bytes(entry.name_bytes()));
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        match entry.kind() {
            Some(git2::ObjectType::Tree) if found.is_dir() => {
                let below = git.find_tree(entry.id()).map_err(git_at("read a tree"))?;
                remove_mismatched(git, &below, &path)?;
            }
            Some(git2::ObjectType::Blob) if found.is_symlink() && entry.filemode_raw() == LINK => {}
            Some(git2::ObjectType::Blob) if found.is_file() && entry.filemode_raw() != LINK => {}
            // A submodule is an empty folder here.
            Some(git2::ObjectType::Commit) if found.is_dir() => {}
            _ => remove_all(&path)?,
        }
    }
    Ok(())
}

/// Removes everything in a folder. What is no folder stays as it is.
fn empty(dir: &Path) -> Result<(), RepoError> {
    if !fs::symlink_metadata(dir).is_ok_and(|data| data.is_dir()) {
        return Ok(());
    }
    // Best effort: the removal that follows reports what could not be opened.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).ok();
    for entry in fs::read_dir(dir).map_err(io_at("read", dir))? {
        remove_all(&entry.map_err(io_at("read", dir))?.path())?;
    }
    Ok(())
}

/// Removes a file, link or folder. Folders that forbid it (module caches are read-only) are opened first.
fn remove_all(path: &Path) -> Result<(), RepoError> {
    let remove = || match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    let result = match remove() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path);
            remove()
        }
        other => other,
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Best effort: the removal that follows reports what could not be opened.
fn make_writable(dir: &Path) {
    if !fs::symlink_metadata(dir).is_ok_and(|data| data.is_dir()) {
        return;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).ok();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}

impl Worktree {
    /// Its folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its branch, short name.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    fn git(&self) -> MutexGuard<'_, git2::Repository> {
        self.git.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> Result<ConfinedDir, RepoError> {
        ConfinedDir::open(&self.dir).map_err(io_at("open", &self.dir))
    }

    /// Makes the tracked files those of `commit` and removes files that are neither tracked nor ignored. What `.gitignore`
    /// of that commit covers (build caches) stays. Lock files that a killed process left in the worktree's own git folder
    /// go; a broken index is built anew. Content is written as stored, without conversion. The branch is not moved.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`], [`RepoError::Io`], [`RepoError::Git`]; the files may then be half changed, and a
    /// repetition goes on.
    pub fn reset_to(&self, commit: &CommitId) -> Result<(), RepoError> {
        fs::create_dir_all(&self.dir).map_err(io_at("create", &self.dir))?;
        fs::create_dir_all(&self.admin).map_err(io_at("create", &self.admin))?;
        fault_point::reach(Point::RepoWorktreeResetting);
        self.clear_locks()?;
        write_links(&self.dir, &self.admin, &self.branch)?;
        self.check_out(commit, false)?;
        fault_point::reach(Point::RepoWorktreeReset);
        Ok(())
    }

    /// `is_new`: the folder is empty, so there is nothing to remove.
    fn check_out(&self, commit: &CommitId, is_new: bool) -> Result<(), RepoError> {
        let git = self.git();
        let target = find_commit(&git, commit)?;
        let index = self.admin.join("index");
        if index.exists() && git.index().and_then(|mut index| index.read(true)).is_err() {
            fs::remove_file(&index).map_err(io_at("remove", &index))?;
        }
        let checkout = |remove_untracked: bool| {
            let mut how = CheckoutBuilder::new();
            how.force().disable_filters(true).remove_untracked(remove_untracked);
            git.checkout_tree(target.as_object(), Some(&mut how)).map_err(git_at("check out the commit"))
        };
        if !is_new {
            let tree = target.tree().map_err(git_at("read a tree"))?;
            remove_mismatched(&git, &tree, &self.dir)?;
        }
        // Twice: what is ignored must be asked of the commit's own .gitignore, not of one that a milestone wrote and that is
        // only now replaced.
        checkout(false)?;
        if is_new {
            return Ok(());
        }
        fault_point::reach(Point::RepoWorktreeTracked);
        checkout(true)?;
        git.cleanup_state().map_err(git_at("clean the worktree's state"))
    }

    fn clear_locks(&self) -> Result<(), RepoError> {
        for entry in fs::read_dir(&self.admin).map_err(io_at("read", &self.admin))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "lock") {
                tracing::warn!(lock = %path.display(), "removing a lock that a killed process left behind");
                remove_all(&path)?;
            }
        }
        Ok(())
    }

    /// The text of a file; `None` when it is not there.
    ///
    /// # Errors
    /// [`FileError`] for a symbolic link (the file or on the way), a directory, a submodule, more than `max_bytes`, no UTF-8,
    /// or a NUL, by which git too tells what is no text.
    pub fn read(&self, path: &RepoPath, max_bytes: u64) -> Result<Option<String>, FileError> {
        let bytes = self.confined("read", path)?.read(path, max_bytes)?;
        let no_text = || FileError::NotText { path: path.clone() };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| is_text(text.as_bytes()));
        bytes.map(|bytes| text(bytes).ok_or_else(no_text)).transpose()
    }

    /// Whether a text may take this path's place, without writing: to be asked before a model is, or before an answer is
    /// accepted that names it. What stands there now must be a text that could have been shown (at most 1 MiB): a picture or
    /// a data file is never replaced by what a model, which has not seen it, made up.
    ///
    /// # Errors
    /// As of [`Worktree::write`] but for the disk, and as of [`Worktree::read`].
    pub fn may_write(&self, path: &RepoPath) -> Result<(), FileError> {
        self.confined("write", path)?.may_write(path)?;
        self.read(path, MAX_REPLACED_BYTES).map(|_text| ())
    }

    /// Replaces the file's content at once (readers see the old or the new one) and makes missing directories. It keeps its
    /// permissions. Not durable by itself: the commit is.
    ///
    /// # Errors
    /// [`FileError`] for a symbolic link, directory, submodule, file or device in the way, or when the disk does not take it;
    /// the old content is still there then.
    pub fn write(&self, path: &RepoPath, bytes: &[u8]) -> Result<(), FileError> {
        self.confined("write", path)?.write(path, bytes)
    }

    /// Removes the file, and directories that are empty then. Whether it was there. A symbolic link itself may be removed.
    ///
    /// # Errors
    /// [`FileError`] for a directory, or a symbolic link or submodule on the way.
    pub fn delete(&self, path: &RepoPath) -> Result<bool, FileError> {
        self.confined("delete", path)?.delete(path)
    }

    fn confined(&self, what: &'static str, path: &RepoPath) -> Result<ConfinedDir, FileError> {
        self.refuse_submodule(path)?;
        ConfinedDir::open(&self.dir).map_err(|source| FileError::Io { what, path: path.clone(), source })
    }

    /// A submodule is an empty folder here, so the disk would take a file in it, but no commit would.
    fn refuse_submodule(&self, path: &RepoPath) -> Result<(), FileError> {
        let git = self.git();
        // Without an index nothing was checked out yet.
        let Ok(index) = git.index() else { return Ok(()) };
        let text = path.as_str();
        let mut parts = text.match_indices('/').map(|(at, _)| &text[..at]).chain([text]);
        let is_submodule =
            |part: &&str| index.get_path(Path::new(part), 0).is_some_and(|entry| entry.mode == SUBMODULE);
        match parts.find(is_submodule) {
            Some(part) => Err(FileError::Submodule { path: path.clone(), submodule: part.to_owned() }),
            None => Ok(()),
        }
    }

    /// A unified diff from `base` to the worktree's files, for `paths` only and in their order, at most `max_bytes` long; a
    /// diff that was cut says so in its last line. Files that did not change are left out; binary ones and those above
    /// 1 MiB are only named. Empty when nothing changed.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`], [`RepoError::Git`], [`RepoError::Io`].
    pub fn diff(
        &self,
        base: &CommitId,
        paths: &[RepoPath],
        context_lines: u32,
        max_bytes: usize,
    ) -> Result<String, RepoError> {
        let files = self.files()?;
        let now = |path: &RepoPath| files.read(path, MAX_DIFF_FILE_BYTES);
        diff::of_paths(&self.git(), base, paths, now, context_lines, max_bytes)
    }

    /// Makes the index that of `commit`, so that `git status` in the worktree is clean after the branch has moved there.
    /// A convenience for people: nothing in here depends on it.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`], [`RepoError::Git`].
    pub fn sync_index(&self, commit: &CommitId) -> Result<(), RepoError> {
        let git = self.git();
        let tree = find_commit(&git, commit)?.tree().map_err(git_at("read a tree"))?;
        let mut index = git.index().map_err(git_at("open the index"))?;
        index
            .read(false)
            .and_then(|()| index.read_tree(&tree))
            .and_then(|()| index.write())
            .map_err(git_at("write the index"))
    }
}
