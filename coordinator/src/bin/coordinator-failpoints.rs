//! The coordinator built so that a test can end it at a chosen point.
//!
//! `FAILPOINTS='log_after_sync=20*off->panic'` ends the process when that point is reached for
//! the 21st time. `coordinator-failpoints failpoints` lists the points and when each is reached.

#[path = "../main.rs"]
mod program;

use coordinator::failpoint::POINTS;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("failpoints") {
        POINTS.iter().for_each(|(name, when)| println!("{name} {when}"));
        return ExitCode::SUCCESS;
    }
    // Reads FAILPOINTS; the points live as long as it does.
    let _scenario = fail::FailScenario::setup();
    program::main()
}
