//! The history of a session: who wrote each file, with which model, after which failures, at which cost in tokens, time and
//! money; and so the plan and the reviews.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use steadfast_actors::records::StepRecord;
use steadfast_core::session::{Attempt, AttemptOutcome, Writer};

use crate::progress::span;
use crate::report::{FileReport, MilestoneReport, Report};
use crate::text::n_of;

/// One role execution, in `show --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StepReport {
    /// `planner`, `coder`, `reviewer`.
    pub(crate) role: String,
    /// From 1; `null` for the planner.
    pub(crate) milestone: Option<u32>,
    /// Rounds of fixes before it.
    pub(crate) round: u32,
    /// For a coder that wrote one file.
    pub(crate) file: Option<String>,
    /// Who answered; `null`: nobody has, or not yet.
    pub(crate) model: Option<String>,
    pub(crate) fallback: bool,
    pub(crate) attempts: Vec<AttemptReport>,
    /// Of the whole execution. Of attempts that were forgotten, since somebody took the session up anew, only this is left.
    pub(crate) calls: u64,
    pub(crate) duration_ms: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// In the currency in which prices are configured.
    pub(crate) cost: f64,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptReport {
    pub(crate) model: String,
    /// `answered`, `failed` or `refused` (no call was made).
    pub(crate) outcome: String,
    pub(crate) error: Option<String>,
    pub(crate) duration_ms: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl StepReport {
    pub(crate) fn new(record: &StepRecord) -> Self {
        let place = record.step.place();
        let role = place.map_or_else(|| record.step.to_string(), |place| place.role.to_string());
        Self {
            role,
            milestone: place.and_then(|place| place.milestone),
            round: place.map_or(0, |place| place.round),
            file: place.and_then(|place| place.path).map(str::to_owned),
            model: record.writer.as_ref().map(|writer| writer.name().to_owned()),
            fallback: record.writer.as_ref().is_some_and(Writer::fallback),
            attempts: record.attempts.iter().map(AttemptReport::new).collect(),
            calls: record.spent.calls,
            duration_ms: record.attempts.iter().map(|attempt| attempt.duration_ms).sum(),
            input_tokens: record.spent.usage.input,
            output_tokens: record.spent.usage.output,
            cost: record.spent.cost_micros as f64 / 1e6,
        }
    }
}

impl AttemptReport {
    fn new(attempt: &Attempt) -> Self {
        let (outcome, error) = match &attempt.outcome {
            AttemptOutcome::Answered => ("answered", None),
            AttemptOutcome::Failed { message, .. } => ("failed", Some(message.clone())),
            AttemptOutcome::Refused { reason } => ("refused", Some(reason.clone())),
        };
        Self {
            model: attempt.model.to_string(),
            outcome: outcome.to_owned(),
            error,
            duration_ms: attempt.duration_ms,
            input_tokens: attempt.usage.input,
            output_tokens: attempt.usage.output,
        }
    }
}

/// What some executions together have cost, as columns: tries, time, tokens, money.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Cost {
    calls: u64,
    duration_ms: u64,
    tokens: u64,
    money: f64,
}

impl Cost {
    fn of<'a>(steps: impl IntoIterator<Item = &'a StepReport>) -> Self {
        steps.into_iter().fold(Self::default(), |sum, step| Self {
            calls: sum.calls + step.calls,
            duration_ms: sum.duration_ms + step.duration_ms,
            tokens: sum.tokens + step.input_tokens + step.output_tokens,
            money: sum.money + step.cost,
        })
    }

    fn columns(self) -> String {
        let tries = if self.calls == 1 { "1 try  ".to_owned() } else { format!("{} tries", self.calls) };
        let money = if self.money > 0.0 { format!("  {:>9.4}", self.money) } else { String::new() };
        format!("{tries:>8}  {:>8}  {:>7} tokens{money}", span(self.duration_ms), self.tokens)
    }
}

/// The widest that a line's first part is made for the sake of the columns behind it.
const MAX_FIRST: usize = 64;
/// Failures that are told of one file; `show --json` has them all.
const MAX_FAILURES: usize = 6;

/// The table of one milestone, row by row.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

struct Row {
    first: String,
    columns: Option<String>,
    notes: Vec<String>,
}

