//! Peers talk on the API port: an HTTP upgrade, then length-delimited frames.
//!
//! Each node opens one connection to every peer and sends on it only; what it receives comes on
//! the connection that the peer opened. A frame is a length (4 bytes, big-endian), a kind, and
//! its payload: Raft messages (many in one frame), a pulse (how the sender stands, with its
//! clock), or a pulse's echo, from which the round trip is taken.
//!
//! A handshake goes before the first frame: cluster, node id, incarnation, boot counter and
//! nonce. A stranger is refused before anything of it is parsed.
//!
//! Messages may be lost (a full queue, a broken connection): Raft repeats what matters. They are
//! never reordered within a connection.

use crate::access::outbound::Outbound;
use crate::access::peers::fresh_number;
use crate::raft::driver::{Inbox, Input};
use crate::raft::greeting;
use crate::raft::identity::Member;
use crate::raft::snapshots::{SnapshotName, Snapshots};
use crate::telemetry::{Direction, Telemetry};
use api::cluster::PeerStatus;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The path of the upgrade.
pub const CONNECT_PATH: &str = "/raft/connect";
const PROTOCOL: &str = "holdfast-raft-1";
const HANDSHAKE: &str = "x-holdfast-handshake";
/// Messages that may wait for one peer; beyond it they are dropped.
const QUEUE: usize = 8_192;
/// The largest frame taken from a peer.
const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of messages gathered into one write.
const WRITE_BYTES: usize = 1024 * 1024;
const PULSE_EVERY: Duration = Duration::from_millis(100);
/// A connection that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(3);

const KIND_MESSAGES: u8 = 1;
const KIND_PULSE: u8 = 2;
const KIND_ECHO: u8 = 3;

/// How a node stands, told to every peer ten times a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// What goes before the first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Handshake {
    cluster_id: String,
    node_id: String,
    incarnation: String,
    boot_counter: u64,
    boot_nonce: u64,
    now_ms: i64,
    /// Drawn for this connection, so that no proof over it serves for another.
    #[serde(default)]
    number: String,
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
    member: Member,
    address: RwLock<String>,
    queue: mpsc::Sender<Message>,
    state: Mutex<PeerState>,
}

#[derive(Debug, Default)]
struct PeerState {
    connected: bool,
    last_heard: Option<Instant>,
    rtt: Option<Duration>,
    clock_offset_ms: Option<i64>,
    error: Option<String>,
    /// The newest boot that shook hands with us.
    boot: Option<(u64, u64)>,
    match_index: Option<u64>,
}

impl Peer {
    fn address(&self) -> String {
        self.address.read().clone()
    }
}

/// The connections to all peers.
pub struct Transport {
    own: Own,
    peers: HashMap<u64, Arc<Peer>>,
    inbox: Inbox,
    pulse: RwLock<Pulse>,
    telemetry: Telemetry,
    end: CancellationToken,
    connect_timeout: Duration,
    snapshots: Snapshots,
    outbound: Outbound,
    /// True while a snapshot is fetched; one at a time.
    fetching: Arc<AtomicBool>,
    /// Counts connections, so that their lines in the log can be told apart.
    connections: AtomicU64,
}

impl Transport {
    /// Starts a connection to every peer; `address_of` says where each is reached.
    pub fn start(
        own: Own,
        members: &[Member],
        address_of: impl Fn(&Member) -> String,
        inbox: Inbox,
        telemetry: Telemetry,
        connect_timeout: Duration,
        snapshots: Snapshots,
        outbound: Outbound,
        end: CancellationToken,
    ) -> Arc<Transport> {
        let mut queues = Vec::new();
        let mut peers = HashMap::new();
        for member in members.iter().filter(|m| **m != own.member) {
            let (queue, receiver) = mpsc::channel(QUEUE);
            let peer = Arc::new(Peer {
                member: member.clone(),
                address: RwLock::new(address_of(member)),
                queue,
                state: Mutex::default(),
            });
            peers.insert(member.raft_id(), peer.clone());
            queues.push((member.raft_id(), peer, receiver));
        }
        let transport = Arc::new(Transport {
            own,
            peers,
            inbox,
            pulse: RwLock::default(),
            telemetry,
            end,
            connect_timeout,
            snapshots,
            outbound,
            fetching: Arc::default(),
            connections: AtomicU64::new(0),
        });
        for (raft_id, peer, receiver) in queues {
            tokio::spawn(transport.clone().keep_connected(raft_id, peer, receiver));
        }
        transport
    }

