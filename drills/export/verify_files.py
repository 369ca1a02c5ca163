"""The files of an export: reading them, and knowing which nothing signed vouches
for. Part of verify.py; Python's standard library alone."""
import base64, os, pathlib, subprocess, tempfile
from verify_log import hexsha, need, tree_root

ED25519 = bytes.fromhex("302a300506032b6570032100")

class Export:
    """A folder. What is read is checked, by whoever reads it or by `loose`."""
    def __init__(self, folder):
        self.folder, self.checked, self.signed = pathlib.Path(folder), set(), {}

    def has(self, path): return (self.folder / path).is_dir()

    def read(self, path):
        data = (self.folder / path).read_bytes()
        self.checked.add(path)
        return data

    def names(self, folder):
        return sorted(os.listdir(self.folder / folder)) if self.has(folder) else []

    def tiles(self, kind, size):
        for n in range((size + 255) // 256):
            path, rest, width = "%03d" % (n % 1000), n // 1000, min(256, size - 256 * n)
            while rest:
                path, rest = "x%03d/%s" % (rest % 1000, path), rest // 1000
            yield self.read("tile/%s/%s" % (kind, path + (".p/%d" % width if width < 256 else "")))

    def leaf_hashes(self, size):
        """The hashes of the log's entries; those of the tiles above must follow from them."""
        data, level = b"".join(self.tiles("0", size)), 0
        leaves = row = [data[i:i + 32] for i in range(0, len(data), 32)]
        while len(row) >= 256:
            row, level = [tree_root(row[i:i + 256]) for i in range(0, len(row) // 256 * 256, 256)], level + 1
            above = b"".join(self.tiles(str(level), len(row)))
            need(above == b"".join(row), "tile/%d does not follow from the tiles below it" % level)
        return leaves

    def verify(self, key, message, signature, what):
        """That the holder of `key` signed `message`, by the openssl command."""
        text = base64.b64encode(key["der"]).decode()
        pem = "".join(x + "\n" for x in ["-----BEGIN PUBLIC KEY-----"] + [text[i:i + 64] for i in range(0, len(text), 64)]
                      + ["-----END PUBLIC KEY-----"]).encode()
        with tempfile.TemporaryDirectory() as d:
            k, m, s = paths = [str(pathlib.Path(d, name)) for name in ("key", "message", "signature")]
            [pathlib.Path(path).write_bytes(data) for path, data in zip(paths, (pem, message, signature))]
            ed25519 = ["pkeyutl", "-verify", "-pubin", "-inkey", k, "-rawin", "-in", m, "-sigfile", s]
            args = ed25519 if key["der"].startswith(ED25519) else ["dgst", "-sha256", "-verify", k, "-signature", s, m]
            done = subprocess.run(["openssl"] + args, capture_output=True)
        need(done.returncode == 0, "the signature of %s on %s does not hold" % (key["name"], what))
        name, by = what.replace("trust record ", "trust-").replace(".entry", ""), "%s-%s" % (key.get("role"), hexsha(key["der"])[:8])
        self.signed.update({"%s.signed" % name: message, "%s.%s.sig" % (name, by): signature, "%s.pem" % by: pem})

    def loose(self):
        """The files in openssl/ are the keys, messages and signatures that were verified, by their names."""
        for name in self.names("openssl"):
            need(self.read("openssl/" + name) == self.signed.get(name), "openssl/%s is not what was signed: it was changed" % name)

    def unchecked(self):
        """The files that were not read, in order; nothing signed vouches for them."""
        found = [pathlib.Path(at, name).relative_to(self.folder).as_posix()
                 for at, _, names in os.walk(self.folder) for name in names]
        return sorted(set(found) - self.checked)
