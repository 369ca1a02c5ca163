//! Sends alerts along the policy's routes.
//!
//! What is to be said is decided by [`holdfast_plan::alerts`]; how it is written is in
//! [`letter`]. A receiver that does not take it is tried again, ever more rarely, and is
//! a finding itself, which goes out along the other routes. The address of a receiver is
//! a secret: it is read from the environment when it is needed, and is in no message.

mod letter;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_plan::alerts::{Notice, Outbox};
use holdfast_plan::policy::{Policy, Route};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, RouteName};

use self::letter::Letterhead;
use crate::findings::Stands;
use crate::runbooks::Runbooks;

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest pause before a receiver is tried again, in milliseconds.
const LONGEST_PAUSE: i64 = 300_000;

/// Alerts in one message.
const AT_ONCE: usize = 20;

/// How long a receiver may fail before that is a finding, in milliseconds.
const SAID_AFTER: u64 = 60_000;

/// How one route fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// What it has been told.
    pub outbox: Outbox,
    /// Why it takes nothing, since when, and how often it was tried.
    failing: Option<Failing>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failing {
    why: NotTaken,
    since: Timestamp,
    tried: u32,
    again: Timestamp,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// There is no address.
    #[error(
        "the environment variable {0} is not set for the coordinator: put the receiver's address into it and start \
         the coordinator anew"
    )]
    Unset(String),
    /// What stands there is no address.
    #[error("the environment variable {0} holds no http or https address")]
    BadAddress(String),
    /// The receiver refused it.
    #[error("the receiver answered {status}: {said}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        said: String,
    },
    /// The receiver cannot be reached.
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
}

impl Delivery {
    /// One that goes on where another process ended.
    pub fn remembered(outbox: Outbox) -> Self {
        Self {
            outbox,
            failing: None,
        }
    }

    /// Whether it is too early to try again.
    fn rests(&self, now: Timestamp) -> bool {
        self.failing.as_ref().is_some_and(|failing| now < failing.again)
    }

    fn failed(&mut self, why: NotTaken, now: Timestamp) {
        let (since, tried) = self.failing.as_ref().map_or((now, 0), |f| (f.since, f.tried));
        let pause = 1000_i64.saturating_mul(1 << tried.min(16)).min(LONGEST_PAUSE);
        self.failing = Some(Failing {
            why,
            since,
            tried: tried + 1,
            again: now.plus_millis(pause),
        });
    }

    /// Why it takes nothing, and since when, once that is worth saying.
    pub fn trouble(&self, now: Timestamp) -> Option<(&NotTaken, Timestamp)> {
        let failing = self.failing.as_ref()?;
        let at_once = matches!(failing.why, NotTaken::Unset(_) | NotTaken::BadAddress(_));
        (at_once || now.millis_since(failing.since) >= SAID_AFTER).then_some((&failing.why, failing.since))
    }
}

/// What is to be sent along one route.
#[derive(Debug, Clone)]
pub struct Post {
    route: Route,
    notices: Vec<Notice>,
}

impl Post {
    /// Along which route.
    pub fn route(&self) -> &RouteName {
        &self.route.name
    }
}

/// Takes in what stands, and says what is to be sent now. Routes that the policy does
/// not have any more are forgotten.
pub fn collect(
    deliveries: &mut BTreeMap<RouteName, Delivery>,
    policy: &Policy,
    standing: &[Stands],
    now: Timestamp,
) -> Vec<Post> {
    deliveries.retain(|name, _| policy.routes().any(|route| route.name == *name));
    let mut posts = Vec::new();
    for route in policy.routes() {
        let delivery = deliveries.entry(route.name.clone()).or_default();
        let all = standing.iter().map(|s| (s.cluster.as_ref(), &s.finding));
        delivery.outbox.look(all, route, now);
        let mut notices = delivery.outbox.due(route.kind, now);
        if delivery.rests(now) || notices.is_empty() {
            continue;
        }
        notices.truncate(AT_ONCE);
        posts.push(Post {
            route: route.clone(),
            notices,
        });
    }
    posts
}

/// Notes what came of a post. Returns whether there is more to send at once.
pub fn note(
    deliveries: &mut BTreeMap<RouteName, Delivery>,
    post: &Post,
    outcome: Result<(), NotTaken>,
    now: Timestamp,
) -> bool {
    let Some(delivery) = deliveries.get_mut(&post.route.name) else {
        return false;
    };
    match outcome {
        Ok(()) => {
            delivery.failing = None;
            delivery.outbox.told(&post.notices, now);
            post.notices.len() == AT_ONCE
        }
        Err(why) => {
            tracing::warn!(route = %post.route.name, err = %why, "alerts are not taken");
            delivery.failed(why, now);
            false
        }
    }
}

/// Where addresses are looked up.
type Addresses = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Sends posts.
#[derive(Clone)]
pub struct Sender {
    client: Result<reqwest::Client, String>,
    coordinator: ActorName,
    runbooks: Option<Runbooks>,
    addresses: Addresses,
}

impl Sender {
    /// One that says it is `coordinator` and links to `runbooks`, with addresses from the
    /// environment.
    pub fn new(coordinator: ActorName, runbooks: Option<Runbooks>) -> Self {
        let addresses = Arc::new(|variable: &str| std::env::var(variable).ok());
        Self::with_addresses(coordinator, runbooks, addresses)
    }

    /// One that looks addresses up elsewhere.
    fn with_addresses(coordinator: ActorName, runbooks: Option<Runbooks>, addresses: Addresses) -> Self {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            // Where a receiver would have us go next is not in the policy.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            client: client.map_err(|error| explained(&error)),
            coordinator,
            runbooks,
            addresses,
        }
    }

    /// Sends one post.
    ///
    /// # Errors
    /// [`NotTaken`], in which there is no address.
    pub async fn send(&self, post: &Post, now: Timestamp) -> Result<(), NotTaken> {
        let variable = post.route.url_env.as_str();
        let address = (self.addresses)(variable).ok_or_else(|| NotTaken::Unset(variable.to_owned()))?;
        let address = reqwest::Url::parse(address.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| NotTaken::BadAddress(variable.to_owned()))?;
        let client = (self.client.as_ref()).map_err(|why| NotTaken::Unreachable(why.clone()))?;
        let head = Letterhead {
            coordinator: &self.coordinator,
            runbooks: self.runbooks.as_ref(),
        };
        let letter = head.write(post.route.kind, &post.notices, now);
        let sending = client
            .post(address)
            .header("content-type", "application/json")
            // The same message sent twice is one.
            .header("idempotency-key", blake3::hash(&letter).to_hex().as_str())
            .body(letter)
            .send();
        let answer = sending
            .await
            .map_err(|error| NotTaken::Unreachable(explained(&error.without_url())))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status().as_u16();
        let said = answer.text().await.unwrap_or_default();
        let said = said.chars().filter(|c| !c.is_control()).take(200).collect();
        Err(NotTaken::Refused { status, said })
    }
}

/// An error with its causes.
fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
