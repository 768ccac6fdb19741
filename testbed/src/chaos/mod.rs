//! `testbed chaos`: faults made on purpose, against real processes under load.

pub mod crash;
pub mod points;
pub mod report;

use crate::Error;
use clap::Subcommand;

/// Which faults.
#[derive(Debug, Clone, Subcommand)]
pub enum Part {
    /// Kill coordinators, at failpoints and at random moments, while tasks are written and run
    Crash(crash::Arguments),
}

/// Does it.
pub async fn run(part: Part) -> Result<(), Error> {
    match part {
        Part::Crash(arguments) => crash::run(arguments).await,
    }
}
