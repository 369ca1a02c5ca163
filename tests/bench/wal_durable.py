"""How long after a commit its record is safe in the repository."""

import os
import re
import time
from bisect import bisect_left
from calendar import timegm

from cluster import quietly
from measured import Failed
from wal_tools import SEGMENT, Acknowledged, Archiving, Session, Streaming, position, restart, until

CLIENTS = 8
IDLE_RATE = 50
PAGE = 8192
RECORD = re.compile(r"len \(rec/tot\): *\d+/ *(\d+),.* lsn: ([0-9A-F/]+),.* desc: COMMIT "
                    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)")


def commits(cluster, start, end):
    """Every commit record between two positions: the position after it, and its own time.
    That time is taken before the record is written, so before the commit returns."""
    command = [cluster.bin / "pg_waldump", "-p", cluster.data / "pg_wal", "-r", "Transaction", "-s", start, "-e", end]
    found = []
    for line in quietly(command, env={**os.environ, "TZ": "UTC"}).splitlines():
        if record := RECORD.search(line):
            length, lsn, second, fraction = record.groups()
            moment = timegm(time.strptime(second, "%Y-%m-%d %H:%M:%S")) + float(fraction)
            found.append((record_end(position(lsn), int(length)), moment))
    return found


def record_end(lsn, length):
    """The position after a record that is shorter than a page: the header of a page that
    begins within it is not its own."""
    end = lsn + length
    if lsn // PAGE == (end - 1) // PAGE:
        return end
    return end + (40 if end // PAGE * PAGE % SEGMENT == 0 else 24)


def covered(objects, start):
    """Positions and the moments at which all WAL from `start` to there was stored. Objects
    overlap: what was merged later lies beside what it was made of, and the earlier counts."""
    steps, reached, waiting = [], start, []
    for first, last, stored in sorted(objects, key=lambda one: one[2]):
        waiting.append((first, last))
        before = reached
        while (reach := max((end for begin, end in waiting if begin <= reached), default=reached)) > reached:
            reached = reach
        waiting = [one for one in waiting if one[1] > reached]
        if reached > before:
            steps.append((reached, stored))
    if waiting:
        raise Failed(f"the repository has a hole from {reached:X} to {min(waiting)[0]:X}")
    return steps


def delays(found, steps, what):
    """For each commit how long it took until `steps` reached it, in milliseconds."""
    positions = [reached for reached, _ in steps]
    taken = []
    for lsn, committed in found:
        n = bisect_left(positions, lsn)
        if n == len(steps):
            raise Failed(f"{what} does not reach {lsn:X}, the end of a commit")
        taken.append((steps[n][1] - committed) * 1000)
    return taken


def spread(taken, prefix):
    ordered = sorted(taken)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
    return {f"{prefix}_p50_ms": at(0.50), f"{prefix}_p99_ms": at(0.99), f"{prefix}_max_ms": ordered[-1]}


def load(cluster, options, idle):
    """Commits of eight clients: some fifty a second, or as many as they can."""
    if idle:
        cluster.pgbench("-n", "-N", "-c", str(CLIENTS), "-R", str(IDLE_RATE), "-T", str(options.idle_commits // IDLE_RATE))
    else:
        cluster.pgbench("-n", "-N", "-c", str(CLIENTS), "-j", "2", "-t", str(-(-options.commits // CLIENTS)))


def measure(cluster, program, options, idle):
    streaming = isinstance(program, Streaming)
    start = cluster.sql("SELECT pg_current_wal_insert_lsn()")
    watch = Acknowledged(cluster)
    if streaming:
        watch.start()
    began = time.monotonic()
    load(cluster, options, idle)
    wall = time.monotonic() - began
    end = cluster.sql("SELECT pg_current_wal_insert_lsn()")
    found = commits(cluster, start, end)
    last = found[-1][0]
    with Session(cluster) as session:
        until(lambda: program.finished(session, last), f"{program.name} has stored WAL up to {last:X}", every=0.05)
    figures = {"commits": len(found), "commits_per_s": len(found) / wall}
    if streaming:
        # The sampler may be some milliseconds behind the other session.
        time.sleep(0.2)
        acknowledged = watch.stop()
        figures |= spread(delays(found, acknowledged, "what was acknowledged"), "acknowledged")
    # All WAL from the start on. What holds the start begins before it, and what was merged
    # later long before it: that must not be waited for where the smaller ones were there.
    regions = []
    for objects in program.stored_at():
        relevant = [one for one in objects if one[1] > position(start)]
        regions.append(covered(relevant, position(start)))
    each = [delays(found, steps, "the repository") for steps in regions]
    figures |= spread([max(of_one) for of_one in zip(*each)], "stored")
    return figures


def durable(cluster, options, results):
    place = options.directory
    subjects = [("shipped tip, 5 s", None), (f"tip of {options.tip}", options.tip)]
    cases = [(name, Streaming(options.program, place / "holdfast", cluster, tip=tip)) for name, tip in subjects]
    cases.append((f"archive_timeout of {options.archive_timeout} s", Archiving(place / "pgbackrest", cluster)))
    for n in range(options.runs):
        for name, program in cases:
            # Mostly waiting for archive_timeout: once is enough.
            if isinstance(program, Archiving) and n > 0:
                continue
            restart(cluster, {"archive_timeout": options.archive_timeout, **program.settings()})
            program.begin()
            for idle in (True, False):
                figures = measure(cluster, program, options, idle)
                results.note("durable", f"{'idle' if idle else 'busy'}, {name}", program.name, figures)
            program.end()
    restart(cluster, {"archive_timeout": 0, "archive_mode": "off"})
