//! Peers talk on the API port: an HTTP upgrade, then length-delimited frames.
//!
//! Each node opens one connection to every peer and sends on it only; what it receives comes on
//! the connection that the peer opened. A frame is a length (4 bytes, big-endian), a kind, and
//! its payload: Raft messages (many in one frame), a pulse (how the sender stands, with its
//! clock), a pulse's echo, from which the round trip is taken, or a goodbye: the process ends on
//! purpose. A process that crashes says none, so that who watches can tell the two apart.
//!
//! A handshake goes before the first frame: cluster, node id, incarnation, boot counter and
//! nonce. A stranger is refused before anything of it is parsed.
//!
//! Messages may be lost (a full queue, a broken connection): Raft repeats what matters. They are
//! never reordered within a connection.
//!
//! Who the peers are follows the log ([`Transport::follow_roster`]): a connection begins when a
//! member comes and ends when it is taken out. A process that comes back after that, or on a
//! directory that was rolled back, is told so in the answer to its handshake ([`Verdict`]).

use crate::access::outbound::Outbound;
use crate::http::connections::Held;
use crate::machine::version::MACHINE_VERSION;
use crate::raft::driver::{Inbox, Input};
use crate::raft::frames::{
    Frames, KIND_ECHO, KIND_GOODBYE, KIND_MESSAGES, KIND_PULSE, frame, invalid, pack, unpack,
};
use crate::raft::greeting::{self, Greeting};
use crate::raft::handover::Trouble;
use crate::raft::handshake::{HANDSHAKE, Handshake, PeerState, Refusal, VERDICT};
use crate::raft::identity::Member;
use crate::raft::peer_http::PeerHttp;
use crate::raft::roster::Roster;
use crate::raft::snapshots::{SnapshotName, Snapshots};
use crate::replica::VoterSets;
use crate::telemetry::{Direction, Telemetry};
use api::cluster::{Goodbye, PeerStatus};
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use bytes::BytesMut;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use raft::eraftpb::{Message, MessageType};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use crate::raft::handshake::Verdict;

/// The path of the upgrade.
pub const CONNECT_PATH: &str = "/raft/connect";
const PROTOCOL: &str = "holdfast-raft-1";
/// Messages that may wait for one peer; beyond it they are dropped.
const QUEUE: usize = 8_192;
const PULSE_EVERY: Duration = Duration::from_millis(100);
/// A connection that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a node that ends waits until its peers were told.
const GOODBYE: Duration = Duration::from_millis(500);

/// How a node stands, told to every peer ten times a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// True on the leader.
    pub leads: bool,
    /// True where it knows one.
    pub knows_leader: bool,
    /// True where its log lost its end.
    pub suspect: bool,
    /// Its term.
    pub term: u64,
    /// Last index of its log.
    pub last_index: u64,
    /// Term of that entry.
    pub last_term: u64,
    /// Where it is suspect: the index up to which its log is known to be its leader's.
    pub verified_index: u64,
    /// Its commit index.
    pub commit_index: u64,
    /// Term of the entry there.
    pub commit_term: u64,
    /// True while it fetches a snapshot.
    pub fetching: bool,
    /// What is wrong with it.
    pub trouble: Trouble,
    /// Who votes, as far as it knows.
    pub sets: VoterSets,
}

/// How a peer stands, for those who decide about members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHealth {
    /// Its Raft id.
    pub raft_id: u64,
    /// True while a connection to it is up.
    pub reachable: bool,
    /// Milliseconds since anything was heard of it, or since it was first looked for.
    pub silent_ms: u64,
    /// The index up to which its log matches, as the leader knows it.
    pub match_index: Option<u64>,
    /// The newest machine version its program knows, once it told.
    pub machine_version: Option<u32>,
}

/// What this node says of itself in a handshake.
#[derive(Debug, Clone)]
pub struct Own {
    /// The cluster.
    pub cluster_id: String,
    /// This member.
    pub member: Member,
    /// How often it was started.
    pub boot_counter: u64,
    /// Unique to this start.
    pub boot_nonce: u64,
}

struct Peer {
    raft_id: u64,
    member: Member,
    queue: mpsc::Sender<Message>,
    state: Mutex<PeerState>,
    since: Instant,
    /// Cancelled when it is no member any more.
    end: CancellationToken,
}

