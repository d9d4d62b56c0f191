//! The user's repository: what is read from it, and the session's branch and commits.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use git2::{ErrorCode, Oid, Repository as Git, RepositoryOpenFlags};
use steadfast_core::ids::{CommitId, IdeaId, RepoPath, SessionId};

use crate::error::{FileError, RepoError, git_at};
use crate::objects::{Author, FileChange, NewObject, build_commit, build_tree};
use crate::pack::{objects_dir, store_durably};
use crate::refs::{self, Begun, Move, Moved, commit_id};

/// The trailer that names the session of a commit (SPEC 7).
const SESSION_TRAILER: &str = "Steadfast-Session";
/// The trailer that names the milestone of a commit, counted from 1 (SPEC 7).
const MILESTONE_TRAILER: &str = "Steadfast-Milestone";
/// The reflog's line of a milestone.
const MILESTONE_NOTE: &str = "steadfast: milestone";
/// How many names [`Repository::free_branch`] tries.
const MAX_BRANCHES_OF_AN_IDEA: u32 = 1_000;

/// An opened repository with a working tree and at least one commit. May be shared between threads; its methods block and
/// take turns.
pub struct Repository {
    top: PathBuf,
    /// Where references, objects and worktrees are kept: for a linked worktree the main repository's folder.
    common_dir: PathBuf,
    git: Mutex<Git>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("top", &self.top).finish_non_exhaustive()
    }
}

/// What a path in a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A regular file that may be executed.
    Executable,
    /// A symbolic link; its size is that of its target's name.
    Symlink,
    /// A submodule; its size is 0.
    Submodule,
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Relative to the top, with `/`.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// What it is.
    pub kind: EntryKind,
}

/// The files of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by path, byte by byte, as git does; names that are not UTF-8 are left out.
    pub entries: Vec<TreeEntry>,
    /// There are more files than were asked for.
    pub truncated: bool,
}

/// A commit of a session, as its trailers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MilestoneCommit {
    /// The commit.
    pub id: CommitId,
    /// Counted from 1.
    pub milestone: u32,
}

/// The commits of a branch since its base, first parents only, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BranchLog {
    /// Commits that carry the session's trailers.
    pub ours: Vec<MilestoneCommit>,
    /// Commits of anybody else.
    pub foreign: Vec<CommitId>,
}

impl Repository {
    /// Opens the repository that `path` lies in; a folder below its top will do, and so will a linked worktree or a
    /// submodule. Environment variables of git (`GIT_DIR`, …) are not looked at.
    ///
    /// # Errors
    /// [`RepoError::NotFound`], [`RepoError::NoRepository`], [`RepoError::Bare`], [`RepoError::NoCommit`],
    /// [`RepoError::UnsupportedFormat`] (SHA-256 objects, reftable), [`RepoError::UnsafeOwner`], [`RepoError::NotUtf8`], or
    /// [`RepoError::Git`] for a damaged one.
    pub fn open(path: &Path) -> Result<Self, RepoError> {
        if !path.exists() {
            return Err(RepoError::NotFound { path: path.to_owned() });
        }
        let no_ceiling: [&Path; 0] = [];
        let git =
            Git::open_ext(path, RepositoryOpenFlags::empty(), no_ceiling).map_err(|error| match error.code() {
                ErrorCode::NotFound => RepoError::NoRepository { path: path.to_owned() },
                ErrorCode::Owner => RepoError::UnsafeOwner { path: path.to_owned(), top: top_of(path) },
                _ => match unsupported_format(path) {
                    Some(format) => RepoError::UnsupportedFormat { path: path.to_owned(), format },
                    None => git_at("open the repository")(error),
                },
            })?;
        let Some(top) = git.workdir().filter(|_| !git.is_bare()) else {
            return Err(RepoError::Bare { path: path.to_owned() });
        };
        if top.to_str().is_none() {
            return Err(RepoError::NotUtf8 { path: top.to_owned() });
        }
        let top = top.to_owned();
        let common_dir = git.commondir().to_owned();
        let repository = Self { top, common_dir, git: Mutex::new(git) };
        repository.head()?;
        Ok(repository)
    }

    /// The top of the working tree that was opened, absolute.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The folder with objects and references, absolute (`.git` of the main working tree).
    pub fn git_dir(&self) -> &Path {
        &self.common_dir
    }

