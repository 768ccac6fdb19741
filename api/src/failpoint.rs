//! Points at which a test ends a coordinator: how the program that has them lists them.
//!
//! The list itself stands in the coordinator; `coordinator-failpoints failpoints` prints it as JSON, one array.

use serde::{Deserialize, Serialize};

/// When a point is reached, so that whoever wants to reach it knows what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At every start.
    Start,
    /// At the first start of a cluster.
    Founding,
    /// While tasks are written.
    Write,
    /// While a snapshot of the node's own machine is taken.
    Snapshot,
    /// While a peer's snapshot is taken over.
    Install,
    /// While the state is replaced by that of the majority.
    Sync,
    /// While a node begins anew as another incarnation.
    Rejoin,
    /// At a start with a log whose end is torn.
    Torn,
    /// At a start with a damaged database.
    Database,
    /// While a call is let in that carries a newer epoch of the recovery lease.
    Fence,
    /// While a command founds a new cluster from a survivor; then those of `Rejoin` follow.
    Recover,
    /// While a command restores a backup.
    Restore,
}

impl When {
    /// True for what a node of a cluster that serves can be brought to again and again.
    pub fn in_a_serving_cluster(self) -> bool {
        !matches!(self, When::Founding | When::Recover | When::Restore)
    }
}

/// A point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// When it is reached.
    pub when: When,
}
