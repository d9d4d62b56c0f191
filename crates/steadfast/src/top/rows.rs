//! The rows of each pane, and what opens behind a row.

use std::fmt::Write as _;

use jiff::Timestamp;
use ratatui::text::Span;
use serde_json::Value;

use super::work::{Agent, Doing};
use super::{Pane, Told, Top};
use crate::progress::span;
use crate::report::{MilestoneReport, OutboxReport, Report};
use crate::text::{self, harmless};
use crate::wire::{ModelRow, RateReport, RateRow};

/// Entries of the outbox that are listed, beside those that wait: the newest.
const MAX_DELIVERED: usize = 100;

/// How a word is meant. It is never said by color alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Quiet,
    Good,
    Warn,
    Bad,
    Test,
}

/// A row of a pane.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) parts: Vec<(String, Tone)>,
    /// It can be chosen; the others belong to the one above or below them.
    pub(super) can_be_chosen: bool,
}

impl Row {
    fn new(parts: Vec<(String, Tone)>) -> Self {
        Self { parts, can_be_chosen: true }
    }

    fn beside(parts: Vec<(String, Tone)>) -> Self {
        Self { parts, can_be_chosen: false }
    }
}

/// One line that steers no terminal.
fn clean(text: &str) -> String {
    harmless(text).replace('\n', " ")
}

/// Exactly so many columns: cut, with an ellipsis, or filled up. Wide characters count as two.
pub(super) fn fit(text: &str, width: usize) -> String {
    let all = Span::raw(text).width();
    if all <= width {
        return format!("{text}{}", " ".repeat(width - all));
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let mut buffer = [0; 4];
        let wide = Span::raw(&*c.encode_utf8(&mut buffer)).width();
        // One column stays for the ellipsis.
        if used + wide + 1 > width {
            break;
        }
        out.push(c);
        used += wide;
    }
    if used < width {
        out.push('…');
        used += 1;
    }
    out + &" ".repeat(width.saturating_sub(used))
}

/// A metric as people say it.
pub(super) fn rate_name(name: &str) -> &str {
    match name {
        "primarySuccess" => "primary success",
        "fallback" => "fallback",
        "degradation" => "degradation",
        "breakerOpens" => "breaker opens",
        "partialSuccess" => "partial success",
        other => other,
    }
}

const RATES: [&str; 5] = ["primarySuccess", "fallback", "degradation", "breakerOpens", "partialSuccess"];

/// Neither over nor standing still.
pub(super) fn is_live(report: &Report) -> bool {
    !report.is_over() && !report.interrupted
}

impl Top {
    /// The sessions that are shown: those at work, those that stand still, the others; the newest first.
    pub(super) fn session_rows(&self) -> Vec<&Report> {
        let fits = |report: &&Report| {
            self.fits(&format!("{} {} {} {}", report.idea_id, report.session_id, report.title, text::outcome(report)))
        };
        let mut rows: Vec<&Report> = self.sessions.iter().filter(fits).collect();
        rows.sort_by_key(|report| (report.is_over(), report.interrupted));
        rows
    }

    fn model_rows(&self) -> Vec<(&'static str, &ModelRow)> {
        let Some((status, _)) = &self.status else { return Vec::new() };
        let roles =
            [("planner", &status.roles.planner), ("coder", &status.roles.coder), ("reviewer", &status.roles.reviewer)];
        let rows = roles.into_iter().flat_map(|(role, models)| models.iter().map(move |model| (role, model)));
        rows.filter(|(role, row)| self.fits(&format!("{role} {} {}", row.model, row.circuit_breaker))).collect()
    }

    pub(super) fn chosen_model(&self) -> Option<String> {
        let rows = self.model_rows();
        let at = self.chosen(Pane::Models).min(rows.len().saturating_sub(1));
        rows.get(at).map(|(_, row)| row.model.clone())
    }

    /// Newest first.
    fn event_rows(&self) -> Vec<&Told> {
        self.feed.iter().rev().filter(|told| self.fits(&told.line)).collect()
    }

    /// Whose event it is; empty: of no session alone.
    fn idea_of<'a>(&'a self, told: &'a Told) -> &'a str {
        let session = told.event["sessionId"].as_str();
        let known = session.and_then(|id| self.sessions.iter().find(|report| report.session_id == id));
        known.map(|report| report.idea_id.as_str()).or(told.event["ideaId"].as_str()).unwrap_or_default()
    }

