//! Fencing of repairs: an order that comes late, from somebody who lost the lease meanwhile, is
//! refused.
//!
//! Whoever repairs holds the named lease `recovery` in the cluster's log and sends its epoch. The
//! node remembers the highest epoch that it has seen, in a synced file, so that it refuses an
//! older one after a restart and without a cluster, too. What its machine knows of the lease
//! counts as seen.

use api::ErrorCode;
use api::admin::AdminCall;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The named lease under which repairs are made.
pub const LEASE: &str = "recovery";
/// No epoch is beyond this: the machine's counters aren't.
const EPOCH_BOUND: u64 = 1 << 62;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    cluster_id: Option<String>,
    epoch: u64,
}

/// The highest epoch this node has seen.
#[derive(Debug)]
pub struct Fence {
    path: PathBuf,
    seen: Mutex<Seen>,
}

/// What the node knows when it is called.
#[derive(Debug, Clone, Default)]
pub struct Knowledge {
    /// The cluster it belongs to.
    pub cluster_id: Option<String>,
    /// Epoch of the lease in its machine.
    pub lease_epoch: Option<u64>,
    /// The last epoch that was given out, where its machine is current.
    pub last_epoch: Option<u64>,
}

impl Fence {
    /// The fence of a data directory.
    pub fn open(data_dir: &Path) -> Fence {
        let path = data_dir.join("fence.json");
        let seen = match std::fs::read(&path) {
            // A file that can't be read must not let an old order through.
            Ok(bytes) => {
                serde_json::from_slice(&bytes).unwrap_or(Seen { cluster_id: None, epoch: EPOCH_BOUND })
            }
            Err(_) => Seen::default(),
        };
        Fence { path, seen: Mutex::new(seen) }
    }

    /// Lets a call pass, or says why not. A newer epoch is remembered durably first.
    pub fn admit(
        &self,
        call: &AdminCall,
        known: &Knowledge,
        destructive: bool,
    ) -> Result<(), (ErrorCode, String)> {
        let mut seen = self.seen.lock();
        // Epochs of another cluster count from elsewhere.
        let same =
            seen.cluster_id.is_none() || known.cluster_id.is_none() || seen.cluster_id == known.cluster_id;
        let highest = if same { seen.epoch } else { 0 };
        let Some(epoch) = judge(call, known, highest, destructive)? else { return Ok(()) };
        if !same || epoch > seen.epoch {
            let next = Seen { cluster_id: known.cluster_id.clone(), epoch };
            self.keep(&next).map_err(|e| {
                (ErrorCode::Unavailable, format!("can't remember the epoch in {}: {e}", self.path.display()))
            })?;
            *seen = next;
        }
        Ok(())
    }

    fn keep(&self, seen: &Seen) -> std::io::Result<()> {
        let part = self.path.with_extension("part");
        let mut file = std::fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec(seen)?)?;
        file.sync_all()?;
        failpoint!("fence_before_rename");
        std::fs::rename(&part, &self.path)?;
        std::fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        failpoint!("fence_after_rename");
        Ok(())
    }
}

/// PURE. The epoch to remember, if any; or why the call is refused.
fn judge(
    call: &AdminCall,
    known: &Knowledge,
    highest: u64,
    destructive: bool,
) -> Result<Option<u64>, (ErrorCode, String)> {
    if let (Some(meant), Some(own)) = (&call.cluster_id, &known.cluster_id)
        && meant != own
    {
        let why = format!("the call means cluster {meant}, this node belongs to {own}; nothing was done");
        return Err((ErrorCode::InvalidState, why));
    }
    let Some(epoch) = call.epoch else {
        if destructive && !call.by_hand {
            let why = format!(
                "this replaces data: take the named lease (POST /api/leases/{LEASE}) and give its `epoch`, or, as a person who answers for it, `\"by_hand\": true`"
            );
            return Err((ErrorCode::Validation, why));
        }
        return Ok(None);
    };
    let highest = highest.max(known.lease_epoch.unwrap_or(0));
    if epoch < highest {
        let why =
            format!("epoch {epoch} is old, this node has seen {highest}: another repair has begun since");
        return Err((ErrorCode::StaleEpoch, why));
    }
    if epoch == 0 || epoch >= EPOCH_BOUND || known.last_epoch.is_some_and(|last| epoch > last) {
        let why = format!("`epoch` {epoch} was never given out; take the lease (POST /api/leases/{LEASE})");
        return Err((ErrorCode::Validation, why));
    }
    Ok(Some(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(epoch: u64) -> AdminCall {
        AdminCall { epoch: Some(epoch), ..AdminCall::default() }
    }

    fn known(lease_epoch: u64, last: u64) -> Knowledge {
        Knowledge { cluster_id: Some("c".into()), lease_epoch: Some(lease_epoch), last_epoch: Some(last) }
    }

    fn code(result: Result<(), (ErrorCode, String)>) -> Option<ErrorCode> {
        result.err().map(|(code, _)| code)
    }

    #[test]
    fn an_old_epoch_is_refused_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let fence = Fence::open(folder.path());
        let blind = Knowledge { cluster_id: Some("c".into()), ..Knowledge::default() };
        fence.admit(&call(7), &blind, true).unwrap();
        fence.admit(&call(7), &blind, true).unwrap();
        assert_eq!(code(fence.admit(&call(6), &blind, true)), Some(ErrorCode::StaleEpoch));
        drop(fence);
        let fence = Fence::open(folder.path());
        assert_eq!(code(fence.admit(&call(6), &blind, false)), Some(ErrorCode::StaleEpoch));
        fence.admit(&call(8), &blind, true).unwrap();
        // A restored cluster counts anew.
        let other = Knowledge { cluster_id: Some("d".into()), ..Knowledge::default() };
        fence.admit(&call(2), &other, true).unwrap();
    }

    #[test]
    fn what_the_machine_knows_counts_as_seen() {
        let folder = tempfile::tempdir().unwrap();
        let fence = Fence::open(folder.path());
        assert_eq!(code(fence.admit(&call(6), &known(9, 20), true)), Some(ErrorCode::StaleEpoch));
        assert_eq!(code(fence.admit(&call(21), &known(9, 20), true)), Some(ErrorCode::Validation));
        fence.admit(&call(9), &known(9, 20), true).unwrap();
    }

    #[test]
    fn a_destructive_call_needs_an_epoch_or_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let fence = Fence::open(folder.path());
        let plain = AdminCall::default();
        assert_eq!(code(fence.admit(&plain, &known(9, 20), true)), Some(ErrorCode::Validation));
        fence.admit(&plain, &known(9, 20), false).unwrap();
        fence.admit(&AdminCall { by_hand: true, ..plain.clone() }, &known(9, 20), true).unwrap();
        let other = AdminCall { cluster_id: Some("x".into()), ..call(9) };
        assert_eq!(code(fence.admit(&other, &known(9, 20), true)), Some(ErrorCode::InvalidState));
    }

    #[test]
    fn a_damaged_fence_lets_nothing_old_through() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("fence.json"), "{").unwrap();
        let fence = Fence::open(folder.path());
        assert_eq!(code(fence.admit(&call(9), &known(9, 20), true)), Some(ErrorCode::StaleEpoch));
    }
}
