//! Forced synchronisation: this node's state is replaced by that of the majority, and its
//! identity, vote and log stay.
//!
//! It is done in two steps. *Prepare*, while the node stays up in whatever role: the peers are
//! asked for their checksums; where a majority of the voters agrees at one index, one of them
//! writes a snapshot, which is fetched into a folder of its own, read whole and compared with
//! what the majority said. *Finish*, at the start that follows (the process replaces itself),
//! before anything is open: the log engine names the new snapshot in one synced batch, then
//! database and old snapshot go into quarantine.
//!
//! Only where the log itself is damaged, or its chain is not the majority's, the node can't keep
//! it: then log, snapshots and database go into quarantine, and it comes back as a new incarnation,
//! which the cluster takes in like a new node. What the snapshot it then gets does not hold, since it has
//! left memory, its database takes from a peer's.
//!
//! Invariants:
//! - Nothing is touched before what replaces it lies here, verified.
//! - A crash anywhere leaves the plan or its end; the next start goes on from there.
//! - One request is done once. A flag that stays on the command line is no new request.

use super::identity::Identity;
use super::log::RaftLog;
use super::log_end::{self, LogEnd};
use super::peer_http::PeerHttp;
use super::snapshots::{SnapshotName, Snapshots};
use crate::config::Config;
use crate::machine::Machine;
use crate::node::Node;
use crate::operations::Operation;
use crate::quarantine::quarantine;
use api::cluster::{Role, StateChecksum, Status};
use raft::eraftpb::Snapshot;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The path on which a peer is asked for a snapshot of this moment.
pub const SNAPSHOT_NOW_PATH: &str = "/raft/snapshot";
/// How long a peer may take to write one.
pub const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// How often the majority is asked for.
const ROUNDS: u32 = 30;
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);

/// The version of a plan that this program writes and carries out.
const PLAN_VERSION: u32 = 1;

/// What is to be done at the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    version: u32,
    snapshot: SnapshotName,
    /// Who gave it.
    source: String,
    /// On whose word: node ids, index, checksum.
    majority: Agreed,
    /// The log can't be kept, and why.
    new_incarnation: Option<String>,
    /// The database is sound and stays.
    #[serde(default)]
    keep_database: bool,
    /// Why it was asked for.
    why: String,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Why.
    pub why: String,
    /// Only the snapshot file is damaged: the database stays.
    pub keep_database: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    /// The request was the flag on the command line.
    flag: bool,
    snapshot_index: u64,
    source: String,
    quarantined: Option<String>,
    at: jiff::Timestamp,
}

/// What a majority agrees on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// Node ids.
    pub nodes: Vec<String>,
    /// The index that all of them passed.
    pub index: u64,
    /// Their checksum there.
    pub checksum: String,
    /// Their log chain there.
    pub log_chain: String,
}

pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("force_sync")
}

pub(super) fn read<T: serde::de::DeserializeOwned>(data_dir: &Path, file: &str) -> Result<Option<T>, String> {
    let path = folder(data_dir).join(file);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

pub(super) fn write(data_dir: &Path, file: &str, content: &impl Serialize) -> Result<(), String> {
    let (folder, path) = (folder(data_dir), folder(data_dir).join(file));
    let written = (|| {
        std::fs::create_dir_all(&folder)?;
        let part = path.with_extension("part");
        let mut out = std::fs::File::create(&part)?;
        out.write_all(&serde_json::to_vec_pretty(content)?)?;
        out.sync_all()?;
        std::fs::rename(&part, &path)?;
        std::fs::File::open(&folder)?.sync_all()
    })();
    written.map_err(|e: std::io::Error| format!("{}: {e}", path.display()))
}

fn remove(data_dir: &Path, file: &str) -> Result<(), String> {
    let path = folder(data_dir).join(file);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", path.display())),
        _ => Ok(()),
    }
}

