//! Keys and tokens, read when they are needed and never kept in a [`Config`](crate::Config).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use secrecy::SecretString;

use crate::config::{Issues, Provider};
use crate::env::Environment;
use crate::value::CREDENTIALS;

/// The longest key that is read from a file, in bytes. Real ones have at most a few thousand.
const LONGEST: u64 = 64 * 1024;

/// A key is configured, but is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct KeyMissing {
    /// For a person, without any part of a key: `environment variable OPENCODE_API_KEY is not set`.
    pub reason: String,
}

impl Provider {
    /// Reads the provider's key: from its variable or its file, else from systemd's credential that is called like the
    /// provider (`$CREDENTIALS_DIRECTORY/<name>`). White space around it goes. `None`: no key is configured, and the
    /// provider is called without one. Blocks on a small file.
    ///
    /// # Errors
    /// [`KeyMissing`] when a key is configured and there is none in any of these places, or what is there is no key.
    pub fn key(&self, name: &str, env: &Environment) -> Result<Option<SecretString>, KeyMissing> {
        find(self.api_key_env.as_deref(), self.api_key_file.as_deref(), name, env)
    }
}

impl Issues {
    /// Reads the tracker's token in the same way; its credential is called `issues-token`.
    ///
    /// # Errors
    /// As [`Provider::key`].
    pub fn token(&self, env: &Environment) -> Result<Option<SecretString>, KeyMissing> {
        find(self.token_env.as_deref(), self.token_file.as_deref(), "issues-token", env)
    }
}

fn find(
    variable: Option<&str>,
    file: Option<&Path>,
    credential: &str,
    env: &Environment,
) -> Result<Option<SecretString>, KeyMissing> {
    let first = match (variable, file) {
        (None, None) => return Ok(None),
        (Some(variable), _) => from_variable(variable, env),
        (None, Some(file)) => from_key_file(file, env),
    };
    let reason = match first {
        Ok(key) => return Ok(Some(key)),
        Err(reason) => reason,
    };
    // systemd hands secrets over as files that only the service can read; see systemd.exec(5), "Credentials".
    let Some(folder) = env.folder("CREDENTIALS_DIRECTORY") else {
        return Err(KeyMissing { reason });
    };
    let path = folder.join(credential);
    if !path.exists() {
        return Err(KeyMissing { reason: format!("{reason}, and there is no credential {credential:?}") });
    }
    from_file(&path).map(Some).map_err(|other| KeyMissing { reason: format!("{reason}; {other}") })
}

fn from_variable(name: &str, env: &Environment) -> Result<SecretString, String> {
    match env.get(name) {
        Some(value) => key(value).map_err(|fault| format!("environment variable {name} {fault}")),
        None if env.has(name) => Err(format!("environment variable {name} is empty")),
        None => Err(format!("environment variable {name} is not set")),
    }
}

/// A file, or a credential that is named instead of one.
fn from_key_file(path: &Path, env: &Environment) -> Result<SecretString, String> {
    let Ok(name) = path.strip_prefix(CREDENTIALS) else { return from_file(path) };
    match env.folder("CREDENTIALS_DIRECTORY") {
        Some(folder) => from_file(&folder.join(name)),
        None => Err(format!(
            "credential {:?} is read by a service that systemd starts with it (LoadCredential=), and there is none",
            name.display().to_string()
        )),
    }
}

fn from_file(path: &Path) -> Result<SecretString, String> {
    let shown = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("key file {shown} cannot be read: {}", io_reason(&error))),
        Ok(length) if length as u64 > LONGEST => Err(format!("key file {shown} is larger than 64 KiB")),
        Ok(_) => key(&text).map_err(|fault| format!("key file {shown} {fault}")),
    }
}

fn key(text: &str) -> Result<SecretString, &'static str> {
    let key = text.trim();
    if key.is_empty() {
        Err("is empty")
    } else if key.chars().any(char::is_control) {
        // It becomes an HTTP header, where a line break would begin another one.
        Err("holds more than one line or a control character")
    } else {
        Ok(key.to_owned().into())
    }
}

/// An IO error in plain words, where there are some.
pub(crate) fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}
