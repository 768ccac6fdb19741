//! A cluster of real coordinators for tests and measurements.
//!
//! It lives in a temporary folder, on ports that nobody else gets, and its processes die with it:
//! when it is dropped, and by the system's hand when the thread that started them ends. So start
//! it from the test's own thread (or one that lives as long).

use crate::binaries::Binaries;
use crate::layout::{NodePlace, write_node_configs};
use crate::ports::Ports;
use crate::process::{Lifetime, Started, TERM_GRACE, end, last_lines};
use crate::{Error, wait};
use api::Client;
use api::cluster::{ConfigReload, Report, Role, StateChecksum, Status};
use rustix::process::Signal;
use std::time::Duration;
use tempfile::TempDir;

/// How long a node may take until it serves.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// Coordinators and workers on this machine.
pub struct Cluster {
    folder: TempDir,
    places: Vec<NodePlace>,
    nodes: Vec<Option<Started>>,
    workers: Vec<Started>,
    binaries: Binaries,
    program: &'static str,
    environments: Vec<Vec<(String, String)>>,
    http: reqwest::Client,
    _ports: Vec<Ports>,
}

impl Cluster {
    /// Starts `count` coordinators with the programs that [`Binaries::find`] finds, and waits
    /// until all serve.
    pub async fn start(count: usize) -> Result<Cluster, Error> {
        Cluster::start_with(count, Binaries::find()?).await
    }

