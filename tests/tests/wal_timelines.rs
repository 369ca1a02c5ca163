//! The WAL line when its server has another past or future than the archive:
//! followed, refused, or a gap with a name.

use anyhow::{Context, Result};
use holdfast_proto::finding::Severity;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::{GapCause, HistoryBody, WalBody};
use holdfast_repository::layout;
use holdfast_tests::line::{
    Line, QUICK, check_regions, gaps_said, lineage, names, position, segment_size, stored, write_rows,
};
use holdfast_tests::postgres::{Options, StopMode, TestPostgres, major};
use holdfast_tests::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed_with_its_history() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (a, b) = (vault.dir().join("a"), vault.dir().join("b"));
    let options = || {
        Options::default()
            .initdb("--wal-segsize=1")
            .set("wal_keep_size", "1GB")
    };
    let mut primary = TestPostgres::start(&a, options())?;
    let line = Line::start(&vault, &primary, 2, QUICK).await?;
    line.until_safe(&primary).await?;
    let standby = primary.standby(&b)?;
    write_rows(&primary, 5_000)?;
    line.until_safe(&primary).await?;
    primary.stop(StopMode::Fast)?;
    line.stop().await?;

    let line = Line::start_as(&vault, &standby, 2, QUICK, None, lineage(&standby)?).await?;
    line.until_finding("server-in-recovery").await?;
    standby.promote()?;
    write_rows(&standby, 5_000)?;
    standby.psql("checkpoint")?;
    let mut line = line;
    line.until("it follows timeline 2", |state| state.timeline.get() == 2)
        .await?;
    let safe = line.until_safe(&standby).await?.acknowledged;
    check_regions(&vault, &standby, &[0, 1], safe).await?;
    let lineage = lineage(&standby)?;
    let second = TimelineId::new(2).context("two")?;
    let history = vault
        .signed::<HistoryBody>(&layout::history(&vault.cluster, lineage, second))
        .await?;
    let file = std::fs::read(standby.data_dir().join("pg_wal/00000002.history"))?;
    assert_eq!(&history.payload[..], &file[..]);

    // Timeline 1 is whole up to the fork; timeline 2 begins with its segment.
    let size = segment_size(&standby)?;
    let text = String::from_utf8(file)?;
    let fork: Lsn = text.split_whitespace().nth(1).context("the fork")?.parse()?;
    let first = stored(&vault.repository, &vault, lineage, TimelineId::FIRST).await?;
    assert!(first.start.get() + first.bytes.len() as u64 >= fork.get());
    let newer = stored(&vault.repository, &vault, lineage, second).await?;
    assert_eq!(newer.start, size.start_of(size.segment_of(fork)));
    let named = newer.names.first().context("no object")?;
    let signed = vault
        .signed::<WalBody>(&layout::wal(&vault.cluster, lineage, named))
        .await?;
    assert!(
        signed.header.previous.is_some(),
        "the chain goes on over the fork"
    );
    assert_eq!(line.findings.snapshot(), []);

    // A region that is away when the agent begins keeps nothing from the other.
    line.kill().await;
    vault.faults(1).partition(true);
    let mut line = Line::start_as(&vault, &standby, 2, QUICK, None, lineage).await?;
    write_rows(&standby, 100)?;
    let (_, lsn) = position(&standby)?;
    line.until("the region that is left has it", |state| {
        state.replicas.iter().any(|replica| replica.durable >= Some(lsn))
    })
    .await?;
    let state = line.frontier.current().context("a state")?;
    assert!(state.acknowledged < lsn, "one copy is not two: {state:?}");
    vault.faults(1).partition(false);
    let safe = line.until_safe(&standby).await?.acknowledged;
    check_regions(&vault, &standby, &[0, 1], safe).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_past_is_refused() -> Result<()> {
    let vault = Vault::new(2).await?;
    let mut pg = TestPostgres::start(&vault.dir().join("a"), Options::default())?;
    let old = vault.dir().join("old");
    pg.pg_basebackup(&old, &["-X", "stream", "-c", "fast"])?;
    let line = Line::start(&vault, &pg, 1, QUICK).await?;
    write_rows(&pg, 5_000)?;
    line.until_safe(&pg).await?;
    line.stop().await?;
    let lineage = lineage(&pg)?;
    pg.stop(StopMode::Fast)?;

    let copy = TestPostgres::open(&old, false)?;
    let line = Line::start(&vault, &copy, 1, QUICK).await?;
    let detail = line.until_finding("server-behind-archive").await?;
    assert!(detail.contains("rolled back"), "{detail}");
    let before = names(&vault.repository, &vault, lineage).await?.len();
    line.stop().await?;
    assert_eq!(names(&vault.repository, &vault, lineage).await?.len(), before);

    let line = Line::start_as(
        &vault,
        &copy,
        1,
        QUICK,
        None,
        Lineage {
            system: "77".parse()?,
            generation: 1,
        },
    )
    .await?;
    line.until_finding("wrong-system").await?;
    line.stop().await
}

