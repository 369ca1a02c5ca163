//! The fleet's page: words and numbers for people, made from the [`Fleet`].
//!
//! The template only lays out; everything that is said is decided here, so that
//! it can be tested without a browser.

use askama::Template;
use holdfast_plan::policy::Policy;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::ClusterId;
use serde::Deserialize;

use crate::fleet::{ClusterStatus, DrillStatus, FindingStatus, Fleet, StandingWord};
use crate::runbooks::Explained;

/// The page.
#[derive(Debug, Template)]
#[template(path = "fleet.html")]
pub struct FleetPage {
    visitor: Visitor,
    coordinator: String,
    /// Who leads, when that is not this coordinator.
    standby: Option<String>,
    version: String,
    policy: String,
    at: Moment,
    tiles: Vec<Tile>,
    clusters: Vec<Row>,
    cluster_pages: Pages,
    findings: Vec<FindingRow>,
    finding_pages: Pages,
    replicas: Vec<ReplicaRow>,
}

/// Rows on a page: so many as a person looks through.
const ROWS: usize = 100;

/// Which part is shown, as the query says it. The worst come first, so who asks for
/// nothing sees what matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Part {
    /// Clusters that are passed over.
    clusters: usize,
    /// Findings that are passed over.
    findings: usize,
}

/// Links to the rows before and after those that are shown.
#[derive(Debug, PartialEq, Eq)]
struct Pages {
    /// `101 to 200 of 10,000`; empty when all are shown.
    shown: String,
    before: Option<String>,
    after: Option<String>,
}

impl Pages {
    /// Of `all` rows, those after the first `skipped`. `link` is the query for a number
    /// of rows to skip.
    fn of(all: usize, skipped: usize, link: impl Fn(usize) -> String) -> Self {
        let end = skipped.saturating_add(ROWS).min(all);
        Self {
            shown: match (skipped, end) {
                (0, end) if end == all => String::new(),
                (skipped, end) if skipped < end => format!("{} to {end} of {all}", skipped + 1),
                _ => format!("none of {all}"),
            },
            before: (skipped > 0).then(|| link(skipped.min(all).saturating_sub(ROWS))),
            after: (end < all).then(|| link(end)),
        }
    }
}

fn query(clusters: usize, findings: usize) -> String {
    match (clusters, findings) {
        (0, 0) => "/".to_owned(),
        (clusters, 0) => format!("/?clusters={clusters}"),
        (0, findings) => format!("/?findings={findings}"),
        (clusters, findings) => format!("/?clusters={clusters}&findings={findings}"),
    }
}

/// Who looks at the page, and what it offers them.
#[derive(Debug, Default)]
pub struct Visitor {
    /// What to call them; empty when nobody is logged in.
    pub who: String,
    /// What their forms carry.
    pub csrf: String,
    /// Whether they may have everything looked at now.
    pub refreshes: bool,
    /// The pages that they may see.
    pub sections: Vec<Section>,
}

/// A page that everybody who may see it finds on every other.
#[derive(Debug)]
pub struct Section {
    /// Where it is.
    pub path: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// Whether it is the one that is shown.
    pub here: bool,
}

/// A number at the top.
#[derive(Debug)]
struct Tile {
    value: String,
    label: &'static str,
    class: &'static str,
}

/// A moment: how long ago, and exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) ago: String,
    pub(crate) exact: String,
}

/// One cluster's row.
#[derive(Debug)]
struct Row {
    tenant: String,
    name: String,
    tier: String,
    purpose: String,
    agent: String,
    agent_class: &'static str,
    rpo: String,
    rpo_class: &'static str,
    rpo_note: String,
    target: String,
    /// Filled part of the bar, in hundredths; the objective is at 75.
    bar: String,
    /// What a recovery would take, against the objective.
    rto: String,
    rto_class: &'static str,
    rto_target: String,
    rto_bar: String,
    rto_note: String,
    base: Option<Moment>,
    base_note: String,
    base_next: String,
    point: Option<Moment>,
    point_note: String,
    proven: Option<Moment>,
    proven_note: String,
    /// The newest drill's page, when it has a result.
    evidence: Option<String>,
    verdict: String,
    verdict_class: &'static str,
    work: Vec<String>,
    critical: u32,
    warnings: u32,
}

#[derive(Debug)]
pub(crate) struct FindingRow {
    pub(crate) severity: &'static str,
    pub(crate) name: String,
    /// Where its runbook is.
    pub(crate) runbook: Option<String>,
    pub(crate) cluster: String,
    pub(crate) subject: String,
    pub(crate) detail: String,
    /// What clears it; empty when that is not known.
    pub(crate) clears: String,
    pub(crate) since: Moment,
}

