//! PURE. The leases in this worker's hands.
//!
//! A token is *held* from the moment it was received until the coordinator has accepted (or
//! refused) its result. While it is held it is named in every lease call and heartbeat, so the
//! lease is renewed and the task is not delivered again. One whose work is done is named apart, as
//! *reporting*, and takes no slot. A token that was taken back is no longer named, but keeps its
//! slot until its processes are gone.

use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// The leases, by fencing token.
#[derive(Debug)]
pub struct Held {
    slots: usize,
    leases: BTreeMap<u64, Lease>,
}

#[derive(Debug)]
struct Lease {
    task_id: String,
    /// Its work is done and its result on its way.
    reporting: bool,
    taken_back: CancellationToken,
}

/// What to do with a delivered lease.
#[derive(Debug)]
pub enum Admission {
    /// Run it; the token fires when the lease is taken back.
    Run(CancellationToken),
    /// It is held already.
    Known,
    /// More leases than slots: it can't be run.
    Full,
}

impl Held {
    /// No leases, for a worker with `slots`.
    pub fn new(slots: usize) -> Self {
        Held { slots, leases: BTreeMap::new() }
    }

    /// Takes a delivered lease. An older lease of the same task is over and is ended.
    ///
    /// Work that was taken back may still occupy a slot for the seconds its processes take to end,
    /// so up to twice the slots are held.
    pub fn admit(&mut self, token: u64, task_id: &str) -> Admission {
        if self.leases.contains_key(&token) {
            return Admission::Known;
        }
        for older in self.leases.values().filter(|lease| lease.task_id == task_id) {
            older.taken_back.cancel();
        }
        if self.tokens().len() >= self.slots || self.working() >= 2 * self.slots {
            return Admission::Full;
        }
        let taken_back = CancellationToken::new();
        let lease = Lease { task_id: task_id.to_owned(), reporting: false, taken_back: taken_back.clone() };
        self.leases.insert(token, lease);
        Admission::Run(taken_back)
    }

    /// The tokens of the work that goes on.
    pub fn tokens(&self) -> Vec<u64> {
        self.named(false)
    }

    /// The tokens of work that is done and whose result is on its way.
    pub fn reporting(&self) -> Vec<u64> {
        self.named(true)
    }

    fn named(&self, reporting: bool) -> Vec<u64> {
        let named = |lease: &Lease| lease.reporting == reporting && !lease.taken_back.is_cancelled();
        self.leases.iter().filter(|(_, lease)| named(lease)).map(|(token, _)| *token).collect()
    }

    /// Leases whose processes may run, those that were taken back included.
    fn working(&self) -> usize {
        self.leases.values().filter(|lease| !lease.reporting).count()
    }

    /// How many more tasks can be taken now.
    pub fn free_slots(&self) -> usize {
        self.slots.saturating_sub(self.working())
    }

    /// The lease's work is done; its result is on its way.
    pub fn reports(&mut self, token: u64) {
        if let Some(lease) = self.leases.get_mut(&token) {
            lease.reporting = true;
        }
    }

    /// The coordinator does not know the lease any more: its work is to be ended. The task's id, if
    /// there is work to end.
    ///
    /// A lease whose result is on its way is named here in health as well: the result was accepted
    /// and its answer has not come yet. Either way there is nothing more to deliver.
    pub fn take_back(&mut self, token: u64) -> Option<&str> {
        let lease = self.leases.get(&token).filter(|lease| !lease.taken_back.is_cancelled())?;
        lease.taken_back.cancel();
        (!lease.reporting).then_some(&*lease.task_id)
    }

    /// The lease is over.
    pub fn release(&mut self, token: u64) {
        self.leases.remove(&token);
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// The tasks that are held, for people.
    pub fn task_ids(&self) -> Vec<String> {
        self.leases.values().map(|lease| lease.task_id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redelivered_token_is_known_until_it_is_released() {
        let mut held = Held::new(2);
        assert!(matches!(held.admit(7, "a"), Admission::Run(_)));
        assert!(matches!(held.admit(7, "a"), Admission::Known));
        assert_eq!((held.tokens(), held.free_slots()), (vec![7], 1));
        held.release(7);
        assert_eq!((held.tokens(), held.free_slots()), (vec![], 2));
        assert!(matches!(held.admit(7, "a"), Admission::Run(_)));
    }

    #[test]
    fn what_was_taken_back_keeps_its_slot_but_is_not_named() {
        let mut held = Held::new(1);
        let Admission::Run(taken_back) = held.admit(1, "a") else { panic!() };
        assert_eq!(held.take_back(1), Some("a"));
        assert!(taken_back.is_cancelled());
        assert_eq!(held.take_back(1), None, "said once");
        assert_eq!((held.tokens(), held.free_slots()), (vec![], 0));
        assert!(matches!(held.admit(2, "b"), Admission::Run(_)), "delivered before it was known");
        assert!(matches!(held.admit(3, "c"), Admission::Full));
    }

    #[test]
    fn a_lease_whose_result_is_on_its_way_has_no_work_to_end() {
        let mut held = Held::new(1);
        let Admission::Run(taken_back) = held.admit(1, "a") else { panic!() };
        held.reports(1);
        assert_eq!((held.tokens(), held.reporting()), (vec![], vec![1]), "still held, but no work");
        assert_eq!(held.free_slots(), 1);
        assert_eq!(held.take_back(1), None);
        assert!(taken_back.is_cancelled(), "the delivery ends");
    }

    #[test]
    fn a_newer_lease_of_the_same_task_ends_the_older() {
        let mut held = Held::new(2);
        let Admission::Run(older) = held.admit(1, "a") else { panic!() };
        let Admission::Run(newer) = held.admit(2, "a") else { panic!() };
        assert!(older.is_cancelled());
        assert!(!newer.is_cancelled());
    }
}
