//! A running node, as the HTTP side sees it: propose, read, look.
//!
//! [`Node`] exists from the first moment, so that status and health answer while the cluster is
//! still being founded, or when the log is damaged and Raft never starts.

mod error;
mod leadership;
mod members;
mod rejoin;
mod repair;
mod requests;
pub mod settings;
mod state;

pub use error::NodeError;
pub use members::MembershipError;
use settings::Settings;

use crate::access::outbound::Outbound;
use crate::command::Reply;
use crate::config::Config;
use crate::events::Events;
use crate::machine::Machine;
use crate::operations::OperationBook;
use crate::raft::applier::{Applier, ApplierProgress, Work};
use crate::raft::driver::{Driver, Inbox, Input, TICK, inbox};
use crate::raft::founding::{Founder, IdentityCard, Stage};
use crate::raft::handover::Fitness;
use crate::raft::identity::{Founding, Identity, Member};
use crate::raft::limits::RaftLimits;
use crate::raft::log::{RaftLog, WriterProgress};
use crate::raft::log_end::{self, LogEnd};
use crate::raft::publish::Publisher;
use crate::raft::roster::Roster;
use crate::raft::snapshots::Snapshots;
use crate::raft::stall::Stall;
use crate::raft::transport::{Own, Transport, Verdict};
use crate::replica::{Replica, ReplicaConfig};
use crate::room::{Room, RoomLimits};
use crate::store::Store;
use crate::telemetry::{Telemetry, raft_lines};
use api::cluster::{PeerStatus, Progress, Role};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use raft::eraftpb::EntryType;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes of the log's tail kept in memory.
const LOG_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of proposals in flight.
const UNCOMMITTED_BYTES: u64 = 64 * 1024 * 1024;
/// Between two questions whether a snapshot can be taken.
const SNAPSHOT_POLL: Duration = Duration::from_millis(50);
/// Work that takes longer than this is listed as an operation.
const OPERATION_AFTER: Duration = Duration::from_millis(250);

/// A command that was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Log index of its entry.
    pub index: u64,
    /// The machine's answer.
    pub reply: Reply,
}

/// What Raft says of itself, published by the owner thread after every turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftView {
    /// The role.
    pub role: Role,
    /// Why, where it is not one that serves.
    pub role_detail: Option<String>,
    /// Node id of the leader.
    pub leader: Option<String>,
    /// True once this leader has applied an entry of its own term.
    pub leader_ready: bool,
    /// Raft term.
    pub term: u64,
    /// Commit index.
    pub commit_index: u64,
    /// First index of the log.
    pub first_index: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Leader changes seen.
    pub leader_changes: u64,
}

impl RaftView {
    fn begin() -> RaftView {
        RaftView {
            role: Role::Uninitialised,
            role_detail: Some("starting".into()),
            leader: None,
            leader_ready: false,
            term: 0,
            commit_index: 0,
            first_index: 1,
            last_index: 0,
            snapshot_index: 0,
            leader_changes: 0,
        }
    }
}

/// A log entry as it lies in the log: index, term, kind, data.
pub type RawEntry = (u64, u64, &'static str, Vec<u8>);

/// Where the config says that members are reached; one that it names without an id is reached
/// where it told.
fn configured_addresses(config: &Config) -> Vec<(String, String)> {
    config.peers.iter().filter_map(|p| p.id.clone().map(|id| (id, p.address()))).collect()
}

/// A handle on the node's threads. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    node_id: String,
    boot_nonce: String,
    outbound: OnceLock<Outbound>,
    founder: Arc<Founder>,
    snapshots: Snapshots,
    limits: Arc<RaftLimits>,
    room: Arc<Room>,
    founding: RwLock<Option<Founding>>,
    roster: Arc<Roster>,
    machine: Arc<RwLock<Machine>>,
    settings: Arc<Settings>,
    view: Arc<watch::Sender<RaftView>>,
    applied: Arc<watch::Sender<u64>>,
    running: RwLock<Option<Running>>,
    writer: Arc<WriterProgress>,
    applier: Arc<ApplierProgress>,
    operations: OperationBook,
    events: Events,
    /// Cancelled when the process has to begin anew.
    restart: CancellationToken,
    /// Why linearizable reads are not served here, if so.
    left_reads: Mutex<Option<String>>,
    turns: Arc<AtomicU64>,
    end: CancellationToken,
    /// Why this node can't read its own state, where its log alone does not bring it back.
    lost_state: Mutex<Option<String>>,
    /// Told when the node is to start again under a new incarnation.
    start_again: tokio::sync::Notify,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// Held while Raft is being started: until then there are threads that are not in `threads`.
    starting: Mutex<()>,
    /// Ends the present run of Raft, also one that is still being started.
    run_end: Mutex<CancellationToken>,
}

