//! Tiers: service levels by name.
//!
//! Four are shipped with the program (`config/tiers.toml`, compiled in). A
//! policy changes them by naming them again and adds its own, whole or like a
//! known one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use holdfast_proto::names::TierName;
use serde::{Serialize, Serializer};

use super::retention::{self, Retention};
use crate::cron::Cron;
use crate::document::{self, Section};
use crate::period::Period;

/// What a tier promises and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: TierName,
    /// What it is for, in words.
    pub purpose: String,
    /// Recovery point objective: the most that may be lost.
    pub rpo: Period,
    /// Recovery time objective: the longest that a restore may take.
    pub rto: Period,
    /// The longest that new WAL waits before it is uploaded.
    pub tip_interval: Period,
    /// Replicas that hold a backup in the end.
    pub copies: u32,
    /// Replicas that hold WAL before PostgreSQL may forget it.
    pub copies_before_ack: u32,
    /// When a base backup is taken.
    pub base_backup: Cron,
    /// A base backup is taken out of turn when a restore would replay WAL for more than so
    /// many hundredths of the recovery time objective; 0: never.
    pub replay_share: u32,
    /// Between joint points of database and filestores.
    pub fence_interval: Period,
    /// When a filestore is captured whole.
    pub filestore_checkpoint: Cron,
    /// When settings and secrets are captured.
    pub configuration: Cron,
    /// Between an agent's signed statements of how far it is.
    pub attest_interval: Period,
    /// How long backups are kept.
    pub retention: Retention,
    /// The restores that prove it.
    pub drills: Vec<Drill>,
}

/// How often which restore is carried out to prove a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// The scenario.
    pub scenario: ScenarioName,
    /// How much it proves.
    pub level: Level,
    /// The longest time between two that pass.
    pub every: Period,
}

/// How much a drill proves: L1 (objects and keys) to L5 (from the ashes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

/// A text that is not a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a drill's level: write L1, L2, L3, L4 or L5")]
pub struct BadLevel(String);

impl Level {
    /// Whether something is restored at it.
    pub fn restores(self) -> bool {
        self.0 > 1
    }
}

impl FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        match text {
            "L1" => Ok(Self(1)),
            "L2" => Ok(Self(2)),
            "L3" => Ok(Self(3)),
            "L4" => Ok(Self(4)),
            "L5" => Ok(Self(5)),
            _ => Err(BadLevel(text.chars().take(20).collect())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The name of a drill's scenario, as its file under `drills/scenarios/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScenarioName(String);

/// A text that cannot name a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scenario's name: use 1 to 63 characters from a-z, 0-9 and '-'")]
pub struct BadScenario(String);

impl FromStr for ScenarioName {
    type Err = BadScenario;

    fn from_str(text: &str) -> Result<Self, BadScenario> {
        let good = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadScenario(text.chars().take(63).collect()))
        }
    }
}

impl fmt::Display for ScenarioName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

const SHIPPED: &str = include_str!("../../../config/tiers.toml");

static TIERS: LazyLock<BTreeMap<TierName, Tier>> = LazyLock::new(|| {
    document::read(SHIPPED, "tiers.toml", |mut root| {
        let tiers = read_tiers(&mut root, &BTreeMap::new());
        root.finish();
        Some(tiers)
    })
    .expect("a test reads the tiers that are compiled in")
});

impl Tier {
    /// The tiers that come with the program.
    pub fn shipped() -> &'static BTreeMap<TierName, Tier> {
        &TIERS
    }
}

/// Reads `[tiers.NAME]`, on top of `known`.
pub(super) fn read_tiers(
    root: &mut Section<'_>,
    known: &BTreeMap<TierName, Tier>,
) -> BTreeMap<TierName, Tier> {
    let mut tiers = known.clone();
    for (name, mut section) in root.named::<TierName>("tiers") {
        let model = match section.optional::<TierName>("like") {
            None => tiers.get(&name).cloned(),
            Some(like) => {
                let model = tiers.get(&like).cloned();
                if model.is_none() {
                    let names = tiers.keys().map(TierName::as_str).collect::<Vec<_>>().join(", ");
                    section.problem(format!(
                        "like = \"{like}\" names no tier that stands above it: known are {names}"
                    ));
                }
                model
            }
        };
        if let Some(tier) = read_tier(&mut section, &name, model) {
            tiers.insert(name, tier);
        }
        section.finish();
    }
    tiers
}

