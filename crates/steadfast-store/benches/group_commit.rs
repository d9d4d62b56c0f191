//! Group commit against the plain floor, in one run: 64 writers of 4 KiB records through the writer's thread, and a
//! program that appends 64 such records per `fdatasync` to a file. The two alternate, so that a busy machine slows both.
//!
//! `cargo bench -p steadfast-store --bench group_commit`, with `STORE_BENCH_DIR` for another disk than the target's.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use steadfast_core::ids::SessionId;
use steadfast_store::{Batch, GroupCommit, Key, OpenOptions, Record, SledStore};

const N_WRITERS: usize = 64;
const RECORD_BYTES: usize = 4096;
const RECORDS_PER_WRITER: usize = 64;
const N_ROUNDS: usize = 5;
const N_LONE: usize = 300;
const TARGET: f64 = 0.8;

fn payload() -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::u8(..)).take(RECORD_BYTES).collect()
}

fn batch(writer: usize, number: usize, payload: &[u8]) -> Batch {
    let session = SessionId::new(1_700_000_000_000 + writer as u64, 7);
    let mut batch = Batch::new();
    let record = Record { tag: 100, version: 1, payload: payload.to_vec() };
    batch.put(Key::session_part(&session, &format!("a/{number:06}")), record);
    batch
}

/// Each writer sends its next record when the one before is acknowledged. Returns the time and each record's latency.
fn grouped(commit: &GroupCommit, first: usize, payload: &[u8]) -> (Duration, Vec<Duration>) {
    let (acknowledge, acknowledged) = mpsc::channel();
    let handle = commit.handle();
    let submit = |writer: usize, number: usize| {
        let (acknowledge, sent) = (acknowledge.clone(), Instant::now());
        handle.submit(batch(writer, first + number, payload), move |result| {
            result.expect("the bench's disk works");
            // The bench waits for all of them.
            acknowledge.send((writer, number, sent.elapsed())).expect("the bench still runs");
        });
    };
    let start = Instant::now();
    for writer in 0..N_WRITERS {
        submit(writer, 0);
    }
    let mut latencies = Vec::with_capacity(N_WRITERS * RECORDS_PER_WRITER);
    while latencies.len() < N_WRITERS * RECORDS_PER_WRITER {
        let (writer, number, latency) = acknowledged.recv().expect("a sender is held here");
        latencies.push(latency);
        if number + 1 < RECORDS_PER_WRITER {
            submit(writer, number + 1);
        }
    }
    (start.elapsed(), latencies)
}

fn plain(file: &mut File, payload: &[u8]) -> Duration {
    let start = Instant::now();
    for _ in 0..RECORDS_PER_WRITER {
        for _ in 0..N_WRITERS {
            file.write_all(payload).expect("writes");
        }
        file.sync_data().expect("syncs");
    }
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn lone(commit: &GroupCommit, payload: &[u8]) -> Duration {
    let handle = commit.handle();
    let one = |number| {
        let start = Instant::now();
        handle.commit(batch(0, 900_000 + number, payload)).expect("the bench's disk works");
        start.elapsed()
    };
    median((0..N_LONE).map(one).collect())
}

fn lone_plain(file: &mut File, payload: &[u8]) -> Duration {
    let mut one = || {
        let start = Instant::now();
        file.write_all(payload).expect("writes");
        file.sync_data().expect("syncs");
        start.elapsed()
    };
    median((0..N_LONE).map(|_| one()).collect())
}

fn main() {
    let base = std::env::var("STORE_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let dir = tempfile::tempdir_in(Path::new(&base)).expect("a directory to write to");
    let (store, _) = SledStore::open(&dir.path().join("store"), &OpenOptions::default()).expect("opens");
    let commit = GroupCommit::start(Arc::new(store)).expect("starts");
    let mut file = File::create(dir.path().join("plain")).expect("creates");
    let payload = payload();

    let n_records = N_WRITERS * RECORDS_PER_WRITER;
    let rate = |time: Duration| n_records as f64 / time.as_secs_f64();
    let mut ratios = Vec::new();
    for round in 0..N_ROUNDS {
        let (time, mut latencies) = grouped(&commit, round * RECORDS_PER_WRITER, &payload);
        latencies.sort_unstable();
        let floor = plain(&mut file, &payload);
        let ratio = rate(time) / rate(floor);
        println!(
            "round {round}: store {:.0} records/s (acknowledged after {:.1?} median, {:.1?} p99), plain {:.0} records/s, ratio {ratio:.2}",
            rate(time),
            latencies[latencies.len() / 2],
            latencies[latencies.len() * 99 / 100],
            rate(floor)
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!("group commit: {ratio:.2} of the plain rate (median of {N_ROUNDS} rounds; target {TARGET})");
    println!(
        "lone writer: {:.0?} a record, plain {:.0?} (medians of {N_LONE})",
        lone(&commit, &payload),
        lone_plain(&mut file, &payload)
    );
    commit.stop();
}
