//! The agent's certificate for its coordinators: how it comes to one, and to the next.
//!
//! Either somebody else makes and renews the files of `cert` and `key`; they are read anew
//! when they change. Or the agent keeps a certificate of its own:
//!
//! ```text
//! STATE/certificate.pem         the key and the certificate in use (0600)
//! STATE/certificate.next.pem    the key for which one is asked, and what was issued for it
//!                               until it is proven (0600)
//! ```
//!
//! The key is made here and never leaves. It is on disk before a certificate is asked for,
//! so that an answer that is lost is asked for again with the same key, which is what a
//! token that was used is still good for. When a third of its time is left the certificate
//! is renewed, with a new key; the new one takes the old one's place, in one rename, once a
//! coordinator was seen to take it.
//!
//! Nothing here stops protection: an agent without a certificate protects by its tier's own
//! schedule, and says so.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use holdfast_proto::Timestamp;
use holdfast_proto::message::{Enrolment, Renewal};
use holdfast_proto::names::ActorName;
use holdfast_repository::secret_file::{self, SecretFileError};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::config::{AgentConfig, CertificateSource};
use crate::durable::{self, LocalFileError};
use crate::heartbeat::{CallError, Caller};
use crate::state::{StateDir, StateError};

mod tending;

pub use tending::run;

/// There is no certificate, or not the next one.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No coordinator is configured.
    #[error("the agent's configuration has no [coordinator]: there is nobody to enrol at")]
    NoCoordinator,
    /// The files are somebody else's.
    #[error(
        "the agent's configuration names cert and key in [coordinator]: take both out, and the agent keeps its own \
         certificate in state_dir"
    )]
    Files,
    /// Nobody named a token.
    #[error(
        "there is no certificate yet: make a token with `holdfast coordinator invite` and hand it over with \
         `holdfast agent enrol --token-file FILE` or enrolment_token_file in [coordinator]"
    )]
    NoToken,
    /// The token cannot be read.
    #[error("the token: {0}")]
    Token(#[from] SecretFileError),
    /// No key.
    #[error("a key for the certificate could not be made: {0}")]
    Key(String),
    /// What is there is not a key with its certificate.
    #[error("{what} is not a key and its certificate ({why})")]
    Pair {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The token was refused, and there is a certificate.
    #[error("{why}\nThis agent has a certificate already, until {until}, and goes on with it")]
    Has {
        /// Until when it has one.
        until: Timestamp,
        /// Why no other one was issued.
        why: CallError,
    },
    /// A new one is not taken.
    #[error("the new certificate is not taken yet, the one before stays: {0}")]
    NotTaken(CallError),
    /// The coordinators.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The disk.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A key and its certificate.
pub struct Credential {
    text: Zeroizing<String>,
    /// From when on it is valid.
    pub begins: Timestamp,
    /// Until when.
    pub ends: Timestamp,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("begins", &self.begins)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Credential {
    /// Reads a text that has a private key and a certificate, and maybe the rest of its chain
    /// (PEM). `what` names it in errors.
    ///
    /// # Errors
    /// It has not.
    pub fn read(text: Zeroizing<String>, what: &str) -> Result<Self, CertificateError> {
        let bad = |why: String| CertificateError::Pair {
            what: what.to_owned(),
            why,
        };
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| bad(format!("its key: {e}")))?;
        let der = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|e| bad(format!("its certificate: {e}")))?;
        let (_, read) = X509Certificate::from_der(&der).map_err(|e| bad(format!("its certificate: {e}")))?;
        let moment = |seconds: i64| Timestamp::from_unix_micros(seconds.saturating_mul(1_000_000));
        let (begins, ends) = (
            moment(read.validity().not_before.timestamp()),
            moment(read.validity().not_after.timestamp()),
        );
        Ok(Self { text, begins, ends })
    }

    /// The certificate and those above it.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        let all = CertificateDer::pem_slice_iter(self.text.as_bytes());
        all.filter_map(Result::ok).collect()
    }

    /// The key.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.text.as_bytes()).expect("it was read when this was made")
    }

    /// How long it is valid in all, in milliseconds.
    fn lifetime(&self) -> u64 {
        self.ends.millis_since(self.begins)
    }

    /// From when on it is renewed: with a third of its time left.
    fn due(&self) -> Timestamp {
        self.ends
            .plus_millis(-i64::try_from(self.lifetime() / 3).unwrap_or(i64::MAX))
    }
}

