//! Changes of the membership on the very replicas the node runs: no threads, no clock, a network
//! that delivers at once to whoever is up.

use coordinator::machine::Machine;
use coordinator::machine::members::{MemberChange, MemberRecord, MemberStep, Membership};
use coordinator::replica::*;
use raft::StateRole;
use raft::eraftpb::{ConfState, Entry, HardState, Message, Snapshot};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[derive(Default)]
struct Disk {
    hard_state: HardState,
    entries: Vec<Entry>,
    truncated: Truncated,
    snapshot: Option<Snapshot>,
}

#[derive(Clone, Default)]
struct SharedDisk(Rc<RefCell<Disk>>);

impl OlderEntries for SharedDisk {
    fn fetch(&self, low: u64, high: u64, _max: u64) -> Result<Vec<Entry>, String> {
        Ok(self.0.borrow().entries.iter().filter(|e| (low..high).contains(&e.index)).cloned().collect())
    }
}

struct Node {
    replica: Replica<SharedDisk>,
    machine: Machine,
    disk: SharedDisk,
    /// Applied entries are told to the replica only while this is true.
    applies: bool,
    held: Vec<Committed>,
    snapshots_taken: u32,
}

struct World {
    founders: Vec<u64>,
    nodes: BTreeMap<u64, Node>,
    disks: BTreeMap<u64, SharedDisk>,
    cut: BTreeSet<u64>,
    done: BTreeSet<Tag>,
    refused: BTreeSet<Tag>,
    unknown: BTreeSet<Tag>,
    lost: BTreeSet<Tag>,
    tags: Tag,
}

fn record(id: u64) -> MemberRecord {
    MemberRecord {
        node_id: format!("n{id}"),
        incarnation: "1".into(),
        address: format!("n{id}:1"),
        replaces: None,
        wants_vote: true,
    }
}

impl World {
    fn new(size: u64) -> World {
        let mut world = World {
            founders: (1..=size).collect(),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            cut: BTreeSet::new(),
            done: BTreeSet::new(),
            refused: BTreeSet::new(),
            unknown: BTreeSet::new(),
            lost: BTreeSet::new(),
            tags: 0,
        };
        (1..=size).for_each(|id| world.boot(id));
        world.run(200);
        world
    }

    fn boot(&mut self, id: u64) {
        let disk = self.disks.entry(id).or_default().clone();
        let founders = Membership::founded(self.founders.iter().map(|id| (*id, record(*id))).collect());
        let recovered = {
            let disk = disk.0.borrow();
            let last =
                disk.entries.last().map_or(disk.truncated, |e| Truncated { index: e.index, term: e.term });
            let sets = disk.snapshot.as_ref().map(|s| s.get_metadata().get_conf_state().clone());
            Recovered {
                hard_state: disk.hard_state.clone(),
                conf_state: sets.unwrap_or_else(|| founders.conf_state()),
                truncated: disk.truncated,
                last,
                snapshot: disk.snapshot.clone(),
            }
        };
        let mut machine = Machine::new();
        machine.found(founders, 2);
        if let Some(snapshot) = &recovered.snapshot {
            machine = Machine::decode_snapshot(snapshot.get_data()).unwrap();
        }
        let config = ReplicaConfig {
            raft_id: id,
            boot_nonce: 1,
            heartbeat_ticks: 2,
            election_ticks_min: 10,
            election_ticks_max: 20,
            applied: machine.applied_index(),
            applied_log_ms: machine.log_ms(),
            cache_limit_bytes: 1 << 20,
            max_uncommitted_bytes: 1 << 20,
            suspect: false,
            seed: id,
        };
        let replica = Replica::new(config, recovered, disk.clone()).unwrap();
        let node = Node { replica, machine, disk, applies: true, held: Vec::new(), snapshots_taken: 0 };
        self.nodes.insert(id, node);
    }

