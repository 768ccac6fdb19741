//! Tests of the machine, the scheduler and the encoding of commands.

mod encoding;
mod golden;
mod lessons;
mod memory;
mod properties;
mod script;
mod snapshots;
