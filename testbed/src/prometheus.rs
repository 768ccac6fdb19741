//! What a Prometheus server says over its API: targets, rules, alerts, queries.

use serde_json::Value;
use std::collections::BTreeMap;

/// A Prometheus server.
#[derive(Debug, Clone)]
pub struct Prometheus {
    base: String,
    http: reqwest::Client,
}

/// One series of an answer, with its newest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The value; it may be no number.
    pub value: f64,
}

/// An alert that is pending or firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// Its other labels.
    pub labels: BTreeMap<String, String>,
    /// True once it fires.
    pub firing: bool,
}

/// Whether everything that was configured works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Working {
    /// Targets that answer.
    pub targets_up: usize,
    /// Rules that were evaluated without an error.
    pub rules_ok: usize,
    /// What does not work, or not yet.
    pub faults: Vec<String>,
}

impl Prometheus {
    /// The server on this port of this machine.
    pub fn on_port(port: u16, http: reqwest::Client) -> Prometheus {
        Prometheus { base: format!("http://127.0.0.1:{port}"), http }
    }

    /// GET of an API path; what is under `data`.
    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("{}/api/v1/{path}", self.base);
        let why = |e: reqwest::Error| format!("{url}: {}", api::client::error_chain(&e));
        let url = reqwest::Url::parse_with_params(&url, query).map_err(|e| format!("{url}: {e}"))?;
        let answer: Value = self.http.get(url).send().await.map_err(why)?.json().await.map_err(why)?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(format!("{path}: {}", answer["error"].as_str().unwrap_or("no answer that can be read"))),
        }
    }

    /// Looks at every target and every rule.
    pub async fn working(&self) -> Result<Working, String> {
        let mut working = Working::default();
        for target in list(&self.api("targets", &[("state", "active")]).await?["activeTargets"]) {
            if target["health"] == "up" {
                working.targets_up += 1;
            } else {
                working.faults.push(format!(
                    "target {} is {}: {}",
                    text(&target["scrapeUrl"]),
                    text(&target["health"]),
                    text(&target["lastError"])
                ));
            }
        }
        for group in list(&self.api("rules", &[]).await?["groups"]) {
            for rule in list(&group["rules"]) {
                if rule["health"] == "ok" {
                    working.rules_ok += 1;
                } else {
                    let (name, health) = (text(&rule["name"]), text(&rule["health"]));
                    working.faults.push(format!("rule {name} is {health}: {}", text(&rule["lastError"])));
                }
            }
        }
        Ok(working)
    }

    /// Alerts that are pending or firing now.
    pub async fn alerts(&self) -> Result<Vec<Alert>, String> {
        let data = self.api("alerts", &[]).await?;
        let alerts = list(&data["alerts"]).map(|alert| {
            let mut labels = string_map(&alert["labels"]);
            Alert {
                name: labels.remove("alertname").unwrap_or_default(),
                labels,
                firing: alert["state"] == "firing",
            }
        });
        Ok(alerts.collect())
    }

    /// A query at this moment.
    pub async fn query(&self, expression: &str) -> Result<Vec<Series>, String> {
        let data = self.api("query", &[("query", expression)]).await?;
        if data["resultType"] == "scalar" {
            let value = text(&data["result"][1]).parse().unwrap_or(f64::NAN);
            return Ok(vec![Series { labels: BTreeMap::new(), value }]);
        }
        let series = list(&data["result"]).map(|series| Series {
            labels: string_map(&series["metric"]),
            value: text(&series["value"][1]).parse().unwrap_or(f64::NAN),
        });
        Ok(series.collect())
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn string_map(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(name, value)| (name.clone(), text(value).to_owned())).collect()
}
