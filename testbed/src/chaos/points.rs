//! Ending a coordinator at a chosen point: before or after a durable step.
//!
//! The program `coordinator-failpoints` is the coordinator with points at which it can be ended.
//! It looks at a file all the time; what the file names ends it when it gets there.

use super::injure;
use crate::binaries::Binaries;
use crate::cluster::READY_LIMIT;
use crate::{Cluster, Error, wait};
use api::client::Repeat;
use api::cluster::{NamedLease, Role};
pub use api::failpoint::{Point, When};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The coordinator with failpoints.
pub const PROGRAM: &str = "coordinator-failpoints";
/// How long a point may take to be reached.
const REACH_LIMIT: Duration = Duration::from_secs(120);
/// How long the log may take to begin behind what a stopped node has.
const BEHIND_LIMIT: Duration = Duration::from_secs(60);
/// Leadership is moved this often while a vote is waited for.
const STIR: Duration = Duration::from_millis(700);
/// Of a database's file, three headers of 4 KiB: so many bytes of it are changed to damage it.
pub const DATABASE_HEADER_BYTES: usize = 3 * 4096;
const LOOK: Duration = Duration::from_millis(5);

/// Every point that the program has.
pub fn list(binaries: &Binaries) -> Result<Vec<Point>, Error> {
    let program = binaries.path(PROGRAM)?;
    let run = std::process::Command::new(&program).arg("failpoints").output();
    let output = run.map_err(Error::io(format!("run {}", program.display())))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        Error::Setting(format!(
            "{PROGRAM}: {error} in its list of points: build it and this testbed from one source"
        ))
    })
}

/// A cluster whose coordinators can be ended at points; none is started yet.
///
/// Snapshots are taken every few hundred entries, so that their points are reached too.
pub fn prepare(nodes: usize, binaries: Binaries) -> Result<Cluster, Error> {
    let mut cluster = Cluster::prepare(nodes, binaries, PROGRAM)?;
    for index in 0..nodes {
        cluster.configure(index, &json!({"snapshot_threshold": 50, "max_log_size": 150}))?;
        let file = file_of(&cluster, index).display().to_string();
        cluster.set_environment(index, "HOLDFAST_FAILPOINTS_FILE", &file);
    }
    Ok(cluster)
}

fn file_of(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.folder().join(format!("failpoints-{}", index + 1))
}

/// Builds the program, so that a test never runs an old one, and gives the folder it lies in.
pub fn build() -> Result<Binaries, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut features = "coordinator/failpoints".to_owned();
    if root.join(".duckdb/bundled").exists() {
        features.push_str(",coordinator/bundled");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--quiet", "--workspace", "--bin", PROGRAM, "--features", &features]);
    // What cargo tells a test of its own package; build scripts that watch it would run again, now and
    // at the next build without it, and half the crates with them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_a_package(name)) {
        build.env_remove(name);
    }
    let built = build.current_dir(&root).status().map_err(Error::io("run cargo"))?;
    match built.success() {
        true => Binaries::find(),
        false => Err(Error::Setting(format!("{PROGRAM} can't be built; cargo says above why"))),
    }
}

