//! The actor of one model: admission, tests of an open breaker, its bound on calls, and callers that go away.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use steadfast_core::breaker::{BreakerConfig, Snapshot};
use steadfast_core::failover::Refused;
use steadfast_core::fault::{CallFault, Fault};
use steadfast_core::ids::{AttemptId, IdeaId, ModelId, Role, SessionId};
use steadfast_model::{CallContext, CallRequest, Prompt};
use tokio::sync::{oneshot, watch};

use super::clock::settle;
use super::script::{Gate, Journal, Reply, Scripted, after, fails, text};
use crate::event::Events;
use crate::model::{Ask, BreakerMemory, ModelActor, ModelArgs, ModelMsg, ModelReply, ModelStatus, SharedNetwork};

const S: fn(u64) -> Duration = Duration::from_secs;

/// Remembers the last breaker that was saved, and says that so much time has passed since.
#[derive(Default)]
struct Memory {
    saved: Mutex<Option<Snapshot>>,
    passed: Mutex<Duration>,
}

impl BreakerMemory for Memory {
    fn save(&self, _: &ModelId, snapshot: Snapshot) {
        *self.saved.lock().unwrap() = Some(snapshot);
    }

    fn load(&self, _: &ModelId) -> Option<(Snapshot, Duration)> {
        self.saved.lock().unwrap().clone().map(|snapshot| (snapshot, *self.passed.lock().unwrap()))
    }
}

/// One model actor with a threshold of 2 failures and a reset timeout of 60 s.
struct One {
    actor: ActorRef<ModelMsg>,
    args: ModelArgs,
    memory: Arc<Memory>,
}

impl One {
    async fn start(client: &Scripted, max_concurrency: usize) -> Self {
        let memory = Arc::new(Memory::default());
        let args = ModelArgs {
            meter: Arc::new(crate::meter::Meter::new(Default::default(), Default::default(), || 0)),
            model: ModelId::new("p/one").unwrap(),
            client: Ok(client.client()),
            mark: 0,
            breaker: BreakerConfig {
                failure_threshold: NonZeroU32::new(2).unwrap(),
                probe_lease: S(300),
                ..BreakerConfig::default()
            },
            max_concurrency: NonZeroUsize::new(max_concurrency).unwrap(),
            network: Arc::new(SharedNetwork::default()),
            memory: Arc::clone(&memory) as Arc<dyn BreakerMemory>,
            alerts: None,
            recoveries: Arc::new(watch::Sender::default()),
            events: Events::default(),
        };
        let (actor, _) = Actor::spawn(None, ModelActor, args.clone()).await.unwrap();
        Self { actor, args, memory }
    }

    /// Ends the actor by a panic and starts it again, as its supervisor does.
    async fn crash_and_restart(&mut self) {
        self.actor.cast(ModelMsg::Crash).unwrap();
        settle().await;
        (self.actor, _) = Actor::spawn(None, ModelActor, self.args.clone()).await.unwrap();
    }

    fn ask(&self) -> oneshot::Receiver<ModelReply> {
        self.send(request(1), |_| Ok(()))
    }

    fn send(
        &self,
        request: CallRequest,
        judge: impl Fn(&str) -> Result<(), CallFault> + Send + Sync + 'static,
    ) -> oneshot::Receiver<ModelReply> {
        let (reply, answer) = oneshot::channel();
        let judge = Arc::new(move |completion: &steadfast_model::Completion| judge(&completion.text));
        let ask = Ask { request: Arc::new(request), judge, count_bad_answer: true, made: Arc::default() };
        self.actor.cast(ModelMsg::Complete { ask, reply }).unwrap();
        answer
    }

    async fn call(&self) -> ModelReply {
        self.ask().await.unwrap()
    }

    async fn status(&self) -> ModelStatus {
        let (reply, answer) = oneshot::channel();
        self.actor.cast(ModelMsg::Status(reply)).unwrap();
        answer.await.unwrap()
    }

    async fn shown(&self) -> String {
        self.status().await.circuit_breaker
    }

