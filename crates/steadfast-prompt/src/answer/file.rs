//! The coder's answer for one file.

use super::edit::{self, Scan};
use super::{AnswerFault, cut, placeholder, spoken};
use crate::fence;

/// A file as the coder wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileText {
    /// The whole new text, never blank, at most as large as the caller allowed. Its last line ends in a newline where the
    /// answer wrote that line.
    pub text: String,
    /// How it was answered.
    pub form: FileForm,
}

/// How a coder answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileForm {
    /// The whole file in one block.
    Whole,
    /// This many search/replace blocks, at least one.
    Edits(usize),
}

/// Reads the answer for one file: the whole file in exactly one fenced block, or, where the file exists (`current`),
/// one or more search/replace blocks, each of which must match exactly once. Prose around them is allowed.
///
/// A whole file consists of the block's lines, each ended by a newline: `\n`, or `\r\n` where most lines of `current` end so.
///
/// # Errors
/// [`AnswerFault`]: no block or several, a block that never closes or is too short for the fences inside, blocks that do not
/// match, a file that is blank, too large (`max_bytes`), has a NUL, leaves code out, or has conflict markers that `current`
/// has not.
pub fn file(text: &str, current: Option<&str>, max_bytes: usize) -> Result<FileText, AnswerFault> {
    let text = spoken(text);
    if text.trim().is_empty() {
        return Err(AnswerFault::Empty);
    }
    let scan = edit::scan(text);
    if !scan.edits.is_empty() && !scan.other_content {
        return edited(&scan, current, max_bytes);
    }
    let block = only_block(text)?;
    if scan.edits.iter().any(|edit| edit.line < block.first_line || edit.line > block.last_line) {
        return Err(AnswerFault::EditAndFile);
    }
    let text = match edit::line_ending(current.unwrap_or("")) {
        "\n" => block.text,
        ending => block.text.replace('\n', ending),
    };
    check(&text, current, max_bytes)?;
    Ok(FileText { text, form: FileForm::Whole })
}

fn edited(scan: &Scan<'_>, current: Option<&str>, max_bytes: usize) -> Result<FileText, AnswerFault> {
    let current = current.ok_or(AnswerFault::EditOfNothing)?;
    // A block that lacks its last mark swallowed the closing fence too: that mark is what the model has to hear about.
    let complete = scan.edits.iter().all(|edit| edit.complete);
    if let (Some(line), true) = (scan.unclosed, complete) {
        return Err(AnswerFault::UnclosedBlock { line });
    }
    let text = edit::apply(current, &scan.edits)?;
    check(&text, Some(current), max_bytes)?;
    Ok(FileText { text, form: FileForm::Edits(scan.edits.len()) })
}

fn only_block(text: &str) -> Result<fence::Block, AnswerFault> {
    let mut blocks = fence::blocks(text);
    sound(&blocks)?;
    match blocks.len() {
        0 => Err(AnswerFault::NoBlock),
        1 => Ok(blocks.swap_remove(0)),
        count => Err(AnswerFault::SeveralBlocks { count }),
    }
}

/// That each block ends where the model meant it to end.
pub(super) fn sound(blocks: &[fence::Block]) -> Result<(), AnswerFault> {
    for block in blocks {
        if let Some(line) = block.nested {
            return Err(AnswerFault::NestedBlock { line });
        }
        if !block.closed {
            return Err(AnswerFault::UnclosedBlock { line: block.first_line });
        }
    }
    Ok(())
}

/// That a text can be a file, and a whole one.
pub(super) fn check(text: &str, current: Option<&str>, max_bytes: usize) -> Result<(), AnswerFault> {
    if text.trim().is_empty() {
        return Err(AnswerFault::EmptyFile);
    }
    if text.len() > max_bytes {
        return Err(AnswerFault::TooLarge { bytes: text.len(), max_bytes });
    }
    if let Some(at) = text.find('\0') {
        return Err(AnswerFault::Nul { line: text[..at].matches('\n').count() + 1 });
    }
    let marker = |line: &str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
    let own = |line: &str| current.is_some_and(|current| current.lines().any(|known| known == line));
    if let Some((index, line)) = text.lines().enumerate().find(|(_, line)| marker(line) && !own(line)) {
        return Err(AnswerFault::ConflictMarker { line: index + 1, text: cut(line, 80) });
    }
    if let Some((line, text)) = placeholder::find(text, current) {
        return Err(AnswerFault::Placeholder { line, text: cut(text, 80) });
    }
    Ok(())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
