//! Prometheus and Alertmanager beside a cluster, on the files that are shipped.
//!
//! Rules and routes are the shipped ones, word for word. Only what names a place is made here: the
//! targets, the receivers' addresses, the token. So what is seen on this machine is what an operator
//! gets.

use crate::Error;
use crate::layout::Layout;
use std::path::{Path, PathBuf};

/// The shipped rules.
pub const RULES: [(&str, &str); 5] = [
    ("availability.yml", include_str!("../../alerts/rules/availability.yml")),
    ("faults.yml", include_str!("../../alerts/rules/faults.yml")),
    ("operations.yml", include_str!("../../alerts/rules/operations.yml")),
    ("resources.yml", include_str!("../../alerts/rules/resources.yml")),
    ("slo.yml", include_str!("../../alerts/rules/slo.yml")),
];
const ALERTMANAGER: &str = include_str!("../../alerts/alertmanager.yml");
/// The cluster's name in the label of that name.
const CLUSTER: &str = "holdfast";

/// The two programs.
#[derive(Debug, Clone)]
pub struct Tools {
    prometheus: PathBuf,
    alertmanager: PathBuf,
}

impl Tools {
    /// Finds them on the path, or where `./dev` unpacks them.
    pub fn find() -> Result<Tools, Error> {
        let alertmanager = find("prometheus-alertmanager").or_else(|_| find("alertmanager"));
        Ok(Tools {
            prometheus: find("prometheus")?,
            alertmanager: alertmanager.map_err(|_| missing("alertmanager", "prometheus-alertmanager"))?,
        })
    }
}

fn missing(name: &'static str, package: &'static str) -> Error {
    Error::ToolMissing { name, package }
}

fn find(name: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let here = std::env::current_dir().unwrap_or_default();
    folders.extend(here.ancestors().map(|folder| folder.join(".tools/usr/bin")));
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| missing(name, name))
}

/// A program that is to be started.
#[derive(Debug)]
pub struct Start {
    /// `prometheus` or `alertmanager`.
    pub name: &'static str,
    /// Its executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What answers once it works.
    pub ready_url: String,
}

/// Where the daemon's bearer token lies.
pub fn token_file(layout: &Layout) -> PathBuf {
    folder(layout).join("webhook_token")
}

fn folder(layout: &Layout) -> PathBuf {
    layout.data.join("observability")
}

/// Writes everything that the two programs, and the recovery daemon, read.
pub fn write_files(layout: &Layout, recovery: bool) -> Result<(), Error> {
    let folder = folder(layout);
    let rules = folder.join("rules");
    std::fs::create_dir_all(&rules).map_err(Error::io(format!("create {}", rules.display())))?;
    for (name, text) in RULES {
        write(&rules.join(name), text)?;
    }
    write(&token_file(layout), &format!("{:032x}\n", rand::random::<u128>()))?;
    write(&folder.join("prometheus.yml"), &prometheus_config(layout, recovery))?;
    write(&folder.join("alertmanager.yml"), &alertmanager_config(layout, recovery)?)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}

/// How Alertmanager and Prometheus are started, in this order.
pub fn starts(layout: &Layout, tools: &Tools) -> [Start; 2] {
    let folder = folder(layout);
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
    let url = |port: u16| format!("http://127.0.0.1:{port}/-/ready");
    [
        Start {
            name: "alertmanager",
            program: tools.alertmanager.clone(),
            arguments: vec![
                file("config.file", "alertmanager.yml"),
                file("storage.path", "alertmanager"),
                format!("--web.listen-address=127.0.0.1:{}", layout.alertmanager_port()),
                // One of its own: no gossip, no further port.
                "--cluster.listen-address=".into(),
                "--log.level=warn".into(),
            ],
            ready_url: url(layout.alertmanager_port()),
        },
        Start {
            name: "prometheus",
            program: tools.prometheus.clone(),
            arguments: vec![
                file("config.file", "prometheus.yml"),
                file("storage.tsdb.path", "prometheus"),
                format!("--web.listen-address=127.0.0.1:{}", layout.prometheus_port()),
                "--storage.tsdb.retention.time=7d".into(),
                "--log.level=warn".into(),
            ],
            ready_url: url(layout.prometheus_port()),
        },
    ]
}

