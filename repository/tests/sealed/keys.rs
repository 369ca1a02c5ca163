//! Epoch keys: who opens what, and what a writer does when it starts again.

use holdfast_proto::names::{Epoch, KeyKind, RecipientRole};
use holdfast_proto::record::SealedTo;
use holdfast_repository::keyring::{KeyError, Keyring, ensure_epoch_key, ensure_index_key, recipients_for};
use holdfast_repository::publication::Publication;
use holdfast_repository::seal::{Identities, Identity};

use crate::scene::{NOW, Scene, cluster, flip, region};

async fn keyring(scene: &Scene, identity: &Identity) -> Keyring {
    Keyring::load(
        &scene.repository,
        &scene.trust,
        &cluster(),
        &Identities::from(identity.clone()),
    )
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_unwrap_and_others_do_not() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let key = scene.epoch_key().await;
    assert_eq!(key.on, [region("a"), region("b")]);
    let sealed = key.key.seal(b"content").unwrap();
    for identity in [&scene.recovery, &scene.drill] {
        let keyring = keyring(&scene, identity).await;
        let opened = keyring.identity_for(&key.key.fingerprint).unwrap();
        assert_eq!(
            holdfast_repository::seal::open([opened], &sealed, 100).unwrap(),
            b"content"
        );
    }
    let stranger = keyring(&scene, &Identity::generate()).await;
    assert!(stranger.is_empty());
    let (fingerprint, closed) = stranger.closed().next().unwrap();
    assert_eq!(*fingerprint, key.key.fingerprint);
    assert!(closed.why.contains("recovery"), "{}", closed.why);
    assert!(
        stranger.findings().is_empty(),
        "a key sealed to others is no fault"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_open_for_recovery_but_not_for_drills() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let epoch = Epoch::of(NOW);
    let refused = ensure_epoch_key(&scene.publisher, KeyKind::Secrets, epoch, &scene.recipients)
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyError::Recipients { .. }));
    let recipients = recipients_for(KeyKind::Secrets, &scene.recipients);
    let key = ensure_epoch_key(&scene.publisher, KeyKind::Secrets, epoch, &recipients)
        .await
        .unwrap();
    assert!(
        keyring(&scene, &scene.recovery)
            .await
            .identity_for(&key.key.fingerprint)
            .is_some()
    );
    assert!(
        keyring(&scene, &scene.drill)
            .await
            .identity_for(&key.key.fingerprint)
            .is_none()
    );

    let drill_only = [SealedTo {
        role: RecipientRole::Drill,
        recipient: scene.drill.recipient().to_string(),
    }];
    let refused = ensure_epoch_key(&scene.publisher, KeyKind::Data, epoch, &drill_only)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, KeyError::Recipients { .. }),
        "a drill's machine alone must not hold the only key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_takes_its_own_key_again_and_nobody_elses() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let first = scene.epoch_key().await;
    assert_eq!(scene.epoch_key().await.key, first.key);

    // Other recipients, or another month: another key.
    let escrow = Identity::generate();
    let recipients = [SealedTo {
        role: RecipientRole::Escrow,
        recipient: escrow.recipient().to_string(),
    }];
    let other = ensure_epoch_key(&scene.publisher, KeyKind::Data, Epoch::of(NOW), &recipients)
        .await
        .unwrap();
    assert_ne!(other.key, first.key);
    let later = Epoch::of(NOW.plus_millis(40 * 24 * 3600 * 1000));
    let next = ensure_epoch_key(&scene.publisher, KeyKind::Data, later, &scene.recipients)
        .await
        .unwrap();
    assert_ne!(next.key, first.key);

    // A stranger's key object, sealed to the stranger, is not taken.
    let mut stranger = scene.publisher.clone();
    stranger.signer = holdfast_repository::signing::SigningKey::generate_ed25519()
        .unwrap()
        .into();
    let theirs = ensure_epoch_key(&stranger, KeyKind::Data, Epoch::of(NOW), &scene.recipients)
        .await
        .unwrap();
    assert_ne!(theirs.key, first.key);
    assert_eq!(scene.epoch_key().await.key, first.key);
    let keyring = keyring(&scene, &scene.recovery).await;
    assert!(keyring.identity_for(&theirs.key.fingerprint).is_none());
    assert!(keyring.findings().iter().any(|f| f.name == "key-object-refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_waits_on_each_replica_for_the_key_object() {
    let scene = Scene::new(&["a", "b"], 2).await;
    scene.cut("a");
    scene.cut("b");
    let refused = ensure_epoch_key(&scene.publisher, KeyKind::Data, Epoch::of(NOW), &scene.recipients).await;
    assert!(matches!(
        refused.unwrap_err(),
        KeyError::List(_) | KeyError::Nowhere { .. }
    ));
    scene.mend("a");
    // An agent that starts while a replica is away goes on with a key that one has.
    let here = ensure_epoch_key(&scene.publisher, KeyKind::Data, Epoch::of(NOW), &scene.recipients)
        .await
        .unwrap();
    assert_eq!(here.on, ["a".parse().unwrap()]);
    assert!(
        here.findings
            .iter()
            .any(|f| f.name == "replica-behind" && f.subject == "b")
    );
    let publication = Publication::begin(&scene.publisher, std::slice::from_ref(&here.object)).await;
    assert!(
        publication.is_err(),
        "two copies are asked for, and one can be made"
    );
    scene.mend("b");
    let key = scene.epoch_key().await;
    assert_eq!(key.key, here.key);

    // A replica that lost the key object gets it back before anything sealed to it.
    std::fs::remove_file(scene.path("b", &key.object.key)).unwrap();
    let publication = Publication::begin(&scene.publisher, std::slice::from_ref(&key.object))
        .await
        .unwrap();
    assert!(publication.behind().is_empty());
    assert!(scene.has("b", &key.object.key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_object_is_read_from_the_other_replica() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let key = scene.epoch_key().await;
    flip(&scene.path("a", &key.object.key), 40);
    let whole = keyring(&scene, &scene.recovery).await;
    assert!(whole.identity_for(&key.key.fingerprint).is_some());
    assert!(whole.findings().iter().any(|f| f.name == "object-damaged"));
    flip(&scene.path("b", &key.object.key), 40);
    let none = keyring(&scene, &scene.recovery).await;
    assert!(none.identity_for(&key.key.fingerprint).is_none());
    assert!(none.findings().iter().any(|f| f.name == "key-object-refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_key_lives_in_the_state_directory_and_in_the_repository() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let path = scene.dir.path().join("index.key");
    let first = ensure_index_key(&scene.publisher, &path, Epoch::of(NOW), &scene.recipients)
        .await
        .unwrap();
    let again = ensure_index_key(&scene.publisher, &path, Epoch::of(NOW), &scene.recipients)
        .await
        .unwrap();
    assert_eq!(again.object, first.object);
    let id = first.key.content_id(b"x");
    assert_eq!(again.key.content_id(b"x"), id);
    let keyring = keyring(&scene, &scene.recovery).await;
    let (_, held) = keyring.index_keys().next().unwrap();
    assert_eq!(held.content_id(b"x"), id);

    std::fs::remove_file(&path).unwrap();
    let fresh = ensure_index_key(&scene.publisher, &path, Epoch::of(NOW), &scene.recipients)
        .await
        .unwrap();
    assert_ne!(
        fresh.key.content_id(b"x"),
        id,
        "the agent cannot read back the old one"
    );
}
