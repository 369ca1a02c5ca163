#!/usr/bin/env python3
"""Checks one drill's evidence: python3 verify.py --root FINGERPRINT [DIRECTORY]
Needs Python's standard library and the openssl command, no network. Exit 0: the
evidence is authentic. Exit 1: it is not, or no root fingerprint was given."""
import argparse, json, pathlib, sys
sys.dont_write_bytecode = True
import verify_claims as claims, verify_coverage as coverage
from verify_files import ED25519, Export
from verify_log import b64, hexsha, need, note, proof, sha, tree_root

def trust_chain(export, root):
    """The keys that the records enrol, by fingerprint, beginning with the root key."""
    keys, head, repository, names = {}, None, None, export.names("trust")
    need(names and names == ["%016d" % n for n in range(len(names))], "the trust chain has a hole or is empty")
    for n, name in enumerate(names):
        record, what = export.read("trust/" + name), "trust record %d" % n
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
            export.verify(key, b"holdfast-signed-object-v1\n" + line, b64(s["sig"]), what)
        for act in body["acts"]:
            if act["act"] == "require": continue  # approvals: no statement rests on them
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

def envelope(data, path):
    e = json.loads(data)
    need(json.dumps(e, separators=(",", ":"), ensure_ascii=False).encode() == data, path + " is not in its stored form")
    kind, payload = e["payloadType"], b64(e["payload"])
    return kind, payload, b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) + payload, e["signatures"]

def cosigned(export, checkpoint, witness):
    """That `witness`, as NAME+HASH+KEY, saw this checkpoint (C2SP cosignature/v1); when."""
    name, tag, key = witness.split("+", 2)
    key, text, lines = b64(key), *note(checkpoint)[3:]
    need(key[:1] == b"\4" and sha(name.encode() + b"\n" + key)[:4].hex() == tag, "%s is no witness's key" % witness)
    mine = [b64(s)[4:] for _, by, s in lines if (by, b64(s)[:4].hex()) == (name, tag)]
    need(mine, "%s has not cosigned the checkpoint of %d entries" % (name, note(checkpoint)[1]))
    seconds = int.from_bytes(mine[0][:8], "big")
    export.verify({"der": ED25519 + key[1:], "name": name}, b"cosignature/v1\ntime %d\n" % seconds + text, mine[0][8:], "a checkpoint")
    return "%s saw the checkpoint of %d entries, %d s after 1970" % (name, note(checkpoint)[1], seconds)

