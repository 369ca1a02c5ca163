"""Entries of the log: that no drill is missing among them, and a month's coverage,
counted again. Part of verify.py; Python's standard library alone."""
import json
from verify_claims import micros
from verify_log import b64, hexsha, need, sha

RUNNER, COORDINATOR, EITHER = ["runner"], ["coordinator"], ["runner", "coordinator"]
TYPES = {"result": "https://holdfast.dev/recovery-drill/v1", "coverage": "https://holdfast.dev/recovery-coverage/v1"}
KINDS = {"intent": RUNNER, "abandoned": EITHER, "population": None, "received": COORDINATOR}

def entry(n, data, envelope, believe):
    """What an entry says of a drill, signed by whom it may be; None for other kinds."""
    kind, payload, message, signatures = envelope(data, "entry %d" % n)
    need(len(signatures) == 1, "entry %d has not one signature" % n)
    body, digest = json.loads(payload), hexsha(data)
    if kind == "application/vnd.in-toto+json":
        scope = body["predicate"].get("scope")
        kind, roles = ("result", RUNNER) if scope else ("coverage", COORDINATOR)
        need(body["predicateType"] == TYPES[kind], "entry %d is no statement that is known here" % n)
        cluster = "%(tenant)s/%(cluster)s" % scope if scope else None
    else:
        kind = kind[len("application/vnd.holdfast."):-len("+json")]
        if kind not in KINDS:
            return None
        roles = KINDS[kind] or (RUNNER if "draw" in body else COORDINATOR)
        cluster = body.get("cluster") or body.get("draw", {}).get("cluster")
    believe(signatures[0]["keyid"], roles, cluster, digest, n + 1, message, b64(signatures[0]["sig"]), "entry %d" % n)
    return kind, body, digest

def read_entries(export, leaves, tenant, envelope, believe):
    """The tenant's entries by their places, each as the log holds it."""
    found = {}
    for name in export.names("entries"):
        n, data = int(name), export.read("entries/" + name)
        need("%016d" % n == name and n < len(leaves) and sha(b"\0" + data) == leaves[n],
             "entries/%s is not what the log holds there" % name)
        found[n] = entry(n, data, envelope, believe)
        kind, body, _ = found[n] or need(False, "entries/%s says nothing about coverage" % name)
        scope = body["predicate"].get("scope", body["predicate"]) if kind in TYPES else {}
        whose = scope.get("tenant") or (body.get("cluster") or body.get("draw", {}).get("cluster") or body["tenant"] + "/").split("/")[0]
        need(whose == tenant, "entries/%s is another tenant's" % name)
    return found

def tenants_log(export, leaves, tenant, envelope, believe, own):
    """The tenant's entries, the drill's `own` places among them. Of others there are the hashes."""
    found = read_entries(export, leaves, tenant, envelope, believe)
    need(set(own) <= set(found), "entries/ lacks what is this drill's own")
    moments = [t for _, b, _ in found.values() for t in [b.get("at")] + [x["end"] for x in b.get("predicate", {}).get("timings", {}).get("phases", [])] if t]
    audit(found, lambda i: i["deadline"] < max(moments))
    for at, (kind, body, _) in found.items():
        for cluster, number in body["predicate"]["drills"].get("sequences", {}).items() if kind == "coverage" else ():
            counted = {n: x for n, x in found.items() if n < body["predicate"]["size"]}
            audit(counted, lambda i: i["at"] < body["predicate"]["until"])
            here = [x["sequence"] for what, x, _ in counted.values() if what == "intent" and x["cluster"] == cluster]
            need(max(here, default=0) == number, "%s had %d drills when entry %d was counted: a drill is missing" % (cluster, number, at))
    return "log: %d entries of %s, none missing between its drills; %d by their hashes alone%s" % (
        len(found), tenant, len(leaves) - len(found), unused_draws(found))

def unused_draws(found):
    used = {(body["cluster"], body.get("slot")) for kind, body, _ in found.values() if kind == "intent"}
    draws = [n for n, (kind, body, _) in found.items() if kind == "population" and "draw" in body
             and (body["draw"]["cluster"], body["draw"]["slot"]) not in used]
    return "; drawn and not used: entries %s" % draws if draws else ""

