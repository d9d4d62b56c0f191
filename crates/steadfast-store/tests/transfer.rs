//! Stores as text and back, checks, and stores that are only read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop where it is")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use steadfast_store::{
    Batch, CheckpointStore, Key, OpenOptions, Prefix, Record, Scan, SledStore, StoreError, TransferError, export,
    import,
};

fn open(dir: &Path) -> SledStore {
    let (store, report) = SledStore::open(dir, &OpenOptions::default()).unwrap();
    assert_eq!(report.actions, [""; 0]);
    store
}

fn record(text: &str) -> Record {
    Record { tag: 900, version: 3, payload: text.as_bytes().to_vec() }
}

fn save(store: &SledStore, name: &str, text: &str) {
    let mut batch = Batch::new();
    batch.put_keeping_previous(Key::meta(name), record(text)).put(Key::counter(name), record(""));
    store.apply(&batch).and_then(|()| store.sync()).unwrap();
}

fn sample(dir: &Path) {
    let store = open(dir);
    save(&store, "a", "one");
    save(&store, "b", &"large ".repeat(5000));
    save(&store, "a", "two");
}

fn exported(dir: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    export(&open(dir), &mut text, &mut |_, _| ()).unwrap();
    text
}

fn imported(dir: &Path, text: &[u8]) -> Result<u64, TransferError> {
    import(dir, Duration::ZERO, &mut &text[..], &mut |_, _| ())
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn what_was_exported_and_imported_is_exported_byte_by_byte_the_same() {
    let base = tempfile::tempdir().unwrap();
    let (one, two) = (base.path().join("one"), base.path().join("two"));
    sample(&one);
    let text = exported(&one);
    assert_eq!(imported(&two, &text).unwrap(), 4);
    assert_eq!(exported(&two), text);
    let store = open(&two);
    assert_eq!(store.get(&Key::meta("a")).unwrap().unwrap().record, record("two"));
    assert_eq!(store.previous(&Key::meta("a")).unwrap(), Some(record("one")));
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines[0], br#"{"steadfast-store":1}"#);
    let a = br#"{"key":"m/a","tag":900,"version":3,"payload":"74776f","previous":{"tag":900,"version":3,"payload":"6f6e65"}}"#;
    assert_eq!(lines[3], a);
    assert!(lines[5].starts_with(br#"{"records":4,"crc32":""#));
    assert!(!base.path().join("two.import").exists() && !base.path().join("two.empty").exists());
}

#[test]
fn an_export_that_is_cut_or_changed_in_any_place_is_refused_and_nothing_is_written() {
    let base = tempfile::tempdir().unwrap();
    let one = base.path().join("one");
    let store = open(&one);
    save(&store, "a", "one");
    drop(store);
    let text = exported(&one);
    let to = base.path().join("to");
    for at in 0..text.len() {
        let mut flipped = text.clone();
        flipped[at] ^= 1;
        for wrong in [&text[..at], &flipped] {
            let error = imported(&to, wrong).unwrap_err();
            assert!(matches!(error, TransferError::Line { .. }), "{at}: {error}");
            assert!(!to.exists(), "{at}");
        }
    }
    let more = [text.as_slice(), b"\n"].concat();
    assert!(imported(&to, &more).unwrap_err().to_string().contains("follows"));
    let newer = br#"{"steadfast-store":2}"#;
    assert!(imported(&to, &[newer.as_slice(), b"\n"].concat()).unwrap_err().to_string().contains("newer program"));
}

#[test]
fn a_store_that_holds_something_is_not_imported_over_and_an_empty_or_open_one_is_told_apart() {
    let base = tempfile::tempdir().unwrap();
    let (one, two, three) = (base.path().join("one"), base.path().join("two"), base.path().join("three"));
    sample(&one);
    let text = exported(&one);
    let store = open(&two);
    save(&store, "mine", "kept");
    assert!(matches!(imported(&two, &text), Err(TransferError::Store(StoreError::Locked { .. }))));
    drop(store);
    assert!(matches!(imported(&two, &text), Err(TransferError::NotEmpty { records: 2, .. })));
    assert_eq!(open(&two).get(&Key::meta("mine")).unwrap().unwrap().record, record("kept"));
    drop(open(&three));
    assert_eq!(imported(&three, &text).unwrap(), 4);
    assert_eq!(exported(&three), text);
}

#[test]
fn a_store_that_is_only_read_shows_everything_and_stays_as_it_is_on_disk() {
    let base = tempfile::tempdir().unwrap();
    let (one, killed) = (base.path().join("one"), base.path().join("killed"));
    sample(&one);
    let store = open(&one);
    save(&store, "c", "in the journal");
    // As a crash leaves it: with writes in the journal.
    fs::create_dir_all(killed.join("sled/blobs")).unwrap();
    for (path, bytes) in files(&one) {
        fs::write(killed.join(path.strip_prefix(&one).unwrap()), bytes).unwrap();
    }
    drop(store);
    let before = files(&killed);
    let (store, report) = SledStore::open_for_reading(&killed, &OpenOptions::default()).unwrap();
    assert_eq!(report.actions, [""; 0]);
    assert_eq!(store.get(&Key::meta("c")).unwrap().unwrap().record, record("in the journal"));
    assert_eq!(store.keys(&Scan::all(Prefix::everything())).unwrap().len(), 6);
    assert!(store.check(&mut |_, _| ()).unwrap().is_sound());
    let mut batch = Batch::new();
    batch.put(Key::meta("d"), record("no"));
    assert_eq!(store.apply(&batch), Err(StoreError::ReadOnly { path: killed.clone() }));
    let mut second = SledStore::open(&killed, &OpenOptions::default());
    assert!(matches!(second, Err(StoreError::Locked { .. })), "its lock is held");
    drop(store);
    assert_eq!(files(&killed), before);
    second = SledStore::open(&killed, &OpenOptions::default());
    assert!(second.is_ok());
    let missing = SledStore::open_for_reading(&base.path().join("none"), &OpenOptions::default());
    assert!(matches!(missing, Err(StoreError::Missing { .. })));
}

#[test]
fn a_check_counts_what_is_there() {
    let base = tempfile::tempdir().unwrap();
    sample(base.path());
    let mut seen = Vec::new();
    let check = open(base.path()).check(&mut |done, all| seen.push((done, all))).unwrap();
    assert_eq!((check.records, check.previous, check.payload_bytes), (4, 1, 30_006));
    assert!(check.is_sound());
    assert_eq!(seen.last(), Some(&(5, 5)));
}
