//! What this node notices by itself: differences between two looks.
//!
//! The comparison is a function of two looks. The task that looks is woken when
//! role, leader or term change, and looks at the rest (disk, memory, peers, clocks, database,
//! checks) twice a second. What came and went between two looks is not told.

use super::Occurrence;
use crate::http::App;
use crate::integrity::Part;
use crate::node::RaftView;
use crate::room::DiskLevel;
use api::cluster::{PeerStatus, Role};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at what wakes nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A peer's clock that is farther away is told, milliseconds.
const CLOCK_OFF_MS: u64 = 250;
/// It is told to be right again below, milliseconds.
const CLOCK_RIGHT_MS: u64 = 200;

/// One look.
#[derive(Debug, Clone, PartialEq)]
struct Look {
    node_id: String,
    role: Role,
    role_detail: Option<String>,
    leader: Option<String>,
    term: u64,
    disk: DiskLevel,
    memory_over: bool,
    peers: BTreeMap<String, Peer>,
    /// What is wrong with the database.
    db_fault: Option<String>,
    /// What the last check of a part found wrong.
    damage: BTreeMap<&'static str, String>,
}

/// A peer in a look.
#[derive(Debug, Clone, Default, PartialEq)]
struct Peer {
    reachable: bool,
    error: Option<String>,
    clock_offset_ms: Option<i64>,
    clock_off: bool,
}

impl Look {
    /// Before anything was seen.
    fn nothing(node_id: &str) -> Look {
        Look {
            node_id: node_id.to_owned(),
            role: Role::Uninitialised,
            role_detail: None,
            leader: None,
            term: 0,
            disk: DiskLevel::Open,
            memory_over: false,
            peers: BTreeMap::new(),
            db_fault: None,
            damage: BTreeMap::new(),
        }
    }

    fn take_view(&mut self, view: RaftView) {
        self.role = view.role;
        self.role_detail = view.role_detail;
        self.leader = view.leader;
        self.term = view.term;
    }

    fn take_peers(&mut self, statuses: Vec<PeerStatus>) {
        let before = std::mem::take(&mut self.peers);
        let taken = statuses.into_iter().map(|status| {
            let was_off = before.get(&status.node_id).is_some_and(|peer| peer.clock_off);
            let bound_ms = if was_off { CLOCK_RIGHT_MS } else { CLOCK_OFF_MS };
            let clock_off = status.clock_offset_ms.is_some_and(|ms| ms.unsigned_abs() > bound_ms);
            let (reachable, error, clock_offset_ms) =
                (status.reachable, status.error, status.clock_offset_ms);
            (status.node_id, Peer { reachable, error, clock_offset_ms, clock_off })
        });
        self.peers = taken.collect();
    }
}

/// What happened between two looks.
fn differences(before: &Look, after: &Look) -> Vec<Occurrence> {
    let mut told = Vec::new();
    role(before, after, &mut told);
    leader(before, after, &mut told);
    resources(before, after, &mut told);
    for (id, peer) in &after.peers {
        peer_changed(id, before.peers.get(id), peer, &mut told);
    }
    let own = after.node_id.as_str();
    match (&before.db_fault, &after.db_fault) {
        (None, Some(why)) => told.push(Occurrence::new("database_broken", own, why.clone())),
        (Some(_), None) => told.push(Occurrence::new("database_sound", own, "takes effects again")),
        _ => {}
    }
    for (part, what) in &after.damage {
        if before.damage.get(part) != Some(what) {
            told.push(Occurrence::new("damage_found", own, format!("{part}: {what}")));
        }
    }
    for part in before.damage.keys().filter(|part| !after.damage.contains_key(*part)) {
        told.push(Occurrence::new("damage_gone", own, format!("{part}: the last check found it sound")));
    }
    told
}

fn role(before: &Look, after: &Look, told: &mut Vec<Occurrence>) {
    if before.role == after.role {
        return;
    }
    let kind = match after.role {
        Role::Suspect => "node_suspect",
        Role::Failed => "node_failed",
        Role::Removed => "node_removed",
        _ => "role_changed",
    };
    let why = after.role_detail.as_deref().map_or(String::new(), |why| format!(": {why}"));
    told.push(Occurrence::new(kind, &after.node_id, format!("{} -> {}{why}", before.role, after.role)));
}

