//! One cluster's page: what can be restored, drawn; what a moment would take; and what
//! was backed up, proven and found.
//!
//! The template only lays out. What the repository holds was read lately, not now: the
//! page says when. Nothing is opened for it: that takes an identity, which the
//! coordinator does not have, so a moment gets a sketch and the commands that plan and
//! restore it.

mod drawing;

use askama::Template;
use holdfast_plan::policy::Policy;
use holdfast_plan::restore::{Bytes, Restorable, Sketch, extent, restorable, sketch};
use holdfast_proto::Timestamp;
use holdfast_proto::approval::Guarded;
use holdfast_proto::names::ActorName;
use holdfast_repository::trust::Trust;

pub use drawing::Window;
use drawing::{Drawing, OFFERED, Subject};

use crate::fleet::{ClusterStatus, StandingWord};
use crate::page::{FindingRow, Moment, Visitor, finding_line, length};
use crate::runbooks::{Explained, Runbooks};
use crate::server::ledger::{Read, Shown};
use crate::survey::DrillSeen;

/// Rows of a table that are shown.
const SHOWN: usize = 12;

/// What the page is made from.
pub struct Known<'k> {
    /// The moment.
    pub at: Timestamp,
    /// Which coordinator says so.
    pub coordinator: &'k ActorName,
    /// The policy in force.
    pub policy: &'k Policy,
    /// Where people read what to do about a finding.
    pub runbooks: Option<&'k Runbooks>,
    /// The cluster's status.
    pub status: &'k ClusterStatus,
    /// Its drills, oldest first.
    pub drills: &'k [DrillSeen],
    /// What the repository holds of it, or why that is not known.
    pub read: Result<&'k Shown, &'k String>,
    /// Who is believed.
    pub trust: Option<&'k Trust>,
}

/// The page.
#[derive(Template)]
#[template(path = "cluster.html")]
pub struct ClusterPage {
    visitor: Visitor,
    coordinator: String,
    at: Moment,
    tenant: String,
    name: String,
    tier: String,
    purpose: String,
    tiles: Vec<Tile>,
    windows: Vec<WindowLink>,
    window: &'static str,
    held: Result<Held, String>,
    moment: String,
    chosen: Option<Chosen>,
    drills: Vec<DrillRow>,
    drills_left: usize,
    findings: Vec<FindingRow>,
}

struct Tile {
    value: String,
    label: &'static str,
    class: &'static str,
    note: String,
}

struct WindowLink {
    name: &'static str,
    label: &'static str,
    current: bool,
}

/// What the repository holds.
struct Held {
    read: Moment,
    trouble: Option<String>,
    drawing: Drawing,
    intervals: Vec<IntervalRow>,
    gaps: Vec<GapRow>,
    bases: Vec<BaseRow>,
    bases_left: usize,
    holds: Vec<HoldRow>,
    notes: Vec<FindingRow>,
}

struct IntervalRow {
    from: String,
    to: String,
    line: String,
    lsns: String,
    note: &'static str,
}

struct GapRow {
    after: String,
    before: String,
    lsns: String,
    cause: String,
}

struct BaseRow {
    id: String,
    complete: Moment,
    size: String,
    copies: String,
    note: String,
}

struct HoldRow {
    from: String,
    to: String,
    reason: String,
    by: String,
}

struct DrillRow {
    at: Moment,
    what: String,
    class: &'static str,
    verdict: String,
    link: Option<String>,
    took: String,
    why: String,
}

