//! The planner's and the reviewer's answers, after they were read and checked.

use serde::{Deserialize, Serialize};

use crate::ids::RepoPath;

/// The most milestones a plan may have (SPEC 7).
pub const MAX_MILESTONES: usize = 50;
/// The most files a milestone may name (SPEC 7).
pub const MAX_FILES: usize = 200;

/// What is to happen to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Change {
    /// It does not exist yet (it may, after all: then it is replaced).
    Create,
    /// It exists.
    Modify,
    /// It goes. Needs no model.
    Delete,
}

/// One file of a milestone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Where it lies.
    pub path: RepoPath,
    /// What happens to it.
    pub change: Change,
}

/// One step of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMilestone {
    /// Short, never empty.
    pub name: String,
    /// What is to be done, in the planner's words; may be empty.
    pub description: String,
    /// In the planner's order (create, modify, delete), each path once, at most [`MAX_FILES`]. Empty: a single file
    /// agent chooses the files itself.
    pub files: Vec<PlannedFile>,
    /// Files that the plan named but that must not be touched: they become failed files of the milestone.
    pub refused: Vec<RefusedFile>,
}

/// A file of a plan whose path breaks SPEC 9's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedFile {
    /// The path as the plan had it, cut to 200 characters.
    pub path: String,
    /// Why it is refused.
    pub reason: String,
}

/// A plan with 1 to [`MAX_MILESTONES`] milestones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In order.
    pub milestones: Vec<PlannedMilestone>,
    /// May be empty.
    pub risks: Vec<String>,
    /// 0 to 1.
    pub confidence: f64,
}

impl Plan {
    /// The plan that stands in when no planner answers (SPEC 5).
    pub fn template() -> Self {
        let milestone = |name: &str, description: &str| PlannedMilestone {
            name: name.to_owned(),
            description: description.to_owned(),
            files: Vec::new(),
            refused: Vec::new(),
        };
        Self {
            milestones: vec![
                milestone("Analyze requirements", "Review and understand the requirements."),
                milestone("Implement changes", "Make the necessary code changes."),
            ],
            risks: vec!["AI planner unavailable - using template".to_owned()],
            confidence: 0.5,
        }
    }
}

/// How much a review issue weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Cosmetic.
    Low,
    /// Should be mended.
    Medium,
    /// Must be mended.
    High,
    /// Breaks something or is unsafe.
    Critical,
}

impl Severity {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// One remark of a review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewIssue {
    /// How much it weighs.
    pub severity: Severity,
    /// What is wrong.
    pub issue: String,
    /// What to do; may be empty.
    pub suggestion: String,
    /// The file it is about, where the reviewer named one, as it named it.
    pub file: Option<String>,
}

/// A review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The reviewer's verdict.
    pub approved: bool,
    /// 0 to 100.
    pub code_quality: u8,
    /// In the reviewer's order; may be empty.
    pub issues: Vec<ReviewIssue>,
    /// May be empty.
    pub next_steps: Vec<String>,
}
