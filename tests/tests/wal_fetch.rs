//! What `restore_command` is answered: the exit code is what PostgreSQL
//! believes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::restore::Pin;
use holdfast_plan::restore::{Request, Target};
use holdfast_proto::pg::{Lsn, SegmentName, TimelineId};
use holdfast_repository::layout;
use holdfast_repository::seal::Identity;
use holdfast_tests::postgres::{Options, TestPostgres, program, wait_until};
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

/// A restored directory's pin, and the segments that it covers.
struct Pinned {
    scene: Scene,
    pin_path: PathBuf,
    pin: Pin,
}

impl Pinned {
    async fn new() -> Result<Self> {
        let mut scene = Scene::start(PROGRAM, Options::default().set("wal_keep_size", "1GB")).await?;
        scene.sql("create table t (n int, x text)")?;
        scene.base().await?;
        for _ in 0..4 {
            scene.sql("insert into t select n, repeat('y', 300) from generate_series(1, 3000) n")?;
            scene.safe().await?;
        }
        let outcome = scene.restore(&Request::new(Target::Latest), "pinned").await?;
        scene.lose_source().await?;
        let pin = Pin::load(&outcome.pin).map_err(anyhow::Error::msg)?;
        Ok(Self {
            scene,
            pin_path: outcome.pin,
            pin,
        })
    }

    fn name(&self, lsn: Lsn) -> String {
        let size = self.pin.segment_size;
        SegmentName::new(TimelineId::FIRST, size.segment_of(lsn), size).to_string()
    }

    /// The segment `n` after the first.
    fn nth(&self, n: u64) -> String {
        self.name(Lsn::new(self.pin.from.get() + n * self.pin.segment_size.get()))
    }

    fn destination(&self) -> PathBuf {
        self.scene.vault.dir().join("fetched")
    }