    /// What waits, then what was delivered; the newest first.
    fn outbox_rows(&self) -> Vec<&OutboxReport> {
        let fits = |entry: &&OutboxReport| self.fits(&format!("{} {}", entry.issue.kind, entry.issue.title));
        let (waits, delivered): (Vec<_>, Vec<_>) =
            self.outbox.iter().filter(fits).partition(|entry| !entry.issue.delivered);
        waits.into_iter().chain(delivered.into_iter().take(MAX_DELIVERED)).collect()
    }

    /// How many rows of a pane can be chosen.
    pub(super) fn n_rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Sessions => self.session_rows().len(),
            Pane::Models => self.model_rows().len(),
            Pane::Events => self.event_rows().len(),
            Pane::Rates => RATES.len(),
            Pane::Outbox => self.outbox_rows().len(),
        }
    }

    /// The rows of a pane that is so wide.
    pub(super) fn rows(&self, pane: Pane, width: usize, now: Timestamp) -> Vec<Row> {
        let rows: Vec<Row> = match pane {
            Pane::Sessions => self.session_rows().into_iter().flat_map(|one| self.session(one, now)).collect(),
            Pane::Models => self.models(now),
            Pane::Events => self.event_rows().into_iter().map(|told| event(told, self.idea_of(told))).collect(),
            Pane::Rates => RATES.iter().map(|name| self.rate(name, width)).collect(),
            Pane::Outbox => self.outbox_rows().into_iter().map(outgoing).collect(),
        };
        if !rows.is_empty() {
            return rows;
        }
        let nothing = match pane {
            _ if !self.filter.is_empty() => "nothing here has that text",
            Pane::Sessions => "no sessions yet: steadfast submit IDEA.md --repo DIR",
            Pane::Models => "not known yet",
            Pane::Events => "nothing has happened yet",
            Pane::Rates => "not known yet",
            Pane::Outbox => "no issues and no alerts",
        };
        vec![Row::beside(vec![(nothing.to_owned(), Tone::Quiet)])]
    }

    /// A session, and below it, while it is at work, its milestone and the agents of it.
    fn session(&self, report: &Report, now: Timestamp) -> Vec<Row> {
        let (mark, tone) = session_mark(report);
        let mut parts =
            vec![(format!("{mark} "), tone), (clean(&report.idea_id), Tone::Strong), ("  ".to_owned(), tone)];
        parts.push((clean(&text::outcome(report)), tone));
        let steps = milestones(&report.milestones, report.current_milestone, report.is_over());
        if !steps.is_empty() {
            parts.push((format!("  {steps}"), Tone::Plain));
        }
        let (at, word) = if is_live(report) { (&report.created_at, "") } else { (&report.updated_at, " ago") };
        if let Ok(at) = at.parse::<Timestamp>() {
            parts.push((format!("  {}{word}", age(now, at)), Tone::Quiet));
        }
        let mut rows = vec![Row::new(parts)];
        if !is_live(report) {
            return rows;
        }
        let at = report.milestones.iter().find(|milestone| milestone.index == report.current_milestone);
        if let Some(milestone) = at {
            let name =
                format!("    milestone {}/{}: {}", milestone.index, report.milestones.len(), clean(&milestone.name));
            rows.push(Row::beside(vec![(name, Tone::Plain)]));
        }
        rows.extend(self.at_work.of(&report.session_id).map(|(name, agent)| agent_row(name, agent, now)));
        rows
    }

    fn models(&self, now: Timestamp) -> Vec<Row> {
        let passed = self.status.as_ref().map_or(0, |(_, at)| now.as_millisecond() - at.as_millisecond());
        let passed = u64::try_from(passed).unwrap_or(0);
        let mut rows = Vec::new();
        let mut headed = "";
        for (role, row) in self.model_rows() {
            if role != headed {
                rows.push(Row::beside(vec![(role.to_owned(), Tone::Strong)]));
                headed = role;
            }
            let (mark, word, tone) = breaker(&row.circuit_breaker);
            // What may be long comes last: on a narrow screen it is cut.
            let word = match row.retry_in_ms.map(|ms| ms.saturating_sub(passed)) {
                None => word.to_owned(),
                Some(0) => format!("{word}, test due"),
                Some(ms) => format!("{word}, test {}", countdown(ms)),
            };
            let reason = row.circuit_breaker.strip_prefix("UNAVAILABLE ").unwrap_or_default();
            let mut parts = vec![
                (format!("  {} ", row.priority), Tone::Quiet),
                (format!("{mark} {} ", fit(&word, 17)), tone),
                (clean(&row.model), Tone::Plain),
            ];
            if !reason.is_empty() {
                parts.push((format!("  {}", clean(reason)), Tone::Quiet));
            }
            rows.push(Row::new(parts));
        }
        rows
    }

    fn rate(&self, name: &str, width: usize) -> Row {
        let mut parts = vec![(fit(rate_name(name), 16), Tone::Plain)];
        match self.status.as_ref().and_then(|(status, _)| status.rates.get(name)) {
            None => parts.push(("-".to_owned(), Tone::Quiet)),
            Some(RateReport { last_hour, since_start }) => {
                let is_share = name != "breakerOpens";
                parts.push((format!("{:>5} ", rate_value(last_hour, is_share)), Tone::Strong));
                parts.push((fit(&level(last_hour), 9), level_tone(last_hour)));
                let series = self.series.get(name).map(Vec::as_slice).unwrap_or_default();
                let room = width.saturating_sub(16 + 6 + 9);
                // What was since the store began comes behind, where there is room.
                let since = format!(" all {:>5}", rate_value(since_start, is_share));
                let bars = room.saturating_sub(if room > 30 { since.len() } else { 0 });
                parts.push((sparkline(series, bars, is_share), level_tone(last_hour)));
                if room > 30 {
                    parts.push((since, Tone::Quiet));
                }
            }
        }
        Row::new(parts)
    }

    /// Title and text of the chosen row of a pane, in full.
    pub(super) fn in_full(&self, pane: Pane) -> Option<(String, String)> {
        let at = self.chosen(pane).min(self.n_rows(pane).saturating_sub(1));
        match pane {
            Pane::Sessions => None,
            Pane::Models => {
                self.model_rows().get(at).map(|(role, row)| (row.model.clone(), self.model_in_full(role, row)))
            }
            Pane::Events => self.event_rows().get(at).map(|told| event_in_full(&told.event)),
            Pane::Rates => Some(("Rates".to_owned(), RATES_IN_FULL.to_owned())),
            Pane::Outbox => self.outbox_rows().get(at).map(|entry| outgoing_in_full(entry)),
        }
    }

    fn model_in_full(&self, role: &str, row: &ModelRow) -> String {
        let mut out = format!("number {} of the {role}\nbreaker: {}\n", row.priority, clean(&row.circuit_breaker));
        if let Some(ms) = row.retry_in_ms {
            let _ = writeln!(out, "next test: in {} when this was asked", span(ms));
        }
        let _ = writeln!(out, "\nWhat happened to it lately, newest first:");
        let lately = self.feed.iter().rev().filter(|told| told.event["model"] == row.model.as_str());
        for told in lately.take(50) {
            let _ = writeln!(out, "{}", told.line);
        }
        out + "\nb resets its breaker."
    }
}

