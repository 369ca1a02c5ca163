//! Who the caller is, and what was decided about others.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::guard::Caller;
use super::pages::People;
use crate::access::journal::Noted;
use crate::access::{Breadth, Need, Permission, decide};
use crate::desk::now;

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// `token:NAME`, `subject:NAME`, or `local` while there are no rules.
    who: String,
    /// Over what each permission is granted now; what is absent is not.
    #[schema(value_type = BTreeMap<String, String>)]
    permissions: BTreeMap<&'static str, String>,
}

/// The newest decisions about access.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decisions {
    /// Newest first. The same one again is counted, not repeated.
    decisions: Vec<Noted>,
}

/// Who the caller is, and what they may do.
#[utoipa::path(get, path = "/v1/me", responses((status = 200, body = Me, description = "The caller")))]
pub async fn me(State(people): State<People>, Extension(caller): Extension<Caller>) -> Json<Me> {
    let grants = people.access.rules().map_or(&[][..], |rules| &rules.grants);
    let at = now();
    let reach = |permission| {
        let need = Need::May(permission, Breadth::Scoped);
        decide(caller.who.as_ref(), need, grants, at).ok()
    };
    Json(Me {
        who: caller.who.as_ref().map(ToString::to_string).unwrap_or_default(),
        permissions: Permission::ALL
            .into_iter()
            .filter_map(|permission| Some((permission.as_str(), reach(permission)?.to_string())))
            .collect(),
    })
}

/// What was decided about access lately.
#[utoipa::path(
    get,
    path = "/v1/access",
    responses((status = 200, body = Decisions, description = "The newest decisions"))
)]
pub async fn decisions(State(people): State<People>) -> Json<Decisions> {
    Json(Decisions {
        decisions: people.access.decisions(),
    })
}
