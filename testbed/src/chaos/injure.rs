//! The ten failures, made on real programs from outside: by signals, limits, proxies on the ways
//! between nodes, and bytes that are changed in files and in memory.

use super::memory;
use super::patient::{LIMIT, Patient};
use crate::binaries::Binaries;
use crate::layout::NodePlace;
use crate::links::{Links, State};
use crate::process::{self, Lifetime, Started};
use crate::{Error, wait};
use api::client::Repeat;
use api::cluster::{PartHealth, Role, Status};
use rustix::process::{Resource, Rlimit, Signal};
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Elections in a minute that are one too many.
const ELECTIONS: usize = 4;
/// One way, on links that are to be slow.
const LONG_WAY: Duration = Duration::from_millis(350);

/// A failure that can be made, and the alert that must name it.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// Its name in `/api/anomalies`.
    pub kind: &'static str,
    /// Of the shipped rules.
    pub alert: &'static str,
    /// How it is made.
    pub made_by: &'static str,
    /// The node it must be pinned on; none where it concerns all.
    pub node: Option<&'static str>,
}

const fn of_node_2(kind: &'static str, alert: &'static str, made_by: &'static str) -> Failure {
    Failure { kind, alert, made_by, node: Some("node-2") }
}

const fn of_all(kind: &'static str, alert: &'static str, made_by: &'static str) -> Failure {
    Failure { kind, alert, made_by, node: None }
}

/// The ten, harmless ones first.
pub const FAILURES: [Failure; 10] = [
    of_node_2("process_crash", "HoldfastProcessCrash", "kill -9"),
    of_node_2("deadlock", "HoldfastDeadlock", "SIGSTOP: it takes connections and answers nothing"),
    of_node_2("network_partition", "HoldfastNetworkPartition", "the way between two followers is cut"),
    of_node_2("slow_follower", "HoldfastSlowFollower", "every way to it takes 350 ms longer"),
    of_node_2(
        "resource_exhaustion",
        "HoldfastResourceExhaustion",
        "a limit of descriptors just above those open",
    ),
    of_all(
        "term_divergence",
        "HoldfastTermDivergence",
        "the leader is paused (SIGSTOP) until another is elected, four times",
    ),
    of_node_2(
        "database_corruption",
        "HoldfastDatabaseCorruption",
        "DuckDB's file is deleted, and again once the node mended it",
    ),
    of_node_2(
        "state_divergence",
        "HoldfastStateDivergence",
        "a record changed in the process' memory, then `verify`",
    ),
    of_node_2("log_corruption", "HoldfastLogCorruption", "bits flipped in the log's file, then `verify`"),
    of_all("split_brain", "HoldfastSplitBrain", "a node loses its disk and founds a cluster of its own"),
];

/// A cluster that can be hurt: one with a proxy on each way between its nodes.
pub struct Injury {
    /// The cluster.
    pub patient: Patient,
    links: Links,
}

impl Injury {
    /// Starts a cluster, and starts its nodes again behind their proxies.
    pub async fn prepare() -> Result<Injury, Error> {
        let patient = Patient::start().await?;
        let places = patient.whole.places();
        let ports: Vec<u16> = places.iter().map(|place| place.port).collect();
        let injury = Injury { patient, links: Links::to(&ports).await? };
        for (from, place) in places.iter().enumerate() {
            edit(&place.config, |config| {
                let others = (0..places.len()).filter(|to| *to != from);
                let peers = others.map(|to| {
                    json!({"id": places[to].id, "host": "127.0.0.1", "port": injury.links.port(from, to)})
                });
                config["peers"] = peers.collect();
            })?;
        }
        injury.patient.restart_all(&places).await?;
        Ok(injury)
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.patient.whole.coordinator("node-2")?.signal(signal);
        Ok(())
    }

    /// Makes a failure. What comes back is when it was there.
    pub async fn make(&self, failure: Failure) -> Result<Instant, Error> {
        let places = self.patient.whole.places();
        let place = &places[1];
        let mut there = Instant::now();
        match failure.kind {
            "process_crash" => self.signal(Signal::KILL)?,
            "deadlock" => self.signal(Signal::STOP)?,
            "network_partition" => self.links.set(1, 2, State::Cut),
            "slow_follower" => [0, 2].into_iter().for_each(|to| self.links.set(1, to, State::Long(LONG_WAY))),
            "resource_exhaustion" => self.limit_descriptors()?,
            "term_divergence" => {
                for _ in 0..ELECTIONS {
                    self.patient.pause_leader().await?;
                }
                there = Instant::now();
            }
            "database_corruption" => {
                self.delete_database(place).await?;
                there = self.delete_database(place).await?;
            }
            "log_corruption" => {
                flip(&newest_log(&place.data_dir.join("raft"))?)?;
                self.verify(place);
            }
            "state_divergence" => {
                self.change_a_record(place).await?;
                there = Instant::now();
                self.verify(place);
            }
            _ => self.found_another(&places[2])?,
        }
        Ok(there)
    }

