//! A store as text: JSON Lines, one record a line, complete enough to be read back. `docs/disk-format.md` shows the lines.
//!
//! The same content gives the same bytes: keys in order, one form for each line, nothing of time or place.

use std::fs;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::record::{MAX_PAYLOAD_BYTES, Record};
use crate::sled_store::{OpenOptions, SledStore, sync_folder};
use crate::store::{CheckpointStore, Scan};

/// The version of the lines.
const VERSION: u32 = 1;
/// The longest line: the largest record with its previous one, two digits a byte, and their names.
const MAX_LINE_BYTES: usize = 4 * MAX_PAYLOAD_BYTES + (64 << 10);
/// Payloads that are written in one batch, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Why a store could not be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The text could not be written or read.
    #[error("the export could not be written or read")]
    Io(#[from] std::io::Error),
    /// A line is not what it should be. Nothing was written.
    #[error("line {line} of the export: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// There are records already. Nothing was changed.
    #[error("the store {path} holds {records} records already; import into an empty state directory")]
    NotEmpty {
        /// Its directory.
        path: PathBuf,
        /// How many there are.
        records: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstLine {
    #[serde(rename = "steadfast-store")]
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    tag: u16,
    version: u16,
    payload: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    key: String,
    tag: u16,
    version: u16,
    payload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    records: u64,
    crc32: String,
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>()?;
    (rest.is_empty() && bytes.len() <= MAX_PAYLOAD_BYTES).then_some(bytes)
}

/// Writes every record, and tells how many there are when it is asked to (`progress`: done, all). What does not verify is
/// left out, or stands with what was saved before; [`CheckpointStore::check`] names it. Answers the number of records.
///
/// # Errors
/// [`TransferError::Store`], [`TransferError::Io`]; what was written until then has no last line, and no import takes it.
pub fn export(
    store: &dyn CheckpointStore,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, TransferError> {
    let mut sum = crc32fast::Hasher::new();
    let mut line = |value: &dyn erased::Line| -> Result<(), TransferError> {
        let text = value.text() + "\n";
        sum.update(text.as_bytes());
        Ok(out.write_all(text.as_bytes())?)
    };
    line(&FirstLine { version: VERSION })?;
    let keys = store.keys(&Scan::all(Prefix::everything()))?;
    let mut records = 0;
    for (at, key) in keys.iter().enumerate() {
        let record = match store.get(key) {
            Ok(Some(found)) => found.record,
            Ok(None) | Err(StoreError::Corrupt { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let stored =
            |record: Record| Stored { tag: record.tag, version: record.version, payload: hex(&record.payload) };
        let previous = store.previous(key)?.map(stored);
        let (tag, version, payload) = (record.tag, record.version, hex(&record.payload));
        line(&RecordLine { key: key.as_str().to_owned(), tag, version, payload, previous })?;
        records += 1;
        progress(at as u64 + 1, keys.len() as u64);
    }
    let crc32 = format!("{:08x}", sum.finalize());
    out.write_all((erased::Line::text(&LastLine { records, crc32 }) + "\n").as_bytes())?;
    out.flush()?;
    Ok(records)
}

mod erased {
    use serde::Serialize;

    /// A line, whatever it holds.
    pub(super) trait Line {
        fn text(&self) -> String;
    }

    impl<T: Serialize> Line for T {
        fn text(&self) -> String {
            serde_json::to_string(self).expect("texts and numbers become JSON")
        }
    }
}

struct Entry {
    key: Key,
    record: Record,
    previous: Option<Record>,
}

/// Reads and checks a whole export.
fn read(input: &mut dyn BufRead, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Entry>, TransferError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut sum = crc32fast::Hasher::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let wrong = |what: &str| TransferError::Line { line, what: what.to_owned() };
        bytes.clear();
        std::io::Read::take(&mut *input, MAX_LINE_BYTES as u64).read_until(b'\n', &mut bytes)?;
        if bytes.last() != Some(&b'\n') {
            return Err(wrong("it ends here, without its last line: the export is not whole"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is no text"))?;
        if line == 1 {
            let first: FirstLine = serde_json::from_str(text).map_err(|_| wrong("it is no export of a store"))?;
            if first.version != VERSION {
                let found = first.version;
                return Err(wrong(&format!(
                    "it has version {found}, this program knows {VERSION}: use a newer program"
                )));
            }
        } else if let Ok(last) = serde_json::from_str::<LastLine>(text) {
            if last.records != entries.len() as u64 || last.crc32 != format!("{:08x}", sum.finalize()) {
                return Err(wrong("number or checksum does not match the lines before: the export was changed"));
            }
            if !input.fill_buf()?.is_empty() {
                return Err(wrong("something follows the last line"));
            }
            return Ok(entries);
        } else {
            let parsed = serde_json::from_str::<RecordLine>(text);
            let parsed = parsed.map_err(|error| wrong(&format!("it is no record ({error})")))?;
            let record = |stored: Stored| {
                let payload = unhex(&stored.payload)?;
                Some(Record { tag: stored.tag, version: stored.version, payload })
            };
            let no_payload = || wrong("its payload is not made of hexadecimal digits, or too large");
            let key = Key::from_outside(&parsed.key).ok_or_else(|| wrong("its key is none that a store has"))?;
            if entries.last().is_some_and(|before| before.key >= key) {
                return Err(wrong("its key is not behind the one before"));
            }
            let previous = parsed.previous.map(|previous| record(previous).ok_or_else(no_payload)).transpose()?;
            let stored = Stored { tag: parsed.tag, version: parsed.version, payload: parsed.payload };
            entries.push(Entry { key, record: record(stored).ok_or_else(no_payload)?, previous });
            progress(line, 0);
        }
        sum.update(&bytes);
    }
    unreachable!("lines end before numbers do")
}

/// Makes a store in `dir` of an export. All of it is read and checked before anything is written, and it has its place only
/// when it is whole. Answers the number of records.
///
/// # Errors
/// [`TransferError::NotEmpty`], [`TransferError::Line`]: nothing was changed. [`TransferError::Store`]: as
/// [`SledStore::open`].
pub fn import(
    dir: &Path,
    lock_wait: Duration,
    input: &mut dyn BufRead,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, TransferError> {
    // Its lock is held until the new one has its place.
    let existing = match dir.exists() {
        true => Some(SledStore::open(dir, &OpenOptions { lock_wait })?.0),
        false => None,
    };
    if let Some(store) = &existing {
        let records = store.keys(&Scan::all(Prefix::everything()))?.len();
        if records > 0 {
            return Err(TransferError::NotEmpty { path: dir.to_owned(), records });
        }
    }
    let entries = read(input, progress)?;
    let parent = dir.parent().unwrap_or(dir);
    let io = |action: &'static str, path: &Path, error: std::io::Error| StoreError::from_io(action, path, &error);
    fs::create_dir_all(parent).map_err(|error| io("create", parent, error))?;
    let beside = |end: &str| {
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        name.push(end);
        dir.with_file_name(name)
    };
    let (fresh, old) = (beside(".import"), beside(".empty"));
    for rest in [&fresh, &old].into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(rest).map_err(|error| io("remove", rest, error))?;
    }
    if let Err(error) = fill(&fresh, &entries, progress) {
        // The error that is told is the first one.
        let _ = fs::remove_dir_all(&fresh);
        return Err(error.into());
    }
    if let Some(store) = &existing {
        // It writes to its folder for the last time; what is held on to is its lock.
        store.close()?;
        fs::rename(dir, &old).map_err(|error| io("rename", dir, error))?;
    }
    fs::rename(&fresh, dir).map_err(|error| io("rename", &fresh, error))?;
    sync_folder(parent)?;
    drop(existing);
    if old.exists() {
        fs::remove_dir_all(&old).map_err(|error| io("remove", &old, error))?;
    }
    Ok(entries.len() as u64)
}

/// On disk and closed when this returns.
fn fill(dir: &Path, entries: &[Entry], progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    let (store, _) = SledStore::open(dir, &OpenOptions::default())?;
    let mut batch = Batch::new();
    let flush = |batch: &mut Batch| -> Result<(), StoreError> {
        store.apply(batch)?;
        store.sync()?;
        *batch = Batch::new();
        Ok(())
    };
    for entry in entries {
        if let Some(previous) = &entry.previous {
            batch.put(entry.key.clone(), previous.clone());
        }
        if batch.payload_bytes() > BATCH_BYTES {
            flush(&mut batch)?;
        }
    }
    // In frames of their own, for the one that a frame replaces within itself is kept nowhere.
    flush(&mut batch)?;
    for (at, entry) in entries.iter().enumerate() {
        match &entry.previous {
            Some(_) => batch.put_keeping_previous(entry.key.clone(), entry.record.clone()),
            None => batch.put(entry.key.clone(), entry.record.clone()),
        };
        if batch.payload_bytes() > BATCH_BYTES {
            flush(&mut batch)?;
            progress(at as u64 + 1, entries.len() as u64);
        }
    }
    flush(&mut batch)?;
    store.close()?;
    Ok(())
}
