//! Progress for a person: one line an event, and on a terminal, below them, who is working on what right now.
//!
//! Readable without color; everything goes to standard error, so that standard output stays for the result.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use steadfast_actors::event::{Place, WaitReason};
use steadfast_actors::{Event, RedemptionStep};
use steadfast_core::breaker::State;
use steadfast_core::ids::{ModelId, Role};
use steadfast_core::session::Phase;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::report::verdict_word;
use crate::text::{harmless, n_of};

/// How often the block below the lines is drawn anew, so that its seconds move.
const REDRAW: Duration = Duration::from_millis(200);

/// Shows events until it is stopped.
pub(crate) struct Progress {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    /// With the moving block where standard error is a terminal.
    pub(crate) fn start(events: Receiver<Arc<Event>>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let live = std::io::stderr().is_terminal();
        let task = tokio::spawn(show(events, stopped, live));
        Self { stop, task }
    }

    /// Shows what is left and leaves the terminal clean.
    pub(crate) async fn finish(self) {
        // The task ends by itself when all senders of events are gone; either way it has shown everything.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn show(mut events: Receiver<Arc<Event>>, mut stopped: oneshot::Receiver<()>, live: bool) {
    let mut view = View { live, color: live && std::env::var_os("NO_COLOR").is_none(), ..View::default() };
    let mut tick = tokio::time::interval(REDRAW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => view.event(&event),
                Err(RecvError::Lagged(n_missed)) => view.plain(&format!("… {n_missed} events not shown")),
                Err(RecvError::Closed) => break,
            },
            _ = &mut stopped => {
                while let Ok(event) = events.try_recv() {
                    view.event(&event);
                }
                break;
            }
            _ = tick.tick(), if live => view.draw(""),
        }
    }
    view.clear();
}

struct Work {
    who: String,
    since: Instant,
    what: String,
}

#[derive(Default)]
struct View {
    live: bool,
    color: bool,
    drawn: usize,
    /// By session and place: the call, wait or check under way.
    work: BTreeMap<String, Work>,
    open: BTreeMap<ModelId, Instant>,
    /// The milestone that each session's lines are under.
    headed: BTreeMap<String, u32>,
}

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const DIM: &str = "2";
const BOLD: &str = "1";

