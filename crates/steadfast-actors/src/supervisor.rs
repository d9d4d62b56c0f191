//! Spawns everything, starts again what fails, lets so many sessions work at once, and ends it all in order.
//!
//! Invariant: a submission is durable before it is acknowledged, and at a shutdown every session is saved before any
//! actor that it saves through ends.

mod handle;
mod messages;
mod redeem;

pub(crate) use handle::wall_clock_ms;
pub use handle::{Handle, start, take_stock};
pub(crate) use messages::SupervisorMsg;
pub use messages::{Beat, Emergency, RoleStatus, ShutDown, Status, Submission, SubmitError, SupervisorError};

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use steadfast_core::ids::{ModelId, Role, SessionId};
use steadfast_core::restart::{Restart, RestartBudget};
use steadfast_core::session::{Event as Happened, Interrupt, Phase, Run, Session};
use steadfast_fault_point::{self as fault_point, Point};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::alerts::Alerts;
use crate::budget::Ledger;
use crate::checkpoint_keeper::Keeper;
use crate::context::SessionContext;
use crate::directory::Directory;
use crate::event::{Event, Events};
use crate::meter::Meter;
use crate::model::{BreakerMemory, ModelActor, ModelArgs, ModelMsg, ModelStatus, Recoveries, SharedNetwork};
use crate::outbox::{Outbox, OutboxArgs, OutboxMsg};
use crate::records::{Loaded, Write};
use crate::sentinel::{SentinelActor, SentinelArgs};
use crate::session::{SessionActor, SessionArgs, SessionMsg};
use crate::settings::Settings;
use crate::task::{TaskGuard, report_back};
use crate::tidy::Pruned;
use crate::tuner::Tuner;
use crate::worker::{ModelDirectory, Worker, WorkerArgs, WorkerMsg};
use redeem::Redeem;

/// What the supervisor is started with.
pub(crate) struct SupervisorArgs {
    pub(crate) settings: Arc<Settings>,
    pub(crate) keeper: Keeper,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) tuner: Arc<Tuner>,
    pub(crate) events: Events,
    pub(crate) clock: fn() -> u64,
    pub(crate) emergency: watch::Sender<Option<Emergency>>,
}

/// A child that is not a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Shared {
    Model(ModelId),
    Worker(Role),
    Outbox,
    Sentinel,
}

/// The state of the supervisor.
pub(crate) struct SupervisorState {
    args: SupervisorArgs,
    directory: Arc<Directory>,
    network: Arc<SharedNetwork>,
    recoveries: Arc<Recoveries>,
    shared: HashMap<ActorId, Shared>,
    shared_restarts: HashMap<Shared, RestartBudget>,
    sessions: HashMap<SessionId, ActorRef<SessionMsg>>,
    session_restarts: HashMap<SessionId, RestartBudget>,
    /// Idea and repository of each session that is at work, waits, or is being saved.
    taken: HashMap<SessionId, (String, String)>,
    queue: VecDeque<SessionId>,
    /// Saved submissions whose session has not begun.
    fresh: HashSet<SessionId>,
    waiters: HashMap<SessionId, Vec<oneshot::Sender<()>>>,
    saving: HashMap<SessionId, TaskGuard>,
    pruning: Option<TaskGuard>,
    /// Why no session begins.
    paused: Option<String>,
    shutting_down: Option<TaskGuard>,
    redeem: Redeem,
    origin: Instant,
}

