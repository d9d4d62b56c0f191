//! The checked configuration: one struct per section. A component gets its own part, never the whole.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use steadfast_core::ids::{ModelId, Role};
use steadfast_core::sentinel::MemoryLimit;

/// Everything that can be configured, checked: every model of every role is in `models`, and its provider in `providers`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The long-running process.
    pub daemon: Daemon,
    /// Breakers, failover, degradation.
    pub failover: Failover,
    /// How one idea is worked on.
    pub session: Session,
    /// By name. Built-in ones that no role uses are left out.
    pub providers: BTreeMap<String, Provider>,
    /// At least every model that a role lists. Built-in ones that no role uses are left out.
    pub models: BTreeMap<ModelId, Model>,
    /// Who is asked.
    pub roles: Roles,
    /// Where issues are filed.
    pub issues: Issues,
    /// Who is told at once.
    pub alerts: Alerts,
    /// How the log looks.
    pub log: Log,
}

/// Where HTTP is served besides the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Port 7070 of 127.0.0.1, or a free one where that is taken; nobody depends on it.
    Auto,
    /// Here; port 0 stands for a free one.
    At(SocketAddr),
    /// Nowhere.
    Nowhere,
}

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Holds the store, the worktrees and the local issues.
    pub state_dir: PathBuf,
    /// Where HTTP is served besides the control socket.
    pub listen: Listen,
    /// Sessions at work at once.
    pub max_sessions: NonZeroUsize,
    /// Restarts of one actor within `restart_window` before it counts as failing for good; may be 0.
    pub max_restarts: u32,
    /// Not zero.
    pub restart_window: Duration,
    /// How long the process may run in all; longer than `time_limit_margin`.
    pub time_limit: Option<Duration>,
    /// How long before the limit the shutdown begins.
    pub time_limit_margin: Duration,
    /// Above this the daemon shuts down.
    pub memory_limit: MemoryLimit,
    /// Below this the daemon shuts down; 0: not watched.
    pub min_free_disk_bytes: u64,
    /// For delivering the recovery issue while shutting down; may be zero.
    pub shutdown_grace: Duration,
    /// How long finished sessions stay in the store; may be zero.
    pub keep_finished: Duration,
}

/// `[failover]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// As configured; its numbers are already in the two fields that it sets.
    pub preset: Option<Preset>,
    /// Failures within `monitoring_period` that open a breaker.
    pub failure_threshold: NonZeroU32,
    /// How long a breaker stays open before a test; not zero.
    pub reset_timeout: Duration,
    /// How long a failure counts; not zero.
    pub monitoring_period: Duration,
    /// The longest that a breaker stays open; not zero.
    pub max_open: Duration,
    /// Attempts per model in one execution.
    pub max_retries: NonZeroU32,
    /// Wait between attempts.
    pub backoff: Backoff,
    /// How long an execution waits for a breaker's next test before it degrades; zero: not at all.
    pub outage_patience: Duration,
    /// `false`: a session fails, resumable, where it would degrade.
    pub graceful_degradation: bool,
    /// `false`: a milestone needs all of its files.
    pub partial_success: bool,
    /// Least fraction of a milestone's files that must succeed, 0 to 1.
    pub min_success_rate: f64,
    /// Raise the first model's timeout when timeouts cause many fallbacks.
    pub auto_timeout: bool,
    /// Take degraded work up again when models answer again.
    pub redeem: bool,
    /// For how long after the degradation; not zero.
    pub redeem_within: Duration,
}

/// A named tuning of the breaker (SPEC 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Threshold 2, reset after 30 s.
    Aggressive,
    /// Threshold 10, reset after 300 s.
    Conservative,
}

/// Wait between attempts: `initial`, doubled each time, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt; may be zero.
    pub initial: Duration,
    /// Not below `initial`.
    pub max: Duration,
}

/// `[session]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Further tries of a milestone whose success rate is too low.
    pub milestone_retries: u32,
    /// Rounds of fixes after a rejected review or a failed check.
    pub max_review_rounds: u32,
    /// File agents of one session at once.
    pub max_parallel_agents: NonZeroUsize,
    /// Shell commands, in order, none blank; may be empty.
    pub checks: Vec<String>,
    /// Of each check; not zero.
    pub check_timeout: Duration,
    /// What stands between a check and the machine.
    pub checks_sandbox: Sandbox,
    /// Globs of files that never go into a prompt; each one compiles.
    pub context_exclude: Vec<String>,
    /// Folder with prompt files that replace the built-in ones.
    pub prompts_dir: Option<PathBuf>,
    /// Calls that may be made.
    pub max_calls: Budget<u64>,
    /// Tokens of prompts and answers that may be bought.
    pub max_tokens: Budget<u64>,
    /// What may be spent, in the currency of the prices.
    pub max_cost: Budget<Micros>,
}