/// The copy goes on writing, and soon stands where the archive ends, on the same
/// timeline: only its WAL is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_past_that_wrote_on_is_refused() -> Result<()> {
    for restarted in [true, false] {
        let vault = Vault::new(2).await?;
        let options = Options::default().initdb("--wal-segsize=1");
        let mut pg = TestPostgres::start(&vault.dir().join("a"), options)?;
        let old = vault.dir().join("old");
        pg.pg_basebackup(&old, &["-X", "stream", "-c", "fast"])?;
        let line = Line::start(&vault, &pg, 2, QUICK).await?;
        write_rows(&pg, 5_000)?;
        let archived = line.until_safe(&pg).await?.acknowledged;
        let mut kept = Some(line);
        if restarted && let Some(line) = kept.take() {
            line.stop().await?;
        }
        let lineage = lineage(&pg)?;
        pg.stop(StopMode::Fast)?;

        // Its disk is set back, and it is written to until it is past the archive.
        let data = pg.data_dir().to_owned();
        std::fs::rename(&data, vault.dir().join("true"))?;
        std::fs::rename(&old, &data)?;
        pg.start_again()?;
        let mut round = 0;
        while position(&pg)?.1 <= Lsn::new(archived.get() + (2 << 20)) {
            pg.psql(&format!(
                "create table other_{round} as select generate_series(1, 20000) n"
            ))?;
            round += 1;
        }
        let line = match kept {
            Some(line) => line,
            None => Line::start(&vault, &pg, 2, QUICK).await?,
        };
        let detail = line.until_finding("history-diverged").await?;
        assert!(detail.contains("older copy"), "{detail}");
        let before = names(&vault.repository, &vault, lineage).await?;
        pg.psql("create table more as select generate_series(1, 20000) n")?;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let after = names(&vault.repository, &vault, lineage).await?;
        assert_eq!(after.len(), before.len(), "not a byte of it is stored");
        assert!(line.findings.holds("history-diverged", "acme/erp"), "it stands");

        // The true server comes back and is followed again.
        pg.stop(StopMode::Fast)?;
        std::fs::rename(&data, vault.dir().join("false"))?;
        std::fs::rename(vault.dir().join("true"), &data)?;
        pg.start_again()?;
        write_rows(&pg, 1_000)?;
        let safe = line.until_safe(&pg).await?.acknowledged;
        check_regions(&vault, &pg, &[0, 1], safe).await?;
        assert_eq!(line.findings.snapshot(), []);
        line.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_gone_is_a_gap_with_a_name() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("max_wal_size", "2MB")
        .set("min_wal_size", "2MB")
        .set("wal_recycle", "off");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 1_000)?;
    let state = line.until_safe(&pg).await?;
    let first = state.reach.contiguous_from();
    line.stop().await?;

    // Somebody drops the slot, and the server goes on.
    pg.psql("select pg_drop_replication_slot('holdfast')")?;
    write_rows(&pg, 20_000)?;
    pg.psql("checkpoint; select pg_switch_wal(); checkpoint")?;
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    let detail = line.until_finding("wal-gap").await?;
    assert!(detail.contains("base backup"), "{detail}");
    write_rows(&pg, 1_000)?;
    let after = line.until_safe(&pg).await?;
    assert!(after.reach.contiguous_from() > first);
    let gap = line
        .findings
        .snapshot()
        .into_iter()
        .find(|f| f.name == "wal-gap")
        .context("the finding stays")?;
    assert_eq!(gap.severity, Severity::Critical);
    line.stop().await?;

    let (timeline, _) = position(&pg)?;
    let refused = stored(&vault.repository, &vault, lineage(&pg)?, timeline)
        .await
        .err()
        .context("the hole was not seen")?;
    assert!(refused.to_string().contains("a hole"), "{refused}");

    // After a restart the line goes on behind the gap.
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 1_000)?;
    let again = line.until_safe(&pg).await?;
    assert_eq!(again.reach.contiguous_from(), after.reach.contiguous_from());
    line.stop().await?;
    let said = gaps_said(&vault, lineage(&pg)?).await?;
    let [(to, gap)] = said.as_slice() else {
        anyhow::bail!("one hole, and this was said: {said:?}");
    };
    assert_eq!(
        (*to, gap.cause),
        (after.reach.contiguous_from(), GapCause::SlotMissing)
    );
    assert!(gap.from < *to && gap.from >= first);
    Ok(())
}

