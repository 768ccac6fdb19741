//! The streams of events of a real cluster, through the death of its leader and the end of a node.

use futures_util::StreamExt;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(90);

/// A stream that is read in the background.
struct Listening {
    text: Arc<Mutex<String>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Listening {
    fn to(url: String, last_id: Option<&str>) -> Listening {
        let text = Arc::new(Mutex::new(String::new()));
        let heard = text.clone();
        let last_id = last_id.map(str::to_owned);
        let reading = tokio::spawn(async move {
            let http = api::http::builder().build().unwrap();
            let mut request = http.get(&url).header("accept", "text/event-stream");
            if let Some(id) = last_id {
                request = request.header("last-event-id", id);
            }
            let Ok(answer) = request.send().await else { return };
            let mut body = answer.bytes_stream();
            while let Some(Ok(bytes)) = body.next().await {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes));
            }
        });
        Listening { text, reading }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// The events that came whole.
    fn events(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let lines = whole.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    async fn until(&self, kind: &str, subject: &str) -> Value {
        wait::until(&format!("{kind} of {subject}"), LIMIT, || async {
            let found = self.events().into_iter().find(|e| e["kind"] == kind && e["subject"] == subject);
            found.ok_or_else(|| self.text())
        })
        .await
        .unwrap()
    }
}

#[test]
fn a_follower_tells_of_the_leaders_death_and_a_stopped_node_ends_its_streams() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        let (leader_id, witness) = (cluster.place(leader).id.clone(), others[0]);
        let listening = Listening::to(cluster.place(witness).url("/api/events"), None);
        listening.until("leader_changed", &leader_id).await;
        // Only what was there can be told to have gone.
        listening.until("peer_reachable", &leader_id).await;
        let second = Listening::to(cluster.place(others[1]).url("/api/events"), None);

        cluster.kill9(leader);
        listening.until("peer_unreachable", &leader_id).await;
        let next = cluster.leader(LIMIT).await.unwrap();
        let next_id = cluster.place(next).id.clone();
        listening.until("leader_changed", &next_id).await;

        // What stands in the log is told by every node, with the same index.
        let client = cluster.client().unwrap();
        let _: Value = client
            .post("/api/maintenance/enable", &serde_json::json!({}), api::client::Repeat::Idempotent)
            .await
            .unwrap();
        let mut indexes = Vec::new();
        for stream in [&listening, &second] {
            indexes.push(stream.until("maintenance_enabled", "").await["index"].clone());
        }
        assert!(indexes[0].is_u64() && indexes[0] == indexes[1], "{indexes:?}");

        // A client that comes back is told what followed, and only that.
        let known = listening.until("maintenance_enabled", "").await["id"].as_str().unwrap().to_owned();
        let _: Value = client
            .post("/api/maintenance/disable", &serde_json::json!({}), api::client::Repeat::Idempotent)
            .await
            .unwrap();
        let again = Listening::to(cluster.place(witness).url("/api/events"), Some(&known));
        again.until("maintenance_disabled", "").await;
        assert_eq!(again.events()[0]["kind"], "maintenance_disabled", "{}", again.text());

        // The orderly end of a node is not held up by who listens.
        cluster.stop_node(witness).unwrap();
        for stream in [listening, again] {
            tokio::time::timeout(LIMIT, stream.reading).await.expect("the stream ends").unwrap();
        }
        let log = std::fs::read_to_string(&cluster.place(witness).log_file).unwrap();
        assert!(!log.contains("requests in flight did not end in time"), "{log}");
        second.reading.abort();
    });
}
