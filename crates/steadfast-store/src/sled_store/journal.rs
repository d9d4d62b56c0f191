//! The journal: what was acknowledged and is not in the tree yet. `docs/disk-format.md` shows the bytes.
//!
//! A file begins with a block that names its number and the epoch; frames follow, one for each sync, each beginning at a
//! block of its own. So no block that was acknowledged is ever written again, and a write that a crash cut off can only
//! be the last one. A file is used again after its changes are in the tree: frames of an earlier use carry an earlier
//! number and count as empty space.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use steadfast_fault_point::{self as fault_point, Point};

use super::sync_folder;
use crate::batch::Change;
use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::record::{MAX_PAYLOAD_BYTES, Record};

/// The format of the journal's files.
pub(super) const FORMAT: u32 = 1;
/// What a disk writes at once; a frame begins at a multiple of it.
pub(super) const BLOCK: u64 = 4096;
const FILE_MAGIC: &[u8; 4] = b"SFJ1";
const FRAME_MAGIC: &[u8; 4] = b"SFF1";
const FRAME_HEADER: usize = 36;
const FILE_HEADER: usize = 28;
/// Behind the header; programs that do not know it leave zeros there and read over it.
const EXTENSION_MAGIC: &[u8; 4] = b"SFX1";
const EXTENSION_END: usize = 56;
/// Space is taken from the file system in pieces of this size, so that few syncs have to write the file's length.
pub(super) const RESERVE_BYTES: u64 = 4 << 20;
/// More than any batch should hold; a length above it is damage.
const MAX_FRAME_BYTES: usize = 1 << 30;
/// Journal files are named `journal-0` and `journal-1`; one takes the writes while the other is folded.
const N_FILES: u64 = 2;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal-{}", number % N_FILES))
}

/// What a file's header says.
#[derive(Debug, Clone, Copy)]
struct Header {
    number: u64,
    epoch: u64,
    /// The journal that is in the tree, or in another file.
    needs: u64,
    /// The file is at least so long.
    file_bytes: u64,
}

fn file_header(header: Header) -> Vec<u8> {
    let Header { number, epoch, needs, file_bytes } = header;
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    bytes.extend_from_slice(FILE_MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&epoch.to_le_bytes());
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(EXTENSION_MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&needs.to_le_bytes());
    bytes.extend_from_slice(&file_bytes.to_le_bytes());
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.resize(BLOCK as usize, 0);
    bytes
}

/// The changes since the last sync, as the frame that they become.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that it takes up in the file.
    pub(super) fn space(&self) -> u64 {
        blocks(self.bytes.len() as u64)
    }

    pub(super) fn push(&mut self, change: &Change) {
        if self.bytes.is_empty() {
            self.bytes.resize(FRAME_HEADER, 0);
        }
        let (what, name, record) = match change {
            Change::Put(key, record) => (1, key.as_str(), Some(record)),
            Change::PutKeepingPrevious(key, record) => (2, key.as_str(), Some(record)),
            Change::Delete(key) => (3, key.as_str(), None),
            Change::DeleteAll(prefix) => (4, prefix.as_str(), None),
        };
        self.bytes.push(what);
        self.bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        if let Some(record) = record {
            self.bytes.extend_from_slice(&record.tag.to_le_bytes());
            self.bytes.extend_from_slice(&record.version.to_le_bytes());
            self.bytes.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(&record.payload);
        }
    }

    /// How much a batch adds, at most.
    pub(super) fn space_for(&self, changes: &[Change]) -> u64 {
        let one = |change: &Change| match change {
            Change::Put(key, record) | Change::PutKeepingPrevious(key, record) => {
                13 + key.as_str().len() + record.payload.len()
            }
            Change::Delete(key) => 5 + key.as_str().len(),
            Change::DeleteAll(prefix) => 5 + prefix.as_str().len(),
        };
        let added: usize = changes.iter().map(one).sum();
        blocks((self.bytes.len().max(FRAME_HEADER) + added) as u64)
    }

    fn seal(&mut self, number: u64, sequence: u64, file_bytes: u64) -> &[u8] {
        let length = (self.bytes.len() - FRAME_HEADER) as u32;
        self.bytes[..4].copy_from_slice(FRAME_MAGIC);
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&number.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&file_bytes.to_le_bytes());
        let sum = frame_sum(&self.bytes);
        self.bytes[32..36].copy_from_slice(&sum.to_le_bytes());
        self.bytes.resize(self.space() as usize, 0);
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.clear();
        // A rare large group must not stay in memory.
        self.bytes.shrink_to(1 << 20);
    }
}

