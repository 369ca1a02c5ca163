//! Logging in at a real OpenID provider: npm's certified `oidc-provider`, which
//! `scripts/need test` installs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::browser::{Browser, HOST, ORIGIN, escaped};
use super::table::POLICY;
use crate::house::House;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const AUDIENCE: &str = "https://holdfast.example.com";
const CALLBACK: &str = "https://holdfast.example.com/login/oidc/callback";

/// The provider's process.
struct Provider {
    _child: Child,
    base: String,
    client: reqwest::Client,
}

impl Provider {
    async fn start() -> Self {
        let place = std::env::var("HOLDFAST_TEST_OIDC")
            .unwrap_or_else(|_| format!("{}/../target/test-oidc", env!("CARGO_MANIFEST_DIR")));
        assert!(
            Path::new(&place).join("node_modules/oidc-provider").is_dir(),
            "oidc-provider is not in {place}: scripts/need test installs it"
        );
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let settings = json!({
            "clients": [
                { "client_id": "holdfast", "client_secret": SECRET, "redirect_uris": [CALLBACK] },
                { "client_id": "other", "client_secret": SECRET, "redirect_uris": ["https://other.example/back"] },
                { "client_id": "robot", "client_secret": SECRET, "redirect_uris": [], "response_types": [],
                  "grant_types": ["client_credentials"] },
            ],
            "groups": { "olga": ["platform"], "anna": ["auditors"], "robot": ["platform"] },
        });
        let mut child = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/access/provider.mjs"))
            .args([
                &std::path::absolute(&place).unwrap().display().to_string(),
                &port.to_string(),
            ])
            .arg(settings.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed: scripts/need test does it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = async { lines.next_line().await.unwrap().expect("the provider starts") };
        let line = tokio::time::timeout(std::time::Duration::from_secs(60), ready)
            .await
            .expect("in time");
        assert_eq!(line, "ready");
        // What else it says goes nowhere; with nobody to say it to it would end.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            _child: child,
            base: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .pool_max_idle_per_host(0)
                .tls_certs_only([])
                .build()
                .unwrap(),
        }
    }

    fn section(&self) -> String {
        format!(
            "[access]\npublic_url = \"{ORIGIN}\"\n\
             [access.oidc]\nissuer = \"{}\"\nclient_id = \"holdfast\"\nclient_secret_file = \"oidc.secret\"\n\
             audience = \"{AUDIENCE}\"\nscopes = [\"openid\", \"profile\", \"groups\"]\n\
             [[access.grant]]\nto = \"group:platform\"\nrole = \"operator\"\nscope = [\"*\"]\n\
             [[access.grant]]\nto = \"subject:anna\"\nrole = \"auditor\"\nscope = [\"acme/*\"]\n\
             until = \"2100-01-01T00:00:00Z\"\n",
            self.base
        )
    }

    /// Goes through the provider's own pages as `account`, until it sends the browser
    /// back: to where.
    async fn log_in(&self, address: &str, account: &str) -> String {
        let mut cookies: Vec<(String, String)> = Vec::new();
        let mut next = (address.to_owned(), None);
        for _ in 0..12 {
            let (address, form) = next;
            assert!(address.starts_with(&self.base), "{address}");
            let held: Vec<String> = cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let request = match &form {
                Some(body) => self
                    .client
                    .post(&address)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(String::clone(body)),
                None => self.client.get(&address),
            };
            let answer = request.header("cookie", held.join("; ")).send().await.unwrap();
            for set in answer.headers().get_all("set-cookie") {
                let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
                let (name, value) = pair.split_once('=').unwrap();
                cookies.retain(|(held, _)| held != name);
                cookies.push((name.to_owned(), value.to_owned()));
            }
            let location = answer
                .headers()
                .get("location")
                .map(|l| l.to_str().unwrap().to_owned());
            if let Some(location) = location {
                if !location.starts_with('/') && !location.starts_with(&self.base) {
                    return location;
                }
                let absolute = reqwest::Url::parse(&address).unwrap().join(&location).unwrap();
                next = (absolute.into(), None);
                continue;
            }
            let page = answer.text().await.unwrap();
            let part = |mark: &str| {
                page.split(mark)
                    .nth(1)
                    .and_then(|r| r.split('"').next())
                    .map(str::to_owned)
            };
            let action = part("action=\"").unwrap_or_else(|| panic!("no form in {page}"));
            let prompt = part("name=\"prompt\" value=\"").unwrap();
            next = (
                action,
                Some(format!("prompt={prompt}&login={account}&password=x")),
            );
        }
        panic!("the provider goes on and on");
    }

