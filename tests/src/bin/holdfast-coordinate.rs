//! A coordinator as a process of its own, without evidence, for tests that kill and stop it.
//!
//! `holdfast-coordinate CONFIG`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use holdfast_coordinator::Coordinator;
use holdfast_coordinator::config::CoordinatorConfig;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let file = std::env::args()
        .nth(1)
        .context("usage: holdfast-coordinate CONFIG")?;
    let config = CoordinatorConfig::load(&PathBuf::from(file))?;
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(async {
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move {
            let mut told_to = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            told_to.recv().await;
            told.cancel();
            std::io::Result::Ok(())
        });
        Coordinator::start(config).await?.serve(stop).await
    })?)
}