/// What is written, else what the model says, else a problem.
fn take<T>(section: &mut Section<'_>, key: &'static str, example: &'static str, model: Option<T>) -> Option<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    match model {
        Some(model) => section.optional(key).or(Some(model)),
        None => section.required(key, example),
    }
}

/// A restore that replays for half of its time has the other half for the rest.
const REPLAY_SHARE: u32 = 50;

fn take_copies(section: &mut Section<'_>, key: &'static str, model: Option<u32>) -> Option<u32> {
    let read = match model {
        None => section.required_number(key, 1..=16),
        Some(model) => section.optional_number(key, 1..=16).or(Some(u64::from(model))),
    };
    read.and_then(|n| u32::try_from(n).ok())
}

fn read_tier(section: &mut Section<'_>, name: &TierName, model: Option<Tier>) -> Option<Tier> {
    let m = model.as_ref();
    let purpose = section
        .optional::<String>("purpose")
        .or_else(|| m.map(|m| m.purpose.clone()))
        .unwrap_or_default();
    let rpo = take(section, "rpo", "15min", m.map(|m| m.rpo));
    let rto = take(section, "rto", "4h", m.map(|m| m.rto));
    let tip_interval = take(section, "tip_interval", "5min", m.map(|m| m.tip_interval));
    let copies = take_copies(section, "copies", m.map(|m| m.copies));
    let copies_before_ack = take_copies(section, "copies_before_ack", m.map(|m| m.copies_before_ack));
    let base_backup = take(
        section,
        "base_backup",
        "30 1 * * *",
        m.map(|m| m.base_backup.clone()),
    );
    let replay_share = section
        .optional_number("replay_share", 0..=100)
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(m.map_or(REPLAY_SHARE, |m| m.replay_share));
    let fence_interval = take(section, "fence_interval", "15min", m.map(|m| m.fence_interval));
    let checkpoint = m.map(|m| m.filestore_checkpoint.clone());
    let filestore_checkpoint = take(section, "filestore_checkpoint", "0 4 * * SUN", checkpoint);
    let configuration = take(
        section,
        "configuration",
        "15 0 * * *",
        m.map(|m| m.configuration.clone()),
    );
    let attest_interval = take(section, "attest_interval", "1min", m.map(|m| m.attest_interval));
    let retention = retention::read(section, m.map(|m| m.retention.clone()).unwrap_or_default());
    let drills = if section.has("drill") {
        section.list("drill").into_iter().filter_map(read_drill).collect()
    } else {
        m.map(|m| m.drills.clone()).unwrap_or_default()
    };
    let tier = Tier {
        name: name.clone(),
        purpose,
        rpo: rpo?,
        rto: rto?,
        tip_interval: tip_interval?,
        copies: copies?,
        copies_before_ack: copies_before_ack?,
        base_backup: base_backup?,
        replay_share,
        fence_interval: fence_interval?,
        filestore_checkpoint: filestore_checkpoint?,
        configuration: configuration?,
        attest_interval: attest_interval?,
        retention,
        drills,
    };
    check(section, &tier);
    Some(tier)
}

fn read_drill(mut section: Section<'_>) -> Option<Drill> {
    let scenario = section.required("scenario", "accidental-deletion");
    let level = section.required("level", "L3");
    let every = section.required("every", "7d");
    section.finish();
    Some(Drill {
        scenario: scenario?,
        level: level?,
        every: every?,
    })
}

/// Numbers that contradict each other.
fn check(section: &Section<'_>, tier: &Tier) {
    if tier.copies_before_ack > tier.copies {
        section.problem(format!(
            "copies_before_ack is {}, more than the {} copies there will ever be: lower it or raise copies",
            tier.copies_before_ack, tier.copies
        ));
    }
    for (key, period) in [
        ("tip_interval", tier.tip_interval),
        ("attest_interval", tier.attest_interval),
    ] {
        if period > tier.rpo {
            section.problem(format!(
                "{key} of {period} is longer than rpo of {}, which could then never be shown to hold: shorten it",
                tier.rpo
            ));
        }
    }
}
