//! What of a data directory belongs into a base backup.
//!
//! Pure rules over names, after `sendDir` in `src/backend/backup/basebackup.c`
//! (PostgreSQL 14: `replication/basebackup.c`) and `reinit.c`. Reading the
//! directory is [`super::walk`]'s business.
//!
//! Left out are: what the server rebuilds or ignores at start, what belongs to
//! the running instance, what belongs to another backup, temporary relations,
//! forks of unlogged relations other than the `_init` fork, and the notes that a
//! restore left for itself. A name that no rule knows is kept: unknown files
//! are somebody's data.

/// The directory in which a restore keeps its notes; never part of a backup.
pub const RESTORE_NOTES: &str = "holdfast_restore";

/// The one file that is read last.
pub const PG_CONTROL: &str = "global/pg_control";

/// Directories whose contents are left out while they themselves are kept.
const EMPTIED: [&str; 8] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];

/// Files that are left out wherever they lie.
const LEFT_OUT: [&str; 7] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
];

/// Files that are left out at the top: they say how *this* server started.
const LEFT_OUT_AT_TOP: [&str; 2] = ["recovery.signal", "standby.signal"];

/// Directories in which a symbolic link would hide data from a backup.
const MUST_NOT_BE_LINKED: [&str; 8] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_tblspc",
    "pg_twophase",
    "pg_xact",
];

/// A fork of a relation (`src/common/relpath.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The rows or index tuples.
    Main,
    /// The free space map.
    FreeSpace,
    /// The visibility map.
    Visibility,
    /// What an unlogged relation is reset to.
    Init,
}

/// The name of a relation's file: `16384_vm.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// The relation's file number.
    pub relation: u32,
    /// The fork.
    pub fork: Fork,
    /// Which gigabyte (by default) of the fork, from 0.
    pub segment: u32,
}

impl RelationFile {
    /// Parses a file's name; `None` when it is not that of a permanent relation.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, canonical_number(segment).filter(|n| *n > 0)?),
            None => (name, 0),
        };
        let (number, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((number, "fsm")) => (number, Fork::FreeSpace),
            Some((number, "vm")) => (number, Fork::Visibility),
            Some((number, "init")) => (number, Fork::Init),
            Some(_) => return None,
        };
        Some(Self {
            relation: canonical_number(number).filter(|n| *n > 0)?,
            fork,
            segment,
        })
    }
}

/// A decimal number without sign or leading zero.
fn canonical_number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Whether `name` is that of a temporary relation's file: `t3_16385_fsm.1`.
pub fn is_temporary_relation(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, relation)| {
            canonical_number(backend).is_some() && RelationFile::parse(relation).is_some()
        })
}

/// Whether relation files lie directly in the directory at `path`, relative to
/// the data directory: `global`, `base/5`, or a database of a tablespace
/// (`pg_tblspc/16384/PG_15_202209061/5`).
pub fn holds_relations(path: &str) -> bool {
    let words: Vec<&str> = path.split('/').collect();
    match words[..] {
        ["global"] => true,
        ["base", database] => canonical_number(database).is_some(),
        ["pg_tblspc", tablespace, version, database] => {
            canonical_number(tablespace).is_some()
                && version.starts_with("PG_")
                && canonical_number(database).is_some()
        }
        _ => false,
    }
}

/// Whether the directory at `path` is kept, but not what is in it.
pub fn is_emptied(path: &str) -> bool {
    EMPTIED.contains(&path)
}

/// Whether the entry `name` of directory `parent` (relative to the data
/// directory, empty for the top) is left out, whatever it is.
pub fn is_left_out(parent: &str, name: &str) -> bool {
    LEFT_OUT.contains(&name)
        || name.starts_with("pg_internal.init")
        || name.starts_with("pgsql_tmp")
        || (parent.is_empty() && (name == RESTORE_NOTES || LEFT_OUT_AT_TOP.contains(&name)))
        || (holds_relations(parent) && is_temporary_relation(name))
}

