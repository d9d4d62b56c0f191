//! Reading of TOML tables key by key, so that each fault names its line and the nearest valid word.
//!
//! Derived deserialization is not used: its messages for a wrong key or kind are not fit for a person, and it loses
//! the line of a fault that only shows between two keys.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ScriptError;

/// One table of the script, with the name by which a person finds it.
pub(super) struct Section<'t, 'i> {
    text: &'i str,
    name: String,
    at: Range<usize>,
    table: &'t DeTable<'i>,
}

/// The entries of a table with arbitrary keys, each with a section that only serves to place an error.
type Pairs = Vec<(String, String)>;

impl<'t, 'i> Section<'t, 'i> {
    /// The script itself.
    pub(super) fn root(text: &'i str, table: &'t Spanned<DeTable<'i>>) -> Self {
        Self { text, name: "the script".to_owned(), at: table.span(), table: table.get_ref() }
    }

    /// Refuses keys that are not in `keys`.
    pub(super) fn only(&self, keys: &[&str]) -> Result<(), ScriptError> {
        // The first wrong key of the text, not of the map, which is sorted by name.
        let unknown = self.table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => {
                let word = key.get_ref();
                Err(fault(
                    self.text,
                    &key.span(),
                    format!("unknown key `{word}` in {}; {}", self.name, nearest(word, keys)),
                ))
            }
        }
    }

    /// An error about `key`, or about the section when it has no such key.
    pub(super) fn fault(&self, key: &str, message: impl Into<String>) -> ScriptError {
        let at = self.entry(key).map_or_else(|| self.at.clone(), |(_, value)| value.span());
        fault(self.text, &at, message.into())
    }

    /// Is the key there?
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    fn entry(&self, key: &str) -> Option<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
        self.table.iter().find(|(name, _)| name.get_ref() == key)
    }

    fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.entry(key).map(|(_, value)| value)
    }

    fn wrong(&self, key: &str, wanted: &str) -> ScriptError {
        self.fault(key, format!("`{key}` in {} must be {wanted}", self.name))
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ScriptError> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A text that must be one of `words`; gives its place in them.
    pub(super) fn word(&self, key: &str, words: &[&str]) -> Result<Option<usize>, ScriptError> {
        let Some(word) = self.text(key)? else {
            return Ok(None);
        };
        match words.iter().position(|known| *known == word) {
            Some(at) => Ok(Some(at)),
            None => Err(self.fault(key, format!("`{word}` is no {key}; {}", nearest(&word, words)))),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ScriptError> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    /// A whole number from `least` on.
    pub(super) fn whole(&self, key: &str, least: u64) -> Result<Option<u64>, ScriptError> {
        self.read(key, &format!("a whole number of at least {least}"), |value| whole(value).filter(|n| *n >= least))
    }

    /// A number from 0 to 1.
    pub(super) fn share(&self, key: &str) -> Result<Option<f64>, ScriptError> {
        self.read(key, "a number from 0 to 1", |value| {
            let text = value.as_float().map(|f| f.as_str()).or_else(|| value.as_integer().map(|i| i.as_str()));
            text?.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share))
        })
    }

    /// A span of time with its unit, such as `"200ms"`.
    pub(super) fn span(&self, key: &str) -> Result<Option<Duration>, ScriptError> {
        self.read(key, "a span of time with its unit, such as \"200ms\", \"1.5s\" or \"2m\"", |value| {
            span(value.as_str()?)
        })
    }

    /// A list of texts; a single text stands for a list of one.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ScriptError> {
        self.list(key, "a text or a list of texts", |value| value.as_str().map(str::to_owned))
    }

    /// A list of whole numbers from 1 on; a single one stands for a list of one.
    pub(super) fn wholes(&self, key: &str) -> Result<Vec<u64>, ScriptError> {
        self.list(key, "a whole number of at least 1, or a list of them", |value| whole(value).filter(|n| *n >= 1))
    }

    /// A table.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'t, 'i>>, ScriptError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.get_ref().as_table() {
            None => Err(self.wrong(key, "a table")),
            Some(table) => Ok(Some(Self { text: self.text, name: format!("`{key}`"), at: value.span(), table })),
        }
    }

    /// A list of tables, each called `[[key]]` in errors.
    pub(super) fn sections(&self, key: &str, name: &str) -> Result<Vec<Section<'t, 'i>>, ScriptError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let wrong = || self.wrong(key, &format!("a list of tables: write {name}"));
        let items = value.get_ref().as_array().ok_or_else(wrong)?;
        let section = |item: &'t Spanned<DeValue<'i>>| {
            let table = item.get_ref().as_table()?;
            Some(Self { text: self.text, name: name.to_owned(), at: item.span(), table })
        };
        items.iter().map(|item| section(item).ok_or_else(wrong)).collect()
    }

    /// A table whose keys are free and whose values are texts.
    pub(super) fn pairs(&self, key: &str) -> Result<Pairs, ScriptError> {
        let Some(section) = self.section(key)? else {
            return Ok(Vec::new());
        };
        let names = section.table.keys().map(|name| name.get_ref().clone().into_owned());
        names.map(|name| Ok((name.clone(), section.text(&name)?.unwrap_or_default()))).collect()
    }

    fn read<T>(
        &self,
        key: &str,
        wanted: &str,
        take: impl Fn(&DeValue<'i>) -> Option<T>,
    ) -> Result<Option<T>, ScriptError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        take(value.get_ref()).map(Some).ok_or_else(|| self.wrong(key, wanted))
    }

    fn list<T>(
        &self,
        key: &str,
        wanted: &str,
        take: impl Fn(&DeValue<'i>) -> Option<T>,
    ) -> Result<Vec<T>, ScriptError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let wrong = || self.wrong(key, wanted);
        match value.get_ref().as_array() {
            None => Ok(vec![take(value.get_ref()).ok_or_else(wrong)?]),
            Some(items) => items.iter().map(|item| take(item.get_ref()).ok_or_else(wrong)).collect(),
        }
    }
}

/// An error at a byte range of the text.
pub(super) fn fault(text: &str, at: &Range<usize>, message: impl Into<String>) -> ScriptError {
    let before = text.as_bytes().iter().take(at.start);
    ScriptError { line: 1 + before.filter(|byte| **byte == b'\n').count(), message: message.into() }
}

fn nearest(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(word, name), name)).min_by_key(|(far, _)| *far);
    match near {
        Some((far, name)) if far <= 2.max(word.len() / 3) => format!("did you mean `{name}`?"),
        _ => format!("known are {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// `"200ms"`, `"1.5s"`, `"2m"`, `"0s"`; at most a day, so that no sum of them overflows.
fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..at].trim().parse().ok()?;
    let seconds = match &text[at..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_need_a_unit_and_stay_within_a_day() {
        assert_eq!(span("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(span("1.5 s"), Some(Duration::from_millis(1500)));
        assert_eq!(span("0s"), Some(Duration::ZERO));
        for bad in ["5", "", "ms", "-1s", "1d", "25h", "infs", "NaNs"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }
}