    /// Takes the failure's cause away. What a person must do is done; the rest is the daemon's.
    pub async fn undo(&self, failure: Failure) -> Result<(), Error> {
        let place = self.patient.whole.places()[1].clone();
        match failure.kind {
            "deadlock" => self.signal(Signal::CONT)?,
            "network_partition" => self.links.set(1, 2, State::Open),
            "slow_follower" => [0, 2].into_iter().for_each(|to| self.links.set(1, to, State::Open)),
            // A new process has the usual limit.
            "resource_exhaustion" => self.patient.restart_all(&[place]).await?,
            "database_corruption" => {
                let order = json!({"by_hand": true, "why": "its database was damaged on purpose"});
                self.patient.post(&place.url("/api/admin/rebuild_db"), &order).await?;
            }
            "state_divergence" | "log_corruption" => {
                let order = json!({"by_hand": true, "why": "it was damaged on purpose"});
                self.patient.post(&place.url("/api/admin/force_sync"), &order).await?;
            }
            "split_brain" => self.bring_back(&self.patient.whole.places()[2])?,
            _ => {}
        }
        Ok(())
    }

    /// What a person would look with first. Nobody waits for its answer: a node that finds damage says
    /// so elsewhere, and may break the connection off.
    fn verify(&self, place: &NodePlace) {
        let order = self.patient.http.post(place.url("/api/admin/verify")).timeout(LIMIT).json(&json!({}));
        tokio::spawn(order.send());
    }

    /// Deletes the database under the process. The first time the node mends it by itself, perhaps before
    /// anybody looks twice; then it pauses before it tries again.
    async fn delete_database(&self, place: &NodePlace) -> Result<Instant, Error> {
        let file = place.data_dir.join("coordinator.duckdb");
        let url = place.url("/api/health/db");
        wait::until("the database to be there and sound", LIMIT, || async {
            let health: PartHealth = wait::get(&self.patient.http, &url).await?;
            match file.exists() && health.healthy {
                true => Ok(()),
                false => Err(format!("{:?}", health.details)),
            }
        })
        .await?;
        std::fs::remove_file(&file).map_err(Error::io(format!("delete {}", file.display())))?;
        let there = Instant::now();
        self.verify(place);
        Ok(there)
    }

    /// A soft limit of which more than nine tenths are in use.
    fn limit_descriptors(&self) -> Result<(), Error> {
        let process = self.patient.whole.coordinator("node-2")?;
        let folder = format!("/proc/{}/fd", process.pid);
        let open = std::fs::read_dir(&folder).map_err(Error::io(format!("read {folder}")))?.count() as u64;
        let pid = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw);
        // Theirs is ours: nobody changes it on the way.
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(open + open / 40), maximum };
        let set = rustix::process::prlimit(pid, Resource::Nofile, limit);
        set.map(drop).map_err(|e| Error::io("limit the descriptors of a process")(e.into()))
    }

    /// A waiting task's command becomes another in this node's memory.
    async fn change_a_record(&self, place: &NodePlace) -> Result<(), Error> {
        let client = self.patient.whole.client()?;
        let word = format!("{:016x}", rand::random::<u64>());
        let id = format!("diverges-{word}");
        let task = json!({
            "task_id": id,
            "type": "command",
            "config": {"command": format!("echo {word}")},
            "requirements": {"labels": {"nobody": "has-it"}},
        });
        let submitted = client.post::<_, Value>("/api/tasks", &task, Repeat::Never).await;
        submitted.map_err(Error::client("submit a task"))?;
        let url = place.url(&format!("/api/tasks/{id}?consistency=local"));
        wait::until("the node to have the task", LIMIT, || wait::answers(&self.patient.http, &url)).await?;
        let process = self.patient.whole.coordinator(&place.id)?;
        let (from, to) = (format!("echo {word}"), format!("ECHO {word}"));
        match memory::replace(&process, from.as_bytes(), to.as_bytes())? {
            0 => Err(Error::Setting(format!("{} does not hold the task in its memory", place.id))),
            _ => Ok(()),
        }
    }

    /// A node loses its place and is told that it is alone.
    fn found_another(&self, place: &NodePlace) -> Result<(), Error> {
        process::end(&[self.patient.whole.coordinator(&place.id)?], LIMIT)?;
        std::fs::rename(&place.data_dir, place.data_dir.with_extension("aside"))
            .and_then(|()| std::fs::copy(&place.config, place.config.with_extension("was")))
            .map_err(Error::io("move a data directory aside"))?;
        edit(&place.config, |config| {
            config["enable_redundancy"] = json!(false);
            config["peers"] = json!([]);
        })?;
        self.patient.start_coordinator(place)
    }

    /// It gets its disk and its config back.
    fn bring_back(&self, place: &NodePlace) -> Result<(), Error> {
        process::end(&[self.patient.whole.coordinator(&place.id)?], LIMIT)?;
        std::fs::rename(&place.data_dir, place.data_dir.with_extension("other"))
            .and_then(|()| std::fs::rename(place.data_dir.with_extension("aside"), &place.data_dir))
            .and_then(|()| std::fs::rename(place.config.with_extension("was"), &place.config))
            .map_err(Error::io("move a data directory back"))?;
        self.patient.start_coordinator(place)
    }
}

