//! The coder's answer for a milestone that names no files.

use std::collections::HashSet;

use steadfast_core::ids::RepoPath;
use steadfast_core::plan::MAX_FILES;

use super::file::{check, sound};
use super::{AnswerFault, cut, spoken};
use crate::fence;

/// What is to be written in a milestone without files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// 1 to [`MAX_FILES`] whole files, each path once, in the order of the answer.
    Written(Vec<(RepoPath, String)>),
    /// The repository already is as it should be. No fault.
    Nothing,
}

const NOTHING: &str = "NOTHING TO CHANGE";

/// Reads the answer: any number of fenced blocks, each with `path=…` in its info string (quotes allowed), or the one line
/// `NOTHING TO CHANGE`. Each file is the block's lines, each ended by `\n`.
///
/// # Errors
/// [`AnswerFault`]; one bad block refuses the whole answer, because half of a change is worse than a second call.
pub fn files(text: &str, max_bytes: usize) -> Result<Files, AnswerFault> {
    let text = spoken(text);
    if text.trim().is_empty() {
        return Err(AnswerFault::Empty);
    }
    let blocks = fence::blocks(text);
    let says_nothing = text.lines().any(is_nothing);
    if blocks.is_empty() {
        return if says_nothing { Ok(Files::Nothing) } else { Err(AnswerFault::NoBlock) };
    }
    if let [block] = blocks.as_slice()
        && is_nothing(&block.text)
    {
        return Ok(Files::Nothing);
    }
    sound(&blocks)?;
    if blocks.len() > MAX_FILES {
        return Err(AnswerFault::TooManyFiles { what: "the answer".to_owned(), count: blocks.len() });
    }
    let mut seen = HashSet::new();
    let mut written = Vec::with_capacity(blocks.len());
    for block in blocks {
        let path = path_of(&block.info).ok_or(AnswerFault::NoPath { line: block.first_line })?;
        let path = RepoPath::new(&path)
            .map_err(|refused| AnswerFault::BadPath { path: refused.path, reason: refused.reason })?;
        if !seen.insert(path.clone()) {
            return Err(AnswerFault::DuplicatePath { path: cut(path.as_str(), 200) });
        }
        check(&block.text, None, max_bytes)
            .map_err(|fault| AnswerFault::InFile { path: cut(path.as_str(), 200), fault: Box::new(fault) })?;
        written.push((path, block.text));
    }
    // Inside of a file the words are the file's own.
    let outside = outside_of_blocks(text);
    if outside.iter().any(|line| is_nothing(line)) {
        Err(AnswerFault::NothingAndFiles)
    } else {
        Ok(Files::Written(written))
    }
}

fn outside_of_blocks(text: &str) -> Vec<&str> {
    let mut scanner = fence::Scanner::default();
    text.lines()
        .filter(|line| {
            let before = scanner.open().is_some();
            scanner.line(line);
            !before && scanner.open().is_none()
        })
        .collect()
}

fn is_nothing(text: &str) -> bool {
    let bare = text.trim().trim_matches(['`', '*', '"', '\'', '.', '!', ' ', '_']);
    bare.eq_ignore_ascii_case(NOTHING)
}

