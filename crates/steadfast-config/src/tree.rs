//! TOML as a tree whose every key and value knows where it was written, and the merging of such trees.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fault::Faults;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file. Line and column count from 1, the column in characters.
    File {
        /// As it was named.
        path: Arc<Path>,
        /// Of the key or the value.
        line: usize,
        /// Of the key or the value.
        column: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        name: String,
    },
    /// A flag.
    CommandLine,
    /// Follows from a preset.
    Preset {
        /// Its name.
        name: &'static str,
        /// Where the preset was chosen.
        chosen: Box<Origin>,
    },
}

impl Origin {
    /// The line in a file, from 1; 0 elsewhere.
    pub fn line(&self) -> usize {
        match self {
            Self::File { line, .. } => *line,
            Self::Preset { chosen, .. } => chosen.line(),
            Self::Default | Self::Environment { .. } | Self::CommandLine => 0,
        }
    }

    /// The column in a file, from 1, in characters; 0 elsewhere.
    pub fn column(&self) -> usize {
        match self {
            Self::File { column, .. } => *column,
            Self::Preset { chosen, .. } => chosen.column(),
            Self::Default | Self::Environment { .. } | Self::CommandLine => 0,
        }
    }

    /// The folder that relative paths are relative to; empty: the current one.
    pub(crate) fn folder(&self) -> PathBuf {
        match self {
            Self::File { path, .. } => path.parent().map(Path::to_path_buf).unwrap_or_default(),
            Self::Default | Self::Environment { .. } | Self::CommandLine | Self::Preset { .. } => PathBuf::new(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => f.write_str(name),
            Self::CommandLine => f.write_str("command line"),
            Self::Preset { name, chosen } => write!(f, "preset {name:?} ({chosen})"),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Origin,
    pub(crate) value: Value,
    /// From the environment and flags: the text as it came. It may read as a number and yet be meant as a text.
    pub(crate) raw: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

impl Node {
    pub(crate) fn new(at: &Origin, value: Value) -> Self {
        Self { at: at.clone(), value, raw: None }
    }

    pub(crate) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => self.raw.as_deref(),
        }
    }

    /// `"none"` stands for "not set".
    pub(crate) fn is_none_word(&self) -> bool {
        matches!(&self.value, Value::Text(text) if text == "none")
    }

    /// Whether both are the same plain value; tables and lists with something in them never are.
    pub(crate) fn is_plainly(&self, other: &Node) -> bool {
        match (&self.value, &other.value) {
            (Value::Text(one), Value::Text(other)) => one == other,
            (Value::Bool(one), Value::Bool(other)) => one == other,
            (Value::Array(one), Value::Array(other)) => one.is_empty() && other.is_empty(),
            _ => false,
        }
    }

    /// The value as an error message quotes it.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Text(text) if text.chars().count() > 60 => {
                format!("{:?}", text.chars().take(57).collect::<String>() + "...")
            }
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Datetime => "a date".to_owned(),
            Value::Array(_) => "an array".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

/// Entries in the order in which they were written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub(crate) Vec<Entry>);

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Origin,
    pub(crate) node: Node,
}

/// Pairs of keys of which a later layer's replaces the earlier layer's other one.
const ALTERNATIVES: [[&str; 2]; 2] = [["api_key_env", "api_key_file"], ["token_env", "token_file"]];

impl Table {
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
    }

    /// The table under a key; an empty one is made where there is none, and a value that is no table goes.
    pub(crate) fn table_mut(&mut self, key: &str, at: &Origin) -> &mut Table {
        let place = match self.0.iter().position(|entry| entry.key == key) {
            Some(place) => place,
            None => {
                self.set(key, at, Node::new(at, Value::Table(Table::default())));
                self.0.len() - 1
            }
        };
        let node = &mut self.0[place].node;
        if !matches!(node.value, Value::Table(_)) {
            node.value = Value::Table(Table::default());
        }
        match &mut node.value {
            Value::Table(table) => table,
            _ => unreachable!("it was made a table two lines above"),
        }
    }

