//! What a provider says, and whether it is meant for us. Pure: the signature was
//! checked before, the moment is given.
//!
//! OpenID Connect Core 1.0 section 3.1.3.7 for ID tokens; RFC 9068 section 4 for
//! access tokens of programs.

use std::collections::BTreeSet;

use holdfast_proto::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::access::decide::Principal;

/// How far the provider's clock may be from ours, in seconds.
const LEEWAY: i64 = 60;

/// What a token claims.
#[derive(Debug, Clone, Deserialize)]
pub struct Claims {
    iss: String,
    sub: Option<String>,
    #[serde(default)]
    aud: OneOrMany,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    iat: Option<i64>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// One text, or a list of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            OneOrMany::None => &[],
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotForUs {
    /// Another provider made it.
    #[error("another issuer made it")]
    Issuer,
    /// It is meant for somebody else.
    #[error("it is meant for somebody else")]
    Audience,
    /// It has ended, or has not begun.
    #[error("it does not hold at this moment")]
    Time,
    /// It answers another question than ours.
    #[error("it answers another login")]
    Nonce,
    /// It says of nobody.
    #[error("it names nobody")]
    Subject,
}

impl Claims {
    fn hold(&self, issuer: &str, audience: &str, now: Timestamp) -> Result<(), NotForUs> {
        let now = now.unix_micros() / 1_000_000;
        if self.iss != issuer {
            return Err(NotForUs::Issuer);
        }
        if !self.aud.all().iter().any(|aud| aud == audience) {
            return Err(NotForUs::Audience);
        }
        let begun = |at: Option<i64>| at.is_none_or(|at| at <= now + LEEWAY);
        if now >= self.exp.saturating_add(LEEWAY) || !begun(self.nbf) || !begun(self.iat) {
            return Err(NotForUs::Time);
        }
        Ok(())
    }

    fn subject(&self) -> Result<&str, NotForUs> {
        let sub = self.sub.as_deref().filter(|sub| !sub.is_empty());
        sub.ok_or(NotForUs::Subject)
    }

