//! Memory, disk and time that run short (SPEC 8).

use std::cell::Cell;

use steadfast_core::sentinel::{Limits, Memory, MemoryLimit, Reading};

use super::clock::settle;
use super::rig::S;
use super::script::{Gate, Journal, Scripted};
use super::yard::{Yard, all_rounder};
use crate::sentinel::SentinelMsg;
use crate::settings::Settings;
use crate::supervisor::Emergency;

thread_local! {
    /// What is read next. A test has a thread of its own.
    static READING: Cell<Reading> = const { Cell::new(Reading { memory: None, own_memory: None, free_disk: None }) };
}

/// So many percent of the memory are in use.
fn used(percent: u64) {
    let memory = Some(Memory { used: percent, total: 100 });
    READING.set(Reading { memory, ..Reading::default() });
}

fn watched(settings: &mut Settings) {
    settings.resources = Limits { memory: MemoryLimit::Percent(90), min_free_disk: 0, time: Some(S(1000)) };
    settings.probe = |_dir| READING.get();
}

async fn yard() -> (Yard, Journal) {
    let journal = Journal::new();
    (Yard::tuned(&all_rounder(&journal), watched).await, journal)
}

fn alarm(yard: &Yard) -> Option<Emergency> {
    yard.handle.alarm().borrow().clone()
}

#[tokio::test(start_paused = true)]
async fn memory_that_runs_short_in_mid_work_is_an_emergency() {
    used(90);
    let (yard, _) = yard().await;
    tokio::time::sleep(S(10)).await;
    used(91);
    tokio::time::sleep(S(2)).await;
    assert_eq!(alarm(&yard), None, "a peak is borne");
    tokio::time::sleep(S(2)).await;
    let Some(Emergency::Failure(reason)) = alarm(&yard) else { panic!("no emergency") };
    assert!(reason.starts_with("memory is short"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn what_is_short_at_the_start_begins_nothing_and_goes_on_by_itself_when_there_is_room() {
    used(91);
    let (yard, journal) = yard().await;
    let id = yard.submit("one", "repo").await.unwrap();
    tokio::time::sleep(S(100)).await;
    let status = yard.handle.status().await.unwrap();
    assert!(status.paused.unwrap().starts_with("memory is short"));
    assert_eq!((status.queued, status.active), (vec![id.clone()], vec![]));
    assert_eq!((journal.asked().len(), alarm(&yard)), (0, None));
    used(10);
    yard.handle.wait(&id).await;
    yard.assert_whole(&id);
    assert_eq!(yard.handle.status().await.unwrap().paused, None);
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_comes_before_it_is_reached() {
    used(1);
    let (yard, _) = yard().await;
    tokio::time::sleep(S(998)).await;
    assert_eq!(alarm(&yard), None);
    tokio::time::sleep(S(3)).await;
    assert_eq!(alarm(&yard), Some(Emergency::TimeUp));
}

#[tokio::test(start_paused = true)]
async fn a_sentinel_that_was_started_again_does_not_take_a_shortage_for_one_from_the_start() {
    used(1);
    let gate = Gate::new();
    let held = gate.clone();
    let journal = Journal::new();
    let model = Scripted::new("model", &journal).by(move |request| held.holds(super::yard::good(request)));
    let yard = Yard::tuned(&model, watched).await;
    yard.submit("one", "repo").await.unwrap();
    used(91);
    yard.shared::<SentinelMsg>()[0].cast(SentinelMsg::Crash).unwrap();
    settle().await;
    tokio::time::sleep(S(5)).await;
    assert!(matches!(alarm(&yard), Some(Emergency::Failure(_))));
}
