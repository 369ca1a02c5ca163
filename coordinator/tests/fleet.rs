//! The coordinator as its agents and its readers meet it: real certificates,
//! a real repository on two directories, real signatures.

mod access;
mod enrolment;
mod house;
mod https;
mod page;
mod policy;

use std::time::Duration;

use holdfast_coordinator::pki::Authority;
use holdfast_proto::Timestamp;
use holdfast_proto::message::{AssignmentResult, Progress, Work};
use holdfast_proto::names::WorkId;
use house::{Caller, House, Running, SEGMENT, cluster, facts, lineage, now, wait_until};
use serde_json::{Value, json};

const POLICY: &str = r#"
[[cluster]]
cluster = "acme/erp"
tier = "platinum"
time_zone = "Europe/Berlin"
[cluster.schedule]
base_backup = "0 3 29 2 *"
configuration = "0 3 29 2 *"

[[tiers.platinum.drill]]
scenario = "accidental-deletion"
level = "L4"
every = "7d"
"#;

const START: u64 = 3 * SEGMENT + 40;
const END: u64 = 5 * SEGMENT + 500;
const BOTH: [&str; 2] = ["east", "west"];

/// A base backup and the WAL after it, on both replicas.
async fn furnish(house: &House) {
    house.put_base(1, START, &BOTH).await;
    house.put_wal(3 * SEGMENT, 4 * SEGMENT, &BOTH).await;
    house.put_wal(4 * SEGMENT, 5 * SEGMENT, &BOTH).await;
    house.put_wal(5 * SEGMENT, END, &BOTH).await;
}

async fn beat_until<T>(
    what: &str,
    caller: &Caller,
    running: &Running,
    change: impl Fn(&mut holdfast_proto::message::Heartbeat),
    check: impl Fn(&Value) -> Option<T>,
) -> T {
    wait_until(what, || async {
        caller.beat(running, &change).await.unwrap();
        check(&running.erp().await)
    })
    .await
}

#[tokio::test]
async fn only_enrolled_agents_are_let_in_and_only_for_their_clusters() {
    let house = House::build(POLICY).await;
    let running = house.open().await;

    let nobody = Caller::new("erp-1", &house.root, None);
    let why = nobody.beat(&running, |_| {}).await.unwrap_err();
    assert!(
        !why.contains("403"),
        "without a certificate there is no talk: {why}"
    );

    let foreign = Authority::generate()
        .unwrap()
        .issue_agent(&"erp-1".parse().unwrap())
        .unwrap();
    let foreign = Caller::new(
        "erp-1",
        &house.root,
        Some((&foreign.certificate_pem, &foreign.key_pem)),
    );
    let why = foreign.beat(&running, |_| {}).await.unwrap_err();
    assert!(
        !why.contains("403"),
        "another authority's certificate is none: {why}"
    );

    let server = house
        .authority
        .issue_server(&"x".parse().unwrap(), &["localhost".to_owned()])
        .unwrap();
    let server = Caller::new(
        "erp-1",
        &house.root,
        Some((&server.certificate_pem, &server.key_pem)),
    );
    let why = server.beat(&running, |_| {}).await.unwrap_err();
    assert!(
        !why.contains("403"),
        "a certificate that names no agent is none: {why}"
    );

    let check = async |name: &str, speaks_for: &str, expect: &str| {
        let caller = house.caller(name);
        let why = caller
            .beat(&running, |h| h.agent = speaks_for.parse().unwrap())
            .await
            .unwrap_err();
        assert!(why.starts_with("403") && why.contains(expect), "{name}: {why}");
    };
    check("lab-1", "erp-1", "the certificate is that of agent lab-1").await;
    check("unknown-1", "unknown-1", "agent unknown-1 is not enrolled").await;
    check("gone-1", "gone-1", "agent gone-1 is not enrolled").await;
    check("lab-1", "lab-1", "not enrolled for acme/erp").await;
    check("runner-1", "runner-1", "agent runner-1 is not enrolled").await;
    assert!(running.erp().await["agent"].is_null(), "nothing of it was heard");

    house.caller("erp-1").beat(&running, |_| {}).await.unwrap();
    assert_eq!(running.erp().await["agent"]["name"], "erp-1");
    running.close().await;
}

