//! How a cluster comes to be.
//!
//! The configured peers ask each other who they are until every one has answered. The node with
//! the lowest id (byte order) then writes one founding record (cluster id and all first voters
//! with their incarnations), accepts it durably itself and asks the others to. A node accepts
//! one record in its life. Only when every member has accepted does Raft start, everywhere from
//! the same voters.
//!
//! Invariants:
//! - Nobody founds while any configured peer is silent, has data, or names other nodes.
//! - A node that finds its peers in a cluster never founds a second one: it joins that one
//!   ([`crate::members::join`]).
//! - Entries of the peer list that turn out to be the node itself (by id and boot nonce, not by
//!   address) are left out, so that a list may name every node.

use crate::access::outbound::{Outbound, PeerError};
use crate::config::Config;
use crate::machine::version::MACHINE_VERSION;
use crate::members::join::own_request;
use crate::raft::identity::{Founding, Identity, Known, Member, random_hex};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The path that tells who a node is.
pub const IDENTITY_PATH: &str = "/raft/identity";
/// The path that asks a node to accept a founding record.
pub const FOUND_PATH: &str = "/raft/found";
/// How long a peer may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(100);

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Knows no cluster.
    Uninitialised,
    /// Has accepted a founding record that others may not have.
    Accepted,
    /// Is a member of a founded cluster.
    Founded,
}

/// `GET /raft/identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityCard {
    /// The node.
    pub node_id: String,
    /// Its incarnation.
    pub incarnation: String,
    /// `host:port` as it tells peers.
    pub address: String,
    /// Unique to this start of the process.
    pub boot_nonce: u64,
    /// How far it is.
    pub stage: Stage,
    /// The record it has accepted.
    pub founding: Option<Founding>,
    /// Every node id it is configured with, itself included; empty until all have answered.
    pub node_ids: BTreeSet<String>,
    /// The newest machine version its program knows.
    #[serde(default = "first_version")]
    pub machine_version: u32,
}

const fn first_version() -> u32 {
    1
}

/// What founding shares with the HTTP side.
pub struct Founder {
    identity: Mutex<Identity>,
    address: String,
    node_ids: Mutex<BTreeSet<String>>,
    detail: Mutex<Waiting>,
}

/// Why the node does not serve yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// True where its peers are a cluster that it has no place in.
    pub joining: bool,
    /// What it waits for.
    pub why: String,
}

impl Founder {
    /// Round an identity.
    pub fn new(identity: Identity, config: &Config) -> Arc<Founder> {
        Arc::new(Founder {
            identity: Mutex::new(identity),
            address: config.address(),
            node_ids: Mutex::default(),
            detail: Mutex::new(Waiting { joining: false, why: "starting".into() }),
        })
    }

    /// What this node tells about itself.
    pub fn card(&self) -> IdentityCard {
        let identity = self.identity.lock();
        let stage = match (identity.founding(), identity.founded()) {
            (_, true) => Stage::Founded,
            (Some(_), false) => Stage::Accepted,
            (None, _) => Stage::Uninitialised,
        };
        IdentityCard {
            node_id: identity.node_id().into(),
            incarnation: identity.incarnation().into(),
            address: self.address.clone(),
            boot_nonce: identity.boot_nonce,
            stage,
            founding: identity.founding().cloned(),
            node_ids: self.node_ids.lock().clone(),
            machine_version: MACHINE_VERSION,
        }
    }

    /// How often this node was started.
    pub fn boot_counter(&self) -> u64 {
        self.identity.lock().boot_counter()
    }

    /// The members as they were seen at the last stop.
    pub fn known(&self) -> Known {
        self.identity.lock().known().clone()
    }

    /// Notes the members for the next start.
    pub fn set_known(&self, known: Known) {
        if let Err(error) = self.identity.lock().set_known(known) {
            tracing::warn!(%error, "the members could not be noted for the next start; the log has them");
        }
    }

    /// The highest start number seen of a peer.
    pub fn boot_of(&self, raft_id: u64) -> Option<u64> {
        self.identity.lock().boot_of(raft_id)
    }

