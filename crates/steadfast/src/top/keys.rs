//! What each key does.

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::overlay::Overlay;
use super::{Action, Pane, Top};
use crate::report::Report;

/// Rows that a page has.
const PAGE: usize = 10;

impl Top {
    /// Takes in a key; answers what the shell is to do.
    pub(crate) fn press(&mut self, key: KeyEvent, now: Timestamp) -> Option<Action> {
        if self.is_typing {
            self.type_filter(key);
            return None;
        }
        if self.overlay.is_some() {
            return self.press_in_overlay(key);
        }
        match key.code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.focus = self.focus.next(true),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => self.focus = self.focus.next(false),
            KeyCode::Char('?') | KeyCode::F(1) => self.overlay = Some(Overlay::help()),
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Enter => return self.open(),
            KeyCode::Char('c') => self.ask_to_cancel(now),
            KeyCode::Char('r') => return self.order("retry", now),
            KeyCode::Char('u') => return self.order("resume", now),
            KeyCode::Char('b') => return self.reset(now),
            KeyCode::Char('B') => {
                let text = "Reset all breakers? Their failures are forgotten, and every model is asked again at once.";
                self.overlay = Some(Overlay::question(text, Action::Reset(None)));
            }
            KeyCode::Char('f') => return Some(Action::Flush),
            code => self.scroll(code),
        }
        None
    }

    fn type_filter(&mut self, key: KeyEvent) {
        match key.code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if self.filter.chars().count() < 60 => self.filter.push(c),
            _ => {}
        }
        self.chosen.clear();
    }

    fn press_in_overlay(&mut self, key: KeyEvent) -> Option<Action> {
        let overlay = self.overlay.as_mut()?;
        if overlay.asks.is_some() {
            let overlay = match key.code {
                KeyCode::Char('y' | 'Y') => self.overlay.take(),
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
                    self.overlay = None;
                    None
                }
                // A question is not answered by a key that was meant for something else.
                _ => None,
            };
            return overlay.and_then(|overlay| overlay.asks);
        }
        match key.code {
            KeyCode::Char('q' | '?') | KeyCode::Esc | KeyCode::Enter => self.overlay = None,
            KeyCode::Down | KeyCode::Char('j') => overlay.scroll(true, 1),
            KeyCode::Up | KeyCode::Char('k') => overlay.scroll(false, 1),
            KeyCode::PageDown | KeyCode::Char(' ') => overlay.scroll(true, PAGE),
            KeyCode::PageUp => overlay.scroll(false, PAGE),
            KeyCode::Home | KeyCode::Char('g') => overlay.scroll(false, usize::MAX),
            KeyCode::End | KeyCode::Char('G') => overlay.scroll(true, usize::MAX),
            _ => {}
        }
        None
    }

    fn scroll(&mut self, code: KeyCode) {
        let last = self.n_rows(self.focus).saturating_sub(1);
        let at = self.chosen(self.focus).min(last);
        let to = match code {
            KeyCode::Down | KeyCode::Char('j') => at.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => at.saturating_add(PAGE),
            KeyCode::PageUp => at.saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => return,
        };
        self.chosen.insert(self.focus, to.min(last));
    }

    /// The chosen session; where another pane is chosen, still that of the list of sessions.
    pub(super) fn chosen_session(&self) -> Option<&Report> {
        let rows = self.session_rows();
        let at = self.chosen(Pane::Sessions).min(rows.len().saturating_sub(1));
        rows.get(at).copied()
    }

    fn open(&mut self) -> Option<Action> {
        match self.focus {
            Pane::Sessions => {
                let (idea, session) = self.chosen_session().map(|one| (one.idea_id.clone(), one.session_id.clone()))?;
                self.overlay = Some(Overlay::session(&idea, &session));
                return Some(Action::Open(session));
            }
            Pane::Models | Pane::Events | Pane::Rates | Pane::Outbox => {
                let (title, text) = self.in_full(self.focus)?;
                self.overlay = Some(Overlay::text(&title, &text));
            }
        }
        None
    }

    fn ask_to_cancel(&mut self, now: Timestamp) {
        let Some(report) = self.chosen_session() else {
            return self.told("there is no session to cancel".to_owned(), now);
        };
        if report.is_over() {
            let what = format!("{} is {} already", report.idea_id, report.phase);
            return self.told(what, now);
        }
        let text = format!(
            "Cancel {} ({})? It stops; its branch is kept, and r takes it up again.",
            report.idea_id, report.title
        );
        let action = Action::Order { session: report.session_id.clone(), verb: "cancel" };
        self.overlay = Some(Overlay::question(&text, action));
    }

    fn order(&mut self, verb: &'static str, now: Timestamp) -> Option<Action> {
        let Some(report) = self.chosen_session() else {
            self.told(format!("there is no session to {verb}"), now);
            return None;
        };
        Some(Action::Order { session: report.session_id.clone(), verb })
    }

    fn reset(&mut self, now: Timestamp) -> Option<Action> {
        let model = self.chosen_model().filter(|_| self.focus == Pane::Models);
        if model.is_none() {
            self.told("choose a model first: Tab, then ↑ and ↓".to_owned(), now);
        }
        model.map(|model| Action::Reset(Some(model)))
    }
}