    /// The handle. A panic under the lock leaves nothing half-done in it, so a poisoned one is used on.
    pub(crate) fn git(&self) -> MutexGuard<'_, Git> {
        self.git.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The commit that HEAD names now.
    ///
    /// # Errors
    /// [`RepoError::NoCommit`] while there is none, [`RepoError::Git`] when it cannot be read.
    pub fn head(&self) -> Result<CommitId, RepoError> {
        let git = self.git();
        let head = git.head().map_err(|error| match error.code() {
            ErrorCode::UnbornBranch | ErrorCode::NotFound => RepoError::NoCommit { path: self.top.clone() },
            _ => git_at("read HEAD")(error),
        })?;
        let commit = head.peel_to_commit().map_err(git_at("read the commit of HEAD"))?;
        Ok(commit_id(commit.id()))
    }

    /// Who the user's git configuration says commits here; Steadfast's own identity for what it does not say.
    pub fn identity(&self) -> Author {
        identity(&self.git())
    }

    /// Where a branch (short name, e.g. `steadfast/002-feature`) is; `None` when it does not exist.
    ///
    /// # Errors
    /// [`RepoError::Git`] when the reference cannot be read.
    pub fn branch_tip(&self, branch: &str) -> Result<Option<CommitId>, RepoError> {
        Ok(refs::tip(&self.git(), branch)?.map(commit_id))
    }

    /// A branch name for an idea that nothing uses yet: `steadfast/<id>`, or with `-2`, `-3`, … at its end. Nothing is
    /// created: [`Repository::add_worktree`] does that, and it is then that a race for the name is lost or won.
    ///
    /// # Errors
    /// [`RepoError::BranchBlocked`] when a branch called `steadfast` exists, so that no name below it can, or when 1,000 names
    /// are taken.
    pub fn free_branch(&self, idea: &IdeaId) -> Result<String, RepoError> {
        let git = self.git();
        let blocked =
            |branch: String, reason: &str| Err(RepoError::BranchBlocked { branch, reason: reason.to_owned() });
        let first = format!("steadfast/{idea}");
        if git.find_reference("refs/heads/steadfast").is_ok() {
            return blocked(first, "a branch called steadfast exists; rename it");
        }
        for n in 1..=MAX_BRANCHES_OF_AN_IDEA {
            let name = if n == 1 { first.clone() } else { format!("{first}-{n}") };
            let full = refs::full_name(&name);
            let free = matches!(git.find_reference(&full), Err(error) if error.code() == ErrorCode::NotFound);
            let mut below = git.references_glob(&format!("{full}/*")).map_err(git_at("list branches"))?;
            if free && below.next().is_none() {
                return Ok(name);
            }
        }
        blocked(first, "all names up to -1000 are taken")
    }

    /// Whether the commit is in the repository.
    pub fn has_commit(&self, commit: &CommitId) -> bool {
        Oid::from_str(commit.as_str()).is_ok_and(|id| self.git().find_commit(id).is_ok())
    }

    /// The files of a commit, at most `max_entries` of them.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`], or [`RepoError::Git`] for a damaged repository.
    pub fn tree(&self, commit: &CommitId, max_entries: usize) -> Result<Listing, RepoError> {
        let git = self.git();
        let top = find_commit(&git, commit)?.tree_id();
        let odb = git.odb().map_err(git_at("open the object store"))?;
        let mut listing = Listing::default();
        list(&git, &odb, top, "", max_entries, &mut listing)?;
        Ok(listing)
    }

    /// The content of a regular file in a commit; `None` when the path is not there or is a directory or a submodule.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`]; [`RepoError::File`] for a symbolic link or more than `max_bytes`; [`RepoError::Git`]
    /// for a damaged repository.
    pub fn read(&self, commit: &CommitId, path: &RepoPath, max_bytes: u64) -> Result<Option<Vec<u8>>, RepoError> {
        let git = self.git();
        let tree = find_commit(&git, commit)?.tree().map_err(git_at("read a tree"))?;
        let entry = match tree.get_path(Path::new(path.as_str())) {
            Ok(entry) => entry,
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(git_at("read a tree")(error)),
        };
        match kind(entry.filemode_raw()) {
            Some(EntryKind::File | EntryKind::Executable) => {}
            Some(EntryKind::Symlink) => {
                return Err(FileError::SymbolicLink { path: path.clone(), link: path.to_string() }.into());
            }
            Some(EntryKind::Submodule) | None => return Ok(None),
        }
        let odb = git.odb().map_err(git_at("open the object store"))?;
        let (size, _) = odb.read_header(entry.id()).map_err(git_at("read a file"))?;
        if size as u64 > max_bytes {
            return Err(FileError::TooLarge { path: path.clone(), size: size as u64, limit: max_bytes }.into());
        }
        let object = odb.read(entry.id()).map_err(git_at("read a file"))?;
        Ok(Some(object.data().to_vec()))
    }

