//! Stops the store at every step, by copying its folder as it is then, and looks at what the copy holds.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;

use super::tests::{below, fold};
use super::*;
use crate::commit::GroupCommit;
use crate::key::Prefix;
use crate::memory::MemoryStore;
use crate::record::Record;
use crate::store::Order;

const SMALL: Limits = Limits { journal: 64 << 10, pending: 64 << 10, slack: 1 << 20 };
type Content = Vec<(Key, Record)>;

fn open(dir: &Path) -> (SledStore, OpenReport) {
    SledStore::open_with(dir, &super::tests::PATIENT, SMALL).expect("opens")
}

fn content(store: &dyn CheckpointStore) -> Content {
    let scanned = store.scan(&Scan::all(Prefix::everything())).expect("scans");
    assert!(scanned.set_aside.is_empty(), "{:?}", scanned.set_aside);
    scanned.entries
}

fn record(rng: &mut fastrand::Rng, bytes: usize) -> Record {
    Record { tag: 900, version: 1, payload: std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect() }
}

/// A batch over few keys, so that they meet again and again; some records are kept in parts.
fn batch(rng: &mut fastrand::Rng) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..rng.usize(1..5) {
        let key = Key::meta(&format!("{}/{}", rng.u8(0..4), rng.u8(0..12)));
        let bytes = if rng.u8(0..12) == 0 { rng.usize(0..40_000) } else { rng.usize(0..3000) };
        match rng.u8(0..16) {
            0..6 => batch.put(key, record(rng, bytes)),
            6..12 => batch.put_keeping_previous(key, record(rng, bytes)),
            12..15 => batch.delete(key),
            _ => batch.delete_all(Prefix::metas_named(&format!("{}/", rng.u8(0..4)))),
        };
    }
    batch
}

