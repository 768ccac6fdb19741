//! What can go wrong when one machine plays the cluster.

use std::path::PathBuf;

/// Why the testbed could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("can't {what}: {source}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A port that is needed is taken.
    #[error("port {port}, needed for {purpose}, is taken{}; end that, or choose other ports with --base-port", holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default())]
    PortTaken {
        /// The port.
        port: u16,
        /// What it is needed for.
        purpose: String,
        /// Who listens on it, where that can be seen.
        holder: Option<String>,
    },
    /// No free ports were found.
    #[error("no {wanted} free ports found between {from} and {to}")]
    NoFreePorts {
        /// How many were wanted.
        wanted: usize,
        /// Lowest port looked at.
        from: u16,
        /// Highest port looked at.
        to: u16,
    },
    /// A program is not built.
    #[error(
        "program `{name}` is not in {folder}; build it with ./dev build, or name its folder in HOLDFAST_BIN_DIR"
    )]
    ProgramMissing {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A program of others is not there.
    #[error(
        "`{name}` is neither on the path nor in .tools/usr/bin; `./dev up --observability` fetches it from the Debian package {package} where it can, else install that package"
    )]
    ToolMissing {
        /// The program.
        name: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// Something was waited for and did not come.
    #[error("waited {waited_s:.1} s for {what}, in vain; last seen: {last}{}", tail_of(tail))]
    TimedOut {
        /// What was awaited.
        what: String,
        /// For how long, in seconds.
        waited_s: f64,
        /// What was seen instead.
        last: String,
        /// The last lines of the log in question.
        tail: Vec<String>,
    },
    /// A process ended that should have gone on.
    #[error("{name} (pid {pid}) ended by itself{}", tail_of(tail))]
    Ended {
        /// Which one.
        name: String,
        /// Its pid.
        pid: u32,
        /// The last lines of its log.
        tail: Vec<String>,
    },
    /// A process does not end.
    #[error("{name} (pid {pid}) does not end, not even by SIGKILL")]
    WontEnd {
        /// Which one.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// A cluster runs from this folder already.
    #[error("a cluster runs from {data} already ({running}); end it with: ./dev down --data {data}")]
    AlreadyRunning {
        /// The folder.
        data: PathBuf,
        /// What runs.
        running: String,
    },
    /// The folder is not one that the testbed made.
    #[error(
        "{data} is not empty and was not made by the testbed: nothing in it is touched; name another folder with --data"
    )]
    ForeignFolder {
        /// The folder.
        data: PathBuf,
    },
    /// `--keep` with settings that don't fit what is kept.
    #[error(
        "--keep: {data} was made with --nodes {nodes} --base-port {base_port}; give the same, or leave --keep out to start afresh"
    )]
    KeptDiffers {
        /// The folder.
        data: PathBuf,
        /// Nodes then.
        nodes: usize,
        /// Base port then.
        base_port: u16,
    },
    /// A setting can't be used.
    #[error("{0}")]
    Setting(String),
    /// A file of the suite can't be read.
    #[error("suite/{file}, line {line}: {why}")]
    SuiteFile {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// The suite ran, and not everything came out as it should.
    #[error("the suite: {unexpected} of {total} tasks ended otherwise than expected")]
    SuiteUnexpected {
        /// How many.
        unexpected: usize,
        /// Of how many.
        total: usize,
    },
    /// The cluster refused or did not answer.
    #[error("{what}: {source}")]
    Client {
        /// What was asked.
        what: String,
        /// Why not.
        source: api::ClientError,
    },
    /// A raw HTTP exchange of the bench went wrong.
    #[error("{address}: {why}")]
    Http {
        /// Who was asked.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// Fewer tasks were read back than were acknowledged.
    #[error("the cluster acknowledged {acknowledged} tasks, but holds {found}")]
    LostWrites {
        /// How many were acknowledged.
        acknowledged: u64,
        /// How many it says it has.
        found: u64,
    },
    /// After faults, something is not as it must be.
    #[error(
        "{count} things are not as they must be, first: {first}; the same choices again with --seed {seed}"
    )]
    NotHeld {
        /// Of the run.
        seed: u64,
        /// How many things.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// A failure was made, and not everybody named it.
    #[error("not named within {within_s} s in /api/anomalies, on the page and by the alert: {what}")]
    NotNamed {
        /// How long it was watched.
        within_s: u64,
        /// The failures.
        what: String,
    },
    /// Nothing was wrong, and something was found all the same.
    #[error("{count} false alarms, first: {first}")]
    NotCalm {
        /// How many findings, alerts and repairs.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// The user asked to stop.
    #[error("stopped by {0}")]
    Interrupted(&'static str),
}

impl Error {
    /// An error of the system, with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// The same; where something was awaited in vain, with the end of the log of who should have done it.
    pub fn with_tail(self, log_file: &std::path::Path) -> Error {
        match self {
            Error::TimedOut { what, waited_s, last, .. } => {
                Error::TimedOut { what, waited_s, last, tail: crate::process::last_lines(log_file, 15) }
            }
            other => other,
        }
    }

    /// An error of a call to the cluster, with what was asked.
    pub fn client(what: impl Into<String>) -> impl FnOnce(api::ClientError) -> Error {
        let what = what.into();
        move |source| Error::Client { what, source }
    }
}

fn tail_of(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!("; its log ends:\n  {}", tail.join("\n  ")) }
}
