//! Reading over all replicas: believed only when verified, healed on the way.
//!
//! [`Repository::find`] asks the replicas one after another and gives every copy
//! to a judge: a digest, or a signature. The first copy that the judge accepts
//! is the answer. On the way it notes what was wrong with the others:
//!
//! | finding | what was seen |
//! |---|---|
//! | `object-missing` | a replica that answered has no such object |
//! | `object-damaged` | a replica's copy was refused by the judge |
//! | `object-overwritten` | the current version was refused or deleted, an older one is good |
//! | `replica-unreachable` | a replica did not answer: nothing is known of its copy |
//! | `healed`, `heal-failed` | the copy was replaced by the good one, or could not be |
//!
//! Order: preferred regions, then as configured; a replica that failed within
//! the last seconds is asked last and only once, so a dead region costs one
//! deadline and not one for each object.
//!
//! Healing, when the repository was opened for it, replaces a damaged copy and
//! creates a missing one. A missing *commit point* is not created: a replica may
//! hold a commit point only when it holds everything that it needs, and that is
//! for replication to see to.
//!
//! "Not found" is an answer only when every replica gave it. If one did not
//! answer, the object may be there.

use std::ops::Range;

use bytes::Bytes;
use holdfast_proto::Sha256Digest;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ObjectKey, Region};

use crate::layout::{self, Located};
use crate::listing::unreachable;
use crate::opened::Repository;
use crate::replica::{Class, Replica, StoreError};
use crate::{clock, replica};

/// An object that was read and verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// What was wrong with other copies, and what was done about it.
    pub findings: Vec<Finding>,
}

/// What a judge made of an object, and from where.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// The judge's value.
    pub value: T,
    /// The bytes that it accepted.
    pub bytes: Bytes,
    /// The replica that they came from.
    pub region: Region,
    /// What was wrong with other copies, and what was done about it.
    pub findings: Vec<Finding>,
}

/// Bytes of a range, as a replica returned them: not verified.
#[derive(Debug, Clone)]
pub struct Ranged {
    /// The bytes.
    pub bytes: Bytes,
    /// The replica that returned them.
    pub region: Region,
}

/// What was wrong with one replica's copy.
#[derive(Debug, Clone)]
pub enum Copy {
    /// It is not there.
    Missing,
    /// It was refused.
    Damaged(String),
    /// The replica did not answer.
    Unknown(StoreError),
}

/// No good copy was found.
#[derive(Debug, Clone)]
pub struct FetchError {
    /// The object.
    pub key: ObjectKey,
    /// Each replica's copy.
    pub copies: Vec<(Region, Copy)>,
}

