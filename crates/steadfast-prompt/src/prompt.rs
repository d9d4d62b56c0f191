//! What is said to a model: one system and one user text, built anew from facts, within a budget of tokens.
//!
//! The idea, the milestone and the coder's current file are never cut, so a prompt can be larger than its budget when these
//! alone are. Everything else is cut to what is left, and the prompt says what was cut. Whatever comes from the
//! repository, from a tool or from a model stands in a fence that it cannot end.

mod budget;
mod build;
mod show;
mod template;

use steadfast_core::ids::RepoPath;
use steadfast_core::plan::{Plan, PlannedMilestone, ReviewIssue};

use crate::idea::Idea;

pub use budget::tokens;
pub use template::TemplateError;

use template::{Form, Template, Values};

/// What one call says to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Who the model is and how it answers; the same for all calls of a kind.
    pub system: String,
    /// The task and its facts.
    pub user: String,
}

impl Prompt {
    /// The estimated size of both texts, see [`tokens`].
    pub fn tokens(&self) -> usize {
        tokens(&self.system) + tokens(&self.user)
    }
}

/// A file of the repository, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Where it lies.
    pub path: RepoPath,
    /// In bytes.
    pub size: u64,
}

/// A file of the repository with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it lies.
    pub path: RepoPath,
    /// All of it.
    pub text: String,
}

/// The milestone that is at hand, as a part of its plan.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    plan: &'a Plan,
    milestone: &'a PlannedMilestone,
    number: usize,
}

impl<'a> Step<'a> {
    /// `number` counts from 1, as in reports and headers. `None` when the plan has no such milestone.
    pub fn new(plan: &'a Plan, number: usize) -> Option<Self> {
        let milestone = plan.milestones.get(number.checked_sub(1)?)?;
        Some(Self { plan, milestone, number })
    }
}

/// One configured check and what it said.
#[derive(Debug, Clone, Copy)]
pub struct CheckOutcome<'a> {
    /// As configured.
    pub command: &'a str,
    /// It ended with success.
    pub passed: bool,
    /// What it wrote; may be empty.
    pub output: &'a str,
}

/// Why a milestone is worked on again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Feedback<'a> {
    /// Of the last review; may be empty.
    pub issues: &'a [ReviewIssue],
    /// Of the last run; may be empty.
    pub checks: &'a [CheckOutcome<'a>],
}

/// A file that a milestone lacks.
#[derive(Debug, Clone, Copy)]
pub struct FailedFile<'a> {
    /// As the plan named it.
    pub path: &'a str,
    /// Why, in short.
    pub reason: &'a str,
}

/// What the planner is told.
#[derive(Debug, Clone, Copy)]
pub struct PlannerFacts<'a> {
    /// The task.
    pub idea: &'a Idea,
    /// All files that may be shown.
    pub tree: &'a [TreeEntry],
    /// Most important first, as [`crate::rank::key_files`] orders them.
    pub key_files: &'a [SourceFile],
    /// Commands of the configured checks.
    pub checks: &'a [String],
    /// For both texts together.
    pub budget_tokens: usize,
}

/// What the coder of one file is told.
#[derive(Debug, Clone, Copy)]
pub struct CoderFacts<'a> {
    /// The task.
    pub idea: &'a Idea,
    /// The milestone.
    pub step: Step<'a>,
    /// The file.
    pub path: &'a RepoPath,
    /// Its text as it is now; `None` when it does not exist.
    pub current: Option<&'a str>,
    /// Most important first, as [`crate::rank::neighbours`] orders them.
    pub neighbours: &'a [SourceFile],
    /// Of the round before, if there was one.
    pub feedback: Feedback<'a>,
    /// Why the last answer for this file was not accepted.
    pub last_error: Option<&'a str>,
    /// Ask for search/replace blocks, because the file is too long to be written again. Without effect on a new file.
    pub large: bool,
    /// For both texts together.
    pub budget_tokens: usize,
}

