//! The state that a start begins with: the newest snapshot, or what the log brings.
//!
//! A snapshot that can't be read is not the end of the node. Where the log begins with the first
//! entry, it brings the state back by itself. Elsewhere the state has to come from the others: term,
//! vote and log are sound, so the node keeps its identity and takes over the state of the majority
//! ([`crate::raft::force_sync`]).

use super::Node;
use crate::quarantine::quarantine;
use crate::raft::snapshots::SnapshotName;
use crate::replica::Recovered;
use crate::store::{Rebuild, Store};
use raft::eraftpb::ConfState;

impl Node {
    /// Begins with the machine of the newest snapshot; gives its index.
    pub(super) fn load_snapshot(
        &self,
        recovered: &mut Recovered,
        founders: &ConfState,
        store: &Store,
    ) -> Result<u64, String> {
        let name = match &recovered.snapshot {
            Some(snapshot) => Some(
                serde_json::from_slice::<SnapshotName>(snapshot.get_data())
                    .map_err(|e| format!("the snapshot's name in the log can't be read: {e}"))?,
            ),
            None => None,
        };
        let snapshots = &self.shared.snapshots;
        snapshots
            .keep_only(name.as_ref().map(|n| n.file.as_str()))
            .map_err(|e| format!("the snapshot folder can't be cleaned: {e}"))?;
        let Some(name) = name else { return Ok(0) };
        match snapshots.read(&name) {
            Ok(machine) => {
                snapshots.note(&name);
                self.shared.applied.send_replace(name.index);
                *self.shared.machine.write() = machine;
            }
            Err(error) if recovered.truncated.index == 0 => {
                tracing::error!(%error, "the newest snapshot can't be read; the log holds every entry and brings the state back");
                self.set_aside(&name, &error.to_string())?;
                recovered.snapshot = None;
                recovered.conf_state = founders.clone();
                return Ok(0);
            }
            Err(error) => {
                let why = format!(
                    "{error}; the log before it is gone, so the state has to come from a majority of the others"
                );
                *self.shared.lost_state.lock() = Some(why.clone());
                return Err(why);
            }
        }
        // A database ahead of the log (its end was torn off) holds effects of committed entries
        // only; the leader sends those entries again, and they are skipped. One that is behind
        // what the log still holds takes the rest from the machine.
        if store.applied_index() < name.index {
            let effects = self.shared.machine.read().effects_for_rebuild();
            store.rebuild(name.index, effects, Rebuild::Merge);
        }
        Ok(name.index)
    }

    fn set_aside(&self, name: &SnapshotName, why: &str) -> Result<(), String> {
        let snapshots = &self.shared.snapshots;
        let Some(path) = snapshots.path(&name.file) else { return Ok(()) };
        let moved = quarantine(&[path], &snapshots.quarantine_root(), "snapshot", why);
        moved.map(drop).map_err(|e| format!("the damaged snapshot can't be moved into quarantine: {e}"))
    }

    /// Why this node can't read its own state, where its log alone does not bring it back.
    pub fn lost_state(&self) -> Option<String> {
        self.shared.lost_state.lock().clone()
    }
}
