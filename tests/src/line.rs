//! One WAL line against a real server, and what the repository then holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::findings::Findings;
use holdfast_agent::postgres::{PgTarget, SlotName};
use holdfast_agent::state::Record;
use holdfast_agent::wal::push::{Feed, Push, PushError, Pushing, Taken};
use holdfast_agent::wal::{self, LineDirectives, Valve, WalContext, WalError, WalFrontier, WalState};
use holdfast_proto::names::{Lineage, SystemId};
use holdfast_proto::pg::{Lsn, SegmentName, SegmentSize, TimelineId};
use holdfast_proto::record::{AfterGap, WalBody};
use holdfast_repository::Repository;
use holdfast_repository::layout::{self, Located, WalName};
use holdfast_repository::pack::open_frame;
use holdfast_repository::publisher::Publisher;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::postgres::{PATIENCE, TestPostgres};
use crate::vault::Vault;

/// One running line and what it is told and says.
pub struct Line {
    /// How far it is.
    pub frontier: WalFrontier,
    /// What it complains of.
    pub findings: Findings,
    /// Ends it.
    pub cancel: CancellationToken,
    /// Itself.
    pub task: JoinHandle<Result<(), WalError>>,
    _directives: watch::Sender<LineDirectives>,
}

/// A tip interval that passes at once.
pub const QUICK: Duration = Duration::from_millis(100);

/// A tip interval that never passes: only those who wait get the tip.
pub const NEVER: Duration = Duration::from_secs(3600);

/// The first generation of a server's lineage.
pub fn lineage(pg: &TestPostgres) -> Result<Lineage> {
    let system = pg
        .psql("select system_identifier from pg_control_system()")?
        .parse()?;
    Ok(Lineage {
        system,
        generation: 1,
    })
}

/// How an agent connects to it, as its superuser.
pub fn target(pg: &TestPostgres) -> Result<PgTarget> {
    Ok(format!(
        "host={} port={} user=postgres dbname=postgres",
        pg.socket_dir().display(),
        pg.port()
    )
    .parse()?)
}

impl Line {
    /// Starts a line without a lease on the first generation.
    pub async fn start(
        vault: &Vault,
        pg: &TestPostgres,
        copies: usize,
        tip_interval: Duration,
    ) -> Result<Self> {
        Self::start_as(vault, pg, copies, tip_interval, None, lineage(pg)?).await
    }

    /// Starts a line that holds this lease.
    pub async fn start_as(
        vault: &Vault,
        pg: &TestPostgres,
        copies: usize,
        tip_interval: Duration,
        lease: Option<u64>,
        lineage: Lineage,
    ) -> Result<Self> {
        let mut publisher = vault.publisher(copies);
        publisher.lease = lease;
        Self::start_with(vault, pg, publisher, tip_interval, lineage, Valve::default()).await
    }

    /// Starts a line in this publisher's name.
    pub async fn start_with(
        vault: &Vault,
        pg: &TestPostgres,
        publisher: Publisher,
        tip_interval: Duration,
        lineage: Lineage,
        valve: Valve,
    ) -> Result<Self> {
        Self::start_taking(vault, pg, publisher, tip_interval, lineage, valve, None).await
    }

    /// Starts a line that takes what is pushed: beside its stream, or nothing else.
    pub async fn start_pushed(
        vault: &Vault,
        pg: &TestPostgres,
        copies: usize,
        feed: Feed,
    ) -> Result<(Self, Pushes)> {
        let (sender, incoming) = mpsc::channel(4);
        let pushing = Pushing {
            feed,
            index_key: vault.index_key().await?.key,
            trust: vault.trust().await?.into(),
            incoming,
        };
        let (publisher, lineage) = (vault.publisher(copies), lineage(pg)?);
        let valve = Valve::default();
        let line = Self::start_taking(vault, pg, publisher, QUICK, lineage, valve, Some(pushing)).await?;
        Ok((line, Pushes(sender, lineage.system)))
    }

    async fn start_taking(
        vault: &Vault,
        pg: &TestPostgres,
        publisher: Publisher,
        tip_interval: Duration,
        lineage: Lineage,
        valve: Valve,
        pushing: Option<Pushing>,
    ) -> Result<Self> {
        let directives = LineDirectives {
            tip_interval,
            copies: publisher.copies,
            attest_interval: QUICK * 2,
        };
        let (directives, told) = watch::channel(directives);
        let (_, keys) = watch::channel(vault.data_key().await?);
        let (says, frontier) = wal::frontier();
        let (findings, cancel) = (Findings::default(), CancellationToken::new());
        let context = WalContext {
            publisher,
            keys,
            target: target(pg)?,
            slot: "holdfast".parse::<SlotName>()?,
            valve,
            lineage,
            following: Arc::default(),
            unheld: Record::at(vault.dir().join("unheld.json")),
            uncompared: Record::at(vault.dir().join("uncompared.json")),
            index_key: vault.index_key().await?.key,
            pushing,
            directives: told,
            frontier: says,
            findings: findings.clone(),
            cancel: cancel.clone(),
        };
        let task = tokio::spawn(wal::run(context));
        Ok(Self {
            frontier,
            findings,
            cancel,
            task,
            _directives: directives,
        })
    }