/// What exists only while Raft runs.
#[derive(Clone)]
struct Running {
    inbox: Inbox,
    applier: crossbeam_channel::Sender<Work>,
    transport: Arc<Transport>,
    log: RaftLog,
    /// Ends the connections of this run.
    end: CancellationToken,
}

impl Node {
    /// A node on an identity; Raft starts with [`Node::start`].
    pub fn new(identity: Identity, config: &Config) -> Node {
        let (node_id, boot_nonce) = (identity.node_id().to_owned(), format!("{:016x}", identity.boot_nonce));
        let events = Events::new(&node_id, &boot_nonce);
        Node {
            shared: Arc::new(Shared {
                events,
                node_id,
                boot_nonce,
                outbound: OnceLock::new(),
                founder: Founder::new(identity, config),
                snapshots: Snapshots::new(&config.data_dir),
                limits: Arc::new(RaftLimits::new(config)),
                room: Room::start(&config.data_dir, RoomLimits::of(config)),
                founding: RwLock::new(None),
                roster: Arc::default(),
                machine: Arc::new(RwLock::new(Machine::new())),
                settings: Arc::default(),
                view: Arc::new(watch::Sender::new(RaftView::begin())),
                applied: Arc::new(watch::Sender::new(0)),
                running: RwLock::new(None),
                writer: Arc::default(),
                applier: Arc::default(),
                operations: OperationBook::default(),
                restart: CancellationToken::new(),
                left_reads: Mutex::default(),
                turns: Arc::default(),
                end: CancellationToken::new(),
                lost_state: Mutex::default(),
                start_again: tokio::sync::Notify::new(),
                threads: Mutex::default(),
                starting: Mutex::default(),
                run_end: Mutex::default(),
            }),
        }
    }

    /// Founds or finds the cluster, then starts Raft. Returns when Raft runs, or with the reason
    /// why it can't; the node stays up in role failed then.
    pub async fn start(
        &self,
        config: &Config,
        store: Arc<Store>,
        telemetry: Telemetry,
    ) -> Result<(), String> {
        *self.shared.lost_state.lock() = None;
        let folder = config.data_dir.join("raft");
        let checked = tokio::task::spawn_blocking({
            let (folder, quarantine) = (folder.clone(), config.data_dir.join("quarantine"));
            move || log_end::check(&folder, &quarantine)
        });
        let end = checked.await.map_err(|e| e.to_string()).and_then(|c| c.map_err(|e| e.to_string()));
        let suspect = match end {
            Ok(LogEnd::Whole) => false,
            Ok(LogEnd::Torn { file, offset, cut_bytes }) => {
                tracing::warn!(file = %file.display(), offset, cut_bytes, "the log's last record was torn and has been cut; the node does not vote until it has caught up");
                true
            }
            Ok(LogEnd::Damaged { file, offset, why }) => {
                return Err(self.fail(format!(
                    "the log is damaged in {} at byte {offset}: {why}; the node takes no part. To bring it back as a new member, its log kept in quarantine: coordinator members rejoin",
                    file.display()
                )));
            }
            Err(why) => return Err(self.fail(why)),
        };
        let peers = self.outbound().map_err(|why| self.fail(why))?;
        let founding =
            self.shared.founder.found(config, &peers).await.map_err(|e| self.fail(e.to_string()))?;
        self.shared.roster.begin(&founding, self.shared.founder.known(), configured_addresses(config));
        *self.shared.founding.write() = Some(founding.clone());
        telemetry.cluster_is(&founding.cluster_id);
        self.start_raft(config, &founding, suspect, store, telemetry).map_err(|why| self.fail(why))
    }

