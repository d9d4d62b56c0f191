//! Group commit against the plain floor, in one run: 64 writers of 4 KiB records through the writer's thread, and a
//! program that appends 64 such records per `fdatasync` to a file. The two alternate, so that a busy machine slows both.
//!
//! Three loads: each session overwrites one record; a session saves 30 answers and ends, which removes them and leaves one
//! record of 3 KiB; distinct keys that stay for ever, where every byte has to go through the tree in the end.
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
use steadfast_store::{Batch, CheckpointStore, GroupCommit, Key, OpenOptions, Prefix, Record, SledStore};

const N_WRITERS: usize = 64;
const RECORD_BYTES: usize = 4096;
/// Two lives of a session in the second load.
const RECORDS_PER_WRITER: usize = 62;
const ANSWERS: usize = 30;
const N_ROUNDS: usize = 9;
const N_LONE: usize = 300;
const TARGET: f64 = 0.8;

#[derive(Clone, Copy, Debug)]
enum Load {
    Overwriting,
    Sessions,
    Keeping,
}

fn batch(load: Load, writer: usize, number: usize, payload: &[u8]) -> Batch {
    let session = |number: usize| SessionId::new(1_700_000_000_000 + number as u64, writer as u32);
    let record = |bytes: usize| Record { tag: 100, version: 1, payload: payload[..bytes].to_vec() };
    let mut batch = Batch::new();
    match load {
        Load::Overwriting => batch.put(Key::session_head(&session(0)), record(RECORD_BYTES)),
        Load::Keeping => batch.put(Key::session_part(&session(0), &format!("a/{number:06}")), record(RECORD_BYTES)),
        Load::Sessions => {
            let (life, step) = (session(number / (ANSWERS + 1)), number % (ANSWERS + 1));
            if step < ANSWERS {
                batch.put(Key::session_part(&life, &format!("a/{step:03}")), record(RECORD_BYTES))
            } else {
                batch.delete_all(Prefix::session_parts(&life)).put(Key::session_head(&life), record(3 << 10))
            }
        }
    };
    batch
}

/// Each writer sends its next record when the one before is acknowledged. Returns the time and each record's latency.
fn grouped(commit: &GroupCommit, load: Load, first: usize, payload: &[u8]) -> (Duration, Vec<Duration>) {
    let (acknowledge, acknowledged) = mpsc::channel();
    let handle = commit.handle();
    let submit = |writer: usize, number: usize| {
        let (acknowledge, sent) = (acknowledge.clone(), Instant::now());
        handle.submit(batch(load, writer, first + number, payload), move |result| {
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

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[values.len() / 2]
}

fn loads(dir: &Path, payload: &[u8]) {
    let n_records = N_WRITERS * RECORDS_PER_WRITER;
    let rate = |time: Duration| n_records as f64 / time.as_secs_f64();
    let loads = [Load::Overwriting, Load::Sessions, Load::Keeping];
    let stores: Vec<(Load, GroupCommit)> = loads
        .into_iter()
        .map(|load| {
            let (store, _) = SledStore::open(&dir.join(format!("{load:?}")), &OpenOptions::default()).expect("opens");
            (load, GroupCommit::start(Arc::new(store)).expect("starts"))
        })
        .collect();
    let mut file = File::create(dir.join("plain")).expect("creates");
    let mut ratios = vec![Vec::new(); loads.len()];
    for round in 0..N_ROUNDS {
        for ((load, commit), ratios) in stores.iter().zip(&mut ratios) {
            let (time, latencies) = grouped(commit, *load, round * RECORDS_PER_WRITER, payload);
            let p99 = {
                let mut sorted = latencies.clone();
                sorted.sort_unstable();
                sorted[sorted.len() * 99 / 100]
            };
            let floor = plain(&mut file, payload);
            let ratio = rate(time) / rate(floor);
            println!(
                "{load:>11?} round {round}: store {:.0} records/s (acknowledged after {:.1?} median, {p99:.1?} p99), \
                 plain {:.0} records/s, ratio {ratio:.2}",
                rate(time),
                median(latencies),
                rate(floor)
            );
            ratios.push(ratio);
        }
    }
    for ((load, commit), ratios) in stores.into_iter().zip(ratios) {
        println!("{load:?}: {:.2} of the plain rate (median of {N_ROUNDS} rounds; target {TARGET})", median(ratios));
        let start = Instant::now();
        commit.stop();
        println!("{load:?}: closed in {:.0?}", start.elapsed());
    }
}

/// One record at a time, alternating with the plain program's.
fn lone(dir: &Path, payload: &[u8]) {
    let (store, _) = SledStore::open(&dir.join("lone"), &OpenOptions::default()).expect("opens");
    let store = Arc::new(store);
    let commit = GroupCommit::start(Arc::clone(&store)).expect("starts");
    let handle = commit.handle();
    let mut file = File::create(dir.join("lone-plain")).expect("creates");
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for number in 0..N_LONE {
        let start = Instant::now();
        handle.commit(batch(Load::Keeping, 0, number, payload)).expect("the bench's disk works");
        ours.push(start.elapsed());
        let start = Instant::now();
        file.write_all(payload).expect("writes");
        file.sync_data().expect("syncs");
        floor.push(start.elapsed());
    }
    println!("lone writer: {:.0?} a record, plain {:.0?} (medians of {N_LONE})", median(ours), median(floor));
    let usage = store.usage();
    println!("lone writer: {} KiB live, {} KiB on disk", usage.live_bytes >> 10, usage.disk_bytes >> 10);
}

fn main() {
    let base = std::env::var("STORE_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let dir = tempfile::tempdir_in(Path::new(&base)).expect("a directory to write to");
    let payload: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(RECORD_BYTES).collect();
    lone(dir.path(), &payload);
    loads(dir.path(), &payload);
}
