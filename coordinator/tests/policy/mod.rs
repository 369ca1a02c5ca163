//! The policy of a running coordinator: taken up, held back, remembered; and the
//! places in which data may not be.

use crate::house::{House, Running, SEGMENT, now, wait_until};
use holdfast_coordinator::config::{ConfigError, CoordinatorConfig};
use holdfast_coordinator::governing::plan_text;
use holdfast_coordinator::{Coordinator, RunError};
use holdfast_plan::policy::Policy;
use holdfast_proto::Sha256Digest;
use holdfast_proto::approval::{Decision, Guarded};
use holdfast_proto::names::RequestId;
use holdfast_repository::approval::{self, Draw, Request};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use serde_json::Value;

const POLICY: &str = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"platinum\"\n";
const TIGHT: &str =
    "[tiers.platinum]\nrpo = \"12s\"\n[[cluster]]\ncluster = \"acme/erp\"\ntier = \"platinum\"\n";

fn digest(text: &str) -> String {
    Policy::parse(text, "p").unwrap().digest().to_string()
}

fn write(house: &House, policy: &str) {
    std::fs::write(house.root.join("policy.toml"), policy).unwrap();
}

/// Tells the process to look at its policy now. With a listener of its own, so that
/// the signal never ends the process that runs the tests.
async fn hang_up() {
    let _listening = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    let pid = rustix::process::getpid();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

async fn governed(running: &Running) -> Value {
    let (status, body) = running.get("/v1/policy").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// The detail of a finding about the whole, once it stands.
async fn finding(running: &Running, name: &str) -> String {
    wait_until(name, || async {
        let status = running.status().await;
        let all = status["findings"].as_array().unwrap();
        let found = all.iter().find(|finding| finding["name"] == name)?;
        Some(found["detail"].as_str().unwrap().to_owned())
    })
    .await
}

async fn in_force(running: &Running, policy: &str) {
    wait_until("the policy to be in force", || async {
        let governed = governed(running).await;
        (governed["digest"] == digest(policy).as_str()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tighter_policy_is_in_force_at_once_and_a_weaker_one_waits() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    assert_eq!(governed(&running).await["text"], POLICY);

    write(&house, TIGHT);
    hang_up().await;
    in_force(&running, TIGHT).await;
    assert_eq!(running.status().await["policy"], digest(TIGHT).as_str());
    assert_eq!(running.erp().await["rpo"]["target_ms"], 12_000);

    // One thing is better and one is worse: all of it waits.
    let mixed = TIGHT
        .replace("12s", "14s")
        .replace("\n[[", "\nrto = \"20min\"\n[[");
    write(&house, &mixed);
    let why = finding(&running, "policy-weakening-waits").await;
    assert!(
        why.contains("acme/erp: rpo from 12s to 14s (weakens)") && !why.contains("rto"),
        "{why}"
    );
    let governed_now = governed(&running).await;
    assert_eq!(governed_now["digest"], digest(TIGHT).as_str());
    assert_eq!(governed_now["waiting"]["digest"], digest(&mixed).as_str());
    let plan = governed_now["waiting"]["why"]["approval"]["plan"]
        .as_str()
        .unwrap();
    assert!(why.contains(plan), "{why} names {plan}");
    assert_eq!(running.erp().await["rpo"]["target_ms"], 12_000);

    write(&house, "[tiers.platinum]\nrpo = \"12 s\"\n[[cluster]]\n");
    let why = finding(&running, "policy-invalid").await;
    assert!(
        why.contains("policy.toml:2:7: tiers.platinum.rpo:") && why.contains("policy.toml:3:1: cluster[0]:"),
        "{why}"
    );
    assert_eq!(governed(&running).await["digest"], digest(TIGHT).as_str());

    write(&house, TIGHT);
    wait_until("the findings to be over", || async {
        let status = running.status().await;
        let all = status["findings"].as_array().unwrap();
        let waits = |f: &Value| f["name"].as_str().unwrap().starts_with("policy-");
        (!all.iter().any(waits)).then_some(())
    })
    .await;
    running.close().await;
}

const TWO: &str = "[[group]]\nname = \"dba\"\nmembers = [\"anna\", \"cem\"]\n[[approval]]\nacts = \
                   [\"policy-weakening\"]\napprovers = 2\ngroups = [\"dba\"]\n";

/// Approvals are of exactly this change: two people sign what the coordinator shows,
/// and it takes the policy up by itself.
#[tokio::test]
async fn a_weaker_policy_is_taken_up_when_enough_people_signed_it() {
    let before = format!("{TIGHT}{TWO}");
    let house = House::build(&before).await;
    let running = house.open().await;
    let weaker = before.replace("12s", "14s");
    write(&house, &weaker);
    hang_up().await;
    finding(&running, "policy-weakening-waits").await;
    let waiting = governed(&running).await["waiting"]["why"]["approval"].clone();
    let weakenings: Vec<String> = serde_json::from_value(waiting["weakenings"].clone()).unwrap();
    let policy = |text: &str| Policy::parse(text, "p").unwrap().digest();
    let plan = plan_text(&policy(&before), &policy(&weaker), &weakenings);
    assert_eq!(Sha256Digest::of(plan.as_bytes()).to_string(), waiting["plan"]);

    let trust = Trust::load(&house.repository, &house.config.trust_root)
        .await
        .unwrap();
    let [olga, anna, cem] = &house.people;
    let ask = async |n: u128, plan: String| {
        let draw = Draw {
            action: Guarded::PolicyWeakening,
            clusters: Vec::new(),
            summary: "less".to_owned(),
            reason: "a test".to_owned(),
            plan: plan.into_bytes(),
        };
        let id = RequestId::from_parts(now(), n);
        approval::ask(&house.repository, &trust, id, draw, olga, now())
            .await
            .unwrap()
            .0
    };
    let grant = async |request: &Request, key: &SigningKey| {
        let answer = approval::answer(
            &house.repository,
            &trust,
            request,
            Decision::Grant,
            None,
            key,
            now(),
        );
        answer.await.unwrap();
    };
    // Both sign another change: of another policy, or with a word left out.
    for (n, other) in [plan.replace("14s", "13s"), plan.trim_end().to_owned()]
        .into_iter()
        .enumerate()
    {
        let request = ask(n as u128, other).await;
        grant(&request, anna).await;
        grant(&request, cem).await;
    }
    // One of two signs the right one.
    let request = ask(9, plan).await;
    grant(&request, anna).await;
    for _ in 0..3 {
        hang_up().await;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        assert_eq!(governed(&running).await["digest"], digest(&before).as_str());
    }
    grant(&request, cem).await;
    hang_up().await;
    in_force(&running, &weaker).await;
    running.close().await;
}

#[tokio::test]
async fn starting_anew_approves_nothing() {
    let mut house = House::build(TIGHT).await;
    let running = house.open().await;
    running.close().await;

    write(&house, POLICY);
    house.config = CoordinatorConfig::load(&house.root.join("coordinator.toml")).unwrap();
    let running = house.open().await;
    assert_eq!(governed(&running).await["digest"], digest(TIGHT).as_str());
    let why = finding(&running, "policy-weakening-waits").await;
    assert!(why.contains("rpo from 12s to 15s (weakens)"), "{why}");
    running.close().await;
}

#[tokio::test]
async fn a_window_that_is_open_is_what_agents_hear_and_exposures_are_held_against() {
    // Every day for two days: a window is open whenever this runs.
    let text = format!(
        "{POLICY}[[calendar]]\nname = \"payroll\"\nbegins = \"2026-01-01T00:00\"\nrecurrence = \"FREQ=DAILY\"\nduration = \
         \"48h\"\ntenants = [\"acme\"]\nrpo = \"3s\"\nfreeze = [\"base_backup\"]\n"
    );
    let house = House::build(&text).await;
    let running = house.open().await;
    let orders = house.caller("erp-1").beat(&running, |_| {}).await.unwrap();
    let heard = &orders.directives[0];
    assert_eq!((heard.tip_interval_ms, heard.attest_interval_ms), (1_000, 2_000));
    assert_eq!(running.erp().await["rpo"]["target_ms"], 3_000);
    running.close().await;
}

#[tokio::test]
async fn a_cluster_that_is_not_named_is_kept_by_its_labels() {
    let text = "[[cluster]]\nmatch = { env = \"prod\" }\ntier = \"gold\"\n[[cluster]]\nmatch = { app = \"odoo\" }\ntier = \
                \"silver\"\n";
    let house = House::build(text).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let beat = async |labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
            .collect();
        let orders = caller
            .beat(&running, |beat| beat.clusters[0].labels = labels)
            .await;
        orders.unwrap().directives
    };
    assert_eq!(beat(&[]).await, vec![]);
    let heard = wait_until("the pattern to count", || async {
        beat(&[("env", "prod")]).await.into_iter().next()
    })
    .await;
    assert_eq!(heard.tier.as_str(), "gold");
    wait_until("the two patterns to contradict each other", || async {
        let none = beat(&[("env", "prod"), ("app", "odoo")]).await.is_empty();
        let erp = running.erp().await;
        let all = erp["findings"].as_array().unwrap().clone();
        let named = all.iter().any(|finding| finding["name"] == "policy-ambiguous");
        (none && named).then_some(())
    })
    .await;
    running.close().await;
}

fn only_in(region: &str) -> String {
    format!(
        "[[residency]]\nname = \"zone\"\nregions = [\"{region}\"]\n[[tenant]]\nname = \"acme\"\nresidency = \"zone\"\n{POLICY}"
    )
}

#[tokio::test]
async fn a_repository_elsewhere_is_not_bound() {
    let mut house = House::build(POLICY).await;
    write(&house, &only_in("east"));
    let file = house.root.join("coordinator.toml");
    let refused = CoordinatorConfig::load(&file).unwrap_err();
    assert!(matches!(refused, ConfigError::Residency { .. }), "{refused}");
    assert!(
        refused.to_string().contains(
            "acme/erp: residency zone zone does not allow data to be stored in region west of provider local: allowed \
             regions are east"
        ),
        "{refused}"
    );
    // Whoever makes the configuration by other means is refused as well.
    house.config.policy = Policy::parse(&only_in("east"), "p").unwrap();
    let refused = Coordinator::start(house.config.clone()).await.err().unwrap();
    assert!(matches!(refused, RunError::Residency(_)), "{refused}");
}

#[tokio::test]
async fn a_policy_that_forbids_the_replicas_is_not_taken_up() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    write(&house, &only_in("east"));
    let why = finding(&running, "policy-invalid").await;
    assert!(why.contains("to be stored in region west"), "{why}");
    assert_eq!(governed(&running).await["digest"], digest(POLICY).as_str());
    running.close().await;
}

#[tokio::test]
async fn nothing_is_copied_to_where_it_may_not_be() {
    // The zone is the pattern's, so that it is known only when the agent calls.
    let text = "[[residency]]\nname = \"zone\"\nregions = [\"east\"]\n[[cluster]]\nmatch = { env = \"prod\" }\ntier = \
                \"platinum\"\nresidency = \"zone\"\n";
    let house = House::build(text).await;
    let running = house.open().await;
    let caller = house.caller("erp-1");
    let labels = || {
        [("env".parse().unwrap(), "prod".parse().unwrap())]
            .into_iter()
            .collect()
    };
    wait_until("the zone to be known", || async {
        let orders = caller
            .beat(&running, |beat| beat.clusters[0].labels = labels())
            .await;
        orders.unwrap().directives.first()?.residency.clone()
    })
    .await;
    house.put_base(1, 3 * SEGMENT + 40, &["east"]).await;
    wait_until("the refusal", || async {
        caller
            .beat(&running, |beat| beat.clusters[0].labels = labels())
            .await
            .unwrap();
        let erp = running.erp().await;
        let all = erp["findings"].as_array().unwrap().clone();
        all.iter()
            .find(|finding| finding["name"] == "residency-refused")
            .cloned()
    })
    .await;
    // West lacks the base for longer than it may, and the loop that copies has run
    // since then.
    wait_until("west to be seen behind", || async {
        let base = running.erp().await["last_base"].clone();
        (base["regions"] == serde_json::json!(["east"])).then_some(())
    })
    .await;
    let before = copying_runs(&running).await;
    wait_until("the loop to run", || async {
        (copying_runs(&running).await >= before + 3).then_some(())
    })
    .await;
    let west = house.root.join("west/tenants/acme");
    assert!(!west.exists() || files(&west) == 0, "something was copied");
    running.close().await;
}

/// How often the loop that copies has run.
async fn copying_runs(running: &Running) -> u64 {
    let metrics = running.get("/metrics").await.1;
    let runs = metrics
        .lines()
        .filter(|line| line.starts_with("holdfast_loop_runs_total{") && line.contains("name=\"replicate\""));
    runs.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Files below a directory.
fn files(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path) } else { 1 }
        })
        .sum()
}
