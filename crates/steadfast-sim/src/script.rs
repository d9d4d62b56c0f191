//! The script of a simulated server: what it answers, when, and how it misbehaves. The format is described at the
//! crate's root, by example in `config/sim-example.toml`.

mod error;
mod parse;
mod read;

use std::time::Duration;

pub use error::ScriptError;

/// What a simulated server does. [`Script::default`] has no rules: every request is answered well and at once.
#[derive(Debug, Clone)]
pub struct Script {
    pub(crate) seed: u64,
    /// Before the first byte of each answer.
    pub(crate) latency: Duration,
    /// Up to this much more than `latency`, by request and seed.
    pub(crate) jitter: Duration,
    /// Characters in one event of a stream, at least 1.
    pub(crate) chunk: usize,
    /// Between two events of a stream.
    pub(crate) interval: Duration,
    /// The models that exist; empty: every name does.
    pub(crate) models: Vec<String>,
    /// The key that requests must carry, where one is set.
    pub(crate) api_key: Option<String>,
    /// The texts of prompts are kept in the log.
    pub(crate) keep_prompts: bool,
    /// The planner's answer as JSON, where one is scripted.
    pub(crate) plan: Option<String>,
    pub(crate) files: Vec<ScriptedFile>,
    pub(crate) rules: Vec<Rule>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            seed: 1,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            chunk: 64,
            interval: Duration::ZERO,
            models: Vec::new(),
            api_key: None,
            keep_prompts: false,
            plan: None,
            files: Vec::new(),
            rules: Vec::new(),
        }
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first fault found: broken TOML, an unknown key or word (with the nearest valid one), a value of the wrong kind,
    /// keys that exclude each other.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        parse::script(text)
    }

    /// Adds the text that a coder is given for `path`, in one milestone (from 1) or in all. Texts for the milestone go
    /// before texts for all, and later ones before earlier ones.
    #[must_use]
    pub fn with_file(mut self, path: &str, milestone: Option<u32>, text: &str) -> Self {
        self.files.push(ScriptedFile { path: path.to_owned(), milestone, text: text.to_owned() });
        self
    }

    /// Sets the time before each answer's first byte, and the time between two events of a stream. Zero for both makes a
    /// server that answers at once, whatever the script said; delays of single rules stay.
    #[must_use]
    pub fn with_pace(mut self, latency: Duration, interval: Duration) -> Self {
        (self.latency, self.jitter, self.interval) = (latency, Duration::ZERO, interval);
        self
    }

    /// Keeps the text of each prompt in the request log.
    #[must_use]
    pub fn keeping_prompts(mut self) -> Self {
        self.keep_prompts = true;
        self
    }

    /// The scripted text of a file.
    pub(crate) fn file(&self, path: &str, milestone: Option<u32>) -> Option<&str> {
        let fits = |own: bool| {
            let mut texts = self.files.iter().rev();
            texts.find(|file| {
                file.path == path
                    && if own {
                        file.milestone.is_some() && file.milestone == milestone
                    } else {
                        file.milestone.is_none()
                    }
            })
        };
        fits(true).or_else(|| fits(false)).map(|file| file.text.as_str())
    }
}

/// The text of one file as a coder writes it.
#[derive(Debug, Clone)]
pub(crate) struct ScriptedFile {
    pub(crate) path: String,
    pub(crate) milestone: Option<u32>,
    pub(crate) text: String,
}

/// One rule: for which requests, which of them by count, and what then.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// As given, else `rule N` (from 1).
    pub(crate) name: String,
    pub(crate) matcher: Match,
    /// What has a count of its own; empty: the rule has one count.
    pub(crate) per: Vec<Key>,
    pub(crate) window: Window,
    pub(crate) probability: Option<f64>,
    pub(crate) then: Then,
}

/// Which requests a rule is about. An empty list fits everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Match {
    pub(crate) model: Vec<String>,
    pub(crate) role: Vec<String>,
    pub(crate) file: Vec<String>,
    pub(crate) idea: Vec<String>,
    pub(crate) session: Vec<String>,
    pub(crate) milestone: Vec<u64>,
    pub(crate) attempt: Vec<u64>,
    pub(crate) prompt: Vec<String>,
    pub(crate) stream: Option<bool>,
}

