//! One drill's evidence as a directory that needs nothing of ours to be checked.
//!
//! ```text
//! VERIFY.md  verify*.py              how to check it, by hand and by script
//! statement.json                     the statement, the very bytes that were signed
//! envelope.json                      the same in DSSE, with every signature
//! result.entry  intent.entry         the two entries of the log
//! statement.tlog-proof               the result's place in the log
//! intent.tlog-proof                  the intent's, in the checkpoint held before the work began
//! population.entry and .tlog-proof   what the sample was drawn from, in the checkpoint that its seed follows from
//! byproducts/<sha256>                files that the statement names by digest
//! views/…                            the statement for people and programs: HTML, JUnit, OSCAL, test-result
//! checkpoint  checkpoints/<size>     the log's head, and earlier ones
//! tile/…                             the log's hashes
//! entries/<n>                        the tenant's entries of the log; of all others there are the hashes
//! tile/entries/…                     in their place every entry, for those who may see all tenants'
//! trust/<n>                          the trust chain as stored
//! openssl/…                          signed bytes, signatures and keys, a file each
//! ```
//!
//! [`files`] is pure. [`write`] puts its result into a directory that is absent
//! or empty, each file synced; if the process dies in between, what lies there
//! does not verify.

mod loose;
mod zip;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_proto::envelope;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest};
use holdfast_repository::trust::{Trust, TrustError};

use super::coverage::CoverageStatement;
use super::dsse::{Envelope, EnvelopeSignature};
use super::entry::{Entry, LoggedEntry};
use super::statement::Statement;
use super::tlog::merkle::ProofError;
use super::tlog::tiles::{EntryTooLong, LogFile, entry_bundles, hash_tiles};
use super::tlog::{SignedCheckpoint, TlogProof, Tree};
use super::view::coverage::ShownCoverage;
use super::view::{self, Shown};
pub(super) use loose::{Loose, LooseSignature, distinct, loose_files};

/// The scripts that check an export, by name. The first is run, it uses the others.
pub const SCRIPTS: [(&str, &str); 5] = [
    ("verify.py", include_str!("../../export/verify.py")),
    ("verify_files.py", include_str!("../../export/verify_files.py")),
    ("verify_log.py", include_str!("../../export/verify_log.py")),
    ("verify_claims.py", include_str!("../../export/verify_claims.py")),
    (
        "verify_coverage.py",
        include_str!("../../export/verify_coverage.py"),
    ),
];
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
    /// The intent's entry, in the checkpoint in which the runner saw it before it
    /// began; a restore that was needed has none.
    pub intent: Option<Announced>,
    /// What the sample was drawn from, in the checkpoint that its seed follows from.
    pub population: Option<Announced>,
    /// Files that the statement names by digest.
    pub byproducts: Vec<Vec<u8>>,
    /// How long a restore's statement waited to be logged, in milliseconds.
    pub delay_ms: Option<u64>,
    /// The log's head.
    pub checkpoint: SignedCheckpoint,
    /// Earlier heads that an auditor may want, among them those by which a
    /// revocation says what is still believed. Stored bytes.
    pub earlier_checkpoints: Vec<SignedCheckpoint>,
    /// The log's leaf hashes, at least as many as the head has entries.
    pub tree: Tree,
    /// Which entries of the log go with it.
    pub entries: ShownEntries,
    /// The trust records as stored, from record 0.
    pub trust_records: Vec<Vec<u8>>,
    /// The same, verified.
    pub trust: Trust,
}

/// The entries of the log that an export shows. Of the others it has the hashes: each
/// is of an envelope with a signature in it, so that nobody finds out by trying what
/// it was of.
#[derive(Debug, Clone, Default)]
pub enum ShownEntries {
    /// None but the drill's own.
    #[default]
    Hashes,
    /// Those of the drill's tenant, by their places.
    Tenant(Vec<(u64, Vec<u8>)>),
    /// Every entry up to the head, for those who may see every tenant's drills.
    Whole(Vec<Vec<u8>>),
}

