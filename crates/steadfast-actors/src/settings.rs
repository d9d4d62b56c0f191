//! What the actors are configured with. The binary makes it from its configuration; nothing here knows files or keys.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steadfast_core::breaker::BreakerConfig;
use steadfast_core::failover;
use steadfast_core::ids::{ModelId, Role};
use steadfast_core::restart::RestartBudget;
use steadfast_core::sentinel::Limits;
use steadfast_core::session;
use steadfast_core::tuning;
use steadfast_model::ModelClient;
use steadfast_notify::{AlertChannel, IssueTracker};
use steadfast_prompt::Templates;
use steadfast_repo::Exclude;

use crate::budget;
use crate::sentinel::Probe;

/// One model.
#[derive(Clone)]
pub struct ModelSettings {
    /// How it is reached, or why it cannot be (`UNAVAILABLE`).
    pub client: Result<Arc<dyn ModelClient>, String>,
    /// Stands for all that makes the client: provider, address, key. Where it differs after a reload, the model is reached
    /// in another way, and its breaker begins anew (SPEC 4: refused "until a reset or a changed configuration").
    pub mark: u64,
    /// Of one call.
    pub timeout: Duration,
    /// In tokens; `None`: not known.
    pub context_window: Option<u32>,
    /// The limit told to the provider; `None`: the provider's own.
    pub max_output_tokens: Option<u32>,
    /// Calls at once.
    pub max_concurrency: NonZeroUsize,
    /// Millionths of the currency per million tokens: input, output.
    pub price_micros: Option<(u64, u64)>,
}

/// Issues for people.
#[derive(Debug, Clone, Default)]
pub struct IssueSettings {
    /// Whom they are for.
    pub assignee: Option<String>,
    /// Labels for the tracker.
    pub labels: Vec<String>,
}

/// Everything.
#[derive(Clone)]
pub struct Settings {
    /// Holds the store, the worktrees and the local issues.
    pub state_dir: PathBuf,
    /// Sessions at work at once; more wait.
    pub max_sessions: NonZeroUsize,
    /// Restarts of one actor within [`Settings::restart_window`] before it counts as failing for good.
    pub max_restarts: u32,
    /// See [`Settings::max_restarts`].
    pub restart_window: Duration,
    /// How long the actors may take to save and end at a shutdown.
    pub shutdown_grace: Duration,
    /// How long a session is kept after it is over.
    pub keep_finished: Duration,
    /// When memory, disk or time are short.
    pub resources: Limits,
    /// How that is measured.
    pub probe: Probe,
    /// Each role's models in priority order.
    pub roles: BTreeMap<Role, Vec<ModelId>>,
    /// Every model of every role.
    pub models: Arc<BTreeMap<ModelId, ModelSettings>>,
    /// Of every model.
    pub breaker: BreakerConfig,
    /// Of every execution.
    pub failover: failover::Policy,
    /// Timeouts of first models are raised where they make others answer.
    pub auto_timeout: bool,
    /// For so long what stand-ins have done is made up for; `None`: not at all. Beside [`session::Policy::redeem`], by which it
    /// is remembered.
    pub redeem_within: Option<Duration>,
    /// The first model of each role fails on purpose.
    pub fail_primary: bool,
    /// The way of a session.
    pub session: session::Policy,
    /// File agents of one session at once.
    pub max_parallel_agents: NonZeroUsize,
    /// Commands.
    pub checks: Vec<String>,
    /// For each check by itself.
    pub check_timeout: Duration,
    /// The program that keeps the checks in; `None`: they run unconfined, as the operator said in so many words.
    pub bwrap: Option<PathBuf>,
    /// Files and folders that a confined check does not see: the state directory, key files.
    pub hidden: Vec<PathBuf>,
    /// Files that never go into a prompt.
    pub exclude: Arc<Exclude>,
    /// The prompts.
    pub templates: Arc<Templates>,
    /// What may be bought.
    pub limits: budget::Limits,
    /// Issues for people.
    pub issues: IssueSettings,
    /// Where they are filed.
    pub tracker: Arc<dyn IssueTracker>,
    /// Where alerts go; `None`: none are raised.
    pub alerts: Option<Arc<dyn AlertChannel>>,
}

impl Settings {
    /// The role's models in priority order; never empty in a checked configuration.
    pub fn role(&self, role: Role) -> &[ModelId] {
        self.roles.get(&role).map_or(&[], Vec::as_slice)
    }

    /// Millionths of the currency per million tokens, for models that have a price.
    pub(crate) fn prices(&self) -> BTreeMap<ModelId, (u64, u64)> {
        self.models.iter().filter_map(|(id, model)| Some((id.clone(), model.price_micros?))).collect()
    }

    /// Of one actor.
    pub(crate) fn restart_budget(&self) -> RestartBudget {
        RestartBudget::new(self.max_restarts, self.restart_window)
    }

    /// The breaker of a model: a test that never reports is given up after the model's own timeout, the longest that it can
    /// be raised to.
    pub(crate) fn breaker_of(&self, model: &ModelSettings) -> BreakerConfig {
        let raise = if self.auto_timeout { tuning::RAISE * tuning::MAX_RAISES } else { Duration::ZERO };
        BreakerConfig { probe_lease: model.timeout + raise, ..self.breaker.clone() }
    }

    /// Tokens that a prompt of the role may take: half of its first model's window, the rest is for the answer.
    /// A window that is not configured counts as 32,768, which every current hosted model exceeds.
    pub fn prompt_budget(&self, role: Role) -> usize {
        let window = |model: &ModelId| self.models.get(model).and_then(|settings| settings.context_window);
        let first = self.role(role).first().and_then(window).unwrap_or(32_768);
        (first / 2) as usize
    }
}
