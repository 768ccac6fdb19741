//! The machine.

/// The machine.
#[derive(Debug, Default)]
pub struct Machine;