/// Copies a store that is in use: what a crash at this moment would leave. Journals come last, for they are what goes on.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    let mut entries: Vec<PathBuf> =
        fs::read_dir(from).expect("lists").map(|entry| entry.expect("entry").path()).collect();
    entries.sort_by_key(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal")));
    for path in entries {
        let target = to.join(path.file_name().expect("named"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else if path.file_name().is_some_and(|name| name != "lock") {
            // sled writes its snapshot to a name that is gone a moment later.
            let _ = fs::copy(&path, target);
        }
    }
}

struct Seen {
    step: Step,
    dir: PathBuf,
    /// What must be there: the first, or the second when it was being written.
    before: Content,
    after: Content,
}

/// Runs a workload and looks at a crash at (almost) every step.
fn crash_everywhere(seed: u64, n_batches: usize, most_of_a_kind: usize) -> Vec<Seen> {
    let base = tempfile::tempdir().expect("temporary directory");
    let dir = base.path().join("store");
    let (store, _) = open(&dir);
    let model = MemoryStore::new();
    let expected = Arc::new(Mutex::new((Content::new(), Content::new())));
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let watch = {
        let (dir, base, expected, seen) =
            (dir.clone(), base.path().to_owned(), Arc::clone(&expected), Arc::clone(&seen));
        move |step: Step| {
            let mut seen = seen.lock().expect("no panic");
            if seen.iter().filter(|seen| seen.step == step).count() < most_of_a_kind {
                let copy = base.join(format!("copy-{}", seen.len()));
                let (mut before, _) = expected.lock().expect("no panic").clone();
                copy_folder(&dir, &copy);
                let (_, after) = expected.lock().expect("no panic").clone();
                if step == Step::Synced {
                    before.clone_from(&after);
                }
                seen.push(Seen { step, dir: copy, before, after });
            }
        }
    };
    *store.inner.watch.lock().expect("no panic") = Some(Box::new(watch));
    let mut rng = fastrand::Rng::with_seed(seed);
    for number in 0..n_batches {
        let batch = batch(&mut rng);
        model.apply(&batch).expect("applies");
        {
            let mut expected = expected.lock().expect("no panic");
            expected.0 = expected.1.clone();
            expected.1 = content(&model);
        }
        store.apply(&batch).and_then(|()| store.sync()).expect("saved");
        store.settle(&mut store.writer()).expect("folds");
        assert!(content(&store) == content(&model), "batch {number}");
        if rng.u8(0..20) == 0 {
            fold(&store);
            assert!(content(&store) == content(&model), "batch {number}, folded");
        }
    }
    *store.inner.watch.lock().expect("no panic") = None;
    drop(store);
    let (store, report) = open(&dir);
    assert!(content(&store) == content(&model) && report == OpenReport::default(), "{report:?}");
    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    for seen in &seen {
        let (store, report) = open(&seen.dir);
        let found = content(&store);
        assert!(found == seen.before || found == seen.after, "{:?}: not what was saved", seen.step);
        assert_eq!(report, OpenReport::default(), "{:?}", seen.step);
        assert_eq!(store.epoch(), 2);
        drop(store);
        assert!(content(&open(&seen.dir).0) == found, "{:?}: opening again changed it", seen.step);
    }
    seen
}

#[test]
fn a_crash_at_any_step_keeps_what_was_synced_and_nothing_half() {
    for seed in 1..3 {
        let seen = crash_everywhere(seed, 100, 4);
        for step in [Step::Synced, Step::Frozen, Step::PieceFolded, Step::TreeSynced, Step::Retired] {
            assert!(seen.iter().any(|seen| seen.step == step), "{step:?} was not met");
        }
    }
}

#[test]
fn space_comes_back_after_deletions_and_a_crash_on_the_way_loses_nothing() {
    let base = tempfile::tempdir().expect("temporary directory");
    let dir = base.path().join("store");
    let (store, _) = open(&dir);
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 0..160 {
        let mut batch = Batch::new();
        batch.put(Key::meta(&format!("{number:04}")), record(&mut rng, 60_000));
        store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    }
    fold(&store);
    let full = store.usage().disk_bytes;
    let mut batch = Batch::new();
    batch.delete_all(Prefix::metas_named("00")).put(Key::meta("kept"), record(&mut rng, 9000));
    batch.put_keeping_previous(Key::meta("0159"), record(&mut rng, 9000));
    store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    let expected = content(&store);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let watch = {
        let (dir, base, steps) = (dir.clone(), base.path().to_owned(), Arc::clone(&steps));
        move |step: Step| {
            if matches!(step, Step::Copied | Step::OldAside | Step::Swapped) {
                copy_folder(&dir, &base.join(format!("{step:?}")));
                steps.lock().expect("no panic").push(step);
            }
        }
    };
    *store.inner.watch.lock().expect("no panic") = Some(Box::new(watch));
    fold(&store);
    *store.inner.watch.lock().expect("no panic") = None;
    assert_eq!(*steps.lock().expect("no panic"), [Step::Copied, Step::OldAside, Step::Swapped]);
    assert!(content(&store) == expected);
    let mut batch = Batch::new();
    batch.put(Key::meta("later"), record(&mut rng, 9000));
    store.apply(&batch).and_then(|()| store.sync()).expect("still works");
    let usage = store.usage();
    let limit = 2 * usage.live_bytes + SMALL.slack + 2 * RESERVED;
    assert!(usage.disk_bytes < limit && limit < full, "{full} before, now {usage:?}");
    for step in [Step::Copied, Step::OldAside, Step::Swapped] {
        let copy = base.path().join(format!("{step:?}"));
        let (store, report) = open(&copy);
        assert!(content(&store) == expected && report == OpenReport::default(), "{step:?}: {report:?}");
        assert!(!copy.join("sled.new").exists() && !copy.join("sled.old").exists(), "{step:?}");
    }
}

/// A journal file that was never full.
const RESERVED: u64 = 4 << 20;

#[test]
fn the_journal_is_forgotten_only_after_the_tree_is_on_disk() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let watch = Arc::clone(&steps);
    *store.inner.watch.lock().expect("no panic") =
        Some(Box::new(move |step| watch.lock().expect("no panic").push(step)));
    let mut batch = Batch::new();
    batch.put(Key::meta("a"), record(&mut fastrand::Rng::with_seed(1), 10));
    store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    fold(&store);
    let expected = [Step::Synced, Step::Frozen, Step::PieceFolded, Step::TreeSynced, Step::Retired];
    assert_eq!(*steps.lock().expect("no panic"), expected);
}

/// Found by killing the program twice: in the middle of a folding, and before the small file of the next opening is written.
#[test]
fn two_crashes_around_an_empty_journal_look_like_no_loss() {
    let base = tempfile::tempdir().expect("temporary directory");
    let (first, second, third) = (base.path().join("1"), base.path().join("2"), base.path().join("3"));
    let (store, _) = open(&first);
    let mut batch = Batch::new();
    batch.put(Key::meta("a"), record(&mut fastrand::Rng::with_seed(1), 10));
    store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    fold(&store);
    // The journal that takes the writes is empty, and the small file names it.
    let expected = content(&store);
    copy_folder(&first, &second);
    let (again, report) = open(&second);
    assert_eq!(report, OpenReport::default());
    copy_folder(&second, &third);
    fs::copy(first.join("epoch"), third.join("epoch")).expect("the small file as it was before");
    drop(again);
    let (found, report) = open(&third);
    assert_eq!(report, OpenReport::default());
    assert!(content(&found) == expected);
}

/// A store with `n` batches in its journal as a crash leaves it; answers what it must hold after each of them.
fn crashed(base: &Path, n: usize) -> (PathBuf, Vec<Content>) {
    let (store, _) = open(&base.join("store"));
    let mut rng = fastrand::Rng::with_seed(3);
    let mut expected = vec![Content::new()];
    for number in 0..n {
        let mut batch = Batch::new();
        batch.put(Key::meta(&format!("{number}")), record(&mut rng, 1000 + 4000 * (number % 2)));
        batch.put_keeping_previous(Key::meta("head"), record(&mut rng, 10));
        store.apply(&batch).and_then(|()| store.sync()).expect("saved");
        expected.push(content(&store));
    }
    let copy = base.join("crashed");
    copy_folder(&base.join("store"), &copy);
    (copy, expected)
}

fn journal_file(dir: &Path) -> PathBuf {
    ["journal-0", "journal-1"].iter().map(|name| dir.join(name)).find(|path| path.exists()).expect("a journal")
}

/// Where the frames begin.
fn frames(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).expect("reads");
    let is_frame = |at: &usize| bytes[*at..].starts_with(b"SFF1");
    (0..bytes.len()).step_by(journal::BLOCK as usize).filter(is_frame).map(|at| at as u64).collect()
}

