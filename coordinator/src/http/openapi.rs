//! `GET /api/openapi.json`: the API as an OpenAPI 3.1 document, made from the table of routes and
//! the types that cross the wire.

use super::App;
use super::read::Consistency;
use super::results::Format;
use super::table::{Allowed, Content, Endpoint, schema_of, table};
use api::task::TaskState;
use api::{ErrorCode, Problem};
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi, OpenApiBuilder,
    RefOr, Required, Schema, ServerBuilder, Type,
};

/// Name of the scheme of tokens.
const BEARER: &str = "token";

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route("/api/openapi.json", get(show))
}

async fn show() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_pretty_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}

/// The document.
pub fn document() -> OpenApi {
    let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
    let problem = schema_of::<Problem>(&mut schemas);
    // What queries refer to; bodies and answers bring theirs along.
    schema_of::<Consistency>(&mut schemas);
    schema_of::<TaskState>(&mut schemas);
    schema_of::<Format>(&mut schemas);
    let mut paths = PathsBuilder::new();
    for endpoint in table().endpoints() {
        let operation = operation(endpoint, &problem, &mut schemas);
        let item = utoipa::openapi::PathItem::new(method_of(endpoint), operation);
        paths = paths.path(endpoint.path, item);
    }
    let mut components = ComponentsBuilder::new().security_scheme(
        BEARER,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .description(Some("Asked for where `enable_auth` is set; POST /api/auth/login gives one."))
                .build(),
        ),
    );
    let mut seen = std::collections::BTreeSet::new();
    for (name, schema) in schemas {
        if seen.insert(name.clone()) {
            components = components.schema(name, schema);
        }
    }
    let tags: std::collections::BTreeSet<&str> = table().endpoints().iter().map(|e| e.tag).collect();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Holdfast coordinator")
                .version(api::VERSION)
                .description(Some(
                    "Every node serves every path; what only the leader can answer is forwarded to it. Errors are RFC 9457 problem documents: decide by `code` and `retryable`.",
                ))
                .license(Some(
                    LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
                ))
                .build(),
        )
        .servers(Some([ServerBuilder::new().url("/").description(Some("The node that serves this.")).build()]))
        .tags(Some(
            tags.into_iter().map(|tag| TagBuilder::new().name(tag).description(about(tag)).build()),
        ))
        .paths(paths.build())
        .components(Some(components.build()))
        .build()
}

fn method_of(endpoint: &Endpoint) -> HttpMethod {
    match endpoint.method {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(
    endpoint: &Endpoint,
    problem: &RefOr<Schema>,
    schemas: &mut Vec<(String, RefOr<Schema>)>,
) -> utoipa::openapi::path::Operation {
    let mut operation = OperationBuilder::new()
        .tag(endpoint.tag)
        .operation_id(Some(operation_id(endpoint)))
        .summary(Some(endpoint.summary))
        .description(Some(who(endpoint.allowed)));
    for name in path_parameters(endpoint.path) {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(ObjectBuilder::new().schema_type(Type::String).build())),
        );
    }
    for parameter in &endpoint.params {
        operation = operation.parameter(parameter.clone());
    }
    if let Some(body) = &endpoint.body {
        let required = if body.required { Required::True } else { Required::False };
        let content = content(body.content, schemas);
        let built = content.into_iter().fold(RequestBodyBuilder::new(), |b, (kind, c)| b.content(kind, c));
        operation = operation.request_body(Some(built.required(Some(required)).build()));
    }
    operation = match endpoint.allowed {
        Allowed::Roles(_) => operation.security(SecurityRequirement::new(BEARER, Vec::<String>::new())),
        _ => operation.securities(Some(Vec::<SecurityRequirement>::new())),
    };
    operation.responses(responses(endpoint, problem, schemas)).build()
}

fn responses(
    endpoint: &Endpoint,
    problem: &RefOr<Schema>,
    schemas: &mut Vec<(String, RefOr<Schema>)>,
) -> utoipa::openapi::Responses {
    let mut all = ResponsesBuilder::new();
    let mut said = std::collections::BTreeSet::new();
    for (status, what, _) in &endpoint.answers {
        if !said.insert(*status) {
            continue;
        }
        // An answer may come in more than one form.
        let forms = endpoint.answers.iter().filter(|(other, _, _)| other == status);
        let built = forms
            .filter_map(|(_, _, given)| content(*given, schemas))
            .fold(ResponseBuilder::new().description(*what), |r, (kind, c)| r.content(kind, c));
        all = all.response(status.to_string(), built.build());
    }
    for (status, codes) in errors(endpoint) {
        if said.contains(&status) {
            continue;
        }
        let what =
            codes.iter().map(|code| format!("`{code}`: {}", code.title())).collect::<Vec<_>>().join("; ");
        let built = ResponseBuilder::new()
            .description(what)
            .content("application/problem+json", ContentBuilder::new().schema(Some(problem.clone())).build());
        all = all.response(status.to_string(), built.build());
    }
    all.build()
}

