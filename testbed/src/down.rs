//! `testbed down`: ends a cluster, in the order in which nothing is started again behind us.
//!
//! The recovery daemon goes first, or it would start what is ended. Then Prometheus and Alertmanager,
//! which would call it an outage; then the workers, which report
//! what they finish to coordinators that still run; then the monitor; the coordinators last.

use crate::Error;
use crate::process::{ProcessRef, TERM_GRACE, end};
use crate::record::Record;
use std::path::Path;
use std::time::Duration;

/// How long a foreground `testbed up` may take to end what it started.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(60);

/// Ends everything that `record` names and all coordinators that run from its config files.
///
/// Returns what was ended. Everything is tried, also after an error; the first one is returned.
pub fn end_all(record: &mut Record) -> Result<Vec<ProcessRef>, Error> {
    let mut ended = Vec::new();
    let mut failure = None;
    let mut end_group = |group: Vec<ProcessRef>| match end(&group, TERM_GRACE) {
        Ok(gone) => ended.extend(gone),
        Err(error) => failure = failure.take().or(Some(error)),
    };
    end_group(record.recovery.take().into_iter().collect());
    end_group(std::mem::take(&mut record.observability));
    end_group(std::mem::take(&mut record.workers));
    end_group(record.monitor.take().into_iter().collect());
    end_group(record.running_coordinators());
    // A process that the daemon had just forked is found only now.
    end_group(record.running_coordinators());
    record.coordinators.clear();
    record.supervisor = None;
    record.write()?;
    match failure {
        None => Ok(ended),
        Some(error) => Err(error),
    }
}

/// The command: ends the cluster of a data folder and says what it ended.
pub fn run(data: &Path) -> Result<(), Error> {
    let data = std::path::absolute(data).map_err(Error::io(format!("find {}", data.display())))?;
    let Some(mut record) = Record::read(&data)? else {
        println!("nothing runs from {}: there is no testbed.json", data.display());
        return Ok(());
    };
    if let Some(supervisor) = record.supervisor.clone().filter(ProcessRef::is_alive) {
        println!("ending the foreground testbed (pid {}) and what it started", supervisor.pid);
        end(&[supervisor], SUPERVISOR_GRACE)?;
        // It has rewritten the file by now.
        record = Record::read(&data)?.unwrap_or(record);
    }
    let ended = end_all(&mut record)?;
    for process in &ended {
        println!("ended {} (pid {})", process.name, process.pid);
    }
    println!("nothing runs from {} any more; logs and data are still there", data.display());
    Ok(())
}
