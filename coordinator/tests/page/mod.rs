//! A cluster's page, over HTTP: what is read is drawn, and a moment is answered.

mod browser;
mod people;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_coordinator::{ClusterLedger, LedgerReading};
use holdfast_plan::restore::{BaseFact, Facts, GapNote, LineageFacts, TimelineFacts, WalSpan};
use holdfast_proto::Sha256Digest;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{BackupId, ClusterId, ObjectKey, RepositoryId};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::{AfterGap, GapCause, Totals};

use crate::house::House;

const POLICY: &str = r#"
[[cluster]]
cluster = "acme/erp"
tier = "platinum"

[[calendar]]
name = "payroll"
begins = "2026-01-01T18:00"
recurrence = "FREQ=DAILY"
duration = "2h"
clusters = ["acme/erp"]
rpo = "2s"
freeze = ["base_backup"]

[[calendar]]
name = "audit"
begins = "2026-01-01T18:00"
recurrence = "FREQ=DAILY"
duration = "2h"
tiers = ["bronze"]
freeze = ["reclaim"]
"#;

const SEGMENT: u64 = 16 << 20;

/// The beginning, and so many minutes later.
fn minute(n: i64) -> Timestamp {
    let begins: Timestamp = "2026-07-28T10:00:00Z".parse().unwrap();
    begins.plus_millis(n * 60_000)
}

/// A segment of WAL is a minute.
fn lsn(minute: u64) -> Lsn {
    Lsn::new(minute * SEGMENT)
}

fn base(n: u64) -> BaseFact {
    let at = minute(i64::try_from(n).unwrap());
    BaseFact {
        id: BackupId::from_parts(at, u128::from(n)),
        link: Link {
            key: ObjectKey::from_layout(format!("base/{n}")),
            sha256: Sha256Digest::of(b"base"),
        },
        timeline: TimelineId::FIRST,
        start_lsn: lsn(n),
        stop_lsn: lsn(n + 1),
        started: at,
        stopped: at.plus_millis(60_000),
        version_num: 150_020,
        segment_size: SegmentSize::new(SEGMENT).unwrap(),
        kind: None,
        pages_bad: 0,
        tablespaces: Vec::new(),
        totals: Totals {
            entries: 10,
            bytes: 3 << 30,
            stored: 1 << 30,
            to_read: 1 << 30,
        },
        present_on: vec!["north".parse().unwrap()],
    }
}

fn span(from: i64, to: i64) -> WalSpan {
    WalSpan {
        start: lsn(from.unsigned_abs()),
        end: lsn(to.unsigned_abs()),
        stored: 1 << 20,
        early_commit: Some(minute(from)),
        last_commit: Some(minute(to)),
    }
}

/// WAL from the first minute on, with a hole from the 30th to the 40th.
fn facts(cluster: ClusterId) -> Facts {
    Facts {
        repository: RepositoryId::from_parts(minute(0), 1),
        cluster,
        replicas: Vec::new(),
        lineages: vec![LineageFacts {
            lineage: "7000000000000000001-1".parse().unwrap(),
            timelines: vec![TimelineFacts {
                timeline: TimelineId::FIRST,
                ancestors: Some(Vec::new()),
                wal: vec![span(0, 30), span(40, 60)],
            }],
            bases: vec![base(5), base(45)],
            points: Vec::new(),
            attested: Vec::new(),
            gap_notes: vec![GapNote {
                timeline: TimelineId::FIRST,
                to: lsn(40),
                said: AfterGap {
                    from: lsn(30),
                    cause: GapCause::SlotInvalidated,
                    noticed: minute(41),
                },
            }],
        }],
        filestores: Vec::new(),
        bundles: Vec::new(),
        located: Vec::new(),
    }
}

/// A reading of [`facts`].
fn reading() -> LedgerReading {
    Arc::new(|_, _, cluster| {
        Box::pin(async move {
            Ok(ClusterLedger {
                facts: facts(cluster),
                holds: Vec::new(),
                findings: Vec::new(),
            })
        })
    })
}