    fn fetch_with(&self, name: &str, pin: &Path) -> Result<(i32, String)> {
        let _ = fs::remove_file(self.destination());
        let output = Command::new(PROGRAM)
            .args(["wal", "fetch", name])
            .arg(self.destination())
            .arg("--pin")
            .arg(pin)
            .output()?;
        let code = output.status.code().context("an exit code")?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn fetch(&self, name: &str) -> Result<(i32, String)> {
        self.fetch_with(name, &self.pin_path)
    }

    /// A pin without prefetching, so that nothing comes from elsewhere.
    fn plain(&self) -> Result<PathBuf> {
        let mut pin = self.pin.clone();
        pin.prefetch = 0;
        let dir = self.scene.vault.dir().join("plain");
        fs::create_dir_all(&dir)?;
        let path = dir.join("pin.json");
        pin.save(&path)?;
        Ok(path)
    }

    fn source(&self, name: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.scene.pg.data_dir().join("pg_wal").join(name))?)
    }

    /// The objects of a segment in a region, as files.
    fn objects(&self, region: usize, name: &str) -> Result<Vec<PathBuf>> {
        let name: SegmentName = name.parse()?;
        let segment = name.segment(self.pin.segment_size).context("a segment")?;
        let cluster = &self.scene.vault.cluster;
        let prefix = layout::wal_segment(cluster, self.scene.lineage(), name.timeline(), segment);
        let dir = self.scene.vault.place(region).join(prefix);
        Ok(fs::read_dir(dir)?
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<_, _>>()?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_the_servers_own_and_absence_is_proven() -> Result<()> {
    let pinned = Pinned::new().await?;
    let plain = pinned.plain()?;
    for n in 0..3 {
        let name = pinned.nth(n);
        assert_eq!(pinned.fetch_with(&name, &plain)?.0, 0);
        let got = fs::read(pinned.destination())?;
        assert!(got == pinned.source(&name)?, "{name} is the server's");
    }
    // The tip: the server's bytes up to the frontier, zeros behind.
    let last = pinned.name(Lsn::new(pinned.pin.frontier.get() - 1));
    assert_eq!(pinned.fetch_with(&last, &plain)?.0, 0);
    let got = fs::read(pinned.destination())?;
    let cut = usize::try_from(pinned.pin.segment_size.offset_of(pinned.pin.frontier))?;
    assert_eq!(got.len() as u64, pinned.pin.segment_size.get());
    assert!(cut > 0 && got[..cut] == pinned.source(&last)?[..cut] && got[cut..].iter().all(|b| *b == 0));

    let beyond = pinned.name(Lsn::new(
        pinned.pin.frontier.get() + pinned.pin.segment_size.get(),
    ));
    for absent in [beyond.as_str(), "00000002.history", "00000001.history"] {
        let (code, said) = pinned.fetch(absent)?;
        assert_eq!(code, 1, "{absent}: {said}");
        assert!(!pinned.destination().exists());
    }
    let misuse = Command::new(PROGRAM).args(["wal", "fetch"]).output()?;
    assert_eq!(misuse.status.code(), Some(126));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_else_happens_stops_postgres() -> Result<()> {
    let pinned = Pinned::new().await?;
    let plain = pinned.plain()?;
    let name = pinned.nth(1);
    let stops = |name: &str, pin: &Path| -> Result<String> {
        let (code, said) = pinned.fetch_with(name, pin)?;
        assert!(code >= 126, "{name}: {code} {said}");
        assert!(!pinned.destination().exists());
        Ok(said)
    };
    for odd in [
        "",
        "x",
        "000000010000000000000001.partial",
        "000000020000000000000001",
        "0000000100000000FFFFFFFF",
    ] {
        stops(odd, &plain)?;
    }
    stops(&name, Path::new("/nowhere/pin.json"))?;
    let broken = plain.with_file_name("broken.json");
    fs::write(&broken, "{")?;
    stops(&name, &broken)?;

    let changed = |change: &dyn Fn(&mut Pin)| -> Result<PathBuf> {
        let mut pin = pinned.pin.clone();
        pin.prefetch = 0;
        change(&mut pin);
        let path = plain.with_file_name("changed.json");
        pin.save(&path)?;
        Ok(path)
    };
    let stranger = plain.with_file_name("stranger.key");
    Identity::generate().save(&stranger)?;
    let said = stops(&name, &changed(&|pin| pin.identities = vec![stranger.clone()])?)?;
    assert!(said.contains("none of the identities given opens"), "{said}");
    stops(
        &name,
        &changed(&|pin| pin.identities = vec![PathBuf::from("/nowhere")])?,
    )?;
    let said = stops(
        &name,
        &changed(&|pin| pin.trust_root = holdfast_proto::Fingerprint::new([9; 32]))?,
    )?;
    assert!(said.contains("UNTRUSTED"), "{said}");
    stops(
        &name,
        &changed(&|pin| pin.repository_id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().expect("an id"))?,
    )?;

    // Damaged in one region: healed. In both: a failure, not an absence.
    let damage = |region: usize| -> Result<()> {
        for path in pinned.objects(region, &name)? {
            let mut bytes = fs::read(&path)?;
            bytes[20] ^= 1;
            fs::write(path, bytes)?;
        }
        Ok(())
    };
    damage(0)?;
    assert_eq!(pinned.fetch_with(&name, &plain)?.0, 0);
    assert!(fs::read_to_string(plain.with_file_name("findings.jsonl"))?.contains("healed"));
    damage(0)?;
    damage(1)?;
    stops(&name, &plain)?;

    // Missing in one region: served. In both: a hole.
    let other = pinned.nth(2);
    for path in pinned.objects(0, &other)? {
        fs::remove_file(path)?;
    }
    assert_eq!(pinned.fetch_with(&other, &plain)?.0, 0);
    fs::remove_file(&pinned.objects(1, &other)?[0])?;
    let said = stops(&other, &plain)?;
    assert!(said.contains("which the plan saw"), "{said}");

    // A region that is gone, then both.
    let first = pinned.nth(0);
    fs::rename(
        pinned.scene.vault.place(0),
        pinned.scene.vault.dir().join("gone0"),
    )?;
    assert_eq!(pinned.fetch_with(&first, &plain)?.0, 0);
    fs::rename(
        pinned.scene.vault.place(1),
        pinned.scene.vault.dir().join("gone1"),
    )?;
    stops(&first, &plain)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_ahead_is_checked_before_it_is_handed_over() -> Result<()> {
    let pinned = Pinned::new().await?;
    assert_eq!(pinned.fetch(&pinned.nth(0))?.0, 0);
    let ahead = pinned.pin_path.with_file_name("prefetch");
    let (second, third) = (ahead.join(pinned.nth(1)), ahead.join(pinned.nth(2)));
    wait_until("two segments were fetched ahead", || {
        Ok(second.exists() && third.exists())
    })?;
    let mut bytes = fs::read(&third)?;
    bytes[5000] ^= 1;
    fs::write(&third, bytes)?;
    for n in 1..3 {
        assert_eq!(pinned.fetch(&pinned.nth(n))?.0, 0);
        assert!(
            fs::read(pinned.destination())? == pinned.source(&pinned.nth(n))?,
            "segment {n}"
        );
    }
    // One that was on its way again while it was handed over goes with the next look.
    wait_until("what was handed over is not kept", || {
        Ok(!second.exists() && !third.exists())
    })
}

/// Where replay is slower than the store, what it asks for is there: with the store gone it
/// still is. Only what was not there yet has to wait for the store.
#[tokio::test(flavor = "multi_thread")]
async fn replay_that_is_slower_than_the_store_does_not_wait_for_it() -> Result<()> {
    let pinned = Pinned::new().await?;
    assert_eq!(pinned.fetch(&pinned.nth(0))?.0, 0);
    let ahead = pinned.pin_path.with_file_name("prefetch");
    let ready = |n: u64| ahead.join(pinned.nth(n)).exists();
    wait_until("three segments were fetched ahead", || Ok((1..=3).all(ready)))?;
    let place = |region: usize| pinned.scene.vault.place(region).to_owned();
    let away = |region: usize| pinned.scene.vault.dir().join(format!("away{region}"));
    for region in 0..2 {
        fs::rename(place(region), away(region))?;
    }
    for n in 1..=3 {
        if n == 2 {
            // One segment may take long to replay.
            tokio::time::sleep(Duration::from_secs(35)).await;
        }
        let (code, said) = pinned.fetch(&pinned.nth(n))?;
        assert_eq!(code, 0, "segment {n}: {said}");
        assert!(fs::read(pinned.destination())? == pinned.source(&pinned.nth(n))?);
    }
    let plain = pinned.plain()?;
    let (code, said) = pinned.fetch_with(&pinned.nth(0), &plain)?;
    assert!(code > 125, "the store is gone: {code} {said}");
    for region in 0..2 {
        fs::rename(away(region), place(region))?;
    }
    let last = pinned.name(Lsn::new(pinned.pin.frontier.get() - 1));
    let (code, said) = pinned.fetch(&last)?;
    assert_eq!(code, 0, "the store is back: {said}");
    Ok(())
}

/// pg_rewind reads old WAL with the same command, in a directory that does not recover:
/// one file after another, backwards, and nothing ahead.
#[tokio::test(flavor = "multi_thread")]
async fn outside_of_a_recovery_nothing_is_fetched_ahead() -> Result<()> {
    let pinned = Pinned::new().await?;
    let data = pinned
        .pin_path
        .parent()
        .and_then(Path::parent)
        .context("a data directory")?;
    fs::remove_file(data.join("recovery.signal"))?;
    for n in (0..3).rev() {
        assert_eq!(pinned.fetch(&pinned.nth(n))?.0, 0);
        assert!(fs::read(pinned.destination())? == pinned.source(&pinned.nth(n))?);
    }
    let ahead = pinned.pin_path.with_file_name("prefetch");
    let made: Vec<_> = fs::read_dir(ahead)?.collect();
    assert!(made.is_empty(), "{made:?}");
    Ok(())
}

/// pg_rewind itself, on a server that has removed the WAL behind the fork: it comes from
/// the repository, by the command that the operator's page gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_left_behind_is_rewound_with_archived_wal() -> Result<()> {
    let options = Options::default()
        .set("wal_log_hints", "on")
        .set("min_wal_size", "2MB")
        .set("max_wal_size", "2MB");
    let mut scene = Scene::start(PROGRAM, options).await?;
    scene.sql("create table t (n int, x text)")?;
    scene.base().await?;
    let new = scene.pg.standby(&scene.vault.dir().join("new"))?;
    let segment = scene.sql("select pg_walfile_name(pg_current_wal_lsn())")?;
    new.promote()?;
    new.psql("insert into t select n, 'kept' from generate_series(1, 100) n; checkpoint")?;
    // The old primary writes on, and removes what lies behind its last checkpoint.
    let fork = scene.pg.data_dir().join("pg_wal").join(&segment);
    let mut rounds = 0..50;
    while fork.exists() {
        rounds.next().context("the segment of the fork is removed")?;
        scene.sql("insert into t select n, repeat('y', 300) from generate_series(1, 3000) n")?;
        scene.safe().await?;
        scene.sql("checkpoint")?;
    }
    let pin = scene.restore(&Request::new(Target::Latest), "pinned").await?.pin;
    scene.unprotect().await?;
    scene.stop_source()?;

    let old = scene.pg.data_dir().to_owned();
    let rewind = |more: &[&str]| {
        let mut command = program("pg_rewind");
        command.arg("--source-server").arg(new.conninfo("postgres"));
        command.arg("-D").arg(&old).args(more).output()
    };
    let alone = rewind(&[])?;
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(!alone.status.success() && said.contains(&segment), "{said}");
    let mut conf = fs::OpenOptions::new()
        .append(true)
        .open(old.join("postgresql.auto.conf"))?;
    let pin = pin.display();
    writeln!(
        conf,
        "restore_command = '{PROGRAM} wal fetch %f \"%p\" --pin {pin}'"
    )?;
    let helped = rewind(&["--restore-target-wal"])?;
    assert!(helped.status.success(), "{helped:?}");

    // It follows the new primary, and has its rows alone.
    fs::write(old.join("standby.signal"), "")?;
    let mut conf = fs::OpenOptions::new()
        .append(true)
        .open(old.join("postgresql.auto.conf"))?;
    let (host, port) = (new.socket_dir().display(), new.port());
    writeln!(conf, "primary_conninfo = 'host={host} port={port} user=postgres'")?;
    let follower = TestPostgres::open(&old, false)?;
    wait_until("the old primary follows", || {
        Ok(follower.psql("select count(*), min(x) from t")? == "100|kept")
    })
}
