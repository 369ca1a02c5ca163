//! Replication brings a replica up to the others, commit points last.

use holdfast_proto::record::JournalBody;
use holdfast_repository::layout;
use holdfast_repository::replicate::replicate_cluster;

use crate::scene::{Scene, cluster, filestore, flip, noise, region};

/// Every file below a replica, by its key.
fn objects(scene: &Scene, replica: &str) -> Vec<String> {
    fn walk(dir: &std::path::Path, base: &std::path::Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, out);
            } else {
                out.push(path.strip_prefix(base).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let base = scene.dir.path().join(replica);
    let mut out = Vec::new();
    walk(&base, &base, &mut out);
    out.retain(|key| !key.starts_with("control/"));
    out.sort();
    out
}

/// Replica `b` was away while two entries were captured.
async fn behind() -> Scene {
    let scene = Scene::new(&["a", "b"], 1).await;
    let first = scene.capture(1, &[("w", noise(9, 1000))], None).await.unwrap();
    scene.cut("b");
    let second = scene
        .capture(2, &[("x", noise(1, 2_000_000))], Some(&first))
        .await
        .unwrap();
    scene
        .capture(3, &[("y", noise(2, 10))], Some(&second))
        .await
        .unwrap();
    scene.mend("b");
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_is_completed_and_a_second_run_does_nothing() {
    let scene = behind().await;
    assert!(objects(&scene, "a") != objects(&scene, "b"));
    let done = replicate_cluster(&scene.repository, &cluster(), &scene.trust)
        .await
        .unwrap();
    assert!(done.is_complete(), "{:?}", done.findings);
    assert_eq!(
        done.copied[&region("b")].objects,
        8,
        "two packs, two catalogues, two indexes, two commit points"
    );
    assert_eq!(objects(&scene, "a"), objects(&scene, "b"));
    let again = replicate_cluster(&scene.repository, &cluster(), &scene.trust)
        .await
        .unwrap();
    assert_eq!(again.objects(), 0);
    assert!(again.is_complete());

    scene.cut("a");
    let repository = scene.reopened().await;
    let key = layout::journal(&cluster(), &filestore(), 3);
    repository
        .read_signed::<JournalBody>(&key, &scene.trust)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_point_waits_for_the_pack_that_cannot_be_copied() {
    let scene = behind().await;
    let entry = layout::journal(&cluster(), &filestore(), 2);
    let (signed, _) = scene
        .repository
        .read_signed::<JournalBody>(&entry, &scene.trust)
        .await
        .unwrap();
    let (clear, _) = scene
        .repository
        .fetch_index(&cluster(), &signed.body().parts[0])
        .await
        .unwrap();
    let pack = layout::pack(&cluster(), &clear.packs[0].sha256);
    flip(&scene.path("a", &pack), 5000);
    let done = replicate_cluster(&scene.repository, &cluster(), &scene.trust)
        .await
        .unwrap();
    assert!(
        done.findings.iter().any(|f| f.name == "object-damaged"),
        "{:?}",
        done.findings
    );
    assert!(!scene.has("b", &pack), "a damaged pack is not spread");
    assert!(!scene.has("b", &entry), "its commit point is kept back");
    let next = layout::journal(&cluster(), &filestore(), 3);
    assert!(!scene.has("b", &next), "and the delta that builds on it");
    assert!(
        done.findings
            .iter()
            .any(|f| f.name == "replica-behind" && f.subject.ends_with(entry.as_str()))
    );

    flip(&scene.path("a", &pack), 5000);
    let done = replicate_cluster(&scene.repository, &cluster(), &scene.trust)
        .await
        .unwrap();
    assert!(done.is_complete(), "{:?}", done.findings);
    assert_eq!(objects(&scene, "a"), objects(&scene, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_foreign_objects_are_not_spread() {
    let scene = behind().await;
    let mut stranger = scene.publisher.clone();
    stranger.signer = holdfast_repository::signing::SigningKey::generate_ed25519()
        .unwrap()
        .into();
    let entry = layout::journal(&cluster(), &filestore(), 3);
    let (signed, _) = scene
        .repository
        .read_signed::<JournalBody>(&entry, &scene.trust)
        .await
        .unwrap();
    let forged_key = layout::journal(&cluster(), &filestore(), 4);
    let forged = stranger.sign(&forged_key, Vec::new(), None, Some(signed.link()), signed.body());
    std::fs::write(scene.path("a", &forged_key), forged.bytes).unwrap();
    std::fs::write(scene.path("a", &entry).with_file_name("notes"), b"?").unwrap();
    let done = replicate_cluster(&scene.repository, &cluster(), &scene.trust)
        .await
        .unwrap();
    assert!(!scene.has("b", &forged_key));
    assert!(scene.has("b", &entry));
    let names: Vec<&str> = done.findings.iter().map(|f| f.name.as_str()).collect();
    assert!(
        names.contains(&"object-damaged") && names.contains(&"unknown-object"),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_replica_is_named_and_nothing_else_stops() {
    let scene = Scene::new(&["a", "b", "c"], 1).await;
    scene.cut("b");
    scene.cut("c");
    scene.capture(1, &[("x", noise(1, 100))], None).await.unwrap();
    scene.mend("b");
    let done = replicate_cluster(&scene.repository, &cluster(), &scene.trust)
        .await
        .unwrap();
    assert!(scene.has("b", &layout::journal(&cluster(), &filestore(), 1)));
    let unreachable: Vec<_> = done
        .findings
        .iter()
        .filter(|f| f.name == "replica-unreachable")
        .collect();
    assert_eq!(unreachable.len(), 1);
    assert_eq!(unreachable[0].subject, "c");
}
