//! `status --watch`: the dashboard, kept up to date by the daemon's events.

use std::io;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::text::Text;
use ratatui::widgets::Paragraph;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use crate::cli::Global;
use crate::exit::{Failure, Outcome};
use crate::link::{self, Depth, Heard};
use crate::screen::{self, Input, Screen};
use crate::setup::Setup;
use crate::wire::StatusBody;
use crate::{print, progress, text, try_print};

/// How often the times that run down are drawn anew.
const TICK: Duration = Duration::from_secs(1);

/// `steadfast status --watch`.
pub(crate) async fn watch(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    let heard = link::follow(setup, Depth::Status);
    if global.json || !screen::is_there() {
        return lines(global, heard).await;
    }
    let mut watch = Watch::default();
    full_screen(&mut watch, heard).await?;
    // What was seen last stays on the terminal.
    if let Some(last) = watch.dashboard(Instant::now()) {
        print(&last);
    }
    Ok(())
}

async fn full_screen(watch: &mut Watch, mut heard: Receiver<Heard>) -> Outcome {
    let mut screen = Screen::take()?;
    let mut tick = tokio::time::interval(TICK);
    loop {
        screen.draw(|frame| watch.draw(frame, Instant::now()))?;
        tokio::select! {
            input = screen.input() => match input {
                Input::End => return Ok(()),
                Input::Redraw => {}
                Input::Key(key) => if !watch.press(key) { return Ok(()) },
            },
            one = heard.recv() => {
                watch.hear(one.ok_or_else(gone)?);
                while let Ok(one) = heard.try_recv() {
                    watch.hear(one);
                }
            }
            _ = tick.tick() => {}
        }
    }
}

fn gone() -> Failure {
    Failure::Failed("whoever watches the daemon has ended".to_owned())
}

/// Where there is no terminal: the dashboard again whenever something in it has changed, or, with `--json`, the document in
/// one line. It ends when nobody reads it any more.
async fn lines(global: &Global, mut heard: Receiver<Heard>) -> Outcome {
    let mut watch = Watch::default();
    let mut shown = None;
    loop {
        let one = heard.recv().await.ok_or_else(gone)?;
        if let Heard::Trouble(trouble) = &one {
            progress::note(&format!("warning: {trouble}"));
        }
        if matches!(one, Heard::Away) && shown.is_some() {
            progress::note("the daemon has ended; waiting for it to come back");
        }
        watch.hear(one);
        let Some((status, _)) = &watch.status else { continue };
        // Times that only run down are no change.
        let now = without_countdowns(status);
        if shown.as_ref() == Some(&now) {
            continue;
        }
        let out = if global.json {
            serde_json::to_string(status).unwrap_or_default() + "\n"
        } else {
            let since = if shown.is_some() { "\n" } else { "" };
            format!("{since}── {}\n{}", clock(), text::status(status))
        };
        shown = Some(now);
        match try_print(&out) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
        }
    }
}

fn clock() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

fn without_countdowns(status: &StatusBody) -> String {
    let mut status = status.clone();
    status.age(None);
    serde_json::to_string(&status).unwrap_or_default()
}

/// What is watched, as far as it is known.
#[derive(Default)]
struct Watch {
    status: Option<(StatusBody, Instant)>,
    /// Since when no daemon answers.
    away: Option<String>,
    trouble: Option<String>,
    /// Lines that are scrolled away above.
    scrolled: u16,
}

