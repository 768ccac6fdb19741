//! The event stream: who watches gets each part of the page again when it has changed.
//!
//! There is no queue of events and so none that can overflow. The hub keeps the newest text of each
//! fragment with the sequence number of its last change; a watcher is sent what changed since the
//! number it has. A slow one skips what it missed, a returning one (`Last-Event-ID`) gets exactly
//! what changed meanwhile, and one that comes from another run of this program gets `resync` and
//! then everything. At most one batch a second goes to each.

use crate::pages::Drawn;
use axum::response::sse::Event;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// The most streams at once.
pub const MAX_STREAMS: usize = 128;
/// The least time between two batches to one watcher.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait in one stream; a batch is at most ten.
const STREAM_BUFFER_EVENTS: usize = 16;

/// Which page is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// The cluster view.
    Cluster,
    /// The page of the node of that name.
    Node(String),
    /// A page whose parts don't come with the stream: the sentence and the rounds.
    Plain,
}

#[derive(Debug)]
struct Kept {
    html: Arc<str>,
    changed_seq: u64,
}

#[derive(Debug, Default)]
struct State {
    seq: u64,
    cluster: BTreeMap<&'static str, Kept>,
    nodes: BTreeMap<String, Kept>,
    round: serde_json::Map<String, serde_json::Value>,
    drawn_at: Option<std::time::Instant>,
}

/// Keeps what is drawn, and wakes who watches.
#[derive(Debug)]
pub struct Hub {
    boot: String,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    streams: AtomicUsize,
    /// Nodes whose pages are watched, and by how many.
    watched: Mutex<BTreeMap<String, usize>>,
}

/// A watch of a node's page; ends when dropped.
struct NodeWatch {
    hub: Arc<Hub>,
    name: String,
}

impl NodeWatch {
    fn begin(hub: &Arc<Hub>, watched: &Watched) -> Option<NodeWatch> {
        let Watched::Node(name) = watched else { return None };
        *hub.watched.lock().entry(name.clone()).or_default() += 1;
        Some(NodeWatch { hub: hub.clone(), name: name.clone() })
    }
}

impl Drop for NodeWatch {
    fn drop(&mut self) {
        let mut watched = self.hub.watched.lock();
        if let Some(count) = watched.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                watched.remove(&self.name);
            }
        }
    }
}

/// A place among the streams; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Hub>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a watcher stands, from the id of the last event it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// It has nothing yet.
    Fresh,
    /// It has everything up to this number.
    At(u64),
    /// What it has is not ours.
    Lost,
}

impl Hub {
    /// A hub of the run `boot`, which goes with every event id.
    pub fn new(boot: String) -> Arc<Self> {
        let changed = watch::Sender::new(0);
        Arc::new(Hub {
            boot,
            state: Mutex::default(),
            changed,
            streams: AtomicUsize::new(0),
            watched: Mutex::default(),
        })
    }

    /// Takes in what was drawn; only what differs counts as changed.
    pub fn publish(&self, drawn: Drawn) {
        let seq = {
            let mut state = self.state.lock();
            state.seq += 1;
            let seq = state.seq;
            for (id, html) in drawn.cluster {
                keep(&mut state.cluster, id, html, seq);
            }
            let named: Vec<&String> = drawn.nodes.iter().map(|(name, _)| name).collect();
            state.nodes.retain(|name, _| named.contains(&name));
            for (name, html) in drawn.nodes {
                keep(&mut state.nodes, name, html, seq);
            }
            state.round = drawn.round;
            state.drawn_at = Some(std::time::Instant::now());
            seq
        };
        self.changed.send_replace(seq);
    }

    /// The nodes whose pages somebody watches: only these are drawn with each round.
    pub fn watched_nodes(&self) -> BTreeSet<String> {
        self.watched.lock().keys().cloned().collect()
    }

    /// Takes a node's page that nobody has watched up to now, so that who begins need not wait for
    /// the next round.
    pub fn offer_node(&self, name: &str, draw: impl FnOnce() -> Option<String>) {
        if self.state.lock().nodes.contains_key(name) {
            return;
        }
        let Some(html) = draw() else { return };
        let mut state = self.state.lock();
        state.seq += 1;
        let seq = state.seq;
        keep(&mut state.nodes, name.to_owned(), html, seq);
    }