#[tokio::test]
async fn a_base_backup_is_given_once_again_after_its_lease_and_never_beside_itself() {
    let mut house = House::build(POLICY).await;
    house.config.patience.lease = "2s".parse().unwrap();
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let base = |orders: &holdfast_proto::message::Orders| {
        let found: Vec<WorkId> = orders
            .assignments
            .iter()
            .filter(|a| a.work == Work::BaseBackup)
            .map(|a| a.id)
            .collect();
        assert!(found.len() <= 1, "two base backups at once: {orders:?}");
        found.first().copied()
    };

    let first = wait_until("a first assignment", || async {
        base(&caller.beat(&running, |_| {}).await.unwrap())
    })
    .await;
    let orders = caller.beat(&running, |_| {}).await.unwrap();
    assert_eq!(base(&orders), Some(first), "the same until its lease ends");
    assert_eq!(orders.directives[0].tip_interval_ms, 5_000);
    assert_eq!(orders.directives[0].copies, 2);
    assert!(orders.heartbeat_ms <= 3_000);
    let reason = &orders.assignments.iter().find(|a| a.id == first).unwrap().reason;
    assert_eq!(reason, "there is none yet");

    // Nobody is heard to work on it: it is given again, under another identity.
    let second = wait_until("the second assignment", || async {
        base(&caller.beat(&running, |_| {}).await.unwrap()).filter(|id| *id != first)
    })
    .await;

    // Work that goes on keeps its lease for as long as it takes.
    let working = |h: &mut holdfast_proto::message::Heartbeat| {
        let progress = Progress {
            id: Some(second),
            work: Work::BaseBackup,
            done: 30,
            total: 100,
            since: now(),
        };
        h.clusters[0].working = vec![progress];
    };
    let begun = now();
    wait_until("the lease to be prolonged", || async {
        let orders = caller.beat(&running, working).await.unwrap();
        assert_eq!(base(&orders), Some(second));
        (now().millis_since(begun) > 4_000).then_some(())
    })
    .await;
    let shown = running.erp().await;
    let shown = shown["work"]
        .as_array()
        .unwrap()
        .iter()
        .find(|w| w["work"] == "base-backup")
        .unwrap()
        .clone();
    assert_eq!(shown["progress"], json!([30, 100]));

    // It is made, and told: heard, shown, and not asked for again.
    let id = house.put_base(7, START, &BOTH).await;
    let done = |h: &mut holdfast_proto::message::Heartbeat| {
        h.done = vec![AssignmentResult {
            id: second,
            at: now(),
            outcome: Ok(id.to_string()),
        }];
    };
    let orders = caller.beat(&running, done).await.unwrap();
    assert_eq!(
        (orders.heard.as_slice(), base(&orders)),
        ([second].as_slice(), None)
    );
    let shown = beat_until(
        "the base backup to be seen",
        &caller,
        &running,
        |_| {},
        |erp| erp["last_base"]["id"].as_str().map(str::to_owned),
    )
    .await;
    assert_eq!(shown, id.to_string());
    for _ in 0..5 {
        assert_eq!(base(&caller.beat(&running, |_| {}).await.unwrap()), None);
    }
    running.close().await;
}

/// An agent takes its first base backup by itself. One that it speaks of is looked for
/// before another is asked for.
#[tokio::test]
async fn a_base_backup_that_an_agent_made_by_itself_is_looked_for_first() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let asked = |orders: &holdfast_proto::message::Orders| {
        orders.assignments.iter().any(|a| a.work == Work::BaseBackup)
    };
    let working = |h: &mut holdfast_proto::message::Heartbeat| {
        let progress = Progress {
            id: None,
            work: Work::BaseBackup,
            done: 30,
            total: 100,
            since: now(),
        };
        h.clusters[0].working = vec![progress];
    };
    // It was listed while the agent worked: there is none.
    beat_until("its listing", &caller, &running, working, |erp| {
        let unknown = erp["rpo"]["unknown"].as_str()?;
        unknown.contains("base").then_some(())
    })
    .await;
    let id = house.put_base(7, START, &BOTH).await;
    let done = |h: &mut holdfast_proto::message::Heartbeat| {
        h.clusters[0].last_base = Some(holdfast_proto::message::BaseFacts { id, stopped: now() });
    };
    for _ in 0..5 {
        let orders = caller.beat(&running, done).await.unwrap();
        assert!(!asked(&orders), "{orders:?}");
    }
    let seen = |erp: &serde_json::Value| erp["last_base"]["id"].as_str().map(str::to_owned);
    let shown = beat_until("the base backup to be seen", &caller, &running, done, seen).await;
    assert_eq!(shown, id.to_string());
    running.close().await;
}

