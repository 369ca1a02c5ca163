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
//! `verify.py`, which travels with every export, does the same with Python's
//! standard library and the `openssl` command.

mod archive;
mod report;

use std::path::Path;

use holdfast_proto::names::ClusterId;
use holdfast_proto::record::{KeyAlgorithm, TrustRole};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use holdfast_repository::trust::{Trust, TrustedKey};

use super::dsse::{Envelope, IN_TOTO};
use super::entry::{Entry, LoggedEntry, audit, departs_from_intent};
use super::export::{Loose, VERIFY_PY, distinct, loose_files};
use super::lint::lint;
use super::statement::{Statement, Witness};
use super::tlog::{NoteKey, TlogProof, leaf_hash, verify_inclusion};
use archive::{Archive, Found, Log, believed, checkpoint_key, extends, read_log, say, trust_chain};
pub use report::{Outcome, Step, Summary, VerifyReport};

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
    };
    // Each step builds on the ones before: the first that fails ends it.
    let _ = walk(&Archive(dir.to_owned()), options, &mut report);
    report
}

fn walk(dir: &Archive, options: &VerifyOptions, report: &mut VerifyReport) -> Option<()> {
    let (trust, trust_records) = report.step("trust chain", trust_chain(dir, options.root))?;
    let log = report.step("log", read_log(dir, &trust))?;
    let result = report.step(
        "result in the log",
        logged(dir, &trust, &log, "result.entry", "statement.tlog-proof"),
    )?;
    let intent = report.step(
        "intent in the log",
        logged(dir, &trust, &log, "intent.entry", "intent.tlog-proof"),
    )?;
    let head =
        (result.proof.checkpoint == log.head).then_some(((), "the proof leads to the log's head".into()));
    report.step(
        "same checkpoint",
        head.ok_or("checkpoint and statement.tlog-proof hold different heads"),
    )?;
    let statement = report.step("statement", statement(dir, &result.entry))?;
    let p = &statement.predicate;
    let cluster = ClusterId {
        tenant: p.scope.tenant.clone(),
        cluster: p.scope.cluster.clone(),
    };
    let signers = Signers {
        trust: &trust,
        log: &log,
        cluster: &cluster,
    };
    report.step("runner's signature", runner(&signers, &statement, &result))?;
    report.step("intent's signature", signers.entry(&intent, &[TrustRole::Runner]))?;
    let envelope = report.step("countersignatures", countersigned(dir, &signers, &result))?;
    report.step("intent and result", answers(&statement, &intent, &result))?;
    report.step(
        "checkpoint held before the work",
        before_work(&log, &statement, &intent),
    )?;
    witnesses(options, &statement, &intent, report)?;
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
        envelope: &envelope,
        intent: &intent.entry.envelope,
        checkpoint: &log.head,
        trust_records: &trust_records,
        trust: &trust,
    };
    report.step("files for openssl", loose_match(dir, &loose))?;
    if log.entries.is_some() {
        report.step("whole log", whole_log(&log, &trust, options.now))?;
    } else {
        report.note("whole log", "entries of other drills are not in this export");
    }
    if dir.read("verify.py").ok().as_deref() != Some(VERIFY_PY.as_bytes()) {
        report.note(
            "verify.py",
            "it is not this version's script: take the script from the program you trust",
        );
    }
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
    cluster: &'a ClusterId,
}

impl Signers<'_> {
    fn believe(&self, signer: &Fingerprint, roles: &[TrustRole], at: &Placed) -> Result<&TrustedKey, String> {
        let (digest, size) = (at.entry.digest(), at.proof.index + 1);
        let borne_out = &self.log.borne_out;
        believed(
            self.trust,
            signer,
            roles,
            Some(self.cluster),
            digest,
            borne_out,
            size,
        )
        .map_err(say)
    }

    fn entry(&self, at: &Placed, roles: &[TrustRole]) -> Found<()> {
        let signer = at.entry.signer();
        let key = self.believe(&signer, roles, at)?;
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
    signers.entry(result, &[TrustRole::Runner])
}

fn countersigned(dir: &Archive, signers: &Signers<'_>, result: &Placed) -> Found<Envelope> {
    let envelope = Envelope::parse(&dir.read("envelope.json")?).map_err(say)?;
    let logged = &result.entry.envelope;
    if envelope.payload_type != IN_TOTO || envelope.only(result.entry.signer()).as_ref() != Some(logged) {
        return Err("envelope.json is not the logged statement with the runner's signature".into());
    }
    let (mut by, mut coordinator) = (Vec::new(), false);
    for signature in envelope
        .signatures
        .iter()
        .filter(|s| s.key != result.entry.signer())
    {
        let roles = [TrustRole::Coordinator, TrustRole::Reviewer];
        let key = signers.believe(&signature.key, &roles, result)?;
        envelope.verify(&key.verifying).map_err(say)?;
        coordinator |= key.role == TrustRole::Coordinator;
        by.push(format!(
            "{} ({:?}, {})",
            key.name,
            key.role,
            signature.key.short()
        ));
    }
    if !coordinator {
        return Err("no coordinator has signed the statement".into());
    }
    Ok((envelope, by.join(", ")))
}

