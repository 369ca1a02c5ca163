//! The agent as a synchronous standby: when commits wait for it, and when it refuses to
//! be waited for. That nothing is lost is shown on the program itself, which is killed.

use anyhow::{Context, Result};
use holdfast_tests::line::{Line, NEVER, QUICK, position};
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres, wait_until};
use holdfast_tests::vault::Vault;

/// What a commit waits for is sent at once, however long the tier lets WAL wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_does_not_wait_for_the_tips_interval() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let mut line = Line::start(&vault, &pg, 2, NEVER).await?;
    line.until("it streams", |state| state.connected).await?;
    pg.psql("create table t (n int)")?;
    let (_, lsn) = position(&pg)?;
    // The name is given while it streams.
    pg.psql("alter system set synchronous_standby_names = 'holdfast'")?;
    pg.psql("select pg_reload_conf()")?;
    let conninfo = pg.conninfo("postgres");
    let commit = async move {
        let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute("insert into t values (1)").await
    };
    tokio::time::timeout(PATIENCE, commit)
        .await
        .context("the commit waits")??;
    let safe = line.frontier.current().context("a state")?.acknowledged;
    assert!(safe > lsn, "{safe} {lsn}");
    line.stop().await
}

/// With `remote_apply` a commit means that a standby shows it. An archive shows
/// nothing, so it does not stand in for one; WAL is stored all the same.
#[tokio::test(flavor = "multi_thread")]
async fn remote_apply_is_refused_with_an_explanation() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .set("synchronous_standby_names", "ANY 1 (holdfast, other)")
        .set("synchronous_commit", "remote_apply");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let mut line = Line::start(&vault, &pg, 2, QUICK).await?;
    line.until("it streams", |state| state.connected).await?;
    let said = line.until_finding("remote-apply-refused").await?;
    assert!(said.contains("synchronous_commit"), "{said}");
    let standing =
        "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum', 'potential')";
    assert_eq!(pg.psql(standing)?, "0");
    pg.psql("set synchronous_commit = local; create table t (n int)")
        .context("a commit that waits for nobody")?;
    line.until_safe(&pg).await?;

    // Put right, it stands in again by itself, and commits end.
    let set = |to: &str| {
        pg.psql(&format!("alter system set synchronous_commit = '{to}'"))?;
        pg.psql("select pg_reload_conf()")
    };
    set("on")?;
    wait_until("it stands in", || Ok(pg.psql(standing)? == "1"))?;
    pg.psql("insert into t values (1)")
        .context("a commit that waits for it")?;
    assert!(!line.findings.holds("remote-apply-refused", "acme/erp"));
    // Changed again while it streams, it steps back by itself.
    set("remote_apply")?;
    wait_until("it stands back", || Ok(pg.psql(standing)? == "0"))?;
    line.until_finding("remote-apply-refused").await?;

    // A name of its own does not help where every name is waited for.
    pg.psql("alter system set synchronous_standby_names = '*'")?;
    pg.psql("select pg_reload_conf()")?;
    wait_until("it says so", || {
        let said = line.findings.snapshot();
        Ok(said.iter().any(|f| f.detail.contains("confirms nothing")))
    })?;
    wait_until("it streams", || {
        Ok(pg.psql("select count(*) from pg_stat_replication")? == "1")
    })?;
    assert_eq!(pg.psql(standing)?, "0");
    pg.psql("set synchronous_commit = local; insert into t values (2)")?;
    let (_, lsn) = position(&pg)?;
    line.until("it is stored all the same", |state| state.acknowledged >= lsn)
        .await?;
    assert_eq!(pg.psql(standing)?, "0");
    line.stop().await
}
