use proptest::prelude::*;

use super::*;

fn any_cluster() -> impl Strategy<Value = ClusterId> {
    ("[a-z0-9][a-z0-9_-]{0,20}", "[a-z0-9][a-z0-9_-]{0,20}")
        .prop_map(|(t, c)| format!("{t}/{c}").parse().unwrap())
}

fn any_lineage() -> impl Strategy<Value = Lineage> {
    (any::<u64>(), 1u32..).prop_map(|(system, generation)| format!("{system}-{generation}").parse().unwrap())
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (0i64..4_102_444_800_000_000).prop_map(Timestamp::from_unix_micros)
}

fn any_number() -> impl Strategy<Value = u64> {
    0..=MAX_NUMBER
}

fn any_name() -> impl Strategy<Value = WalName> {
    (
        1u32..,
        any::<u64>(),
        0..u64::MAX,
        1u64..1 << 30,
        proptest::option::of(any_time()),
    )
        .prop_map(|(timeline, segment, start, length, latest_commit)| WalName {
            timeline: TimelineId::new(timeline).unwrap(),
            segment: SegmentNumber::new(segment),
            start: Lsn::new(start),
            end: Lsn::new(start.saturating_add(length)),
            latest_commit,
        })
}

fn any_kind() -> impl Strategy<Value = KeyKind> {
    prop_oneof![Just(KeyKind::Data), Just(KeyKind::Secrets), Just(KeyKind::Index)]
}

fn repository_wide() -> impl Strategy<Value = Located> {
    prop_oneof![
        Just(Located::Repository),
        any_number().prop_map(|n| Located::Authority { n }),
        any_number().prop_map(|n| Located::Trust { n }),
        "[a-z0-9][a-z0-9_-]{0,62}".prop_map(|w| Located::Probe {
            writer: w.parse().unwrap()
        }),
        any_number().prop_map(|n| Located::CoordinatorLease { n }),
        any::<[u8; 32]>().prop_map(|d| Located::Invitation {
            token: Sha256Digest::new(d)
        }),
        any::<[u8; 32]>().prop_map(|d| Located::Redemption {
            token: Sha256Digest::new(d)
        }),
        (any_time(), any::<u128>()).prop_map(|(t, r)| Located::Request {
            id: RequestId::from_parts(t, r)
        }),
        (any_time(), any::<u128>()).prop_map(|(t, r)| Located::Hold {
            id: HoldId::from_parts(t, r)
        }),
        (any_time(), any::<u128>(), any::<[u8; 32]>()).prop_map(|(t, r, f)| Located::Release {
            hold: HoldId::from_parts(t, r),
            by: Fingerprint::new(f)
        }),
        (any_time(), any::<u128>(), any::<[u8; 32]>()).prop_map(|(t, r, f)| Located::Approval {
            request: RequestId::from_parts(t, r),
            by: Fingerprint::new(f)
        }),
        any_number().prop_map(|n| Located::EvidenceEntry { n }),
        any_number().prop_map(|size| Located::EvidenceCheckpoint { size }),
        any::<[u8; 32]>().prop_map(|d| Located::EvidenceStatement {
            sha256: Sha256Digest::new(d)
        }),
        (any::<[u8; 32]>(), 0..TrustRole::ALL.len()).prop_map(|(d, r)| Located::EvidenceSignature {
            leaf: Sha256Digest::new(d),
            role: TrustRole::ALL[r]
        }),
        (any_number(), any::<[u8; 32]>()).prop_map(|(size, f)| Located::EvidenceCosignature {
            size,
            witness: Fingerprint::of_spki(&f)
        }),
        any::<[u8; 32]>().prop_map(|d| Located::EvidenceByproduct {
            sha256: Sha256Digest::new(d)
        }),
        (any_time(), any::<u128>()).prop_map(|(t, r)| Located::EvidencePending {
            drill: DrillId::from_parts(t, r)
        }),
    ]
}

fn of_a_cluster() -> impl Strategy<Value = Located> {
    (
        any_cluster(),
        any_lineage(),
        any_time(),
        any::<u128>(),
        any::<[u8; 32]>(),
        any_number(),
        any_name(),
        (any_kind(), 0u32..=9999, "[a-z0-9][a-z0-9_-]{0,62}"),
        0..13usize,
    )
        .prop_map(
            |(cluster, lineage, time, random, digest, n, name, (kind, generation, text), which)| match which {
                0 => Located::Key {
                    cluster,
                    kind,
                    epoch: Epoch::of(time),
                    fingerprint: Fingerprint::new(digest),
                    generation,
                },
                1 => Located::Lease { cluster, n },
                2 => Located::Inflight {
                    cluster,
                    id: WorkId::from_parts(time, random),
                },
                3 => Located::Journal {
                    cluster,
                    filestore: text.parse().unwrap(),
                    n,
                },
                4 => Located::Pack {
                    cluster,
                    sha256: Sha256Digest::new(digest),
                },
                5 => Located::Index {
                    cluster,
                    sha256: Sha256Digest::new(digest),
                },
                6 => Located::Bundle {
                    cluster,
                    kind: BundleKind::Config,
                    id: BundleId::from_parts(time, random),
                },
                7 => Located::Bundle {
                    cluster,
                    kind: BundleKind::Secrets,
                    id: BundleId::from_parts(time, random),
                },
                8 => Located::Wal {
                    cluster,
                    lineage,
                    name,
                },
                9 => Located::History {
                    cluster,
                    lineage,
                    timeline: name.timeline,
                },
                10 => Located::Frontier {
                    cluster,
                    lineage,
                    at: time,
                },
                11 => Located::Base {
                    cluster,
                    lineage,
                    id: BackupId::from_parts(time, random),
                },
                _ => Located::Point {
                    cluster,
                    lineage,
                    id: PointId::from_parts(time, random),
                },
            },
        )
}

