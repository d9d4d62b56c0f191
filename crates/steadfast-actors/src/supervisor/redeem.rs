//! Has models do what stand-ins have done, once a model of the role can be asked again.
//!
//! Invariant: at most one session is taken up again for this at a time, and only while no other waits for its turn; nothing
//! of it begins before it was looked at what people have done with the branch since.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use steadfast_core::ids::{CommitId, ModelId, RepoPath, Role, SessionId};
use steadfast_core::session::{
    AgentResult, Debts, Due, Event as Happened, Milestone, Owed, Phase, Run, Session, Target,
};
use steadfast_repo::{Repository, Standing};

use super::{SupervisorMsg, SupervisorState, model_status};
use crate::checkpoint_keeper::{Keeper, KeeperError};
use crate::directory::Directory;
use crate::event::{Event, Events, RedemptionStep};
use crate::records::{SessionRecord, Write};
use crate::settings::Settings;
use crate::task::report_back;

/// The shortest time between two looks that nothing has called for.
const LOOK_AT_LEAST: Duration = Duration::from_millis(100);
/// When it is looked again after a look that failed.
const LOOK_AFTER_TROUBLE: Duration = Duration::from_secs(60);

/// A session that is to be taken up again.
pub(crate) struct Begin {
    session: SessionId,
    what: Owed,
    milestone: Option<Box<Milestone>>,
    base: Option<CommitId>,
    touched: BTreeSet<RepoPath>,
}

/// What a look at all debts came to.
#[derive(Default)]
pub(crate) struct Look {
    begin: Option<Begin>,
    /// When something may be due that is not now; `None`: only when a breaker moves or a session ends.
    again_in: Option<Duration>,
    /// How often each model's breaker had moved by then.
    moves: HashMap<ModelId, u64>,
}

/// What a look needs to know.
struct Looker {
    keeper: Keeper,
    directory: Arc<Directory>,
    settings: Arc<Settings>,
    events: Events,
    now_ms: u64,
    known: HashMap<ModelId, u64>,
    moves: HashMap<ModelId, u64>,
}

/// How a role's models stand.
#[derive(Clone, Copy)]
struct Health {
    /// A call would be let through now.
    can_be_asked: bool,
    /// A breaker has closed since the last look.
    has_recovered: bool,
    /// Until the next test.
    retry_in: Option<Duration>,
}

impl SupervisorState {
    /// From now on what is owed is made up for.
    pub(super) fn begin_redeeming(&mut self, myself: &ActorRef<SupervisorMsg>) {
        let (mut moved, supervisor) = (self.recoveries.subscribe(), myself.clone());
        let work = async move {
            while moved.changed().await.is_ok() && supervisor.cast(SupervisorMsg::LookAtDebts(None)).is_ok() {}
        };
        self.redeem.watching = Some(report_back(myself.clone(), work, |_end| SupervisorMsg::LookAtDebts(None)));
        self.look_at_debts(myself);
    }

    /// Whether something may be made up for now. Whoever waits for a place goes first.
    fn may_redeem(&self) -> bool {
        self.redeem.watching.is_some()
            && self.redeem.session.is_none()
            && self.queue.is_empty()
            && self.paused.is_none()
            && self.shutting_down.is_none()
            && self.pruning.is_none()
    }

    pub(super) fn look_at_debts(&mut self, myself: &ActorRef<SupervisorMsg>) {
        if self.redeem.looking.is_some() {
            self.redeem.look_again = true;
            return;
        }
        if !self.may_redeem() {
            return;
        }
        let looker = Looker {
            keeper: self.args.keeper.clone(),
            directory: Arc::clone(&self.directory),
            settings: Arc::clone(&self.args.settings),
            events: self.args.events.clone(),
            now_ms: (self.args.clock)(),
            known: self.redeem.known.clone(),
            moves: self.recoveries.borrow().clone(),
        };
        self.redeem.looking = Some(report_back(myself.clone(), looker.look(), |end| {
            SupervisorMsg::DebtsLooked(end.and_then(|look| look.map_err(|error| crate::chain(&error))))
        }));
    }

    pub(super) async fn debts_looked(&mut self, myself: &ActorRef<SupervisorMsg>, look: Result<Look, String>) {
        self.redeem.looking = None;
        let look = look.unwrap_or_else(|error| {
            tracing::warn!(error, "what is owed could not be looked at");
            Look { again_in: Some(LOOK_AFTER_TROUBLE), ..Look::default() }
        });
        self.redeem.known.extend(look.moves);
        let mut again_in = look.again_in;
        if let Some(begin) = look.begin.filter(|_| self.may_redeem()) {
            let session = begin.session.clone();
            if let Err(error) = self.redeem_now(myself, begin).await {
                tracing::warn!(%session, error, "what is owed could not be taken up");
            }
            // One that is at work brings the next look with its end.
            again_in = self.redeem.session.is_none().then_some(LOOK_AFTER_TROUBLE);
        }
        if std::mem::take(&mut self.redeem.look_again) {
            self.look_at_debts(myself);
        } else if let Some(again_in) = again_in {
            self.redeem.timer += 1;
            let timer = self.redeem.timer;
            myself.send_after(again_in.max(LOOK_AT_LEAST), move || SupervisorMsg::LookAtDebts(Some(timer)));
        }
    }

