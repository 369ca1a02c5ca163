//! Leads, or waits until it may.
//!
//! What is decided is in [`holdfast_plan::lead`]; here leases are read, claimed and kept.
//! One run brings the candidacy as far as it can be brought now.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_plan::lead::{Candidate, Found, Moment, Next};
use holdfast_plan::policy::Policy;
use holdfast_plan::policy::change::changes;
use holdfast_plan::schedule::Book;
use holdfast_proto::Sha256Digest;
use holdfast_proto::record::TrustRole;
use holdfast_repository::authority::Authority;
use holdfast_repository::layout;
use holdfast_repository::lead::{self, Claim, LONGEST};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Deadlines, Replica};
use tokio::sync::Mutex;

use crate::desk::{Desk, now};

/// In the time of a lease, it is looked at so often.
const LOOKS: u32 = 10;

/// Which replica decides is looked up again after so long.
const AUTHORITY_EVERY: Duration = Duration::from_secs(60);

/// What one process does to lead. One run has it at a time.
#[derive(Debug, Clone)]
pub struct Campaign(Arc<Mutex<Post>>);

#[derive(Debug)]
struct Post {
    signer: SigningKey,
    authority: Option<(Authority, Moment)>,
    /// The policy whose text was stored.
    kept: Option<Sha256Digest>,
    /// A claim of which it is not known whether it was won, and when it was first made.
    open: Option<(Claim, Moment)>,
}

/// Between two looks at a lease of such a length.
pub fn every(lasts: Duration) -> Duration {
    (lasts / LOOKS).clamp(Duration::from_millis(100), Duration::from_secs(5))
}

impl Campaign {
    /// One that claims in the name of this key.
    pub fn new(signer: SigningKey) -> Self {
        Self(Arc::new(Mutex::new(Post {
            signer,
            authority: None,
            kept: None,
            open: None,
        })))
    }
}

/// Looks at the leases, and claims one when it is time.
pub async fn run(campaign: Campaign, desk: Arc<Desk>) -> Result<(), String> {
    let Some(trust) = desk.trust() else {
        return Ok(());
    };
    let mut post = campaign.0.lock().await;
    let outcome = post.step(&desk, &trust).await;
    if desk.lead.note_trouble(outcome.as_ref().err().cloned()) {
        desk.wake.findings.notify_one();
    }
    outcome
}

/// Gives the lease back, so that another one need not wait for its end.
pub async fn resign(campaign: Campaign, desk: Arc<Desk>) {
    let mut post = campaign.0.lock().await;
    let (Some(trust), Some(term)) = (desk.trust(), desk.lead.term()) else {
        return;
    };
    // It stops acting before anybody may hear of it.
    let (_, _) = desk.lead.change(|candidate, _| candidate.resign());
    let Ok(replica) = post.authority(&desk, &trust).await else {
        return;
    };
    let n = desk.lead.candidate().highest() + 1;
    let lasts = Duration::from_millis(desk.config.lease.millis());
    let mut body = lead::body(n, &desk.config.name, desk.lead.nonce(), term, lasts, now());
    body.released = true;
    body.policy = post.kept;
    match Claim::new(&trust, body, &post.signer).ask(&replica).await {
        Ok(_) => tracing::info!(term, "the lease was given back"),
        Err(error) => tracing::info!(term, err = %error, "the lease could not be given back: it runs out"),
    }
}

impl Post {
    /// The replica that decides.
    async fn authority(&mut self, desk: &Desk, trust: &Trust) -> Result<Replica, String> {
        let at = desk.lead.moment();
        let known = self
            .authority
            .as_ref()
            .filter(|(_, read)| at - *read < AUTHORITY_EVERY);
        let authority = match known {
            Some((authority, _)) => authority.clone(),
            None => {
                let read = Authority::load(&desk.repository, trust).await;
                let authority = read.map_err(|e| e.to_string())?;
                self.authority = Some((authority.clone(), at));
                authority
            }
        };
        desk.lead
            .change(|candidate, _| candidate.rebase(lead::first_of(authority.n)));
        // A lease is soon asked about again, and is over before a patient call ends.
        let lasts = Duration::from_millis(desk.config.lease.millis());
        let deadlines = Deadlines {
            call: lasts / 4,
            attempt: lasts / 8,
            ..Deadlines::short()
        };
        let replica = authority.replica(&desk.repository).map_err(|e| e.to_string())?;
        Ok(replica.with_deadlines(deadlines.within(Deadlines::short())))
    }

    /// Stores the text of the policy in force, so that the next leader has it; its digest.
    async fn keep_policy(&mut self, desk: &Desk, authority: &Replica) -> Result<Sha256Digest, String> {
        let policy = desk.governing.written();
        let digest = policy.digest();
        if self.kept == Some(digest) {
            return Ok(digest);
        }
        let key = layout::evidence_byproduct(&digest);
        let text = Bytes::copy_from_slice(policy.text().as_bytes());
        let stored = authority.create(&key, text.clone()).await;
        stored.map_err(|e| format!("the policy in force cannot be stored: {}", e.explained()))?;
        for replica in desk
            .repository
            .replicas()
            .iter()
            .filter(|r| r.region() != authority.region())
        {
            if let Err(error) = replica.create(&key, text.clone()).await {
                tracing::info!(region = %replica.region(), err = %error, "the policy in force is not on a replica");
            }
        }
        self.kept = Some(digest);
        Ok(digest)
    }

