//! Every point at which a coordinator can be ended is reached, and whatever the step behind it,
//! nothing acknowledged is lost and nothing is doubled.
//!
//! These tests build the program with failpoints themselves, so that they never run an old one.

use api::admin::Verified;
use api::client::Repeat;
use api::cluster::{Health, HealthStatus, Role};
use api::task::{PAGE_MAX, TaskPage};
use api::{Client, ClientError, ErrorCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::chaos::injure;
use testbed::chaos::points::{self, Point, Stir, When};
use testbed::cluster::READY_LIMIT;
use testbed::load::Writers;
use testbed::{Cluster, judge, wait};

const NODES: usize = 3;
const PACE: Duration = Duration::from_millis(10);
/// Of a load that only has to be there: a state that grows fast makes every rebuild long.
const UNHURRIED: Duration = Duration::from_millis(100);
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// Until a database that was lost holds everything again, and was checked.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

async fn await_progress(writers: &Writers, before: &str) {
    let goal = writers.acknowledged() + 10;
    let what = format!("10 acknowledgements before {before}");
    let awaited = wait::until(&what, PROGRESS_LIMIT, || async {
        let now = writers.acknowledged();
        if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
    });
    awaited.await.unwrap();
}

/// The cluster still takes writes; then what was acknowledged is there, once, and all nodes agree.
async fn end_whole(cluster: &Cluster, writers: Writers) {
    await_progress(&writers, "the end").await;
    let told = writers.finish().await;
    let verdict = judge::all(cluster, &told).await.unwrap();
    assert!(verdict.is_clean(), "{verdict:#?}");
}

#[test]
fn every_point_is_reached_and_nothing_acknowledged_is_lost() {
    runtime().block_on(async {
        let binaries = points::build().unwrap();
        let mut points = points::list(&binaries).unwrap();
        let here = [When::Start, When::Write, When::Snapshot, When::Install];
        points.retain(|p| here.contains(&p.when));
        let mut cluster = points::prepare(NODES, binaries).unwrap();
        cluster.start_all().await.unwrap();
        cluster.start_worker("zone=a", 4).await.unwrap();
        cluster.start_worker("zone=b", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), 4, UNHURRIED, judge::task).unwrap();
        for (number, point) in points.iter().enumerate() {
            await_progress(&writers, &point.name).await;
            let leader = cluster.leader(READY_LIMIT).await.unwrap();
            // Leader and followers in turn; votes and snapshots of peers are a follower's.
            let of_follower = point.when == When::Install || point.name.starts_with("hard_state");
            let victim = if of_follower || number % 2 == 0 { (leader + 1) % NODES } else { leader };
            println!("{} at {}", cluster.place(victim).id, point.name);
            points::end_at(&mut cluster, victim, point).await.unwrap();
            cluster.start_node(victim).unwrap();
            cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        }
        end_whole(&cluster, writers).await;
    });
}

/// Every file below a node's quarantine.
fn quarantined(data_dir: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![data_dir.join("quarantine")]);
    while let Some(folder) = folders.pop() {
        for path in folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path)),
            }
        }
    }
    found
}

/// What is known of a node before a repair of it breaks off.
struct Before {
    index: usize,
    data_dir: PathBuf,
    incarnation: String,
    /// What it noted of the last time its state was replaced.
    done: Option<Vec<u8>>,
    /// The log's newest file, and what is in it.
    log: (PathBuf, Vec<u8>),
    database: Vec<u8>,
    quarantined: BTreeSet<PathBuf>,
    /// Tasks that its database says have ended.
    ended: BTreeSet<String>,
    /// An epoch of the recovery lease under which it was called.
    epoch: u64,
}

impl Before {
    /// A node whose files have to stand still until they are damaged is ended.
    async fn of(cluster: &mut Cluster, index: usize, point: &Point) -> Before {
        let data_dir = cluster.place(index).data_dir.clone();
        let epoch = points::new_epoch(cluster, "before").await.unwrap();
        assert!(!is_stale(cluster, index, epoch).await, "before {}", point.name);
        let ended = wait::until(&format!("a task that ended before {}", point.name), READY_LIMIT, || async {
            let ended = ended(cluster, index).await?;
            if ended.is_empty() { Err("none".to_owned()) } else { Ok(ended) }
        })
        .await
        .unwrap();
        if matches!(point.when, When::Rejoin | When::Torn | When::Database) {
            cluster.kill9(index);
        }
        let log = injure::newest_log(&data_dir.join("raft")).unwrap();
        let bytes = std::fs::read(&log).unwrap();
        Before {
            index,
            incarnation: incarnation_of(&data_dir),
            done: last_done(&data_dir),
            log: (log, bytes),
            database: std::fs::read(data_dir.join("coordinator.duckdb")).unwrap(),
            quarantined: quarantined(&data_dir),
            ended,
            epoch,
            data_dir,
        }
    }

