//! A whole cluster that is looked at from outside: by its monitor and by Prometheus.
//!
//! It is what `testbed up --observability` starts, and what an operator has: findings from
//! `/api/anomalies`, the page beside them, alerts from Prometheus.

use crate::prometheus::Prometheus;
use crate::whole::Whole;
use crate::{Error, wait};
use api::client::Repeat;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long anything that is awaited of a cluster may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A kind of fault, or an alert, with a node it names; without one as well, for those who only ask
/// whether it is there.
pub type Named = BTreeSet<(String, Option<String>)>;

/// The cluster and those who watch it.
pub struct Patient {
    /// What `up` started.
    pub whole: Whole,
    /// For looks at one program.
    pub http: reqwest::Client,
    /// The Prometheus beside it.
    pub prometheus: Prometheus,
}

impl Patient {
    /// Starts it: three coordinators and everything round them.
    pub async fn start() -> Result<Patient, Error> {
        let whole = Whole::start(3, &["--observability"]).await?;
        let http = wait::http();
        let prometheus = Prometheus::on_port(whole.layout().prometheus_port(), http.clone());
        Ok(Patient { whole, http, prometheus })
    }

    /// The addresses of the coordinators.
    pub fn addresses(&self) -> Vec<String> {
        self.whole.places().iter().map(|place| place.address()).collect()
    }

    /// POST with a success for an answer.
    pub async fn post(&self, url: &str, body: &Value) -> Result<(), Error> {
        let answered = self.http.post(url).timeout(LIMIT).json(body).send().await;
        let error = |why: String| Error::Http { address: url.to_owned(), why };
        let answer = answered.map_err(|e| error(api::client::error_chain(&e)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let why = answer.text().await.unwrap_or_default();
        Err(error(format!("{status}: {}", why.chars().take(300).collect::<String>())))
    }

    /// Keeps the recovery daemon from acting, or lets it.
    pub async fn brake(&self, on: bool) -> Result<(), Error> {
        let url = format!("http://127.0.0.1:{}/api/brake", self.whole.layout().recovery_port());
        self.post(&url, &json!({"on": on, "why": "detection is measured"})).await
    }

    fn monitor_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.whole.layout().monitor_port())
    }

    /// Where the monitor shows the whole of its last round.
    pub fn cluster_url(&self) -> String {
        self.monitor_url("/api/cluster")
    }

    /// Every finding of the monitor, as it tells it.
    pub async fn anomalies(&self) -> Result<Vec<Value>, String> {
        let answer: Value = wait::get(&self.http, &self.monitor_url("/api/anomalies")).await?;
        Ok(answer["anomalies"].as_array().cloned().unwrap_or_default())
    }

    /// Kinds of findings above info, with their nodes.
    pub async fn findings(&self) -> Result<Named, String> {
        let mut found = Named::new();
        for finding in self.anomalies().await?.iter().filter(|finding| finding["severity"] != "info") {
            let kind = finding["kind"].as_str().unwrap_or_default().to_owned();
            found.insert((kind.clone(), None));
            for node in finding["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                found.insert((kind.clone(), Some(node.to_owned())));
            }
        }
        Ok(found)
    }

    /// The page of findings, as a browser gets it.
    pub async fn findings_page(&self) -> Result<String, String> {
        let url = self.monitor_url("/anomalies");
        let why = |e: reqwest::Error| format!("{url}: {}", api::client::error_chain(&e));
        self.http.get(&url).send().await.map_err(why)?.text().await.map_err(why)
    }

    /// Alerts that fire, with the node or instance they name.
    pub async fn firing(&self) -> Result<Named, String> {
        let mut firing = Named::new();
        for alert in self.prometheus.alerts().await?.into_iter().filter(|alert| alert.firing) {
            let node = alert.labels.get("node").or_else(|| alert.labels.get("instance"));
            firing.insert((alert.name.clone(), None));
            firing.insert((alert.name, node.cloned()));
        }
        Ok(firing)
    }

    /// Moves leadership: to this node, or to whoever is best.
    pub async fn transfer(&self, to: Option<&str>) -> Result<(), Error> {
        let client = self.whole.client()?;
        let order = to.map_or_else(|| json!({}), |to| json!({"to": to}));
        // One that comes too soon after another is refused.
        wait::until("leadership to move", LIMIT, || async {
            let moved = client.post::<_, Value>("/api/cluster/transfer", &order, Repeat::Never);
            moved.await.map(drop).map_err(|e| e.to_string())
        })
        .await
    }

    /// Who leads.
    pub async fn leader(&self) -> Result<String, Error> {
        let client = self.whole.client()?;
        wait::until("a leader", LIMIT, || async {
            let status: Value = client.get("/api/status").await.map_err(|e| e.to_string())?;
            status["current_leader"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
        })
        .await
    }
}
