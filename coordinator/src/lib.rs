//! The coordinator: a Raft cluster that holds the tasks and workers of a testing framework.

#[macro_use]
pub mod failpoint;

pub mod access;
pub mod backup;
pub mod cli;
pub mod command;
pub mod config;
pub mod dispatch;
pub mod health;
pub mod http;
pub mod integrity;
pub mod live;
pub mod machine;
pub mod members;
pub mod mend;
pub mod node;
pub mod operations;
pub mod quarantine;
pub mod raft;
pub mod replica;
pub mod room;
pub mod scheduler;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod worker;
