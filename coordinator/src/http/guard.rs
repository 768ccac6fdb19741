//! What is looked at before a request is read: who sent it, and as what.
//!
//! A browser on an operator's desk reaches the cluster too. Whatever page it has open must not be
//! able to submit a command through it. Two rules see to that, for every route alike:
//!
//! - A request that carries an `Origin` is taken only when that origin is the very host and port
//!   it was sent to, *and* that host is one of ours (an IP address, `localhost`, the node's or a
//!   peer's configured host). The second half stops a foreign name that was made to resolve to
//!   our address.
//! - A POST body must say that it is JSON. A form can't say that, so no form can post here.
//!
//! Both also hold for a request that will be forwarded: the guard stands before forwarding.

use super::App;
use super::problem::{ApiError, ApiResult};
use crate::config::Config;
use api::ErrorCode;
use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Refuses what no route may take.
pub fn check(app: &App, request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        check_origin(headers, host_of(request).as_deref(), &app.own_hosts)?;
    }
    check_content_type(request.method(), headers, has_body(request))
}

/// The names under which a browser may reach this node.
pub fn own_hosts(config: &Config) -> BTreeSet<String> {
    config
        .peers
        .iter()
        .map(|peer| peer.host.as_str())
        .chain([config.host.as_str(), config.bind_host(), "localhost"])
        .map(str::to_ascii_lowercase)
        .collect()
}

/// Where the request was sent: the Host header, or the authority of its URI.
fn host_of(request: &Request) -> Option<String> {
    let header = request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
    header.or_else(|| request.uri().authority().map(ToString::to_string))
}

fn has_body(request: &Request) -> bool {
    !request.body().is_end_stream()
}

/// Refuses a request from a page that is not ours.
pub fn check_origin(headers: &HeaderMap, host: Option<&str>, own_hosts: &BTreeSet<String>) -> ApiResult<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("");
    let forbidden = |why: String| Err(ApiError::new(ErrorCode::ForbiddenOrigin, why));
    let (default_port, origin_host) = match origin.split_once("://") {
        Some(("http", rest)) => ("80", rest),
        Some(("https", rest)) => ("443", rest),
        _ => return forbidden(format!("origin `{origin}` is not this node")),
    };
    let host = host.unwrap_or("");
    let (asked, asked_port) = split_port(host, default_port);
    let (from, from_port) = split_port(origin_host, default_port);
    if asked.is_empty() || !asked.eq_ignore_ascii_case(from) || asked_port != from_port {
        return forbidden(format!("origin `{origin}` is not the host `{host}` that was asked"));
    }
    let is_address = asked.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if !is_address && !own_hosts.contains(&asked.to_ascii_lowercase()) {
        return forbidden(format!(
            "`{asked}` is no name of this node; pages served under it may not call it"
        ));
    }
    Ok(())
}

/// Refuses a POST whose body does not say that it is JSON.
pub fn check_content_type(method: &Method, headers: &HeaderMap, has_body: bool) -> ApiResult<()> {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Ok(());
    }
    if headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes() == b"application/json") {
        return Ok(());
    }
    let named = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("unreadable"));
    let essence = named.and_then(|v| v.split(';').next()).unwrap_or("").trim().to_ascii_lowercase();
    match named {
        Some(_) if essence == "application/json" || essence.ends_with("+json") => Ok(()),
        None if !has_body => Ok(()),
        None => Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            "the body has no content type; send `content-type: application/json`",
        )),
        Some(other) => Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            format!("the content type is `{other}`; send `content-type: application/json`"),
        )),
    }
}

/// Host and port, the port filled in where it is missing.
fn split_port<'a>(authority: &'a str, default_port: &'a str) -> (&'a str, &'a str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (authority, default_port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(origin: &str, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        let own = ["node1.example.com", "localhost"].map(str::to_owned).into();
        check_origin(&headers, Some(host), &own).is_ok()
    }

    #[test]
    fn a_page_may_only_call_the_node_that_served_it() {
        assert!(origin("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert!(origin("http://localhost:8080", "LOCALHOST:8080"));
        assert!(origin("http://[::1]:8080", "[::1]:8080"));
        assert!(origin("http://node1.example.com", "node1.example.com:80"));
        assert!(!origin("http://127.0.0.1:8090", "127.0.0.1:8080"), "another port");
        assert!(!origin("http://evil.example", "127.0.0.1:8080"), "another host");
        assert!(!origin("null", "127.0.0.1:8080"), "a sandboxed frame");
        assert!(!origin("file://", "127.0.0.1:8080"));
        assert!(!origin("http://127.0.0.1:8080", ""), "no host");
    }

    #[test]
    fn a_foreign_name_for_our_address_is_refused() {
        assert!(!origin("http://evil.example:8080", "evil.example:8080"));
    }

    #[test]
    fn without_an_origin_nothing_is_refused() {
        assert!(check_origin(&HeaderMap::new(), Some("whatever"), &BTreeSet::new()).is_ok());
    }

    fn content_type(method: Method, value: Option<&str>, has_body: bool) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
        }
        check_content_type(&method, &headers, has_body).is_ok()
    }

    #[test]
    fn a_post_must_be_json() {
        assert!(content_type(Method::POST, Some("application/json"), true));
        assert!(content_type(Method::POST, Some("Application/JSON; charset=utf-8"), true));
        assert!(!content_type(Method::POST, Some("application/x-www-form-urlencoded"), true));
        assert!(!content_type(Method::POST, Some("text/plain"), true));
        assert!(!content_type(Method::POST, None, true));
    }

    #[test]
    fn nothing_to_say_needs_no_content_type_but_a_form_stays_refused() {
        assert!(content_type(Method::POST, None, false));
        assert!(!content_type(Method::POST, Some("application/x-www-form-urlencoded"), false));
        assert!(content_type(Method::GET, Some("text/plain"), false));
    }
}
