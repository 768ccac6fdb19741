//! Giving leadership away: to somebody, or to anybody before this node ends; and the goodbye.

use super::{Node, NodeError};
use crate::raft::driver::Input;
use api::cluster::Role;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a node that stops tries to hand leadership over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);

/// How long a successor may take to lead.
const TAKEN_LIMIT: Duration = Duration::from_secs(2);

impl Node {
    /// Gives up leadership; done once another leads, refused when that takes too long.
    pub async fn transfer(&self, to: Option<&str>) -> Result<(), NodeError> {
        let running = self.shared.running.read().clone();
        let Some(running) = running else { return Err(NodeError::NoLeader) };
        let target = match to {
            None => None,
            Some(name) => Some(self.shared.roster.id_of(name).ok_or(NodeError::NoLeader)?),
        };
        let (reply, taken) = oneshot::channel();
        running.inbox.tell(Input::Transfer(target, reply));
        taken.await.unwrap_or(Err(NodeError::NoLeader))?;
        let mut view = self.watch();
        let own = self.node_id().to_owned();
        let handed = view.wait_for(|v| v.leader.as_ref().is_some_and(|l| *l != own));
        match tokio::time::timeout(TAKEN_LIMIT, handed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(NodeError::NoLeader),
            Err(_) => {
                let why = format!("it was asked to, and does not lead after {} s", TAKEN_LIMIT.as_secs());
                Err(NodeError::NoSuccessor(why))
            }
        }
    }

    /// Tells the peers that this process ends on purpose.
    pub async fn say_goodbye(&self) {
        if let Some(transport) = self.transport() {
            transport.say_goodbye().await;
        }
    }

    /// Gives leadership away if this node leads. The node goes on as a follower, so that what was
    /// proposed here gets its answer. True where another leads now.
    pub async fn hand_over(&self) -> bool {
        let deadline = Instant::now() + HAND_OVER_LIMIT;
        while self.view().role == Role::Leader && self.members().0.len() > 1 {
            match self.transfer(None).await {
                Ok(()) => return true,
                Err(error) if Instant::now() >= deadline => {
                    tracing::warn!(%error, "nobody took leadership over; the others will elect one of them");
                    return false;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        false
    }
}
