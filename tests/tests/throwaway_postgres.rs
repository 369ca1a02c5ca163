//! The throwaway server itself: starts, crashes, recovers, follows, promotes.

use anyhow::Result;
use holdfast_tests::postgres::{Options, StopMode, TestPostgres};

#[test]
fn survives_a_crash_and_a_restart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut pg = TestPostgres::start(dir.path(), Options::default().set("work_mem", "1MB").tcp())?;
    assert_eq!(pg.psql("show data_checksums; show work_mem")?, "on\n1MB");
    pg.psql("create table t as select generate_series(1, 1000) n")?;
    let error = pg
        .psql("select * from missing")
        .expect_err("the table does not exist")
        .to_string();
    assert!(error.contains("missing"), "{error}");
    pg.kill9()?;
    assert_eq!(pg.pid(), None);
    pg.start_again()?;
    assert!(pg.log().contains("automatic recovery in progress"));
    pg.restart(StopMode::Fast)?;
    assert_eq!(pg.psql("select count(*) from t")?, "1000");
    Ok(())
}

#[test]
fn a_standby_follows_and_is_promoted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let primary = TestPostgres::start(&dir.path().join("a"), Options::default())?;
    let standby = primary.standby(&dir.path().join("b"))?;
    assert_eq!(standby.psql("select pg_is_in_recovery()")?, "t");
    standby.promote()?;
    standby.psql("create table t (n int)")?;
    Ok(())
}

#[test]
fn a_server_that_cannot_start_says_why() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let error = TestPostgres::start(dir.path(), Options::default().set("no_such_setting", "1"));
    assert!(format!("{:#}", error.expect_err("the setting is unknown")).contains("no_such_setting"));
    Ok(())
}
