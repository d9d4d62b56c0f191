//! All the actors over a store in memory, scripted models and a small repository on disk. The plan has two milestones
//! with three and two files.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::{ActorCell, ActorRef, Message};
use steadfast_core::breaker::BreakerConfig;
use steadfast_core::failover;
use steadfast_core::ids::{IdeaId, ModelId, RepoPath, Role, SessionId};
use steadfast_core::sentinel;
use steadfast_core::session::Phase;
use steadfast_model::CallRequest;
use steadfast_notify::{
    Alert, AlertChannel, Closed, Closing, ClosingDone, DeliveryError, Filed, Filing, Issue, IssueKind, IssueTracker,
    Sending, Tried,
};
use steadfast_prompt::{Idea, Templates};
use steadfast_repo::{Exclude, Repository};
use steadfast_store::MemoryStore;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::rig::{S, session_policy};
use super::script::{Journal, Reply, Scripted, text};
use crate::aggregator::AggregatorMsg;
use crate::budget::Limits;
use crate::checkpoint_keeper::Keeper;
use crate::event::Event;
use crate::file_agent::FileAgentMsg;
use crate::records::SessionRecord;
use crate::session::SessionMsg;
use crate::settings::{IssueSettings, ModelSettings, Settings};
use crate::supervisor::{Handle, Submission, SubmitError};

const PLAN: &str = r#"{"milestones": [
    {"name": "First", "description": "Begin.", "files": {"create": ["a.md", "b.md", "c.md"]}},
    {"name": "Second", "description": "End.", "files": {"create": ["d.md"], "modify": ["README.md"]}}
]}"#;

/// What an undisturbed session asks: a plan, five files, two reviews.
pub(super) const CALLS: usize = 8;

