//! What a store must at least hold. sled opens an emptied file as a new store, and a rolled-back one as it is, without a
//! word; a journal that is gone leaves no trace in itself. So each of them says what the others must hold.
//!
//! Three things tell: the journals' headers name the journal that must be in the tree (`needs`), the tree names the last
//! journal that is folded into it, and a small file beside both (`epoch`) holds the number of the last opening and the journal
//! that takes the writes. No single
//! damaged file takes all three with it.

use std::fs;
use std::path::Path;

use steadfast_fault_point::{self as fault_point, Point};

use super::journal;
use super::tree::Tree;
use crate::error::StoreError;

/// The small file.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// The last epoch that was begun here; 0 when nothing is known.
    pub(super) epoch: u64,
    /// Bytes of sled's file when it was last closed in order; `None` after a crash.
    pub(super) closed_bytes: Option<u64>,
    /// The journal that must be in the tree or in its file.
    pub(super) journal: u64,
    /// Bytes of sled's file now, before sled opens and extends it.
    pub(super) found_bytes: u64,
}

const NAME: &str = "epoch";

/// What is not there though it must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Everything that was ever saved.
    Everything,
    /// What was saved last; how much is not known.
    Newest {
        /// Why that is known, as the end of a sentence.
        why: String,
    },
    /// A file was damaged that held nothing of its own.
    Nothing {
        /// Which, as a sentence.
        what: String,
    },
}

impl Witness {
    /// A file that is missing, cut or does not agree with its checksum says nothing.
    pub(super) fn read(dir: &Path) -> Self {
        let found_bytes = fs::metadata(dir.join("sled/db")).map_or(0, |data| data.len());
        let text = fs::read(dir.join(NAME)).unwrap_or_default();
        let read = std::str::from_utf8(&text).ok().and_then(Self::parse);
        Self { found_bytes, ..read.unwrap_or_default() }
    }

    /// The first line is all that programs before the second layout wrote, and all that they read.
    fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once('\n')?;
        let mut numbers = first.split(' ').map(|number| number.parse::<u64>().ok());
        let epoch = numbers.next()??;
        let closed_bytes = numbers.next().flatten();
        let mut journal = 0;
        if !rest.is_empty() {
            let (body, sum) = text.rsplit_once("check ")?;
            if sum != format!("{:08x}\n", crc32fast::hash(body.as_bytes())) {
                return None;
            }
            journal = rest.lines().next()?.strip_prefix("journal ")?.parse().ok()?;
        }
        Some(Self { epoch, closed_bytes, journal, found_bytes: 0 })
    }

    /// Not synced, for that would make each open slower: what a power cut leaves of it says less, and nothing false.
    fn write(dir: &Path, first: &str, journal: u64) -> std::io::Result<()> {
        let body = format!("{first}\njournal {journal}\n");
        let text = format!("{body}check {:08x}\n", crc32fast::hash(body.as_bytes()));
        let temporary = dir.join(".epoch.tmp");
        fault_point::reach(Point::StoreWitnessBefore);
        fs::write(&temporary, text)?;
        fault_point::reach(Point::StoreWitnessUnnamed);
        fs::rename(&temporary, dir.join(NAME))?;
        fault_point::reach(Point::StoreWitnessWritten);
        Ok(())
    }

    /// Refuses when a later opening than `own` has raised the epoch. The lock keeps others out as long as its file is the one
    /// that we hold; a person who removes it, or a copied folder, lets them in.
    pub(super) fn fence(dir: &Path, own: u64) -> Result<(), StoreError> {
        let text = fs::read(dir.join(NAME)).unwrap_or_default();
        let later = std::str::from_utf8(&text).ok().and_then(Self::parse).is_some_and(|found| found.epoch > own);
        if later { Err(StoreError::Fenced { path: dir.to_owned() }) } else { Ok(()) }
    }

    pub(super) fn write_open(dir: &Path, epoch: u64, journal: u64) -> Result<(), StoreError> {
        Self::write(dir, &format!("{epoch}"), journal).map_err(|error| StoreError::from_io("write to", dir, &error))
    }

    pub(super) fn write_closed(dir: &Path, epoch: u64, journal: u64) {
        if let Ok(data) = fs::metadata(dir.join("sled/db")) {
            // Without it the next start just knows less.
            let _ = Self::write(dir, &format!("{epoch} {}", data.len()), journal);
        }
    }

    /// Whether sled's file is shorter than it was, which is known before sled has touched it.
    pub(super) fn tree_was_cut(&self) -> bool {
        self.closed_bytes.is_some_and(|closed| self.found_bytes < closed)
    }

    /// Compares what is there with what must be. `stored`: the epoch that the tree remembers.
    pub(super) fn missing(
        &self,
        tree: &Tree,
        stored: u64,
        journals: &[journal::Found],
    ) -> Result<Option<Missing>, StoreError> {
        let folded = tree.folded()?;
        let known = stored.max(journals.iter().map(|journal| journal.epoch).max().unwrap_or(0));
        let is_there = |number: u64| number <= folded || journals.iter().any(|journal| journal.number == number);
        let mut needed = journals.iter().map(|journal| journal.needs).chain([self.journal]);
        let holds_frames = journals.iter().any(|journal| !journal.frames.is_empty());
        if self.epoch > 0 && known == 0 {
            return Ok(Some(Missing::Everything));
        }
        if let Some(needed) = needed.find(|needed| !is_there(*needed)) {
            if tree.is_empty()? && !holds_frames {
                return Ok(Some(Missing::Everything));
            }
            let why = format!("journal {needed} was in the tree, which now ends with journal {folded}");
            return Ok(Some(Missing::Newest { why }));
        }
        if self.tree_was_cut() {
            return Ok(Some(Missing::Newest { why: "its file is shorter than when it was closed".to_owned() }));
        }
        if known < self.epoch {
            return Ok(Some(match self.closed_bytes {
                Some(_) if journals.iter().all(|journal| journal.damage.is_none()) => Missing::Nothing {
                    what: "the store's journal is gone; nothing of it was needed any more".to_owned(),
                },
                Some(_) => return Ok(None),
                None => Missing::Newest { why: format!("its journal ends with start {known} of {}", self.epoch) },
            }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(u64, Option<u64>, u64)> {
        Witness::parse(text).map(|witness| (witness.epoch, witness.closed_bytes, witness.journal))
    }

    #[test]
    fn the_small_file_is_read_whole_or_not_at_all_and_the_first_layout_still_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        Witness::write_open(dir.path(), 12, 7).expect("written");
        let text = fs::read_to_string(dir.path().join(NAME)).expect("reads");
        assert_eq!(read(&text), Some((12, None, 7)));
        for end in 0..text.len() {
            // Only the end of the first line is a text that an earlier program could have written, and it is true.
            let expected = (end == 3).then_some((12, None, 0));
            assert_eq!(read(&text[..end]), expected, "{:?}", &text[..end]);
        }
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = String::from_utf8(bytes).ok().and_then(|text| read(&text));
            assert_eq!(flipped, None, "bit {bit}");
        }
        assert_eq!(read("3 9369\n"), Some((3, Some(9369), 0)));
        assert_eq!(read("3\n"), Some((3, None, 0)));
        assert_eq!(read("3"), None);
    }
}