/// Who is told what handshakes say.
pub trait Listener: Send + Sync {
    /// A peer refused this node for good.
    fn verdict(&self, verdict: Verdict, why: String);
    /// A process of this peer was met; to be noted durably.
    fn boot(&self, raft_id: u64, boot_counter: u64);
    /// The highest start number that was noted of a peer.
    fn boot_before(&self, raft_id: u64) -> Option<u64>;
}

/// The connections to all peers.
pub struct Transport {
    own: Own,
    roster: Arc<Roster>,
    peers: RwLock<HashMap<u64, Arc<Peer>>>,
    /// Where the connections' tasks run; members may change on any thread.
    runtime: tokio::runtime::Handle,
    /// Told what handshakes say.
    listener: Arc<dyn Listener>,
    inbox: Inbox,
    pulse: RwLock<Pulse>,
    telemetry: Telemetry,
    end: CancellationToken,
    connect_timeout: Duration,
    /// Attempts that fail in a row before the log says that a peer can't be reached.
    retry_limit: u32,
    snapshots: Snapshots,
    outbound: Outbound,
    http: PeerHttp,
    /// True while a snapshot is fetched; one at a time.
    fetching: Arc<AtomicBool>,
    /// Counts connections, so that their lines in the log can be told apart.
    connections: AtomicU64,
    /// Cancelled when this process ends on purpose.
    leaving: CancellationToken,
    /// Told whenever a peer was told so.
    told: Notify,
}

impl Transport {
    /// Starts a connection to every peer of the roster.
    pub fn start(
        own: Own,
        roster: Arc<Roster>,
        inbox: Inbox,
        telemetry: Telemetry,
        connect_timeout: Duration,
        retry_limit: u32,
        snapshots: Snapshots,
        outbound: Outbound,
        end: CancellationToken,
        listener: Arc<dyn Listener>,
    ) -> Arc<Transport> {
        let transport = Arc::new(Transport {
            own,
            roster,
            peers: RwLock::default(),
            runtime: tokio::runtime::Handle::current(),
            listener,
            inbox,
            pulse: RwLock::default(),
            telemetry,
            end,
            connect_timeout,
            retry_limit,
            snapshots,
            http: PeerHttp::new(outbound.clone()),
            outbound,
            fetching: Arc::default(),
            connections: AtomicU64::new(0),
            leaving: CancellationToken::new(),
            told: Notify::new(),
        });
        transport.follow_roster();
        transport
    }

    /// Begins and ends connections, so that there is one to every member.
    pub fn follow_roster(self: &Arc<Self>) {
        let members = self.roster.talked_to();
        let wanted: HashMap<u64, Member> = members
            .into_iter()
            .filter(|m| {
                (&m.node_id, &m.incarnation) != (&self.own.member.node_id, &self.own.member.incarnation)
            })
            .map(|m| (m.raft_id(), m))
            .collect();
        let mut peers = self.peers.write();
        peers.retain(|raft_id, peer| {
            let stays = wanted.contains_key(raft_id);
            if !stays {
                tracing::info!(peer = %peer.member.node_id, "a member went; its connections end");
                peer.end.cancel();
            }
            stays
        });
        for (raft_id, member) in wanted {
            peers.entry(raft_id).or_insert_with(|| {
                let (queue, receiver) = mpsc::channel(QUEUE);
                let (since, end) = (Instant::now(), self.end.child_token());
                let state =
                    PeerState { boot_before: self.listener.boot_before(raft_id), ..PeerState::default() };
                let peer = Arc::new(Peer { raft_id, member, queue, state: Mutex::new(state), since, end });
                self.runtime.spawn(self.clone().keep_connected(peer.clone(), receiver));
                peer
            });
        }
    }

    fn peer(&self, raft_id: u64) -> Option<Arc<Peer>> {
        self.peers.read().get(&raft_id).cloned()
    }

    /// Queues messages for their peers; what does not fit is dropped and reported.
    pub fn send(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let peers = self.peers.read();
        for message in messages {
            let to = message.to;
            let Some(peer) = peers.get(&to) else {
                // A member whose record the machine has not applied yet.
                self.inbox.tell(Input::Unreachable(to));
                continue;
            };
            let lost = !peer.state.lock().connected || peer.queue.try_send(message).is_err();
            if lost {
                self.inbox.tell(Input::Unreachable(to));
            }
        }
    }

