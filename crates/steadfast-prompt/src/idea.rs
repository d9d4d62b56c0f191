//! Ideas: the Markdown files that say what is to be done (SPEC 1).

use serde::{Deserialize, Serialize};
use steadfast_core::ids::IdeaId;

use crate::fence;

/// The largest idea, in bytes. Larger ones would not fit into a prompt.
pub const MAX_IDEA_BYTES: usize = 256 << 10;
/// The longest title, in characters; what is longer is cut.
const MAX_TITLE_CHARS: usize = 200;

/// A task, as a person wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idea {
    /// From the front matter, else the file's stem.
    pub id: IdeaId,
    /// From the front matter, else the first level-one heading, else the id. One line, never empty, at most 200 characters.
    pub title: String,
    /// Everything after the front matter, without blank lines around it. Never blank.
    pub body: String,
}

/// Why a text is no idea. Each message says what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdeaError {
    /// More than [`MAX_IDEA_BYTES`].
    #[error(
        "the idea has {bytes} bytes, but at most {MAX_IDEA_BYTES} are allowed: move details into files of the repository and name them"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A NUL: this is no text.
    #[error("line {line} contains a NUL character, so this is no text file: save the idea as plain UTF-8 Markdown")]
    Nul {
        /// From 1.
        line: usize,
    },
    /// The first line is `---`, and no other line is.
    #[error(
        "the front matter that opens on line {line} is never closed: add a line '---' after it, or remove the first one"
    )]
    Unclosed {
        /// From 1.
        line: usize,
    },
    /// A line of the front matter is no `key: value`.
    #[error("line {line} of the front matter is not of the form 'key: value': {text:?}")]
    NoKey {
        /// From 1.
        line: usize,
        /// The line, cut to 80 characters.
        text: String,
    },
    /// `id` or `title` stands twice.
    #[error("line {line} sets '{key}' a second time: keep one of them")]
    Twice {
        /// From 1.
        line: usize,
        /// Which.
        key: &'static str,
    },
    /// The front matter's id cannot be used.
    #[error(
        "the id {id:?} on line {line} cannot be used: 1 to 64 of a-z, 0-9, '.', '_' and '-', fit for a branch name; try 'id: {suggestion}'"
    )]
    BadId {
        /// From 1.
        line: usize,
        /// As written, cut to 80 characters.
        id: String,
        /// A valid id that is close to it.
        suggestion: String,
    },
    /// There is no id in the front matter, and the file's name is none.
    #[error(
        "the file's name {stem:?} cannot be used as the idea's id: rename the file to '{suggestion}.md', or put 'id: {suggestion}' into front matter between two lines '---'"
    )]
    BadStem {
        /// The stem, cut to 80 characters.
        stem: String,
        /// A valid id that is close to it.
        suggestion: String,
    },
    /// Nothing to do is said.
    #[error("the idea says nothing: write{} what is to be done", below(*.line))]
    Blank {
        /// The last line of the front matter, or 0 without one.
        line: usize,
    },
}

impl Idea {
    /// Reads an idea. `file_stem` is the file's name without directory and extension; it is the id when the front matter
    /// has none.
    ///
    /// Front matter: `key: value` lines between two lines `---` at the very start; `id` and `title` are used (quotes and
    /// ` # comments` allowed), other keys are ignored, so are lists and indented lines.
    ///
    /// # Errors
    /// [`IdeaError`], one for each way in which the text is unusable.
    pub fn parse(text: &str, file_stem: &str) -> Result<Self, IdeaError> {
        if text.len() > MAX_IDEA_BYTES {
            return Err(IdeaError::TooLarge { bytes: text.len() });
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if let Some(at) = text.find('\0') {
            return Err(IdeaError::Nul { line: text[..at].matches('\n').count() + 1 });
        }
        let (front, body) = FrontMatter::split(text)?;
        let id = match &front.id {
            Some((line, id)) => IdeaId::new(id).map_err(|_| IdeaError::BadId {
                line: *line,
                id: cut(id, 80),
                suggestion: suggest_id(id),
            })?,
            None => IdeaId::new(file_stem)
                .map_err(|_| IdeaError::BadStem { stem: cut(file_stem, 80), suggestion: suggest_id(file_stem) })?,
        };
        let body = trim_blank_lines(body);
        if body.is_empty() {
            return Err(IdeaError::Blank { line: front.lines });
        }
        let title = front.title.and_then(|(_, title)| one_line(&title)).or_else(|| heading(body));
        Ok(Self { title: title.unwrap_or_else(|| id.as_str().to_owned()), body: body.to_owned(), id })
    }
}

#[derive(Default)]
struct FrontMatter {
    id: Option<(usize, String)>,
    title: Option<(usize, String)>,
    /// How many lines it takes, with its two `---`.
    lines: usize,
}

impl FrontMatter {
    fn split(text: &str) -> Result<(Self, &str), IdeaError> {
        let mut front = Self::default();
        let mut rest = text;
        let mut at = 0;
        while let Some(line) = next_line(&mut rest) {
            at += 1;
            let line = line.trim_end();
            match (at, line) {
                (1, "---") => {}
                (1, _) => return Ok((front, text)),
                (_, "---" | "...") => {
                    front.lines = at;
                    return Ok((front, rest));
                }
                _ => front.take(line, at)?,
            }
        }
        if at == 0 { Ok((front, text)) } else { Err(IdeaError::Unclosed { line: 1 }) }
    }

