//! What was proven: drills, from the evidence log in the repository.
//!
//! The log's entries are DSSE envelopes (`docs/FORMAT.md`). An entry counts when
//! a runner that the trust chain knows for that cluster signed it. Only what the
//! fleet's view needs is read: which drill, of which cluster, how it ended.
//! Entries never change, so each is read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use holdfast_plan::rto::{Learnt, REMEMBERED, Recovery, Took};
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, ClusterName, DrillId, TenantName};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::layout::{self, Located};
use holdfast_repository::trust::Trust;
use serde::Deserialize;

use crate::desk::Desk;

/// A drill as the log shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillSeen {
    /// The drill.
    pub id: DrillId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The scenario.
    pub scenario: String,
    /// What it set out to prove, `L1` to `L5`.
    pub level: String,
    /// When its intent was signed.
    pub began: Timestamp,
    /// Without a result by then, it failed.
    pub deadline: Option<Timestamp>,
    /// How it ended; absent while there is no result.
    pub result: Option<DrillResult>,
    /// What its steps took; absent when it recovered nothing, or has not ended.
    pub recovery: Option<Recovery>,
}

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillResult {
    /// The verdict: `PASS`, `FAIL` and so on.
    pub verdict: String,
    /// When its last phase ended, or its result was logged.
    pub at: Timestamp,
    /// Measured recovery time.
    pub rto_ms: Option<u64>,
    /// Reasons for anything but a plain pass.
    pub reasons: Vec<String>,
}

impl DrillResult {
    /// Whether recovery was shown to work.
    pub fn passed(&self) -> bool {
        matches!(self.verdict.as_str(), "PASS" | "PASS_WITH_EXCEPTIONS")
    }
}

/// Recoveries, and what they taught.
#[derive(Debug, PartialEq)]
struct Lesson {
    recoveries: Vec<Recovery>,
    learnt: Learnt,
}

/// Learns from all recoveries; what has not changed since `before` is not learnt again.
fn lessons(
    recoveries: impl Iterator<Item = (ClusterId, Recovery)>,
    before: &BTreeMap<ClusterId, Arc<Lesson>>,
) -> BTreeMap<ClusterId, Arc<Lesson>> {
    let mut of: BTreeMap<ClusterId, Vec<Recovery>> = BTreeMap::new();
    for (cluster, recovery) in recoveries {
        of.entry(cluster).or_default().push(recovery);
    }
    of.into_iter()
        .map(|(cluster, mut recoveries)| {
            recoveries.sort_by_key(|recovery| recovery.at);
            recoveries.drain(..recoveries.len().saturating_sub(REMEMBERED));
            let known = before
                .get(&cluster)
                .filter(|known| known.recoveries == recoveries);
            let lesson = known.cloned().unwrap_or_else(|| {
                let learnt = Learnt::from(&recoveries);
                Arc::new(Lesson { recoveries, learnt })
            });
            (cluster, lesson)
        })
        .collect()
}

/// All drills of the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proven {
    /// When the log was last read to its end.
    pub listed: Option<Timestamp>,
    /// Entries in it.
    pub entries: u64,
    /// The drills of each cluster, oldest first.
    drills: BTreeMap<ClusterId, Vec<DrillSeen>>,
    /// What the newest recoveries of each cluster taught.
    learnt: BTreeMap<ClusterId, Arc<Lesson>>,
    /// Entries that are not believed, and holes.
    pub findings: Vec<Finding>,
}

impl Proven {
    /// What a cluster's recoveries, drills and real ones, taught.
    pub fn learnt(&self, cluster: &ClusterId) -> Option<&Learnt> {
        self.learnt.get(cluster).map(|lesson| &lesson.learnt)
    }

    /// A cluster's drills, oldest first.
    pub fn of(&self, cluster: &ClusterId) -> impl DoubleEndedIterator<Item = &DrillSeen> {
        self.drills.get(cluster).into_iter().flatten()
    }

    /// Puts in these drills, oldest first, in place of those before.
    pub fn show(&mut self, drills: impl IntoIterator<Item = DrillSeen>) {
        self.drills.clear();
        for drill in drills {
            self.drills.entry(drill.cluster.clone()).or_default().push(drill);
        }
    }

