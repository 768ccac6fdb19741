//! Traces, metrics and log lines as a collector gets them, decoded by the protocol's own package.

use api::client::Repeat;
use api::task::{TaskRecord, TaskState};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::binaries::Binaries;
use testbed::cluster::READY_LIMIT;
use testbed::process::{Lifetime, Started};
use testbed::scrape::Samples;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(90);
/// The span of the client in every trace.
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testbed lies in the workspace").to_owned()
}

/// The Python in which `./dev test` has put the package; none where it could not.
fn python() -> Option<PathBuf> {
    let found = root().join(".tools/opentelemetry-proto/bin/python");
    if found.exists() {
        return Some(found);
    }
    assert!(std::env::var_os("CI").is_none(), "no Python with opentelemetry-proto at {}", found.display());
    println!("SKIPPED: no Python with opentelemetry-proto; `./dev test` installs it");
    None
}

/// The collector; it ends with the test.
struct Collector {
    process: Started,
    url: String,
}

impl Collector {
    async fn start(python: &Path, folder: &Path) -> Collector {
        let log = folder.join("collector.log");
        let program = root().join("testbed/otlp/receiver.py").display().to_string();
        let process =
            Started::spawn("collector", python, &[program], &log, Lifetime::WithParent).expect("a collector");
        let port = wait::until("the collector's port", LIMIT, || async {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("port "));
            line.map(str::to_owned).ok_or(text)
        });
        let url = format!("http://127.0.0.1:{}", port.await.unwrap());
        Collector { process, url }
    }

    async fn seen(&self, http: &reqwest::Client) -> Result<Seen, String> {
        let told: Value = wait::get(http, &format!("{}/seen", self.url)).await?;
        assert_eq!(told["faults"], json!([]), "messages that are not as the protocol has them");
        Ok(Seen(told))
    }

    /// Waits until what came satisfies `look`.
    async fn until<T>(
        &self,
        http: &reqwest::Client,
        what: &str,
        look: impl Fn(&Seen) -> Result<T, String>,
    ) -> T {
        wait::until(what, LIMIT, || async { look(&self.seen(http).await?) }).await.unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.process.kill9();
    }
}

/// What the collector was told.
struct Seen(Value);