impl Table {
    /// The planner's row; empty without a history.
    pub(crate) fn plan(report: &Report) -> Self {
        let mut table = Self::default();
        let steps: Vec<&StepReport> = report.history.iter().filter(|step| step.role == "planner").collect();
        if !steps.is_empty() {
            let by = steps.iter().rev().find_map(|step| step.model.as_deref().map(|model| (model, step.fallback)));
            let first = match by {
                Some((model, fallback)) => format!("plan   by {model}{}", if fallback { " [fallback]" } else { "" }),
                None => "plan".to_owned(),
            };
            table.row(first, &steps);
        }
        table
    }

    /// A file's row. `line`: what is said of it.
    pub(crate) fn file(&mut self, report: &Report, milestone: &MilestoneReport, file: &FileReport, line: String) {
        let steps = coder(report, milestone, Some(&file.path));
        self.row(line, &steps);
    }

    /// The row of a coder that chose its files itself; nothing where there was none.
    pub(crate) fn free(&mut self, report: &Report, milestone: &MilestoneReport) {
        let steps = coder(report, milestone, None);
        if !steps.is_empty() {
            self.row("       these files come from the same answers".to_owned(), &steps);
        }
    }

    /// The reviewer's row. `line`: what is said of it.
    pub(crate) fn review(&mut self, report: &Report, milestone: &MilestoneReport, line: String) {
        let is_its = |step: &&StepReport| step.role == "reviewer" && step.milestone == Some(milestone.index);
        self.row(line, &report.history.iter().filter(is_its).collect::<Vec<_>>());
    }

    /// A line without columns.
    pub(crate) fn line(&mut self, line: String) {
        self.rows.push(Row { first: line, columns: None, notes: Vec::new() });
    }

    fn row(&mut self, first: String, steps: &[&StepReport]) {
        let cost = Cost::of(steps.iter().copied());
        let columns = (!steps.is_empty()).then(|| cost.columns());
        self.rows.push(Row { first, columns, notes: failures(steps) });
    }

    /// All rows below each other, `indent` before each.
    pub(crate) fn write(self, out: &mut String, indent: &str) {
        let with_columns = self.rows.iter().filter(|row| row.columns.is_some());
        let width = with_columns.map(|row| row.first.chars().count()).filter(|width| *width <= MAX_FIRST).max();
        for row in self.rows {
            let pad = " ".repeat(width.unwrap_or(0).saturating_sub(row.first.chars().count()));
            let _ = match row.columns {
                Some(columns) if row.first.chars().count() > MAX_FIRST => {
                    writeln!(out, "{indent}{}\n{indent}        {columns}", row.first)
                }
                Some(columns) => writeln!(out, "{indent}{}{pad}  {columns}", row.first),
                None => writeln!(out, "{indent}{}", row.first),
            };
            for note in row.notes {
                let _ = writeln!(out, "{indent}         {note}");
            }
        }
    }
}

fn coder<'a>(report: &'a Report, milestone: &MilestoneReport, path: Option<&str>) -> Vec<&'a StepReport> {
    let is_its = |step: &&StepReport| {
        step.role == "coder" && step.milestone == Some(milestone.index) && step.file.as_deref() == path
    };
    report.history.iter().filter(is_its).collect()
}

/// What went wrong on the way, in the order in which it did, the same failure of the same model in one line.
fn failures(steps: &[&StepReport]) -> Vec<String> {
    struct Failed<'a> {
        attempt: &'a AttemptReport,
        n: usize,
        duration_ms: u64,
    }
    let mut failed: Vec<Failed<'_>> = Vec::new();
    for attempt in steps.iter().flat_map(|step| &step.attempts).filter(|attempt| attempt.error.is_some()) {
        let same = |one: &&mut Failed<'_>| {
            let other = one.attempt;
            other.model == attempt.model && other.outcome == attempt.outcome && why(other) == why(attempt)
        };
        match failed.iter_mut().find(same) {
            Some(one) => {
                one.n += 1;
                one.duration_ms += attempt.duration_ms;
            }
            None => failed.push(Failed { attempt, n: 1, duration_ms: attempt.duration_ms }),
        }
    }
    let rest = failed.len().saturating_sub(MAX_FAILURES);
    let told = failed.iter().take(MAX_FAILURES).map(|Failed { attempt, n, duration_ms }| {
        let why = why(attempt);
        let times = if *n > 1 { format!("{n} times, ") } else { String::new() };
        match attempt.outcome.as_str() {
            "refused" => format!("passed over {}: {why}", attempt.model),
            _ => format!("after {}: {why} ({times}{})", attempt.model, span(*duration_ms)),
        }
    });
    let more = (rest > 0).then(|| format!("… and {} of other kinds; `show --json` has them", n_of(rest, "failure")));
    told.chain(more).collect()
}