    /// The files of names with this ending that came into quarantine since.
    fn newly_quarantined(&self, ending: &str) -> Vec<Vec<u8>> {
        let now = quarantined(&self.data_dir);
        let since = now.difference(&self.quarantined);
        let named = since.filter(|path| path.to_string_lossy().ends_with(ending));
        named.map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// The repair is finished or was never begun, now that the node is ready again.
    async fn is_over(&self, cluster: &Cluster, point: &Point, broken: &Broken) {
        let name = &point.name;
        let incarnation = incarnation_of(&self.data_dir);
        assert_eq!(incarnation != self.incarnation, point.when == When::Rejoin, "{name}");
        assert_eq!(incarnation, broken.incarnation, "{name}: it is renewed once");
        let planned = point.when == When::Sync && name != "sync_before_plan";
        assert_eq!(last_done(&self.data_dir) != self.done, planned, "{name}");
        assert!(!self.data_dir.join("force_sync/plan.json").exists(), "{name}");
        match point.when {
            When::Rejoin => {
                let logs = self.newly_quarantined(".raftlog");
                let alike = logs.iter().filter(|log| differing_bytes(log, &self.log.1) == Some(1));
                assert_eq!(alike.count(), 1, "{name}: the damaged log is kept, once");
                await_voters(cluster, self.index).await;
            }
            When::Torn => self.is_cut_once(name, broken),
            When::Database => {
                let databases = self.newly_quarantined("coordinator.duckdb");
                let alike = databases.iter().filter(|kept| {
                    differing_bytes(kept, &self.database) == Some(points::DATABASE_HEADER_BYTES)
                });
                assert_eq!((alike.count(), databases.len()), (1, 1), "{name}: the damaged one is kept, once");
            }
            When::Fence => {
                assert!(is_stale(cluster, self.index, self.epoch - 1).await, "{name}: an older epoch");
                let renamed = name == "fence_after_rename";
                let stale = is_stale(cluster, self.index, self.epoch).await;
                assert_eq!(stale, renamed, "{name}: the epoch before the one that was being remembered");
            }
            _ => {}
        }
        self.holds_all(cluster, name).await;
    }

    /// What was cut is the torn record and nothing else, and it is kept. A copy is made before anything
    /// is cut, so that one more is there where it broke off in between.
    fn is_cut_once(&self, name: &str, broken: &Broken) {
        let pieces = self.newly_quarantined(".torn");
        assert_eq!(pieces.len(), if name == "cut_before" { 2 } else { 1 }, "{name}");
        let piece = &pieces[0];
        assert!(pieces.iter().all(|other| other == piece && !other.is_empty()), "{name}");
        let left = match name {
            "cut_after" => &broken.log[..],
            _ => broken.log.strip_suffix(&piece[..]).expect("the piece is the log's end"),
        };
        let (file, whole) = &self.log;
        let torn = [left, piece].concat();
        assert!(whole.starts_with(&torn) && torn.len() < whole.len(), "{name}: the piece is what was cut");
        assert!(std::fs::read(file).unwrap().starts_with(left), "{name}: nothing more was cut");
    }

    /// The database holds every task that had ended, once, and the node finds nothing wrong with
    /// itself, what was left out of the check included.
    async fn holds_all(&self, cluster: &Cluster, name: &str) {
        let node = node_client(cluster, self.index);
        wait::until(&format!("a whole database after {name}"), WHOLE_LIMIT, || async {
            let now = ended(cluster, self.index).await?;
            let lacking = self.ended.difference(&now).count();
            if lacking > 0 {
                return Err(format!("{lacking} of {} tasks are lacking", self.ended.len()));
            }
            let verified = node.post("/api/admin/verify", &json!({}), Repeat::Idempotent).await;
            let verified: Verified = verified.map_err(|e| e.to_string())?;
            match verified.parts.iter().all(|part| part.sound && part.detail.is_empty()) {
                true => Ok(()),
                false => Err(format!("{verified:?}")),
            }
        })
        .await
        .unwrap();
    }
}

/// A node that ended at a point and was not started again.
struct Broken {
    incarnation: String,
    /// What is in the file that was the log's newest; nothing where that has gone.
    log: Vec<u8>,
}

impl Broken {
    fn of(before: &Before) -> Broken {
        let log = std::fs::read(&before.log.0).unwrap_or_default();
        Broken { incarnation: incarnation_of(&before.data_dir), log }
    }
}

fn incarnation_of(data_dir: &Path) -> String {
    let identity = std::fs::read(data_dir.join("identity.json")).unwrap();
    let identity: Value = serde_json::from_slice(&identity).unwrap();
    identity["incarnation"].as_str().expect("an incarnation").to_owned()
}

fn last_done(data_dir: &Path) -> Option<Vec<u8>> {
    std::fs::read(data_dir.join("force_sync/done.json")).ok()
}

/// None where the lengths differ.
fn differing_bytes(one: &[u8], other: &[u8]) -> Option<usize> {
    (one.len() == other.len()).then(|| one.iter().zip(other).filter(|(a, b)| a != b).count())
}

/// A client of that node alone.
fn node_client(cluster: &Cluster, index: usize) -> Client {
    cluster.client().unwrap().at(&cluster.place(index).address()).with_deadline(WHOLE_LIMIT)
}

/// The tasks that the node's own database says have ended; none of them twice.
async fn ended(cluster: &Cluster, index: usize) -> Result<BTreeSet<String>, String> {
    let node = node_client(cluster, index);
    let (mut found, mut after) = (BTreeSet::new(), String::new());
    loop {
        let path = format!("/api/results?consistency=local&limit={PAGE_MAX}{after}");
        let page: TaskPage = node.get(&path).await.map_err(|e| e.to_string())?;
        for task in page.tasks {
            assert!(found.insert(task.task_id.clone()), "{} ended twice", task.task_id);
        }
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(found),
        }
    }
}

