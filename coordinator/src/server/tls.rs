//! The agents' side of TLS: our certificate, and who may show theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsFiles;

/// TLS that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be used.
    #[error("{} cannot be used: {why}; make the files with `holdfast keys generate`", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The parts do not fit together.
    #[error("certificate and key do not fit together: {0}")]
    Setup(String),
}

fn bad(file: &Path, why: impl ToString) -> TlsError {
    TlsError::File {
        file: file.to_owned(),
        why: why.to_string(),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(|e| bad(file, e))?
        .collect();
    let read = read.map_err(|e| bad(file, e))?;
    if read.is_empty() {
        Err(bad(file, "it holds no certificate"))
    } else {
        Ok(read)
    }
}

/// A server that only talks to clients whose certificate comes from one of the
/// configured authorities. With `issuer`, the certificate (PEM) of our own authority over
/// agents, also to those whose comes from that one, and to clients without any: who is
/// among them must be told apart.
pub fn server_config(files: &TlsFiles, issuer: Option<&str>) -> Result<Arc<ServerConfig>, TlsError> {
    let setup = |e: &dyn std::fmt::Display| TlsError::Setup(e.to_string());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.client_ca)? {
        roots.add(authority).map_err(|e| bad(&files.client_ca, e))?;
    }
    if let Some(issuer) = issuer {
        let issuer = CertificateDer::from_pem_slice(issuer.as_bytes()).map_err(|e| setup(&e))?;
        roots.add(issuer).map_err(|e| setup(&e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    if issuer.is_some() {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(|e| bad(&files.client_ca, e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| bad(&files.key, e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| setup(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, key)
        .map_err(|e| setup(&e))?;
    // A session that is taken up again carries the certificate that was checked at its
    // begin, which may have ended since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
