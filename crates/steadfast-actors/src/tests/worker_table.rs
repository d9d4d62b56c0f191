//! SPEC 4's table, row by row, through a worker and the actors of its models: who is asked in which order, with which
//! pauses, and what the breakers hold afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_core::failover::Policy;
use steadfast_core::fault::{CallFault, Fault, NetworkFault};

use super::rig::{Rig, S, Tuning, task};
use super::script::{Journal, Reply, Scripted, fails, text};
use crate::worker::Executed;

/// Model one fails so each time; model two is unavailable twice and answers then. A threshold of 5 leaves room to count.
struct Row {
    fault: Fault,
    told: &'static str,
    /// Breaker of model one.
    breaker: &'static str,
}

fn rows() -> Vec<Row> {
    let network = Fault::Network;
    let row = |fault, told, breaker| Row { fault, told, breaker };
    // A model that may be asked in every later round is asked three times.
    let three = |name: &str| {
        let told = "one:? +1 two:Unavailable +2 one:? +4 two:Unavailable +8 one:? +16 two:ok".replace('?', name);
        &*told.leak()
    };
    // A model that is out after its first failure.
    let one = |name: &str| &*"one:? +1 two:Unavailable +2 two:Unavailable +4 two:ok".replace('?', name).leak();
    vec![
        row(Fault::Unavailable, three("Unavailable"), "MONITORING (3/5)"),
        row(
            Fault::TimedOut,
            "one:TimedOut +1 two:Unavailable +2 one:TimedOut +4 two:Unavailable +8 two:ok",
            "MONITORING (2/5)",
        ),
        row(Fault::Malformed, three("Malformed"), "MONITORING (3/5)"),
        row(network(NetworkFault::NoSuchHost), three("Network"), "MONITORING (3/5)"),
        // Nobody else has been heard of yet, so it is our own network's fault: that attempt is none. Then two's host has
        // answered, and what follows is the fault of one's host.
        row(
            network(NetworkFault::ResolverDown),
            "one:Network !1 two:Unavailable +1 one:Network +2 two:Unavailable +4 one:Network +8 two:ok",
            "MONITORING (2/5)",
        ),
        row(
            network(NetworkFault::Unreachable),
            "one:Network !1 two:Unavailable +1 one:Network +2 two:Unavailable +4 one:Network +8 two:ok",
            "MONITORING (2/5)",
        ),
        row(Fault::Tls, one("Tls"), "MONITORING (1/5)"),
        row(Fault::Conflict, three("Conflict"), "CLOSED"),
        row(
            Fault::RateLimited { retry_after: Some(S(30)) },
            "one:RateLimited two:Unavailable +2 two:Unavailable +4 two:ok",
            "OPEN",
        ),
        row(Fault::RateLimited { retry_after: None }, three("RateLimited"), "MONITORING (3/5)"),
        row(Fault::QuotaExhausted, one("QuotaExhausted"), "OPEN"),
        row(Fault::Denied, one("Denied"), "OPEN"),
        row(Fault::ContextTooLong, one("ContextTooLong"), "CLOSED"),
        row(Fault::BadRequest, one("BadRequest"), "CLOSED"),
        row(
            Fault::BadAnswer,
            "one:BadAnswer one:BadAnswer +2 two:Unavailable +4 two:Unavailable +8 two:ok",
            "MONITORING (1/5)",
        ),
        row(Fault::Truncated, "one:Truncated one:Truncated +2 two:Unavailable +4 two:Unavailable +8 two:ok", "CLOSED"),
        row(Fault::Filtered, one("Filtered"), "CLOSED"),
    ]
}

#[tokio::test(start_paused = true)]
async fn each_row_of_the_table_is_walked_as_the_specification_says() {
    for Row { fault, told, breaker } in rows() {
        let journal = Journal::new();
        let down = || fails(Fault::Unavailable);
        let models = vec![
            Scripted::new("one", &journal).always(fails(fault.clone())),
            Scripted::new("two", &journal).first([down(), down()]),
        ];
        let mut rig = Rig::start(models, Tuning { threshold: 5, ..Tuning::default() }).await;
        let executed = rig.execute(task(1)).await;
        let Executed::Answered(answer) = executed else { panic!("{fault:?}: {executed:?}") };
        assert_eq!(rig.told(), told, "{fault:?}");
        assert_eq!(rig.breaker("one").await, breaker, "{fault:?}");
        assert_eq!(rig.breaker("two").await, "MONITORING (2/5)", "{fault:?}");
        assert_eq!((answer.fallback, answer.spent.calls as usize), (true, answer.attempts.len()), "{fault:?}");
        assert_eq!(journal.asked().len(), answer.attempts.len(), "each attempt was one call: {fault:?}");
    }
}

/// The pauses that were told were really made.
#[tokio::test(start_paused = true)]
async fn the_pauses_between_attempts_are_real_time() {
    let journal = Journal::new();
    let models = vec![
        Scripted::new("one", &journal).always(fails(Fault::Unavailable)),
        Scripted::new("two", &journal).first([fails(Fault::Unavailable)]),
    ];
    let rig = Rig::start(models, Tuning::default()).await;
    rig.execute(task(1)).await;
    assert_eq!(journal.shown(), "one@0 two@1 one@3 two@7");
}

