//! What a witness vouches for: that a log only grew.
//!
//! A witness is somebody outside: a customer, an auditor. It keeps the last
//! checkpoint that it cosigned, and cosigns another one only when the tree under
//! that one begins with the tree under its own. It sees hashes alone, never what
//! an entry says. Without its memory it would vouch for anything: its state is
//! as precious as its key, and is written before a cosignature leaves it.
//!
//! Pure; [`crate::witness`] reads and writes.

use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use super::tlog::merkle::ProofError;
use super::tlog::{Checkpoint, LogOrigin, Tree, verify_consistency};

/// What a witness remembers of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The log.
    pub log: LogOrigin,
    /// Entries under the last checkpoint cosigned.
    pub size: u64,
    /// Its root.
    pub root: Sha256Digest,
    /// When it was cosigned.
    pub at: Timestamp,
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another log.
    #[error("this is the log {found} and this witness watches {watched}: keep a state file for each log")]
    OtherLog {
        /// The log offered.
        found: LogOrigin,
        /// The log known.
        watched: LogOrigin,
    },
    /// The log has fewer entries than were seen.
    #[error(
        "REFUSED: the log has {found} entries and had {seen} at {at}: it was cut back. Keep the state file, it is the proof"
    )]
    Shrunk {
        /// Entries offered.
        found: u64,
        /// Entries seen.
        seen: u64,
        /// When they were.
        at: Timestamp,
    },
    /// What was seen is not how the log begins.
    #[error(
        "REFUSED: the log of {found} entries does not begin with the {seen} seen at {at}: it was rewritten. Keep the state file, it is the proof"
    )]
    Rewritten {
        /// Entries offered.
        found: u64,
        /// Entries seen.
        seen: u64,
        /// When they were.
        at: Timestamp,
    },
    /// The hashes do not lead to the checkpoint.
    #[error("the log's hashes do not lead to its checkpoint of {0} entries: fetch both again")]
    Hashes(u64),
}

/// Decides whether a witness that has `seen` a log cosigns `checkpoint`, and what
/// it remembers then. `tree` holds the leaf hashes that the log offers.
pub fn consider(
    seen: Option<&Seen>,
    checkpoint: &Checkpoint,
    tree: &Tree,
    now: Timestamp,
) -> Result<Seen, Refusal> {
    let found = checkpoint.size;
    if tree.root_at(found) != Ok(checkpoint.root) {
        return Err(Refusal::Hashes(found));
    }
    if let Some(seen) = seen {
        if seen.log != checkpoint.origin {
            return Err(Refusal::OtherLog {
                found: checkpoint.origin.clone(),
                watched: seen.log.clone(),
            });
        }
        let consistent = tree
            .consistency_proof(seen.size, found)
            .and_then(|proof| verify_consistency(seen.size, found, &seen.root, &checkpoint.root, &proof));
        let (seen, at) = (seen.size, seen.at);
        match consistent {
            Ok(()) => {}
            Err(ProofError::Shrunk { .. }) => return Err(Refusal::Shrunk { found, seen, at }),
            Err(_) => return Err(Refusal::Rewritten { found, seen, at }),
        }
    }
    Ok(Seen {
        log: checkpoint.origin.clone(),
        size: found,
        root: checkpoint.root,
        at: now,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::at;
    use super::*;

    fn log(entries: &[&str]) -> (Checkpoint, Tree) {
        let tree = Tree::from_entries(entries);
        let origin = "example.com/log".parse().unwrap();
        (Checkpoint::new(origin, tree.len(), tree.root()), tree)
    }

    #[test]
    fn a_log_that_grows_is_cosigned() {
        let mut seen = None;
        let all: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        for size in [1, 1, 2, 3, 7, 8, 20, 40] {
            let (head, tree) = log(&all[..size]);
            seen = Some(consider(seen.as_ref(), &head, &tree, at("12:00:00")).unwrap());
        }
        assert_eq!(seen.unwrap().size, 40);
    }

    #[test]
    fn a_log_that_was_cut_or_rewritten_is_not() {
        let (head, tree) = log(&["a", "b", "c", "d", "e"]);
        let seen = consider(None, &head, &tree, at("12:00:00")).unwrap();
        let check = |entries: &[&str]| {
            let (head, tree) = log(entries);
            consider(Some(&seen), &head, &tree, at("13:00:00"))
        };
        assert!(matches!(
            check(&["a", "b", "c", "d"]),
            Err(Refusal::Shrunk { .. })
        ));
        assert!(matches!(
            check(&["a", "b", "c", "d", "x"]),
            Err(Refusal::Rewritten { .. })
        ));
        assert!(matches!(
            check(&["a", "x", "c", "d", "e", "f"]),
            Err(Refusal::Rewritten { .. })
        ));
        assert!(matches!(
            check(&["b", "a", "c", "d", "e", "f", "g"]),
            Err(Refusal::Rewritten { .. })
        ));
        check(&["a", "b", "c", "d", "e", "f"]).unwrap();

        let (_, other) = log(&["a", "b", "c", "d", "x"]);
        assert_eq!(
            consider(Some(&seen), &head, &other, at("13:00:00")),
            Err(Refusal::Hashes(5))
        );
        let mut elsewhere = head.clone();
        elsewhere.origin = "example.com/other".parse().unwrap();
        assert!(matches!(
            consider(Some(&seen), &elsewhere, &tree, at("13:00:00")),
            Err(Refusal::OtherLog { .. })
        ));
    }
}
