//! What the roles are asked: facts gathered from the repository, within each role's budget, made anew for each call.

use std::sync::Arc;

use steadfast_core::ids::{CommitId, RepoPath, Role};
use steadfast_core::plan::Plan;
use steadfast_core::session::{
    AgentResult, AgentTask, Attempt, AttemptOutcome, CheckOutcome, Milestone, Run, Session, StepKey, Target,
};
use steadfast_model::Prompt;
use steadfast_prompt::answer::{self, Files};
use steadfast_prompt::prompt::{
    CheckOutcome as CheckFact, CoderFacts, FailedFile, Feedback, FreeFacts, PlannerFacts, ReviewFacts, Step,
};
use steadfast_prompt::{Prompt as Texts, Templates, rank};
use steadfast_repo::Exclude;
use steadfast_repo::checks::{CheckOutcome as Ended, CheckResult};

use super::files::Contents;
use super::snapshot::Snapshot;
use super::{CoderWork, FixFeedback, MAX_FILE_BYTES, SessionContext, Workspace, broken};
use crate::file_agent::StopReason;
use crate::worker::{Repair, Task};

/// The most of a check's output that is kept with a milestone.
const MAX_CHECK_OUTPUT: usize = 8 << 10;
/// From this size on a file is changed by search/replace blocks: whole-file answers are more often well formed, but a file
/// of some 600 lines takes a model minutes to write again, and small ones forget parts of it.
const LARGE_FILE_BYTES: usize = 24 << 10;
/// The largest diff that is made for a reviewer; what of it is shown depends on its budget.
const MAX_DIFF_BYTES: usize = 256 << 10;

/// The check's result as it is kept.
pub(super) fn check_outcome(result: CheckResult) -> CheckOutcome {
    let (passed, summary) = match result.outcome {
        Ended::Passed => (true, "passed".to_owned()),
        Ended::Failed { code } => (false, format!("exit code {code}")),
        Ended::TimedOut => (false, format!("timed out after {:.0} s", result.duration.as_secs_f64())),
        Ended::CouldNotStart(reason) => (false, format!("could not start: {reason}")),
    };
    let mut start = result.output.len().saturating_sub(MAX_CHECK_OUTPUT);
    while !result.output.is_char_boundary(start) {
        start += 1;
    }
    CheckOutcome { command: result.command, passed, summary, output: result.output[start..].to_owned() }
}

/// Why a role brought no answer, in one line: the last word of each model.
pub(crate) fn why_exhausted(attempts: &[Attempt]) -> String {
    let mut said: Vec<(&str, &str)> = Vec::new();
    for attempt in attempts {
        let text = match &attempt.outcome {
            AttemptOutcome::Answered => continue,
            AttemptOutcome::Failed { message, .. } => message.as_str(),
            AttemptOutcome::Refused { reason } => reason.as_str(),
        };
        said.retain(|(model, _)| *model != attempt.model.as_str());
        said.push((attempt.model.as_str(), text));
    }
    if said.is_empty() {
        return "no model could be asked".to_owned();
    }
    let words: Vec<String> = said.iter().map(|(model, text)| format!("{model}: {text}")).collect();
    format!("no model answered ({})", words.join("; "))
}

fn prompt(texts: Texts) -> Prompt {
    Prompt { system: texts.system.into(), user: texts.user.into() }
}

fn repair(templates: &Arc<Templates>) -> Repair {
    let templates = Arc::clone(templates);
    Arc::new(move |before, problem| {
        let texts = Texts { system: before.system.to_string(), user: before.user.to_string() };
        prompt(templates.repair(&texts, problem))
    })
}

fn facts(checks: &[CheckOutcome]) -> Vec<CheckFact<'_>> {
    checks
        .iter()
        .map(|check| CheckFact { command: &check.command, passed: check.passed, output: &check.output })
        .collect()
}

