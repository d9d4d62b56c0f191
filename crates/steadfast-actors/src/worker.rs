//! One role: carries executions over the role's models until one answers or none is left.
//!
//! Invariant: an answer is durable before it leaves this module, and an answer that is durable is never asked for again.
//! Whom to ask next is decided by [`Execution`]; this module asks, records and tells.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use steadfast_core::failover::{Ask as How, Candidate, Execution, Pause, Policy, Refused, Step};
use steadfast_core::fault::{CallFault, Fault, Usage};
use steadfast_core::ids::{AttemptId, ModelId, Role, SessionId};
use steadfast_core::rates::Counts;
use steadfast_core::session::{Attempt, AttemptOutcome, Spent, StepKey};
use steadfast_fault_point::{self as fault_point, Point};
use steadfast_model::{CallContext, CallRequest, Completion, Prompt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::budget::Ledger;
use crate::checkpoint_keeper::Keeper;
use crate::event::{Event, Events, Place, WaitReason};
use crate::meter::Meter;
use crate::model::{Ask, Judge, ModelMsg, ModelReply, Recoveries};
use crate::records::{Answer, ExecutionLog};
use crate::settings::ModelSettings;
use crate::tuner::Tuner;

/// Makes the prompt that tells a model what was wrong.
pub(crate) type Repair = Arc<dyn Fn(&Prompt, &str) -> Prompt + Send + Sync>;
/// Says what is wrong with an answer, in words that can be told to the model.
pub(crate) type Accept = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What an execution is to bring.
#[derive(Clone)]
pub(crate) struct Task {
    /// Whose work it is.
    pub place: Place,
    /// The name under which its answer is kept.
    pub step: StepKey,
    /// The try, from 0: a further try of the same step starts its attempts anew.
    pub attempt: u32,
    /// What is asked.
    pub prompt: Prompt,
    /// Makes the prompt for a model that is told what was wrong with its answer.
    pub repair: Repair,
    /// What makes an answer usable; the text says what is wrong.
    pub accept: Accept,
    /// The answer is one JSON object.
    pub json: bool,
    /// When no model can be asked, it waits for the next breaker test (`outage_patience`).
    pub patient: bool,
}

/// What an execution came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Executed {
    /// A model answered; the answer is durable.
    Answered(Answer),
    /// No model of the role answered.
    Exhausted {
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// The budget does not allow another call.
    BudgetSpent(String),
    /// What was bought could not be made durable, so nothing may be built on it.
    NotSaved(String),
    /// It ended without a word too often: a panic, each time.
    KeepsFailing,
}

/// What a worker is told.
pub(crate) enum WorkerMsg {
    /// Carry out this execution.
    Execute {
        /// What.
        task: Box<Task>,
        /// Where the result goes. Dropped by the caller: the execution is given up.
        reply: oneshot::Sender<Executed>,
    },
    /// Carry out what comes from now on with these; what is under way ends as it began.
    Configure(Box<WorkerArgs>),
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What a worker is started with.
#[derive(Clone)]
pub(crate) struct WorkerArgs {
    /// Which role.
    pub role: Role,
    /// Its models in priority order.
    pub models: Vec<ModelId>,
    /// Every model's actor, by id.
    pub actors: Arc<dyn ModelDirectory>,
    /// Every model's settings.
    pub settings: Arc<BTreeMap<ModelId, ModelSettings>>,
    /// Of the failover.
    pub policy: Policy,
    /// The first model fails on purpose (`FAIL_PRIMARY`).
    pub fail_primary: bool,
    /// Where answers are kept.
    pub keeper: Keeper,
    /// What may still be bought.
    pub ledger: Arc<Ledger>,
    /// Counts how executions end.
    pub meter: Arc<Meter>,
    /// Raises the first model's timeout (`auto_timeout`); `None`: the configured ones hold.
    pub tuner: Option<Arc<Tuner>>,
    /// Says when a breaker has closed or opened.
    pub recoveries: Arc<Recoveries>,
    /// Where it tells what happens.
    pub events: Events,
}

/// Finds the actor of a model; a restarted one is another than before.
pub(crate) trait ModelDirectory: Send + Sync + 'static {
    /// `None` while it is being restarted.
    fn model(&self, id: &ModelId) -> Option<ActorRef<ModelMsg>>;
}

/// The state of a worker.
pub(crate) struct WorkerState {
    args: Arc<WorkerArgs>,
    /// Dropped with the worker: its executions end, and their callers see their replies dropped and ask again.
    executions: JoinSet<()>,
}

/// The actor of one role.
pub(crate) struct Worker;

impl Actor for Worker {
    type Msg = WorkerMsg;
    type State = WorkerState;
    type Arguments = WorkerArgs;

    async fn pre_start(&self, _: ActorRef<WorkerMsg>, args: WorkerArgs) -> Result<WorkerState, ActorProcessingErr> {
        Ok(WorkerState { args: Arc::new(args), executions: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<WorkerMsg>,
        msg: WorkerMsg,
        state: &mut WorkerState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            WorkerMsg::Execute { task, mut reply } => {
                let args = Arc::clone(&state.args);
                state.executions.spawn(async move {
                    let result = tokio::select! {
                        result = execute(&args, *task) => result,
                        () = reply.closed() => return,
                    };
                    // The caller may have gone in this instant; the answer is durable and will be found.
                    let _ = reply.send(result);
                });
            }
            WorkerMsg::Configure(args) => state.args = Arc::new(*args),
            #[cfg(test)]
            WorkerMsg::Crash => panic!("told to crash"),
        }
        // An execution that panicked has dropped its caller's reply, so the caller knows; here it is only told.
        while let Some(ended) = state.executions.try_join_next() {
            if let Err(error) = ended {
                let actor = format!("execution of the {}", state.args.role);
                let error = error.to_string();
                state.args.events.tell(Event::ActorFailed { actor, error, restarted: false });
            }
        }
        Ok(())
    }
}

/// One execution, from the look-up of an answer that was bought before to the end of the role's list.
async fn execute(args: &WorkerArgs, task: Task) -> Executed {
    let session = task.place.session.clone();
    match args.keeper.answer(&session, &task.step) {
        Ok(Some(answer)) => {
            args.events.tell(Event::AnswerReused { place: task.place, model: answer.model.clone() });
            return Executed::Answered(answer);
        }
        Ok(None) => {}
        Err(error) => return Executed::NotSaved(error.to_string()),
    }
    let log = match args.keeper.execution_log(&session, &task.step, task.attempt) {
        Ok(log) => log.unwrap_or_default(),
        Err(error) => return Executed::NotSaved(error.to_string()),
    };
    let candidates = args.models.iter().map(|model| Candidate {
        model: model.clone(),
        context_window: args.settings.get(model).and_then(|settings| settings.context_window),
    });
    let mut policy = args.policy.clone();
    if !task.patient {
        policy.outage_patience = Duration::ZERO;
    }
    let mut round = Round {
        machine: Execution::new(candidates.collect(), policy),
        origin: Instant::now(),
        calls: 0,
        log,
        known: args.models.iter().map(|model| moves(&args.recoveries.borrow(), model)).collect(),
        args,
        task: &task,
    };
    round.replay().await;
    args.events.tell(Event::ExecutionStarted { place: task.place.clone(), n_models: args.models.len() });
    round.run().await
}

struct Failure {
    id: AttemptId,
    fault: CallFault,
    own_network: bool,
    retry_in: Option<Duration>,
    usage: Usage,
    took: Duration,
}

struct Round<'a> {
    machine: Execution,
    origin: Instant,
    /// Calls made in this execution, those before a restart included.
    calls: u32,
    log: ExecutionLog,
    /// How often each model's breaker had moved when this execution last heard of it.
    known: Vec<u64>,
    args: &'a WorkerArgs,
    task: &'a Task,
}

fn moves(recoveries: &HashMap<ModelId, u64>, model: &ModelId) -> u64 {
    recoveries.get(model).copied().unwrap_or_default()
}

/// A call in the budget. One that was given up before it was made is taken out again.
struct Admitted<'a> {
    ledger: &'a Ledger,
    session: &'a SessionId,
    made: Arc<AtomicBool>,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.made.load(Ordering::Relaxed) {
            self.ledger.give_back(self.session);
        }
    }
}

