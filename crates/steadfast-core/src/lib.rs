//! The decisions of Steadfast as values: what a breaker admits, which model is asked next, how a milestone is
//! judged, which phase follows. Nothing here waits, logs, reads a clock or touches a file; time and events are
//! handed in, and what to do comes back as an enum.
//!
//! Must not know: tokio, ractor, sled, any serialization format, any clock. The derives of serde are here because the
//! store keeps these types as its first record version; a golden-bytes test there pins their layout.

pub mod breaker;
pub mod failover;
pub mod fault;
pub mod ids;
pub mod network;
pub mod plan;
pub mod rates;
pub mod restart;
pub mod sentinel;
pub mod session;
pub mod tally;
pub mod tuning;