impl View {
    fn paint(&self, code: &str, text: &str) -> String {
        let text = harmless(text);
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            eprint(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    /// A line without color.
    fn plain(&mut self, text: &str) {
        self.line(&harmless(text));
    }

    /// Prints a line for good, and the block below it anew. Its text is harmless or painted.
    fn line(&mut self, text: &str) {
        self.draw(&format!("{text}\n"));
    }

    fn draw(&mut self, lines: &str) {
        if !self.live {
            eprint(lines);
            return;
        }
        let mut out = String::new();
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
        }
        out.push_str(lines);
        let width = columns();
        let now = Instant::now();
        self.open.retain(|_, until| *until > now);
        let mut block: Vec<String> = Vec::new();
        for work in self.work.values().take(12) {
            let seconds = work.since.elapsed().as_secs_f64();
            block.push(cut(&format!("  ▸ {} {} ({seconds:.1} s)", work.who, work.what), width));
        }
        if self.work.len() > 12 {
            block.push(format!("  ▸ … and {} more", self.work.len() - 12));
        }
        for (model, until) in &self.open {
            let left = span(until.saturating_duration_since(now).as_millis() as u64);
            block.push(cut(&format!("  ⊘ {model} OPEN, next test in {left}"), width));
        }
        for line in &block {
            let _ = writeln!(out, "{}", self.paint(DIM, line));
        }
        self.drawn = block.len();
        eprint(&out);
    }

    fn begin(&mut self, place: &Place, what: String) {
        let who = who(place);
        self.work.insert(format!("{} {who}", place.session), Work { who, since: Instant::now(), what });
    }

    fn end(&mut self, place: &Place) {
        self.work.remove(&format!("{} {}", place.session, who(place)));
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::SessionMoved { session, idea, phase, milestone, n_milestones, text } => {
                let name = text.as_deref().unwrap_or_default();
                let before = self.headed.insert(session.to_string(), *milestone);
                if *phase == Phase::Implementing && before == Some(*milestone) {
                    // A round of fixes: the heading stands already.
                    return;
                }
                let line = match phase {
                    Phase::Implementing => {
                        self.paint(BOLD, &format!("── milestone {milestone}/{n_milestones}: {name}"))
                    }
                    Phase::Failed => self.paint(RED, &format!("✗ {idea} failed: {name}")),
                    Phase::Planning => self.paint(BOLD, &format!("── planning {idea}")),
                    Phase::Completed | Phase::Cancelled => self.paint(BOLD, &format!("── {idea}: {phase}")),
                    Phase::Queued | Phase::Reviewing => return,
                };
                self.line(&line);
            }
            Event::Planned { milestones, degraded, .. } => {
                let stand_in = if *degraded { " (template: no planner answered)" } else { "" };
                let n_milestones = n_of(milestones.len(), "milestone");
                self.plain(&format!("✓ plan of {n_milestones}{stand_in}: {}", milestones.join("; ")));
            }
            Event::ExecutionStarted { .. } => {}
            // The end of a coder's file says so with all reasons.
            Event::Exhausted { place } if place.role == Role::Coder => self.end(place),
            Event::Exhausted { place } => {
                self.end(place);
                let line = self.paint(YELLOW, &format!("✗ {}: no model is left to ask", who(place)));
                self.line(&line);
            }
            Event::AnswerReused { place, model } => {
                self.plain(&format!("↺ {} uses the answer that {model} had given before", who(place)));
            }
            Event::AttemptStarted { place, model, attempt, .. } => {
                let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
                self.begin(place, format!("{model}{again}"));
                self.draw("");
            }
            Event::AttemptFailed { place, model, reason, duration_ms, .. } => {
                self.end(place);
                let text = format!("✗ {} {model}: {reason} ({:.1} s)", who(place), seconds(*duration_ms));
                let line = self.paint(YELLOW, &text);
                self.line(&line);
            }
            Event::ModelRefused { place, model, reason } => {
                self.end(place);
                let line = self.paint(DIM, &format!("⊘ {} passes over {model}: {reason}", who(place)));
                self.line(&line);
            }
            Event::AttemptSucceeded { place, model, fallback, duration_ms, usage, .. } => {
                let tokens = usage.input + usage.output;
                self.end(place);
                let fallback = if *fallback { " [fallback]" } else { "" };
                let tokens = if tokens > 0 { format!(", {tokens} tokens") } else { String::new() };
                let text = format!("✓ {} {model}{fallback} ({:.1} s{tokens})", who(place), seconds(*duration_ms));
                let line = self.paint(GREEN, &text);
                self.line(&line);
            }
            Event::Waiting { place, reason, for_ms } => {
                let what = match reason {
                    WaitReason::Backoff => format!("waits {} before the next attempt", span(*for_ms)),
                    WaitReason::BreakerTest(model) => {
                        format!("waits for the next test of {model} in {}", span(*for_ms))
                    }
                    WaitReason::OwnNetworkDown => "waits: our own network is down".to_owned(),
                };
                if *reason != WaitReason::Backoff {
                    let line = self.paint(YELLOW, &format!("… {} {what}", who(place)));
                    self.line(&line);
                }
                self.begin(place, what);
            }
            Event::Degraded { place, stand_in } => {
                self.end(place);
                let stand_in = match *stand_in {
                    "template" => "the template plan stands in",
                    "manual" => "a manual task stands in",
                    "static-checks" => "basic static checks stand in",
                    other => other,
                };
                let text = format!("⚠ {}: {stand_in}", who(place));
                let line = self.paint(YELLOW, &text);
                self.line(&line);
            }
            Event::Redemption { what, step, .. } => {
                let of = what.milestone().map(|index| format!(" of milestone {index}")).unwrap_or_default();
                let name = format!("the {}{of}", what.stand_in());
                let (code, text) = match step {
                    RedemptionStep::Begun => (DIM, format!("↻ a model is to take the place of {name}")),
                    RedemptionStep::Done => (GREEN, format!("✓ a model has taken the place of {name}")),
                    RedemptionStep::PutBack { why } => (YELLOW, format!("↻ {name} stays for now: {why}")),
                    RedemptionStep::Left { why } => (YELLOW, format!("⚠ {name} is left for a person: {why}")),
                };
                let line = self.paint(code, &text);
                self.line(&line);
            }
            Event::BreakerChanged { model, from, to, status, reason, retry_in_ms } => {
                match (to, retry_in_ms) {
                    (State::Open, Some(retry_in_ms)) => {
                        self.open.insert(model.clone(), Instant::now() + Duration::from_millis(*retry_in_ms));
                    }
                    _ => {
                        self.open.remove(model);
                    }
                }
                let moved = from != to;
                let code = if *to == State::Open { RED } else { DIM };
                let stays = if !moved && *to != State::Closed { "stays " } else { "" };
                let why = if moved { format!(": {reason}") } else { String::new() };
                let next = match retry_in_ms {
                    Some(ms) if *to == State::Open => format!(" (next test in {})", span(*ms)),
                    _ => String::new(),
                };
                let line = self.paint(code, &format!("⚡ breaker of {model} {stays}{status}{next}{why}"));
                self.line(&line);
            }
            Event::TimeoutRaised { model, timeout_ms } => {
                let text =
                    format!("⏱ {model} may take {} from now on: its timeouts made others answer", span(*timeout_ms));
                let line = self.paint(YELLOW, &text);
                self.line(&line);
            }
            Event::FileEnded { file, error, .. } => match error {
                None => {}
                Some(error) => {
                    let line = self.paint(RED, &format!("✗ {file} is not written: {error}"));
                    self.line(&line);
                }
            },
            Event::Judged { milestone, ok, all, verdict, again, .. } => {
                let next = if *again { ", rolled back and tried again" } else { "" };
                let verdict = verdict_word(*verdict).replace('_', " ");
                let text = format!("■ milestone {milestone}: {ok} of {all} files, {verdict}{next}");
                let line = self.paint(if ok == all { GREEN } else { YELLOW }, &text);
                self.line(&line);
            }
            Event::Checking { session, command, .. } => {
                let work = Work { who: "check".to_owned(), since: Instant::now(), what: harmless(command) };
                self.work.insert(format!("{session} check"), work);
                self.draw("");
            }
            Event::Checked { session, command, passed, summary, milestone } => {
                self.work.remove(&format!("{session} check"));
                let when = if *milestone == 0 { " (before any change)" } else { "" };
                let (mark, code) = if *passed { ("✓", GREEN) } else { ("✗", RED) };
                let line = self.paint(code, &format!("{mark} check `{command}`{when}: {summary}"));
                self.line(&line);
            }
            Event::Reviewed { approved, code_quality, n_issues, .. } => {
                let (mark, code, word) =
                    if *approved { ("✓", GREEN, "approved") } else { ("✗", YELLOW, "rejected") };
                let n_remarks = n_of(*n_issues, "remark");
                let text = format!("{mark} review: {word}, quality {code_quality}/100, {n_remarks}");
                let line = self.paint(code, &text);
                self.line(&line);
            }
            Event::FixRound { round, .. } => self.plain(&format!("↻ round {round} of fixes")),
            Event::Committed { milestone, commit, branch, .. } => {
                let text = match commit {
                    Some(commit) => format!("● milestone {milestone} is commit {} on {branch}", commit.short()),
                    None => format!("● milestone {milestone}: nothing to commit"),
                };
                let line = self.paint(BOLD, &text);
                self.line(&line);
            }
            Event::IssueFiled { title, .. } => {
                let line = self.paint(YELLOW, &format!("✎ issue: {title}"));
                self.line(&line);
            }
            Event::Interrupted { idea, reason, .. } => {
                self.work.clear();
                let line = self.paint(YELLOW, &format!("‖ {idea} interrupted: {reason}"));
                self.line(&line);
            }
            Event::ActorFailed { actor, error, restarted } => {
                let next = if *restarted { "started again" } else { "given up" };
                let line = self.paint(RED, &format!("! {actor} failed: {error}; {next}"));
                self.line(&line);
            }
            Event::Paused { reason: Some(reason) } => {
                let line = self.paint(YELLOW, &format!("⏸ paused: {reason}; it goes on by itself when there is room"));
                self.line(&line);
            }
            Event::Paused { reason: None } => self.plain("▶ there is room again; it goes on"),
            Event::Shutdown { step } => self.plain(&format!("■ {step}")),
        }
    }
}

fn who(place: &Place) -> String {
    match &place.file {
        Some(file) => format!("{} {file}", place.role),
        None => place.role.to_string(),
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// A time to come: exact while it is short, whole minutes when nobody counts seconds.
pub(crate) fn span(ms: u64) -> String {
    if ms < 100_000 { format!("{:.1} s", seconds(ms)) } else { format!("{} min", ms.div_ceil(60_000)) }
}

fn columns() -> usize {
    // A terminal that does not know its size says 0.
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok().map(|size| usize::from(size.ws_col));
    size.filter(|columns| *columns > 0).unwrap_or(80).max(20)
}

/// Cuts a line so that it takes one row: a wrapped one would make the block's height wrong.
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() < width { line.to_owned() } else { line.chars().take(width - 2).chain(['…']).collect() }
}

/// A terminal that has gone is no reason to stop working.
pub(crate) fn eprint(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// One line on standard error, outside of a progress view.
pub(crate) fn note(text: &str) {
    eprint(&format!("{text}\n"));
}