/// The server gives the slot up by itself: with a hole behind it, or without one.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalidated_slot_is_said_and_made_anew() -> Result<()> {
    for hole in [true, false] {
        let vault = Vault::new(2).await?;
        let options = Options::default()
            .initdb("--wal-segsize=1")
            .set("max_wal_size", "2MB")
            .set("min_wal_size", "2MB")
            .set("max_slot_wal_keep_size", "1MB")
            .set("wal_keep_size", if hole { "0" } else { "1GB" });
        let pg = TestPostgres::start(vault.dir(), options)?;
        let line = Line::start(&vault, &pg, 2, QUICK).await?;
        write_rows(&pg, 1_000)?;
        line.until_safe(&pg).await?;
        line.stop().await?;
        write_rows(&pg, 20_000)?;
        pg.psql("checkpoint; select pg_switch_wal(); checkpoint")?;
        let status = || pg.psql("select wal_status from pg_replication_slots");
        if !hole {
            if major()?.get() < 18 {
                continue;
            }
            // A slot that nobody uses, as of 18: its WAL is all there.
            pg.psql("alter system set idle_replication_slot_timeout = '1s'")?;
            pg.psql("select pg_reload_conf(); select pg_sleep(2); checkpoint")?;
        }
        assert_eq!(status()?, "lost");
        if !hole {
            pg.psql("alter system reset idle_replication_slot_timeout")?;
            pg.psql("select pg_reload_conf()")?;
        }
        let line = Line::start(&vault, &pg, 2, QUICK).await?;
        let detail = line.until_finding("wal-slot-invalidated").await?;
        assert!(detail.contains("max_slot_wal_keep_size"), "{detail}");
        write_rows(&pg, 100)?;
        let safe = line.until_safe(&pg).await?.acknowledged;
        assert_eq!(line.findings.holds("wal-gap", "acme/erp"), hole);
        line.stop().await?;
        let said = gaps_said(&vault, lineage(&pg)?).await?;
        let causes: Vec<_> = said.iter().map(|(_, gap)| gap.cause).collect();
        if hole {
            assert_eq!(causes, [GapCause::SlotInvalidated]);
        } else {
            assert_eq!(causes, []);
            check_regions(&vault, &pg, &[0, 1], safe).await?;
        }
    }
    Ok(())
}

