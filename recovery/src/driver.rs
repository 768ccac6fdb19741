//! The loop: look, decide, write down, act, look again.
//!
//! The driver owns everything that changes: audit, tracker, policy. Others send it commands and
//! read what it published. A failure of its own (an audit that can't be written) stops repairs,
//! not observation, and is tried again with the next round.

use crate::act::Actuators;
use crate::audit::Audit;
use crate::config::Loaded;
use crate::decide::{Decision, Pace, PlanView, Round, Tracker, fresh_budget};
use crate::error::RecoveryError;
use crate::lease::LeaseKeeper;
use crate::metrics::Metrics;
use crate::observe::{Clock, Observer};
use crate::plan::{Plan, Step};
use crate::policy::Policy;
use crate::record::{DAEMON, Outcome, Phase, Record};
use jiff::Timestamp;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The longest pause before a fault is confirmed by another look.
const MAX_CONFIRM_PAUSE: Duration = Duration::from_secs(1);
/// The pause between looks while a repair waits for its proof.
const VERIFY_PAUSE: Duration = Duration::from_millis(200);
/// The longest one pass waits between looks at something unsettled.
const MAX_UNSETTLED_PAUSE: Duration = Duration::from_secs(2);
/// The shortest pause of all.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Evidence may always be this old, however short the interval.
const MIN_EVIDENCE_AGE: Duration = Duration::from_secs(3);
/// Records that are published at most.
pub const MAX_PUBLISHED: usize = 1_000;

/// What a person asks of the daemon.
#[derive(Debug)]
pub enum Command {
    /// Put the brake on or take it off.
    Brake {
        /// Which.
        on: bool,
        /// Why.
        why: String,
        /// The answer.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Take a fault over.
    Acknowledge {
        /// Its id.
        id: String,
        /// The answer; false where there is no such fault.
        reply: oneshot::Sender<Result<bool, String>>,
    },
    /// Give a fault its whole budget again.
    Retry {
        /// Its id.
        id: String,
        /// The answer; false where there is no such fault.
        reply: oneshot::Sender<Result<bool, String>>,
    },
}

/// What the API shows.
#[derive(Debug, Default)]
pub struct Published {
    /// The newest records, oldest first.
    pub records: VecDeque<Record>,
    /// What would be done now.
    pub plans: Vec<PlanView>,
    /// Why the brake is on.
    pub brake: Option<String>,
    /// Why no repair is made at all, beside the brake.
    pub halted: Option<String>,
    /// When the last round ended.
    pub last_round_at: Option<Timestamp>,
    /// Rounds so far.
    pub generation: u64,
    /// Nodes that gave a report in the last round.
    pub nodes_reporting: usize,
    /// Nodes that are configured.
    pub nodes: usize,
    /// No node answers, and the daemon can't say why.
    pub blind: bool,
}

/// What is shared with the API.
#[derive(Debug)]
pub struct Shared {
    /// What the last round left.
    pub published: RwLock<Published>,
    /// Wakes the loop.
    pub wake: Notify,
    /// The instruments.
    pub metrics: Metrics,
}

/// How the daemon was asked to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The config file, read again on request.
    pub config_path: PathBuf,
    /// The pause between rounds.
    pub interval: Duration,
    /// Only look.
    pub dry_run: bool,
}

/// How one pass ended.
#[derive(Debug)]
pub struct Summary {
    /// The faults that are left.
    pub open: Vec<PlanView>,
    /// Faults that were repaired in this pass.
    pub repaired: Vec<Record>,
    /// Nodes that gave a report at the end, of how many.
    pub reporting: (usize, usize),
    /// No node answers, and the daemon can't say why.
    pub blind: bool,
}