impl Watch {
    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Up(_) => (self.away, self.trouble) = (None, None),
            Heard::Away => self.away = Some(time_of_day()),
            Heard::Event(_) => {}
            Heard::Standing(standing) => self.status = Some((standing.status, Instant::now())),
            Heard::Trouble(trouble) => self.trouble = Some(trouble),
        }
    }

    /// `false`: it is over.
    fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Down | KeyCode::Char('j') => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scrolled = self.scrolled.saturating_add(10),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        true
    }

    /// The seed's dashboard, with its times as they are now.
    fn dashboard(&self, now: Instant) -> Option<String> {
        let (status, at) = self.status.as_ref()?;
        let mut status = status.clone();
        status.age(Some(now.saturating_duration_since(*at)));
        Some(text::status(&status))
    }

    /// What stands above it.
    fn heading(&self) -> String {
        let is_read = self.status.as_ref().is_some_and(|(status, _)| !status.daemon);
        let state = match (&self.away, is_read) {
            (None, _) => "every change shows at once".to_owned(),
            (Some(since), true) => format!("no daemon since {since}; this is what the store says. Waiting for one"),
            (Some(since), false) => format!("no daemon answers since {since}. Waiting for it to come back"),
        };
        let trouble = self.trouble.as_ref().map(|trouble| format!("\n⚠ {trouble}")).unwrap_or_default();
        text::harmless(&format!("steadfast status   {}   {state}   (q ends){trouble}\n\n", time_of_day()))
    }

    fn draw(&mut self, frame: &mut Frame<'_>, now: Instant) {
        let whole = self.heading() + &self.dashboard(now).unwrap_or_else(|| "Looking for a daemon …".to_owned());
        let lines = u16::try_from(whole.lines().count()).unwrap_or(u16::MAX);
        self.scrolled = self.scrolled.min(lines.saturating_sub(frame.area().height));
        frame.render_widget(Paragraph::new(Text::raw(whole)).scroll((self.scrolled, 0)), frame.area());
    }
}

/// The time of day, in UTC as in all that is kept.
fn time_of_day() -> String {
    jiff::Timestamp::now().strftime("%H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::link::Standing;

    fn open(retry_in_ms: u64) -> StatusBody {
        let mut status = StatusBody { daemon: true, ..StatusBody::default() };
        let row = json!({ "model": "p/m", "priority": 1, "circuitBreaker": "OPEN", "retryInMs": retry_in_ms });
        status.roles.coder.push(serde_json::from_value(row).unwrap());
        status
    }

    fn watching(status: StatusBody) -> Watch {
        let mut watch = Watch::default();
        watch.hear(Heard::Standing(Box::new(Standing { status, sessions: None, outbox: None })));
        watch
    }

    fn drawn(watch: &mut Watch, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| watch.draw(frame, Instant::now())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_countdown_runs_down_between_two_answers_of_the_daemon() {
        let watch = watching(open(30_000));
        let (_, at) = watch.status.as_ref().unwrap();
        let text = watch.dashboard(*at + Duration::from_secs(12)).unwrap();
        assert!(text.contains("1. p/m [OPEN], next test in 18.0 s\n"), "{text}");
        let text = watch.dashboard(*at + Duration::from_secs(31)).unwrap();
        assert!(text.contains("1. p/m [OPEN], next test with the next call\n"), "{text}");
    }

    #[test]
    fn a_countdown_alone_is_no_change_and_a_breaker_that_closes_is_one() {
        assert_eq!(without_countdowns(&open(30_000)), without_countdowns(&open(29_000)));
        let mut closed = open(30_000);
        closed.roles.coder[0].circuit_breaker = "CLOSED".to_owned();
        assert_ne!(without_countdowns(&open(30_000)), without_countdowns(&closed));
    }

    #[test]
    fn a_daemon_that_has_gone_is_said_above_what_is_known() {
        let mut watch = watching(open(1000));
        assert!(watch.heading().contains("every change shows at once"));
        watch.hear(Heard::Away);
        let screen = drawn(&mut watch, 100, 30);
        assert!(screen.contains("no daemon answers since") && screen.contains("1. p/m [OPEN]"), "{screen}");
        let from_store = StatusBody { daemon: false, ..open(1000) };
        watch.hear(Heard::Standing(Box::new(Standing { status: from_store, sessions: None, outbox: None })));
        assert!(watch.heading().contains("this is what the store says"));
        watch.hear(Heard::Trouble("the disk\u{1b}[2J is gone".to_owned()));
        assert!(watch.heading().contains("⚠ the disk\u{fffd}[2J is gone"));
    }

    #[test]
    fn the_smallest_terminal_shows_a_part_and_scrolls_no_further_than_the_end() {
        let mut watch = watching(open(1000));
        for _ in 0..100 {
            watch.press(KeyEvent::from(KeyCode::Down));
        }
        let screen = drawn(&mut watch, 30, 4);
        assert!(screen.contains("Daemon: running"), "{screen}");
        watch.press(KeyEvent::from(KeyCode::Home));
        let screen = drawn(&mut watch, 30, 4);
        assert!(screen.contains("steadfast status"), "{screen}");
        drawn(&mut watch, 1, 1);
    }
}
