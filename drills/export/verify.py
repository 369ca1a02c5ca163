#!/usr/bin/env python3
"""Checks one drill's evidence: python3 verify.py --root FINGERPRINT [DIRECTORY]
Needs Python's standard library and the openssl command, no network. Exit 0: the
evidence is authentic. Exit 1: it is not, or no root fingerprint was given."""
import argparse, base64, hashlib, json, pathlib, subprocess, sys, tempfile

ED25519 = bytes.fromhex("302a300506032b6570032100")
HERE = pathlib.Path(__file__).resolve().parent

def read(path): return (HERE / path).read_bytes()
def sha(data): return hashlib.sha256(data).digest()
def hexsha(data): return sha(data).hex()
def node(left, right): return sha(b"\x01" + left + right)

def need(holds, why):
    if not holds:
        raise ValueError(why)

def b64(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "base64 is not in its one form")
    return data

def signed(key, message, signature, what):
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(key["der"]) + b"-----END PUBLIC KEY-----\n"
    with tempfile.TemporaryDirectory() as d:
        k, m, s = paths = [str(pathlib.Path(d, name)) for name in ("key", "message", "signature")]
        [pathlib.Path(path).write_bytes(data) for path, data in zip(paths, (pem, message, signature))]
        ed25519 = ["pkeyutl", "-verify", "-pubin", "-inkey", k, "-rawin", "-in", m, "-sigfile", s]
        args = ed25519 if key["der"].startswith(ED25519) else ["dgst", "-sha256", "-verify", k, "-signature", s, m]
        done = subprocess.run(["openssl"] + args, capture_output=True)
    need(done.returncode == 0, "the signature of %s on %s does not hold" % (key["name"], what))

def trust_chain(root):
    """The keys that the records enrol, by fingerprint, beginning with the root key."""
    keys, head, repository, names = {}, None, None, sorted(f.name for f in (HERE / "trust").iterdir())
    need(names and names == ["%016d" % n for n in range(len(names))], "the trust chain has a hole or is empty")
    for n, name in enumerate(names):
        record, what = read("trust/" + name), "trust record %d" % n
        start = len(record) - 16 - int.from_bytes(record[-16:-8], "big")
        need(record[-8:] == b"HFSIGNED" and start >= 0 and record[-17:-16] == b"\n", what + " is no signed object")
        line, signatures = record[start:-17].split(b"\n")
        header, signatures = json.loads(line), json.loads(signatures)
        body, repository = header["body"], repository or header["repository"]
        place = [header[x] for x in ("v", "kind", "key", "repository")] + [body["n"], header.get("previous")]
        need(place == [1, "trust", "trust/" + name, repository, n, head], what + " does not follow the one before")
        need((header["payload"]["size"], header["payload"]["sha256"]) == (start, hexsha(record[:start])) and signatures,
             what + " has another payload, or no signature")
        root = root or signatures[0]["key"]
        first = {a["key"]: dict(a, der=b64(a["public"])) for a in body["acts"] if n == 0 and a.get("key") == root and "role" in a}
        for s in signatures:
            key = (first if n == 0 else keys).get(s["key"], {"role": None})
            need(key["role"] == "root" and "believed" not in key and hexsha(key["der"]) == s["key"], what + " is not by the root")
            signed(key, b"holdfast-signed-object-v1\n" + line, b64(s["sig"]), what)
        for act in body["acts"]:
            old = keys.get(act["key"])
            need(not old or "believed" not in old, what + " names a key that was revoked before")
            if act["act"] == "revoke":
                old["believed"] = {link["sha256"] for link in act["believed"]}
                continue
            act["der"] = b64(act["public"])
            is_named = hexsha(act["der"]) == act["key"] and act["der"].startswith(ED25519) == (act["algorithm"] == "ed25519")
            need(is_named, what + " enrols another key than it names")
            if old:
                need(all(old[x] == act[x] for x in ("name", "role")), what + " enrols a key a second time")
                act["clusters"] = act["clusters"] and old["clusters"] and old["clusters"] + act["clusters"]
            keys[act["key"]] = act
        head = {"key": header["key"], "sha256": hexsha(record)}
    return keys, root, len(names)

def tree_root(row):
    """RFC 6962: pairs from the left; a node without a partner moves up as it is."""
    while len(row) > 1:
        row = [node(*row[i:i + 2]) if i + 1 < len(row) else row[i] for i in range(0, len(row), 2)]
    return row[0] if row else sha(b"")

