//! A store of each earlier layout opens. The folders in `fixtures` were written by programs of that time; zeros at the ends
//! of their files were cut off and are put back here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop where it is")]

use std::fs;
use std::path::Path;

use steadfast_store::{CheckpointStore, Key, OpenOptions, RecordKind, SledStore};

/// `lengths`: of the files whose ends were cut off.
fn laid_out(name: &str, lengths: &[(&str, u64)]) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let to = tempfile::tempdir().unwrap();
    fs::create_dir_all(to.path().join("sled/blobs")).unwrap();
    for folder in ["", "sled"] {
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), to.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    for (file, length) in lengths {
        fs::File::options().write(true).open(to.path().join(file)).unwrap().set_len(*length).unwrap();
    }
    to
}

fn get(store: &SledStore, name: &str) -> Option<String> {
    store.get(&Key::meta(name)).unwrap().map(|found| found.value(RecordKind::new(900, 1, "sample")).unwrap())
}

#[test]
fn a_store_of_the_first_layout_opens_closed_or_killed_and_nothing_is_reported() {
    let closed = laid_out("layout-1/closed", &[("sled/db", 9369), ("journal-1", 4096)]);
    let killed = laid_out("layout-1/killed", &[("sled/db", 9369), ("journal-1", 4096 + (4 << 20))]);
    for (dir, first, second) in [(&closed, "two", None), (&killed, "three", Some("kept"))] {
        for opening in 0..2 {
            let (store, report) = SledStore::open(dir.path(), &OpenOptions::default()).unwrap();
            assert_eq!(report.actions, [""; 0], "opening {opening}");
            assert_eq!(get(&store, "first").as_deref(), Some(first));
            assert_eq!(get(&store, "large").map(|text| text.len()), Some(9000));
            assert_eq!(get(&store, "second").as_deref(), second);
        }
    }
}
