//! Members that come, go, lose their disks and come back, with writers running.

use api::Client;
use api::client::Repeat;
use api::cluster::{AddMember, MemberChanged, Members, Role, Status};
use api::task::{NewTask, TaskPage};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::load::{Told, Writers};
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(120);
const PACE: Duration = Duration::from_millis(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn noop(_: u64) -> NewTask {
    serde_json::from_value(json!({"type": "noop"})).expect("a task")
}

async fn write(client: &Client, id: &str) {
    let task = json!({"task_id": id, "type": "noop"});
    let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
}

/// The members as the leader sees them.
async fn members(cluster: &Cluster) -> Result<Members, String> {
    let leader = cluster.leader(READY_LIMIT).await.map_err(|e| e.to_string())?;
    wait::get(&wait::http(), &cluster.place(leader).url("/api/cluster/members?consistency=local")).await
}

/// Waits until the leader has exactly these voters and nobody else.
async fn await_voters(cluster: &Cluster, indexes: &[usize]) {
    let wanted: BTreeSet<String> = indexes.iter().map(|i| cluster.place(*i).id.clone()).collect();
    wait::until(&format!("the voters {wanted:?}"), LIMIT, || async {
        let seen = members(cluster).await?;
        let voters: BTreeSet<String> =
            seen.members.iter().filter(|m| m.voter).map(|m| m.node_id.clone()).collect();
        let others = seen.members.iter().filter(|m| !m.voter).count();
        let sound = seen.members.iter().all(|m| m.reachable && m.lag_entries.is_some());
        match voters == wanted && others == 0 && !seen.joint && sound {
            true => Ok(()),
            false => Err(format!("{:?}", seen.members)),
        }
    })
    .await
    .unwrap();
}

async fn await_role(cluster: &Cluster, index: usize, role: Role) -> Status {
    wait::until(&format!("role {role} of {}", cluster.place(index).id), LIMIT, || async {
        let status = cluster.status(index).await?;
        if status.role == role {
            Ok(status)
        } else {
            Err(format!("{}: {:?}", status.role, status.role_detail))
        }
    })
    .await
    .unwrap()
}

/// Every acknowledged task is there.
async fn judge(cluster: &Cluster, told: &Told) {
    let client = cluster.client().unwrap().with_deadline(Duration::from_secs(30));
    let (mut found, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page: TaskPage =
            client.get(&format!("/api/tasks?limit={}{after}", api::task::PAGE_MAX)).await.unwrap();
        found.extend(page.tasks.into_iter().map(|t| t.task_id));
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let lost: Vec<_> = told.acknowledged.iter().filter(|(id, _)| !found.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// Watches for the longest time without an acknowledgement.
struct GapWatch {
    stop: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl GapWatch {
    fn start(writers: &Writers) -> GapWatch {
        let (stop, longest_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let count = writers.counter();
        let (end, longest) = (stop.clone(), longest_ms.clone());
        let task = tokio::spawn(async move {
            let (mut seen, mut since) = (count.load(Ordering::Relaxed), Instant::now());
            while !end.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let now = count.load(Ordering::Relaxed);
                longest.fetch_max(since.elapsed().as_millis() as u64, Ordering::Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
            }
        });
        GapWatch { stop, longest_ms, task }
    }

    /// The longest gap since the last call.
    fn lap(&self) -> u64 {
        self.longest_ms.swap(0, Ordering::Relaxed)
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.task.await;
    }
}

/// The coordinator's command line against this cluster, on a thread of its own.
async fn command(cluster: &Cluster, arguments: &[&str]) -> Output {
    let program = Binaries::find().unwrap().path("coordinator").unwrap();
    let mut command = std::process::Command::new(program);
    command.args(arguments).env("HOLDFAST_COORDINATORS", cluster.addresses().join(","));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Add, remove the leader, replace, restart all, lose a disk: five nodes, writers running.
#[test]
fn a_five_node_cluster_goes_through_every_change() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(5).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), 4, PACE, noop).unwrap();
        let gaps = GapWatch::start(&writers);
        let mut table = Vec::new();

        // A sixth node names the others and joins by itself; it is started with an empty directory.
        let sixth = cluster.lay_out_node().unwrap();
        cluster.start_node(sixth).unwrap();
        await_voters(&cluster, &[0, 1, 2, 3, 4, 5]).await;
        table.push(("add", gaps.lap()));

        // The leader is removed: it hands its office over first, and stays up.
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let id = cluster.place(leader).id.clone();
        let output = command(&cluster, &["members", "remove", &id]).await;
        assert!(output.status.success(), "{}", said(&output));
        let removed = await_role(&cluster, leader, Role::Removed).await;
        assert!(removed.role_detail.unwrap().contains("removed"), "it says why");
        let mut left: Vec<usize> = (0..6).filter(|i| *i != leader).collect();
        await_voters(&cluster, &left).await;
        table.push(("remove the leader", gaps.lap()));
        cluster.stop_node(leader).unwrap();

        // A new node takes the place of one that works, in one change.
        let seventh = cluster.lay_out_node().unwrap();
        cluster.start_node(seventh).unwrap();
        wait::until("the new node answers", LIMIT, || async { cluster.status(seventh).await.map(drop) })
            .await
            .unwrap();
        let old = left[0];
        let (old_id, address) = (cluster.place(old).id.clone(), cluster.place(seventh).address());
        let output = command(&cluster, &["members", "replace", &old_id, &address]).await;
        assert!(output.status.success(), "{}", said(&output));
        left.retain(|i| *i != old);
        left.push(seventh);
        await_voters(&cluster, &left).await;
        await_role(&cluster, old, Role::Removed).await;
        cluster.stop_node(old).unwrap();
        table.push(("replace", gaps.lap()));

        rolling_restart(&mut cluster, &left).await;
        table.push(("rolling restart", gaps.lap()));

        // A node loses its disk and comes back empty, under its name.
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let wiped = *left.iter().find(|i| **i != leader).unwrap();
        cluster.kill9(wiped);
        cluster.wipe(wiped).unwrap();
        cluster.start_node(wiped).unwrap();
        let status = cluster.status(wiped).await;
        await_voters(&cluster, &left).await;
        cluster.wait_ready(wiped, READY_LIMIT).await.unwrap();
        table.push(("wipe of one node", gaps.lap()));
        drop(status);

        gaps.end().await;
        let told = writers.finish().await;
        println!(
            "{} acknowledged, {} unknown, {} refused",
            told.acknowledged.len(),
            told.unknown.len(),
            told.refused.len()
        );
        for (what, longest_ms) in table {
            println!("longest gap between two writes, {what}: {longest_ms} ms");
        }
        judge(&cluster, &told).await;
        testbed::judge::await_equal(&cluster, &left).await.unwrap();
    });
}

/// A node joins, and gets its vote, by itself: whose place it takes may be said at any moment of that,
/// and more than once.
#[test]
fn a_node_that_joins_by_itself_takes_a_place_whenever_that_is_said() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let mut left = vec![0, 1, 2];
        for moment in ["it answers", "it is a member", "it votes", "it votes, and the leader is to go"] {
            let new = cluster.lay_out_node().unwrap();
            cluster.start_node(new).unwrap();
            let id = cluster.place(new).id.clone();
            wait::until(moment, LIMIT, || async {
                cluster.status(new).await?;
                let seen = members(&cluster).await?;
                let found = seen.members.iter().find(|m| m.node_id == id);
                let come = match moment {
                    "it answers" => true,
                    "it is a member" => found.is_some(),
                    _ => found.is_some_and(|m| m.voter) && !seen.joint,
                };
                if come { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await
            .unwrap();
            let leader = cluster.leader(READY_LIMIT).await.unwrap();
            let leader_goes = moment.ends_with("go");
            let old = *left.iter().find(|i| (**i == leader) == leader_goes).unwrap();
            let (old_id, address) = (cluster.place(old).id.clone(), cluster.place(new).address());
            let replace = ["members", "replace", old_id.as_str(), address.as_str()];
            let remove = ["members", "remove", old_id.as_str()];
            // Others that want the same get no other answer for being in the middle of it.
            let (one, other, third) =
                tokio::join!(command(&cluster, &replace), command(&cluster, &replace), async {
                    if leader_goes { None } else { Some(command(&cluster, &remove).await) }
                });
            assert!(one.status.success(), "{moment}: {}", said(&one));
            assert!(other.status.success(), "{moment}: {}", said(&other));
            if let Some(removed) = third {
                let gone_before = said(&removed).contains("unknown_member");
                assert!(removed.status.success() || gone_before, "{moment}: {}", said(&removed));
            }
            left.retain(|i| *i != old);
            left.push(new);
            await_voters(&cluster, &left).await;
            await_role(&cluster, old, Role::Removed).await;
            // Said again when it is done, it is done.
            let again = command(&cluster, &replace).await;
            assert!(again.status.success(), "{moment}: {}", said(&again));
            cluster.stop_node(old).unwrap();
        }
        testbed::judge::await_equal(&cluster, &left).await.unwrap();
    });
}

/// Runs `coordinator rolling-restart` with a command that asks this test to do it.
async fn rolling_restart(cluster: &mut Cluster, indexes: &[usize]) {
    let before: Vec<_> = indexes.iter().map(|i| cluster.pid(*i).unwrap()).collect();
    let folder = cluster.folder().join("restarts");
    std::fs::create_dir_all(&folder).unwrap();
    let shell = format!("touch {}/{{node}}", folder.display());
    let asked = {
        let (addresses, shell) = (cluster.addresses().join(","), shell.clone());
        let program = Binaries::find().unwrap().path("coordinator").unwrap();
        let mut command = std::process::Command::new(program);
        command.args(["rolling-restart", "--timeout-seconds", "100", "--command", &shell]);
        command.env("HOLDFAST_COORDINATORS", addresses);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    while !asked.is_finished() {
        for index in indexes {
            let wanted = folder.join(&cluster.place(*index).id);
            if wanted.exists() {
                std::fs::remove_file(&wanted).unwrap();
                cluster.stop_node(*index).unwrap();
                cluster.start_node(*index).unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = asked.await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for (index, pid) in indexes.iter().zip(before) {
        assert_ne!(cluster.pid(*index).unwrap(), pid, "{} was restarted", cluster.place(*index).id);
    }
}

/// Seven nodes: two die, one is taken out, one comes back empty.
#[test]
fn a_seven_node_cluster_loses_two_and_goes_on() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(7).await.unwrap();
        let writers = Writers::start(&cluster.addresses(), 2, PACE, noop).unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let mut dead = (0..7).filter(|i| *i != leader);
        let (gone, wiped) = (dead.next().unwrap(), dead.next().unwrap());
        cluster.kill9(gone);
        cluster.kill9(wiped);
        let client = cluster.client().unwrap();
        write(&client, "two are dead").await;
        let id = cluster.place(gone).id.clone();
        let output = command(&cluster, &["members", "remove", &id]).await;
        assert!(output.status.success(), "{}", said(&output));
        cluster.wipe(wiped).unwrap();
        cluster.start_node(wiped).unwrap();
        let left: Vec<usize> = (0..7).filter(|i| *i != gone).collect();
        await_voters(&cluster, &left).await;
        let told = writers.finish().await;
        judge(&cluster, &told).await;
        testbed::judge::await_equal(&cluster, &left).await.unwrap();

        // The one that was taken out while it was down is told so when it comes back.
        cluster.start_node(gone).unwrap();
        await_role(&cluster, gone, Role::Removed).await;
        let address = cluster.place(gone).address();
        let output = command(&cluster, &["members", "rejoin", &id, "--node", &address]).await;
        assert!(output.status.success(), "{}", said(&output));
        await_voters(&cluster, &[0, 1, 2, 3, 4, 5, 6]).await;
        testbed::judge::await_equal(&cluster, &[0, 1, 2, 3, 4, 5, 6]).await.unwrap();
    });
}

/// A node that joins behind a compacted log gets a snapshot that names it.
#[test]
fn a_node_that_joins_late_gets_a_snapshot() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        cluster.reconfigure_all(&json!({"snapshot_threshold": 20, "max_log_size": 60})).await.unwrap();
        let client = cluster.client().unwrap();
        for number in 0..200 {
            write(&client, &format!("task-{number}")).await;
        }
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        wait::until("the leader's log begins late", LIMIT, || async {
            let status = cluster.status(leader).await?;
            if status.first_log_index > 50 { Ok(()) } else { Err(format!("{}", status.first_log_index)) }
        })
        .await
        .unwrap();
        let fourth = cluster.lay_out_node().unwrap();
        cluster.start_node(fourth).unwrap();
        await_voters(&cluster, &[0, 1, 2, 3]).await;
        assert!(cluster.status(fourth).await.unwrap().snapshot_index > 0);
        testbed::judge::await_equal(&cluster, &[0, 1, 2, 3]).await.unwrap();
        // It begins again from what it has.
        cluster.kill9(fourth);
        cluster.start_node(fourth).unwrap();
        cluster.wait_ready(fourth, READY_LIMIT).await.unwrap();
        write(&client, "after").await;
        testbed::judge::await_equal(&cluster, &[0, 1, 2, 3]).await.unwrap();
    });
}

