//! The recovery daemon: it looks, names one cause, asks its policy, acts, verifies, and writes it down.
//!
//! Data flows one way: [`observe`] takes a fresh look, [`diagnosis`] makes one cause of what
//! belongs together, [`plan`] says what would be done, [`policy`] allows or denies it, [`act`]
//! does it, [`verify`] judges the outcome and [`audit`] keeps the record. [`decide`] strings the
//! pure parts into one round; [`driver`] is the loop round it and the only one that acts.
//!
//! Invariant: nothing is done that was not written down before, durably ([`audit`]).
//! Invariant: a node's process is started only where its data directory's lock is free, nothing
//! listens on its port and no process of it is alive ([`act::process`]).
//! Invariant: what is not understood is not acted on. An error while looking yields "unclear",
//! and unclear is never "dead".

pub mod act;
pub mod audit;
pub mod config;
pub mod decide;
pub mod diagnosis;
pub mod driver;
pub mod error;
pub mod fault;
pub mod http;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod observation;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod record;
pub mod verify;

pub use error::RecoveryError;
