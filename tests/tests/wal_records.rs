//! What the WAL reader says about real WAL, against what pg_waldump says; and
//! the control file and backup label against PostgreSQL's own tools.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_proto::Timestamp;
use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{
    BackupLabel, ControlFile, Lsn, PgMajor, SegmentName, SegmentSize, TimelineId, TransactionId, WalEvent,
    WalReader, validate_segment_header,
};
use holdfast_tests::postgres::{Options, StopMode, TestPostgres, finished, program, wait_until};

/// A record as pg_waldump prints it.
#[derive(Debug, Clone)]
struct Dumped {
    manager: String,
    xid: u32,
    start: Lsn,
    desc: String,
}

/// The consecutive WAL of `timeline` in a data directory, up to `end`.
struct Wal {
    size: SegmentSize,
    timeline: TimelineId,
    start: Lsn,
    bytes: Vec<u8>,
}

impl Wal {
    fn read(data: &Path, timeline: TimelineId, end: Lsn) -> Result<Self> {
        let size = control(data)?.segment_size;
        let mut names: Vec<SegmentName> = std::fs::read_dir(data.join("pg_wal"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<SegmentName>().ok())
            .filter(|name| name.timeline() == timeline)
            .collect();
        names.sort();
        let first = names
            .first()
            .and_then(|name| name.segment(size))
            .context("no segments")?;
        let start = size.start_of(first);
        let mut bytes = Vec::new();
        for name in names {
            let at = size.start_of(name.segment(size).context("a segment of another size")?);
            if at >= end {
                break;
            }
            ensure!(
                at.get() == start.get() + bytes.len() as u64,
                "a hole before {name}"
            );
            bytes.extend(std::fs::read(data.join("pg_wal").join(name.to_string()))?);
        }
        bytes.truncate(usize::try_from(end.get() - start.get())?);
        Ok(Self {
            size,
            timeline,
            start,
            bytes,
        })
    }

    fn reader_at(&self, at: Lsn) -> WalReader {
        WalReader::new(self.size, self.timeline, at)
    }

    fn from(&self, at: Lsn) -> &[u8] {
        &self.bytes[(at.get() - self.start.get()) as usize..]
    }

    /// Reads it all in pieces of varying size.
    fn read_all(&self) -> Result<(WalReader, Vec<WalEvent>)> {
        let mut reader = self.reader_at(self.start);
        let mut events = Vec::new();
        let mut rest = &self.bytes[..];
        let mut piece = 1usize;
        while !rest.is_empty() {
            piece = (piece * 7 + 3) % 131_072 + 1;
            let (now, later) = rest.split_at(piece.min(rest.len()));
            reader.feed(reader.position(), now, &mut events)?;
            rest = later;
        }
        Ok((reader, events))
    }
}

fn control(data: &Path) -> Result<ControlFile> {
    Ok(ControlFile::parse(&std::fs::read(
        data.join("global/pg_control"),
    )?)?)
}

fn lsn(pg: &TestPostgres, query: &str) -> Result<Lsn> {
    Ok(pg.psql(&format!("select {query}"))?.parse()?)
}

fn major(pg: &TestPostgres) -> Result<PgMajor> {
    let version = pg.psql("show server_version_num")?.parse()?;
    PgMajor::from_version_num(version).context("a supported major")
}

fn waldump(data: &Path, timeline: TimelineId, start: Lsn, end: Lsn) -> Result<Vec<Dumped>> {
    let mut dump = program("pg_waldump");
    dump.arg("-p")
        .arg(data.join("pg_wal"))
        .args(["-t", &timeline.to_string()]);
    dump.args(["-s", &start.to_string(), "-e", &end.to_string()]);
    finished(&mut dump)?
        .lines()
        .map(|line| {
            let after = |mark: &str| Some(line.split_once(mark)?.1);
            let word = |mark: &str| Some(after(mark)?.trim_start().split([',', ' ']).next()?.to_owned());
            let parsed = || {
                Some(Dumped {
                    manager: word("rmgr: ")?,
                    xid: word("tx: ")?.parse().ok()?,
                    start: word("lsn: ")?.parse().ok()?,
                    desc: after("desc: ")?.to_owned(),
                })
            };
            parsed().with_context(|| format!("pg_waldump printed {line}"))
        })
        .collect()
}

/// Whether an event is what pg_waldump says of the record.
fn agrees(record: &Dumped, next: Option<&Dumped>, event: &WalEvent) -> bool {
    let (kind, rest) = record.desc.split_once(' ').unwrap_or((&record.desc, ""));
    let timed = |time: &Timestamp| {
        let printed = time.to_chrono().format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string();
        rest.contains(&printed)
    };
    let numbered = |xid: &Option<TransactionId>| {
        let expected = match rest.split_once(": ") {
            Some((prepared, _)) if kind.ends_with("PREPARED") => prepared.parse().ok(),
            _ => Some(record.xid),
        };
        expected == xid.map(TransactionId::get)
    };
    let said = match event {
        WalEvent::Commit { xid, time, .. } => {
            matches!(kind, "COMMIT" | "COMMIT_PREPARED") && timed(time) && numbered(xid)
        }
        WalEvent::Abort { xid, time, .. } => {
            matches!(kind, "ABORT" | "ABORT_PREPARED") && timed(time) && numbered(xid)
        }
        WalEvent::RestorePoint { name, .. } => kind == "RESTORE_POINT" && rest == name,
    };
    // The next record begins where this one ends, or behind a page's header, or
    // behind a record that was lost and is not printed.
    let follows = next.is_none_or(|next| {
        let gap = next.start.bytes_since(event.end());
        next.desc.starts_with("OVERWRITE_CONTRECORD")
            || gap == Some(0)
            || (event.end().get().is_multiple_of(8192) && matches!(gap, Some(24 | 40)))
    });
    said && follows && record.start == event.start()
}

fn is_event(record: &Dumped) -> bool {
    let kind = record.desc.split(' ').next().unwrap_or_default();
    match record.manager.as_str() {
        "Transaction" => matches!(kind, "COMMIT" | "COMMIT_PREPARED" | "ABORT" | "ABORT_PREPARED"),
        "XLOG" => kind == "RESTORE_POINT",
        _ => false,
    }
}

/// Compares everything the reader says about `wal` with pg_waldump.
fn compare(data: &Path, wal: &Wal, end: Lsn) -> Result<(Vec<Dumped>, Vec<WalEvent>)> {
    let (reader, events) = wal.read_all()?;
    let first = reader.first_record_start().context("no record")?;
    let records = waldump(data, wal.timeline, first, end)?;
    assert_eq!(records.first().map(|r| r.start), Some(first));
    assert_eq!(records.last().map(|r| r.start), reader.last_record_start());
    assert_eq!(reader.end_of_wal(), None);
    let expected: Vec<usize> = (0..records.len()).filter(|i| is_event(&records[*i])).collect();
    assert_eq!(expected.len(), events.len(), "{records:?}\n{events:?}");
    for (index, event) in expected.into_iter().zip(&events) {
        let (record, next) = (&records[index], records.get(index + 1));
        assert!(agrees(record, next, event), "{record:?} is not {event:?}");
    }
    Ok((records, events))
}

/// Transactions of every kind, records of every size.
fn work(pg: &TestPostgres) -> Result<()> {
    pg.psql("create table t (n int primary key, b text)")?;
    let mut many = String::new();
    for n in 0..150 {
        let end = if n % 5 == 4 { "rollback" } else { "commit" };
        many.push_str(&format!(
            "begin; insert into t values ({n}, repeat('x', {})); {end};\n",
            n * 37
        ));
    }
    pg.psql(&many)?;
    pg.psql("select pg_create_restore_point('one'); select pg_create_restore_point(repeat('ü', 31))")?;
    // More than a kilobyte of subtransactions, and of dropped relations.
    let savepoints: String = (0..400)
        .map(|n| format!("savepoint s{n}; insert into t values ({}, 'sub');\n", 1000 + n))
        .collect();
    pg.psql(&format!("begin; {savepoints} commit;"))?;
    pg.psql(
        "do $$ begin for n in 1..200 loop execute format('create table d%s (n int)', n); end loop; end $$",
    )?;
    pg.psql(
        "do $$ begin for n in 1..200 loop execute format('drop table d%s', n); end loop; end $$;
         begin; create table g (n int); insert into g values (1); savepoint a; drop table g; \
           insert into t values (5000, 'p'); prepare transaction 'one';
         begin; insert into t values (5001, 'p'); prepare transaction 'two';
         commit prepared 'one'; rollback prepared 'two';",
    )?;
    pg.psql("checkpoint; update t set b = b || 'y'; select pg_switch_wal()")?;
    pg.psql("select pg_logical_emit_message(true, 'holdfast', repeat('z', 3000000))")?;
    pg.psql("select pg_switch_wal(); select txid_current(); select pg_create_restore_point('last')")?;
    pg.psql(
        "select pg_replication_origin_create('o'); select pg_replication_origin_session_setup('o');
         begin; select pg_replication_origin_xact_setup('0/ABC', now()); insert into t values (6000, 'o'); commit;",
    )?;
    Ok(())
}

#[test]
fn commits_aborts_and_restore_points_are_those_of_pg_waldump() -> Result<()> {
    for (segment, level) in [("--wal-segsize=1", "replica"), ("--wal-segsize=2", "logical")] {
        let dir = tempfile::tempdir()?;
        let options = Options::default()
            .initdb(segment)
            .set("wal_level", level)
            .set("wal_compression", "on")
            .set("wal_keep_size", "1GB")
            .set("max_prepared_transactions", "5");
        let pg = TestPostgres::start(dir.path(), options)?;
        work(&pg)?;
        let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
        let wal = Wal::read(pg.data_dir(), TimelineId::FIRST, end)?;
        assert_eq!(wal.read_all()?.0.major(), Some(major(&pg)?));
        let (records, events) = compare(pg.data_dir(), &wal, end)?;
        assert!(events.len() > 150, "{}", events.len());
        let prepared = records.iter().filter(|r| r.desc.contains("_PREPARED ")).count();
        assert_eq!(prepared, 2);

        // A reader that starts at any page or any record sees what follows.
        let starts = (wal.start.get()..end.get()).step_by(8192 * 13).map(Lsn::new);
        for at in starts.chain(records.iter().step_by(997).map(|r| r.start)) {
            let mut reader = wal.reader_at(at);
            let mut seen = Vec::new();
            reader.feed(at, wal.from(at), &mut seen)?;
            let first = reader.first_record_start();
            let expected: Vec<_> = events
                .iter()
                .filter(|e| first.is_some_and(|f| e.start() >= f))
                .cloned()
                .collect();
            assert_eq!(seen, expected, "from {at}");
            assert_eq!(reader.last_record_start(), records.last().map(|r| r.start));
        }
    }
    Ok(())
}

/// The server's own memory of commit times, and its own view of its control
/// file: an oracle that needs no tools of the same major.
#[test]
fn commit_times_and_control_facts_are_those_of_the_server() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("track_commit_timestamp", "on")
        .set("wal_keep_size", "1GB")
        .set("wal_level", "logical")
        .set("max_prepared_transactions", "5");
    let pg = TestPostgres::start(dir.path(), options)?;
    let from = lsn(&pg, "pg_current_wal_insert_lsn()")?;
    work(&pg)?;
    let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
    let wal = Wal::read(pg.data_dir(), TimelineId::FIRST, end)?;
    let (reader, events) = wal.read_all()?;
    assert_eq!(reader.major(), Some(major(&pg)?));
    let mut commits = 0;
    let mut query = String::new();
    for event in &events {
        if let WalEvent::Commit { xid, time, start, .. } = event
            && *start >= from
        {
            let xid = xid.with_context(|| format!("{event:?} has no number"))?;
            commits += 1;
            query.push_str(&format!(
                "select 1 where pg_xact_commit_timestamp('{xid}'::xid) = '{time}';\n"
            ));
        }
    }
    assert!(commits > 120, "{commits}");
    let found = pg.psql(&query)?;
    // The one that came from elsewhere is remembered with its time there.
    assert_eq!(found.lines().count(), commits - 1);
    let points = events.iter().filter_map(|e| match e {
        WalEvent::RestorePoint { name, .. } => Some(name.as_str()),
        _ => None,
    });
    assert_eq!(
        points.collect::<Vec<_>>(),
        ["one", "ü".repeat(31).as_str(), "last"]
    );
    assert!(
        events
            .iter()
            .filter(|e| matches!(e, WalEvent::Abort { .. }))
            .count()
            >= 31
    );

