//! A year of five hundred clusters, in which everything goes wrong now and then.
//!
//! Agents die, are cut off, and have clocks that jump; work fails; stores do not answer
//! for hours; the runner of drills is away for days; the coordinator is killed, and half
//! of those times forgets everything. Through all that: what breaks an objective is said
//! within a minute, where nothing is wrong nothing is said, nobody makes a base backup
//! that nobody needs, and none begins inside a freeze. The same seed gives the same year.

mod world;

use std::fmt::Write;
use std::time::Duration;

use holdfast_plan::lead::Candidate;
use holdfast_plan::policy::Policy;
use holdfast_plan::schedule::Patience;
use holdfast_proto::Timestamp;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::config::{CoordinatorConfig, TlsFiles};
use crate::desk::{Desk, State};
use crate::governing::Governing;
use crate::lead::Lead;
use world::{DAY, Event, HOUR, MINUTE, REGIONS, Seen, World};

/// The coordinator's patience with an agent and the pace of its loops, in all: how
/// long a freeze may be known to it before an agent acts on the order before.
fn start() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().expect("a moment")
}

/// The one coordinator leads all year.
const TERM: u64 = 1;

/// Legal entities, and the zone that each works in. Lord Howe's clocks change by half
/// an hour.
const TENANTS: [(&str, &str); 8] = [
    ("acme", "Europe/Vienna"),
    ("nordbau", "Europe/Oslo"),
    ("hudson", "America/New_York"),
    ("pacific", "America/Los_Angeles"),
    ("ganga", "Asia/Kolkata"),
    ("howe", "Australia/Lord_Howe"),
    ("andes", "America/Santiago"),
    ("tiny", "Europe/Vienna"),
];

const CALENDARS: &str = r#"
[[calendar]]
name = "payroll"
begins = "2026-01-01T18:00"
recurrence = "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2"
duration = "36h"
tenants = ["acme"]
freeze = ["base_backup", "drill"]

[[calendar]]
name = "bids"
begins = "2026-01-04T00:00"
recurrence = "FREQ=WEEKLY;INTERVAL=10;BYDAY=MO"
duration = "100h"
tenants = ["hudson"]
freeze = ["base_backup", "drill"]
"#;

/// The fleet: the nights of every tenant, one cluster after the other.
fn policy(clusters: usize, random: &mut StdRng) -> String {
    let mut text = String::from("[limits]\nper_host = 1\nper_store = 8\n");
    for (tenant, _) in TENANTS {
        writeln!(text, "[[tenant]]\nname = \"{tenant}\"").expect("a string takes text");
    }
    text.push_str(CALENDARS);
    for n in 0..clusters {
        // The last tenant is small: it must not wait behind the large ones.
        let (tenant, zone) = if n % 50 == 0 { TENANTS[7] } else { TENANTS[n % 7] };
        let tier = ["platinum", "gold", "silver", "silver", "bronze"][random.random_range(0..5)];
        let (minute, hour) = (random.random_range(0..60), random.random_range(0..6));
        let day = match tier {
            "platinum" | "gold" => "*".to_owned(),
            _ => random.random_range(0..7).to_string(),
        };
        writeln!(
            text,
            "[[cluster]]\ncluster = \"{tenant}/c{n}\"\ntier = \"{tier}\"\ntime_zone = \"{zone}\"\n\
             [cluster.schedule]\nbase_backup = \"{minute} {hour} * * {day}\""
        )
        .expect("a string takes text");
    }
    text
}

/// A desk over an empty repository: what it would list is made up by the world.
async fn desk(clusters: usize, seed: u64) -> (Desk, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let replica = |name: &str| {
        let place = directory.path().join(name);
        std::fs::create_dir(&place).unwrap();
        ReplicaConfig::directory(name.parse().unwrap(), &place)
    };
    let root = SigningKey::generate_ed25519().unwrap().fingerprint();
    let repository = RepositoryConfig {
        replicas: REGIONS.map(replica).to_vec(),
        trust_root: Some(root),
    };
    let opened = Repository::init(&repository, root, start()).await.unwrap();
    let text = policy(clusters, &mut StdRng::seed_from_u64(seed));
    let policy = Policy::parse(&text, "policy").unwrap_or_else(|problems| panic!("{problems:#?}"));
    let config = CoordinatorConfig {
        name: "coordinator-1".parse().unwrap(),
        listen_agents: ([127, 0, 0, 1], 0).into(),
        listen_http: ([127, 0, 0, 1], 0).into(),
        state_dir: directory.path().join("state"),
        policy_file: directory.path().join("policy.toml"),
        policy: policy.clone(),
        signing_key: directory.path().join("key"),
        log_key: None,
        tls: TlsFiles {
            cert: directory.path().join("cert"),
            key: directory.path().join("key"),
            client_ca: directory.path().join("ca"),
            ended: Vec::new(),
        },
        enrolment: None,
        http_tls: None,
        access: None,
        repository,
        trust_root: root,
        replicate_after: "1min".parse().unwrap(),
        lease: "30s".parse().unwrap(),
        runbooks: None,
        patience: Patience::default(),
    };
    // Nobody else is there, and no year is longer.
    let century = Duration::from_secs(100 * 365 * 86_400);
    let lead = Lead::new(Candidate::new(century, 0), None);
    lead.change(|candidate, at| candidate.won(TERM, TERM, at));
    let state = State {
        book_term: Some(TERM),
        ..State::default()
    };
    let desk = Desk::new(config, Governing::of(policy), opened, lead, state, start());
    (desk, directory)
}

