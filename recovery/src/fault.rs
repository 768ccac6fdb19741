//! The failures by name: the monitor's, so that both speak of the same thing.

pub use monitor::detectors::{FaultKind, Finding};
