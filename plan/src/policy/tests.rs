//! Reading policies.

use holdfast_proto::finding::Severity;
use holdfast_proto::labels::Labels;
use holdfast_proto::message::Work;
use holdfast_proto::residency::{Place, Use};

use super::*;

fn lines(text: &str) -> Vec<String> {
    Policy::parse(text, "policy.toml")
        .err()
        .unwrap_or_default()
        .iter()
        .map(Problem::to_string)
        .collect()
}

#[test]
fn the_shipped_tiers_are_those_that_the_product_promises() {
    let tiers = Tier::shipped();
    let names: Vec<_> = tiers.keys().map(TierName::as_str).collect();
    assert_eq!(names, ["bronze", "gold", "platinum", "silver"]);
    let check = |name: &str, rpo: &str, rto: &str, tip: &str, copies: (u32, u32), drills: &[&str]| {
        let tier = &tiers[&name.parse::<TierName>().unwrap()];
        assert_eq!(tier.rpo.to_string(), rpo);
        assert_eq!(tier.rto.to_string(), rto);
        assert_eq!(tier.tip_interval.to_string(), tip);
        assert_eq!((tier.copies, tier.copies_before_ack), copies);
        let found: Vec<_> = tier
            .drills
            .iter()
            .map(|d| format!("{} {} {}", d.scenario, d.level, d.every))
            .collect();
        assert_eq!(found, drills);
    };
    check(
        "platinum",
        "15s",
        "30min",
        "5s",
        (2, 2),
        &["accidental-deletion L3 7d"],
    );
    check(
        "gold",
        "1min",
        "1h",
        "15s",
        (2, 1),
        &["accidental-deletion L3 7d"],
    );
    check(
        "silver",
        "15min",
        "4h",
        "5min",
        (2, 1),
        &["accidental-deletion L3 31d"],
    );
    check(
        "bronze",
        "24h",
        "24h",
        "12h",
        (1, 1),
        &["accidental-deletion L3 92d"],
    );
}

#[test]
fn clusters_get_their_tier_with_their_own_schedules() {
    let text = r#"
        time_zone = "Europe/Berlin"
        [[tenant]]
        name = "acme"
        legal_entity = "Acme Bau GmbH"
        [tiers.gold]
        rpo = "30s"
        [tiers.lab]
        like = "bronze"
        base_backup = "0 12 * * *"
        [[cluster]]
        cluster = "acme/erp"
        tier = "gold"
        environment = "production"
        business_services = ["payroll", "invoicing"]
        [cluster.schedule]
        base_backup = "0 22 * * 1-5"
        [[cluster]]
        cluster = "acme/lab"
        tier = "lab"
        time_zone = "America/Chicago"
    "#;
    let policy = Policy::parse(text, "p").unwrap();
    let erp = policy.cluster(&"acme/erp".parse().unwrap()).unwrap();
    assert_eq!(erp.tier.rpo.to_string(), "30s");
    assert_eq!(erp.purpose.environment.as_deref(), Some("production"));
    assert_eq!(erp.purpose.services, ["payroll", "invoicing"]);
    assert_eq!(erp.schedule(Work::BaseBackup).as_str(), "0 22 * * 1-5");
    assert_eq!(erp.schedule(Work::Configuration).as_str(), "15 0 * * *");
    assert_eq!(erp.zone.to_string(), "Europe/Berlin");
    let lab = policy.cluster(&"acme/lab".parse().unwrap()).unwrap();
    assert_eq!(lab.tier.name.as_str(), "lab");
    assert_eq!(lab.purpose, Purpose::default());
    assert_eq!(lab.tier.rpo.to_string(), "24h");
    assert_eq!(lab.schedule(Work::BaseBackup).as_str(), "0 12 * * *");
    assert_eq!(lab.zone.to_string(), "America/Chicago");
    let at = "2026-11-25T12:00:00Z".parse().unwrap();
    let orders = policy.directives(&"acme/erp".parse().unwrap(), at).unwrap();
    assert_eq!((orders.tip_interval_ms, orders.copies), (15_000, 1));
    assert_eq!(orders.policy, policy.digest().to_string());
    assert!(policy.directives(&"acme/other".parse().unwrap(), at).is_none());
}

