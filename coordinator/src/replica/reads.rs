//! Linearizable reads by ReadIndex: one context for all reads that wait, unique across nodes and
//! boots.
//!
//! Without a leader, or before it has committed in its term, raft-rs drops a read without a word,
//! and a context can get lost on the way; so each is asked again after a while, and given up at
//! last.

use super::{OlderEntries, Replica, Tag};
use raft::StateRole;

/// Reads that share a context.
pub(super) struct PendingRead {
    pub(super) tags: Vec<Tag>,
    pub(super) age_ticks: u32,
}

/// A read older than this many heartbeat intervals is asked again; contexts can get lost.
const READ_REPEAT_HEARTBEATS: u32 = 3;
/// A read that is asked for this many election time-outs is given up.
const READ_EXPIRY_ELECTIONS: u32 = 12;

impl<O: OlderEntries> Replica<O> {
    /// Asks for an index that a linearizable read must have applied.
    pub fn read(&mut self, tag: Tag) {
        self.new_reads.push(tag);
    }

    /// One context for all reads that wait. Without a leader they wait for one.
    pub(super) fn issue_reads(&mut self) {
        if self.new_reads.is_empty() || self.raw.raft.leader_id == 0 {
            return;
        }
        // A leader that has not committed in its term drops reads without a word.
        if self.raw.raft.state == StateRole::Leader && !self.raw.raft.commit_to_current_term() {
            return;
        }
        let counter = self.next_read;
        self.next_read += 1;
        self.reads.insert(counter, PendingRead { tags: std::mem::take(&mut self.new_reads), age_ticks: 0 });
        self.raw.read_index(self.context_of(counter));
    }

    fn context_of(&self, counter: u64) -> Vec<u8> {
        let mut context = Vec::with_capacity(24);
        for part in [self.config.raft_id, self.config.boot_nonce, counter] {
            context.extend_from_slice(&part.to_be_bytes());
        }
        context
    }

    pub(super) fn counter_of(&self, context: &[u8]) -> Option<u64> {
        let prefix = self.context_of(0);
        let counter = context.strip_prefix(&prefix[..16])?;
        counter.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn age_reads(&mut self) {
        let repeat = READ_REPEAT_HEARTBEATS * self.config.heartbeat_ticks as u32;
        let expiry = READ_EXPIRY_ELECTIONS * self.config.election_ticks_max as u32;
        let mut again = Vec::new();
        for (counter, read) in &mut self.reads {
            read.age_ticks += 1;
            if read.age_ticks == repeat || (read.age_ticks > repeat && read.age_ticks.is_multiple_of(repeat))
            {
                again.push(*counter);
            }
        }
        for counter in again {
            let Some(read) = self.reads.get(&counter) else { continue };
            if read.age_ticks > expiry {
                if let Some(read) = self.reads.remove(&counter) {
                    self.expired.extend(read.tags);
                }
            } else if self.raw.raft.leader_id != 0 && self.raw.raft.state != StateRole::Leader {
                // The same context again: if the first is still on its way, they collapse.
                self.raw.read_index(self.context_of(counter));
            } else if self.raw.raft.state == StateRole::Leader && self.raw.raft.commit_to_current_term() {
                self.raw.read_index(self.context_of(counter));
            }
        }
    }
}