    /// What a program gets for its own secret.
    async fn token(&self, client: &str, audience: &str) -> String {
        let answer = self
            .client
            .post(format!("{}/token", self.base))
            .basic_auth(client, Some(SECRET))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!(
                "grant_type=client_credentials&scope=read&resource={}",
                escaped(audience)
            ))
            .send()
            .await
            .unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }
}

async fn house(section: &str) -> House {
    let house = House::build_with(POLICY, section).await;
    let file = house.root.join("oidc.secret");
    std::fs::write(&file, SECRET).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    house
}

fn path_of(location: &str) -> &str {
    location
        .strip_prefix(ORIGIN)
        .unwrap_or_else(|| panic!("{location} is not ours"))
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_at_the_provider_and_are_whom_it_says() {
    let provider = Provider::start().await;
    let house = house(&provider.section()).await;
    let running = house.open().await;
    for (account, policy, who) in [
        ("olga", 200, "olga@acme.example"),
        ("anna", 403, "anna@acme.example"),
        ("nobody", 403, ""),
    ] {
        let mut browser = Browser::new(&running);
        let (_, _, page) = browser.get("/login?next=/v1/me").await;
        assert!(
            page.contains("Log in with 127.0.0.1") && !page.contains("name=\"token\""),
            "{page}"
        );
        let (status, headers, body) = browser.get("/login/oidc?next=/v1/me").await;
        assert_eq!(status, 303, "{body}");
        let there = headers["location"].to_str().unwrap().to_owned();
        for part in [
            "code_challenge_method=S256",
            "response_type=code",
            "state=",
            "nonce=",
        ] {
            assert!(there.contains(part), "{there}");
        }
        let back = provider.log_in(&there, account).await;
        let (status, headers, body) = browser.get(path_of(&back)).await;
        assert_eq!(
            (status, headers.get("location").map(|l| l.to_str().unwrap())),
            (303, Some("/v1/me")),
            "{body}"
        );
        let (status, _, me) = browser.get("/v1/me").await;
        assert_eq!(status, 200);
        assert!(me.contains(&format!("subject:{account}")), "{me}");
        assert_eq!(browser.get("/v1/policy").await.0, policy, "{account}");
        let (status, _, page) = browser.get("/").await;
        assert_eq!(
            (status == 200, page.contains(who)),
            (account != "nobody", true),
            "{page}"
        );
        // The way back leads there once.
        let (status, _, page) = browser.get(path_of(&back)).await;
        assert_eq!(status, 403);
        assert!(page.contains("begun elsewhere, or too long ago"), "{page}");
    }
    running.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_is_not_ones_own_leads_nowhere() {
    let provider = Provider::start().await;
    let house = house(&provider.section()).await;
    let running = house.open().await;
    let begin = async |browser: &mut Browser<'_>| {
        let (_, headers, _) = browser.get("/login/oidc").await;
        headers["location"].to_str().unwrap().to_owned()
    };
    let (mut victim, mut thief) = (Browser::new(&running), Browser::new(&running));
    let there = begin(&mut thief).await;
    let back = provider.log_in(&there, "olga").await;
    // Somebody else's link: with no login under way, and with another one.
    assert_eq!(victim.get(path_of(&back)).await.0, 403);
    begin(&mut victim).await;
    assert_eq!(victim.get(path_of(&back)).await.0, 403);
    assert_eq!(victim.get("/v1/me").await.0, 303, "the victim is nobody");
    // The same link still works for whom it was made.
    assert_eq!(thief.get(path_of(&back)).await.0, 303);

    // What comes back is changed on the way.
    type Change = fn(&str) -> String;
    let changes: [(&str, Change); 5] = [
        ("another state", |back| back.replace("state=", "state=x")),
        ("another code", |back| back.replace("code=", "code=x")),
        ("another provider", |back| {
            back.replace("iss=", "iss=https%3A%2F%2Fevil.example%2F&x=")
        }),
        ("no code", |back| back.replace("code=", "x=")),
        ("an error", |back| back.replace("code=", "error=access_denied&x=")),
    ];
    for (what, change) in changes {
        let mut browser = Browser::new(&running);
        let there = begin(&mut browser).await;
        let back = provider.log_in(&there, "olga").await;
        let (status, _, page) = browser.get(path_of(&change(&back))).await;
        assert_eq!(status, 403, "{what}: {page}");
        assert_eq!(browser.get("/v1/me").await.0, 303, "{what}");
    }
    // A code that was made for another login: PKCE and nonce are another's.
    let (mut one, mut two) = (Browser::new(&running), Browser::new(&running));
    let (there_one, there_two) = (begin(&mut one).await, begin(&mut two).await);
    let (back_one, back_two) = (
        provider.log_in(&there_one, "olga").await,
        provider.log_in(&there_two, "anna").await,
    );
    let part = |address: &str, name: &str| {
        let url = reqwest::Url::parse(address).unwrap();
        url.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned()
    };
    let mixed = format!(
        "/login/oidc/callback?code={}&state={}&iss={}",
        part(&back_two, "code"),
        part(&back_one, "state"),
        escaped(&part(&back_one, "iss"))
    );
    assert_eq!(one.get(&mixed).await.0, 403);
    assert_eq!(one.get("/v1/me").await.0, 303);
    running.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_come_with_what_the_provider_signed_for_us() {
    let provider = Provider::start().await;
    let house = house(&provider.section()).await;
    let running = house.open().await;
    let ask = |token: String| {
        let request = Request::get("/v1/me")
            .header("host", HOST)
            .header("authorization", format!("Bearer {token}"));
        running.send(request.body(Full::default()).unwrap())
    };
    let token = provider.token("robot", AUDIENCE).await;
    let (status, _, me) = ask(token.clone()).await;
    assert_eq!(status, 200, "{me}");
    let me: Value = serde_json::from_str(&me).unwrap();
    assert_eq!(
        (&me["who"], &me["permissions"]["refresh"]),
        (&json!("client:robot"), &json!("*"))
    );

    let parts: Vec<&str> = token.split('.').collect();
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let rewritten = URL_SAFE_NO_PAD.encode(claims.replace("\"robot\"", "\"olga\""));
    let none = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}");
    // By a shared secret, for which a public key could be taken.
    let shared = URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\",\"kid\":\"keystore-CHANGE-ME\"}");
    for (what, wrong) in [
        (
            "for another",
            provider.token("robot", "https://other.example").await,
        ),
        (
            "with other claims",
            format!("{}.{rewritten}.{}", parts[0], parts[2]),
        ),
        ("unsigned", format!("{none}.{}.", parts[1])),
        (
            "by a shared secret",
            format!("{shared}.{}.{}", parts[1], parts[2]),
        ),
        ("cut", format!("{}.{}.", parts[0], parts[1])),
        ("nothing", "..".to_owned()),
    ] {
        let (status, _, body) = ask(wrong).await;
        assert_eq!(status, 401, "{what}: {body}");
    }
    running.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_away_tokens_of_our_own_let_in() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let section = format!(
        "[access]\npublic_url = \"{ORIGIN}\"\n[access.oidc]\nissuer = \"http://127.0.0.1:{port}\"\n\
         client_id = \"holdfast\"\naudience = \"{AUDIENCE}\"\n{}",
        super::table::granted("olga", "operator", "*", "")
    );
    let house = House::build_with(POLICY, &section).await;
    let running = house.open().await;
    let mut browser = Browser::new(&running);
    let (status, _, page) = browser.get("/login/oidc").await;
    assert_eq!(status, 503);
    assert!(
        page.contains("A token still lets you in") && page.contains("name=\"token\""),
        "{page}"
    );
    browser.log_in("olga").await;
    assert_eq!(browser.get("/").await.0, 200);
    let request = Request::get("/v1/me")
        .header("host", HOST)
        .header("authorization", "Bearer e30.e30.x");
    assert_eq!(
        running.send(request.body(Full::default()).unwrap()).await.0,
        401,
        "not even a token"
    );
    let header = "eyJhbGciOiJSUzI1NiJ9";
    let request = Request::get("/v1/me")
        .header("host", HOST)
        .header("authorization", format!("Bearer {header}.e30.x"));
    assert_eq!(running.send(request.body(Full::default()).unwrap()).await.0, 503);
    running.close().await;
}