fn of_a_package(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// Lets node `index` end at this point.
pub fn arm(cluster: &Cluster, index: usize, point: &str) -> Result<(), Error> {
    arm_with(cluster, index, point, "panic")
}

/// Lets something else happen at this point, as crate `fail` spells it.
pub fn arm_with(cluster: &Cluster, index: usize, point: &str, action: &str) -> Result<(), Error> {
    let file = file_of(cluster, index);
    let written = file.with_extension("new");
    // In one step, so that the node never reads half a line.
    std::fs::write(&written, format!("{point}={action}"))
        .and_then(|()| std::fs::rename(&written, &file))
        .map_err(Error::io(format!("write {}", file.display())))
}

/// Lets a running node end at this point, and returns once it will.
async fn arm_running(cluster: &Cluster, index: usize, point: &str) -> Result<(), Error> {
    arm(cluster, index, point)?;
    let taken = file_of(cluster, index).with_extension("armed");
    let what = format!("`{point}` to be armed");
    let awaited = wait::until(&what, READY_LIMIT, || async {
        let armed = std::fs::read_to_string(&taken).unwrap_or_default();
        if armed.split_once('=').is_some_and(|(name, _)| name == point) { Ok(()) } else { Err(armed) }
    });
    awaited.await.map(drop)
}

/// Takes it back.
pub fn disarm(cluster: &Cluster, index: usize) {
    let _ = std::fs::remove_file(file_of(cluster, index));
}

/// What is asked for now and then, so that a point is reached soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stir {
    /// Nothing: it is reached by itself.
    Nothing,
    /// That whoever leads hands over, so that the others vote.
    Leadership,
    /// That the node takes a snapshot before the next is due.
    Snapshots,
}

/// Refused while nobody leads.
async fn hand_over(cluster: &Cluster) {
    let Ok(client) = cluster.client() else { return };
    let (client, asked) = (client.with_deadline(STIR), json!({}));
    let handed = client.post::<_, serde_json::Value>("/api/cluster/transfer", &asked, Repeat::Never);
    drop(handed.await);
}

/// It may end over it.
async fn take_snapshot(cluster: &Cluster, index: usize) {
    let url = cluster.place(index).url("/api/admin/snapshot");
    let taken = wait::http().post(url).json(&json!({})).send();
    drop(tokio::time::timeout(STIR, taken).await);
}