    /// How this node stands now.
    pub fn set_pulse(&self, pulse: Pulse) {
        let same = *self.pulse.read() == pulse;
        if !same {
            *self.pulse.write() = pulse;
        }
    }

    /// Tells every peer that this process ends on purpose; done once those that are connected know.
    pub async fn say_goodbye(&self) {
        self.leaving.cancel();
        let knows = |peer: &Arc<Peer>| {
            let state = peer.state.lock();
            state.told_goodbye || !state.connected
        };
        let all_know = async {
            while !self.peers.read().values().all(knows) {
                self.told.notified().await;
            }
        };
        if tokio::time::timeout(GOODBYE, all_know).await.is_err() {
            tracing::warn!("not every peer could be told that this node stops on purpose");
        }
    }

    /// Matched indexes as the leader knows them; none elsewhere.
    pub fn set_matched(&self, matched: &[(u64, u64)]) {
        for (raft_id, peer) in self.peers.read().iter() {
            let found = matched.iter().find(|(id, _)| id == raft_id).map(|(_, index)| *index);
            peer.state.lock().match_index = found;
        }
    }

    /// The peers as this node sees them, by node id. Of two incarnations of one node the one
    /// that answers is shown.
    pub fn statuses(&self) -> Vec<PeerStatus> {
        let mut all: Vec<_> = self
            .peers
            .read()
            .values()
            .filter(|p| p.member.node_id != self.own.member.node_id)
            .map(|p| self.status_of(p))
            .collect();
        all.sort_by(|a, b| (&a.node_id, b.reachable).cmp(&(&b.node_id, a.reachable)));
        all.dedup_by(|a, b| a.node_id == b.node_id);
        all
    }

    fn status_of(&self, peer: &Peer) -> PeerStatus {
        let state = peer.state.lock();
        PeerStatus {
            node_id: peer.member.node_id.clone(),
            address: self.address_of(peer),
            reachable: state.connected,
            last_contact_ms: state.last_heard.map(|at| at.elapsed().as_millis() as u64),
            rtt_ms: state.clock.rtt().map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            match_index: state.match_index,
            clock_offset_ms: state.clock.offset_us().map(|us| (us as f64 / 1e3).round() as i64),
            error: state.error.clone(),
            goodbye: state.left.map(|(boot, at)| Goodbye {
                boot_nonce: format!("{boot:016x}"),
                ago_ms: at.elapsed().as_millis() as u64,
            }),
        }
    }

    fn address_of(&self, peer: &Peer) -> String {
        self.roster.address_of(peer.raft_id).unwrap_or_else(|| peer.member.address.clone())
    }

    /// How every peer stands.
    pub fn health(&self) -> Vec<PeerHealth> {
        let of = |peer: &Arc<Peer>| {
            let state = peer.state.lock();
            PeerHealth {
                raft_id: peer.raft_id,
                reachable: state.connected,
                silent_ms: state.last_heard.unwrap_or(peer.since).elapsed().as_millis() as u64,
                match_index: state.match_index,
                machine_version: state.machine_version,
            }
        };
        self.peers.read().values().map(of).collect()
    }

    fn handshake(&self) -> String {
        let pulse = self.pulse.read();
        let hello = Handshake {
            cluster_id: self.own.cluster_id.clone(),
            node_id: self.own.member.node_id.clone(),
            incarnation: self.own.member.incarnation.clone(),
            boot_counter: self.own.boot_counter,
            boot_nonce: self.own.boot_nonce,
            now_ms: jiff::Timestamp::now().as_millisecond(),
            address: self.own.member.address.clone(),
            machine_version: MACHINE_VERSION,
            suspect: pulse.suspect,
            last_index: (pulse.term > 0).then_some(pulse.last_index),
        };
        serde_json::to_string(&hello).unwrap_or_default()
    }

