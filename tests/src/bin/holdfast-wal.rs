//! The commands that PostgreSQL calls, and a restore as a process of its own that
//! a test can kill, for tests of the restore alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use holdfast_agent::restore::{Access, conclude, execute, fetch, prefetch};
use holdfast_agent::run::pushing::hand_over;
use holdfast_tests::scene::RestoreJob;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["wal", "fetch", name, path, "--pin", pin] => {
            ExitCode::from(fetch::run(name, Path::new(path), Path::new(pin)))
        }
        ["wal", "prefetch", name, "--pin", pin] => done(blocking(async {
            prefetch::run(name, Path::new(pin))
                .await
                .context("prefetching ended")
        })),
        ["wal", "push", path, "--socket", socket] => done(
            hand_over(Path::new(socket), Path::new(path), None)
                .map(drop)
                .context("not taken"),
        ),
        ["wal", "conclude"] => done(conclude(Path::new(".")).context("concluding failed")),
        ["restore", job] => done(blocking(restore(PathBuf::from(job)))),
        _ => ExitCode::from(fetch::FAILED),
    }
}

fn blocking(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

fn done(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn restore(job: PathBuf) -> Result<()> {
    let job: RestoreJob = serde_json::from_slice(&std::fs::read(job)?)?;
    let fetch = job.fetch();
    let access = Access::open(
        &fetch.repository,
        &fetch.trust_root,
        &job.plan.cluster,
        &fetch.identities,
    )
    .await?;
    let outcome = execute(&job.plan, &access, &job.target(), &job.options()).await?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