    fn take(&mut self, line: &str, at: usize) -> Result<(), IdeaError> {
        // Lists, nested values and comments belong to keys that other tools read.
        if line.is_empty() || line.starts_with([' ', '\t', '#', '-']) {
            return Ok(());
        }
        let (key, value) = line.split_once(':').ok_or_else(|| IdeaError::NoKey { line: at, text: cut(line, 80) })?;
        let (slot, key) = match key.trim().to_ascii_lowercase().as_str() {
            "id" => (&mut self.id, "id"),
            "title" => (&mut self.title, "title"),
            _ => return Ok(()),
        };
        if slot.is_some() {
            return Err(IdeaError::Twice { line: at, key });
        }
        *slot = Some((at, unquote(value)));
        Ok(())
    }
}

fn next_line<'a>(rest: &mut &'a str) -> Option<&'a str> {
    if rest.is_empty() {
        return None;
    }
    let (line, tail) = rest.split_once('\n').unwrap_or((rest, ""));
    *rest = tail;
    Some(line)
}

fn unquote(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote)
            && let Some((inside, after)) = inner.rsplit_once(quote)
            && (after.trim().is_empty() || after.trim_start().starts_with('#'))
        {
            return inside.to_owned();
        }
    }
    let uncommented = if value.starts_with('#') { "" } else { value.split(" #").next().unwrap_or(value) };
    uncommented.trim().to_owned()
}

/// The first `# heading` outside of fenced blocks.
fn heading(body: &str) -> Option<String> {
    let mut fences = fence::Scanner::default();
    body.lines().find_map(|line| {
        fences.line(line);
        let text = line.strip_prefix('#').filter(|rest| rest.starts_with([' ', '\t']) && fences.open().is_none())?;
        let text = text.trim();
        // A closing run of '#' after a space is decoration; "C#" is a word.
        let plain = text.trim_end_matches('#');
        one_line(if plain.ends_with([' ', '\t']) { plain } else { text })
    })
}

fn one_line(text: &str) -> Option<String> {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_TITLE_CHARS).collect();
    (!line.is_empty()).then_some(line)
}

/// Without blank lines before and white space behind; the first line keeps its indentation.
fn trim_blank_lines(text: &str) -> &str {
    let text = text.trim_end();
    let blank = text.len() - text.trim_start().len();
    let start = text[..blank].rfind('\n').map_or(0, |at| at + 1);
    &text[start..]
}