    async fn step(&mut self, desk: &Desk, trust: &Trust) -> Result<(), String> {
        let key = self.signer.fingerprint();
        trust
            .check(&key, &[TrustRole::Coordinator], None)
            .map_err(|why| format!("it cannot lead: {why}"))?;
        let replica = self.authority(desk, trust).await?;
        loop {
            look(desk, trust, &replica).await?;
            let Next::Claim { n, term } = desk.lead.candidate().next(desk.lead.moment()) else {
                return Ok(());
            };
            let policy = self.keep_policy(desk, &replica).await?;
            let same = |claim: &Claim| {
                let body = &claim.body;
                (body.n, body.term, body.policy) == (n, term, Some(policy))
            };
            let (claim, asked) = match self.open.take() {
                Some((claim, asked)) if same(&claim) => (claim, asked),
                _ => {
                    let lasts = Duration::from_millis(desk.config.lease.millis());
                    let (name, nonce) = (&desk.config.name, desk.lead.nonce());
                    let mut body = lead::body(n, name, nonce, term, lasts, now());
                    body.policy = Some(policy);
                    (Claim::new(trust, body, &self.signer), desk.lead.moment())
                }
            };
            match claim.ask(&replica).await {
                Ok(true) => {
                    desk.lead.note_holder(Some((desk.config.name.clone(), term)));
                    let change = |candidate: &mut Candidate, _| candidate.won(n, term, asked);
                    begin(desk, desk.lead.change(change));
                    return Ok(());
                }
                // Somebody was faster: who, is looked at.
                Ok(false) => {}
                Err(error) => {
                    self.open = Some((claim, asked));
                    return Err(format!(
                        "the lease {n} cannot be asked for: {}",
                        error.explained()
                    ));
                }
            }
        }
    }
}

/// Reads the highest lease, when it is a new one.
async fn look(desk: &Desk, trust: &Trust, replica: &Replica) -> Result<(), String> {
    let text = |e: holdfast_repository::StoreError| format!("leases cannot be read: {}", e.explained());
    let known = desk.lead.candidate().highest();
    let Some(n) = lead::highest(replica, known).await.map_err(text)? else {
        return Ok(());
    };
    let lease = lead::read(replica, trust, n).await.map_err(text)?;
    let body = lease.body.as_ref();
    if let Some(policy) = body.and_then(|body| body.policy) {
        take_up(desk, policy).await?;
    }
    let found = Found {
        n,
        term: body.map(|body| body.term),
        waited_for: lease.waited_for(),
        ours: body.is_some_and(|body| desk.lead.is_ours(&body.nonce)),
    };
    let holder = body.filter(|body| !body.released);
    desk.lead
        .note_holder(holder.map(|body| (body.holder.clone(), body.term)));
    if body.is_none() {
        let seconds = LONGEST.as_secs();
        tracing::warn!(
            lease = n,
            seconds,
            "a lease is not to be believed and is waited for"
        );
    }
    let (before, after) = desk.lead.change(|candidate, at| candidate.found(found, at));
    if let (Some(term), None, false) = (before, after, found.ours) {
        let holder = holder.map(|body| body.holder.to_string());
        tracing::warn!(term, lease = n, holder, "another coordinator leads now");
    }
    Ok(())
}

/// Goes on with the policy that a leader has in force: it was judged there, by what was in
/// force before.
async fn take_up(desk: &Desk, digest: Sha256Digest) -> Result<(), String> {
    let own = desk.governing.written();
    if own.digest() == digest {
        return Ok(());
    }
    let judge = |bytes: &Bytes| match Sha256Digest::of(bytes) {
        found if found == digest => Ok(bytes.clone()),
        found => Err(format!("its SHA-256 is {found}")),
    };
    let found = desk
        .repository
        .find(&layout::evidence_byproduct(&digest), judge)
        .await;
    let found = found
        .map_err(|e| format!("the policy {digest}, which the leader has in force, cannot be read: {e}"))?;
    let text = String::from_utf8_lossy(&found.value);
    match Policy::parse(&text, "the leader's policy") {
        Ok(policy) => {
            let changes = changes(&own, &policy, now());
            tracing::info!(from = %own.digest(), to = %digest, changes = changes.len(), "the leader's policy is taken up");
            desk.governing.take(policy, changes, now());
            desk.wake.remember.notify_one();
        }
        Err(problems) => {
            let err = problems.first().map(ToString::to_string);
            tracing::warn!(policy = %digest, err, "this program cannot read the leader's policy and keeps its own");
        }
    }
    Ok(())
}

/// A reign begins, or goes on. What was given out in another term than ours is not known
/// to us: the agents say what they work on.
fn begin(desk: &Desk, (before, after): (Option<u64>, Option<u64>)) {
    let Some(term) = after.filter(|_| before != after) else {
        return;
    };
    let mut state = desk.state();
    if state.book_term != Some(term) {
        state.book = Book::default();
        state.book_term = Some(term);
    }
    drop(state);
    tracing::info!(term, "this coordinator leads");
    let wake = &desk.wake;
    for wake in [
        &wake.policy,
        &wake.schedule,
        &wake.survey,
        &wake.findings,
        &wake.remember,
    ] {
        wake.notify_one();
    }
}
