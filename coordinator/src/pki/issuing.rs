//! What a coordinator issues to agents by itself: short-lived client certificates.
//!
//! The off-line authority vouches for coordinators and issues nothing unattended. For
//! agents a coordinator has an authority of its own, whose key is made on its machine and
//! stays there. Its certificate stands where agents' certificates are checked and nowhere
//! else, so whoever steals its key can pass for an agent and never for a coordinator; the
//! certificate says the same: for clients only, and for no authority below it.
//!
//! A certificate says what the coordinator decided. Of what an agent sends, only the public
//! key goes into it, after the agent has proven that it holds the private one.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_proto::{Fingerprint, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{AGENT_URI, CLUSTER_URI, PkiError, YEARS, named, valid_for};

/// What precedes the coordinator's name in the certificate of its authority.
const NAME: &str = "Holdfast agents of ";

/// The longest request for a certificate, in bytes of PEM.
const LONGEST: usize = 8 << 10;

/// A coordinator's authority over agents' certificates.
pub struct AgentAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl std::fmt::Debug for AgentAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentAuthority")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    valid_for(&mut params, 2 * YEARS);
    params
}

impl AgentAuthority {
    /// Makes one for a coordinator.
    ///
    /// # Errors
    /// The library refuses.
    pub fn generate(coordinator: &ActorName) -> Result<Self, PkiError> {
        let name = format!("{NAME}{coordinator}");
        let bad = |source| PkiError::Make {
            what: name.clone(),
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad)?;
        let params = params(&name);
        let certificate_pem = params.self_signed(&key).map_err(bad)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate_pem,
        })
    }

    /// Reads one that [`AgentAuthority::generate`] made.
    ///
    /// # Errors
    /// The texts are not a certificate and its key, or not ones of ours: above all not those
    /// of the off-line authority, which has no place on a coordinator.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let bad = |why: String| PkiError::AgentAuthority(why);
        let key = KeyPair::from_pem(key_pem).map_err(|e| bad(format!("its key cannot be read ({e})")))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| bad(format!("its certificate cannot be read ({e})")))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|e| bad(format!("its certificate cannot be read ({e})")))?;
        let name = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|cn| cn.as_str().ok())
            .filter(|name| name.starts_with(NAME))
            .ok_or_else(|| bad("its certificate is not one of an authority over agents".to_owned()))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(bad("its key does not belong to its certificate".to_owned()));
        }
        Ok(Self {
            issuer: Issuer::new(params(name), key),
            certificate_pem: certificate_pem.to_owned(),
        })
    }

    /// Its certificate (PEM): agents' certificates are checked against it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its key (PEM).
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// A certificate (DER) for a client of this identity and nothing else, from `from` until
    /// `until`, to the second.
    ///
    /// # Errors
    /// The library refuses.
    pub fn issue(
        &self,
        agent: &ActorName,
        clusters: &[ClusterId],
        key: &ProvenKey,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let bad = |source| PkiError::Make {
            what: agent.to_string(),
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = named(agent.as_str());
        let uris = std::iter::once(format!("{AGENT_URI}{agent}"))
            .chain(clusters.iter().map(|cluster| format!("{CLUSTER_URI}{cluster}")));
        params.subject_alt_names = uris
            .map(|uri| Ok(SanType::URI(uri.try_into().map_err(bad)?)))
            .collect::<Result<_, PkiError>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        // Two certificates of one key are told apart by it.
        params.serial_number = Some(SerialNumber::from_slice(&serial()));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + since_epoch(from);
        params.not_after = epoch + since_epoch(until);
        let certificate = params.signed_by(key, &self.issuer).map_err(bad)?;
        Ok(certificate.der().clone())
    }
}

/// 127 random bits, positive as serial numbers are.
fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

/// A moment as certificates have it, without the part of a second.
fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.unix_micros() / 1_000_000).unwrap_or_default())
}

/// A public key whose private half the sender of a request has shown to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey {
    point: Vec<u8>,
    spki: Vec<u8>,
}

impl ProvenKey {
    /// Takes the key out of a request (PKCS #10, PEM) and checks the request's signature,
    /// which only the holder of the private key can make. All else in it is passed over.
    ///
    /// # Errors
    /// It is no such request, its key is not ECDSA on P-256, or its signature does not hold.
    pub fn of_request(pem: &str) -> Result<Self, PkiError> {
        let bad = |why: &str| PkiError::Request(why.to_owned());
        if pem.len() > LONGEST {
            return Err(bad("it is longer than any request"));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| bad("it is no CERTIFICATE REQUEST in PEM"))?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| bad("it is not PKCS #10"))?;
        let info = &request.certification_request_info;
        let spki = &info.subject_pki;
        let curve = spki
            .algorithm
            .parameters
            .as_ref()
            .and_then(|curve| curve.as_oid().ok());
        let ours = rest.is_empty()
            && spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve.is_some_and(|curve| curve == OID_EC_P256)
            && request.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256;
        if !ours {
            return Err(bad("its key must be ECDSA on P-256, and sign with SHA-256"));
        }
        let point = &spki.subject_public_key.data;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| bad("its signature does not hold"))?;
        Ok(Self {
            point: point.to_vec(),
            spki: spki.raw.to_vec(),
        })
    }

    /// SHA-256 of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.spki)
    }
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests;
