//! Dispatch: the leader's side of the worker protocol.
//!
//! Workers send heartbeats and wait in lease calls. The leader plans which pending task goes to
//! whom, logs the plan as one `Assign`, and answers the calls from what the machine then holds.
//! It ends leases that nobody holds any more, keeps checkpoints coming and lets old tasks leave
//! memory. What it needs beyond the log stands in the [`ledger`], in memory, for one term.
//!
//! Invariants:
//!
//! - A heartbeat or a lease call is answered only after this node has proved that it still leads:
//!   by the check that reads share, or by an `Assign` of its own term that was applied after the
//!   call came. A deposed leader therefore extends nothing and cancels nothing.
//! - One `Assign` is in flight at most. Tasks that arrive meanwhile share the next one.
//! - Nothing in the ledger is needed for safety. Lost, it costs a delay: leases live in the
//!   machine, and only a logged command ends one.

pub mod ledger;
mod upkeep;

use crate::command::{Command, Reply};
use crate::machine::{LeaseView, Machine, Standing};
use crate::node::{Node, NodeError, RaftView};
use crate::scheduler;
use api::cluster::Role;
use api::worker::{Heartbeat, HeartbeatAnswer, LeaseAnswer, LeaseRequest, MAX_LEASE_WAIT_MS};
use jiff::{SignedDuration, Timestamp};
use ledger::{CallId, Ledger, LogClock, Timing};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// The least a lease call waits, so that one round of the scheduler can serve it.
pub const MIN_LEASE_WAIT_MS: u64 = 100;
/// Pairs in one `Assign` at most.
const MAX_PAIRS: usize = 1000;
/// Every waiting call is looked at this often, whatever woke nobody.
const SWEEP: Duration = Duration::from_millis(500);
/// Between two plans that found nothing.
const IDLE_SPACING: Duration = Duration::from_millis(2);
/// After a proposal that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why a worker's call was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The node could not serve it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The worker is not registered, or was given up.
    #[error("worker `{worker_id}` is not registered, or was given up as lost: register again")]
    UnknownWorker {
        /// The worker.
        worker_id: String,
    },
    /// Too many calls wait.
    #[error("{} lease calls are waiting, which is the limit", ledger::MAX_WAITING_CALLS)]
    TooManyCalls,
}

/// What a waiting call is woken with.
#[derive(Debug)]
struct Given {
    tokens: Vec<u64>,
    /// Leadership was proved after the call came.
    proven: bool,
}

#[derive(Default)]
struct State {
    ledger: Option<Ledger>,
    waiting: HashMap<CallId, oneshot::Sender<Given>>,
    clock: LogClock,
}

/// The leader's dispatcher; on a follower it sleeps. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    election_timeout_max_ms: u64,
    started: Instant,
    state: Mutex<State>,
    wake: Notify,
}

impl Dispatch {
    /// A dispatcher on `node`; [`Dispatch::spawn`] sets it to work.
    pub fn new(node: Node, election_timeout_max_ms: u64) -> Self {
        let shared = Shared {
            node,
            election_timeout_max_ms,
            started: Instant::now(),
            state: Mutex::new(State::default()),
            wake: Notify::new(),
        };
        Dispatch { shared: Arc::new(shared) }
    }

