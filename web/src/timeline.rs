//! Who led when, as a drawing and as a table.

use crate::fragments::Moment;
use askama::Template;

/// A stretch of time in a lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Where it begins, percent.
    pub x: String,
    /// How long it is, percent.
    pub width: String,
    /// `leads`, `nobody` or `unseen`.
    pub class: &'static str,
    /// In words.
    pub title: String,
    /// What is written on it; empty where it has no room.
    pub label: String,
}

/// A lane of the drawing: one node, or nobody.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Whose it is.
    pub name: String,
    /// Its upper edge.
    pub y: u32,
    /// Its stretches.
    pub spans: Vec<Span>,
}

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where, percent.
    pub at: String,
    /// What is written there.
    pub text: String,
}

/// A stretch of time, for the table.
#[derive(Debug, Clone)]
pub struct Reign {
    /// From when.
    pub from: Moment,
    /// Until when; none while it goes on.
    pub until: Option<Moment>,
    /// Who.
    pub who: String,
    /// In which term.
    pub term: String,
    /// How long.
    pub lasted: String,
}

/// Height of a lane.
pub const LANE: u32 = 22;

/// Who led when.
#[derive(Debug, Clone, Template)]
#[template(path = "leadership.html")]
pub struct Leadership {
    /// In a sentence.
    pub summary: String,
    /// The lanes.
    pub lanes: Vec<Lane>,
    /// The drawing's height without its axis.
    pub height: u32,
    /// The times.
    pub ticks: Vec<Tick>,
    /// The table, the latest first.
    pub reigns: Vec<Reign>,
}
