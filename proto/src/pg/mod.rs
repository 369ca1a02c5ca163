//! PostgreSQL's own nouns, with PostgreSQL's own widths.

mod backup_label;
mod control;
mod crc32c;
mod decode;
mod event;
mod history;
mod lsn;
mod page;
mod record;
mod segment;
mod streaming;

pub use backup_label::{BackupLabel, BadBackupLabel};
pub use control::{BadControlFile, CONTROL_FILE_SIZE, ClusterState, ControlFile};
pub use decode::TransactionId;
pub use event::{BadWal, WalEvent};
pub use history::{BadHistory, TimelineHistory, TimelineSwitch};
pub use lsn::{BadLsn, Lsn};
pub use page::{BadPage, PageHeader, PgMajor, SegmentIdentity, WAL_PAGE_SIZE, validate_segment_header};
pub use record::{PREPARED_CAP, WalReader};
pub use segment::{BadSegmentName, BadSegmentSize, SegmentName, SegmentNumber, SegmentSize, TimelineId};
pub use streaming::{BadStreamMessage, StandbyStatus, StreamMessage, WAL_DATA_HEADER};
