//! `holdfast status`: the fleet, as the coordinator sees it.

use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;
use crate::screen;

/// The fleet: tier, RPO now against its target, last proven restore, findings.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Print the coordinator's answer as JSON.
    #[arg(long)]
    json: bool,
}

impl StatusArguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let operator = self.operator.load()?;
        let url = operator.file.coordinator.clone().ok_or_else(|| {
            Failure::usage("the configuration names no coordinator: add coordinator = \"http://HOST:PORT\"")
        })?;
        let body = get(&url, "/v1/status").await.or_unavailable()?;
        if self.json {
            println!("{body}");
            return Ok(Exit::Done);
        }
        let status: serde_json::Value = serde_json::from_str(&body).context("the coordinator's answer")?;
        print!("{}", fleet(&status));
        Ok(Exit::Done)
    }
}

async fn get(url: &str, path: &str) -> anyhow::Result<String> {
    let authority = url
        .strip_prefix("http://")
        .with_context(|| format!("{url}: the coordinator's address for people is http://HOST:PORT"))?
        .trim_end_matches('/');
    let stream = tokio::net::TcpStream::connect(authority)
        .await
        .with_context(|| format!("the coordinator at {authority} does not answer"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", authority)
        .header("accept", "application/json")
        .body(Empty::<hyper::body::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    anyhow::ensure!(status.is_success(), "the coordinator answered {status}: {text}");
    Ok(text)
}

fn fleet(status: &serde_json::Value) -> String {
    let heading = [
        "cluster",
        "tier",
        "RPO now",
        "target",
        "last base",
        "last point",
        "last proven",
        "findings",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    for cluster in status["clusters"].as_array().into_iter().flatten() {
        let millis =
            |value: &serde_json::Value| value.as_u64().map_or_else(|| "UNKNOWN".into(), screen::span);
        rows.push(vec![
            text(&cluster["cluster"]),
            text(&cluster["tier"]),
            millis(&cluster["rpo"]["now_ms"]),
            millis(&cluster["rpo"]["target_ms"]),
            text(&cluster["last_base"]["stopped"]),
            text(&cluster["last_point"]["at"]),
            text(&cluster["last_proven"]["at"]),
            cluster["findings"].as_array().map_or(0, Vec::len).to_string(),
        ]);
    }
    screen::table(&rows)
}