#[test]
fn a_last_write_that_was_cut_off_is_the_normal_end_of_a_crash() {
    let base = tempfile::tempdir().expect("temporary directory");
    let (crashed, expected) = crashed(base.path(), 4);
    let last = *frames(&journal_file(&crashed)).last().expect("frames");
    for kept in [0, 1, 20, 35, 36, 100, 4000, 4096, 5000] {
        let copy = base.path().join(format!("torn-{kept}"));
        copy_folder(&crashed, &copy);
        let file = File::options().write(true).open(journal_file(&copy)).expect("opens");
        file.write_all_at(&vec![0; 8192 - kept], last + kept as u64).expect("written");
        let (store, report) = open(&copy);
        assert!(content(&store) == expected[3] && !report.lost, "{kept} bytes: {report:?}");
        // Two of the three signs of a frame are there from the twentieth byte on; then it is told.
        assert_eq!(report.actions.len(), usize::from(kept >= 20), "{kept} bytes: {report:?}");
    }
}

#[test]
fn a_damaged_write_in_the_middle_is_told_and_costs_only_itself() {
    let base = tempfile::tempdir().expect("temporary directory");
    let (crashed, expected) = crashed(base.path(), 4);
    let second = frames(&journal_file(&crashed))[1];
    for offset in [0, 5, 9, 17, 33, 50, 5000] {
        let copy = base.path().join(format!("flipped-{offset}"));
        copy_folder(&crashed, &copy);
        flip(&journal_file(&copy), second + offset);
        let (store, report) = open(&copy);
        let kept: Content = expected[4].iter().filter(|(key, _)| key.name() != "1").cloned().collect();
        assert!(content(&store) == kept, "{offset}");
        assert!(report.actions.len() == 1 && report.actions[0].contains("damaged in 1 place"), "{report:?}");
        assert!(copy.join("broken-1").join(journal_file(&crashed).file_name().expect("named")).exists());
        drop(store);
        let (store, report) = open(&copy);
        assert!(content(&store) == kept && report == OpenReport::default(), "told once: {report:?}");
    }
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
}

#[test]
fn a_damaged_beginning_or_a_cut_journal_is_told_and_the_writes_are_kept() {
    let base = tempfile::tempdir().expect("temporary directory");
    let (crashed, expected) = crashed(base.path(), 4);
    let headless = base.path().join("headless");
    copy_folder(&crashed, &headless);
    flip(&journal_file(&headless), 10);
    let (store, report) = open(&headless);
    assert!(content(&store) == expected[4] && report.actions.len() == 1, "{report:?}");
    assert_eq!(store.epoch(), 2);

    let cut = base.path().join("cut");
    copy_folder(&crashed, &cut);
    let last = *frames(&journal_file(&cut)).last().expect("frames");
    File::options().write(true).open(journal_file(&cut)).and_then(|file| file.set_len(last)).expect("cut");
    let (store, report) = open(&cut);
    assert!(content(&store) == expected[3]);
    assert!(report.actions.len() == 1 && report.actions[0].contains("cut off"), "{report:?}");

    let gone = base.path().join("gone");
    copy_folder(&crashed, &gone);
    fs::remove_file(journal_file(&gone)).expect("removed");
    let (store, report) = open(&gone);
    assert!(content(&store).is_empty() && report.lost, "{report:?}");
}

