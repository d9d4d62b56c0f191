//! One model endpoint: owns its breaker, its calls in flight and its latency record, and holds no policy.
//!
//! Invariant: each admitted call is recorded by the breaker once, and each caller is answered once, unless it is gone.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use steadfast_core::breaker::{
    Admission, Breaker, BreakerConfig, CallOutcome, CallTicket, Snapshot, State, Transition,
};
use steadfast_core::failover::{BreakerEffect, Refused, rule};
use steadfast_core::fault::{CallFault, Fault, Usage};
use steadfast_core::ids::ModelId;
use steadfast_core::network::NetworkWatch;
use steadfast_core::rates::Counts;
use steadfast_model::{CallRequest, Completion, ModelClient};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::alerts::Alerts;
use crate::event::{Event, Events};
use crate::meter::Meter;

/// The longest queue of calls that wait for one of a model's slots. Above it a call is refused at the door, for
/// mailboxes have no bound of their own.
const MAX_WAITING: usize = 4096;

/// When a caller that was refused during a test is told to ask again.
const TEST_LOOK: Duration = Duration::from_secs(1);

/// Latencies kept for the median.
const LATENCIES: usize = 64;

/// Reads an answer and says what is wrong with it, in words that can be told to the model.
pub(crate) type Judge = Arc<dyn Fn(&Completion) -> Result<(), CallFault> + Send + Sync>;

/// One call to be made.
#[derive(Clone)]
pub(crate) struct Ask {
    /// What goes over the wire. Shared, never copied.
    pub request: Arc<CallRequest>,
    /// Runs in the call's own task, so that the breaker hears of a useless answer.
    pub judge: Judge,
    /// A useless answer counts against the breaker only once an execution; this one has not counted yet.
    pub count_bad_answer: bool,
    /// Set when the call is made: from then on it is bought, whether its caller waits for it or not.
    pub made: Arc<AtomicBool>,
}

/// What came of a call.
#[derive(Debug)]
pub(crate) enum ModelReply {
    /// The judged answer.
    Answered {
        /// What the model said.
        completion: Completion,
        /// From the start of the call.
        took: Duration,
    },
    /// No call was made.
    Refused {
        /// Why, for the walk over the models.
        why: Refused,
        /// The failure that opened the breaker, for a person; `None` where it is not known.
        since: Option<String>,
        /// How often the breaker had moved by then, as in [`Recoveries`].
        moves: u64,
    },
    /// The call failed.
    Failed {
        /// Why.
        fault: CallFault,
        /// Our own network is at fault.
        own_network: bool,
        /// Until the breaker's next test, where it is open now.
        retry_in: Option<Duration>,
        /// How often the breaker had moved by then, as in [`Recoveries`].
        moves: u64,
        /// What was bought although it is of no use.
        usage: Usage,
        /// From the start of the call.
        took: Duration,
    },
}

/// How a model stands, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// `CLOSED`, `MONITORING (1/3)`, `OPEN`, `HALF-OPEN`, `UNAVAILABLE (reason)`.
    pub circuit_breaker: String,
    /// There is a way to call it.
    pub is_callable: bool,
    /// Until the next test of an open breaker.
    pub retry_in: Option<Duration>,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls that wait for a slot.
    pub waiting: usize,
    /// Times the breaker has opened.
    pub opens: u64,
    /// Median of the last 64 answered calls.
    pub median_latency: Option<Duration>,
    /// What `auto_timeout` has added to its timeout; zero where nothing.
    pub timeout_raised_by: Duration,
}

