//! What the measurements mean for this config. PURE.

use super::{Answer, Grade, Line, Measured, PeerSeen, PortTaken, SyncTimes};
use crate::config::Config;

/// A clock that is further off confuses people and everything that expires.
const MAX_CLOCK_OFFSET_MS: i64 = 250;

/// A line for everything that was looked at.
pub fn judge(config: &Config, seen: &Measured) -> Vec<Line> {
    let mut lines = vec![match &seen.own {
        Ok(addresses) => line(Grade::Ok, "this node", format!("{} is {}", config.host, addresses.join(", "))),
        Err(why) => line(
            Grade::Failure,
            "this node",
            format!("`host` {} does not resolve: {why}; peers are told this name", config.host),
        ),
    }];
    if let Err(why) = &seen.access {
        let says = format!("{why}; the peers can't be asked as this node would ask them");
        lines.push(line(Grade::Failure, "access", says));
    }
    for (key, port, bound) in &seen.ports {
        lines.push(match bound {
            Ok(()) => line(Grade::Ok, key, format!("port {port} is free")),
            Err(PortTaken::ByItself) => line(Grade::Ok, key, format!("port {port}: this node is running")),
            Err(PortTaken::Otherwise(why)) => line(
                Grade::Failure,
                key,
                format!("{}:{port} can't be bound: {why}; `ss -ltnp` tells who has it", config.bind_host()),
            ),
        });
    }
    for peer in &seen.peers {
        lines.extend(judge_peer(config, peer));
    }
    lines.push(judge_disk(config, &seen.disk));
    lines
}

fn line(grade: Grade, subject: &str, says: String) -> Line {
    Line { grade, subject: subject.to_owned(), says }
}

fn judge_peer(config: &Config, peer: &PeerSeen) -> Vec<Line> {
    let say = |grade, says| line(grade, &peer.name, says);
    let addresses = match &peer.resolved {
        Ok(addresses) => addresses.join(", "),
        Err(why) => {
            return vec![say(
                Grade::Failure,
                format!("{} does not resolve: {why}; mend `peers` or the name service", peer.address),
            )];
        }
    };
    let mut lines = vec![match &peer.answer {
        Answer::Node(id) if *id == config.node_id => {
            say(Grade::Ok, format!("{} ({addresses}) is this node itself", peer.address))
        }
        Answer::Node(id) if peer.expected_id.as_ref().is_some_and(|expected| expected != id) => say(
            Grade::Failure,
            format!(
                "{} ({addresses}) is node `{id}`, the config calls it `{}`: mend `peers`",
                peer.address,
                peer.expected_id.as_deref().unwrap_or_default()
            ),
        ),
        Answer::Node(id) => say(Grade::Ok, format!("{} ({addresses}) is node `{id}`", peer.address)),
        Answer::Closed(why) => say(
            Grade::Failure,
            format!(
                "{} ({addresses}) and this node don't take one another for peers: {why}; `cluster_secret_file`, `enable_tls`, `cert_path` and `ca_path` must fit on both",
                peer.address
            ),
        ),
        Answer::Refused => say(
            Grade::Unknown,
            format!(
                "{} ({addresses}): the host answers, but nothing listens on the port; is the node started?",
                peer.address
            ),
        ),
        Answer::Unasked => say(Grade::Unknown, format!("{} ({addresses}) was not asked", peer.address)),
        Answer::Silent(why) => say(
            Grade::Failure,
            format!(
                "{} ({addresses}) does not answer: {why}; is the host up, does a firewall stand between?",
                peer.address
            ),
        ),
        Answer::Foreign(what) => {
            say(Grade::Failure, format!("{} ({addresses}) is no coordinator: {what}", peer.address))
        }
    }];
    if let Some(longest) = peer.round_trips_ms.last() {
        lines.push(say_round_trips(config, peer, *longest));
    }
    if let Some(offset_ms) = peer.clock_offset_ms {
        let uncertain = peer.round_trips_ms.first().map_or(0, |ms| ms.ceil() as i64);
        lines.push(if offset_ms.abs() - uncertain > MAX_CLOCK_OFFSET_MS {
            say(Grade::Warning, format!("its clock is {offset_ms} ms off ours: run NTP or chrony. The log keeps its own time, but people and tokens don't"))
        } else {
            say(Grade::Ok, format!("its clock is {offset_ms} ms off ours"))
        });
    }
    lines
}

fn say_round_trips(config: &Config, peer: &PeerSeen, longest: f64) -> Line {
    let median = peer.round_trips_ms[peer.round_trips_ms.len() / 2];
    let seen = format!("round trip {median:.1} ms, at most {longest:.1} ms");
    let least = config.election_timeout_min as f64;
    let advice = |says: &str| {
        let election = ((median * 10.0).max(300.0) / 50.0).ceil() * 50.0;
        format!(
            "{seen}: {says} `election_timeout_min` ({least} ms); for this network: heartbeat_interval {:.0}, election_timeout_min {election:.0}, election_timeout_max {:.0}",
            (election / 3.0).round(),
            election * 2.0
        )
    };
    if median > least / 3.0 {
        line(Grade::Failure, &peer.name, advice("more than a third of"))
    } else if median > least / 10.0 || longest > least {
        line(Grade::Warning, &peer.name, advice("too much for"))
    } else {
        line(Grade::Ok, &peer.name, seen)
    }
}