    /// Starts the loop that works whenever this node leads. Ends with the node, or when aborted.
    pub fn spawn(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.clone().run())
    }

    /// A worker's sign of life.
    pub async fn heartbeat(
        &self,
        worker_id: &str,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, DispatchError> {
        self.must_know(worker_id).await?;
        self.with_ledger(|ledger, now_ms| ledger.heard(worker_id, &heartbeat.tokens, now_ms))?;
        self.node().read_barrier().await?;
        let seen = self.look(worker_id, &heartbeat.tokens);
        self.with_ledger(|ledger, _| ledger.confirm(seen.undelivered))?;
        Ok(HeartbeatAnswer { cancel: seen.cancel, draining: seen.draining })
    }

    /// A worker asks for work, and waits for it.
    pub async fn lease(&self, worker_id: &str, request: &LeaseRequest) -> Result<LeaseAnswer, DispatchError> {
        self.must_know(worker_id).await?;
        let seen = self.look_for_news(worker_id, &request.tokens);
        let (mut call, mut given) = self.begin(worker_id, request)?;
        self.deal(&BTreeSet::from([worker_id.to_owned()]), false);
        self.shared.wake.notify_one();

        let has_news = seen.draining || !seen.cancel.is_empty();
        let wait_ms = if has_news { 0 } else { request.wait_ms.clamp(MIN_LEASE_WAIT_MS, MAX_LEASE_WAIT_MS) };
        let given = match tokio::time::timeout(Duration::from_millis(wait_ms), &mut given).await {
            Ok(Ok(given)) => given,
            Ok(Err(_closed)) => return Err(NodeError::NoLeader.into()),
            Err(_elapsed) => {
                given.close();
                given.try_recv().unwrap_or(Given { tokens: Vec::new(), proven: false })
            }
        };
        if !given.proven {
            self.node().read_barrier().await?;
        }
        let seen = self.look_for_news(worker_id, &request.tokens);
        let tasks = {
            let machine = self.node().machine();
            let ttl = SignedDuration::from_millis(machine.limits().lease_ttl_ms as i64);
            let expires_at = Timestamp::now() + ttl;
            given.tokens.iter().filter_map(|token| machine.leased_task(*token, expires_at)).collect()
        };
        self.with_ledger(|ledger, _| ledger.confirm(seen.undelivered))?;
        call.answered = true;
        Ok(LeaseAnswer { tasks, cancel: seen.cancel, draining: seen.draining })
    }

    /// The worker did something that proves that it lives.
    pub fn heard(&self, worker_id: &str) {
        // A node that does not lead keeps no ledger; then there is nothing to note.
        let _ = self.with_ledger(|ledger, now_ms| ledger.heard(worker_id, &[], now_ms));
    }

    /// Results of these leases were accepted: what they took is free for the worker's waiting calls.
    pub fn reported(&self, worker_id: &str, tokens: &[u64]) {
        if self.with_ledger(|ledger, now_ms| ledger.reported(worker_id, tokens, now_ms)).is_ok() {
            self.shared.wake.notify_one();
        }
    }

    /// A task was cancelled: its worker is told at once, where it has a call that waits.
    pub fn task_cancelled(&self, task_id: &str) {
        let worker = self.node().machine().last_worker(task_id);
        if let Some(worker) = worker {
            self.tell_news(|id| id == worker);
        }
    }

    /// Answers waiting calls whose workers work on leases that are over.
    fn tell_news(&self, asked: impl Fn(&str) -> bool) {
        let mut state = self.shared.state.lock();
        let State { ledger: Some(ledger), waiting, .. } = &mut *state else { return };
        let machine = self.node().machine();
        let over = |token: &u64| machine.lease(*token).is_none() && !ledger.was_reported(*token);
        let calls =
            ledger.waiting_holds().filter(|(_, worker, holds)| asked(worker) && holds.iter().any(over));
        let calls: Vec<CallId> = calls.map(|(id, _, _)| id).collect();
        drop(machine);
        for call in calls {
            if let Some(sender) = waiting.remove(&call) {
                // A call whose client has gone is ended by its own guard.
                let _ = sender.send(Given { tokens: Vec::new(), proven: false });
            }
        }
    }

    /// The worker was drained or registered anew: its waiting calls answer what stands now.
    pub fn worker_changed(&self, worker_id: &str) {
        self.deal(&BTreeSet::from([worker_id.to_owned()]), false);
        let mut state = self.shared.state.lock();
        let State { ledger: Some(ledger), waiting, .. } = &mut *state else { return };
        for call in ledger.waiting_calls_of(worker_id) {
            if let Some(sender) = waiting.remove(&call) {
                // A call whose client has gone is ended by its own guard.
                let _ = sender.send(Given { tokens: Vec::new(), proven: false });
            }
        }
    }

    /// Milliseconds since each of these workers was heard; none on a node that does not lead.
    pub fn last_seen_ms(&self, worker_id: &str) -> Option<u64> {
        self.with_ledger(|ledger, now_ms| ledger.last_seen_ms(worker_id, now_ms)).ok().flatten()
    }

    /// How many lease calls wait.
    pub fn waiting_calls(&self) -> usize {
        self.shared.state.lock().waiting.len()
    }

    fn node(&self) -> &Node {
        &self.shared.node
    }

    fn now_ms(&self) -> u64 {
        self.shared.started.elapsed().as_millis() as u64
    }

    /// The times as they are set now.
    fn timing(&self) -> Timing {
        Timing::new(self.node().machine().limits(), self.shared.election_timeout_max_ms)
    }

    /// The log's time now.
    fn now_log_ms(&self, machine_log_ms: u64) -> u64 {
        let now_ms = self.now_ms();
        self.shared.state.lock().clock.now(machine_log_ms, now_ms)
    }

    /// Asks the ledger, which is opened when this node has just begun to lead.
    fn with_ledger<T>(&self, ask: impl FnOnce(&mut Ledger, u64) -> T) -> Result<T, NodeError> {
        let view = self.node().view();
        if !leads(&view) {
            return Err(if view.leader.is_some() { NodeError::NotLeader } else { NodeError::NoLeader });
        }
        let now_ms = self.now_ms();
        let mut state = self.shared.state.lock();
        if state.ledger.as_ref().is_none_or(|ledger| ledger.term() < view.term) {
            state.waiting.clear();
            state.ledger = Some(Ledger::open(view.term, now_ms, self.timing()));
        }
        match state.ledger.as_mut() {
            Some(ledger) if ledger.term() == view.term => Ok(ask(ledger, now_ms)),
            _ => Err(NodeError::NotLeader),
        }
    }

    fn close(&self, term: u64) {
        let mut state = self.shared.state.lock();
        if state.ledger.as_ref().is_some_and(|ledger| ledger.term() <= term) {
            state.ledger = None;
            // Whoever waits hears of it: a sender that is dropped ends the call.
            state.waiting.clear();
        }
    }

    /// Fails where the worker is not registered, or was given up.
    async fn must_know(&self, worker_id: &str) -> Result<(), DispatchError> {
        if knows(&self.node().machine(), worker_id) {
            return Ok(());
        }
        // This machine may lag behind the registration.
        self.node().read_barrier().await?;
        if knows(&self.node().machine(), worker_id) {
            return Ok(());
        }
        Err(DispatchError::UnknownWorker { worker_id: worker_id.to_owned() })
    }

    /// As [`Dispatch::look`], without leases that ended by a result lately: the worker that names
    /// one in a lease call did not know yet.
    fn look_for_news(&self, worker_id: &str, tokens: &[u64]) -> Seen {
        let mut seen = self.look(worker_id, tokens);
        if !seen.cancel.is_empty() {
            // A node that stopped leading has no ledger, and answers nothing either.
            let _ = self.with_ledger(|ledger, _| seen.cancel.retain(|token| !ledger.was_reported(*token)));
        }
        seen
    }

    /// What the machine says of the worker and of the tokens it named.
    fn look(&self, worker_id: &str, tokens: &[u64]) -> Seen {
        let machine = self.node().machine();
        let mut seen = Seen { cancel: Vec::new(), undelivered: Vec::new(), draining: false };
        seen.draining = machine.worker(worker_id).is_none_or(|w| w.standing() == Standing::Draining);
        for token in tokens {
            match machine.lease(*token) {
                Some(lease) if lease.worker_id == worker_id => {
                    seen.undelivered.extend((!lease.delivered).then_some(*token));
                }
                _ => seen.cancel.push(*token),
            }
        }
        seen
    }

    fn begin(
        &self,
        worker_id: &str,
        request: &LeaseRequest,
    ) -> Result<(OpenCall, oneshot::Receiver<Given>), DispatchError> {
        let (sender, given) = oneshot::channel();
        let id = self.with_ledger(|ledger, now_ms| {
            ledger.heard(worker_id, &request.tokens, now_ms);
            ledger.heard(worker_id, &request.reporting, now_ms);
            let id = ledger.begin_call(worker_id, request.slots, &request.tokens, &request.reporting)?;
            Some((id, ledger.term()))
        })?;
        let Some((id, term)) = id else { return Err(DispatchError::TooManyCalls) };
        let mut state = self.shared.state.lock();
        // The ledger may have been closed in between; then nobody would ever wake this call.
        if state.ledger.as_ref().is_none_or(|ledger| ledger.term() != term) {
            return Err(NodeError::NoLeader.into());
        }
        state.waiting.insert(id, sender);
        drop(state);
        Ok((OpenCall { dispatch: self.clone(), id, term, answered: false }, given))
    }

    /// Gives these workers' waiting calls the leases that the machine holds for them.
    fn deal(&self, workers: &BTreeSet<String>, proven: bool) {
        let leases: Vec<(&String, Vec<LeaseView>)> = {
            let machine = self.node().machine();
            workers.iter().map(|worker| (worker, machine.leases_of(worker))).collect()
        };
        let now_ms = self.now_ms();
        let mut state = self.shared.state.lock();
        let State { ledger: Some(ledger), waiting, .. } = &mut *state else { return };
        for (worker, leases) in leases {
            for (call, tokens) in ledger.settle(worker, &leases, now_ms) {
                let sent = waiting.remove(&call).map(|sender| sender.send(Given { tokens, proven }));
                if !matches!(sent, Some(Ok(()))) {
                    ledger.end_call(call, false);
                }
            }
        }
    }

    async fn run(self) {
        let mut view = self.node().watch();
        loop {
            let now = view.borrow_and_update().clone();
            if leads(&now) {
                // Opens the ledger. It fails only when leadership is gone again already.
                let _ = self.with_ledger(|_, _| ());
                tracing::info!(term = now.term, "dispatching tasks to workers");
                tokio::select! {
                    () = self.schedule() => {}
                    () = self.upkeep() => {}
                    () = deposed(&mut view, now.term) => {}
                }
                self.close(now.term);
            } else if view.changed().await.is_err() {
                return;
            }
        }
    }

    /// Plans and assigns for as long as this node leads.
    async fn schedule(&self) {
        let mut applied = self.node().watch_applied();
        let mut swept = Instant::now();
        loop {
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                let waiting = self.with_ledger(|ledger, _| ledger.waiting_workers()).unwrap_or_default();
                self.deal(&waiting, false);
                self.tell_news(|_| true);
            }
            applied.borrow_and_update();
            let nap = match self.assign().await {
                Round::Assigned => continue,
                Round::Failed => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Round::NobodyAsks => None,
                Round::NothingReady { next_in_ms } => Some(Duration::from_millis(next_in_ms)),
            };
            let limit = SWEEP.saturating_sub(swept.elapsed()).min(nap.unwrap_or(SWEEP)).max(IDLE_SPACING);
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(limit) => {}
                moved = applied.changed(), if nap.is_some() => match moved {
                    Ok(()) => tokio::time::sleep(IDLE_SPACING).await,
                    Err(_) => return,
                }
            }
        }
    }

    /// One round: offers, plan, `Assign`, answers.
    async fn assign(&self) -> Round {
        let offers = self.with_ledger(|ledger, _| ledger.offers()).unwrap_or_default();
        if offers.is_empty() {
            return Round::NobodyAsks;
        }
        let (log_ms, next_ready_at_ms) = {
            let machine = self.node().machine();
            (machine.log_ms(), machine.next_ready_at_ms())
        };
        let now_log_ms = self.now_log_ms(log_ms);
        let pairs = {
            let machine = self.node().machine();
            if machine.has_pending() {
                scheduler::plan(&machine, now_log_ms, &offers, MAX_PAIRS)
            } else {
                Vec::new()
            }
        };
        if pairs.is_empty() {
            // A retry that is due already was looked at by this plan; only one to come needs a timer.
            let next = next_ready_at_ms.filter(|at| *at > now_log_ms);
            return Round::NothingReady { next_in_ms: next.map_or(u64::MAX, |at| at - now_log_ms) };
        }
        let workers: BTreeSet<String> = pairs.iter().map(|(_, worker)| worker.clone()).collect();
        match self.node().propose(Command::Assign { pairs }).await {
            Ok(applied) if applied.reply == Reply::Count(0) => Round::Failed,
            Ok(_) => {
                self.deal(&workers, true);
                Round::Assigned
            }
            Err(error) => {
                tracing::debug!(%error, "an assignment was not logged");
                Round::Failed
            }
        }
    }
}

