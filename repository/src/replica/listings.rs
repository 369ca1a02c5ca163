//! Listing one replica.
//!
//! A listing is whole or an error: one that breaks off, or that ran while the
//! place went away, is never taken for a shorter one.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::Timestamp;
use holdfast_proto::names::ObjectKey;
use object_store::path::Path;

use crate::tally::PAGE;

use super::{Cause, Class, Listed, Operation, Replica, StoreError};

impl Replica {
    /// All objects below `prefix` (which ends in `/` or is empty), sorted.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.list_after(prefix, None).await
    }

    /// As [`Replica::list`], only what sorts behind `after`: for prefixes that
    /// grow for ever at their end. S3 and Google Cloud Storage skip the rest
    /// without sending it.
    pub async fn list_after(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<Listed>, StoreError> {
        self.identified().await?;
        let mut attempts = self.attempts(Operation::List, prefix, 0);
        loop {
            let listed: Result<Vec<Listed>, Cause> = self.raw_list(prefix, after)?.try_collect().await;
            match listed {
                Ok(mut listed) => {
                    self.still_there().await?;
                    self.note_health(true);
                    listed.sort_by(|a, b| a.key.cmp(&b.key));
                    return Ok(listed);
                }
                Err(cause) => {
                    attempts.made += 1;
                    match cause.class() {
                        Class::Retry => attempts.pause_reading(cause).await?,
                        _ => return Err(attempts.failed(cause)),
                    }
                }
            }
        }
    }

    /// All objects below `prefix` in the order of their keys, without holding
    /// them all where the back end lists in order. A stream that failed has
    /// shown a part only. Ends after the first error.
    pub fn list_stream(&self, prefix: &str) -> BoxStream<'static, Result<Listed, StoreError>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let begin = async move {
            if !this.shared.back.ordered {
                let listed = this.list(&prefix).await?;
                return Ok(futures::stream::iter(listed).map(Ok).boxed());
            }
            this.identified().await?;
            let raw = this.raw_list(&prefix, None)?;
            Ok::<_, StoreError>(this.in_order(prefix, raw))
        };
        futures::stream::once(begin).try_flatten().boxed()
    }

    /// Checks the order of a listing, and at its end that the place is still
    /// what it was.
    fn in_order(
        self,
        prefix: String,
        raw: BoxStream<'static, Result<Listed, Cause>>,
    ) -> BoxStream<'static, Result<Listed, StoreError>> {
        struct State {
            replica: Replica,
            prefix: String,
            raw: BoxStream<'static, Result<Listed, Cause>>,
            last: Option<ObjectKey>,
            over: bool,
        }
        let state = State {
            replica: self,
            prefix,
            raw,
            last: None,
            over: false,
        };
        futures::stream::unfold(state, |mut s| async move {
            if s.over {
                return None;
            }
            let failed = |s: &State, cause| {
                let mut attempts = s.replica.attempts(Operation::List, &s.prefix, 0);
                attempts.made = 1;
                attempts.failed(cause)
            };
            match s.raw.next().await {
                Some(Ok(listed)) => {
                    if s.last.as_ref().is_some_and(|last| *last >= listed.key) {
                        s.over = true;
                        let error = failed(&s, Cause::OutOfOrder(listed.key.to_string()));
                        return Some((Err(error), s));
                    }
                    s.last = Some(listed.key.clone());
                    Some((Ok(listed), s))
                }
                Some(Err(cause)) => {
                    s.over = true;
                    let error = failed(&s, cause);
                    Some((Err(error), s))
                }
                None => {
                    s.over = true;
                    match s.replica.still_there().await {
                        Ok(()) => None,
                        Err(error) => Some((Err(error), s)),
                    }
                }
            }
        })
        .boxed()
    }

    /// The back end's listing; each step has the deadline of an attempt.
    fn raw_list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<BoxStream<'static, Result<Listed, Cause>>, StoreError> {
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(StoreError::BadPrefix {
                prefix: prefix.to_owned(),
            });
        }
        let stream: BoxStream<'static, Result<Listed, Cause>> = match &self.shared.back.directory {
            Some(directory) => directory
                .walk(prefix)
                .try_filter({
                    let after = after.map(|key| key.as_str().to_owned());
                    move |found| std::future::ready(after.as_ref().is_none_or(|after| found.path > *after))
                })
                .map(|found| {
                    let found = found?;
                    Ok(Listed {
                        key: ObjectKey::from_layout(found.path),
                        size: found.size,
                        modified: found.modified,
                    })
                })
                .boxed(),
            None => {
                let path = (!prefix.is_empty()).then(|| Path::from(prefix));
                let store = &self.shared.back.store;
                let found = match after {
                    Some(after) => store.list_with_offset(path.as_ref(), &Path::from(after.as_str())),
                    None => store.list(path.as_ref()),
                };
                found
                    .map(|found| {
                        let found = found?;
                        Ok(Listed {
                            key: ObjectKey::from_layout(found.location.to_string()),
                            size: found.size,
                            modified: Timestamp::from_chrono(found.last_modified),
                        })
                    })
                    .boxed()
            }
        };
        let patience = self.patience();
        // A page is asked for when the one before is used up.
        let (shared, asked_for) = (self.shared.clone(), prefix.to_owned());
        shared.tally.count(&asked_for, |asked| asked.lists += 1);
        let mut names = 0;
        let stream = stream
            .inspect(move |_| {
                if names > 0 && names % PAGE == 0 {
                    shared.tally.count(&asked_for, |asked| asked.lists += 1);
                }
                names += 1;
            })
            .boxed();
        Ok(futures::stream::unfold(stream, move |mut stream| async move {
            match tokio::time::timeout(patience, stream.next()).await {
                Ok(next) => next.map(|item| (item, stream)),
                Err(_) => Some((Err(Cause::NoAnswer(patience)), futures::stream::empty().boxed())),
            }
        })
        .boxed())
    }

    /// The names directly below `prefix` that have objects below them, sorted:
    /// for finding tenants, clusters and lineages without listing all they hold.
    pub async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(StoreError::BadPrefix {
                prefix: prefix.to_owned(),
            });
        }
        self.identified().await?;
        let mut attempts = self.attempts(Operation::List, prefix, 0);
        loop {
            match attempts.once(self.children_once(prefix)).await {
                Ok(names) => {
                    self.still_there().await?;
                    return Ok(names);
                }
                Err(cause) if cause.class() == Class::Retry => attempts.pause_reading(cause).await?,
                Err(cause) => return Err(attempts.failed(cause)),
            }
        }
    }

    async fn children_once(&self, prefix: &str) -> Result<Vec<String>, Cause> {
        self.shared.tally.count(prefix, |asked| asked.lists += 1);
        if let Some(directory) = &self.shared.back.directory {
            return Ok(directory.children(prefix).await?);
        }
        let path = (!prefix.is_empty()).then(|| Path::from(prefix));
        let listed = self.shared.back.store.list_with_delimiter(path.as_ref()).await?;
        let mut names: Vec<String> = listed
            .common_prefixes
            .iter()
            .filter_map(|p| p.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }
}
