//! What goes before the first frame: who is there, and whether it may be.
//!
//! A handshake names cluster, node, incarnation, the process (boot counter and nonce) and where
//! its log ends. Two processes of one incarnation, and one whose directory is an older copy of
//! itself, are refused here, before anything of theirs reaches Raft: their votes and
//! acknowledgements would be worth nothing.

use crate::raft::clocks::PeerClock;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The header that carries it.
pub(crate) const HANDSHAKE: &str = "x-holdfast-handshake";
/// Names the verdict in the refusal of a handshake.
pub(super) const VERDICT: &str = "x-holdfast-verdict";
/// Another process of a member that was heard so lately is alive.
const ALIVE: Duration = Duration::from_millis(700);

/// What goes before the first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handshake {
    pub(super) cluster_id: String,
    pub(super) node_id: String,
    pub(super) incarnation: String,
    pub(super) boot_counter: u64,
    pub(super) boot_nonce: u64,
    pub(super) now_ms: i64,
    /// Where it is reached, as its config says now.
    #[serde(default)]
    pub(super) address: String,
    /// The newest machine version its program knows.
    #[serde(default = "first_version")]
    pub(super) machine_version: u32,
    /// True where its log lost its end.
    #[serde(default)]
    pub(super) suspect: bool,
    /// Last index of its log; none from a program that does not tell.
    #[serde(default)]
    pub(super) last_index: Option<u64>,
}

const fn first_version() -> u32 {
    1
}

/// What a peer's refusal means for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken out of the cluster.
    Removed,
    /// Its directory is an older copy of what it has already acknowledged from.
    RolledBack,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Verdict::Removed => "removed",
            Verdict::RolledBack => "rolled_back",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Verdict> {
        [Verdict::Removed, Verdict::RolledBack].into_iter().find(|v| v.as_str() == text)
    }
}