/// What a model actor is told.
pub(crate) enum ModelMsg {
    /// Make this call; the answer may take as long as the model's timeout.
    Complete {
        /// The call.
        ask: Ask,
        /// Where the answer goes. Dropped by the caller: the call is given up.
        reply: oneshot::Sender<ModelReply>,
    },
    /// A call's task ended.
    CallFinished {
        /// Which call.
        call: u64,
        /// What came of it.
        end: CallEnd,
        /// Where the answer goes.
        reply: oneshot::Sender<ModelReply>,
    },
    /// How does it stand?
    Status(oneshot::Sender<ModelStatus>),
    /// An operator resets the breaker. Answered when done.
    Reset(oneshot::Sender<()>),
    /// Go on with these.
    Configure(Box<ModelArgs>),
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// How a call's task ended.
pub(crate) enum CallEnd {
    /// The client and the judge are content.
    Answered(Completion, Duration),
    /// One of them is not.
    Failed {
        /// Why.
        fault: CallFault,
        /// Our own network is at fault.
        own_network: bool,
        /// What was bought although it is of no use.
        usage: Usage,
        /// From the start of the call.
        took: Duration,
    },
    /// The caller has gone.
    Abandoned,
}

/// Where breakers are kept over a restart.
pub(crate) trait BreakerMemory: Send + Sync + 'static {
    /// Saves without waiting: a breaker that is lost costs one call, not work.
    fn save(&self, model: &ModelId, snapshot: Snapshot);
    /// What was saved last, with the wall-clock time that has passed since.
    fn load(&self, model: &ModelId) -> Option<(Snapshot, Duration)>;
}

/// How often each model's breaker has closed or opened. Executions that wait for a test of a model look here: another
/// call's test may succeed or fail, or an operator may reset the breaker, and then their wait is over or another one.
pub(crate) type Recoveries = watch::Sender<HashMap<ModelId, u64>>;

/// What a model actor is started with.
#[derive(Clone)]
pub(crate) struct ModelArgs {
    /// Which model.
    pub model: ModelId,
    /// How it is reached, or why it cannot be.
    pub client: Result<Arc<dyn ModelClient>, String>,
    /// Stands for all that makes the client.
    pub mark: u64,
    /// Of its breaker.
    pub breaker: BreakerConfig,
    /// Calls at once.
    pub max_concurrency: NonZeroUsize,
    /// Shared by all model actors: which hosts answered lately.
    pub network: Arc<SharedNetwork>,
    /// Where its breaker is kept.
    pub memory: Arc<dyn BreakerMemory>,
    /// Who wants to hear that the breaker opened.
    pub alerts: Option<Alerts>,
    /// Where it says that its breaker has closed or opened.
    pub recoveries: Arc<Recoveries>,
    /// Counts the breakers that open.
    pub meter: Arc<Meter>,
    /// Where it tells what happens.
    pub events: Events,
}

/// Which hosts answered lately, for telling our own outage from a host's. A passive record: no actor waits on it for
/// longer than a map update.
#[derive(Debug)]
pub(crate) struct SharedNetwork {
    origin: Instant,
    watch: Mutex<NetworkWatch>,
}

impl Default for SharedNetwork {
    fn default() -> Self {
        Self { origin: Instant::now(), watch: Mutex::default() }
    }
}

impl SharedNetwork {
    fn with<T>(&self, f: impl FnOnce(&mut NetworkWatch, Duration) -> T) -> T {
        let now = self.origin.elapsed();
        // A panic while the lock was held cannot leave half a fact behind: each update is one insertion.
        let mut watch = self.watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut watch, now)
    }

    /// Records what a call says about its host's reachability; answers whether our own network is at fault.
    fn learn(&self, host: &str, fault: Option<&Fault>) -> bool {
        self.with(|watch, now| match fault {
            Some(Fault::Network(kind)) => {
                watch.failed(host, *kind, now);
                watch.own_fault(host, *kind, now)
            }
            // A timeout may be either side's; it says nothing.
            Some(Fault::TimedOut | Fault::Cancelled | Fault::Uncallable) => false,
            Some(_) | None => {
                watch.answered(host, now);
                false
            }
        })
    }
}

struct InFlight {
    ticket: CallTicket,
    count_bad_answer: bool,
}

/// The state of a model actor.
pub(crate) struct ModelState {
    args: ModelArgs,
    breaker: Breaker,
    origin: Instant,
    next_call: u64,
    in_flight: HashMap<u64, InFlight>,
    waiting: VecDeque<(Ask, oneshot::Sender<ModelReply>)>,
    tasks: JoinSet<()>,
    latencies: VecDeque<Duration>,
    /// The last failure that counted, for a person.
    last_failure: Option<String>,
    /// How often the breaker has closed or opened; what [`Recoveries`] says of this model.
    moves: u64,
}

/// The actor of one model.
pub(crate) struct ModelActor;

impl Actor for ModelActor {
    type Msg = ModelMsg;
    type State = ModelState;
    type Arguments = ModelArgs;

