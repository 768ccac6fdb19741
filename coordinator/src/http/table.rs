//! Every route of this node with who may call it and what it takes and gives: the one table.
//!
//! Three things are derived from it: the check before every handler ([`super::access`]), the API's
//! description ([`super::openapi`]), and the answer to a method that a path does not take.
//!
//! Invariant: what is not in the table is not served. A handler that was added to a router without
//! a row here answers 500 by name in every test that calls it, and never runs.

mod rows;

use api::ErrorCode;
use api::access::Role;
use std::collections::HashMap;
use std::sync::LazyLock;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Anybody, without a token: probes, the login and this description.
    Anybody,
    /// These roles.
    Roles(&'static [Role]),
    /// Nodes of the cluster, which prove themselves in each request.
    Peers,
}

impl Allowed {
    /// May that role call it?
    pub fn allows(self, role: Role) -> bool {
        match self {
            Allowed::Anybody => true,
            Allowed::Roles(roles) => roles.contains(&role),
            Allowed::Peers => role == Role::Node,
        }
    }
}

/// Looks.
pub const VIEW: Allowed = Allowed::Roles(&[Role::Admin, Role::Operator, Role::Viewer, Role::Node]);
/// Works with tasks, and repairs.
pub const OPERATE: Allowed = Allowed::Roles(&[Role::Admin, Role::Operator]);
/// The worker protocol.
pub const WORK: Allowed = Allowed::Roles(&[Role::Admin, Role::Worker]);
/// What a worker does for itself and an operator for it.
pub const WORK_OR_OPERATE: Allowed = Allowed::Roles(&[Role::Admin, Role::Operator, Role::Worker]);
/// Changes who belongs to the cluster, or how all nodes decide.
pub const ADMINISTER: Allowed = Allowed::Roles(&[Role::Admin]);

/// A type's schema: its name where it has one, the schema, and those it refers to.
pub type SchemaOf = fn(&mut Vec<(String, RefOr<Schema>)>) -> RefOr<Schema>;

