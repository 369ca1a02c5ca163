//! Every route of the table × every role × scopes, over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_coordinator::access::{Breadth, Need, Role, TokenHash};
use holdfast_coordinator::server::routes::Route;
use holdfast_coordinator::{Evidence, EvidenceDocument};
use http_body_util::Full;
use serde_json::Value;

use crate::house::{House, Running, wait_until};

pub const POLICY: &str = r#"
[[cluster]]
cluster = "acme/erp"
tier = "platinum"
[[cluster]]
cluster = "acme/crm"
tier = "gold"
[[cluster]]
cluster = "other/lab"
tier = "bronze"
"#;

/// What each role may do, written down once more: this is the promise, not the code.
const PROMISED: [(&str, &[&str]); 8] = [
    ("viewer", &["fleet"]),
    ("auditor", &["fleet", "evidence", "policy", "approvals", "access"]),
    (
        "operator",
        &["fleet", "evidence", "policy", "approvals", "metrics", "refresh"],
    ),
    ("approver", &["fleet", "evidence", "policy", "approvals"]),
    ("key-custodian", &["fleet", "evidence", "approvals"]),
    ("policy-admin", &["fleet", "policy", "approvals", "refresh"]),
    ("monitor", &["metrics"]),
    (
        "admin",
        &[
            "fleet",
            "evidence",
            "policy",
            "approvals",
            "metrics",
            "access",
            "refresh",
        ],
    ),
];

const SCOPES: [&str; 5] = ["*", "acme/*", "acme/erp", "other/lab", "nobody/none"];

/// A token, its `[[access.token]]` and one grant.
pub fn granted(name: &str, role: &str, scope: &str, more: &str) -> String {
    format!(
        "[[access.token]]\nname = \"{name}\"\nhash = \"{}\"\n[[access.grant]]\nto = \"token:{name}\"\nrole = \"{role}\"\n\
         scope = [\"{scope}\"]\n{more}\n",
        TokenHash::of(&secret(name)),
    )
}

/// The token of that name.
pub fn secret(name: &str) -> String {
    format!("hft_of-{name}")
}

/// Whoever shows evidence says what it was told of the reader.
fn showing() -> Evidence {
    Evidence {
        keeping: None,
        showing: Some(Arc::new(|_, _, asked| {
            Box::pin(async move {
                Ok(Some(EvidenceDocument {
                    content_type: "text/plain",
                    file: None,
                    bytes: format!("reach: {}", asked.reach).into_bytes(),
                }))
            })
        })),
    }
}

/// A path that a route is mounted for.
fn path_of(route: Route) -> String {
    let path = route.path().replace("{*path}", "drill");
    path.replace("{tenant}/{cluster}", "acme/erp")
}

/// A route asked by somebody, or by nobody.
async fn ask(running: &Running, route: Route, token: Option<&str>) -> (u16, String) {
    let path = path_of(route);
    let mut request = hyper::Request::builder()
        .method(route.method())
        .uri(path)
        .header("host", "holdfast.example.com");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let (status, _, body) = running.send(request.body(Full::default()).unwrap()).await;
    (status, body)
}

/// What a route answers to whoever is let in.
fn success(route: Route) -> &'static [u16] {
    match route {
        // Without the form's mark.
        Route::LogIn => &[403],
        Route::LogOut => &[303],
        // There is no provider.
        Route::ToProvider | Route::FromProvider => &[404],
        // The fourth within a moment is told to wait, after it was let in.
        Route::Refresh => &[202, 429],
        // Nobody reads the ledger here; the page shows the rest.
        Route::Points => &[503],
        _ => &[200],
    }
}

/// What a caller with the role over the scope is to be answered.
fn promised(route: Route, role: &str, scope: &str) -> &'static [u16] {
    let permissions = PROMISED.iter().find(|(name, _)| *name == role).unwrap().1;
    match route.need() {
        Need::Nothing | Need::Known => success(route),
        Need::May(permission, _) if !permissions.contains(&permission.as_str()) => &[403],
        Need::May(_, Breadth::Whole) if scope != "*" => &[403],
        // What is out of scope is not there.
        Need::May(..)
            if matches!(route, Route::Cluster | Route::Points | Route::ClusterPage)
                && ["other/lab", "nobody/none"].contains(&scope) =>
        {
            &[404]
        }
        Need::May(..) => success(route),
    }
}

