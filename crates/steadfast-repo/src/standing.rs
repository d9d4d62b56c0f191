//! What people may have done with a branch since a session left it: looked at before anything is added to it.

use std::fs;
use std::path::Path;

use steadfast_core::ids::CommitId;

use crate::error::{RepoError, git_at};
use crate::refs::{self, commit_id};
use crate::repository::{Repository, find_commit, oid};

/// How a branch stands that a session is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it was left, and nobody works with it.
    AsLeft,
    /// It does not exist any more.
    Gone,
    /// It is at another commit.
    Moved(CommitId),
    /// Another branch, or HEAD, holds its last commit.
    PartOf(String),
    /// It is checked out: a commit on it would make the files there look changed.
    CheckedOut,
}

impl Repository {
    /// How `branch` stands, which was left at `tip`. `own`: a worktree that does not count as somebody's; it need not exist.
    /// A branch that holds nothing but the commits it began with (`tip` is `base`) is part of others by nature, and
    /// [`Standing::PartOf`] is not looked for then.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`] (the tip), [`RepoError::Git`] for a damaged repository.
    pub fn standing(&self, branch: &str, tip: &CommitId, base: &CommitId, own: &Path) -> Result<Standing, RepoError> {
        let git = self.git();
        match refs::tip(&git, branch)?.map(commit_id) {
            None => return Ok(Standing::Gone),
            Some(found) if found != *tip => return Ok(Standing::Moved(found)),
            Some(_) => {}
        }
        let full = refs::full_name(branch);
        if head_names(&git.path().join("HEAD"), &full) || head_names(&self.git_dir().join("HEAD"), &full) {
            return Ok(Standing::CheckedOut);
        }
        let worktrees = fs::read_dir(self.git_dir().join("worktrees")).into_iter().flatten().flatten();
        for admin in worktrees.map(|entry| entry.path()) {
            // The folder that it belongs to, as git writes it: the path of its `.git`.
            let dir = fs::read_to_string(admin.join("gitdir")).unwrap_or_default();
            let is_own = Path::new(dir.trim()).parent().is_some_and(|dir| dir == own);
            if !is_own && head_names(&admin.join("HEAD"), &full) {
                return Ok(Standing::CheckedOut);
            }
        }
        if tip == base {
            return Ok(Standing::AsLeft);
        }
        let tip = find_commit(&git, tip)?.id();
        let holds = |other| -> Result<bool, RepoError> {
            let is_after = git.graph_descendant_of(other, tip).map_err(git_at("compare commits"))?;
            Ok(other == tip || is_after)
        };
        if let Some(head) = git.head().ok().and_then(|head| head.peel_to_commit().ok())
            && holds(head.id())?
        {
            return Ok(Standing::PartOf("HEAD".to_owned()));
        }
        let branches = git.branches(Some(git2::BranchType::Local)).map_err(git_at("list the branches"))?;
        for other in branches {
            let (other, _) = other.map_err(git_at("list the branches"))?;
            let Some(name) = other.name().ok().flatten().map(str::to_owned) else { continue };
            let Some(commit) = other.get().peel_to_commit().ok().filter(|_| name != branch) else { continue };
            if holds(commit.id())? {
                return Ok(Standing::PartOf(format!("branch {name}")));
            }
        }
        Ok(Standing::AsLeft)
    }

    /// The first parent of a commit; `None` for one without.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`], [`RepoError::Git`].
    pub fn parent(&self, commit: &CommitId) -> Result<Option<CommitId>, RepoError> {
        oid(commit)?;
        let git = self.git();
        let found = find_commit(&git, commit)?;
        Ok(found.parent_ids().next().map(commit_id))
    }
}

/// Whether a HEAD file names this branch.
fn head_names(head: &Path, full_name: &str) -> bool {
    let text = fs::read_to_string(head).unwrap_or_default();
    text.trim().strip_prefix("ref:").is_some_and(|name| name.trim() == full_name)
}

#[cfg(test)]
mod tests {
    use steadfast_core::ids::RepoPath;

    use super::*;
    use crate::{Author, FileChange};

    struct Left {
        dir: tempfile::TempDir,
        repository: Repository,
        base: CommitId,
        tip: CommitId,
    }

    const BRANCH: &str = "steadfast/002-feature";

    /// A branch with one commit of a session.
    fn left() -> Left {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("repo");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("README.md"), "# Before\n").unwrap();
        let repository = Repository::init_with_files(&top, "Begin").unwrap();
        let base = repository.head().unwrap();
        repository.add_branch(BRANCH, &base).unwrap();
        let tip = commit(&repository, &base, "a.md");
        repository.advance(BRANCH, &base, &tip).unwrap();
        Left { dir, repository, base, tip }
    }

    fn commit(repository: &Repository, parent: &CommitId, path: &str) -> CommitId {
        let change = [(RepoPath::new(path).unwrap(), FileChange::Write(b"text\n".to_vec()))];
        repository.commit_files(parent, &change, "One more\n", &Author::new("Ada", "ada@example.org"), 7).unwrap()
    }

    impl Left {
        fn standing(&self) -> Standing {
            self.repository.standing(BRANCH, &self.tip, &self.base, &self.dir.path().join("own")).unwrap()
        }
    }

    #[test]
    fn a_branch_that_nobody_touched_stands_as_it_was_left() {
        let left = left();
        assert_eq!(left.standing(), Standing::AsLeft);
        assert_eq!(left.repository.parent(&left.tip).unwrap(), Some(left.base.clone()));
        assert_eq!(left.repository.parent(&left.base).unwrap(), None);
    }

    #[test]
    fn a_persons_commit_and_a_deleted_branch_are_seen() {
        let left = left();
        let theirs = commit(&left.repository, &left.tip, "b.md");
        left.repository.advance(BRANCH, &left.tip, &theirs).unwrap();
        assert_eq!(left.standing(), Standing::Moved(theirs));
        left.repository.git().find_reference(&refs::full_name(BRANCH)).unwrap().delete().unwrap();
        assert_eq!(left.standing(), Standing::Gone);
    }

    #[test]
    fn a_merged_branch_is_seen_also_after_a_commit_on_top() {
        let left = left();
        let theirs = commit(&left.repository, &left.tip, "b.md");
        left.repository.add_branch("main-2", &theirs).unwrap();
        assert_eq!(left.standing(), Standing::PartOf("branch main-2".to_owned()));
    }

    #[test]
    fn a_branch_that_is_checked_out_is_seen_but_for_our_own_worktree() {
        let left = left();
        let own = left.repository.add_worktree(&left.dir.path().join("own"), BRANCH, &left.base).unwrap();
        assert_eq!(left.standing(), Standing::AsLeft);
        left.repository.remove_worktree(own.dir()).unwrap();
        left.repository.add_worktree(&left.dir.path().join("theirs"), BRANCH, &left.base).unwrap();
        assert_eq!(left.standing(), Standing::CheckedOut);
    }

    #[test]
    fn a_branch_that_the_user_is_on_is_seen() {
        let left = left();
        left.repository.git().set_head(&refs::full_name(BRANCH)).unwrap();
        assert_eq!(left.standing(), Standing::CheckedOut);
    }
}