    /// The newest drill of a cluster that restored something and passed. At L1 nothing is
    /// restored, so it does not count.
    pub fn last_pass(&self, cluster: &ClusterId) -> Option<(&DrillSeen, &DrillResult)> {
        self.of(cluster)
            .filter(|drill| drill.level.as_str() > "L1")
            .filter_map(|drill| Some((drill, drill.result.as_ref().filter(|r| r.passed())?)))
            .max_by_key(|(_, result)| result.at)
    }
}

const INTENT: &str = "application/vnd.holdfast.intent+json";
const ABANDONED: &str = "application/vnd.holdfast.abandoned+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

#[derive(Deserialize)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    keyid: Fingerprint,
    sig: String,
}

#[derive(Deserialize)]
struct Intent {
    drill: DrillId,
    cluster: ClusterId,
    level: String,
    scenario: String,
    at: Timestamp,
    deadline: Timestamp,
}

#[derive(Deserialize)]
struct Abandoned {
    drill: DrillId,
    cluster: ClusterId,
    at: Timestamp,
    reason: String,
}

#[derive(Deserialize)]
struct Statement {
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Predicate {
    drill: StatementDrill,
    scope: Scope,
    results: Results,
    timings: Timings,
}

#[derive(Deserialize)]
struct StatementDrill {
    id: DrillId,
    kind: String,
    level: String,
    scenario: String,
}

#[derive(Deserialize)]
struct Scope {
    tenant: TenantName,
    cluster: ClusterName,
}

#[derive(Deserialize)]
struct Results {
    verdict: String,
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    rto: Option<Rto>,
}

#[derive(Deserialize)]
struct Rto {
    actual_ms: u64,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    phases: Vec<Phase>,
}

#[derive(Deserialize)]
struct Phase {
    phase: String,
    start: Timestamp,
    end: Timestamp,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    items: Option<u64>,
}

/// What the steps of a recovery took, where enough of them was measured. A `real` restore
/// says no total: it ends before the server starts.
fn recovery_of(timings: &Timings, rto: Option<&Rto>, real: bool) -> Option<Recovery> {
    let total_ms = rto.map(|rto| rto.actual_ms);
    if total_ms.is_none() && !real {
        return None;
    }
    let took = |name: &str| {
        let phase = timings.phases.iter().find(|phase| phase.phase == name)?;
        Some(Took {
            ms: phase.end.millis_since(phase.start),
            bytes: phase.bytes?,
            items: phase.items.unwrap_or(0),
        })
    };
    Some(Recovery {
        at: timings.phases.iter().map(|phase| phase.end).max()?,
        base: Some(took("BASE_FETCH")?),
        files: took("FILESTORE_RESTORE"),
        replay: took("WAL_REPLAY"),
        total_ms,
    })
}

/// What an entry says of a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Intended(DrillSeen),
    Ended(DrillSeen),
    /// A restore that was needed: it proves nothing by itself, and took its time.
    Restored(ClusterId, Option<Recovery>),
    Other,
}

/// Reads the log, each entry once.
#[derive(Debug, Default)]
pub struct ProvenReader {
    read: BTreeMap<u64, Said>,
    learnt: BTreeMap<ClusterId, Arc<Lesson>>,
}

