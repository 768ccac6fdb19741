//! The machine's version: which behaviour the log may count on.
//!
//! It rises by a logged command, when every member's program knows the higher one. Until then
//! what is new in that version is refused where it is asked for. A program that finds a higher
//! version than it knows, in the log or in a snapshot, stops and says so: going on, it would
//! come to another state than the others. A downgrade is therefore possible until the rise and
//! refused after it.

use super::Machine;
use crate::command::{Command, Reply};

/// The newest version this program knows. 1: tasks, workers, leases, settings, idempotency keys. 2: changes of the
/// membership.
pub const MACHINE_VERSION: u32 = 2;
/// From this version on the membership may change.
pub const MEMBERS_SINCE: u32 = 2;

impl Machine {
    /// The version that the log has reached.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Refuses what this program can't apply without parting from the others.
    ///
    /// To be asked before each command is applied; the node has to stop at an error.
    pub fn admit(&self, command: &Command) -> Result<(), String> {
        match command {
            Command::RaiseVersion { to } if *to > MACHINE_VERSION => Err(format!(
                "the cluster's machine version rises to {to}, this program knows up to {MACHINE_VERSION}: update the program on this node"
            )),
            _ => Ok(()),
        }
    }

    /// Versions only rise; a lower or equal one changes nothing.
    pub(super) fn raise_version(&mut self, to: u32) -> Reply {
        self.version = self.version.max(to);
        Reply::Done
    }
}

/// The version that every one of `known` has, where it is above `present`.
pub fn rise_due(present: u32, known: impl IntoIterator<Item = u32>) -> Option<u32> {
    known.into_iter().min().map(|lowest| lowest.min(MACHINE_VERSION)).filter(|to| *to > present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Stamp;

    #[test]
    fn it_rises_when_the_last_one_knows_it_and_never_falls() {
        assert_eq!(rise_due(1, [2, 1, 2]), None, "one voter's program is older");
        assert_eq!(rise_due(1, [2, 2, 3]), Some(2));
        assert_eq!(rise_due(2, [2, 2]), None);
        assert_eq!(rise_due(1, []), None, "nobody was asked");
        let mut machine = Machine::new();
        let before = machine.checksum();
        machine.apply(1, 1, Stamp::default(), &Command::RaiseVersion { to: 2 }, &mut Vec::new());
        machine.finish_entry(1, 1, &[]);
        assert_eq!(machine.version(), 2);
        assert_ne!(machine.checksum(), before);
        machine.apply(2, 1, Stamp::default(), &Command::RaiseVersion { to: 1 }, &mut Vec::new());
        machine.finish_entry(2, 1, &[]);
        assert_eq!(machine.version(), 2);
    }

    #[test]
    fn a_version_that_is_not_known_stops_the_node() {
        let why = Machine::new().admit(&Command::RaiseVersion { to: MACHINE_VERSION + 1 }).unwrap_err();
        assert!(why.contains("update the program"), "{why}");
        assert_eq!(Machine::new().admit(&Command::RaiseVersion { to: MACHINE_VERSION }), Ok(()));
    }
}