    /// Waits until the state is as `condition` wants it.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&WalState) -> bool) -> Result<WalState> {
        let reached = async {
            loop {
                if let Some(state) = self.frontier.current().filter(&condition) {
                    return Ok::<_, anyhow::Error>(state);
                }
                self.frontier.changed().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(state) => state,
            Err(_) => bail!(
                "waited in vain until {what}: {:?}, {:?}",
                self.frontier.current(),
                self.findings.snapshot()
            ),
        }
    }

    /// Waits until all that the server has flushed now is acknowledged.
    pub async fn until_safe(&self, pg: &TestPostgres) -> Result<WalState> {
        let (timeline, lsn) = position(pg)?;
        let state = self.frontier.until_acknowledged(timeline, lsn, PATIENCE).await;
        state.with_context(|| format!("{:?}", self.findings.snapshot()))
    }

    /// Waits for a finding, and returns what it says.
    pub async fn until_finding(&self, name: &str) -> Result<String> {
        let found = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            loop {
                looks.tick().await;
                if let Some(finding) = self.findings.snapshot().into_iter().find(|f| f.name == name) {
                    return finding.detail;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.with_context(|| format!("no finding {name}, but {:?}", self.findings.snapshot()))
    }

    /// Stops it cleanly.
    pub async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        Ok(tokio::time::timeout(PATIENCE, self.task).await???)
    }

    /// As kill -9: the tasks are gone at their next await.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Hands files to a line as `holdfast wal push` does.
pub struct Pushes(mpsc::Sender<Push>, SystemId);

impl Pushes {
    /// Hands over a file that comes from the line's own cluster.
    pub async fn push(&self, path: &Path) -> Result<Result<Taken, PushError>> {
        self.push_of(path, Some(self.1)).await
    }

    /// Hands over a file that comes from the data directory of `system`.
    pub async fn push_of(&self, path: &Path, system: Option<SystemId>) -> Result<Result<Taken, PushError>> {
        let name = path.file_name().context("a file's name")?.to_string_lossy();
        let (answer, taken) = oneshot::channel();
        let push = Push {
            kind: name.parse()?,
            name: name.into_owned(),
            file: std::fs::File::open(path)?,
            system,
            answer,
        };
        self.0.send(push).await?;
        Ok(tokio::time::timeout(PATIENCE, taken).await??)
    }
}

/// The server's timeline and what it has flushed.
pub fn position(pg: &TestPostgres) -> Result<(TimelineId, Lsn)> {
    let line = pg.psql("select timeline_id, pg_current_wal_flush_lsn() from pg_control_checkpoint()")?;
    let (timeline, lsn) = line.split_once('|').context("two columns")?;
    Ok((
        TimelineId::new(timeline.parse()?).context("timeline 0")?,
        lsn.parse()?,
    ))
}

/// The size of its segments.
pub fn segment_size(pg: &TestPostgres) -> Result<SegmentSize> {
    let bytes: u64 = pg
        .psql("select setting from pg_settings where name = 'wal_segment_size'")?
        .parse()?;
    Ok(SegmentSize::new(bytes)?)
}

/// Writes rows into a table.
pub fn write_rows(pg: &TestPostgres, rows: u32) -> Result<()> {
    pg.psql("create table if not exists t (n int, filler text)")?;
    pg.psql(&format!(
        "insert into t select n, repeat(md5(n::text), 8) from generate_series(1, {rows}) n"
    ))?;
    Ok(())
}

/// Writes so much that does not compress.
pub fn write_noise(pg: &TestPostgres, megabytes: u32) -> Result<()> {
    pg.psql("create table if not exists noise (b bytea); alter table noise alter b set storage plain")?;
    pg.psql(&format!(
        "insert into noise select decode(string_agg(md5((n * 64 + m)::text), ''), 'hex') \
         from generate_series(1, {megabytes} * 1000) n, generate_series(1, 64) m group by n"
    ))?;
    Ok(())
}

/// The WAL of one timeline as the repository holds it: bytes from `start`.
pub struct Stored {
    /// The first position.
    pub start: Lsn,
    /// The WAL.
    pub bytes: Vec<u8>,
    /// Its objects.
    pub names: Vec<WalName>,
}

/// The names of the WAL objects of a lineage.
pub async fn names(repository: &Repository, vault: &Vault, lineage: Lineage) -> Result<Vec<WalName>> {
    let listing = repository.list(&layout::wal_of(&vault.cluster, lineage)).await?;
    let names = listing
        .objects
        .keys()
        .filter_map(|key| match layout::parse(key.as_str())? {
            Located::Wal { name, .. } => Some(name),
            _ => None,
        });
    Ok(names.collect())
}

/// What was said of holes in the WAL of a lineage, by who went on behind them.
pub async fn gaps_said(vault: &Vault, lineage: Lineage) -> Result<Vec<(Lsn, AfterGap)>> {
    let mut said = Vec::new();
    for name in names(&vault.repository, vault, lineage).await? {
        let object = vault
            .signed::<WalBody>(&layout::wal(&vault.cluster, lineage, &name))
            .await?;
        said.extend(object.header.body.after_gap.map(|gap| (name.start, gap)));
    }
    Ok(said)
}

/// Opens every object of a timeline and lays the WAL out; holes and
/// contradictions are errors.
pub async fn stored(
    repository: &Repository,
    vault: &Vault,
    lineage: Lineage,
    timeline: TimelineId,
) -> Result<Stored> {
    let (trust, keyring) = (vault.trust().await?, vault.keyring().await?);
    let mut names = names(repository, vault, lineage).await?;
    names.retain(|name| name.timeline == timeline);
    names.sort_by_key(|name| name.start);
    let start = names.first().context("no WAL is stored")?.start;
    let mut bytes: Vec<u8> = Vec::new();
    for name in &names {
        let key = layout::wal(&vault.cluster, lineage, name);
        let (signed, _) = repository.read_signed::<WalBody>(&key, &trust).await?;
        let body = signed.body();
        ensure!(
            (body.start, body.end) == (name.start, name.end),
            "{key} says otherwise"
        );
        ensure!(
            body.last_commit.map(|c| c.time) == name.latest_commit,
            "{key} has another commit"
        );
        let (mut raw, mut rest) = (Vec::new(), &signed.payload[..]);
        for chunk in &body.chunks {
            let (sealed, after) = rest.split_at(usize::try_from(chunk.size)?);
            raw.extend(open_frame(&keyring, &chunk.sealed_to, sealed, 64 << 20)?);
            rest = after;
        }
        ensure!(
            name.end.bytes_since(name.start) == Some(raw.len() as u64),
            "{key} has {} bytes",
            raw.len()
        );
        let at = usize::try_from(name.start.bytes_since(start).context("sorted")?)?;
        ensure!(at <= bytes.len(), "a hole before {}", name.start);
        let overlap = (bytes.len() - at).min(raw.len());
        ensure!(
            bytes[at..at + overlap] == raw[..overlap],
            "{key} overlaps with other bytes"
        );
        bytes.extend_from_slice(&raw[overlap..]);
    }
    Ok(Stored { start, bytes, names })
}

/// Compares what is stored with the files in `pg_wal` that still are there.
pub fn compare(stored: &Stored, timeline: TimelineId, size: SegmentSize, pg_wal: &Path) -> Result<u64> {
    let end = Lsn::new(stored.start.get() + stored.bytes.len() as u64);
    let mut compared = 0;
    let mut segment = size.segment_of(stored.start);
    while size.start_of(segment) < end {
        let name = SegmentName::new(timeline, segment, size).to_string();
        if let Ok(file) = std::fs::read(pg_wal.join(&name)) {
            let from = size.start_of(segment).max(stored.start);
            let to = size.end_of(segment).min(end);
            let here = &stored.bytes[(from.get() - stored.start.get()) as usize..]
                [..(to.get() - from.get()) as usize];
            let there = &file[size.offset_of(from) as usize..][..here.len()];
            ensure!(here == there, "segment {name} differs");
            compared += here.len() as u64;
        }
        segment = segment.next();
    }
    Ok(compared)
}

/// Every region holds the server's WAL up to `end` at least.
pub async fn check_regions(vault: &Vault, pg: &TestPostgres, regions: &[usize], end: Lsn) -> Result<()> {
    let (timeline, _) = position(pg)?;
    let (size, lineage) = (segment_size(pg)?, lineage(pg)?);
    for region in regions {
        let stored = stored(&vault.only(*region).await?, vault, lineage, timeline).await?;
        let reach = stored.start.get() + stored.bytes.len() as u64;
        ensure!(reach >= end.get(), "region {region} reaches {reach:X} of {end}");
        let compared = compare(&stored, timeline, size, &pg.data_dir().join("pg_wal"))?;
        ensure!(compared > 0, "nothing was left to compare");
    }
    Ok(())
}
