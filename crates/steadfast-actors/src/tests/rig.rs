//! One worker over scripted models, each with its actor.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use steadfast_core::breaker::BreakerConfig;
use steadfast_core::failover::Policy;
use steadfast_core::ids::{IdeaId, ModelId, Role, SessionId};
use steadfast_core::rates::{History, Rates};
use steadfast_core::session::{self, Spent, StepKey};
use steadfast_core::tally::MinSuccessRate;
use steadfast_model::Prompt;
use steadfast_store::{CheckpointStore, MemoryStore};
use tokio::sync::{broadcast, oneshot, watch};

use super::script::Scripted;
use crate::budget::{Ledger, Limits};
use crate::checkpoint_keeper::Keeper;
use crate::event::{Event, Events, Place, WaitReason};
use crate::meter::Meter;
use crate::model::{BreakerMemory, ModelActor, ModelArgs, ModelMsg, SharedNetwork};
use crate::settings::ModelSettings;
use crate::tuner::Tuner;
use crate::worker::{Executed, ModelDirectory, Task, Worker, WorkerArgs, WorkerMsg};

pub(super) const S: fn(u64) -> Duration = Duration::from_secs;

pub(crate) fn session_policy() -> session::Policy {
    session::Policy {
        milestone_retries: 2,
        max_review_rounds: 2,
        partial_success: true,
        min_success_rate: MinSuccessRate::HALF,
        graceful_degradation: true,
        has_checks: false,
        redeem: true,
    }
}

/// How the worker and its models are tuned. The models are `p/<name>` in priority order.
pub(super) struct Tuning {
    pub(super) policy: Policy,
    pub(super) threshold: u32,
    pub(super) timeout: Duration,
    pub(super) max_concurrency: usize,
    pub(super) windows: BTreeMap<&'static str, u32>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) fail_primary: bool,
    pub(super) auto_timeout: bool,
    pub(super) limits: Limits,
    pub(super) store: Arc<dyn CheckpointStore>,
}

impl Default for Tuning {
    /// SPEC 4's defaults, but degrading at once where the test does not say otherwise.
    fn default() -> Self {
        Self {
            policy: Policy { outage_patience: Duration::ZERO, ..Policy::default() },
            threshold: 3,
            timeout: S(300),
            max_concurrency: 8,
            windows: BTreeMap::new(),
            max_output_tokens: None,
            fail_primary: false,
            auto_timeout: false,
            limits: Limits::default(),
            store: Arc::new(MemoryStore::new()),
        }
    }
}

impl Tuning {
    /// Waits for breaker tests for 10 min, as by default.
    pub(super) fn patient() -> Self {
        Self { policy: Policy::default(), ..Self::default() }
    }
}

#[derive(Default)]
struct Actors(Mutex<HashMap<ModelId, ActorRef<ModelMsg>>>);

impl ModelDirectory for Actors {
    fn model(&self, id: &ModelId) -> Option<ActorRef<ModelMsg>> {
        self.0.lock().unwrap().get(id).cloned()
    }
}

/// A worker at work.
pub(super) struct Rig {
    pub(super) worker: ActorRef<WorkerMsg>,
    pub(super) keeper: Keeper,
    pub(super) ledger: Arc<Ledger>,
    events: broadcast::Receiver<Arc<Event>>,
    actors: Arc<Actors>,
    args: BTreeMap<ModelId, ModelArgs>,
}

pub(super) fn model_id(name: &str) -> ModelId {
    ModelId::new(&format!("p/{name}")).unwrap()
}

impl Rig {
    pub(super) async fn start(models: Vec<Scripted>, tuning: Tuning) -> Self {
        let keeper = Keeper::over(tuning.store, session_policy(), Vec::new()).unwrap();
        let (events, recoveries) = (Events::default(), Arc::new(watch::Sender::default()));
        let watch = events.watch();
        let meter = Arc::new(Meter::new(Rates::default(), History::default(), || 0));
        let (actors, network) = (Arc::new(Actors::default()), Arc::new(SharedNetwork::default()));
        let (mut args, mut settings, mut order) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for model in models {
            let id = model_id(model.name());
            order.push(id.clone());
            let max_concurrency = NonZeroUsize::new(tuning.max_concurrency).unwrap();
            let model_settings = ModelSettings {
                client: Ok(model.client()),
                mark: 0,
                timeout: tuning.timeout,
                context_window: tuning.windows.get(model.name()).copied(),
                max_output_tokens: tuning.max_output_tokens,
                max_concurrency,
                price_micros: None,
            };
            settings.insert(id.clone(), model_settings);
            let one = ModelArgs {
                model: id.clone(),
                client: Ok(model.client()),
                mark: 0,
                breaker: BreakerConfig {
                    failure_threshold: NonZeroU32::new(tuning.threshold).unwrap(),
                    probe_lease: tuning.timeout,
                    ..BreakerConfig::default()
                },
                max_concurrency,
                network: Arc::clone(&network),
                memory: Arc::new(keeper.clone()) as Arc<dyn BreakerMemory>,
                alerts: None,
                meter: Arc::clone(&meter),
                recoveries: Arc::clone(&recoveries),
                events: events.clone(),
            };
            let (actor, _) = Actor::spawn(None, ModelActor, one.clone()).await.unwrap();
            actors.0.lock().unwrap().insert(id.clone(), actor);
            args.insert(id, one);
        }
        let ledger = Arc::new(Ledger::new(tuning.limits, BTreeMap::new(), || 7, (7, Spent::default())));
        let worker = WorkerArgs {
            role: Role::Coder,
            models: order,
            actors: Arc::clone(&actors) as Arc<dyn ModelDirectory>,
            settings: Arc::new(settings),
            policy: tuning.policy,
            fail_primary: tuning.fail_primary,
            keeper: keeper.clone(),
            ledger: Arc::clone(&ledger),
            recoveries,
            meter,
            tuner: tuning.auto_timeout.then(|| Arc::new(Tuner::new(keeper.clone(), events.clone()))),
            events,
        };
        let (worker, _) = Actor::spawn(None, Worker, worker).await.unwrap();
        Self { worker, keeper, ledger, events: watch, actors, args }
    }

