//! Segments of many small objects are merged, and either half alone is a whole
//! archive.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::WalBody;
use holdfast_repository::layout::{self, WalName};
use holdfast_repository::signed::Draft;
use holdfast_repository::signing::SigningKey;
use holdfast_tests::line::{
    Line, NEVER, check_regions, lineage, names, position, segment_size, stored, write_noise, write_rows,
};
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres};
use holdfast_tests::vault::Vault;

/// A tip that leaves at once.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Commits many times, so that the first segments are left in many objects, until a
/// segment is finished.
fn fill_a_segment(pg: &TestPostgres, size: SegmentSize) -> Result<Lsn> {
    let (_, from) = position(pg)?;
    pg.psql("create table if not exists small (n int, filler text)")?;
    loop {
        pg.psql("insert into small select n, repeat('x', 200) from generate_series(1, 100) n")?;
        std::thread::sleep(Duration::from_millis(5));
        let (_, at) = position(pg)?;
        if size.segment_of(at) > size.segment_of(from).next() {
            return Ok(at);
        }
    }
}

fn is_whole(name: &WalName, size: SegmentSize) -> bool {
    name.start == size.start_of(name.segment) && name.end == size.end_of(name.segment)
}

/// Waits until every region holds some segment in one object beside small ones, and
/// returns that object's name.
async fn until_merged(vault: &Vault, line: &Line, pg: &TestPostgres, size: SegmentSize) -> Result<WalName> {
    let lineage = lineage(pg)?;
    let wait = async {
        loop {
            let mut merged = Vec::new();
            for region in 0..2 {
                let all = names(&vault.only(region).await?, vault, lineage).await?;
                let small = |of: &WalName| all.iter().filter(|n| n.segment == of.segment).count();
                merged.push(all.iter().find(|n| is_whole(n, size) && small(n) > 6).cloned());
            }
            if let [Some(one), Some(other)] = &merged[..]
                && one == other
            {
                return Ok::<_, anyhow::Error>(*one);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let merged = tokio::time::timeout(PATIENCE, wait).await;
    merged.with_context(|| format!("nothing is merged: {:?}", line.findings.snapshot()))?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_segment_is_one_object_beside_the_small_ones() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(
        vault.dir(),
        Options::default()
            .initdb("--wal-segsize=1")
            .set("wal_keep_size", "1GB"),
    )?;
    let (lineage, size) = (lineage(&pg)?, segment_size(&pg)?);
    let mut line = Line::start(&vault, &pg, 2, AT_ONCE).await?;
    line.until("it streams", |state| state.connected).await?;
    pg.psql("select pg_create_restore_point('before')")?;
    fill_a_segment(&pg, size)?;
    let end = line.until_safe(&pg).await?.acknowledged;
    let merged = until_merged(&vault, &line, &pg, size).await?;

    // It says what the small ones say.
    let body = |name: WalName| {
        let (vault, key) = (&vault, layout::wal(&vault.cluster, lineage, &name));
        async move { Ok::<_, anyhow::Error>(vault.signed::<WalBody>(&key).await?.header.body) }
    };
    let whole = body(merged).await?;
    let mut small: Vec<WalName> = names(&vault.repository, &vault, lineage).await?;
    small.retain(|n| n.segment == merged.segment && *n != merged);
    small.sort_by_key(|n| n.start);
    let (mut commits, mut chunks, mut points) = (0, Vec::new(), Vec::new());
    for name in &small {
        let part = body(*name).await?;
        commits += part.commits;
        chunks.extend(part.chunks);
        points.extend(part.restore_points);
    }
    assert_eq!((whole.commits, &whole.restore_points), (commits, &points));
    assert_eq!(whole.chunks, chunks);
    assert!(chunks.len() > 6 && commits > 6, "{} chunks", chunks.len());
    let first = body(small[0]).await?;
    let last = body(small[small.len() - 1]).await?;
    assert_eq!(whole.follows, first.follows);
    assert_eq!(whole.last_record, last.last_record);
    assert_eq!(line.findings.snapshot(), []);

    // Each half holds all: without the small ones in one region, without the merged
    // one in the other.
    let gone = |region: usize, name: &WalName| {
        let key = layout::wal(&vault.cluster, lineage, name);
        std::fs::remove_file(vault.place(region).join(key.as_str()))
    };
    for name in &small {
        gone(0, name)?;
    }
    gone(1, &merged)?;
    check_regions(&vault, &pg, &[0, 1], end).await?;

    // And the line goes on over both.
    line.kill().await;
    let line = Line::start(&vault, &pg, 2, AT_ONCE).await?;
    write_rows(&pg, 10)?;
    let end = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], end).await?;
    assert_eq!(line.findings.snapshot(), []);
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_stay_as_they_are() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default().set("wal_keep_size", "1GB"))?;
    let lineage = lineage(&pg)?;
    let line = Line::start(&vault, &pg, 2, NEVER).await?;
    write_noise(&pg, 40)?;
    line.until_safe(&pg).await?;
    write_rows(&pg, 10)?;
    line.until_safe(&pg).await?;
    let all = stored(&vault.repository, &vault, lineage, TimelineId::FIRST).await?;
    ensure!(
        all.names.windows(2).all(|two| two[0].end <= two[1].start),
        "nothing was to be merged: {:?}",
        all.names
    );
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_object_gets_no_good_signature() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(
        vault.dir(),
        Options::default()
            .initdb("--wal-segsize=1")
            .set("wal_keep_size", "1GB"),
    )?;
    let (lineage, size) = (lineage(&pg)?, segment_size(&pg)?);
    let mut line = Line::start(&vault, &pg, 2, AT_ONCE).await?;
    line.until("it streams", |state| state.connected).await?;
    pg.psql("create table one (n int)")?;
    line.until_safe(&pg).await?;
    let all = names(&vault.repository, &vault, lineage).await?;
    let name = all.first().context("nothing is stored")?;
    let key = layout::wal(&vault.cluster, lineage, name);
    let signed = vault.signed::<WalBody>(&key).await?;
    let forged = Draft {
        repository: vault.repository.id(),
        key: key.clone(),
        payload: signed.payload[..].into(),
        sealed_to: signed.header.payload.sealed_to,
        lease: None,
        previous: None,
        body: &signed.header.body,
    }
    .sign(&SigningKey::generate_ed25519()?);
    for region in 0..2 {
        std::fs::write(vault.place(region).join(key.as_str()), &forged.bytes)?;
    }

    // A later segment is merged, so this one was looked at before.
    fill_a_segment(&pg, size)?;
    fill_a_segment(&pg, size)?;
    let merged = until_merged(&vault, &line, &pg, size).await?;
    ensure!(merged.segment > name.segment);
    let all = names(&vault.repository, &vault, lineage).await?;
    ensure!(
        !all.iter().any(|n| n.start == name.start && n.end > name.end),
        "the forgery was merged"
    );
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_is_met_is_named() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(
        vault.dir(),
        Options::default()
            .initdb("--wal-segsize=1")
            .set("wal_keep_size", "1GB"),
    )?;
    let (lineage, size) = (lineage(&pg)?, segment_size(&pg)?);
    let mut line = Line::start(&vault, &pg, 2, AT_ONCE).await?;
    line.until("it streams", |state| state.connected).await?;
    pg.psql("create table one (n int)")?;
    line.until_safe(&pg).await?;
    let all = names(&vault.repository, &vault, lineage).await?;
    let key = layout::wal(&vault.cluster, lineage, all.first().context("nothing is stored")?);
    for region in 0..2 {
        let path = vault.place(region).join(key.as_str());
        let mut bytes = std::fs::read(&path)?;
        bytes[20] ^= 1;
        std::fs::write(path, bytes)?;
    }
    fill_a_segment(&pg, size)?;
    let said = line.until_finding("wal-object-damaged").await?;
    ensure!(said.contains(key.as_str()), "{said}");
    line.stop().await
}
