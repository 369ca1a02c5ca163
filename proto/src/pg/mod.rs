//! PostgreSQL's own nouns, with PostgreSQL's own widths.

mod history;
mod lsn;
mod segment;

pub use history::{BadHistory, TimelineHistory, TimelineSwitch};
pub use lsn::{BadLsn, Lsn};
pub use segment::{BadSegmentName, BadSegmentSize, SegmentName, SegmentNumber, SegmentSize, TimelineId};
