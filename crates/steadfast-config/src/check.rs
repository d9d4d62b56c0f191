//! The rules: which keys may be in a layer, and what must fit together in the whole.

use std::collections::BTreeSet;

use steadfast_core::ids::{ModelId, Role};

use crate::complete::items;
use crate::config::{Config, Listen, ProviderKind, Tracker};
use crate::decode::{Found, quoted};
use crate::fault::Faults;
use crate::near::{hint, nearest};
use crate::schema;
use crate::tree::{Entry, Node, Origin, Table, Value};
use crate::units::show_duration;

/// Checks the names of one layer's keys and that tables are tables. A name that is nearly right is taken for the right
/// one afterwards, so that what is said next is true of what was meant; what cannot be guessed is removed.
pub(crate) fn names(layer: &mut Table, faults: &mut Faults) {
    correct(layer, |entry, free| {
        let mut name = entry.key.clone();
        if !schema::sections().any(|section| section == name) {
            faults.add(&entry.key_at, unknown_at_top(entry));
            name = nearest(&name, schema::sections())
                .filter(|near| free(near) && entry.node.table().is_some())?
                .to_owned();
        }
        let Value::Table(table) = &mut entry.node.value else {
            let found = entry.node.describe();
            faults.add(&entry.node.at, format!("{name} is a section: write [{name}] and its keys below, not {found}"));
            return None;
        };
        match schema::section(&name) {
            Some(known) => keys(table, known, &[&name], faults),
            None => correct(table, |entry, _| named(entry, &name, faults).then(|| entry.key.clone())),
        }
        Some(name)
    });
}

/// Goes through a table's entries; `judge` says under which key each one stays, and is told which keys are free.
fn correct(table: &mut Table, mut judge: impl FnMut(&mut Entry, &dyn Fn(&str) -> bool) -> Option<String>) {
    let mut taken: Vec<String> = table.keys().map(ToOwned::to_owned).collect();
    table.0.retain_mut(|entry| {
        let key = judge(entry, &|key| !taken.iter().any(|taken| taken == key));
        if let Some(key) = &key {
            taken.push(key.clone());
            entry.key.clone_from(key);
        }
        key.is_some()
    });
}

fn unknown_at_top(entry: &Entry) -> String {
    let key = &entry.key;
    if entry.node.table().is_some() {
        return match nearest(key, schema::sections()) {
            Some(near) => format!("unknown section [{key}]; did you mean [{near}]?"),
            None => {
                let all: Vec<String> = schema::sections().map(|section| format!("[{section}]")).collect();
                format!("unknown section [{key}]; valid are {}", all.join(", "))
            }
        };
    }
    match schema::sections_with(key).next() {
        Some(section) => {
            format!("key {key:?} stands outside of its section; write it below [{section}]")
        }
        None => format!("unknown key {key:?} outside of any section"),
    }
}

/// One provider or model.
fn named(entry: &mut Entry, section: &str, faults: &mut Faults) -> bool {
    let key = entry.key.clone();
    let path = format!("{section}.{}", quoted(&key));
    if let Some(message) = name_fault(section, &key) {
        faults.add(&entry.key_at, format!("[{path}]: {message}"));
        return false;
    }
    let Value::Table(table) = &mut entry.node.value else {
        faults.add(
            &entry.node.at,
            format!("{path} is a table: write [{path}] and its keys below, not {}", entry.node.describe()),
        );
        return false;
    };
    keys(table, schema::template(section), &[section, &key], faults);
    true
}

fn name_fault(section: &str, name: &str) -> Option<String> {
    if section == "models" {
        return ModelId::new(name).err().map(|error| error.to_string());
    }
    // It is the part of a model's name before the slash, and the name of a credential's file.
    let plain = name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let good = plain && !name.is_empty() && !name.starts_with('.');
    (!good).then(|| format!("{name:?} is no provider's name: use 1 to 64 of letters, digits, '.', '_' and '-'"))
}