/// Lesson 23: nobody is taken out, and no vote is given, where a quorum would hang on it.
#[test]
fn rolling_reboot_keeps_quorum() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap().with_deadline(Duration::from_secs(5));
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let (down, other) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.kill9(down);
        wait::until("the leader misses one", LIMIT, || async {
            let seen = members(&cluster).await?;
            let missed = seen.members.iter().any(|m| m.node_id == cluster.place(down).id && !m.reachable);
            if missed { Ok(()) } else { Err(format!("{:?}", seen.members)) }
        })
        .await
        .unwrap();
        // A restart tool that asks is told to wait, and a removal of a working one is refused.
        let other_id = &cluster.place(other).id;
        let verdict: Value = client.get(&format!("/api/cluster/can_lose?node={other_id}")).await.unwrap();
        assert_eq!(verdict["can_lose"], false, "{verdict}");
        let output = command(&cluster, &["members", "remove", other_id]).await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("a quorum of 2 is 2"), "{}", said(&output));
        let output = command(
            &cluster,
            &["rolling-restart", "--nodes", other_id, "--timeout-seconds", "1", "--command", "false"],
        )
        .await;
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("the cluster can lose"), "{}", said(&output));
        write(&client, "still writable").await;
        cluster.start_node(down).unwrap();
        cluster.wait_ready(down, READY_LIMIT).await.unwrap();
        await_voters(&cluster, &[0, 1, 2]).await;
    });
}

