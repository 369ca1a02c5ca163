//! Why a target cannot be reached, and what can be reached instead.

use std::fmt;

use serde::{Deserialize, Serialize};

use holdfast_proto::Timestamp;
use holdfast_proto::names::{BackupId, ClusterId, FilestoreName, Lineage, Region};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::RestorePointMark;

use super::coverage::Gap;
use super::intervals::Moment;
use super::request::Target;
use super::restore_plan::Bytes;

/// A refusal, with the nearest moments that can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impossible {
    /// Why.
    pub reason: Box<Reason>,
    /// The last reachable moment before the target.
    pub nearest_before: Option<Moment>,
    /// The first reachable moment behind the target.
    pub nearest_after: Option<Moment>,
}

/// Why a target cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is nothing to start from.
    #[error(
        "there is no base backup of {cluster}{}: check the cluster's name, then let an agent make one with \
         `holdfast agent backup base`",
        away(unreachable)
    )]
    NoBase {
        /// The cluster.
        cluster: ClusterId,
        /// Replicas that did not answer.
        unreachable: Vec<Region>,
    },
    /// The lineage asked for does not exist or has no base.
    #[error(
        "lineage {lineage} has no base backup; lineages that have one: {}",
        list(known)
    )]
    NoSuchLineage {
        /// What was asked for.
        lineage: Lineage,
        /// What there is.
        known: Vec<Lineage>,
    },
    /// The timeline asked for does not exist.
    #[error(
        "timeline {timeline} is not in the repository; known timelines: {}",
        list(known)
    )]
    NoSuchTimeline {
        /// What was asked for.
        timeline: TimelineId,
        /// What there is.
        known: Vec<TimelineId>,
    },
    /// The timeline's ancestry is unknown.
    #[error(
        "the history file of timeline {timeline} is missing from every replica that answered, so its ancestry is \
         unknown: bring back the replica that holds it, or choose an older timeline with --timeline"
    )]
    NoHistory {
        /// The timeline.
        timeline: TimelineId,
    },
    /// The base asked for does not lie before the target.
    #[error("base backup {base} cannot be used: {why}")]
    BadBase {
        /// The base.
        base: BackupId,
        /// Why not.
        why: String,
    },
    /// A filestore that nobody captured.
    #[error(
        "filestore {filestore} has no journal in the repository; known filestores: {}",
        list(known)
    )]
    NoSuchFilestore {
        /// What was asked for.
        filestore: FilestoreName,
        /// What there is.
        known: Vec<FilestoreName>,
    },
    /// A filestore's journal has a hole.
    #[error(
        "entry {n} of the journal of filestore {filestore} is missing from every replica that answered: bring back \
         the replica that holds it, choose another moment, or leave the filestore out with --no-filestores"
    )]
    NoJournalEntry {
        /// The filestore.
        filestore: FilestoreName,
        /// The entry.
        n: u64,
    },
    /// The target is earlier than anything that can be restored.
    #[error("{target} lies before the first restorable moment")]
    BeforeFirst {
        /// The target.
        target: Target,
    },
    /// The moment is later than anything that is known.
    #[error(
        "{target} lies behind the last known moment of the WAL, and no agent attested that nothing had been committed \
         by then: restore {}--latest for all there is", of(*lineage)
    )]
    AfterLast {
        /// The target.
        target: Target,
        /// The lineage, where there are several.
        lineage: Option<Lineage>,
    },
    /// The position is later than anything that is stored.
    #[error("{target} lies behind the end of the WAL, {end}: restore {}--latest for all there is", of(*lineage))]
    BeyondEnd {
        /// The target.
        target: Target,
        /// Where the WAL ends.
        end: Lsn,
        /// The lineage, where there are several.
        lineage: Option<Lineage>,
    },
    /// The target has not come yet.
    #[error("{target} is in the future: it is {now} now")]
    InFuture {
        /// The target.
        target: Target,
        /// Now.
        now: Timestamp,
    },
    /// WAL is missing between the base and the target.
    #[error(
        "WAL is missing from {} to {} on timeline {}{}: nothing behind it can be replayed from an older base. \
         --allow-gap restores to the last moment before it and gives up {} behind it",
        gap.from, gap.to, gap.timeline, between(gap), behind(*lost_bytes)
    )]
    Gap {
        /// The hole.
        gap: Gap,
        /// Bytes of WAL that are there behind it.
        lost_bytes: u64,
    },
    /// A replica that did not answer may hold more.
    #[error(
        "{} did not answer and may hold later WAL than the others: bring it back, or give that up with {}",
        list(regions),
        accept(regions)
    )]
    Unreachable {
        /// The replicas.
        regions: Vec<Region>,
    },
    /// No restore point has the name, or no transaction the number.
    #[error(
        "{target} does not occur in the WAL of lineage {lineage} on the way to timeline {timeline}{}{}",
        if *gaps == 0 { "" } else { ", of which some is missing (`holdfast points` says where)" },
        instead(known)
    )]
    Nowhere {
        /// The restore points that do, where a name was looked for; oldest first.
        known: Vec<RestorePointMark>,
        /// Holes on the way: it may have been in one.
        gaps: usize,
        /// The target.
        target: Target,
        /// Where it was looked for.
        lineage: Lineage,
        /// Along which timeline.
        timeline: TimelineId,
    },
    /// The name was given more than once.
    #[error("restore point {name:?} occurs {} times: choose one with --to-lsn ({})", places.len(), marks(places))]
    Several {
        /// The name.
        name: String,
        /// Where it occurs.
        places: Vec<RestorePointMark>,
    },
    /// The named record lies before every base that could lead to it.
    #[error("{target} lies at {lsn}, before the first restorable moment")]
    BeforeBases {
        /// The target.
        target: Target,
        /// Its position.
        lsn: Lsn,
    },
    /// The facts do not say where the target lies from any usable base.
    #[error("the facts do not say where {target} lies in the WAL: this is a defect, please report it")]
    NotLocated {
        /// The target.
        target: Target,
    },
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)?;
        let hole = matches!(*self.reason, Reason::Gap { .. });
        match (&self.nearest_before, &self.nearest_after) {
            (None, None) => Ok(()),
            // In front of a hole the end itself is none: what would stop there is missing.
            (Some(b), None) if hole => write!(f, ". Reachable are the moments before {b}"),
            (Some(b), Some(a)) if hole => {
                write!(f, ". Reachable are the moments before {b}, and from {a} on")
            }
            (Some(b), None) => write!(f, ". The nearest reachable moment is {b}"),
            (None, Some(a)) => write!(f, ". The nearest reachable moment is {a}"),
            (Some(b), Some(a)) => write!(f, ". The nearest reachable moments are {b} and {a}"),
        }
    }
}