#[derive(Debug)]
struct ReplicaRow {
    region: String,
    location: String,
    class: &'static str,
    state: String,
    detail: String,
}

/// `2 h 5 min`: the two largest units.
pub(crate) fn length(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..10 => format!("{}.{} s", s, ms % 1000 / 100),
        10..120 => format!("{s} s"),
        120..7_200 => two(s, 60, "min", "s"),
        7_200..172_800 => two(s, 3_600, "h", "min"),
        _ => two(s, 86_400, "d", "h"),
    }
}

fn two(seconds: u64, unit: u64, large: &str, small: &str) -> String {
    let below = match unit {
        86_400 => 3_600,
        3_600 => 60,
        _ => 1,
    };
    match seconds % unit / below {
        0 => format!("{} {large}", seconds / unit),
        rest => format!("{} {large} {rest} {small}", seconds / unit),
    }
}

/// As [`length`], without seconds beside minutes.
fn rough(ms: u64) -> String {
    if ms < 120_000 {
        length(ms)
    } else {
        length(ms / 60_000 * 60_000)
    }
}

impl Moment {
    pub(crate) fn of(at: Timestamp, now: Timestamp) -> Self {
        let ago = if at > now {
            format!("in {}", rough(at.millis_since(now)))
        } else {
            match now.millis_since(at) {
                ms @ 0..10_000 => format!("{} s ago", ms / 1000),
                ms => format!("{} ago", rough(ms)),
            }
        };
        Self {
            ago,
            exact: at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        }
    }
}

impl FleetPage {
    /// Lays a part of a fleet out.
    pub fn of(fleet: &Fleet, policy: &Policy, visitor: Visitor, part: Part) -> Self {
        let now = fleet.at;
        let clusters = fleet.clusters.iter().skip(part.clusters).take(ROWS);
        let findings = fleet.findings.iter().skip(part.findings).take(ROWS);
        Self {
            visitor,
            coordinator: fleet.coordinator.to_string(),
            standby: standby(fleet),
            version: fleet.version.clone(),
            policy: fleet.policy.chars().take(12).collect(),
            at: Moment::of(now, now),
            tiles: tiles(fleet),
            clusters: clusters.map(|c| row(c, policy, now)).collect(),
            cluster_pages: Pages::of(fleet.clusters.len(), part.clusters, |skipped| {
                query(skipped, part.findings)
            }),
            findings: findings.map(|f| finding_row(f, now)).collect(),
            finding_pages: Pages::of(fleet.findings.len(), part.findings, |skipped| {
                query(part.clusters, skipped)
            }),
            replicas: fleet
                .replicas
                .iter()
                .map(|r| {
                    let (class, state) = match (&r.failing, r.answered) {
                        (Some((_, since)), _) => {
                            ("bad", format!("out of reach, {}", Moment::of(*since, now).ago))
                        }
                        (None, Some(at)) => ("good", format!("answered {}", Moment::of(at, now).ago)),
                        (None, None) => ("dim", "not asked yet".to_owned()),
                    };
                    ReplicaRow {
                        region: r.region.to_string(),
                        location: r.location.clone(),
                        class,
                        state,
                        detail: r.failing.as_ref().map(|(why, _)| why.clone()).unwrap_or_default(),
                    }
                })
                .collect(),
        }
    }
}

fn standby(fleet: &Fleet) -> Option<String> {
    let leading = &fleet.leading;
    if leading.here {
        return None;
    }
    Some(match (&leading.coordinator, &leading.trouble) {
        (_, Some(trouble)) => format!("does not lead: {}", trouble.why),
        (Some(name), None) if *name != fleet.coordinator => {
            format!("standby: {name} leads, and knows what agents say")
        }
        _ => "does not lead yet".to_owned(),
    })
}

fn tiles(fleet: &Fleet) -> Vec<Tile> {
    let standing = |word| fleet.clusters.iter().filter(|c| c.rpo.standing == word).count();
    let severity = |severity| {
        fleet
            .findings
            .iter()
            .filter(|f| f.explained.finding.severity == severity)
            .count()
    };
    let (missed, unknown) = (standing(StandingWord::Missed), standing(StandingWord::Unknown));
    let (critical, warnings) = (severity(Severity::Critical), severity(Severity::Warning));
    let proven = fleet.clusters.iter().filter(|c| c.last_proven.is_some()).count();
    let alarm = |n: usize, class| if n == 0 { "quiet" } else { class };
    let all = fleet.clusters.len();
    vec![
        Tile {
            value: format!("{} of {all}", standing(StandingWord::Met)),
            label: "within RPO",
            class: if missed + unknown == 0 { "good" } else { "quiet" },
        },
        Tile {
            value: missed.to_string(),
            label: "beyond RPO",
            class: alarm(missed, "bad"),
        },
        Tile {
            value: unknown.to_string(),
            label: "RPO unknown",
            class: alarm(unknown, "bad"),
        },
        Tile {
            value: format!("{proven} of {all}"),
            label: "restore proven",
            class: if proven == all { "good" } else { "warn" },
        },
        Tile {
            value: critical.to_string(),
            label: "critical findings",
            class: alarm(critical, "bad"),
        },
        Tile {
            value: warnings.to_string(),
            label: "warnings",
            class: alarm(warnings, "warn"),
        },
    ]
}

