//! The worker's side of the protocol: register, lease, heartbeat, drain.

use super::guard::Guard;
use super::held::{Admission, Held};
use super::report::Reporter;
use super::{Shutdown, WorkerConfig, WorkerError, host_name, path_segment, work};
use api::client::Repeat;
use api::worker::{
    HEARTBEAT_INTERVAL_MS, Heartbeat, HeartbeatAnswer, LeaseAnswer, LeaseRequest, LeasedTask, Register,
    Registered,
};
use api::{Client, ClientError, ErrorCode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a lease call waits for a task. A leader that hangs is noticed no later than this;
/// usually a failing heartbeat ends the wait before.
const LEASE_WAIT: Duration = Duration::from_secs(10);
/// A lease call may take this much longer than its wait.
const LEASE_SLACK: Duration = Duration::from_secs(3);
/// A call that is not a long poll.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Between failed lease calls.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a drain listens for leases that are on their way to us.
const LAST_LEASES_LIMIT: Duration = Duration::from_secs(1);
/// How long a killed worker waits for its processes to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// One worker at work.
#[derive(Debug)]
pub struct Session {
    /// What it is.
    pub config: WorkerConfig,
    /// The cluster.
    pub client: Client,
    /// How it is told to end.
    pub shutdown: Shutdown,
    /// Ends the tasks' processes should the worker be killed.
    pub guard: Guard,
    held: Mutex<Held>,
    /// Wakes the lease call when a slot was freed that the coordinator can't know of.
    freed: Notify,
    /// Takes results to be delivered.
    pub reporter: Reporter,
    /// Wakes the lease call when the leader it waits at seems to be gone.
    leader_lost: Notify,
    /// Counts registrations, so that several calls that meet a 404 register once.
    registrations: AtomicU64,
    registering: tokio::sync::Mutex<()>,
    heartbeat_interval_ms: AtomicU64,
    /// True while the coordinator wants it to take nothing new.
    told_to_drain: AtomicBool,
    drain_said: AtomicBool,
    /// Tasks whose processes the kill ended. They are no longer held.
    unfinished: Mutex<Vec<String>>,
    /// Ends the heartbeat, last of all.
    ended: CancellationToken,
}

impl Session {
    /// A session that has not begun.
    pub fn new(config: WorkerConfig, client: Client, shutdown: Shutdown) -> Arc<Session> {
        let slots = usize::try_from(config.slots).unwrap_or(usize::MAX / 2);
        Arc::new(Session {
            config,
            client,
            shutdown,
            guard: Guard::default(),
            held: Mutex::new(Held::new(slots)),
            freed: Notify::new(),
            reporter: Reporter::default(),
            leader_lost: Notify::new(),
            registrations: AtomicU64::new(0),
            registering: tokio::sync::Mutex::new(()),
            heartbeat_interval_ms: AtomicU64::new(HEARTBEAT_INTERVAL_MS),
            told_to_drain: AtomicBool::new(false),
            drain_said: AtomicBool::new(false),
            unfinished: Mutex::new(Vec::new()),
            ended: CancellationToken::new(),
        })
    }

    /// Works until it is told to end.
    pub async fn run(self: Arc<Self>) -> Result<(), WorkerError> {
        let _ended = self.ended.clone().drop_guard();
        self.first_registration().await?;
        let tracker = TaskTracker::new();
        let heartbeats = tokio::spawn(self.clone().heartbeats());
        let reports = tokio::spawn(super::report::deliver_all(self.clone(), self.ended.clone()));
        self.take_leases(&tracker).await;
        let outcome = self.finish(&tracker).await;
        self.ended.cancel();
        // It ends at once; a panic there was printed.
        let _ = heartbeats.await;
        let _ = reports.await;
        outcome
    }

    /// Registers, however long it takes for a coordinator to be there.
    async fn first_registration(&self) -> Result<(), WorkerError> {
        let mut pause = FIRST_PAUSE;
        let mut outage = Outage::default();
        loop {
            let error = tokio::select! {
                answer = self.register() => match answer {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                () = self.shutdown.drain.cancelled() => {
                    return Err(WorkerError::NeverRegistered { addresses: self.client.addresses().join(", ") });
                }
            };
            if is_refusal(&error) {
                return Err(WorkerError::Refused { worker_id: self.config.worker_id.clone(), source: error });
            }
            outage.failed("register", &error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn register(&self) -> Result<(), ClientError> {
        let body = Register {
            worker_id: self.config.worker_id.clone(),
            labels: self.config.labels.clone(),
            resources: self.config.resources.clone(),
            slots: self.config.slots,
            types: self.config.types.clone(),
            host: Some(host_name()),
        };
        let client = self.client.with_deadline(CALL_LIMIT);
        let answer: Registered = client.post("/api/workers/register", &body, Repeat::Idempotent).await?;
        self.heartbeat_interval_ms.store(answer.heartbeat_interval_ms.clamp(10, 60_000), Ordering::Relaxed);
        self.registrations.fetch_add(1, Ordering::AcqRel);
        tracing::info!(worker_id = %self.config.worker_id, slots = self.config.slots, "registered");
        Ok(())
    }

    /// The present registration, to be given to [`Self::register_again`].
    pub fn registration(&self) -> u64 {
        self.registrations.load(Ordering::Acquire)
    }

    /// Registers under the same id because a call made under `registration` met an unknown worker;
    /// does nothing when somebody else did so meanwhile. A failure is left to the next call.
    pub async fn register_again(&self, registration: u64) {
        let _one_at_a_time = self.registering.lock().await;
        if self.registration() != registration {
            return;
        }
        tracing::warn!("the coordinator does not know this worker; registering again");
        if let Err(error) = self.register().await {
            tracing::warn!(%error, "could not register again yet");
        }
        if self.shutdown.drain.is_cancelled() {
            self.say_draining().await;
        }
    }

    /// The lease is over. Where its result was accepted, the coordinator knows that a slot is free;
    /// else the call that waits has to be made again, as it names one slot too few.
    pub fn release(&self, token: u64, accepted: bool) {
        self.held.lock().release(token);
        if !accepted {
            self.freed.notify_waiters();
        }
    }

    /// The kill ended the task's processes before they were done.
    pub fn left_unfinished(&self, task_id: &str) {
        self.unfinished.lock().push(task_id.to_owned());
    }

    /// The lease's work is done; its result is on its way.
    pub fn reports(&self, token: u64) {
        self.held.lock().reports(token);
    }

    fn path(&self, call: &str) -> String {
        format!("/api/workers/{}/{call}", path_segment(&self.config.worker_id))
    }

    fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms.load(Ordering::Relaxed))
    }

    /// Tells the cluster every interval that this worker lives and what it holds.
    async fn heartbeats(self: Arc<Self>) {
        let mut outage = Outage::default();
        loop {
            let interval = self.heartbeat_interval();
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.ended.cancelled() => return,
            }
            let registration = self.registration();
            let body = {
                let held = self.held.lock();
                Heartbeat { tokens: held.tokens().into_iter().chain(held.reporting()).collect() }
            };
            let client = self.client.with_deadline(interval.clamp(Duration::from_secs(1), CALL_LIMIT));
            let path = self.path("heartbeat");
            let answer = tokio::select! {
                answer = client.post::<_, HeartbeatAnswer>(&path, &body, Repeat::Idempotent) => answer,
                () = self.ended.cancelled() => return,
            };
            match answer {
                Ok(answer) => {
                    outage.ended("heartbeat");
                    self.heed(&answer.cancel, answer.draining);
                }
                Err(error) if error.code() == Some(ErrorCode::UnknownWorker) => {
                    self.register_again(registration).await;
                }
                Err(error) => {
                    outage.failed("heartbeat", &error);
                    self.leader_lost.notify_waiters();
                }
            }
        }
    }

    /// Ends the work whose lease was taken back.
    fn heed(&self, cancel: &[u64], draining: bool) {
        let mut held = self.held.lock();
        for token in cancel {
            if let Some(task_id) = held.take_back(*token) {
                tracing::info!(task_id, token, "the lease was taken back; ending its work");
            }
        }
        if self.told_to_drain.swap(draining, Ordering::Relaxed) != draining
            && !self.shutdown.drain.is_cancelled()
        {
            tracing::info!(draining, "the coordinator changed what this worker may take");
        }
    }

    /// Takes leases until the drain. One call waits all the time, also while every slot is taken:
    /// it brings cancellations at once, and a task as soon as a result has freed a slot.
    async fn take_leases(self: &Arc<Self>, tracker: &TaskTracker) {
        let mut pause = FIRST_PAUSE;
        let mut outage = Outage::default();
        while self.may_ask().await {
            let registration = self.registration();
            let poll = self.lease(LEASE_WAIT);
            tokio::pin!(poll);
            let answer = tokio::select! {
                answer = &mut poll => Some(answer),
                () = self.leader_lost.notified() => None,
                () = self.freed.notified() => None,
                () = self.shutdown.drain.cancelled() => {
                    self.say_draining().await;
                    // What was leased to us before the coordinator knew is ours to run.
                    tokio::time::timeout(LAST_LEASES_LIMIT, poll).await.ok()
                }
            };
            match answer {
                None => {}
                Some(Ok(answer)) => {
                    outage.ended("lease");
                    pause = FIRST_PAUSE;
                    self.accept(answer, tracker);
                }
                Some(Err(error)) => {
                    if error.code() == Some(ErrorCode::UnknownWorker) {
                        self.register_again(registration).await;
                    } else {
                        outage.failed("lease", &error);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.shutdown.drain.cancelled() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits while the coordinator wants this worker to take nothing. False when it drains itself.
    async fn may_ask(&self) -> bool {
        loop {
            if self.shutdown.drain.is_cancelled() {
                return false;
            }
            if !self.told_to_drain.load(Ordering::Relaxed) {
                return true;
            }
            tokio::select! {
                // The heartbeat tells when it is over.
                () = tokio::time::sleep(self.heartbeat_interval()) => {}
                () = self.shutdown.drain.cancelled() => {}
            }
        }
    }

    async fn lease(&self, wait: Duration) -> Result<LeaseAnswer, ClientError> {
        let body = {
            let held = self.held.lock();
            LeaseRequest {
                slots: u32::try_from(held.free_slots()).unwrap_or(u32::MAX),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
                tokens: held.tokens(),
                reporting: held.reporting(),
            }
        };
        // What an answer that got lost had given is given again, so the call may be repeated.
        self.client
            .with_deadline(wait + LEASE_SLACK)
            .post(&self.path("lease"), &body, Repeat::Idempotent)
            .await
    }

    fn accept(self: &Arc<Self>, answer: LeaseAnswer, tracker: &TaskTracker) {
        self.heed(&answer.cancel, answer.draining);
        for task in answer.tasks {
            self.start(task, tracker);
        }
    }

    fn start(self: &Arc<Self>, task: LeasedTask, tracker: &TaskTracker) {
        let admission = self.held.lock().admit(task.token, &task.task_id);
        match admission {
            Admission::Run(taken_back) => {
                tracker.spawn(work::carry_out(self.clone(), task, taken_back));
            }
            Admission::Known => {
                tracing::debug!(task_id = %task.task_id, token = task.token, "delivered again")
            }
            Admission::Full => {
                tracing::error!(task_id = %task.task_id, token = task.token, "delivered beyond the free slots; not run");
            }
        }
    }

    /// Tells the coordinator that nothing new is wanted. A failure costs no more than a lease that
    /// expires.
    async fn say_draining(&self) {
        let client = self.client.with_deadline(Duration::from_secs(2));
        let empty = serde_json::Map::new();
        let path = self.path("drain");
        self.drain_said.store(true, Ordering::Relaxed);
        if let Err(error) = client.post::<_, serde_json::Value>(&path, &empty, Repeat::Idempotent).await {
            tracing::warn!(%error, "could not tell the coordinator of the drain");
        }
    }

    /// Waits for the work to end and its results to be delivered, within bounds.
    async fn finish(&self, tracker: &TaskTracker) -> Result<(), WorkerError> {
        tracker.close();
        if !self.drain_said.load(Ordering::Relaxed) {
            self.say_draining().await;
        }
        tracing::info!(worker_id = %self.config.worker_id, tasks = self.held.lock().len(), "drains");
        let mut idle_since = None;
        loop {
            let kill = tokio::select! {
                () = tracker.wait() => return self.killed_or_done(),
                () = self.shutdown.kill.cancelled() => true,
                () = tokio::time::sleep(Duration::from_millis(200)) => false,
            };
            if kill {
                self.guard.kill_all();
                // Each piece of work sees the token as well; this only waits for them.
                let _ = tokio::time::timeout(KILL_LIMIT, tracker.wait()).await;
                return self.killed_or_done();
            }
            if self.guard.is_idle() {
                let since = *idle_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.config.drain_report_limit {
                    let waited_seconds = since.elapsed().as_secs();
                    let tasks = self.held.lock().task_ids();
                    return Err(WorkerError::Undelivered { tasks, waited_seconds });
                }
            } else {
                idle_since = None;
            }
        }
    }

    /// A kill that came while the drain was being said has emptied the tracker already, so what it
    /// ended is asked for, not what is held.
    fn killed_or_done(&self) -> Result<(), WorkerError> {
        let mut tasks = self.unfinished.lock().clone();
        tasks.extend(self.held.lock().task_ids());
        tasks.sort();
        tasks.dedup();
        if tasks.is_empty() { Ok(()) } else { Err(WorkerError::Killed { tasks }) }
    }
}

/// An answer that will not change by asking again.
fn is_refusal(error: &ClientError) -> bool {
    use ErrorCode::*;
    matches!(
        error.code(),
        Some(
            Validation
                | MalformedJson
                | UnsupportedMediaType
                | BodyTooLarge
                | UnknownEndpoint
                | MethodNotAllowed
                | Forbidden
        )
    )
}

/// Says once that a call fails, again every half minute, and once that it is over.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    last_said: Option<Instant>,
}

impl Outage {
    fn failed(&mut self, call: &str, error: &ClientError) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.last_said.is_none_or(|said| said.elapsed() >= Duration::from_secs(30)) {
            self.last_said = Some(Instant::now());
            let for_seconds = since.elapsed().as_secs();
            match error.code() {
                Some(_) => {
                    tracing::warn!(call, %error, for_seconds, "the cluster refuses the call; trying on")
                }
                None => tracing::warn!(call, %error, for_seconds, "the cluster can't be reached; trying on"),
            }
        }
    }

    fn ended(&mut self, call: &str) {
        if let Some(since) = self.since.take() {
            self.last_said = None;
            tracing::info!(call, after_seconds = since.elapsed().as_secs(), "the cluster answers again");
        }
    }
}
