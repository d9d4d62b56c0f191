//! The JSON bodies of SPEC 10 and 13, made from what the store holds. Others read these shapes exactly as written there.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use steadfast_actors::Keeper;
use steadfast_actors::records::{IssueRecord, Outgoing, OutgoingRecord, SessionRecord, Trouble};
use steadfast_core::ids::SessionId;
use steadfast_core::session::{
    AgentResult, AgentState, Debts, Milestone, MilestoneStatus, Phase, ReviewOutcome, Session, Target, Writer,
};
use steadfast_core::tally::Verdict;

use crate::exit::{Failure, failed};
use crate::history::StepReport;

/// `run --json`, `show --json`; without `files` in `sessions --json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) session_id: String,
    pub(crate) idea_id: String,
    pub(crate) title: String,
    pub(crate) phase: String,
    pub(crate) success: bool,
    pub(crate) partial: bool,
    pub(crate) degraded: bool,
    pub(crate) current_milestone: u32,
    pub(crate) interrupted: bool,
    #[serde(rename = "emergency_shutdown")]
    pub(crate) emergency_shutdown: bool,
    #[serde(rename = "shutdown_at")]
    pub(crate) shutdown_at: Option<String>,
    #[serde(rename = "interrupt_reason")]
    pub(crate) interrupt_reason: Option<String>,
    #[serde(rename = "can_resume")]
    pub(crate) can_resume: bool,
    pub(crate) error: Option<String>,
    pub(crate) repo: String,
    pub(crate) branch: String,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) spent: SpentReport,
    pub(crate) milestones: Vec<MilestoneReport>,
    pub(crate) issues: Vec<IssueReport>,
    /// How each role execution went, in the order of the work; only where the files are named, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) history: Vec<StepReport>,
    /// Records of it that did not verify and are set aside: what they held is missing above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) damaged: Vec<String>,
    /// What models have done after all in the place of stand-ins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) redeemed: Vec<RedeemedReport>,
    /// Why what stand-ins have done is left for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_redeemed: Option<String>,
}

/// What a model has done after all.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RedeemedReport {
    /// `template`, `manual` or `static-checks`.
    pub(crate) stand_in: String,
    /// `null` for a plan.
    pub(crate) milestone: Option<u32>,
    pub(crate) at: String,
    /// `null` where the work is no commit: a plan, a review.
    pub(crate) commit: Option<String>,
}

