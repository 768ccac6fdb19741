//! `testbed up`: the whole product on this machine, from nothing to a finished suite.
//!
//! The order is that of need: coordinators, monitor, recovery daemon, workers, suite. Each stage
//! waits for a condition with a deadline, and what is awaited is printed. If a stage fails, or the
//! user stops it, everything that was started is ended again.

use crate::binaries::Binaries;
use crate::layout::{Layout, write_node_configs};
use crate::observability::{self, Tools};
use crate::process::{Lifetime, ProcessRef, Started, listener_on};
use crate::prometheus::Prometheus;
use crate::record::Record;
use crate::{Error, down, suite, wait};
use api::Client;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long the coordinators may take until they serve.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long each other program may take until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long Prometheus may take until it has scraped and evaluated everything; some rules are
/// evaluated twice a minute.
const OBSERVED_LIMIT: Duration = Duration::from_secs(90);
/// Tasks that each worker runs at once.
const SLOTS: u32 = 4;
/// Workers at most.
const MAX_WORKERS: usize = 26;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Places and ports.
    pub layout: Layout,
    /// How many workers.
    pub workers: usize,
    /// Start the recovery daemon too.
    pub recovery: bool,
    /// Start Prometheus and Alertmanager too.
    pub observability: bool,
    /// Leave everything running and return.
    pub detach: bool,
    /// Go on with the data of an earlier run.
    pub keep: bool,
}

/// The command.
pub async fn run(options: Options, binaries: &Binaries) -> Result<(), Error> {
    options.layout.check()?;
    if options.workers > MAX_WORKERS {
        return Err(Error::Setting(format!("--workers {}: at most {MAX_WORKERS}", options.workers)));
    }
    let mut stop = Stop::listen()?;
    refuse_twin(&options.layout.data)?;
    for (port, purpose) in options.layout.ports(options.recovery, options.observability) {
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            return Err(Error::PortTaken { port, purpose, holder: listener_on(port) });
        }
    }
    let programs = Programs::find(binaries, &options)?;
    prepare_folder(&options)?;
    let mut running = Running { record: Record::new(options.layout.clone()), children: Vec::new() };
    running.record.supervisor = ProcessRef::of("testbed", std::process::id());
    running.record.write()?;

    let staged = tokio::select! {
        staged = running.start_all(&options, &programs) => staged,
        why = stop.recv() => Err(Error::Interrupted(why)),
    };
    let outcome = match staged {
        Ok(summary) => {
            summary.print();
            print_urls(&options);
            summary.verdict()
        }
        Err(error) => {
            running.end().await?;
            return Err(error);
        }
    };
    if options.detach {
        running.record.supervisor = None;
        running.record.write()?;
        println!("running; end it with: ./dev down{}", data_argument(&options.layout.data));
        return outcome;
    }
    println!("running until Ctrl-C");
    running.watch(&mut stop).await;
    running.end().await?;
    outcome
}

/// The programs that are started.
struct Programs {
    coordinator: std::path::PathBuf,
    monitor: std::path::PathBuf,
    recovery: Option<std::path::PathBuf>,
    observability: Option<Tools>,
}

impl Programs {
    fn find(binaries: &Binaries, options: &Options) -> Result<Programs, Error> {
        Ok(Programs {
            coordinator: binaries.path("coordinator")?,
            monitor: binaries.path("monitor")?,
            recovery: options.recovery.then(|| binaries.path("recovery")).transpose()?,
            observability: options.observability.then(Tools::find).transpose()?,
        })
    }
}

