//! A repository in a temporary folder, and the git command to look at it with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use steadfast_core::ids::{CommitId, RepoPath, SessionId};
use steadfast_repo::{FileChange, Repository, Worktree};

/// A folder with `repo`, in which one commit is, and room for worktrees beside it.
pub(crate) struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let fixture = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(fixture.top()).unwrap();
        fixture.git(&["init", "-q", "-b", "main"]);
        fixture.write("README.md", "# Sample\n");
        fixture.write("src/a.js", "const a = 1;\nconst b = 2;\n");
        fixture.write("src/b.js", "const c = 3;\n");
        fixture.write("run.sh", "#!/bin/sh\n");
        fixture.write(".gitignore", "target/\n*.log\n");
        fixture.git(&["add", "."]);
        fixture.git(&["update-index", "--chmod=+x", "run.sh"]);
        fixture.git(&["commit", "-q", "-m", "first"]);
        fixture.git(&["checkout", "-q", "."]);
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        // Resolved, because a temporary folder may lie behind a link.
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn top(&self) -> PathBuf {
        self.path("repo")
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let file = self.top().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.top(), arguments)
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::open(&self.top()).unwrap()
    }

    pub(crate) fn head(&self) -> CommitId {
        CommitId::new(&self.git(&["rev-parse", "HEAD"])).unwrap()
    }

    pub(crate) fn worktree(&self, repository: &Repository) -> Worktree {
        repository.add_worktree(&self.path("worktrees/s1"), "steadfast/x", &self.head()).unwrap()
    }

    /// Everything that must not change in the user's checkout: HEAD, index and files.
    pub(crate) fn checkout_state(&self) -> (Vec<u8>, Vec<u8>, String) {
        let git_dir = self.top().join(".git");
        let files = self.git(&["status", "--porcelain", "--ignored"]);
        (fs::read(git_dir.join("HEAD")).unwrap(), fs::read(git_dir.join("index")).unwrap(), files)
    }
}

/// Runs git without the configuration of the machine. Panics when it fails; stdout without the newline at its end.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub(crate) fn path(text: &str) -> RepoPath {
    RepoPath::new(text).unwrap()
}

pub(crate) fn write(text: &str, content: &str) -> (RepoPath, FileChange) {
    (path(text), FileChange::Write(content.as_bytes().to_vec()))
}

pub(crate) fn delete(text: &str) -> (RepoPath, FileChange) {
    (path(text), FileChange::Delete)
}

pub(crate) fn session() -> SessionId {
    SessionId::new(1_700_000_000_000, 7)
}