impl Seen {
    fn list(&self, kind: &str) -> &[Value] {
        self.0[kind].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn trace(&self, trace: &str) -> Trace {
        let spans = self.list("spans").iter().filter(|span| span["trace_id"] == trace).cloned();
        Trace(spans.map(|span| (text(&span, "span_id"), span)).collect())
    }

    fn traces(&self) -> BTreeSet<String> {
        self.list("spans").iter().map(|span| text(span, "trace_id")).collect()
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn node(item: &Value) -> String {
    text(&item["resource"], "holdfast.node.id")
}

/// The spans of one trace by id.
struct Trace(BTreeMap<String, Value>);

impl Trace {
    /// The one span of this name on this node (or instance) for which `fits`.
    fn one(&self, name: &str, at: &str, fits: impl Fn(&Value) -> bool) -> Result<&Value, String> {
        let here = |span: &&Value| node(span) == at || span["resource"]["service.instance.id"] == at;
        let found: Vec<&Value> =
            self.0.values().filter(|s| s["name"] == name).filter(here).filter(|s| fits(s)).collect();
        match found.as_slice() {
            [one] => Ok(one),
            other => Err(format!("{} spans {name} at {at}; there are: {}", other.len(), self.names())),
        }
    }

    fn below(&self, name: &str, at: &str, parent: &Value) -> Result<&Value, String> {
        self.one(name, at, |span| span["parent_span_id"] == parent["span_id"])
    }

    fn names(&self) -> String {
        let names = self.0.values().map(|s| format!("{}@{}", text(s, "name"), node(s)));
        names.collect::<Vec<_>>().join(", ")
    }

    /// The spans of a write from its `raft.propose` on, on every node.
    fn written(&self, propose: &Value, leader: &str, nodes: &[String]) -> Result<(), String> {
        self.below("raft.sync", leader, propose)?;
        self.below("raft.commit", leader, propose)?;
        for at in nodes {
            let apply = self.below("machine.apply", at, propose)?;
            self.below("store.write", at, apply)?;
            if at != leader {
                let replicate = self.one("raft.replicate", leader, |span| {
                    span["parent_span_id"] == propose["span_id"]
                        && span["attributes"]["holdfast.peer.node.id"] == at.as_str()
                })?;
                assert_eq!(replicate["kind"], "SPAN_KIND_CLIENT");
                self.below("raft.sync", at, replicate)?;
            }
        }
        Ok(())
    }

    /// Every span hangs on another, and the first on the client's.
    fn is_one_tree(&self) -> Result<(), String> {
        for span in self.0.values() {
            let parent = text(span, "parent_span_id");
            if parent != CLIENT_SPAN && !self.0.contains_key(&parent) {
                return Err(format!("{}@{} hangs on nothing", text(span, "name"), node(span)));
            }
        }
        Ok(())
    }
}

fn traceparent(trace: &str, sampled: bool) -> String {
    format!("00-{trace}-{CLIENT_SPAN}-0{}", u8::from(sampled))
}

async fn submit(http: &reqwest::Client, url: &str, id: &str, traceparent: Option<String>) {
    let script = ["/bin/sh", "-c", "printf %s \"$TRACEPARENT\""];
    let body = json!({"task_id": id, "type": "command", "config": {"command": script}, "max_retries": 0});
    let mut request = http.post(format!("{url}/api/tasks")).timeout(LIMIT).json(&body);
    if let Some(place) = traceparent {
        request = request.header("traceparent", place);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
}

struct Traced {
    cluster: Cluster,
    collector: Collector,
    http: reqwest::Client,
}

impl Traced {
    async fn start(python: &Path) -> Traced {
        let mut cluster = Cluster::prepare(3, Binaries::find().unwrap(), "coordinator").unwrap();
        let collector = Collector::start(python, cluster.folder()).await;
        for index in 0..3 {
            let keys = json!({
                "otlp_endpoint": collector.url,
                "otlp_metrics_interval_seconds": 1,
                "log_level": "DEBUG",
            });
            cluster.configure(index, &keys).unwrap();
        }
        cluster.start_all().await.unwrap();
        Traced { cluster, collector, http: wait::http() }
    }

    fn name(&self, index: usize) -> String {
        self.cluster.place(index).id.clone()
    }

    fn names(&self) -> Vec<String> {
        (0..3).map(|index| self.name(index)).collect()
    }

    fn url(&self, index: usize) -> String {
        self.cluster.place(index).url("")
    }
}

#[test]
fn one_trace_goes_through_every_node_and_from_submit_to_result() {
    let Some(python) = python() else { return };
    runtime().block_on(async {
        let mut traced = Traced::start(&python).await;
        let leader = traced.cluster.leader(READY_LIMIT).await.unwrap();
        let follower = (leader + 1) % 3;
        a_write_is_one_trace(&traced, leader, follower).await;
        the_task_goes_on_in_it(&mut traced, leader).await;
        metrics_and_lines_arrive(&traced).await;
        what_is_not_sampled_is_not_told(&traced, follower).await;
        a_submission_belongs_to_its_callers_trace(&traced).await;
        monitor_and_daemon_tell_theirs(&traced).await;
        the_end_of_a_node_holds_nothing_back(&mut traced, (leader + 2) % 3).await;
        a_collector_that_is_gone_holds_up_nobody(&mut traced, leader).await;
    });
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn a_write_is_one_trace(traced: &Traced, leader: usize, follower: usize) {
    submit(&traced.http, &traced.url(follower), "traced", Some(traceparent(TRACE, true))).await;
    let (at, led_by, nodes) = (traced.name(follower), traced.name(leader), traced.names());
    let look = |seen: &Seen| {
        let trace = seen.trace(TRACE);
        let asked = trace.one("POST /api/tasks", &at, |span| span["parent_span_id"] == CLIENT_SPAN)?;
        assert_eq!(asked["kind"], "SPAN_KIND_SERVER");
        assert_eq!(asked["attributes"]["http.route"], "/api/tasks");
        assert_eq!(asked["attributes"]["http.response.status_code"], 201);
        let forward = trace.below("forward", &at, asked)?;
        let served = trace.below("POST /api/tasks", &led_by, forward)?;
        assert_eq!(served["attributes"]["holdfast.forwarded_by"], at.as_str());
        let propose = trace.below("raft.propose", &led_by, served)?;
        assert_eq!(propose["attributes"]["holdfast.command"], "submit");
        trace.written(propose, &led_by, &nodes)?;
        trace.is_one_tree()
    };
    traced.collector.until(&traced.http, "the spans of a write", look).await;
}

async fn the_task_goes_on_in_it(traced: &mut Traced, leader: usize) {
    let addresses = traced.cluster.addresses().join(",");
    let arguments = ["worker", "--id", "w-1", "--coordinators", &addresses].map(str::to_owned);
    let log = traced.cluster.folder().join("worker.log");
    let program = Binaries::find().unwrap().path("coordinator").unwrap();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), traced.collector.url.clone())];
    let mut worker =
        Started::spawn_with("w-1", &program, &arguments, &environment, &log, Lifetime::WithParent).unwrap();
    let client = traced.cluster.client().unwrap();
    let done = wait::until("the task to end", LIMIT, || async {
        let task: TaskRecord = client.get("/api/tasks/traced").await.map_err(|e| e.to_string())?;
        if task.state == TaskState::Completed { Ok(task) } else { Err(format!("{:?}", task.state)) }
    });
    let done = serde_json::to_value(done.await.unwrap()).unwrap();
    let (led_by, nodes) = (traced.name(leader), traced.names());
    let look = |seen: &Seen| {
        let trace = seen.trace(TRACE);
        let submit =
            trace.one("raft.propose", &led_by, |span| span["attributes"]["holdfast.command"] == "submit")?;
        trace.below("task.queue", &led_by, submit)?;
        let lease = trace.below("task.lease", &led_by, submit)?;
        let run = trace.below("task.run", "w-1", lease)?;
        assert_eq!(run["resource"]["service.name"], "holdfast-worker");
        assert_eq!(run["attributes"]["holdfast.task.id"], "traced");
        let result = trace.below("task.result", &led_by, run)?;
        let propose = trace.below("raft.propose", &led_by, result)?;
        assert_eq!(propose["attributes"]["holdfast.command"], "complete");
        trace.written(propose, &led_by, &nodes)?;
        trace.is_one_tree()?;
        Ok(text(run, "span_id"))
    };
    let run = traced.collector.until(&traced.http, "the spans of the task", look).await;
    let told = format!("00-{TRACE}-{run}-01");
    assert!(done.to_string().contains(&told), "the process was not told {told}: {done}");
    worker.kill9();
}

async fn metrics_and_lines_arrive(traced: &Traced) {
    let cluster_id = traced.cluster.status(0).await.unwrap().cluster_id.unwrap();
    let right = |item: &Value, at: &str| {
        let resource = &item["resource"];
        resource["service.name"] == "holdfast-coordinator"
            && resource["service.version"] == api::VERSION
            && resource["service.instance.id"] == at
            && resource["holdfast.cluster.id"] == cluster_id.as_str()
    };
    let nodes = traced.names();
    let look = |seen: &Seen| {
        for at in &nodes {
            let of = |kind| seen.list(kind).iter().filter(|item| node(item) == *at);
            for name in ["holdfast.raft.term", "http.server.request.duration", "holdfast.log.sync.duration"] {
                if !of("metrics").any(|metric| metric["name"] == name && right(metric, at)) {
                    return Err(format!("no metric {name} of {at}"));
                }
            }
            let line = |log: &&Value| log["body"] == "task submitted" && log["trace_id"] == TRACE;
            let Some(line) = of("logs").find(line) else {
                return Err(format!("no line of {at} in the trace"));
            };
            assert_eq!(line["attributes"]["task_id"], "traced");
            assert!(right(line, at), "{line}");
            assert!(seen.trace(TRACE).0.contains_key(&text(line, "span_id")), "{line}");
            let spans = of("spans").collect::<Vec<_>>();
            assert!(!spans.is_empty() && spans.iter().all(|span| right(span, at)), "{spans:?}");
        }
        Ok(())
    };
    traced.collector.until(&traced.http, "metrics and lines of every node", look).await;
}

async fn what_is_not_sampled_is_not_told(traced: &Traced, follower: usize) {
    let (unsampled, last) = ("a".repeat(32), "b".repeat(32));
    submit(&traced.http, &traced.url(follower), "quiet", Some(traceparent(&unsampled, false))).await;
    submit(&traced.http, &traced.url(follower), "plain", None).await;
    submit(&traced.http, &traced.url(follower), "last", Some(traceparent(&last, true))).await;
    let nodes = traced.names();
    // What came before the last one would be there when all of the last one is.
    let look = |seen: &Seen| {
        let trace = seen.trace(&last);
        nodes.iter().try_for_each(|at| trace.one("store.write", at, |_| true).map(drop))?;
        Ok(seen.traces())
    };
    let traces = traced.collector.until(&traced.http, "the last write's spans", look).await;
    assert_eq!(traces, BTreeSet::from([TRACE.to_owned(), last]));
}

/// A program beside the cluster that exports by the standard variables.
fn beside(traced: &Traced, name: &'static str, arguments: &[String], more: &[(&str, String)]) -> Started {
    let program =
        Binaries::find().unwrap().path(if name == "submit" { "coordinator" } else { name }).unwrap();
    let log = traced.cluster.folder().join(format!("{name}.log"));
    let mut environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), traced.collector.url.clone())];
    environment.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    Started::spawn_with(name, &program, arguments, &environment, &log, Lifetime::WithParent).unwrap()
}

