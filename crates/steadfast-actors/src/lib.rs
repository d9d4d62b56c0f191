//! The actors: they carry out what the pure machines of `steadfast-core` decide.
//!
//! ```text
//! Supervisor ─┬─ CheckpointKeeper
//!             ├─ ModelActor × model
//!             ├─ Worker × role
//!             ├─ Outbox
//!             └─ SessionActor × active session ── Aggregator × try ── FileAgent × file
//! ```
//!
//! Must not know: sled, routes, configuration files.

mod aggregator;
mod alerts;
#[doc(hidden)]
pub mod bench;
pub mod budget;
mod checkpoint_keeper;
mod context;
mod directory;
pub mod event;
#[doc(hidden)]
mod file_agent;
mod issues;
mod meter;
mod model;
mod outbox;
pub mod records;
pub mod sentinel;
mod session;
pub mod settings;
mod supervisor;
mod task;
#[cfg(test)]
mod tests;
mod tidy;
mod tuner;
mod worker;

pub use checkpoint_keeper::{Keeper, KeeperError, set_aside_files};
pub use event::{Event, Events, RedemptionStep};
pub use meter::Meter;
pub use model::ModelStatus;
pub use settings::Settings;
pub use steadfast_store::Flushes;
pub use supervisor::{
    Beat, Emergency, Handle, RoleStatus, ShutDown, Status, Submission, SubmitError, SupervisorError, start, take_stock,
};
pub use task::panic_text;
pub use tidy::Pruned;

/// An error and what caused it, joined once, for a person.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