    /// A place for one more stream, if there is one.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let taken = self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < MAX_STREAMS).then_some(open + 1)
        });
        taken.ok().map(|_| Place(self.clone()))
    }

    fn position(&self, last_id: Option<&str>) -> Position {
        let Some(id) = last_id.filter(|id| !id.is_empty()) else { return Position::Fresh };
        let ours = id.rsplit_once('-').filter(|(boot, _)| *boot == self.boot);
        match ours.and_then(|(_, seq)| seq.parse::<u64>().ok()) {
            Some(seq) if seq <= self.state.lock().seq => Position::At(seq),
            _ => Position::Lost,
        }
    }

    /// What changed after `since`, and the number it brings the watcher to. Only the last event
    /// carries an id: whoever is cut off in the middle of a batch gets the whole of it again.
    fn batch(&self, watched: &Watched, since: u64) -> (u64, Vec<Event>) {
        let state = self.state.lock();
        if state.seq == 0 || state.seq == since {
            return (since, Vec::new());
        }
        let mut events = Vec::new();
        let mut add = |id: &str, kept: &Kept| {
            if kept.changed_seq > since {
                events.push(Event::default().event(id).data(kept.html.as_ref()));
            }
        };
        match watched {
            Watched::Cluster => state.cluster.iter().for_each(|(id, kept)| add(id, kept)),
            Watched::Node(_) | Watched::Plain => {
                if let Some(kept) = state.cluster.get("verdict") {
                    add("verdict", kept);
                }
            }
        }
        if let Watched::Node(name) = watched
            && let Some(kept) = state.nodes.get(name)
        {
            add("node", kept);
        }
        let mut round = state.round.clone();
        let age_ms = state.drawn_at.map_or(0, |at| at.elapsed().as_millis() as u64);
        round.insert("age_ms".into(), age_ms.into());
        round.insert("boot".into(), self.boot.clone().into());
        let data = serde_json::Value::Object(round).to_string();
        events.push(Event::default().event("round").id(format!("{}-{}", self.boot, state.seq)).data(data));
        (state.seq, events)
    }

    /// The stream of one watcher. It ends when `end` comes.
    pub fn watch(
        self: &Arc<Self>,
        place: Place,
        watched: Watched,
        last_id: Option<&str>,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> ReceiverStream<Result<Event, Infallible>> {
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER_EVENTS);
        let position = self.position(last_id);
        let hub = self.clone();
        // From here on, and not from when the task begins: the next round draws it.
        let node_watch = NodeWatch::begin(self, &watched);
        tokio::spawn(async move {
            let (_place, _node_watch) = (place, node_watch);
            tokio::select! {
                () = end => {}
                () = sender.closed() => {}
                _ = hub.feed(&watched, position, &sender) => {}
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Sends batch after batch until the watcher is gone.
    async fn feed(
        &self,
        watched: &Watched,
        position: Position,
        sender: &mpsc::Sender<Result<Event, Infallible>>,
    ) -> Option<()> {
        let mut changed = self.changed.subscribe();
        let mut since = match position {
            Position::At(seq) => seq,
            Position::Fresh | Position::Lost => 0,
        };
        if position == Position::Lost {
            sender.send(Ok(Event::default().event("resync").data("everything follows"))).await.ok()?;
        }
        loop {
            let (seq, events) = self.batch(watched, since);
            let sent_any = !events.is_empty();
            for event in events {
                sender.send(Ok(event)).await.ok()?;
            }
            since = seq;
            if sent_any {
                tokio::time::sleep(BATCH_INTERVAL).await;
            }
            changed.wait_for(|seq| *seq > since).await.ok()?;
        }
    }
}

fn keep<K: Ord>(kept: &mut BTreeMap<K, Kept>, id: K, html: String, seq: u64) {
    // A carriage return would end a line of the event stream; HTML takes any white space.
    let html = if html.contains('\r') { html.replace('\r', " ") } else { html };
    if kept.get(&id).is_none_or(|known| *known.html != html) {
        kept.insert(id, Kept { html: html.into(), changed_seq: seq });
    }
}
