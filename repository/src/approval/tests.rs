use proptest::prelude::*;

use super::*;
use crate::trust::{append, enrolment, genesis};
use holdfast_proto::names::RepositoryId;
use holdfast_proto::record::TrustAct;

const NOW: Timestamp = Timestamp::from_unix_micros(1_790_000_000_000_000);
const HOUR_MS: u64 = 3_600_000;

fn later(millis: i64) -> Timestamp {
    Timestamp::from_unix_micros(NOW.unix_micros() + millis * 1000)
}

fn name(text: &str) -> ActorName {
    text.parse().unwrap()
}

fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

fn request() -> Request {
    let id = RequestId::from_parts(NOW, 1);
    Request {
        body: RequestBody {
            id,
            action: Guarded::ProductionRestore,
            clusters: vec!["acme/erp".parse().unwrap()],
            summary: "restore".to_owned(),
            reason: "the server burnt".to_owned(),
            at: NOW,
        },
        plan: Bytes::from_static(b"plan"),
        digest: digest("plan"),
        link: Link {
            key: layout::request(id),
            sha256: digest("request"),
        },
        initiator: name("olga"),
        key: Fingerprint::new([9; 32]),
    }
}

fn said(by: &str, group: Option<&str>, decision: Decision) -> Approval {
    let mut key = [0; 32];
    key[..by.len()].copy_from_slice(by.as_bytes());
    Approval {
        body: ApprovalBody {
            request: request().link,
            plan: request().digest,
            decision,
            reason: None,
            at: later(1000),
        },
        by: name(by),
        key: Fingerprint::new(key),
        group: group.map(|g| g.parse().unwrap()),
    }
}

fn yes(by: &str, group: &str) -> Approval {
    said(by, Some(group), Decision::Grant)
}

fn needs(approvals: u32, groups: u32) -> Option<Quorum> {
    Some(Quorum {
        approvals,
        groups,
        valid_ms: HOUR_MS,
    })
}

fn state(said: &[Approval], needs: Option<Quorum>) -> State {
    judge(&request(), said, needs, 0, later(2000)).state
}

#[test]
fn it_takes_the_number_of_people_and_of_groups() {
    let two = needs(2, 2);
    assert_eq!(state(&[], two), State::Open);
    assert_eq!(state(&[yes("anna", "finance")], two), State::Open);
    let same = [yes("anna", "finance"), yes("ben", "finance")];
    assert_eq!(state(&same, two), State::Open, "two people of one group");
    assert_eq!(state(&same, needs(2, 1)), State::Granted);
    let both = [yes("anna", "finance"), yes("cem", "platform")];
    assert_eq!(state(&both, two), State::Granted);
    let ungrouped = [
        said("anna", None, Decision::Grant),
        said("cem", None, Decision::Grant),
    ];
    assert_eq!(state(&ungrouped, two), State::Open, "no group is not a group");

    let one_more = judge(&request(), &both, two, 1, later(2000));
    assert_eq!(one_more.state, State::Open, "a window asks for one more");
    assert_eq!(one_more.missing(), (1, 0));
}

#[test]
fn two_keys_of_one_person_are_one_person() {
    let mut second = yes("anna", "platform");
    second.key = Fingerprint::new([7; 32]);
    let twice = [yes("anna", "finance"), second];
    assert_eq!(state(&twice, needs(2, 1)), State::Open);
    assert_eq!(state(&twice, needs(2, 2)), State::Open);
}

#[test]
fn whoever_asks_does_not_count() {
    let own = [yes("olga", "platform"), yes("anna", "finance")];
    let standing = judge(&request(), &own, needs(2, 1), 0, later(2000));
    assert_eq!(standing.state, State::Open);
    assert_eq!(standing.ignored[0].what, "olga");
    // Under another name, with the key that asked.
    let mut masked = yes("otto", "platform");
    masked.key = request().key;
    assert_eq!(state(&[masked, yes("anna", "finance")], needs(2, 1)), State::Open);
}

#[test]
fn any_other_plan_or_request_is_not_approved() {
    let both = || vec![yes("anna", "finance"), yes("cem", "platform")];
    let mut other_plan = both();
    other_plan[1].body.plan = digest("plan ");
    assert_eq!(state(&other_plan, needs(2, 2)), State::Open);
    let mut other_request = both();
    other_request[0].body.request.sha256 = digest("another request with the same number");
    assert_eq!(state(&other_request, needs(2, 2)), State::Open);
}

#[test]
fn one_no_and_old_age_end_a_request() {
    let mut said_so = vec![yes("anna", "finance"), yes("cem", "platform")];
    let judged = |said: &[Approval], at| judge(&request(), said, needs(2, 2), 0, at).state;
    assert_eq!(judged(&said_so, later(3_599_999)), State::Granted);
    assert_eq!(judged(&said_so, later(3_600_000)), State::Expired);
    said_so.push(said("dana", Some("legal"), Decision::Reject));
    assert_eq!(judged(&said_so, later(2000)), State::Rejected);
    // Whoever asked may take it back.
    assert_eq!(
        judged(&[said("olga", None, Decision::Reject)], later(2000)),
        State::Rejected
    );

    let mut early = request();
    early.body.at = later(24 * 3_600_000);
    let standing = judge(
        &early,
        &[yes("anna", "finance"), yes("cem", "platform")],
        needs(2, 2),
        0,
        NOW,
    );
    assert_eq!(
        standing.state,
        State::Early,
        "a date in the future makes nothing last"
    );
}

