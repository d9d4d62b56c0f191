//! The whole program: the built binary as a person or a service manager runs it, against simulated model servers over real
//! HTTP, on real git repositories, with a real store, and really killed.
//!
//! Every test makes a world of its own in a temporary folder, so that they run in any order and any number at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop where it is")]

#[allow(dead_code, reason = "the tests of the tracker's crate use the rest of it")]
mod github_server;
mod support;

mod alerts;
mod breaker_simulate;
mod budgets;
mod daemon;
mod disk;
mod doctor;
mod emergencies;
mod events;
mod failover;
mod fault_points;
mod foreground;
mod github;
mod history;
mod http_api;
mod kills;
mod logs;
mod page;
mod partial;
mod redeem;
mod refusals;
mod reload;
mod repository;
mod secrets;
mod service_manager;
mod shapes;
mod signals;
mod store;
mod sync_order;
mod terminal;
mod traces;
mod units;