/// True where the flag on the command line is a request that was not done yet. A start without
/// the flag makes the next one with it a new request.
pub fn asked_by_flag(data_dir: &Path, flag: bool) -> Result<bool, String> {
    let done: Option<Done> = read(data_dir, "done.json")?;
    match (flag, done) {
        (true, Some(Done { flag: true, at, .. })) => {
            tracing::warn!(%at, "--force-sync was done already and is not repeated; take it off the command line");
            Ok(false)
        }
        (true, _) => Ok(true),
        (false, Some(done)) if done.flag => remove(data_dir, "done.json").map(|()| false),
        (false, _) => Ok(false),
    }
}

/// PURE. The newest index at which more than half of `voters` agree. One that all of them remember goes
/// before one at which they stand just now: a snapshot of a moment later would not remember that.
pub fn majority(voters: usize, told: &[(String, StateChecksum)]) -> Result<Agreed, String> {
    let (mut remembered, mut present) = (Vec::new(), Vec::new());
    for (node, sums) in told {
        remembered.extend(sums.checkpoints.iter().map(|c| (c.index, &c.checksum, &c.log_chain, node)));
        present.push((sums.applied_index, &sums.checksum, &sums.log_chain, node));
    }
    present.extend(&remembered);
    newest_alike(voters, remembered).or_else(|| newest_alike(voters, present)).ok_or_else(|| {
        let names: Vec<&str> = told.iter().map(|(node, _)| node.as_str()).collect();
        format!(
            "no majority of the {voters} voters agrees on a state at one index (answers came from: {}); nothing is replaced",
            if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
        )
    })
}

/// Index, checksum, log chain, and who says so.
type Point<'a> = (u64, &'a String, &'a String, &'a String);

fn newest_alike(voters: usize, mut points: Vec<Point<'_>>) -> Option<Agreed> {
    points.sort();
    points.dedup();
    let mut best: Option<Agreed> = None;
    let mut at = 0;
    while at < points.len() {
        let (index, checksum, log_chain, _) = points[at];
        let alike: Vec<_> =
            points[at..].iter().take_while(|p| (p.0, p.1, p.2) == (index, checksum, log_chain)).collect();
        at += alike.len();
        if alike.len() * 2 > voters {
            let nodes = alike.iter().map(|p| p.3.clone()).collect();
            best = Some(Agreed { nodes, index, checksum: checksum.clone(), log_chain: log_chain.clone() });
        }
    }
    best
}

/// PURE. Why this node's log can't be kept beside the majority's state, if so.
fn log_differs(own: &StateChecksum, agreed: &Agreed) -> Option<String> {
    let mut points = own.checkpoints.iter().map(|c| (c.index, &c.log_chain)).collect::<Vec<_>>();
    points.push((own.applied_index, &own.log_chain));
    let (_, chain) = points.into_iter().find(|(index, _)| *index == agreed.index)?;
    (*chain != agreed.log_chain).then(|| {
        format!(
            "at index {} this node's log chain is {chain}, the majority's {}",
            agreed.index, agreed.log_chain
        )
    })
}

/// Fetches the majority's state and has the process begin anew with it; a failure is told and
/// leaves everything as it was.
pub async fn sync_state(
    node: &Node,
    config: &Config,
    request: &Request,
    operation: Operation,
) -> Result<(), String> {
    let why = &request.why;
    tracing::warn!(why, "this node's state is to be replaced by that of the majority; it leaves reads");
    node.leave_reads(Some("its state is being replaced by that of the majority (force_sync)".into()));
    if node.view().role == Role::Leader {
        // A state that may be wrong must not lead. Without another leader there is no majority.
        let _ = node.transfer(None).await;
    }
    let prepared = prepare(node, config, request, &operation).await;
    match &prepared {
        Ok(()) => {
            operation.says("the process begins anew with the fetched state");
            node.restart().cancel();
        }
        Err(why) => {
            tracing::error!(why, "the state was not replaced; everything is as it was");
            node.leave_reads(None);
        }
    }
    prepared
}

