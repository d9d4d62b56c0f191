//! How facts are shown: trees, files, diffs, issues and the output of checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use steadfast_core::ids::RepoPath;
use steadfast_core::plan::{Change, ReviewIssue};

use super::budget::{head, shares, tokens, without_middle};
use super::{CheckOutcome, FailedFile, SourceFile, Step, TreeEntry};
use crate::fence;

/// The room below which the start of a file is not worth showing, in tokens.
const SMALLEST_HEAD: usize = 120;
/// So many names are listed before the rest is counted.
const MAX_NAMES: usize = 20;

/// A path as the info string of a fenced block.
fn info(path: &str) -> String {
    match (path.contains(char::is_whitespace), path.contains('"')) {
        (false, false) => format!("path={path}"),
        (true, false) => format!("path=\"{path}\""),
        (_, true) => format!("path='{path}'"),
    }
}

/// A file in a fence. `\r\n` is shown as `\n`: answers are read in the same way.
pub(super) fn file(path: &RepoPath, text: &str) -> String {
    fence::wrap(&info(path.as_str()), &text.replace("\r\n", "\n"))
}

/// Files in their order, each whole, as far as the room goes; one may take at most half of it, so that a long one does not
/// drive out all others. The names of those that found no room are returned.
fn files(files: &[SourceFile], room: usize) -> (String, Vec<&str>) {
    let mut text = String::new();
    let mut left = room;
    let mut omitted = Vec::new();
    for source in files {
        let path = source.path.as_str();
        let most = left.min(room.div_ceil(2));
        let whole = if source.text.len() / 4 > most { None } else { Some(file(&source.path, &source.text)) };
        let shown = match whole {
            Some(shown) if tokens(&shown) < most => Some(shown),
            _ => start_of(source, most),
        };
        match shown {
            Some(shown) => {
                left = left.saturating_sub(tokens(&shown) + 1);
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&shown);
            }
            None => omitted.push(path),
        }
    }
    (text, omitted)
}

/// The first lines of a file that does not fit, and a line that says so. `None` when there is too little room.
fn start_of(source: &SourceFile, room: usize) -> Option<String> {
    let room = room.checked_sub(40).filter(|room| *room >= SMALLEST_HEAD)?;
    let text = source.text.replace("\r\n", "\n");
    let (start, n_lines) = head(&text, room);
    let all = text.lines().count();
    (n_lines > 0).then(|| {
        format!(
            "{}(This file was cut for lack of room: lines 1 to {n_lines} of {all} are shown.)\n",
            file(&source.path, start)
        )
    })
}

/// A sentence on what was left out: names as far as the room goes (at least one), the rest as a number. Empty when there
/// is nothing to name.
pub(super) fn left_out(what: &str, names: &[&str], room: usize) -> String {
    let mut list = String::new();
    for (shown, name) in names.iter().enumerate() {
        let name = format!("`{}`", name.replace('`', "'"));
        if shown > 0 && (shown == MAX_NAMES || tokens(&list) + tokens(&name) + 25 > room) {
            let _ = write!(list, " and {} more", names.len() - shown);
            break;
        }
        if shown > 0 {
            list.push_str(", ");
        }
        list.push_str(&name);
    }
    if list.is_empty() { list } else { format!("Left out here for lack of room: the {what} {list}.") }
}

/// How much of a room is kept for [`left_out`], where something must be left out.
pub(super) fn note_room(room: usize) -> usize {
    (room / 10).min(200)
}

/// [`files`] together with the sentence on those that found no room.
pub(super) fn files_and_note(what: &str, sources: &[SourceFile], room: usize) -> (String, String) {
    let (text, omitted) = files(sources, room);
    if omitted.is_empty() {
        return (text, String::new());
    }
    let note = note_room(room);
    let (text, omitted) = files(sources, room - note);
    (text, left_out(what, &omitted, note))
}

/// The files of a repository, one a line, sorted, in a fence. When they do not fit, first the files of large directories
/// are counted instead of listed, then deep directories.
pub(super) fn tree(entries: &[TreeEntry], room: usize) -> String {
    if entries.is_empty() {
        return fence::wrap("text", "(no files yet)\n");
    }
    let mut sorted: Vec<&TreeEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let deepest = sorted.iter().map(|entry| depth(entry.path.as_str())).max().unwrap_or(0);
    let caps = [usize::MAX, 60, 25, 10].into_iter().map(|cap| (deepest, cap));
    let shallower = (0..deepest).rev().map(|depth| (depth, 10));
    let room = room.saturating_sub(8);
    for (depth, cap) in caps.chain(shallower) {
        if let Some(text) = listing(&sorted, depth, cap, room) {
            return fence::wrap("text", &text);
        }
    }
    // Not even the top level fits: its start, and how many files there are in all.
    let all: String = sorted.iter().map(|entry| format!("{} {}\n", entry.path, entry.size)).collect();
    let (start, n_lines) = head(&all, room.saturating_sub(12));
    fence::wrap("text", &format!("{start}... and {} more files\n", sorted.len() - n_lines))
}

