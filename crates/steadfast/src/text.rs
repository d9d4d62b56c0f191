//! Reports as text for people, readable without color.

use std::fmt::Write as _;

use crate::report::{OutboxReport, Report};
use crate::wire::{ModelRow, StatusBody};

/// A whole session: what was done, by whom, what is missing, what to do.
pub(crate) fn report(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "\n{} ({}): {}", report.title, report.idea_id, outcome(report));
    let _ = writeln!(out, "session {}   branch {}   in {}", report.session_id, report.branch, report.repo);
    if let Some(error) = &report.error {
        let _ = writeln!(out, "failed: {error}");
    }
    if let Some(reason) = &report.interrupt_reason {
        let _ = writeln!(out, "interrupted: {reason}");
    }
    for milestone in &report.milestones {
        let commit = milestone.commit.as_deref().map_or("no commit", |commit| &commit[..10]);
        let rate = milestone.success_rate.map(|rate| format!("{:.0} % of files, ", rate * 100.0)).unwrap_or_default();
        let approved = match milestone.approved {
            Some(true) => ", approved",
            Some(false) => ", NOT approved",
            None => "",
        };
        let _ = writeln!(
            out,
            "\n  {}. {}: {} ({rate}{commit}{approved})",
            milestone.index, milestone.name, milestone.status
        );
        for file in milestone.files.iter().flatten() {
            let by = file.model.as_deref().map(|model| format!(" by {model}")).unwrap_or_default();
            let fallback = if file.fallback { " [fallback]" } else { "" };
            let error = file.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            let _ = writeln!(out, "     {:<6} {}{by}{fallback}{error}", file.status, file.path);
        }
        for check in &milestone.checks {
            let _ = writeln!(out, "     check  `{}`: {}", check.command, check.summary);
        }
        if let Some(review) = &milestone.review {
            let verdict = if review.approved { "approved" } else { "rejected" };
            let _ = writeln!(out, "     review {verdict} by {}, quality {}/100", review.model, review.code_quality);
            for issue in &review.issues {
                let _ = writeln!(out, "            {}: {}", issue.severity, issue.issue);
            }
        }
    }
    if !report.issues.is_empty() {
        let _ = writeln!(out, "\n  For a person:");
        for issue in &report.issues {
            let at = issue.url.as_deref().map_or("not delivered yet".to_owned(), |url| format!("→ {url}"));
            let _ = writeln!(out, "     {}  {at}", issue.title);
        }
    }
    let spent = &report.spent;
    let tokens = spent.input_tokens + spent.output_tokens;
    let cost = if spent.cost > 0.0 { format!(", cost {:.4}", spent.cost) } else { String::new() };
    let _ = writeln!(out, "\n  {} calls, {tokens} tokens{cost}", spent.calls);
    let _ = writeln!(out, "  {}", next_step(report));
    out
}

fn outcome(report: &Report) -> String {
    let mut words = vec![report.phase.clone()];
    if report.interrupted {
        words.push("interrupted, can go on".to_owned());
    }
    if report.partial {
        words.push("partial".to_owned());
    }
    if report.degraded {
        words.push("degraded".to_owned());
    }
    words.join(", ")
}

fn next_step(report: &Report) -> String {
    let repo = shell_word(&report.repo);
    match report.phase.as_str() {
        "completed" => format!("Look at it: git -C {repo} log --stat {}..{}", "HEAD", report.branch),
        "failed" | "cancelled" => format!("Take it up again: steadfast retry {}", report.session_id),
        _ if report.interrupted => format!("Go on: steadfast resume {}", report.session_id),
        _ => format!("Watch it: steadfast show {}", report.session_id),
    }
}

/// As a shell would take it for one word.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Where a session stands, in one line.
pub(crate) fn progress_line(report: &Report) -> String {
    let milestone = match report.milestones.get(report.current_milestone.saturating_sub(1) as usize) {
        Some(milestone) if report.current_milestone > 0 => {
            format!(" milestone {}/{}: {}", milestone.index, report.milestones.len(), milestone.name)
        }
        _ => String::new(),
    };
    format!("{} {}{milestone}", report.idea_id, outcome(report))
}

/// A line a session, newest first.
pub(crate) fn sessions(reports: &[Report]) -> String {
    if reports.is_empty() {
        return "no sessions yet: begin with `steadfast run IDEA.md --repo DIR`\n".to_owned();
    }
    let mut out = String::new();
    for report in reports {
        let done = report.milestones.iter().filter(|milestone| milestone.status != "pending").count();
        let _ = writeln!(
            out,
            "{}  {}  {:<24} {}/{} milestones  {}",
            report.created_at,
            report.session_id,
            report.idea_id,
            done,
            report.milestones.len(),
            outcome(report)
        );
    }
    out
}

/// The seed's dashboard.
pub(crate) fn status(status: &StatusBody) -> String {
    let mut out = String::from("🔄 Failover Status:\n");
    let roles =
        [("planner", &status.roles.planner), ("coder", &status.roles.coder), ("reviewer", &status.roles.reviewer)];
    for (role, models) in roles {
        let _ = writeln!(out, "   {role}:");
        for ModelRow { model, priority, circuit_breaker, retry_in_ms } in models {
            let test = retry_in_ms.map(|ms| format!(", next test in {:.0} s", ms as f64 / 1000.0)).unwrap_or_default();
            let _ = writeln!(out, "      {priority}. {model} [{circuit_breaker}]{test}");
        }
    }
    let sessions = &status.sessions;
    let _ = writeln!(
        out,
        "\nSessions: {} active, {} queued, {} interrupted, {} completed, {} failed, {} cancelled",
        sessions.active, sessions.queued, sessions.interrupted, sessions.completed, sessions.failed, sessions.cancelled
    );
    let _ = writeln!(out, "Outbox: {} undelivered", status.outbox.undelivered);
    let _ = writeln!(out, "Daemon: {}", if status.daemon { "running" } else { "not running" });
    out
}

/// A line an issue.
pub(crate) fn outbox(reports: &[OutboxReport]) -> String {
    if reports.is_empty() {
        return "no issues\n".to_owned();
    }
    let mut out = String::new();
    for report in reports {
        let at = report.issue.url.as_deref().unwrap_or("not delivered yet");
        let _ = writeln!(out, "{}  {:<11} {}\n    {at}", report.created_at, report.issue.kind, report.issue.title);
    }
    out
}
