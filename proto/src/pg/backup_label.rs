//! `backup_label` (`src/backend/access/transam/xlogbackup.c`): from where a
//! restored base backup has to be replayed.
//!
//! The file's text is stored and restored byte for byte; this only reads it.

use super::{Lsn, SegmentName, TimelineId};

/// What a `backup_label` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start: Lsn,
    /// The segment that holds `start`.
    pub start_segment: SegmentName,
    /// The timeline that the backup began on.
    pub start_timeline: TimelineId,
    /// Where the record of the starting checkpoint is.
    pub checkpoint: Lsn,
    /// Whether the backup was taken from a standby.
    pub from_standby: bool,
    /// When the backup began, as the server wrote it in its own time zone.
    pub start_time: String,
    /// The label that was given.
    pub label: String,
    /// Whether only changes since an earlier backup are in it (17 and later).
    pub incremental_from: Option<(Lsn, TimelineId)>,
}

/// A text that is no `backup_label`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backup_label has no valid line {0:?}: use the text that pg_backup_stop returned, unchanged")]
pub struct BadBackupLabel(&'static str);

const START_WAL: &str = "START WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const FROM: &str = "BACKUP FROM";
const START_TIME: &str = "START TIME";
const LABEL: &str = "LABEL";
const START_TIMELINE: &str = "START TIMELINE";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN";
const INCREMENTAL_TIMELINE: &str = "INCREMENTAL FROM TLI";

impl BackupLabel {
    /// Reads the text of a `backup_label`.
    ///
    /// # Errors
    /// A line that recovery needs is missing or unreadable, or the start segment
    /// is of another timeline than the backup.
    pub fn parse(text: &str) -> Result<Self, BadBackupLabel> {
        let line = |name: &'static str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
        };
        let must = |name| line(name).ok_or(BadBackupLabel(name));
        fn read<T: std::str::FromStr>(name: &'static str, value: &str) -> Result<T, BadBackupLabel> {
            value.trim().parse().map_err(|_| BadBackupLabel(name))
        }
        let timeline = |name, value: &str| {
            read(name, value).and_then(|id| TimelineId::new(id).ok_or(BadBackupLabel(name)))
        };

        let (start, rest) = must(START_WAL)?
            .split_once(" (file ")
            .ok_or(BadBackupLabel(START_WAL))?;
        let segment = rest.strip_suffix(')').ok_or(BadBackupLabel(START_WAL))?;
        let start_segment: SegmentName = read(START_WAL, segment)?;
        let start_timeline = match line(START_TIMELINE) {
            Some(value) => timeline(START_TIMELINE, value)?,
            None => start_segment.timeline(),
        };
        if start_timeline != start_segment.timeline() {
            return Err(BadBackupLabel(START_TIMELINE));
        }
        let incremental_from = match (line(INCREMENTAL_LSN), line(INCREMENTAL_TIMELINE)) {
            (None, None) => None,
            (Some(lsn), Some(id)) => Some((read(INCREMENTAL_LSN, lsn)?, timeline(INCREMENTAL_TIMELINE, id)?)),
            _ => return Err(BadBackupLabel(INCREMENTAL_LSN)),
        };
        Ok(Self {
            start: read(START_WAL, start)?,
            start_segment,
            start_timeline,
            checkpoint: read(CHECKPOINT, must(CHECKPOINT)?)?,
            from_standby: match must(FROM)?.trim() {
                "primary" => false,
                "standby" => true,
                _ => return Err(BadBackupLabel(FROM)),
            },
            start_time: must(START_TIME)?.to_owned(),
            label: line(LABEL).unwrap_or_default().to_owned(),
            incremental_from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "START WAL LOCATION: 1/9000028 (file 000000020000000100000009)\n\
        CHECKPOINT LOCATION: 1/9000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-21 22:24:11 UTC\n\
        LABEL: nightly: all\n\
        START TIMELINE: 2\n";

    #[test]
    fn reads_what_the_server_writes() {
        let label = BackupLabel::parse(TEXT).unwrap();
        assert_eq!(label.start.to_string(), "1/9000028");
        assert_eq!(label.checkpoint.to_string(), "1/9000060");
        assert_eq!(label.start_timeline.get(), 2);
        assert_eq!(label.label, "nightly: all");
        assert_eq!(label.start_time, "2026-11-21 22:24:11 UTC");
        assert!(!label.from_standby);

        let text =
            TEXT.replace("primary", "standby") + "INCREMENTAL FROM LSN: 0/28\nINCREMENTAL FROM TLI: 1\n";
        let label = BackupLabel::parse(&text).unwrap();
        assert!(label.from_standby);
        assert_eq!(label.incremental_from, Some((Lsn::new(0x28), TimelineId::FIRST)));
    }

    #[test]
    fn refuses_what_it_cannot_follow() {
        for (good, bad) in [
            ("1/9000028", "x"),
            (" (file", ""),
            ("000000020000000100000009", "short"),
            ("CHECKPOINT LOCATION", "CHECKPOINT"),
            ("START TIMELINE: 2", "START TIMELINE: 3"),
            ("START TIMELINE: 2", "START TIMELINE: 0"),
            ("primary", "elsewhere"),
        ] {
            assert!(BackupLabel::parse(&TEXT.replace(good, bad)).is_err(), "{bad}");
        }
        assert!(BackupLabel::parse("").is_err());
    }
}
