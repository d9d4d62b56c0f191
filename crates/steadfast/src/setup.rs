//! From the configuration to running actors: the only place that knows both.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steadfast_actors::budget::{Limit, Limits};
use steadfast_actors::settings::{IssueSettings, ModelSettings};
use steadfast_actors::{Handle, Keeper, KeeperError, Settings};
use steadfast_config::{Config, Environment, Loaded, Micros, Sandbox, Sources, Tracker};
use steadfast_core::breaker::BreakerConfig;
use steadfast_core::failover;
use steadfast_core::ids::{ModelId, Role};
use steadfast_core::tally::MinSuccessRate;
use steadfast_core::{sentinel, session};
use steadfast_model::{ModelClient, ProviderSettings};
use steadfast_notify::{AlertChannel, GithubSettings, GithubTracker, IssueTracker, LocalTracker, Webhook};
use steadfast_prompt::Templates;
use steadfast_repo::Exclude;
use steadfast_repo::sandbox::find_bwrap;

use crate::cli::Global;
use crate::client::{Client, LOOK_AGAIN, is_locked};
use crate::exit::{Failure, failed};
use crate::traces::Target;

/// Of a call to a model for which nothing else is configured.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a command waits for another process to let go of the store (SPEC 10).
pub(crate) const STORE_WAIT: Duration = Duration::from_secs(10);

/// Who has the store.
pub(crate) enum Access {
    /// A daemon, or a session in the foreground, that answers for it.
    Served(Client),
    /// This process.
    Own(Keeper),
}

/// A checked configuration and what was found out about it.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) loaded: Loaded,
}

impl Setup {
    /// Reads and checks the configuration.
    pub(crate) fn load(global: &Global) -> Result<Self, Failure> {
        let loaded = load(global)?;
        let mut config = loaded.config.clone();
        // Issues' addresses and worktrees outlive the folder that this process was started in.
        config.daemon.state_dir = std::path::absolute(&config.daemon.state_dir)
            .map_err(|error| failed("cannot find the state directory", &error))?;
        Ok(Self { config, loaded })
    }

    /// Reads the configuration again, for a daemon that goes on: what cannot change while it runs stays as it is, and is
    /// named.
    pub(crate) fn load_again(&self, global: &Global) -> Result<(Self, Vec<&'static str>), Failure> {
        let mut new = Self::load(global)?;
        let at_next_start = keep_fixed(&self.config, &mut new.config);
        Ok((new, at_next_start))
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.config.daemon.state_dir
    }

    /// Every model that a role lists.
    pub(crate) fn models(&self) -> BTreeSet<ModelId> {
        Role::ALL.iter().flat_map(|role| self.config.roles.of(*role)).cloned().collect()
    }

    /// Each model's client, or why it cannot be called.
    pub(crate) fn clients(&self) -> BTreeMap<ModelId, Result<Arc<dyn ModelClient>, String>> {
        let environment = Environment::of_process();
        let with_client = |id: ModelId| {
            let client = self.client(&id, &environment);
            (id, client)
        };
        self.models().into_iter().map(with_client).collect()
    }

    fn client(&self, id: &ModelId, environment: &Environment) -> Result<Arc<dyn ModelClient>, String> {
        if self.config.models.get(id).is_some_and(|model| !model.enabled) {
            return Err("disabled".to_owned());
        }
        let settings = self.provider(id, environment)?;
        steadfast_model::client(&settings, id.name()).map_err(|uncallable| uncallable.to_string())
    }

    /// How a model is reached, with its key.
    fn provider(&self, id: &ModelId, environment: &Environment) -> Result<ProviderSettings, String> {
        let Some(provider) = self.config.providers.get(id.provider()) else {
            return Err(format!("provider {} is not configured", id.provider()));
        };
        let key = provider.key(id.provider(), environment).map_err(|missing| missing.to_string())?;
        Ok(ProviderSettings {
            kind: provider.kind.as_str().to_owned(),
            base_url: provider.base_url.clone().unwrap_or_default(),
            key,
            stream: provider.stream,
            json_mode: provider.json_mode,
            command: provider.command.clone(),
            traced: Target::of_environment().is_ok_and(|target| target.is_some()),
        })
    }

    /// Stands for the way in which a model is reached, or for that it is not.
    fn mark(&self, id: &ModelId, environment: &Environment) -> u64 {
        let is_enabled = self.config.models.get(id).is_none_or(|model| model.enabled);
        let provider = self.provider(id, environment).ok().filter(|_| is_enabled);
        provider.map_or(0, |provider| provider.mark())
    }

