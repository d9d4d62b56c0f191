//! A session's files where no command needs them on a disk: those of a commit, with what was written laid over them in
//! memory. A large repository is not checked out then, and nothing is left behind to be removed.
//!
//! Invariant: it accepts and refuses what a [`crate::Worktree`] of the same commit would.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use git2::{ObjectType, Oid};
use steadfast_core::ids::{CommitId, RepoPath};
use steadfast_fault_point::{self as fault_point, Point};

use crate::diff;
use crate::error::{FileError, RepoError, git_at};
use crate::objects::LINK;
use crate::repository::{Repository, find_commit};
use crate::worktree::{MAX_DIFF_FILE_BYTES, MAX_REPLACED_BYTES, is_text};

/// What lies over the commit: a path's new bytes, or `None` where the file goes.
type Laid = BTreeMap<String, Option<Vec<u8>>>;

/// The files of one session, in memory. May be shared between threads; its methods block and take turns.
#[derive(Debug)]
pub struct Draft {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    commit: CommitId,
    laid: Laid,
}

/// Where a file's bytes are.
enum Found<'a> {
    Laid(&'a [u8]),
    Stored(Oid),
}

impl Draft {
    /// The files of a commit.
    pub fn of(commit: &CommitId) -> Self {
        Self { state: Mutex::new(State { commit: commit.clone(), laid: Laid::new() }) }
    }

    /// A panic under the lock leaves at most one file's entry behind, so a poisoned one is used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the files those of `commit`; what was written is forgotten.
    pub fn reset_to(&self, commit: &CommitId) {
        *self.state() = State { commit: commit.clone(), laid: Laid::new() };
    }

    /// Whether a text may take this path's place; see [`crate::Worktree::may_write`].
    ///
    /// # Errors
    /// [`FileError`], of the same kinds as there.
    pub fn may_write(&self, repository: &Repository, path: &RepoPath) -> Result<(), FileError> {
        let git = repository.git();
        let state = self.state();
        let Some(found) = state.find(&git, path)? else { return Ok(()) };
        let bytes = read(&git, path, found, MAX_REPLACED_BYTES)?;
        if is_text(&bytes) { Ok(()) } else { Err(FileError::NotText { path: path.clone() }) }
    }

    /// Replaces the file's content.
    ///
    /// # Errors
    /// [`FileError`] for a symbolic link, directory, submodule or file in the way.
    pub fn write(&self, repository: &Repository, path: &RepoPath, bytes: &[u8]) -> Result<(), FileError> {
        let git = repository.git();
        let mut state = self.state();
        state.find(&git, path)?;
        state.laid.insert(path.as_str().to_owned(), Some(bytes.to_vec()));
        fault_point::reach(Point::RepoDraftWritten);
        Ok(())
    }

    /// Removes the file. Whether it was there. A symbolic link itself may be removed.
    ///
    /// # Errors
    /// [`FileError`] for a directory, or a symbolic link or submodule on the way.
    pub fn delete(&self, repository: &Repository, path: &RepoPath) -> Result<bool, FileError> {
        let git = repository.git();
        let mut state = self.state();
        let existed = match state.find(&git, path) {
            Ok(found) => found.is_some(),
            Err(FileError::SymbolicLink { link, .. }) if link == path.as_str() => true,
            Err(FileError::ParentIsFile { .. }) => false,
            Err(error) => return Err(error),
        };
        if existed {
            state.laid.insert(path.as_str().to_owned(), None);
        }
        Ok(existed)
    }

