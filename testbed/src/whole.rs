//! The whole product for a test: `testbed up`, run as a user would, and ended with the test.
//!
//! It stays in the foreground of its own process, and is told to end when the thread that started
//! it does, so that a test that is killed leaves no cluster behind.

use crate::binaries::Binaries;
use crate::layout::{Layout, NodePlace};
use crate::ports::Ports;
use crate::process::{Lifetime, ProcessRef, Started, end, last_lines};
use crate::record::Record;
use crate::{Error, wait};
use api::Client;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// How long `up` may take until everything runs and the suite is through.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// How long it may take to end everything.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Its last line.
const RUNNING: &str = "running until Ctrl-C";

/// A cluster with everything around it.
pub struct Whole {
    folder: TempDir,
    layout: Layout,
    up: Started,
    _ports: Ports,
}

impl Whole {
    /// Runs `testbed up` with these further arguments and waits until it stays.
    pub async fn start(nodes: usize, more: &[&str]) -> Result<Whole, Error> {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-")
            .tempdir()
            .map_err(Error::io("create a temporary folder"))?;
        let data = folder.path().join("up");
        let laid_out = |base_port| Layout { data: data.clone(), nodes, base_port };
        let (base_port, ports) = Ports::take_laid_out(|base_port| {
            laid_out(base_port).ports(true, true).into_iter().map(|(port, _)| port).collect()
        })?;
        let layout = laid_out(base_port);
        let mut arguments = vec!["up".to_owned(), "--data".into(), data.display().to_string()];
        arguments.extend(["--nodes".into(), nodes.to_string(), "--base-port".into(), base_port.to_string()]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let log = folder.path().join("up.log");
        let program = Binaries::find()?.path("testbed")?;
        let up = Started::spawn("testbed up", &program, &arguments, &log, Lifetime::AskedWithParent)?;
        let mut whole = Whole { folder, layout, up, _ports: ports };
        whole.wait_until_it_stays(&log).await?;
        Ok(whole)
    }

    async fn wait_until_it_stays(&mut self, log: &Path) -> Result<(), Error> {
        let up = std::cell::RefCell::new(&mut self.up);
        let stays = wait::until("testbed up to have started everything", UP_LIMIT, || async {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            if text.lines().any(|line| line == RUNNING) {
                return Ok(Ok(()));
            }
            match up.borrow_mut().check_alive() {
                Err(ended) => Ok(Err(ended)),
                Ok(()) => Err(last_lines(log, 1).join("")),
            }
        });
        stays.await?
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What `up` has printed.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    /// The coordinators' places.
    pub fn places(&self) -> Vec<NodePlace> {
        self.layout.node_places()
    }

    /// A client that follows the leader.
    pub fn client(&self) -> Result<Client, Error> {
        let addresses: Vec<String> = self.places().iter().map(NodePlace::address).collect();
        Client::new(addresses).map_err(Error::client("make a client"))
    }

    /// What runs, as `up` wrote it down.
    pub fn record(&self) -> Result<Record, Error> {
        let record = Record::read(&self.layout.data)?;
        record.ok_or_else(|| Error::Setting(format!("{} has no record", self.layout.data.display())))
    }

    /// The process that runs a coordinator now, whoever started it.
    pub fn coordinator(&self, node_id: &str) -> Result<ProcessRef, Error> {
        let running = self.record()?.running_coordinators();
        let found = running.into_iter().find(|process| process.name == node_id);
        found.ok_or_else(|| Error::Setting(format!("{node_id} does not run")))
    }

    /// Where a program of it serves its metrics: every coordinator, the monitor, the daemon.
    pub fn metrics_urls(&self) -> Vec<String> {
        let mut ports: Vec<u16> = self.places().iter().map(|place| place.prometheus_port).collect();
        ports.extend([self.layout.monitor_port(), self.layout.recovery_port()]);
        ports.into_iter().map(|port| format!("http://127.0.0.1:{port}/metrics")).collect()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- testbed up\n{}", last_lines(&self.folder.path().join("up.log"), 40).join("\n"));
            let logs = std::fs::read_dir(self.layout.data.join("logs")).into_iter().flatten().flatten();
            for log in logs {
                let tail = last_lines(&log.path(), 15).join("\n");
                eprintln!("--- {}\n{tail}", log.file_name().to_string_lossy());
            }
        }
        let _ = end(std::slice::from_ref(&self.up.process), END_LIMIT);
        self.up.kill9();
    }
}
