//! The pin: what a restore plan saw of the WAL, kept beside the restored data.
//!
//! PostgreSQL asks for one segment after another and believes "it does not
//! exist". So "absent" is an answer only for what the plan knew not to exist:
//! segments beyond the frontier it saw, and histories of timelines it did not
//! see. Everything else that cannot be handed over is a failure, and PostgreSQL
//! stops. [`Pin::decide`] is that rule, without any IO.

use std::path::{Path, PathBuf};

use holdfast_plan::restore::{RestorePlan, Stretch};
use holdfast_proto::Fingerprint;
use holdfast_proto::names::{ClusterId, Lineage, Region, RepositoryId};
use holdfast_proto::pg::{Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineId};
use holdfast_repository::RepositoryConfig;
use serde::{Deserialize, Serialize};

use crate::durable::{self, LocalFileError};

/// Name of the pin's file in the restore's notes.
pub const PIN_FILE: &str = "pin.json";
/// Version of its form.
const VERSION: u32 = 1;

/// What `wal fetch` needs to know. Secrets are referred to by path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    version: u32,
    /// Where the repository is.
    pub repository: RepositoryConfig,
    /// Which repository it must be.
    pub repository_id: RepositoryId,
    /// Fingerprint of the trust root.
    pub trust_root: Fingerprint,
    /// The cluster.
    pub cluster: ClusterId,
    /// The line of descent.
    pub lineage: Lineage,
    /// Bytes of a segment.
    pub segment_size: SegmentSize,
    /// Files of identities that open the WAL.
    pub identities: Vec<PathBuf>,
    /// First byte that recovery needs.
    pub from: Lsn,
    /// First byte that the plan knew not to be there.
    pub frontier: Lsn,
    /// What each timeline owns on the way, oldest first.
    pub stretches: Vec<Stretch>,
    /// Every timeline that the plan knew.
    pub known_timelines: Vec<TimelineId>,
    /// Replicas whose possible surplus was given up.
    pub accepted_unreachable: Vec<Region>,
    /// Replicas to read from first.
    #[serde(default)]
    pub prefer: Vec<Region>,
    /// The program to start for prefetching.
    pub program: PathBuf,
    /// How many segments to fetch ahead; zero for none.
    pub prefetch: u32,
}

/// What to do about a file that PostgreSQL asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Hand over a segment: its bytes up to `until`, and zeros behind.
    Segment {
        /// The timeline in its name.
        timeline: TimelineId,
        /// Which.
        segment: SegmentNumber,
        /// First byte that is zero; the segment's end for a whole one.
        until: Lsn,
    },
    /// Hand over a history file.
    History(TimelineId),
    /// It does not exist, which is proven.
    Absent(String),
    /// It cannot be told: PostgreSQL must stop.
    Refuse(String),
}

impl Pin {
    /// The pin of `plan`.
    pub fn of(
        plan: &RestorePlan,
        repository: RepositoryConfig,
        trust_root: Fingerprint,
        identities: Vec<PathBuf>,
        program: PathBuf,
        prefetch: u32,
    ) -> Self {
        Self {
            version: VERSION,
            repository,
            repository_id: plan.repository,
            trust_root,
            cluster: plan.cluster.clone(),
            lineage: plan.lineage,
            segment_size: plan.base.segment_size,
            identities,
            from: plan.replay.from,
            frontier: plan.replay.frontier,
            stretches: plan.replay.stretches.clone(),
            known_timelines: plan.replay.known_timelines.clone(),
            accepted_unreachable: plan.accepted_unreachable.clone(),
            prefer: Vec::new(),
            program,
            prefetch,
        }
    }