/// Asks the peers, fetches and verifies the majority's state, and leaves the plan for the next
/// start.
async fn prepare(
    node: &Node,
    config: &Config,
    request: &Request,
    operation: &Operation,
) -> Result<(), String> {
    let http = PeerHttp::new(node.outbound()?);
    let mut last = String::new();
    for _ in 0..ROUNDS {
        let work = attempt(node, config, request, operation, &http);
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = operation.token().cancelled() => return Err("it was cancelled; nothing was changed".into()),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(why) => {
                operation.says(format!("trying again: {why}"));
                if why != last {
                    tracing::warn!(why, "the majority's state could not be had yet");
                }
                last = why;
            }
        }
        tokio::time::sleep(BETWEEN_ROUNDS).await;
    }
    Err(last)
}

async fn attempt(
    node: &Node,
    config: &Config,
    request: &Request,
    operation: &Operation,
    http: &PeerHttp,
) -> Result<(), String> {
    operation.says("asking the peers for their checksums");
    let (voters, told, leader) = ask(node, config, http).await?;
    let agreed = majority(voters, &told)?;
    let source =
        agreed.nodes.iter().find(|id| leader.as_ref() == Some(id)).unwrap_or(&agreed.nodes[0]).clone();
    let address = address_of(node, config, &source).ok_or(format!("the address of {source} is not known"))?;
    operation.says(format!("{source} writes a snapshot"));
    let body = serde_json::json!({});
    let name: SnapshotName = http.post(&address, SNAPSHOT_NOW_PATH, &body, SNAPSHOT_LIMIT).await?;
    if name.index < agreed.index {
        return Err(format!("{source} gave a snapshot of index {}, older than {}", name.index, agreed.index));
    }
    operation.says(format!("fetching the state of {source} at index {}, {} bytes", name.index, name.bytes));
    let snapshots = Snapshots::new(&folder(&config.data_dir));
    snapshots.fetch(http, &address, &name).await.map_err(|e| e.to_string())?;
    let (reader, wanted) = (snapshots.clone(), name.clone());
    let machine = tokio::task::spawn_blocking(move || reader.read(&wanted).map_err(|e| e.to_string()));
    let machine = machine.await.map_err(|e| e.to_string())??;
    confirm(&machine, &agreed)?;
    let own = node.machine().state_checksum();
    let log_folder = config.data_dir.join("raft");
    let judged = tokio::task::spawn_blocking(move || log_end::judge(&log_folder));
    let damaged = match judged.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())? {
        LogEnd::Damaged { file, offset, why } => Some(format!("{} at byte {offset}: {why}", file.display())),
        LogEnd::Whole | LogEnd::Torn { .. } => None,
    };
    let plan = Plan {
        version: PLAN_VERSION,
        snapshot: name,
        source,
        new_incarnation: damaged.or_else(|| log_differs(&own, &agreed)),
        majority: agreed,
        keep_database: request.keep_database,
        why: request.why.clone(),
    };
    failpoint!("sync_before_plan");
    write(&config.data_dir, "plan.json", &plan)?;
    failpoint!("sync_after_plan");
    Ok(())
}

/// The snapshot is that of the majority: it remembers what they said.
fn confirm(machine: &Machine, agreed: &Agreed) -> Result<(), String> {
    let sums = machine.state_checksum();
    let now = sums.applied_index == agreed.index
        && sums.checksum == agreed.checksum
        && sums.log_chain == agreed.log_chain;
    let then = sums
        .checkpoints
        .iter()
        .any(|c| c.index == agreed.index && c.checksum == agreed.checksum && c.log_chain == agreed.log_chain);
    match now || then {
        true => Ok(()),
        false => Err(format!(
            "the snapshot of index {} does not remember checksum {} at index {}, on which the majority agrees",
            sums.applied_index, agreed.checksum, agreed.index
        )),
    }
}

type Told = (usize, Vec<(String, StateChecksum)>, Option<String>);