impl ProvenReader {
    /// Reads what is new.
    pub async fn look(&mut self, desk: &Desk) -> Result<Proven, String> {
        let trust = desk.trust().ok_or("the trust chain has not been read yet")?;
        let listing = desk
            .repository
            .list(&layout::evidence_entries())
            .await
            .map_err(|e| e.to_string())?;
        let mut numbers = BTreeMap::new();
        for (key, on) in &listing.objects {
            if let Some(Located::EvidenceEntry { n }) = layout::parse(key.as_str()) {
                numbers.insert(n, (key, on.iter().map(|p| p.modified).min()));
            }
        }
        let mut findings = Vec::new();
        for (n, (key, stored)) in &numbers {
            if self.read.contains_key(n) {
                continue;
            }
            let stored = stored.unwrap_or_else(crate::desk::now);
            match desk
                .repository
                .find(key, |bytes| read_entry(bytes, &trust, stored))
                .await
            {
                Ok(found) => {
                    findings.extend(found.findings);
                    self.read.insert(*n, found.value);
                }
                // Perhaps the key is enrolled, or the replica back, later: it is
                // looked at again.
                Err(error) => findings.push(Finding {
                    name: "evidence-not-believed".to_owned(),
                    subject: key.to_string(),
                    severity: Severity::Critical,
                    detail: format!("{error}. It proves nothing: run `holdfast evidence verify`."),
                    since: stored,
                }),
            }
        }
        let missing = (0..numbers.keys().next_back().map_or(0, |n| n + 1)).find(|n| !numbers.contains_key(n));
        if let Some(n) = missing.filter(|_| listing.is_complete()) {
            findings.push(Finding {
                name: "evidence-missing".to_owned(),
                subject: layout::evidence_entry(n).to_string(),
                severity: Severity::Critical,
                detail:
                    "Later entries of the evidence log are there and this one is not: evidence was removed."
                        .to_owned(),
                since: crate::desk::now(),
            });
        }
        let mut proven = Proven {
            listed: Some(crate::desk::now()),
            entries: numbers.len() as u64,
            findings,
            ..Proven::default()
        };
        proven.show(drills(self.read.values()));
        let recoveries = self.read.values().filter_map(|said| match said {
            Said::Ended(drill) => Some((drill.cluster.clone(), drill.recovery?)),
            Said::Restored(cluster, recovery) => Some((cluster.clone(), (*recovery)?)),
            Said::Intended(_) | Said::Other => None,
        });
        self.learnt = lessons(recoveries, &self.learnt);
        proven.learnt.clone_from(&self.learnt);
        Ok(proven)
    }
}

/// Puts intents and results together.
fn drills<'a>(said: impl Iterator<Item = &'a Said>) -> Vec<DrillSeen> {
    let mut drills: BTreeMap<DrillId, DrillSeen> = BTreeMap::new();
    for said in said {
        match said {
            Said::Intended(drill) => {
                drills.entry(drill.id).or_insert_with(|| drill.clone());
            }
            Said::Ended(ended) => {
                let drill = drills.entry(ended.id).or_insert_with(|| ended.clone());
                // The first result counts; a drill that was given up and ends
                // after all has shown that it can, later than promised.
                if drill.result.as_ref().is_none_or(|r| r.verdict == "ABANDONED")
                    && drill.cluster == ended.cluster
                {
                    drill.result.clone_from(&ended.result);
                    if !ended.level.is_empty() {
                        drill.level.clone_from(&ended.level);
                    }
                }
            }
            Said::Restored(..) | Said::Other => {}
        }
    }
    let mut drills: Vec<DrillSeen> = drills.into_values().collect();
    drills.sort_by_key(|drill| (drill.began, drill.id));
    drills
}

/// The bytes that a DSSE signature covers.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

fn is_of_a_drill(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "predicateType")]
        predicate_type: String,
    }
    serde_json::from_slice::<Kind>(payload).map_or(true, |k| {
        !k.predicate_type
            .starts_with("https://holdfast.dev/recovery-coverage/")
    })
}

