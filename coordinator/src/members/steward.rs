//! What the leader does about the members by itself, a few times a second.
//!
//! It gives votes to learners that have caught up, raises the machine's version when every
//! member's program knows it, writes a member's new address into the log, and, where the config
//! says so, takes out members that have been dead for long. One change at a time; a check that
//! says no is looked at again in the next round, and told once.

use super::MemberStanding;
use super::checks::{self, Promotion};
use super::watch::Watch;
use crate::command::Command;
use crate::config::Config;
use crate::live::Live;
use crate::machine::members::{MemberChange, MemberStep};
use crate::machine::version::rise_due;
use crate::node::{Node, NodeError};
use api::cluster::Role;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// A voter that is silent for so long and not in the config is told as forgotten.
const FORGOTTEN_AFTER_MS: u64 = 30_000;
/// The warning about it is repeated after this time.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// Works for as long as the node runs.
pub fn spawn(node: Node, live: Live) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut steward = Steward {
            node,
            live,
            told: String::new(),
            warned: BTreeMap::new(),
            watch: Watch::default(),
            began: Instant::now(),
            looked_at: 0,
        };
        loop {
            tokio::time::sleep(PAUSE).await;
            steward.round().await;
        }
    })
}

struct Steward {
    node: Node,
    live: Live,
    /// What was said last about a change that is not made.
    told: String,
    /// When a forgotten voter was told last, by node id.
    warned: BTreeMap<String, Instant>,
    /// Since when this node looks, as the leader, who is silent.
    watch: Watch,
    began: Instant,
    /// The applied index before this round's look at the members.
    looked_at: u64,
}

impl Steward {
    async fn round(&mut self) {
        self.looked_at = self.node.applied_index();
        let members = self.node.member_standings();
        self.warn_of_forgotten(&members);
        let view = self.node.view();
        if view.role != Role::Leader || !view.leader_ready {
            self.watch.rest();
            return;
        }
        let knows_silence = self.watch.look(self.began.elapsed().as_millis() as u64);
        let outcome = self.lead(&members, knows_silence).await;
        let told = outcome.err().unwrap_or_default();
        if told != self.told && !told.is_empty() {
            tracing::info!(why = %told, "a change of the members waits");
        }
        self.told = told;
    }

    /// At most one change a round; the error says what waits, and for what.
    async fn lead(&self, members: &[MemberStanding], knows_silence: bool) -> Result<(), String> {
        let present = self.node.machine().version();
        let versions: Option<Vec<u32>> = members.iter().map(|m| m.machine_version).collect();
        if let Some(to) = versions.and_then(|known| rise_due(present, known)) {
            tracing::info!(from = present, to, "every member knows the higher machine version");
            let raised = self.node.propose(Command::RaiseVersion { to }).await;
            return raised.map(drop).map_err(|e| e.to_string());
        }
        if let Some(promotion) = checks::next_promotion(members) {
            return self.promote(promotion?, members).await;
        }
        if let Some(member) = members.iter().find(|m| m.moved_to.is_some()) {
            return self.note_address(member).await;
        }
        let after_seconds = self.live.config().dead_node_cleanup_seconds;
        let after_ms = after_seconds.saturating_mul(1000);
        if after_ms > 0
            && knows_silence
            && let Some(dead) = checks::dead_member(members, after_ms)
        {
            let name = name_of(members, dead);
            tracing::warn!(node = %name, silent_seconds = after_seconds, "taking a dead member out (dead_node_cleanup_seconds)");
            return self.change(vec![MemberStep::Remove(dead)], Vec::new()).await;
        }
        Ok(())
    }

    async fn promote(&self, promotion: Promotion, members: &[MemberStanding]) -> Result<(), String> {
        let steps = match promotion {
            Promotion::MoveLeadership => {
                tracing::info!("a caught-up member is to take this leader's place: leadership moves first");
                return self.node.transfer(None).await.map_err(|e| e.to_string());
            }
            Promotion::Vote(id) => {
                tracing::info!(node = %name_of(members, id), "a learner has caught up and gets its vote");
                vec![MemberStep::Voter(id)]
            }
            Promotion::Replace { new, old } => {
                tracing::info!(node = %name_of(members, new), replaces = %name_of(members, old), "a learner has caught up and takes a voter's place");
                vec![MemberStep::Voter(new), MemberStep::Remove(old)]
            }
        };
        self.change(steps, Vec::new()).await
    }

    async fn note_address(&self, member: &MemberStanding) -> Result<(), String> {
        let Some(address) = &member.moved_to else { return Ok(()) };
        let Some(mut record) = self.node.membership().records.remove(&member.raft_id) else { return Ok(()) };
        tracing::info!(node = %member.node_id, from = %record.address, to = %address, "a member has moved");
        record.address.clone_from(address);
        let step = match member.voter {
            true => MemberStep::Voter(member.raft_id),
            false => MemberStep::Learner(member.raft_id),
        };
        self.change(vec![step], vec![(member.raft_id, record)]).await
    }

    async fn change(
        &self,
        steps: Vec<MemberStep>,
        records: Vec<(u64, crate::machine::members::MemberRecord)>,
    ) -> Result<(), String> {
        let change = MemberChange { steps, records, wall_ms: 0 };
        match self.node.change_members(change, self.looked_at).await {
            Ok(_) => Ok(()),
            // The next round looks again.
            Err(NodeError::ChangePending | NodeError::NotLeader) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn warn_of_forgotten(&mut self, members: &[MemberStanding]) {
        for member in forgotten(&self.live.config(), members) {
            let again = self.warned.get(&member.node_id).is_none_or(|at| at.elapsed() >= WARN_AGAIN);
            if again {
                tracing::warn!("{}", forgotten_text(member));
                self.warned.insert(member.node_id.clone(), Instant::now());
            }
        }
        self.warned.retain(|id, _| members.iter().any(|m| m.node_id == *id && !m.reachable));
    }
}

fn name_of(members: &[MemberStanding], raft_id: u64) -> String {
    members.iter().find(|m| m.raft_id == raft_id).map(|m| m.node_id.clone()).unwrap_or_default()
}

/// Voters that neither answer nor stand in this node's config.
pub fn forgotten<'a>(config: &Config, members: &'a [MemberStanding]) -> Vec<&'a MemberStanding> {
    if config.peers.is_empty() {
        return Vec::new();
    }
    let configured = |m: &MemberStanding| {
        config.peers.iter().any(|p| match &p.id {
            Some(id) => *id == m.node_id,
            None => p.address() == m.address,
        })
    };
    checks::forgotten(members, configured, FORGOTTEN_AFTER_MS)
}

/// What to say of one, with the command that takes it out.
pub fn forgotten_text(member: &MemberStanding) -> String {
    format!(
        "{} is still a voter, but it does not answer and this node's config does not name it: it counts for every majority. If it is gone for good: coordinator members remove {}",
        member.node_id, member.node_id
    )
}
