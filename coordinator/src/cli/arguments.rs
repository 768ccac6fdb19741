//! The whole command line.

use std::path::PathBuf;

/// A highly available coordinator for distributed testing.
///
/// With --config (or the whole config in the environment) it runs a node; with a subcommand it
/// talks to a running cluster.
#[derive(Debug, clap::Parser)]
#[command(name = "coordinator", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// The node's config file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the config as it counts (secrets removed) with every warning and every fault, and end.
    ///
    /// Exit code 0: a node would start with it. 1: it would not.
    #[arg(long)]
    pub check_config: bool,
    /// Replace this node's state by a verified snapshot of the majority.
    #[arg(long)]
    pub force_sync: bool,
    /// Check names, ports, clocks, round trips against the timers, and the disk's syncs, and end.
    ///
    /// Exit code 0: a cluster works here. 1: it would not. 2: it can't be told, a peer is not
    /// running.
    #[arg(long)]
    pub check_peers: bool,
    /// With --check-peers: one JSON document instead of a table.
    #[arg(long, requires = "check_peers")]
    pub json: bool,
    /// One of the operator's hands.
    #[command(subcommand)]
    pub command: Option<super::Command>,
}
