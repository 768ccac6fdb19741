//! The node's members: who they are, how they stand, and how they change.

use super::{Applied, Node, NodeError};
use crate::machine::members::{MemberChange, MemberRecord, MemberStep, Membership};
use crate::machine::version::{MACHINE_VERSION, MEMBERS_SINCE};
use crate::members::MemberStanding;
use crate::raft::driver::Input;
use crate::raft::identity::{Founding, Known, Member};
use crate::raft::transport::{Listener, PeerHealth, Transport, Verdict};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a change waits for the one before it.
const OTHER_CHANGE_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks whether the change before it is done.
const OTHER_CHANGE_STEP: Duration = Duration::from_millis(20);

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The proposal did not go through.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A check forbids it; nothing was done.
    #[error("{0}")]
    Refused(String),
    /// It may be asked again later as it stands; nothing was done.
    #[error("{0}")]
    NotYet(String),
    /// No member has this node id.
    #[error("`{0}` is no member of this cluster")]
    Unknown(String),
}

impl Node {
    /// Node ids of voters and of learners. A node whose new incarnation follows while the old one
    /// has the vote is in both.
    pub fn members(&self) -> (Vec<String>, Vec<String>) {
        let members = self.membership();
        let names = |ids: &mut dyn Iterator<Item = &u64>| {
            let mut names: Vec<String> =
                ids.filter_map(|id| members.records.get(id).map(|r| r.node_id.clone())).collect();
            names.sort();
            names.dedup();
            names
        };
        (names(&mut members.voters.iter()), names(&mut members.learners.iter().chain(&members.learners_next)))
    }

    /// The members of the log, as far as this node has applied it.
    pub fn membership(&self) -> Membership {
        self.shared.roster.membership()
    }

    /// Every member with how it stands, by node id.
    pub fn member_standings(&self) -> Vec<MemberStanding> {
        let members = self.membership();
        let peers = self.transport().map(|t| t.health()).unwrap_or_default();
        let (card, own, last) = (self.identity_card(), self.raft_id(), self.view().last_index);
        let all = members.all();
        let standing = |(raft_id, record): (&u64, &MemberRecord)| {
            let own = *raft_id == own;
            let peer: Option<&PeerHealth> = peers.iter().find(|p| p.raft_id == *raft_id);
            let match_index = if own { Some(last) } else { peer.and_then(|p| p.match_index) };
            MemberStanding {
                raft_id: *raft_id,
                node_id: record.node_id.clone(),
                address: self.shared.roster.address_of(*raft_id).unwrap_or_else(|| record.address.clone()),
                voter: members.voters.contains(raft_id) || members.outgoing.contains(raft_id),
                replaces: record.replaces,
                wants_vote: record.wants_vote,
                own,
                reachable: own || peer.is_some_and(|p| p.reachable),
                silent_ms: if own { 0 } else { peer.map_or(u64::MAX, |p| p.silent_ms) },
                lag_entries: match_index.map(|at| last.saturating_sub(at)),
                machine_version: if own {
                    Some(MACHINE_VERSION)
                } else {
                    peer.and_then(|p| p.machine_version)
                },
                moved_to: match own {
                    true => Some(card.address.clone()),
                    false => self.shared.roster.told_by(*raft_id),
                }
                .filter(|told| *told != record.address),
            }
        };
        let mut standings: Vec<_> =
            members.records.iter().filter(|(id, _)| all.contains(id)).map(standing).collect();
        standings.sort_by(|a, b| (&a.node_id, !a.voter).cmp(&(&b.node_id, !b.voter)));
        standings
    }

    /// The members for whoever joins: whom to talk to until it has the log.
    pub fn known_members(&self) -> Known {
        known(&self.membership())
    }

    /// Why this Raft id is no member any more, where that is still remembered.
    pub fn removed_member(&self, raft_id: u64) -> Option<String> {
        self.shared.roster.removed(raft_id)
    }

    /// The record the cluster began with.
    pub fn founding(&self) -> Option<Founding> {
        self.shared.founding.read().clone()
    }

    /// Takes a node out; on the leader only. A leader that is to go hands its office over first
    /// and says [`NodeError::NotLeader`]: ask again, and the next one does it. Gives the index by
    /// which it is out.
    pub async fn take_out(&self, node_id: &str) -> Result<u64, MembershipError> {
        if self.membership().id_of(node_id).is_none() {
            return Err(MembershipError::Unknown(node_id.to_owned()));
        }
        self.after_other_changes(|| self.take_out_now(node_id)).await
    }

