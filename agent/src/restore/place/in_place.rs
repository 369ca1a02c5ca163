//! What an earlier run of the same restore left in place.
//!
//! A file with a digest of its own is whole or is written again. Of a file
//! without one, each extent is known by its keyed identity, so a large relation
//! goes on where it stopped. Without an index key there is no telling, and
//! everything is written again.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use holdfast_proto::manifest::Extent;
use holdfast_repository::seal::IndexKey;

use super::{Begun, PlaceError, Wanted, local, no_follow};
use crate::progress::Meter;

/// Whether a file has the size and digest that it should.
pub(super) fn is_whole(wanted: &Wanted) -> Result<bool, PlaceError> {
    let path = &wanted.path;
    let mut file = match OpenOptions::new().read(true).custom_flags(no_follow()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(local("open", path)(e)),
    };
    let meta = file.metadata().map_err(local("examine", path))?;
    if !meta.is_file() || meta.len() != wanted.size {
        return Ok(false);
    }
    let Some(expected) = wanted.b3 else {
        return Ok(true);
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(local("read", path))? {
            0 => break,
            n => drop(hasher.update(&buffer[..n])),
        }
    }
    Ok(hasher.finalize().as_bytes() == expected.as_bytes())
}

/// What an earlier run left to be done, and how many files it finished. What is
/// in place is known by the file's digest, or by each extent's keyed identity.
pub(super) fn without_finished(
    files: Vec<Wanted>,
    keys: &[IndexKey],
    meter: &Meter,
) -> Result<(Vec<Begun>, u64), PlaceError> {
    let mut left = Vec::new();
    let mut kept = 0;
    for wanted in files {
        let done = match wanted.b3 {
            Some(_) => vec![is_whole(&wanted)?; wanted.extents.len().max(1)],
            None => extents_in_place(&wanted, keys)?,
        };
        let in_place: u64 = wanted
            .extents
            .iter()
            .zip(&done)
            .filter(|(_, d)| **d)
            .map(|(x, _)| u64::from(x.3))
            .sum();
        meter.advance(in_place);
        if !done.is_empty() && done.iter().all(|d| *d) {
            kept += 1;
        } else {
            let some = done.iter().any(|d| *d);
            left.push(Begun::new(wanted, if some { done } else { Vec::new() }));
        }
    }
    Ok((left, kept))
}

/// For each extent whether its bytes are in place; nothing when there is no
/// such file, or no key to tell by.
fn extents_in_place(wanted: &Wanted, keys: &[IndexKey]) -> Result<Vec<bool>, PlaceError> {
    let path = &wanted.path;
    let file = match OpenOptions::new().read(true).custom_flags(no_follow()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(local("open", path)(e)),
    };
    let meta = file.metadata().map_err(local("examine", path))?;
    if !meta.is_file() || meta.len() != wanted.size || keys.is_empty() || wanted.extents.is_empty() {
        return Ok(Vec::new());
    }
    let mut buffer = Vec::new();
    let mut done = Vec::with_capacity(wanted.extents.len());
    for (to, Extent(_, _, _, length, id)) in wanted.places() {
        buffer.resize(*length as usize, 0);
        file.read_exact_at(&mut buffer, to).map_err(local("read", path))?;
        done.push(keys.iter().any(|key| key.content_id(&buffer) == *id));
    }
    Ok(done)
}
