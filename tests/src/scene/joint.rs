//! A filestore beside the server, and fences over both.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_agent::config::{AdapterKind, FilestoreConfig};
use holdfast_agent::fence::{Fenced, Fencing, LastPoint};
use holdfast_agent::filestore::{Asked, Filestore, Writing};
use holdfast_agent::findings::Findings;
use holdfast_agent::postgres::sql_connect;
use holdfast_agent::progress::Meter;
use holdfast_agent::restore::closure::Reference;
use holdfast_repository::publisher::Publisher;

use super::Scene;
use crate::postgres::TestPostgres;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

impl Scene {
    /// Where the protected filestore lies.
    pub fn files(&self) -> PathBuf {
        self.vault.dir().join("filestore")
    }

    /// The filestore of [`Scene::files`], as an agent of Odoo knows it.
    pub fn filestore(&self) -> Result<Filestore> {
        std::fs::create_dir_all(self.files())?;
        let config = FilestoreConfig {
            name: "files".parse()?,
            path: self.files(),
            adapter: AdapterKind::Odoo,
            database: None,
            collector_delay: Some(LONG),
            full_sweep: LONG,
        };
        let state = self.vault.dir().join("filestore-state");
        Ok(Filestore::new(
            config,
            state,
            2,
            Findings::default(),
            Meter::default(),
        ))
    }

    /// Adds a file to the filestore as Odoo does, and returns its name.
    pub fn add_file(&self, content: &[u8]) -> Result<String> {
        let sha1 = sha1::Sha1::from(content).digest().to_string();
        let name = format!("{}/{sha1}", &sha1[..2]);
        let path = self.files().join(&name);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        std::fs::write(path, content)?;
        Ok(name)
    }

    /// Adds a file, and then the row that references it.
    pub fn attach(&self, content: &[u8]) -> Result<String> {
        let name = self.add_file(content)?;
        let sha1 = name.rsplit('/').next().context("a name")?;
        self.sql(&format!(
            "insert into ir_attachment values ('{name}', '{sha1}', {})",
            content.len()
        ))?;
        Ok(name)
    }

    /// With what the agent writes filestores, through `publisher`.
    pub async fn writing(&self, publisher: &Publisher) -> Result<Writing> {
        let key = self.vault.data_key().await?;
        let index_key = self.vault.index_key().await?;
        Ok(Writing {
            publisher: publisher.clone(),
            trust: Arc::new(self.vault.trust().await?),
            needs: vec![key.object, index_key.object],
            key: key.key,
            index_key: Arc::new(index_key.key),
        })
    }

    /// Takes a fence over `filestore`.
    pub async fn fence(&self, filestore: &mut Filestore, last: Option<&LastPoint>) -> Result<LastPoint> {
        let writing = self.writing(&self.vault.publisher(2)).await?;
        self.fence_by(&writing, filestore, last).await
    }

    /// Takes a fence over `filestore`, written as `writing` says.
    pub async fn fence_by(
        &self,
        writing: &Writing,
        filestore: &mut Filestore,
        last: Option<&LastPoint>,
    ) -> Result<LastPoint> {
        let line = self.line.as_ref().context("the server is not protected")?;
        let client = sql_connect(&self.pg.conninfo("postgres").parse()?).await?;
        let fencing = Fencing {
            writing,
            lineage: self.lineage,
            client: &client,
            frontier: &line.frontier,
            findings: &line.findings,
            config: None,
            references: None,
        };
        let asked = Asked {
            sweep: true,
            checkpoint: false,
        };
        // A file that was written within the clock's margin is not proven yet: the
        // next fence tries again, as the agent does.
        let taken = tokio::time::timeout(crate::postgres::PATIENCE, async {
            let mut again = tokio::time::interval(Duration::from_millis(100));
            loop {
                again.tick().await;
                match fencing.take(std::slice::from_mut(filestore), last, asked).await? {
                    Fenced::Point(point) => return anyhow::Ok(*point),
                    Fenced::Unproven(_) => {}
                    Fenced::Idle => bail!("nothing happened since the last fence"),
                }
            }
        });
        taken
            .await
            .with_context(|| format!("no point: {:?}", line.findings.snapshot()))?
    }
}

/// What the rows of `ir_attachment` reference.
pub fn references(pg: &TestPostgres) -> Result<Vec<Reference>> {
    let rows = pg.psql("select store_fname, checksum, file_size from ir_attachment")?;
    rows.lines()
        .map(|row| {
            let mut columns = row.split('|');
            let mut next = || columns.next().map(str::to_owned).context("a column");
            Ok(Reference {
                name: next()?,
                sha1: Some(next()?),
                size: Some(next()?.parse()?),
            })
        })
        .collect()
}