/// Waits until node `index` has ended; meanwhile it stirs.
pub async fn await_end(cluster: &mut Cluster, index: usize, point: &str, stir: Stir) -> Result<(), Error> {
    let began = Instant::now();
    let mut stirred = began;
    while cluster.is_running(index) {
        if began.elapsed() > REACH_LIMIT {
            return Err(Error::TimedOut {
                what: format!("{} to reach `{point}`", cluster.place(index).id),
                waited_s: began.elapsed().as_secs_f64(),
                last: "it runs".into(),
                tail: crate::process::last_lines(&cluster.place(index).log_file, 20),
            });
        }
        if stirred.elapsed() > STIR {
            stirred = Instant::now();
            match stir {
                Stir::Nothing => {}
                Stir::Leadership => hand_over(cluster).await,
                Stir::Snapshots => take_snapshot(cluster, index).await,
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Ends node `index` at this point, doing what leads there. The node is left ended and disarmed.
pub async fn end_at(cluster: &mut Cluster, index: usize, point: &Point) -> Result<(), Error> {
    match point.when {
        When::Start | When::Founding => {
            cluster.kill9(index);
            arm(cluster, index, &point.name)?;
            cluster.start_node(index)?;
        }
        When::Write | When::Snapshot => arm(cluster, index, &point.name)?,
        When::Install => {
            let had = cluster.status(index).await.map(|s| s.last_log_index).unwrap_or_default();
            cluster.kill9(index);
            wait::until("the log to begin behind what the node has", BEHIND_LIMIT, || async {
                let leader = cluster.leader(READY_LIMIT).await.map_err(|e| e.to_string())?;
                take_snapshot(cluster, leader).await;
                let first = cluster.status(leader).await?.first_log_index;
                if first > had + 1 {
                    Ok(())
                } else {
                    Err(format!("it begins at {first}, the node has {had}"))
                }
            })
            .await?;
            arm(cluster, index, &point.name)?;
            cluster.start_node(index)?;
        }
        When::Sync => {
            arm_running(cluster, index, &point.name).await?;
            replace_state(cluster, index).await?;
        }
        When::Rejoin => {
            cluster.kill9(index);
            change(&injure::newest_log(&cluster.place(index).data_dir.join("raft"))?, |bytes| {
                break_middle(bytes)
            })?;
            cluster.start_node(index)?;
            begin_anew(cluster, index, &point.name).await?;
        }
        When::Torn => {
            cluster.kill9(index);
            change(&injure::newest_log(&cluster.place(index).data_dir.join("raft"))?, tear)?;
            arm(cluster, index, &point.name)?;
            cluster.start_node(index)?;
        }
        When::Database => {
            cluster.kill9(index);
            let file = cluster.place(index).data_dir.join("coordinator.duckdb");
            change(&file, |bytes| bytes.iter_mut().take(DATABASE_HEADER_BYTES).for_each(|b| *b ^= 0x5a))?;
            arm(cluster, index, &point.name)?;
            cluster.start_node(index)?;
        }
        When::Fence => {
            let epoch = new_epoch(cluster, &point.name).await?;
            arm_running(cluster, index, &point.name).await?;
            ask(&cluster.place(index).url("/api/admin/verify"), &json!({"epoch": epoch})).await?;
        }
        When::Recover | When::Restore => {
            return Err(Error::Setting(format!("{} is reached by a command, not by a node", point.name)));
        }
    }
    let stir = match point.when {
        When::Snapshot => Stir::Snapshots,
        _ if point.name.starts_with("hard_state") => Stir::Leadership,
        _ => Stir::Nothing,
    };
    let ended = await_end(cluster, index, &point.name, stir).await;
    disarm(cluster, index);
    ended
}

/// Asks a node to replace its state by that of the majority. It may end before it answers.
async fn replace_state(cluster: &Cluster, index: usize) -> Result<(), Error> {
    let call = json!({"by_hand": true, "why": "a test of the crash points"});
    ask(&cluster.place(index).url("/api/admin/force_sync"), &call).await
}

/// Changes a stopped node's file.
fn change(file: &Path, how: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
    let changed = std::fs::read(file).and_then(|mut bytes| {
        how(&mut bytes);
        std::fs::write(file, bytes)
    });
    changed.map_err(Error::io(format!("change {}", file.display())))
}

/// Where the last byte is that was written.
fn written_end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default()
}

/// A byte in the middle, so that there are whole records behind a broken one.
fn break_middle(bytes: &mut [u8]) {
    let middle = written_end(bytes) / 2;
    bytes[middle] ^= 0x10;
}

/// The last record lacks its last byte.
fn tear(bytes: &mut Vec<u8>) {
    bytes.truncate(written_end(bytes));
}

/// An epoch of the lease under which repairs are made that nobody has seen yet. The lease is given back.
pub async fn new_epoch(cluster: &Cluster, holder: &str) -> Result<u64, Error> {
    let client = cluster.client()?.with_deadline(READY_LIMIT);
    let mut epoch = 0;
    for ttl_ms in [60_000, 0] {
        let call = json!({"holder": holder, "ttl_ms": ttl_ms});
        let lease = client.post("/api/leases/recovery", &call, Repeat::Idempotent).await;
        let lease: NamedLease = lease.map_err(|e| Error::Setting(e.to_string()))?;
        epoch = epoch.max(lease.epoch);
    }
    Ok(epoch)
}

/// Asks a node whose log is damaged to begin anew. It may end before it answers.
async fn begin_anew(cluster: &Cluster, index: usize, point: &str) -> Result<(), Error> {
    wait::until("the node to find its log damaged", READY_LIMIT, || async {
        let status = cluster.status(index).await?;
        if status.role == Role::Failed { Ok(()) } else { Err(status.role.to_string()) }
    })
    .await?;
    arm_running(cluster, index, point).await?;
    let call = json!({"node_id": cluster.place(index).id});
    ask(&cluster.place(index).url("/api/admin/rejoin"), &call).await
}

async fn ask(url: &str, call: &serde_json::Value) -> Result<(), Error> {
    match wait::http().post(url).json(call).send().await {
        Ok(answer) if !answer.status().is_success() => {
            let why = answer.text().await.unwrap_or_default();
            Err(Error::Setting(format!("{url} was refused: {why}")))
        }
        // Without an answer it may have ended; whoever waits for its end finds out.
        _ => Ok(()),
    }
}