/// The value of `path=` in an info string: up to white space, or quoted with `"` or `'`. A backslash is a plain character.
fn path_of(info: &str) -> Option<String> {
    let starts = info.match_indices("path=").map(|(at, _)| at);
    let at = starts
        .into_iter()
        .find(|at| info[..*at].chars().next_back().is_none_or(|c| c.is_whitespace() || matches!(c, '{' | ',')))?;
    let value = &info[at + "path=".len()..];
    for quote in ['"', '\''] {
        if let Some(inside) = value.strip_prefix(quote) {
            return inside.split_once(quote).map(|(path, _)| path.to_owned());
        }
    }
    let path = value.split(char::is_whitespace).next().unwrap_or("");
    // `{.python path=a.py}`: the brace belongs to the attributes.
    let path = if info.contains('{') { path.trim_end_matches('}') } else { path };
    (!path.is_empty()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        match files(text, 1000) {
            Ok(Files::Written(files)) => Ok(files.into_iter().map(|(path, text)| (path.to_string(), text)).collect()),
            Ok(Files::Nothing) => Ok(Vec::new()),
            Err(fault) => Err(fault.to_string()),
        }
    }

    #[test]
    fn blocks_with_paths_become_files() {
        let text = "First:\n```js path=src/a.js\na();\n```\n\n~~~ path=\"b c.txt\"\nb\n~~~\n```{.py path='d.py'}\nd\n```\n````md path=./E.md title=x\n```\nNOTHING TO CHANGE\n```\n````\n```{.py path=f.py}\nf\n```";
        let expected = [
            ("src/a.js", "a();\n"),
            ("b c.txt", "b\n"),
            ("d.py", "d\n"),
            ("E.md", "```\nNOTHING TO CHANGE\n```\n"),
            ("f.py", "f\n"),
        ];
        let expected: Vec<_> = expected.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn nothing_to_change_is_an_answer() {
        for text in [
            "NOTHING TO CHANGE",
            "\n  NOTHING TO CHANGE.\n",
            "`NOTHING TO CHANGE`",
            "**Nothing to change**",
            "```\nNOTHING TO CHANGE\n```",
            "```text\nNOTHING TO CHANGE\n```\n",
            "All of it is there already.\n\nNOTHING TO CHANGE",
            "<think>hm</think>NOTHING TO CHANGE",
        ] {
            assert_eq!(files(text, 1000), Ok(Files::Nothing), "{text:?}");
        }
    }

    #[test]
    fn one_bad_block_refuses_the_answer() {
        let no_path = |line: usize| Err(AnswerFault::NoPath { line }.to_string());
        let cases = [
            ("", Err(AnswerFault::Empty.to_string())),
            ("There is nothing to change, I think.", Err(AnswerFault::NoBlock.to_string())),
            ("```js\na\n```", no_path(1)),
            ("x\n```js path=\na\n```", no_path(2)),
            ("```js path=\"a\na\n```", no_path(1)),
            ("```js mypath=a.js\na\n```", no_path(1)),
            ("```js path=a.js\na\n```\n```bash\nnpm test\n```", no_path(4)),
            (
                "```js path=../a.js\na\n```",
                Err("path \"../a.js\" is refused: it contains '.' or '..'; use paths relative to the repository's root".to_owned()),
            ),
            (
                "```js path=ok.js\na\n```\n```js path=.git/config\na\n```",
                Err("path \".git/config\" is refused: it lies under .git; use paths relative to the repository's root".to_owned()),
            ),
            ("```js path=a\nx\n```\n```js path=./a\ny\n```", Err("file \"a\" is in the answer twice; write each file once".to_owned())),
            ("```js path=a\n\n```", Err(format!("in file \"a\": {}", AnswerFault::EmptyFile))),
            (
                "```js path=a\n// ... existing code ...\n```",
                Err("in file \"a\": line 1 of the file leaves code out (\"// ... existing code ...\"); write every line of the file, also those that do not change".to_owned()),
            ),
            ("```js path=a\nx", Err(AnswerFault::UnclosedBlock { line: 1 }.to_string())),
            ("```md path=a.md\n```js\nx\n```\ny\n```js path=b\nz\n```\n", Err(AnswerFault::NestedBlock { line: 2 }.to_string())),
            ("NOTHING TO CHANGE\n```js path=a\nx\n```", Err(AnswerFault::NothingAndFiles.to_string())),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected, "{text:?}");
        }
        let large = format!("```js path=a\n{}\n```", "x".repeat(1000));
        assert_eq!(
            read(&large),
            Err("in file \"a\": the file has 1001 bytes, but at most 1000 are allowed".to_owned())
        );
        let many = (0..=MAX_FILES).map(|n| format!("```js path=f{n}\nx\n```\n")).collect::<String>();
        assert_eq!(read(&many), Err("the answer has 201 files, but at most 200 are allowed".to_owned()));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\PC|[\n\r\t\0`~=\"'{}]|```|path=|\n```x path=a\n)*") {
            let _ = files(&text, 10_000);
        }
    }
}
