//! PURE. What the leader knows beyond the log: whom it heard when, who waits for work, and which
//! lease was put into whose hands.
//!
//! Nothing here is replicated. A new leader opens an empty ledger and gives every lease and every
//! worker a full ttl and two election time-outs, because it can't know what its predecessor heard.
//!
//! Three questions are answered, all from the arguments and this state:
//!
//! - *Who is offered?* [`Ledger::offers`]: the workers whose calls wait.
//! - *What goes into which answer?* [`Ledger::settle`]: a lease goes to one call. It goes out again
//!   when its worker began a call after that answer and still does not name the token: then the
//!   answer was lost, or the worker was restarted. A call that began before the answer left can't
//!   name it and proves nothing.
//! - *What has run out?* [`Ledger::overdue`]: leases that nobody named for a ttl, attempts beyond
//!   their time limit, workers that fell silent.
//!
//! Order is told by a counter of events (`moment`), not by the clock: two things in one
//! millisecond have an order too.
//!
//! Invariant: a token leaves in at most one answer per call of its worker, and nothing runs out
//! before `opened_ms + takeover_ms`.

use crate::command::ExpireReason;
use crate::machine::{LeaseView, Limits};
use crate::scheduler::Offer;
use std::collections::{BTreeMap, BTreeSet};

/// Calls that may wait at once.
pub const MAX_WAITING_CALLS: usize = 20_000;
/// Leases that one round may end.
pub const MAX_EXPIRE: usize = 1000;
/// How long the token of an accepted result is remembered: a call that was sent before its worker
/// knew may still name it.
const REPORTED_MS: u64 = 5_000;
/// Workers that one round may give up.
pub const MAX_LOST: usize = 256;

/// A waiting lease call.
pub type CallId = u64;

/// The times that decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A lease lasts this long without its worker naming it.
    pub lease_ttl_ms: u64,
    /// A worker is lost after this silence.
    pub lost_after_ms: u64,
    /// What an attempt gets beyond its limit, for the report to arrive.
    pub timeout_grace_ms: u64,
    /// A new leader ends nothing for this long.
    pub takeover_ms: u64,
    /// A worker with several calls at once gets a lease again after this time at the earliest.
    pub redeliver_after_ms: u64,
}

impl Timing {
    /// The replicated times, with the takeover that fits the node's election time-out.
    pub fn new(limits: &Limits, election_timeout_max_ms: u64) -> Self {
        Timing {
            lease_ttl_ms: limits.lease_ttl_ms,
            lost_after_ms: limits.worker_lost_ms,
            timeout_grace_ms: limits.timeout_grace_ms,
            takeover_ms: limits.lease_ttl_ms + 2 * election_timeout_max_ms,
            redeliver_after_ms: 1_000,
        }
    }
}

/// A lease that was put into an answer.
#[derive(Debug, Clone, Copy)]
struct Handed {
    moment: u64,
    at_ms: u64,
    call: CallId,
    /// The worker had no other call open, so its next call must know of this lease.
    alone: bool,
}

/// What is known of one lease.
#[derive(Debug, Clone, Copy)]
struct Track {
    /// The last sign that it is in good hands, or when it was first seen.
    renewed_ms: u64,
    /// When its worker named it last, as a moment; 0 before.
    named: u64,
    handed: Option<Handed>,
}

#[derive(Debug)]
struct Call {
    worker_id: String,
    /// How many more tasks it can take; grows as results of what it holds are accepted.
    slots: u32,
    /// What its worker works on.
    holds: BTreeSet<u64>,
    /// What its worker has done and reports, or has reported.
    reporting: BTreeSet<u64>,
    since: u64,
    /// What its answer will carry; it waits while this is empty.
    given: Vec<u64>,
}

impl Call {
    fn waits(&self) -> bool {
        self.given.is_empty()
    }
}

/// What has run out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Leases to end: task, token, why. Those of workers to give up are not among them.
    pub leases: Vec<(String, u64, ExpireReason)>,
    /// Workers to give up; their leases end with them.
    pub workers: Vec<String>,
}

/// The leader's memory for one term.
#[derive(Debug)]
pub struct Ledger {
    timing: Timing,
    term: u64,
    opened_ms: u64,
    moment: u64,
    heard_ms: BTreeMap<String, u64>,
    tracks: BTreeMap<u64, Track>,
    calls: BTreeMap<CallId, Call>,
    calls_of: BTreeMap<String, BTreeSet<CallId>>,
    last_call: CallId,
    undelivered: BTreeSet<u64>,
    /// Tokens whose results were accepted lately, with when.
    reported: BTreeMap<u64, u64>,
}

impl Ledger {
    /// An empty ledger for a term that begins now.
    pub fn open(term: u64, now_ms: u64, timing: Timing) -> Self {
        Ledger {
            timing,
            term,
            opened_ms: now_ms,
            moment: 0,
            heard_ms: BTreeMap::new(),
            tracks: BTreeMap::new(),
            calls: BTreeMap::new(),
            calls_of: BTreeMap::new(),
            last_call: 0,
            undelivered: BTreeSet::new(),
            reported: BTreeMap::new(),
        }
    }

