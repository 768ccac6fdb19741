//! Beginning anew as another incarnation: what a node does whose log can't be kept.
//!
//! It is asked for and goes on by itself, since the threads of the old incarnation may take long to
//! end. `/api/health/operations` shows it as `rejoin`; then the node is `joining`, and its status says
//! what it waits for.
//!
//! Invariant: the new incarnation is durable before anything of the old one is moved, and the old
//! one's threads have ended before that.

use super::{MembershipError, Node, RaftView};
use crate::machine::Machine;
use crate::operations::Operation;
use api::cluster::Role;

impl Node {
    /// Gives this node a new incarnation and lets it join its cluster anew; only for a node that
    /// takes no part (role failed or removed). The old log and snapshots go into quarantine, the
    /// database stays. Gives the operation's id; it goes on behind. Asking again while the node is
    /// on its way changes nothing: it gives the same id, and none once the node asks to be taken in.
    pub fn rejoin(&self, why: &str) -> Result<Option<String>, MembershipError> {
        let operation = match self.operation_book().begin_alone("rejoin", "beginning") {
            Ok(operation) => operation,
            Err(goes_on) => return Ok(Some(goes_on)),
        };
        let view = self.view();
        if !matches!(view.role, Role::Failed | Role::Removed) {
            if self.shared.founder.rejoins() {
                return Ok(None);
            }
            return Err(MembershipError::Refused(format!(
                "this node is {} and keeps its log; only one that is failed or removed may join anew",
                view.role
            )));
        }
        let (id, node, why) = (operation.id(), self.clone(), why.to_owned());
        tracing::warn!(why, "this node begins anew as another incarnation");
        self.says("it is to join anew: the threads of its old incarnation are ending");
        tokio::task::spawn_blocking(move || node.renew(&why, operation));
        Ok(Some(id))
    }

    fn renew(&self, why: &str, operation: Operation) {
        operation.says("waiting for the threads of the old incarnation to end");
        // One that failed while it was being started has threads that are not known yet.
        drop(self.shared.starting.lock());
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        threads.into_iter().for_each(|thread| drop(thread.join()));
        operation.says("writing the new incarnation, moving the old log into quarantine");
        if let Err(error) = self.shared.founder.renew(why) {
            tracing::error!(%error, "the new incarnation could not be written");
            self.says(&format!("it could not join anew: {error}; ask again once that is mended"));
            return;
        }
        *self.shared.founding.write() = None;
        *self.shared.machine.write() = Machine::new();
        self.shared.applied.send_replace(0);
        self.shared.view.send_replace(RaftView::begin());
        self.shared.start_again.notify_one();
    }

    fn says(&self, detail: &str) {
        self.shared.view.send_modify(|view| view.role_detail = Some(detail.to_owned()));
    }

    /// Returns when [`Node::rejoin`] wants the node to be started again.
    pub async fn wait_to_start_again(&self) {
        self.shared.start_again.notified().await;
    }
}
