use super::sample::Value;
use super::*;
use crate::detectors::Finding;
use crate::events::EventKind;
use crate::snapshot::Severity;
use jiff::SignedDuration;

fn start() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn sample(metric: &'static metric::Metric, node: Option<&str>, value: f64) -> Sample {
    Sample { metric, node: node.map(str::to_owned), peer: None, value: Value::Number(value) }
}

fn record(at: Timestamp, samples: Vec<Sample>) -> Record {
    Record { at, samples, events: vec![], begun: vec![], ended: vec![] }
}

fn finding() -> Finding {
    Finding {
        kind: FaultKind::ProcessCrash,
        nodes: vec!["node-2".into()],
        severity: Severity::Warning,
        evidence: vec!["it refuses".into()],
        look_at: vec![],
        since: after(3),
        rounds: 2,
    }
}

/// Waits until all that was handed over is written.
fn settle(history: &History, rounds: u64) {
    let began = std::time::Instant::now();
    while history.standing().rounds_written < rounds {
        assert!(began.elapsed() < Duration::from_secs(30), "waited 30 s for {rounds} rounds to be written");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// So many seconds, a sample each, whose value is the second.
fn fill(history: &History, seconds: std::ops::Range<i64>) {
    let before = history.standing().rounds_written;
    let count = (seconds.end - seconds.start) as u64;
    for (n, second) in seconds.enumerate() {
        let samples = vec![
            sample(&metric::WRITES, Some("node-1"), second as f64),
            sample(&metric::WRITES, Some("node-2"), 5.0),
            sample(&metric::PENDING, None, 7.0),
        ];
        history.record(record(after(second), samples));
        if n % 100 == 99 {
            settle(history, before + n as u64 + 1);
        }
    }
    settle(history, before + count);
}

async fn ask(history: &History, from: i64, to: i64, step_seconds: u64) -> Answer {
    let query =
        Query::new(vec![&metric::WRITES], Some("node-1".into()), after(from), after(to), step_seconds);
    history.query(query.unwrap()).await.unwrap()
}

#[tokio::test]
async fn what_was_recorded_is_answered_in_steps() {
    let history = History::open(None, &Settings::default()).unwrap();
    fill(&history, 0..125);
    let answer = ask(&history, 0, 125, 10).await;
    assert_eq!(answer.series.len(), 1);
    let points = &answer.series[0].points;
    assert_eq!(points.len(), 13);
    assert_eq!(
        (points[1].at, points[1].min, points[1].max, points[1].mean, points[1].last),
        (after(10), 10.0, 19.0, 14.5, 19.0)
    );
    assert_eq!((points[12].min, points[12].max), (120.0, 124.0), "what is not joined yet is there, too");
    let minutes = ask(&history, 0, 125, 60).await;
    let means: Vec<f64> = minutes.series[0].points.iter().map(|p| p.mean).collect();
    assert_eq!(means, [29.5, 89.5, 122.0]);
    history.close();
}

#[tokio::test]
async fn a_gap_stays_a_gap_and_the_cluster_is_no_node() {
    let history = History::open(None, &Settings::default()).unwrap();
    fill(&history, 0..3);
    fill(&history, 40..43);
    let points = ask(&history, 0, 60, 10).await.series[0].points.clone();
    assert_eq!(points.iter().map(|p| p.at).collect::<Vec<_>>(), [after(0), after(40)]);
    let metrics = vec![&metric::PENDING, &metric::WRITES];
    let query = Query::new(metrics, Some("node-2".into()), after(0), after(60), 60).unwrap();
    let series = history.query(query).await.unwrap().series;
    let names: Vec<_> = series.iter().map(|s| (s.metric.name, s.node.as_deref())).collect();
    assert_eq!(names, [("pending", None), ("writes", Some("node-2"))]);
    history.close();
}

#[tokio::test]
async fn states_are_answered_by_name() {
    let history = History::open(None, &Settings::default()).unwrap();
    for (second, leader) in [(0, "node-2"), (1, "node-2"), (2, "node-3")] {
        let named = |metric, node: Option<&str>, name: &str| Sample {
            metric,
            node: node.map(str::to_owned),
            peer: None,
            value: Value::Name(name.into()),
        };
        let samples =
            vec![named(&metric::LEADER, None, leader), named(&metric::ROLE, Some("node-2"), "follower")];
        history.record(record(after(second), samples));
    }
    settle(&history, 3);
    let query = Query::new(vec![&metric::LEADER, &metric::ROLE], None, after(0), after(3), 1).unwrap();
    let series = history.query(query).await.unwrap().series;
    let leaders: Vec<&str> =
        series[0].points.iter().map(|p| series[0].states[&(p.last as u64)].as_str()).collect();
    assert_eq!(leaders, ["node-2", "node-2", "node-3"]);
    assert_eq!(series[1].states.values().collect::<Vec<_>>(), ["follower"]);
    history.close();
}

#[tokio::test]
async fn events_and_findings_are_kept_with_their_ends() {
    let history = History::open(None, &Settings::default()).unwrap();
    let event = Event {
        at: after(4),
        kind: EventKind::FindingBegun,
        severity: Severity::Warning,
        nodes: vec!["node-2".into()],
        text: "it's down; DROP TABLE events".into(),
        fault: Some(FaultKind::ProcessCrash),
    };
    let mut first = record(after(4), vec![]);
    first.events.push(event);
    first.begun.push(Begun { finding: finding(), at: after(4) });
    history.record(first);
    settle(&history, 1);
    let standing = history.findings(after(0), after(5), 10).await.unwrap();
    assert_eq!((standing.len(), standing[0].ended_at), (1, None));
    let mut second = record(after(9), vec![]);
    second.ended.push(Ended { kind: FaultKind::ProcessCrash, nodes: finding().nodes, at: after(9) });
    history.record(second);
    settle(&history, 2);
    let over = history.findings(after(0), after(20), 10).await.unwrap();
    assert_eq!((over[0].since, over[0].ended_at), (after(3), Some(after(9))));
    assert_eq!(over[0].evidence, ["it refuses"]);
    assert!(history.findings(after(10), after(20), 10).await.unwrap().is_empty());
    let events = history.events(after(0), after(20), 10).await.unwrap();
    assert_eq!(
        (events[0].kind.as_str(), events[0].fault.as_deref()),
        ("finding_begun", Some("process_crash"))
    );
    assert_eq!(events[0].text, "it's down; DROP TABLE events");
    history.close();
}

#[tokio::test]
async fn a_file_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.duckdb");
    let history = History::open(Some(&path), &Settings::default()).unwrap();
    let mut with_finding = record(after(0), vec![sample(&metric::WRITES, Some("node-1"), 0.0)]);
    with_finding.begun.push(Begun { finding: finding(), at: after(4) });
    history.record(with_finding);
    settle(&history, 1);
    fill(&history, 1..65);
    history.close();
    let again = History::open(Some(&path), &Settings::default()).unwrap();
    assert_eq!(ask(&again, 0, 65, 60).await.series[0].points[0].mean, 29.5);
    let ended = again.findings(after(0), after(100), 10).await.unwrap();
    assert_eq!(ended[0].ended_at, Some(after(64)), "what stood when the monitor ended was last seen then");
    fill(&again, 65..125);
    let points = ask(&again, 0, 125, 60).await.series[0].points.clone();
    assert_eq!(points.iter().map(|p| p.mean).collect::<Vec<_>>(), [29.5, 89.5, 122.0]);
    again.close();
}

#[tokio::test]
async fn a_damaged_file_is_put_aside_and_another_program_s_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.duckdb");
    let history = History::open(Some(&path), &Settings::default()).unwrap();
    fill(&history, 0..5);
    history.close();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..64].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let history = History::open(Some(&path), &Settings::default()).unwrap();
    let aside = history.standing().put_aside.unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), bytes);
    fill(&history, 0..5);
    history.close();
    let foreign = folder.path().join("other.duckdb");
    let other = Connection::open(&foreign).unwrap();
    other.execute_batch("CREATE TABLE meta (a INTEGER); CREATE TABLE b (c INTEGER)").unwrap();
    other.close().unwrap();
    let error = History::open(Some(&foreign), &Settings::default()).unwrap_err().to_string();
    assert!(error.contains("another program's"), "{error}");
}

