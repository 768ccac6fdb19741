//! Turns what the replica says into what the rest of the program looks at.

use crate::node::RaftView;
use crate::raft::election_lines::ElectionLines;
use crate::raft::roster::Roster;
use crate::raft::transport::Transport;
use crate::replica::{Place, Standing};
use api::cluster::Role;
use raft::StateRole;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a suspect does not vote.
const LOST_END: &str = "the log lost its last record in a crash; the node votes again once it has caught up";
/// Why a node that joined is not a member in its own log yet.
const CATCHING_UP: &str = "catching up with the cluster it joined";

/// Publishes the view of one replica.
pub struct Publisher {
    view: Arc<watch::Sender<RaftView>>,
    transport: Arc<Transport>,
    roster: Arc<Roster>,
    last_leader: u64,
    lines: ElectionLines,
    matched: Vec<(u64, u64)>,
}

impl Publisher {
    /// A publisher of one replica.
    pub fn new(
        view: Arc<watch::Sender<RaftView>>,
        transport: Arc<Transport>,
        roster: Arc<Roster>,
    ) -> Publisher {
        Publisher {
            view,
            transport,
            roster,
            last_leader: 0,
            lines: ElectionLines::default(),
            matched: Vec::new(),
        }
    }

    /// Node id of a member.
    pub fn name_of(&self, raft_id: u64) -> Option<String> {
        self.roster.name_of(raft_id)
    }

    fn lost_end(&self, awaited: &[u64]) -> String {
        if awaited.is_empty() {
            return LOST_END.to_owned();
        }
        let name = |id: &u64| self.roster.name_of(*id).unwrap_or_else(|| format!("member {id}"));
        let names: Vec<String> = awaited.iter().map(name).collect();
        format!(
            "the log lost its last record in a crash, nobody leads, and how far the log of {} goes is not \
             known: start it, or where it is gone for good, see `coordinator recover-quorum`",
            names.join(", ")
        )
    }

    /// Publishes a standing, and whose log ends a suspect waits for; wakes watchers only where role, leader or term changed.
    pub fn publish(&mut self, standing: &Standing, matched: &[(u64, u64)], awaited: &[u64]) {
        if self.matched != matched {
            self.matched = matched.to_vec();
            self.transport.set_matched(matched);
        }
        let changed_leader = standing.leader != 0 && standing.leader != self.last_leader;
        if changed_leader {
            self.last_leader = standing.leader;
        }
        let role = match standing.role {
            _ if standing.suspect => Role::Suspect,
            StateRole::Leader => Role::Leader,
            _ if standing.place == Place::Learner => Role::Learner,
            _ if standing.place == Place::None => Role::Joining,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let leader = match standing.leader {
            0 => None,
            id => self.roster.name_of(id),
        };
        self.lines.tell(standing, leader.as_deref());
        self.view.send_if_modified(|view| {
            // The node was halted while this turn went on: what it says then stays.
            if matches!(view.role, Role::Failed | Role::Removed) {
                return false;
            }
            let detail = match role {
                Role::Suspect => Some(self.lost_end(awaited)),
                Role::Joining => Some(CATCHING_UP.to_owned()),
                _ => None,
            };
            let told = (&view.role, &view.leader, view.term, view.leader_ready)
                != (&role, &leader, standing.term, standing.leader_ready);
            view.role = role;
            view.role_detail = detail;
            view.leader = leader;
            view.leader_ready = standing.leader_ready;
            view.term = standing.term;
            view.commit_index = standing.commit;
            view.first_index = standing.first;
            view.last_index = standing.last;
            view.snapshot_index = standing.snapshot;
            view.leader_changes += u64::from(changed_leader);
            told
        });
    }
}