/// Why a handshake is refused.
pub(super) struct Refusal {
    pub(super) why: String,
    pub(super) verdict: Option<Verdict>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Refusal { why, verdict: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct PeerState {
    pub(super) connected: bool,
    pub(super) last_heard: Option<Instant>,
    pub(super) clock: PeerClock,
    pub(super) error: Option<String>,
    /// The newest boot that shook hands with us, and when it was heard last.
    pub(super) boot: Option<(u64, u64)>,
    pub(super) boot_heard: Option<Instant>,
    /// The highest start number that was seen of it before this process began.
    pub(super) boot_before: Option<u64>,
    pub(super) match_index: Option<u64>,
    pub(super) machine_version: Option<u32>,
    /// The process that said goodbye, and when; forgotten when another one is met.
    pub(super) left: Option<(u64, Instant)>,
    /// True once it was told that this process ends.
    pub(super) told_goodbye: bool,
}

impl PeerState {
    /// Takes a handshake's news; refuses a second process of one incarnation, and one whose log
    /// ends before what it has acknowledged.
    pub(super) fn meet(&mut self, hello: &Handshake) -> Result<(), Refusal> {
        let boot = (hello.boot_counter, hello.boot_nonce);
        if let (Some(least), None) = (self.boot_before, self.boot)
            && boot.0 < least
        {
            return Err(older_copy(hello, least));
        }
        if let Some(known) = self.boot
            && known != boot
        {
            let alive = self.boot_heard.is_some_and(|at| at.elapsed() < ALIVE);
            if alive {
                return Err(format!(
                    "another process of node {} (its start number {}) is connected; this one is number {}: two processes share one data directory or a copy of it",
                    hello.node_id, known.0, boot.0
                )
                .into());
            }
            if boot.0 <= known.0 {
                return Err(older_copy(hello, known.0));
            }
        }
        if let (Some(acknowledged), Some(last)) = (self.match_index, hello.last_index)
            && last < acknowledged
            && self.boot != Some(boot)
            && !hello.suspect
        {
            return Err(Refusal {
                why: format!(
                    "node {} has acknowledged index {acknowledged}, and its log ends at {last}: its data directory was rolled back",
                    hello.node_id
                ),
                verdict: Some(Verdict::RolledBack),
            });
        }
        if self.boot != Some(boot) {
            self.left = None;
            self.boot = Some(boot);
            self.boot_heard = Some(Instant::now());
        }
        self.machine_version = Some(hello.machine_version);
        Ok(())
    }
}

fn older_copy(hello: &Handshake, seen: u64) -> Refusal {
    Refusal {
        why: format!(
            "node {} was seen at its start number {seen}, and this process is number {}: its data directory is an older copy of the one it had",
            hello.node_id, hello.boot_counter
        ),
        verdict: Some(Verdict::RolledBack),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(boot_counter: u64, boot_nonce: u64, last_index: u64) -> Handshake {
        Handshake {
            cluster_id: "c".into(),
            node_id: "n1".into(),
            incarnation: "i".into(),
            boot_counter,
            boot_nonce,
            now_ms: 0,
            address: String::new(),
            machine_version: 2,
            suspect: false,
            last_index: Some(last_index),
        }
    }

    fn verdict(state: &mut PeerState, hello: &Handshake) -> Result<(), Option<Verdict>> {
        state.meet(hello).map_err(|refusal| refusal.verdict)
    }

    #[test]
    fn a_restart_is_met_and_a_twin_is_not() {
        let mut state = PeerState::default();
        assert_eq!(verdict(&mut state, &hello(1, 10, 5)), Ok(()));
        assert_eq!(verdict(&mut state, &hello(1, 10, 5)), Ok(()), "a second connection of one process");
        assert_eq!(verdict(&mut state, &hello(2, 20, 5)), Err(None), "the first one is still heard");
        state.boot_heard = None;
        assert_eq!(verdict(&mut state, &hello(2, 20, 5)), Ok(()), "a restart");
        state.boot_heard = None;
        assert_eq!(verdict(&mut state, &hello(1, 30, 5)), Err(Some(Verdict::RolledBack)), "an older copy");
        assert_eq!(verdict(&mut state, &hello(2, 30, 5)), Err(Some(Verdict::RolledBack)));
    }

    #[test]
    fn a_goodbye_is_forgotten_once_another_process_is_met() {
        let mut state = PeerState::default();
        assert_eq!(verdict(&mut state, &hello(1, 10, 5)), Ok(()));
        state.left = Some((10, Instant::now()));
        assert_eq!(verdict(&mut state, &hello(1, 10, 5)), Ok(()), "the process that is going");
        assert!(state.left.is_some());
        state.boot_heard = None;
        assert_eq!(verdict(&mut state, &hello(2, 20, 5)), Ok(()));
        assert_eq!(state.left, None);
    }

    #[test]
    fn an_older_copy_is_known_after_a_restart_of_this_node() {
        let mut state = PeerState { boot_before: Some(5), ..PeerState::default() };
        assert_eq!(verdict(&mut state, &hello(4, 1, 9)), Err(Some(Verdict::RolledBack)));
        assert_eq!(verdict(&mut state, &hello(5, 2, 9)), Ok(()), "it ran all the time");
    }

    #[test]
    fn a_log_that_ends_before_what_it_acknowledged_is_refused() {
        let mut state = PeerState { match_index: Some(100), ..PeerState::default() };
        assert_eq!(verdict(&mut state, &hello(3, 1, 99)), Err(Some(Verdict::RolledBack)));
        assert_eq!(verdict(&mut state, &hello(3, 1, 100)), Ok(()));
        state.boot_heard = None;
        let torn = Handshake { suspect: true, ..hello(4, 2, 99) };
        assert_eq!(verdict(&mut state, &torn), Ok(()), "a torn end is told as such");
        let verdicts = [Verdict::Removed, Verdict::RolledBack];
        assert!(verdicts.into_iter().all(|v| Verdict::parse(v.as_str()) == Some(v)));
    }
}
