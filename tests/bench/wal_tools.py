"""The programs that take WAL from a server, each with the same few verbs: `settings` that the
server needs, `begin` and `end`, `busy` (CPU and memory while it works), `finished` (WAL up to
a position is where it belongs)."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

from cluster import PORT
from measured import Failed, MemoryWatch, descendants, processor_time, tethered
from tools import Holdfast, PgBackRest

SEGMENT = 16 << 20
PATIENCE = 600


def position(text):
    """An LSN as a number."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def segment_name(number):
    """The file name of a segment of timeline 1."""
    return f"00000001{number >> 8:08X}{number & 0xFF:08X}"


def until(condition, what, every=0.005, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{seconds} s went by, and still not: {what}")
        time.sleep(every)


def adopt_orphans():
    """What our commands leave running becomes ours: then it can be measured and ended."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise Failed("the kernel does not let this process adopt orphans")


def await_orphans(known, seconds=45):
    """Waits for processes that were left running since `known` was taken, and ends those
    that stay. Their CPU time counts as ours only when they were waited for."""
    deadline = time.monotonic() + seconds
    while left := set(descendants([os.getpid()])) - known - {os.getpid()}:
        for pid in left:
            try:
                os.waitpid(pid, os.WNOHANG)
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
            except (ChildProcessError, ProcessLookupError):
                continue
        time.sleep(0.02)


def end_everything():
    """Ends all that this process started and has not ended yet."""
    for pid in descendants([os.getpid()]):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class Session:
    """One connection that answers one-line questions quickly."""

    def __init__(self, cluster):
        command = [str(cluster.bin / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", *cluster.where()]
        self.process = subprocess.Popen(tethered(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, sql):
        self.process.stdin.write(f"{sql};\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"the server does not answer: {sql}")
        return answer.strip()

    def acknowledged(self):
        """Up to where the receiver says that WAL is safe."""
        return position(self.ask("SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication"))


class Busy:
    """CPU, peak memory and wall time of a program from here to `stop`."""

    def __init__(self, program):
        self.program, self.started, self.cpu = program, time.monotonic(), program.cpu()
        pids = program.processes()
        self.watch = MemoryWatch(pids, without=program.bystanders())
        self.watch.start()

    def stop(self):
        self.watch.done.set()
        self.watch.join()
        return {"cpu_s": self.program.cpu() - self.cpu, "memory_bytes": self.watch.most}


class Nothing:
    """No archiving at all."""

    name = "none"

    def settings(self):
        return {"archive_mode": "off"}

    def begin(self):
        pass

    def end(self):
        pass

    def processes(self):
        return []

    def bystanders(self):
        return []

    def cpu(self):
        return 0.0

    def finished(self, _session, _lsn):
        return True

    def stored_at(self):
        return []


class Streaming(Nothing, Holdfast):
    """Holdfast's agent. Its numbers are those of the shipped tier, or, with a `tip`, what a
    coordinator with such a policy told it. The coordinator is stopped once it was heard: in
    production it runs on another machine."""

    def __init__(self, program, directory, cluster, tier="platinum", regions=("eu-1", "eu-2"), tip=None):
        Holdfast.__init__(self, program, directory, cluster, tier=tier, regions=regions)
        self.tip, self.name, self.ports = tip, "Holdfast", None

    def actors(self):
        return ["--agent", "agent", *(["--coordinator", "head"] if self.tip else [])]

    def coordinator(self, repository):
        if not self.tip:
            return ""
        place, keys = self.directory, self.directory / "keys"
        self.ports = free_ports(2)
        (place / "policy.toml").write_text(
            f'[tiers.{self.tier}]\ntip_interval = "{self.tip}"\n'
            f'[[cluster]]\ncluster = "bench/erp"\ntier = "{self.tier}"\n')
        (place / "coordinator.toml").write_text(
            f'name = "head"\nlisten_agents = "127.0.0.1:{self.ports[0]}"\nlisten_http = "127.0.0.1:{self.ports[1]}"\n'
            f'state_dir = "{place}/head"\npolicy = "{place}/policy.toml"\n'
            f'signing_key = "{keys}/head.key"\nlog_key = "{keys}/head-log.key"\n'
            f'[tls]\ncert = "{keys}/head.crt"\nkey = "{keys}/head.tls.key"\nclient_ca = "{keys}/ca.crt"\n{repository}')
        return (f'[coordinator]\nurl = "https://localhost:{self.ports[0]}"\nca = "{keys}/ca.crt"\n'
                f'cert = "{keys}/agent.crt"\nkey = "{keys}/agent.tls.key"\n')

    def begin(self):
        self.fresh()
        # Otherwise the agent would take a base backup while it is measured.
        self.backup()
        if not self.tip:
            self.start()
            return
        keys = self.directory / "keys"
        for key in ("head", "head-log"):
            self.operator("trust", "enrol", "--root-key", keys / "root.key", "--name", key, "--role", "coordinator",
                          "--public", keys / f"{key}.pub")
        with open(self.directory / "coordinator.log", "ab") as log:
            command = [str(self.program), "coordinator", "run", "--config", str(self.directory / "coordinator.toml")]
            head = subprocess.Popen(tethered(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.start()
            told = self.directory / "state/clusters/bench/erp/directives.json"
            until(lambda: told.exists(), f"the agent has heard its coordinator; see {self.directory}", seconds=60)
        finally:
            head.terminate()
            head.wait(timeout=60)

    def end(self):
        self.stop()
        self.cluster.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")

    def processes(self):
        return [self.agent.pid]

    def cpu(self):
        return processor_time(self.agent.pid)

    def most_resident(self):
        """The most memory that the agent ever had, shared pages in full: the kernel's own figure."""
        with open(f"/proc/{self.agent.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))

    def finished(self, session, lsn):
        if self.agent.poll() is not None:
            raise Failed(f"the agent has ended; see {self.directory / 'agent.log'}")
        return session.acknowledged() >= lsn

    def stored_at(self):
        """For each region, the WAL objects: first byte, byte after the last, and when it was
        there. The time is that of the inode's last change: the object is written, synced,
        linked to its name, the directory is synced, and then the temporary name is taken
        away, which is that change."""
        regions = []
        for n in range(len(self.regions)):
            found = []
            for path in self.repository(n).glob("tenants/*/clusters/*/lineages/*/wal/*/*/*"):
                if "#" not in path.name:
                    start, end = path.name.split("-")[:2]
                    found.append((int(start, 16), int(end, 16), path.stat().st_ctime))
            regions.append(found)
        return regions


class ReceiveWal(Nothing):
    """PostgreSQL's own receiver with a slot, asynchronous: neither compressed nor encrypted."""

    name = "pg_receivewal"

    def __init__(self, directory, cluster):
        self.directory, self.cluster, self.process = directory, cluster, None

    def begin(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.cluster.sql("SELECT pg_create_physical_replication_slot('receivewal', true)")
        where = ["-h", str(self.cluster.socket), "-p", PORT, "-U", "postgres"]
        command = [str(self.cluster.bin / "pg_receivewal"), "-D", str(self.directory), "-S", "receivewal", "-n", *where]
        with open(self.directory.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(tethered(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.cluster.wait("SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'")

    def end(self):
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)
            self.process = None
            self.cluster.wait("SELECT bool_and(NOT active) FROM pg_replication_slots")
            self.cluster.sql("SELECT pg_drop_replication_slot('receivewal')")
            shutil.rmtree(self.directory)

    def processes(self):
        return [self.process.pid]

    def cpu(self):
        return processor_time(self.process.pid)

    def finished(self, _session, lsn):
        """A segment has its final name once it is whole and synced."""
        if self.process.poll() is not None:
            raise Failed(f"pg_receivewal has ended; see {self.directory.with_suffix('.log')}")
        return (self.directory / segment_name((lsn - 1) // SEGMENT)).exists()


class Archiving(Nothing, PgBackRest):
    """pgBackRest as archive_command. Its processes are children of the server's archiver."""

    name = "pgBackRest"

    def __init__(self, directory, cluster, more=""):
        PgBackRest.__init__(self, directory, cluster, more)
        self.archiver = None

    def settings(self):
        return {"archive_mode": "on", "archive_command": self.archive_command()}

    def begin(self):
        self.fresh()
        self.archiver = int(self.cluster.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'"))

    def processes(self):
        return [self.archiver]

    def bystanders(self):
        return [self.archiver]

    def cpu(self):
        """Of the children that the archiver has waited for."""
        with open(f"/proc/{self.archiver}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def finished(self, _session, lsn):
        return bool(list(self.archived(segment_name((lsn - 1) // SEGMENT))))

    def archived(self, name="*"):
        return (path for path in self.repository().glob(f"archive/main/*/*/{name}-*") if ".tmp" not in path.name)

    def stored_at(self):
        """The last change of a segment's inode is its renaming to the final name."""
        found = []
        for path in self.archived("00000001" + "?" * 16):
            number = (int(path.name[8:16], 16) << 8) + int(path.name[16:24], 16)
            found.append((number * SEGMENT, (number + 1) * SEGMENT, path.stat().st_ctime))
        return [found]


class Acknowledged(threading.Thread):
    """Notes every few milliseconds up to where the receiver says that WAL is safe."""

    EVERY = 0.004

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.samples, self.done = cluster, [], threading.Event()

    def run(self):
        with Session(self.cluster) as session:
            while not self.done.wait(self.EVERY):
                lsn = session.acknowledged()
                if not self.samples or lsn > self.samples[-1][0]:
                    self.samples.append((lsn, time.time()))

    def stop(self):
        self.done.set()
        self.join()
        return self.samples


def free_ports(count):
    """Ports that nobody listens on now."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in listening]
    for one in listening:
        one.close()
    return ports


def restart(cluster, settings):
    """The server with other settings."""
    cluster.stop()
    cluster.settings.update(settings)
    cluster.start()
    cluster.sql("CHECKPOINT")
