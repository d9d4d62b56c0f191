//! The files of a milestone, made from its answers: what is laid out for checks and review, and what is committed.
//!
//! Invariant: a milestone's files are a function of its base commit and its answers, so they can be made again at any
//! time, and are the same then.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use steadfast_core::ids::{CommitId, RepoPath};
use steadfast_core::plan::{Change, Review, ReviewIssue, Severity};
use steadfast_core::session::{
    AgentDone, AgentResult, AgentState, CheckOutcome, CommitIntent, Milestone, Run, Session, StepKey, Target,
};
use steadfast_fault_point::{self as fault_point, Point};
use steadfast_prompt::answer::{self, Files};
use steadfast_repo::{Author, FileChange};

use super::snapshot::Snapshot;
use super::{MAX_FILE_BYTES, SessionContext, Workspace, broken};
use crate::file_agent::StopReason;
use crate::records::Write;

/// What becomes of a file: its new text, or `None` where it goes.
pub(crate) type Contents = BTreeMap<RepoPath, Option<String>>;

impl SessionContext {
    fn answer_text(&self, step: &StepKey) -> Result<String, StopReason> {
        match self.keeper.answer(&self.session, step) {
            Ok(Some(answer)) => Ok(answer.text),
            Ok(None) => Err(StopReason::Broken(format!("the answer {step} is not in the store"))),
            Err(error) => Err(StopReason::NotSaved(error.to_string())),
        }
    }

    /// A planned file's text: its base with the answers applied in order.
    pub(super) fn compose(
        &self,
        workspace: &Workspace,
        base: &Snapshot,
        path: &RepoPath,
        answers: &[StepKey],
    ) -> Result<Option<String>, StopReason> {
        let mut text = base.text(&workspace.repository, path)?.map(|text| text.to_string());
        for step in answers {
            let answered = self.answer_text(step)?;
            let file = answer::file(&answered, text.as_deref(), MAX_FILE_BYTES)
                .map_err(|fault| StopReason::Broken(format!("the saved answer {step} does not read: {fault}")))?;
            text = Some(file.text);
        }
        Ok(text)
    }

    fn compose_chosen(&self, answers: &[StepKey]) -> Result<Contents, StopReason> {
        let mut contents = Contents::new();
        for step in answers {
            let answered = self.answer_text(step)?;
            match answer::files(&answered, MAX_FILE_BYTES) {
                Ok(Files::Nothing) => {}
                Ok(Files::Written(files)) => {
                    contents.extend(files.into_iter().map(|(path, text)| (path, Some(text))));
                }
                Err(fault) => {
                    return Err(StopReason::Broken(format!("the saved answer {step} does not read: {fault}")));
                }
            }
        }
        Ok(contents)
    }

    fn contents_of(
        &self,
        workspace: &Workspace,
        base: &Snapshot,
        target: &Target,
        answers: &[StepKey],
    ) -> Result<Contents, StopReason> {
        Ok(match target {
            Target::File { path, change: Change::Delete } => Contents::from([(path.clone(), None)]),
            Target::File { path, .. } => {
                let text = self.compose(workspace, base, path, answers)?;
                Contents::from([(path.clone(), text)])
            }
            Target::Free => self.compose_chosen(answers)?,
            Target::Refused { .. } => Contents::new(),
        })
    }

    /// Everything that the milestone's agents have done so far.
    pub(super) fn contents(
        &self,
        workspace: &Workspace,
        base: &Snapshot,
        milestone: &Milestone,
    ) -> Result<Contents, StopReason> {
        if milestone.manual.is_some() {
            let files = self.keeper.manual(&self.session, milestone.index);
            let files = files.map_err(|error| StopReason::NotSaved(error.to_string()))?;
            return Ok(files.unwrap_or_default().into_iter().map(|(path, text)| (path, Some(text))).collect());
        }
        let mut contents = Contents::new();
        for AgentState { target, result, .. } in &milestone.agents {
            if let Some(AgentResult::Done(AgentDone { answers, .. })) = result {
                contents.extend(self.contents_of(workspace, base, target, answers)?);
            }
        }
        Ok(contents)
    }

    /// Writes what the milestone's agents have done so far into the session's own files.
    pub(super) fn write_out(
        &self,
        workspace: &Workspace,
        base: &Snapshot,
        milestone: &Milestone,
    ) -> Result<(), StopReason> {
        for (path, text) in self.contents(workspace, base, milestone)? {
            write_one(workspace, &path, text.as_deref()).map_err(StopReason::Broken)?;
        }
        Ok(())
    }