#[test]
fn any_damage_to_a_journal_ends_in_a_store_that_works() {
    let base = tempfile::tempdir().expect("temporary directory");
    let (crashed, expected) = crashed(base.path(), 6);
    let mut rng = fastrand::Rng::with_seed(11);
    for round in 0..20 {
        let copy = base.path().join(format!("round-{round}"));
        copy_folder(&crashed, &copy);
        let path = journal_file(&copy);
        let length = frames(&path).last().expect("frames") + 8192;
        let file = File::options().write(true).open(&path).expect("opens");
        for _ in 0..rng.usize(1..4) {
            match rng.u8(0..3) {
                0 => flip(&path, rng.u64(0..length)),
                1 => file.write_all_at(&vec![rng.u8(..); rng.usize(1..9000)], rng.u64(0..length)).expect("written"),
                _ => file.set_len(rng.u64(0..length)).and_then(|()| file.set_len(length)).expect("cut"),
            }
        }
        let (store, _) = open(&copy);
        let known: Vec<&(Key, Record)> = expected.iter().flatten().collect();
        for entry in content(&store) {
            assert!(known.contains(&&entry), "round {round}: {} was never saved like this", entry.0);
        }
        let mut batch = Batch::new();
        batch.put(Key::meta("after"), record(&mut rng, 10));
        store.apply(&batch).and_then(|()| store.sync()).expect("works");
        drop(store);
        assert!(open(&copy).0.get(&Key::meta("after")).expect("reads").is_some());
    }
}

#[test]
fn a_journal_of_a_newer_format_is_refused_and_left_alone() {
    let base = tempfile::tempdir().expect("temporary directory");
    let (crashed, _) = crashed(base.path(), 2);
    let path = journal_file(&crashed);
    let mut header = fs::read(&path).expect("reads");
    header[4..8].copy_from_slice(&99u32.to_le_bytes());
    let sum = crc32fast::hash(&header[..24]);
    header[24..28].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, &header).expect("written");
    let refused = SledStore::open(&crashed, &OpenOptions::default()).err().expect("refused");
    assert!(matches!(refused, StoreError::NewerStore { found: 99, known: 1, .. }), "{refused}");
    assert_eq!(fs::read(&path).expect("reads"), header);
}

#[test]
fn a_previous_record_outlives_folds_and_crashes_between_the_two_writes() {
    for (fold_first, fold_second) in [(false, false), (true, false), (false, true), (true, true)] {
        let base = tempfile::tempdir().expect("temporary directory");
        let dir = base.path().join("store");
        let (store, _) = open(&dir);
        let mut rng = fastrand::Rng::with_seed(5);
        let (one, two) = (record(&mut rng, 6000), record(&mut rng, 7000));
        for (record, folds) in [(&one, fold_first), (&two, fold_second)] {
            let mut batch = Batch::new();
            batch.put_keeping_previous(Key::meta("a"), record.clone());
            store.apply(&batch).and_then(|()| store.sync()).expect("saved");
            if folds {
                fold(&store);
            }
        }
        let copy = base.path().join("copy");
        copy_folder(&dir, &copy);
        let (store, _) = open(&copy);
        fold(&store);
        below(&store, |db| db.insert("m/a", b"rubbish").expect("written"));
        let found = store.get(&Key::meta("a")).expect("reads").expect("there");
        assert!(found.record == one && found.set_aside.is_some(), "folds {fold_first} {fold_second}");
    }
}