/// What keeps a check, which runs code that a model wrote, from the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// bubblewrap: no network, only the worktree is writable.
    Bwrap,
    /// Nothing.
    None,
}

/// A limit, none of them zero; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget<T> {
    /// Of one session over its whole life.
    pub session: Option<T>,
    /// Of all sessions together in a day (UTC).
    pub day: Option<T>,
}

impl<T> Default for Budget<T> {
    /// No limit.
    fn default() -> Self {
        Self { session: None, day: None }
    }
}

/// Millionths of the currency in which prices are configured; which one that is, nobody needs to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

/// `[providers.NAME]`: where models are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// How it is spoken to.
    pub kind: ProviderKind,
    /// `http://` or `https://`, without user and password. `None` only for [`ProviderKind::Command`].
    pub base_url: Option<String>,
    /// Variable that holds the key. At most one of this and `api_key_file` is set.
    pub api_key_env: Option<String>,
    /// File that holds the key.
    pub api_key_file: Option<PathBuf>,
    /// Ask for streamed answers.
    pub stream: bool,
    /// Ask for JSON with `response_format`.
    pub json_mode: bool,
    /// Program and arguments; not empty for [`ProviderKind::Command`], and empty otherwise.
    pub command: Vec<String>,
}

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// Any OpenAI-compatible server.
    OpenAi,
    /// Anthropic's API.
    Anthropic,
    /// A program that gets the prompt on its standard input.
    Command,
}

impl ProviderKind {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Command => "command",
        }
    }
}

/// `[models."PROVIDER/NAME"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// 1 (slow) to 5 (fast); for people only.
    pub speed: Option<u8>,
    /// 1 to 5; for people only.
    pub quality: Option<u8>,
    /// For people only.
    pub use_case: Option<String>,
    /// Of one call; not zero.
    pub timeout: Duration,
    /// In tokens; `None`: not known.
    pub context_window: Option<NonZeroU32>,
    /// The limit told to the provider; `None`: the provider's own.
    pub max_output_tokens: Option<NonZeroU32>,
    /// Calls at once.
    pub max_concurrency: NonZeroUsize,
    /// `None`: its calls cost nothing in the books.
    pub price: Option<Price>,
    /// `false`: never called.
    pub enabled: bool,
}

/// Price of a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Of prompts.
    pub input: Micros,
    /// Of answers.
    pub output: Micros,
}

/// `[roles]`: models in priority order, at least one each, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Who plans.
    pub planner: Vec<ModelId>,
    /// Who writes files.
    pub coder: Vec<ModelId>,
    /// Who reviews.
    pub reviewer: Vec<ModelId>,
}

impl Roles {
    /// The role's models in priority order; never empty.
    pub fn of(&self, role: Role) -> &[ModelId] {
        match role {
            Role::Planner => &self.planner,
            Role::Coder => &self.coder,
            Role::Reviewer => &self.reviewer,
        }
    }
}

/// `[issues]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issues {
    /// Where issues are filed.
    pub tracker: Tracker,
    /// `owner/name`; set for [`Tracker::Github`].
    pub repository: Option<String>,
    /// Variable that holds the token. At most one of this and `token_file` is set, and one is for [`Tracker::Github`].
    pub token_env: Option<String>,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
    /// `http://` or `https://`, without user and password.
    pub api_url: String,
    /// Account that issues are assigned to.
    pub assignee: Option<String>,
    /// Put on each issue; may be empty.
    pub labels: Vec<String>,
}

/// Where issues are filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracker {
    /// GitHub's API.
    Github,
    /// Markdown files in the state folder.
    Local,
}

/// `[alerts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Gets a POST per alert.
    pub webhook: Option<WebhookUrl>,
}

/// The address of a webhook. Whoever knows it can post there, so it is kept like a key and prints as nothing.
#[derive(Clone)]
pub struct WebhookUrl(pub(crate) SecretString);

impl WebhookUrl {
    /// The address, to be used and forgotten.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookUrl(set)")
    }
}

impl PartialEq for WebhookUrl {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for WebhookUrl {}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// How a line of the log looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald where standard error is the journal, else text.
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// The journal's own protocol, with fields.
    Journald,
}
