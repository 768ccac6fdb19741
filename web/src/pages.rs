//! Whole pages.

use crate::charts::Charts;
use crate::fragments::{
    Events, FindingRow, Findings, Links, Mark, Moment, Node, Nodes, Past, Recovery, RecoveryCase, Verdict,
    Work,
};
use crate::listings::{Logs, Task, Tasks, Workers};
use crate::timeline::Leadership;
use askama::Template;

/// Which of the pages in the navigation this is, or belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// The cluster view and the nodes' pages.
    Cluster,
    /// Tasks.
    Tasks,
    /// Workers.
    Workers,
    /// What is and was wrong.
    Findings,
    /// The recovery daemon.
    Recovery,
    /// Log lines.
    Logs,
    /// None of them.
    Nowhere,
}

/// An entry of the navigation.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which it is.
    pub here: Here,
    /// Where it leads.
    pub href: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// The key that leads there, after `g`.
    pub key: char,
}

/// The navigation.
pub const PLACES: [Place; 6] = [
    Place { here: Here::Cluster, href: "/", name: "Cluster", key: 'c' },
    Place { here: Here::Findings, href: "/anomalies", name: "Findings", key: 'f' },
    Place { here: Here::Recovery, href: "/recovery", name: "Recovery", key: 'r' },
    Place { here: Here::Tasks, href: "/tasks", name: "Tasks", key: 't' },
    Place { here: Here::Workers, href: "/workers", name: "Workers", key: 'w' },
    Place { here: Here::Logs, href: "/logs", name: "Logs", key: 'l' },
];

/// The event stream of the cluster view.
pub const CLUSTER_STREAM: &str = "/api/stream";

/// What every page has round its content.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The title of the document, before the program's name.
    pub title: String,
    /// Which page this is.
    pub here: Here,
    /// The sentence on the cluster; none before anything was seen.
    pub verdict: Option<Verdict>,
    /// The cluster's id, short.
    pub cluster: String,
    /// When the picture was taken.
    pub at: Moment,
    /// Which round it is.
    pub round: u64,
    /// Milliseconds between rounds.
    pub interval_ms: u64,
    /// Seconds until a browser without scripts asks again; none where the page stands still.
    pub refresh_seconds: Option<u64>,
    /// The event stream of this page.
    pub stream: String,
    /// Seconds between two questions for the parts that don't come with the stream.
    pub poll_seconds: u64,
    /// The version.
    pub version: &'static str,
    /// The style sheet's text, for a file that stands alone; a page has none.
    pub inline_style: Option<&'static str>,
}

impl Frame {
    /// The navigation.
    pub fn places(&self) -> &'static [Place] {
        &PLACES
    }

    /// True on the cluster view itself, where the sentence stands large.
    pub fn is_cluster_view(&self) -> bool {
        self.stream == CLUSTER_STREAM || self.inline_style.is_some()
    }

    /// True where that entry leads to this page.
    pub fn is_here(&self, place: &Place) -> bool {
        self.here == place.here
    }
}

/// The cluster view.
#[derive(Debug, Clone, Template)]
#[template(path = "cluster_page.html")]
pub struct ClusterPage {
    /// What is round it.
    pub frame: Frame,
    /// The nodes.
    pub nodes: Nodes,
    /// What is wrong.
    pub findings: Findings,
    /// What was measured; none in a file that stands alone.
    pub charts: Option<Charts>,
    /// Who led when.
    pub leadership: Leadership,
    /// Who hears whom.
    pub links: Links,
    /// Tasks and workers.
    pub work: Work,
    /// What happened.
    pub events: Events,
    /// The recovery daemon.
    pub recovery: Recovery,
}

/// One node.
#[derive(Debug, Clone, Template)]
#[template(path = "node_page.html")]
pub struct NodePage {
    /// What is round it.
    pub frame: Frame,
    /// The node.
    pub node: Node,
    /// What was measured of it.
    pub charts: Charts,
}

/// A page of tasks.
#[derive(Debug, Clone, Template)]
#[template(path = "tasks_page.html")]
pub struct TasksPage {
    /// What is round it.
    pub frame: Frame,
    /// The tasks.
    pub tasks: Tasks,
}

/// One task's whole life.
#[derive(Debug, Clone, Template)]
#[template(path = "task_page.html")]
pub struct TaskPage {
    /// What is round it.
    pub frame: Frame,
    /// The task.
    pub task: Task,
}

/// The workers.
#[derive(Debug, Clone, Template)]
#[template(path = "workers_page.html")]
pub struct WorkersPage {
    /// What is round it.
    pub frame: Frame,
    /// The workers.
    pub workers: Workers,
}

/// Log lines of all nodes.
#[derive(Debug, Clone, Template)]
#[template(path = "logs_page.html")]
pub struct LogsPage {
    /// What is round it.
    pub frame: Frame,
    /// The lines.
    pub logs: Logs,
}

/// What is and was wrong.
#[derive(Debug, Clone, Template)]
#[template(path = "findings_page.html")]
pub struct FindingsPage {
    /// What is round it.
    pub frame: Frame,
    /// Now.
    pub findings: Findings,
    /// Before.
    pub past: Past,
}

/// One finding.
#[derive(Debug, Clone, Template)]
#[template(path = "finding_page.html")]
pub struct FindingPage {
    /// What is round it.
    pub frame: Frame,
    /// It.
    pub finding: FindingRow,
    /// Until when it was seen; none while it is.
    pub until: Option<Moment>,
    /// What kind of failure that is, and what is done about it.
    pub meaning: &'static str,
    /// Links to where more can be seen.
    pub elsewhere: Vec<(String, String)>,
    /// What the recovery daemon wrote about it.
    pub records: Vec<crate::fragments::ActionRow>,
    /// Why there is nothing from the daemon.
    pub records_empty: String,
    /// Whether it goes on.
    pub state: Mark,
}

/// The recovery daemon.
#[derive(Debug, Clone, Template)]
#[template(path = "recovery_page.html")]
pub struct RecoveryPage {
    /// What is round it.
    pub frame: Frame,
    /// What it says.
    pub recovery: Recovery,
}

/// Everything the recovery daemon wrote about one fault.
#[derive(Debug, Clone, Template)]
#[template(path = "case_page.html")]
pub struct CasePage {
    /// What is round it.
    pub frame: Frame,
    /// The fault.
    pub case: RecoveryCase,
}

/// A page that has only a message.
#[derive(Debug, Clone, Template)]
#[template(path = "message_page.html")]
pub struct MessagePage {
    /// What is round it.
    pub frame: Frame,
    /// In a few words.
    pub heading: String,
    /// In a sentence or two.
    pub text: String,
}
