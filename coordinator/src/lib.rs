//! The coordinator: a Raft cluster that holds the tasks and workers of a testing framework.

pub mod cli;
pub mod command;
pub mod config;
pub mod machine;
pub mod node;
pub mod worker;