def whole_log(bundles, leaves, envelope, believe):
    """Every entry of the log, where an export has them: no drill is missing."""
    entries, found = [], {}
    for data in bundles:
        while data:
            size = int.from_bytes(data[:2], "big")
            entries, data = entries + [data[2:2 + size]], data[2 + size:]
    need([sha(b"\0" + x) for x in entries] == leaves, "the entries in tile/entries are not those that the log's hashes are of")
    for n, data in enumerate(entries):
        found[n] = entry(n, data, envelope, believe)
    found = {n: x for n, x in found.items() if x}
    audit(found, lambda i: False)
    return "whole log: %d entries, no drill missing%s" % (len(entries), unused_draws(found))

def audit(entries, late):
    """Each cluster's intents are numbered and chained, each is answered once by what answers it, if it is `late`."""
    last, answered = {}, set()
    for n, (kind, body, digest) in sorted(entries.items()):
        if kind == "intent":
            number, before = last.get(body["cluster"], (0, None))
            need((body["sequence"], body.get("previous")) == (number + 1, before),
                 "entry %d does not follow the intent before it: a drill is missing" % n)
            last[body["cluster"]] = (body["sequence"], digest)
        answer = body["intent"] if kind == "abandoned" else body["predicate"]["drill"].get("intent", {}).get("index") \
            if kind == "result" else None
        if answer is not None:
            place, text, named = entries.get(answer, ("", {}, "")), body.get("drill"), body.get("intent_digest")
            if kind == "result":
                drill = body["predicate"]["drill"]
                text, named = drill["id"], drill["intent"]["digest"]
            need(answer < n and place[0] == "intent" and (place[1]["drill"], place[2]) == (text, named) and answer not in answered,
                 "entry %d answers no open intent" % n)
            answered.add(answer)
        if kind == "population" and "tenant" in body:
            need((body["size"], body["digest"]) == (len(body.get("members", [])), listing(body.get("members", []))),
                 "entry %d is not what its digest says" % n)

        if kind == "received":
            place = entries.get(body["entry"], ("", {}, ""))
            need(body["entry"] < n and (place[0], place[2]) == ("result", body["digest"]), "entry %d names no restore" % n)
    missing = [n for n, (kind, body, _) in entries.items() if kind == "intent" and late(body) and n not in answered]
    need(not missing, "nothing answers entry %s, although its time is over: an entry is missing" % missing[:1])

def listing(members):
    lines = ["%s %s%s\n" % (m["cluster"], m["tier"], "".join(" %(scenario)s:%(level)s:%(every_ms)d" % d for d in m.get("drills", [])))
             for m in members]
    return hexsha("".join(lines).encode())

