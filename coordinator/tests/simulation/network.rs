//! The network: packets under way, links that are cut or slow.
//!
//! A connection ends with the process that receives on it: what was under way to it is lost. What
//! a process sent before it ended may still arrive.

use crate::faults::Faults;
use crate::random::Random;
use coordinator::replica::{Truncated, VoterSets};
use raft::eraftpb::Message;
use std::collections::{BTreeMap, BTreeSet};

/// How a sender stands; the node's transport tells it ten times a second.
#[derive(Clone)]
pub struct Pulse {
    pub leads: bool,
    pub knows_leader: bool,
    pub suspect: bool,
    pub term: u64,
    pub end: Truncated,
    pub verified: u64,
    pub committed: Truncated,
    pub fetching: bool,
    pub sets: VoterSets,
}

/// What a packet carries.
#[derive(Clone)]
pub enum Payload {
    Raft(Message),
    Pulse(Pulse),
}

#[derive(Clone)]
pub struct Packet {
    pub from: u64,
    pub to: u64,
    /// Which start of the receiver the connection was made to.
    pub to_boot: u64,
    sent: u64,
    pub payload: Payload,
}

#[derive(Default)]
pub struct Network {
    under_way: BTreeMap<(u64, u64), Packet>,
    sent: u64,
    /// Links (from, to) that carry nothing.
    pub cut: BTreeSet<(u64, u64)>,
    /// Links that take so many more steps.
    pub slow: BTreeMap<(u64, u64), u64>,
    /// The newest packet that arrived on each link.
    newest: BTreeMap<(u64, u64), u64>,
}

/// How unruly the network is, per mille of the packets.
#[derive(Clone, Copy, Default)]
pub struct Unruly {
    pub lost: u64,
    pub doubled: u64,
    pub delayed: u64,
}

impl Network {
    pub fn send(
        &mut self,
        (from, to, to_boot): (u64, u64, u64),
        payload: Payload,
        now: u64,
        unruly: Unruly,
        random: &mut Random,
        faults: &mut Faults,
    ) {
        if self.cut.contains(&(from, to)) {
            faults.count("message cut off");
            return;
        }
        if random.chance(unruly.lost) {
            faults.count("message lost");
            return;
        }
        let copies = 1 + u64::from(random.chance(unruly.doubled));
        if copies > 1 {
            faults.count("message doubled");
        }
        for _ in 0..copies {
            self.sent += 1;
            let mut delay = 1 + random.below(2) + self.slow.get(&(from, to)).copied().unwrap_or(0);
            if random.chance(unruly.delayed) {
                faults.count("message delayed");
                delay += random.below(40);
            }
            let packet = Packet { from, to, to_boot, sent: self.sent, payload: payload.clone() };
            self.under_way.insert((now + delay, self.sent), packet);
        }
    }

    /// Packets that arrive by now; those on a link that was cut meanwhile do not.
    pub fn arrived(&mut self, now: u64, faults: &mut Faults) -> Vec<Packet> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.under_way, later);
        let mut out = Vec::with_capacity(due.len());
        for packet in due.into_values() {
            let link = (packet.from, packet.to);
            if self.cut.contains(&link) {
                faults.count("message cut off");
                continue;
            }
            let newest = self.newest.entry(link).or_insert(0);
            if packet.sent < *newest {
                faults.count("message overtaken");
            }
            *newest = packet.sent.max(*newest);
            out.push(packet);
        }
        out
    }

    /// True where both ways are open.
    pub fn open(&self, a: u64, b: u64) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    /// How many packets were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}
