//! Reading what a model answered (SPEC 12). What is unusable is an [`AnswerFault`], whose text can be told to the model.
//!
//! Reasoning that a model puts in front of its answer (`<think>…</think>`) is skipped.

mod edit;
mod file;
mod files;
mod json;
mod placeholder;
mod plan;
mod review;

pub use file::{FileForm, FileText, file};
pub use files::{Files, files};
pub use plan::plan;
pub use review::review;

use steadfast_core::plan::{MAX_FILES, MAX_MILESTONES};

/// Why an answer cannot be used, as a sentence to finish "your answer could not be used: …". At most about 400
/// characters; what is quoted from the answer is cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Nothing but white space (or reasoning).
    #[error("the answer is empty")]
    Empty,
    /// No JSON object was found.
    #[error("there is no JSON object in the answer; answer with one JSON object and nothing else")]
    NoJson,
    /// Something that looks like the object does not parse.
    #[error("the JSON is not valid: {reason}; answer with one complete JSON object and nothing else")]
    BadJson {
        /// What the parser said, with line and column of the answer.
        reason: String,
    },
    /// More than one object could be meant.
    #[error("there are {count} JSON objects in the answer; answer with exactly one")]
    SeveralObjects {
        /// How many.
        count: usize,
    },
    /// A field is missing or has the wrong type.
    #[error("the JSON field {field} must be {expected}")]
    Field {
        /// Where, e.g. `milestones[2].files.create`, from 0 as JSON counts.
        field: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// No milestone.
    #[error("a plan without milestones is no plan; give at least one milestone")]
    NoMilestones,
    /// More than [`MAX_MILESTONES`].
    #[error("the plan has {count} milestones, but at most {MAX_MILESTONES} are allowed; join some of them")]
    TooManyMilestones {
        /// How many.
        count: usize,
    },
    /// A milestone (or an answer of a free milestone) with more than [`MAX_FILES`] files.
    #[error("{what} has {count} files, but at most {MAX_FILES} are allowed")]
    TooManyFiles {
        /// Which part of the answer.
        what: String,
        /// How many.
        count: usize,
    },
    /// A text that is to be said in few words is a book.
    #[error("{what} has {chars} characters, but at most {max_chars} are allowed; say it shorter")]
    TooLong {
        /// Which part of the answer.
        what: String,
        /// Its length.
        chars: usize,
        /// The bound.
        max_chars: usize,
    },
    /// No fenced block.
    #[error("there is no fenced code block in the answer; put the whole file between a line ``` and another line ```")]
    NoBlock,
    /// More than one fenced block where one file was asked for.
    #[error(
        "there are {count} fenced code blocks in the answer; answer with exactly one, which holds the whole file, and use a longer fence (````) when the file has lines ``` itself"
    )]
    SeveralBlocks {
        /// How many.
        count: usize,
    },
    /// The text ends inside of a block.
    #[error(
        "the code block that opens on line {line} of the answer is never closed; end it with a fence as long as the first, and use a longer fence (````) when the file has lines ``` itself"
    )]
    UnclosedBlock {
        /// Line of the answer, from 1.
        line: usize,
    },
    /// A block contains the start of another block, so its end is not the file's end.
    #[error(
        "line {line} of the answer opens a code block inside of another one; put the file into a longer fence (````) than any inside of it"
    )]
    NestedBlock {
        /// Line of the answer, from 1.
        line: usize,
    },
    /// A file without text.
    #[error("the file is empty; write its whole text (a file that needs no code gets one line of comment)")]
    EmptyFile,
    /// Larger than the caller allows.
    #[error("the file has {bytes} bytes, but at most {max_bytes} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// A NUL in a file.
    #[error("line {line} of the file contains a NUL character; write plain text")]
    Nul {
        /// Line of the file, from 1.
        line: usize,
    },
    /// A line that stands for code which was left out.
    #[error(
        "line {line} of the file leaves code out ({text:?}); write every line of the file, also those that do not change"
    )]
    Placeholder {
        /// Line of the file, from 1.
        line: usize,
        /// The line, cut to 80 characters.
        text: String,
    },
    /// A conflict marker that the file did not have before.
    #[error("line {line} of the file is a conflict marker ({text:?}); write the file without such lines")]
    ConflictMarker {
        /// Line of the file, from 1.
        line: usize,
        /// The line, cut to 80 characters.
        text: String,
    },
    /// Search/replace blocks for a file that does not exist.
    #[error(
        "the file does not exist yet, so there is nothing to search in; write the whole file in one fenced code block"
    )]
    EditOfNothing,
    /// Search/replace blocks beside a block with a whole file.
    #[error("the answer has both search/replace blocks and a code block with a file; use one of the two ways")]
    EditAndFile,
    /// A search/replace block lacks one of its marks.
    #[error(
        "search/replace block {block} is not complete; it needs the lines '<<<<<<< SEARCH', '=======' and '>>>>>>> REPLACE', in this order"
    )]
    IncompleteEdit {
        /// Which, from 1.
        block: usize,
    },
    /// The part to search is blank.
    #[error("search/replace block {block} searches for nothing; repeat the lines of the file that are to be replaced")]
    EmptySearch {
        /// Which, from 1.
        block: usize,
    },
    /// The part to search is not there.
    #[error(
        "search/replace block {block} matches nothing in the file (it starts with {text:?}); copy whole lines exactly as they stand, with their indentation"
    )]
    NoMatch {
        /// Which, from 1.
        block: usize,
        /// First line that is searched, cut to 80 characters.
        text: String,
    },
    /// The part to search is there more than once.
    #[error(
        "search/replace block {block} matches {count} places in the file (it starts with {text:?}); search for more lines, so that only one place matches"
    )]
    SeveralMatches {
        /// Which, from 1.
        block: usize,
        /// How many places, counted up to 100.
        count: usize,
        /// First line that is searched, cut to 80 characters.
        text: String,
    },
    /// More lines `=======` than one, and it cannot be told which one divides.
    #[error(
        "search/replace block {block} has several lines '=======', so it cannot be told where the new text starts; search for other lines, or write the whole file in one fenced code block"
    )]
    SeveralDividers {
        /// Which, from 1.
        block: usize,
    },
    /// A fenced block without `path=…` in a free milestone.
    #[error(
        "the code block on line {line} of the answer does not say which file it is; open it with a line such as ```text path=src/name.ext"
    )]
    NoPath {
        /// Line of the answer, from 1.
        line: usize,
    },
    /// A path that must not be touched.
    #[error("path {path:?} is refused: {reason}; use paths relative to the repository's root")]
    BadPath {
        /// As given, cut to 200 characters.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// Two blocks for one path.
    #[error("file {path:?} is in the answer twice; write each file once")]
    DuplicatePath {
        /// Which, cut to 200 characters.
        path: String,
    },
    /// Blocks beside the line that says that there are none.
    #[error("the answer says NOTHING TO CHANGE, but has code blocks too; do one or the other")]
    NothingAndFiles,
    /// A fault of one of several files.
    #[error("in file {path:?}: {fault}")]
    InFile {
        /// Which, cut to 200 characters.
        path: String,
        /// What is wrong with it.
        fault: Box<AnswerFault>,
    },
}

/// The answer without the reasoning in front of it.
fn spoken(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}');
    let start = text.trim_start();
    for (open, close) in [("<think>", "</think>"), ("<thinking>", "</thinking>")] {
        if let Some(rest) = start.strip_prefix(open) {
            return rest.split_once(close).map_or("", |(_, answer)| answer);
        }
    }
    text
}

/// At most `chars` characters, for quoting.
fn cut(text: &str, chars: usize) -> String {
    text.trim().chars().take(chars).collect()
}