fn keys(table: &mut Table, known: &Table, path: &[&str], faults: &mut Faults) {
    let section = path.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".");
    correct(table, |entry, free| {
        let mut key = entry.key.clone();
        if known.get(&key).is_none() {
            let (hint, meant) = meant(&key, known, path, &entry.key_at);
            faults.add(&entry.key_at, format!("unknown key {key:?} in [{section}]{hint}"));
            key = meant.filter(|near| free(near))?;
        }
        let default = known.get(&key)?;
        match (&mut entry.node.value, default.table()) {
            (Value::Table(inner), Some(known)) => {
                let path: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
                keys(inner, known, &path, faults);
            }
            (_, Some(known)) => {
                let parts: Vec<String> = known.keys().map(|key| format!("{key} = …")).collect();
                let (parts, found) = (parts.join(", "), entry.node.describe());
                faults.add(&entry.node.at, format!("{section}.{key}: expected {{ {parts} }}, found {found}"));
                return None;
            }
            (_, None) => {}
        }
        Some(key)
    });
}

/// What an unknown key is told, and the key that was probably meant.
fn meant(key: &str, known: &Table, path: &[&str], at: &Origin) -> (String, Option<String>) {
    if matches!(key, "api_key" | "token" | "key") {
        let hint = "; a secret does not stand in the configuration: name a variable or a file that holds it";
        return (hint.to_owned(), None);
    }
    if let Some(near) = nearest(key, known.keys()) {
        let full: Vec<&str> = path.iter().copied().chain([near]).collect();
        return (format!("; did you mean {}?", schema::as_written_at(at, &full)), Some(near.to_owned()));
    }
    let hint = match schema::sections_with(key).next() {
        Some(other) => format!("; it belongs to [{other}]"),
        None => hint(key, known.keys()),
    };
    (hint, None)
}

/// What is known about the whole while its rules are checked.
struct Whole<'a> {
    config: &'a Config,
    tree: &'a Table,
    tainted: &'a BTreeSet<String>,
    faults: &'a mut Faults,
    warnings: &'a mut Faults,
}

impl Whole<'_> {
    fn origin(&self, path: &[&str]) -> Origin {
        self.tree.origin(path).cloned().unwrap_or(Origin::Default)
    }

    fn node(&self, path: &[&str]) -> Option<&Node> {
        let (last, tables) = path.split_last()?;
        tables.iter().try_fold(self.tree, |table, key| table.get(key)?.table())?.get(last)
    }

    /// Whether a layer gave the key, so that it is worth a word.
    fn given(&self, path: &[&str]) -> bool {
        self.node(path).is_some_and(|node| node.at != Origin::Default && !node.is_none_word())
    }

    /// Some value of the section is wrong and was told; a default stands in its place.
    fn is_tainted(&self, section: &str) -> bool {
        self.tainted.contains(section)
    }

    fn fault(&mut self, path: &[&str], message: impl Into<String>) {
        let at = self.origin(path);
        self.faults.add(&at, message);
    }

    fn warn(&mut self, path: &[&str], message: impl Into<String>) {
        let at = self.origin(path);
        self.warnings.add(&at, message);
    }
}

/// Checks what must fit together. `tree` is the complete tree that `config` was made from.
pub(crate) fn whole(config: &Config, tree: &Table, found: &mut Found, warnings: &mut Faults) {
    let mut whole = Whole { config, tree, tainted: &found.tainted, faults: &mut found.faults, warnings };
    daemon(&mut whole);
    failover(&mut whole);
    providers(&mut whole);
    models(&mut whole);
    roles(&mut whole);
    issues(&mut whole);
    session(&mut whole);
}

