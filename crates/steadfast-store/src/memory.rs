//! The store in memory: same meaning, no disk, with failures on demand. For actor tests under paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::{Batch, Change};
use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::record::Record;
use crate::store::{Check, CheckpointStore, Found, Order, Scan, Scanned, SetAside, Usage};

#[derive(Debug, Clone)]
struct Stored {
    record: Record,
    verifies: bool,
}

#[derive(Debug, Clone)]
struct Slot {
    current: Stored,
    previous: Option<Record>,
}

#[derive(Debug, Default)]
struct State {
    applied: BTreeMap<Key, Slot>,
    unsynced: Vec<Batch>,
    durable: BTreeMap<Key, Slot>,
    aside: BTreeSet<Key>,
    epoch: u64,
    broken: bool,
    applies: u64,
    syncs: u64,
    apply_failures: Vec<StoreError>,
    sync_failures: Vec<StoreError>,
}

/// A store in memory. Clones share the content, as two handles on one store do.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    /// An empty store with epoch 1.
    pub fn new() -> Self {
        let store = Self::default();
        store.lock().epoch = 1;
        store
    }

    /// The store as a power cut would leave it: what was synced, the next epoch, no failures to come. The old handle
    /// keeps its own content.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        let state = self.lock();
        Self::from_content(state.durable.clone(), state.epoch + 1)
    }

    /// The store as `kill -9` would leave it: all that was applied, the next epoch, no failures to come.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.lock();
        Self::from_content(state.applied.clone(), state.epoch + 1)
    }

    /// Lets the next calls of `apply` fail, one for each error, without changing anything.
    pub fn fail_applies(&self, errors: impl IntoIterator<Item = StoreError>) {
        self.lock().apply_failures.extend(errors);
    }

    /// Lets the next calls of `sync` fail, one for each error; as on disk, the store is broken from then on.
    pub fn fail_syncs(&self, errors: impl IntoIterator<Item = StoreError>) {
        self.lock().sync_failures.extend(errors);
    }

    /// Damages the record under the key. Returns whether there was one.
    pub fn damage(&self, key: &Key) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        [&mut state.applied, &mut state.durable]
            .into_iter()
            .filter_map(|map| map.get_mut(key))
            .map(|slot| slot.current.verifies = false)
            .count()
            > 0
    }

    /// How many batches were applied.
    pub fn applies(&self) -> u64 {
        self.lock().applies
    }

    /// How often the store was synced.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    fn from_content(content: BTreeMap<Key, Slot>, epoch: u64) -> Self {
        let state = State { applied: content.clone(), durable: content, epoch, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has left whole values: every change below is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn change(map: &mut BTreeMap<Key, Slot>, change: &Change) {
    let stored = |record: &Record| Stored { record: record.clone(), verifies: true };
    match change {
        Change::Put(key, record) => {
            map.insert(key.clone(), Slot { current: stored(record), previous: None });
        }
        Change::PutKeepingPrevious(key, record) => {
            let previous = map
                .remove(key)
                .and_then(|slot| if slot.current.verifies { Some(slot.current.record) } else { slot.previous });
            map.insert(key.clone(), Slot { current: stored(record), previous });
        }
        Change::Delete(key) => {
            map.remove(key);
        }
        Change::DeleteAll(prefix) => map.retain(|key, _| !prefix.covers(key)),
    }
}

impl State {
    /// The record under a key, healing it as the store on disk does.
    fn read(&mut self, key: &Key) -> Option<Result<Found, SetAside>> {
        let slot = self.applied.get_mut(key)?;
        if slot.current.verifies {
            return Some(Ok(Found { record: slot.current.record.clone(), set_aside: None }));
        }
        self.aside.insert(key.clone());
        let previous = slot.previous.take();
        let note = SetAside {
            key: Some(key.clone()),
            reason: "damaged on purpose".to_owned(),
            previous_used: previous.is_some(),
        };
        match previous {
            Some(record) => {
                slot.current = Stored { record: record.clone(), verifies: true };
                Some(Ok(Found { record, set_aside: Some(note) }))
            }
            None => {
                self.applied.remove(key);
                Some(Err(note))
            }
        }
    }

    fn keys(&self, scan: &Scan) -> Vec<Key> {
        let covered = |map: &BTreeMap<Key, Slot>| -> Vec<Key> {
            let (low, high) = match (&scan.after, scan.order) {
                (None, _) => (Bound::Unbounded, Bound::Unbounded),
                (Some(key), Order::Ascending) => (Bound::Excluded(key.clone()), Bound::Unbounded),
                (Some(key), Order::Descending) => (Bound::Unbounded, Bound::Excluded(key.clone())),
            };
            let range = map.range((low, high)).map(|(key, _)| key);
            let covers = |key: &&Key| scan.prefix.covers(key);
            match scan.order {
                Order::Ascending => range.filter(covers).take(scan.limit).cloned().collect(),
                Order::Descending => range.rev().filter(covers).take(scan.limit).cloned().collect(),
            }
        };
        covered(&self.applied)
    }
}

impl CheckpointStore for MemoryStore {
    fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        match self.lock().read(key) {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(note)) => Err(StoreError::Corrupt { key: key.clone(), reason: note.reason }),
        }
    }

    fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        let mut state = self.lock();
        let mut scanned = Scanned::default();
        for key in state.keys(scan) {
            match state.read(&key) {
                None => {}
                Some(Ok(found)) => {
                    scanned.set_aside.extend(found.set_aside);
                    scanned.entries.push((key, found.record));
                }
                Some(Err(note)) => scanned.set_aside.push(note),
            }
        }
        Ok(scanned)
    }

    fn keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError> {
        Ok(self.lock().keys(scan))
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.broken {
            return Err(StoreError::Broken);
        }
        if !state.apply_failures.is_empty() {
            return Err(state.apply_failures.remove(0));
        }
        for one in batch.changes() {
            change(&mut state.applied, one);
        }
        state.unsynced.push(batch.clone());
        state.applies += 1;
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.broken {
            return Err(StoreError::Broken);
        }
        if !state.sync_failures.is_empty() {
            state.broken = true;
            return Err(state.sync_failures.remove(0));
        }
        for batch in std::mem::take(&mut state.unsynced) {
            for one in batch.changes() {
                change(&mut state.durable, one);
            }
        }
        state.syncs += 1;
        Ok(())
    }

    fn maintain(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn compact(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn fence(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    fn damaged(&self, prefix: &Prefix) -> Result<Vec<Key>, StoreError> {
        Ok(self.lock().aside.iter().filter(|key| prefix.covers(key)).cloned().collect())
    }

    fn previous(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.lock().applied.get(key).and_then(|slot| slot.previous.clone()))
    }

    fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, StoreError> {
        let state = self.lock();
        let mut check = Check { set_aside: state.aside.iter().cloned().collect(), ..Check::default() };
        for (at, (key, slot)) in state.applied.iter().enumerate() {
            if slot.current.verifies {
                check.records += 1;
                check.payload_bytes += slot.current.record.payload.len() as u64;
            } else {
                check.damaged.push((key.to_string(), "damaged on purpose".to_owned()));
            }
            check.previous += u64::from(slot.previous.is_some());
            progress(at as u64 + 1, state.applied.len() as u64);
        }
        Ok(check)
    }

    fn usage(&self) -> Usage {
        let bytes =
            |slot: &Slot| slot.current.record.payload.len() + slot.previous.as_ref().map_or(0, |r| r.payload.len());
        let live_bytes = self.lock().applied.values().map(bytes).sum::<usize>() as u64;
        Usage { live_bytes, disk_bytes: live_bytes }
    }
}
