//! One suite for both forms of the store: what holds on disk holds in the tests that use the one in memory.

use std::sync::Arc;

use steadfast_core::ids::SessionId;
use steadfast_store::{
    Batch, Check, CheckpointStore, Found, Key, MemoryStore, OpenOptions, Prefix, Record, RecordKind, Scan, Scanned,
    SledStore, StoreError, Usage, encode,
};

const KIND: RecordKind = RecordKind::new(100, 1, "sample");

/// A store and what has to live as long as it.
struct Form {
    store: Arc<dyn CheckpointStore>,
    _dir: Option<tempfile::TempDir>,
}

/// The store on disk, with its journal folded after every batch.
struct Folded(SledStore);

impl CheckpointStore for Folded {
    fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        self.0.get(key)
    }
    fn scan(&self, scan: &Scan) -> Result<Scanned, StoreError> {
        self.0.scan(scan)
    }
    fn keys(&self, scan: &Scan) -> Result<Vec<Key>, StoreError> {
        self.0.keys(scan)
    }
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.0.apply(batch)?;
        while self.0.maintain()? {
            std::thread::yield_now();
        }
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
    fn maintain(&self) -> Result<bool, StoreError> {
        self.0.maintain()
    }
    fn compact(&self) -> Result<(), StoreError> {
        self.0.compact()
    }
    fn fence(&self) -> Result<(), StoreError> {
        self.0.fence()
    }

    fn epoch(&self) -> u64 {
        self.0.epoch()
    }
    fn damaged(&self, prefix: &Prefix) -> Result<Vec<Key>, StoreError> {
        self.0.damaged(prefix)
    }
    fn previous(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.previous(key)
    }

    fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Check, StoreError> {
        self.0.check(progress)
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }
}

fn forms() -> [Form; 3] {
    let disk = || {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (store, _) = SledStore::open(dir.path(), &OpenOptions::default()).expect("opens");
        (store, Some(dir))
    };
    let ((journal, first), (folded, second)) = (disk(), disk());
    [
        Form { store: Arc::new(journal), _dir: first },
        Form { store: Arc::new(Folded(folded)), _dir: second },
        Form { store: Arc::new(MemoryStore::new()), _dir: None },
    ]
}

fn session(age: u64) -> SessionId {
    SessionId::new(1_700_000_000_000 + age, 1)
}

fn record(text: &str) -> Record {
    encode(KIND, text).expect("fits")
}

fn put(store: &dyn CheckpointStore, key: Key, text: &str) {
    let mut batch = Batch::new();
    batch.put(key, record(text));
    store.apply(&batch).expect("applies");
    store.sync().expect("syncs");
}

fn text(store: &dyn CheckpointStore, key: &Key) -> Option<String> {
    store.get(key).expect("reads").map(|found| found.value(KIND).expect("decodes"))
}

fn keys(store: &dyn CheckpointStore, scan: &Scan) -> Vec<String> {
    let scanned = store.scan(scan).expect("scans");
    assert!(scanned.set_aside.is_empty());
    let keys: Vec<String> = scanned.entries.iter().map(|(key, _)| key.to_string()).collect();
    let bare: Vec<String> = store.keys(scan).expect("lists").iter().map(Key::to_string).collect();
    assert_eq!(keys, bare);
    keys
}

#[test]
fn a_record_reads_back_and_a_missing_one_is_none() {
    for Form { store, .. } in &forms() {
        let key = Key::meta("one");
        assert_eq!(store.get(&key), Ok(None));
        put(&**store, key.clone(), "first");
        put(&**store, key.clone(), "second");
        assert_eq!(text(&**store, &key).as_deref(), Some("second"));
    }
}

#[test]
fn later_changes_of_a_batch_see_earlier_ones() {
    for Form { store, .. } in &forms() {
        let (one, two) = (Key::session_part(&session(1), "one"), Key::session_part(&session(1), "two"));
        put(&**store, one.clone(), "old");
        let mut batch = Batch::new();
        batch
            .put(two.clone(), record("in the batch"))
            .delete_all(Prefix::session_parts(&session(1)))
            .put(one.clone(), record("new"));
        store.apply(&batch).expect("applies");
        assert_eq!(text(&**store, &one).as_deref(), Some("new"));
        assert_eq!(text(&**store, &two), None);
    }
}

