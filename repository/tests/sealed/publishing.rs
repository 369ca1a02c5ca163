//! A commit point stands on a replica only with all that it needs.

use std::sync::Arc;

use holdfast_proto::manifest::Extent;
use holdfast_proto::record::JournalBody;
use holdfast_repository::keyring::Keyring;
use holdfast_repository::publication::{Publication, PublishError};
use holdfast_repository::seal::Identities;
use holdfast_repository::signed::{ReadError, SignedError};
use holdfast_repository::{Repository, layout};

use crate::scene::{Scene, cluster, filestore, flip, noise, region};

/// Reads entry `n` of the journal and every byte of its files from `repository`.
async fn restore(scene: &Scene, repository: &Repository, n: u64) -> Vec<(String, Vec<u8>)> {
    let identities = Identities::from(scene.recovery.clone());
    let keyring = Keyring::load(repository, &scene.trust, &cluster(), &identities)
        .await
        .unwrap();
    let keyring = Arc::new(keyring);
    let key = layout::journal(&cluster(), &filestore(), n);
    let (signed, _) = repository
        .read_signed::<JournalBody>(&key, &scene.trust)
        .await
        .unwrap();
    let mut files = Vec::new();
    for part in &signed.body().parts {
        let (open, _) = repository.fetch_part(&cluster(), part, &keyring).await.unwrap();
        for (index, line) in &open.entries {
            let mut content = Vec::new();
            for Extent(pack, block, offset, length, _) in &index.x {
                let known = &open.packs[*pack as usize];
                let (mut reader, _) = repository.fetch_pack(&cluster(), known, &keyring).await.unwrap();
                let raw = reader.block(*block).unwrap();
                content.extend_from_slice(&raw[*offset as usize..(*offset + *length) as usize]);
            }
            assert_eq!(line.b3.unwrap().as_bytes(), blake3::hash(&content).as_bytes());
            files.push((line.path.clone(), content));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_restores_from_each_replica_alone() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let files = [
        ("one", noise(1, 3_000_000)),
        ("two", vec![5; 10]),
        ("empty", vec![]),
    ];
    let committed = scene.capture(1, &files, None).await.unwrap();
    assert_eq!(committed.complete_on, [region("a"), region("b")]);
    assert!(committed.findings.is_empty());
    for lost in ["a", "b"] {
        scene.cut(lost);
        let repository = scene.reopened().await;
        let mut back = restore(&scene, &repository, 1).await;
        back.sort();
        let mut expected: Vec<_> = files.iter().map(|(p, c)| ((*p).to_owned(), c.clone())).collect();
        expected.sort();
        assert!(back == expected, "after the loss of {lost}");
        scene.mend(lost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_fails_in_the_middle_never_gets_the_commit_point() {
    let scene = Scene::new(&["a", "b", "c"], 2).await;
    let key = scene.epoch_key().await;
    let publication = Publication::begin(&scene.publisher, std::slice::from_ref(&key.object))
        .await
        .unwrap();
    scene
        .store(&publication, &key.key, &[("first", noise(1, 1000))])
        .await
        .unwrap();
    scene.cut("c");
    scene
        .store(&publication, &key.key, &[("second", noise(2, 1000))])
        .await
        .unwrap();
    // Back again, too late: it lacks the second pack.
    scene.mend("c");
    scene
        .store(&publication, &key.key, &[("third", noise(3, 1000))])
        .await
        .unwrap();
    assert_eq!(publication.complete_on(), [region("a"), region("b")]);
    assert_eq!(publication.behind()[0].0, region("c"));

    let committed = scene.capture(1, &[("x", vec![1])], None).await.unwrap();
    assert_eq!(
        committed.complete_on.len(),
        3,
        "the next publication counts it again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_end_the_publication_and_say_why() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let first = scene.capture(1, &[("x", vec![1])], None).await.unwrap();
    scene.cut("b");
    let second = scene
        .publisher_with(1)
        .capture(2, &[("y", vec![2])], Some(&first))
        .await
        .unwrap();
    assert_eq!(second.complete_on, [region("a")]);
    assert_eq!(second.findings[0].name, "replica-behind");
    let error = Publication::begin(&scene.publisher, scene.trust.records())
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(&error, PublishError::TooFew { complete: 1, copies: 2, behind } if behind[0].0 == region("b"))
    );
    assert!(error.to_string().contains("bring a replica back"), "{error}");

    // b is back, but lacks entry 2: what builds on it does not go there.
    scene.mend("b");
    let third = scene
        .publisher_with(1)
        .capture(3, &[("z", vec![3])], Some(&second))
        .await
        .unwrap();
    assert_eq!(third.complete_on, [region("a")]);
    assert!(!scene.has("b", &third.link.key));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_entry_are_noticed() {
    let scene = Scene::new(&["a", "b"], 1).await;
    scene.capture(1, &[("x", vec![1])], None).await.unwrap();
    let error = scene.capture(1, &[("x", vec![2])], None).await.unwrap_err();
    assert!(matches!(error, PublishError::Conflict { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_commit_point_is_read_from_the_other_replica_and_healed() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let committed = scene.capture(1, &[("x", noise(1, 5000))], None).await.unwrap();
    let key = committed.link.key.clone();
    let good = std::fs::read(scene.path("b", &key)).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        flip(&scene.path("a", &key), at);
        let (signed, findings) = scene
            .repository
            .read_signed::<JournalBody>(&key, &scene.trust)
            .await
            .unwrap();
        assert_eq!(signed.sha256, committed.link.sha256);
        assert!(
            findings.iter().any(|f| f.name == "object-damaged"),
            "{findings:?}"
        );
        let (header, findings) = scene
            .repository
            .read_header::<JournalBody>(&key, &scene.trust)
            .await
            .unwrap();
        assert!(
            findings.iter().all(|f| f.name == "object-damaged"),
            "{findings:?}"
        );
        assert_eq!(header.header, signed.header);

        let healing = scene.reopened().await.healing(true);
        let (_, findings) = healing
            .read_signed::<JournalBody>(&key, &scene.trust)
            .await
            .unwrap();
        assert!(findings.iter().any(|f| f.name == "healed"), "{findings:?}");
        assert!(std::fs::read(scene.path("a", &key)).unwrap() == good);
    }
    flip(&scene.path("a", &key), 10);
    flip(&scene.path("b", &key), 10);
    let error = scene
        .repository
        .read_signed::<JournalBody>(&key, &scene.trust)
        .await
        .unwrap_err();
    assert!(matches!(error, ReadError::Refused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_read_from_the_other_replica() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let content = noise(1, 2_000_000);
    let committed = scene.capture(1, &[("x", content.clone())], None).await.unwrap();
    let (signed, _) = scene
        .repository
        .read_signed::<JournalBody>(&committed.link.key, &scene.trust)
        .await
        .unwrap();
    let (clear, _) = scene
        .repository
        .fetch_index(&cluster(), &signed.body().parts[0])
        .await
        .unwrap();
    let pack = layout::pack(&cluster(), &clear.packs[0].sha256);
    flip(&scene.path("a", &pack), 1_000_000);
    assert!(restore(&scene, &scene.repository, 1).await[0].1 == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_under_anothers_name_is_refused_by_name() {
    let scene = Scene::new(&["a", "b"], 2).await;
    let first = scene.capture(1, &[("x", vec![1])], None).await.unwrap();
    let second = scene.capture(2, &[("y", vec![2])], Some(&first)).await.unwrap();
    for replica in ["a", "b"] {
        std::fs::copy(
            scene.path(replica, &first.link.key),
            scene.path(replica, &second.link.key),
        )
        .unwrap();
    }
    let error = scene
        .repository
        .read_signed::<JournalBody>(&second.link.key, &scene.trust)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReadError::Refused(SignedError::OtherName { .. })),
        "{error}"
    );
}
