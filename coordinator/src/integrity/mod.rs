//! Integrity: is what this node holds still what was written?
//!
//! Three parts are checked, each in its own way. The log: every record's checksum on the disk, the
//! newest snapshot's hash, and the hash chain over the entries against the one the machine kept.
//! The machine: every record against its hash, and all of them against the checksum. The
//! database: the file opened anew and read to its last row, and its tasks compared with those in
//! memory. `verify` does it at once; the scrub does it slowly, behind everything else.
//!
//! Invariant: nothing is repaired here. A finding is said (health, metrics, log) and stays until
//! a later check finds the part sound; the repair is decided elsewhere, on fresh evidence. (Only a
//! damaged snapshot file is replaced by the node itself, [`crate::mend`]: its state is in memory.)

mod database;
mod log_files;
mod pace;

pub use pace::Pace;

use crate::machine::{CutSum, Machine};
use crate::node::Node;
use crate::operations::{Operation, yield_to_others};
use crate::store::{Retention, Store};
use crate::telemetry::{INTEGRITY_PARTS, Telemetry};
use api::admin::IntegrityCheck;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Tasks looked at under one lock.
const TASKS_AT_ONCE: usize = 256;
/// How often a sum over the machine is begun again when a snapshot takes its cut.
const SUM_ATTEMPTS: u32 = 3;

/// A part that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The Raft log and the newest snapshot.
    Log,
    /// The state in memory.
    Machine,
    /// DuckDB.
    Db,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 3] = [Part::Log, Part::Machine, Part::Db];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        INTEGRITY_PARTS[self as usize]
    }
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many things were looked at, and nothing was wrong; what was left out and why.
    Sound(u64, String),
    /// What is wrong.
    Damaged(u64, String),
    /// It was ended before it knew.
    Stopped,
}

/// Checks this node. Cheap to clone.
#[derive(Clone)]
pub struct Integrity {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    store: Arc<Store>,
    telemetry: Telemetry,
    log_folder: PathBuf,
    retention_days: u64,
    last: Mutex<[Option<IntegrityCheck>; 3]>,
    /// One check at a time: two would only take each other's cut.
    checking: Mutex<()>,
}

impl Integrity {
    /// Checks of this node.
    pub fn new(
        node: Node,
        store: Arc<Store>,
        telemetry: Telemetry,
        log_folder: PathBuf,
        retention_days: u64,
    ) -> Integrity {
        let (last, checking) = (Mutex::default(), Mutex::default());
        Integrity {
            shared: Arc::new(Shared { node, store, telemetry, log_folder, retention_days, last, checking }),
        }
    }

    /// What the last check of a part found.
    pub fn last(&self, part: Part) -> Option<IntegrityCheck> {
        self.shared.last.lock()[part as usize].clone()
    }

    /// Checks a part at this pace; blocks the calling thread. None where `stop` came first.
    pub fn check(&self, part: Part, pace: Pace, stop: &CancellationToken) -> Option<IntegrityCheck> {
        let _one = self.shared.checking.lock();
        let began = Instant::now();
        let shared = &*self.shared;
        let outcome = match part {
            Part::Log => log_files::check(&shared.log_folder, &shared.node, pace, stop),
            Part::Machine => self.machine(pace, stop),
            Part::Db => {
                let retention = shared.retention_days;
                database::check(&shared.node, &shared.store, retention, pace, stop)
            }
        };
        let (sound, checked, detail) = match outcome {
            Outcome::Sound(checked, detail) => (true, checked, detail),
            Outcome::Damaged(checked, detail) => (false, checked, detail),
            Outcome::Stopped => return None,
        };
        let checked_at = jiff::Timestamp::now();
        if !sound {
            tracing::error!(part = part.as_str(), detail, "a check of integrity found damage");
        }
        let unix_seconds = u64::try_from(checked_at.as_second()).unwrap_or(0);
        shared.telemetry.integrity_checked(part as usize, sound, unix_seconds);
        let took_ms = began.elapsed().as_millis() as u64;
        let part_name = part.as_str().to_owned();
        let check = IntegrityCheck { part: part_name, checked_at, sound, checked, took_ms, detail };
        shared.last.lock()[part as usize] = Some(check.clone());
        Some(check)
    }

    /// Forgets a finding that a repair has made void.
    pub fn forget(&self, part: Part) {
        self.shared.last.lock()[part as usize] = None;
        self.shared.telemetry.integrity_forgotten(part as usize);
    }

