//! `steadfast top`: everything at a glance, in a terminal.
//!
//! Invariant: the state changes only by what is heard, pressed or told, and draws itself from that alone: no clock, no
//! socket and no terminal is known here. The shell around it is `commands/top.rs`.

mod keys;
mod needs;
mod overlay;
mod rows;
mod view;
mod work;

#[cfg(test)]
mod tests;

pub(crate) use view::{Look, draw};

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde_json::Value;

use crate::link::{Heard, Standing};
use crate::report::{OutboxReport, Report};
use crate::story::event_line;
use crate::top::overlay::Overlay;
use crate::top::work::AtWork;
use crate::wire::StatusBody;

/// Events that are kept to be looked at.
const MAX_FEED: usize = 500;
/// Points of a sparkline.
const MAX_SERIES: usize = 60;

/// The parts of the screen that can be moved to, in the order of Tab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pane {
    Sessions,
    Models,
    Events,
    Rates,
    Outbox,
}

impl Pane {
    const ALL: [Self; 5] = [Self::Sessions, Self::Models, Self::Events, Self::Rates, Self::Outbox];

    fn title(self) -> &'static str {
        match self {
            Self::Sessions => "Sessions",
            Self::Models => "Models",
            Self::Events => "Events",
            Self::Rates => "Rates",
            Self::Outbox => "Outbox",
        }
    }

    fn next(self, forward: bool) -> Self {
        let at = Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0);
        let n = Self::ALL.len();
        Self::ALL[(at + if forward { 1 } else { n - 1 }) % n]
    }
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Quit,
    /// `cancel`, `retry` or `resume` a session.
    Order {
        session: String,
        verb: &'static str,
    },
    /// Reset a model's breaker; `None`: all.
    Reset(Option<String>),
    /// Try the outbox now.
    Flush,
    /// Read a session in full.
    Open(String),
}

/// Whether anybody answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Daemon {
    #[default]
    Looking,
    Up,
    /// Since then.
    Away(Timestamp),
}

/// An event in the feed.
#[derive(Debug, Clone)]
struct Told {
    event: Value,
    /// In one line, without the day.
    line: String,
}

/// Everything that is shown.
pub(crate) struct Top {
    daemon: Daemon,
    /// Why something could not be found out, until the next success.
    trouble: Option<String>,
    status: Option<(StatusBody, Timestamp)>,
    /// Newest first.
    sessions: Vec<Report>,
    /// Newest first.
    outbox: Vec<OutboxReport>,
    at_work: AtWork,
    /// Oldest first.
    feed: VecDeque<Told>,
    /// By metric, oldest first: the rate of the hour before each point.
    series: BTreeMap<String, Vec<Option<f64>>>,
    /// The minute of the last point that was taken here.
    sampled: i64,
    focus: Pane,
    /// The chosen row of each pane, from the top; the events' from the newest.
    chosen: BTreeMap<Pane, usize>,
    /// Only rows with this text are shown.
    filter: String,
    /// The filter is being typed.
    is_typing: bool,
    overlay: Option<Overlay>,
    /// What came of the last order, and since when it is shown.
    notice: Option<(String, Timestamp)>,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            daemon: Daemon::default(),
            trouble: None,
            status: None,
            sessions: Vec::new(),
            outbox: Vec::new(),
            at_work: AtWork::default(),
            feed: VecDeque::new(),
            series: BTreeMap::new(),
            sampled: 0,
            focus: Pane::Sessions,
            chosen: BTreeMap::new(),
            filter: String::new(),
            is_typing: false,
            overlay: None,
            notice: None,
        }
    }
}

impl Top {
    /// Takes in what the link has heard.
    pub(crate) fn hear(&mut self, heard: Heard, now: Timestamp) {
        match heard {
            Heard::Up(_) => (self.daemon, self.trouble) = (Daemon::Up, None),
            Heard::Away => {
                self.daemon = Daemon::Away(now);
                // Nobody is at work without a daemon.
                self.at_work = AtWork::default();
            }
            Heard::Event(event) => self.event(event),
            Heard::Standing(standing) => self.standing(*standing, now),
            Heard::Trouble(trouble) => self.trouble = Some(trouble),
        }
    }