    fn groups(&self, claim: &str) -> BTreeSet<String> {
        match self.more.get(claim) {
            Some(Value::String(one)) => [one.clone()].into(),
            Some(Value::Array(many)) => many.iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Whom an ID token names, which was asked for with `nonce` for `client_id`.
    ///
    /// # Errors
    /// [`NotForUs`].
    pub fn of_person(
        &self,
        issuer: &str,
        client_id: &str,
        nonce: &str,
        groups_claim: &str,
        now: Timestamp,
    ) -> Result<Principal, NotForUs> {
        self.hold(issuer, client_id, now)?;
        let others = self.aud.all().len() > 1;
        let azp = self.azp.as_deref();
        if azp.is_some_and(|azp| azp != client_id) || (others && azp.is_none()) {
            return Err(NotForUs::Audience);
        }
        if self.nonce.as_deref() != Some(nonce) {
            return Err(NotForUs::Nonce);
        }
        self.person(groups_claim)
    }

    /// Whom an access token for `audience` names. A program that came for itself is
    /// never taken for a person whom the provider calls the same.
    ///
    /// # Errors
    /// [`NotForUs`].
    pub fn of_bearer(
        &self,
        issuer: &str,
        audience: &str,
        groups_claim: &str,
        now: Timestamp,
    ) -> Result<Principal, NotForUs> {
        self.hold(issuer, audience, now)?;
        // What was said to a login is no token.
        if self.nonce.is_some() {
            return Err(NotForUs::Audience);
        }
        match (&self.client_id, self.sub.as_deref()) {
            (Some(client), None) => Ok(self.client(client, groups_claim)),
            (Some(client), Some(sub)) if client == sub => Ok(self.client(client, groups_claim)),
            _ => self.person(groups_claim),
        }
    }

    fn client(&self, id: &str, groups_claim: &str) -> Principal {
        Principal::Client {
            id: id.to_owned(),
            groups: self.groups(groups_claim),
        }
    }

    fn person(&self, groups_claim: &str) -> Result<Principal, NotForUs> {
        let subject = self.subject()?.to_owned();
        let called = |claim: &str| {
            self.more
                .get(claim)
                .and_then(Value::as_str)
                .filter(|s| !s.is_empty())
        };
        let shown = ["preferred_username", "email", "name"]
            .into_iter()
            .find_map(called);
        Ok(Principal::Person {
            shown: shown.unwrap_or(&subject).chars().take(80).collect(),
            groups: self.groups(groups_claim),
            subject,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn moment() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn seconds(after: i64) -> i64 {
        moment().unix_micros() / 1_000_000 + after
    }

    fn sound() -> Value {
        json!({
            "iss": "https://id", "sub": "u1", "aud": "holdfast", "exp": seconds(60), "iat": seconds(0), "nonce": "n",
            "groups": ["it", 7, "staff"], "email": "u1@acme.example",
        })
    }

    fn person(change: impl FnOnce(&mut Value)) -> Result<Principal, NotForUs> {
        let mut value = sound();
        change(&mut value);
        let claims: Claims = serde_json::from_value(value).unwrap();
        claims.of_person("https://id", "holdfast", "n", "groups", moment())
    }

    #[test]
    fn an_id_token_is_for_this_login_of_this_client_now() {
        let groups = ["it", "staff"].map(str::to_owned).into();
        let expect = Principal::Person {
            subject: "u1".to_owned(),
            shown: "u1@acme.example".to_owned(),
            groups,
        };
        assert_eq!(person(|_| {}), Ok(expect.clone()));
        assert_eq!(person(|v| v["aud"] = json!(["holdfast"])), Ok(expect.clone()));
        assert_eq!(
            person(|v| {
                v["aud"] = json!(["other", "holdfast"]);
                v["azp"] = json!("holdfast");
            }),
            Ok(expect.clone())
        );
        assert_eq!(
            person(|v| v["exp"] = json!(seconds(-59))),
            Ok(expect),
            "within the leeway"
        );
        type Change = fn(&mut Value);
        let refused: [(Change, NotForUs); 12] = [
            (|v| v["iss"] = json!("https://id/"), NotForUs::Issuer),
            (|v| v["aud"] = json!("other"), NotForUs::Audience),
            (|v| v["aud"] = json!([]), NotForUs::Audience),
            (|v| v["aud"] = json!(["other", "holdfast"]), NotForUs::Audience),
            (|v| v["azp"] = json!("other"), NotForUs::Audience),
            (|v| v["exp"] = json!(seconds(-60)), NotForUs::Time),
            (|v| v["nbf"] = json!(seconds(61)), NotForUs::Time),
            (|v| v["iat"] = json!(seconds(61)), NotForUs::Time),
            (|v| v["nonce"] = json!("m"), NotForUs::Nonce),
            (|v| v["nonce"] = json!(null), NotForUs::Nonce),
            (|v| v["sub"] = json!(""), NotForUs::Subject),
            (|v| v["sub"] = json!(null), NotForUs::Subject),
        ];
        for (n, (change, why)) in refused.into_iter().enumerate() {
            assert_eq!(person(change), Err(why), "{n}");
        }
        let without = json!({ "iss": "https://id", "sub": "u1", "aud": "holdfast", "nonce": "n" });
        assert!(
            serde_json::from_value::<Claims>(without).is_err(),
            "a token without an end"
        );
    }

    #[test]
    fn programs_are_not_people_and_logins_are_not_tokens() {
        let bearer = |change: fn(&mut Value)| {
            let mut value = json!({
                "iss": "https://id", "sub": "robot", "client_id": "robot", "aud": "https://h", "exp": seconds(60),
                "groups": "it",
            });
            change(&mut value);
            let claims: Claims = serde_json::from_value(value).unwrap();
            claims.of_bearer("https://id", "https://h", "groups", moment())
        };
        let client = Ok(Principal::Client {
            id: "robot".to_owned(),
            groups: ["it".to_owned()].into(),
        });
        assert_eq!(bearer(|_| {}), client);
        assert_eq!(bearer(|v| v["sub"] = json!(null)), client);
        assert!(
            matches!(bearer(|v| v["sub"] = json!("u1")), Ok(Principal::Person { subject, .. }) if subject == "u1")
        );
        assert_eq!(bearer(|v| v["aud"] = json!("holdfast")), Err(NotForUs::Audience));
        assert_eq!(bearer(|v| v["nonce"] = json!("n")), Err(NotForUs::Audience));
        assert_eq!(bearer(|v| v["exp"] = json!(seconds(-60))), Err(NotForUs::Time));
    }
}