    /// A timer that another one has replaced is late.
    pub(super) fn is_late(&self, timer: Option<u64>) -> bool {
        timer.is_some_and(|timer| timer != self.redeem.timer)
    }

    async fn redeem_now(&mut self, myself: &ActorRef<SupervisorMsg>, begin: Begin) -> Result<(), String> {
        let Begin { session: id, what, milestone, base, touched } = begin;
        let keeper = self.args.keeper.clone();
        // The models that it degraded for want to be asked anew, not to be remembered as exhausted.
        keeper.forget_attempts(&id).await.map_err(|error| error.to_string())?;
        let loaded = keeper.load(&id).map_err(|error| error.to_string())?;
        let Some(mut loaded) = loaded else { return Err("it is not in the store".to_owned()) };
        if self.not_taken(&loaded.run.session).is_err() {
            // Its idea is at work again; that session's end brings the next look.
            return Ok(());
        }
        let now = (self.args.clock)();
        let happened = Happened::Redeem { what, milestone, base, touched };
        let _ = loaded.run.apply(happened, &self.args.settings.session, now);
        if loaded.run.redeeming().is_none() {
            return keeper.save(put_back(&loaded.run)).await.map_err(|error| error.to_string());
        }
        let step = RedemptionStep::Begun;
        self.args.events.tell(Event::Redemption { session: id.clone(), what, step });
        let session = &loaded.run.session;
        self.taken.insert(id.clone(), (session.idea.as_str().to_owned(), session.repo.clone()));
        self.redeem.session = Some(id.clone());
        if let Err(error) = self.spawn_session(myself, &id, loaded, false).await {
            self.session_failed(myself, id, error).await;
        }
        Ok(())
    }
}

/// What is saved of a session whose redemption has ended without its actor.
pub(super) fn put_back(run: &Run) -> Vec<Write> {
    let id = &run.session.id;
    let mut writes = vec![Write::Head(Box::new(run.session.clone()))];
    if run.debts != Debts::default() {
        writes.push(Write::Debts(id.clone(), Box::new(run.debts.clone())));
    }
    writes.extend(run.milestone.iter().map(|milestone| Write::Milestone(id.clone(), Box::new(milestone.clone()))));
    writes
}

/// How the supervisor makes up for what is owed.
#[derive(Default)]
pub(super) struct Redeem {
    /// Casts a message when a breaker moves; `None`: nothing is made up for in this process.
    pub(super) watching: Option<crate::task::TaskGuard>,
    /// The session that is taken up again for it. It takes no place from others.
    pub(super) session: Option<SessionId>,
    looking: Option<crate::task::TaskGuard>,
    /// Something has moved during the look.
    look_again: bool,
    /// The number of the timer that counts.
    timer: u64,
    known: HashMap<ModelId, u64>,
}

impl Looker {
    async fn look(self) -> Result<Look, KeeperError> {
        let mut health: HashMap<Role, Health> = HashMap::new();
        let mut look = Look { moves: self.moves.clone(), ..Look::default() };
        for id in self.keeper.owing()? {
            let (Some(session), Some(debts)) = (self.keeper.head(&id)?, self.keeper.debts(&id)?) else { continue };
            if session.phase != Phase::Completed {
                continue;
            }
            let within = self.settings.redeem_within.unwrap_or_default();
            let (owed, not_before_ms) = match debts.due(self.now_ms, within) {
                Due::Nothing => continue,
                _ if self.settings.redeem_within.is_none() => {
                    self.leave(&session, debts, "redeem is off").await?;
                    continue;
                }
                Due::TooOld => {
                    self.leave(&session, debts, "it is older than redeem_within").await?;
                    continue;
                }
                Due::Now(owed) => (owed, 0),
                Due::From(at_ms, owed) => (owed, at_ms),
            };
            for what in owed {
                let role = what.role();
                let Health { can_be_asked, has_recovered, retry_in } = match health.get(&role) {
                    Some(known) => *known,
                    None => *health.entry(role).or_insert(self.health(role).await),
                };
                let pause = Duration::from_millis(not_before_ms.saturating_sub(self.now_ms));
                if !can_be_asked {
                    look.again_in = sooner(look.again_in, retry_in.map(|time| time.max(pause)));
                } else if !pause.is_zero() && !has_recovered {
                    look.again_in = sooner(look.again_in, Some(pause));
                } else {
                    match self.begin(&session, what).await? {
                        Ok(begin) => {
                            look.begin = Some(begin);
                            return Ok(look);
                        }
                        Err(why) => {
                            self.leave(&session, debts, &why).await?;
                            break;
                        }
                    }
                }
            }
        }
        Ok(look)
    }