async fn a_submission_belongs_to_its_callers_trace(traced: &Traced) {
    let trace = "d".repeat(32);
    let lines = traced.cluster.folder().join("lines.txt");
    std::fs::write(&lines, "true\n").unwrap();
    let addresses = traced.cluster.addresses().join(",");
    let arguments = ["submit", "--coordinators", &addresses, &lines.display().to_string()].map(str::to_owned);
    let place = traceparent(&trace, true);
    let mut submitted = beside(traced, "submit", &arguments, &[("TRACEPARENT", place)]);
    let look = |seen: &Seen| {
        let trace = seen.trace(&trace);
        let asked = trace.0.values().find(|span| span["parent_span_id"] == CLIENT_SPAN);
        let asked = asked.ok_or_else(|| format!("nothing hangs on the caller's span: {}", trace.names()))?;
        assert_eq!(asked["name"], "POST /api/tasks/batch");
        trace.is_one_tree()?;
        if trace.names().contains("raft.commit") { Ok(()) } else { Err(trace.names()) }
    };
    traced.collector.until(&traced.http, "the spans of a submission", look).await;
    submitted.kill9();
}

/// What a program beside the cluster must have told: a root span with one below it, a metric, a line.
struct Told<'a> {
    service: &'a str,
    instance: String,
    root: &'a str,
    below: &'a str,
    metric: &'a str,
    line: &'a str,
}

