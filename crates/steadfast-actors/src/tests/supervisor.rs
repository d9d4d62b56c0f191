//! The supervisor: its queue, orders to sessions, the end of everything, and the outbox.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::ids::{Role, SessionId};
use steadfast_core::session::Phase;
use steadfast_notify::{DeliveryError, Issue, IssueKind};
use steadfast_store::{BackendError, MemoryStore, StoreError};

use super::clock::settle;
use super::rig::S;
use super::script::{Gate, Journal, Scripted};
use super::yard::{CALLS, Tracker, Yard, all_rounder, good};
use crate::outbox::OutboxMsg;
use crate::records::Write;
use crate::supervisor::{SubmitError, SupervisorError};
use crate::tidy::Pruned;

/// Planners wait at the gate; everyone else answers at once.
fn gated_planners(journal: &Journal, gate: &Gate) -> Scripted {
    let gate = gate.clone();
    Scripted::new("model", journal).by(move |request| match request.context.role {
        Role::Planner => gate.holds(good(request)),
        Role::Coder | Role::Reviewer => good(request),
    })
}

/// Three sessions of which one may work; it waits for its plan.
async fn one_of_three(journal: &Journal, gate: &Gate) -> (Yard, Vec<SessionId>) {
    let yard = Yard::tuned(&gated_planners(journal, gate), |settings| {
        settings.max_sessions = 1.try_into().unwrap();
    })
    .await;
    let mut ids = Vec::new();
    for idea in ["one", "two", "three"] {
        ids.push(yard.submit(idea, idea).await.unwrap());
    }
    journal.reaches(1).await;
    (yard, ids)
}

#[tokio::test(start_paused = true)]
async fn sessions_above_the_bound_wait_and_begin_in_the_order_in_which_they_came() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let (yard, ids) = one_of_three(&journal, &gate).await;
    let status = yard.handle.status().await.unwrap();
    assert_eq!((status.active, status.queued), (vec![ids[0].clone()], ids[1..].to_vec()));
    gate.open();
    for id in &ids {
        yard.handle.wait(id).await;
        yard.assert_whole(id);
    }
    let planned: Vec<_> = journal
        .asked()
        .iter()
        .filter(|asked| asked.request.context.role == Role::Planner)
        .map(|asked| asked.request.context.session.clone())
        .collect();
    assert_eq!(planned, ids);
}

