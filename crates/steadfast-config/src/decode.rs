//! From the merged tree to the typed configuration, one value at a time. What spans several values is `check`'s part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use steadfast_core::ids::ModelId;

use crate::complete::items;
use crate::config::{
    Alerts, Backoff, Config, Daemon, Failover, Issues, Log, LogFormat, Model, Preset, Provider, ProviderKind, Roles,
    Sandbox, Session, Tracker, WebhookUrl,
};
use crate::fault::Faults;
use crate::schema;
use crate::tree::{Node, Table};
use crate::value::{self, Read, Wrong, optional};

pub(crate) const PRESETS: &[(&str, Preset)] =
    &[("aggressive", Preset::Aggressive), ("conservative", Preset::Conservative)];
pub(crate) const KINDS: &[(&str, ProviderKind)] =
    &[("openai", ProviderKind::OpenAi), ("anthropic", ProviderKind::Anthropic), ("command", ProviderKind::Command)];
const SANDBOXES: &[(&str, Sandbox)] = &[("bwrap", Sandbox::Bwrap), ("none", Sandbox::None)];
const TRACKERS: &[(&str, Tracker)] = &[("github", Tracker::Github), ("local", Tracker::Local)];
const FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
    ("journald", LogFormat::Journald),
];

/// Reads the values of one table and collects what is wrong with them, so that each is looked at.
struct Section<'a> {
    /// As it stands before the key in a message.
    name: String,
    table: &'a Table,
    /// What stands in for a value that is wrong, so that the rules on the rest can still be checked.
    defaults: &'a Table,
    found: &'a mut Found,
}

/// What decoding found out besides the values.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) faults: Faults,
    /// Sections with a wrong value, in whose place a default stands: rules on it would say what is not so.
    pub(crate) tainted: BTreeSet<String>,
}

impl Section<'_> {
    /// `None`: a fault was added, and not even a default can stand in.
    fn read<T>(&mut self, key: &str, parse: impl Fn(&Node) -> Read<T>) -> Option<T> {
        // The tree is complete: the built-in defaults and the templates have every key.
        let node = self.table.get(key)?;
        match parse(node) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let at = wrong.at.as_ref().unwrap_or(&node.at);
                self.found.faults.add(at, format!("{}.{key}: {}", self.name, wrong.message));
                self.found.tainted.insert(self.name.clone());
                parse(self.defaults.get(key)?).ok()
            }
        }
    }
}

/// A key as TOML wants it: bare where that is possible.
pub(crate) fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if bare { key.to_owned() } else { toml::Value::String(key.to_owned()).to_string() }
}

/// Never `None` without a fault; with a fault, what could be read. `tree` must be complete (see `complete`).
pub(crate) fn decode(tree: &Table, home: Option<&Path>, found: &mut Found) -> Option<Config> {
    let daemon = daemon(&mut section(tree, "daemon", found), home);
    let backoff = backoff(&mut section(tree, "failover.backoff", found));
    let failover = failover(&mut section(tree, "failover", found), backoff);
    let session = session(&mut section(tree, "session", found), home);
    let mut providers = BTreeMap::new();
    for (name, table) in named(tree, "providers") {
        providers.insert(name.to_owned(), provider(&mut named_section("providers", name, table, found), home));
    }
    let mut models = BTreeMap::new();
    for (name, table) in named(tree, "models") {
        // Names that are no model's are not in a checked layer.
        models.insert(ModelId::new(name).ok()?, model(&mut named_section("models", name, table, found)));
    }
    let roles = roles(&mut section(tree, "roles", found));
    let issues = issues(&mut section(tree, "issues", found), home);
    let webhook = |node: &Node| value::http_url(node).map(|url| WebhookUrl(url.into()));
    let webhook = section(tree, "alerts", found).read("webhook", optional(webhook));
    let format = section(tree, "log", found).read("format", value::choice(FORMATS));
    Some(Config {
        daemon: daemon?,
        failover: failover?,
        session: session?,
        providers: all(providers)?,
        models: all(models)?,
        roles: roles?,
        issues: issues?,
        alerts: Alerts { webhook: webhook? },
        log: Log { format: format? },
    })
}

/// `None` when some value is.
fn all<K: Ord, V>(map: BTreeMap<K, Option<V>>) -> Option<BTreeMap<K, V>> {
    map.into_iter().map(|(key, value)| Some((key, value?))).collect()
}