impl Told<'_> {
    /// Looks for all of it, with the right resource; gives the span below the root.
    fn look(&self, seen: &Seen) -> Result<Value, String> {
        let own = |item: &&Value| item["resource"]["service.name"] == self.service;
        let right = |item: &Value| {
            let resource = &item["resource"];
            resource["service.instance.id"] == self.instance.as_str()
                && resource["service.version"] == api::VERSION
                && resource.get("holdfast.node.id").is_none()
        };
        let missing = |what: &str| format!("no {what} of {} at {}", self.service, self.instance);
        for kind in ["spans", "logs", "metrics"] {
            let wrong = seen.list(kind).iter().filter(own).find(|item| !right(item));
            assert_eq!(wrong, None, "{kind} with another resource");
        }
        let metric = seen.list("metrics").iter().filter(own).find(|metric| metric["name"] == self.metric);
        metric.ok_or_else(|| missing(self.metric))?;
        let said = |line: &Value| line["body"].as_str().is_some_and(|body| body.contains(self.line));
        seen.list("logs").iter().filter(own).find(|line| said(line)).ok_or_else(|| missing(self.line))?;
        let spans: Vec<&Value> = seen.list("spans").iter().filter(own).collect();
        let is_root = |span: &&&Value| span["name"] == self.root && span["parent_span_id"] == "";
        let roots: BTreeSet<String> =
            spans.iter().filter(is_root).map(|span| text(span, "span_id")).collect();
        let below =
            |span: &&&Value| span["name"] == self.below && roots.contains(&text(span, "parent_span_id"));
        spans.iter().find(below).map(|span| (**span).clone()).ok_or_else(|| missing(self.below))
    }
}

