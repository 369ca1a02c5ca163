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
//! | `object-overwritten` | the current version was refused, deleted or is not the first; an older one is good |
//! | `versions-unknown` | the store keeps versions, and the credentials may not list them |
//! | `replica-unreachable` | a replica did not answer: nothing is known of its copy |
//! | `healed`, `heal-failed` | the copy was replaced by the good one, or could not be |
//!
//! Order: preferred regions, then as configured; a replica that failed a short
//! while ago is asked last, and as long as no call to it succeeds, only once. The
//! while grows with each failure, so a dead region costs one deadline now and then
//! and not one for each object.
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

use crate::layout;
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
    /// Whether every replica answered, and none has a good copy: it will not come
    /// back by itself.
    pub fn is_lost(&self) -> bool {
        !self
            .copies
            .iter()
            .any(|(_, copy)| matches!(copy, Copy::Unknown(_)))
    }

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
        // Only one content can have the digest: which version it is matters not.
        let found = self.search(key, Some(size), Age::Any, judge).await?;
        Ok(Fetched {
            bytes: found.bytes,
            findings: found.findings,
        })
    }

    /// The first copy of the object that `judge` accepts. Where the store keeps
    /// versions, the oldest that it accepts: what was written first is the
    /// original, also when a thief of all the writer's keys wrote later.
    pub async fn find<T>(
        &self,
        key: &ObjectKey,
        judge: impl Fn(&Bytes) -> Result<T, String>,
    ) -> Result<Found<T>, FetchError> {
        self.search(key, None, Age::Oldest, judge).await
    }

    async fn search<T>(
        &self,
        key: &ObjectKey,
        size: Option<u64>,
        age: Age,
        judge: impl Fn(&Bytes) -> Result<T, String>,
    ) -> Result<Found<T>, FetchError> {
        let mut bad: Vec<(Replica, Copy)> = Vec::new();
        let mut findings = Vec::new();
        for replica in self.reading_order() {
            let current = match replica.get_limited(key, size).await {
                Ok(bytes) => judge(&bytes).map(|value| (value, bytes)).map_err(Copy::Damaged),
                Err(error) => Err(match error.class() {
                    Class::NotFound => Copy::Missing,
                    Class::Corrupt => Copy::Damaged(error.explained()),
                    _ => Copy::Unknown(error),
                }),
            };
            let look_back = match (&current, age) {
                (Err(Copy::Unknown(_)), _) | (Ok(_), Age::Any) => false,
                (Err(_), _) | (Ok(_), Age::Oldest) => true,
            };
            let older = if look_back {
                match older(&replica, key, size, &judge, &mut findings).await {
                    Ok(older) => older,
                    // There is an older version that cannot be read now.
                    Err(error) => {
                        bad.push((replica, Copy::Unknown(error)));
                        continue;
                    }
                }
            } else {
                None
            };
            let (value, bytes) = match (older, current) {
                // An older version with the same bytes: it was overwritten once,
                // and put right again.
                (Some(older), Ok((_, bytes))) if older.bytes == bytes => (older.value, older.bytes),
                (None, Ok(current)) => current,
                (Some(older), current) => {
                    let copy = match current {
                        Ok(_) => Copy::Damaged("it is not what was written first".to_owned()),
                        Err(copy) => copy,
                    };
                    findings.push(overwritten(replica.region(), key, &copy, &older.version));
                    bad.push((replica.clone(), copy));
                    (older.value, older.bytes)
                }
                (None, Err(copy)) => {
                    bad.push((replica, copy));
                    continue;
                }
            };
            self.account(key, &bytes, &bad, &mut findings).await;
            return Ok(Found {
                value,
                bytes,
                region: replica.region().clone(),
                findings,
            });
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
        findings: &mut Vec<Finding>,
    ) {
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
                    if !layout::is_content(key) {
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

/// Which version of an object is wanted, where a store keeps several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Any that the judge accepts.
    Any,
    /// The oldest that the judge accepts.
    Oldest,
}

/// A version that is not the current one.
struct Older<T> {
    value: T,
    bytes: Bytes,
    version: String,
}

/// The oldest version that the judge accepts, unless that is the current one.
async fn older<T>(
    replica: &Replica,
    key: &ObjectKey,
    size: Option<u64>,
    judge: &impl Fn(&Bytes) -> Result<T, String>,
    findings: &mut Vec<Finding>,
) -> Result<Option<Older<T>>, StoreError> {
    if !replica.keeps_versions() {
        return Ok(None);
    }
    let versions = match replica.versions(key).await {
        Ok(versions) => versions,
        Err(error) => {
            findings.push(Finding {
                name: "versions-unknown".to_owned(),
                subject: replica.region().to_string(),
                severity: Severity::Info,
                detail: format!(
                    "It cannot be said whether objects were overwritten: {}. Allow these credentials to list \
                     versions.",
                    error.explained()
                ),
                since: clock::now(),
            });
            return Ok(None);
        }
    };
    for version in versions {
        if version.latest {
            return Ok(None);
        }
        if size.is_some_and(|size| size != version.size) || version.size > replica::MAX_OBJECT {
            continue;
        }
        let bytes = match replica.get_version(key, &version).await {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.class(), Class::Corrupt | Class::NotFound) => continue,
            Err(e) => return Err(e),
        };
        if let Ok(value) = judge(&bytes) {
            return Ok(Some(Older {
                value,
                bytes,
                version: version.id.unwrap_or_default(),
            }));
        }
    }
    Ok(None)
}

fn overwritten(region: &Region, key: &ObjectKey, current: &Copy, version: &str) -> Finding {
    let seen = match current {
        Copy::Damaged(why) => format!("The current version is bad: {why}"),
        Copy::Missing | Copy::Unknown(_) => "The current version is a deletion".to_owned(),
    };
    Finding {
        name: "object-overwritten".to_owned(),
        subject: format!("{region}:{key}"),
        severity: Severity::Critical,
        detail: format!(
            "{seen}. Version {version}, which is older, is good and was used. Somebody with write credentials did \
             this: look into the bucket's log and replace the credentials."
        ),
        since: clock::now(),
    }
}
