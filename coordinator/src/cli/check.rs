//! `coordinator --check-config`.

use super::{EXIT_NOT_SO, print};
use crate::config::effective::effective;
use crate::config::{Grade, Reading};
use std::process::ExitCode;

/// Prints the config as it counts on standard output, and what is to be said of it on standard
/// error.
pub fn check_config(reading: &Reading) -> ExitCode {
    if let Some(config) = &reading.config {
        print::json(&effective(config));
    }
    reading.remarks.iter().for_each(|remark| print::say(&remark.to_string()));
    reading.faults.iter().for_each(|fault| print::say(&format!("fault: {fault}")));
    let warnings = reading.remarks.iter().filter(|remark| remark.grade == Grade::Warning).count();
    let warnings = print::counted(warnings, "warning");
    match (&reading.config, reading.faults.len()) {
        (Some(config), 0) => {
            print::say(&format!("the config of node {} is valid; {warnings}", config.node_id));
            ExitCode::SUCCESS
        }
        (_, faults) => {
            let faults = print::counted(faults, "fault");
            print::say(&format!("the config is not valid; {faults}, {warnings}"));
            ExitCode::from(EXIT_NOT_SO)
        }
    }
}
