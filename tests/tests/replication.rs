//! The replication client against real servers: sockets, TLS, SCRAM, slots,
//! timeline switches, shutdowns, and a server that lies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::postgres::{
    Password, PgError, PgErrorClass, PgTarget, ReplicationConnection, Secret, SlotCreation, SlotName,
    StreamEvent, WalStream, role_sql, sql_connect, sql_connect_with,
};
use holdfast_proto::pg::{Lsn, PgMajor, SegmentName, SegmentSize, TimelineId, WalEvent, WalReader};
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres, finished, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn over_socket(pg: &TestPostgres) -> Result<PgTarget> {
    Ok(pg.conninfo("postgres").parse()?)
}

fn lsn(pg: &TestPostgres, query: &str) -> Result<Lsn> {
    Ok(pg.psql(&format!("select {query}"))?.parse()?)
}

fn major(pg: &TestPostgres) -> Result<PgMajor> {
    let version = pg.psql("show server_version_num")?.parse()?;
    PgMajor::from_version_num(version).context("a supported major")
}

/// Receives WAL until `end`, confirming all of it, and returns the bytes.
async fn receive_until(stream: &mut WalStream, end: Lsn) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, async {
        while stream.position() < end {
            match stream.next().await? {
                StreamEvent::Wal {
                    start,
                    data,
                    end_of_wal,
                    ..
                } => {
                    ensure!(end_of_wal >= start);
                    bytes.extend_from_slice(&data);
                }
                StreamEvent::Keepalive { .. } => {}
                StreamEvent::TimelineEnd { .. } => bail!("the timeline ended"),
            }
            let at = stream.position();
            stream.status(at, Some(at), None, false).await?;
        }
        Ok(())
    })
    .await??;
    Ok(bytes)
}

/// The bytes of `pg_wal` from the beginning of the segment of `from` to `to`.
fn on_disk(data: &Path, timeline: TimelineId, size: SegmentSize, from: Lsn, to: Lsn) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut segment = size.segment_of(from);
    while size.start_of(segment) < to {
        let name = SegmentName::new(timeline, segment, size).to_string();
        bytes.extend(std::fs::read(data.join("pg_wal").join(name))?);
        segment = segment.next();
    }
    bytes.truncate((to.get() - size.start_of(size.segment_of(from)).get()) as usize);
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_what_is_in_pg_wal_and_moves_the_slot() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB");
    let pg = TestPostgres::start(dir.path(), options)?;
    let target = over_socket(&pg)?;
    let mut connection = ReplicationConnection::connect(&target).await?;
    assert_eq!(connection.major(), Some(major(&pg)?));
    assert_eq!(connection.in_recovery(), Some(false));
    let identity = connection.identify_system().await?;
    assert_eq!(identity.timeline, TimelineId::FIRST);
    assert_eq!(
        identity.system.to_string(),
        pg.psql("select system_identifier from pg_control_system()")?
    );
    let size = connection.show_segment_size().await?;
    assert_eq!(size, SegmentSize::new(1 << 20)?);
    assert_eq!(connection.timeline_history(TimelineId::FIRST).await?, None);

    let slot: SlotName = "holdfast".parse()?;
    assert_eq!(connection.read_slot(&slot).await?, None);
    assert_eq!(
        connection.create_physical_slot(&slot, true).await?,
        SlotCreation::Made
    );
    assert_eq!(
        connection.create_physical_slot(&slot, true).await?,
        SlotCreation::Existed
    );
    let state = connection.read_slot(&slot).await?.context("the slot")?;
    let says_timeline = major(&pg)?.get() >= 15;
    assert_eq!(state.restart_timeline, says_timeline.then_some(TimelineId::FIRST));
    let reserved = state.restart_lsn.context("reserved WAL")?;

    let from = size.start_of(size.segment_of(reserved));
    pg.psql("create table t as select n, repeat('x', 500) from generate_series(1, 20000) n")?;
    let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
    let mut stream = connection
        .start_physical(Some(&slot), from, TimelineId::FIRST)
        .await?;
    let bytes = receive_until(&mut stream, end).await?;
    assert!(bytes.len() > 8 << 20);
    assert!(bytes == on_disk(pg.data_dir(), TimelineId::FIRST, size, from, stream.position())?);

    // The records of the stream, as they came.
    let mut reader = WalReader::new(size, TimelineId::FIRST, from).of_system(identity.system);
    let mut events = Vec::new();
    reader.feed(from, &bytes, &mut events)?;
    assert!(
        events
            .iter()
            .any(|e| matches!(e, WalEvent::Commit { end: at, .. } if *at <= end))
    );
    assert_eq!(reader.last_record_end(), Some(end));

    // What is reported as flushed is what the slot lets go, no more.
    let at = stream.position();
    stream.status(at, Some(end), Some(at), false).await?;
    wait_until("the slot moves", || {
        Ok(lsn(
            &pg,
            "restart_lsn from pg_replication_slots where slot_name = 'holdfast'",
        )? == end)
    })?;
    let seen =
        pg.psql("select write_lsn, flush_lsn, replay_lsn, application_name from pg_stat_replication")?;
    assert_eq!(seen, format!("{at}|{end}|{end}|holdfast"));

    // A second receiver of the same slot is told that it is taken.
    let second = ReplicationConnection::connect(&target).await?;
    let error = second
        .start_physical(Some(&slot), from, TimelineId::FIRST)
        .await
        .err()
        .context("taken")?;
    assert!(matches!(error, PgError::ObjectInUse { .. }), "{error:?}");
    assert_eq!(error.class(), PgErrorClass::Busy);

    // The connection serves further commands after the stream was ended.
    let mut connection = stream.finish().await?;
    assert_eq!(connection.identify_system().await?.system, identity.system);
    assert!(connection.drop_slot(&slot).await?);
    assert!(!connection.drop_slot(&slot).await?);
    let error = connection
        .start_physical(Some(&slot), from, TimelineId::FIRST)
        .await
        .err()
        .context("missing")?;
    assert_eq!(error.class(), PgErrorClass::NotFound);
    Ok(())
}