    async fn health(&self, role: Role) -> Health {
        let mut health = Health { can_be_asked: false, has_recovered: false, retry_in: None };
        for model in self.settings.role(role) {
            let status = model_status(&self.directory, model).await;
            if !status.is_callable {
                continue;
            }
            let moves = |all: &HashMap<ModelId, u64>| all.get(model).copied().unwrap_or_default();
            let wait = status.retry_in.filter(|time| !time.is_zero());
            health.can_be_asked |= wait.is_none();
            health.has_recovered |= status.retry_in.is_none() && moves(&self.moves) > moves(&self.known);
            health.retry_in = sooner(health.retry_in, wait);
        }
        health
    }

    /// What is still owed is left for a person, for good.
    async fn leave(&self, session: &Session, debts: Debts, why: &str) -> Result<(), KeeperError> {
        let what = debts.owed().first().copied();
        let debts = debts.leave(why);
        self.keeper.save(vec![Write::Debts(session.id.clone(), Box::new(debts))]).await?;
        let step = RedemptionStep::Left { why: why.to_owned() };
        if let Some(what) = what {
            self.events.tell(Event::Redemption { session: session.id.clone(), what, step });
        }
        crate::tidy::one(&self.keeper, &self.settings.state_dir, session).await;
        Ok(())
    }

    /// Looks whether people have left room for it; else says what they did.
    async fn begin(&self, session: &Session, what: Owed) -> Result<Result<Begin, String>, KeeperError> {
        if let Some(newest) = self.keeper.newest_of_idea(session.idea.as_str())?
            && newest != session.id
            && self.keeper.head(&newest)?.is_some_and(|newest| newest.repo == session.repo)
        {
            return Ok(Err(format!("its idea was submitted again, as session {newest}")));
        }
        let Some(record) = self.keeper.record(&session.id)? else { return Ok(Err("it is gone".to_owned())) };
        let milestone = what.milestone().and_then(|index| record.milestones.iter().find(|one| one.index == index));
        let (milestone, touched) = (milestone.cloned(), touched(&record, what));
        if milestone.is_none() && what.milestone().is_some() {
            return Ok(Err("its milestone is not in the store".to_owned()));
        }
        let (session, own) = (session.clone(), crate::tidy::worktree(&self.settings.state_dir, &session.id));
        let commit = milestone.as_ref().and_then(|milestone| milestone.commit.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let repository = Repository::open(&PathBuf::from(&session.repo)).map_err(|error| crate::chain(&error))?;
            stands(&repository, &session, &own)?;
            let base = match commit.filter(|_| matches!(what, Owed::Review(_))) {
                Some(commit) => repository.parent(&commit).map_err(|error| crate::chain(&error))?,
                None => None,
            };
            Ok((session.id, base))
        });
        let looked = looked.await.map_err(|error| KeeperError::Store(error.to_string()))?;
        Ok(looked.map(|(session, base)| Begin { session, what, milestone: milestone.map(Box::new), base, touched }))
    }
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Whether the branch is as the session left it; the error is for a person.
fn stands(repository: &Repository, session: &Session, own: &std::path::Path) -> Result<(), String> {
    let branch = &session.branch;
    let standing = repository.standing(branch, &session.tip, &session.base, own);
    match standing.map_err(|error| crate::chain(&error))? {
        Standing::AsLeft => Ok(()),
        Standing::Gone => Err(format!("branch {branch} was deleted")),
        Standing::Moved(commit) => Err(format!("somebody has changed branch {branch}: it is at {}", commit.short())),
        Standing::PartOf(other) => Err(format!("branch {branch} was merged: it is part of {other}")),
        Standing::CheckedOut => Err(format!("branch {branch} is checked out")),
    }
}

/// What other milestones have changed since the one whose files are owed.
fn touched(record: &SessionRecord, what: Owed) -> BTreeSet<RepoPath> {
    let Owed::Milestone(index) = what else { return BTreeSet::new() };
    let mut touched = BTreeSet::new();
    // One before it may have been made up for since.
    let others = |milestone: &&Milestone| milestone.index != index && milestone.manual.is_none();
    for milestone in record.milestones.iter().filter(others) {
        let is_later = milestone.index > index || milestone.round != milestone.fix_rounds();
        for agent in milestone.agents.iter().filter(|_| is_later) {
            match (&agent.result, &agent.target) {
                (Some(AgentResult::Done(done)), _) => touched.extend(done.paths.iter().cloned()),
                (_, Target::File { path, .. }) => drop(touched.insert(path.clone())),
                (_, Target::Free | Target::Refused { .. }) => {}
            }
        }
    }
    touched
}
