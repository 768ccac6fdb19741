//! A log line for every step of an election, on every node.
//!
//! They are few, so they are always there. The term is the id: it leads through the logs of all
//! nodes, from the one that heard no leader to those that follow the new one.

use crate::replica::Standing;
use raft::StateRole;

/// Remembers what was told last.
#[derive(Debug)]
pub struct ElectionLines {
    role: StateRole,
    leader: u64,
    term: u64,
}

impl Default for ElectionLines {
    fn default() -> Self {
        ElectionLines { role: StateRole::Follower, leader: 0, term: 0 }
    }
}

impl ElectionLines {
    /// Tells what has changed; `leader` is the leader's node id.
    pub fn tell(&mut self, standing: &Standing, leader: Option<&str>) {
        let was = std::mem::replace(
            self,
            ElectionLines { role: standing.role, leader: standing.leader, term: standing.term },
        );
        if (was.role, was.leader, was.term) == (self.role, self.leader, self.term) {
            return;
        }
        let (term, last_index) = (standing.term, standing.last);
        let leader = leader.unwrap_or("none");
        match standing.role {
            StateRole::PreCandidate if was.role != standing.role => {
                tracing::info!(term, last_index, "no leader is heard; asking who would vote for this node");
            }
            StateRole::Candidate if was.role != standing.role => {
                tracing::info!(term, last_index, "campaigning")
            }
            StateRole::Leader => tracing::info!(term, last_index, "this node leads"),
            StateRole::Follower if standing.leader != 0 => {
                tracing::info!(term, leader, last_index, "following");
            }
            StateRole::Follower if was.role == StateRole::Leader => {
                tracing::warn!(term, last_index, "leadership is lost");
            }
            _ => tracing::debug!(term, leader, last_index, "term or role has changed"),
        }
    }
}
