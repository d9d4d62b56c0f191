//! From layers of TOML files, environment and flags to one checked [`Config`].
//!
//! [`Config::load`] reads the files, merges the layers and checks the result. It reports every fault at once, each with
//! the file and line that it comes from. Nothing is read but what [`Sources`] names: the process's environment comes in as
//! an [`Environment`]. Keys of providers are no part of a [`Config`]; they are read when they are needed, by
//! [`Provider::key`] and [`Issues::token`].
//!
//! The built-in defaults are the file `config/default.toml`, compiled in; so that file, which documents each key, cannot
//! say anything else than what holds.
//!
//! Must not know: actors, HTTP, the store.

mod check;
mod complete;
mod config;
mod decode;
mod env;
mod fault;
mod layers;
mod near;
mod schema;
mod secret;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod value;

pub use config::{
    Alerts, Backoff, Budget, Config, Daemon, Failover, Issues, Listen, Log, LogFormat, Micros, Model, Preset, Price,
    Provider, ProviderKind, Roles, Sandbox, Session, Tracker, WebhookUrl,
};
pub use env::Environment;
pub use fault::{ConfigErrors, Fault};
pub use layers::{Loaded, Sources};
pub use secret::KeyMissing;
pub use tree::Origin;
pub use units::{UnitError, parse_duration, parse_size, show_duration, show_size};
