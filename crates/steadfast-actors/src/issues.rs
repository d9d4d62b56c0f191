//! The issues that a session leaves for people: what is missing, why, who was tried, and the command that goes on.

use steadfast_core::ids::SessionId;
use steadfast_core::session::{
    AgentFailed, AgentResult, Attempt, AttemptOutcome, Event as Happened, Milestone, Owed, Phase, Session, Target,
};
use steadfast_notify::{Closing, Issue, IssueKind};

use crate::checkpoint_keeper::Keeper;
use crate::records::Write;
use crate::settings::IssueSettings;

/// The issues of a milestone that is done: one for each failed file, or one for its manual task; one more when it was
/// committed without approval. Empty when all went well.
pub(crate) fn of_milestone(session: &Session, milestone: &Milestone, settings: &IssueSettings) -> Vec<Issue> {
    let mut issues = Vec::new();
    if let Some(files) = &milestone.manual {
        issues.push(manual(session, milestone, files.first().map_or("", |file| file.as_str()), settings));
    } else {
        for (place, agent) in milestone.agents.iter().enumerate() {
            if let Some(AgentResult::Failed(failed)) = &agent.result {
                issues.push(failed_file(session, milestone, place, &agent.target, failed, settings));
            }
        }
        if !milestone.approved() {
            issues.push(rejected(session, milestone, settings));
        }
    }
    issues
}

fn issue(
    session: &Session,
    kind: IssueKind,
    key: &str,
    title: String,
    body: String,
    settings: &IssueSettings,
) -> Issue {
    Issue {
        key: format!("{}-{key}", session.id),
        kind,
        title,
        body: format!("{body}\n{}", footer(session)),
        labels: settings.labels.clone(),
        assignee: settings.assignee.clone(),
    }
}

fn footer(session: &Session) -> String {
    format!(
        "\n---\nSession `{}` of idea `{}` ({}), branch `{}` in `{}`.\n`steadfast show {}` tells the whole story.\n",
        session.id, session.idea, session.title, session.branch, session.repo, session.id
    )
}

fn heading(milestone: &Milestone) -> String {
    format!("milestone {} ({})", milestone.index, milestone.plan.name)
}

fn failed_file(
    session: &Session,
    milestone: &Milestone,
    place: usize,
    target: &Target,
    failed: &AgentFailed,
    settings: &IssueSettings,
) -> Issue {
    let file = match target {
        Target::File { path, .. } => path.as_str().to_owned(),
        Target::Free => "the files of the milestone".to_owned(),
        Target::Refused { path, .. } => path.clone(),
    };
    let (ok, all) = milestone.tally().rate();
    let body = format!(
        "`{file}` could not be written in {}. {ok} of {all} files of the milestone were, and are committed.\n\n\
         **Reason:** {}\n\n{}\n**What to do:** write the file on branch `{}`. It is part of this step:\n\n{}\n",
        heading(milestone),
        failed.error,
        tried(&failed.attempts),
        session.branch,
        quote(&milestone.plan.description),
    );
    let title = format!("[{}] Write {file} by hand", session.idea);
    issue(session, IssueKind::FailedFile, &format!("m{}-file{place}", milestone.index), title, body, settings)
}

fn manual(session: &Session, milestone: &Milestone, task: &str, settings: &IssueSettings) -> Issue {
    let mut reasons = String::new();
    for agent in &milestone.agents {
        if let (Some(AgentResult::Failed(failed)), Target::File { path, .. }) = (&agent.result, &agent.target) {
            reasons.push_str(&format!("- `{path}`: {}\n", failed.error));
        } else if let Some(AgentResult::Failed(failed)) = &agent.result {
            reasons.push_str(&format!("- {}\n", failed.error));
        }
    }
    let body = format!(
        "No model could write {}. A manual task stands in for it: `{task}` on branch `{}`, with the whole prompt and \
         drafts of what was written.\n\n{reasons}\n**What to do:** follow the task file, then delete it.\n",
        heading(milestone),
        session.branch,
    );
    let title = format!("[{}] Implement by hand: {}", session.idea, milestone.plan.name);
    issue(session, IssueKind::Manual, &manual_key(milestone.index), title, body, settings)
}

