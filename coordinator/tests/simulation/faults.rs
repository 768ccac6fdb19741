//! What goes wrong, when, and how often it did.
//!
//! Each seed enables some of the kinds only: a run where everything fails all the time never gets
//! deep into any one of them.

use crate::disk::End;
use crate::world::World;
use std::collections::BTreeMap;

/// How often each kind of fault was injected.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub struct Faults(pub BTreeMap<&'static str, u64>);

impl Faults {
    pub fn count(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub fn add(&mut self, other: &Faults) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }
}

/// Where a process may end: before and after each step that lasts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Boundary {
    Started,
    BeforeWrite,
    WrittenUnsynced,
    SyncedUntold,
    MessagesLeft,
    BeforeApply,
    Answered,
    SnapshotHalf,
    SnapshotFile,
    NamedUnsynced,
    Named,
    Fetched,
    InstallUnsynced,
    InstallSynced,
    Swapped,
}

impl Boundary {
    pub const ALL: [Boundary; 15] = [
        Boundary::Started,
        Boundary::BeforeWrite,
        Boundary::WrittenUnsynced,
        Boundary::SyncedUntold,
        Boundary::MessagesLeft,
        Boundary::BeforeApply,
        Boundary::Answered,
        Boundary::SnapshotHalf,
        Boundary::SnapshotFile,
        Boundary::NamedUnsynced,
        Boundary::Named,
        Boundary::Fetched,
        Boundary::InstallUnsynced,
        Boundary::InstallSynced,
        Boundary::Swapped,
    ];

    /// The kind under which a crash there is counted.
    pub fn kind(self) -> &'static str {
        match self {
            Boundary::Started => "crash: just started",
            Boundary::BeforeWrite => "crash: before a write",
            Boundary::WrittenUnsynced => "crash: written, not synced",
            Boundary::SyncedUntold => "crash: synced, messages not sent",
            Boundary::MessagesLeft => "crash: messages just left",
            Boundary::BeforeApply => "crash: before applying",
            Boundary::Answered => "crash: just answered",
            Boundary::SnapshotHalf => "crash: snapshot half written",
            Boundary::SnapshotFile => "crash: snapshot file without a name",
            Boundary::NamedUnsynced => "crash: snapshot's name not synced",
            Boundary::Named => "crash: snapshot just named",
            Boundary::Fetched => "crash: peer's snapshot fetched",
            Boundary::InstallUnsynced => "crash: install not synced",
            Boundary::InstallSynced => "crash: log replaced, machine not",
            Boundary::Swapped => "crash: machine just replaced",
        }
    }
}

/// Which kinds a seed enables.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub crashes: bool,
    pub power: bool,
    pub damage: bool,
    pub partitions: bool,
    pub unruly: bool,
    pub slow_links: bool,
    pub pauses: bool,
    pub slow_disks: bool,
    pub full_disks: bool,
    pub clocks: bool,
    pub transfers: bool,
    pub members: bool,
}

impl Plan {
    /// Half of the kinds, drawn from the seed.
    pub fn draw(random: &mut crate::random::Random) -> Plan {
        let mut on = |per_mille| random.chance(per_mille);
        Plan {
            crashes: on(800),
            power: on(600),
            damage: on(400),
            partitions: on(600),
            unruly: on(600),
            slow_links: on(400),
            pauses: on(400),
            slow_disks: on(400),
            full_disks: on(300),
            clocks: on(500),
            transfers: on(400),
            members: on(400),
        }
    }
}

impl World {
    /// One step of misfortune.
    pub fn misfortune(&mut self) {
        if self.healed {
            return;
        }
        let plan = self.plan;
        let at = self.random.below(self.nodes.len() as u64) as usize;
        if plan.crashes && self.random.chance(12) {
            let which = self.random.below(Boundary::ALL.len() as u64) as usize;
            self.nodes[at].armed = Some(Boundary::ALL[which]);
        }
        if plan.crashes && self.random.chance(3) {
            self.faults.count("crash: anywhere");
            let end = self.draw_end(at);
            self.crash(at, end);
        }
        if plan.power && self.random.chance(1) {
            self.faults.count("power loss everywhere");
            for at in 0..self.nodes.len() {
                let kept = self.random.below(self.nodes[at].disk.unsynced() as u64 + 1) as usize;
                let torn = self.random.chance(700);
                self.crash(at, End::Power { kept, torn });
            }
        }
        if plan.members && self.random.chance(4) {
            self.lose_disk(at);
        }
        self.disturb_network();
        self.disturb_node(at);
    }