/// What a model that does its part answers.
pub(super) fn good(request: &CallRequest) -> Reply {
    let path = request.context.file.as_ref().map(RepoPath::as_str);
    match (request.context.role, path) {
        (Role::Planner, _) => text(PLAN),
        (Role::Coder, Some(path)) => Reply::Text(format!("```markdown\n# {path}\n```\n")),
        (Role::Coder, None) => text("NOTHING TO CHANGE"),
        (Role::Reviewer, _) => text(r#"{"approved": true, "code_quality": 90, "issues": []}"#),
    }
}

/// One model that plays all roles.
pub(super) fn all_rounder(journal: &Journal) -> Scripted {
    Scripted::new("model", journal).by(good)
}

/// Remembers what was filed and closed; fails so often first.
#[derive(Default)]
pub(super) struct Tracker {
    failures_to_come: Mutex<u32>,
    /// How it fails; by default as if it could not be reached.
    failure: Mutex<Option<fn() -> DeliveryError>>,
    origin: Mutex<Option<Instant>>,
    tries: Mutex<Vec<(String, u64)>>,
    filed: Mutex<Vec<Issue>>,
    looked: Mutex<Vec<Tried>>,
    closed: Mutex<Vec<Closing>>,
}

impl Tracker {
    pub(super) fn failing(times: u32) -> Arc<Self> {
        let tracker = Self::default();
        *tracker.failures_to_come.lock().unwrap() = times;
        *tracker.origin.lock().unwrap() = Some(Instant::now());
        Arc::new(tracker)
    }

    pub(super) fn fails_with(&self, failure: fn() -> DeliveryError) {
        *self.failure.lock().unwrap() = Some(failure);
    }

    /// Whether each try was told that it may be another one's repetition.
    pub(super) fn looked(&self) -> Vec<bool> {
        self.looked.lock().unwrap().iter().map(|tried| *tried != Tried::Never).collect()
    }

    pub(super) fn closed(&self) -> Vec<Closing> {
        self.closed.lock().unwrap().clone()
    }

    fn may_fail(&self) -> Result<(), DeliveryError> {
        let mut failures = self.failures_to_come.lock().unwrap();
        if *failures == 0 {
            return Ok(());
        }
        *failures -= 1;
        let failure = *self.failure.lock().unwrap();
        Err(failure.map_or_else(|| DeliveryError::Unreachable("the tracker is down".to_owned()), |failure| failure()))
    }

    pub(super) fn fail_from_now_on(&self) {
        *self.failures_to_come.lock().unwrap() = u32::MAX;
    }

    pub(super) fn mend(&self) {
        *self.failures_to_come.lock().unwrap() = 0;
    }

    pub(super) fn filed(&self) -> Vec<Issue> {
        self.filed.lock().unwrap().clone()
    }

    /// In which seconds an issue was tried.
    pub(super) fn tries(&self, key: &str) -> Vec<u64> {
        let tries = self.tries.lock().unwrap();
        tries.iter().filter(|(tried, _)| tried == key).map(|(_, at)| *at).collect()
    }
}

/// The trait's own type is for a shared one.
pub(super) struct Shared(pub(super) Arc<Tracker>);

impl IssueTracker for Shared {
    fn file(&self, issue: Issue, tried: Tried) -> Filing {
        let tracker = Arc::clone(&self.0);
        Box::pin(async move {
            let at = tracker.origin.lock().unwrap().map_or(0, |origin| origin.elapsed().as_secs());
            tracker.tries.lock().unwrap().push((issue.key.clone(), at));
            tracker.looked.lock().unwrap().push(tried);
            tracker.may_fail()?;
            let mut filed = tracker.filed.lock().unwrap();
            let found = tried != Tried::Never && filed.iter().any(|other| other.key == issue.key);
            let url = format!("memory:{}", issue.key);
            if !found {
                filed.push(issue);
            }
            Ok(Filed { url, found, note: None })
        })
    }

    fn close(&self, closing: Closing, url: String, tried: Tried) -> ClosingDone {
        let tracker = Arc::clone(&self.0);
        Box::pin(async move {
            assert_eq!(url, format!("memory:{}", closing.issue));
            tracker.may_fail()?;
            let mut closed = tracker.closed.lock().unwrap();
            if tried == Tried::Never || !closed.contains(&closing) {
                closed.push(closing);
            }
            Ok(Closed::default())
        })
    }
}

/// Remembers the alerts that came; fails so often first.
#[derive(Default)]
pub(super) struct Heard {
    alerts: Mutex<Vec<Alert>>,
    pub(super) failures_to_come: Mutex<u32>,
}

impl Heard {
    /// Their kinds and ids.
    pub(super) fn alerts(&self) -> Vec<Alert> {
        self.alerts.lock().unwrap().clone()
    }
}

/// The trait's own type is for a shared one.
pub(super) struct Ear(pub(super) Arc<Heard>);

impl AlertChannel for Ear {
    fn send(&self, alert: Alert) -> Sending {
        let heard = Arc::clone(&self.0);
        Box::pin(async move {
            let mut failures = heard.failures_to_come.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(DeliveryError::Unreachable("nobody listens".to_owned()));
            }
            heard.alerts.lock().unwrap().push(alert);
            Ok(())
        })
    }
}

/// Everything at work.
pub(super) struct Yard {
    dir: Arc<TempDir>,
    pub(super) store: MemoryStore,
    pub(super) tracker: Arc<Tracker>,
    pub(super) handle: Handle,
    events: broadcast::Receiver<Arc<Event>>,
}

impl Yard {
    pub(super) async fn start(model: &Scripted) -> Self {
        Self::tuned(model, |_| ()).await
    }

    pub(super) async fn tuned(model: &Scripted, tune: impl FnOnce(&mut Settings)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::over(dir, MemoryStore::new(), Tracker::failing(0), model, tune).await
    }

    /// Another process over what this one would leave behind when it is killed.
    pub(super) async fn after_kill(&self, model: &Scripted) -> Self {
        self.beside(self.store.after_kill(), model).await
    }

