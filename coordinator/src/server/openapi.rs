//! The description of everything below `/v1`, made from the code: paths and answers
//! from the handlers and their types, what each takes and how it refuses from the
//! table of routes.

use std::sync::OnceLock;

use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Header, ObjectBuilder, OpenApi as Document, Ref, ResponseBuilder, Type,
};
use utoipa::{Modify, OpenApi, ToSchema};

use super::approvals;
use super::calendar;
use super::cost;
use super::ledger;
use super::problem::Problem;
use super::routes::Route;
use super::{me, pages};
use crate::access::Need;

/// A departure from what should be.
#[derive(Debug, ToSchema)]
#[schema(as = Finding)]
#[expect(
    dead_code,
    reason = "what an explained finding looks like in JSON: a test compares them"
)]
pub struct FindingSchema {
    /// A stable name in kebab case.
    name: String,
    /// What it is about.
    subject: String,
    /// How much it matters.
    severity: SeveritySchema,
    /// What was seen and what to do next.
    detail: String,
    /// When it was first seen.
    #[schema(format = DateTime)]
    since: String,
    /// What clears it; absent for one of another version.
    clears: Option<String>,
    /// Where its runbook is; absent while the configuration says nowhere.
    runbook: Option<String>,
}

/// How much a finding matters.
#[derive(Debug, ToSchema)]
#[schema(as = Severity, rename_all = "lowercase")]
#[expect(dead_code, reason = "as above")]
pub enum SeveritySchema {
    /// Worth knowing.
    Info,
    /// Recoverability is reduced, or will be.
    Warning,
    /// A person must act.
    Critical,
}

/// A kind of work.
#[derive(Debug, ToSchema)]
#[schema(as = Work, rename_all = "kebab-case")]
#[expect(dead_code, reason = "as above")]
pub enum WorkSchema {
    /// A base backup.
    BaseBackup,
    /// All of the filestores.
    FilestoreCheckpoint,
    /// Settings and secrets.
    Configuration,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast coordinator",
        description = "The fleet, its policy, and who may see them. What is not granted is refused; every error is \
                       problem details (RFC 9457).",
    ),
    paths(
        pages::status,
        pages::cluster,
        ledger::points,
        calendar::status,
        approvals::status,
        cost::status,
        pages::policy,
        pages::refresh,
        me::me,
        me::decisions,
        document,
    ),
    components(schemas(Problem)),
    modifiers(&ByTable),
)]
struct Api;

/// Adds what the table of routes says.
struct ByTable;

/// What the security scheme is called.
const TOKEN: &str = "token";

impl Modify for ByTable {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token of the configuration, or an access token that the OpenID provider has signed",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(bearer));
        for route in Route::ALL {
            let item = document.paths.paths.get_mut(route.path());
            let operation = item.and_then(|item| match route.method() {
                Method::POST => item.post.as_mut(),
                _ => item.get.as_mut(),
            });
            if let Some(operation) = operation {
                by_table(operation, *route);
            }
        }
    }
}

fn by_table(operation: &mut Operation, route: Route) {
    let mut refusals = vec![
        (405, "Another method is taken"),
        (408, "It took too long"),
        (413, "The body is too long"),
    ];
    if route.need() != Need::Nothing {
        operation.security = Some(vec![SecurityRequirement::new::<_, _, String>(TOKEN, [])]);
        refusals.extend([
            (401, "Who asks is not known"),
            (
                421,
                "Another name than this machine's, while there are no rules of access",
            ),
            (429, "That was too often"),
            (503, "The OpenID provider, or what is asked for, is out of reach"),
        ]);
    }
    if matches!(route.need(), Need::May(..)) || route.changes() {
        refusals.push((403, "It is not granted"));
    }
    if route.path().contains('{') {
        refusals.extend([
            (400, "A part of the path is not text"),
            (404, "There is none, or it is out of scope"),
        ]);
    }
    for (status, words) in refusals {
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let mut response = ResponseBuilder::new()
            .description(words)
            .content("application/problem+json", problem);
        if status == 429 {
            let seconds = Header::new(ObjectBuilder::new().schema_type(Type::Integer).build());
            response = response.header("Retry-After", seconds);
        }
        operation
            .responses
            .responses
            .insert(status.to_string(), response.build().into());
    }
}

/// This description.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub async fn document() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| Api::openapi().to_json().expect("text always serialises"));
    ([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use holdfast_proto::finding::{Finding, Severity};
    use holdfast_proto::message::Work;
    use serde_json::{Value, json};

    use super::*;
    use crate::runbooks::Explained;

    fn api() -> Value {
        serde_json::to_value(Api::openapi()).unwrap()
    }

    #[test]
    fn every_route_below_v1_is_described_and_nothing_else() {
        let api = api();
        let described: BTreeSet<String> = api["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys();
                methods
                    .map(move |method| format!("{} {path}", method.to_uppercase()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let mounted: BTreeSet<String> = Route::ALL
            .iter()
            .filter(|route| route.path().starts_with("/v1/"))
            .map(|route| route.name())
            .collect();
        assert_eq!(described, mounted);
        for route in Route::ALL.iter().filter(|route| route.path().starts_with("/v1/")) {
            let operation = &api["paths"][route.path()][route.method().as_str().to_lowercase()];
            let guarded = route.need() != Need::Nothing;
            assert_eq!(operation["security"].is_array(), guarded, "{route:?}");
            assert_eq!(operation["responses"]["401"].is_object(), guarded, "{route:?}");
        }
    }

    #[test]
    fn what_is_described_by_hand_is_as_it_is_sent() {
        let schemas = api()["components"]["schemas"].clone();
        let finding = Finding {
            name: "x".to_owned(),
            subject: "x".to_owned(),
            severity: Severity::Warning,
            detail: "x".to_owned(),
            since: "2026-11-21T12:00:00Z".parse().unwrap(),
        };
        let finding = Explained::of(finding, None);
        let keys = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(
            keys(&schemas["Finding"]["properties"]),
            keys(&serde_json::to_value(finding).unwrap())
        );
        let severities = json!([Severity::Info, Severity::Warning, Severity::Critical]);
        assert_eq!(schemas["Severity"]["enum"], severities);
        let work = json!([Work::BaseBackup, Work::FilestoreCheckpoint, Work::Configuration]);
        assert_eq!(schemas["Work"]["enum"], work);
    }
}