    pg.psql("checkpoint")?;
    let facts = pg.psql(
        "select system_identifier, pg_control_version, catalog_version_no from pg_control_system();
         select checkpoint_lsn, redo_lsn, timeline_id from pg_control_checkpoint();
         select database_block_size, blocks_per_segment, bytes_per_wal_segment, data_page_checksum_version
           from pg_control_init()",
    )?;
    let c = control(pg.data_dir())?;
    let ours = format!(
        "{}|{}|{}\n{}|{}|{}\n{}|{}|{}|{}",
        c.system,
        c.version,
        c.catalog_version,
        c.checkpoint,
        c.checkpoint_redo,
        c.checkpoint_timeline,
        c.page_size,
        c.pages_per_file,
        c.segment_size,
        c.checksum_version.unwrap_or(0),
    );
    assert_eq!(facts, ours);
    assert_eq!((c.wal_level, c.max_prepared_transactions), (2, 5));
    Ok(())
}

/// Our positions are those that recovery compares: recovering to the start of a
/// commit includes it, and excludes it when told to be exclusive.
#[test]
fn recovery_stops_where_an_event_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pg = TestPostgres::start(
        &dir.path().join("a"),
        Options::default().set("wal_keep_size", "1GB"),
    )?;
    pg.psql("create table t (n int)")?;
    pg.pg_basebackup(&dir.path().join("copy"), &["-X", "stream", "-c", "fast"])?;
    let from = lsn(&pg, "pg_current_wal_insert_lsn()")?;
    for n in 1..=5 {
        pg.psql(&format!("insert into t values ({n})"))?;
    }
    let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
    let wal = Wal::read(pg.data_dir(), TimelineId::FIRST, end)?;
    let (_, events) = compare(pg.data_dir(), &wal, end)?;
    let commits: Vec<_> = events
        .iter()
        .filter(|e| matches!(e, WalEvent::Commit { start, .. } if *start >= from))
        .collect();
    assert_eq!(commits.len(), 5);
    for (inclusive, rows) in [("on", "3"), ("off", "2")] {
        let data = dir.path().join(format!("data-{inclusive}"));
        finished(
            std::process::Command::new("cp")
                .arg("-a")
                .arg(dir.path().join("copy"))
                .arg(&data),
        )?;
        let settings = format!(
            "restore_command = 'cp {}/pg_wal/%f %p'\nrecovery_target_lsn = '{}'\n\
             recovery_target_inclusive = {inclusive}\nrecovery_target_action = promote\n",
            pg.data_dir().display(),
            commits[2].start(),
        );
        let conf = data.join("postgresql.auto.conf");
        std::fs::write(&conf, std::fs::read_to_string(&conf)? + &settings)?;
        std::fs::write(data.join("recovery.signal"), "")?;
        let restored = TestPostgres::open(&data, false)?;
        wait_until("recovery ends", || {
            Ok(restored.psql("select pg_is_in_recovery()")? == "f")
        })?;
        assert_eq!(restored.psql("select count(*) from t")?, rows);
    }
    Ok(())
}

