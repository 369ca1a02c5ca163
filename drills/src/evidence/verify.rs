//! Reads an export back and says what of it is to be believed.
//!
//! Everything is derived from two things: the bytes in the directory and the
//! fingerprint of the root key, which the reader has from elsewhere. Without a
//! fingerprint the same checks run against the root that the export itself
//! names, and the report says UNTRUSTED.
//!
//! A step that cannot be done has failed; nothing is skipped in silence. A
//! report that is accepted says that the evidence is authentic and complete in
//! itself, whatever its verdict. It cannot say that no newer trust record
//! exists, nor, without a witness, that the log's owner keeps no second log.
//!
//! Every file that was read was checked. The others are named in the report as not
//! covered, whatever it came to: a planted page, a changed script, a note of somebody's.
//!
//! `verify.py` and its modules, which travel with every export, do the same with
//! Python's standard library and the `openssl` command, all but deriving the views.

mod announced;
mod archive;
mod coverage;
mod derived;
mod entries;
mod report;

use std::path::Path;

use holdfast_proto::names::ClusterId;
use holdfast_proto::record::{KeyAlgorithm, TrustRole};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use holdfast_repository::trust::{Trust, TrustedKey};

use super::dsse::{Envelope, IN_TOTO};
use super::entry::{Entry, LoggedEntry};
use super::export::Loose;
use super::lint::lint;
use super::review;
use super::statement::Statement;
use super::tlog::{NoteKey, SignedCheckpoint, TlogProof, Tree, leaf_hash, verify_inclusion};
use announced::announced;
use archive::{Archive, Found, Log, believed, checkpoint_key, extends, read_log, say, trust_chain};
pub use report::{CoverageSummary, Outcome, Step, Summary, VerifyReport};

/// What a reader brings along.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// The root key's fingerprint, from outside the export.
    pub root: Option<Fingerprint>,
    /// Witnesses that must have cosigned the checkpoint held before the work.
    pub witnesses: Vec<NoteKey>,
    /// The present moment, by which unanswered intents are judged when the
    /// export holds the whole log.
    pub now: Option<Timestamp>,
}

/// Verifies the export in `dir` against the root key's fingerprint.
pub fn verify_export(dir: &Path, root: Option<Fingerprint>) -> VerifyReport {
    verify_with(
        dir,
        &VerifyOptions {
            root,
            ..VerifyOptions::default()
        },
    )
}

/// Verifies the export in `dir` with all that the reader brings along.
pub fn verify_with(dir: &Path, options: &VerifyOptions) -> VerifyReport {
    let mut report = VerifyReport {
        root: options.root,
        steps: Vec::new(),
        summary: None,
        coverage: None,
        not_covered: Vec::new(),
    };
    let archive = Archive::new(dir);
    // Each step builds on the ones before: the first that fails ends it.
    if walk(&archive, options, &mut report).is_some() {
        match archive.unchecked() {
            Ok(rest) => report.not_covered = rest,
            Err(why) => drop(report.step::<(), _>("files", Err(why))),
        }
    }
    report
}

fn walk(dir: &Archive, options: &VerifyOptions, report: &mut VerifyReport) -> Option<()> {
    let (trust, trust_records) = report.step("trust chain", trust_chain(dir, options.root))?;
    let log = report.step("log", read_log(dir, &trust))?;
    let result = report.step(
        "result in the log",
        logged(dir, &trust, &log, "result.entry", "statement.tlog-proof"),
    )?;
    let head =
        (result.proof.checkpoint == log.head).then_some(((), "the proof leads to the log's head".into()));
    report.step(
        "same checkpoint",
        head.ok_or("checkpoint and statement.tlog-proof hold different heads"),
    )?;
    let export = Export {
        dir,
        own_version: derived::scripts(dir, report),
        trust: &trust,
        trust_records: &trust_records,
        log: &log,
        result: &result,
    };
    match &result.entry.entry {
        Entry::Coverage(statement) => coverage::walk(&export, statement, report)?,
        _ => drill(&export, options, report)?,
    }
    Some(())
}