#[tokio::test]
async fn retention_drops_the_old_and_keeps_what_is_not_joined() {
    let settings = Settings { raw_hours: 30.0 / 3_600.0, ..Settings::default() };
    assert_eq!(settings.fault(), None);
    let (open, _) = schema::open(None, 64).unwrap();
    let shared = Arc::new(Shared {
        path: None,
        known: Mutex::default(),
        rounds_written: AtomicU64::new(0),
        rounds_lost: AtomicU64::new(0),
        error: Mutex::new(None),
        put_aside: None,
        ended: AtomicBool::new(false),
    });
    let mut writer = Writer::new(open, settings, shared);
    for second in 0..100 {
        writer.write_for_test(&[record(after(second), vec![sample(&metric::WRITES, Some("node-1"), 1.0)])]);
    }
    writer.try_retention().unwrap();
    assert_eq!(writer.open.held[0].from_ms, after(69).as_millisecond());
    assert_eq!((writer.open.rows[0], writer.open.rows[1], writer.open.rows[2]), (31, 9, 1));
    let Writer { open, settings, shared, .. } = writer;
    let settings = Settings { max_rows: 20, ..settings };
    let mut writer = Writer::new(open, settings, shared);
    for _ in 0..20 {
        writer.try_retention().unwrap();
    }
    assert!(writer.open.rows[0] <= 20, "{:?}", writer.open.rows);
    assert_eq!(writer.open.rows[1], 9);
}

#[tokio::test]
async fn an_export_holds_every_row() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::open(None, &Settings::default()).unwrap();
    fill(&history, 0..25);
    let path = folder.path().join("it's.parquet");
    let rows = history.export(Export::Samples, after(0), after(100), path.clone()).await.unwrap();
    assert_eq!(rows, 75);
    let check = Connection::open_in_memory().unwrap();
    let sql = format!(
        "SELECT count(*), max(mean), count(DISTINCT node) FROM read_parquet('{}')",
        path.display().to_string().replace('\'', "''")
    );
    let found: (u64, f64, u64) =
        check.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(found, (75, 24.0, 2));
    for what in [Export::Events, Export::Findings] {
        let path = folder.path().join("empty.parquet");
        assert_eq!(history.export(what, after(0), after(100), path).await.unwrap(), 0);
    }
    history.close();
}

#[tokio::test]
async fn an_answer_has_a_bound() {
    let history = History::open(None, &Settings::default()).unwrap();
    for second in 0..140_i64 {
        let nodes = (0..1_500).map(|n| sample(&metric::WRITES, Some(&format!("n{n}")), 1.0));
        history.record(record(after(second), nodes.collect()));
    }
    settle(&history, 140);
    let query = Query::new(vec![&metric::WRITES], None, after(0), after(140), 1).unwrap();
    let error = history.query(query).await.unwrap_err();
    assert!(matches!(error, HistoryError::TooLong { .. }), "{error}");
    history.close();
}

#[test]
fn a_history_without_a_round_closes_in_peace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.duckdb");
    for _ in 0..2 {
        let history = History::open(Some(&path), &Settings::default()).unwrap();
        history.close();
        assert_eq!((history.standing().rounds_lost, history.standing().error), (0, None));
    }
}
