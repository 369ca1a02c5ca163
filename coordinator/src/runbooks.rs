//! What a reader of a finding is told beside it: what clears it, and where its runbook is.
//!
//! Both are known by the finding's name ([`holdfast_proto::finding::catalogue`]); where
//! people read the page of runbooks is in the coordinator's configuration.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use holdfast_proto::finding::{Finding, catalogue};
use serde::{Deserialize, Serialize};

/// The address at which people read `docs/operations/findings.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runbooks(String);

impl Runbooks {
    /// The section about the findings of a name; `None` for a name that the page of this
    /// version does not have.
    pub fn link(&self, name: &str) -> Option<String> {
        let known = catalogue::known(name)?;
        Some(format!("{}#{}", self.0, known.name))
    }
}

impl fmt::Display for Runbooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Runbooks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text).ok().filter(|url| {
            let web = matches!(url.scheme(), "http" | "https") && url.host().is_some();
            // A secret in it would be on every page and in every alert.
            let open = url.username().is_empty() && url.password().is_none();
            web && open && url.fragment().is_none()
        });
        let url = url.ok_or_else(|| {
            format!(
                "{text:?} is not the address of a page: write it as \"https://wiki.example.com/holdfast/findings.md\", \
                 without a login and without #"
            )
        })?;
        // The one sign that Slack's links cannot have, and URLs can.
        Ok(Self(url.as_str().replace('|', "%7C")))
    }
}

/// A finding with what its reader is told beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// What clears it; absent for one of another version.
    pub clears: Option<Cow<'static, str>>,
    /// Where its runbook is; absent while the configuration says nowhere.
    pub runbook: Option<String>,
}

impl Explained {
    /// A finding and what is known by its name.
    pub fn of(finding: Finding, runbooks: Option<&Runbooks>) -> Self {
        Self {
            clears: catalogue::clears(&finding.name).map(Cow::Borrowed),
            runbook: runbooks.and_then(|runbooks| runbooks.link(&finding.name)),
            finding,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::finding::Severity;

    use super::*;

    #[test]
    fn a_page_is_an_address_without_login_or_section() {
        for good in [
            "https://wiki.example.com/holdfast/findings.md",
            "http://localhost/findings",
        ] {
            assert_eq!(good.parse::<Runbooks>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "findings.md",
            "/docs/findings.md",
            "ftp://wiki.example.com/findings.md",
            "javascript:alert(1)",
            "https://me:secret@wiki.example.com/findings.md",
            "https://wiki.example.com/findings.md#top",
        ] {
            let why = bad.parse::<Runbooks>().unwrap_err();
            assert!(why.contains("is not the address of a page"), "{bad}: {why}");
        }
        let odd: Runbooks = "https://w.example/?page=a|b".parse().unwrap();
        assert_eq!(odd.to_string(), "https://w.example/?page=a%7Cb");
    }

    #[test]
    fn a_finding_is_explained_by_its_name() {
        let runbooks: Runbooks = "https://w.example/findings.md".parse().unwrap();
        let finding = |name: &str| Finding {
            name: name.to_owned(),
            subject: "acme/erp".to_owned(),
            severity: Severity::Critical,
            detail: "x".to_owned(),
            since: "2026-11-21T12:00:00Z".parse().unwrap(),
        };
        let explained = Explained::of(finding("wal-slot-unused"), Some(&runbooks));
        assert_eq!(
            explained.runbook.as_deref(),
            Some("https://w.example/findings.md#wal-slot-unused")
        );
        assert_eq!(
            explained.clears.as_deref(),
            Some("Ends when the slot is dropped.")
        );
        let text = serde_json::to_value(&explained).unwrap();
        assert_eq!(text["name"], "wal-slot-unused");
        assert_eq!(serde_json::from_value::<Explained>(text).unwrap(), explained);
        // One that a newer agent raises is shown as it is.
        let newer = Explained::of(finding("of-a-newer-version"), Some(&runbooks));
        assert_eq!((newer.clears, newer.runbook), (None, None));
        assert_eq!(Explained::of(finding("wal-gap"), None).runbook, None);
    }
}
