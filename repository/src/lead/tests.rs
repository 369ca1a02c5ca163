use super::*;
use crate::clock::now;
use crate::trust::{append, enrolment, genesis};
use crate::{ReplicaConfig, Repository, RepositoryConfig};
use holdfast_proto::record::TrustRole;

struct Scene {
    _directory: tempfile::TempDir,
    repository: Repository,
    trust: Trust,
    one: SigningKey,
    two: SigningKey,
}

async fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let root = SigningKey::generate_ed25519().unwrap();
    let (one, two) = (
        SigningKey::generate_p256().unwrap(),
        SigningKey::generate_p256().unwrap(),
    );
    let config = RepositoryConfig {
        replicas: vec![ReplicaConfig::directory(
            "east".parse().unwrap(),
            directory.path(),
        )],
        trust_root: Some(root.fingerprint()),
    };
    let repository = Repository::init(&config, root.fingerprint(), now())
        .await
        .unwrap();
    let put = async |(key, bytes): (ObjectKey, Vec<u8>)| {
        repository.replicas()[0].create(&key, bytes.into()).await.unwrap();
        Trust::load(&repository, &root.fingerprint()).await.unwrap()
    };
    let trust = put(genesis(&root, &"root".parse().unwrap(), repository.id(), now()).unwrap()).await;
    // The second key is an agent's: it may sign no lease.
    let acts = vec![
        enrolment(
            one.verifying(),
            &"one".parse().unwrap(),
            TrustRole::Coordinator,
            &[],
        ),
        enrolment(two.verifying(), &"two".parse().unwrap(), TrustRole::Agent, &[]),
    ];
    let trust = put(append(&trust, acts, &root, now()).unwrap()).await;
    Scene {
        _directory: directory,
        repository,
        trust,
        one,
        two,
    }
}

const LASTS: Duration = Duration::from_secs(30);

fn claim(scene: &Scene, n: u64, nonce: &str, signer: &SigningKey) -> Claim {
    let body = body(n, &"one".parse().unwrap(), nonce, 1, LASTS, now());
    Claim::new(&scene.trust, body, signer)
}

#[tokio::test]
async fn a_number_is_won_once_and_asking_again_is_asking_once() {
    let scene = scene().await;
    let authority = &scene.repository.replicas()[0];
    let ours = claim(&scene, 1, "a", &scene.one);
    assert!(ours.ask(authority).await.unwrap());
    assert!(ours.ask(authority).await.unwrap(), "the same claim is won still");
    assert!(!claim(&scene, 1, "b", &scene.one).ask(authority).await.unwrap());
    let lease = read(authority, &scene.trust, 1).await.unwrap();
    assert_eq!(lease.body.as_ref().unwrap().nonce, "a");
    assert_eq!(lease.waited_for(), Duration::from_secs(33));
}

#[tokio::test]
async fn the_highest_is_found_among_many_and_after_one_that_is_known() {
    let scene = scene().await;
    let authority = &scene.repository.replicas()[0];
    assert_eq!(highest(authority, 0).await.unwrap(), None);
    for n in 1..=21 {
        assert!(claim(&scene, n, "a", &scene.one).ask(authority).await.unwrap());
        assert_eq!(highest(authority, 0).await.unwrap(), Some(n));
        assert_eq!(highest(authority, n - 1).await.unwrap(), Some(n));
        assert_eq!(highest(authority, n).await.unwrap(), None);
    }
    assert_eq!(highest(authority, 7).await.unwrap(), Some(21));
    // Under another record of the authority they begin anew, above all of these.
    assert_eq!(highest(authority, first_of(1)).await.unwrap(), None);
    assert!(first_of(1) > 21 && first_of(0) == 0);
}

#[tokio::test]
async fn a_lease_that_nobody_may_sign_is_waited_for_as_long_as_any_may_last() {
    let scene = scene().await;
    let authority = &scene.repository.replicas()[0];
    assert!(claim(&scene, 1, "x", &scene.two).ask(authority).await.unwrap());
    let lease = read(authority, &scene.trust, 1).await.unwrap();
    assert_eq!(lease.body, None);
    assert!(lease.waited_for() > LONGEST);
    let mut released = body(2, &"one".parse().unwrap(), "a", 1, LASTS, now());
    released.released = true;
    assert!(
        Claim::new(&scene.trust, released, &scene.one)
            .ask(authority)
            .await
            .unwrap()
    );
    assert_eq!(
        read(authority, &scene.trust, 2).await.unwrap().waited_for(),
        Duration::ZERO
    );
}