#[tokio::test(start_paused = true)]
async fn the_providers_own_word_goes_before_the_table() {
    let said = |fault, should_retry| {
        Reply::Fails(CallFault { should_retry: Some(should_retry), ..CallFault::new(fault, "Said") })
    };
    let cases = [
        (said(Fault::Unavailable, false), "one:Said +1 two:ok", "MONITORING (1/5)"),
        (said(Fault::Denied, true), "one:Said +1 two:ok", "MONITORING (1/5)"),
        (said(Fault::BadRequest, true), "one:Said +1 two:ok", "CLOSED"),
    ];
    for (reply, told, breaker) in cases {
        let journal = Journal::new();
        let models = vec![Scripted::new("one", &journal).always(reply), Scripted::new("two", &journal)];
        let mut rig = Rig::start(models, Tuning { threshold: 5, ..Tuning::default() }).await;
        rig.execute(task(1)).await;
        assert_eq!((rig.told().as_str(), rig.breaker("one").await.as_str()), (told, breaker));
    }
    // Asked again or not: alone, the difference shows.
    for (should_retry, calls) in [(true, 3), (false, 1)] {
        let journal = Journal::new();
        let models = vec![Scripted::new("one", &journal).always(said(Fault::BadRequest, should_retry))];
        let rig = Rig::start(models, Tuning::default()).await;
        rig.execute(task(1)).await;
        assert_eq!(journal.asked().len(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_too_long_goes_to_a_model_with_a_larger_window_first() {
    let journal = Journal::new();
    let too_long = || fails(Fault::ContextTooLong);
    let models = vec![
        Scripted::new("one", &journal).always(too_long()),
        Scripted::new("two", &journal),
        Scripted::new("three", &journal).always(too_long()),
        Scripted::new("four", &journal),
    ];
    let windows = BTreeMap::from([("one", 8_192), ("two", 8_192), ("three", 32_768), ("four", 131_072)]);
    let mut rig = Rig::start(models, Tuning { windows, ..Tuning::default() }).await;
    rig.execute(task(1)).await;
    assert_eq!(rig.told(), "one:ContextTooLong +1 three:ContextTooLong +2 four:ok");
}

#[tokio::test(start_paused = true)]
async fn a_useless_answer_is_asked_for_once_more_at_once_and_told_what_was_wrong() {
    let journal = Journal::new();
    let models = vec![Scripted::new("one", &journal).first([text("bad")])];
    let mut rig = Rig::start(models, Tuning::default()).await;
    let Executed::Answered(answer) = rig.execute(task(1)).await else { panic!() };
    assert!(!answer.fallback);
    assert_eq!(rig.told(), "one:BadAnswer one:ok");
    let asked = journal.asked();
    assert_eq!(&*asked[1].request.prompt.user, "write it (BadAnswer it is not good)");
    assert_eq!((asked[0].at, asked[1].at), (Duration::ZERO, Duration::ZERO));
    assert_eq!(answer.spent.usage.output, 20, "both were bought");
}

#[tokio::test(start_paused = true)]
async fn a_cut_answer_is_asked_for_once_more_with_a_higher_limit() {
    let journal = Journal::new();
    let models = vec![Scripted::new("one", &journal).first([fails(Fault::Truncated)])];
    let rig = Rig::start(models, Tuning { max_output_tokens: Some(1000), ..Tuning::default() }).await;
    rig.execute(task(1)).await;
    let limits: Vec<_> = journal.asked().iter().map(|asked| asked.request.max_output_tokens).collect();
    assert_eq!(limits, [Some(1000), Some(4000)]);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_asked_at_most_three_times_in_one_execution() {
    let journal = Journal::new();
    let model = |name| Scripted::new(name, &journal).always(fails(Fault::Conflict));
    let mut rig = Rig::start(vec![model("one"), model("two")], Tuning::default()).await;
    assert!(matches!(rig.execute(task(1)).await, Executed::Exhausted { .. }));
    let told =
        "one:Conflict +1 two:Conflict +2 one:Conflict +4 two:Conflict +8 one:Conflict +16 two:Conflict exhausted";
    assert_eq!(rig.told(), told);
}

/// Before each try the breaker is asked anew: the one that opened meanwhile costs neither time nor backoff.
#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_during_an_execution_is_passed_over_without_a_pause() {
    let journal = Journal::new();
    let model = |name| Scripted::new(name, &journal).always(fails(Fault::Unavailable));
    let policy = Policy { outage_patience: Duration::ZERO, ..Policy::default() };
    let mut rig =
        Rig::start(vec![model("one"), model("two")], Tuning { policy, threshold: 2, ..Tuning::default() }).await;
    rig.execute(task(1)).await;
    let told =
        "one:Unavailable +1 two:Unavailable +2 one:Unavailable +4 two:Unavailable +8 one:refused two:refused exhausted";
    assert_eq!(rig.told(), told);
}