/// A dropped `next` or `status` loses no byte: the bytes received through
/// thousands of interrupted waits are those on disk.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_waits_lose_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pg = TestPostgres::start(dir.path(), Options::default().set("wal_keep_size", "1GB"))?;
    let mut connection = ReplicationConnection::connect(&over_socket(&pg)?).await?;
    let size = connection.show_segment_size().await?;
    let from = size.start_of(size.segment_of(connection.identify_system().await?.flush));
    let mut stream = connection.start_physical(None, from, TimelineId::FIRST).await?;
    pg.psql("create table t as select n, repeat('x', 700) from generate_series(1, 30000) n")?;
    let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
    let mut bytes = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_micros(200));
    let mut interrupted = 0u32;
    tokio::time::timeout(PATIENCE, async {
        while stream.position() < end {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    interrupted += 1;
                    let at = stream.position();
                    // Polled once, then dropped.
                    let mut status = std::pin::pin!(stream.status(at, Some(at), None, interrupted.is_multiple_of(3)));
                    let _ = futures::poll!(&mut status);
                }
                event = stream.next() => {
                    if let StreamEvent::Wal { data, .. } = event? {
                        bytes.extend_from_slice(&data);
                    }
                }
            }
        }
        anyhow::Ok(())
    })
    .await??;
    assert!(interrupted > 10, "{interrupted}");
    assert!(bytes == on_disk(pg.data_dir(), TimelineId::FIRST, size, from, stream.position())?);
    stream.finish().await?.identify_system().await?;
    Ok(())
}

