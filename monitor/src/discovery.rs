//! PURE. Which addresses are asked: those that were configured, those a file or a name gives, and
//! those of the cluster's own members.
//!
//! Invariants:
//! - Only a certain leader's word on its members counts, and only where there is one cluster.
//! - A member is asked at one address. A node that is configured under another name for the same
//!   place (`localhost` and `127.0.0.1`) is not asked twice.
//! - What was configured stays until the configuration changes; what was found is dropped when the
//!   node itself says that it was removed, or when it is no member any more and has fallen silent.
//! - A source that fails keeps its last good addresses.

pub mod sources;

use crate::snapshot::ClusterSnapshot;
use api::cluster::Role;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// The most nodes one monitor asks.
pub const MAX_NODES: usize = 1_024;
/// A node that is no member any more and silent for so long is dropped, seconds.
const FORGET_SECONDS: f64 = 60.0;

/// A source of addresses, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceState {
    /// `configured`, `file`, `dns` or `members`.
    pub kind: &'static str,
    /// The file or the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Addresses it gives.
    pub addresses: Vec<String>,
    /// Why it could not be read last; its addresses are those of before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A member that nobody configured.
#[derive(Debug, Clone, PartialEq)]
struct Joined {
    node_id: String,
    /// Since when it is neither a member nor reporting.
    gone_since: Option<Timestamp>,
}

/// What became of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The address.
    pub address: String,
    /// True where it is asked from now on, false where no longer.
    pub added: bool,
    /// Why, for people.
    pub why: String,
}

/// All addresses, by source.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    given: Vec<SourceState>,
    joined: BTreeMap<String, Joined>,
    follows_members: bool,
}

impl Roster {
    /// The configured addresses; whether members of the cluster are followed.
    pub fn new(configured: Vec<String>, follows_members: bool) -> Self {
        let configured = SourceState { kind: "configured", name: None, addresses: configured, error: None };
        Roster { given: vec![configured], joined: BTreeMap::new(), follows_members }
    }

    /// Takes what a source gave, or why it gave nothing.
    pub fn set(
        &mut self,
        kind: &'static str,
        name: &str,
        outcome: Result<Vec<String>, String>,
    ) -> Vec<Change> {
        let at = self.given.iter().position(|s| s.kind == kind && s.name.as_deref() == Some(name));
        let at = at.unwrap_or_else(|| {
            let (name, addresses) = (Some(name.to_owned()), Vec::new());
            self.given.push(SourceState { kind, name, addresses, error: None });
            self.given.len() - 1
        });
        let source = &mut self.given[at];
        let mut addresses = match outcome {
            Ok(addresses) => addresses,
            Err(why) => {
                source.error = Some(why);
                return Vec::new();
            }
        };
        addresses.truncate(MAX_NODES);
        source.error = None;
        let before = std::mem::replace(&mut source.addresses, addresses.clone());
        let change = |address: &String, added| {
            let why = format!("{kind} {name} {}", if added { "names it" } else { "no longer names it" });
            Change { address: address.clone(), added, why }
        };
        let gone = before.iter().filter(|a| !addresses.contains(a)).map(|a| change(a, false));
        let new = addresses.iter().filter(|a| !before.contains(a)).map(|a| change(a, true));
        gone.chain(new).collect()
    }