fn read_entry(bytes: &Bytes, trust: &Trust, stored: Timestamp) -> Result<Said, String> {
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|e| format!("it is no DSSE envelope ({e})"))?;
    let payload = BASE64
        .decode(&envelope.payload)
        .map_err(|_| "its payload is not base64".to_owned())?;
    let body = |e: serde_json::Error| format!("its payload cannot be read ({e})");
    let said = match envelope.payload_type.as_str() {
        INTENT => {
            let intent: Intent = serde_json::from_slice(&payload).map_err(body)?;
            Said::Intended(DrillSeen {
                id: intent.drill,
                cluster: intent.cluster,
                scenario: intent.scenario,
                level: intent.level,
                began: intent.at,
                deadline: Some(intent.deadline),
                result: None,
                recovery: None,
            })
        }
        ABANDONED => {
            let abandoned: Abandoned = serde_json::from_slice(&payload).map_err(body)?;
            let result = DrillResult {
                verdict: "ABANDONED".to_owned(),
                at: abandoned.at,
                rto_ms: None,
                reasons: vec![abandoned.reason],
            };
            Said::Ended(DrillSeen {
                id: abandoned.drill,
                cluster: abandoned.cluster,
                scenario: String::new(),
                level: String::new(),
                began: abandoned.at,
                deadline: None,
                result: Some(result),
                recovery: None,
            })
        }
        // A month's coverage is an in-toto statement too, and no drill.
        IN_TOTO if is_of_a_drill(&payload) => {
            let statement: Statement = serde_json::from_slice(&payload).map_err(body)?;
            let Predicate {
                drill,
                scope,
                results,
                timings,
            } = statement.predicate;
            let real = drill.kind == "REAL_RESTORE";
            let recovery = recovery_of(&timings, results.rto.as_ref(), real);
            let cluster = ClusterId {
                tenant: scope.tenant,
                cluster: scope.cluster,
            };
            if real {
                let signed = signed_for(&envelope, &payload, trust, &[TrustRole::Runner], &cluster);
                // Nothing rests on it but a forecast: one that is not believed teaches nothing.
                return Ok(signed.map_or(Said::Other, |()| Said::Restored(cluster, recovery)));
            }
            let result = DrillResult {
                verdict: results.verdict,
                at: timings.phases.iter().map(|p| p.end).max().unwrap_or(stored),
                rto_ms: results.rto.map(|rto| rto.actual_ms),
                reasons: results.reasons,
            };
            Said::Ended(DrillSeen {
                id: drill.id,
                cluster,
                scenario: drill.scenario,
                level: drill.level,
                began: timings.phases.iter().map(|p| p.start).min().unwrap_or(stored),
                deadline: None,
                result: Some(result),
                recovery,
            })
        }
        _ => return Ok(Said::Other),
    };
    // What nobody came back to is answered by the coordinator.
    let roles: &[TrustRole] = match envelope.payload_type.as_str() {
        ABANDONED => &[TrustRole::Runner, TrustRole::Coordinator],
        _ => &[TrustRole::Runner],
    };
    let (Said::Intended(drill) | Said::Ended(drill)) = &said else {
        return Ok(said);
    };
    signed_for(&envelope, &payload, trust, roles, &drill.cluster)?;
    Ok(said)
}

