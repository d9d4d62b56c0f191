//! The layers: which files are read, what the environment and the flags say, in which order all of it is laid together.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::check;
use crate::complete::{complete, named_in_roles};
use crate::config::{Config, Preset, Sandbox};
use crate::decode::{Found, PRESETS, decode};
use crate::env::Environment;
use crate::fault::{ConfigErrors, Fault, Faults};
use crate::near::{hint, nearest};
use crate::schema::{self, NAMED, variable};
use crate::secret::io_reason;
use crate::show;
use crate::tree::{Node, Origin, Table, Value, parse_file, parse_key, parse_loose};

/// The largest file that is read as a configuration, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// Where the configuration comes from. Nothing else is looked at.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The files of `--config`, in order; each must exist. Empty: [`Sources::system_file`] and the user's file, where they
    /// exist.
    pub files: Vec<PathBuf>,
    /// The file for the whole machine.
    pub system_file: PathBuf,
    /// Every variable: `STEADFAST_*`, and those that say where folders are (`HOME`, `XDG_CONFIG_HOME`, `XDG_STATE_HOME`,
    /// `STATE_DIRECTORY`).
    pub env: Environment,
    /// Dotted keys and values, e.g. `("daemon.state_dir", "/srv/steadfast")`. A value that does not read as TOML is a text.
    pub flags: Vec<(String, String)>,
    /// `--preset`; goes before every file's numbers, but not before [`Sources::flags`].
    pub preset: Option<String>,
}

impl Sources {
    /// The usual places, as this environment names them, and no flags.
    pub fn new(env: Environment) -> Self {
        let system_file = PathBuf::from("/etc/steadfast/config.toml");
        Self { files: Vec::new(), system_file, env, flags: Vec::new(), preset: None }
    }

    /// `steadfast/config.toml` in the XDG configuration folder; `None` when `HOME` is not set either.
    pub fn user_file(&self) -> Option<PathBuf> {
        let folder = self.env.folder("XDG_CONFIG_HOME").or_else(|| Some(self.env.home()?.join(".config")))?;
        Some(folder.join("steadfast/config.toml"))
    }
}

/// A checked configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The files that were read, in order; may be empty.
    pub files: Vec<PathBuf>,
    /// What is allowed but probably not meant, in the order of the layers.
    pub warnings: Vec<Fault>,
    tree: Table,
}

impl Loaded {
    /// The whole configuration as TOML, each value with its origin. Without secrets.
    pub fn show(&self) -> String {
        show::show(&self.tree)
    }

    /// Where the value at a path of keys was written, e.g. `["failover", "backoff", "max"]`; where the path ends early, the
    /// last table on it.
    pub fn origin(&self, path: &[&str]) -> Option<&Origin> {
        self.tree.origin(path)
    }

    /// Whether work may begin: the sandbox of the configured checks must be there. (Commands that only look do not ask.)
    ///
    /// # Errors
    /// When checks are configured, `checks_sandbox` is `"bwrap"`, and there is no such program in `PATH` (SPEC 9).
    pub fn may_start(&self, env: &Environment) -> Result<(), ConfigErrors> {
        let session = &self.config.session;
        let mut faults = Faults::default();
        if !session.checks.is_empty() && session.checks_sandbox == Sandbox::Bwrap && env.program("bwrap").is_none() {
            let message = "session.checks needs the program \"bwrap\" (bubblewrap), and it is not in PATH; install it, or \
                           write checks_sandbox = \"none\" to let code that a model wrote run as you";
            faults.add(self.origin(&["session", "checks"]).unwrap_or(&Origin::Default), message);
        }
        faults.into_result(|_| 0)
    }
}

impl Config {
    /// Reads, merges and checks all layers: built-in defaults, files, `STEADFAST_*` variables, flags; later ones win.
    /// Tables merge by key, arrays replace. A preset's numbers count as written where the preset was chosen, below explicit
    /// keys of the same layer.
    ///
    /// # Errors
    /// Every fault of every layer, each once. Then nothing is to be used.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let mut found = Found::default();
        let mut warnings = Faults::default();
        let (files, mut layers, unreadable) = read_files(sources, &mut found.faults);
        let named: Vec<PathBuf> = files.clone();
        let rank = move |origin: &Origin| rank_of(origin, &named);
        for layer in &mut layers {
            check::names(layer, &mut found.faults);
            expand_preset(layer);
        }
        let mut merged = schema::defaults().clone();
        for layer in &layers {
            lay(&mut merged, layer.clone());
        }
        for mut layer in [
            from_environment(&sources.env, &merged, &mut found.faults, &mut warnings),
            from_flags(sources, &mut found.faults),
        ] {
            check::names(&mut layer, &mut found.faults);
            expand_preset(&mut layer);
            lay(&mut merged, layer.clone());
            layers.push(layer);
        }
        let home = sources.env.home();
        // Each layer by itself as well: a wrong value is told even where a later layer covers it.
        // An empty one says nothing, and the defaults' own faults may be covered.
        for layer in layers.iter().filter(|layer| layers.len() > 1 && !layer.0.is_empty()) {
            let mut alone = schema::defaults().clone();
            lay(&mut alone, layer.clone());
            complete(&mut alone, &sources.env);
            let mut own = Found::default();
            decode(&alone, home.as_deref(), &mut own);
            let first = layer.0.first().map(|entry| rank(&entry.key_at));
            found.faults.extend(own.faults, |origin| Some(rank(origin)) == first);
        }
        complete(&mut merged, &sources.env);
        let config = decode(&merged, home.as_deref(), &mut found);
        if let Some(config) = config.as_ref().filter(|_| !unreadable) {
            check::whole(config, &merged, &mut found, &mut warnings);
        }
        found.faults.into_result(&rank)?;
        let config = config.expect("decoding fails only with a fault, and there is none");
        settle(&mut merged, &config);
        Ok(Loaded { config, files, warnings: warnings.sorted(&rank), tree: merged })
    }
}