/// The server crashed while a record that spans segments was written, and its
/// end was lost: `src/test/recovery/t/026_overwrite_contrecord.pl`.
#[test]
fn a_record_lost_in_a_crash_is_passed_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB")
        .set("autovacuum", "off")
        .set("bgwriter_lru_maxpages", "0");
    let mut pg = TestPostgres::start(dir.path(), options)?;
    pg.psql("create table filler (n int, b text); select pg_switch_wal()")?;
    // Up to a few kilobytes before the end of the segment.
    pg.psql(
        "do $$ begin
           loop
             exit when 1048576 - (pg_current_wal_insert_lsn() - '0/0')::bigint % 1048576 < 4000;
             insert into filler select n, repeat('x', 300) from generate_series(1, 2) n;
             commit;
           end loop;
         end $$",
    )?;
    let before = lsn(&pg, "pg_current_wal_insert_lsn()")?;
    pg.psql("select pg_logical_emit_message(true, 'holdfast', repeat('lost', 20000))")?;
    let last = pg.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    pg.stop(StopMode::Immediate)?;
    std::fs::remove_file(pg.data_dir().join("pg_wal").join(&last))?;
    pg.start_again()?;
    pg.psql("insert into filler values (0, 'after')")?;
    let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
    let wal = Wal::read(pg.data_dir(), TimelineId::FIRST, end)?;
    let (reader, _) = wal.read_all()?;
    assert!(
        reader.overwritten_record().is_some_and(|at| at >= before),
        "{reader:?}"
    );
    let (records, _) = compare(pg.data_dir(), &wal, end)?;
    assert!(
        records.iter().any(|r| r.desc.starts_with("OVERWRITE_CONTRECORD")),
        "{records:?}"
    );
    Ok(())
}

