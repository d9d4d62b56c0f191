//! Whether brackets match, with an eye for strings and comments.
//!
//! No parser: it knows just enough of each language to skip what is no code. Where that is not certain (a string that does
//! not end in its line, branches of a preprocessor, JSX), the file is left alone.

/// The languages that are known, as far as they differ in what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    Script,
    Java,
    C,
    Cpp,
    Go,
    Css,
    Php,
    Kotlin,
    Swift,
    Python,
}

impl Language {
    fn of(extension: &str) -> Option<Self> {
        Some(match extension {
            "rs" => Self::Rust,
            "js" | "mjs" | "cjs" | "ts" | "mts" | "cts" => Self::Script,
            "java" => Self::Java,
            "c" => Self::C,
            "h" | "cc" | "cpp" | "cxx" | "hh" | "hpp" | "hxx" => Self::Cpp,
            "go" => Self::Go,
            "css" => Self::Css,
            "php" => Self::Php,
            "kt" | "kts" => Self::Kotlin,
            "swift" => Self::Swift,
            "py" | "pyi" => Self::Python,
            _ => return None,
        })
    }

    fn nests_comments(self) -> bool {
        matches!(self, Self::Rust | Self::Kotlin | Self::Swift)
    }

    fn has_triple_quotes(self, quote: u8) -> bool {
        match quote {
            b'"' => matches!(self, Self::Java | Self::Kotlin | Self::Swift | Self::Python),
            _ => self == Self::Python,
        }
    }
}

/// The first bracket that does not match; `None` also for a language that is not known and on any doubt.
pub(super) fn problem(extension: &str, text: &str) -> Option<String> {
    let language = Language::of(extension)?;
    let mut scan = Scan { text: text.as_bytes(), at: 0, language, is_doubtful: false, depth: 0 };
    if language == Language::Php {
        scan.skip_html();
    }
    let found = scan.code(None).err()?;
    if scan.is_doubtful {
        return None;
    }
    let line = |at: usize| text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
    Some(match found {
        Mismatch::NeverClosed(at) => format!("'{}' in line {} is never closed", text.as_bytes()[at] as char, line(at)),
        Mismatch::NeverOpened(at) => {
            format!("'{}' in line {} closes nothing", text.as_bytes()[at] as char, line(at))
        }
        Mismatch::Wrong { open, close } => format!(
            "'{}' in line {} is closed by '{}' in line {}",
            text.as_bytes()[open] as char,
            line(open),
            text.as_bytes()[close] as char,
            line(close)
        ),
        Mismatch::CommentOrString(at) => format!("a comment or string that begins in line {} never ends", line(at)),
    })
}

/// What does not match, by byte offsets.
enum Mismatch {
    NeverClosed(usize),
    NeverOpened(usize),
    Wrong { open: usize, close: usize },
    CommentOrString(usize),
}

/// Deeper interpolation than any that a person writes.
const MAX_DEPTH: usize = 50;

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    language: Language,
    /// Something was met that this scanner may have understood wrongly.
    is_doubtful: bool,
    depth: usize,
}

