//! The durable memory of Steadfast: typed records under ordered keys, written in atomic batches and acknowledged only
//! when they are on disk.
//!
//! - [`CheckpointStore`] is what the keeper writes through. [`SledStore`] is the form on disk, [`MemoryStore`] the one
//!   for actor tests.
//! - [`Record`] carries a kind, a schema version and a payload; [`record`] encodes and decodes typed values.
//! - [`export`] and [`import`] turn a store into lines of text and back.
//! - [`GroupCommit`] is the writer's thread: whatever queued up while the disk was busy shares the next sync.
//!
//! Must not know: ractor, HTTP, what a session is. Nothing of sled is public. No clock is read here; times are handed in.

pub mod batch;
pub mod commit;
pub mod error;
pub mod export;
pub mod key;
mod lock;
pub mod memory;
pub mod record;
mod sled_store;
pub mod store;

pub use batch::Batch;
pub use commit::{CommitHandle, Flushes, GroupCommit};
pub use error::{BackendError, ErrorClass, StoreError};
pub use export::{TransferError, export, import};
pub use key::{Key, Prefix};
pub use memory::MemoryStore;
pub use record::{Record, RecordKind, decode, encode};
pub use sled_store::{OpenOptions, OpenReport, SledStore, panic_is_expected, remove_copies, set_aside_folders};
pub use store::{Check, CheckpointStore, Found, Order, Scan, Scanned, SetAside, Usage};