#[test]
fn scans_go_both_ways_in_pages() {
    for Form { store, .. } in &forms() {
        let mut batch = Batch::new();
        for age in 0..10 {
            batch.put(Key::session_head(&session(age)), record("head"));
            batch.put(Key::session_part(&session(age), "plan"), record("part"));
        }
        store.apply(&batch).expect("applies");
        let heads: Vec<String> = (0..10).map(|age| Key::session_head(&session(age)).to_string()).collect();
        let all = Scan::all(Prefix::session_heads());
        assert_eq!(keys(&**store, &all), heads);
        let newest = Scan::newest(Prefix::session_heads(), 3);
        let expected: Vec<String> = heads.iter().rev().take(3).cloned().collect();
        assert_eq!(keys(&**store, &newest), expected);
        let next = newest.after(Key::session_head(&session(7)));
        let expected: Vec<String> = heads.iter().rev().skip(3).take(3).cloned().collect();
        assert_eq!(keys(&**store, &next), expected);
        let later = Scan::first(Prefix::session_heads(), 4).after(Key::session_head(&session(7)));
        assert_eq!(keys(&**store, &later), heads[8..]);
    }
}

#[test]
fn a_page_behind_a_key_outside_the_prefix_is_whole_or_empty() {
    for Form { store, .. } in &forms() {
        put(&**store, Key::meta("m"), "m");
        let below = Key::breaker(&steadfast_core::ids::ModelId::new("a/b").expect("valid"));
        let above = Key::outbox("x");
        let names = || Scan { limit: 1, ..Scan::all(Prefix::metas()).after(Key::meta("l")) };
        assert_eq!(keys(&**store, &names()), ["m/m"]);
        let all = || Scan::all(Prefix::metas()).after(Key::meta("m"));
        assert!(!keys(&**store, &all()).contains(&"m/m".to_owned()));
        assert_eq!(
            keys(&**store, &Scan { limit: 1, ..Scan::newest(Prefix::metas(), 9).after(above.clone()) }),
            ["m/m"]
        );
        assert!(keys(&**store, &Scan::newest(Prefix::metas(), 9).after(below)).is_empty());
        assert!(keys(&**store, &Scan::all(Prefix::metas()).after(above)).is_empty());
    }
}

#[test]
fn the_parts_of_one_session_can_be_named_listed_and_removed() {
    for Form { store, .. } in &forms() {
        for name in ["plan", "m/001", "m/002", "a/m001/x.rs"] {
            put(&**store, Key::session_part(&session(1), name), name);
            put(&**store, Key::session_part(&session(2), name), name);
        }
        let named = Scan::all(Prefix::session_parts_named(&session(1), "m/"));
        assert_eq!(keys(&**store, &named).len(), 2);
        let mut batch = Batch::new();
        batch.delete_all(Prefix::session_parts(&session(1)));
        store.apply(&batch).expect("applies");
        assert!(keys(&**store, &Scan::all(Prefix::session_parts(&session(1)))).is_empty());
        assert_eq!(keys(&**store, &Scan::all(Prefix::session_parts(&session(2)))).len(), 4);
    }
}

#[test]
fn large_records_read_back() {
    for Form { store, .. } in &forms() {
        let long = "x".repeat(3 << 20);
        put(&**store, Key::meta("large"), &long);
        assert_eq!(text(&**store, &Key::meta("large")), Some(long));
    }
}

#[test]
fn usage_follows_what_is_alive() {
    for Form { store, .. } in &forms() {
        let before = store.usage().live_bytes;
        put(&**store, Key::meta("x"), &"x".repeat(1000));
        put(&**store, Key::meta("x"), &"y".repeat(1000));
        let grown = store.usage().live_bytes - before;
        assert!((1000..1200).contains(&grown), "{grown}");
        let mut batch = Batch::new();
        batch.delete(Key::meta("x"));
        store.apply(&batch).expect("applies");
        assert_eq!(store.usage().live_bytes, before);
    }
}

#[test]
fn an_empty_batch_changes_nothing() {
    for Form { store, .. } in &forms() {
        assert_eq!(store.apply(&Batch::new()), Ok(()));
        assert_eq!(store.sync(), Ok(()));
    }
}

#[test]
fn an_undecodable_record_is_told_by_the_reader_that_wants_it() {
    for Form { store, .. } in &forms() {
        put(&**store, Key::meta("x"), "x");
        let newer = RecordKind::new(100, 0, "sample");
        let found = store.get(&Key::meta("x")).expect("reads").expect("there");
        assert_eq!(found.value::<String>(newer), Err(StoreError::NewerVersion { kind: "sample", found: 1, known: 0 }));
    }
}
