//! The operator guide's own texts, word for word, against real processes: its JSON blocks, the
//! environments of its compose file and StatefulSet, and the commands it has people type.
//!
//! Every node gets a root of its own (`guide/own-root.sh`), in which `/data` is its folder and the
//! names of the guide resolve, and an address of its own, so that all listen on port 8080. That
//! needs mount namespaces; where the system allows none, and on CI that is a failure, the tests say
//! so and end.

use api::cluster::{Role, Status};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::process::{Lifetime, Started};
use testbed::wait;

const LIMIT: Duration = Duration::from_secs(90);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn texts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guide")
}

fn coordinator() -> PathBuf {
    Binaries::find().unwrap().path("coordinator").unwrap()
}

/// How to get a mount namespace here; none where there is no way.
fn namespace() -> Option<Vec<String>> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &[&str]| {
        let script = "mount -t tmpfs own-root /mnt && mount --rbind /etc /mnt";
        let run = Command::new("unshare").args(way).args(["sh", "-c", script]).output();
        run.is_ok_and(|run| run.status.success())
    };
    let found = ways.into_iter().find(|way| works(way));
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "mount namespaces are not allowed here, so the guide's names can't be tried"
        );
        eprintln!("skipped: no mount namespaces here");
    }
    Some(found?.iter().map(|word| (*word).to_owned()).collect())
}

/// A process of the guide: its name, what it is told by the environment and on the command line.
struct Place {
    host: String,
    env: Vec<(String, String)>,
    arguments: Vec<String>,
}

/// Nodes that each have their own root.
struct Hosts {
    folder: tempfile::TempDir,
    way: Vec<String>,
    addresses: Vec<String>,
    nodes: Vec<Started>,
}

impl Hosts {
    /// An address for each of `count` hosts on which nobody listens on the ports of the guide.
    fn new(count: usize) -> Option<Hosts> {
        let way = namespace()?;
        // Tests of one process follow each other through these, those of others have another id.
        static USED: AtomicU32 = AtomicU32::new(0);
        let first = 10 * USED.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let addresses: Vec<String> = (1..=count)
            .map(|n| format!("127.{}.{}.{}", 64 + (id >> 8) % 128, id % 256, first + n as u32))
            .collect();
        for address in &addresses {
            for port in [8080, 9090] {
                let bound = std::net::TcpListener::bind((address.as_str(), port));
                assert!(bound.is_ok(), "port {port} is taken on every address of this machine: {bound:?}");
            }
        }
        Some(Hosts { folder: tempfile::tempdir().unwrap(), way, addresses, nodes: Vec::new() })
    }

