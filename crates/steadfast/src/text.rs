//! Reports as text for people, readable without color.

use std::fmt::Write as _;

use clap::Parser as _;

use crate::cli::Cli;
use crate::history::Table;
use crate::report::{FileReport, MilestoneReport, OutboxReport, Report};
use crate::wire::{CheckBody, DamagedRecord, ModelRow, RateRow, Reloaded, StatusBody};

/// What a reload has done.
pub(crate) fn reloaded(done: &Reloaded) -> String {
    let mut out = "the configuration was read again; sessions at work keep what they began with\n".to_owned();
    let mut line = |what: &str, items: &[String]| {
        if !items.is_empty() {
            let _ = writeln!(out, "{what}: {}", items.join(", "));
        }
    };
    line("new models", &done.models_added);
    line("models that no role lists any more", &done.models_removed);
    line("changed, but only from the next start on", &done.at_next_start);
    for warning in &done.warnings {
        line("warning", std::slice::from_ref(warning));
    }
    out
}

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
    if !report.damaged.is_empty() {
        let names = report.damaged.join(", ");
        let _ = writeln!(
            out,
            "damaged: records of this session did not verify and are set aside ({names}): what they held is"
        );
        let _ = writeln!(out, "         missing here, or is what was saved before; commits are not touched by that");
    }
    Table::plan(report).write(&mut out, "  ");
    for one in &report.milestones {
        milestone(&mut out, report, one);
    }
    for one in &report.redeemed {
        let of = one.milestone.map(|index| format!(" of milestone {index}")).unwrap_or_default();
        let commit = one.commit.as_deref().map(|commit| format!(", {}", &commit[..10])).unwrap_or_default();
        let _ =
            writeln!(out, "\n  Redeemed: a model has taken the place of the {}{of} ({}{commit})", one.stand_in, one.at);
    }
    if let Some(why) = &report.not_redeemed {
        let _ = writeln!(out, "\n  Not redeemed: {why}");
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
    let calls = n_of(usize::try_from(spent.calls).unwrap_or(usize::MAX), "call");
    let _ = writeln!(out, "\n  {calls}, {tokens} tokens{cost}");
    let _ = writeln!(out, "  {}", next_step(report));
    harmless(&out)
}

/// Names and texts come from models: none of them may move a terminal's cursor, set its title or worse.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Control characters, and those that turn the direction of writing round, which make one name look like another.
pub(crate) fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn milestone(out: &mut String, report: &Report, milestone: &MilestoneReport) {
    let mut facts = Vec::new();
    if let Some(rate) = milestone.success_rate {
        facts.push(format!("{:.0} % of files", rate * 100.0));
    }
    if milestone.status != "pending" {
        facts.push(milestone.commit.as_deref().map_or("no commit", |commit| &commit[..10]).to_owned());
    }
    match milestone.approved {
        Some(true) => facts.push("approved".to_owned()),
        Some(false) => facts.push("NOT approved".to_owned()),
        None => {}
    }
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let _ = writeln!(out, "\n  {}. {}: {}{facts}", milestone.index, milestone.name, standing(report, milestone));
    let mut table = Table::default();
    for file in milestone.files.iter().flatten() {
        table.file(report, milestone, file, file_line(file));
    }
    table.free(report, milestone);
    for check in &milestone.checks {
        table.line(format!("check  `{}`: {}", check.command, check.summary));
    }
    if let Some(review) = &milestone.review {
        let verdict = if review.approved { "approved" } else { "rejected" };
        let line = format!("review {verdict} by {}, quality {}/100", review.model, review.code_quality);
        table.review(report, milestone, line);
        for issue in &review.issues {
            let file = issue.file.as_deref().map(|file| format!("{file}: ")).unwrap_or_default();
            let remark = issue.issue.replace('\n', " ");
            table.line(format!("       {}: {file}{remark}", issue.severity));
        }
    }
    table.write(out, "     ");
}

/// A milestone's status in words: `pending` is two things to a person.
fn standing<'a>(report: &Report, milestone: &'a MilestoneReport) -> &'a str {
    if milestone.status != "pending" {
        return &milestone.status;
    }
    match (milestone.index == report.current_milestone, report.is_over()) {
        (true, true) => "not finished",
        (true, false) => "under way",
        (false, true) => "not begun",
        (false, false) => "to come",
    }
}

fn file_line(file: &FileReport) -> String {
    let fallback = if file.fallback { " [fallback]" } else { "" };
    // The stand-ins are no writers: a deleted file needs none, and a manual task waits for one.
    let by = match file.model.as_deref() {
        Some("git") => " (deleted)".to_owned(),
        Some("manual") | None => String::new(),
        Some(model) => format!(" by {model}"),
    };
    let error = file.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{:<6} {}{by}{fallback}{error}", file.status, file.path)
}

/// Its phase and what is to be known beside it, in a few words.
pub(crate) fn outcome(report: &Report) -> String {
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
    let n_rejected = report.milestones.iter().filter(|milestone| milestone.approved == Some(false)).count();
    if n_rejected > 0 {
        words.push(format!("{} not approved", n_of(n_rejected, "milestone")));
    }
    words.join(", ")
}