    /// Queues messages for their peers; what does not fit is dropped and reported.
    pub fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let Some(peer) = self.peers.get(&to) else { continue };
            let lost = !peer.state.lock().connected || peer.queue.try_send(message).is_err();
            if lost {
                self.inbox.tell(Input::Unreachable(to));
            }
        }
    }

    /// Where a peer is reached from now on: the next connection goes there.
    pub fn set_address(&self, node_id: &str, address: String) {
        for peer in self.peers.values().filter(|peer| peer.member.node_id == node_id) {
            *peer.address.write() = address.clone();
        }
    }

    /// How this node stands now.
    pub fn set_pulse(&self, pulse: Pulse) {
        let same = *self.pulse.read() == pulse;
        if !same {
            *self.pulse.write() = pulse;
        }
    }

    /// Matched indexes as the leader knows them; none elsewhere.
    pub fn set_matched(&self, matched: &[(u64, u64)]) {
        for (raft_id, peer) in &self.peers {
            let found = matched.iter().find(|(id, _)| id == raft_id).map(|(_, index)| *index);
            peer.state.lock().match_index = found;
        }
    }

    /// The peers as this node sees them, by node id.
    pub fn statuses(&self) -> Vec<PeerStatus> {
        let mut all: Vec<_> = self
            .peers
            .values()
            .map(|peer| {
                let state = peer.state.lock();
                PeerStatus {
                    node_id: peer.member.node_id.clone(),
                    address: peer.address(),
                    reachable: state.connected,
                    last_contact_ms: state.last_heard.map(|at| at.elapsed().as_millis() as u64),
                    rtt_ms: state.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
                    match_index: state.match_index,
                    clock_offset_ms: state.clock_offset_ms,
                    error: state.error.clone(),
                }
            })
            .collect();
        all.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        all
    }

    fn handshake(&self) -> std::io::Result<String> {
        let hello = Handshake {
            cluster_id: self.own.cluster_id.clone(),
            node_id: self.own.member.node_id.clone(),
            incarnation: self.own.member.incarnation.clone(),
            boot_counter: self.own.boot_counter,
            boot_nonce: self.own.boot_nonce,
            now_ms: jiff::Timestamp::now().as_millisecond(),
            number: fresh_number().map_err(std::io::Error::other)?,
        };
        serde_json::to_string(&hello).map_err(std::io::Error::other)
    }

    /// Checks who is at the other end; gives its Raft id. Nothing is kept of it before it has
    /// proved itself.
    fn admit(&self, headers: &HeaderMap) -> Result<(u64, Handshake), String> {
        let text = headers.get(HANDSHAKE).and_then(|v| v.to_str().ok()).ok_or("no handshake")?;
        let hello: Handshake =
            serde_json::from_str(text).map_err(|e| format!("the handshake can't be read: {e}"))?;
        if hello.cluster_id != self.own.cluster_id {
            return Err(format!(
                "node {} belongs to cluster {}, this is a node of cluster {}",
                hello.node_id, hello.cluster_id, self.own.cluster_id
            ));
        }
        let raft_id = crate::raft::identity::raft_id(&hello.node_id, &hello.incarnation);
        let Some(peer) = self.peers.get(&raft_id) else {
            return Err(format!(
                "node {} with incarnation {} is no member of this cluster",
                hello.node_id, hello.incarnation
            ));
        };
        let boot = (hello.boot_counter, hello.boot_nonce);
        self.is_newest(peer, &hello.node_id, boot)?;
        Ok((raft_id, hello))
    }

    /// Refuses a second process of a node.
    fn is_newest(&self, peer: &Peer, node_id: &str, boot: (u64, u64)) -> Result<(), String> {
        match peer.state.lock().boot {
            Some(known) if known != boot && boot.0 <= known.0 => Err(format!(
                "another process of node {} (its start number {}) has been seen; this one is number {}: two processes share one data directory or a copy of it",
                node_id, known.0, boot.0
            )),
            _ => Ok(()),
        }
    }

    /// Remembers a peer that has proved itself.
    fn greeted(&self, raft_id: u64, hello: &Handshake, seen_ms: i64) -> std::io::Result<()> {
        let Some(peer) = self.peers.get(&raft_id) else { return Ok(()) };
        let boot = (hello.boot_counter, hello.boot_nonce);
        self.is_newest(peer, &hello.node_id, boot).map_err(std::io::Error::other)?;
        let mut state = peer.state.lock();
        state.boot = Some(boot);
        state.clock_offset_ms = Some(hello.now_ms - seen_ms);
        Ok(())
    }

    /// Answers a peer's upgrade.
    pub fn accept(self: &Arc<Self>, mut request: Request<Body>) -> Response<Body> {
        let refuse = |status: StatusCode, why: String| {
            let problem = api::Problem::new(api::ErrorCode::InvalidState, why);
            let body = serde_json::to_vec(&problem).unwrap_or_default();
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            response
        };
        let asks = request.headers().get(header::UPGRADE).is_some_and(|v| v == PROTOCOL);
        if !asks {
            return refuse(
                StatusCode::UPGRADE_REQUIRED,
                format!("this path takes only the upgrade to {PROTOCOL}"),
            );
        }
        let (raft_id, hello) = match self.admit(request.headers()) {
            Ok(found) => found,
            Err(why) => {
                tracing::warn!(why, "a peer was refused");
                return refuse(StatusCode::CONFLICT, why);
            }
        };
        let seen_ms = jiff::Timestamp::now().as_millisecond();
        let theirs = text_of(request.headers(), HANDSHAKE);
        let Ok(ours) = self.handshake() else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "no handshake can be made".into());
        };
        let place = request.extensions().get::<crate::http::connections::Held>().cloned();
        let proof = greeting::of_accepting(self.outbound.secret(), &theirs, &ours);
        let greeted_with = ours.clone();
        let upgrade = hyper::upgrade::on(&mut request);
        let transport = self.clone();
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let connection = transport.connections.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %hello.node_id, connection, "a peer connected");
            let end = transport.end.clone();
            let mut stream = TokioIo::new(upgraded);
            let served = async {
                let secret = transport.outbound.secret();
                greeting::check(secret, &theirs, &greeted_with, &mut stream).await?;
                transport.greeted(raft_id, &hello, seen_ms)?;
                transport.receive(raft_id, &hello.node_id, stream).await
            };
            tokio::select! { _ = end.cancelled() => {}, result = served => {
                if let Err(why) = &result && is_hostile(why) {
                    tracing::warn!(peer = %hello.node_id, %why, "a peer's connection was closed");
                }
                drop(place);
                tracing::debug!(peer = %hello.node_id, connection, ?result, "a peer's connection ended");
            }}
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static(PROTOCOL));
        for (name, text) in [(HANDSHAKE, Some(ours)), (greeting::PROOF, proof)] {
            if let Some(value) = text.and_then(|text| header::HeaderValue::from_str(&text).ok()) {
                headers.insert(name, value);
            }
        }
        response
    }

    /// Takes a peer's frames until it goes or falls silent.
    async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        raft_id: u64,
        node_id: &str,
        stream: S,
    ) -> std::io::Result<()> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = Frames::new(reader);
        loop {
            let (kind, payload) = timeout(SILENCE, reader.next()).await?;
            if let Some(peer) = self.peers.get(&raft_id) {
                peer.state.lock().last_heard = Some(Instant::now());
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
                    self.take_messages(raft_id, messages);
                }
                KIND_PULSE => {
                    let (sent, pulse): (u64, Pulse) = postcard::from_bytes(&payload).map_err(invalid)?;
                    self.inbox.tell(Input::Pulse(raft_id, pulse));
                    let echo = postcard::to_stdvec(&sent).map_err(invalid)?;
                    writer.write_all(&frame(KIND_ECHO, &echo)).await?;
                }
                other => return Err(invalid(format!("unknown frame kind {other}"))),
            }
        }
    }

    /// Gives messages to the replica; a snapshot's file is fetched and verified first.
    fn take_messages(&self, raft_id: u64, messages: Vec<Message>) {
        let (snapshots, others): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|m| m.get_msg_type() == MessageType::MsgSnapshot);
        if !others.is_empty() {
            self.inbox.peer(others);
        }
        for message in snapshots {
            let Some(peer) = self.peers.get(&raft_id) else { continue };
            let Ok(name) = serde_json::from_slice::<SnapshotName>(message.get_snapshot().get_data()) else {
                tracing::warn!(peer = %peer.member.node_id, "a snapshot's name can't be read");
                continue;
            };
            if self.fetching.swap(true, Ordering::AcqRel) {
                continue;
            }
            let (inbox, snapshots, fetching) =
                (self.inbox.clone(), self.snapshots.clone(), self.fetching.clone());
            let (address, outbound) = (peer.address(), self.outbound.clone());
            tokio::spawn(async move {
                match snapshots.fetch(&outbound, &address, &name).await {
                    Ok(()) => inbox.peer(vec![message]),
                    // The leader sends it again when it hears nothing.
                    Err(error) => tracing::warn!(%error, "a snapshot could not be fetched"),
                }
                fetching.store(false, Ordering::Release);
            });
        }
    }

    /// Keeps one connection to a peer, for as long as the node runs.
    async fn keep_connected(
        self: Arc<Self>,
        raft_id: u64,
        peer: Arc<Peer>,
        mut queue: mpsc::Receiver<Message>,
    ) {
        let mut pause = Duration::from_millis(20);
        loop {
            let attempt = async {
                let stream = timeout(self.connect_timeout, self.connect(&peer)).await?;
                pause = Duration::from_millis(20);
                {
                    let mut state = peer.state.lock();
                    state.connected = true;
                    state.error = None;
                }
                tracing::info!(peer = %peer.member.node_id, address = %peer.address(), "connected to a peer");
                self.feed(&peer, stream, &mut queue).await
            };
            let result = tokio::select! { _ = self.end.cancelled() => return, result = attempt => result };
            let why = result.err().map_or_else(|| "closed".to_owned(), |e: std::io::Error| e.to_string());
            let was_connected = std::mem::take(&mut peer.state.lock().connected);
            if was_connected {
                tracing::warn!(peer = %peer.member.node_id, why, "the connection to a peer broke");
                self.inbox.tell(Input::Unreachable(raft_id));
            }
            peer.state.lock().error = Some(why);
            while queue.try_recv().is_ok() {}
            tokio::select! { _ = self.end.cancelled() => return, () = tokio::time::sleep(pause) => {} }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Connects and shakes hands.
    async fn connect(&self, peer: &Peer) -> std::io::Result<TokioIo<hyper::upgrade::Upgraded>> {
        let address = peer.address();
        let opened = greeting::open(&self.outbound, &address).await?;
        let ours = self.handshake()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(opened))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .uri(CONNECT_PATH)
            .header(header::HOST, &address)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, PROTOCOL)
            .header(HANDSHAKE, &ours)
            .body(Body::empty())
            .map_err(std::io::Error::other)?;
        let sent_ms = jiff::Timestamp::now().as_millisecond();
        let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = http_body_util::BodyExt::collect(http_body_util::Limited::new(
                response.into_body(),
                64 * 1024,
            ))
            .await
            .map(|b| b.to_bytes())
            .unwrap_or_default();
            let why = serde_json::from_slice::<api::Problem>(&body)
                .map_or_else(|_| status.to_string(), |p| p.detail);
            return Err(std::io::Error::other(format!("refused: {why}")));
        }
        let (raft_id, hello) = self.admit(response.headers()).map_err(std::io::Error::other)?;
        if raft_id != peer.member.raft_id() {
            return Err(std::io::Error::other(format!("{address} answers as node {}", hello.node_id)));
        }
        let middle = (sent_ms + jiff::Timestamp::now().as_millisecond()) / 2;
        let answer = response.headers().clone();
        let theirs = text_of(&answer, HANDSHAKE);
        let upgraded = hyper::upgrade::on(response).await.map_err(std::io::Error::other)?;
        let mut stream = TokioIo::new(upgraded);
        greeting::prove(self.outbound.secret(), &answer, &ours, &theirs, &mut stream).await?;
        self.greeted(raft_id, &hello, middle)?;
        Ok(stream)
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
        loop {
            tokio::select! {
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
                    let pulse = *self.pulse.read();
                    let payload = postcard::to_stdvec(&(sent, pulse)).map_err(invalid)?;
                    timeout(SILENCE, writer.write_all(&frame(KIND_PULSE, &payload))).await?;
                }
                echo = echoes.next() => {
                    let (kind, payload) = echo?;
                    if kind != KIND_ECHO {
                        return Err(invalid(format!("unexpected frame kind {kind}")));
                    }
                    let sent: u64 = postcard::from_bytes(&payload).map_err(invalid)?;
                    last_echo = Instant::now();
                    let rtt = origin.elapsed().saturating_sub(Duration::from_nanos(sent));
                    let mut state = peer.state.lock();
                    state.rtt = Some(state.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
                    state.last_heard = Some(last_echo);
                }
            }
        }
    }
}

