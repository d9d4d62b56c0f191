//! Why something in a repository could not be done.

use std::io;
use std::path::{Path, PathBuf};

use steadfast_core::ids::{CommitId, RepoPath};

/// What libgit2 said, without its types. Its text is for a person; nothing reads it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct GitError {
    message: String,
}

impl From<git2::Error> for GitError {
    fn from(error: git2::Error) -> Self {
        Self { message: error.message().to_owned() }
    }
}

/// Why a file inside a worktree or a commit could not be read or written. Nothing has been changed when it is returned.
///
/// All but [`FileError::Io`] are faults of the path or the content, so that the file agent fails and the session goes on.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A part of the path, or the file itself, is a symbolic link.
    #[error("{path} is refused: {link} is a symbolic link")]
    SymbolicLink {
        /// The path as asked for.
        path: RepoPath,
        /// The part that is a link.
        link: String,
    },
    /// A directory stands where the file should be.
    #[error("{path} is a directory")]
    IsDirectory {
        /// The path as asked for.
        path: RepoPath,
    },
    /// A file stands where a directory of the path should be.
    #[error("{path} cannot exist: {file} is a file")]
    ParentIsFile {
        /// The path as asked for.
        path: RepoPath,
        /// The parent that is a file.
        file: String,
    },
    /// The path is a submodule or lies in one: its files belong to another repository.
    #[error("{path} is refused: {submodule} is a submodule")]
    Submodule {
        /// The path as asked for.
        path: RepoPath,
        /// The part that is the submodule.
        submodule: String,
    },
    /// A device, socket or pipe.
    #[error("{path} is no regular file")]
    Special {
        /// The path as asked for.
        path: RepoPath,
    },
    /// The file is larger than the caller accepts.
    #[error("{path} has {size} bytes, more than the {limit} that are accepted")]
    TooLarge {
        /// The path as asked for.
        path: RepoPath,
        /// Its size in bytes.
        size: u64,
        /// What the caller accepts, in bytes.
        limit: u64,
    },
    /// The file is not UTF-8 or has a NUL in it, so it is no text.
    #[error("{path} is no text: it is not UTF-8, or has a NUL in it")]
    NotText {
        /// The path as asked for.
        path: RepoPath,
    },
    /// The machine's fault: no room, no permission, a bad disk.
    #[error("cannot {what} {path}")]
    Io {
        /// What was being done: `read`, `write`, `delete`.
        what: &'static str,
        /// The path as asked for.
        path: RepoPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// Nothing lies at the path.
    #[error("{path} does not exist")]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The path lies in no git repository.
    #[error("{path} is in no git repository: run `git init` and commit something first")]
    NoRepository {
        /// The path as given.
        path: PathBuf,
    },
    /// The repository has no working tree.
    #[error("{path} is a bare repository: give the path of a clone with a working tree")]
    Bare {
        /// The path as given.
        path: PathBuf,
    },
    /// HEAD names no commit yet.
    #[error("{path} has no commit yet: commit something first")]
    NoCommit {
        /// The top of the repository.
        path: PathBuf,
    },
    /// The repository uses a format that libgit2 does not read.
    #[error("{path} uses {format}, which is not supported")]
    UnsupportedFormat {
        /// The path as given.
        path: PathBuf,
        /// The setting of the repository that asks for it, as `name = value`.
        format: String,
    },
    /// The repository belongs to another user, so git's own safety rule refuses it.
    #[error(
        "{path} belongs to another user; if you trust it, run `git config --global --add safe.directory '{top}'` as the user that runs this program"
    )]
    UnsafeOwner {
        /// The path as given.
        path: PathBuf,
        /// The repository's top, absolute: git compares nothing else.
        top: PathBuf,
    },
    /// The repository's path could not be kept in a record, which is text.
    #[error("{path} is no UTF-8 text, which the path of a repository has to be: rename the folder")]
    NotUtf8 {
        /// The repository's top.
        path: PathBuf,
    },
    /// The commit is not in the repository, or the id names something else than a commit.
    #[error("commit {commit} is not in the repository")]
    UnknownCommit {
        /// The id as given.
        commit: CommitId,
    },
    /// The branch does not exist.
    #[error("branch {branch} does not exist")]
    UnknownBranch {
        /// The branch's name.
        branch: String,
    },
    /// No branch of that name can be created.
    #[error("branch {branch} cannot be created: {reason}")]
    BranchBlocked {
        /// The branch's name.
        branch: String,
        /// What stands in its way.
        reason: String,
    },
    /// Somebody else moved or removed the branch. It was left as it is.
    #[error("branch {branch} was expected at {expected}, but {}", found_text(.found.as_ref()))]
    ForeignCommit {
        /// The branch's name.
        branch: String,
        /// Where it should have been.
        expected: CommitId,
        /// Where it is; `None`: it is gone.
        found: Option<CommitId>,
    },
    /// Another process holds the branch's lock file and did not let go of it in time.
    #[error("branch {branch} is locked by {lock}: remove that file if no git command is running")]
    BranchLocked {
        /// The branch's name.
        branch: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// The folder for a worktree holds something that is no worktree of this repository.
    #[error("{dir} cannot become a worktree: it exists and holds other files")]
    WorktreeOccupied {
        /// The folder.
        dir: PathBuf,
    },
    /// A change cannot be applied to the parent's files.
    #[error("a change does not fit")]
    File(#[from] FileError),
    /// A file of the repository or the worktree could not be handled: no room, no permission, a bad disk.
    #[error("cannot {what} {path}")]
    Io {
        /// What was being done, e.g. `create`, `sync`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// libgit2 could not do it: a damaged repository, as a rule.
    #[error("git could not {what}")]
    Git {
        /// What was being done.
        what: &'static str,
        /// What libgit2 said.
        #[source]
        source: GitError,
    },
}

fn found_text(found: Option<&CommitId>) -> String {
    found.map_or_else(|| "is gone".to_owned(), |id| format!("is at {id}"))
}

/// Adds what was being done and to which file.
pub(crate) fn io_at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RepoError + 'a {
    move |source| RepoError::Io { what, path: path.to_owned(), source }
}

/// Adds what libgit2 was asked for.
pub(crate) fn git_at(what: &'static str) -> impl FnOnce(git2::Error) -> RepoError {
    move |source| RepoError::Git { what, source: source.into() }
}
