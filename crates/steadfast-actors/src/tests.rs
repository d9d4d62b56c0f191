//! The actors under tokio's paused clock, with scripted models and a store in memory. No real second is spent.

pub(crate) mod clock;
mod model;
mod outbox;
mod redeem;
mod reload;
mod resources;
pub(crate) mod rig;
mod script;
mod store;
mod supervision;
mod supervisor;
mod worker;
mod worker_table;
mod yard;
