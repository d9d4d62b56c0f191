//! A new repository around files that lie there already: for the demo and for trying things out.

use std::path::Path;

use git2::{IndexAddOption, RepositoryInitOptions, Signature};

use crate::error::{RepoError, git_at};
use crate::repository::Repository;

impl Repository {
    /// Makes `dir` a repository with branch `main` and commits everything in it, as Steadfast itself. Runs no hook and
    /// uses no template of the machine.
    ///
    /// # Errors
    /// [`RepoError::Git`] when it is one already or cannot be written.
    pub fn init_with_files(dir: &Path, message: &str) -> Result<Self, RepoError> {
        let failed = |what| git_at(what);
        let mut options = RepositoryInitOptions::new();
        options.no_reinit(true).initial_head("main").external_template(false);
        let git = git2::Repository::init_opts(dir, &options).map_err(failed("make a repository"))?;
        let mut index = git.index().map_err(failed("open the index"))?;
        index
            .add_all(["*"], IndexAddOption::DEFAULT, None)
            .and_then(|()| index.write())
            .map_err(failed("add the files"))?;
        let tree = index.write_tree().and_then(|id| git.find_tree(id)).map_err(failed("write a tree"))?;
        let who = Signature::now("Steadfast", "steadfast@localhost").map_err(failed("sign a commit"))?;
        git.commit(Some("HEAD"), &who, &who, message, &tree, &[]).map_err(failed("commit"))?;
        drop(tree);
        drop(index);
        Self::open(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_files_becomes_a_repository_with_one_commit_and_a_clean_checkout() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        std::fs::write(dir.path().join("src/a.c"), "int a;\n").unwrap();
        let repository = Repository::init_with_files(dir.path(), "Begin").unwrap();
        let listing = repository.tree(&repository.head().unwrap(), 10).unwrap();
        assert_eq!(listing.entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["src/a.c"]);
        assert!(Repository::init_with_files(dir.path(), "Again").is_err());
        let git = git2::Repository::open(dir.path()).unwrap();
        assert!(git.statuses(None).unwrap().is_empty());
    }
}
