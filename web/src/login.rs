//! The page that asks who is there.

use crate::pages::Frame;
use askama::Template;

/// Name and password, and why they did not do.
#[derive(Debug, Clone, Template)]
#[template(path = "login_page.html")]
pub struct LoginPage {
    /// What is round it.
    pub frame: Frame,
    /// Where to go then: a path of this monitor.
    pub next: String,
    /// Why the last try failed.
    pub failure: Option<String>,
}
