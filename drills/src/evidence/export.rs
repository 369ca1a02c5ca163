//! One drill's evidence as a directory that needs nothing of ours to be checked.
//!
//! ```text
//! VERIFY.md  verify.py               how to check it, by hand and by script
//! statement.json                     the statement, the very bytes that were signed
//! envelope.json                      the same in DSSE, with every signature
//! result.entry  intent.entry         the two entries of the log
//! statement.tlog-proof               the result's place in the log
//! intent.tlog-proof                  the intent's, in the checkpoint held before the work began
//! checkpoint  checkpoints/<size>     the log's head, and earlier ones
//! tile/…                             the log's hashes; with tile/entries/…, its entries
//! trust/<n>                          the trust chain as stored
//! openssl/…                          signed bytes, signatures and keys, a file each
//! ```
//!
//! [`files`] is pure. [`write`] puts its result into a directory that is absent
//! or empty, each file synced; if the process dies in between, what lies there
//! does not verify.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use holdfast_proto::envelope;
use holdfast_proto::record::{KeyAlgorithm, TrustRole};
use holdfast_proto::{Fingerprint, Sha256Digest};
use holdfast_repository::signing::VerifyingKey;
use holdfast_repository::trust::{Trust, TrustError};

use super::dsse::{Envelope, EnvelopeSignature};
use super::entry::{Entry, LoggedEntry};
use super::tlog::merkle::ProofError;
use super::tlog::tiles::{EntryTooLong, LogFile, entry_bundles, hash_tiles};
use super::tlog::{SignedCheckpoint, TlogProof, Tree};

/// The script that checks an export.
pub const VERIFY_PY: &str = include_str!("../../export/verify.py");
const VERIFY_MD: &str = include_str!("../../export/VERIFY.md");

/// What goes into an export.
#[derive(Debug, Clone)]
pub struct ExportInput {
    /// The result's entry.
    pub result: LoggedEntry,
    /// Its place in the log.
    pub result_index: u64,
    /// Signatures over the statement besides the runner's.
    pub countersignatures: Vec<EnvelopeSignature>,
    /// The intent's entry.
    pub intent: LoggedEntry,
    /// The checkpoint in which the runner saw its intent before it began.
    pub intent_checkpoint: SignedCheckpoint,
    /// The log's head.
    pub checkpoint: SignedCheckpoint,
    /// Earlier heads that an auditor may want, among them those by which a
    /// revocation says what is still believed. Stored bytes.
    pub earlier_checkpoints: Vec<SignedCheckpoint>,
    /// The log's leaf hashes, at least as many as the head has entries.
    pub tree: Tree,
    /// Every entry up to the head, for those who may see all drills.
    pub entries: Option<Vec<Vec<u8>>>,
    /// The trust records as stored, from record 0.
    pub trust_records: Vec<Vec<u8>>,
    /// The same, verified.
    pub trust: Trust,
}

/// Why an export was not made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The result is not a statement.
    #[error("entry {0} is not a drill's result: export the entry that holds its statement")]
    NotAResult(u64),
    /// Log and checkpoint do not fit.
    #[error("the log's hashes do not lead to its checkpoint: {0}")]
    Log(#[from] ProofError),
    /// An entry is too long.
    #[error(transparent)]
    Entry(#[from] EntryTooLong),
    /// The trust chain cannot be told apart.
    #[error("the trust chain cannot be exported: {0}")]
    Trust(Box<TrustError>),
    /// Something signed is by a key that the chain does not know.
    #[error(
        "{what} is signed by key {key}, which the trust chain does not know: enrol it, then export again"
    )]
    Stranger {
        /// What was signed.
        what: &'static str,
        /// By which key.
        key: Fingerprint,
    },
    /// A trust record is not a signed object.
    #[error("trust record {0} is not a signed object: fetch it again from another replica")]
    TrustRecord(usize),
    /// The directory has something in it.
    #[error("{0} is not empty: export into a new directory")]
    NotEmpty(PathBuf),
    /// The directory cannot be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// What was written.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl From<TrustError> for ExportError {
    fn from(e: TrustError) -> Self {
        ExportError::Trust(Box::new(e))
    }
}