/// A header as text.
fn text_of(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// True for what no sound peer does; a connection that merely broke is none of it.
fn is_hostile(why: &std::io::Error) -> bool {
    matches!(why.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::PermissionDenied)
}

/// Bounds a step that has no end of its own.
async fn timeout<T>(limit: Duration, step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(limit, step)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, format!("nothing for {limit:?}")))?
}

fn invalid(why: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_string())
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 5);
    out.put_u32(payload.len() as u32 + 1);
    out.put_u8(kind);
    out.put_slice(payload);
    out.freeze()
}

/// Packs a message and those that wait behind it into one frame; gives their number.
fn pack(
    buffer: &mut BytesMut,
    first: Message,
    queue: &mut mpsc::Receiver<Message>,
) -> std::io::Result<usize> {
    buffer.clear();
    buffer.put_u32(0);
    buffer.put_u8(KIND_MESSAGES);
    let mut count = 0;
    let mut next = Some(first);
    while let Some(message) = next.take() {
        buffer.put_u32(message.compute_size());
        let bytes = message.write_to_bytes().map_err(invalid)?;
        buffer.put_slice(&bytes);
        count += 1;
        if buffer.len() < WRITE_BYTES {
            next = queue.try_recv().ok();
        }
    }
    let length = buffer.len() as u32 - 4;
    buffer[..4].copy_from_slice(&length.to_be_bytes());
    Ok(count)
}