    /// Another process over this store, with the same folders and the same tracker.
    pub(super) async fn beside(&self, store: MemoryStore, model: &Scripted) -> Self {
        Self::over(Arc::clone(&self.dir), store, Arc::clone(&self.tracker), model, |_| ()).await
    }

    /// Ends it in order: the sessions that were saved, and what is left for the next process.
    pub(super) async fn shut_down(self, reason: &str) -> (Vec<SessionId>, Left) {
        let Self { dir, store, tracker, handle, .. } = self;
        let saved = handle.shutdown(reason, async {}).await.saved;
        (saved, Left { dir, store: store.after_power_cut(), tracker })
    }

    pub(super) async fn over(
        dir: Arc<TempDir>,
        store: MemoryStore,
        tracker: Arc<Tracker>,
        model: &Scripted,
        tune: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = settings(dir.path().join("state"), model, &tracker);
        tune(&mut settings);
        let keeper = Keeper::over(Arc::new(store.clone()), session_policy(), Vec::new()).unwrap();
        let handle = crate::supervisor::start(settings, keeper).await.unwrap();
        let events = handle.events().watch();
        Self { dir, store, tracker, handle, events }
    }

    /// Has the settings of a yard with these models hold from now on, the first of them for all roles.
    pub(super) async fn configure(&self, model: &Scripted, tune: impl FnOnce(&mut Settings)) {
        let mut settings = settings(self.dir.path().join("state"), model, &self.tracker);
        tune(&mut settings);
        self.handle.configure(settings).await.unwrap();
    }

    /// The repository of that name, made where it is missing.
    pub(super) fn repo(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        if !path.exists() {
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("README.md"), "# Before\n").unwrap();
            Repository::init_with_files(&path, "Begin").unwrap();
        }
        path
    }

    pub(super) async fn submit(&self, idea: &str, repo: &str) -> Result<SessionId, SubmitError> {
        let idea = Idea {
            id: IdeaId::new(idea).unwrap(),
            title: format!("Idea {idea}"),
            body: "Write some files.".to_owned(),
        };
        let submission = Submission::prepare(idea, &self.repo(repo), false).unwrap();
        self.handle.submit(submission).await
    }

    pub(super) fn record(&self, id: &SessionId) -> SessionRecord {
        self.handle.keeper().record(id).unwrap().unwrap()
    }

    pub(super) fn phase(&self, id: &SessionId) -> Phase {
        self.record(id).session.phase
    }

    /// The milestones that are committed on the session's branch, which must be nobody else's.
    pub(super) fn commits(&self, id: &SessionId) -> Vec<u32> {
        let session = self.record(id).session;
        let repository = Repository::open(&PathBuf::from(&session.repo)).unwrap();
        let log = repository.commits_of(id, &session.branch, &session.base).unwrap();
        assert!(log.foreign.is_empty());
        log.ours.iter().map(|commit| commit.milestone).collect()
    }

    /// The session ended as an undisturbed one does: both milestones committed once, complete, with the right files.
    pub(super) fn assert_whole(&self, id: &SessionId) {
        let record = self.record(id);
        assert_eq!(record.session.phase, Phase::Completed, "{:?}", record.session.error);
        assert_eq!(self.commits(id), [1, 2]);
        let repository = Repository::open(&PathBuf::from(&record.session.repo)).unwrap();
        for path in ["a.md", "b.md", "c.md", "d.md", "README.md"] {
            let path = RepoPath::new(path).unwrap();
            let text = repository.read(&record.session.tip, &path, 1000).unwrap().unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), format!("# {path}\n"));
        }
        assert!(
            record.milestones.iter().all(|milestone| milestone.tally().is_complete() && milestone.manual.is_none())
        );
        let faults = record.issues.iter().filter(|record| record.issue.kind != IssueKind::Recovery).count();
        assert_eq!(faults, 0, "{:?}", record.issues);
    }

    /// Waits until a session tells that it is completed, and not longer: its actor is there then.
    pub(super) async fn completes(&mut self) {
        loop {
            if let Event::SessionMoved { phase: Phase::Completed, .. } = &*self.events.recv().await.unwrap() {
                return;
            }
        }
    }

    pub(super) fn session_actors(&self) -> Vec<ActorRef<SessionMsg>> {
        children(&self.handle.supervisor())
    }

    pub(super) fn aggregators(&self) -> Vec<ActorRef<AggregatorMsg>> {
        self.session_actors().iter().flat_map(|session| children(&session.get_cell())).collect()
    }

    pub(super) fn agents(&self) -> Vec<ActorRef<FileAgentMsg>> {
        self.aggregators().iter().flat_map(|aggregator| children(&aggregator.get_cell())).collect()
    }

    pub(super) fn shared<M: Message>(&self) -> Vec<ActorRef<M>> {
        children(&self.handle.supervisor())
    }

    /// What actors failed since the last look: `session (again)`, `worker (for good)`, by their kind.
    pub(super) fn failures(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::ActorFailed { actor, restarted, .. } = &*event {
                let kind = actor.split(' ').next().unwrap_or_default();
                failures.push(format!("{kind} ({})", if *restarted { "again" } else { "for good" }));
            }
        }
        failures
    }
}