/// The user's wish to stop.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Stop, Error> {
        let on = |kind| signal(kind).map_err(Error::io("listen for signals"));
        Ok(Stop {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

/// What runs, and its record on disk.
struct Running {
    record: Record,
    children: Vec<Started>,
}

impl Running {
    async fn start_all(&mut self, options: &Options, programs: &Programs) -> Result<suite::Summary, Error> {
        let layout = &options.layout;
        let nodes = layout.node_places();
        write_node_configs(&nodes)?;
        for node in &nodes {
            let arguments = ["--config".to_owned(), node.config.display().to_string()];
            let process = self.start(&node.id, &programs.coordinator, &arguments, &node.log_file)?;
            self.record.coordinators.push(process);
            self.record.write()?;
        }
        let http = wait::http();
        if let Some(tools) = &programs.observability {
            self.start_observability(options, tools, &http).await?;
        }
        for node in &nodes {
            let url = node.url("/api/health/ready");
            self.await_answer(&node.id, &url, &http, READY_LIMIT, &node.log_file).await?;
        }
        self.start_monitor(options, programs, &http).await?;
        if let Some(program) = &programs.recovery {
            self.start_recovery(options, program, &programs.coordinator, &http).await?;
        }
        let client = Client::new(nodes.iter().map(|n| n.address()))
            .map_err(Error::client("make a client"))?
            .with_deadline(Duration::from_secs(30));
        self.start_workers(options, programs, &client).await?;
        if options.observability {
            self.await_observability(options, &http).await?;
        }
        let run_id = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map(|d| format!("{:x}", d.as_millis()))
            .unwrap_or_default();
        let mut cases = suite::shipped()?;
        let shipped = cases.len();
        cases.retain(|case| zone_exists(case, options.workers));
        if cases.len() < shipped {
            println!(
                "{} commands of the suite are left out: no worker could take them",
                shipped - cases.len()
            );
        }
        if cases.is_empty() {
            return Ok(suite::Summary::default());
        }
        println!("running the shipped suite: {} commands", cases.len());
        suite::run(&client, cases, &layout.data.join("suite").join(&run_id), &run_id).await
    }

    /// Alertmanager first, so that Prometheus finds it; both before what they watch, so that they
    /// see its beginning.
    async fn start_observability(
        &mut self,
        options: &Options,
        tools: &Tools,
        http: &reqwest::Client,
    ) -> Result<(), Error> {
        observability::write_files(&options.layout, options.recovery)?;
        for start in observability::starts(&options.layout, tools) {
            let log = options.layout.log_file(start.name);
            let process = self.start(start.name, &start.program, &start.arguments, &log)?;
            self.record.observability.push(process);
            self.record.write()?;
            self.await_answer(start.name, &start.ready_url, http, ANSWER_LIMIT, &log).await?;
        }
        Ok(())
    }

    /// All targets up, all rules evaluated, none in error.
    async fn await_observability(&self, options: &Options, http: &reqwest::Client) -> Result<(), Error> {
        let prometheus = Prometheus::on_port(options.layout.prometheus_port(), http.clone());
        println!("waiting for Prometheus to see every target and to have evaluated every rule");
        let wanted = observability::target_count(&options.layout, options.recovery);
        let what = "every target to be up and every rule to be evaluated";
        let working = wait::until(what, OBSERVED_LIMIT, || async {
            let working = prometheus.working().await?;
            let whole = working.faults.is_empty() && working.targets_up == wanted && working.rules_ok > 0;
            if whole { Ok(working) } else { Err(format!("{working:?}")) }
        });
        let working = working.await?;
        println!("{} targets up, {} rules loaded, none in error", working.targets_up, working.rules_ok);
        Ok(())
    }

    async fn start_monitor(
        &mut self,
        options: &Options,
        programs: &Programs,
        http: &reqwest::Client,
    ) -> Result<(), Error> {
        let layout = &options.layout;
        let address = format!("127.0.0.1:{}", layout.monitor_port());
        let mut arguments = vec!["--nodes".to_owned()];
        arguments.extend(layout.node_places().iter().map(|n| n.address()));
        arguments.extend(["--interval", "1", "--listen", &address].map(str::to_owned));
        if options.recovery {
            arguments.push("--recovery".into());
            arguments.push(format!("http://127.0.0.1:{}", layout.recovery_port()));
        }
        let log = layout.log_file("monitor");
        self.record.monitor = Some(self.start("monitor", &programs.monitor, &arguments, &log)?);
        self.record.write()?;
        self.await_answer("monitor", &format!("http://{address}/api/cluster"), http, ANSWER_LIMIT, &log).await
    }

    async fn start_recovery(
        &mut self,
        options: &Options,
        program: &Path,
        coordinator: &Path,
        http: &reqwest::Client,
    ) -> Result<(), Error> {
        let layout = &options.layout;
        let token_file = options.observability.then(|| observability::token_file(layout));
        layout.write_recovery_config(coordinator, token_file.as_deref())?;
        let config = layout.recovery_config().display().to_string();
        let arguments = ["--config", &config, "--interval", "1", "--daemon"].map(str::to_owned);
        let log = layout.log_file("recovery");
        self.record.recovery = Some(self.start("recovery", program, &arguments, &log)?);
        self.record.write()?;
        let url = format!("http://127.0.0.1:{}/api/plans", layout.recovery_port());
        self.await_answer("recovery", &url, http, ANSWER_LIMIT, &log).await
    }

    async fn start_workers(
        &mut self,
        options: &Options,
        programs: &Programs,
        client: &Client,
    ) -> Result<(), Error> {
        let layout = &options.layout;
        let addresses: Vec<String> = layout.node_places().iter().map(|n| n.address()).collect();
        let addresses = addresses.join(",");
        for index in 0..options.workers {
            let zone = zone_name(index);
            let name = format!("worker-{zone}");
            let labels = format!("zone={zone}");
            let slots = SLOTS.to_string();
            let arguments = [
                "worker",
                "--id",
                &name,
                "--coordinators",
                &addresses,
                "--labels",
                &labels,
                "--slots",
                &slots,
            ]
            .map(str::to_owned);
            let process = self.start(&name, &programs.coordinator, &arguments, &layout.log_file(&name))?;
            self.record.workers.push(process);
            self.record.write()?;
        }
        println!("waiting for {} workers to register", options.workers);
        let awaited = wait::until("every worker to register", ANSWER_LIMIT, || async {
            let seen: api::worker::WorkerList =
                client.get("/api/workers").await.map_err(|e| e.to_string())?;
            let active = seen.workers.iter().filter(|w| w.state == api::worker::WorkerState::Active).count();
            if active >= options.workers { Ok(()) } else { Err(format!("{active} active")) }
        });
        let awaited = awaited.await;
        self.explain(awaited, &layout.log_file("worker-a"))
    }

    fn start(
        &mut self,
        name: &str,
        program: &Path,
        arguments: &[String],
        log_file: &Path,
    ) -> Result<ProcessRef, Error> {
        let started = Started::spawn(name, program, arguments, log_file, Lifetime::OwnSession)?;
        let process = started.process.clone();
        println!("started {name} (pid {})", process.pid);
        self.children.push(started);
        Ok(process)
    }

    /// Waits until `url` answers with success; a child that ends meanwhile is named at once.
    async fn await_answer(
        &mut self,
        name: &str,
        url: &str,
        http: &reqwest::Client,
        limit: Duration,
        log_file: &Path,
    ) -> Result<(), Error> {
        println!("waiting for {name}: {url}");
        let children = std::cell::RefCell::new(&mut self.children);
        let ended = std::cell::RefCell::new(None);
        let awaited = wait::until(name, limit, || async {
            let gone = children.borrow_mut().iter_mut().find_map(|child| child.check_alive().err());
            if let Some(error) = gone {
                // Not an answer, but the end of the waiting.
                *ended.borrow_mut() = Some(error);
                return Ok(());
            }
            wait::answers(http, url).await
        })
        .await;
        match ended.into_inner() {
            Some(error) => Err(error),
            None => self.explain(awaited, log_file),
        }
    }

    /// Adds the end of a log to an error of waiting.
    fn explain(&self, awaited: Result<(), Error>, log_file: &Path) -> Result<(), Error> {
        awaited.map_err(|error| error.with_tail(log_file))
    }

    /// Stays until the user stops it, and says which of our processes end meanwhile.
    async fn watch(&mut self, stop: &mut Stop) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                why = stop.recv() => {
                    println!("{why}: ending everything");
                    return;
                }
                _ = tick.tick() => {
                    // Asking also clears away the zombie, so that nobody takes it for alive.
                    self.children.retain_mut(|child| {
                        let alive = child.is_alive();
                        if !alive {
                            println!("{} (pid {}) ended", child.process.name, child.process.pid);
                        }
                        alive
                    });
                }
            }
        }
    }

    async fn end(mut self) -> Result<(), Error> {
        let ended = tokio::task::spawn_blocking(move || {
            let ended = down::end_all(&mut self.record);
            for child in &mut self.children {
                child.is_alive();
            }
            ended
        })
        .await
        .map_err(|e| Error::Setting(format!("ending the processes panicked: {e}")))??;
        for process in &ended {
            println!("ended {} (pid {})", process.name, process.pid);
        }
        Ok(())
    }
}