def count(entries, coverage):
    """Slots by tier and cluster, and drills begun in the month."""
    start, end = micros(coverage["from"]), micros(coverage["until"])
    entries = {n: e for n, e in sorted(entries.items()) if n < coverage["size"]}
    answers = {}
    for kind, body, _ in entries.values():
        if kind == "result" and "intent" in body["predicate"]["drill"]:
            answers.setdefault(body["predicate"]["drill"]["intent"]["index"], body["predicate"]["results"]["verdict"])
        elif kind == "abandoned":
            answers.setdefault(body["intent"], "ABANDONED")
    begun = [dict(body, us=micros(body["at"]), verdict=answers.get(n, "ABANDONED"))
             for n, (kind, body, _) in entries.items() if kind == "intent"]
    populations = [(n, body) for n, (kind, body, _) in entries.items() if kind == "population" and "draw" not in body]
    rules = {(m["cluster"], d["scenario"], d["level"], d["every_ms"]) for _, p in populations
             for m in p.get("members", []) for d in m.get("drills", [])}
    rows, used = {}, set()
    for cluster, scenario, level, every in rules:
        k = start // (every * 1000)
        while (k + 1) * every * 1000 <= end:
            a, b = k * every * 1000, (k + 1) * every * 1000
            k += 1
            force = [(n, p) for n, p in populations if micros(p["at"]) <= a][-1:]
            member = [m for _, p in force for m in p.get("members", []) if m["cluster"] == cluster]
            due = {"scenario": scenario, "level": level, "every_ms": every}
            if b <= start or not member or due not in member[0].get("drills", []):
                continue
            used.add(force[0][0])
            drills = [x for x in begun if x["cluster"] == cluster and a <= x["us"] < b
                      and x["scenario"] == scenario and x["level"] >= level]
            verdict = max(drills, key=lambda x: (x["us"], x["drill"]))["verdict"] if drills else "MISSED"
            row = rows.setdefault((member[0]["tier"], cluster, scenario, level, every), {})
            word = {"PASS": "passed", "PASS_WITH_EXCEPTIONS": "passed_with_exceptions", "MISSED": "missed"}.get(verdict, "failed")
            for name in ["expected", word] + (["executed"] if drills else []):
                row[name] = row.get(name, 0) + 1
    month = [x["verdict"] for x in begun if start <= x["us"] < end]
    passed, excepted = month.count("PASS"), month.count("PASS_WITH_EXCEPTIONS")
    sequences = {}
    for x in begun:
        sequences[x["cluster"]] = max(sequences.get(x["cluster"], 0), x["sequence"])
    inside = lambda text: start <= micros(text) < end
    slots = {(x["cluster"], x.get("slot")) for x in begun}
    draws = [body["draw"] for kind, body, _ in entries.values() if kind == "population" and "draw" in body and inside(body["at"])]
    unused = sum((x["cluster"], x["slot"]) not in slots for x in draws)
    restores = sum(kind == "received" and inside(body["ended"]) for kind, body, _ in entries.values())
    drills = {"begun": len(month), "passed": passed, "passed_with_exceptions": excepted, "unused_draws": unused,
              "failed": len(month) - passed - excepted, "real_restores": restores}
    drills.update({"sequences": sequences} if sequences else {})
    exceptions = [dict(drill=p["drill"]["id"], **{x: e[x] for x in ("accepts", "owner", "due")})
                  for kind, body, _ in entries.values() if kind == "result" for p in [body["predicate"]]
                  if inside(entries.get(p["drill"].get("intent", {}).get("index"), (0, {"at": "1970-01-01T00:00:00.0Z"}))[1]["at"])
                  for e in p.get("exceptions", [])]
    return rows, used, drills, exceptions

NAMES = ("expected", "executed", "passed", "passed_with_exceptions", "failed", "missed")

def verify(statement, export, origin, at, leaves, tree_root, envelope, believe):
    c = statement["predicate"]
    need((c["log"], bytes.fromhex(c["root"])) == (origin, tree_root(leaves[:c["size"]])) and c["size"] <= at,
         "it was counted from another log than this one")
    entries = read_entries(export, leaves, c["tenant"], envelope, believe)
    audit(entries, lambda i: i["at"] < c["until"])
    rows, used, drills, exceptions = count(entries, c)
    stated = {(r["tier"], r["cluster"], r["scenario"], r["level"], r["every_ms"]): [r[x] for x in NAMES] for r in c["clusters"]}
    again = {key: [row.get(x, 0) for x in NAMES] for key, row in rows.items()}
    tiers = {t["tier"]: [t[x] for x in NAMES] for t in c["tiers"]}
    sums = {tier: [sum(x) for x in zip(*(v for key, v in again.items() if key[0] == tier))] for tier in {k[0] for k in again}}
    need(stated == again and tiers == sums, "counting the entries again comes to something else")
    need(c["drills"] == drills and c.get("exceptions", []) == exceptions, "drills or exceptions of the month are not those in the log")
    need({p["index"] for p in c["populations"]} == used and all(entries[p["index"]][1]["digest"] == p["digest"] for p in c["populations"]),
         "the populations are not those in the log")
    total = [sum(x) for x in zip(*sums.values())] or [0] * 6
    return "coverage of %s in %s, counted again: %s" % (c["tenant"], c["month"], ", ".join("%d %s" % x for x in zip(total, NAMES)))