fn row(c: &ClusterStatus, policy: &Policy, now: Timestamp) -> Row {
    let (rpo, rpo_class) = match (c.rpo.standing, c.rpo.now_ms) {
        (StandingWord::Met, Some(ms)) => (length(ms), "good"),
        (_, Some(ms)) => (length(ms), "bad"),
        (_, None) => ("unknown".to_owned(), "bad"),
    };
    let bar = match (c.rpo.now_ms, c.rpo.target_ms) {
        (Some(ms), Some(target)) => (ms as f64 * 75.0 / target.max(1) as f64).clamp(1.5, 100.0),
        _ => 0.0,
    };
    let (rto, rto_class, rto_note) = recovery_time(c);
    let rto_bar = match (&c.rto, c.rto_target_ms) {
        (Some(rto), Some(target)) => (rto.p90_ms as f64 * 75.0 / target.max(1) as f64).clamp(1.5, 100.0),
        _ => 0.0,
    };
    let rpo_note = match (&c.rpo.unknown, c.rpo.agent_says_ms) {
        (Some(why), _) => why.clone(),
        (None, Some(ms)) => format!("agent says {}", length(ms)),
        (None, None) => "agent says nothing".to_owned(),
    };
    let (agent, agent_class) = match &c.agent {
        None => ("no agent heard".to_owned(), "bad"),
        Some(a) if a.silent => (
            format!("{} silent, heard {}", a.name, Moment::of(a.heard, now).ago),
            "bad",
        ),
        Some(a) => (format!("{} {}", a.name, a.version), "dim"),
    };
    let (verdict, verdict_class) = match c.last_drill.as_ref().map(|d| d.verdict.as_deref()) {
        None => ("never".to_owned(), "warn"),
        Some(None) => ("running".to_owned(), "dim"),
        Some(Some(verdict @ ("PASS" | "PASS_WITH_EXCEPTIONS"))) => {
            (verdict.replace('_', " ").to_lowercase(), "good")
        }
        Some(Some(verdict)) => (verdict.replace('_', " ").to_lowercase(), "bad"),
    };
    let copies = |regions: &[holdfast_proto::names::Region]| {
        let names: Vec<&str> = regions.iter().map(|r| r.as_str()).collect();
        format!("on {}", names.join(", "))
    };
    Row {
        tenant: c.cluster.tenant.to_string(),
        name: c.cluster.cluster.to_string(),
        tier: c
            .tier
            .as_ref()
            .map_or_else(|| "no policy".to_owned(), ToString::to_string),
        purpose: policy
            .cluster(&c.cluster)
            .map(|p| p.tier.purpose.clone())
            .unwrap_or_default(),
        agent,
        agent_class,
        rpo,
        rpo_class,
        rpo_note,
        target: c
            .rpo
            .target_ms
            .map(|ms| length(ms).replace(".0", ""))
            .unwrap_or_default(),
        bar: format!("{bar:.1}"),
        rto,
        rto_class,
        rto_target: c
            .rto_target_ms
            .map(|ms| length(ms).replace(".0", ""))
            .unwrap_or_default(),
        rto_bar: format!("{rto_bar:.1}"),
        rto_note,
        base: c.last_base.as_ref().map(|b| Moment::of(b.committed, now)),
        base_note: c
            .last_base
            .as_ref()
            .map(|b| copies(&b.regions))
            .unwrap_or_default(),
        base_next: c
            .next_base
            .map(|next| Moment::of(next, now).ago)
            .unwrap_or_default(),
        point: c.last_point.as_ref().map(|p| Moment::of(p.at, now)),
        point_note: c
            .last_point
            .as_ref()
            .map(|p| copies(&p.regions))
            .unwrap_or_default(),
        proven: c.last_proven.as_ref().map(|d| Moment::of(d.at, now)),
        proven_note: c.last_proven.as_ref().map(drill_note).unwrap_or_default(),
        evidence: c
            .last_drill
            .as_ref()
            .filter(|d| d.verdict.as_deref().is_some_and(|v| v != "ABANDONED"))
            .map(|d| format!("/evidence/{}", d.id)),
        verdict,
        verdict_class,
        work: c.work.iter().filter_map(work_line).collect(),
        critical: c.critical,
        warnings: c.warnings,
    }
}

