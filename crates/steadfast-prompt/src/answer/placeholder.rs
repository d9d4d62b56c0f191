//! Finding lines that stand for code which was left out ("rest of the code unchanged").
//!
//! A false alarm costs a call, a miss costs the user's code; but an alarm at a comment that really belongs there would
//! make a file unwritable. So a line counts only when the current file does not have it, when it is a comment or starts
//! with an ellipsis, and when it is made (almost) entirely of the words that such lines are made of.

use std::collections::HashSet;

/// Words that make a line suspicious.
const TRIGGERS: &str = "existing unchanged rest remaining remainder remains remain same previous original other others \
    omitted brevity truncated elided skipped";
/// What is left out.
const NOUNS: &str = "code file files function functions method methods import imports class classes implementation \
    implementations content contents route routes handler handlers test tests component components \
    definition definitions declarations logic styles rules fields line lines properties props config \
    configuration section sections items entries variables constants types module document script body \
    text stuff settings dependencies exports cases helpers members everything things parts part setup \
    state";
/// Words that carry nothing in such a line.
const FILLERS: &str = "the of this your that and for all are is here go goes stay stays be to in any with from it exactly \
    as above before below a an no not keep kept continues continue was were my our its unmodified intact \
    changes change changed needed etc end also";
/// Longer lines are real sentences.
const MAX_WORDS: usize = 14;

/// The first line of `new` that stands for text which was left out: its number from 1 and the line. Lines that `current`
/// has as well are its own.
pub(super) fn find<'a>(new: &'a str, current: Option<&str>) -> Option<(usize, &'a str)> {
    let mut own: Option<HashSet<&str>> = None;
    let mut previous = "";
    // An ellipsis alone is Python, a doctest, a variadic C function. It counts only where lines did get lost.
    let lost_lines = current.is_some_and(|current| new.lines().count() < current.lines().count());
    for (index, line) in new.lines().enumerate() {
        let line = line.trim();
        if is_suspicious(line, previous, lost_lines) {
            let own = own.get_or_insert_with(|| current.unwrap_or("").lines().map(str::trim).collect());
            if !own.contains(line) {
                return Some((index + 1, line));
            }
        }
        if !line.is_empty() {
            previous = line;
        }
    }
    None
}

fn is_suspicious(line: &str, previous: &str, lost_lines: bool) -> bool {
    // Documentation of Rust and Swift shows shortened examples; what replaces code is a plain comment.
    let documentation = line.starts_with("///") || line.starts_with("//!");
    if line.is_empty() || line.len() > 300 || documentation {
        return false;
    }
    if is_ellipsis(line) {
        return lost_lines && !ellipsis_belongs_after(previous);
    }
    if let Some((leader, body)) = comment(line) {
        if is_ellipsis(body) {
            return lost_lines;
        }
        return Remark::new(body).is_placeholder(leader);
    }
    let bracketed = line.starts_with(['(', '[', '{']) && line.ends_with([')', ']', '}']);
    let inner = if bracketed { line[1..line.len() - 1].trim() } else { line };
    if inner.starts_with("...") || inner.starts_with('…') {
        // `...rest` and `...other,` spread a value; words with a space between them do not.
        let remark = Remark::new(inner);
        return remark.words.len() >= 2 && remark.is_placeholder(Leader::Bare);
    }
    if line.starts_with('(') && bracketed && Remark::new(inner).is_placeholder(Leader::Bare) {
        return true;
    }
    trailing_comment(line).is_some_and(|body| {
        let remark = Remark::new(body);
        remark.ellipsis && remark.has_trigger && remark.plain == 0 && remark.names == 0
    })
}

fn is_ellipsis(text: &str) -> bool {
    matches!(text, "..." | "…" | "....")
}

