"""The programs that are compared, each configured as its manual says for encryption on
and as many processes or threads as there are processors. Each backs up into one directory."""

import atexit
import json
import os
import shutil
import subprocess

from cluster import PORT, quietly
from measured import run, tethered

THREADS = os.cpu_count() or 2


class Holdfast:
    """The release build of this checkout. One repository directory for each region."""

    def __init__(self, program, directory, cluster, filestore=None, tier="bronze", regions=("here",)):
        self.program, self.directory, self.cluster, self.filestore = program, directory, cluster, filestore
        self.tier, self.regions = tier, regions
        self.env = {"HOLDFAST_CONFIG": str(directory / "holdfast.toml")}
        self.agent = None

    def version(self):
        return quietly([self.program, "--version"]).strip()

    def fresh(self):
        """A new repository, new keys, an enrolled agent."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.cluster.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        keys = self.directory / "keys"
        made = quietly([self.program, "keys", "generate", "--directory", keys, *self.actors(), "--json"])
        repository = self.replicas(json.loads(made)["trust_root"])
        (self.directory / "holdfast.toml").write_text(f'identity = "keys/recovery.agekey"\n{repository}')
        filestore = ""
        if self.filestore:
            filestore = f'[[cluster.filestore]]\nname = "files"\npath = "{self.filestore}"\nadapter = "none"\n'
        (self.directory / "agent.toml").write_text(
            f'name = "agent"\nstate_dir = "{self.directory}/state"\nsigning_key = "{keys}/agent.key"\n'
            f'recipients.file = "{keys}/recipients.toml"\n{repository}{self.coordinator(repository)}'
            f'[[cluster]]\ncluster = "bench/erp"\ntier = "{self.tier}"\n'
            f'postgres = "host={self.cluster.socket} port={PORT} user=postgres dbname=postgres"\n{filestore}'
        )
        self.operator("repo", "init", "--root-key", keys / "root.key")
        self.operator("trust", "enrol", "--root-key", keys / "root.key", "--name", "agent", "--role", "agent",
                      "--public", keys / "agent.pub", "--cluster", "bench/erp")

    def actors(self):
        """Who gets keys."""
        return ["--agent", "agent"]

    def coordinator(self, _repository):
        """The agent's section about its coordinator: it has none."""
        return ""

    def replicas(self, root):
        replicas = [f'{{ url = "file://{self.repository(n)}", region = "{name}" }}' for n, name in enumerate(self.regions)]
        return f'[repository]\ntrust_root = "{root}"\nreplicas = [{", ".join(replicas)}]\n'

    def repository(self, n=0):
        return self.directory / f"repository{n or ''}"

    def operator(self, *arguments):
        return quietly([self.program, *arguments], env={**os.environ, **self.env})

    def start(self):
        """The agent as it runs in production: it streams WAL, and is asked for backups."""
        with open(self.directory / "agent.log", "ab") as log:
            command = [self.program, "agent", "run", "--config", self.directory / "agent.toml"]
            self.agent = subprocess.Popen(tethered(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        atexit.register(self.stop)
        self.caught_up()

    def caught_up(self):
        """Waits until the agent has confirmed every finished segment of the server's WAL."""
        end = self.cluster.sql("SELECT pg_current_wal_flush_lsn()")
        self.cluster.wait(f"SELECT coalesce(bool_and(pg_wal_lsn_diff('{end}', restart_lsn) < pg_size_bytes("
                          "current_setting('wal_segment_size'))), false) FROM pg_replication_slots")

    def stop(self):
        if self.agent:
            self.agent.terminate()
            self.agent.wait(timeout=60)
            self.agent = None

    def backup(self):
        daemon = self.agent.pid if self.agent else None
        return run([self.program, "agent", "backup", "base", "--config", self.directory / "agent.toml"], daemon=daemon)

    def restore(self, target):
        return run([self.program, "restore", "run", "--cluster", "bench/erp", "--latest", "--no-filestores",
                    "--target", target], env=self.env)

    def backup_files(self):
        return run([self.program, "agent", "backup", "filestore", "--config", self.directory / "agent.toml"])

    def restore_files(self, target):
        """There is a database in it as well: an empty one."""
        return run([self.program, "restore", "run", "--cluster", "bench/erp", "--latest", "--target", target / "data",
                    "--filestore", f"files={target / 'files'}"], env=self.env)


class PgBackRest:
    """pgBackRest as Debian ships it: zstd level 3, AES-256, all processors. `more` are
    lines for its configuration."""

    def __init__(self, directory, cluster, more=""):
        self.directory, self.cluster, self.more = directory, cluster, more

    def version(self):
        return quietly(["pgbackrest", "version"]).strip()

    def config(self):
        return self.directory / "pgbackrest.conf"

    def repository(self):
        return self.directory / "repository"

    def archive_command(self):
        return f"pgbackrest --config={self.config()} --stanza=main archive-push %p"

    def fresh(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.config().write_text(
            f"[global]\nrepo1-path={self.repository()}\nrepo1-cipher-type=aes-256-cbc\n"
            f"repo1-cipher-pass=a-passphrase-for-this-comparison\ncompress-type=zst\ncompress-level=3\n"
            f"process-max={THREADS}\nstart-fast=y\nlog-level-file=off\nlog-level-console=warn\n"
            f"lock-path={self.directory}/lock\nspool-path={self.directory}/spool\nlog-path={self.directory}\n{self.more}"
            f"[main]\npg1-path={self.cluster.data}\npg1-socket-path={self.cluster.socket}\npg1-port={PORT}\n"
            f"pg1-user=postgres\n"
        )
        quietly(self.command("stanza-create"))
        quietly(self.command("check"))

    def command(self, *arguments):
        return ["pgbackrest", f"--config={self.config()}", "--stanza=main", *arguments]

    def backup(self, kind="full"):
        return run(self.command("backup", f"--type={kind}"))

    def restore(self, target):
        target.mkdir(mode=0o700, parents=True)
        return run(self.command("restore", f"--pg1-path={target}"))


class Restic:
    """restic as Debian ships it."""

    def __init__(self, directory):
        self.directory = directory
        self.env = {"RESTIC_REPOSITORY": str(directory / "repository"), "RESTIC_PASSWORD": "a-passphrase-for-this-comparison",
                    "RESTIC_CACHE_DIR": str(directory / "cache")}

    def version(self):
        return quietly(["restic", "version"]).strip()

    def repository(self):
        return self.directory / "repository"

    def fresh(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        quietly(["restic", "init"], env={**os.environ, **self.env})

    def backup(self, root):
        return run(["restic", "backup", "--quiet", "."], cwd=root, env=self.env)

    def restore(self, target):
        return run(["restic", "restore", "--quiet", "latest", "--target", str(target)], env=self.env)