/// Lesson 23 with the cleanup of dead members on: of five, two are away for longer than the
/// stabilisation time, and nobody goes, since one more could then not be lost. When one is back the
/// other goes; the rest reboot one by one. Writes go on all the time.
#[test]
fn a_dead_member_is_taken_out_only_where_a_spare_is_left() {
    const STABLE_MS: u64 = 60_000;
    runtime().block_on(async {
        let mut cluster = Cluster::start(5).await.unwrap();
        // Taken while the nodes run: nobody is taken out by a config of which nobody took notice.
        for index in 0..5 {
            let cleanup = json!({"dead_node_cleanup_seconds": STABLE_MS / 1000});
            let taken = cluster.reload(index, &cleanup).await.unwrap();
            assert_eq!(taken.applied, ["dead_node_cleanup_seconds"]);
        }
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let (dead, away) = ((leader + 1) % 5, (leader + 2) % 5);
        let writers = Writers::start(&cluster.addresses(), 2, PACE, noop).unwrap();
        cluster.kill9(dead);
        cluster.kill9(away);
        // Both silent for longer than the time, by the leader's own count, and both still voters.
        wait::until("two nodes to be away for long", 2 * LIMIT, || async {
            let seen = members(&cluster).await?;
            let voters = seen.members.iter().filter(|m| m.voter).count();
            assert_eq!(voters, 5, "with two away nobody may go: {:?}", seen.members);
            let silent = |index: usize| {
                let member = seen.members.iter().find(|m| m.node_id == cluster.place(index).id);
                member.and_then(|m| m.last_contact_ms).unwrap_or(0)
            };
            match silent(dead).min(silent(away)) > STABLE_MS + 5_000 {
                true => Ok(()),
                false => Err(format!("{} ms", silent(dead).min(silent(away)))),
            }
        })
        .await
        .unwrap();
        let before = writers.acknowledged();
        cluster.start_node(away).unwrap();
        let mut left: Vec<usize> = (0..5).filter(|i| *i != dead).collect();
        await_voters(&cluster, &left).await;
        cluster.wait_ready(away, READY_LIMIT).await.unwrap();
        // Four voters, all up: one may be away at a time, and nobody is taken for dead.
        left.rotate_left(1);
        for index in &left {
            cluster.stop_node(*index).unwrap();
            let goal = writers.acknowledged() + 20;
            wait::until("writes while one of four reboots", LIMIT, || async {
                let now = writers.acknowledged();
                if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
            })
            .await
            .unwrap();
            cluster.start_node(*index).unwrap();
            cluster.wait_ready(*index, READY_LIMIT).await.unwrap();
            await_voters(&cluster, &left).await;
        }
        assert!(writers.acknowledged() > before);
        let told = writers.finish().await;
        judge(&cluster, &told).await;
        testbed::judge::await_equal(&cluster, &left).await.unwrap();
        // Who was taken out is told so, whenever it comes back.
        cluster.start_node(dead).unwrap();
        await_role(&cluster, dead, Role::Removed).await;
    });
}