fn rejected(session: &Session, milestone: &Milestone, settings: &IssueSettings) -> Issue {
    let mut body = format!(
        "{} was committed without approval{}, after {} round(s) of fixes.\n",
        capital(&heading(milestone)),
        milestone.commit.as_ref().map(|commit| format!(" as {}", commit.short())).unwrap_or_default(),
        milestone.fix_rounds()
    );
    if let Some(outcome) = &milestone.review {
        let verdict = if outcome.review.approved { "approves" } else { "rejects" };
        body.push_str(&format!(
            "\n**Review** by {} {verdict} it, quality {} of 100.\n",
            outcome.writer.name(),
            outcome.review.code_quality
        ));
        for remark in &outcome.review.issues {
            let file = remark.file.as_ref().map(|file| format!("`{file}`: ")).unwrap_or_default();
            body.push_str(&format!("- {} — {file}{}", remark.severity.as_str(), remark.issue));
            if !remark.suggestion.is_empty() {
                body.push_str(&format!(" Suggestion: {}", remark.suggestion));
            }
            body.push('\n');
        }
    }
    for check in milestone.checks.iter().filter(|check| !check.passed) {
        body.push_str(&format!("\n**Check** `{}`: {}\n\n{}\n", check.command, check.summary, fenced(&check.output)));
    }
    body.push_str("\n**What to do:** look at the commit and mend it, or revert it.\n");
    let title = format!("[{}] Not approved: {}", session.idea, milestone.plan.name);
    issue(session, IssueKind::Review, &review_key(milestone.index), title, body, settings)
}

/// The closing of the issue that was filed of a stand-in's work, after a model has done it; `None` where the issue stays.
pub(crate) fn made_good(session: &Session, milestone: &Milestone, what: Owed) -> Option<Closing> {
    let (key, comment) = match what {
        // The plan has no issue of its own.
        Owed::Plan => return None,
        Owed::Milestone(index) => {
            let commit = milestone.commit.as_ref().map(|commit| format!(" as {}", commit.short())).unwrap_or_default();
            let comment = format!(
                "A model has written {} after all: it is committed{commit} on branch `{}`, and the manual task is taken away.                  There is nothing left to do here.",
                heading(milestone),
                session.branch
            );
            (manual_key(index), comment)
        }
        Owed::Review(_) if !milestone.approved() => return None,
        Owed::Review(index) => {
            let model = milestone.review.as_ref().map_or("a model", |review| review.writer.name());
            (review_key(index), format!("{} has reviewed {} after all and approves it.", model, heading(milestone)))
        }
    };
    Some(Closing { issue: format!("{}-{key}", session.id), comment })
}

fn manual_key(milestone: u32) -> String {
    format!("m{milestone}-manual")
}

fn review_key(milestone: u32) -> String {
    format!("m{milestone}-review")
}

/// What is written when a session stands still or failed and waits for a person: an issue, unless one is open for the very
/// same stop. One that is open for another reason is closed, for it would mislead.
pub(crate) fn stop(
    keeper: &Keeper,
    session: &Session,
    reason: &str,
    settings: &IssueSettings,
    now_ms: u64,
) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(before) = keeper.standing(&session.id) {
        if is_same_stop(&before, reason) {
            return writes;
        }
        let comment =
            format!("The session has stopped again, for another reason: {reason}. There is a new issue for it.");
        writes.push(Write::WentOn(session.id.clone(), comment, now_ms));
    }
    let issue = stopped(session, reason, settings);
    writes.push(Write::Standing(session.id.clone(), issue.key.clone(), reason.to_owned()));
    writes.push(Write::Issue(session.id.clone(), Box::new(issue), now_ms));
    writes
}

/// What is written when a shutdown interrupts sessions (SPEC 8): one issue that names them all, and stays open until the last
/// of them has gone on. A session for which one is open for the same reason, because it has not moved since, needs none.
pub(crate) fn recovery(
    keeper: &Keeper,
    sessions: &[SessionId],
    reason: &str,
    settings: &IssueSettings,
    now_ms: u64,
) -> Vec<Write> {
    let heads = sessions.iter().filter_map(|id| keeper.head(id).ok().flatten());
    let stands = |session: &Session| keeper.standing(&session.id).is_some_and(|before| is_same_stop(&before, reason));
    let interrupted: Vec<Session> = heads.filter(|session| session.interrupt.is_some() && !stands(session)).collect();
    let Some(first) = interrupted.first() else { return Vec::new() };
    let mut body = format!("Steadfast has ended: {reason}. These sessions were at work or waited, and are saved:\n\n");
    for session in &interrupted {
        body.push_str(&format!(
            "- `{}`: idea `{}`, {}, milestone {} of {}, branch `{}` in `{}`\n",
            session.id,
            session.idea,
            session.phase,
            session.current,
            session.n_milestones,
            session.branch,
            session.repo
        ));
    }
    body.push_str(
        "\nNothing that was bought is lost.\n\n**What to do:** nothing, where a service manager starts the daemon again: \
         it goes on by itself, and this issue is closed then. Else start `steadfast daemon`, or go on by hand:\n\n",
    );
    for session in &interrupted {
        body.push_str(&format!("    steadfast resume {}\n", session.id));
    }
    let title = match interrupted.len() {
        1 => format!("[{}] Interrupted: {reason}", first.idea),
        n => format!("{n} sessions interrupted: {reason}"),
    };
    let issue = Issue {
        key: format!("{}-recovery-{now_ms}", first.id),
        kind: IssueKind::Recovery,
        title: short(title),
        body,
        labels: settings.labels.clone(),
        assignee: settings.assignee.clone(),
    };
    let mut writes = Vec::new();
    for session in &interrupted {
        if keeper.standing(&session.id).is_some() {
            let comment = format!("The session was interrupted again: {reason}. There is a new issue for it.");
            writes.push(Write::WentOn(session.id.clone(), comment, now_ms));
        }
        writes.push(Write::Standing(session.id.clone(), issue.key.clone(), reason.to_owned()));
    }
    writes.push(Write::Issue(first.id.clone(), Box::new(issue), now_ms));
    writes
}

