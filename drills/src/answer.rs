//! What a drill that ran elsewhere came to. The log is asked, not whoever ran it:
//! a result is what was signed and logged, and an intent without one is answered
//! here, by whoever knows that nobody works on it any more.

use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::names::DrillId;
use holdfast_proto::record::TrustRole;
use holdfast_repository::signing::SigningKey;

use crate::evidence::entry::{Abandoned, Entry, Intent, LoggedEntry};
use crate::log::{DrillLog, LogError, Place};
use crate::runner::DrillOutcome;

/// What the log says of a drill.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A result.
    Result(Box<DrillOutcome>),
    /// It came to none, and the log says so.
    Abandoned {
        /// Where.
        index: u64,
        /// What is known about why.
        reason: String,
    },
    /// It was never announced: nothing was begun, and nothing is to be answered.
    Unannounced,
}

/// What the log holds of one drill.
#[derive(Debug, Clone)]
pub struct Announced {
    /// Its intent.
    pub intent: Intent,
    /// Where that stands.
    pub place: Place,
    /// What answered it: a result or an abandonment.
    pub answer: Option<(Place, Entry)>,
}

/// What the log holds of `drill`; nothing when it was never announced. Entries whose
/// signer is not believed count for nothing.
///
/// # Errors
/// The log cannot be read.
pub async fn find(log: &DrillLog, drill: DrillId) -> Result<Option<Announced>, LogError> {
    let mut found: Option<Announced> = None;
    for (index, entry) in (0..).zip(log.entries().await?) {
        let about = match &entry.entry {
            Entry::Intent(i) => i.drill == drill,
            Entry::Abandoned(a) => a.drill == drill,
            Entry::Result(s) => s.predicate.drill.id == drill,
            _ => false,
        };
        if !about || log.believe(&entry).is_err() {
            continue;
        }
        let place = Place {
            index,
            digest: entry.digest(),
        };
        match (entry.entry, &mut found) {
            (Entry::Intent(intent), None) => {
                found = Some(Announced {
                    intent,
                    place,
                    answer: None,
                });
            }
            (Entry::Intent(_), Some(_)) | (_, None) => {}
            // The first answer counts, as for whoever audits the log.
            (answer, Some(announced)) if announced.answer.is_none() => {
                announced.answer = Some((place, answer));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// What `drill` came to, now that nobody works on it any more. An intent that has
/// no answer yet is logged as abandoned, for `reason`.
///
/// # Errors
/// The log cannot be read or added to, or the coordinator did not seal the entry
/// within `patience`.
pub async fn settle(
    log: &DrillLog,
    drill: DrillId,
    reason: &str,
    at: Timestamp,
    runner: &SigningKey,
    patience: Duration,
) -> Result<Answer, LogError> {
    let Some(announced) = find(log, drill).await? else {
        return Ok(Answer::Unannounced);
    };
    match &announced.answer {
        Some((place, Entry::Result(statement))) => {
            let signature = log
                .store()
                .signature(&place.digest, TrustRole::Coordinator)
                .await?;
            Ok(Answer::Result(Box::new(DrillOutcome {
                statement: (**statement).clone(),
                index: place.index,
                leaf: place.digest,
                countersigned: signature.is_some(),
                findings: Vec::new(),
            })))
        }
        Some((place, Entry::Abandoned(abandoned))) => Ok(Answer::Abandoned {
            index: place.index,
            reason: abandoned.reason.clone(),
        }),
        _ => {
            let body = Abandoned {
                drill,
                cluster: announced.intent.cluster,
                intent: announced.place.index,
                intent_digest: announced.place.digest,
                at,
                reason: reason.to_owned(),
            };
            let place = log.append(LoggedEntry::sign(&body, runner)?).await?;
            log.wait_checkpoint(place.index, patience).await?;
            Ok(Answer::Abandoned {
                index: place.index,
                reason: reason.to_owned(),
            })
        }
    }
}
