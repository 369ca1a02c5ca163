"""The transparency log: RFC 6962 hashes, C2SP signed notes and proofs. Part of
verify.py; Python's standard library alone, pure functions."""
import base64, hashlib

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

def proof(data, name, entry):
    """Checks an entry's audit path; returns its index and the checkpoint it leads to."""
    head, checkpoint = data.decode().split("\n\n", 1)
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
