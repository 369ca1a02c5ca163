//! Reads `pg_control` of a running server: again until its checksum holds.
//!
//! The server writes the file in one piece of 8 KiB, but a reader may see it
//! half written.

use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use holdfast_proto::pg::{BadControlFile, ControlFile};

use super::rules::PG_CONTROL;

/// How often a torn file is read again, and the pause in between.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Why `pg_control` cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be read.
    #[error("{PG_CONTROL} cannot be read: let the agent's user read the data directory")]
    Unreadable(#[from] io::Error),
    /// It stays damaged.
    #[error("{PG_CONTROL} was not valid in {ATTEMPTS} attempts: the file is damaged at the source")]
    Damaged(#[source] BadControlFile),
}

/// The control file in `directory` and its bytes.
pub fn read(directory: &Path) -> Result<(ControlFile, Vec<u8>), ControlError> {
    let mut attempt = 0;
    loop {
        let bytes = std::fs::read(directory.join(PG_CONTROL))?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            Err(error) => {
                attempt += 1;
                if attempt >= ATTEMPTS {
                    return Err(ControlError::Damaged(error));
                }
                sleep(PAUSE);
            }
        }
    }
}
