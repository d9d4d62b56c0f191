//! Closings of recovery issues, and alerts: once each, in order, and no more than a person wants to read.

use std::sync::Arc;

use steadfast_core::fault::Fault;
use steadfast_core::ids::{Role, SessionId};
use steadfast_core::session::Phase;
use steadfast_notify::{Alert, AlertKind, DeliveryError, IssueKind};
use steadfast_store::MemoryStore;

use super::rig::{S, session_policy};
use super::script::{Gate, Journal, Scripted, fails, text};
use super::yard::{Ear, Heard, Tracker, Yard, all_rounder, good};
use crate::checkpoint_keeper::Keeper;
use crate::outbox::OutboxMsg;
use crate::records::{Outgoing, Write};
use crate::settings::Settings;

/// Every session stops after its third call.
fn three_calls(settings: &mut Settings) {
    settings.limits.session.calls = Some(3);
}

/// Lets what is under way end: the clock moves on only when nothing is.
async fn deliveries() {
    tokio::time::sleep(S(1)).await;
}

fn waiting(yard: &Yard) -> usize {
    yard.handle.keeper().n_undelivered().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stop_has_one_issue_however_often_it_is_resumed_and_it_is_closed_when_the_session_goes_on() {
    let journal = Journal::new();
    let yard = Yard::tuned(&all_rounder(&journal), three_calls).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    for _ in 0..3 {
        yard.handle.take_up(&id, false).await.unwrap();
        yard.handle.wait(&id).await;
        assert!(yard.record(&id).session.interrupt.is_some());
    }
    deliveries().await;
    let filed = yard.tracker.filed();
    assert_eq!(filed.iter().map(|issue| issue.kind).collect::<Vec<_>>(), [IssueKind::Recovery]);
    assert!(yard.tracker.closed().is_empty());
    // With a larger budget, in another process, it goes on.
    let (_, left) = yard.shut_down("over").await;
    let next = left.start(&all_rounder(&Journal::new())).await;
    next.handle.take_up(&id, false).await.unwrap();
    next.handle.wait(&id).await;
    assert_eq!(next.phase(&id), Phase::Completed);
    deliveries().await;
    let closed = next.tracker.closed();
    assert_eq!(closed.iter().map(|closing| closing.issue.clone()).collect::<Vec<_>>(), [filed[0].key.clone()]);
    assert!(closed[0].comment.contains("has gone on"), "{}", closed[0].comment);
    assert_eq!((waiting(&next), next.tracker.filed().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_session_leaves_no_open_recovery_issue() {
    let yard = Yard::tuned(&all_rounder(&Journal::new()), three_calls).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    yard.handle.cancel(&id).await.unwrap();
    deliveries().await;
    assert!(yard.tracker.closed()[0].comment.contains("cancelled"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_for_another_reason_closes_the_issue_of_the_first_and_has_its_own() {
    let yard = Yard::tuned(&all_rounder(&Journal::new()), three_calls).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    let (keeper, session) = (yard.handle.keeper(), yard.record(&id).session);
    let stop = |reason: &str, at: u64| {
        let session = steadfast_core::session::Session { updated_ms: at, ..session.clone() };
        crate::issues::stop(keeper, &session, reason, &Default::default(), at)
    };
    let same = session.interrupt.clone().unwrap().reason.replace('3', "4");
    assert!(stop(&same, 2).is_empty(), "other numbers are no other reason");
    keeper.save(stop("the branch has a foreign commit", 3)).await.unwrap();
    yard.shared::<OutboxMsg>()[0].cast(OutboxMsg::Wake).unwrap();
    deliveries().await;
    assert_eq!(yard.tracker.filed().len(), 2);
    let closed = yard.tracker.closed();
    assert_eq!((closed.len(), closed[0].issue.clone()), (1, yard.tracker.filed()[0].key.clone()));
    assert!(stop("the branch has a foreign commit", 4).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_issue_is_closed_after_it_was_filed_and_not_before() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let tracker = Tracker::failing(u32::MAX);
    let model = all_rounder(&Journal::new());
    let yard = Yard::over(dir, MemoryStore::new(), tracker, &model, three_calls).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    yard.handle.cancel(&id).await.unwrap();
    tokio::time::sleep(S(100)).await;
    assert_eq!(waiting(&yard), 2);
    let issue = yard.record(&id).issues[0].issue.key.clone();
    assert_eq!(yard.handle.keeper().trouble(&issue).unwrap().unwrap().reason, "the tracker is down");
    yard.tracker.mend();
    tokio::time::sleep(S(100)).await;
    assert_eq!((yard.tracker.filed().len(), yard.tracker.closed().len(), waiting(&yard)), (1, 1, 0));
    assert_eq!(yard.handle.keeper().trouble(&issue).unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_closing_whose_receipt_was_lost_is_not_done_again() {
    let yard = Yard::tuned(&all_rounder(&Journal::new()), three_calls).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    deliveries().await;
    yard.handle.keeper().save(vec![Write::WentOn(id.clone(), "It goes on.".to_owned(), 1)]).await.unwrap();
    let before = yard.store.after_power_cut();
    yard.shared::<OutboxMsg>()[0].cast(OutboxMsg::Wake).unwrap();
    deliveries().await;
    assert_eq!(yard.tracker.closed().len(), 1);
    let next = yard.beside(before, &all_rounder(&Journal::new())).await;
    deliveries().await;
    assert_eq!((yard.tracker.closed().len(), waiting(&next)), (1, 0));
}

fn keeper_over(store: &MemoryStore) -> Keeper {
    Keeper::over(Arc::new(store.clone()), session_policy(), Vec::new()).unwrap()
}

fn closings(keeper: &Keeper) -> usize {
    keeper.outgoing().unwrap().iter().filter(|record| matches!(record.what, Outgoing::Closing(_))).count()
}

#[tokio::test]
async fn an_issue_that_several_sessions_share_is_closed_by_the_last_that_goes_on() {
    let store = MemoryStore::new();
    let keeper = keeper_over(&store);
    let ids: Vec<SessionId> = (1..=3).map(|n| SessionId::new(n, n as u32)).collect();
    let standing = |id: &SessionId| Write::Standing(id.clone(), "k".to_owned(), "SIGTERM".to_owned());
    keeper.save(ids.iter().map(standing).collect()).await.unwrap();
    let went_on = |id: &SessionId| Write::WentOn(id.clone(), "It goes on.".to_owned(), 9);
    keeper.save(vec![went_on(&ids[0])]).await.unwrap();
    assert_eq!(closings(&keeper), 0);
    // Another process knows the rest; two that go on at once close it once.
    let keeper = keeper_over(&store.after_power_cut());
    let (one, two) = (keeper.begin_save(vec![went_on(&ids[1])]), keeper.begin_save(vec![went_on(&ids[2])]));
    one.unwrap().wait().await.unwrap();
    two.unwrap().wait().await.unwrap();
    assert_eq!(closings(&keeper), 1);
    keeper.save(vec![went_on(&ids[0])]).await.unwrap();
    assert_eq!(closings(&keeper), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flush_tries_at_once_what_keeps_a_long_pause() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let model = all_rounder(&Journal::new());
    let yard = Yard::over(dir, MemoryStore::new(), Tracker::failing(u32::MAX), &model, three_calls).await;
    yard.tracker.fails_with(|| DeliveryError::Refused("no right".to_owned()));
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    yard.handle.flush_outbox(S(60)).await;
    assert_eq!(waiting(&yard), 1);
    yard.tracker.mend();
    yard.handle.flush_outbox(S(60)).await;
    assert_eq!((waiting(&yard), yard.tracker.filed().len()), (0, 1));
}

async fn hearing(model: &Scripted, heard: &Arc<Heard>) -> Yard {
    let ear = Arc::new(Ear(Arc::clone(heard)));
    Yard::tuned(model, move |settings| settings.alerts = Some(ear)).await
}

fn ids(heard: &Heard) -> Vec<String> {
    heard.alerts().into_iter().map(|alert| alert.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_degradation_raises_one_alert_through_the_outbox_that_is_repeated_until_it_arrives() {
    let heard = Arc::new(Heard::default());
    *heard.failures_to_come.lock().unwrap() = 3;
    let model = Scripted::new("model", &Journal::new()).by(|request| match request.context.role {
        Role::Planner => text("no plan"),
        Role::Coder | Role::Reviewer => good(request),
    });
    let yard = hearing(&model, &heard).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    assert_eq!(yard.phase(&id), Phase::Completed);
    tokio::time::sleep(S(60)).await;
    let alerts = heard.alerts();
    assert_eq!(ids(&heard), [format!("alert-{id}-plan")]);
    assert_eq!(alerts[0].kind, AlertKind::Degraded);
    assert!(alerts[0].text.contains("template") && alerts[0].text.contains("idea one"), "{}", alerts[0].text);
    assert_eq!(waiting(&yard), 0);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_raises_one_alert_for_the_whole_outage() {
    let heard = Arc::new(Heard::default());
    let model = Scripted::new("model", &Journal::new()).by(|_| fails(Fault::Unavailable));
    let ear = Arc::new(Ear(Arc::clone(&heard)));
    let yard = Yard::tuned(&model, move |settings| {
        settings.alerts = Some(ear);
        settings.failover.outage_patience = S(300);
    })
    .await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    deliveries().await;
    let opened: Vec<Alert> = heard.alerts().into_iter().filter(|alert| alert.kind == AlertKind::BreakerOpen).collect();
    assert_eq!(opened.len(), 1);
    assert!(opened[0].text.contains("p/model") && opened[0].text.contains("next test in 60 s"), "{}", opened[0].text);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_with_sessions_at_work_raises_an_alert_and_one_without_none() {
    let heard = Arc::new(Heard::default());
    let (journal, gate) = (Journal::new(), Gate::new());
    let held = gate.clone();
    let model = Scripted::new("model", &journal).by(move |request| held.holds(good(request)));
    let yard = hearing(&model, &heard).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(1).await;
    yard.shut_down("SIGTERM received").await;
    let alerts = heard.alerts();
    assert_eq!(alerts.iter().map(|alert| alert.kind).collect::<Vec<_>>(), [AlertKind::Shutdown]);
    assert!(alerts[0].text.contains("SIGTERM received") && alerts[0].text.contains(id.as_str()), "{}", alerts[0].text);
    hearing(&model, &heard).await.shut_down("SIGTERM received").await;
    assert_eq!(heard.alerts().len(), 1);
}

fn breaker(model: &str, at_ms: u64) -> Write {
    Write::Alert(Box::new(Alert {
        id: format!("alert-breaker-{model}-{at_ms}"),
        kind: AlertKind::BreakerOpen,
        text: "open".to_owned(),
        fields: vec![("model".to_owned(), model.to_owned())],
        at_ms,
    }))
}

#[tokio::test]
async fn the_same_breaker_is_silent_for_ten_minutes_after_an_alert_also_across_a_restart() {
    let store = MemoryStore::new();
    let keeper = keeper_over(&store);
    for (model, at_ms) in [("p/a", 1_000_000), ("p/a", 1_300_000), ("p/b", 1_300_000)] {
        keeper.save(vec![breaker(model, at_ms)]).await.unwrap();
    }
    assert_eq!(keeper.outgoing().unwrap().len(), 2);
    let keeper = keeper_over(&store.after_power_cut());
    keeper.save(vec![breaker("p/a", 1_599_999)]).await.unwrap();
    assert_eq!(keeper.outgoing().unwrap().len(), 2);
    keeper.save(vec![breaker("p/a", 1_600_000)]).await.unwrap();
    // A clock that was set back does not make it silent for longer.
    keeper.save(vec![breaker("p/b", 500_000)]).await.unwrap();
    assert_eq!(keeper.outgoing().unwrap().len(), 4);
}

#[tokio::test]
async fn alerts_that_nobody_takes_and_those_that_were_sent_are_bounded() {
    let keeper = keeper_over(&MemoryStore::new());
    for n in 0..120 {
        keeper.save(vec![breaker(&format!("p/m{n:03}"), 1000 + n)]).await.unwrap();
    }
    let waiting = keeper.outgoing().unwrap();
    assert_eq!((waiting.len(), waiting[0].key()), (100, "alert-breaker-p/m020-1020".to_owned()));
    for mut record in waiting {
        record.receipt = Some(String::new());
        keeper.save(vec![Write::Sent(Box::new(record))]).await.unwrap();
    }
    for n in 0..150 {
        keeper.save(vec![breaker(&format!("p/n{n:03}"), 2000 + n)]).await.unwrap();
        let mut record = keeper.outgoing().unwrap().pop().unwrap();
        record.receipt = Some(String::new());
        keeper.save(vec![Write::Sent(Box::new(record))]).await.unwrap();
    }
    assert_eq!(keeper.outgoing().unwrap().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn alerts_of_a_webhook_that_is_configured_no_more_are_given_up_and_say_so() {
    let yard = Yard::start(&all_rounder(&Journal::new())).await;
    yard.handle.keeper().save(vec![breaker("p/a", 1)]).await.unwrap();
    yard.shared::<OutboxMsg>()[0].cast(OutboxMsg::Wake).unwrap();
    deliveries().await;
    let record = yard.handle.keeper().outgoing().unwrap().remove(0);
    assert!(record.receipt.unwrap().contains("no webhook"));
}

#[tokio::test(start_paused = true)]
async fn a_session_with_an_unclosed_issue_is_kept_and_one_that_is_let_go_of_leaves_no_index_entry() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let model = all_rounder(&Journal::new());
    let yard = Yard::over(dir, MemoryStore::new(), Tracker::failing(0), &model, three_calls).await;
    let keeper = yard.handle.keeper();
    let (kept, gone) = (yard.submit("one", "one").await.unwrap(), yard.submit("two", "two").await.unwrap());
    for id in [&kept, &gone] {
        yard.handle.wait(id).await;
    }
    deliveries().await;
    yard.tracker.fail_from_now_on();
    yard.handle.cancel(&kept).await.unwrap();
    let mut failed = yard.record(&gone).session;
    failed.phase = Phase::Failed;
    keeper.save(vec![Write::Head(Box::new(failed))]).await.unwrap();
    deliveries().await;
    let pruned = keeper.prune(u64::MAX, Default::default()).await.unwrap();
    assert_eq!(pruned.iter().map(|session| &session.id).collect::<Vec<_>>(), [&gone]);
    assert_eq!(keeper_over(&yard.store.after_power_cut()).standing(&gone), None);
    yard.tracker.mend();
    tokio::time::sleep(S(100)).await;
    assert_eq!(yard.tracker.closed().len(), 1);
    assert_eq!(keeper.prune(u64::MAX, Default::default()).await.unwrap().len(), 1);
}