#[test]
fn a_promoted_servers_wal_reads_on_through_the_switch() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let primary = TestPostgres::start(
        &dir.path().join("a"),
        Options::default().set("wal_keep_size", "1GB"),
    )?;
    primary.psql("create table t (n int)")?;
    let standby = primary.standby(&dir.path().join("b"))?;
    primary.psql("insert into t select generate_series(1, 5000)")?;
    let sent = lsn(&primary, "pg_current_wal_flush_lsn()")?;
    wait_until("the standby has it all", || {
        Ok(standby.psql(&format!("select pg_last_wal_replay_lsn() >= '{sent}'"))? == "t")
    })?;
    standby.promote()?;
    standby.psql("select pg_create_restore_point('new'); insert into t select generate_series(1, 5000)")?;
    let end = lsn(&standby, "pg_current_wal_flush_lsn()")?;
    let second = TimelineId::new(2).context("2")?;
    let wal = Wal::read(standby.data_dir(), second, end)?;
    let (reader, events) = wal.read_all()?;
    assert_eq!(reader.page_timeline(), Some(second));
    assert!(
        events
            .iter()
            .any(|e| matches!(e, WalEvent::RestorePoint { name, .. } if name == "new"))
    );
    // The old timeline alone does not explain these pages.
    let mut old = WalReader::new(wal.size, TimelineId::FIRST, wal.start);
    assert!(old.feed(wal.start, &wal.bytes, &mut Vec::new()).is_err());

    // The segment of the switch is named by the new timeline and begins with a
    // page of the old one.
    let system = control(standby.data_dir())?.system;
    let segment = wal.size.segment_of(wal.start);
    let check = |timeline, system| validate_segment_header(&wal.bytes, timeline, segment, system, wal.size);
    assert_eq!(check(second, system)?.timeline, TimelineId::FIRST);
    assert!(check(TimelineId::FIRST, system).is_ok());
    assert!(check(second, SystemId::new(1)).is_err());
    assert!(validate_segment_header(&wal.bytes, second, segment.next(), system, wal.size).is_err());
    Ok(())
}