    /// Makes a commit whose files are those of `parent` with `changes` laid over them, and makes it durable: when this
    /// returns, the commit and all that it adds survive a power cut. No branch moves; that is [`Repository::advance`].
    ///
    /// The same arguments give the same commit, so a repetition after a crash does no harm. The date is in UTC. Contents are
    /// stored as given, whatever `.gitattributes` or `core.autocrlf` say. A path named twice: the last one counts.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`] (the parent); [`RepoError::File`] when a change does not fit the parent's files (a
    /// directory, a symbolic link or a file in its way); [`RepoError::Io`] when the disk does not take it. No commit is made then.
    pub fn commit_files(
        &self,
        parent: &CommitId,
        changes: &[(RepoPath, FileChange)],
        message: &str,
        author: &Author,
        time_unix_s: i64,
    ) -> Result<CommitId, RepoError> {
        let (id, objects) = self.build(parent, changes, message, author, time_unix_s)?;
        store_durably(&objects_dir(&self.common_dir), &objects, None)?;
        Ok(commit_id(id))
    }

    /// The commit with all that it adds, not stored yet. The handle's lock is not held while the disk works.
    fn build(
        &self,
        parent: &CommitId,
        changes: &[(RepoPath, FileChange)],
        message: &str,
        author: &Author,
        time_unix_s: i64,
    ) -> Result<(Oid, Vec<NewObject>), RepoError> {
        let mut objects = Vec::new();
        let git = self.git();
        let parent = find_commit(&git, parent)?;
        let tree = build_tree(&git, parent.tree_id(), changes, &mut objects)?;
        let commit = build_commit(tree, parent.id(), author, time_unix_s, message)?;
        let id = commit.id;
        objects.push(commit);
        Ok((id, objects))
    }

    /// [`Repository::commit_files`] and [`Repository::advance`] from its parent in one, which saves the disk one of four
    /// round trips. For a caller that has saved everything that the commit is made of, so that it can be repeated: a
    /// repetition does no harm. `None`: the changes make no difference to the files of `parent`, and there is nothing to commit.
    ///
    /// # Errors
    /// As of both. On [`RepoError::ForeignCommit`] nothing was stored.
    pub fn commit_and_advance(
        &self,
        branch: &str,
        parent: &CommitId,
        changes: &[(RepoPath, FileChange)],
        message: &str,
        author: &Author,
        time_unix_s: i64,
    ) -> Result<Option<CommitId>, RepoError> {
        let (id, objects) = self.build(parent, changes, message, author, time_unix_s)?;
        // The commit itself and nothing else that is new: its tree is its parent's.
        if objects.len() == 1 {
            return Ok(None);
        }
        let identity = self.identity();
        let change = branch_move(branch, Some(oid(parent)?), id, &identity, MILESTONE_NOTE)?;
        // Not held as a temporary: the disk works in between.
        let begun = refs::begin(&self.git(), &change)?;
        let moved = match begun {
            Begun::Over(moved) => moved,
            Begun::Ready(locked) => {
                store_durably(&objects_dir(&self.common_dir), &objects, Some(locked.file()))?;
                refs::finish(&self.git(), &change, locked)?;
                Moved::Done
            }
        };
        moved_or_foreign(moved, branch, parent)?;
        Ok(Some(commit_id(id)))
    }

    /// Moves a branch from one commit to another, if it still is at the first, and makes that durable. A branch that is at
    /// `to` already is fine, so a repetition does no harm.
    ///
    /// # Errors
    /// [`RepoError::ForeignCommit`] when it is elsewhere or gone (it is left alone), [`RepoError::UnknownCommit`] when `to` is
    /// not in the repository, [`RepoError::BranchLocked`] when another git process does not let go of it for 5 seconds,
    /// [`RepoError::Io`].
    pub fn advance(&self, branch: &str, from: &CommitId, to: &CommitId) -> Result<(), RepoError> {
        let git = self.git();
        let (from_id, to_id) = (oid(from)?, find_commit(&git, to)?.id());
        moved_or_foreign(move_branch(&git, branch, Some(from_id), to_id, MILESTONE_NOTE)?, branch, from)
    }

