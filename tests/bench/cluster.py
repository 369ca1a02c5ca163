"""A private PostgreSQL with a database that looks like an ERP's: half of it pgbench's
tables, half rows of text, numbers and documents."""

import atexit
import os
import signal
import subprocess
import time
from pathlib import Path

from measured import Failed, tethered

PORT = "5432"


def programs():
    """The newest PostgreSQL of this machine; HOLDFAST_PG_BIN wins."""
    named = os.environ.get("HOLDFAST_PG_BIN")
    if named:
        return Path(named)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if not found:
        raise Failed("there is no PostgreSQL below /usr/lib/postgresql: install postgresql")
    return found[-1].parent


def not_root(command):
    """PostgreSQL refuses to run as root: as root, it runs as somebody else to itself."""
    if os.geteuid() != 0:
        return command
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000", *command]


def quietly(command, **more):
    """Runs a command that is not measured."""
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


ERP = """
CREATE TABLE document (
    id bigint PRIMARY KEY, company int NOT NULL, day date NOT NULL, state text NOT NULL, partner text NOT NULL,
    amount numeric(14,2) NOT NULL, note text NOT NULL, properties jsonb NOT NULL);
INSERT INTO document
SELECT n, n % 7, date '2020-01-01' + (n % 2200)::int, (array['draft','posted','cancel'])[1 + n % 3],
       'Partner ' || md5((n % 5000)::text), (n % 1000000) / 100.0,
       md5(n::text) || ' concrete, formwork and scaffolding, lot ' || n % 977 || ' ' || md5((n * 7)::text),
       jsonb_build_object('ref', md5((n * 3)::text), 'lines', n % 40, 'tax', (n % 20)::text || ' %')
FROM generate_series(1::bigint, {rows}) n;
CREATE INDEX ON document (day, company);
CREATE INDEX ON document (partner);
"""


class Cluster:
    """A server over `directory`; `start` makes it when it is not there."""

    def __init__(self, directory, settings):
        self.data, self.socket = directory / "data", directory / "socket"
        self.log, self.settings, self.bin, self.process = directory / "server.log", settings, programs(), None

    def make(self):
        self.data.parent.mkdir(parents=True, exist_ok=True)
        quietly(not_root([self.bin / "initdb", "-D", self.data, "-U", "postgres", "--data-checksums", "--no-sync",
                          "--locale=C.UTF-8", "-E", "UTF8", "--auth=trust"]))

    def start(self):
        self.socket.mkdir(exist_ok=True)
        options = {"listen_addresses": "", "unix_socket_directories": self.socket, "port": PORT, **self.settings}
        command = [str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with open(self.log, "ab") as log:
            # Tethered inside: the kernel forgets it where a process gets other rights.
            self.process = subprocess.Popen(not_root(tethered(command, "INT")), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        atexit.register(self.stop)
        deadline = time.monotonic() + 600
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the server does not start; see {self.log}")
            ready = subprocess.run([self.bin / "psql", "-XAtqc", "select not pg_is_in_recovery()", *self.where()],
                                   capture_output=True, text=True)
            if ready.stdout.strip() == "t":
                return
            time.sleep(0.1)

    def stop(self):
        if self.process:
            # Fast shutdown; SIGTERM would wait for every session.
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=120)
            self.process = None

    def where(self, database="postgres"):
        return ["-h", str(self.socket), "-p", PORT, "-U", "postgres", "-d", database]

    def sql(self, text, database="postgres"):
        return quietly([self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.where(database), "-c", text]).strip()

    def wait(self, condition):
        """Until `condition`, a query, answers true."""
        deadline = time.monotonic() + 600
        while self.sql(condition) != "t":
            if time.monotonic() > deadline:
                raise Failed(f"ten minutes went by and it did not come true: {condition}")
            time.sleep(0.1)

    def pgbench(self, *options):
        where = ["-h", str(self.socket), "-p", PORT, "-U", "postgres"]
        return quietly([self.bin / "pgbench", *where, *options, "bench"])

    def fill(self, scale, rows):
        self.sql("CREATE DATABASE bench")
        self.pgbench("-i", "-q", "-s", str(scale))
        self.sql(ERP.format(rows=rows), "bench")
        self.sql("VACUUM ANALYZE", "bench")
        self.sql("CHECKPOINT")

    def fingerprint(self):
        """What a restored copy must answer as well."""
        return self.sql(
            "SELECT (SELECT sum(hashtext(t::text)::bigint) FROM pgbench_accounts t), "
            "(SELECT sum(hashtext(d::text)::bigint) FROM document d)", "bench")

    def warm(self):
        """Reads the data directory once, so that every run finds it in memory."""
        for where, _, names in os.walk(self.data):
            for name in names:
                try:
                    with open(os.path.join(where, name), "rb") as file:
                        while file.read(1 << 22):
                            pass
                except OSError:
                    continue
