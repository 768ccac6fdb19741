use super::*;
use crate::detectors::fixture::{Answers, reports};

struct Watch {
    observer: Observer,
    seconds: f64,
}

impl Watch {
    fn new() -> Self {
        Watch { observer: Observer::new(Limits::default(), 1.0), seconds: 0.0 }
    }

    fn round(&mut self, leader: usize, term: u64, bend: impl FnOnce(&mut Answers)) -> Round {
        self.seconds += 1.0;
        let mut answers = Answers::healthy(3, leader, term, self.seconds);
        bend(&mut answers);
        self.observer.take(&answers.0, reports::after(self.seconds))
    }
}

fn told(round: &Round) -> Vec<(EventKind, &str)> {
    round.events.iter().map(|e| (e.kind, e.text.as_str())).collect()
}

#[test]
fn a_crash_of_the_leader_is_told_from_beginning_to_end() {
    let mut watch = Watch::new();
    let round = watch.round(2, 7, |_| {});
    assert_eq!(told(&round), [(EventKind::LeaderChanged, "node-2 leads term 7")]);
    let round = watch.round(2, 7, |a| {
        a.kill(2);
    });
    let expected = [
        (EventKind::NodeDown, "node-2: connection refused, and no reporting peer hears it"),
        (EventKind::LeaderLost, "nobody leads; node-2 led term 7"),
    ];
    assert_eq!(told(&round), expected);
    let round = watch.round(1, 8, |a| {
        a.kill(2);
    });
    assert_eq!(round.events[0].text, "node-1 leads term 8; before it node-2, term 7, last seen 2 s ago");
    assert_eq!(round.events[1].kind, EventKind::FindingBegun);
    assert_eq!(round.begun.len(), 1);
    let round = watch.round(1, 8, |a| a.report(2).status.boot_nonce = "again".into());
    assert_eq!(told(&round), [(EventKind::NodeReturned, "node-2 reports again after 3 s, follower")]);
    let round = watch.round(1, 8, |a| a.report(2).status.boot_nonce = "again".into());
    assert_eq!(told(&round), []);
    let round = watch.round(1, 8, |a| a.report(2).status.boot_nonce = "again".into());
    assert_eq!(told(&round), [(EventKind::FindingEnded, "process crash on node-2, gone after 4 s")]);
    let round = watch.round(1, 8, |_| {});
    assert_eq!(told(&round), [(EventKind::NodeRestarted, "node-2 is a new process, pid 4002")]);
}

#[test]
fn a_finding_that_flickers_begins_once() {
    let mut watch = Watch::new();
    let mut begun = 0;
    for n in 0..30 {
        let round = watch.round(2, 7, |a| {
            if n % 3 != 2 {
                a.report(1).resources.disk_usage = 90.0;
            }
        });
        begun += round.begun.len();
        assert!(round.events.iter().all(|e| e.kind != EventKind::FindingEnded), "{:?}", round.events);
    }
    assert_eq!(begun, 1);
}

#[test]
fn a_finding_keeps_its_beginning_beyond_the_window() {
    let mut watch = Watch::new();
    let last = (0..400)
        .map(|_| {
            watch.round(2, 7, |a| {
                a.kill(3);
            })
        })
        .last()
        .unwrap();
    assert_eq!(last.findings[0].since, reports::after(1.0));
    assert_eq!(last.findings[0].rounds, 400);
}

#[test]
fn a_cluster_that_starts_together_with_its_monitor_has_not_crashed() {
    let mut watch = Watch::new();
    for _ in 0..5 {
        let round = watch.round(2, 7, |a| {
            a.kill(1).kill(2).kill(3);
        });
        assert!(round.findings.is_empty(), "{:?}", round.findings);
    }
    let round = watch.round(2, 7, |_| {});
    assert!(round.findings.is_empty());
    // One that never comes is found all the same, and one that was there is found at once.
    let mut watch = Watch::new();
    let last = (0..7)
        .map(|_| {
            watch.round(2, 7, |a| {
                a.kill(3);
            })
        })
        .last()
        .unwrap();
    assert_eq!(last.findings[0].nodes, ["node-3"]);
    let mut watch = Watch::new();
    watch.round(2, 7, |_| {});
    let last = (0..2)
        .map(|_| {
            watch.round(2, 7, |a| {
                a.kill(3);
            })
        })
        .last()
        .unwrap();
    assert_eq!(last.findings.len(), 1);
}
