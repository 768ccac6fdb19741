//! What a request asks of the node: a command, a barrier for a read, and what it needs to know first.
//!
//! This is the way every write takes, so nothing here waits for the machine's lock or copies a view.

use super::{Applied, Node, NodeError};
use crate::command::Command;
use crate::machine::Limits;
use crate::raft::driver::Input;
use api::cluster::Role;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a proposal's outcome is waited for.
pub(super) const PROPOSAL_LIMIT: Duration = Duration::from_secs(10);
/// How long a linearizable read is waited for.
const READ_LIMIT: Duration = Duration::from_secs(5);

impl Node {
    /// True where this node leads, ready or not.
    pub fn leads(&self) -> bool {
        self.shared.view.borrow().role == Role::Leader
    }

    /// The replicated settings as they were after the last batch; waits for nobody.
    pub fn settings(&self) -> Arc<Limits> {
        self.shared.settings.current()
    }

    fn tell_driver(&self, input: Input) -> Result<(), NodeError> {
        if let Some(running) = self.shared.running.read().as_ref() {
            return running.inbox.client(input);
        }
        self.inbox()?.client(input)
    }

    /// Proposes a command on this node, which must lead, and waits until it is applied.
    pub async fn propose(&self, command: Command) -> Result<Applied, NodeError> {
        self.shared.room.admit(&command)?;
        let mut span = otlp::context::child("raft.propose", otlp::SpanKind::Internal);
        if let Some(span) = &mut span {
            span.put("holdfast.command", command.name());
        }
        let (reply, outcome) = oneshot::channel();
        self.tell_driver(Input::Propose(command.encode(), reply, span.as_ref().map(otlp::Span::context)))?;
        let answer = match tokio::time::timeout(PROPOSAL_LIMIT, outcome).await {
            Ok(Ok(answer)) => answer,
            // The applier ended, or time ran out: the entry may still be applied elsewhere.
            Ok(Err(_)) | Err(_) => Err(NodeError::UnknownOutcome),
        };
        if let Some(span) = &mut span {
            match &answer {
                Ok(applied) => span.put("holdfast.raft.index", applied.index as i64),
                Err(error) => span.fail(error.to_string()),
            }
        }
        answer
    }

    /// An index that a linearizable read has to have applied; waits until it is.
    pub async fn read_barrier(&self) -> Result<u64, NodeError> {
        if let Some(why) = self.shared.left_reads.lock().clone() {
            return Err(NodeError::Unavailable { role: self.view().role, why });
        }
        let (reply, outcome) = oneshot::channel();
        self.tell_driver(Input::Read(reply))?;
        match tokio::time::timeout(READ_LIMIT, outcome).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(NodeError::NoLeader),
        }
    }

    /// Waits until `index` is applied here.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), NodeError> {
        let mut applied = self.watch_applied();
        let reached = applied.wait_for(|at| *at >= index);
        match tokio::time::timeout(limit, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NodeError::NoLeader),
        }
    }
}