    /// SPEC 5: an idea is refused when no model of some role can be called at all.
    pub(crate) fn check_callable(&self, allow_degraded: bool) -> Result<(), Failure> {
        if allow_degraded {
            return Ok(());
        }
        let clients = self.clients();
        for role in Role::ALL {
            let models = self.config.roles.of(role);
            let reason = |id: &ModelId| match clients.get(id) {
                Some(Ok(_)) => None,
                Some(Err(reason)) => Some(format!("{id}: {reason}")),
                None => Some(format!("{id}: not configured")),
            };
            let reasons: Vec<String> = models.iter().filter_map(reason).collect();
            if reasons.len() == models.len() {
                return Err(Failure::Usage(format!(
                    "no model of the {role} can be called ({}); give what is missing, or begin all the same with \
                     --allow-degraded: templates and manual tasks then stand in",
                    reasons.join("; ")
                )));
            }
        }
        Ok(())
    }

    fn tracker(&self) -> Result<Arc<dyn IssueTracker>, Failure> {
        Ok(match self.github()? {
            Some(github) => Arc::new(github),
            None => Arc::new(LocalTracker::new(self.issues_dir())),
        })
    }

    /// Where issues go that go to nobody else.
    pub(crate) fn issues_dir(&self) -> PathBuf {
        self.state_dir().join("issues")
    }

    /// GitHub, where issues go there. The token must be there: whoever forgot it wants to hear it before anything begins.
    pub(crate) fn github(&self) -> Result<Option<GithubTracker>, Failure> {
        let issues = &self.config.issues;
        if issues.tracker == Tracker::Local {
            return Ok(None);
        }
        let wrong = |what: &str| Failure::Usage(format!("issues.tracker \"github\" cannot be used: {what}"));
        let token = issues.token(&Environment::of_process()).map_err(|missing| wrong(&missing.to_string()))?;
        let token = token.ok_or_else(|| wrong("there is no token; write token_env or token_file in [issues]"))?;
        let repository = issues.repository.clone().ok_or_else(|| wrong("write repository = \"owner/name\""))?;
        let settings = GithubSettings { api_url: issues.api_url.clone(), repository, token };
        GithubTracker::new(&settings).map(Some).map_err(|error| wrong(&error.to_string()))
    }

    fn alerts(&self) -> Result<Option<Arc<dyn AlertChannel>>, Failure> {
        Ok(self.webhook()?.map(|webhook| Arc::new(webhook) as Arc<dyn AlertChannel>))
    }

    pub(crate) fn webhook(&self) -> Result<Option<Webhook>, Failure> {
        let Some(address) = &self.config.alerts.webhook else { return Ok(None) };
        // The address is a secret: not even a wrong one is said.
        let webhook = Webhook::new(address.expose());
        webhook.map(Some).ok_or_else(|| Failure::Usage("alerts.webhook is no address".to_owned()))
    }

