//! A store whose disk can be held, and in which somebody else is quicker.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use steadfast_store::{
    Batch, Check, CheckpointStore, Found, Key, MemoryStore, Prefix, Record, Scan, Scanned, StoreError, Usage,
};
use tokio::sync::oneshot;

type Holds = Vec<(oneshot::Sender<()>, mpsc::Receiver<()>)>;

/// The store in memory, with a disk that can be held and a batch that comes in between.
#[derive(Clone)]
pub(super) struct SlowStore {
    inner: MemoryStore,
    holds: Arc<Mutex<Holds>>,
    before_scan: Arc<Mutex<Option<Batch>>>,
}

impl Default for SlowStore {
    fn default() -> Self {
        Self::over(MemoryStore::new())
    }
}

impl SlowStore {
    pub(super) fn over(inner: MemoryStore) -> Self {
        Self { inner, holds: Arc::default(), before_scan: Arc::default() }
    }

    /// Somebody else's batch comes just before the next scan.
    pub(super) fn apply_before_next_scan(&self, batch: Batch) {
        *self.before_scan.lock().unwrap() = Some(batch);
    }

    /// The next sync begins and does not end before it is released.
    pub(super) fn hold_next_sync(&self) -> HeldSync {
        let (begin, begun) = oneshot::channel();
        let (release, released) = mpsc::channel();
        self.holds.lock().unwrap().push((begin, released));
        HeldSync { begun: Mutex::new(begun), release }
    }
}

/// One sync that waits.
pub(super) struct HeldSync {
    begun: Mutex<oneshot::Receiver<()>>,
    release: mpsc::Sender<()>,
}

impl HeldSync {
    /// Waits until the disk is asked to sync.
    pub(super) async fn begun(&self) {
        let _held = super::clock::hold();
        while self.begun.lock().unwrap().try_recv().is_err() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn release(self) {
        // The writer waits for it.
        let _ = self.release.send(());
    }
}

impl CheckpointStore for SlowStore {
    fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        self.inner.get(key)
    }

    fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        if let Some(batch) = self.before_scan.lock().unwrap().take() {
            self.inner.apply(&batch)?;
        }
        self.inner.scan(scan)
    }

    fn keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError> {
        self.inner.keys(scan)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.inner.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let hold = self.holds.lock().unwrap().pop();
        if let Some((begin, released)) = hold {
            let _ = begin.send(());
            let _ = released.recv();
        }
        self.inner.sync()
    }

    fn maintain(&self) -> Result<bool, StoreError> {
        self.inner.maintain()
    }

    fn compact(&self) -> Result<(), StoreError> {
        self.inner.compact()
    }

    fn fence(&self) -> Result<(), StoreError> {
        self.inner.fence()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn damaged(&self, prefix: &Prefix) -> Result<Vec<Key>, StoreError> {
        self.inner.damaged(prefix)
    }

    fn previous(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.inner.previous(key)
    }

    fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, StoreError> {
        self.inner.check(progress)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