const RATES_IN_FULL: &str = "\
Of the last hour; the bars are the hours before it. \"all\": since the store began.

                  good      warning    critical
primary success   > 90 %    70-90 %    < 70 %      answered by the role's first model
fallback          < 10 %    10-30 %    > 30 %      answered by another one
degradation       < 5 %     5-15 %     > 15 %      answered by none: a stand-in
breaker opens     0         1-3        > 3         how often a breaker opened
partial success   < 10 %    10-25 %    > 25 %      milestones kept with files missing";

fn session_mark(report: &Report) -> (char, Tone) {
    match report.phase.as_str() {
        _ if report.interrupted => ('‖', Tone::Warn),
        "completed" if report.partial || report.degraded => ('◐', Tone::Warn),
        "completed" => ('✓', Tone::Good),
        "failed" => ('✗', Tone::Bad),
        "cancelled" => ('–', Tone::Quiet),
        "queued" => ('…', Tone::Quiet),
        _ => ('▸', Tone::Test),
    }
}

/// A sign for each milestone, e.g. `[✓◐▸··]`.
fn milestones(milestones: &[MilestoneReport], current: u32, is_over: bool) -> String {
    if milestones.is_empty() {
        return String::new();
    }
    let sign = |milestone: &MilestoneReport| match milestone.status.as_str() {
        "completed" => '✓',
        "partial" => '◐',
        "degraded" => '⚠',
        "failed" => '✗',
        _ if milestone.index == current && !is_over => '▸',
        _ => '·',
    };
    let done = milestones.iter().filter(|milestone| milestone.status != "pending").count();
    let signs: String = milestones.iter().take(20).map(sign).collect();
    let more = if milestones.len() > 20 { "…" } else { "" };
    format!("[{signs}{more}] {done}/{}", milestones.len())
}

