use super::*;
use crate::key::Prefix;
use crate::record::{RecordKind, encode};

/// Is called at each step of a store.
pub(super) type Watch = Box<dyn FnMut(Step) + Send>;

const KIND: RecordKind = RecordKind::new(900, 1, "sample");

/// A program that another test starts holds the lock of a store that is closed until it is really begun.
pub(super) const PATIENT: OpenOptions = OpenOptions { lock_wait: Duration::from_secs(20) };

fn open(dir: &Path) -> (SledStore, OpenReport) {
    SledStore::open(dir, &PATIENT).expect("opens")
}

/// Folds everything, and waits for it.
pub(super) fn fold(store: &SledStore) {
    while store.maintain().expect("folds") {
        std::thread::yield_now();
    }
}

/// Calls with sled's database below the store.
pub(super) fn below<T>(store: &SledStore, work: impl FnOnce(&sled::Db) -> T) -> T {
    work(store.inner.tree_lock().as_ref().expect("open").db())
}

fn put(store: &SledStore, name: &str, text: &str) {
    let mut batch = Batch::new();
    batch.put_keeping_previous(Key::meta(name), encode(KIND, text).expect("fits"));
    store.apply(&batch).and_then(|()| store.sync()).expect("saved");
}

fn get(store: &SledStore, name: &str) -> Option<String> {
    store.get(&Key::meta(name)).expect("reads").map(|found| found.value(KIND).expect("decodes"))
}

#[test]
fn what_was_synced_is_there_after_opening_again_and_the_epoch_has_risen() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, report) = open(dir.path());
    assert_eq!((store.epoch(), report), (1, OpenReport::default()));
    put(&store, "a", "one");
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!((store.epoch(), get(&store, "a")), (2, Some("one".to_owned())));
}

#[test]
fn a_journal_gives_the_space_of_a_busy_time_back_when_nothing_is_saved_any_more() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let large = "x".repeat(1 << 20);
    let longest = |dir: &Path| {
        let length = |name| std::fs::metadata(dir.join(name)).map_or(0, |data| data.len());
        length("journal-0").max(length("journal-1"))
    };
    for _ in 0..2 {
        (0..6).for_each(|_| put(&store, "a", &large));
        assert!(longest(dir.path()) > 6 << 20);
        fold(&store);
        assert!(longest(dir.path()) <= 4 << 20);
    }
    put(&store, "b", "kept");
    std::mem::forget(store);
    // As a killed process leaves it: the shorter files do not pass for damaged ones.
    let copy = tempfile::tempdir().expect("temporary directory");
    super::heal::copy_all(dir.path(), &copy.path().join("store")).expect("copied");
    let (store, report) = open(&copy.path().join("store"));
    assert_eq!((report, get(&store, "b")), (OpenReport::default(), Some("kept".to_owned())));
}

#[test]
fn compacting_gives_the_space_of_removed_records_back_at_once_and_keeps_the_others() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    // Random, so that nothing can be packed.
    let text: String = std::iter::repeat_with(fastrand::alphanumeric).take(8 << 10).collect();
    let name = |at: usize| format!("r{at:04}");
    (0..1_000).for_each(|at| put(&store, &name(at), &text));
    let mut batch = Batch::new();
    for at in 0..900 {
        batch.delete(Key::meta(&name(at)));
    }
    store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    fold(&store);
    let before = store.usage();
    store.compact().expect("compacts");
    let after = store.usage();
    assert_eq!(after.live_bytes, before.live_bytes);
    assert!(after.disk_bytes + (2 << 20) < before.disk_bytes, "{before:?}, {after:?}");
    put(&store, "later", "saved");
    drop(store);
    let (store, report) = open(dir.path());
    assert_eq!(report, OpenReport::default());
    assert!((900..1_000).all(|at| get(&store, &name(at)).as_deref() == Some(&text)));
    assert_eq!(get(&store, "later").as_deref(), Some("saved"));
}

#[test]
fn a_large_record_is_kept_in_parts_and_leaves_none_behind_when_it_shrinks_or_goes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let large = "x".repeat(200_000);
    put(&store, "a", &large);
    fold(&store);
    put(&store, "a", &format!("{large}y"));
    fold(&store);
    assert_eq!(get(&store, "a").map(|text| text.len()), Some(200_001));
    put(&store, "a", "small");
    put(&store, "a", "smaller");
    fold(&store);
    assert_eq!(below(&store, |db| db.scan_prefix(b"~/").count()), 0, "no part is left");
    let mut batch = Batch::new();
    batch.delete_all(Prefix::metas());
    store.apply(&batch).expect("applied");
    fold(&store);
    let is_own = |key: sled::IVec| key.starts_with(b"!");
    let is_left = below(&store, |db| db.iter().keys().any(|key| !is_own(key.expect("reads"))));
    assert!(!is_left, "only the store's own records are left");
}

