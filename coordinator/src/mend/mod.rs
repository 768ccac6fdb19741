//! Mending: what a node repairs of itself, unasked.
//!
//! Only two things, both of which lie behind the state and endanger nothing. A database that is
//! behind beyond its bound, can't be opened or is damaged when it is opened again is made anew from
//! the machine, while the node serves. A snapshot file that a check found damaged is replaced by
//! one of the machine, and kept in quarantine.
//!
//! Invariants:
//! - The machine, the log and the vote are never touched. What they say is decided with the others
//!   ([`crate::raft::force_sync`]).
//! - What is replaced goes into quarantine, and what replaces it is durable before the log names it.
//! - Attempts have a growing pause and an end ([`Attempts`]); then a person or the recovery daemon
//!   is told, and nothing is tried any more.

mod attempts;

pub use attempts::{Attempts, MOST};

use crate::integrity::{Integrity, Pace, Part};
use crate::machine::Machine;
use crate::node::Node;
use crate::operations::Operation;
use crate::quarantine::quarantine;
use crate::raft::snapshots::SnapshotName;
use crate::room::DiskLevel;
use crate::store::{Rebuild, Store};
use crate::telemetry::{MENDED_PARTS, Telemetry};
use api::admin::Rebuilt;
use api::cluster::Role;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two looks whether something is wrong.
const LOOK: Duration = Duration::from_secs(1);
/// How long a rebuild of the database may take.
const REBUILD_LIMIT: Duration = Duration::from_secs(1800);
/// How long a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// How long the log may take to name a new snapshot.
const NAME_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether it does.
const NAME_POLL: Duration = Duration::from_millis(50);
/// Tasks copied out of the machine under one lock.
const TASKS_AT_ONCE: usize = 256;

/// What is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Db,
    Snapshot,
}

/// Mends this node. Cheap to clone.
#[derive(Clone)]
pub struct Mender {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    store: Arc<Store>,
    integrity: Integrity,
    telemetry: Telemetry,
    data_dir: PathBuf,
    began: Instant,
    /// By [`What`].
    attempts: Mutex<[Attempts; 2]>,
}

impl Mender {
    /// A mender of this node.
    pub fn new(
        node: Node,
        store: Arc<Store>,
        integrity: Integrity,
        telemetry: Telemetry,
        data_dir: PathBuf,
    ) -> Mender {
        let (began, attempts) = (Instant::now(), Mutex::default());
        Mender { shared: Arc::new(Shared { node, store, integrity, telemetry, data_dir, began, attempts }) }
    }