    /// The words that run `command` as host `n`, for which these names resolve.
    fn words(&self, n: usize, names: &[(String, String)], command: &[String]) -> Vec<String> {
        let folder = self.folder.path().join(format!("host-{n}"));
        let (root, data, hosts) = (folder.join("root"), folder.join("data"), folder.join("hosts"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        let lines: String = names.iter().map(|(address, name)| format!("{address} {name}\n")).collect();
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{lines}")).unwrap();
        let mut words = self.way.clone();
        words.push("sh".into());
        words.push(texts().join("own-root.sh").display().to_string());
        words.extend([root, data, hosts].map(|path| path.display().to_string()));
        words.extend_from_slice(command);
        words
    }

    /// Starts a place as host `n` (from 0).
    fn start(&mut self, n: usize, place: &Place, names: &[(String, String)]) {
        let mut command: Vec<String> = vec!["env".into(), "-i".into()];
        if let Ok(path) = std::env::var("LD_LIBRARY_PATH") {
            command.push(format!("LD_LIBRARY_PATH={path}"));
        }
        command.extend(place.env.iter().map(|(key, value)| format!("{key}={value}")));
        command.push(coordinator().display().to_string());
        command.extend(place.arguments.iter().cloned());
        let words = self.words(n, names, &command);
        let log = self.folder.path().join(format!("{}.log", place.host));
        self.nodes.push(
            Started::spawn(&place.host, Path::new("unshare"), &words, &log, Lifetime::WithParent).unwrap(),
        );
    }

    /// Runs a command in a root of its own, where these names resolve.
    fn run(&self, names: &[(String, String)], command: &[&str]) -> Output {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        Command::new("unshare").args(self.words(99, names, &command)).output().unwrap()
    }

    async fn status(&self, n: usize) -> Result<Status, String> {
        wait::get(&wait::http(), &format!("http://{}:8080/api/status", self.addresses[n])).await
    }

    /// Waits until all see one leader of so many voters; gives their statuses.
    async fn one_cluster(&self, voters: usize) -> Vec<Status> {
        wait::until("one cluster", LIMIT, || async {
            let mut all = Vec::new();
            for n in 0..self.addresses.len() {
                all.push(self.status(n).await?);
            }
            let leader = all[0].current_leader.clone();
            let agree = all.iter().all(|s| {
                s.current_leader.is_some() && s.current_leader == leader && s.voters.len() == voters
            });
            if agree {
                Ok(all)
            } else {
                Err(format!("{:?}", all.iter().map(|s| (&s.role, &s.role_detail)).collect::<Vec<_>>()))
            }
        })
        .await
        .unwrap_or_else(|e| panic!("{e}\n{}", self.logs()))
    }

    /// A task is taken by a follower, which forwards it, and read from another node.
    async fn takes_a_task(&self, statuses: &[Status]) {
        let follower = statuses.iter().position(|s| s.role == Role::Follower).unwrap();
        let url = format!("http://{}:8080/api/tasks", self.addresses[follower]);
        let answer =
            wait::http().post(url).json(&json!({"task_id": "t", "type": "noop"})).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}\n{}", answer.text().await.unwrap(), self.logs());
        for address in &self.addresses {
            let task: Value =
                wait::get(&wait::http(), &format!("http://{address}:8080/api/tasks/t")).await.unwrap();
            assert_eq!(task["task_id"], "t");
        }
    }

    fn logs(&self) -> String {
        self.nodes
            .iter()
            .map(|node| {
                format!(
                    "--- {}\n{}\n",
                    node.process.name,
                    testbed::process::last_lines(&node.log_file, 12).join("\n")
                )
            })
            .collect()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Started::kill9);
    }
}

/// The sections of a file of environments: `[host]`, then `KEY=value` lines.
fn places(file: &str) -> Vec<Place> {
    let text = std::fs::read_to_string(texts().join(file)).unwrap();
    let mut places: Vec<Place> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(host) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            places.push(Place { host: host.into(), env: Vec::new(), arguments: Vec::new() });
        } else {
            let (key, value) = line.split_once('=').unwrap();
            places.last_mut().unwrap().env.push((key.into(), value.into()));
        }
    }
    places
}

#[test]
fn the_environments_of_the_compose_file_make_a_cluster() {
    runtime().block_on(async {
        let Some(mut hosts) = Hosts::new(3) else { return };
        let places = places("compose.env");
        // A network of containers: every host name resolves everywhere.
        let names: Vec<_> =
            hosts.addresses.iter().cloned().zip(places.iter().map(|p| p.host.clone())).collect();
        for (n, place) in places.iter().enumerate() {
            hosts.start(n, place, &names);
        }
        let statuses = hosts.one_cluster(3).await;
        assert_eq!(statuses[1].voters, ["node-1", "node-2", "node-3"]);
        assert!(statuses[0].peers.iter().any(|peer| peer.address == "coordinator-node2:8080"));
        hosts.takes_a_task(&statuses).await;
        assert!(hosts.folder.path().join("host-1/data/coordinator.duckdb").exists());
    });
}

#[test]
fn the_environments_of_the_statefulset_make_a_cluster() {
    runtime().block_on(async {
        let Some(mut hosts) = Hosts::new(3) else { return };
        let places = places("statefulset.env");
        // A headless service: pods find each other with its name behind theirs; its own short name
        // is known to a pod alone.
        let service: Vec<_> = hosts
            .addresses
            .iter()
            .cloned()
            .zip(places.iter().map(|p| format!("{}.coordinator", p.host)))
            .collect();
        let mut names_of = Vec::new();
        for (n, place) in places.iter().enumerate() {
            let mut names = service.clone();
            names.push((hosts.addresses[n].clone(), place.host.clone()));
            hosts.start(n, place, &names);
            names_of.push(names);
        }
        let statuses = hosts.one_cluster(3).await;
        // What is told to clients and peers resolves outside the pod.
        for status in &statuses {
            let address = status.leader_address.as_deref().unwrap();
            assert!(address.ends_with(".coordinator:8080"), "{address}");
            assert!(
                status.peers.iter().all(|p| p.reachable && p.address.ends_with(".coordinator:8080")),
                "{:?}",
                status.peers
            );
        }
        hosts.takes_a_task(&statuses).await;
        // The list names the node itself, and nobody minds.
        let report: api::cluster::Report =
            wait::get(&wait::http(), &format!("http://{}:8080/api/report", hosts.addresses[0]))
                .await
                .unwrap();
        assert_eq!(report.config_differs, Vec::<String>::new());
    });
}