impl SessionContext {
    #[expect(clippy::too_many_arguments, reason = "three callers in this file; each argument is a fact of its own")]
    fn task(
        &self,
        role: Role,
        milestone: Option<u32>,
        file: Option<RepoPath>,
        step: StepKey,
        attempt: u32,
        texts: Texts,
        accept: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Task {
        Task {
            place: self.place(role, milestone, file),
            step,
            attempt,
            prompt: prompt(texts),
            repair: repair(&self.settings.templates),
            accept: Arc::new(accept),
            json: matches!(role, Role::Planner | Role::Reviewer),
            patient: self.is_patient(),
        }
    }

    /// What the planner is asked. After a template it plans upon what was done by it.
    pub(crate) async fn planner_task(self: &Arc<Self>, session: &Session) -> Result<Task, StopReason> {
        let (context, tip) = (Arc::clone(self), session.tip.clone());
        let work = move || {
            let workspace = context.workspace()?;
            let base = context.snapshot(&workspace, &tip)?;
            let budget_tokens = context.settings.prompt_budget(Role::Planner);
            let ranked = rank::key_files(&base.shown, &context.idea.body);
            let key_files = base.read_ranked(&workspace.repository, &ranked, &Contents::new(), budget_tokens);
            let facts = PlannerFacts {
                idea: &context.idea,
                tree: &base.shown,
                key_files: &key_files,
                checks: &context.settings.checks,
                budget_tokens,
            };
            Ok(context.settings.templates.planner(&facts))
        };
        let texts = self.blocking(work).await?;
        let accept = |text: &str| answer::plan(text).map(|_plan| ()).map_err(|fault| fault.to_string());
        Ok(self.task(Role::Planner, None, None, StepKey::plan(), 0, texts, accept))
    }

    /// What the agents of a milestone need to know.
    pub(crate) async fn coder_work(
        self: &Arc<Self>,
        run: &Run,
        milestone: &Milestone,
    ) -> Result<CoderWork, StopReason> {
        let plan = run.plan.clone().ok_or_else(|| StopReason::Broken("the plan is not in the store".to_owned()))?;
        let feedback = milestone
            .review
            .as_ref()
            .filter(|_| milestone.round > 0)
            .map(|review| FixFeedback { issues: review.review.issues.clone(), checks: milestone.checks.clone() });
        let (context, tip, milestone) = (Arc::clone(self), run.session.tip.clone(), milestone.clone());
        self.blocking(move || {
            let workspace = context.workspace()?;
            let base = context.snapshot(&workspace, &tip)?;
            let written = context.contents(&workspace, &base, &milestone)?;
            Ok(CoderWork { milestone, base, written, plan: Arc::new(plan), feedback })
        })
        .await
    }

    /// What the coder is asked for one agent.
    ///
    /// # Errors
    /// For a person: the file cannot be read, or its path leads out.
    pub(crate) async fn coder_task(self: &Arc<Self>, work: &Arc<CoderWork>, task: &AgentTask) -> Result<Task, String> {
        let (context, work, task) = (Arc::clone(self), Arc::clone(work), task.clone());
        let made = move || match &task.target {
            Target::File { path, .. } => context.one_file(&work, &task, path),
            Target::Free | Target::Refused { .. } => context.free_choice(&work, &task),
        };
        self.blocking(made).await.map_err(StopReason::into_text)
    }

    fn one_file(&self, work: &CoderWork, task: &AgentTask, path: &RepoPath) -> Result<Task, StopReason> {
        let workspace = self.workspace()?;
        // Before anything is paid for: a path that leads through a link fails here.
        workspace.may_write(path).map_err(broken)?;
        let base_text = work.base.text(&workspace.repository, path)?;
        if base_text.is_some() && self.settings.exclude.matches(path.as_str()) {
            return Err(StopReason::Broken(format!(
                "{path} is kept out of prompts by context_exclude, so no model can change it"
            )));
        }
        let current = match work.written.get(path) {
            Some(text) => text.clone(),
            None => base_text.map(|text| text.to_string()),
        };
        let budget_tokens = self.settings.prompt_budget(Role::Coder);
        let mates: Vec<RepoPath> = work.milestone.plan.files.iter().map(|file| file.path.clone()).collect();
        let words = format!("{}\n{}", self.idea.body, work.milestone.plan.description);
        let ranked = rank::neighbours(path, &mates, &work.base.shown, &words);
        let neighbours = work.base.read_ranked(&workspace.repository, &ranked, &work.written, budget_tokens);
        let (issues, checks) = feedback(work);
        let checks = facts(checks);
        let facts = CoderFacts {
            idea: &self.idea,
            step: step(&work.plan, work.milestone.index)?,
            path,
            current: current.as_deref(),
            neighbours: &neighbours,
            feedback: Feedback { issues, checks: &checks },
            last_error: None,
            large: current.as_ref().is_some_and(|text| text.len() > LARGE_FILE_BYTES),
            budget_tokens,
        };
        let texts = self.settings.templates.coder_file(&facts);
        let accept = move |text: &str| {
            answer::file(text, current.as_deref(), MAX_FILE_BYTES).map(|_file| ()).map_err(|fault| fault.to_string())
        };
        let (milestone, file) = (Some(work.milestone.index), Some(path.clone()));
        Ok(self.task(Role::Coder, milestone, file, task.step.clone(), task.attempt, texts, accept))
    }

    fn free_choice(&self, work: &CoderWork, task: &AgentTask) -> Result<Task, StopReason> {
        let texts = self.free_texts(work)?;
        let (workspace, base, exclude) =
            (self.workspace()?, Arc::clone(&work.base), Arc::clone(&self.settings.exclude));
        let accept = move |text: &str| match answer::files(text, MAX_FILE_BYTES) {
            Ok(Files::Nothing) => Ok(()),
            Ok(Files::Written(files)) => {
                let paths: Vec<RepoPath> = files.into_iter().map(|(path, _)| path).collect();
                paths.iter().try_for_each(|path| may_choose(&workspace, &base, &exclude, path, &paths))
            }
            Err(fault) => Err(fault.to_string()),
        };
        let milestone = Some(work.milestone.index);
        Ok(self.task(Role::Coder, milestone, None, task.step.clone(), task.attempt, texts, accept))
    }

    fn free_texts(&self, work: &CoderWork) -> Result<Texts, StopReason> {
        let workspace = self.workspace()?;
        let budget_tokens = self.settings.prompt_budget(Role::Coder);
        let words = format!("{}\n{}", self.idea.body, work.milestone.plan.description);
        let ranked = rank::key_files(&work.base.shown, &words);
        let key_files = work.base.read_ranked(&workspace.repository, &ranked, &work.written, budget_tokens);
        let (issues, checks) = feedback(work);
        let checks = facts(checks);
        let facts = FreeFacts {
            idea: &self.idea,
            step: step(&work.plan, work.milestone.index)?,
            tree: &work.base.shown,
            key_files: &key_files,
            feedback: Feedback { issues, checks: &checks },
            last_error: None,
            budget_tokens,
        };
        Ok(self.settings.templates.coder_free(&facts))
    }

    /// The prompts of a milestone that a person is to carry out: of each file that failed, or of the whole.
    pub(super) async fn manual_prompt(self: &Arc<Self>, work: &Arc<CoderWork>) -> Result<String, StopReason> {
        let (context, work) = (Arc::clone(self), Arc::clone(work));
        self.blocking(move || {
            let mut text = String::new();
            for (place, agent) in work.milestone.agents.iter().enumerate() {
                let missing = !matches!(agent.result, Some(AgentResult::Done(_)));
                if let (true, Target::File { path, .. }) = (missing, &agent.target) {
                    let step = StepKey::coder(work.milestone.index, 0, Some(path));
                    let task = AgentTask { place, target: agent.target.clone(), step, attempt: 0 };
                    // A file whose prompt cannot be made is one of those that failed for just that reason.
                    if let Ok(task) = context.one_file(&work, &task, path) {
                        text.push_str(&format!("### {path}\n\n{}\n\n", task.prompt.user.trim_end()));
                    }
                }
            }
            if text.is_empty() { Ok(context.free_texts(&work)?.user) } else { Ok(text) }
        })
        .await
    }

    /// What the reviewer is asked.
    pub(crate) async fn reviewer_task(
        self: &Arc<Self>,
        run: &Run,
        milestone: &Milestone,
        step_key: StepKey,
    ) -> Result<Task, StopReason> {
        let plan = run.plan.clone().ok_or_else(|| StopReason::Broken("the plan is not in the store".to_owned()))?;
        let (context, base, shown) = (Arc::clone(self), run.base().clone(), milestone.clone());
        let texts = self.blocking(move || context.review_texts(&base, &plan, &shown)).await?;
        let accept = |text: &str| answer::review(text).map(|_review| ()).map_err(|fault| fault.to_string());
        Ok(self.task(Role::Reviewer, Some(milestone.index), None, step_key, 0, texts, accept))
    }

    fn review_texts(&self, base: &CommitId, plan: &Plan, milestone: &Milestone) -> Result<Texts, StopReason> {
        let workspace = self.workspace()?;
        let mut paths = Vec::new();
        let mut failed = Vec::new();
        for agent in &milestone.agents {
            match (&agent.result, &agent.target) {
                (Some(AgentResult::Done(done)), _) => {
                    // A diff shows what was there before.
                    paths.extend(
                        done.paths.iter().filter(|path| !self.settings.exclude.matches(path.as_str())).cloned(),
                    );
                }
                (Some(AgentResult::Failed(fault)), target) => {
                    failed.push((crate::aggregator::label(target), fault.error.clone()));
                }
                (None, _) => {}
            }
        }
        let diff = workspace.diff(base, &paths, 3, MAX_DIFF_BYTES).map_err(broken)?;
        let failed_files: Vec<FailedFile<'_>> =
            failed.iter().map(|(path, reason)| FailedFile { path, reason }).collect();
        let checks = facts(&milestone.checks);
        let facts = ReviewFacts {
            idea: &self.idea,
            step: step(plan, milestone.index)?,
            diff: &diff,
            checks: &checks,
            failed_files: &failed_files,
            budget_tokens: self.settings.prompt_budget(Role::Reviewer),
        };
        Ok(self.settings.templates.reviewer(&facts))
    }
}

/// Whether a file that a model chose can be written, in words that can be told to it.
fn may_choose(
    workspace: &Workspace,
    base: &Snapshot,
    exclude: &Exclude,
    path: &RepoPath,
    all: &[RepoPath],
) -> Result<(), String> {
    workspace.may_write(path).map_err(|error| crate::chain(&error))?;
    let below =
        |other: &&RepoPath| other.as_str().strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'));
    if let Some(other) = all.iter().find(below) {
        return Err(format!("{path} cannot be a file, for {other} lies below it"));
    }
    let exists = base.text(&workspace.repository, path).map_err(StopReason::into_text)?.is_some();
    if exists && exclude.matches(path.as_str()) {
        return Err(format!("{path} must not be changed; leave it as it is"));
    }
    Ok(())
}

fn feedback(work: &CoderWork) -> (&[steadfast_core::plan::ReviewIssue], &[CheckOutcome]) {
    work.feedback.as_ref().map_or((&[], &[]), |feedback| (&feedback.issues, &feedback.checks))
}

fn step(plan: &Plan, index: u32) -> Result<Step<'_>, StopReason> {
    Step::new(plan, index as usize).ok_or_else(|| StopReason::Broken(format!("the plan has no milestone {index}")))
}