fn depth(path: &str) -> usize {
    path.matches('/').count()
}

/// Lines for files at most `depth` directories deep, at most `cap` of a directory. `None` when they take more than `room`.
fn listing(sorted: &[&TreeEntry], max_depth: usize, cap: usize, room: usize) -> Option<String> {
    // What is not listed is counted under the directory that is still shown.
    let mut hidden: BTreeMap<&str, usize> = BTreeMap::new();
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut used = 0;
    for entry in sorted {
        let path = entry.path.as_str();
        let directory = &path[..path.rfind('/').map_or(0, |at| at + 1)];
        if depth(path) > max_depth {
            let end = path.match_indices('/').nth(max_depth).map_or(path.len(), |(at, _)| at + 1);
            *hidden.entry(&path[..end]).or_default() += 1;
            continue;
        }
        let count = listed.entry(directory).or_default();
        *count += 1;
        if *count > cap {
            *hidden.entry(directory).or_default() += 1;
            continue;
        }
        let line = format!("{path} {}\n", entry.size);
        used += tokens(&line);
        if used > room {
            return None;
        }
        lines.push((path, line));
    }
    for (directory, count) in merged(hidden, cap) {
        let some = listed.contains_key(directory);
        let place = if directory.is_empty() { "the root" } else { directory };
        let files = if count == 1 { "file" } else { "files" };
        let line = if some {
            format!("... and {count} more {files} in {place}\n")
        } else {
            format!("{place} ... {count} {files}\n")
        };
        used += tokens(&line);
        if used > room {
            return None;
        }
        // Behind the last line of the directory: '\u{ff}' sorts after what paths usually have.
        let at = lines.partition_point(|(path, _)| *path < directory || path.starts_with(directory));
        lines.insert(at, (directory, line));
    }
    Some(lines.into_iter().map(|(_, line)| line).collect())
}

/// Counts of more than `cap` directories beside each other become one count of the directory above.
fn merged(hidden: BTreeMap<&str, usize>, cap: usize) -> BTreeMap<&str, usize> {
    let above = |directory: &str| directory.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
    let mut beside: BTreeMap<&str, usize> = BTreeMap::new();
    for directory in hidden.keys() {
        *beside.entry(&directory[..above(directory)]).or_default() += 1;
    }
    let mut counts = BTreeMap::new();
    for (directory, count) in hidden {
        let parent = &directory[..above(directory)];
        let many = beside.get(parent).is_some_and(|n| *n > cap);
        *counts.entry(if many { parent } else { directory }).or_default() += count;
    }
    counts
}

/// The milestone, in full.
pub(super) fn milestone(step: Step<'_>) -> String {
    let mut text = format!("Step {} of {}: {}\n", step.number, step.plan.milestones.len(), step.milestone.name);
    if !step.milestone.description.is_empty() {
        let _ = writeln!(text, "\n{}", step.milestone.description);
    }
    if !step.milestone.files.is_empty() {
        text.push_str("\nFiles of this step:\n");
        for file in &step.milestone.files {
            let verb = match file.change {
                Change::Create => "create",
                Change::Modify => "modify",
                Change::Delete => "delete",
            };
            let _ = writeln!(text, "- {verb} {}", file.path);
        }
    }
    fence::wrap("text", &text)
}

/// The names of all milestones; nothing when there is only one. Of a long plan, those around the one at hand.
pub(super) fn outline(step: Step<'_>) -> String {
    let all = step.plan.milestones.len();
    if all < 2 {
        return String::new();
    }
    let (first, last) =
        if all <= 20 { (1, all) } else { (step.number.saturating_sub(5).max(1), (step.number + 5).min(all)) };
    let mut text = String::new();
    if first > 1 {
        let _ = writeln!(text, "(steps 1 to {} are done)", first - 1);
    }
    for number in first..=last {
        let state = match number.cmp(&step.number) {
            std::cmp::Ordering::Less => " (done before)",
            std::cmp::Ordering::Equal => " (now)",
            std::cmp::Ordering::Greater => "",
        };
        let _ = writeln!(text, "{number}. {}{state}", step.plan.milestones[number - 1].name);
    }
    if last < all {
        let _ = writeln!(text, "(and {} more steps)", all - last);
    }
    fence::wrap("text", &text)
}

