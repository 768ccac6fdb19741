//! Whole pages.

use crate::fragments::{Events, Findings, Links, Moment, Node, Nodes, Recovery, Verdict, Work};
use askama::Template;

/// What every page has round its content.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The title of the document, before the program's name.
    pub title: String,
    /// The cluster's id, short.
    pub cluster: String,
    /// When the picture was taken.
    pub at: Moment,
    /// Which round it is.
    pub round: u64,
    /// Milliseconds between rounds.
    pub interval_ms: u64,
    /// Seconds until a browser without scripts asks again.
    pub refresh_seconds: u64,
    /// The event stream of this page.
    pub stream: String,
    /// The version.
    pub version: &'static str,
    /// The style sheet's text, for a file that stands alone; a page has none.
    pub inline_style: Option<&'static str>,
}

/// The cluster view.
#[derive(Debug, Clone, Template)]
#[template(path = "cluster_page.html")]
pub struct ClusterPage {
    /// What is round it.
    pub frame: Frame,
    /// The sentence.
    pub verdict: Verdict,
    /// The nodes.
    pub nodes: Nodes,
    /// What is wrong.
    pub findings: Findings,
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
    /// The sentence on the cluster.
    pub verdict: Verdict,
    /// The node.
    pub node: Node,
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
