//! 10,000 finished sessions, one record of 3 KB each: how long an open takes with the first record and the newest 20, and
//! how much memory the store holds then.
//!
//! `cargo bench -p steadfast-store --bench many_sessions`, with `STORE_BENCH_DIR` for another disk than the target's.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use steadfast_core::ids::SessionId;
use steadfast_store::{Batch, CheckpointStore, GroupCommit, Key, OpenOptions, Prefix, Record, Scan, SledStore};

const N_SESSIONS: u64 = 10_000;
const RECORD_BYTES: usize = 3000;
const N_OPENS: usize = 5;

fn session(number: u64) -> SessionId {
    SessionId::new(1_700_000_000_000 + number, 7)
}

/// Resident memory in KiB, as the kernel counts it.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

fn fill(dir: &Path) {
    let (store, _) = SledStore::open(dir, &OpenOptions::default()).expect("opens");
    let start = Instant::now();
    let commit = GroupCommit::start(Arc::new(store)).expect("starts");
    for number in 0..N_SESSIONS {
        let payload = std::iter::repeat_with(|| fastrand::u8(..)).take(RECORD_BYTES).collect();
        let mut batch = Batch::new();
        batch.put(Key::session_head(&session(number)), Record { tag: 100, version: 1, payload });
        // The bench's last commit waits for all before it.
        commit.handle().submit(batch, |result| result.expect("the bench's disk works"));
    }
    commit.handle().commit(Batch::new()).expect("the bench's disk works");
    println!("written in {:.0?}", start.elapsed());
    let start = Instant::now();
    drop(commit);
    println!("closed in {:.0?}", start.elapsed());
}

fn main() {
    let base = std::env::var("STORE_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let dir = tempfile::tempdir_in(Path::new(&base)).expect("a directory to write to");
    if let Ok(filled) = std::env::var("STORE_BENCH_FILLED") {
        return measure(Path::new(&filled));
    }
    let path = dir.path().join("store");
    fill(&path);
    // Another process, so that the memory is that of a start and not what filling the store has left.
    let status = std::process::Command::new(std::env::current_exe().expect("this program"))
        .env("STORE_BENCH_FILLED", &path)
        .status()
        .expect("starts");
    assert!(status.success(), "the measuring process failed");
}

fn measure(path: &Path) {
    let before = resident_kib();
    for round in 0..N_OPENS {
        let start = Instant::now();
        let (store, _) = SledStore::open(path, &OpenOptions::default()).expect("opens");
        let opened = start.elapsed();
        store.get(&Key::session_head(&session(77))).expect("reads").expect("there");
        let one = start.elapsed();
        let newest = store.scan(&Scan::newest(Prefix::session_heads(), 20)).expect("scans");
        assert_eq!(newest.entries.len(), 20);
        println!(
            "open {round}: {opened:.1?}, with one record {one:.1?}, with the newest 20 {:.1?}, resident {} KiB more than \
             at the start ({before} KiB)",
            start.elapsed(),
            resident_kib().saturating_sub(before)
        );
        if round == 0 {
            let usage = store.usage();
            println!("{} KiB live, {} KiB on disk", usage.live_bytes >> 10, usage.disk_bytes >> 10);
        }
    }
}