/// How long all sessions together may take to save themselves at a shutdown, which has to fit into a service manager's
/// patience.
const SAVING_AT_MOST: Duration = Duration::from_secs(8);
/// How often it is looked whether the retention is due.
const RETENTION_LOOK: Duration = Duration::from_secs(3600);
/// How often the retention is applied; keeping is counted in days.
const RETENTION_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The actor at the root.
pub(crate) struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMsg>,
        args: SupervisorArgs,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let mut state = SupervisorState {
            args,
            directory: Arc::default(),
            network: Arc::default(),
            recoveries: Arc::new(watch::Sender::new(HashMap::new())),
            shared: HashMap::new(),
            shared_restarts: HashMap::new(),
            sessions: HashMap::new(),
            session_restarts: HashMap::new(),
            taken: HashMap::new(),
            queue: VecDeque::new(),
            fresh: HashSet::new(),
            waiters: HashMap::new(),
            saving: HashMap::new(),
            pruning: None,
            paused: None,
            shutting_down: None,
            redeem: Redeem::default(),
            origin: Instant::now(),
        };
        let models: Vec<ModelId> = state.args.settings.models.keys().cloned().collect();
        // The sentinel comes first: its first word must be here before any work.
        let all = [Shared::Sentinel].into_iter().chain(models.into_iter().map(Shared::Model));
        let all = all.chain(Role::ALL.map(Shared::Worker)).chain([Shared::Outbox]);
        for child in all {
            state.spawn_shared(&myself, child).await?;
        }
        myself.send_after(Duration::ZERO, || SupervisorMsg::Prune(None));
        myself.send_interval(RETENTION_LOOK, || SupervisorMsg::Prune(None));
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        msg: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            SupervisorMsg::Submit { submission, reply } => state.submit(&myself, *submission, reply),
            SupervisorMsg::Submitted { session, reply, saved } => state.submitted(session, reply, saved),
            SupervisorMsg::TakeUp { session, retry, reply } => {
                let _ = reply.send(state.take_up(&session, retry));
            }
            SupervisorMsg::Cancel { session, reply } => state.cancel(&myself, &session, reply),
            SupervisorMsg::SessionOver { session } => {
                state.forget(&session.id);
                state.look_at_debts(&myself);
            }
            SupervisorMsg::Redeem => state.begin_redeeming(&myself),
            SupervisorMsg::LookAtDebts(timer) if state.is_late(timer) => {}
            SupervisorMsg::LookAtDebts(_) => state.look_at_debts(&myself),
            SupervisorMsg::DebtsLooked(look) => state.debts_looked(&myself, look).await,
            SupervisorMsg::SaveFailed { session, reason } => {
                state.forget(&session);
                state.emergency(Emergency::Failure(format!("session {session} could not be saved: {reason}")));
            }
            SupervisorMsg::Wait { session, reply } => {
                if state.taken.contains_key(&session) {
                    state.waiters.entry(session).or_default().push(reply);
                } else {
                    let _ = reply.send(());
                }
            }
            SupervisorMsg::Pause(reason) => {
                state.args.events.tell(Event::Paused { reason: reason.clone() });
                state.paused = reason;
                state.look_at_debts(&myself);
            }
            SupervisorMsg::Emergency(emergency) => state.emergency(emergency),
            SupervisorMsg::Prune(reply) => state.prune(&myself, reply),
            SupervisorMsg::PruneEnded(reply, done) => state.prune_ended(reply, done),
            SupervisorMsg::Status(reply) => state.status(reply),
            SupervisorMsg::SettleOutbox { flush, reply } => {
                // Without an outbox, while it is started again, the asker hears that nobody answers.
                if let Some(outbox) = state.directory.outbox() {
                    let _ = outbox.cast(if flush { OutboxMsg::Flush } else { OutboxMsg::Wake });
                    let _ = outbox.cast(OutboxMsg::Settled(reply));
                }
            }
            SupervisorMsg::Ping(reply) => {
                fault_point::reach_async(Point::SupervisorPing).await;
                let _ = reply.send(state.beat());
            }
            SupervisorMsg::Configure { settings, reply } => {
                let _ = reply.send(state.configure(&myself, settings).await);
                state.look_at_debts(&myself);
            }
            SupervisorMsg::Reset { model, reply } => state.reset(model, reply),
            SupervisorMsg::Shutdown { reason, reply } => state.shut_down(&myself, reason, reply),
            SupervisorMsg::SessionsSaved { ended, reply } => {
                // The keeper outlives this actor: whoever holds the handle ends it last.
                let _ = reply.send(ended);
                myself.stop(None);
                return Ok(());
            }
        }
        state.start_sessions(&myself).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (id, error) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, Some(reason)) => (cell.get_id(), reason),
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if state.shutting_down.is_some() {
            return Ok(());
        }
        if let Some(child) = state.shared.remove(&id) {
            state.shared_failed(&myself, child, error).await;
        } else if let Some(session) = state.session_of(id) {
            state.session_failed(&myself, session, error).await;
        }
        state.start_sessions(&myself).await;
        Ok(())
    }
}