async fn monitor_and_daemon_tell_theirs(traced: &Traced) {
    let ports = testbed::ports::Ports::take(2).unwrap();
    let listen = |at: usize| format!("127.0.0.1:{}", ports.as_slice()[at]);
    let all =
        [("OTEL_TRACES_SAMPLER_ARG", "1".to_owned()), ("OTEL_METRIC_EXPORT_INTERVAL", "1000".to_owned())];
    let mut arguments: Vec<String> =
        ["--interval", "1", "--listen", &listen(0), "--nodes"].map(str::to_owned).into();
    arguments.extend(traced.cluster.addresses());
    let mut monitor = beside(traced, "monitor", &arguments, &all);
    let told = Told {
        service: "holdfast-monitor",
        instance: listen(0),
        root: "scrape.round",
        below: "scrape",
        metric: "holdfast.monitor.nodes",
        line: "cluster view at",
    };
    let look = |seen: &Seen| {
        let scrape = told.look(seen)?;
        // It goes on in the node that was asked.
        let trace = seen.trace(&text(&scrape, "trace_id"));
        let asked = trace.0.values().find(|span| span["parent_span_id"] == scrape["span_id"]);
        let asked = asked.ok_or_else(|| format!("a scrape that no node tells of: {}", trace.names()))?;
        assert_eq!((&asked["name"], &asked["kind"]), (&json!("GET /api/report"), &json!("SPAN_KIND_SERVER")));
        assert_eq!(asked["resource"]["service.name"], "holdfast-coordinator");
        Ok(())
    };
    traced.collector.until(&traced.http, "what the monitor exports", look).await;
    monitor.kill9();

    let config = traced.cluster.folder().join("recovery_config.json");
    let nodes: Vec<Value> = (0..3)
        .map(|index| {
            let place = traced.cluster.place(index);
            json!({"id": place.id, "host": "127.0.0.1", "port": place.port,
                "data_dir": place.data_dir, "actuator": {"type": "none"}})
        })
        .collect();
    let keys = json!({
        "nodes": nodes, "recovery_dir": traced.cluster.folder().join("recovery"), "listen": listen(1),
    });
    std::fs::write(&config, keys.to_string()).unwrap();
    let arguments =
        ["--config", &config.display().to_string(), "--interval", "1", "--daemon", "--listen", &listen(1)];
    let mut daemon = beside(traced, "recovery", &arguments.map(str::to_owned), &all);
    let told = Told {
        service: "holdfast-recovery",
        instance: listen(1),
        root: "recovery.round",
        below: "scrape.round",
        metric: "holdfast.recovery.brake",
        line: "recovery daemon",
    };
    traced
        .collector
        .until(&traced.http, "what the recovery daemon exports", |seen| told.look(seen).map(drop))
        .await;
    daemon.kill9();
}

