//! Other settings while sessions are at work.

use steadfast_core::ids::Role;
use steadfast_core::session::Phase;

use super::script::{Gate, Journal, Reply, Scripted};
use super::yard::{Yard, all_rounder, good};

fn one_at_a_time(settings: &mut crate::Settings) {
    settings.max_sessions = 1.try_into().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_at_work_keeps_its_call_and_asks_the_new_models_from_its_next_question_on() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let held = gate.clone();
    let old = Scripted::new("old", &journal).by(move |request| match request.context.role {
        Role::Planner => held.holds(good(request)),
        Role::Coder | Role::Reviewer => Reply::Hangs,
    });
    let yard = Yard::start(&old).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(1).await;
    yard.configure(&Scripted::new("new", &journal).by(good), |_| ()).await;
    gate.open();
    yard.handle.wait(&id).await;
    yard.assert_whole(&id);
    let models: Vec<String> = journal.asked().into_iter().map(|asked| asked.model).collect();
    assert_eq!(
        models.iter().filter(|model| *model == "old").count(),
        1,
        "the plan was not asked for again: {models:?}"
    );
    assert!(models[1..].iter().all(|model| model == "new"), "{models:?}");
    let status = yard.handle.status().await.unwrap();
    assert_eq!(status.roles[0].models.len(), 1);
    assert_eq!(status.roles[0].models[0].0.as_str(), "p/new");
}

#[tokio::test(start_paused = true)]
async fn more_sessions_at_once_begin_as_soon_as_they_may_and_fewer_end_none() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let held = gate.clone();
    let model = Scripted::new("model", &journal).by(move |request| held.holds(good(request)));
    let yard = Yard::tuned(&model, one_at_a_time).await;
    let mut ids = Vec::new();
    for idea in ["one", "two", "three"] {
        ids.push(yard.submit(idea, idea).await.unwrap());
    }
    journal.reaches(1).await;
    yard.configure(&model, |settings| settings.max_sessions = 2.try_into().unwrap()).await;
    journal.reaches(2).await;
    yard.configure(&model, one_at_a_time).await;
    let beat = yard.handle.beat().await.unwrap();
    assert_eq!((beat.active.len(), beat.n_queued), (2, 1));
    gate.open();
    for id in &ids {
        yard.handle.wait(id).await;
        yard.assert_whole(id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_raised_lets_a_parked_session_go_on() {
    let journal = Journal::new();
    let model = all_rounder(&journal);
    let yard = Yard::tuned(&model, |settings| settings.limits.session.calls = Some(1)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    assert!(yard.record(&id).session.interrupt.is_some());
    yard.configure(&model, |settings| settings.limits.session.calls = Some(50)).await;
    yard.handle.take_up(&id, false).await.unwrap();
    yard.handle.wait(&id).await;
    assert_eq!(yard.phase(&id), Phase::Completed);
}

#[tokio::test(start_paused = true)]
async fn issues_go_to_the_new_tracker_at_once_also_those_that_the_old_one_did_not_take() {
    let journal = Journal::new();
    let model = all_rounder(&journal);
    let dead = super::yard::Tracker::failing(u32::MAX);
    let tracker = std::sync::Arc::clone(&dead);
    let yard = Yard::tuned(&model, |settings| {
        settings.limits.session.calls = Some(1);
        settings.tracker = std::sync::Arc::new(super::yard::Shared(tracker));
    })
    .await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(yard.tracker.filed().len(), 0);
    let before = tokio::time::Instant::now();
    yard.configure(&model, |_| ()).await;
    while yard.tracker.filed().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(before.elapsed() < std::time::Duration::from_secs(1), "not only after the old one's pause");
}
