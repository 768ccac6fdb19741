//! Prometheus and Alertmanager on the shipped files, beside a real cluster.

use api::client::Repeat;
use queries::Of;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::Error;
use testbed::chaos::calm::rolling_restart;
use testbed::chaos::patient::Patient;
use testbed::load::Writers;
use testbed::observability::{Tools, target_count};
use testbed::prometheus::Prometheus;
use testbed::scrape::Samples;
use testbed::whole::Whole;
use testbed::{judge, process::ProcessRef, wait};

mod queries;

const LIMIT: Duration = Duration::from_secs(90);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// False where the two programs are not there; with CI=true that is a failure.
fn tools_are_here() -> bool {
    match Tools::find() {
        Ok(_) => true,
        Err(Error::ToolMissing { name, package }) => {
            assert!(std::env::var_os("CI").is_none(), "{name} is missing (Debian package {package})");
            println!("SKIPPED: {name} is missing (Debian package {package})");
            false
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn everything_is_scraped_every_rule_works_and_every_dashboard_has_something_to_show() {
    if !tools_are_here() {
        return;
    }
    runtime().block_on(async {
        let whole = Whole::start(3, &["--observability"]).await.unwrap();
        let layout = whole.layout().clone();
        let http = wait::http();
        let prometheus = Prometheus::on_port(layout.prometheus_port(), http.clone());
        for port in [layout.prometheus_port(), layout.alertmanager_port()] {
            let url = format!("http://127.0.0.1:{port}/");
            assert!(whole.printed().contains(&url), "{url} was not printed:\n{}", whole.printed());
        }
        let working = prometheus.working().await.unwrap();
        assert!(working.faults.is_empty(), "{:?}", working.faults);
        assert_eq!(working.targets_up, target_count(&layout, true));

        // Load, a change of leaders, a snapshot, a check, a backup: what dashboards tell of.
        let addresses: Vec<String> = whole.places().iter().map(|place| place.address()).collect();
        let writers = Writers::start(&addresses, 4, Duration::from_millis(50), judge::task).unwrap();
        let client = whole.client().unwrap();
        for place in whole.places() {
            for call in ["snapshot", "verify"] {
                let url = place.url(&format!("/api/admin/{call}"));
                let sent =
                    http.post(&url).timeout(LIMIT).json(&json!({"by_hand": true})).send().await.unwrap();
                assert!(sent.status().is_success(), "{url}: {}", sent.status());
            }
        }
        let backup = http.get(whole.places()[0].url("/api/backup")).timeout(LIMIT).send().await.unwrap();
        backup.error_for_status().unwrap().bytes().await.unwrap();
        client.post::<_, Value>("/api/cluster/transfer", &json!({}), Repeat::Never).await.unwrap();
        queries::all_have_something_to_show(&prometheus, Of::Load).await;
        let told = writers.finish().await;
        assert!(told.acknowledged.len() > 20, "{} writes", told.acknowledged.len());

        // Load, a transfer and a start are no reason for an alert.
        let mut firing = prometheus.alerts().await.unwrap();
        firing.retain(|alert| alert.firing && concerns_the_cluster(&alert.name));
        assert!(firing.is_empty(), "{firing:?}");
        let alerts = format!("http://127.0.0.1:{}/api/v2/alerts", layout.alertmanager_port());
        wait::until("the dead man's switch in Alertmanager", LIMIT, || async {
            let alerts: Value = wait::get(&http, &alerts).await?;
            let there = alerts.as_array().is_some_and(|all| {
                all.iter().any(|alert| alert["labels"]["alertname"] == "HoldfastWatchdog")
            });
            if there { Ok(()) } else { Err(alerts.to_string()) }
        })
        .await
        .unwrap();

        tokio::join!(
            a_dead_process_is_told_of(&whole, &prometheus, &http),
            queries::all_have_something_to_show(&prometheus, Of::Fault),
        );

        let processes = whole.record().unwrap().observability;
        assert_eq!(processes.len(), 2);
        drop(whole);
        assert!(!processes.iter().any(ProcessRef::is_alive), "they outlive the cluster");
    });
}

/// A killed node, held back from its repair, raises the alert, which reaches the daemon; then it is
/// mended.
async fn a_dead_process_is_told_of(whole: &Whole, prometheus: &Prometheus, http: &reqwest::Client) {
    let layout = whole.layout();
    let brake = format!("http://127.0.0.1:{}/api/brake", layout.recovery_port());
    let set_brake = async |on: bool| {
        let sent =
            http.post(&brake).json(&json!({"on": on, "why": "the test wants to see the alert"})).send().await;
        assert!(sent.unwrap().status().is_success());
    };
    set_brake(true).await;
    assert!(whole.coordinator("node-2").unwrap().signal(rustix::process::Signal::KILL));
    wait::until("HoldfastProcessCrash to fire", LIMIT, || async {
        let alerts = prometheus.alerts().await?;
        let fires = alerts.iter().any(|alert| {
            alert.firing && alert.name == "HoldfastProcessCrash" && alert.labels["node"] == "node-2"
        });
        if fires { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .await
    .unwrap();
    // Alertmanager counts what it delivered and what was refused.
    let sent = format!("http://127.0.0.1:{}/metrics", layout.alertmanager_port());
    wait::until("the daemon to have been told", LIMIT, || async {
        let samples = Samples::of(http, &sent).await?;
        let of = |name: &str| samples.sum(name, &[("integration", "webhook")]).unwrap_or_default();
        let failed = of("alertmanager_notifications_failed_total");
        assert!(failed == 0.0, "the daemon refused {failed} deliveries");
        let delivered = of("alertmanager_notifications_total");
        if delivered > 0.0 { Ok(()) } else { Err(format!("{delivered} delivered")) }
    })
    .await
    .unwrap();
    set_brake(false).await;
    wait::until("the node to be mended and the finding to go", LIMIT, || async {
        let left = prometheus.query("sum(holdfast_recovery_faults) + sum(up == bool 0)").await?;
        if left.iter().all(|series| series.value == 0.0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
}

/// How the names of alerts begin that a full disk or a busy processor of this machine may raise.
const OF_THE_MACHINE: [&str; 5] =
    ["HoldfastDisk", "HoldfastMemory", "HoldfastLogSync", "HoldfastPeerRtt", "HoldfastWriteLatency"];

fn concerns_the_cluster(alert: &str) -> bool {
    alert != "HoldfastWatchdog" && !OF_THE_MACHINE.iter().any(|begin| alert.starts_with(begin))
}

/// Waits until nothing that began to count down is left of what was done, and sees that nothing fired.
///
/// An alert that waits three minutes before it fires is so shown to be silent for good, without
/// waiting as long: it has let go of its reason.
async fn stays_quiet(patient: &Patient, done: &str) {
    wait::until(&format!("every alert to let go after {done}"), LIMIT, || async {
        let mut pending = patient.prometheus.alerts().await?;
        pending.retain(|alert| !alert.firing && concerns_the_cluster(&alert.name));
        if pending.is_empty() { Ok(()) } else { Err(format!("{pending:?}")) }
    })
    .await
    .unwrap();
    let fired =
        patient.prometheus.query("count_over_time(ALERTS{alertstate=\"firing\"}[15m])").await.unwrap();
    let mut fired: Vec<&str> = fired.iter().map(|series| series.labels["alertname"].as_str()).collect();
    fired.retain(|alert| concerns_the_cluster(alert));
    assert!(fired.is_empty(), "{done}: {fired:?}");
}

/// The shipped rules, while a cluster under load is restarted node by node; and as quiet when its
/// leadership is handed over, and when all of it starts again at once.
#[test]
fn members_down_alert_is_quiet_on_rolling_restart() {
    if !tools_are_here() {
        return;
    }
    runtime().block_on(async {
        let patient = Patient::start().await.unwrap();
        let writers =
            Writers::start(&patient.addresses(), 2, Duration::from_millis(100), judge::task).unwrap();
        assert_eq!(rolling_restart(&patient).await.unwrap(), 3);
        stays_quiet(&patient, "a rolling restart").await;

        let leader = patient.leader().await.unwrap();
        patient.transfer(None).await.unwrap();
        wait::until("another leader", LIMIT, || async {
            let next = patient.leader().await.map_err(|e| e.to_string())?;
            if next != leader { Ok(()) } else { Err(next) }
        })
        .await
        .unwrap();
        stays_quiet(&patient, "a transfer of leadership").await;

        assert!(!writers.finish().await.acknowledged.is_empty());
        patient.restart_all(&patient.whole.places()).await.unwrap();
        stays_quiet(&patient, "a cold start").await;
    });
}