fn ellipsis_belongs_after(previous: &str) -> bool {
    previous.ends_with([':', '(', ',', '[', '{', '='])
        || ["\"\"\"", "'''", "->"].iter().any(|end| previous.ends_with(end))
        || [">>>", "...", "@"].iter().any(|start| previous.starts_with(start))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leader {
    /// `//` and the like.
    Line,
    /// `#`: a comment in some languages, a heading in Markdown.
    Hash,
    /// `/* … */`, `<!-- … -->`.
    Block,
    /// None.
    Bare,
}

/// The text of a line that is one comment.
fn comment(line: &str) -> Option<(Leader, &str)> {
    let jsx = line.strip_prefix('{').and_then(|rest| rest.trim_end_matches([',', ';']).strip_suffix('}'));
    if let Some(inside) = jsx.map(str::trim).filter(|inside| inside.starts_with("/*")) {
        return comment(inside);
    }
    for (open, close) in [("/*", "*/"), ("<!--", "-->"), ("{{!--", "--}}"), ("{#", "#}"), ("(*", "*)")] {
        if let Some(rest) = line.strip_prefix(open) {
            let rest = rest.trim_start_matches('*').trim();
            return Some((Leader::Block, rest.strip_suffix(close).unwrap_or(rest).trim()));
        }
    }
    if line.starts_with('#') {
        return Some((Leader::Hash, line.trim_start_matches('#').trim()));
    }
    let leader = ["//", "--", ";", "%", "* ", "REM ", "rem "].into_iter().find(|leader| line.starts_with(leader))?;
    let body = line[leader.len()..].trim_start_matches(['/', '-', ';', '%', '!']).trim();
    Some((Leader::Line, body.strip_suffix("*/").unwrap_or(body).trim_end()))
}

/// The text of a comment behind code.
fn trailing_comment(line: &str) -> Option<&str> {
    if let Some((_, rest)) = line.split_once("/*") {
        return rest.split_once("*/").map(|(body, _)| body.trim());
    }
    [" // ", "{// ", " # "].iter().find_map(|mark| line.split_once(mark)).map(|(_, body)| body.trim())
}

/// A comment, cut into words.
struct Remark {
    words: Vec<String>,
    /// It starts or ends with an ellipsis.
    ellipsis: bool,
    /// It starts and ends with one.
    enclosed: bool,
    has_trigger: bool,
    /// Words that belong to no list, and do not look like names from code.
    plain: usize,
    /// Words that look like names from code.
    names: usize,
}

impl Remark {
    fn new(body: &str) -> Self {
        let brackets = ['(', ')', '[', ']', '{', '}', ' ', '-', '=', '*', '<', '>'];
        let bare = body.trim_matches(brackets);
        let dots = |text: &str| text == "..." || text == "…";
        let starts = bare.starts_with("...") || bare.starts_with('…');
        let ends = bare.ends_with("...") || bare.ends_with('…');
        let mut remark = Self {
            words: Vec::new(),
            ellipsis: starts || ends,
            enclosed: starts && ends && !dots(bare),
            has_trigger: false,
            plain: 0,
            names: 0,
        };
        for raw in bare.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '/' | '…')) {
            let word = raw.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '(' | ')' | '_' | '`'));
            if !word.chars().any(char::is_alphanumeric) {
                continue;
            }
            let lower = word.trim_matches(['(', ')', '`']).to_lowercase();
            let lower = lower.strip_suffix("'s").unwrap_or(&lower).to_owned();
            let is = |list: &str| list.split(' ').any(|word| word == lower);
            if is(TRIGGERS) {
                remark.has_trigger = true;
            } else if !is(NOUNS) && !is(FILLERS) {
                if looks_like_name(word) { remark.names += 1 } else { remark.plain += 1 }
            }
            remark.words.push(lower);
        }
        remark
    }

    fn has(&self, words: &[&str]) -> bool {
        self.words.iter().any(|word| words.contains(&word.as_str()))
    }

    fn says(&self, phrase: &str) -> bool {
        self.words.join(" ").contains(phrase)
    }

    fn is_placeholder(&self, leader: Leader) -> bool {
        if !self.has_trigger || self.words.len() > MAX_WORDS {
            return false;
        }
        let stays = self.has(&["unchanged", "unmodified", "intact", "omitted", "truncated", "elided", "skipped"])
            || self.has(&["remain", "remains", "stay", "stays", "is", "are"]) && self.says("same")
            || self.says("same as before")
            || self.says("as before")
            || self.has(&["go", "goes", "continues", "here"]);
        let rest = self.says("rest of") || self.has(&["remaining", "remainder"]);
        let existing = self.has(&["existing", "other", "previous", "original"]);
        if self.ellipsis {
            // "... existing code ...", "... rest of handleSubmit unchanged", "... rest of the parser ...".
            let sure = stays || self.says("existing code") || self.enclosed && rest;
            return self.plain == 0 && self.names <= 3 || sure && self.plain <= 1 && self.names <= 1;
        }
        if leader == Leader::Bare && !self.says("unchanged") && !self.says("the same") {
            return false;
        }
        if self.plain > 0 || self.names > 1 {
            return false;
        }
        // "keep the original file unchanged" is a comment that belongs there; so is "the existing file stays".
        let of_code = self.has(&["code", "implementation", "function", "functions", "methods", "imports", "logic"]);
        let phrase = self.words.join(" ");
        let whole = match leader {
            Leader::Block => ["existing code", "unchanged", "unchanged code", "existing code here", "same as before"]
                .contains(&phrase.as_str()),
            Leader::Line => ["existing code", "existing code here", "unchanged code"].contains(&phrase.as_str()),
            Leader::Hash => phrase == "existing code here",
            Leader::Bare => false,
        };
        let left_out: &[&str] = match leader {
            Leader::Block | Leader::Line => {
                &["code", "file", "implementation", "component", "function", "class", "methods"]
            }
            Leader::Hash | Leader::Bare => &["code", "file", "implementation"],
        };
        let rest_alone = self.says("rest of") && self.names == 0 && self.words.len() <= 4 && self.has(left_out);
        let starts_with_keep = self.words.first().is_some_and(|word| word == "keep");
        whole
            || rest_alone
            || rest && stays
            || existing && of_code && stays && !starts_with_keep
            || self.says("omitted for brevity")
    }
}