    /// Checks who is at the other end; gives its Raft id.
    fn admit(&self, headers: &HeaderMap) -> Result<(u64, Handshake), Refusal> {
        let text = headers
            .get(HANDSHAKE)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| Refusal::from("no handshake".to_owned()))?;
        let hello: Handshake =
            serde_json::from_str(text).map_err(|e| format!("the handshake can't be read: {e}"))?;
        if hello.cluster_id != self.own.cluster_id {
            return Err(format!(
                "node {} belongs to cluster {}, this is a node of cluster {}",
                hello.node_id, hello.cluster_id, self.own.cluster_id
            )
            .into());
        }
        let raft_id = crate::raft::identity::raft_id(&hello.node_id, &hello.incarnation);
        let Some(peer) = self.peer(raft_id) else {
            return Err(match self.roster.removed(raft_id) {
                Some(why) => Refusal { why, verdict: Some(Verdict::Removed) },
                None => Refusal::from(format!(
                    "node {} with incarnation {} is no member of this cluster",
                    hello.node_id, hello.incarnation
                )),
            });
        };
        peer.state.lock().meet(&hello)?;
        let (listener, counter) = (Arc::clone(&self.listener), hello.boot_counter);
        // Where it is news, it syncs a file.
        self.runtime.spawn_blocking(move || listener.boot(raft_id, counter));
        if !hello.address.is_empty() {
            self.roster.told(raft_id, &hello.address);
        }
        Ok((raft_id, hello))
    }

    /// A client of the peers.
    pub fn http(&self) -> &PeerHttp {
        &self.http
    }

    /// Answers a peer's upgrade.
    pub fn accept(self: &Arc<Self>, mut request: Request<Body>) -> Response<Body> {
        let refuse = |status: StatusCode, why: String, verdict: Option<Verdict>| {
            let mut problem = api::Problem::new(api::ErrorCode::InvalidState, why);
            problem.status = status.as_u16();
            let body = serde_json::to_vec(&problem).unwrap_or_default();
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            let kind = header::HeaderValue::from_static(crate::http::problem::PROBLEM_JSON);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            if let Some(verdict) = verdict {
                response.headers_mut().insert(VERDICT, header::HeaderValue::from_static(verdict.as_str()));
            }
            response
        };
        let asks = request.headers().get(header::UPGRADE).is_some_and(|v| v == PROTOCOL);
        if !asks {
            return refuse(
                StatusCode::UPGRADE_REQUIRED,
                format!("this path takes only the upgrade to {PROTOCOL}"),
                None,
            );
        }
        let (raft_id, hello) = match self.admit(request.headers()) {
            Ok(found) => found,
            Err(Refusal { why, verdict }) => {
                tracing::warn!(why, "a peer was refused");
                return refuse(StatusCode::CONFLICT, why, verdict);
            }
        };
        let Some(peer) = self.peer(raft_id) else {
            return refuse(StatusCode::CONFLICT, format!("node {} has just gone", hello.node_id), None);
        };
        let place = request.extensions().get::<Held>().cloned();
        let upgrade = hyper::upgrade::on(&mut request);
        let transport = self.clone();
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let connection = transport.connections.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %hello.node_id, connection, "a peer connected");
            let end = peer.end.clone();
            let served = transport.receive(&peer, hello.boot_nonce, TokioIo::new(upgraded));
            tokio::select! { _ = end.cancelled() => {}, result = served => {
                if let Err(why) = &result && why.kind() == std::io::ErrorKind::InvalidData {
                    tracing::warn!(peer = %hello.node_id, %why, "a peer's connection was closed");
                }
                tracing::debug!(peer = %hello.node_id, connection, ?result, "a peer's connection ended");
            }}
            peer.state.lock().boot_heard = None;
            drop(place);
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static(PROTOCOL));
        if let Ok(value) = header::HeaderValue::from_str(&self.handshake()) {
            headers.insert(HANDSHAKE, value);
        }
        response
    }

    /// Takes a peer's frames until it goes or falls silent.
    async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: &Peer,
        boot_nonce: u64,
        stream: S,
    ) -> std::io::Result<()> {
        let (raft_id, node_id) = (peer.raft_id, peer.member.node_id.as_str());
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = Frames::new(reader);
        loop {
            let (kind, payload) = timeout(SILENCE, reader.next()).await?;
            {
                let mut state = peer.state.lock();
                if state.boot.is_some_and(|(_, nonce)| nonce != boot_nonce) {
                    return Err(invalid("a newer process of this node has connected"));
                }
                let now = Instant::now();
                (state.last_heard, state.boot_heard) = (Some(now), Some(now));
            }
            match kind {
                KIND_MESSAGES => {
                    let bytes = payload.len();
                    let messages = unpack(payload, raft_id)?;
                    self.telemetry.peer_message(
                        node_id,
                        Direction::Received,
                        messages.len() as u64,
                        bytes as u64,
                    );
                    self.take_messages(peer, messages);
                }
                KIND_PULSE => {
                    let (sent, pulse): (u64, Pulse) = postcard::from_bytes(&payload).map_err(invalid)?;
                    self.inbox.tell(Input::Pulse(raft_id, pulse));
                    let echo = postcard::to_stdvec(&(sent, now_us())).map_err(invalid)?;
                    writer.write_all(&frame(KIND_ECHO, &echo)).await?;
                }
                KIND_GOODBYE => {
                    tracing::info!(peer = %node_id, "a peer stops on purpose");
                    peer.state.lock().left = Some((boot_nonce, Instant::now()));
                }
                other => return Err(invalid(format!("unknown frame kind {other}"))),
            }
        }
    }

    /// Gives messages to the replica; a snapshot's file is fetched and verified first.
    fn take_messages(&self, peer: &Peer, messages: Vec<Message>) {
        let (snapshots, others): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|m| m.get_msg_type() == MessageType::MsgSnapshot);
        if !others.is_empty() {
            self.inbox.peer(others);
        }
        for message in snapshots {
            let Ok(name) = serde_json::from_slice::<SnapshotName>(message.get_snapshot().get_data()) else {
                tracing::warn!(peer = %peer.member.node_id, "a snapshot's name can't be read");
                continue;
            };
            if self.fetching.swap(true, Ordering::AcqRel) {
                continue;
            }
            let (inbox, snapshots, fetching) =
                (self.inbox.clone(), self.snapshots.clone(), self.fetching.clone());
            let (address, http) = (self.address_of(peer), self.http.clone());
            let telemetry = self.telemetry.clone();
            tokio::spawn(async move {
                let fetched = snapshots.fetch(&http, &address, &name).await;
                telemetry.snapshot_fetched(fetched.is_ok());
                match fetched {
                    Ok(()) => inbox.peer(vec![message]),
                    // The leader sends it again when it hears nothing.
                    Err(error) => tracing::warn!(%error, "a snapshot could not be fetched"),
                }
                fetching.store(false, Ordering::Release);
            });
        }
    }

    /// Keeps one connection to a peer, for as long as the node runs.
    async fn keep_connected(self: Arc<Self>, peer: Arc<Peer>, mut queue: mpsc::Receiver<Message>) {
        let mut pause = Duration::from_millis(20);
        let mut failed: u32 = 0;
        loop {
            let attempt = async {
                let stream = timeout(self.connect_timeout, self.connect(&peer)).await?;
                pause = Duration::from_millis(20);
                failed = 0;
                {
                    let mut state = peer.state.lock();
                    state.connected = true;
                    state.error = None;
                }
                tracing::info!(peer = %peer.member.node_id, address = %self.address_of(&peer), "connected to a peer");
                self.feed(&peer, stream, &mut queue).await
            };
            let result = tokio::select! { _ = peer.end.cancelled() => return, result = attempt => result };
            let why = result.err().map_or_else(|| "closed".to_owned(), |e: std::io::Error| e.to_string());
            let was_connected = std::mem::take(&mut peer.state.lock().connected);
            if was_connected {
                tracing::warn!(peer = %peer.member.node_id, why, "the connection to a peer broke");
                self.inbox.tell(Input::Unreachable(peer.raft_id));
            } else {
                failed = failed.saturating_add(1);
                if failed == self.retry_limit.max(1) {
                    let address = self.address_of(&peer);
                    tracing::warn!(peer = %peer.member.node_id, address, attempts = failed, why, "a peer can't be reached; trying on");
                }
            }
            peer.state.lock().error = Some(why);
            while queue.try_recv().is_ok() {}
            tokio::select! { _ = peer.end.cancelled() => return, () = tokio::time::sleep(pause) => {} }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Connects and shakes hands.
    async fn connect(&self, peer: &Peer) -> std::io::Result<TokioIo<hyper::upgrade::Upgraded>> {
        let address = self.address_of(peer);
        let handshake = self.handshake();
        let greeting =
            Greeting { address: &address, path: CONNECT_PATH, protocol: PROTOCOL, handshake: &handshake };
        let (sent_us, sent_at) = (now_us(), Instant::now());
        let response = greeting::send(&self.outbound, &greeting).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let verdict =
                response.headers().get(VERDICT).and_then(|v| v.to_str().ok()).and_then(Verdict::parse);
            let body = http_body_util::BodyExt::collect(http_body_util::Limited::new(
                response.into_body(),
                64 * 1024,
            ))
            .await
            .map(|b| b.to_bytes())
            .unwrap_or_default();
            let why = serde_json::from_slice::<api::Problem>(&body)
                .map_or_else(|_| status.to_string(), |p| p.detail);
            if let Some(verdict) = verdict {
                self.listener.verdict(verdict, format!("{} says: {why}", peer.member.node_id));
            }
            return Err(std::io::Error::other(format!("refused: {why}")));
        }
        let (raft_id, hello) = self.admit(response.headers()).map_err(|r| std::io::Error::other(r.why))?;
        if raft_id != peer.raft_id {
            return Err(std::io::Error::other(format!("{address} answers as node {}", hello.node_id)));
        }
        {
            // What was measured over the last connection counts no more.
            let mut state = peer.state.lock();
            state.clock.forget();
            state.clock.sample(sent_us, hello.now_ms.saturating_mul(1000), sent_at.elapsed());
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(std::io::Error::other)
    }

    /// Sends what is queued, and a pulse now and then; takes the echoes.
    async fn feed<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: &Peer,
        stream: S,
        queue: &mut mpsc::Receiver<Message>,
    ) -> std::io::Result<()> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut echoes = Frames::new(reader);
        let origin = Instant::now();
        let mut pulses = tokio::time::interval(PULSE_EVERY);
        pulses.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last_echo = Instant::now();
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        let mut said_goodbye = false;
        loop {
            tokio::select! {
                () = self.leaving.cancelled(), if !said_goodbye => {
                    timeout(SILENCE, writer.write_all(&frame(KIND_GOODBYE, &[]))).await?;
                    said_goodbye = true;
                    peer.state.lock().told_goodbye = true;
                    self.told.notify_one();
                }
                message = queue.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    let count = pack(&mut buffer, message, queue)?;
                    self.telemetry.peer_message(&peer.member.node_id, Direction::Sent, count as u64, buffer.len() as u64);
                    timeout(SILENCE, writer.write_all_buf(&mut buffer)).await?;
                }
                _ = pulses.tick() => {
                    if last_echo.elapsed() > SILENCE {
                        return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no echo"));
                    }
                    let sent = origin.elapsed().as_nanos() as u64;
                    let fetching = self.fetching.load(Ordering::Acquire);
                    let pulse = Pulse { fetching, ..self.pulse.read().clone() };
                    let payload = postcard::to_stdvec(&(sent, pulse)).map_err(invalid)?;
                    timeout(SILENCE, writer.write_all(&frame(KIND_PULSE, &payload))).await?;
                }
                echo = echoes.next() => {
                    let (kind, payload) = echo?;
                    if kind != KIND_ECHO {
                        return Err(invalid(format!("unexpected frame kind {kind}")));
                    }
                    let (sent, theirs_us): (u64, i64) = postcard::from_bytes(&payload).map_err(invalid)?;
                    last_echo = Instant::now();
                    let rtt = origin.elapsed().saturating_sub(Duration::from_nanos(sent));
                    let mut state = peer.state.lock();
                    let sent_us = now_us() - i64::try_from(rtt.as_micros()).unwrap_or(0);
                    state.clock.sample(sent_us, theirs_us, rtt);
                    state.last_heard = Some(last_echo);
                }
            }
        }
    }
}

/// The wall clock, Unix microseconds.
fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// Bounds a step that has no end of its own.
async fn timeout<T>(limit: Duration, step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(limit, step)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, format!("nothing for {limit:?}")))?
}