async fn the_end_of_a_node_holds_nothing_back(traced: &mut Traced, index: usize) {
    let trace = "c".repeat(32);
    submit(&traced.http, &traced.url(index), "farewell", Some(traceparent(&trace, true))).await;
    traced.cluster.stop_node(index).unwrap();
    let seen = traced.collector.seen(&traced.http).await.unwrap();
    let at = traced.name(index);
    seen.trace(&trace).one("POST /api/tasks", &at, |_| true).unwrap();
    let stopped = |log: &&Value| log["body"] == "stopped" && node(log) == at;
    assert!(seen.list("logs").iter().any(|log| stopped(&log)), "its last line is missing");
    traced.cluster.start_node(index).unwrap();
    traced.cluster.wait_ready(index, READY_LIMIT).await.unwrap();
}

async fn a_collector_that_is_gone_holds_up_nobody(traced: &mut Traced, leader: usize) {
    traced.collector.process.kill9();
    let client = traced.cluster.client().unwrap();
    for number in 0..50 {
        let place = Some(traceparent(&format!("{:032x}", number + 1), true));
        submit(&traced.http, &traced.url(leader), &format!("unseen-{number}"), place).await;
    }
    let url = format!("http://127.0.0.1:{}/metrics", traced.cluster.place(leader).prometheus_port);
    for signal in ["traces", "logs", "metrics"] {
        wait::until(&format!("{signal} to be counted as failed"), LIMIT, || async {
            let samples = Samples::of(&traced.http, &url).await.map_err(|e| e.to_string())?;
            let failed =
                samples.sum("holdfast_otlp_items_total", &[("signal", signal), ("outcome", "failed")]);
            if failed.is_some_and(|failed| failed > 0.0) { Ok(()) } else { Err(format!("{failed:?}")) }
        })
        .await
        .unwrap();
    }
    let task: TaskRecord = client.get("/api/tasks/unseen-49").await.unwrap();
    assert_eq!(task.task_id, "unseen-49");
    let log = std::fs::read_to_string(&traced.cluster.place(leader).log_file).unwrap();
    for signal in ["traces", "logs", "metrics"] {
        let said = |line: &&str| line.contains("the collector does not take") && line.contains(signal);
        assert_eq!(log.lines().filter(said).count(), 1, "{signal}: a failure is said once");
    }
}

/// By default there is neither a connection nor a thread for one, whatever the caller wants.
#[test]
fn off_there_is_nothing() {
    runtime().block_on(async {
        let mut cluster = Cluster::prepare(1, Binaries::find().unwrap(), "coordinator").unwrap();
        cluster.configure(0, &json!({"enable_redundancy": false, "peers": []})).unwrap();
        cluster.start_all().await.unwrap();
        let http = wait::http();
        submit(&http, &cluster.place(0).url(""), "t", Some(traceparent(TRACE, true))).await;
        let client = cluster.client().unwrap();
        let register = json!({"worker_id": "w", "slots": 1});
        client.post::<_, Value>("/api/workers/register", &register, Repeat::Never).await.unwrap();
        let ask = json!({"slots": 1, "wait_ms": 20_000});
        let lease: Value = client.post("/api/workers/w/lease", &ask, Repeat::Never).await.unwrap();
        assert_eq!(lease["tasks"][0]["task_id"], "t", "{lease}");
        assert!(lease["tasks"][0].get("traceparent").is_none(), "{lease}");
        let tasks = format!("/proc/{}/task", cluster.pid(0).unwrap());
        let threads = std::fs::read_dir(tasks).unwrap().flatten();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        let names: Vec<String> = names.collect();
        assert!(
            !names.is_empty() && !names.iter().any(|name| name.starts_with("OpenTelemetry")),
            "{names:?}"
        );
        let url = format!("http://127.0.0.1:{}/metrics", cluster.place(0).prometheus_port);
        let samples = Samples::of(&http, &url).await.unwrap();
        for outcome in ["sent", "failed", "dropped"] {
            let traces = [("signal", "traces"), ("outcome", outcome)];
            assert_eq!(samples.sum("holdfast_otlp_items_total", &traces), Some(0.0));
        }
    });
}
