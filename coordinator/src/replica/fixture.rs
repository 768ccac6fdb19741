//! What the unit tests of a replica begin with: a config, and a log in memory.

use super::{OlderEntries, Recovered, Replica, ReplicaConfig};
use raft::eraftpb::{ConfState, Entry};

/// The entries of a log on disk.
pub(super) struct Disk(pub(super) Vec<Entry>);

impl OlderEntries for Disk {
    fn fetch(&self, low: u64, high: u64, _max_bytes: u64) -> Result<Vec<Entry>, String> {
        Ok(self.0.iter().filter(|e| (low..high).contains(&e.index)).cloned().collect())
    }
}

/// Entries without content, from index 1, of one term.
pub(super) fn entries(count: u64, term: u64) -> Vec<Entry> {
    (1..=count).map(|index| Entry { index, term, ..Entry::default() }).collect()
}

/// These vote, and nobody else is there.
pub(super) fn voters(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), ..ConfState::default() }
}

/// Nothing applied yet, no doubt about the log's end.
pub(super) fn config(raft_id: u64) -> ReplicaConfig {
    ReplicaConfig {
        raft_id,
        boot_nonce: 1,
        heartbeat_ticks: 2,
        election_ticks_min: 10,
        election_ticks_max: 20,
        applied: 0,
        applied_log_ms: 0,
        cache_limit_bytes: 1 << 20,
        max_uncommitted_bytes: 1 << 20,
        suspect: false,
        seed: 1,
    }
}

/// A replica that finds these entries, and what was recovered with them.
pub(super) fn replica(config: ReplicaConfig, entries: Vec<Entry>, recovered: Recovered) -> Replica<Disk> {
    Replica::new(config, recovered, Disk(entries)).unwrap()
}