/// What a recovery would take in nine cases of ten, its colour, and where that is from.
fn recovery_time(c: &ClusterStatus) -> (String, &'static str, String) {
    let Some(rto) = &c.rto else {
        return ("unknown".to_owned(), "bad", "no base backup is known".to_owned());
    };
    let class = match c.rto_target_ms {
        Some(target) if rto.p90_ms > target => "bad",
        // By rates that nobody measured here.
        _ if rto.recoveries == 0 => "warn",
        _ => "good",
    };
    let from = match rto.recoveries {
        0 => "never measured".to_owned(),
        1 => "from 1 restore".to_owned(),
        n => format!("from {n} restores"),
    };
    let note = format!("half of the time {}; {from}", length(rto.p50_ms));
    (length(rto.p90_ms), class, note)
}

fn drill_note(drill: &DrillStatus) -> String {
    match drill.rto_ms {
        Some(ms) => format!("{} {}, in {}", drill.level, drill.scenario, length(ms)),
        None => format!("{} {}", drill.level, drill.scenario),
    }
}

/// Work that is under way.
fn work_line(work: &crate::fleet::WorkStatus) -> Option<String> {
    let (done, total) = work.progress?;
    let name = match work.work {
        holdfast_proto::message::Work::BaseBackup => "base backup",
        holdfast_proto::message::Work::FilestoreCheckpoint => "filestore checkpoint",
        holdfast_proto::message::Work::Configuration => "configuration",
    };
    Some(match (done * 100).checked_div(total) {
        Some(percent) => format!("{name} running, {} %", percent.min(100)),
        None => format!("{name} running"),
    })
}

fn finding_row(f: &FindingStatus, now: Timestamp) -> FindingRow {
    finding_line(&f.explained, f.cluster.as_ref(), now)
}

/// A finding as a page shows it.
pub(crate) fn finding_line(explained: &Explained, cluster: Option<&ClusterId>, now: Timestamp) -> FindingRow {
    let finding = &explained.finding;
    let cluster = cluster.map(ToString::to_string).unwrap_or_default();
    FindingRow {
        severity: match finding.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        },
        name: finding.name.clone(),
        runbook: explained.runbook.clone(),
        subject: if finding.subject == cluster {
            String::new()
        } else {
            finding.subject.clone()
        },
        cluster,
        detail: finding.detail.clone(),
        clears: explained.clears.as_deref().unwrap_or_default().to_owned(),
        since: Moment::of(finding.since, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_well() {
        for (ms, text) in [
            (0, "0.0 s"),
            (4_250, "4.2 s"),
            (15_000, "15 s"),
            (119_000, "119 s"),
            (120_000, "2 min"),
            (125_000, "2 min 5 s"),
            (7_200_000, "2 h"),
            (9_000_000, "2 h 30 min"),
            (172_800_000, "2 d"),
            (266_400_000, "3 d 2 h"),
        ] {
            assert_eq!(length(ms), text);
        }
    }

    #[test]
    fn a_large_fleet_is_shown_in_parts() {
        let pages = |all, skipped| {
            let pages = Pages::of(all, skipped, |skipped| query(skipped, 7));
            (pages.shown, pages.before, pages.after)
        };
        let link = |n: usize| Some(format!("/?clusters={n}&findings=7"));
        assert_eq!(pages(0, 0), (String::new(), None, None));
        assert_eq!(pages(100, 0), (String::new(), None, None));
        assert_eq!(pages(101, 0), ("1 to 100 of 101".to_owned(), None, link(100)));
        let last = (
            "101 to 101 of 101".to_owned(),
            Some("/?findings=7".to_owned()),
            None,
        );
        assert_eq!(pages(101, 100), last);
        assert_eq!(pages(10_000, 300).0, "301 to 400 of 10000");
        assert_eq!(pages(10_000, 300).1, link(200));
        assert_eq!(
            pages(50, usize::MAX),
            ("none of 50".to_owned(), Some("/?findings=7".to_owned()), None)
        );
        assert_eq!(query(0, 0), "/");
    }

    #[test]
    fn moments_before_and_after() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        assert_eq!(Moment::of(now, now).ago, "0 s ago");
        assert_eq!(Moment::of(now.plus_millis(-65_000), now).ago, "65 s ago");
        assert_eq!(Moment::of(now.plus_millis(-1_563_000), now).ago, "26 min ago");
        assert_eq!(Moment::of(now.plus_millis(7_200_000), now).ago, "in 2 h");
        assert_eq!(Moment::of(now, now).exact, "2026-11-21 12:00:00 UTC");
    }
}