    pub(crate) fn set(&mut self, key: &str, at: &Origin, node: Node) {
        let entry = Entry { key: key.to_owned(), key_at: at.clone(), node };
        match self.0.iter_mut().find(|old| old.key == key) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|entry| entry.key.as_str())
    }

    /// Where the value at a path of keys stands; where the path ends early, the last table on it.
    pub(crate) fn origin(&self, path: &[&str]) -> Option<&Origin> {
        let (first, rest) = path.split_first()?;
        let entry = self.entry(first)?;
        let deeper = entry.node.table().and_then(|table| table.origin(rest));
        Some(deeper.unwrap_or(if entry.node.table().is_some() { &entry.key_at } else { &entry.node.at }))
    }

    /// Lays another table over this one: tables merge by key, everything else replaces.
    pub(crate) fn merge(&mut self, over: Table) {
        for [one, other] in ALTERNATIVES {
            for (set, dropped) in [(one, other), (other, one)] {
                if over.get(set).is_some_and(|node| !node.is_none_word()) && over.get(dropped).is_none() {
                    self.0.retain(|entry| entry.key != dropped);
                }
            }
        }
        for entry in over.0 {
            let old = self.0.iter_mut().find(|old| old.key == entry.key);
            match (old, entry.node.value) {
                (Some(Entry { key_at, node: Node { value: Value::Table(old), .. }, .. }), Value::Table(new)) => {
                    // What is said of the table as a whole must point at a line that somebody can change.
                    if *key_at == Origin::Default {
                        *key_at = entry.key_at;
                    }
                    old.merge(new);
                }
                (_, value) => self.set(&entry.key, &entry.key_at, Node { value, ..entry.node }),
            }
        }
    }

    /// Fills in what is missing, and takes over the order of the defaults.
    pub(crate) fn fill(&mut self, defaults: &Table) {
        let mut own = std::mem::take(&mut self.0);
        for entry in &defaults.0 {
            let place = own.iter().position(|own| own.key == entry.key);
            self.0.push(place.map_or_else(|| entry.clone(), |place| own.remove(place)));
        }
        self.0.append(&mut own);
    }
}

/// Line and column of each byte of a text.
struct Lines<'t> {
    text: &'t str,
    path: Arc<Path>,
}

impl Lines<'_> {
    fn at(&self, offset: usize) -> Origin {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Origin::File { path: Arc::clone(&self.path), line, column: before[start..].chars().count() + 1 }
    }
}

/// Reads a file's text. Faults of its syntax are collected, and then there is no table.
pub(crate) fn parse_file(path: &Path, text: &str, faults: &mut Faults) -> Option<Table> {
    let lines = Lines { text, path: Arc::from(path) };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(table_of(table.into_inner(), &|offset| lines.at(offset)));
    }
    let mut places: Vec<(Origin, String)> = errors
        .iter()
        .map(|error| (lines.at(error.span().map_or(0, |span| span.start)), error.message().trim_end().to_owned()))
        .collect();
    places.sort_by_key(|(at, _)| (at.line(), at.column()));
    // What is wrong after the first mistake of a line mostly follows from it.
    places.dedup_by_key(|(at, _)| at.line());
    for (at, message) in places {
        let written = text.lines().nth(at.line() - 1).unwrap_or_default().trim_start();
        // The one mistake of syntax that everybody makes here.
        let slash = written.starts_with("[models.") && written.contains('/') && !written.contains(['"', '\'']);
        let hint = if slash { "; quote a model's name: [models.\"provider/name\"]" } else { "" };
        faults.add(&at, format!("this is no TOML: {message}{hint}"));
    }
    None
}

/// The built-in defaults: the same, but everything's origin is [`Origin::Default`].
pub(crate) fn parse_default(text: &'static str) -> Table {
    let table = DeTable::parse(text).expect("the built-in defaults are TOML, as a test shows");
    table_of(table.into_inner(), &|_| Origin::Default)
}

/// The value of a variable or flag: a TOML value where it reads as one, else a text.
pub(crate) fn parse_loose(text: &str, at: &Origin) -> Node {
    let value = match DeValue::parse(text.trim()) {
        Ok(value) => value_of(value.into_inner(), &|_| at.clone()),
        Err(_) => Value::Text(text.to_owned()),
    };
    Node { at: at.clone(), value, raw: Some(text.to_owned()) }
}

/// The parts of a dotted key such as `models."a/b".timeout`; `None` when it is none.
pub(crate) fn parse_key(key: &str) -> Option<Vec<String>> {
    let line = format!("{key} = 0");
    let mut table = DeTable::parse(&line).ok().filter(|_| !key.contains(['\n', '=', '#']))?.into_inner();
    let mut parts = Vec::new();
    loop {
        let (key, node) = table.into_iter().next()?;
        parts.push(key.into_inner().into_owned());
        match node.into_inner() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(parts),
        }
    }
}

fn table_of(table: DeTable<'_>, at: &dyn Fn(usize) -> Origin) -> Table {
    let mut entries: Vec<(usize, Entry)> = table
        .into_iter()
        .map(|(key, node)| {
            let (place, key_at) = (key.span().start, at(key.span().start));
            let node = node_of(node, at);
            (place, Entry { key: key.into_inner().into_owned(), key_at, node })
        })
        .collect();
    entries.sort_by_key(|(place, _)| *place);
    Table(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn node_of(node: Spanned<DeValue<'_>>, at: &dyn Fn(usize) -> Origin) -> Node {
    let origin = at(node.span().start);
    Node { at: origin, value: value_of(node.into_inner(), at), raw: None }
}

fn value_of(value: DeValue<'_>, at: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            // Not in TOML's range. As a float it fits no key that wants a whole number, and is refused there.
            Err(_) => Value::Float(number.as_str().parse().unwrap_or(f64::INFINITY)),
        },
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(truth) => Value::Bool(truth),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => Value::Array(items.into_iter().map(|item| node_of(item, at)).collect()),
        DeValue::Table(table) => Value::Table(table_of(table, at)),
    }
}
