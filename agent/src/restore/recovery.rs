//! Tells PostgreSQL what to recover: `recovery.signal` and settings.
//!
//! Settings go to `postgresql.auto.conf`, which wins over every other file.
//! Whatever an earlier recovery or `ALTER SYSTEM` left there about recovery is
//! taken out first: PostgreSQL refuses two targets. The other kinds of target are
//! set to nothing, in front of ours, so that a line in `postgresql.conf` cannot
//! add one.
//!
//! The restored cluster is a copy: it does not archive, does not follow the
//! primary that its origin followed, and does not wait for synchronous standbys
//! that follow somebody else. What was switched off is reported.
//!
//! `hot_standby` is off. With it, recovery pauses for good at the record that says
//! that the source was given more connections or workers after the base was taken
//! (`CheckRequiredParameterValues` in `xlogrecovery.c`); without it the
//! server turns everybody away until recovery is over, and then is what it should be.
//!
//! What serves recovery alone is taken out again by [`conclude`], which PostgreSQL
//! calls as its `recovery_end_command`: a standby made from the restored cluster
//! would otherwise inherit a target that it has passed, and no queries.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use holdfast_plan::restore::Replay;

use crate::durable::{self, LocalFileError};

const AUTO_CONF: &str = "postgresql.auto.conf";

/// The line before what is written here.
const OURS_BEGIN: &str = "# Written by holdfast restore.";

/// Settings that are taken out of `postgresql.auto.conf` wherever they come from.
const OURS: [&str; 15] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "hot_standby",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
];

/// Those of them that every restore sets anew, beside the target.
const SET_ANEW: [&str; 3] = ["hot_standby", "recovery_end_command", "restore_command"];

/// Whether a setting has no meaning once recovery is over.
fn serves_recovery(name: &str) -> bool {
    name.starts_with("recovery_target") || SET_ANEW.contains(&name)
}

/// Settings below whose value at the source recovery refuses to go.
const MINIMA: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// What recovery is told beside its target.
#[derive(Debug, Clone)]
pub struct RecoverySettings<'a> {
    /// Where to stop.
    pub replay: &'a Replay,
    /// The command for each WAL segment, with PostgreSQL's `%f` and `%p`.
    pub restore_command: String,
    /// The command that calls [`conclude`].
    pub recovery_end_command: String,
    /// Settings at the source, by name.
    pub source: &'a BTreeMap<String, String>,
    /// Leave archiving as it was configured at the source.
    pub keep_archiving: bool,
    /// Whether other machines may connect to it.
    pub reachable: bool,
}

/// Writes the recovery configuration into a restored data directory. Returns
/// what was changed, for a person.
///
/// # Errors
/// The file system refuses.
pub fn configure(data: &Path, settings: &RecoverySettings<'_>) -> Result<Vec<String>, LocalFileError> {
    let mut notes = Vec::new();
    let auto_conf = data.join(AUTO_CONF);
    let before = durable::read(&auto_conf)?.unwrap_or_default();
    let main = durable::read(&data.join("postgresql.conf"))?;
    let text = auto_conf_text(
        &String::from_utf8_lossy(&before),
        main.as_deref(),
        settings,
        &mut notes,
    );
    durable::replace(&auto_conf, text.as_bytes())?;
    if main.is_none() {
        write_new(
            &data.join("postgresql.conf"),
            "# The cluster's own postgresql.conf lies outside of its data directory: see the\n\
             # configuration bundle. This file stands in for it.\n",
        )?;
        notes.push("postgresql.conf lay outside of the data directory: an empty one stands in".to_owned());
    }
    for (name, content) in [
        (
            "pg_hba.conf",
            "# Stands in for the cluster's own file.\nlocal all all peer\n",
        ),
        ("pg_ident.conf", ""),
    ] {
        if write_new(&data.join(name), content)? {
            notes.push(format!(
                "{name} lay outside of the data directory: a strict one stands in"
            ));
        }
    }
    durable::remove(&data.join("standby.signal"))?;
    write_new(&data.join("recovery.signal"), "")?;
    durable::sync_directory(data)?;
    Ok(notes)
}

