"""What taking WAL costs the primary, and how fast it can be taken."""

import re
import time

from measured import stored
from wal_tools import Archiving, Busy, Nothing, ReceiveWal, Session, Streaming, position, restart, until

CLIENTS = 8
WRITERS = 2
BATCH = 16 << 20

# 16 MiB of hexadecimal text, kept so that reading it costs little: WAL made of it
# compresses to about half.
POOL = """
CREATE TABLE pool (body text);
ALTER TABLE pool ALTER body SET STORAGE EXTERNAL;
INSERT INTO pool SELECT string_agg(md5(random()::text || n || k), '')
FROM generate_series(1, 64) n, generate_series(1, 8192) k GROUP BY n;
CREATE TABLE piece AS SELECT substr(body, 1900 * k + 1, 1900) AS body FROM pool, generate_series(0, 136) k;
CREATE TABLE load (LIKE piece);
"""
MESSAGES = "SELECT count(pg_logical_emit_message(true, 'bench', body)) FROM pool;\n"
ROWS = "INSERT INTO load SELECT body FROM piece;\n"


def fill_pool(cluster):
    cluster.sql(POOL, "bench")
    cluster.sql("VACUUM ANALYZE", "bench")


def generate(cluster, directory, megabytes, sql):
    """Writes so much WAL as fast as two sessions can, in transactions of 16 MiB. Returns
    where it begins and ends; the last segment is complete."""
    script = directory / "generate.sql"
    script.write_text(sql)
    start = position(cluster.sql("SELECT pg_current_wal_insert_lsn()"))
    times = max(1, round(megabytes * (1 << 20) / BATCH / WRITERS))
    cluster.pgbench("-n", "-f", str(script), "-c", str(WRITERS), "-j", str(WRITERS), "-t", str(times))
    return start, position(cluster.sql("SELECT pg_switch_wal()"))


def transactions(cluster, seconds):
    """Transactions per second over so long."""
    said = cluster.pgbench("-n", "-N", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds))
    return float(re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE).group(1))


def cost(cluster, options, results):
    place = options.directory
    programs = [
        Nothing(),
        Streaming(options.program, place / "holdfast", cluster),
        Archiving(place / "pgbackrest", cluster),
        ReceiveWal(place / "receivewal", cluster),
    ]
    for _ in range(options.runs):
        for program in programs:
            restart(cluster, program.settings())
            program.begin()
            transactions(cluster, max(1, options.seconds // 4))
            # Every measurement begins with pages that are written to WAL whole.
            cluster.sql("CHECKPOINT")
            start = position(cluster.sql("SELECT pg_current_wal_insert_lsn()"))
            busy = Busy(program)
            tps = transactions(cluster, options.seconds)
            figures = {"tps": tps, **busy.stop()}
            figures["wal_bytes"] = position(cluster.sql("SELECT pg_current_wal_insert_lsn()")) - start
            program.end()
            results.note("cost", "pgbench -N", program.name, figures)


def rate(cluster, options, results):
    place = options.directory
    one = Streaming(options.program, place / "holdfast", cluster, tier="bronze", regions=("here",))
    two = Streaming(options.program, place / "holdfast", cluster)
    cases = [
        ("generator alone", Nothing()),
        ("one directory", ReceiveWal(place / "receivewal", cluster)),
        ("one directory", one),
        ("two directories", two),
    ]
    restart(cluster, Nothing().settings())
    # The server makes its files for WAL once and uses them again: not the first case alone.
    generate(cluster, place, options.wal_mb, MESSAGES)
    cluster.sql("CHECKPOINT")
    for _ in range(options.runs):
        for name, program in cases:
            restart(cluster, program.settings())
            program.begin()
            results.note("rate", name, program.name, sustained(cluster, program, options))
            program.end()


def sustained(cluster, program, options):
    figures, streaming = {}, isinstance(program, Streaming)
    if streaming:
        # The configuration bundle that an agent begins with.
        time.sleep(2)
        figures["resident_before_bytes"] = program.most_resident()
    busy, began = Busy(program), time.monotonic()
    start, end = generate(cluster, options.directory, options.wal_mb, MESSAGES)
    generated = time.monotonic() - began
    with Session(cluster) as session:
        until(lambda: program.finished(session, end), f"{program.name} has WAL up to {end:X}", every=0.01)
    wall = time.monotonic() - began
    figures |= busy.stop()
    figures |= {"wal_bytes": end - start, "wall_s": wall, "generated_s": generated, "mb_per_s": (end - start) / 1e6 / wall}
    if streaming:
        figures["resident_most_bytes"] = program.most_resident()
        figures["stored_bytes"] = sum(stored(program.repository(n)) for n in range(len(program.regions)))
    return figures
