use super::*;
use crate::signed::{self, Signed};
use holdfast_proto::envelope::Record;
use holdfast_proto::record::LeaseBody;

const NOW: Timestamp = Timestamp::from_unix_micros(1_790_000_000_000_000);

fn repository() -> RepositoryId {
    RepositoryId::from_parts(NOW, 1)
}

fn cluster(text: &str) -> ClusterId {
    text.parse().unwrap()
}

fn name(text: &str) -> ActorName {
    text.parse().unwrap()
}

/// Verifies and takes in what was appended.
fn take(trust: &mut Trust, appended: Result<(ObjectKey, Vec<u8>), TrustError>) -> Result<(), TrustError> {
    let next = trust.verify_next(&appended?.1.into())?;
    trust.extend(&next)
}

fn begun() -> (Trust, SigningKey) {
    let root = SigningKey::generate_ed25519().unwrap();
    let mut trust = Trust::empty(repository(), root.fingerprint());
    take(&mut trust, genesis(&root, &name("root"), repository(), NOW)).unwrap();
    (trust, root)
}

fn lease(n: u64, previous: Option<Link>, signer: &SigningKey) -> (ObjectKey, Bytes) {
    let key = layout::lease(&cluster("acme/erp"), n);
    let body = LeaseBody {
        n,
        holder: name("agent-1"),
        nonce: "x".to_owned(),
        taken: NOW,
    };
    let draft = Draft {
        repository: repository(),
        key: key.clone(),
        payload: Content::default(),
        sealed_to: None,
        lease: None,
        previous,
        body: &body,
    };
    (key, draft.sign(signer).bytes)
}

fn refusal<B: Record + std::fmt::Debug>(result: Result<Signed<B>, SignedError>) -> SignerRefused {
    match result.unwrap_err() {
        SignedError::Signer { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn enrolled_keys_are_believed_in_role_and_scope_only() {
    let (mut trust, root) = begun();
    let agent = SigningKey::generate_p256().unwrap();
    let at = |trust: &Trust| {
        let (key, bytes) = lease(1, None, &agent);
        signed::verify::<LeaseBody>(&bytes, &key, trust)
    };
    assert!(matches!(refusal(at(&trust)), SignerRefused::Unknown(_)));

    let act = enrolment(
        agent.verifying(),
        &name("agent-1"),
        TrustRole::Agent,
        &[cluster("acme/crm")],
    );
    let appended = append(&trust, vec![act], &root, NOW);
    take(&mut trust, appended).unwrap();
    assert!(matches!(refusal(at(&trust)), SignerRefused::Scope { .. }));

    let act = enrolment(
        agent.verifying(),
        &name("agent-1"),
        TrustRole::Agent,
        &[cluster("acme/erp")],
    );
    let appended = append(&trust, vec![act], &root, NOW);
    take(&mut trust, appended).unwrap();
    assert_eq!(at(&trust).unwrap().signer, agent.fingerprint());
    assert_eq!(trust.key(&agent.fingerprint()).unwrap().clusters.len(), 2);

    let wrong = trust
        .check(&agent.fingerprint(), &[TrustRole::Approver], None)
        .unwrap_err();
    assert!(matches!(wrong, SignerRefused::Role { .. }));
    let scoped = trust
        .check(&agent.fingerprint(), &[TrustRole::Agent], None)
        .unwrap_err();
    assert!(
        matches!(scoped, SignerRefused::Scope { .. }),
        "a scoped key may not sign for the whole repository"
    );
}

#[test]
fn a_revoked_key_counts_only_for_what_is_still_believed() {
    let (mut trust, root) = begun();
    let agent = SigningKey::generate_ed25519().unwrap();
    let act = enrolment(agent.verifying(), &name("agent-1"), TrustRole::Agent, &[]);
    let appended = append(&trust, vec![act.clone()], &root, NOW);
    take(&mut trust, appended).unwrap();

    let (key1, one) = lease(1, None, &agent);
    let link1 = Link {
        key: key1.clone(),
        sha256: Sha256Digest::of(&one),
    };
    let (key2, two) = lease(2, Some(link1.clone()), &agent);
    let revoke = TrustAct::Revoke {
        key: agent.fingerprint(),
        believed: vec![link1],
        reason: "stolen".to_owned(),
    };
    let appended = append(&trust, vec![revoke.clone()], &root, NOW);
    take(&mut trust, appended).unwrap();

    signed::verify::<LeaseBody>(&one, &key1, &trust).unwrap();
    assert!(matches!(
        refusal(signed::verify::<LeaseBody>(&two, &key2, &trust)),
        SignerRefused::Revoked { .. }
    ));
    assert!(
        trust
            .check(&agent.fingerprint(), &[TrustRole::Agent], None)
            .is_err()
    );
    let error = append(&trust, vec![act], &root, NOW).unwrap_err().to_string();
    assert!(error.contains("make a new key"), "{error}");
    assert!(append(&trust, vec![revoke], &root, NOW).is_err(), "revoked twice");
}

#[test]
fn only_the_given_root_begins_a_chain() {
    let (trust, _) = begun();
    let stranger = SigningKey::generate_ed25519().unwrap();
    let (_, theirs) = genesis(&stranger, &name("root"), repository(), NOW).unwrap();
    let error = Trust::empty(repository(), *trust.root())
        .verify_next(&theirs.into())
        .unwrap_err();
    assert!(error.to_string().starts_with("UNTRUSTED"), "{error}");
}

#[test]
fn records_follow_each_other_exactly() {
    let (trust, root) = begun();
    let someone = SigningKey::generate_ed25519().unwrap();
    let enrol = |trust: &Trust, who: &str, by: &SigningKey| {
        append(
            trust,
            vec![enrolment(someone.verifying(), &name(who), TrustRole::Runner, &[])],
            by,
            NOW,
        )
    };
    assert!(
        enrol(&trust, "eve", &someone).is_err(),
        "only a root signs records"
    );

    let mut left = trust.clone();
    take(&mut left, enrol(&trust, "runner", &root)).unwrap();
    let (_, after_left) = append(
        &left,
        vec![TrustAct::Revoke {
            key: someone.fingerprint(),
            believed: vec![],
            reason: "left".to_owned(),
        }],
        &root,
        NOW,
    )
    .unwrap();
    assert!(
        trust.verify_next(&Bytes::from(after_left.clone())).is_err(),
        "a record was dropped"
    );
    let mut right = trust.clone();
    take(&mut right, enrol(&trust, "other", &root)).unwrap();
    assert!(
        right.verify_next(&Bytes::from(after_left)).is_err(),
        "it follows another record"
    );
}

#[test]
fn the_last_root_cannot_be_revoked_but_roots_can_change() {
    let (mut trust, root) = begun();
    let next = SigningKey::generate_ed25519().unwrap();
    let revoke = TrustAct::Revoke {
        key: root.fingerprint(),
        believed: vec![],
        reason: "rotation".to_owned(),
    };
    assert!(append(&trust, vec![revoke.clone()], &root, NOW).is_err());
    let acts = vec![
        enrolment(next.verifying(), &name("root-2"), TrustRole::Root, &[]),
        revoke,
    ];
    let appended = append(&trust, acts, &root, NOW);
    take(&mut trust, appended).unwrap();
    assert!(append(&trust, vec![], &root, NOW).is_err());
    let appended = append(&trust, vec![], &next, NOW);
    take(&mut trust, appended).unwrap();
    assert_eq!(trust.length(), 3);
}