fn daemon(whole: &mut Whole<'_>) {
    let daemon = &whole.config.daemon;
    if whole.is_tainted("daemon") {
        return;
    }
    if let Some(limit) = daemon.time_limit.filter(|limit| *limit <= daemon.time_limit_margin) {
        let (limit, margin) = (show_duration(limit), show_duration(daemon.time_limit_margin));
        whole.fault(
            &["daemon", "time_limit"],
            format!(
                "daemon.time_limit: {limit} leaves no time to work; it must be longer than time_limit_margin ({margin})"
            ),
        );
    }
    if let Listen::At(address) = daemon.listen
        && !address.ip().is_loopback()
    {
        whole.warn(
            &["daemon", "listen"],
            format!(
                "daemon.listen: {address} is reached from other machines, and plain HTTP carries the token for all on the \
                 way to read; use 127.0.0.1 behind a proxy with TLS, or ssh -L"
            ),
        );
    }
}

fn failover(whole: &mut Whole<'_>) {
    let failover = &whole.config.failover;
    if whole.is_tainted("failover") || whole.is_tainted("failover.backoff") {
        return;
    }
    if failover.backoff.initial > failover.backoff.max {
        let (initial, max) = (show_duration(failover.backoff.initial), show_duration(failover.backoff.max));
        // Point at the one that somebody wrote.
        let key = if whole.given(&["failover", "backoff", "initial"]) { "initial" } else { "max" };
        whole.fault(
            &["failover", "backoff", key],
            format!("failover.backoff: initial ({initial}) must not be longer than max ({max})"),
        );
    }
    if failover.max_open < failover.reset_timeout {
        let (open, reset) = (show_duration(failover.max_open), show_duration(failover.reset_timeout));
        let key = if whole.given(&["failover", "max_open"]) { "max_open" } else { "reset_timeout" };
        whole.warn(
            &["failover", key],
            format!(
                "failover.max_open ({open}) is shorter than reset_timeout ({reset}), so it never lengthens a pause"
            ),
        );
    }
    let explicit = ["failure_threshold", "reset_timeout"].iter().all(|key| {
        let at = whole.origin(&["failover", key]);
        at != Origin::Default && !matches!(at, Origin::Preset { .. })
    });
    if failover.preset.is_some() && explicit {
        whole.warn(
            &["failover", "preset"],
            "failover.preset has no effect: failure_threshold and reset_timeout are both set and go before it",
        );
    }
}

