//! A private certificate authority for the coordinator and its agents.
//!
//! Certificates only say who is at the other end of a connection: whether a
//! name may do anything is the trust chain's business. An agent's certificate
//! carries its name as the URI `holdfast://agent/<name>`, a server's the host
//! names and addresses under which it is reached. An organisation that has an
//! authority of its own issues the same and does not need this one.
//!
//! All keys are ECDSA on P-256. Nothing is written here; whoever keeps the
//! authority's key keeps it off line. What a coordinator issues by itself, for agents
//! that show a token and for those that renew, is in [`issuing`].

pub mod issuing;

use std::collections::BTreeSet;

use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, ClusterId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// The authority's name in the certificates that it issues.
const AUTHORITY: &str = "Holdfast private authority";

/// What precedes an agent's name in its certificate.
const AGENT_URI: &str = "holdfast://agent/";

/// What precedes each cluster that an agent's certificate is bound to.
const CLUSTER_URI: &str = "holdfast://cluster/";

/// How long certificates are valid, in years from the one in which they are made.
const YEARS: i32 = 5;

/// Certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The library refused.
    #[error("the certificate of {what} could not be made: {source}")]
    Make {
        /// Whose.
        what: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The authority's files are not an authority of ours.
    #[error(
        "the certificate authority cannot be used: {0}; give the files that `holdfast keys generate` wrote"
    )]
    Authority(String),
    /// The files are not a coordinator's authority over agents.
    #[error("the authority over agents cannot be used: {0}; make one with `holdfast coordinator issuer`")]
    AgentAuthority(String),
    /// What asks for a certificate is no request.
    #[error("this is not a request for a certificate: {0}")]
    Request(String),
}

/// A certificate and its private key, both in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The key.
    pub key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, 2 * YEARS);
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Valid from the beginning of the year before this one (clocks differ, and
/// years are all that is needed) to the end of the last one.
fn valid_for(params: &mut CertificateParams, years: i32) {
    let year = chrono::Datelike::year(&chrono::Utc::now());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + years, 12, 31);
}

impl Authority {
    /// Makes an authority.
    pub fn generate() -> Result<Self, PkiError> {
        let bad = |source| PkiError::Make {
            what: AUTHORITY.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(bad)?;
        let params = authority_params();
        let certificate_pem = params.self_signed(&key).map_err(bad)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate_pem,
        })
    }

    /// Reads an authority that [`Authority::generate`] made.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let bad = |why: String| PkiError::Authority(why);
        let key = KeyPair::from_pem(key_pem).map_err(|e| bad(format!("its key cannot be read ({e})")))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| bad(format!("its certificate cannot be read ({e})")))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|e| bad(format!("its certificate cannot be read ({e})")))?;
        let name = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|cn| cn.as_str().ok());
        if name != Some(AUTHORITY) {
            return Err(bad("its certificate was made by another program".to_owned()));
        }
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(bad("its key does not belong to its certificate".to_owned()));
        }
        Ok(Self {
            issuer: Issuer::new(authority_params(), key),
            certificate_pem: certificate_pem.to_owned(),
        })
    }

    /// The authority's certificate: what both sides check the other's against.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's key, to be kept off line.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// A coordinator's certificate for the hosts (names or addresses) under
    /// which agents reach it.
    pub fn issue_server(&self, name: &ActorName, hosts: &[String]) -> Result<Issued, PkiError> {
        let bad = |source| PkiError::Make {
            what: name.to_string(),
            source,
        };
        let mut params = CertificateParams::new(hosts).map_err(bad)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(name, params)
    }

    /// An agent's certificate.
    pub fn issue_agent(&self, name: &ActorName) -> Result<Issued, PkiError> {
        let bad = |source| PkiError::Make {
            what: name.to_string(),
            source,
        };
        let mut params = CertificateParams::default();
        let uri = format!("{AGENT_URI}{name}").try_into().map_err(bad)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, params)
    }

    fn issue(&self, name: &ActorName, mut params: CertificateParams) -> Result<Issued, PkiError> {
        let bad = |source| PkiError::Make {
            what: name.to_string(),
            source,
        };
        params.distinguished_name = named(name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, YEARS);
        let key = KeyPair::generate().map_err(bad)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(bad)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }
}

/// An agent as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Its name.
    pub agent: ActorName,
    /// The clusters that it may speak for at most; empty when the certificate binds it to
    /// none, and the trust chain alone decides.
    pub clusters: BTreeSet<ClusterId>,
    /// From when on the certificate is valid.
    pub from: Timestamp,
    /// Until when it is.
    pub until: Timestamp,
}

/// The agent whose certificate this is: `None` when it names none, or more than
/// one, so that nobody can be two agents at once, or when it is bound to what is no cluster.
pub fn agent_of(certificate: &CertificateDer<'_>) -> Option<AgentIdentity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let uris = || {
        names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
    };
    let mut agents = uris().filter_map(|uri| uri.strip_prefix(AGENT_URI));
    let agent = match (agents.next(), agents.next()) {
        (Some(name), None) => name.parse().ok()?,
        _ => return None,
    };
    let clusters = uris().filter_map(|uri| uri.strip_prefix(CLUSTER_URI));
    let moment = |seconds: i64| Timestamp::from_unix_micros(seconds.saturating_mul(1_000_000));
    let validity = certificate.validity();
    Some(AgentIdentity {
        agent,
        clusters: clusters.map(|name| name.parse().ok()).collect::<Option<_>>()?,
        from: moment(validity.not_before.timestamp()),
        until: moment(validity.not_after.timestamp()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn an_agents_certificate_carries_its_name() {
        let authority = Authority::generate().unwrap();
        let name: ActorName = "erp-1".parse().unwrap();
        let agent = authority.issue_agent(&name).unwrap();
        let seen = agent_of(&der(&agent.certificate_pem)).unwrap();
        assert!(seen.agent == name && seen.clusters.is_empty(), "{seen:?}");
        assert_eq!(agent_of(&der(authority.certificate_pem())), None);
        let server = authority
            .issue_server(&name, &["localhost".to_owned(), "127.0.0.1".to_owned()])
            .unwrap();
        assert_eq!(agent_of(&der(&server.certificate_pem)), None);
        assert!(!format!("{agent:?} {authority:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn two_agents_in_one_certificate_are_nobody() {
        let mut params = CertificateParams::default();
        for name in ["a", "b"] {
            params
                .subject_alt_names
                .push(SanType::URI(format!("{AGENT_URI}{name}").try_into().unwrap()));
        }
        let both = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(agent_of(both.der()), None);
    }

    #[test]
    fn an_authority_is_read_back_and_foreign_ones_are_refused() {
        let authority = Authority::generate().unwrap();
        let again = Authority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
        assert!(again.issue_agent(&"x".parse().unwrap()).is_ok());
        let other = Authority::generate().unwrap();
        let error = Authority::from_pem(authority.certificate_pem(), &other.key_pem()).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{error}");
        let mut params = CertificateParams::default();
        params.distinguished_name = named("somebody");
        let key = KeyPair::generate().unwrap();
        let foreign = params.self_signed(&key).unwrap();
        assert!(Authority::from_pem(&foreign.pem(), &key.serialize_pem()).is_err());
        assert!(Authority::from_pem("x", "y").is_err());
    }
}
