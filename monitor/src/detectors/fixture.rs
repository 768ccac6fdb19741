//! A staged cluster for tests: healthy rounds, a second apart, to be bent one by one.

#[path = "../../tests/support/reports.rs"]
pub mod reports;

use super::{FaultKind, Finding, Limits, Window, detect_all};
use crate::report::{NodeReport, ScrapeFailure};
use crate::snapshot::{ClusterSnapshot, Memory};
use api::cluster::Report;

/// The address of node `n`.
pub fn address(n: usize) -> String {
    format!("127.0.0.1:{}", 8_000 + n)
}

/// Answers of one round, to be bent.
pub struct Answers(pub Vec<NodeReport>);

impl Answers {
    /// Node `n` of a healthy round.
    pub fn healthy(of: usize, leader: usize, term: u64, seconds: f64) -> Self {
        let at = reports::after(seconds);
        let answer = |n| NodeReport {
            address: address(n),
            at,
            took_ms: 2.0,
            outcome: Ok(reports::healthy(n, of, leader, term, at)),
        };
        Answers((1..=of).map(answer).collect())
    }

    /// The report of node `n`.
    pub fn report(&mut self, n: usize) -> &mut Report {
        self.0[n - 1].outcome.as_mut().unwrap()
    }

    /// Node `n` gives no report.
    pub fn fail(&mut self, n: usize, failure: ScrapeFailure) -> &mut Self {
        self.0[n - 1].outcome = Err(failure);
        self
    }

    /// `from` no longer hears `to`.
    pub fn cut(&mut self, from: usize, to: usize) -> &mut Self {
        if let Ok(report) = &mut self.0[from - 1].outcome {
            let link = report.status.peers.iter_mut().find(|p| p.node_id == reports::name(to)).unwrap();
            link.reachable = false;
            link.error = Some("no answer".into());
        }
        self
    }

    /// Nobody hears `n`, and `n` refuses.
    pub fn kill(&mut self, n: usize) -> &mut Self {
        self.fail(n, ScrapeFailure::Refused);
        for from in (1..=self.0.len()).filter(|from| *from != n) {
            self.cut(from, n);
        }
        self
    }
}

/// Rounds in a row.
pub struct Scene {
    pub of: usize,
    pub leader: usize,
    pub term: u64,
    pub interval_seconds: f64,
    pub limits: Limits,
    pub memory: Memory,
    pub window: Window,
    round: u64,
}

impl Scene {
    /// A cluster of `of` nodes, led by node-2 in term 7.
    pub fn new(of: usize) -> Self {
        Scene {
            of,
            leader: 2,
            term: 7,
            interval_seconds: 1.0,
            limits: Limits::default(),
            memory: Memory::default(),
            window: Window::default(),
            round: 0,
        }
    }

    /// The next round, bent: what it shows and what is found in it.
    pub fn round(&mut self, bend: impl FnOnce(&mut Answers)) -> (ClusterSnapshot, Vec<Finding>) {
        self.round += 1;
        let seconds = self.round as f64 * self.interval_seconds;
        let mut answers = Answers::healthy(self.of, self.leader, self.term, seconds);
        bend(&mut answers);
        let snapshot = ClusterSnapshot::join(&answers.0, &self.memory, self.round, reports::after(seconds));
        self.memory.learn(&snapshot);
        let findings = detect_all(&snapshot, &self.window, &self.limits);
        self.window.push(&snapshot);
        (snapshot, findings)
    }

    /// `count` rounds bent alike; what the last of them shows.
    pub fn rounds(
        &mut self,
        count: usize,
        mut bend: impl FnMut(&mut Answers),
    ) -> (ClusterSnapshot, Vec<Finding>) {
        (0..count).map(|_| self.round(&mut bend)).last().unwrap()
    }

    /// `count` healthy rounds, in which nothing may be found.
    pub fn calm(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            let (_, findings) = self.round(|_| {});
            assert!(findings.is_empty(), "{findings:#?}");
        }
        self
    }
}

/// The only finding of that kind, which must be there.
pub fn only(findings: &[Finding], kind: FaultKind) -> &Finding {
    let found: Vec<&Finding> = findings.iter().filter(|f| f.kind == kind).collect();
    assert_eq!(found.len(), 1, "wanted one {kind} in {findings:#?}");
    found[0]
}