    /// The term it was opened for.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The worker gave a sign of life and named the leases it holds.
    pub fn heard(&mut self, worker_id: &str, tokens: &[u64], now_ms: u64) {
        self.heard_ms.insert(worker_id.to_owned(), now_ms);
        let moment = self.next_moment();
        for token in tokens {
            // Tokens that are no leases have no track, so none is made for them here.
            if let Some(track) = self.tracks.get_mut(token) {
                track.renewed_ms = now_ms;
                track.named = moment;
            }
        }
    }

    /// These leases exist; those seen for the first time begin to count now.
    pub fn see(&mut self, leases: &[LeaseView], now_ms: u64) {
        for lease in leases {
            self.track(lease.token, now_ms);
        }
    }

    /// Milliseconds since the worker was heard; none where it was not heard in this term.
    pub fn last_seen_ms(&self, worker_id: &str, now_ms: u64) -> Option<u64> {
        self.heard_ms.get(worker_id).map(|at| now_ms.saturating_sub(*at))
    }

    /// The times that decide from now on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// True where a result that came with this token was accepted lately.
    pub fn was_reported(&self, token: u64) -> bool {
        self.reported.contains_key(&token)
    }

    /// Results with these tokens were accepted: their slots are free for the calls that wait.
    pub fn reported(&mut self, worker_id: &str, tokens: &[u64], now_ms: u64) {
        self.reported.extend(tokens.iter().map(|token| (*token, now_ms)));
        for id in self.calls_of.get(worker_id).into_iter().flatten() {
            let Some(call) = self.calls.get_mut(id).filter(|call| call.waits()) else { continue };
            for token in tokens {
                if call.holds.remove(token) {
                    call.slots = call.slots.saturating_add(1);
                    call.reporting.insert(*token);
                }
            }
        }
    }

    /// Waiting calls with what their workers work on.
    pub fn waiting_holds(&self) -> impl Iterator<Item = (CallId, &str, &BTreeSet<u64>)> {
        let waiting = self.calls.iter().filter(|(_, call)| call.waits() && !call.holds.is_empty());
        waiting.map(|(id, call)| (*id, &*call.worker_id, &call.holds))
    }

    /// Begins a lease call; none where too many wait.
    pub fn begin_call(
        &mut self,
        worker_id: &str,
        slots: u32,
        tokens: &[u64],
        reporting: &[u64],
    ) -> Option<CallId> {
        if self.calls.len() >= MAX_WAITING_CALLS {
            return None;
        }
        self.last_call += 1;
        let (done, holds): (Vec<u64>, Vec<u64>) =
            tokens.iter().partition(|token| self.reported.contains_key(token));
        let call = Call {
            worker_id: worker_id.to_owned(),
            slots: slots.saturating_add(done.len() as u32),
            holds: holds.into_iter().collect(),
            reporting: reporting.iter().copied().chain(done).collect(),
            since: self.next_moment(),
            given: Vec::new(),
        };
        self.calls_of.entry(worker_id.to_owned()).or_default().insert(self.last_call);
        self.calls.insert(self.last_call, call);
        Some(self.last_call)
    }

