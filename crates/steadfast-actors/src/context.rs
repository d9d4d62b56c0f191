//! What a session, its aggregator and its file agents share: where they work, whom they ask, and the steps that touch
//! the repository. It holds facts, no decisions.

mod ask;
mod files;
mod snapshot;

pub(crate) use ask::why_exhausted;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use steadfast_core::ids::{CommitId, IdeaId, RepoPath, Role, SessionId};
use steadfast_core::plan::{Plan, ReviewIssue};
use steadfast_core::restart::Restart;
use steadfast_core::session::{AgentResult, CheckOutcome, Milestone, Run, Session, Stage, StepKey};
use steadfast_fault_point::{self as fault_point, Point};
use steadfast_prompt::Idea;
use steadfast_repo::checks::{CheckOptions, run_check};
use steadfast_repo::sandbox::Sandbox;
use steadfast_repo::{Draft, FileError, RepoError, Repository, Worktree};
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;

use crate::budget::Ledger;
use crate::checkpoint_keeper::Keeper;
use crate::directory::Directory;
use crate::event::{Event, Events, Place};
use crate::file_agent::StopReason;
use crate::meter::Meter;
use crate::outbox::OutboxMsg;
use crate::records::Loaded;
use crate::settings::Settings;
use crate::worker::{Executed, Task, WorkerMsg};

use files::Contents;
use snapshot::{MAX_LISTED, Snapshot};

/// The largest file that is read for, or written from, an answer. The model crate bounds answers at 8 MiB; a source file
/// above 1 MiB is generated, and no model should write it.
pub(crate) const MAX_FILE_BYTES: usize = 1 << 20;

/// What is shorter is found everywhere, and is no secret.
const MIN_SECRET: usize = 8;
/// The largest excluded file that is looked for in what checks print, in bytes; and how many of them.
const MAX_SECRET_FILE: u64 = 64 << 10;
const MAX_SECRET_FILES: usize = 100;

/// How long to wait for a worker that is being restarted before asking again.
const WORKER_PAUSE: Duration = Duration::from_millis(50);

/// The repository and the session's own place in it.
pub(crate) struct Workspace {
    pub(crate) repository: Repository,
    files: Files,
}

/// A session's own files.
enum Files {
    /// On disk, for the checks that run on them.
    Worktree(Worktree),
    /// In memory, where no check is configured.
    Draft(Draft),
}

impl Workspace {
    fn reset_to(&self, commit: &CommitId) -> Result<(), RepoError> {
        match &self.files {
            Files::Worktree(worktree) => worktree.reset_to(commit),
            Files::Draft(draft) => {
                draft.reset_to(commit);
                Ok(())
            }
        }
    }

    fn may_write(&self, path: &RepoPath) -> Result<(), FileError> {
        match &self.files {
            Files::Worktree(worktree) => worktree.may_write(path),
            Files::Draft(draft) => draft.may_write(&self.repository, path),
        }
    }

    /// `None` deletes the file.
    fn put(&self, path: &RepoPath, text: Option<&str>) -> Result<(), FileError> {
        match (&self.files, text) {
            (Files::Worktree(worktree), Some(text)) => worktree.write(path, text.as_bytes()),
            (Files::Worktree(worktree), None) => worktree.delete(path).map(|_existed| ()),
            (Files::Draft(draft), Some(text)) => draft.write(&self.repository, path, text.as_bytes()),
            (Files::Draft(draft), None) => draft.delete(&self.repository, path).map(|_existed| ()),
        }
    }

    fn diff(&self, base: &CommitId, paths: &[RepoPath], context: u32, max_bytes: usize) -> Result<String, RepoError> {
        match &self.files {
            Files::Worktree(worktree) => worktree.diff(base, paths, context, max_bytes),
            Files::Draft(draft) => draft.diff(&self.repository, base, paths, context, max_bytes),
        }
    }
}

