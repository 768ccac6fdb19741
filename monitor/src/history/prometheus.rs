//! IO: history that a Prometheus-compatible server keeps, read through its HTTP API.
//!
//! What the server has comes from it, by the query that stands beside each metric; what only the
//! monitor knows (who led, what it thought of a node) still comes from the embedded history. A
//! step's value is the server's at the end of the step: mean, least, greatest and last are one.
//!
//! The server knows instances, people know nodes: `target_info` of the same time joins the two, and
//! where it is missing the instance stands for the node.

use super::error::HistoryError;
use super::metric::Metric;
use super::query::{MAX_ANSWER_POINTS, Point, Query, Series};
use api::http::Access;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The largest answer that is read.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Questions to the server at once.
const MAX_IN_FLIGHT: usize = 4;
/// The narrowest window of a rate, seconds: four scrapes at the usual 15.
const LEAST_WINDOW_SECONDS: u64 = 60;

/// A server that keeps history.
#[derive(Debug, Clone)]
pub struct Server {
    url: String,
    selector: String,
    http: reqwest::Client,
    access: Access,
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl Server {
    /// A server at `url` (a prefix behind host and port is kept); `selector` chooses the
    /// coordinators among its series, as labels in PromQL.
    pub fn new(url: &str, selector: &str, access: Access) -> Result<Server, HistoryError> {
        let url = url.trim_end_matches('/').to_owned();
        let wrong = |why: String| HistoryError::Server { url: url.clone(), why };
        let parsed = reqwest::Url::parse(&url).map_err(|e| wrong(e.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(wrong("it is no http:// or https:// address".into()));
        }
        let http = access
            .builder(parsed.scheme() == "https")
            .map_err(|e| wrong(e.to_string()))?
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        Ok(Server { url, selector: selector.to_owned(), http, access })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The series of those metrics that the server has.
    pub(super) async fn ask(&self, query: &Query) -> Result<Vec<Series>, HistoryError> {
        let metrics: Vec<&'static Metric> =
            query.metrics.iter().copied().filter(|metric| metric.promql.is_some()).collect();
        let names = self.names(query).await?;
        let mut series: Vec<Series> = Vec::new();
        for some in metrics.chunks(MAX_IN_FLIGHT) {
            let asked: Vec<_> = some.iter().map(|metric| self.ask_one(metric, query, &names)).collect();
            series.extend(try_join_all(asked).await?.into_iter().flatten());
        }
        match series.iter().map(|s| s.points.len()).sum::<usize>() > MAX_ANSWER_POINTS {
            true => Err(HistoryError::TooLong { most: MAX_ANSWER_POINTS }),
            false => Ok(series),
        }
    }

    async fn ask_one(
        &self,
        metric: &'static Metric,
        query: &Query,
        names: &BTreeMap<String, String>,
    ) -> Result<Vec<Series>, HistoryError> {
        let window_seconds = query.step_seconds.max(LEAST_WINDOW_SECONDS);
        let promql = metric
            .promql
            .unwrap_or_default()
            .replace("$w", &format!("{window_seconds}s"))
            .replace("$j", &self.selector);
        let found = self.range(&promql, query).await?;
        let mut series: Vec<Series> = found
            .into_iter()
            .map(|found| {
                let instance = found.metric.get("instance");
                let node = instance.map(|instance| names.get(instance).unwrap_or(instance).clone());
                Series {
                    metric,
                    node,
                    peer: found.metric.get("peer").cloned(),
                    points: found.values.iter().filter_map(|value| point(value, query)).collect(),
                    states: BTreeMap::new(),
                }
            })
            .filter(|s| match (&query.node, &s.node) {
                (Some(only), Some(node)) => only == node,
                _ => true,
            })
            .filter(|s| !s.points.is_empty())
            .collect();
        series.sort_by(|a, b| (&a.node, &a.peer).cmp(&(&b.node, &b.peer)));
        Ok(series)
    }

    /// Node ids by instance.
    async fn names(&self, query: &Query) -> Result<BTreeMap<String, String>, HistoryError> {
        let promql = format!("max by (instance, service_instance_id) (target_info{{{}}})", self.selector);
        let found = self.range(&promql, query).await?;
        let name = |mut found: Found| {
            Some((found.metric.remove("instance")?, found.metric.remove("service_instance_id")?))
        };
        Ok(found.into_iter().filter_map(name).collect())
    }

    async fn range(&self, promql: &str, query: &Query) -> Result<Vec<Found>, HistoryError> {
        let failed = |why: String| HistoryError::Server { url: self.url.clone(), why };
        let step = query.step_seconds as f64;
        let start = query.from.as_millisecond() as f64 / 1_000.0 + step;
        // The step that `to` lies in counts as far as it has come.
        let end = (query.to.as_millisecond() as f64 / 1_000.0).max(start);
        let form = [
            ("query", promql.to_owned()),
            ("start", format!("{start:.3}")),
            ("end", format!("{end:.3}")),
            ("step", format!("{step}s")),
            // VictoriaMetrics moves the times to its cache's steps otherwise; Prometheus ignores it.
            ("nocache", "1".to_owned()),
        ];
        let body: Vec<String> = form.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
        let request = self
            .http
            .post(format!("{}/api/v1/query_range", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"));
        let answer = self.access.authorize(request).send().await;
        let mut answer = answer.map_err(|e| failed(api::client::error_chain(&e)))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| failed(api::client::error_chain(&e)))? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(failed(format!("its answer is larger than {} MiB", MAX_BODY_BYTES >> 20)));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
            failed(format!("it answered with status {} and no Prometheus JSON", status.as_u16()))
        })?;
        match answer.data {
            Some(data) if answer.status == "success" => Ok(data.result),
            _ => {
                Err(failed(crate::report::shorten(answer.error.as_deref().unwrap_or("it gave no data"), 300)))
            }
        }
    }
}

/// The value at the end of a step, where it is a figure.
fn point((at, value): &(f64, String), query: &Query) -> Option<Point> {
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let begin_ms = (at * 1_000.0).round() as i64 - query.step_seconds as i64 * 1_000;
    let at = Timestamp::from_millisecond(begin_ms).ok()?;
    Some(Point { at, mean: value, min: value, max: value, last: value })
}

/// A value of a form.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::metric;
    use axum::extract::Form;
    use axum::routing::post;
    use parking_lot::Mutex;
    use std::sync::Arc;

    type Asked = Arc<Mutex<Vec<BTreeMap<String, String>>>>;

    /// A server that gives one answer for all, but for `target_info`.
    async fn serve(answer: serde_json::Value) -> (String, Asked) {
        let asked: Asked = Arc::default();
        let seen = asked.clone();
        let respond = move |Form(form): Form<BTreeMap<String, String>>| {
            let names = serde_json::json!({"status": "success", "data": {"result": [
                {"metric": {"instance": "h1:9090", "service_instance_id": "node-1"}, "values": [[1.0, "1"]]}
            ]}});
            let is_names = form["query"].contains("target_info");
            seen.lock().push(form);
            let answer = if is_names { names } else { answer.clone() };
            async move { axum::Json(answer) }
        };
        let app = axum::Router::new().route("/prom/api/v1/query_range", post(respond));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/prom/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, asked)
    }