/// Everything a route may refuse, by status: its own, and what every route of its kind may.
fn errors(endpoint: &Endpoint) -> BTreeMap<u16, Vec<ErrorCode>> {
    use ErrorCode::*;
    let mut codes = endpoint.errors.clone();
    // Every request: a page of another origin, a header that is none, too many connections.
    codes.extend([ForbiddenOrigin, Overloaded]);
    if endpoint.allowed != Allowed::Anybody {
        codes.extend([Unauthorized, Forbidden]);
    }
    if endpoint.method != "GET" {
        codes.push(UnsupportedMediaType);
    }
    if endpoint.body.is_some() {
        codes.extend([MalformedJson, BodyTooLarge, RequestTimeout, Validation]);
    }
    if !endpoint.params.is_empty() || endpoint.path.contains('{') {
        codes.push(Validation);
    }
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        let list = by_status.entry(code.status()).or_default();
        if !list.contains(&code) {
            list.push(code);
        }
    }
    by_status
}

fn content(
    content: Content,
    schemas: &mut Vec<(String, RefOr<Schema>)>,
) -> Option<(&'static str, utoipa::openapi::Content)> {
    let any = || {
        RefOr::T(Schema::Object(
            ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue).build(),
        ))
    };
    let (kind, schema) = match content {
        Content::Empty => return None,
        Content::Json(of) => ("application/json", of(schemas)),
        Content::AnyJson => ("application/json", any()),
        Content::Other(kind) => {
            (kind, RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build())))
        }
    };
    Some((kind, ContentBuilder::new().schema(Some(schema)).build()))
}

/// What the routes of a tag are about.
fn about(tag: &str) -> Option<&'static str> {
    Some(match tag {
        "status" | "report" => "What a node says of itself; never waits for consensus.",
        "health" => "Is a node well? Never waits for consensus.",
        "debug" => "A look into a node's log.",
        "logs" => "The last log lines of a node.",
        "events" => "What happens in the cluster, as a node sees it.",
        "tasks" => "Tasks: submitting, looking, cancelling, retrying, reporting.",
        "results" => "Finished tasks, from the database.",
        "workers" => "The worker protocol.",
        "maintenance" => "No new tasks are accepted or assigned.",
        "cluster" => "Members and leadership.",
        "leases" => "Named leases with fencing epochs.",
        "admin" => "Repairs of one node.",
        "backup" => "A consistent archive of the serving cluster.",
        "config" => "A node's own config.",
        "settings" => "What all nodes keep alike.",
        "auth" => "Tokens.",
        "openapi" => "This description.",
        "peers" => "What nodes ask of one another.",
        _ => return None,
    })
}

/// `get_api_tasks_id`.
fn operation_id(endpoint: &Endpoint) -> String {
    let path: String = endpoint
        .path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect::<String>()
        .split('_')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("_");
    format!("{}_{path}", endpoint.method.to_ascii_lowercase())
}

fn path_parameters(path: &str) -> Vec<String> {
    path.split('/').filter_map(|part| Some(part.strip_prefix('{')?.strip_suffix('}')?.to_owned())).collect()
}

fn who(allowed: Allowed) -> String {
    match allowed {
        Allowed::Anybody => "Anybody may call it.".into(),
        Allowed::Roles(roles) => {
            format!("Roles: {}.", roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", "))
        }
        Allowed::Peers => "Nodes of the cluster only.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_route_of_the_table_and_no_other() {
        let document = serde_json::to_value(document()).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let rows: BTreeSet<(String, String)> =
            table().endpoints().iter().map(|e| (e.path.to_owned(), e.method.to_owned())).collect();
        assert_eq!(described, rows);
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    }

    #[test]
    fn every_tag_says_what_it_is_about() {
        for endpoint in table().endpoints() {
            assert!(about(endpoint.tag).is_some(), "{} of {}", endpoint.tag, endpoint.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let text = document().to_json().unwrap();
        let document = serde_json::to_value(document()).unwrap();
        for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"].get(name).is_some(),
                "{name} is referred to and missing"
            );
        }
    }
}
