//! The trust chain as it is read from replicas.

use holdfast_proto::record::{JournalBody, TrustAct, TrustRole};
use holdfast_repository::layout;
use holdfast_repository::signed::{ReadError, SignedError};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{self, LoadError, SignerRefused, Trust, enrolment};

use crate::scene::{NOW, Scene, everywhere, flip};

fn runner(key: &SigningKey) -> TrustAct {
    enrolment(
        key.verifying(),
        &"runner-1".parse().unwrap(),
        TrustRole::Runner,
        &[],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_read_from_the_other_replica_and_never_skipped() {
    let mut scene = Scene::new(&["a", "b"], 2).await;
    scene
        .act(vec![runner(&SigningKey::generate_p256().unwrap())])
        .await;
    flip(&scene.path("a", &layout::trust(1)), 100);
    let trust = scene.load_trust().await;
    assert_eq!(trust.length(), 3);
    assert!(trust.findings().iter().any(|f| f.name == "object-damaged"));

    flip(&scene.path("b", &layout::trust(1)), 100);
    let error = Trust::load(&scene.repository, &scene.root.fingerprint())
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Chain(_)), "{error}");
    for replica in ["a", "b"] {
        std::fs::remove_file(scene.path(replica, &layout::trust(1))).unwrap();
    }
    let error = Trust::load(&scene.repository, &scene.root.fingerprint())
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Hole { n: 1 }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_is_untrusted() {
    let scene = Scene::new(&["a"], 1).await;
    let other = SigningKey::generate_ed25519().unwrap();
    let error = Trust::load(&scene.repository, &other.fingerprint())
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("UNTRUSTED"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_record_counts_whichever_replica_has_it() {
    let mut scene = Scene::new(&["a", "b"], 2).await;
    scene
        .act(vec![runner(&SigningKey::generate_ed25519().unwrap())])
        .await;
    std::fs::remove_file(scene.path("a", &layout::trust(2))).unwrap();
    assert_eq!(scene.load_trust().await.length(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_forks_is_not_believed() {
    let mut scene = Scene::new(&["a", "b"], 2).await;
    let before = scene.trust.clone();
    scene
        .act(vec![runner(&SigningKey::generate_ed25519().unwrap())])
        .await;
    let acts = vec![runner(&SigningKey::generate_ed25519().unwrap())];
    let (key, other) = trust::append(&before, acts, &scene.root, NOW).unwrap();
    std::fs::write(scene.path("b", &key), other).unwrap();
    let error = Trust::load(&scene.repository, &scene.root.fingerprint())
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::Forked { n: 2, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_revocation_only_the_chain_from_what_is_believed_counts() {
    let mut scene = Scene::new(&["a", "b"], 2).await;
    let first = scene.capture(1, &[("x", vec![1])], None).await.unwrap();
    let second = scene.capture(2, &[("y", vec![2])], Some(&first)).await.unwrap();
    let third = scene.capture(3, &[("z", vec![3])], Some(&second)).await.unwrap();
    scene
        .act(vec![TrustAct::Revoke {
            key: scene.publisher.signer.fingerprint(),
            believed: vec![second.link.clone()],
            reason: "the machine was stolen".to_owned(),
        }])
        .await;
    for believed in [&first, &second] {
        scene
            .repository
            .read_signed::<JournalBody>(&believed.link.key, &scene.trust)
            .await
            .unwrap();
        scene
            .repository
            .read_header::<JournalBody>(&believed.link.key, &scene.trust)
            .await
            .unwrap();
    }
    let error = scene
        .repository
        .read_signed::<JournalBody>(&third.link.key, &scene.trust)
        .await
        .unwrap_err();
    let ReadError::Refused(SignedError::Signer {
        source: SignerRefused::Revoked { reason, .. },
        ..
    }) = &error
    else {
        panic!("{error}");
    };
    assert_eq!(reason, "the machine was stolen");

    // What the thief puts in the place of a believed object is not it.
    let forged = scene.publisher.sign(
        &first.link.key,
        Vec::new(),
        None,
        None,
        &journal(&scene, &second).await,
    );
    for replica in ["a", "b"] {
        std::fs::write(scene.path(replica, &first.link.key), &forged.bytes).unwrap();
    }
    assert!(
        scene
            .repository
            .read_signed::<JournalBody>(&first.link.key, &scene.trust)
            .await
            .is_err()
    );
}

async fn journal(scene: &Scene, of: &holdfast_repository::publication::Committed) -> JournalBody {
    scene
        .repository
        .read_signed::<JournalBody>(&of.link.key, &scene.trust)
        .await
        .unwrap()
        .0
        .header
        .body
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_link_ends_belief_and_is_named() {
    let mut scene = Scene::new(&["a"], 1).await;
    let first = scene.capture(1, &[("x", vec![1])], None).await.unwrap();
    let second = scene.capture(2, &[("y", vec![2])], Some(&first)).await.unwrap();
    std::fs::remove_file(scene.path("a", &second.link.key)).unwrap();
    scene
        .act(vec![TrustAct::Revoke {
            key: scene.publisher.signer.fingerprint(),
            believed: vec![second.link.clone()],
            reason: "left".to_owned(),
        }])
        .await;
    assert!(
        scene
            .trust
            .findings()
            .iter()
            .any(|f| f.name == "believed-object-unreadable")
    );
    assert!(
        scene
            .repository
            .read_signed::<JournalBody>(&first.link.key, &scene.trust)
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_record_does_not_end_the_chain_quietly() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let stranger = SigningKey::generate_ed25519().unwrap();
    let (_, junk) = trust::genesis(&stranger, &"root".parse().unwrap(), scene.repository.id(), NOW).unwrap();
    everywhere(&scene.repository, &layout::trust(2), junk.into()).await;
    assert!(
        Trust::load(&scene.repository, &scene.root.fingerprint())
            .await
            .is_err()
    );
}
