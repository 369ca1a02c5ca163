//! The policy in force, and one that waits to be.
//!
//! The policy's file is read again and again. A text that asks for no less than
//! the policy in force takes its place, whole and at once. One that cannot be
//! used, or that asks for less and is not approved, changes nothing: all of it
//! waits, and a finding says why.
//!
//! Who reads takes the whole policy ([`Governing::policy`]) and keeps it for what
//! is being decided, so that no decision is made by two of them. The text in
//! force is remembered over a restart ([`crate::memory`]): starting the process
//! anew is no way around an approval.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use holdfast_plan::policy::change::{Change, changes, weakenings};
use holdfast_plan::policy::{Ambiguous, ApprovalRule, Guarded, OpenWindows, Policy};
use holdfast_proto::labels::Labels;
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_proto::residency::{Place, Use};
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a plan, by the digest of exactly what it says, was approved.
pub trait Approvals {
    /// By enough of those whom the rule names (`members`; `None`: any approver), and
    /// not too long ago.
    fn approved(
        &self,
        plan: &Sha256Digest,
        rule: &ApprovalRule,
        members: Option<&BTreeSet<&ActorName>>,
        now: Timestamp,
    ) -> bool;
}

/// A policy that took the place of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The one before.
    pub from: Sha256Digest,
    /// The one in force since.
    pub to: Sha256Digest,
    /// What that changed.
    pub changes: Vec<Change>,
    /// When.
    pub at: Timestamp,
}

/// A text in the policy's file that is not in force, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// Digest of the text; absent when it could not be read.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Sha256Digest>,
    /// Why it waits.
    pub why: WaitsFor,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Why a policy is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// It cannot be used: every reason, each with its line where it has one.
    Repair(Vec<String>),
    /// It asks for less.
    Approval {
        /// The digest that has to be signed.
        #[schema(value_type = String)]
        plan: Sha256Digest,
        /// By whom.
        rule: String,
        /// Every change that asks for less.
        weakenings: Vec<String>,
    },
}

/// What to do about a text.
#[derive(Debug)]
pub enum Verdict {
    /// It is in force.
    Same,
    /// It takes the place of the one in force.
    Take(Box<Policy>, Vec<Change>),
    /// It waits.
    Wait(WaitsFor),
}

/// What an approver signs for a policy that asks for less: the two policies, by
/// their digests, and every change that does.
pub fn plan_text(from: &Sha256Digest, to: &Sha256Digest, weakenings: &[String]) -> String {
    let mut text = format!("{}\n{from}\n{to}\n", Guarded::PolicyWeakening);
    for weakening in weakenings {
        text.push_str(weakening);
        text.push('\n');
    }
    text
}

/// What is known when a text is considered.
pub struct Circumstances<'a> {
    /// The labels that agents report.
    pub labels: &'a BTreeMap<ClusterId, Labels>,
    /// Where the repository's replicas are.
    pub places: &'a [Place],
    /// What was approved.
    pub approvals: &'a dyn Approvals,
    /// The moment.
    pub now: Timestamp,
}

/// Decides about a text of the policy's file.
pub fn consider(current: &Policy, text: &str, file: &str, known: &Circumstances<'_>) -> Verdict {
    if Sha256Digest::of(text.as_bytes()) == current.digest() {
        return Verdict::Same;
    }
    let new = match Policy::parse(text, file) {
        Ok(new) => new,
        Err(problems) => {
            let problems = problems.iter().map(ToString::to_string).collect();
            return Verdict::Wait(WaitsFor::Repair(problems));
        }
    };
    let (before, after) = (
        current.with_labels(known.labels).0,
        new.with_labels(known.labels).0,
    );
    let refused = after.refusals(Use::Bind, known.places);
    if !refused.is_empty() {
        let refused = refused.iter().map(ToString::to_string).collect();
        return Verdict::Wait(WaitsFor::Repair(refused));
    }
    let changes = changes(&before, &after, known.now);
    let weaker: Vec<String> = weakenings(&changes).iter().map(ToString::to_string).collect();
    if !weaker.is_empty() {
        let plan = Sha256Digest::of(plan_text(&current.digest(), &new.digest(), &weaker).as_bytes());
        // The rule in force counts: a policy cannot lower its own threshold.
        let mut rule = current.approvals().rule(Guarded::PolicyWeakening);
        rule.approvers += more_approvers(&before, known.now);
        let members = current.approvals().members(&rule);
        if !known
            .approvals
            .approved(&plan, &rule, members.as_ref(), known.now)
        {
            return Verdict::Wait(WaitsFor::Approval {
                plan,
                rule: rule.to_string(),
                weakenings: weaker,
            });
        }
    }
    Verdict::Take(Box::new(new), changes)
}

/// The most additional approvers that an open window asks for.
fn more_approvers(policy: &Policy, now: Timestamp) -> u32 {
    let open = policy.active(now);
    open.iter().map(|c| c.effects.more_approvers).max().unwrap_or(0)
}

