//! The contract that every Holdfast program shares.
//!
//! Wire types, error codes, metric declarations, config loading and the HTTP client that follows
//! the leader stand here once. Nothing in this crate decides anything: a type says what may cross
//! a socket, not what to do about it.
//!
//! Invariant: a field or code that was released keeps its name and meaning; new ones are added.

pub mod access;
pub mod admin;
pub mod client;
pub mod cluster;
pub mod config;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod http;
pub mod metrics;
pub mod metrics_page;
pub mod openmetrics;
pub mod performance;
pub mod task;
pub mod unique;
pub mod worker;

pub use access::Role as AccessRole;
pub use client::{Client, ClientError};
pub use error::{ErrorCode, Problem};

/// The version that programs, reports and build info name.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Header in which a follower says that it forwarded the request, naming itself.
pub const FORWARDED_BY: &str = "x-holdfast-forwarded-by";

/// Header in which a write without a natural id carries the client's key: sent twice, done once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Header in which an answer says that the request had been done before.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// Header in which an answer names the leader that made it.
pub const SERVED_BY: &str = "x-holdfast-served-by";