    /// As [`Node::take_out`], unless another change is under way.
    pub(crate) async fn take_out_now(&self, node_id: &str) -> Result<u64, MembershipError> {
        let looked_at = self.applied_index();
        let (members, membership) = (self.member_standings(), self.membership());
        if membership.joint() {
            return Err(NodeError::ChangePending.into());
        }
        if !members.iter().any(|m| m.node_id == node_id) {
            // The change that was waited for took it out.
            return Ok(membership.changed_index);
        }
        let ids = crate::members::checks::may_remove(&members, node_id).map_err(MembershipError::Refused)?;
        if ids.contains(&self.raft_id()) {
            tracing::info!("this node leads and is to be removed: leadership moves first");
            self.transfer(None).await?;
            return Err(NodeError::NotLeader.into());
        }
        tracing::info!(node = node_id, "taking a member out");
        let steps = ids.into_iter().map(MemberStep::Remove).collect();
        let change = MemberChange { steps, records: Vec::new(), wall_ms: 0 };
        Ok(self.change_members(change, looked_at).await?.index)
    }

    /// Asks for a change; where another one is under way, again once that one may be done.
    ///
    /// Nodes join, and get their votes, by themselves: who asks for a change must not have to know
    /// of them. A leader that was just elected also takes a change for under way until its first
    /// entry is applied. Each attempt looks at the members anew.
    pub(crate) async fn after_other_changes<T, F>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, MembershipError>
    where
        F: Future<Output = Result<T, MembershipError>>,
    {
        let deadline = Instant::now() + OTHER_CHANGE_LIMIT;
        loop {
            match attempt().await {
                Err(MembershipError::Node(NodeError::ChangePending)) if Instant::now() < deadline => {
                    tokio::time::sleep(OTHER_CHANGE_STEP).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// This node's Raft id.
    pub fn raft_id(&self) -> u64 {
        let card = self.identity_card();
        crate::raft::identity::raft_id(&card.node_id, &card.incarnation)
    }

    /// Proposes a change of the membership on this node, which must lead, and waits until it is
    /// applied here. `looked_at` is what [`Node::applied_index`] said before the members were looked
    /// at: where they have changed since, nothing is done.
    pub async fn change_members(
        &self,
        mut change: MemberChange,
        looked_at: u64,
    ) -> Result<Applied, NodeError> {
        if self.machine().version() < MEMBERS_SINCE {
            return Err(NodeError::Impossible(format!(
                "a member runs a program that can't change the membership (machine version {}, needed is {MEMBERS_SINCE}): update the program on every node first",
                self.machine().version()
            )));
        }
        change.wall_ms = jiff::Timestamp::now().as_millisecond();
        let (waiter, outcome) = oneshot::channel();
        self.inbox()?.client(Input::ChangeMembers { change, looked_at, waiter })?;
        let applied = match tokio::time::timeout(super::requests::PROPOSAL_LIMIT, outcome).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) | Err(_) => return Err(NodeError::UnknownOutcome),
        };
        match applied.reply {
            crate::command::Reply::Refused { detail, .. } => Err(NodeError::Impossible(detail)),
            _ => Ok(applied),
        }
    }

    /// The log changed the members: connections follow, and the next start knows whom to ask.
    pub(super) fn members_changed(&self, members: &Membership, transport: &Arc<Transport>, own: u64) {
        self.shared.roster.set(members);
        transport.follow_roster();
        let known = known(members);
        if known.index > self.shared.founder.known().index {
            self.shared.founder.set_known(known);
        }
        if members.removed.iter().any(|r| r.raft_id == own) && !members.records.contains_key(&own) {
            self.hear_verdict(
                Verdict::Removed,
                "the log says that this node was removed from the cluster".into(),
            );
        }
    }
}

impl Listener for Node {
    fn verdict(&self, verdict: Verdict, why: String) {
        self.hear_verdict(verdict, why);
    }

    fn boot(&self, raft_id: u64, boot_counter: u64) {
        self.shared.founder.note_boot(raft_id, boot_counter);
    }

    fn boot_before(&self, raft_id: u64) -> Option<u64> {
        self.shared.founder.boot_of(raft_id)
    }
}

fn known(members: &Membership) -> Known {
    let member = |r: &MemberRecord| Member {
        node_id: r.node_id.clone(),
        incarnation: r.incarnation.clone(),
        address: r.address.clone(),
    };
    Known { index: members.changed_index, members: members.records.values().map(member).collect() }
}