/// The tree is only shown from here on: with paths as they are used, and without the webhook's address.
fn settle(tree: &mut Table, config: &Config) {
    let mut write = |path: &[&str], text: Option<&str>| {
        let (Some(text), Some((last, tables))) = (text, path.split_last()) else {
            return;
        };
        let table = tables.iter().fold(&mut *tree, |table, key| table.table_mut(key, &Origin::Default));
        if let Some(node) = table.get_mut(last) {
            *node = Node::new(&node.at, Value::Text(text.to_owned()));
        }
    };
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    write(&["alerts", "webhook"], config.alerts.webhook.as_ref().map(|_| "(set, not shown)"));
    write(&["daemon", "state_dir"], config.daemon.state_dir.to_str());
    write(&["session", "prompts_dir"], shown(&config.session.prompts_dir).as_deref());
    write(&["issues", "token_file"], shown(&config.issues.token_file).as_deref());
    for (name, provider) in &config.providers {
        write(&["providers", name, "api_key_file"], shown(&provider.api_key_file).as_deref());
    }
}

fn rank_of(origin: &Origin, files: &[PathBuf]) -> usize {
    match origin {
        Origin::Default => 0,
        Origin::File { path, .. } => 1 + files.iter().position(|file| **file == **path).unwrap_or(files.len()),
        Origin::Environment { .. } => files.len() + 2,
        Origin::CommandLine => files.len() + 3,
        Origin::Preset { chosen, .. } => rank_of(chosen, files),
    }
}

/// The files that were read, a table for each, and whether some file could not be read or is no TOML.
fn read_files(sources: &Sources, faults: &mut Faults) -> (Vec<PathBuf>, Vec<Table>, bool) {
    let usual = || [Some(sources.system_file.clone()), sources.user_file()].into_iter().flatten().collect();
    let named = !sources.files.is_empty();
    let paths: Vec<PathBuf> = if named { sources.files.clone() } else { usual() };
    let (mut files, mut layers, mut unreadable) = (Vec::new(), Vec::new(), false);
    for path in paths {
        match read_file(&path) {
            Ok(None) if !named => continue,
            Ok(None) => {
                faults.add_nowhere(format!("configuration {} cannot be read: there is no such file", path.display()))
            }
            Err(reason) => faults.add_nowhere(format!("configuration {} cannot be read: {reason}", path.display())),
            Ok(Some(text)) => {
                let table = parse_file(&path, &text, faults);
                files.push(path);
                if let Some(table) = table {
                    layers.push(table);
                    continue;
                }
            }
        }
        unreadable = true;
    }
    (files, layers, unreadable)
}

/// `None`: there is no such file.
fn read_file(path: &Path) -> Result<Option<String>, String> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 > LARGEST_FILE => Err("it is larger than 1 MiB".to_owned()),
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_reason(&error)),
    }
}

