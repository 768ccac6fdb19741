//! Faults of other systems' consensus, each shown not to be here: the replica alone, in one
//! thread, with every message and every write in the test's own hands.

use coordinator::command::{Command, Stamp};
use coordinator::replica::{
    LogWrite, OlderEntries, ProposeRefused, Recovered, Replica, ReplicaConfig, Truncated, Turn,
};
use raft::StateRole;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

const ELECTION_TICKS: usize = 15;

/// What is durable.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<(HardState, Vec<Entry>)>>);

impl OlderEntries for Disk {
    fn fetch(&self, low: u64, high: u64, _max_bytes: u64) -> Result<Vec<Entry>, String> {
        Ok(self.0.borrow().1.iter().filter(|e| (low..high).contains(&e.index)).cloned().collect())
    }
}

impl Disk {
    fn write(&self, write: &LogWrite) {
        let mut disk = self.0.borrow_mut();
        if let Some(first) = write.entries.first() {
            disk.1.retain(|e| e.index < first.index);
            disk.1.extend(write.entries.iter().cloned());
        }
        if let Some(state) = &write.hard_state {
            disk.0 = state.clone();
        }
    }

    fn start(&self, raft_id: u64, boot: u64) -> Replica<Disk> {
        let disk = self.0.borrow();
        let recovered = Recovered {
            hard_state: disk.0.clone(),
            conf_state: ConfState { voters: vec![1, 2, 3], ..Default::default() },
            last: disk.1.last().map_or(Truncated::default(), |e| Truncated { index: e.index, term: e.term }),
            ..Default::default()
        };
        drop(disk);
        let config = ReplicaConfig {
            raft_id,
            boot_nonce: boot,
            heartbeat_ticks: 5,
            election_ticks_min: ELECTION_TICKS,
            election_ticks_max: 2 * ELECTION_TICKS,
            applied: 0,
            applied_log_ms: 0,
            cache_limit_bytes: 1 << 20,
            max_uncommitted_bytes: 1 << 20,
            suspect: false,
            seed: raft_id,
        };
        Replica::new(config, recovered, self.clone()).unwrap()
    }
}

/// Three members, and who can be reached.
struct Three {
    members: BTreeMap<u64, (Replica<Disk>, Disk)>,
    cut_off: Vec<u64>,
    under_way: Vec<Message>,
    turns: BTreeMap<u64, Vec<Turn>>,
}

impl Three {
    fn new() -> Three {
        let member = |id| {
            let disk = Disk::default();
            (id, (disk.start(id, 1), disk))
        };
        Three {
            members: (1..=3).map(member).collect(),
            cut_off: Vec::new(),
            under_way: Vec::new(),
            turns: BTreeMap::new(),
        }
    }

    /// Three with member 1 as their leader, which has committed in its term.
    fn led_by_one() -> Three {
        let mut three = Three::new();
        three.member(1).campaign();
        three.settle();
        assert!(three.member(1).standing().leader_ready);
        three
    }

    fn member(&mut self, id: u64) -> &mut Replica<Disk> {
        &mut self.members.get_mut(&id).unwrap().0
    }

    /// Carries messages and makes writes durable until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let mut idle = true;
            for message in std::mem::take(&mut self.under_way) {
                if !self.cut_off.contains(&message.to) && !self.cut_off.contains(&message.from) {
                    idle = false;
                    self.member(message.to).step(message);
                }
            }
            for (id, (replica, disk)) in &mut self.members {
                let mut turn = replica.turn();
                for mut write in std::mem::take(&mut turn.writes) {
                    idle = false;
                    disk.write(&write);
                    replica.on_durable(write.number);
                    self.under_way.append(&mut write.then_send);
                }
                self.under_way.append(&mut turn.send);
                if let Some(last) = turn.apply.last() {
                    idle = false;
                    replica.on_applied(last.entry.index);
                }
                self.turns.entry(*id).or_default().push(turn);
            }
            if idle && self.under_way.is_empty() {
                return;
            }
        }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.members.values_mut().for_each(|(replica, _)| replica.tick());
            self.settle();
        }
    }

    fn propose(&mut self, to: u64, tag: u64) -> Result<(), ProposeRefused> {
        self.member(to).propose(&[Command::Checkpoint.encode()], 0, 0, tag)
    }

    /// Everything that the member handed out since it was asked last.
    fn handed_out(&mut self, id: u64) -> Vec<Turn> {
        self.turns.remove(&id).unwrap_or_default()
    }
}

fn vote_request(from: u64, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgRequestVote);
    (message.from, message.to, message.term) = (from, 1, term);
    message
}

fn answer(messages: &[Message]) -> Option<bool> {
    let answer = messages.iter().find(|m| m.get_msg_type() == MessageType::MsgRequestVoteResponse)?;
    Some(!answer.reject)
}