#[test]
fn everything_wrong_is_said_at_once_with_its_line() {
    let found = lines(
        r#"[[tenant]]
name = "acme"
[tiers.gold]
rpo = "5s"
copies_before_ack = 3
[tiers.lab]
rpo = "1h"
[[cluster]]
cluster = "acme/erp"
tier = "golden"
[[cluster]]
cluster = "other/erp"
tier = "gold"
time_zone = "Berlin"
[cluster.schedule]
base = "0 1 * * *"
base_backup = "@daily"
[[cluster]]
cluster = "acme/erp"
tier = "gold"
[[cluster]]
cluster = "acme/erp"
tier = "gold"
keep = "7d"
"#,
    );
    let expect = [
        "policy.toml:3:1: tiers.gold: copies_before_ack is 3",
        "policy.toml:3:1: tiers.gold: tip_interval of 15s is longer than rpo",
        "policy.toml:3:1: tiers.gold: attest_interval of 20s is longer than rpo",
        "policy.toml:6:1: tiers.lab.rto: is missing",
        "policy.toml:10:8: cluster[0].tier: there is no tier golden",
        "policy.toml:12:11: cluster[1].cluster: tenant other has no [[tenant]]",
        "policy.toml:14:13: cluster[1].time_zone: \"Berlin\" is not a time zone",
        "policy.toml:16:1: cluster[1].schedule.base: is not a known key",
        "policy.toml:17:15: cluster[1].schedule.base_backup: \"@daily\" has 1 fields",
        "policy.toml:22:11: cluster[3].cluster: acme/erp is named twice",
        "policy.toml:24:1: cluster[3].keep: is not a known key",
    ];
    for expect in expect {
        assert!(
            found.iter().any(|f| f.starts_with(expect)),
            "{expect}\n  is not in {found:#?}"
        );
    }
}

#[test]
fn an_empty_policy_names_no_cluster() {
    let policy = Policy::parse("", "p").unwrap();
    assert_eq!(policy.clusters().count(), 0);
    assert_eq!(policy.tiers().count(), 4);
}