impl SupervisorState {
    async fn spawn_shared(
        &mut self,
        myself: &ActorRef<SupervisorMsg>,
        child: Shared,
    ) -> Result<(), ActorProcessingErr> {
        let id = match &child {
            Shared::Model(model) => {
                // A model that no role lists any more is not missed.
                let Some(args) = self.model_args(model) else { return Ok(()) };
                let (actor, _) = Actor::spawn_linked(None, ModelActor, args, myself.get_cell()).await?;
                let id = actor.get_id();
                self.directory.set_model(model.clone(), actor);
                id
            }
            Shared::Worker(role) => {
                let args = self.worker_args(*role);
                let (actor, _) = Actor::spawn_linked(None, Worker, args, myself.get_cell()).await?;
                let id = actor.get_id();
                self.directory.set_worker(*role, actor);
                id
            }
            Shared::Outbox => {
                let args = self.outbox_args();
                let (actor, _) = Actor::spawn_linked(None, Outbox, args, myself.get_cell()).await?;
                let id = actor.get_id();
                self.directory.set_outbox(actor);
                id
            }
            Shared::Sentinel => {
                let settings = &self.args.settings;
                let args = SentinelArgs {
                    limits: settings.resources.clone(),
                    probe: settings.probe,
                    state_dir: settings.state_dir.clone(),
                    origin: self.origin,
                    at_work: self.shared_restarts.contains_key(&child) && self.paused.is_none(),
                    supervisor: myself.clone(),
                };
                let (actor, _) = Actor::spawn_linked(None, SentinelActor, args, myself.get_cell()).await?;
                actor.get_id()
            }
        };
        self.shared.insert(id, child);
        Ok(())
    }

    /// `None` where no role lists the model.
    fn model_args(&self, model: &ModelId) -> Option<ModelArgs> {
        let settings = &self.args.settings;
        let model_settings = settings.models.get(model)?;
        Some(ModelArgs {
            model: model.clone(),
            client: model_settings.client.clone(),
            mark: model_settings.mark,
            breaker: settings.breaker_of(model_settings),
            max_concurrency: model_settings.max_concurrency,
            network: Arc::clone(&self.network),
            memory: Arc::new(self.args.keeper.clone()) as Arc<dyn BreakerMemory>,
            alerts: settings.alerts.is_some().then(|| Alerts {
                keeper: self.args.keeper.clone(),
                directory: Arc::clone(&self.directory),
                clock: self.args.clock,
            }),
            recoveries: Arc::clone(&self.recoveries),
            meter: Arc::clone(&self.args.meter),
            events: self.args.events.clone(),
        })
    }

    fn worker_args(&self, role: Role) -> WorkerArgs {
        let settings = &self.args.settings;
        WorkerArgs {
            role,
            models: settings.role(role).to_vec(),
            actors: Arc::clone(&self.directory) as Arc<dyn ModelDirectory>,
            settings: Arc::clone(&settings.models),
            policy: settings.failover.clone(),
            fail_primary: settings.fail_primary,
            keeper: self.args.keeper.clone(),
            ledger: Arc::clone(&self.args.ledger),
            recoveries: Arc::clone(&self.recoveries),
            meter: Arc::clone(&self.args.meter),
            tuner: settings.auto_timeout.then(|| Arc::clone(&self.args.tuner)),
            events: self.args.events.clone(),
        }
    }

    fn outbox_args(&self) -> OutboxArgs {
        let settings = &self.args.settings;
        OutboxArgs {
            keeper: self.args.keeper.clone(),
            tracker: Arc::clone(&settings.tracker),
            alerts: settings.alerts.clone(),
            clock: self.args.clock,
        }
    }

    /// Other settings from now on. Sessions at work hold the old ones until they are over; the shared actors are told, and
    /// none is ended: an actor that ends takes its calls with it. That of a model which no role lists any more stays, for
    /// what is under way; nobody new asks it.
    async fn configure(
        &mut self,
        myself: &ActorRef<SupervisorMsg>,
        settings: Arc<Settings>,
    ) -> Result<(), SupervisorError> {
        if self.shutting_down.is_some() {
            return Err(SupervisorError::ShuttingDown);
        }
        let old = std::mem::replace(&mut self.args.settings, settings);
        let settings = Arc::clone(&self.args.settings);
        let restarts = |settings: &Settings| (settings.max_restarts, settings.restart_window);
        if restarts(&old) != restarts(&settings) {
            self.shared_restarts.clear();
            self.session_restarts.clear();
        }
        self.args.ledger.configure(settings.limits, settings.prices());
        // Models first: a worker must find each that it may ask.
        for model in settings.models.keys() {
            match (self.directory.model(model), self.model_args(model)) {
                // One that has just failed is started again, with what holds then.
                (Some(actor), Some(args)) => drop(actor.cast(ModelMsg::Configure(Box::new(args)))),
                (_, _) => {
                    let child = Shared::Model(model.clone());
                    if let Err(error) = self.spawn_shared(myself, child.clone()).await {
                        self.shared_failed(myself, child, error.to_string()).await;
                    }
                }
            }
        }
        for role in Role::ALL {
            if let Some(worker) = self.directory.worker(role) {
                drop(worker.cast(WorkerMsg::Configure(Box::new(self.worker_args(role)))));
            }
        }
        if let Some(outbox) = self.directory.outbox() {
            drop(outbox.cast(OutboxMsg::Configure(self.outbox_args())));
        }
        Ok(())
    }

