//! Damages any file of a real small store at random, and opens it: never a panic, never a hang, never a silent loss.
//!
//! More of it, or one round again: `STEADFAST_DAMAGE_ROUNDS=5000 STEADFAST_DAMAGE_SEED=1 cargo test -p steadfast-store
//! damage_tests`. A failure names its round; the rounds before it are made anew, so the same seed meets it again.

use std::collections::BTreeMap;

use super::tests::{below, fold};
use super::*;
use crate::key::Prefix;
use crate::record::Record;

const SMALL: Limits = Limits { journal: 24 << 10, pending: 24 << 10, slack: 1 << 20 };

type Content = BTreeMap<Key, Record>;

fn open(dir: &Path) -> Result<(SledStore, OpenReport), StoreError> {
    SledStore::open_with(dir, &super::tests::PATIENT, SMALL)
}

fn record(rng: &mut fastrand::Rng, bytes: usize) -> Record {
    Record { tag: 900, version: 1, payload: std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect() }
}

/// All files below a folder, as paths relative to it, sorted; what other processes hold is left out.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("lists") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).expect("below").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().expect("parent")).expect("made");
        // sled's snapshot has another name while it is written.
        let _ = fs::copy(from.join(file), target);
    }
}

/// A store as it lies on disk, with what it must hold.
struct Sample {
    name: &'static str,
    dir: PathBuf,
    expected: Content,
    /// Every record that was ever there, by key.
    ever: BTreeMap<Key, Vec<Record>>,
}

/// Closed in order; killed with writes in its journal; killed with a full journal that was not folded beside one in use.
fn samples(base: &Path) -> Vec<Sample> {
    let dir = base.join("store");
    let (store, _) = open(&dir).expect("opens");
    let mut rng = fastrand::Rng::with_seed(23);
    let (mut expected, mut ever) = (Content::new(), BTreeMap::<Key, Vec<Record>>::new());
    let mut write = |store: &SledStore, expected: &mut Content, number: u32| {
        let mut batch = Batch::new();
        let bytes = if number.is_multiple_of(9) { 12_000 } else { rng.usize(20..1500) };
        for (key, record) in [
            (Key::meta(&format!("r/{:02}", number % 30)), record(&mut rng, bytes)),
            (Key::meta("head"), record(&mut rng, 200)),
        ] {
            ever.entry(key.clone()).or_default().push(record.clone());
            expected.insert(key.clone(), record.clone());
            batch.put_keeping_previous(key, record);
        }
        store.apply(&batch).and_then(|()| store.sync()).expect("saved");
    };
    let mut samples = Vec::new();
    for number in 0..20 {
        write(&store, &mut expected, number);
        if number.is_multiple_of(7) {
            fold(&store);
        }
    }
    drop(store);
    let sample = |name: &'static str, expected: &Content| {
        let kept = base.join(name);
        copy(&dir, &kept);
        Sample { name, dir: kept, expected: expected.clone(), ever: BTreeMap::new() }
    };
    samples.push(sample("closed", &expected));
    let (store, _) = open(&dir).expect("opens");
    for number in 20..24 {
        write(&store, &mut expected, number);
    }
    samples.push(sample("killed", &expected));
    fold(&store);
    // As it is when a crash comes before the folding of the full journal, and after a write to the next one.
    let (from, to) = (dir.clone(), base.join("both"));
    *store.inner.watch.lock().expect("no panic") = Some(Box::new(move |step| {
        if step == Step::Frozen {
            copy(&from, &to);
        }
    }));
    for number in 24.. {
        write(&store, &mut expected, number);
        if base.join("both").exists() {
            break;
        }
    }
    *store.inner.watch.lock().expect("no panic") = None;
    let active = format!("journal-{}", store.writer().journal.number() % 2);
    fs::copy(dir.join(&active), base.join("both").join(&active)).expect("copied");
    samples.push(Sample { name: "both", dir: base.join("both"), expected: expected.clone(), ever: BTreeMap::new() });
    drop(store);
    for sample in &mut samples {
        sample.ever = ever.clone();
    }
    samples
}

