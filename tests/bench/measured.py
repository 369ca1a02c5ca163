"""Runs a command and measures it as a whole: wall time, CPU time and peak memory of
the process and everything that it started, and what is on disk afterwards."""

import os
import resource
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass


class Failed(Exception):
    """A command that did not do what it was asked."""


@dataclass
class Figures:
    """One run of one command. Seconds and bytes."""

    wall: float
    cpu: float
    memory: int
    output: str = ""


def tethered(command, signal="TERM"):
    """A command that gets `signal` when this program dies, however it dies."""
    return ["setpriv", "--pdeathsig", signal, *command]


def descendants(roots):
    """Process ids of `roots` and all that descend from them, as /proc tells now."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(name))
            except (OSError, IndexError):
                continue
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(parents.get(pid, ()))
    return found


def proportional_memory(pid):
    """Bytes of memory that are this process's: shared pages count in proportion."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


class MemoryWatch(threading.Thread):
    """Samples the memory of processes and what they started; remembers the most.
    `without` are processes among them that do not count."""

    EVERY = 0.05

    def __init__(self, roots, without=()):
        super().__init__(daemon=True)
        self.roots, self.without, self.most, self.done = roots, set(without), 0, threading.Event()

    def run(self):
        while not self.done.wait(self.EVERY):
            counted = set(descendants(self.roots)) - self.without
            self.most = max(self.most, sum(map(proportional_memory, counted)))


def processor_time(pid):
    """Seconds of CPU that a process has used so far."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(command, cwd=None, env=None, daemon=None):
    """Runs `command` and measures it, together with the running process `daemon`
    when that does the work. Raises when it fails: a run that did not do its work has
    no time."""
    os.sync()
    cpu_of_daemon = processor_time(daemon) if daemon else 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = MemoryWatch([process.pid, *([daemon] if daemon else [])])
    watch.start()
    out, err = process.communicate()
    wall = time.monotonic() - started
    watch.done.set()
    watch.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\nended with {process.returncode}\n{out}{err}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    if daemon:
        cpu += processor_time(daemon) - cpu_of_daemon
    return Figures(wall, cpu, watch.most, out)


def stored(directory):
    """Bytes of all files below `directory`."""
    total = 0
    for where, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(where, name)).st_size for name in names)
    return total


def median(runs, field):
    """The median of one figure over the runs."""
    return statistics.median(getattr(run, field) for run in runs)