    async fn shared_failed(&mut self, myself: &ActorRef<SupervisorMsg>, child: Shared, error: String) {
        let mut error = error;
        loop {
            let budget =
                self.shared_restarts.entry(child.clone()).or_insert_with(|| self.args.settings.restart_budget());
            let again = budget.spend(self.origin.elapsed()) == Restart::Again;
            let actor = match &child {
                Shared::Model(model) => format!("model {model}"),
                Shared::Worker(role) => format!("worker {role}"),
                Shared::Outbox => "outbox".to_owned(),
                Shared::Sentinel => "sentinel".to_owned(),
            };
            let text = error.clone();
            self.args.events.tell(Event::ActorFailed { actor: actor.clone(), error: text, restarted: again });
            if !again {
                return self.emergency(Emergency::Failure(format!("{actor} keeps failing: {error}")));
            }
            match self.spawn_shared(myself, child.clone()).await {
                Ok(()) => return,
                Err(next) => error = next.to_string(),
            }
        }
    }

    /// SPEC 8: whoever owns the process hears of it and begins the shutdown.
    fn emergency(&self, emergency: Emergency) {
        emergency.raise(&self.args.emergency);
    }

    fn submit(
        &mut self,
        myself: &ActorRef<SupervisorMsg>,
        submission: Submission,
        reply: oneshot::Sender<Result<SessionId, SubmitError>>,
    ) {
        let Submission { session, idea } = submission;
        if self.shutting_down.is_some() {
            let _ = reply.send(Err(SubmitError::ShuttingDown));
            return;
        }
        if let Err(error) = self.not_taken(&session) {
            let _ = reply.send(Err(error));
            return;
        }
        let id = session.id.clone();
        self.taken.insert(id.clone(), (session.idea.as_str().to_owned(), session.repo.clone()));
        let keeper = self.args.keeper.clone();
        let writes = vec![Write::Head(Box::new(session)), Write::Idea(id.clone(), Box::new(idea))];
        let work = async move {
            fault_point::reach(Point::SubmissionBefore);
            keeper.save(writes).await.map_err(|error| error.to_string())?;
            fault_point::reach(Point::SubmissionSaved);
            Ok(())
        };
        let saved = id.clone();
        let report = move |end: Result<Result<(), String>, String>| SupervisorMsg::Submitted {
            session: saved,
            reply,
            saved: end.unwrap_or_else(Err),
        };
        self.saving.insert(id, report_back(myself.clone(), work, report));
    }

    fn not_taken(&self, session: &Session) -> Result<(), SubmitError> {
        let wanted = (session.idea.as_str(), session.repo.as_str());
        let same = |(idea, repo): &(String, String)| (idea.as_str(), repo.as_str()) == wanted;
        if let Some((running, _)) = self.taken.iter().find(|(_, taken)| same(taken)) {
            return Err(SubmitError::Running { idea: session.idea.to_string(), session: running.clone() });
        }
        let unfinished = self.args.keeper.unfinished().map_err(|error| SubmitError::NotSaved(error.to_string()))?;
        let found = unfinished.into_iter().find(|other| (other.idea.as_str(), other.repo.as_str()) == wanted);
        found
            .map_or(Ok(()), |other| Err(SubmitError::Interrupted { idea: session.idea.to_string(), session: other.id }))
    }

