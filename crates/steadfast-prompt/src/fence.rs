//! Fenced code blocks as CommonMark 0.31 section 4.5 has them: how files are shown to a model and how they come back.
//!
//! Line endings: `\n` and `\r\n` both end a line, and a block's text always uses `\n`. A lone `\r` is content.
//! Blocks inside of block quotes or list items deeper than three spaces are not seen.

/// One fenced block of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What follows the opening fence on its line, trimmed; may be empty.
    pub info: String,
    /// The block's lines, each ended by `\n`; empty for a block without lines.
    pub text: String,
    /// Line of the opening fence, from 1.
    pub first_line: usize,
    /// Line of the closing fence, or the last line of the text when the block never closes.
    pub last_line: usize,
    /// False when the text ended before a closing fence came.
    pub closed: bool,
    /// The first line inside which looks like another opening fence (with an info string) that is long enough to close
    /// this block if it had none: a sign that a file with fences came in a fence that is too short.
    pub nested: Option<usize>,
    fence: Fence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fence {
    mark: char,
    length: usize,
    indent: usize,
}

/// Splits a line into its fence and what follows it. At most three spaces may stand before a fence.
fn fence(line: &str) -> Option<(Fence, &str)> {
    let rest = line.trim_start_matches(' ');
    let indent = line.len() - rest.len();
    let mark = rest.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let after = rest.trim_start_matches(mark);
    let length = rest.len() - after.len();
    (indent <= 3 && length >= 3).then_some((Fence { mark, length, indent }, after))
}

/// The fence and info string of a line that opens a block.
fn opening(line: &str) -> Option<(Fence, &str)> {
    let (fence, info) = fence(line)?;
    // Otherwise inline code such as ```` ```x``` ```` would open a block.
    (fence.mark == '~' || !info.contains('`')).then_some((fence, info.trim()))
}

fn closes(line: &str, open: Fence) -> bool {
    fence(line).is_some_and(|(close, rest)| {
        close.mark == open.mark && close.length >= open.length && rest.trim_matches([' ', '\t']).is_empty()
    })
}

/// All fenced blocks of a text, in order. Only the last one can be unclosed.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut scanner = Scanner::default();
    let mut done = Vec::new();
    for line in text.lines() {
        done.extend(scanner.line(line));
    }
    done.extend(scanner.open);
    done
}

/// Reads blocks line by line.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    open: Option<Block>,
    at: usize,
}

impl Scanner {
    /// Takes the next line; gives the block that it closes.
    pub(crate) fn line(&mut self, line: &str) -> Option<Block> {
        self.at += 1;
        let Some(block) = &mut self.open else {
            self.open = opening(line).map(|(fence, info)| Block {
                info: info.to_owned(),
                text: String::new(),
                first_line: self.at,
                last_line: self.at,
                closed: false,
                nested: None,
                fence,
            });
            return None;
        };
        block.last_line = self.at;
        if closes(line, block.fence) {
            block.closed = true;
            return self.open.take();
        }
        if let Some((inner, info)) = opening(line)
            && !info.is_empty()
            && inner.mark == block.fence.mark
            && inner.length >= block.fence.length
        {
            block.nested.get_or_insert(self.at);
        }
        // A fence that is itself indented takes that much indentation off its lines.
        let mut shown = line;
        for _ in 0..block.fence.indent {
            shown = shown.strip_prefix(' ').unwrap_or(shown);
        }
        block.text.push_str(shown);
        block.text.push('\n');
        None
    }

    /// The block that has been opened and not closed yet.
    pub(crate) fn open(&self) -> Option<&Block> {
        self.open.as_ref()
    }
}

/// The shortest fence of backticks, at least `at_least` (never under 3), that no run of backticks in `text` could close.
pub fn long_enough(text: &str, at_least: usize) -> String {
    "`".repeat(longest_run(text, '`').saturating_add(1).max(at_least).max(3))
}

fn longest_run(text: &str, mark: char) -> usize {
    text.split(|c| c != mark).map(str::len).max().unwrap_or(0)
}

/// Puts a text into a fenced block that it cannot end by itself. The last line gets a newline if it has none; the
/// result ends in a newline.
///
/// Line breaks in `info` become spaces; an info string with a backtick gets a fence of tildes.
pub fn wrap(info: &str, text: &str) -> String {
    let info = info.replace(['\n', '\r'], " ");
    let fence = if info.contains('`') {
        "~".repeat(longest_run(text, '~').saturating_add(1).max(3))
    } else {
        long_enough(text, 3)
    };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{}\n{text}{end}{fence}\n", info.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Info string, text, closed.
    type Shown = (String, String, bool);

    fn texts(text: &str) -> Vec<Shown> {
        blocks(text).into_iter().map(|b| (b.info, b.text, b.closed)).collect()
    }

    fn block(info: &str, text: &str) -> Shown {
        (info.to_owned(), text.to_owned(), true)
    }

    #[test]
    fn fences_follow_commonmark() {
        let cases: &[(&str, Vec<Shown>)] = &[
            ("```\na\n```", vec![block("", "a\n")]),
            ("~~~ rust \na\n~~~~", vec![block("rust", "a\n")]),
            ("````md\n```\na\n```\n````\n", vec![block("md", "```\na\n```\n")]),
            ("```\n~~~\n```\n", vec![block("", "~~~\n")]),
            ("   ```\n   a\n     b\n c\n   ```", vec![block("", "a\n  b\nc\n")]),
            ("    ```\n    a\n    ```", vec![]),
            ("\t```\na\n", vec![]),
            ("``\na\n``", vec![]),
            ("```a``` is inline\n", vec![]),
            ("~~~ a`b\nx\n~~~", vec![block("a`b", "x\n")]),
            ("```\na\n``` x\n```", vec![block("", "a\n``` x\n")]),
            ("```\na\n``` \t\n", vec![block("", "a\n")]),
            ("```\r\na\r\nb\n```\r\n", vec![block("", "a\nb\n")]),
            ("```\n```", vec![block("", "")]),
            ("```\n\n```", vec![block("", "\n")]),
            ("```\na", vec![(String::new(), "a\n".to_owned(), false)]),
            ("```", vec![(String::new(), String::new(), false)]),
            ("text\n```x\n1\n```\ntext\n```y\n2\n```", vec![block("x", "1\n"), block("y", "2\n")]),
            ("> ```\n> a\n> ```", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(&texts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_with_fences_in_a_fence_that_is_too_short_is_noticed() {
        let found = blocks("```markdown\n# T\n```bash\nnpm i\n```\nmore\n```\n");
        assert_eq!((found[0].nested, found[0].closed, found[1].closed), (Some(3), true, false));
        assert_eq!(blocks("````markdown\n```bash\nx\n```\n````")[0].nested, None);
        assert_eq!(blocks("```\n~~~bash\n```")[0].nested, None);
    }

    #[test]
    fn a_wrapped_text_never_ends_its_fence() {
        for text in ["a", "```\n", "a ````` b\n", "~~~\n```\n", ""] {
            for info in ["", "path=a.md", "path=a`b.md"] {
                let wrapped = wrap(info, text);
                let found = blocks(&wrapped);
                assert_eq!(found.len(), 1, "{wrapped}");
                assert_eq!(found[0].info, info);
                assert_eq!(found[0].text.trim_end_matches('\n'), text.trim_end_matches('\n'));
            }
        }
        assert_eq!(long_enough("x ```` y", 3).len(), 5);
        assert_eq!(long_enough("", 4).len(), 4);
    }
}