fn auto_conf_text(
    before: &str,
    main: Option<&[u8]>,
    settings: &RecoverySettings<'_>,
    notes: &mut Vec<String>,
) -> String {
    let mut text = String::new();
    for line in before.lines() {
        match setting(line) {
            Some((name, _)) if OURS.contains(&name.as_str()) => {
                if !serves_recovery(&name) {
                    notes.push(format!("{name} was taken out of {AUTO_CONF}"));
                }
            }
            Some((name, _)) if name == "archive_mode" && !settings.keep_archiving => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    let main = main.map(String::from_utf8_lossy).unwrap_or_default();
    let present: BTreeMap<String, String> = main
        .lines()
        .chain(text.clone().lines())
        .filter_map(setting)
        .collect();
    text.push_str(OURS_BEGIN);
    text.push('\n');
    for name in MINIMA {
        let Some(source) = settings.source.get(name).and_then(|v| v.parse::<i64>().ok()) else {
            continue;
        };
        let here = present.get(name).and_then(|v| v.parse::<i64>().ok());
        if here.is_none_or(|here| here < source) {
            text.push_str(&line(name, &source.to_string()));
        }
    }
    if !settings.keep_archiving {
        text.push_str(&line("archive_mode", "off"));
        notes.push("archive_mode is off: a copy must not write into its origin's archive".to_owned());
    }
    for name in [
        "primary_conninfo",
        "primary_slot_name",
        "synchronous_standby_names",
    ] {
        if name == "synchronous_standby_names" {
            // Wherever it had been set: it was not in the base backup for long, perhaps.
            notes.push(format!(
                "{name} is set to nothing: commits wait for no standby until you set it again"
            ));
        } else if present.contains_key(name) {
            notes.push(format!(
                "{name} is set to nothing: it belongs to the cluster's origin"
            ));
        }
        text.push_str(&line(name, ""));
    }
    if !settings.reachable {
        text.push_str(&line("listen_addresses", ""));
        notes.push("listen_addresses is empty: a copy takes connections on its own machine only".to_owned());
    }
    text.push_str(&line("hot_standby", "off"));
    text.push_str(&line("restore_command", &settings.restore_command));
    text.push_str(&line("recovery_end_command", &settings.recovery_end_command));
    for name in [
        "recovery_target",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    ] {
        text.push_str(&line(name, ""));
    }
    let replay = settings.replay;
    text.push_str(&line("recovery_target_timeline", &replay.timeline.to_string()));
    text.push_str(&line(
        "recovery_target_inclusive",
        if replay.inclusive { "on" } else { "off" },
    ));
    text.push_str(&line("recovery_target_action", "promote"));
    text.push_str(&line("recovery_target_lsn", &replay.target_lsn.to_string()));
    text
}

/// Takes out of a recovered cluster's settings what served its recovery alone.
/// The server is about to end recovery and lets nobody in yet, so nobody else
/// writes the file. A file that no restore wrote is left as it is.
///
/// # Errors
/// The file system refuses. The cluster is none the worse for it: the settings
/// stay.
pub fn conclude(data: &Path) -> Result<(), LocalFileError> {
    let auto_conf = data.join(AUTO_CONF);
    let Some(before) = durable::read(&auto_conf)? else {
        return Ok(());
    };
    let before = String::from_utf8_lossy(&before);
    let mut ours = false;
    let text: String = before
        .lines()
        .filter(|line| {
            ours |= *line == OURS_BEGIN;
            !(ours && setting(line).is_some_and(|(name, _)| serves_recovery(&name)))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    durable::replace(&auto_conf, text.as_bytes())
}

fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

/// The name (lower case) and value of a configuration line.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next().unwrap_or(""),
        None => rest
            .split(|c: char| c.is_whitespace() || c == '#')
            .next()
            .unwrap_or(""),
    };
    Some((name.to_ascii_lowercase(), value.to_owned()))
}

/// Writes a file that is not there yet. Whether it was written.
fn write_new(path: &Path, content: &str) -> Result<bool, LocalFileError> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(LocalFileError::new("create", path, e)),
        Ok(mut file) => {
            let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|e| {
                // Half a file would be taken for the cluster's own next time.
                let _ = fs::remove_file(path);
                LocalFileError::new("write", path, e)
            })?;
        }
    }
    Ok(true)
}