/// An export whose chain, log and result were read.
struct Export<'a> {
    dir: &'a Archive,
    /// The scripts are this version's, so that all else must be, too.
    own_version: bool,
    trust: &'a Trust,
    trust_records: &'a [Vec<u8>],
    log: &'a Log,
    result: &'a Placed,
}

/// A drill's export, or a restore's.
fn drill(export: &Export<'_>, options: &VerifyOptions, report: &mut VerifyReport) -> Option<()> {
    let Export {
        dir,
        trust,
        log,
        result,
        ..
    } = export;
    let statement = report.step("statement", statement(dir, &result.entry))?;
    let p = &statement.predicate;
    let cluster = p.scope.id();
    let signers = Signers {
        trust,
        log,
        cluster: Some(&cluster),
    };
    report.step("runner's signature", runner(&signers, &statement, result))?;
    let envelope = report.step(
        "countersignatures",
        countersigned(dir, &signers, &statement, result),
    )?;
    let announced = announced(export, &signers, &statement, options, report)?;
    let linted = lint(&statement).map(|()| ((), "its findings carry its verdict".to_owned()));
    report.step(
        "claims",
        linted.map_err(|found| {
            found
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        }),
    )?;
    let loose = Loose {
        statement: &envelope,
        before: announced
            .iter()
            .map(|(name, placed)| (*name, &placed.entry.envelope))
            .collect(),
        checkpoint: &log.head,
        trust_records: export.trust_records,
        trust,
    };
    derived::openssl(export, &loose, report)?;
    derived::views(export, &statement, &envelope, report)?;
    let own = announced.iter().map(|(_, placed)| placed).chain([*result]);
    let own: Vec<&Placed> = own.collect();
    entries::shown(export, &p.scope.tenant, &own, options.now, report)?;
    report.summary = Some(Summary {
        drill: p.drill.id,
        cluster,
        level: p.drill.level,
        scenario: p.drill.scenario.to_string(),
        verdict: p.results.verdict,
        reasons: p.results.reasons.clone(),
    });
    Some(())
}

/// An entry with its place in the log.
struct Placed {
    entry: LoggedEntry,
    proof: TlogProof,
}

fn logged(dir: &Archive, trust: &Trust, log: &Log, entry: &str, proof: &str) -> Found<Placed> {
    let entry = LoggedEntry::parse(&dir.read(entry)?).map_err(say)?;
    let proof = TlogProof::parse(&dir.read(proof)?).map_err(say)?;
    let head = proof.checkpoint.checkpoint();
    verify_inclusion(
        &leaf_hash(entry.bytes()),
        proof.index,
        head.size,
        &proof.hashes,
        &head.root,
    )
    .map_err(say)?;
    extends(&log.tree, &log.head, &proof.checkpoint)?;
    checkpoint_key(trust, &proof.checkpoint, &log.borne_out)?;
    let detail = format!("entry {} of {}", proof.index, head.size);
    Ok((Placed { entry, proof }, detail))
}

fn statement(dir: &Archive, result: &LoggedEntry) -> Found<Statement> {
    let Entry::Result(statement) = &result.entry else {
        return Err("result.entry is no drill's result".into());
    };
    let payload = dir.read("statement.json")?;
    if payload != result.envelope.payload {
        return Err("statement.json is not the payload that was signed and logged".into());
    }
    let detail = format!("SHA-256 {}", Sha256Digest::of(&payload));
    Ok(((**statement).clone(), detail))
}

/// Who may have signed for one cluster.
struct Signers<'a> {
    trust: &'a Trust,
    log: &'a Log,
    cluster: Option<&'a ClusterId>,
}