    fn query() -> Query {
        let from: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let to = from + jiff::SignedDuration::from_secs(60);
        Query::new(vec![&metric::WRITES, &metric::ROLE], None, from, to, 10).unwrap()
    }

    #[tokio::test]
    async fn instances_become_nodes_and_a_step_is_named_by_its_begin() {
        let at = query().from.as_second() as f64 + 10.0;
        let (url, asked) = serve(serde_json::json!({"status": "success", "data": {"result": [
            {"metric": {"instance": "h1:9090"}, "values": [[at, "2.5"], [at + 10.0, "NaN"]]},
            {"metric": {"instance": "h2:9090"}, "values": [[at, "4"]]},
            {"metric": {"instance": "h3:9090"}, "values": [[at, "+Inf"]]}
        ]}}))
        .await;
        let server = Server::new(&url, "job=\"coordinator\"", Access::default()).unwrap();
        let series = server.ask(&query()).await.unwrap();
        let nodes: Vec<_> = series.iter().map(|s| s.node.as_deref().unwrap()).collect();
        assert_eq!(nodes, ["h2:9090", "node-1"], "no series for what has no figure");
        assert_eq!(series[1].points.len(), 1);
        assert_eq!((series[1].points[0].at, series[1].points[0].mean), (query().from, 2.5));
        let asked = asked.lock();
        assert_eq!(asked.len(), 2, "a metric that the server can't have is not asked for");
        assert!(asked[1]["query"].contains("job=\"coordinator\"}[60s]"), "{:?}", asked[1]);
        assert_eq!(asked[1]["step"], "10s");
    }

    #[tokio::test]
    async fn a_server_that_fails_is_named_with_what_it_said() {
        let (url, _) = serve(serde_json::json!({"status": "error", "error": "too many samples"})).await;
        let server = Server::new(&url, "", Access::default()).unwrap();
        let error = server.ask(&query()).await.unwrap_err().to_string();
        assert!(error.contains("too many samples") && error.contains("/prom can't be asked"), "{error}");
        let server = Server::new("http://127.0.0.1:9", "", Access::default()).unwrap();
        assert!(server.ask(&query()).await.unwrap_err().to_string().contains("127.0.0.1:9"));
        assert!(Server::new("ftp://x", "", Access::default()).is_err());
    }
}
