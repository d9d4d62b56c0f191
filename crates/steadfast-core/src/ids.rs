//! Names that cross crate borders: ideas, sessions, models, roles, paths inside a repository.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is no valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An idea id must match `[a-z0-9._-]{1,64}` and be usable in a branch name.
    #[error("{0:?} is no idea id: use 1 to 64 of a-z, 0-9, '.', '_' and '-', fit for a branch name")]
    Idea(String),
    /// A model is written `provider/name`.
    #[error("{0:?} is no model: write provider/name, e.g. opencode/gpt-5-nano")]
    Model(String),
    /// A commit is 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
    #[error("{0:?} is no commit id")]
    Commit(String),
    /// A session id as [`SessionId::new`] makes it.
    #[error("{0:?} is no session id")]
    Session(String),
}

/// The id of an idea: `[a-z0-9._-]{1,64}`, fit for a branch name (SPEC 1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdeaId(String);

impl IdeaId {
    /// Accepts what git accepts as the last part of `refs/heads/steadfast/<id>`: no leading dot or dash, no `..`, no
    /// trailing dot, no `.lock` at the end.
    ///
    /// # Errors
    /// [`NameError::Idea`] with the text as given.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let fits = (1..=64).contains(&text.len())
            && text.chars().all(allowed)
            && !text.starts_with(['.', '-'])
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.ends_with(".lock");
        if fits { Ok(Self(text.to_owned())) } else { Err(NameError::Idea(text.to_owned())) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of one run of one idea: `s` + 11 base-32 digits of the start in milliseconds + `-` + 6 random digits, so that
/// the ids of a store sort by age.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(String);

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl SessionId {
    /// `unix_ms`: milliseconds since 1970; `random`: any number, its low 30 bits are used.
    pub fn new(unix_ms: u64, random: u32) -> Self {
        let mut text = String::from("s");
        for place in (0..11).rev() {
            text.push(char::from(DIGITS[((unix_ms >> (place * 5)) & 31) as usize]));
        }
        text.push('-');
        for place in (0..6).rev() {
            text.push(char::from(DIGITS[((random >> (place * 5)) & 31) as usize]));
        }
        Self(text)
    }

    /// When it was made: milliseconds since 1970, as given to [`SessionId::new`].
    pub fn created_ms(&self) -> u64 {
        let value = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).unwrap_or(0) as u64;
        self.0.as_bytes().iter().skip(1).take(11).fold(0, |time, byte| (time << 5) | value(byte))
    }

    /// Reads an id that was printed before.
    ///
    /// # Errors
    /// [`NameError::Session`] when the text has another shape.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 19
            && bytes[0] == b's'
            && bytes[12] == b'-'
            && bytes[1..].iter().enumerate().all(|(at, b)| at == 11 || DIGITS.contains(b));
        if shaped { Ok(Self(text.to_owned())) } else { Err(NameError::Session(text.to_owned())) }
    }

    /// The id as text, 19 ASCII characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SessionId {
    /// The id of the session's trace, 16 bytes, never all zero: always the same one, so that a session that goes on after a
    /// restart goes on in its trace. FNV-1a of 128 bits over the text (draft-eastlake-fnv, section 5).
    pub fn trace_id(&self) -> u128 {
        const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        self.0.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)).max(1)
    }
}

/// Names one attempt for whoever has to find it again: in the log, in an event, in the request's headers, in a trace. As
/// text 16 hexadecimal digits, not all of them zero: the form of a span's id in W3C Trace Context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId(u64);

impl AttemptId {
    /// Of any number; two attempts of one session must not have the same.
    pub fn new(random: u64) -> Self {
        Self(random.max(1))
    }

    /// As a number, not zero.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A model as the configuration names it: `provider/name`. The name may contain further slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(String);

impl ModelId {
    /// # Errors
    /// [`NameError::Model`] when there is no slash, a part is empty, or a character is white space or a control.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let parts = text.split_once('/').filter(|(provider, name)| !provider.is_empty() && !name.is_empty());
        if parts.is_some() && text.len() <= 200 && !text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Model(text.to_owned()))
        }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first slash.
    pub fn provider(&self) -> &str {
        self.0.split_once('/').map_or("", |(provider, _)| provider)
    }

    /// The part after the first slash: what the provider is asked for.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

/// A commit as git prints it: 40 or 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommitId(String);

impl CommitId {
    /// # Errors
    /// [`NameError::Commit`] for any other length or character.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && matches!(text.len(), 40 | 64) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Commit(text.to_owned()))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first 10 digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

macro_rules! show_as_str {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
show_as_str!(IdeaId, SessionId, ModelId, CommitId, RepoPath, Role);

/// Who is asked: each role has a list of models of its own (SPEC 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Turns the idea into milestones.
    Planner,
    /// Writes one file, or chooses the files of a milestone without any.
    Coder,
    /// Judges a milestone's diff.
    Reviewer,
}

impl Role {
    /// All roles, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Planner, Self::Coder, Self::Reviewer];