/// A property of a request by which a rule may count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Model,
    Role,
    File,
    Idea,
    Session,
    Milestone,
}

/// Which of the counted requests a rule takes. All parts must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    /// So many are passed over; the other parts count from there.
    pub(crate) after: u64,
    pub(crate) first: Option<u64>,
    pub(crate) nth: Vec<u64>,
    pub(crate) every: Option<u64>,
}

impl Window {
    /// Does the rule take the `n`-th request, counted from 1?
    pub(crate) fn holds(&self, n: u64) -> bool {
        let Some(n) = n.checked_sub(self.after).filter(|n| *n > 0) else {
            return false;
        };
        self.first.is_none_or(|first| n <= first)
            && (self.nth.is_empty() || self.nth.contains(&n))
            && self.every.is_none_or(|every| n.is_multiple_of(every))
    }
}

/// What a rule does.
#[derive(Debug, Clone)]
pub(crate) struct Then {
    pub(crate) effect: Effect,
    /// Sent with whatever is sent.
    pub(crate) headers: Vec<(String, String)>,
    /// Instead of the script's latency and jitter.
    pub(crate) delay: Option<Duration>,
    pub(crate) chunk: Option<usize>,
    pub(crate) interval: Option<Duration>,
}

/// The answer itself.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// An answer with content, sound unless there is a fault.
    Answer { content: Content, fault: Option<Fault> },
    /// An HTTP status with a body; without one, the body that providers send with that status.
    Status { code: u16, body: Option<String> },
}

/// What an answer contains.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// What the role asks for, by the script's plan and files.
    Auto,
    /// Exactly this.
    Text(String),
    /// This, as a fenced file.
    File(String),
    /// These, as fenced files with their paths.
    Files(Vec<(String, String)>),
    /// One of the built-in answers.
    Generated(Generator),
}

/// Built-in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generator {
    Plan,
    File,
    Approve,
    Reject,
    Nothing,
    Plain,
    Prose,
    Lazy,
    Unclosed,
}

impl Generator {
    pub(crate) const WORDS: [(&'static str, Self); 9] = [
        ("plan", Self::Plan),
        ("file", Self::File),
        ("approve", Self::Approve),
        ("reject", Self::Reject),
        ("nothing", Self::Nothing),
        ("plain", Self::Plain),
        ("prose", Self::Prose),
        ("lazy", Self::Lazy),
        ("unclosed", Self::Unclosed),
    ];
}

/// Ways to misbehave that a status cannot express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Refuse,
    Reset,
    Close,
    BrokenStream,
    CutStream,
    NoDone,
    StreamError,
    Hang,
    Stall,
    Html,
    BadJson,
    NoChoices,
    NotUtf8,
    Huge(u64),
    Plain,
    Truncated,
    Filtered,
    Quota,
    QuotaIn400,
    ContextTooLong,
}

impl Fault {
    /// The size of a `huge` answer where none is given, in bytes.
    pub(crate) const HUGE: u64 = 64 << 20;

    pub(crate) const WORDS: [(&'static str, Self); 20] = [
        ("refuse", Self::Refuse),
        ("reset", Self::Reset),
        ("close", Self::Close),
        ("broken_stream", Self::BrokenStream),
        ("cut_stream", Self::CutStream),
        ("no_done", Self::NoDone),
        ("stream_error", Self::StreamError),
        ("hang", Self::Hang),
        ("stall", Self::Stall),
        ("html", Self::Html),
        ("bad_json", Self::BadJson),
        ("no_choices", Self::NoChoices),
        ("not_utf8", Self::NotUtf8),
        ("huge", Self::Huge(Self::HUGE)),
        ("plain", Self::Plain),
        ("truncated", Self::Truncated),
        ("filtered", Self::Filtered),
        ("quota", Self::Quota),
        ("quota_in_400", Self::QuotaIn400),
        ("context_too_long", Self::ContextTooLong),
    ];

    /// The word in scripts and in the log.
    pub(crate) fn word(self) -> &'static str {
        let same = |fault: &Self| std::mem::discriminant(fault) == std::mem::discriminant(&self);
        Self::WORDS.iter().find(|(_, fault)| same(fault)).map_or("fault", |(word, _)| word)
    }
}

#[cfg(test)]
mod tests;
