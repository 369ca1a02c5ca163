//! What a browser does, and what another site would have it do.

use http_body_util::Full;
use hyper::{HeaderMap, Request};

use super::table::{POLICY, granted, secret};
use crate::house::{House, Running};

/// A browser's cookies, and the requests that it makes.
pub(super) struct Browser<'a> {
    running: &'a Running,
    cookies: Vec<(String, String)>,
}

type Answer = (u16, HeaderMap, String);

impl<'a> Browser<'a> {
    pub(super) fn new(running: &'a Running) -> Self {
        Self {
            running,
            cookies: Vec::new(),
        }
    }

    async fn send(&mut self, mut request: hyper::http::request::Builder, body: String) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        let request = request.header("accept", "text/html,*/*;q=0.8");
        let answer = self.running.send(request.body(Full::from(body)).unwrap()).await;
        for set in answer.1.get_all("set-cookie") {
            let text = set.to_str().unwrap();
            let (name, rest) = text.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.retain(|(held, _)| held != name);
            if !text.contains("Max-Age=0") {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        let request = Request::get(path).header("host", HOST);
        self.send(request, String::new()).await
    }

    /// Sends a form, as the page at `from` would.
    async fn post(&mut self, path: &str, from: &str, fields: &[(&str, &str)]) -> Answer {
        let request = Request::post(path)
            .header("host", HOST)
            .header("origin", from)
            .header("content-type", "application/x-www-form-urlencoded");
        let body: Vec<String> = fields
            .iter()
            .map(|(n, v)| format!("{n}={}", escaped(v)))
            .collect();
        self.send(request, body.join("&")).await
    }

    pub(super) async fn log_in(&mut self, name: &str) {
        let form = self.get("/login").await.2;
        let fields = [
            ("csrf", field(&form, "csrf").as_str()),
            ("token", secret(name).as_str()),
            ("next", "/v1/me"),
        ]
        .map(|(n, v)| (n, v.to_owned()));
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let (status, headers, body) = self.post("/login", ORIGIN, &fields).await;
        assert_eq!(
            (status, &headers["location"]),
            (303, &"/v1/me".parse().unwrap()),
            "{body}"
        );
    }
}

pub(super) const HOST: &str = "holdfast.example.com";
pub(super) const ORIGIN: &str = "https://holdfast.example.com";

pub(super) fn escaped(value: &str) -> String {
    let whole = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    value
        .bytes()
        .map(|b| {
            if whole(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// The value of a form's hidden field.
fn field(page: &str, name: &str) -> String {
    let after = page.split(&format!("name=\"{name}\" value=\"")).nth(1);
    let value = after.and_then(|rest| rest.split('"').next());
    value.unwrap_or_else(|| panic!("no {name} in {page}")).to_owned()
}

fn section() -> String {
    format!(
        "[access]\npublic_url = \"{ORIGIN}\"\n{}{}",
        granted("olga", "operator", "*", ""),
        granted("viewer", "viewer", "acme/*", ""),
    )
}

#[tokio::test]
async fn a_person_logs_in_looks_around_and_logs_out() {
    let house = House::build_with(POLICY, &section()).await;
    let running = house.open().await;
    let mut browser = Browser::new(&running);
    // Whoever is not known is sent to the form, and back to where they wanted to go.
    let (status, headers, _) = browser.get("/evidence?cluster=acme/erp").await;
    assert_eq!(status, 303);
    let location = headers["location"].to_str().unwrap().to_owned();
    assert_eq!(location, "/login?next=%2Fevidence%3Fcluster%3Dacme%2Ferp");
    let (status, _, form) = browser.get(&location).await;
    assert_eq!(
        (status, field(&form, "next").as_str()),
        (200, "/evidence?cluster=acme/erp")
    );

    // A token that nobody has.
    let csrf = field(&form, "csrf");
    let (status, _, page) = browser
        .post("/login", ORIGIN, &[("csrf", &csrf), ("token", "hft_no")])
        .await;
    assert_eq!(status, 401);
    assert!(
        page.contains("Nobody has this token") && !page.contains("hft_no"),
        "{page}"
    );
    let planted = ("__Host-holdfast-session".to_owned(), "planted".to_owned());
    browser.cookies.push(planted.clone());
    browser.log_in("olga").await;
    assert!(
        !browser.cookies.contains(&planted),
        "a session never has a number that the browser came with"
    );
    let (status, headers, page) = browser.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("olga") && page.contains("Log out"), "{page}");
    assert!(!page.contains(" style=\"") && !page.contains("<script"), "{page}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("strict-transport-security", "max-age=63072000"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let policy = headers["content-security-policy"].to_str().unwrap();
    for part in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part) && !policy.contains("unsafe"), "{policy}");
    }

    // What a proxy before us asked for is not ours to judge.
    let request = Request::get("/v1/me")
        .header("host", HOST)
        .header("authorization", "Basic eDp5");
    assert_eq!(browser.send(request, String::new()).await.0, 200);

    // The form on the page works; for programs it is JSON.
    let mark = field(&page, "csrf");
    let (status, headers, _) = browser.post("/v1/refresh", ORIGIN, &[("csrf", &mark)]).await;
    assert_eq!((status, &headers["location"]), (303, &"/".parse().unwrap()));
    let held = browser.cookies.clone();
    let (status, _, _) = browser.post("/logout", ORIGIN, &[("csrf", &mark)]).await;
    assert_eq!(status, 303);
    assert!(!browser.cookies.iter().any(|(name, _)| name.contains("session")));
    // The session is gone, also for whoever has kept its cookie.
    browser.cookies = held;
    assert_eq!(browser.get("/").await.0, 303);
    running.close().await;
}

#[tokio::test]
async fn cookies_are_for_this_host_alone_and_out_of_reach_of_scripts() {
    let house = House::build_with(POLICY, &section()).await;
    let running = house.open().await;
    let mut browser = Browser::new(&running);
    let (_, headers, form) = browser.get("/login").await;
    assert_eq!(
        headers["set-cookie"]
            .to_str()
            .unwrap()
            .split_once("; ")
            .unwrap()
            .1,
        "Path=/; HttpOnly; SameSite=Strict; Secure"
    );
    let csrf = field(&form, "csrf");
    let fields =
        [("csrf", csrf.as_str()), ("token", secret("olga").as_str())].map(|(n, v)| (n, v.to_owned()));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let (_, headers, _) = browser.post("/login", ORIGIN, &fields).await;
    let sessions: Vec<&str> = headers
        .get_all("set-cookie")
        .iter()
        .map(|value| value.to_str().unwrap())
        .filter(|text| text.starts_with("__Host-holdfast-session="))
        .collect();
    assert!(
        sessions.len() == 1 && sessions[0].ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"),
        "{sessions:?}"
    );
    running.close().await;
}

#[tokio::test]
async fn another_site_changes_nothing() {
    let house = House::build_with(POLICY, &section()).await;
    let running = house.open().await;
    let mut browser = Browser::new(&running);
    browser.log_in("olga").await;
    let page = browser.get("/").await.2;
    let mark = field(&page, "csrf");
    let mut other = Browser::new(&running);
    other.log_in("olga").await;
    let others_mark = field(&other.get("/").await.2, "csrf");
    assert_ne!(mark, others_mark);
    for path in ["/v1/refresh", "/logout"] {
        for (from, mark) in [
            ("https://evil.example", mark.as_str()),
            ("null", mark.as_str()),
            ("http://holdfast.example.com", mark.as_str()),
            (ORIGIN, ""),
            (ORIGIN, "x"),
            (ORIGIN, others_mark.as_str()),
        ] {
            let (status, _, body) = browser.post(path, from, &[("csrf", mark)]).await;
            assert_eq!(status, 403, "{path} from {from:?} with {mark:?}: {body}");
        }
        let request = Request::post(path)
            .header("host", HOST)
            .header("sec-fetch-site", "cross-site");
        let (status, _, _) = browser.send(request, format!("csrf={mark}")).await;
        assert_eq!(status, 403, "{path}");
    }
    assert_eq!(browser.get("/v1/me").await.0, 200, "nobody was logged out");
    // Nor does it log people in as somebody else: a login form is tied to its browser.
    let mut victim = Browser::new(&running);
    let csrf = field(&other.get("/login").await.2, "csrf");
    let fields = [("csrf", csrf), ("token", secret("viewer"))];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
    for path in ["", "/login"] {
        if !path.is_empty() {
            victim.get(path).await;
        }
        let (status, _, _) = victim.post("/login", ORIGIN, &fields).await;
        assert_eq!(status, 403);
        assert_eq!(victim.get("/v1/me").await.0, 303);
    }
    // A program with a token sends no mark, and none is asked of it.
    let request = Request::post("/v1/refresh")
        .header("host", HOST)
        .header("authorization", format!("Bearer {}", secret("olga")));
    let (status, _, body) = running.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(status, 202, "{body}");
    running.close().await;
}

#[tokio::test]
async fn a_session_may_do_what_its_grants_say_now() {
    let house = House::build_with(POLICY, &section()).await;
    let running = house.open().await;
    let mut browser = Browser::new(&running);
    browser.log_in("viewer").await;
    let (status, _, page) = browser.get("/").await;
    assert!(status == 200 && !page.contains("Look again now"), "{page}");
    let (status, headers, page) = browser.get("/v1/policy").await;
    assert!(status == 403 && page.contains("no grant gives policy"), "{page}");
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/html"));
    let mark = field(&browser.get("/").await.2, "csrf");
    assert_eq!(
        browser.post("/v1/refresh", ORIGIN, &[("csrf", &mark)]).await.0,
        403
    );
    running.close().await;
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_to_wait_and_others_are_not() {
    let house = House::build_with(POLICY, &section()).await;
    let running = house.open().await;
    let ask = |token: String, method: &'static str, path: &'static str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", HOST)
            .header("authorization", format!("Bearer {token}"));
        running.send(request.body(Full::default()).unwrap())
    };
    // Wrong tokens; right ones from the same place are still let in.
    let mut answers = Vec::new();
    while answers.last() != Some(&429) {
        let (status, headers, _) = ask("hft_wrong".to_owned(), "GET", "/v1/me").await;
        assert!(
            status == 401 || headers.contains_key("retry-after"),
            "{status} {headers:?}"
        );
        answers.push(status);
        assert!(answers.len() < 500, "nobody stops it");
    }
    assert!(answers.len() > 20, "the burst: {answers:?}");
    assert_eq!(ask(secret("viewer"), "GET", "/v1/me").await.0, 200);
    // Looks at the repository.
    let mut looks = Vec::new();
    while looks.last() != Some(&429) {
        looks.push(ask(secret("olga"), "POST", "/v1/refresh").await.0);
        assert!(looks.len() < 100, "nobody stops it");
    }
    // One principal's requests; the other's are its own.
    let mut calls = 0;
    while ask(secret("viewer"), "GET", "/v1/me").await.0 == 200 {
        calls += 1;
        assert!(calls < 50_000, "nobody stops it");
    }
    assert!(calls >= 299, "the burst: {calls}");
    assert_eq!(ask(secret("olga"), "GET", "/v1/me").await.0, 200);
    running.close().await;
}

#[tokio::test]
async fn what_is_too_large_is_not_taken() {
    let house = House::build_with(POLICY, &section()).await;
    let running = house.open().await;
    let mut browser = Browser::new(&running);
    let form = browser.get("/login").await.2;
    let csrf = field(&form, "csrf");
    let (status, _, _) = browser
        .post("/login", ORIGIN, &[("csrf", &csrf), ("token", &"x".repeat(5000))])
        .await;
    assert_eq!(status, 413);
    browser.log_in("olga").await;
    let mark = field(&browser.get("/").await.2, "csrf");
    let (status, _, _) = browser
        .post(
            "/v1/refresh",
            ORIGIN,
            &[("csrf", &mark), ("more", &"x".repeat(5000))],
        )
        .await;
    assert_eq!(status, 413);
    // Headers too.
    let mut request = Request::get("/healthz").header("host", HOST);
    for n in 0..70 {
        request = request.header(format!("x-{n}"), "x");
    }
    assert_eq!(running.send(request.body(Full::default()).unwrap()).await.0, 431);
    running.close().await;
}