/// How many targets Prometheus has.
pub fn target_count(layout: &Layout, recovery: bool) -> usize {
    layout.nodes + 1 + usize::from(recovery)
}

fn prometheus_config(layout: &Layout, recovery: bool) -> String {
    let mut text = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [rules/*.yml]\n\
         alerting:\n  alertmanagers:\n    - static_configs:\n        - targets: ['127.0.0.1:{}']\n\
         scrape_configs:\n",
        layout.alertmanager_port()
    );
    let mut job = |name: &str, targets: &[(String, u16)]| {
        text.push_str(&format!("  - job_name: {name}\n    static_configs:\n"));
        for (instance, port) in targets {
            text.push_str(&format!(
                "      - targets: ['127.0.0.1:{port}']\n        labels: {{cluster: {CLUSTER}, instance: {instance}}}\n"
            ));
        }
    };
    let nodes: Vec<_> = layout.node_places().into_iter().map(|n| (n.id, n.prometheus_port)).collect();
    job("holdfast-coordinator", &nodes);
    job("holdfast-monitor", &[("monitor".into(), layout.monitor_port())]);
    if recovery {
        job("holdfast-recovery", &[("recovery".into(), layout.recovery_port())]);
    }
    text
}

/// The shipped routes and inhibitions, with receivers of this machine: the daemon, and nobody else.
/// People look at Alertmanager's own page.
fn alertmanager_config(layout: &Layout, recovery: bool) -> Result<String, Error> {
    let mut text = String::new();
    let (mut in_receivers, mut named) = (false, 0);
    for line in ALERTMANAGER.lines() {
        if !line.starts_with([' ', '#']) && !line.is_empty() {
            in_receivers = line == "receivers:";
        }
        if in_receivers && line.starts_with("  ") && !line.starts_with("  - name:") {
            continue;
        }
        text.push_str(line);
        text.push('\n');
        if in_receivers && let Some(name) = line.strip_prefix("  - name: ") {
            named += 1;
            if name == "recovery" && recovery {
                text.push_str(&daemon_receiver(layout));
            }
        }
    }
    if named == 0 {
        return Err(Error::Setting("the shipped alertmanager.yml names no receivers".into()));
    }
    Ok(text)
}

fn daemon_receiver(layout: &Layout) -> String {
    format!(
        "    webhook_configs:\n      - url: http://127.0.0.1:{}/alertmanager\n        max_alerts: 0\n        \
         http_config:\n          authorization:\n            type: Bearer\n            credentials_file: {}\n",
        layout.recovery_port(),
        token_file(layout).display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn layout() -> Layout {
        Layout { data: "/data".into(), nodes: 3, base_port: 8080 }
    }

    fn shipped(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }

    #[test]
    fn every_shipped_rule_file_is_used() {
        let files: BTreeSet<String> = std::fs::read_dir(shipped("alerts/rules"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(files, RULES.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn the_jobs_are_those_of_the_shipped_scrape_config() {
        let jobs = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix("- job_name: "));
            lines.map(str::to_owned).collect()
        };
        let config = std::fs::read_to_string(shipped("deploy/prometheus.yml")).unwrap();
        let own = prometheus_config(&layout(), true);
        assert_eq!(jobs(&own), jobs(&config));
        assert_eq!(own.matches("- targets: ['127.0.0.1").count(), target_count(&layout(), true) + 1);
    }

    #[test]
    fn routes_stay_and_receivers_are_of_this_machine() {
        let config = alertmanager_config(&layout(), true).unwrap();
        let routes = |text: &str| text[..text.find("\nreceivers:").unwrap()].to_owned();
        assert_eq!(routes(&config), routes(ALERTMANAGER));
        let tail = |text: &str| text[text.find("\ninhibit_rules:").unwrap()..].to_owned();
        assert_eq!(tail(&config), tail(ALERTMANAGER));
        assert_eq!(config.matches("url: ").count(), 1, "{config}");
        assert!(config.contains("url: http://127.0.0.1:8091/alertmanager"), "{config}");
        assert_eq!(config.matches("- name: ").count(), ALERTMANAGER.matches("- name: ").count());
        assert!(!alertmanager_config(&layout(), false).unwrap().contains("webhook_configs"));
    }
}