/// A body or an answer.
#[derive(Clone, Copy)]
pub enum Content {
    /// Nothing.
    Empty,
    /// JSON of a type.
    Json(SchemaOf),
    /// JSON of any shape.
    AnyJson,
    /// Something else, by its content type.
    Other(&'static str),
}

/// The body that a route takes.
#[derive(Clone, Copy)]
pub struct Body {
    /// What it is.
    pub content: Content,
    /// May it be left out?
    pub required: bool,
}

/// One method of one path.
#[derive(Clone)]
pub struct Endpoint {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// The path as the router has it.
    pub path: &'static str,
    /// Who may call it.
    pub allowed: Allowed,
    /// What it is about, for grouping.
    pub tag: &'static str,
    /// One sentence for people.
    pub summary: &'static str,
    /// Parameters of the query and headers.
    pub params: Vec<Parameter>,
    /// What it takes.
    pub body: Option<Body>,
    /// What it answers when all is well.
    pub answers: Vec<(u16, &'static str, Content)>,
    /// What it refuses, beside what every route may refuse.
    pub errors: Vec<ErrorCode>,
}

impl Endpoint {
    fn new(method: &'static str, path: &'static str, allowed: Allowed, summary: &'static str) -> Endpoint {
        let tag = match path.split('/').nth(2) {
            _ if path.starts_with("/raft/") => "peers",
            Some(tag) => tag.trim_end_matches(".json"),
            None => "node",
        };
        Endpoint {
            method,
            path,
            allowed,
            tag,
            summary,
            params: Vec::new(),
            body: None,
            answers: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// The parameters of its query.
    pub fn query<T: IntoParams>(mut self) -> Endpoint {
        self.params.extend(T::into_params(|| Some(ParameterIn::Query)));
        self
    }

    /// A JSON body that has to be there.
    pub fn takes<T: ToSchema>(mut self) -> Endpoint {
        self.body = Some(Body { content: Content::Json(schema_of::<T>), required: true });
        self
    }

    /// A JSON body that may be left out.
    pub fn may_take<T: ToSchema>(mut self) -> Endpoint {
        self.body = Some(Body { content: Content::Json(schema_of::<T>), required: false });
        self
    }

    /// A JSON body of any shape.
    pub fn takes_json(mut self) -> Endpoint {
        self.body = Some(Body { content: Content::AnyJson, required: true });
        self
    }

    /// An answer.
    pub fn gives<T: ToSchema>(self, status: u16, what: &'static str) -> Endpoint {
        self.answers(status, what, Content::Json(schema_of::<T>))
    }

    /// An answer of any content.
    pub fn answers(mut self, status: u16, what: &'static str, content: Content) -> Endpoint {
        self.answers.push((status, what, content));
        self
    }

    /// What it refuses, beside what every route may refuse.
    pub fn refuses(mut self, errors: &[ErrorCode]) -> Endpoint {
        self.errors.extend(errors);
        self
    }

    /// Only the leader answers it; others forward.
    pub fn led(self) -> Endpoint {
        self.refuses(&[ErrorCode::NoLeader, ErrorCode::Overloaded, ErrorCode::UnknownOutcome])
    }
}

/// A GET.
pub fn get(path: &'static str, allowed: Allowed, summary: &'static str) -> Endpoint {
    Endpoint::new("GET", path, allowed, summary)
}

/// A POST.
pub fn post(path: &'static str, allowed: Allowed, summary: &'static str) -> Endpoint {
    Endpoint::new("POST", path, allowed, summary)
}

/// A PUT.
pub fn put(path: &'static str, allowed: Allowed, summary: &'static str) -> Endpoint {
    Endpoint::new("PUT", path, allowed, summary)
}

/// A DELETE.
pub fn delete(path: &'static str, allowed: Allowed, summary: &'static str) -> Endpoint {
    Endpoint::new("DELETE", path, allowed, summary)
}

/// The schema of a type, by reference; what it refers to goes into the list.
pub fn schema_of<T: ToSchema>(all: &mut Vec<(String, RefOr<Schema>)>) -> RefOr<Schema> {
    let name = T::name().into_owned();
    if !all.iter().any(|(had, _)| *had == name) {
        all.push((name.clone(), T::schema()));
        T::schemas(all);
    }
    RefOr::Ref(utoipa::openapi::Ref::from_schema_name(name))
}

/// The table.
pub struct Table {
    endpoints: Vec<Endpoint>,
    by_path: HashMap<&'static str, Vec<usize>>,
}

impl Table {
    /// Every row, in the order in which they are written.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The row of a path and method; HEAD is a GET without its body.
    pub fn find(&self, method: &str, path: &str) -> Found<'_> {
        let Some(rows) = self.by_path.get(path) else { return Found::NoSuchPath };
        let method = if method == "HEAD" { "GET" } else { method };
        let rows = || rows.iter().map(|at| &self.endpoints[*at]);
        match rows().find(|row| row.method == method) {
            Some(row) => Found::Row(row),
            None => Found::NoSuchMethod(rows().map(|row| row.method).collect()),
        }
    }
}

/// What the table says of a request.
pub enum Found<'a> {
    /// This row.
    Row(&'a Endpoint),
    /// The path takes only these methods.
    NoSuchMethod(Vec<&'static str>),
    /// No row has the path.
    NoSuchPath,
}

/// The table of this node.
pub fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        let endpoints = rows::all();
        let mut by_path: HashMap<&'static str, Vec<usize>> = HashMap::new();
        for (at, endpoint) in endpoints.iter().enumerate() {
            by_path.entry(endpoint.path).or_default().push(at);
        }
        Table { endpoints, by_path }
    });
    &TABLE
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_row_stands_twice_and_every_row_says_what_it_gives() {
        let mut seen = BTreeSet::new();
        for row in table().endpoints() {
            assert!(seen.insert((row.path, row.method)), "{} {} stands twice", row.method, row.path);
            assert!(row.summary.ends_with(['.', '?']), "{} {}", row.method, row.path);
            assert!(!row.answers.is_empty(), "{} {} gives nothing", row.method, row.path);
        }
    }

    #[test]
    fn only_probes_the_login_and_the_description_need_no_role() {
        let open: Vec<_> = table()
            .endpoints()
            .iter()
            .filter(|row| row.allowed == Allowed::Anybody)
            .map(|row| row.path)
            .collect();
        assert_eq!(
            open,
            ["/api/health", "/api/health/live", "/api/health/ready", "/api/auth/login", "/api/openapi.json",]
        );
    }

    #[test]
    fn a_viewer_changes_nothing_and_a_worker_only_works() {
        for row in table().endpoints() {
            if row.allowed == Allowed::Anybody {
                continue;
            }
            let name = format!("{} {}", row.method, row.path);
            assert!(row.method == "GET" || !row.allowed.allows(Role::Viewer), "{name} is open to viewers");
            let works = row.path.starts_with("/api/workers/") || row.path == "/api/tasks/{id}/result";
            assert_eq!(row.allowed.allows(Role::Worker), works && row.method == "POST", "{name} for workers");
            let peers = row.path.starts_with("/raft/");
            assert_eq!(row.allowed.allows(Role::Admin), !peers, "{name} for admins");
        }
    }
}