    /// How a process that ends now ends.
    pub fn draw_end(&mut self, at: usize) -> End {
        if !self.plan.power || self.random.chance(500) {
            return End::Kill;
        }
        let kept = self.random.below(self.nodes[at].disk.unsynced() as u64 + 1) as usize;
        End::Power { kept, torn: self.random.chance(500) }
    }

    fn disturb_network(&mut self) {
        let ids: Vec<u64> = self.nodes.iter().map(|n| n.id).collect();
        if self.plan.partitions && self.random.chance(10) {
            self.network.cut.clear();
            if self.random.chance(700) {
                self.partition(&ids);
            }
        }
        if self.plan.slow_links && self.random.chance(8) {
            self.network.slow.clear();
            if self.random.chance(600) {
                let from = ids[self.random.below(ids.len() as u64) as usize];
                let steps = 5 + self.random.below(60);
                ids.iter().filter(|to| **to != from).for_each(|to| {
                    self.network.slow.insert((from, *to), steps);
                });
                self.faults.count("links slowed");
            }
        }
    }

    fn partition(&mut self, ids: &[u64]) {
        let alone = ids[self.random.below(ids.len() as u64) as usize];
        let others = ids.iter().copied().filter(|o| *o != alone);
        match self.random.below(5) {
            0 => {
                others.for_each(|o| self.network.cut.extend([(alone, o), (o, alone)]));
                self.faults.count("partition: one cut off");
            }
            1 => {
                self.network.cut.extend(others.map(|o| (alone, o)));
                self.faults.count("partition: one not heard");
            }
            2 => {
                self.network.cut.extend(others.map(|o| (o, alone)));
                self.faults.count("partition: one does not hear");
            }
            3 => {
                // Everybody hears the bridge, and nobody else across it.
                let half = ids.len() / 2;
                for (i, a) in ids.iter().enumerate().filter(|(_, a)| **a != alone) {
                    for (j, b) in ids.iter().enumerate().filter(|(_, b)| **b != alone) {
                        if (i < half) != (j < half) {
                            self.network.cut.insert((*a, *b));
                        }
                    }
                }
                self.faults.count("partition: a bridge between two sides");
            }
            _ => {
                for a in ids {
                    for b in ids.iter().filter(|b| *b != a) {
                        if self.random.chance(300) {
                            self.network.cut.insert((*a, *b));
                        }
                    }
                }
                self.faults.count("partition: links at random");
            }
        }
    }

    fn disturb_node(&mut self, at: usize) {
        let now = self.now;
        if self.plan.pauses && self.random.chance(5) {
            self.nodes[at].paused_until = now + 5 + self.random.below(80);
            self.faults.count("process paused");
        }
        if self.plan.slow_disks && self.random.chance(6) {
            self.nodes[at].slow_until = now + 10 + self.random.below(100);
            self.faults.count("disk stalled");
        }
        if self.plan.full_disks && self.random.chance(3) {
            self.nodes[at].full_until = now + 20 + self.random.below(150);
            self.faults.count("disk full");
        }
        if self.plan.clocks && self.random.chance(6) {
            self.nodes[at].clock.rate_per_mille = 600 + self.random.below(1000);
            self.faults.count("clock rate changed");
        }
        if self.plan.clocks && self.random.chance(6) {
            let hour_ms = 3_600_000;
            self.nodes[at].clock.wall_offset_ms += if self.random.chance(500) { hour_ms } else { -hour_ms };
            self.faults.count("clock stepped by an hour");
        }
        if self.plan.transfers && self.random.chance(5) {
            self.transfer(at);
        }
    }

    fn transfer(&mut self, at: usize) {
        let Some(running) = &mut self.nodes[at].running else { return };
        if let Some(to) = running.replica.best_transferee(|_| true)
            && running.replica.transfer_to(to).is_ok()
        {
            self.faults.count("leadership handed over");
        }
    }
}
