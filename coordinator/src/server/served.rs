//! A listener's own certificate, read anew when its files change.
//!
//! A connection gets the certificate that is in use when it begins. Files that do not fit
//! together, because one of them is being replaced or by mistake, change nothing: what was
//! read before stays in use, and after a while it is a finding.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use holdfast_proto::{Sha256Digest, Timestamp};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::tls::{TlsError, bad};

/// What is to be known of a certificate that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedState {
    /// From when on it is valid.
    pub begins: Timestamp,
    /// Until when.
    pub ends: Timestamp,
    /// Why the files cannot be used that are there now, and since when.
    pub trouble: Option<(String, Timestamp)>,
}

/// A certificate with its key, and the files of which it was read.
#[derive(Debug)]
pub struct Served {
    /// The listener, by its key in the configuration.
    pub listener: &'static str,
    cert: PathBuf,
    key: PathBuf,
    held: RwLock<Held>,
}

#[derive(Debug)]
struct Held {
    /// Of what the files held.
    digest: Sha256Digest,
    pair: Arc<CertifiedKey>,
    state: ServedState,
}

impl Served {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, or are not a certificate and its key.
    pub fn read(listener: &'static str, cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let (chain, secret) = files(cert, key)?;
        let held = held(cert, key, &chain, &secret)?;
        Ok(Arc::new(Self {
            listener,
            cert: cert.to_owned(),
            key: key.to_owned(),
            held: RwLock::new(held),
        }))
    }

    /// Looks at the files, and takes up what they hold when that is another certificate.
    pub fn look(&self, now: Timestamp) -> ServedState {
        let read = files(&self.cert, &self.key).and_then(|(chain, secret)| {
            if digest(&chain, &secret) == self.held().digest {
                return Ok(None);
            }
            held(&self.cert, &self.key, &chain, &secret).map(Some)
        });
        let mut current = self.held.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(None) => current.state.trouble = None,
            Ok(Some(new)) => {
                tracing::info!(listener = self.listener, until = %new.state.ends, "another certificate was taken up");
                *current = new;
            }
            Err(why) => {
                let since = current.state.trouble.as_ref().map_or(now, |(_, since)| *since);
                current.state.trouble = Some((why.to_string(), since));
            }
        }
        current.state.clone()
    }

    fn held(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.held().pair))
    }
}

fn files(cert: &Path, key: &Path) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), TlsError> {
    let chain = std::fs::read(cert).map_err(|e| bad(cert, e))?;
    let secret = std::fs::read(key).map_err(|e| bad(key, e))?;
    Ok((chain, Zeroizing::new(secret)))
}

fn digest(chain: &[u8], secret: &[u8]) -> Sha256Digest {
    let both = Zeroizing::new(
        [
            &Sha256Digest::of(chain).as_bytes()[..],
            &Sha256Digest::of(secret).as_bytes()[..],
        ]
        .concat(),
    );
    Sha256Digest::of(&both)
}

fn held(cert: &Path, key: &Path, chain: &[u8], secret: &[u8]) -> Result<Held, TlsError> {
    let digest = digest(chain, secret);
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let certificates = certificates.map_err(|e| bad(cert, e))?;
    let first = certificates
        .first()
        .ok_or_else(|| bad(cert, "it holds no certificate"))?;
    let (_, read) = X509Certificate::from_der(first).map_err(|e| bad(cert, e))?;
    let moment = |seconds: i64| Timestamp::from_unix_micros(seconds.saturating_mul(1_000_000));
    let state = ServedState {
        begins: moment(read.validity().not_before.timestamp()),
        ends: moment(read.validity().not_after.timestamp()),
        trouble: None,
    };
    let secret = PrivateKeyDer::from_pem_slice(secret).map_err(|e| bad(key, e))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pair = CertifiedKey::from_der(certificates, secret, &provider)
        .map_err(|e| TlsError::Setup(format!("{} and {}: {e}", cert.display(), key.display())))?;
    Ok(Held {
        digest,
        pair: Arc::new(pair),
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::now;
    use crate::pki::Authority;

    #[test]
    fn files_are_taken_up_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("c.crt"), dir.path().join("c.key"));
        let authority = Authority::generate().unwrap();
        let issue = || {
            authority
                .issue_server(&"c".parse().unwrap(), &["localhost".to_owned()])
                .unwrap()
        };
        let (one, two) = (issue(), issue());
        std::fs::write(&cert, &one.certificate_pem).unwrap();
        assert!(Served::read("listen_http", &cert, &key).is_err());
        std::fs::write(&key, two.key_pem.as_bytes()).unwrap();
        assert!(Served::read("listen_http", &cert, &key).is_err());
        std::fs::write(&key, one.key_pem.as_bytes()).unwrap();
        let served = Served::read("listen_http", &cert, &key).unwrap();
        let first = Arc::clone(&served.held().pair);
        assert_eq!(served.look(now()).trouble, None);
        assert!(Arc::ptr_eq(&first, &served.held().pair));

        // Half of the next: the one before stays, and it is said since when.
        let at = now();
        std::fs::write(&cert, &two.certificate_pem).unwrap();
        let (_, since) = served.look(at).trouble.unwrap();
        let (why, again) = served.look(at.plus_millis(1000)).trouble.unwrap();
        assert!(since == at && again == at && why.contains("c.crt"), "{why}");
        std::fs::remove_file(&key).unwrap();
        assert!(served.look(at).trouble.is_some());
        assert!(Arc::ptr_eq(&first, &served.held().pair));
        std::fs::write(&key, two.key_pem.as_bytes()).unwrap();
        assert_eq!(served.look(at).trouble, None);
        assert_ne!(first.cert, served.held().pair.cert);
    }
}
