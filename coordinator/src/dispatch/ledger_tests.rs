use super::*;

const TTL: u64 = api::worker::LEASE_TTL_MS;
const LOST: u64 = api::worker::WORKER_LOST_MS;
const ELECTION: u64 = 300;
const TAKEOVER: u64 = TTL + 2 * ELECTION;

fn ledger() -> Ledger {
    Ledger::open(3, 0, Timing::new(&Limits::default(), ELECTION))
}

fn lease(token: u64, worker: &str) -> LeaseView {
    LeaseView {
        token,
        task_id: format!("t{token}"),
        worker_id: worker.into(),
        delivered: false,
        assigned_log_ms: 0,
        timeout_ms: 600_000,
    }
}

fn leases(tokens: &[u64]) -> Vec<LeaseView> {
    tokens.iter().map(|token| lease(*token, "w")).collect()
}

/// A call of worker `w` that is settled at once with what there is for it; empty when it waits.
fn call(ledger: &mut Ledger, slots: u32, holds: &[u64], live: &[u64], now_ms: u64) -> (CallId, Vec<u64>) {
    ledger.heard("w", holds, now_ms);
    let id = ledger.begin_call("w", slots, holds, &[]).unwrap();
    let dealt = ledger.settle("w", &leases(live), now_ms);
    let tokens = dealt.into_iter().find(|(call, _)| *call == id).map(|(_, tokens)| tokens);
    (id, tokens.unwrap_or_default())
}

