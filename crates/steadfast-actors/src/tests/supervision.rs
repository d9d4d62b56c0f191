//! Actors that end in the middle of their work are started again, and the session ends as if nothing had been.

use std::time::Duration;

use steadfast_core::fault::{CallFault, Fault};
use steadfast_core::ids::Role;
use steadfast_core::session::Phase;
use steadfast_model::CallRequest;
use steadfast_store::Key;

use super::clock::settle;
use super::rig::S;
use super::script::{Gate, Journal, Reply, Scripted};
use super::yard::{CALLS, Yard, all_rounder, good};
use crate::aggregator::AggregatorMsg;
use crate::file_agent::FileAgentMsg;
use crate::model::ModelMsg;
use crate::outbox::OutboxMsg;
use crate::sentinel::SentinelMsg;
use crate::session::SessionMsg;
use crate::worker::WorkerMsg;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    Aggregator,
    FileAgent,
    Worker,
    Model,
    Outbox,
    Sentinel,
}

const KINDS: [Kind; 7] =
    [Kind::Session, Kind::Aggregator, Kind::FileAgent, Kind::Worker, Kind::Model, Kind::Outbox, Kind::Sentinel];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Panic,
    Kill,
}

/// Ends the youngest actor of a kind, and lets everyone take note. Whether there was one.
async fn end(yard: &Yard, kind: Kind, how: How) -> bool {
    macro_rules! end_last {
        ($actors:expr, $crash:expr) => {{
            let last = $actors.pop();
            match (&last, how) {
                (Some(actor), How::Panic) => drop(actor.cast($crash)),
                (Some(actor), How::Kill) => actor.kill(),
                (None, _) => {}
            }
            last.is_some()
        }};
    }
    let found = match kind {
        Kind::Session => end_last!(yard.session_actors(), SessionMsg::Crash),
        Kind::Aggregator => end_last!(yard.aggregators(), AggregatorMsg::Crash),
        Kind::FileAgent => end_last!(yard.agents(), FileAgentMsg::Crash),
        // The coder's: planner, coder and reviewer begin in this order.
        Kind::Worker => end_last!(yard.shared::<WorkerMsg>()[..2].to_vec(), WorkerMsg::Crash),
        Kind::Model => end_last!(yard.shared::<ModelMsg>(), ModelMsg::Crash),
        Kind::Outbox => end_last!(yard.shared::<OutboxMsg>(), OutboxMsg::Crash),
        Kind::Sentinel => end_last!(yard.shared::<SentinelMsg>(), SentinelMsg::Crash),
    };
    settle().await;
    found
}

/// Coders wait at the gate; everyone else answers at once.
fn gated_coders(journal: &Journal, gate: &Gate) -> Scripted {
    let gate = gate.clone();
    Scripted::new("model", journal).by(move |request: &CallRequest| match request.context.role {
        Role::Coder => gate.holds(good(request)),
        Role::Planner | Role::Reviewer => good(request),
    })
}