/// Why an attempt failed, in one line. How long a breaker had to stay open is news only in its moment.
fn why(attempt: &AttemptReport) -> String {
    let error = attempt.error.as_deref().unwrap_or_default().replace('\n', " ");
    match error.split_once(", next test in ") {
        Some((before, after)) if attempt.outcome == "refused" => {
            let since = after.split_once(" since: ").map(|(_, since)| format!(" since: {since}")).unwrap_or_default();
            format!("{before}{since}")
        }
        Some(_) | None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(model: &str, outcome: &str, error: Option<&str>, duration_ms: u64) -> AttemptReport {
        AttemptReport {
            model: model.to_owned(),
            outcome: outcome.to_owned(),
            error: error.map(str::to_owned),
            duration_ms,
            input_tokens: 0,
            output_tokens: 0,
        }
    }

    fn step(attempts: Vec<AttemptReport>) -> StepReport {
        StepReport {
            role: "coder".to_owned(),
            milestone: Some(1),
            round: 0,
            file: Some("a.rs".to_owned()),
            model: Some("p/two".to_owned()),
            fallback: true,
            duration_ms: attempts.iter().map(|attempt| attempt.duration_ms).sum(),
            calls: attempts.len() as u64,
            attempts,
            input_tokens: 900,
            output_tokens: 100,
            cost: 0.25,
        }
    }

    #[test]
    fn the_same_failure_of_the_same_model_is_one_line_and_many_kinds_are_cut() {
        let one = step(vec![
            attempt("p/one", "failed", Some("HTTP 500"), 300),
            attempt("p/two", "refused", Some("its breaker is open, next test in 9 s since: HTTP 502"), 0),
            attempt("p/two", "refused", Some("its breaker is open, next test in 7 s since: HTTP 502"), 0),
            attempt("p/one", "failed", Some("HTTP 500"), 900),
            attempt("p/two", "answered", None, 400),
        ]);
        let lines = failures(&[&one]);
        let open = "passed over p/two: its breaker is open since: HTTP 502";
        assert_eq!(lines, ["after p/one: HTTP 500 (2 times, 1.2 s)", open]);
        let kinds: Vec<String> = (0..10).map(|kind| format!("kind {kind}")).collect();
        let many = step(kinds.iter().map(|kind| attempt("p/one", "failed", Some(kind), 1)).collect());
        let lines = failures(&[&many]);
        assert_eq!(lines.len(), MAX_FAILURES + 1);
        assert_eq!(lines[MAX_FAILURES], "… and 4 failures of other kinds; `show --json` has them");
    }

    #[test]
    fn columns_stand_below_each_other_and_a_very_long_line_has_its_own_below_it() {
        let one = step(vec![attempt("p/two", "answered", None, 400)]);
        let mut table = Table::default();
        table.row("ok     a.rs by p/two".to_owned(), &[&one]);
        table.line("check  `true`: passed".to_owned());
        table.row("ok     b.rs".to_owned(), &[&one]);
        table.row("x".repeat(MAX_FIRST + 1), &[&one, &one]);
        let mut out = String::new();
        table.write(&mut out, "  ");
        let expected = format!(
            "  ok     a.rs by p/two   1 try       0.4 s     1000 tokens     0.2500\n  check  `true`: passed\n  \
             ok     b.rs            1 try       0.4 s     1000 tokens     0.2500\n  {}\n           2 tries     0.8 s     \
             2000 tokens     0.5000\n",
            "x".repeat(MAX_FIRST + 1)
        );
        assert_eq!(out, expected);
    }
}