#[tokio::test]
async fn a_failure_is_shown_and_tried_again_later() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let given = wait_until("an assignment", || async {
        caller
            .beat(&running, |_| {})
            .await
            .unwrap()
            .assignments
            .first()
            .cloned()
    })
    .await;
    let failed = |h: &mut holdfast_proto::message::Heartbeat| {
        h.done = vec![AssignmentResult {
            id: given.id,
            at: now(),
            outcome: Err("no space left".to_owned()),
        }];
    };
    let orders = caller.beat(&running, failed).await.unwrap();
    assert!(
        orders.assignments.iter().all(|a| a.work != given.work),
        "{orders:?}"
    );
    let finding = wait_until("the finding", || async {
        let status = running.status().await;
        let all = status["findings"].as_array().unwrap().clone();
        all.into_iter()
            .find(|f| f["name"] == "base-failed" || f["name"] == "configuration-failed")
    })
    .await;
    assert!(
        finding["detail"].as_str().unwrap().contains("no space left"),
        "{finding:#}"
    );
    running.close().await;
}

#[tokio::test]
async fn exposure_is_measured_on_the_repository_and_not_taken_from_the_agent() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let erp = beat_until(
        "a first look",
        &caller,
        &running,
        |_| {},
        |erp| {
            erp["rpo"]["unknown"]
                .as_str()
                .filter(|why| why.contains("base backup"))
                .map(|_| erp.clone())
        },
    )
    .await;
    assert_eq!(
        (&erp["rpo"]["standing"], &erp["rpo"]["now_ms"]),
        (&json!("unknown"), &Value::Null)
    );

    furnish(&house).await;
    let erp = beat_until(
        "the exposure",
        &caller,
        &running,
        |_| {},
        |erp| (erp["rpo"]["standing"] == "met").then(|| erp.clone()),
    )
    .await;
    assert_eq!(erp["rpo"]["frontier"], "0/5001F4");
    assert!(erp["rpo"]["now_ms"].as_u64().unwrap() < 10_000, "{erp:#}");

    // The server goes on, the agent says that all is well, one replica has the
    // WAL: the tier wants two.
    house.put_wal(END, END + 1000, &["east"]).await;
    let ahead = |h: &mut holdfast_proto::message::Heartbeat| {
        let wal = h.clusters[0].wal.as_mut().unwrap();
        wal.server_flush = holdfast_proto::pg::Lsn::new(END + 1000);
        wal.acknowledged = wal.server_flush;
    };
    let before = erp["rpo"]["safe_until"].as_str().unwrap().to_owned();
    let grown = beat_until("the exposure to grow", &caller, &running, ahead, |erp| {
        assert_eq!(erp["rpo"]["frontier"], "0/5001F4", "{erp:#}");
        let ms = erp["rpo"]["now_ms"].as_u64().unwrap();
        (ms > 4_000).then(|| erp.clone())
    })
    .await;
    assert_eq!(
        grown["rpo"]["agent_says_ms"], 0,
        "what the agent says is shown beside it"
    );
    let after = grown["rpo"]["safe_until"].as_str().unwrap();
    assert!(after >= before.as_str(), "{before} {grown:#}");
    running.close().await;
}

#[tokio::test]
async fn an_agent_that_lost_its_server_is_no_witness() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    furnish(&house).await;
    let met = |erp: &Value| (erp["rpo"]["standing"] == "met").then_some(());
    beat_until("the exposure", &caller, &running, |_| {}, met).await;
    // It is well, answers, and repeats the position that it heard a minute ago.
    let cut_off = |h: &mut holdfast_proto::message::Heartbeat| {
        h.clusters[0].wal.as_mut().unwrap().heard_ms = Some(60_000);
    };
    let erp = beat_until("the exposure to grow", &caller, &running, cut_off, |erp| {
        let grown = erp["rpo"]["now_ms"].as_u64().is_none_or(|ms| ms > 6_000);
        grown.then(|| erp.clone())
    })
    .await;
    assert_eq!(erp["rpo"]["agent_says_ms"], 0);
    running.close().await;
}