/// A title as a list shows it.
fn short(title: String) -> String {
    if title.chars().count() > 120 { title.chars().take(119).chain(['…']).collect() } else { title }
}

/// The same words with other numbers (calls, tokens, times) are the same reason.
fn is_same_stop(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}

/// What is said of a session that has gone on after a stop; `None` when it stands still, or has not moved yet.
pub(crate) fn gone_on(session: &Session, happened: &Happened) -> Option<String> {
    let moves = match happened {
        Happened::Planned { .. }
        | Happened::BaselineChecked(_)
        | Happened::AgentsEnded(_)
        | Happened::Degraded(_)
        | Happened::Checked(_)
        | Happened::Reviewed(_)
        | Happened::Committed(_)
        | Happened::NotRedeemed(_)
        | Happened::Cancelled => true,
        Happened::Failed(_)
        | Happened::Interrupted(_)
        | Happened::EndedAbnormally
        | Happened::BranchTaken(_)
        | Happened::Resumed
        | Happened::Redeem { .. }
        | Happened::Retried => false,
    };
    // One that was taken up again to make up for something is completed as before, whatever ended that.
    if (!moves && session.phase != Phase::Completed) || session.interrupt.is_some() {
        return None;
    }
    match session.phase {
        Phase::Failed => None,
        Phase::Cancelled => Some(format!("The session was cancelled. Its branch `{}` is kept.", session.branch)),
        Phase::Completed => Some(format!("The session has gone on and is completed, on branch `{}`.", session.branch)),
        Phase::Queued | Phase::Planning | Phase::Implementing | Phase::Reviewing => Some(format!(
            "The session has gone on: it is {} milestone {} of {}.",
            session.phase, session.current, session.n_milestones
        )),
    }
}

fn stopped(session: &Session, reason: &str, settings: &IssueSettings) -> Issue {
    let spent = session.spent;
    let body = format!(
        "The session stands still in phase `{}`, milestone {} of {}.\n\n**Reason:** {reason}\n\n\
         Spent so far: {} calls, {} tokens. Nothing that was bought is lost.\n\n\
         **What to do:** remove the reason, then `steadfast resume {}`.\n",
        session.phase,
        session.current,
        session.n_milestones,
        spent.calls,
        spent.tokens(),
        session.id
    );
    let title = short(format!("[{}] Stopped: {reason}", session.idea));
    issue(session, IssueKind::Recovery, &format!("stopped-{}", session.updated_ms), title, body, settings)
}

fn tried(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return String::new();
    }
    let mut lines = String::from("Models tried:\n");
    for attempt in attempts {
        let said = match &attempt.outcome {
            AttemptOutcome::Answered => "answered".to_owned(),
            AttemptOutcome::Failed { message, .. } => message.clone(),
            AttemptOutcome::Refused { reason } => format!("not asked: {reason}"),
        };
        lines.push_str(&format!("- `{}`: {said}\n", attempt.model));
    }
    lines
}

fn quote(text: &str) -> String {
    let text = if text.is_empty() { "(the plan says no more)" } else { text };
    text.lines().map(|line| format!("> {line}\n")).collect()
}

/// A fence longer than any run of backticks inside, so that no output can end it.
fn fenced(text: &str) -> String {
    let mut longest = 2;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(longest + 1);
    format!("{fence}\n{}\n{fence}", text.trim_end())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