/// The state file was rewritten whole, unsynced, and a load error meant term 0: voting twice.
#[test]
fn vote_survives_crash() {
    let disk = Disk::default();
    let mut replica = disk.start(1, 1);
    replica.step(vote_request(2, 5));
    let turn = replica.turn();
    assert_eq!(answer(&turn.send), None, "no vote leaves before it is durable");
    let voted = turn.writes.iter().find(|w| answer(&w.then_send) == Some(true)).expect("the vote is written");
    assert!(voted.must_sync, "and synced");
    let state = voted.hard_state.clone().expect("with its term");
    assert_eq!((state.term, state.vote), (5, 2));
    turn.writes.iter().for_each(|w| disk.write(w));

    let mut replica = disk.start(1, 2);
    replica.step(vote_request(3, 5));
    let turn = replica.turn();
    let all: Vec<Message> = turn.writes.iter().flat_map(|w| w.then_send.clone()).chain(turn.send).collect();
    assert_eq!(answer(&all), Some(false), "the vote of term 5 is given");
    replica.step(vote_request(2, 5));
    let turn = replica.turn();
    let all: Vec<Message> = turn.writes.iter().flat_map(|w| w.then_send.clone()).chain(turn.send).collect();
    assert_eq!(answer(&all), Some(true), "the same vote may be told again");
}

/// A follower that still named itself leader accepted writes.
#[test]
fn stale_leader_refuses_writes() {
    let mut three = Three::led_by_one();
    three.cut_off = vec![1];
    // What it still takes as a leader it can't commit.
    assert_eq!(three.propose(1, 7), Ok(()));
    three.settle();
    let before = three.member(1).standing().commit;
    three.tick(6 * ELECTION_TICKS);
    assert_ne!(three.member(1).standing().role, StateRole::Leader, "it stepped down by itself");
    assert_eq!(three.member(1).standing().commit, before);
    assert_eq!(three.propose(1, 8), Err(ProposeRefused::NotLeader));
    let told = three.handed_out(1);
    assert!(told.iter().all(|t| t.lost.is_empty() && t.unknown.is_empty()), "what became of 7 is open");
    let leads = |three: &mut Three, id| three.member(id).standing().role == StateRole::Leader;
    assert!(leads(&mut three, 2) || leads(&mut three, 3), "the others have a leader");

    three.cut_off.clear();
    three.tick(4 * ELECTION_TICKS);
    let ends: Vec<Truncated> = (1..=3).map(|id| three.member(id).log_end()).collect();
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "its entry gave way: {ends:?}");
    assert!(three.handed_out(1).iter().any(|turn| turn.lost == [7]), "its waiter is told that it never was");
}

/// match_index advanced past what was sent, so unreplicated entries were committed.
#[test]
fn no_commit_without_majority() {
    let mut three = Three::led_by_one();
    let before = three.member(1).standing().commit;
    three.cut_off = vec![2, 3];
    for tag in 1..=3 {
        assert_eq!(three.propose(1, tag), Ok(()));
        three.settle();
    }
    assert_eq!(three.member(1).standing().last, before + 3);
    assert_eq!(three.member(1).standing().commit, before, "alone it commits nothing");
    // An acknowledgement counts up to the entry that it names, and once.
    let term = three.member(1).standing().term;
    let mut acknowledged = Message::default();
    acknowledged.set_msg_type(MessageType::MsgAppendResponse);
    (acknowledged.from, acknowledged.to, acknowledged.term) = (2, 1, term);
    acknowledged.index = before + 1;
    three.member(1).step(acknowledged.clone());
    three.member(1).step(acknowledged);
    three.settle();
    assert_eq!(three.member(1).standing().commit, before + 1);
    let applied: Vec<u64> =
        three.handed_out(1).iter().flat_map(|t| t.apply.iter().map(|c| c.entry.index)).collect();
    assert!(applied.iter().all(|index| *index <= before + 1), "{applied:?}");
}

/// No read index, no lease: a follower answered from whatever it had.
#[test]
fn followers_never_serve_stale_by_default() {
    let mut three = Three::led_by_one();
    three.member(2).read(1);
    three.tick(1);
    let committed = three.member(1).standing().commit;
    let served: Vec<u64> = three.handed_out(2).iter().flat_map(|t| t.reads.iter().map(|(i, _)| *i)).collect();
    assert_eq!(served, [committed], "the leader says what a read must have seen");

    three.cut_off = vec![2];
    assert_eq!(three.propose(1, 9), Ok(()));
    three.settle();
    three.member(2).read(2);
    three.tick(20 * 2 * ELECTION_TICKS);
    assert!(three.member(1).standing().commit > committed);
    let turns = three.handed_out(2);
    assert!(turns.iter().all(|t| t.reads.is_empty()), "a follower that is cut off answers no read");

    three.cut_off.clear();
    three.member(2).read(3);
    three.tick(4 * ELECTION_TICKS);
    let latest = three.member(1).standing().commit.max(committed + 1);
    let turns = three.handed_out(2);
    let served = turns.iter().flat_map(|t| t.reads.iter().filter(|(_, tags)| tags.contains(&3)));
    let served: Vec<u64> = served.map(|(index, _)| *index).collect();
    assert_eq!(served.len(), 1, "it answers again, once: {served:?}");
    assert!(
        served[0] > committed && served[0] <= latest,
        "{served:?} lies behind what was written meanwhile"
    );
}