    /// The word used in configuration, headers and reports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Coder => "coder",
            Self::Reviewer => "reviewer",
        }
    }
}

/// Why a path must not be touched (SPEC 9).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} is refused: {reason}")]
pub struct PathRefused {
    /// The path as it was given, cut to 200 characters.
    pub path: String,
    /// What is wrong with it, for a person.
    pub reason: &'static str,
}

/// A path of a file inside a repository: relative, with `/`, in the form in which git keeps it.
///
/// Textual rules only; that no symbolic link leads out is the repository crate's part.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RepoPath(String);

impl RepoPath {
    /// The longest path accepted, in bytes. Linux's `PATH_MAX` is 4,096 for the absolute path.
    pub const MAX_BYTES: usize = 1024;

    /// A leading `./` is dropped; everything else must already be plain.
    ///
    /// # Errors
    /// [`PathRefused`] for an absolute path, `..` or `.`, anything under `.git` (in any case, and by its short name on
    /// other file systems), a backslash, a control character, an empty part, a part over 255 bytes.
    pub fn new(text: &str) -> Result<Self, PathRefused> {
        let plain = text.strip_prefix("./").unwrap_or(text);
        match Self::fault(plain) {
            None => Ok(Self(plain.to_owned())),
            Some(reason) => {
                // It is shown, and written to files for people: what steers a terminal stays out.
                let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
                Err(PathRefused { path: text.chars().take(200).map(shown).collect(), reason })
            }
        }
    }

    fn fault(plain: &str) -> Option<&'static str> {
        if plain.is_empty() {
            return Some("it is empty");
        }
        if plain.len() > Self::MAX_BYTES {
            return Some("it is longer than 1024 bytes");
        }
        if plain.starts_with(['/', '~']) || plain.chars().nth(1) == Some(':') {
            return Some("it is absolute; paths are relative to the repository");
        }
        if plain.contains('\\') {
            return Some("it contains a backslash; parts are separated by '/'");
        }
        if plain.chars().any(char::is_control) {
            return Some("it contains a control character");
        }
        plain.split('/').find_map(|part| {
            // git refuses these names too: a file system that folds case, drops trailing dots or spaces, ignores
            // some code points (HFS+) or knows short names (NTFS) would write into .git.
            let visible: String = part.chars().filter(|c| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')).collect();
            let folded = visible.trim_end_matches(['.', ' ']).to_ascii_lowercase();
            match part {
                "" => Some("it has an empty part or ends in '/'"),
                "." | ".." => Some("it contains '.' or '..'"),
                _ if part.len() > 255 => Some("a part is longer than 255 bytes"),
                _ if folded == ".git" || folded == "git~1" => Some("it lies under .git"),
                _ => None,
            }
        })
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_sort_by_age_and_read_back() {
        let (old, new) = (SessionId::new(1_700_000_000_000, 77), SessionId::new(1_700_000_000_001, 5));
        assert!(old < new);
        assert_eq!((old.created_ms(), new.created_ms()), (1_700_000_000_000, 1_700_000_000_001));
        assert_eq!(SessionId::parse(old.as_str()), Ok(old));
        assert!(SessionId::parse("s0123").is_err());
    }

    #[test]
    fn a_sessions_trace_has_the_same_id_in_every_version() {
        let session = SessionId::parse("s00000000000-000000").unwrap();
        // Computed apart from this code, which gives the published value of FNV-1a for "foobar".
        assert_eq!(format!("{:032x}", session.trace_id()), "68fca9b2488ade1472ccff7a802889b9");
        assert_eq!((AttemptId::new(0).get(), AttemptId::new(0xab).to_string().as_str()), (1, "00000000000000ab"));
    }

    #[test]
    fn idea_ids_are_fit_for_a_branch_name() {
        for good in ["002-feature", "a", "x.y_z-1"] {
            assert!(IdeaId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", ".a", "-a", "a..b", "a.", "a.lock", "a/b", "ä", &"a".repeat(65)] {
            assert!(IdeaId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_that_leave_the_repository_are_refused() {
        for good in ["a", "src/main.rs", "./src/x", ".gitignore", ".github/x", "a b/ä.txt", "git~2"] {
            assert!(RepoPath::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            ".git/config",
            ".GIT/x",
            "a/.git/x",
            ".git. /x",
            "git~1/x",
            "a//b",
            "a/",
            "a\\b",
            "C:/x",
            "~/x",
            "a\nb",
            ".g\u{200c}it/x",
        ] {
            assert!(RepoPath::new(bad).is_err(), "{bad}");
        }
    }
}
