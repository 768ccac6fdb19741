//! Nodes that are not there: small servers that answer like coordinators, or badly on purpose.

#![allow(dead_code, reason = "each test uses some of it")]

pub mod reports;

use api::cluster::Report;
use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How a staged node answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Report(Box<Report>),
    /// The report of node `.0` of a healthy cluster of `.1` that node-`.2` leads, as of now.
    Living(usize, usize, usize),
    /// The report of node `.0` of a cluster in which `.1` vote and `.2` leads, and all others learn.
    Crowd(usize, usize, usize),
    Status(u16, String),
    Text(String),
    /// Takes the request and never answers.
    Hang,
}

#[derive(Debug, Clone)]
struct Staged {
    answer: Arc<Mutex<Answer>>,
    clients: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

/// A staged node; its server ends when it is dropped.
#[derive(Debug)]
pub struct StagedNode {
    pub address: String,
    staged: Staged,
    end: CancellationToken,
    _guard: DropGuard,
}

impl StagedNode {
    pub async fn start(answer: Answer) -> Self {
        Self::start_at("127.0.0.1:0", answer).await
    }

    pub async fn start_at(address: &str, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let staged = Staged { answer: Arc::new(Mutex::new(answer)), clients: Arc::default() };
        let app = Router::new()
            .route("/api/report", get(respond))
            .with_state(staged.clone())
            .into_make_service_with_connect_info::<SocketAddr>();
        let end = CancellationToken::new();
        let ended = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                served = axum::serve(listener, app) => served.unwrap(),
            }
        });
        StagedNode { address, staged, _guard: end.clone().drop_guard(), end }
    }

    pub fn set(&self, answer: Answer) {
        *self.staged.answer.lock() = answer;
    }

    /// Connections on which something was asked.
    pub fn connections(&self) -> usize {
        self.staged.clients.lock().len()
    }

    pub fn stop(&self) {
        self.end.cancel();
    }
}

async fn respond(State(staged): State<Staged>, ConnectInfo(client): ConnectInfo<SocketAddr>) -> Response {
    staged.clients.lock().insert(client);
    let answer = staged.answer.lock().clone();
    match answer {
        Answer::Report(report) => axum::Json(*report).into_response(),
        Answer::Living(n, of, leader) => {
            axum::Json(reports::healthy(n, of, leader, 7, jiff::Timestamp::now())).into_response()
        }
        Answer::Crowd(n, voters, leader) => {
            let now = jiff::Timestamp::now();
            let mut report = reports::healthy(n, voters.max(n.min(voters + 1)), leader, 7, now);
            report.status.node_id = reports::name(n);
            report.status.voters = (1..=voters).map(reports::name).collect();
            if n > voters {
                report.status.role = api::cluster::Role::Learner;
                report.status.peers.retain(|p| report.status.voters.contains(&p.node_id));
            }
            axum::Json(report).into_response()
        }
        Answer::Status(status, text) => (StatusCode::from_u16(status).unwrap(), text).into_response(),
        Answer::Text(text) => text.into_response(),
        Answer::Hang => std::future::pending().await,
    }
}

/// Waits until `ask` gives something, or fails saying what was awaited.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "waited 60 s for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