/// What a session has bought.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpentReport {
    pub(crate) calls: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// In the currency in which prices are configured.
    pub(crate) cost: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MilestoneReport {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) success_rate: Option<f64>,
    pub(crate) verdict: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) approved: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Vec<FileReport>>,
    pub(crate) checks: Vec<CheckReport>,
    pub(crate) review: Option<ReviewReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FileReport {
    pub(crate) path: String,
    pub(crate) status: String,
    pub(crate) model: Option<String>,
    pub(crate) fallback: bool,
    pub(crate) degraded: bool,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CheckReport {
    pub(crate) command: String,
    pub(crate) passed: bool,
    pub(crate) summary: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReviewReport {
    pub(crate) approved: bool,
    pub(crate) code_quality: u8,
    pub(crate) issues: Vec<RemarkReport>,
    pub(crate) next_steps: Vec<String>,
    pub(crate) model: String,
    pub(crate) fallback: bool,
    pub(crate) degraded: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RemarkReport {
    pub(crate) severity: String,
    pub(crate) issue: String,
    pub(crate) suggestion: String,
    pub(crate) file: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct IssueReport {
    pub(crate) kind: String,
    pub(crate) title: String,
    pub(crate) delivered: bool,
    pub(crate) url: Option<String>,
}

/// `outbox list --json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutboxReport {
    /// `null` for an alert that is no session's own.
    pub(crate) session_id: Option<String>,
    pub(crate) key: String,
    /// Of an issue, its kind; `closing`; `alert`.
    #[serde(flatten)]
    pub(crate) issue: IssueReport,
    pub(crate) created_at: String,
    /// Why the last try failed; `null` when it was delivered or was not tried yet.
    #[serde(default)]
    pub(crate) error: Option<String>,
}

/// How a verdict is written.
pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Perfect => "perfect",
        Verdict::Good => "good",
        Verdict::Acceptable => "acceptable",
        Verdict::TooLow => "too_low",
    }
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let millis = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}

impl Report {
    /// `with_files`: `show` and `run` name every file, `sessions` does not.
    pub(crate) fn new(record: &SessionRecord, policy: &Judging, with_files: bool) -> Self {
        let session = &record.session;
        let interrupt = session.interrupt.as_ref();
        let milestones = milestones(record, policy, with_files);
        let degraded = session.plan_degraded
            || milestones.iter().any(|m| m.status == "degraded" || m.review.as_ref().is_some_and(|r| r.degraded));
        Self {
            session_id: session.id.to_string(),
            idea_id: session.idea.to_string(),
            title: session.title.clone(),
            phase: session.phase.as_str().to_owned(),
            success: session.phase == Phase::Completed,
            partial: milestones.iter().any(|m| m.status == "partial"),
            degraded,
            current_milestone: session.current,
            interrupted: interrupt.is_some(),
            emergency_shutdown: interrupt.is_some_and(|interrupt| interrupt.emergency),
            shutdown_at: interrupt.map(|interrupt| rfc3339(interrupt.at_ms)),
            interrupt_reason: interrupt.map(|interrupt| interrupt.reason.clone()),
            can_resume: session.can_resume(),
            error: session.error.clone(),
            repo: session.repo.clone(),
            branch: session.branch.clone(),
            created_at: rfc3339(session.created_ms),
            updated_at: rfc3339(session.updated_ms),
            spent: SpentReport {
                calls: session.spent.calls,
                input_tokens: session.spent.usage.input,
                output_tokens: session.spent.usage.output,
                cost: session.spent.cost_micros as f64 / 1e6,
            },
            milestones,
            issues: record.issues.iter().map(IssueReport::new).collect(),
            history: Vec::new(),
            damaged: Vec::new(),
            redeemed: Vec::new(),
            not_redeemed: None,
        }
    }
}

impl Report {
    /// Adds how its executions went.
    pub(crate) fn add_history(&mut self, keeper: &Keeper, id: &SessionId) -> Result<(), Failure> {
        let history = keeper.history(id).map_err(|error| failed("cannot read the store", &error))?;
        self.history = history.iter().map(StepReport::new).collect();
        Ok(())
    }

    /// What was made up for, and why no more is.
    pub(crate) fn add_debts(&mut self, debts: &Debts) {
        let redeemed = debts.redeemed.iter().map(|one| RedeemedReport {
            stand_in: one.what.stand_in().to_owned(),
            milestone: one.what.milestone(),
            at: rfc3339(one.at_ms),
            commit: one.commit.as_ref().map(|commit| commit.as_str().to_owned()),
        });
        self.redeemed = redeemed.collect();
        self.not_redeemed.clone_from(&debts.left);
    }

    /// Nothing is done for it any more, unless somebody orders it.
    pub(crate) fn is_over(&self) -> bool {
        is_over(&self.phase)
    }

    /// Whoever reads the store itself holds its lock, so nobody is at work: a session that is not over and was not
    /// interrupted in order ended with its process.
    pub(crate) fn nobody_carries_it(&mut self) {
        if !self.is_over() && !self.interrupted {
            self.interrupted = true;
            self.can_resume = true;
            self.interrupt_reason =
                Some("its process ended without a word, as after kill -9 or a power cut".to_owned());
        }
    }
}

/// Whether a phase, by its name in reports and events, is one in which sessions end.
pub(crate) fn is_over(phase: &str) -> bool {
    matches!(phase, "completed" | "failed" | "cancelled")
}

/// What a verdict depends on, beside the milestone.
pub(crate) type Judging = steadfast_core::session::Policy;

/// Those begun, then those of the plan that are still to come.
fn milestones(record: &SessionRecord, policy: &Judging, with_files: bool) -> Vec<MilestoneReport> {
    let begun = record.milestones.iter().map(|m| milestone(&record.session, m, policy, with_files));
    let planned = record.plan.iter().flat_map(|plan| plan.milestones.iter().enumerate()).skip(record.milestones.len());
    let pending = planned.map(|(at, planned)| MilestoneReport {
        index: at as u32 + 1,
        name: planned.name.clone(),
        status: MilestoneStatus::Pending.as_str().to_owned(),
        success_rate: None,
        verdict: None,
        commit: None,
        approved: None,
        files: with_files.then(Vec::new),
        checks: Vec::new(),
        review: None,
    });
    begun.chain(pending).collect()
}

fn milestone(session: &Session, milestone: &Milestone, policy: &Judging, with_files: bool) -> MilestoneReport {
    let judged = milestone.agents.iter().all(|agent| agent.result.is_some());
    let (ok, all) = milestone.tally().rate();
    let given_up = session.phase == Phase::Failed && session.current == milestone.index;
    let status = match milestone.status() {
        MilestoneStatus::Pending if given_up => MilestoneStatus::Failed,
        status => status,
    };
    MilestoneReport {
        index: milestone.index,
        name: milestone.plan.name.clone(),
        status: status.as_str().to_owned(),
        // To two places, as in SPEC 10's example: 2 of 3 is 0.67.
        success_rate: judged.then(|| (f64::from(ok) / f64::from(all.max(1)) * 100.0).round() / 100.0),
        verdict: judged.then(|| verdict_word(policy.verdict(milestone)).to_owned()),
        commit: milestone.commit.as_ref().map(ToString::to_string),
        approved: milestone.review.as_ref().map(|_| milestone.approved()),
        files: with_files.then(|| files(milestone)),
        checks: milestone
            .checks
            .iter()
            .map(|check| CheckReport {
                command: check.command.clone(),
                passed: check.passed,
                summary: check.summary.clone(),
            })
            .collect(),
        review: milestone.review.as_ref().map(ReviewReport::new),
    }
}

fn files(milestone: &Milestone) -> Vec<FileReport> {
    let manual = milestone.manual.as_ref();
    let mut files: Vec<FileReport> =
        milestone.agents.iter().flat_map(|agent| agent_files(agent, manual.is_some())).collect();
    // A milestone without planned files shows its task file.
    if let Some(task) = manual.and_then(|files| files.first()).filter(|_| files.is_empty()) {
        files.push(FileReport {
            path: task.to_string(),
            status: "manual".to_owned(),
            model: Some("manual".to_owned()),
            fallback: false,
            degraded: true,
            error: milestone.agents.iter().find_map(error_of),
        });
    }
    files
}

fn error_of(agent: &AgentState) -> Option<String> {
    match &agent.result {
        Some(AgentResult::Failed(failed)) => Some(failed.error.clone()),
        Some(AgentResult::Done(_)) | None => None,
    }
}

/// A file agent's rows: one for a planned file, as many as it wrote where it chose the files itself.
fn agent_files(agent: &AgentState, manual: bool) -> Vec<FileReport> {
    let row = |path: &str, status, writer: Option<&Writer>, error| FileReport {
        path: path.to_owned(),
        status: if manual { "manual" } else { status }.to_owned(),
        model: if manual { Some("manual".to_owned()) } else { writer.map(|writer| writer.name().to_owned()) },
        fallback: writer.is_some_and(Writer::fallback) && !manual,
        degraded: manual,
        error,
    };
    let planned = match &agent.target {
        Target::File { path, .. } => Some(path.as_str()),
        Target::Refused { path, .. } => Some(path.as_str()),
        Target::Free => None,
    };
    match (&agent.result, planned) {
        // It is at work: nothing can be said of it yet.
        (None, _) => Vec::new(),
        (Some(AgentResult::Failed(failed)), Some(path)) => vec![row(path, "failed", None, Some(failed.error.clone()))],
        (Some(AgentResult::Failed(_)), None) if manual => Vec::new(),
        (Some(AgentResult::Failed(failed)), None) => {
            vec![row("(chosen by the coder)", "failed", None, Some(failed.error.clone()))]
        }
        (Some(AgentResult::Done(done)), Some(path)) => vec![row(path, "ok", Some(&done.writer), None)],
        (Some(AgentResult::Done(done)), None) => {
            done.paths.iter().map(|path| row(path.as_str(), "ok", Some(&done.writer), None)).collect()
        }
    }
}

impl ReviewReport {
    fn new(outcome: &ReviewOutcome) -> Self {
        Self {
            approved: outcome.review.approved,
            code_quality: outcome.review.code_quality,
            issues: outcome
                .review
                .issues
                .iter()
                .map(|remark| RemarkReport {
                    severity: remark.severity.as_str().to_owned(),
                    issue: remark.issue.clone(),
                    suggestion: remark.suggestion.clone(),
                    file: remark.file.clone(),
                })
                .collect(),
            next_steps: outcome.review.next_steps.clone(),
            model: outcome.writer.name().to_owned(),
            fallback: outcome.writer.fallback(),
            degraded: outcome.degraded,
        }
    }
}

impl IssueReport {
    pub(crate) fn new(record: &IssueRecord) -> Self {
        Self {
            kind: record.issue.kind.as_str().to_owned(),
            title: record.issue.title.clone(),
            delivered: record.url.is_some(),
            url: record.url.clone(),
        }
    }
}

impl OutboxReport {
    pub(crate) fn new(record: &IssueRecord, trouble: Option<Trouble>) -> Self {
        Self {
            session_id: Some(record.session.to_string()),
            key: record.issue.key.clone(),
            issue: IssueReport::new(record),
            created_at: rfc3339(record.created_ms),
            error: trouble.map(|trouble| trouble.reason),
        }
    }

    pub(crate) fn of_outgoing(record: &OutgoingRecord, trouble: Option<Trouble>) -> Self {
        let (session_id, kind, title) = match &record.what {
            // An issue's key begins with its session's id.
            Outgoing::Closing(closing) => {
                (closing.issue.get(..19).map(str::to_owned), "closing", closing.comment.clone())
            }
            Outgoing::Alert(alert) => {
                let session = alert.fields.iter().find(|(name, _)| name == "session");
                (session.map(|(_, session)| session.clone()), "alert", alert.text.clone())
            }
        };
        let issue = IssueReport { kind: kind.to_owned(), title, delivered: record.receipt.is_some(), url: None };
        Self {
            session_id,
            key: record.key(),
            issue,
            created_at: rfc3339(record.created_ms),
            error: trouble.map(|trouble| trouble.reason),
        }
    }
}