/// True where the node refuses a call under this epoch as an old one. A call that passes does nothing.
async fn is_stale(cluster: &Cluster, index: usize, epoch: u64) -> bool {
    let call = json!({"epoch": epoch, "id": "none"});
    let node = node_client(cluster, index);
    let answer = node.post::<_, Value>("/api/admin/cancel_operations", &call, Repeat::Idempotent).await;
    match answer.as_ref().map_err(ClientError::code) {
        Err(Some(ErrorCode::StaleEpoch)) => true,
        Err(Some(ErrorCode::InvalidState)) => false,
        _ => panic!("epoch {epoch}: {answer:?}"),
    }
}

/// Waits until every node is a voter again, also to this one's knowledge.
async fn await_voters(cluster: &Cluster, index: usize) {
    wait::until("every node to be a voter again", READY_LIMIT, || async {
        let status = cluster.status(index).await?;
        let voters = status.voters.len() == NODES && status.voters.contains(&status.node_id);
        if voters && status.learners.is_empty() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap();
}

/// A node that ends while it replaces its state, begins anew, cuts a torn log, puts a database aside
/// or remembers an epoch is whole at its next start, whether the step was done or not: what was asked
/// for is finished, or was never begun.
#[test]
fn a_repair_that_broke_off_is_finished_or_was_never_begun() {
    runtime().block_on(async {
        let binaries = points::build().unwrap();
        let mut points = points::list(&binaries).unwrap();
        let here = [When::Sync, When::Rejoin, When::Torn, When::Database, When::Fence];
        points.retain(|p| here.contains(&p.when));
        assert_eq!(points.len(), 17, "{points:?}");
        let mut cluster = points::prepare(NODES, binaries).unwrap();
        cluster.start_all().await.unwrap();
        cluster.start_worker("", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), 2, UNHURRIED, judge::task).unwrap();
        for point in &points {
            await_progress(&writers, &point.name).await;
            let leader = cluster.leader(READY_LIMIT).await.unwrap();
            let victim = (leader + 1) % NODES;
            println!("{} at {}", cluster.place(victim).id, point.name);
            let before = Before::of(&mut cluster, victim, point).await;
            points::end_at(&mut cluster, victim, point).await.unwrap();
            let broken = Broken::of(&before);
            cluster.start_node(victim).unwrap();
            cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
            before.is_over(&cluster, point, &broken).await;
        }
        end_whole(&cluster, writers).await;
    });
}

/// A thread of the leader hangs, and nothing else of it: another leads, writes go on, the node says
/// of itself what is stuck, and is whole again when it goes on.
#[test]
fn a_stuck_thread_of_the_leader_moves_leadership_and_shows() {
    runtime().block_on(async {
        let mut cluster = points::prepare(NODES, points::build().unwrap()).unwrap();
        cluster.start_all().await.unwrap();
        cluster.start_worker("", 4).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), 4, PACE, judge::task).unwrap();
        for (point, check) in
            [("apply_before", "apply"), ("log_before_write", "log"), ("turn_before_tick", "raft")]
        {
            await_progress(&writers, point).await;
            let stuck = cluster.leader(READY_LIMIT).await.unwrap();
            let term = cluster.status(stuck).await.unwrap().term;
            points::arm_with(&cluster, stuck, point, "pause").unwrap();
            wait::until(&format!("another leader while {point} hangs"), PROGRESS_LIMIT, || async {
                for index in (0..NODES).filter(|index| *index != stuck) {
                    let status = cluster.status(index).await?;
                    if status.role == Role::Leader && status.term > term {
                        return Ok(());
                    }
                }
                Err("none of the others leads".into())
            })
            .await
            .unwrap();
            await_progress(&writers, "the end of the stall").await;
            shows(&cluster, stuck, check).await;
            points::disarm(&cluster, stuck);
            cluster.wait_ready(stuck, PROGRESS_LIMIT).await.unwrap();
        }
        end_whole(&cluster, writers).await;
    });
}