fn answers(statement: &Statement, intent: &Placed, result: &Placed) -> Found<()> {
    let departures = departs_from_intent(statement, &intent.entry, intent.proof.index);
    if !departures.is_empty() {
        return Err(departures.join("; "));
    }
    if intent.proof.index >= result.proof.index {
        return Err("the intent was logged after the result".into());
    }
    let drill = &statement.predicate.drill;
    Ok((
        (),
        format!("drill {} of its cluster, as announced", drill.sequence),
    ))
}

fn before_work(log: &Log, statement: &Statement, intent: &Placed) -> Found<()> {
    let claimed = &statement.predicate.drill.intent;
    let held = intent.proof.checkpoint.checkpoint();
    if claimed.log != log.head.checkpoint().origin {
        return Err(format!(
            "the statement names the log {}, this is another",
            claimed.log
        ));
    }
    match claimed.checkpoint_size {
        None => Err("the statement does not say which checkpoint the runner held before it began".into()),
        Some(size) if size != held.size => Err(format!(
            "the statement names the checkpoint of {size} entries, the proof one of {}",
            held.size
        )),
        Some(size) => Ok(((), format!("{size} entries; the log's head continues it"))),
    }
}

fn witnesses(
    options: &VerifyOptions,
    statement: &Statement,
    intent: &Placed,
    report: &mut VerifyReport,
) -> Option<()> {
    let claimed = &statement.predicate.drill.intent.witness;
    for witness in &options.witnesses {
        let seen = intent.proof.checkpoint.witnessed(witness);
        let seen = seen.map(|at| {
            (
                (),
                format!("{} saw the intent in the log at {at}", witness.name()),
            )
        });
        report.step("witness", seen)?;
    }
    match claimed {
        Witness::None => report.note(
            "witness",
            "none: nobody but its owner vouches that there is one log",
        ),
        Witness::Named(name) if options.witnesses.iter().any(|w| w.name() == name) => {}
        Witness::Named(name) => {
            report.note(
                "witness",
                format!("{name} is claimed and was not checked: give its verifier key"),
            );
        }
    }
    Some(())
}

fn loose_match(dir: &Archive, loose: &Loose<'_>) -> Found<()> {
    let files = distinct(loose_files(loose).map_err(say)?);
    for file in &files {
        if dir.read(&file.path)? != file.bytes {
            return Err(format!(
                "{} is not what the envelopes hold: it was changed",
                file.path
            ));
        }
    }
    Ok(((), format!("{} files agree", files.len())))
}

fn whole_log(log: &Log, trust: &Trust, now: Option<Timestamp>) -> Found<()> {
    let mut entries = Vec::new();
    for (index, bytes) in log.entries.iter().flatten().enumerate() {
        let place = |e: String| format!("entry {index}: {e}");
        let entry = LoggedEntry::parse(bytes).map_err(|e| place(say(e)))?;
        let cluster = match &entry.entry {
            Entry::Intent(i) => Some(i.cluster.clone()),
            Entry::Abandoned(a) => Some(a.cluster.clone()),
            Entry::Result(s) => Some(ClusterId {
                tenant: s.predicate.scope.tenant.clone(),
                cluster: s.predicate.scope.cluster.clone(),
            }),
            Entry::Heartbeat(_) | Entry::Population(_) | Entry::Other => None,
        };
        let roles: &[TrustRole] = match &entry.entry {
            Entry::Intent(_) | Entry::Result(_) => &[TrustRole::Runner],
            Entry::Abandoned(_) => &[TrustRole::Runner, TrustRole::Coordinator],
            Entry::Heartbeat(_) | Entry::Population(_) => &[TrustRole::Coordinator, TrustRole::Runner],
            Entry::Other => &[
                TrustRole::Root,
                TrustRole::Agent,
                TrustRole::Runner,
                TrustRole::Coordinator,
                TrustRole::Approver,
                TrustRole::Reviewer,
            ],
        };
        let (signer, size) = (entry.signer(), index as u64 + 1);
        let covers = cluster.as_ref();
        let key = believed(
            trust,
            &signer,
            roles,
            covers,
            entry.digest(),
            &log.borne_out,
            size,
        );
        let key = key.map_err(|e| place(say(e)))?;
        entry.envelope.verify(&key.verifying).map_err(|e| place(say(e)))?;
        entries.push(entry);
    }
    let found = audit(&entries, now);
    if !found.is_empty() {
        return Err(found
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "));
    }
    Ok(((), format!("{} entries, no drill missing", entries.len())))
}

#[cfg(test)]
mod tests;
