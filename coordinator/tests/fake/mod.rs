//! A coordinator in memory, on a free port of this machine, that plays the worker protocol and the
//! task endpoints as the contract has them, and can be told to misbehave.
//!
//! It has one attempt a task and no clock: leases end when a test says so.

#![allow(dead_code)] // Each test program uses its own part.

use api::task::{
    Attempt, AttemptOutcome, BatchSubmitted, NewBatch, NewTask, ReportedStatus, TaskPage, TaskRecord,
    TaskState,
};
use api::worker::{
    FinishedAttempt, Heartbeat, HeartbeatAnswer, LeaseAnswer, LeaseRequest, LeasedTask, Register, Registered,
    ResultBatch, ResultVerdict, ResultVerdicts,
};
use api::{Client, ErrorCode, Problem};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the fake knows, has seen, and was told to do wrong.
#[derive(Default)]
pub struct Book {
    pub workers: BTreeMap<String, Register>,
    pub tasks: Vec<TaskRecord>,
    pub by_id: HashMap<String, usize>,
    next_token: u64,
    /// Tasks that were never delivered or whose delivery the worker did not confirm.
    leases: BTreeMap<u64, usize>,
    /// Tokens to be answered in `cancel`.
    pub cancel: BTreeSet<u64>,

    pub registrations: usize,
    pub heartbeats: Vec<Heartbeat>,
    pub lease_calls: Vec<LeaseRequest>,
    pub drains: usize,
    pub results: Vec<(String, FinishedAttempt)>,
    pub result_calls: usize,
    pub batch_calls: usize,
    pub list_calls: usize,
    pub task_calls: usize,

    /// Problems that the next calls meet, by endpoint: `result`, `batch`, `register`, `heartbeat`.
    pub refuse: HashMap<&'static str, VecDeque<ErrorCode>>,
    /// Take the next batches, but answer that the outcome is unknown.
    pub lose_batch_answers: usize,
    /// Deliver what is held again, though it is named.
    pub deliver_again: bool,
    pub draining: bool,
    /// Answer nothing but "unavailable".
    pub silent: bool,
    /// Tasks that end as soon as they are submitted: exit code by command.
    pub run_at_once: Option<fn(&str) -> i32>,
}

/// The server.
pub struct Fake {
    pub address: SocketAddr,
    pub book: Arc<Mutex<Book>>,
    server: Option<JoinHandle<()>>,
}

type Shared = State<Arc<Mutex<Book>>>;

impl Fake {
    pub async fn start() -> Fake {
        let mut fake = Fake {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            book: Arc::new(Mutex::new(Book::default())),
            server: None,
        };
        fake.come_back().await;
        fake
    }

