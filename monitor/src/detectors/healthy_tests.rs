//! No finding on any healthy history, whatever the timing: transfers as often as one likes, stops on
//! purpose that last, rolling restarts, answers that are missed once or come late, cold starts, a
//! learner that catches up.

use super::Limits;
use super::fixture::{Answers, address, reports};
use crate::observer::Observer;
use crate::report::{NodeReport, ScrapeFailure};
use api::cluster::{Goodbye, Report, Role};
use proptest::prelude::*;

/// One round of a history.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Since the round before.
    interval_ms: u64,
    what: What,
    /// Which node, counted round.
    node: usize,
    /// How much of it.
    extent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Nothing,
    /// Leadership moves to the node.
    Transfer,
    /// The node is another process in the next round, and said nothing.
    Restart,
    /// The node says goodbye to its peers, and is away for a while.
    Stop,
    /// A failover: the leader is another process, and another node was elected.
    Failover,
    /// The node's answer is older than the others'.
    Late,
    /// The node gives no answer once.
    Missed,
    /// The observer's clock is put back a little.
    ClockBack,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        6 => Just(What::Nothing),
        1 => Just(What::Transfer),
        1 => Just(What::Restart),
        1 => Just(What::Stop),
        1 => Just(What::Failover),
        2 => Just(What::Late),
        1 => Just(What::Missed),
        1 => Just(What::ClockBack),
    ];
    (200_u64..3_000, what, 0_usize..7, 0_u64..1_000).prop_map(|(interval_ms, what, node, extent)| Step {
        interval_ms,
        what,
        node,
        extent,
    })
}

/// A cluster that is well.
struct Cluster {
    of: usize,
    learner: bool,
    leader: usize,
    term: u64,
    seconds: f64,
    /// The observer's clock against the cluster's.
    skew_seconds: f64,
    started: Vec<f64>,
    boots: Vec<u64>,
    /// Who is stopped, since when, until when, and whether its host refuses or is gone.
    stopped: Option<(usize, f64, f64, bool)>,
    elections: Vec<u64>,
    leader_changes: u64,
    /// More than three elections a minute are no longer well.
    elected_at: f64,
}

impl Cluster {
    fn new(of: usize, learner: bool) -> Self {
        Cluster {
            of,
            learner,
            leader: 1,
            term: 7,
            seconds: 100.0,
            skew_seconds: 0.0,
            started: vec![0.0; of + 1],
            boots: vec![0; of + 1],
            stopped: None,
            elections: vec![0; of + 1],
            leader_changes: 1,
            elected_at: 0.0,
        }
    }

    fn may_elect(&self) -> bool {
        self.seconds - self.elected_at > 21.0
    }

    /// One after the other: while one is away the others are needed.
    fn is_whole(&self) -> bool {
        let last = self.started.iter().copied().fold(0.0, f64::max);
        self.stopped.is_none() && self.seconds - last > 6.0
    }

    fn lead(&mut self, node: usize) {
        if node != self.leader {
            (self.leader, self.term) = (node, self.term + 1);
            self.leader_changes += 1;
        }
    }

    fn start_again(&mut self, node: usize) {
        self.started[node] = self.seconds;
        self.boots[node] += 1;
        self.elections[node] = 0;
    }

    fn is_stopped(&self, node: usize) -> bool {
        self.stopped.is_some_and(|(stopped, ..)| stopped == node)
    }

    /// What happens in this round; who is away for no longer than it.
    fn live(&mut self, step: Step) -> Option<usize> {
        let node = step.node % self.of + 1;
        if let Some((stopped, _, until, _)) = self.stopped
            && self.seconds >= until
        {
            self.start_again(stopped);
            self.stopped = None;
        }
        match step.what {
            What::Transfer if !self.is_stopped(node) => self.lead(node),
            What::Restart if self.is_whole() => {
                if node == self.leader {
                    self.lead(node % self.of + 1);
                }
                self.start_again(node);
                return Some(node);
            }
            What::Stop if self.is_whole() && self.of > 1 => {
                if node == self.leader {
                    self.lead(node % self.of + 1);
                }
                let until = self.seconds + step.extent as f64 / 10.0;
                self.stopped = Some((node, self.seconds, until, step.extent.is_multiple_of(2)));
            }
            What::Failover if self.is_whole() && self.of > 1 && self.may_elect() => {
                let (old, new) = (self.leader, self.leader % self.of + 1);
                self.lead(new);
                self.elections[new] += 1;
                self.elected_at = self.seconds;
                self.start_again(old);
                return Some(old);
            }
            What::ClockBack => self.skew_seconds -= step.extent as f64 / 10_000.0,
            _ => {}
        }
        None
    }

