//! What an object needs, so that it is of use to a restore.
//!
//! Known for every kind of object in one place: replication asks it of one
//! replica, before it copies a commit point there, and scrubbing of all of them
//! together.

use bytes::Bytes;
use holdfast_proto::manifest::Part;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::record::{
    AuthorityBody, BaseBody, BundleBody, FrontierBody, HistoryBody, InflightBody, JournalBody, JournalKind,
    KeyBody, LeaseBody, PointBody, TrustBody, WalBody,
};
use holdfast_proto::{Fingerprint, Sha256Digest};

use crate::layout::Located;
use crate::signed;
use crate::trust::Trust;

/// What a verified object needs beside itself.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Fingerprints of epoch keys that open it.
    pub keys: Vec<Fingerprint>,
    /// Other signed objects.
    pub objects: Vec<ObjectKey>,
    /// Indexes, catalogues and the packs that they name.
    pub parts: Vec<Part>,
}

/// Verifies an object, by its digest or its signature, and tells what it needs.
///
/// # Errors
/// Why it is not what belongs at `key`.
pub(crate) fn verified(
    trust: &Trust,
    key: &ObjectKey,
    located: &Located,
    bytes: &Bytes,
) -> Result<Needs, String> {
    macro_rules! verified {
        ($body:ty) => {
            signed::verify::<$body>(bytes, key, trust).map_err(|e| e.to_string())?
        };
    }
    let mut needs = Needs::default();
    match located {
        Located::Pack { sha256, .. } | Located::Index { sha256, .. } => {
            if Sha256Digest::of(bytes) != *sha256 {
                return Err("its SHA-256 is not its name".to_owned());
            }
        }
        Located::Trust { n } => {
            // Record 0 verifies only as the chain's begin; the loaded chain
            // has the digest of each record.
            let digest = Sha256Digest::of(bytes);
            let known = usize::try_from(*n).ok().and_then(|n| trust.records().get(n));
            if known.is_none_or(|link| link.sha256 != digest) {
                let _: holdfast_proto::envelope::Header<TrustBody> = verified!(TrustBody).header;
                return Err("it is not the record of the trust chain that was loaded".to_owned());
            }
        }
        Located::Authority { .. } => drop(verified!(AuthorityBody)),
        Located::Key { .. } => drop(verified!(KeyBody)),
        Located::Lease { .. } => drop(verified!(LeaseBody)),
        Located::Inflight { .. } => drop(verified!(InflightBody)),
        Located::Frontier { .. } => drop(verified!(FrontierBody)),
        Located::History { .. } => drop(verified!(HistoryBody)),
        Located::Bundle { .. } => needs.keys.extend(verified!(BundleBody).header.payload.sealed_to),
        Located::Wal { .. } => needs
            .keys
            .extend(verified!(WalBody).body().chunks.iter().map(|c| c.sealed_to)),
        Located::Journal { .. } => {
            let signed = verified!(JournalBody);
            if signed.body().entry == JournalKind::Delta {
                needs.objects.extend(signed.header.previous.map(|link| link.key));
            }
            needs.parts = signed.header.body.parts;
        }
        Located::Base { .. } => {
            let signed = verified!(BaseBody);
            needs.keys.extend(signed.header.payload.sealed_to);
            needs.parts = signed.header.body.parts;
        }
        Located::Point { .. } => {
            let body = verified!(PointBody).header.body;
            needs
                .objects
                .extend(body.filestores.into_iter().map(|f| f.entry.key));
            needs.objects.extend(body.config.map(|link| link.key));
        }
        _ => return Err("objects of this kind are not replicated here".to_owned()),
    }
    Ok(needs)
}
