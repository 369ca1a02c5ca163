//! APPLICATION: programs that the scenario names, which use the copy as the
//! application does.
//!
//! A program runs in namespaces of its own, as a user that is not root, without
//! a network; what it gets is the copy's socket and the restored files, both in
//! its environment. It passes when it exits with 0 in time. What it prints goes to
//! a file in the scratch space, and from there its end into the log: evidence
//! carries the exit status alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use holdfast_proto::Sha256Digest;
use holdfast_proto::names::FilestoreName;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::checks::Check;
use crate::evidence::statement::results::CheckResult;
use crate::scenario::ProgramCheck;
use crate::scratch::{Isolation, PrivateServer};

/// How often a running program is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);
/// Bytes of a program's output that go to the log.
const TAIL: usize = 2000;

/// What a program is given.
#[derive(Debug, Clone)]
pub struct Given<'a> {
    /// The copy.
    pub server: &'a PrivateServer,
    /// How it is cut off.
    pub isolation: Isolation,
    /// Where its files and its output go.
    pub space: &'a Path,
    /// The restored filestores.
    pub filestores: BTreeMap<FilestoreName, PathBuf>,
}

/// Runs one program.
pub async fn run(given: &Given<'_>, check: &ProgramCheck) -> CheckResult {
    let mut running = Check::mandatory(&check.id, check.class)
        .data_proving()
        .digest(digest(&check.command));
    if !check.mandatory {
        running = running.optional();
    }
    if let Err(e) = refuse_superuser(given.server, &check.role).await {
        return running.could_not_run(&e);
    }
    match outcome(given, check).await {
        Ok(Some(status)) => running.compared(status.success(), "exit status 0", said(status)),
        Ok(None) => running.compared(
            false,
            "exit status 0",
            format!("no end within {} s", check.timeout.as_secs()),
        ),
        Err(e) => running.could_not_run(&e),
    }
}

fn said(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "no exit status".to_owned(),
    }
}

/// The program's bytes where it is a file, and the words it is called with.
fn digest(command: &[String]) -> Sha256Digest {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let mut bytes = std::fs::read(program).unwrap_or_else(|_| program.as_bytes().to_vec());
    for word in command.iter().skip(1) {
        bytes.push(0);
        bytes.extend_from_slice(word.as_bytes());
    }
    Sha256Digest::of(&bytes)
}

/// A program that may do anything to the server proves nothing about the role
/// that the application has.
async fn refuse_superuser(server: &PrivateServer, role: &str) -> anyhow::Result<()> {
    let client = server.connect("postgres").await?;
    let row = client
        .query_opt(
            "SELECT rolsuper, rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = $1",
            &[&role],
        )
        .await?;
    match row.map(|r| (r.get::<_, bool>(0), r.get::<_, bool>(1))) {
        None => anyhow::bail!("the copy has no role {role}"),
        Some((true, _)) => anyhow::bail!("{role} is a superuser: name the role that the application uses"),
        Some((_, false)) => anyhow::bail!("{role} may not log in"),
        Some((false, true)) => Ok(()),
    }
}

/// How the program ended; `None` when its time was over.
async fn outcome(given: &Given<'_>, check: &ProgramCheck) -> anyhow::Result<Option<ExitStatus>> {
    let (program, arguments) = check
        .command
        .split_first()
        .ok_or_else(|| anyhow::anyhow!("no program is named"))?;
    let work = given.space.join("programs").join(&check.id);
    std::fs::create_dir_all(&work)?;
    let printed = work.join("output");
    let output = File::create(&printed)?;
    let mut command = given.isolation.command(program);
    command
        .args(arguments)
        .current_dir(&work)
        .env_clear()
        .envs(environment(given, check, &work))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let limit = check.timeout;
    // The kernel kills the program when the thread that started it ends: this
    // thread stays until it is over.
    let waited = tokio::task::spawn_blocking(move || -> std::io::Result<Option<ExitStatus>> {
        let mut child = command.spawn()?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    });
    let status = waited.await??;
    if !status.is_some_and(|s| s.success()) {
        let text = std::fs::read(&printed).unwrap_or_default();
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL)..]).into_owned();
        tracing::error!(check = %check.id, output = %tail, "a program did not pass");
    }
    Ok(status)
}

fn environment(given: &Given<'_>, check: &ProgramCheck, work: &Path) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let mut all = vec![
        ("PATH".to_owned(), path),
        ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
        ("HOME".to_owned(), work.display().to_string()),
        (
            "PGHOST".to_owned(),
            given.server.socket_directory().display().to_string(),
        ),
        ("PGPORT".to_owned(), PrivateServer::port().to_string()),
        ("PGUSER".to_owned(), check.role.clone()),
    ];
    for (name, directory) in &given.filestores {
        let name: String = name
            .as_str()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        all.push((
            format!("HOLDFAST_FILESTORE_{name}"),
            directory.display().to_string(),
        ));
    }
    all
}
