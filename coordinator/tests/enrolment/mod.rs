//! Agents that come to certificates by tokens, over real connections that check both sides.

use std::sync::Arc;

use holdfast_coordinator::Coordinator;
use holdfast_coordinator::inviting::{Invited, invite};
use holdfast_coordinator::pki::issuing::{AgentAuthority, ProvenKey};
use holdfast_coordinator::pki::{AgentIdentity, agent_of};
use holdfast_proto::message::{Enrolment, Heartbeat, Issued, Renewal};
use holdfast_proto::names::ClusterId;
use holdfast_proto::record::InvitationBody;
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::invitation::Invitations;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::POLICY;
use crate::house::{House, Running, cluster, facts, now, wait_until};

const ENROLMENT: &str = "[enrolment]\ncert = \"issuer.crt\"\nkey = \"issuer.key\"\nlifetime = \"1h\"\n";

/// An installation that issues certificates.
async fn issuing() -> (House, AgentAuthority) {
    let house = House::build_with(POLICY, ENROLMENT).await;
    let authority = AgentAuthority::generate(&house.config.name).unwrap();
    std::fs::write(house.root.join("issuer.crt"), authority.certificate_pem()).unwrap();
    holdfast_repository::secret_file::write_new(&house.root.join("issuer.key"), &authority.key_pem())
        .unwrap();
    (house, authority)
}

fn signer(house: &House) -> SigningKey {
    SigningKey::load(&house.root.join("c.key")).unwrap()
}

async fn trust(house: &House) -> Trust {
    Trust::load(&house.repository, &house.config.trust_root)
        .await
        .unwrap()
}

async fn invited(house: &House, agent: &str, clusters: &[ClusterId]) -> Invited {
    let (trust, signer, agent) = (trust(house).await, signer(house), agent.parse().unwrap());
    let valid = "1h".parse().unwrap();
    invite(&house.repository, &trust, &signer, &agent, clusters, valid, now())
        .await
        .unwrap()
}

/// An invitation as nobody makes it by hand. Returns its token.
async fn invited_as(house: &House, change: impl FnOnce(&mut InvitationBody)) -> String {
    let trust = trust(house).await;
    let invitations = Invitations::of(&house.repository, &trust).await.unwrap();
    let mut body = InvitationBody {
        agent: "erp-1".parse().unwrap(),
        clusters: vec![cluster()],
        authority: invitations.authority(),
        made: now(),
        ends: now().plus_millis(60_000),
    };
    change(&mut body);
    let token = holdfast_coordinator::access::Token::invitation().unwrap();
    let hash = Sha256Digest::of(token.reveal().as_bytes());
    invitations.make(&hash, &body, &signer(house)).await.unwrap();
    token.reveal().to_owned()
}

fn request(key: &KeyPair) -> String {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .pem()
        .unwrap()
}

/// A connection of a client that checks the server; with a certificate and its key (PEM), or
/// without.
struct Line(SendRequest<Full<Bytes>>);

