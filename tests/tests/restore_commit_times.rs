//! Commit times are not monotone: where a moment lies is decided in log order.
//!
//! The WAL objects here hold no WAL: what is looked at are their names and
//! headers, which is all that finding these moments needs.

use anyhow::{Context, Result};
use holdfast_agent::restore::plan_request;
use holdfast_plan::restore::{Impossible, Reason, Request, RestorePlan, Target};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{BackupId, Lineage};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::{BaseBody, ChangeDetection, CommitMark, RestorePointMark, Totals, WalBody};
use holdfast_repository::layout::{self, WalName};
use holdfast_repository::signed::Content;
use holdfast_tests::vault::Vault;

/// Second `n` of the story.
fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_790_000_000_000_000).plus_millis(second * 1000)
}

struct Story {
    vault: Vault,
    lineage: Lineage,
    size: SegmentSize,
    next: Lsn,
}

impl Story {
    /// A base that began at second 0 and was complete at second 1.
    async fn new() -> Result<Self> {
        let vault = Vault::new(2).await?;
        let size = SegmentSize::new(1 << 20)?;
        let lineage = "7381234567890123456-1".parse()?;
        let story = Self {
            vault,
            lineage,
            size,
            next: Lsn::new(3 << 20),
        };
        story.base(1, 3 << 20, (3 << 20) + 64, (0, 1)).await?;
        Ok(story)
    }

    async fn base(&self, id: u128, start: u64, stop: u64, seconds: (i64, i64)) -> Result<BackupId> {
        let id = BackupId::from_parts(at(seconds.0), id);
        let body = BaseBody {
            id,
            cluster: self.vault.cluster.clone(),
            lineage: self.lineage,
            version_num: 150_020,
            segment_size: self.size,
            timeline: TimelineId::FIRST,
            start_lsn: Lsn::new(start),
            stop_lsn: Lsn::new(stop),
            started: at(seconds.0),
            stopped: at(seconds.1),
            detection: ChangeDetection::Full,
            page_checksums: true,
            pages_verified: 0,
            pages_bad: 0,
            tablespaces: Vec::new(),
            totals: Totals::default(),
            parts: Vec::new(),
            complete_on: Vec::new(),
        };
        let publisher = self.vault.publisher(2);
        let key = layout::base(&self.vault.cluster, self.lineage, id);
        let object = publisher.sign(&key, Content::default(), None, None, &body).bytes;
        for replica in self.vault.repository.replicas() {
            replica.create(&key, object.clone()).await?;
        }
        Ok(id)
    }

    /// A WAL object of 1000 bytes in which one transaction ended at each of
    /// these seconds, in this order. Only the first and the last have a place.
    async fn wal(&mut self, seconds: &[i64]) -> Result<Lsn> {
        self.named(seconds, Vec::new()).await
    }

    async fn named(&mut self, seconds: &[i64], restore_points: Vec<RestorePointMark>) -> Result<Lsn> {
        let start = self.next;
        self.next = Lsn::new(start.get() + 1000);
        let mark = |n: usize| CommitMark {
            lsn: Lsn::new(start.get() + 100 * n as u64),
            time: at(seconds[n]),
        };
        let last = seconds.len().checked_sub(1).map(mark);
        let body = WalBody {
            system: self.lineage.system,
            version_num: 150_020,
            timeline: TimelineId::FIRST,
            segment_size: self.size,
            start,
            end: self.next,
            chunks: Vec::new(),
            follows: None,
            last_commit: last,
            first_commit: last.map(|_| mark(0)),
            latest_time: seconds.iter().max().map(|s| at(*s)),
            commits: seconds.len() as u64,
            last_record: Some(Lsn::new(start.get() + 900)),
            restore_points,
            after_gap: None,
        };
        let name = WalName {
            timeline: TimelineId::FIRST,
            segment: self.size.segment_of(start),
            start,
            end: self.next,
            latest_commit: last.map(|m| m.time),
        };
        let key = layout::wal(&self.vault.cluster, self.lineage, &name);
        let object = self
            .vault
            .publisher(2)
            .sign(&key, Content::default(), None, None, &body)
            .bytes;
        for replica in self.vault.repository.replicas() {
            replica.create(&key, object.clone()).await?;
        }
        Ok(start)
    }

    async fn plan(&self, target: Target) -> Result<RestorePlan> {
        self.plan_of(&Request::new(target)).await
    }

