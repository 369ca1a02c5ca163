//! Who may read what of the coordinator, and who is told no.
//!
//! People and programs come with a token or with what an OpenID provider says of
//! them; both are a [`Principal`]. Grants give a principal a [`Role`] over a
//! [`Scope`], until a moment if they are meant to end. What nothing grants is
//! refused: [`decide`] is the one place where that is decided, without IO, and
//! every answer of it is noted in the [`journal`].
//!
//! What this does not do: let agents in, which show certificates (`server::agents`),
//! and let anyone change what is kept. The coordinator opens nothing and deletes
//! nothing; what needs more than one person needs signatures, not a role.
//!
//! Without an `[access]` section everyone who reaches the page is
//! [`Principal::Local`] and may read everything, which is why it is then served
//! on the loopback interface alone (`config`).
//!
//! Where to read next: [`role`], [`scope`], [`grant`], [`decide`]; [`section`] for
//! the file; `server::routes` for the table of what needs what.

pub mod decide;
pub mod grant;
pub mod journal;
pub mod limit;
pub mod oidc;
pub mod role;
pub mod scope;
pub mod section;
pub mod session;
pub mod token;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;

pub use decide::{Breadth, Denied, Need, Principal, decide};
pub use grant::{Grant, Subject};
pub use role::{Permission, Role};
pub use scope::{Reach, Scope};
pub use section::AccessRules;
pub use token::{Token, TokenHash, random};

use journal::{Journal, Noted, Request};
use limit::{Buckets, Network, Rate, TooOften};
use oidc::Provider;
use oidc::journey::Journeys;
use session::Sessions;

/// Credentials that are wrong, from one network. Whoever shows a right one is let in
/// whatever others there do: guessing 256 bits is hopeless anyhow, and a neighbour
/// behind the same proxy must not be able to lock people out.
const WRONG: Rate = Rate {
    burst: 20,
    per_minute: 10,
};

/// Requests of one principal.
const CALLS: Rate = Rate {
    burst: 300,
    per_minute: 1200,
};

/// Logins that are begun at the OpenID provider, from one network.
const STARTS: Rate = Rate {
    burst: 20,
    per_minute: 20,
};

/// Looks at the repository that somebody asked for, by all together: each lists it.
const REFRESHES: Rate = Rate {
    burst: 3,
    per_minute: 6,
};

/// The rules, what was decided by them lately, and who is logged in.
pub struct Access {
    rules: Option<AccessRules>,
    journal: Mutex<Journal>,
    sessions: Mutex<Sessions>,
    provider: Option<Provider>,
    journeys: Mutex<Journeys>,
    starts: Mutex<Buckets<Option<Network>>>,
    wrong: Mutex<Buckets<Option<Network>>>,
    calls: Mutex<Buckets<String>>,
    refreshes: Mutex<Buckets<()>>,
    form_key: [u8; 32],
    over_tls: bool,
}

