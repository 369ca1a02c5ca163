//! Fences over a real server and a real folder: what a point claims, and when
//! none is signed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::config::{AdapterKind, FilestoreConfig};
use holdfast_agent::fence::{FenceError, Fenced, Fencing, LastPoint};
use holdfast_agent::filestore::{Asked, Filestore, Writing};
use holdfast_agent::findings::Findings;
use holdfast_agent::postgres::{SlotName, sql_connect};
use holdfast_agent::progress::Meter;
use holdfast_agent::state::Record;
use holdfast_agent::wal::{self, LineDirectives, Valve, WalContext, WalFrontier};
use holdfast_proto::names::Lineage;
use holdfast_proto::record::{JointClaim, PointBody};
use holdfast_tests::postgres::{Options, TestPostgres};
use holdfast_tests::vault::Vault;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

struct Stage {
    vault: Vault,
    pg: TestPostgres,
    lineage: Lineage,
    frontier: WalFrontier,
    findings: Findings,
    cancel: CancellationToken,
    _directives: watch::Sender<LineDirectives>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Stage {
    async fn new() -> Result<Self> {
        let vault = Vault::new(2).await?;
        let pg = TestPostgres::start(
            &vault.dir().join("source"),
            Options::default().initdb("--wal-segsize=1"),
        )?;
        let system = pg
            .psql("select system_identifier from pg_control_system()")?
            .parse()?;
        let lineage = Lineage {
            system,
            generation: 1,
        };
        let (publishing, frontier) = wal::frontier();
        let (directives, told) = watch::channel(LineDirectives {
            tip_interval: Duration::from_millis(50),
            copies: 2,
            attest_interval: HOUR,
        });
        let (findings, cancel) = (Findings::default(), CancellationToken::new());
        let context = WalContext {
            publisher: vault.publisher(2),
            keys: watch::channel(vault.data_key().await?).1,
            target: pg.conninfo("postgres").parse()?,
            slot: "holdfast".parse::<SlotName>()?,
            valve: Valve::default(),
            lineage,
            following: Arc::default(),
            unheld: Record::at(vault.dir().join("unheld.json")),
            uncompared: Record::at(vault.dir().join("uncompared.json")),
            index_key: vault.index_key().await?.key,
            pushing: None,
            directives: told,
            frontier: publishing,
            findings: findings.clone(),
            cancel: cancel.clone(),
        };
        tokio::spawn(wal::run(context));
        fs::create_dir(vault.dir().join("files"))?;
        Ok(Self {
            vault,
            pg,
            lineage,
            frontier,
            findings,
            cancel,
            _directives: directives,
        })
    }

    fn filestore(&self, adapter: AdapterKind, collector_delay: Option<Duration>) -> Result<Filestore> {
        let config = FilestoreConfig {
            name: "files".parse()?,
            path: self.vault.dir().join("files"),
            adapter,
            database: None,
            collector_delay,
            full_sweep: HOUR,
        };
        let state = self.vault.dir().join("state");
        Ok(Filestore::new(
            config,
            state,
            2,
            self.findings.clone(),
            Meter::default(),
        ))
    }

    fn attach(&self, content: &[u8]) -> Result<()> {
        let sha1 = sha1::Sha1::from(content).digest().to_string();
        self.write(&format!("{}/{sha1}", &sha1[..2]), content)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.vault.dir().join("files").join(name);
        fs::create_dir_all(path.parent().context("below the root")?)?;
        Ok(fs::write(path, content)?)
    }

    async fn fence(
        &self,
        pg: &TestPostgres,
        filestore: &mut Filestore,
        last: Option<&LastPoint>,
    ) -> Result<Fenced, FenceError> {
        let (key, index_key) = (self.vault.data_key().await, self.vault.index_key().await);
        let (key, index_key) = (key.expect("a key"), index_key.expect("an index key"));
        let writing = Writing {
            publisher: self.vault.publisher(2),
            trust: Arc::new(self.vault.trust().await.expect("the chain is sound")),
            needs: vec![key.object, index_key.object],
            key: key.key,
            index_key: Arc::new(index_key.key),
        };
        let target = pg.conninfo("postgres").parse().expect("a target");
        let client = sql_connect(&target).await.expect("the server runs");
        let fencing = Fencing {
            writing: &writing,
            lineage: self.lineage,
            client: &client,
            frontier: &self.frontier,
            findings: &self.findings,
            config: None,
            references: None,
        };
        fencing
            .take(std::slice::from_mut(filestore), last, Asked::default())
            .await
    }

    async fn point(
        &self,
        filestore: &mut Filestore,
        last: Option<&LastPoint>,
    ) -> Result<(LastPoint, PointBody)> {
        let Fenced::Point(point) = self.fence(&self.pg, filestore, last).await? else {
            anyhow::bail!("no point: {:?}", self.findings.snapshot())
        };
        let body = self.vault.signed::<PointBody>(&point.link.key).await?.header.body;
        Ok((*point, body))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_claims_what_the_collectors_delay_allows() -> Result<()> {
    let stage = Stage::new().await?;
    stage.attach(b"one")?;
    let mut patient = stage.filestore(AdapterKind::Odoo, Some(HOUR))?;
    let (first, body) = stage.point(&mut patient, None).await?;
    assert_eq!(
        body.filestores[0].claim,
        JointClaim::PointOnly,
        "nothing before it"
    );
    assert_eq!(body.complete_on.len(), 2);
    let named = stage.pg.psql("select count(*) from pg_ls_waldir()")?;
    assert!(!named.is_empty() && body.name == format!("holdfast-{}", first.id));

    stage.attach(b"two")?;
    let (second, body) = stage.point(&mut patient, Some(&first)).await?;
    assert_eq!(body.filestores[0].claim, JointClaim::SincePrevious);
    assert_eq!(body.filestores[0].n, 2);
    let signed = stage.vault.signed::<PointBody>(&second.link.key).await?;
    assert_eq!(signed.header.previous, Some(first.link), "points are chained");

    // A collector that waits for nothing, and one of which nothing is known.
    for delay in [Some(Duration::from_millis(1)), None] {
        drop(patient);
        patient = stage.filestore(AdapterKind::Odoo, delay)?;
        stage.attach(format!("three {delay:?}").as_bytes())?;
        let (_, body) = stage.point(&mut patient, Some(&second)).await?;
        assert_eq!(body.filestores[0].claim, JointClaim::PointOnly, "{delay:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_tree_is_labelled_per_file() -> Result<()> {
    let stage = Stage::new().await?;
    stage.write("report.txt", b"changed in place")?;
    let mut filestore = stage.filestore(AdapterKind::None, Some(HOUR))?;
    let (_, body) = stage.point(&mut filestore, None).await?;
    assert_eq!(body.filestores[0].claim, JointClaim::PerFile);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_point_is_signed_over_a_file_that_is_not_proven() -> Result<()> {
    let stage = Stage::new().await?;
    let content = b"what the name promises";
    let sha1 = sha1::Sha1::from(&content[..]).digest().to_string();
    let name = format!("{}/{sha1}", &sha1[..2]);
    stage.write(&name, b"what the na")?;
    let mut filestore = stage.filestore(AdapterKind::Odoo, Some(HOUR))?;
    let refused = stage.fence(&stage.pg, &mut filestore, None).await?;
    assert!(
        matches!(&refused, Fenced::Unproven(of) if of.len() == 1 && of[0].1 == 1),
        "{refused:?}"
    );
    assert!(stage.findings.holds("filestore-dirty", "files"));

    stage.write(&name, content)?;
    stage.point(&mut filestore, None).await?;
    assert!(!stage.findings.holds("filestore-dirty", "files"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_happened_means_nothing_is_written() -> Result<()> {
    let stage = Stage::new().await?;
    stage.attach(b"one")?;
    let mut filestore = stage.filestore(AdapterKind::Odoo, Some(HOUR))?;
    let (last, _) = stage.point(&mut filestore, None).await?;
    let before = stage.pg.psql("select pg_current_wal_insert_lsn()")?;
    assert!(matches!(
        stage.fence(&stage.pg, &mut filestore, Some(&last)).await?,
        Fenced::Idle
    ));
    assert_eq!(
        stage.pg.psql("select pg_current_wal_insert_lsn()")?,
        before,
        "the log does not grow"
    );
    // A file alone is reason enough.
    stage.attach(b"two")?;
    stage.point(&mut filestore, Some(&last)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_no_fence() -> Result<()> {
    let stage = Stage::new().await?;
    let standby = stage.pg.standby(&stage.vault.dir().join("standby"))?;
    let mut filestore = stage.filestore(AdapterKind::Odoo, Some(HOUR))?;
    let refused = stage.fence(&standby, &mut filestore, None).await;
    assert!(matches!(refused, Err(FenceError::Standby)), "{refused:?}");
    Ok(())
}