/// Whether a symbolic link at `path` would keep data out of the backup without
/// anybody noticing. Links directly in `pg_tblspc` are tablespaces and another
/// matter.
pub fn must_not_be_link(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or(path);
    MUST_NOT_BE_LINKED.contains(&top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn relation_files_are_known_by_name() {
        let file = |name: &str| RelationFile::parse(name).map(|f| (f.relation, f.fork, f.segment));
        assert_eq!(file("16384"), Some((16384, Fork::Main, 0)));
        assert_eq!(file("16384.12"), Some((16384, Fork::Main, 12)));
        assert_eq!(file("1259_fsm"), Some((1259, Fork::FreeSpace, 0)));
        assert_eq!(file("1259_vm.3"), Some((1259, Fork::Visibility, 3)));
        assert_eq!(file("16390_init"), Some((16390, Fork::Init, 0)));
        assert_eq!(file("4294967295"), Some((u32::MAX, Fork::Main, 0)));
        for other in [
            "PG_VERSION",
            "pg_filenode.map",
            "16384.0",
            "16384.",
            "016384",
            "0",
            "16384_x",
            "t3_16384",
            "4294967296",
            "16384.01",
            "+5",
            "",
        ] {
            assert_eq!(file(other), None, "{other}");
        }
        for temporary in ["t3_16384", "t12_16384_fsm", "t0_5.1"] {
            assert!(is_temporary_relation(temporary), "{temporary}");
        }
        for kept in ["t3", "t_16384", "tx_16384", "table", "t3_16384_old"] {
            assert!(!is_temporary_relation(kept), "{kept}");
        }
    }

    #[test]
    fn relations_lie_in_databases() {
        for yes in [
            "global",
            "base/1",
            "base/16384",
            "pg_tblspc/16385/PG_15_202209061/5",
        ] {
            assert!(holds_relations(yes), "{yes}");
        }
        for no in [
            "",
            "base",
            "base/pgsql_tmp",
            "pg_tblspc/16385",
            "pg_tblspc/16385/PG_15_202209061",
            "log",
            "base/1/2",
        ] {
            assert!(!holds_relations(no), "{no}");
        }
    }

    #[test]
    fn leaves_out_what_the_server_rebuilds() {
        for (parent, name) in [
            ("", "postmaster.pid"),
            ("", "postmaster.opts"),
            ("", "backup_label"),
            ("", "holdfast_restore"),
            ("", "standby.signal"),
            ("", "recovery.signal"),
            ("", "current_logfiles.tmp"),
            ("base/5", "pg_internal.init"),
            ("base/5", "pg_internal.init.1234"),
            ("base", "pgsql_tmp"),
            ("base/pgsql_tmp", "pgsql_tmp1.0"),
            ("base/5", "t3_16385"),
            ("pg_tblspc/16385/PG_15_202209061", "pgsql_tmp"),
        ] {
            assert!(is_left_out(parent, name), "{parent}/{name}");
        }
        for (parent, name) in [
            ("", "PG_VERSION"),
            ("", "postgresql.auto.conf"),
            ("", "backup_label.old"),
            ("", "current_logfiles"),
            ("", "t3_16385"),
            ("base/5", "16385"),
            ("base/5", "pg_filenode.map"),
            ("log", "holdfast_restore"),
        ] {
            assert!(!is_left_out(parent, name), "{parent}/{name}");
        }
        assert!(is_emptied("pg_wal") && is_emptied("pg_replslot") && !is_emptied("pg_xact"));
        assert!(
            must_not_be_link("base/5") && must_not_be_link("pg_xact") && !must_not_be_link("postgresql.conf")
        );
    }

    proptest! {
        #[test]
        fn names_never_panic(name in "[a-z0-9_./]{0,16}") {
            let _ = RelationFile::parse(&name);
            let _ = is_left_out("base/5", &name);
            let _ = holds_relations(&name);
        }

        #[test]
        fn numbers_round_trip(relation in 1u32.., segment in 1u32..) {
            let name = format!("{relation}_fsm.{segment}");
            prop_assert_eq!(
                RelationFile::parse(&name),
                Some(RelationFile { relation, fork: Fork::FreeSpace, segment })
            );
        }
    }
}
