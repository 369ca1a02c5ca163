//! Labels: what an agent's configuration, or Kubernetes, says of a cluster.
//!
//! A policy may give a tier to every cluster whose labels match a pattern.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One part of a label: a key or a value, in the characters that Kubernetes
/// allows for either.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelText(String);

/// A text that cannot be part of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be part of a label: use 1 to 317 characters from a-z, A-Z, 0-9, '-', '_', '.' and '/'")]
pub struct BadLabel(String);

impl FromStr for LabelText {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, BadLabel> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if (1..=317).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadLabel(text.chars().take(100).collect()))
        }
    }
}

impl LabelText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabelText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for LabelText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for LabelText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LabelText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The labels of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<LabelText, LabelText>);

impl Labels {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&LabelText, &LabelText)> {
        self.0.iter()
    }

    /// Whether every label of `pattern` is among these, with the same value.
    pub fn match_all(&self, pattern: &Labels) -> bool {
        pattern.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }
}

impl FromIterator<(LabelText, LabelText)> for Labels {
    fn from_iter<I: IntoIterator<Item = (LabelText, LabelText)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_pattern_matches_what_has_all_of_it() {
        let seen = labels(&[("app.kubernetes.io/name", "odoo"), ("env", "prod")]);
        assert!(seen.match_all(&labels(&[("env", "prod")])));
        assert!(seen.match_all(&seen));
        assert!(!seen.match_all(&labels(&[("env", "test")])));
        assert!(!seen.match_all(&labels(&[("env", "prod"), ("site", "a")])));
        assert_eq!(seen.to_string(), "app.kubernetes.io/name=odoo, env=prod");
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), seen);
        assert!(serde_json::from_str::<Labels>("{\"a b\": \"c\"}").is_err());
    }
}