    /// Reads a pin.
    ///
    /// # Errors
    /// It is not there, or is not a pin that this program knows.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bytes = durable::read(path).map_err(|e| e.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("{} does not exist", path.display()))?;
        let pin: Self = serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        if pin.version != VERSION {
            return Err(format!(
                "{} has version {}, this program knows {VERSION}",
                path.display(),
                pin.version
            ));
        }
        Ok(pin)
    }

    /// Writes it, durably.
    pub fn save(&self, path: &Path) -> Result<(), LocalFileError> {
        durable::replace(
            path,
            &serde_json::to_vec_pretty(self).expect("a pin is plain values"),
        )
    }

    /// What to do about the file called `name`.
    pub fn decide(&self, name: &str) -> Decision {
        if let Some(timeline) = name.strip_suffix(".history").and_then(TimelineId::parse_fixed) {
            return self.decide_history(timeline);
        }
        let Ok(parsed) = name.parse::<SegmentName>() else {
            return Decision::Refuse(format!("{name} is neither a WAL segment nor a timeline history"));
        };
        let Some(segment) = parsed.segment(self.segment_size) else {
            return Decision::Refuse(format!(
                "{name} cannot exist with segments of {} bytes",
                self.segment_size
            ));
        };
        self.decide_segment(name, parsed.timeline(), segment)
    }

    fn decide_history(&self, timeline: TimelineId) -> Decision {
        if timeline == TimelineId::FIRST {
            return Decision::Absent("timeline 1 has no history".to_owned());
        }
        if self.known_timelines.contains(&timeline) {
            return Decision::History(timeline);
        }
        Decision::Absent(format!(
            "timeline {timeline} did not exist when the restore was planned"
        ))
    }

    fn decide_segment(&self, name: &str, timeline: TimelineId, segment: SegmentNumber) -> Decision {
        let Some(stretch) = self.stretches.iter().find(|s| s.timeline == timeline) else {
            return Decision::Refuse(format!(
                "timeline {timeline} of {name} is not on the way to the target"
            ));
        };
        let (start, end) = (
            self.segment_size.start_of(segment),
            self.segment_size.end_of(segment),
        );
        let owned_until = stretch.end.map_or(self.frontier, |e| e.min(self.frontier));
        if start >= owned_until {
            return Decision::Absent(format!(
                "{name} lies beyond {owned_until}, where timeline {timeline} ends"
            ));
        }
        if stretch.begin.is_some_and(|begin| end <= begin) {
            return Decision::Absent(format!("{name} lies before timeline {timeline} began"));
        }
        Decision::Segment {
            timeline,
            segment,
            until: end.min(owned_until),
        }
    }

    /// The segments that PostgreSQL asks for after `name`, as far as they exist.
    pub fn following(&self, name: &str, count: u32) -> Vec<SegmentName> {
        let size = self.segment_size;
        let Some(last) = name.parse::<SegmentName>().ok().and_then(|n| n.segment(size)) else {
            return Vec::new();
        };
        let mut names = Vec::new();
        let mut segment = last.next();
        while names.len() < count as usize && size.start_of(segment) < self.frontier {
            // PostgreSQL asks for the newest timeline that began by then.
            let begun = |s: &&Stretch| s.begin.is_none_or(|b| size.segment_of(b) <= segment);
            let Some(stretch) = self.stretches.iter().rev().find(begun) else {
                break;
            };
            names.push(SegmentName::new(stretch.timeline, segment, size));
            segment = segment.next();
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(n: u32) -> TimelineId {
        TimelineId::new(n).unwrap()
    }

    /// Timeline 1 up to 3.5 MiB, timeline 2 up to 6.25 MiB; timeline 3 is known.
    fn pin() -> Pin {
        let switch = Lsn::new(0x38_0000);
        Pin {
            version: VERSION,
            repository: RepositoryConfig {
                replicas: Vec::new(),
                trust_root: None,
            },
            repository_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            trust_root: Fingerprint::new([1; 32]),
            cluster: "acme/erp".parse().unwrap(),
            lineage: "7-1".parse().unwrap(),
            segment_size: SegmentSize::new(1 << 20).unwrap(),
            identities: Vec::new(),
            from: Lsn::new(0x10_0000),
            frontier: Lsn::new(0x64_0000),
            stretches: vec![
                Stretch {
                    timeline: timeline(1),
                    begin: None,
                    end: Some(switch),
                },
                Stretch {
                    timeline: timeline(2),
                    begin: Some(switch),
                    end: None,
                },
            ],
            known_timelines: vec![timeline(1), timeline(2), timeline(3)],
            accepted_unreachable: Vec::new(),
            prefer: Vec::new(),
            program: PathBuf::from("/bin/holdfast"),
            prefetch: 4,
        }
    }

    #[test]
    fn absent_is_said_only_beyond_the_pin() {
        let pin = pin();
        let until = |name: &str| match pin.decide(name) {
            Decision::Segment { until, .. } => until.get(),
            other => panic!("{name}: {other:?}"),
        };
        let absent = |name: &str| assert!(matches!(pin.decide(name), Decision::Absent(_)), "{name}");
        let refused = |name: &str| assert!(matches!(pin.decide(name), Decision::Refuse(_)), "{name}");
        assert_eq!(until("000000010000000000000002"), 0x30_0000);
        assert_eq!(
            until("000000020000000000000003"),
            0x40_0000,
            "the switch lies in it"
        );
        assert_eq!(
            until("000000010000000000000003"),
            0x38_0000,
            "the parent's part of it"
        );
        assert_eq!(until("000000020000000000000006"), 0x64_0000, "the tip");
        absent("000000020000000000000007");
        absent("000000010000000000000004");
        absent("000000020000000000000002");
        absent("00000004.history");
        absent("00000001.history");
        assert_eq!(pin.decide("00000003.history"), Decision::History(timeline(3)));
        for name in [
            "000000030000000000000005",
            "0000000100000000000000",
            "000000010000000000000002.partial",
            "000000010000000000001000",
            "../../etc/passwd",
            "00000000.history",
            "",
        ] {
            refused(name);
        }
    }

    #[test]
    fn what_follows_is_what_postgres_asks_for() {
        let pin = pin();
        let names: Vec<_> = pin
            .following("000000010000000000000001", 9)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            names,
            [
                "000000010000000000000002",
                "000000020000000000000003",
                "000000020000000000000004",
                "000000020000000000000005",
                "000000020000000000000006",
            ]
        );
        assert_eq!(pin.following("000000010000000000000001", 2).len(), 2);
        assert!(pin.following("00000002.history", 2).is_empty());
    }

    proptest! {
        #[test]
        fn what_the_plan_saw_is_never_absent(segment in 1u64..6, of in 1u32..4) {
            let pin = pin();
            let name = SegmentName::new(timeline(of), SegmentNumber::new(segment), pin.segment_size);
            let (start, owner) = (segment << 20, if segment << 20 < 0x38_0000 { 1 } else { 2 });
            if of == owner {
                let seen = matches!(pin.decide(&name.to_string()), Decision::Segment { .. });
                prop_assert!(seen, "{} at {}", name, start);
            }
        }

        #[test]
        fn never_panics(name in "[0-9A-Fa-f.history]{0,40}") {
            let _ = pin().decide(&name);
            let _ = pin().following(&name, 3);
        }
    }
}