/// The section at a path of bare keys.
fn section<'a>(tree: &'a Table, path: &str, found: &'a mut Found) -> Section<'a> {
    let at = |tree: &'a Table| path.split('.').try_fold(tree, |table, key| table.get(key)?.table());
    let defaults = at(schema::defaults()).expect("only sections of the default file are asked for");
    Section { name: path.to_owned(), table: at(tree).unwrap_or(defaults), defaults, found }
}

/// The tables of a section whose keys are names.
fn named<'a>(tree: &'a Table, section: &str) -> impl Iterator<Item = (&'a str, &'a Table)> {
    let entries = tree.get(section).and_then(Node::table).map_or(&[][..], |table| &table.0);
    entries.iter().filter_map(|entry| Some((entry.key.as_str(), entry.node.table()?)))
}

fn named_section<'a>(section: &str, key: &str, table: &'a Table, found: &'a mut Found) -> Section<'a> {
    Section { name: format!("{section}.{}", quoted(key)), table, defaults: schema::template(section), found }
}

fn daemon(s: &mut Section<'_>, home: Option<&Path>) -> Option<Daemon> {
    let state_dir = s.read("state_dir", |node| match node.as_text() {
        // It is replaced where it can be (see `complete`).
        Some("auto") => {
            Err("none of STATE_DIRECTORY, XDG_STATE_HOME and HOME is set; say where the state is to be".into())
        }
        _ => value::path(home)(node),
    });
    let listen = s.read("listen", value::listen);
    let max_sessions = s.read("max_sessions", value::size_from_one);
    let max_restarts = s.read("max_restarts", value::count);
    let restart_window = s.read("restart_window", value::positive);
    let time_limit = s.read("time_limit", optional(value::positive));
    let time_limit_margin = s.read("time_limit_margin", value::duration);
    let memory_limit = s.read("memory_limit", value::memory_limit);
    let min_free_disk_bytes = s.read("min_free_disk", value::bytes);
    let shutdown_grace = s.read("shutdown_grace", value::duration);
    let keep_finished = s.read("keep_finished", value::duration);
    Some(Daemon {
        state_dir: state_dir?,
        listen: listen?,
        max_sessions: max_sessions?,
        max_restarts: max_restarts?,
        restart_window: restart_window?,
        time_limit: time_limit?,
        time_limit_margin: time_limit_margin?,
        memory_limit: memory_limit?,
        min_free_disk_bytes: min_free_disk_bytes?,
        shutdown_grace: shutdown_grace?,
        keep_finished: keep_finished?,
    })
}

fn backoff(s: &mut Section<'_>) -> Option<Backoff> {
    let initial = s.read("initial", value::duration);
    let max = s.read("max", value::duration);
    Some(Backoff { initial: initial?, max: max? })
}

fn failover(s: &mut Section<'_>, backoff: Option<Backoff>) -> Option<Failover> {
    let preset = s.read("preset", optional(value::choice(PRESETS)));
    let failure_threshold = s.read("failure_threshold", value::count_from_one);
    let reset_timeout = s.read("reset_timeout", value::positive);
    let monitoring_period = s.read("monitoring_period", value::positive);
    let max_open = s.read("max_open", value::positive);
    let max_retries = s.read("max_retries", value::count_from_one);
    let outage_patience = s.read("outage_patience", value::duration);
    let graceful_degradation = s.read("graceful_degradation", value::boolean);
    let partial_success = s.read("partial_success", value::boolean);
    let min_success_rate = s.read("min_success_rate", value::fraction);
    let auto_timeout = s.read("auto_timeout", value::boolean);
    let redeem = s.read("redeem", value::boolean);
    let redeem_within = s.read("redeem_within", value::positive);
    Some(Failover {
        preset: preset?,
        failure_threshold: failure_threshold?,
        reset_timeout: reset_timeout?,
        monitoring_period: monitoring_period?,
        max_open: max_open?,
        max_retries: max_retries?,
        backoff: backoff?,
        outage_patience: outage_patience?,
        graceful_degradation: graceful_degradation?,
        partial_success: partial_success?,
        min_success_rate: min_success_rate?,
        auto_timeout: auto_timeout?,
        redeem: redeem?,
        redeem_within: redeem_within?,
    })
}