    /// Whom to ask, each address once.
    pub fn addresses(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        for address in self.given.iter().flat_map(|s| &s.addresses).chain(self.joined.keys()) {
            if all.len() < MAX_NODES && known.insert(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// How the sources stand.
    pub fn sources(&self) -> Vec<SourceState> {
        let mut sources = self.given.clone();
        if self.follows_members {
            let addresses = self.joined.keys().cloned().collect();
            sources.push(SourceState { kind: "members", name: None, addresses, error: None });
        }
        sources
    }

    /// Addresses of members that are not asked yet, though a silent configured address may be
    /// theirs: [`Roster::learn`] wants to know which lead to one place.
    pub fn doubtful(&self, snapshot: &ClusterSnapshot) -> Vec<String> {
        let candidates = self.candidates(snapshot);
        let nameless = snapshot.nodes.iter().filter(|n| n.node_id.is_none()).map(|n| n.address.clone());
        match candidates.is_empty() {
            true => Vec::new(),
            false => candidates.into_iter().map(|(address, _)| address).chain(nameless).collect(),
        }
    }

    /// Members that no asked address leads to, with their addresses.
    fn candidates(&self, snapshot: &ClusterSnapshot) -> Vec<(String, String)> {
        let Some(report) = self.spokesman(snapshot) else { return Vec::new() };
        let status = &report.status;
        let asked = self.addresses();
        status
            .peers
            .iter()
            .filter(|p| status.voters.contains(&p.node_id) || status.learners.contains(&p.node_id))
            .filter(|p| !snapshot.nodes.iter().any(|n| n.node_id.as_deref() == Some(&p.node_id)))
            .filter(|p| !p.address.is_empty() && !asked.contains(&p.address))
            .map(|p| (p.address.clone(), p.node_id.clone()))
            .collect()
    }

    fn spokesman<'a>(&self, snapshot: &'a ClusterSnapshot) -> Option<&'a api::cluster::Report> {
        let leader = snapshot.leader.as_deref().filter(|_| self.follows_members)?;
        snapshot.report_of(leader)
    }

    /// Learns from a round who is a member. `is_same` says whether two addresses lead to one place.
    pub fn learn(&mut self, snapshot: &ClusterSnapshot, is_same: impl Fn(&str, &str) -> bool) -> Vec<Change> {
        let mut changes = self.drop_gone(snapshot);
        let nameless: Vec<&str> =
            snapshot.nodes.iter().filter(|n| n.node_id.is_none()).map(|n| n.address.as_str()).collect();
        for (address, node_id) in self.candidates(snapshot) {
            let is_taken = nameless.iter().any(|known| is_same(known, &address));
            if is_taken || self.addresses().len() >= MAX_NODES {
                continue;
            }
            let why = format!("the leader names {node_id} as a member there");
            changes.push(Change { address: address.clone(), added: true, why });
            self.joined.insert(address, Joined { node_id, gone_since: None });
        }
        changes
    }

    fn drop_gone(&mut self, snapshot: &ClusterSnapshot) -> Vec<Change> {
        let members = self.spokesman(snapshot).map(|report| {
            let status = &report.status;
            let is_member = |id: &String| status.voters.contains(id) || status.learners.contains(id);
            let moved = |id: &String, from: &String| {
                status.peers.iter().any(|p| p.node_id == *id && p.address != *from)
            };
            (is_member, moved)
        });
        let mut changes = Vec::new();
        self.joined.retain(|address, joined| {
            let node = snapshot.nodes.iter().find(|n| n.address == *address);
            let report = node.and_then(|n| n.report.as_ref());
            let elsewhere = report.is_some_and(|own| {
                snapshot.nodes.iter().any(|n| {
                    n.address != *address
                        && n.report.as_ref().is_some_and(|r| r.status.boot_nonce == own.status.boot_nonce)
                })
            });
            let removed = report.is_some_and(|r| r.status.role == Role::Removed);
            let is_gone = match &members {
                Some((is_member, moved)) if report.is_none() => {
                    !is_member(&joined.node_id) || moved(&joined.node_id, address)
                }
                _ => false,
            };
            joined.gone_since = if is_gone { joined.gone_since.or(Some(snapshot.at)) } else { None };
            let silent = joined
                .gone_since
                .is_some_and(|since| crate::report::seconds_between(since, snapshot.at) >= FORGET_SECONDS);
            let why = match (elsewhere, removed, silent) {
                (true, _, _) => format!("{} is asked at another address", joined.node_id),
                (_, true, _) => format!("{} says that it was removed", joined.node_id),
                (_, _, true) => format!("{} is no member there any more, and silent", joined.node_id),
                _ => return true,
            };
            changes.push(Change { address: address.clone(), added: false, why });
            false
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::fixture::{Answers, address, reports};
    use crate::report::{NodeReport, ScrapeFailure};
    use crate::snapshot::Memory;

    /// A round of three in which only the given ones are asked.
    fn round(asked: &[String], seconds: f64, bend: impl FnOnce(&mut Answers)) -> ClusterSnapshot {
        let mut answers = Answers::healthy(3, 2, 7, seconds);
        bend(&mut answers);
        let seen: Vec<NodeReport> = answers.0.into_iter().filter(|n| asked.contains(&n.address)).collect();
        ClusterSnapshot::join(&seen, &Memory::default(), seconds as u64, reports::after(seconds))
    }

    fn never(_: &str, _: &str) -> bool {
        false
    }

    #[test]
    fn a_member_that_joined_is_asked_by_itself() {
        let mut roster = Roster::new(vec![address(1), address(2)], true);
        let seen = round(&roster.addresses(), 1.0, |_| {});
        let changes = roster.learn(&seen, never);
        assert_eq!((changes.len(), changes[0].added, &changes[0].address), (1, true, &address(3)));
        assert_eq!(roster.addresses(), [address(1), address(2), address(3)]);
        let seen = round(&roster.addresses(), 2.0, |_| {});
        assert!(roster.learn(&seen, never).is_empty());
        let mut fixed = Roster::new(vec![address(2)], false);
        assert!(fixed.learn(&seen, never).is_empty(), "unless it is told not to");
    }

    #[test]
    fn without_a_certain_leader_nobody_s_word_counts() {
        let mut roster = Roster::new(vec![address(1), address(2)], true);
        let seen = round(&roster.addresses(), 1.0, |a| a.report(2).status.role = Role::Follower);
        assert!(roster.learn(&seen, never).is_empty());
        let seen = round(&roster.addresses(), 1.0, |a| a.report(1).status.cluster_id = Some("other".into()));
        assert!(roster.learn(&seen, never).is_empty());
    }

    #[test]
    fn a_silent_configured_address_may_be_the_member() {
        let other = "localhost:8003".to_owned();
        let mut roster = Roster::new(vec![address(1), address(2), other.clone()], true);
        let mut answers = Answers::healthy(3, 2, 7, 1.0);
        answers.kill(3);
        answers.0[2].address.clone_from(&other);
        let seen = ClusterSnapshot::join(&answers.0, &Memory::default(), 1, reports::after(1.0));
        assert_eq!(roster.doubtful(&seen), [address(3), other.clone()]);
        assert!(roster.learn(&seen, |a, b| a == other && b == address(3)).is_empty());
        assert_eq!(roster.learn(&seen, never).len(), 1);
    }

    #[test]
    fn one_removed_is_dropped_after_it_says_so_or_falls_silent() {
        let found = |seconds| {
            let mut roster = Roster::new(vec![address(1), address(2)], true);
            roster.learn(&round(&roster.addresses(), seconds, |_| {}), never);
            roster
        };
        let without = |a: &mut Answers| {
            for n in [1, 2] {
                a.report(n).status.voters.retain(|v| v != "node-3");
                a.report(n).status.peers.retain(|p| p.node_id != "node-3");
            }
        };
        let mut roster = found(1.0);
        let seen = round(&roster.addresses(), 2.0, without);
        assert!(roster.learn(&seen, never).is_empty(), "it still reports as if nothing were");
        let seen = round(&roster.addresses(), 3.0, |a| {
            without(a);
            a.report(3).status.role = Role::Removed;
        });
        assert!(roster.learn(&seen, never)[0].why.contains("says that it was removed"));
        assert_eq!(roster.addresses(), [address(1), address(2)]);
        let mut roster = found(1.0);
        let gone = |a: &mut Answers| {
            without(a);
            a.fail(3, ScrapeFailure::Refused);
        };
        for (seconds, dropped) in [(2.0, 0), (61.0, 0), (62.0, 1)] {
            let seen = round(&roster.addresses(), seconds, gone);
            assert_eq!(roster.learn(&seen, never).len(), dropped, "at {seconds} s");
        }
        // A member that is only down stays.
        let mut roster = found(1.0);
        for seconds in [2.0, 100.0, 500.0] {
            let seen = round(&roster.addresses(), seconds, |a| {
                a.kill(3);
            });
            assert!(roster.learn(&seen, never).is_empty());
        }
    }

    #[test]
    fn a_source_that_fails_keeps_what_it_gave() {
        let mut roster = Roster::new(vec!["a:1".into()], true);
        let changes = roster.set("file", "nodes.txt", Ok(vec!["b:1".into(), "a:1".into()]));
        assert_eq!(changes.len(), 2);
        assert_eq!(roster.addresses(), ["a:1", "b:1"]);
        assert!(roster.set("file", "nodes.txt", Err("no such file".into())).is_empty());
        assert_eq!(roster.addresses(), ["a:1", "b:1"]);
        assert_eq!(roster.sources()[1].error.as_deref(), Some("no such file"));
        let changes = roster.set("file", "nodes.txt", Ok(vec!["c:1".into()]));
        assert_eq!(changes.iter().filter(|c| !c.added).count(), 2);
        assert_eq!(roster.addresses(), ["a:1", "c:1"]);
    }
}
