#!/usr/bin/env python3
"""Restores from a Holdfast repository without Holdfast.

Follows docs/FORMAT.md and nothing else. Needs Python's standard library and the commands age, zstd and openssl. Reads one
replica, a directory. Verifies every signature and digest; stops at the first thing that is not right.

  restore.py REPLICA --root FINGERPRINT --identity FILE --cluster TENANT/CLUSTER
             [--data DIR --wal DIR [--base ID] [--lsn LSN] [--tablespace OID=DIR]...]
             [--filestore NAME=DIR [--entry N]]...

With --data it writes the data directory of the newest base backup (that a restore to --lsn may begin with), and with --wal
the WAL segments and histories that lead on from it; it prints what to put into postgresql.auto.conf. With --filestore it
writes the files of a journal as they were at entry N, or at the last one.
"""

import argparse
import base64
import functools
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

TAIL = 16
CONTEXT = b"holdfast-signed-object-v1\n"
NUMBER = "{:016d}".format


class Refused(Exception):
    """Something is not what it should be."""


def need(condition, why):
    if not condition:
        raise Refused(why)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def run(command, data=None, why=""):
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    need(done.returncode == 0, f"{why or command[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def lsn(text):
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


# Signed objects (FORMAT.md, 4)


class Signed:
    def __init__(self, data, key, repository, kind):
        need(len(data) >= TAIL and data[-8:] == b"HFSIGNED", f"{key}: no tail, truncated")
        length = int.from_bytes(data[-16:-8], "big")
        need(4 <= length <= min(16 << 20, len(data) - TAIL), f"{key}: the envelope's length does not fit")
        envelope = data[-TAIL - length : -TAIL]
        need(envelope.endswith(b"\n") and envelope.count(b"\n") == 2, f"{key}: the envelope is not two lines")
        self.line, signatures = envelope[:-1].split(b"\n")
        self.signatures = json.loads(signatures)
        self.header = json.loads(self.line)
        self.payload = data[: -TAIL - length]
        self.sha256 = sha256(data)
        self.key = key
        need(self.header["v"] == 1, f"{key}: version {self.header['v']} is not known")
        need(self.header["repository"] == repository, f"{key}: it belongs to another repository")
        need(self.header["key"] == key, f"{key}: it was signed as {self.header['key']}")
        need(self.header["kind"] == kind, f"{key}: a {self.header['kind']} where a {kind} belongs")
        payload = self.header["payload"]
        need(payload["size"] == len(self.payload), f"{key}: the payload has another size")
        need(payload["sha256"] == sha256(self.payload), f"{key}: the payload has another digest")
        need(1 <= len(self.signatures) <= 8, f"{key}: {len(self.signatures)} signatures")

    @property
    def body(self):
        return self.header["body"]

    def check(self, public_key_of):
        for signature in self.signatures:
            verify(public_key_of(signature["key"]), CONTEXT + self.line, base64.b64decode(signature["sig"]), self.key)


def verify(public, message, signature, what):
    """public is a DER SubjectPublicKeyInfo."""
    with tempfile.TemporaryDirectory() as scratch:
        at = lambda name: os.path.join(scratch, name)
        pem = base64.encodebytes(public).decode()
        pathlib.Path(at("key")).write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n")
        pathlib.Path(at("message")).write_bytes(message)
        pathlib.Path(at("signature")).write_bytes(signature)
        if len(public) == 44:
            command = ["pkeyutl", "-verify", "-pubin", "-inkey", at("key"), "-rawin", "-in", at("message")]
            command += ["-sigfile", at("signature")]
        else:
            command = ["dgst", "-sha256", "-verify", at("key"), "-signature", at("signature"), at("message")]
        run(["openssl", *command], why=f"{what}: a signature does not hold")


class Repository:
    def __init__(self, replica, root, cluster):
        self.replica = pathlib.Path(replica)
        self.cluster = cluster
        tenant, name = cluster.split("/")
        self.prefix = f"tenants/{tenant}/clusters/{name}/"
        document = json.loads(self.read("repository.json"))
        need(document["format"] == 1, "the repository has a format that this reader does not know")
        self.id = document["id"]
        self.keys, self.believed = {}, {}
        self.load_trust(root)

    def read(self, key):
        return (self.replica / key).read_bytes()

    def list(self, prefix):
        """Keys below a prefix that ends in a slash, in order."""
        base = self.replica / prefix
        found = (p for p in base.rglob("*") if p.is_file() and not p.name.startswith("."))
        return sorted(prefix + p.relative_to(base).as_posix() for p in found)

    # Trust (FORMAT.md, 10)

    def load_trust(self, root):
        previous = None
        numbers = [key for key in self.list("trust/") if re.fullmatch(r"trust/\d{16}", key)]
        need(numbers, "there is no trust chain")
        for n, key in enumerate(numbers):
            need(key == "trust/" + NUMBER(n), f"trust record {n} is missing")
            record = Signed(self.read(key), key, self.id, "trust")
            record.check(lambda f: self.root_key(f, n, root, record))
            need(record.body["n"] == n and record.header.get("previous") == previous, f"{key} does not follow")
            for act in record.body["acts"]:
                self.apply(act)
            previous = {"key": key, "sha256": record.sha256}
        for fingerprint, key in self.keys.items():
            if key["revoked"]:
                self.believed[fingerprint] = self.reached(key["revoked"]["believed"])

    def root_key(self, fingerprint, n, root, record):
        if n > 0:
            key = self.keys.get(fingerprint)
            need(key and key["role"] == "root" and not key["revoked"], f"{fingerprint} may not sign trust records")
            return key["public"]
        need(fingerprint == root, "UNTRUSTED: the chain does not begin with the root that was given")
        for act in record.body["acts"]:
            if act["act"] == "enrol" and act["key"] == root and act["role"] == "root":
                public = base64.b64decode(act["public"])
                need(sha256(public) == root, "UNTRUSTED: the root's public key is another one")
                return public
        raise Refused("UNTRUSTED: record 0 does not enrol the root")

    def apply(self, act):
        if act["act"] == "revoke":
            self.keys[act["key"]]["revoked"] = act
            return
        need(act["act"] == "enrol", f"an act of trust that is not known: {act['act']}")
        public = base64.b64decode(act["public"])
        need(sha256(public) == act["key"], "an enrolment names another key than it brings")
        held = self.keys.get(act["key"])
        if held is None:
            self.keys[act["key"]] = {"role": act["role"], "public": public, "clusters": act["clusters"], "revoked": None}
        else:
            need(not held["revoked"] and held["role"] == act["role"], "an enrolment that is not allowed")
            both = held["clusters"] and act["clusters"]
            held["clusters"] = held["clusters"] + act["clusters"] if both else []

    def reached(self, links):
        """Digests of what a revocation still believes: follow previous, each by the digest of the whole object."""
        found, links = set(), list(links)
        while links:
            link = links.pop()
            path = self.replica / link["key"]
            if link["sha256"] in found or not path.exists() or sha256(path.read_bytes()) != link["sha256"]:
                continue
            found.add(link["sha256"])
            data = path.read_bytes()
            length = int.from_bytes(data[-16:-8], "big")
            header = json.loads(data[-TAIL - length : -TAIL].split(b"\n")[0])
            links += [header["previous"]] if "previous" in header else []
        return found

    def signed(self, key, kind):
        """The object at a key of this cluster, believed."""
        signed = Signed(self.read(key), key, self.id, kind)

        def public_key_of(fingerprint):
            held = self.keys.get(fingerprint)
            need(held, f"{key}: signed by {fingerprint}, which nobody enrolled")
            need(held["role"] == "agent", f"{key}: signed by a {held['role']}")
            need(not held["clusters"] or self.cluster in held["clusters"], f"{key}: signed for another cluster")
            still = not held["revoked"] or signed.sha256 in self.believed[fingerprint]
            need(still, f"{key}: its signer was revoked")
            return held["public"]

        signed.check(public_key_of)
        return signed


# Keys (FORMAT.md, 9)


class Keyring:
    def __init__(self, repository, identity):
        self.scratch = tempfile.TemporaryDirectory()
        self.identities = {}
        for key in repository.list(repository.prefix + "keys/data/"):
            signed = repository.signed(key, "key")
            body = signed.body
            need(key.split("/")[-2] == body["fingerprint"], f"{key}: it holds another key than it is named by")
            need(sha256(body["recipient"].encode()) == body["fingerprint"], f"{key}: its fingerprint is wrong")
            done = subprocess.run(["age", "-d", "-i", identity], input=signed.payload, capture_output=True, check=False)
            if done.returncode == 0:
                path = pathlib.Path(self.scratch.name) / body["fingerprint"]
                path.touch(mode=0o600)
                path.write_bytes(done.stdout)
                self.identities[body["fingerprint"]] = path
        need(self.identities, "the identity opens no key of this cluster")

    def open(self, sealed, sealed_to):
        """What age and zstd make of sealed bytes."""
        need(sealed_to in self.identities, f"no key opens what is sealed to {sealed_to}")
        compressed = run(["age", "-d", "-i", str(self.identities[sealed_to])], sealed, "age")
        return run(["zstd", "-d", "-q", "-c"], compressed, "zstd")


# Manifests (FORMAT.md, 6 and 7)


class Content:
    def __init__(self, repository, keyring):
        self.repository, self.keyring = repository, keyring

    def stored(self, kind, digest, size):
        data = self.repository.read(f"{self.repository.prefix}{kind}/{digest[:2]}/{digest}")
        need(len(data) == size and sha256(data) == digest, f"{kind} {digest} is damaged")
        return data

    @functools.lru_cache(maxsize=8)
    def pack(self, digest, size, sealed_to):
        return self.keyring.open(self.stored("packs", digest, size), sealed_to)

    def entries(self, parts):
        """Each entry of a manifest: its catalogue line, and a way to its bytes."""
        for part in parts:
            index = self.stored("indexes", part["index"]["sha256"], part["index"]["size"])
            head, *index = map(json.loads, run(["zstd", "-d", "-q", "-c"], index).splitlines())
            sealed = self.stored("packs", part["catalogue"]["sha256"], part["catalogue"]["size"])
            _, *lines = map(json.loads, self.keyring.open(sealed, part["sealed_to"]).splitlines())
            need(len(index) == len(lines) == part["entries"], "index and catalogue have different numbers of entries")
            for clear, line in zip(index, lines):
                extents = clear.get("x", [])
                size = sum(extent[3] for extent in extents)
                need(size == (line["size"] if line["type"] == "file" else 0), f"{line['path']}: its extents do not fit")
                yield line, functools.partial(self.pieces, head["packs"], extents)

    def pieces(self, packs, extents):
        for place, block, offset, length, _ in extents:
            pack = packs[place]
            plain = self.pack(pack["sha256"], pack["size"], pack["sealed_to"])
            need(len(plain) == sum(raw for _, raw in pack["blocks"]), "a pack does not fit its table of blocks")
            need(offset + length <= pack["blocks"][block][1], "an extent lies outside of its block")
            start = sum(raw for _, raw in pack["blocks"][:block]) + offset
            yield plain[start : start + length]


def path_of(line):
    raw = base64.b64decode(line["path_bytes"]) if "path_bytes" in line else line["path"].encode()
    parts = raw.split(b"/")
    need(raw and not raw.startswith(b"/") and not {b"", b".", b".."} & set(parts), f"a path that leads out: {raw!r}")
    return os.fsdecode(raw)


def write(line, pieces, target):
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    with open(target, "wb") as file:
        for piece in pieces():
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(target, line["mode"] or 0o600)


# A base backup (FORMAT.md, 14)


def choose_base(repository, wanted, until):
    found = []
    for key in repository.list(repository.prefix + "lineages/"):
        if "/base/" in key:
            base = repository.signed(key, "base")
            if wanted in (None, base.body["id"]) and (until is None or lsn(base.body["stop_lsn"]) <= until):
                found.append(base)
    need(found, "no base backup from which this target can be reached")
    return max(found, key=lambda base: (base.body["stopped"], base.body["id"]))


def restore_data(content, base, data, tablespaces):
    os.mkdir(data, 0o700)
    for oid, place in tablespaces.items():
        os.mkdir(place, 0o700)
        os.makedirs(os.path.join(data, "pg_tblspc"), mode=0o700, exist_ok=True)
        os.symlink(os.path.abspath(place), os.path.join(data, "pg_tblspc", oid))
    missing = [str(oid) for oid in base.body["tablespaces"] if str(oid) not in tablespaces]
    need(not missing, f"say where tablespaces {', '.join(missing)} go: --tablespace OID=DIR")
    written = 0
    for line, pieces in content.entries(base.body["parts"]):
        path = path_of(line)
        target = os.path.join(data, path)
        own_link = re.fullmatch(r"pg_tblspc/\d+", path)
        if path == "tablespace_map" or own_link:
            continue
        if line["type"] == "directory":
            os.makedirs(target, mode=0o700, exist_ok=True)
        elif line["type"] == "symlink":
            os.symlink(line["note"], target)
        else:
            write(line, pieces, target)
            written += 1
    need(path == "global/pg_control", "global/pg_control is not the last entry")
    return written


# WAL (FORMAT.md, 11)


def timelines_to(repository, lineage, newest):
    """The timelines that lead to `newest`, oldest first, each with the position at which the next one left it."""
    ways = [(newest, None)]
    key = f"{repository.prefix}lineages/{lineage}/wal/{newest:08X}.history"
    if (repository.replica / key).exists():
        text = repository.signed(key, "history").payload.decode()
        rows = [row.split() for row in text.splitlines() if row.strip() and not row.startswith("#")]
        ways = [(int(row[0]), lsn(row[1])) for row in rows] + ways
    return ways


def restore_wal(repository, keyring, base, wal, until):
    os.makedirs(wal, exist_ok=True)
    lineage, size = base.body["lineage"], base.body["segment_size"]
    prefix = f"{repository.prefix}lineages/{lineage}/wal/"
    objects = {}
    for key in repository.list(prefix):
        name = re.fullmatch(r"([0-9A-F]{8})/([0-9A-F]{16})/([0-9A-F]{16})-([0-9A-F]{16})-\w+", key[len(prefix) :])
        if name:
            timeline, segment, start, end = (int(text, 16) for text in name.groups())
            objects.setdefault(timeline, {}).setdefault(segment, []).append((start, end, key))
        elif key.endswith(".history"):
            pathlib.Path(wal, key.rsplit("/", 1)[1]).write_bytes(repository.signed(key, "history").payload)
    newest = max(objects)
    position = lsn(base.body["start_lsn"]) // size * size
    ways = [way for way in timelines_to(repository, lineage, newest) if way[0] >= base.body["timeline"]]
    need(ways[0][0] == base.body["timeline"], "the newest timeline does not descend from the base's")
    for timeline, left_at in ways:
        segment = position // size
        while left_at is None or segment * size < left_at:
            run_of = objects.get(timeline, {}).get(segment)
            if not run_of:
                need(not any(later > segment for later in objects.get(timeline, {})), f"WAL is missing at {segment * size:X}")
                break
            position = write_segment(repository, keyring, run_of, wal, timeline, segment, size)
            if position < (segment + 1) * size:
                break
            segment += 1
        if left_at is not None:
            need(position >= left_at, f"WAL of timeline {timeline} ends before {left_at:X}")
            position = left_at // size * size
    need(until is None or position >= until, f"WAL ends at {position:X}, before the target")
    need(position >= lsn(base.body["stop_lsn"]), "WAL ends before the base backup is consistent")
    return position, newest


def write_segment(repository, keyring, run_of, wal, timeline, segment, size):
    start = position = segment * size
    data = bytearray(size)
    while True:
        covering = [o for o in run_of if o[0] <= position < o[1]]
        if not covering:
            later = [o for o in run_of if o[0] > position]
            need(not later, f"WAL is missing at {position:X}")
            break
        first, end, key = max(covering, key=lambda o: o[1])
        plain = wal_of(repository, keyring, key, first, end)
        data[position - start : end - start] = plain[position - first :]
        position = end
    per_log = (1 << 32) // size
    name = f"{timeline:08X}{segment // per_log:08X}{segment % per_log:08X}"
    pathlib.Path(wal, name).write_bytes(data)
    return position


def wal_of(repository, keyring, key, start, end):
    signed = repository.signed(key, "wal")
    need((lsn(signed.body["start"]), lsn(signed.body["end"])) == (start, end), f"{key}: its name lies")
    plain, at, reached = b"", 0, start
    for chunk in signed.body["chunks"]:
        sealed = signed.payload[at : at + chunk["size"]]
        need(sha256(sealed) == chunk["sha256"] and lsn(chunk["start"]) == reached, f"{key}: a chunk is not the one listed")
        plain += keyring.open(sealed, chunk["sealed_to"])
        at, reached = at + chunk["size"], lsn(chunk["end"])
        need(len(plain) == reached - start, f"{key}: a chunk has another length")
    need(at == len(signed.payload) and reached == end, f"{key}: its chunks do not fill it")
    return plain


# A filestore (FORMAT.md, 7)


def restore_filestore(repository, content, name, target, last):
    prefix = f"{repository.prefix}filestores/{name}/"
    numbers = [int(key[len(prefix) :]) for key in repository.list(prefix)]
    need(numbers, f"filestore {name} has no journal")
    last = max(numbers) if last is None else last
    newest = repository.signed(prefix + NUMBER(last), "journal")
    previous, files = None, {}
    for n in range(newest.body["checkpoint"], last + 1):
        entry = repository.signed(prefix + NUMBER(n), "journal")
        need(entry.body["n"] == n and entry.body["filestore"] == name, f"entry {n} is not what it is named")
        need(previous is None or entry.header["previous"] == previous, f"entry {n} does not follow the one before")
        previous = {"key": entry.key, "sha256": entry.sha256}
        for line, pieces in content.entries(entry.body["parts"]):
            if line["type"] == "removed":
                files.pop(path_of(line), None)
            elif line["type"] != "dirty":
                files[path_of(line)] = (line, pieces)
    os.makedirs(target)
    for path, (line, pieces) in sorted(files.items()):
        if line["type"] == "directory":
            os.makedirs(os.path.join(target, path), exist_ok=True)
        elif line["type"] == "symlink":
            os.symlink(line["note"], os.path.join(target, path))
        else:
            write(line, pieces, os.path.join(target, path))
    return len(files)


def pairs(texts):
    return dict(text.split("=", 1) for text in texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replica")
    for name in ("--root", "--identity", "--cluster"):
        parser.add_argument(name, required=True)
    for name in ("--data", "--wal", "--base"):
        parser.add_argument(name)
    parser.add_argument("--lsn", type=lsn)
    parser.add_argument("--tablespace", action="append", default=[])
    parser.add_argument("--filestore", action="append", default=[])
    parser.add_argument("--entry", type=int)
    given = parser.parse_args()
    try:
        repository = Repository(given.replica, given.root, given.cluster)
        keyring = Keyring(repository, given.identity)
        content = Content(repository, keyring)
        if given.data:
            base = choose_base(repository, given.base, given.lsn)
            count = restore_data(content, base, given.data, pairs(given.tablespace))
            print(f"base backup {base.body['id']}: {count} files")
            if given.wal:
                end, timeline = restore_wal(repository, keyring, base, given.wal, given.lsn)
                print(f"WAL up to {end >> 32:X}/{end & 0xFFFFFFFF:X} on timeline {timeline}")
                print(f"restore_command = 'cp {os.path.abspath(given.wal)}/%f %p'")
                print(f"recovery_target_timeline = '{timeline}'")
        for name, target in pairs(given.filestore).items():
            print(f"filestore {name}: {restore_filestore(repository, content, name, target, given.entry)} files")
    except Refused as refused:
        sys.exit(f"refused: {refused}")


if __name__ == "__main__":
    main()