    fn machine(&self, pace: Pace, stop: &CancellationToken) -> Outcome {
        let node = &self.shared.node;
        let (mut seq, mut checked) = (0, 0);
        loop {
            let began = Instant::now();
            let (last, count, damaged) = node.machine().check_records(seq, TASKS_AT_ONCE);
            checked += count;
            if let Some(id) = damaged {
                let why = format!(
                    "the record of task `{id}` in memory is not what its hash says; replace this node's state (POST /api/admin/force_sync)"
                );
                return Outcome::Damaged(checked, why);
            }
            let Some(last) = last else { break };
            seq = last;
            if !pace.pause(began.elapsed(), stop) {
                return Outcome::Stopped;
            }
        }
        for _ in 0..SUM_ATTEMPTS {
            match self.sum(pace.brisk(), stop) {
                Some(Ok(())) => return Outcome::Sound(checked, String::new()),
                Some(Err(why)) => {
                    return Outcome::Damaged(
                        checked,
                        format!("{why}; replace this node's state (POST /api/admin/force_sync)"),
                    );
                }
                None if stop.is_cancelled() => return Outcome::Stopped,
                None => {}
            }
        }
        Outcome::Sound(checked, "the sum was left out: snapshots, which form it too, took its place".into())
    }

    /// Adds all records up and compares them with the checksum. None where it was interrupted.
    fn sum(&self, pace: Pace, stop: &CancellationToken) -> Option<Result<(), String>> {
        let node = &self.shared.node;
        let cut = node.with_machine_mut(Machine::begin_cut);
        let mut sum = CutSum::new(&cut);
        loop {
            let began = Instant::now();
            let tasks = node.with_machine_mut(|machine| machine.read_cut(&cut, TASKS_AT_ONCE))?;
            if tasks.is_empty() {
                node.with_machine_mut(|machine| machine.end_cut(&cut));
                return Some(sum.finish());
            }
            sum.add(&tasks);
            if !pace.pause(began.elapsed(), stop) {
                node.with_machine_mut(|machine| machine.end_cut(&cut));
                return None;
            }
        }
    }

    /// Checks all parts now, one after the other.
    pub fn verify(&self, operation: &Operation) -> Vec<IntegrityCheck> {
        let mut found = Vec::new();
        for part in Part::ALL {
            operation.says(format!("checking the {}", part.as_str()));
            found.extend(self.check(part, Pace::unpaced(), operation.token()));
        }
        found
    }

    /// Checks all parts again and again, each once an interval, with at most this share of a core.
    /// Old history is let go by the same thread, a little at a time.
    pub fn spawn_scrub(&self, interval: Duration, share: f64, keep_tasks: u64, stop: CancellationToken) {
        let integrity = self.clone();
        let work = move || {
            yield_to_others();
            let mut next = Instant::now() + interval.min(FIRST_SCRUB);
            let mut pruned = Instant::now();
            while !sleep(&stop, HOUSEKEEPING) {
                if pruned.elapsed() >= PRUNE_INTERVAL {
                    integrity.prune(keep_tasks, &stop);
                    pruned = Instant::now();
                }
                if interval.is_zero() || Instant::now() < next || integrity.shared.node.cluster_id().is_none()
                {
                    continue;
                }
                next = Instant::now() + interval;
                for part in Part::ALL {
                    integrity.check(part, Pace::share(share), &stop);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("scrub".into()).spawn(work) {
            tracing::error!(%error, "the scrub can't be started; damage is seen by `verify` only");
        }
    }

    /// Lets history go that is older than the retention.
    pub fn prune(&self, keep_tasks: u64, stop: &CancellationToken) -> u64 {
        let retention_ms = self.shared.retention_days.saturating_mul(86_400_000);
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let before_wall_ms = now_ms.saturating_sub(i64::try_from(retention_ms).unwrap_or(i64::MAX));
        let retention = Retention { before_wall_ms, keep_tasks };
        let mut gone = 0;
        while self.shared.store.health().healthy && !stop.is_cancelled() {
            let began = Instant::now();
            match self.shared.store.prune(retention, PRUNE_LIMIT) {
                Ok(0) => break,
                Ok(rows) => gone += rows,
                Err(error) => {
                    tracing::warn!(%error, "old history can't be let go; tried again later");
                    break;
                }
            }
            if !Pace::share(0.2).pause(began.elapsed(), stop) {
                break;
            }
        }
        if gone > 0 {
            tracing::info!(rows = gone, "old history was let go");
        }
        gone
    }
}

/// After a start the first scrub comes within this time.
const FIRST_SCRUB: Duration = Duration::from_secs(300);
/// Between two looks at what is due.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Between two looks at history that is beyond its retention.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// How long one batch of pruning may wait for the writer.
const PRUNE_LIMIT: Duration = Duration::from_secs(60);

/// Sleeps; true where `stop` came meanwhile.
fn sleep(stop: &CancellationToken, time: Duration) -> bool {
    let until = Instant::now() + time;
    while !stop.is_cancelled() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
    true
}
