//! What waits for people, who was let in, and what is paid for, over HTTP.

use holdfast_proto::approval::{Decision, Guarded};
use holdfast_proto::message::{Heartbeat, RequestFacts, Requests};
use holdfast_proto::names::{ClusterId, RequestId};
use holdfast_repository::approval::{self, Draw, Request};
use holdfast_repository::trust::Trust;
use http_body_util::Full;
use serde_json::Value;

use crate::access::table::{granted, secret};
use crate::house::{House, Running, SEGMENT, facts, now, wait_until};

const POLICY: &str = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"platinum\"\n[[cluster]]\ncluster = \"other/lab\"\ntier = \"bronze\"\n";

async fn as_(running: &Running, name: &str, path: &str) -> (u16, String) {
    let request = hyper::Request::get(path)
        .header("host", "holdfast.example.com")
        .header("authorization", format!("Bearer {}", secret(name)));
    let (status, _, body) = running.send(request.body(Full::default()).unwrap()).await;
    (status, body)
}

/// Olga asks for the restore of a cluster, and for a weaker policy.
pub(super) async fn asked(house: &House, trust: &Trust) -> [Request; 2] {
    let [olga, ..] = &house.people;
    let ask = async |n: u128, action, clusters: &[&str], summary: &str, plan: &str| {
        let draw = Draw {
            action,
            clusters: clusters.iter().map(|c| c.parse::<ClusterId>().unwrap()).collect(),
            summary: summary.to_owned(),
            reason: "<b>disk</b> died".to_owned(),
            plan: plan.as_bytes().to_vec(),
        };
        let id = RequestId::from_parts(now(), n);
        let made = approval::ask(&house.repository, trust, id, draw, olga, now()).await;
        made.unwrap().0
    };
    [
        ask(
            1,
            Guarded::ProductionRestore,
            &["acme/erp"],
            "restore of yesterday",
            "{\"to\":\"yesterday\"}",
        )
        .await,
        ask(
            2,
            Guarded::PolicyWeakening,
            &[],
            "less for all",
            "rpo from 12s to 14s",
        )
        .await,
    ]
}

#[tokio::test]
async fn what_waits_is_shown_with_its_plan_to_those_whom_it_concerns() {
    let section = format!(
        "[access]\n{}{}{}",
        granted("all", "approver", "*", ""),
        granted("acme", "approver", "acme/erp", ""),
        granted("lab", "operator", "other/*", ""),
    );
    let house = House::build_with(POLICY, &section).await;
    let trust = Trust::load(&house.repository, &house.config.trust_root)
        .await
        .unwrap();
    let [restore, weaker] = asked(&house, &trust).await;
    let [_, anna, _] = &house.people;
    let answer = approval::answer(
        &house.repository,
        &trust,
        &weaker,
        Decision::Reject,
        Some("no".to_owned()),
        anna,
        now(),
    );
    answer.await.unwrap();
    let running = house.open().await;
    let ready = || async {
        let (status, body) = as_(&running, "all", "/v1/approvals").await;
        (status == 200).then_some(body)
    };
    let body = wait_until("the trust chain to be read", ready).await;
    let all: Value = serde_json::from_str(&body).unwrap();
    let requests = all["requests"].as_array().unwrap();
    let of = |request: &Request| {
        let id = request.body.id.to_string();
        requests.iter().find(|r| r["request"] == id.as_str()).unwrap()
    };
    assert_eq!(requests.len(), 2, "{all:#}");
    assert_eq!(of(&restore)["plan"]["to"], "yesterday");
    assert_eq!(of(&restore)["plan_sha256"], restore.digest.to_string());
    assert_eq!(
        (&of(&weaker)["state"], &of(&weaker)["rejected"][0]),
        (&"rejected".into(), &"anna".into())
    );
    assert_eq!(of(&weaker)["plan"], "rpo from 12s to 14s");

    let (_, page) = as_(&running, "all", "/approvals").await;
    for part in [
        "restore of yesterday",
        "less for all",
        "asked",
        "by olga",
        "rejected",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("<b>disk"), "a reason is text: {page}");
    let (_, own) = as_(&running, "acme", "/approvals").await;
    assert!(
        own.contains("restore of yesterday") && !own.contains("less for all"),
        "{own}"
    );
    let (status, foreign) = as_(&running, "lab", "/v1/approvals").await;
    assert_eq!(status, 200);
    let foreign: Value = serde_json::from_str(&foreign).unwrap();
    assert_eq!(foreign["requests"], Value::Array(Vec::new()), "{foreign}");
    running.close().await;
}