#[tokio::test(start_paused = true)]
async fn an_undisturbed_session_ends_with_its_commits() {
    let journal = Journal::new();
    let yard = Yard::start(&all_rounder(&journal)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    yard.assert_whole(&id);
    assert_eq!(journal.asked().len(), CALLS);
}

#[tokio::test(start_paused = true)]
async fn whichever_actor_ends_in_the_middle_of_its_work_the_session_ends_whole() {
    for how in [How::Panic, How::Kill] {
        for kind in KINDS {
            let (journal, gate) = (Journal::new(), Gate::new());
            let mut yard = Yard::start(&gated_coders(&journal, &gate)).await;
            let id = yard.submit("one", "repo").await.unwrap();
            // The plan and the first milestone's three files are asked for.
            journal.reaches(4).await;
            settle().await;
            assert!(end(&yard, kind, how).await, "{kind:?} was there");
            gate.open();
            yard.handle.wait(&id).await;
            yard.assert_whole(&id);
            let failures = yard.failures();
            assert_eq!(failures.len(), 1, "{kind:?} {how:?}: {failures:?}");
            assert!(failures[0].ends_with("(again)"), "{failures:?}");
            // Calls that were under way are lost and made again, at most; answers that had come are not asked for.
            let plans = journal.asked().iter().filter(|asked| asked.request.context.role == Role::Planner).count();
            assert_eq!(plans, 1, "{kind:?} {how:?}");
            assert!(journal.asked().len() <= CALLS + 3, "{kind:?} {how:?}: {}", journal.shown());
        }
    }
}

/// Two of three answers had come: only the third is asked for again.
#[tokio::test(start_paused = true)]
async fn answers_that_had_come_survive_the_end_of_the_session_the_aggregator_and_the_agent() {
    for how in [How::Panic, How::Kill] {
        for kind in [Kind::Session, Kind::Aggregator, Kind::FileAgent] {
            let (journal, gate) = (Journal::new(), Gate::new());
            let held = gate.clone();
            let model = Scripted::new("model", &journal).by(move |request| {
                let last = request.context.file.as_ref().is_some_and(|file| file.as_str() == "c.md");
                if last { held.holds(good(request)) } else { good(request) }
            });
            let yard = Yard::start(&model).await;
            let id = yard.submit("one", "repo").await.unwrap();
            journal.reaches(4).await;
            settle().await;
            tokio::time::sleep(S(1)).await;
            assert!(end(&yard, kind, how).await);
            gate.open();
            yard.handle.wait(&id).await;
            yard.assert_whole(&id);
            assert_eq!(journal.asked().len(), CALLS + 1, "{kind:?} {how:?}: {}", journal.shown());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_of_a_session_that_keeps_failing_fails_that_session_and_touches_no_other() {
    for how in [How::Panic, How::Kill] {
        for kind in [Kind::Session, Kind::Aggregator, Kind::FileAgent] {
            let (journal, gate) = (Journal::new(), Gate::new());
            // The other session is older and still at its plan, so that the actors that are ended are not its own.
            let held = gate.clone();
            let model = Scripted::new("model", &journal).by(move |request| {
                let other = request.context.idea.as_str() == "other";
                if other || request.context.role == Role::Coder { held.holds(good(request)) } else { good(request) }
            });
            let mut yard = Yard::start(&model).await;
            let other = yard.submit("other", "other").await.unwrap();
            journal.reaches(1).await;
            let id = yard.submit("one", "repo").await.unwrap();
            journal.reaches(5).await;
            for nth in 0..4 {
                // One that was started again is at work only when its coders have asked.
                settle().await;
                tokio::time::sleep(S(1)).await;
                assert!(end(&yard, kind, how).await, "{kind:?} {how:?} {nth}");
            }
            yard.handle.wait(&id).await;
            let record = yard.record(&id);
            assert_eq!(record.session.phase, Phase::Failed, "{kind:?} {how:?}");
            assert!(record.session.can_resume());
            let error = record.session.error.unwrap();
            assert!(error.contains("keeps failing"), "{error}");
            assert_eq!(record.issues.len(), 1);
            let failures = yard.failures();
            assert_eq!(failures.len(), 4, "{kind:?} {how:?} {failures:?}");
            assert!(failures[3].ends_with("(for good)"), "{failures:?}");
            assert_eq!(*yard.handle.alarm().borrow(), None);
            gate.open();
            yard.handle.wait(&other).await;
            yard.assert_whole(&other);
            // What failed can be taken up, and ends whole.
            yard.handle.take_up(&id, true).await.unwrap();
            yard.handle.wait(&id).await;
            assert_eq!((yard.phase(&id), yard.commits(&id)), (Phase::Completed, vec![1, 2]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_actor_that_keeps_failing_raises_the_alarm() {
    for kind in [Kind::Model, Kind::Worker, Kind::Outbox, Kind::Sentinel] {
        let journal = Journal::new();
        let yard = Yard::start(&all_rounder(&journal)).await;
        for nth in 0..4 {
            assert_eq!(*yard.handle.alarm().borrow(), None, "after {nth}");
            // The one that was started again is the youngest.
            match kind {
                Kind::Worker => drop(yard.shared::<WorkerMsg>().pop().unwrap().cast(WorkerMsg::Crash)),
                Kind::Model | Kind::Outbox | Kind::Sentinel | Kind::Session | Kind::Aggregator | Kind::FileAgent => {
                    assert!(end(&yard, kind, How::Panic).await);
                }
            }
            settle().await;
        }
        let alarm = yard.handle.alarm().borrow().clone().unwrap().to_string();
        assert!(alarm.contains("keeps failing: "), "{alarm}");
    }
}

#[tokio::test(start_paused = true)]
async fn restarts_that_lie_further_apart_than_the_window_are_not_counted_together() {
    let journal = Journal::new();
    let yard = Yard::start(&all_rounder(&journal)).await;
    for _ in 0..10 {
        assert!(end(&yard, Kind::Outbox, How::Panic).await);
        tokio::time::sleep(S(21)).await;
    }
    assert_eq!(*yard.handle.alarm().borrow(), None);
}

/// The idea's record is damaged, so that the session cannot be started: each try spends its budget.
#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_started_spends_its_budget_and_fails() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let mut yard = Yard::start(&gated_coders(&journal, &gate)).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(4).await;
    settle().await;
    assert!(yard.store.damage(&Key::session_part(&id, "idea")));
    end(&yard, Kind::Session, How::Panic).await;
    yard.handle.wait(&id).await;
    assert_eq!(yard.failures(), ["session (again)", "session (again)", "session (again)", "session (for good)"]);
    let record = yard.record(&id);
    assert_eq!(record.session.phase, Phase::Failed);
    assert_eq!(record.issues.len(), 1, "a person hears of it");
    assert_eq!(*yard.handle.alarm().borrow(), None);
}

/// A pause that no clock can hold ends the execution with a panic each time.
#[tokio::test(start_paused = true)]
async fn an_execution_that_panics_each_time_fails_its_session_and_is_not_begun_for_ever() {
    let journal = Journal::new();
    let model = Scripted::new("model", &journal)
        .by(|_| Reply::Fails(CallFault::new(Fault::Unavailable, "the server is broken")));
    let yard = Yard::tuned(&model, |settings| {
        settings.failover.backoff_initial = Duration::MAX;
        settings.failover.backoff_max = Duration::MAX;
    })
    .await;
    let id = yard.submit("one", "repo").await.unwrap();
    yard.handle.wait(&id).await;
    let session = yard.record(&id).session;
    assert_eq!(session.phase, Phase::Failed);
    assert!(session.error.clone().unwrap().contains("keep failing") && session.can_resume(), "{session:?}");
    // Its log may still be on its way to the store when it is begun again; its restarts are the bound.
    assert!(journal.asked().len() <= 4, "{}", journal.shown());
    assert_eq!(*yard.handle.alarm().borrow(), None);
}

/// A message that was on its way when a session was told to stand still comes after that.
#[tokio::test(start_paused = true)]
async fn an_interrupt_stands_whatever_comes_in_late() {
    use crate::file_agent::StopReason;
    use crate::session::Done;
    use steadfast_core::session::Interrupt;
    for late in 0..3 {
        let (journal, gate) = (Journal::new(), Gate::new());
        let yard = Yard::start(&gated_coders(&journal, &gate)).await;
        let id = yard.submit("one", "repo").await.unwrap();
        journal.reaches(4).await;
        settle().await;
        let session = yard.session_actors().remove(0);
        let (reply, saved) = tokio::sync::oneshot::channel();
        let interrupt = Interrupt { reason: "SIGTERM".to_owned(), at_ms: 1, emergency: true, parked: false };
        session.cast(SessionMsg::Interrupt { interrupt, reply }).unwrap();
        session
            .cast(match late {
                0 => SessionMsg::AgentsEnded(Vec::new()),
                1 => SessionMsg::CannotGoOn(StopReason::Broken("late".to_owned())),
                _ => SessionMsg::ActionEnded(0, Ok(Ok(Done::Rest))),
            })
            .unwrap();
        assert_eq!(saved.await, Ok(Ok(())), "{late}");
        yard.handle.wait(&id).await;
        let session = yard.record(&id).session;
        assert_eq!(session.phase, Phase::Implementing, "{late}");
        assert_eq!(session.interrupt.unwrap().reason, "SIGTERM", "{late}");
    }
}

/// The reply of an agent is dropped by a crash, never its work: a file agent that had reported is not run again.
#[tokio::test(start_paused = true)]
async fn a_crash_loop_of_one_agent_costs_no_second_answer_of_the_others() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let held = gate.clone();
    let model = Scripted::new("model", &journal).by(move |request| match request.context.file.as_ref() {
        Some(file) if file.as_str() == "a.md" => held.holds(good(request)),
        _ => good(request),
    });
    let yard = Yard::start(&model).await;
    let id = yard.submit("one", "repo").await.unwrap();
    journal.reaches(4).await;
    for _ in 0..3 {
        tokio::time::sleep(S(1)).await;
        assert!(end(&yard, Kind::FileAgent, How::Panic).await);
    }
    gate.open();
    yard.handle.wait(&id).await;
    yard.assert_whole(&id);
    assert_eq!(journal.asked().len(), CALLS + 3);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_killed_at_a_call_goes_on_with_the_answers_that_had_come() {
    for asked in 1..=CALLS {
        let (journal, gate) = (Journal::new(), Gate::new());
        let (held, counted) = (gate.clone(), journal.clone());
        let model = Scripted::new("model", &journal)
            .by(move |request| if counted.asked().len() >= asked { held.holds(good(request)) } else { good(request) });
        let yard = Yard::start(&model).await;
        let id = yard.submit("one", "repo").await.unwrap();
        journal.reaches(asked).await;
        tokio::time::sleep(S(1)).await;
        let durable = journal.asked().len();
        let later = Journal::new();
        let next = yard.after_kill(&all_rounder(&later)).await;
        // The killed process does nothing any more.
        yard.handle.supervisor().kill();
        settle().await;
        next.handle.take_up(&id, false).await.unwrap();
        next.handle.wait(&id).await;
        next.assert_whole(&id);
        assert!(later.asked().len() <= CALLS + 1 - asked, "killed at {asked} of {durable}: {}", later.shown());
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_hangs_in_one_session_does_not_hold_another() {
    let journal = Journal::new();
    let model = Scripted::new("model", &journal)
        .by(move |request| if request.context.idea.as_str() == "one" { Reply::Hangs } else { good(request) });
    let yard = Yard::start(&model).await;
    yard.submit("one", "repo").await.unwrap();
    let two = yard.submit("two", "other").await.unwrap();
    yard.handle.wait(&two).await;
    yard.assert_whole(&two);
}
