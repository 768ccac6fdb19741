//! `testbed chaos`: faults made on purpose, against real processes under load.

pub mod calm;
pub mod crash;
pub mod detect;
pub mod injure;
pub mod memory;
pub mod patient;
pub mod points;
pub mod record;
pub mod report;

use crate::Error;
use clap::Subcommand;

/// Which faults.
#[derive(Debug, Clone, Subcommand)]
pub enum Part {
    /// Kill coordinators, at failpoints and at random moments, while tasks are written and run
    Crash(crash::Arguments),
    /// Make failures one after another, and measure how soon each is named and alerted
    Detect(detect::Arguments),
    /// Make failures, and record what the monitor saw of each for its tests
    Record(record::Arguments),
    /// Load, transfers and rolling restarts: nothing may be found above info, and no alert fire
    Calm(calm::Arguments),
}

/// Does it.
pub async fn run(part: Part) -> Result<(), Error> {
    match part {
        Part::Crash(arguments) => crash::run(arguments).await,
        Part::Detect(arguments) => detect::run(arguments).await,
        Part::Record(arguments) => record::run(arguments).await,
        Part::Calm(arguments) => calm::run(arguments).await,
    }
}