#[tokio::test]
async fn who_was_let_in_is_a_page_and_links_lead_where_one_may_go() {
    let section = format!(
        "[access]\n{}{}",
        granted("all", "admin", "*", ""),
        granted("looks", "viewer", "acme/erp", ""),
    );
    let house = House::build_with(POLICY, &section).await;
    let running = house.open().await;
    assert_eq!(as_(&running, "looks", "/access").await.0, 403);
    let (status, refused) = as_(&running, "all", "/access?decided=refused").await;
    assert_eq!(status, 200);
    assert!(
        refused.contains("token:looks") && refused.contains("GET /access"),
        "{refused}"
    );
    assert!(!refused.contains("token:all"), "{refused}");
    let (_, allowed) = as_(&running, "all", "/access?decided=allowed").await;
    assert!(
        allowed.contains("token:all") && !allowed.contains("token:looks"),
        "{allowed}"
    );

    let (_, fleet) = as_(&running, "looks", "/").await;
    let sections = |page: &str| {
        let nav = page.split("<nav class=\"sections\"").nth(1).unwrap();
        nav.split("</nav>").next().unwrap().matches("<a href").count()
    };
    assert_eq!(sections(&fleet), 3, "fleet, calendar and cost: {fleet}");
    let (_, fleet) = as_(&running, "all", "/").await;
    assert_eq!(sections(&fleet), 6);
    running.close().await;
}

#[tokio::test]
async fn what_lies_in_the_stores_and_what_was_asked_for_is_summed_by_tenant() {
    let section = format!(
        "[access]\n{}{}",
        granted("all", "viewer", "*", ""),
        granted("lab", "viewer", "other/*", ""),
    );
    let house = House::build_with(POLICY, &section).await;
    house.put_wal(0, SEGMENT, &["east", "west"]).await;
    house.put_wal(SEGMENT, 2 * SEGMENT, &["east"]).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let requests = Requests {
        writes: 48_000,
        reads: 5,
        lists: 7,
        sent: 96_000_000,
        received: 10,
    };
    let mut said = facts();
    said.requests = vec![RequestFacts {
        region: "east".parse().unwrap(),
        since: now().plus_millis(-172_800_000),
        requests,
    }];
    let heartbeat = Heartbeat {
        agent: "erp-1".parse().unwrap(),
        version: "1".to_owned(),
        at: now(),
        clusters: vec![said],
        done: vec![],
    };
    caller.call(&running, &heartbeat).await.unwrap();

    let counted = || async {
        let (_, body) = as_(&running, "all", "/v1/cost").await;
        let cost: Value = serde_json::from_str(&body).unwrap();
        let acme = cost["tenants"]
            .as_array()?
            .iter()
            .find(|t| t["tenant"] == "acme")?
            .clone();
        acme["clusters"][0]["counted"].is_string().then_some(acme)
    };
    let acme = wait_until("the objects to be counted", counted).await;
    let regions = acme["clusters"][0]["regions"].as_array().unwrap();
    let of = |name: &str| regions.iter().find(|r| r["region"] == name).unwrap();
    let listed = house
        .repository
        .list(&holdfast_repository::layout::cluster(
            &"acme/erp".parse().unwrap(),
        ))
        .await
        .unwrap();
    let lies = |name: &str| -> (u64, u64) {
        let on = listed.objects.values().flatten();
        on.filter(|on| on.region.as_str() == name)
            .fold((0, 0), |(n, bytes), on| (n + 1, bytes + on.size))
    };
    for name in ["east", "west"] {
        let sum = |what: &str| -> u64 {
            let kinds = ["wal", "packs", "records"];
            kinds
                .iter()
                .map(|kind| of(name)[*kind][what].as_u64().unwrap())
                .sum()
        };
        assert_eq!((sum("objects"), sum("bytes")), lies(name), "{name}: {acme:#}");
    }
    assert_eq!(of("east")["wal"]["objects"], 2);
    assert_eq!(of("west")["wal"]["objects"], 1);
    assert_eq!(acme["bytes"].as_u64().unwrap(), lies("east").1 + lies("west").1);
    assert_eq!(of("east")["asked"]["writes"], 48_000);
    assert_eq!(of("west")["asked"], Value::Null);

    let (_, page) = as_(&running, "all", "/cost").await;
    for part in ["24,000", "48.0 MB sent", "/clusters/acme/erp", "counted"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let (_, own) = as_(&running, "lab", "/cost").await;
    assert!(own.contains("other") && !own.contains("acme"), "{own}");
    running.close().await;
}
