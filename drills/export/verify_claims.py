"""What a drill's statement may claim: the verdict that its findings allow, the
sample that the log's checkpoint draws, and who may have reviewed it. Part of
verify.py; Python's standard library alone, pure functions."""
import datetime
from verify_log import need, sha

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


def micros(text):
    """Microseconds since 1970 of a moment as statements write it."""
    moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    return (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1)

def moment(us):
    text = (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=us)).isoformat(timespec="microseconds")
    return text + "Z"

def listed(text, why):
    """The lines of a listing, which has one form: in order, none twice."""
    lines = text.decode().splitlines()
    need(text.decode() == "".join(x + "\n" for x in sorted(set(lines))), why)
    return lines

def sampled(p, population, index, checkpoint, signers, export):
    """Draws again what the statement says was drawn. `population` was logged at
    `index`; `checkpoint` is (size, bytes) of the one over it, `signers` the names
    on its lines; `export` has the files that it names by digest."""
    s, draw, wrong = p["sampling"], population["draw"], "the sample is not the drawn one: "
    def byproduct(digest):
        data = export.read("byproducts/" + digest)
        need(sha(data).hex() == digest, "byproducts/%s is not of that digest" % digest)
        return data
    cluster, intent = p["scope"]["tenant"] + "/" + p["scope"]["cluster"], p["drill"]["intent"]
    window, points, percent = draw.get("window"), draw.get("points"), draw.get("files_percent")
    need(not (window and points), wrong + "the population is of moments and of points")
    what = "points %d %s" % (points["count"], points["digest"]) if points else "operator"
    listing = "%s\n%s\n" % (draw["cluster"], "%s %s" % (window["from"], window["until"]) if window else what)
    listing += "" if percent is None else "files %d\n" % percent
    span = micros(window["until"]) - micros(window["from"]) if window else points["count"] if points else 1
    digest = sha(listing.encode())
    need((population["size"], population["digest"], draw["cluster"]) == (abs(span), digest.hex(), cluster),
         wrong + "the population is another cluster's, or not what its digest says")
    need([s.get(x) for x in ("population_index", "checkpoint_size", "slot", "population_digest", "population_size", "window")]
         == [index, checkpoint[0], draw["slot"], population["digest"], population["size"], window],
         wrong + "population, slot, window or checkpoint are not those that were logged")
    need(index < checkpoint[0] <= intent["index"], wrong + "the seed's checkpoint was not between population and intent")
    # A line by anybody else would be a way to try seeds until one pleases.
    need(sorted(signers) == sorted([intent["log"]] + ([intent["witness"]] if intent["witness"] != "none" else [])),
         wrong + "the seed's checkpoint has other signatures than the log's and the witness's")
    seed = sha(checkpoint[1] + draw["slot"].encode() + digest)
    need(s["seed"] == seed.hex(), wrong + "the seed does not follow from that checkpoint")
    drawn, goal, number = None, None, int.from_bytes(seed[:8], "big")
    if window and span > 0:
        drawn = moment(micros(window["from"]) + number % span)
        goal = {"kind": "TIME", "value": drawn}
    if points:
        lines = listed(byproduct(points["digest"]), wrong + "the listing of points is not in its form")
        need(len(lines) == points["count"], wrong + "the listing of points is another")
        drawn, name = lines[number % span].split(" ", 1)
        goal = {"kind": "NAME", "value": name}
    method = ("seeded-point" if points else "seeded-window") if drawn else "operator"
    need((s["method"], s.get("selected")) == (method, drawn), wrong + "the seed draws another moment")
    target = p.get("recovery_point", {}).get("target")
    need(not drawn or not target or target == goal, wrong + "another moment was restored")
    files, said = s.get("file_sample"), "moment %s" % (drawn or "was named")
    if files:
        lines = listed(byproduct(files["population_digest"]), wrong + "the listing of files is not in its form")
        chosen = files.get("selected", [])
        ranked = [x for _, x in sorted((sha(seed + bytes.fromhex(x)), x) for x in lines)][:files["drawn"]]
        need((files["population"], files["drawn"]) == (len(lines), len(ranked)) and (chosen == ranked or not chosen and len(ranked) > 64),
             wrong + "the seed draws other files")
        # As many as were announced before the seed was known, rounded up, and no fewer than 16.
        least = min(len(lines), max(16, -(-len(lines) * (percent or 0) // 100)))
        need(len(ranked) >= least, wrong + "it has fewer files than were announced, or than 16")
        need(percent is None or len(ranked) == least, wrong + "it has more files than were announced")
        said += ", %d of %d files, %s," % (len(ranked), len(lines), "whose share nobody announced" if percent is None
                                           else "the %d %% that were announced" % percent)
    for b in p.get("byproducts", []):
        byproduct(b["digest"])
    return said + " drawn again"

def announced(p, d, real):
    """A drill has an intent and its place among its cluster's; a restore has none."""
    need((d["kind"] == "REAL_RESTORE") == real == ("intent" not in d) == (d["sequence"] == 0),
         "a drill has an intent, a restore that was needed has none")
    s = p.get("sampling", {})
    need("selected" not in s or "seed" in s, "it claims a drawn moment without a seed")
    need(not p["results"]["verdict"].startswith("PASS") or "seed" in s and s.get("file_sample"),
         "it claims a pass and names no files that were drawn, read and hashed again")

def conflict(p, reviewer, coordinators):
    """The part that the reviewer had in the drill already, if any."""
    a = p["actors"]
    parts = [("ran it", [a["runner"]["identity"]]), ("wrote the backup", [a.get("backup_writer", {}).get("identity")]),
             ("started it", [a.get("initiator")]), ("approved it", [x["subject"] for x in a.get("approvals", [])]),
             ("countersigned it", coordinators)]
    return next((part for part, names in parts if reviewer in names), None)