/// An entry that was logged before the work began.
#[derive(Debug, Clone)]
pub struct Announced {
    /// The entry.
    pub entry: LoggedEntry,
    /// The checkpoint that the runner held, with the witness's line if there is one.
    pub checkpoint: SignedCheckpoint,
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
    /// A view cannot be laid out.
    #[error("a view cannot be laid out: {0}")]
    View(#[from] askama::Error),
    /// Too much for a zip.
    #[error(transparent)]
    Zip(#[from] zip::TooLarge),
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
    let p = &statement.predicate;
    let prove = |announced: &Option<Announced>, index: Option<u64>| match (announced, index) {
        (Some(a), Some(index)) => {
            let proof = TlogProof::make(&tree, index, a.checkpoint.clone())?;
            Ok(Some((a.entry.bytes().to_vec(), proof.to_bytes())))
        }
        _ => Ok::<_, ExportError>(None),
    };
    let intent = prove(&input.intent, p.drill.intent_index())?;
    let population = prove(
        &input.population,
        p.sampling.as_ref().and_then(|s| s.population_index),
    )?;
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
    for (name, script) in SCRIPTS {
        add(name, script.as_bytes().to_vec());
    }
    add("statement.json", envelope.payload.clone());
    add("envelope.json", envelope.to_bytes());
    add("result.entry", input.result.bytes().to_vec());
    add("statement.tlog-proof", result.to_bytes());
    for (name, announced) in [("intent", intent), ("population", population)] {
        if let Some((entry, proof)) = announced {
            add(&format!("{name}.entry"), entry);
            add(&format!("{name}.tlog-proof"), proof);
        }
    }
    for byproduct in &input.byproducts {
        add(
            &format!("byproducts/{}", Sha256Digest::of(byproduct)),
            byproduct.clone(),
        );
    }
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
    let shown = shown(
        statement,
        &envelope,
        input.result_index,
        &input.trust,
        input.delay_ms,
    );
    out.extend(view::files(&shown)?);
    out.extend(hash_tiles(&tree));
    match &input.entries {
        ShownEntries::Hashes => {}
        ShownEntries::Tenant(entries) => {
            let within = entries.iter().filter(|(n, _)| *n < size);
            out.extend(within.map(|(n, bytes)| entry_file(*n, bytes)));
        }
        ShownEntries::Whole(entries) => {
            let count = entries.len().min(size as usize);
            out.extend(entry_bundles(&entries[..count])?);
        }
    }
    let loose = loose_files(&Loose {
        statement: &envelope,
        before: before(input.intent.as_ref(), input.population.as_ref()),
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

/// One entry, named by its place.
fn entry_file(n: u64, bytes: &[u8]) -> LogFile {
    LogFile {
        path: format!("entries/{n:016}"),
        bytes: bytes.to_vec(),
    }
}

/// What views show of a statement: its digest, its place, and who signed it.
pub fn shown<'a>(
    statement: &'a Statement,
    envelope: &Envelope,
    index: u64,
    trust: &Trust,
    delay_ms: Option<u64>,
) -> Shown<'a> {
    Shown {
        statement,
        digest: Sha256Digest::of(&envelope.payload),
        index,
        signers: signers(envelope, trust),
        root: *trust.root(),
        delay_ms,
    }
}

/// The same of a month's coverage.
pub fn shown_coverage<'a>(
    statement: &'a CoverageStatement,
    envelope: &Envelope,
    index: u64,
    trust: &Trust,
) -> ShownCoverage<'a> {
    ShownCoverage {
        statement,
        digest: Sha256Digest::of(&envelope.payload),
        index,
        signers: signers(envelope, trust),
        root: *trust.root(),
    }
}

fn signers(envelope: &Envelope, trust: &Trust) -> Vec<(TrustRole, String, Fingerprint)> {
    let signers = envelope.signatures.iter().filter_map(|s| {
        let key = trust.key(&s.key)?;
        Some((key.role, key.name.to_string(), s.key))
    });
    signers.collect()
}

/// Names and envelopes of what was logged before the work.
fn before<'a>(
    intent: Option<&'a Announced>,
    population: Option<&'a Announced>,
) -> Vec<(&'static str, &'a Envelope)> {
    [("intent", intent), ("population", population)]
        .into_iter()
        .filter_map(|(name, a)| Some((name, &a?.entry.envelope)))
        .collect()
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

/// Writes an export as one zip, a new file; its folder is called as the file.
pub fn write_zip(path: &Path, files: &[LogFile]) -> Result<(), ExportError> {
    let fail = |source| ExportError::Io {
        path: path.to_owned(),
        source,
    };
    let top = path
        .file_stem()
        .map_or("evidence".into(), |name| name.to_string_lossy());
    let bytes = zipped(&top, files)?;
    let mut out = fs::File::create_new(path).map_err(fail)?;
    out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(fail)
}

/// An export as the bytes of one zip, below the folder `top`.
pub fn zipped(top: &str, files: &[LogFile]) -> Result<Vec<u8>, ExportError> {
    Ok(zip::zip(top, files)?)
}

/// What a month's coverage is exported from.
#[derive(Debug, Clone)]
pub struct CoverageInput {
    /// The statement's entry.
    pub entry: LoggedEntry,
    /// Its place in the log.
    pub index: u64,
    /// All that the tenant's clusters left in the log, by place.
    pub entries: Vec<(u64, LoggedEntry)>,
    /// The log's head.
    pub checkpoint: SignedCheckpoint,
    /// The log's leaf hashes.
    pub tree: Tree,
    /// The trust records as stored, from record 0.
    pub trust_records: Vec<Vec<u8>>,
    /// The same, verified.
    pub trust: Trust,
}

/// Every file of a month's export: as a drill's, with the tenant's entries in
/// `entries/<n>` and nobody else's.
pub fn coverage_files(input: &CoverageInput) -> Result<Vec<LogFile>, ExportError> {
    let proof = TlogProof::make(&input.tree, input.index, input.checkpoint.clone())?;
    let envelope = &input.entry.envelope;
    let mut out = Vec::new();
    let mut add = |path: String, bytes: Vec<u8>| out.push(LogFile { path, bytes });
    for (name, script) in SCRIPTS {
        add(name.to_owned(), script.as_bytes().to_vec());
    }
    add("statement.json".into(), envelope.payload.clone());
    add("envelope.json".into(), envelope.to_bytes());
    add("result.entry".into(), input.entry.bytes().to_vec());
    add("statement.tlog-proof".into(), proof.to_bytes());
    add("checkpoint".into(), input.checkpoint.to_bytes());
    for (n, record) in input.trust_records.iter().enumerate() {
        add(format!("trust/{n:016}"), record.clone());
    }
    let entries = input.entries.iter();
    out.extend(entries.map(|(n, entry)| entry_file(*n, entry.bytes())));
    if let Entry::Coverage(statement) = &input.entry.entry {
        out.push(view::coverage::file(&shown_coverage(
            statement,
            envelope,
            input.index,
            &input.trust,
        ))?);
    }
    out.extend(hash_tiles(&input.tree));
    let loose = loose_files(&Loose {
        statement: envelope,
        before: Vec::new(),
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

pub(super) fn guide(root: &Fingerprint, loose: &[LooseSignature]) -> String {
    // An indented block: every line but the first brings its own indentation.
    let commands = loose
        .iter()
        .map(LooseSignature::command)
        .collect::<Vec<_>>()
        .join("\n    ");
    let scripts = SCRIPTS
        .map(|(name, text)| format!("{}  {name}", Sha256Digest::of(text.as_bytes())))
        .join("\n    ");
    VERIFY_MD
        .replace("@@ROOT@@", &root.to_string())
        .replace("@@SCRIPTS@@", &scripts)
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
