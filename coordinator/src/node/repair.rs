//! What repairs and long work need of a node: snapshots on demand, cuts of the machine, the list of
//! what goes on, and beginning anew.

use super::{Node, OPERATION_AFTER, SNAPSHOT_POLL};
use crate::machine::Machine;
use crate::operations::OperationBook;
use crate::raft::applier::{SnapshotRefused, Work};
use crate::raft::snapshots::SnapshotName;
use api::cluster::Operation;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

impl Node {
    /// What takes longer than a request.
    pub fn operation_book(&self) -> &OperationBook {
        &self.shared.operations
    }

    /// Cancelled when the process has to begin anew, with what lies prepared on the disk.
    pub fn restart(&self) -> &CancellationToken {
        &self.shared.restart
    }

    /// Serves no linearizable reads any more, for this reason; or serves them again.
    pub fn leave_reads(&self, why: Option<String>) {
        *self.shared.left_reads.lock() = why;
    }

    /// Takes a snapshot of the machine now, and waits until it is on disk.
    pub async fn snapshot_now(&self, limit: Duration) -> Result<SnapshotName, String> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let applier = self.shared.running.read().as_ref().map(|r| r.applier.clone());
            let applier = applier.ok_or("Raft does not run on this node, so nothing is applied")?;
            let (waiter, outcome) = oneshot::channel();
            applier.send(Work::Snapshot(Some(waiter))).map_err(|_| "the applier has ended")?;
            match tokio::time::timeout_at(deadline, outcome).await {
                Ok(Ok(Ok(name))) => return Ok(name),
                Ok(Ok(Err(SnapshotRefused::Busy))) => tokio::time::sleep(SNAPSHOT_POLL).await,
                Ok(Ok(Err(SnapshotRefused::Failed(why)))) => return Err(why),
                Ok(Err(_)) => return Err("the applier has ended".into()),
                Err(_) => return Err(format!("there was no snapshot within {} s", limit.as_secs())),
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("another snapshot was being written for {} s", limit.as_secs()));
            }
        }
    }

    /// The snapshot that the log names durably.
    pub fn named_snapshot(&self) -> Option<SnapshotName> {
        let log = self.shared.running.read().as_ref().map(|r| r.log.clone())?;
        serde_json::from_slice(log.named_snapshot()?.get_data()).ok()
    }

    /// What goes on for longer than a moment.
    pub fn operations(&self) -> Vec<Operation> {
        let now = jiff::Timestamp::now();
        let mut all = Vec::new();
        let mut add = |id: &str, kind: &str, took: Duration, detail: String| {
            if took >= OPERATION_AFTER {
                let began = jiff::SignedDuration::try_from(took).unwrap_or_default();
                all.push(Operation {
                    id: id.into(),
                    kind: kind.into(),
                    started_at: now.checked_sub(began).unwrap_or(now),
                    duration_seconds: took.as_secs_f64(),
                    detail,
                });
            }
        };
        if let Some(at) = *self.shared.writer.busy_since.lock() {
            add("log-write", "log_write", at.elapsed(), "writing and syncing the log".into());
        }
        if let Some(at) = *self.shared.applier.busy_since.lock() {
            add("apply", "apply", at.elapsed(), "applying committed entries".into());
        }
        for (id, kind, took, detail) in self.shared.operations.list() {
            add(&id, kind, took, detail);
        }
        all.sort_by_key(|operation| operation.started_at);
        all
    }

    /// Works on the machine under its lock; for cuts only, which change nothing of the state.
    pub(crate) fn with_machine_mut<T>(&self, work: impl FnOnce(&mut Machine) -> T) -> T {
        work(&mut self.shared.machine.write())
    }
}