    async fn reset(&self) {
        let (reply, done) = oneshot::channel();
        self.actor.cast(ModelMsg::Reset(reply)).unwrap();
        done.await.unwrap();
    }
}

/// Requests are told apart by their number.
fn request(attempt: u32) -> CallRequest {
    CallRequest {
        prompt: Prompt { system: "".into(), user: "do it".into() },
        context: CallContext {
            role: Role::Coder,
            session: SessionId::new(1, 1),
            idea: IdeaId::new("idea").unwrap(),
            milestone: None,
            file: None,
            attempt,
            id: AttemptId::new(1),
        },
        max_output_tokens: None,
        json: false,
        timeout: S(300),
    }
}

fn answered(reply: &ModelReply) -> bool {
    matches!(reply, ModelReply::Answered { .. })
}

/// Until the next test, where the call was refused for that.
fn refused_for(reply: &ModelReply) -> Option<Duration> {
    match reply {
        ModelReply::Refused { why: Refused::Open { retry_in }, .. } => Some(*retry_in),
        ModelReply::Refused { why: Refused::Unavailable { .. }, .. }
        | ModelReply::Answered { .. }
        | ModelReply::Failed { .. } => None,
    }
}

fn down() -> Reply {
    fails(Fault::Unavailable)
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_without_a_call_and_says_when_its_test_is_due() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).always(down()), 4).await;
    assert_eq!(one.shown().await, "CLOSED");
    one.call().await;
    assert_eq!(one.shown().await, "MONITORING (1/2)");
    let second = one.call().await;
    let ModelReply::Failed { retry_in: Some(retry_in), .. } = second else { panic!("{second:?}") };
    assert_eq!(retry_in, S(60));
    assert_eq!(one.shown().await, "OPEN");
    tokio::time::sleep(S(20)).await;
    assert_eq!(refused_for(&one.call().await), Some(S(40)));
    assert_eq!(journal.shown(), "one@0 one@0");
    assert_eq!(one.status().await.opens, 1);
}

#[tokio::test(start_paused = true)]
async fn when_its_time_is_up_one_call_tests_the_model_and_the_others_are_refused_at_once() {
    let journal = Journal::new();
    let client = Scripted::new("one", &journal).first([down(), down(), after(5, text("good"))]);
    let one = One::start(&client, 4).await;
    one.call().await;
    one.call().await;
    tokio::time::sleep(S(60)).await;
    assert_eq!(one.shown().await, "OPEN", "reading moves nothing");
    let test = one.ask();
    settle().await;
    assert_eq!(one.shown().await, "HALF-OPEN");
    assert_eq!(refused_for(&one.call().await), Some(S(1)), "to look again soon, for the test may end at any moment");
    assert!(answered(&test.await.unwrap()));
    assert_eq!(one.shown().await, "CLOSED");
    assert!(answered(&one.call().await));
    assert_eq!(journal.shown(), "one@0 one@0 one@60 one@65");
}

/// SPEC 3: refused, not queued. The test takes the model's only slot.
#[tokio::test(start_paused = true)]
async fn a_call_during_the_test_of_a_model_with_one_slot_is_refused_and_not_queued() {
    let journal = Journal::new();
    let client = Scripted::new("one", &journal).first([down(), down(), after(5, text("good"))]);
    let one = One::start(&client, 1).await;
    one.call().await;
    one.call().await;
    tokio::time::sleep(S(60)).await;
    let test = one.ask();
    settle().await;
    let mut second = one.ask();
    settle().await;
    assert_eq!(second.try_recv().ok().as_ref().and_then(refused_for), Some(S(1)));
    assert!(answered(&test.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_test_that_fails_opens_the_breaker_anew() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).always(down()), 4).await;
    one.call().await;
    one.call().await;
    tokio::time::sleep(S(90)).await;
    let test = one.call().await;
    assert!(matches!(test, ModelReply::Failed { retry_in: Some(retry_in), .. } if retry_in == S(60)), "{test:?}");
    assert_eq!(one.shown().await, "OPEN");
    assert_eq!(one.status().await.opens, 2);
}