#[test]
fn the_control_file_and_the_backup_label_say_what_the_tools_say() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::default()
        .initdb("--wal-segsize=4")
        .set("max_connections", "41")
        .set("max_worker_processes", "9")
        .set("max_wal_senders", "11")
        .set("max_prepared_transactions", "3")
        .set("max_locks_per_transaction", "65");
    let mut pg = TestPostgres::start(dir.path(), options)?;
    assert_eq!(control(pg.data_dir())?.state.to_string(), "in production");

    let labels = if major(&pg)?.get() >= 15 {
        "select pg_backup_start('my label', true); select labelfile from pg_backup_stop(false)"
    } else {
        "select pg_start_backup('my label', true, false); select labelfile from pg_stop_backup(false, false)"
    };
    let labels = pg.psql(labels)?;
    let (start, label) = labels.split_once('\n').context("two results")?;
    let label = BackupLabel::parse(label)?;
    assert_eq!(label.start, start.parse()?);
    assert_eq!(label.start_timeline, TimelineId::FIRST);
    assert_eq!((label.label.as_str(), label.from_standby), ("my label", false));
    assert!(label.checkpoint > label.start);
    let segment = SegmentName::new(
        TimelineId::FIRST,
        SegmentSize::new(4 << 20)?.segment_of(label.start),
        SegmentSize::new(4 << 20)?,
    );
    assert_eq!(label.start_segment, segment);

    pg.stop(StopMode::Fast)?;
    let printed = finished(program("pg_controldata").arg("-D").arg(pg.data_dir()))?;
    let said = |name: &str| {
        let line = printed
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
            .map(str::to_owned)
            .with_context(|| format!("{name} in {printed}"))
    };
    let control = control(pg.data_dir())?;
    for (name, ours) in [
        ("pg_control version number", control.version.to_string()),
        ("Catalog version number", control.catalog_version.to_string()),
        ("Database system identifier", control.system.to_string()),
        ("Database cluster state", control.state.to_string()),
        ("Latest checkpoint location", control.checkpoint.to_string()),
        (
            "Latest checkpoint's REDO location",
            control.checkpoint_redo.to_string(),
        ),
        (
            "Latest checkpoint's TimeLineID",
            control.checkpoint_timeline.to_string(),
        ),
        ("max_connections setting", control.max_connections.to_string()),
        (
            "max_worker_processes setting",
            control.max_worker_processes.to_string(),
        ),
        ("max_wal_senders setting", control.max_wal_senders.to_string()),
        (
            "max_prepared_xacts setting",
            control.max_prepared_transactions.to_string(),
        ),
        (
            "max_locks_per_xact setting",
            control.max_locks_per_transaction.to_string(),
        ),
        ("Database block size", control.page_size.to_string()),
        (
            "Blocks per segment of large relation",
            control.pages_per_file.to_string(),
        ),
        ("Bytes per WAL segment", control.segment_size.to_string()),
        (
            "Data page checksum version",
            control.checksum_version.unwrap_or(0).to_string(),
        ),
    ] {
        assert_eq!(said(name)?, ours, "{name}");
    }
    assert_eq!(said("wal_level setting")?, "replica");
    assert_eq!(control.wal_level, 1);
    let modified = control
        .modified
        .to_chrono()
        .format("%a %b %e %H:%M:%S %Y")
        .to_string();
    assert_eq!(
        said("pg_control last modified")?
            .split_whitespace()
            .collect::<Vec<_>>(),
        modified.split_whitespace().collect::<Vec<_>>()
    );
    Ok(())
}