/// Three nodes from the guide's config file, which names them coordinatorN.example.com.
fn example_hosts(hosts: &mut Hosts) -> Vec<(String, String)> {
    let names: Vec<_> =
        hosts.addresses.iter().cloned().zip((1..=3).map(|n| format!("coordinator{n}.example.com"))).collect();
    let first = std::fs::read_to_string(texts().join("json/node1_config.json")).unwrap();
    for n in 1..=3 {
        let path = hosts.folder.path().join(format!("node{n}_config.json"));
        let mut config: Value = serde_json::from_str(&first).unwrap();
        if n == 1 {
            std::fs::write(&path, &first).unwrap();
        } else {
            config["node_id"] = json!(format!("node-{n}"));
            config["host"] = json!(format!("coordinator{n}.example.com"));
            config["peers"] = (1..=3)
                .filter(|other| *other != n)
                .map(|other| json!({"id": format!("node-{other}"), "host": format!("coordinator{other}.example.com"), "port": 8080}))
                .collect();
            std::fs::write(&path, config.to_string()).unwrap();
        }
        let place = Place {
            host: format!("coordinator{n}.example.com"),
            // The guide's folders belong to a user that is not on every machine.
            env: [("DATA_DIR", "/data"), ("DB_PATH", "/data/coordinator.duckdb")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .to_vec(),
            arguments: vec!["--config".into(), path.display().to_string()],
        };
        hosts.start(n as usize - 1, &place, &names);
    }
    names
}

#[test]
fn what_the_guide_has_people_type_works_as_it_stands() {
    runtime().block_on(async {
        let Some(mut hosts) = Hosts::new(3) else { return };
        let names = example_hosts(&mut hosts);
        hosts.one_cluster(3).await;
        let script = texts().join("checks.sh").display().to_string();
        wait::until("equal checksums in one run", LIMIT, || async {
            let run = hosts.run(&names, &["bash", &script]);
            let text = String::from_utf8_lossy(&run.stdout).into_owned();
            assert!(
                run.status.success(),
                "{text}\n{}\n{}",
                String::from_utf8_lossy(&run.stderr),
                hosts.logs()
            );
            assert!(text.contains("\"leader\""), "{text}");
            assert!(text.contains("\"entries\""), "no log entries: {text}");
            assert!(text.contains("{\"tasks\":[]"), "no list of running tasks: {text}");
            assert!(text.contains("\"enabled\":true") && text.contains("\"enabled\":false"), "{text}");
            let sums: Vec<&str> =
                text.lines().filter_map(|line| line.split_once("checksum: ").map(|(_, sum)| sum)).collect();
            assert_eq!(sums.len(), 3, "{text}");
            if sums.iter().all(|sum| *sum == sums[0]) { Ok(()) } else { Err(format!("{sums:?}")) }
        })
        .await
        .unwrap();
    });
}

#[test]
fn peers_are_checked_and_the_doctor_packs_what_it_saw() {
    runtime().block_on(async {
        let Some(mut hosts) = Hosts::new(3) else { return };
        let names = example_hosts(&mut hosts);
        hosts.one_cluster(3).await;
        let program = coordinator().display().to_string();
        let config = hosts.folder.path().join("node2_config.json").display().to_string();
        let all = "coordinator1.example.com:8080,coordinator2.example.com:8080,coordinator3.example.com:8080";
        let check = |hosts: &Hosts| {
            hosts.run(
                &names,
                &["env", "DATA_DIR=/data", &program, "--config", &config, "--check-peers", "--json"],
            )
        };
        let seen = check(&hosts);
        let document: Value = serde_json::from_slice(&seen.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&seen.stderr)));
        let says = document["lines"].to_string();
        for part in [
            "is node `node-1`",
            "is node `node-3`",
            "round trip",
            "ms off ours",
            "this node is running",
            "syncs",
        ] {
            assert!(says.contains(part), "{part} is missing in {document:#}");
        }
        assert!(document["verdict"] != "unknown", "{document:#}");

        let archive = hosts.folder.path().join("doctor.tar.gz").display().to_string();
        let doctor = |hosts: &Hosts, output: &str| {
            hosts.run(&names, &[&program, "doctor", "--coordinators", all, "--output", output])
        };
        let well = doctor(&hosts, &archive);
        let text = String::from_utf8_lossy(&well.stdout).into_owned();
        assert!(text.starts_with("3 of 3 nodes answer"), "{text}\n{}", String::from_utf8_lossy(&well.stderr));
        assert!(!text.contains("FAULT"), "{text}");
        let list = Command::new("tar").args(["tzf", &archive]).output().unwrap();
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        for n in 1..=3 {
            for file in [
                "report.json",
                "health.json",
                "config.json",
                "logs.json",
                "raft_log.json",
                "members.json",
                "metrics.txt",
            ] {
                assert!(
                    list.contains(&format!("nodes/node-{n}/{file}")),
                    "{file} of node {n} is missing:\n{list}"
                );
            }
        }

        // One node is dead: the rest is told all the same.
        hosts.nodes[2].kill9();
        wait::until("the others to miss it", LIMIT, || async {
            let status = hosts.status(0).await?;
            if status.peers.iter().any(|p| !p.reachable) { Ok(()) } else { Err("all reachable".into()) }
        })
        .await
        .unwrap();
        hosts.one_cluster_of_the_first(2).await;
        let ill = doctor(&hosts, &hosts.folder.path().join("second.tar.gz").display().to_string());
        let text = String::from_utf8_lossy(&ill.stdout).into_owned();
        assert_eq!(ill.status.code(), Some(1), "{text}");
        assert!(
            text.starts_with("2 of 3 nodes answer")
                && text.contains("coordinator3.example.com:8080]: does not answer"),
            "{text}"
        );
        let seen = check(&hosts);
        assert_eq!(seen.status.code(), Some(2), "{}", String::from_utf8_lossy(&seen.stdout));
        assert!(String::from_utf8_lossy(&seen.stdout).contains("nothing listens on the port"));

        // All are dead.
        hosts.nodes.iter_mut().for_each(Started::kill9);
        let gone = hosts.run(&names, &[&program, "doctor", "--coordinators", all, "--no-archive"]);
        assert_eq!(gone.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&gone.stderr).contains("no coordinator answers"));
    });
}