#[tokio::test]
async fn every_route_by_every_role_over_every_scope() {
    assert_eq!(PROMISED.map(|(role, _)| role), Role::ALL.map(Role::as_str));
    let tokens: Vec<(String, &str, &str)> = PROMISED
        .iter()
        .flat_map(|(role, _)| {
            SCOPES
                .iter()
                .enumerate()
                .map(move |(n, scope)| (format!("{role}-{n}"), *role, *scope))
        })
        .collect();
    let mut section = "[access]\n".to_owned();
    for (name, role, scope) in &tokens {
        section += &granted(name, role, scope, "");
    }
    section += &granted("gone", "admin", "*", "until = \"2026-01-01T00:00:00Z\"");
    section += &format!(
        "[[access.token]]\nname = \"idle\"\nhash = \"{}\"\n",
        TokenHash::of(&secret("idle"))
    );
    let house = House::build_with(POLICY, &section).await;
    let running = house.open_with(showing()).await;
    for route in Route::ALL.iter().copied() {
        let need = route.need();
        for (name, role, scope) in &tokens {
            let (status, body) = ask(&running, route, Some(&secret(name))).await;
            assert!(
                promised(route, role, scope).contains(&status),
                "{status} for {route:?} by {role} over {scope}: {body}"
            );
        }
        // Who is not known, whose grants have ended, and who has none.
        let strangers: &[u16] = match need {
            Need::Nothing => success(route),
            // After many tries: a wrong credential is refused either way.
            Need::Known | Need::May(..) => &[401, 429],
        };
        for nobody in [None, Some("hft_of-"), Some("x"), Some("")] {
            let (status, body) = ask(&running, route, nobody).await;
            assert!(
                strangers.contains(&status),
                "{status} for {route:?} by {nobody:?}: {body}"
            );
        }
        let without: &[u16] = match need {
            Need::Nothing | Need::Known => success(route),
            Need::May(..) => &[403],
        };
        for name in ["gone", "idle"] {
            let (status, body) = ask(&running, route, Some(&secret(name))).await;
            assert!(
                without.contains(&status),
                "{status} for {route:?} by {name}: {body}"
            );
        }
    }
    // What is not in the table is not there, whoever asks.
    for path in [
        "/v1/nothing",
        "/v1/status/",
        "//v1/status",
        "/V1/status",
        "/v1/%73tatus/x",
    ] {
        let request = hyper::Request::get(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", secret("admin-0")));
        let (status, _, body) = running.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(status, 404, "{path}: {body}");
    }
    running.close().await;
}

#[tokio::test]
async fn a_reader_sees_what_their_scope_covers_and_no_trace_of_the_rest() {
    let section = format!(
        "[access]\n{}{}{}",
        granted("all", "admin", "*", ""),
        granted("acme", "operator", "acme/*", ""),
        granted("lab", "auditor", "other/lab", ""),
    );
    let house = House::build_with(POLICY, &section).await;
    let running = house.open_with(showing()).await;
    let status = |name: &'static str| {
        let running = &running;
        async move {
            let (code, body) = ask(running, Route::Status, Some(&secret(name))).await;
            assert_eq!(code, 200, "{body}");
            let fleet: Value = serde_json::from_str(&body).unwrap();
            let names = |list: &str| -> Vec<String> {
                let all = fleet[list].as_array().unwrap().iter();
                let mut names: Vec<String> = all
                    .filter_map(|c| Some(c["cluster"].as_str()?.to_owned()))
                    .collect();
                names.sort();
                names.dedup();
                names
            };
            (names("clusters"), names("findings"), body)
        }
    };
    // Each cluster has a finding: nothing was ever backed up.
    wait_until("findings of every cluster", || async {
        (status("all").await.1.len() == 3).then_some(())
    })
    .await;
    let expected: BTreeMap<&'static str, Vec<&str>> = [
        ("all", vec!["acme/crm", "acme/erp", "other/lab"]),
        ("acme", vec!["acme/crm", "acme/erp"]),
        ("lab", vec!["other/lab"]),
    ]
    .into();
    for (name, clusters) in &expected {
        let (seen, findings, body) = status(name).await;
        assert_eq!(seen, *clusters, "{name}");
        assert_eq!(findings, *clusters, "{name}");
        let page = ask(&running, Route::Page, Some(&secret(name))).await.1;
        for hidden in expected["all"].iter().filter(|c| !clusters.contains(c)) {
            let (tenant, cluster) = hidden.split_once('/').unwrap();
            assert!(!body.contains(hidden), "{name} sees {hidden} in {body}");
            assert!(
                !page.contains(&format!("<wbr>{cluster}")),
                "{name} sees {hidden} on {page}"
            );
            assert!(
                clusters.iter().any(|c| c.starts_with(tenant)) || !page.contains(&format!("{tenant}/")),
                "{name} sees {tenant} on {page}"
            );
        }
        let everything = *name == "all";
        assert_eq!(
            body.contains("\"location\""),
            everything,
            "{name}: replicas are of the whole"
        );
    }
    let evidence = ask(&running, Route::EvidenceList, Some(&secret("acme"))).await;
    assert_eq!(evidence, (200, "reach: acme/*".to_owned()));
    // An export holds the whole log.
    for (name, expect) in [("all", 200), ("acme", 403)] {
        let request = hyper::Request::get("/evidence/01M8EBDNXWVE8H2W55MHEW8SBV/evidence.zip")
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", secret(name)));
        assert_eq!(
            running.send(request.body(Full::default()).unwrap()).await.0,
            expect,
            "{name}"
        );
    }
    // Who asked for what, and was told no, is kept for who may see it.
    let (code, body) = ask(&running, Route::Decisions, Some(&secret("acme"))).await;
    assert_eq!(code, 403, "{body}");
    let (code, body) = ask(&running, Route::Decisions, Some(&secret("all"))).await;
    assert_eq!(code, 200);
    let decisions: Value = serde_json::from_str(&body).unwrap();
    let refused = decisions["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["allowed"] == false)
        .unwrap_or_else(|| panic!("{decisions:#}"));
    assert_eq!(refused["who"], "token:acme");
    assert_eq!(refused["route"], "GET /v1/access");
    assert_eq!(refused["permission"], "access");
    assert_eq!(refused["client"], "127.0.0.1");
    let me = ask(&running, Route::Me, Some(&secret("lab"))).await.1;
    let me: Value = serde_json::from_str(&me).unwrap();
    assert_eq!(me["who"], "token:lab");
    assert_eq!(me["permissions"]["evidence"], "other/lab");
    assert_eq!(me["permissions"].get("metrics"), None);
    running.close().await;
}

