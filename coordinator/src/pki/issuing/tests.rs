use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::UnixTime;

use super::*;
use crate::desk::now;
use crate::pki::{Authority, agent_of};

fn request(params: CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn name() -> ActorName {
    "coordinator-1".parse().unwrap()
}

/// Whether a server that checks clients against `roots` takes this one now.
fn taken(roots: &[&str], certificate: &CertificateDer<'_>) -> bool {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap())
            .unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .unwrap();
    verifier
        .verify_client_cert(certificate, &[], UnixTime::now())
        .is_ok()
}

#[test]
fn what_is_issued_says_what_was_decided_and_not_what_was_asked_for() {
    let key = KeyPair::generate().unwrap();
    let mut asked = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    asked.distinguished_name = named("root");
    asked.subject_alt_names.push(SanType::URI(
        format!("{AGENT_URI}somebody-else").try_into().unwrap(),
    ));
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let proven = ProvenKey::of_request(&request(asked, &key)).unwrap();
    assert_eq!(
        proven.fingerprint(),
        Fingerprint::of_spki(&key.subject_public_key_info())
    );
    let authority = AgentAuthority::generate(&name()).unwrap();
    let again = AgentAuthority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
    let (agent, cluster): (ActorName, ClusterId) = ("erp-1".parse().unwrap(), "acme/erp".parse().unwrap());
    let from = now();
    let until = from.plus_millis(3_600_000);
    let der = again
        .issue(&agent, std::slice::from_ref(&cluster), &proven, from, until)
        .unwrap();

    let seen = agent_of(&der).unwrap();
    assert_eq!((seen.agent, seen.clusters), (agent.clone(), [cluster].into()));
    let second = |at: Timestamp| at.unix_micros() / 1_000_000;
    assert_eq!(
        (second(seen.from), second(seen.until)),
        (second(from), second(until))
    );
    let (_, read) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(read.public_key().raw, key.subject_public_key_info());
    assert!(!read.is_ca());
    let uses = read.extended_key_usage().unwrap().unwrap().value;
    assert!(uses.client_auth && !uses.server_auth && !uses.any);
    let names = read.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 2, "{names:?}");

    // It counts where this authority is believed, while it is valid.
    assert!(taken(&[authority.certificate_pem()], &der));
    let other = AgentAuthority::generate(&name()).unwrap();
    assert!(!taken(&[other.certificate_pem()], &der));
    let over = again
        .issue(
            &agent,
            &[],
            &proven,
            from.plus_millis(-7_200_000),
            from.plus_millis(-3_600_000),
        )
        .unwrap();
    assert!(!taken(&[authority.certificate_pem()], &over));
    let twice = again.issue(&agent, &[], &proven, from, until).unwrap();
    let (_, twice) = X509Certificate::from_der(&twice).unwrap();
    assert_ne!(twice.serial, read.serial);
}

#[test]
fn nobody_gets_a_certificate_for_a_key_that_they_do_not_hold() {
    let key = KeyPair::generate().unwrap();
    let good = request(CertificateParams::default(), &key);
    assert!(ProvenKey::of_request(&good).is_ok());
    // The same with another key in the place of the one that signed.
    let der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap();
    let own = key.public_key_raw().to_vec();
    let at = der.windows(own.len()).position(|w| w == own).unwrap();
    let mut stolen = der.to_vec();
    stolen[at..at + own.len()].copy_from_slice(KeyPair::generate().unwrap().public_key_raw());
    let error = ProvenKey::of_request(&pem(&stolen)).unwrap_err();
    assert!(error.to_string().contains("signature"), "{error}");

    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let error = ProvenKey::of_request(&request(CertificateParams::default(), &other)).unwrap_err();
    assert!(error.to_string().contains("P-256"), "{error}");
    let authority = Authority::generate().unwrap();
    for bad in ["", "x", authority.certificate_pem(), &"x".repeat(LONGEST + 1)] {
        assert!(ProvenKey::of_request(bad).is_err(), "{bad}");
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn the_off_line_authority_has_no_place_here() {
    let ca = Authority::generate().unwrap();
    let error = AgentAuthority::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap_err();
    assert!(error.to_string().contains("coordinator issuer"), "{error}");
    let (one, two) = (
        AgentAuthority::generate(&name()).unwrap(),
        AgentAuthority::generate(&name()).unwrap(),
    );
    let error = AgentAuthority::from_pem(one.certificate_pem(), &two.key_pem()).unwrap_err();
    assert!(error.to_string().contains("does not belong"), "{error}");
    // And this one makes no servers' certificates that the agents' file of authorities takes.
    assert!(Authority::from_pem(one.certificate_pem(), &one.key_pem()).is_err());
    assert!(!format!("{one:?}").contains("PRIVATE KEY"));
}