/// Does something to one file; says what.
fn damage(rng: &mut fastrand::Rng, dir: &Path) -> String {
    let files = files(dir);
    let victim = rng.choice(&files).expect("files").clone();
    let other = rng.choice(&files).expect("files").clone();
    let (path, shown) = (dir.join(&victim), victim.display());
    let length = fs::metadata(&path).expect("is there").len();
    match rng.u8(0..8) {
        0 => {
            fs::write(&path, "").expect("emptied");
            format!("{shown} emptied")
        }
        1 => {
            fs::remove_file(&path).expect("removed");
            format!("{shown} removed")
        }
        2 | 3 => {
            // Most of a journal is empty space; what counts is at its beginning.
            let most = if rng.bool() { length } else { length.min(20_000) };
            let at = rng.u64(0..=most);
            File::options().write(true).open(&path).and_then(|file| file.set_len(at)).expect("cut");
            format!("{shown} cut at {at} of {length}")
        }
        4 | 5 => {
            let mut bytes = fs::read(&path).expect("reads");
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
            let mut bits = Vec::new();
            for _ in 0..rng.usize(1..4) {
                if used > 0 {
                    let bit = rng.usize(0..used * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    bits.push(bit);
                }
            }
            fs::write(&path, bytes).expect("written");
            format!("{shown} with bits {bits:?} flipped")
        }
        6 => {
            let (one, two) = (fs::read(&path).expect("reads"), fs::read(dir.join(&other)).expect("reads"));
            fs::write(&path, two).and_then(|()| fs::write(dir.join(&other), one)).expect("written");
            format!("{shown} and {} swapped", other.display())
        }
        _ => {
            let names =
                ["journal-0", "journal-1", "epoch", "sled/db", "sled/snap.0000000000FFFFFF", "sled/conf", "unreadable"];
            let to = rng.choice(names).expect("names");
            fs::copy(&path, dir.join(to)).expect("copied");
            format!("{shown} copied to {to}")
        }
    }
}

/// What a store holds by now and what it said on the way; opens it again where it asks for that.
fn look(dir: &Path, what: &str) -> (SledStore, Content, Vec<String>) {
    let mut told = Vec::new();
    for _ in 0..3 {
        let (store, report) = open(dir).unwrap_or_else(|error| panic!("{what}: it does not open: {error:?}"));
        assert!(!report.lost || !report.actions.is_empty(), "{what}: {report:?}");
        told.extend(report.actions);
        match store.scan(&Scan::all(Prefix::everything())) {
            Ok(scanned) => {
                told.extend(scanned.set_aside.into_iter().map(|aside| aside.reason));
                return (store, scanned.entries.into_iter().collect(), told);
            }
            Err(StoreError::Index { .. } | StoreError::Broken) => told.push("it must be opened again".to_owned()),
            Err(error) => panic!("{what}: it does not read: {error:?}"),
        }
    }
    panic!("{what}: opening again and again does not mend it: {told:?}");
}

fn numbers(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn any_damage_to_any_file_is_mended_or_told_and_never_a_panic_or_a_silent_loss() {
    let base = tempfile::tempdir().expect("temporary directory");
    let samples = samples(base.path());
    assert!(
        files(&samples[2].dir)
            .iter()
            .filter(|file| file.starts_with("journal-0") || file.starts_with("journal-1"))
            .count()
            == 2
    );
    let mut rng = fastrand::Rng::with_seed(numbers("STEADFAST_DAMAGE_SEED", 5));
    let begun = std::time::Instant::now();
    let (mut n_told, n_rounds) = (0, numbers("STEADFAST_DAMAGE_ROUNDS", 200));
    for round in 0..n_rounds {
        let sample = &samples[rng.usize(0..samples.len())];
        let dir = base.path().join(format!("round-{round}"));
        copy(&sample.dir, &dir);
        let what = format!("round {round}, {}, {}", sample.name, damage(&mut rng, &dir));
        let (store, found, told) = look(&dir, &what);
        for (key, record) in &found {
            let ever = sample.ever.get(key).is_some_and(|ever| ever.contains(record));
            assert!(ever, "{what}: {key} was never saved like this; {told:?}");
        }
        let lost: Vec<&Key> =
            sample.expected.iter().filter(|(key, record)| found.get(key) != Some(record)).map(|(key, _)| key).collect();
        assert!(lost.is_empty() || !told.is_empty(), "{what}: lost without a word: {lost:?}");
        n_told += u32::from(!told.is_empty());
        let mut batch = Batch::new();
        batch.put(Key::meta("after"), record(&mut rng, 10));
        store.apply(&batch).and_then(|()| store.sync()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        drop(store);
        let (store, report) = open(&dir).unwrap_or_else(|error| panic!("{what}: it does not open again: {error:?}"));
        assert_eq!(report, OpenReport::default(), "{what}: told once; before: {told:?}");
        let again = store.scan(&Scan::all(Prefix::everything())).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let mut again: Content = again.entries.into_iter().collect();
        assert!(again.remove(&Key::meta("after")).is_some() && again == found, "{what}: {told:?}");
        below(&store, |_| ());
        drop(store);
        fs::remove_dir_all(&dir).expect("removed");
    }
    assert!(n_told > 0 && begun.elapsed().as_secs() < 60 + n_rounds, "{n_told} told, {:?}", begun.elapsed());
}
