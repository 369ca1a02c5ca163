//! Measures a coordinator under the heartbeats of a whole fleet.
//!
//! `holdfast-fleet PROGRAM DIRECTORY CLUSTERS [SECONDS] [--write FILE]` makes a fleet in
//! the directory, runs the coordinator on the first processor and its agents, each over a
//! connection of its own, on the second, and prints what it measured. The program is
//! `holdfast`, or `holdfast-coordinate`, which is built sooner.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use holdfast_tests::fleet::driving::{self, Answers, CONNECTIONS};
use holdfast_tests::fleet::report::{Process, length, metric, put_between, size, thousands};
use holdfast_tests::fleet::{Design, Fleet, Member};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where the coordinator listens for people.
const PEOPLE: u16 = 7580;
/// Between an agent's heartbeats.
const EVERY: Duration = Duration::from_secs(5);
/// Agents that connect in a second.
const CONNECTS: u32 = 400;
/// Agents that call without a pause, and for how long.
const RUSH: (usize, Duration) = (64, Duration::from_secs(10));
/// How often each page is asked for.
const READINGS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [program, directory, clusters, rest @ ..] = arguments else {
        bail!("usage: holdfast-fleet PROGRAM DIRECTORY CLUSTERS [SECONDS] [--write FILE]");
    };
    let clusters: usize = clusters.parse().context("CLUSTERS is a number")?;
    let seconds = rest.first().filter(|word| *word != "--write");
    let seconds = seconds
        .map_or(Ok(60), |word| word.parse())
        .context("SECONDS is a number")?;
    let page = rest
        .iter()
        .skip_while(|word| *word != "--write")
        .nth(1)
        .map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let table = runtime.block_on(measure(
        Path::new(program),
        Path::new(directory),
        clusters,
        Duration::from_secs(seconds),
    ))?;
    print!("{table}");
    match page {
        Some(page) => put_between(&page, "fleet", &table),
        None => Ok(()),
    }
}

/// The coordinator, which ends with this process.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(program: &Path, fleet: &Fleet) -> Result<Self> {
        let log = std::fs::File::create(fleet.directory.join("coordinator.log"))?;
        let alone = program.ends_with("holdfast-coordinate");
        let words: &[&str] = match alone {
            true => &[],
            false => &["--log", "warn", "coordinator", "run", "--config"],
        };
        let child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(program)
            .args(words)
            .arg(&fleet.configs[0])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the coordinator cannot be started")?;
        Ok(Self(child))
    }

    fn look(&self) -> Result<Process> {
        Process::look(self.0.id())
    }
}

/// What a path answers, how large it is, and how long that took.
async fn get(path: &str) -> Result<(u16, String, Duration)> {
    let begun = Instant::now();
    let tcp = TcpStream::connect(("127.0.0.1", PEOPLE)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", "localhost")
        .body(Full::<Bytes>::default())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?, begun.elapsed()))
}

