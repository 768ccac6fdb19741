//! PURE. Where a name, an address and a node's links stand in a snapshot.
//!
//! Detectors ask for a node by its name in every round of the window; among many nodes a walk through
//! all of them for each question is what a round costs. The index is made at the first question and
//! goes with no copy. What it says is checked against the snapshot, so that it can be old and never
//! wrong.

use super::{Link, NodeView};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

#[derive(Debug, Default)]
struct Index {
    names: HashMap<String, usize>,
    addresses: HashMap<String, usize>,
    /// By who listens: where its links begin and end.
    rows: HashMap<String, Range<usize>>,
}

/// The index of one snapshot.
#[derive(Debug, Default)]
pub struct Places(OnceLock<Index>);

/// A copy may be changed, and makes its own.
impl Clone for Places {
    fn clone(&self) -> Self {
        Places::default()
    }
}

/// It says nothing that the snapshot does not say.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    fn index(&self, nodes: &[NodeView], links: &[Link]) -> &Index {
        self.0.get_or_init(|| {
            let mut index = Index::default();
            for (at, node) in nodes.iter().enumerate() {
                index.names.entry(node.name().to_owned()).or_insert(at);
                index.addresses.entry(node.address.clone()).or_insert(at);
            }
            let mut begin = 0;
            for row in links.chunk_by(|a, b| a.from == b.from) {
                let end = begin + row.len();
                index.rows.entry(row[0].from.clone()).or_insert(begin..end);
                begin = end;
            }
            index
        })
    }

    /// The node of that name (node id, else address).
    pub(super) fn node<'a>(&self, nodes: &'a [NodeView], links: &[Link], name: &str) -> Option<&'a NodeView> {
        let index = self.index(nodes, links);
        let at = index.names.get(name).or_else(|| index.addresses.get(name))?;
        nodes.get(*at).filter(|node| node.name() == name || node.address == name)
    }

    /// The node at that address.
    pub(super) fn node_at<'a>(
        &self,
        nodes: &'a [NodeView],
        links: &[Link],
        address: &str,
    ) -> Option<&'a NodeView> {
        let at = self.index(nodes, links).addresses.get(address)?;
        nodes.get(*at).filter(|node| node.address == address)
    }

    /// The cell of who hears whom.
    pub(super) fn link<'a>(
        &self,
        nodes: &[NodeView],
        links: &'a [Link],
        from: &str,
        to: &str,
    ) -> Option<&'a Link> {
        let row = self.index(nodes, links).rows.get(from)?;
        links.get(row.clone())?.iter().find(|link| link.from == from && link.to == to)
    }
}