    /// Looks again and again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.look().await;
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(LOOK) => {} }
        }
    }

    /// Looks once, and mends what has to be.
    pub async fn look(&self) {
        let node = &self.shared.node;
        let serves = matches!(node.view().role, Role::Leader | Role::Follower | Role::Learner);
        // On a full disk nothing can be made anew, and a database that can't be written is not broken.
        if !serves || node.room().disk() != DiskLevel::Open {
            return;
        }
        let health = self.shared.store.health();
        if health.needs_rebuild || health.damaged {
            if !health.not_ours && node.applied_index() > 0 && self.due(What::Db) {
                self.mend_db(health.detail, health.unusable).await;
            }
        } else {
            self.sound(What::Db);
        }
        match node.snapshots().damaged() {
            Some(name) if self.due(What::Snapshot) => self.mend_snapshot(&name).await,
            Some(_) => {}
            None => self.sound(What::Snapshot),
        }
    }

    /// Attempts to make the database anew, and whether they were given up.
    pub fn db_attempts(&self) -> Attempts {
        self.shared.attempts.lock()[What::Db as usize]
    }

    fn due(&self, what: What) -> bool {
        self.shared.attempts.lock()[what as usize].due(self.shared.began.elapsed())
    }

    fn sound(&self, what: What) {
        self.shared.attempts.lock()[what as usize].sound(self.shared.began.elapsed());
    }

    fn begin(&self, what: What) -> u32 {
        self.shared.attempts.lock()[what as usize].begin(self.shared.began.elapsed())
    }

    fn ended(&self, what: What, attempt: u32, outcome: Result<String, String>) {
        let part = MENDED_PARTS[what as usize];
        self.shared.telemetry.mended(what as usize, outcome.is_ok());
        match outcome {
            Ok(done) => tracing::warn!(part, attempt, done, "this node mended itself"),
            Err(why) if attempt >= MOST => tracing::error!(
                part,
                attempt,
                why,
                "this node could not mend itself and tries no more: see docs/storage.md, repairs of one node"
            ),
            Err(why) => tracing::error!(part, attempt, why, "this node could not mend itself; tried again"),
        }
    }

    /// Adds what the file lacks, since it alone may hold what has left memory; one that is damaged goes
    /// into quarantine when it is opened. So does one whose content made an attempt fail.
    async fn mend_db(&self, why: String, unusable: bool) {
        let Ok(operation) = self.begin_rebuild() else { return };
        let attempt = self.begin(What::Db);
        let mode = match attempt > 1 && unusable {
            false => Rebuild::Merge,
            true => Rebuild::Fresh { why: why.clone() },
        };
        tracing::warn!(why, attempt, "the database is made anew from memory");
        let mender = self.clone();
        let work = tokio::task::spawn_blocking(move || mender.rebuild(mode, &operation)).await;
        let outcome = work.map_err(|e| e.to_string()).and_then(|rebuilt| rebuilt).map(|rebuilt| {
            format!("the database holds {} tasks of memory at index {}", rebuilt.tasks, rebuilt.index)
        });
        self.ended(What::Db, attempt, outcome);
    }

    /// Enters a rebuild, unless one goes on: then its id.
    pub fn begin_rebuild(&self) -> Result<Operation, String> {
        self.shared.node.operation_book().begin_alone("rebuild_db", "gathering the machine's records")
    }

    /// Has the database hold everything that the machine does, at one index; what is applied
    /// meanwhile waits and follows. Blocks the calling thread.
    pub fn rebuild(&self, mode: Rebuild, operation: &Operation) -> Result<Rebuilt, String> {
        let Shared { node, store, .. } = &*self.shared;
        let hold = store.hold();
        let cut = node.with_machine_mut(Machine::begin_cut);
        let mut effects = cut.effects();
        let mut tasks = 0;
        loop {
            let piece = node.with_machine_mut(|machine| machine.read_cut(&cut, TASKS_AT_ONCE));
            let piece = piece.ok_or("a snapshot was begun while the records were gathered; ask again")?;
            if piece.is_empty() {
                break;
            }
            tasks += piece.len() as u64;
            piece.effects(&mut effects);
        }
        node.with_machine_mut(|machine| machine.end_cut(&cut));
        let index = cut.index();
        operation.says(format!("writing {tasks} tasks of index {index}"));
        store.rebuild(index, effects, mode);
        drop(hold);
        // The rebuilt index may be one that the old file had reached: wait for the job itself.
        let waited = store.reopen(REBUILD_LIMIT).and_then(|_| store.wait_for(index, REBUILD_LIMIT));
        let health = store.health();
        waited.map_err(|e| format!("the database was not rebuilt: {e}"))?;
        if !health.healthy {
            return Err(format!("the database was not rebuilt: {}", health.detail));
        }
        self.shared.integrity.forget(Part::Db);
        tracing::info!(index, tasks, "the database was rebuilt from memory");
        let history_follows = node.members().0.len() > 1 && store.history_wanted();
        Ok(Rebuilt { index, tasks, quarantined: health.quarantined, history_follows })
    }

    /// The log names another one before the damaged one leaves its place.
    async fn mend_snapshot(&self, damaged: &SnapshotName) {
        let node = &self.shared.node;
        let Ok(_operation) = node.operation_book().begin_alone("mend_snapshot", "taking another snapshot")
        else {
            return;
        };
        let attempt = self.begin(What::Snapshot);
        let outcome = self.replace_snapshot(damaged).await;
        self.ended(What::Snapshot, attempt, outcome);
    }

    async fn replace_snapshot(&self, damaged: &SnapshotName) -> Result<String, String> {
        let Shared { node, integrity, data_dir, .. } = &*self.shared;
        let index = node.snapshot_now(SNAPSHOT_LIMIT).await?.index;
        let deadline = tokio::time::Instant::now() + NAME_LIMIT;
        while node.named_snapshot().is_none_or(|named| named.file == damaged.file) {
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("the log did not name the snapshot of index {index}"));
            }
            tokio::time::sleep(NAME_POLL).await;
        }
        let path = node.snapshots().path(&damaged.file).ok_or("the damaged file has no place")?;
        let root = data_dir.join("quarantine");
        let (integrity, snapshots) = (integrity.clone(), node.snapshots().clone());
        let moved = tokio::task::spawn_blocking(move || {
            let moved = quarantine(&[path], &root, "snapshot", "its bytes are not those that were written");
            snapshots.forget_damaged();
            // What else is wrong with the log is said anew.
            let _ = integrity.check(Part::Log, Pace::share(0.25), &CancellationToken::new());
            moved
        });
        let moved = moved.await.map_err(|e| e.to_string())?.map_err(|e| format!("quarantine: {e}"))?;
        let moved = moved.map(|folder| folder.display().to_string()).unwrap_or_default();
        Ok(format!("a snapshot of index {index} took the damaged one's place, which is in {moved}"))
    }
}