fn session(s: &mut Section<'_>, home: Option<&Path>) -> Option<Session> {
    let milestone_retries = s.read("milestone_retries", value::count);
    let max_review_rounds = s.read("max_review_rounds", value::count);
    let max_parallel_agents = s.read("max_parallel_agents", value::size_from_one);
    let checks = s.read("checks", value::texts);
    let check_timeout = s.read("check_timeout", value::positive);
    let checks_sandbox = s.read("checks_sandbox", value::choice(SANDBOXES));
    let context_exclude = s.read("context_exclude", globs);
    let prompts_dir = s.read("prompts_dir", optional(value::path(home)));
    let max_calls = s.read("max_calls", value::budget(value::amount));
    let max_tokens = s.read("max_tokens", value::budget(value::amount));
    let max_cost = s.read("max_cost", value::budget(value::cost));
    Some(Session {
        milestone_retries: milestone_retries?,
        max_review_rounds: max_review_rounds?,
        max_parallel_agents: max_parallel_agents?,
        checks: checks?,
        check_timeout: check_timeout?,
        checks_sandbox: checks_sandbox?,
        context_exclude: context_exclude?,
        prompts_dir: prompts_dir?,
        max_calls: max_calls?,
        max_tokens: max_tokens?,
        max_cost: max_cost?,
    })
}

fn globs(node: &Node) -> Read<Vec<String>> {
    let patterns = value::texts(node)?;
    for (pattern, item) in patterns.iter().zip(items(node)) {
        let built = globset::GlobBuilder::new(pattern.trim_matches('/')).literal_separator(true).build();
        built.map_err(|error| Wrong {
            message: format!("{pattern:?} is no glob: {}", error.kind()),
            at: Some(item.at.clone()),
        })?;
    }
    Ok(patterns)
}

fn provider(s: &mut Section<'_>, home: Option<&Path>) -> Option<Provider> {
    let kind = s.read("kind", optional(value::choice(KINDS)));
    let base_url = s.read("base_url", optional(value::http_url));
    let api_key_env = s.read("api_key_env", optional(value::variable_name));
    let api_key_file = s.read("api_key_file", optional(value::key_file(home)));
    let stream = s.read("stream", value::boolean);
    let json_mode = s.read("json_mode", value::boolean);
    let command = s.read("command", value::texts);
    Some(Provider {
        // That there is none is told by `check`, which knows all layers.
        kind: kind?.unwrap_or(ProviderKind::OpenAi),
        base_url: base_url?,
        api_key_env: api_key_env?,
        api_key_file: api_key_file?,
        stream: stream?,
        json_mode: json_mode?,
        command: command?,
    })
}

fn model(s: &mut Section<'_>) -> Option<Model> {
    let speed = s.read("speed", optional(value::rank));
    let quality = s.read("quality", optional(value::rank));
    let use_case = s.read("use_case", optional(value::text));
    let timeout = s.read("timeout", value::positive);
    let context_window = s.read("context_window", optional(value::count_from_one));
    let max_output_tokens = s.read("max_output_tokens", optional(value::count_from_one));
    let max_concurrency = s.read("max_concurrency", value::size_from_one);
    let price = s.read("price", optional(value::price));
    let enabled = s.read("enabled", value::boolean);
    Some(Model {
        speed: speed?,
        quality: quality?,
        use_case: use_case?,
        timeout: timeout?,
        context_window: context_window?,
        max_output_tokens: max_output_tokens?,
        max_concurrency: max_concurrency?,
        price: price?,
        enabled: enabled?,
    })
}

fn roles(s: &mut Section<'_>) -> Option<Roles> {
    let planner = s.read("planner", value::models);
    let coder = s.read("coder", value::models);
    let reviewer = s.read("reviewer", value::models);
    Some(Roles { planner: planner?, coder: coder?, reviewer: reviewer? })
}

fn issues(s: &mut Section<'_>, home: Option<&Path>) -> Option<Issues> {
    let tracker = s.read("tracker", value::choice(TRACKERS));
    let repository = s.read("repository", optional(value::repository));
    let token_env = s.read("token_env", optional(value::variable_name));
    let token_file = s.read("token_file", optional(value::key_file(home)));
    let api_url = s.read("api_url", value::http_url);
    let assignee = s.read("assignee", optional(value::text));
    let labels = s.read("labels", value::texts);
    Some(Issues {
        tracker: tracker?,
        repository: repository?,
        token_env: token_env?,
        token_file: token_file?,
        api_url: api_url?,
        assignee: assignee?,
        labels: labels?,
    })
}
