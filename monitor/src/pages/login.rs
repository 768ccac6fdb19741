//! PURE. The page that asks who is there.

use super::message_page;
use std::time::Duration;
use web::login::LoginPage;

/// Asks for name and password; leads to `next` then. `failure` says why the last try did not do.
pub fn login_page(interval: Duration, next: &str, failure: Option<String>) -> LoginPage {
    LoginPage { frame: message_page(None, interval, "Log in", "").frame, next: next.to_owned(), failure }
}