    async fn plan_of(&self, request: &Request) -> Result<RestorePlan> {
        let trust = self.vault.trust().await?;
        let cluster = &self.vault.cluster;
        let planned = plan_request(&self.vault.repository, &trust, None, cluster, request, at(10_000)).await;
        Ok(planned?.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_later_time_in_log_order_stops_recovery() -> Result<()> {
    let mut story = Story::new().await?;
    story.wal(&[2, 5]).await?;
    // Its name says 12; its first transaction carries a later time.
    let early = story.wal(&[50, 12]).await?;
    let idle = story.wal(&[]).await?;
    let late = story.wal(&[20]).await?;
    let last = story.wal(&[60]).await?;

    let stop = |plan: &RestorePlan| (plan.replay.target_lsn, plan.replay.inclusive);
    let before = story.plan(Target::Time(at(15))).await?;
    assert_eq!(
        stop(&before),
        (early, false),
        "the name alone would have passed it by"
    );
    assert_eq!(before.replay.last_commit.context("a commit")?.time, at(5));
    // What ended at the very moment is left out where that is asked for.
    let mut exclusive = Request::new(Target::Time(at(60)));
    exclusive.exclusive = true;
    let without = story.plan_of(&exclusive).await?;
    assert_eq!(stop(&without), (last, false));
    exclusive.target = Target::Time(at(50));
    let without = story.plan_of(&exclusive).await?;
    assert_eq!(stop(&without), (early, false));
    let kept = story.plan(Target::Time(at(50))).await?;
    assert_eq!(stop(&kept), (last, false), "50 is kept");
    let after = story.plan(Target::Time(at(55))).await?;
    assert_eq!(
        stop(&after),
        (last, false),
        "a time that goes back does not stop it"
    );
    assert_eq!(after.replay.last_commit.context("a commit")?.lsn, late);
    let exact = story.plan(Target::Time(at(60))).await?;
    assert_eq!(stop(&exact), (Lsn::new(last.get() + 900), true));
    let all = story.plan(Target::Latest).await?;
    assert_eq!(stop(&all), (Lsn::new(last.get() + 900), true));

    let by_lsn = story.plan(Target::Lsn(idle)).await?;
    assert_eq!(stop(&by_lsn), (idle, true));
    assert_eq!(by_lsn.replay.last_commit.context("a commit")?.time, at(12));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_holds_a_later_time_is_passed_over() -> Result<()> {
    let mut story = Story::new().await?;
    story.wal(&[2]).await?;
    // The second base: its agent's clock says 30, the primary's ran ahead.
    let start = story.wal(&[45]).await?;
    let stop = story.wal(&[46]).await?;
    story.base(2, start.get(), stop.get() + 999, (25, 30)).await?;
    story.wal(&[70]).await?;

    let plan = story.plan(Target::Time(at(40))).await?;
    assert_eq!(plan.base.stop_lsn, Lsn::new((3 << 20) + 64), "the older base");
    assert_eq!(plan.replay.target_lsn, start);
    assert!(
        plan.reasons.iter().any(|r| r.contains("before it is consistent")),
        "{plan}"
    );
    assert_eq!(
        story.plan(Target::Time(at(50))).await?.base.stop_lsn,
        Lsn::new(stop.get() + 999)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_given_twice_is_not_guessed() -> Result<()> {
    let mut story = Story::new().await?;
    let mark = |start: u64, second: i64| RestorePointMark {
        name: "release".to_owned(),
        lsn: Lsn::new(start + 200),
        end: Lsn::new(start + 300),
        time: at(second),
    };
    let first = story.next.get();
    story.named(&[3], vec![mark(first, 4)]).await?;
    let once = story.plan(Target::Name("release".into())).await?;
    assert_eq!(once.replay.target_lsn, Lsn::new(first + 200));
    let second = story.next.get();
    story.named(&[8], vec![mark(second, 9)]).await?;
    let error = story.plan(Target::Name("release".into())).await.unwrap_err();
    let Some(holdfast_agent::restore::PlanError::Impossible(Impossible { reason, .. })) =
        error.downcast_ref()
    else {
        panic!("{error:#}")
    };
    assert!(
        matches!(&**reason, Reason::Several { places, .. } if places.len() == 2),
        "{error:#}"
    );
    Ok(())
}