fn frame_sum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..32]);
    hasher.update(&bytes[FRAME_HEADER..]);
    hasher.finalize()
}

/// A file that takes frames.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    number: u64,
    /// Where the next frame goes.
    end: u64,
    /// Length of the file.
    reserved: u64,
    header: Header,
    /// The file has grown since its header was written.
    has_grown: bool,
}

impl Journal {
    /// Begins the next file after these, whose frames are in the tree. `folded`: the last journal that is in the tree.
    pub(super) fn begin_after(
        dir: &Path,
        found: &[Found],
        epoch: u64,
        folded: u64,
        bound: u64,
    ) -> Result<Self, StoreError> {
        // Not below what the tree knows, for a number that it has is one that it need not look for.
        let number = found.iter().map(|journal| journal.number).max().unwrap_or(0).max(folded) + 1;
        let Some((newest, older)) = found.split_last() else { return Self::begin(dir, number, epoch, folded, bound) };
        // The oldest goes first: one that outlived a newer one would bring old records back. The newest one is begun
        // again in one write, for its header holds the last epoch.
        older.iter().try_for_each(|journal| remove(&journal.path))?;
        let number = if path_of(dir, number) == newest.path { number } else { number + 1 };
        let mut journal = Self::begin(dir, number, epoch, folded, 2 * bound)?;
        journal.shrink_to(2 * bound)?;
        Ok(journal)
    }

    /// Begins a file for this number, made where it is missing. On disk with its name when this returns.
    pub(super) fn begin(dir: &Path, number: u64, epoch: u64, needs: u64, bound: u64) -> Result<Self, StoreError> {
        let path = path_of(dir, number);
        let failed = |error: std::io::Error| StoreError::from_io("open", &path, &error);
        let is_new = !path.exists();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let reserved = file.metadata().map_err(failed)?.len();
        let header = Header { number, epoch, needs, file_bytes: 0 };
        let mut journal = Self { file, path, number, end: BLOCK, reserved, header, has_grown: false };
        journal.begin_again(number, epoch, needs, bound)?;
        if is_new {
            sync_folder(dir)?;
        }
        Ok(journal)
    }

    /// Forgets the frames and takes a higher number. On disk when this returns. `needs`: the journal before it, which is in
    /// the tree or in the other file; `bound`: the caller may shorten the file to so much.
    pub(super) fn begin_again(&mut self, number: u64, epoch: u64, needs: u64, bound: u64) -> Result<(), StoreError> {
        let failed = |error: std::io::Error| StoreError::from_io("write to", &self.path, &error);
        let header = Header { number, epoch, needs, file_bytes: self.reserved.min(bound).max(BLOCK) };
        let mut bytes = file_header(header);
        if self.reserved >= 2 * BLOCK {
            // A frame of an earlier use must not pass for a first one that did not come through.
            bytes.resize(2 * BLOCK as usize, 0);
        }
        fault_point::reach(Point::StoreJournalBefore);
        self.file.write_all_at(&bytes, 0).map_err(failed)?;
        fault_point::reach(Point::StoreJournalWritten);
        self.file.sync_data().map_err(failed)?;
        fault_point::reach(Point::StoreJournalBegun);
        (self.header, self.has_grown) = (header, false);
        self.number = number;
        self.end = BLOCK;
        self.reserved = self.reserved.max(BLOCK);
        Ok(())
    }