proptest! {
    /// More approvals never take anything away, and never fewer people than asked for suffice.
    #[test]
    fn granted_means_enough_people_of_enough_groups(
        who in proptest::collection::vec((0..6usize, 0..3usize, any::<bool>()), 0..8),
        approvals in 1u32..4, groups in 0u32..3,
    ) {
        prop_assume!(groups <= approvals);
        let people = ["anna", "ben", "cem", "dana", "emil", "olga"];
        let teams = ["finance", "platform", "legal"];
        let said: Vec<Approval> = who
            .iter()
            .map(|(p, g, right)| {
                let mut a = yes(people[*p], teams[*g]);
                if !right {
                    a.body.plan = digest("other");
                }
                a
            })
            .collect();
        let standing = judge(&request(), &said, needs(approvals, groups), 0, later(2000));
        let counted: BTreeSet<&str> = who
            .iter()
            .filter(|(p, _, right)| *right && people[*p] != "olga")
            .map(|(p, ..)| people[*p])
            .collect();
        prop_assert_eq!(standing.granted.len(), counted.len());
        if standing.state == State::Granted {
            prop_assert!(counted.len() >= approvals as usize);
        }
    }
}

fn chain() -> (Trust, SigningKey) {
    let root = SigningKey::generate_ed25519().unwrap();
    let repository = RepositoryId::from_parts(NOW, 1);
    let mut trust = Trust::empty(repository, root.fingerprint());
    let (_, first) = genesis(&root, &name("root"), repository, NOW).unwrap();
    let next = trust.verify_next(&first.into()).unwrap();
    trust.extend(&next).unwrap();
    (trust, root)
}

fn extend(trust: &mut Trust, acts: Vec<TrustAct>, root: &SigningKey) {
    let (_, bytes) = append(trust, acts, root, NOW).unwrap();
    let next = trust.verify_next(&bytes.into()).unwrap();
    trust.extend(&next).unwrap();
}

fn rule(clusters: &[&str], approvals: u32, groups: u32, valid_ms: u64) -> TrustAct {
    TrustAct::Require {
        action: Guarded::ProductionRestore,
        clusters: clusters.iter().map(|c| c.parse().unwrap()).collect(),
        quorum: Quorum {
            approvals,
            groups,
            valid_ms,
        },
    }
}

#[test]
fn the_strictest_rule_that_applies_counts() {
    let (mut trust, root) = chain();
    let erp: ClusterId = "acme/erp".parse().unwrap();
    let crm: ClusterId = "acme/crm".parse().unwrap();
    let of = |trust: &Trust, c: &[&ClusterId]| {
        trust.required(
            Guarded::ProductionRestore,
            &c.iter().map(|c| (*c).clone()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(of(&trust, &[&erp]), None);
    extend(
        &mut trust,
        vec![rule(&[], 1, 1, 10), rule(&["acme/erp"], 2, 2, 20)],
        &root,
    );
    let quorum = |approvals, groups, valid_ms| {
        Some(Quorum {
            approvals,
            groups,
            valid_ms,
        })
    };
    assert_eq!(of(&trust, &[&crm]), quorum(1, 1, 10));
    assert_eq!(of(&trust, &[&erp]), quorum(2, 2, 10));
    assert_eq!(of(&trust, &[&crm, &erp]), quorum(2, 2, 10));
    assert_eq!(
        of(&trust, &[]),
        quorum(2, 2, 10),
        "the whole repository holds both"
    );
    assert_eq!(
        trust.required(Guarded::Deletion, std::slice::from_ref(&erp)),
        None
    );
    // A rule ends by a record of its own scope alone.
    extend(&mut trust, vec![rule(&[], 0, 0, 0)], &root);
    assert_eq!(of(&trust, &[&crm]), None);
    assert_eq!(of(&trust, &[&erp]), quorum(2, 2, 20));
}

#[test]
fn nobody_but_a_root_makes_rules_and_impossible_ones_are_refused() {
    let (mut trust, root) = chain();
    let coordinator = SigningKey::generate_p256().unwrap();
    extend(
        &mut trust,
        vec![
            enrolment(
                coordinator.verifying(),
                &name("coordinator-1"),
                TrustRole::Coordinator,
                &[],
            ),
            rule(&[], 2, 1, HOUR_MS),
        ],
        &root,
    );
    append(&trust, vec![rule(&[], 0, 0, 0)], &coordinator, NOW).unwrap_err();
    let error = append(&trust, vec![rule(&[], 1, 2, HOUR_MS)], &root, NOW).unwrap_err();
    assert!(error.to_string().contains("2 groups of 1 people"), "{error}");
}