impl Line {
    async fn open(house: &House, running: &Running, own: Option<(&str, &KeyPair)>) -> Result<Self, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(house.root.join("ca.crt")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        let tcp = TcpStream::connect(running.agents).await.map_err(|e| text(&e))?;
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), tcp)
            .await
            .map_err(|e| text(&e))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| text(&e))?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// What a question is answered with: status, seconds to wait, body.
    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &impl serde::Serialize,
    ) -> (u16, Option<String>, Value) {
        self.0.ready().await.unwrap();
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(body).unwrap())))
            .unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let wait = headers.get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        (status, wait, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// Asks for a certificate as an agent without one does.
async fn enrol(
    house: &House,
    running: &Running,
    agent: &str,
    token: &str,
    key: &KeyPair,
) -> Result<String, (u16, String)> {
    let asked = Enrolment {
        agent: agent.parse().unwrap(),
        token: token.to_owned(),
        request: request(key),
    };
    let mut line = Line::open(house, running, None).await.unwrap();
    certificate(line.ask("POST", "/v1/enrol", &asked).await)
}

fn certificate((status, _, body): (u16, Option<String>, Value)) -> Result<String, (u16, String)> {
    match status {
        200 => Ok(serde_json::from_value::<Issued>(body).unwrap().certificate),
        _ => Err((status, body["detail"].as_str().unwrap_or_default().to_owned())),
    }
}

fn identity(pem: &str) -> AgentIdentity {
    agent_of(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap()
}

/// Sends a heartbeat for clusters, and says what came of it.
async fn beat(line: &mut Line, agent: &str, clusters: &[&str]) -> (u16, String) {
    let heartbeat = Heartbeat {
        agent: agent.parse().unwrap(),
        version: "0.1.0".to_owned(),
        at: now(),
        clusters: clusters
            .iter()
            .map(|cluster| holdfast_proto::message::ClusterFacts {
                cluster: cluster.parse().unwrap(),
                ..facts()
            })
            .collect(),
        done: vec![],
    };
    let (status, _, body) = line.ask("POST", "/v1/heartbeat", &heartbeat).await;
    (status, body["detail"].as_str().unwrap_or_default().to_owned())
}

/// What the journal has of certificates: who, where, whether, and why; newest first.
async fn journal(running: &Running) -> Vec<(Option<String>, String, bool, String)> {
    let (status, body) = running.get("/v1/access").await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let all = body["decisions"].as_array().unwrap().iter();
    all.filter(|entry| entry["route"].as_str().unwrap().starts_with("POST /v1/"))
        .map(|entry| {
            (
                entry["who"].as_str().map(str::to_owned),
                entry["route"].as_str().unwrap().to_owned(),
                entry["allowed"] == true,
                entry["because"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_token_is_good_for_one_key_whoever_is_asked_and_whatever_was_lost() {
    let (house, _) = issuing().await;
    let made = invited(&house, "erp-1", &[cluster()]).await;
    let token = made.token.reveal();
    let key = KeyPair::generate().unwrap();
    let running = house.open().await;
    let first = enrol(&house, &running, "erp-1", token, &key).await.unwrap();
    let seen = identity(&first);
    assert_eq!(
        (seen.agent.as_str(), seen.clusters),
        ("erp-1", [cluster()].into())
    );

    // It is let in with it, as who it is.
    let mut line = Line::open(&house, &running, Some((&first, &key))).await.unwrap();
    assert_eq!(beat(&mut line, "erp-1", &["acme/erp"]).await.0, 200);
    assert_eq!(beat(&mut line, "lab-1", &["acme/erp"]).await.0, 403);
    let (status, _, seen) = line.ask("GET", "/v1/seen", &()).await;
    assert_eq!((status, &seen["agent"]), (200, &"erp-1".into()));

    // An answer that was lost; and somebody else who has the token.
    assert_eq!(
        enrol(&house, &running, "erp-1", token, &key).await,
        Ok(first.clone())
    );
    let thief = KeyPair::generate().unwrap();
    let (status, why) = enrol(&house, &running, "erp-1", token, &thief).await.unwrap_err();
    assert!(status == 403 && why.contains("was used at"), "{status} {why}");
    let noted = journal(&running).await;
    let of = |allowed: bool| {
        noted
            .iter()
            .find(|(who, route, was, _)| {
                who.as_deref() == Some("agent:erp-1") && route == "POST /v1/enrol" && *was == allowed
            })
            .unwrap_or_else(|| panic!("{noted:#?}"))
    };
    assert!(
        of(true).3.contains("certificate ") && of(false).3.contains("was used at"),
        "{noted:#?}"
    );
    assert!(!format!("{noted:?}").contains(token));
    running.close().await;

    // With all that the coordinator keeps gone, and at another one that does not lead.
    std::fs::remove_dir_all(house.root.join("state")).unwrap();
    let running = house.open().await;
    let (status, why) = enrol(&house, &running, "erp-1", token, &thief).await.unwrap_err();
    assert!(status == 403 && why.contains("was used at"), "{status} {why}");
    let mut config = house.config.clone();
    config.state_dir = house.root.join("state-2");
    let second = Running::of(Coordinator::start(config).await.unwrap());
    wait_until("the second coordinator", || async {
        (second.get("/healthz").await.0 == 200).then_some(())
    })
    .await;
    let (status, why) = enrol(&house, &second, "erp-1", token, &thief).await.unwrap_err();
    assert!(status == 403 && why.contains("was used at"), "{status} {why}");
    assert_eq!(enrol(&house, &second, "erp-1", token, &key).await, Ok(first));
    let more = invited(&house, "lab-1", &["acme/lab".parse().unwrap()]).await;
    assert!(
        enrol(&house, &second, "lab-1", more.token.reveal(), &key)
            .await
            .is_ok()
    );
    second.close().await;
    running.close().await;
}

#[tokio::test]
async fn what_is_no_good_token_is_refused_with_what_to_do() {
    let (house, _) = issuing().await;
    let running = house.open().await;
    let key = KeyPair::generate().unwrap();
    let good = invited(&house, "erp-1", &[cluster()]).await;
    let ended = invited_as(&house, |body| body.ends = now().plus_millis(-1)).await;
    let moved = invited_as(&house, |body| body.authority += 1).await;
    let gone = invited_as(&house, |body| body.agent = "gone-1".parse().unwrap()).await;
    let unknown = holdfast_coordinator::access::Token::invitation().unwrap();
    for (agent, token, says) in [
        ("erp-1", ended.as_str(), "was good until"),
        ("erp-1", moved.as_str(), "before the authority was moved"),
        ("gone-1", gone.as_str(), "was revoked"),
        ("erp-1", unknown.reveal(), "is not known"),
        ("erp-1", "hfi_", "is not known"),
        ("lab-1", good.token.reveal(), "for agent erp-1, not for lab-1"),
    ] {
        let (status, why) = enrol(&house, &running, agent, token, &key).await.unwrap_err();
        assert!(status == 403 && why.contains(says), "{status} {why}");
    }
    let mut line = Line::open(&house, &running, None).await.unwrap();
    let asked = Enrolment {
        agent: "erp-1".parse().unwrap(),
        token: good.token.reveal().to_owned(),
        request: "something else".to_owned(),
    };
    let (status, _, body) = line.ask("POST", "/v1/enrol", &asked).await;
    assert_eq!(status, 400, "{body}");
    // None of that has used the good one up.
    assert!(
        enrol(&house, &running, "erp-1", good.token.reveal(), &key)
            .await
            .is_ok()
    );

    // What is not for strangers, and how often they may try.
    for (method, path) in [
        ("POST", "/v1/heartbeat"),
        ("POST", "/v1/renew"),
        ("GET", "/v1/seen"),
    ] {
        let mut line = Line::open(&house, &running, None).await.unwrap();
        let (status, _, body) = line.ask(method, path, &()).await;
        assert!(
            status == 401 && body["detail"].as_str().unwrap().contains("coordinator invite"),
            "{path}: {status} {body}"
        );
    }
    let mut last = (0, None, Value::Null);
    for _ in 0..30 {
        let mut line = Line::open(&house, &running, None).await.unwrap();
        last = line.ask("POST", "/v1/enrol", &asked).await;
        if last.0 == 429 {
            break;
        }
    }
    assert!(last.0 == 429 && last.1.is_some(), "{last:?}");
    running.close().await;
}

#[tokio::test]
async fn a_certificate_is_for_the_clusters_of_its_invitation() {
    let (house, _) = issuing().await;
    let running = house.open().await;
    let key = KeyPair::generate().unwrap();
    // The trust chain lets it speak for acme/erp, the invitation does not.
    let made = invited(&house, "erp-1", &["acme/crm".parse().unwrap()]).await;
    assert_eq!(made.not_enrolled, ["acme/crm".parse().unwrap()]);
    let own = enrol(&house, &running, "erp-1", made.token.reveal(), &key)
        .await
        .unwrap();
    let mut line = Line::open(&house, &running, Some((&own, &key))).await.unwrap();
    let (status, why) = beat(&mut line, "erp-1", &["acme/erp"]).await;
    assert!(
        status == 403 && why.contains("is not for acme/erp"),
        "{status} {why}"
    );
    // And the invitation does not widen what the chain says.
    let (status, why) = beat(&mut line, "erp-1", &["acme/crm"]).await;
    assert!(
        status == 403 && why.contains("not enrolled for acme/crm"),
        "{status} {why}"
    );
    running.close().await;
}

#[tokio::test]
async fn without_a_section_nothing_is_issued() {
    let house = House::build(POLICY).await;
    let running = house.open().await;
    // Without a certificate there is no talk; TLS 1.3 says so with the first answer.
    let key = KeyPair::generate().unwrap();
    let asked = Enrolment {
        agent: "erp-1".parse().unwrap(),
        token: "hfi_".to_owned(),
        request: request(&key),
    };
    let talked = async {
        let mut line = Line::open(&house, &running, None).await?;
        line.0.ready().await.map_err(|e| e.to_string())?;
        let body = Full::new(Bytes::from(serde_json::to_vec(&asked).unwrap()));
        let request = hyper::Request::post("/v1/enrol").body(body).unwrap();
        let answer = line.0.send_request(request).await;
        answer.map(|answer| answer.status()).map_err(|e| e.to_string())
    };
    assert!(talked.await.is_err());
    // With one of the off-line authority there is nothing to renew with.
    let (own, own_key) = by_hand(&house, "erp-1");
    let mut line = Line::open(&house, &running, Some((&own, &own_key)))
        .await
        .unwrap();
    let renewal = Renewal {
        request: request(&key),
    };
    let (status, _, body) = line.ask("POST", "/v1/renew", &renewal).await;
    assert!(
        status == 404 && body.to_string().contains("[enrolment]"),
        "{status} {body}"
    );
    running.close().await;
}

/// A certificate of the off-line authority.
fn by_hand(house: &House, agent: &str) -> (String, KeyPair) {
    let issued = house.authority.issue_agent(&agent.parse().unwrap()).unwrap();
    let key = KeyPair::from_pem(&issued.key_pem).unwrap();
    (issued.certificate_pem, key)
}

#[tokio::test]
async fn a_renewed_certificate_has_the_identity_of_the_one_before() {
    let (house, _) = issuing().await;
    let running = house.open().await;
    let key = KeyPair::generate().unwrap();
    let made = invited(&house, "erp-1", &[cluster()]).await;
    let first = enrol(&house, &running, "erp-1", made.token.reveal(), &key)
        .await
        .unwrap();
    let mut line = Line::open(&house, &running, Some((&first, &key))).await.unwrap();
    // What it asks for beside the key counts for nothing.
    let next = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let uri = "holdfast://agent/lab-1".to_owned().try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let renewal = Renewal {
        request: params.serialize_request(&next).unwrap().pem().unwrap(),
    };
    let second = certificate(line.ask("POST", "/v1/renew", &renewal).await).unwrap();
    let (before, after) = (identity(&first), identity(&second));
    assert_eq!((&after.agent, &after.clusters), (&before.agent, &before.clusters));
    assert!(after.until >= before.until && first != second);
    let mut line = Line::open(&house, &running, Some((&second, &next)))
        .await
        .unwrap();
    assert_eq!(beat(&mut line, "erp-1", &["acme/erp"]).await.0, 200);
    // The one before is good until it ends: its holder may not have the answer.
    let mut line = Line::open(&house, &running, Some((&first, &key))).await.unwrap();
    assert_eq!(beat(&mut line, "erp-1", &["acme/erp"]).await.0, 200);
    let noted = journal(&running).await;
    let renewed = |(who, route, allowed, _): &(Option<String>, String, bool, String)| {
        who.as_deref() == Some("agent:erp-1") && route == "POST /v1/renew" && *allowed
    };
    assert!(noted.iter().any(renewed), "{noted:#?}");
    running.close().await;
}

#[tokio::test]
async fn who_was_revoked_or_ended_is_not_renewed() {
    let (mut house, authority) = issuing().await;
    // To the second, as certificates are.
    let before = Timestamp::from_unix_micros(now().unix_micros() / 1_000_000 * 1_000_000);
    house.config.tls.ended = vec![holdfast_coordinator::config::EndedAgent {
        agent: "erp-1".parse().unwrap(),
        before,
    }];
    let running = house.open().await;
    let renewal = Renewal {
        request: request(&KeyPair::generate().unwrap()),
    };
    // Revoked in the trust chain; and not there at all.
    for agent in ["gone-1", "nobody-1"] {
        let (own, key) = by_hand(&house, agent);
        let mut line = Line::open(&house, &running, Some((&own, &key))).await.unwrap();
        let (status, why) = certificate(line.ask("POST", "/v1/renew", &renewal).await).unwrap_err();
        assert!(status == 403 && why.contains("is not renewed"), "{status} {why}");
    }
    // Ended in the configuration, whoever issued it.
    let (own, key) = by_hand(&house, "erp-1");
    let other = KeyPair::generate().unwrap();
    let proven = ProvenKey::of_request(&request(&other)).unwrap();
    let (from, until) = (before.plus_millis(-1000), before.plus_millis(3_600_000));
    let issued = authority
        .issue(&"erp-1".parse().unwrap(), &[], &proven, from, until)
        .unwrap();
    for (own, key) in [(&own, &key), (&pem(&issued), &other)] {
        let mut line = Line::open(&house, &running, Some((own, key))).await.unwrap();
        let (status, why) = beat(&mut line, "erp-1", &["acme/erp"]).await;
        assert!(status == 403 && why.contains("were ended"), "{status} {why}");
        let (status, why) = certificate(line.ask("POST", "/v1/renew", &renewal).await).unwrap_err();
        assert!(
            status == 403 && why.contains("coordinator invite"),
            "{status} {why}"
        );
    }
    // Another agent's go on, and so does one that comes with a new token.
    let (own, key) = by_hand(&house, "lab-1");
    let mut line = Line::open(&house, &running, Some((&own, &key))).await.unwrap();
    assert_eq!(beat(&mut line, "lab-1", &["acme/lab"]).await.0, 200);
    let made = invited(&house, "erp-1", &[cluster()]).await;
    let key = KeyPair::generate().unwrap();
    let own = enrol(&house, &running, "erp-1", made.token.reveal(), &key)
        .await
        .unwrap();
    let mut line = Line::open(&house, &running, Some((&own, &key))).await.unwrap();
    assert_eq!(beat(&mut line, "erp-1", &["acme/erp"]).await.0, 200);
    running.close().await;
}

#[tokio::test]
async fn a_certificate_that_ends_ends_its_open_connections_too() {
    let (house, authority) = issuing().await;
    let running = house.open().await;
    let key = KeyPair::generate().unwrap();
    let proven = ProvenKey::of_request(&request(&key)).unwrap();
    let until = now().plus_millis(3_000);
    let own = authority
        .issue(&"erp-1".parse().unwrap(), &[], &proven, now(), until)
        .unwrap();
    let own = pem(&own);
    let mut line = Line::open(&house, &running, Some((&own, &key))).await.unwrap();
    assert_eq!(beat(&mut line, "erp-1", &["acme/erp"]).await.0, 200);
    let (status, why) = loop {
        let said = beat(&mut line, "erp-1", &["acme/erp"]).await;
        if said.0 != 200 {
            break said;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert!(status == 403 && why.contains("ended at"), "{status} {why}");
    running.close().await;
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
