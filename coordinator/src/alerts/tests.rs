use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use holdfast_plan::policy::Policy;
use holdfast_proto::finding::{Finding, Severity};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const POLICY: &str = r#"
[[tenant]]
name = "acme"

[[cluster]]
cluster = "acme/erp"
tier = "gold"

[[route]]
name = "ops"
kind = "KIND"
url_env = "OPS_ADDRESS"
"#;

fn policy(kind: &str) -> Policy {
    Policy::parse(&POLICY.replace("KIND", kind), "policy").unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn at(seconds: i64) -> Timestamp {
    holdfast_repository::clock::now().plus_millis(seconds * 1000)
}

fn standing(names: &[&str]) -> Vec<Stands> {
    names
        .iter()
        .map(|name| Stands {
            cluster: Some("acme/erp".parse().unwrap()),
            finding: Finding {
                name: (*name).to_owned(),
                subject: "acme/erp".to_owned(),
                severity: Severity::Critical,
                detail: "<look> & act".to_owned(),
                since: at(-30),
            },
        })
        .collect()
}

fn sender(address: &str) -> Sender {
    let address = address.to_owned();
    let find = move |variable: &str| (variable == "OPS_ADDRESS").then(|| address.clone());
    let runbooks = "https://w.example/findings.md".parse().unwrap();
    Sender::with_addresses("coordinator-1".parse().unwrap(), Some(runbooks), Arc::new(find))
}

/// A receiver that answers each request with the next status, and the last one for ever.
/// Returns its address and what it was told.
async fn receiver(statuses: &'static [u16]) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/secret-token", listener.local_addr().unwrap());
    let told = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&told);
    tokio::spawn(async move {
        for n in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.unwrap();
                request.extend(&part[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head.lines().find_map(|l| {
                    l.to_lowercase()
                        .strip_prefix("content-length: ")
                        .map(str::to_owned)
                });
                if body.len() >= length.unwrap().parse().unwrap() {
                    break body.to_owned();
                }
            };
            let status = statuses[n.min(statuses.len() - 1)];
            if status == 200 {
                keep.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            }
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 4\r\nconnection: close\r\n\r\nsaid");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, told)
}

/// One turn of the loop at a moment.
async fn turn(
    deliveries: &mut BTreeMap<RouteName, Delivery>,
    sender: &Sender,
    policy: &Policy,
    standing: &[Stands],
    now: Timestamp,
) -> usize {
    let posts = collect(deliveries, policy, standing, now);
    for post in &posts {
        let outcome = sender.send(post, now).await;
        note(deliveries, post, outcome, now);
    }
    posts.len()
}

fn trouble(deliveries: &BTreeMap<RouteName, Delivery>, now: Timestamp) -> Option<String> {
    deliveries
        .values()
        .find_map(|d| d.trouble(now))
        .map(|(why, _)| why.to_string())
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_again_and_hears_everything_once() {
    let (address, told) = receiver(&[503, 429, 500, 200]).await;
    let (sender, policy) = (sender(&address), policy("generic"));
    let mut deliveries = BTreeMap::new();
    let both = standing(&["rpo-missed", "base-overdue"]);
    let start = at(0);
    let mut tries = 0;
    for second in 0..120 {
        let now = start.plus_millis(second * 1000);
        // The second ends while the receiver is away.
        let stand = if second < 5 { &both[..] } else { &both[..1] };
        tries += turn(&mut deliveries, &sender, &policy, stand, now).await;
        if second == 3 {
            assert_eq!(tries, 3, "at once, after a second, and after two more");
        }
    }
    let told = told.lock().unwrap();
    assert_eq!(told.len(), tries - 3);
    let alerts: Vec<&Value> = told
        .iter()
        .flat_map(|body| body["alerts"].as_array().unwrap())
        .collect();
    let seen: Vec<_> = alerts
        .iter()
        .map(|a| (a["name"].as_str().unwrap(), a["status"].as_str().unwrap()))
        .collect();
    assert_eq!(seen, [("rpo-missed", "firing"), ("base-overdue", "resolved")]);
    assert_eq!(alerts[0]["cluster"], "acme/erp");
    assert_eq!(alerts[0]["severity"], "critical");
    assert_eq!(told[0]["coordinator"], "coordinator-1");
    assert_eq!(trouble(&deliveries, at(1000)), None);
}

#[tokio::test]
async fn a_receiver_that_stays_away_is_a_finding_without_its_address() {
    let (address, _) = receiver(&[404]).await;
    let policy = policy("slack");
    let mut deliveries = BTreeMap::new();
    let one = standing(&["rpo-missed"]);
    let start = at(0);
    turn(&mut deliveries, &sender(&address), &policy, &one, start).await;
    assert_eq!(trouble(&deliveries, start), None, "not at once");
    let later = start.plus_millis(61_000);
    turn(
        &mut deliveries,
        &sender("http://127.0.0.1:1/secret-token"),
        &policy,
        &one,
        later,
    )
    .await;
    let why = trouble(&deliveries, later).unwrap();
    assert!(
        why.contains("cannot be reached") && !why.contains("secret"),
        "{why}"
    );

    for (address, words) in [("ftp://x", "holds no http"), ("secret", "holds no http")] {
        let mut deliveries = BTreeMap::new();
        turn(&mut deliveries, &sender(address), &policy, &one, start).await;
        let why = trouble(&deliveries, start).unwrap();
        assert!(why.contains(words) && !why.contains("secret"), "{why}");
    }
    let mut deliveries = BTreeMap::new();
    let nowhere = Sender::with_addresses("c".parse().unwrap(), None, Arc::new(|_| None));
    turn(&mut deliveries, &nowhere, &policy, &one, start).await;
    assert!(
        trouble(&deliveries, start)
            .unwrap()
            .contains("OPS_ADDRESS is not set")
    );
}

#[tokio::test]
async fn many_go_in_several_messages_and_slack_reads_them() {
    let (address, told) = receiver(&[200]).await;
    let names: Vec<String> = (0..45).map(|n| format!("finding-{n}")).collect();
    let many = standing(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (sender, policy) = (sender(&address), policy("slack"));
    let mut deliveries = BTreeMap::new();
    let now = at(0);
    while turn(&mut deliveries, &sender, &policy, &many, now).await > 0 {}
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 3);
    let text: Vec<&str> = told.iter().map(|body| body["text"].as_str().unwrap()).collect();
    assert_eq!(text.concat().matches(":red_circle: *finding-").count(), 45);
    assert!(text[0].contains("&lt;look&gt; &amp; act"), "{}", text[0]);
}

#[tokio::test]
async fn a_message_says_what_clears_it_and_leads_to_the_runbook() {
    let known = standing(&["wal-slot-unused"]);
    let page = "https://w.example/findings.md#wal-slot-unused";
    let clears = "Ends when the slot is dropped.";
    let (address, told) = receiver(&[200]).await;
    for kind in ["generic", "slack"] {
        turn(
            &mut BTreeMap::new(),
            &sender(&address),
            &policy(kind),
            &known,
            at(0),
        )
        .await;
    }
    let told = told.lock().unwrap();
    let alert = &told[0]["alerts"][0];
    assert_eq!(
        (&alert["clears"], &alert["runbook"]),
        (&json!(clears), &json!(page))
    );
    let text = told[1]["text"].as_str().unwrap();
    let title = format!(":red_circle: *<{page}|wal-slot-unused: acme/erp>* since ");
    assert!(text.starts_with(&title) && text.ends_with(clears), "{text}");
}

/// Prometheus' own Alertmanager, from Debian's package.
struct Alertmanager {
    child: Child,
    _directory: tempfile::TempDir,
    base: String,
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Alertmanager {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let config = directory.path().join("config.yml");
        std::fs::write(
            &config,
            "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n",
        )
        .unwrap();
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", directory.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus-alertmanager is installed");
        let base = format!("http://127.0.0.1:{port}");
        let manager = Self {
            child,
            _directory: directory,
            base,
        };
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let ready = async {
            loop {
                tick.tick().await;
                if reqwest::get(format!("{}/-/ready", manager.base))
                    .await
                    .is_ok_and(|a| a.status().is_success())
                {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready)
            .await
            .expect("Alertmanager starts");
        manager
    }

    async fn alerts(&self, filter: &str) -> Vec<Value> {
        let answer = reqwest::get(format!("{}/api/v2/alerts?{filter}", self.base))
            .await
            .unwrap();
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alertmanager_takes_alerts_keeps_them_and_lets_them_go() {
    let manager = Alertmanager::start().await;
    let (sender, policy) = (
        sender(&format!("{}/api/v2/alerts", manager.base)),
        policy("alertmanager"),
    );
    let mut deliveries = BTreeMap::new();
    let one = standing(&["rpo-missed"]);
    let start = at(0);
    turn(&mut deliveries, &sender, &policy, &one, start).await;
    assert_eq!(trouble(&deliveries, at(100)), None);
    let active = manager.alerts("active=true").await;
    assert_eq!(active.len(), 1, "{active:?}");
    let alert = &active[0];
    assert_eq!(alert["labels"]["alertname"], "rpo-missed");
    assert_eq!(alert["labels"]["cluster"], "acme/erp");
    assert_eq!(alert["labels"]["severity"], "critical");
    let annotations = &alert["annotations"];
    assert_eq!(annotations["description"], "<look> & act");
    assert_eq!(
        annotations["runbook_url"],
        "https://w.example/findings.md#rpo-missed"
    );
    assert!(annotations["clears"].as_str().unwrap().starts_with("Ends when "));
    let until = |alert: &Value| alert["endsAt"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let believed = until(alert);
    assert!(believed > start.plus_millis(200_000), "{believed}");
    // It is told again in time, as the same alert.
    let sent = turn(&mut deliveries, &sender, &policy, &one, start.plus_millis(30_000)).await;
    assert_eq!(sent, 0);
    turn(&mut deliveries, &sender, &policy, &one, start.plus_millis(61_000)).await;
    let renewed = manager.alerts("active=true").await;
    assert_eq!(renewed.len(), 1);
    assert!(until(&renewed[0]) > believed);
    // Over: it ended before now.
    turn(&mut deliveries, &sender, &policy, &[], start.plus_millis(-61_000)).await;
    turn(&mut deliveries, &sender, &policy, &[], start).await;
    assert_eq!(manager.alerts("active=true").await, Vec::<Value>::new());
}