/// What file agents need to know of their milestone.
pub(crate) struct CoderWork {
    /// As it stood when the agents began.
    pub milestone: Milestone,
    /// The commit that the milestone builds on.
    pub base: Arc<Snapshot>,
    /// What was written in the rounds before; empty in the first.
    pub written: Contents,
    /// The whole plan.
    pub plan: Arc<Plan>,
    /// In a round of fixes: what is wrong.
    pub feedback: Option<FixFeedback>,
}

/// What the reviewer and the checks said of the last round.
#[derive(Debug, Clone)]
pub(crate) struct FixFeedback {
    /// Of the reviewer, or of the basic checks.
    pub issues: Vec<ReviewIssue>,
    /// What the checks said.
    pub checks: Vec<CheckOutcome>,
}

impl CoderWork {
    /// The answers that already make an agent's files; empty in the first round.
    pub(crate) fn answers_of(&self, place: usize) -> Vec<StepKey> {
        match self.milestone.agents.get(place).and_then(|agent| agent.result.as_ref()) {
            Some(AgentResult::Done(done)) => done.answers.clone(),
            Some(AgentResult::Failed(_)) | None => Vec::new(),
        }
    }
}

/// The surroundings of one session.
pub(crate) struct SessionContext {
    pub(crate) settings: Arc<Settings>,
    pub(crate) session: SessionId,
    pub(crate) events: Events,
    pub(crate) keeper: Keeper,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) meter: Arc<Meter>,
    /// Milliseconds since 1970.
    pub(crate) clock: fn() -> u64,
    idea_id: IdeaId,
    idea: Idea,
    repo_dir: PathBuf,
    worktree_dir: PathBuf,
    /// Another name where a session was quicker with the first one.
    branch: Mutex<String>,
    base: CommitId,
    directory: Arc<Directory>,
    /// The session was just submitted: its branch and worktree do not exist yet.
    is_new: bool,
    /// It makes up for what a stand-in has done: that stays where no model can be asked, and nobody is waited for.
    redeems: AtomicBool,
    workspace: OnceLock<Arc<Workspace>>,
    /// Opened to claim the branch, until the workspace takes it.
    opened: Mutex<Option<Repository>>,
    /// See [`SessionContext::secrets`].
    secrets: OnceCell<Vec<String>>,
    /// Of the commit that the milestone at work builds on.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
}

impl SessionContext {
    #[expect(clippy::too_many_arguments, reason = "one caller; each argument is another actor's or the session's own")]
    pub(crate) fn new(
        settings: &Arc<Settings>,
        loaded: &Loaded,
        keeper: Keeper,
        directory: Arc<Directory>,
        ledger: Arc<Ledger>,
        meter: Arc<Meter>,
        events: Events,
        clock: fn() -> u64,
        is_new: bool,
    ) -> Self {
        let session = &loaded.run.session;
        Self {
            session: session.id.clone(),
            idea_id: session.idea.clone(),
            idea: loaded.idea.clone(),
            repo_dir: PathBuf::from(&session.repo),
            worktree_dir: crate::tidy::worktree(&settings.state_dir, &session.id),
            branch: Mutex::new(session.branch.clone()),
            base: session.base.clone(),
            settings: Arc::clone(settings),
            events,
            keeper,
            ledger,
            meter,
            clock,
            directory,
            is_new,
            redeems: AtomicBool::new(loaded.run.redeeming().is_some()),
            workspace: OnceLock::new(),
            opened: Mutex::new(None),
            secrets: OnceCell::new(),
            snapshot: Mutex::new(None),
        }
    }

    /// Where an event or a request belongs.
    pub(crate) fn place(&self, role: Role, milestone: Option<u32>, file: Option<RepoPath>) -> Place {
        Place { session: self.session.clone(), idea: self.idea_id.clone(), role, milestone, file }
    }

    pub(crate) fn set_redeems(&self, redeems: bool) {
        self.redeems.store(redeems, Ordering::Relaxed);
    }