impl FetchError {
    /// [`Class::NotFound`] only when every replica said so; [`Class::Retry`]
    /// when one that might have it did not answer.
    pub fn class(&self) -> Class {
        let mut class = Class::NotFound;
        for (_, copy) in &self.copies {
            match copy {
                Copy::Missing => {}
                Copy::Damaged(_) if class == Class::NotFound => class = Class::Corrupt,
                Copy::Damaged(_) => {}
                Copy::Unknown(e) if e.class() == Class::Retry => return Class::Retry,
                Copy::Unknown(e) => class = e.class(),
            }
        }
        class
    }
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no replica returned a good copy of {}", self.key)?;
        for (i, (region, copy)) in self.copies.iter().enumerate() {
            let separator = if i == 0 { ": " } else { "; " };
            match copy {
                Copy::Missing => write!(f, "{separator}{region} does not have it")?,
                Copy::Damaged(why) => write!(f, "{separator}the copy in {region} is bad ({why})")?,
                Copy::Unknown(error) => write!(f, "{separator}{}", error.explained())?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}

impl Repository {
    /// Replicas in the order in which they should be read.
    pub fn reading_order(&self) -> Vec<Replica> {
        let mut order: Vec<&Replica> = self.replicas.iter().collect();
        let preference = |r: &Replica| {
            self.prefer
                .iter()
                .position(|p| p == r.region())
                .unwrap_or(self.prefer.len())
        };
        order.sort_by_key(|r| (r.is_ailing(), preference(r)));
        order.into_iter().cloned().collect()
    }

    /// The object with this digest and size.
    pub async fn fetch(
        &self,
        key: &ObjectKey,
        sha256: &Sha256Digest,
        size: u64,
    ) -> Result<Fetched, FetchError> {
        let judge = |bytes: &Bytes| match Sha256Digest::of(bytes) {
            found if found == *sha256 => Ok(()),
            found => Err(format!("its SHA-256 is {found}")),
        };
        let found = self.find_sized(key, Some(size), judge).await?;
        Ok(Fetched {
            bytes: found.bytes,
            findings: found.findings,
        })
    }

    /// The first copy of the object that `judge` accepts.
    pub async fn find<T>(
        &self,
        key: &ObjectKey,
        judge: impl Fn(&Bytes) -> Result<T, String>,
    ) -> Result<Found<T>, FetchError> {
        self.find_sized(key, None, judge).await
    }

    async fn find_sized<T>(
        &self,
        key: &ObjectKey,
        size: Option<u64>,
        judge: impl Fn(&Bytes) -> Result<T, String>,
    ) -> Result<Found<T>, FetchError> {
        let mut bad: Vec<(Replica, Copy)> = Vec::new();
        for replica in self.reading_order() {
            let copy = match replica.get_limited(key, size).await {
                Ok(bytes) => match judge(&bytes) {
                    Ok(value) => {
                        let findings = self.account(key, &bytes, &bad, Vec::new()).await;
                        return Ok(Found {
                            value,
                            bytes,
                            region: replica.region().clone(),
                            findings,
                        });
                    }
                    Err(why) => Copy::Damaged(why),
                },
                Err(error) => match error.class() {
                    Class::NotFound => Copy::Missing,
                    Class::Corrupt => Copy::Damaged(error.explained()),
                    _ => Copy::Unknown(error),
                },
            };
            let original = match &copy {
                Copy::Unknown(_) => None,
                Copy::Missing | Copy::Damaged(_) => original(&replica, key, size, &judge).await,
            };
            if let Some((value, bytes, version)) = original {
                let overwritten = Finding {
                    name: "object-overwritten".to_owned(),
                    subject: format!("{}:{key}", replica.region()),
                    severity: Severity::Critical,
                    detail: format!(
                        "{}; version {version}, which is older, is good and was used. Somebody with write credentials \
                         did this: look into the bucket's log, replace the credentials.",
                        match &copy {
                            Copy::Damaged(why) => format!("The current version is bad: {why}"),
                            _ => "The current version is a deletion".to_owned(),
                        }
                    ),
                    since: clock::now(),
                };
                let region = replica.region().clone();
                bad.push((replica, copy));
                let findings = self.account(key, &bytes, &bad, vec![overwritten]).await;
                return Ok(Found {
                    value,
                    bytes,
                    region,
                    findings,
                });
            }
            bad.push((replica, copy));
        }
        Err(FetchError {
            key: key.clone(),
            copies: bad
                .into_iter()
                .map(|(replica, copy)| (replica.region().clone(), copy))
                .collect(),
        })
    }

    /// Names what was wrong with the copies that were passed over, and repairs
    /// them from `good` when the repository is open for healing.
    async fn account(
        &self,
        key: &ObjectKey,
        good: &Bytes,
        bad: &[(Replica, Copy)],
        mut findings: Vec<Finding>,
    ) -> Vec<Finding> {
        let since = clock::now();
        for (replica, copy) in bad {
            let region = replica.region();
            let seen = |name: &str, detail: String| Finding {
                name: name.to_owned(),
                subject: format!("{region}:{key}"),
                severity: Severity::Warning,
                detail,
                since,
            };
            let repaired = match copy {
                Copy::Unknown(error) => {
                    findings.push(unreachable(region, error, since));
                    continue;
                }
                Copy::Missing => {
                    findings.push(seen(
                        "object-missing",
                        format!(
                            "Replica {region} does not hold the object; another replica's copy was used."
                        ),
                    ));
                    if !self.healing {
                        continue;
                    }
                    if !stands_alone(key) {
                        // Replication brings it, with all that it needs.
                        continue;
                    }
                    replica.create(key, good.clone()).await.map(|_| ())
                }
                Copy::Damaged(why) => {
                    findings.push(seen(
                        "object-damaged",
                        format!("The copy on replica {region} is bad ({why}); another copy was used."),
                    ));
                    if !self.healing {
                        continue;
                    }
                    replica.replace(key, good.clone()).await
                }
            };
            findings.push(match repaired {
                Ok(()) => Finding {
                    severity: Severity::Info,
                    ..seen(
                        "healed",
                        format!("Replica {region} holds a verified copy of the object again."),
                    )
                },
                Err(error) => seen("heal-failed", error.explained()),
            });
        }
        findings
    }

    /// The bytes of a range from the first replica that returns them, without
    /// the replicas in `avoid`. The caller verifies them, and when they are bad
    /// asks again and avoids their region.
    pub async fn fetch_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        avoid: &[Region],
    ) -> Result<Ranged, FetchError> {
        let mut copies = Vec::new();
        for replica in self.reading_order() {
            let region = replica.region().clone();
            if avoid.contains(&region) {
                copies.push((region, Copy::Damaged("its bytes were refused".to_owned())));
                continue;
            }
            match replica.get_range(key, range.clone()).await {
                Ok(bytes) => return Ok(Ranged { bytes, region }),
                Err(error) => copies.push((
                    region,
                    match error.class() {
                        Class::NotFound => Copy::Missing,
                        Class::Corrupt => Copy::Damaged(error.explained()),
                        _ => Copy::Unknown(error),
                    },
                )),
            }
        }
        Err(FetchError {
            key: key.clone(),
            copies,
        })
    }
}

/// The oldest version that the judge accepts, where versions are kept.
async fn original<T>(
    replica: &Replica,
    key: &ObjectKey,
    size: Option<u64>,
    judge: &impl Fn(&Bytes) -> Result<T, String>,
) -> Option<(T, Bytes, String)> {
    if !replica.keeps_versions() {
        return None;
    }
    let versions = match replica.versions(key).await {
        Ok(versions) => versions,
        Err(error) => {
            tracing::info!(region = %replica.region(), key = %key, err = %error.explained(), "versions cannot be listed");
            return None;
        }
    };
    for version in versions {
        if version.latest
            || size.is_some_and(|size| size != version.size)
            || version.size > replica::MAX_OBJECT
        {
            continue;
        }
        if let Ok(bytes) = replica.get_version(key, &version).await
            && let Ok(value) = judge(&bytes)
        {
            return Some((value, bytes, version.id.unwrap_or_default()));
        }
    }
    None
}

/// Whether an object may be put on a replica without looking at what else is
/// there: it commits nothing.
fn stands_alone(key: &ObjectKey) -> bool {
    matches!(
        layout::parse(key.as_str()),
        Some(Located::Pack { .. } | Located::Index { .. } | Located::EvidenceStatement { .. })
    )
}