    async fn pre_start(&self, _: ActorRef<ModelMsg>, args: ModelArgs) -> Result<ModelState, ActorProcessingErr> {
        // A breaker that was open when the process (or this actor) ended stays open until its time.
        let breaker = match args.memory.load(&args.model) {
            Some((snapshot, elapsed)) => Breaker::restore(args.breaker.clone(), &snapshot, elapsed, Duration::ZERO),
            None => Breaker::new(args.breaker.clone()),
        };
        let moves = args.recoveries.borrow().get(&args.model).copied().unwrap_or_default();
        Ok(ModelState {
            args,
            breaker,
            origin: Instant::now(),
            next_call: 0,
            in_flight: HashMap::new(),
            waiting: VecDeque::new(),
            tasks: JoinSet::new(),
            latencies: VecDeque::new(),
            last_failure: None,
            moves,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ModelMsg>,
        msg: ModelMsg,
        state: &mut ModelState,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.origin.elapsed(); // The only clock read in this actor.
        match msg {
            ModelMsg::Complete { ask, reply } => state.complete(&myself, ask, reply, now),
            ModelMsg::CallFinished { call, end, reply } => {
                state.finish(call, end, reply, now);
                state.start_waiting(&myself, now);
            }
            ModelMsg::Status(reply) => {
                // Whoever asked may have given up; then nobody needs the answer.
                let _ = reply.send(state.status(now));
            }
            ModelMsg::Reset(reply) => {
                let transition = state.breaker.reset(now);
                state.changed(transition, "reset by the operator", now);
                state.save(now);
                let _ = reply.send(());
            }
            ModelMsg::Configure(args) => {
                state.configure(*args, now);
                state.start_waiting(&myself, now);
            }
            #[cfg(test)]
            ModelMsg::Crash => panic!("told to crash"),
        }
        while state.tasks.try_join_next().is_some() {}
        Ok(())
    }
}

impl ModelState {
    /// Calls under way end as they began. A model that is reached as before keeps its client, for the connections that it
    /// holds, and its breaker's history.
    fn configure(&mut self, mut args: ModelArgs, now: Duration) {
        let is_another = args.mark != self.args.mark;
        if !is_another && self.args.client.is_ok() {
            args.client = self.args.client.clone();
        }
        self.args = args;
        self.breaker.set_config(self.args.breaker.clone());
        if is_another {
            let transition = self.breaker.reset(now);
            self.changed(transition, "its configuration has changed", now);
        }
        self.save(now);
    }

    fn complete(&mut self, myself: &ActorRef<ModelMsg>, ask: Ask, reply: oneshot::Sender<ModelReply>, now: Duration) {
        if reply.is_closed() {
            return;
        }
        // A test takes a slot like any call; while it is under way the others are refused, not queued (SPEC 3).
        let refused = self.breaker.retry_in(now).filter(|time| !time.is_zero());
        if self.in_flight.len() < self.args.max_concurrency.get() {
            self.start(myself, ask, reply, now);
        } else if let Some(retry_in) = refused {
            let _ = reply.send(self.refusal(retry_in));
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((ask, reply));
        } else {
            let reason = format!("{MAX_WAITING} calls wait for this model already");
            let _ = reply.send(ModelReply::Refused {
                why: Refused::Unavailable { reason },
                since: None,
                moves: self.moves,
            });
        }
    }

    fn start_waiting(&mut self, myself: &ActorRef<ModelMsg>, now: Duration) {
        while self.in_flight.len() < self.args.max_concurrency.get() {
            let Some((ask, reply)) = self.waiting.pop_front() else { return };
            if !reply.is_closed() {
                self.start(myself, ask, reply, now);
            }
        }
    }

    /// Asks the breaker, and starts the call or refuses it. A refused caller that has gone needs no answer.
    fn start(&mut self, myself: &ActorRef<ModelMsg>, ask: Ask, reply: oneshot::Sender<ModelReply>, now: Duration) {
        let client = match &self.args.client {
            Ok(client) => Arc::clone(client),
            Err(reason) => {
                let why = Refused::Unavailable { reason: reason.clone() };
                let _ = reply.send(ModelReply::Refused { why, since: None, moves: self.moves });
                return;
            }
        };
        let before = self.breaker.state();
        let ticket = match self.breaker.admit(now) {
            Admission::Admit(ticket) => ticket,
            Admission::Refuse(refusal) => {
                let _ = reply.send(self.refusal(refusal.retry_in));
                return;
            }
        };
        if before != self.breaker.state() {
            let transition = Transition { from: before, to: self.breaker.state() };
            self.changed(Some(transition), "its time is up: one call tests the model", now);
        }
        ask.made.store(true, Ordering::Relaxed);
        let call = self.next_call;
        self.next_call += 1;
        self.in_flight.insert(call, InFlight { ticket, count_bad_answer: ask.count_bad_answer });
        let (myself, network) = (myself.clone(), Arc::clone(&self.args.network));
        self.tasks.spawn(async move {
            let (end, reply) = call_model(client.as_ref(), &ask, reply, &network).await;
            // Fails only when the actor has gone; then its supervisor has the matter in hand, and the caller sees its
            // reply dropped.
            let _ = myself.cast(ModelMsg::CallFinished { call, end, reply });
        });
    }

    fn refusal(&self, retry_in: Duration) -> ModelReply {
        // A test may end at any moment, long before its lease: whoever can wait asks again soon, which costs no call.
        let retry_in = if self.breaker.state() == State::HalfOpen { retry_in.min(TEST_LOOK) } else { retry_in };
        ModelReply::Refused { why: Refused::Open { retry_in }, since: self.last_failure.clone(), moves: self.moves }
    }

    /// Records what came of a call, once, and answers its caller.
    fn finish(&mut self, call: u64, end: CallEnd, reply: oneshot::Sender<ModelReply>, now: Duration) {
        let Some(InFlight { ticket, count_bad_answer }) = self.in_flight.remove(&call) else { return };
        let (outcome, reason) = match &end {
            CallEnd::Answered(_, took) => {
                self.latencies.truncate(LATENCIES - 1);
                self.latencies.push_front(*took);
                (CallOutcome::Success, "a call succeeded")
            }
            CallEnd::Abandoned => (CallOutcome::Neither, "a call was given up"),
            CallEnd::Failed { fault, own_network, .. } => {
                (self.outcome(fault, *own_network, count_bad_answer), fault.message.as_str())
            }
        };
        if outcome != CallOutcome::Success && outcome != CallOutcome::Neither {
            self.last_failure = Some(reason.to_owned());
        }
        let transition = self.breaker.record(ticket, outcome, now);
        let counted = outcome != CallOutcome::Success && outcome != CallOutcome::Neither;
        let moved = transition.is_some();
        self.changed(transition, reason, now);
        if counted && !moved {
            let status = self.breaker.status(now).to_string();
            let state = self.breaker.state();
            self.tell(state, state, status, reason, None);
        }
        if counted || moved {
            self.save(now);
        }
        let answer = match end {
            CallEnd::Answered(completion, took) => ModelReply::Answered { completion, took },
            CallEnd::Abandoned => return,
            CallEnd::Failed { fault, own_network, usage, took } => {
                let (retry_in, moves) = (self.breaker.retry_in(now), self.moves);
                ModelReply::Failed { fault, own_network, retry_in, moves, usage, took }
            }
        };
        // The caller may have given up in this instant; what was bought is then in its provider's log only.
        let _ = reply.send(answer);
    }

    /// What the breaker is told, by SPEC 4's table.
    fn outcome(&self, fault: &CallFault, own_network: bool, count_bad_answer: bool) -> CallOutcome {
        match rule(&fault.fault, fault.should_retry).breaker {
            BreakerEffect::None => match fault.fault {
                // The model works: it answered, only too long or with a refusal.
                Fault::Truncated | Fault::Filtered => CallOutcome::Success,
                _ => CallOutcome::Neither,
            },
            BreakerEffect::Count => CallOutcome::Failure,
            BreakerEffect::CountUnlessOwnNetwork if own_network => CallOutcome::Neither,
            BreakerEffect::CountUnlessOwnNetwork => CallOutcome::Failure,
            BreakerEffect::CountOncePerExecution if count_bad_answer => CallOutcome::Failure,
            BreakerEffect::CountOncePerExecution => CallOutcome::Neither,
            BreakerEffect::OpenForRetryAfter(time) => CallOutcome::FailureOpenFor(time),
            BreakerEffect::OpenForMax => CallOutcome::FailureOpenFor(self.args.breaker.max_open),
        }
    }

    fn changed(&mut self, transition: Option<Transition>, reason: &str, now: Duration) {
        if let Some(Transition { from, to }) = transition {
            if let (State::Closed, State::Open, Some(alerts)) = (from, to, &self.args.alerts) {
                alerts.breaker_opened(&self.args.model, reason, self.breaker.retry_in(now));
            }
            if to == State::Open {
                self.args.meter.count(Counts { breaker_opens: 1, ..Counts::default() });
            }
            if to != State::HalfOpen {
                self.moves += 1;
                self.args.recoveries.send_modify(|moved| {
                    moved.insert(self.args.model.clone(), self.moves);
                });
            }
            let status = self.breaker.status(now).to_string();
            self.tell(from, to, status, reason, self.breaker.retry_in(now));
        }
    }

    fn tell(&self, from: State, to: State, status: String, reason: &str, retry_in: Option<Duration>) {
        self.args.events.tell(Event::BreakerChanged {
            model: self.args.model.clone(),
            from,
            to,
            status,
            reason: reason.to_owned(),
            retry_in_ms: retry_in.map(|time| time.as_millis() as u64),
        });
    }

    fn save(&self, now: Duration) {
        self.args.memory.save(&self.args.model, self.breaker.snapshot(now));
    }

    fn status(&self, now: Duration) -> ModelStatus {
        let mut latencies: Vec<Duration> = self.latencies.iter().copied().collect();
        latencies.sort_unstable();
        ModelStatus {
            circuit_breaker: match &self.args.client {
                Ok(_) => self.breaker.status(now).to_string(),
                Err(reason) => format!("UNAVAILABLE ({reason})"),
            },
            is_callable: self.args.client.is_ok(),
            retry_in: self.breaker.retry_in(now),
            in_flight: self.in_flight.len(),
            waiting: self.waiting.len(),
            opens: self.breaker.opens(),
            median_latency: latencies.get(latencies.len() / 2).copied(),
            timeout_raised_by: Duration::ZERO,
        }
    }
}

/// Makes the call and judges its answer. Never panics: a client or a judge that does is a failed call.
async fn call_model(
    client: &dyn ModelClient,
    ask: &Ask,
    mut reply: oneshot::Sender<ModelReply>,
    network: &SharedNetwork,
) -> (CallEnd, oneshot::Sender<ModelReply>) {
    let started = Instant::now();
    let timeout = ask.request.timeout;
    // The client keeps to the timeout itself; this one is for a client that does not, and a little later, so that the
    // client's own, better words come first.
    let call = async { client.complete(Arc::clone(&ask.request)).await };
    let work = tokio::time::timeout(timeout + Duration::from_millis(500), AssertUnwindSafe(call).catch_unwind());
    let result = tokio::select! {
        result = work => result,
        () = reply.closed() => return (CallEnd::Abandoned, reply),
    };
    let mut usage = Usage::default();
    let result = match result {
        Ok(Ok(Ok(completion))) => {
            usage = completion.usage;
            // A judge that panics must not take the call's end with it: its slot and its place as a test would be lost.
            let judged = std::panic::catch_unwind(AssertUnwindSafe(|| (ask.judge)(&completion)));
            let unreadable = |_panic| Err(CallFault::new(Fault::BadAnswer, "the answer could not be read"));
            judged.unwrap_or_else(unreadable).map(|()| completion)
        }
        Ok(Ok(Err(fault))) => {
            usage = fault.usage;
            Err(fault)
        }
        Ok(Err(_panic)) => Err(CallFault::new(Fault::Malformed, "the model client panicked")),
        Err(_elapsed) => Err(CallFault::new(Fault::TimedOut, format!("no answer within {} s", timeout.as_secs()))),
    };
    let own_network = client.host().is_some_and(|host| network.learn(host, result.as_ref().err().map(|f| &f.fault)));
    let took = started.elapsed();
    let end = match result {
        Ok(completion) => CallEnd::Answered(completion, took),
        Err(CallFault { fault: Fault::Cancelled, .. }) => CallEnd::Abandoned,
        Err(fault) => CallEnd::Failed { fault, own_network, usage, took },
    };
    (end, reply)
}