/// Review issues, worst first, those about `path` before others. Nothing when there are none.
pub(super) fn issues(issues: &[ReviewIssue], path: Option<&RepoPath>, room: usize) -> String {
    if issues.is_empty() {
        return String::new();
    }
    let about = |issue: &ReviewIssue| {
        path.is_some_and(|path| {
            issue.file.as_deref().is_some_and(|file| file.trim_start_matches("./") == path.as_str())
        })
    };
    let mut sorted: Vec<&ReviewIssue> = issues.iter().collect();
    sorted.sort_by_key(|issue| (!about(issue), std::cmp::Reverse(issue.severity)));
    let mut text = String::new();
    for issue in sorted {
        let file = issue
            .file
            .as_deref()
            .map_or(String::new(), |file| format!("{}: ", one_paragraph(file).trim_start_matches("./")));
        let _ = writeln!(text, "- [{}] {file}{}", issue.severity.as_str(), one_paragraph(&issue.issue));
        if !issue.suggestion.is_empty() && issue.suggestion != issue.issue {
            let _ = writeln!(text, "  Suggestion: {}", one_paragraph(&issue.suggestion));
        }
    }
    fence::wrap("text", &without_middle(&text, room))
}

fn one_paragraph(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the checks said: of a check that passed only that. Nothing when there are none.
pub(super) fn checks(checks: &[CheckOutcome<'_>], room: usize) -> String {
    let wants: Vec<usize> = checks.iter().map(|check| if check.passed { 0 } else { tokens(check.output) }).collect();
    let shares = shares(&wants, room);
    let mut text = String::new();
    for (check, share) in checks.iter().zip(shares) {
        let verdict = if check.passed { "passed" } else { "FAILED" };
        let _ = writeln!(text, "{}: {verdict}", one_paragraph(check.command));
        let output = check.output.trim();
        if !check.passed {
            let output = if output.is_empty() { "(no output)".to_owned() } else { without_middle(output, share) };
            let _ = writeln!(text, "{output}\n");
        }
    }
    if text.is_empty() { text } else { fence::wrap("text", &format!("{}\n", text.trim_end())) }
}

/// Files that a milestone lacks. Nothing when there are none.
pub(super) fn failed_files(files: &[FailedFile<'_>]) -> String {
    let lines: String =
        files.iter().map(|file| format!("- {}: {}\n", one_paragraph(file.path), one_paragraph(file.reason))).collect();
    if lines.is_empty() { lines } else { fence::wrap("text", &lines) }
}

/// A diff; where it does not fit, each file's part gets a fair share of the room, and the names of the parts that were cut
/// are returned.
pub(super) fn diff(diff: &str, room: usize) -> (String, Vec<&str>) {
    if diff.trim().is_empty() {
        return (fence::wrap("text", "(no changes)\n"), Vec::new());
    }
    let wrapped = fence::wrap("diff", diff);
    if tokens(&wrapped) <= room {
        return (wrapped, Vec::new());
    }
    let room = room.saturating_sub(10);
    let parts = parts_of(diff);
    let wants: Vec<usize> = parts.iter().map(|part| tokens(part)).collect();
    let mut cut = Vec::new();
    let mut text = String::new();
    for (part, (share, want)) in parts.iter().zip(shares(&wants, room).into_iter().zip(wants)) {
        if share < want {
            cut.push(name_of(part));
        }
        text.push_str(&without_middle(part, share));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    (fence::wrap("diff", &text), cut)
}

fn parts_of(diff: &str) -> Vec<&str> {
    let mark = "diff --git ";
    let mut starts: Vec<usize> = diff.match_indices("\ndiff --git ").map(|(at, _)| at + 1).collect();
    if diff.starts_with(mark) || starts.is_empty() {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([diff.len()]);
    let parts: Vec<&str> = starts.iter().zip(ends).map(|(start, end)| &diff[*start..end]).collect();
    parts
}

fn name_of(part: &str) -> &str {
    let line = part.lines().next().unwrap_or("");
    line.rsplit_once(" b/").map_or(line, |(_, name)| name)
}