def note(data):
    """A checkpoint: origin, size, root, the text that is signed, signature lines."""
    text, lines = data.decode().rsplit("\n\n", 1)
    origin, size, root = text.split("\n")[:3]
    need(lines.endswith("\n") and str(int(size)) == size, "a checkpoint is malformed")
    return origin, int(size), b64(root), (text + "\n").encode(), [x.split(" ") for x in lines[:-1].split("\n")]

def proof(name, entry):
    """Checks an entry's audit path; returns its index and the checkpoint it leads to."""
    head, checkpoint = read(name).decode().split("\n\n", 1)
    lines, (size, root) = head.split("\n"), note(checkpoint.encode())[1:3]
    sn, h, index = size - 1, sha(b"\0" + entry), (fn := int(lines[1][6:]))
    need(lines[:2] == ["c2sp.org/tlog-proof@v1", "index %d" % index] and 0 <= index < size, name + " is no proof")
    for p in map(b64, lines[2:]):
        need(sn > 0, name + " is too long")
        h = node(p, h) if fn & 1 or fn == sn else node(h, p)
        while fn == sn and not fn & 1:
            fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0 and h == root, name + " does not lead to its checkpoint")
    return index, checkpoint.encode()

def envelope(path):
    e = json.loads(data := read(path))
    need(json.dumps(e, separators=(",", ":"), ensure_ascii=False).encode() == data, path + " is not in its stored form")
    kind, payload = e["payloadType"], b64(e["payload"])
    return kind, payload, b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) + payload, e["signatures"]

