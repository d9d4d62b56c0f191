//! What is wrong with a configuration, for the person who wrote it.

use std::fmt;

use crate::tree::Origin;

/// One fault or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where the offending value stands; `None`: nowhere in particular, something is missing.
    pub origin: Option<Origin>,
    /// One sentence, without the place. Never holds a secret.
    pub message: String,
}

impl fmt::Display for Fault {
    /// `config.toml:12: …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Every fault of a configuration: at least one, each once, in the order of the layers and their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    faults: Vec<Fault>,
}

impl ConfigErrors {
    /// All of them.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl fmt::Display for ConfigErrors {
    /// One line per fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects faults.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, origin: &Origin, message: impl Into<String>) {
        let fault = Fault { origin: Some(origin.clone()), message: message.into() };
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    /// A fault that stands in no particular place.
    pub(crate) fn add_nowhere(&mut self, message: String) {
        self.0.push(Fault { origin: None, message });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over those of another collection that `keep` picks.
    pub(crate) fn extend(&mut self, other: Self, keep: impl Fn(&Origin) -> bool) {
        for fault in other.0 {
            if fault.origin.as_ref().is_none_or(&keep) && !self.0.contains(&fault) {
                self.0.push(fault);
            }
        }
    }

    /// In the order of the layers; `rank` says which layer an origin belongs to.
    pub(crate) fn sorted(mut self, rank: impl Fn(&Origin) -> usize) -> Vec<Fault> {
        self.0.sort_by_key(|fault| fault.origin.as_ref().map(|origin| (rank(origin), origin.line(), origin.column())));
        self.0
    }

    /// All as an error, when there are any.
    pub(crate) fn into_result(self, rank: impl Fn(&Origin) -> usize) -> Result<(), ConfigErrors> {
        if self.is_empty() { Ok(()) } else { Err(ConfigErrors { faults: self.sorted(rank) }) }
    }
}