/// The moment that was asked about.
struct Chosen {
    said: String,
    class: &'static str,
    lines: Vec<(&'static str, String)>,
    commands: Vec<(&'static str, String)>,
}

fn exact(at: Timestamp) -> String {
    at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

impl ClusterPage {
    /// Lays a cluster out.
    pub fn of(known: &Known<'_>, window: Window, asked: &str, visitor: Visitor) -> Self {
        let (now, status) = (known.at, known.status);
        let moment = asked.trim();
        let parsed = (!moment.is_empty()).then(|| moment.parse::<Timestamp>());
        let read = known
            .read
            .map(|shown| (shown, restorable(&shown.read.ledger.facts)));
        let chosen = parsed.as_ref().map(|parsed| match (parsed, &read) {
            (Err(_), _) => Chosen::refused(
                "A moment with its time zone is needed, such as 2026-07-28T14:32:07Z or 2026-07-28T16:32:07+02:00.",
            ),
            (Ok(_), Err(why)) => Chosen::refused(why),
            (Ok(at), Ok((shown, restorable))) => Chosen::of(known, &shown.read, restorable, *at),
        });
        let asked_at = parsed.and_then(Result::ok);
        let held = match &read {
            Ok((shown, restorable)) => Ok(held(known, shown, restorable, window, asked_at)),
            Err(why) => Err((*why).clone()),
        };
        let policy = known.policy.cluster_at(&status.cluster, now);
        let mut findings: Vec<FindingRow> = status
            .findings
            .iter()
            .map(|f| finding_line(f, None, now))
            .collect();
        for row in &mut findings {
            if row.subject == status.cluster.to_string() {
                row.subject.clear();
            }
        }
        Self {
            visitor,
            coordinator: known.coordinator.to_string(),
            at: Moment::of(now, now),
            tenant: status.cluster.tenant.to_string(),
            name: status.cluster.cluster.to_string(),
            tier: status.tier.as_ref().map(ToString::to_string).unwrap_or_default(),
            purpose: policy.map(|p| p.tier.purpose.clone()).unwrap_or_default(),
            tiles: tiles(status, now),
            windows: windows(window),
            window: window.name(),
            held,
            moment: moment.to_owned(),
            chosen,
            drills: known
                .drills
                .iter()
                .rev()
                .take(SHOWN)
                .map(|d| drill_row(d, now))
                .collect(),
            drills_left: known.drills.len().saturating_sub(SHOWN),
            findings,
        }
    }
}

fn windows(current: Window) -> Vec<WindowLink> {
    let link = |name, label| WindowLink {
        name,
        label,
        current: current.name() == name,
    };
    let mut all = vec![link("", "as it fits")];
    all.extend(OFFERED.iter().map(|(name, label, _)| link(name, label)));
    all.push(link("all", "all"));
    all
}

fn tiles(status: &ClusterStatus, now: Timestamp) -> Vec<Tile> {
    let (value, class, note) = match (status.rpo.standing, status.rpo.now_ms) {
        (StandingWord::Met, Some(ms)) => (length(ms), "good", String::new()),
        (StandingWord::Missed, Some(ms)) => (length(ms), "bad", String::new()),
        _ => (
            "unknown".to_owned(),
            "bad",
            status.rpo.unknown.clone().unwrap_or_default(),
        ),
    };
    let target = status.rpo.target_ms.map(|ms| format!("target {}", length(ms)));
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "none".to_owned(), |at| Moment::of(at, now).ago);
    let there = |is: bool| if is { "" } else { "bad" };
    let proven = status.last_proven.as_ref();
    let rto = proven
        .and_then(|d| d.rto_ms)
        .map(|ms| format!("restored in {}", length(ms)));
    let rto_target = status.rto_target_ms.map(|ms| format!("target {}", length(ms)));
    vec![
        Tile {
            value,
            label: "would be lost now, at most",
            class,
            note: if note.is_empty() {
                target.unwrap_or_default()
            } else {
                note
            },
        },
        Tile {
            value: ago(status.last_base.as_ref().map(|b| b.committed)),
            label: "last base backup",
            class: there(status.last_base.is_some()),
            note: status
                .next_base
                .map(|next| format!("next {}", Moment::of(next, now).ago))
                .unwrap_or_default(),
        },
        Tile {
            value: ago(proven.map(|d| d.at)),
            label: "last proven restore",
            class: there(proven.is_some()),
            note: [rto, rto_target]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
        },
        Tile {
            value: match status.critical {
                0 => status.warnings.to_string(),
                n => n.to_string(),
            },
            label: match (status.critical, status.warnings) {
                (0, 1) => "warning",
                (0, _) => "warnings",
                (1, _) => "critical finding",
                _ => "critical findings",
            },
            class: match (status.critical, status.warnings) {
                (0, 0) => "good",
                (0, _) => "warn",
                _ => "bad",
            },
            note: String::new(),
        },
    ]
}

fn held(
    known: &Known<'_>,
    shown: &Shown,
    restorable: &Restorable,
    window: Window,
    chosen: Option<Timestamp>,
) -> Held {
    let read = &shown.read;
    let (now, facts) = (known.at, &read.ledger.facts);
    let subject = Subject {
        facts,
        restorable,
        drills: known.drills,
        chosen,
    };
    let time = |at: Option<Timestamp>| at.map_or_else(|| "not known".to_owned(), exact);
    let intervals = restorable.intervals.iter().rev().map(|interval| {
        let ends = extent(facts, interval);
        IntervalRow {
            from: time(ends.map(|e| e.0)),
            to: time(ends.map(|e| e.1)),
            line: format!("{} · timeline {}", interval.to.lineage, interval.to.timeline),
            lsns: format!("{} to {}", interval.from.lsn, interval.to.lsn),
            note: if interval.attested {
                "attested: nothing was committed beyond it by then"
            } else {
                "by the last transaction known"
            },
        }
    });
    let gaps = restorable.gaps.iter().rev().map(|hole| GapRow {
        after: time(hole.gap.after),
        before: time(hole.gap.before),
        lsns: format!(
            "{} to {}, timeline {}",
            hole.gap.from, hole.gap.to, hole.gap.timeline
        ),
        cause: hole.cause.clone(),
    });
    let mut bases: Vec<_> = facts.lineages.iter().flat_map(|l| &l.bases).collect();
    bases.sort_by_key(|base| std::cmp::Reverse(base.stopped));
    let newest = bases.iter().take(SHOWN).map(|base| BaseRow {
        id: base.id.to_string(),
        complete: Moment::of(base.stopped, now),
        size: Bytes(base.totals.bytes).to_string(),
        copies: match base.present_on.len() {
            1 => format!("1 copy: {}", base.present_on[0]),
            n => format!("{n} copies"),
        },
        note: match base.pages_bad {
            0 => restorable
                .broken
                .iter()
                .find(|broken| broken.base == base.id)
                .map(|broken| format!("of no use: {}", broken.why))
                .unwrap_or_default(),
            n => format!("{n} damaged pages at the source"),
        },
    });
    let holds = read.ledger.holds.iter().filter(|hold| hold.released.is_none());
    Held {
        read: Moment::of(read.at, now),
        trouble: shown.trouble.clone(),
        drawing: Drawing::of(&subject, window, now),
        intervals: intervals.take(SHOWN).collect(),
        gaps: gaps.take(SHOWN).collect(),
        bases: newest.collect(),
        bases_left: bases.len().saturating_sub(SHOWN),
        holds: holds
            .map(|hold| HoldRow {
                from: exact(hold.body.from),
                to: exact(hold.body.to),
                reason: hold.body.reason.clone(),
                by: hold.by.to_string(),
            })
            .collect(),
        notes: read
            .ledger
            .findings
            .iter()
            .map(|f| finding_line(&Explained::of(f.clone(), known.runbooks), None, now))
            .collect(),
    }
}

fn drill_row(drill: &DrillSeen, now: Timestamp) -> DrillRow {
    let (class, verdict) = drawing::verdict(drill);
    let result = drill.result.as_ref();
    DrillRow {
        at: Moment::of(result.map_or(drill.began, |r| r.at), now),
        what: format!("{} {}", drill.level, drill.scenario),
        class,
        verdict: verdict.to_owned(),
        link: drawing::evidence(drill),
        took: result.and_then(|r| r.rto_ms).map(length).unwrap_or_default(),
        why: result.map(|r| r.reasons.join("; ")).unwrap_or_default(),
    }
}

impl Chosen {
    fn refused(why: &str) -> Self {
        Self {
            said: why.to_owned(),
            class: "no",
            lines: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn of(known: &Known<'_>, read: &Read, restorable: &Restorable, at: Timestamp) -> Self {
        let cluster = &known.status.cluster;
        let way = match sketch(&read.ledger.facts, restorable, at) {
            Sketch::Restorable(way) => way,
            Sketch::Not { before, after, gap } => {
                let mut lines = Vec::new();
                if let Some(hole) = gap {
                    lines.push((
                        "why",
                        format!(
                            "WAL from {} to {} is missing: {}",
                            hole.gap.from, hole.gap.to, hole.cause
                        ),
                    ));
                }
                lines.extend(before.map(|at| ("nearest before", exact(at))));
                lines.extend(after.map(|at| ("nearest after", exact(at))));
                return Self {
                    said: format!("{} cannot be restored.", exact(at)),
                    class: "no",
                    lines,
                    commands: Vec::new(),
                };
            }
        };
        let mut lines = vec![
            (
                "base backup",
                format!("{}, complete {}", way.base.id, exact(way.base.stopped)),
            ),
            (
                "replay",
                format!(
                    "{} of the primary's life, at most to {}",
                    length(way.replayed_ms),
                    way.interval.to.lsn
                ),
            ),
        ];
        if let Some(point) = way.point {
            let files: Vec<String> = point.filestores.iter().map(|f| f.filestore.to_string()).collect();
            let files = if files.is_empty() {
                String::new()
            } else {
                format!(", with {}", files.join(", "))
            };
            lines.push((
                "joint point before",
                format!("{} at {}{files}", point.name, exact(point.at)),
            ));
        }
        if !way.others.is_empty() {
            let others: Vec<String> = way
                .others
                .iter()
                .map(|i| format!("--lineage {} --timeline {}", i.to.lineage, i.to.timeline))
                .collect();
            lines.push(("other histories", others.join("; ")));
        }
        let trust = known.trust;
        let quorum =
            trust.and_then(|t| t.required(Guarded::ProductionRestore, std::slice::from_ref(cluster)));
        let to = format!("--cluster {cluster} --to-time {at}");
        let mut commands = vec![
            (
                "Names the transactions just before and after it, and what it takes",
                format!("holdfast restore plan {to}"),
            ),
            (
                "A copy to look at",
                format!("holdfast restore run --copy {to} --target DIR"),
            ),
        ];
        commands.push(match quorum {
            Some(quorum) => {
                lines.push((
                    "approval",
                    format!(
                        "{} of {} groups have to approve a restore",
                        quorum.approvals, quorum.groups
                    ),
                ));
                (
                    "Asks for approval of a restore",
                    format!("holdfast restore request {to} --target DIR --key FILE --reason TEXT"),
                )
            }
            None => ("The restore", format!("holdfast restore run {to} --target DIR")),
        });
        Self {
            said: format!("{} can be restored.", exact(at)),
            class: "yes",
            lines,
            commands,
        }
    }
}