    fn submitted(
        &mut self,
        session: SessionId,
        reply: oneshot::Sender<Result<SessionId, SubmitError>>,
        saved: Result<(), String>,
    ) {
        self.saving.remove(&session);
        let answer = match saved {
            Ok(()) => {
                self.queue.push_back(session.clone());
                self.fresh.insert(session.clone());
                Ok(session)
            }
            Err(error) => {
                self.taken.remove(&session);
                Err(SubmitError::NotSaved(error))
            }
        };
        // Whoever submitted may have gone; the session is durable and goes on.
        let _ = reply.send(answer);
    }

    fn take_up(&mut self, id: &SessionId, retry: bool) -> Result<(), SupervisorError> {
        if self.shutting_down.is_some() {
            return Err(SupervisorError::ShuttingDown);
        }
        let no =
            |phase: Phase, why| Err(SupervisorError::NotPossible { session: id.clone(), phase: phase.as_str(), why });
        let session = self.load_head(id)?;
        if self.taken.contains_key(id) {
            return no(session.phase, "it is at work or waits for its turn");
        }
        let same = |(idea, repo): &(String, String)| *idea == session.idea.as_str() && *repo == session.repo;
        if self.taken.values().any(same) {
            return no(session.phase, "another session of its idea is at work on its repository");
        }
        if session.phase.is_final() && self.pruning.is_some() {
            return no(session.phase, "old sessions are being removed at this moment; try again");
        }
        match session.phase {
            Phase::Completed => return no(session.phase, "there is nothing left to do"),
            Phase::Cancelled if !retry => return no(session.phase, "use `steadfast retry` to take it up again"),
            Phase::Failed
            | Phase::Cancelled
            | Phase::Queued
            | Phase::Planning
            | Phase::Implementing
            | Phase::Reviewing => {}
        }
        self.taken.insert(id.clone(), (session.idea.as_str().to_owned(), session.repo));
        self.queue.push_back(id.clone());
        Ok(())
    }

    fn prune(&mut self, myself: &ActorRef<SupervisorMsg>, reply: Option<oneshot::Sender<Result<Pruned, String>>>) {
        let keep = u64::try_from(self.args.settings.keep_finished.as_millis()).unwrap_or(u64::MAX);
        let before_ms = (self.args.clock)().saturating_sub(keep);
        let done_before = self.args.keeper.pruned_before().unwrap_or(0);
        let is_due = before_ms.saturating_sub(done_before) >= RETENTION_EVERY.as_millis() as u64;
        if self.shutting_down.is_some() || self.pruning.is_some() || (reply.is_none() && !is_due) {
            let busy = || Err("it is under way already, or steadfast is shutting down".to_owned());
            reply.map(|reply| reply.send(busy()));
            return;
        }
        let spare: HashSet<SessionId> = self.taken.keys().cloned().collect();
        let (keeper, state_dir) = (self.args.keeper.clone(), self.args.settings.state_dir.clone());
        let is_asked = reply.is_some();
        let work = async move { crate::tidy::prune(&keeper, &state_dir, before_ms, spare, is_asked).await };
        let report = move |end: Result<Result<Pruned, String>, String>| {
            SupervisorMsg::PruneEnded(reply, end.unwrap_or_else(Err))
        };
        self.pruning = Some(report_back(myself.clone(), work, report));
    }

    fn prune_ended(&mut self, reply: Option<oneshot::Sender<Result<Pruned, String>>>, done: Result<Pruned, String>) {
        self.pruning = None;
        match &done {
            Ok(pruned) if *pruned == Pruned::default() => {}
            Ok(Pruned { sessions, copies }) => tracing::info!(sessions, copies, "retention applied"),
            Err(error) => tracing::warn!(error, "retention not applied"),
        }
        reply.map(|reply| reply.send(done));
    }

    fn load_head(&self, id: &SessionId) -> Result<Session, SupervisorError> {
        let found = self.args.keeper.head(id).map_err(|error| SupervisorError::Store(error.to_string()))?;
        found.ok_or_else(|| SupervisorError::Unknown(id.to_string()))
    }