/// Takes the messages of a frame; each must come from the peer that shook hands.
fn unpack(mut payload: Bytes, from: u64) -> std::io::Result<Vec<Message>> {
    let mut messages = Vec::new();
    while payload.has_remaining() {
        if payload.remaining() < 4 {
            return Err(invalid("a message's length is cut off"));
        }
        let length = payload.get_u32() as usize;
        if payload.remaining() < length {
            return Err(invalid("a message is cut off"));
        }
        let message = Message::parse_from_bytes(&payload.split_to(length)).map_err(invalid)?;
        // A forwarded read or proposal keeps its first sender; everything else is its own.
        if message.from != from {
            return Err(invalid(format!(
                "a message of member {} came over the connection of {from}",
                message.from
            )));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Reads frames; keeps what was read of the next one when a read is given up half-way.
struct Frames<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    fn new(reader: R) -> Self {
        Frames { reader, buffer: BytesMut::with_capacity(64 * 1024) }
    }

    async fn next(&mut self) -> std::io::Result<(u8, Bytes)> {
        loop {
            if self.buffer.len() >= 4 {
                let length =
                    u32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]])
                        as usize;
                if length == 0 || length > MAX_FRAME_BYTES {
                    return Err(invalid(format!(
                        "a frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken"
                    )));
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let mut payload = self.buffer.split_to(length).freeze();
                    return Ok((payload.get_u8(), payload));
                }
                self.buffer.reserve(4 + length - self.buffer.len());
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_being_cut_anywhere() {
        let (mut queue_in, mut queue) = mpsc::channel(8);
        let message = |term| Message { from: 7, term, ..Default::default() };
        queue_in.send(message(2)).await.unwrap();
        let _keep = &mut queue_in;
        let mut buffer = BytesMut::new();
        assert_eq!(pack(&mut buffer, message(1), &mut queue).unwrap(), 2);
        let (mut near, far) = tokio::io::duplex(3);
        let sent = tokio::spawn(async move { near.write_all(&buffer).await });
        let (kind, payload) = Frames::new(far).next().await.unwrap();
        sent.await.unwrap().unwrap();
        assert_eq!(kind, KIND_MESSAGES);
        let terms: Vec<_> = unpack(payload, 7).unwrap().iter().map(|m| m.term).collect();
        assert_eq!(terms, [1, 2]);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        for bytes in [vec![0, 0, 0, 0], vec![0xff, 0xff, 0xff, 0xff, 1]] {
            let error = Frames::new(&bytes[..]).next().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        }
        let stranger = Message { from: 8, ..Default::default() }.write_to_bytes().unwrap();
        let mut payload = (stranger.len() as u32).to_be_bytes().to_vec();
        payload.extend(&stranger);
        assert!(unpack(payload.clone().into(), 7).unwrap_err().to_string().contains("member 8"));
        assert!(unpack(payload[..5].to_vec().into(), 8).is_err());
    }
}