impl Round<'_> {
    /// Brings the machine to where an interrupted execution had come. What it knew of the breakers has changed since, so
    /// they are asked: a model that is only out until its breaker's test must not count as out for good.
    async fn replay(&mut self) {
        let attempts = self.log.attempts.clone();
        let mut open = HashMap::new();
        for attempt in attempts {
            let Some(index) = self.args.models.iter().position(|model| *model == attempt.model) else { continue };
            if let AttemptOutcome::Failed { fault, message, own_network } = attempt.outcome {
                let retry_in = match open.get(&index) {
                    Some(known) => *known,
                    None => *open.entry(index).or_insert(self.retry_in(&attempt.model).await),
                };
                self.calls += 1;
                let fault = CallFault::new(fault, message);
                self.machine.failed(index, &fault, own_network, retry_in, Duration::ZERO);
            }
        }
    }

    /// Until a model's breaker can let a call through; `None` where it is closed, or not known.
    async fn retry_in(&self, model: &ModelId) -> Option<Duration> {
        let actor = self.args.actors.model(model)?;
        let (reply, status) = oneshot::channel();
        // An actor that has gone drops the reply, which says that it is not known.
        let _ = actor.cast(ModelMsg::Status(reply));
        status.await.ok()?.retry_in
    }

    async fn run(mut self) -> Executed {
        loop {
            let now = self.origin.elapsed();
            match self.machine.next(now) {
                Step::Ask { index, how } => {
                    if let Some(end) = self.ask(index, how).await {
                        return end;
                    }
                }
                Step::Pause { until, why } => self.pause(until, why, now).await,
                Step::Exhausted => {
                    self.count(Counts { degraded: 1, ..Counts::default() });
                    self.tune(&self.log.attempts, false);
                    self.args.events.tell(Event::Exhausted { place: self.task.place.clone() });
                    return Executed::Exhausted { attempts: self.log.attempts };
                }
            }
        }
    }

    async fn pause(&mut self, until: Duration, why: Pause, now: Duration) {
        let for_ms = until.saturating_sub(now).as_millis() as u64;
        let reason = match why {
            Pause::Backoff => WaitReason::Backoff,
            Pause::BreakerTest { index } => WaitReason::BreakerTest(self.args.models[index].clone()),
            Pause::OwnNetworkDown => WaitReason::OwnNetworkDown,
        };
        self.args.events.tell(Event::Waiting { place: self.task.place.clone(), reason, for_ms });
        let mut recoveries = self.args.recoveries.subscribe();
        let sleep = tokio::time::sleep_until(self.origin + until);
        tokio::pin!(sleep);
        if matches!(why, Pause::Backoff) {
            return sleep.await;
        }
        loop {
            // Looked at before the first wait, too: a breaker may have moved since it refused this execution.
            if self.hear(&recoveries.borrow_and_update()) {
                return;
            }
            tokio::select! {
                () = &mut sleep => return,
                changed = recoveries.changed() => {
                    if changed.is_err() {
                        // No breaker is left that could change; only the time can end the wait.
                        return sleep.await;
                    }
                }
            }
        }
    }

    /// Tells the machine whose breaker has moved since this execution last heard of it; whether there was any.
    fn hear(&mut self, recoveries: &HashMap<ModelId, u64>) -> bool {
        let now = self.origin.elapsed();
        let mut any = false;
        for (index, model) in self.args.models.iter().enumerate() {
            let moved = moves(recoveries, model);
            if moved > self.known[index] {
                self.known[index] = moved;
                self.machine.recovered(index, now);
                any = true;
            }
        }
        any
    }

    /// Asks one model. `Some`: the execution is over.
    async fn ask(&mut self, index: usize, how: How) -> Option<Executed> {
        let model = self.args.models[index].clone();
        let settings = self.args.settings.get(&model);
        if self.args.fail_primary && index == 0 {
            let reason = "FAIL_PRIMARY is set: the first model fails on purpose".to_owned();
            self.refused(index, &model, Refused::Unavailable { reason }, None);
            return None;
        }
        let (Some(actor), Some(settings)) = (self.args.actors.model(&model), settings) else {
            // Its actor is being restarted: like a breaker that is open for an instant.
            self.refused(index, &model, Refused::Open { retry_in: Duration::from_millis(100) }, None);
            return None;
        };
        if let Err(reason) = self.args.ledger.admit(&self.task.place.session) {
            return Some(Executed::BudgetSpent(reason));
        }
        let id = AttemptId::new(fastrand::u64(..));
        let request = self.request(id, &how, &model, settings);
        let count_bad_answer = !self.machine.bad_answer_counted(index);
        let made = Arc::new(AtomicBool::new(false));
        let ask =
            Ask { request: Arc::new(request), judge: judge(self.task), count_bad_answer, made: Arc::clone(&made) };
        let admitted = Admitted { ledger: &self.args.ledger, session: &self.task.place.session, made };
        let (reply, answer) = oneshot::channel();
        let place = self.task.place.clone();
        self.args.events.tell(Event::AttemptStarted { place, model: model.clone(), attempt: self.calls + 1, id });
        // A message that cannot be sent drops its reply, which is seen below.
        let _ = actor.cast(ModelMsg::Complete { ask, reply });
        match answer.await {
            Ok(ModelReply::Answered { completion, took }) => {
                Some(self.answered(index, model, id, completion, took).await)
            }
            Ok(ModelReply::Refused { why, since, moves }) => {
                drop(admitted);
                self.known[index] = moves;
                self.refused(index, &model, why, since);
                None
            }
            Ok(ModelReply::Failed { fault, own_network, retry_in, moves, usage, took }) => {
                self.known[index] = moves;
                self.failed(index, model, Failure { id, fault, own_network, retry_in, usage, took });
                None
            }
            Err(_actor_gone) => {
                // The call may have been made; it is asked again, for no answer of it is ours.
                admitted.made.store(true, Ordering::Relaxed);
                let fault = CallFault::new(Fault::Cancelled, "the model's actor was restarted during the call");
                let (usage, took) = (Usage::default(), Duration::ZERO);
                self.failed(index, model, Failure { id, fault, own_network: false, retry_in: None, usage, took });
                None
            }
        }
    }

    fn request(&self, id: AttemptId, how: &How, model: &ModelId, settings: &ModelSettings) -> CallRequest {
        let raised = self.args.tuner.as_ref().map(|tuner| tuner.raised_by(model, settings.timeout));
        let prompt = match how {
            How::Plain | How::HigherLimit => self.task.prompt.clone(),
            How::Repair { problem } => (self.task.repair)(&self.task.prompt, problem),
        };
        let max_output_tokens = match how {
            How::Plain | How::Repair { .. } => settings.max_output_tokens,
            How::HigherLimit => Some(settings.max_output_tokens.map_or(32_768, |limit| limit.saturating_mul(4))),
        };
        CallRequest {
            prompt,
            context: CallContext {
                role: self.task.place.role,
                session: self.task.place.session.clone(),
                idea: self.task.place.idea.clone(),
                milestone: self.task.place.milestone,
                file: self.task.place.file.clone(),
                attempt: self.calls + 1,
                id,
            },
            max_output_tokens,
            json: self.task.json,
            timeout: settings.timeout + raised.unwrap_or_default(),
        }
    }

    /// Makes the answer durable, and with it the end of the execution.
    async fn answered(
        &mut self,
        index: usize,
        model: ModelId,
        id: AttemptId,
        completion: Completion,
        took: Duration,
    ) -> Executed {
        self.machine.answered(index);
        self.calls += 1;
        self.log.attempts.push(Attempt {
            model: model.clone(),
            outcome: AttemptOutcome::Answered,
            duration_ms: took.as_millis() as u64,
            usage: completion.usage,
        });
        let session = &self.task.place.session;
        let spent = self.settle(&model, completion.usage);
        let fallback = self.machine.fallback();
        let answer = Answer {
            model: model.clone(),
            fallback,
            text: completion.text.to_string(),
            attempts: std::mem::take(&mut self.log.attempts),
            spent,
        };
        fault_point::reach(Point::AnswerBefore);
        if let Err(error) = self.args.keeper.save_answer(session, &self.task.step, self.task.attempt, &answer).await {
            return Executed::NotSaved(error.to_string());
        }
        fault_point::reach(Point::AnswerSaved);
        let counts = Counts { primary: u64::from(!fallback), fallback: u64::from(fallback), ..Counts::default() };
        self.count(counts);
        self.args.events.tell(Event::AttemptSucceeded {
            place: self.task.place.clone(),
            model,
            attempt: self.calls,
            id,
            fallback,
            duration_ms: took.as_millis() as u64,
            usage: completion.usage,
            request_id: completion.provider_request_id,
            served_model: completion.served_model,
        });
        self.tune(&answer.attempts, fallback);
        Executed::Answered(answer)
    }

    /// A drill is no measure of the models.
    fn count(&self, counts: Counts) {
        if !self.args.fail_primary {
            self.args.meter.count(Counts { executions: 1, ..counts });
        }
    }

    fn tune(&self, attempts: &[Attempt], fallback: bool) {
        if let (Some(tuner), Some(first)) = (&self.args.tuner, self.args.models.first())
            && let Some(settings) = self.args.settings.get(first)
        {
            tuner.execution_ended(first, settings.timeout, attempts, fallback);
        }
    }

    /// Enters a call into the books; answers what the execution has cost with it.
    fn settle(&self, model: &ModelId, usage: Usage) -> Spent {
        let call = self.args.ledger.settle(&self.task.place.session, model, usage);
        if let Some((day, spent)) = self.args.ledger.spent_today() {
            self.args.keeper.save_day(day, spent);
        }
        self.log.spent.plus(call)
    }

    /// A refusal costs nothing and is not saved: the breaker is asked anew at each try.
    fn refused(&mut self, index: usize, model: &ModelId, why: Refused, since: Option<String>) {
        let reason = match &why {
            Refused::Open { retry_in } => {
                let since = since.map(|failure| format!(" since: {failure}")).unwrap_or_default();
                format!("its breaker is open, next test in {}{since}", time(*retry_in))
            }
            Refused::Unavailable { reason } => reason.clone(),
        };
        let last = self.log.attempts.last();
        let said =
            matches!(last, Some(Attempt { model: m, outcome: AttemptOutcome::Refused { .. }, .. }) if m == model);
        if !said {
            self.log.attempts.push(Attempt {
                model: model.clone(),
                outcome: AttemptOutcome::Refused { reason: reason.clone() },
                duration_ms: 0,
                usage: Usage::default(),
            });
        }
        let place = self.task.place.clone();
        self.args.events.tell(Event::ModelRefused { place, model: model.clone(), reason });
        self.machine.refused(index, why, self.origin.elapsed());
    }

    fn failed(&mut self, index: usize, model: ModelId, failure: Failure) {
        let Failure { id, fault, own_network, retry_in, usage, took } = failure;
        self.calls += 1;
        let session = &self.task.place.session;
        self.log.spent = self.settle(&model, usage);
        self.args.events.tell(Event::AttemptFailed {
            place: self.task.place.clone(),
            model: model.clone(),
            attempt: self.calls,
            id,
            fault: fault.fault.clone(),
            status: fault.status,
            reason: fault.message.clone(),
            duration_ms: took.as_millis() as u64,
            usage,
            request_id: fault.request_id.clone(),
        });
        self.log.attempts.push(Attempt {
            model,
            outcome: AttemptOutcome::Failed { fault: fault.fault.clone(), message: fault.message.clone(), own_network },
            duration_ms: took.as_millis() as u64,
            usage,
        });
        self.machine.failed(index, &fault, own_network, retry_in, self.origin.elapsed());
        // Saved without waiting: what a crash takes back here is one failed call, and it is made again.
        self.args.keeper.save_execution_log(session, &self.task.step, self.task.attempt, &self.log);
    }
}

/// A time as a person says it.
fn time(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{:.0} s", duration.as_secs_f64()),
        _ => format!("{:.0} min", duration.as_secs_f64() / 60.0),
    }
}

/// The check that runs in the call's own task.
fn judge(task: &Task) -> Judge {
    let accept = Arc::clone(&task.accept);
    Arc::new(move |completion: &Completion| {
        accept(&completion.text).map_err(|problem| CallFault::new(Fault::BadAnswer, problem))
    })
}