/// A certificate authority and a server certificate for `localhost`, by openssl.
struct Certificates {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn make(dir: &Path, digest: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = |name: &str| dir.join(name);
        let openssl = |arguments: &[&str]| {
            finished(
                Command::new("openssl")
                    .args(arguments)
                    .current_dir(dir)
                    .stderr(std::process::Stdio::null()),
            )
        };
        let curve = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            digest,
        ];
        let ca = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ];
        openssl(&[&ca[..], &curve[..]].concat())?;
        let request = [
            "req",
            "-subj",
            "/CN=localhost",
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
        ];
        openssl(&[&request[..], &curve[..]].concat())?;
        std::fs::write(path("san"), "subjectAltName=DNS:localhost\n")?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            digest,
            "-extfile",
            "san",
            "-out",
            "server.crt",
        ])?;
        std::fs::set_permissions(
            path("server.key"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )?;
        Ok(Self {
            ca: path("ca.crt"),
            certificate: path("server.crt"),
            key: path("server.key"),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_scram_with_channel_binding() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for digest in ["-sha256", "-sha384"] {
        let files = Certificates::make(&dir.path().join(digest), digest)?;
        let options = Options::default()
            .tls(&files.certificate, &files.key)
            .hba("hostssl all all 127.0.0.1/32 scram-sha-256")
            .hba("hostssl replication all 127.0.0.1/32 scram-sha-256");
        let pg = TestPostgres::start(&dir.path().join(format!("pg{digest}")), options)?;
        pg.psql(&role_sql("holdfast", major(&pg)?))?;
        pg.psql("alter role holdfast password 'a secret'")?;
        let base = format!("host=localhost port={} user=holdfast dbname=postgres", pg.port());
        let secure: PgTarget =
            format!("{base} sslmode=verify-full sslrootcert={}", files.ca.display()).parse()?;
        let password = |text: &str| Password::Given(Secret::new(text));
        let target = secure.clone().with_password(password("a secret"));

        let mut connection = ReplicationConnection::connect(&target).await?;
        let identity = connection.identify_system().await?;
        let size = connection.show_segment_size().await?;
        let from = size.start_of(size.segment_of(identity.flush));
        pg.psql("create table t as select generate_series(1, 100000)")?;
        let end = lsn(&pg, "pg_current_wal_flush_lsn()")?;
        let mut stream = connection.start_physical(None, from, identity.timeline).await?;
        let bytes = receive_until(&mut stream, end).await?;
        assert!(bytes == on_disk(pg.data_dir(), identity.timeline, size, from, stream.position())?);

        let client = sql_connect(&target).await?;
        let row = client
            .query_one(
                "select ssl, current_setting('search_path') from pg_stat_ssl where pid = pg_backend_pid()",
                &[],
            )
            .await?;
        assert_eq!(
            (row.get::<_, bool>(0), row.get::<_, String>(1)),
            (true, "pg_catalog".to_owned())
        );

        // Refused: a wrong password, no password, no TLS, another authority,
        // another name.
        for wrong in [password("wrong"), Password::None] {
            let target = secure.clone().with_password(wrong);
            let error = ReplicationConnection::connect(&target)
                .await
                .err()
                .context("refused")?;
            assert_eq!(error.class(), PgErrorClass::Denied, "{error:?}");
            assert!(!format!("{error:?}").contains("a secret"));
            let error = sql_connect(&target).await.err().context("refused")?;
            assert!(
                matches!(error.class(), PgErrorClass::Denied | PgErrorClass::Invalid),
                "{error:?}"
            );
        }
        let plain: PgTarget = format!("{base} sslmode=disable").parse()?;
        let error = ReplicationConnection::connect(&plain.with_password(password("a secret"))).await;
        assert_eq!(error.err().context("refused")?.class(), PgErrorClass::Denied);
        let other = Certificates::make(&dir.path().join(format!("other{digest}")), digest)?;
        let stranger: PgTarget =
            format!("{base} sslmode=verify-full sslrootcert={}", other.ca.display()).parse()?;
        let error = ReplicationConnection::connect(&stranger)
            .await
            .err()
            .context("refused")?;
        assert!(matches!(error, PgError::Tls { .. }), "{error:?}");
        let error = sql_connect(&stranger).await.err().context("refused")?;
        assert!(matches!(error, PgError::Tls { .. }), "{error:?}");
        let address: PgTarget = secure
            .to_string()
            .replace("host=localhost", "host=127.0.0.1")
            .parse()?;
        let error = ReplicationConnection::connect(&address)
            .await
            .err()
            .context("refused")?;
        assert!(matches!(error, PgError::Tls { .. }), "{error:?}");
    }
    Ok(())
}

/// The printed statements are enough, and running them twice changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_agent_sql_may_do_its_work_and_no_more() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pg = TestPostgres::start(dir.path(), Options::default())?;
    let statements = role_sql("hold-fast", major(&pg)?);
    pg.psql("create table secret (n int)")?;
    pg.psql(&statements)?;
    pg.psql(&statements)?;
    let target: PgTarget = pg
        .conninfo("postgres")
        .replace("user=postgres", "user=hold-fast")
        .parse()?;
    let client = sql_connect_with(&target, Duration::ZERO).await?;
    let (start, stop) = if major(&pg)?.get() >= 15 {
        ("pg_backup_start('x', true)", "pg_backup_stop(false)")
    } else {
        (
            "pg_start_backup('x', true, false)",
            "pg_stop_backup(false, false)",
        )
    };
    client.query_one(&format!("select {start}::text"), &[]).await?;
    client
        .query_one(&format!("select labelfile from {stop}"), &[])
        .await?;
    client
        .query_one(
            "select pg_create_restore_point('x')::text, pg_switch_wal()::text",
            &[],
        )
        .await?;
    client
        .query_one("select pg_logical_emit_message(true, 'holdfast', 'x')::text", &[])
        .await?;
    client
        .query(
            "select setting from pg_settings where name = 'data_directory'",
            &[],
        )
        .await?;
    let denied = client
        .query("select * from public.secret", &[])
        .await
        .err()
        .context("denied")?;
    assert_eq!(PgError::from(denied).class(), PgErrorClass::Denied);
    let mut connection = ReplicationConnection::connect(&target).await?;
    connection
        .create_physical_slot(&"holdfast".parse()?, true)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_a_promotion_to_the_next_timeline() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let primary = TestPostgres::start(
        &dir.path().join("a"),
        Options::default().set("wal_keep_size", "1GB"),
    )?;
    let standby = primary.standby(&dir.path().join("b"))?;
    let target = over_socket(&standby)?;
    let mut connection = ReplicationConnection::connect(&target).await?;
    assert_eq!(connection.in_recovery(), Some(true));
    let size = connection.show_segment_size().await?;
    let from = size.start_of(size.segment_of(connection.identify_system().await?.flush));
    let mut stream = connection.start_physical(None, from, TimelineId::FIRST).await?;
    primary.psql("create table t as select generate_series(1, 10000)")?;
    let end = lsn(&primary, "pg_current_wal_flush_lsn()")?;
    let mut bytes = receive_until(&mut stream, end).await?;

    standby.promote()?;
    let (next, start) = tokio::time::timeout(PATIENCE, async {
        loop {
            match stream.next().await? {
                StreamEvent::TimelineEnd {
                    next_timeline,
                    next_start,
                } => {
                    return anyhow::Ok((next_timeline, next_start));
                }
                StreamEvent::Wal { data, .. } => bytes.extend_from_slice(&data),
                StreamEvent::Keepalive { .. } => {}
            }
        }
    })
    .await??;
    let second = TimelineId::new(2).context("2")?;
    assert_eq!((next, start), (second, stream.position()));
    // Asked again, the answer is the same.
    assert!(matches!(stream.next().await?, StreamEvent::TimelineEnd { .. }));
    let mut connection = stream.finish().await?;
    let history = connection
        .timeline_history(second)
        .await?
        .context("the history")?;
    assert_eq!(history.name, "00000002.history");
    let file = std::fs::read(standby.data_dir().join("pg_wal/00000002.history"))?;
    assert_eq!(&history.content[..], &file[..]);
    let parsed = holdfast_proto::pg::TimelineHistory::parse(second, std::str::from_utf8(&history.content)?)?;
    assert_eq!(parsed.begin(), Some(start));

    // The old timeline, asked for at its very end, is over at once.
    let mut stream = connection.start_physical(None, start, TimelineId::FIRST).await?;
    let over = tokio::time::timeout(PATIENCE, stream.next()).await??;
    assert_eq!(
        over,
        StreamEvent::TimelineEnd {
            next_timeline: second,
            next_start: start
        }
    );
    let connection = stream.finish().await?;

    standby.psql("insert into t select generate_series(1, 10000)")?;
    let end = lsn(&standby, "pg_current_wal_flush_lsn()")?;
    let mut stream = connection.start_physical(None, start, second).await?;
    bytes.extend(receive_until(&mut stream, end).await?);
    assert!(
        bytes == {
            let switch = size.start_of(size.segment_of(start));
            let mut disk =
                on_disk(standby.data_dir(), TimelineId::FIRST, size, from, switch).unwrap_or_default();
            disk.truncate((switch.get() - from.get()) as usize);
            disk.extend(on_disk(
                standby.data_dir(),
                second,
                size,
                start,
                stream.position(),
            )?);
            disk
        }
    );
    let mut events = Vec::new();
    WalReader::new(size, second, from).feed(from, &bytes, &mut events)?;
    assert!(events.len() >= 2);
    Ok(())
}

/// While we confirm what is flushed, the primary's fast shutdown does not wait
/// for us, and what it says is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_is_not_held_up() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut pg = TestPostgres::start(dir.path(), Options::default())?;
    let mut connection = ReplicationConnection::connect(&over_socket(&pg)?).await?;
    let slot: SlotName = "holdfast".parse()?;
    connection.create_physical_slot(&slot, true).await?;
    let from = connection
        .read_slot(&slot)
        .await?
        .and_then(|s| s.restart_lsn)
        .context("reserved")?;
    let mut stream = connection
        .start_physical(Some(&slot), from, TimelineId::FIRST)
        .await?;
    pg.psql("create table t as select generate_series(1, 1000)")?;
    receive_until(&mut stream, lsn(&pg, "pg_current_wal_flush_lsn()")?).await?;
    pg.begin_stop(StopMode::Fast)?;
    let mut messages = 0u32;
    let error = tokio::time::timeout(PATIENCE, async {
        loop {
            match stream.next().await {
                Ok(_) => {
                    messages += 1;
                    let at = stream.position();
                    if let Err(error) = stream.status(at, Some(at), None, false).await {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
    })
    .await?;
    assert_eq!(error.class(), PgErrorClass::Retry, "{error:?}");
    pg.wait_stopped(PATIENCE)?;
    assert!(messages < 1000, "the server had to ask {messages} times");
    // All of it, the shutdown's checkpoint included, was received.
    let control =
        holdfast_proto::pg::ControlFile::parse(&std::fs::read(pg.data_dir().join("global/pg_control"))?)?;
    assert_eq!(control.state.to_string(), "shut down");
    assert!(stream.position() > control.checkpoint);

    let error = ReplicationConnection::connect(&over_socket(&pg)?)
        .await
        .err()
        .context("it is down")?;
    assert_eq!(error.class(), PgErrorClass::Retry, "{error:?}");
    let error = sql_connect(&over_socket(&pg)?)
        .await
        .err()
        .context("it is down")?;
    assert!(matches!(error, PgError::Unreachable { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_is_tried_again_and_removed_wal_is_a_gap() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("min_wal_size", "2MB")
        .set("max_wal_size", "2MB")
        .set("max_slot_wal_keep_size", "1MB");
    let pg = TestPostgres::start(dir.path(), options)?;
    let mut connection = ReplicationConnection::connect(&over_socket(&pg)?).await?;
    let slot: SlotName = "holdfast".parse()?;
    connection.create_physical_slot(&slot, true).await?;
    let from = connection
        .read_slot(&slot)
        .await?
        .and_then(|s| s.restart_lsn)
        .context("reserved")?;
    let mut stream = connection
        .start_physical(Some(&slot), from, TimelineId::FIRST)
        .await?;
    pg.psql("select pg_terminate_backend(pid) from pg_stat_replication")?;
    let error = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    })
    .await?;
    assert!(matches!(error, PgError::ShuttingDown { .. }), "{error:?}");

    for _ in 0..8 {
        pg.psql("create table if not exists t (n int); insert into t values (1); select pg_switch_wal(); checkpoint")?;
    }
    wait_until("the slot has lost its WAL", || {
        Ok(pg.psql("select wal_status from pg_replication_slots")? == "lost")
    })?;
    for slot in [None, Some(&slot)] {
        let connection = ReplicationConnection::connect(&over_socket(&pg)?).await?;
        let error = match connection.start_physical(slot, from, TimelineId::FIRST).await {
            Err(error) => error,
            Ok(mut stream) => loop {
                if let Err(error) = tokio::time::timeout(PATIENCE, stream.next()).await? {
                    break error;
                }
            },
        };
        assert!(matches!(error, PgError::WalRemoved { .. }), "{error:?}");
        assert_eq!(error.class(), PgErrorClass::Gap);
    }
    Ok(())
}

/// Answers one connection with `replies`, one per message of the client.
async fn liar(replies: Vec<Vec<u8>>) -> Result<(PgTarget, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        let Ok((mut socket, _)) = listener.accept().await else {
            return;
        };
        let mut request = [0u8; 1024];
        for reply in replies {
            if !matches!(socket.read(&mut request).await, Ok(1..)) || socket.write_all(&reply).await.is_err()
            {
                return;
            }
        }
        let _ = socket.read(&mut request).await;
    });
    let target = format!("host=127.0.0.1 port={port} user=x sslmode=disable connect_timeout=2").parse()?;
    Ok((target, task))
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_refused() -> Result<()> {
    let ready = [message(b'R', &[0, 0, 0, 0]), message(b'Z', b"I")].concat();
    let wal = |start: u64, data: &[u8]| {
        let body = [&b"w"[..], &start.to_be_bytes(), &[0; 16], data].concat();
        message(b'd', &body)
    };
    // Before authentication no long message is waited for, and no password goes
    // out in clear.
    let huge = [&[b'R'][..], &(1u32 << 30).to_be_bytes()].concat();
    for (reply, class) in [
        (huge, PgErrorClass::Protocol),
        (message(b'R', &[0, 0, 0, 3]), PgErrorClass::Invalid),
        (message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]), PgErrorClass::Invalid),
        (message(b'R', &[0, 0, 0, 7]), PgErrorClass::Invalid),
        (message(b'?', b"what"), PgErrorClass::Protocol),
        (Vec::new(), PgErrorClass::Retry),
    ] {
        let (target, task) = liar(vec![reply.clone()]).await?;
        let target = target.with_password(Password::Given(Secret::new("pw")));
        let error = ReplicationConnection::connect(&target)
            .await
            .err()
            .context("refused")?;
        assert_eq!(error.class(), class, "{reply:?}: {error:?}");
        task.abort();
    }
    // SCRAM is not over before the server has proven itself.
    let sasl = message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0");
    let (target, _task) = liar(vec![sasl, ready.clone()]).await?;
    let error =
        ReplicationConnection::connect(&target.with_password(Password::Given(Secret::new("pw")))).await;
    assert_eq!(error.err().context("refused")?.class(), PgErrorClass::Protocol);

    // WAL from elsewhere, with a hole, doubled, cut off, or of unknown kind.
    let start = Lsn::new(1 << 20);
    let copy_both = message(b'W', &[0, 0, 0]);
    for lies in [
        wal(2 << 20, b"abc"),
        [wal(1 << 20, b"abc"), wal((1 << 20) + 4, b"d")].concat(),
        [wal(1 << 20, b"abc"), wal(1 << 20, b"abc")].concat(),
        message(b'd', b"w123"),
        message(b'd', b""),
        message(b'd', b"k12345678"),
        message(b'd', b"?"),
        [&[b'd'][..], &(2u32 << 20).to_be_bytes()].concat(),
        [message(b'c', b""), message(b'Z', b"I")].concat(),
    ] {
        let (target, _task) = liar(vec![ready.clone(), [copy_both.clone(), lies.clone()].concat()]).await?;
        let connection = ReplicationConnection::connect(&target).await?;
        let mut stream = connection.start_physical(None, start, TimelineId::FIRST).await?;
        let error = loop {
            match tokio::time::timeout(PATIENCE, stream.next()).await? {
                Ok(StreamEvent::Wal { start: at, .. }) => assert_eq!(at, start),
                Ok(event) => bail!("{event:?} from {lies:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.class(), PgErrorClass::Protocol, "{lies:?}: {error:?}");
    }
    // A name that is not the asked timeline's history.
    let history = [
        message(b'D', b"\0\x02\0\0\0\x0a../../evil\0\0\0\x01x"),
        message(b'Z', b"I"),
    ]
    .concat();
    let (target, _task) = liar(vec![ready, history]).await?;
    let mut connection = ReplicationConnection::connect(&target).await?;
    let error = connection
        .timeline_history(TimelineId::FIRST)
        .await
        .err()
        .context("refused")?;
    assert_eq!(error.class(), PgErrorClass::Protocol);
    Ok(())
}