#[tokio::test]
async fn a_moment_is_answered_by_what_the_repository_holds() {
    let house = House::build_with(POLICY, "").await;
    let read = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&read);
    let reading: LedgerReading = Arc::new(move |_, _, cluster| {
        counter.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            Ok(ClusterLedger {
                facts: facts(cluster),
                holds: Vec::new(),
                findings: Vec::new(),
            })
        })
    });
    let running = house.open_reading(reading).await;
    let page = async |query: &str| {
        let (status, body) = running
            .get(&format!("/clusters/acme/erp?window=all{query}"))
            .await;
        assert_eq!(status, 200, "{body}");
        body
    };
    let shown = page("").await;
    for part in [
        "2026-07-28 10:06:00 UTC",
        "2026-07-28 10:30:00 UTC",
        "2026-07-28 11:00:00 UTC",
        "3.0 GiB",
        "invalidated the replication slot",
        "class=\"stretch hole\"",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(shown.matches("class=\"stretch good\"").count(), 2);

    let within = page("&moment=2026-07-28T12:20:00%2B02:00").await;
    assert!(
        within.contains("2026-07-28 10:20:00 UTC can be restored."),
        "{within}"
    );
    assert!(within.contains(&base(5).id.to_string()));
    assert!(within.contains("holdfast restore plan --cluster acme/erp --to-time 2026-07-28T10:20:00"));
    let hole = page("&moment=2026-07-28T10:35:00Z").await;
    assert!(
        hole.contains("2026-07-28 10:35:00 UTC cannot be restored."),
        "{hole}"
    );
    for neighbour in ["2026-07-28 10:30:00 UTC", "2026-07-28 10:46:00 UTC"] {
        assert!(hole.contains(neighbour), "{neighbour}: {hole}");
    }
    // What is no moment is said to be none, and comes back as text.
    let nonsense = page("&moment=%3Cb%3Eyesterday").await;
    assert!(
        nonsense.contains("A moment with its time zone is needed"),
        "{nonsense}"
    );
    assert!(!nonsense.contains("<b>yesterday"), "{nonsense}");
    assert_eq!(
        read.load(Ordering::Relaxed),
        1,
        "one reading is enough for a while"
    );

    let (status, body) = running.get("/v1/clusters/acme/erp/points").await;
    assert_eq!(status, 200, "{body}");
    let points: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(points["intervals"].as_array().unwrap().len(), 2, "{points}");
    assert_eq!(points["bases"].as_array().unwrap().len(), 2);
    assert_eq!(running.get("/clusters/acme/none").await.0, 404);
    running.close().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_said() {
    let house = House::build_with(POLICY, "").await;
    let reading: LedgerReading =
        Arc::new(|_, _, _| Box::pin(async { Err("no replica could be listed".to_owned()) }));
    let running = house.open_reading(reading).await;
    let (status, body) = running.get("/clusters/acme/erp").await;
    assert_eq!(status, 200);
    assert!(body.contains("no replica could be listed"), "{body}");
    assert!(body.contains("Findings"), "the rest is there: {body}");
    assert_eq!(running.get("/v1/clusters/acme/erp/points").await.0, 503);
    running.close().await;
}

#[tokio::test]
async fn a_calendar_says_who_is_ready_and_why_not() {
    let house = House::build_with(POLICY, "").await;
    let running = house.open().await;
    let (status, body) = running.get("/v1/calendar").await;
    assert_eq!(status, 200, "{body}");
    let calendar: serde_json::Value = serde_json::from_str(&body).unwrap();
    let windows = calendar["windows"].as_array().unwrap();
    assert_eq!(
        windows.len(),
        3,
        "three of each calendar that concerns anybody: {body}"
    );
    for window in windows {
        assert_eq!(
            (&window["calendar"], &window["rpo_ms"]),
            (&"payroll".into(), &2_000.into())
        );
        assert_eq!(window["clusters"][0]["ready"], false);
    }
    let (status, page) = running.get("/calendar").await;
    assert_eq!(status, 200);
    for part in [
        "not ready: 1 of 1",
        "there is no base backup",
        "no restore of it was ever proven",
        "at most 2.0 s may be lost",
        "frozen: base backup",
        "/clusters/acme/erp",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    running.close().await;
}
