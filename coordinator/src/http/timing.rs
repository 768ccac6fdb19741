//! How long each request took, by route template, method and status.

use crate::telemetry::Telemetry;
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use std::time::Instant;

/// Runs from a request to its answer.
pub struct Clock {
    begun: Instant,
    method: &'static str,
    route: Option<MatchedPath>,
}

impl Clock {
    /// Starts with a request.
    pub fn start(request: &Request) -> Clock {
        Clock {
            begun: Instant::now(),
            method: method_label(request.method()),
            route: request.extensions().get::<MatchedPath>().cloned(),
        }
    }

    /// Ends with its answer.
    pub fn stop(&self, telemetry: &Telemetry, status: StatusCode) {
        // Paths that match no route share one label, or a scanner would fill the registry.
        let route = self.route.as_ref().map_or("unmatched", MatchedPath::as_str);
        telemetry.http_request(route, self.method, status.as_u16(), self.begun.elapsed());
    }
}

/// The method as labels have it: bounded.
pub(crate) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}
