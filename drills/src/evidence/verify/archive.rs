//! An export's directory as a reader meets it: files, trust chain and log.
//!
//! What is read here is checked here: the chain leads to the root, the log's
//! hashes lead to its checkpoint, and a coordinator has signed that.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use holdfast_proto::names::ClusterId;
use holdfast_proto::record::{KeyAlgorithm, TrustBody, TrustRole};
use holdfast_proto::{Fingerprint, Sha256Digest, envelope};
use holdfast_repository::trust::{SignerRefused, Trust, TrustedKey};

use crate::evidence::export::read_trust;
use crate::evidence::tlog::tiles::{
    LogFile, bundle_paths, hash_tiles, leaf_tile_paths, read_bundle, read_tile,
};
use crate::evidence::tlog::{SignedCheckpoint, Tree};

/// The largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// A step's value and what was seen, or why it failed.
pub(super) type Found<T> = Result<(T, String), String>;

/// An export's directory, and which of its files were checked.
pub(super) struct Archive {
    dir: PathBuf,
    checked: RefCell<BTreeSet<String>>,
}

impl Archive {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            checked: RefCell::default(),
        }
    }

    /// A file, for somebody who checks what is in it.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let bytes = self.glance(path)?;
        self.checked.borrow_mut().insert(path.to_owned());
        Ok(bytes)
    }

    /// Whether a file is `expected`, which makes it a checked one.
    pub(super) fn matches(&self, path: &str, expected: &[u8]) -> bool {
        let same = self.glance(path).is_ok_and(|bytes| bytes == expected);
        if same {
            self.checked.borrow_mut().insert(path.to_owned());
        }
        same
    }

    /// The files that nobody checked, in order.
    pub(super) fn unchecked(&self) -> Result<Vec<String>, String> {
        let mut rest = BTreeSet::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let at = self.dir.join(&folder);
            let fail = |e: std::io::Error| format!("{} cannot be listed: {e}", at.display());
            for entry in fs::read_dir(&at).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let path = format!("{folder}{}", entry.file_name().to_string_lossy());
                match entry.file_type().map_err(fail)?.is_dir() {
                    true => folders.push(path + "/"),
                    false => drop(rest.insert(path)),
                }
            }
        }
        let checked = self.checked.borrow();
        Ok(rest.difference(&checked).cloned().collect())
    }

    fn glance(&self, path: &str) -> Result<Vec<u8>, String> {
        let at = self.dir.join(path);
        let fail = |e: std::io::Error| format!("{path} cannot be read ({e}): export the evidence again");
        let size = fs::metadata(&at).map_err(fail)?.len();
        if size > MAX_FILE {
            return Err(format!(
                "{path} has {size} bytes, which no export has: export the evidence again"
            ));
        }
        fs::read(&at).map_err(fail)
    }

    /// Names in a folder, sorted; none when it is absent.
    pub(super) fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let fail = |e: std::io::Error| format!("{folder}/ cannot be listed: {e}");
        let mut names = Vec::new();
        match fs::read_dir(self.dir.join(folder)) {
            Ok(entries) => {
                for entry in entries {
                    names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.dir.join(path).exists()
    }
}

pub(super) fn say(e: impl fmt::Display) -> String {
    e.to_string()
}

pub(super) fn trust_chain(dir: &Archive, root: Option<Fingerprint>) -> Found<(Trust, Vec<Vec<u8>>)> {
    let names = dir.names("trust")?;
    let mut records = Vec::new();
    for (n, name) in names.iter().enumerate() {
        if *name != format!("{n:016}") {
            return Err(format!(
                "trust/{name} stands where record {n} belongs: the chain has a hole"
            ));
        }
        records.push(dir.read(&format!("trust/{name}"))?);
    }
    let first = records
        .first()
        .ok_or("there are no trust records in it: either it is no export, or it must be exported again")?;
    let own = || {
        let parts = envelope::split(first).map_err(say)?;
        parts.header::<TrustBody>().map_err(say)?;
        let signatures = parts.signatures().map_err(say)?;
        signatures
            .first()
            .map(|s| s.key)
            .ok_or_else(|| "record 0 is not signed".to_owned())
    };
    let root = match root {
        Some(root) => root,
        None => own()?,
    };
    let trust = read_trust(root, &records).map_err(say)?;
    let detail = format!("{} records from root {root}", trust.length());
    Ok(((trust, records), detail))
}

/// The log as the export holds it.
pub(super) struct Log {
    pub(super) head: SignedCheckpoint,
    pub(super) tree: Tree,
    /// Digest and size of every checkpoint that the tree bears out.
    pub(super) borne_out: Vec<(Sha256Digest, u64)>,
    pub(super) entries: LogEntries,
}

/// Which of the log's entries the export holds, beside the drill's own.
pub(super) enum LogEntries {
    /// None: their hashes alone.
    Hashes,
    /// One tenant's, in `entries/`.
    Some,
    /// All, in order; they are those that the hashes are of.
    Whole(Vec<Vec<u8>>),
}

pub(super) fn read_log(dir: &Archive, trust: &Trust) -> Found<Log> {
    let bytes = dir.read("checkpoint")?;
    let head = SignedCheckpoint::parse(&bytes).map_err(say)?;
    let size = head.checkpoint().size;
    let mut leaves = Vec::new();
    for path in leaf_tile_paths(size) {
        let tile = read_tile(&dir.read(&path)?).ok_or_else(|| format!("{path} is no tile"))?;
        leaves.extend(tile);
    }
    let tree = Tree::from_leaf_hashes(leaves);
    if tree.len() != size || tree.root() != head.checkpoint().root {
        return Err(
            "the log's hashes do not lead to its checkpoint: a tile or the checkpoint was changed".into(),
        );
    }
    for LogFile { path, bytes } in hash_tiles(&tree) {
        if dir.read(&path)? != bytes {
            return Err(format!("{path} does not follow from the tiles below it"));
        }
    }
    let mut earlier_heads = Vec::new();
    let mut borne_out = vec![(Sha256Digest::of(&bytes), size)];
    for name in dir.names("checkpoints")? {
        let bytes = dir.read(&format!("checkpoints/{name}"))?;
        let earlier = SignedCheckpoint::parse(&bytes).map_err(say)?;
        extends(&tree, &head, &earlier).map_err(|e| format!("checkpoints/{name}: {e}"))?;
        if name != earlier.checkpoint().size.to_string() {
            return Err(format!(
                "checkpoints/{name} is of another size than its name says"
            ));
        }
        borne_out.push((Sha256Digest::of(&bytes), earlier.checkpoint().size));
        earlier_heads.push(earlier);
    }
    for earlier in &earlier_heads {
        checkpoint_key(trust, earlier, &borne_out)?;
    }
    let key = checkpoint_key(trust, &head, &borne_out)?;
    let detail = format!(
        "{} entries of {}, signed by {}",
        size,
        head.checkpoint().origin,
        key.name
    );
    let mut entries = match dir.has("entries") {
        true => LogEntries::Some,
        false => LogEntries::Hashes,
    };
    if dir.has("tile/entries") {
        let mut all = Vec::new();
        for path in bundle_paths(size) {
            all.extend(read_bundle(&dir.read(&path)?).ok_or_else(|| format!("{path} is no entry bundle"))?);
        }
        if Tree::from_entries(&all) != tree {
            return Err("the entries in tile/entries are not those that the log's hashes are of".into());
        }
        entries = LogEntries::Whole(all);
    }
    Ok((
        Log {
            head,
            tree,
            borne_out,
            entries,
        },
        detail,
    ))
}

/// That the log grew from `earlier` into `head`.
pub(super) fn extends(
    tree: &Tree,
    head: &SignedCheckpoint,
    earlier: &SignedCheckpoint,
) -> Result<(), String> {
    let (now, then) = (head.checkpoint(), earlier.checkpoint());
    if then.origin != now.origin {
        return Err(format!("it is of the log {}, not of {}", then.origin, now.origin));
    }
    match tree.root_at(then.size) {
        Ok(root) if root == then.root => Ok(()),
        Ok(_) => Err("the log's head does not continue it: entries were changed or dropped since".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The coordinator's key that signed a checkpoint, if it is believed.
pub(super) fn checkpoint_key<'a>(
    trust: &'a Trust,
    checkpoint: &SignedCheckpoint,
    borne_out: &[(Sha256Digest, u64)],
) -> Result<&'a TrustedKey, String> {
    let bytes = Sha256Digest::of(&checkpoint.to_bytes());
    let size = checkpoint.checkpoint().size;
    let mut why = "no coordinator's Ed25519 key of the trust chain has signed the checkpoint".to_owned();
    for (fingerprint, key) in trust.keys() {
        if key.role != TrustRole::Coordinator || key.algorithm != KeyAlgorithm::Ed25519 {
            continue;
        }
        if checkpoint.verify(&key.verifying).is_ok() {
            match believed(
                trust,
                fingerprint,
                &[TrustRole::Coordinator],
                None,
                bytes,
                borne_out,
                size,
            ) {
                Ok(key) => return Ok(key),
                Err(e) => why = e.to_string(),
            }
        }
    }
    Err(why)
}

/// Whether `signer` is believed for an object of the digest `sha256`. A revoked
/// key still is, if the revocation names the object, or a checkpoint that the
/// tree bears out and that had at least `size` entries.
pub(super) fn believed<'a>(
    trust: &'a Trust,
    signer: &Fingerprint,
    roles: &[TrustRole],
    cluster: Option<&ClusterId>,
    sha256: Sha256Digest,
    borne_out: &[(Sha256Digest, u64)],
    size: u64,
) -> Result<&'a TrustedKey, SignerRefused> {
    let refused = match trust.check_object(signer, roles, cluster, &sha256) {
        Err(refused @ SignerRefused::Revoked { .. }) => refused,
        other => return other,
    };
    borne_out
        .iter()
        .filter(|(_, n)| *n >= size)
        .find_map(|(digest, _)| trust.check_object(signer, roles, cluster, digest).ok())
        .ok_or(refused)
}