/// What an ended process leaves behind.
pub(super) struct Left {
    dir: Arc<TempDir>,
    store: MemoryStore,
    tracker: Arc<Tracker>,
}

impl Left {
    pub(super) async fn start(self, model: &Scripted) -> Yard {
        Yard::over(self.dir, self.store, self.tracker, model, |_| ()).await
    }
}

fn children<M: Message>(cell: &ActorCell) -> Vec<ActorRef<M>> {
    let mut found: Vec<ActorCell> =
        cell.get_children().into_iter().filter(|child| child.is_message_type_of::<M>() == Some(true)).collect();
    found.sort_by_key(|child| child.get_id().pid());
    found.into_iter().map(ActorRef::from).collect()
}

fn settings(state_dir: PathBuf, model: &Scripted, tracker: &Arc<Tracker>) -> Settings {
    let id = ModelId::new(&format!("p/{}", model.name())).unwrap();
    let one = ModelSettings {
        client: Ok(model.client()),
        mark: 0,
        timeout: S(300),
        context_window: None,
        max_output_tokens: None,
        max_concurrency: NonZeroUsize::new(8).unwrap(),
        price_micros: None,
    };
    Settings {
        state_dir,
        max_sessions: NonZeroUsize::new(4).unwrap(),
        max_restarts: 3,
        restart_window: S(60),
        shutdown_grace: S(2),
        keep_finished: S(30 * 24 * 3600),
        resources: sentinel::Limits { memory: sentinel::MemoryLimit::Percent(95), min_free_disk: 0, time: None },
        probe: |_dir| sentinel::Reading::default(),
        roles: Role::ALL.iter().map(|role| (*role, vec![id.clone()])).collect(),
        models: Arc::new(BTreeMap::from([(id, one)])),
        breaker: BreakerConfig { failure_threshold: NonZeroU32::new(3).unwrap(), ..BreakerConfig::default() },
        failover: failover::Policy { outage_patience: Duration::ZERO, ..failover::Policy::default() },
        auto_timeout: false,
        redeem_within: Some(S(24 * 3600)),
        fail_primary: false,
        session: session_policy(),
        max_parallel_agents: NonZeroUsize::new(4).unwrap(),
        checks: Vec::new(),
        check_timeout: S(60),
        bwrap: None,
        hidden: Vec::new(),
        exclude: Arc::new(Exclude::new(&[]).unwrap()),
        templates: Arc::new(Templates::builtin()),
        limits: Limits::default(),
        issues: IssueSettings::default(),
        tracker: Arc::new(Shared(Arc::clone(tracker))),
        alerts: None,
    }
}
