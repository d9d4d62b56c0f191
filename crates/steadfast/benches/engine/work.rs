//! The scratch folder: a template repository, a copy of it for each session, and the check that the work was done.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::MILESTONES;

/// The variable from which steadfast takes the model server's key.
pub(crate) const KEY_VARIABLE: &str = "ENGINE_BENCH_KEY";

/// One session to carry.
pub(crate) struct Job {
    /// Its idea's id; the branch is `steadfast/ID`.
    pub(crate) idea: String,
    /// The idea's file.
    pub(crate) file: PathBuf,
    /// A repository of its own.
    pub(crate) repo: PathBuf,
    /// An empty folder of its own, for logs and state.
    pub(crate) dir: PathBuf,
}

/// The scratch folder; it goes when this is dropped.
pub(crate) struct Work {
    dir: tempfile::TempDir,
    template: PathBuf,
    /// The template's only commit.
    base: String,
    /// The tree that everybody must reach, once one has.
    tree: Option<String>,
    /// Jobs made so far, for their names.
    made: usize,
}

impl Work {
    pub(crate) fn new(parent: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let parent = parent.canonicalize()?;
        let dir = tempfile::Builder::new().prefix("eng-").rand_bytes(4).tempdir_in(&parent)?;
        // The daemon's socket lies in its state directory only while its path is short.
        ensure!(
            dir.path().as_os_str().len() <= 70,
            "{} is too long for the daemon's socket; choose a shorter one with `-- --dir DIR`",
            parent.display()
        );
        let template = dir.path().join("template");
        let base = make_template(&template)?;
        Ok(Self { dir, template, base, tree: None, made: 0 })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes `n` sessions, each with a repository, an idea and a folder of its own.
    pub(crate) fn jobs(&mut self, case: &str, n: usize) -> anyhow::Result<Vec<Job>> {
        let mut jobs = Vec::with_capacity(n);
        for _ in 0..n {
            self.made += 1;
            let dir = self.path().join(format!("j{}", self.made));
            fs::create_dir(&dir)?;
            let idea = format!("{case}-{}", self.made);
            let (file, repo) = (dir.join("idea.md"), dir.join("repo"));
            copy(&self.template, &repo)?;
            fs::write(&file, format!("---\nid: {idea}\n---\n# Parts\n\nBuild the parts, a few in each step.\n"))?;
            jobs.push(Job { idea, file, repo, dir });
        }
        Ok(jobs)
    }

    /// Waits until everything written so far is on disk.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.path())?)?)
    }

    /// Has every session done the whole work? Milestones 1 to 5 once each in this order, the same tree as all others.
    pub(crate) fn check(&mut self, jobs: &[Job]) -> anyhow::Result<()> {
        let wanted: Vec<String> = (1..=MILESTONES).map(|milestone| milestone.to_string()).collect();
        for job in jobs {
            let branch = format!("steadfast/{}", job.idea);
            let range = format!("{}..{branch}", self.base);
            let format = "--format=%(trailers:key=Steadfast-Milestone,valueonly,separator=%x2C)";
            let log = git_output(&job.repo, &["log", "--reverse", format, &range])?;
            let milestones: Vec<&str> = log.split_whitespace().collect();
            ensure!(milestones == wanted, "{}: commits for milestones {milestones:?}", job.idea);
            let tree = git_output(&job.repo, &["rev-parse", &format!("{branch}^{{tree}}")])?;
            let first = self.tree.get_or_insert_with(|| tree.clone());
            ensure!(*first == tree, "{}: another tree than the sessions before", job.idea);
        }
        Ok(())
    }

    pub(crate) fn clean(&self, jobs: &[Job]) -> anyhow::Result<()> {
        for job in jobs {
            fs::remove_dir_all(&job.dir).with_context(|| format!("cannot remove {}", job.dir.display()))?;
        }
        Ok(())
    }
}

/// A program that does not see this process's environment: no proxy, no user's git or steadfast settings.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env(KEY_VARIABLE, "bench");
    command
}

/// git in a repository or worktree.
pub(crate) fn git(dir: &Path) -> Command {
    let mut command = command("git");
    command.arg("-C").arg(dir);
    command
}

fn git_output(dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = git(dir).args(args).output().context("cannot run git")?;
    if !output.status.success() {
        bail!("git {} in {}: {}", args.join(" "), dir.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A small repository with one commit and without hooks.
fn make_template(dir: &Path) -> anyhow::Result<String> {
    fs::create_dir_all(dir.join("lib"))?;
    git_output(dir, &["init", "-q", "-b", "main", "--template="])?;
    // Nobody's time is spent on a collection that happens to fall due.
    for (key, value) in [("gc.auto", "0"), ("user.name", "Bench"), ("user.email", "bench@example.invalid")] {
        git_output(dir, &["config", key, value])?;
    }
    for at in 0..20 {
        let lines = (0..30).map(|line| format!("pub const LINE_{line}: u32 = {};\n", at * 100 + line));
        fs::write(dir.join(format!("lib/unit_{at:02}.rs")), lines.collect::<String>())?;
    }
    git_output(dir, &["add", "-A"])?;
    git_output(dir, &["commit", "-q", "-m", "Begin"])?;
    git_output(dir, &["rev-parse", "HEAD"])
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