    fn standing(&mut self, standing: Standing, now: Timestamp) {
        self.trouble = None;
        self.sample(&standing.status, now);
        self.status = Some((standing.status, now));
        if let Some(sessions) = standing.sessions {
            self.keep_chosen_session(sessions);
        }
        if let Some(mut outbox) = standing.outbox {
            outbox.reverse();
            self.outbox = outbox;
        }
    }

    /// The list may have grown above the chosen session, which stays chosen.
    fn keep_chosen_session(&mut self, sessions: Vec<Report>) {
        let chosen = self.chosen_session().map(|report| report.session_id.clone());
        self.sessions = sessions;
        let found = chosen.and_then(|id| self.session_rows().iter().position(|report| report.session_id == id));
        if let Some(at) = found.filter(|_| self.chosen(Pane::Sessions) > 0) {
            self.chosen.insert(Pane::Sessions, at);
        }
    }

    fn event(&mut self, event: Value) {
        self.at_work.take(&event);
        if let Some(Overlay { session: Some(session), .. }) = &self.overlay
            && event["sessionId"] == session.as_str()
            && let Some(overlay) = &mut self.overlay
        {
            overlay.append(event_line(&event));
        }
        if event["event"] == "execution_started" {
            // The attempt that follows at once says more.
            return;
        }
        let line = event_line(&event);
        // The events are of today; the day takes room.
        let line = line.get(11..).unwrap_or(&line).to_owned();
        if self.feed.len() >= MAX_FEED {
            self.feed.pop_front();
        }
        // Whoever reads further down goes on reading the same lines.
        if let Some(chosen) = self.chosen.get_mut(&Pane::Events).filter(|chosen| **chosen > 0) {
            *chosen += 1;
        }
        self.feed.push_back(Told { event, line });
    }

    /// Takes a point of each rate a minute, for a daemon that does not tell what was before.
    fn sample(&mut self, status: &StatusBody, now: Timestamp) {
        let minute = now.as_second() / 60;
        for (name, rate) in &status.rates {
            let series = self.series.entry(name.clone()).or_default();
            if self.sampled == minute && !series.is_empty() {
                series.pop();
            }
            series.push(rate.last_hour.value);
            let n_over = series.len().saturating_sub(MAX_SERIES);
            series.drain(..n_over);
        }
        self.sampled = minute;
    }

    /// Takes in what the rates were before: `GET /v1/rates/history`.
    pub(crate) fn remember(&mut self, history: &Value) {
        let Some(rates) = history["rates"].as_object() else { return };
        for (name, rate) in rates {
            let values = rate["values"].as_array().map(Vec::as_slice).unwrap_or_default();
            let mut series: Vec<Option<f64>> = values.iter().map(Value::as_f64).collect();
            series.extend(self.series.get(name).and_then(|known| known.last().copied()));
            let n_over = series.len().saturating_sub(MAX_SERIES);
            series.drain(..n_over);
            self.series.insert(name.clone(), series);
        }
    }

    /// Takes in what came of an order.
    pub(crate) fn told(&mut self, what: String, now: Timestamp) {
        self.notice = Some((what, now));
    }

    /// Shows what was read of a session.
    pub(crate) fn opened(&mut self, session: &str, text: &str) {
        if let Some(overlay) = &mut self.overlay
            && overlay.session.as_deref() == Some(session)
        {
            overlay.fill(text);
        }
    }

    fn chosen(&self, pane: Pane) -> usize {
        self.chosen.get(&pane).copied().unwrap_or(0)
    }

    /// Whether a row is to be shown.
    fn fits(&self, text: &str) -> bool {
        self.filter.is_empty() || text.to_lowercase().contains(&self.filter.to_lowercase())
    }
}