    /// Ends a call. Where its answer never left, what it was given is free for the next one.
    pub fn end_call(&mut self, id: CallId, answered: bool) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Some(open) = self.calls_of.get_mut(&call.worker_id) {
            open.remove(&id);
            if open.is_empty() {
                self.calls_of.remove(&call.worker_id);
            }
        }
        for token in call.given.iter().filter(|_| !answered) {
            if let Some(track) = self.tracks.get_mut(token)
                && track.handed.is_some_and(|handed| handed.call == id)
            {
                track.handed = None;
            }
        }
    }

    /// Workers with a call that waits.
    pub fn waiting_workers(&self) -> BTreeSet<String> {
        self.calls.values().filter(|call| call.waits()).map(|call| call.worker_id.clone()).collect()
    }

    /// This worker's calls that wait.
    pub fn waiting_calls_of(&self, worker_id: &str) -> Vec<CallId> {
        let open = self.calls_of.get(worker_id).into_iter().flatten().copied();
        open.filter(|id| self.calls.get(id).is_some_and(Call::waits)).collect()
    }

    /// What the waiting calls ask for, by worker.
    pub fn offers(&self) -> Vec<Offer> {
        let mut slots: BTreeMap<&str, u32> = BTreeMap::new();
        for call in self.calls.values().filter(|call| call.waits() && call.slots > 0) {
            let sum = slots.entry(&call.worker_id).or_default();
            *sum = sum.saturating_add(call.slots);
        }
        slots.into_iter().map(|(id, slots)| Offer { worker_id: id.to_owned(), slots }).collect()
    }

    /// Deals a worker's live leases out to its waiting calls, the oldest call first.
    ///
    /// A call that gets something is settled: it waits no more.
    pub fn settle(&mut self, worker_id: &str, leases: &[LeaseView], now_ms: u64) -> Vec<(CallId, Vec<u64>)> {
        self.see(leases, now_ms);
        let open: Vec<CallId> = self.calls_of.get(worker_id).into_iter().flatten().copied().collect();
        let alone = open.len() == 1;
        let mut dealt = Vec::new();
        for id in open {
            let Some(call) = self.calls.get(&id).filter(|call| call.waits()) else { continue };
            let tokens: Vec<u64> = leases
                .iter()
                .map(|lease| lease.token)
                .filter(|token| self.may_hand(*token, call, now_ms))
                .take(call.slots as usize)
                .collect();
            if tokens.is_empty() {
                continue;
            }
            let moment = self.next_moment();
            for token in &tokens {
                if let Some(track) = self.tracks.get_mut(token) {
                    track.handed = Some(Handed { moment, at_ms: now_ms, call: id, alone });
                }
            }
            if let Some(call) = self.calls.get_mut(&id) {
                call.given = tokens.clone();
            }
            dealt.push((id, tokens));
        }
        dealt
    }

    fn may_hand(&self, token: u64, call: &Call, now_ms: u64) -> bool {
        let Some(track) = self.tracks.get(&token) else { return false };
        if call.holds.contains(&token) || call.reporting.contains(&token) || track.named > call.since {
            return false;
        }
        track.handed.is_none_or(|handed| {
            let due = handed.alone || now_ms.saturating_sub(handed.at_ms) >= self.timing.redeliver_after_ms;
            handed.moment < call.since && due
        })
    }

    /// The worker named these leases, and the machine does not know yet that it has them.
    pub fn confirm(&mut self, tokens: impl IntoIterator<Item = u64>) {
        self.undelivered.extend(tokens);
    }

    /// Leases to be logged as delivered, at most `limit`.
    pub fn take_undelivered(&mut self, limit: usize) -> Vec<u64> {
        let tokens: Vec<u64> = self.undelivered.iter().copied().take(limit).collect();
        for token in &tokens {
            self.undelivered.remove(token);
        }
        tokens
    }

    /// What has run out, given every live lease and every worker that is not lost.
    ///
    /// Also forgets what is no more.
    pub fn overdue(
        &mut self,
        leases: &[LeaseView],
        workers: &[String],
        now_ms: u64,
        now_log_ms: u64,
    ) -> Overdue {
        let live: BTreeSet<u64> = leases.iter().map(|lease| lease.token).collect();
        self.tracks.retain(|token, _| live.contains(token));
        self.undelivered.retain(|token| live.contains(token));
        self.reported.retain(|_, at| now_ms.saturating_sub(*at) < REPORTED_MS);
        let known: BTreeSet<&str> = workers.iter().map(String::as_str).collect();
        self.heard_ms.retain(|worker, _| known.contains(worker.as_str()));
        self.see(leases, now_ms);
        if now_ms < self.opened_ms + self.timing.takeover_ms {
            return Overdue::default();
        }

        let silent = |worker: &str| {
            let heard_ms = self.heard_ms.get(worker).copied().unwrap_or(self.opened_ms);
            now_ms.saturating_sub(heard_ms) > self.timing.lost_after_ms
        };
        let mut lost: Vec<String> = workers.iter().filter(|worker| silent(worker)).cloned().collect();
        lost.truncate(MAX_LOST);
        let given_up: BTreeSet<&str> = lost.iter().map(String::as_str).collect();
        let why = |lease: &LeaseView| {
            if given_up.contains(lease.worker_id.as_str()) {
                return None;
            }
            let age_ms = now_log_ms.saturating_sub(lease.assigned_log_ms);
            if age_ms > lease.timeout_ms.saturating_add(self.timing.timeout_grace_ms) {
                return Some(ExpireReason::TimedOut);
            }
            let renewed_ms = self.tracks.get(&lease.token).map_or(now_ms, |track| track.renewed_ms);
            (now_ms.saturating_sub(renewed_ms) > self.timing.lease_ttl_ms).then_some(ExpireReason::Silent)
        };
        let mut ended: Vec<_> = leases
            .iter()
            .filter_map(|lease| Some((lease.task_id.clone(), lease.token, why(lease)?)))
            .collect();
        ended.truncate(MAX_EXPIRE);
        Overdue { leases: ended, workers: lost }
    }

    fn track(&mut self, token: u64, now_ms: u64) -> &mut Track {
        self.tracks.entry(token).or_insert(Track { renewed_ms: now_ms, named: 0, handed: None })
    }

    fn next_moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }
}

/// The log's time between two entries: the last one, and what has passed since it was first seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct LogClock {
    log_ms: u64,
    since_ms: u64,
}

impl LogClock {
    /// The log's time now, given what the machine says and the monotonic clock.
    pub fn now(&mut self, log_ms: u64, now_ms: u64) -> u64 {
        if log_ms != self.log_ms {
            *self = LogClock { log_ms, since_ms: now_ms };
        }
        self.log_ms + now_ms.saturating_sub(self.since_ms)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
