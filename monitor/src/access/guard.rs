//! PURE. Which pages may ask: only those that this monitor served, under a name of its own.
//!
//! A browser on an operator's desk reaches the monitor too. A page of another origin gets nothing,
//! and neither does a page of a foreign name that was made to lead to our address: browsers send
//! no Origin with a plain GET to their own host, so every request that looks like a browser's must
//! name a host of ours.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// What of a request counts here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The Host header, or the authority of the address.
    pub host: Option<&'a str>,
    /// The Origin header.
    pub origin: Option<&'a str>,
    /// True where only a browser asks like that.
    pub by_browser: bool,
}

/// Why a request is refused, if it is.
pub fn refusal(asked: Asked<'_>, own_hosts: &BTreeSet<String>) -> Option<String> {
    let host = asked.host.unwrap_or_default();
    if let Some(origin) = asked.origin {
        let (default_port, from) = match origin.split_once("://") {
            Some(("http", rest)) => ("80", rest),
            Some(("https", rest)) => ("443", rest),
            _ => return Some(format!("origin `{}` is not this monitor", shown(origin))),
        };
        let ((asked_host, asked_port), (from_host, from_port)) =
            (split_port(host, default_port), split_port(from, default_port));
        if asked_host.is_empty() || !asked_host.eq_ignore_ascii_case(from_host) || asked_port != from_port {
            return Some(format!(
                "origin `{}` is not the host `{}` that was asked",
                shown(origin),
                shown(host)
            ));
        }
    }
    if asked.origin.is_none() && !asked.by_browser {
        return None;
    }
    let (name, _) = split_port(host, "");
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if is_address || own_hosts.contains(&name.to_ascii_lowercase()) {
        return None;
    }
    Some(format!("`{}` is no name of this monitor; put it into `host_names` if it is one", shown(name)))
}

fn shown(text: &str) -> String {
    crate::report::shorten(text, 80)
}

/// Host and port, the port filled in where it is missing.
fn split_port<'a>(authority: &'a str, default_port: &'a str) -> (&'a str, &'a str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (authority, default_port),
    }
}

/// A place on this monitor to go to after a login; anything else leads to the first page.
pub fn local_path(next: &str) -> &str {
    let is_local = next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= 1_000
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_local { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, origin: Option<&str>, by_browser: bool) -> bool {
        let own = ["mon.example.com", "localhost"].map(str::to_owned).into();
        refusal(Asked { host: Some(host), origin, by_browser }, &own).is_some()
    }

    #[test]
    fn a_page_may_only_ask_the_monitor_that_served_it() {
        assert!(!refused("127.0.0.1:8090", Some("http://127.0.0.1:8090"), true));
        assert!(!refused("[::1]:8090", Some("http://[::1]:8090"), true));
        assert!(!refused("MON.example.com", Some("https://mon.example.com:443"), true));
        assert!(refused("127.0.0.1:8090", Some("http://127.0.0.1:8080"), true), "another port");
        assert!(refused("127.0.0.1:8090", Some("https://evil.example"), true));
        assert!(refused("127.0.0.1:8090", Some("null"), true));
    }

    #[test]
    fn a_foreign_name_for_our_address_is_refused_to_browsers_alone() {
        assert!(refused("evil.example:8090", None, true));
        assert!(refused("evil.example:8090", Some("http://evil.example:8090"), false));
        assert!(!refused("monitor.svc:8090", None, false), "a program may use any name");
        assert!(!refused("localhost:8090", None, true));
    }

    #[test]
    fn a_login_leads_nowhere_else() {
        assert_eq!(local_path("/nodes/node-1?a=b"), "/nodes/node-1?a=b");
        for other in ["//evil.example", "https://evil.example", "/\\evil", "", "/a b", "/\r\nSet-Cookie: x"] {
            assert_eq!(local_path(other), "/", "{other:?}");
        }
    }
}
