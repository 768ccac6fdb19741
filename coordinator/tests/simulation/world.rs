//! The world: nodes, network, clients, time in steps of ten milliseconds.
//!
//! One thread, one generator: everything that happens follows from the seed.

use crate::checks::Truth;
use crate::clients::Clients;
use crate::faults::{Faults, Plan};
use crate::members::founders;
use crate::mutations::Mutation;
use crate::network::{Network, Payload, Unruly};
use crate::node::{Input, SimNode};
use crate::random::Random;

/// Milliseconds of a step.
pub const STEP_MS: u64 = 10;
/// Steps with faults.
const STORMY_STEPS: u64 = 1_200;
/// Steps after healing within which writes must go through.
const PROGRESS_STEPS: u64 = 600;
/// Steps after healing within which all nodes must stand together; a peer that was sent a
/// snapshot and lost it is sent another after 1,500.
const SETTLE_STEPS: u64 = 4_000;

pub struct World {
    pub mutation: Mutation,
    /// Who founded the cluster.
    pub founders: Vec<u64>,
    pub random: Random,
    pub plan: Plan,
    pub now: u64,
    pub nodes: Vec<SimNode>,
    pub network: Network,
    pub truth: Truth,
    pub clients: Clients,
    pub faults: Faults,
    /// No more faults.
    pub healed: bool,
    /// No more writes.
    pub quiet: bool,
    pub trace: Trace,
}

/// What happened, as a hash that two runs of a seed must share; told on standard output where
/// somebody replays a seed.
#[derive(Default)]
pub struct Trace {
    pub hash: u64,
    told: bool,
}

impl Trace {
    pub fn mark(&mut self, mark: u64) {
        self.hash = (self.hash ^ mark).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7);
    }

    pub fn tell(&self, now: u64, line: impl FnOnce() -> String) {
        if self.told {
            println!("{now:>6} {}", line());
        }
    }
}

impl World {
    pub fn new(seed: u64, mutation: Mutation, told: bool) -> World {
        let mut random = Random::new(seed);
        let size = if seed.is_multiple_of(3) { 5 } else { 3 };
        let plan = Plan::draw(&mut random);
        let mut world = World {
            mutation,
            founders: (1..=size).collect(),
            plan,
            now: 0,
            nodes: (1..=size).map(SimNode::new).collect(),
            network: Network::default(),
            truth: Truth::default(),
            clients: Clients::default(),
            faults: Faults::default(),
            healed: false,
            quiet: false,
            trace: Trace { hash: 0, told },
            random,
        };
        world.trace.tell(0, || format!("{size} nodes, {plan:?}"));
        world.truth.see_members(&founders(&world.founders));
        (0..world.nodes.len()).for_each(|at| world.start(at));
        world
    }

    fn step(&mut self) {
        self.now += 1;
        self.misfortune();
        self.retire_removed();
        self.deliver();
        self.steward();
        for at in 0..self.nodes.len() {
            self.step_node(at);
        }
        if !self.quiet {
            self.ask();
        }
    }

    fn deliver(&mut self) {
        for packet in self.network.arrived(self.now, &mut self.faults) {
            let Some(node) = self.nodes.iter_mut().find(|n| n.id == packet.to) else { continue };
            if node.boots != packet.to_boot {
                continue;
            }
            let Some(running) = &mut node.running else { continue };
            match packet.payload {
                Payload::Raft(message) => running.take_message(message, self.now),
                Payload::Pulse(pulse) => running.inbox.push_back(Input::Pulse(packet.from, pulse)),
            }
        }
    }

    pub fn unruly(&self) -> Unruly {
        match (self.healed, self.plan.unruly) {
            (true, _) => Unruly::default(),
            (false, true) => Unruly { lost: 40, doubled: 30, delayed: 100 },
            (false, false) => Unruly { lost: 2, doubled: 0, delayed: 20 },
        }
    }

    /// Faults, then none; then everybody must come to stand together with all that was
    /// acknowledged.
    pub fn run(&mut self) {
        while self.now < STORMY_STEPS {
            self.step();
        }
        self.heal();
        let (from, acknowledged) = (self.now, self.truth.acknowledged.len());
        while self.truth.acknowledged.len() < acknowledged + 3 {
            assert!(
                self.now < from + PROGRESS_STEPS,
                "no writes went through within {PROGRESS_STEPS} steps after healing: {}",
                self.standings()
            );
            self.step();
        }
        self.quiet = true;
        while let Some(why) = self.apart() {
            assert!(
                self.now < from + SETTLE_STEPS,
                "not together {SETTLE_STEPS} steps after healing: {why}: {}",
                self.standings()
            );
            self.step();
        }
        self.judge_the_end();
    }

    fn heal(&mut self) {
        self.healed = true;
        self.trace.tell(self.now, || "healed".into());
        self.network.cut.clear();
        self.network.slow.clear();
        for node in &mut self.nodes {
            node.armed = None;
            node.paused_until = 0;
            node.slow_until = 0;
            node.full_until = 0;
            node.clock.rate_per_mille = 1000;
        }
    }

    /// What still keeps the nodes from standing together.
    fn apart(&self) -> Option<String> {
        if !self.members_settled() {
            return Some(format!("the members are {:?}", self.truth.members));
        }
        let mut first = None;
        for node in &self.nodes {
            let Some(running) = &node.running else { return Some(format!("node {} is down", node.id)) };
            let standing = running.replica.standing();
            if standing.suspect {
                return Some(format!("node {} is suspect", node.id));
            }
            let at = (standing.last, standing.commit, running.machine.applied_index(), standing.term);
            if at.0 != at.1 || at.1 != at.2 || *first.get_or_insert(at) != at {
                return Some(format!("node {} is at {at:?}, another at {first:?}", node.id));
            }
            if !running.is_idle() {
                return Some(format!("node {} is not idle", node.id));
            }
        }
        None
    }

    /// How every node stands, for a failing check.
    pub fn standings(&self) -> String {
        let of = |node: &SimNode| match &node.running {
            Some(running) => format!(
                "node {}: {:?}, applied {}, progress {:?}",
                node.id,
                running.replica.standing(),
                running.machine.applied_index(),
                running.replica.progress()
            ),
            None => format!("node {}: down until {}", node.id, node.down_until),
        };
        self.nodes.iter().map(of).collect::<Vec<_>>().join("; ")
    }
}