impl Scan<'_> {
    /// What is still to be read; the place may lie behind the end after an escape.
    fn rest(&self) -> &[u8] {
        self.rest_from(0)
    }

    fn rest_from(&self, ahead: usize) -> &[u8] {
        self.text.get(self.at + ahead..).unwrap_or_default()
    }

    fn count_hashes(&self, ahead: usize) -> usize {
        self.rest_from(ahead).iter().take_while(|b| **b == b'#').count()
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn sees(&self, what: &[u8]) -> bool {
        self.rest().starts_with(what)
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// Moves behind the next `what`; to the end, and `false`, when there is none.
    fn skip_past(&mut self, what: &[u8]) -> bool {
        let found = self.rest().windows(what.len()).position(|window| window == what);
        self.at = found.map_or(self.text.len(), |offset| self.at + offset + what.len());
        found.is_some()
    }

    /// Code up to the bracket `end` that closes an interpolation, or up to the end of the file.
    fn code(&mut self, end: Option<u8>) -> Result<(), Mismatch> {
        let mut open: Vec<usize> = Vec::new();
        // The last byte of code that is no white space, for telling a regular expression from a division.
        let mut before = 0;
        while !self.is_at_end() {
            let start = self.at;
            if self.skip_comment()? {
                continue;
            }
            if self.skip_literal(before)? {
                before = b'"';
                continue;
            }
            let byte = self.text[self.at];
            self.at += 1;
            match byte {
                b'(' | b'[' | b'{' => open.push(start),
                b')' | b']' | b'}' => match open.pop() {
                    Some(at) if matches!((self.text[at], byte), (b'(', b')') | (b'[', b']') | (b'{', b'}')) => {}
                    Some(at) => {
                        return Err(Mismatch::Wrong { open: at, close: start });
                    }
                    None if end == Some(byte) => return Ok(()),
                    None => return Err(Mismatch::NeverOpened(start)),
                },
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                before = byte;
            }
        }
        match open.pop() {
            Some(at) => Err(Mismatch::NeverClosed(at)),
            None if end.is_some() => Err(Mismatch::CommentOrString(self.text.len())),
            None => Ok(()),
        }
    }

    /// Skips a comment, a preprocessor line, or PHP's return to HTML.
    fn skip_comment(&mut self) -> Result<bool, Mismatch> {
        let (start, language) = (self.at, self.language);
        let hash = match language {
            Language::Python => true,
            Language::Php => self.peek(1) != b'[',
            _ => false,
        };
        let slashes = !matches!(language, Language::Python | Language::Css);
        if (hash && self.peek(0) == b'#') || (slashes && self.sees(b"//")) {
            self.skip_line_comment();
            return Ok(true);
        }
        if language != Language::Python && self.sees(b"/*") {
            self.at += 2;
            let mut depth = 1;
            while depth > 0 {
                if self.is_at_end() {
                    return Err(Mismatch::CommentOrString(start));
                } else if self.sees(b"*/") {
                    depth -= 1;
                    self.at += 2;
                } else if language.nests_comments() && self.sees(b"/*") {
                    depth += 1;
                    self.at += 2;
                } else {
                    self.at += 1;
                }
            }
            return Ok(true);
        }
        if matches!(language, Language::C | Language::Cpp) && (self.sees(b"#else") || self.sees(b"#elif")) {
            // Each branch may open the same bracket once.
            self.is_doubtful = true;
        }
        if language == Language::Php && self.sees(b"?>") {
            self.skip_html();
            return Ok(true);
        }
        Ok(false)
    }

    fn skip_line_comment(&mut self) {
        while !self.is_at_end() && self.peek(0) != b'\n' {
            if self.language == Language::Php && self.sees(b"?>") {
                return;
            }
            self.at += 1;
        }
    }

    fn skip_html(&mut self) {
        // Both `<?php` and `<?=`.
        self.skip_past(b"<?");
    }

    /// Skips a string, a character or a regular expression.
    fn skip_literal(&mut self, before: u8) -> Result<bool, Mismatch> {
        let (byte, language) = (self.peek(0), self.language);
        let starts_word = !is_word(self.at.checked_sub(1).map_or(0, |at| self.text[at]));
        match (byte, language) {
            (b'r' | b'b' | b'c', Language::Rust) if starts_word => return self.rust_raw_string(),
            (b'R', Language::Cpp) if self.peek(1) == b'"' => return self.cpp_raw_string(),
            (b'#', Language::Swift) => return self.swift_raw_string(),
            (b'`', Language::Script) => self.quoted(b'`', true, Some(b"${"))?,
            (b'`', Language::Go) => self.until(b"`")?,
            (b'<', Language::Php) if self.sees(b"<<<") => return self.php_heredoc(),
            (b'/', Language::Script) => return Ok(self.regular_expression(before)),
            (b'/', Language::Swift) if self.peek(1) != b' ' => {
                // A division or a regular expression: either is written without a space.
                self.is_doubtful = true;
                return Ok(false);
            }
            (b'\'', Language::Rust) => self.rust_quote(),
            (b'\'', Language::Kotlin | Language::Java | Language::Go | Language::C) => {
                self.quoted(b'\'', false, None)?
            }
            (b'\'', Language::Cpp) => {
                if !starts_word && is_word(self.peek(1)) && self.peek(2) != b'\'' {
                    // 1'000'000
                    self.at += 1;
                } else {
                    self.quoted(b'\'', false, None)?;
                }
            }
            (b'\'', Language::Swift) => return Ok(false),
            (b'"' | b'\'', _) => {
                let triple = [byte; 3];
                let interpolation: Option<&[u8]> = match language {
                    Language::Kotlin => Some(b"${"),
                    Language::Swift => Some(b"\\("),
                    _ => None,
                };
                if language.has_triple_quotes(byte) && self.sees(&triple) {
                    self.triple_quoted(&triple, interpolation)?;
                } else {
                    // Rust's and PHP's strings may go on in the next line.
                    let many_lines = matches!(language, Language::Rust | Language::Php);
                    self.quoted(byte, many_lines, interpolation)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A literal from one quote to the next. A line that ends inside one that may not do that is a doubt.
    fn quoted(&mut self, quote: u8, many_lines: bool, interpolation: Option<&[u8]>) -> Result<(), Mismatch> {
        let start = self.at;
        self.at += 1;
        while !self.is_at_end() {
            match self.peek(0) {
                _ if interpolation.is_some_and(|begin| self.sees(begin)) => self.interpolated(interpolation)?,
                b'\\' => self.at += 2,
                b'\n' if !many_lines => {
                    self.is_doubtful = true;
                    return Ok(());
                }
                byte => {
                    self.at += 1;
                    if byte == quote {
                        return Ok(());
                    }
                }
            }
        }
        self.at = self.text.len();
        if many_lines {
            return Err(Mismatch::CommentOrString(start));
        }
        self.is_doubtful = true;
        Ok(())
    }

    fn triple_quoted(&mut self, triple: &[u8], interpolation: Option<&[u8]>) -> Result<(), Mismatch> {
        let start = self.at;
        self.at += 3;
        while !self.is_at_end() {
            if self.sees(triple) {
                self.at += 3;
                // `""""` ends a string whose last character is a quote.
                while self.language == Language::Kotlin && self.peek(0) == triple[0] {
                    self.at += 1;
                }
                return Ok(());
            }
            match self.peek(0) {
                _ if interpolation.is_some_and(|begin| self.sees(begin)) => self.interpolated(interpolation)?,
                // Kotlin's are raw.
                b'\\' if self.language != Language::Kotlin => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at = self.text.len();
        Err(Mismatch::CommentOrString(start))
    }

    fn interpolated(&mut self, begin: Option<&[u8]>) -> Result<(), Mismatch> {
        let begin = begin.unwrap_or_default();
        self.at += begin.len();
        if self.depth >= MAX_DEPTH {
            self.is_doubtful = true;
            return Ok(());
        }
        self.depth += 1;
        let result = self.code(Some(if begin.ends_with(b"(") { b')' } else { b'}' }));
        self.depth -= 1;
        result
    }

    fn until(&mut self, end: &[u8]) -> Result<(), Mismatch> {
        let start = self.at;
        self.at += 1;
        if self.skip_past(end) { Ok(()) } else { Err(Mismatch::CommentOrString(start)) }
    }

    /// `r"…"`, `r#"…"#`, `br#"…"#`, `cr"…"`.
    fn rust_raw_string(&mut self) -> Result<bool, Mismatch> {
        let prefix = if self.peek(0) == b'r' { 1 } else { 2 };
        if prefix == 2 && self.peek(1) != b'r' {
            return Ok(false);
        }
        let n_hashes = self.count_hashes(prefix);
        if self.peek(prefix + n_hashes) != b'"' {
            return Ok(false);
        }
        let end = [b"\"".as_slice(), &b"#".repeat(n_hashes)].concat();
        let start = self.at;
        self.at += prefix + n_hashes + 1;
        if self.skip_past(&end) { Ok(true) } else { Err(Mismatch::CommentOrString(start)) }
    }

    /// A lifetime, a label or a character.
    fn rust_quote(&mut self) {
        self.at += 1;
        if self.peek(0) == b'\\' {
            // `'\''`, `'\n'`, `'\u{1F600}'`
            self.at += 2;
            self.skip_past(b"'");
            return;
        }
        let rest = std::str::from_utf8(self.rest()).unwrap_or_default();
        let width = rest.chars().next().map_or(0, char::len_utf8);
        if rest[width..].starts_with('\'') {
            self.at += width + 1;
        }
    }

    /// `R"mark(…)mark"`.
    fn cpp_raw_string(&mut self) -> Result<bool, Mismatch> {
        let start = self.at;
        let mark: Vec<u8> = self.rest_from(2).iter().take(17).take_while(|b| **b != b'(').copied().collect();
        if mark.len() > 16 {
            return Ok(false);
        }
        let end = [b")".as_slice(), &mark, b"\""].concat();
        self.at += 2 + mark.len();
        if self.skip_past(&end) { Ok(true) } else { Err(Mismatch::CommentOrString(start)) }
    }

    /// `#"…"#`, with any number of `#`; three quotes are covered as well. What is interpolated in it is skipped with it.
    fn swift_raw_string(&mut self) -> Result<bool, Mismatch> {
        let n_hashes = self.count_hashes(0);
        let start = self.at;
        if self.peek(n_hashes) != b'"' {
            return Ok(false);
        }
        self.at += n_hashes + 1;
        let end = [b"\"".as_slice(), &b"#".repeat(n_hashes)].concat();
        if self.skip_past(&end) { Ok(true) } else { Err(Mismatch::CommentOrString(start)) }
    }

    /// `<<<MARK`, `<<<"MARK"`, `<<<'MARK'` up to a line that begins with the mark.
    fn php_heredoc(&mut self) -> Result<bool, Mismatch> {
        let start = self.at;
        let rest = self.rest_from(3);
        let lead = rest.iter().take_while(|b| matches!(b, b' ' | b'"' | b'\'')).count();
        let mark: Vec<u8> = rest[lead..].iter().take_while(|b| is_word(**b)).copied().collect();
        if mark.is_empty() {
            return Ok(false);
        }
        while self.skip_past(b"\n") {
            let blank = self.rest().iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
            let line = self.rest_from(blank);
            if line.starts_with(&mark) && !is_word(line.get(mark.len()).copied().unwrap_or(0)) {
                self.at += blank + mark.len();
                return Ok(true);
            }
        }
        Err(Mismatch::CommentOrString(start))
    }

    /// Skips a regular expression, or says that this is a division (or JSX, which makes the file doubtful).
    fn regular_expression(&mut self, before: u8) -> bool {
        if before == b'<' || self.peek(1) == b'>' {
            // `</tag>` or `<tag/>`: text between tags is no code.
            self.is_doubtful = true;
            return false;
        }
        if matches!(before, b')' | b'}') {
            // `if (x) /a(/.test(y)` or `(a) / (b)`.
            self.is_doubtful |= !matches!(self.peek(1), b' ' | b'=');
            return false;
        }
        let is_value = is_word(before) || matches!(before, b']' | b'"' | b'`' | b'\'');
        if is_value && !self.follows_keyword() {
            return false;
        }
        let mut in_class = false;
        self.at += 1;
        while !self.is_at_end() {
            match self.peek(0) {
                b'\\' => self.at += 1,
                b'[' => in_class = true,
                b']' => in_class = false,
                b'/' if !in_class => {
                    self.at += 1;
                    return true;
                }
                b'\n' => {
                    self.is_doubtful = true;
                    return true;
                }
                _ => {}
            }
            self.at += 1;
        }
        self.at = self.text.len();
        self.is_doubtful = true;
        true
    }

    /// Whether the word before this place is one after which a value follows.
    fn follows_keyword(&self) -> bool {
        let text = self.text[..self.at].trim_ascii_end();
        let start = text.iter().rposition(|b| !is_word(*b)).map_or(0, |at| at + 1);
        let words: [&[u8]; 13] = [
            b"return",
            b"typeof",
            b"case",
            b"in",
            b"of",
            b"delete",
            b"void",
            b"throw",
            b"new",
            b"instanceof",
            b"yield",
            b"await",
            b"else",
        ];
        words.contains(&&text[start..])
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests;
