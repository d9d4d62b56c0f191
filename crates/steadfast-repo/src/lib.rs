//! The user's git repository and what a session does in it: a worktree and branch of its own, confined file access,
//! durable commits, the operator's checks, and the basic static checks that stand in for a reviewer.
//!
//! Rules that hold everywhere in here:
//! - The user's checkout (HEAD, index, working files) is never written. A session touches only its own worktree, its own
//!   branch, and the object store.
//! - No hook, filter, file system monitor, credential helper or signing program is ever run: git is libgit2, in this
//!   process. Blobs are kept as given: no line-ending conversion, no LFS. What is read from a worktree and what is read from
//!   a commit are the same bytes.
//! - Nothing is read or written through a symbolic link.
//!
//! Everything blocks, except [`checks::run_check`]; async callers use a blocking task.
//!
//! Must not know: models, phases of a session, actors.

pub mod checks;
mod confined;
mod diff;
mod draft;
mod error;
mod exclude;
mod objects;
mod pack;
mod refs;
mod repository;
mod sample;
pub mod sandbox;
mod standing;
pub mod static_checks;
mod worktree;

pub use draft::Draft;
pub use error::{FileError, GitError, RepoError};
pub use exclude::{Exclude, ExcludeError};
pub use objects::{Author, FileChange};
pub use repository::{BranchLog, EntryKind, Listing, MilestoneCommit, Repository, TreeEntry};
pub use standing::Standing;
pub use worktree::Worktree;

/// The version of libgit2 in this program, e.g. `1.9.1`. No git program is ever run.
pub fn git_version() -> String {
    let (major, minor, revision) = git2::Version::get().libgit2_version();
    format!("{major}.{minor}.{revision}")
}