#[test]
fn rules_are_read_whole() {
    let text = include_str!("../../../config/policy.toml");
    let policy = Policy::parse(text, "p").unwrap();
    let erp: ClusterId = "acme/erp".parse().unwrap();
    let nordbau: ClusterId = "nordbau/erp".parse().unwrap();
    assert_eq!(policy.residency(&erp).unwrap().name.as_str(), "eea");
    assert_eq!(policy.residency(&nordbau).unwrap().name.as_str(), "in-house");
    assert_eq!(policy.residency(&"nordbau/projects-2019".parse().unwrap()), None);
    let place = |region: &str, provider: &str| Place {
        region: region.parse().ok(),
        provider: provider.parse().ok(),
    };
    let places = [place("office", "local"), place("eu-north", "aws")];
    let refused = policy.refusals(Use::Bind, &places);
    let who: Vec<_> = refused.iter().map(|r| r.cluster.to_string()).collect();
    assert_eq!(who, ["nordbau/erp"], "{refused:?}");

    let retention = |cluster: &ClusterId| policy.cluster(cluster).unwrap().tier.retention.to_string();
    assert_eq!(
        retention(&erp),
        "every moment of 35d, 7 daily, 5 weekly, 12 monthly, 7 yearly"
    );
    assert_eq!(
        retention(&nordbau),
        "every moment of 35d, 5 weekly, 12 monthly, 10 yearly"
    );

    let approvals = policy.approvals();
    let weakening = approvals.rule(Guarded::PolicyWeakening);
    assert_eq!(weakening.to_string(), "2 of dba and security, each for 2d");
    assert_eq!(approvals.members(&weakening).unwrap().len(), 5);
    let bare = Policy::parse("", "p").unwrap();
    let default = bare.approvals().rule(Guarded::Deletion);
    assert_eq!((default.approvers, bare.approvals().members(&default)), (1, None));

    let takes = |tenant: Option<&str>, severity| {
        let tenant = tenant.map(|t| t.parse().unwrap());
        let routes = policy.routes().filter(|r| r.takes(tenant.as_ref(), severity));
        routes.map(|r| r.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(takes(Some("acme"), Severity::Critical), ["acme-it", "ops"]);
    assert_eq!(takes(Some("acme"), Severity::Warning), ["ops"]);
    assert_eq!(takes(None, Severity::Critical), ["ops"]);
    assert_eq!(takes(None, Severity::Info), Vec::<String>::new());
    assert_eq!(policy.limits().per_host, Some(1));
}

#[test]
fn a_name_wins_over_labels_and_two_patterns_over_nobody() {
    let text = r#"
        [[cluster]]
        cluster = "acme/erp"
        tier = "platinum"
        [[cluster]]
        match = { env = "prod" }
        tier = "gold"
        [[cluster]]
        match = { app = "odoo" }
        tier = "silver"
    "#;
    let policy = Policy::parse(text, "p").unwrap();
    let labels = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
        pairs.collect::<Labels>()
    };
    let id = |name: &str| name.parse::<ClusterId>().unwrap();
    let seen = BTreeMap::from([
        (id("acme/erp"), labels(&[("env", "prod"), ("app", "odoo")])),
        (id("acme/crm"), labels(&[("env", "prod"), ("site", "a")])),
        (id("acme/both"), labels(&[("env", "prod"), ("app", "odoo")])),
        (id("acme/none"), labels(&[("env", "test")])),
    ]);
    let (resolved, ambiguous) = policy.with_labels(&seen);
    let tier = |name: &str| Some(resolved.cluster(&id(name))?.tier.name.to_string());
    assert_eq!(tier("acme/erp").as_deref(), Some("platinum"));
    assert_eq!(tier("acme/crm").as_deref(), Some("gold"));
    assert_eq!((tier("acme/both"), tier("acme/none")), (None, None));
    assert_eq!(ambiguous.len(), 1);
    let said = ambiguous[0].to_string();
    assert!(
        said.starts_with("acme/both matches the patterns (env=prod) and (app=odoo)"),
        "{said}"
    );
    assert_eq!(resolved.digest(), policy.digest());
}

#[test]
fn everything_wrong_with_rules_is_said() {
    let found = lines(
        r#"[[residency]]
name = "eu"
regions = []
providers = []
[[tenant]]
name = "acme"
residency = "us"
[tiers.gold.retention]
window = "0d"
weekly = "4"
[tiers.lab]
like = "bronze"
[tiers.lab.retention]
backups = 0
[[cluster]]
cluster = "acme/erp"
match = { a = "b" }
tier = "gold"
[[cluster]]
match = {}
tier = "gold"
[[cluster]]
match = { "a b" = "c" }
tier = "gold"
retention = "7d"
[[group]]
name = "dba"
members = ["anna"]
[[approval]]
acts = ["everything"]
approvers = 1
[[approval]]
acts = ["deletion"]
approvers = 2
groups = ["dba"]
[[approval]]
acts = ["deletion"]
approvers = 1
groups = ["dbas"]
[[route]]
name = "ops"
kind = "pager"
url_env = "https://hooks.example.com/secret"
tenants = ["nobody"]
severity = "loud"
[limits]
per_host = 0
"#,
    );
    for expect in [
        "policy.toml:1:1: residency[0]: allows no region",
        "policy.toml:1:1: residency[0]: providers is empty",
        "policy.toml:7:13: tenant[0].residency: there is no residency zone us: known are eu",
        "policy.toml:9:10: tiers.gold.retention.window: \"0d\" is not a length",
        "policy.toml:10:10: tiers.gold.retention.weekly: must be a whole number",
        "policy.toml:14:11: tiers.lab.retention.backups: must be a whole number from 1",
        "policy.toml:15:1: cluster[0]: has both `cluster` and `match`",
        "policy.toml:19:1: cluster[1]: `match` is empty",
        "policy.toml:23:11: cluster[2].match.a b: \"a b\" cannot be part of a label",
        "policy.toml:25:13: cluster[2].retention: must be a table",
        "policy.toml:30:9: approval[0].acts[0]: \"everything\" is not an act",
        "policy.toml:32:1: approval[1]: asks for 2 approvers and its groups have 1 members",
        "policy.toml:36:1: approval[2]: groups names dbas",
        "policy.toml:36:1: approval[2]: deletion stands in two rules",
        "policy.toml:42:8: route[0].kind: \"pager\" is not a kind",
        "policy.toml:43:11: route[0].url_env: must be the name of an environment variable",
        "policy.toml:40:1: route[0]: tenants names nobody",
        "policy.toml:45:12: route[0].severity: \"loud\" is not a severity",
        "policy.toml:47:12: limits.per_host: must be a whole number from 1",
    ] {
        assert!(
            found.iter().any(|f| f.starts_with(expect)),
            "{expect}\n  is not in {found:#?}"
        );
    }
    assert!(
        !found.iter().any(|f| f.contains("hooks.example.com")),
        "a secret is not repeated"
    );
}
