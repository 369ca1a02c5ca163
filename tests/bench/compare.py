#!/usr/bin/env python3
"""Compares Holdfast with pgBackRest and restic on this machine, in one run.

One database and one filestore are made; then each program in turn backs them up and
restores them, several times, and the medians are printed as a table. The first restored
copies are compared with the original: when one differs, there is no table.

Everything lies below --directory, which is cleared first.
"""

import argparse
import json
import platform
import shutil
import sys
from pathlib import Path

import filestore
from cluster import Cluster
from measured import Failed, median, stored
from tools import THREADS, Holdfast, PgBackRest, Restic

HOLDFAST, PGBACKREST, RESTIC = "Holdfast", "pgBackRest", "restic"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=Path("target/release/holdfast"), help="the holdfast to measure")
    parser.add_argument("--directory", type=Path, default=Path("target/bench"), help="where everything goes")
    parser.add_argument("--runs", type=int, default=3, help="runs of each program at each task (default 3)")
    parser.add_argument("--scale", type=int, default=85, help="pgbench's scale: 15 MB each (default 85)")
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows of documents: 400 bytes each (default 3000000)")
    parser.add_argument("--transactions", type=int, default=20_000, help="transactions between two backups")
    parser.add_argument("--files", type=int, default=100_000, help="files in the filestore (default 100000)")
    parser.add_argument("--only", choices=["database", "files"], help="one half alone")
    parser.add_argument("--write", type=Path, help="write the tables into this Markdown file, between its marks")
    return parser.parse_args()


