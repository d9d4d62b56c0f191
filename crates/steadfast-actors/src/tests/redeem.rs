//! What stand-ins have done is made up for: by whom, when, and who goes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steadfast_core::fault::Fault;
use steadfast_core::ids::{Role, SessionId};
use steadfast_core::session::{Due, MilestoneStatus, Owed, Phase};
use steadfast_model::CallRequest;
use steadfast_store::{Batch, CheckpointStore as _, Key, Prefix};
use tokio::time::Instant;

use super::rig::{S, model_id, session_policy};
use super::script::{Gate, Journal, Reply, Scripted, fails};
use super::store::SlowStore;
use super::yard::{Yard, all_rounder, good};
use crate::checkpoint_keeper::Keeper;

/// Three files of the first milestone, each once in each of three tries.
const REFUSED: usize = 9;

/// One model for all roles. It refuses so many of the first milestone's files, which opens no breaker, and then does as it
/// is told.
fn refuses_at_first(
    journal: &Journal,
    n: usize,
    then: impl Fn(&CallRequest) -> Reply + Send + Sync + 'static,
) -> Scripted {
    let asked = AtomicUsize::new(0);
    Scripted::new("model", journal).by(move |request| {
        let context = &request.context;
        let counts = context.role == Role::Coder && context.milestone == Some(1) && context.idea.as_str() == "one";
        if counts && asked.fetch_add(1, Ordering::Relaxed) < n { fails(Fault::BadRequest) } else { then(request) }
    })
}

/// Lets the time pass until it is so.
async fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < S(24 * 3600), "{what} did not happen within a day");
        tokio::time::sleep(S(1)).await;
    }
}

fn owed(yard: &Yard, id: &SessionId) -> Vec<Owed> {
    yard.handle.keeper().debts(id).unwrap().map(|debts| debts.owed()).unwrap_or_default()
}

fn is_at_rest(yard: &Yard, id: &SessionId) -> bool {
    yard.phase(id) == Phase::Completed && owed(yard, id).is_empty()
}

fn assert_redeemed(yard: &Yard, id: &SessionId, commits: &[u32]) {
    assert_eq!(yard.commits(id), commits);
    let record = yard.record(id);
    assert!(record.milestones.iter().all(|milestone| milestone.status() == MilestoneStatus::Completed));
    // Packed, for nothing is owed any more.
    assert!(yard.handle.keeper().load(id).is_err(), "its idea went with its parts");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_nobody_else_tests_is_tested_by_the_redemption() {
    let journal = Journal::new();
    let begun = Instant::now();
    let coder = Scripted::new("coder", &journal).by(move |request| match begun.elapsed() < S(30) {
        true => fails(Fault::Unavailable),
        false => good(request),
    });
    let other = coder.clone();
    let mut yard = Yard::tuned(&all_rounder(&journal), move |settings| {
        let mut models: BTreeMap<_, _> = (*settings.models).clone();
        let mut one = models.values().next().unwrap().clone();
        one.client = Ok(other.client());
        models.insert(model_id("coder"), one);
        settings.models = Arc::new(models);
        settings.roles.insert(Role::Coder, vec![model_id("coder")]);
    })
    .await;
    yard.handle.begin_redeeming();
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    assert_eq!(owed(&yard, &id), [Owed::Milestone(1), Owed::Milestone(2)]);
    until("the redemption", || is_at_rest(&yard, &id)).await;
    assert!(begun.elapsed() > S(60) && begun.elapsed() < S(90), "{:?}", begun.elapsed());
    yard.handle.settle_outbox(S(10)).await;
    let closed: Vec<String> = yard.tracker.closed().into_iter().map(|closing| closing.issue).collect();
    assert_eq!(closed, [format!("{id}-m1-manual"), format!("{id}-m2-manual")]);
    assert_redeemed(&yard, &id, &[1, 2, 1, 2]);
    assert_eq!(yard.failures(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_redemption_whose_model_is_down_again_leaves_everything_as_it_was() {
    let journal = Journal::new();
    let yard = Yard::start(&refuses_at_first(&journal, REFUSED + 3, good)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    let before = yard.record(&id);
    yard.handle.begin_redeeming();
    let is_put_back = || {
        let debts = yard.handle.keeper().debts(&id).unwrap().unwrap();
        yard.phase(&id) == Phase::Completed && matches!(debts.due(0, Duration::MAX), Due::From(..))
    };
    until("a try", is_put_back).await;
    yard.handle.wait(&id).await;
    let after = yard.record(&id);
    assert_eq!((after.milestones, after.issues, after.plan), (before.milestones, before.issues, before.plan));
    assert_eq!((after.session.current, after.session.tip), (before.session.current, before.session.tip));
    assert_eq!(yard.commits(&id), [1, 2]);
    assert_eq!((yard.tracker.closed(), owed(&yard, &id)), (Vec::new(), vec![Owed::Milestone(1)]));
}

#[tokio::test(start_paused = true)]
async fn a_redemption_takes_no_place_from_a_new_session() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let held = gate.clone();
    let model = refuses_at_first(&journal, REFUSED, move |request| {
        let context = &request.context;
        let is_held = context.idea.as_str() == "one" && context.milestone == Some(1) && context.role == Role::Coder;
        if is_held { held.holds(good(request)) } else { good(request) }
    });
    let yard = Yard::tuned(&model, |settings| settings.max_sessions = 1.try_into().unwrap()).await;
    yard.handle.begin_redeeming();
    let id = yard.submit("one", "one").await.unwrap();
    yard.handle.wait(&id).await;
    until("the redemption", || yard.phase(&id) == Phase::Implementing).await;
    let other = yard.submit("two", "two").await.unwrap();
    yard.handle.wait(&other).await;
    yard.assert_whole(&other);
    assert_eq!(yard.phase(&id), Phase::Implementing);
    gate.open();
    until("its end", || is_at_rest(&yard, &id)).await;
    assert_redeemed(&yard, &id, &[1, 2, 1]);
}

/// What is closed when its session is packed must not be lost between the two.
#[tokio::test(start_paused = true)]
async fn an_issue_and_a_milestone_are_found_while_their_session_is_packed() {
    let journal = Journal::new();
    let yard = Yard::start(&refuses_at_first(&journal, REFUSED, good)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    yard.handle.settle_outbox(S(10)).await;
    let whole = yard.record(&id);
    let key = whole.issues[0].issue.key.clone();
    // As it is packed, made beside it.
    let beside = yard.store.after_kill();
    let keeper = Keeper::over(Arc::new(beside.clone()), session_policy(), Vec::new()).unwrap();
    keeper.archive(&id).await.unwrap();
    let packed = beside.get(&Key::session_head(&id)).unwrap().unwrap().record;
    let pack = || {
        let store = SlowStore::over(yard.store.after_kill());
        let keeper = Keeper::over(Arc::new(store.clone()), session_policy(), Vec::new()).unwrap();
        let mut batch = Batch::new();
        batch.delete_all(Prefix::session_parts(&id));
        batch.put(Key::session_head(&id), packed.clone());
        store.apply_before_next_scan(batch);
        keeper
    };
    assert_eq!(pack().issue(&key).unwrap().map(|record| record.issue.key), Some(key));
    assert_eq!(pack().issues().unwrap(), whole.issues);
    assert_eq!(pack().record(&id).unwrap(), Some(whole));
}