    /// File agents at once. Of those that make up for something the first may be a breaker's test, during which the others
    /// would be refused.
    pub(crate) fn agents_at_once(&self) -> usize {
        if self.redeems.load(Ordering::Relaxed) { 1 } else { self.settings.max_parallel_agents.get() }
    }

    pub(super) fn is_patient(&self) -> bool {
        !self.redeems.load(Ordering::Relaxed)
    }

    /// Something new lies in the outbox. While it is being restarted there is nobody to tell: it looks for itself then.
    pub(crate) fn wake_outbox(&self) {
        if let Some(outbox) = self.directory.outbox() {
            let _ = outbox.cast(OutboxMsg::Wake);
        }
    }

    /// Has a role's worker carry out a task. A worker that fails meanwhile is started again by its supervisor, and the
    /// task is given to the new one: an answer that had arrived is found, not asked for. An execution that panics is
    /// tried as often as an actor is started again.
    pub(crate) async fn execute(&self, task: Task) -> Executed {
        let (mut restarts, start) = (self.settings.restart_budget(), Instant::now());
        loop {
            if let Some(worker) = self.directory.worker(task.place.role) {
                let (reply, answer) = oneshot::channel();
                let _ = worker.cast(WorkerMsg::Execute { task: Box::new(task.clone()), reply });
                if let Ok(executed) = answer.await {
                    return executed;
                }
                if restarts.spend(start.elapsed()) == Restart::GiveUp {
                    return Executed::KeepsFailing;
                }
            }
            tokio::time::sleep(WORKER_PAUSE).await;
        }
    }

    pub(crate) fn workspace(&self) -> Result<Arc<Workspace>, StopReason> {
        let workspace = self.workspace.get().cloned();
        workspace.ok_or_else(|| StopReason::Broken("the session's files were not prepared".to_owned()))
    }