    /// Starts `count` coordinators with these programs, and waits until all serve.
    pub async fn start_with(count: usize, binaries: Binaries) -> Result<Cluster, Error> {
        let mut cluster = Cluster::prepare(count, binaries, "coordinator")?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// Lays out `count` coordinators that run this program, and starts none.
    pub fn prepare(count: usize, binaries: Binaries, program: &'static str) -> Result<Cluster, Error> {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-")
            .tempdir()
            .map_err(Error::io("create a temporary folder"))?;
        let ports = Ports::take(2 * count)?;
        let places: Vec<NodePlace> = (0..count)
            .map(|i| NodePlace::new(folder.path(), i, ports.as_slice()[i], ports.as_slice()[count + i]))
            .collect();
        write_node_configs(&places)?;
        Ok(Cluster {
            folder,
            nodes: (0..count).map(|_| None).collect(),
            places,
            workers: Vec::new(),
            binaries,
            program,
            environments: vec![Vec::new(); count],
            http: wait::http(),
            _ports: vec![ports],
        })
    }

    /// Starts every coordinator and waits until all serve.
    pub async fn start_all(&mut self) -> Result<(), Error> {
        for index in 0..self.len() {
            self.start_node(index)?;
        }
        self.wait_all_ready(READY_LIMIT).await
    }

    /// Sets keys of node `index`'s config file; it reads them at its next start.
    pub fn configure(&self, index: usize, settings: &serde_json::Value) -> Result<(), Error> {
        let path = &self.places[index].config;
        let change = || {
            let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
            if let (Some(keys), Some(new)) = (config.as_object_mut(), settings.as_object()) {
                keys.extend(new.clone());
            }
            std::fs::write(path, format!("{config:#}\n"))
        };
        change().map_err(Error::io(format!("change {}", path.display())))
    }

    /// Sets keys in every config file and restarts the nodes with them, one after the other.
    pub async fn reconfigure_all(&mut self, settings: &serde_json::Value) -> Result<(), Error> {
        for index in 0..self.len() {
            self.configure(index, settings)?;
            self.stop_node(index)?;
            self.start_node(index)?;
            self.wait_ready(index, READY_LIMIT).await?;
        }
        Ok(())
    }

    /// Sets keys of node `index`'s config file and has it read again (SIGHUP); gives what came of it.
    pub async fn reload(&self, index: usize, settings: &serde_json::Value) -> Result<ConfigReload, Error> {
        let url = self.places[index].url("/api/report");
        let standing = || async { wait::get::<Report>(&self.http, &url).await.map(|report| report.config) };
        let before = wait::until("a report before the reload", READY_LIMIT, standing).await?.reloads;
        self.configure(index, settings)?;
        if !self.nodes[index].as_ref().is_some_and(|node| node.signal(Signal::HUP)) {
            return Err(Error::Setting(format!("{} does not run", self.places[index].id)));
        }
        wait::until("the config to be read again", READY_LIMIT, || async {
            let now = standing().await?;
            let reload = now.last_reload.filter(|_| now.reloads > before);
            reload.ok_or_else(|| "it was not yet".to_owned())
        })
        .await
    }

    /// Sets a variable in the environment that node `index` gets at its next start.
    pub fn set_environment(&mut self, index: usize, name: &str, value: &str) {
        let environment = &mut self.environments[index];
        environment.retain(|(known, _)| known != name);
        environment.push((name.into(), value.into()));
    }

    /// Takes a variable out of it.
    pub fn unset_environment(&mut self, index: usize, name: &str) {
        self.environments[index].retain(|(known, _)| known != name);
    }

    /// How many coordinators there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True for a cluster of none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where node `index` (from 0) lies.
    pub fn place(&self, index: usize) -> &NodePlace {
        &self.places[index]
    }

    /// `host:port` of every coordinator.
    pub fn addresses(&self) -> Vec<String> {
        self.places.iter().map(NodePlace::address).collect()
    }

    /// The folder of everything.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A client that follows the leader.
    pub fn client(&self) -> Result<Client, Error> {
        Client::new(self.addresses()).map_err(Error::client("make a client"))
    }

    /// Starts node `index`; one that runs goes on.
    pub fn start_node(&mut self, index: usize) -> Result<(), Error> {
        self.start_node_with(index, &[])
    }

    /// As [`Cluster::start_node`], with more arguments.
    pub fn start_node_with(&mut self, index: usize, more: &[&str]) -> Result<(), Error> {
        if self.nodes[index].as_mut().is_some_and(Started::is_alive) {
            return Ok(());
        }
        let place = &self.places[index];
        let program = self.binaries.path(self.program)?;
        let mut arguments = vec!["--config".to_owned(), place.config.display().to_string()];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let started = Started::spawn_with(
            &place.id,
            &program,
            &arguments,
            &self.environments[index],
            &place.log_file,
            Lifetime::WithParent,
        )?;
        self.nodes[index] = Some(started);
        Ok(())
    }

    /// Lays a further node out, whose config names every node that is there; gives its index. It
    /// is not started.
    pub fn lay_out_node(&mut self) -> Result<usize, Error> {
        let index = self.places.len();
        let ports = Ports::take(2)?;
        let place = NodePlace::new(self.folder.path(), index, ports.as_slice()[0], ports.as_slice()[1]);
        place.write_config(&self.places)?;
        self.places.push(place);
        self.nodes.push(None);
        self.environments.push(Vec::new());
        self._ports.push(ports);
        Ok(index)
    }

    /// Throws the data directory of node `index` away; the node must not run.
    pub fn wipe(&self, index: usize) -> Result<(), Error> {
        let folder = &self.places[index].data_dir;
        std::fs::remove_dir_all(folder).map_err(Error::io(format!("remove {}", folder.display())))
    }

    /// kill -9 of node `index`.
    pub fn kill9(&mut self, index: usize) {
        if let Some(mut node) = self.nodes[index].take() {
            node.kill9();
        }
    }

    /// True while node `index` runs.
    pub fn is_running(&mut self, index: usize) -> bool {
        self.nodes[index].as_mut().is_some_and(Started::is_alive)
    }

    /// Ends node `index` the orderly way.
    pub fn stop_node(&mut self, index: usize) -> Result<(), Error> {
        let Some(node) = self.nodes[index].take() else { return Ok(()) };
        end(std::slice::from_ref(&node.process), TERM_GRACE).map(drop)
    }

    /// Stops node `index` in its tracks (SIGSTOP).
    pub fn pause(&self, index: usize) -> bool {
        self.nodes[index].as_ref().is_some_and(|node| node.signal(Signal::STOP))
    }

    /// Lets node `index` go on (SIGCONT).
    pub fn resume(&self, index: usize) -> bool {
        self.nodes[index].as_ref().is_some_and(|node| node.signal(Signal::CONT))
    }

    /// Pid of node `index` while it was not ended.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.nodes[index].as_ref().map(|node| node.process.pid)
    }