/// A word for a shell that `restore_command` is run by: single quotes around
/// it, and PostgreSQL's own `%` doubled.
pub fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::pg::{Lsn, TimelineId};

    fn replay() -> Replay {
        Replay {
            timeline: TimelineId::new(2).unwrap(),
            target_lsn: Lsn::new(0x30000A0),
            inclusive: false,
            from: Lsn::new(0x2000000),
            frontier: Lsn::new(0x4000000),
            stretches: Vec::new(),
            known_timelines: Vec::new(),
            bytes: 0,
            stored: 0,
            last_commit: None,
            first_left_out: None,
        }
    }

    #[test]
    fn exactly_one_target_is_left() {
        let source = BTreeMap::from([("max_connections".to_owned(), "250".to_owned())]);
        let replay = replay();
        let settings = RecoverySettings {
            replay: &replay,
            restore_command: "hold 'x' %f".to_owned(),
            recovery_end_command: "hold done".to_owned(),
            source: &source,
            keep_archiving: false,
            reachable: true,
        };
        let before = "# Do not edit\nwork_mem = '8MB'\nRecovery_Target_Time = '2020-01-01'\n\
                      recovery_target_xid='5'\nprimary_conninfo = 'host=x'\narchive_mode = 'on'\n";
        let main = b"max_connections = 100 # (change requires restart)\nsynchronous_standby_names = '*'\n";
        let mut notes = Vec::new();
        let text = auto_conf_text(before, Some(main), &settings, &mut notes);
        assert!(text.contains("work_mem = '8MB'"));
        assert!(!text.contains("2020") && !text.contains("host=x"));
        let targets: Vec<_> = text
            .lines()
            .filter_map(setting)
            .filter(|(n, v)| !v.is_empty() && n.starts_with("recovery_target"))
            .collect();
        let expected = [
            ("recovery_target_timeline", "2"),
            ("recovery_target_inclusive", "off"),
            ("recovery_target_action", "promote"),
            ("recovery_target_lsn", "0/30000A0"),
        ];
        assert_eq!(targets, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert!(text.contains("restore_command = 'hold ''x'' %f'"));
        assert!(text.contains("max_connections = '250'"));
        assert!(text.contains("archive_mode = 'off'") && !text.contains("'on'\n"));
        assert!(
            notes
                .iter()
                .any(|n| n.starts_with("synchronous_standby_names is set")),
            "{notes:?}"
        );
        // Once more over its own result: the same settings, once.
        let again = auto_conf_text(&text, Some(main), &settings, &mut Vec::new());
        assert_eq!(again.matches("recovery_target_lsn").count(), 1);
        assert_eq!(again.matches("archive_mode").count(), 1);
    }

    #[test]
    fn nothing_of_the_recovery_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let replay = replay();
        let settings = RecoverySettings {
            replay: &replay,
            restore_command: "hold %f".to_owned(),
            recovery_end_command: "hold done".to_owned(),
            source: &BTreeMap::new(),
            keep_archiving: false,
            reachable: false,
        };
        let text = auto_conf_text("work_mem = '8MB'\n", None, &settings, &mut Vec::new());
        fs::write(directory.path().join(AUTO_CONF), text).unwrap();
        conclude(directory.path()).unwrap();
        let left = fs::read_to_string(directory.path().join(AUTO_CONF)).unwrap();
        for gone in ["recovery_", "restore_command", "hot_standby"] {
            assert!(!left.contains(gone), "{gone}: {left}");
        }
        for stays in [
            "work_mem = '8MB'",
            "archive_mode = 'off'",
            "primary_conninfo = ''",
        ] {
            assert!(left.contains(stays), "{stays}: {left}");
        }
        let foreign = "restore_command = 'somebody else'\n";
        fs::write(directory.path().join(AUTO_CONF), foreign).unwrap();
        conclude(directory.path()).unwrap();
        assert_eq!(
            fs::read_to_string(directory.path().join(AUTO_CONF)).unwrap(),
            foreign
        );
    }

    #[test]
    fn shell_words_survive_the_shell_and_postgres() {
        assert_eq!(shell_word("/a b/100%/it's"), r"'/a b/100%%/it'\''s'");
    }
}