impl Patient {
    /// Ends coordinators as an operator does, all at once, starts them again, and waits until they serve.
    pub async fn restart_all(&self, places: &[NodePlace]) -> Result<(), Error> {
        let running: Vec<_> =
            places.iter().map(|place| self.whole.coordinator(&place.id)).collect::<Result<_, _>>()?;
        process::end(&running, LIMIT)?;
        places.iter().try_for_each(|place| self.start_coordinator(place))?;
        for place in places {
            let (what, url) = (format!("{} to serve again", place.id), place.url("/api/health/ready"));
            let back = wait::until(&what, LIMIT, || wait::answers(&self.http, &url)).await;
            back.map_err(|error| error.with_tail(&place.log_file))?;
        }
        Ok(())
    }

    /// Stops the leader in its tracks until another is elected, and lets it go on.
    pub async fn pause_leader(&self) -> Result<(), Error> {
        let old = self.leader().await?;
        let process = self.whole.coordinator(&old)?;
        process.signal(Signal::STOP);
        let others: Vec<String> =
            self.whole.places().iter().filter(|p| p.id != old).map(|p| p.url("/api/status")).collect();
        let elected = wait::until("another node to be elected", LIMIT, || async {
            for url in &others {
                let status: Status = wait::get(&self.http, url).await?;
                if status.role == Role::Leader {
                    return Ok(());
                }
            }
            Err(format!("{old} is still waited for"))
        })
        .await;
        process.signal(Signal::CONT);
        elected
    }

    fn start_coordinator(&self, place: &NodePlace) -> Result<(), Error> {
        let program = Binaries::find()?.path("coordinator")?;
        let arguments = ["--config".to_owned(), place.config.display().to_string()];
        // It is found by its config, and ended with the others.
        Started::spawn(&place.id, &program, &arguments, &place.log_file, Lifetime::OwnSession).map(drop)
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) -> Result<(), Error> {
    let edited = std::fs::read(path).and_then(|text| {
        let mut config: Value = serde_json::from_slice(&text)?;
        change(&mut config);
        std::fs::write(path, format!("{config:#}\n"))
    });
    edited.map_err(Error::io(format!("change {}", path.display())))
}

/// Changes bytes in all but the first quarter of a file that a process has open.
fn flip(path: &Path) -> Result<(), Error> {
    let flipped = std::fs::File::options().read(true).write(true).open(path).and_then(|file| {
        let length = file.metadata()?.len();
        let mut byte = [0];
        for at in (length / 4..length).step_by(101) {
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 0x11], at)?;
        }
        file.sync_all()
    });
    flipped.map_err(Error::io(format!("damage {}", path.display())))
}

/// The file of the log engine with the highest number.
pub fn newest_log(folder: &Path) -> Result<PathBuf, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(format!("read {}", folder.display())))?;
    let files = entries.flatten().map(|entry| entry.path());
    let newest = files.filter(|path| path.extension().is_some_and(|e| e == "raftlog")).max();
    newest.ok_or_else(|| Error::Setting(format!("{} has no log file", folder.display())))
}
