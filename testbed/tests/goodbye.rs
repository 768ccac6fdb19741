//! What an operator does on purpose is told from what breaks, by the real programs: a node that was
//! ended with SIGTERM said goodbye to its peers, one that was killed did not; leadership that is moved
//! by request is no election.

use api::client::Repeat;
use api::cluster::Status;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::process::{self, Lifetime, Started};
use testbed::wait;
use testbed::whole::Whole;

const LIMIT: Duration = Duration::from_secs(90);
/// Rounds of the monitor in which nothing may be found.
const QUIET_ROUNDS: u64 = 5;
/// Transfers, more than elections may happen in a minute.
const TRANSFERS: usize = 5;

/// The cluster and looks at it.
struct Scene {
    whole: Whole,
    http: reqwest::Client,
}

impl Scene {
    async fn monitor(&self, path: &str) -> Result<Value, String> {
        wait::get(&self.http, &format!("http://127.0.0.1:{}{path}", self.whole.layout().monitor_port())).await
    }

    /// What the monitor shows now: its round, the sentence, kinds of findings above info.
    async fn look(&self) -> Result<(u64, String, Vec<String>), String> {
        let (cluster, found) = (self.monitor("/api/cluster").await?, self.monitor("/api/anomalies").await?);
        let verdict = cluster["verdict"].as_str().unwrap_or_default().to_owned();
        let round = cluster["round"].as_u64().ok_or_else(|| cluster.to_string())?;
        let found = found["anomalies"].as_array().cloned().unwrap_or_default();
        let above = found.iter().filter(|finding| finding["severity"] != "info");
        Ok((round, verdict, above.map(Value::to_string).collect()))
    }

    /// Waits until the sentence is as wanted, and so many rounds more; nothing may be found in any.
    async fn stays_quiet(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let since = std::cell::Cell::new(None);
        wait::until(what, LIMIT, || async {
            let (round, verdict, found) = self.look().await?;
            assert!(found.is_empty(), "{what}: {found:?}");
            if !wanted(&verdict) {
                since.set(None);
                return Err(verdict);
            }
            let first = since.get().unwrap_or(round);
            since.set(Some(first));
            if round >= first + QUIET_ROUNDS { Ok(()) } else { Err(format!("round {round}: {verdict}")) }
        })
        .await
        .unwrap();
    }

    /// What node-1 says of node-3's goodbye, once it doesn't hear it any more or hears it again.
    async fn goodbye_of_node_3(&self, reachable: bool) -> Option<api::cluster::Goodbye> {
        let url = self.whole.places()[0].url("/api/status");
        wait::until("node-1 to notice what became of node-3", LIMIT, || async {
            let status: Status = wait::get(&self.http, &url).await?;
            let peer = status.peers.into_iter().find(|p| p.node_id == "node-3").ok_or("no such peer")?;
            match peer.reachable == reachable {
                true => Ok(peer.goodbye),
                false => Err(format!("reachable: {}", peer.reachable)),
            }
        })
        .await
        .unwrap()
    }

    fn start_node_3(&self) {
        let place = &self.whole.places()[2];
        let program = Binaries::find().unwrap().path("coordinator").unwrap();
        let arguments = ["--config".to_owned(), place.config.display().to_string()];
        // It is found by its config, and ended with the others.
        Started::spawn(&place.id, &program, &arguments, &place.log_file, Lifetime::OwnSession).unwrap();
    }

    /// Keeps the daemon from acting, or lets it.
    async fn brake(&self, on: bool) {
        let url = format!("http://127.0.0.1:{}/api/brake", self.whole.layout().recovery_port());
        let order = json!({"on": on, "why": "what the monitor finds is looked at"});
        let sent = self.http.post(&url).timeout(LIMIT).json(&order).send().await.unwrap();
        assert!(sent.status().is_success(), "{}", sent.status());
    }

    async fn move_leadership(&self) {
        let client = self.whole.client().unwrap();
        wait::until("leadership to move", LIMIT, || async {
            let moved = client.post::<_, Value>("/api/cluster/transfer", &json!({}), Repeat::Never).await;
            moved.map(drop).map_err(|e| e.to_string())
        })
        .await
        .unwrap();
    }
}

#[test]
fn what_is_done_on_purpose_is_no_finding_and_a_kill_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = Scene { whole: Whole::start(3, &[]).await.unwrap(), http: wait::http() };
        let whole_again = |verdict: &str| verdict.starts_with("3 of 3 healthy");
        scene.stays_quiet("three healthy nodes", whole_again).await;

        for _ in 0..TRANSFERS {
            scene.move_leadership().await;
        }
        scene.stays_quiet("leadership was moved and all is well", whole_again).await;

        process::end(&[scene.whole.coordinator("node-3").unwrap()], LIMIT).unwrap();
        let stopped = |verdict: &str| verdict.ends_with("node-3 stopped on purpose");
        scene.stays_quiet("node-3 is known to be stopped on purpose", stopped).await;
        assert!(scene.goodbye_of_node_3(false).await.is_some());
        assert!(
            scene.whole.coordinator("node-3").is_err(),
            "the daemon started it against the operator's will"
        );

        scene.start_node_3();
        assert_eq!(scene.goodbye_of_node_3(true).await, None, "another process of it was met");
        scene.stays_quiet("node-3 is back", whole_again).await;

        scene.brake(true).await;
        let before = scene.whole.coordinator("node-3").unwrap();
        before.signal(rustix::process::Signal::KILL);
        wait::until("the crash to be named", LIMIT, || async {
            let (_, verdict, found) = scene.look().await?;
            match found.iter().any(|finding| finding.contains("process_crash")) {
                true => Ok(()),
                false => Err(format!("{verdict}: {found:?}")),
            }
        })
        .await
        .unwrap();
        assert_eq!(scene.goodbye_of_node_3(false).await, None);
        scene.brake(false).await;
        wait::until("the crash to be mended", LIMIT, || async {
            let (_, verdict, _) = scene.look().await?;
            if whole_again(&verdict) { Ok(()) } else { Err(verdict) }
        })
        .await
        .unwrap();
        let after = scene.whole.coordinator("node-3").unwrap();
        assert_ne!(before.pid, after.pid, "the daemon started it again");
    });
}