/// Everything that goes wrong in so many days.
fn misfortunes(world: &mut World, days: i64, random: &mut StdRng) {
    let whole = days * DAY;
    // So many in a year; of a fraction that is left, chance decides.
    let per_year = |random: &mut StdRng, times: f64| {
        let times = times * days as f64 / 365.0;
        times as usize + usize::from(random.random_bool(times.fract()))
    };
    for n in 0..world.sites.len() {
        for _ in 0..per_year(random, 3.0) {
            let (at, lasts) = (random.random_range(HOUR..whole), length(random, DAY));
            world.at(at, Event::Dies(n));
            world.at(at + lasts, Event::Rises(n));
        }
        for _ in 0..per_year(random, 3.0) {
            let (at, lasts) = (random.random_range(HOUR..whole), length(random, 6 * HOUR));
            world.at(at, Event::Cut(n));
            world.at(at + lasts, Event::Joined(n));
        }
        for _ in 0..per_year(random, 2.0) {
            let by = random.random_range(-2 * HOUR..2 * HOUR);
            world.at(random.random_range(HOUR..whole), Event::Jumps(n, by));
        }
        for _ in 0..per_year(random, 4.0) {
            world.at(random.random_range(HOUR..whole), Event::Fails(n));
        }
    }
    for _ in 0..per_year(random, 12.0) {
        let (at, lasts) = (random.random_range(HOUR..whole), length(random, 8 * HOUR));
        let region = random.random_range(0..2);
        world.at(at, Event::StoreDown(region));
        world.at(at + lasts, Event::StoreUp(region));
    }
    // One absence that is long, however short the time that is lived through.
    world.at(whole / 2, Event::RunnerAway);
    world.at(whole / 2 + 20 * DAY, Event::RunnerBack);
    for _ in 0..per_year(random, 4.0) {
        let (at, lasts) = (random.random_range(HOUR..whole), length(random, 20 * DAY));
        world.at(at, Event::RunnerAway);
        world.at(at + lasts, Event::RunnerBack);
    }
    for _ in 0..per_year(random, 120.0) {
        let forgets = random.random_bool(0.5);
        world.at(random.random_range(HOUR..whole), Event::Killed(forgets));
    }
}

/// Mostly short, now and then as long as `most`.
fn length(random: &mut StdRng, most: i64) -> i64 {
    let short = random.random_bool(0.7);
    random.random_range(10_000..if short { 20 * MINUTE } else { most })
}

async fn live(clusters: usize, days: i64, seed: u64) -> (Seen, String) {
    let (desk, _directory) = desk(clusters, seed).await;
    let mut world = World::new(desk, seed, start());
    misfortunes(&mut world, days, &mut StdRng::seed_from_u64(seed ^ 0x5EED));
    world.run(start().plus_millis(days * DAY));
    (world.seen.clone(), world.digest())
}

/// How much of the year is lived through: minutes of processor time for all of it.
fn days() -> i64 {
    let asked = std::env::var("HOLDFAST_TEST_DAYS").ok();
    asked.and_then(|days| days.parse().ok()).unwrap_or(30)
}

/// From the first of January on; `HOLDFAST_TEST_DAYS` says for how many days.
#[tokio::test]
async fn a_year_of_five_hundred_clusters() {
    let days = days();
    let (seen, digest) = live(500, days, 2027).await;
    println!("{seen:#?}\n{digest}");
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    assert_eq!(seen.broken, seen.alarmed, "every broken objective was reported");
    // It was a time in which something happened.
    let at_least = |count: u64, per_year: i64, what: &str| {
        let least = per_year * days / 365;
        assert!(
            count as i64 > least,
            "{what}: {count}, at least {least}\n{seen:#?}"
        );
    };
    at_least(seen.bases, 50_000, "base backups");
    at_least(seen.relieved, 20, "base backups out of turn");
    at_least(seen.broken, 500, "objectives broken");
    at_least(seen.failed, 500, "work failed");
    at_least(seen.held_frozen, 100, "held by a freeze");
    at_least(seen.held_full, 100, "held by a limit");
    at_least(seen.quiet, 1_000, "looked at when well");
    at_least(seen.drills, 5_000, "drills");
    at_least(seen.cadence_broken, 50, "drills missed");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_trace() {
    let (once, digest) = live(40, 60, 7).await;
    let (twice, again) = live(40, 60, 7).await;
    assert_eq!((&once, &digest), (&twice, &again));
    let (_, other) = live(40, 60, 8).await;
    assert_ne!(digest, other);
    assert!(once.wrong.is_empty(), "{:#?}", once.wrong);
}
