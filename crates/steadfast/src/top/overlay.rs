//! What lies over the panes: help, a question, a session in full.

use super::Action;

/// Lines that are kept of a story that goes on.
const MAX_LINES: usize = 5000;

/// A box over everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlay {
    pub(super) title: String,
    pub(super) lines: Vec<String>,
    /// Lines that are scrolled away above; the end, where it is followed.
    pub(super) scrolled: usize,
    /// Stays at the end when something is added.
    pub(super) is_at_end: bool,
    /// Whose story it is: its events are added as they come.
    pub(super) session: Option<String>,
    /// It is a question: what to do when it is answered with yes.
    pub(super) asks: Option<Action>,
}

impl Overlay {
    /// A text to read.
    pub(super) fn text(title: &str, text: &str) -> Self {
        let lines = text.lines().map(str::to_owned).collect();
        Self { title: title.to_owned(), lines, scrolled: 0, is_at_end: false, session: None, asks: None }
    }

    /// A session that is being read.
    pub(super) fn session(idea: &str, session: &str) -> Self {
        let title = format!("{idea}  {session}");
        Self { session: Some(session.to_owned()), ..Self::text(&title, "reading …") }
    }

    /// A question.
    pub(super) fn question(text: &str, yes: Action) -> Self {
        Self { asks: Some(yes), ..Self::text("Sure?", &format!("{text}\n\ny  yes     n  no")) }
    }

    /// Everything that can be pressed.
    pub(super) fn help() -> Self {
        Self::text("Keys", HELP)
    }

    pub(super) fn fill(&mut self, text: &str) {
        self.lines = text.lines().map(str::to_owned).collect();
    }

    pub(super) fn append(&mut self, line: String) {
        // What is still being read brings this event itself.
        if self.lines.len() < 2 || self.lines.last() == Some(&line) || self.lines.len() >= MAX_LINES {
            return;
        }
        self.lines.push(line);
    }

    /// Moves by so many lines; `usize::MAX`: to an end.
    pub(super) fn scroll(&mut self, forward: bool, by: usize) {
        self.scrolled = if forward { self.scrolled.saturating_add(by) } else { self.scrolled.saturating_sub(by) };
        self.is_at_end = forward && by == usize::MAX;
    }
}

const HELP: &str = "\
Tab, Shift-Tab, ← →   to the next or the last pane
↑ ↓, j k              move; PgUp, PgDn, Home, End: further
Enter                 open: a session with its story, an event, an issue, a model
/                     show only rows with a text; Esc shows all again

c                     cancel the chosen session, after a question
r                     retry it, when it has failed or was cancelled
u                     resume it, when it is interrupted
b                     reset the breaker of the chosen model
B                     reset all breakers, after a question
f                     try to deliver the outbox now

?                     this help
q, Ctrl-C             leave; what is at work goes on
Ctrl-Z                to the shell and, with fg, back

● CLOSED      the model is asked
◐ MONITORING  it is asked, and has failed lately
○ OPEN        it is not asked until the next test
◌ HALF-OPEN   one test is on its way
✕ UNAVAILABLE it cannot be called at all: the reason stands there
";