/// How a round of the scheduler went.
enum Round {
    /// Leases were given; there may be more.
    Assigned,
    /// The proposal failed, or nothing of it fitted any more.
    Failed,
    /// No call waits.
    NobodyAsks,
    /// Calls wait, but no task is ready for them; the next retry time comes in so long.
    NothingReady { next_in_ms: u64 },
}

/// What the machine says of a worker.
struct Seen {
    /// Tokens it named that are no leases of its own.
    cancel: Vec<u64>,
    /// Tokens it named that the log does not know as delivered.
    undelivered: Vec<u64>,
    draining: bool,
}

/// A lease call that goes on; ends it in the ledger however it ends.
struct OpenCall {
    dispatch: Dispatch,
    id: CallId,
    term: u64,
    answered: bool,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut state = self.dispatch.shared.state.lock();
        state.waiting.remove(&self.id);
        if let Some(ledger) = state.ledger.as_mut().filter(|ledger| ledger.term() == self.term) {
            ledger.end_call(self.id, self.answered);
        }
    }
}

fn leads(view: &RaftView) -> bool {
    view.role == Role::Leader && view.leader_ready
}

fn knows(machine: &Machine, worker_id: &str) -> bool {
    machine.worker(worker_id).is_some_and(|worker| worker.standing() != Standing::Lost)
}

/// Returns when this node no longer leads the term.
async fn deposed(view: &mut tokio::sync::watch::Receiver<RaftView>, term: u64) {
    let gone = |view: &RaftView| !leads(view) || view.term != term;
    // An error means that the node has ended, which deposes it too.
    let _ = view.wait_for(gone).await;
}