#[tokio::test]
async fn without_a_word_from_the_agent_its_signed_statements_count() {
    let house = House::build(POLICY).await;
    furnish(&house).await;
    let first = now();
    for n in 0..12 {
        house
            .put_frontier(first.plus_millis(-1000 * (12 - n)), END, &BOTH)
            .await;
    }
    let running = house.open().await;
    let erp = wait_until("the exposure", || async {
        let erp = running.erp().await;
        (erp["rpo"]["standing"] == "met").then_some(erp)
    })
    .await;
    assert_eq!(erp["rpo"]["safe_until"], first.plus_millis(-1000).to_string());
    assert!(erp["agent"].is_null());
    assert_eq!(erp["lineage"], lineage().to_string(), "found in the repository");
    // A statement that the repository does not bear out changes nothing, a
    // true one on one replica does.
    house.put_frontier(now(), END + 5000, &BOTH).await;
    let truth = now();
    house.put_frontier(truth, END, &["west"]).await;
    wait_until("the new statement", || async {
        (running.erp().await["rpo"]["safe_until"] == truth.to_string()).then_some(())
    })
    .await;
    // An agent whose clock is hours ahead does not outlive itself: by the store's clock it
    // said so now.
    let said = now();
    house.put_frontier(said.plus_millis(7_200_000), END, &BOTH).await;
    let safe = wait_until("the statement of a clock that is ahead", || async {
        let erp = running.erp().await;
        let safe: Timestamp = erp["rpo"]["safe_until"].as_str()?.parse().ok()?;
        (safe > truth).then_some(safe)
    })
    .await;
    assert!(safe.millis_since(said) < 60_000, "{safe}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let erp = running.erp().await;
    assert_eq!(
        erp["rpo"]["safe_until"],
        safe.to_string(),
        "it does not grow by itself"
    );
    running.close().await;
}

#[tokio::test]
async fn what_a_replica_lacks_is_copied_to_it() {
    let house = House::build(POLICY).await;
    furnish(&house).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    house.put_wal(END, END + 1000, &["east"]).await;
    house.put_base(2, START + 8, &["west"]).await;
    let ahead = |h: &mut holdfast_proto::message::Heartbeat| {
        h.clusters[0].wal.as_mut().unwrap().server_flush = holdfast_proto::pg::Lsn::new(END + 1000);
    };
    let erp = beat_until("both replicas to be equal", &caller, &running, ahead, |erp| {
        let copies = erp["last_base"]["regions"].as_array().map_or(0, Vec::len);
        (copies == 2 && erp["rpo"]["frontier"] == "0/5005DC").then(|| erp.clone())
    })
    .await;
    assert_eq!(erp["rpo"]["standing"], "met");
    running.close().await;
}

#[tokio::test]
async fn a_replica_out_of_reach_is_an_alarm_and_not_an_empty_one() {
    let house = House::build(POLICY).await;
    furnish(&house).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    beat_until(
        "the exposure",
        &caller,
        &running,
        |_| {},
        |erp| (erp["rpo"]["standing"] == "met").then_some(()),
    )
    .await;
    std::fs::rename(house.root.join("west"), house.root.join("elsewhere")).unwrap();
    let erp = beat_until(
        "the loss to be seen",
        &caller,
        &running,
        |_| {},
        |erp| (erp["rpo"]["standing"] == "unknown").then(|| erp.clone()),
    )
    .await;
    assert!(
        erp["rpo"]["unknown"].as_str().unwrap().contains("west"),
        "{erp:#}"
    );
    let status = wait_until("the finding", || async {
        let status = running.status().await;
        let found = status["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["name"] == "replica-unreachable");
        found.then_some(status)
    })
    .await;
    assert!(status["replicas"][1]["failing"].is_array(), "{status:#}");
    std::fs::rename(house.root.join("elsewhere"), house.root.join("west")).unwrap();
    beat_until(
        "the replica to be back",
        &caller,
        &running,
        |_| {},
        |erp| (erp["rpo"]["standing"] == "met").then_some(()),
    )
    .await;
    running.close().await;
}

fn intent(n: u32) -> Value {
    json!({
        "drill": format!("01JD8X0000000000000000000{n}"), "cluster": "acme/erp", "sequence": n, "kind": "ON_DEMAND",
        "level": "L3", "scenario": "accidental-deletion", "recovery": {"target": {"kind": "latest"}},
        "at": now(), "deadline": now().plus_millis(3_600_000),
    })
}

fn result(n: u32, verdict: &str) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1", "subject": [],
        "predicateType": "https://holdfast.dev/recovery-drill/v1",
        "predicate": {
            "drill": {
                "id": format!("01JD8X0000000000000000000{n}"), "kind": "SCHEDULED", "level": "L3",
                "scenario": "accidental-deletion",
            },
            "scope": {"tenant": "acme", "cluster": "erp"},
            "timings": {"phases": [{"phase": "PROVISION", "start": now(), "end": now()}]},
            "results": {"verdict": verdict, "reasons": ["seen"], "rto": {"actual_ms": 41_000}},
        },
    })
}