    /// The commits of `branch` after `base`, sorted into those that carry the session's trailers and others. This is how a
    /// session that lost its record finds what it has done.
    ///
    /// # Errors
    /// [`RepoError::UnknownBranch`], [`RepoError::UnknownCommit`] (the base), [`RepoError::Git`] for a damaged repository.
    pub fn commits_of(&self, session: &SessionId, branch: &str, base: &CommitId) -> Result<BranchLog, RepoError> {
        let git = self.git();
        let tip = refs::tip(&git, branch)?.ok_or_else(|| RepoError::UnknownBranch { branch: branch.to_owned() })?;
        let base = find_commit(&git, base)?.id();
        let mut walk = git.revwalk().map_err(git_at("walk the branch"))?;
        let mut log = BranchLog::default();
        let started = walk
            .simplify_first_parent()
            .and_then(|()| walk.set_sorting(git2::Sort::TOPOLOGICAL | git2::Sort::REVERSE))
            .and_then(|()| walk.push(tip))
            .and_then(|()| walk.hide(base));
        started.map_err(git_at("walk the branch"))?;
        for id in walk {
            let id = id.map_err(git_at("walk the branch"))?;
            let commit = git.find_commit(id).map_err(git_at("read a commit"))?;
            match milestone_of(&commit, session) {
                Some(milestone) => log.ours.push(MilestoneCommit { id: commit_id(id), milestone }),
                None => log.foreign.push(commit_id(id)),
            }
        }
        Ok(log)
    }

    /// The local branches below `steadfast/` whose newest commit names a session, with that session, by name. This is how a
    /// session that lost its record is found again by a person.
    ///
    /// # Errors
    /// [`RepoError::Git`] for a damaged repository.
    pub fn session_branches(&self) -> Result<Vec<(String, SessionId)>, RepoError> {
        let git = self.git();
        let branches = git.branches(Some(git2::BranchType::Local)).map_err(git_at("list the branches"))?;
        let mut found = Vec::new();
        for branch in branches {
            let (branch, _) = branch.map_err(git_at("list the branches"))?;
            let Some(name) = branch.name().ok().flatten().map(str::to_owned) else { continue };
            let tip = branch.get().peel_to_commit().ok().filter(|_| name.starts_with("steadfast/"));
            let session = tip.and_then(|commit| last_trailer(&commit, SESSION_TRAILER));
            if let Some(session) = session.and_then(|session| SessionId::parse(&session).ok()) {
                found.push((name, session));
            }
        }
        found.sort();
        Ok(found)
    }

    /// A commit message: `title` (its first line, cut to 72 characters), `body` (may be empty) and the trailers that
    /// [`Repository::commits_of`] looks for. `milestone` counts from 1.
    pub fn milestone_message(title: &str, body: &str, session: &SessionId, milestone: u32) -> String {
        let line = title.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("Milestone");
        let title: String = line.chars().take(72).collect();
        let body = body.trim();
        let gap = if body.is_empty() { "" } else { "\n\n" };
        format!("{title}{gap}{body}\n\n{SESSION_TRAILER}: {session}\n{MILESTONE_TRAILER}: {milestone}\n")
    }
}

/// Moves the branch in the name of the configured identity, now.
pub(crate) fn move_branch(git: &Git, branch: &str, from: Option<Oid>, to: Oid, note: &str) -> Result<Moved, RepoError> {
    let author = identity(git);
    refs::compare_and_set(git, &branch_move(branch, from, to, &author, note)?)
}

fn branch_move<'a>(
    branch: &'a str,
    from: Option<Oid>,
    to: Oid,
    author: &'a Author,
    note: &'a str,
) -> Result<Move<'a>, RepoError> {
    if !git2::Reference::is_valid_name(&refs::full_name(branch)) {
        let reason = "it is no valid name".to_owned();
        return Err(RepoError::BranchBlocked { branch: branch.to_owned(), reason });
    }
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let unix_s = i64::try_from(since_1970.as_secs()).unwrap_or(0);
    Ok(Move { branch, from, to, author, unix_s, note })
}