#[tokio::test(start_paused = true)]
async fn a_test_whose_caller_goes_says_nothing_and_the_next_call_is_the_next_test() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).first([down(), down(), Reply::Hangs]), 4).await;
    one.call().await;
    one.call().await;
    tokio::time::sleep(S(60)).await;
    let test = one.ask();
    settle().await;
    drop(test);
    settle().await;
    assert_eq!(one.shown().await, "HALF-OPEN");
    assert_eq!(one.status().await.in_flight, 0);
    assert!(answered(&one.call().await));
    assert_eq!(one.shown().await, "CLOSED");
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_bound_wait_and_begin_in_the_order_in_which_they_came() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).always(after(10, text("good"))), 2).await;
    let calls: Vec<_> = (1..=5).map(|nth| one.send(request(nth), |_| Ok(()))).collect();
    settle().await;
    let status = one.status().await;
    assert_eq!((status.in_flight, status.waiting), (2, 3));
    for call in calls {
        assert!(answered(&call.await.unwrap()));
    }
    assert_eq!(journal.shown(), "one@0 one@0 one@10 one@10 one@20");
    let order: Vec<u32> = journal.asked().iter().map(|asked| asked.request.context.attempt).collect();
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_leaves_the_queue_and_no_call_is_made_for_him() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).always(after(10, text("good"))), 1).await;
    let (first, second, third) = (one.ask(), one.ask(), one.ask());
    settle().await;
    drop(second);
    assert!(answered(&first.await.unwrap()));
    assert!(answered(&third.await.unwrap()));
    assert_eq!(journal.shown(), "one@0 one@10");
    assert_eq!(one.status().await.waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_refuses_all_who_wait() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).always(after(1, down())), 1).await;
    let calls: Vec<_> = (0..5).map(|_| one.ask()).collect();
    let mut refused = 0;
    for call in calls {
        refused += usize::from(refused_for(&call.await.unwrap()).is_some());
    }
    assert_eq!((refused, journal.shown().as_str()), (3, "one@0 one@1"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_panics_is_a_failed_call_and_keeps_no_slot() {
    for panics in [Reply::Panics, Reply::PanicsAtOnce] {
        let journal = Journal::new();
        let one = One::start(&Scripted::new("one", &journal).first([panics]), 1).await;
        let reply = one.call().await;
        assert!(matches!(&reply, ModelReply::Failed { fault, .. } if fault.fault == Fault::Malformed), "{reply:?}");
        assert_eq!(one.shown().await, "MONITORING (1/2)");
        assert_eq!(one.status().await.in_flight, 0);
        assert!(answered(&one.call().await));
    }
}

#[tokio::test(start_paused = true)]
async fn a_judge_that_panics_is_a_bad_answer_and_keeps_no_slot() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal), 1).await;
    let reply = one.send(request(1), |_| panic!("the judge panics")).await.unwrap();
    let ModelReply::Failed { fault, usage, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(fault.fault, Fault::BadAnswer);
    assert_eq!(usage.output, 10, "it was bought all the same");
    assert_eq!(one.status().await.in_flight, 0);
    assert!(answered(&one.call().await));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ignores_its_timeout_is_cut_off_and_counts() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).first([Reply::Hangs]), 1).await;
    let reply = one.call().await;
    let ModelReply::Failed { fault, took, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((fault.fault, took), (Fault::TimedOut, S(300) + Duration::from_millis(500)));
    assert_eq!(one.shown().await, "MONITORING (1/2)");
}

