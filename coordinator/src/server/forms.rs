//! What comes with forms and queries, and whether a request comes from our own
//! pages.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use holdfast_proto::Sha256Digest;

/// Fields by name. When one comes twice, the first counts.
#[derive(Debug, Default)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads `a=b&c=d`, percent-encoded.
    pub fn parse(text: &str) -> Self {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            fields.entry(name.into_owned()).or_insert(value.into_owned());
        }
        Self(fields)
    }

    /// A field, empty when it is absent.
    pub fn get(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// Whether two secrets are the same, found out over their hashes, so that the time
/// it takes says nothing about them.
pub fn same(one: &str, other: &str) -> bool {
    let hash = |text: &str| Sha256Digest::of(text.as_bytes());
    !one.is_empty() && hash(one) == hash(other)
}

/// Whether a request that changes something may come from a browser's page: of this
/// site, or from no browser at all. `origin` is our own when it is known, else it is
/// what the request calls us.
pub fn from_our_page(headers: &HeaderMap, origin: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if !matches!(text("sec-fetch-site"), None | Some("same-origin" | "none")) {
        return false;
    }
    match (text("origin"), origin) {
        (None, _) => true,
        (Some(sent), Some(own)) => sent.eq_ignore_ascii_case(own),
        (Some(sent), None) => {
            let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
            let sent = sent.split_once("://").map(|(_, authority)| authority);
            host.is_some() && sent.zip(host).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_and_the_first_counts() {
        let fields = Fields::parse("token=a%20b+c&next=%2Fx&token=other&empty=");
        assert_eq!(fields.get("token"), "a b c");
        assert_eq!(fields.get("next"), "/x");
        assert_eq!(
            (fields.get("empty"), fields.get("none")),
            (String::new(), String::new())
        );
    }

    #[test]
    fn nothing_is_not_the_same_as_nothing() {
        assert!(same("a", "a"));
        assert!(!same("a", "b") && !same("", "") && !same("a", ""));
    }

    #[test]
    fn pages_of_others_are_told_by_what_browsers_send() {
        let asked = |pairs: &[(&'static str, &str)], own| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            from_our_page(&headers, own)
        };
        let own = Some("https://h.example");
        assert!(asked(&[("host", "x")], own), "no browser");
        assert!(asked(
            &[("origin", "https://h.example"), ("sec-fetch-site", "same-origin")],
            own
        ));
        assert!(!asked(
            &[("origin", "https://h.example"), ("sec-fetch-site", "cross-site")],
            own
        ));
        assert!(!asked(&[("sec-fetch-site", "same-site")], own));
        assert!(!asked(&[("origin", "https://evil.example")], own));
        assert!(!asked(&[("origin", "http://h.example")], own));
        assert!(!asked(&[("origin", "null")], own));
        assert!(asked(
            &[("origin", "http://localhost:7480"), ("host", "localhost:7480")],
            None
        ));
        assert!(!asked(
            &[("origin", "http://localhost:81"), ("host", "localhost:7480")],
            None
        ));
        assert!(!asked(&[("origin", "null"), ("host", "null")], None));
        assert!(!asked(&[("origin", "http://a")], None));
    }
}
