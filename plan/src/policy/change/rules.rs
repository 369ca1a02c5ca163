//! What would change in approvals, alert routes, tenants and limits.

use std::collections::BTreeSet;

use super::{Direction, Found, list, side_by_side};
use crate::policy::{ApprovalRule, Approvals, Guarded, Policy, Route};

pub(super) fn compare(old: &Policy, new: &Policy, found: &mut Found) {
    for act in Guarded::ALL {
        approval(act, old.approvals(), new.approvals(), found);
    }
    let routes = side_by_side(
        old.routes().map(|r| (r.name.clone(), r)),
        new.routes().map(|r| (r.name.clone(), r)),
    );
    for (name, sides) in routes {
        route(&format!("route {name}"), sides, found);
    }
    let tenants = side_by_side(
        old.tenants().map(|t| (t.name.clone(), t)),
        new.tenants().map(|t| (t.name.clone(), t)),
    );
    for (name, (from, to)) in tenants {
        let subject = format!("tenant {name}");
        let entity = |tenant: Option<&crate::policy::Tenant>| match tenant {
            None => "not there".to_owned(),
            Some(tenant) => tenant
                .legal_entity
                .clone()
                .unwrap_or_else(|| "unnamed".to_owned()),
        };
        found.differs(&subject, "legal entity", entity(from), entity(to));
    }
    let (from, to) = (old.coverage(), new.coverage());
    found.more_weakens(&"drills", "window", from.window, to.window);
    found.differs(&"drills", "per_day", from.per_day, to.per_day);
    let (from, to) = (old.limits(), new.limits());
    for (what, from, to) in [
        ("per_host", from.per_host, to.per_host),
        ("per_region", from.per_region, to.per_region),
        ("per_store", from.per_store, to.per_store),
    ] {
        let shown = |n: Option<u32>| n.map_or("none".to_owned(), |n| n.to_string());
        found.differs(&"limits", what, shown(from), shown(to));
    }
}

fn approval(act: Guarded, old: &Approvals, new: &Approvals, found: &mut Found) {
    let subject = format!("approval of {act}");
    let (from, to): (ApprovalRule, ApprovalRule) = (old.rule(act), new.rule(act));
    found.less_weakens(&subject, "approvers", from.approvers, to.approvers);
    found.more_weakens(&subject, "expires", from.expires, to.expires);
    // Whoever may sign now and could not before makes it easier.
    let names = |members: &BTreeSet<_>| members.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (before, after) = (old.members(&from), new.members(&to));
    match (before, after) {
        (None, None) => {}
        (Some(before), None) => {
            let change = (list(&names(&before)), "all approvers");
            found.add(&subject, "who may approve", change, Direction::Weakens);
        }
        (None, Some(after)) => {
            let change = ("all approvers", list(&names(&after)));
            found.add(&subject, "who may approve", change, Direction::Strengthens);
        }
        (Some(before), Some(after)) => {
            found.gain_weakens(&subject, "who may approve", &names(&before), &names(&after));
        }
    }
}

fn route(subject: &str, sides: (Option<&Route>, Option<&Route>), found: &mut Found) {
    let (from, to) = match sides {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) => {
            return found.add(&subject, "the route", (from.kind, "removed"), Direction::Weakens);
        }
        (None, Some(to)) => {
            return found.add(
                &subject,
                "the route",
                ("not there", to.kind),
                Direction::Strengthens,
            );
        }
        (None, None) => return,
    };
    found.differs(&subject, "kind", from.kind, to.kind);
    found.differs(&subject, "url_env", &from.url_env, &to.url_env);
    if from.severity != to.severity {
        let word = |route: &Route| format!("{:?}", route.severity).to_lowercase();
        let direction = match to.severity > from.severity {
            true => Direction::Weakens,
            false => Direction::Strengthens,
        };
        found.add(&subject, "severity", (word(from), word(to)), direction);
    }
    let names = |route: &Route| route.tenants.iter().cloned().collect::<Vec<_>>();
    let (before, after) = (names(from), names(to));
    match (before.is_empty(), after.is_empty()) {
        (true, true) => {}
        (true, false) => found.add(&subject, "tenants", ("all", list(&after)), Direction::Weakens),
        (false, true) => found.add(
            &subject,
            "tenants",
            (list(&before), "all"),
            Direction::Strengthens,
        ),
        (false, false) => found.loss_weakens(&subject, "tenants", &before, &after),
    }
}