/// How many voters there are, what the others say, and who leads.
async fn ask(node: &Node, config: &Config, http: &PeerHttp) -> Result<Told, String> {
    let own_id = node.node_id().to_owned();
    let mut addresses: Vec<String> = config.peers.iter().map(crate::config::Peer::address).collect();
    addresses
        .extend(node.members().0.iter().filter(|id| **id != own_id).filter_map(|id| node.address_of(id)));
    addresses.sort();
    addresses.dedup();
    let (mut told, mut voters, mut leader, mut term) = (Vec::new(), Vec::new(), None, 0);
    let mut clusters = Vec::new();
    for address in addresses {
        let Ok(status) = http.get::<Status>(&address, "/api/status").await else { continue };
        if status.node_id == own_id || told.iter().any(|(id, _)| *id == status.node_id) {
            continue;
        }
        let Ok(sums) = http.get::<StateChecksum>(&address, "/api/health/state_checksum").await else {
            continue;
        };
        clusters.extend(status.cluster_id);
        if status.term >= term && status.current_leader.is_some() {
            (term, leader) = (status.term, status.current_leader);
        }
        if status.voters.len() > voters.len() {
            voters = status.voters;
        }
        told.push((status.node_id, sums));
    }
    clusters.extend(node.cluster_id());
    clusters.sort();
    clusters.dedup();
    if clusters.len() > 1 {
        return Err(format!(
            "the peers belong to different clusters ({}); nothing is replaced",
            clusters.join(", ")
        ));
    }
    told.retain(|(id, _)| voters.contains(id));
    Ok((voters.len().max(node.members().0.len()), told, leader))
}

fn address_of(node: &Node, config: &Config, node_id: &str) -> Option<String> {
    let configured = config.peers.iter().find(|peer| peer.id.as_deref() == Some(node_id));
    node.address_of(node_id).or_else(|| configured.map(crate::config::Peer::address))
}

/// What the start has to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// There was no plan, or it came to nothing; everything is as it was.
    Nothing,
    /// The state was replaced.
    Swapped,
    /// The node is a new one and joins its cluster like one.
    NewIncarnation,
}

/// Puts a plan aside that can't be carried out: the node starts with what it has.
pub fn give_up(data_dir: &Path, why: &str) {
    tracing::error!(why, "the state was not replaced; the node starts with what it has");
    let plan = folder(data_dir).join("plan.json");
    if let Err(error) = std::fs::rename(&plan, plan.with_extension("failed")) {
        tracing::error!(%error, "the plan could not be put aside; it is tried again at the next start");
    }
}

/// Carries out the plan that lies there, if any. Nothing else may be open.
pub fn finish(config: &Config, identity: &mut Identity, flag: bool) -> Result<Finished, String> {
    let data_dir = &config.data_dir;
    let Some(mut plan) = read::<Plan>(data_dir, "plan.json")? else { return Ok(Finished::Nothing) };
    if plan.version != PLAN_VERSION {
        return Err(format!(
            "the plan to replace the state has version {}, this program knows {PLAN_VERSION}: ask for it again",
            plan.version
        ));
    }
    let own = Snapshots::new(data_dir);
    let fetched = Snapshots::new(&folder(data_dir));
    let name = plan.snapshot.clone();
    let name = &name;
    let (from, to) = match (fetched.path(&name.file), own.path(&name.file)) {
        (Some(from), Some(to)) => (from, to),
        _ => return Err(format!("the plan names `{}`, which is no snapshot", name.file)),
    };
    let finished = match &plan.new_incarnation {
        Some(_) => Finished::NewIncarnation,
        None => match log_end::judge(&data_dir.join("raft")).map_err(|e| e.to_string())? {
            LogEnd::Whole => swap(data_dir, name, &from, &to)?,
            LogEnd::Damaged { .. } => Finished::NewIncarnation,
            LogEnd::Torn { .. } => {
                tracing::warn!(
                    "the log's end was torn meanwhile; the node catches up first, ask for the synchronisation again"
                );
                remove(data_dir, "plan.json")?;
                return Ok(Finished::Nothing);
            }
        },
    };
    let renews = finished == Finished::NewIncarnation;
    if renews && plan.new_incarnation.is_none() {
        // A crash from here on must not end with the state under the new one's empty log.
        plan.new_incarnation = Some("its log was found not to be the majority's".into());
        write(data_dir, "plan.json", &plan)?;
    }
    // A database that a log of another history has written goes with the log, whoever asked. What it had
    // is in its peers' databases, from where it comes again.
    let mut leaving = match plan.keep_database && !renews {
        true => Vec::new(),
        false => crate::store::files_of(&config.db_path()),
    };
    if !renews {
        leaving.extend(others(&data_dir.join("snapshots"), &name.file));
    }
    let root = data_dir.join("quarantine");
    let why = format!("replaced by the state of {} at index {}: {}", plan.source, name.index, plan.why);
    let moved = quarantine(&leaving, &root, "force-sync", &why).map_err(|e| format!("quarantine: {e}"))?;
    let quarantined = moved.map(|path| path.display().to_string());
    if renews {
        // Log and snapshots go into quarantine with it.
        identity.renew(&plan.why).map_err(|e| e.to_string())?;
    }
    let (source, at) = (plan.source.clone(), jiff::Timestamp::now());
    failpoint!("sync_before_done");
    write(data_dir, "done.json", &Done { flag, snapshot_index: name.index, source, quarantined, at })?;
    failpoint!("sync_after_done");
    remove(data_dir, "plan.json")?;
    // What was fetched has been taken over, or is not needed by a node that joins anew.
    let _ = std::fs::remove_dir_all(folder(data_dir).join("snapshots"));
    tracing::info!(
        source = %plan.source,
        index = name.index,
        agreed = ?plan.majority.nodes,
        new_incarnation = renews,
        "the state was replaced by that of the majority; what was there is in quarantine"
    );
    Ok(finished)
}