    fn kill(&mut self, id: u64) {
        self.nodes.remove(&id);
    }

    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            ids.iter().for_each(|id| self.nodes.get_mut(id).unwrap().replica.tick());
            for _ in 0..4 {
                let sent: Vec<Message> = ids.iter().flat_map(|id| self.turn(*id)).collect();
                for message in sent {
                    if self.cut.contains(&message.from) || self.cut.contains(&message.to) {
                        continue;
                    }
                    if let Some(node) = self.nodes.get_mut(&message.to) {
                        node.replica.step(message);
                    }
                }
            }
        }
    }

    fn turn(&mut self, id: u64) -> Vec<Message> {
        let node = self.nodes.get_mut(&id).unwrap();
        let turn = node.replica.turn();
        let mut sent = turn.send;
        for write in turn.writes {
            let mut disk = node.disk.0.borrow_mut();
            if let Some(snapshot) = &write.install {
                let at = snapshot.get_metadata();
                disk.entries.clear();
                disk.truncated = Truncated { index: at.index, term: at.term };
                disk.snapshot = Some(snapshot.clone());
                node.machine = Machine::decode_snapshot(snapshot.get_data()).unwrap();
            }
            if let Some(first) = write.entries.first() {
                disk.entries.retain(|e| e.index < first.index);
                disk.entries.extend(write.entries.iter().cloned());
            }
            if let Some(state) = write.hard_state {
                disk.hard_state = state;
            }
            drop(disk);
            node.replica.on_durable(write.number);
            if write.install.is_some() {
                node.replica.on_applied(node.machine.applied_index());
            }
            sent.extend(write.then_send);
        }
        self.refused.extend(turn.refused);
        self.unknown.extend(turn.unknown);
        self.lost.extend(turn.lost);
        node.held.extend(turn.apply);
        if node.applies {
            for Committed { entry, tag, conf } in std::mem::take(&mut node.held) {
                if let Some(conf) = conf {
                    assert_eq!(conf.refused, None);
                    let change = MemberChange::decode(&entry.data).unwrap();
                    node.machine.change_members(entry.index, &change, &conf.state, &mut Vec::new());
                }
                node.machine.finish_entry(entry.index, entry.term, &entry.data);
                self.done.extend(tag);
                node.replica.on_applied(entry.index);
            }
        }
        if turn.wants_snapshot && node.applies {
            self.snapshot(id);
        }
        sent
    }

    /// As the applier does: the machine's bytes with the sets of its own index.
    fn snapshot(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut snapshot = Snapshot { data: node.machine.encode_snapshot().into(), ..Snapshot::default() };
        let at = snapshot.mut_metadata();
        (at.index, at.term) = (node.machine.applied_index(), node.machine.applied_term());
        at.set_conf_state(node.machine.members().conf_state());
        let index = node.machine.applied_index();
        if let Some(write) = node.replica.on_snapshot(snapshot, index) {
            let (snapshot, truncated) = write.compact.unwrap();
            let mut disk = node.disk.0.borrow_mut();
            disk.entries.retain(|e| e.index > truncated.index);
            disk.truncated = truncated;
            disk.snapshot = Some(snapshot);
            node.snapshots_taken += 1;
        }
    }

    fn leader(&self) -> u64 {
        let leads = |(_, node): &(&u64, &Node)| {
            let standing = node.replica.standing();
            (standing.role == StateRole::Leader).then_some(standing.term)
        };
        let newest = self.nodes.iter().filter(|n| leads(n).is_some()).max_by_key(leads);
        *newest.expect("a leader").0
    }

    fn propose(&mut self, steps: Vec<MemberStep>) -> Result<Tag, ProposeRefused> {
        self.tags += 1;
        let named = steps.iter().map(|step| match step {
            MemberStep::Voter(id) | MemberStep::Learner(id) | MemberStep::Remove(id) => *id,
        });
        let records = named.map(|id| (id, record(id))).collect();
        let change = MemberChange { steps, records, wall_ms: 0 };
        let (leader, tag) = (self.leader(), self.tags);
        let node = self.nodes.get_mut(&leader).unwrap();
        let looked_at = node.machine.applied_index();
        node.replica.change_members(&change.to_raft(), looked_at, tag).map(|()| tag)
    }

    fn change(&mut self, steps: Vec<MemberStep>) {
        let tag = self.propose(steps).unwrap();
        self.run(60);
        assert!(self.done.contains(&tag), "the change was applied");
    }

    fn sets(&self, id: u64) -> ConfState {
        self.nodes[&id].replica.conf_state()
    }

    /// Every node that is up has these voters and learners, and all machines agree.
    fn agree(&self, voters: &[u64], learners: &[u64]) {
        let first = self.nodes.values().next().unwrap();
        for (id, node) in &self.nodes {
            let sets = self.sets(*id);
            assert_eq!((&sets.voters[..], &sets.learners[..]), (voters, learners), "node {id}");
            assert!(sets.voters_outgoing.is_empty(), "node {id} has left the joint configuration");
            assert_eq!(node.machine.members().conf_state(), sets, "node {id}: the machine has Raft's sets");
            assert_eq!(node.machine.applied_index(), first.machine.applied_index(), "node {id}");
            assert_eq!(node.machine.checksum(), first.machine.checksum(), "node {id}");
        }
    }
}

