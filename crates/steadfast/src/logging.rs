//! Where the log goes: standard error, as text for people or JSON for programs, or the journal with fields.
//!
//! Invariant: an event is one line of bounded length, whatever a model, a program or a file put into it: no line break, no
//! other control character, nothing that turns the direction of writing round.
//!
//! The form is ours, and not that of tracing-subscriber's formatter, for three reasons: the bounds hold for every field, the
//! journal gets the same line as the terminal, and spans of libraries (ractor wraps each message in one) stay out.

mod journal;
mod line;

use std::io::{IsTerminal as _, Write as _};

use steadfast_config::LogFormat;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use self::journal::Journal;
use self::line::Line;
use crate::exit::Failure;

/// Begins to log. `level`: as given with `--log`; `fallback`: where nothing was given; `None`: no log.
pub(crate) fn start(level: Option<&str>, fallback: Option<&str>, format: LogFormat) -> Result<(), Failure> {
    let Some(level) = level.or(fallback) else { return Ok(()) };
    // The actor library tells of every actor's start and end; whoever wants that names it.
    let level = if level.contains("ractor") { level.to_owned() } else { format!("{level},ractor=warn") };
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Failure::Usage(format!("--log {level}: {error}; use error, warn, info, debug, trace or a filter"))
    })?;
    let log = match format {
        LogFormat::Auto if journal::is_standard_error() => {
            // Where the journal's own socket cannot be reached, it still reads standard error.
            Journal::open(journal::SOCKET).map_or_else(|_| Log::text(), Log::journal)
        }
        LogFormat::Auto | LogFormat::Text => Log::text(),
        LogFormat::Json => Log::json(),
        LogFormat::Journald => Log::journal(Journal::open(journal::SOCKET).map_err(|error| {
            let what = format!("log.format \"journald\" cannot be used: {}: {error}", journal::SOCKET);
            Failure::Usage(what + "; \"auto\" takes the journal where there is one")
        })?),
    };
    tracing_subscriber::registry().with(filter).with(log).init();
    Ok(())
}

/// Takes every event that the filter lets through.
struct Log(Box<dyn Fn(&Line) + Send + Sync>);

impl Log {
    fn text() -> Self {
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self(Box::new(move |line| write(&line.text(color))))
    }

    fn json() -> Self {
        Self(Box::new(|line| write(&line.json())))
    }

    fn journal(journal: Journal) -> Self {
        // A journal that does not take it is no reason to lose it.
        Self(Box::new(move |line| {
            if journal.send(line).is_err() {
                write(&line.text(false));
            }
        }))
    }
}

/// One line in one piece, so that those of several threads do not mix. A reader that has gone is no reason to stop.
fn write(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        (self.0)(&Line::of(event));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What the log makes of the events that this tells.
    pub(super) fn logged(form: fn(&Line) -> String, tell: impl FnOnce()) -> String {
        let heard = Arc::new(Mutex::new(String::new()));
        let ear = Arc::clone(&heard);
        let log = Log(Box::new(move |line| ear.lock().unwrap().push_str(&form(line))));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), tell);
        heard.lock().unwrap().clone()
    }

    #[test]
    fn a_line_for_people_says_message_and_fields_in_order() {
        let file: Option<&str> = None;
        let line = logged(
            |line| line.text(false),
            || tracing::warn!(session = %"s1", attempt = 2, file, reason = "503: a \"bad\" day", empty = "", "attempt failed"),
        );
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == "2026-11-24T17:00:00.123456Z".len(), "{time}");
        assert_eq!(rest, "WARN  attempt failed session=s1 attempt=2 reason=\"503: a \\\"bad\\\" day\" empty=\"\"\n");
        // Whose word it is matters only where it is not ours.
        let line = logged(|line| line.text(false), || tracing::info!(target: "sled::tree", "opened"));
        assert!(line.ends_with(" INFO  sled::tree: opened\n"), "{line}");
    }

    #[test]
    fn a_line_for_programs_has_the_fields_beside_each_other_with_their_types() {
        let line = logged(
            |line| line.json(),
            || tracing::info_span!("noise", n = 1).in_scope(|| tracing::info!(n = 7, ok = true, text = "a\nb", "told")),
        );
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["message"], &value["n"]), (&"INFO".into(), &"told".into(), &7.into()));
        assert_eq!((&value["ok"], &value["text"]), (&true.into(), &"a b".into()));
        assert!(value["target"].as_str().unwrap().contains("logging"), "{value}");
        assert_eq!(value.as_object().unwrap().len(), 7);
    }

    #[test]
    fn no_line_can_be_broken_steered_or_made_long() {
        let evil = "a\r\nlevel=ERROR \u{1b}[31m\u{202e}x\u{9b}2J\0";
        for form in [|line: &Line| line.text(false), |line: &Line| line.json()] {
            let line = logged(form, || tracing::info!(evil, shown = %evil, debug = ?evil, "{evil}"));
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!line.contains(bad) && line.lines().count() == 1, "{line:?}");
            let long = "\"ä\u{1}".repeat(100_000);
            let line = logged(form, || {
                tracing::info!(a = long, b = %long, c = ?long, d = long, e = long, f = long, g = long, h = long, n = 1, "{long}");
            });
            assert!(line.len() < line::MAX_BYTES, "{}", line.len());
            assert!(line.contains('…') && line.contains("n\":1") | line.contains("n=1"), "{}", &line[..300]);
        }
    }
}