/// The live probe answers, and fails by this check alone.
async fn shows(cluster: &Cluster, index: usize, stuck: &str) {
    let live = cluster.place(index).url("/api/health/live");
    wait::until(&format!("the live probe to see that {stuck} is stuck"), PROGRESS_LIMIT, || async {
        let answer = wait::http().get(&live).send().await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let health: Health = answer.json().await.map_err(|e| e.to_string())?;
        let failing: Vec<&str> = health
            .checks
            .iter()
            .filter(|check| check.status == HealthStatus::Failing)
            .map(|check| check.name.as_str())
            .collect();
        if status == 503 && failing == [stuck] { Ok(()) } else { Err(format!("{status}: {health:?}")) }
    })
    .await
    .unwrap();
}

/// Founds a cluster of which `victim` ends at `point`, and sees it come to be all the same.
async fn found(binaries: Binaries, victim: usize, point: &Point) {
    let mut cluster = points::prepare(NODES, binaries).unwrap();
    points::arm(&cluster, victim, &point.name).unwrap();
    for index in 0..NODES {
        cluster.start_node(index).unwrap();
    }
    points::await_end(&mut cluster, victim, &point.name, Stir::Nothing).await.unwrap();
    points::disarm(&cluster, victim);
    cluster.start_node(victim).unwrap();
    cluster.wait_all_ready(READY_LIMIT).await.unwrap();
    one_cluster(&cluster).await;
}