#[test]
fn a_record_that_does_not_verify_is_set_aside_and_the_previous_one_is_used() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    put(&store, "a", "one");
    put(&store, "a", "two");
    fold(&store);
    below(&store, |db| {
        let mut bytes = db.get("m/a").expect("reads").expect("is there").to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        db.insert("m/a", bytes).expect("written");
    });
    let found = store.get(&Key::meta("a")).expect("reads").expect("is there");
    assert_eq!(found.value::<String>(KIND), Ok("one".to_owned()));
    let aside = found.set_aside.expect("told");
    assert!(aside.previous_used && aside.reason.contains("checksum"), "{aside:?}");
    assert!(store.get(&Key::meta("a")).expect("reads").expect("is there").set_aside.is_none(), "told once");
    assert_eq!(get(&store, "a"), Some("one".to_owned()));
}

#[test]
fn a_record_without_a_previous_one_is_a_clear_error_and_then_gone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    put(&store, "a", "one");
    put(&store, "b", "kept");
    fold(&store);
    below(&store, |db| db.insert("m/a", b"rubbish").expect("written"));
    let scanned = store.scan(&Scan::all(Prefix::metas())).expect("scans");
    assert_eq!((scanned.entries.len(), scanned.set_aside.len()), (1, 1));
    assert_eq!(get(&store, "a"), None);
}

#[test]
fn a_check_names_what_does_not_verify_what_was_set_aside_and_what_is_missing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    for name in ["a", "b", "c", "d"] {
        put(&store, name, name);
    }
    fold(&store);
    assert!(store.check(&mut |_, _| ()).expect("checks").is_sound());
    below(&store, |db| {
        db.insert("m/a", b"rubbish").expect("written");
        db.insert("m/b", b"rubbish").expect("written");
        db.remove("m/c").expect("removed");
    });
    assert!(store.get(&Key::meta("a")).is_err(), "a reader sets it aside");
    let check = store.check(&mut |_, _| ()).expect("checks");
    assert!(!check.is_sound());
    assert_eq!(check.damaged, [("m/b".to_owned(), "it has no envelope".to_owned())]);
    assert_eq!((check.set_aside, check.missing, check.records), (vec![Key::meta("a")], 1, 1));
    assert_eq!(store.damaged(&Prefix::metas_named("a")).expect("reads"), [Key::meta("a")]);
}

#[test]
fn what_was_set_aside_of_a_session_goes_with_its_head_and_not_before() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let session = steadfast_core::ids::SessionId::new(1, 1);
    let (head, part) = (Key::session_head(&session), Key::session_part(&session, "plan"));
    let mut batch = Batch::new();
    for key in [&head, &part] {
        batch.put(key.clone(), encode(KIND, "text").expect("fits"));
    }
    store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    fold(&store);
    below(&store, |db| db.insert(part.as_str(), b"rubbish").expect("written"));
    assert!(store.get(&part).is_err());
    let aside = |store: &SledStore| store.damaged(&Prefix::everything()).expect("reads").len();
    for (key, left) in [(None, 1), (Some(head), 0)] {
        let mut batch = Batch::new();
        batch.delete_all(Prefix::session_parts(&session));
        if let Some(key) = key {
            batch.delete(key);
        }
        store.apply(&batch).and_then(|()| store.sync()).expect("saved");
        fold(&store);
        assert_eq!(aside(&store), left);
    }
}

#[test]
fn a_file_that_a_forked_child_still_holds_is_waited_for_and_not_taken_for_damaged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    put(&store, "a", "one");
    drop(store);
    let held = File::open(dir.path().join("sled/db")).expect("opens");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let path = dir.path().to_owned();
    let opening = std::thread::spawn(move || open(&path).1);
    // However far the other thread has come by now, it ends well.
    std::thread::yield_now();
    drop(held);
    assert_eq!(opening.join().expect("no panic"), OpenReport::default());
}

#[test]
fn a_batch_sees_its_own_changes_in_order() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let record = |text: &str| encode(KIND, text).expect("fits");
    let mut batch = Batch::new();
    batch.put(Key::meta("a"), record("1")).put(Key::meta("b"), record("2"));
    batch.delete_all(Prefix::metas()).put(Key::meta("c"), record("3"));
    store.apply(&batch).expect("applied");
    let keys = store.keys(&Scan::all(Prefix::metas())).expect("scans");
    assert_eq!(keys, [Key::meta("c")]);
}

#[test]
fn scans_go_both_ways_with_a_limit_and_a_place_to_go_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    for name in ["a", "b", "c", "d"] {
        put(&store, name, name);
    }
    let names = |scan: Scan| -> Vec<String> {
        store.keys(&scan).expect("scans").iter().map(|key| key.name().to_owned()).collect()
    };
    assert_eq!(names(Scan::newest(Prefix::metas(), 2)), ["d", "c"]);
    assert_eq!(names(Scan::newest(Prefix::metas(), 2).after(Key::meta("c"))), ["b", "a"]);
    assert_eq!(names(Scan::first(Prefix::metas(), 2).after(Key::meta("b"))), ["c", "d"]);
}

