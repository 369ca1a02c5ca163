//! How alerts are written, receiver by receiver.

use holdfast_plan::alerts::Notice;
use holdfast_plan::policy::RouteKind;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Severity, catalogue};
use holdfast_proto::names::ActorName;
use serde_json::{Value, json};

use crate::runbooks::Runbooks;

/// How long Alertmanager believes an alert that is not renewed, in milliseconds.
const BELIEVED: i64 = 300_000;

/// What is the same in every message.
#[derive(Debug, Clone, Copy)]
pub struct Letterhead<'l> {
    /// Who writes.
    pub coordinator: &'l ActorName,
    /// Where people read what to do.
    pub runbooks: Option<&'l Runbooks>,
}

impl Letterhead<'_> {
    /// The body of a message.
    pub fn write(self, kind: RouteKind, notices: &[Notice], now: Timestamp) -> Vec<u8> {
        let body = match kind {
            RouteKind::Generic => self.generic(notices),
            RouteKind::Alertmanager => notices.iter().map(|n| self.alertmanager(n, now)).collect(),
            RouteKind::Slack => self.slack(notices),
        };
        serde_json::to_vec(&body).expect("JSON values always encode")
    }

    fn runbook(self, notice: &Notice) -> Option<String> {
        self.runbooks?.link(&notice.finding.name)
    }

    /// Our own form, version 1.
    fn generic(self, notices: &[Notice]) -> Value {
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
                "clears": catalogue::clears(&finding.name),
                "runbook": self.runbook(notice),
                "since": finding.since,
                "ended": notice.ended,
            })
        });
        let alerts: Vec<Value> = alerts.collect();
        json!({ "version": 1, "source": "holdfast", "coordinator": self.coordinator, "alerts": alerts })
    }

    /// `POST /api/v2/alerts`. Labels say which one it is; what changes is in annotations,
    /// and what Prometheus' own rules call `runbook_url`.
    fn alertmanager(self, notice: &Notice, now: Timestamp) -> Value {
        let finding = &notice.finding;
        let mut labels = json!({
            "alertname": finding.name,
            "severity": finding.severity,
            "subject": finding.subject,
            "source": "holdfast",
            "coordinator": self.coordinator,
        });
        if let Some(cluster) = &notice.cluster {
            labels["tenant"] = json!(cluster.tenant);
            labels["cluster"] = json!(cluster);
        }
        let mut annotations = json!({ "summary": title(notice), "description": finding.detail });
        if let Some(clears) = catalogue::clears(&finding.name) {
            annotations["clears"] = json!(clears);
        }
        if let Some(runbook) = self.runbook(notice) {
            annotations["runbook_url"] = json!(runbook);
        }
        // An end before the beginning, by whoever's clock, would be refused.
        let ends = match notice.ended {
            Some(ended) => ended.max(finding.since),
            None => now.plus_millis(BELIEVED),
        };
        json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": finding.since,
            "endsAt": ends,
        })
    }

    /// An incoming webhook's message.
    fn slack(self, notices: &[Notice]) -> Value {
        let lines: Vec<String> = notices.iter().map(|notice| self.slack_lines(notice)).collect();
        json!({ "text": lines.join("\n") })
    }

    /// One finding: its title, which leads to its runbook, what was seen, what clears it.
    fn slack_lines(self, notice: &Notice) -> String {
        let finding = &notice.finding;
        let sign = match (notice.ended, finding.severity) {
            (Some(_), _) => ":white_check_mark:",
            (None, Severity::Critical) => ":red_circle:",
            (None, Severity::Warning) => ":large_yellow_circle:",
            (None, Severity::Info) => ":information_source:",
        };
        let title = escaped(&title(notice));
        let title = match self.runbook(notice) {
            Some(runbook) => format!("<{}|{title}>", escaped(&runbook)),
            None => title,
        };
        if let Some(ended) = notice.ended {
            return format!("{sign} over: *{title}* from {} to {ended}", finding.since);
        }
        let detail = escaped(&finding.detail);
        let clears = catalogue::clears(&finding.name)
            .map(|clears| format!("\n{}", escaped(clears)))
            .unwrap_or_default();
        format!("{sign} *{title}* since {}\n{detail}{clears}", finding.since)
    }
}

fn status(notice: &Notice) -> &'static str {
    if notice.ended.is_some() {
        "resolved"
    } else {
        "firing"
    }
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
