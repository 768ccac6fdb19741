//! A cluster with TLS and tokens, by real processes: nodes, worker, submit, monitor, recovery; a
//! certificate that is renewed while it works; and what strangers get.

use api::Client;
use api::client::Repeat;
use api::cluster::Status;
use api::http::Access;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::layout::{NodePlace, write_node_configs};
use testbed::ports::Ports;
use testbed::process::{Lifetime, Started};
use testbed::wait;

const LIMIT: Duration = Duration::from_secs(90);
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// An authority of its own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes a node's certificate and key; gives the certificate's text.
    fn write(&self, cert: &Path, key: &Path) -> String {
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate().unwrap();
        let pem = params.signed_by(&pair, &self.issuer).unwrap().pem();
        // The key first: a look in between finds a pair that does not fit, and keeps the old one.
        std::fs::write(key, pair.serialize_pem()).unwrap();
        std::fs::write(cert, &pem).unwrap();
        pem
    }
}

/// Three nodes, each with more in its config than usual.
struct Guarded {
    folder: tempfile::TempDir,
    places: Vec<NodePlace>,
    started: Vec<Started>,
    binaries: Binaries,
    ports: Ports,
}

impl Guarded {
    fn new() -> Guarded {
        let folder = tempfile::Builder::new().prefix("holdfast-access-").tempdir().unwrap();
        let ports = Ports::take(8).unwrap();
        let places: Vec<_> = (0..3)
            .map(|i| NodePlace::new(folder.path(), i, ports.as_slice()[i], ports.as_slice()[3 + i]))
            .collect();
        write_node_configs(&places).unwrap();
        Guarded { folder, places, started: Vec::new(), binaries: Binaries::find().unwrap(), ports }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add_to_config(&self, index: usize, more: Value) {
        let path = &self.places[index].config;
        let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn start(&mut self, name: &str, program: &'static str, arguments: &[&str]) {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let log = self.folder.path().join("logs").join(format!("{name}.log"));
        let program = self.binaries.path(program).unwrap();
        self.started.push(Started::spawn(name, &program, &arguments, &log, Lifetime::WithParent).unwrap());
    }

    fn start_nodes(&mut self) {
        for index in 0..3 {
            let (id, config) =
                (self.places[index].id.clone(), self.places[index].config.display().to_string());
            self.start(&id, "coordinator", &["--config", &config]);
        }
    }

    fn log_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("logs").join(format!("{name}.log")))
            .unwrap_or_default()
    }

