//! What can go wrong in the store, named so that a person can act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::key::Key;

/// What the layer below said, without its types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendError(String);

impl BackendError {
    /// Keeps the words and drops the type.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BackendError {}

/// Who has to act on a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// One record is affected; the store goes on with all others.
    Record,
    /// Another process holds the store; asking again later can help.
    Busy,
    /// The disk is full or too small; nothing was written, and the store can be used once there is room.
    Space,
    /// A person must change something: a path, a permission, the installed version.
    Setup,
    /// This handle is done for. Opening the store again repairs what can be repaired.
    Reopen,
}

/// Why the store could not do what it was asked for. Cloneable, because one failed sync fails a whole group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open. Nothing was touched.
    #[error("store {path} is in use{}; waited {:.0} s", holder_text(*.holder), .waited.as_secs_f64())]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// Process id that the holder wrote into the lock file, if it could be read.
        holder: Option<u32>,
        /// How long the lock was waited for.
        waited: Duration,
    },
    /// There is no store, and creating one was not asked for.
    #[error("there is no store in {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The path, or a part of it, is a file.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path in question.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("the file system of {path} is read-only")]
    ReadOnly {
        /// The path in question.
        path: PathBuf,
    },
    /// The user may not read or write there.
    #[error("permission denied for {path}")]
    PermissionDenied {
        /// The path in question.
        path: PathBuf,
    },
    /// No space is left, or a quota is used up. A batch that met this is not in the store.
    #[error("no space is left for {path}")]
    NoSpace {
        /// The path in question.
        path: PathBuf,
    },
    /// The store was written by a newer program. It was not touched.
    #[error("store {path} has format {found}, this program knows up to {known}: use a newer program")]
    NewerStore {
        /// The store's directory.
        path: PathBuf,
        /// Format number found.
        found: u32,
        /// Highest format number known here.
        known: u32,
    },
    /// The record was written by a newer program.
    #[error("a {kind} record has version {found}, this program knows up to {known}: use a newer program")]
    NewerVersion {
        /// Name of the record's kind.
        kind: &'static str,
        /// Version found.
        found: u16,
        /// Version known here.
        known: u16,
    },
    /// The record is older than the one version asked for; decode it with the kind of that version.
    #[error("a {kind} record has version {found}, {wanted} was asked for")]
    OlderVersion {
        /// Name of the record's kind.
        kind: &'static str,
        /// Version found.
        found: u16,
        /// Version asked for.
        wanted: u16,
    },
    /// Something else is stored under the key.
    #[error("a {wanted} record was asked for, but the record has kind {found}")]
    WrongKind {
        /// Name of the kind asked for.
        wanted: &'static str,
        /// Tag found.
        found: u16,
    },
    /// The record's checksum does not match and there is no previous one. It has been set aside and is gone from its key.
    #[error("the record {key} does not verify: {reason}")]
    Corrupt {
        /// Where it was.
        key: Key,
        /// What is wrong with it and where its bytes were kept.
        reason: String,
    },
    /// The checksum is right, but the payload is no value of this kind.
    #[error("a {kind} record cannot be decoded")]
    Malformed {
        /// Name of the record's kind.
        kind: &'static str,
        /// What the decoder said.
        #[source]
        source: BackendError,
    },
    /// A value cannot be encoded.
    #[error("a {kind} record cannot be encoded")]
    Encode {
        /// Name of the record's kind.
        kind: &'static str,
        /// What the encoder said.
        #[source]
        source: BackendError,
    },
    /// The payload is over [`crate::record::MAX_PAYLOAD_BYTES`].
    #[error("a record of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The operating system refused; what was asked for did not happen.
    #[error("failed to {action} {path}")]
    Io {
        /// Verb for the sentence, such as `open`.
        action: &'static str,
        /// The path in question.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: BackendError,
    },
    /// The bytes were handed over, but it is not known whether they are on disk. Nothing may be built on them, and this
    /// handle refuses everything from now on: after a failed sync the kernel may drop the data and report success next time.
    #[error("failed to sync the store")]
    Sync {
        /// What the operating system said.
        #[source]
        source: BackendError,
    },
    /// A part of the files does not read. It is marked, and the next opening copies what reads into fresh files, keeps the
    /// damaged ones and says what is lost.
    #[error("a part of the store's files does not read; the next opening saves what does, and says what is lost")]
    Index {
        /// What the layer below said.
        #[source]
        source: BackendError,
    },
    /// Another process has opened the store meanwhile, so this one was thought dead: it must change nothing any more.
    #[error("another process has taken over the store {path}; this one changes nothing any more")]
    Fenced {
        /// The store's directory.
        path: PathBuf,
    },
    /// An earlier failure left this handle unusable; open the store again.
    #[error("the store was given up after an earlier failure; open it again")]
    Broken,
    /// The writer's thread has ended; the batch was not written.
    #[error("the store's writer has stopped")]
    Stopped,
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or(String::new(), |pid| format!(" by process {pid}"))
}

impl StoreError {
    /// Who has to act.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Locked { .. } => ErrorClass::Busy,
            Self::NoSpace { .. } => ErrorClass::Space,
            Self::Missing { .. }
            | Self::NotADirectory { .. }
            | Self::ReadOnly { .. }
            | Self::PermissionDenied { .. }
            | Self::NewerStore { .. } => ErrorClass::Setup,
            Self::NewerVersion { .. }
            | Self::OlderVersion { .. }
            | Self::WrongKind { .. }
            | Self::Corrupt { .. }
            | Self::Malformed { .. }
            | Self::Encode { .. }
            | Self::TooLarge { .. } => ErrorClass::Record,
            Self::Io { .. }
            | Self::Sync { .. }
            | Self::Index { .. }
            | Self::Fenced { .. }
            | Self::Broken
            | Self::Stopped => ErrorClass::Reopen,
        }
    }

    /// Sorts an operating system error into the variants that a person can act on.
    pub(crate) fn from_io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { path }
            }
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { action, path, source: BackendError::new(error) },
        }
    }
}