proptest! {
    #[test]
    fn keys_round_trip(located in prop_oneof![repository_wide(), of_a_cluster()]) {
        let key = located.key();
        prop_assert_eq!(parse(key.as_str()), Some(located.clone()));
        // A key is a path that every store takes as it is.
        let path = object_store::path::Path::from(key.as_str());
        prop_assert_eq!(path.as_ref(), key.as_str());
        if let Some(c) = located.cluster() {
            prop_assert!(key.as_str().starts_with(&cluster(c)));
        }
    }

    #[test]
    fn nothing_else_parses(key in "[a-z0-9/.-]{0,80}") {
        if let Some(located) = parse(&key) {
            let written = located.key();
            prop_assert_eq!(written.as_str(), key.as_str());
        }
    }
}

fn c() -> ClusterId {
    "acme/erp".parse().unwrap()
}

#[test]
fn keys_are_as_specified() {
    let l: Lineage = "7381234567890123456-1".parse().unwrap();
    let digest = Sha256Digest::of(b"abc");
    let at: Timestamp = "2026-11-21T14:32:07.25Z".parse().unwrap();
    let name = WalName {
        timeline: TimelineId::FIRST,
        segment: SegmentNumber::new(3),
        start: Lsn::new(0x0300_0000),
        end: Lsn::new(0x0300_2000),
        latest_commit: Some(at),
    };
    let unnamed = WalName {
        latest_commit: None,
        ..name
    };
    for (key, text) in [
        (repository_document(), "repository.json".to_owned()),
        (authority(0), "authority/0000000000000000".to_owned()),
        (trust(12), "trust/0000000000000012".to_owned()),
        (
            key_object(
                &c(),
                KeyKind::Data,
                Epoch::of(at),
                &Fingerprint::new([0xab; 32]),
                1,
            ),
            format!(
                "tenants/acme/clusters/erp/keys/data/2026-11/{}/0001",
                "ab".repeat(32)
            ),
        ),
        (
            journal(&c(), &"files".parse().unwrap(), 7),
            "tenants/acme/clusters/erp/filestores/files/0000000000000007".to_owned(),
        ),
        (
            pack(&c(), &digest),
            format!("tenants/acme/clusters/erp/packs/ba/{digest}"),
        ),
        (
            wal(&c(), l, &name),
            "tenants/acme/clusters/erp/lineages/7381234567890123456-1/wal/00000001/0000000000000003/\
             0000000003000000-0000000003002000-20261121T143207250000Z"
                .to_owned(),
        ),
        (
            wal(&c(), l, &unnamed),
            "tenants/acme/clusters/erp/lineages/7381234567890123456-1/wal/00000001/0000000000000003/\
             0000000003000000-0000000003002000-none"
                .to_owned(),
        ),
        (
            history(&c(), l, TimelineId::new(10).unwrap()),
            "tenants/acme/clusters/erp/lineages/7381234567890123456-1/wal/0000000A.history".to_owned(),
        ),
        (
            evidence_signature(&digest, TrustRole::Runner),
            format!("evidence/signatures/{digest}/runner"),
        ),
    ] {
        assert_eq!(key.as_str(), text);
    }
}

#[test]
fn other_spellings_are_not_keys() {
    let digest = Sha256Digest::of(b"abc");
    for bad in [
        String::new(),
        "repository.json/".into(),
        "trust/1".into(),
        "trust/+000000000000001".into(),
        "trust/00000000000000001".into(),
        "/trust/0000000000000001".into(),
        // A pack in another digest's directory would have two names.
        format!("tenants/acme/clusters/erp/packs/bb/{digest}"),
        format!("tenants/acme/clusters/erp/packs/ba/{}", digest.to_string().to_uppercase()),
        "tenants/acme/clusters/../packs".into(),
        "tenants/acme/clusters/erp/lineages/007-1/base/01K9ZZZZZZ0000000000000000".into(),
        // An empty run of WAL.
        "tenants/acme/clusters/erp/lineages/7-1/wal/00000001/0000000000000003/0000000003000000-0000000003000000-none"
            .into(),
    ] {
        assert_eq!(parse(&bad), None, "{bad}");
    }
}
