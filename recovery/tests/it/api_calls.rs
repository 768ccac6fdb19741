//! The API over a real driver.

use crate::fake::Fakes;
use recovery::audit::Audit;
use recovery::config::Loaded;
use recovery::driver::{Driver, Options};
use recovery::http::Api;
use recovery::observe::Clock;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// A daemon in this process, with its API on a free port.
struct Running {
    base: String,
    http: reqwest::Client,
    end: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Running {
    async fn start(fakes: &Fakes, interval: Duration, token: Option<&str>) -> Running {
        let config_path = fakes.config(60.0, &[]);
        let loaded = Loaded::read(&config_path).unwrap();
        let clock = Clock::start();
        let audit = Audit::open(&loaded.config.recovery_dir, clock.now()).unwrap();
        let options = Options { config_path, interval, dry_run: false };
        let driver = Driver::new(options, &loaded, audit, None, clock).unwrap();
        let (commands, orders) = mpsc::channel(8);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let api = Api::new(driver.shared(), commands, token.map(str::to_owned), &address);
        let end = CancellationToken::new();
        tokio::spawn(axum::serve(listener, api.router()).into_future());
        tokio::spawn(driver.run(orders, Arc::new(Notify::new()), end.clone()));
        let http = api::http::builder().no_proxy().build().unwrap();
        let running = Running { base: format!("http://{address}"), http, end };
        running.wait("the first round", |health| health["generation"].as_u64() > Some(0)).await;
        running
    }

    async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.base)).send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        self.wait_at("/api/health", what, is_so).await;
    }

    async fn wait_at(&self, path: &str, what: &str, is_so: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let value = self.get(path).await;
            if is_so(&value) {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {value}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn intents(&self) -> usize {
        let audit = self.get("/api/audit?limit=1000").await;
        audit["records"].as_array().unwrap().iter().filter(|r| r["phase"] == "intent").count()
    }
}

fn webhook(fingerprint: &str) -> Value {
    json!({
        "version": "4", "groupKey": "g", "truncatedAlerts": 0, "status": "firing", "receiver": "r",
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "",
        "alerts": [{"status": "firing", "labels": {"alertname": "HoldfastNodeDown"}, "annotations": {},
            "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "",
            "fingerprint": fingerprint}]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_webhook_acts_once() {
    let fakes = Fakes::start();
    // Of itself the daemon would look again in an hour: only the alert wakes it.
    let daemon = Running::start(&fakes, Duration::from_secs(3600), None).await;
    fakes.kill("n2");
    let (status, answer) = daemon.post("/alertmanager", &webhook("a")).await;
    assert_eq!((status, &answer["new"]), (200, &json!(1)));
    for _ in 0..5 {
        let (status, answer) = daemon.post("/alertmanager", &webhook("a")).await;
        assert_eq!((status, &answer["new"]), (200, &json!(0)));
    }
    daemon
        .wait_at("/api/audit", "the verified repair", |audit| {
            audit["records"].as_array().unwrap().iter().any(|r| r["outcome"] == "repaired")
        })
        .await;
    assert_eq!((daemon.intents().await, fakes.starts("n2")), (1, 2));
    let generation = daemon.get("/api/health").await["generation"].as_u64();
    daemon.post("/alertmanager", &webhook("a")).await;
    assert_eq!(
        daemon.get("/api/health").await["generation"].as_u64(),
        generation,
        "no look for a repeated alert"
    );
    // A new one is a reason to look, and what it says is not believed.
    daemon.post("/alertmanager", &webhook("b")).await;
    daemon.wait("another look", |health| health["generation"].as_u64() > generation).await;
    assert_eq!(daemon.intents().await, 1);
    let text =
        daemon.http.get(format!("{}/metrics", daemon.base)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"holdfast_recovery_attempts_total{kind="process_crash"} 1"#), "{text}");
    assert!(
        text.contains(r#"holdfast_recovery_outcomes_total{kind="process_crash",outcome="repaired"} 1"#),
        "{text}"
    );
    assert!(text.contains("holdfast_recovery_brake 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brake_holds_and_lets_go() {
    let fakes = Fakes::start();
    let daemon = Running::start(&fakes, Duration::from_millis(300), None).await;
    let (status, _) = daemon.post("/api/brake", &json!({"on": true, "why": "drill"})).await;
    assert_eq!(status, 200);
    fakes.kill("n3");
    daemon
        .wait_at("/api/plans", "the denial", |plans| {
            plans["plans"][0]["gate"] == "brake" && plans["plans"][0]["nodes"][0] == "n3"
        })
        .await;
    daemon
        .wait_at("/api/audit", "the denial in the audit", |audit| {
            audit["records"].as_array().unwrap().iter().any(|r| r["gate"] == "brake")
        })
        .await;
    let plans = daemon.get("/api/plans").await;
    let id = plans["plans"][0]["id"].as_str().unwrap().to_owned();
    let of = daemon.get(&format!("/api/audit/{id}")).await;
    assert_eq!(of["records"][0]["phase"], "seen");
    assert_eq!(fakes.pid("n3"), None);
    // An acknowledgement does not hold back the restart of a dead process; the brake did.
    assert_eq!(daemon.post(&format!("/api/ack/{id}"), &json!({})).await.0, 200);
    assert_eq!(daemon.post("/api/ack/none", &json!({})).await.0, 404);
    assert_eq!(daemon.post("/api/brake", &json!({"on": false})).await.0, 200);
    daemon
        .wait_at("/api/audit", "the repair", |audit| {
            audit["records"].as_array().unwrap().iter().any(|r| r["outcome"] == "repaired")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_not_understood_are_refused_by_name() {
    let fakes = Fakes::prepare();
    let daemon = Running::start(&fakes, Duration::from_secs(3600), Some("secret")).await;
    let url = |path: &str| format!("{}{path}", daemon.base);
    let code = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(kind, "application/problem+json", "{problem}");
        (status, problem["code"].as_str().unwrap().to_owned())
    };
    let post = |path: &str| daemon.http.post(url(path));
    assert_eq!(code(post("/alertmanager").json(&webhook("a"))).await, (401, "unauthorized".into()));
    let wrong = post("/alertmanager").bearer_auth("secre!").json(&webhook("a"));
    assert_eq!(code(wrong).await, (401, "unauthorized".into()));
    let right = post("/alertmanager").bearer_auth("secret").json(&webhook("a")).send().await.unwrap();
    assert_eq!(right.status().as_u16(), 200);
    let cut = json!({"version": "4", "truncatedAlerts": 3, "alerts": []});
    let cut = post("/alertmanager").bearer_auth("secret").json(&cut);
    assert_eq!(code(cut).await, (422, "validation".into()));
    assert_eq!(code(post("/api/brake").body("{\"on\": true}")).await, (415, "unsupported_media_type".into()));
    let broken = post("/api/brake").header("content-type", "application/json").body("{");
    assert_eq!(code(broken).await, (400, "malformed_json".into()));
    assert_eq!(code(post("/api/brake").json(&json!({"on": "yes"}))).await, (422, "validation".into()));
    assert_eq!(
        code(post("/api/brake").json(&json!({"on": true, "for": 1}))).await,
        (422, "validation".into())
    );
    let foreign = post("/api/brake").header("origin", "http://evil.example").json(&json!({"on": true}));
    assert_eq!(code(foreign).await, (403, "forbidden_origin".into()));
    let rebound = daemon.http.get(url("/api/plans")).header("host", "evil.example:8070");
    assert_eq!(code(rebound).await, (403, "forbidden_origin".into()));
    assert_eq!(code(daemon.http.get(url("/api/nothing"))).await, (404, "unknown_endpoint".into()));
    assert_eq!(code(daemon.http.get(url("/alertmanager"))).await, (405, "method_not_allowed".into()));
    assert_eq!(code(daemon.http.get(url("/api/audit/none"))).await, (404, "unknown_fault".into()));
    assert_eq!(code(daemon.http.get(url("/api/audit?limit=0"))).await, (422, "validation".into()));
    assert_eq!(code(daemon.http.get(url("/api/audit?limt=5"))).await, (422, "validation".into()));
    assert_eq!(daemon.get("/api/brake").await["on"], json!(false));
}