    /// A token that the program itself makes.
    fn token(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let secret = self.path("jwt_secret");
        let made = Command::new(self.binaries.path("coordinator").unwrap())
            .arg("token")
            .args(arguments)
            .arg("--jwt-secret-file")
            .arg(&secret)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = self.path(name);
        std::fs::write(&path, made.stdout).unwrap();
        path
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        for started in &mut self.started {
            started.kill9();
        }
        if std::thread::panicking() {
            for started in &self.started {
                let name = &started.process.name;
                let log = self.log_of(name);
                let tail: Vec<&str> = log.lines().rev().take(25).collect();
                eprintln!("--- {name}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

async fn one_leader(client: &Client) -> Status {
    wait::until("a leader that serves", LIMIT, || async {
        let status: Status = client.get("/api/status").await.map_err(|e| e.to_string())?;
        match status.current_leader {
            Some(_) => Ok(status),
            None => Err(format!("{:?}", status.role_detail)),
        }
    })
    .await
    .unwrap()
}

async fn submit(client: &Client, id: &str) {
    let task = json!({"task_id": id, "type": "noop"});
    let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
}

#[test]
fn a_cluster_with_tls_and_tokens_serves_every_program_and_renews_its_certificate() {
    runtime().block_on(async {
        let authority = Authority::new();
        let mut cluster = Guarded::new();
        std::fs::write(cluster.path("ca.pem"), &authority.pem).unwrap();
        std::fs::write(cluster.path("jwt_secret"), SECRET).unwrap();
        let files = |index: usize| {
            let folder = cluster.folder.path();
            (folder.join(format!("cert-{index}.pem")), folder.join(format!("key-{index}.pem")))
        };
        for index in 0..3 {
            let (cert, key) = files(index);
            authority.write(&cert, &key);
            cluster.add_to_config(
                index,
                json!({
                    "enable_tls": true, "cert_path": cert, "key_path": key, "ca_path": cluster.path("ca.pem"),
                    "enable_auth": true, "auth_type": "jwt", "jwt_secret_file": cluster.path("jwt_secret"),
                }),
            );
        }
        let all_files: Vec<_> = (0..3).map(files).collect();
        let (ca, admin) = (cluster.path("ca.pem"), cluster.token("admin.token", &["--role", "admin"]));
        let worker = cluster.token("worker.token", &["--role", "worker", "--worker-id", "w1"]);
        let viewer = cluster.token("viewer.token", &["--role", "viewer"]);
        let operator = cluster.token("operator.token", &["--role", "operator"]);
        cluster.start_nodes();

        let urls: Vec<String> = cluster.places.iter().map(|p| format!("https://{}", p.address())).collect();
        let access = Access::load(Some(&admin), None, Some(&ca)).unwrap();
        let client = Client::with_access(urls.clone(), access).unwrap();
        let status = one_leader(&client).await;
        wait::until("all voters to be connected", LIMIT, || async {
            let status: Status = client.get("/api/status").await.map_err(|e| e.to_string())?;
            let far: Vec<_> = status.peers.iter().filter(|p| !p.reachable).map(|p| &p.error).collect();
            if far.is_empty() && status.peers.len() == 2 { Ok(()) } else { Err(format!("{far:?}")) }
        })
        .await
        .unwrap();
        assert_eq!(status.voters.len(), 3);

        // A worker with a token of its own, and a suite through the command line.
        let list = urls.join(",");
        let ca_text = ca.display().to_string();
        let worker = worker.display().to_string();
        cluster.start(
            "w1",
            "coordinator",
            &[
                "worker",
                "--id",
                "w1",
                "--coordinators",
                &list,
                "--slots",
                "2",
                "--token-file",
                &worker,
                "--ca",
                &ca_text,
            ],
        );
        let program = cluster.binaries.path("coordinator").unwrap();
        let suite = cluster.path("suite.txt");
        std::fs::write(&suite, "true\necho two\n").unwrap();
        let operator_text = operator.display().to_string();
        let ran = tokio::task::spawn_blocking({
            let (list, ca, operator) = (list.clone(), ca_text.clone(), operator_text.clone());
            move || {
                Command::new(program)
                    .args([
                        "submit",
                        "--coordinators",
                        &list,
                        "--ca",
                        &ca,
                        "--token-file",
                        &operator,
                        "--wait",
                    ])
                    .arg(suite)
                    .output()
                    .unwrap()
            }
        })
        .await
        .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

        // The monitor sees three nodes, the recovery daemon finds nothing to do.
        let listen = format!("127.0.0.1:{}", cluster.ports.as_slice()[6]);
        let viewer = viewer.display().to_string();
        cluster.start(
            "monitor",
            "monitor",
            &[
                "--nodes",
                &list,
                "--listen",
                &listen,
                "--interval",
                "0.2",
                "--token-file",
                &viewer,
                "--ca",
                &ca_text,
            ],
        );
        let http = wait::http();
        wait::until("the monitor to see three nodes", LIMIT, || async {
            let seen: Value = wait::get(&http, &format!("http://{listen}/api/cluster")).await?;
            let text = seen.to_string();
            let reporting = text.matches("\"node_id\":\"node-").count();
            if reporting >= 3 && !text.contains("http_status") {
                Ok(())
            } else {
                Err(text.chars().take(500).collect())
            }
        })
        .await
        .unwrap();
        let nodes: Vec<Value> = cluster
            .places
            .iter()
            .map(|p| json!({"id": p.id, "host": "127.0.0.1", "port": p.port, "data_dir": p.data_dir}))
            .collect();
        let recovery = cluster.path("recovery.json");
        std::fs::write(
            &recovery,
            json!({
                "nodes": nodes, "recovery_dir": cluster.path("recovery"), "enable_tls": true,
                "ca_path": ca, "token_file": operator,
            })
            .to_string(),
        )
        .unwrap();
        let program = cluster.binaries.path("recovery").unwrap();
        let pass = tokio::task::spawn_blocking(move || {
            Command::new(program).arg("--config").arg(recovery).args(["--interval", "1"]).output().unwrap()
        })
        .await
        .unwrap();
        let said = String::from_utf8_lossy(&pass.stdout).into_owned();
        assert!(said.contains("3 of 3 nodes report"), "{said}\n{}", String::from_utf8_lossy(&pass.stderr));

        // Certificates are renewed while writes go on; every write is answered.
        let before: Vec<String> =
            all_files.iter().map(|(cert, _)| std::fs::read_to_string(cert).unwrap()).collect();
        for (index, (cert, key)) in all_files.iter().enumerate() {
            assert_ne!(authority.write(cert, key), before[index]);
        }
        let mut number = 0;
        wait::until("every node to show its new certificate", LIMIT, || {
            number += 1;
            let (client, id) = (client.clone(), format!("renewal-{number}"));
            let logs: Vec<String> =
                cluster.places.iter().map(|p| std::fs::read_to_string(&p.log_file).unwrap()).collect();
            async move {
                submit(&client, &id).await;
                let renewed =
                    logs.iter().filter(|log| log.contains("the certificate was read again")).count();
                if renewed == 3 { Ok(()) } else { Err(format!("{renewed} of 3")) }
            }
        })
        .await
        .unwrap();
        // A peer that starts now shakes hands with the new ones.
        let last = cluster.places[2].clone();
        let at = cluster.started.iter().position(|s| s.process.name == last.id).unwrap();
        cluster.started[at].kill9();
        cluster.started.remove(at);
        cluster.start(&last.id, "coordinator", &["--config", &last.config.display().to_string()]);
        wait::until("the restarted node to serve", LIMIT, || async {
            let access = Access::load(Some(&admin), None, Some(&ca)).unwrap();
            let one = Client::with_access([format!("https://{}", last.address())], access).unwrap();
            let _: Value = one
                .with_deadline(Duration::from_secs(2))
                .get("/api/health/ready")
                .await
                .map_err(|e| e.to_string())?;
            submit(&client, "after-the-renewal").await;
            Ok(())
        })
        .await
        .unwrap();

        // The metrics say when the certificate ends, to those that may look.
        let metrics = format!("https://127.0.0.1:{}/metrics", cluster.places[0].prometheus_port);
        let access = Access::load(Some(Path::new(&viewer)), None, Some(&ca)).unwrap();
        let http = access.builder(true).unwrap().build().unwrap();
        assert_eq!(http.get(&metrics).send().await.unwrap().status(), 401);
        let text = access.authorize(http.get(&metrics)).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("holdfast_tls_certificate_end_timestamp_seconds"), "{text}");

        // Strangers: plain HTTP, no token, a peer's path without a certificate.
        let plain = wait::http();
        assert!(
            plain.get(format!("http://{}/api/status", cluster.places[0].address())).send().await.is_err()
        );
        let path = |path: &str| format!("{}{path}", urls[0]);
        assert_eq!(http.get(path("/api/status")).send().await.unwrap().status(), 401);
        assert_eq!(http.get(path("/raft/identity")).send().await.unwrap().status(), 401);
        assert_eq!(http.get(path("/api/health/live")).send().await.unwrap().status(), 200);
    });
}

#[test]
fn a_node_with_another_cluster_secret_is_kept_out() {
    runtime().block_on(async {
        let mut cluster = Guarded::new();
        for (index, secret) in [
            "a secret of the first two nodes",
            "a secret of the first two nodes",
            "the third has another one",
        ]
        .into_iter()
        .enumerate()
        {
            let file = cluster.path(&format!("secret-{index}"));
            std::fs::write(&file, secret).unwrap();
            cluster.add_to_config(index, json!({"cluster_secret_file": file}));
        }
        cluster.start_nodes();
        let http = wait::http();
        let url = |place: &NodePlace, path: &str| place.url(path);
        let third = cluster.places[2].clone();
        wait::until("the third node to say why it is kept out", LIMIT, || async {
            let status: Status = wait::get(&http, &url(&third, "/api/status")).await?;
            let why = status.role_detail.unwrap_or_default();
            if why.contains("the cluster secrets differ") { Ok(()) } else { Err(why) }
        })
        .await
        .unwrap();
        // With the right one the three found their cluster and send frames to one another.
        std::fs::write(cluster.path("secret-2"), "a secret of the first two nodes\n").unwrap();
        let at = cluster.started.iter().position(|s| s.process.name == third.id).unwrap();
        cluster.started[at].kill9();
        cluster.started.remove(at);
        cluster.start(&third.id, "coordinator", &["--config", &third.config.display().to_string()]);
        let client = Client::new(cluster.places.iter().map(NodePlace::address)).unwrap();
        one_leader(&client).await;
        submit(&client, "first").await;
        assert_eq!(http.get(url(&third, "/raft/identity")).send().await.unwrap().status(), 401);
    });
}
