//! What an agent begins by itself.
//!
//! Pure: facts and a tier in, work with its reasons out. A coordinator decides when
//! backups are due; an agent decides alone when there is none (or it was not heard
//! for long), and always when the present could not be restored at all.

use holdfast_plan::cron::{Cron, Zone};
use holdfast_plan::policy::Tier;
use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::pg::{Lsn, TimelineId};

use crate::wal::Reach;

/// The newest base backup of the lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestBase {
    /// When its copy was complete.
    pub stopped: Timestamp,
    /// Where its replay begins.
    pub start: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// What the decision is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'f> {
    /// The tier, when it is known here.
    pub tier: Option<&'f Tier>,
    /// Whether a coordinator decides.
    pub coordinated: bool,
    /// The newest base backup.
    pub base: Option<NewestBase>,
    /// From where the archived WAL leads to the present; absent while none comes.
    pub wal: Option<&'f Reach>,
    /// When the last configuration bundle was looked at.
    pub configuration: Option<Timestamp>,
    /// Whether the cluster has filestores, and when the last checkpoint was asked for.
    pub checkpoint: Option<Timestamp>,
}

/// The work that is due now, each with the reason.
pub fn due(facts: &Facts<'_>, now: Timestamp) -> Vec<(Work, &'static str)> {
    let mut work = Vec::new();
    let fires = |cron: fn(&Tier) -> &Cron, last: Timestamp| {
        !facts.coordinated
            && facts
                .tier
                .and_then(|t| cron(t).next(Zone::UTC.tz(), last))
                .is_some_and(|next| next <= now)
    };
    // Without WAL a base backup cannot become consistent.
    if let Some(reach) = facts.wal {
        match facts.base {
            None => work.push((Work::BaseBackup, "the lineage has no base backup")),
            Some(base) if !reach.leads_from(base.timeline, base.start) => {
                work.push((Work::BaseBackup, "WAL was lost after the newest base backup"));
            }
            Some(base) if reach.crosses(base.timeline, base.start) => {
                let why = "WAL after the newest base backup could not be compared with the server's";
                work.push((Work::BaseBackup, why));
            }
            Some(base) if fires(|t| &t.base_backup, base.stopped) => {
                work.push((Work::BaseBackup, "the tier's schedule"));
            }
            Some(_) => {}
        }
    }
    match facts.configuration {
        None => work.push((Work::Configuration, "the agent has started")),
        Some(last) if fires(|t| &t.configuration, last) => {
            work.push((Work::Configuration, "the tier's schedule"))
        }
        Some(_) => {}
    }
    if facts
        .checkpoint
        .is_some_and(|last| fires(|t| &t.filestore_checkpoint, last))
    {
        work.push((Work::FilestoreCheckpoint, "the tier's schedule"));
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn with(calm: &Facts<'_>, reach: &Reach) -> Vec<(Work, &'static str)> {
        let facts = Facts {
            wal: Some(reach),
            ..*calm
        };
        due(&facts, at("2026-11-21T12:00:00Z"))
    }

    #[test]
    fn decides_alone_only_when_it_must() {
        let tier = &Tier::shipped()[&"platinum".parse().unwrap()];
        let now = at("2026-11-21T12:00:00Z");
        let line = TimelineId::FIRST;
        let from = |unbroken: &[(TimelineId, Lsn)]| Reach {
            unbroken: unbroken.into(),
            surely: true,
            uncompared: None,
        };
        let whole = from(&[(line, Lsn::new(500))]);
        let calm = Facts {
            tier: Some(tier),
            coordinated: true,
            base: Some(NewestBase {
                stopped: at("2026-11-10T00:00:00Z"),
                start: Lsn::new(1000),
                timeline: line,
            }),
            wal: Some(&whole),
            configuration: Some(now),
            checkpoint: Some(now),
        };
        assert_eq!(due(&calm, now), []);
        // Nobody else decides: the base is older than a day.
        let alone = Facts {
            coordinated: false,
            ..calm
        };
        assert_eq!(due(&alone, now), [(Work::BaseBackup, "the tier's schedule")]);
        // The present could not be restored: the coordinator is not waited for.
        let none = Facts { base: None, ..calm };
        assert_eq!(due(&none, now).len(), 1);
        let lost = [(Work::BaseBackup, "WAL was lost after the newest base backup")];
        assert_eq!(with(&calm, &from(&[(line, Lsn::new(1001))])), lost);
        // The cluster went on with another timeline: what counts is how the base's leads there.
        let next = TimelineId::new(2).unwrap();
        assert_eq!(
            with(&calm, &from(&[(next, Lsn::new(2000)), (line, Lsn::new(1000))])),
            []
        );
        assert_eq!(
            with(&calm, &from(&[(next, Lsn::new(2000)), (line, Lsn::new(1001))])),
            lost
        );
        let hole = from(&[(next, Lsn::new(2000))]);
        assert_eq!(with(&calm, &hole), lost);
        let unsure = Reach {
            surely: false,
            ..hole.clone()
        };
        assert_eq!(
            with(&calm, &unsure),
            [],
            "a replica that was not looked at may have it"
        );
        // Nobody knows whether it is the same history.
        let uncompared = |at| Reach {
            uncompared: Some((line, Lsn::new(at))),
            ..whole.clone()
        };
        assert_eq!(with(&calm, &uncompared(1001)).len(), 1);
        assert_eq!(with(&calm, &uncompared(1000)), [], "the base was taken behind it");
        // Without WAL a base has no use.
        let deaf = Facts { wal: None, ..none };
        assert_eq!(due(&deaf, now), []);
        let fresh = Facts {
            configuration: None,
            ..calm
        };
        assert_eq!(due(&fresh, now), [(Work::Configuration, "the agent has started")]);
    }
}
