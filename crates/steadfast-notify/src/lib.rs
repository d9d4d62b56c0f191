//! Where issues for people go: trackers as one trait, and the local form of it.
//!
//! Must not know: ractor, the store. Delivery may be repeated after a crash, so every form looks for the issue's key
//! before it creates anything.

mod local;

pub use local::LocalTracker;

use std::future::Future;
use std::pin::Pin;

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
        format!("<!-- steadfast-key: {} -->", self.key)
    }
}

/// Where a filed issue lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// For a person: an `https:` address, or a `file:` one for the local tracker.
    pub url: String,
    /// It was there already: an earlier try had got through.
    pub found: bool,
}

/// Why an issue could not be filed.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The folder of the local tracker cannot be written. Nothing was filed.
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
}

/// The future that a tracker answers with.
pub type Filing = Pin<Box<dyn Future<Output = Result<Filed, TrackerError>> + Send>>;

/// A place where issues are filed.
pub trait IssueTracker: Send + Sync + 'static {
    /// Files the issue, or finds it filed. Safe to repeat: the same key is filed once.
    fn file(&self, issue: Issue) -> Filing;
}