fn leader(before: &Look, after: &Look, told: &mut Vec<Occurrence>) {
    match (&before.leader, &after.leader) {
        (Some(old), None) => {
            told.push(Occurrence::new(
                "leader_lost",
                old,
                format!("no leader is known in term {}", after.term),
            ));
        }
        (old, Some(new)) if old.as_ref() != Some(new) || before.term != after.term => {
            told.push(Occurrence::new("leader_changed", new, format!("leads term {}", after.term)));
        }
        _ => {}
    }
}

fn resources(before: &Look, after: &Look, told: &mut Vec<Occurrence>) {
    let own = after.node_id.as_str();
    if before.disk != after.disk {
        told.push(match after.disk {
            DiskLevel::Open => Occurrence::new("disk_writable", own, "there is room again; writes are taken"),
            DiskLevel::ReadOnly => {
                Occurrence::new("disk_read_only", own, "the disk is at its floor; no writes are taken")
            }
            DiskLevel::Closed => Occurrence::new(
                "disk_closed",
                own,
                "the disk is full; the log can't grow until there is room",
            ),
        });
    }
    match (before.memory_over, after.memory_over) {
        (false, true) => {
            told.push(Occurrence::new("memory_over", own, "above `max_memory_mb`; new tasks are refused"));
        }
        (true, false) => told.push(Occurrence::new("memory_below", own, "below `max_memory_mb` again")),
        _ => {}
    }
}

fn peer_changed(id: &str, before: Option<&Peer>, after: &Peer, told: &mut Vec<Occurrence>) {
    let new = Peer::default();
    let before = before.unwrap_or(&new);
    match (before.reachable, after.reachable) {
        (true, false) => {
            let why = after.error.as_deref().unwrap_or("its connection is gone");
            told.push(Occurrence::new("peer_unreachable", id, why));
        }
        (false, true) => told.push(Occurrence::new("peer_reachable", id, "its connection is up")),
        _ => {}
    }
    let offset_ms = after.clock_offset_ms.unwrap_or(0);
    match (before.clock_off, after.clock_off) {
        (false, true) => {
            let why = format!("its clock is {offset_ms} ms from ours; is time synchronised on both?");
            told.push(Occurrence::new("clock_off", id, why));
        }
        (true, false) => {
            told.push(Occurrence::new("clock_right", id, format!("its clock is {offset_ms} ms from ours")));
        }
        _ => {}
    }
}

/// Looks and tells until `stop`.
pub fn spawn(app: App, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let events = app.node.events().clone();
        let mut raft = app.node.watch();
        let mut last = Look::nothing(app.node.node_id());
        events.noticed(0, Occurrence::new("node_started", app.node.node_id(), api::VERSION));
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut look = last.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = raft.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => return,
                },
                _ = ticks.tick() => look_round(&app, &mut look),
            }
            look.take_view(app.node.view());
            for what in differences(&last, &look) {
                events.noticed(look.term, what);
            }
            last = look;
        }
    })
}

