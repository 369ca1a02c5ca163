//! Approvals: who has to agree to what.
//!
//! A rule says how many people of which groups must sign the digest of exactly
//! what is about to happen, and for how long a signature counts. An act that no
//! rule names needs one approver, of any group, and a signature counts for a day.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use holdfast_proto::approval::Guarded;
use holdfast_proto::names::{ActorName, GroupName};

use super::Policy;
use crate::document::Section;
use crate::period::Period;

/// What an act needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRule {
    /// How many different people.
    pub approvers: u32,
    /// Of which groups; empty: anyone who is enrolled as an approver.
    pub groups: BTreeSet<GroupName>,
    /// How long a signature counts.
    pub expires: Period,
}

impl Default for ApprovalRule {
    fn default() -> Self {
        Self {
            approvers: 1,
            groups: BTreeSet::new(),
            expires: Period::from_millis(86_400_000).expect("a day is longer than zero"),
        }
    }
}

impl fmt::Display for ApprovalRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<&str> = self.groups.iter().map(GroupName::as_str).collect();
        let of = match groups.is_empty() {
            true => "all approvers".to_owned(),
            false => groups.join(" and "),
        };
        write!(f, "{} of {of}, each for {}", self.approvers, self.expires)
    }
}

/// Groups, and the rules that name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvals {
    pub(super) groups: BTreeMap<GroupName, BTreeSet<ActorName>>,
    pub(super) rules: BTreeMap<Guarded, ApprovalRule>,
}

impl Approvals {
    /// Every group with its members, in order of names.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupName, &BTreeSet<ActorName>)> {
        self.groups.iter()
    }

    /// What an act needs.
    pub fn rule(&self, act: Guarded) -> ApprovalRule {
        self.rules.get(&act).cloned().unwrap_or_default()
    }

    /// Who may sign for a rule; `None`: anyone who is enrolled as an approver.
    pub fn members(&self, rule: &ApprovalRule) -> Option<BTreeSet<&ActorName>> {
        if rule.groups.is_empty() {
            return None;
        }
        let groups = rule.groups.iter().filter_map(|group| self.groups.get(group));
        Some(groups.flatten().collect())
    }
}

impl Policy {
    /// Who has to agree to what.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }
}

/// Reads every `[[group]]` and `[[approval]]`.
pub(super) fn read_approvals(root: &mut Section<'_>) -> Approvals {
    let mut approvals = Approvals::default();
    for section in root.list("group") {
        read_group(section, &mut approvals.groups);
    }
    for section in root.list("approval") {
        read_rule(section, &mut approvals);
    }
    approvals
}

fn read_group(mut section: Section<'_>, groups: &mut BTreeMap<GroupName, BTreeSet<ActorName>>) {
    let name = section.required::<GroupName>("name", "dba");
    let members = section.texts::<ActorName>("members").unwrap_or_default();
    if members.is_empty() {
        section.problem("has no members: write members = [\"anna\", \"bo\"]");
    }
    if let Some(name) = name
        && groups
            .insert(name.clone(), members.into_iter().collect())
            .is_some()
    {
        section.problem(format!("group {name} is named twice: keep one of the two"));
    }
    section.finish();
}

fn read_rule(mut section: Section<'_>, approvals: &mut Approvals) {
    let acts = section.texts::<Guarded>("acts").unwrap_or_default();
    if acts.is_empty() {
        section.problem("names no act: write acts = [\"policy-weakening\"]");
    }
    let approvers = section.required_number("approvers", 1..=9);
    let groups = section.texts::<GroupName>("groups").unwrap_or_default();
    for group in groups
        .iter()
        .filter(|group| !approvals.groups.contains_key(group))
    {
        section.problem(format!("groups names {group}, and there is no such [[group]]"));
    }
    let rule = ApprovalRule {
        approvers: approvers.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        groups: groups.into_iter().collect(),
        expires: section
            .optional("expires")
            .unwrap_or(ApprovalRule::default().expires),
    };
    if let Some(members) = approvals.members(&rule)
        && (members.len() as u64) < u64::from(rule.approvers)
    {
        section.problem(format!(
            "asks for {} approvers and its groups have {} members: it could never be met",
            rule.approvers,
            members.len()
        ));
    }
    for act in acts {
        if approvals.rules.insert(act, rule.clone()).is_some() {
            section.problem(format!("{act} stands in two rules: keep one of the two"));
        }
    }
    section.finish();
}
