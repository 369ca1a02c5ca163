"""How fast WAL comes back: as restore_command is called, and in a whole recovery."""

import os
import re
import resource
import shutil
import subprocess
import time

from cluster import Cluster
from measured import Failed, descendants, stored
from tools import Holdfast, PgBackRest
from wal_cost import ROWS, generate
from wal_tools import SEGMENT, Session, await_orphans, restart, segment_name, until

# Two processes of its own fetch ahead, as far as there is WAL.
AHEAD = "archive-async=y\narchive-get-queue-max=4GiB\n"


def restore_command(target):
    """What the restore has written for PostgreSQL: the last line of it counts."""
    text = (target / "postgresql.auto.conf").read_text()
    commands = re.findall(r"^restore_command *=? *'((?:[^']|'')*)'", text, re.MULTILINE)
    if not commands:
        raise Failed(f"the restore into {target} has written no restore_command")
    return commands[-1].replace("''", "'")


def call(command, target, name, path):
    """Calls it as PostgreSQL does: in the data directory, by a shell."""
    words = {"%f": name, "%p": path, "%%": "%"}
    line = re.sub("%[fp%]", lambda found: words[found.group()], command)
    done = subprocess.run(["sh", "-c", line], cwd=target, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{line}\nended with {done.returncode}\n{done.stdout}{done.stderr}")


def keep(fetched, path):
    """Gives it its name as PostgreSQL does, which syncs it, whoever synced it before."""
    with open(fetched, "rb") as file:
        os.fsync(file.fileno())
    os.rename(fetched, path)


def fetch(target, names, into):
    """Fetches one segment after the other, each under the name that PostgreSQL gives it first."""
    command = restore_command(target)
    known = set(descendants([os.getpid()]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    for name in names:
        call(command, target, name, "pg_wal/RECOVERYXLOG")
        keep(target / "pg_wal/RECOVERYXLOG", into / name)
    wall = time.monotonic() - began
    # Whoever fetches ahead ends when the recovery is over, which this says.
    (target / "recovery.signal").unlink()
    await_orphans(known)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"segments": len(names), "wall_s": wall, "cpu_s": cpu, "segments_per_s": len(names) / wall,
            "mb_per_s": len(names) * SEGMENT / 1e6 / wall}


def replay(target, expected, directory):
    """A whole recovery: from the start of the server to its first answer."""
    copy = Cluster(directory / "opened", {"archive_mode": "off", "hot_standby": "off", "shared_buffers": "1GB",
                                          "max_wal_size": "16GB", "autovacuum": "off"})
    copy.socket.parent.mkdir(exist_ok=True)
    copy.data = target
    known = set(descendants([os.getpid()]))
    began = time.monotonic()
    copy.start()
    wall = time.monotonic() - began
    try:
        if fingerprint(copy) != expected:
            raise Failed(f"the copy in {target} differs from the original")
    finally:
        copy.stop()
    await_orphans(known)
    return {"wall_s": wall}


def fingerprint(cluster):
    return cluster.sql("SELECT count(*), sum(hashtext(body)::bigint) FROM load", "bench")


class Source:
    """A cluster of which both programs have a base backup and all WAL."""

    def __init__(self, cluster, options):
        self.subject = Holdfast(options.program, options.directory / "holdfast", cluster)
        self.reference = PgBackRest(options.directory / "pgbackrest", cluster, AHEAD)
        restart(cluster, {"archive_mode": "on", "archive_command": self.reference.archive_command()})
        cluster.sql("TRUNCATE load", "bench")
        self.subject.fresh()
        self.reference.fresh()
        self.subject.backup()
        self.reference.backup()
        self.subject.start()
        cluster.sql("SELECT pg_switch_wal()")
        start, end = generate(cluster, options.directory, options.wal_mb, ROWS)
        self.names = [segment_name(n) for n in range(start // SEGMENT, (end - 1) // SEGMENT + 1)]
        with Session(cluster) as session:
            until(lambda: session.acknowledged() >= end, f"Holdfast has WAL up to {end:X}", every=0.05)
        cluster.wait(f"SELECT coalesce(last_archived_wal >= '{self.names[-1]}', false) FROM pg_stat_archiver")
        self.expected = fingerprint(cluster)
        self.subject.stop()
        cluster.stop()

    def programs(self):
        return ("Holdfast", self.subject), ("pgBackRest", self.reference)

    def restored(self, program, target):
        shutil.rmtree(target, ignore_errors=True)
        # What an earlier run has fetched ahead.
        shutil.rmtree(self.reference.directory / "spool", ignore_errors=True)
        program.restore(target)
        os.sync()
        return target


def same(names, first, second):
    for name in names:
        if (first / name).read_bytes() != (second / name).read_bytes():
            raise Failed(f"{first / name} and {second / name} differ")


def fetches(cluster, options, results):
    source, place = Source(cluster, options), options.directory
    target, kept = place / "restored", place / "fetched"
    try:
        for _ in range(options.runs):
            for name, program in source.programs():
                (kept / name).mkdir(parents=True)
                figures = fetch(source.restored(program, target), source.names, kept / name)
                figures["stored_bytes"] = stored(program.repository())
                results.note("fetch", "one after the other", name, figures)
            same(source.names, *(kept / name for name, _ in source.programs()))
            shutil.rmtree(kept)
            for name, program in source.programs():
                results.note("fetch", "recovery", name, replay(source.restored(program, target), source.expected, place))
            shutil.rmtree(target)
    finally:
        cluster.start()