impl std::error::Error for Impossible {}

fn of(lineage: Option<Lineage>) -> String {
    lineage.map(|l| format!("--lineage {l} ")).unwrap_or_default()
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn accept(regions: &[Region]) -> String {
    regions
        .iter()
        .map(|r| format!("--accept-unreachable {r}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn away(regions: &[Region]) -> String {
    if regions.is_empty() {
        return String::new();
    }
    format!(" on the replicas that answered ({} did not)", list(regions))
}

fn between(gap: &Gap) -> String {
    match (gap.after, gap.before) {
        (Some(a), Some(b)) => format!(" (between {a} and {b})"),
        (Some(a), None) => format!(" (after {a})"),
        (None, Some(b)) => format!(" (before {b})"),
        (None, None) => String::new(),
    }
}

fn behind(bytes: u64) -> String {
    if bytes == 0 {
        "nothing that is known".to_owned()
    } else {
        format!("{} of WAL", Bytes(bytes))
    }
}

/// The latest of the names that do occur.
fn instead(known: &[RestorePointMark]) -> String {
    const SHOWN: usize = 5;
    let named: Vec<String> = known
        .iter()
        .rev()
        .take(SHOWN)
        .map(|p| format!("{:?} of {}", p.name, p.time))
        .collect();
    match named.as_slice() {
        [] => String::new(),
        named if known.len() <= SHOWN => format!(". The restore points there: {}", named.join(", ")),
        named => format!(
            ". The latest restore points there: {} (`holdfast points --names` shows all {})",
            named.join(", "),
            known.len()
        ),
    }
}

fn marks(places: &[RestorePointMark]) -> String {
    places
        .iter()
        .map(|p| format!("{} at {}", p.lsn, p.time))
        .collect::<Vec<_>>()
        .join(", ")
}