fn zone_name(index: usize) -> char {
    char::from(b'a' + u8::try_from(index).unwrap_or(25).min(25))
}

/// With fewer than two workers there is no zone b; its cases would wait for ever.
fn zone_exists(case: &suite::Case, workers: usize) -> bool {
    case.labels
        .get("zone")
        .map_or(workers > 0, |zone| (0..workers).any(|i| zone_name(i).to_string() == *zone))
}

fn refuse_twin(data: &Path) -> Result<(), Error> {
    let Some(record) = Record::read(data)? else { return Ok(()) };
    let mut running = record.running();
    running.extend(record.supervisor.filter(ProcessRef::is_alive));
    if running.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = running.iter().map(|p| format!("{} pid {}", p.name, p.pid)).collect();
    Err(Error::AlreadyRunning { data: data.to_owned(), running: names.join(", ") })
}

/// Makes the data folder: afresh, or, with `--keep`, as the earlier run left it.
fn prepare_folder(options: &Options) -> Result<(), Error> {
    let data = &options.layout.data;
    let earlier = Record::read(data)?;
    match earlier {
        Some(record) if options.keep => {
            let kept = record.layout;
            if (kept.nodes, kept.base_port) != (options.layout.nodes, options.layout.base_port) {
                return Err(Error::KeptDiffers {
                    data: data.clone(),
                    nodes: kept.nodes,
                    base_port: kept.base_port,
                });
            }
            println!("going on with the data in {}", data.display());
        }
        Some(_) => {
            println!("starting afresh in {} (--keep goes on with the data of the last run)", data.display());
            std::fs::remove_dir_all(data).map_err(Error::io(format!("clear {}", data.display())))?;
        }
        None => {
            let occupied = std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
            if occupied {
                return Err(Error::ForeignFolder { data: data.clone() });
            }
        }
    }
    std::fs::create_dir_all(data).map_err(Error::io(format!("create {}", data.display())))
}