def leaf_hashes(size):
    leaves = b""
    for n in range((size + 255) // 256):
        path, rest, width = "%03d" % (n % 1000), n // 1000, min(256, size - 256 * n)
        while rest:
            path, rest = "x%03d/%s" % (rest % 1000, path), rest // 1000
        leaves += read("tile/0/" + path + (".p/%d" % width if width < 256 else ""))
    return [leaves[i:i + 32] for i in range(0, len(leaves), 32)]

def judge(p):
    """The best verdict that the findings allow."""
    r, goals = p["results"], p.get("policy", {}).get("objectives", {})
    checks, files, db, rpo = r.get("checks", []), r.get("filestore"), r.get("database", {}), r.get("rpo", {})
    lags = [rpo.get(x + "_lag_ms") for x in ("database", "filestore") if x == "database" or files or x + "_lag_ms" in rpo]
    times = [r.get("rto", {}).get("actual_ms")]
    over = {name: [v for v in values if v is not None and v > goals[name + "_ms"]]
            for name, values in (("rto", times), ("rpo", lags)) if name + "_ms" in goals}
    wrong = {c["id"] for c in checks if c["result"] == "FAIL"} | {name for name in over if over[name]}
    files_bad = any((files or {}).get(x) for x in ("missing_in_backup", "digest_mismatch", "size_mismatch"))
    db_bad = db.get("checksum_failures") or db.get("amcheck_errors") or not all(v["agrees"] for v in db.get("reconciliation", []))
    wrong |= {name for name, bad in (("filestore", files_bad), ("database", db_bad)) if bad}
    unknown = [c for c in checks if c["mandatory"] and c["result"] in ("SKIPPED", "COULD_NOT_RUN")]
    unknown += [name for name in over if not over[name] and None in (times if name == "rto" else lags)]
    level, proven = p["drill"]["level"], {c["class"] for c in checks if c["data_proving"] and c["result"] == "PASS"}
    unknown += ({"INTEGRITY"} if level == "L1" else {"STRUCTURE", "REFERENTIAL", *(["APPLICATION"] * (level >= "L4"))}) - proven
    still_open = wrong - {e["accepts"] for e in p.get("exceptions", [])}
    return "FAIL" if still_open else "COULD_NOT_VERIFY" if unknown else "PASS_WITH_EXCEPTIONS" if wrong else "PASS"

def verify(root, say):
    keys, root, records = trust_chain(root)
    say("trust chain: %d records from root %s" % (records, root))
    origin, size = note(head := read("checkpoint"))[:2]
    at, final = proof("statement.tlog-proof", read("result.entry"))
    intent_at, held = proof("intent.tlog-proof", read("intent.entry"))
    leaves, earlier = leaf_hashes(size), [f.read_bytes() for f in (HERE / "checkpoints").glob("*")]
    need(final == head and intent_at < at, "statement.tlog-proof holds another head, or the intent came after the result")

    def believe(fingerprint, roles, cluster, digest, upto, message, signature, what):
        key = keys.get(fingerprint)
        need(key and key["role"] in roles and (not key["clusters"] or cluster in key["clusters"]),
             "key %s may not sign %s" % (fingerprint, what))
        vouched = {digest} | {hexsha(c) for c in earlier + [head] if note(c)[1] >= upto}
        need("believed" not in key or vouched & key["believed"], "the key of %s was revoked" % key["name"])
        signed(key, message, signature, what)
        say("%s: signed by %s %s" % (what, key["role"], key["name"]))
        return key
    for c in [head, held] + earlier:
        name, n, top, text, lines = note(c)
        need(name == origin and n <= len(leaves) == size and tree_root(leaves[:n]) == top,
             "the log's hashes do not continue the checkpoint of %d entries: it was changed, or entries were dropped" % n)
        own = [(f, b64(s)[4:]) for f, k in keys.items() for dash, name, s in lines if k["role"] == "coordinator" and
               (dash, name, b64(s)[:4]) == ("\u2014", origin, sha(origin.encode() + b"\n\x01" + k["der"][12:])[:4])]
        need(own, "no coordinator of the trust chain has signed the checkpoint of %d entries" % n)
        [believe(f, ["coordinator"], None, hexsha(c), n, text, sig, "log of %d entries" % n) for f, sig in own]
    kind, payload, message, logged = envelope("result.entry")
    same = envelope("envelope.json")
    need(payload == read("statement.json") and (kind, payload) == same[:2] and len(logged) == 1 and logged[0] in same[3],
         "statement.json, envelope.json and result.entry differ")
    need((kind, (s := json.loads(payload))["_type"], s["predicateType"]) == ("application/vnd.in-toto+json",
         "https://in-toto.io/Statement/v1", "https://holdfast.dev/recovery-drill/v1"), "this is no drill's statement")
    p, d, ref = s["predicate"], s["predicate"]["drill"], s["predicate"]["drill"]["intent"]
    cluster, who = p["scope"]["tenant"] + "/" + p["scope"]["cluster"], p["actors"]["runner"]
    by = {key["role"]: key for key in [believe(x["keyid"], ["runner"] if x == logged[0] else ["coordinator", "reviewer"], cluster,
                       hexsha(read("result.entry")), at + 1, message, b64(x["sig"]), "statement") for x in same[3]]}
    need("coordinator" in by and by["runner"]["algorithm"] == "ed25519" and (who["identity"], who["key"]) ==
         (by["runner"]["name"], logged[0]["keyid"]), "not signed by a coordinator and by the runner that it names")
    kind, payload, message, signatures = envelope("intent.entry")
    need((kind, len(signatures)) == ("application/vnd.holdfast.intent+json", 1), "intent.entry is no intent")
    i, digest, point = json.loads(payload), hexsha(read("intent.entry")), p.get("recovery_point")
    believe(signatures[0]["keyid"], ["runner"], cluster, digest, intent_at + 1, message, b64(signatures[0]["sig"]), "intent")
    need([ref["log"], ref["index"], ref["digest"], ref.get("checkpoint_size")] == [origin, intent_at, digest, note(held)[1]]
         and (i["drill"], i["cluster"]) == (d["id"], cluster) and all(
             i.get(x) == d.get(x) for x in ("sequence", "previous", "kind", "level", "scenario")) and all(
             t["start"] >= i["at"] for t in p["timings"]["phases"]) and (not point or point["target"] == i["recovery"]["target"]
             and i["recovery"].get("base") in (None, point["base"]["id"]) and i["recovery"].get("point") in (None, point.get("point")))
         and p.get("sampling", {}).get("seed") in (None, i.get("seed")), "the statement is not the answer to this intent")
    say("intent: entry %d of the log, announced before the work; result: entry %d; witness: %s%s" % (
        intent_at, at, ref["witness"], "" if ref["witness"] == "none" else " (cosignature not checked here)"))
    verdict, claimed = judge(p), p["results"]["verdict"]
    need(not claimed.startswith("PASS") or claimed == verdict, "it claims %s where its findings allow %s" % (claimed, verdict))
    say("drill %s of %s, level %s, %s: verdict %s" % (d["id"], cluster, d["level"], d["scenario"], claimed))
    return root

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root")
    parser.add_argument("directory", nargs="?", type=pathlib.Path, default=HERE)
    HERE, root = (options := parser.parse_args()).directory, options.root
    try:
        found = verify(root, lambda line: print("ok      " + line))
    except Exception as why:
        sys.exit("FAILED  %s: %s\nREFUSED: do not rely on this export" % (type(why).__name__, why))
    if not root:
        sys.exit("UNTRUSTED: it names root %s itself; pass --root with the fingerprint that you know" % found)
    print("VERIFIED: the evidence is authentic")
