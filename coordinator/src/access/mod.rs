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
pub mod role;
pub mod scope;
pub mod section;
pub mod token;

use std::sync::Mutex;
use std::sync::PoisonError;

use holdfast_proto::Timestamp;

pub use decide::{Breadth, Denied, Need, Principal, decide};
pub use grant::{Grant, Subject};
pub use role::{Permission, Role};
pub use scope::{Reach, Scope};
pub use section::AccessRules;
pub use token::{Token, TokenHash};

use journal::{Journal, Noted, Request};

/// The rules, and what was decided by them lately.
#[derive(Debug)]
pub struct Access {
    rules: Option<AccessRules>,
    journal: Mutex<Journal>,
}

impl Access {
    /// Access by `rules`; without any, whoever is here may read everything.
    pub fn new(rules: Option<AccessRules>) -> Self {
        Self {
            rules,
            journal: Mutex::default(),
        }
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

    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        // Each entry is whole by itself.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
