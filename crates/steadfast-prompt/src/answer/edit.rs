//! Search/replace blocks: the short form of an answer for a large file.
//!
//! Whole lines are matched, so a search can never hit the middle of a line; only the kind of line ending is ignored.

use super::{AnswerFault, cut};
use crate::fence;

const SEARCH: &str = "<<<<<<< SEARCH";
const DIVIDER: &str = "=======";
const REPLACE: &str = ">>>>>>> REPLACE";
/// Matches are counted up to this number; more would help nobody.
const MAX_COUNT: usize = 100;

/// A search/replace block as it stands in the answer.
#[derive(Debug)]
pub(super) struct Edit<'a> {
    /// Line of its first mark, from 1.
    pub(super) line: usize,
    /// What stands between the first and the last mark.
    body: Vec<&'a str>,
    /// False when the last mark is missing.
    pub(super) complete: bool,
}

/// What an answer consists of, seen from its search/replace blocks.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    /// In order; empty when there is none.
    pub(super) edits: Vec<Edit<'a>>,
    /// Something else stands in a fenced block: a file, it seems.
    pub(super) other_content: bool,
    /// Line of a fence around search/replace blocks that is never closed.
    pub(super) unclosed: Option<usize>,
}

fn is_mark(line: &str, mark: &str) -> bool {
    let line = line.trim_end();
    line.len() == mark.len() && line.is_char_boundary(7) && line.eq_ignore_ascii_case(mark)
}

/// Finds the search/replace blocks. Fences inside of them are text, so that a Markdown file can be edited; fences around
/// them are allowed, with nothing else inside but a path above each block.
pub(super) fn scan(text: &str) -> Scan<'_> {
    let mut edits: Vec<Edit<'_>> = Vec::new();
    let mut fences = fence::Scanner::default();
    let mut other_content = false;
    // A lone word in a block can be the file's path, if a search mark follows.
    let mut held = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(edit) = edits.last_mut()
            && !edit.complete
        {
            if is_mark(line, REPLACE) {
                edit.complete = true;
            } else {
                edit.body.push(line);
            }
            continue;
        }
        if is_mark(line, SEARCH) {
            edits.push(Edit { line: index + 1, body: Vec::new(), complete: false });
            held = false;
            continue;
        }
        let inside = fences.open().is_some();
        fences.line(line);
        if !line.trim().is_empty() {
            other_content |= std::mem::take(&mut held);
        }
        if inside && fences.open().is_some() && !line.trim().is_empty() {
            let word = !line.trim().contains(char::is_whitespace);
            if word { held = true } else { other_content = true }
        }
    }
    let unclosed = fences.open().map(|block| block.first_line);
    Scan { edits, other_content: other_content || held, unclosed }
}

/// Applies the blocks in order, each to what the one before left.
///
/// New lines get the line ending that most lines of `current` have. A line that is not replaced stays as it is, byte for byte.
///
/// # Errors
/// [`AnswerFault`] naming the block: incomplete, an empty search, no or several matches, an ambiguous divider.
pub(super) fn apply(current: &str, edits: &[Edit<'_>]) -> Result<String, AnswerFault> {
    let end = line_ending(current);
    let mut lines: Vec<String> = current.split_inclusive('\n').map(str::to_owned).collect();
    for (index, edit) in edits.iter().enumerate() {
        let (start, search, replace) = place(&lines, edit, index + 1)?;
        lines.splice(start..start + search.len(), replace.iter().map(|line| format!("{line}{end}")));
    }
    Ok(lines.concat())
}

/// Where a block applies, what it replaces and with what.
fn place<'e, 'a>(
    lines: &[String],
    edit: &'e Edit<'a>,
    block: usize,
) -> Result<(usize, &'e [&'a str], &'e [&'a str]), AnswerFault> {
    let dividers: Vec<usize> = (0..edit.body.len()).filter(|at| is_mark(edit.body[*at], DIVIDER)).collect();
    if !edit.complete || dividers.is_empty() {
        return Err(AnswerFault::IncompleteEdit { block });
    }
    // A file may have lines ======= itself (headings in reStructuredText). Of the readings that match once the longest
    // search counts: that the file goes on with just these lines behind its own ======= is no coincidence.
    let mut fitting = None;
    let mut fault = None;
    for at in &dividers {
        let (search, replace) = (&edit.body[..*at], &edit.body[at + 1..]);
        if search.iter().all(|line| line.trim().is_empty()) {
            fault.get_or_insert(AnswerFault::EmptySearch { block });
            continue;
        }
        let text = || cut(search[0], 80);
        match matches(lines, search).as_slice() {
            [start] => fitting = Some((*start, search, replace)),
            [] => {
                fault.get_or_insert_with(|| AnswerFault::NoMatch { block, text: text() });
            }
            many => {
                fault.get_or_insert_with(|| AnswerFault::SeveralMatches { block, count: many.len(), text: text() });
            }
        }
    }
    match (fitting, fault) {
        (Some(place), _) => Ok(place),
        (None, Some(fault)) if dividers.len() == 1 => Err(fault),
        (None, _) => Err(AnswerFault::SeveralDividers { block }),
    }
}

/// Where `search`, which is not empty, stands in `lines`; overlapping places count. Takes time in proportion to both
/// lengths (Knuth, Morris and Pratt): a search of many equal lines in a file of many equal lines must not stall a worker.
fn matches(lines: &[String], search: &[&str]) -> Vec<usize> {
    let mut borders = vec![0; search.len()];
    let mut length = 0;
    for at in 1..search.len() {
        while length > 0 && search[at] != search[length] {
            length = borders[length - 1];
        }
        length += usize::from(search[at] == search[length]);
        borders[at] = length;
    }
    let mut found = Vec::new();
    let mut length = 0;
    for (at, line) in lines.iter().enumerate() {
        let line = without_ending(line);
        while length > 0 && line != search[length] {
            length = borders[length - 1];
        }
        length += usize::from(line == search[length]);
        if length == search.len() {
            found.push(at + 1 - length);
            if found.len() == MAX_COUNT {
                break;
            }
            length = borders[length - 1];
        }
    }
    found
}

fn without_ending(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// The line ending that most lines of a text have; `\n` when there is a tie or no line.
pub(super) fn line_ending(text: &str) -> &'static str {
    let (all, crlf) = (text.matches('\n').count(), text.matches("\r\n").count());
    if crlf * 2 > all { "\r\n" } else { "\n" }
}
