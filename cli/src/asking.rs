//! Asking the coordinator, as a person or a program that it knows.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use holdfast_coordinator::access::oidc::program::ProgramLogin;
use holdfast_repository::secret_file;
use reqwest::Certificate;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::exit::{Failure, OrExit};
use crate::operator::OperatorFile;

/// How long the coordinator is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A coordinator, and what it is asked with.
pub struct Asking {
    url: String,
    ca: Option<PathBuf>,
    token: Option<Zeroizing<String>>,
    login: Option<ProgramLogin>,
}

impl Asking {
    /// As the configuration says; a token file that is named by hand goes first.
    pub fn of(operator: &OperatorFile, token_file: Option<PathBuf>) -> anyhow::Result<Self> {
        let url = operator.coordinator.clone().ok_or_else(|| {
            Failure::usage("the configuration names no coordinator: add coordinator = \"https://HOST\"")
        })?;
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let said =
                format!("{url}: the coordinator's address for people is https://HOST or http://HOST:PORT");
            return Err(Failure::usage(said));
        }
        let token = match token_file.as_ref().or(operator.coordinator_token_file.as_ref()) {
            Some(file) => {
                let text = secret_file::read(file).context("the token").or_usage()?;
                Some(Zeroizing::new(text.trim().to_owned()))
            }
            None => None,
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            ca: operator.coordinator_ca.clone(),
            login: operator.coordinator_oidc.clone().filter(|_| token.is_none()),
            token,
        })
    }

    /// What it answers to a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        self.send(path).await.or_unavailable()
    }

    fn is_here(&self) -> bool {
        let url = reqwest::Url::parse(&self.url).ok();
        url.is_some_and(|url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")))
    }

    async fn send(&self, path: &str) -> anyhow::Result<String> {
        let mut client = reqwest::Client::builder()
            .timeout(PATIENCE)
            // A token is for the one who was named.
            .redirect(reqwest::redirect::Policy::none());
        if self.url.starts_with("http://") {
            // A machine without certificates of authorities can still be asked.
            client = client.tls_certs_only([]);
        } else if let Some(ca) = &self.ca {
            let pem = std::fs::read(ca)
                .with_context(|| format!("coordinator_ca {} cannot be read", ca.display()))
                .or_usage()?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("coordinator_ca {} holds no certificates", ca.display()))
                .or_usage()?;
            client = client.tls_certs_only(certificates);
        }
        let client = client.build()?;
        let mut request = client
            .get(format!("{}{path}", self.url))
            .header("accept", "application/json");
        let token = match &self.login {
            Some(login) => Some(login.token().await?),
            None => self.token.clone(),
        };
        if let Some(token) = &token {
            if self.url.starts_with("http://") && !self.is_here() {
                eprintln!("warning: the token goes to {} without encryption", self.url);
            }
            request = request.bearer_auth(token.as_str());
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("the coordinator at {} does not answer", self.url))?;
        let status = response.status();
        let text = response.text().await.context("the coordinator's answer")?;
        if status.is_success() {
            return Ok(text);
        }
        let problem: Option<Value> = serde_json::from_str(&text).ok();
        let detail = problem
            .as_ref()
            .and_then(|p| p["detail"].as_str())
            .unwrap_or(&text);
        let hint = match (status.as_u16(), &token) {
            (401, None) => {
                ". Name a token with coordinator_token_file or --token-file, or log in with [coordinator_oidc]"
            }
            (401, Some(_)) => ". The token that was shown is not one that it knows",
            _ => "",
        };
        Err(anyhow!("the coordinator answered {status}: {detail}{hint}"))
    }
}