/// Whether a key that is believed for the cluster in one of these roles has signed it.
fn signed_for(
    envelope: &Envelope,
    payload: &[u8],
    trust: &Trust,
    roles: &[TrustRole],
    cluster: &ClusterId,
) -> Result<(), String> {
    let signed = pae(&envelope.payload_type, payload);
    let mut why = "it is not signed".to_owned();
    for signature in &envelope.signatures {
        let believed = trust
            .check(&signature.keyid, roles, Some(cluster))
            .map_err(|e| e.to_string())
            .and_then(|key| {
                let sig = BASE64
                    .decode(&signature.sig)
                    .map_err(|_| "its signature is not base64".to_owned())?;
                key.verifying.verify(&signed, &sig).map_err(|e| e.to_string())
            });
        match believed {
            Ok(()) => return Ok(()),
            Err(refused) => why = refused,
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drill(n: u128, result: Option<&str>) -> DrillSeen {
        let at = Timestamp::from_unix_micros(1_800_000_000_000_000).plus_millis(n as i64 * 1000);
        DrillSeen {
            id: DrillId::from_parts(at, n),
            cluster: "acme/erp".parse().unwrap(),
            scenario: "accidental-deletion".to_owned(),
            level: "L3".to_owned(),
            began: at,
            deadline: None,
            recovery: None,
            result: result.map(|verdict| DrillResult {
                verdict: verdict.to_owned(),
                at: at.plus_millis(500),
                rto_ms: Some(500),
                reasons: vec![],
            }),
        }
    }

    /// The coordinator answers what nobody came back to; a restore that was needed
    /// and a month's coverage are in the log and are no drills.
    #[test]
    fn what_the_coordinator_logs_is_believed_for_what_it_is() {
        use holdfast_proto::names::RepositoryId;
        use holdfast_repository::signing::SigningKey;
        use holdfast_repository::trust::{append, enrolment, genesis};

        let at = Timestamp::from_unix_micros(1_800_000_000_000_000);
        let [root, runner, coordinator] = [(); 3].map(|()| SigningKey::generate_ed25519().unwrap());
        let repository = RepositoryId::from_parts(at, 1);
        let mut trust = Trust::empty(repository, root.fingerprint());
        let mut take = |bytes: Vec<u8>| {
            let next = trust.verify_next(&bytes.into()).unwrap();
            trust.extend(&next).unwrap();
            trust.clone()
        };
        let first = genesis(&root, &"root".parse().unwrap(), repository, at)
            .unwrap()
            .1;
        let trust = take(first);
        let acts = [
            ("runner-1", &runner, TrustRole::Runner),
            ("c-1", &coordinator, TrustRole::Coordinator),
        ]
        .map(|(name, key, role)| enrolment(key.verifying(), &name.parse().unwrap(), role, &[]));
        let trust = take(append(&trust, acts.to_vec(), &root, at).unwrap().1);
        let entry = |kind: &str, body: serde_json::Value, key: &SigningKey| {
            let payload = body.to_string().into_bytes();
            let envelope = serde_json::json!({
                "payload": BASE64.encode(&payload), "payloadType": kind,
                "signatures": [{ "keyid": key.fingerprint(), "sig": BASE64.encode(key.sign(&pae(kind, &payload))) }],
            });
            read_entry(&Bytes::from(envelope.to_string()), &trust, at)
        };
        let id = DrillId::from_parts(at, 7);
        let abandoned = serde_json::json!({
            "drill": id, "cluster": "acme/erp", "intent": 0, "intent_digest": "ab".repeat(32), "at": at, "reason": "late",
        });
        assert!(matches!(
            entry(ABANDONED, abandoned.clone(), &coordinator),
            Ok(Said::Ended(_))
        ));
        assert!(matches!(
            entry(ABANDONED, abandoned.clone(), &runner),
            Ok(Said::Ended(_))
        ));
        entry(ABANDONED, abandoned, &root).unwrap_err();
        let result = |kind: &str| {
            serde_json::json!({
                "predicateType": "https://holdfast.dev/recovery-drill/v1",
                "predicate": {
                    "drill": { "id": id, "kind": kind, "level": "L3", "scenario": "restore" },
                    "scope": { "tenant": "acme", "cluster": "erp" },
                    "results": { "verdict": "PASS" }, "timings": { "phases": [{
                        "phase": "BASE_FETCH", "start": at, "end": at.plus_millis(4_000), "bytes": 1_000,
                    }] },
                },
            })
        };
        // A drill whose copy never took connections teaches nothing.
        assert!(matches!(
            entry(IN_TOTO, result("SCHEDULED"), &runner),
            Ok(Said::Ended(drill)) if drill.recovery.is_none()
        ));
        entry(IN_TOTO, result("SCHEDULED"), &coordinator).unwrap_err();
        let real = result("REAL_RESTORE");
        // A restore that was needed teaches what it took to write files.
        let Ok(Said::Restored(_, Some(recovery))) = entry(IN_TOTO, real.clone(), &runner) else {
            panic!("it is a restore");
        };
        assert_eq!((recovery.base.unwrap().ms, recovery.total_ms), (4_000, None));
        // It is nobody's drill, whoever signed it, and what is not believed teaches nothing.
        assert_eq!(entry(IN_TOTO, real, &coordinator), Ok(Said::Other));
        let coverage = serde_json::json!({ "predicateType": "https://holdfast.dev/recovery-coverage/v1" });
        assert_eq!(entry(IN_TOTO, coverage, &coordinator), Ok(Said::Other));
    }

    #[test]
    fn results_are_put_to_their_intents() {
        let said = [
            Said::Intended(drill(1, None)),
            Said::Ended(drill(1, Some("PASS"))),
            Said::Ended(drill(1, Some("FAIL"))),
            Said::Other,
            Said::Intended(drill(2, None)),
            Said::Intended(drill(3, None)),
            Said::Ended(drill(3, Some("ABANDONED"))),
            Said::Ended(drill(3, Some("FAIL"))),
        ];
        let mut proven = Proven::default();
        proven.show(drills(said.iter()));
        let cluster: ClusterId = "acme/erp".parse().unwrap();
        let verdicts: Vec<_> = proven
            .of(&cluster)
            .map(|d| d.result.as_ref().map(|r| r.verdict.as_str()).unwrap_or("none"))
            .collect();
        assert_eq!(verdicts, ["PASS", "none", "FAIL"]);
        assert_eq!(proven.last_pass(&cluster).unwrap().0.id, drill(1, None).id);
        // A look at the backup alone is no restore.
        let mut looked = drill(4, Some("PASS"));
        looked.level = "L1".to_owned();
        proven.show([drill(1, Some("PASS")), looked.clone()]);
        assert_eq!(proven.last_pass(&cluster).unwrap().0.id, drill(1, None).id);
        proven.show([looked]);
        assert!(proven.last_pass(&cluster).is_none());
        assert!(proven.last_pass(&"acme/other".parse().unwrap()).is_none());
    }
}