/// The policy in force. Shared by loops and listeners.
#[derive(Debug)]
pub struct Governing {
    held: RwLock<Held>,
}

#[derive(Debug, Clone)]
struct Held {
    /// As it stands in its file.
    written: Arc<Policy>,
    /// With the clusters in it that its patterns match.
    policy: Arc<Policy>,
    /// The windows of its calendars that were open when it was last asked.
    open: Option<Arc<OpenWindows>>,
    labels: Arc<BTreeMap<ClusterId, Labels>>,
    ambiguous: Vec<Ambiguous>,
    taken: Option<Taken>,
    waiting: Option<Waiting>,
}

impl Governing {
    /// Begins with a policy.
    pub fn of(policy: Policy) -> Self {
        let written = Arc::new(policy);
        Self {
            held: RwLock::new(Held {
                policy: Arc::clone(&written),
                open: None,
                written,
                labels: Arc::default(),
                ambiguous: Vec::new(),
                taken: None,
                waiting: None,
            }),
        }
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        // Each change replaces what is held whole.
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
    }

    /// The policy in force, with the clusters in it that its patterns match.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.held().policy)
    }

    /// The policy in force, and the windows of its calendars that are open at a moment.
    /// They are remembered until one opens or closes: every heartbeat asks.
    pub fn policy_at(&self, now: Timestamp) -> (Arc<Policy>, Arc<OpenWindows>) {
        let (policy, known) = {
            let held = self.held();
            (Arc::clone(&held.policy), held.open.clone())
        };
        if let Some(open) = known.filter(|open| open.holds_at(now)) {
            return (policy, open);
        }
        let open = Arc::new(policy.open_windows(now));
        self.change(|held| {
            if Arc::ptr_eq(&held.policy, &policy) {
                held.open = Some(Arc::clone(&open));
            }
        });
        (policy, open)
    }

    /// The policy in force as it stands in its file.
    pub fn written(&self) -> Arc<Policy> {
        Arc::clone(&self.held().written)
    }

    /// Clusters that several patterns match.
    pub fn ambiguous(&self) -> Vec<Ambiguous> {
        self.held().ambiguous.clone()
    }

    /// The last change of policy in this process.
    pub fn taken(&self) -> Option<Taken> {
        self.held().taken.clone()
    }

    /// What stands in the file and is not in force.
    pub fn waiting(&self) -> Option<Waiting> {
        self.held().waiting.clone()
    }

    /// The labels that clusters were last seen with.
    pub fn labels(&self) -> Arc<BTreeMap<ClusterId, Labels>> {
        Arc::clone(&self.held().labels)
    }

    /// Takes note of the labels that agents report.
    pub fn see(&self, labels: BTreeMap<ClusterId, Labels>) {
        let written = {
            let held = self.held();
            if *held.labels == labels {
                return;
            }
            Arc::clone(&held.written)
        };
        let (policy, ambiguous) = written.with_labels(&labels);
        self.change(|held| {
            held.policy = Arc::new(policy);
            held.open = None;
            held.labels = Arc::new(labels);
            held.ambiguous = ambiguous;
        });
    }

    /// Puts another policy in force, whole and at once.
    pub fn take(&self, new: Policy, changes: Vec<Change>, at: Timestamp) {
        let labels = self.labels();
        let (policy, ambiguous) = new.with_labels(&labels);
        self.change(|held| {
            held.taken = Some(Taken {
                from: held.written.digest(),
                to: new.digest(),
                changes,
                at,
            });
            held.written = Arc::new(new);
            held.policy = Arc::new(policy);
            held.open = None;
            held.ambiguous = ambiguous;
            held.waiting = None;
        });
    }

    /// Notes that nothing waits.
    pub fn settled(&self) {
        self.change(|held| held.waiting = None);
    }

    /// Notes that a text waits; since when, it keeps while it is the same one.
    /// Says whether it is news.
    pub fn wait(&self, digest: Option<Sha256Digest>, why: WaitsFor, now: Timestamp) -> bool {
        let known = self.waiting();
        if known
            .as_ref()
            .is_some_and(|known| known.digest == digest && known.why == why)
        {
            return false;
        }
        let since = known
            .filter(|known| known.digest.is_some() && known.digest == digest)
            .map_or(now, |known| known.since);
        self.change(|held| held.waiting = Some(Waiting { digest, why, since }));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLD: &str = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n";

    struct Signed(Vec<Sha256Digest>);

    impl Approvals for Signed {
        fn approved(
            &self,
            plan: &Sha256Digest,
            _: &ApprovalRule,
            _: Option<&BTreeSet<&ActorName>>,
            _: Timestamp,
        ) -> bool {
            self.0.contains(plan)
        }
    }

    fn policy(text: &str) -> Policy {
        Policy::parse(text, "p").unwrap()
    }

    fn verdict(from: &str, to: &str, approvals: &dyn Approvals) -> Verdict {
        let places = [Place {
            region: "eu".parse().ok(),
            provider: "local".parse().ok(),
        }];
        let known = Circumstances {
            labels: &BTreeMap::new(),
            places: &places,
            approvals,
            now: "2026-11-25T12:00:00Z".parse().unwrap(),
        };
        consider(&policy(from), to, "policy.toml", &known)
    }

    #[test]
    fn what_asks_for_more_is_taken_and_what_asks_for_less_waits() {
        let tight = format!("[tiers.gold]\nrpo = \"30s\"\n{GOLD}");
        assert!(matches!(verdict(GOLD, GOLD, &Signed(Vec::new())), Verdict::Same));
        let Verdict::Take(new, changes) = verdict(GOLD, &tight, &Signed(Vec::new())) else {
            panic!("a tighter policy is taken");
        };
        assert_eq!((new.digest(), changes.len()), (policy(&tight).digest(), 1));
        let Verdict::Wait(WaitsFor::Approval {
            plan,
            weakenings,
            rule,
        }) = verdict(&tight, GOLD, &Signed(Vec::new()))
        else {
            panic!("a looser policy waits");
        };
        assert_eq!(weakenings, ["acme/erp: rpo from 30s to 1min (weakens)"]);
        assert_eq!(rule, "1 of all approvers, each for 24h");
        assert!(matches!(
            verdict(&tight, GOLD, &Signed(vec![plan])),
            Verdict::Take(..)
        ));
        // Another policy with the same weakening is another plan.
        let other = format!("# another\n{GOLD}");
        assert!(matches!(
            verdict(&tight, &other, &Signed(vec![plan])),
            Verdict::Wait(WaitsFor::Approval { .. })
        ));
    }

    #[test]
    fn what_cannot_be_used_waits_with_every_reason() {
        let Verdict::Wait(WaitsFor::Repair(why)) =
            verdict(GOLD, "teir = 1\n[[cluster]]\n", &Signed(Vec::new()))
        else {
            panic!("it has problems");
        };
        assert!(
            why[0].starts_with("policy.toml:1:1: teir: is not a known key"),
            "{why:?}"
        );
        assert!(why.len() >= 3, "{why:?}");
        let far = format!(
            "[[residency]]\nname = \"us\"\nregions = [\"us\"]\n[[tenant]]\nname = \"acme\"\nresidency = \"us\"\n{GOLD}"
        );
        let Verdict::Wait(WaitsFor::Repair(why)) = verdict(GOLD, &far, &Signed(Vec::new())) else {
            panic!("the replica is elsewhere");
        };
        assert_eq!(
            why,
            [
                "acme/erp: residency zone us does not allow data to be stored in region eu of provider local: allowed \
              regions are us"
            ]
        );
    }

    #[test]
    fn a_calendar_asks_for_one_more() {
        let text = format!(
            "{GOLD}[[calendar]]\nname = \"c\"\nbegins = \"2026-01-01T00:00\"\nrecurrence = \"FREQ=DAILY\"\nduration = \
             \"24h\"\nclusters = [\"acme/erp\"]\nmore_approvers = 1\n"
        );
        let Verdict::Wait(WaitsFor::Approval { rule, .. }) = verdict(&text, "", &Signed(Vec::new())) else {
            panic!("everything was taken away");
        };
        assert_eq!(rule, "2 of all approvers, each for 24h");
    }

    #[test]
    fn labels_put_clusters_into_the_policy_in_force() {
        let governing = Governing::of(policy(
            "[[cluster]]\nmatch = { env = \"prod\" }\ntier = \"gold\"\n",
        ));
        let erp: ClusterId = "acme/erp".parse().unwrap();
        assert!(governing.policy().cluster(&erp).is_none());
        let labels = |env: &str| {
            [(
                erp.clone(),
                [("env".parse().unwrap(), env.parse().unwrap())]
                    .into_iter()
                    .collect(),
            )]
        };
        governing.see(labels("prod").into());
        assert_eq!(
            governing.policy().cluster(&erp).unwrap().tier.name.as_str(),
            "gold"
        );
        assert!(governing.written().cluster(&erp).is_none());
        governing.see(labels("test").into());
        assert!(governing.policy().cluster(&erp).is_none());
    }

    #[test]
    fn a_text_that_waits_is_news_once() {
        let governing = Governing::of(policy(GOLD));
        let at = |s: i64| Timestamp::from_unix_micros(s * 1_000_000);
        let digest = Some(Sha256Digest::of(b"x"));
        let repair = |why: &str| WaitsFor::Repair(vec![why.to_owned()]);
        assert!(governing.wait(digest, repair("a"), at(1)));
        assert!(!governing.wait(digest, repair("a"), at(2)));
        assert!(governing.wait(digest, repair("b"), at(3)));
        assert_eq!(governing.waiting().unwrap().since, at(1));
        governing.take(policy("# new\n"), Vec::new(), at(4));
        assert_eq!(governing.waiting(), None);
        assert_eq!(governing.taken().unwrap().from, policy(GOLD).digest());
    }
}