/// `main()`, `snake_case`, `camelCase`, `` `quoted` ``, `HTML`.
fn looks_like_name(word: &str) -> bool {
    let inner_capital = word.chars().skip(1).any(char::is_uppercase) && word.chars().any(char::is_lowercase);
    let all_capitals = word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
    all_capitals
        || word.contains("()")
        || word.contains('_')
        || word.contains('`')
        || word.contains('.')
        || inner_capital
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_stand_for_missing_code_are_found() {
        let mut missed = Vec::new();
        for line in [
            "// ... rest of the code unchanged ...",
            "# rest of file remains the same",
            "/* existing code */",
            "<!-- unchanged -->",
            "// ... existing code ...",
            "// existing code",
            "# ... existing imports ...",
            "    # ... (rest of the function remains unchanged)",
            "{/* ... existing JSX code ... */}",
            "{/* rest of the component */}",
            "// rest of the file",
            "# Rest of the code stays the same.",
            "// The remaining methods are unchanged",
            "// ... other methods ...",
            "// … rest of handleSubmit unchanged …",
            "# ... rest of main() ...",
            "-- ... remaining columns unchanged",
            "; rest of the file unchanged",
            "/* ... */ // rest of code",
            "* ... existing methods ...",
            "<!-- ... rest of the page ... -->",
            "// [rest of the code remains unchanged]",
            "// --- existing code omitted for brevity ---",
            "// (code omitted for brevity)",
            "... rest of the code ...",
            "... (existing code) ...",
            "[... existing code ...]",
            "(rest of the file remains the same)",
            "function f() { /* ... existing code ... */ }",
            "function f() { // ... existing implementation ...",
            "// other functions remain the same",
            "# ... same as before ...",
            "// ... unchanged",
            "# existing code here",
            "/* existing code here */",
            "// ... keep existing code ...",
            "% ... rest of the document unchanged",
            "{# rest of the file unchanged #}",
        ] {
            if find(&format!("a\n{line}\nb\n"), None) != Some((2, line.trim())) {
                missed.push(line);
            }
            assert_eq!(find(&format!("a\n{line}\nb\n"), Some(&format!("x\n  {line}\n"))), None, "own: {line}");
        }
        assert_eq!(missed, Vec::<&str>::new());
    }

    #[test]
    fn code_that_only_looks_alike_is_left_alone() {
        for text in [
            // Spread, rest parameters, variadic functions, ellipsis in slices and stubs.
            "const { a, ...rest } = props;\nreturn {\n  ...rest,\n  ...existing,\n  ...other\n};\n",
            "function f(a, ...rest) {}\nf(...args)\n",
            "int f(\n  const char *fmt,\n  ...\n);\n",
            "def f(x: int) -> int: ...\nclass P(Protocol):\n    def g(self) -> None:\n        ...\n",
            "def f():\n    \"\"\"Doc.\"\"\"\n    ...\n",
            ">>> for x in y:\n...     print(x)\n...\n1\n",
            "x[..., 0]\nlet [first, ...others] = list;\n",
            "for i in 0..10 {}\nlet S { a, .. } = s;\n",
            // Comments that belong there.
            "// The rest of the buffer is unchanged.\n",
            "# keep the original file unchanged\n",
            "# The existing file is the same as before the call\n",
            "// ... and the rest of the headers are ignored by the parser\n",
            "// Other threads may see the previous value here.\n",
            "# Use the existing code paths for retries\n",
            "// existing users keep their settings\n",
            "/* Restores the previous state. */\n",
            "// Returns the remaining bytes.\n",
            "# Remaining tests\n",
            "# Existing code\n\nText under a heading.\n",
            "## Other\n\n# Unchanged\n",
            "// same\n// otherwise\n",
            "# Same as above, but for files\n",
            "* other functions of the library are documented elsewhere\n",
            "// TODO: handle the other cases\n",
            "-- rest\n",
            "#include <rest.h>\n#define OTHER 1\n#[test]\n",
            "The rest of the file is unchanged.\n",
            "print(\"... rest of it\")\n",
            "Loading...\n# Loading ...\n// wait ...\n",
            "log.info('skipped %s ...', name)  # noqa\n",
            "// e.g. a, b, c ...\n",
            "// 1, 2, 3, ...\n",
            "...\n",
            "///     // ... other fields ...\n//!     // rest of the code here.\n",
            "// ...\n",
        ] {
            assert_eq!(find(text, None), None, "{text}");
            assert_eq!(find(text, Some("")), None, "{text}");
        }
    }

    #[test]
    fn an_ellipsis_alone_counts_only_where_lines_were_lost() {
        let current = "def f():\n    return 1\n\n\ndef g():\n    return 2\n";
        for line in ["...", "# ...", "// ...", "/* ... */", "<!-- ... -->", "…"] {
            let new = format!("def f():\n    return 2\n\n{line}\n");
            assert_eq!(find(&new, Some(current)), Some((4, line)));
            assert_eq!(find(&new, Some(&format!("{current}{line}\n"))), None);
            assert_eq!(find(&format!("{new}{current}"), Some(current)), None);
        }
        assert_eq!(find("class P:\n    def f(self):\n        ...\n", Some(current)), None);
    }
}
