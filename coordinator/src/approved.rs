//! What people approved, as the repository shows it.
//!
//! Read anew before each look at the policy's file. Nothing here is the coordinator's
//! own word: a request and its approvals are signed objects, and who may approve, and
//! how many at least, stands in the trust chain. The rule of the policy in force comes
//! on top.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use holdfast_plan::policy::ApprovalRule;
use holdfast_proto::approval::Guarded;
use holdfast_proto::names::ActorName;
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::Repository;
use holdfast_repository::approval::{self, ApprovalError, State};
use holdfast_repository::trust::Trust;

use crate::governing::Approvals;

/// A plan that enough people want by the trust chain.
#[derive(Debug, Clone)]
struct Granted {
    asked: Timestamp,
    by: BTreeSet<ActorName>,
}

/// What was approved of policy, when it was last looked.
#[derive(Debug, Default)]
pub struct Approved {
    plans: Mutex<BTreeMap<Sha256Digest, Vec<Granted>>>,
}

impl Approved {
    /// Reads the requests for weaker policies.
    ///
    /// # Errors
    /// They cannot be read: then nothing is approved.
    pub async fn look(
        &self,
        repository: &Repository,
        trust: &Trust,
        now: Timestamp,
    ) -> Result<(), ApprovalError> {
        self.set(BTreeMap::new());
        let mut plans: BTreeMap<Sha256Digest, Vec<Granted>> = BTreeMap::new();
        let requests = approval::list(repository, trust).await?.items;
        for request in requests.iter().filter(|request| {
            request.body.action == Guarded::PolicyWeakening && request.body.clusters.is_empty()
        }) {
            let standing = approval::standing(repository, trust, request, 0, now).await?;
            if standing.state == State::Granted {
                plans.entry(request.digest).or_default().push(Granted {
                    asked: request.body.at,
                    by: standing.granted.into_keys().collect(),
                });
            }
        }
        self.set(plans);
        Ok(())
    }

    fn set(&self, plans: BTreeMap<Sha256Digest, Vec<Granted>>) {
        *self.plans.lock().unwrap_or_else(PoisonError::into_inner) = plans;
    }
}

impl Approvals for Approved {
    fn approved(
        &self,
        plan: &Sha256Digest,
        rule: &ApprovalRule,
        members: Option<&BTreeSet<&ActorName>>,
        now: Timestamp,
    ) -> bool {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.get(plan).into_iter().flatten().any(|granted| {
            let counts = |name: &&ActorName| members.is_none_or(|members| members.contains(*name));
            let enough = granted.by.iter().filter(counts).count() >= rule.approvers as usize;
            enough && now.millis_since(granted.asked) <= rule.expires.millis()
        })
    }
}