    /// Has the worker carry this out.
    pub(super) fn begin(&self, task: Task) -> oneshot::Receiver<Executed> {
        let (reply, executed) = oneshot::channel();
        self.worker.cast(WorkerMsg::Execute { task: Box::new(task), reply }).unwrap();
        executed
    }

    pub(super) async fn execute(&self, task: Task) -> Executed {
        self.begin(task).await.unwrap()
    }

    /// A model's breaker, as `status` shows it.
    pub(super) async fn breaker(&self, name: &str) -> String {
        let (reply, status) = oneshot::channel();
        self.model(name).cast(ModelMsg::Status(reply)).unwrap();
        status.await.unwrap().circuit_breaker
    }

    pub(super) async fn reset(&self, name: &str) {
        let (reply, done) = oneshot::channel();
        self.model(name).cast(ModelMsg::Reset(reply)).unwrap();
        done.await.unwrap();
    }

    pub(super) fn model(&self, name: &str) -> ActorRef<ModelMsg> {
        self.actors.model(&model_id(name)).unwrap()
    }

    /// Crashes a model's actor and starts it again, as its supervisor does.
    pub(super) async fn crash(&self, name: &str) {
        self.model(name).cast(ModelMsg::Crash).unwrap();
        super::clock::settle().await;
        let id = model_id(name);
        let (actor, _) = Actor::spawn(None, ModelActor, self.args[&id].clone()).await.unwrap();
        self.actors.0.lock().unwrap().insert(id, actor);
    }

    /// What the executions told since the last look, in a short form: `one: <fault>`, `one ok`, `one refused`, `+2` for
    /// a backoff of 2 s, `~60` for a wait of 60 s for a breaker's test, `!1` for one for our own network, `exhausted`.
    pub(super) fn told(&mut self) -> String {
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            let seconds = |ms: &u64| ms.div_ceil(1000);
            told.extend(match &*event {
                Event::AttemptFailed { model, reason, .. } => Some(format!("{}:{}", model.name(), short(reason))),
                Event::AttemptSucceeded { model, .. } => Some(format!("{}:ok", model.name())),
                Event::ModelRefused { model, .. } => Some(format!("{}:refused", model.name())),
                Event::AnswerReused { model, .. } => Some(format!("{}:reused", model.name())),
                Event::Waiting { reason: WaitReason::Backoff, for_ms, .. } => Some(format!("+{}", seconds(for_ms))),
                Event::Waiting { reason: WaitReason::BreakerTest(_), for_ms, .. } => {
                    Some(format!("~{}", seconds(for_ms)))
                }
                Event::Waiting { reason: WaitReason::OwnNetworkDown, for_ms, .. } => {
                    Some(format!("!{}", seconds(for_ms)))
                }
                Event::Exhausted { .. } => Some("exhausted".to_owned()),
                Event::TimeoutRaised { model, timeout_ms } => {
                    Some(format!("{}:raised to {}", model.name(), seconds(timeout_ms)))
                }
                _ => None,
            });
        }
        told.join(" ")
    }
}

/// The fault's name, without what it carries.
fn short(reason: &str) -> &str {
    reason.split([' ', '(', '{']).next().unwrap_or(reason)
}

/// The coder's task for the `nth` file of session 1. An answer is of use when it is `good`.
pub(super) fn task(nth: u32) -> Task {
    task_of(&SessionId::new(1, 1), nth)
}

pub(super) fn task_of(session: &SessionId, nth: u32) -> Task {
    Task {
        place: Place {
            session: session.clone(),
            idea: IdeaId::new("002-feature").unwrap(),
            role: Role::Coder,
            milestone: Some(1),
            file: None,
        },
        step: StepKey::coder(nth, 0, None),
        attempt: 0,
        prompt: Prompt { system: "".into(), user: "write it".into() },
        repair: Arc::new(|prompt, problem| Prompt {
            user: format!("{} ({problem})", prompt.user).into(),
            ..prompt.clone()
        }),
        accept: Arc::new(|text| if text == "good" { Ok(()) } else { Err("BadAnswer it is not good".to_owned()) }),
        json: false,
        patient: true,
    }
}