fn below(line: usize) -> String {
    if line == 0 { String::new() } else { format!(" below line {line}") }
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// A valid id that is close to `text`: lower-case, other characters replaced by '-'.
pub fn suggest_id(text: &str) -> String {
    let mut id = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        let fits = c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let c = if fits { c } else { '-' };
        if !(matches!(c, '-' | '.') && id.ends_with(c)) {
            id.push(c);
        }
    }
    let id = id.trim_start_matches(['.', '-']);
    let id: String = id.chars().take(64).collect();
    let id = id.trim_end_matches(['.', '-']);
    let id = id.strip_suffix(".lock").unwrap_or(id).trim_end_matches(['.', '-']);
    // What is left over of an odd name (a second ".lock", say) is not worth a rule of its own.
    if IdeaId::new(id).is_ok() { id.to_owned() } else { "my-idea".to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<(String, String, String), IdeaError> {
        Idea::parse(text, "001-stem").map(|idea| (idea.id.to_string(), idea.title, idea.body))
    }

    fn idea(id: &str, title: &str, body: &str) -> Result<(String, String, String), IdeaError> {
        Ok((id.to_owned(), title.to_owned(), body.to_owned()))
    }

    #[test]
    fn ideas_are_read() {
        let cases = [
            ("do it", idea("001-stem", "001-stem", "do it")),
            ("\u{feff}# A title #\n\ndo it\n", idea("001-stem", "A title", "# A title #\n\ndo it")),
            ("# Port to C#\nx", idea("001-stem", "Port to C#", "# Port to C#\nx")),
            ("---\nid: 002-feature\ntitle: \"A: b\"\n---\n\n  x\n", idea("002-feature", "A: b", "  x")),
            ("---\r\nid: '002-f'\r\n---\r\nbody\r\n", idea("002-f", "002-f", "body")),
            ("---\nid: a # why\ntags:\n  - x\n- y\nother: 1\n# c\n\n...\nb", idea("a", "a", "b")),
            ("---\ntitle:\nID: q\n---\n# H\nb", idea("q", "H", "# H\nb")),
            ("```\n# not this\n```\n# but this", idea("001-stem", "but this", "```\n# not this\n```\n# but this")),
            ("text\n---\nmore", idea("001-stem", "001-stem", "text\n---\nmore")),
            ("#hash is no heading", idea("001-stem", "001-stem", "#hash is no heading")),
            ("---\n---\nx", idea("001-stem", "001-stem", "x")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_idea_says_what_where_and_what_to_do() {
        let cases = [
            ("", "the idea says nothing: write what is to be done"),
            ("---\nid: a\n---\n \n\t\n", "the idea says nothing: write below line 3 what is to be done"),
            (
                "---\nid: a\n",
                "the front matter that opens on line 1 is never closed: add a line '---' after it, or remove the first one",
            ),
            (
                "---",
                "the front matter that opens on line 1 is never closed: add a line '---' after it, or remove the first one",
            ),
            ("---\nid 002\n---\nx", "line 2 of the front matter is not of the form 'key: value': \"id 002\""),
            ("---\nid: a\nid: b\n---\nx", "line 3 sets 'id' a second time: keep one of them"),
            (
                "---\nid: My Feature!\n---\nx",
                "the id \"My Feature!\" on line 2 cannot be used: 1 to 64 of a-z, 0-9, '.', '_' and '-', fit for a branch name; try 'id: my-feature'",
            ),
            (
                "---\nid:\n---\nx",
                "the id \"\" on line 2 cannot be used: 1 to 64 of a-z, 0-9, '.', '_' and '-', fit for a branch name; try 'id: my-idea'",
            ),
            (
                "a\nb\0",
                "line 2 contains a NUL character, so this is no text file: save the idea as plain UTF-8 Markdown",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map_err(|e| e.to_string()), Err(expected.to_owned()), "{text:?}");
        }
        let stem = Idea::parse("x", "My Idea").map_err(|e| e.to_string());
        assert_eq!(
            stem,
            Err("the file's name \"My Idea\" cannot be used as the idea's id: rename the file to 'my-idea.md', or put 'id: my-idea' into front matter between two lines '---'".to_owned())
        );
        assert_eq!(Idea::parse("---\nid: ok\n---\nx", "My Idea").map(|i| i.id.to_string()), Ok("ok".to_owned()));
        let large = "x".repeat(MAX_IDEA_BYTES + 1);
        assert_eq!(parse(&large), Err(IdeaError::TooLarge { bytes: MAX_IDEA_BYTES + 1 }));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(---\n)?(\\PC|[\n\r\t\0:#])*", stem in "\\PC{0,80}") {
            if let Ok(idea) = Idea::parse(&text, &stem) {
                prop_assert!(!idea.title.trim().is_empty() && !idea.body.trim().is_empty());
            }
        }

        #[test]
        fn a_suggested_id_is_valid(text in "\\PC{0,100}|[.\\-a-z]{0,70}(.lock){0,3}") {
            prop_assert!(IdeaId::new(&suggest_id(&text)).is_ok());
        }
    }
}