    /// Gives back space above `bound`; only for a file without frames.
    pub(super) fn shrink_to(&mut self, bound: u64) -> Result<(), StoreError> {
        if self.reserved > bound {
            self.file.set_len(bound).map_err(|error| StoreError::from_io("shorten", &self.path, &error))?;
            self.reserved = bound;
        }
        Ok(())
    }

    /// Gives back the space above `bound`, as [`Journal::shrink_to`], for a file that goes on under its number.
    pub(super) fn slim_to(&mut self, bound: u64) -> Result<(), StoreError> {
        if self.reserved <= bound {
            return Ok(());
        }
        let Header { number, epoch, needs, .. } = self.header;
        self.begin_again(number, epoch, needs, bound)?;
        self.shrink_to(bound)
    }

    /// Gives the file up; only for one without frames, or the oldest.
    pub(super) fn remove(self) -> Result<(), StoreError> {
        remove(&self.path)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes up to the end of the last frame.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Takes space for a frame, so that a full disk is met before anything was changed.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        let needed = self.end + bytes;
        if needed <= self.reserved {
            return Ok(());
        }
        let more = (needed - self.reserved).max(RESERVE_BYTES);
        // A nearly full disk may still have what is needed now.
        for more in [more, needed - self.reserved] {
            match fallocate(&self.file, FallocateFlags::empty(), self.reserved, more) {
                Ok(()) => {
                    self.reserved += more;
                    self.has_grown = true;
                    return Ok(());
                }
                // Not every file system can; there the write itself takes the space.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
                Err(_) => {}
            }
        }
        Err(StoreError::NoSpace { path: self.path.clone() })
    }

    /// Lets the next write fail.
    #[cfg(test)]
    pub(super) fn fail_next(&mut self) {
        self.file = File::open(&self.path).expect("opens for reading only");
    }

    /// Writes the frame and empties it. On disk when this returns.
    pub(super) fn write(&mut self, frame: &mut Frame, sequence: u64) -> std::io::Result<()> {
        let reserved = self.reserved.max(self.end + frame.space());
        let bytes = frame.seal(self.number, sequence, reserved);
        fault_point::reach(Point::StoreFrameBefore);
        self.file.write_all_at(bytes, self.end)?;
        fault_point::reach(Point::StoreFrameWritten);
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        self.reserved = reserved;
        frame.clear();
        if std::mem::take(&mut self.has_grown) {
            // So that a file that is cut in front of its first frame still tells. The length that it names is on disk, so
            // this need not be synced; without it the next start just knows less.
            self.header.file_bytes = self.reserved;
            let _ = self.file.write_all_at(&file_header(self.header), 0);
            fault_point::reach(Point::StoreJournalGrown);
        }
        Ok(())
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) epoch: u64,
    /// The journal that must be in the tree or in the other file; 0 when nothing is known.
    pub(super) needs: u64,
    is_sound: bool,
    /// In order, each with its sequence number.
    pub(super) frames: Vec<(u64, Vec<Change>)>,
    /// What is wrong with it, as a sentence.
    pub(super) damage: Option<String>,
    /// Its last write does not verify: the normal end of a power cut, and what a damaged last block looks like.
    pub(super) is_torn: bool,
}

/// Reads the journals that are there, the oldest first.
pub(super) fn read_all(dir: &Path) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    for slot in 0..N_FILES {
        let path = path_of(dir, slot);
        match File::open(&path) {
            Ok(file) => found.push(read_one(dir, path, &file)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::from_io("open", &path, &error)),
        }
    }
    found.sort_by_key(|journal| journal.number);
    // Without a sound header, frames of a use before the last could pass for new ones, and bring old records back. The
    // two files take turns, so what counts is at most one behind the other file.
    if let [older, newer] = &mut found[..]
        && !older.is_sound
        && older.number + 1 < newer.number
    {
        older.frames.clear();
    }
    Ok(found)
}

