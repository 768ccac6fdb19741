//! What a running `testbed up` writes down, so that `testbed down` can end it: `testbed.json`.
//!
//! The file is written after every start, before the next one: a testbed that dies half-way leaves
//! a file that names everything it had started. The file also marks the folder as ours.

use crate::Error;
use crate::layout::Layout;
use crate::process::ProcessRef;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where everything lies.
    pub layout: Layout,
    /// The `testbed up` that stays in the foreground, while it does.
    pub supervisor: Option<ProcessRef>,
    /// The recovery daemon.
    pub recovery: Option<ProcessRef>,
    /// Alertmanager and Prometheus.
    #[serde(default)]
    pub observability: Vec<ProcessRef>,
    /// The workers.
    pub workers: Vec<ProcessRef>,
    /// The monitor.
    pub monitor: Option<ProcessRef>,
    /// The coordinators, as they were started by us.
    pub coordinators: Vec<ProcessRef>,
}

impl Record {
    /// A record of nothing yet.
    pub fn new(layout: Layout) -> Record {
        Record {
            layout,
            supervisor: None,
            recovery: None,
            observability: Vec::new(),
            workers: Vec::new(),
            monitor: None,
            coordinators: Vec::new(),
        }
    }

    /// Where it lies in a data folder.
    pub fn path(data: &Path) -> PathBuf {
        data.join("testbed.json")
    }

    /// Reads the record of a data folder; none where there is no such file.
    pub fn read(data: &Path) -> Result<Option<Record>, Error> {
        let path = Record::path(data);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::Setting(format!("{} can't be read: {e}", path.display())))
    }

    /// Writes it, whole or not at all.
    pub fn write(&self) -> Result<(), Error> {
        let path = Record::path(&self.layout.data);
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(&draft, text))
            .and_then(|()| std::fs::rename(&draft, &path))
            .map_err(Error::io(format!("write {}", path.display())))
    }

    /// Everything of it that runs now, what the recovery daemon started included.
    pub fn running(&self) -> Vec<ProcessRef> {
        let mut all: Vec<ProcessRef> = self.recovery.iter().cloned().collect();
        all.extend(self.observability.iter().cloned());
        all.extend(self.workers.iter().cloned());
        all.extend(self.monitor.clone());
        all.retain(ProcessRef::is_alive);
        all.extend(self.running_coordinators());
        all
    }

    /// The coordinators that run now, whoever started them: ours by pid, others by config file.
    pub fn running_coordinators(&self) -> Vec<ProcessRef> {
        let mut found: Vec<ProcessRef> = self.coordinators.iter().filter(|p| p.is_alive()).cloned().collect();
        for node in self.layout.node_places() {
            for process in crate::process::coordinators_with_config(&node.id, &node.config) {
                if !found.iter().any(|known| known.pid == process.pid) {
                    found.push(process);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let mut record = Record::new(Layout { data: folder.path().into(), nodes: 3, base_port: 8080 });
        record.monitor = ProcessRef::of("monitor", std::process::id());
        assert!(record.monitor.is_some());
        record.write().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record.clone()));
        assert_eq!(record.running(), record.monitor.into_iter().collect::<Vec<_>>());
    }
}