class Results:
    """Runs by task and program, with the bytes that the repository grew by."""

    def __init__(self):
        self.rows = {}

    def note(self, task, program, figures, bytes_stored=None):
        self.rows.setdefault(task, {}).setdefault(program, []).append((figures, bytes_stored))
        size = "" if bytes_stored is None else f", {bytes_stored / 1e6:.1f} MB stored"
        print(f"  {task}: {program} {figures.wall:.2f} s, {figures.cpu:.2f} s CPU, "
              f"{figures.memory / 1e6:.0f} MB memory{size}", flush=True)

    def medians(self):
        for task, programs in self.rows.items():
            for program, runs in programs.items():
                figures = [figures for figures, _ in runs]
                sizes = sorted(size for _, size in runs if size is not None)
                yield task, program, {
                    "wall_s": median(figures, "wall"),
                    "cpu_s": median(figures, "cpu"),
                    "memory_bytes": int(median(figures, "memory")),
                    "stored_bytes": sizes[len(sizes) // 2] if sizes else None,
                    "runs": len(runs),
                    "wall_s_all": [round(f.wall, 3) for f in figures],
                }


def restored_is_equal(target, original):
    """Starts the restored copy and asks it what the original answers."""
    copy = Cluster(target.parent / "opened", {"archive_mode": "off", "shared_buffers": "256MB"})
    copy.socket.parent.mkdir(exist_ok=True)
    copy.data = target
    copy.start()
    try:
        answer = copy.sql("SELECT pg_is_in_recovery()") and copy.fingerprint()
    finally:
        copy.stop()
    if answer != original:
        raise Failed(f"the copy in {target} differs from the original")


def databases(options, results):
    place = options.directory
    reference = PgBackRest(place / "pgbackrest", None)
    cluster = Cluster(place / "cluster", {
        "archive_mode": "on", "archive_command": "true", "wal_level": "replica",
        "max_wal_size": "8GB", "checkpoint_timeout": "1h", "shared_buffers": "1GB", "autovacuum": "off",
        "fsync": "off",
    })
    reference.cluster = cluster
    subject = Holdfast(options.program, place / "holdfast", cluster)
    print(f"A cluster: pgbench at scale {options.scale} and {options.rows} documents", flush=True)
    cluster.make()
    cluster.start()
    cluster.fill(options.scale, options.rows)
    cluster.stop()
    cluster.settings["archive_command"] = reference.archive_command()
    cluster.start()
    size = stored(cluster.data / "base")
    print(f"  {size / 1e9:.2f} GB", flush=True)
    target = place / "restored"
    reference.fresh()
    for n in range(options.runs):
        original = cluster.fingerprint()
        for program, tool in ((HOLDFAST, subject), (PGBACKREST, reference)):
            tool.fresh()
            cluster.sql("CHECKPOINT")
            cluster.warm()
            results.note("base backup, full", program, tool.backup(), stored(tool.repository()))
            shutil.rmtree(target, ignore_errors=True)
            results.note("restore", program, tool.restore(target))
            if n == 0:
                restored_is_equal(target, original)
            shutil.rmtree(target, ignore_errors=True)
        subject.start()
        for task, work in (("base backup, nothing changed", None),
                           (f"base backup after {options.transactions} transactions", options.transactions)):
            if work:
                cluster.pgbench("-n", "-N", "-c", "2", "-t", str(work // 2))
            cluster.sql("CHECKPOINT")
            subject.caught_up()
            for program, tool in ((HOLDFAST, subject), (PGBACKREST, reference)):
                before = stored(tool.repository())
                figures = tool.backup() if program == HOLDFAST else tool.backup("incr")
                results.note(task, program, figures, stored(tool.repository()) - before)
        subject.stop()
    cluster.stop()
    return {"data_bytes": size, "versions": [subject.version(), reference.version()]}


def files(options, results):
    place = options.directory
    root = place / "files"
    print(f"A filestore of {options.files} files", flush=True)
    size = filestore.fill(root, options.files)
    cluster = Cluster(place / "small", {"fsync": "off"})
    cluster.make()
    cluster.start()
    subject, reference = Holdfast(options.program, place / "holdfast", cluster, root), Restic(place / "restic")
    for n in range(options.runs):
        original = filestore.listing(root)
        for program, tool in ((HOLDFAST, subject), (RESTIC, reference)):
            tool.fresh()
            # Nothing is removed before the end: ext4 passes over inodes that were freed
            # a moment ago one by one, and every restore after the first would pay for it.
            target = place / f"restored-{n}-{program}"
            if program == HOLDFAST:
                # A restore begins with a base backup: that of an empty database.
                tool.backup()
            backup = tool.backup_files if program == HOLDFAST else lambda: reference.backup(root)
            before = stored(tool.repository())
            results.note("files, first", program, backup(), stored(tool.repository()) - before)
            before = stored(tool.repository())
            results.note("files, nothing changed", program, backup(), stored(tool.repository()) - before)
            target.mkdir()
            restore = tool.restore_files if program == HOLDFAST else tool.restore
            results.note("files, restore", program, restore(target))
            if n == 0 and filestore.listing(target / "files" if program == HOLDFAST else target) != original:
                raise Failed(f"the files that {program} restored differ from the original")
    cluster.stop()
    for target in place.glob("restored-*"):
        shutil.rmtree(target)
    return {"files": options.files, "file_bytes": size, "versions": [subject.version(), reference.version()]}


def table(results):
    lines = ["| work | program | wall | CPU | peak memory | stored | wall, ratio to Holdfast |",
             "|---|---|--:|--:|--:|--:|--:|"]
    own = {task: m["wall_s"] for task, program, m in results.medians() if program == HOLDFAST}
    for task, program, m in results.medians():
        size = "" if m["stored_bytes"] is None else f"{m['stored_bytes'] / 1e6:,.1f} MB"
        lines.append(f"| {task} | {program} | {m['wall_s']:.2f} s | {m['cpu_s']:.2f} s | {m['memory_bytes'] / 1e6:.0f} MB "
                     f"| {size} | {m['wall_s'] / own[task]:.2f} |")
    return "\n".join(lines)


def processor():
    with open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


def write(path, text, marks="measured"):
    """Puts the text between the marks of a page."""
    begin, end = f"<!-- {marks}: begin -->", f"<!-- {marks}: end -->"
    page = path.read_text()
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main():
    options = arguments()
    options.directory, options.program = options.directory.absolute(), options.program.absolute()
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True)
    results, facts = Results(), {"processor": processor(), "threads": THREADS}
    if options.only != "files":
        facts["database"] = databases(options, results)
    if options.only != "database":
        facts["filestore"] = files(options, results)
    said = [f"{facts['processor']}, {THREADS} threads or processes each; medians of {options.runs} runs in turn."]
    if "database" in facts:
        database = facts["database"]
        said.append(f"Database: {database['data_bytes'] / 1e9:.2f} GB. {', '.join(database['versions'])}.")
    if "filestore" in facts:
        store = facts["filestore"]
        said.append(f"Filestore: {store['files']:,} files, {store['file_bytes'] / 1e6:,.0f} MB. {', '.join(store['versions'])}.")
    text = "\n".join([*said, "", table(results)])
    print(f"\n{text}")
    measured = [{"task": task, "program": program, **m} for task, program, m in results.medians()]
    (options.directory / "results.json").write_text(json.dumps({"facts": facts, "measured": measured}, indent=1))
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(str(failed))