/// The numbers of a preset (SPEC 3).
fn numbers(preset: Preset) -> [(&'static str, Value); 2] {
    let (threshold, reset) = match preset {
        Preset::Aggressive => (2, "30s"),
        Preset::Conservative => (10, "300s"),
    };
    [("failure_threshold", Value::Integer(threshold)), ("reset_timeout", Value::Text(reset.to_owned()))]
}

/// Writes a chosen preset's numbers into the layer that chose it, where the layer does not say them itself.
fn expand_preset(layer: &mut Table) {
    let Some(Node { value: Value::Table(failover), .. }) = layer.get_mut("failover") else {
        return;
    };
    let Some(node) = failover.get("preset").cloned() else {
        return;
    };
    let Some((name, preset)) = PRESETS.iter().find(|(name, _)| node.as_text() == Some(*name)) else {
        return;
    };
    for (key, value) in numbers(*preset) {
        if failover.get(key).is_none() {
            let at = Origin::Preset { name, chosen: Box::new(node.at.clone()) };
            failover.set(key, &at, Node::new(&at, value));
        }
    }
}

/// Lays a layer over the merged ones. `preset = "none"` takes back the numbers of an earlier layer's preset.
fn lay(merged: &mut Table, layer: Table) {
    let table = layer.get("failover").and_then(Node::table);
    let revoked = table.and_then(|failover| failover.get("preset")).is_some_and(Node::is_none_word);
    if let (true, Some(Node { value: Value::Table(failover), .. }), Some(defaults)) =
        (revoked, merged.get_mut("failover"), schema::section("failover"))
    {
        failover.0.retain(|entry| !matches!(entry.node.at, Origin::Preset { .. }));
        failover.fill(defaults);
    }
    merged.merge(layer);
}

/// `STEADFAST_<SECTION>__<KEY>`. Other names that begin with `STEADFAST_` belong to others and are left alone.
fn from_environment(env: &Environment, merged: &Table, faults: &mut Faults, warnings: &mut Faults) -> Table {
    let mut layer = Table::default();
    // Sections with fixed keys first: a model may be named by STEADFAST_ROLES__CODER only.
    for named in [false, true] {
        for (name, value) in env.iter() {
            let Some(rest) = name.strip_prefix("STEADFAST_") else {
                continue;
            };
            let at = Origin::Environment { name: name.to_owned() };
            let path: Vec<String> = rest.to_lowercase().split("__").map(ToOwned::to_owned).collect();
            let section = path[0].as_str();
            if NAMED.contains(&section) != named {
                continue;
            }
            if path.len() == 1 {
                if let Some(meant) = single_underscore(section) {
                    warnings.add(&at, format!("has no effect; did you mean {meant}?"));
                }
            } else if !schema::sections().any(|known| known == section) {
                if let Some(near) = nearest(section, schema::sections()) {
                    faults.add(
                        &at,
                        format!("unknown section [{section}]; did you mean STEADFAST_{}__…?", near.to_uppercase()),
                    );
                }
            } else if let Some(path) = resolve(path, merged, &layer, &at, faults) {
                insert(&mut layer, &path, &at, value);
            }
        }
    }
    layer
}

/// The variable that was probably meant by one with a single underscore behind the section.
fn single_underscore(rest: &str) -> Option<String> {
    schema::sections().find_map(|section| {
        let key = rest.strip_prefix(section)?.strip_prefix('_')?;
        schema::section(section)?.get(key).map(|_| variable(&[section, key]))
    })
}

/// Finds the provider or model that a variable means: names there have no lower case, slash or dash.
fn resolve(
    mut path: Vec<String>,
    merged: &Table,
    layer: &Table,
    at: &Origin,
    faults: &mut Faults,
) -> Option<Vec<String>> {
    let section = path[0].clone();
    if !NAMED.contains(&section.as_str()) {
        return Some(path);
    }
    let mut names: Vec<String> = merged
        .get(&section)
        .and_then(Node::table)
        .map(|table| table.keys().map(ToOwned::to_owned).collect())
        .unwrap_or_default();
    if section == "models" {
        names.extend(named_in_roles(merged).into_iter().chain(named_in_roles(layer)).map(|(name, _)| name));
    }
    let fold = |name: &str| name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    match names.iter().find(|name| fold(name) == fold(&path[1])) {
        Some(name) => path[1].clone_from(name),
        // A provider can be made up of variables alone; a model's name cannot be spelt by one.
        None if section == "models" => {
            let folded: Vec<String> = names.iter().map(|name| fold(name).to_uppercase()).collect();
            let meant = path[1].to_uppercase();
            faults.add(
                at,
                format!("no configured model is meant by {meant:?}{}", hint(&meant, folded.iter().map(String::as_str))),
            );
            return None;
        }
        None => {}
    }
    Some(path)
}

/// The flags, and `--preset` as one of them.
fn from_flags(sources: &Sources, faults: &mut Faults) -> Table {
    let mut layer = Table::default();
    let preset = sources.preset.iter().map(|preset| ("failover.preset".to_owned(), preset.clone()));
    for (key, value) in preset.chain(sources.flags.iter().cloned()) {
        match parse_key(&key) {
            Some(path) => insert(&mut layer, &path, &Origin::CommandLine, &value),
            None => faults.add(&Origin::CommandLine, format!("{key:?} is no key; write section.key")),
        }
    }
    layer
}

fn insert(layer: &mut Table, path: &[String], at: &Origin, value: &str) {
    let Some((last, tables)) = path.split_last() else {
        return;
    };
    let table = tables.iter().fold(layer, |table, key| table.table_mut(key, at));
    table.set(last, at, parse_loose(value, at));
}
