//! The scraper against nodes that answer well, badly, late and not at all.

mod support;

use monitor::scrape::{MAX_BODY_BYTES, Scraper};
use monitor::{NodeReport, ScrapeFailure};
use std::time::{Duration, Instant};
use support::reports::{epoch, healthy};
use support::{Answer, StagedNode};
use tokio::io::AsyncWriteExt;

const TIMEOUT: Duration = Duration::from_millis(400);

fn well() -> Answer {
    Answer::Report(Box::new(healthy(1, 3, 1, 5, epoch())))
}

async fn ask(address: &str) -> NodeReport {
    Scraper::new(vec![address.to_owned()], TIMEOUT).unwrap().round().await.remove(0)
}

fn failure(report: NodeReport) -> ScrapeFailure {
    report.outcome.expect_err("wanted a failure")
}

/// A port on which nobody listens: one that was just free.
async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_report_comes_whole() {
    let node = StagedNode::start(well()).await;
    let report = ask(&node.address).await;
    assert_eq!(report.address, node.address);
    assert_eq!(report.outcome.unwrap(), healthy(1, 3, 1, 5, epoch()));
    assert!(report.took_ms > 0.0);
}

#[tokio::test]
async fn a_node_is_asked_over_one_connection_until_it_breaks() {
    let node = StagedNode::start(well()).await;
    let scraper = Scraper::new(vec![node.address.clone()], TIMEOUT).unwrap();
    for _ in 0..20 {
        assert!(scraper.round().await.remove(0).outcome.is_ok());
    }
    node.set(Answer::Status(503, "starting".into()));
    failure(scraper.round().await.remove(0));
    assert_eq!(node.connections(), 1);
    // What was given up can't be asked on again: its answer may still come.
    node.set(Answer::Hang);
    failure(scraper.round().await.remove(0));
    node.set(well());
    for _ in 0..3 {
        assert!(scraper.round().await.remove(0).outcome.is_ok());
    }
    assert_eq!(node.connections(), 2);
}

#[tokio::test]
async fn a_closed_port_refuses_at_once() {
    let began = Instant::now();
    let failure = failure(ask(&closed_port().await).await);
    assert_eq!((failure.kind(), failure.to_string().as_str()), ("refused", "connection refused"));
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_that_hangs_is_timed_out_though_it_took_the_connection() {
    let node = StagedNode::start(Answer::Hang).await;
    let failure = failure(ask(&node.address).await);
    assert_eq!(failure, ScrapeFailure::TimedOut { connected: true, waited_ms: 400 });
    assert!(failure.to_string().contains("accepts connections"), "{failure}");
}

#[tokio::test]
async fn a_full_backlog_is_a_time_out_without_a_connection() {
    // Nobody accepts, and the queue of one is filled: further connections get no answer.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    for _ in 0..4 {
        let connect = tokio::net::TcpStream::connect(address);
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(100), connect).await {
            queued.push(stream);
        }
    }
    let failure = failure(ask(&address.to_string()).await);
    assert_eq!(failure, ScrapeFailure::TimedOut { connected: false, waited_ms: 400 });
}

#[tokio::test]
async fn an_unknown_host_is_unreachable() {
    let failure = failure(ask("no-such-host.invalid:80").await);
    // Where a resolver is slow to say no, the time-out comes first; neither is a refusal.
    assert!(matches!(failure.kind(), "unreachable" | "timed_out"), "{failure}");
}

#[tokio::test]
async fn an_error_status_is_told_with_its_text() {
    let problem = api::Problem::new(api::ErrorCode::Unavailable, "the node is starting");
    let node = StagedNode::start(Answer::Status(503, serde_json::to_string(&problem).unwrap())).await;
    let text = failure(ask(&node.address).await).to_string();
    assert!(text.contains("status 503") && text.contains("the node is starting"), "{text}");
    node.set(Answer::Status(500, "x".repeat(100_000)));
    let text = failure(ask(&node.address).await).to_string();
    assert!(text.contains("status 500") && text.len() < 300, "{text}");
}

#[tokio::test]
async fn garbage_is_malformed_and_says_where() {
    let node = StagedNode::start(Answer::Text("<html>".into())).await;
    assert_eq!(failure(ask(&node.address).await).kind(), "malformed");
    let mut report = serde_json::to_value(healthy(1, 3, 1, 5, epoch())).unwrap();
    report["status"]["term"] = "seven".into();
    node.set(Answer::Text(report.to_string()));
    let text = failure(ask(&node.address).await).to_string();
    assert!(text.contains("status.term"), "{text}");
    node.set(Answer::Text(String::new()));
    assert_eq!(failure(ask(&node.address).await).kind(), "malformed");
}

#[tokio::test]
async fn a_report_beyond_belief_is_refused() {
    let mut report = healthy(1, 3, 1, 5, epoch());
    report.status.voters = (0..1_000).map(|n| n.to_string()).collect();
    let node = StagedNode::start(Answer::Report(Box::new(report))).await;
    let text = failure(ask(&node.address).await).to_string();
    assert!(text.contains("1000 voters"), "{text}");
    node.set(Answer::Text(" ".repeat(MAX_BODY_BYTES + 1)));
    let report =
        Scraper::new(vec![node.address.clone()], Duration::from_secs(10)).unwrap().round().await.remove(0);
    let text = failure(report).to_string();
    assert!(text.contains("larger than 8 MiB"), "{text}");
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_no_refusal() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"now\"").await.unwrap();
    });
    let failure = failure(ask(&address).await);
    server.await.unwrap();
    assert_eq!(failure.kind(), "unreachable", "{failure}");
}

#[tokio::test]
async fn a_slow_node_delays_no_other() {
    let slow = StagedNode::start(Answer::Hang).await;
    let quick = StagedNode::start(well()).await;
    let nodes = vec![slow.address.clone(), quick.address.clone(), quick.address.clone()];
    let scraper = Scraper::new(nodes, TIMEOUT).unwrap();
    assert_eq!(scraper.nodes().len(), 2, "a repeated address is asked once");
    let began = Instant::now();
    let reports = scraper.round().await;
    assert!(began.elapsed() < TIMEOUT * 3, "{:?}", began.elapsed());
    assert_eq!([&reports[0].address, &reports[1].address], [&slow.address, &quick.address]);
    assert!(reports[1].outcome.is_ok() && reports[1].at < reports[0].at);
}

#[tokio::test]
async fn a_node_that_came_back_is_asked_anew() {
    let node = StagedNode::start(well()).await;
    let scraper = Scraper::new(vec![node.address.clone()], TIMEOUT).unwrap();
    assert!(scraper.round().await[0].outcome.is_ok());
    node.stop();
    support::wait_for("the stopped node to refuse", || async {
        let report = scraper.round().await.remove(0);
        report.outcome.err().filter(|f| *f == ScrapeFailure::Refused)
    })
    .await;
    let _again = StagedNode::start_at(&node.address, well()).await;
    assert!(scraper.round().await[0].outcome.is_ok());
}