const INTENT: &str = "application/vnd.holdfast.intent+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

#[tokio::test]
async fn the_answers_are_the_same_after_its_state_was_deleted() {
    let house = House::build(POLICY).await;
    furnish(&house).await;
    house.put_evidence(0, INTENT, intent(1)).await;
    house.put_evidence(1, IN_TOTO, result(1, "PASS")).await;
    let caller = house.caller("erp-1");

    /// What does not depend on the moment of asking.
    fn lasting(status: &Value) -> Value {
        let clusters: Vec<Value> = status["clusters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                json!({
                    "cluster": c["cluster"], "tier": c["tier"], "standing": c["rpo"]["standing"],
                    "frontier": c["rpo"]["frontier"], "target": c["rpo"]["target_ms"], "lineage": c["lineage"],
                    "timeline": c["timeline"], "agent": c["agent"]["name"], "base": c["last_base"],
                    "next": c["next_base"], "point": c["last_point"], "proven": c["last_proven"],
                    "critical": c["critical"], "warnings": c["warnings"],
                })
            })
            .collect();
        let findings: Vec<Value> = status["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| json!([f["cluster"], f["name"], f["subject"], f["severity"]]))
            .collect();
        json!({ "clusters": clusters, "findings": findings, "policy": status["policy"] })
    }
    let settled = async |running: &Running| {
        wait_until("a settled fleet", || async {
            caller.beat(running, |_| {}).await.unwrap();
            let status = running.status().await;
            let erp = &status["clusters"][0];
            let never_proven = status["findings"]
                .as_array()
                .unwrap()
                .iter()
                .any(|f| f["name"] == "never-proven");
            (erp["rpo"]["standing"] == "met" && erp["last_proven"].is_object() && never_proven)
                .then(|| lasting(&status))
        })
        .await
    };

    let running = house.open().await;
    let before = settled(&running).await;
    running.close().await;

    let running = house.open().await;
    let warm = running.erp().await;
    assert_eq!(
        warm["agent"]["name"], "erp-1",
        "with its cache it remembers who reported"
    );
    assert_eq!(settled(&running).await, before);
    running.close().await;

    std::fs::remove_dir_all(house.root.join("state")).unwrap();
    let running = house.open().await;
    assert!(running.erp().await["agent"].is_null(), "nothing is remembered");
    assert_eq!(settled(&running).await, before);
    running.close().await;
}

#[tokio::test]
async fn drills_are_shown_from_the_evidence_that_a_runner_signed() {
    let house = House::build(POLICY).await;
    furnish(&house).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    house.put_evidence(0, INTENT, intent(1)).await;
    house.put_evidence(1, IN_TOTO, result(1, "PASS")).await;
    house.put_evidence(2, INTENT, intent(2)).await;
    house.put_evidence(3, IN_TOTO, result(2, "FAIL")).await;
    // Anybody can put an object there; it proves nothing.
    for replica in house.repository.replicas() {
        let key = holdfast_repository::layout::evidence_entry(4);
        replica.create(&key, (&b"{}"[..]).into()).await.unwrap();
    }
    let erp = beat_until(
        "the drills",
        &caller,
        &running,
        |_| {},
        |erp| erp["last_drill"].is_object().then(|| erp.clone()),
    )
    .await;
    assert_eq!(
        (&erp["last_proven"]["verdict"], &erp["last_proven"]["rto_ms"]),
        (&json!("PASS"), &json!(41_000))
    );
    assert_eq!(erp["last_drill"]["verdict"], "FAIL");
    let names = wait_until("the findings", || async {
        let status = running.status().await;
        let all = status["findings"].as_array().unwrap().clone();
        let names: Vec<String> = all
            .iter()
            .map(|f| f["name"].as_str().unwrap().to_owned())
            .collect();
        names.contains(&"drill-failed".to_owned()).then_some(names)
    })
    .await;
    assert!(names.contains(&"evidence-not-believed".to_owned()), "{names:?}");
    running.close().await;
}

