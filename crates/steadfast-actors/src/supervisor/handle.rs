//! The way in for everyone outside: starts the actors, takes orders, and ends it all.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ractor::{Actor, ActorRef, SpawnErr};
use steadfast_core::ids::{ModelId, SessionId};
use steadfast_core::session::{Event as Happened, Identity, Phase, Run, Session, Spent};
use steadfast_prompt::Idea;
use steadfast_repo::{RepoError, Repository};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::{
    Beat, Emergency, ShutDown, Status, Submission, SubmitError, Supervisor, SupervisorArgs, SupervisorError,
    SupervisorMsg,
};
use crate::budget::Ledger;
use crate::checkpoint_keeper::{Keeper, KeeperError};
use crate::event::Events;
use crate::meter::Meter;
use crate::records::Write;
use crate::settings::Settings;
use crate::tidy::Pruned;
use crate::tuner::Tuner;

/// Milliseconds since 1970 by the machine's clock.
pub(crate) fn wall_clock_ms() -> u64 {
    // A clock before 1970 is a machine that was never set; zero is as good a time as any there.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Days since 1970 in UTC.
fn today() -> u64 {
    wall_clock_ms() / 86_400_000
}

impl Submission {
    /// Looks at the repository and lays down where the work happens: base commit, branch, identity. Blocks on the disk;
    /// changes nothing.
    ///
    /// # Errors
    /// [`RepoError`], for a person: no repository there, no commit yet, a branch name that is blocked.
    pub fn prepare(idea: Idea, repo: &Path, allow_degraded: bool) -> Result<Self, RepoError> {
        let repository = Repository::open(repo)?;
        let (base, author) = (repository.head()?, repository.identity());
        let now = wall_clock_ms();
        let session = Session {
            id: SessionId::new(now, fastrand::u32(..)),
            idea: idea.id.clone(),
            title: idea.title.clone(),
            repo: repository.top().to_string_lossy().trim_end_matches('/').to_owned(),
            tip: base.clone(),
            base,
            branch: repository.free_branch(&idea.id)?,
            identity: Identity { name: author.name, email: author.email },
            created_ms: now,
            updated_ms: now,
            phase: Phase::Queued,
            interrupt: None,
            current: 0,
            n_milestones: 0,
            plan_degraded: false,
            failing_before: None,
            spent: Spent::default(),
            abnormal_ends: 0,
            allow_degraded,
            error: None,
        };
        Ok(Self { session, idea })
    }
}

/// Starts all actors over an open store.
///
/// # Errors
/// When an actor cannot be started; those that were are ended again.
pub async fn start(settings: Settings, keeper: Keeper) -> Result<Handle, SpawnErr> {
    let events = Events::default();
    let emergency = watch::Sender::new(None);
    // A store that cannot be read shows with the first session; here it only means that nothing is known to be spent.
    let spent_today = keeper.spent_on(today()).unwrap_or_default().unwrap_or_default();
    let ledger = Ledger::new(settings.limits, settings.prices(), today, (today(), spent_today));
    let (rates, history) = (keeper.rates().unwrap_or_default(), keeper.rate_history().unwrap_or_default());
    let meter = Arc::new(Meter::new(rates, history, wall_clock_ms));
    crate::tidy::all(&keeper, &settings.state_dir).await;
    let args = SupervisorArgs {
        meter: Arc::clone(&meter),
        tuner: Arc::new(Tuner::new(keeper.clone(), events.clone())),
        settings: Arc::new(settings),
        keeper: keeper.clone(),
        ledger: Arc::new(ledger),
        events: events.clone(),
        clock: wall_clock_ms,
        emergency: emergency.clone(),
    };
    let (supervisor, join) = Actor::spawn(None, Supervisor, args).await?;
    Ok(Handle { supervisor, join: Mutex::new(Some(join)), keeper, meter, events, alarm: emergency })
}

/// Looks over the sessions that a process before this one has left: counts what ended abnormally, and parks, with an issue,
/// a session that was at work each time (SPEC 7). Answers those that go on by themselves, oldest first. Before [`start`], by
/// a daemon.
///
/// # Errors
/// [`KeeperError`]; then nothing was changed.
pub async fn take_stock(settings: &Settings, keeper: &Keeper) -> Result<Vec<SessionId>, KeeperError> {
    let now = wall_clock_ms();
    let (mut writes, mut go_on) = (Vec::new(), Vec::new());
    for session in keeper.resumable()? {
        let id = session.id.clone();
        let before = session.abnormal_ends;
        let mut run = Run::of(session);
        run.apply(Happened::EndedAbnormally, &settings.session, now);
        match &run.session.interrupt {
            Some(interrupt) if interrupt.parked => {
                tracing::warn!(session = %id, reason = interrupt.reason, "session parked");
                let reason = &interrupt.reason;
                writes.extend(crate::issues::stop(keeper, &run.session, reason, &settings.issues, now));
            }
            Some(_) | None => go_on.push(id),
        }
        if run.session.abnormal_ends != before {
            writes.push(Write::Head(Box::new(run.session)));
        }
    }
    keeper.save(writes).await?;
    Ok(go_on)
}

/// Orders to a running supervisor.
pub struct Handle {
    supervisor: ActorRef<SupervisorMsg>,
    /// `None` once it was waited for.
    join: Mutex<Option<JoinHandle<()>>>,
    keeper: Keeper,
    meter: Arc<Meter>,
    events: Events,
    alarm: watch::Sender<Option<Emergency>>,
}

impl Handle {
    /// Where events come from.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The rates of this store.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The store.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Holds a reason once everything is to be saved and ended (SPEC 8): whoever owns the process shuts down then. What is
    /// outside of any actor's reach, a panic of a thread, may put one in.
    pub fn alarm(&self) -> &watch::Sender<Option<Emergency>> {
        &self.alarm
    }

    /// The actor at the root, so that tests find the others below it.
    #[cfg(test)]
    pub(crate) fn supervisor(&self) -> ractor::ActorCell {
        self.supervisor.get_cell()
    }

    /// Asks the supervisor. `None`: it has gone.
    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> SupervisorMsg) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.supervisor.cast(message(reply)).ok()?;
        answer.await.ok()
    }

    /// Takes an idea; it is durable when this returns.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing was taken.
    pub async fn submit(&self, submission: Submission) -> Result<SessionId, SubmitError> {
        let submission = Box::new(submission);
        let answer = self.ask(|reply| SupervisorMsg::Submit { submission, reply }).await;
        answer.unwrap_or(Err(SubmitError::ShuttingDown))
    }

    /// Has an interrupted session go on, or with `retry` also a failed or cancelled one.
    ///
    /// # Errors
    /// [`SupervisorError`]; then nothing has changed.
    pub async fn take_up(&self, session: &SessionId, retry: bool) -> Result<(), SupervisorError> {
        let session = session.clone();
        let answer = self.ask(|reply| SupervisorMsg::TakeUp { session, retry, reply }).await;
        answer.unwrap_or(Err(SupervisorError::ShuttingDown))
    }

    /// From now on has models do what stand-ins have done, as soon as they can be asked again. For a process that stays.
    pub fn begin_redeeming(&self) {
        // A supervisor that has gone has nothing to make up for.
        let _ = self.supervisor.cast(SupervisorMsg::Redeem);
    }

    /// Stops a session and keeps its branch; durable when this returns.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub async fn cancel(&self, session: &SessionId) -> Result<(), SupervisorError> {
        let session = session.clone();
        let answer = self.ask(|reply| SupervisorMsg::Cancel { session, reply }).await;
        answer.unwrap_or(Err(SupervisorError::ShuttingDown))
    }

    /// Returns when the session is over or stands still.
    pub async fn wait(&self, session: &SessionId) {
        let session = session.clone();
        // A supervisor that has gone has no session at work either.
        let _ = self.ask(|reply| SupervisorMsg::Wait { session, reply }).await;
    }

    /// Applies the retention now.
    ///
    /// # Errors
    /// For a person: the store failed, or it is under way already.
    pub async fn prune(&self) -> Result<Pruned, String> {
        let answer = self.ask(|reply| SupervisorMsg::Prune(Some(reply))).await;
        answer.unwrap_or_else(|| Err("steadfast is shutting down".to_owned()))
    }

    /// How everything stands. `None` while it shuts down.
    pub async fn status(&self) -> Option<Status> {
        self.ask(SupervisorMsg::Status).await
    }

    /// Tries everything in the outbox now, whatever pause it keeps, but for limits that another side has set. Returns when
    /// each was tried, or after `at_most`; what is still under way then goes on.
    pub async fn flush_outbox(&self, at_most: Duration) {
        let flush = true;
        let _ = tokio::time::timeout(at_most, self.ask(|reply| SupervisorMsg::SettleOutbox { flush, reply })).await;
    }

    /// Returns when all is delivered or waits for its next try, or after `at_most`.
    pub async fn settle_outbox(&self, at_most: Duration) {
        let flush = false;
        let _ = tokio::time::timeout(at_most, self.ask(|reply| SupervisorMsg::SettleOutbox { flush, reply })).await;
    }

    /// A sign of life from the supervisor itself; it costs one message. `None` once it has gone. Waits for as long as a
    /// supervisor is stuck: give it a time.
    pub async fn beat(&self) -> Option<Beat> {
        self.ask(SupervisorMsg::Ping).await
    }

    /// Has other settings hold from now on. Sessions at work keep theirs, but ask the new models from their next question on;
    /// what is under way ends as it began. The state directory is to be the old one.
    ///
    /// # Errors
    /// [`SupervisorError::ShuttingDown`]; then nothing has changed.
    pub async fn configure(&self, settings: Settings) -> Result<(), SupervisorError> {
        let settings = Arc::new(settings);
        let answer = self.ask(|reply| SupervisorMsg::Configure { settings, reply }).await;
        answer.unwrap_or(Err(SupervisorError::ShuttingDown))
    }

    /// Resets the breaker of one model or of all; answers how many were reset.
    pub async fn reset(&self, model: Option<ModelId>) -> usize {
        self.ask(|reply| SupervisorMsg::Reset { model, reply }).await.unwrap_or(0)
    }

    /// Saves every session, delivers what can be delivered within the grace, ends all actors and closes the store. Answers
    /// what became of the sessions that were at work or waited.
    /// `last` runs when nothing happens any more, and may still save.
    pub async fn shutdown(&self, reason: &str, last: impl Future<Output = ()>) -> ShutDown {
        let reason = reason.to_owned();
        let ended = self.ask(|reply| SupervisorMsg::Shutdown { reason, reply }).await.unwrap_or_default();
        // Executions since the last milestone count, too.
        if let Err(error) = self.keeper.save(self.meter.writes()).await {
            tracing::warn!(error = %error, "rates not saved");
        }
        // It stops itself after its answer; a bound in case a child does not let go.
        let join = self.join.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(join) = join {
            let _ = tokio::time::timeout(Duration::from_secs(5), join).await;
        }
        last.await;
        self.keeper.close().await;
        ended
    }
}