fn next_step(report: &Report) -> String {
    let repo = shell_word(&report.repo);
    match report.phase.as_str() {
        "completed" => format!("Look at it: git -C {repo} log --stat HEAD..{}", report.branch),
        "failed" | "cancelled" => format!("Take it up again: {}", order("retry", &report.session_id)),
        _ if report.interrupted => format!("Go on: {}", order("resume", &report.session_id)),
        // Without a daemon nobody carries it: its process was killed before it could say so.
        _ => format!(
            "Look again: {}; if nothing is at work on it: {}",
            order("show", &report.session_id),
            order("resume", &report.session_id)
        ),
    }
}

/// A command about a session, with the options by which this one found its store.
fn order(verb: &str, session: &str) -> String {
    let mut words = vec!["steadfast".to_owned()];
    if let Ok(cli) = Cli::try_parse() {
        for file in &cli.global.config {
            words.extend(["--config".to_owned(), shell_word(&file.to_string_lossy())]);
        }
        if let Some(dir) = &cli.global.state_dir {
            words.extend(["--state-dir".to_owned(), shell_word(&dir.to_string_lossy())]);
        }
    }
    words.extend([verb.to_owned(), session.to_owned()]);
    words.join(" ")
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

/// `1 remark`, `2 remarks`.
pub(crate) fn n_of(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
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
    let mut out = String::new();
    if let Some(reason) = &status.paused {
        let _ = writeln!(out, "⏸ Paused: {reason}. It goes on by itself when there is room.\n");
    }
    out.push_str("🔄 Failover Status:\n");
    let roles =
        [("planner", &status.roles.planner), ("coder", &status.roles.coder), ("reviewer", &status.roles.reviewer)];
    for (role, models) in roles {
        let _ = writeln!(out, "   {role}:");
        for ModelRow { model, priority, circuit_breaker, retry_in_ms, timeout_raised_by_ms } in models {
            let test = match retry_in_ms {
                None => String::new(),
                Some(0) => ", next test with the next call".to_owned(),
                Some(ms) => format!(", next test in {}", crate::progress::span(*ms)),
            };
            let raised = timeout_raised_by_ms
                .map(|ms| format!(", timeout raised by {}", crate::progress::span(ms)))
                .unwrap_or_default();
            let _ = writeln!(out, "      {priority}. {model} [{circuit_breaker}]{test}{raised}");
        }
    }
    let _ = writeln!(out, "\n   {:<20} {:<18} since the store began", "rate", "last hour");
    for (name, shown) in [
        ("primarySuccess", "primary success"),
        ("fallback", "fallback"),
        ("degradation", "degradation"),
        ("breakerOpens", "breaker opens"),
        ("partialSuccess", "partial success"),
    ] {
        if let Some(rate) = status.rates.get(name) {
            let is_share = name != "breakerOpens";
            let (hour, total) = (rate_text(&rate.last_hour, is_share), rate_text(&rate.since_start, is_share));
            let _ = writeln!(out, "   {shown:<20} {hour:<18} {total}");
        }
    }
    let sessions = &status.sessions;
    let _ = writeln!(
        out,
        "\nSessions: {} active, {} queued, {} interrupted, {} completed, {} failed, {} cancelled",
        sessions.active, sessions.queued, sessions.interrupted, sessions.completed, sessions.failed, sessions.cancelled
    );
    let _ = writeln!(out, "Outbox: {} undelivered", status.outbox.undelivered);
    let store = &status.store;
    for line in &store.healed {
        let _ = writeln!(out, "Store: {line}");
    }
    if store.set_aside_records > 0 {
        let n = n_of(store.set_aside_records, "record");
        let _ = writeln!(out, "Store: {n} did not verify and are set aside; `steadfast store check` names them");
    }
    if let Some(newest) = store.set_aside_files.last() {
        let _ = writeln!(out, "Store: files that were damaged lie in {newest}");
    }
    let _ = writeln!(out, "Daemon: {}", if status.daemon { "running" } else { "not running" });
    harmless(&out)
}

/// What a check has found.
pub(crate) fn check(check: &CheckBody) -> String {
    let mut out = String::new();
    let records = n_of(usize::try_from(check.records).unwrap_or(usize::MAX), "record");
    let _ = writeln!(out, "{records} and {} kept from before verify, {} bytes", check.previous, check.payload_bytes);
    for line in &check.healed {
        let _ = writeln!(out, "mended: {line}");
    }
    for DamagedRecord { key, reason } in &check.damaged {
        let _ = writeln!(out, "damaged: {key}: {reason}");
    }
    for key in &check.set_aside {
        let _ = writeln!(out, "set aside: {key} did not verify; its bytes are kept");
    }
    if check.missing > 0 {
        let n = n_of(usize::try_from(check.missing).unwrap_or(usize::MAX), "record");
        let _ = writeln!(out, "missing: {n} that must be there");
    }
    for folder in &check.set_aside_files {
        let _ =
            writeln!(out, "damaged files of an earlier opening lie in {folder}; remove it when you need them no more");
    }
    let _ = writeln!(out, "{}", if check.sound { "The store is sound." } else { "The store is damaged." });
    harmless(&out)
}

fn rate_text(rate: &RateRow, is_share: bool) -> String {
    match rate.value {
        None => "-".to_owned(),
        Some(value) if is_share => format!("{:.0} % {}", value * 100.0, rate.level),
        Some(value) => format!("{value:.0} {}", rate.level),
    }
}

/// Two lines each.
pub(crate) fn outbox(reports: &[OutboxReport]) -> String {
    if reports.is_empty() {
        return "no issues and no alerts\n".to_owned();
    }
    let mut out = String::new();
    for report in reports {
        let at = match (&report.issue.url, report.issue.delivered, &report.error) {
            (Some(url), _, _) => url.clone(),
            (None, true, _) => "delivered".to_owned(),
            (None, false, None) => "not delivered yet".to_owned(),
            (None, false, Some(error)) => format!("not delivered yet: {error}"),
        };
        let _ = writeln!(out, "{}  {:<11} {}\n    {at}", report.created_at, report.issue.kind, report.issue.title);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::SpentReport;

    fn milestone(index: u32, status: &str) -> MilestoneReport {
        MilestoneReport {
            index,
            name: "Greet".to_owned(),
            status: status.to_owned(),
            success_rate: None,
            verdict: None,
            commit: None,
            approved: None,
            files: None,
            checks: Vec::new(),
            review: None,
        }
    }

    fn a_report(phase: &str, milestones: Vec<MilestoneReport>) -> Report {
        Report {
            session_id: "s001m86myq9a-y9dr0n".to_owned(),
            idea_id: "002-feature".to_owned(),
            title: "Greet".to_owned(),
            phase: phase.to_owned(),
            success: phase == "completed",
            partial: false,
            degraded: false,
            current_milestone: 1,
            interrupted: false,
            emergency_shutdown: false,
            shutdown_at: None,
            interrupt_reason: None,
            can_resume: false,
            error: None,
            repo: "/home/a b".to_owned(),
            branch: "steadfast/002-feature".to_owned(),
            created_at: String::new(),
            updated_at: String::new(),
            spent: SpentReport { calls: 1, input_tokens: 2, output_tokens: 3, cost: 0.0 },
            milestones,
            issues: Vec::new(),
            history: Vec::new(),
            damaged: Vec::new(),
            redeemed: Vec::new(),
            not_redeemed: None,
        }
    }

    #[test]
    fn a_pending_milestone_is_told_apart_by_where_the_session_stands() {
        let words = |phase: &str| {
            let report = a_report(phase, vec![milestone(1, "pending"), milestone(2, "pending")]);
            let standing = |at: usize| standing(&report, &report.milestones[at]).to_owned();
            [standing(0), standing(1)]
        };
        assert_eq!(words("implementing"), ["under way", "to come"]);
        assert_eq!(words("cancelled"), ["not finished", "not begun"]);
    }

    #[test]
    fn a_completed_session_says_at_once_what_was_not_approved() {
        let mut report = a_report("completed", vec![milestone(1, "completed"), milestone(2, "completed")]);
        report.milestones[1].approved = Some(false);
        assert_eq!(outcome(&report), "completed, 1 milestone not approved");
    }

    #[test]
    fn a_deleted_file_and_a_manual_one_name_no_writer() {
        let line = |status: &str, model: &str| {
            let (path, status, model) = ("src/a.c".to_owned(), status.to_owned(), Some(model.to_owned()));
            file_line(&FileReport { path, status, model, fallback: false, degraded: false, error: None })
        };
        assert_eq!(line("ok", "git"), "ok     src/a.c (deleted)");
        assert_eq!(line("manual", "manual"), "manual src/a.c");
        assert_eq!(line("ok", "p/m"), "ok     src/a.c by p/m");
    }

    #[test]
    fn what_a_model_wrote_cannot_steer_the_terminal() {
        let mut one = milestone(1, "failed");
        let (path, status) = ("\u{1b}]0;title\u{7}x\rok\u{202e}gnp".to_owned(), "failed".to_owned());
        one.files = Some(vec![FileReport { path, status, model: None, fallback: false, degraded: false, error: None }]);
        let text = report(&a_report("failed", vec![one]));
        assert!(text.contains("failed \u{fffd}]0;title\u{fffd}x\u{fffd}ok\u{fffd}gnp\n"), "{text:?}");
    }

    #[test]
    fn a_session_with_set_aside_records_says_so() {
        let mut one = a_report("completed", Vec::new());
        assert!(!report(&one).contains("damaged"));
        one.damaged = vec!["m/001".to_owned()];
        let text = report(&one);
        assert!(text.contains("damaged: ") && text.contains("set aside (m/001)"), "{text}");
    }

    #[test]
    fn a_report_ends_with_a_command_that_a_shell_takes_as_it_stands() {
        let text = report(&a_report("completed", vec![milestone(1, "completed")]));
        assert!(text.contains("\n  1 call, 5 tokens\n"), "{text}");
        let command = "git -C '/home/a b' log --stat HEAD..steadfast/002-feature";
        assert!(text.ends_with(&format!("Look at it: {command}\n")), "{text}");
    }
}