async fn one_cluster(cluster: &Cluster) {
    let mut ids = Vec::new();
    for index in 0..cluster.len() {
        ids.push(cluster.status(index).await.unwrap().cluster_id);
    }
    assert!(ids[0].is_some() && ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
}

/// Runs a command that ends at this point, if any.
fn run(command: &mut Command, point: Option<&str>) -> Output {
    let armed = point.map(|name| format!("{name}=panic")).unwrap_or_default();
    command.env_remove("HOLDFAST_FAILPOINTS_FILE").env("FAILPOINTS", armed).output().unwrap()
}

fn restore(program: &Path, archive: &Path, config: &Path, point: Option<&str>) -> Output {
    let mut command = Command::new(program);
    command.args(["restore", "--quarantine-existing", "--backup"]).arg(archive).arg("--config").arg(config);
    run(&mut command, point)
}

fn recover_quorum(program: &Path, data_dir: &Path, point: Option<&str>) -> Output {
    let mut command = Command::new(program);
    command.args(["recover-quorum", "--found", "--data-dir"]).arg(data_dir);
    run(&mut command, point)
}

/// Before the new identity is written the old node is untouched and the same command does it; from
/// then on the node's next start finishes it.
#[test]
fn a_new_cluster_of_a_survivor_that_broke_off_is_finished_or_done_again() {
    runtime().block_on(async {
        let binaries = points::build().unwrap();
        let program = binaries.path(points::PROGRAM).unwrap();
        let mut points = points::list(&binaries).unwrap();
        points.retain(|p| matches!(p.when, When::Recover | When::Rejoin));
        assert_eq!(points.len(), 5, "{points:?}");
        let mut cluster = points::prepare(1, binaries).unwrap();
        cluster.start_all().await.unwrap();
        let client = cluster.client().unwrap().with_deadline(READY_LIMIT);
        let data_dir = cluster.place(0).data_dir.clone();
        for point in &points {
            let before = cluster.status(0).await.unwrap().cluster_id;
            let task = json!({"task_id": format!("at-{}", point.name), "type": "noop"});
            client.post::<_, Value>("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
            cluster.stop_node(0).unwrap();
            let identity = std::fs::read(data_dir.join("identity.json")).unwrap();
            let broken = recover_quorum(&program, &data_dir, Some(&point.name));
            assert!(!broken.status.success(), "{} was not reached: {broken:?}", point.name);
            let untouched = std::fs::read(data_dir.join("identity.json")).unwrap() == identity;
            assert_eq!(untouched, point.when == When::Recover, "{}", point.name);
            if untouched {
                let again = recover_quorum(&program, &data_dir, None);
                assert!(again.status.success(), "after {}: {again:?}", point.name);
            }
            cluster.start_node(0).unwrap();
            cluster.wait_ready(0, READY_LIMIT).await.unwrap();
            assert_ne!(cluster.status(0).await.unwrap().cluster_id, before, "{}", point.name);
            assert!(!data_dir.join("recovered").exists(), "{}", point.name);
        }
        for point in &points {
            client.get::<Value>(&format!("/api/tasks/at-{}", point.name)).await.unwrap();
        }
    });
}

/// A restore that broke off is no node; the same command again makes it one.
#[test]
fn a_restore_that_broke_off_is_done_again() {
    runtime().block_on(async {
        let binaries = points::build().unwrap();
        let program = binaries.path(points::PROGRAM).unwrap();
        let points = points::list(&binaries).unwrap();
        let mut cluster = points::prepare(1, binaries).unwrap();
        cluster.start_all().await.unwrap();
        let client = cluster.client().unwrap().with_deadline(READY_LIMIT);
        let task = |id: &str| json!({"task_id": id, "type": "noop"});
        client.post::<_, Value>("/api/tasks", &task("kept"), Repeat::Idempotent).await.unwrap();
        let (archive, config) = (cluster.folder().join("backup.tar"), cluster.place(0).config.clone());
        let mut backup = Command::new(&program);
        backup.args(["backup", "--coordinators", &cluster.place(0).address(), "--out"]).arg(&archive);
        let taken = backup.output().unwrap();
        assert!(taken.status.success(), "{taken:?}");
        for point in points.iter().filter(|p| p.when == When::Restore) {
            // Something that the restore takes away.
            client.post::<_, Value>("/api/tasks", &task("later"), Repeat::Idempotent).await.unwrap();
            cluster.stop_node(0).unwrap();
            let broken = restore(&program, &archive, &config, Some(&point.name));
            assert!(!broken.status.success(), "{} was not reached: {broken:?}", point.name);
            let whole = cluster.place(0).data_dir.join("identity.json").exists();
            let before_or_after = ["restore_before_clear", "restore_after_identity"];
            assert_eq!(whole, before_or_after.contains(&point.name.as_str()), "{}", point.name);
            let again = restore(&program, &archive, &config, None);
            assert!(again.status.success(), "after {}: {again:?}", point.name);
            cluster.start_node(0).unwrap();
            cluster.wait_ready(0, READY_LIMIT).await.unwrap();
            client.get::<Value>("/api/tasks/kept").await.unwrap();
            let later = client.get::<Value>("/api/tasks/later").await.unwrap_err();
            assert!(later.to_string().contains("later"), "{later}");
        }
    });
}

#[test]
fn a_cluster_is_founded_once_whoever_ends_in_between() {
    runtime().block_on(async {
        let binaries = points::build().unwrap();
        let points = points::list(&binaries).unwrap();
        // node-1 founds, node-2 accepts.
        for point in points.iter().filter(|p| p.when == When::Founding) {
            let both = point.name.ends_with("accept");
            for victim in if both { 0..2 } else { 0..1 } {
                println!("node-{} at {}", victim + 1, point.name);
                found(binaries.clone(), victim, point).await;
            }
        }
    });
}