    /// Notes a peer's start number, so that an older copy of it is known as such later on.
    pub fn note_boot(&self, raft_id: u64, boot_counter: u64) {
        if let Err(error) = self.identity.lock().note_boot(raft_id, boot_counter) {
            tracing::warn!(%error, "a peer's start number could not be noted");
        }
    }

    /// Why the node does not serve yet.
    pub fn waiting(&self) -> Waiting {
        self.detail.lock().clone()
    }

    /// Answers a founder: durably accepts its record, or says why not.
    pub fn accept(&self, founding: &Founding) -> Result<(), String> {
        let mut identity = self.identity.lock();
        let own = founding.members.iter().find(|m| m.node_id == identity.node_id());
        match own {
            Some(member) if member.incarnation == identity.incarnation() => identity.accept(founding),
            Some(_) => Err(format!("the record names another incarnation of node {}", identity.node_id())),
            None => Err(format!("the record does not name node {}", identity.node_id())),
        }
    }

    /// Works until the cluster is founded and this node is a member of it.
    pub async fn found(&self, config: &Config, peers: &Outbound) -> Result<Founding, crate::raft::DataError> {
        if !config.enable_redundancy && self.identity.lock().rejoins().is_none() {
            return self.found_alone();
        }
        let mut told = String::new();
        loop {
            match self.round(config, peers).await {
                Ok(founding) => {
                    self.identity.lock().set_founded()?;
                    return Ok(founding);
                }
                Err(waiting) => {
                    if waiting.why != told {
                        tracing::info!(why = %waiting.why, "not a member of a cluster yet");
                        told.clone_from(&waiting.why);
                    }
                    *self.detail.lock() = waiting;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn found_alone(&self) -> Result<Founding, crate::raft::DataError> {
        let mut identity = self.identity.lock();
        let founding = match identity.founding() {
            Some(had) => had.clone(),
            None => {
                let member = Member {
                    node_id: identity.node_id().into(),
                    incarnation: identity.incarnation().into(),
                    address: self.address.clone(),
                };
                let founding = Founding {
                    cluster_id: random_hex()?,
                    members: vec![member],
                    machine_version: MACHINE_VERSION,
                };
                identity
                    .accept(&founding)
                    .map_err(|why| crate::raft::DataError::Damaged { path: config_path(), why })?;
                founding
            }
        };
        identity.set_founded()?;
        Ok(founding)
    }

    /// One round of asking; the founding record once everybody has it.
    async fn round(&self, config: &Config, peers: &Outbound) -> Result<Founding, Waiting> {
        let own = self.card();
        if own.stage == Stage::Founded
            && let Some(founding) = own.founding
        {
            return Ok(founding);
        }
        let (cards, silent) = ask_all(config, &own, peers).await?;
        if let Some(founding) = &own.founding {
            return self.carry_on(founding, &own, &cards, peers).await;
        }
        if let Some((cluster_id, address)) = cluster_of_the_others(&own, &cards)? {
            return self.join(&cluster_id, &address, &own, peers).await;
        }
        if let Some(cluster_id) = self.identity.lock().rejoins() {
            return Err(Waiting {
                joining: true,
                why: format!(
                    "waiting for a member of cluster {cluster_id}, which this node joins again, to answer"
                ),
            });
        }
        if !silent.is_empty() {
            return Err(wait(format!("waiting for {}", silent.join(", "))));
        }
        let node_ids: BTreeSet<String> =
            cards.values().map(|(_, c)| c.node_id.clone()).chain([own.node_id.clone()]).collect();
        *self.node_ids.lock() = node_ids.clone();
        for (address, card) in cards.values() {
            if !card.node_ids.is_empty() && card.node_ids != node_ids {
                return Err(wait(format!(
                    "node {} at {address} is configured with the nodes {:?}, this one with {:?}: mend the peer lists",
                    card.node_id, card.node_ids, node_ids
                )));
            }
        }
        if node_ids.first() != Some(&own.node_id) {
            return Err(wait(format!(
                "waiting for node {} to found the cluster",
                node_ids.first().cloned().unwrap_or_default()
            )));
        }
        if let Some((address, card)) = cards.values().find(|(_, c)| c.node_ids.is_empty()) {
            return Err(wait(format!(
                "waiting until node {} at {address} has reached its peers",
                card.node_id
            )));
        }
        let mut members: Vec<Member> = cards
            .values()
            .map(|(_, c)| c)
            .chain([&own])
            .map(|c| Member {
                node_id: c.node_id.clone(),
                incarnation: c.incarnation.clone(),
                address: c.address.clone(),
            })
            .collect();
        members.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        let cluster_id = random_hex().map_err(|e| wait(e.to_string()))?;
        let versions = cards.values().map(|(_, c)| c.machine_version).chain([MACHINE_VERSION]);
        let machine_version = versions.min().unwrap_or(1);
        let founding = Founding { cluster_id, members, machine_version };
        self.identity.lock().accept(&founding).map_err(wait)?;
        tracing::info!(cluster_id = %founding.cluster_id, members = founding.members.len(), "founding a cluster");
        self.carry_on(&founding, &self.card(), &cards, peers).await
    }

    /// Asks to be taken into the cluster that the peers are in.
    async fn join(
        &self,
        cluster_id: &str,
        address: &str,
        own: &IdentityCard,
        peers: &Outbound,
    ) -> Result<Founding, Waiting> {
        let waiting = |why: String| Waiting { joining: true, why };
        if let Some(before) = self.identity.lock().rejoins()
            && before != cluster_id
        {
            return Err(waiting(format!(
                "this node was in cluster {before}, its peers are in cluster {cluster_id}: start it with an empty data directory if it is to join that one"
            )));
        }
        let asked = crate::members::join::ask(peers, address, &own_request(own)).await;
        let welcome =
            asked.map_err(|why| waiting(format!("waiting to be taken into cluster {cluster_id}: {why}")))?;
        if welcome.founding.cluster_id != cluster_id {
            return Err(waiting(format!("{address} answers for cluster {}", welcome.founding.cluster_id)));
        }
        let mut identity = self.identity.lock();
        identity.set_known(welcome.known).map_err(|e| waiting(e.to_string()))?;
        identity.accept(&welcome.founding).map_err(waiting)?;
        tracing::info!(cluster_id, "taken into the cluster as a learner");
        Ok(welcome.founding)
    }

    /// True while the node asks to be taken into the cluster that an earlier incarnation was in.
    pub fn rejoins(&self) -> bool {
        let identity = self.identity.lock();
        identity.rejoins().is_some() && !identity.founded()
    }

    /// Gives the node a new incarnation that joins the old one's cluster; see [`Identity::renew`].
    pub fn renew(&self, why: &str) -> Result<(), crate::raft::DataError> {
        *self.node_ids.lock() = BTreeSet::new();
        self.identity.lock().renew(why)
    }

    /// With a record accepted: the founder sees to it that all have it, the others watch.
    async fn carry_on(
        &self,
        founding: &Founding,
        own: &IdentityCard,
        cards: &BTreeMap<String, (String, IdentityCard)>,
        peers: &Outbound,
    ) -> Result<Founding, Waiting> {
        let same = |card: &IdentityCard| card.founding.as_ref() == Some(founding);
        if cards.values().any(|(_, c)| c.stage == Stage::Founded && same(c)) {
            return Ok(founding.clone());
        }
        if founding.members.first().map(|m| &m.node_id) != Some(&own.node_id) {
            return Err(wait("waiting until every member has accepted the founding of the cluster"));
        }
        for member in founding.members.iter().filter(|m| m.node_id != own.node_id) {
            let Some((address, card)) = cards.get(&member.node_id) else {
                return Err(wait(format!(
                    "waiting for node {} to accept the founding of the cluster",
                    member.node_id
                )));
            };
            if same(card) {
                continue;
            }
            let answer = peers.post(address, FOUND_PATH, founding, Some(ANSWER_LIMIT)).await;
            let refused = match answer {
                Ok(answer) if answer.status().is_success() => continue,
                Ok(answer) => {
                    answer.json::<api::Problem>().await.map_or_else(|e| e.to_string(), |p| p.detail)
                }
                Err(e) => e.to_string(),
            };
            return Err(wait(format!(
                "node {} did not accept the founding of the cluster: {refused}",
                member.node_id
            )));
        }
        Ok(founding.clone())
    }
}

fn config_path() -> std::path::PathBuf {
    "identity.json".into()
}

fn wait(why: impl Into<String>) -> Waiting {
    Waiting { joining: false, why: why.into() }
}

/// Asks every configured peer; cards by node id with the address that gave them, and who is silent.
async fn ask_all(
    config: &Config,
    own: &IdentityCard,
    peers: &Outbound,
) -> Result<(BTreeMap<String, (String, IdentityCard)>, Vec<String>), Waiting> {
    let asked = config.peers.iter().map(|peer| async move {
        let address = peer.address();
        let card = async {
            let answer = peers.get(&address, IDENTITY_PATH, Some(ANSWER_LIMIT)).await?;
            Ok::<_, PeerError>(answer.error_for_status()?.json::<IdentityCard>().await?)
        };
        (peer, address.clone(), card.await)
    });
    let mut cards = BTreeMap::new();
    let mut silent = Vec::new();
    for (peer, address, card) in futures_util::future::join_all(asked).await {
        let card = match card {
            Ok(card) => card,
            Err(e) => {
                tracing::debug!(address, error = %e, "a peer did not say who it is");
                silent.push(match e {
                    // It is there: what keeps it away is for a person to mend.
                    PeerError::Unproved { .. } => e.to_string(),
                    _ => address,
                });
                continue;
            }
        };
        if card.node_id == own.node_id {
            if card.boot_nonce == own.boot_nonce {
                continue;
            }
            return Err(wait(format!(
                "the peer at {address} also calls itself node `{}`: two nodes have one id; change node_id of one of them",
                own.node_id
            )));
        }
        if address == own.address {
            return Err(wait(format!(
                "node `{}` answers at {address}, which is what this node tells others of itself: give each node a `host` of its own",
                card.node_id
            )));
        }
        if let Some(expected) = &peer.id
            && *expected != card.node_id
        {
            return Err(wait(format!(
                "the peer at {address} is node `{}`, the config calls it `{expected}`",
                card.node_id
            )));
        }
        if let Some((other, had)) = cards.get(&card.node_id) as Option<&(String, IdentityCard)>
            && had.boot_nonce != card.boot_nonce
        {
            return Err(wait(format!(
                "the peers at {other} and {address} both call themselves node `{}`",
                card.node_id
            )));
        }
        cards.insert(card.node_id.clone(), (address, card));
    }
    Ok((cards, silent))
}

/// The cluster that the peers are in without this node, and the address of a member of it.
///
/// None where there is none, or where this very incarnation is to be one of its founders.
fn cluster_of_the_others(
    own: &IdentityCard,
    cards: &BTreeMap<String, (String, IdentityCard)>,
) -> Result<Option<(String, String)>, Waiting> {
    let mut found: Option<(String, String)> = None;
    for (address, card) in cards.values() {
        let Some(founding) = &card.founding else { continue };
        let itself = |m: &Member| m.node_id == own.node_id && m.incarnation == own.incarnation;
        if founding.members.iter().any(itself) {
            return Ok(None);
        }
        if card.stage != Stage::Founded {
            return Err(wait(format!(
                "waiting until node {} has finished founding cluster {}",
                card.node_id, founding.cluster_id
            )));
        }
        match &found {
            Some((cluster_id, _)) if *cluster_id == founding.cluster_id => {}
            None => found = Some((founding.cluster_id.clone(), address.clone())),
            Some((cluster_id, other)) => {
                return Err(Waiting {
                    joining: true,
                    why: format!(
                        "the peer at {other} is in cluster {cluster_id}, the one at {address} in cluster {}: this node can join only one; mend its peer list",
                        founding.cluster_id
                    ),
                });
            }
        }
    }
    Ok(found)
}