/// A key for which a certificate is asked.
struct NextKey(KeyPair);

impl NextKey {
    /// PKCS #10, signed with the key. Who the certificate is for is the coordinator's to say.
    fn request(&self) -> Result<String, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params
            .serialize_request(&self.0)
            .and_then(|request| request.pem());
        request.map_err(|e| CertificateError::Key(e.to_string()))
    }

    fn with(&self, certificate: &str) -> Zeroizing<String> {
        let key = Zeroizing::new(self.0.serialize_pem());
        Zeroizing::new(format!("{}{certificate}", key.as_str()))
    }
}

/// The certificate that the agent keeps.
#[derive(Debug, Clone)]
pub struct Kept {
    current: PathBuf,
    next: PathBuf,
}

impl Kept {
    /// The one in this state directory.
    pub fn of(state: &StateDir) -> Self {
        Self {
            current: state.certificate(),
            next: state.next_certificate(),
        }
    }

    /// The one in use; `None` when there is none that can be read.
    ///
    /// # Errors
    /// The disk.
    pub fn current(&self) -> Result<Option<Credential>, LocalFileError> {
        read(&self.current)
    }

    /// What was issued and is not proven yet.
    fn unproven(&self) -> Result<Option<Credential>, LocalFileError> {
        read(&self.next)
    }

    /// The key for which a certificate is to be asked: one that is on disk already, for
    /// which none came, or a new one, which is on disk when this returns.
    fn next_key(&self) -> Result<NextKey, CertificateError> {
        if let Some(bytes) = durable::read(&self.next)?.map(Zeroizing::new)
            && let Ok(text) = std::str::from_utf8(&bytes)
            && CertificateDer::from_pem_slice(text.as_bytes()).is_err()
            && let Ok(key) = KeyPair::from_pem(text)
        {
            return Ok(NextKey(key));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| CertificateError::Key(e.to_string()))?;
        let text = Zeroizing::new(key.serialize_pem());
        durable::replace(&self.next, text.as_bytes())?;
        Ok(NextKey(key))
    }

    /// Keeps what was issued for the next key, beside the one in use.
    fn keep_next(&self, credential: &Credential) -> Result<(), LocalFileError> {
        durable::replace(&self.next, credential.text.as_bytes())
    }

    /// Has a credential take the place of the one in use.
    fn adopt(&self, credential: &Credential) -> Result<(), LocalFileError> {
        durable::replace(&self.current, credential.text.as_bytes())?;
        durable::remove(&self.next)
    }

    /// What was issued before the one in use ended, and can be proven only now.
    async fn last_hope(
        &self,
        caller: &Caller,
        agent: &ActorName,
        now: Timestamp,
    ) -> Result<Option<Credential>, CertificateError> {
        let Some(credential) = self.unproven()?.filter(|next| now < next.ends) else {
            return Ok(None);
        };
        let proven = caller.prove(&credential, agent).await;
        proven.map_err(CertificateError::NotTaken)?;
        self.adopt(&credential)?;
        Ok(Some(credential))
    }

    /// Gets a first certificate for a token.
    async fn enrol(
        &self,
        caller: &Caller,
        agent: &ActorName,
        token_file: &Path,
    ) -> Result<Credential, CertificateError> {
        let token = secret_file::read(token_file)?;
        let key = self.next_key()?;
        let asked = Enrolment {
            agent: agent.clone(),
            token: token.trim().to_owned(),
            request: key.request()?,
        };
        let issued = caller.enrol(&asked).await?;
        let credential = Credential::read(key.with(&issued.certificate), "what was issued")?;
        // That it fits is seen before it is kept.
        caller.connector(&credential)?;
        self.adopt(&credential)?;
        Ok(credential)
    }