fn read_one(dir: &Path, path: PathBuf, file: &File) -> Result<Found, StoreError> {
    let failed = |error: std::io::Error| StoreError::from_io("read", &path, &error);
    let length = file.metadata().map_err(failed)?.len();
    let mut header = [0u8; EXTENSION_END];
    let n_header = length.min(EXTENSION_END as u64) as usize;
    file.read_exact_at(&mut header[..n_header], 0).map_err(failed)?;
    let has_header = n_header >= FILE_HEADER;
    let mut found = Found::default();
    let is_sound = has_header && &header[..4] == FILE_MAGIC && crc32fast::hash(&header[..24]) == u32_at(&header, 24);
    if is_sound {
        let format = u32_at(&header, 4);
        if format > FORMAT {
            return Err(StoreError::NewerStore { path: dir.to_owned(), found: format, known: FORMAT });
        }
        (found.number, found.epoch) = (u64_at(&header, 8), u64_at(&header, 16));
    }
    found.is_sound = is_sound;
    let mut file_bytes = 0;
    let has_extension = is_sound && &header[28..32] == EXTENSION_MAGIC;
    if has_extension && crc32fast::hash(&header[..52]) == u32_at(&header, 52) {
        (found.needs, file_bytes) = (u64_at(&header, 36), u64_at(&header, 44));
    }
    let mut at = BLOCK;
    let mut end = BLOCK;
    let (mut n_bad, mut bad_before_frame) = (0, 0u32);
    let mut window = Window { file, length, start: 0, bytes: Vec::new() };
    while at < length {
        // Without a header the first frame says which number counts; frames of another use have another one.
        let number = (is_sound || !found.frames.is_empty()).then_some(found.number);
        let last = found.frames.last().map_or(0, |(sequence, _)| *sequence);
        let frame = window.frame(at, number, last).map_err(failed)?;
        match frame {
            Some((number, sequence, frame_file_bytes, changes, space)) => {
                found.number = number;
                // The upper half of a sequence number; the header may be the part that is damaged.
                found.epoch = found.epoch.max(sequence >> 32);
                file_bytes = file_bytes.max(frame_file_bytes);
                let is_gap = !found.frames.is_empty() && sequence != last + 1;
                bad_before_frame += u32::from(n_bad > 0 || is_gap);
                n_bad = 0;
                found.frames.push((sequence, changes));
                at += space;
                end = at;
            }
            None => {
                n_bad += 1;
                at += BLOCK;
            }
        }
    }
    let last = found.frames.last().map(|(sequence, _)| *sequence);
    found.is_torn = is_sound && window.is_torn_frame(end, found.number, found.epoch, last).map_err(failed)?;
    let frames = found.frames.len();
    found.damage = if bad_before_frame > 0 {
        Some(format!("{} is damaged in {bad_before_frame} place(s) between its {frames} sound writes", path.display()))
    } else if length < file_bytes {
        Some(format!("{} was cut off after {frames} writes: what came later may be lost", path.display()))
    } else if !is_sound && length > 0 && (frames > 0 || !is_empty_file(&mut window, &header).map_err(failed)?) {
        Some(format!("the beginning of {} is damaged; {frames} writes of it are kept", path.display()))
    } else {
        None
    };
    found.path = path;
    Ok(found)
}

/// A file that a crash left before its first sync holds only zeros.
fn is_empty_file(window: &mut Window<'_>, header: &[u8]) -> std::io::Result<bool> {
    if header.iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    let length = window.length.min(1 << 20) as usize;
    Ok(window.bytes(0, length)?.iter().all(|byte| *byte == 0))
}

/// A view of a file that is read in pieces of one MiB, for most of it may be empty space.
struct Window<'a> {
    file: &'a File,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

type Parsed = (u64, u64, u64, Vec<Change>, u64);

