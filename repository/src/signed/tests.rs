use super::*;
use crate::trust::{self, enrolment};
use holdfast_proto::Timestamp;
use holdfast_proto::record::{FrontierBody, HistoryBody, LeaseBody};

const NOW: Timestamp = Timestamp::from_unix_micros(1_790_000_000_000_000);

struct Scene {
    trust: Trust,
    agent: SigningKey,
    cluster: ClusterId,
}

fn repository(n: u128) -> RepositoryId {
    RepositoryId::from_parts(NOW, n)
}

fn scene() -> Scene {
    let root = SigningKey::generate_ed25519().unwrap();
    let agent = SigningKey::generate_ed25519().unwrap();
    let cluster: ClusterId = "acme/erp".parse().unwrap();
    let mut trust = Trust::empty(repository(1), root.fingerprint());
    let (_, first) = trust::genesis(&root, &"root".parse().unwrap(), repository(1), NOW).unwrap();
    trust.extend(&trust.verify_next(&first.into()).unwrap()).unwrap();
    let act = enrolment(
        agent.verifying(),
        &"agent".parse().unwrap(),
        TrustRole::Agent,
        std::slice::from_ref(&cluster),
    );
    let (_, second) = trust::append(&trust, vec![act], &root, NOW).unwrap();
    trust.extend(&trust.verify_next(&second.into()).unwrap()).unwrap();
    Scene {
        trust,
        agent,
        cluster,
    }
}

impl Scene {
    fn history(&self, timeline: u32, in_repository: RepositoryId, signer: &SigningKey) -> (ObjectKey, Bytes) {
        let lineage = "7381234567890123456-1".parse().unwrap();
        let timeline = holdfast_proto::pg::TimelineId::new(timeline).unwrap();
        let body = HistoryBody {
            system: holdfast_proto::names::SystemId::new(7381234567890123456),
            timeline,
        };
        let key = layout::history(&self.cluster, lineage, timeline);
        let draft = Draft {
            repository: in_repository,
            key: key.clone(),
            payload: b"1\t0/3000000\tno recovery target specified\n".to_vec().into(),
            sealed_to: None,
            lease: Some(3),
            previous: None,
            body: &body,
        };
        (key, draft.sign(signer).bytes)
    }

    fn verify(&self, key: &ObjectKey, bytes: &Bytes) -> Result<Signed<HistoryBody>, SignedError> {
        verify(bytes, key, &self.trust)
    }
}

#[test]
fn what_was_signed_is_believed() {
    let scene = scene();
    let (key, bytes) = scene.history(2, repository(1), &scene.agent);
    let signed = scene.verify(&key, &bytes).unwrap();
    assert_eq!(signed.header.lease, Some(3));
    assert!(signed.payload.starts_with(b"1\t0/3000000"));
    assert_eq!(signed.link().sha256, Sha256Digest::of(&bytes));

    let end = &bytes[signed.payload.len() - 7..];
    let header = verify_header::<HistoryBody>(end, bytes.len() as u64, &key, &scene.trust).unwrap();
    assert_eq!(header.header, signed.header);
    assert!(verify_header::<HistoryBody>(end, bytes.len() as u64 + 1, &key, &scene.trust).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let scene = scene();
    let (key, bytes) = scene.history(2, repository(1), &scene.agent);
    for at in 0..bytes.len() {
        for bit in [0x01u8, 0x20, 0x80] {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= bit;
            assert!(
                scene.verify(&key, &flipped.into()).is_err(),
                "byte {at} bit {bit:#x}"
            );
        }
    }
}

#[test]
fn every_truncation_and_extension_is_noticed() {
    let scene = scene();
    let (key, bytes) = scene.history(2, repository(1), &scene.agent);
    for cut in 0..bytes.len() {
        assert!(scene.verify(&key, &bytes.slice(..cut)).is_err());
        if cut > 0 {
            assert!(
                scene.verify(&key, &bytes.slice(cut..)).is_err(),
                "without its first {cut} bytes"
            );
        }
    }
    assert!(scene.verify(&key, &[&bytes[..], b"x"].concat().into()).is_err());
    assert!(scene.verify(&key, &[b"x", &bytes[..]].concat().into()).is_err());
}

#[test]
fn misplaced_objects_are_refused_by_name() {
    let scene = scene();
    let (key2, _) = scene.history(2, repository(1), &scene.agent);
    let (key3, three) = scene.history(3, repository(1), &scene.agent);
    let refused = scene.verify(&key2, &three).unwrap_err();
    assert!(matches!(refused, SignedError::OtherName { .. }));
    assert!(refused.to_string().contains(key3.as_str()), "{refused}");
    assert!(refused.is_damage());

    let (key, foreign) = scene.history(2, repository(2), &scene.agent);
    assert!(matches!(
        scene.verify(&key, &foreign).unwrap_err(),
        SignedError::OtherRepository { .. }
    ));

    let wrong_kind = verify::<LeaseBody>(&three, &key3, &scene.trust).unwrap_err();
    assert!(matches!(
        wrong_kind,
        SignedError::Envelope {
            source: BadEnvelope::Kind { .. },
            ..
        }
    ));
    let unsigned_place = layout::pack(&scene.cluster, &Sha256Digest::of(b""));
    assert!(matches!(
        verify::<FrontierBody>(&three, &unsigned_place, &scene.trust),
        Err(SignedError::NotSigned(_))
    ));
}

#[test]
fn strangers_and_borrowed_signatures_are_refused() {
    let scene = scene();
    let stranger = SigningKey::generate_ed25519().unwrap();
    let (key, bytes) = scene.history(2, repository(1), &stranger);
    let refused = scene.verify(&key, &bytes).unwrap_err();
    assert!(
        matches!(
            &refused,
            SignedError::Signer {
                source: SignerRefused::Unknown(_),
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        !refused.is_damage(),
        "an unknown signer is not damage that another copy would mend"
    );

    let (_, genuine) = scene.history(2, repository(1), &scene.agent);
    let (genuine, forged) = (
        envelope::split(&genuine).unwrap(),
        envelope::split(&bytes).unwrap(),
    );
    let mut claimed = forged.signatures().unwrap();
    claimed[0].key = scene.agent.fingerprint();
    let object = envelope::assemble(forged.payload, forged.header, &claimed);
    assert!(matches!(
        scene.verify(&key, &object.into()),
        Err(SignedError::Signature { .. })
    ));
    let none = envelope::assemble(genuine.payload, genuine.header, &[]);
    assert!(matches!(
        scene.verify(&key, &none.into()),
        Err(SignedError::Count { count: 0, .. })
    ));
    let mut both = genuine.signatures().unwrap();
    both.extend(forged.signatures().unwrap());
    let object = envelope::assemble(genuine.payload, genuine.header, &both);
    assert!(
        scene.verify(&key, &object.into()).is_err(),
        "one good signature does not cover for a stranger's"
    );
    let other_payload = envelope::assemble(
        b"1\t0/4000000\tno recovery target specified\n",
        genuine.header,
        &genuine.signatures().unwrap(),
    );
    assert!(matches!(
        scene.verify(&key, &other_payload.into()),
        Err(SignedError::Payload { .. })
    ));
}