fn look_round(app: &App, look: &mut Look) {
    look.disk = app.node.room().disk();
    look.memory_over = app.node.room().memory_over();
    look.take_peers(app.node.peers());
    let db = app.store.health();
    look.db_fault = (!db.healthy).then_some(db.detail);
    let unsound = |part: Part| {
        let last = app.integrity.last(part)?;
        (!last.sound).then_some((part.as_str(), last.detail))
    };
    look.damage = Part::ALL.into_iter().filter_map(unsound).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Look {
        let mut look = Look::nothing("n1");
        (look.role, look.leader, look.term) = (Role::Follower, Some("n2".into()), 4);
        look.take_peers(vec![peer("n2", true, 3)]);
        look
    }

    fn peer(id: &str, reachable: bool, clock_offset_ms: i64) -> PeerStatus {
        PeerStatus {
            node_id: id.into(),
            address: "127.0.0.1:1".into(),
            reachable,
            last_contact_ms: Some(1),
            rtt_ms: None,
            match_index: None,
            clock_offset_ms: Some(clock_offset_ms),
            error: None,
            goodbye: None,
        }
    }

    fn after(change: impl FnOnce(&mut Look)) -> Vec<(&'static str, String)> {
        let before = sound();
        let mut look = before.clone();
        change(&mut look);
        differences(&before, &look).into_iter().map(|what| (what.kind, what.subject)).collect()
    }

    fn one(kind: &'static str, subject: &str) -> Vec<(&'static str, String)> {
        vec![(kind, subject.to_owned())]
    }

    #[test]
    fn nothing_new_is_nothing_told() {
        assert_eq!(after(|_| {}), []);
        assert_eq!(after(|look| look.role_detail = Some("another word for it".into())), []);
        assert_eq!(after(|look| look.take_peers(vec![peer("n2", true, 240)])), []);
    }

    #[test]
    fn leaders_are_told_when_they_come_go_and_come_again() {
        assert_eq!(after(|look| look.leader = None), one("leader_lost", "n2"));
        assert_eq!(after(|look| look.leader = Some("n3".into())), one("leader_changed", "n3"));
        assert_eq!(after(|look| look.term = 5), one("leader_changed", "n2"), "the same one, elected anew");
        let mut lost = sound();
        (lost.leader, lost.term) = (None, 5);
        let mut later = lost.clone();
        later.term = 6;
        assert_eq!(differences(&lost, &later), [], "a term without a leader is no event");
        assert_eq!(differences(&lost, &sound())[0].kind, "leader_changed");
    }

    #[test]
    fn roles_that_take_no_part_have_a_kind_of_their_own() {
        assert_eq!(after(|look| look.role = Role::Candidate), one("role_changed", "n1"));
        assert_eq!(after(|look| look.role = Role::Suspect), one("node_suspect", "n1"));
        assert_eq!(after(|look| look.role = Role::Failed), one("node_failed", "n1"));
        assert_eq!(after(|look| look.role = Role::Removed), one("node_removed", "n1"));
    }

    #[test]
    fn disk_memory_and_database_are_told_both_ways() {
        let full = |look: &mut Look| {
            (look.disk, look.memory_over, look.db_fault) =
                (DiskLevel::ReadOnly, true, Some("can't be written".into()));
        };
        let kinds = |told: Vec<Occurrence>| told.into_iter().map(|what| what.kind).collect::<Vec<_>>();
        let mut broken = sound();
        full(&mut broken);
        assert_eq!(
            kinds(differences(&sound(), &broken)),
            ["disk_read_only", "memory_over", "database_broken"]
        );
        assert_eq!(
            kinds(differences(&broken, &sound())),
            ["disk_writable", "memory_below", "database_sound"]
        );
        assert_eq!(after(|look| look.disk = DiskLevel::Closed), one("disk_closed", "n1"));
    }

    #[test]
    fn damage_is_told_once_and_when_it_is_gone() {
        let mut damaged = sound();
        damaged.damage.insert("db", "12 rows are missing".into());
        assert_eq!(differences(&sound(), &damaged)[0].detail, "db: 12 rows are missing");
        assert_eq!(differences(&damaged, &damaged.clone()), []);
        assert_eq!(differences(&damaged, &sound())[0].kind, "damage_gone");
    }

    #[test]
    fn peers_and_their_clocks_are_told_without_fluttering() {
        assert_eq!(after(|look| look.take_peers(vec![peer("n2", false, 3)])), one("peer_unreachable", "n2"));
        let with_third = |look: &mut Look| look.take_peers(vec![peer("n2", true, 3), peer("n3", true, 0)]);
        assert_eq!(after(with_third), one("peer_reachable", "n3"));
        assert_eq!(after(|look| look.take_peers(vec![peer("n2", true, -251)])), one("clock_off", "n2"));
        let mut off = sound();
        off.take_peers(vec![peer("n2", true, 300)]);
        let mut less = off.clone();
        less.take_peers(vec![peer("n2", true, 201)]);
        assert_eq!(differences(&off, &less), []);
        let mut right = less.clone();
        right.take_peers(vec![peer("n2", true, 199)]);
        assert_eq!(differences(&less, &right)[0].kind, "clock_right");
    }
}
