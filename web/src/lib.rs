//! What the browser is given: templates, the values they show, and static files. No IO.
//!
//! Every page is whole without scripts. The parts of it that change are templates of their own
//! ([`fragments`]): the page includes them, and the event stream sends the same text again when it
//! changes, keyed by the id of the element it belongs in. So there is one place where each part is
//! drawn. Parts that are fetched for one request (tasks, workers, logs) are drawn with their page,
//! and the script asks for that page again.
//!
//! Invariant: a value that came from a node is only ever put into a template by [`escape::Plain`].
//! `|safe` stands nowhere but where a fragment of ours is put into a page of ours.

mod assets;
pub mod charts;
pub mod escape;
pub mod fragments;
pub mod listings;
pub mod login;
pub mod pages;
pub mod timeline;

pub use assets::{ASSETS, Asset, asset};