/// Puts the fetched state into its place and has the log name it. The log can't stay where it is not
/// the majority's: then the node has to be a new one, and nothing was changed.
fn swap(data_dir: &Path, name: &SnapshotName, from: &Path, to: &Path) -> Result<Finished, String> {
    let lies_in = if from.exists() { folder(data_dir) } else { data_dir.to_owned() };
    let machine = Snapshots::new(&lies_in).read(name).map_err(|e| e.to_string())?;
    let log = RaftLog::open(&data_dir.join("raft")).map_err(|e| e.to_string())?;
    let points: Vec<_> = machine.checkpoints().map(|point| (point.index, point.log_chain)).collect();
    if let Some(why) = log.departs_from(&points)? {
        tracing::error!(
            why,
            "the log is not the majority's and can't be kept; the node comes back as a new one"
        );
        return Ok(Finished::NewIncarnation);
    }
    if from.exists() {
        std::fs::create_dir_all(data_dir.join("snapshots")).map_err(|e| e.to_string())?;
        // An old file of that name, of the same index, is the one to be replaced.
        if to.exists() {
            let moved = with_suffix(to, ".replaced");
            std::fs::rename(to, &moved).map_err(|e| format!("{}: {e}", to.display()))?;
        }
        std::fs::rename(from, to).map_err(|e| format!("{}: {e}", to.display()))?;
        let folder = std::fs::File::open(data_dir.join("snapshots")).and_then(|f| f.sync_all());
        folder.map_err(|e| e.to_string())?;
    }
    failpoint!("sync_before_log");
    log.replace_state(&named(name, &machine))?;
    failpoint!("sync_after_log");
    Ok(Finished::Swapped)
}

/// Raft's own message about the snapshot.
fn named(name: &SnapshotName, machine: &Machine) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (name.index, name.term);
    metadata.set_conf_state(machine.members().conf_state());
    snapshot.data = serde_json::to_vec(name).unwrap_or_default().into();
    snapshot
}

