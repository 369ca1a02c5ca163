//! Invitations: tokens with which an agent comes to its certificate, once.
//!
//! An invitation is a signed object at `control/invitations/<sha256 of the token>`. It is
//! used by creating `control/redemptions/<the same sha256>`, which names the agent's public
//! key and holds the certificate: the first to create it wins, whichever coordinator that
//! is, and nothing that a coordinator has on its own disk is needed to know it. Whoever asks
//! again with the same key, because an answer was lost, gets the same certificate.
//!
//! Both lie on the authority alone, and an invitation is good under the record of the
//! authority under which it was made. When the authority is moved away from a region that is
//! lost, nobody knows any more which tokens were used, so none of them is.
//!
//! It fails closed: what does not answer, or cannot be believed, lets nobody in.
//!
//! What does not hold: whoever can delete objects on the authority can make a token that was
//! used good again until it ends. No program of ours has such credentials.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::record::{InvitationBody, RedemptionBody};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use crate::Repository;
use crate::authority::{Authority, AuthorityError};
use crate::control::{copies, draft};
use crate::layout;
use crate::replica::{Class, Replica, StoreError};
use crate::signed::{self, Content};
use crate::signing::SigningKey;
use crate::trust::Trust;

/// An invitation that cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// Nobody has made it.
    #[error(
        "this token is not known: it was altered, or made for another repository. Ask for a new one \
         (`holdfast coordinator invite`)"
    )]
    Unknown,
    /// Its time is over.
    #[error("this token was good until {0}: ask for a new one (`holdfast coordinator invite`)")]
    Ended(Timestamp),
    /// Somebody else used it.
    #[error(
        "this token was used at {0} with another key. If that was not this agent, somebody else has its \
         certificate: end it ([[tls.ended]] in the coordinator's configuration). Ask for a new token \
         (`holdfast coordinator invite`)"
    )]
    Used(Timestamp),
    /// The authority was moved.
    #[error(
        "this token was made before the authority was moved, and nobody knows any more whether it was used: ask \
         for a new one (`holdfast coordinator invite`)"
    )]
    Moved,
    /// What lies there is not to be believed.
    #[error(
        "what the repository has about this token is not to be believed ({0}): ask for a new one (`holdfast \
         coordinator invite`)"
    )]
    Disbelieved(String),
    /// No authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The authority does not answer.
    #[error("the authority does not answer ({}): try again soon", .0.explained())]
    Store(#[from] StoreError),
}

/// An invitation that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// SHA-256 of the token.
    pub token: Sha256Digest,
    /// What it says.
    pub body: InvitationBody,
    /// The whole object.
    pub link: Link,
}

/// Where invitations of a repository lie at the moment.
#[derive(Debug)]
pub struct Invitations<'r> {
    authority: u64,
    replica: &'r Replica,
    trust: &'r Trust,
}

impl<'r> Invitations<'r> {
    /// Finds out which replica decides.
    ///
    /// # Errors
    /// No record of the authority is within reach, or it is a region that is not configured.
    pub async fn of(repository: &'r Repository, trust: &'r Trust) -> Result<Self, InvitationError> {
        let authority = Authority::load(repository, trust).await?;
        Ok(Self {
            authority: authority.n,
            replica: authority.replica(repository)?,
            trust,
        })
    }

    /// The number of the authority's record, for [`InvitationBody::authority`].
    pub fn authority(&self) -> u64 {
        self.authority
    }

    /// Stores an invitation.
    ///
    /// # Errors
    /// The authority does not take it.
    pub async fn make(
        &self,
        token: &Sha256Digest,
        body: &InvitationBody,
        signer: &SigningKey,
    ) -> Result<(), InvitationError> {
        let key = layout::invitation(token);
        let object = draft(self.trust, &key, Content::default(), body).sign(signer);
        self.replica.create(&key, object.bytes).await?;
        Ok(())
    }

    /// The invitation of a token, whether or not it can still be used.
    ///
    /// # Errors
    /// There is none, it is not to be believed, or the authority does not answer.
    pub async fn find(&self, token: &Sha256Digest) -> Result<Invitation, InvitationError> {
        let key = layout::invitation(token);
        let found = self.oldest::<InvitationBody>(&key).await?;
        let (body, link) = found.ok_or(InvitationError::Unknown)?;
        Ok(Invitation {
            token: *token,
            body,
            link,
        })
    }

    /// Whether an invitation can be used now by whoever has not used it yet.
    ///
    /// # Errors
    /// It has ended, or the authority was moved since.
    pub fn good(&self, invitation: &Invitation, now: Timestamp) -> Result<(), InvitationError> {
        if invitation.body.authority != self.authority {
            return Err(InvitationError::Moved);
        }
        if now >= invitation.body.ends {
            return Err(InvitationError::Ended(invitation.body.ends));
        }
        Ok(())
    }

    /// The certificate (DER) that was issued for this key; `None` when the invitation was
    /// not used yet.
    ///
    /// # Errors
    /// It was used with another key, what is there is not to be believed, or the authority
    /// does not answer.
    pub async fn used(
        &self,
        invitation: &Invitation,
        public: &Fingerprint,
    ) -> Result<Option<Vec<u8>>, InvitationError> {
        let key = layout::redemption(&invitation.token);
        let Some((body, _)) = self.oldest::<RedemptionBody>(&key).await? else {
            return Ok(None);
        };
        if body.public != *public || body.invitation != invitation.link {
            return Err(InvitationError::Used(body.at));
        }
        let certificate = STANDARD.decode(&body.certificate);
        let certificate = certificate.map_err(|e| InvitationError::Disbelieved(e.to_string()))?;
        Ok(Some(certificate))
    }

    /// Uses an invitation for a key. Returns the certificate that counts: this one, or the
    /// one that another coordinator has issued for the same key a moment before.
    ///
    /// # Errors
    /// It cannot be used, was used with another key, or the authority does not answer: then
    /// it may have been used all the same, and the same question is to be asked again.
    pub async fn redeem(
        &self,
        invitation: &Invitation,
        public: &Fingerprint,
        certificate: &[u8],
        signer: &SigningKey,
        now: Timestamp,
    ) -> Result<Vec<u8>, InvitationError> {
        self.good(invitation, now)?;
        let key = layout::redemption(&invitation.token);
        let body = RedemptionBody {
            invitation: invitation.link.clone(),
            public: *public,
            certificate: STANDARD.encode(certificate),
            at: now,
        };
        let object = draft(self.trust, &key, Content::default(), &body).sign(signer);
        match self.replica.create(&key, object.bytes).await {
            Ok(_) => Ok(certificate.to_vec()),
            Err(error) if error.class() == Class::Conflict => {
                let winner = self.used(invitation, public).await?;
                winner.ok_or_else(|| InvitationError::Disbelieved(format!("{key} has just been there")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The object at `key`: the oldest copy, because a later one was made by somebody who
    /// could overwrite. One that is not to be believed is an error, not its absence.
    async fn oldest<B: holdfast_proto::envelope::Record>(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<(B, Link)>, InvitationError> {
        let found = copies(self.replica, key).await;
        let bytes = match found.into_iter().next() {
            Some(bytes) => bytes,
            None => match self.replica.get(key).await {
                Ok(bytes) => bytes,
                Err(error) if error.class() == Class::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        let read = signed::verify::<B>(&bytes, key, self.trust);
        let read = read.map_err(|e| InvitationError::Disbelieved(e.to_string()))?;
        let link = read.link();
        Ok(Some((read.header.body, link)))
    }
}

#[cfg(test)]
mod tests;