#[test]
fn a_second_opening_is_refused_with_the_holder_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_held, _) = open(dir.path());
    let refused = SledStore::open(dir.path(), &OpenOptions::default()).err().expect("refused");
    assert!(refused.to_string().contains(&format!("in use by process {}", std::process::id())), "{refused}");
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let newer = [99u32.to_le_bytes().as_slice(), 1u64.to_le_bytes().as_slice()].concat();
    below(&store, |db| db.insert(STORE_KEY, newer.clone()).expect("written"));
    drop(store);
    let refused = SledStore::open(dir.path(), &OpenOptions::default()).err().expect("refused");
    assert!(matches!(refused, StoreError::NewerStore { found: 99, known: 1, .. }), "{refused}");
}

#[test]
fn a_snapshot_that_was_cut_off_is_removed_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    put(&store, "a", "one");
    drop(store);
    let path = dir.path().join("sled");
    // What a kill in the middle of a recovery leaves: an unfinished snapshot, or one that is cut off.
    fs::write(path.join("snap.00000000000000FF"), b"cut").expect("written");
    fs::write(path.join("snap.0000000000000100.generating"), b"cut").expect("written");
    let (store, report) = open(dir.path());
    assert_eq!(get(&store, "a"), Some("one".to_owned()), "{report:?}");
    assert!(!report.lost, "{report:?}");
}

#[test]
fn damaged_files_are_mended_or_set_aside_with_a_word_about_it_and_never_panic() {
    let base = tempfile::tempdir().expect("temporary directory");
    let whole = base.path().join("whole");
    let (store, _) = open(&whole);
    for number in 0..200 {
        put(&store, &format!("k{number}"), &"v".repeat(500));
    }
    drop(store);
    let names: Vec<String> = fs::read_dir(whole.join("sled"))
        .expect("lists")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| whole.join("sled").join(name).is_file())
        .collect();
    let mut round = 0;
    for name in names {
        for damage in 0..4 {
            round += 1;
            let copy = base.path().join(format!("copy-{round}"));
            fs::create_dir_all(copy.join("sled")).expect("made");
            for entry in fs::read_dir(whole.join("sled")).expect("lists") {
                let entry = entry.expect("entry");
                if entry.path().is_file() {
                    fs::copy(entry.path(), copy.join("sled").join(entry.file_name())).expect("copied");
                }
            }
            fs::copy(whole.join("epoch"), copy.join("epoch")).expect("copied");
            let victim = copy.join("sled").join(&name);
            let mut bytes = fs::read(&victim).expect("reads");
            match damage {
                0 => bytes.clear(),
                1 => bytes.truncate(bytes.len() / 2),
                2 => {
                    let at = bytes.len() / 3;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 0x10;
                    }
                }
                _ => bytes.iter_mut().take(64).for_each(|byte| *byte = 0xff),
            }
            fs::write(&victim, bytes).expect("written");
            let (store, report) = SledStore::open(&copy, &PATIENT).expect("opens somehow");
            let left = store.keys(&Scan::all(Prefix::metas())).expect("scans").len();
            // A single flipped bit may hit what sled no longer needs, or cut its log without a trace.
            assert!(left == 200 || !report.actions.is_empty() || damage == 2, "{name} {damage}: {left} {report:?}");
            put(&store, "after", "works");
            assert_eq!(get(&store, "after"), Some("works".to_owned()));
        }
    }
}

/// Somebody removed the lock, or works in a copy of it: the process that was thought dead must not say that anything was saved.
#[test]
fn a_process_whose_store_was_opened_by_another_one_changes_nothing_any_more() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    put(&store, "before", "kept");
    assert_eq!(store.fence(), Ok(()));
    Witness::write_open(dir.path(), store.epoch() + 1, 1).expect("written");
    assert!(matches!(store.fence(), Err(StoreError::Fenced { .. })));
    let journal = || std::fs::read(dir.path().join("journal-1")).expect("there");
    let before = journal();
    let mut batch = Batch::new();
    batch.put_keeping_previous(Key::meta("after"), encode(KIND, "lost").expect("fits"));
    assert!(matches!(store.apply(&batch).and_then(|()| store.sync()), Err(StoreError::Fenced { .. })));
    assert!(matches!(store.sync(), Err(StoreError::Fenced { .. })));
    drop(store);
    assert!(journal() == before, "the journal was written to");
    let (next, _) = open(dir.path());
    assert_eq!((get(&next, "before").as_deref(), get(&next, "after")), (Some("kept"), None));
}
