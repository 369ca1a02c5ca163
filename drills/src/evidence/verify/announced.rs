//! What was logged before the work: the intent, what the sample was drawn from,
//! and who had seen both.

use holdfast_proto::Sha256Digest;

use super::archive::{Archive, Found, Log, say};
use super::report::VerifyReport;
use super::{Export, Placed, Signers, VerifyOptions, logged};
use crate::evidence::entry::{Entry, departs_from_intent};
use crate::evidence::sampling;
use crate::evidence::statement::{IntentReference, Statement, Witness};

/// What was logged before the work: the intent, and what the sample was drawn
/// from. A restore that was needed has neither.
pub(super) fn announced(
    export: &Export<'_>,
    signers: &Signers<'_>,
    statement: &Statement,
    options: &VerifyOptions,
    report: &mut VerifyReport,
) -> Option<Vec<(&'static str, Placed)>> {
    let Export {
        dir,
        trust,
        log,
        result,
        ..
    } = export;
    let Some(named) = &statement.predicate.drill.intent else {
        report.note(
            "intent",
            "a restore that was needed, which nobody announces: no drill",
        );
        return Some(Vec::new());
    };
    let intent = report.step(
        "intent in the log",
        logged(dir, trust, log, "intent.entry", "intent.tlog-proof"),
    )?;
    report.step("intent's signature", signers.entry(&intent))?;
    report.step("intent and result", answers(statement, &intent, result))?;
    report.step(
        "checkpoint held before the work",
        before_work(log, named, &intent),
    )?;
    let mut held = vec![("intent", intent)];
    match statement.predicate.sampling.as_ref().and_then(|s| s.seed) {
        Some(seed) => {
            let population = report.step(
                "population in the log",
                logged(dir, trust, log, "population.entry", "population.tlog-proof"),
            )?;
            report.step("population's signature", signers.entry(&population))?;
            report.step("sampling", sampled(dir, statement, &population, &seed))?;
            held.push(("population", population));
        }
        None => report.note("sampling", "nothing was drawn"),
    }
    witnesses(options, &named.witness, &held, report)?;
    Some(held)
}

/// Draws again what was drawn.
fn sampled(dir: &Archive, statement: &Statement, at: &Placed, seed: &Sha256Digest) -> Found<()> {
    let Entry::Population(population) = &at.entry.entry else {
        return Err("population.entry is no population".into());
    };
    let draw = population.draw.as_ref();
    let points = match draw.and_then(|d| d.points) {
        Some(points) => Some(dir.read(&format!("byproducts/{}", points.digest))?),
        None => None,
    };
    let (index, checkpoint) = (at.proof.index, &at.proof.checkpoint);
    sampling::recompute(statement, population, index, checkpoint, points.as_deref()).map_err(say)?;
    let stated = statement.predicate.sampling.as_ref();
    let mut detail = match stated.and_then(|s| s.selected) {
        Some(selected) => format!("the seed draws {selected} again"),
        None => "the moment was named, not drawn".to_owned(),
    };
    if let Some(files) = stated.and_then(|s| s.file_sample.as_ref()) {
        let digest = files
            .population_digest
            .ok_or("the sample of files names no listing")?;
        let listing = dir.read(&format!("byproducts/{digest}"))?;
        let percent = draw.and_then(|d| d.files_percent);
        sampling::recompute_files(seed, percent, files, &listing).map_err(say)?;
        detail.push_str(&format!(
            ", and {} of {} files again, {}",
            files.drawn,
            files.population,
            match percent {
                Some(n) => format!("the {n} % that were announced"),
                None => "whose share nobody announced".to_owned(),
            }
        ));
    }
    for byproduct in &statement.predicate.byproducts {
        let path = format!("byproducts/{}", byproduct.digest);
        if Sha256Digest::of(&dir.read(&path)?) != byproduct.digest {
            return Err(format!("{path} is not of that digest"));
        }
    }
    Ok(((), detail))
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

fn before_work(log: &Log, claimed: &IntentReference, intent: &Placed) -> Found<()> {
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

/// The reader's witnesses have seen the intent, and the population before it.
fn witnesses(
    options: &VerifyOptions,
    claimed: &Witness,
    held: &[(&'static str, Placed)],
    report: &mut VerifyReport,
) -> Option<()> {
    for witness in &options.witnesses {
        for (name, placed) in held {
            let seen = placed.proof.checkpoint.witnessed(witness);
            let seen = seen.map(|at| {
                (
                    (),
                    format!("{} saw the {name} in the log at {at}", witness.name()),
                )
            });
            report.step("witness", seen)?;
        }
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
                format!("{name} is claimed and was not checked: give its verifier key with --witness"),
            );
        }
    }
    Some(())
}