#[test]
fn a_learner_comes_gets_a_vote_and_goes() {
    let mut world = World::new(3);
    world.boot(4);
    assert_eq!(world.nodes[&4].replica.standing().place, Place::None);
    world.change(vec![MemberStep::Learner(4)]);
    world.agree(&[1, 2, 3], &[4]);
    assert_eq!(world.nodes[&4].replica.standing().place, Place::Learner);
    world.change(vec![MemberStep::Voter(4)]);
    world.agree(&[1, 2, 3, 4], &[]);
    let gone = world.founders.iter().copied().find(|id| *id != world.leader()).unwrap();
    world.change(vec![MemberStep::Remove(gone)]);
    world.kill(gone);
    let left: Vec<u64> = (1..=4).filter(|id| *id != gone).collect();
    world.agree(&left, &[]);
    let removed = world.nodes[&4].machine.members().removed.clone();
    assert_eq!(removed.iter().map(|r| r.raft_id).collect::<Vec<_>>(), [gone]);
}

#[test]
fn a_lost_disk_takes_its_old_place_in_one_change() {
    let mut world = World::new(3);
    let old = world.founders.iter().copied().find(|id| *id != world.leader()).unwrap();
    world.kill(old);
    world.boot(9);
    world.change(vec![MemberStep::Learner(9)]);
    world.change(vec![MemberStep::Voter(9), MemberStep::Remove(old)]);
    let mut voters: Vec<u64> = (1..=3).filter(|id| *id != old).chain([9]).collect();
    voters.sort_unstable();
    world.agree(&voters, &[]);
    // The new one counts: with one more down, two of three are enough.
    let other = voters.iter().copied().find(|id| *id != 9 && *id != world.leader()).unwrap();
    world.kill(other);
    world.change(vec![MemberStep::Learner(8)]);
}

#[test]
fn a_second_change_is_refused_while_one_is_under_way() {
    let mut world = World::new(3);
    let leader = world.leader();
    world.nodes.get_mut(&leader).unwrap().applies = false;
    world.propose(vec![MemberStep::Learner(4)]).unwrap();
    world.run(20);
    assert_eq!(world.propose(vec![MemberStep::Learner(5)]), Err(ProposeRefused::ChangePending));
    let replica = &mut world.nodes.get_mut(&leader).unwrap().replica;
    let other = world.founders.iter().copied().find(|id| *id != leader).unwrap();
    assert_eq!(replica.transfer_to(other), Err(ProposeRefused::ChangePending));
    world.nodes.get_mut(&leader).unwrap().applies = true;
    world.run(20);
    world.change(vec![MemberStep::Learner(5)]);
}

#[test]
fn what_makes_no_sense_is_refused_before_it_is_proposed() {
    let mut world = World::new(1);
    let told = world.propose(vec![MemberStep::Remove(1)]).unwrap_err();
    assert!(matches!(&told, ProposeRefused::Impossible(why) if why.contains("voters")), "{told:?}");
    let mut world = World::new(3);
    let follower = world.founders.iter().copied().find(|id| *id != world.leader()).unwrap();
    let change = MemberChange { steps: vec![MemberStep::Learner(4)], ..MemberChange::default() };
    let replica = &mut world.nodes.get_mut(&follower).unwrap().replica;
    assert_eq!(replica.change_members(&change.to_raft(), 0, 99), Err(ProposeRefused::NotLeader));
}

#[test]
fn leadership_goes_to_a_voter_only() {
    let mut world = World::new(3);
    world.boot(4);
    world.change(vec![MemberStep::Learner(4)]);
    let leader = world.leader();
    let replica = &mut world.nodes.get_mut(&leader).unwrap().replica;
    assert!(matches!(replica.transfer_to(4), Err(ProposeRefused::Impossible(_))), "a learner");
    assert!(matches!(replica.transfer_to(77), Err(ProposeRefused::Impossible(_))), "a stranger");
    let to = replica.best_transferee(|_| true).unwrap();
    assert_ne!(to, 4);
    replica.transfer_to(to).unwrap();
    world.run(10);
    assert_eq!(world.leader(), to);
}