#[tokio::test(start_paused = true)]
async fn the_same_idea_on_the_same_repository_is_refused_while_it_is_at_work_waits_or_stands_still() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    let running = SubmitError::Running { idea: "one".to_owned(), session: id.clone() };
    assert_eq!(yard.submit("one", "repo").await, Err(running));
    // Another idea there, and the same idea elsewhere, are welcome.
    yard.submit("two", "repo").await.unwrap();
    yard.submit("one", "other").await.unwrap();
    gate.open();
    yard.handle.wait(&id).await;
    yard.assert_whole(&id);
    yard.submit("one", "repo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_session_is_not_taken_up_beside_another_of_the_same_idea() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let first = yard.submit("one", "repo").await.unwrap();
    journal.reaches(1).await;
    yard.handle.cancel(&first).await.unwrap();
    yard.handle.wait(&first).await;
    let second = yard.submit("one", "repo").await.unwrap();
    let refused = yard.handle.take_up(&first, true).await;
    assert!(matches!(&refused, Err(SupervisorError::NotPossible { session, .. }) if *session == first), "{refused:?}");
    gate.open();
    yard.handle.wait(&second).await;
    yard.assert_whole(&second);
    yard.handle.take_up(&first, true).await.unwrap();
    yard.handle.wait(&first).await;
    assert_eq!(yard.phase(&first), Phase::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_submission_that_cannot_be_saved_is_not_taken() {
    let journal = Journal::new();
    let yard = Yard::start(&all_rounder(&journal)).await;
    yard.store.fail_applies([StoreError::Index { source: BackendError::new("full") }]);
    assert!(matches!(yard.submit("one", "repo").await, Err(SubmitError::NotSaved(_))));
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    yard.assert_whole(&id);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_cancelled_while_it_waits_and_while_it_works() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let (yard, ids) = one_of_three(&journal, &gate).await;
    yard.handle.cancel(&ids[1]).await.unwrap();
    yard.handle.wait(&ids[1]).await;
    assert_eq!(yard.phase(&ids[1]), Phase::Cancelled);
    yard.handle.cancel(&ids[0]).await.unwrap();
    yard.handle.wait(&ids[0]).await;
    assert_eq!(yard.phase(&ids[0]), Phase::Cancelled);
    gate.open();
    yard.handle.wait(&ids[2]).await;
    yard.assert_whole(&ids[2]);
    let asked = journal.asked();
    assert!(asked.iter().all(|asked| asked.request.context.session != ids[1]), "it never began");
    let again = yard.handle.cancel(&ids[1]).await;
    assert!(matches!(again, Err(SupervisorError::NotPossible { .. })), "{again:?}");
    // A cancelled one goes on when it is taken up again.
    yard.handle.take_up(&ids[0], true).await.unwrap();
    yard.handle.wait(&ids[0]).await;
    yard.assert_whole(&ids[0]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_answered_when_it_is_durable_and_keeps_what_was_committed() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let held = gate.clone();
    let model = Scripted::new("model", &journal).by(move |request| match request.context.milestone {
        Some(2) => held.holds(good(request)),
        _ => good(request),
    });
    let yard = Yard::start(&model).await;
    let id = yard.submit("one", "repo").await.unwrap();
    // The plan, three files, a review and the second milestone's two files.
    journal.reaches(7).await;
    yard.handle.cancel(&id).await.unwrap();
    let left = yard.store.after_power_cut();
    let keeper = crate::Keeper::over(Arc::new(left), super::rig::session_policy(), Vec::new()).unwrap();
    assert_eq!(keeper.head(&id).unwrap().unwrap().phase, Phase::Cancelled);
    yard.handle.wait(&id).await;
    assert_eq!(yard.commits(&id), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_saves_every_session_and_names_it_and_the_next_start_goes_on() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::tuned(&gated_planners(&journal, &gate), |settings| {
        settings.max_sessions = 2.try_into().unwrap();
    })
    .await;
    let mut ids = Vec::new();
    for idea in ["one", "two", "three", "four"] {
        ids.push(yard.submit(idea, idea).await.unwrap());
    }
    journal.reaches(2).await;
    let supervisor = yard.handle.supervisor();
    let (mut saved, left) = yard.shut_down("SIGTERM received").await;
    saved.sort();
    ids.sort();
    assert_eq!(saved, ids);
    assert_eq!(supervisor.get_status(), ractor::ActorStatus::Stopped);
    let later = Journal::new();
    let next = left.start(&all_rounder(&later)).await;
    for id in &ids {
        let session = next.record(id).session;
        let interrupt = session.interrupt.unwrap();
        assert_eq!((interrupt.reason.as_str(), interrupt.emergency), ("SIGTERM received", true));
    }
    let resumable: Vec<_> = next.handle.keeper().resumable().unwrap().into_iter().map(|session| session.id).collect();
    assert_eq!(resumable, ids);
    for id in &ids {
        next.handle.take_up(id, false).await.unwrap();
    }
    for id in &ids {
        next.handle.wait(id).await;
        next.assert_whole(id);
    }
    assert_eq!(later.asked().len(), 4 * CALLS);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_raises_the_alarm_and_nothing_is_built_on_it() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(1).await;
    settle().await;
    yard.store.fail_syncs([StoreError::Index { source: BackendError::new("the disk is gone") }]);
    gate.open();
    yard.handle.wait(&id).await;
    let alarm = yard.handle.alarm().borrow().clone().unwrap().to_string();
    assert!(alarm.contains("could not be saved") && alarm.contains("the disk is gone"), "{alarm}");
    assert_eq!(journal.asked().len(), 1, "no file was asked for on an unsaved plan");
}

fn issue(id: &steadfast_core::ids::SessionId, name: &str) -> Issue {
    Issue {
        key: format!("{id}-{name}"),
        kind: IssueKind::FailedFile,
        title: "Write it by hand".to_owned(),
        body: "It failed.".to_owned(),
        labels: Vec::new(),
        assignee: None,
    }
}

/// Puts issues into the outbox of a session that is over.
async fn file(yard: &Yard, id: &steadfast_core::ids::SessionId, names: &[&str]) {
    let write = |name: &&str| Write::Issue(id.clone(), Box::new(issue(id, name)), 1);
    yard.handle.keeper().save(names.iter().map(write).collect()).await.unwrap();
    yard.shared::<OutboxMsg>()[0].cast(OutboxMsg::Wake).unwrap();
    settle().await;
}

async fn outbox_yard(failures: u32) -> (Yard, steadfast_core::ids::SessionId) {
    let (journal, gate) = (Journal::new(), Gate::new());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let tracker = Tracker::failing(failures);
    let yard = Yard::over(dir, MemoryStore::new(), tracker, &gated_planners(&journal, &gate), |_| ()).await;
    let id = yard.submit("one", "repo").await.unwrap();
    (yard, id)
}

#[tokio::test(start_paused = true)]
async fn the_outbox_tries_again_with_growing_pauses_and_files_once() {
    let (yard, id) = outbox_yard(5).await;
    file(&yard, &id, &["a"]).await;
    tokio::time::sleep(S(100)).await;
    let key = issue(&id, "a").key;
    assert_eq!(yard.tracker.tries(&key), [0, 1, 3, 7, 15, 31]);
    // Only the first try has nothing to look for.
    assert_eq!(yard.tracker.looked(), [false, true, true, true, true, true]);
    assert_eq!(yard.tracker.filed().len(), 1);
    assert!(yard.handle.keeper().undelivered().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_outbox_waits_as_long_as_a_limit_says_and_longer_when_it_goes_on() {
    let (yard, id) = outbox_yard(8).await;
    yard.tracker.fails_with(|| DeliveryError::Limited { what: "limited".to_owned(), wait: S(20) });
    file(&yard, &id, &["a"]).await;
    tokio::time::sleep(S(1000)).await;
    // From the sixth failure on the growing pause is the longer one.
    assert_eq!(yard.tracker.tries(&issue(&id, "a").key), [0, 20, 40, 60, 80, 100, 132, 196, 324]);
    assert_eq!(yard.tracker.filed().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_change_is_tried_seldom_and_for_ever() {
    let (yard, id) = outbox_yard(3).await;
    yard.tracker.fails_with(|| DeliveryError::Refused("no right".to_owned()));
    file(&yard, &id, &["a"]).await;
    tokio::time::sleep(S(3000)).await;
    assert_eq!(yard.tracker.tries(&issue(&id, "a").key), [0, 900, 1800, 2700]);
    assert_eq!(yard.tracker.filed().len(), 1);
}

/// Each issue keeps its own pauses, whoever wakes the outbox for another one.
#[tokio::test(start_paused = true)]
async fn new_issues_do_not_shorten_the_pauses_of_those_that_wait() {
    let (yard, id) = outbox_yard(u32::MAX).await;
    file(&yard, &id, &["a"]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    file(&yard, &id, &["b"]).await;
    for _ in 0..10 {
        yard.shared::<OutboxMsg>()[0].cast(OutboxMsg::Wake).unwrap();
        settle().await;
    }
    tokio::time::sleep(Duration::from_millis(20_500)).await;
    assert_eq!(yard.tracker.tries(&issue(&id, "a").key), [0, 1, 3, 7, 15]);
    assert_eq!(yard.tracker.tries(&issue(&id, "b").key), [1, 2, 4, 8, 16]);
    yard.tracker.mend();
    tokio::time::sleep(S(100)).await;
    assert_eq!(yard.tracker.filed().len(), 2);
}

/// The tracker has it, but the receipt was lost with the process.
#[tokio::test(start_paused = true)]
async fn an_issue_whose_receipt_was_lost_is_found_and_not_filed_again() {
    let (yard, id) = outbox_yard(u32::MAX).await;
    file(&yard, &id, &["a"]).await;
    let before = yard.store.after_power_cut();
    yard.tracker.mend();
    tokio::time::sleep(S(10)).await;
    assert_eq!(yard.tracker.filed().len(), 1);
    let next = yard.beside(before, &all_rounder(&Journal::new())).await;
    settle().await;
    tokio::time::sleep(S(10)).await;
    assert!(next.handle.keeper().undelivered().unwrap().is_empty());
    assert_eq!(yard.tracker.filed().len(), 1);
}

/// It was killed between the end of a session and its packing.
#[tokio::test(start_paused = true)]
async fn a_completed_session_that_was_not_packed_is_packed_at_the_next_start() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    settle().await;
    let mut session = yard.handle.keeper().head(&id).unwrap().unwrap();
    session.phase = Phase::Completed;
    yard.handle.keeper().save(vec![Write::Head(Box::new(session))]).await.unwrap();
    let next = yard.after_kill(&all_rounder(&Journal::new())).await;
    assert_eq!(next.handle.keeper().unpacked().unwrap(), []);
    assert_eq!(yard.handle.keeper().unpacked().unwrap(), [id]);
}

/// Once the one of the start is over.
async fn prune(yard: &Yard) -> Pruned {
    loop {
        match yard.handle.prune().await {
            Ok(pruned) => return pruned,
            Err(busy) => assert!(busy.contains("under way"), "{busy}"),
        }
        settle().await;
    }
}

/// Sessions that ended long ago go; what is recent, can go on, or has something to tell stays.
#[tokio::test(start_paused = true)]
async fn the_retention_removes_what_has_been_over_for_long_and_nothing_else() {
    let (yard, id) = outbox_yard(u32::MAX).await;
    // The look of the start must be over: the clock moves on only when nothing is under way.
    tokio::time::sleep(S(1)).await;
    let keeper = yard.handle.keeper().clone();
    let pattern = keeper.head(&id).unwrap().unwrap();
    let now = crate::supervisor::wall_clock_ms();
    let day = 24 * 3600 * 1000;
    let ended = |days_ago: u64, phase: Phase| {
        let mut session = pattern.clone();
        session.id = SessionId::new(now - days_ago * day, fastrand::u32(..));
        session.updated_ms = now - days_ago * day;
        session.phase = phase;
        session
    };
    let gone = [ended(40, Phase::Completed), ended(31, Phase::Failed), ended(50, Phase::Cancelled)];
    let kept = [ended(29, Phase::Completed), ended(40, Phase::Implementing), ended(60, Phase::Completed)];
    for session in gone.iter().chain(&kept) {
        keeper.save(vec![Write::Head(Box::new(session.clone()))]).await.unwrap();
    }
    let undelivered = &kept[2].id;
    let write = Write::Issue(undelivered.clone(), Box::new(issue(undelivered, "a")), 1);
    keeper.save(vec![write]).await.unwrap();

    assert_eq!(prune(&yard).await, Pruned { sessions: 3, copies: 0 });
    for session in &gone {
        assert_eq!(keeper.record(&session.id).unwrap(), None);
    }
    for session in kept.iter().chain([&pattern]) {
        assert!(keeper.record(&session.id).unwrap().is_some());
    }
    let counts = keeper.counts().unwrap();
    assert_eq!((counts.unfinished, counts.completed, counts.failed, counts.cancelled), (2, 2, 0, 0));
    assert_eq!(keeper.newest_of_idea(pattern.idea.as_str()).unwrap(), Some(id));
    assert_eq!(prune(&yard).await, Pruned::default());
}

#[tokio::test(start_paused = true)]
async fn the_retention_comes_by_itself_once_a_day() {
    let (yard, id) = outbox_yard(0).await;
    settle().await;
    let keeper = yard.handle.keeper().clone();
    let mut old = keeper.head(&id).unwrap().unwrap();
    old.id = SessionId::new(1_000, 1);
    (old.updated_ms, old.phase) = (1_000, Phase::Completed);
    keeper.save(vec![Write::Head(Box::new(old.clone()))]).await.unwrap();
    // This start has looked already; the next one finds that it was done within the day.
    let next = yard.beside(yard.store.after_kill(), &all_rounder(&Journal::new())).await;
    settle().await;
    assert!(next.handle.keeper().head(&old.id).unwrap().is_some());
    // A store that was never pruned is at once.
    let keeper = next.handle.keeper();
    keeper.forget_retention().await;
    tokio::time::sleep(S(3601)).await;
    settle().await;
    assert_eq!(keeper.head(&old.id).unwrap(), None);
}

/// The disk is gone: whoever waits hears so, and is not kept waiting.
#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_which_sessions_could_not_be_saved() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(1).await;
    settle().await;
    yard.store.fail_syncs([StoreError::Index { source: BackendError::new("the disk is gone") }]);
    let ended = yard.handle.shutdown("SIGTERM received", async {}).await;
    assert_eq!((ended.saved, ended.not_saved), (vec![], vec![id]));
}

/// It is over, on disk, and its actor about to end: nothing of it is left to save, and nothing was missed.
#[tokio::test(start_paused = true)]
async fn a_session_that_comes_to_its_end_while_all_is_shut_down_is_not_told_as_unsaved() {
    let mut yard = Yard::start(&all_rounder(&Journal::new())).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.completes().await;
    let ended = yard.handle.shutdown("SIGTERM received", async {}).await;
    assert_eq!((ended.not_saved, yard.phase(&id)), (vec![], Phase::Completed));
}

/// One issue for all that were interrupted; it is closed when the last of them has gone on.
#[tokio::test(start_paused = true)]
async fn a_shutdown_files_one_recovery_issue_and_the_last_session_that_goes_on_closes_it() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let ids = [yard.submit("one", "repo").await.unwrap(), yard.submit("two", "other").await.unwrap()];
    journal.reaches(2).await;
    let (_, left) = yard.shut_down("SIGTERM received").await;
    let next = left.start(&all_rounder(&Journal::new())).await;
    let filed = next.tracker.filed();
    assert_eq!(filed.len(), 1, "{filed:?}");
    assert_eq!(
        (filed[0].kind, filed[0].title.as_str()),
        (IssueKind::Recovery, "2 sessions interrupted: SIGTERM received")
    );
    assert!(ids.iter().all(|id| filed[0].body.contains(&format!("steadfast resume {id}"))), "{}", filed[0].body);
    next.handle.take_up(&ids[0], false).await.unwrap();
    next.handle.wait(&ids[0]).await;
    settle().await;
    assert_eq!(next.tracker.closed().len(), 0, "the other one still stands");
    next.handle.take_up(&ids[1], false).await.unwrap();
    next.handle.wait(&ids[1]).await;
    settle().await;
    tokio::time::sleep(S(5)).await;
    assert_eq!(next.tracker.closed().len(), 1);
}

/// A daemon that is restarted again and again while nothing moves does not file an issue each time.
#[tokio::test(start_paused = true)]
async fn restarts_in_which_nothing_moves_share_one_recovery_issue() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let yard = Yard::start(&gated_planners(&journal, &gate)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(1).await;
    let (_, left) = yard.shut_down("SIGTERM received").await;
    let next = left.start(&gated_planners(&journal, &gate)).await;
    next.handle.take_up(&id, false).await.unwrap();
    journal.reaches(2).await;
    let (_, left) = next.shut_down("SIGTERM received").await;
    let last = left.start(&all_rounder(&Journal::new())).await;
    assert_eq!(last.tracker.filed().len(), 1);
}
