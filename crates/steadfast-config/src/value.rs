//! From one node to one typed value, with the sentence that says what was expected.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use steadfast_core::ids::{ModelId, NameError};

use crate::complete::items;
use steadfast_core::sentinel::MemoryLimit;

use crate::config::{Budget, Listen, Micros, Price};
use crate::near::hint;
use crate::tree::{Node, Origin, Table, Value};
use crate::units::{UnitError, parse_duration, parse_size};

/// What is wrong with a value.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// One sentence, without the key's name.
    pub(crate) message: String,
    /// The part of the value that is wrong; `None`: all of it.
    pub(crate) at: Option<Origin>,
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self { message, at: None }
    }
}

impl From<&str> for Wrong {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl From<UnitError> for Wrong {
    fn from(error: UnitError) -> Self {
        error.to_string().into()
    }
}

impl From<NameError> for Wrong {
    fn from(error: NameError) -> Self {
        error.to_string().into()
    }
}

impl Wrong {
    /// The same, of a part of the value.
    fn in_part(self, name: &str, node: &Node) -> Self {
        let message = if name.is_empty() { self.message } else { format!("{name}: {}", self.message) };
        Self { message, at: self.at.or_else(|| Some(node.at.clone())) }
    }
}

pub(crate) type Read<T> = Result<T, Wrong>;

fn expected<T>(what: &str, node: &Node) -> Read<T> {
    Err(format!("expected {what}, found {}", node.describe()).into())
}

/// `"none"` or what `parse` reads.
pub(crate) fn optional<T>(parse: impl Fn(&Node) -> Read<T>) -> impl Fn(&Node) -> Read<Option<T>> {
    move |node| {
        if node.is_none_word() { Ok(None) } else { parse(node).map(Some) }
    }
}

pub(crate) fn boolean(node: &Node) -> Read<bool> {
    match node.value {
        Value::Bool(truth) => Ok(truth),
        _ => expected("true or false", node),
    }
}

/// A whole number from `least` to `most`.
fn whole(node: &Node, least: u64, most: u64) -> Read<u64> {
    match node.value {
        Value::Integer(number) => match u64::try_from(number) {
            Ok(number) if number > most => Err(format!("must be at most {most}, found {number}").into()),
            Ok(number) if number >= least => Ok(number),
            _ => Err(format!("must be at least {least}, found {number}").into()),
        },
        _ => expected("a whole number", node),
    }
}

pub(crate) fn count(node: &Node) -> Read<u32> {
    whole(node, 0, u64::from(u32::MAX)).map(|number| number as u32)
}

pub(crate) fn count_from_one(node: &Node) -> Read<NonZeroU32> {
    let number = whole(node, 1, u64::from(u32::MAX))?;
    Ok(NonZeroU32::new(number as u32).expect("at least one, as read"))
}

pub(crate) fn size_from_one(node: &Node) -> Read<NonZeroUsize> {
    let number = whole(node, 1, u64::from(u32::MAX))?;
    Ok(NonZeroUsize::new(number as usize).expect("at least one, as read"))
}

/// 1 to 5.
pub(crate) fn rank(node: &Node) -> Read<u8> {
    whole(node, 1, 5).map(|number| number as u8)
}

pub(crate) fn fraction(node: &Node) -> Read<f64> {
    let number = match node.value {
        Value::Float(number) => number,
        Value::Integer(number) => number as f64,
        _ => f64::NAN,
    };
    if (0.0..=1.0).contains(&number) { Ok(number) } else { expected("a number from 0 to 1", node) }
}

pub(crate) fn duration(node: &Node) -> Read<Duration> {
    match &node.value {
        Value::Text(text) => Ok(parse_duration(text)?),
        Value::Integer(number @ 0..) => {
            Err(format!("{number} has no unit; write \"{number}s\" or \"{number}min\"").into())
        }
        _ => expected("a duration such as \"90s\" or \"1h 30min\"", node),
    }
}

/// A duration that must not be zero.
pub(crate) fn positive(node: &Node) -> Read<Duration> {
    match duration(node)? {
        Duration::ZERO => Err("must be longer than zero".into()),
        duration => Ok(duration),
    }
}

/// A size in bytes; the number 0 needs no unit.
pub(crate) fn bytes(node: &Node) -> Read<u64> {
    match &node.value {
        Value::Text(text) => Ok(parse_size(text)?),
        Value::Integer(0) => Ok(0),
        Value::Integer(number @ 1..) => {
            Err(format!("{number} has no unit; write \"{number} MiB\" or \"{number} B\"").into())
        }
        _ => expected("a size such as \"512 MiB\"", node),
    }
}

pub(crate) fn memory_limit(node: &Node) -> Read<MemoryLimit> {
    if let Value::Text(text) = &node.value
        && let Some(number) = text.trim().strip_suffix('%')
    {
        let percent = number.trim_end().parse::<u8>().ok().filter(|percent| (1..=100).contains(percent));
        return percent.map_or_else(
            || expected("a percentage from \"1%\" to \"100%\"", node),
            |percent| Ok(MemoryLimit::Percent(percent)),
        );
    }
    match node.value {
        Value::Text(_) => match bytes(node)? {
            0 => Err("must be more than zero".into()),
            bytes => Ok(MemoryLimit::Bytes(bytes)),
        },
        Value::Integer(number) => Err(format!("{number} has no unit; write \"{number}%\" or \"{number} MiB\"").into()),
        _ => expected("a percentage such as \"95%\" or a size such as \"2 GiB\"", node),
    }
}

/// A text that is not blank.
pub(crate) fn text(node: &Node) -> Read<String> {
    match node.as_text() {
        Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
        Some(_) => Err("must not be empty".into()),
        None => expected("a text", node),
    }
}

/// A list of texts that are not blank. From the environment or a flag also one bare text: a list of one.
pub(crate) fn texts(node: &Node) -> Read<Vec<String>> {
    match (&node.value, &node.raw) {
        (Value::Array(items), _) => {
            items.iter().map(|item| text(item).map_err(|wrong| wrong.in_part("", item))).collect()
        }
        (Value::Text(_), Some(_)) => text(node).map(|only| vec![only]),
        _ => expected("a list of texts", node),
    }
}

/// Begins the path of a credential of the service.
pub(crate) const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";

/// A path; a relative one counts from the folder of the file that it is written in, `~/` from the home folder.
pub(crate) fn path(home: Option<&Path>) -> impl Fn(&Node) -> Read<PathBuf> {
    move |node| {
        let text = text(node)?;
        match (text.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => Ok(home.join(rest)),
            (Some(_), None) => Err(format!("{text:?} counts from the home folder, but HOME is not set").into()),
            (None, _) => Ok(node.at.folder().join(text)),
        }
    }
}

/// A file with a key: a path, or `$CREDENTIALS_DIRECTORY/NAME`, a credential of the service, which is kept as it is written:
/// systemd says where it lies, each time anew and to the service alone.
pub(crate) fn key_file(home: Option<&Path>) -> impl Fn(&Node) -> Read<PathBuf> {
    move |node| match text(node)?.strip_prefix(CREDENTIALS) {
        Some(name) if name.is_empty() || name.contains('/') => {
            Err(format!("expected the name of a credential behind {CREDENTIALS:?}").into())
        }
        Some(name) => Ok(Path::new(CREDENTIALS).join(name)),
        None => path(home)(node),
    }
}

/// The name of a variable. The text is not quoted: people paste the key itself here.
pub(crate) fn variable_name(node: &Node) -> Read<String> {
    let text = text(node)?;
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if begins && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        Ok(text)
    } else {
        Err("expected the name of an environment variable, such as \"MY_KEY\", not the key itself".into())
    }
}