/// Every file of the export.
pub fn files(input: &ExportInput) -> Result<Vec<LogFile>, ExportError> {
    let Entry::Result(statement) = &input.result.entry else {
        return Err(ExportError::NotAResult(input.result_index));
    };
    let size = input.checkpoint.checkpoint().size;
    let leaves = input
        .tree
        .leaves()
        .get(..size as usize)
        .ok_or(ProofError::OutOfRange {
            index: size.saturating_sub(1),
            size: input.tree.len(),
        })?;
    let tree = Tree::from_leaf_hashes(leaves.to_vec());
    let result = TlogProof::make(&tree, input.result_index, input.checkpoint.clone())?;
    let intent_index = statement.predicate.drill.intent.index;
    let intent = TlogProof::make(&tree, intent_index, input.intent_checkpoint.clone())?;
    let mut envelope = input.result.envelope.clone();
    input
        .countersignatures
        .iter()
        .for_each(|s| envelope.add(s.clone()));

    let mut out = Vec::new();
    let mut add = |path: &str, bytes: Vec<u8>| {
        out.push(LogFile {
            path: path.to_owned(),
            bytes,
        })
    };
    add("verify.py", VERIFY_PY.as_bytes().to_vec());
    add("statement.json", envelope.payload.clone());
    add("envelope.json", envelope.to_bytes());
    add("result.entry", input.result.bytes().to_vec());
    add("intent.entry", input.intent.bytes().to_vec());
    add("statement.tlog-proof", result.to_bytes());
    add("intent.tlog-proof", intent.to_bytes());
    add("checkpoint", input.checkpoint.to_bytes());
    for earlier in &input.earlier_checkpoints {
        add(
            &format!("checkpoints/{}", earlier.checkpoint().size),
            earlier.to_bytes(),
        );
    }
    for (n, record) in input.trust_records.iter().enumerate() {
        add(&format!("trust/{n:016}"), record.clone());
    }
    out.extend(hash_tiles(&tree));
    if let Some(entries) = &input.entries {
        let count = entries.len().min(size as usize);
        out.extend(entry_bundles(&entries[..count])?);
    }
    let loose = loose_files(&Loose {
        envelope: &envelope,
        intent: &input.intent.envelope,
        checkpoint: &input.checkpoint,
        trust_records: &input.trust_records,
        trust: &input.trust,
    })?;
    out.push(LogFile {
        path: "VERIFY.md".to_owned(),
        bytes: guide(input.trust.root(), &loose).into_bytes(),
    });
    out.extend(distinct(loose));
    Ok(out)
}

/// Writes an export into `dir`, which must be absent or empty.
pub fn write(dir: &Path, files: &[LogFile]) -> Result<(), ExportError> {
    let fail = |path: &Path, source| ExportError::Io {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(|e| fail(dir, e))?;
    if fs::read_dir(dir).map_err(|e| fail(dir, e))?.next().is_some() {
        return Err(ExportError::NotEmpty(dir.to_owned()));
    }
    for file in files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| fail(parent, e))?;
        }
        let mut out = fs::File::create_new(&path).map_err(|e| fail(&path, e))?;
        out.write_all(&file.bytes)
            .and_then(|()| out.sync_all())
            .map_err(|e| fail(&path, e))?;
    }
    Ok(())
}

/// What the `openssl/` files are taken from.
pub(super) struct Loose<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) intent: &'a Envelope,
    pub(super) checkpoint: &'a SignedCheckpoint,
    pub(super) trust_records: &'a [Vec<u8>],
    pub(super) trust: &'a Trust,
}

/// A signature, what it covers and the key, ready for a command line.
pub(super) struct LooseSignature {
    what: String,
    by: String,
    key: VerifyingKey,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl LooseSignature {
    fn message_path(&self) -> String {
        format!("openssl/{}.signed", self.what)
    }

    fn signature_path(&self) -> String {
        format!("openssl/{}.{}.sig", self.what, self.by)
    }

    fn key_path(&self) -> String {
        format!("openssl/{}.pem", self.by)
    }

    fn command(&self) -> String {
        let (key, sig, message) = (self.key_path(), self.signature_path(), self.message_path());
        match self.key.algorithm() {
            KeyAlgorithm::Ed25519 => {
                format!("openssl pkeyutl -verify -pubin -inkey {key} -rawin -in {message} -sigfile {sig}")
            }
            KeyAlgorithm::EcdsaP256 => {
                format!("openssl dgst -sha256 -verify {key} -signature {sig} {message}")
            }
        }
    }

    fn into_files(self) -> [(String, Vec<u8>); 3] {
        [
            (self.key_path(), self.key.to_pem().into_bytes()),
            (self.signature_path(), self.signature.clone()),
            (self.message_path(), self.message),
        ]
    }
}

/// The files of several signatures; what they share is there once.
pub(super) fn distinct(signatures: Vec<LooseSignature>) -> Vec<LogFile> {
    let files: BTreeMap<String, Vec<u8>> = signatures
        .into_iter()
        .flat_map(LooseSignature::into_files)
        .collect();
    files
        .into_iter()
        .map(|(path, bytes)| LogFile { path, bytes })
        .collect()
}

fn role_word(role: TrustRole) -> &'static str {
    match role {
        TrustRole::Root => "root",
        TrustRole::Agent => "agent",
        TrustRole::Runner => "runner",
        TrustRole::Coordinator => "coordinator",
        TrustRole::Approver => "approver",
        TrustRole::Reviewer => "reviewer",
    }
}

