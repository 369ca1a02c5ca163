#!/usr/bin/env python3
"""Measures the WAL path on this machine, in one run, on one cluster.

How long after a commit its record is safe in the repository; what taking WAL costs the
primary; how fast it can be taken; how fast it comes back. Beside it: pg_receivewal with a
slot, and pgBackRest. Each runs in turn, several times, and the medians are printed.

Everything lies below --directory, which is cleared first. A quick look, two minutes:
  wal.py --runs 1 --seconds 3 --commits 500 --idle-commits 60 --archive-timeout 5 --wal-mb 128 --scale 1
"""

import argparse
import atexit
import json
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

from cluster import Cluster
from compare import processor, write
from measured import Failed
from tools import THREADS, Holdfast, PgBackRest
from wal_cost import cost, fill_pool, rate
from wal_durable import durable
from wal_fetch import fetches
from wal_tools import adopt_orphans, end_everything

PARTS = {"durable": durable, "cost": cost, "rate": rate, "fetch": fetches}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=Path("target/release/holdfast"), help="the holdfast to measure")
    parser.add_argument("--directory", type=Path, default=Path("target/bench/wal"), help="where everything goes")
    parser.add_argument("--runs", type=int, default=3, help="runs of each program at each task (default 3)")
    parser.add_argument("--scale", type=int, default=20, help="pgbench's scale: 15 MB each (default 20)")
    parser.add_argument("--commits", type=int, default=10_000, help="commits of a busy server (default 10000)")
    parser.add_argument("--idle-commits", type=int, default=10000, help="commits of an idle one, 50 a second (default 10,000)")
    parser.add_argument("--tip", default="1ms", help="a tip interval beside the shipped one (default 1ms, the least)")
    parser.add_argument("--archive-timeout", type=int, default=60, help="seconds, for pgBackRest (default 60)")
    parser.add_argument("--seconds", type=int, default=20, help="length of each measurement of cost (default 20)")
    parser.add_argument("--wal-mb", type=int, default=2048, help="WAL to take and to fetch, MiB (default 2048)")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part alone; repeat for more")
    parser.add_argument("--write", type=Path, help="write the tables into this Markdown file, between its marks")
    return parser.parse_args()


class Results:
    """Figures by part, case and program, run by run."""

    def __init__(self):
        self.rows = {}

    def note(self, part, case, program, figures):
        self.rows.setdefault((part, case, program), []).append(figures)
        said = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        print(f"  {part}: {case}: {program}: {said}", flush=True)

    def medians(self, part):
        for (of, case, program), runs in self.rows.items():
            if of == part:
                yield case, program, {name: statistics.median(run[name] for run in runs) for name in runs[0]}, len(runs)

    def measured(self):
        return [{"part": part, "case": case, "program": program, "runs": runs}
                for (part, case, program), runs in self.rows.items()]


def mega(value):
    return f"{value / 1e6:,.0f} MB"


def lines(head, rows):
    """A Markdown table; the first two columns are text."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "|".join("---" if n < 2 else "--:" for n in range(len(head))) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def durable_table(results):
    head = ["case", "program", "commits", "a second", "stored, p50", "p99", "most", "acknowledged, p50", "p99", "most",
            "runs"]
    rows = []
    for case, program, m, runs in results.medians("durable"):
        times = [f"{m[f'{kind}_{at}_ms']:,.0f} ms" if f"{kind}_{at}_ms" in m else ""
                 for kind in ("stored", "acknowledged") for at in ("p50", "p99", "max")]
        rows.append([case, program, f"{m['commits']:,.0f}", f"{m['commits_per_s']:,.0f}", *times, str(runs)])
    return lines(head, rows)


def cost_table(results):
    medians = list(results.medians("cost"))
    none = next(m["tps"] for _, program, m, _ in medians if program == "none")
    head = ["load", "archiving", "transactions a second", "ratio to none", "its CPU", "its peak memory", "WAL"]
    return lines(head, [[case, program, f"{m['tps']:,.0f}", f"{m['tps'] / none:.3f}",
                         *(["", ""] if program == "none" else [f"{m['cpu_s']:.2f} s", mega(m["memory_bytes"])]),
                         mega(m["wal_bytes"])] for case, program, m, _ in medians])


def rate_table(results):
    head = ["to", "program", "durable", "WAL", "generated in", "taken in", "its CPU", "its peak memory",
            "resident, before", "most", "stored"]
    sizes, rows = ("resident_before_bytes", "resident_most_bytes", "stored_bytes"), []
    for case, program, m, _ in results.medians("rate"):
        resident = [mega(m[name]) if name in m else "" for name in sizes]
        own = ["", ""] if program == "none" else [f"{m['cpu_s']:.2f} s", mega(m["memory_bytes"])]
        rows.append([case, program, f"{m['mb_per_s']:,.0f} MB/s", mega(m["wal_bytes"]), f"{m['generated_s']:.2f} s",
                     f"{m['wall_s']:.2f} s", *own, *resident])
    return lines(head, rows)


def fetch_table(results):
    head = ["work", "program", "wall", "segments a second", "rate", "CPU"]
    rows = []
    for case, program, m, _ in results.medians("fetch"):
        more = ["", "", ""]
        if "segments" in m:
            more = [f"{m['segments_per_s']:.1f}", f"{m['mb_per_s']:,.0f} MB/s", f"{m['cpu_s']:.2f} s"]
        rows.append([case, program, f"{m['wall_s']:.2f} s", *more])
    return lines(head, rows)


TABLES = {"durable": ("From commit to durable", durable_table), "cost": ("Cost to the primary", cost_table),
          "rate": ("Sustained rate", rate_table), "fetch": ("Fetching, and recovery", fetch_table)}


def page(options, results, parts, versions):
    text = [f"{processor()}, {THREADS} processors; medians of {options.runs} runs in turn. {', '.join(versions)}."]
    for part in parts:
        title, table = TABLES[part]
        text += ["", f"**{title}**", "", *table(results)]
    return "\n".join(text)


def main():
    options = arguments()
    options.directory, options.program = options.directory.absolute(), options.program.absolute()
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True)
    adopt_orphans()
    # Registered first, so it runs last: after the servers were asked to stop.
    atexit.register(end_everything)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    cluster = Cluster(options.directory / "cluster", {
        "wal_level": "replica", "archive_mode": "off", "max_wal_size": "16GB", "min_wal_size": "4GB",
        "checkpoint_timeout": "1h", "shared_buffers": "1GB", "autovacuum": "off", "log_checkpoints": "off",
    })
    cluster.make()
    cluster.start()
    cluster.fill(options.scale, 1)
    fill_pool(cluster)
    versions = [Holdfast(options.program, options.directory, cluster).version(),
                PgBackRest(options.directory, cluster).version(), f"PostgreSQL {cluster.sql('SHOW server_version')}"]
    # In this order whatever was asked for: what one part leaves in the cluster is the next one's.
    results, parts = Results(), [part for part in PARTS if not options.only or part in options.only]
    for part in parts:
        began = time.monotonic()
        print(TABLES[part][0], flush=True)
        PARTS[part](cluster, options, results)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    cluster.stop()
    text = page(options, results, parts, versions)
    print(f"\n{text}")
    facts = {"processor": processor(), "versions": versions, "options": {k: str(v) for k, v in vars(options).items()}}
    (options.directory / "results.json").write_text(json.dumps({"facts": facts, "measured": results.measured()}, indent=1))
    if options.write:
        write(options.write, text, "wal")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(str(failed))