fn workers(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_waiting_call_is_an_offer_and_a_settled_one_is_not() {
    let mut ledger = ledger();
    ledger.begin_call("a", 2, &[], &[]);
    ledger.begin_call("a", 3, &[], &[]);
    ledger.begin_call("w", 1, &[], &[]);
    let offer = |id: &str, slots| Offer { worker_id: id.into(), slots };
    assert_eq!(ledger.offers(), [offer("a", 5), offer("w", 1)]);
    assert_eq!(ledger.settle("w", &leases(&[1]), 0), [(3, vec![1])]);
    assert_eq!(ledger.offers(), [offer("a", 5)]);
}

#[test]
fn a_lease_goes_to_one_of_two_calls() {
    let mut ledger = ledger();
    let (first, _) = call(&mut ledger, 1, &[], &[], 0);
    let (second, _) = call(&mut ledger, 1, &[], &[], 0);
    assert_eq!(ledger.settle("w", &leases(&[7, 8]), 10), [(first, vec![7]), (second, vec![8])]);

    let (third, _) = call(&mut ledger, 4, &[7, 8], &[7, 8], 20);
    let (fourth, _) = call(&mut ledger, 4, &[7, 8], &[7, 8], 20);
    assert_eq!(ledger.settle("w", &leases(&[7, 8, 9]), 30), [(third, vec![9])]);
    ledger.end_call(third, true);
    // The fourth began before 9 was handed out: that it does not name it proves nothing, ever.
    assert_eq!(ledger.settle("w", &leases(&[7, 8, 9]), 60_000), []);
    ledger.end_call(fourth, true);
}

#[test]
fn a_call_gets_no_more_than_it_asked_for() {
    let mut ledger = ledger();
    let (first, got) = call(&mut ledger, 2, &[], &[1, 2, 3], 0);
    assert_eq!(got, [1, 2]);
    ledger.end_call(first, true);
    assert_eq!(call(&mut ledger, 2, &[1, 2], &[1, 2, 3], 10).1, [3]);
}

#[test]
fn redelivery_of_a_lost_answer() {
    let mut ledger = ledger();
    let (first, got) = call(&mut ledger, 1, &[], &[7], 0);
    assert_eq!(got, [7]);
    ledger.end_call(first, true);
    // The answer was lost on the way; the worker calls again and does not name 7.
    assert_eq!(call(&mut ledger, 1, &[], &[7], 5).1, [7]);
}

#[test]
fn what_the_worker_names_is_not_delivered_again() {
    let mut ledger = ledger();
    let (first, _) = call(&mut ledger, 1, &[], &[7], 0);
    ledger.end_call(first, true);
    assert_eq!(call(&mut ledger, 1, &[7], &[7], 5).1, [0u64; 0]);
}

#[test]
fn a_worker_with_several_calls_gets_a_lost_lease_again_after_a_moment() {
    let mut ledger = ledger();
    let (first, _) = call(&mut ledger, 1, &[], &[], 0);
    let (second, _) = call(&mut ledger, 1, &[], &[], 0);
    assert_eq!(ledger.settle("w", &leases(&[7]), 0), [(first, vec![7])]);
    ledger.end_call(first, true);
    // Another of its threads calls while that answer may still be on its way.
    let (third, got) = call(&mut ledger, 1, &[], &[7], 1);
    assert_eq!(got, [0u64; 0]);
    assert_eq!(ledger.settle("w", &leases(&[7]), 999), []);
    // It never named it: the answer was lost, and the call that began after it gets it.
    assert_eq!(ledger.settle("w", &leases(&[7]), 1000), [(third, vec![7])]);
    ledger.end_call(second, true);
}

#[test]
fn a_heartbeat_that_names_the_lease_ends_its_redelivery() {
    let mut ledger = ledger();
    let (first, _) = call(&mut ledger, 1, &[], &[], 0);
    let (_second, _) = call(&mut ledger, 1, &[], &[], 0);
    ledger.settle("w", &leases(&[7]), 0);
    ledger.end_call(first, true);
    let (_third, _) = call(&mut ledger, 1, &[], &[7], 1);
    ledger.heard("w", &[7], 500);
    assert_eq!(ledger.settle("w", &leases(&[7]), 5000), []);
}

#[test]
fn an_answer_that_never_left_is_free_at_once() {
    let mut ledger = ledger();
    let (first, got) = call(&mut ledger, 1, &[], &[7], 0);
    assert_eq!(got, [7]);
    let (second, _) = call(&mut ledger, 1, &[], &[], 0);
    ledger.end_call(first, false);
    assert_eq!(ledger.settle("w", &leases(&[7]), 1), [(second, vec![7])]);
}

#[test]
fn a_restarted_worker_gets_back_what_it_had() {
    let mut ledger = ledger();
    let (first, _) = call(&mut ledger, 2, &[], &[7, 8], 0);
    ledger.end_call(first, true);
    ledger.heard("w", &[7, 8], 3000);
    assert_eq!(call(&mut ledger, 2, &[], &[7, 8], 4000).1, [7, 8]);
}

#[test]
fn new_leader_keeps_leases() {
    let mut ledger = Ledger::open(4, 100_000, Timing::new(&Limits::default(), ELECTION));
    let live = leases(&[1]);
    let all = workers(&["w"]);
    // Its predecessor heard the worker; this one has not, and does not hold that against it.
    for after in [0, TTL, TAKEOVER - 1] {
        assert_eq!(ledger.overdue(&live, &all, 100_000 + after, 0), Overdue::default(), "after {after} ms");
    }
    let mut heard = Ledger::open(4, 100_000, Timing::new(&Limits::default(), ELECTION));
    heard.see(&live, 100_000);
    heard.heard("w", &[1], 100_000 + TAKEOVER - 100);
    assert_eq!(heard.overdue(&live, &all, 100_000 + TAKEOVER, 0), Overdue::default());
    let overdue = ledger.overdue(&live, &all, 100_000 + TAKEOVER, 0);
    assert_eq!(overdue, Overdue { leases: Vec::new(), workers: all.clone() });

    // Where leases are short and workers may be silent for long, nobody is given up with the leases.
    let limits = Limits { lease_ttl_ms: 1_000, worker_lost_ms: LOST, ..Limits::default() };
    let mut ledger = Ledger::open(4, 100_000, Timing::new(&limits, ELECTION));
    ledger.see(&live, 100_000);
    let overdue = ledger.overdue(&live, &all, 100_000 + LOST, 0);
    assert_eq!(overdue.workers, [""; 0], "unheard is not silent");
    assert_eq!(ledger.overdue(&live, &all, 100_001 + LOST, 0).workers, all);
}

#[test]
fn a_new_leader_also_waits_with_attempts_beyond_their_limit() {
    let mut ledger = ledger();
    ledger.heard("w", &[], 0);
    let live = leases(&[1]);
    assert_eq!(ledger.overdue(&live, &workers(&["w"]), TAKEOVER - 1, 10_000_000), Overdue::default());
    ledger.heard("w", &[1], TAKEOVER);
    let overdue = ledger.overdue(&live, &workers(&["w"]), TAKEOVER, 10_000_000);
    assert_eq!(overdue.leases, [("t1".to_owned(), 1, ExpireReason::TimedOut)]);
}

#[test]
fn worker_loss_is_noticed_in_seconds() {
    let mut ledger = ledger();
    let live = [lease(1, "w"), lease(2, "other")];
    let all = workers(&["other", "w"]);
    ledger.see(&live, 0);
    for now_ms in (0..=60_000).step_by(3000) {
        ledger.heard("other", &[2], now_ms);
        if now_ms <= 30_000 {
            ledger.heard("w", &[1], now_ms);
        }
    }
    assert_eq!(ledger.overdue(&live, &all, 30_000 + LOST, 0), Overdue::default());
    let overdue = ledger.overdue(&live, &all, 30_000 + LOST + 1, 0);
    // Its leases end with it, in the same log entry.
    assert_eq!(overdue, Overdue { leases: Vec::new(), workers: workers(&["w"]) });
}

#[test]
fn a_lease_that_its_living_worker_never_names_runs_out() {
    let mut ledger = ledger();
    let live = leases(&[1, 2]);
    ledger.see(&live, 20_000);
    for now_ms in (20_000..=20_000 + TTL).step_by(1000) {
        ledger.heard("w", &[2], now_ms);
    }
    let now_ms = 20_000 + TTL + 1;
    let overdue = ledger.overdue(&live, &workers(&["w"]), now_ms, 0);
    assert_eq!(overdue.leases, [("t1".to_owned(), 1, ExpireReason::Silent)]);
    assert!(overdue.workers.is_empty());
}

#[test]
fn an_attempt_beyond_its_limit_and_the_grace_is_timed_out() {
    let mut ledger = ledger();
    let mut slow = lease(1, "w");
    slow.timeout_ms = 10_000;
    slow.assigned_log_ms = 500_000;
    let live = [slow];
    let now_ms = TAKEOVER + 1000;
    ledger.see(&live, now_ms);
    ledger.heard("w", &[1], now_ms);
    let all = workers(&["w"]);
    assert_eq!(ledger.overdue(&live, &all, now_ms, 515_000), Overdue::default());
    let overdue = ledger.overdue(&live, &all, now_ms, 515_001);
    assert_eq!(overdue.leases, [("t1".to_owned(), 1, ExpireReason::TimedOut)]);
}

#[test]
fn a_round_ends_a_bounded_number() {
    let mut ledger = ledger();
    let live: Vec<LeaseView> = (0..2 * MAX_EXPIRE as u64).map(|token| lease(token, "w")).collect();
    let all: Vec<String> = (0..2 * MAX_LOST).map(|i| format!("w{i}")).collect();
    ledger.see(&live, 0);
    for i in 0..2 * MAX_LOST {
        ledger.heard(&format!("w{i}"), &[], if i == 0 { TAKEOVER } else { 0 });
    }
    let live: Vec<LeaseView> = live.into_iter().map(|l| LeaseView { worker_id: "w0".into(), ..l }).collect();
    let overdue = ledger.overdue(&live, &all, TAKEOVER, 0);
    assert_eq!((overdue.leases.len(), overdue.workers.len()), (MAX_EXPIRE, MAX_LOST));
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut ledger = ledger();
    ledger.see(&leases(&[1, 2]), 0);
    ledger.heard("w", &[1, 2], 0);
    ledger.confirm([1, 2]);
    ledger.overdue(&[], &[], 1, 0);
    assert!(ledger.tracks.is_empty() && ledger.heard_ms.is_empty() && ledger.undelivered.is_empty());
}

#[test]
fn deliveries_are_taken_in_bundles() {
    let mut ledger = ledger();
    ledger.confirm([3, 1, 2, 1]);
    assert_eq!(ledger.take_undelivered(2), [1, 2]);
    assert_eq!(ledger.take_undelivered(2), [3]);
    assert!(ledger.take_undelivered(2).is_empty());
}

#[test]
fn too_many_calls_are_refused() {
    let mut ledger = ledger();
    for _ in 0..MAX_WAITING_CALLS {
        assert!(ledger.begin_call("w", 1, &[], &[]).is_some());
    }
    assert!(ledger.begin_call("w", 1, &[], &[]).is_none());
    ledger.end_call(1, true);
    assert!(ledger.begin_call("w", 1, &[], &[]).is_some());
}

#[test]
fn the_logs_time_goes_on_between_entries() {
    let mut clock = LogClock::default();
    assert_eq!(clock.now(1000, 50), 1000);
    assert_eq!(clock.now(1000, 80), 1030);
    assert_eq!(clock.now(1500, 90), 1500);
    assert_eq!(clock.now(1500, 95), 1505);
}

#[test]
fn a_slot_that_frees_while_a_call_waits_is_offered() {
    let mut ledger = ledger();
    ledger.begin_call("w", 0, &[7], &[]).unwrap();
    assert_eq!(ledger.offers(), []);
    ledger.reported("w", &[7], 10);
    assert_eq!(ledger.offers(), [Offer { worker_id: "w".into(), slots: 1 }]);
    // A token that the call never named was counted by the worker itself.
    ledger.reported("w", &[9], 20);
    assert_eq!(ledger.offers(), [Offer { worker_id: "w".into(), slots: 1 }]);
}

#[test]
fn a_result_that_overtakes_the_call_that_names_its_token_frees_the_slot() {
    let mut ledger = ledger();
    ledger.reported("w", &[7], 10);
    ledger.begin_call("w", 1, &[7, 8], &[]).unwrap();
    assert!(ledger.was_reported(7) && !ledger.was_reported(8));
    assert_eq!(ledger.offers(), [Offer { worker_id: "w".into(), slots: 2 }]);
    assert_eq!(ledger.waiting_holds().map(|(_, _, holds)| holds.len()).sum::<usize>(), 1);
    ledger.overdue(&[], &[], 60_000, 0);
    assert!(!ledger.was_reported(7), "forgotten in time");
}

#[test]
fn a_lease_whose_result_is_on_its_way_is_not_given_again() {
    let mut ledger = ledger();
    let (first, got) = call(&mut ledger, 1, &[], &[7], 0);
    assert_eq!(got, [7]);
    ledger.end_call(first, true);
    let next = ledger.begin_call("w", 1, &[], &[7]).unwrap();
    assert_eq!(ledger.settle("w", &leases(&[7, 8]), 5_000), [(next, vec![8])]);
}
