//! What the breaker costs a call through its model actor's mailbox: `cargo bench -p steadfast-actors --bench mailbox`.
//! Wanted is less than 5 µs at the median for a refusal; a whole call adds a task of its own and a second message.
//!
//! Criterion times batches of calls; the line before it is of single ones, of which each is timed.
//!
//! On one thread as a foreground session runs, and on two as the daemon does, where each message may wake the other one.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::future::BoxFuture;
use steadfast_actors::bench::{Came, ModelMailbox};
use steadfast_core::fault::{CallFault, Fault, Usage};
use steadfast_core::ids::{AttemptId, IdeaId, ModelId, Role, SessionId};
use steadfast_model::{CallContext, CallRequest, Completion, Finish, ModelClient, Prompt};
use tokio::runtime::{Builder, Runtime};

/// Calls of which each is timed.
const N_SINGLE: usize = 100_000;

/// Answers, or fails, without any delay.
struct Instantly(Result<Completion, CallFault>);

impl ModelClient for Instantly {
    fn complete(&self, _: Arc<CallRequest>) -> BoxFuture<'static, Result<Completion, CallFault>> {
        Box::pin(ready(self.0.clone()))
    }

    fn host(&self) -> Option<&str> {
        Some("model.example")
    }
}

fn answer() -> Instantly {
    Instantly(Ok(Completion {
        text: "done".into(),
        finish: Finish::Stop,
        usage: Usage { input: 100, output: 10 },
        provider_request_id: None,
        served_model: None,
    }))
}

/// Opens the breaker for an hour at the first call.
fn denied() -> Instantly {
    Instantly(Err(CallFault::new(Fault::Denied, "401 Unauthorized")))
}

fn request() -> CallRequest {
    CallRequest {
        prompt: Prompt { system: "You write code.".into(), user: "Write it.".into() },
        context: CallContext {
            role: Role::Coder,
            session: SessionId::new(1, 1),
            idea: IdeaId::new("bench").expect("a plain word is an idea id"),
            milestone: Some(1),
            file: None,
            attempt: 1,
            id: AttemptId::new(1),
        },
        max_output_tokens: None,
        json: false,
        timeout: Duration::from_secs(300),
    }
}

fn runtimes() -> [(&'static str, Runtime); 2] {
    let one = Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    let two = Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime starts");
    [("one thread", one), ("two threads", two)]
}

fn mailbox(c: &mut Criterion) {
    for (threads, runtime) in runtimes() {
        for (what, client, expected) in [("refusal", denied(), Came::Refused), ("whole call", answer(), Came::Answered)]
        {
            let model = ModelId::new("p/m").expect("a provider and a name are a model");
            let mailbox = runtime.block_on(async {
                let mailbox = ModelMailbox::start(model, Arc::new(client), request()).await;
                let mailbox = mailbox.expect("a model actor has no way to fail its start");
                mailbox.call().await;
                assert_eq!(mailbox.call().await, expected);
                Arc::new(mailbox)
            });
            let timed = Arc::clone(&mailbox);
            let mut single: Vec<Duration> = runtime.block_on(async {
                let calls = async move {
                    let mut times = Vec::with_capacity(N_SINGLE);
                    for _ in 0..N_SINGLE {
                        let begun = Instant::now();
                        timed.call().await;
                        times.push(begun.elapsed());
                    }
                    times
                };
                tokio::spawn(calls).await.expect("calls do not panic")
            });
            single.sort_unstable();
            let [median, p99] = [single[N_SINGLE / 2], single[N_SINGLE * 99 / 100]];
            println!("{what}, {threads}: {median:.2?} median, {p99:.2?} p99 of {N_SINGLE} single calls");
            c.bench_function(&format!("mailbox/{what}, {threads}"), |b| {
                b.iter_custom(|n| {
                    let mailbox = Arc::clone(&mailbox);
                    let calls = async move {
                        let begun = Instant::now();
                        for _ in 0..n {
                            mailbox.call().await;
                        }
                        begun.elapsed()
                    };
                    // In a task, as workers are, and not on the thread that only waits for the runtime.
                    runtime.block_on(async { tokio::spawn(calls).await.expect("calls do not panic") })
                });
            });
        }
    }
}

criterion_group!(benches, mailbox);
criterion_main!(benches);
