//! What reaches people outside: issue trackers as one trait with two forms (a folder, GitHub), and alerts to a webhook.
//!
//! Must not know: ractor, the store. Delivery may be repeated after a crash, so a tracker that is told so looks for the
//! effect's key before it does anything.

mod github;
mod http;
mod local;
mod webhook;

pub use github::{GithubSettings, GithubTracker, SettingsError};
pub use local::LocalTracker;
pub use webhook::Webhook;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an issue is about (SPEC 10, report).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IssueKind {
    /// A file agent failed in a milestone that was kept.
    FailedFile,
    /// A review rejected the milestone, or a check fails, after all rounds of fixes.
    Review,
    /// A session was interrupted or failed and waits for a person.
    Recovery,
    /// A manual task stands in for a milestone.
    Manual,
}

impl IssueKind {
    /// The word in reports and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailedFile => "failed_file",
            Self::Review => "review",
            Self::Recovery => "recovery",
            Self::Manual => "manual",
        }
    }
}

/// An issue to be filed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// Names it for good: the same key is never filed twice. 1 to 120 characters of `[a-z0-9._-]`.
    pub key: String,
    /// What it is about.
    pub kind: IssueKind,
    /// One line, never empty.
    pub title: String,
    /// Markdown.
    pub body: String,
    /// Labels for the tracker; may be empty.
    pub labels: Vec<String>,
    /// Whom it is for.
    pub assignee: Option<String>,
}

impl Issue {
    /// The hidden line in the body by which a filed issue is found again.
    pub fn marker(&self) -> String {
        marker(&self.key)
    }
}

fn marker(key: &str) -> String {
    format!("<!-- steadfast-key: {key} -->")
}

/// A filed issue that is to be closed with a comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The key of the issue.
    pub issue: String,
    /// Why it is closed; Markdown.
    pub comment: String,
}

impl Closing {
    /// Names the closing for good.
    pub fn key(&self) -> String {
        format!("{}-closed", self.issue)
    }

    /// The hidden line by which the comment is found again.
    fn marker(&self) -> String {
        marker(&self.key())
    }
}

/// What an alert is about (SPEC 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertKind {
    /// A template, a manual task or static checks stand in for a model.
    Degraded,
    /// A model's breaker opened.
    BreakerOpen,
    /// Sessions were interrupted by a shutdown.
    Shutdown,
}

impl AlertKind {
    /// The word in payloads and lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::BreakerOpen => "breaker_open",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Something that operators want to hear of at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Names it for good; a receiver that sees it twice can tell.
    pub id: String,
    /// What it is about.
    pub kind: AlertKind,
    /// One or two sentences for a person, plain text.
    pub text: String,
    /// Details by name, e.g. `session`, `model`; names are unique.
    pub fields: Vec<(String, String)>,
    /// When it happened: milliseconds since 1970.
    pub at_ms: u64,
}

/// Whether an effect may have taken place already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// This is the first try: nothing can be there.
    Never,
    /// An earlier try ended without its receipt: look before doing it.
    Perhaps {
        /// When the effect was decided, in milliseconds since 1970: nothing of it is older.
        since_ms: u64,
    },
}

/// Where a filed issue lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// For a person: an `https:` address, or a `file:` one for the local tracker.
    pub url: String,
    /// It was there already: an earlier try had got through.
    pub found: bool,
    /// What of it the tracker did not take, for a person.
    pub note: Option<String>,
}

/// A closing that is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closed {
    /// Why nothing was left to do, for a person.
    pub note: Option<String>,
}

/// When something that was not delivered may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// With growing pauses: it is a matter of time.
    Soon,
    /// Not before this time has passed, by the word of the other side.
    After(Duration),
    /// Seldom: somebody must change something first.
    Slowly,
}

/// Why something could not be delivered. The messages are for a person and hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The folder of the local tracker cannot be read or written. Nothing was filed.
    #[error("cannot write issue file {path}")]
    Write {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The key is not fit for a file name. A fault of ours; nothing was filed.
    #[error("issue key {0:?} is not fit for a file name")]
    Key(String),
    /// The other side gave no answer or failed. Whether the effect took place is not known.
    #[error("{0}")]
    Unreachable(String),
    /// The other side wants to be left alone for a while. Nothing was done.
    #[error("{what}; not before {} s from now", wait.as_secs())]
    Limited {
        /// Which limit.
        what: String,
        /// Until then no request is made.
        wait: Duration,
    },
    /// The other side refuses. Nothing was done, and somebody must change something.
    #[error("{0}")]
    Refused(String),
}

impl DeliveryError {
    /// When it may be tried again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Write { .. } | Self::Unreachable(_) => Retry::Soon,
            Self::Limited { wait, .. } => Retry::After(*wait),
            Self::Key(_) | Self::Refused(_) => Retry::Slowly,
        }
    }
}

/// The future that a tracker answers a filing with.
pub type Filing = Pin<Box<dyn Future<Output = Result<Filed, DeliveryError>> + Send>>;

/// The future that a tracker answers a closing with.
pub type ClosingDone = Pin<Box<dyn Future<Output = Result<Closed, DeliveryError>> + Send>>;

/// The future that a sending of an alert ends with.
pub type Sending = Pin<Box<dyn Future<Output = Result<(), DeliveryError>> + Send>>;

/// A place where issues are filed.
pub trait IssueTracker: Send + Sync + 'static {
    /// Files the issue, or finds it filed. Safe to repeat with [`Tried::Perhaps`]: the same key is filed once.
    fn file(&self, issue: Issue, tried: Tried) -> Filing;

    /// Comments on a filed issue and closes it. `url`: its receipt. Safe to repeat with [`Tried::Perhaps`]. An issue that
    /// somebody has closed or deleted meanwhile is left as it is.
    fn close(&self, closing: Closing, url: String, tried: Tried) -> ClosingDone;
}

/// Where alerts go.
pub trait AlertChannel: Send + Sync + 'static {
    /// Sends the alert. A repetition after a crash sends it once more, with the same id.
    fn send(&self, alert: Alert) -> Sending;
}