    /// Runs blocking work on the repository. A panic in there fails the session, not the process.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StopReason> + Send + 'static,
    ) -> Result<T, StopReason> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(StopReason::Broken(format!("work on the repository ended badly: {error}"))),
        }
    }

    /// Refuses when another process has taken the store over: then nothing outside may be changed.
    fn fence(&self) -> Result<(), StopReason> {
        self.keeper.fence().map_err(|error| StopReason::NotSaved(error.to_string()))
    }

    pub(crate) fn branch(&self) -> String {
        self.branch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Claims the session's branch. `Some`: another session was quicker, and this name is free; to be saved before it is used.
    pub(crate) async fn claim(self: &Arc<Self>, session: &Session) -> Result<Option<String>, StopReason> {
        if session.tip != session.base {
            // Its commits are there.
            return Ok(None);
        }
        let context = Arc::clone(self);
        self.blocking(move || {
            let repository = Repository::open(&context.repo_dir).map_err(broken)?;
            fault_point::reach(Point::ClaimBefore);
            context.fence()?;
            let claimed = repository.claim_for(&context.session, &context.branch(), &context.base).map_err(broken)?;
            fault_point::reach(Point::Claimed);
            if claimed {
                *context.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(repository);
                return Ok(None);
            }
            let other = repository.free_branch(&context.idea_id).map_err(broken)?;
            context.branch.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&other);
            Ok(Some(other))
        })
        .await
    }

    /// Opens the session's files, a worktree made where it is needed and missing, and brings them to what the state says.
    pub(crate) async fn prepare(self: &Arc<Self>, run: &Run) -> Result<(), StopReason> {
        let context = Arc::clone(self);
        let (session, milestone, base) = (run.session.clone(), run.milestone.clone(), run.base().clone());
        self.blocking(move || context.prepare_now(&session, milestone.as_ref(), &base)).await
    }

    /// `base`: the commit that the milestone builds on.
    fn prepare_now(&self, session: &Session, milestone: Option<&Milestone>, base: &CommitId) -> Result<(), StopReason> {
        self.fence()?;
        let workspace = match self.workspace.get() {
            Some(workspace) => Arc::clone(workspace),
            None => {
                steadfast_repo::checks::end_left_behind(&crate::tidy::check_note(
                    &self.settings.state_dir,
                    &self.session,
                ));
                let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
                let repository = opened.map_or_else(|| Repository::open(&self.repo_dir), Ok).map_err(broken)?;
                let files = if self.settings.checks.is_empty() {
                    repository.add_branch(&self.branch(), &self.base).map(|()| Files::Draft(Draft::of(&self.base)))
                } else {
                    repository.add_worktree(&self.worktree_dir, &self.branch(), &self.base).map(Files::Worktree)
                };
                let opened = Arc::new(Workspace { repository, files: files.map_err(broken)? });
                Arc::clone(self.workspace.get_or_init(|| opened))
            }
        };
        let begun = |milestone: &Milestone| {
            let at_start = milestone.index == 1 && milestone.attempt == 0 && milestone.stage == Stage::Writing;
            !at_start || milestone.agents.iter().any(|agent| agent.result.is_some())
        };
        if self.is_new && !milestone.is_some_and(begun) {
            // Files that were just made are those of their commit.
            return Ok(());
        }
        self.check_branch(&workspace, session, milestone)?;
        workspace.reset_to(base).map_err(broken)?;
        match milestone {
            Some(milestone) if crate::session::needs_files(&milestone.stage) => {
                let base = self.snapshot(&workspace, base)?;
                self.write_out(&workspace, &base, milestone)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The branch must be where this session left it; what somebody else committed there is not built over.
    fn check_branch(
        &self,
        workspace: &Workspace,
        session: &Session,
        milestone: Option<&Milestone>,
    ) -> Result<(), StopReason> {
        let found = workspace.repository.branch_tip(&self.branch()).map_err(broken)?;
        if found.as_ref() == Some(&session.tip) {
            return Ok(());
        }
        let log = workspace.repository.commits_of(&session.id, &self.branch(), &session.base).map_err(broken)?;
        let committing = milestone.filter(|milestone| matches!(milestone.stage, Stage::Committing(_)));
        let last = log.ours.last().map(|commit| commit.milestone);
        // The commit of the current milestone, made just before a crash: its own step recognizes it.
        if log.foreign.is_empty() && committing.is_some_and(|milestone| last == Some(milestone.index)) {
            return Ok(());
        }
        let foreign =
            log.foreign.first().map_or("another commit".to_owned(), |commit| format!("commit {}", commit.short()));
        Err(StopReason::Broken(format!(
            "branch {} in {} has {foreign} that is not this session's: move it elsewhere and put the branch back to {} \
             (`git branch -f {} {}`), then resume",
            self.branch(),
            session.repo,
            session.tip.short(),
            self.branch(),
            session.tip
        )))
    }

    /// Puts the files of a milestone back to its start, with what was written well laid over them.
    pub(crate) async fn lay_out(self: &Arc<Self>, milestone: &Milestone) -> Result<(), StopReason> {
        let (context, milestone, workspace) = (Arc::clone(self), milestone.clone(), self.workspace()?);
        self.blocking(move || {
            let tip = workspace.repository.branch_tip(&context.branch()).map_err(broken)?;
            let tip = tip.ok_or_else(|| StopReason::Broken(format!("branch {} is gone", context.branch())))?;
            context.fence()?;
            workspace.reset_to(&tip).map_err(broken)?;
            let base = context.snapshot(&workspace, &tip)?;
            context.write_out(&workspace, &base, &milestone)
        })
        .await
    }

    /// Runs the configured checks on the untouched files: those that fail.
    pub(crate) async fn baseline(&self) -> Result<Vec<String>, StopReason> {
        let outcomes = self.check(0).await?;
        Ok(outcomes.into_iter().filter(|check| !check.passed).map(|check| check.command).collect())
    }

    /// Runs the configured checks in the worktree. `milestone` is for the log; 0: before the first.
    pub(crate) async fn check(&self, milestone: u32) -> Result<Vec<CheckOutcome>, StopReason> {
        let workspace = self.workspace()?;
        // Without a worktree there is no check that could run.
        let Files::Worktree(worktree) = &workspace.files else { return Ok(Vec::new()) };
        let options = CheckOptions {
            dir: worktree.dir().to_owned(),
            timeout: self.settings.check_timeout,
            sandbox: match &self.settings.bwrap {
                None => Sandbox::None,
                Some(program) => Sandbox::Bwrap {
                    program: program.clone(),
                    read_only: vec![workspace.repository.git_dir().to_owned()],
                    hidden: self.settings.hidden.clone(),
                },
            },
            max_output_bytes: CheckOptions::MAX_OUTPUT_BYTES,
            note: Some(crate::tidy::check_note(&self.settings.state_dir, &self.session)),
        };
        let secrets = self.secrets.get_or_try_init(|| self.secrets()).await?;
        let mut outcomes = Vec::with_capacity(self.settings.checks.len());
        fault_point::reach(Point::ChecksBefore);
        self.fence()?;
        for command in &self.settings.checks {
            let session = self.session.clone();
            self.events.tell(Event::Checking { session, milestone, command: command.clone() });
            let mut result = run_check(command, &options).await;
            // It goes into prompts, records and issues.
            for secret in secrets {
                result.output = result.output.replace(secret.as_str(), "[kept out by context_exclude]");
            }
            let check = ask::check_outcome(result);
            self.events.tell(Event::Checked {
                session: self.session.clone(),
                milestone,
                command: check.command.clone(),
                passed: check.passed,
                summary: check.summary.clone(),
            });
            outcomes.push(check);
        }
        fault_point::reach(Point::ChecksDone);
        Ok(outcomes)
    }

    /// What stands in the files that `context_exclude` keeps out of prompts, line by line and value by value, longest first: a
    /// check that prints them must not carry them there. Of the commit that the session began at, so read once.
    async fn secrets(&self) -> Result<Vec<String>, StopReason> {
        let (workspace, exclude, base) = (self.workspace()?, Arc::clone(&self.settings.exclude), self.base.clone());
        self.blocking(move || {
            let listing = workspace.repository.tree(&base, MAX_LISTED).map_err(broken)?;
            let mut secrets = BTreeSet::new();
            let excluded = listing.entries.iter().filter(|entry| exclude.matches(&entry.path));
            for entry in excluded.filter(|entry| entry.size <= MAX_SECRET_FILE).take(MAX_SECRET_FILES) {
                let Ok(path) = RepoPath::new(&entry.path) else { continue };
                // A link or what cannot be read is not shown by a check either.
                let bytes = workspace.repository.read(&base, &path, MAX_SECRET_FILE).ok().flatten();
                let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) else { continue };
                for line in text.lines().map(str::trim) {
                    let value = line.split_once(['=', ':']).map_or("", |(_, value)| value);
                    let value = value.trim().trim_matches(['"', '\'']);
                    secrets
                        .extend([line, value].into_iter().filter(|part| part.len() >= MIN_SECRET).map(str::to_owned));
                }
            }
            let mut secrets: Vec<String> = secrets.into_iter().collect();
            secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
            Ok(secrets)
        })
        .await
    }

    /// What is left to do once the session stands still or is over.
    pub(crate) async fn rest(&self, session: &Session) {
        crate::tidy::one(&self.keeper, &self.settings.state_dir, session).await;
    }

    /// What is known of a commit, listed once.
    fn snapshot(&self, workspace: &Workspace, commit: &CommitId) -> Result<Arc<Snapshot>, StopReason> {
        let mut kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = kept.as_ref().filter(|snapshot| snapshot.commit == *commit) {
            return Ok(Arc::clone(snapshot));
        }
        let listed = Arc::new(Snapshot::list(&workspace.repository, commit, &self.settings.exclude)?);
        *kept = Some(Arc::clone(&listed));
        Ok(listed)
    }
}

/// An error of the repository, which ends the session until a person has looked.
pub(crate) fn broken(error: impl std::error::Error) -> StopReason {
    StopReason::Broken(crate::chain(&error))
}