#[tokio::test(start_paused = true)]
async fn failures_expire_while_nobody_calls() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).first([down()]), 1).await;
    one.call().await;
    tokio::time::sleep(S(299)).await;
    assert_eq!(one.shown().await, "MONITORING (1/2)");
    tokio::time::sleep(S(1)).await;
    assert_eq!(one.shown().await, "CLOSED");
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_from_before_the_trip_moves_nothing() {
    let journal = Journal::new();
    let client = Scripted::new("one", &journal).first([after(70, down()), down(), down()]);
    let one = One::start(&client, 4).await;
    let late = one.ask();
    settle().await;
    one.call().await;
    one.call().await;
    tokio::time::sleep(S(60)).await;
    assert!(answered(&one.call().await));
    assert_eq!(one.shown().await, "CLOSED");
    assert!(matches!(late.await.unwrap(), ModelReply::Failed { retry_in: None, .. }));
    assert_eq!(one.shown().await, "CLOSED");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_called_says_why_and_is_never_called() {
    let journal = Journal::new();
    let mut one = One::start(&Scripted::new("one", &journal), 1).await;
    one.args.client = Err("no key in ONE_KEY".to_owned());
    one.crash_and_restart().await;
    let reply = one.call().await;
    assert!(
        matches!(&reply, ModelReply::Refused { why: Refused::Unavailable { reason }, .. } if reason == "no key in ONE_KEY"),
        "{reply:?}"
    );
    assert_eq!(one.shown().await, "UNAVAILABLE (no key in ONE_KEY)");
    assert_eq!(journal.shown(), "");
}

#[tokio::test(start_paused = true)]
async fn the_latency_shown_is_the_median_of_the_last_64_answers() {
    let journal = Journal::new();
    let slow = (0..10).map(|_| after(100, text("good")));
    let fast = (0..64).map(|nth| after(nth % 3, text("good")));
    let one = One::start(&Scripted::new("one", &journal).first(slow.chain(fast)), 1).await;
    assert_eq!(one.status().await.median_latency, None);
    for _ in 0..10 {
        one.call().await;
    }
    assert_eq!(one.status().await.median_latency, Some(S(100)));
    for _ in 0..64 {
        one.call().await;
    }
    assert_eq!(one.status().await.median_latency, Some(S(1)), "the slow ones are forgotten");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_stays_open_over_a_restart_of_its_actor_until_its_time() {
    let journal = Journal::new();
    let mut one = One::start(&Scripted::new("one", &journal).first([down(), down()]), 1).await;
    one.call().await;
    one.call().await;
    *one.memory.passed.lock().unwrap() = S(25);
    one.crash_and_restart().await;
    assert_eq!(one.shown().await, "OPEN");
    assert_eq!(refused_for(&one.call().await), Some(S(35)));
    tokio::time::sleep(S(35)).await;
    assert!(answered(&one.call().await));
    assert_eq!(one.shown().await, "CLOSED");
    one.crash_and_restart().await;
    assert_eq!(one.shown().await, "CLOSED", "the recovery was saved, too");
}

#[tokio::test(start_paused = true)]
async fn counted_failures_are_kept_over_a_restart_of_the_actor() {
    let journal = Journal::new();
    let mut one = One::start(&Scripted::new("one", &journal).first([down()]), 1).await;
    one.call().await;
    one.crash_and_restart().await;
    assert_eq!(one.shown().await, "MONITORING (1/2)");
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_crashes_drops_its_callers_replies_so_that_nobody_waits_for_ever() {
    let journal = Journal::new();
    let mut one = One::start(&Scripted::new("one", &journal).first([Reply::Hangs]), 1).await;
    let (under_way, waiting) = (one.ask(), one.ask());
    settle().await;
    one.crash_and_restart().await;
    assert!(under_way.await.is_err() && waiting.await.is_err());
    assert!(answered(&one.call().await));
}

#[tokio::test(start_paused = true)]
async fn a_reset_closes_from_any_state_and_is_told_to_those_who_wait_for_a_recovery() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).first([down(), down()]), 1).await;
    one.call().await;
    one.call().await;
    let mut recoveries = one.args.recoveries.subscribe();
    let before = recoveries.borrow_and_update().clone();
    one.reset().await;
    assert!(recoveries.has_changed().unwrap());
    assert!(recoveries.borrow().get(&one.args.model) > before.get(&one.args.model));
    assert_eq!(one.shown().await, "CLOSED");
    assert!(answered(&one.call().await));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_fault_of_the_model_does_not_count() {
    let journal = Journal::new();
    let harmless = [Fault::Conflict, Fault::ContextTooLong, Fault::BadRequest, Fault::Truncated, Fault::Filtered];
    let one = One::start(&Scripted::new("one", &journal).first(harmless.map(fails)), 1).await;
    for _ in 0..5 {
        assert!(matches!(one.call().await, ModelReply::Failed { retry_in: None, .. }));
    }
    assert_eq!(one.shown().await, "CLOSED");
}

#[tokio::test(start_paused = true)]
async fn one_rate_limit_with_a_time_opens_until_then_and_an_exhausted_quota_for_an_hour() {
    let cases = [
        (Fault::RateLimited { retry_after: Some(S(600)) }, S(600)),
        (Fault::RateLimited { retry_after: Some(S(5)) }, S(60)),
        (Fault::RateLimited { retry_after: Some(S(86_400)) }, S(3600)),
        (Fault::QuotaExhausted, S(3600)),
        (Fault::Denied, S(3600)),
    ];
    for (fault, open_for) in cases {
        let journal = Journal::new();
        let one = One::start(&Scripted::new("one", &journal).first([fails(fault.clone())]), 1).await;
        one.call().await;
        assert_eq!(refused_for(&one.call().await), Some(open_for), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_bad_answer_of_one_execution_does_not_count() {
    let journal = Journal::new();
    let one = One::start(&Scripted::new("one", &journal).always(fails(Fault::BadAnswer)), 1).await;
    one.call().await;
    let (reply, answer) = oneshot::channel();
    let ask = Ask {
        request: Arc::new(request(1)),
        judge: Arc::new(|_| Ok(())),
        count_bad_answer: false,
        made: Arc::default(),
    };
    one.actor.cast(ModelMsg::Complete { ask, reply }).unwrap();
    answer.await.unwrap();
    assert_eq!(one.shown().await, "MONITORING (1/2)");
}

#[tokio::test(start_paused = true)]
async fn a_gate_holds_as_many_calls_as_there_are_slots() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let one = One::start(&Scripted::new("one", &journal).always(gate.holds(text("good"))), 3).await;
    let calls: Vec<_> = (0..10).map(|_| one.ask()).collect();
    settle().await;
    assert_eq!(journal.asked().len(), 3);
    gate.open();
    for call in calls {
        assert!(answered(&call.await.unwrap()));
    }
    assert_eq!(journal.asked().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_reached_in_another_way_begins_a_new_breaker_and_another_tuning_keeps_the_old_one() {
    let journal = Journal::new();
    let refused = Scripted::new("one", &journal).always(fails(Fault::Denied));
    let one = One::start(&refused, 1).await;
    one.call().await;
    assert_eq!(one.shown().await, "OPEN");
    let tuned = ModelArgs { max_concurrency: NonZeroUsize::new(2).unwrap(), ..one.args.clone() };
    one.actor.cast(ModelMsg::Configure(Box::new(tuned))).unwrap();
    assert_eq!(one.shown().await, "OPEN");
    // The same name with another key.
    let good = Scripted::new("one", &journal);
    let other = ModelArgs { client: Ok(good.client()), mark: 1, ..one.args.clone() };
    one.actor.cast(ModelMsg::Configure(Box::new(other))).unwrap();
    assert_eq!(one.shown().await, "CLOSED");
    assert!(matches!(one.call().await, ModelReply::Answered { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_ends_as_it_began_though_its_model_is_configured_anew_and_new_slots_are_used_at_once() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let slow = Scripted::new("one", &journal).always(gate.holds(text("good")));
    let one = One::start(&slow, 1).await;
    let (first, second) = (one.ask(), one.ask());
    journal.reaches(1).await;
    settle().await;
    assert_eq!(one.status().await.waiting, 1);
    let good = Scripted::new("other", &journal);
    let max_concurrency = NonZeroUsize::new(2).unwrap();
    let other = ModelArgs { client: Ok(good.client()), mark: 1, max_concurrency, ..one.args.clone() };
    one.actor.cast(ModelMsg::Configure(Box::new(other))).unwrap();
    // The one that waited asks the new client.
    assert!(matches!(second.await.unwrap(), ModelReply::Answered { .. }));
    gate.open();
    assert!(matches!(first.await.unwrap(), ModelReply::Answered { .. }));
    assert_eq!(journal.shown(), "one@0 other@0");
}
