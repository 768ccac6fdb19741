//! What a node knows and nobody may read: it stands in no answer, no log line, no archive.

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, wait};

const SECRET: &str = "the-signing-secret-of-the-tokens-0123456789abcdef";
const CLUSTER_SECRET: &str = "what-only-the-nodes-know-0123456789";
const PASSWORD: &str = "correct-horse-battery-staple";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn program() -> Command {
    Command::new(Binaries::find().unwrap().path("coordinator").unwrap())
}

fn hash_of(password: &str) -> String {
    let mut run =
        program().arg("hash-password").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Every file below, as text.
fn everything(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            everything(&path, found);
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            found.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn secrets_stay_where_they_are() {
    runtime().block_on(async {
        let mut cluster = Cluster::prepare(3, Binaries::find().unwrap(), "coordinator").unwrap();
        let hash = hash_of(PASSWORD);
        let file = cluster.folder().join("cluster-secret");
        std::fs::write(&file, CLUSTER_SECRET).unwrap();
        let users = json!([{"username": "admin", "password_hash": hash, "role": "admin"}]);
        let settings = json!({"enable_auth": true, "auth_type": "jwt", "jwt_secret": SECRET, "auth_users": users,
            "cluster_secret_file": file, "log_level": "DEBUG", "log_raft_events": true});
        for index in 0..3 {
            cluster.configure(index, &settings).unwrap();
            cluster.start_node(index).unwrap();
        }
        let http = wait::http();
        let login = |password: &str| {
            let body = json!({"username": "admin", "password": password});
            http.post(cluster.place(0).url("/api/auth/login")).json(&body).send()
        };
        wait::until("a node that logs people in", READY_LIMIT, || async {
            let answer = login("wrong-but-typed-by-somebody").await.map_err(|e| e.to_string())?;
            if answer.status() == 401 { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await
        .unwrap();
        let token = wait::until("a token", READY_LIMIT, || async {
            let answer = login(PASSWORD).await.map_err(|e| e.to_string())?;
            let told: Value = answer.json().await.map_err(|e| e.to_string())?;
            told["token"].as_str().map(str::to_owned).ok_or_else(|| told.to_string())
        })
        .await
        .unwrap();
        wait::until("a write of somebody who may", READY_LIMIT, || async {
            let request = http.post(cluster.place(1).url("/api/tasks")).bearer_auth(&token);
            let sent = request.json(&json!({"task_id": "t", "type": "noop"})).send().await;
            let answer = sent.map_err(|e| e.to_string())?;
            if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await
        .unwrap();

        let mut seen: Vec<(String, String)> = Vec::new();
        for path in ["/api/report", "/api/status", "/api/logs?limit=1000", "/api/config", "/api/debug/raft_log"] {
            for index in 0..3 {
                let request = http.get(cluster.place(index).url(path)).bearer_auth(&token);
                let answer = request.send().await.unwrap();
                assert!(answer.status().is_success(), "{path}: {}", answer.status());
                seen.push((path.to_owned(), answer.text().await.unwrap()));
            }
        }
        for index in 0..3 {
            let log = std::fs::read_to_string(&cluster.place(index).log_file).unwrap();
            seen.push((format!("the log of node {index}"), log));
        }
        let config = cluster.place(0).config.display().to_string();
        let checked = program().args(["--check-config", "--config", &config]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        seen.push(("--check-config".into(), String::from_utf8_lossy(&checked.stdout).into_owned()));

        let token_file = cluster.folder().join("token");
        std::fs::write(&token_file, &token).unwrap();
        let archive = cluster.folder().join("doctor.tar.gz");
        let addresses = cluster.addresses().join(",");
        let doctor = program()
            .args(["doctor", "--coordinators", &addresses, "--token-file"])
            .arg(&token_file)
            .arg("--output")
            .arg(&archive)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.starts_with("3 of 3 nodes answer"), "{said}{}", String::from_utf8_lossy(&doctor.stderr));
        seen.push(("what doctor says".into(), said));
        let unpacked = cluster.folder().join("unpacked");
        std::fs::create_dir(&unpacked).unwrap();
        let tar = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked).status().unwrap();
        assert!(tar.success());
        let before = seen.len();
        everything(&unpacked, &mut seen);
        assert!(seen.len() >= before + 3 * 5, "the archive is whole: {} files", seen.len() - before);

        let salted = hash.rsplit('$').next().unwrap();
        for secret in [SECRET, CLUSTER_SECRET, PASSWORD, "wrong-but-typed-by-somebody", salted, token.as_str()] {
            let leaks: Vec<&str> =
                seen.iter().filter(|(_, text)| text.contains(secret)).map(|(place, _)| place.as_str()).collect();
            assert!(leaks.is_empty(), "`{}…` stands in {leaks:?}", &secret[..12]);
        }
    });
}