/// Lesson 2: equal ports on several hosts, and a list that names the node itself under another
/// name, must not make a node count its own vote twice.
#[test]
fn no_commit_without_majority() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        // Every node's list names itself as well, under another name of this machine and without
        // an id, so that only the answer tells who it is.
        for index in 0..3 {
            let path = cluster.place(index).config.clone();
            let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let own = json!({"host": "localhost", "port": cluster.place(index).port});
            config["peers"].as_array_mut().unwrap().push(own);
            std::fs::write(&path, config.to_string()).unwrap();
            cluster.stop_node(index).unwrap();
        }
        for index in 0..3 {
            cluster.wipe(index).unwrap();
            cluster.start_node(index).unwrap();
        }
        cluster.wait_all_ready(READY_LIMIT).await.unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let status = cluster.status(leader).await.unwrap();
        assert_eq!((status.voters.len(), status.peers.len()), (3, 2), "{status:?}");
        let client = cluster.client().unwrap();
        write(&client, "with a majority").await;
        (0..3).filter(|i| *i != leader).for_each(|i| cluster.kill9(i));
        let alone =
            Client::new([cluster.place(leader).address()]).unwrap().with_deadline(Duration::from_secs(5));
        let task = json!({"task_id": "alone", "type": "noop"});
        let told: Result<Value, _> = alone.post("/api/tasks", &task, Repeat::Never).await;
        assert!(told.is_err(), "one node of three acknowledged a write: {told:?}");
        let before = cluster.status(leader).await.unwrap();
        assert_ne!(before.role, Role::Leader, "it leads nobody");
        for index in 0..3 {
            cluster.start_node(index).unwrap();
        }
        cluster.wait_all_ready(READY_LIMIT).await.unwrap();
        testbed::judge::await_equal(&cluster, &[0, 1, 2]).await.unwrap();
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A directory that was put back to an older state is refused, and joins anew when told to.
#[test]
fn a_rolled_back_directory_is_refused() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        write(&client, "before").await;
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let victim = (leader + 1) % 3;
        let backup = cluster.folder().join("backup");
        let data = cluster.place(victim).data_dir.clone();
        cluster.stop_node(victim).unwrap();
        copy(&data, &backup);
        cluster.start_node(victim).unwrap();
        cluster.wait_ready(victim, READY_LIMIT).await.unwrap();
        for number in 0..20 {
            write(&client, &format!("task-{number}")).await;
        }
        cluster.kill9(victim);
        std::fs::remove_dir_all(&data).unwrap();
        copy(&backup, &data);
        cluster.start_node(victim).unwrap();
        let status = await_role(&cluster, victim, Role::Failed).await;
        let why = status.role_detail.unwrap();
        assert!(why.contains("older copy") || why.contains("rolled back"), "{why}");
        write(&client, "the others go on").await;
        let (id, address) = (cluster.place(victim).id.clone(), cluster.place(victim).address());
        let output = command(&cluster, &["members", "rejoin", &id, "--node", &address]).await;
        assert!(output.status.success(), "{}", said(&output));
        await_voters(&cluster, &[0, 1, 2]).await;
        testbed::judge::await_equal(&cluster, &[0, 1, 2]).await.unwrap();
        let kept = data.join("quarantine").read_dir().unwrap().next();
        assert!(kept.is_some(), "the old log is kept");
    });
}

