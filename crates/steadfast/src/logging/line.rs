//! One event as a line.

use std::fmt::{self, Debug, Write as _};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// The most of one field, in bytes. An error of a model has at most 500 characters.
const MAX_FIELD: usize = 2048;
/// The most of all fields together, in bytes.
const MAX_FIELDS: usize = 6144;
/// No line is longer, in any form: rsyslog and others cut at 8 KiB by default, and quotes may double what stands between them.
#[cfg(test)]
pub(super) const MAX_BYTES: usize = 16 << 10;

/// An event, cleaned and cut.
pub(super) struct Line {
    at: Timestamp,
    level: Level,
    /// The module, e.g. `steadfast_actors::event`.
    target: String,
    message: String,
    /// In the order in which they were told.
    fields: Vec<(String, Value)>,
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Fields { left: MAX_FIELDS, target: None, message: String::new(), fields: Vec::new() };
        event.record(&mut fields);
        let Fields { target, message, fields, .. } = fields;
        let target = target.unwrap_or_else(|| event.metadata().target().to_owned());
        Self { at: Timestamp::now(), level: *event.metadata().level(), target, message, fields }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn fields(&self) -> &[(String, Value)] {
        &self.fields
    }

    /// For people, ended by a newline.
    pub(super) fn text(&self, color: bool) -> String {
        let paint = |code: &str, text: &str| match color {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        };
        let code = match self.level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG | Level::TRACE => "2",
        };
        let time = paint("2", &format!("{:.6}", self.at));
        format!("{time} {} {}\n", paint(code, &format!("{:5}", self.level.as_str())), self.said(&paint))
    }

    /// Message and fields, without time and level.
    pub(super) fn said(&self, paint: &dyn Fn(&str, &str) -> String) -> String {
        let mut said = String::new();
        if !self.target.starts_with("steadfast") {
            said = format!("{}: ", self.target);
        }
        said.push_str(&self.message);
        for (name, value) in &self.fields {
            let value = match value {
                Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
                }
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let _ = write!(said, " {}{value}", paint("2", &format!("{name}=")));
        }
        said
    }

    /// For programs: one object, ended by a newline.
    pub(super) fn json(&self) -> String {
        let mut all = Map::new();
        all.insert("timestamp".to_owned(), format!("{:.6}", self.at).into());
        all.insert("level".to_owned(), self.level.as_str().into());
        all.insert("message".to_owned(), self.message.clone().into());
        all.extend(self.fields.iter().cloned());
        all.insert("target".to_owned(), self.target.clone().into());
        Value::Object(all).to_string() + "\n"
    }
}

/// Collects an event's fields.
struct Fields {
    /// Bytes that the line has room for.
    left: usize,
    target: Option<String>,
    message: String,
    fields: Vec<(String, Value)>,
}

impl Fields {
    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = Bounded { text: String::new(), left: self.left.min(MAX_FIELD), is_cut: false };
        // It has no error of its own; one of the value's leaves what came before it.
        let _ = text.write_fmt(value);
        if text.is_cut {
            text.text.push('…');
        }
        self.left = self.left.saturating_sub(text.text.len());
        match field.name() {
            "message" => self.message = text.text,
            // Of the log crate, which some libraries use.
            "log.target" => self.target = Some(text.text),
            name if name.starts_with("log.") => {}
            name => self.fields.push((name.to_owned(), text.text.into())),
        }
    }

    fn value(&mut self, field: &Field, value: Value) {
        if !field.name().starts_with("log.") {
            self.fields.push((field.name().to_owned(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, value.into());
    }
}

/// Takes in text up to a number of bytes, without what could break a line or steer a terminal.
struct Bounded {
    text: String,
    left: usize,
    is_cut: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            let c = match c {
                '\n' | '\r' | '\t' => ' ',
                c if crate::text::steers(c) => char::REPLACEMENT_CHARACTER,
                c => c,
            };
            match self.left.checked_sub(c.len_utf8()) {
                Some(left) => self.left = left,
                None => {
                    self.is_cut = true;
                    // Ends the writing of a value that may be large.
                    return Err(fmt::Error);
                }
            }
            // A line break of two characters is one space.
            if !(c == ' ' && self.text.ends_with(' ')) {
                self.text.push(c);
            }
        }
        Ok(())
    }
}