#[test]
fn elections_are_counted_and_a_hand_over_is_none() {
    let mut world = World::new(3);
    let elections = |world: &World| world.nodes.values().map(|node| node.replica.elections()).sum::<u64>();
    assert!(elections(&world) >= 1, "somebody was elected when the cluster began");
    let (before, leader) = (elections(&world), world.leader());
    let to = world.nodes[&leader].replica.best_transferee(|_| true).unwrap();
    world.nodes.get_mut(&leader).unwrap().replica.transfer_to(to).unwrap();
    world.run(10);
    assert_eq!((world.leader(), elections(&world)), (to, before), "nobody had to ask for votes by itself");
    world.kill(to);
    let left = elections(&world);
    world.run(200);
    assert_ne!(world.leader(), to);
    assert!(elections(&world) > left, "the next one was elected");
}

/// The leader dies between the two halves of a change: the next one ends it.
#[test]
fn a_new_leader_ends_the_joint_configuration() {
    let mut world = World::new(5);
    let leader = world.leader();
    let old = world.founders.iter().copied().find(|id| *id != leader).unwrap();
    world.boot(9);
    world.change(vec![MemberStep::Learner(9)]);
    // It never applies, so it never proposes to leave.
    world.nodes.get_mut(&leader).unwrap().applies = false;
    world.propose(vec![MemberStep::Voter(9), MemberStep::Remove(old)]).unwrap();
    world.run(6);
    assert!(!world.sets(9).voters_outgoing.is_empty(), "the change has begun");
    world.kill(leader);
    world.run(200);
    let voters: Vec<u64> = (1..=5).filter(|id| *id != old).chain([9]).collect();
    for id in voters.iter().filter(|id| **id != leader) {
        assert_eq!(world.sets(*id).voters, voters, "node {id}");
        assert!(world.sets(*id).voters_outgoing.is_empty(), "node {id}");
    }
}

/// A change that the old leader could not commit, and that another's entry took the place of, is
/// told as lost, and may be made again.
#[test]
fn a_change_that_is_cut_off_is_told_lost() {
    let mut world = World::new(3);
    let leader = world.leader();
    world.cut.insert(leader);
    let tag = world.propose(vec![MemberStep::Learner(4)]).unwrap();
    world.run(100);
    world.cut.clear();
    world.run(100);
    assert!(world.lost.contains(&tag) && !world.done.contains(&tag) && !world.unknown.contains(&tag));
    world.agree(&[1, 2, 3], &[]);
    world.change(vec![MemberStep::Learner(4)]);
}

/// A member that comes after the newest snapshot is given one that names it; restarts begin with
/// the sets of the snapshot and take the changes behind it over again.
#[test]
fn a_snapshot_names_whoever_gets_it_and_restarts_know_the_members() {
    let mut world = World::new(3);
    world.change(vec![MemberStep::Learner(7)]);
    let leader = world.leader();
    for id in 1..=3 {
        world.snapshot(id);
        assert!(world.nodes[&id].disk.0.borrow().entries.is_empty());
    }
    world.change(vec![MemberStep::Learner(4)]);
    world.boot(4);
    world.run(100);
    assert!(world.nodes[&leader].snapshots_taken >= 2, "the first one does not name the new member");
    assert!(world.nodes[&4].disk.0.borrow().snapshot.is_some());
    world.agree(&[1, 2, 3], &[4, 7]);
    world.change(vec![MemberStep::Voter(4)]);
    for id in [1, 2, 3, 4] {
        world.kill(id);
        world.boot(id);
    }
    world.run(200);
    world.agree(&[1, 2, 3, 4], &[7]);
}

/// Raft counts its quorum every election time-out, and forgets then who was heard.
#[test]
fn a_leader_that_has_just_counted_its_quorum_can_hand_over() {
    let mut world = World::new(3);
    for round in 0..40 {
        let leader = world.leader();
        let replica = &mut world.nodes.get_mut(&leader).unwrap().replica;
        // Ticks that nobody has answered yet; not always as many, so that the count falls among them.
        for _ in 0..=round % 3 {
            replica.tick();
            assert!(replica.best_transferee(|_| true).is_some(), "round {round}");
        }
        world.run(1);
    }
}

#[test]
fn leadership_does_not_go_to_one_that_fell_silent() {
    let mut world = World::new(3);
    let leader = world.leader();
    let silent = world.founders.iter().copied().find(|id| *id != leader).unwrap();
    world.cut.insert(silent);
    world.run(15);
    let replica = &mut world.nodes.get_mut(&leader).unwrap().replica;
    let told = replica.transfer_to(silent).unwrap_err();
    assert!(matches!(&told, ProposeRefused::NoSuccessor(why) if why.contains("not heard")), "{told:?}");
    assert!(replica.best_transferee(|_| true).is_some_and(|to| to != silent));
}