    /// Listens again on its port, with the book as it was.
    pub async fn come_back(&mut self) {
        self.book.lock().silent = false;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let app = router(self.book.clone());
        self.server = Some(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
    }

    /// Closes its port and every connection.
    pub async fn go_away(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        // Connections that are open live in tasks of their own, which refuse from now on.
        self.book.lock().silent = true;
    }

    pub fn client(&self) -> Client {
        Client::new([self.address.to_string()]).unwrap()
    }

    /// Adds a task that a worker may lease.
    pub fn add(&self, task_id: &str, kind: &str, config: Value, timeout_seconds: f64) {
        let new: NewTask = serde_json::from_value(json!({
            "task_id": task_id, "type": kind, "config": config, "timeout_seconds": timeout_seconds
        }))
        .unwrap();
        self.book.lock().submit(&new);
    }

    /// Adds a shell command.
    pub fn add_command(&self, task_id: &str, line: &str) {
        self.add(task_id, "command", json!({ "command": line }), 60.0);
    }

    pub fn refuse(&self, endpoint: &'static str, codes: &[ErrorCode]) {
        self.book.lock().refuse.entry(endpoint).or_default().extend(codes);
    }

    /// The accepted result of a task, once it is there.
    pub async fn result(&self, task_id: &str) -> FinishedAttempt {
        let found =
            |book: &mut Book| book.results.iter().find(|(id, _)| id == task_id).map(|(_, r)| r.clone());
        self.until(&format!("the result of {task_id}"), found).await
    }

    /// Waits until the book satisfies `look`.
    pub async fn until<T>(&self, awaited: &str, mut look: impl FnMut(&mut Book) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&mut self.book.lock()) {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {awaited}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl Book {
    /// True where the task is new.
    fn submit(&mut self, new: &NewTask) -> bool {
        let task_id = new.task_id.clone().unwrap();
        if self.by_id.contains_key(&task_id) {
            return false;
        }
        let config = new.config.clone().unwrap_or_else(|| RawValue::NULL.to_owned());
        let mut task = TaskRecord {
            task_id: task_id.clone(),
            kind: new.kind.clone(),
            priority: new.priority.unwrap_or(5),
            state: TaskState::Pending,
            config,
            requirements: new.requirements.clone().unwrap_or_default(),
            timeout_seconds: new.timeout_seconds.unwrap_or(600.0),
            max_retries: new.max_retries.unwrap_or(2),
            retry_backoff_seconds: 1.0,
            created_at: Timestamp::now(),
            finished_at: None,
            attempt: 0,
            worker_id: None,
            token: None,
            error: None,
            attempts: Vec::new(),
            result: None,
        };
        if let Some(exit_code) = self.run_at_once {
            let config: Value = serde_json::from_str(task.config.get()).unwrap();
            let code = exit_code(config["command"].as_str().unwrap_or_default());
            task.state = if code == 0 { TaskState::Completed } else { TaskState::Failed };
            task.error = (code != 0).then(|| format!("exit code {code}"));
            let result = json!({ "exit_code": code, "stdout": format!("out of {task_id}\n"), "duration_seconds": 0.5 });
            task.result = Some(serde_json::value::to_raw_value(&result).unwrap());
        }
        self.by_id.insert(task_id, self.tasks.len());
        self.tasks.push(task);
        true
    }

    pub fn task(&self, task_id: &str) -> &TaskRecord {
        &self.tasks[self.by_id[task_id]]
    }

    pub fn token_of(&self, task_id: &str) -> Option<u64> {
        self.task(task_id).token
    }

    fn refusal(&mut self, endpoint: &str) -> Option<Response> {
        let code = self.refuse.get_mut(endpoint)?.pop_front()?;
        Some(problem(code, "the test wants it so"))
    }

    fn taken_back(&self, named: &[u64]) -> Vec<u64> {
        named.iter().copied().filter(|t| self.cancel.contains(t) || !self.leases.contains_key(t)).collect()
    }

    /// The call as results that were accepted since have changed it.
    fn call_now(&self, call: &LeaseRequest) -> LeaseRequest {
        let reported = |token: &u64| {
            !self.cancel.contains(token) && self.results.iter().any(|(_, result)| result.token == *token)
        };
        let (done, tokens): (Vec<u64>, Vec<u64>) = call.tokens.iter().partition(|token| reported(token));
        LeaseRequest { slots: call.slots + done.len() as u32, tokens, ..call.clone() }
    }

    /// Delivers again what is not named, then new tasks up to `slots`.
    fn deliver(&mut self, worker_id: &str, call: &LeaseRequest) -> Vec<LeasedTask> {
        let again = self.deliver_again;
        let mut out: Vec<LeasedTask> = self
            .leases
            .iter()
            .filter(|(token, at)| {
                let mine = self.tasks[**at].worker_id.as_deref() == Some(worker_id);
                let named = call.tokens.contains(token) || call.reporting.contains(token);
                mine && !self.cancel.contains(token) && (again || !named)
            })
            .map(|(token, at)| leased(&self.tasks[*at], *token))
            .collect();
        self.deliver_again = false;
        let types = self.workers[worker_id].types.clone();
        let mut free = call.slots as usize;
        for at in 0..self.tasks.len() {
            let ready = self.tasks[at].state == TaskState::Pending && types.contains(&self.tasks[at].kind);
            if free == 0 || self.draining || !ready {
                continue;
            }
            free -= 1;
            self.next_token += 1;
            let token = self.next_token;
            let task = &mut self.tasks[at];
            (task.state, task.token, task.worker_id) =
                (TaskState::Running, Some(token), Some(worker_id.into()));
            task.attempt += 1;
            self.leases.insert(token, at);
            out.push(leased(&self.tasks[at], token));
        }
        out
    }

    /// Ends the lease of a task as if its time had run out; the task waits for another.
    pub fn expire(&mut self, task_id: &str) {
        let at = self.by_id[task_id];
        if let Some(token) = self.tasks[at].token.take() {
            self.leases.remove(&token);
        }
        self.tasks[at].state = TaskState::Pending;
    }

    fn accept(&mut self, worker_id: &str, report: FinishedAttempt) -> Result<TaskState, ErrorCode> {
        let task_id = report.task_id.clone();
        let Some(&at) = self.by_id.get(&task_id) else { return Err(ErrorCode::UnknownTask) };
        let task = &mut self.tasks[at];
        if task.token != Some(report.token) {
            return Err(ErrorCode::StaleToken);
        }
        let (state, outcome) = match report.status {
            ReportedStatus::Completed => (TaskState::Completed, AttemptOutcome::Completed),
            ReportedStatus::Failed => (TaskState::Failed, AttemptOutcome::Failed),
        };
        if !task.state.is_final() {
            task.state = state;
            task.error = report.error.clone();
            task.result = report.result.clone();
            task.finished_at = Some(report.finished_at);
            task.attempts.push(Attempt {
                attempt: task.attempt,
                worker_id: worker_id.to_owned(),
                token: report.token,
                assigned_at: report.started_at,
                started_at: Some(report.started_at),
                finished_at: Some(report.finished_at),
                outcome: Some(outcome),
                error: report.error.clone(),
            });
            self.leases.remove(&report.token);
            self.results.push((task_id, report));
        }
        Ok(self.tasks[at].state)
    }
}

fn leased(task: &TaskRecord, token: u64) -> LeasedTask {
    LeasedTask {
        task_id: task.task_id.clone(),
        kind: task.kind.clone(),
        config: task.config.clone(),
        priority: task.priority,
        attempt: task.attempt,
        token,
        timeout_seconds: task.timeout_seconds,
        lease_expires_at: Timestamp::now(),
        traceparent: None,
    }
}

fn problem(code: ErrorCode, detail: &str) -> Response {
    (StatusCode::from_u16(code.status()).unwrap(), Json(Problem::new(code, detail))).into_response()
}

fn router(book: Arc<Mutex<Book>>) -> Router {
    Router::new()
        .route("/api/workers/register", post(register))
        .route("/api/workers/{id}/heartbeat", post(heartbeat))
        .route("/api/workers/{id}/lease", post(lease))
        .route("/api/workers/{id}/drain", post(drain))
        .route("/api/tasks", get(list))
        .route("/api/tasks/batch", post(batch))
        .route("/api/tasks/{id}", get(task))
        .route("/api/workers/{id}/results", post(results))
        .layer(axum::middleware::from_fn_with_state(book.clone(), refuse_when_silent))
        .with_state(book)
}

async fn refuse_when_silent(State(book): Shared, request: Request, next: Next) -> Response {
    if book.lock().silent {
        return problem(ErrorCode::Unavailable, "away");
    }
    let answer = next.run(request).await;
    if book.lock().silent { problem(ErrorCode::Unavailable, "away") } else { answer }
}

async fn register(State(book): Shared, Json(body): Json<Register>) -> Response {
    let mut book = book.lock();
    if let Some(refusal) = book.refusal("register") {
        return refusal;
    }
    book.registrations += 1;
    let worker_id = body.worker_id.clone();
    book.workers.insert(worker_id.clone(), body);
    // Short intervals: a test should not have to wait.
    Json(Registered { worker_id, heartbeat_interval_ms: 50, lease_ttl_ms: 15_000, lost_after_ms: 15_000 })
        .into_response()
}

async fn heartbeat(State(book): Shared, Path(id): Path<String>, Json(body): Json<Heartbeat>) -> Response {
    let mut book = book.lock();
    if let Some(refusal) = book.refusal("heartbeat") {
        return refusal;
    }
    if !book.workers.contains_key(&id) {
        return problem(ErrorCode::UnknownWorker, &id);
    }
    let answer = HeartbeatAnswer { cancel: book.taken_back(&body.tokens), draining: book.draining };
    book.heartbeats.push(body);
    Json(answer).into_response()
}

async fn lease(State(book): Shared, Path(id): Path<String>, Json(body): Json<LeaseRequest>) -> Response {
    let deadline = Instant::now() + Duration::from_millis(body.wait_ms);
    book.lock().lease_calls.push(body.clone());
    loop {
        {
            let mut book = book.lock();
            if !book.workers.contains_key(&id) {
                return problem(ErrorCode::UnknownWorker, &id);
            }
            let call = book.call_now(&body);
            let tasks = book.deliver(&id, &call);
            let cancel = book.taken_back(&call.tokens);
            if !tasks.is_empty() || !cancel.is_empty() || book.draining || Instant::now() >= deadline {
                return Json(LeaseAnswer { tasks, cancel, draining: book.draining }).into_response();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn drain(State(book): Shared, Path(_): Path<String>) -> Json<Value> {
    let mut book = book.lock();
    book.drains += 1;
    book.draining = true;
    Json(json!({}))
}

async fn results(State(book): Shared, Path(id): Path<String>, Json(body): Json<ResultBatch>) -> Response {
    let mut book = book.lock();
    book.result_calls += 1;
    let mut verdicts = Vec::new();
    for report in body.results {
        let (task_id, token) = (report.task_id.clone(), report.token);
        let refused = book.refuse.get_mut("result").and_then(VecDeque::pop_front);
        if refused.is_some_and(|code| code.status() == 422 || code.status() == 413) {
            return problem(refused.unwrap(), "the test wants it so");
        }
        // A stale token is one whose lease has ended.
        if refused.is_some_and(|code| code.status() == 409) {
            book.leases.remove(&token);
        }
        let outcome = refused.map_or_else(|| book.accept(&id, report), Err);
        let problem = outcome.err().map(|code| Problem::new(code, task_id.clone()));
        verdicts.push(ResultVerdict { task_id, token, state: outcome.ok(), problem });
    }
    Json(ResultVerdicts { results: verdicts }).into_response()
}

async fn batch(State(book): Shared, Json(body): Json<NewBatch>) -> Response {
    let mut book = book.lock();
    book.batch_calls += 1;
    if let Some(refusal) = book.refusal("batch") {
        return refusal;
    }
    let accepted = body.tasks.iter().map(|task| book.submit(task)).filter(|new| *new).count();
    if book.lose_batch_answers > 0 {
        book.lose_batch_answers -= 1;
        return problem(ErrorCode::UnknownOutcome, "the answer was lost");
    }
    let task_ids = body.tasks.iter().map(|task| task.task_id.clone().unwrap()).collect();
    (StatusCode::CREATED, Json(BatchSubmitted { accepted, task_ids, index: 1 })).into_response()
}

async fn task(State(book): Shared, Path(id): Path<String>) -> Response {
    let mut book = book.lock();
    book.task_calls += 1;
    match book.by_id.get(&id) {
        Some(&at) => Json(book.tasks[at].clone()).into_response(),
        None => problem(ErrorCode::UnknownTask, &id),
    }
}

async fn list(State(book): Shared, Query(query): Query<HashMap<String, String>>) -> Json<TaskPage> {
    let mut book = book.lock();
    book.list_calls += 1;
    let limit = query.get("limit").map_or(100, |n| n.parse().unwrap());
    let state = query.get("status").map(|s| TaskState::parse(s).unwrap());
    let start = query.get("after").map_or(0, |id| book.by_id[id] + 1);
    let mut rows: Vec<TaskRecord> = book.tasks[start..]
        .iter()
        .filter(|t| state.is_none_or(|s| t.state == s))
        .take(limit + 1)
        .cloned()
        .collect();
    let more = rows.len() > limit;
    rows.truncate(limit);
    for row in &mut rows {
        row.attempts.clear();
        row.result = None;
    }
    let next = rows.last().filter(|_| more).map(|t| t.task_id.clone());
    Json(TaskPage { tasks: rows, next })
}