fn agent_row(name: &str, agent: &Agent, now: Timestamp) -> Row {
    let (mark, tone, what) = match &agent.doing {
        Doing::Asks { model, attempt } => {
            let again = if *attempt > 1 { format!(", try {attempt}") } else { String::new() };
            ('▸', Tone::Test, format!("asks {model}{again}"))
        }
        Doing::Waits { why } => ('…', Tone::Warn, format!("waits {why}")),
        Doing::Checks => ('▸', Tone::Test, "runs".to_owned()),
        Doing::Done => ('✓', Tone::Good, "written".to_owned()),
        Doing::Failed(error) => ('✗', Tone::Bad, format!("not written: {error}")),
    };
    let mut parts =
        vec![(format!("    {mark} "), tone), (clean(name), Tone::Plain), (format!("  {}", clean(&what)), tone)];
    let is_busy = !matches!(agent.doing, Doing::Done | Doing::Failed(_));
    if let Some(since) = agent.since.filter(|_| is_busy) {
        parts.push((format!("  {}", age(now, since)), Tone::Quiet));
    }
    Row::beside(parts)
}

/// The sign and the word of a breaker's state, and how it is meant.
fn breaker(status: &str) -> (char, &str, Tone) {
    match status {
        "CLOSED" => ('●', "CLOSED", Tone::Good),
        "OPEN" => ('○', "OPEN", Tone::Bad),
        "HALF-OPEN" => ('◌', "HALF-OPEN", Tone::Test),
        _ if status.starts_with("UNAVAILABLE") => ('✕', "UNAVAILABLE", Tone::Bad),
        other => ('◐', other, Tone::Warn),
    }
}

fn event(told: &Told, idea: &str) -> Row {
    let tone = match told.event["event"].as_str().unwrap_or_default() {
        "attempt_failed" | "exhausted" | "degraded" | "waiting" | "interrupted" | "paused" | "fix_round" => Tone::Warn,
        "actor_failed" | "missed" => Tone::Bad,
        "attempt_succeeded" | "committed" => Tone::Good,
        "attempt_started" | "model_refused" | "execution_started" | "answer_reused" => Tone::Quiet,
        "file_ended" if !told.event["error"].is_null() => Tone::Bad,
        "check_ended" if told.event["passed"] == false => Tone::Bad,
        "reviewed" if told.event["approved"] == false => Tone::Warn,
        "breaker_changed" if told.event["to"] == "OPEN" => Tone::Bad,
        "session_moved" if told.event["phase"] == "failed" => Tone::Bad,
        "session_moved" | "planned" => Tone::Strong,
        _ => Tone::Plain,
    };
    // The time, whose event it is, what happened.
    let (time, what) = told.line.split_at_checked(10).unwrap_or(("", &told.line));
    let idea = if idea.is_empty() { String::new() } else { format!("{}  ", clean(idea)) };
    Row::new(vec![(time.to_owned(), Tone::Quiet), (idea, Tone::Quiet), (what.to_owned(), tone)])
}

fn event_in_full(event: &Value) -> (String, String) {
    let mut out = String::new();
    for (key, value) in event.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(out, "{}: {}", clean(key), harmless(&value));
    }
    (event["event"].as_str().unwrap_or("event").replace('_', " "), out)
}