    /// Everything the actors need.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let config = &self.config;
        let environment = Environment::of_process();
        let clients = self.clients();
        let models = clients.into_iter().map(|(id, client)| {
            let model = config.models.get(&id);
            let settings = ModelSettings {
                client,
                mark: self.mark(&id, &environment),
                timeout: model.map_or(DEFAULT_TIMEOUT, |model| model.timeout),
                context_window: model.and_then(|model| model.context_window).map(u32::from),
                max_output_tokens: model.and_then(|model| model.max_output_tokens).map(u32::from),
                max_concurrency: model.map_or(NonZeroUsize::MIN, |model| model.max_concurrency),
                price_micros: model.and_then(|model| model.price).map(|price| (price.input.0, price.output.0)),
            };
            (id, settings)
        });
        // Said before anything begins.
        Target::of_environment()?;
        let failover = &config.failover;
        let micros = |budget: Option<Micros>| budget.map(|micros| micros.0);
        let state_dir = config.daemon.state_dir.clone();
        let fail_primary = is_set("FAIL_PRIMARY")?;
        if fail_primary {
            crate::progress::note(
                "!! FAIL_PRIMARY is set: the first model of each role fails on purpose; no call is made to it",
            );
        }
        Ok(Settings {
            max_sessions: config.daemon.max_sessions,
            max_restarts: config.daemon.max_restarts,
            restart_window: config.daemon.restart_window,
            shutdown_grace: config.daemon.shutdown_grace,
            keep_finished: config.daemon.keep_finished,
            resources: sentinel::Limits {
                memory: config.daemon.memory_limit,
                min_free_disk: config.daemon.min_free_disk_bytes,
                time: config.daemon.time_limit.map(|limit| limit.saturating_sub(config.daemon.time_limit_margin)),
            },
            probe: steadfast_actors::sentinel::read_machine,
            roles: Role::ALL.iter().map(|role| (*role, config.roles.of(*role).to_vec())).collect(),
            models: Arc::new(models.collect()),
            breaker: self.breaker(),
            failover: failover::Policy {
                max_retries: failover.max_retries,
                backoff_initial: failover.backoff.initial,
                backoff_max: failover.backoff.max,
                outage_patience: failover.outage_patience,
            },
            auto_timeout: failover.auto_timeout,
            redeem_within: failover.redeem.then_some(failover.redeem_within),
            fail_primary,
            session: self.session_policy(),
            max_parallel_agents: config.session.max_parallel_agents,
            checks: config.session.checks.clone(),
            check_timeout: config.session.check_timeout,
            bwrap: self.bwrap()?,
            hidden: self.hidden(),
            exclude: Arc::new(self.exclude()?),
            templates: Arc::new(self.templates()?),
            limits: Limits {
                session: Limit {
                    calls: config.session.max_calls.session,
                    tokens: config.session.max_tokens.session,
                    cost_micros: micros(config.session.max_cost.session),
                },
                day: Limit {
                    calls: config.session.max_calls.day,
                    tokens: config.session.max_tokens.day,
                    cost_micros: micros(config.session.max_cost.day),
                },
            },
            issues: IssueSettings { assignee: config.issues.assignee.clone(), labels: config.issues.labels.clone() },
            tracker: self.tracker()?,
            alerts: self.alerts()?,
            state_dir,
        })
    }

    /// The breaker of every model, as configured.
    pub(crate) fn breaker(&self) -> BreakerConfig {
        let failover = &self.config.failover;
        BreakerConfig {
            failure_threshold: failover.failure_threshold,
            reset_timeout: failover.reset_timeout,
            monitoring_period: failover.monitoring_period,
            max_open: failover.max_open,
            probe_lease: failover.reset_timeout,
        }
    }

    /// The way of a session, as configured.
    pub(crate) fn session_policy(&self) -> session::Policy {
        let (failover, session) = (&self.config.failover, &self.config.session);
        session::Policy {
            milestone_retries: session.milestone_retries,
            max_review_rounds: session.max_review_rounds,
            partial_success: failover.partial_success,
            min_success_rate: MinSuccessRate::from_fraction(failover.min_success_rate).unwrap_or(MinSuccessRate::HALF),
            graceful_degradation: failover.graceful_degradation,
            has_checks: !session.checks.is_empty(),
            redeem: failover.redeem && failover.graceful_degradation,
        }
    }

    pub(crate) fn bwrap(&self) -> Result<Option<PathBuf>, Failure> {
        if self.config.session.checks.is_empty() || self.config.session.checks_sandbox == Sandbox::None {
            return Ok(None);
        }
        self.loaded.may_start(&Environment::of_process()).map_err(|errors| Failure::Usage(errors.to_string()))?;
        find_bwrap().map(Some).map_err(|error| Failure::Usage(steadfast_actors::chain(&error)))
    }

    /// What a confined check must not see.
    fn hidden(&self) -> Vec<PathBuf> {
        let keys = self.config.providers.values().filter_map(|provider| provider.api_key_file.clone());
        let token = self.config.issues.token_file.clone();
        keys.chain(token).chain([self.config.daemon.state_dir.clone()]).collect()
    }

    pub(crate) fn exclude(&self) -> Result<Exclude, Failure> {
        Exclude::new(&self.config.session.context_exclude)
            .map_err(|error| Failure::Usage(format!("[session] context_exclude: {}", steadfast_actors::chain(&error))))
    }

    pub(crate) fn templates(&self) -> Result<Templates, Failure> {
        let mut templates = Templates::builtin();
        let Some(folder) = &self.config.session.prompts_dir else { return Ok(templates) };
        let wrong = |path: PathBuf, what: String| Failure::Usage(format!("{}: {what}", path.display()));
        if !folder.is_dir() {
            return Err(wrong(folder.clone(), "prompts_dir is no folder".to_owned()));
        }
        for file in Templates::FILES {
            let path = folder.join(file);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    templates = templates.with(file, &text).map_err(|error| wrong(path, error.to_string()))?;
                }
                // A prompt that is not there keeps its built-in text.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(wrong(path, error.to_string())),
            }
        }
        Ok(templates)
    }

    /// Finds who answers for the store, or opens it. Another process that holds it and does not answer is waited for: it
    /// is starting or ending.
    pub(crate) async fn access(&self) -> Result<Access, Failure> {
        self.access_by(async || self.open_store_within(Duration::ZERO).await).await
    }

    /// The same for a command that only looks: where nothing can be written, it reads all the same.
    pub(crate) async fn access_to_look(&self) -> Result<Access, Failure> {
        self.access_by(async || self.open_to_look(Duration::ZERO).await).await
    }

    async fn access_by(&self, open: impl AsyncFn() -> Result<Keeper, Failure>) -> Result<Access, Failure> {
        let start = tokio::time::Instant::now();
        loop {
            if let Some(client) = Client::connect(self.state_dir()).await {
                return Ok(Access::Served(client));
            }
            let is_last = start.elapsed() >= STORE_WAIT;
            if is_last || !is_locked(self.state_dir()) {
                match open().await {
                    Ok(keeper) => return Ok(Access::Own(keeper)),
                    // Another one was quicker.
                    Err(_) if !is_last && is_locked(self.state_dir()) => {}
                    Err(failure) => return Err(failure),
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Opens the store, waiting for another process to let go of it.
    pub(crate) async fn open_store(&self) -> Result<Keeper, Failure> {
        self.open_store_within(STORE_WAIT).await
    }

    pub(crate) async fn open_store_within(&self, wait: Duration) -> Result<Keeper, Failure> {
        let keeper = Keeper::open(self.state_dir(), wait, self.session_policy()).await;
        opened(keeper)
    }

    /// Opens the store for a command that only looks. Where nothing can be written, it reads all the same.
    pub(crate) async fn open_to_look(&self, wait: Duration) -> Result<Keeper, Failure> {
        match Keeper::open(self.state_dir(), wait, self.session_policy()).await {
            Err(KeeperError::Unwritable(reason)) if self.state_dir().join("store").is_dir() => {
                crate::progress::note(&format!("warning: {reason}: the store is only read, nothing in it is changed"));
                let keeper = Keeper::open_for_reading(self.state_dir(), wait, self.session_policy()).await;
                opened(keeper)
            }
            keeper => opened(keeper),
        }
    }

    /// Starts the actors over an open store.
    pub(crate) async fn start(&self, settings: Settings, keeper: Keeper) -> Result<Handle, Failure> {
        steadfast_actors::start(settings, keeper).await.map_err(|error| failed("cannot start", &error))
    }
}

/// Whether a switch in the environment is on: `true` or `1`; `false`, `0`, nothing and no such variable are off. Another
/// word is refused, for a drill that silently does not happen looks like one that was passed.
pub(crate) fn is_set(name: &str) -> Result<bool, Failure> {
    let value = std::env::var_os(name).unwrap_or_default();
    match value.to_str() {
        Some("true" | "1") => Ok(true),
        Some("false" | "0" | "") => Ok(false),
        _ => Err(Failure::Usage(format!(
            "{name} is {}, which is neither true nor false: set it to true, or unset it",
            crate::text::harmless(&value.to_string_lossy())
        ))),
    }
}

/// Says what the opening had to mend.
fn opened(keeper: Result<Keeper, KeeperError>) -> Result<Keeper, Failure> {
    let keeper = keeper.map_err(|error| failed("cannot open the store", &error))?;
    // A log says it, too; whoever has none must hear of it all the same.
    if !tracing::enabled!(tracing::Level::WARN) {
        keeper.report().iter().for_each(|line| crate::progress::note(&format!("warning: {line}")));
    }
    Ok(keeper)
}

/// Gives the new configuration the old one's values of what holds for the life of a process, and answers the keys that
/// differed.
fn keep_fixed(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut differed = Vec::new();
    macro_rules! keep {
        ($($key:literal $($field:ident).+;)+) => {$(
            if new.$($field).+ != old.$($field).+ {
                new.$($field).+.clone_from(&old.$($field).+);
                differed.push($key);
            }
        )+};
    }
    keep! {
        "daemon.state_dir" daemon.state_dir;
        "daemon.listen" daemon.listen;
        "daemon.time_limit" daemon.time_limit;
        "daemon.time_limit_margin" daemon.time_limit_margin;
        "daemon.memory_limit" daemon.memory_limit;
        "daemon.min_free_disk" daemon.min_free_disk_bytes;
        "log.format" log.format;
    }
    differed
}

/// Reads the layers of the configuration.
pub(crate) fn load(global: &Global) -> Result<Loaded, Failure> {
    let mut flags = Vec::new();
    if let Some(dir) = &global.state_dir {
        let absolute = std::path::absolute(dir).map_err(|error| failed("cannot find the state directory", &error))?;
        let text = absolute.to_str().ok_or_else(|| {
            Failure::Usage(format!("--state-dir {} is no UTF-8 text: choose another name", absolute.display()))
        })?;
        flags.push(("daemon.state_dir".to_owned(), text.to_owned()));
    }
    let sources = Sources {
        files: global.config.clone(),
        flags,
        preset: global.preset.clone(),
        ..Sources::new(Environment::of_process())
    };
    Config::load(&sources).map_err(|errors| Failure::Usage(errors.to_string()))
}