impl Summary {
    /// 0 healthy, 1 repaired, 2 needs a person.
    pub fn exit_code(&self) -> u8 {
        let all_report = self.reporting.0 == self.reporting.1;
        match (self.open.is_empty() && !self.blind && all_report, self.repaired.is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }
}

/// The loop and all it owns.
#[derive(Debug)]
pub struct Driver {
    options: Options,
    clock: Clock,
    observer: Observer,
    actuators: Actuators,
    audit: Audit,
    tracker: Tracker,
    policy: Policy,
    lease: Option<LeaseKeeper>,
    shared: Arc<Shared>,
}

impl Driver {
    /// Puts the parts together; nothing is looked at yet.
    pub fn new(
        options: Options,
        loaded: &Loaded,
        audit: Audit,
        lease: Option<LeaseKeeper>,
        clock: Clock,
    ) -> Result<Self, RecoveryError> {
        let actuators = Actuators::new(&loaded.actuators, &loaded.config.recovery_dir);
        let observer = Observer::new(&loaded.config, actuators.clone(), options.interval)?;
        let tracker = Tracker::restore(audit.ledger());
        let metrics = Metrics::new()?;
        metrics.show_brake(audit.ledger().brake.is_some());
        metrics.show_last_action(audit.ledger().last_action_ms);
        let surplus = audit.tail().count().saturating_sub(MAX_PUBLISHED);
        let published = Published {
            records: audit.tail().skip(surplus).cloned().collect(),
            brake: audit.ledger().brake.clone(),
            generation: audit.ledger().generation,
            nodes: loaded.config.nodes.len(),
            ..Published::default()
        };
        let shared = Arc::new(Shared { published: RwLock::new(published), wake: Notify::new(), metrics });
        let policy = loaded.policy.clone();
        Ok(Driver { options, clock, observer, actuators, audit, tracker, policy, lease, shared })
    }