def verify(export, root, witnesses, say):
    read, located = export.read, lambda path, entry: proof(export.read(path), path, export.read(entry))
    keys, root, records = trust_chain(export, root)
    say("trust chain: %d records from root %s" % (records, root))
    origin, size = note(head := read("checkpoint"))[:2]
    at, final = located("statement.tlog-proof", "result.entry")
    leaves, earlier = export.leaf_hashes(size), [read("checkpoints/" + x) for x in export.names("checkpoints")]
    kind, payload, message, logged = envelope(read("result.entry"), "result.entry")
    need((kind, (s := json.loads(payload))["_type"]) == ("application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"),
         "this is no in-toto statement")
    p, of_month = s["predicate"], s["predicateType"] == "https://holdfast.dev/recovery-coverage/v1"
    need(of_month or s["predicateType"] == "https://holdfast.dev/recovery-drill/v1", "this is no drill's statement")
    real, drawn = of_month or p["drill"]["kind"] == "REAL_RESTORE", not of_month and p.get("sampling", {}).get("seed")
    intent_at, held = (None, head) if real else located("intent.tlog-proof", "intent.entry")
    drawn_at, under = located("population.tlog-proof", "population.entry") if drawn else (None, head)
    need(final == head and (real or intent_at < at), "statement.tlog-proof holds another head, or the intent came after the result")

    def believe(fingerprint, roles, cluster, digest, upto, message, signature, what, tell=True):
        key = keys.get(fingerprint)
        need(key and key["role"] in roles and (not key["clusters"] or cluster in key["clusters"]),
             "key %s may not sign %s" % (fingerprint, what))
        vouched = {digest} | {hexsha(c) for c in earlier + [head] if note(c)[1] >= upto}
        need("believed" not in key or vouched & key["believed"], "the key of %s was revoked" % key["name"])
        export.verify(key, message, signature, what)
        tell and say("%s: signed by %s %s" % (what, key["role"], key["name"]))
        return key
    for c in dict.fromkeys([head, held, under] + earlier):
        name, n, top, text, lines = note(c)
        need(name == origin and n <= len(leaves) == size and tree_root(leaves[:n]) == top,
             "the log's hashes do not continue the checkpoint of %d entries: it was changed, or entries were dropped" % n)
        own = [(f, b64(s)[4:]) for f, k in keys.items() for dash, name, s in lines if k["role"] == "coordinator" and
               (dash, name, b64(s)[:4]) == ("\u2014", origin, sha(origin.encode() + b"\n\x01" + k["der"][12:])[:4])]
        need(own, "no coordinator of the trust chain has signed the checkpoint of %d entries" % n)
        [believe(f, ["coordinator"], None, hexsha(c), n, text, sig, "checkpoint" if c == head else "log of %d entries" % n) for f, sig in own]
    same = envelope(read("envelope.json"), "envelope.json")
    need(payload == read("statement.json") and (kind, payload) == same[:2] and len(logged) == 1 and logged[0] in same[3],
         "statement.json, envelope.json and result.entry differ")
    leaf = hexsha(read("result.entry"))
    if of_month:
        believe(logged[0]["keyid"], ["coordinator"], None, leaf, at + 1, message, b64(logged[0]["sig"]), "statement")
        say(coverage.verify(s, export, origin, at, leaves, tree_root, envelope, believe))
        export.loose()
        return root
    d, cluster, who = p["drill"], p["scope"]["tenant"] + "/" + p["scope"]["cluster"], p["actors"]["runner"]
    claims.announced(p, d, real)
    by = [believe(x["keyid"], ["runner"] if x == logged[0] else ["coordinator", "reviewer"], cluster, leaf, at + 1, message,
                  b64(x["sig"]), "statement") for x in same[3]]
    runner, others = [k for k in by if k["role"] == "runner"][0], [k["name"] for k in by if k["role"] == "coordinator"]
    need(others and runner["algorithm"] == "ed25519" and (who["identity"], who["key"]) == (runner["name"], logged[0]["keyid"]),
         "not signed by a coordinator and by the runner that it names")
    for part in [claims.conflict(p, k["name"], others) for k in by if k["role"] == "reviewer"]:
        need(not part, "the reviewer %s: duties are not separated" % part)

    def before(path, want, upto):
        kind, payload, message, signatures = envelope(read(path), path)
        need((kind, len(signatures)) == (want, 1), path + " is not what it should be")
        believe(signatures[0]["keyid"], ["runner"], cluster, hexsha(read(path)), upto + 1, message, b64(signatures[0]["sig"]), path)
        return json.loads(payload)
    if not real:
        i = before("intent.entry", "application/vnd.holdfast.intent+json", intent_at)
        ref, point, draw = d["intent"], p.get("recovery_point"), p.get("sampling", {})
        need([ref["log"], ref["index"], ref["digest"], ref.get("checkpoint_size")] ==
             [origin, intent_at, hexsha(read("intent.entry")), note(held)[1]] and (i["drill"], i["cluster"]) == (d["id"], cluster)
             and all(i.get(x) == d.get(x) for x in ("sequence", "previous", "kind", "level", "scenario")) and all(
                 t["start"] >= i["at"] for t in p["timings"]["phases"])
             and (not point or point["target"] == i["recovery"]["target"]
                  and i["recovery"].get("base") in (None, point["base"]["id"]) and i["recovery"].get("point") in (None, point.get("point")))
             and draw.get("seed") == i.get("seed") and draw.get("slot") in (None, i.get("slot")),
             "the statement is not the answer to this intent")
        [say(cosigned(export, c, w)) for w in witnesses for c in ([held, under] if drawn else [held])]
        say("intent: entry %d of the log, announced before the work; result: entry %d; witness: %s%s" % (
            intent_at, at, ref["witness"], "" if ref["witness"] == "none" or witnesses else " (not checked: give --witness)"))
    if drawn:
        population = before("population.entry", "application/vnd.holdfast.population+json", drawn_at)
        names = [by for _, by, _ in note(under)[4]]
        say(claims.sampled(p, population, drawn_at, (note(under)[1], under), names, export))
    if export.has("tile/entries"):
        quiet = lambda *x: believe(*x, tell=False)
        say(coverage.whole_log(export.tiles("entries", size), leaves, envelope, quiet))
    elif export.has("entries"):
        own = [at] if real else [at, intent_at] + ([drawn_at] if drawn else [])
        say(coverage.tenants_log(export, leaves, p["scope"]["tenant"], envelope, lambda *x: believe(*x, tell=False), own))
    verdict, claimed = claims.judge(p), p["results"]["verdict"]
    need(not claimed.startswith("PASS") or claimed == verdict, "it claims %s where its findings allow %s" % (claimed, verdict))
    export.loose()
    say("%s %s of %s, level %s, %s: verdict %s" % ("restore" if real else "drill", d["id"], cluster, d["level"], d["scenario"], claimed))
    return root

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root")
    parser.add_argument("--witness", action="append", default=[], help="a witness's key, NAME+HASH+KEY, that must have cosigned")
    parser.add_argument("directory", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    export, root = Export((options := parser.parse_args()).directory), options.root
    try:
        found = verify(export, root, options.witness, lambda line: print("ok      " + line))
    except Exception as why:
        sys.exit("FAILED  %s: %s\nREFUSED: do not rely on this export" % (type(why).__name__, why))
    if rest := export.unchecked():
        print("NOT COVERED: nothing signed vouches for %d files, and they may say anything: %s" % (len(rest), ", ".join(rest)))
    if not root:
        sys.exit("UNTRUSTED: it names root %s itself; pass --root with the fingerprint that you know" % found)
    print("VERIFIED: the evidence is authentic%s" % ("; NOT what is named above as not covered" if rest else ""))