fn outgoing(entry: &OutboxReport) -> Row {
    let (mark, tone, at) = match (&entry.error, entry.issue.delivered) {
        (_, true) => ('✓', Tone::Quiet, "delivered".to_owned()),
        (None, false) => ('…', Tone::Warn, "waits".to_owned()),
        (Some(error), false) => ('✗', Tone::Bad, format!("not delivered: {error}")),
    };
    Row::new(vec![
        (format!("{mark} "), tone),
        (fit(&entry.issue.kind, 12), Tone::Plain),
        (clean(&entry.issue.title), if entry.issue.delivered { Tone::Quiet } else { Tone::Plain }),
        (format!("  {}", clean(&at)), tone),
    ])
}

fn outgoing_in_full(entry: &OutboxReport) -> (String, String) {
    let or_none = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), clean);
    let text = format!(
        "{}\n\nkind: {}\nsession: {}\nmade: {}\ndelivered: {}\naddress: {}\nlast error: {}\nkey: {}\n\nf tries again now.",
        harmless(&entry.issue.title),
        clean(&entry.issue.kind),
        or_none(&entry.session_id),
        entry.created_at,
        if entry.issue.delivered { "yes" } else { "not yet" },
        or_none(&entry.issue.url),
        or_none(&entry.error),
        clean(&entry.key),
    );
    ("Outbox".to_owned(), text)
}

fn rate_value(rate: &RateRow, is_share: bool) -> String {
    match rate.value {
        None => "-".to_owned(),
        Some(value) if is_share => format!("{:.0} %", value * 100.0),
        Some(value) => format!("{value:.0}"),
    }
}

/// The level's word, which is not said while nothing was counted.
fn level(rate: &RateRow) -> String {
    if rate.value.is_some() { clean(&rate.level) } else { String::new() }
}

fn level_tone(rate: &RateRow) -> Tone {
    match rate.level.as_str() {
        "critical" => Tone::Bad,
        "warning" => Tone::Warn,
        _ => Tone::Good,
    }
}

/// A bar for each point, the newest at the right. Shares from 0 to 100 %, numbers up to the highest of them.
fn sparkline(series: &[Option<f64>], width: usize, is_share: bool) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &series[series.len().saturating_sub(width)..];
    let highest = shown.iter().flatten().fold(1.0_f64, |highest, value| highest.max(*value));
    let bar = |value: &Option<f64>| match value {
        None => '·',
        Some(value) => {
            let part = if is_share { *value } else { value / highest };
            BARS[((part.clamp(0.0, 1.0) * 7.0).round()) as usize]
        }
    };
    let bars: String = shown.iter().map(bar).collect();
    " ".repeat(width.saturating_sub(shown.len())) + &bars
}

/// A time that has passed, as short as can be.
pub(super) fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A time to come, to the second, so that it is seen to run.
fn countdown(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    if seconds < 60 { format!("{seconds} s") } else { format!("{}:{:02}", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_or_filled_to_the_columns_that_it_takes() {
        assert_eq!(fit("abc", 5), "abc  ");
        assert_eq!(fit("abcdef", 5), "abcd…");
        assert_eq!(fit("漢字漢字", 5), "漢字…");
        assert_eq!(fit("漢字漢字", 4), "漢… ");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(fit("漢", 1), "…");
    }

    #[test]
    fn a_sparkline_shows_the_newest_points_at_the_right() {
        assert_eq!(sparkline(&[Some(0.0), Some(0.5), None, Some(1.0)], 6, true), "  ▁▅·█");
        assert_eq!(sparkline(&[Some(0.0), Some(0.5), None, Some(1.0)], 2, true), "·█");
        assert_eq!(sparkline(&[Some(2.0), Some(4.0)], 2, false), "▅█");
        assert_eq!(sparkline(&[], 3, true), "   ");
        assert_eq!(sparkline(&[Some(f64::NAN), Some(7.0)], 2, true), "▁█");
    }

    #[test]
    fn every_state_of_a_breaker_has_a_sign_and_a_word_of_its_own() {
        let all = ["CLOSED", "MONITORING (1/3)", "OPEN", "HALF-OPEN", "UNAVAILABLE (no key)"].map(breaker);
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other.0 != one.0 && other.1 != one.1), "{one:?}");
        }
    }
}