fn moved_or_foreign(moved: Moved, branch: &str, expected: &CommitId) -> Result<(), RepoError> {
    match moved {
        Moved::Done => Ok(()),
        Moved::Elsewhere(found) => Err(RepoError::ForeignCommit {
            branch: branch.to_owned(),
            expected: expected.clone(),
            found: found.map(commit_id),
        }),
    }
}

fn identity(git: &Git) -> Author {
    let config = git.config().and_then(|mut config| config.snapshot());
    let value = |key| config.as_ref().ok().and_then(|config| config.get_str(key).ok()).unwrap_or("");
    Author::new(value("user.name"), value("user.email"))
}

pub(crate) fn oid(commit: &CommitId) -> Result<Oid, RepoError> {
    Oid::from_str(commit.as_str()).map_err(|_| RepoError::UnknownCommit { commit: commit.clone() })
}

pub(crate) fn find_commit<'a>(git: &'a Git, commit: &CommitId) -> Result<git2::Commit<'a>, RepoError> {
    git.find_commit(oid(commit)?).map_err(|error| match error.code() {
        ErrorCode::NotFound => RepoError::UnknownCommit { commit: commit.clone() },
        _ => git_at("read a commit")(error),
    })
}

fn kind(mode: i32) -> Option<EntryKind> {
    match mode & 0o170_000 {
        0o100_000 if mode & 0o111 == 0 => Some(EntryKind::File),
        0o100_000 => Some(EntryKind::Executable),
        0o120_000 => Some(EntryKind::Symlink),
        0o160_000 => Some(EntryKind::Submodule),
        _ => None,
    }
}

fn list(
    git: &Git,
    odb: &git2::Odb<'_>,
    tree: Oid,
    above: &str,
    max_entries: usize,
    listing: &mut Listing,
) -> Result<(), RepoError> {
    let tree = git.find_tree(tree).map_err(git_at("read a tree"))?;
    for entry in &tree {
        let Ok(name) = entry.name() else { continue };
        let path = format!("{above}{name}");
        let Some(kind) = kind(entry.filemode_raw()) else {
            list(git, odb, entry.id(), &format!("{path}/"), max_entries, listing)?;
            continue;
        };
        if listing.entries.len() >= max_entries {
            listing.truncated = true;
            return Ok(());
        }
        let size = match kind {
            EntryKind::Submodule => 0,
            // A partial clone may lack the object: the file is listed all the same.
            _ => odb.read_header(entry.id()).map_or(0, |(size, _)| size as u64),
        };
        listing.entries.push(TreeEntry { path, size, kind });
    }
    Ok(())
}

/// The milestone, when the commit's trailers name this session. Of a trailer that stands there twice the last one counts:
/// ours come after a body that a model wrote.
fn milestone_of(commit: &git2::Commit<'_>, session: &SessionId) -> Option<u32> {
    let named = last_trailer(commit, SESSION_TRAILER)?;
    if named == session.as_str() { last_trailer(commit, MILESTONE_TRAILER)?.parse().ok() } else { None }
}

fn last_trailer(commit: &git2::Commit<'_>, name: &str) -> Option<String> {
    let trailers = git2::message_trailers_strs(commit.message().ok()?).ok()?;
    let mut all = trailers.iter().filter(|(key, _)| *key == name);
    all.next_back().map(|(_, value)| value.to_owned())
}

/// The top of a repository that cannot be opened, as `safe.directory` has to name it.
fn top_of(path: &Path) -> PathBuf {
    let no_ceiling: [&Path; 0] = [];
    let absolute = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match Git::discover_path(&absolute, no_ceiling) {
        Ok(git_dir) if git_dir.ends_with(".git") => git_dir.parent().map_or(absolute, Path::to_owned),
        Ok(_) | Err(_) => absolute,
    }
}

/// The setting that keeps libgit2 from opening a repository, if one is known to.
fn unsupported_format(path: &Path) -> Option<String> {
    let no_ceiling: [&Path; 0] = [];
    let git_dir = Git::discover_path(path, no_ceiling).ok()?;
    let common =
        std::fs::read_to_string(git_dir.join("commondir")).map_or(git_dir.clone(), |to| git_dir.join(to.trim()));
    let config = git2::Config::open(&common.join("config")).ok()?;
    let settings = [("extensions.objectformat", "sha1"), ("extensions.refstorage", "files")];
    settings.iter().find_map(|(name, usual)| {
        let value = config.get_string(name).ok()?;
        (value != *usual).then(|| format!("{name} = {value}"))
    })
}
