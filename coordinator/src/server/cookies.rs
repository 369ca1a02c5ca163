//! Our cookies: what they are called, and what browsers are told of them.
//!
//! Where people come over TLS a cookie's name begins with `__Host-`: then it is
//! `Secure`, of this host alone and for every path, or the browser refuses it, so
//! that neither a neighbouring host nor a plain connection can plant one.

use axum::http::{HeaderMap, HeaderValue, header};

/// Which cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// A session.
    Session,
    /// Ties a login form to the browser that it was shown to.
    Form,
    /// Ties the way back from the OpenID provider to the browser that went there.
    Journey,
}

impl Cookie {
    /// Its name, where people come over TLS or not.
    pub fn name(self, secure: bool) -> String {
        let name = match self {
            Cookie::Session => "holdfast-session",
            Cookie::Form => "holdfast-form",
            Cookie::Journey => "holdfast-journey",
        };
        format!("{}{name}", if secure { "__Host-" } else { "" })
    }

    /// What a request carries of it.
    pub fn read(self, headers: &HeaderMap, secure: bool) -> Option<String> {
        let name = self.name(secure);
        let all = headers.get_all(header::COOKIE).iter();
        all.filter_map(|value| value.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.to_owned())
    }

    /// The header that sets it, until the browser closes. A login form's is sent by
    /// our own page alone. The other two come back from a link elsewhere, a mail or
    /// the provider's page; requests that change something carry more than them.
    pub fn set(self, value: &str, secure: bool) -> HeaderValue {
        self.header(value, secure, "")
    }

    /// The header that takes it back.
    pub fn clear(self, secure: bool) -> HeaderValue {
        self.header("", secure, "; Max-Age=0")
    }

    fn header(self, value: &str, secure: bool, more: &str) -> HeaderValue {
        let same_site = match self {
            Cookie::Form => "Strict",
            Cookie::Session | Cookie::Journey => "Lax",
        };
        let secure_word = if secure { "; Secure" } else { "" };
        let text = format!(
            "{}={value}; Path=/; HttpOnly; SameSite={same_site}{secure_word}{more}",
            self.name(secure)
        );
        HeaderValue::from_str(&text).expect("our values are letters and digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_are_told() {
        assert_eq!(
            Cookie::Session.set("x", true),
            "__Host-holdfast-session=x; Path=/; HttpOnly; SameSite=Lax; Secure"
        );
        assert_eq!(
            Cookie::Form.clear(false),
            "holdfast-form=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
        );
    }

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(
            "cookie",
            "a=b; xholdfast-session=no; holdfast-session2=no".parse().unwrap(),
        );
        assert_eq!(Cookie::Session.read(&headers, false), None);
        headers.append("cookie", "c=d;holdfast-session=yes=1".parse().unwrap());
        assert_eq!(Cookie::Session.read(&headers, false).as_deref(), Some("yes=1"));
        assert_eq!(
            Cookie::Session.read(&headers, true),
            None,
            "one without TLS is not one with"
        );
    }
}