/// Every signature of an export, taken out of the formats that hold it.
pub(super) fn loose_files(from: &Loose<'_>) -> Result<Vec<LooseSignature>, ExportError> {
    let mut out = Vec::new();
    let known = |what: &'static str, key: Fingerprint| {
        let held = from.trust.key(&key).ok_or(ExportError::Stranger { what, key })?;
        let by = format!("{}-{}", role_word(held.role), key.short());
        Ok::<_, ExportError>((by, held.verifying.clone()))
    };
    for (n, record) in from.trust_records.iter().enumerate() {
        let parts = envelope::split(record).map_err(|_| ExportError::TrustRecord(n))?;
        for signature in parts.signatures().map_err(|_| ExportError::TrustRecord(n))? {
            let (by, key) = known("a trust record", signature.key)?;
            out.push(LooseSignature {
                what: format!("trust-{n}"),
                by,
                key,
                message: envelope::signing_input(parts.header),
                signature: BASE64
                    .decode(&signature.sig)
                    .map_err(|_| ExportError::TrustRecord(n))?,
            });
        }
    }
    for (what, name, envelope) in [
        ("the intent", "intent", from.intent),
        ("the statement", "statement", from.envelope),
    ] {
        for signature in &envelope.signatures {
            let (by, key) = known(what, signature.key)?;
            out.push(LooseSignature {
                what: name.to_owned(),
                by,
                key,
                message: envelope.pae(),
                signature: signature.sig.clone(),
            });
        }
    }
    let log = log_key(from.trust, from.checkpoint);
    if let Some((fingerprint, key, signature)) = log {
        out.push(LooseSignature {
            what: "checkpoint".to_owned(),
            by: format!("coordinator-{}", fingerprint.short()),
            key,
            message: from.checkpoint.checkpoint().to_string().into_bytes(),
            signature,
        });
    }
    Ok(out)
}

/// The coordinator's key that signed a checkpoint, with its signature.
fn log_key(trust: &Trust, checkpoint: &SignedCheckpoint) -> Option<(Fingerprint, VerifyingKey, Vec<u8>)> {
    trust
        .keys()
        .filter(|(_, k)| k.role == TrustRole::Coordinator && k.algorithm == KeyAlgorithm::Ed25519)
        .find_map(|(fingerprint, k)| {
            let signature = checkpoint.signature_by(&k.verifying)?;
            Some((*fingerprint, k.verifying.clone(), signature))
        })
}

fn guide(root: &Fingerprint, loose: &[LooseSignature]) -> String {
    // An indented block: every line but the first brings its own indentation.
    let commands = loose
        .iter()
        .map(LooseSignature::command)
        .collect::<Vec<_>>()
        .join("\n    ");
    VERIFY_MD
        .replace("@@ROOT@@", &root.to_string())
        .replace("@@SCRIPT@@", &Sha256Digest::of(VERIFY_PY.as_bytes()).to_string())
        .replace("@@COMMANDS@@", &commands)
}

/// The trust chain out of its stored records.
pub fn read_trust(root: Fingerprint, records: &[Vec<u8>]) -> Result<Trust, ExportError> {
    let first = records.first().ok_or(ExportError::TrustRecord(0))?;
    let parts = envelope::split(first).map_err(|_| ExportError::TrustRecord(0))?;
    let header = parts
        .header::<holdfast_proto::record::TrustBody>()
        .map_err(|_| ExportError::TrustRecord(0))?;
    let mut trust = Trust::empty(header.repository, root);
    for record in records {
        let next = trust.verify_next(&Bytes::from(record.clone()))?;
        trust.extend(&next)?;
    }
    Ok(trust)
}
