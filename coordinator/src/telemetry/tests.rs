use super::*;
use api::metrics;
use http_body_util::BodyExt;
use tower::ServiceExt;

fn telemetry() -> Telemetry {
    Telemetry::new("n1").unwrap()
}

#[test]
fn what_is_recorded_can_be_scraped_under_its_declared_name() {
    let telemetry = telemetry();
    telemetry.log_sync(Duration::from_micros(300), 3);
    telemetry.applied(Duration::from_micros(30));
    telemetry.committed(Duration::from_millis(2));
    telemetry.answered(7, Duration::from_millis(3));
    telemetry.proposals_ended(ProposalOutcome::Unknown, 2);
    telemetry.backup_known(1_700_000_000_500);
    telemetry.backup_failed();
    telemetry.read(ReadOutcome::Served);
    telemetry.entry_commands(12);
    telemetry.election();
    telemetry.peer_message("n2", Direction::Sent, 2, 100);
    telemetry.store_write(Duration::from_millis(4), 20);
    telemetry.http_request("/api/tasks/{id}", "GET", 200, Duration::from_millis(1));

    let text = telemetry.render().unwrap();
    for expected in [
        "holdfast_log_sync_duration_seconds_bucket{le=\"0.0005\"} 1",
        "holdfast_log_sync_entries_count 1",
        "holdfast_raft_commit_duration_seconds_bucket{le=\"0.0025\"} 1",
        "holdfast_raft_proposal_duration_seconds_bucket{le=\"0.0025\"} 0",
        "holdfast_backup_last_timestamp_seconds 1700000000.5",
        "holdfast_backups_total{outcome=\"failed\"} 1",
        "holdfast_raft_proposals_total{outcome=\"applied\"} 7",
        "holdfast_raft_proposals_total{outcome=\"dropped\"} 0",
        "holdfast_raft_proposals_total{outcome=\"unknown\"} 2",
        "holdfast_raft_proposal_duration_seconds_count 1",
        "holdfast_raft_reads_total{outcome=\"served\"} 1",
        "holdfast_raft_elections_total 1",
        "holdfast_peer_messages_total{direction=\"sent\",peer=\"n2\"} 2",
        "holdfast_peer_transferred_bytes_total{direction=\"sent\",peer=\"n2\"} 100",
        "holdfast_store_write_duration_seconds_count 1",
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/api/tasks/{id}\"} 1",
        "holdfast_tasks_submitted_total 0",
    ] {
        assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
    }
    assert!(!text.contains("otel_scope"), "scope labels are noise");
}

#[test]
fn every_scraped_name_is_declared() {
    let telemetry = telemetry();
    telemetry.applied(Duration::from_micros(30));
    let declared: Vec<String> = metrics::ALL.iter().map(metrics::Metric::prometheus_name).collect();
    for family in telemetry.registry.gather() {
        assert!(
            family.name() == "target_info" || declared.iter().any(|name| name == family.name()),
            "{} is not declared",
            family.name()
        );
    }
}

#[test]
fn a_flood_of_peers_makes_no_flood_of_series() {
    let telemetry = telemetry();
    for i in 0..1000 {
        telemetry.peer_message(&format!("n{i}"), Direction::Received, 1, 1);
    }
    assert_eq!(telemetry.counters.peers().len(), MAX_PEERS);
}

#[tokio::test]
async fn metrics_have_their_content_type_and_the_rest_is_a_problem() {
    let router = metrics_router(telemetry());
    let get = |path: &'static str| {
        router.clone().oneshot(axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap())
    };
    let answer = get("/metrics").await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("service_instance_id=\"n1\""));
    let answer = get("/elsewhere").await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], crate::http::problem::PROBLEM_JSON);
}
