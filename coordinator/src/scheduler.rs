//! The scheduler: which ready task goes to which worker.
//!
//! The highest priority goes first, everywhere and always; among equals, who was submitted first.
//! A task's requirements are never dropped: where no worker on offer fits, it waits, and those
//! behind it that do fit go on. Work is spread: the worker with the most free slots is next.
//!
//! The scheduler looks at the heads of the queue's classes, not at all tasks, and asks about a
//! class that no worker on offer can take once a round, however many tasks it has.
//!
//! The plan is a wish. The machine checks every pair again when it applies the `Assign`.

use crate::machine::{Demand, Machine, ReadyClass, Worker};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// A worker that asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The worker.
    pub worker_id: String,
    /// How many tasks it asks for.
    pub slots: u32,
}

/// A worker on offer, with what this plan has already promised it.
struct Seat<'a> {
    worker: &'a Worker,
    slots: u32,
    promised: BTreeMap<&'a str, u64>,
}

impl<'a> Seat<'a> {
    fn can_take(&self, demand: &Demand) -> bool {
        demand.resources.iter().all(|(name, amount)| {
            let promised = self.promised.get(name.as_str()).copied().unwrap_or(0);
            self.worker.free_resource(name).saturating_sub(promised) >= *amount
        })
    }

    fn promise(&mut self, demand: &'a Demand) {
        self.slots -= 1;
        for (name, amount) in &demand.resources {
            let promised = self.promised.entry(name).or_default();
            *promised = promised.saturating_add(*amount);
        }
    }
}

/// The (task id, worker id) pairs to assign now, at most `limit`, most urgent first.
///
/// `now_log_ms` decides which retries are due. Offers of workers that are unknown, draining, lost
/// or full are passed over, and none is given more than its free slots.
pub fn plan(machine: &Machine, now_log_ms: u64, offers: &[Offer], limit: usize) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    if machine.maintenance().enabled {
        return pairs;
    }
    let mut seats = seats(machine, offers);
    // Most free slots first, then by id; a full seat leaves.
    let mut order: BTreeSet<(Reverse<u32>, usize)> =
        seats.iter().enumerate().map(|(at, seat)| (Reverse(seat.slots), at)).collect();
    let pending = machine.pending();
    let mut classes: Vec<Class> = pending.classes(now_log_ms).into_iter().map(Class::new).collect();
    let mut heads: BinaryHeap<(u8, Reverse<u64>, usize)> = BinaryHeap::new();
    for (at, class) in classes.iter_mut().enumerate() {
        heads.extend(class.tasks.next().map(|(priority, seq)| (priority, Reverse(seq), at)));
    }
    while pairs.len() < limit
        && !order.is_empty()
        && let Some((_, Reverse(seq), at)) = heads.pop()
    {
        let class = &mut classes[at];
        let demand = class.tasks.demand();
        // No seat for the head means none for those behind it, which ask for the same.
        let Some(place) = order.iter().copied().find(|(_, seat)| class.fits(*seat, &seats[*seat])) else {
            continue;
        };
        let seat = &mut seats[place.1];
        if let Some(task_id) = pending.task_id(seq) {
            pairs.push((task_id.to_owned(), seat.worker.id().to_owned()));
            order.remove(&place);
            seat.promise(demand);
            if seat.slots > 0 {
                order.insert((Reverse(seat.slots), place.1));
            }
        }
        heads.extend(class.tasks.next().map(|(priority, seq)| (priority, Reverse(seq), at)));
    }
    pairs
}

/// The workers on offer that may be given something, by id; a worker named twice counts once.
fn seats<'a>(machine: &'a Machine, offers: &[Offer]) -> Vec<Seat<'a>> {
    let mut slots: BTreeMap<&str, u32> = BTreeMap::new();
    for offer in offers {
        let asked = slots.entry(&offer.worker_id).or_default();
        *asked = (*asked).max(offer.slots);
    }
    let seat = |(id, asked): (&str, u32)| {
        let worker = machine.worker(id)?;
        let slots = asked.min(worker.free_slots());
        (slots > 0).then(|| Seat { worker, slots, promised: BTreeMap::new() })
    };
    slots.into_iter().filter_map(seat).collect()
}

/// A class of the queue, with what is known of the seats' type and labels.
struct Class<'a> {
    tasks: ReadyClass<'a>,
    could_run: BTreeMap<usize, bool>,
}

impl<'a> Class<'a> {
    fn new(tasks: ReadyClass<'a>) -> Self {
        Class { tasks, could_run: BTreeMap::new() }
    }

    fn fits(&mut self, at: usize, seat: &Seat) -> bool {
        let demand = self.tasks.demand();
        *self.could_run.entry(at).or_insert_with(|| seat.worker.could_run(demand)) && seat.can_take(demand)
    }
}