/// The stamp of an entry can be read without its commands, so that a replica goes on from the
/// newest log time it has seen.
#[test]
fn log_time_goes_on_where_the_last_leader_was() {
    let mut three = Three::new();
    three.member(1).campaign();
    three.settle();
    let mono_ms = [1_000, 61_000];
    for (tag, mono_ms) in (1..).zip(mono_ms) {
        let command = [Command::Checkpoint.encode()];
        three.member(1).propose(&command, mono_ms, 0, tag).unwrap();
        three.settle();
    }
    three.member(1).transfer_to(2).unwrap();
    three.tick(2);
    assert_eq!(three.member(2).standing().role, StateRole::Leader);
    // Another node's monotonic clock begins anywhere.
    three.member(2).propose(&[Command::Checkpoint.encode()], 5, 0, 1).unwrap();
    three.settle();
    let entries = three.members[&3].1.0.borrow().1.clone();
    let stamps: Vec<Stamp> =
        entries.iter().filter_map(|e| coordinator::command::Batch::stamp(&e.data)).collect();
    let log_ms: Vec<u64> = stamps.iter().map(|s| s.log_ms).collect();
    assert_eq!(log_ms, [0, 60_000, 60_000]);
}

/// Member 1 of three hands over to member 2, and what tells that one is on its way.
fn told_to_lead() -> (Three, Message) {
    let mut three = Three::led_by_one();
    three.member(1).transfer_to(2).unwrap();
    let sent = three.member(1).turn().send;
    let told = sent.into_iter().find(|m| m.get_msg_type() == MessageType::MsgTimeoutNow);
    (three, told.expect("member 2 is told"))
}

/// raft-rs gives a transfer up after the shortest election time-out and writes on; a successor whose
/// disk was slow then unseated the leader with a log that could not win, and nobody led.
#[test]
fn a_successor_that_is_slow_to_begin_wins_at_once() {
    let (mut three, told) = told_to_lead();
    let term = three.member(1).standing().term;
    for _ in 0..2 * ELECTION_TICKS {
        three.tick(1);
        assert_eq!(
            three.propose(1, 9),
            Err(ProposeRefused::Busy),
            "the log must not outgrow the successor's"
        );
    }
    assert_eq!(three.member(1).standing().role, StateRole::Leader, "it has to be heard meanwhile");
    three.member(2).step(told);
    three.settle();
    let standing = three.member(2).standing();
    assert_eq!((standing.role, standing.term), (StateRole::Leader, term + 1));
    assert!(standing.leader_ready);
    assert_eq!(three.propose(2, 1), Ok(()));
}

/// Nor does it wait for ever for one that does not begin.
#[test]
fn a_leader_goes_on_when_its_successor_does_not_begin() {
    let (mut three, _lost) = told_to_lead();
    three.tick(2 * ELECTION_TICKS + 1);
    assert_eq!(three.propose(1, 9), Ok(()));
    let before = three.member(1).standing().commit;
    three.settle();
    assert_eq!(three.member(1).standing().commit, before + 1);
}

/// What a trace adds to an entry goes to every log, and is no part of what a machine or the hash
/// chain over the log can see.
#[test]
fn a_trace_travels_beside_what_is_replicated() {
    let command = [Command::Checkpoint.encode()];
    let entry_with = |context: &[u8]| {
        let mut three = Three::new();
        three.member(1).campaign();
        three.settle();
        three.member(1).propose_with(&command, context.to_vec(), 7, 9, 1).unwrap();
        three.settle();
        let last = |id: &u64| three.members[id].1.0.borrow().1.last().cloned().unwrap();
        let entries = [1, 2, 3].map(|id| last(&id));
        assert!(entries.iter().all(|entry| *entry == entries[0]), "{entries:?}");
        entries[0].clone()
    };
    let hashed = |entry: &Entry| {
        let mut machine = coordinator::machine::Machine::new();
        let batch = coordinator::command::Batch::decode(&entry.data).unwrap();
        for command in &batch.commands {
            machine.apply(1, 1, batch.stamp, command, &mut Vec::new());
        }
        machine.finish_entry(1, 1, &entry.data);
        (machine.checksum(), machine.log_chain())
    };
    let (plain, traced) = (entry_with(&[]), entry_with(b"a place in a trace"));
    assert!(plain.context.is_empty(), "what is not sampled has no byte");
    assert_eq!(traced.context.as_ref(), b"a place in a trace");
    assert_eq!(plain.data, traced.data);
    assert_eq!(hashed(&plain), hashed(&traced));
}
