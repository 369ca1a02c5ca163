use holdfast_proto::names::Region;
use holdfast_proto::record::TrustRole;

use super::*;
use crate::authority;
use crate::clock::now;
use crate::trust::{append, enrolment, genesis};
use crate::{ReplicaConfig, RepositoryConfig};

struct Scene {
    directory: tempfile::TempDir,
    repository: Repository,
    trust: Trust,
    root: SigningKey,
    one: SigningKey,
    agent: SigningKey,
}

const TOKEN: &[u8] = b"a token";

async fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let root = SigningKey::generate_ed25519().unwrap();
    let region = |name: &str| {
        std::fs::create_dir(directory.path().join(name)).unwrap();
        ReplicaConfig::directory(name.parse().unwrap(), &directory.path().join(name))
    };
    let config = RepositoryConfig {
        replicas: vec![region("east"), region("west")],
        trust_root: Some(root.fingerprint()),
    };
    let repository = Repository::init(&config, root.fingerprint(), now())
        .await
        .unwrap();
    let (one, agent) = (
        SigningKey::generate_p256().unwrap(),
        SigningKey::generate_ed25519().unwrap(),
    );
    let mut scene = Scene {
        trust: Trust::empty(repository.id(), root.fingerprint()),
        directory,
        repository,
        root,
        one,
        agent,
    };
    let name = |name: &str| name.parse().unwrap();
    let first = genesis(&scene.root, &name("root"), scene.repository.id(), now()).unwrap();
    scene.put(first).await;
    let acts = vec![
        enrolment(scene.one.verifying(), &name("one"), TrustRole::Coordinator, &[]),
        enrolment(scene.agent.verifying(), &name("agent"), TrustRole::Agent, &[]),
    ];
    let second = append(&scene.trust, acts, &scene.root, now()).unwrap();
    scene.put(second).await;
    scene.decides("east", None).await;
    scene
}

impl Scene {
    async fn put(&mut self, (key, bytes): (ObjectKey, Vec<u8>)) {
        for replica in self.repository.replicas() {
            replica.create(&key, bytes.clone().into()).await.unwrap();
        }
        self.trust = Trust::load(&self.repository, &self.root.fingerprint())
            .await
            .unwrap();
    }

    async fn decides(&mut self, region: &str, before: Option<&Authority>) {
        let region: Region = region.parse().unwrap();
        let (key, bytes) = authority::record(&self.trust, before, &region, &self.root);
        self.put((key, bytes.to_vec())).await;
    }

    async fn invitations(&self) -> Invitations<'_> {
        Invitations::of(&self.repository, &self.trust).await.unwrap()
    }

    fn body(&self, authority: u64, lasts_ms: i64) -> InvitationBody {
        InvitationBody {
            agent: "erp-1".parse().unwrap(),
            clusters: vec!["acme/erp".parse().unwrap()],
            authority,
            made: now(),
            ends: now().plus_millis(lasts_ms),
        }
    }

    /// Where an object lies on the first replica.
    fn file(&self, key: &ObjectKey) -> std::path::PathBuf {
        self.directory.path().join("east").join(key.as_str())
    }
}

fn token() -> Sha256Digest {
    Sha256Digest::of(TOKEN)
}

fn public(n: u8) -> Fingerprint {
    Fingerprint::new([n; 32])
}

#[tokio::test]
async fn a_token_is_good_for_one_key() {
    let scene = scene().await;
    let all = scene.invitations().await;
    let unknown = all.find(&token()).await.unwrap_err();
    assert!(matches!(unknown, InvitationError::Unknown), "{unknown}");
    let body = scene.body(all.authority(), 60_000);
    all.make(&token(), &body, &scene.one).await.unwrap();
    let found = all.find(&token()).await.unwrap();
    assert_eq!(found.body, body);
    assert_eq!(all.used(&found, &public(1)).await.unwrap(), None);
    let redeem = async |key: u8, certificate: &[u8]| {
        // As another coordinator, or this one after a restart, would.
        let all = scene.invitations().await;
        all.redeem(&found, &public(key), certificate, &scene.one, now())
            .await
    };
    assert_eq!(redeem(1, b"first").await.unwrap(), b"first");
    // An answer that was lost: the certificate that counts is the first.
    assert_eq!(redeem(1, b"second").await.unwrap(), b"first");
    assert_eq!(
        all.used(&found, &public(1)).await.unwrap().as_deref(),
        Some(&b"first"[..])
    );
    let other = redeem(2, b"third").await.unwrap_err();
    assert!(matches!(other, InvitationError::Used(_)), "{other}");
}