#[tokio::test]
async fn page_status_and_metrics_say_the_same() {
    let house = House::build(POLICY).await;
    furnish(&house).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    beat_until(
        "the exposure",
        &caller,
        &running,
        |_| {},
        |erp| (erp["rpo"]["standing"] == "met").then_some(()),
    )
    .await;

    let (code, headers, page) = running.get_full("/").await;
    assert_eq!(code, 200);
    for expect in [
        "acme/",
        "erp",
        "platinum",
        "15 s",
        "erp-1",
        "never-proven",
        "east",
        "west",
    ] {
        assert!(page.contains(expect), "{expect} is not in {page}");
    }
    assert!(!page.contains("<script"), "it works without a script");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && headers["x-content-type-options"] == "nosniff",
        "{headers:?}"
    );

    let (code, headers, metrics) = running.get_full("/metrics").await;
    assert_eq!(code, 200);
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    for expect in [
        "holdfast_rpo_target_seconds{tenant=\"acme\",cluster=\"acme/erp\",tier=\"platinum\"} 15.0",
        "holdfast_rpo_met{tenant=\"acme\",cluster=\"acme/erp\",tier=\"platinum\"} 1.0",
        "holdfast_heartbeats_total{answer=\"accepted\"}",
        "holdfast_replica_up{region=\"east\"} 1.0",
        "name=\"never-proven\"",
    ] {
        assert!(metrics.contains(expect), "{expect} is not in {metrics}");
    }
    assert_eq!(metrics.matches("# EOF").count(), 1);
    assert!(metrics.ends_with("# EOF\n"));
    assert_eq!(running.get("/nowhere").await.0, 404);
    running.close().await;
}

#[tokio::test]
async fn it_ends_when_told_also_with_somebody_on_the_line() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    let _silent = tokio::net::TcpStream::connect(running.agents).await.unwrap();
    let _idle = tokio::net::TcpStream::connect(running.http).await.unwrap();
    house.caller("erp-1").beat(&running, |_| {}).await.unwrap();
    let begun = std::time::Instant::now();
    running.close().await;
    assert!(begun.elapsed() < Duration::from_secs(9));
    // And can be started again at once.
    house.open().await.close().await;
}

#[tokio::test]
async fn clusters_that_the_policy_does_not_name_are_findings() {
    let mut house = House::build("").await;
    house.config.runbooks = Some("https://w.example/findings.md".parse().unwrap());
    furnish(&house).await;
    let running = house.open().await;
    let finding = wait_until("the finding", || async {
        let status = running.status().await;
        status["findings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|f| f["name"] == "cluster-without-policy")
            .cloned()
    })
    .await;
    assert_eq!(finding["cluster"], cluster().to_string());
    // Beside it stands what clears it, and where to read what to do.
    let clears = "Ends when the policy in force names the cluster.";
    let runbook = "https://w.example/findings.md#cluster-without-policy";
    let of_cluster = running.erp().await["findings"][0].clone();
    for finding in [&finding, &of_cluster] {
        assert_eq!(finding["clears"], clears, "{finding:#}");
        assert_eq!(finding["runbook"], runbook, "{finding:#}");
    }
    for page in ["/", "/clusters/acme/erp"] {
        let (_, _, text) = running.get_full(page).await;
        let link = format!("href=\"{runbook}\"");
        assert!(text.contains(&link) && text.contains(clears), "{page}: {text}");
    }
    // An agent that speaks for it is heard, and gets no work and no numbers.
    let orders = house
        .caller("erp-1")
        .beat(&running, |h| h.clusters = vec![facts()])
        .await
        .unwrap();
    assert!(orders.assignments.is_empty() && orders.directives.is_empty());
    assert_eq!(running.erp().await["lineage"], lineage().to_string());
    running.close().await;
}