/// Two processes on copies of one directory: one of them takes part, never both.
#[test]
fn a_cloned_directory_is_refused_while_the_node_runs() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        write(&client, "before").await;
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let twin_of = (leader + 1) % 3;
        let clone = cluster.lay_out_node().unwrap();
        copy(&cluster.place(twin_of).data_dir, &cluster.place(clone).data_dir);
        let path = cluster.place(clone).config.clone();
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["node_id"] = json!(cluster.place(twin_of).id);
        std::fs::write(&path, config.to_string()).unwrap();
        cluster.start_node(clone).unwrap();
        wait::until("the others refuse the clone", LIMIT, || async {
            let status: Status = cluster.status(clone).await?;
            let refused = status.peers.iter().filter(|p| !p.reachable);
            let told: Vec<String> = refused.filter_map(|p| p.error.clone()).collect();
            match told.iter().filter(|e| e.contains("two processes share one data directory")).count() {
                0 => Err(format!("{:?}: {told:?}", status.role)),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        for number in 0..20 {
            write(&client, &format!("task-{number}")).await;
        }
        assert_ne!(cluster.status(clone).await.unwrap().role, Role::Leader);
        cluster.kill9(clone);
        write(&client, "after").await;
        testbed::judge::await_equal(&cluster, &[0, 1, 2]).await.unwrap();
    });
}