    /// A unified diff from `base`; see [`crate::Worktree::diff`].
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`], [`RepoError::Git`].
    pub fn diff(
        &self,
        repository: &Repository,
        base: &CommitId,
        paths: &[RepoPath],
        context_lines: u32,
        max_bytes: usize,
    ) -> Result<String, RepoError> {
        let git = repository.git();
        let state = self.state();
        let now = |path: &RepoPath| match state.find(&git, path) {
            Ok(Some(found)) => read(&git, path, found, MAX_DIFF_FILE_BYTES).map(Some),
            Ok(None) | Err(FileError::ParentIsFile { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        diff::of_paths(&git, base, paths, now, context_lines, max_bytes)
    }
}

impl State {
    /// The file at a path; `None` when nothing is there. A thing in its way is an error.
    fn find(&self, git: &git2::Repository, path: &RepoPath) -> Result<Option<Found<'_>>, FileError> {
        let text = path.as_str();
        // `None`: the commit has nothing here.
        let mut tree =
            Some(find_commit(git, &self.commit).and_then(|commit| commit.tree().map_err(git_at("read a tree"))));
        for end in text.match_indices('/').map(|(at, _)| at).chain([text.len()]) {
            let (part, is_last) = (&text[..end], end == text.len());
            let directory = match tree.take().transpose().map_err(|error| no_git(path, error))? {
                _ if self.laid.contains_key(part) => None,
                other => other,
            };
            match self.laid.get(part) {
                Some(Some(bytes)) if is_last => return Ok(Some(Found::Laid(bytes))),
                Some(Some(_)) => return Err(FileError::ParentIsFile { path: path.clone(), file: part.to_owned() }),
                Some(None) | None => {}
            }
            let name = part.rsplit('/').next().unwrap_or(part);
            let entry = directory.as_ref().and_then(|tree| tree.get_name(name));
            match entry.as_ref().map(|entry| (entry.kind(), entry.filemode_raw(), entry.id())) {
                None if is_last && self.lies_below(part) => return Err(FileError::IsDirectory { path: path.clone() }),
                None => {}
                Some((Some(ObjectType::Tree), _, id)) => {
                    let below = git.find_tree(id).map_err(git_at("read a tree"));
                    if !is_last {
                        tree = Some(below);
                        continue;
                    }
                    let below = below.map_err(|error| no_git(path, error))?;
                    if self.lies_below(part) || self.keeps_any(git, &below, part) {
                        return Err(FileError::IsDirectory { path: path.clone() });
                    }
                }
                Some((Some(ObjectType::Blob), LINK, _)) => {
                    return Err(FileError::SymbolicLink { path: path.clone(), link: part.to_owned() });
                }
                Some((Some(ObjectType::Blob), _, id)) if is_last => return Ok(Some(Found::Stored(id))),
                Some((Some(ObjectType::Blob), _, _)) => {
                    return Err(FileError::ParentIsFile { path: path.clone(), file: part.to_owned() });
                }
                Some(_) => return Err(FileError::Submodule { path: path.clone(), submodule: part.to_owned() }),
            }
        }
        Ok(None)
    }

    /// Whether a file was written below a path.
    fn lies_below(&self, path: &str) -> bool {
        let below = format!("{path}/");
        let mut laid = self.laid.range(below.clone()..).take_while(|(at, _)| at.starts_with(&below));
        laid.any(|(_, bytes)| bytes.is_some())
    }

    /// Whether a directory of the commit has anything left that was not deleted.
    fn keeps_any(&self, git: &git2::Repository, tree: &git2::Tree<'_>, path: &str) -> bool {
        tree.iter().any(|entry| {
            let at = format!("{path}/{}", String::from_utf8_lossy(entry.name_bytes()));
            match entry.kind() {
                Some(ObjectType::Tree) => git.find_tree(entry.id()).is_ok_and(|tree| self.keeps_any(git, &tree, &at)),
                _ => !self.laid.contains_key(&at),
            }
        })
    }
}

fn read(git: &git2::Repository, path: &RepoPath, found: Found<'_>, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    let too_large = |size: u64| FileError::TooLarge { path: path.clone(), size, limit: max_bytes };
    match found {
        Found::Laid(bytes) if bytes.len() as u64 > max_bytes => Err(too_large(bytes.len() as u64)),
        Found::Laid(bytes) => Ok(bytes.to_vec()),
        Found::Stored(id) => {
            let odb = git.odb().map_err(|error| no_git(path, error))?;
            let (size, _) = odb.read_header(id).map_err(|error| no_git(path, error))?;
            if size as u64 > max_bytes {
                return Err(too_large(size as u64));
            }
            Ok(odb.read(id).map_err(|error| no_git(path, error))?.data().to_vec())
        }
    }
}

/// A damaged repository, in the words of a file.
fn no_git(path: &RepoPath, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FileError {
    FileError::Io { what: "read", path: path.clone(), source: std::io::Error::other(error) }
}