    /// What node `n` says `late_ms` ago.
    fn report(&self, n: usize, late_ms: u64, away: Option<usize>) -> Report {
        let at = reports::after(self.seconds - late_ms as f64 / 1_000.0);
        let members = self.of + usize::from(self.learner);
        let mut report = reports::healthy(n, members, self.leader, self.term, at);
        let uptime_seconds = (self.seconds - self.started.get(n).copied().unwrap_or(0.0)).max(0.1);
        report.status.uptime_seconds = uptime_seconds;
        report.status.elections = Some(self.elections.get(n).copied().unwrap_or(0));
        report.status.leader_changes = self.leader_changes;
        report.status.boot_nonce = format!("boot-{n}-{}", self.boots.get(n).copied().unwrap_or(0));
        for peer in &mut report.status.peers {
            let p: usize = peer.node_id[5..].parse().unwrap();
            // A link to a process that just came back is made within a few seconds.
            let fresh = |n: usize| self.seconds - self.started.get(n).copied().unwrap_or(-9.0) < 2.0;
            peer.reachable = away != Some(p) && !fresh(p) && !fresh(n) && !self.is_stopped(p);
            if let Some((_, since, ..)) = self.stopped.filter(|(stopped, ..)| *stopped == p) {
                let ago_ms = ((self.seconds - since) * 1_000.0) as u64;
                peer.goodbye = Some(Goodbye { boot_nonce: format!("boot-{p}-{}", self.boots[p]), ago_ms });
            }
        }
        if self.learner {
            report.status.voters.truncate(self.of);
            report.status.learners = vec![reports::name(members)];
            if n == members {
                let behind = (500_000.0 / self.seconds) as u64;
                report.status.role = Role::Learner;
                report.status.applied_index -= behind;
                report.progress.applied_entries -= behind;
            }
        }
        report
    }

    /// The answers of one round.
    fn round(&mut self, step: Step) -> Vec<NodeReport> {
        self.seconds += step.interval_ms as f64 / 1_000.0;
        let members = self.of + usize::from(self.learner);
        let node = step.node % self.of + 1;
        let away = self.live(step);
        let answer = |n: usize| {
            let late_ms = if step.what == What::Late && n == node { step.extent } else { 0 };
            let silent = ScrapeFailure::TimedOut { connected: false, waited_ms: 800 };
            let outcome = if away == Some(n) {
                Err(ScrapeFailure::Refused)
            } else if let Some((_, _, _, refuses)) = self.stopped.filter(|(stopped, ..)| *stopped == n) {
                Err(if refuses { ScrapeFailure::Refused } else { silent })
            } else if step.what == What::Missed && n == node {
                Err(ScrapeFailure::TimedOut { connected: step.extent.is_multiple_of(2), waited_ms: 800 })
            } else {
                Ok(self.report(n, late_ms, away))
            };
            let at = reports::after(self.seconds + self.skew_seconds);
            NodeReport { address: address(n), at, took_ms: late_ms as f64, outcome }
        };
        (1..=members).map(answer).collect()
    }

    fn observe(&mut self, observer: &mut Observer, step: Step) -> Result<(), TestCaseError> {
        let answers = self.round(step);
        let at = reports::after(self.seconds + self.skew_seconds);
        let round = observer.take(&answers, at);
        prop_assert!(round.findings.is_empty(), "at {} s: {:#?}", self.seconds, round.findings);
        Ok(())
    }
}

/// Restarts of two rounds in a row, or one node missed twice, look like faults: they are, for as
/// long as they last.
fn spread(steps: Vec<Step>) -> Vec<Step> {
    let mut last_absent = None;
    steps
        .into_iter()
        .map(|mut step| {
            let absent = matches!(step.what, What::Restart | What::Failover | What::Missed);
            if absent && last_absent.is_some() {
                step.what = What::Nothing;
            }
            last_absent = (step.what != What::Nothing && absent).then_some(step.node);
            step
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_finding_on_a_healthy_history(
        size in prop::sample::select(vec![1_usize, 3, 5, 7]),
        learner in any::<bool>(),
        steps in prop::collection::vec(step(), 20..120),
    ) {
        let mut cluster = Cluster::new(size, learner);
        let mut observer = Observer::new(Limits::default(), 1.0);
        for step in spread(steps) {
            // A cluster of one is down while its only node restarts.
            let alone = size == 1 && matches!(step.what, What::Restart);
            cluster.observe(&mut observer, if alone { Step { what: What::Nothing, ..step } } else { step })?;
        }
    }

    #[test]
    fn no_finding_on_a_cold_start(
        up_after_ms in prop::collection::vec(0_u64..4_000, 3),
        founded_after_ms in 4_000_u64..60_000,
        interval_ms in 200_u64..1_500,
    ) {
        let mut observer = Observer::new(Limits::default(), interval_ms as f64 / 1_000.0);
        for round in 0..founded_after_ms / interval_ms + 20 {
            let now_ms = round * interval_ms;
            let at = reports::after(now_ms as f64 / 1_000.0);
            let mut answers = Answers::healthy(3, 1, 1, now_ms as f64 / 1_000.0);
            for (n, up_ms) in (1..=3).zip(&up_after_ms) {
                if now_ms < *up_ms {
                    answers.fail(n, ScrapeFailure::Refused);
                    continue;
                }
                let report = answers.report(n);
                report.status.uptime_seconds = (now_ms - up_ms) as f64 / 1_000.0;
                report.status.leader_changes = u64::from(now_ms >= founded_after_ms);
                if now_ms < founded_after_ms {
                    found_nothing_yet(report);
                }
            }
            let taken = observer.take(&answers.0, at);
            prop_assert!(taken.findings.is_empty(), "at {now_ms} ms: {:#?}", taken.findings);
        }
    }
}

fn found_nothing_yet(report: &mut Report) {
    let status = &mut report.status;
    (status.role, status.cluster_id, status.current_leader) = (Role::Uninitialised, None, None);
    (status.term, status.commit_index, status.applied_index, status.last_log_index) = (0, 0, 0, 0);
    (status.voters, status.peers) = (Vec::new(), Vec::new());
    report.state_checksum.checkpoints.clear();
    report.state_checksum.applied_index = 0;
    report.progress = api::cluster::Progress::default();
    report.totals.clear();
}
