//! How a node comes into a cluster that exists.
//!
//! A node without a cluster whose peers are one asks them, again and again, to be taken in. The
//! leader takes it in as a learner and answers with what it needs to begin: the cluster's
//! founding record (the state before the first entry) and the members of the moment. It then
//! follows the log like everybody, from the first entry or from a snapshot; the leader's
//! [`super::steward`] gives it its vote when it has caught up.
//!
//! Asking twice is harmless: who is a member gets the same answer again.

use super::checks::{Join, may_join};
use crate::access::outbound::Outbound;
use crate::machine::members::{MemberChange, MemberRecord, MemberStep};
use crate::machine::version::MACHINE_VERSION;
use crate::node::{MembershipError, Node, NodeError};
use crate::raft::founding::IdentityCard;
use crate::raft::identity::{Founding, Known, raft_id};
use api::cluster::Role;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The path that asks to be taken in.
pub const JOIN_PATH: &str = "/raft/join";
/// The longest node id, incarnation or address that is taken.
const MAX_TEXT_BYTES: usize = 300;
/// How long a member may take to answer; the change has to be committed meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Its node id.
    pub node_id: String,
    /// Its incarnation.
    pub incarnation: String,
    /// `host:port`, where members reach it.
    pub address: String,
    /// The newest machine version its program knows.
    pub machine_version: u32,
}

impl JoinRequest {
    /// What a node's card says of it.
    pub fn of(card: &IdentityCard) -> JoinRequest {
        JoinRequest {
            node_id: card.node_id.clone(),
            incarnation: card.incarnation.clone(),
            address: card.address.clone(),
            machine_version: card.machine_version,
        }
    }
}

/// What a new member begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The state before the first entry.
    pub founding: Founding,
    /// The members of the moment: whom to talk to until the log is replayed.
    pub known: Known,
}

/// How a member is taken in beyond what it asks for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Node id of the voter whose place it takes.
    pub replaces: Option<String>,
    /// True for one that stays a learner.
    pub learner: bool,
}

impl Node {
    /// Takes a node in as a learner; on the leader only.
    ///
    /// One that has joined by itself before it was said whose place it takes takes it all the same:
    /// a learner when it gets its vote, a voter at once. That place may be the leader's own: then
    /// leadership moves first, as in [`Node::take_out`].
    pub async fn take_in(&self, request: &JoinRequest, terms: &Terms) -> Result<Welcome, MembershipError> {
        self.after_other_changes(|| self.take_in_now(request, terms)).await
    }

    async fn take_in_now(&self, request: &JoinRequest, terms: &Terms) -> Result<Welcome, MembershipError> {
        if self.view().role != Role::Leader {
            return Err(NodeError::NotLeader.into());
        }
        let texts = [&request.node_id, &request.incarnation, &request.address];
        if texts.into_iter().any(|t| t.is_empty() || t.len() > MAX_TEXT_BYTES) {
            return Err(MembershipError::Refused(
                "node_id, incarnation and address must have 1 to 300 bytes".into(),
            ));
        }
        let version = self.machine().version();
        if request.machine_version < version {
            return Err(MembershipError::Refused(format!(
                "node {} runs a program that knows machine version {}, the cluster is at {version}: update the program on that node",
                request.node_id, request.machine_version
            )));
        }
        let id = raft_id(&request.node_id, &request.incarnation);
        if let Some(why) = self.removed_member(id) {
            return Err(MembershipError::Refused(format!(
                "{why}; it can come back only as a new incarnation: POST /api/admin/rejoin on that node, or start it with an empty data directory"
            )));
        }
        let looked_at = self.applied_index();
        let (members, membership) = (self.member_standings(), self.membership());
        let known = members.iter().find(|m| m.raft_id == id);
        let named = match &terms.replaces {
            None => None,
            Some(old) => match membership.id_of(old) {
                Some(old) => Some(old),
                // It is gone already: asked again, or taken out by somebody else meanwhile.
                None if membership.has_removed(old) => None,
                None => return Err(MembershipError::Unknown(old.clone())),
            },
        };
        let (replaces, drops) = match may_join(&members, &request.node_id, id) {
            Ok(Join::Learner { replaces, drops }) => (named.or(replaces), drops),
            Ok(Join::Member) => match (known, &terms.replaces, named) {
                (Some(member), Some(old_id), Some(old)) if old != id => {
                    if member.voter {
                        self.take_out_now(old_id).await?;
                        return self.welcome();
                    }
                    if member.replaces == Some(old) {
                        return self.welcome();
                    }
                    (Some(old), None)
                }
                (Some(_), Some(_), Some(_)) => {
                    return Err(MembershipError::Refused(format!(
                        "node {} at {} is a member, and can't take its own place; name another one to be replaced",
                        request.node_id, request.address
                    )));
                }
                _ => return self.welcome(),
            },
            Err(no) if no.later => return Err(MembershipError::NotYet(no.why)),
            Err(no) => return Err(MembershipError::Refused(no.why)),
        };
        let record = MemberRecord {
            node_id: request.node_id.clone(),
            incarnation: request.incarnation.clone(),
            address: request.address.clone(),
            replaces,
            wants_vote: !terms.learner,
        };
        let mut steps = vec![MemberStep::Learner(id)];
        steps.extend(drops.map(MemberStep::Remove));
        tracing::info!(node = %request.node_id, address = %request.address, "taking a node in as a learner");
        let change = MemberChange { steps, records: vec![(id, record)], wall_ms: 0 };
        self.change_members(change, looked_at).await?;
        self.welcome()
    }

    fn welcome(&self) -> Result<Welcome, MembershipError> {
        let founding = self.founding().ok_or(NodeError::NoLeader)?;
        Ok(Welcome { founding, known: self.known_members() })
    }
}

/// Asks the member at `address`, and the leader it names, to take this node in.
pub async fn ask(peers: &Outbound, address: &str, request: &JoinRequest) -> Result<Welcome, String> {
    let mut address = address.to_owned();
    for hop in 0..2 {
        let sent = peers.post(&address, JOIN_PATH, request, Some(ANSWER_LIMIT)).await;
        let answer = sent.map_err(|e| format!("{address}: {e}"))?;
        if answer.status().is_success() {
            return answer.json().await.map_err(|e| format!("{address}: the answer can't be read: {e}"));
        }
        let status = answer.status();
        let problem = answer.json::<api::Problem>().await.map_err(|_| format!("{address}: {status}"))?;
        match problem.leader {
            Some(leader) if hop == 0 && leader != address => address = leader,
            _ => return Err(problem.detail),
        }
    }
    Err("no leader is known at the moment".into())
}

/// The request of the node with this card, as its own program knows it.
pub fn own_request(card: &IdentityCard) -> JoinRequest {
    JoinRequest { machine_version: MACHINE_VERSION, ..JoinRequest::of(card) }
}
