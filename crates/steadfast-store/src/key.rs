//! Keys: what a record is filed under, and the order in which scans return it.

use std::fmt;

use steadfast_core::ids::{ModelId, SessionId};

/// The longest name kept readable in a key, in bytes; longer ones are cut and end in a hash of the whole.
pub const MAX_NAME_BYTES: usize = 160;

/// The place of one record. Keys sort as bytes; session ids sort by age, so sessions do as well.
///
/// The first letter is the key space: `h` session heads, `p` session parts, `b` breakers, `o` outbox, `m` meta, `c` counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// The common beginning of the keys that a scan or a deletion covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Key {
    /// The one record that says how far a session is.
    pub fn session_head(session: &SessionId) -> Self {
        Self(format!("h/{session}"))
    }

    /// A named part of a session, e.g. `plan`, `m/003`, `a/m003.t0.r0/coder/src/x.rs`.
    ///
    /// A name over [`MAX_NAME_BYTES`] is cut and hashed (SHA-1), so a record whose name is needed back carries it itself.
    pub fn session_part(session: &SessionId, name: &str) -> Self {
        Self(format!("p/{session}/{}", short(name)))
    }

    /// The breaker of a model.
    pub fn breaker(model: &ModelId) -> Self {
        Self(format!("b/{}", short(model.as_str())))
    }

    /// An entry of the outbox, under its idempotency key.
    pub fn outbox(name: &str) -> Self {
        Self(format!("o/{}", short(name)))
    }

    /// A record about the store or the daemon as a whole.
    pub fn meta(name: &str) -> Self {
        Self(format!("m/{}", short(name)))
    }

    /// A counter that outlives the process.
    pub fn counter(name: &str) -> Self {
        Self(format!("c/{}", short(name)))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The session that a head or part belongs to; `None` for every other key.
    pub fn session(&self) -> Option<SessionId> {
        let rest = self.0.strip_prefix("h/").or_else(|| self.0.strip_prefix("p/"))?;
        SessionId::parse(rest.split('/').next()?).ok()
    }

    /// What follows the key space, and for a part what follows the session: the name as given, unless it was over
    /// [`MAX_NAME_BYTES`].
    pub fn name(&self) -> &str {
        let rest = self.0.split_once('/').map_or("", |(_, rest)| rest);
        if self.0.starts_with("p/") { rest.split_once('/').map_or("", |(_, name)| name) } else { rest }
    }

    /// Reads a key back from the store's own files.
    pub(crate) fn from_stored(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(|text| Self(text.to_owned()))
    }

    /// Reads a key that comes from outside: in one of the key spaces, and not too long.
    pub(crate) fn from_outside(text: &str) -> Option<Self> {
        let is_known = ["h/", "p/", "b/", "o/", "m/", "c/"].iter().any(|space| text.starts_with(space));
        (is_known && text.len() <= 2 * MAX_NAME_BYTES).then(|| Self(text.to_owned()))
    }

    /// The smallest key that a prefix covers.
    pub(crate) fn from_prefix(prefix: &Prefix) -> Self {
        Self(prefix.0.clone())
    }
}

impl Prefix {
    /// The heads of all sessions, oldest first.
    pub fn session_heads() -> Self {
        Self("h/".to_owned())
    }

    /// All parts of one session.
    pub fn session_parts(session: &SessionId) -> Self {
        Self(format!("p/{session}/"))
    }

    /// The parts of one session whose names begin with `names`, at most [`MAX_NAME_BYTES`] of it.
    pub fn session_parts_named(session: &SessionId, names: &str) -> Self {
        let mut end = names.len().min(MAX_NAME_BYTES);
        while !names.is_char_boundary(end) {
            end -= 1;
        }
        Self(format!("p/{session}/{}", &names[..end]))
    }

    /// The breakers of all models.
    pub fn breakers() -> Self {
        Self("b/".to_owned())
    }

    /// The whole outbox.
    pub fn outbox() -> Self {
        Self("o/".to_owned())
    }

    /// All meta records.
    pub fn metas() -> Self {
        Self("m/".to_owned())
    }

    /// Meta records whose names begin with `names`.
    pub fn metas_named(names: &str) -> Self {
        Self(format!("m/{names}"))
    }

    /// All counters.
    pub fn counters() -> Self {
        Self("c/".to_owned())
    }

    /// Everything in the store, for checks and exports.
    pub fn everything() -> Self {
        Self(String::new())
    }

    /// Reads a prefix back from the store's own files.
    pub(crate) fn from_stored(key: Key) -> Self {
        Self(key.0)
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the key lies under this prefix.
    pub fn covers(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Cuts a long name so that the index stays small; the hash keeps different names apart.
fn short(name: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let hash = sha1_smol::Sha1::from(name).digest().to_string();
    let mut end = MAX_NAME_BYTES - hash.len() - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}#{hash}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        SessionId::new(1_700_000_000_000, 7)
    }

    #[test]
    fn heads_and_parts_name_their_session() {
        assert_eq!(Key::session_head(&session()).session(), Some(session()));
        let part = Key::session_part(&session(), "a/m003.t0.r0/coder/src/x.rs");
        assert_eq!(part.session(), Some(session()));
        assert_eq!(part.name(), "a/m003.t0.r0/coder/src/x.rs");
        assert_eq!(Key::meta("a/b").name(), "a/b");
        assert_eq!(Key::meta("x").session(), None);
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (one, two) = ("ä".repeat(300), format!("{}x", "ä".repeat(300)));
        let (one, two) = (Key::session_part(&session(), &one), Key::session_part(&session(), &two));
        assert!(one.name().len() <= MAX_NAME_BYTES && one != two);
        assert!(Prefix::session_parts(&session()).covers(&one));
        assert!(Prefix::session_parts_named(&session(), "ää").covers(&two));
    }

    #[test]
    fn keys_of_younger_sessions_sort_later() {
        let young = SessionId::new(1_700_000_000_001, 0);
        assert!(Key::session_head(&session()) < Key::session_head(&young));
    }
}