#[test]
fn readers_see_whole_records_that_never_go_back_while_the_journal_is_folded() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let value = |number: u64| Record { tag: 900, version: 1, payload: number.to_le_bytes().repeat(3000) };
    let done = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for key in 0..2u8 {
            let (store, done, reads) = (&store, &done, &reads);
            scope.spawn(move || {
                let mut newest = 0;
                while !done.load(Ordering::Acquire) || reads.load(Ordering::Acquire) < 10 {
                    let scan = Scan { order: Order::Descending, ..Scan::all(Prefix::metas_named(&format!("{key}"))) };
                    for (_, record) in store.scan(&scan).expect("scans").entries {
                        let number = u64::from_le_bytes(record.payload[..8].try_into().expect("eight"));
                        assert!(number >= newest && record == value(number), "{number} after {newest}");
                        newest = number;
                    }
                    reads.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        for number in 1..150u64 {
            let mut batch = Batch::new();
            batch.put_keeping_previous(Key::meta("0"), value(number)).put(Key::meta("1"), value(number));
            store.apply(&batch).and_then(|()| store.sync()).expect("saved");
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn the_largest_record_goes_through_the_journal_and_back() {
    let base = tempfile::tempdir().expect("temporary directory");
    let dir = base.path().join("store");
    let (store, _) = SledStore::open(&dir, &OpenOptions::default()).expect("opens");
    let large = record(&mut fastrand::Rng::with_seed(9), crate::record::MAX_PAYLOAD_BYTES);
    for name in ["a", "b"] {
        let mut batch = Batch::new();
        batch.put(Key::meta(name), large.clone());
        store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    }
    // A crash leaves one instant of every file; a copy that takes a while must not meet the folding.
    store.settle(&mut store.writer()).expect("folds");
    let copy = base.path().join("copy");
    copy_folder(&dir, &copy);
    for dir in [&copy, &dir] {
        if dir == &dir.parent().expect("parent").join("store") {
            fold(&store);
            assert_eq!(store.get(&Key::meta("a")).expect("reads").expect("there").record, large);
        } else {
            let (store, report) = open(dir);
            assert_eq!(report, OpenReport::default());
            assert_eq!(store.get(&Key::meta("b")).expect("reads").expect("there").record, large);
        }
    }
}

#[test]
fn a_failed_sync_gives_the_store_up() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (store, _) = open(dir.path());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut batch = Batch::new();
    batch.put(Key::meta("a"), record(&mut rng, 10));
    store.apply(&batch).expect("applied");
    store.writer().journal.fail_next();
    assert!(matches!(store.sync(), Err(StoreError::Sync { .. })));
    assert_eq!(store.apply(&batch), Err(StoreError::Broken));
    drop(store);
    assert!(content(&open(dir.path()).0).is_empty(), "it was never acknowledged");
}

const CHILD: &str = "STEADFAST_STORE_TEST_CHILD";

/// Not a test of its own: the process that is killed below. Says each number after it is on disk.
#[test]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (store, report) = open(Path::new(&dir));
    assert!(!report.lost, "{report:?}");
    let first = last_number(&store) + 1;
    let commit = GroupCommit::start(Arc::new(store)).expect("starts");
    for number in first.. {
        let mut rng = fastrand::Rng::with_seed(number);
        let bytes = rng.usize(0..9000);
        let mut batch = Batch::new();
        batch.put_keeping_previous(
            Key::meta("last"),
            Record { tag: 1, version: 1, payload: number.to_le_bytes().into() },
        );
        batch.put(Key::meta(&format!("n/{:02}", number % 40)), record(&mut rng, bytes));
        commit.handle().commit(batch).expect("saved");
        writeln!(std::io::stdout(), "saved {number}").expect("the parent reads");
    }
}

fn last_number(store: &SledStore) -> u64 {
    let found = store.get(&Key::meta("last")).expect("reads");
    found.map_or(0, |found| u64::from_le_bytes(found.record.payload[..].try_into().expect("eight")))
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_process_is_killed_again_and_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut rng = fastrand::Rng::with_seed(17);
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "sled_store::crash_tests::child_that_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut saved = 0;
        let mut left = rng.u32(1..120);
        for line in output.lines() {
            let line = line.expect("text");
            let Some(number) = line.split("saved ").nth(1) else { continue };
            saved = number.parse().expect("a number");
            left -= 1;
            if left == 0 {
                break;
            }
        }
        child.kill().and_then(|()| child.wait()).expect("killed");
        assert_eq!(left, 0, "round {round}: the child ended by itself");
        let (store, report) = open(dir.path());
        // A kill in the middle of a write may leave half of it, which is told.
        assert!(!report.lost, "round {round}: {report:?}");
        let last = last_number(&store);
        assert!(last >= saved, "round {round}: {saved} was acknowledged, {last} is there");
        for number in last.saturating_sub(39).max(1)..=last {
            let mut rng = fastrand::Rng::with_seed(number);
            let bytes = rng.usize(0..9000);
            let found = store.get(&Key::meta(&format!("n/{:02}", number % 40))).expect("reads").expect("there");
            assert_eq!(found.record, record(&mut rng, bytes), "round {round}, number {number}");
        }
    }
}
