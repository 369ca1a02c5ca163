"""A filestore as an ERP keeps it: files named by their SHA-1, in a folder for its
first two digits; half of them text that compresses, half scans that do not."""

import hashlib
import random

TEXT = b"excavation, formwork, reinforcement, concrete C25/30, curing, lot %d, quantity %d m3, delivered on day %d\n"


def content(n, draw):
    """The bytes of file `n`: 300 bytes to 200 kB, 7.5 kB in the mean."""
    size = min(int(draw.lognormvariate(8.3, 1.05)) + 300, 200_000)
    if n % 2:
        return draw.randbytes(size)
    lines = [TEXT % (draw.randrange(977), draw.randrange(4000), draw.randrange(365)) for _ in range(1 + size // 90)]
    return b"".join(lines)[:size]


def fill(root, files):
    """Writes `files` files below `root`; the same ones every time."""
    draw = random.Random(20261127)
    for shard in range(256):
        (root / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
    total = 0
    for n in range(files):
        data = content(n, draw)
        name = hashlib.sha1(data).hexdigest()
        with open(root / name[:2] / name, "wb") as file:
            file.write(data)
        total += len(data)
    return total


def add(root, files, seed):
    """Adds new files, as a day's work does."""
    draw = random.Random(seed)
    for n in range(files):
        data = content(n, draw)
        name = hashlib.sha1(data).hexdigest()
        (root / name[:2] / name).write_bytes(data)


def listing(root):
    """Every file's name and digest of its content."""
    found = {}
    for path in root.glob("??/*"):
        found[str(path.relative_to(root))] = hashlib.blake2b(path.read_bytes()).digest()
    return found