fn judge_disk(config: &Config, disk: &Result<SyncTimes, String>) -> Line {
    let times = match disk {
        Ok(times) => times,
        Err(why) => return line(Grade::Failure, "data_dir", why.clone()),
    };
    let seen = format!(
        "{} syncs: {:.1} ms in the middle, {:.1} ms at most",
        times.count, times.median_ms, times.longest_ms
    );
    let (beat, least) = (config.heartbeat_interval as f64, config.election_timeout_min as f64);
    if times.median_ms > least / 2.0 {
        line(
            Grade::Failure,
            "data_dir",
            format!(
                "{seen}: votes and writes wait for them, and `election_timeout_min` is {least} ms; use a faster disk or raise the timers"
            ),
        )
    } else if times.median_ms > beat || times.longest_ms > least {
        line(
            Grade::Warning,
            "data_dir",
            format!(
                "{seen}: slow against the timers ({beat} and {least} ms); elections may come without need"
            ),
        )
    } else {
        line(Grade::Ok, "data_dir", seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Config {
        serde_json::from_value(json!({"node_id": "node-1", "host": "a", "data_dir": "/d",
            "peers": [{"id": "node-2", "host": "b"}]}))
        .unwrap()
    }

    fn peer(answer: Answer) -> PeerSeen {
        PeerSeen {
            name: "node-2".into(),
            expected_id: Some("node-2".into()),
            address: "b:8080".into(),
            resolved: Ok(vec!["10.0.0.2".into()]),
            answer,
            round_trips_ms: vec![0.2, 0.3, 0.4],
            clock_offset_ms: Some(3),
        }
    }

    fn measured(peer: PeerSeen) -> Measured {
        Measured {
            peers: vec![peer],
            own: Ok(vec!["10.0.0.1".into()]),
            access: Ok(()),
            ports: vec![("port", 8080, Ok(()))],
            disk: Ok(SyncTimes { median_ms: 2.0, longest_ms: 9.0, count: 50 }),
        }
    }

    /// The worst line.
    fn worst(seen: &Measured) -> Line {
        judge(&config(), seen).into_iter().max_by_key(|line| line.grade).unwrap()
    }

    #[test]
    fn a_sound_place_has_only_good_lines() {
        let lines = judge(&config(), &measured(peer(Answer::Node("node-2".into()))));
        assert!(lines.iter().all(|line| line.grade == Grade::Ok), "{lines:#?}");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn every_answer_of_a_peer_has_its_verdict() {
        for (answer, grade, says) in [
            (Answer::Node("node-1".into()), Grade::Ok, "is this node itself"),
            (Answer::Node("node-3".into()), Grade::Failure, "is node `node-3`, the config calls it `node-2`"),
            (
                Answer::Closed("the cluster secrets differ".into()),
                Grade::Failure,
                "the cluster secrets differ",
            ),
            (Answer::Unasked, Grade::Unknown, "was not asked"),
            (Answer::Refused, Grade::Unknown, "is the node started"),
            (Answer::Silent("timed out".into()), Grade::Failure, "firewall"),
            (Answer::Foreign("404".into()), Grade::Failure, "no coordinator"),
        ] {
            let lines = judge(&config(), &measured(peer(answer.clone())));
            let found = lines
                .iter()
                .find(|line| line.says.contains(says))
                .unwrap_or_else(|| panic!("{answer:?}: {lines:#?}"));
            assert_eq!(found.grade, grade, "{found:?}");
        }
    }

    #[test]
    fn a_name_that_does_not_resolve_is_a_failure() {
        let mut seen = peer(Answer::Refused);
        seen.resolved = Err("no such name".into());
        let line = worst(&measured(seen));
        assert_eq!(line.grade, Grade::Failure);
        assert!(line.says.contains("does not resolve"), "{line:?}");
    }

    #[test]
    fn round_trips_are_held_against_the_timers() {
        let with = |ms: f64| {
            let mut seen = peer(Answer::Node("node-2".into()));
            seen.round_trips_ms = vec![ms; 3];
            worst(&measured(seen))
        };
        assert_eq!(with(14.0).grade, Grade::Ok);
        let wide = with(40.0);
        assert_eq!(wide.grade, Grade::Warning);
        assert!(wide.says.contains("election_timeout_min 400, election_timeout_max 800"), "{wide:?}");
        assert_eq!(with(60.0).grade, Grade::Failure);
    }

    #[test]
    fn a_slow_disk_and_a_wrong_clock_are_warned_of() {
        let mut seen = measured(peer(Answer::Node("node-2".into())));
        seen.disk = Ok(SyncTimes { median_ms: 60.0, longest_ms: 70.0, count: 50 });
        assert_eq!(worst(&seen).grade, Grade::Warning);
        seen.disk = Ok(SyncTimes { median_ms: 80.0, longest_ms: 90.0, count: 50 });
        assert_eq!(worst(&seen).grade, Grade::Failure);
        let mut late = peer(Answer::Node("node-2".into()));
        late.clock_offset_ms = Some(-2_000);
        let line = worst(&measured(late));
        assert!(line.grade == Grade::Warning && line.says.contains("-2000 ms"), "{line:?}");
    }

    #[test]
    fn a_port_that_is_taken_says_by_whom() {
        let mut seen = measured(peer(Answer::Node("node-2".into())));
        seen.ports = vec![("port", 8080, Err(PortTaken::ByItself))];
        assert_eq!(worst(&seen).grade, Grade::Ok);
        seen.ports = vec![("port", 8080, Err(PortTaken::Otherwise("in use".into())))];
        assert_eq!(worst(&seen).grade, Grade::Failure);
    }
}