    /// Deletes a file from the session's own ones.
    ///
    /// # Errors
    /// For a person: the path leads through a link, or the disk refused.
    pub(crate) async fn delete(&self, path: RepoPath) -> Result<(), String> {
        let workspace = self.workspace().map_err(StopReason::into_text)?;
        let work = move || write_one(&workspace, &path, None).map_err(StopReason::Broken);
        self.blocking(work).await.map_err(StopReason::into_text)
    }

    /// Writes what the answers make of the target, and says which files these are. Short writes to the page cache, in the
    /// agent's own task: a thread of their own would cost more than they do.
    ///
    /// # Errors
    /// For a person: a path that must not be touched, or an answer that does not fit any more.
    pub(crate) fn write_answers(
        &self,
        base: &Snapshot,
        target: &Target,
        answers: &[StepKey],
    ) -> Result<Vec<RepoPath>, String> {
        let workspace = self.workspace().map_err(StopReason::into_text)?;
        let contents = self.contents_of(&workspace, base, target, answers).map_err(StopReason::into_text)?;
        for (path, text) in &contents {
            write_one(&workspace, path, text.as_deref())?;
        }
        Ok(contents.into_keys().collect())
    }

    /// Makes the milestone's commit and moves the branch to it; `None` when nothing has changed. The manual task that the
    /// milestone takes the place of goes with it.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        run: &Run,
        milestone: &Milestone,
        intent: &CommitIntent,
    ) -> Result<Option<CommitId>, StopReason> {
        let (context, milestone, intent) = (Arc::clone(self), milestone.clone(), intent.clone());
        let (session, task) = (&run.session, run.debts.task_files().to_vec());
        let author = Author::new(&session.identity.name, &session.identity.email);
        self.blocking(move || {
            let workspace = context.workspace()?;
            let base = context.snapshot(&workspace, &intent.parent)?;
            let mut contents = context.contents(&workspace, &base, &milestone)?;
            contents.extend(task.into_iter().map(|path| (path, None)));
            let change = |(path, text): (&RepoPath, &Option<String>)| {
                let change =
                    text.as_ref().map_or(FileChange::Delete, |text| FileChange::Write(text.clone().into_bytes()));
                (path.clone(), change)
            };
            let changes: Vec<(RepoPath, FileChange)> = contents.iter().map(change).collect();
            let repository = &workspace.repository;
            fault_point::reach(Point::CommitBefore);
            context.fence()?;
            let (branch, parent) = (&context.branch(), &intent.parent);
            let commit = repository
                .commit_and_advance(branch, parent, &changes, &intent.message, &author, intent.time_s)
                .map_err(broken)?;
            let Some(commit) = commit else { return Ok(None) };
            fault_point::reach(Point::CommitDone);
            let next = base.after(&commit, &contents, &context.settings.exclude);
            *context.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(next));
            Ok(Some(commit))
        })
        .await
    }

    /// Puts a manual task in the place of a milestone's files, with the answers that did come as drafts (SPEC 5).
    pub(crate) async fn degrade(
        self: &Arc<Self>,
        run: &Run,
        milestone: &Milestone,
    ) -> Result<Vec<RepoPath>, StopReason> {
        let work = Arc::new(self.coder_work(run, milestone).await?);
        let prompt = self.manual_prompt(&work).await?;
        let (context, milestone) = (Arc::clone(self), milestone.clone());
        let tip = run.session.tip.clone();
        let files = self
            .blocking(move || {
                let workspace = context.workspace()?;
                let base = context.snapshot(&workspace, &tip)?;
                let drafts = context.contents(&workspace, &base, &milestone)?;
                context.fence()?;
                workspace.reset_to(&tip).map_err(broken)?;
                let files = context.manual_files(&milestone, &prompt, drafts)?;
                for (path, text) in &files {
                    write_one(&workspace, path, Some(text)).map_err(StopReason::Broken)?;
                }
                Ok(files)
            })
            .await?;
        let paths = files.iter().map(|(path, _)| path.clone()).collect();
        let write = Write::Manual(self.session.clone(), work.milestone.index, files);
        self.keeper.save(vec![write]).await.map_err(|error| StopReason::NotSaved(error.to_string()))?;
        fault_point::reach(Point::ManualSaved);
        Ok(paths)
    }

    fn manual_files(
        &self,
        milestone: &Milestone,
        prompt: &str,
        drafts: Contents,
    ) -> Result<Vec<(RepoPath, String)>, StopReason> {
        let folder = format!(".steadfast/tasks/{}-m{}", self.idea_id, milestone.index);
        let path = |text: String| RepoPath::new(&text).map_err(broken);
        let mut reasons = String::new();
        for agent in &milestone.agents {
            if let Some(AgentResult::Failed(failed)) = &agent.result {
                reasons.push_str(&format!("- {}: {}\n", crate::aggregator::label(&agent.target), failed.error));
            }
        }
        let mut draft_list = String::new();
        let mut files = Vec::new();
        for (of, text) in drafts {
            // A deletion leaves no draft; the task names it.
            let Some(text) = text else { continue };
            let draft = path(format!("{folder}/drafts/{of}"))?;
            draft_list.push_str(&format!("- `{of}`: draft in `{draft}`\n"));
            files.push((draft, text));
        }
        let draft_list = if draft_list.is_empty() {
            String::new()
        } else {
            format!("## Drafts\n\nThese files were written before the milestone was given up:\n\n{draft_list}\n")
        };
        let task = format!(
            "# Manual Implementation Required\n\n\
             Milestone {} of idea `{}`: {}\n\n\
             ## Task\n\n{}\n\n\
             ## Reason\n\nAI code generation unavailable. Please implement manually.\n\n{reasons}\n\
             {draft_list}\
             ## Next Steps\n\n1. Review requirements\n2. Implement code\n3. Run tests\n4. Commit changes and delete this file\n",
            milestone.index,
            self.idea_id,
            milestone.plan.name,
            prompt.trim_end(),
        );
        files.insert(0, (path(format!("{folder}.md"))?, task));
        Ok(files)
    }

    /// Basic static checks in the place of a reviewer (SPEC 5).
    pub(crate) async fn static_review(
        self: &Arc<Self>,
        session: &Session,
        milestone: &Milestone,
    ) -> Result<Review, StopReason> {
        let (context, tip, milestone) = (Arc::clone(self), session.tip.clone(), milestone.clone());
        let checks = milestone.checks.clone();
        let findings = self
            .blocking(move || {
                let workspace = context.workspace()?;
                let base = context.snapshot(&workspace, &tip)?;
                let mut contents = context.contents(&workspace, &base, &milestone)?;
                // Our own task file quotes the prompt, with whatever it holds; what models wrote lies beside it.
                if let Some(task) = milestone.manual.as_ref().and_then(|files| files.first()) {
                    contents.remove(task);
                }
                let texts: Vec<(RepoPath, Vec<u8>)> =
                    contents.into_iter().filter_map(|(path, text)| Some((path, text?.into_bytes()))).collect();
                let shown: Vec<(RepoPath, &[u8])> =
                    texts.iter().map(|(path, text)| (path.clone(), text.as_slice())).collect();
                Ok(steadfast_repo::static_checks::static_checks(&shown))
            })
            .await?;
        let mut issues = vec![ReviewIssue {
            severity: Severity::Low,
            issue: "AI reviewer unavailable - basic checks only".to_owned(),
            suggestion: "Manual code review recommended".to_owned(),
            file: None,
        }];
        let failed: Vec<ReviewIssue> = failed_checks(&checks);
        let approved = findings.is_empty() && failed.is_empty();
        issues.extend(failed);
        issues.extend(findings.into_iter().map(|finding| ReviewIssue {
            severity: Severity::High,
            issue: finding.problem,
            suggestion: String::new(),
            file: Some(finding.file.to_string()),
        }));
        // The quality that the seed gives to a review by basic checks.
        Ok(Review { approved, code_quality: 70, issues, next_steps: vec!["Manual review recommended".to_owned()] })
    }
}

/// What a stand-in for the reviewer says of checks that failed.
fn failed_checks(checks: &[CheckOutcome]) -> Vec<ReviewIssue> {
    let failed = checks.iter().filter(|check| !check.passed);
    failed
        .map(|check| ReviewIssue {
            severity: Severity::High,
            issue: format!("check `{}`: {}", check.command, check.summary),
            suggestion: String::new(),
            file: None,
        })
        .collect()
}

fn write_one(workspace: &Workspace, path: &RepoPath, text: Option<&str>) -> Result<(), String> {
    workspace.put(path, text).map_err(|error| crate::chain(&error))
}