/// The other files of the snapshot folder.
fn others(folder: &Path, keep: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name != keep))
        .collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::identity::Founding;
    use crate::store::{Store, StoreOptions};
    use api::cluster::CheckpointRecord;

    fn sums(points: &[(u64, &str)]) -> StateChecksum {
        let (last, before) = points.split_last().unwrap();
        let record = |(index, text): &(u64, &str)| CheckpointRecord {
            index: *index,
            checksum: (*text).into(),
            log_chain: format!("log-{index}"),
        };
        StateChecksum {
            checksum: last.1.into(),
            applied_index: last.0,
            term: 1,
            log_chain: format!("log-{}", last.0),
            checkpoints: before.iter().map(record).collect(),
            integrity: None,
        }
    }

    fn told(nodes: &[(&str, &[(u64, &str)])]) -> Vec<(String, StateChecksum)> {
        nodes.iter().map(|(id, points)| ((*id).to_owned(), sums(points))).collect()
    }

    #[test]
    fn divergence_blames_the_minority() {
        let told = told(&[
            ("n2", &[(256, "a"), (512, "b"), (600, "c")]),
            ("n3", &[(256, "a"), (512, "b"), (700, "d")]),
        ]);
        let agreed = majority(3, &told).unwrap();
        assert_eq!((agreed.index, agreed.checksum.as_str()), (512, "b"));
        assert_eq!(agreed.nodes, ["n2", "n3"]);
    }

    /// While much is written, two nodes that happen to be at one index are past it in a moment.
    #[test]
    fn what_is_remembered_goes_before_where_they_stand() {
        let told = told(&[
            ("n2", &[(256, "a"), (512, "b"), (600, "c")]),
            ("n3", &[(256, "a"), (512, "b"), (600, "c")]),
        ]);
        assert_eq!(majority(3, &told).unwrap().index, 512);
    }

    #[test]
    fn without_a_majority_nothing_is_replaced() {
        let one = told(&[("n2", &[(256, "a"), (512, "b")])]);
        assert!(majority(3, &one).unwrap_err().contains("no majority of the 3 voters"));
        let differ = told(&[("n2", &[(256, "a"), (512, "b")]), ("n3", &[(256, "x"), (512, "y")])]);
        assert!(majority(3, &differ).is_err());
        assert!(majority(3, &[]).unwrap_err().contains("nobody"));
        // One node's checkpoint and present state at one index are one voice.
        let twice = told(&[("n2", &[(512, "b"), (512, "b")])]);
        assert!(majority(3, &twice).is_err());
    }

    #[test]
    fn a_log_of_another_chain_is_not_kept() {
        let agreed = majority(3, &told(&[("n2", &[(512, "b")]), ("n3", &[(512, "b")])])).unwrap();
        assert_eq!(log_differs(&sums(&[(512, "other state")]), &agreed), None);
        assert_eq!(log_differs(&sums(&[(511, "other state")]), &agreed), None);
        let mut own = sums(&[(512, "b")]);
        own.log_chain = "torn".into();
        assert!(log_differs(&own, &agreed).unwrap().contains("torn"));
    }

    #[test]
    fn a_flag_that_stays_is_no_new_request() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path();
        assert!(asked_by_flag(data_dir, true).unwrap());
        let done = |flag| Done {
            flag,
            snapshot_index: 7,
            source: "n2".into(),
            quarantined: None,
            at: jiff::Timestamp::now(),
        };
        write(data_dir, "done.json", &done(false)).unwrap();
        assert!(asked_by_flag(data_dir, true).unwrap(), "another request was done before");
        write(data_dir, "done.json", &done(true)).unwrap();
        assert!(!asked_by_flag(data_dir, true).unwrap());
        assert!(!asked_by_flag(data_dir, true).unwrap());
        assert!(!asked_by_flag(data_dir, false).unwrap());
        assert!(asked_by_flag(data_dir, true).unwrap(), "it was off in between");
    }

    /// A founded node with a database of its own, and a plan to replace its state.
    fn planned(data_dir: &Path, new_incarnation: Option<&str>, keep_database: bool) -> (Config, Identity) {
        let config = serde_json::json!({"node_id": "n1", "host": "127.0.0.1", "data_dir": data_dir});
        let config: Config = serde_json::from_value(config).unwrap();
        let mut identity = Identity::open(data_dir, "n1").unwrap();
        let founding = Founding { cluster_id: "c".into(), members: vec![], machine_version: 1 };
        identity.accept(&founding).unwrap();
        identity.set_founded().unwrap();
        let raft = data_dir.join("raft");
        std::fs::create_dir(&raft).unwrap();
        let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/log-1.raftlog");
        std::fs::copy(log, raft.join("0000000000000001.raftlog")).unwrap();
        Store::open(config.db_path(), StoreOptions::default()).unwrap().0.close();
        let name = serde_json::json!({"file": "00000000000000000007-00.snapshot", "index": 7, "term": 7,
            "bytes": 1, "hash": "0"});
        let plan = Plan {
            version: 1,
            snapshot: serde_json::from_value(name).unwrap(),
            source: "n2".into(),
            majority: Agreed { nodes: vec![], index: 7, checksum: "0".into(), log_chain: "0".into() },
            new_incarnation: new_incarnation.map(str::to_owned),
            keep_database,
            why: "a test".into(),
        };
        write(data_dir, "plan.json", &plan).unwrap();
        (config, identity)
    }

    fn databases_in_quarantine(data_dir: &Path) -> usize {
        let folders = data_dir.join("quarantine").read_dir().into_iter().flatten().flatten();
        folders.filter(|folder| folder.path().join("coordinator.duckdb").exists()).count()
    }

    #[test]
    fn the_database_of_another_history_goes_with_its_log() {
        for keep_database in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let data_dir = folder.path();
            let (config, mut identity) = planned(data_dir, Some("another chain"), keep_database);
            let old = identity.incarnation().to_owned();
            assert_eq!(finish(&config, &mut identity, false), Ok(Finished::NewIncarnation));
            assert_ne!(identity.incarnation(), old);
            assert!(!config.db_path().exists() && !data_dir.join("raft").exists());
            assert_eq!(databases_in_quarantine(data_dir), 1);
            assert_eq!(finish(&config, &mut identity, false), Ok(Finished::Nothing));
            // The one that takes its place begins at nothing, and so takes in what the peers have.
            let (store, index) = Store::open(config.db_path(), StoreOptions::default()).unwrap();
            assert_eq!(index, 0);
            store.close();
        }
    }

    #[test]
    fn a_plan_of_another_version_is_put_aside_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (config, mut identity) = planned(folder.path(), Some("another chain"), false);
        let mut plan: Plan = read(folder.path(), "plan.json").unwrap().unwrap();
        plan.version = 2;
        write(folder.path(), "plan.json", &plan).unwrap();
        let why = finish(&config, &mut identity, false).unwrap_err();
        assert!(why.contains("has version 2, this program knows 1"), "{why}");
        assert!(config.db_path().exists() && folder.path().join("raft").exists(), "nothing was touched");
        give_up(folder.path(), &why);
        assert_eq!(finish(&config, &mut identity, false), Ok(Finished::Nothing));
    }

    #[test]
    fn another_programs_file_in_the_databases_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (config, mut identity) = planned(folder.path(), Some("another chain"), false);
        std::fs::remove_file(folder.path().join("coordinator.duckdb.owner")).unwrap();
        assert_eq!(finish(&config, &mut identity, false), Ok(Finished::NewIncarnation));
        assert!(config.db_path().exists());
    }

    #[test]
    fn a_log_found_damaged_at_the_end_is_remembered_before_anything_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path();
        let (config, mut identity) = planned(data_dir, None, false);
        let log = data_dir.join("raft/0000000000000001.raftlog");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        // Something breaks off half-way; the next start must not put the state under an empty log.
        std::fs::write(data_dir.join("quarantine"), b"in the way").unwrap();
        let old = identity.incarnation().to_owned();
        let why = finish(&config, &mut identity, false).unwrap_err();
        assert!(why.contains("quarantine"), "{why}");
        assert_eq!(identity.incarnation(), old);
        let plan: Plan = read(data_dir, "plan.json").unwrap().unwrap();
        assert!(plan.new_incarnation.is_some(), "{plan:?}");
        std::fs::remove_file(data_dir.join("quarantine")).unwrap();
        assert_eq!(finish(&config, &mut identity, false), Ok(Finished::NewIncarnation));
        assert_eq!(databases_in_quarantine(data_dir), 1);
    }
}