    fn start_raft(
        &self,
        config: &Config,
        founding: &Founding,
        suspect: bool,
        store: Arc<Store>,
        telemetry: Telemetry,
    ) -> Result<(), String> {
        let _starting = self.shared.starting.lock();
        let card = self.shared.founder.card();
        let own = Member {
            node_id: card.node_id.clone(),
            incarnation: card.incarnation.clone(),
            address: card.address.clone(),
        };
        let raft_id = own.raft_id();
        telemetry.traces().member(raft_id);
        let founders = founding.membership();
        let log = RaftLog::open(&config.data_dir.join("raft")).map_err(|e| e.to_string())?;
        let mut recovered = log.recovered(founders.conf_state())?;
        // What a snapshot holds comes in its place.
        let founder_sets = founders.conf_state();
        self.shared.machine.write().found(founders, founding.machine_version);
        let replay_until = recovered.last.index;
        let snapshot_index = self.load_snapshot(&mut recovered, &founder_sets, &store)?;
        let (applied, applied_log_ms) = {
            let machine = self.shared.machine.read();
            (machine.applied_index(), machine.log_ms())
        };
        let ticks = |ms: u64| (ms as usize).div_ceil(TICK.as_millis() as usize).max(1);
        let replica_config = ReplicaConfig {
            raft_id,
            boot_nonce: card.boot_nonce,
            heartbeat_ticks: ticks(config.heartbeat_interval),
            election_ticks_min: ticks(config.election_timeout_min),
            election_ticks_max: ticks(config.election_timeout_max),
            applied,
            applied_log_ms,
            cache_limit_bytes: LOG_CACHE_BYTES,
            max_uncommitted_bytes: UNCOMMITTED_BYTES,
            suspect,
            seed: card.boot_nonce,
        };
        let names: Vec<(u64, String)> =
            self.shared.roster.talked_to().into_iter().map(|m| (m.raft_id(), m.node_id)).collect();
        let logger = raft_lines::logger(&names);
        let replica = Replica::with_logger(replica_config, recovered, log.clone(), &logger)?;
        let (inbox, outbox) = inbox();
        let end = self.shared.end.child_token();
        *self.shared.run_end.lock() = end.clone();
        let transport = Transport::start(
            Own {
                cluster_id: founding.cluster_id.clone(),
                member: own,
                boot_counter: self.shared.founder.boot_counter(),
                boot_nonce: card.boot_nonce,
            },
            self.shared.roster.clone(),
            inbox.clone(),
            telemetry.clone(),
            Duration::from_secs(config.connection_timeout),
            config.connection_retry_limit,
            self.shared.snapshots.clone(),
            self.outbound()?,
            end.clone(),
            Arc::new(self.clone()),
        );
        self.members_changed(&self.shared.machine.read().members().clone(), &transport, raft_id);
        let start = |e: std::io::Error| format!("a thread can't be started: {e}");
        let (writer, writer_thread) = log
            .start_writer(
                inbox.clone(),
                self.shared.writer.clone(),
                telemetry.clone(),
                self.shared.room.clone(),
            )
            .map_err(start)?;
        let (to_applier, applier_queue) = crossbeam_channel::unbounded();
        let applier = Applier {
            machine: self.shared.machine.clone(),
            settings: self.shared.settings.clone(),
            store: store.clone(),
            snapshots: self.shared.snapshots.clone(),
            limits: self.shared.limits.clone(),
            snapshot_index,
            named_index: Arc::new({
                let log = log.clone();
                move || log.named_index()
            }),
            operations: self.shared.operations.clone(),
            events: self.shared.events.clone(),
            replay_until,
            inbox: inbox.clone(),
            applied: self.shared.applied.clone(),
            progress: self.shared.applier.clone(),
            telemetry: telemetry.clone(),
            members_changed: Arc::new({
                let (node, transport) = (self.clone(), transport.clone());
                move |members| node.members_changed(members, &transport, raft_id)
            }),
            fail: Arc::new({
                let node = self.clone();
                move |why| drop(node.fail(why))
            }),
        };
        let applier_thread = std::thread::Builder::new()
            .name("applier".into())
            .spawn(move || applier.run(&applier_queue))
            .map_err(start)?;
        let driver = Driver {
            replica,
            outbox,
            writer,
            applier: to_applier.clone(),
            store_durable: Box::new(move || store.needs_log_behind()),
            fetched_index: Box::new({
                let snapshots = self.shared.snapshots.clone();
                move || snapshots.fetched_index()
            }),
            transport: transport.clone(),
            publisher: Publisher::new(
                self.shared.view.clone(),
                transport.clone(),
                self.shared.roster.clone(),
            ),
            limits: self.shared.limits.clone(),
            telemetry,
            fitness: Fitness {
                room: self.shared.room.clone(),
                writer: self.shared.writer.clone(),
                applier: self.shared.applier.clone(),
                stall: Stall::new(Duration::from_millis(config.election_timeout_max)),
            },
            turns: self.shared.turns.clone(),
            raft_id,
        };
        let ended = end.clone();
        *self.shared.running.write() = Some(Running { inbox, applier: to_applier, transport, log, end });
        let driver_thread = std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || driver.run(applied))
            .map_err(start)?;
        self.shared.threads.lock().extend([driver_thread, writer_thread, applier_thread]);
        // A peer's verdict may come as soon as there are connections, before there was a run to end.
        if ended.is_cancelled() {
            self.end_run();
        }
        Ok(())
    }

    /// How this node asks others, set before it starts; without it, plainly and without a proof.
    pub fn speaks_with(&self, outbound: Outbound) {
        let _ = self.shared.outbound.set(outbound);
    }

    /// How this node asks others.
    pub fn outbound(&self) -> Result<Outbound, String> {
        match self.shared.outbound.get() {
            Some(outbound) => Ok(outbound.clone()),
            None => Outbound::new(None, None).map_err(|e| e.to_string()),
        }
    }

    /// Takes what may change while the node runs: limits, and where its peers are reached.
    pub fn take_config(&self, config: &Config) {
        self.shared.limits.set(config);
        self.shared.room.set_limits(RoomLimits::of(config));
        self.shared.roster.configure(configured_addresses(config));
    }

    /// The snapshot files.
    pub fn snapshots(&self) -> &Snapshots {
        &self.shared.snapshots
    }

    /// How much room disk and memory have.
    pub fn room(&self) -> &Room {
        &self.shared.room
    }

    /// Ends Raft: hands leadership over if this node leads, then stops the threads.
    pub async fn stop(&self) {
        self.hand_over().await;
        let running = self.shared.running.write().take();
        self.shared.end.cancel();
        if let Some(running) = running {
            running.inbox.tell(Input::Stop);
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|t| drop(t.join()));
        });
        let _ = tokio::time::timeout(Duration::from_secs(5), joined).await;
    }

    /// The node takes no part any more; it stays up and says why.
    pub fn fail(&self, why: String) -> String {
        self.halt(Role::Failed, &why);
        why
    }

    fn end_run(&self) {
        self.shared.run_end.lock().cancel();
        let running = self.shared.running.write().take();
        if let Some(running) = running {
            running.end.cancel();
            running.inbox.tell(Input::Stop);
        }
    }

    /// Ends Raft on this node; `role` and `why` are what it shows from now on.
    fn halt(&self, role: Role, why: &str) {
        self.end_run();
        self.shared.view.send_modify(|view| {
            view.role = role;
            view.role_detail = Some(why.to_owned());
            view.leader = None;
            view.leader_ready = false;
        });
    }

    /// A peer refused this node for good.
    fn hear_verdict(&self, verdict: Verdict, why: String) {
        if matches!(self.view().role, Role::Failed | Role::Removed) {
            return;
        }
        match verdict {
            Verdict::Removed => {
                tracing::error!(why, "this node is no member any more; it takes no part");
                self.halt(
                    Role::Removed,
                    &format!("{why}; to bring it back as a new member: coordinator members rejoin"),
                );
            }
            Verdict::RolledBack => {
                tracing::error!(why, "this node's data directory was rolled back; it takes no part");
                self.halt(Role::Failed, &format!("{why}; its votes and acknowledgements can't be trusted. Bring the right directory back, or let the node join anew as a new member: coordinator members rejoin"));
            }
        }
    }

    /// What happened, as this node saw it.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// This node's id.
    pub fn node_id(&self) -> &str {
        &self.shared.node_id
    }

    /// Changes with every start of the process.
    pub fn boot_nonce(&self) -> &str {
        &self.shared.boot_nonce
    }

    /// The cluster's id once it is founded.
    pub fn cluster_id(&self) -> Option<String> {
        self.shared.founding.read().as_ref().map(|f| f.cluster_id.clone())
    }

    /// What this node tells peers that ask who it is.
    pub fn identity_card(&self) -> IdentityCard {
        self.shared.founder.card()
    }

    /// Answers a founder.
    pub fn accept_founding(&self, founding: &Founding) -> Result<(), String> {
        self.shared.founder.accept(founding)
    }

    /// The peers' connections; none before Raft runs.
    pub fn transport(&self) -> Option<Arc<Transport>> {
        self.shared.running.read().as_ref().map(|r| r.transport.clone())
    }

    /// The newest view; cheap.
    pub fn view(&self) -> RaftView {
        let view = self.shared.view.borrow().clone();
        if view.role == Role::Uninitialised {
            let waiting = self.shared.founder.waiting();
            let role = if waiting.joining { Role::Joining } else { Role::Uninitialised };
            return RaftView { role, role_detail: Some(waiting.why), ..view };
        }
        view
    }

    /// Wakes whenever role, leader or term change.
    pub fn watch(&self) -> watch::Receiver<RaftView> {
        self.shared.view.subscribe()
    }

    /// Address (`host:port`) of a member: this node's config comes before what the member told.
    pub fn address_of(&self, node_id: &str) -> Option<String> {
        let roster = &self.shared.roster;
        roster.address_of(roster.id_of(node_id)?)
    }

    /// The peers as this node sees them.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.transport().map(|t| t.statuses()).unwrap_or_default()
    }

    /// Progress of the threads.
    pub fn progress(&self) -> Progress {
        let busy_ms =
            |since: &Mutex<Option<Instant>>| since.lock().map_or(0, |at| at.elapsed().as_millis() as u64);
        Progress {
            raft_turns: self.shared.turns.load(Ordering::Relaxed),
            log_syncs: self.shared.writer.syncs.load(Ordering::Relaxed),
            log_busy_ms: busy_ms(&self.shared.writer.busy_since),
            applied_entries: self.shared.applier.entries.load(Ordering::Relaxed),
            apply_busy_ms: busy_ms(&self.shared.applier.busy_since),
        }
    }

    /// The machine; hold the guard only for a moment, the applier waits for it.
    pub fn machine(&self) -> RwLockReadGuard<'_, Machine> {
        self.shared.machine.read()
    }

    /// Highest applied index.
    pub fn applied_index(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Wakes whenever the applied index moves.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Entries from `from` on as the log holds them (index, term, kind, data), at most `limit`.
    pub fn log_entries(&self, from: u64, limit: usize) -> Result<Vec<RawEntry>, String> {
        let log = self.shared.running.read().as_ref().map(|r| r.log.clone()).ok_or("the log is not open")?;
        let entries = log.page(from, limit)?;
        Ok(entries
            .into_iter()
            .map(|e| {
                let kind = match e.get_entry_type() {
                    EntryType::EntryNormal if e.data.is_empty() => "empty",
                    EntryType::EntryNormal => "normal",
                    _ => "conf_change",
                };
                (e.index, e.term, kind, e.data.to_vec())
            })
            .collect())
    }

    fn inbox(&self) -> Result<Inbox, NodeError> {
        let running = self.shared.running.read();
        running.as_ref().map(|r| r.inbox.clone()).ok_or_else(|| {
            let view = self.view();
            NodeError::Unavailable { role: view.role, why: view.role_detail.unwrap_or_default() }
        })
    }

    /// True once the cluster is founded.
    pub fn founded(&self) -> bool {
        self.identity_card().stage == Stage::Founded
    }
}