/// What the lock guards is whole after every step, also of one who panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    /// Access by `rules`; without any, whoever is here may read everything. `over_tls` says
    /// whether the listener itself has TLS.
    ///
    /// # Errors
    /// A secret cannot be read, in words.
    pub fn new(rules: Option<AccessRules>, over_tls: bool) -> Result<Self, String> {
        let provider = match rules.as_ref().and_then(|rules| rules.provider()) {
            Some((settings, origin)) => Some(Provider::new(settings.clone(), origin)?),
            None => None,
        };
        let lasting = rules.as_ref().map(|rules| rules.lasting).unwrap_or_default();
        Ok(Self {
            rules,
            provider,
            journeys: Mutex::default(),
            starts: Mutex::new(Buckets::new(STARTS, 10_000)),
            journal: Mutex::default(),
            sessions: Mutex::new(Sessions::new(lasting)),
            wrong: Mutex::new(Buckets::new(WRONG, 10_000)),
            calls: Mutex::new(Buckets::new(CALLS, 10_000)),
            refreshes: Mutex::new(Buckets::new(REFRESHES, 1)),
            form_key: rand::random(),
            over_tls,
        })
    }

    /// The OpenID provider, when there is one.
    pub fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }

    /// The logins under way there. Held for moments only.
    pub fn journeys(&self) -> MutexGuard<'_, Journeys> {
        locked(&self.journeys)
    }

    /// Somebody goes to the provider.
    ///
    /// # Errors
    /// So did others from there, too often.
    pub fn start(&self, client: Option<IpAddr>, now: Timestamp) -> Result<(), TooOften> {
        locked(&self.starts).take(&client.map(Network::from), now)
    }

    /// Our origin as browsers name it, when the configuration says it.
    pub fn origin(&self) -> Option<&str> {
        Some(self.rules.as_ref()?.public_url.as_ref()?.origin())
    }

    /// Whether people come over TLS: ours, or that of a proxy before us.
    pub fn secure(&self) -> bool {
        self.over_tls || self.origin().is_some_and(|origin| origin.starts_with("https://"))
    }

    /// The sessions. Held for moments only.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        locked(&self.sessions)
    }

    /// What a form carries that was shown to the browser with that cookie.
    pub fn form_mark(&self, cookie: &str) -> String {
        blake3::keyed_hash(&self.form_key, cookie.as_bytes()).to_string()
    }

    /// Somebody showed a credential that nobody has.
    ///
    /// # Errors
    /// So did others from there, too often.
    pub fn wrong(&self, client: Option<IpAddr>, now: Timestamp) -> Result<(), TooOften> {
        locked(&self.wrong).take(&client.map(Network::from), now)
    }

    /// Somebody who is known asks. Without rules there is nobody to tell apart.
    ///
    /// # Errors
    /// They ask too often.
    pub fn call(&self, who: &Principal, now: Timestamp) -> Result<(), TooOften> {
        match who {
            Principal::Local => Ok(()),
            who => locked(&self.calls).take(&who.to_string(), now),
        }
    }

    /// Somebody wants the repository to be looked at.
    ///
    /// # Errors
    /// It was, a moment ago.
    pub fn refresh(&self, now: Timestamp) -> Result<(), TooOften> {
        locked(&self.refreshes).take(&(), now)
    }

    /// Notes that somebody logged in, or that nobody knows who tried.
    pub fn note_login(&self, who: Option<&Principal>, route: &str, client: Option<IpAddr>, now: Timestamp) {
        let request = Request {
            route: route.to_owned(),
            client,
        };
        let outcome = who.map(|_| Reach::default()).ok_or(Denied::Unknown);
        let noted = Noted::new(who, Need::Known, request, &outcome, now);
        noted.log();
        self.journal().note(noted);
    }

    /// Notes that an agent got a certificate, or did not, and why.
    pub fn note_certificate(
        &self,
        agent: Option<&ActorName>,
        route: &str,
        client: Option<IpAddr>,
        outcome: Result<&str, &str>,
        now: Timestamp,
    ) {
        let noted = Noted {
            at: now,
            last: now,
            count: 1,
            who: agent.map(|agent| format!("agent:{agent}")),
            client,
            route: route.to_owned(),
            permission: None,
            allowed: outcome.is_ok(),
            because: outcome.unwrap_or_else(|why| why).to_owned(),
        };
        noted.log();
        self.journal().note(noted);
    }

    /// The rules, when there are any.
    pub fn rules(&self) -> Option<&AccessRules> {
        self.rules.as_ref()
    }

    /// Whose token this is.
    pub fn bearer(&self, presented: &str) -> Option<Principal> {
        let hash = TokenHash::of(presented);
        let known = &self.rules.as_ref()?.tokens;
        known
            .get(&hash)
            .map(|name| Principal::Token { name: name.clone() })
    }

    /// Decides a request, and notes what was decided.
    pub fn decide(
        &self,
        who: Option<&Principal>,
        need: Need,
        request: Request,
        now: Timestamp,
    ) -> Result<Reach, Denied> {
        let grants = self.rules.as_ref().map_or(&[][..], |rules| &rules.grants);
        let open = self.rules.as_ref().is_some_and(|rules| rules.open_metrics);
        let decided = match need {
            Need::May(Permission::Metrics, _) if open => Ok(Reach::whole()),
            need => decide(who, need, grants, now),
        };
        let noted = Noted::new(who, need, request, &decided, now);
        noted.log();
        self.journal().note(noted);
        decided
    }

    /// What was decided lately, newest first.
    pub fn decisions(&self) -> Vec<Noted> {
        self.journal().newest_first()
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        locked(&self.journal)
    }
}