    /// Gets the next certificate and has it take the place of the one in use when it is
    /// taken. What was issued before and not proven then goes first.
    async fn renew(
        &self,
        caller: &Caller,
        agent: &ActorName,
        now: Timestamp,
    ) -> Result<Credential, CertificateError> {
        let waiting = self.unproven()?.filter(|next| now < next.due());
        let credential = match waiting {
            Some(credential) => credential,
            None => {
                let key = self.next_key()?;
                let asked = Renewal {
                    request: key.request()?,
                };
                let issued = caller.renew(&asked).await?;
                let credential = Credential::read(key.with(&issued.certificate), "what was issued")?;
                self.keep_next(&credential)?;
                credential
            }
        };
        let proven = caller.prove(&credential, agent).await;
        proven.map_err(CertificateError::NotTaken)?;
        self.adopt(&credential)?;
        Ok(credential)
    }
}

fn read(path: &Path) -> Result<Option<Credential>, LocalFileError> {
    let Some(bytes) = durable::read(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    match Credential::read(text, &path.display().to_string()) {
        Ok(credential) => Ok(Some(credential)),
        Err(error) => {
            tracing::debug!(err = %error, "there is no certificate in a file");
            Ok(None)
        }
    }
}

/// Reads a certificate and its key from the files that the configuration names.
///
/// # Errors
/// One cannot be read, or they are not a pair.
pub(crate) fn of_files(cert: &Path, key: &Path) -> Result<Credential, CallError> {
    let unreadable = |what: &'static str, path: &Path, why: io::Error| CallError::Pem {
        what,
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let certificate = std::fs::read_to_string(cert).map_err(|e| unreadable("the certificate", cert, e))?;
    let secret = std::fs::read_to_string(key).map_err(|e| unreadable("the key", key, e))?;
    let secret = Zeroizing::new(secret);
    let text = Zeroizing::new(format!("{}\n{certificate}", secret.as_str()));
    Credential::read(text, "a file").map_err(|e| CallError::Pem {
        what: "the certificate or the key of",
        path: cert.display().to_string(),
        why: e.to_string(),
    })
}

/// Gets a certificate for a token now, whether or not there is one already. A running agent
/// takes it up by itself.
///
/// # Errors
/// There is no coordinator, no token, or the coordinator gives none.
pub async fn enrol(config: &AgentConfig, token_file: Option<&Path>) -> Result<Credential, CertificateError> {
    let coordinator = config.coordinator.as_ref();
    let coordinator = coordinator.ok_or(CertificateError::NoCoordinator)?;
    let CertificateSource::Kept { token_file: named } = &coordinator.certificate else {
        return Err(CertificateError::Files);
    };
    let token_file = token_file.or(named.as_deref()).ok_or(CertificateError::NoToken)?;
    let kept = Kept::of(&StateDir::open(&config.state_dir)?);
    let caller = Caller::new(coordinator)?;
    let before = kept.current()?.map(|current| current.ends);
    let before = before.filter(|until| holdfast_repository::clock::now() < *until);
    match (kept.enrol(&caller, &config.name, token_file).await, before) {
        (Err(CertificateError::Call(why @ CallError::Refused { .. })), Some(until)) => {
            Err(CertificateError::Has { until, why })
        }
        (outcome, _) => outcome,
    }
}

/// When files were last written; `None` for one that is not there.
fn written(files: &[&Path]) -> Vec<Option<SystemTime>> {
    let at = |file: &&Path| std::fs::metadata(file).and_then(|meta| meta.modified()).ok();
    files.iter().map(at).collect()
}

/// How often files are looked at that somebody else may write.
const LOOK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
