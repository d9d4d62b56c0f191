//! Makes text from outside fit for people, logs and records: no control characters, no key, not too long.

use std::borrow::Cow;

use secrecy::{ExposeSecret, SecretString};
use steadfast_core::fault::{CallFault, Fault};

/// The most characters of a message (`CallFault::message`).
pub(crate) const MESSAGE_CHARS: usize = 500;
/// The most characters of a name that a provider gave: a request's id, a model, a finish reason.
const LABEL_CHARS: usize = 200;
/// What stands in for the key.
const MASK: &str = "***";
/// A shorter key is a placeholder (`x`, `abc`) that would mask half of every message.
const SHORTEST_KEY: usize = 4;

/// A shorter key may be no secret: local servers want any word.
const SHORTEST_SECRET: usize = 16;

/// Knows the provider's key, so that it can take it out of every text.
pub(crate) struct Reporter {
    key: Option<SecretString>,
}

impl Reporter {
    pub(crate) fn new(key: Option<SecretString>) -> Self {
        Self { key: key.filter(|key| key.expose_secret().len() >= SHORTEST_KEY) }
    }

    pub(crate) fn fault(&self, fault: Fault, message: &str) -> CallFault {
        CallFault::new(fault, self.message(message))
    }

    /// One line of at most [`MESSAGE_CHARS`] characters.
    pub(crate) fn message(&self, text: &str) -> String {
        self.clean(text, MESSAGE_CHARS)
    }

    /// The text and the end of `output`, as one line of at most [`MESSAGE_CHARS`] characters.
    pub(crate) fn message_with_tail(&self, text: &str, output: &str) -> String {
        let text = self.message(text);
        let output = one_line(&self.mask(output));
        let room = MESSAGE_CHARS.saturating_sub(text.chars().count() + 2);
        match output.chars().count().checked_sub(room) {
            _ if output.is_empty() => text,
            None | Some(0) => format!("{text}: {output}"),
            Some(over) => format!("{text}: …{}", output.chars().skip(over + 1).collect::<String>()),
        }
    }

    /// One line of at most [`LABEL_CHARS`] characters; `None` when nothing is left.
    pub(crate) fn label(&self, text: &str) -> Option<String> {
        Some(self.clean(text, LABEL_CHARS)).filter(|label| !label.is_empty())
    }

    /// Whether an answer carries the key: it must not get into a record or a file. A short key may be a word that a file
    /// has for its own reasons.
    pub(crate) fn leaks_key(&self, answer: &str) -> bool {
        let key = self.key.as_ref().map(ExposeSecret::expose_secret);
        key.is_some_and(|key| key.len() >= SHORTEST_SECRET && answer.contains(key))
    }

    fn clean(&self, text: &str, max_chars: usize) -> String {
        // Masked before it is cut: half a key at the end would pass unseen.
        cut(&one_line(&self.mask(text)), max_chars)
    }

    fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.key {
            Some(key) if text.contains(key.expose_secret()) => text.replace(key.expose_secret(), MASK).into(),
            _ => text.into(),
        }
    }
}

/// Control characters and runs of white space become one space each, none at the ends.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(4 * MESSAGE_CHARS));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// The text, or its first `max_chars - 1` characters and an ellipsis.
fn cut(text: &str, max_chars: usize) -> String {
    if text.chars().nth(max_chars).is_none() {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max_chars - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_masked_even_where_the_text_is_cut() {
        let reporter = Reporter::new(Some(SecretString::from("sk-secret-1234")));
        let text = format!("{} sk-secret-1234", "x".repeat(490));
        let message = reporter.message(&text);
        assert!(!message.contains("sk-"), "{message}");
        assert!(message.ends_with(MASK));
        assert_eq!(reporter.label("id-sk-secret-1234").as_deref(), Some("id-***"));
    }

    #[test]
    fn a_message_is_one_line_of_at_most_500_characters() {
        let reporter = Reporter::new(None);
        assert_eq!(reporter.message("  a\r\n\tb\u{1b}[31m\0c "), "a b [31m c");
        let long = reporter.message(&"ä".repeat(600));
        assert_eq!(long.chars().count(), MESSAGE_CHARS);
        assert!(long.ends_with('…'));
        assert_eq!(reporter.message(&"ä".repeat(500)).chars().count(), 500);
        assert_eq!(reporter.label("\n"), None);
    }

    #[test]
    fn of_a_programs_output_the_end_is_shown() {
        let reporter = Reporter::new(None);
        assert_eq!(reporter.message_with_tail("failed", "a\nb\n"), "failed: a b");
        assert_eq!(reporter.message_with_tail("failed", " \n"), "failed");
        let message = reporter.message_with_tail("failed", &format!("{}end", "x".repeat(600)));
        assert_eq!(message.chars().count(), MESSAGE_CHARS);
        assert!(message.starts_with("failed: …x") && message.ends_with("xend"), "{message}");
    }
}