    fn cancel(
        &mut self,
        myself: &ActorRef<SupervisorMsg>,
        id: &SessionId,
        reply: oneshot::Sender<Result<(), SupervisorError>>,
    ) {
        if let Some(actor) = self.sessions.get(id) {
            let (asked, answer) = oneshot::channel();
            let _ = actor.cast(SessionMsg::Cancel(asked));
            tokio::spawn(async move {
                let result = match answer.await {
                    Ok(result) => result.map_err(SupervisorError::Store),
                    Err(_gone) => Err(SupervisorError::Store("the session ended meanwhile".to_owned())),
                };
                let _ = reply.send(result);
            });
            return;
        }
        let session = match self.load_head(id) {
            Ok(session) if session.phase.is_final() => {
                let why = "there is nothing to cancel";
                let error = SupervisorError::NotPossible { session: id.clone(), phase: session.phase.as_str(), why };
                let _ = reply.send(Err(error));
                return;
            }
            Ok(session) => session,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        self.queue.retain(|queued| queued != id);
        let mut run = Run::of(session);
        run.debts = self.args.keeper.debts(id).ok().flatten().unwrap_or_default();
        let now = (self.args.clock)();
        run.apply(Happened::Cancelled, &self.args.settings.session, now);
        let keeper = self.args.keeper.clone();
        let (myself, state_dir) = (myself.clone(), self.args.settings.state_dir.clone());
        let outbox = self.directory.outbox();
        tokio::spawn(async move {
            let mut writes = redeem::put_back(&run);
            let session = Box::new(run.session);
            if let Some(comment) = crate::issues::gone_on(&session, &Happened::Cancelled) {
                writes.push(Write::WentOn(session.id.clone(), comment, now));
            }
            let saved = keeper.save(writes).await;
            if saved.is_ok() {
                if let Some(outbox) = outbox {
                    let _ = outbox.cast(OutboxMsg::Wake);
                }
                crate::tidy::one(&keeper, &state_dir, &session).await;
            }
            let _ = myself.cast(SupervisorMsg::SessionOver { session });
            let _ = reply.send(saved.map_err(|error| SupervisorError::Store(error.to_string())));
        });
    }

    fn forget(&mut self, id: &SessionId) {
        self.sessions.remove(id);
        self.session_restarts.remove(id);
        self.taken.remove(id);
        self.fresh.remove(id);
        self.redeem.session.take_if(|redeeming| redeeming == id);
        self.args.ledger.close(id);
        for waiter in self.waiters.remove(id).unwrap_or_default() {
            let _ = waiter.send(());
        }
    }

    async fn start_sessions(&mut self, myself: &ActorRef<SupervisorMsg>) {
        let may_begin = self.shutting_down.is_none() && self.paused.is_none();
        // One that makes up for something takes no place from others.
        let n_beside = usize::from(self.redeem.session.as_ref().is_some_and(|id| self.sessions.contains_key(id)));
        while may_begin && self.sessions.len() - n_beside < self.args.settings.max_sessions.get() {
            let Some(id) = self.queue.pop_front() else { return };
            if let Err(error) = self.start_session(myself, &id).await {
                self.session_failed(myself, id, error).await;
            }
        }
    }

    async fn start_session(&mut self, myself: &ActorRef<SupervisorMsg>, id: &SessionId) -> Result<(), String> {
        let loaded = self.args.keeper.load(id).map_err(|error| error.to_string())?;
        let Some(mut loaded) = loaded else { return Err(format!("session {id} is not in the store")) };
        let now = (self.args.clock)();
        let policy = &self.args.settings.session;
        if matches!(loaded.run.session.phase, Phase::Failed | Phase::Cancelled) {
            // The models that it failed for want to be asked anew, not to be remembered as exhausted.
            self.args.keeper.forget_attempts(id).await.map_err(|error| error.to_string())?;
        }
        // Whoever put it into the queue wants it to go on.
        loaded.run.apply(Happened::Resumed, policy, now);
        loaded.run.apply(Happened::Retried, policy, now);
        let is_new = self.fresh.remove(id);
        self.spawn_session(myself, id, loaded, is_new).await
    }

    async fn spawn_session(
        &mut self,
        myself: &ActorRef<SupervisorMsg>,
        id: &SessionId,
        loaded: Loaded,
        is_new: bool,
    ) -> Result<(), String> {
        self.args.ledger.open(id, loaded.spent);
        let context = SessionContext::new(
            &self.args.settings,
            &loaded,
            self.args.keeper.clone(),
            Arc::clone(&self.directory),
            Arc::clone(&self.args.ledger),
            Arc::clone(&self.args.meter),
            self.args.events.clone(),
            self.args.clock,
            is_new,
        );
        let args = SessionArgs { context: Arc::new(context), run: loaded.run, supervisor: myself.clone() };
        let spawned = Actor::spawn_linked(None, SessionActor, args, myself.get_cell()).await;
        let (actor, _) = spawned.map_err(|error| error.to_string())?;
        self.sessions.insert(id.clone(), actor);
        Ok(())
    }

    fn session_of(&self, id: ActorId) -> Option<SessionId> {
        self.sessions.iter().find(|(_, actor)| actor.get_id() == id).map(|(session, _)| session.clone())
    }

    /// A session actor failed: it starts again from its last checkpoint, or the session fails, and no other is touched.
    async fn session_failed(&mut self, myself: &ActorRef<SupervisorMsg>, id: SessionId, error: String) {
        self.sessions.remove(&id);
        let mut error = error;
        loop {
            let settings = &self.args.settings;
            let budget = self.session_restarts.entry(id.clone()).or_insert_with(|| settings.restart_budget());
            let again = budget.spend(self.origin.elapsed()) == Restart::Again;
            let (actor, text) = (format!("session {id}"), error.clone());
            self.args.events.tell(Event::ActorFailed { actor, error: text, restarted: again });
            if !again {
                return self.give_up_session(&id, &error).await;
            }
            match self.start_session(myself, &id).await {
                Ok(()) => return,
                Err(next) => error = next,
            }
        }
    }

    async fn give_up_session(&mut self, id: &SessionId, error: &str) {
        // The head alone: what kept the session from being started may be that another part of it does not read.
        if let Ok(Some(session)) = self.args.keeper.head(id) {
            let mut run = Run::of(session);
            run.debts = self.args.keeper.debts(id).ok().flatten().unwrap_or_default();
            let reason = format!("the session keeps failing: {error}");
            let now = (self.args.clock)();
            run.apply(Happened::Failed(reason.clone()), &self.args.settings.session, now);
            let mut writes = redeem::put_back(&run);
            if run.session.phase == Phase::Failed {
                let issues = &self.args.settings.issues;
                writes.extend(crate::issues::stop(&self.args.keeper, &run.session, &reason, issues, now));
            }
            if let Err(error) = self.args.keeper.save(writes).await {
                self.emergency(Emergency::Failure(format!("session {id} could not be saved: {error}")));
            } else if let Some(outbox) = self.directory.outbox() {
                let _ = outbox.cast(OutboxMsg::Wake);
            }
        }
        self.forget(id);
    }

    fn beat(&self) -> Beat {
        let idea = |id: &SessionId| self.taken.get(id).map(|(idea, _)| idea.clone()).unwrap_or_default();
        let mut active: Vec<_> = self.sessions.keys().map(|id| (id.clone(), idea(id))).collect();
        active.sort_unstable();
        Beat { active, n_queued: self.queue.len(), paused: self.paused.clone() }
    }

    fn status(&self, reply: oneshot::Sender<Status>) {
        let (active, queued) = (self.sessions.keys().cloned().collect(), self.queue.iter().cloned().collect());
        let (directory, settings) = (Arc::clone(&self.directory), Arc::clone(&self.args.settings));
        let (paused, tuner) = (self.paused.clone(), settings.auto_timeout.then(|| Arc::clone(&self.args.tuner)));
        tokio::spawn(async move {
            let mut roles = Vec::new();
            for role in Role::ALL {
                let mut models = Vec::new();
                for model in settings.role(role) {
                    let mut status = model_status(&directory, model).await;
                    if let (Some(tuner), Some(configured)) = (&tuner, settings.models.get(model)) {
                        status.timeout_raised_by = tuner.raised_by(model, configured.timeout);
                    }
                    models.push((model.clone(), status));
                }
                roles.push(RoleStatus { role, models });
            }
            let _ = reply.send(Status { roles, active, queued, paused });
        });
    }

    fn reset(&self, model: Option<ModelId>, reply: oneshot::Sender<usize>) {
        let directory = Arc::clone(&self.directory);
        let models: Vec<ModelId> = match model {
            Some(model) => vec![model],
            None => self.args.settings.models.keys().cloned().collect(),
        };
        tokio::spawn(async move {
            let mut n_reset = 0;
            for model in models {
                let Some(actor) = directory.model(&model) else { continue };
                let (asked, answer) = oneshot::channel();
                let _ = actor.cast(ModelMsg::Reset(asked));
                n_reset += usize::from(answer.await.is_ok());
            }
            let _ = reply.send(n_reset);
        });
    }

    fn shut_down(&mut self, myself: &ActorRef<SupervisorMsg>, reason: String, reply: oneshot::Sender<ShutDown>) {
        if self.shutting_down.is_some() {
            let _ = reply.send(ShutDown::default());
            return;
        }
        if !self.taken.is_empty() {
            let step = format!("{reason}: saving {} session(s)", self.taken.len());
            self.args.events.tell(Event::Shutdown { step });
        }
        let now = (self.args.clock)();
        let alert = (!self.taken.is_empty() && self.args.settings.alerts.is_some()).then(|| {
            let sessions: Vec<&SessionId> = self.taken.keys().collect();
            crate::alerts::of_shutdown(&reason, &sessions, now)
        });
        let interrupt = Interrupt { reason, at_ms: now, emergency: true, parked: false };
        let mut answers = Vec::new();
        for (id, actor) in &self.sessions {
            let (asked, answer) = oneshot::channel();
            let _ = actor.cast(SessionMsg::Interrupt { interrupt: interrupt.clone(), reply: asked });
            answers.push((id.clone(), answer));
        }
        let (keeper, queue, clock) = (self.args.keeper.clone(), self.queue.clone(), self.args.clock);
        let policy = self.args.settings.session.clone();
        let (grace, issues) = (self.args.settings.shutdown_grace, self.args.settings.issues.clone());
        let outbox = self.directory.outbox();
        let work = async move {
            let mut ended = ShutDown::default();
            let deadline = Instant::now() + SAVING_AT_MOST;
            for (id, answer) in answers {
                let saved = tokio::time::timeout_at(deadline, answer).await;
                let saved = matches!(saved, Ok(Ok(Ok(()))));
                // One that came to its end meanwhile has nothing left to save, and its actor may be gone.
                let is_over = !saved && matches!(keeper.head(&id), Ok(Some(session)) if session.phase.is_final());
                if !is_over {
                    ended.enter(id, saved);
                }
            }
            // Those that wait had nothing begun: all in one.
            let mut heads = Vec::new();
            for id in &queue {
                if let Ok(Some(session)) = keeper.head(id) {
                    let mut run = Run::of(session);
                    run.apply(Happened::Interrupted(interrupt.clone()), &policy, clock());
                    heads.push(Write::Head(Box::new(run.session)));
                }
            }
            heads.extend(alert.map(|alert| Write::Alert(Box::new(alert))));
            let saved = tokio::time::timeout_at(deadline, keeper.save(heads)).await;
            let saved = matches!(saved, Ok(Ok(())));
            queue.into_iter().for_each(|id| ended.enter(id, saved));
            let issue = crate::issues::recovery(&keeper, &ended.saved, &interrupt.reason, &issues, now);
            if let Ok(Err(error)) = tokio::time::timeout_at(deadline, keeper.save(issue)).await {
                tracing::error!(error = %error, "recovery issue not saved");
            }
            if let Some(outbox) = outbox {
                settle_outbox(&outbox, grace).await;
            }
            ended
        };
        let report =
            move |end: Result<ShutDown, String>| SupervisorMsg::SessionsSaved { ended: end.unwrap_or_default(), reply };
        self.shutting_down = Some(report_back(myself.clone(), work, report));
    }
}

/// Waits until no delivery is under way, at most `grace`.
pub(crate) async fn settle_outbox(outbox: &ActorRef<OutboxMsg>, grace: Duration) {
    let (asked, answer) = oneshot::channel();
    let _ = outbox.cast(OutboxMsg::Wake);
    let _ = outbox.cast(OutboxMsg::Settled(asked));
    // Late deliveries go on at the next start.
    let _ = tokio::time::timeout(grace, answer).await;
}

async fn model_status(directory: &Directory, model: &ModelId) -> ModelStatus {
    if let Some(actor) = directory.model(model) {
        let (asked, answer) = oneshot::channel();
        let _ = actor.cast(ModelMsg::Status(asked));
        if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), answer).await {
            return status;
        }
    }
    ModelStatus {
        circuit_breaker: "UNAVAILABLE (its actor is being restarted)".to_owned(),
        is_callable: false,
        retry_in: None,
        in_flight: 0,
        waiting: 0,
        opens: 0,
        median_latency: None,
        timeout_raised_by: Duration::ZERO,
    }
}