    /// What the API shows.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Rounds until `end` is called.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        reload: Arc<Notify>,
        end: CancellationToken,
    ) {
        loop {
            let decision = self.round().await;
            let pause = tokio::time::sleep(self.pause(decision.pace));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    () = self.shared.wake.notified() => break,
                    () = end.cancelled() => {
                        if let Some(lease) = self.lease.take() {
                            lease.end().await;
                        }
                        return;
                    }
                    () = reload.notified() => self.reload().await,
                    Some(command) = commands.recv() => self.obey(command),
                }
            }
        }
    }

    /// Rounds until every fault is repaired or denied.
    pub async fn one_pass(&mut self) -> Summary {
        let mut repaired = Vec::new();
        loop {
            let decision = self.round().await;
            let ended = decision.records.iter().filter(|r| r.outcome == Some(Outcome::Repaired)).cloned();
            repaired.extend(ended);
            let more =
                decision.pace != Pace::Calm || !decision.start.is_empty() || self.tracker.is_repairing();
            if !more {
                let (nodes_reporting, nodes) = {
                    let published = self.shared.published.read();
                    (published.nodes_reporting, published.nodes)
                };
                let open = decision.plans;
                return Summary {
                    open,
                    repaired,
                    reporting: (nodes_reporting, nodes),
                    blind: decision.blind,
                };
            }
            tokio::time::sleep(self.pause(decision.pace).min(MAX_UNSETTLED_PAUSE)).await;
        }
    }

    fn pause(&self, pace: Pace) -> Duration {
        let pause = match pace {
            Pace::Calm => self.options.interval,
            Pace::Confirming => (self.options.interval / 2).min(MAX_CONFIRM_PAUSE),
            Pace::Verifying => VERIFY_PAUSE.min(self.options.interval),
        };
        pause.max(MIN_PAUSE)
    }

    /// One round: look, decide, write, act.
    pub async fn round(&mut self) -> Decision {
        let tracer = otlp::Export::installed().tracer();
        match tracer.begin("recovery.round", otlp::SpanKind::Internal) {
            None => self.go_round().await,
            Some(span) => otlp::context::within(&span, self.go_round()).await,
        }
    }

    async fn go_round(&mut self) -> Decision {
        let began = self.clock.now();
        let look = self.observer.look(&self.clock).await;
        let confirm_pause = self.pause(Pace::Confirming);
        let round = Round {
            look: &look,
            policy: &self.policy,
            ledger: self.audit.ledger(),
            at: self.clock.now(),
            generation: self.audit.ledger().generation.max(self.shared.published.read().generation) + 1,
            max_evidence_age_ms: (self.options.interval * 2).max(MIN_EVIDENCE_AGE).as_millis() as u64,
            round_gap_ms: (self.options.interval * 4 / 5).as_millis() as u64,
            proven_gap_ms: (confirm_pause * 4 / 5).as_millis() as u64,
            dry_run: self.options.dry_run,
            epoch: self.lease.as_ref().and_then(LeaseKeeper::epoch),
        };
        let generation = round.generation;
        let mut decision = self.tracker.round(&round, &mut || ulid::Ulid::generate().to_string());
        if let Some(lease) = &self.lease {
            lease.want(!decision.plans.is_empty() && !decision.blind);
        }
        let halted = self.write_all(&decision.records).err().map(|e| e.to_string());
        if let Some(why) = &halted {
            tracing::error!(error = %why, "the audit can't be written: nothing is repaired");
            for plan in decision.start.drain(..) {
                self.tracker.step_ended(&plan.id);
            }
        }
        {
            let mut published = self.shared.published.write();
            published.plans = decision.plans.clone();
            published.halted = halted;
            published.last_round_at = Some(self.clock.now());
            published.generation = generation;
            published.nodes_reporting = look.reports().count();
            published.blind = decision.blind;
        }
        let halted = self.shared.published.read().halted.is_some();
        self.carry_out(&decision.start).await;
        let took = self.clock.now().duration_since(began).unsigned_abs();
        let open: Vec<_> = decision.plans.iter().map(|plan| plan.kind).collect();
        self.shared.metrics.round_ended(took, &open, halted);
        decision
    }

    /// Takes the steps of all plans at once: they start different nodes, and after a power loss
    /// none of them becomes ready without the others.
    async fn carry_out(&mut self, plans: &[Plan]) {
        let mut tasks = tokio::task::JoinSet::new();
        for plan in plans {
            for step in &plan.steps {
                let Step::StartProcess { node } = step.clone();
                let (actuators, plan) = (self.actuators.clone(), plan.clone());
                let span = otlp::context::child("recovery.start_process", otlp::SpanKind::Internal);
                let mut span = span.map(|span| span.with("holdfast.node.id", node.clone()));
                tasks.spawn(async move {
                    let result = actuators.start(&node).await;
                    if let (Some(span), Err(error)) = (&mut span, &result) {
                        span.fail(error.to_string());
                    }
                    (result, node, plan)
                });
            }
        }
        while let Some(joined) = tasks.join_next().await {
            let Ok((result, node, plan)) = joined else { continue };
            let (outcome, why) = match result {
                Ok(started) => {
                    tracing::warn!(%node, pid = started.pid, took_ms = started.took_ms, "process started");
                    continue;
                }
                Err(e @ RecoveryError::NotStarted { .. }) => (Outcome::Gone, e.to_string()),
                Err(e) => (Outcome::Failed, e.to_string()),
            };
            let mut record = Record::new(self.clock.now(), &plan.id, Phase::Outcome, plan.generation, why);
            record.kind = Some(plan.cause.kind);
            record.nodes = plan.cause.nodes.clone();
            record.outcome = Some(outcome);
            self.tracker.step_ended(&plan.id);
            if let Err(e) = self.write(record) {
                tracing::error!(error = %e, "an outcome can't be written");
            }
        }
    }

    fn write_all(&mut self, records: &[Record]) -> Result<(), RecoveryError> {
        records.iter().try_for_each(|record| self.write(record.clone()))
    }

    /// Writes, counts, logs and publishes one record.
    fn write(&mut self, record: Record) -> Result<(), RecoveryError> {
        self.audit.write(record.clone())?;
        self.shared.metrics.take(&record);
        log(&record);
        let mut published = self.shared.published.write();
        published.brake = self.audit.ledger().brake.clone();
        if published.records.len() >= MAX_PUBLISHED {
            published.records.pop_front();
        }
        published.records.push_back(record);
        Ok(())
    }

    fn record(&self, id: &str, phase: Phase, detail: String) -> Record {
        Record::new(self.clock.now(), id, phase, self.shared.published.read().generation, detail)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Brake { on, why, reply } => {
                let mut record = self.record(DAEMON, Phase::Brake, why);
                record.on = Some(on);
                let _ = reply.send(self.write(record).map_err(|e| e.to_string()));
            }
            Command::Acknowledge { id, reply } => {
                let open = self.audit.ledger().open.get(&id).cloned();
                let answer = match open {
                    None => Ok(false),
                    Some(open) => {
                        let mut record = self.record(
                            &id,
                            Phase::Acknowledged,
                            "a person has taken this fault over".into(),
                        );
                        (record.kind, record.nodes) = (Some(open.kind), open.nodes);
                        self.write(record).map(|()| true).map_err(|e| e.to_string())
                    }
                };
                let _ = reply.send(answer);
            }
            Command::Retry { id, reply } => {
                let open = self.audit.ledger().open.get(&id).cloned();
                let answer = match open {
                    None => Ok(false),
                    Some(open) => {
                        let detail = "a person asked for another try: attempts count anew";
                        let generation = self.shared.published.read().generation;
                        let record =
                            fresh_budget(self.clock.now(), DAEMON, generation, open.kind, open.nodes, detail);
                        self.write(record).map(|()| true).map_err(|e| e.to_string())
                    }
                };
                let _ = reply.send(answer);
            }
        }
    }

    /// Reads the config again. Only the policy changes; a config with a fault changes nothing.
    pub async fn reload(&mut self) {
        let path = self.options.config_path.clone();
        let read = tokio::task::spawn_blocking(move || Loaded::read(&path)).await;
        let detail = match read {
            Ok(Ok(loaded)) if loaded.policy == self.policy => {
                "read again: the policy is as it was".to_owned()
            }
            Ok(Ok(loaded)) => {
                self.policy = loaded.policy;
                "read again: a new policy holds (other keys take effect with a restart)".to_owned()
            }
            Ok(Err(e)) => format!("refused, the last good policy stays: {e}"),
            Err(e) => format!("refused, the last good policy stays: {e}"),
        };
        let record = self.record(DAEMON, Phase::Config, detail);
        if let Err(e) = self.write(record) {
            tracing::error!(error = %e, "the audit can't be written");
        }
    }

    /// The policy that holds.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Everything that was written, oldest first, as far as it is kept.
    pub fn records(&self) -> Vec<Record> {
        self.audit.tail().cloned().collect()
    }
}

/// A page is an error in the log, a step a warning, the rest goes by.
fn log(record: &Record) {
    let kind = record.kind.map_or("-", |kind| kind.as_str());
    let nodes = record.nodes.join(",");
    let (id, detail, generation) = (&record.id, &record.detail, record.generation);
    match (record.phase, record.outcome) {
        (Phase::NeedsPerson, _) | (_, Some(Outcome::Failed)) => {
            tracing::error!(%id, kind, %nodes, generation, phase = ?record.phase, evidence = ?record.evidence, "{detail}");
        }
        (Phase::Intent | Phase::Outcome | Phase::Brake | Phase::Config, _) => {
            tracing::warn!(%id, kind, %nodes, generation, phase = ?record.phase, outcome = ?record.outcome, "{detail}");
        }
        _ => tracing::info!(%id, kind, %nodes, generation, phase = ?record.phase, "{detail}"),
    }
}