/// Asking twice changes nothing; a second change while one is under way is refused by name; a
/// stranger from another cluster is not taken.
#[test]
fn changes_that_make_no_sense_are_refused_by_name() {
    runtime().block_on(async {
        let cluster = Cluster::start(3).await.unwrap();
        let client = cluster.client().unwrap();
        let body = |address: String| AddMember { address, replaces: None, learner: false };
        let again: MemberChanged = client
            .post("/api/cluster/members", &body(cluster.place(1).address()), Repeat::Never)
            .await
            .unwrap();
        assert_eq!((again.node_id.as_str(), again.index), ("node-2", None));
        let single = Cluster::start(1).await.unwrap();
        for (address, named) in [
            (single.place(0).address(), "belongs to cluster"),
            ("127.0.0.1:1".to_owned(), "does not say who it is"),
            ("nonsense".to_owned(), "does not say who it is"),
        ] {
            let told: Result<MemberChanged, _> =
                client.post("/api/cluster/members", &body(address), Repeat::Never).await;
            let told = told.unwrap_err().to_string();
            assert!(told.contains(named), "{told}");
        }
        let path = "/api/cluster/members/node-10";
        let told: Result<MemberChanged, _> =
            client.call(reqwest::Method::DELETE, path, None::<&()>, Repeat::Never).await;
        assert!(told.unwrap_err().to_string().contains("no member"), "node-10 is not node-1");
        let alone = single.client().unwrap();
        let told: Result<MemberChanged, _> = alone
            .call(reqwest::Method::DELETE, "/api/cluster/members/node-1", None::<&()>, Repeat::Never)
            .await;
        assert!(told.unwrap_err().to_string().contains("the only voter"));
        let told: Result<Value, _> =
            alone.post("/api/admin/rejoin", &json!({"node_id": "node-1"}), Repeat::Never).await;
        assert!(told.unwrap_err().to_string().contains("only one that is failed or removed"));
    });
}
