//! The pending table: what the journal holds, by key, until it is folded into the tree.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::is_internal;
use crate::batch::Change;
use crate::key::{Key, Prefix};
use crate::record::Record;
use crate::store::{Order, Scan};

/// What an entry costs beside its key and payload; a rough number for the bound.
const ENTRY_BYTES: usize = 128;

/// What becomes of the previous record when the entry is folded.
#[derive(Debug, Clone)]
pub(super) enum Previous {
    /// There is none any more.
    Cleared,
    /// It is the one that the tree holds under the key when the entry is folded.
    InTree,
    /// This one.
    Kept(Arc<Record>),
}

/// The newest state of a key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// `None`: the key is gone.
    pub(super) record: Option<Arc<Record>>,
    pub(super) previous: Previous,
    /// Marks the write, so that a second folding of it is recognized.
    pub(super) generation: u32,
}

impl Entry {
    fn bytes(&self, key: &Key) -> usize {
        let previous = if let Previous::Kept(record) = &self.previous { record.payload.len() } else { 0 };
        ENTRY_BYTES + key.as_str().len() + self.record.as_ref().map_or(0, |record| record.payload.len()) + previous
    }
}

/// Changes of one journal, resolved by key.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
}

impl Table {
    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Memory that it takes up, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn set(&mut self, key: &Key, entry: Entry) {
        self.bytes += entry.bytes(key);
        if let Some(before) = self.entries.insert(key.clone(), entry) {
            self.bytes -= before.bytes(key);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(before) = self.entries.remove(key) {
            self.bytes -= before.bytes(key);
        }
    }

    fn covered(&self, prefix: &Prefix) -> Vec<Key> {
        let from = Key::from_prefix(prefix);
        let range = self.entries.range(from..).map(|(key, _)| key).take_while(|key| prefix.covers(key));
        range.filter(|key| !is_internal(key.as_str().as_bytes())).cloned().collect()
    }
}

/// Both tables: the one that takes changes, and the one that is being folded.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) active: Table,
    pub(super) frozen: Option<Arc<Table>>,
}

impl Tables {
    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.active.get(key).or_else(|| self.frozen.as_ref().and_then(|frozen| frozen.get(key)))
    }

    /// Makes a change. `below` holds the keys of the tree that a deletion by prefix covers; `frozen` is the frozen table
    /// as it was before they were read, for its keys move into the tree.
    pub(super) fn apply(&mut self, change: &Change, generation: u32, below: &[Key], frozen: Option<&Table>) {
        match change {
            Change::Put(key, record) => {
                let record = Some(Arc::new(record.clone()));
                self.active.set(key, Entry { record, previous: Previous::Cleared, generation });
            }
            Change::PutKeepingPrevious(key, record) => {
                let previous = match self.get(key) {
                    None => Previous::InTree,
                    Some(Entry { record: None, .. }) => Previous::Cleared,
                    // One that the same frame has put is not on disk by itself, and the one before it stays.
                    Some(entry) if entry.generation == generation => entry.previous.clone(),
                    Some(Entry { record: Some(record), .. }) => Previous::Kept(Arc::clone(record)),
                };
                let record = Some(Arc::new(record.clone()));
                self.active.set(key, Entry { record, previous, generation });
            }
            Change::Delete(key) => {
                self.active.set(key, Entry { record: None, previous: Previous::Cleared, generation });
            }
            Change::DeleteAll(prefix) => {
                for key in self.active.covered(prefix) {
                    self.active.forget(&key);
                }
                let frozen = frozen.map(|frozen| frozen.covered(prefix)).unwrap_or_default();
                for key in below.iter().chain(&frozen).filter(|key| prefix.covers(key)) {
                    self.active.set(key, Entry { record: None, previous: Previous::Cleared, generation });
                }
            }
        }
    }

    /// Keys of the scan in its order and whether they hold a record; ends with the key that fills the scan's limit.
    pub(super) fn keys(&self, scan: &Scan) -> Vec<(Key, bool)> {
        let low = match (&scan.after, scan.order) {
            (Some(after), Order::Ascending) if after.as_str() >= scan.prefix.as_str() => Bound::Excluded(after.clone()),
            _ => Bound::Included(Key::from_prefix(&scan.prefix)),
        };
        let below = |key: &Key| match (&scan.after, scan.order) {
            (Some(after), Order::Descending) => key < after,
            _ => true,
        };
        let is_wanted = |key: &Key| scan.prefix.covers(key) && below(key) && !is_internal(key.as_str().as_bytes());
        let collect = |table: &Table| -> Vec<(Key, bool)> {
            let range = table.entries.range((low.clone(), Bound::Unbounded));
            range
                .take_while(|(key, _)| scan.prefix.covers(key))
                .filter(|(key, _)| is_wanted(key))
                .map(|(key, entry)| (key.clone(), entry.record.is_some()))
                .collect()
        };
        let mut all: BTreeMap<Key, bool> =
            self.frozen.as_ref().map(|frozen| collect(frozen).into_iter().collect()).unwrap_or_default();
        all.extend(collect(&self.active));
        let mut n_live = 0;
        let mut fills = |live: bool| {
            let was_full = n_live >= scan.limit;
            n_live += usize::from(live);
            !was_full
        };
        match scan.order {
            Order::Ascending => all.into_iter().take_while(|(_, live)| fills(*live)).collect(),
            Order::Descending => all.into_iter().rev().take_while(|(_, live)| fills(*live)).collect(),
        }
    }
}