/// An address that HTTP reaches. The text is not quoted: it may hold a password.
pub(crate) fn http_url(node: &Node) -> Read<String> {
    let text = text(node)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    match authority {
        Some(host) if host.contains('@') => {
            Err("must not hold a user or password; a key is set by api_key_env or api_key_file".into())
        }
        Some(host) if clean && names_a_host(host) => Ok(text),
        _ => Err("expected an address that begins with http:// or https:// and names a host".into()),
    }
}

/// Whether a host stands there, and a port is one. An IPv6 address is written in brackets.
fn names_a_host(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some("1"))),
        None => authority.split_once(':').map_or((authority, Some("1")), |(host, port)| (host, Some(port))),
    };
    !host.is_empty() && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

pub(crate) fn listen(node: &Node) -> Read<Listen> {
    match node.as_text() {
        Some("auto") => Ok(Listen::Auto),
        Some("none") => Ok(Listen::Nowhere),
        text => text.and_then(|text| text.parse().ok()).map_or_else(
            || expected("an IP address and a port such as \"127.0.0.1:7070\", \"auto\" or \"none\"", node),
            |address| Ok(Listen::At(address)),
        ),
    }
}

/// `owner/name`.
pub(crate) fn repository(node: &Node) -> Read<String> {
    let text = text(node)?;
    let plain = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && part != ".."
    };
    match text.split_once('/') {
        Some((owner, name)) if plain(owner) && plain(name) => Ok(text),
        _ => expected("\"owner/name\"", node),
    }
}

