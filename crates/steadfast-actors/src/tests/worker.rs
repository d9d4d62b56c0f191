//! A worker with its models' actors: failover, patience, budgets, and what is durable when.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::failover::Policy;
use steadfast_core::fault::{Fault, NetworkFault};
use steadfast_core::ids::SessionId;
use steadfast_core::session::{AttemptOutcome, Spent};
use steadfast_store::{BackendError, MemoryStore, StoreError};
use tokio::time::Instant;

use super::clock::settle;
use super::rig::{Rig, S, Tuning, task, task_of};
use super::script::{Gate, Journal, Reply, Scripted, after, fails, text};
use super::store::SlowStore;
use crate::budget::{Limit, Limits};
use crate::records::Answer;
use crate::worker::Executed;

fn down() -> Reply {
    fails(Fault::Unavailable)
}

fn answer(executed: Executed) -> Answer {
    match executed {
        Executed::Answered(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// The seed's example: a timeout after 300,000 ms, a pause of 1 s, success with the second model.
#[tokio::test(start_paused = true)]
async fn a_timeout_of_the_first_model_is_followed_by_the_second_after_one_second() {
    let journal = Journal::new();
    let models = vec![
        Scripted::new("codellama-7b", &journal).always(Reply::TimesOut),
        Scripted::new("codellama-13b", &journal),
        Scripted::new("gpt-5-nano", &journal),
    ];
    let mut rig = Rig::start(models, Tuning::default()).await;
    let begun = Instant::now();
    let answer = answer(rig.execute(task(1)).await);
    assert_eq!(answer.model.as_str(), "p/codellama-13b");
    assert!(answer.fallback);
    let AttemptOutcome::Failed { message, .. } = &answer.attempts[0].outcome else { panic!("{answer:?}") };
    assert_eq!(message, "Timeout after 300000ms");
    assert_eq!(answer.attempts[0].duration_ms, 300_000);
    assert_eq!(answer.attempts[1].outcome, AttemptOutcome::Answered);
    assert_eq!(begun.elapsed(), S(301));
    assert_eq!(rig.told(), "codellama-7b:Timeout +1 codellama-13b:ok");
    assert_eq!(rig.breaker("codellama-7b").await, "MONITORING (1/3)");
    assert_eq!(rig.breaker("codellama-13b").await, "CLOSED");
}

#[tokio::test(start_paused = true)]
async fn a_first_model_whose_timeouts_make_others_answer_is_given_more_time_also_after_a_restart() {
    let journal = Journal::new();
    let models =
        || vec![Scripted::new("slow", &journal).always(after(330, text("good"))), Scripted::new("two", &journal)];
    let store = MemoryStore::new();
    let tuning = |auto_timeout| Tuning { auto_timeout, store: Arc::new(store.clone()), ..Tuning::default() };
    let late = |fault: &str| format!("slow:{fault} +1 two:ok");
    let mut rig = Rig::start(models(), tuning(true)).await;
    for nth in 1..=3 {
        rig.execute(task(nth)).await;
    }
    let timed_out = late("no");
    assert_eq!(rig.told(), format!("{timed_out} {timed_out} {timed_out} slow:raised to 360"));
    // Nobody waits for a raise to be on disk; the end of the writer does.
    rig.keeper.close().await;
    let mut rig = Rig::start(models(), tuning(true)).await;
    rig.reset("slow").await;
    assert_eq!(answer(rig.execute(task(4)).await).model.as_str(), "p/slow");
    assert_eq!(rig.told(), "slow:ok");
    assert_eq!(journal.asked().last().unwrap().request.timeout, S(360));
    let rig = Rig::start(models(), tuning(false)).await;
    rig.execute(task(5)).await;
    assert!(journal.asked().iter().rev().take(2).all(|asked| asked.request.timeout == S(300)));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_costs_no_time_and_no_attempt() {
    let journal = Journal::new();
    let models = vec![Scripted::new("one", &journal).first([fails(Fault::Denied)]), Scripted::new("two", &journal)];
    let mut rig = Rig::start(models, Tuning::default()).await;
    rig.execute(task(1)).await;
    rig.told();
    let begun = Instant::now();
    let answer = answer(rig.execute(task(2)).await);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(rig.told(), "one:refused two:ok");
    assert_eq!(answer.spent.calls, 1);
}

/// Three parallel agents open all breakers within seconds; that is a short outage, and no reason to degrade.
#[tokio::test(start_paused = true)]
async fn an_outage_that_opens_every_breaker_is_waited_out() {
    let journal = Journal::new();
    let until = Instant::now() + S(90);
    let model =
        |name| Scripted::new(name, &journal).by(move |_| if Instant::now() < until { down() } else { text("good") });
    let mut rig = Rig::start(vec![model("one"), model("two"), model("three")], Tuning::patient()).await;
    let begun = Instant::now();
    let agents: Vec<_> = (1..=3).map(|nth| rig.begin(task(nth))).collect();
    for agent in agents {
        let answer = answer(agent.await.unwrap());
        assert!(!answer.text.is_empty());
    }
    // Opened within 10 s, tested in vain once at 60 s, and answered by the next tests.
    assert!(begun.elapsed() >= S(120) && begun.elapsed() < S(135), "{:?}", begun.elapsed());
    assert!(!rig.told().contains("exhausted"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_breakers_test_ends_at_once_when_a_model_recovers() {
    let journal = Journal::new();
    let models = vec![
        Scripted::new("one", &journal).first([fails(Fault::QuotaExhausted)]),
        Scripted::new("two", &journal).first([fails(Fault::RateLimited { retry_after: Some(S(500)) })]),
    ];
    let mut rig = Rig::start(models, Tuning::patient()).await;
    let begun = Instant::now();
    let mut waiting = rig.begin(task(1));
    tokio::time::sleep(S(20)).await;
    assert!(waiting.try_recv().is_err());
    assert_eq!(rig.told(), "one:QuotaExhausted +1 two:RateLimited ~500");
    rig.reset("two").await;
    let answer = answer(waiting.await.unwrap());
    assert_eq!((answer.model.name(), begun.elapsed()), ("two", S(20)));
}

#[tokio::test(start_paused = true)]
async fn a_test_of_another_execution_that_succeeds_ends_the_wait() {
    let journal = Journal::new();
    let client = Scripted::new("one", &journal).first([down(), down(), down(), down(), after(30, text("good"))]);
    let mut rig = Rig::start(vec![client], Tuning::patient()).await;
    let begun = Instant::now();
    let (first, second) = (rig.begin(task(1)), rig.begin(task(2)));
    answer(first.await.unwrap());
    answer(second.await.unwrap());
    // Both want the test at 60 s; one gets it, the other waits for its end and not for its lease of 300 s.
    assert!(begun.elapsed() >= S(90) && begun.elapsed() < S(95), "{:?} {}", begun.elapsed(), rig.told());
}

/// Wherever the recovery falls between the refusal and the wait, it is not missed.
#[tokio::test(start_paused = true)]
async fn a_recovery_at_any_moment_is_not_missed() {
    for turns in 0..40 {
        let journal = Journal::new();
        let client = Scripted::new("one", &journal).first([fails(Fault::RateLimited { retry_after: Some(S(500)) })]);
        let rig = Rig::start(vec![client], Tuning::patient()).await;
        let opens = rig.begin(task(1));
        tokio::time::sleep(S(10)).await;
        drop(opens);
        let begun = Instant::now();
        let waiting = rig.begin(task(2));
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        rig.reset("one").await;
        answer(waiting.await.unwrap());
        assert!(begun.elapsed() < S(1), "after {turns} turns it took {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_patience_degrades_when_it_ends_and_not_before() {
    let journal = Journal::new();
    let model = |name| Scripted::new(name, &journal).always(down());
    let mut rig = Rig::start(vec![model("one"), model("two")], Tuning::patient()).await;
    let begun = Instant::now();
    let executed = rig.execute(task(1)).await;
    assert!(matches!(executed, Executed::Exhausted { .. }), "{executed:?}");
    // The patience of 600 s begins when nothing but tests is left, some 30 s after the start.
    let took = begun.elapsed();
    assert!(took > S(560) && took < S(640), "{took:?}");
    assert!(rig.told().ends_with("exhausted"));
}

#[tokio::test(start_paused = true)]
async fn without_patience_it_degrades_as_soon_as_nothing_is_left() {
    let journal = Journal::new();
    let model = |name| Scripted::new(name, &journal).always(fails(Fault::Denied));
    let mut rig = Rig::start(vec![model("one"), model("two")], Tuning::default()).await;
    let executed = rig.execute(task(1)).await;
    let Executed::Exhausted { attempts } = executed else { panic!("{executed:?}") };
    assert_eq!(attempts.len(), 2);
    assert_eq!(rig.told(), "one:Denied +1 two:Denied exhausted");
}

#[tokio::test(start_paused = true)]
async fn our_own_network_down_is_waited_out_however_long_and_no_breaker_opens() {
    let journal = Journal::new();
    let until = Instant::now() + S(3 * 3600);
    let cut_off = || fails(Fault::Network(NetworkFault::ResolverDown));
    let model =
        |name| Scripted::new(name, &journal).by(move |_| if Instant::now() < until { cut_off() } else { text("good") });
    let mut rig = Rig::start(vec![model("one"), model("two")], Tuning::patient()).await;
    let begun = Instant::now();
    let answer = answer(rig.execute(task(1)).await);
    assert!(begun.elapsed() >= S(3 * 3600) && begun.elapsed() <= S(3 * 3600 + 60), "{:?}", begun.elapsed());
    assert_eq!(answer.model.name(), if answer.fallback { "two" } else { "one" });
    assert_eq!((rig.breaker("one").await, rig.breaker("two").await), ("CLOSED".into(), "CLOSED".into()));
    assert!(!rig.told().contains("exhausted"));
}

#[tokio::test(start_paused = true)]
async fn our_own_network_down_never_degrades_even_without_patience() {
    let journal = Journal::new();
    let until = Instant::now() + S(3600);
    let cut_off = || fails(Fault::Network(NetworkFault::Unreachable));
    let model =
        |name| Scripted::new(name, &journal).by(move |_| if Instant::now() < until { cut_off() } else { text("good") });
    let rig = Rig::start(vec![model("one"), model("two")], Tuning::default()).await;
    answer(rig.execute(task(1)).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_durable_is_never_asked_for_again() {
    let (journal, store) = (Journal::new(), MemoryStore::new());
    let tuning = Tuning { store: Arc::new(store.clone()), ..Tuning::default() };
    let mut rig = Rig::start(vec![Scripted::new("one", &journal)], tuning).await;
    let first = answer(rig.execute(task(1)).await);
    rig.told();
    assert_eq!(answer(rig.execute(task(1)).await), first);
    assert_eq!(rig.told(), "one:reused");
    let tuning = Tuning { store: Arc::new(store.after_power_cut()), ..Tuning::default() };
    let later = Rig::start(vec![Scripted::new("one", &journal)], tuning).await;
    assert_eq!(answer(later.execute(task(1)).await), first);
    assert_eq!(journal.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_durable_before_it_is_delivered() {
    let (journal, store) = (Journal::new(), SlowStore::default());
    let tuning = Tuning { store: Arc::new(store.clone()), ..Tuning::default() };
    let rig = Rig::start(vec![Scripted::new("one", &journal)], tuning).await;
    let sync = store.hold_next_sync();
    let mut executed = rig.begin(task(1));
    sync.begun().await;
    settle().await;
    assert!(executed.try_recv().is_err(), "delivered before it was on disk");
    sync.release();
    answer(executed.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_made_durable_is_not_used() {
    let (journal, store) = (Journal::new(), MemoryStore::new());
    let tuning = Tuning { store: Arc::new(store.clone()), ..Tuning::default() };
    let rig = Rig::start(vec![Scripted::new("one", &journal)], tuning).await;
    store.fail_syncs([StoreError::Index { source: BackendError::new("the disk is gone") }]);
    let executed = rig.execute(task(1)).await;
    assert!(matches!(&executed, Executed::NotSaved(reason) if reason.contains("the disk is gone")), "{executed:?}");
}

/// `kill -9` after three failed calls: the walk goes on behind them.
#[tokio::test(start_paused = true)]
async fn an_interrupted_execution_goes_on_where_it_was() {
    let (journal, store) = (Journal::new(), MemoryStore::new());
    let model = |name| Scripted::new(name, &journal);
    let models = || {
        vec![
            model("one").always(fails(Fault::TimedOut)),
            model("two").first([fails(Fault::BadRequest)]),
            model("three").always(Reply::Hangs),
        ]
    };
    let tuning = Tuning { store: Arc::new(store.clone()), ..Tuning::default() };
    let mut rig = Rig::start(models(), tuning).await;
    let executed = rig.begin(task(1));
    journal.reaches(3).await;
    drop(executed);
    rig.keeper.close().await;
    assert_eq!(rig.told(), "one:TimedOut +1 two:BadRequest +2");
    let models =
        vec![model("one").always(fails(Fault::TimedOut)), model("two"), model("three").first([down(), down()])];
    let tuning = Tuning { store: Arc::new(store.after_kill()), ..Tuning::default() };
    let mut rig = Rig::start(models, tuning).await;
    let answer = answer(rig.execute(task(1)).await);
    // Model two is out, model one may time out once more, and the pauses go on from where they were.
    assert_eq!(rig.told(), "+2 three:Unavailable +4 one:TimedOut +8 three:Unavailable +16 three:ok");
    assert_eq!(answer.attempts.len(), 6, "{answer:?}");
    assert_eq!(answer.spent.calls, 6);
}

/// What a failed execution knew of the breakers is not in its log; it asks them.
#[tokio::test(start_paused = true)]
async fn an_interrupted_execution_still_waits_for_breaker_tests() {
    let (journal, store) = (Journal::new(), MemoryStore::new());
    let limited = || fails(Fault::RateLimited { retry_after: Some(S(300)) });
    let tuning = Tuning { store: Arc::new(store.clone()), ..Tuning::patient() };
    let mut rig = Rig::start(vec![Scripted::new("one", &journal).first([limited()])], tuning).await;
    let executed = rig.begin(task(1));
    tokio::time::sleep(S(10)).await;
    assert_eq!(rig.told(), "one:RateLimited ~300");
    drop(executed);
    rig.keeper.close().await;
    let tuning = Tuning { store: Arc::new(store.after_kill()), ..Tuning::patient() };
    let mut rig = Rig::start(vec![Scripted::new("one", &journal)], tuning).await;
    let answer = answer(rig.execute(task(1)).await);
    assert_eq!(rig.told(), "~300 one:ok");
    assert_eq!(answer.spent.calls, 2);
}

#[tokio::test(start_paused = true)]
async fn parallel_executions_make_exactly_as_many_calls_as_the_budget_allows() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let limit = Limit { calls: Some(5), ..Limit::default() };
    let tuning =
        Tuning { limits: Limits { session: limit, day: Limit::default() }, max_concurrency: 3, ..Tuning::default() };
    let rig = Rig::start(vec![Scripted::new("one", &journal).always(gate.holds(text("good")))], tuning).await;
    let executions: Vec<_> = (1..=9).map(|nth| rig.begin(task(nth))).collect();
    settle().await;
    gate.open();
    let (mut answered, mut refused) = (0, 0);
    for executed in executions {
        match executed.await.unwrap() {
            Executed::Answered(_) => answered += 1,
            Executed::BudgetSpent(reason) => {
                assert_eq!(reason, "the session's budget of 5 calls is spent");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((answered, refused, journal.asked().len()), (5, 4, 5));
    assert_eq!(rig.ledger.spent(&SessionId::new(1, 1)).calls, 5);
    // Another session has a budget of its own.
    answer(rig.execute(task_of(&SessionId::new(1, 2), 1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_model_made_is_given_back_to_the_budget() {
    let journal = Journal::new();
    let limit = Limit { calls: Some(3), ..Limit::default() };
    let tuning = Tuning { limits: Limits { session: limit, day: Limit::default() }, ..Tuning::default() };
    let models = vec![Scripted::new("one", &journal).first([fails(Fault::Denied)]), Scripted::new("two", &journal)];
    let rig = Rig::start(models, tuning).await;
    answer(rig.execute(task(1)).await);
    answer(rig.execute(task(2)).await);
    assert!(matches!(rig.execute(task(3)).await, Executed::BudgetSpent(_)));
    assert_eq!(journal.shown(), "one@0 two@1 two@1");
}

/// An execution that is given up while its call waits in the model's queue has bought nothing.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_before_it_was_made_is_given_back_to_the_budget() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let tuning = Tuning { max_concurrency: 1, ..Tuning::default() };
    let rig = Rig::start(vec![Scripted::new("one", &journal).always(gate.holds(text("good")))], tuning).await;
    let (first, second) = (rig.begin(task(1)), rig.begin(task(2)));
    settle().await;
    drop(second);
    settle().await;
    gate.open();
    answer(first.await.unwrap());
    settle().await;
    assert_eq!(journal.asked().len(), 1);
    assert_eq!(rig.ledger.spent(&SessionId::new(1, 1)).calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_drill_passes_the_first_model_over_and_touches_no_breaker() {
    let journal = Journal::new();
    let tuning = Tuning { fail_primary: true, ..Tuning::default() };
    let models = vec![Scripted::new("one", &journal), Scripted::new("two", &journal)];
    let mut rig = Rig::start(models, tuning).await;
    for nth in 1..=5 {
        let answer = answer(rig.execute(task(nth)).await);
        assert_eq!((answer.model.name(), answer.fallback), ("two", true));
        assert_eq!(answer.spent, Spent { calls: 1, ..answer.spent });
        let AttemptOutcome::Refused { reason } = &answer.attempts[0].outcome else { panic!("{answer:?}") };
        assert!(reason.contains("FAIL_PRIMARY"), "{reason}");
    }
    assert!(journal.asked().iter().all(|asked| asked.model == "two"));
    assert_eq!(rig.breaker("one").await, "CLOSED");
    assert!(rig.told().starts_with("one:refused two:ok"));
}

#[tokio::test(start_paused = true)]
async fn a_model_actor_that_crashes_during_a_call_costs_one_attempt_and_the_execution_goes_on() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let models = vec![Scripted::new("one", &journal).first([gate.holds(text("good"))]), Scripted::new("two", &journal)];
    let mut rig = Rig::start(models, Tuning::default()).await;
    let executed = rig.begin(task(1));
    journal.reaches(1).await;
    rig.crash("one").await;
    let answer = answer(executed.await.unwrap());
    assert_eq!(answer.model.name(), "two");
    assert_eq!(rig.told(), "one:the +1 two:ok");
}

#[tokio::test(start_paused = true)]
async fn an_execution_whose_caller_goes_ends_its_call() {
    let journal = Journal::new();
    let rig = Rig::start(
        vec![Scripted::new("one", &journal).first([Reply::Hangs])],
        Tuning { max_concurrency: 1, ..Tuning::default() },
    )
    .await;
    let executed = rig.begin(task(1));
    journal.reaches(1).await;
    drop(executed);
    settle().await;
    answer(rig.execute(task(2)).await);
    assert_eq!(rig.breaker("one").await, "CLOSED");
}

#[tokio::test(start_paused = true)]
async fn pauses_double_up_to_the_longest() {
    let journal = Journal::new();
    let policy = Policy { max_retries: 9.try_into().unwrap(), outage_patience: Duration::ZERO, ..Policy::default() };
    let tuning = Tuning { policy, threshold: 100, ..Tuning::default() };
    let mut rig = Rig::start(vec![Scripted::new("one", &journal).always(down())], tuning).await;
    rig.execute(task(1)).await;
    let told = rig.told().replace("one:Unavailable ", "");
    assert_eq!(told, "+1 +2 +4 +8 +16 +32 +60 +60 exhausted");
}
