//! The one place of this crate that reads the clock.

use holdfast_proto::Timestamp;

/// The moment by this machine's clock.
pub fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