fn print_urls(options: &Options) {
    let layout = &options.layout;
    println!();
    for node in layout.node_places() {
        println!("{}       {}", node.id, node.url("/api/status"));
        println!("  its metrics http://127.0.0.1:{}/metrics", node.prometheus_port);
    }
    println!("cluster view http://127.0.0.1:{}/", layout.monitor_port());
    println!("  its metrics http://127.0.0.1:{}/metrics", layout.monitor_port());
    if options.recovery {
        println!("recovery     http://127.0.0.1:{}/api/audit", layout.recovery_port());
        println!("  its metrics http://127.0.0.1:{}/metrics", layout.recovery_port());
    }
    if options.observability {
        println!("prometheus   http://127.0.0.1:{}/", layout.prometheus_port());
        println!("alertmanager http://127.0.0.1:{}/api/v2/alerts", layout.alertmanager_port());
    }
    println!("logs         {}", layout.data.join("logs").display());
}

fn data_argument(data: &Path) -> String {
    let usual = std::env::current_dir().is_ok_and(|here| here.join(".holdfast") == data);
    if usual { String::new() } else { format!(" --data {}", data.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(data: &Path) -> Options {
        Options {
            layout: Layout { data: data.to_owned(), nodes: 3, base_port: 8080 },
            workers: 2,
            recovery: true,
            observability: false,
            detach: true,
            keep: false,
        }
    }

    #[test]
    fn a_foreign_folder_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("thesis.txt");
        std::fs::write(&precious, "years of work").unwrap();
        let error = prepare_folder(&options(folder.path())).unwrap_err().to_string();
        assert!(error.contains("nothing in it is touched"), "{error}");
        assert!(precious.exists());
    }

    #[test]
    fn data_is_kept_only_where_the_settings_fit() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        Record::new(options.layout.clone()).write().unwrap();
        let kept = folder.path().join("node-1");
        std::fs::write(&kept, "").unwrap();
        options.keep = true;
        prepare_folder(&options).unwrap();
        assert!(kept.exists());
        options.layout.base_port = 9000;
        assert!(prepare_folder(&options).unwrap_err().to_string().contains("--base-port 8080"));
        options.keep = false;
        prepare_folder(&options).unwrap();
        assert!(!kept.exists());
    }

    #[test]
    fn a_running_cluster_is_not_started_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::new(options(folder.path()).layout);
        record.monitor = ProcessRef::of("monitor", std::process::id());
        record.write().unwrap();
        let error = refuse_twin(folder.path()).unwrap_err().to_string();
        assert!(error.contains("end it with: ./dev down"), "{error}");
    }
}