impl Hosts {
    /// Waits until the first `count` nodes follow one leader among them.
    async fn one_cluster_of_the_first(&self, count: usize) {
        wait::until("a leader among the survivors", LIMIT, || async {
            let mut leaders = Vec::new();
            for n in 0..count {
                leaders.push(self.status(n).await?.current_leader);
            }
            let known =
                leaders.iter().all(|l| l.as_ref().is_some_and(|l| *l != "node-3") && *l == leaders[0]);
            if known { Ok(()) } else { Err(format!("{leaders:?}")) }
        })
        .await
        .unwrap();
    }
}

/// Every JSON block of the guide for a node, laid over the first one, is a config; keys of the
/// access blocks may be refused for their values, which are dots in the guide, but not as unknown.
#[test]
fn every_json_block_of_the_guide_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let base: Value =
        serde_json::from_str(&std::fs::read_to_string(texts().join("json/node1_config.json")).unwrap())
            .unwrap();
    for block in [
        "node1_config",
        "node4_config",
        "prometheus",
        "memory",
        "network",
        "database",
        "logging",
        "auth",
        "tls",
    ] {
        let text = std::fs::read_to_string(texts().join(format!("json/{block}.json"))).unwrap();
        let mut config = base.clone();
        for (key, value) in serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap() {
            config[key] = value.clone();
        }
        let path = folder.path().join(format!("{block}.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        let mut run = Command::new(coordinator());
        run.env_remove("HOST").env_remove("PORT");
        let run = run.args(["--check-config", "--config"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!said.contains("unknown key"), "{block}: {said}");
        if ["auth", "tls"].contains(&block) {
            continue;
        }
        assert!(run.status.success(), "{block}: {said}");
        let shown: Value = serde_json::from_slice(&run.stdout).unwrap();
        for (key, value) in serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap() {
            assert_eq!(shown[key], *value, "{block}: {key}");
        }
    }
}