/// What the coder of a milestone without files is told.
#[derive(Debug, Clone, Copy)]
pub struct FreeFacts<'a> {
    /// The task.
    pub idea: &'a Idea,
    /// The milestone.
    pub step: Step<'a>,
    /// All files that may be shown.
    pub tree: &'a [TreeEntry],
    /// Most important first.
    pub key_files: &'a [SourceFile],
    /// Of the round before, if there was one.
    pub feedback: Feedback<'a>,
    /// Why the last answer was not accepted.
    pub last_error: Option<&'a str>,
    /// For both texts together.
    pub budget_tokens: usize,
}

/// What the reviewer is told.
#[derive(Debug, Clone, Copy)]
pub struct ReviewFacts<'a> {
    /// The task.
    pub idea: &'a Idea,
    /// The milestone.
    pub step: Step<'a>,
    /// Unified, as git writes it.
    pub diff: &'a str,
    /// Of this milestone; may be empty.
    pub checks: &'a [CheckOutcome<'a>],
    /// What the milestone lacks; may be empty.
    pub failed_files: &'a [FailedFile<'a>],
    /// For both texts together.
    pub budget_tokens: usize,
}

const PLANNER: Form = Form {
    file: "planner.md",
    has_system: true,
    required: &["idea", "tree"],
    optional: &["title", "checks", "files", "omitted"],
};
const CODER_FILE: Form = Form {
    file: "coder-file.md",
    has_system: true,
    required: &["idea", "milestone", "path", "current"],
    optional: &[
        "title",
        "outline",
        "neighbours",
        "issues",
        "checks",
        "last_error",
        "omitted",
        "fence",
        "new",
        "whole",
        "edits",
    ],
};
const CODER_FREE: Form = Form {
    file: "coder-free.md",
    has_system: true,
    required: &["idea", "milestone", "tree"],
    optional: &["title", "outline", "files", "issues", "checks", "last_error", "omitted"],
};
const REVIEWER: Form = Form {
    file: "reviewer.md",
    has_system: true,
    required: &["idea", "milestone", "diff"],
    optional: &["title", "outline", "checks", "failed_files", "omitted"],
};
const REPAIR: Form = Form { file: "repair.md", has_system: false, required: &["problem"], optional: &[] };

/// The built-in texts, by the name of their file.
const BUILTIN: [(&Form, &str); 5] = [
    (&PLANNER, include_str!("../prompts/planner.md")),
    (&CODER_FILE, include_str!("../prompts/coder-file.md")),
    (&CODER_FREE, include_str!("../prompts/coder-free.md")),
    (&REVIEWER, include_str!("../prompts/reviewer.md")),
    (&REPAIR, include_str!("../prompts/repair.md")),
];

/// The texts of all prompts, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    /// In the order of [`BUILTIN`].
    all: [Template; 5],
}

impl Templates {
    /// The names of the prompt files that [`Templates::with`] knows.
    pub const FILES: [&'static str; 5] = [PLANNER.file, CODER_FILE.file, CODER_FREE.file, REVIEWER.file, REPAIR.file];

    /// The texts that come with the program.
    pub fn builtin() -> Self {
        let parse = |(form, text): (&Form, &str)| {
            Template::parse(form, text).expect("the built-in texts are valid, as a test of them shows")
        };
        Self { all: BUILTIN.map(parse) }
    }

    /// A built-in text, for people who want to start from it. `None` when there is no file of that name.
    pub fn builtin_text(file: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(form, _)| form.file == file).map(|(_, text)| *text)
    }

    /// Takes another text for one of the prompts.
    ///
    /// # Errors
    /// [`TemplateError`], which names file, line and the nearest valid name.
    pub fn with(mut self, file: &str, text: &str) -> Result<Self, TemplateError> {
        let at = BUILTIN.iter().position(|(form, _)| form.file == file).ok_or_else(|| TemplateError::UnknownFile {
            name: file.chars().take(80).collect(),
            nearest: template::nearest(file, Self::FILES.into_iter()),
        })?;
        self.all[at] = Template::parse(BUILTIN[at].0, text)?;
        Ok(self)
    }

    fn render(&self, form: &Form, values: &Values) -> Prompt {
        let at = BUILTIN.iter().position(|(known, _)| known.file == form.file);
        let template = &self.all[at.expect("each form stands in the list")];
        let (system, user) = template.render(values);
        Prompt { system, user }
    }
}

#[cfg(test)]
#[path = "prompt/prompt_tests.rs"]
mod tests;
