//! One module for each group of commands.

pub(crate) mod breaker;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod dashboard;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod look;
pub(crate) mod orders;
pub(crate) mod outbox;
pub(crate) mod run;
pub(crate) mod sim;
pub(crate) mod store;
pub(crate) mod top;
pub(crate) mod watch;