async fn ready(begun: Instant) -> Result<Duration> {
    while begun.elapsed() < Duration::from_secs(60) {
        if matches!(get("/healthz").await, Ok((200, ..))) {
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("the coordinator does not become ready: see coordinator.log")
}

async fn measure(program: &Path, directory: &Path, clusters: usize, lasts: Duration) -> Result<String> {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)?;
    let begun = Instant::now();
    let design = Design {
        clusters,
        policy: None,
        ports: vec![(driving::PORT, PEOPLE)],
        stored: true,
        settings: String::new(),
    };
    let fleet = Fleet::furnish(directory, &design).await?;
    eprintln!("the fleet is made, {}", length(begun.elapsed()));
    pin_to_second()?;
    let begun = Instant::now();
    let running = Running::start(program, &fleet)?;
    let start = ready(begun).await?;
    let idle = running.look()?;
    let agents = driving::agents(&fleet)?;
    let (agents, connected) = driving::connect(agents, CONNECTS).await;
    say("connected", &connected);
    let (agents, _) = driving::beat(agents, EVERY, 2 * EVERY).await;
    let (made, before) = (
        CONNECTIONS.load(std::sync::atomic::Ordering::Relaxed),
        running.look()?,
    );
    let (agents, steady) = driving::beat(agents, EVERY, lasts).await;
    say("steady", &steady);
    let after = running.look()?;
    let anew = CONNECTIONS.load(std::sync::atomic::Ordering::Relaxed) - made;
    let busy = after.cpu.saturating_sub(before.cpu).as_secs_f64() / steady.lasted.as_secs_f64();
    // Read while the agents go on calling.
    let reading = tokio::spawn(read());
    let (agents, _) = driving::beat(agents, EVERY, 2 * EVERY).await;
    let pages = reading.await??;
    let (agents, rush) = driving::rush(agents, RUSH.0, RUSH.1).await;
    say("rush", &rush);
    drop(agents);
    let end = running.look()?;

    let mut text = String::new();
    let mut row =
        |what: &str, value: String| writeln!(text, "| {what} | {value} |").expect("a string takes text");
    row(
        "agents, each with a connection and a certificate of its own",
        thousands(clusters as u64),
    );
    row("start until ready", length(start));
    row(
        "heartbeats a second, asked for",
        format!("{:.0}", clusters as f64 / EVERY.as_secs_f64()),
    );
    row("heartbeats a second, answered", format!("{:.0}", steady.rate()));
    row(
        "not answered, connections lost meanwhile",
        format!("{}, {anew}", steady.failed.0),
    );
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
        row(&format!("answered in, {name}"), length(steady.quantile(part)));
    }
    row(
        "of the one core, all loops and heartbeats",
        format!("{:.0} %", busy * 100.0),
    );
    row("memory before the first agent", size(idle.resident));
    row(
        "memory under load, and the most until the end",
        format!("{}, {}", size(after.resident), size(end.most)),
    );
    row(
        &format!("heartbeats a second at most, {} agents without a pause", RUSH.0),
        format!("{:.0}, p99 {}", rush.rate(), length(rush.quantile(0.99))),
    );
    for (path, bytes, took) in &pages.read {
        row(
            &format!("`{path}` under load"),
            format!("{}, {}", length(*took), size(*bytes as u64)),
        );
    }
    for (name, seconds) in &pages.runs {
        row(
            &format!("loop `{name}`, one run"),
            length(Duration::from_secs_f64(*seconds)),
        );
    }
    for answers in [&connected, &steady, &rush] {
        if let Some(why) = &answers.failed.1 {
            eprintln!("{} calls failed, the first: {why}", answers.failed.0);
        }
    }
    Ok(format!(
        "| {} | |\n|---|--:|\n{text}",
        machine(program, &fleet.members)
    ))
}

fn say(what: &str, answers: &Answers) {
    eprintln!(
        "{what}: {} answered, {} failed, {:.0} a second, p50 {}, p99 {}, most {}",
        answers.took.len(),
        answers.failed.0,
        answers.rate(),
        length(answers.quantile(0.5)),
        length(answers.quantile(0.99)),
        length(answers.quantile(1.0)),
    );
}

struct Pages {
    /// Path, size, the median of a few readings.
    read: Vec<(&'static str, usize, Duration)>,
    /// Loops, and how long their last run took.
    runs: Vec<(String, f64)>,
}

async fn read() -> Result<Pages> {
    let mut pages = Pages {
        read: Vec::new(),
        runs: Vec::new(),
    };
    for path in ["/", "/v1/status", "/metrics"] {
        let mut took = Vec::new();
        let mut size = 0;
        for _ in 0..READINGS {
            let (status, body, length) = get(path).await?;
            if status != 200 {
                bail!("{path} answers {status}: {body}");
            }
            if path == "/metrics" {
                pages.runs = metric(&body, "holdfast_loop_last_seconds", "name");
            }
            size = body.len();
            took.push(length);
        }
        took.sort_unstable();
        pages.read.push((path, size, took[READINGS / 2]));
    }
    pages.runs.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(pages)
}

/// This process and what it starts later keep to the second processor; the coordinator
/// is put on the first when it starts.
fn pin_to_second() -> Result<()> {
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-a", "-c", "-p", "1", &pid])
        .output()?;
    if !pinned.status.success() {
        bail!("taskset cannot keep this process to processor 1: two are needed");
    }
    Ok(())
}

fn machine(program: &Path, members: &[Member]) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let built = if program.components().any(|part| part.as_os_str() == "release") {
        "release build"
    } else {
        "development build"
    };
    format!(
        "{model}, one core; {} clusters; {built}",
        thousands(members.len() as u64)
    )
}