#[tokio::test]
async fn of_two_at_once_one_wins() {
    let scene = scene().await;
    let all = scene.invitations().await;
    all.make(&token(), &scene.body(all.authority(), 60_000), &scene.one)
        .await
        .unwrap();
    let found = all.find(&token()).await.unwrap();
    let one = public(1);
    let two = public(2);
    let (a, b) = futures::join!(
        all.redeem(&found, &one, b"a", &scene.one, now()),
        all.redeem(&found, &two, b"b", &scene.one, now()),
    );
    assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|won| **won).count(), 1);
}

#[tokio::test]
async fn one_that_ended_lets_nobody_new_in() {
    let scene = scene().await;
    let all = scene.invitations().await;
    let body = scene.body(all.authority(), 60_000);
    all.make(&token(), &body, &scene.one).await.unwrap();
    let found = all.find(&token()).await.unwrap();
    let before = body.ends.plus_millis(-1);
    assert!(all.good(&found, before).is_ok());
    let late = all.redeem(&found, &public(1), b"x", &scene.one, body.ends).await;
    assert!(matches!(late, Err(InvitationError::Ended(_))), "{late:?}");
    assert_eq!(all.used(&found, &public(1)).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_to_be_believed_lets_nobody_in() {
    let scene = scene().await;
    let all = scene.invitations().await;
    let body = scene.body(all.authority(), 60_000);
    // An agent may invite nobody.
    all.make(&token(), &body, &scene.agent).await.unwrap();
    let forged = all.find(&token()).await.unwrap_err();
    assert!(matches!(forged, InvitationError::Disbelieved(_)), "{forged}");

    // One that was put in another's place.
    let other = Sha256Digest::of(b"another token");
    all.make(&other, &body, &scene.one).await.unwrap();
    std::fs::copy(
        scene.file(&layout::invitation(&other)),
        scene.file(&layout::invitation(&token())),
    )
    .unwrap();
    assert!(all.find(&token()).await.is_err());
    let found = all.find(&other).await.unwrap();

    // A use that nobody can read is a use.
    let used = layout::redemption(&other);
    std::fs::create_dir_all(scene.file(&used).parent().unwrap()).unwrap();
    std::fs::write(scene.file(&used), b"whatever").unwrap();
    let refused = all.redeem(&found, &public(1), b"x", &scene.one, now()).await;
    assert!(
        matches!(refused, Err(InvitationError::Disbelieved(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn when_the_authority_moves_no_token_is_good() {
    let mut scene = scene().await;
    let all = scene.invitations().await;
    let body = scene.body(all.authority(), 60_000);
    all.make(&token(), &body, &scene.one).await.unwrap();
    let before = Authority::load(&scene.repository, &scene.trust).await.unwrap();
    scene.decides("west", Some(&before)).await;
    let all = scene.invitations().await;
    assert!(matches!(all.find(&token()).await, Err(InvitationError::Unknown)));
    // Not even where somebody has copied it.
    let key = layout::invitation(&token());
    let west = scene.directory.path().join("west").join(key.as_str());
    std::fs::create_dir_all(west.parent().unwrap()).unwrap();
    std::fs::copy(scene.file(&key), west).unwrap();
    let found = all.find(&token()).await.unwrap();
    let moved = all.redeem(&found, &public(1), b"x", &scene.one, now()).await;
    assert!(matches!(moved, Err(InvitationError::Moved)), "{moved:?}");
}

#[tokio::test]
async fn while_the_authority_is_away_nobody_is_let_in() {
    let scene = scene().await;
    let all = scene.invitations().await;
    all.make(&token(), &scene.body(all.authority(), 60_000), &scene.one)
        .await
        .unwrap();
    let found = all.find(&token()).await.unwrap();
    std::fs::rename(
        scene.directory.path().join("east"),
        scene.directory.path().join("away"),
    )
    .unwrap();
    assert!(all.find(&token()).await.is_err());
    assert!(
        all.redeem(&found, &public(1), b"x", &scene.one, now())
            .await
            .is_err()
    );
}