/// One of the words, with what it stands for.
pub(crate) fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Node) -> Read<T> {
    move |node| {
        let found = node.as_text().and_then(|text| words.iter().find(|(word, _)| *word == text));
        match (found, node.as_text()) {
            (Some((_, meaning)), _) => Ok(*meaning),
            (None, Some(text)) => {
                Err(format!("{text:?} is not known{}", hint(text, words.iter().map(|(word, _)| *word))).into())
            }
            (None, None) => {
                let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                expected(&all.join(" or "), node)
            }
        }
    }
}

/// Models in order. Empty lists and repetitions are judged later, where the whole is known.
pub(crate) fn models(node: &Node) -> Read<Vec<ModelId>> {
    let texts = texts(node)?;
    let model =
        |(item, text): (&Node, &String)| ModelId::new(text).map_err(|error| Wrong::from(error).in_part("", item));
    items(node).iter().zip(&texts).map(model).collect()
}

/// Keys of a small table, all optional.
fn small_table<'a>(table: &'a Table, keys: [&str; 2]) -> Read<[Option<&'a Node>; 2]> {
    match table.keys().find(|key| !keys.contains(key)) {
        Some(unknown) => {
            let message = format!("unknown key {unknown:?}{}", hint(unknown, keys));
            Err(Wrong { message, at: table.entry(unknown).map(|entry| entry.key_at.clone()) })
        }
        None => Ok(keys.map(|key| table.get(key))),
    }
}

/// A number (per session) or `{ session = N, day = N }`.
pub(crate) fn budget<T>(number: impl Fn(&Node) -> Read<T>) -> impl Fn(&Node) -> Read<Budget<T>> {
    move |node| match &node.value {
        Value::Text(word) if word == "none" => Ok(Budget::default()),
        Value::Table(table) => {
            let [session, day] = small_table(table, ["session", "day"])?;
            let limit = |key: &str, node: Option<&Node>| match node {
                Some(node) if !node.is_none_word() => number(node).map(Some).map_err(|wrong| wrong.in_part(key, node)),
                _ => Ok(None),
            };
            Ok(Budget { session: limit("session", session)?, day: limit("day", day)? })
        }
        Value::Integer(_) | Value::Float(_) => Ok(Budget { session: Some(number(node)?), day: None }),
        _ => expected("a number or { session = …, day = … }", node),
    }
}

/// A number of calls or tokens.
pub(crate) fn amount(node: &Node) -> Read<u64> {
    whole(node, 1, u64::MAX)
}

/// Money that is more than nothing.
pub(crate) fn cost(node: &Node) -> Read<Micros> {
    match money(node)? {
        Micros(0) => Err("must be more than zero".into()),
        cost => Ok(cost),
    }
}

/// Money, in units of the currency; kept to the millionth.
fn money(node: &Node) -> Read<Micros> {
    let number = match node.value {
        Value::Integer(number) => number as f64,
        Value::Float(number) => number,
        _ => f64::NAN,
    };
    // A thousand million is beyond any budget, and its millionths are still exact in a double.
    if (0.0..=1e9).contains(&number) {
        Ok(Micros((number * 1e6).round() as u64))
    } else {
        expected("an amount from 0 to 1000000000", node)
    }
}

pub(crate) fn price(node: &Node) -> Read<Price> {
    let Value::Table(table) = &node.value else {
        return expected("{ input = …, output = … }", node);
    };
    let part = |key: &str, node: Option<&Node>| match node {
        Some(node) => money(node).map_err(|wrong| wrong.in_part(key, node)),
        None => Err(format!("{key} is missing; write {{ input = …, output = … }}, per million tokens").into()),
    };
    let [input, output] = small_table(table, ["input", "output"])?;
    Ok(Price { input: part("input", input)?, output: part("output", output)? })
}