/// A base backup from before a promotion leads to the present as long as no WAL is missing
/// on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_behind_a_promotion_lies_behind_the_base_before_it() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("max_wal_size", "2MB")
        .set("min_wal_size", "2MB")
        .set("wal_recycle", "off");
    let pg = TestPostgres::start(&vault.dir().join("a"), options)?;
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 5_000)?;
    let (first, base) = position(&pg)?;
    line.until_safe(&pg).await?;
    let next = pg.standby(&vault.dir().join("b"))?;
    write_rows(&pg, 5_000)?;
    line.until_safe(&pg).await?;
    line.stop().await?;
    next.promote()?;
    next.psql("checkpoint")?;

    let line = Line::start(&vault, &next, 2, QUICK).await?;
    write_rows(&next, 5_000)?;
    let state = line.until_safe(&next).await?;
    assert_ne!(state.timeline, first);
    assert!(
        state.reach.surely && state.reach.leads_from(first, base),
        "{state:?}"
    );
    line.stop().await?;

    next.psql("select pg_drop_replication_slot('holdfast')")?;
    write_rows(&next, 20_000)?;
    next.psql("checkpoint; select pg_switch_wal(); checkpoint")?;
    let line = Line::start(&vault, &next, 2, QUICK).await?;
    line.until_finding("wal-gap").await?;
    write_rows(&next, 100)?;
    let state = line.until_safe(&next).await?;
    assert!(!state.reach.leads_from(first, base), "{state:?}");
    line.stop().await
}

/// The archive ends with a segment that the server has removed. Whether it continues that
/// is known by where the slot stands; without the slot it is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_known_by_the_slot_or_said() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("max_wal_size", "2MB")
        .set("min_wal_size", "2MB")
        .set("wal_recycle", "off");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let removed = async |line: Line| -> Result<(TimelineId, Lsn)> {
        write_rows(&pg, 1_000)?;
        pg.psql("select pg_switch_wal()")?;
        let state = line.until_safe(&pg).await?;
        line.stop().await?;
        assert_eq!(
            state.acknowledged.get() % (1 << 20),
            0,
            "the archive ends with a segment"
        );
        pg.psql("checkpoint")?;
        Ok((state.timeline, state.acknowledged))
    };
    let said = |line: &Line| line.findings.holds("wal-not-compared", "acme/erp");
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    removed(line).await?;
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 100)?;
    let state = line.until_safe(&pg).await?;
    assert_eq!((said(&line), state.reach.uncompared), (false, None));

    let (timeline, at) = removed(line).await?;
    pg.psql("select pg_drop_replication_slot('holdfast')")?;
    for _ in 0..2 {
        // A process that begins later says it again: no base backup was taken since.
        let line = Line::start(&vault, &pg, 2, QUICK).await?;
        let detail = line.until_finding("wal-not-compared").await?;
        assert!(detail.contains("base backup"), "{detail}");
        write_rows(&pg, 100)?;
        let reach = line.until_safe(&pg).await?.reach;
        assert_eq!(reach.uncompared, Some((timeline, at)));
        assert!(reach.crosses(timeline, Lsn::new(at.get() - 1)) && !reach.crosses(timeline, at));
        line.stop().await?;
    }
    Ok(())
}

/// What a server says that is not followed must not lead restores: the history
/// of its timeline is not stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_in_the_past_is_refused_and_leaves_no_trace() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(&vault.dir().join("a"), Options::default())?;
    let fork = pg.standby(&vault.dir().join("b"))?;
    fork.promote()?;
    let line = Line::start(&vault, &pg, 1, QUICK).await?;
    write_rows(&pg, 5_000)?;
    line.until_safe(&pg).await?;
    line.stop().await?;

    let keys = async || -> Result<Vec<String>> {
        let listing = vault.repository.list(&layout::lineages(&vault.cluster)).await?;
        let keys = listing.objects.keys().map(ToString::to_string);
        // Attestations come and go with every line.
        Ok(keys.filter(|key| !key.contains("/frontier/")).collect())
    };
    let before = keys().await?;
    let line = Line::start(&vault, &fork, 1, QUICK).await?;
    let detail = line.until_finding("history-diverged").await?;
    assert!(detail.contains("new lineage generation"), "{detail}");
    line.stop().await?;
    assert_eq!(keys().await?, before);
    Ok(())
}
