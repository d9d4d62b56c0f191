//! The prompts of the roles, from facts.

use steadfast_core::ids::RepoPath;

use super::show;
use super::template::{Form, Values};
use super::{
    CODER_FILE, CODER_FREE, CoderFacts, Feedback, FreeFacts, PLANNER, PlannerFacts, Prompt, REPAIR, REVIEWER,
    ReviewFacts, SourceFile, Templates, TreeEntry, tokens,
};
use crate::fence;
use crate::idea::Idea;

/// Room for headings and the words around optional parts, in tokens.
const HEADINGS: usize = 60;
/// The longest text of a problem that is told to a model, in characters.
const MAX_PROBLEM_CHARS: usize = 1000;

impl Templates {
    /// Asks for a plan.
    pub fn planner(&self, facts: &PlannerFacts<'_>) -> Prompt {
        let mut values = with_idea(facts.idea);
        let checks: String = facts.checks.iter().map(|check| format!("{check}\n")).collect();
        if !checks.is_empty() {
            values.set("checks", fence::wrap("text", &checks));
        }
        let room = self.room(&PLANNER, &values, facts.budget_tokens);
        tree_and_files(&mut values, facts.tree, facts.key_files, room);
        self.render(&PLANNER, &values)
    }

    /// Asks for one file: the whole text, or search/replace blocks where the file exists and is large.
    pub fn coder_file(&self, facts: &CoderFacts<'_>) -> Prompt {
        let mut values = with_idea(facts.idea);
        values.set("path", facts.path.as_str());
        values.set("milestone", show::milestone(facts.step));
        values.set("outline", show::outline(facts.step));
        match facts.current {
            Some(current) => values.set("current", show::file(facts.path, current)),
            None => values.set("new", "yes"),
        }
        if facts.large && facts.current.is_some() {
            values.set("edits", "yes");
        } else {
            values.set("whole", "yes");
            values.set("fence", answer_fence(facts.path, facts.current.unwrap_or("")));
        }
        set_error(&mut values, facts.last_error);
        let mut room = self.room(&CODER_FILE, &values, facts.budget_tokens);
        room -= feedback(&mut values, facts.feedback, Some(facts.path), room);
        let (text, note) = show::files_and_note("files", facts.neighbours, room);
        values.set("neighbours", text);
        values.set("omitted", note);
        self.render(&CODER_FILE, &values)
    }

    /// Asks for the files of a milestone that names none.
    pub fn coder_free(&self, facts: &FreeFacts<'_>) -> Prompt {
        let mut values = with_idea(facts.idea);
        values.set("milestone", show::milestone(facts.step));
        values.set("outline", show::outline(facts.step));
        set_error(&mut values, facts.last_error);
        let mut room = self.room(&CODER_FREE, &values, facts.budget_tokens);
        room -= feedback(&mut values, facts.feedback, None, room);
        tree_and_files(&mut values, facts.tree, facts.key_files, room);
        self.render(&CODER_FREE, &values)
    }

    /// Asks for a verdict.
    pub fn reviewer(&self, facts: &ReviewFacts<'_>) -> Prompt {
        let mut values = with_idea(facts.idea);
        values.set("milestone", show::milestone(facts.step));
        values.set("outline", show::outline(facts.step));
        values.set("failed_files", show::failed_files(facts.failed_files));
        let room = self.room(&REVIEWER, &values, facts.budget_tokens);
        let checks = show::checks(facts.checks, room / 4);
        let room = room.saturating_sub(tokens(&checks));
        values.set("checks", checks);
        let (mut text, mut cut) = show::diff(facts.diff, room);
        let note = show::note_room(room);
        if !cut.is_empty() {
            (text, cut) = show::diff(facts.diff, room - note);
        }
        values.set("diff", text);
        values.set("omitted", show::left_out("full diff of", &cut, note));
        self.render(&REVIEWER, &values)
    }

    /// The same prompt, with a word on why the answer to it could not be used.
    pub fn repair(&self, prompt: &Prompt, problem: &str) -> Prompt {
        let mut values = Values::default();
        let problem: String = problem.trim().trim_end_matches('.').chars().take(MAX_PROBLEM_CHARS).collect();
        values.set("problem", problem);
        let added = self.render(&REPAIR, &values);
        Prompt { system: prompt.system.clone(), user: format!("{}\n{}", prompt.user, added.user) }
    }

    /// What is left of the budget when all that must be said is said.
    fn room(&self, form: &Form, values: &Values, budget: usize) -> usize {
        budget.saturating_sub(self.render(form, values).tokens() + HEADINGS)
    }
}

fn with_idea(idea: &Idea) -> Values {
    let mut values = Values::default();
    values.set("title", idea.title.as_str());
    // Many ideas start with their title as a heading.
    let text =
        if idea.body.contains(&idea.title) { idea.body.clone() } else { format!("{}\n\n{}", idea.title, idea.body) };
    values.set("idea", fence::wrap("markdown", &text));
    values
}

fn set_error(values: &mut Values, error: Option<&str>) {
    if let Some(error) = error.map(str::trim).filter(|error| !error.is_empty()) {
        let error: String = error.chars().take(MAX_PROBLEM_CHARS).collect();
        values.set("last_error", fence::wrap("text", &error));
    }
}

/// Sets what the last round brought and gives the tokens it takes: at most a quarter of the room for issues, and as much for
/// the checks, because the files matter more for a fix than the end of a long log.
fn feedback(values: &mut Values, feedback: Feedback<'_>, path: Option<&RepoPath>, room: usize) -> usize {
    let issues = show::issues(feedback.issues, path, room / 4);
    let checks = if feedback.checks.iter().all(|check| check.passed) {
        String::new()
    } else {
        show::checks(feedback.checks, room / 4)
    };
    let used = tokens(&issues) + tokens(&checks);
    values.set("issues", issues);
    values.set("checks", checks);
    used.min(room)
}

/// The tree takes what it needs, but leaves the files three fifths of the room where they need it.
fn tree_and_files(values: &mut Values, tree: &[TreeEntry], files: &[SourceFile], room: usize) {
    let files_want: usize = files.iter().map(|file| tokens(&file.text) + 20).sum();
    let tree_room = (room * 2 / 5).max(room.saturating_sub(files_want));
    let shown = show::tree(tree, tree_room);
    let room = room.saturating_sub(tokens(&shown));
    let (text, note) = show::files_and_note("text of", files, room);
    values.set("tree", shown);
    values.set("files", text);
    values.set("omitted", note);
}

/// A fence for the whole file: longer than any run of backticks in it, and one longer than usual for kinds of files that
/// tend to have fences.
fn answer_fence(path: &RepoPath, current: &str) -> String {
    let extension = path.as_str().rsplit('.').next().unwrap_or("").to_ascii_lowercase();
    let has_fences = matches!(extension.as_str(), "md" | "markdown" | "mdx" | "qmd" | "rmd");
    fence::long_enough(current, if has_fences { 4 } else { 3 })
}