fn providers(whole: &mut Whole<'_>) {
    for (name, provider) in &whole.config.providers {
        let path = |key: &'static str| ["providers", name.as_str(), key];
        let full = format!("providers.{}", quoted(name));
        if whole.is_tainted(&full) {
            continue;
        }
        if whole.node(&path("kind")).is_none_or(Node::is_none_word) {
            whole.fault(
                &["providers", name],
                format!("[{full}] has no kind; write kind = \"openai\", \"anthropic\" or \"command\""),
            );
            continue;
        }
        let kind = provider.kind.as_str();
        let is_command = provider.kind == ProviderKind::Command;
        if is_command && provider.command.is_empty() {
            whole.fault(
                &["providers", name],
                format!("[{full}] of kind \"command\" has no command; write command = [\"program\", \"argument\"]"),
            );
        }
        if !is_command && provider.base_url.is_none() {
            whole.fault(
                &["providers", name],
                format!("[{full}] of kind {kind:?} has no base_url; write base_url = \"https://host/v1\""),
            );
        }
        if provider.api_key_env.is_some() && provider.api_key_file.is_some() {
            whole.fault(&path("api_key_file"), format!("[{full}] has both api_key_env and api_key_file; keep one"));
        }
        let useless: &[&'static str] = if is_command { &["base_url", "stream", "json_mode"] } else { &["command"] };
        for key in useless {
            let usual = schema::template("providers").get(key);
            let same = usual.zip(whole.node(&path(key))).is_some_and(|(usual, node)| node.is_plainly(usual));
            if whole.given(&path(key)) && !same {
                whole.warn(&path(key), format!("{full}.{key} has no effect on a provider of kind {kind:?}"));
            }
        }
    }
}

fn models(whole: &mut Whole<'_>) {
    let config = whole.config;
    let in_roles: BTreeSet<&ModelId> = Role::ALL.iter().flat_map(|role| config.roles.of(*role)).collect();
    let costs = config.session.max_cost.session.is_some() || config.session.max_cost.day.is_some();
    for (id, model) in &config.models {
        if !config.providers.contains_key(id.provider()) {
            let hint = hint(id.provider(), config.providers.keys().map(String::as_str));
            whole.fault(
                &["models", id.as_str()],
                format!(
                    "model \"{id}\" needs a provider {:?}, but there is no [providers.{}]{hint}",
                    id.provider(),
                    quoted(id.provider())
                ),
            );
        }
        if whole.is_tainted("roles") {
            continue;
        }
        if !in_roles.contains(id) {
            let near = nearest(id.as_str(), in_roles.iter().map(|id| id.as_str()));
            let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            whole.warn(&["models", id.as_str()], format!("model \"{id}\" is in no role, so it is never asked{hint}"));
        } else if costs && model.price.is_none() {
            let at = ["session", "max_cost"];
            whole.warn(
                &at,
                format!("session.max_cost is set, but model \"{id}\" has no price: its calls count as free"),
            );
        }
    }
}

fn roles(whole: &mut Whole<'_>) {
    for role in Role::ALL {
        let path = ["roles", role.as_str()];
        if whole.node(&path).is_some_and(|node| matches!(&node.value, Value::Array(items) if items.is_empty())) {
            whole.fault(&path, format!("roles.{role} has no model; a role needs at least one"));
        }
        let written: Vec<(String, Origin)> = whole
            .node(&path)
            .map_or(&[][..], items)
            .iter()
            .filter_map(|item| Some((item.as_text()?.to_owned(), item.at.clone())))
            .collect();
        for (at, (model, origin)) in written.iter().enumerate() {
            if written[..at].iter().any(|(earlier, _)| earlier == model) {
                whole.faults.add(origin, format!("roles.{role} lists \"{model}\" twice"));
            }
        }
    }
}

/// Plain HTTP to another machine.
fn is_plain_and_far(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    !(host == "localhost" || host == "[::1]" || host.starts_with("127."))
}

fn issues(whole: &mut Whole<'_>) {
    let issues = &whole.config.issues;
    if whole.is_tainted("issues") {
        return;
    }
    if issues.token_env.is_some() && issues.token_file.is_some() {
        whole.fault(&["issues", "token_file"], "[issues] has both token_env and token_file; keep one");
    }
    match issues.tracker {
        Tracker::Github => {
            if issues.repository.is_none() {
                whole.fault(
                    &["issues", "tracker"],
                    "issues.tracker \"github\" needs a repository; write repository = \"owner/name\"",
                );
            }
            if issues.token_env.is_none() && issues.token_file.is_none() {
                whole.fault(
                    &["issues", "tracker"],
                    "issues.tracker \"github\" needs a token; write token_env = \"GITHUB_TOKEN\" or token_file",
                );
            }
            if is_plain_and_far(&issues.api_url) {
                whole.warn(
                    &["issues", "api_url"],
                    "issues.api_url begins with http://, so the token goes over the network for all to read; use https://",
                );
            }
        }
        Tracker::Local => {
            if whole.given(&["issues", "repository"]) {
                whole.warn(
                    &["issues", "repository"],
                    "issues.repository has no effect with tracker \"local\"; did you mean tracker = \"github\"?",
                );
            }
        }
    }
}

fn session(whole: &mut Whole<'_>) {
    if whole.is_tainted("session") || !whole.given(&["session", "context_exclude"]) {
        return;
    }
    let default = schema::section("session").and_then(|session| session.get("context_exclude")).map_or(&[][..], items);
    let kept = &whole.config.session.context_exclude;
    let dropped: Vec<&str> =
        default.iter().filter_map(Node::as_text).filter(|glob| !kept.iter().any(|kept| kept == glob)).collect();
    if !dropped.is_empty() {
        whole.warn(
            &["session", "context_exclude"],
            format!(
                "session.context_exclude replaces the built-in list; these may now go into prompts: {}",
                dropped.join(" ")
            ),
        );
    }
}
