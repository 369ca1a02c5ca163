//! How alerts are written, receiver by receiver.

use holdfast_plan::alerts::Notice;
use holdfast_plan::policy::RouteKind;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::ActorName;
use serde_json::{Value, json};

/// How long Alertmanager believes an alert that is not renewed, in milliseconds.
const BELIEVED: i64 = 300_000;

/// The body of a message.
pub fn write(kind: RouteKind, notices: &[Notice], coordinator: &ActorName, now: Timestamp) -> Vec<u8> {
    let body = match kind {
        RouteKind::Generic => generic(notices, coordinator),
        RouteKind::Alertmanager => notices
            .iter()
            .map(|n| alertmanager(n, coordinator, now))
            .collect(),
        RouteKind::Slack => slack(notices),
    };
    serde_json::to_vec(&body).expect("JSON values always encode")
}

/// Our own form, version 1.
fn generic(notices: &[Notice], coordinator: &ActorName) -> Value {
    let alerts = notices.iter().map(|notice| {
        let finding = &notice.finding;
        json!({
            "status": status(notice),
            "name": finding.name,
            "severity": finding.severity,
            "tenant": notice.cluster.as_ref().map(|c| &c.tenant),
            "cluster": notice.cluster,
            "subject": finding.subject,
            "detail": finding.detail,
            "since": finding.since,
            "ended": notice.ended,
        })
    });
    json!({ "version": 1, "source": "holdfast", "coordinator": coordinator, "alerts": alerts.collect::<Vec<_>>() })
}

fn status(notice: &Notice) -> &'static str {
    if notice.ended.is_some() {
        "resolved"
    } else {
        "firing"
    }
}

/// `POST /api/v2/alerts`. Labels say which one it is; what changes is in annotations.
fn alertmanager(notice: &Notice, coordinator: &ActorName, now: Timestamp) -> Value {
    let finding = &notice.finding;
    let mut labels = json!({
        "alertname": finding.name,
        "severity": finding.severity,
        "subject": finding.subject,
        "source": "holdfast",
        "coordinator": coordinator,
    });
    if let Some(cluster) = &notice.cluster {
        labels["tenant"] = json!(cluster.tenant);
        labels["cluster"] = json!(cluster);
    }
    // An end before the beginning, by whoever's clock, would be refused.
    let ends = match notice.ended {
        Some(ended) => ended.max(finding.since),
        None => now.plus_millis(BELIEVED),
    };
    json!({
        "labels": labels,
        "annotations": { "summary": title(notice), "description": finding.detail },
        "startsAt": finding.since,
        "endsAt": ends,
    })
}

/// An incoming webhook's message.
fn slack(notices: &[Notice]) -> Value {
    let lines = notices.iter().map(|notice| {
        let finding = &notice.finding;
        let sign = match (notice.ended, finding.severity) {
            (Some(_), _) => ":white_check_mark:",
            (None, Severity::Critical) => ":red_circle:",
            (None, Severity::Warning) => ":large_yellow_circle:",
            (None, Severity::Info) => ":information_source:",
        };
        let title = escaped(&title(notice));
        match notice.ended {
            Some(ended) => format!("{sign} over: *{title}* from {} to {ended}", finding.since),
            None => format!(
                "{sign} *{title}* since {}\n{}",
                finding.since,
                escaped(&finding.detail)
            ),
        }
    });
    json!({ "text": lines.collect::<Vec<_>>().join("\n") })
}

fn title(notice: &Notice) -> String {
    let finding = &notice.finding;
    match &notice.cluster {
        Some(cluster) if finding.subject == cluster.to_string() => format!("{}: {cluster}", finding.name),
        Some(cluster) => format!("{}: {cluster}, {}", finding.name, finding.subject),
        None => format!("{}: {}", finding.name, finding.subject),
    }
}

/// Slack takes three characters for its own.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
