//! Ending a coordinator at a chosen point: before or after a durable step.
//!
//! The program `coordinator-failpoints` is the coordinator with points at which it can be ended.
//! It looks at a file all the time; what the file names ends it when it gets there.

use super::injure;
use crate::binaries::Binaries;
use crate::cluster::READY_LIMIT;
use crate::{Cluster, Error, wait};
use api::cluster::Role;
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
const LOOK: Duration = Duration::from_millis(5);

/// When a point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At every start.
    Start,
    /// At the first start of a cluster.
    Founding,
    /// While tasks are written.
    Write,
    /// While a node takes a snapshot of its own.
    Snapshot,
    /// While a node takes over a peer's snapshot.
    Install,
    /// While the state is replaced by that of the majority.
    Sync,
    /// While a node whose log is damaged begins anew.
    Rejoin,
    /// While a command restores a backup.
    Restore,
}

/// A point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// When it is reached.
    pub when: When,
}

/// Every point that the program has.
pub fn list(binaries: &Binaries) -> Result<Vec<Point>, Error> {
    let program = binaries.path(PROGRAM)?;
    let run = std::process::Command::new(&program).arg("failpoints").output();
    let output = run.map_err(Error::io(format!("run {}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<Point, Error> {
    let (name, when) = line.split_once(' ').unwrap_or((line, ""));
    let when = match when {
        "start" => When::Start,
        "founding" => When::Founding,
        "write" => When::Write,
        "snapshot" => When::Snapshot,
        "install" => When::Install,
        "sync" => When::Sync,
        "rejoin" => When::Rejoin,
        "restore" => When::Restore,
        other => {
            return Err(Error::Setting(format!(
                "{PROGRAM} lists point `{name}` as `{other}`, which this testbed does not know: build both from one source"
            )));
        }
    };
    Ok(Point { name: name.into(), when })
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
    let built = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", PROGRAM, "--features", &features])
        .current_dir(&root)
        .status()
        .map_err(Error::io("run cargo"))?;
    match built.success() {
        true => Binaries::find(),
        false => Err(Error::Setting(format!("{PROGRAM} can't be built; cargo says above why"))),
    }
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

/// Takes it back.
pub fn disarm(cluster: &Cluster, index: usize) {
    let _ = std::fs::remove_file(file_of(cluster, index));
}

/// Waits until node `index` has ended; meanwhile `stir` is called now and then.
pub async fn await_end(
    cluster: &mut Cluster,
    index: usize,
    point: &str,
    stir_leadership: bool,
) -> Result<(), Error> {
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
        if stir_leadership && stirred.elapsed() > STIR {
            stirred = Instant::now();
            // Whoever leads hands over, so that the others vote; refused while nobody leads.
            if let Ok(client) = cluster.client() {
                let (client, asked) = (client.with_deadline(STIR), json!({}));
                let handed = client.post::<_, serde_json::Value>(
                    "/api/cluster/transfer",
                    &asked,
                    api::client::Repeat::Never,
                );
                drop(handed.await);
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
            arm(cluster, index, &point.name)?;
            replace_state(cluster, index).await?;
        }
        When::Rejoin => {
            cluster.kill9(index);
            damage_log(&cluster.place(index).data_dir)?;
            cluster.start_node(index)?;
            begin_anew(cluster, index, &point.name).await?;
        }
        When::Restore => return Err(Error::Setting("a restore is no work of a node".into())),
    }
    let stir = point.name.starts_with("hard_state");
    let ended = await_end(cluster, index, &point.name, stir).await;
    disarm(cluster, index);
    ended
}

/// Asks a node to replace its state by that of the majority. It may end before it answers.
async fn replace_state(cluster: &Cluster, index: usize) -> Result<(), Error> {
    let call = json!({"by_hand": true, "why": "a test of the crash points"});
    ask(&cluster.place(index).url("/api/admin/force_sync"), &call).await
}

/// Changes a byte in the middle of the log, so that there are whole records behind a broken one.
fn damage_log(data_dir: &Path) -> Result<(), Error> {
    let file = injure::newest_log(&data_dir.join("raft"))?;
    let damaged = std::fs::read(&file).and_then(|mut bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default();
        bytes[end / 2] ^= 0x10;
        std::fs::write(&file, bytes)
    });
    damaged.map_err(Error::io(format!("damage {}", file.display())))
}

/// Asks a node whose log is damaged to begin anew. It may end before it answers.
async fn begin_anew(cluster: &Cluster, index: usize, point: &str) -> Result<(), Error> {
    wait::until("the node to find its log damaged", READY_LIMIT, || async {
        let status = cluster.status(index).await?;
        if status.role == Role::Failed { Ok(()) } else { Err(status.role.to_string()) }
    })
    .await?;
    arm(cluster, index, point)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_is_read() {
        let point = parse("log_fd::sync::err write").unwrap();
        assert_eq!(point, Point { name: "log_fd::sync::err".into(), when: When::Write });
        assert!(parse("x sometimes").unwrap_err().to_string().contains("does not know"));
    }
}
