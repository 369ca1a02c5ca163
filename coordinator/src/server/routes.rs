//! The table of what people and programs may ask for, and what each takes.
//!
//! A route that is not in the table is not mounted: [`mount`] walks the table,
//! asks for the handler of each entry, and puts the guard before it. So nothing
//! can be added without saying what it needs, and the test that walks this very
//! table by role and scope meets it.

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::MethodRouter;

use super::guard::{self, Gate};
use super::pages::People;
use crate::access::{Breadth, Need, Permission};

macro_rules! routes {
    ($($(#[$doc:meta])* $name:ident: $method:ident $path:literal, $need:expr;)*) => {
        /// Something that people or programs may ask for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Route {
            $($(#[$doc])* $name),*
        }

        impl Route {
            /// Every route there is.
            pub const ALL: &'static [Route] = &[$(Route::$name),*];

            /// The method.
            pub fn method(self) -> Method {
                match self { $(Route::$name => Method::$method),* }
            }

            /// The path, as it is mounted.
            pub fn path(self) -> &'static str {
                match self { $(Route::$name => $path),* }
            }

            /// What it takes.
            pub fn need(self) -> Need {
                match self { $(Route::$name => $need),* }
            }
        }
    };
}

const fn scoped(permission: Permission) -> Need {
    Need::May(permission, Breadth::Scoped)
}

const fn whole(permission: Permission) -> Need {
    Need::May(permission, Breadth::Whole)
}

routes! {
    /// The fleet's page.
    Page: GET "/", scoped(Permission::Fleet);
    /// Its style sheet, the same in every installation.
    Style: GET "/style.css", Need::Nothing;
    /// Whether this process does its work.
    Healthz: GET "/healthz", Need::Nothing;
    /// The form to log in with.
    Login: GET "/login", Need::Nothing;
    /// Logs in, with a form that the page has shown.
    LogIn: POST "/login", Need::Nothing;
    /// Goes to the OpenID provider to log in.
    ToProvider: GET "/login/oidc", Need::Nothing;
    /// Comes back from there.
    FromProvider: GET "/login/oidc/callback", Need::Nothing;
    /// Logs out.
    LogOut: POST "/logout", Need::Known;
    /// The fleet as JSON.
    Status: GET "/v1/status", scoped(Permission::Fleet);
    /// One cluster of it.
    Cluster: GET "/v1/clusters/{tenant}/{cluster}", scoped(Permission::Fleet);
    /// What can be restored of it.
    Points: GET "/v1/clusters/{tenant}/{cluster}/points", scoped(Permission::Fleet);
    /// Its page: what can be restored, drawn, and what a moment would take.
    ClusterPage: GET "/clusters/{tenant}/{cluster}", scoped(Permission::Fleet);
    /// How clusters stand to the windows of their calendars.
    Calendar: GET "/v1/calendar", scoped(Permission::Fleet);
    /// The same, as a page.
    CalendarPage: GET "/calendar", scoped(Permission::Fleet);
    /// What waits for more than one person, and what they said.
    Approvals: GET "/v1/approvals", scoped(Permission::Approvals);
    /// The same, as a page.
    ApprovalsPage: GET "/approvals", scoped(Permission::Approvals);
    /// What is stored and asked for, by tenant.
    Cost: GET "/v1/cost", scoped(Permission::Fleet);
    /// The same, as a page.
    CostPage: GET "/cost", scoped(Permission::Fleet);
    /// The policy in force; its text names every tenant.
    Policy: GET "/v1/policy", whole(Permission::Policy);
    /// Has the repository, the evidence and the policy's file looked at now.
    Refresh: POST "/v1/refresh", whole(Permission::Refresh);
    /// Who the caller is, and what they may do.
    Me: GET "/v1/me", Need::Known;
    /// What was decided about access lately.
    Decisions: GET "/v1/access", whole(Permission::Access);
    /// The same, as a page.
    DecisionsPage: GET "/access", whole(Permission::Access);
    /// What there is below /v1, for programs that read such descriptions.
    OpenApi: GET "/v1/openapi.json", Need::Nothing;
    /// Metrics; counters are of the whole.
    Metrics: GET "/metrics", whole(Permission::Metrics);
    /// The list of drills.
    EvidenceList: GET "/evidence", scoped(Permission::Evidence);
    /// A drill's page and documents.
    EvidenceDocument: GET "/evidence/{*path}", scoped(Permission::Evidence);
}

impl Route {
    /// Whether it changes something. Such a request must not be another site's doing.
    pub fn changes(self) -> bool {
        self.method() != Method::GET
    }

    /// Method and path, as logs name it.
    pub fn name(self) -> String {
        format!("{} {}", self.method(), self.path())
    }
}

/// Mounts every route of the table, each behind the guard.
pub(crate) fn mount(people: &People, handler: fn(Route) -> MethodRouter<People>) -> Router<People> {
    let mut router = Router::new();
    for route in Route::ALL.iter().copied() {
        let gate = Gate {
            route,
            people: people.clone(),
        };
        router = router.route(
            route.path(),
            handler(route).route_layer(from_fn_with_state(gate, guard::guard)),
        );
    }
    router
}