impl Window<'_> {
    /// Bytes that lie within the file.
    fn bytes(&mut self, at: u64, length: usize) -> std::io::Result<&[u8]> {
        let end = at + length as u64;
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let take = (length as u64).max(1 << 20).min(self.length - at) as usize;
            self.bytes.resize(take, 0);
            self.file.read_exact_at(&mut self.bytes, at)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + length])
    }

    /// Whether the block behind the last frame looks like one that did not come through: most of what tells a frame of this
    /// use is there, and it does not verify. A frame of an earlier use does.
    fn is_torn_frame(&mut self, at: u64, number: u64, epoch: u64, last: Option<u64>) -> std::io::Result<bool> {
        if at + FRAME_HEADER as u64 > self.length {
            return Ok(false);
        }
        let header = self.bytes(at, FRAME_HEADER)?;
        let sequence = u64_at(header, 16);
        let is_next = last.map_or(sequence >> 32 == epoch, |last| sequence == last + 1);
        let signs = [&header[..4] == FRAME_MAGIC, u64_at(header, 8) == number, is_next];
        if signs.into_iter().filter(|sign| *sign).count() < 2 {
            return Ok(false);
        }
        let (length, sum) = (u32_at(header, 4) as usize, u32_at(header, 32));
        if length > MAX_FRAME_BYTES || (FRAME_HEADER + length) as u64 > self.length - at {
            return Ok(true);
        }
        Ok(frame_sum(self.bytes(at, FRAME_HEADER + length)?) != sum)
    }

    /// The frame at a block, if there is a sound one of this number that is newer than `last`.
    fn frame(&mut self, at: u64, number: Option<u64>, last: u64) -> std::io::Result<Option<Parsed>> {
        if self.length - at < FRAME_HEADER as u64 {
            return Ok(None);
        }
        let header = self.bytes(at, FRAME_HEADER)?;
        if &header[..4] != FRAME_MAGIC {
            return Ok(None);
        }
        let length = u32_at(header, 4) as usize;
        let (found, sequence, file_bytes, sum) =
            (u64_at(header, 8), u64_at(header, 16), u64_at(header, 24), u32_at(header, 32));
        let fits = length <= MAX_FRAME_BYTES && (FRAME_HEADER + length) as u64 <= self.length - at;
        if !fits || sequence <= last || number.is_some_and(|number| number != found) {
            return Ok(None);
        }
        let bytes = self.bytes(at, FRAME_HEADER + length)?;
        if frame_sum(bytes) != sum {
            return Ok(None);
        }
        let changes = parse(&bytes[FRAME_HEADER..]);
        Ok(changes.map(|changes| (found, sequence, file_bytes, changes, blocks((FRAME_HEADER + length) as u64))))
    }
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Change>> {
    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(taken)
    }
    let mut changes = Vec::new();
    while let Some(what) = take(&mut bytes, 1) {
        let length = u32_at(take(&mut bytes, 4)?, 0) as usize;
        let key = Key::from_stored(take(&mut bytes, length)?)?;
        changes.push(match what[0] {
            kind @ (1 | 2) => {
                let head = take(&mut bytes, 8)?;
                let length = u32_at(head, 4) as usize;
                if length > MAX_PAYLOAD_BYTES {
                    return None;
                }
                let [a, b, c, d] = [head[0], head[1], head[2], head[3]];
                let record = Record {
                    tag: u16::from_le_bytes([a, b]),
                    version: u16::from_le_bytes([c, d]),
                    payload: take(&mut bytes, length)?.to_vec(),
                };
                if kind == 1 { Change::Put(key, record) } else { Change::PutKeepingPrevious(key, record) }
            }
            3 => Change::Delete(key),
            4 => Change::DeleteAll(Prefix::from_stored(key)),
            _ => return None,
        });
    }
    Some(changes)
}

/// Forgets a journal whose changes are in the tree.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    fault_point::reach(Point::StoreJournalRemoving);
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::from_io("remove", path, &error)),
        _ => {
            fault_point::reach(Point::StoreJournalRemoved);
            path.parent().map_or(Ok(()), sync_folder)
        }
    }
}
