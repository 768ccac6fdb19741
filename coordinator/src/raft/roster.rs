//! Who is who at the moment: Raft ids, node ids and addresses, as the log last made them.
//!
//! The machine holds the truth; the applier copies it here when an entry or a snapshot changed
//! it, so that the owner thread, the transport and the HTTP side can look without waiting for
//! the machine. Until the log is replayed, the members that this node saw last (in
//! `identity.json`) or was told when it joined stand in, so that it reaches those who can tell
//! it more.

use crate::machine::members::{MemberRecord, Membership};
use crate::raft::identity::{Founding, Known, Member};
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// The members as this node knows them.
#[derive(Debug, Default)]
pub struct Roster {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    membership: Membership,
    known: Known,
    /// Addresses from this node's config, by node id; they come before what a member told.
    configured: Vec<(String, String)>,
    /// Addresses that members told in their newest handshake, by Raft id.
    told: BTreeMap<u64, String>,
}

impl Roster {
    /// As founded, with what was known at the last stop.
    pub fn begin(&self, founding: &Founding, known: Known, configured: Vec<(String, String)>) {
        let mut inner = self.inner.write();
        inner.membership = founding.membership();
        inner.known = known;
        inner.configured = configured;
        inner.told.clear();
    }

    /// This node's config says where members are reached.
    pub fn configure(&self, addresses: Vec<(String, String)>) {
        self.inner.write().configured = addresses;
    }

    /// The log changed them.
    pub fn set(&self, membership: &Membership) {
        self.inner.write().membership = membership.clone();
    }

    /// A member told where it is reached now.
    pub fn told(&self, raft_id: u64, address: &str) {
        self.inner.write().told.insert(raft_id, address.to_owned());
    }

    /// Where a member said last that it is reached.
    pub fn told_by(&self, raft_id: u64) -> Option<String> {
        self.inner.read().told.get(&raft_id).cloned()
    }

    /// The sets and records of the log.
    pub fn membership(&self) -> Membership {
        self.inner.read().membership.clone()
    }

    /// Whom to talk to: the members of the log, and those known from before where that was later.
    pub fn talked_to(&self) -> Vec<Member> {
        let inner = self.inner.read();
        let mut all: BTreeMap<u64, Member> = BTreeMap::new();
        if inner.known.index > inner.membership.changed_index {
            all.extend(inner.known.members.iter().map(|m| (m.raft_id(), m.clone())));
        }
        all.extend(inner.membership.records.iter().map(|(id, record)| (*id, member(record))));
        all.into_values().collect()
    }

    /// The node id behind a Raft id.
    pub fn name_of(&self, raft_id: u64) -> Option<String> {
        let inner = self.inner.read();
        let known = || inner.known.members.iter().find(|m| m.raft_id() == raft_id).map(|m| m.node_id.clone());
        inner.membership.records.get(&raft_id).map(|r| r.node_id.clone()).or_else(known)
    }

    /// The Raft id under which a node votes or follows.
    pub fn id_of(&self, node_id: &str) -> Option<u64> {
        self.inner.read().membership.id_of(node_id)
    }

    /// Where a member is reached: this node's config first, then what the member told last, then
    /// what the log says.
    pub fn address_of(&self, raft_id: u64) -> Option<String> {
        let inner = self.inner.read();
        let known = || {
            inner
                .known
                .members
                .iter()
                .find(|m| m.raft_id() == raft_id)
                .map(|m| (m.node_id.clone(), m.address.clone()))
        };
        let record = inner.membership.records.get(&raft_id);
        let (node_id, recorded) = record.map(|r| (r.node_id.clone(), r.address.clone())).or_else(known)?;
        let configured = inner.configured.iter().find(|(id, _)| *id == node_id).map(|(_, a)| a.clone());
        Some(configured.or_else(|| inner.told.get(&raft_id).cloned()).unwrap_or(recorded))
    }

    /// Why a Raft id that is no member was taken out, where that is still remembered.
    pub fn removed(&self, raft_id: u64) -> Option<String> {
        let inner = self.inner.read();
        let gone = inner.membership.removed.iter().rev().find(|r| r.raft_id == raft_id)?;
        let replaced = inner.membership.id_of(&gone.node_id).is_some();
        Some(if replaced {
            format!("at index {} another incarnation of node {} took its place", gone.index, gone.node_id)
        } else {
            format!("node {} was removed from the cluster at index {}", gone.node_id, gone.index)
        })
    }
}

fn member(record: &MemberRecord) -> Member {
    Member {
        node_id: record.node_id.clone(),
        incarnation: record.incarnation.clone(),
        address: record.address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founder(name: &str) -> Member {
        Member { node_id: name.into(), incarnation: "i".into(), address: format!("{name}:1") }
    }

    #[test]
    fn leader_is_found_by_id_not_substring() {
        let roster = Roster::default();
        let members = vec![founder("node-10"), founder("node-1"), founder("node-11")];
        let founding = Founding { cluster_id: "c".into(), members, machine_version: 1 };
        roster.begin(&founding, Known::default(), Vec::new());
        let id = roster.id_of("node-1").unwrap();
        assert_eq!(roster.name_of(id).as_deref(), Some("node-1"));
        assert_eq!(roster.address_of(id).as_deref(), Some("node-1:1"));
        assert_eq!(roster.id_of("node-"), None);
        assert_eq!(roster.name_of(id ^ 1), None);
    }

    #[test]
    fn an_address_is_looked_up_where_it_is_newest() {
        let roster = Roster::default();
        let founding = Founding {
            cluster_id: "c".into(),
            members: vec![founder("n1"), founder("n2")],
            machine_version: 1,
        };
        let known = Known { index: 9, members: vec![founder("n1"), founder("n9")] };
        roster.begin(&founding, known, vec![("n2".into(), "config:1".into())]);
        let (n1, n2, n9) = (founder("n1").raft_id(), founder("n2").raft_id(), founder("n9").raft_id());
        assert_eq!(roster.address_of(n1).as_deref(), Some("n1:1"));
        assert_eq!(roster.address_of(n9).as_deref(), Some("n9:1"), "known from before");
        assert_eq!(roster.talked_to().len(), 3);
        roster.told(n1, "moved:1");
        roster.told(n2, "moved:2");
        assert_eq!(roster.address_of(n1).as_deref(), Some("moved:1"));
        assert_eq!(roster.address_of(n2).as_deref(), Some("config:1"));
        let mut membership = founding.membership();
        membership.changed_index = 9;
        roster.set(&membership);
        assert_eq!(roster.talked_to().len(), 2, "the log has caught up with what was known");
        assert_eq!(roster.name_of(n2).as_deref(), Some("n2"));
    }
}