    /// Waits until node `index` serves reads and writes.
    pub async fn wait_ready(&mut self, index: usize, limit: Duration) -> Result<(), Error> {
        let place = self.places[index].clone();
        let (http, url) = (self.http.clone(), place.url("/api/health/ready"));
        let what = format!("{} to serve", place.id);
        match wait::until(&what, limit, || wait::answers(&http, &url)).await {
            Err(Error::TimedOut { what, waited_s, last, .. }) => {
                if let Some(node) = &mut self.nodes[index] {
                    node.check_alive()?;
                }
                Err(Error::TimedOut { what, waited_s, last, tail: last_lines(&place.log_file, 30) })
            }
            other => other,
        }
    }

    /// Waits until every node that was started serves.
    pub async fn wait_all_ready(&mut self, limit: Duration) -> Result<(), Error> {
        for index in 0..self.len() {
            if self.nodes[index].is_some() {
                self.wait_ready(index, limit).await?;
            }
        }
        Ok(())
    }

    /// What node `index` says of itself.
    pub async fn status(&self, index: usize) -> Result<Status, String> {
        wait::get(&self.http, &self.places[index].url("/api/status")).await
    }

    /// The checksums of node `index`.
    pub async fn state_checksum(&self, index: usize) -> Result<StateChecksum, String> {
        wait::get(&self.http, &self.places[index].url("/api/health/state_checksum")).await
    }

    /// Waits for a leader; the one of the highest term where two claim it.
    pub async fn leader(&self, limit: Duration) -> Result<usize, Error> {
        wait::until("a leader", limit, || async {
            let mut best: Option<(u64, usize)> = None;
            let mut last = Vec::new();
            for index in 0..self.len() {
                match self.status(index).await {
                    Ok(status) if status.role == Role::Leader => {
                        best = best.max(Some((status.term, index)));
                    }
                    Ok(status) => last.push(format!("{} is {}", status.node_id, status.role)),
                    Err(why) => last.push(why),
                }
            }
            best.map(|(_, index)| index).ok_or_else(|| last.join("; "))
        })
        .await
    }

    /// Starts a worker and waits until the cluster has registered it.
    pub async fn start_worker(&mut self, labels: &str, slots: u32) -> Result<(), Error> {
        let name = format!("worker-{}", self.workers.len() + 1);
        let addresses = self.addresses().join(",");
        let slots = slots.to_string();
        let mut arguments = ["worker", "--id", &name, "--coordinators", &addresses, "--slots", &slots]
            .map(str::to_owned)
            .to_vec();
        if !labels.is_empty() {
            arguments.extend(["--labels".to_owned(), labels.to_owned()]);
        }
        let log = self.folder.path().join("logs").join(format!("{name}.log"));
        let program = self.binaries.path("coordinator")?;
        self.workers.push(Started::spawn(&name, &program, &arguments, &log, Lifetime::WithParent)?);
        let (client, wanted) = (self.client()?, self.workers.len());
        wait::until("the worker to register", READY_LIMIT, || async {
            let seen: api::worker::WorkerList =
                client.get("/api/workers").await.map_err(|e| e.to_string())?;
            if seen.workers.len() >= wanted { Ok(()) } else { Err(format!("{} workers", seen.workers.len())) }
        })
        .await
    }

    /// kill -9 of worker `index`.
    pub fn kill9_worker(&mut self, index: usize) {
        self.workers[index].kill9();
    }

    /// The last lines of every log, for the message of a test that fails.
    pub fn log_tails(&self, count: usize) -> String {
        let mut text = String::new();
        for place in &self.places {
            text.push_str(&format!("--- {}\n{}\n", place.id, last_lines(&place.log_file, count).join("\n")));
        }
        for worker in &self.workers {
            let lines = last_lines(&worker.log_file, count).join("\n");
            text.push_str(&format!("--- {}\n{lines}\n", worker.process.name));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Workers get the chance to end the commands they run; coordinators have nothing to lose.
        let workers: Vec<_> = self.workers.iter().map(|w| w.process.clone()).collect();
        let _ = end(&workers, Duration::from_millis(500));
        for started in self.workers.iter_mut().chain(self.nodes.iter_mut().flatten()) {
            started.kill9();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails(20));
        }
    }
}