impl Signers<'_> {
    fn believe(&self, signer: &Fingerprint, roles: &[TrustRole], at: &Placed) -> Result<&TrustedKey, String> {
        let (digest, size) = (at.entry.digest(), at.proof.index + 1);
        let borne_out = &self.log.borne_out;
        believed(self.trust, signer, roles, self.cluster, digest, borne_out, size).map_err(say)
    }

    fn entry(&self, at: &Placed) -> Found<()> {
        let signer = at.entry.signer();
        let key = self.believe(&signer, at.entry.signers(), at)?;
        at.entry.envelope.verify(&key.verifying).map_err(say)?;
        Ok(((), format!("{} ({})", key.name, signer.short())))
    }
}

fn runner(signers: &Signers<'_>, statement: &Statement, result: &Placed) -> Found<()> {
    let claimed = &statement.predicate.actors.runner;
    let signer = result.entry.signer();
    let key = signers.believe(&signer, &[TrustRole::Runner], result)?;
    if key.algorithm != KeyAlgorithm::Ed25519 {
        return Err(format!("key {signer} is not Ed25519, as a runner's must be"));
    }
    if (claimed.key, &claimed.identity) != (signer, &key.name) {
        return Err(format!(
            "the statement names runner {} but {} signed it",
            claimed.identity, key.name
        ));
    }
    signers.entry(result)
}

fn countersigned(
    dir: &Archive,
    signers: &Signers<'_>,
    statement: &Statement,
    result: &Placed,
) -> Found<Envelope> {
    let envelope = Envelope::parse(&dir.read("envelope.json")?).map_err(say)?;
    let logged = &result.entry.envelope;
    if envelope.payload_type != IN_TOTO || envelope.only(result.entry.signer()).as_ref() != Some(logged) {
        return Err("envelope.json is not the logged statement with the runner's signature".into());
    }
    let (mut by, mut coordinators, mut reviewers) = (Vec::new(), Vec::new(), Vec::new());
    for signature in envelope
        .signatures
        .iter()
        .filter(|s| s.key != result.entry.signer())
    {
        let roles = [TrustRole::Coordinator, TrustRole::Reviewer];
        let key = signers.believe(&signature.key, &roles, result)?;
        envelope.verify(&key.verifying).map_err(say)?;
        match key.role {
            TrustRole::Coordinator => coordinators.push(&key.name),
            _ => reviewers.push(&key.name),
        }
        by.push(format!(
            "{} ({:?}, {})",
            key.name,
            key.role,
            signature.key.short()
        ));
    }
    if coordinators.is_empty() {
        return Err("no coordinator has signed the statement".into());
    }
    for reviewer in reviewers {
        if let Some(part) = review::conflict(statement, reviewer, coordinators.iter().copied()) {
            return Err(format!(
                "{reviewer} reviewed the drill and {part}: duties are not separated"
            ));
        }
    }
    Ok((envelope, by.join(", ")))
}

/// The entry at `index`, by a signer that is believed for it.
fn signed_entry(log: &Log, trust: &Trust, index: u64, bytes: &[u8]) -> Result<LoggedEntry, String> {
    let place = |e: String| format!("entry {index}: {e}");
    let entry = LoggedEntry::parse(bytes).map_err(|e| place(say(e)))?;
    let (signer, size) = (entry.signer(), index + 1);
    let cluster = entry.cluster();
    let key = believed(
        trust,
        &signer,
        entry.signers(),
        cluster.as_ref(),
        entry.digest(),
        &log.borne_out,
        size,
    );
    let key = key.map_err(|e| place(say(e)))?;
    entry.envelope.verify(&key.verifying).map_err(|e| place(say(e)))?;
    Ok(entry)
}

/// The head and the hashes of the log in an export, its signature traced to
/// `root`: all that a witness needs.
pub fn published_log(dir: &Path, root: Fingerprint) -> Result<(SignedCheckpoint, Tree), String> {
    let archive = Archive::new(dir);
    let ((trust, _), _) = trust_chain(&archive, Some(root))?;
    let (log, _) = read_log(&archive, &trust)?;
    Ok((log.head, log.tree))
}

#[cfg(test)]
mod tests;
