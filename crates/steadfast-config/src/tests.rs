//! Whole configurations: files in a temporary folder, variables and flags as values.

mod defaults;
mod faults;
mod layers;
mod rules;
mod secrets;
mod shown;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::{Config, Environment, Loaded, Sources};

/// A folder with configuration files, and what else is handed in.
pub(crate) struct Setup {
    folder: TempDir,
    sources: Sources,
    env: Vec<(String, String)>,
}

impl Setup {
    /// No file, and an environment with nothing but a home folder.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = Sources::new(Environment::default());
        sources.system_file = folder.path().join("etc.toml");
        Self { folder, sources, env: vec![("HOME".to_owned(), "/home/u".to_owned())] }
    }

    /// A file of `--config` with this text.
    pub(crate) fn with(text: &str) -> Self {
        let mut setup = Self::new();
        setup.file("config.toml", text);
        setup
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and adds it to those of `--config`.
    pub(crate) fn file(&mut self, name: &str, text: &str) -> &mut Self {
        fs::write(self.path(name), text).unwrap();
        self.sources.files.push(self.path(name));
        self
    }

    /// Writes the file for the whole machine.
    pub(crate) fn system(&mut self, text: &str) -> &mut Self {
        fs::write(&self.sources.system_file, text).unwrap();
        self
    }

    pub(crate) fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn flag(&mut self, key: &str, value: &str) -> &mut Self {
        self.sources.flags.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn preset(&mut self, name: &str) -> &mut Self {
        self.sources.preset = Some(name.to_owned());
        self
    }

    pub(crate) fn environment(&self) -> Environment {
        self.env.iter().cloned().collect()
    }

    pub(crate) fn load(&self) -> Result<Loaded, crate::ConfigErrors> {
        Config::load(&Sources { env: self.environment(), ..self.sources.clone() })
    }

    /// Loads what must be right.
    pub(crate) fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The faults of what must be wrong, one a line, without the temporary folder's name.
    pub(crate) fn said(&self) -> String {
        let errors = self.load().map(|loaded| loaded.config).expect_err("it is wrong");
        self.plain(&errors.to_string())
    }

    /// The warnings of what must be right, likewise.
    pub(crate) fn warned(&self) -> String {
        let warnings: Vec<String> = self.good().warnings.iter().map(ToString::to_string).collect();
        self.plain(&warnings.join("\n"))
    }

    pub(crate) fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// What is said of a file `config.toml` with this text.
pub(crate) fn said(text: &str) -> String {
    Setup::with(text).said()
}