#[tokio::test]
async fn without_a_section_this_machine_reads_everything_and_no_other_name_does() {
    let house = House::build(POLICY).await;
    let running = house.open_with(showing()).await;
    for route in Route::ALL.iter().copied() {
        let path = path_of(route);
        let ask = |host: &'static str| {
            let request = hyper::Request::builder()
                .method(route.method())
                .uri(&path)
                .header("host", host);
            running.send(request.body(Full::default()).unwrap())
        };
        for host in ["localhost:7480", "127.0.0.1", "[::1]:7480"] {
            let status = ask(host).await.0;
            let login = matches!(route, Route::Login);
            assert!(
                if login {
                    status == 303
                } else {
                    success(route).contains(&status)
                },
                "{status} for {route:?} as {host}"
            );
        }
        // A name that somebody else points here.
        let (status, _, body) = ask("attacker.example:7480").await;
        let refused = route.need() != Need::Nothing;
        assert_eq!(status == 421, refused, "{route:?}: {body}");
    }
    running.close().await;
}

#[tokio::test]
async fn metrics_can_be_for_everyone_and_then_nothing_else_is() {
    let section = format!(
        "[access]\nopen_metrics = true\n{}",
        granted("a", "viewer", "*", "")
    );
    let house = House::build_with(POLICY, &section).await;
    let running = house.open().await;
    for route in Route::ALL.iter().copied() {
        let open = route == Route::Metrics || route.need() == Need::Nothing;
        let expect = if open { success(route) } else { &[401] };
        assert!(expect.contains(&ask(&running, route, None).await.0), "{route:?}");
    }
    running.close().await;
}
